//! The columns that a scan can give: those of the table, and those that the engine keeps of every row.
//!
//! Invariant: a table's column is known by its id, and what is needed to show rows of every earlier version of the
//! table goes with it: since when it has its type, and the value of rows that were written before it was there. The
//! names of the engine's own columns are reserved, so no column of a table hides one.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::Result;
use crate::schema::{CachedTableData, SchemaChange, SchemaVersion};
use crate::types::KalamDataType;

/// Name of the hidden column with a row's position; only the engine's own statements name it.
pub const POSITION_COLUMN: &str = "_kalam_position";
/// Name of the system column with a row's `_seq`.
pub const SEQ_COLUMN: &str = "_seq";
/// Name of the system column that identifies the rows of a table without a primary key.
pub const ROW_ID_COLUMN: &str = "_rowid";
/// Name of the system column that tells deleted rows, which only scans that name it give, from live ones.
pub const DELETED_COLUMN: &str = "_deleted";

/// Where a column of a scan comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ScanColumn {
    /// A column of the table.
    Table {
        /// Its id.
        id: u32,
        /// Its type now; rows may have been written under an earlier one.
        data_type: KalamDataType,
        /// Its name, for messages.
        name: String,
        /// One value for rows that were written before the column was added; `None` is NULL.
        initial: Option<ArrayRef>,
        /// The schema version that gave it its type.
        since: u32,
    },
    /// `_seq`.
    Seq,
    /// `_rowid`.
    RowId,
    /// `_deleted`.
    Deleted,
    /// The row's position in its scope.
    Position,
}

impl ScanColumn {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            ScanColumn::Table { name, .. } => name,
            ScanColumn::Seq => SEQ_COLUMN,
            ScanColumn::RowId => ROW_ID_COLUMN,
            ScanColumn::Deleted => DELETED_COLUMN,
            ScanColumn::Position => POSITION_COLUMN,
        }
    }
}

/// The columns that a scan can give, with their fields.
pub fn table_columns(table: &CachedTableData) -> Result<Vec<ScanColumn>> {
    let definition = table.definition();
    definition
        .columns_in_order()
        .map(|c| {
            let initial = if c.initial_value()?.is_null() { None } else { Some(c.initial_values(1)?) };
            let since = definition.history.iter().rev().find(|v| retypes(v, c.column_id)).map_or(1, |v| v.version);
            Ok(ScanColumn::Table { id: c.column_id, data_type: c.data_type, name: c.name.clone(), initial, since })
        })
        .collect()
}

fn retypes(version: &SchemaVersion, column_id: u32) -> bool {
    matches!(&version.change, SchemaChange::ChangeColumn { from, to }
        if to.column_id == column_id && from.data_type != to.data_type)
}

/// The fields and sources of the hidden columns of a table.
pub fn system_columns(table: &CachedTableData) -> Vec<(Field, ScanColumn)> {
    let field = |name| Field::new(name, DataType::Int64, false);
    let mut columns = vec![(field(SEQ_COLUMN), ScanColumn::Seq)];
    if table.definition().primary_key.is_empty() {
        columns.push((field(ROW_ID_COLUMN), ScanColumn::RowId));
    }
    columns.push((field(POSITION_COLUMN), ScanColumn::Position));
    columns
}

/// The schema of a table with its hidden columns after its own.
pub fn schema_with_system_columns(table: &CachedTableData) -> Result<SchemaRef> {
    let schema = table.arrow_schema()?;
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.extend(system_columns(table).into_iter().map(|(field, _)| Arc::new(field)));
    Ok(Arc::new(Schema::new(fields)))
}
