//! Transactions of sessions: BEGIN, COMMIT, ROLLBACK, savepoints, and running statements within them.
//!
//! A session has at most one transaction open. Its statements go one after the other, however their calls overlap; what
//! they read and change is in `tables/overlay.rs`. Invariants: a statement runs wholly within the transaction that was
//! open when its turn came, or wholly outside of any; an error within a transaction fails it, so nothing that follows
//! takes effect until ROLLBACK (or ROLLBACK TO a savepoint), as in PostgreSQL; a transaction that was idle for longer
//! than the limit is rolled back, and its session hears of it at every use until it rolls back too; one that a call began ends by a call,
//! so a text that has BEGIN, COMMIT or ROLLBACK in it does nothing there.

use std::sync::{Arc, Weak};

use datafusion::sql::sqlparser::ast::{self, Ident, TransactionAccessMode, TransactionIsolationLevel, TransactionMode};
use futures::lock::OwnedMutexGuard;
use parking_lot::Mutex;
use web_time::Duration;

use super::catalog::fold;
use super::executor::{ExecuteOptions, Execution, Session, SqlExecutor, StatementResult};
use super::params::Params;
use super::parser::{Statement, position_of};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::Instant;
use crate::schema::CachedTableData;
use crate::tables::{ScopeWrite, Transaction, altered};

/// How long a transaction may be idle if the configuration does not say.
pub const DEFAULT_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// All open transactions, to end those that were left.
#[derive(Debug)]
pub(super) struct Transactions {
    timeout: Duration,
    open: Mutex<Vec<Weak<OpenTransaction>>>,
}

impl Transactions {
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, open: Mutex::default() }
    }

    /// Rolls back the transactions that were idle for too long.
    pub fn expire(&self) {
        self.open.lock().retain(|open| {
            let Some(open) = open.upgrade() else { return false };
            // One whose turn is taken runs a statement.
            let Some(_turn) = open.turn.try_lock() else { return true };
            let mut progress = open.progress.lock();
            if progress.used.elapsed() < self.timeout {
                return true;
            }
            progress.data = None;
            if progress.failed.is_none() {
                progress.failed = Some(timed_out(self.timeout));
            }
            false
        });
    }
}

fn timed_out(limit: Duration) -> KalamError {
    let message = format!("the transaction was idle for more than {} ms and was rolled back", limit.as_millis());
    KalamError::new(ErrorCode::TransactionTimeout, message)
        .with_hint("ROLLBACK, then run the transaction again, without waiting for anything slow inside of it.")
}

/// Where a session keeps its open transaction.
#[derive(Debug, Default)]
pub(super) struct TransactionSlot {
    open: Mutex<Option<Arc<OpenTransaction>>>,
    /// The session is there for one transaction and ends with it.
    only: bool,
}

#[derive(Debug)]
pub(super) struct OpenTransaction {
    read_only: bool,
    /// Held by the statement that runs.
    turn: Arc<futures::lock::Mutex<()>>,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    /// Nothing once it was rolled back.
    data: Option<Arc<Transaction>>,
    /// Why it failed.
    failed: Option<KalamError>,
    /// When its last statement ended.
    used: Instant,
    /// Names of savepoints and what leads back to them.
    savepoints: Vec<(String, usize)>,
}

impl TransactionSlot {
    fn is(&self, open: &Arc<OpenTransaction>) -> bool {
        self.open.lock().as_ref().is_some_and(|now| Arc::ptr_eq(now, open))
    }

    /// Waits for the turn of the next statement; `None` if no transaction is open.
    async fn enter(&self) -> Option<Entered> {
        loop {
            let open = self.open.lock().clone()?;
            let turn = Arc::clone(&open.turn).lock_owned().await;
            // It may have ended while this waited.
            if self.is(&open) {
                return Some(Entered { open, _turn: turn });
            }
        }
    }

    /// Fails the open transaction, for a request that came to no statement.
    pub fn fail(&self, error: &KalamError) {
        if let Some(open) = self.open.lock().as_ref() {
            open.fail(error);
        }
    }

    /// Whether a transaction is open that was not rolled back.
    fn holds_one(&self) -> bool {
        self.open.lock().as_ref().is_some_and(|open| open.progress.lock().data.is_some())
    }

    /// Whether the session's statements go one after the other: a transaction is open, failed, or all that it is for.
    pub fn is_used(&self) -> bool {
        self.only || self.open.lock().is_some()
    }

    /// Fails if one of the statements would begin or end the session's one transaction, which calls do.
    pub fn check_ends<'a>(&self, statements: impl Iterator<Item = &'a Statement>) -> Result<()> {
        match statements.filter(|_| self.only).find_map(boundary) {
            None => Ok(()),
            Some(found) => {
                let message = format!("found {found} in a transaction that begins and ends with a function");
                Err(KalamError::new(ErrorCode::ActiveTransaction, message).with_hint(
                    "Return from the function to commit, throw to roll back; SAVEPOINT marks a place within.",
                ))
            }
        }
    }

    /// Fails if the session's one transaction has ended.
    fn check_open(&self) -> Result<()> {
        if self.only && self.open.lock().is_none() {
            return Err(KalamError::new(ErrorCode::NoActiveTransaction, "the transaction has ended"));
        }
        Ok(())
    }
}

impl Session {
    /// Whether a transaction is open that was not rolled back.
    pub fn holds_transaction(&self) -> bool {
        self.transaction().holds_one()
    }
}

impl SqlExecutor {
    /// Begins a transaction in a session of its own, which is otherwise like `session` and ends with the transaction.
    pub async fn begin(&self, session: &Session, read_only: bool) -> Result<Session> {
        session.transaction().check_open()?;
        let within = session.fork(TransactionSlot { only: true, ..TransactionSlot::default() });
        self.transactions().expire();
        *within.transaction().open.lock() = Some(self.open_transaction(read_only));
        Ok(within)
    }

    /// Commits the transaction of a session that [`SqlExecutor::begin`] made.
    pub async fn commit(&self, within: &Session, options: &ExecuteOptions) -> Result<StatementResult> {
        self.execution(within, &Params::default(), options).await?.commit(false, None).await
    }

    /// Rolls back the transaction of a session that [`SqlExecutor::begin`] made.
    pub async fn rollback(&self, within: &Session) -> Result<StatementResult> {
        self.execution(within, &Params::default(), &ExecuteOptions::default()).await?.rollback(false).await
    }

    fn open_transaction(&self, read_only: bool) -> Arc<OpenTransaction> {
        let data = Some(Arc::new(Transaction::begin(Arc::clone(self.store()), self.held_by_transaction())));
        let progress = Progress { data, failed: None, used: Instant::now(), savepoints: Vec::new() };
        let open = Arc::new(OpenTransaction { read_only, turn: Arc::default(), progress: Mutex::new(progress) });
        self.transactions().open.lock().push(Arc::downgrade(&open));
        open
    }
}

impl OpenTransaction {
    fn fail(&self, error: &KalamError) {
        let mut progress = self.progress.lock();
        if progress.failed.is_none() {
            progress.failed = Some(error.clone());
        }
        // Only a savepoint leads back.
        if progress.savepoints.is_empty() {
            progress.data = None;
        }
    }

    /// Its data, if it has not failed.
    fn data(&self) -> Result<Arc<Transaction>> {
        let progress = self.progress.lock();
        match (&progress.failed, &progress.data) {
            (None, Some(data)) => Ok(Arc::clone(data)),
            (Some(reason), _) if reason.code() == ErrorCode::TransactionTimeout => Err(reason.clone()),
            (reason, _) => Err(in_failed(reason.as_ref())),
        }
    }
}

fn in_failed(reason: Option<&KalamError>) -> KalamError {
    let why = reason.map_or("its changes are gone", KalamError::message);
    KalamError::new(
        ErrorCode::FailedTransaction,
        format!("the transaction has failed ({why}): nothing more runs in it"),
    )
    .with_hint("ROLLBACK ends it.")
}

/// The turn of a statement within a transaction.
#[derive(Debug)]
pub(super) struct Entered {
    open: Arc<OpenTransaction>,
    _turn: OwnedMutexGuard<()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.open.progress.lock().used = Instant::now();
    }
}

/// Forgets the transaction of a session, however what ends it goes.
struct Ending<'a>(&'a TransactionSlot);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.open.lock().take();
    }
}

impl Execution<'_> {
    /// Waits until no other statement of the session's transaction runs, and makes this execution part of it. `None`
    /// if none is open. Ends with [`Execution::leave`].
    pub async fn enter(&mut self) -> Result<Option<Entered>> {
        self.executor.transactions().expire();
        let slot = self.session.transaction();
        let Some(entered) = slot.enter().await else { return slot.check_open().map(|()| None) };
        self.transaction = Some(entered.open.data()?);
        Ok(Some(entered))
    }

    /// Passes an outcome on; an error fails the transaction that it came from.
    pub async fn leave<T>(&self, entered: Option<Entered>, outcome: Result<T>) -> Result<T> {
        if let (Some(entered), Err(error)) = (&entered, &outcome) {
            entered.open.fail(error);
            self.settle(error).await;
        }
        outcome
    }

    /// The commit that was first becomes visible, or fails, before whoever lost against it tries again.
    async fn settle(&self, error: &KalamError) {
        if error.code() == ErrorCode::Conflict {
            self.executor.store().barrier().await;
        }
    }

    /// Runs a statement: one that begins or ends a transaction, or any other, in the one that is open.
    pub async fn transact(mut self, statement: &Statement) -> Result<StatementResult> {
        if let Statement::Sql(sql) = statement {
            match sql.as_ref() {
                ast::Statement::StartTransaction { modes, modifier, statements, exception, .. } => {
                    let block = !statements.is_empty() || exception.is_some();
                    return self.begin(modes, *modifier, block).await;
                }
                ast::Statement::Commit { chain, modifier, .. } => return self.commit(*chain, *modifier).await,
                ast::Statement::Rollback { chain, savepoint: None } => return self.rollback(*chain).await,
                ast::Statement::Rollback { savepoint: Some(name), .. } => return self.rollback_to(name).await,
                ast::Statement::Savepoint { name } => return self.savepoint(name).await,
                ast::Statement::ReleaseSavepoint { name } => return self.release(name).await,
                _ => {}
            }
        }
        let entered = self.enter().await?;
        let allowed = self.options.check().and_then(|()| match &entered {
            Some(entered) => check_allowed(self.session, statement, entered.open.read_only),
            None => Ok(()),
        });
        let outcome = match allowed {
            Ok(()) => self.statement(statement).await,
            Err(error) => Err(error),
        };
        self.leave(entered, outcome).await
    }

    async fn begin(
        &self,
        modes: &[TransactionMode],
        modifier: Option<ast::TransactionModifier>,
        block: bool,
    ) -> Result<StatementResult> {
        let slot = self.session.transaction();
        self.executor.transactions().expire();
        if let Some(entered) = slot.enter().await {
            entered.open.data()?;
            let error = KalamError::new(ErrorCode::ActiveTransaction, "a transaction is open already")
                .with_hint("Transactions do not nest; SAVEPOINT marks a place within one.");
            return self.leave(Some(entered), Err(error)).await;
        }
        slot.check_open()?;
        if block {
            return unsupported("a BEGIN … END block", "Send its statements one by one.");
        }
        match modifier {
            None | Some(ast::TransactionModifier::Deferred) => {}
            Some(other) => {
                return unsupported(
                    &format!("BEGIN {other}"),
                    "A transaction takes no locks: the first to commit a change of a row wins. Write BEGIN.",
                );
            }
        }
        let mut read_only = false;
        for mode in modes {
            match mode {
                TransactionMode::AccessMode(mode) => read_only = *mode == TransactionAccessMode::ReadOnly,
                TransactionMode::IsolationLevel(TransactionIsolationLevel::Serializable) => {
                    return unsupported(
                        "ISOLATION LEVEL SERIALIZABLE",
                        "Transactions are isolated by snapshot: write REPEATABLE READ, or nothing.",
                    );
                }
                // Every weaker level may be given the stronger one.
                TransactionMode::IsolationLevel(_) => {}
            }
        }
        *slot.open.lock() = Some(self.executor.open_transaction(read_only));
        Ok(StatementResult::default())
    }

    async fn commit(&self, chain: bool, modifier: Option<ast::TransactionModifier>) -> Result<StatementResult> {
        self.executor.transactions().expire();
        let slot = self.session.transaction();
        let Some(entered) = slot.enter().await else { return Err(none_active("COMMIT")) };
        if chain || modifier.is_some() {
            let error = unsupported("COMMIT AND CHAIN", "COMMIT, then BEGIN again.");
            return self.leave(Some(entered), error).await;
        }
        let _ending = Ending(slot);
        let data = entered.open.data().map_err(|error| match error.code() {
            ErrorCode::FailedTransaction => {
                let reason = entered.open.progress.lock().failed.clone();
                let why = reason.as_ref().map_or("it had failed", KalamError::message);
                let message =
                    format!("the transaction was rolled back instead of committed, because it had failed: {why}");
                KalamError::new(ErrorCode::FailedTransaction, message).with_hint("Run the transaction again.")
            }
            _ => error,
        })?;
        let outcome = self.commit_changes(&data).await;
        if let Err(error) = &outcome {
            self.settle(error).await;
        }
        outcome
    }

    async fn commit_changes(&self, data: &Transaction) -> Result<StatementResult> {
        let (tables, mut writes): (Vec<Arc<CachedTableData>>, Vec<ScopeWrite>) = data.writes()?.into_iter().unzip();
        if writes.is_empty() {
            return Ok(StatementResult::default());
        }
        let (registry, store) = (self.executor.registry(), self.executor.store());
        // Its statement said what to do about the key, but it decided on a snapshot in which the key was free.
        let repeatable = |error: KalamError| match error.code() {
            ErrorCode::UniqueViolation if data.has_upserts() => {
                let message = format!("another writer inserted a row meanwhile ({})", error.message());
                KalamError::new(ErrorCode::Conflict, message).with_hint("Run the transaction again.")
            }
            _ => error,
        };
        // All definitions are compared in one go, after the segments were asked: nothing may change between the first
        // and the commit.
        'tables: loop {
            let definition = |i: usize| Arc::clone(tables[i].definition());
            store.check_writes(&mut writes, definition).await.map_err(repeatable)?;
            for table in &tables {
                match registry.cached(table.table_id()) {
                    Some(now) if Arc::ptr_eq(&now, table) => {}
                    Some(_) => return Err(altered(table)),
                    None => {
                        if registry.table(table.table_id()).await?.is_none() {
                            return Err(altered(table));
                        }
                        continue 'tables;
                    }
                }
            }
            if writes.iter().all(|write| store.still_checked(write)) {
                break;
            }
        }
        for (table, write) in tables.iter().zip(&writes) {
            write.hot.use_indexes_of(table.definition())?;
        }
        let receipt = store.submit(writes, self.options.durability, None).map_err(repeatable)?.await?;
        Ok(StatementResult { seq: Some(receipt.seq), durability: Some(receipt.durability), ..Default::default() })
    }

    async fn rollback(&self, chain: bool) -> Result<StatementResult> {
        let slot = self.session.transaction();
        let Some(entered) = slot.enter().await else { return Err(none_active("ROLLBACK")) };
        if chain {
            let error = unsupported("ROLLBACK AND CHAIN", "ROLLBACK, then BEGIN again.");
            return self.leave(Some(entered), error).await;
        }
        let _ending = Ending(slot);
        Ok(StatementResult::default())
    }

    async fn savepoint(&mut self, name: &Ident) -> Result<StatementResult> {
        let entered = self.enter().await?.ok_or_else(|| none_active("SAVEPOINT"))?;
        let data = entered.open.data()?;
        entered.open.progress.lock().savepoints.push((fold(name), data.savepoint()));
        Ok(StatementResult::default())
    }

    async fn release(&mut self, name: &Ident) -> Result<StatementResult> {
        let entered = self.enter().await?.ok_or_else(|| none_active("RELEASE SAVEPOINT"))?;
        let released = {
            let mut progress = entered.open.progress.lock();
            find_savepoint(&progress.savepoints, name).map(|(place, _)| progress.savepoints.truncate(place))
        };
        self.leave(Some(entered), released).await?;
        Ok(StatementResult::default())
    }

    async fn rollback_to(&self, name: &Ident) -> Result<StatementResult> {
        self.executor.transactions().expire();
        let slot = self.session.transaction();
        let entered = slot.enter().await.ok_or_else(|| none_active("ROLLBACK TO SAVEPOINT"))?;
        let undone = {
            let mut progress = entered.open.progress.lock();
            match (progress.data.clone(), find_savepoint(&progress.savepoints, name)) {
                (Some(data), Ok((place, mark))) => data.undo_to(mark).map(|()| {
                    progress.savepoints.truncate(place + 1);
                    progress.failed = None;
                }),
                (Some(_), Err(error)) => Err(error),
                (None, _) => Err(in_failed(progress.failed.as_ref())),
            }
        };
        self.leave(Some(entered), undone).await?;
        Ok(StatementResult::default())
    }
}

fn find_savepoint(savepoints: &[(String, usize)], name: &Ident) -> Result<(usize, usize)> {
    let wanted = fold(name);
    let found = savepoints.iter().enumerate().rev().find(|(_, (name, _))| *name == wanted);
    found.map(|(place, (_, mark))| (place, *mark)).ok_or_else(|| {
        let message = format!("savepoint '{wanted}' does not exist");
        KalamError::new(ErrorCode::SavepointNotFound, message).at(position_of(name))
    })
}

/// The name of a statement that begins or ends a transaction.
fn boundary(statement: &Statement) -> Option<&'static str> {
    let Statement::Sql(statement) = statement else { return None };
    match statement.as_ref() {
        ast::Statement::StartTransaction { .. } => Some("BEGIN"),
        ast::Statement::Commit { .. } => Some("COMMIT"),
        ast::Statement::Rollback { savepoint: None, .. } => Some("ROLLBACK"),
        _ => None,
    }
}

fn none_active(statement: &str) -> KalamError {
    KalamError::new(ErrorCode::NoActiveTransaction, format!("{statement}: no transaction is open"))
        .with_hint("BEGIN opens one.")
}

fn unsupported<T>(what: &str, hint: &'static str) -> Result<T> {
    Err(KalamError::new(ErrorCode::FeatureNotSupported, format!("{what} is not supported")).with_hint(hint))
}

/// Whether a statement may run within a transaction: what reads and what changes rows may.
fn check_allowed(session: &Session, statement: &Statement, read_only: bool) -> Result<()> {
    let changes = match statement {
        Statement::UseNamespace(_)
        | Statement::ShowNamespaces
        | Statement::ShowStats
        | Statement::ShowManifest(_)
        | Statement::ShowTables(_)
        | Statement::ShowIndexes(_)
        | Statement::Describe(_)
        | Statement::DescribeHistory(_)
        | Statement::Explain { .. }
        | Statement::Prepare { .. }
        | Statement::Deallocate(_) => false,
        Statement::Execute { name, .. } => match session.prepared().find(name) {
            Some(prepared) => return check_allowed(session, prepared.statement(), read_only),
            // It fails when it looks for the statement.
            None => false,
        },
        Statement::With(..) => true,
        Statement::ExecuteAs { statement, .. } => return check_allowed(session, statement, read_only),
        Statement::Sql(statement) => match statement.as_ref() {
            ast::Statement::Query(_) => false,
            ast::Statement::Insert(_) | ast::Statement::Update(_) | ast::Statement::Delete(_) => true,
            ast::Statement::Truncate(_) => {
                return unsupported(
                    "TRUNCATE within a transaction",
                    "Write DELETE FROM, or end the transaction first.",
                );
            }
            _ => return refused(),
        },
        _ => return refused(),
    };
    if changes && read_only {
        return Err(KalamError::new(
            ErrorCode::ReadOnlyTransaction,
            "the transaction is READ ONLY: it changes no rows",
        ));
    }
    Ok(())
}

/// The error for a statement that only runs by itself.
pub(super) fn refused<T>() -> Result<T> {
    Err(KalamError::new(
        ErrorCode::FeatureNotSupported,
        "only statements that read or change rows run within a transaction: definitions change outside of one",
    )
    .with_hint("COMMIT or ROLLBACK first."))
}
