//! Cursors: a query whose rows are taken piece by piece.
//!
//! Invariant: a cursor reads one snapshot, that of its opening (and what its transaction had changed by then), however
//! long it is read, and holds at most one batch that was not taken yet. Anything but one query is run to its end when the cursor opens, because changes must not
//! depend on how far somebody reads.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execute_stream;
use datafusion::sql::sqlparser::ast;
use futures::StreamExt;

use super::arrays;
use super::catalog::Extras;
use super::errors::from_datafusion;
use super::executor::{ExecuteOptions, Execution, Rows, Session, SqlExecutor, check_params, finish_rows};
use super::params::Params;
use super::statement_cache::ParsedStatement;
use crate::error::Result;
use crate::tables::Request;

/// A query whose rows are taken piece by piece; see the module's comment.
pub struct Cursor {
    schema: SchemaRef,
    names: Option<Vec<String>>,
    source: Source,
    /// What is left of the last batch.
    rest: Option<RecordBatch>,
}

enum Source {
    Running { stream: SendableRecordBatchStream, plan_schema: SchemaRef, request: Arc<Request> },
    Done(VecDeque<RecordBatch>),
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Cursor {
    /// Starts a statement. Of several statements the rows of the last are given.
    pub async fn open(
        executor: &SqlExecutor,
        session: &Session,
        sql: &str,
        params: &Params,
        options: &ExecuteOptions,
    ) -> Result<Self> {
        let parsed = executor
            .statement_cache()
            .parse(sql, options.caches)
            .and_then(|parsed| check_params(&parsed, params).map(|()| parsed))
            .inspect_err(|error| session.transaction().fail(error))?;
        let only = match parsed.statements.as_slice() {
            [only] => only.query().map(|query| (only, query)),
            _ => None,
        };
        let Some((only, query)) = only else {
            let results = executor.execute(session, sql, params, options).await?;
            let rows = results.into_iter().next_back().and_then(|r| r.rows);
            let (schema, batches) = rows.map_or_else(
                || (Arc::new(arrow::datatypes::Schema::empty()), Vec::new()),
                |Rows { schema, batches }| (schema, batches),
            );
            return Ok(Self { schema, names: None, source: Source::Done(batches.into()), rest: None });
        };
        let mut execution = executor.execution_of(session, params, options, sql).await?;
        let entered = execution.enter().await?;
        let opened = Self::running(&execution, only, query).await;
        execution.leave(entered, opened).await
    }

    async fn running(execution: &Execution<'_>, only: &ParsedStatement, query: &ast::Query) -> Result<Self> {
        let mut statement = ast::Statement::Query(Box::new(query.clone()));
        let expanded;
        let params = if arrays::has_arrays(&only.arrays, execution.params)? {
            expanded = arrays::expand(&mut statement, execution.params)?;
            &expanded
        } else {
            execution.params
        };
        let execution = execution.of(params, None);
        let names = only.names.clone();
        let plan = execution.plan(statement, &Extras::new()).await?;
        let physical = execution.physical(&plan).await?;
        let request = execution.request();
        let config = execution.state.config().clone().with_extension(Arc::clone(&request));
        let context = TaskContext::new(
            None,
            String::new(),
            config,
            Default::default(),
            Default::default(),
            Default::default(),
            Default::default(),
            Arc::clone(execution.state.runtime_env()),
        );
        let plan_schema = physical.schema();
        let stream = execute_stream(physical, Arc::new(context)).map_err(from_datafusion)?;
        let schema = finish_rows(&plan_schema, Vec::new(), names.clone())?.schema;
        Ok(Self { schema, names, source: Source::Running { stream, plan_schema, request }, rest: None })
    }

    /// Names and types of the columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next rows, at most so many and at least one; `None` at the end.
    pub async fn next(&mut self, max_rows: usize) -> Result<Option<RecordBatch>> {
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match self.pull().await? {
                Some(batch) => batch,
                None => return Ok(None),
            },
        };
        let max_rows = max_rows.max(1);
        if batch.num_rows() <= max_rows {
            return Ok(Some(batch));
        }
        self.rest = Some(batch.slice(max_rows, batch.num_rows() - max_rows));
        Ok(Some(batch.slice(0, max_rows)))
    }

    async fn pull(&mut self) -> Result<Option<RecordBatch>> {
        match &mut self.source {
            Source::Done(batches) => Ok(batches.pop_front()),
            Source::Running { stream, plan_schema, request } => loop {
                request.check()?;
                let Some(batch) = stream.next().await else { return Ok(None) };
                let batch = batch.map_err(from_datafusion)?;
                if batch.num_rows() > 0 {
                    return Ok(finish_rows(plan_schema, vec![batch], self.names.clone())?.batches.pop());
                }
            },
        }
    }
}
