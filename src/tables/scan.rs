//! The scan of a table: a DataFusion leaf with one partition.
//!
//! Invariant: what a scan reads is decided when it is executed, by the [`Request`] in its task context, never when
//! it is planned. So a plan can be kept and run again after writes, and by another user. Whole chunks are handed out
//! without copying; a selection is applied only where rows of a chunk are not visible.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::compute;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics, stats::Precision};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt;

use super::chunk::{Chunk, Visibility};
use super::hot::HotTable;
use super::log::ScopeKey;
use super::seq::Seq;
use super::store::TableStore;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::{self, Instant};
use crate::schema::{CachedTableData, TableType};
use crate::types::{ColumnBuilder, KalamDataType, coerce_array};

/// Name of the hidden column with a row's position; only the engine's own statements name it.
pub const POSITION_COLUMN: &str = "_position";
/// Name of the system column with a row's `_seq`.
pub const SEQ_COLUMN: &str = "_seq";
/// Name of the system column that identifies the rows of a table without a primary key.
pub const ROW_ID_COLUMN: &str = "_rowid";

/// A scan lets the host run after working for so long.
const YIELD_AFTER_MS: u128 = 40;

/// What a request brings to the plans that run for it: a session configuration extension.
#[derive(Debug)]
pub struct Request {
    /// Whose USER tables it sees.
    pub user: Arc<str>,
    /// What it reads.
    pub snapshot: Seq,
    /// Set when its caller has given up.
    pub cancelled: Arc<AtomicBool>,
    /// When the request gives up by itself.
    pub deadline: Option<Instant>,
}

impl Request {
    /// Fails if the caller has given up.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(KalamError::new(ErrorCode::Cancelled, "the statement was cancelled by its caller"));
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(KalamError::new(ErrorCode::Timeout, "the statement ran into its time limit")
                .with_hint("Raise `timeoutMs`, or let the statement do less."));
        }
        Ok(())
    }

    /// The scope of a table that this request may see.
    pub fn scope(&self, table: &CachedTableData) -> ScopeKey {
        let definition = table.definition();
        let user = (definition.table_type == TableType::User).then(|| Arc::clone(&self.user));
        ScopeKey { table_no: definition.table_no, user }
    }
}

/// Where a column of a scan comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ScanColumn {
    /// A column of the table.
    Table {
        /// Its id.
        id: u32,
        /// Its type now; rows may have been written under an earlier one.
        data_type: KalamDataType,
        /// Its name, for messages.
        name: String,
        /// One value for rows that were written before the column was added; `None` is NULL.
        initial: Option<ArrayRef>,
    },
    /// `_seq`.
    Seq,
    /// `_rowid`.
    RowId,
    /// The position in the hot tier.
    Position,
}

/// The columns that a scan can give, with their fields.
pub fn table_columns(table: &CachedTableData) -> Result<Vec<ScanColumn>> {
    table
        .definition()
        .columns_in_order()
        .map(|c| {
            let value = c.initial_value()?;
            let initial = if value.is_null() {
                None
            } else {
                let mut builder = ColumnBuilder::new(&c.data_type, &c.name, 1);
                builder.append(&value)?;
                Some(builder.finish())
            };
            Ok(ScanColumn::Table { id: c.column_id, data_type: c.data_type, name: c.name.clone(), initial })
        })
        .collect()
}

/// The fields and sources of the hidden columns of a table.
pub fn system_columns(table: &CachedTableData) -> Vec<(Field, ScanColumn)> {
    let field = |name| Field::new(name, DataType::Int64, false);
    let mut columns = vec![(field(SEQ_COLUMN), ScanColumn::Seq)];
    if table.definition().primary_key.is_empty() {
        columns.push((field(ROW_ID_COLUMN), ScanColumn::RowId));
    }
    columns.push((field(POSITION_COLUMN), ScanColumn::Position));
    columns
}

/// The scan; see the module's comment.
#[derive(Debug, Clone)]
pub struct TableScanExec {
    store: Arc<TableStore>,
    table: Arc<CachedTableData>,
    columns: Vec<ScanColumn>,
    /// Encoded keys, where filters pin the whole key.
    keys: Option<Arc<[Vec<u8>]>>,
    fetch: Option<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl TableScanExec {
    /// A scan of `columns`, described by `schema`.
    pub fn new(
        store: Arc<TableStore>,
        table: Arc<CachedTableData>,
        schema: SchemaRef,
        columns: Vec<ScanColumn>,
        keys: Option<Arc<[Vec<u8>]>>,
        fetch: Option<usize>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            store,
            table,
            columns,
            keys,
            fetch,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl DisplayAs for TableScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self
            .columns
            .iter()
            .map(|c| match c {
                ScanColumn::Table { name, .. } => name,
                ScanColumn::Seq => SEQ_COLUMN,
                ScanColumn::RowId => ROW_ID_COLUMN,
                ScanColumn::Position => POSITION_COLUMN,
            })
            .collect();
        let path = if self.keys.is_some() { "KeyLookup" } else { "TableScan" };
        write!(f, "{path}: {}, columns=[{}]", self.table.table_id(), names.join(", "))?;
        if let Some(keys) = &self.keys {
            write!(f, ", keys={}", keys.len())?;
        }
        if let Some(fetch) = self.fetch {
            write!(f, ", fetch={fetch}")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for TableScanExec {
    fn name(&self) -> &str {
        "TableScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> datafusion::common::Result<TreeNodeRecursion>,
    ) -> datafusion::common::Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        _partition: usize,
        context: Arc<TaskContext>,
    ) -> datafusion::common::Result<SendableRecordBatchStream> {
        let request = context
            .session_config()
            .get_extension::<Request>()
            .ok_or_else(|| external(KalamError::internal("a plan was run without a request")))?;
        let schema = Arc::clone(self.properties.schema());
        let metrics = BaselineMetrics::new(&self.metrics, 0);
        let scan = self.clone();
        let open = async move { scan.open(request, metrics).await.map_err(external) };
        let stream = futures::stream::once(open)
            .map(|opened| match opened {
                Ok(reader) => reader.into_stream().boxed(),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            })
            .flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        _: &StatisticsArgs,
    ) -> datafusion::common::Result<Arc<Statistics>> {
        // Inexact on purpose: a kept plan runs again after rows were added.
        let mut statistics = Statistics::new_unknown(&self.schema());
        if let Some(keys) = &self.keys {
            statistics.num_rows = Precision::Inexact(keys.len());
        } else if self.table.definition().table_type != TableType::User {
            let scope = ScopeKey { table_no: self.table.definition().table_no, user: None };
            if let Some(hot) = self.store.loaded(&scope) {
                let s = hot.statistics();
                statistics.num_rows = Precision::Inexact(s.live_rows as usize);
                statistics.total_byte_size = Precision::Inexact(s.bytes as usize);
            }
        }
        Ok(Arc::new(statistics))
    }

    fn supports_limit_pushdown(&self) -> bool {
        false
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn with_fetch(&self, fetch: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        Some(Arc::new(Self { fetch, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() }))
    }
}

fn external(error: KalamError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl TableScanExec {
    async fn open(self, request: Arc<Request>, metrics: BaselineMetrics) -> Result<ChunkReader> {
        let hot = self.store.hot(&request.scope(&self.table), self.table.definition()).await?;
        let source = match &self.keys {
            None => Source::Chunks(hot.chunks()),
            Some(keys) => Source::Rows(lookup_all(&hot, keys, request.snapshot)?),
        };
        let remaining = self.fetch.unwrap_or(usize::MAX);
        Ok(ChunkReader { scan: self, request, source, next: 0, remaining, metrics, worked: Instant::now() })
    }

    fn column(&self, column: &ScanColumn, chunk: &Chunk) -> Result<ArrayRef> {
        Ok(match column {
            ScanColumn::Seq => Arc::new(chunk.seqs.clone()),
            ScanColumn::RowId => match &chunk.row_ids {
                Some(ids) => Arc::new(ids.clone()),
                None => return Err(KalamError::internal("a table with a primary key has no row ids")),
            },
            ScanColumn::Position => {
                Arc::new(Int64Array::from_iter_values((0..chunk.len()).map(|row| (chunk.base + row as u64) as i64)))
            }
            ScanColumn::Table { id, data_type, name, initial } => match chunk.column(*id) {
                Some(array) if *array.data_type() == data_type.arrow_type() => Arc::clone(array),
                Some(array) => coerce_array(array, data_type, name)?,
                None => match initial {
                    None => arrow::array::new_null_array(&data_type.arrow_type(), chunk.len()),
                    Some(one) => compute::take(one, &UInt32Array::from(vec![0; chunk.len()]), None)
                        .map_err(KalamError::internal)?,
                },
            },
        })
    }

    fn batch(&self, chunk: &Chunk) -> Result<RecordBatch> {
        let columns = self.columns.iter().map(|c| self.column(c, chunk)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(chunk.len()));
        RecordBatch::try_new_with_options(Arc::clone(self.properties.schema()), columns, &options)
            .map_err(KalamError::internal)
    }
}

type Rows = Vec<(Arc<Chunk>, usize)>;

fn lookup_all(hot: &HotTable, keys: &[Vec<u8>], snapshot: Seq) -> Result<Rows> {
    keys.iter().filter_map(|key| hot.lookup(key, snapshot).transpose()).collect()
}

enum Source {
    Chunks(Arc<Vec<Arc<Chunk>>>),
    Rows(Rows),
}

/// Gives the batches of a scan one by one.
struct ChunkReader {
    scan: TableScanExec,
    request: Arc<Request>,
    source: Source,
    next: usize,
    remaining: usize,
    metrics: BaselineMetrics,
    worked: Instant,
}

impl ChunkReader {
    fn into_stream(self) -> impl futures::Stream<Item = datafusion::common::Result<RecordBatch>> + Send {
        futures::stream::unfold(self, |mut reader| async move {
            if reader.worked.elapsed().as_millis() > YIELD_AFTER_MS {
                platform::yield_to_host().await;
                reader.worked = Instant::now();
            }
            reader.next_batch().map_err(external).transpose().map(|batch| (batch, reader))
        })
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        self.request.check()?;
        let timer = self.metrics.elapsed_compute().clone();
        let _timer = timer.timer();
        while self.remaining > 0 {
            let Some(batch) = self.read()? else { return Ok(None) };
            let Some(batch) = batch else { continue };
            let batch = if batch.num_rows() > self.remaining { batch.slice(0, self.remaining) } else { batch };
            self.remaining -= batch.num_rows();
            self.metrics.record_output(batch.num_rows());
            return Ok(Some(batch));
        }
        Ok(None)
    }

    /// `None` at the end; `Some(None)` for a chunk without a visible row.
    fn read(&mut self) -> Result<Option<Option<RecordBatch>>> {
        let at = self.next;
        self.next += 1;
        match &self.source {
            Source::Rows(rows) => {
                let Some((chunk, row)) = rows.get(at) else { return Ok(None) };
                Ok(Some(Some(self.scan.batch(chunk)?.slice(*row, 1))))
            }
            Source::Chunks(chunks) => {
                let Some(chunk) = chunks.get(at) else { return Ok(None) };
                Ok(Some(match chunk.visibility(self.request.snapshot) {
                    Visibility::None => None,
                    Visibility::All => Some(self.scan.batch(chunk)?),
                    Visibility::First(rows) => Some(self.scan.batch(chunk)?.slice(0, rows)),
                    Visibility::Some(mask) => {
                        let batch = self.scan.batch(chunk)?;
                        let mask = BooleanArray::new(mask, None);
                        Some(compute::filter_record_batch(&batch, &mask).map_err(KalamError::internal)?)
                    }
                }))
            }
        }
    }
}

/// The schema of a table with its hidden columns after its own.
pub fn schema_with_system_columns(table: &CachedTableData) -> Result<SchemaRef> {
    let schema = table.arrow_schema()?;
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.extend(system_columns(table).into_iter().map(|(field, _)| Arc::new(field)));
    Ok(Arc::new(Schema::new(fields)))
}
