//! The conformance suite of storage backends: natively on memory and on a device with a journal; in a browser's dedicated
//! worker (`scripts/wasm-test.sh`) on memory, on IndexedDB, with what only IndexedDB has to show, and on IndexedDB with a
//! journal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kalamdb::error::Result;
#[cfg(not(target_arch = "wasm32"))]
use kalamdb::storage::journal::JournaledBackend;
use kalamdb::storage::{Durability, MemoryBackend};

mod conformance;
#[cfg(not(target_arch = "wasm32"))]
#[path = "journal/device.rs"]
mod device;
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

/// Devices by name, with a journal.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Default)]
struct JournalHarness(Mutex<HashMap<String, device::Device>>);

#[cfg(not(target_arch = "wasm32"))]
impl Harness for JournalHarness {
    async fn open(&self, name: &str) -> Result<Backend> {
        let device = {
            let mut devices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let device = devices.get(name).map_or_else(device::Device::new, device::Device::crash);
            devices.insert(name.to_owned(), device.clone());
            device
        };
        JournaledBackend::open(Arc::new(device.clone()), device.file(), false).await
    }

    async fn reopen(&self, name: &str, backend: Backend) -> Result<Backend> {
        backend.close().await?;
        self.open(name).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(())
    }

    fn receipt(&self, asked: Durability) -> Durability {
        asked.max(Durability::Relaxed)
    }
}

conformance_tests!(memory, MemoryHarness::default());
#[cfg(not(target_arch = "wasm32"))]
conformance_tests!(journal, JournalHarness::default());
#[cfg(target_arch = "wasm32")]
conformance_tests!(indexed_db, indexeddb::IndexedDbHarness);
#[cfg(target_arch = "wasm32")]
conformance_tests!(journal, indexeddb::JournalHarness);
