//! `NOT IN (query)` with NULLs, wherever DataFusion's null-aware join does not do.
//!
//! DataFusion plans `x NOT IN (q)` as a join that knows NULL only if `q` stands alone and `x` is of columns; beside a
//! correlation, under OR and for a constant it forgets NULLs or fails. Here the predicate of a filter is rewritten so
//! that it is true for the same rows: a filter asks only what is true, so `x NOT IN (q)` may become `NOT EXISTS` of a
//! row of `q` that equals `x` or is NULL, or any row if `x` is NULL. Invariant: only where nothing above distinguishes
//! false from NULL, for which NOT is moved inwards first.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, ExprSchema, Result as DfResult};
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{BinaryExpr, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery};
use datafusion::optimizer::AnalyzerRule;

/// Rewrites the predicates of filters.
#[derive(Debug)]
pub struct NotIn;

impl AnalyzerRule for NotIn {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Filter(filter) if filter.predicate.exists(|e| Ok(matches!(e, Expr::InSubquery(_))))? => {
                let predicate = when_true(filter.predicate.clone(), filter.input.schema(), true)?;
                Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "not_in"
    }
}

/// An expression that is true where this one is; elsewhere it may be false or NULL. `alone`: joined by AND at most.
fn when_true(expr: Expr, schema: &DFSchema, alone: bool) -> DfResult<Expr> {
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let alone = alone && op == Operator::And;
            binary(when_true(*left, schema, alone)?, op, when_true(*right, schema, alone)?)
        }
        Expr::Not(inner) => when_false(*inner, schema, alone)?,
        Expr::IsTrue(inner) => when_true(*inner, schema, alone)?,
        Expr::IsFalse(inner) => when_false(*inner, schema, alone)?,
        Expr::IsNotTrue(inner) => Expr::IsNotTrue(Box::new(when_true(*inner, schema, false)?)),
        Expr::IsNotFalse(inner) => Expr::IsNotTrue(Box::new(when_false(*inner, schema, false)?)),
        Expr::InSubquery(test) if test.negated => {
            let plain = test.subquery.outer_ref_columns.is_empty()
                && !test.expr.column_refs().is_empty()
                && !test.expr.contains_outer();
            if alone && plain { Expr::InSubquery(test) } else { not_exists(test, schema)? }
        }
        other => other,
    })
}

/// An expression that is true where this one is false.
fn when_false(expr: Expr, schema: &DFSchema, alone: bool) -> DfResult<Expr> {
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let op = if op == Operator::And { Operator::Or } else { Operator::And };
            let alone = alone && op == Operator::And;
            binary(when_false(*left, schema, alone)?, op, when_false(*right, schema, alone)?)
        }
        Expr::Not(inner) => when_true(*inner, schema, alone)?,
        Expr::InSubquery(test) => {
            when_true(Expr::InSubquery(InSubquery { negated: !test.negated, ..test }), schema, alone)?
        }
        Expr::Exists(test) => Expr::Exists(Exists { negated: !test.negated, ..test }),
        other => Expr::Not(Box::new(other)),
    })
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) })
}

fn not_exists(test: InSubquery, schema: &DFSchema) -> DfResult<Expr> {
    let InSubquery { expr, subquery, .. } = test;
    let Some(field) = subquery.subquery.schema().iter().next() else {
        return Ok(Expr::InSubquery(InSubquery { expr, subquery, negated: true }));
    };
    let value = Expr::Column(Column::from(field));
    let mut outer = subquery.outer_ref_columns.clone();
    let tested = expr
        .transform_up(|expr| match expr {
            Expr::Column(column) => {
                let field = Arc::clone(schema.field_from_column(&column)?);
                let reference = Expr::OuterReferenceColumn(field, column);
                outer.push(reference.clone());
                Ok(Transformed::yes(reference))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()?;
    let matches = value.clone().eq(tested.clone()).or(value.is_null()).or(tested.is_null());
    let plan = LogicalPlanBuilder::from(Arc::clone(&subquery.subquery)).filter(matches)?.build()?;
    let subquery = Subquery { subquery: Arc::new(plan), outer_ref_columns: outer, ..subquery };
    Ok(Expr::Exists(Exists { subquery, negated: true }))
}
