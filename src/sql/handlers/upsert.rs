//! INSERT … ON CONFLICT, INSERT OR REPLACE, INSERT OR IGNORE.
//!
//! The rows that are there under the proposed keys are looked up in one pass, each proposed row is decided on in
//! order, and everything that follows goes into one commit. Invariant: what was decided on is still true when it is
//! committed, or the statement runs again: a row that is updated or replaced must still be live, and a key that
//! another writer inserted meanwhile makes the commit fail with UNIQUE_VIOLATION, after which [`lost_race`] tells that
//! apart from a violation of another constraint.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::compute::{self, concat_batches, interleave_record_batch, take_record_batch};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use datafusion::sql::sqlparser::ast::{
    ConflictTarget, DoUpdate, Ident, Insert, OnConflict, OnConflictAction, OnInsert, SqliteOnConflict,
};

use super::super::catalog::{fold, position_of_name, single_ident};
use super::super::defaults::default_column;
use super::super::executor::{Execution, StatementResult};
use super::super::parser::position_of;
use super::dml::{Target, unsupported};
use super::do_update::{Updating, fates};
use super::insert::column_place;
use super::returning::Others;
use super::update::first_of_each_row;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::Turns;
use crate::schema::{ColumnDefinition, IndexDefinition, TableDefinition};
use crate::tables::{IndexAccess, IndexCodec, Request, TableProviderCore, TableScanExec, prepare_rows};
use crate::types::{KeyCodec, Value};

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
        let mut pace = Pace::of(&target.request);
        let mut keys = Vec::with_capacity(arbiters.len());
        for arbiter in &arbiters {
            keys.push(arbiter.keys(&proposed, &mut pace).await?);
        }
        let found = Found::of(execution, &target, &arbiters, &keys).await?;
        let changes = match &self.action {
            Action::Skip => skip(proposed.num_rows(), &keys, &found, &mut pace).await?,
            Action::Replace => {
                replace(proposed.num_rows(), &keys, &found, !definition.primary_key.is_empty(), &mut pace).await?
            }
            Action::Update(update) => {
                let updating = Updating { execution, target: &target, alias, update, proposed: &proposed };
                let fates = fates(&proposed, &arbiters, &keys, &found, definition, &mut pace).await?;
                updating.run(&found, &arbiters, fates, &mut pace).await?
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
            returned =
                target.returning(execution, insert.returning.as_ref(), alias, vec![rows], &Others::default()).await?;
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
        if let Some(transaction) = &execution.transaction {
            transaction.note_upsert();
        }
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

/// Rows that are decided on between two looks at whether the statement is still wanted.
const STEP: usize = 4096;

/// The pace of what is done row by row: now and then the host may run, and whoever has given up is heard.
pub(super) struct Pace<'a> {
    request: &'a Request,
    turns: Turns,
}

impl<'a> Pace<'a> {
    fn of(request: &'a Request) -> Self {
        Self { request, turns: Turns::begin() }
    }

    /// Before a row is worked on: counted from 0.
    pub(super) async fn at(&mut self, row: usize) -> Result<()> {
        if row.is_multiple_of(STEP) { self.request.pass(&mut self.turns).await } else { Ok(()) }
    }
}

/// A constraint that says which rows are the same.
pub(super) struct Arbiter {
    name: String,
    places: Vec<usize>,
    keys: Keys,
}

/// How the values of a constraint are encoded and found.
enum Keys {
    Primary(KeyCodec),
    Unique(IndexDefinition, IndexCodec),
}

impl Arbiter {
    /// The primary key first, if the table has one.
    fn all(definition: &TableDefinition) -> Result<Vec<Self>> {
        let mut all: Vec<Self> = Self::primary(definition)?.into_iter().collect();
        for index in definition.indexes.iter().filter(|i| i.unique) {
            let place = |id: u32| definition.columns_in_order().position(|c| c.column_id == id);
            let places = index.columns.iter().filter_map(|c| place(c.column_id)).collect();
            let keys = Keys::Unique(index.clone(), IndexCodec::new(definition, index)?);
            all.push(Self { name: index.name.clone(), places, keys });
        }
        Ok(all)
    }

    /// The primary key, if the table has one.
    pub(super) fn primary(definition: &TableDefinition) -> Result<Option<Self>> {
        if definition.primary_key.is_empty() {
            return Ok(None);
        }
        let keys = Keys::Primary(definition.key_codec()?);
        Ok(Some(Self { name: definition.primary_key_name(), places: definition.key_indices(), keys }))
    }

    /// The encoded keys of rows of the table; `None` where a NULL makes the row equal to no other.
    pub(super) async fn keys(&self, rows: &RecordBatch, pace: &mut Pace<'_>) -> Result<Vec<Option<Vec<u8>>>> {
        let columns: Vec<ArrayRef> = self.places.iter().map(|&p| Arc::clone(rows.column(p))).collect();
        let mut keys = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            pace.at(row).await?;
            if columns.iter().any(|c| c.is_null(row)) {
                keys.push(None);
                continue;
            }
            let mut key = Vec::new();
            match &self.keys {
                Keys::Primary(codec) => codec.encode(&columns, row, &mut key)?,
                Keys::Unique(_, codec) => {
                    codec.encode(&columns, row, &mut key)?;
                }
            }
            keys.push(Some(key));
        }
        Ok(keys)
    }

    /// A scan of the rows of some keys, hidden columns included.
    fn scan(&self, core: &TableProviderCore, keys: &[Option<Vec<u8>>]) -> Result<TableScanExec> {
        let mut wanted: Vec<Vec<u8>> = keys.iter().flatten().cloned().collect();
        wanted.sort_unstable();
        wanted.dedup();
        match &self.keys {
            Keys::Primary(_) => core.key_scan(None, wanted),
            Keys::Unique(index, _) => core.index_scan(None, IndexAccess::of_values(index, wanted)),
        }
    }

    /// What a row has in the constraint's columns: `(id)=(5)`.
    pub(super) fn describe(&self, definition: &TableDefinition, rows: &RecordBatch, row: usize) -> String {
        let columns = self.places.iter().map(|&p| &definition.columns[p]);
        let names: Vec<&str> = columns.clone().map(|c| c.name.as_str()).collect();
        let value = |(column, &place): (&ColumnDefinition, &usize)| {
            Value::from_array(rows.column(place).as_ref(), row, &column.data_type).unwrap_or_default().to_string()
        };
        let values: Vec<String> = columns.zip(&self.places).map(value).collect();
        format!("({})=({})", names.join(", "), values.join(", "))
    }
}

/// The rows that are there under the proposed keys.
pub(super) struct Found {
    /// Position, row id if there is one, then the table's columns.
    pub(super) rows: RecordBatch,
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
        let schema = core.schema();
        let mut batches = Vec::new();
        for (arbiter, keys) in arbiters.iter().zip(keys) {
            let scan = arbiter.scan(&core, keys)?;
            batches.extend(execution.collect(Arc::new(scan), Arc::clone(&target.request)).await?);
        }
        let mut rows = target.position_first(&concat_batches(&schema, &batches).map_err(KalamError::internal)?)?;
        if arbiters.len() > 1 {
            // A row that several constraints find is one row.
            let mut seen = HashSet::new();
            rows = first_of_each_row(&rows, &mut seen)?;
        }
        let skip = rows.num_columns() - target.definition().columns.len();
        let mut found = Self { rows, by_key: Vec::with_capacity(arbiters.len()), skip };
        let own = found.own_columns()?;
        let mut pace = Pace::of(&target.request);
        for arbiter in arbiters {
            let keys = arbiter.keys(&own, &mut pace).await?.into_iter().enumerate();
            found.by_key.push(keys.filter_map(|(row, key)| Some((key?, row))).collect());
        }
        Ok(found)
    }

    /// Where the table's columns begin.
    pub(super) fn skip(&self) -> usize {
        self.skip
    }

    /// The table's own columns of the rows.
    pub(super) fn own_columns(&self) -> Result<RecordBatch> {
        let columns: Vec<usize> = (self.skip..self.rows.num_columns()).collect();
        self.rows.project(&columns).map_err(KalamError::internal)
    }

    pub(super) fn row(&self, arbiter: usize, key: Option<&Vec<u8>>) -> Option<usize> {
        self.by_key[arbiter].get(key?).copied()
    }

    pub(super) fn position(&self, row: usize) -> u64 {
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
    let store = execution.executor.store();
    store.barrier().await;
    // The row in the way may have been one that storage then refused: what this statement met is gone from memory.
    if !store.loaded(&target.scope).is_some_and(|hot| Arc::ptr_eq(&hot, &target.hot)) {
        return Ok(true);
    }
    let again = Target { request: execution.request(), ..target.clone() };
    let now = Found::of(execution, &again, arbiters, new).await?;
    Ok(now.by_key.iter().zip(&before.by_key).any(|(now, before)| now.keys().any(|key| !before.contains_key(key))))
}

/// What a statement changes.
#[derive(Default)]
pub(super) struct Changes {
    /// The changed rows in the order of their proposal: (0, proposed row) or (1, updated row).
    pub(super) rows: Vec<(usize, usize)>,
    /// Proposed rows that become new rows.
    pub(super) inserted: Vec<u32>,
    /// New versions of rows that are there.
    pub(super) updated: Option<Updated>,
    /// Positions that new rows replace under the same key.
    pub(super) replaced: Vec<u64>,
    /// Positions whose key ends.
    pub(super) deleted: Vec<u64>,
}

pub(super) struct Updated {
    pub(super) rows: RecordBatch,
    pub(super) row_ids: Option<Int64Array>,
}

/// DO NOTHING: the first row of each new key is inserted.
async fn skip(rows: usize, keys: &[Vec<Option<Vec<u8>>>], found: &Found, pace: &mut Pace<'_>) -> Result<Changes> {
    let mut changes = Changes::default();
    let mut taken: Vec<HashSet<&[u8]>> = vec![HashSet::new(); keys.len()];
    for i in 0..rows {
        pace.at(i).await?;
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
    Ok(changes)
}

/// OR REPLACE: each row puts aside what it conflicts with, rows proposed before it too.
async fn replace(
    rows: usize,
    keys: &[Vec<Option<Vec<u8>>>],
    found: &Found,
    has_key: bool,
    pace: &mut Pace<'_>,
) -> Result<Changes> {
    let mut owners: Vec<HashMap<&[u8], usize>> = vec![HashMap::new(); keys.len()];
    let mut stays = vec![true; rows];
    let mut ended = vec![false; found.rows.num_rows()];
    for i in 0..rows {
        pace.at(i).await?;
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
    Ok(changes)
}

pub(super) fn take_rows(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch> {
    take_record_batch(batch, &UInt32Array::from(rows.to_vec())).map_err(KalamError::internal)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use arrow::datatypes::{DataType, Field, Schema};
    use futures::executor::block_on;

    use super::*;
    use crate::schema::Role;
    use crate::types::KalamDataType;

    fn request(cancelled: bool) -> Request {
        Request {
            user: "me".into(),
            role: Role::Dba,
            now_ms: 0,
            snapshot: 0,
            pin: None,
            cancelled: Arc::new(AtomicBool::new(cancelled)),
            deadline: None,
            transaction: None,
        }
    }

    /// Deciding on a million rows takes seconds: who has given up is heard among them.
    #[test]
    fn every_loop_over_proposed_rows_hears_that_the_statement_was_cancelled() -> Result<()> {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3));
        let rows = RecordBatch::try_new(schema, vec![column]).map_err(KalamError::internal)?;
        let keys = Keys::Primary(KeyCodec::new(&[KalamDataType::BigInt])?);
        let arbiter = Arbiter { name: "t_pkey".into(), places: vec![0], keys };
        let found = Found { rows: rows.slice(0, 0), by_key: vec![HashMap::new()], skip: 0 };
        block_on(async {
            let (wanted, given_up) = (request(false), request(true));
            let (mut wanted, mut given_up) = (Pace::of(&wanted), Pace::of(&given_up));
            let keys = vec![arbiter.keys(&rows, &mut wanted).await?];
            assert_eq!(skip(3, &keys, &found, &mut wanted).await?.inserted, [0, 1, 2]);
            assert_eq!(replace(3, &keys, &found, true, &mut wanted).await?.inserted, [0, 1, 2]);
            let outcomes = [
                arbiter.keys(&rows, &mut given_up).await.map(drop),
                skip(3, &keys, &found, &mut given_up).await.map(drop),
                replace(3, &keys, &found, true, &mut given_up).await.map(drop),
                given_up.at(STEP).await,
            ];
            for outcome in outcomes {
                assert_eq!(outcome.map_err(|e| e.code()), Err(ErrorCode::Cancelled));
            }
            given_up.at(STEP + 1).await
        })
    }
}
