//! The scan of a table: a DataFusion leaf with one partition.
//!
//! Invariant: what a scan reads is decided when it is executed, by the [`Request`] in its task context, never when
//! it is planned. So a plan can be kept and run again after writes, and by another user. Segments come first
//! (`cold_scan.rs`), then chunks (`scan_reader.rs`), both of one moment: no row moves from one to the other in between.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::compute;
use arrow::datatypes::SchemaRef;
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

use super::index_access::{IndexAccess, ScanPath, Sorted};
use super::key_spec::KeySpec;
use super::log::ScopeKey;
use super::ordered_scan::{self, names_column};
use super::parameters::with_values;
use super::request::Request;
use super::scan_columns::ScanColumn;
use super::segment::{ScanFilter, column_statistics};
use super::seq::Seq;
use super::store::TableStore;
use crate::error::KalamError;
use crate::schema::{CachedTableData, TableType};

#[path = "scan_reader.rs"]
mod reader;

pub(super) use reader::{Batches, ChunkReader, MAX_RUN, Pick, Source};

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
    /// Whether only the least and the greatest value of each column matter to who reads it.
    pub(super) extremes: bool,
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
            extremes: false,
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
        // Segments are merged with hot rows by as much of the key as the scan has: that must be what is asked for, at least.
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

    /// The scan for a reader to whom only the least and the greatest value of each column matter: of a segment that is seen
    /// whole it gives two rows, out of the manifest. `None` if it cannot.
    pub fn for_extremes(&self) -> Option<Self> {
        use crate::types::KalamDataType as T;
        let plain = self.keys.is_none()
            && self.index.is_none()
            && self.open.is_none()
            && self.filter.is_none()
            && self.fetch.is_none()
            && self.order.is_none()
            && self.index_order.is_none();
        // Floating point bounds stand for several values that compare as equal.
        let bounded = |column: &ScanColumn| match column {
            ScanColumn::Table { data_type, .. } => matches!(
                data_type,
                T::SmallInt
                    | T::Int
                    | T::BigInt
                    | T::Decimal { .. }
                    | T::Text
                    | T::Date
                    | T::Time
                    | T::Timestamp
                    | T::DateTime
            ),
            _ => false,
        };
        (plain && self.columns.iter().all(bounded)).then(|| Self { extremes: true, ..self.clone() })
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
        let names: Vec<&str> = self.columns.iter().map(ScanColumn::name).collect();
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
        if self.extremes {
            f.write_str(", extremes")?;
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
                    let reader = scan.open(request, Some(metrics)).await.map_err(external)?;
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
