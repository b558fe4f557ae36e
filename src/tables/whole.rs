//! Changes of whole scopes: TRUNCATE, and an ALTER that writes every row anew.
//!
//! Invariant: both join the commit groups like any other commit, so they come after every commit before them, fail
//! with what they were built on, and become visible when they are durable. In storage a scope's rows go by removing
//! its range of the log, and by marking or retiring its segments, in the same transaction as what takes their place; in
//! memory each row is marked as superseded by the change, so that a snapshot taken before still shows them. A transaction that fails leaves both as they were:
//! storage is atomic, and memory is read again ([`super::TableStore::fail`]).

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::{Freeze, HotTable, Receipt, ScopeKey, TableStore};
use crate::error::Result;
use crate::storage::{Durability, Partition, WriteBatch};
use crate::tables::chunk::LIVE;
use crate::tables::cold::{ColdMark, Ended};
use crate::tables::hot::{Applied, OnLiveKey};
use crate::tables::log::LogRecord;
use crate::tables::manifest;
use crate::tables::scope_write::PreparedRows;
use crate::tables::store::{Commits, Member};

/// The rows that a scope is to have, written under a schema version.
#[derive(Debug)]
pub struct NewScope {
    /// The scope.
    pub scope: ScopeKey,
    /// The schema version of `rows`.
    pub schema_version: u32,
    /// The rows.
    pub rows: Vec<PreparedRows>,
}

impl TableStore {
    /// Removes every row of some scopes, all of them or none. Returns with the receipt how many rows there were.
    pub fn truncate(
        self: &Arc<Self>,
        scopes: Vec<(ScopeKey, Arc<HotTable>)>,
        durability: Durability,
    ) -> Result<impl Future<Output = Result<(u64, Receipt)>> + Send + use<>> {
        let commits = self.commits.lock();
        for (scope, hot) in &scopes {
            self.check_current(&commits, scope, hot)?;
        }
        self.end_all(commits, scopes, WriteBatch::new(), durability)
    }

    /// As [`TableStore::truncate`], of scopes whose tables the caller has frozen, with further changes in the same
    /// storage transaction.
    pub(super) fn truncate_frozen(
        self: &Arc<Self>,
        scopes: Vec<(ScopeKey, Arc<HotTable>)>,
        further: WriteBatch,
    ) -> Result<impl Future<Output = Result<(u64, Receipt)>> + Send + use<>> {
        self.end_all(self.commits.lock(), scopes, further, Durability::Strict)
    }

    fn end_all(
        self: &Arc<Self>,
        mut commits: MutexGuard<'_, Commits>,
        scopes: Vec<(ScopeKey, Arc<HotTable>)>,
        mut batch: WriteBatch,
        durability: Durability,
    ) -> Result<impl Future<Output = Result<(u64, Receipt)>> + Send + use<>> {
        let span = self.seqs.take(1);
        let mut applied: Vec<(&Arc<HotTable>, Applied)> = Vec::with_capacity(scopes.len());
        let mut rows = 0;
        for (scope, hot) in &scopes {
            let mut ended = live_rows(hot);
            ended.replaced_at = span.last();
            rows += ended.replaced.len() as u64 + ended.cold.iter().map(|mark| mark.replaced.len()).sum::<u64>();
            let done = hot.apply(&[], &ended, OnLiveKey::Fail).and_then(|done| {
                applied.push((hot, done));
                // What the log said of them goes with it.
                hot.segments().iter().try_for_each(|segment| manifest::put_segment(scope, segment, &mut batch))
            });
            if let Err(error) = done {
                for (hot, done) in applied.into_iter().rev() {
                    hot.revert(done)?;
                }
                return Err(error);
            }
            if !hot.is_stream() {
                batch.delete_range(Partition::Log, scope.range());
            }
        }
        let last_seq = span.last();
        let stored_scopes = scopes.iter().filter(|(_, hot)| !hot.is_stream());
        self.replaced.lock().extend(stored_scopes.map(|(scope, _)| (scope.clone(), last_seq)));
        let stored = !batch.is_empty();
        let durability = if stored { durability } else { Durability::Memory };
        let scopes = scopes.into_iter().map(|(scope, _)| scope).collect();
        let future = self.join(&mut commits, Member { batch, last_seq, durability, scopes, segments: Vec::new() });
        drop(commits);
        let seq = span.last();
        let store = Arc::clone(self);
        Ok(async move {
            let reached = future.await?;
            let durability = if stored { reached } else { Durability::Memory };
            store.commit_count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Ok((rows, Receipt { seq, durability }))
        })
    }

    /// Gives a frozen table the rows of `scopes` in place of all that it has, together with the further changes of
    /// `batch`. When this returns the table is no longer in memory: it is read as it is stored now.
    pub async fn rewrite(
        self: &Arc<Self>,
        frozen: &Freeze,
        scopes: Vec<NewScope>,
        mut batch: WriteBatch,
    ) -> Result<()> {
        // The table is frozen, so nothing of this changes before it is committed.
        self.retire_table_into(&mut batch, frozen.table_no).await?;
        let gone = self.scopes(frozen.table_no).await?;
        let future = {
            let mut commits = self.commits.lock();
            let total: u64 = scopes.iter().flat_map(|s| &s.rows).map(|r| r.len() as u64).sum();
            let span = self.seqs.take(total.max(1));
            let mut used = 0;
            for NewScope { scope, schema_version, rows } in &scopes {
                for part in rows {
                    let seqs = span.slice(used, part.len() as u64);
                    used += seqs.len();
                    let record = LogRecord {
                        seqs,
                        commit: span.last(),
                        request: None,
                        schema_version: *schema_version,
                        rows: Some(part.block.clone()),
                        deletions: Vec::new(),
                        marks: Vec::new(),
                    };
                    record.write(scope, &mut batch)?;
                }
            }
            let (last_seq, durability) = (span.last(), Durability::Strict);
            self.replaced.lock().extend(gone.into_iter().map(|scope| (scope, last_seq)));
            let scopes = scopes.iter().map(|s| s.scope.clone()).collect();
            self.join(&mut commits, Member { batch, last_seq, durability, scopes, segments: Vec::new() })
        };
        let outcome = future.await;
        self.evict_table(frozen.table_no);
        outcome.map(drop)
    }
}

/// The rows that have not ended. They end without tombstones: their log goes, so nothing would tell of them later.
fn live_rows(hot: &HotTable) -> Ended {
    let view = hot.view();
    let live = view.chunks.iter().flat_map(|chunk| {
        (0..chunk.len()).filter(|&row| chunk.superseded(row) == LIVE).map(|row| chunk.base + row as u64)
    });
    let cold = view.segments.iter().map(|segment| {
        let marks = segment.marks();
        let replaced = (0..segment.meta().rows).filter(|row| !marks.has_ended(*row)).collect();
        ColdMark { segment: segment.meta().number, replaced, ..ColdMark::default() }
    });
    Ended { replaced: live.collect(), cold: cold.collect(), ..Ended::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{NewColumn, TableDefinition, TableId, TableOptions, TableType};
    use crate::storage::{MemoryBackend, ScanOptions, StorageBackend};
    use crate::tables::scope_write::{ScopeWrite, prepare_rows};
    use crate::types::KalamDataType;
    use arrow::array::Int64Array;
    use arrow::record_batch::RecordBatch;
    use futures::executor::block_on;

    #[test]
    fn a_snapshot_from_before_still_shows_what_was_truncated() -> Result<()> {
        block_on(async {
            let backend = Arc::new(MemoryBackend::new());
            let store = TableStore::open(Arc::clone(&backend) as _, 0).await?;
            let columns = vec![NewColumn::new("k", KalamDataType::BigInt)];
            let options = TableOptions::default();
            let id = TableId::new("default", "t");
            let definition = TableDefinition::new(id, 7, TableType::Shared, columns, &["k".into()], options, 0, "me")?;
            let scope = ScopeKey { table_no: 7, user: None };
            let hot = store.hot(&scope, &definition).await?;
            let insert = |keys: Vec<i64>| -> Result<_> {
                let schema = Arc::new(definition.arrow_schema()?);
                let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(keys))]);
                let rows = prepare_rows(&definition, &batch.map_err(crate::error::KalamError::internal)?, None)?;
                let write = ScopeWrite {
                    scope: scope.clone(),
                    hot: Arc::clone(&hot),
                    schema_version: 1,
                    rows,
                    replaced: Vec::new(),
                    deleted: Vec::new(),
                    checked: Default::default(),
                };
                store.submit(vec![write], Durability::Relaxed, None)
            };
            insert(vec![1, 2, 3])?.await?;
            let before = store.snapshot();
            // One group: a commit, the truncation, and a commit under a key that it freed.
            let (first, (rows, _), last) = futures::try_join!(
                insert(vec![4])?,
                store.truncate(vec![(scope.clone(), Arc::clone(&hot))], Durability::Relaxed)?,
                insert(vec![1])?,
            )?;
            assert_eq!(rows, 4);
            let visible = |snapshot| {
                let chunks = hot.chunks();
                let mut keys = Vec::new();
                for chunk in chunks.iter() {
                    let values = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&chunk.columns[0]);
                    keys.extend((0..chunk.len()).filter(|&r| chunk.visible(r, snapshot)).map(|r| values.value(r)));
                }
                keys
            };
            assert_eq!(visible(before), [1, 2, 3]);
            assert_eq!(visible(first.seq), [1, 2, 3, 4]);
            assert_eq!(visible(last.seq), [1]);
            assert_eq!(visible(store.snapshot()), [1]);
            assert_eq!(hot.statistics().live_rows, 1);
            // Storage holds one record: that of the last commit.
            let log = backend.scan(Partition::Log, &scope.range(), ScanOptions::default()).await?;
            assert_eq!(log.len(), 1);
            Ok(())
        })
    }
}
