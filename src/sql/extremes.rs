//! `min(c)` and `max(c)` of whole tables, out of what the manifest knows of segments.
//!
//! Invariant: a scan is told that only extremes matter if every aggregate above it is a least or greatest value of a plain
//! column and nothing between picks rows: then two rows per segment, with its least and its greatest values, give the same
//! answer as all of them. The scan decides when it runs which segments that is true of, so the plan can be kept.

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateInputMode};
use datafusion::physical_plan::coop::CooperativeExec;

use super::one_input::with_inputs;
use crate::tables::TableScanExec;

/// Tells scans that only extremes matter; see the module's comment.
#[derive(Debug)]
pub struct Extremes;

impl PhysicalOptimizerRule for Extremes {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        plan.transform_down(|plan| {
            let Some(aggregate) = plan.downcast_ref::<AggregateExec>() else { return Ok(Transformed::no(plan)) };
            let input = if asks_for_extremes(aggregate) { for_extremes(aggregate.input())? } else { None };
            match input {
                Some(input) => Ok(Transformed::yes(with_inputs(&plan, vec![input])?)),
                None => Ok(Transformed::no(plan)),
            }
        })
        .data()
    }

    fn name(&self) -> &str {
        "extremes"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn asks_for_extremes(aggregate: &AggregateExec) -> bool {
    let extreme = |name: &str| matches!(name, "min" | "max");
    aggregate.mode().input_mode() == AggregateInputMode::Raw
        && aggregate.group_expr().expr().is_empty()
        && !aggregate.aggr_expr().is_empty()
        && aggregate.filter_expr().iter().all(Option::is_none)
        && aggregate.aggr_expr().iter().all(|function| {
            extreme(function.fun().name()) && function.expressions().iter().all(|expr| expr.is::<Column>())
        })
}

fn for_extremes(plan: &Arc<dyn ExecutionPlan>) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = plan.downcast_ref::<TableScanExec>() {
        return Ok(scan.for_extremes().map(|scan| Arc::new(scan) as _));
    }
    match plan.children().as_slice() {
        [child] if plan.is::<CooperativeExec>() => {
            for_extremes(child)?.map(|child| with_inputs(plan, vec![child])).transpose()
        }
        _ => Ok(None),
    }
}
