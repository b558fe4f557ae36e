//! PREPARE, EXECUTE and DEALLOCATE.
//!
//! A prepared statement is parsed once and belongs to its session. Invariant: EXECUTE runs the statement exactly as a
//! request of its text with these parameters would run; an argument becomes a parameter, a value and never text. Where
//! names mean tables is decided when it is executed, so a table may be changed in between.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{self, Expr, Ident};
use parking_lot::RwLock;

use super::super::catalog::fold;
use super::super::executor::{Execution, StatementResult};
use super::super::params::Params;
use super::super::parser::{Statement, position_of};
use super::super::plan_cache::Origin;
use super::super::statement_cache::ParsedText;
use super::insert::{computed, literal};
use crate::error::{ErrorCode, KalamError, Result};
use crate::types::{KalamDataType, Value};

/// A statement that PREPARE has parsed.
#[derive(Debug)]
pub struct Prepared {
    text: Arc<ParsedText>,
    /// The types of `$1`, `$2`, … that PREPARE has named.
    types: Vec<KalamDataType>,
    /// How many parameters it has.
    parameters: usize,
}

/// The prepared statements of a session, by name.
#[derive(Debug, Default)]
pub struct PreparedStatements(RwLock<HashMap<String, Arc<Prepared>>>);

impl PreparedStatements {
    /// The one of a name.
    pub fn find(&self, name: &Ident) -> Option<Arc<Prepared>> {
        self.0.read().get(&fold(name)).cloned()
    }
}

impl Prepared {
    /// What runs when it is executed.
    pub fn statement(&self) -> &Statement {
        &self.text.statements[0].statement
    }
}

/// Runs a PREPARE.
pub fn prepare(
    execution: &Execution<'_>,
    name: &Ident,
    types: &[ast::DataType],
    statement: Statement,
) -> Result<StatementResult> {
    let preparable = match &statement {
        Statement::With(..) => true,
        Statement::Sql(statement) => matches!(
            statement.as_ref(),
            ast::Statement::Query(_)
                | ast::Statement::Insert(_)
                | ast::Statement::Update(_)
                | ast::Statement::Delete(_)
        ),
        _ => false,
    };
    if !preparable {
        let message = "PREPARE takes SELECT, VALUES, INSERT, UPDATE or DELETE, found another statement";
        return Err(KalamError::new(ErrorCode::SyntaxError, message).at(position_of(name)));
    }
    let types = types.iter().map(KalamDataType::from_sql).collect::<Result<Vec<_>>>()?;
    let clock = execution.origin.is_some_and(|origin| origin.text.clock);
    let text = execution.executor.statement_cache().own(statement, clock)?;
    let mut parameters = types.len();
    for placeholder in &text.placeholders {
        let number: usize = placeholder.trim_start_matches('$').parse().map_err(|_| {
            let message = format!("'{placeholder}' is a parameter by name, PREPARE takes $1, $2, …");
            KalamError::new(ErrorCode::SyntaxError, message).at(position_of(name))
        })?;
        parameters = parameters.max(number);
    }
    let mut statements = execution.session.prepared().0.write();
    let folded = fold(name);
    if statements.contains_key(&folded) {
        let message = format!("prepared statement '{folded}' exists already");
        return Err(KalamError::new(ErrorCode::PreparedExists, message)
            .at(position_of(name))
            .with_hint("DEALLOCATE takes it away."));
    }
    statements.insert(folded, Arc::new(Prepared { text, types, parameters }));
    Ok(StatementResult::default())
}

/// Runs an EXECUTE.
pub async fn execute(execution: &Execution<'_>, name: &Ident, arguments: &[Expr]) -> Result<StatementResult> {
    let found = execution.session.prepared().find(name);
    let Some(prepared) = found else { return Err(not_found(execution, name)) };
    if arguments.len() != prepared.parameters {
        let message = format!(
            "{} given to the prepared statement '{}', expected {}",
            match arguments.len() {
                1 => "1 argument is".to_owned(),
                n => format!("{n} arguments are"),
            },
            fold(name),
            prepared.parameters
        );
        return Err(KalamError::new(ErrorCode::ParameterCount, message).at(position_of(name)));
    }
    let mut values = Vec::with_capacity(arguments.len());
    let expressions: Vec<&Expr> = arguments
        .iter()
        .map(|argument| Ok(literal(argument, execution.params)?.is_none().then_some(argument)))
        .filter_map(Result::transpose)
        .collect::<Result<_>>()?;
    // Their plan is not kept: it belongs to this EXECUTE and not to what it executes.
    let bare = execution.of(execution.params, None);
    let mut computed = computed(&bare, &expressions, execution.request()).await?.into_iter();
    for (place, argument) in arguments.iter().enumerate() {
        let value = match literal(argument, execution.params)? {
            Some(value) => value,
            None => computed.next().ok_or_else(|| KalamError::internal("an argument was not computed"))?,
        };
        values.push(match prepared.types.get(place) {
            Some(data_type) => typed(value, data_type, place)?,
            None => value,
        });
    }
    let origin = Origin { text: &prepared.text, index: 0 };
    let params = Params::Positional(values);
    let mut inner = execution.of(&params, Some(origin));
    inner.state = execution.executor.state_at(prepared.text.clock, execution.started_us);
    // Its places are those of the text that prepared it.
    inner.statement(prepared.statement()).await.map_err(KalamError::without_position)
}

fn typed(value: Value, data_type: &KalamDataType, place: usize) -> Result<Value> {
    let shown = value.to_string();
    value.coerce(data_type).map_err(|error| {
        let expected = data_type.sql_name();
        let message = format!("${} is {shown}, expected a value of type {expected}: {}", place + 1, error.message());
        KalamError::new(ErrorCode::ParameterType, message)
    })
}

/// Runs a DEALLOCATE; without a name, of all.
pub fn deallocate(execution: &Execution<'_>, name: Option<&Ident>) -> Result<StatementResult> {
    let mut statements = execution.session.prepared().0.write();
    match name {
        None => statements.clear(),
        Some(name) => {
            if statements.remove(&fold(name)).is_none() {
                drop(statements);
                return Err(not_found(execution, name));
            }
        }
    }
    Ok(StatementResult::default())
}

fn not_found(execution: &Execution<'_>, name: &Ident) -> KalamError {
    let mut names: Vec<String> = execution.session.prepared().0.read().keys().cloned().collect();
    names.sort_unstable();
    let message = format!("prepared statement '{}' does not exist", fold(name));
    let error = KalamError::new(ErrorCode::PreparedNotFound, message).at(position_of(name));
    if names.is_empty() { error } else { error.with_hint(format!("There are: {}.", names.join(", "))) }
}
