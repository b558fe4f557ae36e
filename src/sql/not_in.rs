//! `NOT IN (query)` with NULLs, wherever DataFusion's null-aware join does not do.
//!
//! DataFusion plans `x NOT IN (q)` as a join that knows NULL only if `q` stands alone and `x` is of columns; beside a
//! correlation, under OR and for a constant it forgets NULLs or fails. Here the predicate of a filter is rewritten so
//! that it is true for the same rows: a filter asks only what is true, so `x NOT IN (q)` may become `NOT EXISTS` of a
//! row of `q` that equals `x` or is NULL, or any row if `x` is NULL. Invariant: only where nothing above distinguishes
//! false from NULL, for which NOT is moved inwards first; elsewhere (in CASE, below IS NULL) stands the value of IN with
//! its third truth value, made of counts of rows.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError, ExprSchema, Result as DfResult, ScalarValue, plan_err};
use datafusion::functions_aggregate::count::count_all;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit, when,
};
use datafusion::optimizer::AnalyzerRule;

use super::unnest::{columns_of, outer_columns};

/// Rewrites the predicates of filters.
#[derive(Debug)]
pub struct NotIn;

impl AnalyzerRule for NotIn {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Filter(filter) if filter.predicate.exists(|e| Ok(matches!(e, Expr::InSubquery(_))))? => {
                let predicate = when_true(filter.predicate.clone(), filter.input.schema(), true)?;
                Ok(Transformed::yes(with_columns_tested(predicate, filter.input)?))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "not_in"
    }
}

/// The filter, with what a join for NOT IN tests as columns of its input. DataFusion's join forgets NULLs if what it
/// tests is found to be constant on the way; a column it leaves alone.
fn with_columns_tested(predicate: Expr, input: Arc<LogicalPlan>) -> DfResult<LogicalPlan> {
    let mut tested = Vec::new();
    let predicate = predicate
        .transform_up(|expr| match expr {
            Expr::InSubquery(test) if test.negated && !matches!(test.expr.as_ref(), Expr::Column(_)) => {
                let name = format!("$tested{}", tested.len());
                tested.push(test.expr.alias(name.as_str()));
                let expr = Box::new(Expr::Column(Column::from_name(name)));
                Ok(Transformed::yes(Expr::InSubquery(InSubquery { expr, ..test })))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()?;
    if tested.is_empty() {
        return Ok(LogicalPlan::Filter(Filter::try_new(predicate, input)?));
    }
    let columns = columns_of(&input);
    let with_tested: Vec<Expr> = columns.iter().cloned().chain(tested).collect();
    LogicalPlanBuilder::from(input).project(with_tested)?.filter(predicate)?.project(columns)?.build()
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
            let plain = outer_columns(&test.subquery.subquery)?.is_empty()
                && !test.expr.column_refs().is_empty()
                && !test.expr.contains_outer();
            if alone && plain { Expr::InSubquery(test) } else { not_exists(test, schema)? }
        }
        test @ Expr::InSubquery(_) => test,
        other => with_values(other, schema)?,
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
        other => Expr::Not(Box::new(with_values(other, schema)?)),
    })
}

/// An expression that may tell false from NULL, with the values of its INs.
fn with_values(expr: Expr, schema: &DFSchema) -> DfResult<Expr> {
    expr.transform_up(|expr| match expr {
        Expr::InSubquery(test) => Ok(Transformed::yes(in_value(test, schema)?)),
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) })
}

/// `x NOT IN (q)`, true where it is true: no row of `q` equals `x` or is NULL.
fn not_exists(test: InSubquery, schema: &DFSchema) -> DfResult<Expr> {
    let subquery = rows_with(*test.expr, test.subquery, schema, |value, tested| {
        value.clone().eq(tested.clone()).or(value.is_null()).or(tested.is_null())
    })?;
    Ok(Expr::Exists(Exists { subquery, negated: true }))
}

/// The rows of `q` that equal `x`.
pub fn equal_rows(x: Expr, subquery: Subquery, schema: &DFSchema) -> DfResult<Subquery> {
    rows_with(x, subquery, schema, Expr::eq)
}

/// The rows of a subquery whose value and an expression over rows of `schema` fulfil a condition.
fn rows_with(
    x: Expr,
    subquery: Subquery,
    schema: &DFSchema,
    condition: impl FnOnce(Expr, Expr) -> Expr,
) -> DfResult<Subquery> {
    let value = value_of(&subquery.subquery)?;
    let mut outer_ref_columns = subquery.outer_ref_columns.clone();
    let tested = x
        .transform_up(|expr| match expr {
            Expr::Column(column) => {
                let field = Arc::clone(schema.field_from_column(&column)?);
                let reference = Expr::OuterReferenceColumn(field, column);
                outer_ref_columns.push(reference.clone());
                Ok(Transformed::yes(reference))
            }
            Expr::OuterReferenceColumn(..) => {
                outer_ref_columns.push(expr.clone());
                Ok(Transformed::no(expr))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()?;
    let plan = LogicalPlanBuilder::from(subquery.subquery).filter(condition(value, tested))?.build()?;
    Ok(Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: subquery.spans })
}

/// The one column of a subquery.
pub fn value_of(subquery: &LogicalPlan) -> DfResult<Expr> {
    let mut fields = subquery.schema().iter();
    match (fields.next(), fields.next()) {
        (Some(field), None) => Ok(Expr::Column(Column::from(field))),
        _ => plan_err!("the subquery of IN has {} columns, expected one", subquery.schema().fields().len()),
    }
}

/// The value of `x IN (q)`, with its third truth value: how many rows `q` has, how many equal `x`, how many are NULL.
pub fn in_value(test: InSubquery, schema: &DFSchema) -> DfResult<Expr> {
    let InSubquery { expr: x, subquery, negated } = test;
    let value = value_of(&subquery.subquery)?;
    let no_groups = || Vec::<Expr>::new();
    let scalar = |plan: LogicalPlanBuilder, outer_ref_columns: &[Expr]| {
        let (outer_ref_columns, spans) = (outer_ref_columns.to_vec(), subquery.spans.clone());
        Ok::<_, DataFusionError>(Expr::ScalarSubquery(Subquery {
            subquery: Arc::new(plan.build()?),
            outer_ref_columns,
            spans,
        }))
    };
    let rows = || LogicalPlanBuilder::from(Arc::clone(&subquery.subquery));
    let all = scalar(rows().aggregate(no_groups(), [count_all()])?, &subquery.outer_ref_columns)?;
    let nulls =
        scalar(rows().filter(value.is_null())?.aggregate(no_groups(), [count_all()])?, &subquery.outer_ref_columns)?;
    let equal = equal_rows(x.as_ref().clone(), subquery.clone(), schema)?;
    let found = LogicalPlanBuilder::from(equal.subquery).aggregate(no_groups(), [count_all()])?;
    let found = scalar(found, &equal.outer_ref_columns)?;
    // Each count stands once: DataFusion makes a join of it wherever it stands.
    let unknown = x.is_null().or(nulls.gt(lit(0_i64)));
    let otherwise =
        when(all.eq(lit(0_i64)), lit(false)).when(unknown, lit(ScalarValue::Boolean(None))).otherwise(lit(false))?;
    let value = found.gt(lit(0_i64)).or(otherwise);
    Ok(if negated { Expr::Not(Box::new(value)) } else { value })
}
