//! CREATE, DROP and USE NAMESPACE.

use datafusion::sql::sqlparser::ast::ObjectName;

use super::super::catalog::{fold, position_of_name, single_ident};
use super::super::executor::{Execution, StatementResult};
use super::audit::audit_entry;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use crate::schema::NamespaceDefinition;
use crate::tables::is_system_namespace;

/// `CREATE NAMESPACE [IF NOT EXISTS] n`.
pub async fn create(execution: &Execution<'_>, name: &ObjectName, if_not_exists: bool) -> Result<StatementResult> {
    let ident = single_ident(name, "namespace")?;
    let definition = NamespaceDefinition::new(&fold(&ident), platform::now_ms(), &execution.user)
        .map_err(|e| e.at(position_of_name(name)))?;
    let audit = audit_entry(execution, "CREATE NAMESPACE", &definition.name).await?;
    match execution.executor.registry().create_namespace_with(definition, audit).await {
        Err(error) if error.code() == ErrorCode::NamespaceExists && if_not_exists => {}
        outcome => {
            outcome.map_err(|e| e.at(position_of_name(name)))?;
        }
    }
    Ok(StatementResult::default())
}

/// `DROP NAMESPACE [IF EXISTS] n`: only when it holds no table.
pub async fn drop(
    execution: &Execution<'_>,
    name: &ObjectName,
    if_exists: bool,
    cascade: bool,
) -> Result<StatementResult> {
    if cascade {
        return Err(KalamError::new(ErrorCode::FeatureNotSupported, "DROP NAMESPACE … CASCADE is not supported")
            .with_hint("Drop its tables and views first.")
            .at(position_of_name(name)));
    }
    let namespace = fold(&single_ident(name, "namespace")?);
    let audit = audit_entry(execution, "DROP NAMESPACE", &namespace).await?;
    match execution.executor.registry().drop_namespace_with(&namespace, audit).await {
        Err(error) if error.code() == ErrorCode::NamespaceNotFound && if_exists => {}
        outcome => {
            outcome.map_err(|e| e.at(position_of_name(name)))?;
        }
    }
    Ok(StatementResult::default())
}

/// `USE [NAMESPACE] n`.
pub async fn use_namespace(execution: &Execution<'_>, name: &ObjectName) -> Result<StatementResult> {
    let namespace = fold(&single_ident(name, "namespace")?);
    let known = is_system_namespace(&namespace) || execution.executor.registry().namespace(&namespace).await?.is_some();
    if !known {
        return Err(KalamError::new(ErrorCode::NamespaceNotFound, format!("namespace '{namespace}' does not exist"))
            .at(position_of_name(name)));
    }
    execution.session.use_namespace(&namespace);
    Ok(StatementResult::default())
}
