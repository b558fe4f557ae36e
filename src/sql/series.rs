//! What the column of `generate_series` is called.
//!
//! For PostgreSQL it is the table's alias, or `generate_series`; for SQLite it is `value`. Invariant: a query that names a
//! column `value` keeps that name, and its series have it; so none of the two is refused, and no name has two meanings.

use datafusion::sql::sqlparser::ast::{
    Ident, ObjectName, Query, SetExpr, TableAlias, TableAliasColumnDef, TableFactor, TableWithJoins,
};

use super::catalog::fold;
use super::walk::names_column;

/// Names the columns of a query's series.
pub fn name_columns(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let has_series = select
        .from
        .iter()
        .any(|from| is_series(&from.relation) || from.joins.iter().any(|join| is_series(&join.relation)));
    if !has_series || names_column(query, |name| name == "value") {
        return;
    }
    let is_named = names_column(query, |name| name == "generate_series");
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    for TableWithJoins { relation, joins } in &mut select.from {
        for factor in std::iter::once(relation).chain(joins.iter_mut().map(|join| &mut join.relation)) {
            name_column(factor, is_named);
        }
    }
}

/// `is_named`: whether the query has a column `generate_series`.
fn name_column(factor: &mut TableFactor, is_named: bool) {
    if !is_series(factor) {
        return;
    }
    let TableFactor::Table { alias, .. } = factor else { return };
    if alias.is_none() && is_named {
        let name = Ident::new("generate_series");
        *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
    }
    if let Some(alias) = alias.as_mut().filter(|alias| alias.columns.is_empty()) {
        alias.columns.push(TableAliasColumnDef { name: alias.name.clone(), data_type: None });
    }
}

fn is_series(factor: &TableFactor) -> bool {
    let is_one = |name: &ObjectName| match name.0.as_slice() {
        [part] => part.as_ident().is_some_and(|name| ["generate_series", "range"].contains(&fold(name).as_str())),
        _ => false,
    };
    matches!(factor, TableFactor::Table { name, args: Some(_), .. } if is_one(name))
}
