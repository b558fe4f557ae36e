//! Flush and compaction of one scope, step by step.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use futures::executor::block_on;

use super::*;
use crate::schema::{NewColumn, TableId, TableOptions};
use crate::storage::{GatedBackend, MemoryBackend, ScanOptions, StorageBackend};
use crate::tables::{ColdCheck, Due, DueWork, SEGMENT_ROWS, ScopeWrite, Seq, cold_position, prepare_rows};
use crate::types::KalamDataType;

struct Table {
    backend: Arc<MemoryBackend>,
    store: Arc<TableStore>,
    scope: ScopeKey,
    definition: Arc<TableDefinition>,
}

impl Table {
    async fn new(retention_hours: u64) -> Result<Self> {
        let backend = Arc::new(MemoryBackend::new());
        let store = TableStore::open(Arc::clone(&backend) as _, 0).await?;
        let options = TableOptions { deleted_retention_hours: Some(retention_hours), ..TableOptions::default() };
        let columns = vec![NewColumn::new("k", KalamDataType::BigInt), NewColumn::new("v", KalamDataType::BigInt)];
        let id = TableId::new("default", "t");
        let definition = TableDefinition::new(id, 7, TableType::Shared, columns, &["k".into()], options, 0, "me")?;
        let scope = ScopeKey { table_no: 7, user: None };
        Ok(Self { backend, store, scope, definition: Arc::new(definition) })
    }

    async fn hot(&self) -> Result<Arc<HotTable>> {
        self.store.hot(&self.scope, &self.definition).await
    }

    async fn write(&self, keys: &[i64], value: i64, replaced: Vec<u64>, deleted: Vec<u64>) -> Result<Seq> {
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(keys.to_vec())), Arc::new(Int64Array::from(vec![value; keys.len()]))];
        let schema = Arc::new(self.definition.arrow_schema()?);
        let batch = RecordBatch::try_new(schema, columns).map_err(KalamError::internal)?;
        let rows = prepare_rows(&self.definition, &batch, None)?;
        let mut write = ScopeWrite {
            scope: self.scope.clone(),
            hot: self.hot().await?,
            schema_version: 1,
            rows,
            replaced,
            deleted,
            checked: ColdCheck::Unchecked,
        };
        write.checked = self.store.check_keys(&write, &self.definition).await?;
        Ok(self.store.submit(vec![write], Durability::Relaxed, None)?.await?.seq)
    }

    async fn insert(&self, keys: impl Iterator<Item = i64>) -> Result<Seq> {
        self.write(&keys.collect::<Vec<_>>(), 0, Vec::new(), Vec::new()).await
    }

    async fn delete(&self, keys: &[i64]) -> Result<Seq> {
        let positions = self.positions(keys).await?;
        self.write(&[], 0, Vec::new(), positions).await
    }

    async fn update(&self, keys: &[i64], value: i64) -> Result<Seq> {
        let positions = self.positions(keys).await?;
        self.write(keys, value, positions, Vec::new()).await
    }

    async fn positions(&self, keys: &[i64]) -> Result<Vec<u64>> {
        let rows = self.rows(self.store.snapshot()).await?;
        Ok(rows.into_iter().filter(|(k, ..)| keys.contains(k)).map(|(_, _, p)| p).collect())
    }

    /// Key, value and position of each row that a snapshot shows.
    async fn rows(&self, snapshot: Seq) -> Result<Vec<(i64, i64, u64)>> {
        let hot = self.hot().await?;
        Self::rows_of(&hot.view(), snapshot).await
    }

    async fn rows_of(view: &crate::tables::View, snapshot: Seq) -> Result<Vec<(i64, i64, u64)>> {
        let int = |array: &ArrayRef, row: usize| array.as_primitive::<Int64Type>().value(row);
        let mut rows = Vec::new();
        for chunk in view.chunks.iter() {
            let visible = (0..chunk.len()).filter(|&row| chunk.visible(row, snapshot));
            rows.extend(visible.map(|r| (int(&chunk.columns[0], r), int(&chunk.columns[1], r), chunk.base + r as u64)));
        }
        for segment in view.segments.iter() {
            for group in 0..segment.meta().groups() {
                let columns = segment.read_rows(group, &[1, 2]).await?;
                let columns: Vec<ArrayRef> = columns.into_iter().flatten().collect();
                let mask = segment.visibility(group, snapshot).await?;
                for (i, row) in segment.meta().group_rows(group).enumerate() {
                    if mask.as_ref().is_none_or(|m| m.value(i)) {
                        let position = cold_position(segment.meta().number, row);
                        rows.push((int(&columns[0], i), int(&columns[1], i), position));
                    }
                }
            }
        }
        rows.sort_unstable();
        Ok(rows)
    }

    async fn keys(&self, snapshot: Seq) -> Result<Vec<i64>> {
        Ok(self.rows(snapshot).await?.into_iter().map(|(k, ..)| k).collect())
    }

    async fn flush(&self) -> Result<Rewritten> {
        self.store.flush(&self.scope, &self.definition).await
    }

    async fn compact(&self, full: bool) -> Result<Rewritten> {
        self.store.compact(&self.scope, &self.definition, full).await
    }

    async fn records(&self, partition: Partition) -> Result<usize> {
        Ok(self.backend.scan(partition, &KeyRange::all(), ScanOptions::default()).await?.len())
    }

    async fn reopen(&mut self) -> Result<()> {
        self.backend = Arc::new(self.backend.reopen());
        self.store = TableStore::open(Arc::clone(&self.backend) as _, 0).await?;
        Ok(())
    }
}

#[test]
fn a_flush_empties_the_log_and_shows_the_same_rows() -> Result<()> {
    block_on(async {
        let mut table = Table::new(0).await?;
        table.insert((0..100).rev()).await?;
        table.delete(&[3]).await?;
        table.update(&[4, 5], 1).await?;
        let before = table.rows(table.store.snapshot()).await?;
        assert_eq!(table.flush().await?, Rewritten { rows: 99, segments: 1 });
        let strip = |rows: Vec<(i64, i64, u64)>| rows.into_iter().map(|(k, v, _)| (k, v)).collect::<Vec<_>>();
        assert_eq!(strip(table.rows(table.store.snapshot()).await?), strip(before.clone()));
        assert_eq!(table.records(Partition::Log).await?, 0);
        assert_eq!(table.hot().await?.statistics().versions, 0);
        // Marks of cold rows live in the log until the next flush.
        table.update(&[6], 2).await?;
        table.delete(&[7, 8]).await?;
        assert_eq!(table.records(Partition::Log).await?, 2);
        for _ in 0..2 {
            table.reopen().await?;
            let keys = table.keys(table.store.snapshot()).await?;
            assert_eq!(keys.len(), 97);
            assert!(!keys.contains(&7) && keys.contains(&6));
            table.flush().await?;
            assert_eq!(table.records(Partition::Log).await?, 0);
        }
        let error = table.insert(std::iter::once(6)).await.expect_err("the key is in a segment");
        assert_eq!(error.code(), ErrorCode::UniqueViolation);
        table.insert(std::iter::once(7)).await?;
        Ok(())
    })
}

#[test]
fn only_deletions_are_flushed_too() -> Result<()> {
    block_on(async {
        let mut table = Table::new(0).await?;
        table.insert(0..10).await?;
        table.flush().await?;
        table.delete(&[1, 2]).await?;
        assert_eq!(table.flush().await?, Rewritten::default());
        assert_eq!(table.records(Partition::Log).await?, 0);
        table.reopen().await?;
        assert_eq!(table.keys(table.store.snapshot()).await?.len(), 8);
        Ok(())
    })
}

#[test]
fn a_snapshot_from_before_sees_what_it_saw() -> Result<()> {
    block_on(async {
        let table = Table::new(0).await?;
        table.insert(0..4).await?;
        let first = table.store.pin();
        table.delete(&[0]).await?;
        table.update(&[1], 1).await?;
        table.flush().await?;
        let second = table.store.pin();
        table.delete(&[2]).await?;
        table.flush().await?;
        table.compact(true).await?;
        assert_eq!(table.keys(first.seq()).await?, [0, 1, 2, 3]);
        assert_eq!(table.keys(second.seq()).await?, [1, 2, 3]);
        // Also when it is read from storage again.
        table.store.evict_scope(&table.scope);
        assert_eq!(table.rows(first.seq()).await?.iter().map(|r| r.1).collect::<Vec<_>>(), [0; 4]);
        assert_eq!(table.keys(table.store.snapshot()).await?, [1, 3]);
        drop(first);
        drop(second);
        table.compact(true).await?;
        let segments = table.hot().await?.segments();
        assert_eq!(segments.iter().map(|s| s.meta().rows).sum::<u32>(), 2);
        Ok(())
    })
}

#[test]
fn many_rows_become_several_segments() -> Result<()> {
    block_on(async {
        let mut table = Table::new(0).await?;
        let rows = SEGMENT_ROWS as i64 * 2 + 5000;
        table.insert(0..rows).await?;
        assert_eq!(table.flush().await?, Rewritten { rows: rows as u64, segments: 3 });
        assert_eq!(table.records(Partition::Log).await?, 0);
        table.reopen().await?;
        let segments = table.hot().await?.segments();
        assert_eq!(segments.iter().map(|s| s.live_rows()).sum::<u64>(), rows as u64);
        let error = table.insert(std::iter::once(rows - 1)).await.expect_err("the key is in a segment");
        assert_eq!(error.code(), ErrorCode::UniqueViolation);
        table.insert(std::iter::once(rows)).await?;
        Ok(())
    })
}

#[test]
fn small_segments_are_merged_and_their_files_go_when_nobody_reads_them() -> Result<()> {
    block_on(async {
        let table = Table::new(0).await?;
        for n in 0..4 {
            assert_eq!(table.compact(false).await?, Rewritten::default(), "after {n} segments");
            table.insert((0..20).map(|k| k * 10 + n)).await?;
            table.flush().await?;
        }
        table.store.cache().clear();
        let view = table.hot().await?.view();
        let before = table.store.snapshot();
        assert_eq!(table.compact(false).await?, Rewritten { rows: 80, segments: 1 });
        assert_eq!(table.records(Partition::Blob).await?, 5);
        assert_eq!(Table::rows_of(&view, before).await?.len(), 80);
        drop(view);
        table.compact(false).await?;
        assert_eq!(table.records(Partition::Blob).await?, 1);
        assert_eq!(table.records(Partition::Manifest).await?, 2);
        // Many dead rows are a reason too.
        table.delete(&(0..100).collect::<Vec<_>>()).await?;
        assert_eq!(table.compact(false).await?, Rewritten { rows: 40, segments: 1 });
        table.delete(&(100..200).collect::<Vec<_>>()).await?;
        assert_eq!(table.compact(false).await?, Rewritten::default());
        assert_eq!(table.records(Partition::Blob).await?, 0);
        assert_eq!(table.records(Partition::Log).await?, 0);
        Ok(())
    })
}

#[test]
fn tombstones_stay_as_long_as_they_are_retained() -> Result<()> {
    block_on(async {
        let table = Table::new(1).await?;
        table.insert(0..4).await?;
        table.delete(&[0]).await?;
        table.flush().await?;
        table.delete(&[1]).await?;
        table.update(&[2], 1).await?;
        table.flush().await?;
        table.compact(true).await?;
        let tombstones = || async {
            let segments = table.hot().await?.segments();
            let counts =
                segments.iter().flat_map(|s| s.marks().tombstones().iter().map(|t| t.1.len()).collect::<Vec<_>>());
            Ok::<u64, KalamError>(counts.sum())
        };
        assert_eq!(tombstones().await?, 2);
        assert_eq!(table.keys(table.store.snapshot()).await?, [2, 3]);
        let gone = Arc::new(TableDefinition {
            options: TableOptions { deleted_retention_hours: Some(0), ..TableOptions::default() },
            ..TableDefinition::clone(&table.definition)
        });
        table.store.compact(&table.scope, &gone, true).await?;
        assert_eq!(tombstones().await?, 0);
        assert_eq!(table.keys(table.store.snapshot()).await?, [2, 3]);
        Ok(())
    })
}

#[test]
fn held_and_frozen_scopes_stay_where_they_are() -> Result<()> {
    block_on(async {
        let table = Table::new(0).await?;
        table.insert(0..10).await?;
        let hold = table.store.hold(&table.scope);
        assert_eq!(table.flush().await.expect_err("it is held").code(), ErrorCode::Conflict);
        drop(hold);
        let freeze = table.store.freeze(7).await?;
        assert_eq!(table.flush().await.expect_err("it is frozen").code(), ErrorCode::Conflict);
        drop(freeze);
        assert_eq!(table.flush().await?.rows, 10);
        // A key that was looked up before rows moved is looked up again.
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![50])), Arc::new(Int64Array::from(vec![0]))];
        let schema = Arc::new(table.definition.arrow_schema()?);
        let rows = prepare_rows(
            &table.definition,
            &RecordBatch::try_new(schema, columns).map_err(KalamError::internal)?,
            None,
        )?;
        let mut write = ScopeWrite {
            scope: table.scope.clone(),
            hot: table.hot().await?,
            schema_version: 1,
            rows,
            replaced: Vec::new(),
            deleted: Vec::new(),
            checked: ColdCheck::Unchecked,
        };
        write.checked = table.store.check_keys(&write, &table.definition).await?;
        assert!(table.store.still_checked(&write));
        table.insert(std::iter::once(50)).await?;
        table.flush().await?;
        assert!(!table.store.still_checked(&write));
        let refused = table.store.check_keys(&write, &table.definition).await.expect_err("the key came meanwhile");
        assert_eq!(refused.code(), ErrorCode::UniqueViolation);
        let error = table.store.submit(vec![write], Durability::Relaxed, None).err().expect("rows moved");
        assert_eq!(error.code(), ErrorCode::Conflict);
        Ok(())
    })
}

#[test]
fn policies_and_memory_say_what_is_due() -> Result<()> {
    block_on(async {
        let table = Table::new(0).await?;
        let due = |rows: Option<u64>| {
            let mut definition = TableDefinition::clone(&table.definition);
            definition.options.flush_policy.rows = rows;
            let definition = Arc::new(definition);
            table.store.due(move |_| Some(Arc::clone(&definition)))
        };
        table.insert(0..10).await?;
        assert_eq!(due(Some(11)), []);
        assert_eq!(due(Some(10)), [Due { scope: table.scope.clone(), work: DueWork::Flush }]);
        // Above half of the limit rows are flushed in the background, above all of it by the next writer.
        let bytes = table.store.hot(&table.scope, &table.definition).await?.bytes();
        table.store.set_memory(bytes * 2, 1 << 20);
        assert_eq!((due(None), table.store.over_budget()), (Vec::new(), None));
        table.store.set_memory(bytes, 1 << 20);
        assert_eq!(due(None), [Due { scope: table.scope.clone(), work: DueWork::Flush }]);
        assert_eq!(table.store.over_budget(), None);
        table.store.set_memory(bytes - 1, 1 << 20);
        assert_eq!(due(None), [Due { scope: table.scope.clone(), work: DueWork::Flush }]);
        assert_eq!(table.store.over_budget(), Some(table.scope.clone()));
        table.flush().await?;
        assert_eq!((due(Some(1)), table.store.over_budget()), (Vec::new(), None));
        table.delete(&(0..5).collect::<Vec<_>>()).await?;
        assert_eq!(due(None), [Due { scope: table.scope.clone(), work: DueWork::Compact }]);
        Ok(())
    })
}

/// Each change that ends rows of a segment is a record of the log, which grows by them alone too.
#[test]
fn what_ends_rows_of_segments_is_flushed_too() -> Result<()> {
    block_on(async {
        let mut table = Table::new(24).await?;
        table.insert(0..100).await?;
        table.flush().await?;
        let due = |table: &Table| {
            let mut definition = TableDefinition::clone(&table.definition);
            definition.options.flush_policy.rows = Some(20);
            let definition = Arc::new(definition);
            table.store.due(move |_| Some(Arc::clone(&definition)))
        };
        for key in 0..19 {
            table.delete(&[key]).await?;
        }
        assert_eq!(due(&table), []);
        table.delete(&[19]).await?;
        assert_eq!(due(&table), [Due { scope: table.scope.clone(), work: DueWork::Flush }]);
        table.reopen().await?;
        assert_eq!(table.keys(table.store.snapshot()).await?.len(), 80);
        assert_eq!(due(&table), [Due { scope: table.scope.clone(), work: DueWork::Flush }]);
        // Who opens a database reads no snapshot of the past: it is not remembered when each row ended.
        let marks = table.hot().await?.segments()[0].marks();
        assert!(marks.ended_after(Seq::MIN).count() <= 1, "{marks:?}");
        assert_eq!((marks.ended_rows(), marks.tombstones().len()), (20, 20));
        assert_eq!(table.flush().await?, Rewritten::default());
        assert_eq!((due(&table), table.records(Partition::Log).await?), (Vec::new(), 0));
        table.reopen().await?;
        assert_eq!(table.keys(table.store.snapshot()).await?, (20..100).collect::<Vec<_>>());
        Ok(())
    })
}

#[test]
fn a_row_that_was_moved_before_it_is_deleted_is_a_conflict() -> Result<()> {
    block_on(async {
        let table = Table::new(0).await?;
        table.insert(0..3).await?;
        let found = table.positions(&[1]).await?;
        table.flush().await?;
        let error = table.write(&[], 0, Vec::new(), found).await.expect_err("it lies elsewhere");
        assert_eq!(error.code(), ErrorCode::Conflict, "{error}");
        assert_eq!(table.keys(table.store.snapshot()).await?, [0, 1, 2]);
        Ok(())
    })
}

/// What is acknowledged while the store is being closed is below the ceiling that the next opening finds.
#[test]
fn a_commit_beside_the_closing_is_seen_by_the_next_opening() -> Result<()> {
    block_on(async {
        let mut table = Table::new(0).await?;
        let gated = Arc::new(GatedBackend::new(Arc::clone(&table.backend) as _));
        table.store = TableStore::open(Arc::clone(&gated) as _, 0).await?;
        table.insert(0..1).await?;
        let others = gated.close_gate().await;
        let closing = table.store.close();
        let inserting = async {
            a_turn().await;
            let inserted = table.insert(1..2);
            let open = async {
                a_turn().await;
                drop(others);
            };
            futures::join!(inserted, open).0
        };
        let (closed, inserted) = futures::join!(closing, inserting);
        closed?;
        let inserted = inserted?;
        table.reopen().await?;
        assert!(table.store.snapshot() >= inserted);
        assert_eq!(table.keys(table.store.snapshot()).await?, [0, 1]);
        Ok(())
    })
}

/// Lets whatever else is polled beside this go on.
async fn a_turn() {
    let mut yielded = false;
    futures::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
