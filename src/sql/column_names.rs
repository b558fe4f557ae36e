//! `FROM t AS c(x)`: names for the first columns of a table; the others keep theirs.
//!
//! DataFusion wants a name for each. Invariant: a table in FROM with names for its columns has as many as it has columns,
//! if there were not too many.

use datafusion::common::Result as DfResult;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::sql::sqlparser::ast::{
    Ident, Query, SelectItem, SetExpr, TableAlias, TableAliasColumnDef, TableFactor, WildcardAdditionalOptions,
};

use super::handlers::dml::select_from;
use super::handlers::query::column_names;
use crate::error::Result;

/// Fills names up.
#[derive(Debug)]
pub struct ColumnNames;

impl RelationPlanner for ColumnNames {
    fn plan_relation(
        &self,
        mut relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DfResult<RelationPlanning> {
        let Some(mut alias) = take_alias(&mut relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let plan = context.plan(relation)?;
        let left = plan.schema().fields().iter().skip(alias.columns.len());
        alias.columns.extend(
            left.map(|field| TableAliasColumnDef { name: Ident::with_quote('"', field.name()), data_type: None }),
        );
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, Some(alias)))))
    }
}

/// Gives queries of WITH with names for their columns the form of a table in FROM, where there may be columns without one.
pub fn in_with(query: &mut Query) -> Result<()> {
    for cte in query.with.iter_mut().filter(|with| !with.recursive).flat_map(|with| &mut with.cte_tables) {
        if cte.alias.columns.is_empty() || columns(&cte.query) == Some(cte.alias.columns.len()) {
            continue;
        }
        let mut alias = cte.alias.clone();
        let mut around = select_from("t", &alias.name, |select| {
            select.projection = vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())];
        })?;
        std::mem::swap(cte.query.as_mut(), &mut around);
        cte.alias.columns.clear();
        alias.at = None;
        if let SetExpr::Select(select) = cte.query.body.as_mut()
            && let [from] = select.from.as_mut_slice()
        {
            let (subquery, alias) = (Box::new(around), Some(alias));
            from.relation = TableFactor::Derived { lateral: false, subquery, alias, sample: None };
        }
    }
    Ok(())
}

/// How many columns a query has, as far as its text tells.
fn columns(query: &Query) -> Option<usize> {
    match query.body.as_ref() {
        SetExpr::Values(values) => values.rows.first().map(|row| row.len()),
        _ => column_names(query).map(|names| names.len()),
    }
}

/// The alias of a table whose columns have names there.
fn take_alias(relation: &mut TableFactor) -> Option<TableAlias> {
    let (TableFactor::Table { alias, .. } | TableFactor::Derived { alias, .. }) = relation else { return None };
    alias.take_if(|alias| !alias.columns.is_empty())
}
