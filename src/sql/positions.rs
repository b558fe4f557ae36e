//! Where in a statement that lies which an error without a position speaks of, where it is no expression (`fault.rs` finds
//! those) or only found when the statement runs.
//!
//! DataFusion knows the places of names, and of little else. Invariant: a position is only given where the statement has one
//! single place that the error can mean: a wrong one is worse than none.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, Join, JoinConstraint, ObjectName, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, Spanned, TableAlias, TableFactor, Value, ValueWithSpan, Visitor,
    WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::catalog::fold;
use super::parser::{Statement, position_at};
use super::using;
use super::walk::walk;
use crate::error::{ErrorCode, KalamError};

/// The error with the position of what it speaks of, if it has none and there is one such place.
pub fn located(error: KalamError, statement: &Statement) -> KalamError {
    if error.position().is_some() {
        return error;
    }
    let Some(subject) = Subject::of(&error) else { return error };
    // Of two tables with one name, the second is too many.
    let (count, wanted) = if matches!(subject, Subject::Relation(_)) { (2, 1) } else { (1, 0) };
    let mut find = Find { subject, found: Vec::new() };
    find.visit(statement);
    let found = (find.found.len() == count).then(|| position_at(find.found[wanted])).flatten();
    error.at(found)
}

/// What an error speaks of.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    /// `table.*`.
    Wildcard(String),
    /// A table in FROM, by the name that it has there.
    Relation(String),
    /// A call in FROM.
    TableFunction(String),
    /// A join that has no condition.
    BareJoin,
    /// The names that are given to so many columns.
    ColumnNames(usize),
    /// A column in USING, EXCLUDE or EXCEPT.
    Column(String),
    /// A row of VALUES, from 1.
    ValuesRow(usize),
    /// Text that is cast.
    Text(String),
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
            ErrorCode::FunctionNotFound => between("table function '", "' does not exist").map(Self::TableFunction),
            ErrorCode::TableNotFound => between("'", ".*': there is no table").map(Self::Wildcard),
            ErrorCode::DuplicateColumn => between("the name '", "' is used for two tables").map(Self::Relation),
            ErrorCode::ColumnNotFound => {
                let name = between("column '", "' does not exist")?;
                Some(Self::Column(name.rsplit('.').next().unwrap_or(&name).to_owned()))
            }
            ErrorCode::InvalidStatement if message.starts_with("a JOIN without a condition") => Some(Self::BareJoin),
            ErrorCode::InvalidStatement => match between("", " column names are given for a table with ") {
                Some(count) => count.parse().ok().map(Self::ColumnNames),
                None => between("row ", " of VALUES has ")?.parse().ok().map(Self::ValuesRow),
            },
            // Of a value in a column there is a word before it.
            ErrorCode::InvalidText | ErrorCode::InvalidDatetime => between("'", "' is not a valid ").map(Self::Text),
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
    fn visit(&mut self, statement: &Statement) {
        let _ = match statement {
            Statement::Sql(statement) => walk(statement.as_ref(), self),
            Statement::With(with, statement) => {
                let _ = walk(with, self);
                walk(statement.as_ref(), self)
            }
            Statement::CreateTable(_, create) => walk(&create.query, self),
            Statement::Explain { statement, .. } => {
                self.visit(statement);
                return;
            }
            _ => return,
        };
    }

    /// The names that a subquery or a table is given for its columns.
    fn names(&mut self, alias: &TableAlias) {
        if self.subject == Subject::ColumnNames(alias.columns.len()) {
            self.found.push(alias.name.span.start);
        }
    }

    fn columns<'a>(&mut self, names: impl IntoIterator<Item = &'a Ident>) {
        if let Subject::Column(wanted) = &self.subject {
            let named = names.into_iter().filter(|name| fold(name) == *wanted);
            self.found.extend(named.map(|name| name.span.start));
        }
    }

    fn joined(&mut self, join: &Join) {
        match using::constraint(&join.join_operator) {
            Some(JoinConstraint::None) if self.subject == Subject::BareJoin => {
                let name = match &join.relation {
                    TableFactor::Table { name, .. } => first(name),
                    TableFactor::Derived { alias: Some(alias), .. } => Some(&alias.name),
                    _ => None,
                };
                self.found.push(name.map_or(Location::empty(), |name| name.span.start));
            }
            Some(JoinConstraint::Using(columns)) => self.columns(columns.iter().filter_map(last)),
            _ => {}
        }
    }

    fn left_out(&mut self, options: &WildcardAdditionalOptions) {
        match &options.opt_exclude {
            Some(ExcludeSelectItem::Single(name)) => self.columns(last(name)),
            Some(ExcludeSelectItem::Multiple(names)) => self.columns(names.iter().filter_map(last)),
            None => {}
        }
        if let Some(except) = &options.opt_except {
            self.columns(std::iter::once(&except.first_element).chain(&except.additional_elements));
        }
    }
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
        if let Subject::Text(wanted) = &self.subject {
            let text = match expr {
                Expr::Cast { expr, .. } => match expr.as_ref() {
                    Expr::Value(value) => Some(value),
                    _ => None,
                },
                Expr::TypedString(typed) => Some(&typed.value),
                _ => None,
            };
            let is_wanted =
                |value: &&ValueWithSpan| matches!(&value.value, Value::SingleQuotedString(t) if t == wanted);
            self.found.extend(text.filter(is_wanted).map(|value| value.span.start));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.names(&cte.alias);
        }
        if let (Subject::ValuesRow(row), SetExpr::Values(values)) = (&self.subject, query.body.as_ref()) {
            let first = values.rows.get(row - 1).and_then(|row| row.content.first());
            self.found.push(first.map_or(Location::empty(), |expr| expr.span().start));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        for item in &select.projection {
            match item {
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
                    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
                    if self.subject == Subject::Wildcard(parts.join(".")) {
                        self.found.extend(first(name).map(|name| name.span.start));
                    }
                    self.left_out(options);
                }
                SelectItem::Wildcard(options) => self.left_out(options),
                _ => {}
            }
        }
        select.from.iter().flat_map(|from| &from.joins).for_each(|join| self.joined(join));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } = factor
        {
            self.names(alias);
        }
        match (&self.subject, factor) {
            (Subject::Relation(wanted), factor) => {
                let name = match factor {
                    TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
                        Some(&alias.name)
                    }
                    TableFactor::Table { name, alias: None, .. } => last(name),
                    _ => None,
                };
                self.found.extend(name.filter(|name| fold(name) == *wanted).map(|name| name.span.start));
            }
            (
                Subject::TableFunction(wanted),
                TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. },
            ) if last(name).is_some_and(|name| fold(name) == *wanted) => {
                self.found.extend(first(name).map(|name| name.span.start));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
