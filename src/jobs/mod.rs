//! Work that nobody waits for: flush, compaction, eviction, clean-up.
//!
//! A [`JobManager`] asks each [`JobKind`] what is due, keeps one record for each job, and runs them one after the other,
//! a piece at a time, when whoever drives it has nothing better to do: natively by [`JobManager::run_due`], in wasm
//! when no request runs. Invariants:
//! - New → Queued → Running → Completed, Failed, Retrying or Cancelled; Retrying → Running; nothing leaves Completed,
//!   Failed or Cancelled but Failed → Retrying, when it was a crash that ended the job.
//! - A job is stored before its first piece runs and when it has ended, so what was running when a process died is found
//!   as Running: the next opening makes it Failed, and runs it again. A job that is only queued needs no record: who
//!   made it will make it again. So a job costs two small writes, and one that found nothing to do none that stays.
//! - There is at most one unfinished job for a kind and target.
//! - Pieces are idempotent, and each leaves a state from which the job can begin anew: that is what a kind promises.
//! - Failures of jobs, and of keeping their records, never reach a request.

mod kinds;
mod queue;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

pub use kinds::{EvictJob, ReclaimJob, RetentionJob, RewriteJob};
pub use queue::{KEPT_FINISHED, MAX_ATTEMPTS, backoff_ms};

use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use crate::storage::{Durability, EntityStore, StorageBackend, WriteBatch};
use crate::tables::{JobRecord, JobStatus, Jobs, SystemTablesRegistry, TableStore};

/// Something to do that has become due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// What it works on, if one thing; a kind has one unfinished job for each target.
    pub target: Option<String>,
    /// What it needs to know, as JSON.
    pub parameters: Option<String>,
}

/// How far a piece of a job came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// There is more to do.
    More,
    /// The job is done; what it did, for people.
    Done(String),
    /// There was nothing to do: no record of the job stays.
    Nothing,
}

/// A kind of job.
#[async_trait]
pub trait JobKind: Send + Sync {
    /// Its name in `system.jobs`.
    fn name(&self) -> &'static str;

    /// What is due now. Cheap: it is asked whenever the engine is idle.
    async fn due(&self, now_ms: u64) -> Result<Vec<JobSpec>>;

    /// Does a piece of a job, of some tens of milliseconds where it can. `SERIALIZATION_FAILURE` means that a statement
    /// was in the way: the job is tried again later and no attempt is counted.
    async fn piece(&self, job: &JobRecord) -> Result<Piece>;
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A piece of a job was run.
    Worked,
    /// There is nothing to do now. If a job waits to be tried again, when that is, in milliseconds since the epoch.
    Idle(Option<u64>),
}

#[derive(Default)]
struct State {
    /// Unfinished jobs, and finished ones as far as they are kept, by id.
    jobs: BTreeMap<String, JobRecord>,
    /// When a retried job may run.
    retry_at: BTreeMap<String, u64>,
    /// The job that runs.
    running: Option<String>,
    /// Jobs that were told to stop while they ran.
    killed: HashSet<String>,
    closed: bool,
}

/// Tells the time, in milliseconds since the epoch.
type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// Runs jobs; see the module's comment.
pub struct JobManager {
    node_id: Arc<str>,
    backend: Arc<dyn StorageBackend>,
    records: EntityStore<JobRecord>,
    store: Arc<TableStore>,
    kinds: Vec<Arc<dyn JobKind>>,
    clock: Clock,
    state: Mutex<State>,
    /// Steps go one after the other.
    turn: futures::lock::Mutex<()>,
}

impl fmt::Debug for JobManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobManager").field("jobs", &self.state.lock().jobs.len()).finish_non_exhaustive()
    }
}

impl JobManager {
    /// A manager of jobs of these kinds. What a process that died left running has failed, and is run again.
    pub async fn open(
        system: &SystemTablesRegistry,
        backend: Arc<dyn StorageBackend>,
        store: Arc<TableStore>,
        kinds: Vec<Arc<dyn JobKind>>,
    ) -> Result<Arc<Self>> {
        Self::open_with_clock(system, backend, store, kinds, Box::new(platform::now_ms)).await
    }

    /// As [`JobManager::open`], by another clock.
    pub async fn open_with_clock(
        system: &SystemTablesRegistry,
        backend: Arc<dyn StorageBackend>,
        store: Arc<TableStore>,
        kinds: Vec<Arc<dyn JobKind>>,
        clock: Clock,
    ) -> Result<Arc<Self>> {
        let manager = Arc::new(Self {
            node_id: Arc::clone(system.node_id()),
            backend,
            records: system.jobs().clone(),
            store,
            kinds,
            clock,
            state: Mutex::default(),
            turn: futures::lock::Mutex::new(()),
        });
        // A damaged record of a job is no reason not to open a database; STORAGE CHECK tells of it.
        let found = match manager.records.list().await {
            Err(error) if error.code() == ErrorCode::DataCorrupted => Vec::new(),
            found => found?,
        };
        let mut batch = WriteBatch::new();
        {
            let mut state = manager.state.lock();
            let now = (manager.clock)();
            for mut job in found {
                if manager.kind(&job.job_type).is_none() {
                    // Another version's, who knows how it stands.
                } else if job.status == JobStatus::Running {
                    job.status = JobStatus::Failed;
                    job.message = Some("the engine ended while the job ran".to_owned());
                    job.finished_at_ms = Some(now);
                    manager.records.put_into(&mut batch, &job.job_id, &job)?;
                    if job.attempts < MAX_ATTEMPTS {
                        job.status = JobStatus::Retrying;
                        job.finished_at_ms = None;
                        state.retry_at.insert(job.job_id.clone(), now);
                    }
                } else if job.status == JobStatus::Retrying {
                    state.retry_at.insert(job.job_id.clone(), now + backoff_ms(job.attempts));
                }
                state.jobs.insert(job.job_id.clone(), job);
            }
        }
        if !batch.is_empty() {
            manager.backend.commit(batch, Durability::Relaxed).await?;
        }
        Ok(manager)
    }

    fn kind(&self, name: &str) -> Option<&Arc<dyn JobKind>> {
        self.kinds.iter().find(|kind| kind.name() == name)
    }

    /// Makes a job, unless one of its kind and target is unfinished. Gives the id of the one there is.
    pub fn enqueue(&self, kind: &str, spec: JobSpec) -> String {
        let mut state = self.state.lock();
        if let Some(same) = state.jobs.values().find(|j| queue::is_same(j, kind, &spec) && !queue::has_ended(j)) {
            return same.job_id.clone();
        }
        let job = JobRecord {
            // Ids grow with time, in the order of their bytes too.
            job_id: format!("{:019}", self.store.seqs().take(1).first()),
            job_type: kind.to_owned(),
            target: spec.target,
            status: JobStatus::Queued,
            parameters: spec.parameters,
            message: None,
            attempts: 0,
            node_id: self.node_id.to_string(),
            created_at_ms: (self.clock)(),
            started_at_ms: None,
            finished_at_ms: None,
        };
        let id = job.job_id.clone();
        state.jobs.insert(id.clone(), job);
        id
    }

    /// Asks every kind what is due and queues it. A target whose job failed or was killed a while ago is left alone.
    async fn collect(&self) {
        let now = (self.clock)();
        for kind in &self.kinds {
            // What cannot be found out now is asked again at the next chance.
            for spec in kind.due(now).await.unwrap_or_default() {
                let resting = self.state.lock().jobs.values().any(|j| queue::rests(j, kind.name(), &spec, now));
                if !resting {
                    self.enqueue(kind.name(), spec);
                }
            }
        }
    }

    /// Runs one piece of the next job.
    pub async fn step(&self) -> Step {
        let _one_at_a_time = self.turn.lock().await;
        if self.state.lock().closed {
            return Step::Idle(None);
        }
        if let Some(job) = self.begin_or_go_on().await {
            self.run_piece(job).await;
            return Step::Worked;
        }
        self.collect().await;
        if let Some(job) = self.begin_or_go_on().await {
            self.run_piece(job).await;
            return Step::Worked;
        }
        Step::Idle(self.state.lock().retry_at.values().min().copied())
    }

    /// Waits for the piece that runs and begins no other. A job that is not through is queued, for the next opening.
    pub async fn close(&self) -> Result<()> {
        let _one_at_a_time = self.turn.lock().await;
        let unfinished = {
            let mut state = self.state.lock();
            state.closed = true;
            state.running.take().and_then(|id| state.jobs.get(&id).cloned())
        };
        let Some(mut job) = unfinished else { return Ok(()) };
        job.status = JobStatus::Queued;
        // It did not fail: the attempt does not count.
        job.attempts = job.attempts.saturating_sub(1);
        self.state.lock().jobs.insert(job.job_id.clone(), job.clone());
        self.records.put_relaxed(&job.job_id, &job).await
    }

    /// Runs everything that is due and gives the number of pieces.
    pub async fn run_due(&self) -> usize {
        let mut pieces = 0;
        while self.step().await == Step::Worked {
            pieces += 1;
            platform::yield_to_host().await;
        }
        pieces
    }

    /// The job that runs, or the next one, made Running and stored as that.
    async fn begin_or_go_on(&self) -> Option<JobRecord> {
        let job = {
            let mut state = self.state.lock();
            if let Some(id) = &state.running {
                return state.jobs.get(id).cloned();
            }
            let now = (self.clock)();
            let ready = |job: &&JobRecord| match job.status {
                JobStatus::New | JobStatus::Queued => true,
                JobStatus::Retrying => state.retry_at.get(&job.job_id).is_none_or(|at| *at <= now),
                _ => false,
            };
            let mut job = state.jobs.values().find(ready)?.clone();
            job.status = JobStatus::Running;
            job.attempts += 1;
            job.started_at_ms = Some(now);
            job.finished_at_ms = None;
            state.running = Some(job.job_id.clone());
            state.retry_at.remove(&job.job_id);
            state.jobs.insert(job.job_id.clone(), job.clone());
            job
        };
        if let Err(error) = self.records.put_relaxed(&job.job_id, &job).await {
            self.failed(job, error).await;
            return None;
        }
        Some(job)
    }

    async fn run_piece(&self, job: JobRecord) {
        if self.state.lock().killed.remove(&job.job_id) {
            return self.end(job, JobStatus::Cancelled, "cancelled by KILL JOB".to_owned()).await;
        }
        let Some(kind) = self.kind(&job.job_type) else {
            let message = format!("this version knows no jobs of type '{}'", job.job_type);
            return self.end(job, JobStatus::Failed, message).await;
        };
        match kind.piece(&job).await {
            Ok(Piece::More) => {}
            Ok(Piece::Done(message)) => self.end(job, JobStatus::Completed, message).await,
            Ok(Piece::Nothing) => self.forget(job).await,
            Err(error) => self.failed(job, error).await,
        }
    }

    async fn failed(&self, mut job: JobRecord, error: KalamError) {
        let in_the_way = error.code() == ErrorCode::Conflict;
        job.attempts -= u32::from(in_the_way && job.attempts > 0);
        if job.attempts >= MAX_ATTEMPTS {
            return self.end(job, JobStatus::Failed, error.to_string()).await;
        }
        job.status = JobStatus::Retrying;
        job.message = Some(error.to_string());
        let retry_at = (self.clock)() + backoff_ms(job.attempts);
        {
            let mut state = self.state.lock();
            state.running = None;
            state.retry_at.insert(job.job_id.clone(), retry_at);
            state.jobs.insert(job.job_id.clone(), job.clone());
        }
        if !in_the_way {
            // If this is not stored either, what is stored says Running, and is run again after a crash.
            let _ = self.records.put_relaxed(&job.job_id, &job).await;
        }
    }

    /// Ends a job; old records of finished ones go with the same write.
    async fn end(&self, mut job: JobRecord, status: JobStatus, message: String) {
        job.status = status;
        job.message = Some(message);
        job.finished_at_ms = Some((self.clock)());
        let mut batch = WriteBatch::new();
        {
            let mut state = self.state.lock();
            state.running = state.running.take().filter(|id| *id != job.job_id);
            state.retry_at.remove(&job.job_id);
            state.killed.remove(&job.job_id);
            state.jobs.insert(job.job_id.clone(), job.clone());
            for id in queue::surplus(&state.jobs) {
                state.jobs.remove(&id);
                self.records.delete_into(&mut batch, &id);
            }
        }
        if self.records.put_into(&mut batch, &job.job_id, &job).is_ok() {
            // As above: at worst the job is run once more.
            let _ = self.backend.commit(batch, Durability::Relaxed).await;
        }
    }

    /// Takes back a job that found nothing to do.
    async fn forget(&self, job: JobRecord) {
        {
            let mut state = self.state.lock();
            state.running = state.running.take().filter(|id| *id != job.job_id);
            state.killed.remove(&job.job_id);
            state.jobs.remove(&job.job_id);
        }
        let mut batch = WriteBatch::new();
        self.records.delete_into(&mut batch, &job.job_id);
        let _ = self.backend.commit(batch, Durability::Relaxed).await;
    }

    async fn kill(&self, id: &str) -> Result<()> {
        let job = {
            let mut state = self.state.lock();
            let Some(job) = state.jobs.get(id).cloned() else {
                return Err(KalamError::new(ErrorCode::JobNotFound, format!("the job '{id}' does not exist"))
                    .with_hint("SELECT * FROM system.jobs shows them."));
            };
            if queue::has_ended(&job) {
                let message = format!("the job '{id}' has ended already: it is {}", job.status);
                return Err(KalamError::new(ErrorCode::InvalidStatement, message));
            }
            if state.running.as_deref() == Some(id) {
                state.killed.insert(id.to_owned());
                return Ok(());
            }
            job
        };
        self.end(job, JobStatus::Cancelled, "cancelled by KILL JOB".to_owned()).await;
        Ok(())
    }
}

impl Jobs for JobManager {
    fn unfinished(&self) -> Vec<JobRecord> {
        self.state.lock().jobs.values().filter(|job| !queue::has_ended(job)).cloned().collect()
    }

    fn cancel<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.kill(id).boxed()
    }
}
