//! The one door to schemas: cache, persistence, Arrow schemas and providers.
//!
//! Invariant: what the cache holds is what storage holds. A definition enters the cache after its record is durable
//! (write-through) or as it was read, if no definition changed while it was read (read-through that fills). One
//! entry holds definition, Arrow schema and provider, so they go together. A change of definitions runs under one
//! lock from its checks to the end of its storage transaction, so two creations of one name cannot both succeed. A
//! failing store is an error and never "no such table".

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::catalog::TableProvider;
use futures::lock::{Mutex, MutexGuard};
use parking_lot::RwLock;

use super::cache::{Cache, CachedTableData};
use super::definition::{TableDefinition, TableType};
use super::ids::{DEFAULT_NAMESPACE, NamespaceDefinition, TableId, is_reserved_namespace, namespace_prefix};
use super::stores::{NamespaceStore, TableSchemaStore};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use crate::storage::record::{self, RecordKind};
use crate::storage::{Durability, MAX_VALUE_BYTES, Partition, StorageBackend, WriteBatch, WriteOp};

/// Where the next table number is kept, in the meta partition.
const NEXT_TABLE_NO_KEY: &[u8] = b"next_table_no";

/// Makes the provider of a table. The room that has providers implements it; this room does not know them.
pub trait ProviderFactory: Send + Sync {
    /// A provider for a table as it is defined now.
    fn provider(&self, table: &Arc<CachedTableData>) -> Result<Arc<dyn TableProvider>>;
}

/// What changes of definitions need, one at a time.
#[derive(Debug, Default)]
struct Ddl {
    /// The next table number, once it was read: (to hand out, in storage).
    next_table_no: Option<(u32, u32)>,
}

/// How the cache does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegistryStatistics {
    /// Lookups answered by the cache.
    pub hits: u64,
    /// Lookups that went to storage.
    pub misses: u64,
    /// Tables in the cache.
    pub size: usize,
    /// About how many bytes they take.
    pub bytes: usize,
}

/// The registry; see the module's comment.
pub struct SchemaRegistry {
    backend: Arc<dyn StorageBackend>,
    tables: TableSchemaStore,
    namespaces: NamespaceStore,
    cache: RwLock<Cache>,
    factory: RwLock<Option<Arc<dyn ProviderFactory>>>,
    ddl: Mutex<Ddl>,
    /// Grows with every change of the cache's contents other than a fill.
    version: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl std::fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchemaRegistry")
            .field("backend", &self.backend)
            .field("statistics", &self.statistics())
            .finish()
    }
}

impl SchemaRegistry {
    /// A registry over a backend, with nothing in the cache.
    pub fn new(backend: Arc<dyn StorageBackend>) -> Self {
        Self {
            tables: TableSchemaStore::new(Arc::clone(&backend)),
            namespaces: NamespaceStore::new(Arc::clone(&backend)),
            backend,
            cache: RwLock::default(),
            factory: RwLock::new(None),
            ddl: Mutex::default(),
            version: AtomicU64::new(1),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Sets what makes providers, once, when the database opens.
    pub fn set_provider_factory(&self, f: Arc<dyn ProviderFactory>) {
        *self.factory.write() = Some(f);
        self.clear();
    }

    /// Creates what every database has: the namespace `default`.
    pub async fn ensure_defaults(&self) -> Result<()> {
        let _ddl = self.ddl.lock().await;
        let name = DEFAULT_NAMESPACE.to_owned();
        if self.namespaces.get(&name).await?.is_none() {
            let namespace = NamespaceDefinition {
                name: name.clone(),
                created_at_ms: platform::now_ms(),
                created_by: String::new(),
            };
            self.namespaces.put(&name, &namespace).await?;
        }
        Ok(())
    }

    /// A table or view: from the cache, or from storage into the cache. `None` means that there is none.
    pub async fn table(&self, id: &TableId) -> Result<Option<Arc<CachedTableData>>> {
        if let Some(found) = self.cached(id) {
            return Ok(Some(found));
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        if self.cache.read().complete {
            return Ok(None);
        }
        loop {
            let version = self.catalog_version();
            let read = self.tables.get(id).await?;
            let mut cache = self.cache.write();
            if let Some(entry) = cache.tables.get(id) {
                return Ok(Some(Arc::clone(&entry.data)));
            }
            // A definition changed while this one was read: it may be the old one.
            if version != self.catalog_version() {
                continue;
            }
            let Some(definition) = read else { return Ok(None) };
            return Ok(Some(cache.fill(definition)));
        }
    }

    /// A table or view if it is in the cache; counts a hit if so.
    pub fn cached(&self, id: &TableId) -> Option<Arc<CachedTableData>> {
        let found = self.cache.read().tables.get(id).map(|e| Arc::clone(&e.data));
        if found.is_some() {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// The provider of a table: one per table, until its definition changes. `None` if there is no such table, and for
    /// a view, which has no rows of its own and is planned for each query.
    pub async fn provider(&self, id: &TableId) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(provider) = self.cached_provider(id) {
            return Ok(Some(provider));
        }
        let Some(data) = self.table(id).await? else { return Ok(None) };
        if data.definition().table_type == TableType::View {
            return Ok(None);
        }
        let factory = self.factory.read().clone();
        let factory =
            factory.ok_or_else(|| KalamError::internal("a provider was asked for before there was a factory"))?;
        let made = factory.provider(&data)?;
        let mut cache = self.cache.write();
        Ok(Some(match cache.tables.get_mut(id) {
            // Another caller may have made one in between: the first stays.
            Some(entry) if Arc::ptr_eq(&entry.data, &data) => Arc::clone(entry.provider.get_or_insert(made)),
            // The definition is gone from the cache: this provider is right for what the caller saw, and not kept.
            _ => made,
        }))
    }

    /// The provider of a table if it is in the cache; counts a hit if so.
    pub fn cached_provider(&self, id: &TableId) -> Option<Arc<dyn TableProvider>> {
        let found = self.cache.read().tables.get(id).and_then(|e| e.provider.clone());
        if found.is_some() {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// Stores a definition, strictly durable, then puts it in the cache. Version 1 creates (TABLE_EXISTS if the name
    /// is taken); a later version must follow the stored one (SERIALIZATION_FAILURE if another ALTER came first).
    pub async fn put(&self, def: TableDefinition) -> Result<Arc<CachedTableData>> {
        self.put_with(def, WriteBatch::new()).await
    }

    /// As [`SchemaRegistry::put`], with further changes in the same storage transaction.
    pub async fn put_with(&self, def: TableDefinition, batch: WriteBatch) -> Result<Arc<CachedTableData>> {
        self.put_through(def, batch, |batch| self.write(batch)).await
    }

    /// As [`SchemaRegistry::put_with`], with `commit` to write the storage transaction: for changes that rows
    /// are part of.
    pub async fn put_through<F>(
        &self,
        def: TableDefinition,
        batch: WriteBatch,
        commit: impl FnOnce(WriteBatch) -> F,
    ) -> Result<Arc<CachedTableData>>
    where
        F: Future<Output = Result<()>>,
    {
        let mut ddl = self.ddl.lock().await;
        let stored = self.tables.get(&def.table_id).await?;
        match &stored {
            None if def.schema_version == 1 => self.check_namespace(&def).await?,
            None => return Err(not_found(&def.table_id)),
            Some(stored) => check_follows(stored, &def)?,
        }
        self.store(&mut ddl, def, None, batch, commit).await
    }

    /// Stores definitions of system tables, new ones and later versions, with further changes, all in one storage
    /// transaction: for the upgrade of the catalog, before anyone uses them.
    pub async fn put_system(&self, definitions: Vec<TableDefinition>, further: WriteBatch) -> Result<()> {
        let _ddl = self.ddl.lock().await;
        let mut batch = WriteBatch::new();
        for def in &definitions {
            if def.table_type != TableType::System || !is_reserved_namespace(&def.table_id.namespace) {
                return Err(KalamError::internal(format_args!("'{}' is not a system table", def.table_id)));
            }
            self.tables.put_into(&mut batch, &def.table_id, def)?;
        }
        batch.append(further);
        self.commit(batch).await?;
        let mut cache = self.cache.write();
        self.version.fetch_add(1, Ordering::Relaxed);
        for def in definitions {
            cache.tables.remove(&def.table_id);
            cache.fill(def);
        }
        Ok(())
    }

    /// Stores a definition that [`TableDefinition::rename_table`] gave, in place of the one under the old name, with
    /// further changes in the same storage transaction.
    pub async fn rename_with(
        &self,
        old: &TableId,
        def: TableDefinition,
        batch: WriteBatch,
    ) -> Result<Arc<CachedTableData>> {
        let mut ddl = self.ddl.lock().await;
        let stored = self.tables.get(old).await?.ok_or_else(|| not_found(old))?;
        check_follows(&stored, &def)?;
        if let Some(taken) = self.tables.get(&def.table_id).await? {
            return Err(exists(&def.table_id, &taken));
        }
        self.check_namespace(&def).await?;
        self.store(&mut ddl, def, Some(old), batch, |batch| self.write(batch)).await
    }

    async fn write(&self, batch: WriteBatch) -> Result<()> {
        self.backend.commit(batch, Durability::Strict).await.map(drop)
    }

    /// Writes a change of the catalog. When storage reports an error it may have taken the change all the same, so
    /// the cache forgets what it held and reads it again.
    async fn commit(&self, batch: WriteBatch) -> Result<()> {
        let outcome = self.write(batch).await;
        if outcome.is_err() {
            self.clear();
        }
        outcome
    }

    /// Writes a checked definition and what belongs to it, then changes the cache.
    async fn store<F>(
        &self,
        ddl: &mut MutexGuard<'_, Ddl>,
        def: TableDefinition,
        replaces: Option<&TableId>,
        further: WriteBatch,
        commit: impl FnOnce(WriteBatch) -> F,
    ) -> Result<Arc<CachedTableData>>
    where
        F: Future<Output = Result<()>>,
    {
        let mut batch = WriteBatch::new();
        if let Some(old) = replaces {
            self.tables.delete_into(&mut batch, old);
        }
        self.tables.put_into(&mut batch, &def.table_id, &def)?;
        if batch.ops().iter().any(|op| matches!(op, WriteOp::Put { value, .. } if value.len() > MAX_VALUE_BYTES)) {
            let message = format!("the definition of '{}' takes more than {MAX_VALUE_BYTES} bytes", def.table_id);
            return Err(KalamError::new(ErrorCode::InvalidDefinition, message)
                .with_hint("It has too many columns or versions."));
        }
        let (next, in_storage) = self.load_next_table_no(ddl).await?;
        let next = next.max(def.table_no.saturating_add(1));
        if next > in_storage {
            let json = next.to_string();
            batch.put(
                Partition::Meta,
                NEXT_TABLE_NO_KEY,
                record::seal(RecordKind::Entity, NEXT_TABLE_NO_KEY, json.as_bytes()),
            );
        }
        batch.append(further);
        if let Err(error) = commit(batch).await {
            self.clear();
            // Whether the greater number was stored is not known: the next definition stores it again.
            ddl.next_table_no = Some((next, 0));
            return Err(error);
        }
        ddl.next_table_no = Some((next, next.max(in_storage)));
        let mut cache = self.cache.write();
        self.version.fetch_add(1, Ordering::Relaxed);
        if let Some(old) = replaces {
            cache.tables.remove(old);
        }
        cache.tables.remove(&def.table_id);
        Ok(cache.fill(def))
    }

    /// Removes a table or view, with further changes (its log, its segments) in the same storage transaction.
    /// `false`, and nothing of the batch done, if there is none.
    pub async fn delete_with(&self, id: &TableId, batch: WriteBatch) -> Result<bool> {
        let _ddl = self.ddl.lock().await;
        if self.tables.get(id).await?.is_none() {
            return Ok(false);
        }
        let mut all = WriteBatch::new();
        self.tables.delete_into(&mut all, id);
        all.append(batch);
        self.commit(all).await?;
        let mut cache = self.cache.write();
        self.version.fetch_add(1, Ordering::Relaxed);
        cache.tables.remove(id);
        Ok(true)
    }

    /// A table number that no other table has or had. It is stored with the definition that uses it.
    pub async fn next_table_no(&self) -> Result<u32> {
        let mut ddl = self.ddl.lock().await;
        let (next, in_storage) = self.load_next_table_no(&mut ddl).await?;
        let after = next.checked_add(1).ok_or_else(|| KalamError::internal("the table numbers are used up"))?;
        ddl.next_table_no = Some((after, in_storage));
        Ok(next)
    }

    async fn load_next_table_no(&self, ddl: &mut MutexGuard<'_, Ddl>) -> Result<(u32, u32)> {
        if let Some(known) = ddl.next_table_no {
            return Ok(known);
        }
        let stored = match self.backend.get(Partition::Meta, NEXT_TABLE_NO_KEY).await? {
            None => 1,
            Some(sealed) => {
                let json = record::open(RecordKind::Entity, NEXT_TABLE_NO_KEY, &sealed)?;
                serde_json::from_slice::<u32>(&json).map_err(|e| {
                    KalamError::new(
                        ErrorCode::DataCorrupted,
                        format!("the stored next table number does not decode: {e}"),
                    )
                })?
            }
        };
        // Not stored yet counts as 1: the first definition stores a greater one.
        Ok(*ddl.next_table_no.insert((stored, stored)))
    }

    async fn check_namespace(&self, def: &TableDefinition) -> Result<()> {
        let name = &def.table_id.namespace;
        if is_reserved_namespace(name) {
            if def.table_type == TableType::System {
                return Ok(());
            }
            let message = format!("the namespace '{name}' is reserved: '{}' cannot be created in it", def.table_id);
            return Err(KalamError::new(ErrorCode::PermissionDenied, message));
        }
        match self.namespaces.get(&name.to_string()).await? {
            Some(_) => Ok(()),
            None => Err(no_namespace(name)),
        }
    }

    /// Every namespace, by name.
    pub async fn namespaces(&self) -> Result<Vec<NamespaceDefinition>> {
        self.namespaces.list().await
    }

    /// A namespace.
    pub async fn namespace(&self, name: &str) -> Result<Option<NamespaceDefinition>> {
        self.namespaces.get(&name.to_owned()).await
    }

    /// Stores a new namespace.
    pub async fn create_namespace(&self, def: NamespaceDefinition) -> Result<()> {
        self.create_namespace_with(def, WriteBatch::new()).await
    }

    /// As [`SchemaRegistry::create_namespace`], with further changes in the same storage transaction.
    pub async fn create_namespace_with(&self, def: NamespaceDefinition, mut batch: WriteBatch) -> Result<()> {
        let _ddl = self.ddl.lock().await;
        // Checked again here, because the fields are public.
        NamespaceDefinition::new(&def.name, def.created_at_ms, &def.created_by)?;
        if self.namespaces.get(&def.name).await?.is_some() {
            return Err(KalamError::new(
                ErrorCode::NamespaceExists,
                format!("the namespace '{}' exists already", def.name),
            ));
        }
        self.namespaces.put_into(&mut batch, &def.name, &def)?;
        self.commit(batch).await?;
        self.version.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Removes an empty namespace.
    pub async fn drop_namespace(&self, name: &str) -> Result<()> {
        self.drop_namespace_with(name, WriteBatch::new()).await
    }

    /// As [`SchemaRegistry::drop_namespace`], with further changes in the same storage transaction.
    pub async fn drop_namespace_with(&self, name: &str, mut batch: WriteBatch) -> Result<()> {
        let _ddl = self.ddl.lock().await;
        if is_reserved_namespace(name) || name == DEFAULT_NAMESPACE {
            return Err(KalamError::new(
                ErrorCode::PermissionDenied,
                format!("the namespace '{name}' cannot be dropped"),
            ));
        }
        let key = name.to_owned();
        if self.namespaces.get(&key).await?.is_none() {
            return Err(no_namespace(name));
        }
        let tables = self.tables.list_prefix(&namespace_prefix(name)).await?;
        if let Some(first) = tables.first() {
            let message = format!(
                "the namespace '{name}' is not empty: it holds {} tables or views, '{}' among them",
                tables.len(),
                first.table_id
            );
            return Err(KalamError::new(ErrorCode::NamespaceNotEmpty, message).with_hint("Drop them first."));
        }
        self.namespaces.delete_into(&mut batch, &key);
        self.commit(batch).await?;
        self.version.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Every table and view, or those of a namespace, by name. They are in the cache afterwards.
    pub async fn tables(&self, namespace: Option<&str>) -> Result<Vec<Arc<CachedTableData>>> {
        loop {
            {
                let cache = self.cache.read();
                if cache.complete {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    let wanted = |id: &TableId| namespace.is_none_or(|n| n == id.namespace.as_ref());
                    let found = cache.tables.iter().filter(|(id, _)| wanted(id)).map(|(_, e)| Arc::clone(&e.data));
                    let mut found: Vec<_> = found.collect();
                    found.sort_by(|a, b| a.table_id().cmp(b.table_id()));
                    return Ok(found);
                }
            }
            self.misses.fetch_add(1, Ordering::Relaxed);
            let version = self.catalog_version();
            let prefix = namespace.map(namespace_prefix).unwrap_or_default();
            let read = self.tables.list_prefix(&prefix).await?;
            let mut cache = self.cache.write();
            if version != self.catalog_version() {
                continue;
            }
            cache.complete |= namespace.is_none();
            return Ok(read.into_iter().map(|definition| cache.fill(definition)).collect());
        }
    }

    /// Drops a table's definition, Arrow schema and provider from the cache.
    pub fn invalidate(&self, id: &TableId) {
        let mut cache = self.cache.write();
        self.version.fetch_add(1, Ordering::Relaxed);
        cache.tables.remove(id);
        cache.complete = false;
    }

    /// Drops everything from the cache.
    pub fn clear(&self) {
        let mut cache = self.cache.write();
        self.version.fetch_add(1, Ordering::Relaxed);
        *cache = Cache::default();
    }

    /// How the cache does.
    pub fn statistics(&self) -> RegistryStatistics {
        let cache = self.cache.read();
        RegistryStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            size: cache.tables.len(),
            bytes: cache.bytes(),
        }
    }

    /// A number that grows with every change of a definition and whenever cached entries are dropped: what was
    /// planned under another number is planned again.
    pub fn catalog_version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }
}

fn not_found(id: &TableId) -> KalamError {
    KalamError::new(ErrorCode::TableNotFound, format!("table '{id}' does not exist"))
}

fn no_namespace(name: &str) -> KalamError {
    KalamError::new(ErrorCode::NamespaceNotFound, format!("the namespace '{name}' does not exist"))
        .with_hint(format!("CREATE NAMESPACE {name} creates it."))
}

fn exists(id: &TableId, stored: &TableDefinition) -> KalamError {
    let kind = if stored.table_type == TableType::View { "view" } else { "table" };
    KalamError::new(ErrorCode::TableExists, format!("{kind} '{id}' exists already"))
}

fn changed(id: &TableId) -> KalamError {
    KalamError::new(ErrorCode::Conflict, format!("another statement changed the definition of '{id}' first"))
        .with_hint("Run the statement again.")
}

/// Whether a definition is a later version of the stored one.
fn check_follows(stored: &TableDefinition, def: &TableDefinition) -> Result<()> {
    if def.schema_version == 1 {
        return Err(exists(&def.table_id, stored));
    }
    // Another number: the table was dropped and another one created under the name. One statement may take several
    // steps: what was stored must be where they started from.
    let starts = def.history.starts_with(&stored.history) && def.history.len() > stored.history.len();
    if stored.table_no == def.table_no && starts {
        return Ok(());
    }
    Err(changed(&def.table_id))
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
