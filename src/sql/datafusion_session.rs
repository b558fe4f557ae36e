//! DataFusion as this engine uses it: one partition, no threads, no disk, a bounded memory pool.
//!
//! Invariant: no plan of this session needs a tokio runtime. Operators that would start tasks do so only with more
//! than one partition: `target_partitions` is 1, every provider has one partition, and what still has several inputs
//! (UNION ALL) is read in place by [`InPlaceCoalesce`] instead of by tasks.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::catalog::TableFunctionArgs;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue, plan_datafusion_err};
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableSource};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties};
use datafusion::prelude::SessionConfig;
use futures::{StreamExt, TryStreamExt};

use super::arithmetic::CheckedArithmetic;
use super::casts::{KalamCasts, KalamComparisons, NoNumbersForTimes};
use super::correlated::CorrelatedSubqueries;
use super::correlated_order::CorrelatedOrder;
use super::counting_windows::CountingWindows;
use super::dependencies::FalseDependencies;
use super::extremes::Extremes;
use super::framed::FramedAggregates;
use super::guarded_rules;
use super::hidden_tables::NoFields;
use super::in_lists::InLists;
use super::index_order::IndexOrder;
use super::interrupt::EnsureChecks;
use super::intervals::Intervals;
use super::json::JsonOperators;
use super::lateral::Lateral;
use super::not_in::NotIn;
use super::one_input::{OneInput, Step};
use super::parameter_lists::ParameterLists;
use super::subquery_places::SubqueryPlaces;
use super::type_planner::KalamTypePlanner;
use super::unnest::has_subquery;
use super::vectors::ArrayLiterals;
use crate::error::{KalamError, Result};
use crate::tables::TableStore;

/// Rows per batch between operators.
const BATCH_ROWS: usize = 8192;

/// A session of DataFusion with this engine's functions and rules. Queries reserve their memory in `memory`;
/// ids are made from the sequence of `store`.
pub fn session_state(memory: Arc<dyn MemoryPool>, store: &Arc<TableStore>) -> Result<SessionState> {
    let mut config = SessionConfig::new().with_target_partitions(1).with_batch_size(BATCH_ROWS);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    // Whether a sort is of any use shows in the plan of the whole statement (`written_order.rs`).
    options.sql_parser.enable_subquery_sort_elimination = false;
    options.explain.show_statistics = false;
    // A filter that one operator fills while another reads it would tie two runs of a kept plan together.
    options.optimizer.enable_dynamic_filter_pushdown = false;
    options.optimizer.enable_topk_dynamic_filter_pushdown = false;
    options.optimizer.enable_join_dynamic_filter_pushdown = false;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // Physical expressions tell NULLs (of `IS NOT FALSE`, say) less exactly than logical ones: no reason to fail.
    options.execution.skip_physical_aggregate_schema_check = true;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(memory)
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()
        .map_err(KalamError::internal)?;
    let mut analyzer_rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = vec![
        Arc::new(CorrelatedOrder),
        Arc::new(SubqueryPlaces),
        Arc::new(NotIn),
        Arc::new(CorrelatedSubqueries),
        Arc::new(Lateral),
        Arc::new(InLists),
        Arc::new(KalamCasts),
    ];
    analyzer_rules.extend(Analyzer::new().rules);
    analyzer_rules.push(Arc::new(NoNumbersForTimes));
    analyzer_rules.push(Arc::new(FalseDependencies));
    let mut physical_rules = guarded_rules::physical_rules();
    physical_rules.push(Arc::new(IndexOrder));
    physical_rules.push(Arc::new(Extremes));
    physical_rules.push(Arc::new(ParameterLists));
    physical_rules.push(Arc::new(InPlaceCoalesce));
    physical_rules.push(Arc::new(EnsureChecks));
    let table_functions =
        SessionStateDefaults::default_table_functions().into_iter().map(|f| (f.name().to_owned(), f)).collect();
    Ok(SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_expr_planners(expr_planners())
        .with_type_planner(Arc::new(KalamTypePlanner))
        .with_scalar_functions(super::functions::scalar_functions(store))
        .with_aggregate_functions(super::functions::aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_functions(table_functions)
        .with_analyzer_rules(analyzer_rules)
        .with_optimizer_rules(guarded_rules::optimizer_rules())
        .with_physical_optimizer_rules(physical_rules)
        .build())
}

/// DataFusion's planners of expressions. Those of features that `datafusion` itself is built without are named here.
fn expr_planners() -> Vec<Arc<dyn ExprPlanner>> {
    let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![
        Arc::new(NoFields),
        Arc::new(KalamComparisons),
        Arc::new(Intervals),
        Arc::new(CheckedArithmetic),
        Arc::new(JsonOperators),
        Arc::new(ArrayLiterals),
        Arc::new(FramedAggregates),
        Arc::new(CountingWindows),
        Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
        Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
    ];
    planners.extend(SessionStateDefaults::default_expr_planners());
    planners
}

/// The source of a call to a table function.
pub fn table_function(state: &SessionState, name: &str, args: &[Expr]) -> DfResult<Arc<dyn TableSource>> {
    let function = state
        .table_functions()
        .get(name)
        .ok_or_else(|| plan_datafusion_err!("Invalid function '{name}': there is no table function of that name"))?;
    let args = args.iter().map(|arg| as_literal(arg, state)).collect::<DfResult<Vec<_>>>()?;
    let provider = function.create_table_provider_with_args(TableFunctionArgs::new(&args, state))?;
    Ok(datafusion::datasource::provider_as_source(provider))
}

/// The value of an argument of a table function, of which DataFusion's take literals only, and moments to the nanosecond.
/// A date is the moment that it begins, as in PostgreSQL: steps may be hours.
fn as_literal(arg: &Expr, state: &SessionState) -> DfResult<Expr> {
    let is_open = |e: &Expr| matches!(e, Expr::Placeholder(_) | Expr::Column(_) | Expr::OuterReferenceColumn(..));
    if matches!(arg, Expr::Literal(ScalarValue::Int64(_), _)) || arg.exists(|e| Ok(is_open(e) || has_subquery(e)))? {
        return Ok(arg.clone());
    }
    // A text that asks for the time is planned for each of its runs.
    let began = state.execution_props().query_execution_start_time;
    let context = SimplifyContext::builder().with_schema(Arc::new(DFSchema::empty()));
    let context = context.with_query_execution_start_time(began).build();
    let plan = LogicalPlanBuilder::empty(true).project([arg.clone()])?.build()?;
    let LogicalPlan::Projection(plan) = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?
    else {
        return Ok(arg.clone());
    };
    let Some(arg) = plan.expr.into_iter().next() else { return Ok(arg.clone()) };
    let value = ExprSimplifier::new(context).simplify(arg.unalias())?;
    Ok(match value {
        Expr::Literal(value @ (ScalarValue::Date32(_) | ScalarValue::TimestampMicrosecond(..)), metadata) => {
            let zone = match value.data_type() {
                DataType::Timestamp(_, zone) => zone,
                _ => None,
            };
            Expr::Literal(value.cast_to(&DataType::Timestamp(TimeUnit::Nanosecond, zone))?, metadata)
        }
        Expr::Literal(value, metadata) if value.data_type().is_integer() => {
            Expr::Literal(value.cast_to(&DataType::Int64)?, metadata)
        }
        other => other,
    })
}

/// Replaces a `CoalescePartitionsExec` over several partitions, which starts a task for each, with one that reads
/// them in place, one after the other.
#[derive(Debug)]
struct InPlaceCoalesce;

impl PhysicalOptimizerRule for InPlaceCoalesce {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        let plan = plan
            .transform_up(|plan| {
                let Some(coalesce) = plan.downcast_ref::<CoalescePartitionsExec>() else {
                    return Ok(Transformed::no(plan));
                };
                if coalesce.input().output_partitioning().partition_count() < 2 {
                    return Ok(Transformed::no(plan));
                }
                let in_place = Concat { fetch: coalesce.fetch() };
                Ok(Transformed::yes(OneInput::above(Arc::clone(coalesce.input()), in_place)))
            })
            .data()?;
        // Whoever runs a plan with several partitions puts a CoalescePartitionsExec on top of it.
        Ok(one_partition(plan))
    }

    fn name(&self) -> &str {
        "in_place_coalesce"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The plan with one partition: what has several at its root (UNION ALL) is read in place too.
pub fn one_partition(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if plan.output_partitioning().partition_count() < 2 { plan } else { OneInput::above(plan, Concat { fetch: None }) }
}

/// One partition out of several: each is read to its end before the next.
#[derive(Debug, Clone)]
struct Concat {
    fetch: Option<usize>,
}

impl Step for Concat {
    const NAME: &'static str = "ConcatPartitionsExec";

    fn properties(&self, input: &Arc<dyn ExecutionPlan>) -> Arc<PlanProperties> {
        Arc::new(PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(1),
            input.pipeline_behavior(),
            input.boundedness(),
        ))
    }

    fn details(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fetch.map_or(Ok(()), |fetch| write!(f, ": fetch={fetch}"))
    }

    fn execute(
        &self,
        input: &Arc<dyn ExecutionPlan>,
        _: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let (input, schema) = (Arc::clone(input), input.schema());
        let partitions = input.output_partitioning().partition_count();
        let batches = futures::stream::iter(0..partitions)
            .map(move |partition| input.execute(partition, Arc::clone(&context)))
            .try_flatten();
        let mut remaining = self.fetch.unwrap_or(usize::MAX);
        let limited = batches.scan((), move |(), batch| {
            if remaining == 0 {
                return futures::future::ready(None);
            }
            let batch = batch.map(|b| b.slice(0, b.num_rows().min(remaining)));
            remaining -= batch.as_ref().map_or(0, |b| b.num_rows());
            futures::future::ready(Some(batch))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, limited)))
    }
}
