//! Everything that differs between wasm32 and native builds, and nothing else.
//!
//! Invariant: no other module names a target architecture, except the storage backend that only exists in a browser
//! and the wasm surface. [`SendFuture`] is the one place where a JavaScript future is declared `Send`.

#[cfg(target_arch = "wasm32")]
pub mod tasks;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Whether memory is what a page may have rather than what a machine has.
pub const SMALL_MEMORY: bool = cfg!(target_arch = "wasm32");

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

/// Lets the host run what is waiting (messages, timers) before the work goes on.
#[cfg(target_arch = "wasm32")]
pub async fn yield_to_host() {
    use wasm_bindgen::JsCast;
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        let set_timeout = js_sys::Reflect::get(&js_sys::global(), &"setTimeout".into());
        match set_timeout.ok().and_then(|f| f.dyn_into::<js_sys::Function>().ok()) {
            Some(set_timeout) => {
                let _ = set_timeout.call2(&js_sys::global(), &resolve, &0.into());
            }
            None => {
                let _ = resolve.call0(&wasm_bindgen::JsValue::UNDEFINED);
            }
        }
    });
    let _ = SendFuture::new(wasm_bindgen_futures::JsFuture::from(promise)).await;
}

/// Work that somebody waits for goes on for so long before the host may run what is waiting.
const TURN_MS: u128 = 40;
/// Work beside statements, of which each yield lets one begin.
const SHORT_TURN_MS: u128 = 20;

/// So many pieces of work are done before the clock of the first turn starts: a statement by key has two.
const UNTIMED: usize = 2;

/// Long work in turns: between two of them the host may run what is waiting. The clock of the first one starts after a
/// few pieces of work, so what has no more never asks for the time.
#[derive(Debug)]
pub struct Turns {
    pieces: usize,
    began: Option<Instant>,
    last_ms: u128,
}

impl Turns {
    /// Begins the first turn.
    pub fn begin() -> Self {
        Self { pieces: 0, began: None, last_ms: TURN_MS }
    }

    /// Begins the first of shorter turns, for work beside statements.
    pub fn begin_short() -> Self {
        Self { pieces: 0, began: None, last_ms: SHORT_TURN_MS }
    }

    /// Lets the host run what is waiting if this turn has lasted long enough, and begins the next one.
    pub async fn pass(&mut self) {
        match self.began {
            Some(began) if began.elapsed().as_millis() > self.last_ms => {
                yield_to_host().await;
                self.began = Some(Instant::now());
            }
            Some(_) => {}
            None if self.pieces < UNTIMED => self.pieces += 1,
            None => self.began = Some(Instant::now()),
        }
    }
}

/// Waits for so many milliseconds, without keeping a process alive that has nothing else to do.
#[cfg(target_arch = "wasm32")]
pub async fn idle_for(ms: u64) {
    use wasm_bindgen::JsCast;
    let promise = js_sys::Promise::new(&mut |resolve, _| {
        let function = |object: &wasm_bindgen::JsValue, name: &str| {
            js_sys::Reflect::get(object, &name.into()).ok().and_then(|f| f.dyn_into::<js_sys::Function>().ok())
        };
        // Without a timer it never ends.
        let Some(set_timeout) = function(&js_sys::global(), "setTimeout") else { return };
        if let Ok(timer) = set_timeout.call2(&js_sys::global(), &resolve, &wasm_bindgen::JsValue::from_f64(ms as f64))
            && timer.is_object()
            && let Some(unref) = function(&timer, "unref")
        {
            let _ = unref.call0(&timer);
        }
    });
    let _ = SendFuture::new(wasm_bindgen_futures::JsFuture::from(promise)).await;
}

/// Lets the host run what is waiting: natively, nothing waits for this thread.
#[cfg(not(target_arch = "wasm32"))]
pub async fn yield_to_host() {}

/// Does work after so many milliseconds, beside everything else.
#[cfg(target_arch = "wasm32")]
pub fn later(ms: u64, work: impl Future<Output = ()> + Send + 'static) {
    wasm_bindgen_futures::spawn_local(async move {
        idle_for(ms).await;
        work.await;
    });
}

/// Work that is to be done later: natively nothing calls back, and it is not done.
#[cfg(not(target_arch = "wasm32"))]
pub fn later(_ms: u64, _work: impl Future<Output = ()> + Send + 'static) {}
