//! What follows from the records of jobs alone.
//!
//! Invariant: nothing here changes anything; the manager does.

use std::collections::BTreeMap;

use super::JobSpec;
use crate::tables::{JobRecord, JobStatus};

/// A job that failed so often stays failed.
pub const MAX_ATTEMPTS: u32 = 5;
/// So many finished jobs are kept.
pub const KEPT_FINISHED: usize = 100;
/// A target whose job failed for good, or was killed, is left alone for so long.
const REST_MS: u64 = 10 * 60 * 1000;
const FIRST_BACKOFF_MS: u64 = 1000;
const MAX_BACKOFF_MS: u64 = 5 * 60 * 1000;

/// How long a job waits after so many attempts: a second, then twice as long each time.
pub fn backoff_ms(attempts: u32) -> u64 {
    (FIRST_BACKOFF_MS << attempts.saturating_sub(1).min(16)).min(MAX_BACKOFF_MS)
}

/// Whether a job has come to its end.
pub(super) fn has_ended(job: &JobRecord) -> bool {
    matches!(job.status, JobStatus::Completed | JobStatus::Failed | JobStatus::Cancelled)
}

/// Whether a job is of this kind and target.
pub(super) fn is_same(job: &JobRecord, kind: &str, spec: &JobSpec) -> bool {
    job.job_type == kind && job.target == spec.target
}

/// Whether a job says that its target is to be left alone for now.
pub(super) fn rests(job: &JobRecord, kind: &str, spec: &JobSpec, now_ms: u64) -> bool {
    let ended_badly = matches!(job.status, JobStatus::Failed | JobStatus::Cancelled);
    // A clock that was set back must not let it rest for ever.
    let lately = |at: u64| at <= now_ms && now_ms - at < REST_MS;
    ended_badly && is_same(job, kind, spec) && job.finished_at_ms.is_some_and(lately)
}

/// The finished jobs beyond those that are kept, oldest first.
pub(super) fn surplus(jobs: &BTreeMap<String, JobRecord>) -> Vec<String> {
    let finished: Vec<&String> = jobs.iter().filter(|(_, job)| has_ended(job)).map(|(id, _)| id).collect();
    let surplus = finished.len().saturating_sub(KEPT_FINISHED);
    finished.into_iter().take(surplus).cloned().collect()
}
