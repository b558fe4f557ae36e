//! The order of a derived table within a correlated subquery.
//!
//! A correlated subquery is planned as a join, which keeps no order, and DataFusion takes none apart that holds a sort.
//! Invariant: such a sort is not in the plan any more. The aggregates that depend on the order of its rows are ordered by
//! its keys instead, and a LIMIT above it has the sort directly below; the keys come up to there as columns that
//! nobody can name.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, Result as DfResult};
use datafusion::logical_expr::expr::Sort as Key;
use datafusion::logical_expr::{
    Aggregate, Expr, Filter, Limit, LogicalPlan, LogicalPlanBuilder, Projection, Sort, SubqueryAlias,
};
use datafusion::optimizer::AnalyzerRule;

use super::unnest::{columns_of, outer_columns};
use super::written_order::is_in_order;

/// Carries the order of sorts that refer outwards to those who look at it.
#[derive(Debug)]
pub struct CorrelatedOrder;

impl AnalyzerRule for CorrelatedOrder {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        let plan = plan.transform_down_with_subqueries(|plan| match plan {
            LogicalPlan::Aggregate(aggregate) if aggregate.aggr_expr.iter().any(wants_order) => in_aggregate(aggregate),
            LogicalPlan::Limit(limit) if !is_sorted(&limit.input) => below_limit(limit),
            other => Ok(Transformed::no(other)),
        })?;
        plan.data.transform_up_with_subqueries(without_sort).data()
    }

    fn name(&self) -> &str {
        "correlated_order"
    }
}

/// Drops a sort that refers outwards and is not that of a LIMIT.
fn without_sort(plan: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    let LogicalPlan::SubqueryAlias(alias) = plan else { return Ok(Transformed::no(plan)) };
    match without_top_sort(&alias.input)? {
        Some(input) => {
            let alias = SubqueryAlias::try_new(Arc::new(input), alias.alias)?;
            Ok(Transformed::yes(LogicalPlan::SubqueryAlias(alias)))
        }
        None => Ok(Transformed::no(LogicalPlan::SubqueryAlias(alias))),
    }
}

fn without_top_sort(plan: &LogicalPlan) -> DfResult<Option<LogicalPlan>> {
    Ok(match plan {
        LogicalPlan::Sort(sort) if is_correlated(sort)? => Some(sort.input.as_ref().clone()),
        LogicalPlan::Projection(projection) => match without_top_sort(&projection.input)? {
            Some(input) => Some(plan.with_new_exprs(projection.expr.clone(), vec![input])?),
            None => None,
        },
        // The alias of a LATERAL stands around it.
        LogicalPlan::Subquery(subquery) => without_top_sort(&subquery.subquery)?
            .map(|input| LogicalPlan::Subquery(subquery.with_plan(Arc::new(input)))),
        _ => None,
    })
}

fn is_correlated(sort: &Sort) -> DfResult<bool> {
    if sort.fetch.is_some() {
        return Ok(false);
    }
    Ok(!outer_columns(&sort.input)?.is_empty() || sort.expr.iter().any(|key| key.expr.contains_outer()))
}

/// Whether a LIMIT has its sort where it is looked for.
fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_sorted(&projection.input),
        plan => matches!(plan, LogicalPlan::Sort(_)),
    }
}

fn below_limit(limit: Limit) -> DfResult<Transformed<LogicalPlan>> {
    let Some((rows, keys)) = carried(&limit.input)? else { return Ok(Transformed::no(LogicalPlan::Limit(limit))) };
    let columns = columns_of(&limit.input);
    let input = LogicalPlanBuilder::from(rows).sort(keys)?.project(columns)?.build()?;
    Ok(Transformed::yes(LogicalPlan::Limit(Limit { input: Arc::new(input), ..limit })))
}

fn wants_order(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => wants_order(&alias.expr),
        Expr::AggregateFunction(function) => {
            let params = &function.params;
            is_in_order(function.func.name()) && params.order_by.is_empty() && !params.distinct
        }
        _ => false,
    }
}

fn in_aggregate(aggregate: Aggregate) -> DfResult<Transformed<LogicalPlan>> {
    let Some((rows, keys)) = carried(&aggregate.input)? else {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    };
    let ordered = aggregate.aggr_expr.into_iter().map(|expr| {
        if !wants_order(&expr) {
            return Ok(expr);
        }
        let (relation, name) = expr.qualified_name();
        let new = expr.transform_up(|expr| match expr {
            Expr::AggregateFunction(mut function) => {
                function.params.order_by.clone_from(&keys);
                Ok(Transformed::yes(Expr::AggregateFunction(function)))
            }
            other => Ok(Transformed::no(other)),
        });
        Ok(new.data()?.unalias().alias_qualified(relation, name))
    });
    let ordered = ordered.collect::<DfResult<Vec<Expr>>>()?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(rows), aggregate.group_expr, ordered)?)))
}

/// The rows of a plan without the correlated sort that orders them, and that sort's keys over those rows.
fn carried(plan: &LogicalPlan) -> DfResult<Option<(LogicalPlan, Vec<Key>)>> {
    Ok(match plan {
        LogicalPlan::Sort(sort) if is_correlated(sort)? => Some((sort.input.as_ref().clone(), sort.expr.clone())),
        LogicalPlan::Projection(projection) => match carried(&projection.input)? {
            Some((rows, keys)) => Some(with_keys(rows, projection.expr.clone(), keys)?),
            None => None,
        },
        LogicalPlan::SubqueryAlias(alias) => match carried(&alias.input)? {
            Some((rows, keys)) => {
                let (rows, mut keys) = with_keys(rows, columns_of(&alias.input), keys)?;
                let rows = SubqueryAlias::try_new(Arc::new(rows), alias.alias.clone())?;
                for key in &mut keys {
                    if let Expr::Column(column) = &mut key.expr {
                        column.relation = Some(alias.alias.clone());
                    }
                }
                Some((LogicalPlan::SubqueryAlias(rows), keys))
            }
            None => None,
        },
        LogicalPlan::Filter(filter) => match carried(&filter.input)? {
            Some((rows, keys)) => {
                let rows = Filter::try_new(filter.predicate.clone(), Arc::new(rows))?;
                Some((LogicalPlan::Filter(rows), keys))
            }
            None => None,
        },
        _ => None,
    })
}

/// The columns of rows, with the keys as columns behind them.
fn with_keys(rows: LogicalPlan, mut columns: Vec<Expr>, keys: Vec<Key>) -> DfResult<(LogicalPlan, Vec<Key>)> {
    let mut named = Vec::with_capacity(keys.len());
    for key in keys {
        // As many as there are columns before it: no other column has that name.
        let name = format!("$order{}", columns.len());
        columns.push(key.expr.alias(name.as_str()));
        named.push(Key { expr: Expr::Column(Column::from_name(name)), ..key });
    }
    Ok((LogicalPlan::Projection(Projection::try_new(columns, Arc::new(rows))?), named))
}
