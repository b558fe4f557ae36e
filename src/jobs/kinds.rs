//! The kinds of job.
//!
//! Invariant: a piece asks for the state of what it works on itself; what a job's record says was true when it was made.

use async_trait::async_trait;

use super::{JobKind, JobSpec, Piece};
use crate::error::Result;
use crate::platform;
use crate::storage::{Durability, EntityStore, StorageBackend, WriteBatch};
use crate::tables::{JobRecord, JobStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Records of finished jobs are kept for so long.
const RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// It is looked for old records so often.
const LOOK_MS: u64 = 60 * 60 * 1000;

/// Removes records of jobs that finished long ago. The audit log is kept whole.
pub struct RetentionJob {
    backend: Arc<dyn StorageBackend>,
    jobs: EntityStore<JobRecord>,
    looked_at: AtomicU64,
}

impl RetentionJob {
    /// A clean-up of these records.
    pub fn new(backend: Arc<dyn StorageBackend>, jobs: EntityStore<JobRecord>) -> Self {
        Self { backend, jobs, looked_at: AtomicU64::new(platform::now_ms()) }
    }

    async fn old(&self, now_ms: u64) -> Result<Vec<JobRecord>> {
        let finished = |job: &JobRecord| {
            matches!(job.status, JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled)
                && job.finished_at_ms.is_some_and(|at| at.saturating_add(RETENTION_MS) < now_ms)
        };
        Ok(self.jobs.list().await?.into_iter().filter(finished).collect())
    }
}

#[async_trait]
impl JobKind for RetentionJob {
    fn name(&self) -> &'static str {
        "retention"
    }

    async fn due(&self, now_ms: u64) -> Result<Vec<JobSpec>> {
        if now_ms.saturating_sub(self.looked_at.load(Ordering::Relaxed)) < LOOK_MS {
            return Ok(Vec::new());
        }
        self.looked_at.store(now_ms, Ordering::Relaxed);
        let due = !self.old(now_ms).await?.is_empty();
        Ok(if due { vec![JobSpec { target: None, parameters: None }] } else { Vec::new() })
    }

    async fn piece(&self, _job: &JobRecord) -> Result<Piece> {
        let old = self.old(platform::now_ms()).await?;
        if old.is_empty() {
            return Ok(Piece::Nothing);
        }
        let mut batch = WriteBatch::new();
        for job in &old {
            self.jobs.delete_into(&mut batch, &job.job_id);
        }
        self.backend.commit(batch, Durability::Relaxed).await?;
        Ok(Piece::Done(format!("removed {} records of finished jobs", old.len())))
    }
}
