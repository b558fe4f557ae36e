//! Table scopes, their hot tiers, and the one way in for changes: the commit.
//!
//! A commit is checked against the newest state and applied to memory at once, under `_seq` values above the
//! *watermark*, and joins the open commit group (`commit_groups.rs`). While one storage transaction is in flight the next group fills, so
//! many waiting writers share one. When a group is durable the watermark moves to its last `_seq`, and only then do
//! readers see it. Invariants: groups are written one after the other in `_seq` order; a reader's snapshot is never
//! above the watermark; when a group fails, every scope that it or a later group touched is dropped from memory and
//! read again from storage when next used, so memory never holds what storage does not. Rewrites (flush, compaction:
//! `store_cold.rs`) are members of groups like commits, so both hold for them too. Only STREAM tables are in memory
//! alone: a commit to them joins its group for the order, adds nothing to what the group stores, and a failed one is
//! taken back in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::hot::HotTable;
use super::key_spec::KeySpec;
use super::log::{LogReader, RequestId, ScopeKey};
use super::manifest;
use super::pins::{Pins, ScopeHold, SnapshotPin};
use super::replay::{self, Replay};
use super::scope_write::{ScopeWrite, apply_all, rows_of};
use super::segment::{Segment, SegmentCache, SegmentSource};
use super::seq::{Seq, SeqGenerator};
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::TableDefinition;
use crate::storage::record::{self, RecordKind};
use crate::storage::{Durability, KeyRange, Pages, Partition, ScanOptions, StorageBackend, WriteBatch};

#[path = "dropped.rs"]
mod dropped;
#[path = "commit_groups.rs"]
mod groups;
#[path = "store_scopes.rs"]
mod scopes;
#[path = "whole.rs"]
mod whole;
use dropped::Dropped;
pub use dropped::dropped_table;
pub(super) use groups::{Commits, GroupFuture, Member};
pub use whole::NewScope;

/// Key of the record that bounds every `_seq` in the database.
const CEILING_KEY: &[u8] = b"seq_ceiling";

/// What a commit promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The commit's last `_seq`.
    pub seq: Seq,
    /// The durability reached.
    pub durability: Durability,
}

/// Counters of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStatistics {
    /// Commits acknowledged.
    pub commits: u64,
    /// Storage transactions that carried them.
    pub groups: u64,
    /// Table scopes in memory.
    pub scopes: u64,
    /// Live rows in memory.
    pub hot_rows: u64,
    /// Bytes that rows take in memory, with everything that finds and orders them.
    pub hot_bytes: u64,
    /// Bytes of what finds and orders them: indexes and orders of keys.
    pub hot_index_bytes: u64,
    /// Segments of the scopes in memory.
    pub segments: u64,
    /// Live rows in them.
    pub cold_rows: u64,
    /// Bytes of their files.
    pub cold_bytes: u64,
}

#[derive(Default)]
pub(super) struct Slot {
    pub hot: Mutex<Option<Arc<HotTable>>>,
    hydrating: futures::lock::Mutex<()>,
}

impl Slot {
    /// The hot tier, if it is in memory and its keys have the types that a definition gives them.
    fn current(&self, version: u32) -> Result<Option<Arc<HotTable>>> {
        let hot = self.hot.lock().clone();
        match hot {
            Some(hot) if hot.key().version() > version => Err(replay::outdated()),
            hot => Ok(hot.filter(|hot| hot.key().version() == version)),
        }
    }
}

/// All table scopes of a database; see the module's comment.
pub struct TableStore {
    pub(super) backend: Arc<dyn StorageBackend>,
    seqs: SeqGenerator,
    /// The watermark, and which snapshots are read.
    pub(super) pins: Arc<Pins>,
    pub(super) slots: Mutex<HashMap<ScopeKey, Arc<Slot>>>,
    pub(super) commits: Mutex<Commits>,
    pub(super) cache: Arc<SegmentCache>,
    /// Segments that were replaced, or went from memory with their scope, by blob: their files stay as long as somebody
    /// reads them.
    pub(super) retired: Mutex<HashMap<Vec<u8>, Vec<Weak<Segment>>>>,
    /// Tables and scopes that were dropped (`dropped.rs`).
    dropped: Mutex<Dropped>,
    /// What is left of them is removed by one at a time.
    reclaiming: futures::lock::Mutex<()>,
    /// When all rows of a scope went from the log at once: older snapshots are answered from memory or not at all.
    pub(super) replaced: Mutex<HashMap<ScopeKey, Seq>>,
    /// Rewrites go one after the other, so that memory holds the rows of one.
    pub(super) rewriting: futures::lock::Mutex<()>,
    /// Bytes of hot rows above which writers flush first.
    pub(super) hot_limit: AtomicUsize,
    /// Bytes of rows that came since they were last counted.
    pub(super) grown: AtomicUsize,
    /// Bytes of all rows in memory, no fewer than there are: those that were counted, and those that came since.
    pub(super) most: AtomicUsize,
    /// Statements that change a table's definition go one after the other.
    turns: Mutex<HashMap<u32, Arc<futures::lock::Mutex<()>>>>,
    commit_count: AtomicU64,
    group_count: AtomicU64,
}

impl std::fmt::Debug for TableStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableStore").field("backend", &self.backend).field("watermark", &self.snapshot()).finish()
    }
}

impl TableStore {
    /// Opens the store on a backend. `worker` tells this node's `_seq` values from those of others.
    pub async fn open(backend: Arc<dyn StorageBackend>, worker: u16) -> Result<Arc<Self>> {
        let ceiling = match backend.get(Partition::Meta, CEILING_KEY).await? {
            None => 0,
            Some(value) => {
                let payload = record::open(RecordKind::Entity, CEILING_KEY, &value)?;
                serde_json::from_slice::<Seq>(&payload).map_err(|e| {
                    KalamError::new(ErrorCode::DataCorrupted, format!("the _seq ceiling does not decode: {e}"))
                })?
            }
        };
        let seqs = SeqGenerator::new(worker);
        if ceiling > 0 {
            seqs.observe(ceiling);
        }
        Ok(Arc::new(Self {
            backend,
            seqs,
            pins: Pins::new(ceiling),
            slots: Mutex::default(),
            commits: Mutex::new(Commits::new(ceiling)),
            cache: SegmentCache::new(0),
            retired: Mutex::default(),
            dropped: Mutex::default(),
            reclaiming: futures::lock::Mutex::new(()),
            replaced: Mutex::default(),
            rewriting: futures::lock::Mutex::new(()),
            hot_limit: AtomicUsize::new(usize::MAX),
            grown: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            turns: Mutex::default(),
            commit_count: AtomicU64::new(0),
            group_count: AtomicU64::new(0),
        }))
    }

    /// The newest snapshot that readers may use.
    pub fn snapshot(&self) -> Seq {
        self.pins.watermark()
    }

    /// The newest snapshot, kept readable until the pin is dropped.
    pub fn pin(&self) -> SnapshotPin {
        self.pins.pin()
    }

    /// No snapshot below this one is read.
    pub fn horizon(&self) -> Seq {
        self.pins.horizon()
    }

    /// Keeps the rows of a scope at their positions until the hold is dropped: what a transaction found stays there.
    pub fn hold(&self, scope: &ScopeKey) -> ScopeHold {
        self.pins.hold(Some(scope))
    }

    /// Whether the rows of a scope are kept at their positions.
    pub fn is_held(&self, scope: &ScopeKey) -> bool {
        self.pins.is_held(scope)
    }

    /// Keeps all rows at their positions until the hold is dropped.
    pub fn hold_all(&self) -> ScopeHold {
        self.pins.hold(None)
    }

    /// Ends when no statement keeps all rows at their positions.
    pub async fn all_released(&self) {
        self.pins.all_released().await;
    }

    /// The cache of what was read of segments.
    pub fn cache(&self) -> &Arc<SegmentCache> {
        &self.cache
    }

    /// The store's `_seq` generator.
    pub fn seqs(&self) -> &SeqGenerator {
        &self.seqs
    }

    /// The hot tier of a scope if it is in memory.
    pub fn loaded(&self, scope: &ScopeKey) -> Option<Arc<HotTable>> {
        self.slots.lock().get(scope)?.hot.lock().clone()
    }

    /// The hot tier of a scope, if it is in memory.
    pub(super) fn hot_now(&self, scope: &ScopeKey) -> Option<Arc<HotTable>> {
        self.check_there(scope.table_no).ok()?;
        self.loaded(scope)
    }

    /// The hot tier of a scope, read from its log when it is first touched. Fails with a conflict if `definition` is
    /// older than one that the rows in memory are keyed by: whoever has it has to look the table up again.
    pub async fn hot(&self, scope: &ScopeKey, definition: &TableDefinition) -> Result<Arc<HotTable>> {
        self.check_there(scope.table_no)?;
        self.expire(scope, definition);
        let version = KeySpec::typed_since(definition, definition.schema_version);
        loop {
            let slot = Arc::clone(self.slots.lock().entry(scope.clone()).or_default());
            if let Some(hot) = slot.current(version)? {
                return Ok(hot);
            }
            let _one_at_a_time = slot.hydrating.lock().await;
            if let Some(hot) = slot.current(version)? {
                return Ok(hot);
            }
            let found = self.hydrate(scope, definition).await;
            // What was read may have been going.
            self.check_there(scope.table_no)?;
            // Who dropped the scope from memory meanwhile let others read it and move its rows: then this was read of two
            // moments, and may lack what went from the log in between, or half of a record.
            let slots = self.slots.lock();
            if slots.get(scope).is_some_and(|now| Arc::ptr_eq(now, &slot)) {
                let hot = Arc::new(found?);
                let bytes = hot.bytes();
                self.grown.fetch_add(bytes, Ordering::Relaxed);
                self.most.fetch_add(bytes, Ordering::Relaxed);
                let before = slot.hot.lock().replace(Arc::clone(&hot));
                before.iter().for_each(|before| self.remember_read(&before.segments()));
                return Ok(hot);
            }
        }
    }

    async fn hydrate(&self, scope: &ScopeKey, definition: &TableDefinition) -> Result<HotTable> {
        if let Some(ttl) = definition.options.ttl_seconds {
            return Ok(HotTable::stream(KeySpec::new(definition)?, ttl));
        }
        let found = manifest::read(self.backend.as_ref(), scope).await?;
        let segments = found.segments.into_iter().map(|(meta, marks)| {
            let source = self.segment_source(scope, definition, meta.number);
            Arc::new(Segment::new(source, meta, marks, None))
        });
        let mut reader = LogReader::default();
        let mut replay =
            Replay::new(definition, segments.collect(), found.next_segment, found.retired, self.horizon())?;
        let mut pages = Pages::new(Partition::Log, scope.range());
        while let Some(page) = pages.next(self.backend.as_ref()).await? {
            for (key, value) in &page {
                if let Some(record) = reader.push(key, value)? {
                    replay.push(record)?;
                }
            }
        }
        reader.finish()?;
        let mut hot = replay.finish()?;
        // One that came to nothing may have been above what storage holds.
        let replaced = self.replaced.lock().get(scope).copied().unwrap_or(Seq::MIN);
        hot.set_since(replaced.min(self.snapshot()));
        Ok(hot)
    }

    pub(super) fn segment_source(&self, scope: &ScopeKey, definition: &TableDefinition, number: u32) -> SegmentSource {
        SegmentSource {
            backend: Arc::clone(&self.backend),
            cache: Arc::clone(&self.cache),
            blob: manifest::blob_id(scope, number),
            table: definition.table_id.to_string(),
        }
    }

    /// Every scope of a table that has rows, in the log, in segments or in memory: one for each user of a USER table.
    pub async fn scopes(&self, table_no: u32) -> Result<Vec<ScopeKey>> {
        let mut scopes: Vec<ScopeKey> = self.slots.lock().keys().filter(|s| s.table_no == table_no).cloned().collect();
        for partition in [Partition::Log, Partition::Manifest] {
            let mut range = KeyRange::prefix(&ScopeKey::table_prefix(table_no));
            loop {
                let options = ScanOptions { limit: Some(1), reverse: false };
                let page = self.backend.scan(partition, &range, options).await?;
                let Some((key, _)) = page.first() else { break };
                let scope = ScopeKey::of_log_key(key)?;
                range.from = scope.range().to;
                scopes.push(scope);
            }
        }
        scopes.sort();
        scopes.dedup();
        Ok(scopes)
    }

    /// Checks and applies a commit and lets it join the open group: everything or nothing. The future ends when the
    /// commit is durable. Nothing is awaited before this returns, so what the caller checked just before still holds.
    pub fn submit(
        self: &Arc<Self>,
        writes: Vec<ScopeWrite>,
        durability: Durability,
        request: Option<RequestId>,
    ) -> Result<impl Future<Output = Result<Receipt>> + Send + use<>> {
        self.submit_with(writes, WriteBatch::new(), durability, request)
    }

    /// As [`TableStore::submit`], with further changes in the same storage transaction.
    pub fn submit_with(
        self: &Arc<Self>,
        writes: Vec<ScopeWrite>,
        further: WriteBatch,
        durability: Durability,
        request: Option<RequestId>,
    ) -> Result<impl Future<Output = Result<Receipt>> + Send + use<>> {
        let mut commits = self.commits.lock();
        for write in &writes {
            self.check_current(&commits, &write.scope, &write.hot)?;
            write.check_current()?;
        }
        let total = writes.iter().map(|w| rows_of(w) + w.deleted.len() as u64).sum();
        let span = self.seqs.take(total);
        let mut batch = apply_all(&writes, span, request, self.pins.horizon())?;
        batch.append(further);
        // Nothing of a commit to streams alone is stored: it only waits until what was before it is visible.
        let stored = !batch.is_empty();
        let durability = if stored { durability } else { Durability::Memory };
        let scopes = writes.iter().map(|w| w.scope.clone()).collect();
        let member = Member { batch, last_seq: span.last(), durability, scopes, segments: Vec::new() };
        let future = self.join(&mut commits, member);
        drop(commits);
        self.count_grown(&writes);
        let store = Arc::clone(self);
        let seq = span.last();
        Ok(async move {
            let reached = future.await?;
            let durability = if stored { reached } else { Durability::Memory };
            store.commit_count.fetch_add(1, Ordering::Relaxed);
            Ok(Receipt { seq, durability })
        })
    }

    /// Fails with a conflict if a scope takes no commits now, or is not the one that a change was computed against.
    pub(super) fn check_current(&self, commits: &Commits, scope: &ScopeKey, hot: &Arc<HotTable>) -> Result<()> {
        let current = self.loaded(scope);
        let takes = !commits.frozen.contains(&scope.table_no) && !self.is_dropped(scope.table_no);
        if takes && current.is_some_and(|current| Arc::ptr_eq(&current, hot)) {
            return Ok(());
        }
        Err(KalamError::new(ErrorCode::Conflict, "the table was changed by another statement meanwhile")
            .with_hint("Run the statement or transaction again."))
    }

    /// Refuses commits to a table until the guard is dropped, and waits for those under way: for DDL. Waits as well
    /// until another statement that froze the table is done with it.
    pub async fn freeze(self: &Arc<Self>, table_no: u32) -> Result<Freeze> {
        let turn = Arc::clone(self.turns.lock().entry(table_no).or_default());
        let turn = turn.lock_owned().await;
        self.commits.lock().frozen.insert(table_no);
        let freeze = Freeze { store: Arc::clone(self), table_no, _turn: turn };
        self.barrier().await;
        Ok(freeze)
    }

    /// Ends when every commit submitted so far is through and no table is frozen: what a statement that lost a race
    /// waits for before it runs again.
    pub async fn settled(&self) {
        self.barrier().await;
        loop {
            let frozen: Vec<u32> = self.commits.lock().frozen.iter().copied().collect();
            if frozen.is_empty() {
                return;
            }
            for table_no in frozen {
                let turn = self.turns.lock().get(&table_no).map(Arc::clone);
                if let Some(turn) = turn {
                    drop(turn.lock_owned().await);
                }
            }
        }
    }

    /// Drops every scope of a table from memory; they are read again when next used.
    pub fn evict_table(&self, table_no: u32) {
        self.evict(|scope| scope.table_no == table_no);
    }

    /// Drops a scope from memory; it is read again when next used.
    pub fn evict_scope(&self, scope: &ScopeKey) {
        self.evict(|other| other == scope);
    }

    /// Drops scopes from memory. Who reads them goes on: with segments that others, who read the scope again, know as
    /// theirs and may replace.
    pub(super) fn evict(&self, goes: impl Fn(&ScopeKey) -> bool) {
        let mut slots = self.slots.lock();
        for (_, slot) in slots.extract_if(|scope, _| goes(scope)) {
            slot.hot.lock().iter().for_each(|hot| self.remember_read(&hot.segments()));
        }
    }

    /// Segments that are replaced or go from memory: who reads them now goes on doing so.
    pub(super) fn remember_read(&self, segments: &[Arc<Segment>]) {
        let mut retired = self.retired.lock();
        retired.retain(|_, segments| {
            segments.retain(|segment| segment.strong_count() > 0);
            !segments.is_empty()
        });
        for segment in segments {
            retired.entry(segment.blob_id().to_vec()).or_default().push(Arc::downgrade(segment));
        }
    }

    /// Counters.
    pub fn statistics(&self) -> StoreStatistics {
        let hot: Vec<Arc<HotTable>> = self.slots.lock().values().filter_map(|s| s.hot.lock().clone()).collect();
        let mut statistics = StoreStatistics {
            commits: self.commit_count.load(Ordering::Relaxed),
            groups: self.group_count.load(Ordering::Relaxed),
            scopes: hot.len() as u64,
            ..StoreStatistics::default()
        };
        for table in hot {
            let s = table.statistics();
            statistics.hot_rows += s.live_rows;
            statistics.hot_bytes += s.bytes;
            statistics.hot_index_bytes += s.index_bytes;
            for segment in table.segments().iter() {
                statistics.segments += 1;
                statistics.cold_rows += segment.live_rows();
                statistics.cold_bytes += segment.meta().bytes;
            }
        }
        statistics
    }

    /// Waits for what is under way and writes the exact `_seq` ceiling, so that the next opening starts right after.
    pub async fn close(self: &Arc<Self>) -> Result<()> {
        let closing = loop {
            self.barrier().await;
            let mut commits = self.commits.lock();
            // Statements may still be running: one that has committed meanwhile has a `_seq` above the watermark.
            if commits.are_under_way() {
                continue;
            }
            if self.group_count.load(Ordering::Relaxed) == 0 {
                return Ok(());
            }
            break self.lower_ceiling(&mut commits);
        };
        closing.await.map(drop)
    }
}

/// Keeps commits away from a table; see [`TableStore::freeze`].
#[derive(Debug)]
pub struct Freeze {
    store: Arc<TableStore>,
    table_no: u32,
    /// Dropped after the table is open for commits again.
    _turn: futures::lock::OwnedMutexGuard<()>,
}

impl Drop for Freeze {
    fn drop(&mut self) {
        self.store.commits.lock().frozen.remove(&self.table_no);
    }
}
