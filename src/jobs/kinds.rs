//! The kinds of job.
//!
//! Invariant: a piece asks for the state of what it works on itself; what a job's record says was true when it was made.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{JobKind, JobSpec, Piece};
use crate::error::{KalamError, Result};
use crate::platform;
use crate::schema::{SchemaRegistry, TableDefinition};
use crate::storage::{Durability, EntityStore, StorageBackend, WriteBatch};
use crate::tables::{DueWork, JobRecord, JobStatus, ScopeKey, TableStore};

/// Records of finished jobs are kept for so long.
const RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// It is looked for events that are too old so often.
const EVICT_MS: u64 = 60 * 1000;
/// It is looked for old records so often.
const LOOK_MS: u64 = 60 * 60 * 1000;

/// Which part of a table a job works on.
#[derive(Debug, Serialize, Deserialize)]
struct Scope {
    table_no: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
}

/// Flushes hot rows to segments, or compacts segments, by the policies of their tables. A piece is one rewrite of one
/// scope, which storage takes in transactions that are each whole; begun anew it goes on with what is left.
pub struct RewriteJob {
    work: DueWork,
    registry: Arc<SchemaRegistry>,
    store: Arc<TableStore>,
}

impl RewriteJob {
    /// Jobs of one kind of work.
    pub fn new(work: DueWork, registry: Arc<SchemaRegistry>, store: Arc<TableStore>) -> Self {
        Self { work, registry, store }
    }

    async fn definitions(&self) -> Result<HashMap<u32, Arc<TableDefinition>>> {
        let tables = self.registry.tables(None).await?;
        Ok(tables.into_iter().map(|t| (t.definition().table_no, Arc::clone(t.definition()))).collect())
    }
}

#[async_trait]
impl JobKind for RewriteJob {
    fn name(&self) -> &'static str {
        match self.work {
            DueWork::Flush => "flush",
            DueWork::Compact => "compact",
        }
    }

    async fn due(&self, _now_ms: u64) -> Result<Vec<JobSpec>> {
        if self.store.statistics().scopes == 0 {
            return Ok(Vec::new());
        }
        let definitions = self.definitions().await?;
        let due = self.store.due(|table_no| definitions.get(&table_no).cloned());
        due.into_iter()
            .filter(|due| due.work == self.work)
            .map(|due| {
                let ScopeKey { table_no, user } = due.scope;
                let name = definitions.get(&table_no).map_or_else(String::new, |d| d.table_id.to_string());
                let target = user.as_ref().map_or_else(|| name.clone(), |user| format!("{name} of {user}"));
                let scope = Scope { table_no, user: user.map(|u| u.to_string()) };
                let parameters = serde_json::to_string(&scope).map_err(KalamError::internal)?;
                Ok(JobSpec { target: Some(target), parameters: Some(parameters) })
            })
            .collect()
    }

    async fn piece(&self, job: &JobRecord) -> Result<Piece> {
        let parameters = job.parameters.as_deref().unwrap_or_default();
        let scope: Scope = serde_json::from_str(parameters).map_err(KalamError::internal)?;
        // A table that is gone needs nothing any more.
        let Some(definition) = self.definitions().await?.remove(&scope.table_no) else { return Ok(Piece::Nothing) };
        let scope = ScopeKey { table_no: scope.table_no, user: scope.user.map(Arc::from) };
        let done = match self.work {
            DueWork::Flush => self.store.flush(&scope, &definition).await?,
            DueWork::Compact => self.store.compact(&scope, &definition, false).await?,
        };
        if done.segments == 0 && done.rows == 0 {
            return Ok(Piece::Nothing);
        }
        Ok(Piece::Done(format!("{} rows to {} segments", done.rows, done.segments)))
    }
}

/// Drops events of streams that nobody touches when they are too old. They are in memory only, so what is found to be
/// too old is dropped at once, and the job says how much it was.
pub struct EvictJob {
    store: Arc<TableStore>,
    looked_at: AtomicU64,
}

impl EvictJob {
    /// Eviction from the streams of a store.
    pub fn new(store: Arc<TableStore>) -> Self {
        Self { store, looked_at: AtomicU64::new(platform::now_ms()) }
    }
}

#[async_trait]
impl JobKind for EvictJob {
    fn name(&self) -> &'static str {
        "evict"
    }

    async fn due(&self, now_ms: u64) -> Result<Vec<JobSpec>> {
        if now_ms.saturating_sub(self.looked_at.load(Ordering::Relaxed)) < EVICT_MS {
            return Ok(Vec::new());
        }
        self.looked_at.store(now_ms, Ordering::Relaxed);
        let events = self.store.evict_expired_at(now_ms);
        let spec = JobSpec { target: None, parameters: Some(format!("{{\"events\":{events}}}")) };
        Ok(if events > 0 { vec![spec] } else { Vec::new() })
    }

    async fn piece(&self, job: &JobRecord) -> Result<Piece> {
        let parameters = job.parameters.as_deref().unwrap_or_default();
        let parameters: serde_json::Value = serde_json::from_str(parameters).map_err(KalamError::internal)?;
        let events = parameters["events"].as_u64().unwrap_or(0) + self.store.evict_expired();
        Ok(Piece::Done(format!("{events} events evicted")))
    }
}

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

/// Removes what is stored of dropped tables and users, when nobody reads it any more. Begun anew it goes on with what is
/// left.
pub struct ReclaimJob {
    registry: Arc<SchemaRegistry>,
    store: Arc<TableStore>,
}

impl ReclaimJob {
    /// A clean-up of what was dropped in a store.
    pub fn new(registry: Arc<SchemaRegistry>, store: Arc<TableStore>) -> Self {
        Self { registry, store }
    }
}

#[async_trait]
impl JobKind for ReclaimJob {
    fn name(&self) -> &'static str {
        "reclaim"
    }

    async fn due(&self, _now_ms: u64) -> Result<Vec<JobSpec>> {
        let due = self.store.has_leftovers();
        Ok(if due { vec![JobSpec { target: None, parameters: None }] } else { Vec::new() })
    }

    async fn piece(&self, _job: &JobRecord) -> Result<Piece> {
        match self.store.reclaim(&self.registry).await? {
            0 => Ok(Piece::Nothing),
            n => Ok(Piece::Done(format!("removed what was left of {n} dropped tables or users"))),
        }
    }
}
