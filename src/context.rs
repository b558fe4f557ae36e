//! The application context: everything one open database consists of, built once.
//!
//! Invariant: an [`AppContext`] is the only owner of the node's id, the registry, the store and the executor, and the
//! only place that creates a [`NodeId`]; whatever records one has it from here. A database that was written by a later
//! format is refused before anything else is read.

use std::fmt;
use std::hash::Hasher;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use web_time::Duration;

use crate::error::{ErrorCode, KalamError, Result};
use crate::jobs::{EvictJob, JobKind, JobManager, ReclaimJob, RetentionJob, RewriteJob};
use crate::platform;
use crate::schema::{Role, SchemaRegistry, check_user_name};
use crate::sql::{DEFAULT_TRANSACTION_TIMEOUT, Session, SqlExecutor};
use crate::storage::backup::{DATABASE_KEY, check_restored};
use crate::storage::record::{self, RecordKind};
use crate::storage::{
    self, Backup, CountingBackend, Durability, GatedBackend, Partition, Restore, StorageBackend, WriteBatch,
};
use crate::tables::{
    DueWork, Finding, Health, Salvage, Scrub, SystemProviders, SystemTablesRegistry, TableProviders, TableStore,
};

/// The version of this engine.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The on-disk format that this engine writes, and the greatest that it opens; see ARCHITECTURE.md.
///
/// 1: rows in the log only. 2: segments; an engine that knows only the log would not see their rows, so opening a
/// database of format 1 makes it one of format 2. 3: in a browser, commits may be in a journal beside IndexedDB; one that
/// does not know it would miss them.
pub const FORMAT: u32 = 3;

/// The user of a session that names none.
pub const DEFAULT_USER: &str = "default";

/// The name of a node, recorded wherever it matters which engine did something: letters, digits and `-`, at most 64.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    fn new(text: &str) -> Result<Self> {
        let valid = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !valid {
            return Err(KalamError::new(
                ErrorCode::InvalidOption,
                format!("nodeId is '{text}', expected 1 to 64 letters, digits and '-'"),
            ));
        }
        Ok(Self(Arc::from(text)))
    }

    fn generate() -> Self {
        let id = Uuid::new_v4().simple().to_string();
        Self(Arc::from(format!("node-{}", &id[..12])))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Ten bits of it, for `_seq`.
    fn worker(&self) -> u16 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.write(self.0.as_bytes());
        (hasher.finalize() & 0x3FF) as u16
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an application chooses when it opens a database.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's id; generated once and kept if none is given.
    pub node_id: Option<String>,
    /// The user of USER tables.
    pub user: String,
    /// What whoever opens the database may do: everything, unless the application says otherwise. A guard rail, not a
    /// security boundary.
    pub role: Role,
    /// Bytes that running queries may use together.
    pub memory_limit: usize,
    /// Bytes that rows may take in memory before a writer first has to write some to segments. From half of it on that
    /// is done while nothing else runs.
    pub hot_limit: usize,
    /// Bytes that what is read of segments may take in memory.
    pub segment_cache: usize,
    /// A transaction that runs no statement for so long is rolled back.
    pub transaction_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_id: None,
            user: DEFAULT_USER.to_owned(),
            role: Role::System,
            memory_limit: 512 << 20,
            hot_limit: if platform::SMALL_MEMORY { 128 << 20 } else { 256 << 20 },
            segment_cache: 64 << 20,
            transaction_timeout: DEFAULT_TRANSACTION_TIMEOUT,
        }
    }
}

/// What the record of a database holds.
#[derive(Debug, Serialize, Deserialize)]
struct DatabaseRecord {
    /// The on-disk format.
    format: u32,
    /// The node's id.
    node_id: String,
    /// When the database was made, in milliseconds since the epoch.
    created_at_ms: u64,
    /// The engine that made it.
    created_by: String,
}

/// One open database; see the module's comment.
#[derive(Debug)]
pub struct AppContext {
    node_id: NodeId,
    backend: Arc<dyn StorageBackend>,
    gated: Arc<GatedBackend>,
    jobs: Arc<JobManager>,
    registry: Arc<SchemaRegistry>,
    store: Arc<TableStore>,
    executor: Arc<SqlExecutor>,
    session: Arc<Session>,
}

impl AppContext {
    /// Opens the database that a backend holds, and makes it if there is none.
    pub async fn open(backend: Arc<dyn StorageBackend>, config: Config) -> Result<Arc<Self>> {
        check_restored(backend.as_ref()).await?;
        let gated = Arc::new(GatedBackend::new(backend));
        let counting = Arc::new(CountingBackend::new(Arc::clone(&gated) as _));
        let backend: Arc<dyn StorageBackend> = Arc::clone(&counting) as _;
        check_user_name(&config.user)?;
        let given = config.node_id.as_deref().map(NodeId::new).transpose()?;
        let stored = read_database(backend.as_ref()).await?;
        let kept = stored.as_ref().map(|record| NodeId::new(&record.node_id)).transpose()?;
        let node_id = given.or(kept).unwrap_or_else(NodeId::generate);
        if stored.as_ref().is_none_or(|record| record.node_id != node_id.as_str() || record.format != FORMAT) {
            write_database(backend.as_ref(), stored, &node_id).await?;
        }
        let store = TableStore::open(Arc::clone(&backend), node_id.worker()).await?;
        store.set_memory(config.hot_limit, config.segment_cache);
        let registry = Arc::new(SchemaRegistry::new(Arc::clone(&backend)));
        registry.ensure_defaults().await?;
        let system =
            SystemTablesRegistry::open(Arc::clone(&node_id.0), counting, &registry, Arc::clone(&store)).await?;
        let providers = Arc::new(TableProviders::new(Arc::clone(&store)));
        registry.set_provider_factory(Arc::new(SystemProviders::new(Arc::clone(&system), providers)));
        let executor = SqlExecutor::new(
            Arc::clone(&registry),
            Arc::clone(&store),
            system,
            Arc::clone(&gated),
            config.memory_limit,
            config.transaction_timeout,
        )?;
        // Nobody reads yet. What cannot be removed now is removed later.
        let _ = store.reclaim(&registry).await;
        let executor = Arc::new(executor);
        let jobs = open_jobs(&backend, &executor).await?;
        let session = Arc::new(Session::with_role(config.user, config.role));
        Ok(Arc::new(Self { node_id, backend, gated, jobs, registry, store, executor, session }))
    }

    /// Restores a backup into an empty backend, and opens what was restored. `DATABASE_EXISTS` if it is not empty.
    pub async fn restore(backend: Arc<dyn StorageBackend>, bytes: &[u8], config: Config) -> Result<Arc<Self>> {
        let mut restore = Restore::begin(Arc::clone(&backend)).await?;
        restore.push(bytes).await?;
        restore.finish().await?;
        Self::open(backend, config).await
    }

    /// The whole database as a stream of bytes: one state, between two commits. Commits wait until it is dropped.
    pub async fn backup(&self) -> Backup {
        let about = serde_json::json!({
            "format": FORMAT,
            "engine": VERSION,
            "nodeId": self.node_id.as_str(),
            "storage": self.backend.kind(),
            "createdAtMs": platform::now_ms(),
        });
        Backup::new(self.gated.close_gate().await, &about)
    }

    /// What can be read of a damaged database, which need not open: as a backup that restores to one that does, and the
    /// report of what is missing in it. Nobody may write to the backend meanwhile. `DATABASE_NOT_FOUND` if there is nothing.
    pub async fn rescue(backend: Arc<dyn StorageBackend>) -> Result<(Backup, Vec<Finding>)> {
        if storage::is_empty(backend.as_ref()).await? {
            return Err(KalamError::new(
                ErrorCode::DatabaseNotFound,
                format!("the storage '{}' holds no database: it is empty", backend.kind()),
            ));
        }
        let scrub = Scrub::run(&backend, None, None, true, || Ok(())).await?;
        let lost = backend.lost().map(|error| Finding {
            object: "journal".into(),
            health: Health::Damaged,
            detail: error.message().to_owned(),
        });
        let findings = lost.into_iter().chain(scrub.findings.iter().cloned()).collect();
        let about = serde_json::json!({
            "format": FORMAT,
            "engine": VERSION,
            "rescued": true,
            "storage": backend.kind(),
            "createdAtMs": platform::now_ms(),
        });
        let database = DatabaseRecord {
            format: FORMAT,
            node_id: NodeId::generate().as_str().to_owned(),
            created_at_ms: platform::now_ms(),
            created_by: VERSION.to_owned(),
        };
        let database = serde_json::to_vec(&database).map_err(KalamError::internal)?;
        let salvage = Salvage::new(backend, scrub, &database).await?;
        Ok((Backup::of_unchanged(Arc::new(salvage), &about), findings))
    }

    /// The node's id.
    pub fn node_id(&self) -> &NodeId {
        &self.node_id
    }

    /// What the database is stored on.
    pub fn backend(&self) -> &Arc<dyn StorageBackend> {
        &self.backend
    }

    /// The one door for schemas.
    pub fn registry(&self) -> &Arc<SchemaRegistry> {
        &self.registry
    }

    /// The rows of all tables.
    pub fn store(&self) -> &Arc<TableStore> {
        &self.store
    }

    /// The engine's own tables.
    pub fn system(&self) -> &Arc<SystemTablesRegistry> {
        self.executor.system()
    }

    /// Runs what nobody waits for, when it is told that there is time.
    pub fn jobs(&self) -> &Arc<JobManager> {
        &self.jobs
    }

    /// Runs statements.
    pub fn executor(&self) -> &Arc<SqlExecutor> {
        &self.executor
    }

    /// The session of whoever opened the database.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// A session of another user, with the role that the user has. Fails unless the session of whoever opened the
    /// database may act as that user.
    pub async fn session_as(&self, user: &str) -> Result<Session> {
        self.executor.session_as(&self.session, user).await
    }

    /// Waits for what is under way and closes the backend.
    pub async fn close(&self) -> Result<()> {
        // A job that cannot be written down is found running, and run again.
        let _ = self.jobs.close().await;
        let finished = self.store.close().await;
        // Whatever the store's last words met, the backend is not held any longer.
        self.backend.close().await.and(finished)
    }
}

async fn open_jobs(backend: &Arc<dyn StorageBackend>, executor: &SqlExecutor) -> Result<Arc<JobManager>> {
    let system = executor.system();
    let retention = RetentionJob::new(Arc::clone(backend), system.jobs().clone());
    let rewrite = |work| RewriteJob::new(work, Arc::clone(executor.registry()), Arc::clone(executor.store()));
    let kinds: Vec<Arc<dyn JobKind>> = vec![
        Arc::new(EvictJob::new(Arc::clone(executor.store()))),
        Arc::new(rewrite(DueWork::Flush)),
        Arc::new(rewrite(DueWork::Compact)),
        Arc::new(retention),
        Arc::new(ReclaimJob::new(Arc::clone(executor.registry()), Arc::clone(executor.store()))),
    ];
    let jobs = JobManager::open(system, Arc::clone(backend), Arc::clone(executor.store()), kinds).await?;
    let manager: Weak<JobManager> = Arc::downgrade(&jobs);
    system.set_job_manager(manager);
    Ok(jobs)
}

async fn read_database(backend: &dyn StorageBackend) -> Result<Option<DatabaseRecord>> {
    let Some(value) = backend.get(Partition::Meta, DATABASE_KEY).await? else { return Ok(None) };
    let payload = record::open(RecordKind::Entity, DATABASE_KEY, &value)?;
    let stored: DatabaseRecord = serde_json::from_slice(&payload).map_err(|e| {
        KalamError::new(ErrorCode::DataCorrupted, format!("the record of the database does not decode: {e}"))
    })?;
    if stored.format > FORMAT {
        return Err(KalamError::new(
            ErrorCode::UnsupportedFormat,
            format!("the database has format {}, this version reads up to {FORMAT}", stored.format),
        )
        .with_hint("It was written by a later version of KalamDB. Update the package."));
    }
    Ok(Some(stored))
}

async fn write_database(backend: &dyn StorageBackend, old: Option<DatabaseRecord>, node_id: &NodeId) -> Result<()> {
    let stored = DatabaseRecord {
        format: FORMAT,
        node_id: node_id.as_str().to_owned(),
        created_at_ms: old.as_ref().map_or_else(platform::now_ms, |o| o.created_at_ms),
        created_by: old.map_or_else(|| VERSION.to_owned(), |o| o.created_by),
    };
    let json = serde_json::to_vec(&stored).map_err(KalamError::internal)?;
    let mut batch = WriteBatch::new();
    batch.put(Partition::Meta, DATABASE_KEY, record::seal(RecordKind::Entity, DATABASE_KEY, &json));
    backend.commit(batch, Durability::Strict).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryBackend;
    use futures::executor::block_on;

    #[test]
    fn the_node_id_is_generated_once_and_kept() -> Result<()> {
        block_on(async {
            let backend = Arc::new(MemoryBackend::new());
            let first = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
            let id = first.node_id().clone();
            first.close().await?;
            let again = AppContext::open(Arc::new(backend.reopen()), Config::default()).await?;
            assert_eq!(again.node_id(), &id);
            let given = Config { node_id: Some("laptop-1".into()), ..Config::default() };
            let named = AppContext::open(Arc::new(backend.reopen()), given).await?;
            assert_eq!(named.node_id().as_str(), "laptop-1");
            Ok(())
        })
    }

    #[test]
    fn a_bad_node_id_and_a_later_format_are_refused() -> Result<()> {
        block_on(async {
            for bad in ["", "a b", "ü", &"x".repeat(65)] {
                let config = Config { node_id: Some((*bad).to_owned()), ..Config::default() };
                let error = AppContext::open(Arc::new(MemoryBackend::new()), config).await.expect_err(bad);
                assert_eq!(error.code(), ErrorCode::InvalidOption);
            }
            let backend = MemoryBackend::new();
            let later =
                serde_json::json!({"format": FORMAT + 1, "node_id": "n", "created_at_ms": 0, "created_by": "9"});
            let mut batch = WriteBatch::new();
            let json = later.to_string();
            batch.put(Partition::Meta, DATABASE_KEY, record::seal(RecordKind::Entity, DATABASE_KEY, json.as_bytes()));
            backend.commit(batch, Durability::Strict).await?;
            let error = AppContext::open(Arc::new(backend), Config::default()).await.expect_err("later format");
            assert_eq!(error.code(), ErrorCode::UnsupportedFormat);
            Ok(())
        })
    }
}
