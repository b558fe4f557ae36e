//! The rows of a scan, batch by batch.
//!
//! Invariant: a reader is opened on one moment of its scope and gives every row of it once: those of segments, then
//! those in memory. Between two batches it lets the host run and looks whether its request is still wanted. Whole
//! chunks are handed out without copying; values are converted to today's types after the rows are picked, so what
//! nobody sees need not convert.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{self, FilterBuilder, FilterPredicate};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::BaselineMetrics;
use futures::StreamExt;

use super::{Deletions, TableScanExec, external};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::Turns;
use crate::tables::chunk::{Chunk, Visibility};
use crate::tables::cold_scan::{ColdReader, Step};
use crate::tables::hot::{HotTable, Located};
use crate::tables::index_walk::IndexWalk;
use crate::tables::ordered_scan::{KeyRange, reversed};
use crate::tables::overlay::OverlayView;
use crate::tables::replay::outdated;
use crate::tables::request::Request;
use crate::tables::rewrite::retained_since;
use crate::tables::scan_columns::ScanColumn;
use crate::tables::segment::{ScanFilter, Segment};
use crate::tables::seq::Seq;

/// At most so many rows that were looked up make a batch.
pub(in crate::tables) const MAX_RUN: usize = 8192;

impl TableScanExec {
    /// The scope that it reads, the changes of it by the request's transaction, and its rows.
    pub(in crate::tables) async fn rows_of(&self, request: &Request) -> Result<(Option<OverlayView>, Arc<HotTable>)> {
        let scope = request.scope(&self.table)?;
        let overlay = match &request.transaction {
            Some(transaction) => transaction.overlay(&scope, self.table.schema_version())?,
            None => None,
        };
        let hot = match &overlay {
            Some(overlay) => Arc::clone(overlay.base()),
            None => self.store.hot(&scope, self.table.definition()).await?,
        };
        hot.check_snapshot(request.snapshot)?;
        Ok((overlay, hot))
    }

    /// Begins to read. `metrics` are for a run that somebody may look at.
    pub(super) async fn open(mut self, request: Arc<Request>, metrics: Option<BaselineMetrics>) -> Result<ChunkReader> {
        let (overlay, hot) = self.rows_of(&request).await?;
        let oldest = hot.expired_below(request.now_ms);
        self.deletions = self.deletions_of(&request);
        let wanted = self.wanted(request.snapshot);
        let measured = metrics.is_some().then_some(&self.metrics);
        let (source, mut cold) = match &self.keys {
            None if let Some(access) = self.index.as_ref().filter(|access| !access.is_key()) => {
                let definition = self.table.definition();
                let limit = self.fetch.filter(|_| !self.unordered).unwrap_or(usize::MAX);
                hot.use_indexes_of(definition)?;
                hot.build_index(access.index.index_id, &request).await?;
                if access.order.is_some() && limit == usize::MAX && !self.unordered && overlay.is_none() {
                    let (walk, segments) = IndexWalk::begin(&hot, access, &request, oldest)?;
                    let mut cold = ColdReader::scan(&segments, wanted, self.filter.clone(), measured);
                    cold.through_index(definition, access, limit, &request).await?;
                    // With rows of segments all of them are sorted anyway.
                    let source = if cold.is_done() { Source::Walk(walk) } else { Source::Rows(walk.rest()?) };
                    return Ok(self.reader(request, overlay, (source, cold), oldest, None, metrics));
                }
                let (mut found, segments) = hot.index_rows(access, request.snapshot, oldest, limit)?;
                let mut cold = ColdReader::scan(&segments, wanted, self.filter.clone(), measured);
                if let Some(overlay) = &overlay {
                    found = overlay.index_rows(definition, access, oldest)?;
                    cold.hide(overlay.hidden_cold());
                }
                cold.through_index(definition, access, limit, &request).await?;
                if access.order.is_none() {
                    found.sort_unstable_by_key(|found| found.position());
                }
                let rows = found.into_iter().map(|found| (found.chunk, found.row)).collect();
                (Source::Rows(rows), cold)
            }
            None => {
                let view = hot.view();
                let cold = ColdReader::scan(&view.segments, wanted, self.pruning(&view.segments), measured);
                // A scope that a transaction changes is held: its chunks are those of the view.
                (Source::Chunks(overlay.as_ref().map_or(view.chunks, OverlayView::chunks)), cold)
            }
            Some(keys) => {
                let mut rows = Located::new();
                let mut missing = Vec::new();
                for key in keys.iter() {
                    let found = match &overlay {
                        Some(overlay) => overlay.lookup(key)?,
                        None => hot.lookup(key, request.snapshot)?,
                    };
                    match found {
                        Some(row) => rows.push(row),
                        None => missing.push(key.clone()),
                    }
                }
                rows.retain(|(chunk, row)| chunk.seqs.value(*row) >= oldest);
                // The segments after the index: rows move from the hot tier to segments, never back.
                let (segments, definition) = (hot.view().segments, self.table.definition());
                let cold = ColdReader::lookup(&segments, wanted, definition, hot.key(), &missing, measured).await?;
                (Source::Rows(rows), cold)
            }
        };
        if let Some(overlay) = &overlay {
            cold.hide(overlay.hidden_cold());
        }
        let range = self.key_range(&hot)?;
        Ok(self.reader(request, overlay, (source, cold), oldest, range, metrics))
    }

    fn reader(
        self,
        request: Arc<Request>,
        overlay: Option<OverlayView>,
        (source, cold): (Source, ColdReader),
        oldest: Seq,
        range: Option<KeyRange>,
        metrics: Option<BaselineMetrics>,
    ) -> ChunkReader {
        let (remaining, turns) = (self.fetch.unwrap_or(usize::MAX), Turns::begin());
        let mut reader = ChunkReader {
            scan: self,
            request,
            overlay,
            cold,
            source,
            range,
            oldest,
            next: 0,
            remaining,
            metrics,
            turns,
        };
        if reader.is_unsorted() {
            reader.remaining = usize::MAX;
        }
        reader
    }

    /// The filter, as far as bounds say what it rules out: a deleted row is shown with the `_seq` of its deletion, which
    /// no bound knows.
    pub(in crate::tables) fn pruning(&self, segments: &[Arc<Segment>]) -> Option<Arc<ScanFilter>> {
        let shows_deleted = self.deletions.as_ref().is_some_and(|deletions| {
            let shown = |s: &Arc<Segment>| s.marks().tombstones().iter().any(|(seq, _)| deletions.contains(seq));
            segments.iter().any(shown)
        });
        self.filter.clone().filter(|_| !shows_deleted)
    }

    /// The deleted rows that it gives.
    pub(in crate::tables) fn deletions_of(&self, request: &Request) -> Option<Deletions> {
        let named = self.columns.contains(&ScanColumn::Deleted);
        named.then(|| retained_since(self.table.definition())..=request.snapshot)
    }

    /// The values of a column of the table, which were written under an earlier version of it, or before it was there.
    pub(in crate::tables) fn as_now(
        &self,
        column: &ScanColumn,
        array: Option<ArrayRef>,
        version: u32,
        rows: usize,
    ) -> Result<ArrayRef> {
        let ScanColumn::Table { id, data_type, name, initial, since } = column else {
            return Err(KalamError::internal("a system column has no versions"));
        };
        Ok(match (array, initial) {
            (Some(array), _) if version >= *since => array,
            (Some(array), _) => self.convert(array, *id, name, version)?,
            (None, None) => arrow::array::new_null_array(&data_type.arrow_type(), rows),
            (None, Some(one)) => {
                compute::take(one, &UInt32Array::from(vec![0; rows]), None).map_err(KalamError::internal)?
            }
        })
    }

    /// A column of some rows of a chunk, which may have been written under an earlier version of the table. Values
    /// are converted after the rows are picked: what is not visible any more need not convert.
    fn column(&self, column: &ScanColumn, chunk: &Chunk, rows: &Pick) -> Result<ArrayRef> {
        Ok(match column {
            ScanColumn::Seq if self.deletions.is_some() => {
                let seq = |row| self.deletion(chunk, row).unwrap_or_else(|| chunk.seqs.value(row));
                rows.of(&(Arc::new(Int64Array::from_iter_values((0..chunk.len()).map(seq))) as ArrayRef))?
            }
            ScanColumn::Deleted => {
                let deleted: BooleanArray =
                    (0..chunk.len()).map(|row| Some(self.deletion(chunk, row).is_some())).collect();
                rows.of(&(Arc::new(deleted) as ArrayRef))?
            }
            ScanColumn::Seq => rows.of(&(Arc::new(chunk.seqs.clone()) as ArrayRef))?,
            ScanColumn::RowId => match &chunk.row_ids {
                Some(ids) => rows.of(&(Arc::new(ids.clone()) as ArrayRef))?,
                None => return Err(KalamError::internal("a table with a primary key has no row ids")),
            },
            ScanColumn::Position => match rows {
                Pick::Range(start, len) => {
                    let first = chunk.base as i64 + *start as i64;
                    Arc::new(Int64Array::from_iter_values(first..first + *len as i64))
                }
                _ => rows
                    .of(&(Arc::new(Int64Array::from_iter_values(chunk.base as i64..chunk.end() as i64)) as ArrayRef))?,
            },
            ScanColumn::Table { id, .. } => {
                let array = chunk.column(*id).map(|array| rows.of(array)).transpose()?;
                self.as_now(column, array, chunk.schema_version, rows.len(chunk))?
            }
        })
    }

    /// When a row was deleted, if the scan gives it as such.
    fn deletion(&self, chunk: &Chunk, row: usize) -> Option<Seq> {
        let deletions = self.deletions.as_ref()?;
        chunk.deleted_at(row).filter(|seq| deletions.contains(seq))
    }

    /// Which rows of a chunk the scan gives.
    fn visibility(&self, chunk: &Chunk, overlay: Option<&OverlayView>, oldest: Seq, snapshot: Seq) -> Visibility {
        let live = match overlay {
            Some(overlay) => overlay.visibility(chunk, oldest),
            None => chunk.visibility_since(oldest, snapshot),
        };
        if self.deletions.is_none() {
            return live;
        }
        let shown = |row| live.holds(row) || self.deletion(chunk, row).is_some();
        Visibility::of(BooleanBuffer::collect_bool(chunk.len(), shown))
    }

    /// Leads values through every type that their column had since they were written.
    fn convert(&self, array: ArrayRef, id: u32, name: &str, version: u32) -> Result<ArrayRef> {
        self.table.definition().as_now(id, name, array, version).map_err(|e| {
            // The ALTER checked all rows that were live then: this one is of an older snapshot.
            let message =
                format!("a row of '{}' ended before an ALTER it cannot follow: {}", self.table.table_id(), e.message());
            KalamError::new(ErrorCode::Conflict, message).with_hint("Run the statement or transaction again.")
        })
    }

    pub(in crate::tables) fn batch(&self, chunk: &Chunk, rows: &Pick) -> Result<RecordBatch> {
        if chunk.schema_version > self.table.schema_version() {
            return Err(outdated());
        }
        let columns = self.columns.iter().map(|c| self.column(c, chunk, rows)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len(chunk)));
        RecordBatch::try_new_with_options(self.schema(), columns, &options).map_err(KalamError::internal)
    }
}

/// Rows of a chunk.
pub(in crate::tables) enum Pick {
    All,
    /// So many from a row on.
    Range(usize, usize),
    /// Those listed, in that order.
    List(UInt32Array),
    /// Those of a mask.
    Mask(FilterPredicate),
}

impl Pick {
    fn of(&self, array: &ArrayRef) -> Result<ArrayRef> {
        match self {
            Pick::All => Ok(Arc::clone(array)),
            Pick::Range(start, len) => Ok(array.slice(*start, *len)),
            Pick::List(rows) => compute::take(array, rows, None).map_err(KalamError::internal),
            Pick::Mask(predicate) => predicate.filter(array).map_err(KalamError::internal),
        }
    }

    fn len(&self, chunk: &Chunk) -> usize {
        match self {
            Pick::All => chunk.len(),
            Pick::Range(_, len) => *len,
            Pick::List(rows) => rows.len(),
            Pick::Mask(predicate) => predicate.count(),
        }
    }
}

/// Where the hot rows of a scan are.
pub(in crate::tables) enum Source {
    Chunks(Arc<Vec<Arc<Chunk>>>),
    Rows(Located),
    /// In the order of an index.
    Walk(IndexWalk),
}

pub(in crate::tables) type Batches = futures::stream::BoxStream<'static, datafusion::common::Result<RecordBatch>>;

/// Gives the batches of a scan one by one.
pub(in crate::tables) struct ChunkReader {
    pub(in crate::tables) scan: TableScanExec,
    pub(in crate::tables) request: Arc<Request>,
    /// What the request's transaction changed.
    pub(in crate::tables) overlay: Option<OverlayView>,
    pub(in crate::tables) cold: ColdReader,
    pub(in crate::tables) source: Source,
    /// The range of keys that is wanted of chunks.
    pub(in crate::tables) range: Option<KeyRange>,
    /// Rows with a lower `_seq` are events that are too old.
    pub(in crate::tables) oldest: Seq,
    pub(in crate::tables) next: usize,
    pub(in crate::tables) remaining: usize,
    /// For a run that somebody may look at.
    pub(in crate::tables) metrics: Option<BaselineMetrics>,
    pub(in crate::tables) turns: Turns,
}

impl TableScanExec {
    /// Reads it to its end, past what runs plans: for a lookup that was not planned, so nothing in it is open.
    pub async fn read(self, request: Arc<Request>) -> Result<Vec<RecordBatch>> {
        let mut reader = self.open(request, None).await?;
        let mut batches = Vec::new();
        while let Some(batch) = reader.next_batch().await? {
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
        }
        Ok(batches)
    }
}

impl ChunkReader {
    /// Whether its rows still have to be brought into the order that an index promises: those of segments come by
    /// segment, and the index of this run may be another.
    pub(super) fn is_unsorted(&self) -> bool {
        self.scan.index_order.is_some() && (self.scan.unordered || !self.cold.is_done())
    }

    pub(in crate::tables) fn into_stream(self) -> Batches {
        futures::stream::unfold(self, |mut reader| async move {
            reader.next_batch().await.map_err(external).transpose().map(|batch| (batch, reader))
        })
        .boxed()
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        while self.remaining > 0 {
            self.request.pass(&mut self.turns).await?;
            let timer = self.metrics.as_ref().map(|metrics| metrics.elapsed_compute().clone());
            let _timer = timer.as_ref().map(|timer| timer.timer());
            let batch = match self.cold.next(self.remaining).await? {
                Step::Rows(rows) if self.cold.is_backward() => Some(reversed(&self.scan.cold_batch(&rows)?)?),
                Step::Rows(rows) => Some(self.scan.cold_batch(&rows)?),
                Step::Nothing => None,
                Step::End => match self.read()? {
                    Some(batch) => batch,
                    None => return Ok(None),
                },
            };
            let Some(batch) = batch else { continue };
            let batch = if batch.num_rows() > self.remaining { batch.slice(0, self.remaining) } else { batch };
            self.remaining -= batch.num_rows();
            if let Some(metrics) = &self.metrics {
                metrics.record_output(batch.num_rows());
            }
            return Ok(Some(batch));
        }
        Ok(None)
    }

    /// Whether a row is one of those that the scan gives.
    pub(in crate::tables) fn sees(&self, chunk: &Chunk, row: usize) -> bool {
        let visible = match &self.overlay {
            Some(overlay) => overlay.sees(chunk, row),
            None => chunk.visible(row, self.request.snapshot),
        };
        visible && chunk.seqs.value(row) >= self.oldest
    }

    /// `None` at the end; `Some(None)` for a chunk without a visible row.
    fn read(&mut self) -> Result<Option<Option<RecordBatch>>> {
        if let Source::Walk(walk) = &mut self.source {
            return Ok(match walk.step()? {
                None => None,
                Some(rows) if rows.is_empty() => Some(None),
                Some(rows) => Some(Some(self.scan.found_rows_batch(&rows)?)),
            });
        }
        let at = self.next;
        self.next += 1;
        match &self.source {
            Source::Walk(_) => Ok(None),
            Source::Rows(rows) => {
                let Some((chunk, row)) = rows.get(at) else { return Ok(None) };
                // The rows that follow in the same chunk come along.
                let same = |(other, _): &&(Arc<Chunk>, usize)| Arc::ptr_eq(other, chunk);
                let run = rows[at..].iter().take(MAX_RUN).take_while(same);
                let list: UInt32Array = run.map(|(_, row)| *row as u32).collect();
                self.next = at + list.len();
                let pick = if list.len() == 1 { Pick::Range(*row, 1) } else { Pick::List(list) };
                Ok(Some(Some(self.scan.batch(chunk, &pick)?)))
            }
            Source::Chunks(chunks) => {
                let Some(chunk) = chunks.get(at) else { return Ok(None) };
                if let Some(range) = &self.range
                    && let Some(mut rows) = chunk.rows_within(&range.codec, &range.access.ranges)?
                {
                    rows.retain(|row| self.sees(chunk, *row as usize));
                    let rows = UInt32Array::from(rows);
                    return Ok(Some(
                        (!rows.is_empty()).then(|| self.scan.batch(chunk, &Pick::List(rows))).transpose()?,
                    ));
                }
                Ok(Some(match self.scan.visibility(chunk, self.overlay.as_ref(), self.oldest, self.request.snapshot) {
                    Visibility::None => None,
                    Visibility::All => Some(self.scan.batch(chunk, &Pick::All)?),
                    Visibility::First(rows) => Some(self.scan.batch(chunk, &Pick::Range(0, rows))?),
                    Visibility::Some(mask) => {
                        let predicate = FilterBuilder::new(&BooleanArray::new(mask, None)).optimize().build();
                        Some(self.scan.batch(chunk, &Pick::Mask(predicate))?)
                    }
                }))
            }
        }
    }
}
