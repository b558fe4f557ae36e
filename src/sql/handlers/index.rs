//! CREATE INDEX, DROP INDEX, ALTER INDEX, SHOW INDEXES, and UNIQUE in the definition of a table.
//!
//! Invariant: an index or constraint has a name that nothing else in its namespace has (tables included); those made
//! without one get PostgreSQL's, `t_a_b_key` for a constraint and `t_a_b_idx` for an index, with a number where that is
//! taken. Making and dropping one is a step of ALTER TABLE (`alter.rs`), so it has its version, its entry in the
//! audit log, and no commits meanwhile.

use std::collections::HashSet;

use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, CreateIndex, Expr, Ident, IndexColumn, IndexType, NullsDistinctOption, ObjectName,
    TableConstraint, UniqueConstraint,
};

use super::super::catalog::{Names, fold, position_of_name, single_ident, table_id};
use super::super::executor::{Execution, StatementResult};
use super::super::parser::position_of;
use super::alter::{Change, change};
use super::dml::unsupported;
use super::show::text_rows;
use crate::error::{ErrorCode, KalamError, Position, Result};
use crate::schema::{NewIndex, SchemaRegistry, TableDefinition, TableId, TableType};
use crate::tables::is_system_namespace;

/// An index as a statement asks for it.
#[derive(Debug, Clone)]
pub struct IndexRequest {
    name: Option<String>,
    columns: Vec<(String, bool)>,
    /// Where the columns stand.
    places: Vec<Option<Position>>,
    unique: bool,
    constraint: bool,
    position: Option<Position>,
}

impl IndexRequest {
    /// A table's UNIQUE constraint.
    pub fn of_constraint(unique: &UniqueConstraint) -> Result<Self> {
        if unique.nulls_distinct == NullsDistinctOption::NotDistinct || unique.characteristics.is_some() {
            return unsupported("UNIQUE with NULLS NOT DISTINCT or DEFERRABLE");
        }
        let name = unique.name.as_ref().or(unique.index_name.as_ref());
        Ok(Self {
            name: name.map(fold),
            columns: columns(&unique.columns)?,
            places: places(&unique.columns),
            unique: true,
            constraint: true,
            position: name.and_then(position_of),
        })
    }

    /// The UNIQUE constraints among a column's options.
    pub fn of_column(column: &ColumnDef) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for option in &column.options {
            let ColumnOption::Unique(unique) = &option.option else { continue };
            let mut request = Self::of_constraint(unique)?;
            request.columns = vec![(fold(&column.name), false)];
            request.name = option.name.as_ref().map(fold).or(request.name);
            request.position = option.name.as_ref().and_then(position_of).or_else(|| position_of(&column.name));
            found.push(request);
        }
        Ok(found)
    }

    /// The index that a statement makes of a table, with its name.
    fn named(self, table: &TableDefinition, taken: &HashSet<String>) -> Result<NewIndex> {
        let Self { name, columns, unique, constraint, position, .. } = self;
        let name = match name {
            Some(name) if taken.contains(&name) => return Err(name_is_taken(&name).at(position)),
            Some(name) => name,
            None => {
                let parts: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
                let suffix = if constraint { "key" } else { "idx" };
                let base = format!("{}_{}_{suffix}", table.table_id.table, parts.join("_"));
                let numbered = (1..).map(|n| format!("{base}{n}"));
                let mut free = std::iter::once(base.clone()).chain(numbered);
                free.find(|name| !taken.contains(name) && table.index(name).is_none()).unwrap_or(base)
            }
        };
        Ok(NewIndex { name, columns, unique, constraint })
    }
}

/// Gives a definition that is being made its indexes, or adds them to one as steps with `add`.
pub async fn add_all(
    execution: &Execution<'_>,
    requests: Vec<IndexRequest>,
    mut table: TableDefinition,
    mut add: impl FnMut(TableDefinition, NewIndex) -> Result<TableDefinition>,
) -> Result<TableDefinition> {
    if requests.is_empty() {
        return Ok(table);
    }
    let taken = taken_names(execution.executor.registry(), &table.table_id.namespace).await?;
    for request in requests {
        let (position, places) = (request.position, request.places.clone());
        let index = request.named(&table, &taken)?;
        let named: Vec<String> = index.columns.iter().map(|(name, _)| format!("column '{name}'")).collect();
        table = add(table, index).map_err(|e| {
            // At the column that the error is about, the last time it stands there.
            let column = named.iter().rposition(|column| e.message().starts_with(column.as_str()));
            let place = column.and_then(|column| places.get(column).copied().flatten());
            e.at(place.or(position))
        })?;
    }
    Ok(table)
}

/// The names that an index in a namespace may not have.
async fn taken_names(registry: &SchemaRegistry, namespace: &str) -> Result<HashSet<String>> {
    let mut names = HashSet::new();
    for table in registry.tables(Some(namespace)).await? {
        let definition = table.definition();
        names.insert(table.table_id().table.to_string());
        names.extend(definition.indexes.iter().map(|i| i.name.clone()));
        if !definition.primary_key.is_empty() {
            names.insert(definition.primary_key_name());
        }
    }
    Ok(names)
}

fn columns(columns: &[IndexColumn]) -> Result<Vec<(String, bool)>> {
    columns
        .iter()
        .map(|column| {
            let Expr::Identifier(ident) = &column.column.expr else {
                let message = format!("an index on the expression '{}' is not supported", column.column.expr);
                return Err(KalamError::new(ErrorCode::FeatureNotSupported, message)
                    .with_hint("Keep its value in a column of its own, and index that."));
            };
            let descending = column.column.options.asc == Some(false);
            let nulls_first = column.column.options.nulls_first.unwrap_or(descending);
            if nulls_first != descending || column.operator_class.is_some() {
                return unsupported(
                    "an index with NULLS FIRST on ascending or LAST on descending values, or an operator class",
                );
            }
            Ok((fold(ident), descending))
        })
        .collect()
}

/// Where the columns of an index stand in the text.
fn places(columns: &[IndexColumn]) -> Vec<Option<Position>> {
    let place = |column: &IndexColumn| match &column.column.expr {
        Expr::Identifier(ident) => position_of(ident),
        _ => None,
    };
    columns.iter().map(place).collect()
}

/// The UNIQUE constraints of a CREATE TABLE.
pub fn requests(columns: &[ColumnDef], constraints: &[TableConstraint]) -> Result<Vec<IndexRequest>> {
    let mut requests = Vec::new();
    for column in columns {
        requests.extend(IndexRequest::of_column(column)?);
    }
    for constraint in constraints {
        if let TableConstraint::Unique(unique) = constraint {
            requests.push(IndexRequest::of_constraint(unique)?);
        }
    }
    Ok(requests)
}

/// Runs a CREATE INDEX.
pub async fn create(execution: &Execution<'_>, create: &CreateIndex) -> Result<StatementResult> {
    if let Some(predicate) = &create.predicate {
        let message = format!("a partial index (CREATE INDEX … WHERE {predicate}) is not supported");
        return Err(KalamError::new(ErrorCode::FeatureNotSupported, message)
            .with_hint("An index of all rows serves the same queries, but it makes a UNIQUE rule for all of them.")
            .at(position_of_name(&create.table_name)));
    }
    if !create.include.is_empty()
        || !create.with.is_empty()
        || create.nulls_distinct == Some(false)
        || !create.index_options.is_empty()
        || !create.alter_options.is_empty()
    {
        return unsupported("CREATE INDEX with INCLUDE, WITH or NULLS NOT DISTINCT");
    }
    if create.using.as_ref().is_some_and(|using| *using != IndexType::BTree) {
        return unsupported("an index that is not USING BTREE");
    }
    let name = create.name.as_ref().map(|name| single_ident(name, "index")).transpose()?;
    let request = IndexRequest {
        name: name.as_ref().map(fold),
        columns: columns(&create.columns)?,
        places: places(&create.columns),
        unique: create.unique,
        constraint: false,
        position: name.as_ref().and_then(position_of),
    };
    if create.if_not_exists
        && let Some(name) = &request.name
    {
        let registry = execution.executor.registry();
        let namespace = table_id(&create.table_name, &execution.session.namespace())?.namespace;
        let indexes = registry.tables(Some(&namespace)).await?;
        if indexes.iter().any(|table| table.definition().index(name).is_some()) {
            return Ok(StatementResult::default());
        }
    }
    change(execution, &create.table_name, false, "CREATE INDEX", &[Change::AddIndex(&request)]).await
}

/// Runs a DROP INDEX. Every name is checked before the first index is dropped.
pub async fn drop(execution: &Execution<'_>, names: &[ObjectName], if_exists: bool) -> Result<StatementResult> {
    let registry = execution.executor.registry();
    let mut found = Vec::new();
    for name in names {
        let id = table_id(name, &execution.session.namespace())?;
        let tables = registry.tables(Some(&id.namespace)).await?;
        let owner = tables.iter().find_map(|t| t.definition().index(&id.table).map(|index| (t, index.clone())));
        match owner {
            Some((table, index)) if index.constraint => {
                let message = format!("'{}' belongs to a constraint of '{}'", index.name, table.table_id());
                return Err(KalamError::new(ErrorCode::WrongObjectType, message)
                    .with_hint("Write ALTER TABLE … DROP CONSTRAINT.")
                    .at(position_of_name(name)));
            }
            Some((table, index)) => found.push((table.table_id().clone(), index.name)),
            None if if_exists => {}
            None => return Err(no_index(&id, name)),
        }
    }
    let mut result = StatementResult::default();
    for (table, index) in found {
        result = change(execution, &quoted_name(&table), true, "DROP INDEX", &[Change::DropIndex(&index)]).await?;
    }
    Ok(result)
}

/// Runs an ALTER INDEX … RENAME TO: of an index, or of the constraint that it belongs to.
pub async fn rename(
    execution: &Execution<'_>,
    name: &ObjectName,
    to: &Ident,
    if_exists: bool,
) -> Result<StatementResult> {
    let id = table_id(name, &execution.session.namespace())?;
    let tables = execution.executor.registry().tables(Some(&id.namespace)).await?;
    let tables: Vec<&TableDefinition> = tables.iter().map(|t| t.definition().as_ref()).collect();
    if let Some(owner) = tables.iter().find(|t| t.index(&id.table).is_some()) {
        let of = quoted_name(&owner.table_id);
        return change(execution, &of, true, "ALTER INDEX", &[Change::RenameIndex(&id.table, to)]).await;
    }
    let has_key = |t: &&&TableDefinition| !t.primary_key.is_empty() && t.primary_key_name() == *id.table;
    if let Some(owner) = tables.iter().find(has_key) {
        let message = format!("'{}' is the primary key of '{}', which has no other name", id.table, owner.table_id);
        return Err(KalamError::new(ErrorCode::FeatureNotSupported, message)
            .with_hint("It is called after its table.")
            .at(position_of_name(name)));
    }
    if if_exists { Ok(StatementResult::default()) } else { Err(no_index(&id, name)) }
}

/// Fails if an index of a table cannot have a name, because something else in its namespace has it.
pub async fn check_free(execution: &Execution<'_>, table: &TableDefinition, name: &Ident) -> Result<()> {
    let taken = taken_names(execution.executor.registry(), &table.table_id.namespace).await?;
    let wanted = fold(name);
    if taken.contains(&wanted) { Err(name_is_taken(&wanted).at(position_of(name))) } else { Ok(()) }
}

fn name_is_taken(name: &str) -> KalamError {
    KalamError::new(ErrorCode::IndexExists, format!("'{name}' is the name of an index, constraint or table already"))
}

fn no_index(id: &TableId, name: &ObjectName) -> KalamError {
    KalamError::new(ErrorCode::IndexNotFound, format!("index '{id}' does not exist")).at(position_of_name(name))
}

/// A table's name as a statement would give it.
fn quoted_name(id: &TableId) -> ObjectName {
    let parts = [&id.namespace, &id.table].map(|part| Ident::with_quote('"', part.to_string()));
    ObjectName::from(parts.to_vec())
}

/// `SHOW INDEXES [FROM t]`: primary keys, constraints and indexes.
pub async fn show(execution: &Execution<'_>, name: Option<&ObjectName>) -> Result<StatementResult> {
    let registry = execution.executor.registry();
    let namespace = execution.session.namespace();
    let tables = match name {
        Some(name) => vec![Names { registry, namespace: &namespace }.table(name).await?],
        None => registry.tables(None).await?,
    };
    let mut rows: [Vec<Option<String>>; 6] = Default::default();
    for table in tables {
        let definition = table.definition();
        if name.is_none() && is_system_namespace(&definition.table_id.namespace)
            || definition.table_type == TableType::View
        {
            continue;
        }
        for index in definition.listed_indexes() {
            let id = &definition.table_id;
            let unique = if index.unique { "YES" } else { "NO" }.to_owned();
            let columns = index.column_list();
            let cells =
                [id.namespace.to_string(), id.table.to_string(), index.name, index.kind.to_owned(), unique, columns];
            rows.iter_mut().zip(cells).for_each(|(column, cell)| column.push(Some(cell)));
        }
    }
    let names = ["namespace", "table", "name", "kind", "unique", "columns"];
    text_rows(names.into_iter().zip(rows).collect())
}
