//! The audit log's entries of administrative statements.
//!
//! Invariant: a statement that changes a definition puts its entry into the storage transaction of the change, so one
//! is there exactly if the other is.

use super::super::executor::Execution;
use crate::error::Result;
use crate::storage::WriteBatch;

/// A batch that holds the entry of a statement, to be committed with what the statement changes.
pub async fn audit_entry(execution: &Execution<'_>, action: &str, target: &str) -> Result<WriteBatch> {
    let mut batch = WriteBatch::new();
    execution.executor.system().audit_into(&mut batch, &execution.user, action, target).await?;
    Ok(batch)
}
