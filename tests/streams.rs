//! STREAM tables: in memory only, until their time to live is over.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, Int32Array};
use arrow::record_batch::RecordBatch;
use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::platform;
use kalamdb::schema::{CachedTableData, TableId};
use kalamdb::sql::StatementResult;
use kalamdb::storage::{Durability, MemoryBackend};
use kalamdb::tables::{ColdCheck, ScopeKey, ScopeWrite, prepare_rows};

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use faulty::Faulty;

async fn sql(context: &AppContext, text: &str) -> Result<StatementResult> {
    Ok(support::sql(context, text).await?.pop().unwrap_or_default())
}

async fn count(context: &AppContext, table: &str) -> Result<usize> {
    let result = sql(context, &format!("SELECT * FROM {table}")).await?;
    Ok(result.rows.map_or(0, |rows| rows.len()))
}

async fn table(context: &AppContext, name: &str) -> Result<Arc<CachedTableData>> {
    let found = context.registry().table(&TableId::new("default", name)).await?;
    Ok(found.expect(name))
}

#[test]
fn events_never_touch_storage_and_end_with_the_process() -> Result<()> {
    block_on(async {
        let backend = Arc::new(MemoryBackend::new());
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        sql(&context, "CREATE STREAM TABLE e (id INT PRIMARY KEY, v TEXT) WITH (TTL_SECONDS = 3600)").await?;
        let before = context.system().storage_counters();
        let inserted = sql(&context, "INSERT INTO e VALUES (1, 'a'), (2, 'b'), (3, 'c')").await?;
        assert_eq!((inserted.rows_affected, inserted.durability), (3, Some(Durability::Memory)));
        assert_eq!(sql(&context, "UPDATE e SET v = 'x' WHERE id = 1").await?.durability, Some(Durability::Memory));
        sql(&context, "DELETE FROM e WHERE id = 2").await?;
        assert_eq!(count(&context, "e").await?, 2);
        let after = context.system().storage_counters();
        assert_eq!((before.commits, before.log_records), (after.commits, after.log_records));
        let taken = sql(&context, "INSERT INTO e VALUES (1, 'again')").await.expect_err("a key is a key");
        assert_eq!(taken.code(), ErrorCode::UniqueViolation);
        context.close().await?;
        let again = AppContext::open(Arc::new(backend.reopen()), Config::default()).await?;
        assert_eq!(count(&again, "e").await?, 0);
        sql(&again, "INSERT INTO e VALUES (1, 'new')").await?;
        assert_eq!(count(&again, "e").await?, 1);
        Ok(())
    })
}

#[test]
fn what_is_older_than_the_time_to_live_is_gone_for_every_statement() -> Result<()> {
    block_on(async {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        sql(
            &context,
            "CREATE STREAM TABLE e (id INT PRIMARY KEY, v INT) WITH (TTL_SECONDS = 1);
             CREATE STREAM TABLE kept (id INT PRIMARY KEY, v INT) WITH (TTL_SECONDS = 3600);
             CREATE VIEW seen AS SELECT * FROM e;
             INSERT INTO e VALUES (1, 1), (2, 2); INSERT INTO kept VALUES (1, 1)",
        )
        .await?;
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(count(&context, "e").await?, 0);
        assert_eq!(count(&context, "e WHERE id = 1").await?, 0, "the short path");
        assert_eq!(count(&context, "e WHERE id + 0 = 1").await?, 0, "the planner");
        assert_eq!(count(&context, "seen").await?, 0);
        assert_eq!(count(&context, "kept k JOIN e ON k.id = e.id").await?, 0);
        assert_eq!(sql(&context, "UPDATE e SET v = 9").await?.rows_affected, 0);
        assert_eq!(sql(&context, "UPDATE e SET v = 9 WHERE id = 1").await?.rows_affected, 0);
        assert_eq!(sql(&context, "DELETE FROM e").await?.rows_affected, 0);
        // The keys are free again.
        sql(&context, "INSERT INTO e VALUES (1, 3)").await?;
        assert_eq!(count(&context, "kept").await?, 1);
        Ok(())
    })
}

#[test]
fn memory_is_given_back_by_the_second() -> Result<()> {
    block_on(async {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        sql(
            &context,
            "CREATE STREAM TABLE e (id INT PRIMARY KEY, half INT UNIQUE) WITH (TTL_SECONDS = 60);
             CREATE INDEX e_half ON e (half);
             CREATE STREAM TABLE bag (id INT) WITH (TTL_SECONDS = 120);
             CREATE TABLE t (id INT PRIMARY KEY);
             INSERT INTO e SELECT value, value FROM generate_series(1, 10000) AS g(value);
             INSERT INTO bag VALUES (1), (2); INSERT INTO t VALUES (1)",
        )
        .await?;
        let store = context.store();
        let now = platform::now_ms();
        assert_eq!(store.statistics().hot_rows, 10_003);
        assert_eq!(count(&context, "e WHERE half < 10 ORDER BY half").await?, 9);
        assert!(store.statistics().hot_index_bytes > 10_000);
        assert_eq!(store.evict_expired_at(now + 50_000), 0);
        assert_eq!(store.evict_expired_at(now + 61_000), 10_000);
        assert_eq!(store.statistics().hot_rows, 3);
        // What leads to them too.
        assert!(store.statistics().hot_index_bytes < 1000, "{:?}", store.statistics());
        assert_eq!(store.evict_expired_at(now + 61_000), 0, "once");
        assert_eq!(store.evict_expired_at(now + 90_000), 0);
        // Nobody has to touch them for that.
        sql(&context, "ALTER TABLE bag SET (TTL_SECONDS = 80)").await?;
        assert_eq!(store.evict_expired_at(now + 91_000), 2);
        assert_eq!(store.statistics().hot_rows, 1, "tables that are no streams keep their rows");
        sql(&context, "INSERT INTO e VALUES (1, 1)").await?;
        assert_eq!(count(&context, "t").await?, 1);
        Ok(())
    })
}

/// A commit over a stream and a table, as a transaction makes it.
async fn mixed(context: &AppContext, id: i32) -> Result<Durability> {
    let mut writes = Vec::new();
    for name in ["e", "t"] {
        let table = table(context, name).await?;
        let scope = ScopeKey { table_no: table.definition().table_no, user: None };
        let hot = context.store().hot(&scope, table.definition()).await?;
        let column: ArrayRef = Arc::new(Int32Array::from(vec![id]));
        let batch = RecordBatch::try_new(table.arrow_schema()?, vec![column]).map_err(KalamError::internal)?;
        let rows = prepare_rows(table.definition(), &batch, None)?;
        let schema_version = table.schema_version();
        writes.push(ScopeWrite {
            scope,
            hot,
            schema_version,
            rows,
            replaced: Vec::new(),
            deleted: Vec::new(),
            checked: ColdCheck::NoNewKeys,
        });
    }
    let receipt = context.store().submit(writes, Durability::Strict, None)?.await?;
    Ok(receipt.durability)
}

#[test]
fn a_mixed_commit_stores_the_table_and_fails_as_a_whole() -> Result<()> {
    block_on(async {
        let backend = Faulty::new(MemoryBackend::new());
        backend.durable.store(true, Ordering::Relaxed);
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        let key = "(id INT PRIMARY KEY)";
        sql(&context, &format!("CREATE STREAM TABLE e {key} WITH (TTL_SECONDS = 60); CREATE TABLE t {key}")).await?;
        sql(&context, "INSERT INTO e VALUES (1), (2)").await?;
        sql(&context, "DELETE FROM e WHERE id = 2").await?;
        assert_eq!(mixed(&context, 3).await?, Durability::Strict);
        assert_eq!((count(&context, "e").await?, count(&context, "t").await?), (2, 1));

        backend.failures.store(u32::MAX, Ordering::Relaxed);
        let error = mixed(&context, 4).await.expect_err("storage fails");
        assert_eq!(error.code(), ErrorCode::QuotaExceeded);
        // The stream is as readers saw it, and goes on without storage.
        assert_eq!((count(&context, "e").await?, count(&context, "t").await?), (2, 1));
        sql(&context, "INSERT INTO e VALUES (4)").await?;
        let taken = sql(&context, "INSERT INTO e VALUES (1)").await.expect_err("still there");
        assert_eq!(taken.code(), ErrorCode::UniqueViolation);
        assert_eq!(count(&context, "e").await?, 3);

        backend.failures.store(0, Ordering::Relaxed);
        let again = AppContext::open(Arc::new(backend.inner().reopen()), Config::default()).await?;
        assert_eq!((count(&again, "e").await?, count(&again, "t").await?), (0, 1));
        Ok(())
    })
}

/// `_seq` never goes back: with a clock that was a day ahead it stays there until the clock has caught up.
#[test]
fn events_end_by_a_clock_that_was_set_back() -> Result<()> {
    block_on(async {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        sql(&context, "CREATE STREAM TABLE e (id INT PRIMARY KEY) WITH (TTL_SECONDS = 2); INSERT INTO e VALUES (1)")
            .await?;
        let seqs = context.store().seqs();
        seqs.observe(seqs.take(1).first() + (86_400_000 << 22));
        sql(&context, "INSERT INTO e VALUES (2), (3)").await?;
        assert_eq!(count(&context, "e").await?, 3);
        std::thread::sleep(std::time::Duration::from_millis(2100));
        assert_eq!(count(&context, "e").await?, 0);
        assert_eq!(count(&context, "e WHERE id = 2").await?, 0);
        sql(&context, "INSERT INTO e VALUES (2)").await?;
        assert_eq!(count(&context, "e").await?, 1);
        Ok(())
    })
}
