//! What the registry holds of tables in memory.
//!
//! Invariant: one entry holds a definition, its Arrow schema, its key codec and its provider, so they go together and
//! none outlives another. What is computed from a definition is computed once.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::Schema;
use datafusion::catalog::TableProvider;
use hashbrown::HashMap;

use super::definition::{ColumnDefinition, TableDefinition};
use super::ids::TableId;
use crate::error::Result;
use crate::types::KeyCodec;

/// A definition with what is computed from it once.
#[derive(Debug)]
pub struct CachedTableData {
    definition: Arc<TableDefinition>,
    schema: OnceLock<Arc<Schema>>,
    key_codec: OnceLock<Arc<KeyCodec>>,
}

impl CachedTableData {
    /// The data of a definition. The registry makes it for tables it keeps; system tables have theirs from code.
    pub fn new(definition: TableDefinition) -> Self {
        Self { definition: Arc::new(definition), schema: OnceLock::new(), key_codec: OnceLock::new() }
    }

    /// The definition.
    pub fn definition(&self) -> &Arc<TableDefinition> {
        &self.definition
    }

    /// The name.
    pub fn table_id(&self) -> &TableId {
        &self.definition.table_id
    }

    /// The version.
    pub fn schema_version(&self) -> u32 {
        self.definition.schema_version
    }

    /// The storage of the table's segments.
    pub fn storage_id(&self) -> &str {
        self.definition.storage_id()
    }

    /// The Arrow schema; the same `Arc` each time.
    pub fn arrow_schema(&self) -> Result<Arc<Schema>> {
        if let Some(schema) = self.schema.get() {
            return Ok(Arc::clone(schema));
        }
        let schema = Arc::new(self.definition.arrow_schema()?);
        Ok(Arc::clone(self.schema.get_or_init(|| schema)))
    }

    /// The codec of the table's keys; the same `Arc` each time.
    pub fn key_codec(&self) -> Result<Arc<KeyCodec>> {
        if let Some(codec) = self.key_codec.get() {
            return Ok(Arc::clone(codec));
        }
        let codec = Arc::new(self.definition.key_codec()?);
        Ok(Arc::clone(self.key_codec.get_or_init(|| codec)))
    }

    /// About how many bytes it takes in memory.
    fn size(&self) -> usize {
        let definition = &self.definition;
        let column =
            |c: &ColumnDefinition| size_of_val(c) + c.name.len() + c.initial_default.as_ref().map_or(0, String::len);
        let columns: usize = definition.columns.iter().map(column).sum();
        let history: usize = definition.history.iter().map(|v| size_of_val(v) + v.by.len()).sum();
        // A field: itself, its Arc, its name, two metadata entries in a map with room for three.
        let fields = self.schema.get().map_or(0, |s| s.fields().iter().map(|f| f.size() + 16).sum::<usize>() + 128);
        let view = definition.view.as_ref().map_or(0, |v| v.sql.len());
        size_of::<Self>() + size_of::<TableDefinition>() + size_of::<Entry>() + columns + history + fields + view
    }
}

/// What the cache has of a table.
pub(super) struct Entry {
    /// Its data.
    pub data: Arc<CachedTableData>,
    /// Its provider, once somebody asked for it.
    pub provider: Option<Arc<dyn TableProvider>>,
}

/// What the registry holds in memory.
#[derive(Default)]
pub(super) struct Cache {
    /// By name.
    pub tables: HashMap<TableId, Entry>,
    /// Every table of storage is in `tables`.
    pub complete: bool,
}

impl Cache {
    /// The entry of a definition, which is made if there is none.
    pub fn fill(&mut self, mut definition: TableDefinition) -> Arc<CachedTableData> {
        // Decoding leaves room for columns and versions that will never come: a third of what a small table takes.
        definition.columns.shrink_to_fit();
        definition.primary_key.shrink_to_fit();
        definition.history.shrink_to_fit();
        let id = definition.table_id.clone();
        let entry = self
            .tables
            .entry(id)
            .or_insert_with(|| Entry { data: Arc::new(CachedTableData::new(definition)), provider: None });
        Arc::clone(&entry.data)
    }

    /// About how many bytes its tables take.
    pub fn bytes(&self) -> usize {
        self.tables.values().map(|entry| entry.data.size()).sum()
    }
}
