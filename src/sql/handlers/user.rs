//! CREATE, ALTER and DROP USER; EXECUTE AS USER.
//!
//! Invariant: nobody gets rights here that the caller does not have: a role that is given, or acted as, is no higher
//! than the caller's own. A user need not be created to have rows: who is not in `system.users` has the role `user`.

use std::sync::Arc;

use super::super::executor::{Execution, StatementResult};
use super::super::parser::{self, Statement, UserName};
use super::audit::audit_entry;
use super::dml::unsupported;
use crate::error::{ErrorCode, KalamError, Position, Result};
use crate::platform;
use crate::schema::{CachedTableData, Privilege, Role, TableType, check_user_name};
use crate::storage::Durability;
use crate::tables::UserRecord;
use crate::types::Value;

/// A role as it is written, and where it stands.
type GivenRole = Option<(String, Option<Position>)>;
/// Where a password is given, if one is.
type GivenPassword = Option<Option<Position>>;

/// `EXECUTE AS USER 'u' ( statement )`: with the rows and the role of that user, in this session.
pub async fn execute_as(execution: &Execution<'_>, user: &UserName, statement: &Statement) -> Result<StatementResult> {
    let name = name_of(execution, user)?;
    let role = execution.executor.system().role_of(&name).await?;
    check_may_act_as(execution.role, &execution.user, &name, role).map_err(|e| e.at(user.position))?;
    let mut inner = execution.of(execution.params, execution.origin);
    (inner.user, inner.role) = (Arc::from(name), role);
    Box::pin(inner.statement(statement)).await
}

/// Fails unless a role may act as a user who has another role.
pub fn check_may_act_as(own: Role, own_name: &str, name: &str, role: Role) -> Result<()> {
    if own_name != name {
        own.require(Privilege::ActAsUser, "EXECUTE AS USER")?;
    }
    own.require_role(role, &format!("acting as '{name}', who has the role '{role}',"))
}

/// `CREATE USER`.
pub async fn create(
    execution: &Execution<'_>,
    user: &UserName,
    role: GivenRole,
    password: GivenPassword,
    if_not_exists: bool,
) -> Result<StatementResult> {
    let name = name_of(execution, user)?;
    let role = checked_role(execution, role, password)?.unwrap_or_default();
    let entry = audit_entry(execution, "CREATE USER", &name).await?;
    let now = platform::now_ms();
    let created = execution.executor.system().change_user(&name, entry, |existing| match existing {
        Some(_) if if_not_exists => Ok(None),
        Some(_) => Err(KalamError::new(ErrorCode::UserExists, format!("user '{name}' exists already"))),
        None => Ok(Some(UserRecord {
            user_id: name.clone(),
            role: role.as_str().to_owned(),
            created_at_ms: now,
            updated_at_ms: now,
        })),
    });
    done(created.await.map_err(|e| e.at(user.position))?)
}

/// `ALTER USER … SET ROLE`.
pub async fn alter(
    execution: &Execution<'_>,
    user: &UserName,
    role: GivenRole,
    password: GivenPassword,
    if_exists: bool,
) -> Result<StatementResult> {
    let name = name_of(execution, user)?;
    let role = checked_role(execution, role, password)?;
    let entry = audit_entry(execution, "ALTER USER", &name).await?;
    let own = execution.role;
    let altered = execution.executor.system().change_user(&name, entry, |existing| {
        let Some(existing) = existing else {
            return if if_exists { Ok(None) } else { Err(not_found(&name)) };
        };
        check_not_above(own, &existing)?;
        let Some(role) = role.filter(|role| role.as_str() != existing.role) else { return Ok(None) };
        let role = role.as_str().to_owned();
        Ok(Some(UserRecord { role, updated_at_ms: platform::now_ms(), ..existing }))
    });
    done(altered.await.map_err(|e| e.at(user.position))?)
}

/// `DROP USER`: with CASCADE the user's rows of all USER tables go with it. Without, there must be none.
pub async fn drop(
    execution: &Execution<'_>,
    user: &UserName,
    if_exists: bool,
    cascade: bool,
) -> Result<StatementResult> {
    let name = name_of(execution, user)?;
    let system = execution.executor.system();
    match system.users().get(&name).await? {
        Some(existing) => check_not_above(execution.role, &existing).map_err(|e| e.at(user.position))?,
        // Rows are there without an account too.
        None if if_exists && cascade => {}
        None if if_exists => return Ok(StatementResult::default()),
        None => return Err(not_found(&name).at(user.position)),
    }
    if !cascade && let Some(table) = table_with_rows(execution, &name).await? {
        let message = format!("user '{name}' has rows in '{}'", table.table_id());
        return Err(KalamError::new(ErrorCode::UserNotEmpty, message)
            .at(user.position)
            .with_hint("DROP USER … CASCADE drops the rows of all USER tables too."));
    }
    let entry = audit_entry(execution, "DROP USER", &name).await?;
    system.drop_user(&name, cascade, entry).await?;
    done(true)
}

/// A USER table in which a user has rows.
async fn table_with_rows(execution: &Execution<'_>, name: &str) -> Result<Option<Arc<CachedTableData>>> {
    let tables = execution.executor.registry().tables(None).await?;
    for table in tables.into_iter().filter(|t| t.definition().table_type == TableType::User) {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let id = table.table_id();
        let text = format!("SELECT 1 FROM {}.{} LIMIT 1", quoted(&id.namespace), quoted(&id.table));
        let Some(Statement::Sql(statement)) = parser::parse(&text)?.pop() else {
            return Err(KalamError::internal("the question for a user's rows did not parse"));
        };
        let plan = execution.plan(*statement, &super::super::catalog::Extras::new()).await?;
        let physical = execution.physical(&plan).await?;
        let request = execution.request_as(Some(Arc::from(name)));
        if !execution.collect(physical, request).await?.is_empty() {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// The name that a statement gives, which a parameter may stand for.
fn name_of(execution: &Execution<'_>, user: &UserName) -> Result<String> {
    let name = if user.is_parameter {
        match execution.params.get(&user.text)? {
            Value::Text(name) => name.clone(),
            other => {
                let message = format!("{} is {other}, expected the name of a user", user.text);
                return Err(KalamError::new(ErrorCode::ParameterType, message).at(user.position));
            }
        }
    } else {
        user.text.clone()
    };
    check_user_name(&name).map_err(|e| e.at(user.position))?;
    Ok(name)
}

fn checked_role(execution: &Execution<'_>, role: GivenRole, password: GivenPassword) -> Result<Option<Role>> {
    if let Some(position) = password {
        return unsupported("a password").map_err(|e: KalamError| {
            e.at(position).with_hint("Nobody logs in to a database on one device; roles are guard rails.")
        });
    }
    let Some((name, position)) = role else { return Ok(None) };
    let role = Role::parse(&name).map_err(|e| e.at(position))?;
    execution.role.require_role(role, &format!("giving the role '{role}'")).map_err(|e| e.at(position))?;
    Ok(Some(role))
}

fn check_not_above(own: Role, existing: &UserRecord) -> Result<()> {
    let role = Role::parse(&existing.role).unwrap_or_default();
    own.require_role(role, &format!("changing '{}', who has the role '{role}',", existing.user_id))
}

fn not_found(name: &str) -> KalamError {
    KalamError::new(ErrorCode::UserNotFound, format!("user '{name}' does not exist"))
        .with_hint("Whoever has rows need not have been created; SELECT * FROM system.users shows who was.")
}

fn done(changed: bool) -> Result<StatementResult> {
    Ok(StatementResult { durability: changed.then_some(Durability::Strict), ..StatementResult::default() })
}
