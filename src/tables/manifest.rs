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

use super::bytes::Cursor;
use super::log::ScopeKey;
use super::segment::{DeleteVector, Segment, SegmentMeta};
use crate::error::{ErrorCode, KalamError, Result};
use crate::storage::record::{self, PartReader, RecordKind, Whole};
use crate::storage::{KeyRange, Pages, Partition, StorageBackend, WriteBatch};

const VERSION: u8 = 1;
const LIVE: u8 = 1;
const QUARANTINED: u8 = 2;
const RETIRED: u8 = 3;
/// The number of a scope's head.
pub const HEAD: u32 = 0;

/// What the manifest says of a scope.
#[derive(Debug, Default)]
pub struct Manifest {
    /// The next segment's number; 0: the scope has no manifest.
    pub next_segment: u32,
    /// The segments.
    pub segments: Vec<(SegmentMeta, DeleteVector)>,
    /// Segments that were replaced and whose blobs are still there.
    pub retired: Vec<u32>,
    /// Records that a scrub could not read.
    pub damaged: Vec<u32>,
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
    let mut pages = Pages::new(Partition::Manifest, scope.range());
    let mut parts = PartReader::default();
    while let Some(page) = pages.next(backend).await? {
        for (key, value) in &page {
            if let Some(whole) = parts.push(RecordKind::Manifest, key, value)? {
                manifest.take(&whole)?;
            }
        }
    }
    parts.finish(RecordKind::Manifest)?;
    Ok(manifest)
}

/// The scope and the number of the segment that a record is about, by its key without the part.
pub fn place_of(stem: &[u8]) -> Result<(ScopeKey, u32)> {
    let number = stem.last_chunk().map_or(HEAD, |b| u32::from_be_bytes(*b));
    Ok((ScopeKey::of_log_key(stem)?, number))
}

impl Manifest {
    /// Takes in the record of a segment, or the head.
    pub fn take(&mut self, whole: &Whole) -> Result<()> {
        let (_, number) = place_of(&whole.stem)?;
        let damaged = |what: &str| {
            let place = record::hex(&whole.stem);
            let message = format!("the manifest record {place} of segment {number} does not decode: {what}");
            KalamError::new(ErrorCode::DataCorrupted, message)
        };
        let mut cursor = Cursor::new("a manifest record", &whole.payload);
        cursor.u32()?;
        let version = cursor.u8()?;
        if version > VERSION {
            let message = format!("a manifest has version {version}, this version reads up to {VERSION}");
            return Err(KalamError::new(ErrorCode::UnsupportedFormat, message)
                .with_hint("It was written by a later version of KalamDB. Update the package."));
        }
        if number == HEAD {
            self.next_segment = cursor.u32()?;
            return cursor.finish();
        }
        let state = cursor.u8()?;
        let rest = cursor.rest();
        match state {
            RETIRED => self.retired.push(number),
            LIVE | QUARANTINED => {
                let (meta, length) = SegmentMeta::decode(rest).map_err(|e| e.in_context(record::hex(&whole.stem)))?;
                let marks = DeleteVector::decode(rest.get(length..).unwrap_or_default())
                    .map_err(|e| e.in_context(record::hex(&whole.stem)))?;
                if meta.number != number {
                    return Err(damaged(&format!("it is that of segment {}", meta.number)));
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
    record::put_parts(batch, Partition::Manifest, RecordKind::Manifest, &key, &whole);
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
    use bytes::Bytes;
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
