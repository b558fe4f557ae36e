//! New segments with what can be read of damaged ones.
//!
//! Invariant: a new segment holds rows of the damaged one that lie in sound parts, and nothing else: those that live,
//! and those that were deleted and whose retention is not over, with when they were. What the log says of rows of the
//! damaged segment is in its delete vector already, for the new one has another number, of which the log says nothing.
//! Memory holds the rows and the file of one segment at a time: it is built to learn what the manifest says of it, and
//! once more when its file is read. Both times give the same bytes, or it is an error.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use roaring::RoaringBitmap;

use super::log::ScopeKey;
use super::manifest;
use super::rewrite::{self, Built, retained_since};
use super::segment::{DeleteVector, Segment, SegmentCache, SegmentSource, cold_row};
use super::seq::Seq;
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::TableDefinition;
use crate::storage::{BLOB_PART_BYTES, MemoryBackend, Partition, WriteBatch, WriteOp};

/// A segment in place of a damaged one.
#[derive(Debug)]
pub struct Rescued {
    /// The damaged one.
    from: Arc<Segment>,
    definition: Arc<TableDefinition>,
    /// Rows of the damaged one that were deleted and are kept, with when that was.
    deleted: HashMap<u32, Seq>,
    /// The number of the new one.
    number: u32,
    /// The checksums of the new one's parts.
    part_crcs: Vec<u32>,
}

/// A record that storage does not hold.
#[derive(Debug)]
pub enum Made {
    /// The record.
    Record(Bytes),
    /// A part of a segment's file.
    Part {
        /// The segment.
        of: Arc<Rescued>,
        /// Which part of it.
        part: usize,
    },
}

/// What came of a damaged segment.
#[derive(Debug, Default)]
pub struct Rescue {
    /// The records of the new segment; none if nothing could be read.
    pub records: Vec<(Partition, Vec<u8>, Made)>,
    /// What was rescued and what was lost, for people.
    pub detail: String,
}

impl Rescued {
    /// Builds a segment of a number of the caller's choice from what can be read of a damaged one.
    pub async fn of(
        from: &Arc<Segment>,
        scope: &ScopeKey,
        definition: &Arc<TableDefinition>,
        number: u32,
    ) -> Result<Rescue> {
        let since = retained_since(definition);
        let mut deleted = rewrite::deletions(&from.marks());
        deleted.retain(|_, seq| *seq >= since);
        let part_crcs = Vec::new();
        let mut rescued =
            Self { from: Arc::clone(from), definition: Arc::clone(definition), deleted, number, part_crcs };
        let (built, detail) = match rescued.build().await {
            Ok(built) => built,
            Err(error) if error.code() == ErrorCode::DataCorrupted => {
                let detail = format!("nothing of it can be read: {} rows are lost", from.live_rows());
                return Ok(Rescue { detail, ..Rescue::default() });
            }
            Err(error) => return Err(error),
        };
        let Some(Built { bytes, meta, places, .. }) = built else {
            return Ok(Rescue { detail, ..Rescue::default() });
        };
        rescued.part_crcs.clone_from(&meta.part_crcs);
        let blob = manifest::blob_id(scope, number);
        let mut batch = WriteBatch::new();
        batch.put_blob(&blob, &bytes);
        let source = SegmentSource {
            backend: Arc::new(MemoryBackend::new()),
            cache: SegmentCache::new(0),
            blob,
            table: definition.table_id.to_string(),
        };
        let new = Arc::new(Segment::new(source, meta, rescued.marks(&places), None));
        let of = Arc::new(rescued);
        let parts = puts(&batch).enumerate();
        let mut records: Vec<_> = parts
            .map(|(part, (partition, key, _))| (partition, key, Made::Part { of: Arc::clone(&of), part }))
            .collect();
        let mut batch = WriteBatch::new();
        manifest::put_segment(scope, &new, &mut batch)?;
        records.extend(puts(&batch).map(|(partition, key, value)| (partition, key, Made::Record(value))));
        Ok(Rescue { records, detail })
    }

    /// Its file.
    pub async fn file(&self) -> Result<Bytes> {
        let (built, _) = self.build().await?;
        match built {
            Some(built) if built.meta.part_crcs == self.part_crcs => Ok(built.bytes),
            _ => {
                let message = format!("other rows of segment {} can be read than before", self.from.meta().number);
                Err(KalamError::new(ErrorCode::DataCorrupted, message)
                    .with_hint("The storage does not give the same bytes each time. Run the rescue again."))
            }
        }
    }

    async fn build(&self) -> Result<(Option<Built>, String)> {
        let deleted: RoaringBitmap = self.deleted.keys().copied().collect();
        let recovered = self.from.recover(&self.definition, &deleted).await?;
        let detail = recovered.told();
        let number = self.from.meta().number;
        let sources = recovered.groups.into_iter().map(|(rows, places)| {
            let live = places.len() - places.intersection_len(&deleted);
            rewrite::Source::of_segment(rows, number, &places, live)
        });
        Ok((rewrite::build(&self.definition, self.number, sources.collect()).await?, detail))
    }

    /// The delete vector of a segment whose rows lay at some positions of the damaged one.
    fn marks(&self, places: &[u64]) -> DeleteVector {
        let mut tombstones: BTreeMap<Seq, RoaringBitmap> = BTreeMap::new();
        for (row, place) in (0..).zip(places) {
            if let Some(seq) = cold_row(*place).and_then(|(_, old)| self.deleted.get(&old)) {
                tombstones.entry(*seq).or_default().insert(row);
            }
        }
        let mut marks = DeleteVector::new();
        tombstones.iter().for_each(|(seq, rows)| marks.keep_tombstones(*seq, rows));
        marks
    }
}

/// The records that a batch sets.
pub fn puts(batch: &WriteBatch) -> impl Iterator<Item = (Partition, Vec<u8>, Bytes)> {
    batch.ops().iter().filter_map(|op| match op {
        WriteOp::Put { partition, key, value } => Some((*partition, key.clone(), value.clone())),
        _ => None,
    })
}

/// The part of a file that a blob's record holds.
pub fn part_of(file: &Bytes, part: usize) -> Bytes {
    let start = (part * BLOB_PART_BYTES).min(file.len());
    file.slice(start..file.len().min(start + BLOB_PART_BYTES))
}
