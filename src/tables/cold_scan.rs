//! The cold part of a scan: what it reads of the segments of a table scope.
//!
//! Invariant: it gives exactly the rows of the segments that its snapshot sees, less those that its filter rules out,
//! segment after segment in the order of their keys. The unit of work is a row group; between two of them whoever
//! reads may stop, and nothing was read ahead. How many rows are still wanted is asked before each, so that a LIMIT
//! decodes no more than it needs.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::ScalarValue;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use roaring::RoaringBitmap;

use super::index_access::IndexAccess;
use super::key_spec::KeySpec;
use super::request::Request;
use super::scan::{Deletions, TableScanExec};
use super::scan_columns::{DELETED_COLUMN, POSITION_COLUMN, ROW_ID_COLUMN, SEQ_COLUMN, ScanColumn};
use super::segment::{GroupRows, ROW_ID_FIELD_ID, SEQ_FIELD_ID, ScanFilter, Segment, cold_position};
use super::seq::Seq;
use crate::error::{KalamError, Result};
use crate::platform::Turns;
use crate::schema::TableDefinition;

/// Rows of a segment, in the types that they were written with.
#[derive(Debug)]
pub(super) struct ColdRows {
    /// The schema version that they were written under.
    pub schema_version: u32,
    /// How many.
    pub len: usize,
    /// Their positions, if they were asked for.
    pub positions: Option<Int64Array>,
    /// Which of them were deleted, if that was asked for.
    pub deleted: Option<BooleanArray>,
    columns: Vec<(u32, Option<ArrayRef>)>,
}

impl ColdRows {
    /// A column, if the rows were written with it and it was asked for.
    pub fn column(&self, id: u32) -> Option<&ArrayRef> {
        self.columns.iter().find(|(i, _)| *i == id)?.1.as_ref()
    }
}

/// What of the rows is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Ids of columns, `_seq` and `_rowid` included.
    pub ids: Vec<u32>,
    /// Whether their positions are.
    pub positions: bool,
    /// Who sees them.
    pub snapshot: Seq,
    /// Which deleted rows are wanted too; then each row says whether it was deleted.
    pub deletions: Option<Deletions>,
    /// Set if of all rows of a segment only the least and the greatest value of each column matter: for each of `ids` the
    /// schema version that gave it its type.
    pub extremes: Option<Vec<u32>>,
}

#[derive(Debug)]
enum Work {
    Segment(Arc<Segment>),
    Group(Arc<Segment>, usize),
    Rows(Arc<Segment>, Vec<u32>),
}

/// One step of a [`ColdReader`].
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time; and on wasm32 it is not large")]
pub(super) enum Step {
    Rows(ColdRows),
    /// There was no row to give.
    Nothing,
    End,
}

/// Reads the segments of a scope; see the module's comment.
#[derive(Debug)]
pub(super) struct ColdReader {
    wanted: Wanted,
    filter: Option<Arc<ScanFilter>>,
    work: VecDeque<Work>,
    /// Rows by segment that the request's own transaction has ended.
    hidden: Vec<(u32, RoaringBitmap)>,
    /// Whether it reads the last row groups first. The rows of each come in the order of their keys all the same.
    backward: bool,
    metrics: Option<ColdMetrics>,
}

/// What EXPLAIN ANALYZE shows. Bytes and hits are counted by segment: of statements that read one at the same time,
/// each may count what the other read.
#[derive(Debug)]
struct ColdMetrics {
    segments_pruned: Count,
    groups_pruned: Count,
    pages_pruned: Count,
    rows_read: Count,
    bytes_read: Count,
    cache_hits: Count,
}

impl ColdMetrics {
    fn new(metrics: &ExecutionPlanMetricsSet) -> Self {
        let counter = |name| MetricBuilder::new(metrics).counter(name, 0);
        Self {
            segments_pruned: counter("segments_pruned"),
            groups_pruned: counter("row_groups_pruned"),
            pages_pruned: counter("pages_pruned"),
            rows_read: counter("rows_read"),
            bytes_read: counter("bytes_read"),
            cache_hits: counter("cache_hits"),
        }
    }
}

impl ColdReader {
    /// Reads every row that the filter leaves.
    pub fn scan(
        segments: &[Arc<Segment>],
        wanted: Wanted,
        filter: Option<Arc<ScanFilter>>,
        metrics: Option<&ExecutionPlanMetricsSet>,
    ) -> Self {
        // Tables without segments show no such metrics.
        let metrics = metrics.filter(|_| !segments.is_empty()).map(ColdMetrics::new);
        let mut sorted: Vec<Arc<Segment>> =
            segments.iter().filter(|s| s.meta().min_seq <= wanted.snapshot).cloned().collect();
        sorted.sort_by(|a, b| a.meta().first_key().cmp(b.meta().first_key()));
        if let Some(filter) = filter.as_ref().filter(|_| !sorted.is_empty()) {
            let mut keep = filter.segments(&sorted).into_iter();
            sorted.retain(|_| keep.next().unwrap_or(true));
        }
        if let Some(metrics) = &metrics {
            metrics.segments_pruned.add(segments.len() - sorted.len());
        }
        let work = sorted.into_iter().map(Work::Segment).collect();
        Self { wanted, filter, work, hidden: Vec::new(), backward: false, metrics }
    }

    /// Reads the rows of some keys, which are encoded as `key` says.
    pub async fn lookup(
        segments: &[Arc<Segment>],
        wanted: Wanted,
        definition: &TableDefinition,
        key: &KeySpec,
        keys: &[Vec<u8>],
        metrics: Option<&ExecutionPlanMetricsSet>,
    ) -> Result<Self> {
        let mut reader = Self::scan(&[], wanted, None, metrics);
        if segments.is_empty() || keys.is_empty() {
            return Ok(reader);
        }
        reader.metrics = metrics.map(ColdMetrics::new);
        for segment in segments {
            let before = Before::of(segment);
            let found = segment.find_keys(definition, key, keys).await?;
            let rows: Vec<u32> = found.into_iter().map(|(_, row)| row).collect();
            let rows = segment.visible(&rows, reader.wanted.snapshot).await?;
            reader.count(&before, segment, 0);
            if !rows.is_empty() {
                reader.work.push_back(Work::Rows(Arc::clone(segment), rows));
            }
        }
        Ok(reader)
    }

    /// Of the segments that are left, only the rows in a part of an index: of each segment the first `limit` in the
    /// order that is asked for.
    pub async fn through_index(
        &mut self,
        definition: &TableDefinition,
        access: &IndexAccess,
        limit: usize,
        request: &Request,
    ) -> Result<()> {
        let mut turns = Turns::begin();
        for work in std::mem::take(&mut self.work) {
            let Work::Segment(segment) = work else { continue };
            request.pass(&mut turns).await?;
            let before = Before::of(&segment);
            let hidden = self.hidden_in(&segment).cloned().unwrap_or_default();
            let is_hidden = |row| hidden.contains(row);
            let rows = segment.index_rows(definition, access, self.wanted.snapshot, is_hidden, limit).await?;
            self.count(&before, &segment, 0);
            if !rows.is_empty() {
                self.work.push_back(Work::Rows(segment, rows));
            }
        }
        Ok(())
    }

    /// Reads the last segments and row groups first, if `backward`.
    pub fn directed(mut self, backward: bool) -> Self {
        if backward != self.backward {
            self.work.make_contiguous().reverse();
            self.backward = backward;
        }
        self
    }

    /// Whether it reads the last row groups first.
    pub fn is_backward(&self) -> bool {
        self.backward
    }

    /// Whether there is nothing to read.
    pub fn is_done(&self) -> bool {
        self.work.is_empty()
    }

    /// Leaves out rows, by segment, that the request's own transaction has ended.
    pub fn hide(&mut self, hidden: Vec<(u32, RoaringBitmap)>) {
        self.hidden = hidden;
    }

    fn hidden_in(&self, segment: &Segment) -> Option<&RoaringBitmap> {
        self.hidden.iter().find(|(number, _)| *number == segment.meta().number).map(|(_, rows)| rows)
    }

    fn count(&self, before: &Before, segment: &Segment, rows: usize) {
        if let Some(metrics) = &self.metrics {
            metrics.rows_read.add(rows);
            metrics.bytes_read.add((segment.bytes_read() - before.bytes) as usize);
            metrics.cache_hits.add((segment.cache_hits() - before.hits) as usize);
        }
    }

    /// Does the next unit of work. At most `remaining` rows are wanted; there may be more in what is given.
    pub async fn next(&mut self, remaining: usize) -> Result<Step> {
        let Some(work) = self.work.pop_front() else { return Ok(Step::End) };
        match work {
            Work::Segment(segment) => {
                if let Some(rows) = self.extremes(&segment)? {
                    return Ok(Step::Rows(rows));
                }
                let before = Before::of(&segment);
                let groups = segment.meta().groups();
                let keep = match &self.filter {
                    Some(filter) => filter.groups(&segment).await?,
                    None => vec![true; groups],
                };
                self.count(&before, &segment, 0);
                if let Some(metrics) = &self.metrics {
                    metrics.groups_pruned.add(keep.iter().filter(|keep| !**keep).count());
                }
                for group in (0..groups).rev() {
                    let group = if self.backward { groups - 1 - group } else { group };
                    if !keep[group] {
                        continue;
                    }
                    self.work.push_front(Work::Group(Arc::clone(&segment), group));
                }
                Ok(Step::Nothing)
            }
            Work::Group(segment, group) => {
                let before = Before::of(&segment);
                let (step, rows) = match self.wanted.deletions.clone() {
                    None => self.read_group(&segment, group, remaining).await?,
                    Some(deletions) => self.read_with_deleted(&segment, group, &deletions).await?,
                };
                self.count(&before, &segment, rows);
                Ok(step)
            }
            Work::Rows(segment, mut rows) => {
                if let Some(hidden) = self.hidden_in(&segment) {
                    rows.retain(|row| !hidden.contains(*row));
                }
                if rows.is_empty() {
                    return Ok(Step::Nothing);
                }
                let before = Before::of(&segment);
                let arrays = segment.take(&rows, &self.wanted.ids).await?;
                self.count(&before, &segment, rows.len());
                let number = segment.meta().number;
                let positions = rows.iter().map(|row| cold_position(number, *row) as i64);
                let positions = self.wanted.positions.then(|| Int64Array::from_iter_values(positions));
                Ok(Step::Rows(self.rows(&segment, rows.len(), positions, arrays)))
            }
        }
    }

    /// Two rows in place of all: one of the least values, one of the greatest. `None` if that is not asked for, or the
    /// manifest does not know it of the rows that are seen.
    fn extremes(&self, segment: &Segment) -> Result<Option<ColdRows>> {
        let (Some(since), meta) = (&self.wanted.extremes, segment.meta()) else { return Ok(None) };
        let hidden = self.hidden_in(segment).is_some_and(|hidden| !hidden.is_empty());
        if hidden || meta.max_seq > self.wanted.snapshot || !segment.marks().is_empty() {
            return Ok(None);
        }
        let mut arrays = Vec::with_capacity(since.len());
        for (id, since) in self.wanted.ids.iter().zip(since) {
            // What was added later has one value in all of these rows.
            let Some(column) = meta.column(*id) else {
                arrays.push(None);
                continue;
            };
            let data_type = column.data_type.arrow_type();
            let array = match (&column.min, &column.max) {
                (Some(min), Some(max)) if column.exact => {
                    ScalarValue::iter_to_array([min.clone(), max.clone()]).map_err(KalamError::internal)?
                }
                (None, None) if column.nulls == meta.rows => new_null_array(&data_type, 2),
                _ => return Ok(None),
            };
            // Values of an earlier type need not sort as those of today's.
            if meta.schema_version < *since || *array.data_type() != data_type {
                return Ok(None);
            }
            arrays.push(Some(array));
        }
        Ok(Some(self.rows(segment, 2, None, arrays)))
    }

    fn rows(
        &self,
        segment: &Segment,
        len: usize,
        positions: Option<Int64Array>,
        arrays: Vec<Option<ArrayRef>>,
    ) -> ColdRows {
        let columns = self.wanted.ids.iter().copied().zip(arrays).collect();
        ColdRows { schema_version: segment.meta().schema_version, len, positions, deleted: None, columns }
    }

    /// The visible rows of a row group, and how many rows were decoded for them.
    async fn read_group(&self, segment: &Segment, group: usize, remaining: usize) -> Result<(Step, usize)> {
        let rows = segment.meta().group_rows(group);
        let mut mask = segment.visibility(group, self.wanted.snapshot).await?;
        if let Some(hidden) = self.hidden_in(segment) {
            let shown = BooleanBuffer::collect_bool(rows.len(), |i| !hidden.contains(rows.start + i as u32));
            mask = Some(mask.map_or(shown.clone(), |mask| &mask & &shown));
        }
        let mut rows = GroupRows::new(segment, group, mask);
        let ids = &self.wanted.ids;
        if rows.len() > 0 && !segment.all_cached(group, ids) {
            if let Some(filter) = &self.filter
                && let Some((left, pruned)) = filter.pages(segment, group).await?
            {
                if let Some(metrics) = &self.metrics {
                    metrics.pages_pruned.add(pruned);
                }
                rows.retain_ranges(&left);
            }
            if !self.backward {
                rows.truncate(remaining);
            }
            if let Some(filter) = &self.filter {
                filter.narrow(segment, &mut rows, ids).await?;
            }
        }
        self.given(segment, group, rows).await
    }

    /// The wanted rows of a row group, and how many were decoded for them.
    async fn given(&self, segment: &Segment, group: usize, mut rows: GroupRows<'_>) -> Result<(Step, usize)> {
        if rows.len() == 0 {
            return Ok((Step::Nothing, rows.decoded()));
        }
        let arrays = rows.columns(&self.wanted.ids).await?;
        let first = cold_position(segment.meta().number, segment.meta().group_rows(group).start) as i64;
        let positions = || Int64Array::from_iter_values(rows.indices().map(|row| first + i64::from(row)));
        let positions = self.wanted.positions.then(positions);
        Ok((Step::Rows(self.rows(segment, rows.len(), positions, arrays)), rows.decoded()))
    }

    /// Like [`ColdReader::read_group`], with the rows that were deleted; their `_seq` is that of the deletion.
    async fn read_with_deleted(&self, segment: &Segment, group: usize, deletions: &Deletions) -> Result<(Step, usize)> {
        let rows = segment.meta().group_rows(group);
        let visible = segment.visibility(group, self.wanted.snapshot).await?;
        let hidden = self.hidden_in(segment);
        let seen = |i: usize| {
            visible.as_ref().is_none_or(|mask| mask.value(i))
                && hidden.is_none_or(|h| !h.contains(rows.start + i as u32))
        };
        let mut deleted_at: Vec<Option<Seq>> = vec![None; rows.len()];
        for (seq, deleted) in segment.marks().tombstones().iter().filter(|(seq, _)| deletions.contains(seq)) {
            for row in deleted.range(rows.clone()) {
                deleted_at[(row - rows.start) as usize] = Some(*seq);
            }
        }
        let mask = BooleanBuffer::collect_bool(rows.len(), |i| deleted_at[i].is_some() || seen(i));
        let deleted: BooleanArray = mask.set_indices().map(|i| Some(deleted_at[i].is_some())).collect();
        let deleted_at: Vec<Option<Seq>> = mask.set_indices().map(|i| deleted_at[i]).collect();
        let (step, decoded) = self.given(segment, group, GroupRows::new(segment, group, Some(mask))).await?;
        let Step::Rows(mut found) = step else { return Ok((step, decoded)) };
        for (_, array) in found.columns.iter_mut().filter(|(id, _)| *id == SEQ_FIELD_ID) {
            let Some(seqs) = array.as_ref() else { continue };
            let seqs: &Int64Array = seqs.as_primitive();
            let seqs = deleted_at.iter().zip(seqs.values()).map(|(deleted, seq)| deleted.unwrap_or(*seq));
            *array = Some(Arc::new(Int64Array::from_iter_values(seqs)));
        }
        found.deleted = Some(deleted);
        Ok((Step::Rows(found), decoded))
    }
}

impl TableScanExec {
    /// What it needs of cold rows.
    pub(super) fn wanted(&self, snapshot: Seq) -> Wanted {
        let id = |column: &ScanColumn| match column {
            ScanColumn::Table { id, .. } => Some(*id),
            ScanColumn::Seq => Some(SEQ_FIELD_ID),
            ScanColumn::RowId => Some(ROW_ID_FIELD_ID),
            ScanColumn::Deleted | ScanColumn::Position => None,
        };
        let positions = self.columns.contains(&ScanColumn::Position);
        let deletions = self.deletions.clone();
        let since = |column: &ScanColumn| match column {
            ScanColumn::Table { since, .. } => Some(*since),
            _ => None,
        };
        // One for each id: such a scan has columns of the table alone.
        let extremes = self.extremes.then(|| self.columns.iter().filter_map(since).collect());
        Wanted { ids: self.columns.iter().filter_map(id).collect(), positions, snapshot, deletions, extremes }
    }

    /// The batch of cold rows.
    pub(super) fn cold_batch(&self, rows: &ColdRows) -> Result<RecordBatch> {
        if rows.schema_version > self.table.schema_version() {
            return Err(super::replay::outdated());
        }
        let missing = |name| KalamError::internal(format_args!("cold rows without {name}"));
        let column = |column: &ScanColumn| match column {
            ScanColumn::Seq => rows.column(SEQ_FIELD_ID).cloned().ok_or_else(|| missing(SEQ_COLUMN)),
            ScanColumn::RowId => rows.column(ROW_ID_FIELD_ID).cloned().ok_or_else(|| missing(ROW_ID_COLUMN)),
            ScanColumn::Deleted => {
                let deleted = rows.deleted.clone().map(|d| Arc::new(d) as ArrayRef);
                deleted.ok_or_else(|| missing(DELETED_COLUMN))
            }
            ScanColumn::Position => {
                let positions = rows.positions.clone().map(|p| Arc::new(p) as ArrayRef);
                positions.ok_or_else(|| missing(POSITION_COLUMN))
            }
            ScanColumn::Table { id, .. } => {
                self.as_now(column, rows.column(*id).cloned(), rows.schema_version, rows.len)
            }
        };
        let columns = self.columns.iter().map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len));
        RecordBatch::try_new_with_options(self.schema(), columns, &options).map_err(KalamError::internal)
    }
}

struct Before {
    bytes: u64,
    hits: u64,
}

impl Before {
    fn of(segment: &Segment) -> Self {
        Self { bytes: segment.bytes_read(), hits: segment.cache_hits() }
    }
}
