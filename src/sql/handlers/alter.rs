//! ALTER TABLE.
//!
//! Invariant: a statement takes effect as a whole or not at all. While it runs the table takes no commits, so what was
//! asked of its rows (does a narrower type hold them all, is there a NULL) is still true when the new definition is
//! stored, and every step of the statement is stored in one transaction. Rows are not rewritten, but for steps that
//! give each its own value (`rewrite.rs`): each says under which version it was written, and is read by the table's
//! history (`tables/scan_reader.rs`, `tables/replay.rs`).

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use datafusion::sql::sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, ColumnDef, DropBehavior, Ident, ObjectName,
    RenameTableNameKind, SqlOption, TableConstraint,
};

use super::super::catalog::{Names, fold, position_of_name, table_id};
use super::super::executor::{Execution, StatementResult};
use super::super::parser::position_of;
use super::audit::audit_entry;
use super::dml::{column_item, unsupported};
use super::index::IndexRequest;
use super::rewrite::Rewritten;
use super::table::{column_default, new_column, set_options};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::{self, Turns};
use crate::schema::{
    ColumnDefault, ColumnDefinition, DefaultFunction, IndexDefinition, NewColumn, TableDefinition, TableId, TableType,
};
use crate::storage::Durability;
use crate::types::{KalamDataType, KeyCodec, Value, coerce_array};

/// Runs an ALTER TABLE.
pub async fn alter(execution: &Execution<'_>, alter: &AlterTable) -> Result<StatementResult> {
    if alter.location.is_some() || alter.on_cluster.is_some() || alter.table_type.is_some() {
        return unsupported("ALTER TABLE with a location, a cluster or a table format");
    }
    let changes: Vec<Change<'_>> = alter.operations.iter().map(Change::Operation).collect();
    change(execution, &alter.name, alter.if_exists, "ALTER TABLE", &changes).await
}

/// A change of a table's definition.
pub enum Change<'a> {
    /// As ALTER TABLE says it.
    Operation(&'a AlterTableOperation),
    /// CREATE INDEX.
    AddIndex(&'a IndexRequest),
    /// DROP INDEX.
    DropIndex(&'a str),
    /// ALTER INDEX … RENAME TO.
    RenameIndex(&'a str, &'a Ident),
}

/// Changes the definition of a table, and its rows as far as the changes concern them.
pub async fn change(
    execution: &Execution<'_>,
    name: &ObjectName,
    if_exists: bool,
    action: &str,
    changes: &[Change<'_>],
) -> Result<StatementResult> {
    let (registry, store) = (execution.executor.registry(), execution.executor.store());
    let namespace = execution.session.namespace();
    let names = Names { registry, namespace: &namespace };
    let table = match names.writable(name).await {
        Err(e) if if_exists && matches!(e.code(), ErrorCode::TableNotFound | ErrorCode::NamespaceNotFound) => {
            return Ok(StatementResult::default());
        }
        found => found?,
    };
    let number = table.definition().table_no;
    let no_commits = store.freeze(number).await?;
    // Another ALTER may have been before this one in the queue.
    let table = names.writable(name).await?;
    if table.definition().table_no != number {
        return Err(KalamError::new(ErrorCode::Conflict, format!("the table '{}' was replaced", table.table_id())));
    }
    let old = table.table_id().clone();
    let mut steps = Steps {
        execution,
        start: Arc::clone(table.definition()),
        now: TableDefinition::clone(table.definition()),
        rewritten: None,
    };
    let taken = steps.take_all(changes).await;
    if taken.is_ok() && steps.now.schema_version == steps.start.schema_version {
        return Ok(StatementResult::default());
    }
    let entry = audit_entry(execution, action, &old.to_string()).await?;
    let outcome = match taken {
        Err(error) => Err(error),
        Ok(()) if steps.now.table_id != old => registry.rename_with(&old, steps.now.clone(), entry).await,
        Ok(()) if let Some(rewritten) = steps.rewritten.take() => {
            let scopes = rewritten.prepared()?;
            registry.put_through(steps.now.clone(), entry, |batch| store.rewrite(&no_commits, scopes, batch)).await
        }
        Ok(()) => registry.put_with(steps.now.clone(), entry).await,
    };
    if steps.key_types_changed() {
        // Rows in memory are found by keys of the old types, or of the new ones if it came to nothing.
        store.evict_table(number);
    }
    let ttl = steps.now.options.ttl_seconds.filter(|_| outcome.is_ok());
    ttl.into_iter().for_each(|seconds| store.set_ttl(number, seconds));
    outcome.map_err(|e| if e.position().is_some() { e } else { e.at(position_of_name(name)) })?;
    Ok(StatementResult { durability: Some(Durability::Strict), ..StatementResult::default() })
}

/// The steps of one statement: the definition it found, and as it is by now.
pub(super) struct Steps<'a, 'b> {
    pub(super) execution: &'a Execution<'b>,
    start: Arc<TableDefinition>,
    pub(super) now: TableDefinition,
    /// The rows, once a step gave each a value of its own.
    pub(super) rewritten: Option<Rewritten>,
}

impl Steps<'_, '_> {
    fn key_types_changed(&self) -> bool {
        let types = |d: &TableDefinition| d.key_columns().iter().map(|c| c.data_type).collect::<Vec<_>>();
        // Types that changed there and back count: values do not come back.
        let retyped = self.now.history[self.start.history.len()..].iter().any(|v| {
            matches!(&v.change, crate::schema::SchemaChange::ChangeColumn { from, to }
                if from.data_type != to.data_type && self.now.is_key(to.column_id))
        });
        retyped || types(&self.start) != types(&self.now)
    }

    async fn take_all(&mut self, changes: &[Change<'_>]) -> Result<()> {
        for change in changes {
            match change {
                Change::Operation(operation) => self.take(operation, changes.len()).await?,
                Change::AddIndex(request) => self.add_index(IndexRequest::clone(request)).await?,
                Change::DropIndex(name) => {
                    self.now = self.now.drop_index(name, platform::now_ms(), self.execution.session.user())?;
                }
                Change::RenameIndex(name, to) => self.rename_index(name, to).await?,
            }
        }
        Ok(())
    }

    async fn add_index(&mut self, request: IndexRequest) -> Result<()> {
        let (at, by) = (platform::now_ms(), Arc::clone(self.execution.session.user()));
        let now = self.now.clone();
        let next = super::index::add_all(self.execution, vec![request], now, |t, index| t.add_index(index, at, &by));
        self.now = next.await?;
        match self.now.indexes.last().cloned() {
            Some(index) if index.unique => self.check_unique(&index).await,
            _ => Ok(()),
        }
    }

    async fn rename_index(&mut self, name: &str, to: &Ident) -> Result<()> {
        let (at, by) = (platform::now_ms(), Arc::clone(&self.execution.user));
        super::index::check_free(self.execution, &self.now, to).await?;
        self.now = self.now.rename_index(name, &fold(to), at, &by).map_err(|e| e.at(position_of(to)))?;
        Ok(())
    }

    /// Checks that no two rows of a scope have the same values in the columns of an index.
    async fn check_unique(&self, index: &IndexDefinition) -> Result<()> {
        let columns: Vec<&ColumnDefinition> =
            index.columns.iter().filter_map(|c| self.now.column_by_id(c.column_id)).collect();
        let types: Vec<KalamDataType> = columns.iter().map(|c| c.data_type).collect();
        let codec = KeyCodec::new(&types)?;
        let request = self.execution.request();
        let mut turns = Turns::begin();
        for scope in self.live(&columns).await? {
            let mut found = HashSet::new();
            for arrays in scope {
                request.pass(&mut turns).await?;
                for row in 0..arrays[0].len() {
                    if arrays.iter().any(|a| a.is_null(row)) {
                        continue;
                    }
                    let mut key = Vec::new();
                    codec.encode(&arrays, row, &mut key)?;
                    if found.contains(&key) {
                        let names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
                        let values: Vec<String> = codec.decode(&key)?.iter().map(Value::to_string).collect();
                        let message = format!(
                            "two rows of '{}' have ({})=({}), but {} '{}' is unique",
                            self.now.table_id,
                            names.join(", "),
                            values.join(", "),
                            index.kind(),
                            index.name
                        );
                        return Err(KalamError::new(ErrorCode::UniqueViolation, message));
                    }
                    found.insert(key);
                }
            }
        }
        Ok(())
    }

    /// Checks the unique indexes of a column whose values have changed.
    pub(super) async fn check_unique_of(&self, column: &str) -> Result<()> {
        let Some(id) = self.now.column(column).map(|c| c.column_id) else { return Ok(()) };
        for index in self.now.indexes.iter().filter(|i| i.unique && i.has(id)) {
            self.check_unique(index).await?;
        }
        Ok(())
    }

    async fn take(&mut self, operation: &AlterTableOperation, of: usize) -> Result<()> {
        let (at, by) = (platform::now_ms(), Arc::clone(&self.execution.user));
        match operation {
            AlterTableOperation::AddColumn { column_position: Some(_), .. } => unsupported("FIRST and AFTER"),
            AlterTableOperation::AddColumn { if_not_exists, column_def, .. } => {
                if *if_not_exists && self.now.column(&fold(&column_def.name)).is_some() {
                    return Ok(());
                }
                self.add_column(column_def).await
            }
            AlterTableOperation::DropColumn { drop_behavior: Some(DropBehavior::Cascade), .. } => {
                unsupported("CASCADE")
            }
            AlterTableOperation::DropColumn { column_names, if_exists, .. } => {
                for ident in column_names {
                    let name = fold(ident);
                    if !(*if_exists && self.now.column(&name).is_none()) {
                        self.now = self.now.drop_column(&name, at, &by).map_err(|e| e.at(position_of(ident)))?;
                    }
                }
                Ok(())
            }
            AlterTableOperation::RenameColumn { old_column_name, new_column_name } => {
                let renamed = self.now.rename_column(&fold(old_column_name), &fold(new_column_name), at, &by);
                self.now = renamed.map_err(|e| e.at(position_of(old_column_name)))?;
                Ok(())
            }
            AlterTableOperation::RenameTable { .. } if of > 1 => unsupported("RENAME TO together with other changes"),
            AlterTableOperation::RenameTable { table_name } => {
                let (RenameTableNameKind::As(name) | RenameTableNameKind::To(name)) = table_name;
                let to = table_id(name, &self.now.table_id.namespace)?;
                self.now = self.rename(to, at, &by).map_err(|e| e.at(position_of_name(name)))?;
                Ok(())
            }
            AlterTableOperation::AlterColumn { column_name, op } => {
                self.alter_column(&fold(column_name), op).await.map_err(|e| e.at(position_of(column_name)))
            }
            AlterTableOperation::AddConstraint { constraint: TableConstraint::Unique(unique), not_valid: false } => {
                self.add_index(IndexRequest::of_constraint(unique)?).await
            }
            AlterTableOperation::DropConstraint { drop_behavior: Some(DropBehavior::Cascade), .. } => {
                unsupported("CASCADE")
            }
            AlterTableOperation::DropConstraint { if_exists, name, .. } => {
                let wanted = fold(name);
                match self.now.index(&wanted) {
                    Some(index) if index.constraint => self.now = self.now.drop_index(&wanted, at, &by)?,
                    None if !self.now.primary_key.is_empty() && wanted == self.now.primary_key_name() => {
                        return unsupported("DROP CONSTRAINT of a primary key");
                    }
                    _ if *if_exists => {}
                    _ => return Err(self.no_constraint(name)),
                }
                Ok(())
            }
            AlterTableOperation::RenameConstraint { old_name, new_name } => {
                let wanted = fold(old_name);
                match self.now.index(&wanted) {
                    Some(index) if index.constraint => self.rename_index(&wanted, new_name).await,
                    None if !self.now.primary_key.is_empty() && wanted == self.now.primary_key_name() => {
                        unsupported("RENAME CONSTRAINT of a primary key, which is called after its table")
                    }
                    _ => Err(self.no_constraint(old_name)),
                }
            }
            AlterTableOperation::SetOptionsParens { options }
            | AlterTableOperation::SetTblProperties { table_properties: options } => {
                self.set_options(options, at, &by).await
            }
            other => unsupported(&format!("ALTER TABLE … {other}")),
        }
    }

    fn no_constraint(&self, name: &Ident) -> KalamError {
        let message = format!("constraint '{}' of '{}' does not exist", fold(name), self.now.table_id);
        KalamError::new(ErrorCode::ConstraintNotFound, message).at(position_of(name))
    }

    fn rename(&self, to: TableId, at: u64, by: &str) -> Result<TableDefinition> {
        if crate::schema::is_reserved_namespace(&to.namespace) {
            let message = format!("the namespace '{}' is reserved", to.namespace);
            return Err(KalamError::new(ErrorCode::InvalidName, message));
        }
        self.now.rename_table(to, at, by)
    }

    async fn set_options(&mut self, given: &[SqlOption], at: u64, by: &str) -> Result<()> {
        let mut options = self.now.options.clone();
        set_options(&mut options, self.now.table_type, given)?;
        if let Some(storage_id) = &options.storage_id {
            self.execution.executor.system().storages().require(storage_id).await?;
        }
        if options != self.now.options {
            self.now = self.now.set_options(options, at, by)?;
        }
        Ok(())
    }

    async fn add_column(&mut self, definition: &ColumnDef) -> Result<()> {
        let at = |error: KalamError| error.at(position_of(&definition.name));
        let mut key = Vec::new();
        let column = new_column(definition, &mut key)?;
        if !key.is_empty() {
            return Err(at(KalamError::new(
                ErrorCode::InvalidDefinition,
                format!(
                    "column '{}' cannot become the primary key of '{}': a table's key is given once",
                    column.name, self.now.table_id
                ),
            )
            .with_hint("Create another table with the key and fill it with INSERT … SELECT.")));
        }
        let initial = self.initial(&column);
        let unique = IndexRequest::of_column(definition)?;
        let asks_rows = match &column.default {
            ColumnDefault::Function(function) => function.is_volatile(),
            ColumnDefault::None => !column.nullable,
            ColumnDefault::Literal(_) => false,
        };
        let next = self.now.add_column(column.clone(), initial.as_ref(), platform::now_ms(), &self.execution.user);
        let next = next.map_err(at)?;
        if asks_rows && self.has_rows().await? {
            if matches!(column.default, ColumnDefault::Function(_)) {
                self.add_computed(next).await.map_err(at)?;
                return self.add_indexes(unique).await;
            }
            let message = format!(
                "column '{}' of '{}' is NOT NULL, but the rows that exist would have NULL",
                column.name, self.now.table_id
            );
            return Err(at(
                KalamError::new(ErrorCode::NotNullViolation, message).with_hint("Give the column a DEFAULT.")
            ));
        }
        self.now = next;
        self.add_indexes(unique).await
    }

    async fn add_indexes(&mut self, requests: Vec<IndexRequest>) -> Result<()> {
        for request in requests {
            self.add_index(request).await?;
        }
        Ok(())
    }

    /// What rows that exist get from a default that is a function; literals are the definition's business.
    fn initial(&self, column: &NewColumn) -> Option<Value> {
        match column.default {
            ColumnDefault::Function(DefaultFunction::Now) => Some(Value::DateTime(platform::now_us())),
            ColumnDefault::Function(DefaultFunction::CurrentUser) => Some(Value::Text(self.execution.user.to_string())),
            // Rows cannot share one: each gets its own ([`Steps::add_computed`]).
            ColumnDefault::Function(_) => Some(Value::Null),
            ColumnDefault::None | ColumnDefault::Literal(_) => None,
        }
    }

    async fn alter_column(&mut self, name: &str, operation: &AlterColumnOperation) -> Result<()> {
        let (at, by) = (platform::now_ms(), Arc::clone(&self.execution.user));
        let column = self.now.column(name).cloned();
        let next = match operation {
            AlterColumnOperation::SetNotNull => {
                let next = self.now.set_nullable(name, false, at, &by)?;
                match column {
                    Some(column) if column.nullable => self.check_not_null(&column).await?,
                    _ => return Ok(()),
                }
                next
            }
            AlterColumnOperation::DropNotNull => {
                let next = self.now.set_nullable(name, true, at, &by)?;
                if column.is_some_and(|c| c.nullable) {
                    return Ok(());
                }
                next
            }
            AlterColumnOperation::SetDefault { value } => {
                self.now.set_default(name, column_default(value)?, at, &by)?
            }
            AlterColumnOperation::DropDefault => self.now.set_default(name, ColumnDefault::None, at, &by)?,
            AlterColumnOperation::SetDataType { data_type, using: Some(using), .. } => {
                return self.convert_using(name, KalamDataType::from_sql(data_type)?, using).await;
            }
            AlterColumnOperation::SetDataType { data_type, .. } => {
                let to = KalamDataType::from_sql(data_type)?;
                if self.now.table_type == TableType::Stream
                    && column.as_ref().is_some_and(|c| self.now.is_key(c.column_id))
                {
                    return unsupported("a new type for a key column of a STREAM table");
                }
                let next = self.now.alter_type(name, to, at, &by)?;
                match column {
                    Some(column) if column.data_type != to => self.check_type(&column, to).await?,
                    _ => return Ok(()),
                }
                self.now = next;
                return self.check_unique_of(name).await;
            }
            other => return unsupported(&format!("ALTER COLUMN … {other}")),
        };
        self.now = next;
        Ok(())
    }

    async fn check_not_null(&self, column: &ColumnDefinition) -> Result<()> {
        let mut rows = 0;
        for scope in self.live(&[column]).await? {
            for columns in scope {
                if let Some(row) = (0..columns[0].len()).find(|&row| columns[0].is_null(row)) {
                    return Err(KalamError::new(
                        ErrorCode::NotNullViolation,
                        format!(
                            "column '{}' of '{}' cannot become NOT NULL: row {} has NULL",
                            column.name,
                            self.now.table_id,
                            rows + row + 1
                        ),
                    )
                    .with_hint("Give these rows a value with UPDATE first."));
                }
                rows += columns[0].len();
            }
        }
        Ok(())
    }

    /// Checks that every row's value converts, and that keys stay different.
    async fn check_type(&self, column: &ColumnDefinition, to: KalamDataType) -> Result<()> {
        let is_key = self.now.is_key(column.column_id);
        if column.data_type.widens_to(&to) && !is_key {
            return Ok(());
        }
        let keys = self.now.key_columns();
        let wanted = if is_key { keys } else { vec![column] };
        let types: Vec<KalamDataType> =
            wanted.iter().map(|c| if c.column_id == column.column_id { to } else { c.data_type }).collect();
        for scope in self.live(&wanted).await? {
            let mut keys = HashSet::new();
            let mut before: Vec<ArrayRef> = Vec::new();
            for columns in scope {
                let mut converted = Vec::with_capacity(columns.len());
                for ((array, ty), definition) in columns.iter().zip(&types).zip(&wanted) {
                    if definition.column_id != column.column_id {
                        converted.push(Arc::clone(array));
                        continue;
                    }
                    before.push(Arc::clone(array));
                    converted.push(
                        coerce_array(array, ty, &column.name).map_err(|e| renumbered(&before, ty, &column.name, e))?,
                    );
                }
                if is_key {
                    self.check_keys(&types, &converted, &mut keys)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn check_keys(
        &self,
        types: &[KalamDataType],
        columns: &[ArrayRef],
        keys: &mut HashSet<Vec<u8>>,
    ) -> Result<()> {
        let codec = KeyCodec::new(types)?;
        for row in 0..columns[0].len() {
            let mut key = Vec::new();
            codec.encode(columns, row, &mut key)?;
            if keys.contains(&key) {
                let values: Vec<String> = codec.decode(&key)?.iter().map(Value::to_string).collect();
                return Err(KalamError::new(
                    ErrorCode::UniqueViolation,
                    format!("two rows of '{}' would have the key ({})", self.now.table_id, values.join(", ")),
                ));
            }
            keys.insert(key);
        }
        Ok(())
    }

    async fn has_rows(&self) -> Result<bool> {
        let first: Vec<&ColumnDefinition> = self.now.columns_in_order().take(1).collect();
        Ok(self.live(&first).await?.iter().flatten().any(|columns| !columns[0].is_empty()))
    }

    /// Columns of every row of the table, of all users, as the steps so far leave them: by scope, batch and column.
    async fn live(&self, columns: &[&ColumnDefinition]) -> Result<Vec<Vec<Vec<ArrayRef>>>> {
        let alias = Ident::new("t");
        let items = columns.iter().enumerate();
        let items: Vec<_> = items.map(|(i, c)| column_item(&alias, &c.name, &format!("${i}"))).collect();
        let scopes = self.select_all(&alias, items).await?.into_iter();
        Ok(scopes.map(|(_, batches)| batches.into_iter().map(|b| b.columns().to_vec()).collect()).collect())
    }
}

/// The error of a conversion with the row's number in the table instead of in its batch.
fn renumbered(arrays: &[ArrayRef], ty: &KalamDataType, column: &str, error: KalamError) -> KalamError {
    let all: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
    match arrow::compute::concat(&all).map(|array| coerce_array(&array, ty, column)) {
        Ok(Err(error)) => error,
        _ => error,
    }
}
