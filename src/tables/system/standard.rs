//! `information_schema`: the columns that PostgreSQL's views have, in their order, and where their rows come from.
//!
//! Invariant: what a view says of a table is what the registry says of it; a column that tells of something this engine
//! does not have (domains, collations, identity columns) is there and is NULL, or says NO. Types have the names of this
//! engine in `data_type` and PostgreSQL's in `udt_name`. `statistics` is MySQL's: PostgreSQL has no view of indexes.

use std::sync::Arc;

use super::rows::{RowWriter, int, optional, text};
use super::spec::{INFORMATION_SCHEMA, SYSTEM_NAMESPACE, SystemColumn, opt};
use crate::error::Result;
use crate::schema::{CachedTableData, ListedIndex, NamespaceDefinition, TableDefinition, TableType};
use crate::types::KalamDataType as T;
use crate::types::Value::{self, Null};

/// The one catalog there is, as the standard wants it named.
pub const CATALOG: &str = "kalam";

/// The columns of `schemata`.
pub(super) const SCHEMATA: &[SystemColumn] = &[
    opt("catalog_name", T::Text),
    opt("schema_name", T::Text),
    opt("schema_owner", T::Text),
    opt("default_character_set_catalog", T::Text),
    opt("default_character_set_schema", T::Text),
    opt("default_character_set_name", T::Text),
    opt("sql_path", T::Text),
];

/// The columns of `tables`.
pub(super) const TABLES: &[SystemColumn] = &[
    opt("table_catalog", T::Text),
    opt("table_schema", T::Text),
    opt("table_name", T::Text),
    opt("table_type", T::Text),
    opt("self_referencing_column_name", T::Text),
    opt("reference_generation", T::Text),
    opt("user_defined_type_catalog", T::Text),
    opt("user_defined_type_schema", T::Text),
    opt("user_defined_type_name", T::Text),
    opt("is_insertable_into", T::Text),
    opt("is_typed", T::Text),
    opt("commit_action", T::Text),
];

/// The columns of `views`.
pub(super) const VIEWS: &[SystemColumn] = &[
    opt("table_catalog", T::Text),
    opt("table_schema", T::Text),
    opt("table_name", T::Text),
    opt("view_definition", T::Text),
    opt("check_option", T::Text),
    opt("is_updatable", T::Text),
    opt("is_insertable_into", T::Text),
    opt("is_trigger_updatable", T::Text),
    opt("is_trigger_deletable", T::Text),
    opt("is_trigger_insertable_into", T::Text),
];

/// The columns of `columns`.
pub(super) const COLUMNS: &[SystemColumn] = &[
    opt("table_catalog", T::Text),
    opt("table_schema", T::Text),
    opt("table_name", T::Text),
    opt("column_name", T::Text),
    opt("ordinal_position", T::Int),
    opt("column_default", T::Text),
    opt("is_nullable", T::Text),
    opt("data_type", T::Text),
    opt("character_maximum_length", T::Int),
    opt("character_octet_length", T::Int),
    opt("numeric_precision", T::Int),
    opt("numeric_precision_radix", T::Int),
    opt("numeric_scale", T::Int),
    opt("datetime_precision", T::Int),
    opt("interval_type", T::Text),
    opt("interval_precision", T::Int),
    opt("character_set_catalog", T::Text),
    opt("character_set_schema", T::Text),
    opt("character_set_name", T::Text),
    opt("collation_catalog", T::Text),
    opt("collation_schema", T::Text),
    opt("collation_name", T::Text),
    opt("domain_catalog", T::Text),
    opt("domain_schema", T::Text),
    opt("domain_name", T::Text),
    opt("udt_catalog", T::Text),
    opt("udt_schema", T::Text),
    opt("udt_name", T::Text),
    opt("scope_catalog", T::Text),
    opt("scope_schema", T::Text),
    opt("scope_name", T::Text),
    opt("maximum_cardinality", T::Int),
    opt("dtd_identifier", T::Text),
    opt("is_self_referencing", T::Text),
    opt("is_identity", T::Text),
    opt("identity_generation", T::Text),
    opt("identity_start", T::Text),
    opt("identity_increment", T::Text),
    opt("identity_maximum", T::Text),
    opt("identity_minimum", T::Text),
    opt("identity_cycle", T::Text),
    opt("is_generated", T::Text),
    opt("generation_expression", T::Text),
    opt("is_updatable", T::Text),
];

/// The columns of `table_constraints`.
pub(super) const TABLE_CONSTRAINTS: &[SystemColumn] = &[
    opt("constraint_catalog", T::Text),
    opt("constraint_schema", T::Text),
    opt("constraint_name", T::Text),
    opt("table_catalog", T::Text),
    opt("table_schema", T::Text),
    opt("table_name", T::Text),
    opt("constraint_type", T::Text),
    opt("is_deferrable", T::Text),
    opt("initially_deferred", T::Text),
    opt("enforced", T::Text),
    opt("nulls_distinct", T::Text),
];

/// The columns of `key_column_usage`.
pub(super) const KEY_COLUMN_USAGE: &[SystemColumn] = &[
    opt("constraint_catalog", T::Text),
    opt("constraint_schema", T::Text),
    opt("constraint_name", T::Text),
    opt("table_catalog", T::Text),
    opt("table_schema", T::Text),
    opt("table_name", T::Text),
    opt("column_name", T::Text),
    opt("ordinal_position", T::Int),
    opt("position_in_unique_constraint", T::Int),
];

/// The columns of `constraint_column_usage`.
pub(super) const CONSTRAINT_COLUMN_USAGE: &[SystemColumn] = &[
    opt("table_catalog", T::Text),
    opt("table_schema", T::Text),
    opt("table_name", T::Text),
    opt("column_name", T::Text),
    opt("constraint_catalog", T::Text),
    opt("constraint_schema", T::Text),
    opt("constraint_name", T::Text),
];

/// The columns of `statistics`.
pub(super) const STATISTICS: &[SystemColumn] = &[
    opt("table_catalog", T::Text),
    opt("table_schema", T::Text),
    opt("table_name", T::Text),
    opt("non_unique", T::Int),
    opt("index_schema", T::Text),
    opt("index_name", T::Text),
    opt("seq_in_index", T::Int),
    opt("column_name", T::Text),
    opt("collation", T::Text),
    opt("cardinality", T::BigInt),
    opt("nullable", T::Text),
    opt("index_type", T::Text),
];

pub(super) fn write_schemata(out: &mut RowWriter, namespaces: Vec<NamespaceDefinition>) -> Result<()> {
    let by = |n: NamespaceDefinition| (n.name, Some(n.created_by).filter(|by| !by.is_empty()));
    let mut all: Vec<(String, Option<String>)> = namespaces.into_iter().map(by).collect();
    all.extend([SYSTEM_NAMESPACE, INFORMATION_SCHEMA].map(|name| (name.to_owned(), None)));
    all.sort();
    for (name, owner) in all {
        out.push([text(CATALOG), text(name), optional(owner), Null, Null, Null, Null])?;
    }
    Ok(())
}

pub(super) fn write_tables(out: &mut RowWriter, tables: &[Arc<CachedTableData>]) -> Result<()> {
    for d in tables.iter().map(|table| table.definition()) {
        let kind = match d.table_type {
            TableType::View => "VIEW",
            TableType::System => "SYSTEM VIEW",
            TableType::Shared | TableType::User | TableType::Stream => "BASE TABLE",
        };
        let [catalog, schema, name] = named(d);
        let takes_rows = yes_no(is_writable(d));
        out.push([catalog, schema, name, text(kind), Null, Null, Null, Null, Null, takes_rows, yes_no(false), Null])?;
    }
    Ok(())
}

pub(super) fn write_views(out: &mut RowWriter, tables: &[Arc<CachedTableData>]) -> Result<()> {
    for d in tables.iter().map(|table| table.definition()) {
        let Some(view) = &d.view else { continue };
        let [catalog, schema, name] = named(d);
        let sql = text(view.sql.as_str());
        let no = || yes_no(false);
        out.push([catalog, schema, name, sql, text("NONE"), no(), no(), no(), no(), no()])?;
    }
    Ok(())
}

pub(super) fn write_columns(out: &mut RowWriter, tables: &[Arc<CachedTableData>]) -> Result<()> {
    for d in tables.iter().map(|table| table.definition()) {
        for (i, c) in d.columns_in_order().enumerate() {
            let [catalog, schema, name] = named(d);
            let (precision, radix, scale) = numeric(&c.data_type);
            out.push([
                catalog,
                schema,
                name,
                text(c.name.as_str()),
                // The standard counts the columns there are, without the gaps of dropped ones.
                int(i as u64 + 1),
                optional((!c.default.is_none()).then(|| c.default.to_string())),
                yes_no(c.nullable),
                text(c.data_type.sql_name()),
                // Of characters and bytes: without a limit.
                Null,
                Null,
                precision,
                radix,
                scale,
                datetime_precision(&c.data_type),
                // Intervals, character sets, collations, domains.
                Null,
                Null,
                Null,
                Null,
                Null,
                Null,
                Null,
                Null,
                Null,
                Null,
                Null,
                text(CATALOG),
                text("pg_catalog"),
                text(udt_name(&c.data_type)),
                // Scopes and arrays.
                Null,
                Null,
                Null,
                Null,
                text((i + 1).to_string()),
                yes_no(false),
                // IDENTITY is a default here.
                yes_no(false),
                Null,
                Null,
                Null,
                Null,
                Null,
                yes_no(false),
                text("NEVER"),
                Null,
                yes_no(is_writable(d)),
            ])?;
        }
    }
    Ok(())
}

pub(super) fn write_table_constraints(out: &mut RowWriter, tables: &[Arc<CachedTableData>]) -> Result<()> {
    each_constraint(tables, |d, constraint| {
        let [catalog, schema, name] = named(d);
        let nulls_distinct = if constraint.kind == "UNIQUE" { yes_no(true) } else { Null };
        out.push([
            text(CATALOG),
            schema.clone(),
            text(constraint.name.as_str()),
            catalog,
            schema,
            name,
            text(constraint.kind),
            yes_no(false),
            yes_no(false),
            yes_no(true),
            nulls_distinct,
        ])
    })
}

pub(super) fn write_key_column_usage(out: &mut RowWriter, tables: &[Arc<CachedTableData>]) -> Result<()> {
    each_constraint(tables, |d, constraint| {
        constraint.columns.iter().enumerate().try_for_each(|(i, (column, _))| {
            let [catalog, schema, name] = named(d);
            let column = text(column.name.as_str());
            let constraint = text(constraint.name.as_str());
            out.push([
                text(CATALOG),
                schema.clone(),
                constraint,
                catalog,
                schema,
                name,
                column,
                int(i as u64 + 1),
                Null,
            ])
        })
    })
}

pub(super) fn write_constraint_column_usage(out: &mut RowWriter, tables: &[Arc<CachedTableData>]) -> Result<()> {
    each_constraint(tables, |d, constraint| {
        constraint.columns.iter().try_for_each(|(column, _)| {
            let [catalog, schema, name] = named(d);
            let column = text(column.name.as_str());
            out.push([catalog.clone(), schema.clone(), name, column, catalog, schema, text(constraint.name.as_str())])
        })
    })
}

pub(super) fn write_statistics(out: &mut RowWriter, tables: &[Arc<CachedTableData>]) -> Result<()> {
    for d in tables.iter().map(|table| table.definition()) {
        for index in d.listed_indexes() {
            for (i, (column, descending)) in index.columns.iter().enumerate() {
                let [catalog, schema, name] = named(d);
                out.push([
                    catalog,
                    schema.clone(),
                    name,
                    int(u64::from(!index.unique)),
                    schema,
                    text(index.name.as_str()),
                    int(i as u64 + 1),
                    text(column.name.as_str()),
                    text(if *descending { "D" } else { "A" }),
                    Null,
                    yes_no(column.nullable),
                    text("BTREE"),
                ])?;
            }
        }
    }
    Ok(())
}

/// Calls a function with each PRIMARY KEY and UNIQUE constraint.
fn each_constraint(
    tables: &[Arc<CachedTableData>],
    mut f: impl FnMut(&TableDefinition, &ListedIndex<'_>) -> Result<()>,
) -> Result<()> {
    tables.iter().map(|table| table.definition()).try_for_each(|d| {
        let constraints = d.listed_indexes().into_iter().filter(ListedIndex::is_constraint);
        constraints.into_iter().try_for_each(|constraint| f(d, &constraint))
    })
}

/// Catalog, schema and name of a table.
fn named(table: &TableDefinition) -> [Value; 3] {
    let id = &table.table_id;
    [text(CATALOG), text(id.namespace.as_ref()), text(id.table.as_ref())]
}

fn is_writable(table: &TableDefinition) -> bool {
    matches!(table.table_type, TableType::Shared | TableType::User | TableType::Stream)
}

fn yes_no(yes: bool) -> Value {
    text(if yes { "YES" } else { "NO" })
}

/// Digits, the base they are of, and those behind the point, as PostgreSQL counts them.
fn numeric(data_type: &T) -> (Value, Value, Value) {
    let binary = |bits: u64, scale| (int(bits), int(2_u64), scale);
    match data_type {
        T::SmallInt => binary(16, int(0_u64)),
        T::Int => binary(32, int(0_u64)),
        T::BigInt => binary(64, int(0_u64)),
        T::Float => binary(24, Null),
        T::Double => binary(53, Null),
        T::Decimal { precision, scale } => (int(*precision), int(10_u64), int(*scale)),
        _ => (Null, Null, Null),
    }
}

/// Digits of a second behind the point.
fn datetime_precision(data_type: &T) -> Value {
    match data_type {
        T::Timestamp | T::DateTime | T::Time => int(6_u64),
        T::Date => int(0_u64),
        _ => Null,
    }
}

/// The type's name in PostgreSQL; that of an embedding is pgvector's.
fn udt_name(data_type: &T) -> &'static str {
    match data_type {
        T::Boolean => "bool",
        T::SmallInt => "int2",
        T::Int => "int4",
        T::BigInt => "int8",
        T::Float => "float4",
        T::Double => "float8",
        T::Decimal { .. } => "numeric",
        T::Text => "text",
        T::Bytes => "bytea",
        T::Json | T::File => "json",
        T::Uuid => "uuid",
        T::Timestamp => "timestamp",
        T::DateTime => "timestamptz",
        T::Date => "date",
        T::Time => "time",
        T::Embedding(_) => "vector",
    }
}
