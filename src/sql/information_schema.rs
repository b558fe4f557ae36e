//! `information_schema`: the standard's description of tables, answered from the registry when a query asks.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;

use super::errors::from_datafusion;
use crate::error::{KalamError, Result};
use crate::schema::{CachedTableData, SchemaRegistry, TableId, TableType};
use crate::types::KalamDataType;

const NAMESPACE: &str = "information_schema";
/// The one catalog there is, as the standard wants it named.
const CATALOG: &str = "kalam";

/// Whether a namespace holds tables that are made when they are asked for.
pub fn is_virtual(namespace: &str) -> bool {
    namespace == NAMESPACE
}

/// The virtual table of a name, with its rows as of now.
pub async fn provider(registry: &SchemaRegistry, id: &TableId) -> Result<Option<Arc<dyn TableProvider>>> {
    let batch = match id.table.as_ref() {
        "schemata" => schemata(registry).await?,
        "tables" => tables(&registry.tables(None).await?)?,
        "views" => views(&registry.tables(None).await?)?,
        "columns" => columns(&registry.tables(None).await?)?,
        _ => return Ok(None),
    };
    let table = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(from_datafusion)?;
    Ok(Some(Arc::new(table)))
}

async fn schemata(registry: &SchemaRegistry) -> Result<RecordBatch> {
    let mut names: Vec<String> = registry.namespaces().await?.into_iter().map(|n| n.name.clone()).collect();
    names.push(NAMESPACE.to_owned());
    names.sort();
    text_batch(vec![
        ("catalog_name", names.iter().map(|_| Some(CATALOG.to_owned())).collect()),
        ("schema_name", names.into_iter().map(Some).collect()),
    ])
}

fn tables(tables: &[Arc<CachedTableData>]) -> Result<RecordBatch> {
    let kind = |t: &Arc<CachedTableData>| match t.definition().table_type {
        TableType::View => "VIEW",
        _ => "BASE TABLE",
    };
    text_batch(vec![
        ("table_catalog", tables.iter().map(|_| Some(CATALOG.to_owned())).collect()),
        ("table_schema", tables.iter().map(|t| Some(t.table_id().namespace.to_string())).collect()),
        ("table_name", tables.iter().map(|t| Some(t.table_id().table.to_string())).collect()),
        ("table_type", tables.iter().map(|t| Some(kind(t).to_owned())).collect()),
    ])
}

fn views(tables: &[Arc<CachedTableData>]) -> Result<RecordBatch> {
    let all: Vec<_> = tables.iter().filter_map(|t| Some((t.table_id(), t.definition().view.as_ref()?))).collect();
    text_batch(vec![
        ("table_catalog", all.iter().map(|_| Some(CATALOG.to_owned())).collect()),
        ("table_schema", all.iter().map(|(id, _)| Some(id.namespace.to_string())).collect()),
        ("table_name", all.iter().map(|(id, _)| Some(id.table.to_string())).collect()),
        ("view_definition", all.iter().map(|(_, view)| Some(view.sql.clone())).collect()),
    ])
}

fn columns(tables: &[Arc<CachedTableData>]) -> Result<RecordBatch> {
    let all: Vec<_> = tables
        .iter()
        .flat_map(|t| t.definition().columns_in_order().enumerate().map(move |(i, c)| (t, i as i32 + 1, c)))
        .collect();
    let decimal = |t: &KalamDataType| match t {
        KalamDataType::Decimal { precision, scale } => (Some(i32::from(*precision)), Some(i32::from(*scale))),
        _ => (None, None),
    };
    let yes_no = |yes| if yes { "YES" } else { "NO" };
    let text = |name: &str, values: Vec<Option<String>>| {
        (Field::new(name, DataType::Utf8, true), Arc::new(StringArray::from(values)) as ArrayRef)
    };
    let ints = |name: &str, values: Vec<Option<i32>>| {
        (Field::new(name, DataType::Int32, true), Arc::new(Int32Array::from(values)) as ArrayRef)
    };
    batch(vec![
        text("table_catalog", all.iter().map(|_| Some(CATALOG.to_owned())).collect()),
        text("table_schema", all.iter().map(|(t, ..)| Some(t.table_id().namespace.to_string())).collect()),
        text("table_name", all.iter().map(|(t, ..)| Some(t.table_id().table.to_string())).collect()),
        text("column_name", all.iter().map(|(.., c)| Some(c.name.clone())).collect()),
        ints("ordinal_position", all.iter().map(|(_, i, _)| Some(*i)).collect()),
        text("column_default", all.iter().map(|(.., c)| (!c.default.is_none()).then(|| c.default.to_string())).collect()),
        text("is_nullable", all.iter().map(|(.., c)| Some(yes_no(c.nullable).to_owned())).collect()),
        text("data_type", all.iter().map(|(.., c)| Some(c.data_type.sql_name().into_owned())).collect()),
        ints("numeric_precision", all.iter().map(|(.., c)| decimal(&c.data_type).0).collect()),
        ints("numeric_scale", all.iter().map(|(.., c)| decimal(&c.data_type).1).collect()),
    ])
}

/// A batch of text columns.
pub fn text_batch(columns: Vec<(&str, Vec<Option<String>>)>) -> Result<RecordBatch> {
    batch(
        columns
            .into_iter()
            .map(|(name, values)| {
                (Field::new(name, DataType::Utf8, true), Arc::new(StringArray::from(values)) as ArrayRef)
            })
            .collect(),
    )
}

fn batch(columns: Vec<(Field, ArrayRef)>) -> Result<RecordBatch> {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(KalamError::internal)
}
