//! Cursors: a query whose rows are taken piece by piece.
//!
//! Invariant: a cursor reads one snapshot, that of its opening (and what its transaction had changed by then), however
//! long it is read, and holds at most one batch that was not taken yet. A kept plan is its own from its opening to its
//! last row, or until it is dropped. Anything but one query is run to its end when the cursor opens, because changes
//! must not depend on how far somebody reads.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::sql::sqlparser::ast;
use futures::StreamExt;

use super::arrays;
use super::catalog::Extras;
use super::errors::from_datafusion;
use super::executor::{ExecuteOptions, Execution, Rows, Session, SqlExecutor};
use super::params::Params;
use super::plan_cache::{Origin, PlanFor, ReadyPlan};
use super::result::RowFormat;
use super::statement_cache::ParsedStatement;
use crate::error::Result;
use crate::tables::Request;

/// A query whose rows are taken piece by piece; see the module's comment.
pub struct Cursor {
    schema: SchemaRef,
    source: Source,
    /// What is left of the last batch.
    rest: Option<RecordBatch>,
}

enum Source {
    Running {
        stream: SendableRecordBatchStream,
        format: Arc<RowFormat>,
        request: Arc<Request>,
        /// Held for as long as the stream is read, so that no other run takes the plan.
        _plan: ReadyPlan,
    },
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
        let parsed = executor.parsed(session, sql, params, options)?;
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
            return Ok(Self { schema, source: Source::Done(batches.into()), rest: None });
        };
        let mut execution = executor.execution(session, params, options).await?;
        execution.state = executor.state_at(parsed.clock, execution.started_us);
        execution.origin = Some(Origin { text: &parsed, index: 0 });
        let entered = execution.enter().await?;
        let opened = Self::running(&execution, only, query).await;
        execution.leave(entered, opened).await
    }

    async fn running(execution: &Execution<'_>, only: &ParsedStatement, query: &ast::Query) -> Result<Self> {
        let ready = if arrays::has_arrays(&only.arrays, execution.params)? {
            // How many elements there are is part of the statement now: it is nobody's but this run's.
            let mut statement = ast::Statement::Query(Box::new(query.clone()));
            let params = arrays::expand(&mut statement, execution.params)?;
            let own = execution.of(&params, None);
            let plan = Box::pin(own.plan(statement, &Extras::new())).await?;
            ReadyPlan::new(execution.physical(&plan).await?)
        } else {
            execution.ready_plan(PlanFor::Rows, || Ok((query.clone(), Extras::new()))).await?
        };
        let request = execution.request();
        let stream = execution.start(&ready, &request)?;
        let format = ready.format(only.names.as_ref());
        let schema = format.rows(Vec::new())?.schema;
        Ok(Self { schema, source: Source::Running { stream, format, request, _plan: ready }, rest: None })
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
            Source::Running { stream, format, request, .. } => loop {
                request.check()?;
                let Some(batch) = stream.next().await else {
                    // Gives the plan back, whenever the cursor is closed.
                    self.source = Source::Done(VecDeque::new());
                    return Ok(None);
                };
                let batch = batch.map_err(from_datafusion)?;
                if batch.num_rows() > 0 {
                    return Ok(format.rows(vec![batch])?.batches.pop());
                }
            },
        }
    }
}
