//! What the global scope of a page or worker offers besides IndexedDB: a timer and the storage estimate.
//!
//! Invariant: everything here is optional to the host. What is missing is `None` or never happens; nothing fails.

use js_sys::{Function, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(catch, js_name = setTimeout)]
    fn set_timeout(handler: &Function, milliseconds: i32) -> Result<JsValue, JsValue>;
}

/// Waits. Without a timer in the global scope it waits for ever, so it only ever bounds another wait.
pub(in crate::storage) async fn sleep(milliseconds: i32) {
    let promise: Promise = Promise::new(&mut |resolve, _reject| {
        let _ = set_timeout(resolve.unchecked_ref(), milliseconds);
    });
    let _ = JsFuture::from(promise).await;
}

/// What `navigator.storage.estimate()` says of this origin.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Estimate {
    /// Bytes that the origin uses, databases and everything else.
    pub usage: Option<u64>,
    /// Bytes that it may use.
    pub quota: Option<u64>,
}

/// Asks the host for usage and quota. Insecure contexts and old browsers do not tell.
pub(super) async fn estimate() -> Estimate {
    let Some(promise) = estimate_promise() else {
        return Estimate::default();
    };
    let Ok(answer) = JsFuture::from(promise).await else {
        return Estimate::default();
    };
    let number = |name: &str| Some(Reflect::get(&answer, &name.into()).ok()?.as_f64()? as u64);
    Estimate { usage: number("usage"), quota: number("quota") }
}

fn estimate_promise() -> Option<Promise> {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into()).ok()?;
    let storage = Reflect::get(&navigator, &"storage".into()).ok()?;
    let estimate: Function = Reflect::get(&storage, &"estimate".into()).ok()?.dyn_into().ok()?;
    estimate.call0(&storage).ok()?.dyn_into().ok()
}
