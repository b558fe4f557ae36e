//! The seam where a database meets what it is stored on.
//!
//! A [`StorageBackend`] is an ordered map of bytes in five fixed [`Partition`]s with one atomic [`WriteBatch`] over
//! all of them. Everything the engine keeps goes through it: what is written together is there together or not at
//! all, and what a finished [`StorageBackend::commit`] returned is as durable as its result says. Nothing above this
//! module knows which backend it runs on; the conformance suite (`tests/storage_conformance.rs`) is what a backend
//! must pass.

use std::fmt::Debug;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{ErrorCode, KalamError, Result};

pub mod backup;
mod counting;
mod entity_store;
pub mod gate;
#[cfg(target_arch = "wasm32")]
pub mod host;
#[cfg(target_arch = "wasm32")]
pub mod indexeddb;
pub mod journal;
mod memory;
#[cfg(target_arch = "wasm32")]
pub mod opfs;
mod pages;
pub mod record;

pub use backup::{Backup, Restore};
pub use counting::{CountingBackend, StorageCounters};
pub use entity_store::{Entity, EntityStore};
pub use gate::GatedBackend;
pub use memory::MemoryBackend;
pub use pages::Pages;

/// The largest value a backend is ever handed, in bytes. Hosts with a limit of 2 MB per value hold it with room to
/// spare.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// Size of the parts that a blob is cut into, in bytes.
pub const BLOB_PART_BYTES: usize = 256 << 10;

/// The fixed partitions of a database. New tables need no new partition, so the layout of a backend never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Partition {
    /// Format version, node id, counters.
    Meta,
    /// Definitions and the rows of system tables.
    Catalog,
    /// The commit log.
    Log,
    /// Manifests of cold segments and delete vectors.
    Manifest,
    /// Parts of blobs.
    Blob,
}

impl Partition {
    /// All partitions, in the order of their numbers.
    pub const ALL: [Partition; 5] =
        [Partition::Meta, Partition::Catalog, Partition::Log, Partition::Manifest, Partition::Blob];

    /// The name that backends store it under. Never changed.
    pub const fn name(self) -> &'static str {
        match self {
            Partition::Meta => "meta",
            Partition::Catalog => "catalog",
            Partition::Log => "log",
            Partition::Manifest => "manifest",
            Partition::Blob => "blob",
        }
    }
}

/// How durable a commit is when it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Durability {
    /// In this process's memory only.
    Memory,
    /// Handed to the operating system: survives a crash of the process, not a loss of power.
    #[default]
    Relaxed,
    /// Flushed to the device.
    Strict,
}

impl Durability {
    /// The name in options and receipts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Relaxed => "relaxed",
            Durability::Strict => "strict",
        }
    }

    /// Parses the name; the error lists the names there are.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "memory" => Ok(Durability::Memory),
            "relaxed" => Ok(Durability::Relaxed),
            "strict" => Ok(Durability::Strict),
            other => Err(KalamError::new(
                ErrorCode::InvalidOption,
                format!("durability is '{other}', expected 'memory', 'relaxed' or 'strict'"),
            )),
        }
    }
}

/// A range of keys in byte order: from `from` (inclusive) to `to` (exclusive); `None` is open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRange {
    /// Inclusive lower end.
    pub from: Option<Vec<u8>>,
    /// Exclusive upper end.
    pub to: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// Every key that starts with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { from: Some(prefix.to_vec()), to: prefix_end(prefix) }
    }

    /// `from` (inclusive) to `to` (exclusive).
    pub fn between(from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) -> Self {
        Self { from: Some(from.into()), to: Some(to.into()) }
    }

    /// Whether a key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.from.as_deref().is_none_or(|f| f <= key) && self.to.as_deref().is_none_or(|t| key < t)
    }

    /// Whether no key can lie in it.
    pub fn is_empty(&self) -> bool {
        matches!((&self.from, &self.to), (Some(f), Some(t)) if f >= t)
            || self.to.as_deref().is_some_and(<[u8]>::is_empty)
    }
}

/// The first key after all that start with `prefix`, or `None` if there is none.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&b| b != 0xFF)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// The first key after `key`.
pub fn key_after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// How a scan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScanOptions {
    /// At most so many records; `None` is all.
    pub limit: Option<usize>,
    /// From the greatest key down.
    pub reverse: bool,
}

/// One change of a [`WriteBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOp {
    /// Sets a key; the value holds at most [`MAX_VALUE_BYTES`].
    Put {
        /// Where.
        partition: Partition,
        /// Its key.
        key: Vec<u8>,
        /// Its new value.
        value: Bytes,
    },
    /// Removes a key, if it is there.
    Delete {
        /// Where.
        partition: Partition,
        /// Its key.
        key: Vec<u8>,
    },
    /// Removes every key of a range.
    DeleteRange {
        /// Where.
        partition: Partition,
        /// The keys.
        range: KeyRange,
    },
}

/// Changes that become visible and durable together, applied in the order given.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    ops: Vec<WriteOp>,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds: set `key` to `value`.
    pub fn put(&mut self, partition: Partition, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) -> &mut Self {
        self.ops.push(WriteOp::Put { partition, key: key.into(), value: value.into() });
        self
    }

    /// Adds: remove `key`.
    pub fn delete(&mut self, partition: Partition, key: impl Into<Vec<u8>>) -> &mut Self {
        self.ops.push(WriteOp::Delete { partition, key: key.into() });
        self
    }

    /// Adds: remove every key of `range`.
    pub fn delete_range(&mut self, partition: Partition, range: KeyRange) -> &mut Self {
        self.ops.push(WriteOp::DeleteRange { partition, range });
        self
    }

    /// Adds a blob, cut into parts, in place of any blob of that id.
    pub fn put_blob(&mut self, id: &[u8], bytes: &Bytes) -> &mut Self {
        self.delete_blob(id);
        let mut part = 0;
        while part == 0 || part * BLOB_PART_BYTES < bytes.len() {
            let start = part * BLOB_PART_BYTES;
            let end = bytes.len().min(start + BLOB_PART_BYTES);
            self.put(Partition::Blob, blob_key(id, part as u32), bytes.slice(start..end));
            part += 1;
        }
        self
    }

    /// Adds: remove a blob.
    pub fn delete_blob(&mut self, id: &[u8]) -> &mut Self {
        self.delete_range(Partition::Blob, blob_range(id))
    }

    /// Adds: remove every blob whose id has `id_length` bytes and starts with `prefix`.
    pub fn delete_blobs(&mut self, prefix: &[u8], id_length: usize) -> &mut Self {
        let mut start = (id_length as u16).to_be_bytes().to_vec();
        start.extend_from_slice(prefix);
        self.delete_range(Partition::Blob, KeyRange::prefix(&start))
    }

    /// Adds everything of another batch, after what is there.
    pub fn append(&mut self, mut other: WriteBatch) -> &mut Self {
        self.ops.append(&mut other.ops);
        self
    }

    /// The changes, in order.
    pub fn ops(&self) -> &[WriteOp] {
        &self.ops
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Checks what every backend relies on: no value above the limit.
    pub fn validate(&self) -> Result<()> {
        for op in &self.ops {
            if let WriteOp::Put { partition, value, .. } = op
                && value.len() > MAX_VALUE_BYTES
            {
                return Err(KalamError::internal(format_args!(
                    "a value of {} bytes for partition '{}', expected at most {MAX_VALUE_BYTES}",
                    value.len(),
                    partition.name(),
                )));
            }
        }
        Ok(())
    }
}

/// Key of a blob's part: the id's length, the id, the part's number; so ids of different length never interleave.
fn blob_key(id: &[u8], part: u32) -> Vec<u8> {
    let mut key = blob_prefix(id);
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// First bytes of the keys of a blob's parts.
pub fn blob_prefix(id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(id.len() + 6);
    key.extend_from_slice(&(id.len() as u16).to_be_bytes());
    key.extend_from_slice(id);
    key
}

fn blob_range(id: &[u8]) -> KeyRange {
    KeyRange::prefix(&blob_prefix(id))
}

/// A key and its value.
pub type KeyValue = (Vec<u8>, Bytes);

/// What a backend tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StorageStats {
    /// Records over all partitions.
    pub records: u64,
    /// Bytes of keys and values, where the backend knows.
    pub bytes: u64,
    /// Bytes the host counts as used by this origin or device, where it tells.
    pub usage: Option<u64>,
    /// Bytes the host allows, where it tells.
    pub quota: Option<u64>,
}

/// An ordered, partitioned, durable map of bytes; see the module's comment.
#[async_trait]
pub trait StorageBackend: Send + Sync + Debug {
    /// A short name for messages and status: `memory`, `indexeddb`, `host`.
    fn kind(&self) -> &'static str;

    /// The value of a key.
    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>>;

    /// The records of a range in key order (or in reverse), as of one moment.
    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>>;

    /// Applies a batch atomically. Returns the durability reached, which is never above what was asked nor above
    /// what the backend can promise. After an error nothing of the batch is there.
    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability>;

    /// `length` bytes of a blob from `offset`; fewer at its end; `None` if there is no such blob.
    async fn read_blob(&self, id: &[u8], offset: u64, length: u64) -> Result<Option<Bytes>> {
        read_blob_parts(self, id, offset, length).await
    }

    /// Size of what is stored.
    async fn stats(&self) -> Result<StorageStats>;

    /// Gives space back where the backend can.
    async fn compact(&self) -> Result<()> {
        Ok(())
    }

    /// Ends the use of the backend; later calls fail with `CONNECTION_CLOSED`.
    async fn close(&self) -> Result<()>;

    /// Whether what it is stored on is within reach, as far as is known without asking. If not, the next call finds out.
    fn is_reachable(&self) -> bool {
        true
    }

    /// What kept a part of what was committed from being found, where the backend was opened without it to be salvaged.
    fn lost(&self) -> Option<KalamError> {
        None
    }
}

/// Whether a backend holds no record at all: nobody ever made a database of it.
pub async fn is_empty(backend: &dyn StorageBackend) -> Result<bool> {
    for partition in Partition::ALL {
        let one = ScanOptions { limit: Some(1), reverse: false };
        if !backend.scan(partition, &KeyRange::all(), one).await?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads a range of a blob from the parts that [`WriteBatch::put_blob`] wrote.
async fn read_blob_parts<B: StorageBackend + ?Sized>(
    backend: &B,
    id: &[u8],
    offset: u64,
    length: u64,
) -> Result<Option<Bytes>> {
    let part_size = BLOB_PART_BYTES as u64;
    let first = offset / part_size;
    let last = offset.saturating_add(length.max(1) - 1) / part_size;
    let to_part = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let range = KeyRange {
        from: Some(blob_key(id, to_part(first))),
        to: if last >= u64::from(u32::MAX) { blob_range(id).to } else { Some(blob_key(id, to_part(last + 1))) },
    };
    let parts = backend.scan(Partition::Blob, &range, ScanOptions::default()).await?;
    if parts.is_empty() {
        let exists = backend.get(Partition::Blob, &blob_key(id, 0)).await?.is_some();
        return Ok(exists.then(Bytes::new));
    }
    let skip = (offset - first * part_size) as usize;
    if let [(_, only)] = parts.as_slice() {
        let start = skip.min(only.len());
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(only.len());
        return Ok(Some(only.slice(start..end)));
    }
    let mut out = Vec::with_capacity(parts.iter().map(|(_, v)| v.len()).sum());
    for (_, part) in &parts {
        out.extend_from_slice(part);
    }
    let mut out = Bytes::from(out);
    let mut out = out.split_off(skip.min(out.len()));
    out.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ranges() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 0xFF, 0xFF]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xFF]), None);
        assert!(KeyRange::prefix(b"a").contains(b"a"));
        assert!(KeyRange::prefix(b"a").contains(b"azz"));
        assert!(!KeyRange::prefix(b"a").contains(b"b"));
        assert!(KeyRange::between(*b"b", *b"a").is_empty());
    }

    #[test]
    fn a_value_above_the_limit_is_refused() {
        let mut batch = WriteBatch::new();
        batch.put(Partition::Log, *b"k", vec![0; MAX_VALUE_BYTES + 1]);
        assert!(batch.validate().is_err());
    }
}
