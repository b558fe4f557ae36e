//! What a statement needs a role for, before it runs.
//!
//! Invariant: a statement that changes anything but rows is refused here unless the role may do it; whether the role may
//! use a table's rows is asked where they are reached (`Request::scope`). A kind of statement that is not listed as open
//! to everyone is for administrators.

use datafusion::sql::sqlparser::ast;

use super::parser::Statement;
use crate::error::Result;
use crate::schema::{Privilege, Role};

/// Fails unless a role may run a statement.
pub fn check(role: Role, statement: &Statement) -> Result<()> {
    let (privilege, what) = match statement {
        Statement::CreateNamespace { .. } => (Privilege::Administer, "CREATE NAMESPACE".to_owned()),
        Statement::DropNamespace { .. } => (Privilege::Administer, "DROP NAMESPACE".to_owned()),
        Statement::CreateTable(..) => (Privilege::Administer, "CREATE TABLE".to_owned()),
        Statement::CreateUser { .. } => (Privilege::ManageUsers, "CREATE USER".to_owned()),
        Statement::AlterUser { .. } => (Privilege::ManageUsers, "ALTER USER".to_owned()),
        Statement::DropUser { .. } => (Privilege::ManageUsers, "DROP USER".to_owned()),
        Statement::StorageCheck(_) => return role.require_role(Role::Service, "STORAGE CHECK"),
        Statement::RenameIndex { .. } => (Privilege::Administer, "ALTER INDEX".to_owned()),
        Statement::RenameConstraint { .. } => (Privilege::Administer, "ALTER TABLE".to_owned()),
        Statement::KillJob(_) => (Privilege::Administer, "KILL JOB".to_owned()),
        Statement::Storage { compact, .. } => {
            (Privilege::Administer, if *compact { "STORAGE COMPACT" } else { "STORAGE FLUSH" }.to_owned())
        }
        Statement::ShowManifest(_) => return role.require_role(Role::Service, "SHOW MANIFEST"),
        Statement::ShowStats => return role.require_role(Role::Service, "SHOW STATS"),
        Statement::Explain { statement, .. } => return check(role, statement),
        // Whether one may act as that user depends on who it is.
        Statement::ExecuteAs { .. }
        | Statement::UseNamespace(_)
        | Statement::ShowNamespaces
        | Statement::ShowTables(_)
        | Statement::ShowIndexes(_)
        | Statement::Describe(_)
        | Statement::DescribeHistory(_)
        | Statement::With(..)
        // What is prepared is asked about when it is executed.
        | Statement::Prepare { .. }
        | Statement::Execute { .. }
        | Statement::Deallocate(_) => return Ok(()),
        Statement::Sql(statement) if is_open(statement) => return Ok(()),
        Statement::Sql(statement) => {
            let text = statement.to_string();
            (Privilege::Administer, text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        }
    };
    role.require(privilege, &what)
}

/// Whether a statement is open to every role: it works on rows, or on the session.
fn is_open(statement: &ast::Statement) -> bool {
    use ast::Statement as S;
    matches!(
        statement,
        S::Query(_)
            | S::Insert(_)
            | S::Update(_)
            | S::Delete(_)
            | S::Merge { .. }
            | S::Truncate { .. }
            | S::StartTransaction { .. }
            | S::Commit { .. }
            | S::Rollback { .. }
            | S::Savepoint { .. }
            | S::ReleaseSavepoint { .. }
            | S::Prepare { .. }
            | S::Execute { .. }
            | S::Deallocate { .. }
            | S::Set(_)
    )
}
