//! STORAGE CHECK.

use datafusion::sql::sqlparser::ast::ObjectName;

use super::super::catalog::Names;
use super::super::executor::{Execution, StatementResult};
use super::show::text_rows;
use crate::error::Result;
use crate::tables::Scrub;

/// Runs a STORAGE CHECK: everything, or what belongs to one table, is read from storage and verified. It changes
/// nothing; what a statement meets that runs into damage is an error of its own.
pub async fn check(execution: &Execution<'_>, table: Option<&ObjectName>) -> Result<StatementResult> {
    let executor = execution.executor;
    let id = match table {
        None => None,
        Some(name) => {
            let namespace = execution.session.namespace();
            let names = Names { registry: executor.registry(), namespace: &namespace };
            Some(names.table(name).await?.table_id().clone())
        }
    };
    // Nothing that was found in the manifest goes before it is read: no rewrite removes it, and nobody who drops a table,
    // as long as the request's snapshot is pinned.
    let _hold = executor.store().hold_all();
    let request = execution.request();
    // A commit between two records would look like half of something.
    let closed = executor.close_gate().await;
    let backend = executor.system().backend();
    let scrub = Scrub::run(&backend, Some(closed), id.as_ref(), false, || request.check()).await?;
    let column = |text: fn(&crate::tables::Finding) -> String| scrub.findings.iter().map(|f| Some(text(f))).collect();
    text_rows(vec![
        ("object", column(|f| f.object.clone())),
        ("status", column(|f| f.health.to_string())),
        ("detail", column(|f| f.detail.clone())),
    ])
}
