//! The conformance suite on storage that JavaScript supplies: `kalamdb/node`'s files, in Node, through the engine's own
//! wasm. `scripts/host-test.sh` runs it; natively it is empty.
//!
//! The page that starts this (`tests/support/host-storage.mjs`) leaves two functions in the global scope: one opens the
//! storage of a name, the other deletes it.
#![cfg(target_arch = "wasm32")]

use std::sync::Arc;

use js_sys::{Function, Promise, Reflect};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::storage::host::HostBackend;
use kalamdb::storage::{Durability, Partition, StorageBackend, WriteBatch};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use wasm_bindgen_test::wasm_bindgen_test;

mod conformance;

use conformance::{Backend, Harness};

async fn call(name: &str, argument: &str) -> Result<JsValue> {
    let function = Reflect::get(&js_sys::global(), &name.into()).ok().and_then(|f| f.dyn_into::<Function>().ok());
    let function = function.unwrap_or_else(|| panic!("{name} is not there: run scripts/host-test.sh"));
    let promise = function.call1(&JsValue::UNDEFINED, &argument.into()).expect("returns a promise");
    JsFuture::from(Promise::resolve(&promise))
        .await
        .map_err(|thrown| KalamError::new(ErrorCode::StorageError, format!("{name}: {:?}", thrown)))
}

struct HostHarness;

impl Harness for HostHarness {
    async fn open(&self, name: &str) -> Result<Backend> {
        Ok(Arc::new(HostBackend::new(call("kalamOpenStorage", name).await?.unchecked_into())?))
    }

    async fn reopen(&self, name: &str, backend: Backend) -> Result<Backend> {
        backend.close().await?;
        self.open(name).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        call("kalamDeleteStorage", name).await.map(drop)
    }

    fn receipt(&self, asked: Durability) -> Durability {
        asked.max(Durability::Relaxed)
    }
}

conformance_tests!(files, HostHarness);

/// An object that is made of functions, as an app may supply it.
fn object(source: &str) -> Result<HostBackend> {
    HostBackend::new(js_sys::eval(&format!("({source})")).expect("an object").unchecked_into())
}

const CALM: &str = "get: async () => undefined, scan: async () => [], close: () => {}";

#[wasm_bindgen_test]
async fn what_the_object_throws_is_typed() -> Result<()> {
    let mut batch = WriteBatch::new();
    batch.put(Partition::Log, *b"k", &b"v"[..]);
    for (thrown, code) in [
        ("Object.assign(new Error('disk full'), { code: 'ENOSPC' })", ErrorCode::QuotaExceeded),
        ("new DOMException('no', 'QuotaExceededError')", ErrorCode::QuotaExceeded),
        ("Object.assign(new Error('gone'), { code: 'STORAGE_CLOSED' })", ErrorCode::StorageClosed),
        ("Object.assign(new Error('odd'), { code: 'UNIQUE_VIOLATION' })", ErrorCode::StorageError),
        ("'just text'", ErrorCode::StorageError),
    ] {
        let stats = "stats: () => ({ records: 1, bytes: 2, usage: 700, quota: 1000 })";
        let backend = object(&format!("{{ {CALM}, {stats}, commit() {{ throw {thrown} }} }}"))?;
        let error = backend.commit(batch.clone(), Durability::Strict).await.expect_err(thrown);
        assert_eq!(error.code(), code, "{error}");
        if code == ErrorCode::QuotaExceeded {
            assert!(error.message().contains("700 bytes of 1000"), "{error}");
        }
        let backend = object(&format!("{{ {CALM}, commit: async () => {{ throw {thrown} }} }}"))?;
        assert_eq!(backend.commit(batch.clone(), Durability::Strict).await.expect_err(thrown).code(), code);
    }
    Ok(())
}

#[wasm_bindgen_test]
async fn a_broken_contract_is_an_error_and_never_wrong_rows() -> Result<()> {
    let pair = |key: u8| format!("[new Uint8Array([{key}]), new Uint8Array([1])]");
    for scan in [
        "() => 5".to_owned(),
        "() => ['text']".to_owned(),
        format!("() => [{}, {}]", pair(2), pair(1)),
        format!("() => [{}, {}]", pair(1), pair(1)),
        format!("() => [{}]", pair(200)),
    ] {
        let backend = object(&format!("{{ get() {{}}, scan: {scan}, commit() {{}}, close() {{}} }}"))?;
        let range = kalamdb::storage::KeyRange::between([0], [100]);
        let error = backend.scan(Partition::Log, &range, Default::default()).await.expect_err(&scan);
        assert_eq!(error.code(), ErrorCode::StorageError, "{error}");
    }
    // A durability that is not reported was not reached; one above what was asked is not reported.
    let mut batch = WriteBatch::new();
    batch.put(Partition::Log, *b"k", &b"v"[..]);
    for (answer, asked, reached) in [
        ("undefined", Durability::Strict, Durability::Memory),
        ("'relaxed'", Durability::Strict, Durability::Relaxed),
        ("'strict'", Durability::Relaxed, Durability::Relaxed),
        ("'strict'", Durability::Strict, Durability::Strict),
    ] {
        let backend = object(&format!("{{ {CALM}, commit: async () => {answer} }}"))?;
        assert_eq!(backend.commit(batch.clone(), asked).await?, reached);
    }
    let error = object("{ get() {} }").expect_err("it lacks functions");
    assert_eq!(error.code(), ErrorCode::InvalidOption);
    Ok(())
}
