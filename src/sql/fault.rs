//! Where in a query the expression stands that planning failed at, for the errors that do not tell.
//!
//! Type coercion, the optimizer and the planner of physical plans know no places. So the query is planned again with one
//! expression after another taken out: the one without which it can be planned is at fault, and of its parts the innermost
//! that fails by itself with the same words. Invariant: a place is only given if no other expression is as much at fault; a
//! wrong one is worse than none. This costs time where a statement is wrong, and none otherwise.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CaseWhen, Expr, Query, Select, SelectItem, Spanned, Value, Visitor, VisitorMut,
    helpers::attached_token::AttachedToken,
};

use super::catalog::Extras;
use super::executor::Execution;
use super::parser::position_at;
use super::set_operations;
use super::walk::{walk, walk_mut};
use crate::error::{ErrorCode, KalamError, Position};

/// A query with more expressions side by side holds data: where its fault is, is not looked for.
const MAX_SLOTS: usize = 64;

/// An error of planning a query with the place of the expression at fault, if it has none and there is one such expression.
pub async fn placed(error: KalamError, execution: &Execution<'_>, query: &Query, extras: &Extras) -> KalamError {
    // What is wrong with a value that a parameter has may as well be found when the plan runs, which tells no place.
    let is_of_data = error.code().sqlstate().starts_with("22") && !execution.params.is_empty();
    let is_of_run = matches!(error.code(), ErrorCode::OutOfMemory | ErrorCode::Cancelled | ErrorCode::Timeout);
    if error.position().is_some() || is_of_data || is_of_run {
        return error;
    }
    let parts = Parts::of(query);
    let search = Search { error: &error, query, parts: &parts, execution, extras };
    let place = search.place().await;
    error.at(place)
}

/// An expression of a query, by its number in the order in which they are visited.
struct Part {
    /// The expression that it is a part of.
    parent: Option<usize>,
    /// In how many queries it stands.
    depth: usize,
    /// Whether others may refer to it by its name, so that it cannot be taken out alone.
    is_named: bool,
    /// Whether it holds a query, in which the fault may be.
    has_query: bool,
    place: Option<Position>,
}

/// Every expression of a query.
#[derive(Default)]
struct Parts {
    all: Vec<Part>,
    open: Vec<usize>,
    depth: usize,
    named: HashSet<*const Expr>,
}

impl Parts {
    fn of(query: &Query) -> Vec<Part> {
        let mut parts = Self::default();
        let _ = walk(query, &mut parts);
        parts.all
    }
}

impl Visitor for Parts {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        for item in &select.projection {
            if let SelectItem::UnnamedExpr(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) = item {
                self.named.insert(std::ptr::from_ref(expr));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let number = self.all.len();
        self.all.push(Part {
            parent: self.open.last().copied(),
            depth: self.depth,
            is_named: self.named.contains(&std::ptr::from_ref(expr)),
            has_query: matches!(expr, Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. }),
            place: place_of(expr),
        });
        self.open.push(number);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.open.pop();
        ControlFlow::Continue(())
    }
}

/// Where an expression begins.
pub fn place_of(expr: &Expr) -> Option<Position> {
    position_at(match expr {
        // The parser's span of a call begins at whatever of it is first in the text.
        Expr::Function(call) => call.name.0.first()?.as_ident()?.span.start,
        _ => expr.span().start,
    })
}

/// Puts another expression in the place of one.
struct Replace<F> {
    next: usize,
    wanted: usize,
    with: F,
}

impl<F: FnMut(&Expr) -> Option<Expr>> VisitorMut for Replace<F> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let number = self.next;
        self.next += 1;
        if number != self.wanted {
            return ControlFlow::Continue(());
        }
        if let Some(with) = (self.with)(expr) {
            *expr = with;
        }
        ControlFlow::Break(())
    }
}

fn replaced(query: &Query, number: usize, with: impl FnMut(&Expr) -> Option<Expr>) -> Query {
    let mut query = query.clone();
    let _ = walk_mut(&mut query, &mut Replace { next: 0, wanted: number, with });
    query
}

/// The expression of a number.
fn expression(query: &Query, number: usize) -> Option<Expr> {
    struct Find(usize, usize);
    impl Visitor for Find {
        type Break = Expr;
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Expr> {
            self.0 += 1;
            if self.0 > self.1 { ControlFlow::Break(expr.clone()) } else { ControlFlow::Continue(()) }
        }
    }
    match walk(query, &mut Find(0, number)) {
        ControlFlow::Break(expr) => Some(expr),
        ControlFlow::Continue(()) => None,
    }
}

fn literal(value: Value) -> Expr {
    Expr::Value(value.with_empty_span())
}

/// A NULL that asks for an expression of any type.
fn null_that_asks_for(condition: Expr) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: literal(Value::Null) }],
        else_result: None,
    }
}

fn is_null(expr: Expr) -> Expr {
    Expr::IsNull(Box::new(Expr::Nested(Box::new(expr))))
}

/// That the query in an expression has rows: it asks for all that the query computes.
fn has_rows(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Subquery(query) | Expr::Exists { subquery: query, .. } | Expr::InSubquery { subquery: query, .. } => {
            Some(Expr::Exists { subquery: query.clone(), negated: false })
        }
        _ => None,
    }
}

/// What planning says of a query that was changed.
#[derive(PartialEq)]
enum Outcome {
    Same,
    Other,
    Plans,
}

struct Search<'a> {
    error: &'a KalamError,
    query: &'a Query,
    parts: &'a [Part],
    execution: &'a Execution<'a>,
    extras: &'a Extras,
}

impl Search<'_> {
    async fn try_query(&self, query: Query) -> Outcome {
        match self.execution.query_plan(query, self.extras).await {
            Ok(_) => Outcome::Plans,
            Err(error) if error.code() == self.error.code() && error.message() == self.error.message() => Outcome::Same,
            Err(_) => Outcome::Other,
        }
    }

    /// What becomes of the query without an expression. Where a condition is wanted there is no NULL of any type.
    async fn without(&self, number: usize) -> Outcome {
        let outcome = self.try_query(replaced(self.query, number, |_| Some(literal(Value::Null)))).await;
        if outcome != Outcome::Other {
            return outcome;
        }
        match self.try_query(replaced(self.query, number, |_| Some(literal(Value::Boolean(true))))).await {
            Outcome::Plans => Outcome::Plans,
            _ => Outcome::Other,
        }
    }

    async fn place(&self) -> Option<Position> {
        let mut found = None;
        let mut inner = self.among(self.numbers(|part| part.parent.is_none())).await;
        while let Some(number) = inner {
            found = inner;
            inner = self.part_at_fault(number).await;
        }
        let found = found.map(|number| &self.parts[number]);
        if found.is_none_or(|part| part.has_query)
            && self.error.code() == ErrorCode::DatatypeMismatch
            && let Some(operand) = self.operand_at_fault().await
        {
            return Some(operand);
        }
        found?.place
    }

    fn numbers(&self, wanted: impl Fn(&Part) -> bool) -> Vec<usize> {
        (0..self.parts.len()).filter(|&number| wanted(&self.parts[number])).collect()
    }

    /// The one expression of some without which the query can be planned, or at least fails otherwise.
    async fn among(&self, mut slots: Vec<usize>) -> Option<usize> {
        slots.retain(|&number| !self.parts[number].is_named);
        if slots.len() > MAX_SLOTS {
            return None;
        }
        let (mut plans, mut others) = (Vec::new(), Vec::new());
        for number in slots {
            match self.without(number).await {
                Outcome::Plans => plans.push(number),
                Outcome::Other => others.push(number),
                Outcome::Same => {}
            }
        }
        match (plans.as_slice(), others.as_slice()) {
            ([one], _) | ([], [one]) => Some(*one),
            _ => None,
        }
    }

    /// The first column that fails in the first set operation whose left operand does not fail by itself. As in
    /// PostgreSQL, it is the right one of two that do not go together.
    async fn operand_at_fault(&self) -> Option<Position> {
        for number in 0.. {
            let (left, right) = set_operations::taken(self.query, number)?;
            if self.try_query(left).await == Outcome::Same {
                continue;
            }
            let columns = set_operations::columns(&right);
            if let [column] = columns.as_slice() {
                return *column;
            }
            for (place, column) in columns.iter().enumerate() {
                let alone = set_operations::with_only(self.query, number, place, &literal(Value::Null));
                if self.try_query(alone).await == Outcome::Same {
                    return *column;
                }
            }
            return None;
        }
        None
    }

    /// The part of an expression that fails by itself.
    async fn part_at_fault(&self, number: usize) -> Option<usize> {
        let depth = self.parts[number].depth;
        for inner in self.numbers(|part| part.parent == Some(number) && part.depth == depth) {
            let Some(part) = expression(self.query, inner) else { continue };
            // What is asked for is not always planned: the optimizer may know the answer.
            for alone in [null_that_asks_for(is_null(part.clone())), is_null(part.clone()), part] {
                if self.try_query(replaced(self.query, number, |_| Some(alone.clone()))).await == Outcome::Same {
                    // If it is not the only one, the whole is at fault.
                    return (self.without(inner).await != Outcome::Same).then_some(inner);
                }
            }
        }
        if !self.parts[number].has_query {
            return None;
        }
        let alone = |expr: &Expr| has_rows(expr).map(null_that_asks_for);
        match self.try_query(replaced(self.query, number, alone)).await {
            Outcome::Same => self.among(self.numbers(|part| part.parent == Some(number) && part.depth > depth)).await,
            _ => None,
        }
    }
}
