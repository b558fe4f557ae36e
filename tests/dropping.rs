//! Who reads a table finishes on its snapshot, whatever is dropped meanwhile; and nothing of what was dropped stays.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;
use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::sql::{Cursor, ExecuteOptions, Params, Session, StatementResult};
use kalamdb::storage::{KeyRange, MemoryBackend, Partition, ScanOptions, StorageBackend};

#[path = "support/faulty.rs"]
mod faulty;

use faulty::{Fault, Faulty, Outcome};

/// Several row groups.
const ROWS: i32 = 80_000;

struct Database {
    backend: Arc<MemoryBackend>,
    context: Arc<AppContext>,
}

impl Database {
    /// Without a cache, so that everything is read from storage when it is asked for.
    async fn on(backend: MemoryBackend) -> Result<Self> {
        let backend = Arc::new(backend);
        let config = Config { segment_cache: 0, ..Config::default() };
        let context = AppContext::open(Arc::clone(&backend) as _, config).await?;
        Ok(Self { backend, context })
    }

    /// What a process finds that starts now.
    async fn again(&self) -> Result<Self> {
        Self::on(self.backend.reopen()).await
    }

    async fn sql(&self, text: &str) -> Result<StatementResult> {
        self.sql_as(self.context.session(), text).await
    }

    async fn sql_as(&self, session: &Session, text: &str) -> Result<StatementResult> {
        let done = self.context.executor().execute(session, text, &Params::default(), &ExecuteOptions::default()).await;
        Ok(done.map_err(|e| e.in_context(text))?.pop().unwrap_or_default())
    }

    async fn cursor(&self, session: &Session, text: &str) -> Result<Cursor> {
        Cursor::open(self.context.executor(), session, text, &Params::default(), &ExecuteOptions::default()).await
    }

    /// Records of rows that are stored: log, manifest and blobs, and those of what was dropped.
    async fn stored(&self) -> Result<usize> {
        let mut n = 0;
        for partition in [Partition::Log, Partition::Manifest, Partition::Blob] {
            n += self.backend.scan(partition, &KeyRange::all(), ScanOptions::default()).await?.len();
        }
        let range = KeyRange::prefix(b"dropped/");
        Ok(n + self.backend.scan(Partition::Meta, &range, ScanOptions::default()).await?.len())
    }

    async fn run_jobs(&self) {
        self.context.jobs().run_due().await;
    }
}

/// Reads ids; of a cursor that was read to the end they are all there, in order.
async fn read(cursor: &mut Cursor, most: usize) -> Result<Vec<i32>> {
    let mut ids = Vec::new();
    while ids.len() < most
        && let Some(batch) = cursor.next(most - ids.len()).await?
    {
        ids.extend(batch.column(0).as_primitive::<Int32Type>().values());
    }
    Ok(ids)
}

async fn table(name: &str) -> Result<Database> {
    let db = Database::on(MemoryBackend::new()).await?;
    for text in [
        format!("CREATE TABLE {name} (id INT PRIMARY KEY, v TEXT)"),
        format!(
            "INSERT INTO {name} SELECT value, 'row ' || CAST(value * 7919 AS TEXT) FROM generate_series(0, {})",
            ROWS - 1
        ),
        format!("STORAGE FLUSH TABLE {name}"),
        // Rows in the log, and marks of rows in the segment.
        format!("INSERT INTO {name} VALUES ({ROWS}, 'hot')"),
        format!("DELETE FROM {name} WHERE id = {}", ROWS - 10),
    ] {
        db.sql(&text).await?;
    }
    Ok(db)
}

fn expected() -> Vec<i32> {
    (0..=ROWS).filter(|id| *id != ROWS - 10).collect()
}

#[test]
fn a_cursor_finishes_on_a_table_that_was_dropped_or_truncated() -> Result<()> {
    block_on(async {
        let sample = table("t").await?;
        for (statement, drops) in [("DROP TABLE t", true), ("TRUNCATE t", false)] {
            for (touched, taken) in [(true, 10), (true, 0), (false, 10), (false, 0)] {
                let what = format!("{statement}, touched before: {touched}, {taken} rows taken");
                let db = sample.again().await?;
                if touched {
                    db.sql("SELECT v FROM t WHERE id = 1").await?;
                }
                let mut cursor = db.cursor(db.context.session(), "SELECT id, v FROM t ORDER BY id + 0").await?;
                let mut unsorted = db.cursor(db.context.session(), "SELECT id, v FROM t").await?;
                let mut ids = read(&mut unsorted, taken).await?;
                db.sql(statement).await?;
                db.run_jobs().await;
                match db.sql("SELECT count(*) FROM t").await {
                    Ok(_) => assert!(!drops, "{what}"),
                    Err(error) => assert!(drops && error.code() == ErrorCode::TableNotFound, "{what}: {error}"),
                }
                // A process that dies here leaves nothing behind.
                let crashed = db.again().await?;
                if drops {
                    assert_eq!(crashed.stored().await?, 0, "{what}: after a crash");
                    let report = crashed.sql("STORAGE CHECK").await?.rows.expect("a report");
                    let status = report.batches[0].column(1).as_string::<i32>();
                    assert!(status.iter().all(|s| s == Some("ok")), "{what}");
                }
                ids.extend(read(&mut unsorted, usize::MAX).await.map_err(|e| e.in_context(&what))?);
                assert_eq!(ids, expected(), "{what}");
                assert_eq!(read(&mut cursor, usize::MAX).await.map_err(|e| e.in_context(&what))?, expected(), "{what}");
                if drops {
                    assert!(db.stored().await? > 0, "{what}: it was read until now");
                    drop((cursor, unsorted));
                    db.run_jobs().await;
                    assert_eq!(db.stored().await?, 0, "{what}");
                }
                // The name is free, and what comes under it is kept.
                db.sql("CREATE TABLE IF NOT EXISTS t (id INT PRIMARY KEY, v TEXT)").await?;
                db.sql("INSERT INTO t VALUES (1, 'new'); STORAGE FLUSH TABLE t").await?;
                let mut again = db.cursor(db.context.session(), "SELECT id FROM t").await?;
                assert_eq!(read(&mut again, 10).await?, [1], "{what}");
                let reopened = db.again().await?;
                let mut again = reopened.cursor(reopened.context.session(), "SELECT id FROM t").await?;
                assert_eq!(read(&mut again, 10).await?, [1], "{what}");
            }
        }
        Ok(())
    })
}

/// The second input of a query is opened when the first is read to its end.
#[test]
fn a_query_finds_a_table_that_it_had_not_begun_to_read() -> Result<()> {
    block_on(async {
        let sample = table("t").await?;
        sample.sql("CREATE TABLE first (id INT PRIMARY KEY)").await?;
        sample.sql("INSERT INTO first SELECT value FROM generate_series(-1000, -1); STORAGE FLUSH TABLE first").await?;
        for touched in [true, false] {
            let db = sample.again().await?;
            if touched {
                db.sql("SELECT v FROM t WHERE id = 1").await?;
            }
            let text = "SELECT id FROM first UNION ALL SELECT id FROM t";
            let mut cursor = db.cursor(db.context.session(), text).await?;
            assert_eq!(read(&mut cursor, 2).await?, [-1000, -999]);
            db.sql("DROP TABLE t").await?;
            db.run_jobs().await;
            assert_eq!(read(&mut cursor, 998).await?.len(), 998);
            assert_eq!(read(&mut cursor, usize::MAX).await?, expected());
        }
        Ok(())
    })
}

#[test]
fn who_reads_the_rows_of_a_user_that_is_dropped_finishes() -> Result<()> {
    block_on(async {
        let db = Database::on(MemoryBackend::new()).await?;
        db.sql("CREATE USER ann; CREATE USER TABLE notes (id INT PRIMARY KEY, v TEXT)").await?;
        let ann = db.context.session_as("ann").await?;
        let rows = format!("INSERT INTO notes SELECT value, 'note' FROM generate_series(0, {})", ROWS - 1);
        db.sql_as(&ann, &rows).await?;
        db.sql("INSERT INTO notes VALUES (1, 'mine'); STORAGE FLUSH ALL").await?;
        db.sql_as(&ann, &format!("INSERT INTO notes VALUES ({ROWS}, 'hot')")).await?;
        db.sql_as(&ann, &format!("DELETE FROM notes WHERE id = {}", ROWS - 10)).await?;
        let without = db.again().await?;
        without.sql("DROP USER ann CASCADE").await?;
        let least = without.stored().await?;
        assert_eq!(without.again().await?.stored().await?, least);
        for (taken, touched, back) in [(10, true, false), (0, true, true), (10, false, true), (0, false, false)] {
            let what = format!("{taken} rows taken, touched before: {touched}, the user is back: {back}");
            let db = db.again().await?;
            let ann = db.context.session_as("ann").await?;
            if touched {
                db.sql_as(&ann, "SELECT v FROM notes WHERE id = 1").await?;
            }
            let mut cursor = db.cursor(&ann, "SELECT id, v FROM notes").await?;
            let mut ids = read(&mut cursor, taken).await?;
            db.sql("DROP USER ann CASCADE").await?;
            db.run_jobs().await;
            let crashed = db.again().await?;
            assert_eq!(crashed.stored().await?, least, "{what}: after a crash");
            if back {
                db.sql("CREATE USER ann").await?;
                let ann = db.context.session_as("ann").await?;
                db.sql_as(&ann, "INSERT INTO notes VALUES (7, 'again')").await?;
            }
            ids.extend(read(&mut cursor, usize::MAX).await.map_err(|e| e.in_context(&what))?);
            assert_eq!(ids, expected(), "{what}");
            drop(cursor);
            db.run_jobs().await;
            let reopened = db.again().await?;
            for db in [&db, &reopened] {
                if back {
                    let ann = db.context.session_as("ann").await?;
                    let mut cursor = db.cursor(&ann, "SELECT id FROM notes").await?;
                    assert_eq!(read(&mut cursor, 10).await?, [7], "{what}");
                } else {
                    assert_eq!(db.stored().await?, least, "{what}");
                }
                let mut mine = db.cursor(db.context.session(), "SELECT id FROM notes").await?;
                assert_eq!(read(&mut mine, 10).await?, [1], "{what}");
            }
        }
        Ok(())
    })
}

/// A writer that had found its rows before the table was dropped is told so.
#[test]
fn a_transaction_over_a_table_that_was_dropped_fails() -> Result<()> {
    block_on(async {
        let db = table("t").await?;
        let session = Session::new("default");
        db.sql_as(&session, "BEGIN; UPDATE t SET v = 'changed' WHERE id < 5").await?;
        db.sql("DROP TABLE t").await?;
        let error = db.sql_as(&session, "COMMIT").await.expect_err("the table is gone");
        assert_eq!(error.code(), ErrorCode::Conflict, "{error}");
        db.run_jobs().await;
        assert_eq!(db.stored().await?, 0);
        Ok(())
    })
}

/// A DROP that storage took, and then reported an error of: nobody was told that the table is gone.
#[test]
fn who_reads_a_table_finishes_when_its_drop_failed_by_half() -> Result<()> {
    block_on(async {
        let db = table("t").await?;
        db.sql("CREATE TABLE other (id INT PRIMARY KEY)").await?;
        db.context.close().await?;
        for call in 0.. {
            let backend = Faulty::new(db.backend.reopen());
            let config = Config { segment_cache: 0, ..Config::default() };
            let context = AppContext::open(Arc::clone(&backend) as _, config).await?;
            let (session, params, options) = (context.session(), Params::default(), ExecuteOptions::default());
            let run = |text: &'static str| context.executor().execute(session, text, &params, &options);
            let all = "SELECT id FROM t";
            let mut cursor = Cursor::open(context.executor(), session, all, &params, &options).await?;
            let mut ids = read(&mut cursor, 10).await?;
            backend.arm(call, Fault::Lose, ErrorCode::StorageError);
            let dropped = run("DROP TABLE t").await;
            let reached = backend.disarm();
            // Whoever drops another table removes what is left of this one.
            run("DROP TABLE other").await?;
            context.jobs().run_due().await;
            ids.extend(read(&mut cursor, usize::MAX).await.map_err(|e| e.in_context(format_args!("call {call}")))?);
            assert!(ids == expected(), "call {call}: {} rows, {dropped:?}", ids.len());
            drop(cursor);
            if reached == Outcome::NotReached {
                break;
            }
            if run("SELECT id FROM t LIMIT 1").await.is_err() {
                run("CREATE TABLE other (id INT PRIMARY KEY)").await?;
                run("DROP TABLE other").await?;
                let left = backend.scan(Partition::Blob, &KeyRange::all(), ScanOptions::default()).await?;
                assert!(left.is_empty(), "call {call}: {} records of files are left", left.len());
            }
        }
        Ok(())
    })
}
