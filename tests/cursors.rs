//! Cursors: rows piece by piece, with plans that are kept.
//!
//! A cursor gives what running the statement gives; it has its plan to itself from its opening to its last row; and it
//! reads the snapshot of its opening.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::sql::{Cursor, ExecuteOptions, Params};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;

mod support;

use support::{last_values, values_of};

async fn open() -> Result<Arc<AppContext>> {
    let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
    exec(
        &context,
        "CREATE TABLE t (id INT PRIMARY KEY, n INT, s SMALLINT);
         INSERT INTO t SELECT value, value % 7, value % 5 FROM generate_series(1, 20000) AS g(value)",
        &[],
    )
    .await?;
    Ok(context)
}

async fn exec(context: &AppContext, sql: &str, values: &[Value]) -> Result<Vec<Vec<Value>>> {
    let params = Params::Positional(values.to_vec());
    let results = context.executor().execute(context.session(), sql, &params, &ExecuteOptions::default()).await?;
    last_values(&results)
}

async fn cursor(context: &AppContext, sql: &str, values: &[Value]) -> Result<Cursor> {
    let params = Params::Positional(values.to_vec());
    Cursor::open(context.executor(), context.session(), sql, &params, &ExecuteOptions::default()).await
}

/// Everything that is left.
async fn rest(cursor: &mut Cursor, step: usize) -> Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    while let Some(batch) = cursor.next(step).await? {
        assert!(batch.num_rows() <= step);
        rows.extend(values_of(&batch)?);
    }
    Ok(rows)
}

async fn hits(context: &AppContext) -> Result<i64> {
    let sql = "SELECT value FROM system.stats WHERE name = 'plan_cache_hits'";
    match exec(context, sql, &[]).await?.as_slice() {
        [row] => match row[..] {
            [Value::BigInt(hits)] => Ok(hits),
            _ => panic!("{row:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cursor_gives_what_the_statement_gives() -> Result<()> {
    block_on(async {
        let context = open().await?;
        for sql in [
            "SELECT id, n FROM t WHERE n = $1 ORDER BY id",
            "SELECT n AS x, count(*) FROM t WHERE id > $1 GROUP BY n ORDER BY n",
            "SELECT a.id FROM t a JOIN t b ON a.id = b.id WHERE b.s = $1 ORDER BY a.id",
            "SELECT id FROM t WHERE id = $1",
            "SELECT id FROM t WHERE id = ANY ($1) ORDER BY id",
            "SELECT id, now() > TIMESTAMP '2020-01-01 00:00:00' FROM t WHERE id = $1",
            "SELECT id FROM t WHERE id >= $1 ORDER BY id LIMIT 5000",
        ] {
            for (value, step) in [(3, 7), (1, 1000), (5, 100_000), (40_000, 10), (2, 9000)] {
                let value =
                    if sql.contains("ANY") { Value::Json(format!("[{value}, 9]")) } else { Value::BigInt(value) };
                let values = [value];
                let mut opened = cursor(&context, sql, &values).await?;
                let found = rest(&mut opened, step).await?;
                assert_eq!(found, exec(&context, sql, &values).await?, "{sql} {values:?}");
                assert_eq!(opened.next(1).await?, None, "and nothing after the end");
            }
        }
        Ok(())
    })
}

#[test]
fn a_kept_plan_serves_one_cursor_at_a_time() -> Result<()> {
    block_on(async {
        let context = open().await?;
        let sql = "SELECT id FROM t WHERE n = $1 ORDER BY s, id";
        let expected = |n: i64| (0..5).flat_map(move |s| (1..=20_000).filter(move |id| id % 7 == n && id % 5 == s));
        let ids = |rows: Vec<Vec<Value>>| -> Vec<i64> {
            let id = |row: Vec<Value>| match row[..] {
                [Value::BigInt(id)] => id,
                _ => panic!("{row:?}"),
            };
            rows.into_iter().map(id).collect()
        };
        // Three at once, read in turns, each with its own value.
        let mut cursors = Vec::new();
        for n in 0..3 {
            cursors.push((n, cursor(&context, sql, &[Value::BigInt(n)]).await?, Vec::new()));
        }
        loop {
            let mut read = false;
            for (_, cursor, rows) in &mut cursors {
                if let Some(batch) = cursor.next(500).await? {
                    rows.extend(values_of(&batch)?);
                    read = true;
                }
            }
            if !read {
                break;
            }
        }
        for (n, _, rows) in cursors {
            assert_eq!(ids(rows), expected(n).collect::<Vec<_>>());
        }
        // Read to its end, a cursor gives its plan back, also before it is dropped; one that is open does not.
        hits(&context).await?;
        let before = hits(&context).await?;
        let mut ended = cursor(&context, sql, &[Value::BigInt(4)]).await?;
        assert_eq!(ids(rest(&mut ended, 1000).await?), expected(4).collect::<Vec<_>>());
        exec(&context, sql, &[Value::BigInt(5)]).await?;
        assert_eq!(hits(&context).await? - before, 3, "the cursor, the statement and the question itself");
        let left_open = cursor(&context, sql, &[Value::BigInt(6)]).await?;
        assert_eq!(exec(&context, sql, &[Value::BigInt(5)]).await?.len(), expected(5).count());
        assert_eq!(hits(&context).await? - before, 5, "the open cursor and the question");
        drop(left_open);
        Ok(())
    })
}

#[test]
fn a_cursor_reads_the_snapshot_of_its_opening_and_can_be_cancelled() -> Result<()> {
    block_on(async {
        let context = open().await?;
        let sql = "SELECT count(*) FROM t WHERE n >= $1";
        exec(&context, sql, &[Value::BigInt(0)]).await?;
        let mut before = cursor(&context, sql, &[Value::BigInt(0)]).await?;
        exec(&context, "DELETE FROM t WHERE id > 100", &[]).await?;
        assert_eq!(rest(&mut before, 10).await?, [[Value::BigInt(20_000)]]);
        let mut after = cursor(&context, sql, &[Value::BigInt(0)]).await?;
        assert_eq!(rest(&mut after, 10).await?, [[Value::BigInt(100)]]);

        let options = ExecuteOptions::default();
        let params = Params::Positional(vec![Value::BigInt(0)]);
        let mut given_up = Cursor::open(context.executor(), context.session(), sql, &params, &options).await?;
        options.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
        let error = given_up.next(10).await.expect_err("it was cancelled");
        assert_eq!(error.code(), ErrorCode::Cancelled);
        drop(given_up);
        let mut again = cursor(&context, sql, &[Value::BigInt(0)]).await?;
        assert_eq!(rest(&mut again, 10).await?, [[Value::BigInt(100)]]);
        Ok(())
    })
}
