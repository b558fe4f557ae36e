//! DELETE.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use datafusion::sql::sqlparser::ast::{Delete, FromTable, Ident, Query, TableWithJoins, With};

use super::super::executor::{Execution, StatementResult};
use super::super::short_path;
use super::dml::{Explained, TARGET, Target, column_item, select_from, target_name, unsupported};
use super::returning::Others;
use super::update::first_of_each_row;
use crate::error::Result;
use crate::tables::POSITION_COLUMN;

/// Runs a DELETE.
pub async fn delete(execution: &Execution<'_>, delete: &Delete, with: Option<&With>) -> Result<StatementResult> {
    let (name, alias) = target_name(&table_of(delete)?.relation)?;
    let target = Target::find(execution, name).await?;
    let from = delete.using.as_deref().unwrap_or_default();
    let others = Others::find(execution, from, with, delete.returning.as_ref()).await?;
    let batches = found_rows(execution, &target, delete, &alias, with, &others).await?;
    let width = target.definition().columns.len();
    let mut seen = HashSet::new();
    let mut positions = Vec::new();
    let mut old_rows = Vec::new();
    for batch in batches {
        let batch = if delete.using.is_some() { first_of_each_row(&batch, &mut seen)? } else { batch };
        positions.extend(batch.column(0).as_primitive::<Int64Type>().values().iter().map(|&p| p as u64));
        if delete.returning.is_some() {
            let rows = target.batch(batch.columns()[1..=width].to_vec(), batch.num_rows(), 1)?;
            old_rows.push(others.beside(rows, &batch)?);
        }
    }
    let returned = target.returning(execution, delete.returning.as_ref(), &alias, old_rows, &others).await?;
    let mut result = target.commit(execution, Vec::new(), Vec::new(), positions).await?;
    result.rows = returned;
    Ok(result)
}

/// Positions of the rows to delete, and their columns if they are to be returned.
async fn found_rows(
    execution: &Execution<'_>,
    target: &Target,
    delete: &Delete,
    alias: &Ident,
    with: Option<&With>,
    others: &Others,
) -> Result<Vec<RecordBatch>> {
    if may_be_short(execution, delete, with) {
        let (core, request) = (target.core(execution)?, Arc::clone(&target.request));
        let selection = delete.selection.as_ref();
        let rows = short_path::target_rows(execution, &core, selection, alias, request).await?;
        if let Some(rows) = rows {
            return rows.iter().map(|batch| target.position_first(batch)).collect();
        }
    }
    let build = || {
        let mut query = rows_query(target, delete, alias, others)?;
        query.with = with.cloned();
        Ok((query, target.extras(execution)?))
    };
    target.select(execution, build).await
}

/// The SELECT behind a DELETE, for EXPLAIN.
pub async fn explained(execution: &Execution<'_>, delete: &Delete, with: Option<&With>) -> Result<Explained> {
    let (name, alias) = target_name(&table_of(delete)?.relation)?;
    let target = Target::find(execution, name).await?;
    let lookup = if may_be_short(execution, delete, with) {
        let core = target.core(execution)?;
        short_path::target_scan(execution, &core, delete.selection.as_ref(), &alias)?
    } else {
        None
    };
    let mut query = rows_query(&target, delete, &alias, &Others::default())?;
    query.with = with.cloned();
    Ok(Explained { query, target, lookup })
}

/// Whether a DELETE may go past the planner, if its WHERE pins the whole key.
fn may_be_short(execution: &Execution<'_>, delete: &Delete, with: Option<&With>) -> bool {
    with.is_none() && delete.using.is_none() && execution.options.short_path
}

fn table_of(delete: &Delete) -> Result<&TableWithJoins> {
    if !delete.tables.is_empty() || !delete.order_by.is_empty() || delete.limit.is_some() {
        return unsupported("DELETE with a list of tables, ORDER BY or LIMIT");
    }
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    match from.as_slice() {
        [table] if table.joins.is_empty() => Ok(table),
        _ => unsupported("DELETE from several tables (use USING)"),
    }
}

fn rows_query(target: &Target, delete: &Delete, alias: &Ident, others: &Others) -> Result<Query> {
    let mut items = vec![column_item(alias, POSITION_COLUMN, "$position")];
    if delete.returning.is_some() {
        let columns = target.definition().columns_in_order().enumerate();
        items.extend(columns.map(|(place, c)| column_item(alias, &c.name, &format!("${place}"))));
        items.extend(others.items());
    }
    select_from(TARGET, alias, |select| {
        select.projection = items;
        select.selection.clone_from(&delete.selection);
        select.from.extend(delete.using.iter().flatten().cloned());
    })
}
