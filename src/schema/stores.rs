//! How definitions are kept: one record each, in the catalog partition.
//!
//! Invariant: a record's key is the name, so that a table exists once; whatever else changes with a definition goes
//! into the same batch as its record.

use super::definition::TableDefinition;
use super::ids::{NamespaceDefinition, TableId};
use crate::storage::{Entity, EntityStore, Partition};

/// Definitions of tables and views by name.
pub type TableSchemaStore = EntityStore<TableDefinition>;

/// Namespaces by name.
pub type NamespaceStore = EntityStore<NamespaceDefinition>;

impl Entity for TableDefinition {
    type Key = TableId;
    const PARTITION: Partition = Partition::Catalog;
    const PREFIX: &'static [u8] = b"table/";

    fn encode_key(key: &TableId) -> Vec<u8> {
        key.encode()
    }
}

impl Entity for NamespaceDefinition {
    type Key = String;
    const PARTITION: Partition = Partition::Catalog;
    const PREFIX: &'static [u8] = b"namespace/";

    fn encode_key(key: &String) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}
