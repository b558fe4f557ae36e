//! KILL JOB.

use super::super::executor::{Execution, StatementResult};
use crate::error::{ErrorCode, KalamError, Result};

/// Runs a KILL JOB: a job that waits ends at once, one that runs ends with its current piece.
pub async fn kill(execution: &Execution<'_>, id: &str) -> Result<StatementResult> {
    let system = execution.executor.system();
    let manager = system
        .job_manager()
        .ok_or_else(|| KalamError::new(ErrorCode::FeatureNotSupported, "this engine runs no jobs"))?;
    manager.cancel(id).await?;
    system.audit(execution.session.user(), "KILL JOB", id).await?;
    Ok(StatementResult::default())
}
