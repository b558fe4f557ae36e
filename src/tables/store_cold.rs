//! The store's side of the cold tier: flush, compaction, and what becomes of the files that they replace.
//!
//! A rewrite (flush or compaction) reads and builds beside the writers, then takes effect at once: under the commits
//! lock `switch.rs` puts the new segment in place in memory, and the open commit group takes what storage has to write.
//! Invariant: memory and storage make the same step in the same order. The group is a member of the chain of groups, so
//! every commit that the rewrite has seen is stored before it or with it, and if one of them fails, so does the rewrite,
//! and the scope is read again from storage. A file that is replaced stays until nobody reads it (`manifest.rs`).

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::hot::HotTable;
use super::log::ScopeKey;
use super::manifest;
use super::rewrite::{self, Built, Keep, retained_since};
use super::segment::{DeleteVector, Segment};
use super::store::{Commits, GroupFuture, Member, TableStore};
use super::switch::{LogCut, Switch, Switched};
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::{TableDefinition, TableType};
use crate::storage::{Durability, KeyRange, Partition, WriteBatch};

/// What a rewrite did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rewritten {
    /// Live rows that went into new segments.
    pub rows: u64,
    /// New segments.
    pub segments: u64,
}

pub(super) fn moved() -> KalamError {
    KalamError::new(ErrorCode::Conflict, "rows of the table were moved by a flush or compaction meanwhile")
        .with_hint("Run the statement or transaction again.")
}

impl TableStore {
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

    /// Has the storage give back the room of what was removed.
    pub async fn give_space_back(&self) -> Result<()> {
        self.backend.compact().await
    }

    pub(super) fn keep(&self, definition: &TableDefinition) -> Keep {
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
            self.remember_read(&switch.remove);
            let added = switch.add.as_ref().map(|(segment, _)| segment);
            let mut batch = WriteBatch::new();
            if let (Some(segment), Some(bytes)) = (added, &file) {
                batch.put_blob(segment.blob_id(), bytes);
            }
            match batch_of(scope, &switch, &switched, batch) {
                Ok(batch) => self.join_rewrite(&mut commits, scope, batch, added.into_iter().cloned().collect()),
                Err(error) => {
                    // Memory has made the step and storage will not: it is read again from there.
                    self.evict_scope(scope);
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
                let segments = retired.get(&manifest::blob_id(scope, *number));
                segments.is_some_and(|segments| segments.iter().any(|segment| segment.strong_count() > 0))
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
            hot.iter().for_each(|hot| self.remember_read(&hot.segments()));
        }
        Ok(())
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
