//! TRUNCATE.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{Truncate, TruncateIdentityOption};

use super::super::executor::{Execution, StatementResult};
use super::dml::{Target, unsupported};
use crate::error::{ErrorCode, Result};

/// Runs a TRUNCATE: every row of the session's part of each table goes, or none does.
pub async fn truncate(execution: &Execution<'_>, truncate: &Truncate) -> Result<StatementResult> {
    if truncate.partitions.is_some() || truncate.on_cluster.is_some() {
        return unsupported("TRUNCATE with PARTITION or ON CLUSTER");
    }
    if truncate.identity == Some(TruncateIdentityOption::Restart) {
        return unsupported("TRUNCATE … RESTART IDENTITY (generated ids never repeat)");
    }
    let mut scopes = Vec::with_capacity(truncate.table_names.len());
    for table in &truncate.table_names {
        match Target::find(execution, &table.name).await {
            Ok(target) if scopes.iter().any(|(scope, _)| *scope == target.scope) => {}
            Ok(target) => scopes.push((target.scope, Arc::clone(&target.hot))),
            Err(error)
                if truncate.if_exists
                    && matches!(error.code(), ErrorCode::TableNotFound | ErrorCode::NamespaceNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    if scopes.is_empty() {
        return Ok(StatementResult::default());
    }
    let (rows, receipt) = execution.executor.store().truncate(scopes, execution.options.durability)?.await?;
    Ok(StatementResult {
        rows_affected: rows,
        seq: Some(receipt.seq),
        durability: Some(receipt.durability),
        rows: None,
    })
}
