//! The columns of `JOIN … USING`, and of NATURAL JOIN, which `wildcards.rs` turns into it.
//!
//! A bare name of such a column means the left table's value or, where there is none, the right one's; DataFusion reads
//! the left table's, and in WHERE calls the name ambiguous. Invariant: bare names, and what `*` means, are written out as
//! that before a statement is planned, the shared columns first; names with a table before them keep their meaning. A subquery
//! without a name gets one for that.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr, Statement, TableAlias, TableFactor,
    TableWithJoins, VisitMut, Visitor, WildcardAdditionalOptions,
};

use super::catalog::fold;
use super::own_level;
use super::rewrite::call;
use super::walk::walk;

/// What a name of a USING column stands for.
pub struct Merged {
    /// The name.
    pub name: String,
    /// The expression of both tables' columns.
    pub expr: Expr,
    /// The tables of its joins.
    pub tables: Vec<String>,
    /// Whether that is not just the left table's column.
    pub differs: bool,
}

/// The USING columns.
pub fn merged(from: &[TableWithJoins]) -> Vec<Merged> {
    from.iter().flat_map(of_joins).collect()
}

fn of_joins(from: &TableWithJoins) -> Vec<Merged> {
    let mut columns: Vec<Merged> = Vec::new();
    let mut left = alias(&from.relation);
    let tables = tables(from);
    for join in &from.joins {
        use JoinOperator as J;
        let full = matches!(join.join_operator, J::FullOuter(_));
        let right = full || matches!(join.join_operator, J::Right(_) | J::RightOuter(_));
        let constraint = constraint(&join.join_operator);
        if let (Some(JoinConstraint::Using(names)), Some(other)) = (constraint, alias(&join.relation)) {
            for name in names.iter().filter_map(|n| n.0.last()?.as_ident()) {
                let column = |table: &Ident| Expr::CompoundIdentifier(vec![table.clone(), name.clone()]);
                let known = columns.iter().position(|c| c.name == fold(name));
                let (first, differs) = match (known, &left) {
                    (Some(at), _) => {
                        let known = columns.remove(at);
                        (known.expr, known.differs)
                    }
                    (None, Some(left)) => (column(left), false),
                    // Which of several tables has it, only the planner knows.
                    (None, None) => continue,
                };
                let expr = match (right, full) {
                    (true, true) => call("coalesce", vec![first, column(&other)]),
                    (true, false) => column(&other),
                    _ => first,
                };
                columns.push(Merged { name: fold(name), expr, tables: tables.clone(), differs: differs || right });
            }
        }
        left = None;
    }
    columns
}

/// What the columns of a table and those joined to it are qualified with.
pub fn tables(from: &TableWithJoins) -> Vec<String> {
    let factors = std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation));
    factors.filter_map(alias).map(|name| fold(&name)).collect()
}

/// What the columns of one are qualified with.
pub fn alias(factor: &TableFactor) -> Option<Ident> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::TableFunction { alias: Some(alias), .. }
        | TableFactor::Function { alias: Some(alias), .. }
        | TableFactor::UNNEST { alias: Some(alias), .. }
        | TableFactor::NestedJoin { alias: Some(alias), .. } => Some(alias.name.clone()),
        TableFactor::Table { name, .. } => name.0.last()?.as_ident().cloned(),
        _ => None,
    }
}

/// The condition of a join.
pub fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    use JoinOperator as J;
    match operator {
        J::Join(c) | J::Inner(c) | J::Left(c) | J::LeftOuter(c) | J::Right(c) | J::RightOuter(c) | J::FullOuter(c) => {
            Some(c)
        }
        _ => None,
    }
}

/// The same, to be changed.
pub fn constraint_mut(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    use JoinOperator as J;
    match operator {
        J::Join(c) | J::Inner(c) | J::Left(c) | J::LeftOuter(c) | J::Right(c) | J::RightOuter(c) | J::FullOuter(c) => {
            Some(c)
        }
        _ => None,
    }
}

/// Whether a join is by the columns that both sides have.
pub fn is_natural(operator: &JoinOperator) -> bool {
    matches!(constraint(operator), Some(JoinConstraint::Natural))
}

fn is_shared(operator: &JoinOperator) -> bool {
    matches!(constraint(operator), Some(JoinConstraint::Natural | JoinConstraint::Using(_)))
}

/// Names the subqueries without a name beside such a join.
pub fn name_sides(select: &mut Select) {
    let mut count = 0;
    for from in &mut select.from {
        if !from.joins.iter().any(|join| is_shared(&join.join_operator)) {
            continue;
        }
        for factor in std::iter::once(&mut from.relation).chain(from.joins.iter_mut().map(|join| &mut join.relation)) {
            if let TableFactor::Derived { alias: alias @ None, .. } = factor {
                count += 1;
                let name = Ident::with_quote('"', format!("$side{count}"));
                *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
            }
        }
    }
}

/// The shared columns in the order in which `*` begins with them: those of the last join first.
pub fn first_names(from: &TableWithJoins) -> Vec<String> {
    let mut first = Vec::new();
    for join in from.joins.iter().rev() {
        if let Some(JoinConstraint::Using(names)) = constraint(&join.join_operator) {
            let names = names.iter().filter_map(|name| name.0.last()?.as_ident()).map(fold);
            for name in names {
                if !first.contains(&name) {
                    first.push(name);
                }
            }
        }
    }
    first
}

/// Whether a statement has a NATURAL JOIN.
pub fn has_natural(statement: &Statement) -> bool {
    has_select(statement, |select| {
        select.from.iter().flat_map(|from| &from.joins).any(|join| is_natural(&join.join_operator))
    })
}

/// Whether a statement has a `*` over such a column.
pub fn has_wildcard(statement: &Statement) -> bool {
    has_select(statement, |select| {
        let plain = |options: &WildcardAdditionalOptions| options.opt_replace.is_none() && options.opt_rename.is_none();
        let wildcard = |item: &SelectItem| matches!(item, SelectItem::Wildcard(options) if plain(options));
        select.projection.iter().any(wildcard)
            && select.from.iter().flat_map(|from| &from.joins).any(|join| is_shared(&join.join_operator))
    })
}

fn has_select(statement: &Statement, test: impl Fn(&Select) -> bool) -> bool {
    struct Finder<F>(F);
    impl<F: Fn(&Select) -> bool> Visitor for Finder<F> {
        type Break = ();

        fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
            if (self.0)(select) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    walk(statement, &mut Finder(test)).is_break()
}

/// Writes the bare names of a query's ORDER BY out.
pub fn in_order(query: &mut Query) {
    let (SetExpr::Select(select), Some(order)) = (query.body.as_mut(), &mut query.order_by) else { return };
    name_sides(select);
    // ORDER BY means a column of the result first.
    let listed = |name: &String| {
        select.projection.iter().any(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => fold(alias) == *name,
            SelectItem::UnnamedExpr(Expr::Identifier(column)) => fold(column) == *name,
            _ => false,
        })
    };
    let mut columns = merged(&select.from);
    columns.retain(|column| !listed(&column.name));
    write_out(order, &columns);
}

/// Writes the bare names of a block out.
pub fn in_select(select: &mut Select) {
    name_sides(select);
    let columns = merged(&select.from);
    if columns.is_empty() {
        return;
    }
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr @ Expr::Identifier(_)) = item
            && let Expr::Identifier(name) = expr.clone()
        {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: name };
        }
    }
    write_out(select, &columns);
}

fn write_out(part: &mut impl VisitMut, columns: &[Merged]) {
    let _ = own_level::change_expressions(part, |expr| {
        if let Expr::Identifier(name) = expr
            && let Some(column) = columns.iter().find(|c| c.name == fold(name))
        {
            *expr = column.expr.clone();
        }
        ControlFlow::<()>::Continue(())
    });
}
