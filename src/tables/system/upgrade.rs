//! The versions of the catalog, and how an older one becomes the newest.
//!
//! Invariant: version n of the catalog is what the first n steps make of an empty database. What the steps that a
//! database lacks change, and the new version, are one storage transaction: a database has all of a version or
//! nothing. Steps are never edited once released; a change of a system table is a new step.

use std::collections::{BTreeMap, BTreeSet};

use super::entities::{StorageRecord, StorageStore};
use super::spec::{INFORMATION_SCHEMA, SYSTEM_NAMESPACE, SystemTable};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use crate::schema::{NewColumn, SchemaRegistry, TableDefinition, TableId, TableOptions, TableType};
use crate::storage::record::{self, RecordKind};
use crate::storage::{Partition, StorageBackend, WriteBatch};

/// Key of the catalog's version, in the meta partition.
const VERSION_KEY: &[u8] = b"catalog_version";

/// One step from a version to the next.
pub(super) type Step = fn(&mut Upgrade) -> Result<()>;

/// The steps to today's version.
pub(super) const STEPS: &[Step] = &[engine_tables, standard_tables, indexes_and_constraints];

/// 1: the tables of `system`, and the storage `local`.
fn engine_tables(upgrade: &mut Upgrade) -> Result<()> {
    upgrade.create(&SystemTable::SYSTEM)?;
    upgrade.add_local_storage()
}

/// 2: `information_schema`.
fn standard_tables(upgrade: &mut Upgrade) -> Result<()> {
    upgrade.create(&SystemTable::STANDARD)
}

/// 3: `system.indexes`, the views of constraints and indexes, and every column of PostgreSQL's in `information_schema`.
fn indexes_and_constraints(upgrade: &mut Upgrade) -> Result<()> {
    upgrade.renew(&SystemTable::STANDARD);
    upgrade.create(&SystemTable::SYSTEM)?;
    upgrade.create(&SystemTable::STANDARD)
}

/// The catalog while steps change it.
pub(super) struct Upgrade {
    /// Every system table there is.
    pub definitions: BTreeMap<TableId, TableDefinition>,
    /// Those to be written.
    pub changed: BTreeSet<TableId>,
    /// What else is to be written.
    batch: WriteBatch,
    storages: StorageStore,
    has_local_storage: bool,
    backend_kind: &'static str,
    now_ms: u64,
}

impl Upgrade {
    /// Creates the tables that are missing.
    fn create(&mut self, tables: &[SystemTable]) -> Result<()> {
        for table in tables {
            let id = table.table_id();
            if self.definitions.contains_key(&id) {
                continue;
            }
            let columns = table
                .columns()
                .iter()
                .map(|c| NewColumn { nullable: c.nullable, ..NewColumn::new(c.name, c.data_type) })
                .collect();
            let key: Vec<String> = table.key().iter().map(|&name| name.to_owned()).collect();
            // Number 0: a system table has no log and no segments that a number would name.
            let (kind, options) = (TableType::System, TableOptions::default());
            let definition = TableDefinition::new(id.clone(), 0, kind, columns, &key, options, self.now_ms, "")?;
            self.definitions.insert(id.clone(), definition);
            self.changed.insert(id);
        }
        Ok(())
    }

    /// Forgets the tables that have other columns than they should, so that they are created anew: their rows are made
    /// when they are asked, so none was written under the old definition.
    fn renew(&mut self, tables: &[SystemTable]) {
        for table in tables {
            let as_it_should = |found: &TableDefinition| {
                found.columns_in_order().map(|c| c.name.as_str()).eq(table.columns().iter().map(|c| c.name))
            };
            let id = table.table_id();
            if self.definitions.get(&id).is_some_and(|found| !as_it_should(found)) {
                self.definitions.remove(&id);
            }
        }
    }

    fn add_local_storage(&mut self) -> Result<()> {
        if !self.has_local_storage {
            let local = StorageRecord::local(self.backend_kind, self.now_ms);
            self.storages.put_into(&mut self.batch, &local.storage_id, &local)?;
        }
        Ok(())
    }
}

/// Brings a catalog to the version that the steps lead to. A later version than that is refused.
pub(super) async fn upgrade(
    registry: &SchemaRegistry,
    backend: &dyn StorageBackend,
    storages: &StorageStore,
    steps: &[Step],
) -> Result<()> {
    let stored = read_version(backend).await?;
    let known = steps.len();
    if stored > known {
        return Err(KalamError::new(
            ErrorCode::UnsupportedFormat,
            format!("the catalog has version {stored}, this version reads up to {known}"),
        )
        .with_hint("It was written by a later version of KalamDB. Update the package."));
    }
    if stored == known {
        return Ok(());
    }
    let mut definitions = BTreeMap::new();
    for namespace in [SYSTEM_NAMESPACE, INFORMATION_SCHEMA] {
        for table in registry.tables(Some(namespace)).await? {
            definitions.insert(table.table_id().clone(), table.definition().as_ref().clone());
        }
    }
    let mut upgrade = Upgrade {
        definitions,
        changed: BTreeSet::new(),
        batch: WriteBatch::new(),
        has_local_storage: storages.get(&TableOptions::DEFAULT_STORAGE.to_owned()).await?.is_some(),
        storages: storages.clone(),
        backend_kind: backend.kind(),
        now_ms: platform::now_ms(),
    };
    for step in &steps[stored..] {
        step(&mut upgrade)?;
    }
    let Upgrade { mut definitions, changed, mut batch, .. } = upgrade;
    let value = record::seal(RecordKind::Entity, VERSION_KEY, known.to_string().as_bytes());
    batch.put(Partition::Meta, VERSION_KEY, value);
    definitions.retain(|id, _| changed.contains(id));
    registry.put_system(definitions.into_values().collect(), batch).await
}

/// The stored version; 0 if the database has none yet.
pub(super) async fn read_version(backend: &dyn StorageBackend) -> Result<usize> {
    let Some(sealed) = backend.get(Partition::Meta, VERSION_KEY).await? else { return Ok(0) };
    let json = record::open(RecordKind::Entity, VERSION_KEY, &sealed)?;
    serde_json::from_slice(&json).map_err(|e| {
        KalamError::new(ErrorCode::DataCorrupted, format!("the version of the catalog does not decode: {e}"))
    })
}
