//! GROUP BY of a table's whole key groups its other columns too.
//!
//! SQL lets a SELECT that groups by a table's primary key name the table's other columns: a group has one row of the
//! table. DataFusion would know that from a table's constraints, but what it concludes from them further up is not
//! always so (`dependencies.rs`), so it is not told. Invariant: a column is added to GROUP BY only if it belongs to a
//! stored table whose whole primary key is there. The groups stay what they are, because the key determines the column:
//! keys are not NULL, and where an outer join has no row of the table, key and column are NULL together. Tables that are
//! read with their deleted rows are left alone, since a key can be there twice.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, GroupByExpr, Ident, ObjectName, OrderBy, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, TableFactor, TableWithJoins, Value, Visit, Visitor, VisitorMut,
};

use super::catalog::fold;
use super::walk::{walk, walk_mut};

/// What is known of a stored table.
pub struct Columns {
    /// The columns of its primary key, if it has one.
    pub key: Vec<String>,
    /// All of its columns.
    pub all: Vec<String>,
}

/// Adds the columns that a grouped key determines to every GROUP BY that needs them.
pub fn complete(
    statement: &mut ast::Statement,
    columns_of: &dyn Fn(&ObjectName) -> Option<Columns>,
    is_aggregate: &dyn Fn(&str) -> bool,
) {
    let tables = Tables::of(statement, columns_of);
    let _ = walk_mut(statement, &mut Complete { tables, is_aggregate });
}

/// The names that WITH gives to queries.
struct CteNames(HashSet<String>);

impl Visitor for CteNames {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.0.extend(query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| fold(&cte.alias.name)));
        ControlFlow::Continue(())
    }
}

/// What is known of the tables that a statement names.
pub struct Tables<'a> {
    columns_of: &'a dyn Fn(&ObjectName) -> Option<Columns>,
    /// Names that mean queries of WITH somewhere, and so no table for certain.
    hidden: HashSet<String>,
}

struct Complete<'a> {
    tables: Tables<'a>,
    is_aggregate: &'a dyn Fn(&str) -> bool,
}

impl VisitorMut for Complete<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let (SetExpr::Select(select), Some(order_by)) = (query.body.as_mut(), &query.order_by) {
            self.select(select, Some(order_by));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        self.select(select, None);
        ControlFlow::Continue(())
    }
}

/// A table in FROM, and what its columns are qualified with.
pub struct Relation {
    /// The parts of what its columns are qualified with.
    pub qualifier: Vec<Ident>,
    /// Its columns, if it is a stored table.
    pub columns: Option<Columns>,
}

impl Relation {
    /// Whether the qualifier of a name means it.
    pub fn is_named(&self, by: &[Ident]) -> bool {
        let own = self.qualifier.iter().rev().map(fold);
        by.len() <= self.qualifier.len() && by.iter().rev().map(fold).zip(own).all(|(a, b)| a == b)
    }

    fn may_have(&self, column: &str) -> bool {
        self.columns.as_ref().is_none_or(|columns| columns.all.iter().any(|c| c == column))
    }
}

impl Complete<'_> {
    fn select(&self, select: &mut Select, order_by: Option<&OrderBy>) {
        let GroupByExpr::Expressions(keys, modifiers) = &select.group_by else { return };
        if keys.is_empty() || !modifiers.is_empty() {
            return;
        }
        let relations = self.tables.relations(&select.from);
        let has_key = |relation: &Relation| {
            relation.columns.as_ref().is_some_and(|columns| {
                let grouped = |column: &String| keys.iter().any(|key| means(key, relation, column, &relations, select));
                !columns.key.is_empty() && columns.key.iter().all(grouped)
            })
        };
        let keyed: Vec<&Relation> = relations.iter().filter(|relation| has_key(relation)).collect();
        if keyed.is_empty() {
            return;
        }
        let mut named = Names {
            is_aggregate: self.is_aggregate,
            queries: 0,
            aggregates: 0,
            bare: HashSet::new(),
            qualified: Vec::new(),
        };
        named.read(&select.projection);
        named.read(&select.having);
        named.read(&select.qualify);
        named.read(&select.named_window);
        named.read(&select.distinct);
        named.read(&order_by.cloned());
        let mut added = Vec::new();
        for relation in keyed {
            let whole = select.projection.iter().any(|item| match item {
                SelectItem::Wildcard(_) => true,
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    let parts: Vec<Ident> = name.0.iter().filter_map(|p| p.as_ident()).cloned().collect();
                    relation.is_named(&parts)
                }
                _ => false,
            });
            for column in relation.columns.iter().flat_map(|columns| &columns.all) {
                let is_qualified = |(by, name): &(Vec<Ident>, String)| name == column && relation.is_named(by);
                if (whole || named.bare.contains(column) || named.qualified.iter().any(is_qualified))
                    && !keys.iter().any(|key| means(key, relation, column, &relations, select))
                {
                    let mut parts = relation.qualifier.clone();
                    parts.push(Ident::with_quote('"', column));
                    added.push(Expr::CompoundIdentifier(parts));
                }
            }
        }
        if let GroupByExpr::Expressions(keys, _) = &mut select.group_by {
            keys.extend(added);
        }
    }
}

impl<'a> Tables<'a> {
    /// The tables of a statement.
    pub fn of(statement: &ast::Statement, columns_of: &'a dyn Fn(&ObjectName) -> Option<Columns>) -> Self {
        let mut names = CteNames(HashSet::new());
        let _ = walk(statement, &mut names);
        Self { columns_of, hidden: names.0 }
    }

    /// Those of a FROM clause.
    pub fn relations(&self, from: &[TableWithJoins]) -> Vec<Relation> {
        let mut found = Vec::new();
        from.iter().for_each(|from| self.collect(from, &mut found));
        found
    }

    fn collect(&self, from: &TableWithJoins, found: &mut Vec<Relation>) {
        for factor in std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)) {
            match factor {
                TableFactor::Table { name, alias, args: None, .. } => {
                    let parts: Vec<Ident> = name.0.iter().filter_map(|p| p.as_ident()).cloned().collect();
                    let hidden = matches!(parts.as_slice(), [one] if self.hidden.contains(&fold(one)));
                    let renamed = alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
                    found.push(Relation {
                        qualifier: alias.as_ref().map_or(parts, |alias| vec![alias.name.clone()]),
                        columns: if hidden || renamed { None } else { (self.columns_of)(name) },
                    });
                }
                TableFactor::NestedJoin { table_with_joins, alias: None, .. } => {
                    self.collect(table_with_joins, found);
                }
                _ => found.push(Relation { qualifier: Vec::new(), columns: None }),
            }
        }
    }
}

/// Whether an expression of GROUP BY is a column of a relation.
fn means(key: &Expr, relation: &Relation, column: &str, relations: &[Relation], select: &Select) -> bool {
    match key {
        Expr::Nested(inner) => means(inner, relation, column, relations, select),
        Expr::CompoundIdentifier(parts) => match parts.split_last() {
            Some((last, qualifier)) => fold(last) == column && relation.is_named(qualifier),
            None => false,
        },
        Expr::Identifier(name) => {
            fold(name) == column
                && relation.may_have(column)
                && relations.iter().filter(|other| other.may_have(column)).count() == 1
                && !select.projection.iter().any(|item| renames(item, column))
        }
        // The place of an item in the SELECT list.
        Expr::Value(value) => {
            let Value::Number(place, _) = &value.value else { return false };
            let Some(place) = place.parse::<usize>().ok().and_then(|place| place.checked_sub(1)) else { return false };
            let is_item = |i: &SelectItem| matches!(i, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
            match select.projection.get(place) {
                Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. })
                    if select.projection.iter().take(place).all(is_item) && !matches!(expr, Expr::Value(_)) =>
                {
                    means(expr, relation, column, relations, select)
                }
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether an item of a SELECT list gives a column's name to something else.
fn renames(item: &SelectItem, column: &str) -> bool {
    match item {
        SelectItem::ExprWithAlias { expr, alias } if fold(alias) == column => match expr {
            Expr::Identifier(name) => fold(name) != column,
            Expr::CompoundIdentifier(parts) => parts.last().is_none_or(|last| fold(last) != column),
            _ => true,
        },
        _ => false,
    }
}

/// The columns that are named outside of aggregates; in subqueries only those with a qualifier.
struct Names<'a> {
    is_aggregate: &'a dyn Fn(&str) -> bool,
    queries: usize,
    aggregates: usize,
    bare: HashSet<String>,
    qualified: Vec<(Vec<Ident>, String)>,
}

impl Names<'_> {
    fn read(&mut self, part: &impl Visit) {
        let _ = walk(part, self);
    }

    fn aggregates(&self, expr: &Expr) -> bool {
        let Expr::Function(call) = expr else { return false };
        call.over.is_none() && (self.is_aggregate)(&call.name.to_string().to_lowercase())
    }
}

impl Visitor for Names<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(_) if self.aggregates(expr) => self.aggregates += 1,
            Expr::Identifier(name) if self.aggregates == 0 && self.queries == 0 => {
                self.bare.insert(fold(name));
            }
            Expr::CompoundIdentifier(parts) if self.aggregates == 0 => {
                if let Some((last, qualifier)) = parts.split_last() {
                    self.qualified.push((qualifier.to_vec(), fold(last)));
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.aggregates -= usize::from(self.aggregates(expr));
        ControlFlow::Continue(())
    }
}
