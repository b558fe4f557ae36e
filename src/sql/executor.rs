//! Runs statements: parses a request, finds the handler of each statement, and gives handlers what they share.
//!
//! Invariant: a request is parsed, and its parameters are counted, before any of its statements runs; each statement
//! then commits by itself (autocommit), in order, and the first error ends the request. A statement that lost a race
//! against another writer (`SERIALIZATION_FAILURE`) is run again from the start: nothing of it was applied.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr as DfExpr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::sqlparser::ast::{self, ObjectType};
use futures::StreamExt;
use parking_lot::RwLock;

use super::arrays;
use super::catalog::{Extras, Names, plan_statement};
use super::datafusion_session;
use super::errors::from_datafusion;
use super::generated;
use super::handlers;
use super::handlers::prepare::PreparedStatements;
use super::memory::QueryMemory;
use super::params::Params;
use super::parser::Statement;
use super::plan_cache::{Origin, PlanCache, PlanFor, ReadyPlan};
use super::rewrite::visible_name;
use super::statement_cache::{CLOCK_WORDS, ParsedText, StatementCache, asks_for_time};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::{self, Instant};
use crate::schema::{DEFAULT_NAMESPACE, SchemaRegistry};
use crate::storage::Durability;
use crate::tables::{Gauges, Request, Seq, SystemTablesRegistry, TableStore};
use crate::types::{KalamDataType, coerce_array};

/// A statement that keeps losing races against other writers fails after so many attempts.
const ATTEMPTS: usize = 20;

/// Who asks: the user of USER tables and the namespace of bare names.
#[derive(Debug)]
pub struct Session {
    user: Arc<str>,
    namespace: RwLock<Arc<str>>,
    prepared: PreparedStatements,
}

impl Session {
    /// A session in the namespace `default`.
    pub fn new(user: impl Into<Arc<str>>) -> Self {
        let namespace = RwLock::new(Arc::from(DEFAULT_NAMESPACE));
        Self { user: user.into(), namespace, prepared: PreparedStatements::default() }
    }

    /// The user.
    pub fn user(&self) -> &Arc<str> {
        &self.user
    }

    /// The namespace of bare table names.
    pub fn namespace(&self) -> Arc<str> {
        Arc::clone(&self.namespace.read())
    }

    /// What PREPARE has prepared.
    pub(super) fn prepared(&self) -> &PreparedStatements {
        &self.prepared
    }

    pub(super) fn use_namespace(&self, namespace: &str) {
        *self.namespace.write() = Arc::from(namespace);
    }
}

/// How a request is run.
#[derive(Debug, Clone)]
pub struct ExecuteOptions {
    /// The durability asked for.
    pub durability: Durability,
    /// Set by the caller to give up.
    pub cancelled: Arc<AtomicBool>,
    /// When the request gives up by itself.
    pub deadline: Option<Instant>,
    /// Whether statements that pin a key may go past the planner: off only to compare both ways.
    pub short_path: bool,
    /// Whether parsed statements and plans are kept and used again: off only to compare both ways.
    pub caches: bool,
}

impl Default for ExecuteOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            cancelled: Arc::default(),
            deadline: None,
            short_path: true,
            caches: true,
        }
    }
}

/// Rows of a result.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Names and types; every type is one that [`KalamDataType`] knows.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

impl Rows {
    /// How many rows.
    pub fn len(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of one batch.
    pub fn one(batch: RecordBatch) -> Self {
        Self { schema: batch.schema(), batches: vec![batch] }
    }
}

/// What a statement did.
#[derive(Debug, Clone, Default)]
pub struct StatementResult {
    /// Rows inserted, updated or deleted.
    pub rows_affected: u64,
    /// The last `_seq` of its commit, if it changed rows.
    pub seq: Option<Seq>,
    /// The durability that its commit reached, if it changed anything.
    pub durability: Option<Durability>,
    /// Its rows, if it gives any.
    pub rows: Option<Rows>,
}

impl StatementResult {
    /// A result of rows.
    pub fn rows(rows: Rows) -> Self {
        Self { rows: Some(rows), ..Self::default() }
    }
}

/// Runs statements; see the module's comment.
#[derive(Debug)]
pub struct SqlExecutor {
    registry: Arc<SchemaRegistry>,
    store: Arc<TableStore>,
    system: Arc<SystemTablesRegistry>,
    memory: Arc<QueryMemory>,
    state: Arc<SessionState>,
    caches: Arc<Caches>,
}

/// Statements and plans that are kept, for all sessions.
#[derive(Debug, Default)]
struct Caches {
    statements: StatementCache,
    plans: PlanCache,
}

impl Gauges for Caches {
    fn gauges(&self) -> Vec<(&'static str, u64)> {
        self.statements.gauges().into_iter().chain(self.plans.gauges()).collect()
    }
}

impl SqlExecutor {
    /// An executor over tables. Queries together use at most `memory_limit` bytes.
    pub fn new(
        registry: Arc<SchemaRegistry>,
        store: Arc<TableStore>,
        system: Arc<SystemTablesRegistry>,
        memory_limit: usize,
    ) -> Result<Self> {
        let memory = Arc::new(QueryMemory::new(memory_limit));
        let state = Arc::new(datafusion_session::session_state(Arc::clone(&memory) as _, &store)?);
        let caches = Arc::new(Caches::default());
        system.add_gauges(Arc::clone(&memory) as _);
        system.add_gauges(Arc::clone(&caches) as _);
        Ok(Self { registry, store, system, memory, state, caches })
    }

    /// The registry.
    pub fn registry(&self) -> &Arc<SchemaRegistry> {
        &self.registry
    }

    /// The tables' rows.
    pub fn store(&self) -> &Arc<TableStore> {
        &self.store
    }

    /// The engine's own tables, the audit log among them.
    pub fn system(&self) -> &Arc<SystemTablesRegistry> {
        &self.system
    }

    /// The id of the node that this executor runs on.
    pub fn node_id(&self) -> &Arc<str> {
        self.system.node_id()
    }

    pub(super) fn statement_cache(&self) -> &StatementCache {
        &self.caches.statements
    }

    pub(super) fn plan_cache(&self) -> &PlanCache {
        &self.caches.plans
    }

    /// Bytes that running queries have reserved.
    pub fn query_memory(&self) -> usize {
        self.memory.reserved()
    }

    /// The most bytes that queries had reserved at one moment.
    pub fn query_memory_peak(&self) -> usize {
        self.memory.peak()
    }

    /// What a statement that is not SQL text runs in.
    pub(super) fn execution<'a>(
        &'a self,
        session: &'a Session,
        params: &'a Params,
        options: &'a ExecuteOptions,
    ) -> Execution<'a> {
        Execution {
            executor: self,
            session,
            params,
            options,
            state: Arc::clone(&self.state),
            started_us: platform::now_us(),
            origin: None,
        }
    }

    /// What a query of this text runs in.
    pub(super) fn execution_of<'a>(
        &'a self,
        session: &'a Session,
        params: &'a Params,
        options: &'a ExecuteOptions,
        sql: &str,
    ) -> Execution<'a> {
        let started_us = platform::now_us();
        let state = self.state_at(asks_for_time(sql), started_us);
        Execution { executor: self, session, params, options, state, started_us, origin: None }
    }

    /// The session state of a statement; one that asks for the time gets the moment that it began.
    fn state_at(&self, clock: bool, started_us: i64) -> Arc<SessionState> {
        if !clock {
            return Arc::clone(&self.state);
        }
        let mut state = self.state.as_ref().clone();
        state.mark_start_execution();
        // The same moment for now() in the text and NOW() in a default, to the microsecond that is stored.
        let now = chrono::DateTime::from_timestamp_micros(started_us);
        state.execution_props_mut().query_execution_start_time = now;
        Arc::new(state)
    }

    /// Runs every statement of a text and returns what each did.
    pub async fn execute(
        &self,
        session: &Session,
        sql: &str,
        params: &Params,
        options: &ExecuteOptions,
    ) -> Result<Vec<StatementResult>> {
        let parsed = self.statement_cache().parse(sql, options.caches)?;
        check_params(&parsed, params)?;
        let mut results = Vec::with_capacity(parsed.statements.len());
        for index in 0..parsed.statements.len() {
            results.push(self.run(session, Origin { text: &parsed, index }, params, options).await?);
        }
        Ok(results)
    }

    /// Parses a text and keeps it for its executions. Returns its placeholders, as they are written.
    pub fn prepare(&self, sql: &str) -> Result<Vec<String>> {
        Ok(self.statement_cache().parse(sql, true)?.placeholders.iter().cloned().collect())
    }

    /// Runs one parsed statement.
    pub(super) async fn run(
        &self,
        session: &Session,
        origin: Origin<'_>,
        params: &Params,
        options: &ExecuteOptions,
    ) -> Result<StatementResult> {
        let started_us = platform::now_us();
        let state = self.state_at(origin.text.clock, started_us);
        let parsed = origin.parsed();
        let execution = Execution { executor: self, session, params, options, state, started_us, origin: Some(origin) };
        if !parsed.arrays.is_empty()
            && arrays::has_arrays(&parsed.arrays, params)?
            && let Statement::Sql(statement) = &parsed.statement
        {
            let mut statement = statement.clone();
            let params = arrays::expand(&mut statement, params)?;
            // How many elements there are is part of the statement now: it is nobody's but this run's.
            let execution = Execution { params: &params, origin: None, ..execution };
            return execution.statement(&Statement::Sql(statement)).await;
        }
        execution.statement(&parsed.statement).await
    }
}

/// Checks that the parameters are those that the statements of a text name.
pub(super) fn check_params(parsed: &ParsedText, params: &Params) -> Result<()> {
    params.check_all_used(parsed.placeholders.iter().map(String::as_str))?;
    parsed.placeholders.iter().try_for_each(|placeholder| params.get(placeholder).map(|_| ()))
}

/// One statement being run.
pub(super) struct Execution<'a> {
    pub executor: &'a SqlExecutor,
    pub session: &'a Session,
    pub params: &'a Params,
    pub options: &'a ExecuteOptions,
    pub state: Arc<SessionState>,
    /// When the statement began: what NOW() gives, in a default too.
    pub started_us: i64,
    /// Where it was parsed from; `None` if it is not as it was parsed.
    pub origin: Option<Origin<'a>>,
}

impl Execution<'_> {
    async fn statement(&self, statement: &Statement) -> Result<StatementResult> {
        match statement {
            Statement::CreateNamespace { name, if_not_exists } => {
                handlers::namespace::create(self, name, *if_not_exists).await
            }
            Statement::DropNamespace { name, if_exists } => handlers::namespace::drop(self, name, *if_exists).await,
            Statement::UseNamespace(name) => handlers::namespace::use_namespace(self, name).await,
            Statement::ShowNamespaces => handlers::show::namespaces(self).await,
            Statement::ShowStats => handlers::show::stats(self).await,
            Statement::KillJob(id) => handlers::job::kill(self, id).await,
            Statement::ShowTables(namespace) => handlers::show::tables(self, namespace.as_ref()).await,
            Statement::Describe(name) => handlers::show::describe(self, name).await,
            Statement::DescribeHistory(name) => handlers::show::history(self, name).await,
            Statement::CreateTable(kind, create) => handlers::table::create(self, *kind, create.as_ref().clone()).await,
            Statement::Explain { analyze, verbose, statement } => {
                handlers::explain::explain(self, *analyze, *verbose, statement.as_ref().clone()).await
            }
            Statement::Prepare { name, types, statement } => {
                handlers::prepare::prepare(self, name, types, statement.as_ref().clone())
            }
            Statement::Execute { name, arguments } => Box::pin(handlers::prepare::execute(self, name, arguments)).await,
            Statement::Deallocate(name) => handlers::prepare::deallocate(self, name.as_ref()),
            Statement::With(with, statement) => match statement.as_ref() {
                ast::Statement::Update(update) => {
                    self.retrying(|| handlers::update::update(self, update, Some(with))).await
                }
                ast::Statement::Delete(delete) => {
                    self.retrying(|| handlers::delete::delete(self, delete, Some(with))).await
                }
                other => Err(unsupported_statement(other)),
            },
            Statement::Sql(statement) => match statement.as_ref() {
                // A query is run again if an ALTER came between its planning and its reading.
                ast::Statement::Query(query) => self.retrying(|| handlers::query::query(self, query)).await,
                ast::Statement::Insert(insert) => self.retrying(|| handlers::insert::insert(self, insert)).await,
                ast::Statement::Update(update) => self.retrying(|| handlers::update::update(self, update, None)).await,
                ast::Statement::Delete(delete) => self.retrying(|| handlers::delete::delete(self, delete, None)).await,
                ast::Statement::Truncate(truncate) => {
                    self.retrying(|| handlers::truncate::truncate(self, truncate)).await
                }
                ast::Statement::AlterTable(alter) => self.retrying(|| handlers::alter::alter(self, alter)).await,
                ast::Statement::CreateView(create) => self.retrying(|| handlers::view::create(self, create)).await,
                ast::Statement::Drop { object_type: ObjectType::View, if_exists, names, cascade, .. } => {
                    handlers::view::drop(self, names, *if_exists, *cascade).await
                }
                ast::Statement::Drop { object_type: ObjectType::Table, if_exists, names, .. } => {
                    handlers::table::drop(self, names, *if_exists).await
                }
                other => Err(unsupported_statement(other)),
            },
        }
    }

    async fn retrying<F>(&self, run: impl Fn() -> F) -> Result<StatementResult>
    where
        F: Future<Output = Result<StatementResult>>,
    {
        let mut attempt = 1;
        loop {
            match run().await {
                Err(error) if error.code() == ErrorCode::Conflict && attempt < ATTEMPTS => {
                    attempt += 1;
                    // The commit that was first becomes visible, or fails, before the next attempt reads.
                    self.executor.store.barrier().await;
                }
                outcome => return outcome,
            }
        }
    }

    /// What this statement's plans read: the newest snapshot, as its user.
    pub fn request(&self) -> Arc<Request> {
        Arc::new(Request {
            user: Arc::clone(self.session.user()),
            snapshot: self.executor.store.snapshot(),
            cancelled: Arc::clone(&self.options.cancelled),
            deadline: self.options.deadline,
        })
    }

    /// Plans a query or the SELECT behind another statement, with its parameters in place.
    pub async fn plan(&self, statement: ast::Statement, extras: &Extras) -> Result<LogicalPlan> {
        self.params.bind(self.logical(statement, extras).await?)
    }

    /// Plans a query or the SELECT behind another statement, with placeholders for its parameters.
    pub async fn logical(&self, statement: ast::Statement, extras: &Extras) -> Result<LogicalPlan> {
        let namespace = self.session.namespace();
        let names = Names { registry: &self.executor.registry, namespace: &namespace };
        let plan = plan_statement(&self.state, names, statement, extras).await?;
        generated::with_user(plan, self.session.user())
    }

    /// The physical plan of a logical one.
    pub async fn physical(&self, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        let physical = if self.state.execution_props().query_execution_start_time.is_none() && tells_time(plan) {
            // The statement's text does not ask for the time, but that of a view does.
            let mut state = self.state.as_ref().clone();
            state.mark_start_execution();
            state.create_physical_plan(plan).await
        } else {
            self.state.create_physical_plan(plan).await
        };
        Ok(datafusion_session::one_partition(physical.map_err(from_datafusion)?))
    }

    /// Runs a physical plan to its end.
    pub async fn collect(&self, plan: Arc<dyn ExecutionPlan>, request: Arc<Request>) -> Result<Vec<RecordBatch>> {
        self.collect_ready(&ReadyPlan::new(plan), request).await
    }

    /// Runs a plan with its parameters to its end.
    pub async fn collect_ready(&self, plan: &ReadyPlan, request: Arc<Request>) -> Result<Vec<RecordBatch>> {
        let config = self.state.config().clone().with_extension(Arc::clone(&request));
        let context = TaskContext::new(
            None,
            String::new(),
            config,
            Default::default(),
            Default::default(),
            Default::default(),
            Default::default(),
            Arc::clone(self.state.runtime_env()),
        );
        let mut stream = plan.execute(Arc::new(context)).map_err(from_datafusion)?;
        let mut batches = Vec::new();
        let mut worked = Instant::now();
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(from_datafusion)?;
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
            if worked.elapsed().as_millis() > 40 {
                platform::yield_to_host().await;
                worked = Instant::now();
            }
            request.check()?;
        }
        Ok(batches)
    }

    /// Runs the SELECT that is a part of this statement by a plan that is kept, or else kept from now on; columns keep
    /// the types that DataFusion gives them.
    pub async fn select_part(
        &self,
        part: PlanFor,
        request: Arc<Request>,
        build: impl FnOnce() -> Result<(ast::Query, Extras)>,
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let plan = self.ready_plan(part, build).await?;
        Ok((plan.plan.schema(), self.collect_ready(&plan, request).await?))
    }

    /// Plans and runs the SELECT behind a statement; columns keep the types that DataFusion gives them.
    pub async fn select(
        &self,
        query: ast::Query,
        extras: &Extras,
        request: Arc<Request>,
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let plan = self.plan(ast::Statement::Query(Box::new(query)), extras).await?;
        let physical = self.physical(&plan).await?;
        let schema = physical.schema();
        Ok((schema, self.collect(physical, request).await?))
    }
}

/// Whether a plan calls a function of the clock.
fn tells_time(plan: &LogicalPlan) -> bool {
    let calls = |expr: &DfExpr| match expr {
        DfExpr::ScalarFunction(call) => CLOCK_WORDS.iter().any(|word| call.name().starts_with(word)),
        _ => false,
    };
    let mut found = false;
    // The closures never fail.
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found = found || expr.exists(|e| Ok(calls(e))).unwrap_or(false);
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// What the rows of a query look like to its caller.
#[derive(Debug)]
pub(super) struct RowFormat {
    schema: SchemaRef,
    types: Vec<KalamDataType>,
}

impl RowFormat {
    /// Gives a result's columns the names of its SELECT list, where known, and types that this engine has.
    pub fn new(schema: &SchemaRef, names: Option<Vec<String>>) -> Self {
        let names = names.filter(|n| n.len() == schema.fields().len());
        let mut types = Vec::with_capacity(schema.fields().len());
        let mut fields = Vec::with_capacity(schema.fields().len());
        for (i, field) in schema.fields().iter().enumerate() {
            // What has no type of ours (intervals, say) is shown as text.
            let data_type = match field.data_type() {
                // What counts rows (row_number, rank, approx_distinct) is unsigned in DataFusion and BIGINT in SQL.
                DataType::UInt64 => KalamDataType::BigInt,
                _ => KalamDataType::from_arrow_field(field).unwrap_or(KalamDataType::Text),
            };
            let name = names.as_ref().map_or_else(|| visible_name(field.name()), |n| &n[i]);
            let mut ours = data_type.arrow_field(name, field.is_nullable(), 0);
            ours.set_metadata(
                ours.metadata()
                    .iter()
                    .filter(|(k, _)| *k == crate::types::TYPE_KEY)
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            );
            fields.push(ours);
            types.push(data_type);
        }
        Self { schema: Arc::new(Schema::new(fields)), types }
    }

    /// Rows of that format.
    pub fn rows(&self, batches: Vec<RecordBatch>) -> Result<Rows> {
        let convert = |batch| convert(&self.schema, &self.types, &batch);
        let batches = batches.into_iter().map(convert).collect::<Result<_>>()?;
        Ok(Rows { schema: Arc::clone(&self.schema), batches })
    }
}

/// The rows of a query; see [`RowFormat::new`].
pub(super) fn finish_rows(schema: &SchemaRef, batches: Vec<RecordBatch>, names: Option<Vec<String>>) -> Result<Rows> {
    RowFormat::new(schema, names).rows(batches)
}

fn convert(schema: &SchemaRef, types: &[KalamDataType], batch: &RecordBatch) -> Result<RecordBatch> {
    let column = |(i, array): (usize, &ArrayRef)| -> Result<ArrayRef> {
        let field: &Field = schema.field(i);
        if array.data_type() == field.data_type() {
            return Ok(Arc::clone(array));
        }
        match coerce_array(array, &types[i], field.name()) {
            Ok(array) => Ok(array),
            Err(_) if types[i] == KalamDataType::Text => {
                arrow::compute::cast(array, field.data_type()).map_err(super::errors::from_arrow)
            }
            Err(error) => Err(error),
        }
    };
    let columns = batch.columns().iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(KalamError::internal)
}

fn unsupported_statement(statement: &ast::Statement) -> KalamError {
    let message = format!("the statement '{}' is not supported", first_words(&statement.to_string()));
    KalamError::new(ErrorCode::FeatureNotSupported, message)
}

fn first_words(text: &str) -> String {
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
