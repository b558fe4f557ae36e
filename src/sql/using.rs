//! The columns of `JOIN … USING`.
//!
//! A bare name of such a column means the left table's value or, where there is none, the right one's; DataFusion reads
//! the left table's, and in WHERE calls the name ambiguous. Invariant: bare names, and what `*` means, are written out as
//! that before a statement is planned; names with a table before them keep their meaning.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr, Statement, TableFactor,
    TableWithJoins, Visitor,
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
    for join in &from.joins {
        use JoinOperator as J;
        let (constraint, right, full) = match &join.join_operator {
            J::Join(c) | J::Inner(c) | J::Left(c) | J::LeftOuter(c) => (Some(c), false, false),
            J::Right(c) | J::RightOuter(c) => (Some(c), true, false),
            J::FullOuter(c) => (Some(c), true, true),
            _ => (None, false, false),
        };
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
                columns.push(Merged { name: fold(name), expr, differs: differs || right });
            }
        }
        left = None;
    }
    columns
}

fn alias(factor: &TableFactor) -> Option<Ident> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Some(alias.name.clone())
        }
        TableFactor::Table { name, .. } => name.0.last()?.as_ident().cloned(),
        _ => None,
    }
}

/// Whether a statement has a `*` over such a column.
pub fn has_wildcard(statement: &Statement) -> bool {
    struct Finder;
    impl Visitor for Finder {
        type Break = ();

        fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
            let wildcard = select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_)));
            if wildcard && merged(&select.from).iter().any(|c| c.differs) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }
    walk(statement, &mut Finder).is_break()
}

/// Writes the bare names of a query's block out.
pub fn write_out(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else { return };
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
    let named: Vec<String> = select
        .projection
        .iter()
        .filter_map(|item| if let SelectItem::ExprWithAlias { alias, .. } = item { Some(fold(alias)) } else { None })
        .collect();
    let write = |columns: &[Merged], expr: &mut Expr| {
        if let Expr::Identifier(name) = expr
            && let Some(column) = columns.iter().find(|c| c.name == fold(name))
        {
            *expr = column.expr.clone();
        }
        ControlFlow::<()>::Continue(())
    };
    let _ = own_level::change_expressions(select, |expr| write(&columns, expr));
    if let Some(order) = &mut query.order_by {
        // ORDER BY means a column of the result first.
        let columns: Vec<Merged> = columns.into_iter().filter(|c| !named.contains(&c.name)).collect();
        let _ = own_level::change_expressions(order, |expr| write(&columns, expr));
    }
}
