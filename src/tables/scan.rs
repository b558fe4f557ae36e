//! The scan of a table: a DataFusion leaf with one partition.
//!
//! Invariant: what a scan reads is decided when it is executed, by the [`Request`] in its task context, never when
//! it is planned. So a plan can be kept and run again after writes, and by another user. Whole chunks are handed out
//! without copying; a selection is applied only where rows of a chunk are not visible.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{self, FilterBuilder, FilterPredicate};
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
use super::key_spec::KeySpec;
use super::log::ScopeKey;
use super::pins::KeyPins;
use super::seq::Seq;
use super::store::TableStore;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::{self, Instant};
use crate::schema::{CachedTableData, SchemaChange, SchemaVersion, TableType};
use crate::types::{ColumnBuilder, KalamDataType, coerce_array};

/// Name of the hidden column with a row's position; only the engine's own statements name it.
pub const POSITION_COLUMN: &str = "_kalam_position";
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
        /// The schema version that gave it its type.
        since: u32,
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
    let definition = table.definition();
    definition
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
            let since = definition.history.iter().rev().find(|v| retypes(v, c.column_id)).map_or(1, |v| v.version);
            Ok(ScanColumn::Table { id: c.column_id, data_type: c.data_type, name: c.name.clone(), initial, since })
        })
        .collect()
}

fn retypes(version: &SchemaVersion, column_id: u32) -> bool {
    matches!(&version.change, SchemaChange::ChangeColumn { from, to }
        if to.column_id == column_id && from.data_type != to.data_type)
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

/// The keys that a scan looks up.
#[derive(Debug, Clone)]
pub enum ScanKeys {
    /// These, encoded.
    Known(Arc<[Vec<u8>]>),
    /// Those that parameters give when the plan runs.
    Pinned(Arc<KeyPins>),
}

impl ScanKeys {
    /// How many at the most.
    fn len(&self) -> usize {
        match self {
            Self::Known(keys) => keys.len(),
            Self::Pinned(pins) => pins.combinations(),
        }
    }
}

/// The scan; see the module's comment.
#[derive(Debug, Clone)]
pub struct TableScanExec {
    store: Arc<TableStore>,
    table: Arc<CachedTableData>,
    columns: Arc<[ScanColumn]>,
    /// Where filters pin the whole key.
    keys: Option<ScanKeys>,
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
        keys: Option<ScanKeys>,
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
            columns: Arc::from(columns),
            keys,
            fetch,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }
}

impl TableScanExec {
    /// The same scan, of other keys.
    pub fn with_keys(&self, keys: Vec<Vec<u8>>) -> Self {
        let keys = Some(ScanKeys::Known(Arc::from(keys)));
        Self { keys, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() }
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
        let schema = self.schema();
        let metrics = BaselineMetrics::new(&self.metrics, 0);
        let mut scan = self.clone();
        if let Some(ScanKeys::Pinned(pins)) = &self.keys {
            let spec = KeySpec::new(self.table.definition()).map_err(external)?;
            scan.keys = Some(ScanKeys::Known(Arc::from(pins.keys(&spec)?)));
        }
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

    /// For another run of a kept plan: what the last one measured is not counted again.
    fn reset_state(self: Arc<Self>) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self { metrics: ExecutionPlanMetricsSet::new(), ..self.as_ref().clone() }))
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
            Some(ScanKeys::Known(keys)) => Source::Rows(lookup_all(&hot, keys, request.snapshot)?),
            Some(ScanKeys::Pinned(_)) => return Err(KalamError::internal("a scan ran before its keys were known")),
        };
        let remaining = self.fetch.unwrap_or(usize::MAX);
        Ok(ChunkReader { scan: self, request, source, next: 0, remaining, metrics, worked: Instant::now() })
    }

    /// A column of some rows of a chunk, which may have been written under an earlier version of the table. Values
    /// are converted after the rows are picked: what is not visible any more need not convert.
    fn column(&self, column: &ScanColumn, chunk: &Chunk, rows: &Pick) -> Result<ArrayRef> {
        Ok(match column {
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
            ScanColumn::Table { id, data_type, name, initial, since } => match (chunk.column(*id), initial) {
                (Some(array), _) if chunk.schema_version >= *since => rows.of(array)?,
                (Some(array), _) => self.convert(rows.of(array)?, *id, name, chunk.schema_version)?,
                (None, None) => arrow::array::new_null_array(&data_type.arrow_type(), rows.len(chunk)),
                (None, Some(one)) => compute::take(one, &UInt32Array::from(vec![0; rows.len(chunk)]), None)
                    .map_err(KalamError::internal)?,
            },
        })
    }

    /// Leads values through every type that their column had since they were written.
    fn convert(&self, array: ArrayRef, id: u32, name: &str, version: u32) -> Result<ArrayRef> {
        let path = self.table.definition().type_path(id, version);
        path.iter().skip(1).try_fold(array, |array, ty| coerce_array(&array, ty, name)).map_err(|e| {
            // The ALTER checked all rows that were live then: this one is of an older snapshot.
            let message =
                format!("a row of '{}' ended before an ALTER it cannot follow: {}", self.table.table_id(), e.message());
            KalamError::new(ErrorCode::Conflict, message).with_hint("Run the statement or transaction again.")
        })
    }

    fn batch(&self, chunk: &Chunk, rows: &Pick) -> Result<RecordBatch> {
        if chunk.schema_version > self.table.schema_version() {
            return Err(super::replay::outdated());
        }
        let columns = self.columns.iter().map(|c| self.column(c, chunk, rows)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len(chunk)));
        RecordBatch::try_new_with_options(self.schema(), columns, &options).map_err(KalamError::internal)
    }
}

/// Rows of a chunk.
enum Pick {
    All,
    /// So many from a row on.
    Range(usize, usize),
    /// Those of a mask.
    Mask(FilterPredicate),
}

impl Pick {
    fn of(&self, array: &ArrayRef) -> Result<ArrayRef> {
        match self {
            Pick::All => Ok(Arc::clone(array)),
            Pick::Range(start, len) => Ok(array.slice(*start, *len)),
            Pick::Mask(predicate) => predicate.filter(array).map_err(KalamError::internal),
        }
    }

    fn len(&self, chunk: &Chunk) -> usize {
        match self {
            Pick::All => chunk.len(),
            Pick::Range(_, len) => *len,
            Pick::Mask(predicate) => predicate.count(),
        }
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
                Ok(Some(Some(self.scan.batch(chunk, &Pick::Range(*row, 1))?)))
            }
            Source::Chunks(chunks) => {
                let Some(chunk) = chunks.get(at) else { return Ok(None) };
                Ok(Some(match chunk.visibility(self.request.snapshot) {
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

/// The schema of a table with its hidden columns after its own.
pub fn schema_with_system_columns(table: &CachedTableData) -> Result<SchemaRef> {
    let schema = table.arrow_schema()?;
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.extend(system_columns(table).into_iter().map(|(field, _)| Arc::new(field)));
    Ok(Arc::new(Schema::new(fields)))
}
