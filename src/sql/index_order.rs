//! ORDER BY … LIMIT through an index: rows come in order, and nothing is sorted.
//!
//! Invariant: a sort is left out only above a scan that gives its rows in that very order. That is a scan of a part of
//! an index that filters chose, or of the whole of one if there is no filter: then only as many rows are read as the
//! limit asks for.

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;

use super::one_input::with_inputs;
use crate::tables::TableScanExec;

/// Leaves sorts out; see the module's comment.
#[derive(Debug)]
pub struct IndexOrder;

impl PhysicalOptimizerRule for IndexOrder {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        plan.transform_down(|plan| {
            let Some(sort) = plan.downcast_ref::<SortExec>() else { return Ok(Transformed::no(plan)) };
            let Some(fetch) = sort.fetch() else { return Ok(Transformed::no(plan)) };
            let mut by = Vec::new();
            for expr in sort.expr().iter() {
                let Some(column) = expr.expr.downcast_ref::<Column>() else { return Ok(Transformed::no(plan)) };
                by.push((column.index(), expr.options));
            }
            match in_order(sort.input(), by, fetch, false)? {
                Some(input) => Ok(Transformed::yes(Arc::new(GlobalLimitExec::new(input, 0, Some(fetch))) as _)),
                None => Ok(Transformed::no(plan)),
            }
        })
        .data()
    }

    fn name(&self) -> &str {
        "index_order"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

type By = Vec<(usize, arrow::compute::SortOptions)>;

/// A plan with its rows in order, if it is a scan, or a filter above one, that can give them so.
fn in_order(
    plan: &Arc<dyn ExecutionPlan>,
    mut by: By,
    fetch: usize,
    filtered: bool,
) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = plan.downcast_ref::<TableScanExec>() {
        let ordered = scan.in_order(&by, filtered)?;
        let ordered = ordered.map(|scan| if filtered { scan } else { scan.with_limit(fetch) });
        return Ok(ordered.map(|scan| Arc::new(scan) as _));
    }
    let filter = plan.downcast_ref::<FilterExec>();
    if filter.is_none() && !plan.is::<CooperativeExec>() {
        return Ok(None);
    }
    if let Some(projection) = filter.and_then(|f| f.projection().as_ref()) {
        for (index, _) in &mut by {
            *index = projection[*index];
        }
    }
    let child = plan.children().into_iter().next().map(Arc::clone);
    let Some(child) = child else { return Ok(None) };
    match in_order(&child, by, fetch, filtered || filter.is_some())? {
        Some(child) => {
            let plan = with_inputs(plan, vec![child])?;
            // A filter gathers batches: it need not wait for more rows than are asked for.
            Ok(Some(if plan.is::<FilterExec>() { plan.with_fetch(Some(fetch)).unwrap_or(plan) } else { plan }))
        }
        None => Ok(None),
    }
}
