//! What an open transaction has changed and nobody else sees.
//!
//! A [`Transaction`] reads one snapshot for as long as it lives. For each table scope that it changes it keeps an
//! overlay: the positions of committed rows that it has ended, and its own rows in a [`HotTable`] of its own, at
//! positions from [`OWN_ROWS`] on. A scan leaves out the former and adds the latter. Own rows have provisional `_seq`
//! values, above the snapshot and never used by anybody else; the commit gives them their final ones. Invariants: a
//! statement's changes enter the overlay together, after all that can fail, so a statement that fails leaves nothing of
//! itself; while it lives its snapshot stays readable and the scopes that it changes are held, so the positions that it
//! keeps, in memory and in segments, stay those of the same rows; a view shows the changes of the statements that were done when it was taken, and of no later one; for each
//! key at most one row is visible in a view, because every new row is checked against both own and committed rows; what it
//! keeps in memory counts against the memory of queries, so a transaction that is too large ends in an error.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::FilterBuilder;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::DataFusionError;
use datafusion::execution::memory_pool::MemoryReservation;
use parking_lot::RwLock;
use roaring::RoaringBitmap;

use super::block;
use super::chunk::{Chunk, LIVE, Visibility};
use super::cold::Ended;
use super::hot::{Applied, HotTable, OnLiveKey};
use super::index::{self, IndexCodec, IndexedRow};
use super::index_access::IndexAccess;
use super::key_spec::KeySpec;
use super::log::ScopeKey;
use super::pins::{ScopeHold, SnapshotPin};
use super::scope_write::{ColdCheck, PreparedRows, ScopeWrite, numbered, prepare_rows};
use super::segment::{cold_position, cold_row};
use super::seq::Seq;
use super::store::TableStore;
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::{CachedTableData, TableDefinition};

/// The first position of a transaction's own rows; committed rows lie below, or from twice this on.
pub const OWN_ROWS: u64 = 1 << 61;

/// Bytes that a committed row takes which the transaction has ended, about, beside its key.
const HIDDEN_BYTES: usize = 80;

fn is_own(position: u64) -> bool {
    position >> 61 == 1
}

/// A transaction's snapshot and changes; see the module's comment.
#[derive(Debug)]
pub struct Transaction {
    store: Arc<TableStore>,
    pin: SnapshotPin,
    state: RwLock<State>,
    /// What its changes take.
    held: MemoryReservation,
}

#[derive(Debug)]
struct State {
    /// The provisional `_seq` of the newest change; the snapshot before the first.
    at: Seq,
    overlays: BTreeMap<ScopeKey, Arc<Overlay>>,
    /// What statements did, in order, from the first savepoint on.
    changes: Option<Vec<Change>>,
    /// Whether a statement said what to do about keys that are there already.
    upserts: bool,
}

/// What one statement did to one scope.
#[derive(Debug)]
struct Change {
    overlay: Arc<Overlay>,
    applied: Applied,
    hidden: Vec<u64>,
    bytes: usize,
}

/// The changes of one table scope.
#[derive(Debug)]
struct Overlay {
    table: Arc<CachedTableData>,
    /// The committed rows, as the transaction first found them: their positions are what `hidden` names.
    base: Arc<HotTable>,
    own: HotTable,
    hidden: RwLock<BTreeMap<u64, Hidden>>,
    _hold: ScopeHold,
}

/// A committed row that the transaction has ended.
#[derive(Debug)]
struct Hidden {
    /// When, in provisional `_seq` terms.
    at: Seq,
    /// The key, if what ended the row was a new version of it.
    replaced: Option<Vec<u8>>,
}

/// The change of a table scope by one statement.
#[derive(Debug)]
pub struct StatementWrite<'a> {
    /// The table.
    pub table: &'a Arc<CachedTableData>,
    /// The scope.
    pub scope: &'a ScopeKey,
    /// New rows and new versions of rows.
    pub rows: Vec<PreparedRows>,
    /// Positions of visible rows that `rows` replace under the same key. In a table without a primary key the `n`-th
    /// row replaces the `n`-th of them.
    pub replaced: Vec<u64>,
    /// Positions of visible rows whose key ends.
    pub deleted: Vec<u64>,
}

impl Transaction {
    /// A transaction that reads the newest snapshot. What it keeps in memory is reserved from `held`.
    pub fn begin(store: Arc<TableStore>, held: MemoryReservation) -> Self {
        let pin = store.pin();
        let state = State { at: pin.seq(), overlays: BTreeMap::new(), changes: None, upserts: false };
        Self { store, pin, state: RwLock::new(state), held }
    }

    /// Reserves memory for more changes.
    fn hold(&self, bytes: usize) -> Result<()> {
        self.held.try_grow(bytes).map_err(too_large)
    }

    /// What it reads.
    pub fn snapshot(&self) -> Seq {
        self.pin.seq()
    }

    /// What a statement that starts now sees.
    pub fn view(self: &Arc<Self>) -> TransactionView {
        TransactionView { at: self.state.read().at, transaction: Arc::clone(self) }
    }

    /// The committed rows of a scope that a statement is about to change. From here on the scope's positions stay what
    /// they are; the table must not be altered.
    pub async fn target(&self, table: &Arc<CachedTableData>, scope: &ScopeKey) -> Result<Arc<HotTable>> {
        if let Some(overlay) = self.overlay(scope) {
            overlay.check(table.schema_version())?;
            return Ok(Arc::clone(&overlay.base));
        }
        // Held before anything is found in it.
        let hold = self.store.hold(scope);
        let base = self.store.hot(scope, table.definition()).await?;
        let own = HotTable::starting_at(KeySpec::new(table.definition())?, OWN_ROWS);
        let overlay = Overlay { table: Arc::clone(table), base, own, hidden: RwLock::default(), _hold: hold };
        let mut state = self.state.write();
        let overlay = state.overlays.entry(scope.clone()).or_insert_with(|| Arc::new(overlay));
        Ok(Arc::clone(&overlay.base))
    }

    fn overlay(&self, scope: &ScopeKey) -> Option<Arc<Overlay>> {
        self.state.read().overlays.get(scope).cloned()
    }

    /// Takes the change of a statement, which found its rows in a view of this moment: everything or nothing.
    pub async fn write(&self, write: StatementWrite<'_>) -> Result<()> {
        let overlay =
            self.overlay(write.scope).ok_or_else(|| KalamError::internal("a change of a scope that was not opened"))?;
        overlay.check(write.table.schema_version())?;
        let ended: HashSet<u64> = write.replaced.iter().chain(&write.deleted).copied().collect();
        let (own, base): (Vec<u64>, Vec<u64>) = ended.iter().partition(|&&p| is_own(p));
        // Whoever committed first wins: no need to wait for the commit to learn that.
        overlay.base.check_live(&base)?;
        let keys = self.check_keys(&overlay, &write, &ended).await?;
        self.check_unique(&overlay, &write, &ended).await?;

        let rows: usize = write.rows.iter().map(PreparedRows::len).sum();
        let span = self.store.seqs().take(rows.max(1) as u64);
        let new = numbered(&write.rows, write.table.schema_version(), span);
        let ended = Ended { replaced: own, replaced_at: span.last(), ..Ended::default() };
        let hidden_bytes = base.len() * HIDDEN_BYTES + keys.values().map(Vec::len).sum::<usize>();
        let expected = hidden_bytes + new.iter().map(|rows| block::memory_size(&rows.columns)).sum::<usize>();
        self.hold(expected)?;
        let applied = match overlay.own.apply(&new, &ended, OnLiveKey::Fail) {
            Ok(applied) => applied,
            Err(error) => {
                self.held.shrink(expected);
                return Err(error);
            }
        };
        let bytes = hidden_bytes + overlay.own.grown();
        self.held.grow(bytes.saturating_sub(expected));
        self.held.shrink(expected.saturating_sub(bytes));
        let mut hidden = overlay.hidden.write();
        for &position in &base {
            let replaced = keys.get(&position).cloned();
            hidden.insert(position, Hidden { at: span.last(), replaced });
        }
        drop(hidden);
        let mut state = self.state.write();
        state.at = span.last();
        if let Some(changes) = &mut state.changes {
            changes.push(Change { overlay, applied, hidden: base, bytes });
        }
        Ok(())
    }

    /// Refuses new rows whose key a committed row has that the transaction sees and has not ended. Returns the keys of
    /// the committed rows that new ones replace.
    async fn check_keys(
        &self,
        overlay: &Overlay,
        write: &StatementWrite<'_>,
        ended: &HashSet<u64>,
    ) -> Result<BTreeMap<u64, Vec<u8>>> {
        let mut found = BTreeMap::new();
        let spec = overlay.base.key();
        let mut replaced = write.replaced.iter();
        for part in &write.rows {
            if spec.is_row_id() {
                // Row ids are never used again. Only new versions of rows bring theirs.
                let Some(ids) = part.row_ids() else { continue };
                let ids: Vec<ArrayRef> = vec![Arc::new(ids.clone())];
                for row in 0..part.len() {
                    if let Some(&position) = replaced.next() {
                        let mut key = Vec::new();
                        spec.codec().encode(&ids, row, &mut key)?;
                        found.insert(position, key);
                    }
                }
                continue;
            }
            let keys = part.keys(spec)?;
            let positions = overlay.committed(&keys, self.snapshot()).await?;
            for (place, key) in keys.into_iter().enumerate() {
                let Some(&position) = positions.get(&place) else { continue };
                if ended.contains(&position) {
                    found.insert(position, key);
                } else if !overlay.hidden.read().contains_key(&position) {
                    return Err(spec.violation(&key));
                }
            }
        }
        // A row that is deleted and inserted again in one statement ends like any deleted one.
        for position in &write.deleted {
            found.remove(position);
        }
        Ok(found)
    }

    /// Refuses new rows with values of a unique index that a committed row has which the transaction sees and has not
    /// ended. Own rows are asked when they enter the overlay.
    async fn check_unique(&self, overlay: &Overlay, write: &StatementWrite<'_>, ended: &HashSet<u64>) -> Result<()> {
        let (definition, snapshot) = (write.table.definition(), self.pin.seq());
        overlay.base.use_indexes_of(definition)?;
        overlay.own.use_indexes_of(definition)?;
        let gone = |position| ended.contains(&position) || overlay.hidden.read().contains_key(&position);
        for index in definition.indexes.iter().filter(|index| index.unique) {
            let codec = IndexCodec::new(definition, index)?;
            for part in &write.rows {
                let columns = part.columns_of(index.columns.iter().map(|c| c.column_id))?;
                for row in 0..part.len() {
                    let mut value = Vec::new();
                    if codec.encode(&columns, row, &mut value)? {
                        continue;
                    }
                    let access = IndexAccess::of_values(index, vec![value]);
                    let (hot, segments) = overlay.base.index_rows(&access, snapshot, 0, usize::MAX)?;
                    let mut taken = hot.iter().any(|found| !gone(found.position()));
                    for segment in segments.iter() {
                        let number = segment.meta().number;
                        let hidden = |row| gone(cold_position(number, row));
                        taken |= !segment.index_rows(definition, &access, snapshot, hidden, 1).await?.is_empty();
                    }
                    if taken {
                        return Err(index::violation(definition, index, &columns, row));
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes that a statement said what to do about keys that are there already.
    pub fn note_upsert(&self) {
        self.state.write().upserts = true;
    }

    /// Whether [`Transaction::note_upsert`] was called.
    pub fn has_upserts(&self) -> bool {
        self.state.read().upserts
    }

    /// Remembers this moment, to come back to with [`Transaction::undo_to`].
    pub fn savepoint(&self) -> usize {
        self.state.write().changes.get_or_insert_default().len()
    }

    /// Takes back every change since a savepoint.
    pub fn undo_to(&self, savepoint: usize) -> Result<()> {
        let undone = match &mut self.state.write().changes {
            Some(changes) => changes.split_off(savepoint.min(changes.len())),
            None => Vec::new(),
        };
        for change in undone.into_iter().rev() {
            change.overlay.own.revert(change.applied)?;
            let mut hidden = change.overlay.hidden.write();
            for position in change.hidden {
                hidden.remove(&position);
            }
            change.overlay.own.grown();
            self.held.shrink(change.bytes);
        }
        Ok(())
    }

    /// Everything that it changed, ready to be committed together, with the table that each change was made for.
    pub fn writes(&self) -> Result<Vec<(Arc<CachedTableData>, ScopeWrite)>> {
        let overlays: Vec<(ScopeKey, Arc<Overlay>)> =
            self.state.read().overlays.iter().map(|(scope, overlay)| (scope.clone(), Arc::clone(overlay))).collect();
        let mut writes = Vec::with_capacity(overlays.len());
        for (scope, overlay) in overlays {
            let rows = overlay.own_rows(|bytes| self.hold(bytes))?;
            let (mut replaced, mut deleted) = (Vec::new(), Vec::new());
            for (&position, hidden) in overlay.hidden.read().iter() {
                // The version that replaced it may have been deleted since.
                let goes_on = match &hidden.replaced {
                    Some(key) => !overlay.own.live_positions(std::iter::once(key.as_slice()))?.is_empty(),
                    None => false,
                };
                if goes_on { replaced.push(position) } else { deleted.push(position) }
            }
            if rows.is_empty() && replaced.is_empty() && deleted.is_empty() {
                continue;
            }
            let (hot, schema_version) = (Arc::clone(&overlay.base), overlay.table.schema_version());
            let checked = ColdCheck::Unchecked;
            let write = ScopeWrite { scope, hot, schema_version, rows, replaced, deleted, checked };
            writes.push((Arc::clone(&overlay.table), write));
        }
        Ok(writes)
    }
}

impl Overlay {
    fn check(&self, schema_version: u32) -> Result<()> {
        if self.table.schema_version() == schema_version {
            return Ok(());
        }
        Err(altered(&self.table))
    }

    /// Positions of the committed rows that a snapshot sees under encoded keys, by the place of the key.
    async fn committed(&self, keys: &[Vec<u8>], snapshot: Seq) -> Result<HashMap<usize, u64>> {
        let mut found = HashMap::new();
        let mut missing = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            match self.base.lookup(key, snapshot)? {
                Some((chunk, row)) => {
                    found.insert(place, chunk.base + row as u64);
                }
                None => missing.push(place),
            }
        }
        let segments = self.base.segments();
        if missing.is_empty() || segments.is_empty() {
            return Ok(found);
        }
        let missing_keys: Vec<&[u8]> = missing.iter().map(|&place| keys[place].as_slice()).collect();
        for segment in segments.iter() {
            let rows = segment.find_keys(self.table.definition(), self.base.key(), &missing_keys).await?;
            let places: HashMap<u32, usize> = rows.iter().map(|(place, row)| (*row, missing[*place])).collect();
            let rows: Vec<u32> = rows.into_iter().map(|(_, row)| row).collect();
            for row in segment.visible(&rows, snapshot).await? {
                found.insert(places[&row], cold_position(segment.meta().number, row));
            }
        }
        Ok(found)
    }

    /// The own rows that are left, encoded for the log; `hold` is told how many bytes that takes.
    fn own_rows(&self, hold: impl Fn(usize) -> Result<()>) -> Result<Vec<PreparedRows>> {
        let schema = self.table.arrow_schema()?;
        let mut rows = Vec::new();
        for chunk in self.own.chunks().iter() {
            let live = chunk.visibility(LIVE - 1);
            if live == Visibility::None {
                continue;
            }
            let live = BooleanBuffer::collect_bool(chunk.len(), |row| live.holds(row));
            let predicate = FilterBuilder::new(&BooleanArray::new(live, None)).optimize().build();
            let take = |array: &dyn Array| predicate.filter(array).map_err(KalamError::internal);
            let columns: Vec<ArrayRef> = chunk.columns.iter().map(|c| take(c.as_ref())).collect::<Result<_>>()?;
            let ids = chunk.row_ids.as_ref().map(|ids| take(ids)).transpose()?;
            let ids = ids.map(|ids| Int64Array::from(ids.to_data()));
            let options = RecordBatchOptions::new().with_row_count(Some(predicate.count()));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)
                .map_err(KalamError::internal)?;
            let prepared = prepare_rows(self.table.definition(), &batch, ids.as_ref())?;
            hold(prepared.iter().map(PreparedRows::encoded_bytes).sum())?;
            rows.extend(prepared);
        }
        Ok(rows)
    }
}

/// The error for a transaction whose changes do not fit into memory.
fn too_large(error: DataFusionError) -> KalamError {
    let what = error.to_string();
    let what = what.lines().next().unwrap_or_default();
    KalamError::new(ErrorCode::OutOfMemory, format!("the transaction needs more memory than its limit: {what}"))
        .with_hint("Raise `memoryLimit`, or make the change in several transactions.")
}

/// The error for a table that was altered or dropped under a transaction that changes it.
pub fn altered(table: &CachedTableData) -> KalamError {
    let message =
        format!("the definition of '{}' was changed after this transaction had changed rows", table.table_id());
    KalamError::new(ErrorCode::Conflict, message).with_hint("Run the transaction again.")
}

/// What a statement of a transaction sees; see the module's comment.
#[derive(Debug, Clone)]
pub struct TransactionView {
    transaction: Arc<Transaction>,
    at: Seq,
}

impl TransactionView {
    /// The transaction.
    pub fn transaction(&self) -> &Arc<Transaction> {
        &self.transaction
    }

    /// The changes of a scope, if there may be some.
    pub fn overlay(&self, scope: &ScopeKey, schema_version: u32) -> Result<Option<OverlayView>> {
        let Some(overlay) = self.transaction.overlay(scope) else { return Ok(None) };
        overlay.check(schema_version)?;
        Ok(Some(OverlayView { overlay, snapshot: self.transaction.snapshot(), at: self.at }))
    }
}

/// The rows of a table scope as a statement of a transaction sees them.
#[derive(Debug, Clone)]
pub struct OverlayView {
    overlay: Arc<Overlay>,
    snapshot: Seq,
    at: Seq,
}

impl OverlayView {
    /// The committed rows.
    pub fn base(&self) -> &Arc<HotTable> {
        &self.overlay.base
    }

    /// The chunks of committed rows and after them those of own rows, for [`OverlayView::visibility`].
    pub fn chunks(&self) -> Arc<Vec<Arc<Chunk>>> {
        let own = self.overlay.own.chunks();
        let base = self.overlay.base.chunks();
        if own.is_empty() { base } else { Arc::new(base.iter().chain(own.iter()).cloned().collect()) }
    }

    /// Which rows of a chunk are visible, without those of a `_seq` below `oldest`.
    pub fn visibility(&self, chunk: &Chunk, oldest: Seq) -> Visibility {
        if is_own(chunk.base) {
            return chunk.visibility_since(oldest, self.at);
        }
        let before = chunk.visibility_since(oldest, self.snapshot);
        let hidden = self.hidden(chunk.base..chunk.end());
        if hidden.is_empty() || before == Visibility::None {
            return before;
        }
        let mut hidden = hidden.into_iter().peekable();
        Visibility::of(BooleanBuffer::collect_bool(chunk.len(), |row| {
            hidden.next_if_eq(&(chunk.base + row as u64)).is_none() && before.holds(row)
        }))
    }

    /// Whether a row of a chunk is visible.
    pub fn sees(&self, chunk: &Chunk, row: usize) -> bool {
        match is_own(chunk.base) {
            true => chunk.visible(row, self.at),
            false => chunk.visible(row, self.snapshot) && !self.is_hidden(chunk.base + row as u64),
        }
    }

    /// The positions within a range whose rows the transaction has ended, ascending.
    pub fn hidden(&self, positions: Range<u64>) -> Vec<u64> {
        let hidden = self.overlay.hidden.read();
        hidden.range(positions).filter(|(_, h)| h.at <= self.at).map(|(&p, _)| p).collect()
    }

    /// The rows of segments that the transaction has ended, by segment.
    pub fn hidden_cold(&self) -> Vec<(u32, RoaringBitmap)> {
        let mut hidden: BTreeMap<u32, RoaringBitmap> = BTreeMap::new();
        for position in self.hidden(cold_position(0, 0)..u64::MAX) {
            if let Some((segment, row)) = cold_row(position) {
                hidden.entry(segment).or_default().insert(row);
            }
        }
        hidden.into_iter().collect()
    }

    /// Whether the transaction has ended the row at a position.
    pub fn is_hidden(&self, position: u64) -> bool {
        self.overlay.hidden.read().get(&position).is_some_and(|h| h.at <= self.at)
    }

    /// The rows in memory in a part of an index, committed and own ones, in the order that is asked for.
    pub fn index_rows(
        &self,
        definition: &TableDefinition,
        access: &IndexAccess,
        oldest: Seq,
    ) -> Result<Vec<IndexedRow>> {
        let (base, own) = (&self.overlay.base, &self.overlay.own);
        own.use_indexes_of(definition)?;
        let (mut rows, _) = base.index_rows(access, self.snapshot, oldest, usize::MAX)?;
        rows.retain(|row| !self.is_hidden(row.position()));
        Ok(index::merge(access, rows, own.index_rows(access, self.at, oldest, usize::MAX)?.0, usize::MAX))
    }

    /// The own row of an encoded key.
    pub fn lookup_own(&self, key: &[u8]) -> Result<Option<(Arc<Chunk>, usize)>> {
        self.overlay.own.lookup(key, self.at)
    }

    /// The row of an encoded key in memory.
    pub fn lookup(&self, key: &[u8]) -> Result<Option<(Arc<Chunk>, usize)>> {
        if let Some(own) = self.lookup_own(key)? {
            return Ok(Some(own));
        }
        let found = self.overlay.base.lookup(key, self.snapshot)?;
        Ok(found.filter(|(chunk, row)| !self.is_hidden(chunk.base + *row as u64)))
    }
}
