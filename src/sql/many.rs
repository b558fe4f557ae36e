//! One text with many sets of parameters.
//!
//! Invariant: what each run gives is something that it could have given as a call of its own among calls that overlap.
//! Runs of an INSERT of one row are put together into one commit. If anything is wrong with one of them before its rows
//! are with the store, nothing has happened, and each runs by itself, so errors are those of the single statement; what
//! fails afterwards is the commit, which would have failed all of them together.

use futures::future::join_all;

use datafusion::sql::sqlparser::ast;

use super::executor::{ExecuteOptions, Session, SqlExecutor, StatementResult, check_params};
use super::handlers::insert::insert_together;
use super::params::Params;
use super::parser::Statement;
use super::plan_cache::Origin;
use super::privileges;
use crate::error::Result;

impl SqlExecutor {
    /// Runs a text once for each set of parameters, as calls that overlap. Returns what each gave, in their order.
    pub async fn execute_many(
        &self,
        session: &Session,
        sql: &str,
        sets: &[&Params],
        options: &ExecuteOptions,
    ) -> Vec<Result<Vec<StatementResult>>> {
        // What is wrong with one of them is found out again, and told to whom it belongs.
        if sets.len() > 1
            && let Ok(Some(submitted)) = Box::pin(self.together(session, sql, sets, options)).await
        {
            let outcome = submitted.await;
            return sets.iter().map(|_| outcome.clone().map(|done| vec![done])).collect();
        }
        join_all(sets.iter().map(|params| self.execute(session, sql, params, options))).await
    }

    async fn together(
        &self,
        session: &Session,
        sql: &str,
        sets: &[&Params],
        options: &ExecuteOptions,
    ) -> Result<Option<impl Future<Output = Result<StatementResult>> + use<>>> {
        let parsed = self.statement_cache().parse(sql, options.caches)?;
        let [only] = parsed.statements.as_slice() else { return Ok(None) };
        let Statement::Sql(statement) = &only.statement else { return Ok(None) };
        let ast::Statement::Insert(insert) = statement.as_ref() else { return Ok(None) };
        // Statements of a transaction go one after the other.
        if !only.arrays.is_empty() || session.transaction().is_used() {
            return Ok(None);
        }
        sets.iter().try_for_each(|params| check_params(&parsed, params))?;
        let none = Params::default();
        let mut execution = self.execution(session, &none, options).await?;
        privileges::check(execution.role, &only.statement)?;
        execution.state = self.state_at(parsed.clock, execution.started_us);
        execution.origin = Some(Origin { text: &parsed, index: 0 });
        let submitted = insert_together(&execution, insert, sets).await?;
        Ok(submitted.map(|submitted| async move { Ok(StatementResult { rows_affected: 1, ..submitted.await? }) }))
    }
}
