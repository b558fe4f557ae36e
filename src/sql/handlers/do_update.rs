//! ON CONFLICT DO UPDATE: which rows are updated, and to what.
//!
//! SET and WHERE see two rows: the one that is there, by its columns' names, and the proposed one, as `excluded`. They
//! are asked of one relation with the columns of both, so that a bare name means the row that is there, and a
//! subquery may name either. Invariant: no row is affected twice by one statement (PostgreSQL's rule): a row that WHERE
//! kept as it is may come again.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::compute::{self, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::{DoUpdate, Expr, Ident, VisitorMut};

use super::super::catalog::{Extras, fold};
use super::super::defaults::default_column;
use super::super::errors::from_datafusion;
use super::super::executor::Execution;
use super::super::short_path;
use super::super::walk::walk_mut;
use super::dml::{Target, column_item, item, select_from};
use super::insert::column_place;
use super::update::{Assigned, by_place};
use super::upsert::{Arbiter, Changes, Found, Pace, Updated, take_rows};
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::{ColumnDefinition, TableDefinition};
use crate::types::coerce_array;

/// The relation that SET and WHERE of DO UPDATE read: the rows that are there, and the proposed ones beside them.
const CONFLICTS: &str = "$conflicts";
/// The column of [`CONFLICTS`] with the place of a row in it.
const PLACE: &str = "$place";
/// What SET and WHERE call the proposed row.
const EXCLUDED: &str = "excluded";

/// The column of [`CONFLICTS`] with a proposed row's value.
fn excluded_name(column: &str) -> String {
    format!("$excluded.{column}")
}

/// What DO UPDATE does with a proposed row: inserts it, or updates a row that is there.
pub(super) enum Fate {
    Insert,
    Update(usize),
}

/// Decides on each row in order. A row that repeats the key of a new one is refused here; one that repeats the key of
/// a row that is there, only once it is known whether that row was updated ([`Updating::once_each`]).
pub(super) async fn fates(
    proposed: &RecordBatch,
    arbiters: &[Arbiter],
    keys: &[Vec<Option<Vec<u8>>>],
    found: &Found,
    definition: &TableDefinition,
    pace: &mut Pace<'_>,
) -> Result<Vec<Fate>> {
    let mut taken: Vec<HashSet<&[u8]>> = vec![HashSet::new(); keys.len()];
    let mut fates = Vec::with_capacity(proposed.num_rows());
    for i in 0..proposed.num_rows() {
        pace.at(i).await?;
        let own = keys.iter().map(|keys| keys[i].as_ref()).enumerate();
        if let Some(row) = own.clone().find_map(|(a, key)| found.row(a, key)) {
            fates.push(Fate::Update(row));
            continue;
        }
        for (a, key) in own {
            if let Some(key) = key
                && !taken[a].insert(key)
            {
                return Err(second_time(&arbiters[a].describe(definition, proposed, i)));
            }
        }
        fates.push(Fate::Insert);
    }
    Ok(fates)
}

fn second_time(key: &str) -> KalamError {
    let message = format!("ON CONFLICT DO UPDATE cannot affect a row a second time: two of the rows have {key}");
    KalamError::new(ErrorCode::TooManyRows, message).with_hint("Give each key once in one statement.")
}

/// Where a column of an updated row comes from, if no query is needed to tell.
enum Source<'a> {
    Old(usize),
    Proposed(usize),
    Default,
    Constant(&'a Expr),
}

/// DO UPDATE.
pub(super) struct Updating<'a, 'b> {
    pub(super) execution: &'a Execution<'b>,
    pub(super) target: &'a Target,
    pub(super) alias: &'a Ident,
    pub(super) update: &'a DoUpdate,
    pub(super) proposed: &'a RecordBatch,
}

impl Updating<'_, '_> {
    pub(super) async fn run(
        &self,
        found: &Found,
        arbiters: &[Arbiter],
        fates: Vec<Fate>,
        pace: &mut Pace<'_>,
    ) -> Result<Changes> {
        let definition = self.target.definition();
        let assigned = by_place(definition, &self.update.assignments)?;
        let conflicts: Vec<(usize, usize)> = fates
            .iter()
            .enumerate()
            .filter_map(|(i, fate)| match fate {
                Fate::Update(row) => Some((i, *row)),
                Fate::Insert => None,
            })
            .collect();
        let old = take_rows(&found.rows, &conflicts.iter().map(|c| c.1 as u32).collect::<Vec<_>>())?;
        let new = take_rows(self.proposed, &conflicts.iter().map(|c| c.0 as u32).collect::<Vec<_>>())?;
        // The conflicts that WHERE lets through, and the rows as they become.
        let (passing, columns) = match self.sources(&assigned) {
            Some(sources) => ((0..conflicts.len()).collect(), self.combine(&sources, &old, &new, found.skip())?),
            None => self.select(&assigned, &old, &new, found.skip()).await?,
        };
        self.once_each(found, arbiters, &conflicts, &passing, pace).await?;
        let rows = self.target.batch(columns, passing.len(), 1)?;

        let mut changes = Changes::default();
        let place: HashMap<usize, usize> = passing.iter().enumerate().map(|(k, &c)| (conflicts[c].0, k)).collect();
        for (i, fate) in fates.iter().enumerate() {
            pace.at(i).await?;
            match (fate, place.get(&i)) {
                (Fate::Insert, _) => {
                    changes.rows.push((0, i));
                    changes.inserted.push(i as u32);
                }
                (Fate::Update(_), Some(&k)) => changes.rows.push((1, k)),
                (Fate::Update(_), None) => {}
            }
        }
        let picked = take_rows(&old, &passing.iter().map(|&c| c as u32).collect::<Vec<_>>())?;
        let same_key = self.same_keys(&picked, &rows, found.skip(), pace).await?;
        for (k, &c) in passing.iter().enumerate() {
            let position = found.position(conflicts[c].1);
            if same_key[k] { changes.replaced.push(position) } else { changes.deleted.push(position) }
        }
        let row_ids = definition.primary_key.is_empty().then(|| picked.column(1).as_primitive::<Int64Type>().clone());
        changes.updated = Some(Updated { rows, row_ids });
        Ok(changes)
    }

    /// Whether each row keeps its primary key. A hidden row id is kept always.
    async fn same_keys(
        &self,
        old: &RecordBatch,
        new: &RecordBatch,
        skip: usize,
        pace: &mut Pace<'_>,
    ) -> Result<Vec<bool>> {
        let definition = self.target.definition();
        let Some(key) = Arbiter::primary(definition)? else { return Ok(vec![true; new.num_rows()]) };
        let own: Vec<usize> = (skip..old.num_columns()).collect();
        let before = key.keys(&old.project(&own).map_err(KalamError::internal)?, pace).await?;
        Ok(before.iter().zip(key.keys(new, pace).await?).map(|(a, b)| *a == b).collect())
    }

    /// Fails if a row that is updated comes up again after it was.
    async fn once_each(
        &self,
        found: &Found,
        arbiters: &[Arbiter],
        conflicts: &[(usize, usize)],
        passing: &[usize],
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        let passing: HashSet<usize> = passing.iter().copied().collect();
        let mut updated = HashSet::new();
        for (c, (_, row)) in conflicts.iter().enumerate() {
            pace.at(c).await?;
            if updated.contains(row) {
                let Some(arbiter) = arbiters.first() else { continue };
                return Err(second_time(&arbiter.describe(self.target.definition(), &found.own_columns()?, *row)));
            }
            if passing.contains(&c) {
                updated.insert(*row);
            }
        }
        Ok(())
    }

    /// Where each column comes from, if there is no WHERE and SET has nothing but columns, constants and DEFAULT.
    fn sources<'c>(&self, assigned: &'c [Option<Assigned>]) -> Option<Vec<Source<'c>>> {
        if self.update.selection.is_some() || !self.execution.options.short_path {
            return None;
        }
        let definition = self.target.definition();
        let place = |ident: &Ident| {
            let name = fold(ident);
            definition.columns_in_order().position(|c| c.name == name)
        };
        let source = |(i, assigned): (usize, &'c Option<Assigned>)| match assigned {
            None => Some(Source::Old(i)),
            Some(Assigned::Default) => Some(Source::Default),
            Some(Assigned::Expr(expr)) => match expr.as_ref() {
                Expr::Identifier(column) => place(column).map(Source::Old),
                Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                    [table, column] if fold(table) == EXCLUDED => place(column).map(Source::Proposed),
                    [table, column] if fold(table) == fold(self.alias) => place(column).map(Source::Old),
                    _ => None,
                },
                expr => short_path::is_constant(self.execution, expr).then_some(Source::Constant(expr)),
            },
        };
        assigned.iter().enumerate().map(source).collect()
    }

    fn combine(
        &self,
        sources: &[Source<'_>],
        old: &RecordBatch,
        new: &RecordBatch,
        skip: usize,
    ) -> Result<Vec<ArrayRef>> {
        let rows = new.num_rows();
        let one = |(column, source): (&ColumnDefinition, &Source<'_>)| match source {
            Source::Old(place) => coerce_array(old.column(skip + place), &column.data_type, &column.name),
            Source::Proposed(place) => coerce_array(new.column(*place), &column.data_type, &column.name),
            Source::Default => default_column(self.execution, column, rows),
            Source::Constant(expr) => {
                short_path::constant_column(self.execution, expr, &column.name, &column.data_type, rows)?
                    .ok_or_else(|| KalamError::internal("a constant that is none"))
            }
        };
        self.target.definition().columns_in_order().zip(sources).map(one).collect()
    }

    /// Asks the planner: SET and WHERE over one relation with the columns of both rows.
    async fn select(
        &self,
        assigned: &[Option<Assigned>],
        old: &RecordBatch,
        new: &RecordBatch,
        skip: usize,
    ) -> Result<(Vec<usize>, Vec<ArrayRef>)> {
        let definition = self.target.definition();
        let rows = new.num_rows();
        let mut fields = vec![Field::new(PLACE, DataType::Int64, false)];
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(0..rows as i64))];
        for (field, column) in self.proposed.schema_ref().fields().iter().zip(&old.columns()[skip..]) {
            fields.push(field.as_ref().clone());
            columns.push(Arc::clone(column));
        }
        for (field, column) in self.proposed.schema_ref().fields().iter().zip(new.columns()) {
            fields.push(field.as_ref().clone().with_name(excluded_name(field.name())));
            columns.push(Arc::clone(column));
        }
        let schema = Arc::new(Schema::new(fields));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options);
        let provider = MemTable::try_new(schema, vec![vec![batch.map_err(KalamError::internal)?]]);
        let extras = Extras::from([(CONFLICTS.to_owned(), Arc::new(provider.map_err(from_datafusion)?) as _)]);

        let mut items = vec![column_item(self.alias, PLACE, PLACE)];
        for (place, column) in definition.columns_in_order().enumerate() {
            let name = format!("${place}");
            items.push(match &assigned[place] {
                Some(Assigned::Expr(expr)) => item(self.resolved(expr)?, &name),
                _ => column_item(self.alias, &column.name, &name),
            });
        }
        let selection = self.update.selection.as_ref().map(|expr| self.resolved(expr)).transpose()?;
        let query = select_from(CONFLICTS, self.alias, |select| {
            select.projection = items;
            select.selection = selection;
        })?;
        let (schema, batches) = self.execution.select(query, &extras, Arc::clone(&self.target.request)).await?;
        let found = concat_batches(&schema, &batches).map_err(KalamError::internal)?;
        let order = compute::sort_to_indices(found.column(0), None, None).map_err(KalamError::internal)?;
        let found = take_record_batch(&found, &order).map_err(KalamError::internal)?;
        let places = found.column(0).as_primitive::<Int64Type>();
        let passing = places.values().iter().map(|&p| p as usize).collect();
        let mut columns = Vec::with_capacity(assigned.len());
        for (place, column) in definition.columns_in_order().enumerate() {
            columns.push(match &assigned[place] {
                Some(Assigned::Default) => default_column(self.execution, column, found.num_rows())?,
                _ => coerce_array(found.column(1 + place), &column.data_type, &column.name)?,
            });
        }
        Ok((passing, columns))
    }

    /// An expression with `excluded.x` as the column that it is in [`CONFLICTS`].
    fn resolved(&self, expr: &Expr) -> Result<Expr> {
        let mut expr = expr.clone();
        let mut resolve = Resolve { definition: self.target.definition(), alias: self.alias };
        match walk_mut(&mut expr, &mut resolve) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(expr),
        }
    }
}

struct Resolve<'a> {
    definition: &'a TableDefinition,
    alias: &'a Ident,
}

impl VisitorMut for Resolve<'_> {
    type Break = KalamError;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<KalamError> {
        if let Expr::CompoundIdentifier(parts) = expr
            && let [table, column] = parts.as_mut_slice()
            && fold(table) == EXCLUDED
        {
            if let Err(error) = column_place(self.definition, column) {
                return ControlFlow::Break(error);
            }
            let (table_span, column_span) = (table.span, column.span);
            *column = Ident::with_quote('"', excluded_name(&fold(column)));
            *table = Ident::with_quote('"', fold(self.alias));
            (table.span, column.span) = (table_span, column_span);
        }
        ControlFlow::Continue(())
    }
}
