//! UPDATE.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::sql::sqlparser::ast::{
    Assignment, Expr, Ident, Query, TableWithJoins, Update, UpdateTableFromKind, With,
};

use super::super::catalog::{fold, single_ident};
use super::super::defaults::default_column;
use super::super::executor::{Execution, StatementResult};
use super::super::fault;
use super::super::short_path;
use super::dml::{Explained, TARGET, Target, column_item, item, select_from, target_name, unsupported};
use super::insert::column_place;
use super::returning::Others;
use super::set_list;
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::TableDefinition;
use crate::tables::{POSITION_COLUMN, ROW_ID_COLUMN, prepare_rows};
use crate::types::coerce_array;

/// Runs an UPDATE.
pub async fn update(execution: &Execution<'_>, update: &Update, with: Option<&With>) -> Result<StatementResult> {
    let (name, alias) = target_name(&update.table.relation)?;
    let target = Target::find(execution, name).await?;
    let assigned = assignments(target.definition(), update)?;
    let others = Others::find(execution, from_of(update), with, update.returning.as_ref()).await?;
    let batches = found_rows(execution, &target, update, &alias, &assigned, with, &others).await?;

    let definition = target.definition();
    let has_row_ids = definition.primary_key.is_empty();
    let key_changes = definition.key_indices().iter().any(|&place| assigned[place].is_some());
    let mut seen = update.from.is_some().then(HashSet::new);
    let mut positions = Vec::new();
    let mut new_rows = Vec::new();
    let mut prepared = Vec::new();
    for batch in batches {
        let batch = match &mut seen {
            Some(seen) => first_of_each_row(&batch, seen)?,
            None => batch,
        };
        let first_row = positions.len() + 1;
        positions.extend(batch.column(0).as_primitive::<Int64Type>().values().iter().map(|&p| p as u64));
        let skip = 1 + usize::from(has_row_ids);
        let mut columns = Vec::with_capacity(definition.columns.len());
        for (place, column) in definition.columns_in_order().enumerate() {
            columns.push(match &assigned[place] {
                Some(Assigned::Default) => default_column(execution, column, batch.num_rows())?,
                Some(Assigned::Expr(expr)) => {
                    let values = batch.column(skip + place);
                    coerce_array(values, &column.data_type, &column.name)
                        .map_err(|error| error.at(fault::place_of(expr)))?
                }
                None => coerce_array(batch.column(skip + place), &column.data_type, &column.name)?,
            });
        }
        let row_ids: Option<&Int64Array> = has_row_ids.then(|| batch.column(1).as_primitive::<Int64Type>());
        let rows = target.batch(columns, batch.num_rows(), first_row)?;
        prepared.extend(prepare_rows(definition, &rows, row_ids)?);
        if update.returning.is_some() {
            new_rows.push(others.beside(rows, &batch)?);
        }
    }
    let returned = target.returning(execution, update.returning.as_ref(), &alias, new_rows, &others).await?;
    let (replaced, deleted) = if key_changes { (Vec::new(), positions) } else { (positions, Vec::new()) };
    let mut result = target.commit(execution, prepared, replaced, deleted).await?;
    result.rows = returned;
    Ok(result)
}

/// The rows to change: position, row id if there is one, and every column as it is to become.
async fn found_rows(
    execution: &Execution<'_>,
    target: &Target,
    update: &Update,
    alias: &Ident,
    assigned: &[Option<Assigned>],
    with: Option<&With>,
    others: &Others,
) -> Result<Vec<RecordBatch>> {
    if may_be_short(execution, update, assigned, with) {
        let (core, request) = (target.core(execution)?, Arc::clone(&target.request));
        let selection = update.selection.as_ref();
        let rows = short_path::target_rows(execution, &core, selection, alias, request).await?;
        if let Some(rows) = rows {
            return rows.iter().map(|batch| with_constants(execution, target, assigned, batch)).collect();
        }
    }
    let build = || {
        let mut query = rows_query(target.definition(), update, alias, assigned, others)?;
        query.with = with.cloned();
        Ok((query, target.extras(execution)?))
    };
    target.select(execution, build).await
}

/// Whether an UPDATE may go past the planner, if its WHERE pins the whole key.
fn may_be_short(
    execution: &Execution<'_>,
    update: &Update,
    assigned: &[Option<Assigned>],
    with: Option<&With>,
) -> bool {
    let constant = |a: &Option<Assigned>| match a {
        Some(Assigned::Expr(expr)) => short_path::is_constant(execution, expr),
        _ => true,
    };
    with.is_none() && update.from.is_none() && execution.options.short_path && assigned.iter().all(constant)
}

fn with_constants(
    execution: &Execution<'_>,
    target: &Target,
    assigned: &[Option<Assigned>],
    found: &RecordBatch,
) -> Result<RecordBatch> {
    let batch = target.position_first(found)?;
    let skip = batch.num_columns() - assigned.len();
    let mut fields: Vec<_> = batch.schema_ref().fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    for (place, column) in target.definition().columns_in_order().enumerate() {
        let Some(Assigned::Expr(expr)) = &assigned[place] else { continue };
        let constant = short_path::constant_column(execution, expr, &column.name, &column.data_type, batch.num_rows())
            .map_err(|error| error.at(fault::place_of(expr)))?;
        columns[skip + place] = constant.ok_or_else(|| KalamError::internal("a constant that is none"))?;
        // NOT NULL is checked with all other rules, later.
        fields[skip + place] = Arc::new(fields[skip + place].as_ref().clone().with_nullable(true));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(KalamError::internal)
}

/// The SELECT behind an UPDATE, for EXPLAIN.
pub async fn explained(execution: &Execution<'_>, update: &Update, with: Option<&With>) -> Result<Explained> {
    let (name, alias) = target_name(&update.table.relation)?;
    let target = Target::find(execution, name).await?;
    let assigned = assignments(target.definition(), update)?;
    let lookup = if may_be_short(execution, update, &assigned, with) {
        let core = target.core(execution)?;
        short_path::target_scan(execution, &core, update.selection.as_ref(), &alias)?
    } else {
        None
    };
    let mut query = rows_query(target.definition(), update, &alias, &assigned, &Others::default())?;
    query.with = with.cloned();
    Ok(Explained { query, target, lookup })
}

/// What a column is set to.
pub(super) enum Assigned {
    Expr(Box<Expr>),
    Default,
}

/// The assignments by place in the table's column order.
fn assignments(definition: &TableDefinition, update: &Update) -> Result<Vec<Option<Assigned>>> {
    if update.or.is_some() || !update.order_by.is_empty() || update.limit.is_some() {
        return unsupported("UPDATE with OR, ORDER BY or LIMIT");
    }
    if !update.table.joins.is_empty() {
        return unsupported("JOIN in the target of an UPDATE (use FROM)");
    }
    by_place(definition, &update.assignments)
}

/// What a SET list assigns, by place in the table's column order.
pub(super) fn by_place(definition: &TableDefinition, set: &[Assignment]) -> Result<Vec<Option<Assigned>>> {
    let mut assigned: Vec<Option<Assigned>> = definition.columns.iter().map(|_| None).collect();
    for (name, value) in set_list::pairs(set)? {
        let ident = single_ident(name, "column")?;
        let slot = &mut assigned[column_place(definition, &ident)?];
        if slot.is_some() {
            return Err(KalamError::new(ErrorCode::DuplicateColumn, format!("column '{}' is set twice", fold(&ident)))
                .at(super::super::parser::position_of(&ident)));
        }
        let default = matches!(value.as_ref(),
            Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"));
        *slot = Some(if default { Assigned::Default } else { Assigned::Expr(Box::new(value.into_owned())) });
    }
    Ok(assigned)
}

/// The SELECT of the rows to change: position, row id if there is one, and every column as it is to become.
fn rows_query(
    definition: &TableDefinition,
    update: &Update,
    alias: &Ident,
    assigned: &[Option<Assigned>],
    others: &Others,
) -> Result<Query> {
    let mut items = vec![column_item(alias, POSITION_COLUMN, "$position")];
    if definition.primary_key.is_empty() {
        items.push(column_item(alias, ROW_ID_COLUMN, "$rowid"));
    }
    for (place, column) in definition.columns_in_order().enumerate() {
        let name = format!("${place}");
        items.push(match &assigned[place] {
            Some(Assigned::Expr(expr)) => item(expr.as_ref().clone(), &name),
            _ => column_item(alias, &column.name, &name),
        });
    }
    items.extend(others.items());
    select_from(TARGET, alias, |select| {
        select.projection = items;
        select.selection.clone_from(&update.selection);
        select.from.extend(from_of(update).iter().cloned());
    })
}

/// The tables of FROM.
fn from_of(update: &Update) -> &[TableWithJoins] {
    match &update.from {
        Some(UpdateTableFromKind::BeforeSet(from) | UpdateTableFromKind::AfterSet(from)) => from,
        None => &[],
    }
}

/// With FROM a row can be found more than once: the first match counts, as in PostgreSQL.
pub fn first_of_each_row(batch: &RecordBatch, seen: &mut HashSet<i64>) -> Result<RecordBatch> {
    let positions = batch.column(0).as_primitive::<Int64Type>();
    let keep: UInt32Array =
        (0..batch.num_rows()).filter(|&row| seen.insert(positions.value(row))).map(|row| row as u32).collect();
    if keep.len() == batch.num_rows() {
        return Ok(batch.clone());
    }
    take_record_batch(batch, &keep).map_err(KalamError::internal)
}
