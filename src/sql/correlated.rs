//! Subqueries that refer to the query around them in ways that DataFusion does not plan, or plans wrong.
//!
//! DataFusion turns a correlated subquery into a join only if a filter close to its top compares with the outer row, for
//! a scalar subquery by equality. Any other becomes here: the distinct outer values, with the subquery's rows for each
//! of them ([`Domain`]), joined back to the outer rows. EXISTS and IN of that kind count rows. Invariant: the join back
//! is a left join on all outer values, NULL equal to NULL, with at most one row for each, so no row is lost or doubled;
//! a value for which an aggregate has no rows has what the aggregate gives for no rows (0 for count, else NULL).

use std::cell::Cell;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, Result as DfResult};
use datafusion::functions_aggregate::count::count_all;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Projection, Subquery, lit,
};
use datafusion::optimizer::AnalyzerRule;

use super::not_in::{equal_rows, in_value, value_of};
use super::unnest::{Domain, columns_of, has_at_most_one_row, has_subquery, outer_columns};

/// Rewrites the subqueries of SELECT lists and WHERE clauses.
#[derive(Debug)]
pub struct CorrelatedSubqueries;

impl AnalyzerRule for CorrelatedSubqueries {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        let count = Cell::new(0);
        plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Projection(projection) if projection.expr.iter().any(has_subquery) => {
                in_projection(projection, &count)
            }
            LogicalPlan::Filter(filter) if has_subquery(&filter.predicate) => in_filter(filter, &count),
            other => Ok(Transformed::no(other)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "correlated_subqueries"
    }
}

fn in_projection(projection: Projection, count: &Cell<usize>) -> DfResult<Transformed<LogicalPlan>> {
    let mut input = Arc::clone(&projection.input);
    let names = NamePreserver::new_for_projection();
    let mut changed = false;
    let mut exprs = Vec::with_capacity(projection.expr.len());
    for expr in &projection.expr {
        let name = names.save(expr);
        let values = expr.clone().transform_up(|expr| match expr {
            Expr::Exists(exists) => Ok(Transformed::yes(exists_as_count(exists)?)),
            Expr::InSubquery(test) => Ok(Transformed::yes(in_value(test, projection.input.schema())?)),
            other => Ok(Transformed::no(other)),
        })?;
        changed |= values.transformed;
        let (new, joined) = without_scalars(values.data, &projection.input, &input, count)?;
        changed |= joined.is_some();
        input = joined.unwrap_or(input);
        exprs.push(name.restore(new));
    }
    if !changed {
        return Ok(Transformed::no(LogicalPlan::Projection(projection)));
    }
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(exprs, input)?)))
}

/// `EXISTS (q)` as `(SELECT count(*) FROM q) > 0`.
fn exists_as_count(exists: Exists) -> DfResult<Expr> {
    let no_groups: Vec<Expr> = Vec::new();
    let plan = LogicalPlanBuilder::from(Arc::clone(&exists.subquery.subquery))
        .aggregate(no_groups, vec![count_all()])?
        .build()?;
    let subquery = Subquery { subquery: Arc::new(plan), ..exists.subquery };
    let found = Expr::ScalarSubquery(subquery);
    Ok(if exists.negated { found.eq(lit(0_i64)) } else { found.gt(lit(0_i64)) })
}

fn in_filter(filter: Filter, count: &Cell<usize>) -> DfResult<Transformed<LogicalPlan>> {
    let schema = filter.input.schema();
    let counted = filter.predicate.clone().transform_up(|expr| match expr {
        Expr::Exists(exists) if !is_semi_join(&exists.subquery, schema)? => {
            Ok(Transformed::yes(exists_as_count(exists)?))
        }
        // Here false and NULL are one: the rule for NOT IN has seen to it.
        Expr::InSubquery(test) if test.expr.contains_outer() || !is_semi_join(&test.subquery, schema)? => {
            let InSubquery { expr, subquery, negated } = test;
            let subquery = equal_rows(*expr, subquery, schema)?;
            Ok(Transformed::yes(exists_as_count(Exists { subquery, negated })?))
        }
        Expr::InSubquery(test) if !outer_columns(&test.subquery.subquery)?.is_empty() => {
            Ok(Transformed::yes(Expr::InSubquery(named_value(test)?)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    let (predicate, joined) = without_scalars(counted.data, &filter.input, &filter.input, count)?;
    let Some(joined) = joined else {
        let plan = LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?);
        return Ok(Transformed::new_transformed(plan, counted.transformed));
    };
    let columns = columns_of(&filter.input);
    let plan = LogicalPlanBuilder::from(joined).filter(predicate)?.project(columns)?.build()?;
    Ok(Transformed::yes(plan))
}

/// `x IN (q)` where the value of `q` has a name of its own. A cast of it would keep its name, and so stand beside the column
/// itself if conditions of `q` name that.
fn named_value(test: InSubquery) -> DfResult<InSubquery> {
    let InSubquery { expr, subquery: Subquery { subquery, outer_ref_columns, spans }, negated } = test;
    let named = value_of(&subquery)?.alias("$in");
    let subquery = Arc::new(LogicalPlanBuilder::from(subquery).project([named])?.build()?);
    Ok(InSubquery { expr, subquery: Subquery { subquery, outer_ref_columns, spans }, negated })
}

/// The expression with its subqueries replaced by columns, and the input joined with what they compute. `rows` is the
/// input without any such join: the outer values are taken from there, or each join would hold all before it twice.
fn without_scalars(
    expr: Expr,
    rows: &Arc<LogicalPlan>,
    input: &Arc<LogicalPlan>,
    count: &Cell<usize>,
) -> DfResult<(Expr, Option<Arc<LogicalPlan>>)> {
    let mut joined: Option<Arc<LogicalPlan>> = None;
    let expr = expr
        .transform_up(|expr| {
            let Expr::ScalarSubquery(subquery) = &expr else { return Ok(Transformed::no(expr)) };
            let current = joined.as_ref().unwrap_or(input);
            let Some((plan, value)) = join_with(rows, current, subquery, count)? else {
                return Ok(Transformed::no(expr));
            };
            joined = Some(Arc::new(plan));
            Ok(Transformed::yes(value))
        })
        .data()?;
    Ok((expr, joined))
}

/// Whether DataFusion plans an EXISTS or IN as a semi join: all that refers outwards is in filters at its top, and
/// means the rows of `schema`.
fn is_semi_join(subquery: &Subquery, schema: &DFSchema) -> DfResult<bool> {
    let outer = outer_columns(&subquery.subquery)?;
    Ok(outer.is_empty() || (outer.iter().all(|c| schema.has_column(c)) && has_filters_only(&subquery.subquery, false)?))
}

/// Whether DataFusion plans a scalar subquery as a join: an aggregate without groups over filters by equality.
fn is_grouped_join(subquery: &Subquery, schema: &DFSchema) -> DfResult<bool> {
    let mut plan = subquery.subquery.as_ref();
    while let LogicalPlan::Projection(projection) = plan {
        if projection.expr.iter().any(|e| e.contains_outer() || has_subquery(e)) {
            return Ok(false);
        }
        plan = projection.input.as_ref();
    }
    let LogicalPlan::Aggregate(aggregate) = plan else { return Ok(false) };
    let plain = aggregate.group_expr.is_empty() && !aggregate.aggr_expr.iter().any(|e| e.contains_outer());
    let outer = outer_columns(&subquery.subquery)?;
    Ok(plain && outer.iter().all(|c| schema.has_column(c)) && has_filters_only(&aggregate.input, true)?)
}

/// Whether DataFusion plans a LATERAL subquery as a join.
pub fn is_taken_apart(subquery: &Subquery, schema: &DFSchema) -> DfResult<bool> {
    Ok(has_filters_only(&subquery.subquery, false)? || is_grouped_join(subquery, schema)?)
}

fn has_filters_only(plan: &LogicalPlan, equalities: bool) -> DfResult<bool> {
    match plan {
        _ if outer_columns(plan)?.is_empty() => Ok(true),
        LogicalPlan::Projection(projection) => {
            let plain = !projection.expr.iter().any(|e| e.contains_outer() || has_subquery(e));
            Ok(plain && has_filters_only(&projection.input, equalities)?)
        }
        LogicalPlan::Filter(filter) => {
            let plain = split_conjunction(&filter.predicate)
                .into_iter()
                .all(|part| !has_subquery(part) && (!equalities || !part.contains_outer() || equals_outer(part)));
            Ok(plain && has_filters_only(&filter.input, equalities)?)
        }
        _ => Ok(false),
    }
}

/// Whether a condition compares a column with the outer row by equality, as DataFusion wants it (`decorrelate.rs`).
fn equals_outer(expr: &Expr) -> bool {
    let is_column = |expr: &Expr| match expr {
        Expr::Column(_) => true,
        Expr::Cast(cast) => matches!(cast.expr.as_ref(), Expr::Column(_)),
        _ => false,
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let compares = |column: &Expr, outer: &Expr| is_column(column) && !outer.any_column_refs();
            compares(left, right) || compares(right, left)
        }
        _ => false,
    }
}

fn join_with(
    rows: &Arc<LogicalPlan>,
    input: &Arc<LogicalPlan>,
    subquery: &Subquery,
    count: &Cell<usize>,
) -> DfResult<Option<(LogicalPlan, Expr)>> {
    let plan = &subquery.subquery;
    let outer = outer_columns(plan)?;
    if outer.is_empty() || !has_at_most_one_row(plan) || is_grouped_join(subquery, rows.schema())? {
        return Ok(None);
    }
    // Columns of a query further out stay what they are, and are replaced where that query's rows are known.
    let outer: Vec<Column> = outer.into_iter().filter(|column| rows.schema().has_column(column)).collect();
    let Some(value) = plan.schema().iter().next().map(Column::from) else { return Ok(None) };
    count.set(count.get() + 1);
    let (outer_name, value_name) = (format!("$outer{}", count.get()), format!("$scalar{}", count.get()));
    let domain = Domain::new(rows, outer.clone(), outer_name)?;
    let Some(answers) = domain.through(plan)? else { return Ok(None) };
    let value_column = format!("{value_name}_v");
    let mut columns = vec![Expr::Column(value).alias(value_column.as_str())];
    let names: Vec<String> = (0..domain.keys().len()).map(|i| format!("{value_name}_{i}")).collect();
    columns.extend(domain.keys().into_iter().zip(&names).map(|(key, name)| Expr::Column(key).alias(name)));
    let scalars = LogicalPlanBuilder::from(answers).project(columns)?.alias(value_name.as_str())?.build()?;
    let joined = LogicalPlanBuilder::from(Arc::clone(input));
    let joined = if outer.is_empty() {
        joined.join_on(scalars, JoinType::Left, [lit(true)])?
    } else {
        let keys: Vec<Column> = names.iter().map(|name| Column::new(Some(value_name.as_str()), name)).collect();
        joined.join_detailed(scalars, JoinType::Left, (outer, keys), None, NullEquality::NullEqualsNull)?
    };
    Ok(Some((joined.build()?, Expr::Column(Column::new(Some(value_name), value_column)))))
}
