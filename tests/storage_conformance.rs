//! The conformance suite of storage backends: natively on memory; in a browser's dedicated worker
//! (`scripts/wasm-test.sh`) on memory and IndexedDB, with what only IndexedDB has to show.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kalamdb::error::Result;
use kalamdb::storage::{Durability, MemoryBackend};

mod conformance;
#[cfg(target_arch = "wasm32")]
#[path = "conformance/indexeddb.rs"]
mod indexeddb;

use conformance::{Backend, Harness};

#[cfg(target_arch = "wasm32")]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);

/// Databases in memory by name: what another process would find is what the map holds.
#[derive(Default)]
struct MemoryHarness(Mutex<HashMap<String, Arc<MemoryBackend>>>);

impl MemoryHarness {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, Arc<MemoryBackend>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Harness for MemoryHarness {
    async fn open(&self, name: &str) -> Result<Backend> {
        Ok(self.with(|databases| {
            let backend = Arc::new(databases.get(name).map(|old| old.reopen()).unwrap_or_default());
            databases.insert(name.to_owned(), Arc::clone(&backend));
            backend
        }))
    }

    async fn reopen(&self, name: &str, backend: Backend) -> Result<Backend> {
        backend.close().await?;
        self.open(name).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.with(|databases| databases.remove(name));
        Ok(())
    }

    fn receipt(&self, _asked: Durability) -> Durability {
        Durability::Memory
    }
}

conformance_tests!(memory, MemoryHarness::default());
#[cfg(target_arch = "wasm32")]
conformance_tests!(indexed_db, indexeddb::IndexedDbHarness);
