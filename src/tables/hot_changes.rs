//! How a change enters the hot tier, and how it is taken back.
//!
//! Invariant: [`HotTable::apply`] does everything or nothing, and says in an [`Applied`] what it did. Taken back in
//! reverse order, changes leave what was there before: the rows that they ended live again, the indexes lead where they
//! led, and positions are given anew. So a commit over several scopes can be refused by the last of them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};

use super::{HotTable, State, changed_meanwhile, locate, lost};
use crate::error::{KalamError, Result};
use crate::tables::chunk::{Chunk, LIVE};
use crate::tables::cold::{ColdMark, Ended};
use crate::tables::key_index::KeyIndex;
use crate::tables::key_spec::KeySpec;
use crate::tables::segment::Segment;
use crate::tables::seq::Seq;

/// Chunks are merged with their neighbours as long as the result has at most so many rows, …
const MERGED_ROWS: usize = 4096;
/// … and so many bytes: rows that are large by themselves gain nothing from it.
const MERGED_BYTES: usize = 4 << 20;
/// So many chunks of one size become one of the next.
const MERGED_CHUNKS: usize = 4;

/// Rows to be added in one step.
#[derive(Debug)]
pub struct NewRows {
    /// The schema version that they were written under.
    pub schema_version: u32,
    /// Ids of `columns`.
    pub column_ids: Arc<[u32]>,
    /// The rows.
    pub columns: Vec<ArrayRef>,
    /// `_seq` of each.
    pub seqs: Int64Array,
    /// Hidden row ids of updated rows; `None`: they are new, and their `_seq` becomes their row id.
    pub row_ids: Option<Int64Array>,
}

/// What [`HotTable::apply`] does when a key is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLiveKey {
    /// Refuses the whole change.
    Fail,
    /// The new row replaces it: how the log is replayed.
    Replace,
}

impl HotTable {
    fn check_ended(&self, ended: &Ended) -> Result<()> {
        let state = self.state.read();
        let hot = ended.replaced.iter().chain(&ended.deleted).all(|&p| state.is_live(p));
        let live = |mark: &ColdMark| state.cold.holds_live(mark.segment, mark.replaced.iter().chain(&mark.deleted));
        if hot && ended.cold.iter().all(live) { Ok(()) } else { Err(changed_meanwhile()) }
    }

    /// Marks cold rows as the log says that they ended. Rows that the manifest knows to have ended stay as they are,
    /// and so do those of segments that are not there any more: whoever rewrote them took the marks along.
    pub fn replay_marks(&self, ended: &Ended) {
        let mut state = self.state.write();
        let marked = ended.mark(&state.cold);
        state.note_marks(&marked, ended);
    }

    /// Ends the rows of `ended` (live ones, each once) and adds `rows`, or does neither. The result takes the change
    /// back with [`HotTable::revert`] as long as nothing was applied after it.
    pub fn apply(&self, rows: &[NewRows], ended: &Ended, on_live_key: OnLiveKey) -> Result<Applied> {
        self.check_ended(ended)?;
        if on_live_key == OnLiveKey::Replace && rows.iter().any(|r| r.row_ids.is_some()) {
            self.ensure_index()?;
        }
        let mut state = self.state.write();
        let mut applied = Applied { first: state.next, ..Applied::default() };
        let mut chunks = Vec::with_capacity(rows.len());
        let change = Change { on_live_key, rows: rows.iter().map(|r| r.seqs.len()).sum() };
        match state.apply(&self.key, rows, ended, &change, &mut chunks, &mut applied) {
            Ok(()) => {
                applied.cold = ended.mark(&state.cold);
                applied.cold_ends = [ended.replaced_at, ended.deleted_at];
                state.note_marks(&applied.cold, ended);
                applied.rows = change.rows as u64;
                state.live = state.live + applied.rows - applied.superseded.len() as u64;
                chunks.into_iter().for_each(|chunk| state.push(chunk));
                Ok(applied)
            }
            Err(error) => {
                state.restore(&self.key, &applied, &chunks)?;
                Err(error)
            }
        }
    }

    /// Takes back what the last [`HotTable::apply`] did.
    pub fn revert(&self, applied: Applied) -> Result<()> {
        let mut state = self.state.write();
        let chunks = Arc::clone(&state.chunks);
        state.restore(&self.key, &applied, &chunks)?;
        state.live = state.live + applied.superseded.len() as u64 - applied.rows;
        state.truncate(applied.first);
        for segment in &applied.cold {
            segment.change_marks(|marks| applied.cold_ends.iter().for_each(|seq| marks.revert(*seq)));
        }
        Ok(())
    }
}

/// What a change did, so that it can be taken back.
#[derive(Debug, Default)]
pub struct Applied {
    /// Positions that it superseded.
    superseded: Vec<u64>,
    /// Position of its first row.
    first: u64,
    /// How many of its rows, from the first on, the index knows.
    indexed: u64,
    /// Rows added.
    rows: u64,
    /// New positions whose key the index knew before, and the position it had.
    before: HashMap<u64, u64>,
    /// Segments of which rows ended, and when they did.
    cold: Vec<Arc<Segment>>,
    cold_ends: [Seq; 2],
}

/// What there is to know of a change beside its rows.
struct Change {
    rows: usize,
    on_live_key: OnLiveKey,
}

impl State {
    /// Remembers that a record of the log marks rows of these segments.
    fn note_marks(&mut self, marked: &[Arc<Segment>], ended: &Ended) {
        if !marked.is_empty() {
            self.dirty.extend(marked.iter().map(|s| s.meta().number));
            self.logged_marks.get_or_insert((0, ended.replaced_at)).0 += 1;
        }
    }

    fn apply(
        &mut self,
        spec: &KeySpec,
        rows: &[NewRows],
        ended: &Ended,
        change: &Change,
        chunks: &mut Vec<Arc<Chunk>>,
        applied: &mut Applied,
    ) -> Result<()> {
        let replaced = ended.replaced.iter().map(|p| (*p, ended.replaced_at, false));
        for (position, end, deleted) in replaced.chain(ended.deleted.iter().map(|p| (*p, ended.deleted_at, true))) {
            let (chunk, row) = locate(&self.chunks, position).ok_or_else(|| lost(position))?;
            chunk.supersede(row, end, deleted);
            applied.superseded.push(position);
        }
        let mut index = self.index.take();
        if let Some(index) = &mut index {
            // At once: growing step by step would move every entry each time.
            index.reserve(change.rows);
        }
        let mut indexes = std::mem::take(&mut self.indexes);
        let mut base = self.next;
        let mut outcome = match change.on_live_key {
            OnLiveKey::Fail if change.rows > 0 => indexes.build_unique(&self.chunks),
            _ => Ok(()),
        };
        for part in rows.iter().filter(|r| !r.seqs.is_empty()) {
            if outcome.is_err() {
                break;
            }
            outcome = build_chunk(spec, part, base).and_then(|chunk| {
                base = chunk.end();
                chunks.push(Arc::new(chunk));
                index.as_mut().map_or(Ok(()), |index| self.index_chunk(index, spec, chunks, change, applied))?;
                let Some(chunk) = chunks.last().filter(|_| !indexes.is_empty()) else { return Ok(()) };
                let find = |p: u64| locate(&self.chunks, p).or_else(|| locate(chunks, p));
                indexes.enter(chunk, |p| find(p).is_some_and(|(chunk, row)| chunk.superseded(row) == LIVE))
            });
        }
        (self.index, self.indexes) = (index, indexes);
        outcome
    }

    /// Enters the last of `chunks` into the index and deals with the live rows of its keys.
    fn index_chunk(
        &self,
        index: &mut KeyIndex,
        spec: &KeySpec,
        chunks: &[Arc<Chunk>],
        change: &Change,
        applied: &mut Applied,
    ) -> Result<()> {
        let Some(chunk) = chunks.last() else { return Ok(()) };
        let keys = spec.codec().rows(&chunk.keys)?;
        let mut key = Vec::new();
        for row in 0..chunk.len() {
            key.clear();
            keys.encode(row, &mut key)?;
            let position = chunk.base + row as u64;
            let before = self.set(index, spec, &key, position, chunks);
            applied.indexed += 1;
            let Some(before) = before else { continue };
            applied.before.insert(position, before);
            let found = locate(&self.chunks, before).or_else(|| locate(chunks, before));
            let (old, old_row) = found.ok_or_else(|| lost(before))?;
            if old.superseded(old_row) != LIVE {
                continue;
            }
            if change.on_live_key == OnLiveKey::Fail {
                return Err(spec.violation(&key));
            }
            // No snapshot lies within a commit: that the new row is there says when the old one ended.
            old.supersede(old_row, chunk.seqs.value(row), false);
            applied.superseded.push(before);
        }
        Ok(())
    }

    /// Takes the index and the superseded rows back to what they were; the new rows lie in `chunks`.
    fn restore(&mut self, spec: &KeySpec, applied: &Applied, chunks: &[Arc<Chunk>]) -> Result<()> {
        self.indexes.remove(chunks, applied.first)?;
        if let Some(mut index) = self.index.take() {
            let mut key = Vec::new();
            for position in (applied.first..applied.first + applied.indexed).rev() {
                let (chunk, row) = locate(chunks, position).ok_or_else(|| lost(position))?;
                key.clear();
                spec.codec().encode(&chunk.keys, row, &mut key)?;
                index.take_back(&key, position, applied.before.get(&position).copied());
            }
            self.index = Some(index);
        }
        for &position in &applied.superseded {
            if let Some((chunk, row)) = locate(&self.chunks, position) {
                chunk.revive(row);
            }
        }
        Ok(())
    }

    /// Drops every row from a position on.
    fn truncate(&mut self, position: u64) {
        let chunks = Arc::make_mut(&mut self.chunks);
        while let Some(last) = chunks.last()
            && last.end() > position
        {
            self.bytes -= last.bytes;
            let kept = (position > last.base).then(|| last.head((position - last.base) as usize));
            chunks.pop();
            if let Some(kept) = kept {
                self.bytes += kept.bytes;
                chunks.push(Arc::new(kept));
            }
        }
        self.next = position;
    }

    /// Adds a chunk at the end and merges small neighbours.
    fn push(&mut self, chunk: Arc<Chunk>) {
        self.next = chunk.end();
        self.bytes += chunk.bytes;
        let chunks = Arc::make_mut(&mut self.chunks);
        chunks.push(chunk);
        while let Some(from) = merged_from(chunks) {
            // What cannot be merged stays as it is.
            let Ok(merged) = Chunk::merged(&chunks[from..]) else { return };
            self.bytes = self.bytes + merged.bytes - chunks[from..].iter().map(|c| c.bytes).sum::<usize>();
            chunks.truncate(from);
            chunks.push(Arc::new(merged));
        }
    }
}

/// How large a chunk is, in steps of [`MERGED_CHUNKS`].
fn size_of_chunk(chunk: &Chunk) -> u32 {
    chunk.len().max(1).ilog(MERGED_CHUNKS)
}

/// The place from which on the last chunks become one: smaller ones before the last, or else [`MERGED_CHUNKS`] of its
/// size. So sizes never grow from the first chunk to the last, few chunks have the same, and a row is copied about once
/// for each size.
fn merged_from(chunks: &[Arc<Chunk>]) -> Option<usize> {
    let (last, before) = chunks.split_last()?;
    let (mut rows, mut bytes) = (last.len(), last.bytes);
    let mut fits = |chunk: &&Arc<Chunk>| {
        rows += chunk.len();
        bytes += chunk.bytes;
        rows <= MERGED_ROWS && bytes <= MERGED_BYTES && chunk.goes_with(last)
    };
    let size = size_of_chunk(last);
    let tail = || before.iter().rev();
    let smaller = tail().take_while(|chunk| size_of_chunk(chunk) < size).take_while(&mut fits).count();
    if smaller > 0 {
        return Some(before.len() - smaller);
    }
    let same = tail().take(MERGED_CHUNKS - 1).take_while(|chunk| size_of_chunk(chunk) == size);
    (same.take_while(&mut fits).count() == MERGED_CHUNKS - 1).then(|| before.len() + 1 - MERGED_CHUNKS)
}

fn build_chunk(spec: &KeySpec, rows: &NewRows, base: u64) -> Result<Chunk> {
    let seqs = rows.seqs.clone();
    let row_ids = spec.is_row_id().then(|| rows.row_ids.clone().unwrap_or_else(|| seqs.clone()));
    let keys = match &row_ids {
        Some(ids) => vec![Arc::new(ids.clone()) as ArrayRef],
        None => spec
            .columns()
            .iter()
            .map(|id| {
                let at = rows.column_ids.iter().position(|c| c == id);
                at.map(|i| Arc::clone(&rows.columns[i]))
                    .ok_or_else(|| KalamError::internal(format_args!("rows without their key column {id}")))
            })
            .collect::<Result<_>>()?,
    };
    Ok(Chunk::new(base, rows.schema_version, Arc::clone(&rows.column_ids), rows.columns.clone(), keys, row_ids, seqs))
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use super::*;
    use crate::schema::{NewColumn, TableDefinition, TableId, TableOptions, TableType};
    use crate::types::KalamDataType;
    use arrow::array::{AsArray, StringArray};
    use arrow::datatypes::Int64Type;
    use proptest::prelude::*;

    /// `t (id BIGINT PRIMARY KEY, v TEXT)`.
    fn definition() -> Result<TableDefinition> {
        let columns = vec![NewColumn::new("id", KalamDataType::BigInt), NewColumn::new("v", KalamDataType::Text)];
        let id = TableId::new("shop", "t");
        TableDefinition::new(id, 1, TableType::Shared, columns, &["id".to_owned()], TableOptions::default(), 1, "me")
    }

    fn rows(table: &TableDefinition, first: i64, len: i64, text: &str) -> NewRows {
        let ids = Int64Array::from_iter_values(first..first + len);
        let texts = StringArray::from_iter_values((0..len).map(|_| text));
        NewRows {
            schema_version: table.schema_version,
            column_ids: table.columns_in_order().map(|c| c.column_id).collect(),
            columns: vec![Arc::new(ids) as ArrayRef, Arc::new(texts)],
            seqs: Int64Array::from_iter_values(first + 1..=first + len),
            row_ids: None,
        }
    }

    fn ids(hot: &HotTable) -> Vec<i64> {
        hot.chunks().iter().flat_map(|c| c.columns[0].as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        /// However rows come, they lie in few chunks, in their order; and what is taken back leaves what was there.
        #[test]
        fn rows_lie_in_few_chunks(changes in prop::collection::vec((prop_oneof![3 => Just(1i64), 1 => 1i64..1500], any::<bool>()), 1..300)) {
            let table = definition()?;
            let hot = HotTable::new(KeySpec::new(&table)?);
            let mut next = 0;
            for (len, is_taken_back) in changes {
                let applied = hot.apply(&[rows(&table, next, len, "v")], &Ended::default(), OnLiveKey::Fail)?;
                if is_taken_back && len % 3 == 0 {
                    hot.revert(applied)?;
                } else {
                    next += len;
                }
                let chunks = hot.chunks();
                prop_assert!(chunks.len() as i64 <= 20 + next / 256, "{} chunks of {next} rows", chunks.len());
                prop_assert!(chunks.windows(2).all(|pair| pair[0].end() == pair[1].base));
                let bytes: usize = chunks.iter().map(|c| c.bytes).sum();
                prop_assert_eq!(hot.state.read().bytes, bytes);
            }
            prop_assert_eq!(ids(&hot), (0..next).collect::<Vec<_>>());
            for id in [0, next / 2, next - 1].into_iter().filter(|id| *id >= 0) {
                let mut key = Vec::new();
                hot.key.codec().encode_values(&[crate::types::Value::BigInt(id)], &mut key)?;
                prop_assert_eq!(hot.lookup(&key, i64::MAX - 1)?.is_some(), id < next);
            }
        }
    }

    #[test]
    fn rows_that_are_large_by_themselves_are_not_copied() -> Result<()> {
        let table = definition()?;
        let hot = HotTable::new(KeySpec::new(&table)?);
        let text = "x".repeat(MERGED_BYTES / 2);
        for id in 0..9 {
            hot.apply(&[rows(&table, id, 1, &text)], &Ended::default(), OnLiveKey::Fail)?;
        }
        assert_eq!(hot.chunks().len(), 9);
        Ok(())
    }
}
