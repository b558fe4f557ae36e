//! A scan in key order: how ORDER BY on the key needs no sort.
//!
//! Segments are sorted by key, so those whose ranges of keys do not meet are read one after the other; such a run is a
//! lane. Chunks in memory know their order (`key_order.rs`); merged they are one more lane, which reads only as many rows
//! as are asked for. Against the order each lane is read from its end. Invariant: each lane is in key order, and lanes are merged, so
//! what comes out is in key order whatever was written since the plan was made; a plan that promises the order keeps
//! the promise each time it runs.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::UInt32Array;
use arrow::compute::{SortOptions, concat_batches, interleave_record_batch, take_record_batch};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result as DfResult;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::BaselineMetrics;
use datafusion::physical_plan::sorts::sort::sort_batch;
use datafusion::physical_plan::sorts::streaming_merge::StreamingMergeBuilder;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt};

use super::chunk::Chunk;
use super::cold_scan::ColdReader;
use super::hot::HotTable;
use super::index::IndexRange;
use super::index_access::IndexAccess;
use super::key_order::KeyMerge;
use super::key_spec::KeySpec;
use super::overlay::OverlayView;
use super::replay::outdated;
use super::request::Request;
use super::scan::{Batches, ChunkReader, MAX_RUN, Pick, Source, TableScanExec, external};
use super::scan_columns::ScanColumn;
use super::segment::Segment;
use crate::error::{KalamError, Result};
use crate::platform::Turns;
use crate::schema::{ColumnDefinition, TableDefinition};
use crate::types::{KalamDataType, KeyCodec};

/// Rows of the first batch from memory: a page of a list reads no more.
const FIRST_ROWS: usize = 64;

/// Rows in memory up to which sorting them beats sorting everything.
const MAX_HOT_ROWS: u64 = 65_536;

impl TableScanExec {
    /// Like [`TableScanExec::open`], in the order of the key.
    pub(super) async fn open_in_order(
        mut self,
        request: Arc<Request>,
        metrics: BaselineMetrics,
        order: &LexOrdering,
        backward: bool,
        context: &TaskContext,
    ) -> datafusion::common::Result<Batches> {
        let (overlay, hot) = self.rows_of(&request).await.map_err(external)?;
        let range = self.key_range(&hot).map_err(external)?;
        let oldest = hot.expired_below(request.now_ms);
        self.deletions = self.deletions_of(&request);
        let (view, schema) = (hot.view(), self.schema());
        let (lanes, others) = lanes(&view.segments, hot.key());
        // Rows count once, when they leave.
        let reader = |segments: &[Arc<Segment>], chunks, remaining| {
            let wanted = self.wanted(request.snapshot);
            let cold = ColdReader::scan(segments, wanted, self.pruning(segments), Some(&self.metrics));
            let mut cold = cold.directed(backward);
            if let Some(overlay) = &overlay {
                cold.hide(overlay.hidden_cold());
            }
            let overlay = overlay.clone();
            let (scan, request, metrics) = (self.clone(), Arc::clone(&request), Some(metrics.intermediate()));
            let source = Source::Chunks(chunks);
            ChunkReader {
                scan,
                request,
                overlay,
                cold,
                source,
                range: range.clone(),
                oldest,
                next: 0,
                remaining,
                metrics,
                turns: Turns::begin(),
            }
        };
        let stream = |batches: Batches| {
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), batches)) as SendableRecordBatchStream
        };
        let remaining = self.fetch.unwrap_or(usize::MAX);
        let mut streams: Vec<_> =
            lanes.iter().map(|lane| stream(reader(lane, Arc::default(), remaining).into_stream())).collect();
        let chunks = overlay.as_ref().map_or_else(|| Arc::clone(&view.chunks), OverlayView::chunks);
        let (known, unknown): (Vec<_>, Vec<_>) = chunks.iter().cloned().partition(|chunk| chunk.knows_keys());
        if !unknown.is_empty() || !others.is_empty() {
            let unsorted = stream(reader(&others, Arc::new(unknown), usize::MAX).into_stream());
            streams.push(sorted(unsorted, order.clone(), self.fetch));
        }
        if !known.is_empty() || streams.is_empty() {
            let ranges = self.key_access().map_or_else(|| vec![IndexRange::all()], |access| access.ranges.clone());
            let merge = KeyMerge::new(known, hot.key().codec().clone(), ranges, backward);
            streams
                .push(stream(HotLane { reader: reader(&[], Arc::default(), remaining), merge, rows: 0 }.into_stream()));
        }
        let merged = merged(streams, order, self.fetch, &metrics, context)?;
        Ok(merged.inspect_ok(move |batch| metrics.record_output(batch.num_rows())).boxed())
    }
}

/// A range of keys, for the chunks of a hot tier.
#[derive(Debug, Clone)]
pub(super) struct KeyRange {
    /// How the chunks' keys are encoded.
    pub codec: KeyCodec,
    /// The range.
    pub access: Arc<IndexAccess>,
}

impl TableScanExec {
    /// The part of the primary key that it reads.
    fn key_access(&self) -> Option<&Arc<IndexAccess>> {
        self.index.as_ref().filter(|access| self.keys.is_none() && access.is_key())
    }

    /// The part of the primary key that it reads, for the chunks of a hot tier, whose key must be that of the plan.
    pub(super) fn key_range(&self, hot: &HotTable) -> Result<Option<KeyRange>> {
        let Some(access) = self.key_access() else { return Ok(None) };
        let definition = self.table.definition();
        if hot.key().version() != KeySpec::typed_since(definition, definition.schema_version) {
            return Err(outdated());
        }
        Ok(Some(KeyRange { codec: hot.key().codec().clone(), access: Arc::clone(access) }))
    }

    /// The order in which it gives its rows, and whether that is against the key's, if it reads in the key's order: by
    /// as many columns of the key as it has, from the first on.
    pub(super) fn key_order(&self) -> Option<(LexOrdering, bool)> {
        let backward = self.key_access()?.order?;
        let options = SortOptions { descending: backward, nulls_first: backward };
        let schema = self.schema();
        let sorted = |key: &ColumnDefinition| {
            let place =
                self.columns.iter().position(|c| matches!(c, ScanColumn::Table { id, .. } if *id == key.column_id));
            // Floating point keys sort by value, arrays by bits.
            let place = place.filter(|_| !matches!(key.data_type, KalamDataType::Float | KalamDataType::Double))?;
            Some(PhysicalSortExpr { expr: Arc::new(Column::new(schema.field(place).name(), place)), options })
        };
        let order: Vec<_> = self.table.definition().key_columns().into_iter().map_while(sorted).collect();
        Some((LexOrdering::new(order)?, backward))
    }
}

/// Whether an order names a column.
pub(super) fn names_column(order: &LexOrdering, index: usize) -> bool {
    order.iter().any(|sort| sort.expr.downcast_ref::<Column>().is_some_and(|column| column.index() == index))
}

/// The rows of a batch, last first.
pub(super) fn reversed(batch: &RecordBatch) -> Result<RecordBatch> {
    let rows = UInt32Array::from_iter_values((0..batch.num_rows() as u32).rev());
    take_record_batch(batch, &rows).map_err(KalamError::internal)
}

/// The rows in memory in key order, a few at first.
struct HotLane {
    /// Says which rows are seen, and makes batches of them.
    reader: ChunkReader,
    merge: KeyMerge,
    /// Rows of the last batch.
    rows: usize,
}

impl HotLane {
    fn into_stream(self) -> Batches {
        futures::stream::unfold(self, |mut lane| async move {
            lane.next_batch().await.map_err(external).transpose().map(|batch| (batch, lane))
        })
        .boxed()
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        self.rows = (self.rows * 2).clamp(FIRST_ROWS, MAX_RUN);
        let wanted = self.rows.min(self.reader.remaining);
        let (request, turns) = (&self.reader.request, &mut self.reader.turns);
        request.pass(turns).await?;
        if self.rows == FIRST_ROWS {
            // Each chunk finds its order once.
            for chunk in self.merge.chunks() {
                request.pass(turns).await?;
                chunk.key_order(self.merge.codec())?;
            }
        }
        let (mut rows, mut looked_at) = (Vec::with_capacity(wanted), 0);
        while rows.len() < wanted
            && let Some((chunk, row)) = self.merge.next()?
        {
            looked_at += 1;
            if self.reader.sees(&self.merge.chunks()[chunk], row) {
                rows.push((chunk, row));
            }
            if looked_at % MAX_RUN == 0 {
                self.reader.request.pass(&mut self.reader.turns).await?;
            }
        }
        self.reader.remaining -= rows.len();
        if rows.is_empty() { Ok(None) } else { self.reader.scan.rows_batch(self.merge.chunks(), &rows).map(Some) }
    }
}

impl TableScanExec {
    /// As [`TableScanExec::rows_batch`], of rows that come with their chunks.
    pub(super) fn found_rows_batch(&self, found: &[(Arc<Chunk>, usize)]) -> Result<RecordBatch> {
        let mut chunks: Vec<Arc<Chunk>> = Vec::new();
        let mut places: HashMap<u64, usize> = HashMap::new();
        let row = |(chunk, row): &(Arc<Chunk>, usize)| {
            let place = *places.entry(chunk.base).or_insert_with(|| {
                chunks.push(Arc::clone(chunk));
                chunks.len() - 1
            });
            (place, *row)
        };
        let rows: Vec<(usize, usize)> = found.iter().map(row).collect();
        self.rows_batch(&chunks, &rows)
    }

    /// The batch of some rows of chunks, which are named by place, in the order of the rows.
    pub(super) fn rows_batch(&self, chunks: &[Arc<Chunk>], rows: &[(usize, usize)]) -> Result<RecordBatch> {
        // Each chunk's rows are taken at once, then brought into their order.
        let mut taken: Vec<(&Chunk, Vec<u32>)> = Vec::new();
        let mut places: Vec<Option<usize>> = vec![None; chunks.len()];
        let mut order = Vec::with_capacity(rows.len());
        for &(chunk, row) in rows {
            let place = *places[chunk].get_or_insert_with(|| {
                taken.push((&chunks[chunk], Vec::new()));
                taken.len() - 1
            });
            order.push((place, taken[place].1.len()));
            taken[place].1.push(row as u32);
        }
        let batches = taken.into_iter().map(|(chunk, rows)| match rows.as_slice() {
            [row] => self.batch(chunk, &Pick::Range(*row as usize, 1)),
            _ => self.batch(chunk, &Pick::List(UInt32Array::from(rows))),
        });
        let mut batches = batches.collect::<Result<Vec<_>>>()?;
        if batches.len() == 1 {
            return Ok(batches.remove(0));
        }
        interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &order).map_err(KalamError::internal)
    }
}

/// Whether the rows of a table in key order are in an order of some of its columns.
pub(super) fn is_key_order(definition: &TableDefinition, columns: &[ScanColumn], order: &[PhysicalSortExpr]) -> bool {
    let keys = definition.key_columns();
    let is_next = |(sort, key): (&PhysicalSortExpr, &&ColumnDefinition)| {
        let column = sort.expr.downcast_ref::<Column>().and_then(|c| columns.get(c.index()));
        // Keys are never NULL. Floating point keys sort by value, arrays by bits.
        !sort.options.descending
            && !matches!(key.data_type, KalamDataType::Float | KalamDataType::Double)
            && matches!(column, Some(ScanColumn::Table { id, .. }) if *id == key.column_id)
    };
    !keys.is_empty() && order.iter().zip(&keys).all(is_next)
}

/// Whether it pays to promise the order: most rows are in segments.
pub(super) fn pays(segments: &[Arc<Segment>], hot_rows: u64) -> bool {
    let cold: u64 = segments.iter().map(|s| s.live_rows()).sum();
    !segments.is_empty() && hot_rows <= MAX_HOT_ROWS && hot_rows <= cold
}

/// Runs of segments whose ranges of keys do not meet, and the segments that are not sorted by today's key.
fn lanes(segments: &[Arc<Segment>], key: &KeySpec) -> (Vec<Vec<Arc<Segment>>>, Vec<Arc<Segment>>) {
    let (mut sorted, others): (Vec<_>, Vec<_>) =
        segments.iter().cloned().partition(|s| s.meta().key_version == key.version());
    sorted.sort_by(|a, b| a.meta().first_key().cmp(b.meta().first_key()));
    let mut lanes: Vec<Vec<Arc<Segment>>> = Vec::new();
    for segment in sorted {
        let free = |lane: &&mut Vec<Arc<Segment>>| {
            lane.last().is_none_or(|last| last.meta().last_key.as_slice() < segment.meta().first_key())
        };
        match lanes.iter_mut().filter(free).max_by_key(|lane| Reverse(lane.len())) {
            Some(lane) => lane.push(segment),
            None => lanes.push(vec![segment]),
        }
    }
    (lanes, others)
}

/// Rows in no order become a lane: they are read and sorted when the first of them is asked for.
pub(super) fn sorted(
    rows: SendableRecordBatchStream,
    order: LexOrdering,
    fetch: Option<usize>,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let of = Arc::clone(&schema);
    let sort = async move {
        let batches: Vec<RecordBatch> = rows.try_collect().await?;
        sort_batch(&concat_batches(&of, &batches)?, &order, fetch)
    };
    let stream = futures::stream::once(sort).try_filter(|batch| std::future::ready(batch.num_rows() > 0));
    Box::pin(RecordBatchStreamAdapter::new(schema, stream))
}

/// One stream in order of lanes that are.
fn merged(
    mut lanes: Vec<SendableRecordBatchStream>,
    order: &LexOrdering,
    fetch: Option<usize>,
    metrics: &BaselineMetrics,
    context: &TaskContext,
) -> DfResult<SendableRecordBatchStream> {
    if lanes.len() == 1
        && let Some(only) = lanes.pop()
    {
        return Ok(only);
    }
    let schema = lanes
        .first()
        .map(|lane| lane.schema())
        .ok_or_else(|| external(crate::error::KalamError::internal("a scan without lanes")))?;
    StreamingMergeBuilder::new()
        .with_streams(lanes)
        .with_schema(schema)
        .with_expressions(order)
        .with_metrics(metrics.intermediate())
        .with_batch_size(context.session_config().batch_size())
        .with_fetch(fetch)
        .with_reservation(MemoryConsumer::new("TableScan").register(context.memory_pool()))
        .build()
}
