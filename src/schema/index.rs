//! Indexes and UNIQUE constraints of a table.
//!
//! Invariant: the columns of an index exist, are each in it once, and have types with an order; an index has an id that
//! no other index of its table has or had. DROP COLUMN drops the indexes that have the column, as in PostgreSQL. Names
//! are unique within a namespace: that is checked where indexes are made (`sql`), which knows the other tables.

use serde::{Deserialize, Serialize};

use super::definition::TableDefinition;
use super::history::SchemaChange;
use crate::error::{ErrorCode, KalamError, Result};

/// A column of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexColumn {
    /// The column.
    pub column_id: u32,
    /// Whether its values descend: NULL then comes first, else last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub descending: bool,
}

/// An index, or a UNIQUE constraint, which is an index too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexDefinition {
    /// Its number in the table, never given again.
    pub index_id: u32,
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<IndexColumn>,
    /// Whether two rows may not have the same values. NULL is the same as nothing.
    #[serde(default)]
    pub unique: bool,
    /// Whether it was declared as a constraint: then DROP CONSTRAINT drops it, and DROP INDEX does not.
    #[serde(default)]
    pub constraint: bool,
}

/// An index to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIndex {
    /// Its name.
    pub name: String,
    /// Its columns by name, and whether they descend.
    pub columns: Vec<(String, bool)>,
    /// Whether two rows may not have the same values.
    pub unique: bool,
    /// Whether it is declared as a constraint.
    pub constraint: bool,
}

impl IndexDefinition {
    /// Whether a column is in it.
    pub fn has(&self, column_id: u32) -> bool {
        self.columns.iter().any(|c| c.column_id == column_id)
    }

    /// What it is called in messages.
    pub fn kind(&self) -> &'static str {
        if self.constraint { "constraint" } else { "index" }
    }
}

impl TableDefinition {
    /// An index by its name.
    pub fn index(&self, name: &str) -> Option<&IndexDefinition> {
        self.indexes.iter().find(|i| i.name == name)
    }

    /// Names of an index's columns, in its order.
    pub fn index_column_names(&self, index: &IndexDefinition) -> Vec<&str> {
        index.columns.iter().filter_map(|c| self.column_by_id(c.column_id)).map(|c| c.name.as_str()).collect()
    }

    /// The name of the constraint that the primary key is.
    pub fn primary_key_name(&self) -> String {
        format!("{}_pkey", self.table_id.table)
    }

    fn checked_index(&self, new: NewIndex) -> Result<IndexDefinition> {
        super::ids::check_name("index", &new.name)?;
        if self.index(&new.name).is_some() || new.name == self.primary_key_name() {
            return Err(KalamError::new(
                ErrorCode::IndexExists,
                format!("'{}' has an index or constraint '{}' already", self.table_id, new.name),
            ));
        }
        let mut columns: Vec<IndexColumn> = Vec::with_capacity(new.columns.len());
        for (name, descending) in &new.columns {
            let column = self.column(name).ok_or_else(|| self.no_column(name))?;
            if !column.data_type.can_be_key() {
                let message = format!("column '{name}' of type {} cannot be indexed", column.data_type);
                return Err(KalamError::new(ErrorCode::InvalidDefinition, message));
            }
            if columns.iter().any(|c| c.column_id == column.column_id) {
                let message = format!("column '{name}' appears twice in '{}'", new.name);
                return Err(KalamError::new(ErrorCode::DuplicateColumn, message));
            }
            columns.push(IndexColumn { column_id: column.column_id, descending: *descending });
        }
        let NewIndex { name, unique, constraint, .. } = new;
        Ok(IndexDefinition { index_id: self.last_index_id + 1, name, columns, unique, constraint })
    }

    /// Adds an index to a table that is being created.
    pub fn push_index(&mut self, new: NewIndex) -> Result<()> {
        let index = self.checked_index(new)?;
        self.last_index_id = index.index_id;
        self.indexes.push(index);
        Ok(())
    }

    /// CREATE INDEX, ADD CONSTRAINT … UNIQUE. For a unique one the caller makes sure that rows differ.
    pub fn add_index(&self, new: NewIndex, now_ms: u64, by: &str) -> Result<Self> {
        let index = self.checked_index(new)?;
        Ok(self.step(SchemaChange::AddIndex { index }, now_ms, by))
    }

    /// DROP INDEX, DROP CONSTRAINT.
    pub fn drop_index(&self, name: &str, now_ms: u64, by: &str) -> Result<Self> {
        let index = self.index(name).cloned().ok_or_else(|| {
            KalamError::new(ErrorCode::IndexNotFound, format!("index '{name}' of '{}' does not exist", self.table_id))
        })?;
        Ok(self.step(SchemaChange::DropIndex { index }, now_ms, by))
    }
}
