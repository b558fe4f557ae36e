//! A scan in key order: how ORDER BY on the key of a table in segments needs no sort.
//!
//! Segments are sorted by key, so those whose ranges of keys do not meet are read one after the other; such a run is a
//! lane. Rows in memory are sorted and are one more lane. Invariant: each lane is in key order, and lanes are merged, so
//! what comes out is in key order whatever was written since the plan was made; a plan that promises the order keeps
//! the promise each time it runs.

use std::cmp::Reverse;
use std::sync::Arc;

use arrow::compute::concat_batches;
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

use super::cold_scan::ColdReader;
use super::key_spec::KeySpec;
use super::overlay::OverlayView;
use super::request::Request;
use super::scan::{Batches, ChunkReader, Source, TableScanExec, external};
use super::scan_columns::ScanColumn;
use super::segment::Segment;
use crate::platform::Turns;
use crate::schema::{ColumnDefinition, TableDefinition};
use crate::types::KalamDataType;

/// Rows in memory up to which sorting them beats sorting everything.
const MAX_HOT_ROWS: u64 = 65_536;

impl TableScanExec {
    /// Like [`TableScanExec::open`], in the order of the key.
    pub(super) async fn open_in_order(
        mut self,
        request: Arc<Request>,
        metrics: BaselineMetrics,
        order: &LexOrdering,
        context: &TaskContext,
    ) -> datafusion::common::Result<Batches> {
        let (overlay, hot) = self.rows_of(&request).await.map_err(external)?;
        let oldest = hot.expired_below(request.now_ms);
        self.deletions = self.deletions_of(&request);
        let (view, schema) = (hot.view(), self.schema());
        let (lanes, others) = lanes(&view.segments, hot.key());
        // Rows count once, when they leave.
        let reader = |segments: &[Arc<Segment>], chunks, remaining| {
            let wanted = self.wanted(request.snapshot);
            let mut cold = ColdReader::scan(segments, wanted, self.pruning(segments), Some(&self.metrics));
            if let Some(overlay) = &overlay {
                cold.hide(overlay.hidden_cold());
            }
            let overlay = overlay.clone();
            let (scan, request, metrics) = (self.clone(), Arc::clone(&request), Some(metrics.intermediate()));
            let source = Source::Chunks(chunks);
            let reader = ChunkReader {
                scan,
                request,
                overlay,
                cold,
                source,
                oldest,
                next: 0,
                remaining,
                metrics,
                turns: Turns::begin(),
            };
            let stream = RecordBatchStreamAdapter::new(Arc::clone(&schema), reader.into_stream());
            Box::pin(stream) as SendableRecordBatchStream
        };
        let remaining = self.fetch.unwrap_or(usize::MAX);
        let mut streams: Vec<_> = lanes.iter().map(|lane| reader(lane, Arc::default(), remaining)).collect();
        let chunks = overlay.as_ref().map_or_else(|| Arc::clone(&view.chunks), OverlayView::chunks);
        if !chunks.is_empty() || !others.is_empty() || streams.is_empty() {
            let unsorted = reader(&others, chunks, usize::MAX);
            streams.push(sorted(unsorted, order.clone(), self.fetch));
        }
        let merged = merged(streams, order, self.fetch, &metrics, context)?;
        Ok(merged.inspect_ok(move |batch| metrics.record_output(batch.num_rows())).boxed())
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
