//! Roles, and what each may do.
//!
//! These are guard rails for honest code on one device, not a security boundary: whatever runs on the page's origin
//! can open the database itself. Invariant: this is the one table of permissions; everything that asks (statements,
//! scans, writes) asks here.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::definition::{TableDefinition, TableType};
use super::ids::TableId;
use super::options::AccessLevel;
use crate::error::{ErrorCode, KalamError, Result};

/// The most bytes that a user's name may have.
const MAX_USER_BYTES: usize = 256;

/// What a user may do. Each role may do everything that those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Uses data: its own rows of USER tables, STREAM tables, public SHARED tables.
    #[default]
    User,
    /// A program that acts for users: EXECUTE AS USER, restricted SHARED tables, counters and jobs.
    Service,
    /// Administers: definitions, users, private SHARED tables, every system table.
    Dba,
    /// The engine, and by default whoever opened the database.
    System,
}

/// Something that not every role may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// EXECUTE AS USER, for users whose role is no higher than one's own.
    ActAsUser,
    /// CREATE, ALTER and DROP of tables, views, indexes and namespaces; maintenance of storage and jobs.
    Administer,
    /// CREATE, ALTER and DROP USER, for roles no higher than one's own.
    ManageUsers,
}

impl Privilege {
    /// The lowest role that has it.
    pub const fn needs(self) -> Role {
        match self {
            Privilege::ActAsUser => Role::Service,
            Privilege::Administer | Privilege::ManageUsers => Role::Dba,
        }
    }
}

impl Role {
    /// All of them, lowest first.
    pub const ALL: [Role; 4] = [Role::User, Role::Service, Role::Dba, Role::System];

    /// The name in SQL and in `system.users`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Service => "service",
            Role::Dba => "dba",
            Role::System => "system",
        }
    }

    /// The role of a name in any case.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|role| role.as_str().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|role| role.as_str()).collect();
            KalamError::new(ErrorCode::InvalidOption, format!("the role is '{name}', expected {}", names.join(", ")))
        })
    }

    /// Whether the role has a privilege.
    pub fn has(self, privilege: Privilege) -> bool {
        self >= privilege.needs()
    }

    /// Fails unless the role has a privilege; `what` is the statement.
    pub fn require(self, privilege: Privilege, what: &str) -> Result<()> {
        self.require_role(privilege.needs(), what)
    }

    /// Fails unless the role is at least another one.
    pub fn require_role(self, least: Role, what: &str) -> Result<()> {
        if self >= least {
            return Ok(());
        }
        Err(KalamError::new(
            ErrorCode::PermissionDenied,
            format!("the role '{self}' may not do this: {what} needs the role '{least}'"),
        ))
    }

    /// Fails unless the role may read and change the rows of a table that it finds there: its own ones of a USER table,
    /// everybody's of the others.
    pub fn check_access(self, table: &TableDefinition) -> Result<()> {
        let least = match table.table_type {
            TableType::User | TableType::Stream | TableType::View => Role::User,
            TableType::Shared => match table.options.access_level {
                AccessLevel::Public => Role::User,
                AccessLevel::Restricted => Role::Service,
                AccessLevel::Private => Role::Dba,
            },
            TableType::System => system_table_role(&table.table_id),
        };
        if self >= least {
            return Ok(());
        }
        let kind = match table.table_type {
            TableType::Shared => format!("{} table", table.options.access_level.as_str()),
            _ => "system table".to_owned(),
        };
        Err(KalamError::new(
            ErrorCode::PermissionDenied,
            format!("the role '{self}' may not use the {kind} '{}': it needs the role '{least}'", table.table_id),
        ))
    }
}

/// The lowest role that may read a system table. Everyone may know what tables there are; what others do is not for
/// everyone.
fn system_table_role(id: &TableId) -> Role {
    match (id.namespace.as_ref(), id.table.as_ref()) {
        ("system", "users" | "audit_logs") => Role::Dba,
        ("system", "jobs" | "live_queries" | "stats") => Role::Service,
        _ => Role::User,
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Checks the name of a user: the scope of its rows is named by it, so it has to name something.
pub fn check_user_name(name: &str) -> Result<()> {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_USER_BYTES {
        format!("has {} bytes, expected at most {MAX_USER_BYTES}", name.len())
    } else if name.chars().any(char::is_control) {
        "holds a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(KalamError::new(ErrorCode::InvalidName, format!("the name of the user {problem}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{NewColumn, TableOptions};
    use crate::types::KalamDataType;

    fn table(table_type: TableType, options: TableOptions) -> Result<TableDefinition> {
        let columns = vec![NewColumn::new("a", KalamDataType::Int)];
        TableDefinition::new(TableId::new("default", "t"), 1, table_type, columns, &[], options, 0, "")
    }

    #[test]
    fn the_permission_matrix() -> Result<()> {
        let level = |access_level| TableOptions { access_level, ..TableOptions::default() };
        let shared = |l| table(TableType::Shared, level(l));
        let ttl = TableOptions { ttl_seconds: Some(1), ..TableOptions::default() };
        let system = |name: &str| {
            let columns = vec![NewColumn::new("a", KalamDataType::Int)];
            let id = TableId::new("system", name);
            TableDefinition::new(id, 0, TableType::System, columns, &[], TableOptions::default(), 0, "")
        };
        for (definition, least) in [
            (table(TableType::User, TableOptions::default())?, Role::User),
            (table(TableType::Stream, ttl)?, Role::User),
            (shared(AccessLevel::Public)?, Role::User),
            (shared(AccessLevel::Restricted)?, Role::Service),
            (shared(AccessLevel::Private)?, Role::Dba),
            (system("tables")?, Role::User),
            (system("columns")?, Role::User),
            (system("namespaces")?, Role::User),
            (system("storages")?, Role::User),
            (system("stats")?, Role::Service),
            (system("jobs")?, Role::Service),
            (system("live_queries")?, Role::Service),
            (system("users")?, Role::Dba),
            (system("audit_logs")?, Role::Dba),
        ] {
            for role in Role::ALL {
                let allowed = role.check_access(&definition);
                assert_eq!(allowed.is_ok(), role >= least, "{role} and {}", definition.table_id);
                if let Err(error) = allowed {
                    assert_eq!(error.code(), ErrorCode::PermissionDenied);
                }
            }
        }
        for (privilege, least) in [
            (Privilege::ActAsUser, Role::Service),
            (Privilege::Administer, Role::Dba),
            (Privilege::ManageUsers, Role::Dba),
        ] {
            for role in Role::ALL {
                assert_eq!(role.require(privilege, "x").is_ok(), role >= least);
            }
        }
        Ok(())
    }

    #[test]
    fn names_of_users_and_roles_are_checked() {
        assert!(check_user_name("alice@example.com").is_ok());
        for bad in ["", "a\0b", &"x".repeat(300)] {
            assert_eq!(check_user_name(bad).expect_err(bad).code(), ErrorCode::InvalidName);
        }
        assert_eq!(Role::parse("DBA").ok(), Some(Role::Dba));
        assert!(Role::parse("root").is_err());
    }
}
