//! One row by its whole key, where nothing has to be waited for.
//!
//! Invariant: what is given is what the lookup of the same key gives at the newest snapshot (`scan_reader.rs`), or
//! nothing is said: a part of the scope is not in memory, or rows lie there in types that they had before. No pin is
//! taken, because the snapshot is the newest one to the end: what it sees is never taken away (`pins.rs`), and if a
//! commit became visible meanwhile, nothing is said either.

use std::sync::Arc;

use arrow::array::ArrayRef;

use super::hot::HotTable;
use super::key_spec::KeySpec;
use super::request;
use super::scan::TableScanExec;
use super::scan_columns::ScanColumn;
use super::segment::{SEQ_FIELD_ID, Segment};
use super::seq::Seq;
use crate::schema::Role;

/// What is known of a key; see the module's comment.
#[derive(Debug)]
pub enum Point {
    /// Its row.
    Row(PointRow),
    /// It has none.
    Missing,
    /// It has to be looked up.
    Unknown,
}

/// A row where it lies: the columns of a scan, and its place in each of them.
#[derive(Debug)]
pub struct PointRow {
    /// The columns, in the types that the scan gives them.
    pub columns: Vec<ArrayRef>,
    /// The row's place.
    pub row: usize,
}

impl TableScanExec {
    /// Whether [`TableScanExec::point`] can tell anything of this scan's columns. Events end by the clock, so streams
    /// are read as they always are.
    pub fn knows_points(&self) -> bool {
        let plain = |column: &ScanColumn| matches!(column, ScanColumn::Table { .. } | ScanColumn::Seq);
        self.columns.iter().all(plain) && self.table.definition().options.ttl_seconds.is_none()
    }

    /// The row of a key, which is encoded as the table's `spec` says, as a user with a role sees it now.
    pub fn point(&self, user: &Arc<str>, role: Role, spec: &KeySpec, key: &[u8]) -> Point {
        match self.find_point(user, role, spec, key) {
            Some(Some(row)) => Point::Row(row),
            Some(None) => Point::Missing,
            None => Point::Unknown,
        }
    }

    fn find_point(&self, user: &Arc<str>, role: Role, spec: &KeySpec, key: &[u8]) -> Option<Option<PointRow>> {
        let snapshot = self.store.snapshot();
        // What fails is told by the lookup that follows.
        let scope = request::scope_of(&self.table, user, role).ok()?;
        let hot = self.store.hot_now(&scope)?;
        if hot.key().version() != spec.version() {
            return None;
        }
        hot.check_snapshot(snapshot).ok()?;
        let found = match hot.lookup(key, snapshot).ok()? {
            Some((chunk, row)) => {
                let columns = self.columns.iter().map(|column| match column {
                    ScanColumn::Seq => Some(Arc::new(chunk.seqs.clone()) as ArrayRef),
                    ScanColumn::Table { id, since, .. } if chunk.schema_version >= *since => chunk.column(*id).cloned(),
                    _ => None,
                });
                Some(PointRow { columns: columns.collect::<Option<_>>()?, row })
            }
            None => self.find_cold(&hot, key, snapshot)?,
        };
        (self.store.snapshot() == snapshot).then_some(found)
    }

    /// The segments after the hot tier: rows move from there to segments, never back.
    fn find_cold(&self, hot: &HotTable, key: &[u8], snapshot: Seq) -> Option<Option<PointRow>> {
        for segment in hot.segments().iter() {
            let found = segment.find_in_memory(hot.key(), key)?;
            if found.is_empty() {
                continue;
            }
            if segment.meta().max_seq > snapshot {
                return None;
            }
            let marks = segment.marks();
            if let Some(row) = found.into_iter().find(|row| marks.visible(*row, snapshot)) {
                return self.of_segment(segment, row).map(Some);
            }
        }
        Some(None)
    }

    fn of_segment(&self, segment: &Segment, row: u32) -> Option<PointRow> {
        let group = segment.meta().group_of(row);
        let columns = self.columns.iter().map(|column| match column {
            ScanColumn::Seq => segment.column_in_memory(group, SEQ_FIELD_ID),
            ScanColumn::Table { id, since, .. } if segment.meta().schema_version >= *since => {
                segment.column_in_memory(group, *id)
            }
            _ => None,
        });
        let row = (row - segment.meta().group_rows(group).start) as usize;
        Some(PointRow { columns: columns.collect::<Option<_>>()?, row })
    }
}
