//! The users that `system.users` holds, and their roles.
//!
//! Invariant: a user's role is read from what storage holds: the roles in memory are thrown away with every change of
//! the catalog, whoever made it. Changes go one after the other, so that of two CREATE USER one fails.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{SystemTablesRegistry, UserRecord};
use crate::error::{KalamError, Result};
use crate::schema::{Role, TableType};
use crate::storage::{Durability, StorageBackend, WriteBatch};

/// The role of each user.
type Roles = Arc<HashMap<String, Role>>;

/// What the registry keeps of users.
#[derive(Debug, Default)]
pub struct Users {
    /// The roles, and the state of the catalog that they were read from.
    roles: Mutex<Option<(u64, Roles)>>,
    /// Held by who changes a user.
    changing: futures::lock::Mutex<()>,
}

impl SystemTablesRegistry {
    /// The role of a user: what CREATE USER or ALTER USER said, or `user`.
    pub async fn role_of(&self, user: &str) -> Result<Role> {
        let changes = self.backend.catalog_changes();
        let kept = self.accounts.roles.lock().clone();
        if let Some((at, roles)) = kept
            && at == changes
        {
            return Ok(roles.get(user).copied().unwrap_or_default());
        }
        let mut roles = HashMap::new();
        for record in self.users.list().await? {
            // A role that only a later version knows gives no rights here.
            roles.insert(record.user_id, Role::parse(&record.role).unwrap_or_default());
        }
        let role = roles.get(user).copied().unwrap_or_default();
        *self.accounts.roles.lock() = Some((changes, Arc::new(roles)));
        Ok(role)
    }

    /// Changes a user: `change` is given the record there is and returns what it becomes; `None` leaves it as it is.
    /// `batch` is written with it. Returns whether there was a change.
    pub async fn change_user(
        &self,
        user: &str,
        mut batch: WriteBatch,
        change: impl FnOnce(Option<UserRecord>) -> Result<Option<UserRecord>>,
    ) -> Result<bool> {
        let _one_at_a_time = self.accounts.changing.lock().await;
        let key = user.to_owned();
        let Some(record) = change(self.users.get(&key).await?)? else { return Ok(false) };
        if record.user_id != key {
            return Err(KalamError::internal(format_args!("the user '{key}' became '{}'", record.user_id)));
        }
        self.users.put_into(&mut batch, &key, &record)?;
        self.backend.commit(batch, Durability::Strict).await?;
        Ok(true)
    }

    /// Drops a user, and every row that it has in USER tables if `with_rows`, in one storage transaction with `batch`. Who reads them
    /// finishes.
    pub async fn drop_user(&self, user: &str, with_rows: bool, mut batch: WriteBatch) -> Result<()> {
        let _one_at_a_time = self.accounts.changing.lock().await;
        let registry = self.schema_registry()?;
        let tables = registry.tables(None).await?;
        let of_users = tables.iter().filter(|t| with_rows && t.definition().table_type == TableType::User);
        let of_users: Vec<_> = of_users.map(|t| Arc::clone(t.definition())).collect();
        self.users.delete_into(&mut batch, &user.to_owned());
        self.store.drop_user(user, &of_users, batch).await?;
        // What cannot be removed now is removed later.
        let _ = self.store.reclaim(&registry).await;
        Ok(())
    }
}
