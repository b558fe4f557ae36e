//! The engine's own tables: `system.*` and `information_schema.*`.
//!
//! They are tables like any other: their definitions lie in the catalog, the registry caches their Arrow schemas and
//! providers, and DataFusion plans them. Only their rows come from elsewhere: from entities of the catalog, from the
//! registry, from counters. Invariant: the rows are made when a plan is executed, never when it is planned, and the
//! rows that are kept from one execution to the next are those of the catalog as it is, told by two numbers that grow
//! with every change of it.

mod entities;
mod provider;
mod rows;
mod spec;
mod standard;
mod upgrade;
mod users;

#[cfg(test)]
#[path = "system_tests.rs"]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arrow::record_batch::RecordBatch;
use futures::future::BoxFuture;
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

pub use entities::{AuditRecord, JobRecord, JobStatus, StorageRecord, StorageRegistry, StorageStore, UserRecord};
pub use provider::{SystemProviders, SystemTableExec, SystemTableProvider};
pub use spec::{INFORMATION_SCHEMA, SYSTEM_NAMESPACE, SystemTable, is_system_namespace};
pub use standard::CATALOG;

use super::store::TableStore;
use crate::error::{KalamError, Result};
use crate::platform;
use crate::schema::{CachedTableData, SchemaRegistry};
use crate::storage::{
    CountingBackend, Durability, Entity, EntityStore, KeyRange, ScanOptions, StorageBackend, StorageCounters,
    WriteBatch,
};

/// Rows of a table are kept for the next execution up to so many bytes.
const MAX_KEPT_BYTES: usize = 4 << 20;

/// Something that counts, for `system.stats`.
pub trait Gauges: Send + Sync {
    /// Names and values of now. A name belongs to one source.
    fn gauges(&self) -> Vec<(&'static str, u64)>;
}

/// A row of `system.live_queries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveQueryRow {
    /// The id of the subscription.
    pub live_id: String,
    /// The connection that made it.
    pub connection_id: String,
    /// Its user.
    pub user_id: String,
    /// Its text.
    pub query: String,
    /// When it was made, in milliseconds since the epoch.
    pub created_at_ms: u64,
    /// The `_seq` that its subscriber was brought to.
    pub last_seq: i64,
}

/// Who knows the subscriptions: they live in memory, in a room above this one.
pub trait LiveQueries: Send + Sync {
    /// The subscriptions there are, by id.
    fn live_queries(&self) -> Vec<LiveQueryRow>;
}

/// Who runs the jobs: a room above this one.
pub trait Jobs: Send + Sync {
    /// The jobs that have not ended; storage may not know of them, or of how they stand.
    fn unfinished(&self) -> Vec<JobRecord>;

    /// Ends a job, or tells it to end if it runs.
    fn cancel<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// Rows that were made, and of which catalog.
struct Kept {
    catalog: CatalogState,
    table: Weak<CachedTableData>,
    batch: RecordBatch,
}

/// Two numbers that grow with every change of the catalog: in the cache, and in storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CatalogState {
    cache: u64,
    storage: u64,
}

/// The rows of the system tables; see the module's comment.
pub struct SystemTablesRegistry {
    node_id: Arc<str>,
    backend: Arc<CountingBackend>,
    /// Weak, because the registry holds this one through its providers.
    registry: Weak<SchemaRegistry>,
    store: Arc<TableStore>,
    users: EntityStore<UserRecord>,
    accounts: users::Users,
    jobs: EntityStore<JobRecord>,
    storages: StorageRegistry,
    audit: EntityStore<AuditRecord>,
    gauges: RwLock<Vec<Arc<dyn Gauges>>>,
    live_queries: RwLock<Option<Arc<dyn LiveQueries>>>,
    /// Weak, because it holds this one.
    job_manager: RwLock<Option<Weak<dyn Jobs>>>,
    kept: Mutex<HashMap<SystemTable, Kept>>,
    /// Whether ids for the audit log are above those that it holds.
    audit_ids_known: AtomicBool,
}

impl std::fmt::Debug for SystemTablesRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemTablesRegistry").field("node_id", &self.node_id).field("backend", &self.backend).finish()
    }
}

impl SystemTablesRegistry {
    /// The version of the catalog that this engine writes.
    pub const CATALOG_VERSION: usize = upgrade::STEPS.len();

    /// Opens the system tables of a database: creates what its catalog lacks and moves its version up.
    pub async fn open(
        node_id: Arc<str>,
        backend: Arc<CountingBackend>,
        registry: &Arc<SchemaRegistry>,
        store: Arc<TableStore>,
    ) -> Result<Arc<Self>> {
        Self::open_with(node_id, backend, registry, store, upgrade::STEPS).await
    }

    async fn open_with(
        node_id: Arc<str>,
        backend: Arc<CountingBackend>,
        registry: &Arc<SchemaRegistry>,
        store: Arc<TableStore>,
        steps: &[upgrade::Step],
    ) -> Result<Arc<Self>> {
        let shared = || Arc::clone(&backend) as Arc<dyn StorageBackend>;
        let storages = StorageStore::new(shared());
        upgrade::upgrade(registry, backend.as_ref(), &storages, steps).await?;
        Ok(Arc::new(Self {
            node_id,
            registry: Arc::downgrade(registry),
            store,
            users: EntityStore::new(shared()),
            accounts: users::Users::default(),
            jobs: EntityStore::new(shared()),
            storages: StorageRegistry::new(storages),
            audit: EntityStore::new(shared()),
            gauges: RwLock::default(),
            live_queries: RwLock::default(),
            job_manager: RwLock::default(),
            kept: Mutex::default(),
            audit_ids_known: AtomicBool::new(false),
            backend,
        }))
    }

    /// The version of the catalog that a backend holds; 0 if it holds none.
    pub async fn stored_version(backend: &dyn StorageBackend) -> Result<usize> {
        upgrade::read_version(backend).await
    }

    /// The node's id, for everything that records it.
    pub fn node_id(&self) -> &Arc<str> {
        &self.node_id
    }

    /// What the database is stored on.
    pub fn backend(&self) -> Arc<dyn StorageBackend> {
        Arc::clone(&self.backend) as _
    }

    /// The users.
    pub fn users(&self) -> &EntityStore<UserRecord> {
        &self.users
    }

    /// The jobs.
    pub fn jobs(&self) -> &EntityStore<JobRecord> {
        &self.jobs
    }

    /// The named storages.
    pub fn storages(&self) -> &StorageRegistry {
        &self.storages
    }

    /// What was asked of storage since the database was opened.
    pub fn storage_counters(&self) -> StorageCounters {
        self.backend.counters()
    }

    /// Adds a source of `system.stats`.
    pub fn add_gauges(&self, gauges: Arc<dyn Gauges>) {
        self.gauges.write().push(gauges);
    }

    /// Sets who knows the subscriptions.
    pub fn set_live_queries(&self, live_queries: Arc<dyn LiveQueries>) {
        *self.live_queries.write() = Some(live_queries);
    }

    /// Sets who runs the jobs.
    pub fn set_job_manager(&self, manager: Weak<dyn Jobs>) {
        *self.job_manager.write() = Some(manager);
    }

    /// Who runs the jobs, if anyone does.
    pub fn job_manager(&self) -> Option<Arc<dyn Jobs>> {
        self.job_manager.read().as_ref().and_then(Weak::upgrade)
    }

    /// Adds to a batch: the audit log's entry of a statement, so that it is there exactly if the batch is.
    pub async fn audit_into(&self, batch: &mut WriteBatch, user: &str, action: &str, target: &str) -> Result<()> {
        if !self.audit_ids_known.load(Ordering::Acquire) {
            // Once: no id may be given again, even if the clock has run backwards since the last one was.
            let range = KeyRange::prefix(AuditRecord::PREFIX);
            let options = ScanOptions { limit: Some(1), reverse: true };
            let last = self.backend.scan(AuditRecord::PARTITION, &range, options).await?;
            let id = last.first().and_then(|(key, _)| key.get(AuditRecord::PREFIX.len()..)?.try_into().ok());
            if let Some(id) = id {
                self.store.seqs().observe(i64::from_be_bytes(id));
            }
            self.audit_ids_known.store(true, Ordering::Release);
        }
        let entry = AuditRecord {
            audit_id: self.store.seqs().take(1).first(),
            at_us: platform::now_us(),
            node_id: self.node_id.to_string(),
            user_id: user.to_owned(),
            action: action.to_owned(),
            target: target.to_owned(),
        };
        self.audit.put_into(batch, &entry.audit_id, &entry)
    }

    /// Writes the audit log's entry of a statement that took effect already.
    pub async fn audit(&self, user: &str, action: &str, target: &str) -> Result<()> {
        let mut batch = WriteBatch::new();
        self.audit_into(&mut batch, user, action, target).await?;
        self.backend.commit(batch, Durability::Strict).await?;
        Ok(())
    }

    /// The rows of a system table as of now, in the columns of its definition.
    pub async fn batch(&self, table: &Arc<CachedTableData>) -> Result<RecordBatch> {
        let id = table.table_id();
        let which = SystemTable::of(id)
            .ok_or_else(|| KalamError::internal(format_args!("'{id}' is not a table of this engine")))?;
        let registry = self.schema_registry()?;
        if which.is_volatile() {
            return self.make(which, table, &registry).await;
        }
        // Read before the rows are made: a change meanwhile makes them be made again next time.
        let catalog = CatalogState { cache: registry.catalog_version(), storage: self.backend.catalog_changes() };
        if let Some(kept) = self.kept.lock().get(&which)
            && kept.catalog == catalog
            && std::ptr::eq(kept.table.as_ptr(), Arc::as_ptr(table))
        {
            return Ok(kept.batch.clone());
        }
        let batch = self.make(which, table, &registry).await?;
        if batch.get_array_memory_size() <= MAX_KEPT_BYTES {
            let kept = Kept { catalog, table: Arc::downgrade(table), batch: batch.clone() };
            self.kept.lock().insert(which, kept);
        }
        Ok(batch)
    }

    /// How many rows were found last, if they are kept.
    fn rows_kept(&self, table: &CachedTableData) -> Option<usize> {
        let which = SystemTable::of(table.table_id())?;
        self.kept.lock().get(&which).map(|kept| kept.batch.num_rows())
    }

    fn schema_registry(&self) -> Result<Arc<SchemaRegistry>> {
        self.registry.upgrade().ok_or_else(|| KalamError::internal("the database of a system table is gone"))
    }
}
