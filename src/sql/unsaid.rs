//! What the rows between two operators have in common, where DataFusion says too much of it.
//!
//! DataFusion notes which columns of an operator's rows are constant or equal, and plans sorts, windows and aggregates by
//! it. It says of an outer join whatever it knows of its inputs, but the join fills their columns with NULLs where it
//! finds no match. It replaces a column by an expression that a filter found equal, inside of that expression too, and
//! then finds an order missing that it has made. Of a UNION it loses the order of inputs of which different columns are
//! constant, and of a join that a column of an input is. Invariant: there stands an `UnsaidExec`, which states nothing of
//! its rows, not even their order: a sort moved below it would find that a constant column needs none.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinType, Result as DfResult};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};

use super::one_input::{OneInput, Step, with_inputs};

/// Puts an `UnsaidExec` where too much is said.
#[derive(Debug)]
pub struct Unsaid;

impl PhysicalOptimizerRule for Unsaid {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            let says_too_much: fn(&Arc<dyn ExecutionPlan>) -> bool = match plan.is::<UnionExec>() {
                true => states_equalities,
                false if is_join(&plan) => has_constants,
                false => |_| false,
            };
            let inputs = unsaid_inputs(plan, says_too_much)?;
            let plan = &inputs.data;
            let too_much = (is_outer_join(plan) && states_equalities(plan))
                || (plan.is::<FilterExec>() && states_equal_expressions(plan));
            Ok(if too_much { Transformed::yes(unsaid(inputs.data)) } else { inputs })
        })
        .data()
    }

    fn name(&self) -> &str {
        "unsaid"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn unsaid(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    OneInput::above(plan, Unstated)
}

/// The operator, with an `UnsaidExec` above each input that says too much.
fn unsaid_inputs(
    plan: Arc<dyn ExecutionPlan>,
    says_too_much: fn(&Arc<dyn ExecutionPlan>) -> bool,
) -> DfResult<Transformed<Arc<dyn ExecutionPlan>>> {
    if !plan.children().into_iter().any(says_too_much) {
        return Ok(Transformed::no(plan));
    }
    let inputs = plan.children().into_iter().map(|input| match says_too_much(input) {
        true => unsaid(Arc::clone(input)),
        false => Arc::clone(input),
    });
    with_inputs(&plan, inputs.collect()).map(Transformed::yes)
}

fn is_outer_join(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let kind = plan
        .downcast_ref::<HashJoinExec>()
        .map(|join| *join.join_type())
        .or_else(|| plan.downcast_ref::<NestedLoopJoinExec>().map(|join| *join.join_type()))
        .or_else(|| plan.downcast_ref::<SortMergeJoinExec>().map(|join| join.join_type()));
    matches!(kind, Some(JoinType::Left | JoinType::Right | JoinType::Full))
}

fn is_join(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<HashJoinExec>() || plan.is::<NestedLoopJoinExec>() || plan.is::<SortMergeJoinExec>()
}

/// Whether it makes columns of constants, or has one row, which a join forgets: a sort that moves through the join finds
/// that none is needed.
fn has_constants(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        return projection.expr().iter().any(|e| e.expr.is::<Literal>()) || has_constants(projection.input());
    }
    plan.downcast_ref::<AggregateExec>().is_some_and(|aggregate| aggregate.group_expr().expr().is_empty())
}

fn states_equalities(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.properties().eq_properties.eq_group().iter().next().is_some()
}

/// Whether what is equal is more than columns and constants.
fn states_equal_expressions(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let plain = |expr: &Arc<dyn PhysicalExpr>| expr.is::<Column>() || expr.is::<Literal>();
    plan.properties().eq_properties.eq_group().iter().any(|class| class.len() > 1 && !class.iter().all(plain))
}

/// Hands rows on and says nothing of them.
#[derive(Debug, Clone)]
struct Unstated;

impl Step for Unstated {
    const NAME: &'static str = "UnsaidExec";
    const KEEPS_ROWS: bool = true;

    fn properties(&self, input: &Arc<dyn ExecutionPlan>) -> Arc<PlanProperties> {
        let stated = EquivalenceProperties::new(input.schema());
        Arc::new(PlanProperties::clone(input.properties()).with_eq_properties(stated))
    }
}
