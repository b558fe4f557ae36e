//! IndexedDB in a page's own thread: the parts of the conformance suite that meet the browser's global scope.
//! `storage_conformance` runs all of it in a worker. Runs with `scripts/wasm-test.sh`; natively it is empty.
#![cfg(target_arch = "wasm32")]

mod conformance;
#[path = "conformance/indexeddb.rs"]
mod indexeddb;

use indexeddb::IndexedDbHarness;

wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_browser);

conformance_tests!(page, IndexedDbHarness);
