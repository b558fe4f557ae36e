//! What DataFusion sees of a system table.
//!
//! Invariant: as with every other table, a provider holds no user and no rows, so the registry caches one for all;
//! the plan's leaf asks for the rows when it is executed, so a plan can be kept and run again.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result as DfResult, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType as DfTableType};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::SystemTablesRegistry;
use crate::error::{KalamError, Result};
use crate::schema::{CachedTableData, ProviderFactory, TableDefinition, TableId, TableType};
use crate::tables::provider::{BaseTableProvider, plan_schema};
use crate::tables::request::Request;

/// Rows per batch.
const BATCH_ROWS: usize = 8192;

/// The provider of a system table.
#[derive(Debug)]
pub struct SystemTableProvider {
    system: Arc<SystemTablesRegistry>,
    table: Arc<CachedTableData>,
    schema: SchemaRef,
}

impl SystemTableProvider {
    /// A provider of a table whose rows `system` knows.
    pub fn new(system: Arc<SystemTablesRegistry>, table: Arc<CachedTableData>) -> Result<Self> {
        let schema = plan_schema(table.arrow_schema()?.as_ref());
        Ok(Self { system, table, schema })
    }
}

impl BaseTableProvider for SystemTableProvider {
    fn table_id(&self) -> &TableId {
        self.table.table_id()
    }

    fn definition(&self) -> &Arc<TableDefinition> {
        self.table.definition()
    }
}

#[async_trait]
impl TableProvider for SystemTableProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> DfTableType {
        DfTableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let schema = match projection {
            None => Arc::clone(&self.schema),
            Some(projection) => Arc::new(self.schema.project(projection)?),
        };
        let (system, table) = (Arc::clone(&self.system), Arc::clone(&self.table));
        Ok(Arc::new(SystemTableExec::new(system, table, schema, projection.map(|p| p.as_slice().into()), limit)))
    }
}

/// The scan of a system table; see the module's comment.
#[derive(Debug, Clone)]
pub struct SystemTableExec {
    system: Arc<SystemTablesRegistry>,
    table: Arc<CachedTableData>,
    projection: Option<Arc<[usize]>>,
    fetch: Option<usize>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl SystemTableExec {
    fn new(
        system: Arc<SystemTablesRegistry>,
        table: Arc<CachedTableData>,
        schema: SchemaRef,
        projection: Option<Arc<[usize]>>,
        fetch: Option<usize>,
    ) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        Self { system, table, projection, fetch, properties: Arc::new(properties), metrics }
    }

    /// The rows as of now: the columns and as many as were asked for.
    async fn rows(&self, request: &Request) -> Result<RecordBatch> {
        request.check()?;
        request.role.check_access(self.table.definition())?;
        let batch = self.system.batch(&self.table).await?;
        let rows = batch.num_rows();
        let columns = match &self.projection {
            None => batch.columns().to_vec(),
            Some(projection) => projection.iter().map(|&i| Arc::clone(batch.column(i))).collect(),
        };
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch =
            RecordBatch::try_new_with_options(self.schema(), columns, &options).map_err(KalamError::internal)?;
        Ok(batch.slice(0, rows.min(self.fetch.unwrap_or(usize::MAX))))
    }
}

impl DisplayAs for SystemTableExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.schema();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "SystemTableScan: {}, columns=[{}]", self.table.table_id(), names.join(", "))?;
        self.fetch.map_or(Ok(()), |fetch| write!(f, ", fetch={fetch}"))
    }
}

impl ExecutionPlan for SystemTableExec {
    fn name(&self) -> &str {
        "SystemTableExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let request = context
            .session_config()
            .get_extension::<Request>()
            .ok_or_else(|| external(KalamError::internal("a plan was run without a request")))?;
        let scan = self.clone();
        let metrics = BaselineMetrics::new(&self.metrics, 0);
        let rows = async move {
            let rows = scan.rows(&request).await.map_err(external)?;
            metrics.record_output(rows.num_rows());
            let total = rows.num_rows();
            let cut = move |start| Ok(rows.slice(start, BATCH_ROWS.min(total - start)));
            Ok::<_, DataFusionError>(futures::stream::iter((0..total).step_by(BATCH_ROWS).map(cut)))
        };
        let stream = futures::stream::once(rows).try_flatten().boxed();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> DfResult<Arc<Statistics>> {
        // Inexact on purpose: a kept plan runs again after rows were added.
        let mut statistics = Statistics::new_unknown(&self.schema());
        if let Some(rows) = self.system.rows_kept(&self.table) {
            statistics.num_rows = Precision::Inexact(rows);
        }
        Ok(Arc::new(statistics))
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

/// Makes the providers of system tables, and leaves all others to another factory.
pub struct SystemProviders {
    system: Arc<SystemTablesRegistry>,
    others: Arc<dyn ProviderFactory>,
}

impl SystemProviders {
    /// A factory in front of another one.
    pub fn new(system: Arc<SystemTablesRegistry>, others: Arc<dyn ProviderFactory>) -> Self {
        Self { system, others }
    }
}

impl ProviderFactory for SystemProviders {
    fn provider(&self, table: &Arc<CachedTableData>) -> Result<Arc<dyn TableProvider>> {
        if table.definition().table_type != TableType::System {
            return self.others.provider(table);
        }
        Ok(Arc::new(SystemTableProvider::new(Arc::clone(&self.system), Arc::clone(table))?))
    }
}
