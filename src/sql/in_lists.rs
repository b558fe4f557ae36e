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
    // A chain is one: its parts become neighbours where a filter is taken apart and put together again.
    let (mut before, mut parts) = (Vec::new(), Vec::new());
    operands(&left, op, &mut before);
    operands(&right, op, &mut parts);
    let mut changed = false;
    let mut new = Vec::with_capacity(parts.len());
    for part in parts {
        let clashing = before.iter().any(|other| are_joined_wrongly(other, part, op));
        changed |= clashing;
        new.push(match tested(part) {
            Some((x, _)) if clashing => {
                when(x.clone().is_null(), lit(ScalarValue::Boolean(None))).otherwise(part.clone())?
            }
            _ => part.clone(),
        });
    }
    let binary = |left, right| Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) });
    match new.into_iter().reduce(binary) {
        Some(right) if changed => Ok(Transformed::yes(binary(*left, right))),
        _ => Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
    }
}

/// The parts of a chain of AND or of OR.
fn operands<'a>(expr: &'a Expr, op: Operator, parts: &mut Vec<&'a Expr>) {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: found, right }) if *found == op => {
            operands(left, op, parts);
            operands(right, op, parts);
        }
        part => parts.push(part),
    }
}

fn are_joined_wrongly(a: &Expr, b: &Expr, op: Operator) -> bool {
    match (tested(a), tested(b)) {
        (Some((x, not_a)), Some((y, not_b))) => {
            let has_list = !is_comparison(a) || !is_comparison(b);
            x == y && has_list && !(not_a == not_b && not_a == (op == Operator::And))
        }
        _ => false,
    }
}

fn is_comparison(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryExpr(BinaryExpr { op: Operator::Eq | Operator::NotEq, .. }))
}
