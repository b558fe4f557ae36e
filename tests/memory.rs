//! One statement that is larger than the budget of memory: it works, or it fails cleanly.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::sql::{ExecuteOptions, Params, StatementResult};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::{KalamDataType, Value};

const HOT: usize = 1 << 20;
const QUERIES: usize = 6 << 20;

struct Database(Arc<AppContext>);

impl Database {
    fn open() -> Result<Self> {
        let config = Config { hot_limit: HOT, memory_limit: QUERIES, segment_cache: 1 << 20, ..Config::default() };
        block_on(AppContext::open(Arc::new(MemoryBackend::new()), config)).map(Self)
    }

    fn exec(&self, sql: &str) -> Result<StatementResult> {
        let options = ExecuteOptions::default();
        let results = block_on(self.0.executor().execute(self.0.session(), sql, &Params::default(), &options));
        Ok(results.map_err(|e| e.in_context(sql))?.pop().unwrap_or_default())
    }

    fn changed(&self, sql: &str) -> Result<u64> {
        Ok(self.exec(sql)?.rows_affected)
    }

    fn numbers(&self, sql: &str) -> Result<Vec<i64>> {
        let rows = self.exec(sql)?.rows.expect("a query");
        let value = |i| match Value::from_array(rows.batches[0].column(i), 0, &KalamDataType::BigInt) {
            Ok(Value::BigInt(n)) => n,
            other => panic!("{sql}: {other:?}"),
        };
        Ok((0..rows.schema.fields().len()).map(value).collect())
    }

    /// The statement does not fit: it says so, and nothing of it is there.
    fn refused(&self, sql: &str) {
        let error: KalamError = self.exec(sql).err().unwrap_or_else(|| panic!("{sql} should not fit"));
        assert_eq!(error.code(), ErrorCode::OutOfMemory, "{sql}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("memoryLimit")), "{error:?}");
        assert_eq!(self.0.executor().query_memory(), 0, "{sql} still holds memory");
    }

    fn hot_bytes(&self) -> u64 {
        self.0.store().statistics().hot_bytes
    }
}

/// About 50 bytes a row.
fn rows(from: u32, to: u32) -> String {
    format!("SELECT value, 1, 'a text of this row ' || CAST(value AS TEXT) FROM generate_series({from}, {})", to - 1)
}

#[test]
fn a_statement_larger_than_the_hot_tier_works() -> Result<()> {
    let db = Database::open()?;
    db.exec("CREATE TABLE t (id INT PRIMARY KEY, n BIGINT, s TEXT)")?;
    assert_eq!(db.changed(&format!("INSERT INTO t {}", rows(0, 80_000)))?, 80_000);
    assert!(db.hot_bytes() > 2 * HOT as u64, "{} bytes", db.hot_bytes());
    // Whoever writes next makes room first.
    assert_eq!(db.changed("UPDATE t SET n = n + id WHERE id % 2 = 0")?, 40_000);
    let statistics = db.0.store().statistics();
    assert_eq!((statistics.cold_rows, statistics.hot_rows), (40_000, 40_000));
    db.changed("INSERT INTO t VALUES (-1, 0, NULL)")?;
    assert!(db.hot_bytes() < HOT as u64, "{} bytes", db.hot_bytes());
    // All rows, from segments, through a cache that they do not fit in.
    assert_eq!(db.changed("UPDATE t SET n = n + 1")?, 80_001);
    assert_eq!(db.numbers("SELECT count(*), sum(n) FROM t")?, [80_001, 40_000 * 39_999 + 80_000 + 80_001]);
    assert_eq!(db.changed("DELETE FROM t")?, 80_001);
    assert_eq!(db.numbers("SELECT count(*) FROM t")?, [0]);
    Ok(())
}

#[test]
fn a_statement_larger_than_the_limit_leaves_nothing_behind() -> Result<()> {
    let db = Database::open()?;
    db.exec("CREATE TABLE t (id INT PRIMARY KEY, n BIGINT, s TEXT)")?;
    let state = || db.numbers("SELECT count(*), coalesce(sum(n), 0) FROM t");
    db.refused(&format!("INSERT INTO t {}", rows(0, 1_000_000)));
    db.refused(&format!("CREATE TABLE u AS {}", rows(0, 1_000_000)));
    assert_eq!(state()?, [0, 0]);
    assert_eq!(db.exec("SELECT * FROM u").err().map(|e| e.code()), Some(ErrorCode::TableNotFound));
    // Grown in pieces the table is larger than any statement may be.
    for from in [0, 80_000, 160_000] {
        db.changed(&format!("INSERT INTO t {}", rows(from, from + 80_000)))?;
    }
    for flushed in [false, true] {
        for sql in [
            "UPDATE t SET n = n + 1",
            "UPDATE t SET id = -id",
            "INSERT INTO t SELECT id, n + 1, s FROM t WHERE true ON CONFLICT (id) DO UPDATE SET n = excluded.n",
            "INSERT OR REPLACE INTO t SELECT id, 0, s FROM t",
        ] {
            db.refused(sql);
            assert_eq!(state()?, [240_000, 240_000], "{sql}");
        }
        if !flushed {
            db.exec("STORAGE FLUSH ALL")?;
        }
    }
    // A transaction that runs into it is over; the session goes on.
    db.exec("BEGIN")?;
    db.changed("UPDATE t SET n = 7 WHERE id = 1")?;
    db.refused("UPDATE t SET n = 8");
    db.exec("ROLLBACK")?;
    assert_eq!(state()?, [240_000, 240_000]);
    for from in [0, 80_000, 160_000] {
        assert_eq!(db.changed(&format!("UPDATE t SET n = n + 1 WHERE id >= {from} AND id < {from} + 80000"))?, 80_000);
    }
    assert_eq!(state()?, [240_000, 480_000]);
    Ok(())
}
