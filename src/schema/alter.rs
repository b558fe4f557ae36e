//! ALTER TABLE: from a definition to the next one.
//!
//! Invariant: each operation leaves the definition it is called on alone and returns a valid one whose version is
//! one higher and whose history has the step, or an error. They know definitions only: what must be asked of rows
//! (does a narrower type hold them all, is there a NULL) is the caller's to ask, before it stores the result.

use super::definition::{ColumnDefault, ColumnDefinition, NewColumn, TableDefinition, ViewDefinition};
use super::history::{SchemaChange, SchemaVersion};
use super::ids::TableId;
use super::options::TableOptions;
use crate::error::{ErrorCode, KalamError, Result};
use crate::types::{KalamDataType, Value};

impl TableDefinition {
    pub(super) fn step(&self, change: SchemaChange, now_ms: u64, by: &str) -> Self {
        let mut next = self.clone();
        change.apply(&mut next);
        next.schema_version += 1;
        next.history.push(SchemaVersion { version: next.schema_version, at_ms: now_ms, by: by.to_owned(), change });
        next
    }

    fn existing(&self, name: &str) -> Result<&ColumnDefinition> {
        self.column(name).ok_or_else(|| self.no_column(name))
    }

    fn not_a_key(&self, column: &ColumnDefinition, what: &str) -> Result<()> {
        if !self.is_key(column.column_id) {
            return Ok(());
        }
        let message =
            format!("column '{}' is part of the primary key of '{}' and cannot {what}", column.name, self.table_id);
        Err(KalamError::new(ErrorCode::InvalidDefinition, message))
    }

    fn change(&self, from: &ColumnDefinition, now_ms: u64, by: &str, f: impl FnOnce(&mut ColumnDefinition)) -> Self {
        let mut to = from.clone();
        f(&mut to);
        self.step(SchemaChange::ChangeColumn { from: from.clone(), to }, now_ms, by)
    }

    /// ADD COLUMN. Rows that exist show `initial`; if that is `None`, the default if it is a literal, else NULL. For
    /// a default that is a function the caller passes what one call of it gave. The caller makes sure that a NOT NULL
    /// column whose initial value is NULL meets no row.
    pub fn add_column(&self, column: NewColumn, initial: Option<&Value>, now_ms: u64, by: &str) -> Result<Self> {
        let mut column = self.new_column(column)?;
        let initial = match initial {
            Some(value) => value.coerce(&column.data_type),
            None => column.default.value(&column.data_type).map(Option::unwrap_or_default),
        };
        let initial = initial.map_err(|e| e.in_context(format_args!("the default of column '{}'", column.name)))?;
        column.initial_default = (!initial.is_null()).then(|| initial.to_text().into_owned());
        Ok(self.step(SchemaChange::AddColumn { column }, now_ms, by))
    }

    /// DROP COLUMN.
    pub fn drop_column(&self, name: &str, now_ms: u64, by: &str) -> Result<Self> {
        let column = self.existing(name)?;
        self.not_a_key(column, "be dropped")?;
        if self.columns.len() == 1 {
            let message = format!("column '{name}' is the only column of '{}' and cannot be dropped", self.table_id);
            return Err(
                KalamError::new(ErrorCode::InvalidDefinition, message).with_hint("DROP TABLE removes the table.")
            );
        }
        Ok(self.step(SchemaChange::DropColumn { column: column.clone() }, now_ms, by))
    }

    /// RENAME COLUMN.
    pub fn rename_column(&self, name: &str, to: &str, now_ms: u64, by: &str) -> Result<Self> {
        let column = self.existing(name)?;
        self.check_new_name(to)?;
        Ok(self.change(column, now_ms, by, |c| c.name = to.to_owned()))
    }

    /// RENAME TO. The registry moves the definition ([`super::SchemaRegistry::rename_with`]).
    pub fn rename_table(&self, to: TableId, now_ms: u64, by: &str) -> Result<Self> {
        to.check()?;
        if to == self.table_id {
            return Err(KalamError::new(ErrorCode::TableExists, format!("the table is named '{to}' already")));
        }
        Ok(self.step(SchemaChange::RenameTable { from: self.table_id.clone(), to }, now_ms, by))
    }

    /// ALTER COLUMN TYPE. Unless the old type widens to the new one ([`KalamDataType::widens_to`]), the caller
    /// checks that every row can be coerced.
    pub fn alter_type(&self, name: &str, to: KalamDataType, now_ms: u64, by: &str) -> Result<Self> {
        let from = self.existing(name)?.data_type;
        if !from.assignable_to(&to) {
            let message = format!("column '{name}' of type {from} cannot become {to}: its values do not convert");
            return Err(KalamError::new(ErrorCode::DatatypeMismatch, message)
                .with_hint("Say with USING how they do, as in ALTER COLUMN c TYPE t USING expression."));
        }
        self.alter_type_using(name, to, now_ms, by)
    }

    /// ALTER COLUMN TYPE … USING: between any two types. The caller writes every row anew.
    pub fn alter_type_using(&self, name: &str, to: KalamDataType, now_ms: u64, by: &str) -> Result<Self> {
        let column = self.existing(name)?;
        let from = column.data_type;
        if !to.can_be_key() {
            self.not_a_key(column, &format!("become {to}"))?;
            if let Some(index) = self.indexes.iter().find(|i| i.has(column.column_id)) {
                let message =
                    format!("column '{name}' is in the {} '{}' and cannot become {to}", index.kind(), index.name);
                return Err(KalamError::new(ErrorCode::InvalidDefinition, message));
            }
        }
        let default = match column.default.value(&from)? {
            None => column.default.clone(),
            Some(value) => ColumnDefault::literal(&value.coerce(&to).map_err(|e| Self::of_default(e, name))?),
        };
        let default = Self::check_default(name, &to, default)?;
        let initial = column.initial_value()?;
        let initial = if from.assignable_to(&to) {
            initial.coerce(&to).map_err(|e| Self::of_default(e, name))?
        } else {
            // No row is left that was written before the column.
            Value::Null
        };
        Ok(self.change(column, now_ms, by, |c| {
            c.data_type = to;
            c.default = default;
            c.initial_default = (!initial.is_null()).then(|| initial.to_text().into_owned());
        }))
    }

    fn of_default(error: KalamError, column: &str) -> KalamError {
        error.in_context(format_args!("the default of column '{column}'"))
    }

    /// SET DEFAULT, or DROP DEFAULT with [`ColumnDefault::None`]. Rows that exist keep what they hold.
    pub fn set_default(&self, name: &str, default: ColumnDefault, now_ms: u64, by: &str) -> Result<Self> {
        let column = self.existing(name)?;
        let default = Self::check_default(name, &column.data_type, default)?;
        Ok(self.change(column, now_ms, by, |c| c.default = default))
    }

    /// SET NOT NULL or DROP NOT NULL. For the former the caller checks that no row holds NULL.
    pub fn set_nullable(&self, name: &str, nullable: bool, now_ms: u64, by: &str) -> Result<Self> {
        let column = self.existing(name)?;
        if nullable {
            self.not_a_key(column, "take NULL")?;
        }
        Ok(self.change(column, now_ms, by, |c| c.nullable = nullable))
    }

    /// SET options: all of them, as they are to be.
    pub fn set_options(&self, options: TableOptions, now_ms: u64, by: &str) -> Result<Self> {
        options.check(self.table_type)?;
        Ok(self.step(SchemaChange::SetOptions { from: self.options.clone(), to: options }, now_ms, by))
    }

    /// CREATE OR REPLACE VIEW on a view that is there: new query and columns, the same number.
    pub fn replace_view(&self, columns: Vec<NewColumn>, view: ViewDefinition, now_ms: u64, by: &str) -> Result<Self> {
        let Some(from) = &self.view else {
            let message = format!("'{}' is a {} table, expected a view", self.table_id, self.table_type);
            return Err(KalamError::new(ErrorCode::WrongObjectType, message));
        };
        let change = SchemaChange::ReplaceView { from: from.clone(), columns: self.columns.clone() };
        let mut next = self.step(change, now_ms, by);
        next.columns.clear();
        next.push_columns(columns)?;
        next.view = Some(view);
        Ok(next)
    }
}

#[cfg(test)]
#[path = "alter_tests.rs"]
mod tests;
