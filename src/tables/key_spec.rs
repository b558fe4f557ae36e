//! What identifies the rows of a table, under each version of it.
//!
//! Invariant: no ALTER changes which columns a key has, only their types. So a key is described by its columns' ids and
//! the version since which they have their types, and two keys of one table with the same version encode alike.

use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::{SchemaChange, SchemaVersion, TableDefinition};
use crate::types::{KalamDataType, KeyCodec, Value};

/// What identifies the rows of a table.
#[derive(Debug, Clone)]
pub struct KeySpec {
    /// The schema version since which the key's columns have their types.
    version: u32,
    codec: KeyCodec,
    /// Ids of the key's columns in key order; empty: the hidden row id.
    columns: Vec<u32>,
    /// Their names, for messages.
    names: Vec<String>,
}

impl KeySpec {
    /// The key of a table as it is defined now.
    pub fn new(definition: &TableDefinition) -> Result<Self> {
        Self::at(definition, definition.schema_version)
    }

    /// The key of a table as it was at an earlier schema version. No ALTER changes which columns the key has.
    pub fn at(definition: &TableDefinition, version: u32) -> Result<Self> {
        let now = definition.key_columns();
        let mut types: Vec<KalamDataType> = now.iter().map(|c| c.data_type).collect();
        if version < definition.schema_version {
            let then = definition.columns_at(version)?;
            for (ty, column) in types.iter_mut().zip(&now) {
                *ty = then.iter().find(|c| c.column_id == column.column_id).map_or(*ty, |c| c.data_type);
            }
        }
        if types.is_empty() {
            types.push(KalamDataType::BigInt);
        }
        Ok(Self {
            version: Self::typed_since(definition, version),
            codec: KeyCodec::new(&types)?,
            columns: now.iter().map(|c| c.column_id).collect(),
            names: now.iter().map(|c| c.name.clone()).collect(),
        })
    }

    /// The column of the key, by its place in it, whose type a schema version changed.
    pub fn retyped(definition: &TableDefinition, version: &SchemaVersion) -> Option<usize> {
        match &version.change {
            SchemaChange::ChangeColumn { from, to } if from.data_type != to.data_type => {
                definition.primary_key.iter().position(|id| *id == to.column_id)
            }
            _ => None,
        }
    }

    /// The schema version since which the key's columns have the types that they have at a version.
    pub fn typed_since(definition: &TableDefinition, version: u32) -> u32 {
        let changes = |v: &&SchemaVersion| v.version <= version && Self::retyped(definition, v).is_some();
        definition.history.iter().rev().find(changes).map_or(1, |v| v.version)
    }

    /// The schema version since which the key's columns have their types.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether rows are identified by the hidden row id.
    pub fn is_row_id(&self) -> bool {
        self.columns.is_empty()
    }

    /// Ids of the key's columns in key order.
    pub fn columns(&self) -> &[u32] {
        &self.columns
    }

    /// The codec of encoded keys.
    pub fn codec(&self) -> &KeyCodec {
        &self.codec
    }

    /// A key for messages: `(id)=(5)`.
    pub fn describe(&self, key: &[u8]) -> String {
        let values = self.codec.decode(key).unwrap_or_default();
        let values: Vec<String> = values.iter().map(Value::to_string).collect();
        format!("({})=({})", self.names.join(", "), values.join(", "))
    }

    /// The error for a new row whose key another one has.
    pub fn violation(&self, key: &[u8]) -> KalamError {
        let message = format!("duplicate key: a row with {} exists already", self.describe(key));
        KalamError::new(ErrorCode::UniqueViolation, message)
    }
}
