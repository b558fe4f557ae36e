//! The scan of a table: a DataFusion leaf with one partition.
//!
//! Invariant: what a scan reads is decided when it is executed, by the [`Request`] in its task context, never when
//! it is planned. So a plan can be kept and run again after writes, and by another user. Segments come first
//! (`cold_scan.rs`), then chunks, both of one moment: no row moves from one to the other in between. Whole chunks are
//! handed out without copying; a selection is applied only where rows of a chunk are not visible.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{self, FilterBuilder, FilterPredicate};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics, stats::Precision};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_expr_common::physical_expr::fmt_sql;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SortOrderPushdownResult,
};
use futures::StreamExt;

use super::chunk::{Chunk, Visibility};
use super::cold_scan::{ColdReader, Step};
use super::hot::HotTable;
use super::index_access::{IndexAccess, ScanPath, Sorted};
use super::key_spec::KeySpec;
use super::log::ScopeKey;
use super::ordered_scan::{self, KeyRange, names_column, reversed};
use super::overlay::{OverlayView, TransactionView};
use super::parameters::with_values;
use super::pins::SnapshotPin;
use super::rewrite::retained_since;
use super::segment::{ScanFilter, Segment, column_statistics};
use super::seq::Seq;
use super::store::TableStore;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::{self, Instant};
use crate::schema::{CachedTableData, Role, SchemaChange, SchemaVersion, TableType};
use crate::types::{ColumnBuilder, KalamDataType, coerce_array};

/// Name of the hidden column with a row's position; only the engine's own statements name it.
pub const POSITION_COLUMN: &str = "_kalam_position";
/// Name of the system column with a row's `_seq`.
pub const SEQ_COLUMN: &str = "_seq";
/// Name of the system column that identifies the rows of a table without a primary key.
pub const ROW_ID_COLUMN: &str = "_rowid";
/// Name of the system column that tells deleted rows, which only scans that name it give, from live ones.
pub const DELETED_COLUMN: &str = "_deleted";

/// At most so many rows that were looked up make a batch.
pub(super) const MAX_RUN: usize = 8192;

/// A scan lets the host run after working for so long.
const YIELD_AFTER_MS: u128 = 40;

/// What a request brings to the plans that run for it: a session configuration extension.
#[derive(Debug)]
pub struct Request {
    /// Whose USER tables it sees.
    pub user: Arc<str>,
    /// What it may use.
    pub role: Role,
    /// When it began, in milliseconds since the epoch: the age of events is told from here.
    pub now_ms: u64,
    /// What it reads.
    pub snapshot: Seq,
    /// Keeps the snapshot readable.
    pub pin: Option<Arc<SnapshotPin>>,
    /// Set when its caller has given up.
    pub cancelled: Arc<AtomicBool>,
    /// When the request gives up by itself.
    pub deadline: Option<Instant>,
    /// The open transaction that it belongs to; `snapshot` is then that of the transaction.
    pub transaction: Option<TransactionView>,
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

    /// The scope of a table that this request sees: every read and every change of rows gets its scope here. Fails if
    /// its role may not use the table.
    pub fn scope(&self, table: &CachedTableData) -> Result<ScopeKey> {
        let definition = table.definition();
        self.role.check_access(definition)?;
        let user = (definition.table_type == TableType::User).then(|| Arc::clone(&self.user));
        Ok(ScopeKey { table_no: definition.table_no, user })
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
    /// `_deleted`.
    Deleted,
    /// The row's position in its scope.
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

/// Which deleted rows a scan gives: those of deletions from one `_seq` to another, both included.
pub(super) type Deletions = RangeInclusive<Seq>;

/// The scan; see the module's comment.
#[derive(Debug, Clone)]
pub struct TableScanExec {
    pub(super) store: Arc<TableStore>,
    pub(super) table: Arc<CachedTableData>,
    pub(super) columns: Arc<[ScanColumn]>,
    /// Encoded keys, where filters pin the whole key.
    pub(super) keys: Option<Arc<[Vec<u8>]>>,
    /// The part of an index that it reads through.
    pub(super) index: Option<Arc<IndexAccess>>,
    /// The filters, if parameters are among them: then each run finds its keys or its part of an index.
    open: Option<Arc<[Expr]>>,
    /// The order that it promises, where it is that of the index.
    index_order: Option<LexOrdering>,
    /// What rules out segments, row groups and pages.
    pub(super) filter: Option<Arc<ScanFilter>>,
    pub(super) fetch: Option<usize>,
    /// The order that it promises: one of the key.
    order: Option<LexOrdering>,
    /// Set when it is executed, if it names `_deleted`: then a deleted row has the `_seq` of its deletion.
    pub(super) deletions: Option<Deletions>,
    /// Set when it is executed, if what it reads through is not in the order that it promises.
    unordered: bool,
    properties: Arc<PlanProperties>,
    pub(super) metrics: ExecutionPlanMetricsSet,
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
            columns: Arc::from(columns),
            keys,
            index: None,
            open: None,
            index_order: None,
            filter: None,
            fetch,
            order: None,
            deletions: None,
            unordered: false,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The scan with its rows sorted by some of its columns, through an index: the one that it reads through, or if it
    /// is not `filtered`, any of its table.
    pub fn in_order(
        &self,
        by: &[(usize, compute::SortOptions)],
        filtered: bool,
    ) -> datafusion::common::Result<Option<Self>> {
        let Some(sorted) = self.sorted_by(by.iter().copied()) else { return Ok(None) };
        let definition = self.table.definition();
        if self.order.is_some() || self.columns.contains(&ScanColumn::Deleted) {
            return Ok(None);
        }
        let access = match (&self.keys, &self.index) {
            (Some(_), _) => None,
            (None, Some(access)) => access.sorted(definition, &sorted),
            (None, None) if filtered || self.fetch.is_some() => None,
            (None, None) => IndexAccess::for_order(definition, &sorted),
        };
        let Some(access) = access else { return Ok(None) };
        let schema = self.schema();
        let index = Some(Arc::new(access));
        let order = by.iter().map(|(index, options)| PhysicalSortExpr {
            expr: Arc::new(Column::new(schema.field(*index).name(), *index)),
            options: *options,
        });
        let Some(order) = LexOrdering::new(order.collect::<Vec<_>>()) else { return Ok(None) };
        let scan = Self { index, index_order: Some(order.clone()), ..self.clone() };
        let promised = match scan.index.as_ref().is_some_and(|access| access.is_key()) {
            true => match scan.key_order() {
                Some((key_order, _)) if by.iter().all(|(i, _)| names_column(&key_order, *i)) => key_order,
                _ => return Ok(None),
            },
            false => order,
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(schema, [promised.iter().cloned().collect::<Vec<_>>()]),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Some(Self { properties: Arc::new(properties), ..scan }))
    }

    /// Columns that rows are to be sorted by; `None` if one is not the table's.
    fn sorted_by(&self, by: impl IntoIterator<Item = (usize, compute::SortOptions)>) -> Option<Vec<Sorted>> {
        let sorted = |(index, options)| match self.columns.get(index) {
            Some(ScanColumn::Table { id, .. }) => Some(Sorted { column_id: *id, options }),
            _ => None,
        };
        by.into_iter().map(sorted).collect()
    }

    /// The scan as the run does it that is being worked for: its parameters have values.
    fn with_values(&self) -> datafusion::common::Result<Self> {
        let Some(open) = &self.open else { return Ok(self.clone()) };
        let filters = open.iter().cloned().map(with_values).collect::<datafusion::common::Result<Vec<_>>>()?;
        let definition = self.table.definition();
        let key = KeySpec::new(definition).map_err(external)?;
        let ScanPath { keys, mut index } = ScanPath::of(definition, &key, &filters)?;
        let filter = self.filter.as_ref().map(|filter| filter.with_values()).transpose()?.map(Arc::new);
        let mut unordered = false;
        if let Some(order) = &self.index_order {
            let by = |sort: &PhysicalSortExpr| sort.expr.downcast_ref::<Column>().map(|c| (c.index(), sort.options));
            let by: Option<Vec<_>> = order.iter().map(by).collect();
            let sorted = by.and_then(|by| self.sorted_by(by));
            let in_order = index.as_ref().zip(sorted).and_then(|(index, sorted)| index.sorted(definition, &sorted));
            unordered = in_order.is_none();
            index = in_order.map(Arc::new).or(index);
        }
        Ok(Self { keys, index, filter, open: None, unordered, ..self.clone() })
    }

    /// The scan with its filters, parameters among them.
    pub fn with_open_filters(self, filters: &[Expr]) -> Self {
        Self { open: Some(Arc::from(filters)), ..self }
    }

    /// The scan of so many rows.
    pub fn with_limit(self, fetch: usize) -> Self {
        Self { fetch: Some(self.fetch.map_or(fetch, |f| f.min(fetch))), ..self }
    }

    /// The scan through an index.
    pub fn with_index(self, index: Option<Arc<IndexAccess>>) -> Self {
        Self { index, ..self }
    }

    /// The scan with filters that may rule out what it reads. They must be applied above it all the same.
    pub fn with_filter(self, filter: Option<Arc<ScanFilter>>) -> Self {
        Self { filter, ..self }
    }
}

impl TableScanExec {
    /// The same scan, of other keys.
    pub fn with_keys(&self, keys: Vec<Vec<u8>>) -> Self {
        let keys = Some(Arc::from(keys));
        Self { keys, index: None, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() }
    }

    /// The same scan, of a part of an index.
    pub fn with_index_access(&self, access: IndexAccess) -> Self {
        let index = Some(Arc::new(access));
        Self { keys: None, index, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() }
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
                ScanColumn::Deleted => DELETED_COLUMN,
                ScanColumn::Position => POSITION_COLUMN,
            })
            .collect();
        let path = match (&self.keys, &self.index) {
            (Some(_), _) => "KeyLookup",
            (None, Some(_)) => "IndexScan",
            (None, None) => "TableScan",
        };
        write!(f, "{path}: {}", self.table.table_id())?;
        if let Some(index) = &self.index {
            write!(f, " {index}")?;
        }
        write!(f, ", columns=[{}]", names.join(", "))?;
        if let Some(keys) = &self.keys {
            write!(f, ", keys={}", keys.len())?;
        }
        if let Some(filter) = &self.filter {
            write!(f, ", filter={}", fmt_sql(filter.expr().as_ref()))?;
        }
        if let Some(order) = &self.order {
            write!(f, ", order=[{order}]")?;
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
        let scan = self.with_values()?;
        let open = async move {
            match scan.order.clone().map(|order| (order, false)).or_else(|| scan.key_order()) {
                Some((order, backward)) => scan.open_in_order(request, metrics, &order, backward, &context).await,
                None => {
                    let (order, fetch, schema) = (scan.index_order.clone(), scan.fetch, scan.schema());
                    let reader = scan.open(request, metrics).await.map_err(external)?;
                    match order.filter(|_| reader.is_unsorted()) {
                        None => Ok(reader.into_stream()),
                        // Of each segment there are no more rows than are asked for.
                        Some(order) => {
                            let rows = RecordBatchStreamAdapter::new(schema, reader.into_stream());
                            Ok(ordered_scan::sorted(Box::pin(rows), order, fetch).boxed())
                        }
                    }
                }
            }
        };
        let stream = futures::stream::once(open)
            .map(|opened| match opened {
                Ok(stream) => stream,
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            })
            .flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> datafusion::common::Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        let definition = self.table.definition();
        let Some(wanted) = LexOrdering::new(order.to_vec()) else { return Ok(SortOrderPushdownResult::Unsupported) };
        let pays = || {
            let scope = ScopeKey { table_no: definition.table_no, user: None };
            let hot = self.store.loaded(&scope).filter(|_| definition.table_type != TableType::User);
            hot.is_some_and(|hot| ordered_scan::pays(&hot.view().segments, hot.statistics().live_rows))
        };
        if self.keys.is_some()
            || self.index.as_ref().is_some_and(|access| !access.is_key())
            || !ordered_scan::is_key_order(definition, &self.columns, order)
            || !pays()
        {
            return Ok(SortOrderPushdownResult::Unsupported);
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(self.schema(), [order.to_vec()]),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        let inner = Self { order: Some(wanted), properties: Arc::new(properties), metrics, ..self.clone() };
        Ok(SortOrderPushdownResult::Exact { inner: Arc::new(inner) })
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
                let segments = hot.view().segments;
                let cold: u64 = segments.iter().map(|s| s.live_rows()).sum();
                statistics.num_rows = Precision::Inexact((s.live_rows + cold) as usize);
                if segments.is_empty() {
                    statistics.total_byte_size = Precision::Inexact(s.bytes as usize);
                } else {
                    statistics.column_statistics =
                        self.columns.iter().map(|c| column_statistics(&segments, c)).collect();
                }
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

pub(super) fn external(error: KalamError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl TableScanExec {
    /// The scope that it reads, the changes of it by the request's transaction, and its rows.
    pub(super) async fn rows_of(&self, request: &Request) -> Result<(Option<OverlayView>, Arc<HotTable>)> {
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

    async fn open(mut self, request: Arc<Request>, metrics: BaselineMetrics) -> Result<ChunkReader> {
        let (overlay, hot) = self.rows_of(&request).await?;
        let oldest = hot.expired_below(request.now_ms);
        self.deletions = self.deletions_of(&request);
        let wanted = self.wanted(request.snapshot);
        let (source, mut cold) = match &self.keys {
            None if let Some(access) = self.index.as_ref().filter(|access| !access.is_key()) => {
                let definition = self.table.definition();
                let limit = self.fetch.filter(|_| !self.unordered).unwrap_or(usize::MAX);
                hot.use_indexes_of(definition)?;
                let (mut found, segments) = hot.index_rows(access, request.snapshot, oldest, limit)?;
                let mut cold = ColdReader::scan(&segments, wanted, self.filter.clone(), &self.metrics);
                if let Some(overlay) = &overlay {
                    found = overlay.index_rows(definition, access, oldest)?;
                    cold.hide(overlay.hidden_cold());
                }
                cold.through_index(definition, access, limit).await?;
                if access.order.is_none() {
                    found.sort_unstable_by_key(|found| found.position());
                }
                let rows = found.into_iter().map(|found| (found.chunk, found.row)).collect();
                (Source::Rows(rows), cold)
            }
            None => {
                let view = hot.view();
                let cold = ColdReader::scan(&view.segments, wanted, self.pruning(&view.segments), &self.metrics);
                // A scope that a transaction changes is held: its chunks are those of the view.
                (Source::Chunks(overlay.as_ref().map_or(view.chunks, OverlayView::chunks)), cold)
            }
            Some(keys) => {
                let mut rows = Rows::new();
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
                let cold =
                    ColdReader::lookup(&segments, wanted, definition, hot.key(), &missing, &self.metrics).await?;
                (Source::Rows(rows), cold)
            }
        };
        if let Some(overlay) = &overlay {
            cold.hide(overlay.hidden_cold());
        }
        let range = self.key_range(&hot)?;
        let (remaining, worked) = (self.fetch.unwrap_or(usize::MAX), Instant::now());
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
            worked,
        };
        if reader.is_unsorted() {
            reader.remaining = usize::MAX;
        }
        Ok(reader)
    }

    /// The filter, as far as bounds say what it rules out: a deleted row is shown with the `_seq` of its deletion, which
    /// no bound knows.
    pub(super) fn pruning(&self, segments: &[Arc<Segment>]) -> Option<Arc<ScanFilter>> {
        let shows_deleted = self.deletions.as_ref().is_some_and(|deletions| {
            let shown = |s: &Arc<Segment>| s.marks().tombstones().iter().any(|(seq, _)| deletions.contains(seq));
            segments.iter().any(shown)
        });
        self.filter.clone().filter(|_| !shows_deleted)
    }

    /// The deleted rows that it gives.
    pub(super) fn deletions_of(&self, request: &Request) -> Option<Deletions> {
        let named = self.columns.contains(&ScanColumn::Deleted);
        named.then(|| retained_since(self.table.definition())..=request.snapshot)
    }

    /// The values of a column of the table, which were written under an earlier version of it, or before it was there.
    pub(super) fn as_now(
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
        let is_live = |row| match &live {
            Visibility::None => false,
            Visibility::All => true,
            Visibility::First(rows) => row < *rows,
            Visibility::Some(mask) => mask.value(row),
        };
        let mask = BooleanBuffer::collect_bool(chunk.len(), |row| is_live(row) || self.deletion(chunk, row).is_some());
        if mask.count_set_bits() == 0 { Visibility::None } else { Visibility::Some(mask) }
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

    pub(super) fn batch(&self, chunk: &Chunk, rows: &Pick) -> Result<RecordBatch> {
        if chunk.schema_version > self.table.schema_version() {
            return Err(super::replay::outdated());
        }
        let columns = self.columns.iter().map(|c| self.column(c, chunk, rows)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len(chunk)));
        RecordBatch::try_new_with_options(self.schema(), columns, &options).map_err(KalamError::internal)
    }
}

/// Rows of a chunk.
pub(super) enum Pick {
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

type Rows = Vec<(Arc<Chunk>, usize)>;

/// Where the hot rows of a scan are.
pub(super) enum Source {
    Chunks(Arc<Vec<Arc<Chunk>>>),
    Rows(Rows),
}

pub(super) type Batches = futures::stream::BoxStream<'static, datafusion::common::Result<RecordBatch>>;

/// Gives the batches of a scan one by one.
pub(super) struct ChunkReader {
    pub(super) scan: TableScanExec,
    pub(super) request: Arc<Request>,
    /// What the request's transaction changed.
    pub(super) overlay: Option<OverlayView>,
    pub(super) cold: ColdReader,
    pub(super) source: Source,
    /// The range of keys that is wanted of hot rows.
    pub(super) range: Option<KeyRange>,
    /// Rows with a lower `_seq` are events that are too old.
    pub(super) oldest: Seq,
    pub(super) next: usize,
    pub(super) remaining: usize,
    pub(super) metrics: BaselineMetrics,
    pub(super) worked: Instant,
}

impl TableScanExec {
    /// Reads it to its end, past what runs plans: for a lookup that was not planned, so nothing in it is open.
    pub async fn read(self, request: Arc<Request>) -> Result<Vec<RecordBatch>> {
        let metrics = BaselineMetrics::new(&self.metrics, 0);
        let mut reader = self.open(request, metrics).await?;
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
    fn is_unsorted(&self) -> bool {
        self.scan.index_order.is_some() && (self.scan.unordered || !self.cold.is_done())
    }

    pub(super) fn into_stream(self) -> Batches {
        futures::stream::unfold(self, |mut reader| async move {
            reader.next_batch().await.map_err(external).transpose().map(|batch| (batch, reader))
        })
        .boxed()
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        while self.remaining > 0 {
            if self.worked.elapsed().as_millis() > YIELD_AFTER_MS {
                platform::yield_to_host().await;
                self.worked = Instant::now();
            }
            self.request.check()?;
            let timer = self.metrics.elapsed_compute().clone();
            let _timer = timer.timer();
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
            self.metrics.record_output(batch.num_rows());
            return Ok(Some(batch));
        }
        Ok(None)
    }

    /// Whether a row is one of those that the scan gives.
    pub(super) fn sees(&self, chunk: &Chunk, row: usize) -> bool {
        let visible = match &self.overlay {
            Some(overlay) => overlay.sees(chunk, row),
            None => chunk.visible(row, self.request.snapshot),
        };
        visible && chunk.seqs.value(row) >= self.oldest
    }

    /// `None` at the end; `Some(None)` for a chunk without a visible row.
    fn read(&mut self) -> Result<Option<Option<RecordBatch>>> {
        let at = self.next;
        self.next += 1;
        match &self.source {
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

/// The schema of a table with its hidden columns after its own.
pub fn schema_with_system_columns(table: &CachedTableData) -> Result<SchemaRef> {
    let schema = table.arrow_schema()?;
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.extend(system_columns(table).into_iter().map(|(field, _)| Arc::new(field)));
    Ok(Arc::new(Schema::new(fields)))
}
