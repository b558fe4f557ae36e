//! Where in a statement that lies which an error without a position speaks of.
//!
//! DataFusion knows the places of names, and of little else. Invariant: a position is only given where the statement has one
//! single place that the error can mean: a wrong one is worse than none.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, GroupByExpr, Ident, ObjectName, OrderByKind, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, Spanned, TableFactor, Value, Visit, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::catalog::fold;
use super::functions::aggregate_functions;
use super::own_level;
use super::parser::{Statement, position_at};
use crate::error::{ErrorCode, KalamError};
use crate::types::KalamDataType;

/// The error with the position of what it speaks of, if it has none and there is one such place.
pub fn located(error: KalamError, statement: &Statement) -> KalamError {
    if error.position().is_some() {
        return error;
    }
    let (Statement::Sql(statement) | Statement::With(_, statement)) = statement else { return error };
    let Some(subject) = Subject::of(&error) else { return error };
    // Of two tables with one name, the second is too many.
    let (count, wanted) = if matches!(subject, Subject::Relation(_)) { (2, 1) } else { (1, 0) };
    let mut find = Find { subject, found: Vec::new() };
    let _ = statement.visit(&mut find);
    let found = (find.found.len() == count).then(|| position_at(find.found[wanted])).flatten();
    error.at(found)
}

/// What an error speaks of.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    /// A call of a function.
    Function(String),
    /// A cast to a type.
    Cast(String),
    /// A number in ORDER BY.
    OrderBy(String),
    /// A number in GROUP BY.
    GroupBy(String),
    /// `table.*`.
    Wildcard(String),
    /// A table in FROM, by the name that it has there.
    Relation(String),
    /// The condition of WHERE.
    Where,
    /// A window function where there may be none.
    Window,
    /// An aggregate function in WHERE.
    Aggregate,
}

impl Subject {
    fn of(error: &KalamError) -> Option<Self> {
        let message = error.message();
        // The part of the message between two others.
        let between = |before: &str, after: &str| {
            let rest = message.strip_prefix(before)?;
            rest.split_once(after).map(|(part, _)| part.to_owned())
        };
        match error.code() {
            ErrorCode::FunctionNotFound => between("function ", "(").map(Self::Function),
            ErrorCode::TypeNotFound => between("the type '", "' does not exist").map(Self::Cast),
            ErrorCode::DatatypeMismatch => match message.strip_prefix("cannot cast ") {
                Some(types) => types.rsplit_once(" to ").map(|(_, to)| Self::Cast(to.to_owned())),
                None => {
                    let condition = message.starts_with("the condition ") && !message.contains(" of a JOIN ");
                    condition.then_some(Self::Where)
                }
            },
            ErrorCode::InvalidStatement => match message {
                "window functions are not allowed here" => Some(Self::Window),
                "aggregate functions are not allowed in WHERE" => Some(Self::Aggregate),
                _ => None,
            },
            ErrorCode::InvalidColumnReference => between("ORDER BY ", ": there is no such")
                .map(Self::OrderBy)
                .or_else(|| between("GROUP BY ", ": there is no such").map(Self::GroupBy)),
            ErrorCode::TableNotFound => between("'", ".*': there is no table").map(Self::Wildcard),
            ErrorCode::DuplicateColumn => between("the name '", "' is used for two tables").map(Self::Relation),
            _ => None,
        }
    }
}

/// Collects the places.
struct Find {
    subject: Subject,
    found: Vec<Location>,
}

impl Find {
    /// A number that stands alone.
    fn number(&mut self, expr: &Expr, wanted: &str) {
        if let Expr::Value(value) = expr
            && let Value::Number(number, _) = &value.value
            && number == wanted
        {
            self.found.push(value.span.start);
        }
    }
}

/// The places of such calls in a part of a query.
fn calls(part: &impl Visit, wanted: impl Fn(&Function) -> bool, found: &mut Vec<Location>) {
    let _ = own_level::visit_expressions(part, |expr| {
        if let Expr::Function(call) = expr
            && wanted(call)
        {
            found.extend(first(&call.name).map(|name| name.span.start));
        }
        ControlFlow::<()>::Continue(())
    });
}

fn last(name: &ObjectName) -> Option<&Ident> {
    name.0.last()?.as_ident()
}

fn first(name: &ObjectName) -> Option<&Ident> {
    name.0.first()?.as_ident()
}

impl Visitor for Find {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match (&self.subject, expr) {
            (Subject::Function(wanted), Expr::Function(call)) => {
                let named = last(&call.name).is_some_and(|name| fold(name) == *wanted);
                self.found.extend(first(&call.name).filter(|_| named).map(|name| name.span.start));
            }
            (Subject::Cast(wanted), Expr::Cast { expr, data_type, .. }) => {
                let named = match KalamDataType::from_sql(data_type) {
                    Ok(known) => known.sql_name() == wanted.as_str(),
                    Err(_) => data_type.to_string().eq_ignore_ascii_case(wanted),
                };
                self.found.extend(named.then(|| expr.span().start));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Subject::OrderBy(wanted) = &self.subject
            && let Some(order_by) = &query.order_by
            && let OrderByKind::Expressions(keys) = &order_by.kind
        {
            let wanted = wanted.clone();
            keys.iter().for_each(|key| self.number(&key.expr, &wanted));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        match &self.subject {
            Subject::GroupBy(wanted) => {
                if let GroupByExpr::Expressions(keys, _) = &select.group_by {
                    let wanted = wanted.clone();
                    keys.iter().for_each(|key| self.number(key, &wanted));
                }
            }
            Subject::Wildcard(wanted) => {
                for item in &select.projection {
                    if let SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) = item
                        && name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect::<Vec<_>>().join(".") == *wanted
                    {
                        self.found.extend(first(name).map(|name| name.span.start));
                    }
                }
            }
            Subject::Window => {
                let is_window = |call: &Function| call.over.is_some();
                calls(&select.selection, is_window, &mut self.found);
                calls(&select.group_by, is_window, &mut self.found);
                calls(&select.having, is_window, &mut self.found);
            }
            Subject::Aggregate => {
                let aggregates = aggregate_functions();
                let is_one = |name: &Ident| aggregates.iter().any(|function| function.name() == fold(name));
                let wanted = |call: &Function| call.over.is_none() && last(&call.name).is_some_and(is_one);
                calls(&select.selection, wanted, &mut self.found);
            }
            // HAVING has a condition, too: then it may be either.
            Subject::Where => {
                let conditions = select.selection.iter().chain(&select.having);
                self.found.extend(conditions.map(|expr| expr.span().start));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let Subject::Relation(wanted) = &self.subject {
            let name = match factor {
                TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
                    Some(&alias.name)
                }
                TableFactor::Table { name, alias: None, .. } => last(name),
                _ => None,
            };
            self.found.extend(name.filter(|name| fold(name) == *wanted).map(|name| name.span.start));
        }
        ControlFlow::Continue(())
    }
}
