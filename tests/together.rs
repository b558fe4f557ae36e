//! Statements that run at the same time, each delayed where it waits for storage.
//!
//! A statement runs beside another one, and each of its storage calls is delayed in turn until the other is through: so
//! the other one comes between any two of its steps.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::sql::StatementResult;
use kalamdb::storage::MemoryBackend;

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use faulty::{Fault, Faulty, Outcome};
use support::{last_values, map_cells, sql, text_or_null};

type Outcomes = (Result<Vec<StatementResult>>, Result<Vec<StatementResult>>);

/// Runs two texts at the same time on a database that was just opened, once for each storage call of theirs, which is
/// delayed; shows `look` the database and how they ended.
fn run_together(setup: &str, one: &str, other: &str, look: impl Fn(&AppContext, Outcomes) -> Result<()>) -> Result<()> {
    let prepared = Arc::new(MemoryBackend::new());
    let context = block_on(AppContext::open(Arc::clone(&prepared) as _, Config::default()))?;
    block_on(sql(&context, setup))?;
    // Behind a journal a commit is mostly done at once.
    for journal in [false, true] {
        for call in 0.. {
            let backend = Faulty::new(prepared.reopen()).with_journal(journal);
            let context = block_on(async { AppContext::open(backend.front().await?, Config::default()).await })?;
            backend.arm(call, Fault::Delay, ErrorCode::StorageError);
            let outcomes = block_on(async { futures::join!(sql(&context, one), sql(&context, other)) });
            let reached = backend.disarm();
            look(&context, outcomes)
                .map_err(|e| e.in_context(format_args!("call {call}, with a journal: {journal}")))?;
            if reached == Outcome::NotReached {
                break;
            }
        }
    }
    Ok(())
}

fn rows(context: &AppContext, text: &str) -> Result<Vec<String>> {
    let cells = map_cells(last_values(&block_on(sql(context, text))?)?, text_or_null);
    Ok(cells.into_iter().map(|cells| cells.join(" ")).collect())
}

/// The plan of a statement that an ALTER overtook is of the table as it was: nobody else may run it.
#[test]
fn a_plan_of_a_table_of_the_past_is_not_kept() -> Result<()> {
    let setup = "CREATE TABLE t (k INT PRIMARY KEY, a INT, b INT); INSERT INTO t VALUES (1, 10, 20), (2, 11, 21)";
    let update = "UPDATE t SET b = b + 1 WHERE b > 0";
    for (alter, expected) in [
        ("ALTER TABLE t ADD COLUMN c INT DEFAULT 7", ["1 10 23 7", "2 11 24 7"]),
        ("ALTER TABLE t DROP COLUMN a, ADD COLUMN c INT DEFAULT 7", ["1 23 7", "2 24 7"]),
    ] {
        run_together(setup, update, alter, |context, (updated, altered)| {
            updated?;
            altered?;
            // With what is kept by then.
            for _ in 0..2 {
                assert_eq!(block_on(sql(context, update))?[0].rows_affected, 2);
            }
            assert_eq!(rows(context, "SELECT * FROM t ORDER BY k")?, expected);
            Ok(())
        })?;
    }
    Ok(())
}

/// A scrub reads records of one moment, whatever is written meanwhile, and files that stay.
#[test]
fn a_scrub_beside_writers_finds_a_sound_database() -> Result<()> {
    let setup = "CREATE TABLE t (k INT PRIMARY KEY, v TEXT);
        INSERT INTO t SELECT value, 'a' FROM generate_series(1, 40) AS g(value);
        STORAGE FLUSH TABLE t;
        INSERT INTO t SELECT value, 'b' FROM generate_series(41, 60) AS g(value);
        INSERT INTO t VALUES (100, repeat('long', 600000));
        DELETE FROM t WHERE k < 5";
    for other in [
        "TRUNCATE t",
        "DROP TABLE t",
        "CREATE TABLE u (k INT PRIMARY KEY); INSERT INTO u VALUES (1); STORAGE FLUSH TABLE u",
        "ALTER TABLE t ALTER COLUMN v TYPE TEXT USING v || 'x'",
        "DELETE FROM t; STORAGE FLUSH TABLE t; STORAGE COMPACT TABLE t",
    ] {
        run_together(setup, "STORAGE CHECK", other, |_, (checked, done)| {
            done?;
            let found = map_cells(last_values(&checked?)?, text_or_null);
            let unsound: Vec<_> = found.iter().filter(|finding| finding[1] != "ok").collect();
            assert!(unsound.is_empty(), "beside {other}: {unsound:?}");
            Ok(())
        })?;
    }
    Ok(())
}
