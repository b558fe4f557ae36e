//! INSERT … ON CONFLICT, INSERT OR REPLACE, INSERT OR IGNORE.
//!
//! The rows that are there under the proposed keys are looked up in one pass, each proposed row is decided on in
//! order, and everything that follows goes into one commit. Invariant: what was decided on is still true when it is
//! committed, or the statement runs again: a row that is updated or replaced must still be live, and a key that
//! another writer inserted meanwhile makes the commit fail with UNIQUE_VIOLATION, after which [`lost_race`] tells that
//! apart from a violation of another constraint.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{self, concat_batches, interleave_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::datasource::MemTable;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::sqlparser::ast::{
    ConflictTarget, DoUpdate, Expr, Ident, Insert, OnConflict, OnConflictAction, OnInsert, SqliteOnConflict, VisitMut,
    VisitorMut,
};

use super::super::catalog::{Extras, fold, position_of_name, single_ident};
use super::super::defaults::default_column;
use super::super::errors::from_datafusion;
use super::super::executor::{Execution, StatementResult};
use super::super::parser::position_of;
use super::super::short_path;
use super::dml::{Target, column_item, item, select_from, unsupported};
use super::insert::column_place;
use super::update::{Assigned, by_place};
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::{ColumnDefinition, TableDefinition};
use crate::tables::prepare_rows;
use crate::types::{KeyCodec, Value, coerce_array};

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

/// What becomes of a proposed row whose key is there already.
enum Action<'a> {
    /// DO NOTHING, OR IGNORE.
    Skip,
    /// OR REPLACE: the rows that it conflicts with go.
    Replace,
    /// DO UPDATE.
    Update(&'a DoUpdate),
}

/// How an INSERT deals with keys that are there already.
pub struct Upsert<'a> {
    action: Action<'a>,
    target: Option<&'a ConflictTarget>,
    /// OR IGNORE and OR REPLACE concern NOT NULL as well.
    not_null_too: bool,
}

impl<'a> Upsert<'a> {
    /// What an INSERT says about conflicts; `None` if they are errors.
    pub fn of(insert: &'a Insert) -> Result<Option<Self>> {
        let or = match (&insert.or, insert.ignore, insert.replace_into) {
            (None | Some(SqliteOnConflict::Abort), false, false) => None,
            (Some(SqliteOnConflict::Ignore), _, false) | (None, true, false) => Some(Action::Skip),
            (Some(SqliteOnConflict::Replace), false, _) | (None, false, true) => Some(Action::Replace),
            _ => return unsupported("INSERT OR FAIL and OR ROLLBACK"),
        };
        match (or, &insert.on) {
            (None, None) => Ok(None),
            (Some(action), None) => Ok(Some(Self { action, target: None, not_null_too: true })),
            (None, Some(OnInsert::OnConflict(OnConflict { conflict_target, action }))) => {
                let action = match action {
                    OnConflictAction::DoNothing => Action::Skip,
                    OnConflictAction::DoUpdate(update) => Action::Update(update),
                };
                Ok(Some(Self { action, target: conflict_target.as_ref(), not_null_too: false }))
            }
            (Some(_), Some(OnInsert::OnConflict(_))) => unsupported("INSERT OR … together with ON CONFLICT"),
            (_, Some(_)) => {
                Err(KalamError::new(ErrorCode::FeatureNotSupported, "ON DUPLICATE KEY UPDATE is not supported")
                    .with_hint("Write ON CONFLICT (key) DO UPDATE SET column = EXCLUDED.column."))
            }
        }
    }

    /// What OR IGNORE and OR REPLACE do about NULL in a NOT NULL column: the row is left out, or gets the default.
    pub fn without_nulls(
        &self,
        execution: &Execution<'_>,
        definition: &TableDefinition,
        mut columns: Vec<ArrayRef>,
        rows: usize,
    ) -> Result<(Vec<ArrayRef>, usize)> {
        if !self.not_null_too {
            return Ok((columns, rows));
        }
        let mut keep: Option<BooleanArray> = None;
        for (column, array) in definition.columns_in_order().zip(&mut columns) {
            if column.nullable || array.null_count() == 0 {
                continue;
            }
            let present = compute::is_not_null(array).map_err(KalamError::internal)?;
            match self.action {
                Action::Replace if column.default.is_none() => {}
                Action::Replace => {
                    let default = default_column(execution, column, rows)?;
                    *array = compute::kernels::zip::zip(&present, array, &default).map_err(KalamError::internal)?;
                }
                _ => {
                    keep = Some(match keep {
                        None => present,
                        Some(keep) => compute::and(&keep, &present).map_err(KalamError::internal)?,
                    });
                }
            }
        }
        let Some(keep) = keep else { return Ok((columns, rows)) };
        let kept = columns.iter().map(|c| compute::filter(c, &keep).map_err(KalamError::internal));
        Ok((kept.collect::<Result<_>>()?, keep.true_count()))
    }

    /// Runs the INSERT with its proposed rows, which are complete and have the table's columns.
    pub async fn run(
        &self,
        execution: &Execution<'_>,
        target: Target,
        insert: &Insert,
        alias: &Ident,
        batches: &[RecordBatch],
    ) -> Result<StatementResult> {
        let definition = target.definition();
        let proposed = concat_batches(&target.table.arrow_schema()?, batches).map_err(KalamError::internal)?;
        let arbiters = self.arbiters(definition)?;
        let keys = arbiters.iter().map(|a| a.keys(&proposed)).collect::<Result<Vec<_>>>()?;
        let found = Found::of(execution, &target, &arbiters, &keys).await?;
        let changes = match &self.action {
            Action::Skip => skip(proposed.num_rows(), &keys, &found),
            Action::Replace => replace(proposed.num_rows(), &keys, &found, !definition.primary_key.is_empty()),
            Action::Update(update) => {
                let updating = Updating { execution, target: &target, alias, update, proposed: &proposed };
                let fates = fates(proposed.num_rows(), &arbiters, &keys, &found, definition)?;
                updating.run(&found, &arbiters, fates).await?
            }
        };
        let mut prepared = prepare_rows(definition, &take_rows(&proposed, &changes.inserted)?, None)?;
        if let Some(updated) = &changes.updated {
            prepared.extend(prepare_rows(definition, &updated.rows, updated.row_ids.as_ref())?);
        }
        let mut returned = None;
        if insert.returning.is_some() {
            let updated = changes.updated.as_ref().map_or(&proposed, |u| &u.rows);
            let rows = match changes.rows.as_slice() {
                [] => proposed.slice(0, 0),
                rows => interleave_record_batch(&[&proposed, updated], rows).map_err(KalamError::internal)?,
            };
            returned = target.returning(execution, insert.returning.as_ref(), alias, vec![rows]).await?;
        }
        let commit = target.clone().commit(execution, prepared, changes.replaced, changes.deleted).await;
        let mut result = match commit {
            Err(error) if error.code() == ErrorCode::UniqueViolation => {
                let new = |keys: &Vec<Option<Vec<u8>>>| {
                    changes.inserted.iter().map(|&i| keys[i as usize].clone()).collect::<Vec<_>>()
                };
                let new: Vec<_> = keys.iter().map(new).collect();
                return Err(if lost_race(execution, &target, &arbiters, &new, &found).await? {
                    KalamError::new(ErrorCode::Conflict, "another writer inserted a row with the same key meanwhile")
                        .with_hint("Run the statement or transaction again.")
                } else {
                    error
                });
            }
            outcome => outcome?,
        };
        result.rows_affected = changes.rows.len() as u64;
        result.rows = returned;
        Ok(result)
    }

    /// The constraints whose violation is dealt with: the one that is named, or all.
    fn arbiters(&self, definition: &TableDefinition) -> Result<Vec<Arbiter>> {
        let all = Arbiter::all(definition)?;
        match self.target {
            None => Ok(all),
            Some(ConflictTarget::Columns(columns)) => {
                let mut places = Vec::with_capacity(columns.len());
                for ident in columns {
                    places.push(column_place(definition, ident)?);
                }
                places.sort_unstable();
                places.dedup();
                let matching = all.into_iter().find(|a| {
                    let mut own = a.places.clone();
                    own.sort_unstable();
                    own == places
                });
                matching.map(|a| vec![a]).ok_or_else(|| {
                    let names: Vec<String> = columns.iter().map(fold).collect();
                    KalamError::new(
                        ErrorCode::InvalidColumnReference,
                        format!(
                            "ON CONFLICT ({}) names no primary key or UNIQUE constraint of '{}'",
                            names.join(", "),
                            definition.table_id
                        ),
                    )
                    .at(columns.first().and_then(position_of))
                })
            }
            Some(ConflictTarget::OnConstraint(name)) => {
                let wanted = fold(&single_ident(name, "constraint")?);
                all.into_iter().find(|a| a.name == wanted).map(|a| vec![a]).ok_or_else(|| {
                    let message = format!("constraint '{wanted}' of '{}' does not exist", definition.table_id);
                    KalamError::new(ErrorCode::ConstraintNotFound, message).at(position_of_name(name))
                })
            }
        }
    }
}

/// A constraint that says which rows are the same.
struct Arbiter {
    name: String,
    places: Vec<usize>,
    codec: KeyCodec,
}

impl Arbiter {
    fn all(definition: &TableDefinition) -> Result<Vec<Self>> {
        Ok(Self::primary(definition)?.into_iter().collect())
    }

    /// The primary key, if the table has one.
    fn primary(definition: &TableDefinition) -> Result<Option<Self>> {
        if definition.primary_key.is_empty() {
            return Ok(None);
        }
        let name = format!("{}_pkey", definition.table_id.table);
        Ok(Some(Self { name, places: definition.key_indices(), codec: definition.key_codec()? }))
    }

    /// The encoded keys of rows of the table; `None` where a NULL makes the row equal to no other.
    fn keys(&self, rows: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        let columns: Vec<ArrayRef> = self.places.iter().map(|&p| Arc::clone(rows.column(p))).collect();
        (0..rows.num_rows())
            .map(|row| {
                if columns.iter().any(|c| c.is_null(row)) {
                    return Ok(None);
                }
                let mut key = Vec::new();
                self.codec.encode(&columns, row, &mut key)?;
                Ok(Some(key))
            })
            .collect()
    }

    fn describe(&self, definition: &TableDefinition, key: &[u8]) -> String {
        let names: Vec<&str> = self.places.iter().map(|&p| definition.columns[p].name.as_str()).collect();
        let values: Vec<String> = self.codec.decode(key).unwrap_or_default().iter().map(Value::to_string).collect();
        format!("({})=({})", names.join(", "), values.join(", "))
    }
}

/// The rows that are there under the proposed keys.
struct Found {
    /// Position, row id if there is one, then the table's columns.
    rows: RecordBatch,
    /// For each arbiter: which of them has a key.
    by_key: Vec<HashMap<Vec<u8>, usize>>,
    /// Where the table's columns begin.
    skip: usize,
}

impl Found {
    async fn of(
        execution: &Execution<'_>,
        target: &Target,
        arbiters: &[Arbiter],
        keys: &[Vec<Option<Vec<u8>>>],
    ) -> Result<Self> {
        let core = target.core(execution)?;
        let mut wanted: Vec<Vec<u8>> = keys.iter().flatten().flatten().cloned().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let scan = core.key_scan(None, wanted)?;
        let schema = ExecutionPlan::schema(&scan);
        let batches = execution.collect(Arc::new(scan), Arc::clone(&target.request)).await?;
        let rows = target.position_first(&concat_batches(&schema, &batches).map_err(KalamError::internal)?)?;
        let skip = rows.num_columns() - target.definition().columns.len();
        let columns: Vec<usize> = (skip..rows.num_columns()).collect();
        let own = rows.project(&columns).map_err(KalamError::internal)?;
        let mut by_key = Vec::with_capacity(arbiters.len());
        for arbiter in arbiters {
            let keys = arbiter.keys(&own)?.into_iter().enumerate();
            by_key.push(keys.filter_map(|(row, key)| Some((key?, row))).collect());
        }
        Ok(Self { rows, by_key, skip })
    }

    fn row(&self, arbiter: usize, key: Option<&Vec<u8>>) -> Option<usize> {
        self.by_key[arbiter].get(key?).copied()
    }

    fn position(&self, row: usize) -> u64 {
        self.rows.column(0).as_primitive::<Int64Type>().value(row) as u64
    }
}

/// After a commit that failed with UNIQUE_VIOLATION: whether one of the new keys is there now and was not before.
async fn lost_race(
    execution: &Execution<'_>,
    target: &Target,
    arbiters: &[Arbiter],
    new: &[Vec<Option<Vec<u8>>>],
    before: &Found,
) -> Result<bool> {
    execution.executor.store().barrier().await;
    let again = Target { request: execution.request(), ..target.clone() };
    let now = Found::of(execution, &again, arbiters, new).await?;
    Ok(now.by_key.iter().zip(&before.by_key).any(|(now, before)| now.keys().any(|key| !before.contains_key(key))))
}

/// What a statement changes.
#[derive(Default)]
struct Changes {
    /// The changed rows in the order of their proposal: (0, proposed row) or (1, updated row).
    rows: Vec<(usize, usize)>,
    /// Proposed rows that become new rows.
    inserted: Vec<u32>,
    /// New versions of rows that are there.
    updated: Option<Updated>,
    /// Positions that new rows replace under the same key.
    replaced: Vec<u64>,
    /// Positions whose key ends.
    deleted: Vec<u64>,
}

struct Updated {
    rows: RecordBatch,
    row_ids: Option<Int64Array>,
}

/// DO NOTHING: the first row of each new key is inserted.
fn skip(rows: usize, keys: &[Vec<Option<Vec<u8>>>], found: &Found) -> Changes {
    let mut changes = Changes::default();
    let mut taken: Vec<HashSet<&[u8]>> = vec![HashSet::new(); keys.len()];
    for i in 0..rows {
        let own = keys.iter().map(|keys| keys[i].as_ref()).enumerate();
        if own.clone().any(|(a, key)| found.row(a, key).is_some() || key.is_some_and(|k| taken[a].contains(&k[..]))) {
            continue;
        }
        for (a, key) in own {
            taken[a].extend(key.map(Vec::as_slice));
        }
        changes.rows.push((0, i));
        changes.inserted.push(i as u32);
    }
    changes
}

/// OR REPLACE: each row puts aside what it conflicts with, rows proposed before it too.
fn replace(rows: usize, keys: &[Vec<Option<Vec<u8>>>], found: &Found, has_key: bool) -> Changes {
    let mut owners: Vec<HashMap<&[u8], usize>> = vec![HashMap::new(); keys.len()];
    let mut stays = vec![true; rows];
    let mut ended = vec![false; found.rows.num_rows()];
    for i in 0..rows {
        for (a, keys) in keys.iter().enumerate() {
            let Some(key) = &keys[i] else { continue };
            if let Some(row) = found.row(a, Some(key)) {
                ended[row] = true;
            }
            if let Some(before) = owners[a].insert(key, i)
                && before != i
            {
                stays[before] = false;
            }
        }
    }
    let mut changes = Changes::default();
    for (i, stays) in stays.iter().enumerate() {
        changes.rows.push((0, i));
        if *stays {
            changes.inserted.push(i as u32);
        }
    }
    // The first arbiter is the primary key, if the table has one: what comes again under it is replaced.
    let mut again: HashSet<usize> = HashSet::new();
    if let (true, Some(keys), Some(by_key)) = (has_key, keys.first(), found.by_key.first()) {
        again.extend(changes.inserted.iter().filter_map(|&i| by_key.get(keys[i as usize].as_ref()?).copied()));
    }
    for row in (0..ended.len()).filter(|&row| ended[row]) {
        let position = found.position(row);
        if again.contains(&row) { changes.replaced.push(position) } else { changes.deleted.push(position) }
    }
    changes
}

/// What DO UPDATE does with a proposed row: inserts it, or updates a row that is there.
enum Fate {
    Insert,
    Update(usize),
}

/// Decides on each row in order. A row that repeats the key of a new one is refused here; one that repeats the key of
/// a row that is there, only once it is known whether that row was updated ([`Updating::once_each`]).
fn fates(
    rows: usize,
    arbiters: &[Arbiter],
    keys: &[Vec<Option<Vec<u8>>>],
    found: &Found,
    definition: &TableDefinition,
) -> Result<Vec<Fate>> {
    let mut taken: Vec<HashSet<&[u8]>> = vec![HashSet::new(); keys.len()];
    let mut fates = Vec::with_capacity(rows);
    for i in 0..rows {
        let own = keys.iter().map(|keys| keys[i].as_ref()).enumerate();
        if let Some(row) = own.clone().find_map(|(a, key)| found.row(a, key)) {
            fates.push(Fate::Update(row));
            continue;
        }
        for (a, key) in own {
            if let Some(key) = key
                && !taken[a].insert(key)
            {
                return Err(second_time(&arbiters[a].describe(definition, key)));
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
struct Updating<'a, 'b> {
    execution: &'a Execution<'b>,
    target: &'a Target,
    alias: &'a Ident,
    update: &'a DoUpdate,
    proposed: &'a RecordBatch,
}

impl Updating<'_, '_> {
    async fn run(&self, found: &Found, arbiters: &[Arbiter], fates: Vec<Fate>) -> Result<Changes> {
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
            Some(sources) => ((0..conflicts.len()).collect(), self.combine(&sources, &old, &new, found.skip)?),
            None => self.select(&assigned, &old, &new, found.skip).await?,
        };
        self.once_each(found, arbiters, &conflicts, &passing)?;
        let rows = self.target.batch(columns, passing.len(), 1)?;

        let mut changes = Changes::default();
        let place: HashMap<usize, usize> = passing.iter().enumerate().map(|(k, &c)| (conflicts[c].0, k)).collect();
        for (i, fate) in fates.iter().enumerate() {
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
        let same_key = self.same_keys(&picked, &rows, found.skip)?;
        for (k, &c) in passing.iter().enumerate() {
            let position = found.position(conflicts[c].1);
            if same_key[k] { changes.replaced.push(position) } else { changes.deleted.push(position) }
        }
        let row_ids = definition.primary_key.is_empty().then(|| picked.column(1).as_primitive::<Int64Type>().clone());
        changes.updated = Some(Updated { rows, row_ids });
        Ok(changes)
    }

    /// Whether each row keeps its primary key. A hidden row id is kept always.
    fn same_keys(&self, old: &RecordBatch, new: &RecordBatch, skip: usize) -> Result<Vec<bool>> {
        let definition = self.target.definition();
        let Some(key) = Arbiter::primary(definition)? else { return Ok(vec![true; new.num_rows()]) };
        let own: Vec<usize> = (skip..old.num_columns()).collect();
        let before = key.keys(&old.project(&own).map_err(KalamError::internal)?)?;
        Ok(before.iter().zip(key.keys(new)?).map(|(a, b)| *a == b).collect())
    }

    /// Fails if a row that is updated comes up again after it was.
    fn once_each(
        &self,
        found: &Found,
        arbiters: &[Arbiter],
        conflicts: &[(usize, usize)],
        passing: &[usize],
    ) -> Result<()> {
        let passing: HashSet<usize> = passing.iter().copied().collect();
        let mut updated = HashSet::new();
        for (c, (_, row)) in conflicts.iter().enumerate() {
            if updated.contains(row) {
                let columns: Vec<usize> = (found.skip..found.rows.num_columns()).collect();
                let own = found.rows.slice(*row, 1).project(&columns).map_err(KalamError::internal)?;
                let Some(arbiter) = arbiters.first() else { continue };
                let key = arbiter.keys(&own)?.pop().flatten().unwrap_or_default();
                return Err(second_time(&arbiter.describe(self.target.definition(), &key)));
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
        match VisitMut::visit(&mut expr, &mut resolve) {
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

fn take_rows(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch> {
    take_record_batch(batch, &UInt32Array::from(rows.to_vec())).map_err(KalamError::internal)
}
