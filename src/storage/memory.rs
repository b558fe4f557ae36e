//! A backend in this process's memory: for tests, for Node without files, and as the oracle of the others.
//!
//! Invariant: a batch is applied under one lock, so a reader sees all of it or nothing.

use std::collections::BTreeMap;
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use super::{
    Durability, KeyRange, KeyValue, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch, WriteOp,
};
use crate::error::{ErrorCode, KalamError, Result};

type Map = BTreeMap<Vec<u8>, Bytes>;

/// Ordered maps in memory.
#[derive(Debug, Default)]
pub struct MemoryBackend {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    partitions: [Map; Partition::ALL.len()],
    closed: bool,
}

impl State {
    fn open(&self) -> Result<&Self> {
        if self.closed { Err(closed()) } else { Ok(self) }
    }
}

fn closed() -> KalamError {
    KalamError::new(ErrorCode::Closed, "the database is closed")
}

impl MemoryBackend {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An open store with the contents of this one, as a reopened database would find them.
    pub fn reopen(&self) -> Self {
        let partitions = self.state.read().partitions.clone();
        Self { state: RwLock::new(State { partitions, closed: false }) }
    }
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (
        range.from.as_deref().map_or(Bound::Unbounded, Bound::Included),
        range.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded),
    )
}

#[async_trait]
impl StorageBackend for MemoryBackend {
    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        let state = self.state.read();
        Ok(state.open()?.partitions[partition as usize].get(key).cloned())
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        let state = self.state.read();
        let map = &state.open()?.partitions[partition as usize];
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let limit = options.limit.unwrap_or(usize::MAX);
        let entries = map.range::<[u8], _>(bounds(range));
        let copy = |(k, v): (&Vec<u8>, &Bytes)| (k.clone(), v.clone());
        Ok(if options.reverse {
            entries.rev().take(limit).map(copy).collect()
        } else {
            entries.take(limit).map(copy).collect()
        })
    }

    async fn commit(&self, batch: WriteBatch, _durability: Durability) -> Result<Durability> {
        batch.validate()?;
        let mut state = self.state.write();
        state.open()?;
        for op in batch.ops {
            match op {
                WriteOp::Put { partition, key, value } => {
                    state.partitions[partition as usize].insert(key, value);
                }
                WriteOp::Delete { partition, key } => {
                    state.partitions[partition as usize].remove(&key);
                }
                WriteOp::DeleteRange { partition, range } if !range.is_empty() => {
                    let map = &mut state.partitions[partition as usize];
                    let keys: Vec<Vec<u8>> = map.range::<[u8], _>(bounds(&range)).map(|(k, _)| k.clone()).collect();
                    for key in keys {
                        map.remove(&key);
                    }
                }
                WriteOp::DeleteRange { .. } => {}
            }
        }
        Ok(Durability::Memory)
    }

    async fn stats(&self) -> Result<StorageStats> {
        let state = self.state.read();
        let entries = || state.partitions.iter().flatten();
        state.open()?;
        Ok(StorageStats {
            records: entries().count() as u64,
            bytes: entries().map(|(k, v)| (k.len() + v.len()) as u64).sum(),
            usage: None,
            quota: None,
        })
    }

    async fn close(&self) -> Result<()> {
        self.state.write().closed = true;
        Ok(())
    }
}
