//! Expressions that are written as SQL around the parts of another expression.
//!
//! Invariant: a part is put into the parsed template as the tree that it is, never as text, and what was put in is not
//! looked through for places again.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, Expr, Query, SelectItem, SetExpr, TableFactor, VisitorMut};

use super::catalog::fold;
use super::parser::{self, Statement};
use super::walk::walk_mut;
use crate::error::{KalamError, Result};

/// The expression of a template: `query` stands where it has a derived table `"$q"`, and what `value` gives for the name
/// of a column in that column's place.
pub fn filled(template: &str, query: &Query, value: impl Fn(&str) -> Option<Expr>) -> Result<Expr> {
    let wrong = |what| KalamError::internal(format_args!("the template '{template}' {what}"));
    let Some(Statement::Sql(mut statement)) = parser::parse(&format!("SELECT {template}"))?.pop() else {
        return Err(wrong("did not parse"));
    };
    let _ = walk_mut(statement.as_mut(), &mut Fill { query, value });
    let ast::Statement::Query(filled) = *statement else { return Err(wrong("is no query")) };
    let SetExpr::Select(select) = *filled.body else { return Err(wrong("is no SELECT")) };
    match select.projection.into_iter().next() {
        Some(SelectItem::UnnamedExpr(expr)) => Ok(expr),
        _ => Err(wrong("has no expression")),
    }
}

struct Fill<'a, F> {
    query: &'a Query,
    value: F,
}

impl<F: Fn(&str) -> Option<Expr>> VisitorMut for Fill<'_, F> {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Derived { subquery, alias: Some(alias), .. } = factor
            && fold(&alias.name) == "$q"
        {
            **subquery = self.query.clone();
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expr
            && let Some(value) = (self.value)(&name.value)
        {
            *expr = Expr::Nested(Box::new(value));
        }
        ControlFlow::Continue(())
    }
}
