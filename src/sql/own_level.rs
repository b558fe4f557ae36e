//! The expressions that a part of a query has itself, not in the subqueries within it.
//!
//! Names, calls of aggregates and windows belong to the query that they stand in. Invariant: what is visited stands in no
//! query below the node that was given.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, Visit, VisitMut, Visitor, VisitorMut};

use super::walk::{walk, walk_mut};

/// Shows every expression of a node but those of subqueries, outer ones first, until `visit` breaks.
pub fn visit_expressions<B>(node: &impl Visit, visit: impl FnMut(&Expr) -> ControlFlow<B>) -> ControlFlow<B> {
    walk(node, &mut OwnLevel { depth: 0, visit })
}

/// Lets every expression of a node but those of subqueries be changed, inner ones first, until `change` breaks.
pub fn change_expressions<B>(
    node: &mut impl VisitMut,
    change: impl FnMut(&mut Expr) -> ControlFlow<B>,
) -> ControlFlow<B> {
    walk_mut(node, &mut OwnLevel { depth: 0, visit: change })
}

struct OwnLevel<F> {
    depth: usize,
    visit: F,
}

impl<B, F: FnMut(&Expr) -> ControlFlow<B>> Visitor for OwnLevel<F> {
    type Break = B;

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<B> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<B> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<B> {
        if self.depth == 0 { (self.visit)(expr) } else { ControlFlow::Continue(()) }
    }
}

impl<B, F: FnMut(&mut Expr) -> ControlFlow<B>> VisitorMut for OwnLevel<F> {
    type Break = B;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<B> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<B> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<B> {
        if self.depth == 0 { (self.visit)(expr) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::SetExpr;

    use super::super::parser::{Statement, parse};
    use super::*;
    use crate::error::Result;

    #[test]
    fn subqueries_are_left_out_and_what_is_behind_them_is_not() -> Result<()> {
        let parsed = parse("SELECT a + (SELECT b FROM t WHERE c IN (SELECT d FROM u)), e WHERE f = (SELECT g) AND h")?;
        let Statement::Sql(statement) = &parsed[0] else { panic!("{parsed:?}") };
        let datafusion::sql::sqlparser::ast::Statement::Query(query) = statement.as_ref() else { panic!() };
        let SetExpr::Select(select) = query.body.as_ref() else { panic!() };
        let mut names = Vec::new();
        let _ = visit_expressions(select, |expr| {
            if let Expr::Identifier(name) = expr {
                names.push(name.value.clone());
            }
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(names, ["a", "e", "f", "h"]);
        let mut changed = select.clone();
        let _ = change_expressions(&mut changed, |expr| {
            if let Expr::Identifier(name) = expr {
                name.value.push('2');
            }
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(
            changed.to_string(),
            "SELECT a2 + (SELECT b FROM t WHERE c IN (SELECT d FROM u)), e2 WHERE f2 = (SELECT g) AND h2"
        );
        Ok(())
    }
}
