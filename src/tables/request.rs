//! What a request brings to the plans that run for it.
//!
//! Invariant: a plan belongs to nobody. Whose rows it reads, of which moment, within which transaction and for how long
//! it may run is in the [`Request`] of each run alone, and every scope that is read or changed comes from
//! [`Request::scope`] or, for a row that is read past all plans, from [`scope_of`]; both ask the role first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::log::ScopeKey;
use super::overlay::TransactionView;
use super::pins::SnapshotPin;
use super::seq::Seq;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::{Instant, Turns};
use crate::schema::{CachedTableData, Role, TableType};

/// What a request brings to the plans that run for it: a session configuration extension.
#[derive(Debug)]
pub struct Request {
    /// Whose USER tables it sees.
    pub user: Arc<str>,
    /// What it may use.
    pub role: Role,
    /// When it began, in milliseconds since the epoch: the age of events is told from here.
    pub now_ms: u64,
    /// What it reads.
    pub snapshot: Seq,
    /// Keeps the snapshot readable.
    pub pin: Option<Arc<SnapshotPin>>,
    /// Set when its caller has given up.
    pub cancelled: Arc<AtomicBool>,
    /// When the request gives up by itself.
    pub deadline: Option<Instant>,
    /// The open transaction that it belongs to; `snapshot` is then that of the transaction.
    pub transaction: Option<TransactionView>,
}

impl Request {
    /// Fails if the caller has given up.
    pub fn check(&self) -> Result<()> {
        check_asked(&self.cancelled, self.deadline)
    }

    /// Between two pieces of long work: lets the host run what is waiting, which may be the news that its caller has given
    /// up, and fails then.
    pub async fn pass(&self, turns: &mut Turns) -> Result<()> {
        turns.pass().await;
        self.check()
    }

    /// The scope of a table that this request sees: every read and every change of rows gets its scope here. Fails if
    /// its role may not use the table.
    pub fn scope(&self, table: &CachedTableData) -> Result<ScopeKey> {
        scope_of(table, &self.user, self.role)
    }
}

/// Fails if a caller has given up: it has set a flag, or its time is over.
pub fn check_asked(cancelled: &AtomicBool, deadline: Option<Instant>) -> Result<()> {
    if cancelled.load(Ordering::Relaxed) {
        return Err(KalamError::new(ErrorCode::Cancelled, "the statement was cancelled by its caller"));
    }
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Err(KalamError::new(ErrorCode::Timeout, "the statement ran into its time limit")
            .with_hint("Raise `timeoutMs`, or let the statement do less."));
    }
    Ok(())
}

/// The scope of a table that a user with a role sees; see [`Request::scope`].
pub(super) fn scope_of(table: &CachedTableData, user: &Arc<str>, role: Role) -> Result<ScopeKey> {
    let definition = table.definition();
    role.check_access(definition)?;
    let user = (definition.table_type == TableType::User).then(|| Arc::clone(user));
    Ok(ScopeKey { table_no: definition.table_no, user })
}
