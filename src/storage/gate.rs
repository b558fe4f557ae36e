//! A backend whose commits can be made to wait.
//!
//! Invariant: while a [`Closed`] gate is held, nothing is written: a commit that began before is over, one that comes
//! later waits. So what is read meanwhile, in however many calls, is one state that lies between two commits.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::lock::{Mutex, OwnedMutexGuard};

use super::{Durability, KeyRange, KeyValue, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch};
use crate::error::Result;

/// A backend with a gate in front of its commits; see the module's comment.
#[derive(Debug)]
pub struct GatedBackend {
    inner: Arc<dyn StorageBackend>,
    gate: Arc<Mutex<()>>,
}

/// Commits wait until this is dropped.
#[derive(Debug)]
pub struct Closed {
    backend: Arc<dyn StorageBackend>,
    _gate: OwnedMutexGuard<()>,
}

impl Closed {
    /// What is behind the gate.
    pub fn backend(&self) -> &Arc<dyn StorageBackend> {
        &self.backend
    }
}

impl GatedBackend {
    /// A gate in front of a backend.
    pub fn new(inner: Arc<dyn StorageBackend>) -> Self {
        Self { inner, gate: Arc::default() }
    }

    /// Waits for the commit under way and lets no other begin.
    pub async fn close_gate(&self) -> Closed {
        Closed { backend: Arc::clone(&self.inner), _gate: Arc::clone(&self.gate).lock_owned().await }
    }
}

#[async_trait]
impl StorageBackend for GatedBackend {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.get(partition, key).await
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        self.inner.scan(partition, range, options).await
    }

    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        let _open = self.gate.lock().await;
        self.inner.commit(batch, durability).await
    }

    async fn read_blob(&self, id: &[u8], offset: u64, length: u64) -> Result<Option<Bytes>> {
        self.inner.read_blob(id, offset, length).await
    }

    async fn stats(&self) -> Result<StorageStats> {
        self.inner.stats().await
    }

    async fn compact(&self) -> Result<()> {
        self.inner.compact().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
