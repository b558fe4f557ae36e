//! Tables and users that were dropped while somebody may still read their rows.
//!
//! Dropping takes two steps. The first makes the rows unreachable for everybody who comes later, in one storage
//! transaction with a record that says so (`dropped/` and the table's number or the scope, in the meta partition). The
//! second, [`TableStore::reclaim`], removes what is stored, and the record with it; it waits until every pin from before
//! the first step is gone, so a reader finishes on its snapshot. Whatever a crash leaves between them is removed at the
//! next opening, when nobody reads.
//!
//! Invariant: a table that was dropped takes no commit and no rewrite, so its rows stay as they were, in memory and in
//! storage, until the second step; from then on it is known as gone, and who still asks for its rows (a plan that was
//! made before the first step and pins its snapshot after the second) gets a conflict, never an empty table. The scope of
//! a user may be used again, by another user of that name: its rows are ended, as by TRUNCATE, and the second step goes by
//! way of a rewrite that leaves out all of them; it leaves the scope alone if there are rows again.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{Freeze, HotTable, ScopeKey, TableStore};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use crate::schema::{SchemaRegistry, TableDefinition};
use crate::storage::record::{self, RecordKind};
use crate::storage::{Durability, KeyRange, Partition, ScanOptions, WriteBatch};
use crate::tables::chunk::LIVE;
use crate::tables::manifest;
use crate::tables::seq::Seq;
use crate::tables::switch::Switch;

/// First bytes of the keys of the records, in the meta partition.
const PREFIX: &[u8] = b"dropped/";

/// What was dropped; see the module's comment.
#[derive(Debug, Default)]
pub struct Dropped {
    /// Tables that take no commit.
    tables: HashSet<u32>,
    /// Those of them of which storage has nothing any more, or soon.
    gone: HashSet<u32>,
    /// What storage still holds, by the key of its record, and the epoch of those who may read it.
    left: BTreeMap<Vec<u8>, u64>,
}

/// What a record is about.
enum Target {
    Table(u32),
    User(ScopeKey),
}

impl Target {
    fn of_key(key: &[u8]) -> Option<Self> {
        let rest = key.strip_prefix(PREFIX)?;
        match rest.try_into() {
            Ok(number) => Some(Self::Table(u32::from_be_bytes(number))),
            Err(_) => ScopeKey::of_log_key(rest).ok().map(Self::User),
        }
    }
}

/// The number of the table that a record of the meta partition says was dropped.
pub fn dropped_table(key: &[u8]) -> Option<u32> {
    match Target::of_key(key)? {
        Target::Table(number) => Some(number),
        Target::User(_) => None,
    }
}

fn put_record(batch: &mut WriteBatch, place: &[u8]) -> Vec<u8> {
    let key = [PREFIX, place].concat();
    let json = format!("{{\"dropped_at_ms\":{}}}", platform::now_ms());
    batch.put(Partition::Meta, key.clone(), record::seal(RecordKind::Entity, &key, json.as_bytes()));
    key
}

impl TableStore {
    /// Adds to a batch, which removes a table's definition: what it has is to be removed. [`TableStore::table_dropped`]
    /// must be called when the batch is written.
    pub fn drop_table_into(&self, batch: &mut WriteBatch, table_no: u32) {
        put_record(batch, &ScopeKey::table_prefix(table_no));
    }

    /// A frozen table was dropped: from now on it takes no commit. Who reads it goes on.
    pub fn table_dropped(&self, frozen: &Freeze) {
        let epoch = self.pins.end_epoch();
        let mut dropped = self.dropped.lock();
        dropped.tables.insert(frozen.table_no);
        dropped.left.insert([PREFIX, &ScopeKey::table_prefix(frozen.table_no)].concat(), epoch);
    }

    /// Whether a table was dropped.
    pub(in crate::tables) fn is_dropped(&self, table_no: u32) -> bool {
        self.dropped.lock().tables.contains(&table_no)
    }

    /// Fails if the rows of a table are gone because it was dropped.
    pub(super) fn check_there(&self, table_no: u32) -> Result<()> {
        if !self.dropped.lock().gone.contains(&table_no) {
            return Ok(());
        }
        Err(KalamError::new(ErrorCode::Conflict, "the table was dropped meanwhile")
            .with_hint("Run the statement or transaction again."))
    }

    /// Drops every row that a user has in USER tables, and does what else `batch` says, in one storage transaction.
    /// `tables` are all USER tables. No commit to them is taken while it runs.
    pub async fn drop_user(
        self: &Arc<Self>,
        user: &str,
        tables: &[Arc<TableDefinition>],
        mut batch: WriteBatch,
    ) -> Result<()> {
        let mut tables = tables.to_vec();
        // In one order, so that two of these never wait for each other.
        tables.sort_unstable_by_key(|t| t.table_no);
        tables.dedup_by_key(|t| t.table_no);
        let user: Arc<str> = Arc::from(user);
        let (mut frozen, mut scopes, mut keys) = (Vec::with_capacity(tables.len()), Vec::new(), Vec::new());
        let mut unreadable = Vec::new();
        for definition in &tables {
            frozen.push(self.freeze(definition.table_no).await?);
            let scope = ScopeKey { table_no: definition.table_no, user: Some(Arc::clone(&user)) };
            match self.hot(&scope, definition).await {
                Ok(hot) if is_empty(&hot) => {}
                Ok(hot) => {
                    keys.push(put_record(&mut batch, &scope.prefix()));
                    scopes.push((scope, hot));
                }
                // Nobody reads what cannot be read.
                Err(error) if error.code() == ErrorCode::DataCorrupted => {
                    manifest::remove_scope(&scope, &mut batch);
                    batch.delete_range(Partition::Log, scope.range());
                    unreadable.push(scope);
                }
                Err(error) => return Err(error),
            }
        }
        self.truncate_frozen(scopes, batch)?.await?;
        unreadable.iter().for_each(|scope| self.evict_scope(scope));
        let epoch = self.pins.end_epoch();
        self.dropped.lock().left.extend(keys.into_iter().map(|key| (key, epoch)));
        Ok(())
    }

    /// Whether there is something that [`TableStore::reclaim`] would remove.
    pub fn has_leftovers(&self) -> bool {
        self.dropped.lock().left.values().any(|epoch| self.pins.is_over(*epoch))
    }

    /// Removes what is left of dropped tables and users and is not read any more. Returns how many of them that were.
    pub async fn reclaim(self: &Arc<Self>, registry: &SchemaRegistry) -> Result<usize> {
        let _one_at_a_time = self.reclaiming.lock().await;
        let range = KeyRange::prefix(PREFIX);
        let found = self.backend.scan(Partition::Meta, &range, ScanOptions::default()).await?;
        let mut removed = 0;
        for (key, _) in found {
            // One that was found at opening is read by nobody. One that storage took and reported an error of may be: by
            // those who came before this, as nobody finds it any more.
            let epoch = *self.dropped.lock().left.entry(key.clone()).or_insert_with(|| self.pins.end_epoch());
            let is_read = !self.pins.is_over(epoch);
            let Some(target) = Target::of_key(&key).filter(|_| !is_read) else { continue };
            let done = match target {
                Target::Table(number) => self.remove_table(&key, number).await?,
                Target::User(scope) => {
                    let tables = registry.tables(None).await?;
                    match tables.iter().find(|t| t.definition().table_no == scope.table_no) {
                        Some(table) => self.remove_ended(&key, &scope, table.definition()).await?,
                        // Its table was dropped since, and has a record of its own.
                        None => self.remove_record(&key).await?,
                    }
                }
            };
            if done {
                self.dropped.lock().left.remove(&key);
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn remove_record(&self, key: &[u8]) -> Result<bool> {
        let mut batch = WriteBatch::new();
        batch.delete(Partition::Meta, key);
        self.backend.commit(batch, Durability::Relaxed).await?;
        Ok(true)
    }

    async fn remove_table(&self, key: &[u8], table_no: u32) -> Result<bool> {
        {
            let mut dropped = self.dropped.lock();
            dropped.tables.insert(table_no);
            dropped.gone.insert(table_no);
        }
        self.evict_table(table_no);
        let mut batch = WriteBatch::new();
        for scope in self.scopes(table_no).await? {
            manifest::remove_scope(&scope, &mut batch);
        }
        batch.delete_range(Partition::Log, KeyRange::prefix(&ScopeKey::table_prefix(table_no)));
        batch.delete(Partition::Meta, key);
        self.backend.commit(batch, Durability::Relaxed).await?;
        Ok(true)
    }

    /// Removes the rows of a scope if all have ended, and then what tells of it. `false`: somebody is in the way.
    async fn remove_ended(
        self: &Arc<Self>,
        key: &[u8],
        scope: &ScopeKey,
        definition: &TableDefinition,
    ) -> Result<bool> {
        let _one_at_a_time = self.rewriting.lock().await;
        if self.check_free(scope).is_err() {
            return Ok(false);
        }
        let hot = self.hot(scope, definition).await?;
        let Some(last) = last_end(&hot) else {
            // The user is there again: what has ended goes as it does in any table.
            return self.remove_record(key).await;
        };
        if last > self.pins.horizon() {
            return Ok(false);
        }
        let view = hot.view();
        let taken = view.chunks.first().map(|first| first.base..view.next);
        if taken.is_some() || !view.segments.is_empty() {
            let switch = Switch { hot: taken, remove: view.segments.to_vec(), ..Switch::default() };
            drop(view);
            match self.put_in_place(scope, definition, &hot, switch, None).await {
                Err(error) if error.code() == ErrorCode::Conflict => return Ok(false),
                outcome => outcome?,
            }
        }
        self.sweep(scope, &hot).await?;
        let future = {
            let mut commits = self.commits.lock();
            if self.check_movable(&commits, scope, &hot).is_err() || !hot.retired().is_empty() || !is_empty(&hot) {
                return Ok(false);
            }
            let mut batch = WriteBatch::new();
            manifest::remove_scope(scope, &mut batch);
            batch.delete_range(Partition::Log, scope.range());
            batch.delete(Partition::Meta, key);
            self.evict_scope(scope);
            self.join_rewrite(&mut commits, scope, batch, Vec::new())
        };
        future.await?;
        Ok(true)
    }
}

/// Whether a scope has neither rows nor files.
fn is_empty(hot: &HotTable) -> bool {
    let view = hot.view();
    view.chunks.is_empty() && view.segments.is_empty() && hot.retired().is_empty()
}

/// When the last row of a scope ended; `None` if one is live.
fn last_end(hot: &HotTable) -> Option<Seq> {
    let view = hot.view();
    let mut last = Seq::MIN;
    for chunk in view.chunks.iter() {
        for row in 0..chunk.len() {
            match chunk.superseded(row) {
                LIVE => return None,
                ended => last = last.max(ended),
            }
        }
    }
    for segment in view.segments.iter() {
        let marks = segment.marks();
        if marks.ended_rows() < u64::from(segment.meta().rows) {
            return None;
        }
        last = marks.ended_after(Seq::MIN).map(|(seq, _)| seq).fold(last, Seq::max);
    }
    Some(last)
}
