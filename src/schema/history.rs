//! How a table came to look as it does.
//!
//! Invariant: each version after the first keeps what it takes to undo it. So the columns of any earlier version can
//! be had again, exactly ([`TableDefinition::columns_at`]), and data written under that version can be read: its
//! columns found by id, its values led through every type the column had since ([`TableDefinition::column_now`]).

use arrow::array::ArrayRef;
use serde::{Deserialize, Serialize};

use super::definition::{ColumnDefinition, TableDefinition, ViewDefinition};
use super::ids::TableId;
use super::index::IndexDefinition;
use super::options::TableOptions;
use crate::error::{KalamError, Result};
use crate::types::{KalamDataType, coerce_array};

/// One version of a table: what changed, when, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaVersion {
    /// Its number.
    pub version: u32,
    /// When, in milliseconds since the epoch.
    pub at_ms: u64,
    /// The user.
    #[serde(default)]
    pub by: String,
    /// What.
    pub change: SchemaChange,
}

/// The step from one version to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SchemaChange {
    /// The table was created.
    Created,
    /// ADD COLUMN.
    AddColumn {
        /// The new column.
        column: ColumnDefinition,
    },
    /// DROP COLUMN.
    DropColumn {
        /// The column as it was.
        column: ColumnDefinition,
    },
    /// RENAME COLUMN or ALTER COLUMN.
    ChangeColumn {
        /// The column before.
        from: ColumnDefinition,
        /// The column after.
        to: ColumnDefinition,
    },
    /// RENAME TO.
    RenameTable {
        /// The name before.
        from: TableId,
        /// The name after.
        to: TableId,
    },
    /// SET options.
    SetOptions {
        /// The options before.
        from: TableOptions,
        /// The options after.
        to: TableOptions,
    },
    /// CREATE INDEX, ADD CONSTRAINT … UNIQUE.
    AddIndex {
        /// The new index.
        index: IndexDefinition,
    },
    /// DROP INDEX, DROP CONSTRAINT.
    DropIndex {
        /// The index as it was.
        index: IndexDefinition,
    },
    /// ALTER INDEX … RENAME TO.
    RenameIndex {
        /// The index as it was.
        index: IndexDefinition,
        /// Its new name.
        to: String,
    },
    /// CREATE OR REPLACE VIEW.
    ReplaceView {
        /// The query before.
        from: ViewDefinition,
        /// The columns before.
        columns: Vec<ColumnDefinition>,
    },
}

impl SchemaChange {
    /// The change in words, for DESCRIBE … HISTORY.
    pub fn describe(&self) -> String {
        match self {
            Self::Created => "created".into(),
            Self::AddColumn { column } => format!("added column '{}' {}", column.name, column.data_type),
            Self::DropColumn { column } => format!("dropped column '{}' {}", column.name, column.data_type),
            Self::RenameTable { from, to } => format!("renamed from '{from}' to '{to}'"),
            Self::SetOptions { from, to } => {
                let (from, to) = (from.to_pairs(), to.to_pairs());
                let set = to.iter().filter(|p| !from.contains(p)).map(|(name, value)| format!("{name} = '{value}'"));
                let reset = from
                    .iter()
                    .filter(|(name, _)| to.iter().all(|(n, _)| n != name))
                    .map(|(name, _)| format!("{name} = default"));
                let all: Vec<String> = set.chain(reset).collect();
                if all.is_empty() { "options unchanged".into() } else { format!("set {}", all.join(", ")) }
            }
            Self::AddIndex { index } if index.unique && !index.constraint => {
                format!("added unique index '{}'", index.name)
            }
            Self::AddIndex { index } => format!("added {} '{}'", index.kind(), index.name),
            Self::DropIndex { index } => format!("dropped {} '{}'", index.kind(), index.name),
            Self::RenameIndex { index, to } => format!("renamed {} '{}' to '{to}'", index.kind(), index.name),
            Self::ReplaceView { .. } => "replaced the view's query".into(),
            Self::ChangeColumn { from, to } if from.name != to.name => {
                format!("renamed column '{}' to '{}'", from.name, to.name)
            }
            Self::ChangeColumn { from, to } if from.data_type != to.data_type => {
                format!("changed column '{}' from {} to {}", to.name, from.data_type, to.data_type)
            }
            Self::ChangeColumn { from, to } if from.nullable != to.nullable => {
                format!("column '{}' {}", to.name, if to.nullable { "takes NULL" } else { "does not take NULL" })
            }
            Self::ChangeColumn { from, to } if from == to => format!("gave column '{}' new values", to.name),
            Self::ChangeColumn { to, .. } if to.default.is_none() => {
                format!("dropped the default of column '{}'", to.name)
            }
            Self::ChangeColumn { to, .. } => format!("set the default of column '{}' to {}", to.name, to.default),
        }
    }

    /// Takes the step.
    pub(super) fn apply(&self, table: &mut TableDefinition) {
        match self {
            Self::AddColumn { column } => {
                table.next_column_id = column.column_id + 1;
                table.columns.push(column.clone());
            }
            Self::DropColumn { column } => {
                table.columns.retain(|c| c.column_id != column.column_id);
                table.indexes.retain(|i| !i.has(column.column_id));
            }
            Self::AddIndex { index } => {
                table.last_index_id = index.index_id;
                table.indexes.push(index.clone());
            }
            Self::DropIndex { index } => table.indexes.retain(|i| i.index_id != index.index_id),
            Self::RenameIndex { index, to } => {
                if let Some(renamed) = table.indexes.iter_mut().find(|i| i.index_id == index.index_id) {
                    renamed.name.clone_from(to);
                }
            }
            Self::ChangeColumn { to, .. } => replace(&mut table.columns, to),
            Self::RenameTable { to, .. } => table.table_id = to.clone(),
            Self::SetOptions { to, .. } => table.options = to.clone(),
            // The new columns come with the operation.
            Self::Created | Self::ReplaceView { .. } => {}
        }
    }

    /// Takes the step back, as far as it concerns columns.
    fn undo(&self, columns: &mut Vec<ColumnDefinition>) {
        match self {
            Self::AddColumn { column } => columns.retain(|c| c.column_id != column.column_id),
            Self::DropColumn { column } => {
                let at = columns.partition_point(|c| c.ordinal_position < column.ordinal_position);
                columns.insert(at, column.clone());
            }
            Self::ChangeColumn { from, .. } => replace(columns, from),
            Self::ReplaceView { columns: before, .. } => columns.clone_from(before),
            Self::Created
            | Self::RenameTable { .. }
            | Self::SetOptions { .. }
            | Self::AddIndex { .. }
            | Self::DropIndex { .. }
            | Self::RenameIndex { .. } => {}
        }
    }
}

fn replace(columns: &mut [ColumnDefinition], with: &ColumnDefinition) {
    if let Some(column) = columns.iter_mut().find(|c| c.column_id == with.column_id) {
        column.clone_from(with);
    }
}

impl TableDefinition {
    /// The columns as they were at an earlier version, in ordinal order.
    pub fn columns_at(&self, version: u32) -> Result<Vec<ColumnDefinition>> {
        if version == 0 || version > self.schema_version {
            return Err(KalamError::internal(format_args!(
                "version {version} of '{}', which has versions 1 to {}",
                self.table_id, self.schema_version
            )));
        }
        let mut columns = self.columns.clone();
        for step in self.history.iter().rev().take_while(|step| step.version > version) {
            step.change.undo(&mut columns);
        }
        Ok(columns)
    }

    /// Values of a column that were written under a version, led through every type that the column had since.
    pub fn as_now(&self, column_id: u32, name: &str, written: ArrayRef, version: u32) -> Result<ArrayRef> {
        let path = self.type_path(column_id, version);
        path.iter().skip(1).try_fold(written, |array, ty| coerce_array(&array, ty, name))
    }

    /// The values that a column has today in so many rows written under a version: those that were written
    /// ([`TableDefinition::as_now`]), or if the rows are from before the column, what such rows hold.
    pub fn column_now(
        &self,
        column: &ColumnDefinition,
        written: Option<ArrayRef>,
        version: u32,
        rows: usize,
    ) -> Result<ArrayRef> {
        match written {
            Some(written) => self.as_now(column.column_id, &column.name, written, version),
            None => column.initial_values(rows),
        }
    }

    /// The types a column had from a version on, each once, ending with today's: a value written under that version
    /// is coerced to each in turn, as the ALTERs would have done. Empty if the column does not exist today or did
    /// not exist then (such rows hold its [`ColumnDefinition::initial_value`]).
    pub fn type_path(&self, column_id: u32, version: u32) -> Vec<KalamDataType> {
        let Some(column) = self.column_by_id(column_id) else { return Vec::new() };
        let mut path = vec![column.data_type];
        for step in self.history.iter().rev().take_while(|step| step.version > version) {
            match &step.change {
                SchemaChange::AddColumn { column } if column.column_id == column_id => return Vec::new(),
                SchemaChange::ChangeColumn { from, to }
                    if to.column_id == column_id && from.data_type != to.data_type =>
                {
                    path.push(from.data_type);
                }
                _ => {}
            }
        }
        path.reverse();
        path
    }
}
