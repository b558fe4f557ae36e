//! Two optimizer rules of DataFusion, kept away from joins in which NULL equals NULL.
//!
//! A join holds one setting for all of its keys. DataFusion's rules add a condition `a = b` to the keys of a join whose
//! setting says that NULL equals NULL, and merge joins of either setting, so that `a = b` becomes true for NULLs.
//! Invariant: a join with that setting keeps the keys that it was made with.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{NullEquality, Result as DfResult};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::optimizer::{ApplyOrder, Optimizer};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use std::sync::Arc;

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// DataFusion's rules, the two among them guarded.
pub fn optimizer_rules() -> Vec<Rule> {
    let guard = |rule: Rule| match rule.name() {
        "extract_equijoin_predicate" => Arc::new(Guarded { rule, below: false }) as Rule,
        "eliminate_cross_join" => Arc::new(Guarded { rule, below: true }) as Rule,
        _ => rule,
    };
    Optimizer::new().rules.into_iter().map(guard).collect()
}

/// A rule that leaves such joins alone; with `below`, every plan that holds one.
#[derive(Debug)]
struct Guarded {
    rule: Rule,
    below: bool,
}

fn nulls_are_equal(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join(join) if join.null_equality == NullEquality::NullEqualsNull)
}

impl OptimizerRule for Guarded {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        let kept = match self.below {
            true => plan.exists(|plan| Ok(nulls_are_equal(plan)))?,
            false => nulls_are_equal(&plan),
        };
        if kept { Ok(Transformed::no(plan)) } else { self.rule.rewrite(plan, config) }
    }
}
