//! A storage backend that fails when a test says so.

use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::storage::{
    Durability, KeyRange, KeyValue, MemoryBackend, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch,
};

/// A memory backend whose commits fail on demand.
#[derive(Debug)]
pub struct Failing {
    /// What it stores in.
    pub inner: MemoryBackend,
    /// How many commits fail from now on.
    pub failures: AtomicU32,
    /// How often a commit is polled before it is done.
    pub delay: AtomicU32,
}

impl Failing {
    /// A backend that works until told otherwise.
    pub fn new(inner: MemoryBackend) -> Self {
        Self { inner, failures: AtomicU32::new(0), delay: AtomicU32::new(1) }
    }
}

#[async_trait]
impl StorageBackend for Failing {
    fn kind(&self) -> &'static str {
        "failing"
    }
    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.get(partition, key).await
    }
    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        self.inner.scan(partition, range, options).await
    }
    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        // Another group may fill while this one is on its way.
        for _ in 0..self.delay.load(Ordering::Relaxed) {
            yield_once().await;
        }
        let failing = self.failures.load(Ordering::Relaxed);
        if failing > 0 {
            self.failures.store(failing - 1, Ordering::Relaxed);
            return Err(KalamError::new(ErrorCode::QuotaExceeded, "no room: used 10 of 10 bytes"));
        }
        self.inner.commit(batch, durability).await
    }
    async fn stats(&self) -> Result<StorageStats> {
        self.inner.stats().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

async fn yield_once() {
    let mut yielded = false;
    futures::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
