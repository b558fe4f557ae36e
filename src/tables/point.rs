//! A few rows by their keys, where nothing has to be waited for.
//!
//! Invariant: what is given is what a scan of the same keys gives at the newest snapshot (`scan_reader.rs`), in the same
//! order, or nothing is said: a part of the scope is not in memory, rows lie there in types that they had before, or
//! there are more than a few. No pin is taken, because the snapshot is the newest one to the end: what it sees is never
//! taken away (`pins.rs`), and if a commit became visible meanwhile, nothing is said either.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;

use super::chunk::Chunk;
use super::index::IndexRange;
use super::key_spec::KeySpec;
use super::request;
use super::scan::TableScanExec;
use super::scan_columns::ScanColumn;
use super::segment::{SEQ_FIELD_ID, Segment};
use super::seq::Seq;
use crate::schema::{IndexDefinition, Role};

/// More rows than these are read by a scan, which lets the host run and counts their bytes.
const FEW_ROWS: usize = 512;
/// Rows that take more bytes than about these, too.
const FEW_BYTES: u64 = 1 << 20;

/// Which rows are asked for, by keys that are encoded as a table's [`KeySpec`] says.
#[derive(Debug)]
pub enum Keys {
    /// The row of a key.
    One(Vec<u8>),
    /// The rows of a range.
    Range(IndexRange),
    /// The rows of a range of an index.
    Index(Arc<IndexDefinition>, IndexRange),
}

/// Rows where they lie: columns of a scan, in the types that it gives them, and which of their rows are meant.
#[derive(Debug, Default)]
pub struct KnownRows {
    sources: Vec<Vec<ArrayRef>>,
    parts: Vec<(usize, Range<usize>)>,
    rows: usize,
}

impl KnownRows {
    /// How many.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Columns and rows of them, in order.
    pub fn parts(&self) -> impl Iterator<Item = (&[ArrayRef], Range<usize>)> {
        self.parts.iter().map(|(source, rows)| (self.sources[*source].as_slice(), rows.clone()))
    }

    /// Adds a row of the last source, after those before.
    fn add(&mut self, row: usize) -> Option<()> {
        let source = self.sources.len().checked_sub(1)?;
        self.rows += 1;
        match self.parts.last_mut() {
            Some((last, rows)) if *last == source && rows.end == row => rows.end += 1,
            _ => self.parts.push((source, row..row + 1)),
        }
        (self.rows <= FEW_ROWS).then_some(())
    }
}

impl TableScanExec {
    /// Whether [`TableScanExec::known_rows`] can tell anything of this scan's columns. Events end by the clock, so streams
    /// are read as they always are.
    pub fn knows_rows(&self) -> bool {
        let plain = |column: &ScanColumn| matches!(column, ScanColumn::Table { .. } | ScanColumn::Seq);
        self.columns.iter().all(plain) && self.table.definition().options.ttl_seconds.is_none()
    }

    /// The rows of some keys, which are encoded as the table's `spec` says, as a user with a role sees them now; `None` if
    /// they have to be scanned for.
    pub fn known_rows(&self, user: &Arc<str>, role: Role, spec: &KeySpec, keys: &Keys) -> Option<KnownRows> {
        let snapshot = self.store.snapshot();
        // What fails is told by the scan that follows.
        let scope = request::scope_of(&self.table, user, role).ok()?;
        let hot = self.store.hot_now(&scope)?;
        if hot.key().version() != spec.version() {
            return None;
        }
        hot.check_snapshot(snapshot).ok()?;
        let mut found = KnownRows::default();
        match keys {
            Keys::One(key) => match hot.lookup(key, snapshot).ok()? {
                Some((chunk, row)) => {
                    found.sources.push(self.of_chunk(&chunk)?);
                    found.add(row)?;
                }
                // The segments after the hot tier: rows move from there to segments, never back.
                None => self.add_cold(&hot.segments(), keys, spec, snapshot, &mut found)?,
            },
            Keys::Range(range) => {
                let view = hot.view();
                self.add_cold(&view.segments, keys, spec, snapshot, &mut found)?;
                for chunk in view.chunks.iter() {
                    let rows = chunk.few_rows_within(hot.key().codec(), range, FEW_ROWS).ok()??;
                    self.add_hot(chunk, rows.into_iter().filter(|row| chunk.visible(*row, snapshot)), &mut found)?;
                }
            }
            Keys::Index(index, range) => {
                let (rows, segments) =
                    hot.index_in_memory(self.table.definition(), index.index_id, range, snapshot, FEW_ROWS)?;
                self.add_cold(&segments, keys, spec, snapshot, &mut found)?;
                for same in rows.chunk_by(|(a, _), (b, _)| Arc::ptr_eq(a, b)) {
                    self.add_hot(&same[0].0, same.iter().map(|(_, row)| *row), &mut found)?;
                }
            }
        }
        (self.store.snapshot() == snapshot).then_some(found)
    }

    /// Rows of a chunk, ascending.
    fn add_hot(&self, chunk: &Chunk, rows: impl Iterator<Item = usize>, found: &mut KnownRows) -> Option<()> {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return Some(());
        }
        found.sources.push(self.of_chunk(chunk)?);
        for row in rows {
            found.add(row)?;
        }
        let bytes_a_row = (chunk.bytes / chunk.len().max(1)) as u64;
        (found.len() as u64 * bytes_a_row <= FEW_BYTES).then_some(())
    }

    fn of_chunk(&self, chunk: &Chunk) -> Option<Vec<ArrayRef>> {
        let column = |column: &ScanColumn| match column {
            ScanColumn::Seq => Some(Arc::new(chunk.seqs.clone()) as ArrayRef),
            ScanColumn::Table { id, since, .. } if chunk.schema_version >= *since => chunk.column(*id).cloned(),
            _ => None,
        };
        self.columns.iter().map(column).collect()
    }

    fn add_cold(
        &self,
        segments: &[Arc<Segment>],
        keys: &Keys,
        spec: &KeySpec,
        snapshot: Seq,
        found: &mut KnownRows,
    ) -> Option<()> {
        let mut sorted: Vec<&Arc<Segment>> = segments.iter().collect();
        sorted.sort_by(|a, b| a.meta().first_key().cmp(b.meta().first_key()));
        for segment in sorted {
            let ranges = match keys {
                Keys::One(key) => segment.find_in_memory(spec, key)?,
                Keys::Range(range) => segment.range_in_memory(spec, range)?,
                Keys::Index(index, range) => {
                    let rows = segment.index_in_memory(self.table.definition(), index, range, snapshot, FEW_ROWS)?;
                    rows.into_iter().map(|row| row..row + 1).collect()
                }
            };
            let rows: usize = ranges.iter().map(Range::len).sum();
            if rows == 0 {
                continue;
            }
            let bytes = segment.memory()? / u64::from(segment.meta().rows.max(1)) * rows as u64;
            if segment.meta().max_seq > snapshot || rows > FEW_ROWS || bytes > FEW_BYTES {
                return None;
            }
            let marks = segment.marks();
            let mut source = None;
            for row in ranges.into_iter().flatten().filter(|row| marks.visible(*row, snapshot)) {
                let group = segment.meta().group_of(row);
                if source != Some(group) {
                    found.sources.push(self.of_segment(segment, group)?);
                    source = Some(group);
                }
                found.add((row - segment.meta().group_rows(group).start) as usize)?;
            }
        }
        Some(())
    }

    fn of_segment(&self, segment: &Segment, group: usize) -> Option<Vec<ArrayRef>> {
        let id = |column: &ScanColumn| match column {
            ScanColumn::Seq => Some(SEQ_FIELD_ID),
            ScanColumn::Table { id, since, .. } if segment.meta().schema_version >= *since => Some(*id),
            _ => None,
        };
        let ids: Vec<u32> = self.columns.iter().map(id).collect::<Option<_>>()?;
        segment.columns_in_memory(group, &ids)
    }
}
