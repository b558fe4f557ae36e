//! SHOW NAMESPACES, SHOW TABLES, SHOW STATS, DESCRIBE: answered from the registry and the system tables.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::sql::sqlparser::ast::ObjectName;

use super::super::catalog::{fold, position_of_name, single_ident};
use super::super::executor::{Execution, Rows, StatementResult, finish_rows};
use crate::error::{ErrorCode, KalamError, Result};
use crate::tables::{SystemTable, is_system_namespace};
use crate::types::KalamDataType;

/// A result of text columns.
pub fn text_rows(columns: Vec<(&str, Vec<Option<String>>)>) -> Result<StatementResult> {
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns
        .into_iter()
        .map(|(name, values)| (Field::new(name, DataType::Utf8, true), Arc::new(StringArray::from(values)) as ArrayRef))
        .unzip();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(KalamError::internal)?;
    let rows = Rows::one(batch);
    Ok(StatementResult::rows(finish_rows(&rows.schema, rows.batches, None)?))
}

/// `SHOW NAMESPACES`.
pub async fn namespaces(execution: &Execution<'_>) -> Result<StatementResult> {
    let mut names: Vec<String> =
        execution.executor.registry().namespaces().await?.into_iter().map(|n| n.name.clone()).collect();
    names.sort();
    text_rows(vec![("name", names.into_iter().map(Some).collect())])
}

/// `SHOW TABLES [IN n]`: without a namespace, those that people made.
pub async fn tables(execution: &Execution<'_>, namespace_name: Option<&ObjectName>) -> Result<StatementResult> {
    let namespace = namespace_name.map(|n| single_ident(n, "namespace")).transpose()?.map(|ident| fold(&ident));
    if let (Some(wanted), Some(name)) = (&namespace, namespace_name) {
        let known = is_system_namespace(wanted) || execution.executor.registry().namespace(wanted).await?.is_some();
        if !known {
            let message = format!("namespace '{wanted}' does not exist");
            return Err(KalamError::new(ErrorCode::NamespaceNotFound, message).at(position_of_name(name)));
        }
    }
    let mut tables = execution.executor.registry().tables(namespace.as_deref()).await?;
    if namespace.is_none() {
        tables.retain(|t| !is_system_namespace(&t.table_id().namespace));
    }
    text_rows(vec![
        ("namespace", tables.iter().map(|t| Some(t.table_id().namespace.to_string())).collect()),
        ("name", tables.iter().map(|t| Some(t.table_id().table.to_string())).collect()),
        ("type", tables.iter().map(|t| Some(t.definition().table_type.to_string())).collect()),
    ])
}

/// `SHOW STATS`: the rows of `system.stats`.
pub async fn stats(execution: &Execution<'_>) -> Result<StatementResult> {
    let id = SystemTable::Stats.table_id();
    let table = execution.executor.registry().table(&id).await?;
    let table = table.ok_or_else(|| KalamError::internal(format_args!("'{id}' is missing from the catalog")))?;
    let batch = execution.executor.system().batch(&table).await?;
    Ok(StatementResult::rows(finish_rows(&batch.schema(), vec![batch], None)?))
}

/// `DESCRIBE t`: columns, and the names of the constraints and indexes that each is in.
pub async fn describe(execution: &Execution<'_>, name: &ObjectName) -> Result<StatementResult> {
    let namespace = execution.session.namespace();
    let names = super::super::catalog::Names { registry: execution.executor.registry(), namespace: &namespace };
    let table = names.table(name).await?;
    let definition = table.definition();
    let columns: Vec<_> = definition.columns_in_order().collect();
    let yes_no = |yes: bool| Some(if yes { "YES" } else { "NO" }.to_owned());
    let indexes = |column: u32| {
        let listed = definition.listed_indexes();
        // That a column is in the primary key is said already.
        let with =
            listed.iter().filter(|i| i.kind != "PRIMARY KEY" && i.columns.iter().any(|(c, _)| c.column_id == column));
        let names: Vec<&str> = with.map(|i| i.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    text_rows(vec![
        ("column", columns.iter().map(|c| Some(c.name.clone())).collect()),
        ("type", columns.iter().map(|c| Some(c.data_type.sql_name().into_owned())).collect()),
        ("nullable", columns.iter().map(|c| yes_no(c.nullable)).collect()),
        ("key", columns.iter().map(|c| yes_no(definition.primary_key.contains(&c.column_id))).collect()),
        ("default", columns.iter().map(|c| (!c.default.is_none()).then(|| c.default.to_string())).collect()),
        ("indexes", columns.iter().map(|c| indexes(c.column_id)).collect()),
    ])
}

/// `DESCRIBE t HISTORY`: every version, oldest first.
pub async fn history(execution: &Execution<'_>, name: &ObjectName) -> Result<StatementResult> {
    let namespace = execution.session.namespace();
    let names = super::super::catalog::Names { registry: execution.executor.registry(), namespace: &namespace };
    let table = names.table(name).await?;
    let history = &table.definition().history;
    let version = KalamDataType::Int.arrow_field("version", false, 0);
    let at = KalamDataType::DateTime.arrow_field("at", false, 0);
    let text = |name| KalamDataType::Text.arrow_field(name, false, 0);
    let times = history.iter().map(|v| i64::try_from(v.at_ms).unwrap_or(i64::MAX).saturating_mul(1000));
    let times = TimestampMicrosecondArray::from_iter_values(times).with_data_type(at.data_type().clone());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(history.iter().map(|v| i32::try_from(v.version).unwrap_or(i32::MAX)))),
        Arc::new(times),
        Arc::new(StringArray::from_iter_values(history.iter().map(|v| v.by.as_str()))),
        Arc::new(StringArray::from_iter_values(history.iter().map(|v| v.change.describe()))),
    ];
    let schema = Arc::new(Schema::new(vec![version, at, text("by"), text("change")]));
    let rows = Rows::one(RecordBatch::try_new(schema, columns).map_err(KalamError::internal)?);
    Ok(StatementResult::rows(finish_rows(&rows.schema, rows.batches, None)?))
}
