//! Questions about the expressions of a plan.
//!
//! Invariant: every expression of every operator is asked, those within subqueries included.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Whether any expression of a plan, or a part of one, fulfils a condition.
pub fn any_expression(plan: &LogicalPlan, fulfils: impl Fn(&Expr) -> bool) -> bool {
    let mut found = false;
    // The closures never fail.
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found = found || expr.exists(|e| Ok(fulfils(e))).unwrap_or(true);
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}
