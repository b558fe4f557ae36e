//! Runs statements: parses a request, finds the handler of each statement, and gives handlers what they share.
//!
//! Invariant: a request is parsed, and its parameters are counted, before any of its statements runs; each statement
//! then commits by itself (autocommit) or belongs to the session's open transaction (`transaction.rs`), in order, and
//! the first error ends the request. A statement that commits by itself and lost a race against another writer
//! (`SERIALIZATION_FAILURE`) is run again from the start: nothing of it was applied.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr as DfExpr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::sqlparser::ast::{self, ObjectType};
use futures::StreamExt;
use parking_lot::RwLock;
use web_time::Duration;

use super::arrays;
use super::catalog::{Extras, Names, plan_statement};
use super::datafusion_session;
use super::errors::from_datafusion;
use super::expressions::any_expression;
use super::handlers;
use super::handlers::prepare::PreparedStatements;
use super::memory::QueryMemory;
use super::params::Params;
use super::parser::Statement;
use super::plan_cache::{Origin, PlanCache, PlanFor, ReadyPlan};
use super::privileges;
use super::rewrite::visible_name;
use super::statement_cache::{CLOCK_WORDS, ParsedText, StatementCache, asks_for_time};
use super::transaction::{TransactionSlot, Transactions};
use super::who;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::{self, Instant};
use crate::schema::{DEFAULT_NAMESPACE, Role, SchemaRegistry, check_user_name};
use crate::storage::Durability;
use crate::tables::{Gauges, Request, Seq, SystemTablesRegistry, TableStore, Transaction};
use crate::types::{KalamDataType, coerce_array};

/// A statement that keeps losing races against other writers fails after so many attempts.
const ATTEMPTS: usize = 20;

/// Who asks: the user of USER tables, what it may do, and the namespace of bare names.
#[derive(Debug)]
pub struct Session {
    user: Arc<str>,
    role: SessionRole,
    namespace: RwLock<Arc<str>>,
    prepared: Arc<PreparedStatements>,
    transaction: TransactionSlot,
}

/// Where a session's role comes from.
#[derive(Debug, Clone, Copy)]
enum SessionRole {
    /// Whoever made the session said it.
    Given(Role),
    /// It is what `system.users` says of the user now, and at most this one.
    OfUser(Role),
}

impl Session {
    /// A session in the namespace `default` that may do everything.
    pub fn new(user: impl Into<Arc<str>>) -> Self {
        Self::with_role(user, Role::System)
    }

    /// A session in the namespace `default` with a role.
    pub fn with_role(user: impl Into<Arc<str>>, role: Role) -> Self {
        Self::with(user.into(), SessionRole::Given(role))
    }

    /// A session in the namespace `default` with the role that the user has in `system.users`, `user` if it is not
    /// there, and no higher one than `most`.
    pub fn of_user(user: impl Into<Arc<str>>, most: Role) -> Self {
        Self::with(user.into(), SessionRole::OfUser(most))
    }

    fn with(user: Arc<str>, role: SessionRole) -> Self {
        let namespace = RwLock::new(Arc::from(DEFAULT_NAMESPACE));
        Self { user, role, namespace, prepared: Arc::default(), transaction: TransactionSlot::default() }
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

    /// A session like this one with a transaction of its own.
    pub(super) fn fork(&self, transaction: TransactionSlot) -> Self {
        let (user, namespace) = (Arc::clone(&self.user), RwLock::new(self.namespace()));
        Self { user, role: self.role, namespace, prepared: Arc::clone(&self.prepared), transaction }
    }

    pub(super) fn transaction(&self) -> &TransactionSlot {
        &self.transaction
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
    transactions: Transactions,
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
    /// An executor over tables. Queries together use at most `memory_limit` bytes; a transaction that is idle for
    /// `transaction_timeout` is rolled back.
    pub fn new(
        registry: Arc<SchemaRegistry>,
        store: Arc<TableStore>,
        system: Arc<SystemTablesRegistry>,
        memory_limit: usize,
        transaction_timeout: Duration,
    ) -> Result<Self> {
        let memory = Arc::new(QueryMemory::new(memory_limit));
        let state = Arc::new(datafusion_session::session_state(Arc::clone(&memory) as _, &store)?);
        let caches = Arc::new(Caches::default());
        system.add_gauges(Arc::clone(&memory) as _);
        system.add_gauges(Arc::clone(&caches) as _);
        let transactions = Transactions::new(transaction_timeout);
        Ok(Self { registry, store, system, memory, state, transactions, caches })
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

    pub(super) fn transactions(&self) -> &Transactions {
        &self.transactions
    }

    /// Rolls back the transactions that were idle for longer than the limit. Statements do so as well.
    pub fn expire_transactions(&self) {
        self.transactions.expire();
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
    pub(super) async fn execution<'a>(
        &'a self,
        session: &'a Session,
        params: &'a Params,
        options: &'a ExecuteOptions,
    ) -> Result<Execution<'a>> {
        let state = Arc::clone(&self.state);
        let (user, role) = (Arc::clone(&session.user), self.role(session).await?);
        let started_us = platform::now_us();
        let (executor, transaction, origin) = (self, None, None);
        Ok(Execution { executor, session, user, role, params, options, state, started_us, transaction, origin })
    }

    /// A session of another user, with that user's role, made on behalf of a session that may act as that user.
    pub async fn session_as(&self, by: &Session, user: &str) -> Result<Session> {
        check_user_name(user)?;
        let (own, role) = (self.role(by).await?, self.system.role_of(user).await?);
        handlers::user::check_may_act_as(own, &by.user, user, role)?;
        Ok(Session::of_user(user, own))
    }

    /// What a session may do now.
    pub async fn role(&self, session: &Session) -> Result<Role> {
        check_user_name(&session.user)?;
        match session.role {
            SessionRole::Given(role) => Ok(role),
            SessionRole::OfUser(most) => Ok(self.system.role_of(&session.user).await?.min(most)),
        }
    }

    /// What a query of this text runs in.
    pub(super) async fn execution_of<'a>(
        &'a self,
        session: &'a Session,
        params: &'a Params,
        options: &'a ExecuteOptions,
        sql: &str,
    ) -> Result<Execution<'a>> {
        let mut execution = self.execution(session, params, options).await?;
        execution.state = self.state_at(asks_for_time(sql), execution.started_us);
        Ok(execution)
    }

    /// The session state of a statement; one that asks for the time gets the moment that it began.
    pub(super) fn state_at(&self, clock: bool, started_us: i64) -> Arc<SessionState> {
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
        let parsed = self
            .statement_cache()
            .parse(sql, options.caches)
            .and_then(|parsed| check_params(&parsed, params).map(|()| parsed))
            .inspect_err(|error| session.transaction.fail(error))?;
        let mut results = Vec::with_capacity(parsed.statements.len());
        for index in 0..parsed.statements.len() {
            // The role is asked for each statement: the one before may have been ALTER USER.
            let mut execution = self.execution(session, params, options).await?;
            execution.state = self.state_at(parsed.clock, execution.started_us);
            let origin = Origin { text: &parsed, index };
            execution.origin = Some(origin);
            results.push(execution.transact(&origin.parsed().statement).await?);
        }
        Ok(results)
    }

    /// Parses a text and keeps it for its executions. Returns its placeholders, as they are written.
    pub fn prepare(&self, sql: &str) -> Result<Vec<String>> {
        Ok(self.statement_cache().parse(sql, true)?.placeholders.iter().cloned().collect())
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
    /// The user that the statement runs as: the session's, or that of EXECUTE AS USER.
    pub user: Arc<str>,
    /// What it may do.
    pub role: Role,
    pub params: &'a Params,
    pub options: &'a ExecuteOptions,
    pub state: Arc<SessionState>,
    /// When the statement began: what NOW() gives, in a default too.
    pub started_us: i64,
    /// The open transaction that the statement runs in.
    pub transaction: Option<Arc<Transaction>>,
    /// Where it was parsed from; `None` if it is not as it was parsed.
    pub origin: Option<Origin<'a>>,
}

impl<'a> Execution<'a> {
    /// The same execution of another statement.
    pub fn of<'b>(&self, params: &'b Params, origin: Option<Origin<'b>>) -> Execution<'b>
    where
        'a: 'b,
    {
        Execution {
            executor: self.executor,
            session: self.session,
            user: Arc::clone(&self.user),
            role: self.role,
            params,
            options: self.options,
            state: Arc::clone(&self.state),
            started_us: self.started_us,
            transaction: self.transaction.clone(),
            origin,
        }
    }

    /// Runs a statement, in the transaction that the execution is part of or by itself.
    pub async fn statement(&self, statement: &Statement) -> Result<StatementResult> {
        privileges::check(self.role, statement)?;
        if let Some(origin) = self.origin
            && !origin.parsed().arrays.is_empty()
            && arrays::has_arrays(&origin.parsed().arrays, self.params)?
            && let Statement::Sql(statement) = statement
        {
            let mut statement = statement.clone();
            let params = arrays::expand(&mut statement, self.params)?;
            // How many elements there are is part of the statement now: it is nobody's but this run's.
            return Box::pin(self.of(&params, None).statement(&Statement::Sql(statement))).await;
        }
        match statement {
            Statement::ExecuteAs { user, statement } => handlers::user::execute_as(self, user, statement).await,
            Statement::CreateUser { user, role, password, if_not_exists } => {
                handlers::user::create(self, user, role.clone(), *password, *if_not_exists).await
            }
            Statement::AlterUser { user, role, password, if_exists } => {
                handlers::user::alter(self, user, role.clone(), *password, *if_exists).await
            }
            Statement::DropUser { user, if_exists, cascade } => {
                self.retrying(|| handlers::user::drop(self, user, *if_exists, *cascade)).await
            }
            Statement::CreateNamespace { name, if_not_exists } => {
                handlers::namespace::create(self, name, *if_not_exists).await
            }
            Statement::DropNamespace { name, if_exists } => handlers::namespace::drop(self, name, *if_exists).await,
            Statement::UseNamespace(name) => handlers::namespace::use_namespace(self, name).await,
            Statement::ShowNamespaces => handlers::show::namespaces(self).await,
            Statement::ShowStats => handlers::show::stats(self).await,
            Statement::StorageCheck(table) => handlers::check::check(self, table.as_ref()).await,
            Statement::ShowManifest(name) => handlers::storage::manifest(self, name.as_ref()).await,
            Statement::Storage { compact, table } => handlers::storage::run(self, *compact, table.as_ref()).await,
            Statement::KillJob(id) => handlers::job::kill(self, id).await,
            Statement::ShowTables(namespace) => handlers::show::tables(self, namespace.as_ref()).await,
            Statement::ShowIndexes(name) => handlers::index::show(self, name.as_ref()).await,
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
                ast::Statement::CreateIndex(create) => self.retrying(|| handlers::index::create(self, create)).await,
                ast::Statement::Drop { object_type: ObjectType::Index, if_exists, names, .. } => {
                    self.retrying(|| handlers::index::drop(self, names, *if_exists)).await
                }
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
        let mut hold = None;
        loop {
            match run().await {
                // In a transaction the snapshot stays, and with it what the statement lost against.
                Err(error)
                    if error.code() == ErrorCode::Conflict && attempt < ATTEMPTS && self.transaction.is_none() =>
                {
                    attempt += 1;
                    // Who loses again and again loses to other writers only, not to rows being moved.
                    if attempt > 2 && hold.is_none() {
                        hold = Some(self.executor.store.hold_all());
                    }
                    // The commit that was first becomes visible, or fails, before the next attempt reads; and an ALTER
                    // is waited for.
                    self.executor.store.settled().await;
                }
                outcome => return outcome,
            }
        }
    }

    /// What this statement's plans read, as its user: the newest snapshot, or what its transaction sees.
    pub fn request(&self) -> Arc<Request> {
        // A transaction pins its snapshot itself.
        let pin = self.transaction.is_none().then(|| Arc::new(self.executor.store.pin()));
        let snapshot = match (&self.transaction, &pin) {
            (Some(transaction), _) => transaction.snapshot(),
            (None, Some(pin)) => pin.seq(),
            (None, None) => self.executor.store.snapshot(),
        };
        Arc::new(Request {
            user: Arc::clone(&self.user),
            role: self.role,
            now_ms: u64::try_from(self.started_us / 1000).unwrap_or(0),
            snapshot,
            pin,
            transaction: self.transaction.as_ref().map(Transaction::view),
            cancelled: Arc::clone(&self.options.cancelled),
            deadline: self.options.deadline,
        })
    }

    /// Plans a query or the SELECT behind another statement, with its parameters in place.
    pub async fn plan(&self, statement: ast::Statement, extras: &Extras) -> Result<LogicalPlan> {
        let plan = self.logical(statement, extras).await?;
        self.params.bind(who::bind(plan, &self.user, self.session.user())?)
    }

    /// Plans a query or the SELECT behind another statement, with placeholders for its parameters and for its users.
    pub async fn logical(&self, statement: ast::Statement, extras: &Extras) -> Result<LogicalPlan> {
        let namespace = self.session.namespace();
        let names = Names { registry: &self.executor.registry, namespace: &namespace };
        plan_statement(&self.state, names, statement, extras).await
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
    any_expression(plan, calls)
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
