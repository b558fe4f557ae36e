//! Which column a name within an expression of ORDER BY means.
//!
//! `ORDER BY y` sorts by the SELECT list's `y`, `ORDER BY -y` by the column `y` of a table, as PostgreSQL has it; DataFusion
//! looks at the SELECT list first in both. Invariant: a name is qualified with its table only where the list gives that name
//! to something else and one column below has it; so every other query is planned as it was written.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::common::DFSchema;
use datafusion::sql::sqlparser::ast::{
    self, Expr, Ident, OrderBy, OrderByKind, Query, Select, SelectItem, SetExpr, TableFactor, Visitor,
};

use super::catalog::fold;
use super::handlers::dml::select_from;
use super::handlers::query::item_name;
use super::own_level;
use super::parser::position_of;
use super::rewrite::MARK;
use super::using;
use super::walk::walk;
use crate::error::{ErrorCode, KalamError, Result};

/// Whether a statement has such a name.
pub fn has_clash(statement: &ast::Statement) -> bool {
    struct Finder;
    impl Visitor for Finder {
        type Break = ();

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            if clashes(query).is_empty() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
    }
    walk(statement, &mut Finder).is_break()
}

/// The names in expressions of a query's ORDER BY that its SELECT list gives to something else than a column of that name.
pub fn clashes(query: &Query) -> HashSet<String> {
    let SetExpr::Select(select) = query.body.as_ref() else { return HashSet::new() };
    let Some(OrderBy { kind: OrderByKind::Expressions(keys), .. }) = &query.order_by else { return HashSet::new() };
    let aliases: HashSet<String> = select.projection.iter().filter_map(alias).collect();
    if aliases.is_empty() {
        return aliases;
    }
    let mut names = HashSet::new();
    for key in keys.iter().filter(|key| !is_bare(&key.expr)) {
        let _ = own_level::visit_expressions(&key.expr, |expr| {
            if let Expr::Identifier(name) = expr {
                names.insert(fold(name));
            }
            ControlFlow::<()>::Continue(())
        });
    }
    names.retain(|name| aliases.contains(name));
    names
}

/// Qualifies such names where `columns`, those of the query's FROM, have them. Returns with those that they have.
pub fn qualify(
    order_by: &mut OrderBy,
    names: &HashSet<String>,
    select: &Select,
    columns: &DFSchema,
) -> Result<HashSet<String>> {
    let OrderByKind::Expressions(keys) = &mut order_by.kind else { return Ok(HashSet::new()) };
    // Of both sides of USING there is one column, which has no table.
    let merged: HashSet<String> = using::merged(&select.from).into_iter().map(|column| column.name).collect();
    let mut qualified = HashSet::new();
    let mut qualify = |expr: &mut Expr| -> Result<()> {
        let Expr::Identifier(ident) = &*expr else { return Ok(()) };
        let name = fold(ident);
        if !names.contains(&name) || merged.contains(&name) {
            return Ok(());
        }
        let mut having = columns.iter().filter(|(_, field)| *field.name() == name).map(|(table, _)| table);
        match (having.next(), having.next()) {
            (Some(Some(table)), None) => {
                let parts = table.to_vec().into_iter().map(|part| Ident::with_quote('"', part));
                qualified.insert(name.clone());
                let column = Ident { span: ident.span, ..Ident::with_quote('"', name) };
                *expr = Expr::CompoundIdentifier(parts.chain([column]).collect());
                Ok(())
            }
            (Some(_), Some(_)) => {
                Err(KalamError::new(ErrorCode::AmbiguousColumn, format!("column '{name}' is ambiguous"))
                    .with_hint("Put the table's name or alias and a dot before it.")
                    .at(position_of(ident)))
            }
            _ => Ok(()),
        }
    };
    for key in keys.iter_mut().filter(|key| !is_bare(&key.expr)) {
        let visited = own_level::change_expressions(&mut key.expr, |expr| match qualify(expr) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        });
        if let ControlFlow::Break(error) = visited {
            return Err(error);
        }
    }
    Ok(qualified)
}

/// Names a window that ORDER BY sorts by, by its place in the SELECT list: of one without a name DataFusion asks over grouped
/// rows that it be among the groups.
pub fn name_windows(query: &mut Query) {
    let (SetExpr::Select(select), Some(order_by)) = (query.body.as_mut(), &query.order_by) else { return };
    let OrderByKind::Expressions(keys) = &order_by.kind else { return };
    for key in keys {
        let Expr::Value(ast::ValueWithSpan { value: ast::Value::Number(place, _), .. }) = &key.expr else { continue };
        let place = place.parse::<usize>().ok().and_then(|place| place.checked_sub(1));
        let Some(item) = place.and_then(|place| select.projection.get_mut(place)) else { continue };
        if let SelectItem::UnnamedExpr(expr) = item
            && own_level::visit_expressions(expr, |expr| match expr {
                Expr::Function(function) if function.over.is_some() => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
            .is_break()
        {
            let alias = Ident::with_quote('"', format!("{expr}{MARK}"));
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        }
    }
}

/// Names that are taken twice become others within a query, and what they were around it: DataFusion sorts by no column
/// that has the name of another.
pub fn rename_outside(query: &mut Query, names: &HashSet<String>) -> Result<()> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    let listed: Option<Vec<String>> = select.projection.iter().map(item_name).collect();
    // Behind a wildcard nobody knows the names: the planner says what is ambiguous.
    let Some(listed) = listed.filter(|listed| listed.iter().collect::<HashSet<_>>().len() == listed.len()) else {
        return Ok(());
    };
    let quoted = |name: &str| Ident::with_quote('"', name);
    let inside = |name: &String| if names.contains(name) { format!("{name}{MARK}") } else { name.clone() };
    for (item, name) in select.projection.iter_mut().zip(&listed) {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: quoted(&inside(name)) };
        }
    }
    if let Some(OrderBy { kind: OrderByKind::Expressions(keys), .. }) = &mut query.order_by {
        for key in keys {
            let Expr::Identifier(name) = &key.expr else { continue };
            let place = listed.iter().position(|listed| *listed == fold(name));
            if let Some(place) = place {
                key.expr = Expr::Value(ast::Value::Number((place + 1).to_string(), false).with_empty_span());
            }
        }
    }
    let with = query.with.take();
    let relation = quoted("$ordered");
    let mut around = select_from("$ordered", &relation, |select| {
        let item = |name: &String| SelectItem::ExprWithAlias {
            expr: Expr::CompoundIdentifier(vec![relation.clone(), quoted(&inside(name))]),
            alias: quoted(name),
        };
        select.projection = listed.iter().map(item).collect();
        for from in &mut select.from {
            if let TableFactor::Table { alias, .. } = &from.relation {
                let subquery = Box::new(query.clone());
                from.relation = TableFactor::Derived { lateral: false, subquery, alias: alias.clone(), sample: None };
            }
        }
    })?;
    around.with = with;
    *query = around;
    Ok(())
}

/// The name that a list gives to something else than a column of that name.
fn alias(item: &SelectItem) -> Option<String> {
    let SelectItem::ExprWithAlias { expr, alias } = item else { return None };
    let name = fold(alias);
    let same = match expr {
        Expr::Identifier(column) => fold(column) == name,
        Expr::CompoundIdentifier(parts) => parts.last().is_some_and(|column| fold(column) == name),
        _ => false,
    };
    (!same).then_some(name)
}

fn is_bare(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(inner) => is_bare(inner),
        expr => matches!(expr, Expr::Identifier(_)),
    }
}
