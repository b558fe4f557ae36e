//! Indexes and UNIQUE constraints of a table.
//!
//! Invariant: the columns of an index exist, are each in it once, and have types with an order; an index has an id that
//! no other index of its table has or had. DROP COLUMN drops the indexes that have the column, as in PostgreSQL. Names
//! are unique within a namespace: that is checked where indexes are made (`sql`), which knows the other tables.

use serde::{Deserialize, Serialize};

use super::definition::{ColumnDefinition, TableDefinition};
use super::history::SchemaChange;
use super::ids::TableId;
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

/// What the catalog lists as one index: the primary key, a UNIQUE constraint or an index.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedIndex<'a> {
    /// Its name.
    pub name: String,
    /// What it was declared as: `PRIMARY KEY`, `UNIQUE` (a constraint) or `INDEX`.
    pub kind: &'static str,
    /// Whether two rows may not have the same values.
    pub unique: bool,
    /// Its columns, and whether they descend.
    pub columns: Vec<(&'a ColumnDefinition, bool)>,
}

impl ListedIndex<'_> {
    /// Whether it was declared as a constraint.
    pub fn is_constraint(&self) -> bool {
        self.kind != "INDEX"
    }

    /// Its columns in a list: `a, b DESC`.
    pub fn column_list(&self) -> String {
        let column = |(c, descending): &(&ColumnDefinition, bool)| {
            format!("{}{}", c.name, if *descending { " DESC" } else { "" })
        };
        self.columns.iter().map(column).collect::<Vec<_>>().join(", ")
    }

    /// What makes it: a constraint as CREATE TABLE writes it, or CREATE INDEX.
    pub fn sql(&self, table: &TableId) -> String {
        let column = |(c, descending): &(&ColumnDefinition, bool)| {
            format!("{}{}", quoted(&c.name), if *descending { " DESC" } else { "" })
        };
        let columns = self.columns.iter().map(column).collect::<Vec<_>>().join(", ");
        if self.is_constraint() {
            return format!("{} ({columns})", self.kind);
        }
        let unique = if self.unique { "UNIQUE " } else { "" };
        let (namespace, of) = (quoted(&table.namespace), quoted(&table.table));
        format!("CREATE {unique}INDEX {} ON {namespace}.{of} ({columns})", quoted(&self.name))
    }
}

/// A name as SQL text takes it, whatever its letters.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl IndexDefinition {
    /// The number of the primary key where it stands for an index: others have numbers from 1 on.
    pub const OF_KEY: u32 = 0;

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

    /// The primary key as an index; `None` if there is none. Its rows are found by their keys, so it is stored nowhere
    /// and has no number.
    pub fn key_as_index(&self) -> Option<IndexDefinition> {
        let columns: Vec<_> =
            self.primary_key.iter().map(|&column_id| IndexColumn { column_id, descending: false }).collect();
        let named = || IndexDefinition {
            index_id: IndexDefinition::OF_KEY,
            name: self.primary_key_name(),
            columns: columns.clone(),
            unique: true,
            constraint: true,
        };
        (!columns.is_empty()).then(named)
    }

    /// The primary key, then constraints and indexes, oldest first: what every catalog lists. A view has none.
    pub fn listed_indexes(&self) -> Vec<ListedIndex<'_>> {
        let mut listed = Vec::with_capacity(self.indexes.len() + 1);
        if !self.primary_key.is_empty() {
            let columns = self.key_columns().into_iter().map(|c| (c, false)).collect();
            listed.push(ListedIndex { name: self.primary_key_name(), kind: "PRIMARY KEY", unique: true, columns });
        }
        listed.extend(self.indexes.iter().map(|index| ListedIndex {
            name: index.name.clone(),
            kind: if index.constraint { "UNIQUE" } else { "INDEX" },
            unique: index.unique,
            columns:
                index.columns.iter().filter_map(|c| Some((self.column_by_id(c.column_id)?, c.descending))).collect(),
        }));
        listed
    }

    fn check_index_name(&self, name: &str) -> Result<()> {
        super::ids::check_name("index", name)?;
        if self.index(name).is_some() || name == self.primary_key_name() {
            return Err(KalamError::new(
                ErrorCode::IndexExists,
                format!("'{}' has an index or constraint '{name}' already", self.table_id),
            ));
        }
        Ok(())
    }

    fn checked_index(&self, new: NewIndex) -> Result<IndexDefinition> {
        self.check_index_name(&new.name)?;
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
        let index = self.index(name).ok_or_else(|| self.no_index(name))?.clone();
        Ok(self.step(SchemaChange::DropIndex { index }, now_ms, by))
    }

    /// ALTER INDEX … RENAME TO.
    pub fn rename_index(&self, name: &str, to: &str, now_ms: u64, by: &str) -> Result<Self> {
        let from = self.index(name).ok_or_else(|| self.no_index(name))?.clone();
        self.check_index_name(to)?;
        Ok(self.step(SchemaChange::RenameIndex { index: from, to: to.to_owned() }, now_ms, by))
    }

    fn no_index(&self, name: &str) -> KalamError {
        KalamError::new(ErrorCode::IndexNotFound, format!("index '{name}' of '{}' does not exist", self.table_id))
    }
}
