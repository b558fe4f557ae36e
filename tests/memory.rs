//! What is larger than the budget of memory, a statement, a transaction or a stream: it works, or it fails cleanly.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, StringArray};
use arrow::record_batch::RecordBatch;
use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::ingest::{CsvOptions, Format};
use kalamdb::sql::{ExecuteOptions, ImportOptions, Importer, Params, Session, StatementResult, insert_columns};
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
        self.does_not_fit(self.exec(sql), sql);
    }

    fn does_not_fit(&self, outcome: Result<StatementResult>, what: &str) {
        let error: KalamError = outcome.err().unwrap_or_else(|| panic!("{what} should not fit"));
        assert_eq!(error.code(), ErrorCode::OutOfMemory, "{what}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("memoryLimit")), "{error:?}");
        assert_eq!(self.0.executor().query_memory(), 0, "{what} still holds memory");
    }

    /// Imports a file that arrives in pieces of 64 KiB.
    fn import(&self, table: &str, format: Format, bytes: &[u8]) -> Result<StatementResult> {
        block_on(async {
            let options = ImportOptions { format, create: true, csv: CsvOptions::default() };
            let (executor, session) = (Arc::clone(self.0.executor()), Arc::clone(self.0.session()));
            let mut importer = Importer::open(executor, session, table, options, ExecuteOptions::default()).await?;
            for piece in bytes.chunks(64 << 10) {
                importer.push(piece).await?;
            }
            importer.finish(|_| {}).await
        })
    }

    /// Inserts rows that do not come as SQL.
    fn insert(&self, batches: Vec<RecordBatch>) -> Result<StatementResult> {
        let options = ExecuteOptions::default();
        block_on(insert_columns(self.0.executor(), self.0.session(), &options, "t", batches))
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

/// A recursion gives each of its rows by itself, so there is more around a row than in it.
#[test]
fn a_recursion_without_end_runs_out_of_memory() -> Result<()> {
    let db = Database::open()?;
    for sql in [
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION SELECT x + 1 FROM c) SELECT count(*) FROM c",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c CROSS JOIN (VALUES (1), (2)) v) SELECT sum(x) FROM c",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c ORDER BY x",
    ] {
        db.refused(sql);
    }
    // What is held of each row is counted as long as it is held.
    let rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 10000) SELECT x FROM c";
    let batches = db.exec(rows)?.rows.expect("a query").batches;
    let held: usize = batches.iter().map(|b| b.get_array_memory_size()).sum();
    assert!(db.0.executor().query_memory_peak() >= held, "{held} bytes");
    Ok(())
}

/// Rows of ids and texts of so many bytes.
fn batch(ids: std::ops::Range<i32>, bytes: usize) -> RecordBatch {
    let texts: StringArray = ids.clone().map(|id| Some(format!("{id:0bytes$}"))).collect();
    let columns: [ArrayRef; 2] = [Arc::new(Int32Array::from_iter_values(ids)), Arc::new(texts)];
    RecordBatch::try_from_iter(["id", "s"].into_iter().zip(columns)).expect("two columns")
}

/// What rows become for the log is held beside them until the import commits.
#[test]
fn what_is_encoded_counts_too() -> Result<()> {
    let db = Database::open()?;
    db.exec("CREATE TABLE t (id INT PRIMARY KEY, s TEXT)")?;
    // Texts that hardly compress, of four million bytes; as many that do.
    let texts = |text: &dyn Fn(u64) -> String| {
        let texts: StringArray = (0..50_000).map(|id| Some(text(id))).collect();
        let columns: [ArrayRef; 2] = [Arc::new(Int32Array::from_iter_values(0..50_000)), Arc::new(texts)];
        vec![RecordBatch::try_from_iter(["id", "s"].into_iter().zip(columns)).expect("two columns")]
    };
    let noise =
        |id: u64| (1..=5).map(|n| format!("{:016x}", (id * 5 + n).wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    db.does_not_fit(db.insert(texts(&noise)), "texts that do not compress");
    assert_eq!(db.insert(texts(&|id| format!("{id:080}")))?.rows_affected, 50_000);
    Ok(())
}

/// Indexes and orders of keys are memory of the rows that they belong to: they are told, and they make room necessary.
#[test]
fn what_finds_and_orders_rows_counts_as_the_rows_do() -> Result<()> {
    let db = Database::open()?;
    let stats = || {
        let statistics = db.0.store().statistics();
        (statistics.hot_bytes, statistics.hot_index_bytes)
    };
    db.exec("CREATE TABLE t (id INT PRIMARY KEY, n INT)")?;
    // 20 bytes a row with its number and its end, against the order of keys, and the index of n.
    db.changed("INSERT INTO t SELECT 7919 * value % 20000, value FROM generate_series(0, 19999)")?;
    let (bytes, index) = stats();
    assert!(index >= 20_000 * 12, "the keys' index takes {index} bytes");
    assert_eq!(bytes, 20_000 * 16 + index);
    db.exec("SELECT id FROM t WHERE id BETWEEN 100 AND 120")?;
    assert_eq!(stats(), (bytes + 80_000, index + 80_000), "the order of keys");
    db.exec("CREATE INDEX by_n ON t (n)")?;
    db.exec("SELECT id FROM t WHERE n BETWEEN 100 AND 120")?;
    let (bytes, index) = stats();
    assert!(index > 20_000 * 60, "with an index of n they take {index} bytes");
    assert!(bytes > HOT as u64 && bytes - index < HOT as u64, "{bytes} bytes, {index} of them for indexes");
    // Whoever writes next but one makes room: the first finds out how much there is.
    db.changed("INSERT INTO t VALUES (-1, 0)")?;
    db.changed("INSERT INTO t VALUES (-2, 0)")?;
    assert!(db.hot_bytes() < HOT as u64 / 16, "{} bytes", db.hot_bytes());
    assert_eq!(db.numbers("SELECT count(*) FROM t WHERE n BETWEEN 0 AND 4")?, [7]);
    Ok(())
}

#[test]
fn what_does_not_come_as_sql_has_the_same_limit() -> Result<()> {
    let db = Database::open()?;
    db.exec("CREATE TABLE t (id INT PRIMARY KEY, s TEXT)")?;
    let csv = |rows: u32| (0..rows).fold("id,s\n".to_owned(), |text, id| text + &format!("{id},x{id:039}\n"));
    let json =
        |rows: u32| (0..rows).fold(String::new(), |text, id| text + &format!("{{\"id\":{id},\"s\":\"{id:040}\"}}\n"));
    // Rows that are too many, and a file that is too large to be there whole.
    for (format, text) in
        [(Format::Csv, csv(300_000)), (Format::NdJson, json(100_000)), (Format::NdJson, json(300_000))]
    {
        for table in ["t", "made"] {
            let what = format!("{format:?} of {} bytes into {table}", text.len());
            db.does_not_fit(db.import(table, format, text.as_bytes()), &what);
        }
    }
    // Many rows, and few large ones; in one piece and in several.
    db.does_not_fit(db.insert(vec![batch(0..200_000, 40)]), "many rows");
    db.does_not_fit(db.insert((0..20).map(|n| batch(n * 10_000..(n + 1) * 10_000, 40)).collect()), "many pieces");
    db.does_not_fit(db.insert(vec![batch(0..1000, 10_000)]), "large rows");
    db.does_not_fit(db.insert((0..1000).map(|n| batch(n..n + 1, 10_000)).collect()), "large rows by themselves");
    assert_eq!(db.numbers("SELECT count(*) FROM t")?, [0]);
    assert_eq!(db.exec("SELECT * FROM made").err().map(|e| e.code()), Some(ErrorCode::TableNotFound));

    // What fits goes in, and gives its memory back.
    assert_eq!(db.import("t", Format::Csv, csv(40_000).as_bytes())?.rows_affected, 40_000);
    assert_eq!(db.import("made", Format::NdJson, json(20_000).as_bytes())?.rows_affected, 20_000);
    assert_eq!(db.insert(vec![batch(40_000..80_000, 40)])?.rows_affected, 40_000);
    assert_eq!(db.numbers("SELECT count(*), sum(id) FROM t")?, [80_000, 40_000 * 79_999]);
    assert_eq!(db.numbers("SELECT count(*) FROM made")?, [20_000]);
    assert_eq!(db.0.executor().query_memory(), 0);
    Ok(())
}

#[test]
fn a_transaction_larger_than_the_limit_leaves_nothing_behind() -> Result<()> {
    let db = Database::open()?;
    db.exec("CREATE TABLE t (id INT PRIMARY KEY, n BIGINT, s TEXT); INSERT INTO t VALUES (-1, 0, 'there')")?;
    let insert = |n: u32| format!("INSERT INTO t {}", rows(n * 5000, (n + 1) * 5000));
    db.exec("BEGIN; UPDATE t SET n = 1; SAVEPOINT first")?;
    // What is taken back takes no memory any more.
    for n in 0..40 {
        db.exec(&insert(n)).map_err(|e| e.in_context(n))?;
        db.exec("ROLLBACK TO first")?;
    }
    let refused = (0..1000).find_map(|n| db.exec(&insert(n)).err()).expect("a transaction without end");
    assert_eq!(refused.code(), ErrorCode::OutOfMemory, "{refused}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("memoryLimit")), "{refused:?}");
    db.exec("ROLLBACK TO first; COMMIT")?;
    assert_eq!(db.0.executor().query_memory(), 0);
    assert_eq!(db.numbers("SELECT count(*), sum(n) FROM t")?, [1, 1]);
    // Rows that are deleted are kept in mind as well.
    db.changed(&format!("INSERT INTO t {}", rows(0, 60_000)))?;
    db.exec("BEGIN")?;
    db.changed("DELETE FROM t WHERE id < 30000")?;
    assert!(db.0.executor().query_memory() > 1 << 20);
    db.exec("ROLLBACK")?;
    assert_eq!(db.0.executor().query_memory(), 0);
    assert_eq!(db.numbers("SELECT count(*) FROM t")?, [60_001]);
    Ok(())
}

/// Events of streams, and rows that an open transaction holds, stay in memory.
#[test]
fn what_cannot_be_flushed_has_a_limit_too() -> Result<()> {
    let db = Database::open()?;
    db.exec(
        "CREATE STREAM TABLE e (id INT PRIMARY KEY, n BIGINT, s TEXT) WITH (TTL_SECONDS = 3600);
         CREATE TABLE t (id INT PRIMARY KEY, n BIGINT, s TEXT)",
    )?;
    let insert = |table: &str, n: u32| db.exec(&format!("INSERT INTO {table} {}", rows(n * 5000, (n + 1) * 5000)));
    let full = |table: &str| {
        let refused = (0..1000).find_map(|n| insert(table, n).err()).expect("there is an end");
        assert_eq!(refused.code(), ErrorCode::OutOfMemory, "{refused}");
        assert!(refused.hint().is_some_and(|hint| hint.contains("memoryBudget")), "{refused:?}");
        assert!(db.hot_bytes() < 2 * (HOT + QUERIES) as u64, "{} bytes", db.hot_bytes());
    };
    full("e");
    // Other tables are flushed.
    insert("t", 0)?;
    insert("t", 1)?;
    // What is too old makes room.
    db.exec("ALTER TABLE e SET (TTL_SECONDS = 1)")?;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    insert("e", 0)?;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    db.0.store().evict_expired();

    let other = Session::new("other");
    let transact = |text: &str| {
        let options = ExecuteOptions::default();
        block_on(db.0.executor().execute(&other, text, &Params::default(), &options)).map(drop)
    };
    db.exec("TRUNCATE t")?;
    transact("BEGIN; INSERT INTO t VALUES (-1, 0, NULL)")?;
    full("t");
    transact("COMMIT")?;
    insert("t", 900)?;
    assert!(db.hot_bytes() < 2 * HOT as u64, "{} bytes", db.hot_bytes());
    Ok(())
}
