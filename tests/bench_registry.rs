//! The benchmarks of benches/registry in headless Chromium: `scripts/wasm-test.sh --test bench_registry -- --nocapture`.
//! Every run of it measures in full; `make test` does not run it.
#![cfg(target_arch = "wasm32")]

#[path = "../benches/registry/measure.rs"]
mod measure;

use wasm_bindgen_test::{console_log, wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_dedicated_worker);

#[wasm_bindgen_test]
async fn registry() {
    let report = measure::report(true).await.expect("every part can be measured");
    console_log!("{report}");
}
