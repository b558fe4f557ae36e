//! The set operations of a query one by one, for the search of what is wrong with it (`fault.rs`).
//!
//! They are numbered as they are computed: each behind those of its left operand and of its right one.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, Select, SelectItem, SetExpr, Spanned, VisitorMut};

use super::fault::place_of;
use super::parser::position_at;
use super::walk::walk_mut;
use crate::error::Position;

/// The query with the left operand in the place of an operation, and the right one; nothing if it has no such operation.
pub fn taken(query: &Query, number: usize) -> Option<(Query, SetExpr)> {
    let mut taken = None;
    let changed = changed(query, number, |operation| {
        let SetExpr::SetOperation { left, right, .. } = &*operation else { return };
        taken = Some(right.as_ref().clone());
        *operation = left.as_ref().clone();
    });
    taken.map(|right| (changed, right))
}

/// The query with something else in the place of all columns but one of an operation's right operand.
pub fn with_only(query: &Query, number: usize, column: usize, others: &Expr) -> Query {
    changed(query, number, |operation| {
        let SetExpr::SetOperation { right, .. } = operation else { return };
        let items = first_mut(right).into_iter().flat_map(|select| select.projection.iter_mut().enumerate());
        for (_, item) in items.filter(|(place, _)| *place != column) {
            *item = SelectItem::UnnamedExpr(others.clone());
        }
    })
}

/// Where the columns of an operand stand.
pub fn columns(operand: &SetExpr) -> Vec<Option<Position>> {
    match operand {
        SetExpr::Select(select) => select.projection.iter().map(place_of_item).collect(),
        SetExpr::Query(query) => columns(&query.body),
        SetExpr::SetOperation { left, .. } => columns(left),
        SetExpr::Values(values) => {
            values.rows.first().into_iter().flat_map(|row| row.content.iter().map(place_of)).collect()
        }
        _ => Vec::new(),
    }
}

fn place_of_item(item: &SelectItem) -> Option<Position> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => place_of(expr),
        SelectItem::Wildcard(options) => position_at(options.wildcard_token.0.span.start),
        other => position_at(other.span().start),
    }
}

/// The SELECT that gives an operand its columns.
fn first_mut(operand: &mut SetExpr) -> Option<&mut Select> {
    match operand {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_mut(&mut query.body),
        SetExpr::SetOperation { left, .. } => first_mut(left),
        _ => None,
    }
}

fn changed(query: &Query, number: usize, change: impl FnMut(&mut SetExpr)) -> Query {
    let mut query = query.clone();
    let _ = walk_mut(&mut query, &mut Operations { before: number, change });
    query
}

struct Operations<F> {
    /// How many come before the one that is changed.
    before: usize,
    change: F,
}

impl<F: FnMut(&mut SetExpr)> Operations<F> {
    fn visit(&mut self, body: &mut SetExpr) -> ControlFlow<()> {
        match body {
            // It comes again as a query, behind all around it: too late to be found first, and in vain.
            SetExpr::Query(query) => return self.visit(&mut query.body),
            SetExpr::SetOperation { left, right, .. } => {
                self.visit(left)?;
                self.visit(right)?;
            }
            _ => return ControlFlow::Continue(()),
        }
        if self.before > 0 {
            self.before -= 1;
            return ControlFlow::Continue(());
        }
        (self.change)(body);
        ControlFlow::Break(())
    }
}

impl<F: FnMut(&mut SetExpr)> VisitorMut for Operations<F> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.visit(&mut query.body)
    }
}
