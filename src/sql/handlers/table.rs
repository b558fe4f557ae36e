//! CREATE TABLE and DROP TABLE.
//!
//! Invariant: a table, the rows that CREATE TABLE … AS or an import gives it, and the audit log's entry are stored in one
//! transaction, so no crash and no failing storage leaves one without the others.

use std::sync::Arc;

use std::collections::HashSet;

use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, CreateTable, CreateTableOptions, Expr, FunctionArguments, Ident, IndexColumn, ObjectName,
    SqlOption, TableConstraint, Value as SqlValue,
};
use datafusion::sql::sqlparser::tokenizer::Token;
use parking_lot::Mutex;

use super::super::catalog::{Extras, Names, fold, position_of_name, table_id};
use super::super::executor::{Execution, Rows, StatementResult, finish_rows};
use super::super::parser::position_of;
use super::audit::audit_entry;
use super::dml::{checked_batch, unsupported};
use super::insert::literal;
use super::query::column_names;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use crate::schema::{
    CachedTableData, ColumnDefault, DefaultFunction, NewColumn, TableDefinition, TableId, TableOptions, TableType,
};
use crate::storage::{Durability, WriteBatch};
use crate::tables::{ColdCheck, PreparedRows, ScopeWrite, prepare_rows};
use crate::types::{KalamDataType, coerce_array};

/// Runs a CREATE TABLE.
pub async fn create(execution: &Execution<'_>, kind: TableType, create: CreateTable) -> Result<StatementResult> {
    if create.temporary || create.external || create.or_replace || create.like.is_some() || create.clone.is_some() {
        return unsupported("CREATE TABLE with TEMPORARY, EXTERNAL, OR REPLACE, LIKE or CLONE");
    }
    let registry = execution.executor.registry();
    let id = table_id(&create.name, &execution.session.namespace())?;
    let position = position_of_name(&create.name);
    if crate::schema::is_reserved_namespace(&id.namespace) {
        return Err(KalamError::new(ErrorCode::InvalidName, format!("the namespace '{}' is reserved", id.namespace))
            .at(position));
    }
    if registry.namespace(&id.namespace).await?.is_none() {
        let namespace = execution.session.namespace();
        let names = Names { registry, namespace: &namespace };
        return Err(names.not_found(&id).await?.at(position));
    }
    if registry.table(&id).await?.is_some() {
        if create.if_not_exists {
            return Ok(StatementResult::default());
        }
        return Err(KalamError::new(ErrorCode::TableExists, format!("table '{id}' exists already")).at(position));
    }
    let (mut columns, mut key) = (Vec::new(), Vec::new());
    for column in &create.columns {
        columns.push(new_column(column, &mut key)?);
    }
    for constraint in &create.constraints {
        match constraint {
            TableConstraint::PrimaryKey(primary) if key.is_empty() => key = index_columns(&primary.columns)?,
            TableConstraint::PrimaryKey(_) => {
                return Err(KalamError::new(ErrorCode::InvalidDefinition, format!("'{id}' has two primary keys")));
            }
            TableConstraint::Unique(_) => {}
            other => return unsupported(&format!("the constraint '{other}'")),
        }
    }
    let options = table_options(kind, &create.table_options)?;
    if let Some(storage_id) = &options.storage_id {
        execution.executor.system().storages().require(storage_id).await.map_err(|e| e.at(position))?;
    }
    let source = match &create.query {
        None => None,
        Some(query) => {
            let names = column_names(query);
            let statement = query.as_ref().clone();
            let (schema, batches) = execution.select(statement, &Extras::new(), execution.request()).await?;
            let rows = finish_rows(&schema, batches, names)?;
            if columns.is_empty() {
                for field in rows.schema.fields() {
                    columns.push(NewColumn::new(field.name(), KalamDataType::from_arrow_field(field)?));
                }
            }
            Some(rows)
        }
    };
    let by = &execution.user;
    let number = registry.next_table_no().await?;
    let definition = TableDefinition::new(id.clone(), number, kind, columns, &key, options, platform::now_ms(), by)
        .map_err(|e| e.at(position))?;
    let unique = super::index::requests(&create.columns, &create.constraints)?;
    let definition = super::index::add_all(execution, unique, definition, |mut table, index| {
        table.push_index(index).map(|()| table)
    })
    .await?;
    let rows = match source {
        None => Vec::new(),
        Some(rows) => rows_of_query(&definition, rows)?,
    };
    match create_filled(execution, definition, rows).await {
        Err(error) if error.code() == ErrorCode::TableExists && create.if_not_exists => Ok(StatementResult::default()),
        outcome => outcome.map_err(|e| e.at(position)),
    }
}

/// The rows of CREATE TABLE … AS, encoded.
fn rows_of_query(definition: &TableDefinition, rows: Rows) -> Result<Vec<PreparedRows>> {
    if rows.schema.fields().len() != definition.columns.len() {
        return Err(KalamError::new(
            ErrorCode::InvalidDefinition,
            format!(
                "the query gives {} columns, the table has {}",
                rows.schema.fields().len(),
                definition.columns.len()
            ),
        ));
    }
    let table = Arc::new(CachedTableData::new(definition.clone()));
    let mut prepared = Vec::new();
    let mut first_row = 1;
    for batch in rows.batches {
        let columns = definition
            .columns_in_order()
            .zip(batch.columns())
            .map(|(column, array)| coerce_array(array, &column.data_type, &column.name))
            .collect::<Result<Vec<_>>>()?;
        let batch = checked_batch(&table, columns, batch.num_rows(), first_row)?;
        first_row += batch.num_rows();
        prepared.extend(prepare_rows(definition, &batch, None)?);
    }
    Ok(prepared)
}

/// Creates a table with its rows and the audit log's entry in one storage transaction: everything or nothing.
pub async fn create_filled(
    execution: &Execution<'_>,
    definition: TableDefinition,
    rows: Vec<PreparedRows>,
) -> Result<StatementResult> {
    let (registry, store) = (execution.executor.registry(), execution.executor.store());
    let entry = audit_entry(execution, "CREATE TABLE", &definition.table_id.to_string()).await?;
    if rows.iter().all(PreparedRows::is_empty) {
        registry.put_with(definition, entry).await?;
        return Ok(StatementResult { durability: Some(Durability::Strict), ..StatementResult::default() });
    }
    let request = execution.request();
    let scope = request.scope(&CachedTableData::new(definition.clone()))?;
    let hot = store.hot(&scope, &definition).await?;
    hot.use_indexes_of(&definition)?;
    let rows_affected = rows.iter().map(|r| r.len() as u64).sum();
    let write = ScopeWrite {
        scope,
        hot,
        schema_version: definition.schema_version,
        rows,
        replaced: Vec::new(),
        deleted: Vec::new(),
        checked: ColdCheck::Unchecked,
    };
    let number = definition.table_no;
    let receipt = Mutex::new(None);
    let created = registry
        .put_through(definition, entry, |batch| {
            // The table is not known to anyone yet, so nothing can have changed it meanwhile.
            let submitted = store.submit_with(vec![write], batch, Durability::Strict, None);
            let receipt = &receipt;
            async move {
                *receipt.lock() = Some(submitted?.await?);
                Ok(())
            }
        })
        .await;
    if let Err(error) = created {
        store.evict_table(number);
        return Err(error);
    }
    let receipt = receipt.into_inner();
    Ok(StatementResult {
        rows_affected,
        seq: receipt.map(|r| r.seq),
        durability: receipt.map(|r| r.durability),
        rows: None,
    })
}

/// A column of a CREATE TABLE; adds its name to `key` if it is declared the primary key.
pub fn new_column(column: &ColumnDef, key: &mut Vec<String>) -> Result<NewColumn> {
    let at = |error: KalamError| error.at(position_of(&column.name));
    let mut new = NewColumn::new(fold(&column.name), KalamDataType::from_sql(&column.data_type).map_err(at)?);
    if KalamDataType::is_serial(&column.data_type) {
        new.default = ColumnDefault::Function(DefaultFunction::SnowflakeId);
        new.nullable = false;
    }
    for option in &column.options {
        match &option.option {
            ColumnOption::Null => new.nullable = true,
            ColumnOption::NotNull => new.nullable = false,
            ColumnOption::Default(expr) => new.default = column_default(expr).map_err(at)?,
            ColumnOption::PrimaryKey(_) if key.is_empty() => key.push(new.name.clone()),
            ColumnOption::PrimaryKey(_) => {
                return Err(at(KalamError::new(
                    ErrorCode::InvalidDefinition,
                    format!("a second primary key at column '{}'", new.name),
                )
                .with_hint("Write PRIMARY KEY (a, b) for a key of several columns.")));
            }
            ColumnOption::Generated { generation_expr: None, .. } | ColumnOption::Identity(_) => {
                generate_ids(&mut new);
            }
            ColumnOption::DialectSpecific(tokens) if is_auto_increment(tokens) => generate_ids(&mut new),
            // UNIQUE is the table's business (`index.rs`).
            ColumnOption::Comment(_) | ColumnOption::Unique(_) => {}
            other => return Err(at(unsupported_option(&other.to_string()))),
        }
    }
    Ok(new)
}

/// What AUTO_INCREMENT and IDENTITY mean. The ids have 64 bits, so a smaller integer becomes BIGINT.
fn generate_ids(column: &mut NewColumn) {
    column.default = ColumnDefault::Function(DefaultFunction::SnowflakeId);
    column.nullable = false;
    if matches!(column.data_type, KalamDataType::SmallInt | KalamDataType::Int) {
        column.data_type = KalamDataType::BigInt;
    }
}

fn unsupported_option(option: &str) -> KalamError {
    KalamError::new(ErrorCode::FeatureNotSupported, format!("the column option '{option}' is not supported"))
}

fn is_auto_increment(tokens: &[Token]) -> bool {
    matches!(tokens, [Token::Word(w)] if w.value.replace('_', "").eq_ignore_ascii_case("autoincrement"))
}

/// The default that an expression means.
pub fn column_default(expr: &Expr) -> Result<ColumnDefault> {
    if let Some(value) = literal(expr, &super::super::params::Params::default())? {
        return Ok(ColumnDefault::literal(&value));
    }
    match expr {
        Expr::Nested(inner) => column_default(inner),
        Expr::Identifier(ident) if ident.quote_style.is_none() => {
            DefaultFunction::parse(&ident.value).map(ColumnDefault::Function)
        }
        Expr::Function(function) => {
            let without_arguments = match &function.args {
                FunctionArguments::None => true,
                FunctionArguments::List(list) => list.args.is_empty(),
                FunctionArguments::Subquery(_) => false,
            };
            if without_arguments {
                DefaultFunction::parse(&function.name.to_string()).map(ColumnDefault::Function)
            } else {
                Err(not_a_default(expr))
            }
        }
        other => Err(not_a_default(other)),
    }
}

fn not_a_default(expr: &Expr) -> KalamError {
    KalamError::new(ErrorCode::InvalidDefinition, format!("'{expr}' cannot be a default"))
        .with_hint("A default is a literal or one of SNOWFLAKE_ID(), UUID_V7(), ULID(), NOW(), CURRENT_USER().")
}

fn index_columns(columns: &[IndexColumn]) -> Result<Vec<String>> {
    columns
        .iter()
        .map(|c| match &c.column.expr {
            Expr::Identifier(ident) => Ok(fold(ident)),
            other => Err(KalamError::new(ErrorCode::InvalidDefinition, format!("'{other}' cannot be part of a key"))),
        })
        .collect()
}

/// The options of WITH (…).
pub fn table_options(kind: TableType, given: &CreateTableOptions) -> Result<TableOptions> {
    let mut options = TableOptions::default();
    let given = match given {
        CreateTableOptions::None => return Ok(options),
        CreateTableOptions::With(given)
        | CreateTableOptions::Options(given)
        | CreateTableOptions::Plain(given)
        | CreateTableOptions::TableProperties(given) => given,
    };
    set_options(&mut options, kind, given)?;
    Ok(options)
}

/// Sets options as they are written.
pub fn set_options(options: &mut TableOptions, kind: TableType, given: &[SqlOption]) -> Result<()> {
    let mut seen = HashSet::new();
    for option in given {
        let SqlOption::KeyValue { key, value } = option else {
            return Err(KalamError::new(
                ErrorCode::InvalidOption,
                format!("the option '{option}' is not NAME = value"),
            ));
        };
        let name = key.value.to_ascii_uppercase();
        if !seen.insert(name.clone()) {
            let message = format!("the option {name} is given twice");
            return Err(KalamError::new(ErrorCode::InvalidOption, message).at(position_of(key)));
        }
        options.set(kind, &key.value, &option_text(key, value)?).map_err(|e| e.at(position_of(key)))?;
    }
    Ok(())
}

fn option_text(key: &Ident, value: &Expr) -> Result<String> {
    match value {
        Expr::Value(v) => match &v.value {
            SqlValue::Number(text, _) | SqlValue::SingleQuotedString(text) => Ok(text.clone()),
            other => Ok(other.to_string()),
        },
        Expr::Identifier(ident) => Ok(ident.value.clone()),
        other => Err(KalamError::new(
            ErrorCode::InvalidOption,
            format!("the option {} is '{other}', expected a literal", key.value),
        )),
    }
}

/// Runs a DROP TABLE. Every name is checked before the first table is dropped.
pub async fn drop(execution: &Execution<'_>, names: &[ObjectName], if_exists: bool) -> Result<StatementResult> {
    let namespace = execution.session.namespace();
    let lookup = Names { registry: execution.executor.registry(), namespace: &namespace };
    let mut found = Vec::new();
    for name in names {
        match lookup.writable(name).await {
            Ok(table) => found.push(table.table_id().clone()),
            Err(error)
                if if_exists && matches!(error.code(), ErrorCode::TableNotFound | ErrorCode::NamespaceNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    for id in &found {
        drop_one(execution, id, audit_entry(execution, "DROP TABLE", &id.to_string()).await?).await?;
    }
    Ok(StatementResult { durability: Some(Durability::Strict), ..StatementResult::default() })
}

async fn drop_one(execution: &Execution<'_>, id: &TableId, mut batch: WriteBatch) -> Result<()> {
    let (registry, store) = (execution.executor.registry(), execution.executor.store());
    let Some(table) = registry.table(id).await? else { return Ok(()) };
    let number = table.definition().table_no;
    let frozen = store.freeze(number).await?;
    store.drop_table_into(&mut batch, number);
    if registry.delete_with(id, batch).await? {
        store.table_dropped(&frozen);
    }
    std::mem::drop(frozen);
    // What somebody reads, or cannot be removed now, is removed later.
    let _ = store.reclaim(registry).await;
    Ok(())
}
