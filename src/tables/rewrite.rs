//! The building half of flush and compaction: rows from chunks or segments become one sorted segment.
//!
//! Invariant: nothing here changes a scope. What is built stands beside it until `switch.rs` puts it in place, or is
//! thrown away. One rewrite makes at most one segment, of rows that take at most [`REWRITE_BYTES`] in memory unless they were
//! one chunk or segment before; between its pieces the host runs.
//!
//! A row is kept if it is live, if a snapshot that is read can still see it, or if it was deleted and its tombstone is
//! retained. Tombstones of rows that do not convert to the types that columns have by now are dropped: nobody asked,
//! when the types changed, whether they would.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute;
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use roaring::RoaringBitmap;

use super::chunk::{Chunk, LIVE};
use super::key_spec::KeySpec;
use super::replay::outdated;
use super::segment::{
    DeleteVector, ROW_GROUP_ROWS, SEGMENT_ROWS, Segment, SegmentMeta, SegmentRows, SegmentWriter, cold_position,
};
use super::seq::{Seq, first_seq_of_ms};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::{self, Turns};
use crate::schema::{TableDefinition, TableOptions};

/// Segments with fewer rows are merged when there are enough of them.
const SMALL_ROWS: u64 = SEGMENT_ROWS as u64 / 2;
/// A rewrite takes no more rows than have about so many bytes in memory, if that is more than one segment or chunk.
const REWRITE_BYTES: u64 = 32 << 20;
/// So many small segments of a size are merged.
const TIER_SEGMENTS: usize = 4;
/// Segments with more dead rows than this, in percent, are rewritten.
const DEAD_PERCENT: u64 = 30;

/// Tombstones with a `_seq` below this one are not shown any more, and forgotten when their rows are rewritten.
pub fn retained_since(definition: &TableDefinition) -> Seq {
    let hours = definition.options.deleted_retention_hours.unwrap_or(TableOptions::DEFAULT_DELETED_RETENTION_HOURS);
    if hours == 0 {
        return Seq::MAX;
    }
    first_seq_of_ms(platform::now_ms().saturating_sub(hours.saturating_mul(3_600_000)))
}

/// What of the rows that have ended is kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// No snapshot below it is read.
    pub horizon: Seq,
    /// Tombstones from before are forgotten.
    pub retained_since: Seq,
}

/// Why a row is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// It is live.
    Live,
    /// A snapshot may see it.
    Seen,
    /// It is a tombstone.
    Tombstone,
}

impl Keep {
    fn row(self, ended: Option<Seq>, deleted: Option<Seq>) -> Option<Kept> {
        match (ended, deleted) {
            (Some(ended), _) if ended > self.horizon => Some(Kept::Seen),
            (_, Some(deleted)) if deleted >= self.retained_since => Some(Kept::Tombstone),
            _ => None,
        }
    }
}

/// Rows on their way into a segment, each with the position where it lies now.
#[derive(Debug)]
pub struct Source {
    rows: SegmentRows,
    places: Vec<u64>,
    live: u64,
}

/// A segment that was built.
#[derive(Debug)]
pub struct Built {
    /// Its file.
    pub bytes: Bytes,
    /// Its metadata.
    pub meta: SegmentMeta,
    /// Of each of its rows the position where it lay before.
    pub places: Vec<u64>,
    /// How many of them were live.
    pub live: u64,
}

impl Source {
    /// Some rows of a segment, of which so many are live.
    pub fn of_segment(rows: SegmentRows, segment: u32, places: &RoaringBitmap, live: u64) -> Self {
        Self { rows, places: places.iter().map(|row| cold_position(segment, row)).collect(), live }
    }
}

/// The rows of the first chunks, as many as one segment takes, and which positions that are.
pub async fn chunk_sources(
    definition: &TableDefinition,
    chunks: &[Arc<Chunk>],
    below: u64,
    keep: Keep,
) -> Result<(Vec<Source>, Range<u64>)> {
    let mut turns = Turns::begin_short();
    let start = chunks.first().map_or(0, |c| c.base);
    let (mut sources, mut end, mut rows, mut bytes) = (Vec::new(), start, 0, 0);
    for chunk in chunks.iter().take_while(|c| c.base < below) {
        if chunk.schema_version > definition.schema_version {
            return Err(outdated());
        }
        let kept: Vec<(u32, Kept)> = (0..chunk.len())
            .filter_map(|row| match chunk.superseded(row) {
                LIVE => Some((row as u32, Kept::Live)),
                ended => Some((row as u32, keep.row(Some(ended), chunk.deleted_at(row))?)),
            })
            .collect();
        bytes += chunk.bytes as u64;
        if (rows + kept.len() > SEGMENT_ROWS || bytes > REWRITE_BYTES) && rows > 0 {
            break;
        }
        let source = chunk_source(definition, chunk, kept)?;
        rows += source.rows.len();
        end = chunk.end();
        sources.push(source);
        turns.pass().await;
    }
    Ok((sources, start..end))
}

fn chunk_source(definition: &TableDefinition, chunk: &Chunk, mut kept: Vec<(u32, Kept)>) -> Result<Source> {
    let rows = match chunk_rows(definition, chunk, &kept) {
        Err(_) if kept.iter().any(|(_, why)| *why == Kept::Tombstone) => {
            kept.retain(|(_, why)| *why != Kept::Tombstone);
            chunk_rows(definition, chunk, &kept)
        }
        rows => rows,
    };
    let rows = rows.map_err(still_seen)?;
    let places = kept.iter().map(|(row, _)| chunk.base + u64::from(*row)).collect();
    Ok(Source { rows, places, live: live(&kept) })
}

fn live(kept: &[(u32, Kept)]) -> u64 {
    kept.iter().filter(|(_, why)| *why == Kept::Live).count() as u64
}

/// Whether an error may say that values do not convert, and not that they cannot be read.
fn may_be_of_values(error: &KalamError) -> bool {
    error.code() != ErrorCode::DataCorrupted && !error.code().is_of_storage()
}

/// A row that an old snapshot sees does not convert: the rewrite waits until nobody reads that snapshot.
fn still_seen(error: KalamError) -> KalamError {
    if !may_be_of_values(&error) {
        return error;
    }
    KalamError::new(ErrorCode::Conflict, format!("rows cannot be rewritten yet: {}", error.message()))
}

fn chunk_rows(definition: &TableDefinition, chunk: &Chunk, kept: &[(u32, Kept)]) -> Result<SegmentRows> {
    let all = kept.len() == chunk.len();
    let picked = UInt32Array::from_iter_values(kept.iter().map(|(row, _)| *row));
    let pick = |array: &ArrayRef| {
        if all { Ok(Arc::clone(array)) } else { compute::take(array, &picked, None).map_err(KalamError::internal) }
    };
    let ints = |array: &Int64Array| -> Result<Int64Array> {
        Ok(pick(&(Arc::new(array.clone()) as ArrayRef))?.as_primitive::<Int64Type>().clone())
    };
    let columns = definition
        .columns_in_order()
        .map(|column| {
            let written = chunk.column(column.column_id).map(&pick).transpose()?;
            definition.column_now(column, written, chunk.schema_version, kept.len())
        })
        .collect::<Result<_>>()?;
    Ok(SegmentRows { columns, seqs: ints(&chunk.seqs)?, row_ids: chunk.row_ids.as_ref().map(ints).transpose()? })
}

/// The rows of some segments.
pub async fn segment_sources(
    definition: &TableDefinition,
    segments: &[Arc<Segment>],
    keep: Keep,
) -> Result<Vec<Source>> {
    let mut turns = Turns::begin_short();
    let mut sources = Vec::new();
    for segment in segments {
        let ends = Ends::of(segment.marks());
        for group in 0..segment.meta().groups() {
            let range = segment.meta().group_rows(group);
            let mut kept = kept_rows(&ends, &range, keep);
            if kept.is_empty() {
                continue;
            }
            let rows = match read_group(definition, segment, group, &range, &kept).await {
                Err(error) if may_be_of_values(&error) && kept.iter().any(|(_, why)| *why == Kept::Tombstone) => {
                    kept.retain(|(_, why)| *why != Kept::Tombstone);
                    read_group(definition, segment, group, &range, &kept).await
                }
                rows => rows,
            };
            let places = kept.iter().map(|(row, _)| cold_position(segment.meta().number, *row)).collect();
            sources.push(Source { rows: rows.map_err(still_seen)?, places, live: live(&kept) });
            turns.pass().await;
        }
    }
    Ok(sources)
}

/// When the rows that are tombstones were deleted.
pub fn deletions(marks: &DeleteVector) -> HashMap<u32, Seq> {
    marks.tombstones().iter().flat_map(|(seq, rows)| rows.iter().map(|row| (row, *seq))).collect()
}

/// When the rows ended that are remembered as recent.
fn recent_ends(marks: &DeleteVector) -> HashMap<u32, Seq> {
    marks.ended_after(Seq::MIN).flat_map(|(seq, rows)| rows.iter().map(move |row| (row, seq))).collect()
}

/// How the rows of a segment have ended, by row.
pub struct Ends {
    /// Its delete vector.
    pub marks: Arc<DeleteVector>,
    /// When rows ended, as far as that is remembered.
    pub recent: HashMap<u32, Seq>,
    /// When rows were deleted that are tombstones.
    pub deleted: HashMap<u32, Seq>,
}

impl Ends {
    /// Those of a segment.
    pub fn of(marks: Arc<DeleteVector>) -> Self {
        Self { recent: recent_ends(&marks), deleted: deletions(&marks), marks }
    }
}

fn kept_rows(ends: &Ends, range: &Range<u32>, keep: Keep) -> Vec<(u32, Kept)> {
    let why = |row| match ends.marks.has_ended(row) {
        false => Some((row, Kept::Live)),
        true => Some((row, keep.row(ends.recent.get(&row).copied(), ends.deleted.get(&row).copied())?)),
    };
    range.clone().filter_map(why).collect()
}

async fn read_group(
    definition: &TableDefinition,
    segment: &Segment,
    group: usize,
    range: &Range<u32>,
    kept: &[(u32, Kept)],
) -> Result<SegmentRows> {
    if kept.len() == range.len() {
        return segment.read_group(definition, group, None).await;
    }
    let mask = mask_of(range, kept);
    segment.read_group(definition, group, Some(&mask)).await
}

fn mask_of(range: &Range<u32>, kept: &[(u32, Kept)]) -> BooleanBuffer {
    let mut rows = kept.iter().map(|(row, _)| *row).peekable();
    BooleanBuffer::collect_bool(range.len(), |i| rows.next_if_eq(&(range.start + i as u32)).is_some())
}

/// Sorts the rows of some sources and writes them; `None` if there are none.
pub async fn build(definition: &Arc<TableDefinition>, number: u32, sources: Vec<Source>) -> Result<Option<Built>> {
    let total: usize = sources.iter().map(|s| s.rows.len()).sum();
    if total == 0 {
        return Ok(None);
    }
    let mut turns = Turns::begin_short();
    let order = sorted(definition, &sources, &mut turns).await?;
    let mut writer = SegmentWriter::new(definition, number)?;
    let mut places = Vec::with_capacity(total);
    for part in order.chunks(ROW_GROUP_ROWS) {
        let column = |get: &dyn Fn(&Source) -> &dyn Array| -> Result<ArrayRef> {
            let arrays: Vec<&dyn Array> = sources.iter().map(get).collect();
            compute::interleave(&arrays, part).map_err(KalamError::internal)
        };
        let width = sources[0].rows.columns.len();
        let columns =
            (0..width).map(|i| column(&move |s: &Source| s.rows.columns[i].as_ref())).collect::<Result<_>>()?;
        let seqs = column(&|s: &Source| &s.rows.seqs)?.as_primitive::<Int64Type>().clone();
        let row_ids: Vec<&Int64Array> = sources.iter().filter_map(|s| s.rows.row_ids.as_ref()).collect();
        let row_ids = if row_ids.len() == sources.len() {
            let arrays: Vec<&dyn Array> = row_ids.into_iter().map(|ids| ids as &dyn Array).collect();
            let ids = compute::interleave(&arrays, part).map_err(KalamError::internal)?;
            Some(ids.as_primitive::<Int64Type>().clone())
        } else {
            None
        };
        writer.push(&SegmentRows { columns, seqs, row_ids })?;
        places.extend(part.iter().map(|(source, row)| sources[*source].places[*row]));
        turns.pass().await;
    }
    let live = sources.iter().map(|s| s.live).sum();
    let (bytes, meta) = writer.finish()?;
    Ok(Some(Built { bytes, meta, places, live }))
}

/// Rows as pairs of source and row, by key and within a key by `_seq`.
async fn sorted(definition: &TableDefinition, sources: &[Source], turns: &mut Turns) -> Result<Vec<(usize, usize)>> {
    let key = KeySpec::new(definition)?;
    let mut arena = Vec::new();
    let mut rows: Vec<(Range<usize>, Seq, (usize, usize))> = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let keys = source.rows.keys(definition);
        for row in 0..source.rows.len() {
            let start = arena.len();
            key.codec().encode(&keys, row, &mut arena)?;
            rows.push((start..arena.len(), source.rows.seqs.value(row), (i, row)));
        }
        turns.pass().await;
    }
    // Stable: runs that are sorted already, as most are, cost little.
    rows.sort_by(|a, b| arena[a.0.clone()].cmp(&arena[b.0.clone()]).then(a.1.cmp(&b.1)));
    turns.pass().await;
    Ok(rows.into_iter().map(|(_, _, place)| place).collect())
}

/// Rows of a segment that a rewrite would keep, about, and those that it would leave out.
fn kept_and_dead(segment: &Segment, keep: Keep) -> (u64, u64) {
    let marks = segment.marks();
    let tombstones = marks.tombstones().iter().filter(|(seq, _)| *seq >= keep.retained_since);
    let seen: u64 = marks.ended_after(keep.horizon).map(|(_, rows)| rows.len()).sum();
    let tombstones: u64 = tombstones.filter(|(seq, _)| *seq <= keep.horizon).map(|(_, rows)| rows.len()).sum();
    let dead = marks.ended_rows().saturating_sub(tombstones + seen);
    (u64::from(segment.meta().rows) - dead, dead)
}

/// The segments to be rewritten next into one, if any are. `full` takes everything that a rewrite makes smaller.
pub fn pick(
    segments: &[Arc<Segment>],
    definition: &TableDefinition,
    keep: Keep,
    full: bool,
) -> Option<Vec<Arc<Segment>>> {
    let key_version = KeySpec::typed_since(definition, definition.schema_version);
    let mut known: Vec<(&Arc<Segment>, u64, u64)> = segments
        .iter()
        .filter(|s| s.damage().is_none())
        .map(|s| {
            let (kept, dead) = kept_and_dead(s, keep);
            (s, kept, dead)
        })
        .collect();
    known.sort_by(|a, b| a.0.meta().first_key().cmp(b.0.meta().first_key()));
    if let Some((stale, ..)) = known.iter().find(|(s, ..)| s.meta().key_version != key_version) {
        return Some(vec![Arc::clone(stale)]);
    }
    // Neighbours by key first: what is merged then has a narrow range of keys.
    let together = |candidates: Vec<(&Arc<Segment>, u64)>, least: usize| {
        let mut best: Vec<Arc<Segment>> = Vec::new();
        for start in 0..candidates.len() {
            let (mut rows, mut bytes) = (0, 0);
            let fitting = candidates[start..].iter().take_while(|(segment, kept)| {
                rows += kept;
                // Until more is known: rows take no less than their file.
                bytes += segment.memory().unwrap_or(segment.meta().bytes);
                rows <= SEGMENT_ROWS as u64 && bytes <= REWRITE_BYTES
            });
            let found: Vec<Arc<Segment>> = fitting.map(|(s, _)| Arc::clone(s)).collect();
            if found.len() > best.len() {
                best = found;
            }
        }
        (best.len() >= least).then_some(best)
    };
    let small = |wanted: Option<u32>| -> Vec<(&Arc<Segment>, u64)> {
        let tier = |kept: u64| kept.max(1).ilog(4);
        let fits = |kept: u64| kept < SMALL_ROWS && wanted.is_none_or(|t| tier(kept) == t);
        known.iter().filter(|(_, kept, _)| fits(*kept)).map(|(s, kept, _)| (*s, *kept)).collect()
    };
    if full && let Some(found) = together(small(None), 2) {
        return Some(found);
    }
    let is_dead = |rows: u64, dead: u64| dead > 0 && (full || dead * 100 > rows * DEAD_PERCENT);
    if let Some((dead, ..)) = known.iter().find(|(s, _, dead)| is_dead(u64::from(s.meta().rows), *dead)) {
        return Some(vec![Arc::clone(dead)]);
    }
    (0..SMALL_ROWS.ilog(4) + 1).find_map(|tier| together(small(Some(tier)), TIER_SEGMENTS))
}
