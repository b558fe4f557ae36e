//! Subqueries where DataFusion knows none: in aggregates, windows, ORDER BY and the condition of a join.
//!
//! DataFusion computes subqueries in SELECT lists and WHERE only. Invariant: behind this rule no other operator holds an
//! EXISTS, an IN or a subquery that refers to its rows: their values are columns that a projection below computes. A
//! condition of an inner join is a filter above it instead; one of an outer join that is of both sides' rows is asked of
//! the pairs that the rest of the condition leaves (`outer_pairs.rs`).

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef, JoinType, NullEquality, Result as DfResult};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Aggregate, Expr, Join, LogicalPlan, LogicalPlanBuilder, Projection, Sort, SortExpr, Window,
};
use datafusion::optimizer::AnalyzerRule;

use super::outer_pairs::{self, with_inputs};
use super::unnest::{columns_of, has_subquery, outer_columns, subquery_of};

/// Moves subqueries into projections and filters.
#[derive(Debug)]
pub struct SubqueryPlaces;

impl AnalyzerRule for SubqueryPlaces {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        let mut count = 0;
        plan.transform_up_with_subqueries(|plan| {
            let mut found = false;
            plan.apply_expressions(|expr| {
                found |= is_misplaced(expr)?;
                Ok(TreeNodeRecursion::Continue)
            })?;
            if !found {
                return Ok(Transformed::no(plan));
            }
            Ok(match plan {
                LogicalPlan::Aggregate(aggregate) => Transformed::yes(in_aggregate(aggregate, &mut count)?),
                LogicalPlan::Window(window) => Transformed::yes(in_window(window, &mut count)?),
                LogicalPlan::Sort(sort) => Transformed::yes(in_sort(sort, &mut count)?),
                LogicalPlan::Join(join) => Transformed::yes(in_join(join, &mut count)?),
                other => Transformed::no(other),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "subquery_places"
    }
}

/// Whether an expression holds a subquery that is not one value for all rows.
fn is_misplaced(expr: &Expr) -> DfResult<bool> {
    expr.exists(|expr| match expr {
        Expr::ScalarSubquery(subquery) => Ok(!outer_columns(&subquery.subquery)?.is_empty()),
        other => Ok(subquery_of(other).is_some()),
    })
}

/// Columns for the subqueries of expressions, computed below an operator.
struct Computed<'a> {
    count: &'a mut usize,
    columns: Vec<Expr>,
}

impl<'a> Computed<'a> {
    fn new(count: &'a mut usize) -> Self {
        Self { count, columns: Vec::new() }
    }

    /// The expression with a column for each of its subqueries.
    fn without(&mut self, expr: Expr) -> DfResult<Expr> {
        expr.transform_down(|expr| {
            if subquery_of(&expr).is_none() {
                return Ok(Transformed::no(expr));
            }
            *self.count += 1;
            let name = format!("$value{}", self.count);
            self.columns.push(expr.alias(name.as_str()));
            // Behind what is a column now lies nothing to visit.
            Ok(Transformed::new(Expr::Column(Column::from_name(name)), true, TreeNodeRecursion::Jump))
        })
        .data()
    }

    /// The same, under its name.
    fn named(&mut self, expr: &Expr) -> DfResult<Expr> {
        let (relation, name) = expr.qualified_name();
        let new = self.without(expr.clone())?;
        Ok(if new.qualified_name() == (relation.clone(), name.clone()) {
            new
        } else {
            new.alias_qualified(relation, name)
        })
    }

    fn below(self, input: &Arc<LogicalPlan>) -> DfResult<LogicalPlan> {
        let mut columns = columns_of(input);
        columns.extend(self.columns);
        LogicalPlanBuilder::from(Arc::clone(input)).project(columns)?.build()
    }
}

fn in_aggregate(aggregate: Aggregate, count: &mut usize) -> DfResult<LogicalPlan> {
    let mut computed = Computed::new(count);
    let groups = aggregate.group_expr.iter().map(|e| computed.named(e)).collect::<DfResult<Vec<_>>>()?;
    let results = aggregate.aggr_expr.iter().map(|e| computed.named(e)).collect::<DfResult<Vec<_>>>()?;
    Ok(LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(computed.below(&aggregate.input)?), groups, results)?))
}

fn in_window(window: Window, count: &mut usize) -> DfResult<LogicalPlan> {
    let mut computed = Computed::new(count);
    let exprs = window.window_expr.iter().map(|e| computed.named(e)).collect::<DfResult<Vec<_>>>()?;
    let columns = schema_columns(&window.schema);
    LogicalPlanBuilder::from(computed.below(&window.input)?).window(exprs)?.project(columns)?.build()
}

fn in_sort(sort: Sort, count: &mut usize) -> DfResult<LogicalPlan> {
    let columns = columns_of(&sort.input);
    let input = match sort.input.as_ref() {
        LogicalPlan::Projection(projection) => Arc::new(with_sorted_by(projection, &sort.expr)?),
        _ => sort.input,
    };
    let mut computed = Computed::new(count);
    let mut by = sort.expr;
    for key in &mut by {
        key.expr = computed.without(key.expr.clone())?;
    }
    LogicalPlanBuilder::from(computed.below(&input)?).sort_with_limit(by, sort.fetch)?.project(columns)?.build()
}

/// A SELECT list with the columns that only subqueries in ORDER BY refer to.
fn with_sorted_by(projection: &Projection, by: &[SortExpr]) -> DfResult<LogicalPlan> {
    let mut columns = projection.expr.clone();
    for key in by {
        key.expr.apply(|expr| {
            let Some(subquery) = subquery_of(expr) else { return Ok(TreeNodeRecursion::Continue) };
            for column in outer_columns(&subquery.subquery)? {
                let listed = Expr::Column(column);
                if let Expr::Column(column) = &listed
                    && !projection.schema.has_column(column)
                    && projection.input.schema().has_column(column)
                    && !columns.contains(&listed)
                {
                    columns.push(listed);
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::clone(&projection.input))?))
}

fn in_join(mut join: Join, count: &mut usize) -> DfResult<LogicalPlan> {
    let condition = join.filter.take();
    let (asking, plain): (Vec<Expr>, Vec<Expr>) =
        condition.iter().flat_map(split_conjunction).cloned().partition(has_subquery);
    if join.join_type == JoinType::Inner && join.null_equality == NullEquality::NullEqualsNothing {
        join.filter = conjunction(plain);
        let joined = LogicalPlanBuilder::from(LogicalPlan::Join(join));
        return match conjunction(asking) {
            Some(predicate) => joined.filter(predicate)?.build(),
            None => joined.build(),
        };
    }
    let columns = schema_columns(&join.schema);
    let mut left = Computed::new(count);
    let mut left_asked = Vec::new();
    let mut right_asked = Vec::new();
    let mut pairs_asked = Vec::new();
    for expr in asking {
        if is_of(&expr, join.left.schema())? {
            left_asked.push(left.without(expr)?);
        } else if is_of(&expr, join.right.schema())? {
            right_asked.push(expr);
        } else {
            pairs_asked.push(expr);
        }
    }
    let new_left = left.below(&join.left)?;
    let mut right = Computed::new(count);
    let right_asked = right_asked.into_iter().map(|e| right.without(e)).collect::<DfResult<Vec<_>>>()?;
    let new_right = right.below(&join.right)?;
    join.filter = conjunction(plain.into_iter().chain(left_asked).chain(right_asked));
    match conjunction(pairs_asked) {
        Some(condition) => outer_pairs::that(condition, join, new_left, new_right),
        None => with_inputs(join, new_left, new_right)?.project(columns)?.build(),
    }
}

pub fn schema_columns(schema: &DFSchemaRef) -> Vec<Expr> {
    schema.iter().map(|field| Expr::Column(Column::from(field))).collect()
}

/// Whether an expression is of the columns of one side.
fn is_of(expr: &Expr, side: &DFSchemaRef) -> DfResult<bool> {
    if !expr.column_refs().iter().all(|column| side.has_column(column)) {
        return Ok(false);
    }
    let elsewhere = expr.exists(|expr| {
        let Some(subquery) = subquery_of(expr) else { return Ok(false) };
        Ok(outer_columns(&subquery.subquery)?.iter().any(|column| !side.has_column(column)))
    })?;
    Ok(!elsewhere)
}
