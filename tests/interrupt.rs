//! A statement that would run for hours ends when it is cancelled or out of time, whatever it does.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::platform::Instant;
use kalamdb::sql::{ExecuteOptions, Params};
use kalamdb::storage::MemoryBackend;

const ENDLESS: [&str; 5] = [
    "WITH d(x) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)) SELECT sum(a.x * b.x + c.x - h.x) \
     FROM d a, d b, d c, d d, d e, d f, d g, d h, d i, d j WHERE i.x + j.x >= 0",
    "SELECT count(*) FROM generate_series(1, 1000000000000) AS g(x) WHERE x % 7 = 1",
    "SELECT count(*) FROM t a JOIN t b ON a.k = b.k JOIN t c ON b.k = c.k JOIN t d ON c.k = d.k JOIN t e ON d.k = e.k",
    "SELECT count(*) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT * FROM c) q",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT 1 - x FROM c LIMIT 1000000000) SELECT sum(x) FROM c",
];

#[test]
fn endless_statements_end_when_they_are_told_to() -> Result<()> {
    block_on(async {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        let run = async |sql: &str, options: ExecuteOptions| {
            context.executor().execute(context.session(), sql, &Params::default(), &options).await
        };
        let setup = "CREATE TABLE t (k INT); INSERT INTO t SELECT 1 FROM generate_series(1, 5000)";
        run(setup, ExecuteOptions::default()).await?;
        for sql in ENDLESS {
            let deadline = Some(Instant::now() + Duration::from_millis(50));
            let error = run(sql, ExecuteOptions { deadline, ..Default::default() }).await.expect_err(sql);
            assert_eq!(error.code(), ErrorCode::Timeout, "{sql}: {error}");

            let cancelled = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&cancelled);
            let other = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                flag.store(true, Ordering::Relaxed);
            });
            let error = run(sql, ExecuteOptions { cancelled, ..Default::default() }).await.expect_err(sql);
            assert_eq!(error.code(), ErrorCode::Cancelled, "{sql}: {error}");
            other.join().expect("the thread that cancels");
            assert_eq!(context.executor().query_memory(), 0, "memory is given back");
        }
        run("SELECT 1", ExecuteOptions::default()).await?;
        Ok(())
    })
}

/// What takes all of its rows before it gives any is asked between the batches that it gives.
#[test]
fn whatever_collects_rows_is_interrupted_between_its_batches() -> Result<()> {
    const COLLECT: [&str; 5] = ["SortExec", "AggregateExec", "WindowAggExec", "BoundedWindowAggExec", "HashJoinExec"];
    block_on(async {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        let run = async |sql: &str| {
            let options = ExecuteOptions::default();
            context.executor().execute(context.session(), sql, &Params::default(), &options).await
        };
        run("CREATE TABLE t (k INT, n INT); INSERT INTO t SELECT value, value FROM generate_series(1, 100)").await?;
        let mut seen = Vec::new();
        for sql in [
            "SELECT sum(r) FROM (SELECT row_number() OVER (PARTITION BY k ORDER BY n) AS r FROM t) x",
            "SELECT sum(s) FROM (SELECT sum(n) OVER (PARTITION BY k) AS s FROM t) x",
            "SELECT count(*) FROM (SELECT max(n) OVER (ORDER BY k ROWS BETWEEN 1 PRECEDING AND UNBOUNDED FOLLOWING) FROM t) x",
            "SELECT a.k, count(*) FROM t a JOIN t b ON a.k = b.n GROUP BY a.k ORDER BY a.k",
        ] {
            let results = run(&format!("EXPLAIN {sql}")).await?;
            let rows = results[0].rows.clone().expect("a plan");
            let batches: Vec<_> = rows.batches.iter().map(|b| b.column(1)).collect();
            let text: Vec<&str> = batches
                .iter()
                .flat_map(|a| arrow::array::AsArray::as_string::<i32>(a.as_ref()).iter().flatten())
                .collect();
            let physical = text.last().expect("the physical plan");
            let mut above = "";
            for line in physical.lines().map(str::trim) {
                if let Some(operator) = COLLECT.iter().find(|name| line.starts_with(**name)) {
                    assert_eq!(above, "CheckExec", "{operator} in {physical}");
                    seen.push(*operator);
                }
                above = line;
            }
        }
        assert!(COLLECT.iter().all(|operator| seen.contains(operator)), "{seen:?}");
        Ok(())
    })
}

/// A statement that waits for nothing asks at its beginning: of a text with many of them those behind it are not run.
#[test]
fn a_statement_of_a_caller_who_has_given_up_does_not_begin() -> Result<()> {
    block_on(async {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        let run = async |sql: &str, options: ExecuteOptions| {
            context.executor().execute(context.session(), sql, &Params::default(), &options).await
        };
        run("CREATE TABLE t (k INT PRIMARY KEY); INSERT INTO t VALUES (1)", ExecuteOptions::default()).await?;
        let cancelled = || ExecuteOptions { cancelled: Arc::new(AtomicBool::new(true)), ..Default::default() };
        let late = || ExecuteOptions { deadline: Some(Instant::now()), ..Default::default() };
        for text in ["INSERT INTO t VALUES (2)", "UPDATE t SET k = 3 WHERE k = 1", "DELETE FROM t WHERE k = 1"] {
            assert_eq!(run(text, cancelled()).await.expect_err(text).code(), ErrorCode::Cancelled);
            assert_eq!(run(text, late()).await.expect_err(text).code(), ErrorCode::Timeout);
            // In a transaction it fails it, as any other error; to end one is never refused.
            let error = run(&format!("BEGIN; {text}"), cancelled()).await.expect_err(text);
            assert_eq!(error.code(), ErrorCode::Cancelled);
            let error = run(text, ExecuteOptions::default()).await.expect_err(text);
            assert_eq!(error.code(), ErrorCode::FailedTransaction);
            run("ROLLBACK", cancelled()).await?;
        }
        let rows = run("SELECT k FROM t", ExecuteOptions::default()).await?.pop().and_then(|r| r.rows).expect("rows");
        assert_eq!(rows.len(), 1);
        Ok(())
    })
}
