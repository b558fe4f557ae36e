//! The manifest: which segments a table scope has.
//!
//! ```text
//! key      scope prefix (as in the log) | u32 segment number, big endian | u16 part, big endian
//! payload  u32  bytes of the whole payload, all parts together
//!          u8   version, now 1
//!          u8   state: 1 live, 2 quarantined, 3 retired
//!          the segment's metadata (segment/meta.rs) and its delete vector (segment/marks.rs), unless retired
//! ```
//!
//! Segment number 0 is the head of a scope: after the version, u32 number of the next segment. The file of segment `n`
//! is the blob whose id is the scope prefix and `n`. Numbers are little endian in payloads.
//!
//! Invariant: the record of a segment and its blob come and go with the log records whose rows it holds, in one storage
//! transaction. A retired segment was replaced by another; its record stays until its blob is deleted, which waits for
//! those who still read it. So a blob without a record does not exist, and nothing has to be searched after a crash.

use std::sync::Arc;

use bytes::Bytes;

use super::log::ScopeKey;
use super::segment::{DeleteVector, Segment, SegmentMeta};
use crate::error::{ErrorCode, KalamError, Result};
use crate::storage::record::{self, HEADER_BYTES, RecordKind};
use crate::storage::{KeyRange, MAX_VALUE_BYTES, Partition, ScanOptions, StorageBackend, WriteBatch};

const VERSION: u8 = 1;
const LIVE: u8 = 1;
const QUARANTINED: u8 = 2;
const RETIRED: u8 = 3;
/// The number of a scope's head.
const HEAD: u32 = 0;
/// Number and part at the end of a key.
const KEY_TAIL: usize = 4 + 2;
/// Records read at a time.
const PAGE: usize = 64;

/// What the manifest says of a scope.
#[derive(Debug, Default)]
pub struct Manifest {
    /// The next segment's number; 0: the scope has no manifest.
    pub next_segment: u32,
    /// The segments.
    pub segments: Vec<(SegmentMeta, DeleteVector)>,
    /// Which of them were found damaged.
    pub quarantined: Vec<u32>,
    /// Segments that were replaced and whose blobs are still there.
    pub retired: Vec<u32>,
}

/// The id of a segment's blob.
pub fn blob_id(scope: &ScopeKey, number: u32) -> Vec<u8> {
    let mut id = scope.prefix();
    id.extend_from_slice(&number.to_be_bytes());
    id
}

/// Reads the manifest of a scope.
pub async fn read(backend: &dyn StorageBackend, scope: &ScopeKey) -> Result<Manifest> {
    let mut manifest = Manifest::default();
    let mut range = scope.range();
    let mut pending: Option<(u32, Vec<u8>)> = None;
    loop {
        let page = backend.scan(Partition::Manifest, &range, ScanOptions { limit: Some(PAGE), reverse: false }).await?;
        for (key, value) in &page {
            let damaged = |what: &str| {
                let message = format!("the manifest record {} is damaged: {what}", record::hex(key));
                KalamError::new(ErrorCode::DataCorrupted, message)
            };
            let payload = record::open(RecordKind::Manifest, key, value)?;
            let at = key.len().checked_sub(KEY_TAIL).ok_or_else(|| damaged("its key is too short"))?;
            let number = key[at..].first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
            let part = key[at + 4..].first_chunk().map_or(0, |b| u16::from_be_bytes(*b));
            let mut bytes = match pending.take() {
                None if part == 0 => Vec::with_capacity(payload.len()),
                Some((n, bytes)) if n == number && part > 0 => bytes,
                _ => return Err(damaged(&format!("part {part} does not follow the part before it"))),
            };
            bytes.extend_from_slice(&payload);
            let total = bytes.first_chunk().map(|b| u32::from_le_bytes(*b) as usize);
            match total {
                Some(total) if total == bytes.len() => {
                    manifest.take(number, &bytes[4..]).map_err(|e| e.in_context(record::hex(key)))?;
                }
                Some(total) if total > bytes.len() => pending = Some((number, bytes)),
                _ => return Err(damaged("its length does not fit")),
            }
        }
        match page.last() {
            Some((key, _)) if page.len() == PAGE => {
                let mut next = key.clone();
                next.push(0);
                range.from = Some(next);
            }
            _ => break,
        }
    }
    match pending {
        None => Ok(manifest),
        Some((number, _)) => {
            let message = format!("the manifest record of segment {number} of table {} is cut", scope.table_no);
            Err(KalamError::new(ErrorCode::DataCorrupted, message))
        }
    }
}

impl Manifest {
    fn take(&mut self, number: u32, payload: &[u8]) -> Result<()> {
        let damaged = |what: &str| {
            KalamError::new(
                ErrorCode::DataCorrupted,
                format!("the manifest of segment {number} does not decode: {what}"),
            )
        };
        let (&[version], rest) = payload.split_first_chunk::<1>().ok_or_else(|| damaged("it is empty"))?;
        if version > VERSION {
            let message = format!("a manifest has version {version}, this version reads up to {VERSION}");
            return Err(KalamError::new(ErrorCode::UnsupportedFormat, message)
                .with_hint("It was written by a later version of KalamDB. Update the package."));
        }
        if number == HEAD {
            let next = rest.try_into().map_err(|_| damaged("the head of the scope"))?;
            self.next_segment = u32::from_le_bytes(next);
            return Ok(());
        }
        let (&[state], rest) = rest.split_first_chunk::<1>().ok_or_else(|| damaged("it has no state"))?;
        match state {
            RETIRED => self.retired.push(number),
            LIVE | QUARANTINED => {
                let (meta, length) = SegmentMeta::decode(rest)?;
                let marks = DeleteVector::decode(rest.get(length..).unwrap_or_default())?;
                if meta.number != number {
                    return Err(damaged(&format!("it is that of segment {}", meta.number)));
                }
                if state == QUARANTINED {
                    self.quarantined.push(number);
                }
                self.segments.push((meta, marks));
            }
            other => return Err(damaged(&format!("state {other}"))),
        }
        Ok(())
    }
}

fn put(scope: &ScopeKey, number: u32, payload: &[u8], batch: &mut WriteBatch) {
    let key = blob_id(scope, number);
    // The record that was there may have had more parts.
    batch.delete_range(Partition::Manifest, KeyRange::prefix(&key));
    let mut whole = Vec::with_capacity(payload.len() + 4);
    whole.extend_from_slice(&((payload.len() + 4) as u32).to_le_bytes());
    whole.extend_from_slice(payload);
    for (part, bytes) in whole.chunks(MAX_VALUE_BYTES - HEADER_BYTES).enumerate() {
        let mut key = key.clone();
        key.extend_from_slice(&(part as u16).to_be_bytes());
        let value: Bytes = record::seal(RecordKind::Manifest, &key, bytes);
        batch.put(Partition::Manifest, key, value);
    }
}

/// Adds the head of a scope.
pub fn put_head(scope: &ScopeKey, next_segment: u32, batch: &mut WriteBatch) {
    let mut payload = vec![VERSION];
    payload.extend_from_slice(&next_segment.to_le_bytes());
    put(scope, HEAD, &payload, batch);
}

/// Adds the record of a segment as it is now.
pub fn put_segment(scope: &ScopeKey, segment: &Arc<Segment>, batch: &mut WriteBatch) -> Result<()> {
    let state = if segment.damage().is_some() { QUARANTINED } else { LIVE };
    let mut payload = vec![VERSION, state];
    segment.meta().encode(&mut payload)?;
    segment.marks().encode(&mut payload)?;
    put(scope, segment.meta().number, &payload, batch);
    Ok(())
}

/// Adds: a segment was replaced, its blob is still there.
pub fn retire(scope: &ScopeKey, number: u32, batch: &mut WriteBatch) {
    put(scope, number, &[VERSION, RETIRED], batch);
}

/// Adds: remove a retired segment's blob and record.
pub fn remove(scope: &ScopeKey, number: u32, batch: &mut WriteBatch) {
    let id = blob_id(scope, number);
    batch.delete_blob(&id);
    batch.delete_range(Partition::Manifest, KeyRange::prefix(&id));
}

/// Adds: remove everything of a scope but its log.
pub fn remove_scope(scope: &ScopeKey, batch: &mut WriteBatch) {
    let prefix = scope.prefix();
    batch.delete_blobs(&prefix, prefix.len() + 4);
    batch.delete_range(Partition::Manifest, scope.range());
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;

    use crate::storage::MemoryBackend;

    #[test]
    fn heads_and_retired_segments_come_back_and_go() -> Result<()> {
        block_on(async {
            let backend = MemoryBackend::new();
            let scope = ScopeKey { table_no: 7, user: Some(Arc::from("ann")) };
            let other = ScopeKey { table_no: 7, user: Some(Arc::from("anna")) };
            let mut batch = WriteBatch::new();
            put_head(&scope, 9, &mut batch);
            retire(&scope, 3, &mut batch);
            for (scope, number) in [(&scope, 3), (&other, 4)] {
                batch.put_blob(&blob_id(scope, number), &Bytes::from_static(b"file"));
            }
            backend.commit(batch, Default::default()).await?;
            let manifest = read(&backend, &scope).await?;
            assert_eq!((manifest.next_segment, manifest.retired.as_slice()), (9, [3].as_slice()));
            assert_eq!(read(&backend, &other).await?.next_segment, 0);
            let mut batch = WriteBatch::new();
            remove_scope(&scope, &mut batch);
            backend.commit(batch, Default::default()).await?;
            assert_eq!(read(&backend, &scope).await?.next_segment, 0);
            assert_eq!(backend.read_blob(&blob_id(&scope, 3), 0, 9).await?, None);
            assert!(backend.read_blob(&blob_id(&other, 4), 0, 9).await?.is_some());
            Ok(())
        })
    }
}
