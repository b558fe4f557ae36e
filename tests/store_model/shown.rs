//! The rows that a database shows: now, and to a snapshot that is kept.
//!
//! Invariant: `None` stands for a snapshot that is refused with a conflict, and for nothing else.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::prelude::SessionContext;
use kalamdb::context::AppContext;
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::schema::{Role, TableId};
use kalamdb::tables::{Request, SnapshotPin};

use super::support::{pairs_of_ints, sql};

/// The rows of a table now, sorted.
pub async fn pairs(context: &AppContext, table: &str) -> Result<Vec<(i64, i64)>> {
    let text = format!("SELECT CAST(k AS BIGINT) AS k, CAST(v AS BIGINT) AS v FROM {table} ORDER BY k, v");
    let results = sql(context, &text).await?;
    let rows = results.last().and_then(|r| r.rows.as_ref()).expect("a query gives rows");
    Ok(pairs_of_ints(&rows.batches))
}

/// The rows of a table that a snapshot shows; `None` if it cannot be told any more.
pub async fn pairs_at(context: &AppContext, table: &str, pin: &Arc<SnapshotPin>) -> Result<Option<Vec<(i64, i64)>>> {
    let table = context.registry().table(&TableId::new("default", table)).await?.expect("the table");
    let provider = context.registry().provider(table.table_id()).await?.expect("its provider");
    let session = SessionContext::new();
    let plan = provider.scan(&session.state(), Some(&vec![0, 1]), &[], None).await.map_err(KalamError::internal)?;
    let request = Request {
        user: "default".into(),
        role: Role::System,
        now_ms: 0,
        snapshot: pin.seq(),
        pin: Some(Arc::clone(pin)),
        cancelled: Arc::new(AtomicBool::new(false)),
        deadline: None,
        transaction: None,
    };
    let config = session.copied_config().with_extension(Arc::new(request));
    let context = Arc::new(TaskContext::default().with_session_config(config));
    let batches = match datafusion::physical_plan::collect(plan, context).await {
        Ok(batches) => batches,
        Err(error) => match error.find_root() {
            DataFusionError::External(ours) => match ours.downcast_ref::<KalamError>() {
                Some(ours) if ours.code() == ErrorCode::Conflict => return Ok(None),
                _ => return Err(KalamError::internal(error)),
            },
            _ => return Err(KalamError::internal(error)),
        },
    };
    let batches: Vec<_> = batches
        .iter()
        .map(|batch| {
            let columns = batch.columns().iter();
            let columns =
                columns.map(|c| arrow::compute::cast(c, &arrow::datatypes::DataType::Int64).expect("a number"));
            arrow::record_batch::RecordBatch::try_from_iter(["k", "v"].into_iter().zip(columns)).expect("two columns")
        })
        .collect();
    let mut rows = pairs_of_ints(&batches);
    rows.sort_unstable();
    Ok(Some(rows))
}
