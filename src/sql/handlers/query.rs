//! SELECT, WITH, VALUES, set operations.

use datafusion::sql::sqlparser::ast::{self, Expr, SelectItem, SetExpr};

use super::super::catalog::{Extras, fold};
use super::super::executor::{Execution, StatementResult};
use super::super::plan_cache::PlanFor;
use super::super::short_path;
use crate::error::Result;

/// Runs a query.
pub async fn query(execution: &Execution<'_>, query: &ast::Query) -> Result<StatementResult> {
    let parsed = execution.origin.map(|origin| origin.parsed());
    let key_query = parsed.map_or_else(|| short_path::is_key_query(query), |parsed| parsed.key_query);
    if execution.options.short_path
        && key_query
        && let Some(result) = short_path::query(execution, query).await?
    {
        return Ok(result);
    }
    let names = parsed.map_or_else(|| column_names(query), |parsed| parsed.names.clone());
    let build = || Ok((query.clone(), Extras::new()));
    let plan = execution.ready_plan(PlanFor::Rows, build).await?;
    let batches = execution.collect_ready(&plan, execution.request()).await?;
    if parsed.is_some_and(|parsed| parsed.range_query) {
        short_path::keep_range(execution, query).await?;
    }
    Ok(StatementResult::rows(plan.format(names.as_ref()).rows(batches)?))
}

/// Names of a query's columns as they are written: the alias, the column, or the text of the expression. `None` when
/// the list holds a `*`, whose columns only the planner knows.
pub fn column_names(query: &ast::Query) -> Option<Vec<String>> {
    let mut body = query.body.as_ref();
    loop {
        match body {
            SetExpr::Select(select) => return item_names(&select.projection),
            SetExpr::Query(inner) => body = inner.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            _ => return None,
        }
    }
}

/// Names of the items of a SELECT or RETURNING list.
pub fn item_names(items: &[SelectItem]) -> Option<Vec<String>> {
    items.iter().map(item_name).collect()
}

/// The name of one item.
pub fn item_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => Some(fold(ident)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(fold),
        SelectItem::UnnamedExpr(expr) => Some(expr.to_string()),
        _ => None,
    }
}
