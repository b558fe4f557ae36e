//! Expressions that are written as SQL around the parts of another expression.
//!
//! Invariant: a part is put into the parsed template as the tree that it is, never as text, and what was put in is not
//! looked through for places again.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, Expr, Query, SelectItem, SetExpr, TableFactor, Visitor, VisitorMut};

use super::catalog::fold;
use super::parser::{self, Statement};
use super::walk::{walk, walk_mut};
use crate::error::{ErrorCode, KalamError, Result};

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

/// Functions that give another value in each call.
const VOLATILE: [&str; 6] = ["random", "uuid", "gen_random_uuid", "uuid_v7", "ulid", "snowflake_id"];

/// The values of the row that a query gives, as expressions. The query stands in each of them, so one that may give another
/// row each time is refused.
pub fn row_of(query: &Query, count: usize) -> Result<Vec<Expr>> {
    if walk(query, &mut CallsVolatile).is_break() {
        let message = "a query with random() or new ids for several values at once is not supported";
        return Err(KalamError::new(ErrorCode::FeatureNotSupported, message)
            .with_hint("Take it as a table: … FROM (SELECT …) AS q."));
    }
    let names: Vec<String> = (0..count).map(|place| format!("\"$c{place}\"")).collect();
    let names = names.join(", ");
    let value = |place| {
        let template = format!("(SELECT \"$c{place}\" FROM (SELECT 1) AS \"$q\"({names}))");
        filled(&template, query, |_| None)
    };
    (0..count).map(value).collect()
}

struct CallsVolatile;

impl Visitor for CallsVolatile {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let Expr::Function(call) = expr else { return ControlFlow::Continue(()) };
        let name = call.name.0.last().and_then(|part| part.as_ident()).map(fold);
        match name.is_some_and(|name| VOLATILE.contains(&name.as_str())) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
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
