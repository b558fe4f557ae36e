//! The store's side of the cold tier: flush, compaction, the keys of segments, and what is due.
//!
//! A rewrite (flush or compaction) reads and builds beside the writers, then takes effect at once: under the commits
//! lock `switch.rs` puts the new segment in place in memory, and the open commit group takes what storage has to write.
//! Invariant: memory and storage make the same step in the same order. The group is a member of the chain of groups, so
//! every commit that the rewrite has seen is stored before it or with it, and if one of them fails, so does the rewrite,
//! and the scope is read again from storage. A file that is replaced stays until nobody reads it (`manifest.rs`).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, ArrayRef};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::block;
use super::cold::ColdTier;
use super::hot::{HotTable, View};
use super::index::{self, IndexCodec};
use super::log::ScopeKey;
use super::manifest;
use super::rewrite::{self, Built, Keep, retained_since};
use super::segment::{DeleteVector, IndexBounds, Segment, cold_position};
use super::seq::SeqSpan;
use super::store::{ColdCheck, Commits, GroupFuture, Member, ScopeWrite, TableStore};
use super::switch::{LogCut, Switch, Switched};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use crate::schema::{TableDefinition, TableType};
use crate::storage::{Durability, KeyRange, Partition, WriteBatch};

/// Hot rows above this part of their limit are flushed while nothing else runs, so that a writer seldom has to do it.
const BACKGROUND_SHARE: usize = 2;

/// Rows are counted again when so much of the limit has come.
const RECOUNT_SHARE: usize = 16;

/// What a rewrite did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewritten {
    /// Live rows that went into new segments.
    pub rows: u64,
    /// New segments.
    pub segments: u64,
}

/// What should be done with a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DueWork {
    /// Its hot rows should become segments.
    Flush,
    /// Its segments should be rewritten.
    Compact,
}

/// A scope in memory with work to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The scope.
    pub scope: ScopeKey,
    /// The work.
    pub work: DueWork,
}

impl ScopeWrite {
    /// Fails if its new keys were asked of segments that are not those there are.
    pub(super) fn check_current(&self) -> Result<()> {
        if self.rows.is_empty() || self.checked == ColdCheck::NoNewKeys {
            return Ok(());
        }
        match self.checked {
            ColdCheck::At(version) if version == self.hot.cold_version() => Ok(()),
            ColdCheck::Unchecked if !self.hot.key().is_row_id() && !self.hot.segments().is_empty() => {
                Err(KalamError::internal("rows whose keys were not asked of the segments"))
            }
            ColdCheck::Unchecked | ColdCheck::NoNewKeys => Ok(()),
            ColdCheck::At(_) => Err(moved()),
        }
    }
}

fn moved() -> KalamError {
    KalamError::new(ErrorCode::Conflict, "rows of the table were moved by a flush or compaction meanwhile")
        .with_hint("Run the statement or transaction again.")
}

/// A value that is new in a unique index, and its row among the new ones.
#[derive(Clone, Copy)]
struct NewValue<'a> {
    bytes: &'a [u8],
    row: usize,
}

impl AsRef<[u8]> for NewValue<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

/// The values without NULL that new rows bring for a unique index, encoded.
struct NewValues {
    bytes: Vec<u8>,
    /// Where each of them ends, and its row.
    ends: Vec<(usize, usize)>,
    /// The least and the greatest of each column.
    bounds: Vec<(Vec<u8>, Vec<u8>)>,
}

impl NewValues {
    fn of(codec: &IndexCodec, columns: &[ArrayRef], rows: usize) -> Result<Self> {
        let mut new = Self { bytes: Vec::new(), ends: Vec::with_capacity(rows), bounds: Vec::new() };
        for row in (0..rows).filter(|row| columns.iter().all(|column| column.is_valid(*row))) {
            for (place, column) in columns.iter().enumerate() {
                let start = new.bytes.len();
                codec.encode_column(place, column, row, &mut new.bytes)?;
                let value = &new.bytes[start..];
                match new.bounds.get_mut(place) {
                    None => new.bounds.push((value.to_vec(), value.to_vec())),
                    Some((least, _)) if value < least.as_slice() => *least = value.to_vec(),
                    Some((_, greatest)) if value > greatest.as_slice() => *greatest = value.to_vec(),
                    Some(_) => {}
                }
            }
            new.ends.push((new.bytes.len(), row));
        }
        Ok(new)
    }

    /// Those that may be in a segment whose columns have some bounds.
    fn within(&self, bounds: &[IndexBounds]) -> Vec<NewValue<'_>> {
        let apart = |(of, (least, greatest)): (&IndexBounds, &(Vec<u8>, Vec<u8>))| !of.may_hold(least, greatest);
        if bounds.iter().zip(&self.bounds).any(apart) {
            return Vec::new();
        }
        let mut start = 0;
        let values = self.ends.iter().map(|&(end, row)| {
            let bytes = &self.bytes[start..end];
            start = end;
            NewValue { bytes, row }
        });
        // The columns after the first can only make a value greater than the bound that its first column has.
        values.filter(|value| bounds.first().is_none_or(|first| first.may_hold(value.bytes, value.bytes))).collect()
    }
}

impl TableStore {
    /// Asks the segments whether they hold live rows with the new keys of a write; UNIQUE_VIOLATION if they do. Rows that
    /// the write itself ends do not count. What it gives goes into [`ScopeWrite::checked`].
    pub fn check_keys<'a>(
        &'a self,
        write: &'a ScopeWrite,
        definition: &'a TableDefinition,
    ) -> BoxFuture<'a, Result<ColdCheck>> {
        self.ask_segments(write, definition).boxed()
    }

    async fn ask_segments(&self, write: &ScopeWrite, definition: &TableDefinition) -> Result<ColdCheck> {
        let key = write.hot.key();
        let rows: usize = write.rows.iter().map(|r| r.len()).sum();
        let no_new_keys = key.is_row_id() || (write.deleted.is_empty() && write.replaced.len() == rows);
        let is_unique = definition.indexes.iter().any(|index| index.unique);
        if no_new_keys && !is_unique {
            return Ok(ColdCheck::NoNewKeys);
        }
        let view = write.hot.view();
        let checked = ColdCheck::At(view.cold_version);
        if view.segments.is_empty() || rows == 0 {
            return Ok(checked);
        }
        if is_unique {
            self.ask_unique(write, definition, &view).await?;
        }
        if no_new_keys {
            return Ok(checked);
        }
        let mut keys: Vec<Vec<u8>> = Vec::with_capacity(rows);
        for part in &write.rows {
            let columns = part.key_columns(key)?;
            let rows = key.codec().rows(&columns)?;
            for row in 0..part.len() {
                let mut encoded = Vec::new();
                rows.encode(row, &mut encoded)?;
                keys.push(encoded);
            }
        }
        keys.sort_unstable();
        let (Some(least), Some(greatest)) = (keys.first(), keys.last()) else { return Ok(checked) };
        let mut own: Option<HashSet<u64>> = None;
        let mut pace = rewrite::Pace::new();
        for segment in view.segments.iter() {
            let meta = segment.meta();
            let outside = greatest.as_slice() < meta.first_key() || least.as_slice() > meta.last_key.as_slice();
            if (meta.key_version == key.version() && outside) || segment.live_rows() == 0 {
                continue;
            }
            let mine = if meta.key_version == key.version() {
                let from = keys.partition_point(|k| k.as_slice() < meta.first_key());
                let to = keys.partition_point(|k| k.as_slice() <= meta.last_key.as_slice());
                &keys[from..to.max(from)]
            } else {
                keys.as_slice()
            };
            for (place, row) in segment.find_keys(definition, key, mine).await? {
                if segment.marks().has_ended(row) {
                    continue;
                }
                let own = own.get_or_insert_with(|| write.replaced.iter().chain(&write.deleted).copied().collect());
                if !own.contains(&cold_position(meta.number, row)) {
                    return Err(KalamError::new(
                        ErrorCode::UniqueViolation,
                        format!("duplicate key: a row with {} exists already", key.describe(&mine[place])),
                    ));
                }
            }
            pace.rest().await;
        }
        Ok(checked)
    }

    /// Asks the segments whether they hold live rows with the values of new ones in a unique index.
    async fn ask_unique(&self, write: &ScopeWrite, definition: &TableDefinition, view: &View) -> Result<()> {
        let mut own: Option<HashSet<u64>> = None;
        let mut pace = rewrite::Pace::new();
        for index in definition.indexes.iter().filter(|index| index.unique) {
            let codec = IndexCodec::new(definition, index)?;
            for part in &write.rows {
                let columns = part.columns_of(index.columns.iter().map(|c| c.column_id))?;
                let new = NewValues::of(&codec, &columns, part.len())?;
                for segment in view.segments.iter().filter(|s| s.live_rows() > 0) {
                    let values = new.within(&segment.index_bounds(definition, index)?);
                    if values.is_empty() {
                        continue;
                    }
                    for (place, row) in segment.live_with(definition, index, &values).await? {
                        let own =
                            own.get_or_insert_with(|| write.replaced.iter().chain(&write.deleted).copied().collect());
                        if !own.contains(&cold_position(segment.meta().number, row)) {
                            return Err(index::violation(definition, index, &columns, values[place].row));
                        }
                    }
                    pace.rest().await;
                }
            }
        }
        Ok(())
    }

    /// Asks the segments about every write that was not asked about, or before rows moved ([`TableStore::check_keys`]).
    /// Each comes with the definition that it was made for. A conflict counts more than a key that is taken, as it does
    /// when keys are in memory: whoever repeats the write may find the key free.
    pub async fn check_writes(
        &self,
        writes: &mut [ScopeWrite],
        definitions: impl Fn(usize) -> Arc<TableDefinition>,
    ) -> Result<()> {
        for i in 0..writes.len() {
            if writes[i].checked != ColdCheck::Unchecked && self.still_checked(&writes[i]) {
                continue;
            }
            match self.check_keys(&writes[i], &definitions(i)).await {
                Ok(checked) => writes[i].checked = checked,
                Err(error) => {
                    if error.code() == ErrorCode::UniqueViolation {
                        self.check_positions(writes, i)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Fails with a conflict if a scope takes no commits or was read again, or a row that the writes up to one end has
    /// ended.
    fn check_positions(&self, writes: &[ScopeWrite], last: usize) -> Result<()> {
        let commits = self.commits.lock();
        writes.iter().try_for_each(|write| self.check_current(&commits, &write.scope, &write.hot))?;
        let live = |write: &ScopeWrite| {
            write.hot.check_live(&write.replaced)?;
            write.hot.check_live(&write.deleted)
        };
        writes[..=last].iter().try_for_each(live)
    }

    /// Whether a write may be submitted as far as [`TableStore::check_keys`] goes: nothing was moved since.
    pub fn still_checked(&self, write: &ScopeWrite) -> bool {
        write.check_current().is_ok()
    }

    /// Turns the hot rows that there are now into segments, in several steps if they are many. Each step is a storage
    /// transaction of its own. Fails with a conflict if the scope is held, or its table being changed.
    pub fn flush<'a>(
        self: &'a Arc<Self>,
        scope: &'a ScopeKey,
        definition: &'a Arc<TableDefinition>,
    ) -> BoxFuture<'a, Result<Rewritten>> {
        self.flush_all(scope, definition).boxed()
    }

    async fn flush_all(self: &Arc<Self>, scope: &ScopeKey, definition: &Arc<TableDefinition>) -> Result<Rewritten> {
        let mut done = Rewritten::default();
        if definition.table_type == TableType::Stream {
            return Ok(done);
        }
        let _one_at_a_time = self.rewriting.lock().await;
        let hot = self.hot(scope, definition).await?;
        let below = hot.view().next;
        loop {
            self.check_free(scope)?;
            let view = hot.view();
            let some = view.chunks.first().is_some_and(|c| c.base < below);
            let only_marks = view.chunks.is_empty() && hot.has_new_marks();
            if !(some || only_marks) {
                break;
            }
            let keep = self.keep(definition);
            let (sources, taken) = rewrite::chunk_sources(definition, &view.chunks, below, keep).await?;
            let built = rewrite::build(definition, hot.take_segment_number(), sources).await?;
            let live = built.as_ref().map_or(0, |b| b.live);
            // Without rows there are only delete vectors to write.
            let switch = Switch { hot: Some(taken).filter(|_| some), ..Switch::default() };
            done.segments += u64::from(built.is_some());
            self.put_in_place(scope, definition, &hot, switch, built).await?;
            done.rows += live;
        }
        self.sweep(scope, &hot).await?;
        Ok(done)
    }

    /// Merges small segments and rewrites those with many rows that have ended, one new segment at a time. `full` does
    /// so wherever it makes anything smaller.
    pub fn compact<'a>(
        self: &'a Arc<Self>,
        scope: &'a ScopeKey,
        definition: &'a Arc<TableDefinition>,
        full: bool,
    ) -> BoxFuture<'a, Result<Rewritten>> {
        self.compact_all(scope, definition, full).boxed()
    }

    async fn compact_all(
        self: &Arc<Self>,
        scope: &ScopeKey,
        definition: &Arc<TableDefinition>,
        full: bool,
    ) -> Result<Rewritten> {
        let mut done = Rewritten::default();
        let _one_at_a_time = self.rewriting.lock().await;
        let hot = self.hot(scope, definition).await?;
        loop {
            self.check_free(scope)?;
            let keep = self.keep(definition);
            let Some(remove) = rewrite::pick(&hot.segments(), definition, keep, full) else { break };
            if remove.iter().any(|segment| segment.memory().is_none()) {
                // How many of them fit into memory is known now.
                for segment in &remove {
                    segment.learn_size().await?;
                }
                continue;
            }
            let sources = rewrite::segment_sources(definition, &remove, keep).await?;
            let built = rewrite::build(definition, hot.take_segment_number(), sources).await?;
            done.segments += u64::from(built.is_some());
            done.rows += built.as_ref().map_or(0, |b| b.live);
            self.put_in_place(scope, definition, &hot, Switch { remove, ..Switch::default() }, built).await?;
            self.sweep(scope, &hot).await?;
        }
        self.sweep(scope, &hot).await?;
        Ok(done)
    }

    fn keep(&self, definition: &TableDefinition) -> Keep {
        Keep { horizon: self.pins.horizon(), retained_since: retained_since(definition) }
    }

    pub(super) fn check_free(&self, scope: &ScopeKey) -> Result<()> {
        if self.pins.is_held(scope) || self.commits.lock().frozen.contains(&scope.table_no) {
            return Err(KalamError::new(
                ErrorCode::Conflict,
                "the table is being changed: its rows stay where they are",
            ));
        }
        Ok(())
    }

    /// Puts what was built in place, in memory and in storage, and ends when that is durable.
    pub(super) async fn put_in_place(
        self: &Arc<Self>,
        scope: &ScopeKey,
        definition: &TableDefinition,
        hot: &Arc<HotTable>,
        mut switch: Switch,
        built: Option<Built>,
    ) -> Result<()> {
        let mut file = None;
        if let Some(built) = built {
            let source = self.segment_source(scope, definition, built.meta.number);
            let segment = Segment::new(source, built.meta, DeleteVector::new(), Some(built.bytes.clone()));
            switch.add = Some((Arc::new(segment), built.places));
            file = Some(built.bytes);
        }
        let future = {
            let mut commits = self.commits.lock();
            self.check_movable(&commits, scope, hot)?;
            let switched = hot.switch(&switch, self.pins.horizon(), retained_since(definition))?.ok_or_else(moved)?;
            for segment in &switch.remove {
                self.retired.lock().insert(segment.blob_id().to_vec(), Arc::downgrade(segment));
            }
            let added = switch.add.as_ref().map(|(segment, _)| segment);
            let mut batch = WriteBatch::new();
            if let (Some(segment), Some(bytes)) = (added, &file) {
                batch.put_blob(segment.blob_id(), bytes);
            }
            match batch_of(scope, &switch, &switched, batch) {
                Ok(batch) => self.join_rewrite(&mut commits, scope, batch, added.into_iter().cloned().collect()),
                Err(error) => {
                    // Memory has made the step and storage will not: it is read again from there.
                    self.slots.lock().remove(scope);
                    return Err(error);
                }
            }
        };
        future.await.map(drop)
    }

    pub(super) fn check_movable(&self, commits: &Commits, scope: &ScopeKey, hot: &Arc<HotTable>) -> Result<()> {
        let current = self.loaded(scope).is_some_and(|now| Arc::ptr_eq(&now, hot));
        if !current
            || self.is_dropped(scope.table_no)
            || commits.frozen.contains(&scope.table_no)
            || self.pins.is_held(scope)
        {
            return Err(moved());
        }
        Ok(())
    }

    pub(super) fn join_rewrite(
        self: &Arc<Self>,
        commits: &mut Commits,
        scope: &ScopeKey,
        batch: WriteBatch,
        segments: Vec<Arc<Segment>>,
    ) -> GroupFuture {
        let durability = Durability::default();
        self.join(commits, Member { batch, last_seq: 0, durability, scopes: vec![scope.clone()], segments })
    }

    /// Deletes the blobs of replaced segments that nobody reads any more.
    pub(super) async fn sweep(self: &Arc<Self>, scope: &ScopeKey, hot: &Arc<HotTable>) -> Result<()> {
        let future = {
            let mut commits = self.commits.lock();
            if self.check_movable(&commits, scope, hot).is_err() {
                return Ok(());
            }
            let mut retired = self.retired.lock();
            let is_read = |number: &u32| {
                retired.get(&manifest::blob_id(scope, *number)).is_some_and(|segment| segment.strong_count() > 0)
            };
            let mut gone = hot.retired();
            gone.retain(|number| !is_read(number));
            if gone.is_empty() {
                return Ok(());
            }
            let mut batch = WriteBatch::new();
            for number in &gone {
                manifest::remove(scope, *number, &mut batch);
                retired.remove(&manifest::blob_id(scope, *number));
            }
            hot.forget_retired(&gone);
            drop(retired);
            self.join_rewrite(&mut commits, scope, batch, Vec::new())
        };
        future.await.map(drop)
    }

    /// Adds to a batch: what a table has goes, and something else comes in the same transaction. Its segments are retired,
    /// so that who reads them goes on, and their numbers are not used again.
    pub(super) async fn retire_table_into(&self, batch: &mut WriteBatch, table_no: u32) -> Result<()> {
        for scope in self.scopes(table_no).await? {
            batch.delete_range(Partition::Log, scope.range());
            let found = manifest::read(self.backend.as_ref(), &scope).await?;
            if found.next_segment == 0 {
                continue;
            }
            for (meta, _) in &found.segments {
                manifest::retire(&scope, meta.number, batch);
            }
            let hot = self.loaded(&scope);
            // A rewrite that came to nothing may have taken more numbers.
            let next = hot.as_ref().map_or(0, |hot| hot.take_segment_number()).max(found.next_segment);
            manifest::put_head(&scope, next, batch);
            for segment in hot.iter().flat_map(|hot| hot.segments().to_vec()) {
                self.retired.lock().insert(segment.blob_id().to_vec(), Arc::downgrade(&segment));
            }
        }
        Ok(())
    }

    /// Writes down that a segment was found damaged. Its readers have heard so already.
    pub async fn quarantine(self: &Arc<Self>, scope: &ScopeKey, number: u32) -> Result<()> {
        let future = {
            let mut commits = self.commits.lock();
            let hot = self.loaded(scope);
            let segments = hot.map(|hot| hot.segments()).unwrap_or_default();
            let Some(segment) = ColdTier::new(segments.to_vec(), 0).get(number).cloned() else { return Ok(()) };
            let mut batch = WriteBatch::new();
            manifest::put_segment(scope, &segment, &mut batch)?;
            self.join_rewrite(&mut commits, scope, batch, Vec::new())
        };
        future.await.map(drop)
    }

    /// The scopes in memory that should be flushed or compacted, by the policy of their tables and the limit of memory.
    pub fn due(&self, definition: impl Fn(u32) -> Option<Arc<TableDefinition>>) -> Vec<Due> {
        let now = platform::now_ms();
        let mut hot: Vec<(ScopeKey, Arc<HotTable>)> = self.in_memory();
        hot.sort_by(|a, b| a.0.cmp(&b.0));
        let limit = self.hot_limit.load(Ordering::Relaxed) / BACKGROUND_SHARE;
        let over = hot.iter().map(|(_, t)| t.bytes()).sum::<usize>() > limit;
        let greatest = hot.iter().map(|(_, t)| t.bytes()).max().unwrap_or(0);
        let mut due = Vec::new();
        for (scope, table) in hot {
            let Some(definition) = definition(scope.table_no) else { continue };
            if table.is_stream() || self.pins.is_held(&scope) {
                continue;
            }
            let view = table.view();
            let rows: u64 = view.chunks.iter().map(|c| c.len() as u64).sum();
            let oldest = view.chunks.first().filter(|c| !c.is_empty()).map(|c| SeqSpan::ms_of(c.seqs.value(0)));
            let policy = &definition.options.flush_policy;
            let age = oldest.map_or(0, |ms| now.saturating_sub(ms));
            let flush = policy.rows.is_some_and(|n| rows >= n)
                || (rows > 0 && policy.interval_seconds.is_some_and(|s| age >= s.saturating_mul(1000)))
                || (rows > 0 && over && table.bytes() == greatest);
            if flush {
                due.push(Due { scope: scope.clone(), work: DueWork::Flush });
            }
            if rewrite::pick(&view.segments, &definition, self.keep(&definition), false).is_some() {
                due.push(Due { scope, work: DueWork::Compact });
            }
        }
        due
    }

    fn in_memory(&self) -> Vec<(ScopeKey, Arc<HotTable>)> {
        let slots = self.slots.lock();
        slots.iter().filter_map(|(scope, slot)| Some((scope.clone(), slot.hot.lock().clone()?))).collect()
    }

    /// Sets how many bytes of hot rows there may be before writers flush first, and how many the cache of segments has.
    pub fn set_memory(&self, hot_limit: usize, cache: usize) {
        self.hot_limit.store(hot_limit, Ordering::Relaxed);
        // What was found to be within another limit is counted again.
        self.grown.store(hot_limit, Ordering::Relaxed);
        self.cache.set_budget(cache);
    }

    /// Remembers that rows came.
    pub(super) fn count_grown(&self, writes: &[ScopeWrite]) {
        let bytes: usize = writes.iter().flat_map(|w| &w.rows).map(|r| block::memory_size(&r.columns)).sum();
        self.grown.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The scope with the most hot rows, if hot rows take more memory than they may: a writer flushes it first.
    pub fn over_budget(&self) -> Option<ScopeKey> {
        let limit = self.hot_limit.load(Ordering::Relaxed);
        if self.grown.load(Ordering::Relaxed) <= limit / RECOUNT_SHARE {
            return None;
        }
        let mut hot = self.in_memory();
        // Streams are in memory alone.
        hot.retain(|(scope, table)| !table.is_stream() && !self.is_dropped(scope.table_no));
        let bytes: usize = hot.iter().map(|(_, table)| table.bytes()).sum();
        if bytes <= limit {
            self.grown.store(0, Ordering::Relaxed);
            return None;
        }
        let greatest = hot.into_iter().filter(|(scope, _)| !self.pins.is_held(scope)).max_by_key(|(_, t)| t.bytes());
        greatest.filter(|(_, table)| table.bytes() > 0).map(|(scope, _)| scope)
    }
}

/// What storage writes for a rewrite, after its file.
fn batch_of(scope: &ScopeKey, switch: &Switch, switched: &Switched, mut batch: WriteBatch) -> Result<WriteBatch> {
    for segment in &switched.write {
        manifest::put_segment(scope, segment, &mut batch)?;
    }
    for segment in &switch.remove {
        manifest::retire(scope, segment.meta().number, &mut batch);
    }
    manifest::put_head(scope, switched.next_segment, &mut batch);
    match switched.cut {
        LogCut::Nothing => {}
        LogCut::All => {
            batch.delete_range(Partition::Log, scope.range());
        }
        LogCut::Through(last) => {
            let from = scope.prefix();
            let mut to = from.clone();
            to.extend_from_slice(&(last + 1).to_be_bytes());
            batch.delete_range(Partition::Log, KeyRange::between(from, to));
        }
    }
    Ok(batch)
}

#[cfg(test)]
#[path = "store_cold_tests.rs"]
mod tests;
