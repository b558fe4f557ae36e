//! The audit log's entries of administrative statements.
//!
//! Invariant: a statement that changes a definition puts its entry into the storage transaction of the change, so one
//! is there exactly if the other is. Only a statement that takes several transactions writes it after the last one.

use super::super::executor::Execution;
use crate::error::Result;
use crate::storage::WriteBatch;

/// A batch that holds the entry of a statement, to be committed with what the statement changes.
pub async fn audit_entry(execution: &Execution<'_>, action: &str, target: &str) -> Result<WriteBatch> {
    let mut batch = WriteBatch::new();
    execution.executor.system().audit_into(&mut batch, &execution.user, action, target).await?;
    Ok(batch)
}

/// Writes the entry of a statement that took effect already.
pub async fn audit(execution: &Execution<'_>, action: &str, target: &str) -> Result<()> {
    let written = execution.executor.system().audit(&execution.user, action, target).await;
    written.map_err(|e| e.in_context(format_args!("{action} {target} took effect, but has no entry in the audit log")))
}
