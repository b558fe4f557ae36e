//! Runs statements: parses a request, finds the handler of each statement, and gives handlers what they share.
//!
//! Invariant: a request is parsed, and its parameters are counted, before any of its statements runs; each statement
//! then commits by itself (autocommit) or belongs to the session's open transaction (`transaction.rs`), in order, and
//! the first error ends the request. A statement that commits by itself and lost a race against another writer
//! (`SERIALIZATION_FAILURE`) is run again from the start: nothing of it was applied.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use datafusion::execution::SessionState;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use web_time::Duration;

use super::datafusion_session;
pub(super) use super::execution::Execution;
use super::handlers;
use super::memory::{HeldRows, QueryMemory};
use super::params::Params;
use super::plan_cache::{Origin, PlanCache};
pub(super) use super::result::finish_rows;
pub use super::result::{Rows, StatementResult};
pub use super::session::Session;
use super::session::SessionRole;
use super::statement_cache::{ParsedText, StatementCache};
use super::transaction::Transactions;
use crate::error::Result;
use crate::platform::{self, Instant, Turns};
use crate::schema::{Role, SchemaRegistry, check_user_name};
use crate::storage::gate::Closed;
use crate::storage::{Durability, GatedBackend};
use crate::tables::{Gauges, SystemTablesRegistry, TableStore, check_asked};

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

impl ExecuteOptions {
    /// Fails if the caller has given up.
    pub fn check(&self) -> Result<()> {
        check_asked(&self.cancelled, self.deadline)
    }
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

/// Runs statements; see the module's comment.
#[derive(Debug)]
pub struct SqlExecutor {
    registry: Arc<SchemaRegistry>,
    store: Arc<TableStore>,
    system: Arc<SystemTablesRegistry>,
    gated: Arc<GatedBackend>,
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
    /// An executor over tables, all of whose commits pass `gated`. Queries together use at most `memory_limit` bytes; a
    /// transaction that is idle for `transaction_timeout` is rolled back.
    pub fn new(
        registry: Arc<SchemaRegistry>,
        store: Arc<TableStore>,
        system: Arc<SystemTablesRegistry>,
        gated: Arc<GatedBackend>,
        memory_limit: usize,
        transaction_timeout: Duration,
    ) -> Result<Self> {
        let memory = Arc::new(QueryMemory::new(memory_limit));
        let state = Arc::new(datafusion_session::session_state(Arc::clone(&memory) as _, &store)?);
        let caches = Arc::new(Caches::default());
        system.add_gauges(Arc::clone(&memory) as _);
        system.add_gauges(Arc::clone(&caches) as _);
        let transactions = Transactions::new(transaction_timeout);
        Ok(Self { registry, store, system, gated, memory, state, transactions, caches })
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

    /// Lets no commit begin until what it gives is dropped.
    pub(super) async fn close_gate(&self) -> Closed {
        self.gated.close_gate().await
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

    /// A point get found its text and its lookup among those that are kept.
    pub(super) fn count_point_get(&self) {
        self.caches.statements.count_hit();
        self.caches.plans.count_hit();
    }

    pub(super) fn plan_cache(&self) -> &PlanCache {
        &self.caches.plans
    }

    /// Bytes that running queries have reserved.
    pub fn query_memory(&self) -> usize {
        self.memory.reserved()
    }

    /// How many bytes queries may reserve together.
    pub(super) fn memory_limit(&self) -> usize {
        self.memory.limit()
    }

    /// The most bytes that queries had reserved at one moment.
    pub fn query_memory_peak(&self) -> usize {
        self.memory.peak()
    }

    /// The rows of a statement, which count against the memory of queries while it gathers them.
    pub(super) fn held_rows(&self) -> HeldRows {
        HeldRows::new(Arc::clone(&self.memory) as _)
    }

    /// The changes of a transaction, which count against the memory of queries until it ends.
    pub(super) fn held_by_transaction(&self) -> MemoryReservation {
        let pool: Arc<dyn MemoryPool> = Arc::clone(&self.memory) as _;
        MemoryConsumer::new("transaction").register(&pool)
    }

    /// What a statement that is not SQL text runs in.
    pub(super) async fn execution<'a>(
        &'a self,
        session: &'a Session,
        params: &'a Params,
        options: &'a ExecuteOptions,
    ) -> Result<Execution<'a>> {
        let state = Arc::clone(&self.state);
        let (user, role) = (Arc::clone(session.user()), self.role(session).await?);
        let started_us = platform::now_us();
        let (executor, transaction, origin) = (self, None, None);
        Ok(Execution { executor, session, user, role, params, options, state, started_us, transaction, origin })
    }

    /// A session of another user, with that user's role, made on behalf of a session that may act as that user.
    pub async fn session_as(&self, by: &Session, user: &str) -> Result<Session> {
        check_user_name(user)?;
        let (own, role) = (self.role(by).await?, self.system.role_of(user).await?);
        handlers::user::check_may_act_as(own, by.user(), user, role)?;
        Ok(Session::of_user(user, own))
    }

    /// What a session may do now.
    pub async fn role(&self, session: &Session) -> Result<Role> {
        check_user_name(session.user())?;
        match session.role_source() {
            SessionRole::Given(role) => Ok(role),
            SessionRole::OfUser(most) => Ok(self.system.role_of(session.user()).await?.min(most)),
        }
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

    /// The statements of a text, if all of them may be run with the parameters. If not, an open transaction fails.
    pub(super) fn parsed(
        &self,
        session: &Session,
        sql: &str,
        params: &Params,
        options: &ExecuteOptions,
    ) -> Result<Arc<ParsedText>> {
        let checked = |parsed: Arc<ParsedText>| {
            check_params(&parsed, params)?;
            session.transaction().check_ends(parsed.statements.iter().map(|parsed| &parsed.statement))?;
            Ok(parsed)
        };
        let parsed = self.statement_cache().parse(sql, options.caches).and_then(checked);
        parsed.inspect_err(|error| session.transaction().fail(error))
    }

    /// Runs every statement of a text and returns what each did.
    pub async fn execute(
        &self,
        session: &Session,
        sql: &str,
        params: &Params,
        options: &ExecuteOptions,
    ) -> Result<Vec<StatementResult>> {
        let parsed = self.parsed(session, sql, params, options)?;
        let mut results = Vec::with_capacity(parsed.statements.len());
        // Statements that only write wait for nothing where a commit is done at once.
        let mut turns = Turns::begin();
        for index in 0..parsed.statements.len() {
            // The role is asked for each statement: the one before may have been ALTER USER.
            let mut execution = self.execution(session, params, options).await?;
            execution.state = self.state_at(parsed.clock, execution.started_us);
            let origin = Origin { text: &parsed, index };
            execution.origin = Some(origin);
            results.push(execution.transact(&origin.parsed().statement).await?);
            if index + 1 < parsed.statements.len() {
                turns.pass().await;
            }
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
