//! One table scope in memory: the hot tier, which is every row version that the log holds, and its segments.
//!
//! Row versions lie in [`Chunk`]s at ascending positions; an index leads from the encoded key to the newest version.
//! Invariants: positions are in commit order; for each key at most one version is live, and the index points at the
//! newest one (live or superseded) of every key it knows; [`HotTable::apply`] changes everything or nothing. Small
//! chunks are merged with their neighbours once there are four of a size, so a row is copied a logarithmic number of times
//! and a table has few chunks however it was written. The index knows hot rows only: whoever adds keys asks the segments
//! before (`TableStore::check_keys`). Chunks and segments change together, under one lock (`switch.rs`).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::compute;
use parking_lot::RwLock;

use super::chunk::{Chunk, LIVE};
use super::cold::ColdTier;
use super::index::{HotIndexes, IndexRange, IndexedRow};
use super::index_access::IndexAccess;
use super::key_index::KeyIndex;
use super::key_spec::KeySpec;
use super::request::Request;
use super::segment::{Segment, cold_row};
use super::seq::Seq;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::Turns;
use crate::schema::TableDefinition;

#[path = "hot_changes.rs"]
mod changes;
#[path = "hot_stream.rs"]
mod stream;

pub use changes::{Applied, NewRows, OnLiveKey};
use stream::StreamLife;

/// Rows of chunks.
pub(super) type Located = Vec<(Arc<Chunk>, usize)>;

/// The segments of one moment.
pub(super) type Segments = Arc<Vec<Arc<Segment>>>;

/// The chunks of a moment, in the order of their positions.
pub(super) type Chunks = Arc<Vec<Arc<Chunk>>>;

/// The hot tier of one table scope; see the module's comment.
#[derive(Debug)]
pub struct HotTable {
    pub(super) key: KeySpec,
    pub(super) state: RwLock<State>,
    /// How long rows live, for a STREAM table.
    life: Option<StreamLife>,
    /// What older snapshots see is not all here: see [`HotTable::check_snapshot`].
    since: Seq,
    /// Its bytes when they were last counted by [`HotTable::grown`].
    counted: AtomicUsize,
}

#[derive(Debug)]
pub(super) struct State {
    pub chunks: Arc<Vec<Arc<Chunk>>>,
    pub next: u64,
    /// Position of the newest version by key; built when first needed for a table without a primary key.
    pub index: Option<KeyIndex>,
    pub live: u64,
    /// Bytes of the chunks as they were written.
    pub bytes: usize,
    pub indexes: HotIndexes,
    pub cold: ColdTier,
    /// Segments whose delete vectors the manifest does not have as they are.
    pub dirty: HashSet<u32>,
    /// How many changes of them the log holds, and the `_seq` of the first.
    pub logged_marks: Option<(u64, Seq)>,
    /// The next segment's number.
    pub next_segment: u32,
    /// Segments that a rewrite replaced and whose blobs are still there.
    pub retired: Vec<u32>,
}

/// Chunks and segments of one moment. Their rows still have to be tested against a snapshot.
#[derive(Debug, Clone)]
pub struct View {
    /// The chunks in position order.
    pub chunks: Arc<Vec<Arc<Chunk>>>,
    /// The segments, in no order.
    pub segments: Arc<Vec<Arc<Segment>>>,
    /// Grows with every rewrite.
    pub cold_version: u64,
    /// The position after the last hot row.
    pub next: u64,
}

/// Rows and bytes of a hot table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HotStatistics {
    /// Rows that nothing has superseded.
    pub live_rows: u64,
    /// Row versions, superseded ones included.
    pub versions: u64,
    /// Bytes that they take with everything that finds and orders them.
    pub bytes: u64,
    /// Bytes of what finds and orders them.
    pub index_bytes: u64,
}

impl HotTable {
    /// An empty table.
    pub fn new(key: KeySpec) -> Self {
        Self::starting_at(key, 0)
    }

    /// An empty table whose first row gets a position of the caller's choice.
    pub fn starting_at(key: KeySpec, next: u64) -> Self {
        let index = (!key.is_row_id()).then(KeyIndex::default);
        Self {
            key,
            state: RwLock::new(State {
                chunks: Arc::default(),
                next,
                index,
                live: 0,
                bytes: 0,
                indexes: HotIndexes::default(),
                cold: ColdTier::default(),
                dirty: HashSet::new(),
                logged_marks: None,
                next_segment: 1,
                retired: Vec::new(),
            }),
            life: None,
            since: Seq::MIN,
            counted: AtomicUsize::new(0),
        }
    }

    /// Says that rows that ended before a `_seq` are not all here.
    pub fn set_since(&mut self, since: Seq) {
        self.since = since;
    }

    /// Fails with a conflict if a snapshot may see rows that are not here any more: a TRUNCATE or an ALTER took them out
    /// of the log, and then the rest was read again from storage.
    pub fn check_snapshot(&self, snapshot: Seq) -> Result<()> {
        if snapshot >= self.since {
            return Ok(());
        }
        Err(KalamError::new(ErrorCode::Conflict, "the rows that this snapshot saw were replaced by another statement")
            .with_hint("Run the statement or transaction again."))
    }

    /// What identifies its rows.
    pub fn key(&self) -> &KeySpec {
        &self.key
    }

    /// Gives the key another type, as an ALTER did: `convert` converts the values of a key column, by its place.
    /// Only live rows keep their keys. Those that ended before had values that the ALTER did not ask about: they need
    /// not convert, and two of them may become one key.
    pub fn rekey(&mut self, key: KeySpec, convert: impl Fn(usize, &ArrayRef) -> Result<ArrayRef>) -> Result<()> {
        let state = self.state.get_mut();
        let mut index = KeyIndex::default();
        let mut chunks: Vec<Arc<Chunk>> = Vec::with_capacity(state.chunks.len());
        for chunk in state.chunks.iter() {
            let live: BooleanArray = (0..chunk.len()).map(|row| Some(chunk.superseded(row) == LIVE)).collect();
            let mut next = 0;
            let places: UInt32Array = (0..chunk.len())
                .map(|row| {
                    live.value(row).then(|| {
                        next += 1;
                        next - 1
                    })
                })
                .collect();
            let keys = chunk.keys.iter().enumerate().map(|(place, array)| {
                let array = compute::filter(array, &live).map_err(KalamError::internal)?;
                compute::take(&convert(place, &array)?, &places, None).map_err(KalamError::internal)
            });
            chunks.push(Arc::new(chunk.with_keys(keys.collect::<Result<_>>()?)));
        }
        state.chunks = Arc::new(chunks);
        let mut encoded = Vec::new();
        for chunk in state.chunks.iter() {
            for row in (0..chunk.len()).filter(|&row| chunk.superseded(row) == LIVE) {
                encoded.clear();
                key.codec().encode(&chunk.keys, row, &mut encoded)?;
                state.set(&mut index, &key, &encoded, chunk.base + row as u64, &[]);
            }
        }
        state.index = Some(index);
        self.key = key;
        Ok(())
    }

    /// The chunks as they are now, in position order. Their rows still have to be tested against a snapshot.
    pub fn chunks(&self) -> Arc<Vec<Arc<Chunk>>> {
        Arc::clone(&self.state.read().chunks)
    }

    /// The chunks and segments as they are now.
    pub fn view(&self) -> View {
        let state = self.state.read();
        View {
            chunks: Arc::clone(&state.chunks),
            segments: Arc::clone(state.cold.segments()),
            cold_version: state.cold.version(),
            next: state.next,
        }
    }

    /// The segments as they are now, in no order.
    pub fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        Arc::clone(self.state.read().cold.segments())
    }

    /// Grows with every rewrite.
    pub fn cold_version(&self) -> u64 {
        self.state.read().cold.version()
    }

    /// Bytes that the hot rows take, with everything that finds and orders them.
    pub fn bytes(&self) -> usize {
        let state = self.state.read();
        state.chunks.iter().map(|c| c.memory_size()).sum::<usize>() + state.index_size()
    }

    /// Whether there is any hot row, ended ones included.
    pub fn has_rows(&self) -> bool {
        !self.state.read().chunks.is_empty()
    }

    /// Bytes that came since this was last asked, but for what comes with reading.
    pub fn grown(&self) -> usize {
        let state = self.state.read();
        let bytes = state.bytes + state.index_size();
        bytes.saturating_sub(self.counted.swap(bytes, Ordering::Relaxed))
    }

    /// Rows have gone: what comes from now on has grown.
    pub(super) fn forget_growth(&self, state: &State) {
        self.counted.store(state.bytes + state.index_size(), Ordering::Relaxed);
    }

    /// Rows and bytes.
    pub fn statistics(&self) -> HotStatistics {
        let state = self.state.read();
        let versions = state.chunks.iter().map(|c| c.len() as u64).sum();
        let bytes: usize = state.chunks.iter().map(|c| c.memory_size()).sum();
        let orders: usize = state.chunks.iter().map(|c| c.order_size()).sum();
        let index_size = state.index_size();
        HotStatistics {
            live_rows: state.live,
            versions,
            bytes: (bytes + index_size) as u64,
            index_bytes: (orders + index_size) as u64,
        }
    }

    /// The row of an encoded key that is visible at a snapshot.
    pub fn lookup(&self, key: &[u8], snapshot: Seq) -> Result<Option<(Arc<Chunk>, usize)>> {
        self.ensure_index()?;
        let state = self.state.read();
        let Some(position) = state.find(&self.key, key) else { return Ok(None) };
        let (chunk, row) = state.locate(position).ok_or_else(|| lost(position))?;
        if chunk.seqs.value(row) <= snapshot {
            return Ok(chunk.visible(row, snapshot).then_some((chunk, row)));
        }
        // The newest version belongs to a commit that is not visible yet: an older one may be.
        let mut candidate = Vec::new();
        for chunk in state.chunks.iter().rev() {
            for row in 0..chunk.len() {
                if chunk.visible(row, snapshot) {
                    candidate.clear();
                    self.key.codec().encode(&chunk.keys, row, &mut candidate)?;
                    if candidate == key {
                        return Ok(Some((Arc::clone(chunk), row)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Makes the secondary indexes those of a stored definition, unless they are those of a later one. Before rows are
    /// added this is called with the definition as it is: its UNIQUE constraints are then kept.
    pub fn use_indexes_of(&self, definition: &TableDefinition) -> Result<()> {
        if self.state.read().indexes.knows(definition) {
            return Ok(());
        }
        let mut state = self.state.write();
        if state.indexes.knows(definition) { Ok(()) } else { state.indexes.set(definition) }
    }

    /// Builds an index, if it is there and is not built, as long as a request wants it.
    pub(super) async fn build_index(&self, index_id: u32, request: &Request) -> Result<()> {
        let mut turns = Turns::begin();
        // Rows go when a flush has moved them, or a change is taken back: hardly ever, and whoever asks then builds it.
        for _ in 0..3 {
            let begun = {
                let state = self.state.read();
                state.indexes.begin(index_id).map(|building| (building, Arc::clone(&state.chunks), state.next))
            };
            let Some((mut building, chunks, next)) = begun else { return Ok(()) };
            for chunk in chunks.iter() {
                building.add_for(chunk, request, &mut turns).await?;
            }
            let mut state = self.state.write();
            let chunks = Arc::clone(&state.chunks);
            if state.indexes.finish(building, &chunks, next)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Before rows are added: makes the secondary indexes those of the stored definition, as
    /// [`HotTable::use_indexes_of`] does, and builds those of UNIQUE constraints.
    pub async fn prepare_indexes(&self, definition: &TableDefinition, request: &Request) -> Result<()> {
        self.use_indexes_of(definition)?;
        let mut asked = HashSet::new();
        loop {
            let unbuilt = self.state.read().indexes.unbuilt_unique();
            let Some(index_id) = unbuilt.filter(|id| asked.insert(*id)) else { return Ok(()) };
            self.build_index(index_id, request).await?;
        }
    }

    /// The rows in a part of an index that are visible at a snapshot and have a `_seq` from `oldest` on, in the order
    /// that is asked for: at most `limit` of them. With them the segments of that moment.
    pub(super) fn index_rows(
        &self,
        access: &IndexAccess,
        snapshot: Seq,
        oldest: Seq,
        limit: usize,
    ) -> Result<(Vec<IndexedRow>, Segments)> {
        self.ensure_secondary(access.index.index_id)?;
        let state = self.state.read();
        let rows = state.indexes.rows(&state.chunks, access, snapshot, oldest, limit)?;
        Ok((rows, Arc::clone(state.cold.segments())))
    }

    /// The rows in a range of an index that are visible at a snapshot, ascending, with the segments of that moment, if what
    /// is built of the index tells; `None` also if the range holds more than `most`.
    pub(super) fn index_in_memory(
        &self,
        definition: &TableDefinition,
        index_id: u32,
        range: &IndexRange,
        snapshot: Seq,
        most: usize,
    ) -> Option<(Located, Segments)> {
        let state = self.state.read();
        let positions = match state.chunks.is_empty() {
            true => Vec::new(),
            false => state.indexes.positions(definition, index_id, range, snapshot, most)?,
        };
        let rows = positions.into_iter().filter_map(|position| state.locate(position));
        let rows = rows.filter(|(chunk, row)| chunk.visible(*row, snapshot)).collect();
        Some((rows, Arc::clone(state.cold.segments())))
    }

    /// What a walk along an index begins with: the chunks, the segments of that moment, and the losses of the indexes.
    pub(super) fn indexed(&self, index_id: u32) -> Result<(Chunks, Segments, u64)> {
        self.ensure_secondary(index_id)?;
        let state = self.state.read();
        Ok((Arc::clone(&state.chunks), Arc::clone(state.cold.segments()), state.indexes.losses()))
    }

    /// Looks at the secondary indexes as they are.
    pub(super) fn with_indexes<T>(&self, look: impl FnOnce(&HotIndexes) -> T) -> T {
        look(&self.state.read().indexes)
    }

    fn ensure_secondary(&self, index_id: u32) -> Result<()> {
        if !self.state.read().indexes.is_built(index_id) {
            let mut state = self.state.write();
            let chunks = Arc::clone(&state.chunks);
            state.indexes.build(index_id, &chunks)?;
        }
        Ok(())
    }

    /// The chunk and row of a position.
    pub fn locate(&self, position: u64) -> Option<(Arc<Chunk>, usize)> {
        self.state.read().locate(position)
    }

    /// The encoded key of the row at a position.
    pub fn key_at(&self, position: u64) -> Result<Vec<u8>> {
        let (chunk, row) = self.locate(position).ok_or_else(|| lost(position))?;
        let mut key = Vec::new();
        self.key.codec().encode(&chunk.keys, row, &mut key)?;
        Ok(key)
    }

    /// Positions of the live rows of encoded keys; keys without one are left out.
    pub fn live_positions<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u64>> {
        self.ensure_index()?;
        let state = self.state.read();
        Ok(keys.filter_map(|key| state.find(&self.key, key)).filter(|&p| state.is_live(p)).collect())
    }

    /// Fails with a conflict unless every position holds a live row.
    pub fn check_live(&self, positions: &[u64]) -> Result<()> {
        let state = self.state.read();
        match positions.iter().all(|&p| if cold_row(p).is_some() { state.cold.is_live(p) } else { state.is_live(p) }) {
            true => Ok(()),
            false => Err(changed_meanwhile()),
        }
    }

    fn ensure_index(&self) -> Result<()> {
        if self.state.read().index.is_some() {
            return Ok(());
        }
        let mut state = self.state.write();
        let index = state.index_of_all(&self.key)?;
        state.index = Some(index);
        Ok(())
    }
}

fn changed_meanwhile() -> KalamError {
    let message = "a row that this statement changes was changed by another writer meanwhile";
    KalamError::new(ErrorCode::Conflict, message).with_hint("Run the statement or transaction again.")
}

fn lost(position: u64) -> KalamError {
    KalamError::internal(format_args!("no row at position {position}"))
}

impl State {
    /// Bytes of the indexes.
    fn index_size(&self) -> usize {
        self.index.as_ref().map_or(0, KeyIndex::memory_size) + self.indexes.memory_size()
    }

    fn locate(&self, position: u64) -> Option<(Arc<Chunk>, usize)> {
        locate(&self.chunks, position).map(|(chunk, row)| (Arc::clone(chunk), row))
    }

    fn is_live(&self, position: u64) -> bool {
        locate(&self.chunks, position).is_some_and(|(chunk, row)| chunk.superseded(row) == LIVE)
    }

    /// The index of the chunks as they are: later versions replace earlier ones.
    pub fn index_of_all(&self, spec: &KeySpec) -> Result<KeyIndex> {
        let mut index = KeyIndex::with_capacity(self.chunks.iter().map(|c| c.len()).sum());
        let mut key = Vec::new();
        for chunk in self.chunks.iter() {
            for row in 0..chunk.len() {
                // Rows that ended before an ALTER changed their key's type have no key any more.
                if chunk.keys.iter().any(|column| column.is_null(row)) {
                    continue;
                }
                key.clear();
                spec.codec().encode(&chunk.keys, row, &mut key)?;
                self.set(&mut index, spec, &key, chunk.base + row as u64, &[]);
            }
        }
        Ok(index)
    }

    /// Forgets the keys of the rows below a position, as far as the index leads to them.
    pub fn forget_keys(&mut self, spec: &KeySpec, below: u64) {
        let Some(mut index) = self.index.take() else { return };
        let mut key = Vec::new();
        for chunk in self.chunks.iter().take_while(|c| c.base < below) {
            for row in 0..chunk.len().min(usize::try_from(below - chunk.base).unwrap_or(usize::MAX)) {
                key.clear();
                let position = chunk.base + row as u64;
                // A row whose key does not encode cannot be in the index.
                if spec.codec().encode(&chunk.keys, row, &mut key).is_ok() {
                    index.take_back(&key, position, None);
                }
            }
        }
        self.index = Some(index);
    }

    fn find(&self, spec: &KeySpec, key: &[u8]) -> Option<u64> {
        let mut buffer = Vec::with_capacity(key.len());
        self.index.as_ref()?.find(key, |p| key_equals(spec, locate(&self.chunks, p), key, &mut buffer))
    }

    /// Points the index from `key` to `position`; returns where it pointed before. `pending` are chunks that are
    /// not in the table yet.
    fn set(
        &self,
        index: &mut KeyIndex,
        spec: &KeySpec,
        key: &[u8],
        position: u64,
        pending: &[Arc<Chunk>],
    ) -> Option<u64> {
        let find = |p: u64| locate(&self.chunks, p).or_else(|| locate(pending, p));
        // Needs no memory until a row of the same hash is met.
        let mut buffer = Vec::new();
        index.set(key, position, |p| key_equals(spec, find(p), key, &mut buffer))
    }
}

pub(super) fn locate(chunks: &[Arc<Chunk>], position: u64) -> Option<(&Arc<Chunk>, usize)> {
    let after = chunks.partition_point(|c| c.base <= position);
    let chunk = chunks.get(after.checked_sub(1)?)?;
    let row = usize::try_from(position - chunk.base).ok()?;
    (row < chunk.len()).then_some((chunk, row))
}

fn key_equals(spec: &KeySpec, at: Option<(&Arc<Chunk>, usize)>, key: &[u8], buffer: &mut Vec<u8>) -> bool {
    let Some((chunk, row)) = at else { return false };
    buffer.clear();
    spec.codec().encode(&chunk.keys, row, buffer).is_ok() && buffer.as_slice() == key
}
