//! Writes every `*` of a query out as the columns that it means, and names of ORDER BY with their tables.
//!
//! Two things need the columns of a `*`. A view is fixed when it is created: columns that its tables get later are not part of it. And a
//! statement that names a system column reads its tables with these columns, which no `*` may show. Invariant: a query
//! block is expanded after the blocks in it, by asking the planner what its `*` gives, so what is written out is what
//! the planner would have put there. The same walk tells which columns an ORDER BY sees (`order_names.rs`).

use std::ops::ControlFlow;

use datafusion::common::{DFSchemaRef, TableReference};
use datafusion::sql::sqlparser::ast::{
    self, Cte, Expr, Ident, JoinConstraint, ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};

use super::catalog::fold;
use super::handlers::dml::{select_from, unsupported};
use super::order_names;
use super::using;
use super::walk::{names_column, walk_mut};
use crate::error::{ErrorCode, KalamError, Result};
use crate::tables::{DELETED_COLUMN, ROW_ID_COLUMN, SEQ_COLUMN};

/// Whether a name is that of a system column which statements may name.
fn is_system_column(name: &str) -> bool {
    [SEQ_COLUMN, ROW_ID_COLUMN, DELETED_COLUMN].contains(&name)
}

/// Whether a statement names a system column.
pub fn names_system_column(statement: &ast::Statement) -> bool {
    names_column(statement, is_system_column)
}

/// What the planner and the catalog tell.
pub struct Expander<'a> {
    /// The columns of a query.
    pub columns_of: &'a dyn Fn(Query) -> Result<DFSchemaRef>,
    /// Whether a relation is read with its system columns.
    pub has_system_columns: &'a dyn Fn(&ObjectName) -> bool,
    /// Whether `*` is written out.
    pub wildcards: bool,
}

/// The common table expressions that a block sees.
#[derive(Clone, Default)]
struct Scope {
    ctes: Vec<Cte>,
    recursive: bool,
    /// Whether it is not the block whose rows the statement gives.
    nested: bool,
}

impl Scope {
    fn add(&mut self, cte: Cte) {
        let name = fold(&cte.alias.name);
        self.ctes.retain(|c| fold(&c.alias.name) != name);
        self.ctes.push(cte);
    }

    fn hides(&self, name: &ObjectName) -> bool {
        match name.0.as_slice() {
            [one] => one.as_ident().is_some_and(|i| self.ctes.iter().any(|c| fold(&c.alias.name) == fold(i))),
            _ => false,
        }
    }
}

impl Expander<'_> {
    /// Writes every `*` of a query out, if that is wanted, and names of its ORDER BY that have two meanings.
    pub fn expand(&self, query: &mut Query) -> Result<()> {
        self.query(query, &Scope::default())
    }

    fn query(&self, query: &mut Query, outer: &Scope) -> Result<()> {
        let mut scope = Scope { nested: true, ..outer.clone() };
        if let Some(with) = &mut query.with {
            scope.recursive |= with.recursive;
            for cte in &mut with.cte_tables {
                match cte.query.body.as_mut() {
                    // A recursive one has the columns of its first part, and only its second part sees it.
                    SetExpr::SetOperation { left, .. } if with.recursive => {
                        self.body(left, &scope)?;
                        let first = left.as_ref().clone();
                        let mut inner = scope.clone();
                        let mut seen = cte.clone();
                        *seen.query.body = first;
                        inner.add(seen);
                        if let SetExpr::SetOperation { right, .. } = cte.query.body.as_mut() {
                            self.body(right, &inner)?;
                        }
                    }
                    _ => self.query(&mut cte.query, &scope)?,
                }
                scope.add(cte.clone());
            }
        }
        self.body(&mut query.body, &scope)?;
        self.order_names(query, &scope, outer.nested)?;
        match &mut query.order_by {
            Some(order) => self.subqueries(order, &scope),
            None => Ok(()),
        }
    }

    fn order_names(&self, query: &mut Query, scope: &Scope, nested: bool) -> Result<()> {
        let names = order_names::clashes(query);
        let (SetExpr::Select(select), Some(order_by)) = (query.body.as_ref(), &mut query.order_by) else {
            return Ok(());
        };
        if names.is_empty() {
            return Ok(());
        }
        let probe = self.probe(select, SelectItem::Wildcard(ast::WildcardAdditionalOptions::default()), scope)?;
        // What is wrong with FROM is said when the whole query is planned.
        let Ok(columns) = (self.columns_of)(probe) else { return Ok(()) };
        let names = order_names::qualify(order_by, &names, select, &columns)?;
        // Other blocks see the names of this one, so they cannot be changed when it is planned.
        if nested && !names.is_empty() { order_names::rename_outside(query, &names) } else { Ok(()) }
    }

    fn body(&self, body: &mut SetExpr, scope: &Scope) -> Result<()> {
        match body {
            SetExpr::Select(select) => self.select(select, scope),
            SetExpr::Query(query) => self.query(query, scope),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left, scope)?;
                self.body(right, scope)
            }
            other => self.subqueries(other, scope),
        }
    }

    fn select(&self, select: &mut Select, scope: &Scope) -> Result<()> {
        self.subqueries(select, scope)?;
        using::name_sides(select);
        let mut hidden = Vec::new();
        if self.wildcards {
            let mut natural = false;
            for from in &select.from {
                self.relations(from, scope, &mut hidden, &mut natural);
            }
            if natural && !hidden.is_empty() {
                // It would join by the system columns, too.
                return unsupported("NATURAL JOIN in a statement that names a system column (write USING)");
            }
        }
        self.natural_joins(select, scope)?;
        if !self.wildcards {
            return Ok(());
        }
        let is_wildcard = |i: &SelectItem| matches!(i, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        if !select.projection.iter().any(is_wildcard) {
            return Ok(());
        }
        let mut items = Vec::with_capacity(select.projection.len());
        for item in std::mem::take(&mut select.projection) {
            let is_bare = matches!(item, SelectItem::Wildcard(_));
            let options = match &item {
                SelectItem::Wildcard(options) => options,
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), options) => options,
                SelectItem::QualifiedWildcard(..) => return unsupported("* of an expression"),
                _ => {
                    items.push(item);
                    continue;
                }
            };
            if options.opt_replace.is_some() || options.opt_rename.is_some() || options.opt_alias.is_some() {
                return unsupported("* with REPLACE, RENAME or AS in a view or beside a system column");
            }
            let probe = self.probe(select, item, scope)?;
            let schema = (self.columns_of)(probe)?;
            let of_both = if is_bare { using::merged(&select.from) } else { Vec::new() };
            let both = |qualifier: Option<&TableReference>, name: &str| {
                let is_of = |c: &&using::Merged| qualifier.is_some_and(|q| c.tables.iter().any(|t| t == q.table()));
                of_both.iter().find(|c| c.name == name && is_of(c))
            };
            let mut columns: Vec<_> = schema.iter().collect();
            // The shared columns come first, in the order of USING.
            if let (true, Some(from)) = (is_bare, select.from.first()) {
                let (first, tables) = (using::first_names(from), using::tables(from));
                columns.sort_by_key(|(qualifier, field)| {
                    let place = first.iter().position(|name| name == field.name());
                    let is_of = qualifier.is_some_and(|q| tables.iter().any(|table| table == q.table()));
                    place.filter(|_| is_of).unwrap_or(first.len())
                });
            }
            let begin = items.len();
            for (qualifier, field) in columns {
                let of_hidden = qualifier.is_some_and(|q| hidden.contains(q));
                match both(qualifier, field.name()) {
                    // Of a column that several joins share, the planner may give two.
                    Some(column) if items[begin..].iter().any(|item| is_shared(item, column)) => {}
                    Some(column) => items.push(SelectItem::ExprWithAlias {
                        expr: column.expr.clone(),
                        alias: Ident::with_quote('"', field.name()),
                    }),
                    None if of_hidden && is_system_column(field.name()) => {}
                    None => items.push(column(qualifier, field.name())),
                }
            }
        }
        select.projection = items;
        Ok(())
    }

    /// NATURAL JOIN as JOIN … USING the columns that both sides have.
    fn natural_joins(&self, select: &mut Select, scope: &Scope) -> Result<()> {
        for from in 0..select.from.len() {
            for join in 0..select.from[from].joins.len() {
                if !using::is_natural(&select.from[from].joins[join].join_operator) {
                    continue;
                }
                let names_of = |side: TableWithJoins| -> Option<Vec<String>> {
                    let of_both = using::first_names(&side);
                    let block = Select { from: vec![side], ..select.clone() };
                    let probe = self.probe(&block, SelectItem::Wildcard(Default::default()), scope).ok()?;
                    // What is wrong with FROM is said when the whole query is planned.
                    let schema = (self.columns_of)(probe).ok()?;
                    let mut names: Vec<String> = Vec::new();
                    for field in schema.fields() {
                        // Of a column that several joins share, the planner may give two.
                        if !of_both.contains(field.name()) || !names.contains(field.name()) {
                            names.push(field.name().clone());
                        }
                    }
                    Some(names)
                };
                let sides = &select.from[from];
                let left = TableWithJoins { relation: sides.relation.clone(), joins: sides.joins[..join].to_vec() };
                let right = TableWithJoins { relation: sides.joins[join].relation.clone(), joins: Vec::new() };
                let (Some(left), Some(right)) = (names_of(left), names_of(right)) else { return Ok(()) };
                let shared: Vec<&String> = left.iter().filter(|name| right.contains(name)).collect();
                if let Some((_, twice)) = shared.iter().enumerate().find(|(at, name)| shared[..*at].contains(name)) {
                    let message = format!("NATURAL JOIN by '{twice}', of which there are two on its left side");
                    return Err(KalamError::new(ErrorCode::AmbiguousColumn, message)
                        .with_hint("Write JOIN … ON with the name of a table before each column."));
                }
                let name = |name: &String| ObjectName::from(vec![Ident::with_quote('"', name)]);
                let names: Vec<ObjectName> = shared.into_iter().map(name).collect();
                let always = || Expr::Value(ast::Value::Boolean(true).with_empty_span());
                if let Some(constraint) = using::constraint_mut(&mut select.from[from].joins[join].join_operator) {
                    *constraint = match names.is_empty() {
                        true => JoinConstraint::On(always()),
                        false => JoinConstraint::Using(names),
                    };
                }
            }
        }
        Ok(())
    }

    /// `WITH … SELECT item FROM …`: the block with nothing but what its `*` depends on.
    fn probe(&self, select: &Select, item: SelectItem, scope: &Scope) -> Result<Query> {
        let mut query = select_from("t", &Ident::new("t"), |probe| {
            probe.projection = vec![item];
            probe.from.clone_from(&select.from);
            probe.lateral_views.clone_from(&select.lateral_views);
        })?;
        if !scope.ctes.is_empty() {
            query.with = Some(ast::With {
                with_token: ast::helpers::attached_token::AttachedToken::empty(),
                recursive: scope.recursive,
                cte_tables: scope.ctes.clone(),
            });
        }
        Ok(query)
    }

    /// Collects what the columns of relations with system columns are qualified with.
    fn relations(&self, from: &TableWithJoins, scope: &Scope, hidden: &mut Vec<TableReference>, natural: &mut bool) {
        let joins = from.joins.iter().map(|j| &j.relation);
        for factor in std::iter::once(&from.relation).chain(joins) {
            match factor {
                TableFactor::Table { name, alias, args: None, .. } if !scope.hides(name) => {
                    if !(self.has_system_columns)(name) {
                        continue;
                    }
                    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
                    hidden.push(match (alias, parts.as_slice()) {
                        (Some(alias), _) => TableReference::bare(fold(&alias.name)),
                        (None, [namespace, table]) => TableReference::partial(namespace.as_str(), table.as_str()),
                        (None, _) => TableReference::bare(parts.concat()),
                    });
                }
                TableFactor::NestedJoin { table_with_joins, .. } => {
                    self.relations(table_with_joins, scope, hidden, natural);
                }
                _ => {}
            }
        }
        *natural |= from.joins.iter().any(|j| using::is_natural(&j.join_operator));
    }

    /// Expands the queries directly in a part of a statement.
    fn subqueries(&self, part: &mut impl VisitMut, scope: &Scope) -> Result<()> {
        struct Children<'a, 'b>(&'a Expander<'b>, &'a Scope, usize);
        impl VisitorMut for Children<'_, '_> {
            type Break = KalamError;

            fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
                self.2 += 1;
                if self.2 > 1 {
                    return ControlFlow::Continue(());
                }
                match self.0.query(query, self.1) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => ControlFlow::Break(error),
                }
            }

            fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
                self.2 -= 1;
                ControlFlow::Continue(())
            }
        }
        match walk_mut(part, &mut Children(self, scope, 0)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        }
    }
}

/// Whether an item is what a shared column was written out as.
fn is_shared(item: &SelectItem, column: &using::Merged) -> bool {
    matches!(item, SelectItem::ExprWithAlias { expr, alias } if *expr == column.expr && alias.value == column.name)
}

fn column(qualifier: Option<&TableReference>, name: &str) -> SelectItem {
    let mut parts: Vec<Ident> =
        qualifier.map(|q| q.to_vec()).unwrap_or_default().into_iter().map(|p| Ident::with_quote('"', p)).collect();
    parts.push(Ident::with_quote('"', name));
    SelectItem::UnnamedExpr(match parts.len() {
        1 => Expr::Identifier(parts.remove(0)),
        _ => Expr::CompoundIdentifier(parts),
    })
}
