//! The order that a derived table, a common table expression or a view was given with ORDER BY.
//!
//! In SQL only the outermost ORDER BY binds; but PostgreSQL and SQLite read such a table in its order, and queries rely
//! on it: `LIMIT` above it, `json_agg` over it. DataFusion's rule for sorts drops each sort above which an operator does
//! not promise to keep the order. Invariant: between a sort that the statement asks for and an operator that gives its
//! rows on as they come, or aggregates them in the order in which they come, stands an [`InWrittenOrder`], which asks for
//! that order, so the sort stays. Nothing stands above a sort at whose order nobody looks: below another sort, a join, or
//! aggregates to which the order is all the same. So a statement with ORDER BY at its own end only is planned as ever.

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{LexOrdering, OrderingRequirements};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::union::UnionExec;

use super::one_input::{OneInput, Step, with_inputs};

/// Aggregates that depend on the order of their rows.
const IN_ORDER: [&str; 5] = ["array_agg", "string_agg", "first_value", "last_value", "nth_value"];

/// Whether an aggregate depends on the order of its rows.
pub fn is_in_order(aggregate: &str) -> bool {
    IN_ORDER.contains(&aggregate)
}

/// Puts an [`InWrittenOrder`] above sorts whose order is looked at; runs before what places sorts.
#[derive(Debug)]
pub struct WrittenOrder;

impl PhysicalOptimizerRule for WrittenOrder {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(below(&plan, Reader::Keeps)?.unwrap_or(plan))
    }

    fn name(&self) -> &str {
        "written_order"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What becomes of the order of an operator's rows above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// It is that of the statement's rows, and every operator between says so.
    Keeps,
    /// It is looked at, but DataFusion does not know.
    Looks,
    /// Nobody looks at it.
    Ignores,
}

/// The plan with the orders in it asked for, if that changes it.
fn below(plan: &Arc<dyn ExecutionPlan>, reader: Reader) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
    let keeps = plan.maintains_input_order();
    let required = plan.required_input_ordering();
    let mut inputs = Vec::new();
    let mut changed = false;
    for (at, input) in plan.children().into_iter().enumerate() {
        let asked = required.get(at).is_some_and(Option::is_some);
        let reader = reader_of(plan, reader, keeps.get(at) == Some(&true), asked);
        let new = below(input, reader)?;
        changed |= new.is_some();
        inputs.push(new.unwrap_or_else(|| Arc::clone(input)));
    }
    let plan = if changed { with_inputs(plan, inputs)? } else { Arc::clone(plan) };
    if let (Reader::Looks, Some(sort)) = (reader, plan.downcast_ref::<SortExec>()) {
        let order = InWrittenOrder { order: sort.expr().clone() };
        return Ok(Some(OneInput::above(plan, order)));
    }
    Ok(changed.then_some(plan))
}

/// What becomes of the order of an operator's input.
fn reader_of(plan: &Arc<dyn ExecutionPlan>, above: Reader, keeps: bool, asked: bool) -> Reader {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let looks = |f: &Arc<AggregateFunctionExpr>| f.order_bys().is_empty() && is_in_order(f.fun().name());
        return if aggregate.aggr_expr().iter().any(looks) { Reader::Looks } else { Reader::Ignores };
    }
    if plan.is::<SortExec>() || asked {
        return Reader::Ignores;
    }
    match above {
        above if keeps => above,
        Reader::Ignores => Reader::Ignores,
        // Its inputs are read one after the other.
        Reader::Keeps | Reader::Looks if plan.is::<UnionExec>() || plan.children().len() == 1 => Reader::Looks,
        Reader::Keeps | Reader::Looks => Reader::Ignores,
    }
}

/// Hands rows on that come in an order.
#[derive(Debug, Clone)]
struct InWrittenOrder {
    order: LexOrdering,
}

impl Step for InWrittenOrder {
    const NAME: &'static str = "InWrittenOrderExec";
    const KEEPS_ORDER: bool = true;
    const KEEPS_ROWS: bool = true;

    fn required_order(&self) -> Option<OrderingRequirements> {
        Some(OrderingRequirements::from(self.order.clone()))
    }
}
