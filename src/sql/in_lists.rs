//! `x IN (a, b)` beside another of the same `x`.
//!
//! DataFusion's simplifier makes one list of two, `x IN (1, 2) AND x IN (3)` false and `x NOT IN (1) OR x NOT IN (2)` true,
//! though both are NULL where `x` or an item is. Invariant: behind this rule no AND or OR has two such tests of one
//! expression for its sides, but for those whose lists it joins rightly: all of IN for OR, all of NOT IN for AND. The
//! second stands in a CASE instead, which is NULL where `x` is, as the test is itself.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator, lit, when};
use datafusion::optimizer::AnalyzerRule;

/// Keeps tests of lists apart.
#[derive(Debug)]
pub struct InLists;

impl AnalyzerRule for InLists {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let new = expr.transform_up(apart)?;
                Ok(if new.transformed { new.update_data(|expr| name.restore(expr)) } else { new })
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "in_lists"
    }
}

/// What a test of a list tests, and whether it is NOT IN. An OR of equalities becomes such a test on the way.
fn tested(expr: &Expr) -> Option<(&Expr, bool)> {
    match expr {
        Expr::InList(list) => Some((&list.expr, list.negated)),
        Expr::Not(inner) => tested(inner).map(|(x, negated)| (x, !negated)),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Literal(..), x) | (x, Expr::Literal(..)) => Some((x, false)),
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::NotEq, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Literal(..), x) | (x, Expr::Literal(..)) => Some((x, true)),
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or | Operator::And, right }) => {
            let (left, right) = (tested(left)?, tested(right)?);
            (left == right).then_some(left)
        }
        _ => None,
    }
}

fn apart(expr: Expr) -> DfResult<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) = expr else {
        return Ok(Transformed::no(expr));
    };
    let joined_wrongly = match (tested(&left), tested(&right)) {
        (Some((a, not_a)), Some((b, not_b))) => {
            let has_list = [&left, &right].into_iter().any(|side| !is_comparison(side));
            a == b && has_list && !(not_a == not_b && not_a == (op == Operator::And))
        }
        _ => false,
    };
    let right = if joined_wrongly {
        let x = tested(&right).map_or_else(|| lit(true), |(x, _)| x.clone());
        Box::new(when(x.is_null(), lit(ScalarValue::Boolean(None))).otherwise(*right)?)
    } else {
        right
    };
    let new = Expr::BinaryExpr(BinaryExpr { left, op, right });
    Ok(if joined_wrongly { Transformed::yes(new) } else { Transformed::no(new) })
}

fn is_comparison(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryExpr(BinaryExpr { op: Operator::Eq | Operator::NotEq, .. }))
}
