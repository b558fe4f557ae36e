//! What stands behind the two halves of a query of WITH RECURSIVE: ORDER BY, LIMIT and OFFSET, and a WITH of its own.
//!
//! DataFusion plans such a query from the halves of its UNION alone, and what stands around them is lost. Invariant: of
//! a query of WITH RECURSIVE that reaches the planner as a UNION, there is nothing but the UNION. One that reads itself
//! becomes the UNION within a query that takes its rows, in their order, and stops it when it has enough:
//! `c(x) AS (A UNION ALL B LIMIT n)` is `c(x) AS ((WITH RECURSIVE c(x) AS (A UNION ALL B) SELECT * FROM c) LIMIT n)`. One
//! that does not becomes a query in parentheses. An ORDER BY would have to say in which order rows are taken up again,
//! as in SQLite, and is refused, as in PostgreSQL.
//! One that reads itself elsewhere than in the second half is refused too.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Cte, ObjectName, Query, SetExpr, SetOperator, Spanned, Visit, Visitor, VisitorMut,
};

use super::catalog::{fold, position_of_name};
use super::parser::{self, Statement, position_at};
use super::walk::{walk, walk_mut};
use crate::error::{ErrorCode, KalamError, Position, Result};

/// Gives the planner every query of a WITH RECURSIVE in a form that it plans whole.
pub fn write_out(query: &mut Query) -> Result<()> {
    match &mut query.with {
        Some(with) if with.recursive => with.cte_tables.iter_mut().try_for_each(whole),
        _ => Ok(()),
    }
}

fn whole(cte: &mut Cte) -> Result<()> {
    let query = cte.query.as_mut();
    let name = fold(&cte.alias.name);
    let wrong = |what: String, place: Option<Position>| {
        Err(KalamError::new(ErrorCode::InvalidStatement, what)
            .with_hint("Expected: what it begins with, UNION or UNION ALL, one query that reads it.")
            .at(place))
    };
    let SetExpr::SetOperation { op: SetOperator::Union, left, .. } = query.body.as_ref() else {
        return match reads(query, &name) {
            Some(place) => wrong(format!("the recursive query '{name}' is no UNION"), place),
            None => Ok(()),
        };
    };
    if let Some(place) = reads(left.as_ref(), &name) {
        return wrong(format!("the recursive query '{name}' reads itself before the last UNION"), place);
    }
    if query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none() && query.fetch.is_none() {
        return Ok(());
    }
    if reads(query.body.as_ref(), &name).is_none() {
        let inner = std::mem::replace(query, reading(&cte.alias.name)?);
        *query.body = SetExpr::Query(Box::new(inner));
        query.with = None;
        return Ok(());
    }
    if let Some(order_by) = &query.order_by {
        let message = "ORDER BY within a query of WITH RECURSIVE that reads itself is not supported";
        return Err(KalamError::new(ErrorCode::FeatureNotSupported, message)
            .with_hint("Write ORDER BY in the query that reads it.")
            .at(position_at(order_by.span().start)));
    }
    let mut inner = reading(&cte.alias.name)?;
    if let Some(ast::With { cte_tables, .. }) = &mut inner.with
        && let [recursive] = cte_tables.as_mut_slice()
    {
        recursive.alias = cte.alias.clone();
        std::mem::swap(&mut recursive.query.body, &mut query.body);
    }
    *query.body = SetExpr::Query(Box::new(inner));
    Ok(())
}

/// `WITH RECURSIVE c AS (…) SELECT * FROM c`, of the name that a query of WITH has.
fn reading(name: &ast::Ident) -> Result<Query> {
    struct Named<'a>(&'a ast::Ident);
    impl VisitorMut for Named<'_> {
        type Break = ();

        fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
            *relation = ObjectName::from(vec![self.0.clone()]);
            ControlFlow::Continue(())
        }
    }
    match parser::parse("WITH RECURSIVE c AS (SELECT 1) SELECT * FROM c")?.pop() {
        Some(Statement::Sql(mut statement)) => {
            let _ = walk_mut(statement.as_mut(), &mut Named(name));
            match *statement {
                ast::Statement::Query(query) => Ok(*query),
                _ => Err(KalamError::internal("a query became another statement")),
            }
        }
        _ => Err(KalamError::internal("a query did not parse")),
    }
}

/// Where a table of this name is read, if it is; not where another WITH has a query of that name.
fn reads(node: &impl Visit, name: &str) -> Option<Option<Position>> {
    struct Reads<'a>(&'a str);
    impl Visitor for Reads<'_> {
        type Break = Option<Option<Position>>;

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
            match query.with.iter().flat_map(|with| &with.cte_tables).any(|cte| fold(&cte.alias.name) == self.0) {
                true => ControlFlow::Break(None),
                false => ControlFlow::Continue(()),
            }
        }

        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Self::Break> {
            match relation.0.as_slice() {
                [part] if part.as_ident().is_some_and(|ident| fold(ident) == self.0) => {
                    ControlFlow::Break(Some(position_of_name(relation)))
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match walk(node, &mut Reads(name)) {
        ControlFlow::Break(place) => place,
        ControlFlow::Continue(()) => None,
    }
}
