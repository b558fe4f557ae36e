//! A backend that counts what goes through it.
//!
//! Invariant: every call goes to the backend inside unchanged and comes back unchanged. The number of changes of the
//! catalog grows after each commit that touches the catalog partition, before the commit returns: whoever reads the
//! number first and the catalog second, and later finds the same number, has read what was acknowledged until then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Durability, KeyRange, KeyValue, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch, WriteOp,
};
use crate::error::Result;

/// What was asked of a backend since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StorageCounters {
    /// Values read by key.
    pub gets: u64,
    /// Ranges read, those of blobs included.
    pub scans: u64,
    /// Batches committed, those that failed included.
    pub commits: u64,
    /// Bytes of the keys and values that were read.
    pub bytes_read: u64,
    /// Bytes of the keys and values that were written.
    pub bytes_written: u64,
    /// Records written to the log.
    pub log_records: u64,
    /// Bytes of them.
    pub log_bytes: u64,
}

#[derive(Debug, Default)]
struct Cells {
    gets: AtomicU64,
    scans: AtomicU64,
    commits: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    log_records: AtomicU64,
    log_bytes: AtomicU64,
    catalog_changes: AtomicU64,
}

/// Counts the calls of a backend; see the module's comment.
#[derive(Debug)]
pub struct CountingBackend {
    inner: Arc<dyn StorageBackend>,
    cells: Cells,
}

fn add(cell: &AtomicU64, n: usize) {
    cell.fetch_add(n as u64, Ordering::Relaxed);
}

impl CountingBackend {
    /// A backend around another one.
    pub fn new(inner: Arc<dyn StorageBackend>) -> Self {
        Self { inner, cells: Cells::default() }
    }

    /// What was counted so far.
    pub fn counters(&self) -> StorageCounters {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let cells = &self.cells;
        StorageCounters {
            gets: read(&cells.gets),
            scans: read(&cells.scans),
            commits: read(&cells.commits),
            bytes_read: read(&cells.bytes_read),
            bytes_written: read(&cells.bytes_written),
            log_records: read(&cells.log_records),
            log_bytes: read(&cells.log_bytes),
        }
    }

    /// How often the catalog partition was changed.
    pub fn catalog_changes(&self) -> u64 {
        self.cells.catalog_changes.load(Ordering::Acquire)
    }
}

#[async_trait]
impl StorageBackend for CountingBackend {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        add(&self.cells.gets, 1);
        let found = self.inner.get(partition, key).await?;
        add(&self.cells.bytes_read, found.as_ref().map_or(0, |value| key.len() + value.len()));
        Ok(found)
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        add(&self.cells.scans, 1);
        let found = self.inner.scan(partition, range, options).await?;
        add(&self.cells.bytes_read, found.iter().map(|(key, value)| key.len() + value.len()).sum());
        Ok(found)
    }

    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        add(&self.cells.commits, 1);
        let (mut bytes, mut log_records, mut log_bytes, mut catalog) = (0, 0, 0, false);
        for op in batch.ops() {
            let touched = match op {
                WriteOp::Put { partition, key, value } => {
                    bytes += key.len() + value.len();
                    if *partition == Partition::Log {
                        log_records += 1;
                        log_bytes += key.len() + value.len();
                    }
                    partition
                }
                WriteOp::Delete { partition, .. } | WriteOp::DeleteRange { partition, .. } => partition,
            };
            catalog |= *touched == Partition::Catalog;
        }
        let outcome = self.inner.commit(batch, durability).await;
        if catalog {
            self.cells.catalog_changes.fetch_add(1, Ordering::AcqRel);
        }
        let reached = outcome?;
        add(&self.cells.bytes_written, bytes);
        add(&self.cells.log_records, log_records);
        add(&self.cells.log_bytes, log_bytes);
        Ok(reached)
    }

    async fn read_blob(&self, id: &[u8], offset: u64, length: u64) -> Result<Option<Bytes>> {
        add(&self.cells.scans, 1);
        let found = self.inner.read_blob(id, offset, length).await?;
        add(&self.cells.bytes_read, found.as_ref().map_or(0, Bytes::len));
        Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryBackend;
    use futures::executor::block_on;

    #[test]
    fn calls_and_bytes_are_counted_and_passed_on() -> Result<()> {
        block_on(async {
            let backend = CountingBackend::new(Arc::new(MemoryBackend::new()));
            let mut batch = WriteBatch::new();
            batch.put(Partition::Log, *b"k", &b"four"[..]).put(Partition::Meta, *b"m", &b"x"[..]);
            backend.commit(batch, Durability::Strict).await?;
            assert_eq!(backend.catalog_changes(), 0);
            assert_eq!(backend.get(Partition::Log, b"k").await?.as_deref(), Some(&b"four"[..]));
            assert_eq!(backend.get(Partition::Log, b"none").await?, None);
            assert_eq!(backend.scan(Partition::Meta, &KeyRange::all(), ScanOptions::default()).await?.len(), 1);
            let mut batch = WriteBatch::new();
            batch.delete(Partition::Catalog, *b"c").put_blob(b"b", &Bytes::from_static(b"12345"));
            backend.commit(batch, Durability::Strict).await?;
            assert_eq!(backend.catalog_changes(), 1);
            assert_eq!(backend.read_blob(b"b", 1, 3).await?.as_deref(), Some(&b"234"[..]));
            let counted = backend.counters();
            assert_eq!((counted.gets, counted.scans, counted.commits), (2, 2, 2));
            assert_eq!((counted.log_records, counted.log_bytes), (1, 5));
            assert_eq!(counted.bytes_read, 5 + 2 + 3);
            backend.close().await?;
            assert!(backend.get(Partition::Log, b"k").await.is_err());
            Ok(())
        })
    }
}
