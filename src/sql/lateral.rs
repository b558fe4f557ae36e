//! LATERAL subqueries that DataFusion cannot take apart.
//!
//! DataFusion plans LATERAL as a join only where filters at the top of the subquery refer to the tables before it. Any
//! other becomes the subquery's rows for all values of the columns that it refers to ([`Domain`]), joined to the rows that
//! have these values. Invariant: the join back is on those columns, NULL equal to NULL, beside the condition that the
//! statement gives, so each row before LATERAL meets the rows that the subquery has for it, and no others.

use std::cell::Cell;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, JoinType, NullEquality, Result as DfResult, TableReference};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, Subquery, Values};
use datafusion::optimizer::AnalyzerRule;

use super::correlated::is_taken_apart;
use super::unnest::{Domain, columns_of, outer_columns};

/// Turns such subqueries into joins.
#[derive(Debug)]
pub struct Lateral;

impl AnalyzerRule for Lateral {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        let count = Cell::new(0);
        plan.transform_up_with_subqueries(|plan| {
            let LogicalPlan::Join(join) = &plan else { return Ok(Transformed::no(plan)) };
            Ok(match joined(join, &count)? {
                Some(new) => Transformed::yes(new),
                None => Transformed::no(plan),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "lateral"
    }
}

/// The subquery of LATERAL, and its alias.
fn lateral(plan: &LogicalPlan) -> Option<(&Subquery, Option<&TableReference>)> {
    match plan {
        LogicalPlan::Subquery(subquery) => Some((subquery, None)),
        LogicalPlan::SubqueryAlias(alias) => match alias.input.as_ref() {
            LogicalPlan::Subquery(subquery) => Some((subquery, Some(&alias.alias))),
            _ => None,
        },
        _ => None,
    }
}

fn joined(join: &Join, count: &Cell<usize>) -> DfResult<Option<LogicalPlan>> {
    let Some((subquery, alias)) = lateral(&join.right) else { return Ok(None) };
    let schema = join.left.schema();
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) || is_taken_apart(subquery, schema)? {
        return Ok(None);
    }
    let outer = outer_columns(&subquery.subquery)?;
    if outer.is_empty() || !outer.iter().all(|column| schema.has_column(column)) {
        return Ok(None);
    }
    count.set(count.get() + 1);
    let name = format!("$lateral{}", count.get());
    let plan = subquery.subquery.as_ref().clone().transform_up(|plan| match plan {
        LogicalPlan::Values(values) => as_union(values).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    });
    let domain = Domain::new(&join.left, outer.clone(), name.clone())?;
    let Some(rows) = domain.through(&plan.data()?)? else { return Ok(None) };
    let mut columns: Vec<Expr> = columns_of(&subquery.subquery);
    if let Some(alias) = alias {
        for column in &mut columns {
            let name = column.qualified_name().1;
            *column = column.clone().alias_qualified(Some(alias.clone()), name);
        }
    }
    let keys: Vec<String> = (0..outer.len()).map(|place| format!("{name}_key{place}")).collect();
    columns.extend(domain.keys().into_iter().zip(&keys).map(|(key, name)| Expr::Column(key).alias(name)));
    let rows = LogicalPlanBuilder::from(rows).project(columns)?.build()?;
    let on = join.on.iter().map(|(left, right)| left.clone().eq(right.clone()));
    let condition = conjunction(on.chain(join.filter.clone()));
    let keys: Vec<Column> = keys.into_iter().map(Column::from_name).collect();
    let columns: Vec<Expr> = join.schema.iter().map(|field| Expr::Column(Column::from(field))).collect();
    LogicalPlanBuilder::from(Arc::clone(&join.left))
        .join_detailed(rows, join.join_type, (outer, keys), condition, NullEquality::NullEqualsNull)?
        .project(columns)?
        .build()
        .map(Some)
}

/// `VALUES (a), (b)` that refers outwards as `SELECT a UNION ALL SELECT b`.
fn as_union(values: Values) -> DfResult<LogicalPlan> {
    if !values.values.iter().flatten().any(Expr::contains_outer) {
        return Ok(LogicalPlan::Values(values));
    }
    let mut union: Option<LogicalPlanBuilder> = None;
    for row in values.values {
        let row = row.into_iter().zip(values.schema.fields()).map(|(value, field)| value.alias(field.name()));
        let row = LogicalPlanBuilder::empty(true).project(row)?;
        union = Some(match union {
            Some(above) => above.union(row.build()?)?,
            None => row,
        });
    }
    union.unwrap_or_else(|| LogicalPlanBuilder::empty(false)).build()
}
