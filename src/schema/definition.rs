//! What a table looks like: its columns, key, options and history.
//!
//! Invariant: a definition that exists is valid, because it is only made by [`TableDefinition::new`],
//! [`TableDefinition::new_view`] and the ALTER operations, which check: at least one column, names that differ, a key
//! of existing NOT NULL columns whose types can be keys, defaults that the column takes. Column ids and ordinal
//! positions are given once, from one counter, and never again, so data written under any version of the table finds
//! its columns by id. The stored form is JSON: later versions add optional fields and keep the names.

use std::fmt;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute;
use arrow::datatypes::Schema;
use serde::{Deserialize, Serialize};

use super::history::{SchemaChange, SchemaVersion};
use super::ids::{DEFAULT_NAMESPACE, RESERVED_COLUMNS, TableId, check_name, is_reserved_column};
use super::index::IndexDefinition;
use super::options::TableOptions;
use crate::error::{ErrorCode, KalamError, Result};
use crate::types::{ColumnBuilder, KalamDataType, KeyCodec, Value};

/// The kinds of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableType {
    /// One data set for everyone.
    Shared,
    /// One data set for each user.
    User,
    /// Events in memory, removed by age.
    Stream,
    /// The engine's own.
    System,
    /// A stored query.
    View,
}

impl TableType {
    /// The name in SQL, in capitals.
    pub const fn as_str(self) -> &'static str {
        match self {
            TableType::Shared => "SHARED",
            TableType::User => "USER",
            TableType::Stream => "STREAM",
            TableType::System => "SYSTEM",
            TableType::View => "VIEW",
        }
    }
}

impl fmt::Display for TableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A function that gives the value of a column that an INSERT leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DefaultFunction {
    /// A 64-bit id, growing with time.
    SnowflakeId,
    /// A UUID of version 7.
    #[serde(rename = "UUID_V7")]
    UuidV7,
    /// A ULID as text.
    Ulid,
    /// The time of the statement.
    Now,
    /// The session's user.
    CurrentUser,
}

impl DefaultFunction {
    /// All of them.
    pub const ALL: [DefaultFunction; 5] = [Self::SnowflakeId, Self::UuidV7, Self::Ulid, Self::Now, Self::CurrentUser];

    /// The name in SQL, without parentheses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SnowflakeId => "SNOWFLAKE_ID",
            Self::UuidV7 => "UUID_V7",
            Self::Ulid => "ULID",
            Self::Now => "NOW",
            Self::CurrentUser => "CURRENT_USER",
        }
    }

    /// The function of a name in any case; CURRENT_TIMESTAMP is NOW, and for PostgreSQL's UUIDs without an order there are
    /// those with one.
    pub fn parse(name: &str) -> Result<Self> {
        let upper = name.trim().to_ascii_uppercase();
        let name = match upper.as_str() {
            "CURRENT_TIMESTAMP" | "LOCALTIMESTAMP" => "NOW",
            "GEN_RANDOM_UUID" | "UUID_GENERATE_V4" => "UUID_V7",
            other => other,
        };
        Self::ALL.into_iter().find(|f| f.as_str() == name).ok_or_else(|| {
            KalamError::new(ErrorCode::FunctionNotFound, format!("the function {upper}() cannot be a column's default"))
                .with_hint("A default is a literal or one of SNOWFLAKE_ID(), UUID_V7(), ULID(), NOW(), CURRENT_USER().")
        })
    }

    /// Whether each call gives another value, so that rows which exist cannot share one.
    pub const fn is_volatile(self) -> bool {
        matches!(self, Self::SnowflakeId | Self::UuidV7 | Self::Ulid)
    }

    /// Whether a column of the type holds what it gives without loss.
    fn fits(self, ty: &KalamDataType) -> bool {
        use KalamDataType as T;
        match (self, ty) {
            (_, T::Text) => true,
            (Self::SnowflakeId, T::BigInt) => true,
            (Self::SnowflakeId, T::Decimal { precision, scale }) => precision - scale >= 19,
            (Self::UuidV7, T::Uuid) => true,
            (Self::Now, T::Timestamp | T::DateTime | T::Date | T::Time) => true,
            _ => false,
        }
    }
}

/// What a column holds when an INSERT leaves it out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnDefault {
    /// NULL.
    #[default]
    None,
    /// A value, as text that reads as the column's type.
    Literal(String),
    /// The result of a function.
    Function(DefaultFunction),
}

impl ColumnDefault {
    /// A literal from a value; NULL is no default.
    pub fn literal(value: &Value) -> Self {
        if value.is_null() { Self::None } else { Self::Literal(value.to_text().into_owned()) }
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The value of a literal (NULL if there is no default), or `None` for a function.
    pub fn value(&self, ty: &KalamDataType) -> Result<Option<Value>> {
        match self {
            Self::None => Ok(Some(Value::Null)),
            Self::Literal(text) => Value::Text(text.clone()).coerce(ty).map(Some),
            Self::Function(_) => Ok(None),
        }
    }

    /// The default in its canonical form, if a column of the type takes it.
    fn checked(self, column: &str, ty: &KalamDataType) -> Result<Self> {
        match &self {
            Self::None => Ok(self),
            Self::Literal(_) => match self.value(ty) {
                Ok(value) => Ok(Self::literal(&value.unwrap_or_default())),
                Err(e) => Err(e.in_context(format_args!("the default of column '{column}'"))),
            },
            Self::Function(f) if f.fits(ty) => Ok(self),
            Self::Function(f) => Err(KalamError::new(
                ErrorCode::DatatypeMismatch,
                format!("column '{column}' is of type {ty}, which cannot hold what its default {}() gives", f.as_str()),
            )
            .with_hint(match f {
                DefaultFunction::SnowflakeId => "Make the column BIGINT or TEXT.",
                DefaultFunction::UuidV7 => "Make the column UUID or TEXT.",
                DefaultFunction::Now => "Make the column TIMESTAMP, DATETIME, DATE, TIME or TEXT.",
                DefaultFunction::Ulid | DefaultFunction::CurrentUser => "Make the column TEXT.",
            })),
        }
    }
}

/// As in SQL: `'5'`, `NOW()`, or nothing.
impl fmt::Display for ColumnDefault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Literal(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Self::Function(function) => write!(f, "{}()", function.as_str()),
        }
    }
}

/// A column to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewColumn {
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: KalamDataType,
    /// Whether it takes NULL.
    pub nullable: bool,
    /// What it holds when an INSERT leaves it out.
    pub default: ColumnDefault,
}

impl NewColumn {
    /// A column without a default that takes NULL.
    pub fn new(name: impl Into<String>, data_type: KalamDataType) -> Self {
        Self { name: name.into(), data_type, nullable: true, default: ColumnDefault::None }
    }
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnDefinition {
    /// Its number in the table, never given again; the field id in Parquet.
    pub column_id: u32,
    /// Its place in `SELECT *`, from 1, never given again.
    pub ordinal_position: u32,
    /// Its name.
    pub name: String,
    /// Its type.
    pub data_type: KalamDataType,
    /// Whether it takes NULL.
    pub nullable: bool,
    /// What it holds when an INSERT leaves it out.
    #[serde(default, skip_serializing_if = "ColumnDefault::is_none")]
    pub default: ColumnDefault,
    /// What rows written before ADD COLUMN hold, as text that reads as the column's type; NULL if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_default: Option<String>,
}

impl ColumnDefinition {
    /// What rows written before ADD COLUMN hold.
    pub fn initial_value(&self) -> Result<Value> {
        match &self.initial_default {
            None => Ok(Value::Null),
            Some(text) => Value::Text(text.clone()).coerce(&self.data_type),
        }
    }

    /// What so many rows written before ADD COLUMN hold.
    pub fn initial_values(&self, rows: usize) -> Result<ArrayRef> {
        let mut one = ColumnBuilder::new(&self.data_type, &self.name, 1);
        one.append(&self.initial_value()?)?;
        compute::take(&one.finish(), &UInt32Array::from(vec![0; rows]), None).map_err(KalamError::internal)
    }
}

/// The query of a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewDefinition {
    /// Its text, with every `*` written out.
    pub sql: String,
    /// The namespace that names without one mean.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The tables and views it reads.
    #[serde(default)]
    pub dependencies: Vec<TableId>,
}

fn default_namespace() -> String {
    DEFAULT_NAMESPACE.to_owned()
}

/// A table or view; see the module's comment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDefinition {
    /// Its name.
    pub table_id: TableId,
    /// Its number in the database, never given again; it names the log and the segments.
    pub table_no: u32,
    /// Its kind.
    pub table_type: TableType,
    /// Its columns, in ordinal order.
    pub columns: Vec<ColumnDefinition>,
    /// Column ids of the primary key, in key order; empty: rows are told apart by a hidden `_rowid`.
    #[serde(default)]
    pub primary_key: Vec<u32>,
    /// Its options.
    #[serde(default)]
    pub options: TableOptions,
    /// 1 when created, one more with each ALTER.
    pub schema_version: u32,
    /// Every version, oldest first.
    #[serde(default)]
    pub history: Vec<SchemaVersion>,
    /// The id of the next column.
    pub next_column_id: u32,
    /// When it was created, in milliseconds since the epoch.
    pub created_at_ms: u64,
    /// The query, if it is a view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewDefinition>,
    /// Its indexes and UNIQUE constraints, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<IndexDefinition>,
    /// The greatest id that an index was given.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_index_id: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl TableDefinition {
    /// A new table at version 1. The columns of the key become NOT NULL.
    #[expect(clippy::too_many_arguments, reason = "what a table is, each once")]
    pub fn new(
        table_id: TableId,
        table_no: u32,
        table_type: TableType,
        columns: Vec<NewColumn>,
        primary_key: &[String],
        options: TableOptions,
        now_ms: u64,
        by: &str,
    ) -> Result<Self> {
        table_id.check()?;
        options.check(table_type)?;
        let mut table = Self {
            table_id,
            table_no,
            table_type,
            columns: Vec::with_capacity(columns.len()),
            primary_key: Vec::with_capacity(primary_key.len()),
            options,
            schema_version: 1,
            history: vec![SchemaVersion {
                version: 1,
                at_ms: now_ms,
                by: by.to_owned(),
                change: SchemaChange::Created,
            }],
            next_column_id: 1,
            created_at_ms: now_ms,
            view: None,
            indexes: Vec::new(),
            last_index_id: 0,
        };
        table.push_columns(columns)?;
        for name in primary_key {
            let found = table.columns.iter_mut().find(|c| &c.name == name);
            let Some(column) = found else { return Err(table.no_column(name).in_context("PRIMARY KEY")) };
            if !column.data_type.can_be_key() {
                let message = format!("column '{name}' of type {} cannot be part of a primary key", column.data_type);
                return Err(KalamError::new(ErrorCode::InvalidDefinition, message));
            }
            if table.primary_key.contains(&column.column_id) {
                let message = format!("column '{name}' appears twice in the primary key");
                return Err(KalamError::new(ErrorCode::DuplicateColumn, message));
            }
            column.nullable = false;
            table.primary_key.push(column.column_id);
        }
        Ok(table)
    }

    /// A new view at version 1.
    pub fn new_view(
        table_id: TableId,
        table_no: u32,
        columns: Vec<NewColumn>,
        view: ViewDefinition,
        now_ms: u64,
        by: &str,
    ) -> Result<Self> {
        let options = TableOptions::default();
        let mut table = Self::new(table_id, table_no, TableType::View, columns, &[], options, now_ms, by)?;
        table.view = Some(view);
        Ok(table)
    }

    /// Adds columns with the next ids, checked.
    pub(super) fn push_columns(&mut self, columns: Vec<NewColumn>) -> Result<()> {
        if columns.is_empty() {
            return Err(KalamError::new(
                ErrorCode::InvalidDefinition,
                format!("'{}' has no column, expected at least one", self.table_id),
            ));
        }
        for column in columns {
            let column = self.new_column(column)?;
            self.next_column_id += 1;
            self.columns.push(column);
        }
        Ok(())
    }

    /// The next column, checked against those there are.
    pub(super) fn new_column(&self, column: NewColumn) -> Result<ColumnDefinition> {
        self.check_new_name(&column.name)?;
        Ok(ColumnDefinition {
            column_id: self.next_column_id,
            // The same counter: a place is as little given again as an id.
            ordinal_position: self.next_column_id,
            default: column.default.checked(&column.name, &column.data_type)?,
            name: column.name,
            data_type: column.data_type,
            nullable: column.nullable,
            initial_default: None,
        })
    }

    /// Whether a column may take this name. A view may have any: its columns are what its query gives.
    pub(super) fn check_new_name(&self, name: &str) -> Result<()> {
        check_name("column", name)?;
        if is_reserved_column(name) && self.table_type != TableType::View {
            let message = format!("the column name '{name}' is reserved");
            return Err(KalamError::new(ErrorCode::InvalidName, message).with_hint(format!(
                "{} and names that start with _kalam belong to the engine.",
                RESERVED_COLUMNS.join(", ")
            )));
        }
        if self.column(name).is_some() {
            let message = format!("column '{name}' of '{}' is there already", self.table_id);
            return Err(KalamError::new(ErrorCode::DuplicateColumn, message));
        }
        Ok(())
    }

    /// A default in its canonical form, if the column takes it.
    pub(super) fn check_default(column: &str, ty: &KalamDataType, default: ColumnDefault) -> Result<ColumnDefault> {
        default.checked(column, ty)
    }

    /// The error for a column that is not there.
    pub(super) fn no_column(&self, name: &str) -> KalamError {
        let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).take(50).collect();
        KalamError::new(ErrorCode::ColumnNotFound, format!("column '{name}' of '{}' does not exist", self.table_id))
            .with_hint(format!("The columns are {}.", names.join(", ")))
    }

    /// The Arrow schema: the columns in ordinal order, with their types and ids in the metadata.
    pub fn arrow_schema(&self) -> Result<Schema> {
        let field = |c: &ColumnDefinition| c.data_type.arrow_field(&c.name, c.nullable, c.column_id);
        Ok(Schema::new(self.columns_in_order().map(field).collect::<Vec<_>>()))
    }

    /// A column by its name.
    pub fn column(&self, name: &str) -> Option<&ColumnDefinition> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// A column by its id.
    pub fn column_by_id(&self, column_id: u32) -> Option<&ColumnDefinition> {
        self.columns.iter().find(|c| c.column_id == column_id)
    }

    /// The columns in ordinal order. They are kept so: a new one always has the greatest ordinal.
    pub fn columns_in_order(&self) -> impl ExactSizeIterator<Item = &ColumnDefinition> {
        self.columns.iter()
    }

    /// The columns of the primary key, in key order.
    pub fn key_columns(&self) -> Vec<&ColumnDefinition> {
        self.primary_key.iter().filter_map(|id| self.column_by_id(*id)).collect()
    }

    /// Positions (from 0, in ordinal order) of the columns of the primary key, in key order.
    pub fn key_indices(&self) -> Vec<usize> {
        let index = |id: &u32| self.columns.iter().position(|c| c.column_id == *id);
        self.primary_key.iter().filter_map(index).collect()
    }

    /// Whether a column is part of the primary key.
    pub fn is_key(&self, column_id: u32) -> bool {
        self.primary_key.contains(&column_id)
    }

    /// The codec of the keys of rows: of the primary key, or of the hidden `_rowid` BIGINT.
    pub fn key_codec(&self) -> Result<KeyCodec> {
        if self.primary_key.is_empty() {
            return KeyCodec::new(&[KalamDataType::BigInt]);
        }
        KeyCodec::new(&self.key_columns().iter().map(|c| c.data_type).collect::<Vec<_>>())
    }

    /// The storage of the table's segments.
    pub fn storage_id(&self) -> &str {
        self.options.storage_id.as_deref().unwrap_or(TableOptions::DEFAULT_STORAGE)
    }
}

#[cfg(test)]
#[path = "definition_tests.rs"]
mod tests;
