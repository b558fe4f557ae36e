//! Everything that differs between wasm32 and native builds, and nothing else.
//!
//! Invariant: no other module names a target architecture, except the storage backend that only exists in a browser
//! and the wasm surface. [`SendFuture`] is the one place where a JavaScript future is declared `Send`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Milliseconds since the Unix epoch, by the wall clock. It can run backwards.
pub fn now_ms() -> u64 {
    web_time::SystemTime::now()
        .duration_since(web_time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Microseconds since the Unix epoch, by the wall clock.
pub fn now_us() -> i64 {
    web_time::SystemTime::now()
        .duration_since(web_time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// A monotonic clock for durations.
pub use web_time::Instant;

/// A future or value that holds JavaScript objects, declared `Send` and `Sync`.
///
/// DataFusion and `async_trait` ask for `Send`. On wasm32 without threads there is one thread, so nothing can be
/// sent to another; on native targets the wrapper is only given values that are `Send` already.
pub struct SendFuture<T>(T);

#[cfg(target_arch = "wasm32")]
impl<T> SendFuture<T> {
    /// Wraps a value of the one wasm thread.
    pub fn new(inner: T) -> Self {
        Self(inner)
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl<T: Send> SendFuture<T> {
    /// Wraps a value that is `Send` anyway.
    pub fn new(inner: T) -> Self {
        Self(inner)
    }
}

impl<T> std::ops::Deref for SendFuture<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

// SAFETY: wasm32-unknown-unknown is built without the atomics feature: it has one thread, so a value never
// crosses to another one.
#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics")))]
unsafe impl<T> Send for SendFuture<T> {}
// SAFETY: as above.
#[cfg(all(target_arch = "wasm32", not(target_feature = "atomics")))]
unsafe impl<T> Sync for SendFuture<T> {}

impl<F: Future> Future for SendFuture<F> {
    type Output = F::Output;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the inner future is never moved out of the pinned wrapper.
        unsafe { self.map_unchecked_mut(|s| &mut s.0) }.poll(cx)
    }
}
