//! Scalar subqueries that compare with the query around them by more than equality.
//!
//! DataFusion turns a correlated scalar subquery into a join only if every correlation is an equality; others it
//! cannot run. Here `(SELECT agg FROM x WHERE x.b < t.b)` becomes: the distinct outer values, joined with `x` on that
//! condition and grouped by those values, joined back to the outer rows. Invariant: the join to `x` is a left join
//! and each aggregate counts matched rows only, so every outer value has one group, and a value without any match
//! has what the aggregate gives for no rows (0 for count, else NULL).

use std::cell::Cell;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, NullEquality, Result as DfResult};
use datafusion::functions_aggregate::count::count_all;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Expr, Filter, JoinType, LogicalPlan, LogicalPlanBuilder, Operator, Projection, Subquery, lit,
};
use datafusion::optimizer::AnalyzerRule;

/// The column that tells a matched row.
const MATCHED: &str = "$matched";

/// Rewrites the scalar subqueries of SELECT lists and WHERE clauses.
#[derive(Debug)]
pub struct CorrelatedScalars;

impl AnalyzerRule for CorrelatedScalars {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        let count = Cell::new(0);
        plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Projection(projection) => in_projection(projection, &count),
            LogicalPlan::Filter(filter) => in_filter(filter, &count),
            other => Ok(Transformed::no(other)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "correlated_scalars"
    }
}

fn in_projection(projection: Projection, count: &Cell<usize>) -> DfResult<Transformed<LogicalPlan>> {
    let mut input = Arc::clone(&projection.input);
    let names = NamePreserver::new_for_projection();
    let mut changed = false;
    let mut exprs = Vec::with_capacity(projection.expr.len());
    for expr in &projection.expr {
        let name = names.save(expr);
        let counted = expr.clone().transform_up(exists_as_count)?;
        changed |= counted.transformed;
        let (new, joined) = without_scalars(counted.data, &input, count)?;
        changed |= joined.is_some();
        input = joined.unwrap_or(input);
        exprs.push(name.restore(new));
    }
    if !changed {
        return Ok(Transformed::no(LogicalPlan::Projection(projection)));
    }
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(exprs, input)?)))
}

/// `EXISTS (q)` in a SELECT list, which DataFusion knows in WHERE only, as `(SELECT count(*) FROM q) > 0`.
fn exists_as_count(expr: Expr) -> DfResult<Transformed<Expr>> {
    let Expr::Exists(exists) = expr else { return Ok(Transformed::no(expr)) };
    let no_groups: Vec<Expr> = Vec::new();
    let plan = LogicalPlanBuilder::from(Arc::clone(&exists.subquery.subquery))
        .aggregate(no_groups, vec![count_all()])?
        .build()?;
    let subquery = Subquery { subquery: Arc::new(plan), ..exists.subquery };
    let found = Expr::ScalarSubquery(subquery);
    Ok(Transformed::yes(if exists.negated { found.eq(lit(0_i64)) } else { found.gt(lit(0_i64)) }))
}

fn in_filter(filter: Filter, count: &Cell<usize>) -> DfResult<Transformed<LogicalPlan>> {
    let (predicate, joined) = without_scalars(filter.predicate.clone(), &filter.input, count)?;
    let Some(joined) = joined else { return Ok(Transformed::no(LogicalPlan::Filter(filter))) };
    let columns = columns_of(&filter.input);
    let plan = LogicalPlanBuilder::from(joined).filter(predicate)?.project(columns)?.build()?;
    Ok(Transformed::yes(plan))
}

fn columns_of(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().iter().map(|field| Expr::Column(Column::from(field))).collect()
}

/// The expression with its subqueries replaced by columns, and the input joined with what they compute.
fn without_scalars(
    expr: Expr,
    input: &Arc<LogicalPlan>,
    count: &Cell<usize>,
) -> DfResult<(Expr, Option<Arc<LogicalPlan>>)> {
    let mut joined: Option<Arc<LogicalPlan>> = None;
    let expr = expr
        .transform_up(|expr| {
            let Expr::ScalarSubquery(subquery) = &expr else { return Ok(Transformed::no(expr)) };
            let current = joined.as_ref().unwrap_or(input);
            let Some((plan, value)) = join_with(current, subquery, count)? else { return Ok(Transformed::no(expr)) };
            joined = Some(Arc::new(plan));
            Ok(Transformed::yes(value))
        })
        .data()?;
    Ok((expr, joined))
}

/// The parts of a subquery of the shape that is rewritten: an aggregate without groups over a filter.
struct Shape<'a> {
    value: Expr,
    aggregate: &'a Aggregate,
    filter: &'a Filter,
    outer: Vec<Column>,
}

fn shape_of<'a>(subquery: &'a Subquery, input: &LogicalPlan) -> Option<Shape<'a>> {
    let (value, below) = match subquery.subquery.as_ref() {
        LogicalPlan::Projection(projection) => match projection.expr.as_slice() {
            [value] => (value.clone(), projection.input.as_ref()),
            _ => return None,
        },
        plan => (columns_of(plan).pop()?, plan),
    };
    let LogicalPlan::Aggregate(aggregate) = below else { return None };
    // A list of columns between the two changes nothing; what an aggregate without columns (count(*)) is over, neither.
    let over = match aggregate.input.as_ref() {
        LogicalPlan::Projection(list)
            if list.expr.iter().all(|e| matches!(e, Expr::Column(_)))
                || aggregate.aggr_expr.iter().all(|e| e.column_refs().is_empty()) =>
        {
            list.input.as_ref()
        }
        plan => plan,
    };
    let LogicalPlan::Filter(filter) = over else { return None };
    let beyond_equality = split_conjunction(&filter.predicate).into_iter().any(|part| match part {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            left.contains_outer() && right.contains_outer()
        }
        part => part.contains_outer(),
    });
    let elsewhere = value.contains_outer()
        || aggregate.aggr_expr.iter().any(Expr::contains_outer)
        || !filter.input.all_out_ref_exprs().is_empty();
    if !beyond_equality || elsewhere || !aggregate.group_expr.is_empty() {
        return None;
    }
    let mut outer = Vec::new();
    for reference in subquery.outer_ref_columns.iter().chain(&below.all_out_ref_exprs()) {
        let Expr::OuterReferenceColumn(_, column) = reference else { return None };
        if !input.schema().has_column(column) {
            return None;
        }
        if !outer.contains(column) {
            outer.push(column.clone());
        }
    }
    Some(Shape { value, aggregate, filter, outer })
}

fn join_with(
    input: &Arc<LogicalPlan>,
    subquery: &Subquery,
    count: &Cell<usize>,
) -> DfResult<Option<(LogicalPlan, Expr)>> {
    let Some(shape) = shape_of(subquery, input) else { return Ok(None) };
    count.set(count.get() + 1);
    let (outer_name, value_name) = (format!("$outer{}", count.get()), format!("$scalar{}", count.get()));
    let names: Vec<String> = (0..shape.outer.len()).map(|i| format!("o{i}")).collect();
    let outer_column = |i: usize| Expr::Column(Column::new(Some(outer_name.as_str()), names[i].as_str()));

    let outer_values = shape.outer.iter().zip(&names).map(|(column, name)| Expr::Column(column.clone()).alias(name));
    let values = LogicalPlanBuilder::from(Arc::clone(input))
        .project(outer_values.collect::<Vec<_>>())?
        .distinct()?
        .alias(outer_name.as_str())?;
    let mut inner = columns_of(&shape.filter.input);
    inner.push(lit(true).alias(MATCHED));
    let inner = LogicalPlanBuilder::from(Arc::clone(&shape.filter.input)).project(inner)?.build()?;
    let condition = shape.filter.predicate.clone().transform_up(|expr| match &expr {
        Expr::OuterReferenceColumn(_, column) => match shape.outer.iter().position(|c| c == column) {
            Some(i) => Ok(Transformed::yes(outer_column(i))),
            None => Ok(Transformed::no(expr)),
        },
        _ => Ok(Transformed::no(expr)),
    });
    let matched = values.join_on(inner, JoinType::Left, [condition.data()?])?;

    let aggregates = shape.aggregate.aggr_expr.iter().map(|expr| {
        let name = expr.schema_name().to_string();
        let counted = expr.clone().transform_up(|expr| match expr {
            Expr::AggregateFunction(mut function) => {
                let matched = Expr::Column(Column::from_name(MATCHED)).is_not_null();
                let filter = match function.params.filter.take() {
                    Some(filter) => matched.and(*filter),
                    None => matched,
                };
                function.params.filter = Some(Box::new(filter));
                Ok(Transformed::yes(Expr::AggregateFunction(function)))
            }
            other => Ok(Transformed::no(other)),
        });
        Ok(counted.data()?.unalias().alias(name))
    });
    let groups: Vec<Expr> = (0..names.len()).map(outer_column).collect();
    let mut columns = vec![shape.value.clone().unalias().alias("v")];
    columns.extend(groups.iter().cloned().zip(&names).map(|(column, name)| column.alias(name)));
    let scalars = matched
        .aggregate(groups, aggregates.collect::<DfResult<Vec<_>>>()?)?
        .project(columns)?
        .alias(value_name.as_str())?
        .build()?;

    let keys: Vec<Column> = names.iter().map(|name| Column::new(Some(value_name.as_str()), name.as_str())).collect();
    let joined = LogicalPlanBuilder::from(Arc::clone(input))
        .join_detailed(scalars, JoinType::Left, (shape.outer, keys), None, NullEquality::NullEqualsNull)?
        .build()?;
    Ok(Some((joined, Expr::Column(Column::new(Some(value_name.as_str()), "v")))))
}
