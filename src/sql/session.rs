//! A session: who asks, and what lasts from one of its requests to the next.
//!
//! Invariant: the user of a session never changes, and its role is never above what whoever made it allowed; a role that
//! is the user's own is asked of `system.users` for each statement, so ALTER USER takes effect at once.

use std::sync::Arc;

use parking_lot::RwLock;

use super::handlers::prepare::PreparedStatements;
use super::transaction::TransactionSlot;
use crate::schema::{DEFAULT_NAMESPACE, Role};

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
pub(super) enum SessionRole {
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

    /// Where its role comes from.
    pub(super) fn role_source(&self) -> SessionRole {
        self.role
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
