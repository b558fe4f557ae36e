//! Tables whose rows are in segments answer as those whose rows are in memory, and read no more than they must.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::schema::TableId;
use kalamdb::sql::{Cursor, ExecuteOptions, Params, StatementResult};
use kalamdb::storage::{Durability, KeyRange, MemoryBackend, Partition, ScanOptions, StorageBackend, WriteBatch};
use kalamdb::tables::{Rewritten, ScopeKey};

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use faulty::{Fault, Faulty, Outcome};
use support::{last_values, map_cells, open_copy, sql, text_or_null};

struct Database {
    backend: Arc<MemoryBackend>,
    context: Arc<AppContext>,
}

impl Database {
    fn open() -> Result<Self> {
        Self::on(Arc::new(MemoryBackend::new()))
    }

    fn on(backend: Arc<MemoryBackend>) -> Result<Self> {
        let context = block_on(AppContext::open(Arc::clone(&backend) as _, Config::default()))?;
        Ok(Self { backend, context })
    }

    fn run(&self, sql: &str) -> Result<StatementResult> {
        let executor = self.context.executor();
        let options = ExecuteOptions::default();
        let mut results = block_on(executor.execute(self.context.session(), sql, &Params::default(), &options))?;
        Ok(results.pop().unwrap_or_default())
    }

    fn exec(&self, sql: &str) -> Result<u64> {
        self.run(sql).map(|r| r.rows_affected).map_err(|e| e.in_context(sql))
    }

    /// Every row as text.
    fn rows(&self, sql: &str) -> Result<Vec<String>> {
        let result = self.run(sql).map_err(|e| e.in_context(sql))?;
        let cells = map_cells(last_values(&[result])?, text_or_null);
        Ok(cells.into_iter().map(|cells| cells.join(" ")).collect())
    }

    fn error(&self, sql: &str) -> KalamError {
        match self.run(sql) {
            Ok(result) => panic!("{sql} should fail, but gave {result:?}"),
            Err(error) => error,
        }
    }

    /// What EXPLAIN ANALYZE tells of a query's scan.
    fn scan_of(&self, sql: &str) -> Result<String> {
        let lines = self.rows(&format!("EXPLAIN ANALYZE {sql}"))?.join("\n");
        let line = lines.lines().find(|l| l.contains("TableScan:") || l.contains("KeyLookup:"));
        Ok(line.unwrap_or(&lines).trim().to_owned())
    }
}

/// A number that EXPLAIN ANALYZE shows: above a thousand it is rounded (`12.30 K`).
fn metric(scan: &str, name: &str) -> f64 {
    let key = format!("{name}=");
    let at = scan.find(&key).unwrap_or_else(|| panic!("no {name} in {scan}"));
    let text = scan[at + key.len()..].split([',', ']']).next().unwrap_or_default();
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let factor = match unit {
        "" => 1.0,
        "K" => 1e3,
        "M" => 1e6,
        other => panic!("unit {other} in {scan}"),
    };
    number.parse::<f64>().unwrap_or_else(|e| panic!("{name}={text}: {e}")) * factor
}

const COLUMNS: &str = "id INT, small SMALLINT, big BIGINT, f FLOAT, d DOUBLE, b BOOLEAN, t TEXT, day DATE, at TIMESTAMP, \
                       n DECIMAL(10,2), u UUID, raw BYTES, PRIMARY KEY (id)";

/// A row of the value `i`, in which every column is NULL now and then.
fn row(i: i64) -> String {
    let or_null = |k: i64, value: String| if i % k == 0 { "NULL".to_owned() } else { value };
    let float = |k: i64| match i % k {
        1 => "'NaN'".to_owned(),
        2 => "'-0.0'".to_owned(),
        3 => "0.0".to_owned(),
        4 => "'-Infinity'".to_owned(),
        n => format!("{}.5", n * 3 - 40),
    };
    format!(
        "({i}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})",
        or_null(7, (i % 100 - 50).to_string()),
        or_null(11, (i * 1_000_003).to_string()),
        or_null(13, float(29)),
        or_null(5, if i < 200 { format!("{}.25", i - 100) } else { float(31) }),
        or_null(3, (i % 2 == 0).to_string()),
        or_null(17, format!("'text {}'", i % 37)),
        or_null(19, format!("DATE '2024-01-{:02}'", i % 28 + 1)),
        or_null(23, format!("TIMESTAMP '2024-01-{:02} 10:{:02}:00'", i % 28 + 1, i % 60)),
        or_null(9, format!("{}.{:02}", i % 300, i % 100)),
        or_null(27, format!("'00000000-0000-4000-8000-{:012}'", i * 31 % 1000)),
        or_null(8, format!("X'{:02x}ff{:02x}'", i % 256, i % 7)),
    )
}

const FILTERS: &[&str] = &[
    "true",
    "id = 5",
    "id IN (1, 77, 401, 9999)",
    "id = 400 AND t IS NOT NULL",
    "id BETWEEN 90 AND 110",
    "id < 20 OR id > 580",
    "NOT (id >= 30)",
    "id <> 5 AND id < 9",
    "small > 40",
    "small IS NULL",
    "small IS NOT NULL AND small < -45",
    "small + 1 > 49",
    "big > 500000000",
    "big = 5000015",
    "f > 30",
    "f = 0",
    "f < 0",
    "f >= CAST('NaN' AS FLOAT)",
    "f IS NULL OR f > 1e30",
    "d < -90",
    "d > 90 AND id < 200",
    "d = 0.0",
    "d <> d",
    "b",
    "NOT b",
    "b IS NULL",
    "b = true AND id < 50",
    "t = 'text 5'",
    "t LIKE 'text 3%'",
    "t LIKE '%9'",
    "t > 'text 8'",
    "t < 'a'",
    "t IN ('text 1', 'nope')",
    "day = DATE '2024-01-05'",
    "day > DATE '2024-01-27'",
    "at >= TIMESTAMP '2024-01-28 00:00:00'",
    "at BETWEEN TIMESTAMP '2024-01-03 00:00:00' AND TIMESTAMP '2024-01-03 23:00:00'",
    "n > 250",
    "n = 5.05",
    "n IS NULL AND id > 500",
    "u = '00000000-0000-4000-8000-000000000155'",
    "u > '00000000-0000-4000-8000-000000000900'",
    "raw = X'05ff05'",
    "raw > X'fa'",
    "id > 10 AND (t = 'text 1' OR small = 3) AND b IS NOT NULL",
    "id + big > 600000000",
    "CAST(small AS BIGINT) > 45",
    "CAST(id AS TEXT) = '77'",
    "id % 100 = 1",
];

#[test]
fn cold_rows_answer_as_hot_ones() -> Result<()> {
    let db = Database::open()?;
    for table in ["hot", "cold"] {
        db.exec(&format!("CREATE TABLE {table} ({COLUMNS})"))?;
    }
    let flush = |of: &str| db.exec(&format!("STORAGE FLUSH TABLE {of}"));
    let both = |sql: &dyn Fn(&str) -> String| -> Result<()> {
        let (hot, cold) = (db.exec(&sql("hot"))?, db.exec(&sql("cold"))?);
        assert_eq!(hot, cold, "{}", sql("cold"));
        Ok(())
    };
    let compare = |when: &str| -> Result<()> {
        for filter in FILTERS {
            for query in [
                "SELECT * FROM {} WHERE # ORDER BY id",
                "SELECT count(*), min(t), max(big), sum(small) FROM {} WHERE #",
            ] {
                let query = query.replace('#', filter);
                let (hot, cold) = (db.rows(&query.replace("{}", "hot"))?, db.rows(&query.replace("{}", "cold"))?);
                assert_eq!(hot, cold, "{when}: {query}");
            }
        }
        Ok(())
    };
    let insert = |from: i64, to: i64| {
        let rows: Vec<String> = (from..to).map(row).collect();
        both(&|t| format!("INSERT INTO {t} VALUES {}", rows.join(", ")))
    };
    insert(0, 200)?;
    flush("cold")?;
    compare("one segment")?;
    insert(200, 420)?;
    flush("cold")?;
    insert(420, 600)?;
    compare("two segments and hot rows")?;
    both(&|t| format!("UPDATE {t} SET small = 3, t = 'changed' WHERE id % 10 = 3"))?;
    both(&|t| format!("DELETE FROM {t} WHERE id % 10 = 4 OR id = 77"))?;
    both(&|t| format!("INSERT INTO {t} (id, t) VALUES (77, 'again')"))?;
    compare("changed")?;
    flush("cold")?;
    compare("changed and flushed")?;
    let error = db.error("INSERT INTO cold (id) VALUES (5)");
    assert_eq!(error.code(), ErrorCode::UniqueViolation);
    for alter in [
        "ALTER COLUMN small TYPE INT",
        "ALTER COLUMN n TYPE TEXT",
        "ADD COLUMN late INT DEFAULT 9",
        "RENAME COLUMN t TO title",
    ] {
        both(&|t| format!("ALTER TABLE {t} {alter}"))?;
    }
    for filter in ["small > 40", "n = '5.05'", "n > '25'", "late = 9", "late IS NULL", "late > 9", "title = 'text 5'"] {
        let query = |t: &str| format!("SELECT * FROM {t} WHERE {filter} ORDER BY id");
        assert_eq!(db.rows(&query("hot"))?, db.rows(&query("cold"))?, "altered: {filter}");
    }
    db.exec("STORAGE COMPACT TABLE cold")?;
    assert_eq!(db.rows("SELECT * FROM hot ORDER BY id")?, db.rows("SELECT * FROM cold ORDER BY id")?);
    let backend = Arc::clone(&db.backend);
    let before = db.rows("SELECT * FROM cold ORDER BY id")?;
    block_on(db.context.close())?;
    let db = Database::on(Arc::new(backend.reopen()))?;
    assert_eq!(db.rows("SELECT * FROM cold ORDER BY id")?, before);
    Ok(())
}

/// 100 000 rows in segments of their own.
fn large() -> Result<Database> {
    let db = Database::open()?;
    db.exec("CREATE TABLE t (id INT PRIMARY KEY, v INT, s TEXT)")?;
    db.exec(
        "INSERT INTO t SELECT value, value % 1000, 'row ' || CAST(value % 97 AS TEXT) FROM generate_series(0, 99999)",
    )?;
    db.exec("STORAGE FLUSH TABLE t")?;
    Ok(db)
}

#[test]
fn scans_read_what_they_need() -> Result<()> {
    let db = large()?;
    assert_eq!(db.rows("SELECT count(*), min(id), max(id), sum(v) FROM t")?, ["100000 0 99999 49950000"]);
    let reopened = Database::on(Arc::new(db.backend.reopen()))?;
    // Counting decodes nothing.
    let scan = reopened.scan_of("SELECT count(*) FROM t")?;
    assert_eq!(
        (metric(&scan, "output_rows"), metric(&scan, "rows_read"), metric(&scan, "bytes_read")),
        (100e3, 0.0, 0.0),
        "{scan}"
    );
    // A range of the key: one page.
    let scan = reopened.scan_of("SELECT * FROM t WHERE id BETWEEN 50000 AND 50010")?;
    assert!(scan.contains("filter=id >= 50000 AND id <= 50010"), "{scan}");
    assert!(metric(&scan, "row_groups_pruned") >= 2.0 && metric(&scan, "pages_pruned") >= 5.0, "{scan}");
    assert!(metric(&scan, "rows_read") <= 8200.0, "{scan}");
    // Out of every segment's range.
    let scan = reopened.scan_of("SELECT * FROM t WHERE id > 1000000")?;
    assert_eq!((metric(&scan, "output_rows"), metric(&scan, "rows_read")), (0.0, 0.0), "{scan}");
    assert!(metric(&scan, "segments_pruned") >= 1.0, "{scan}");
    let scan = reopened.scan_of("SELECT s FROM t WHERE v = -1")?;
    assert_eq!(metric(&scan, "rows_read"), 0.0, "{scan}");
    // Rows that the filter leaves out are given to nobody, and their other columns are not decoded.
    let scan = reopened.scan_of("SELECT * FROM t WHERE v = 7 AND s IS NOT NULL")?;
    assert_eq!(metric(&scan, "output_rows"), 100.0, "{scan}");
    // LIMIT.
    let scan = reopened.scan_of("SELECT * FROM t LIMIT 10")?;
    assert!(metric(&scan, "output_rows") == 10.0 && metric(&scan, "rows_read") <= 10.0, "{scan}");
    // A key.
    let scan = reopened.scan_of("SELECT * FROM t WHERE id = 77777")?;
    assert!(scan.contains("ShortPath: KeyLookup:") && metric(&scan, "rows_read") == 1.0, "{scan}");
    assert_eq!(reopened.rows("SELECT v, s FROM t WHERE id IN (77777, 3, 100000)")?.len(), 2);
    // The second time nothing is read from storage.
    reopened.rows("SELECT sum(v) FROM t")?;
    let scan = reopened.scan_of("SELECT sum(v) FROM t")?;
    assert_eq!(metric(&scan, "bytes_read"), 0.0, "{scan}");
    assert!(metric(&scan, "cache_hits") >= 4.0, "{scan}");
    Ok(())
}

#[test]
fn unique_reads_only_segments_that_may_hold_the_value() -> Result<()> {
    let db = Database::open()?;
    db.exec("CREATE TABLE t (id INT PRIMARY KEY, code INT UNIQUE, kind TEXT, part INT, UNIQUE (kind, part))")?;
    // Keys come in another order than codes, so that only bounds of `code` and `part` tell segments apart.
    for segment in 0..4 {
        db.exec(&format!(
            "INSERT INTO t SELECT value * 4 + {segment}, {segment} * 1000 + value, CASE WHEN value % 2 = 0 THEN 'a' ELSE 'b' END, \
             {segment} * 1000 + value FROM generate_series(0, 199)"
        ))?;
        db.exec("INSERT INTO t VALUES (1000000, NULL, 'c', -1)")?;
        db.exec("DELETE FROM t WHERE id = 1000000")?;
        db.exec("STORAGE FLUSH TABLE t")?;
    }
    let db = Database::on(Arc::new(db.backend.reopen()))?;
    assert_eq!(db.rows("SHOW MANIFEST t")?.len(), 4);
    // What a statement reads of the table's 4 segments: their footers and columns.
    let reads = |sql: &str, violation: bool| -> Result<u64> {
        let gauge = || -> Result<u64> {
            let rows = db.rows("SELECT value FROM system.stats WHERE name = 'storage_scans'")?;
            Ok(rows[0].parse::<u64>().unwrap_or_default())
        };
        db.context.store().cache().clear();
        let before = gauge()?;
        match violation {
            false => drop(db.exec(sql)?),
            true => assert_eq!(db.error(sql).code(), ErrorCode::UniqueViolation, "{sql}"),
        }
        Ok(gauge()? - before)
    };
    // Hydration.
    db.rows("SELECT count(*) FROM t")?;
    let nothing = reads("SELECT 1", false)?;
    // A key, a code and a pair that no segment may hold.
    assert_eq!(reads("INSERT INTO t VALUES (-1, 90000, 'a', 90000), (-2, NULL, 'zzz', NULL)", false)?, nothing);
    // Between the codes of two segments.
    assert_eq!(reads("INSERT INTO t VALUES (-3, 1500, 'a', 90001), (-4, 90002, 'a', 90002)", false)?, nothing);
    // A code that one segment holds: its footer and its column.
    let one = reads("INSERT INTO t VALUES (-5, 1020, 'a', 90003)", true)?;
    assert!(one > nothing && one - nothing <= 3, "{one} of {nothing}");
    let one = reads("INSERT INTO t VALUES (-6, 90003, 'b', 2021)", true)?;
    assert!(one > nothing && one - nothing <= 3, "{one} of {nothing}");
    assert_eq!(reads("SELECT * FROM t WHERE code = 50000", false)?, nothing);
    assert_eq!(reads("INSERT INTO t VALUES (-7, 50000, 'a', 50000) ON CONFLICT (code) DO NOTHING", false)?, nothing);
    assert_eq!(db.rows("SELECT id FROM t WHERE code = 1020")?, ["81"]);
    assert_eq!(db.exec("INSERT INTO t VALUES (-8, 1020, 'a', 50001) ON CONFLICT (code) DO NOTHING")?, 0);
    Ok(())
}

#[test]
fn changes_of_cold_rows() -> Result<()> {
    let db = large()?;
    assert_eq!(db.exec("UPDATE t SET v = -1 WHERE id % 1000 = 500")?, 100);
    assert_eq!(db.exec("DELETE FROM t WHERE id < 40000 AND id % 2 = 0")?, 20_000);
    let check = |db: &Database| -> Result<()> {
        assert_eq!(db.rows("SELECT count(*), count(DISTINCT id) FROM t")?, ["80000 80000"]);
        assert_eq!(db.rows("SELECT count(*) FROM t WHERE v = -1")?, ["60"]);
        assert_eq!(db.rows("SELECT id, v FROM t WHERE id IN (39998, 39999, 41500)")?, ["39999 999", "41500 -1"]);
        assert_eq!(db.rows("SELECT count(*) FROM (SELECT * FROM t LIMIT 50000) q")?, ["50000"]);
        Ok(())
    };
    // Rows that have ended are counted off without reading any.
    let counts = |db: &Database| -> Result<()> {
        let scan = db.scan_of("SELECT count(*) FROM t")?;
        let figures = ["output_rows", "rows_read", "bytes_read"].map(|name| metric(&scan, name));
        assert_eq!(figures, [80e3, figures[1], 0.0], "{scan}");
        Ok(())
    };
    check(&db)?;
    counts(&Database::on(Arc::new(db.backend.reopen()))?)?;
    check(&Database::on(Arc::new(db.backend.reopen()))?)?;
    db.exec("STORAGE FLUSH TABLE t")?;
    counts(&Database::on(Arc::new(db.backend.reopen()))?)?;
    check(&db)?;
    check(&Database::on(Arc::new(db.backend.reopen()))?)
}

#[test]
fn deleted_rows_are_shown_to_who_asks() -> Result<()> {
    let db = Database::open()?;
    db.exec("CREATE TABLE t (id INT PRIMARY KEY, v TEXT)")?;
    db.exec("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')")?;
    let check = |when: &str, deleted: &[&str]| -> Result<()> {
        assert_eq!(db.rows("SELECT id, v FROM t WHERE _deleted ORDER BY id")?, deleted, "{when}");
        let all = db.rows("SELECT id, _deleted FROM t ORDER BY id, _deleted")?;
        let shown = all.iter().filter(|row| row.ends_with("true")).count();
        assert_eq!((shown, all.len() - shown), (deleted.len(), db.rows("SELECT id FROM t")?.len()), "{when}: {all:?}");
        Ok(())
    };
    check("nothing", &[])?;
    db.exec("DELETE FROM t WHERE id = 2")?;
    db.exec("UPDATE t SET v = 'C' WHERE id = 3")?;
    check("hot", &["2 b"])?;
    db.exec("STORAGE FLUSH TABLE t")?;
    check("flushed", &["2 b"])?;
    db.exec("DELETE FROM t WHERE id = 3")?;
    check("cold", &["2 b", "3 C"])?;
    assert_eq!(db.rows("SELECT id FROM t WHERE _deleted AND id = 3")?, ["3"]);
    assert_eq!(
        db.rows("SELECT id FROM t WHERE _seq > (SELECT max(_seq) FROM t) AND _deleted ORDER BY id")?,
        ["2", "3"]
    );
    db.exec("INSERT INTO t VALUES (2, 'again')")?;
    check("inserted again", &["2 b", "3 C"])?;
    db.exec("STORAGE FLUSH TABLE t")?;
    db.exec("STORAGE COMPACT TABLE t")?;
    check("compacted", &["2 b", "3 C"])?;
    assert_eq!(db.error("DELETE FROM t WHERE _deleted").code(), ErrorCode::ColumnNotFound);
    Ok(())
}

#[test]
fn damage_stays_where_it_is() -> Result<()> {
    let db = large()?;
    db.exec("CREATE TABLE other (id INT PRIMARY KEY)")?;
    db.exec("INSERT INTO other VALUES (1)")?;
    db.exec("STORAGE FLUSH TABLE other")?;
    let backend = Arc::new(db.backend.reopen());
    let blobs = block_on(backend.scan(Partition::Blob, &Default::default(), Default::default()))?;
    let mut batch = WriteBatch::new();
    // The parts of the table that was made first come first.
    let (key, value) = &blobs[0];
    let mut bytes = value.to_vec();
    bytes[5000] ^= 1;
    batch.put(Partition::Blob, key.clone(), bytes);
    block_on(backend.commit(batch, Durability::Memory))?;
    let db = Database::on(backend)?;
    let error = db.error("SELECT sum(v) FROM t");
    assert_eq!(error.code(), ErrorCode::DataCorrupted);
    assert!(error.message().contains("segment 1 of table 'default.t' is damaged: part 0 of "), "{}", error.message());
    assert_eq!(db.rows("SELECT * FROM other")?, ["1"]);
    assert_eq!(db.rows("SELECT count(*) FROM t")?, ["100000"]);
    Ok(())
}

#[test]
fn the_order_of_the_key_needs_no_sort() -> Result<()> {
    let db = Database::open()?;
    db.exec("CREATE TABLE t (a TEXT, b INT, v INT, PRIMARY KEY (a, b))")?;
    let insert = |from: i64, step: i64| {
        db.exec(&format!(
            "INSERT INTO t SELECT 'key ' || CAST(value % 10 AS TEXT), value, value * 3 FROM generate_series({from}, 4000, {step})"
        ))
    };
    let sorts =
        |query: &str| -> Result<bool> { Ok(db.rows(&format!("EXPLAIN {query}"))?.join("\n").contains("SortExec")) };
    // Segments whose ranges overlap, then rows in memory between theirs.
    for from in 0..3 {
        insert(from, 5)?;
        db.exec("STORAGE FLUSH TABLE t")?;
    }
    let check = || -> Result<()> {
        for limit in ["", " LIMIT 7", " LIMIT 900 OFFSET 500"] {
            let ordered = db.rows(&format!("SELECT a, b, v FROM t ORDER BY a, b{limit}"))?;
            let by_sort = db.rows(&format!("SELECT a, b, v FROM t ORDER BY a, b + 0{limit}"))?;
            assert_eq!(ordered, by_sort, "{limit}");
        }
        Ok(())
    };
    check()?;
    insert(3, 10)?;
    check()?;
    db.exec("UPDATE t SET v = -1 WHERE b % 100 = 1")?;
    db.exec("DELETE FROM t WHERE b % 70 = 2")?;
    check()?;
    assert!(!sorts("SELECT v, b, a FROM t ORDER BY a, b")?);
    assert!(!sorts("SELECT a FROM t ORDER BY a LIMIT 3")?);
    for other in ["b", "a DESC", "b, a", "v", "a, v"] {
        assert!(sorts(&format!("SELECT * FROM t ORDER BY {other}"))?, "{other}");
    }
    db.exec("STORAGE COMPACT TABLE t")?;
    check()
}

/// One commit moves rows into segments, or puts segments together: refused, it has done nothing, in memory and in storage.
#[test]
fn a_flush_or_compaction_that_storage_refuses_changes_nothing() -> Result<()> {
    block_on(async {
        let backend = Faulty::new(MemoryBackend::new());
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        sql(&context, "CREATE TABLE t (k INT PRIMARY KEY, v INT)").await?;
        let table = context.registry().table(&TableId::new("default", "t")).await?.expect("the table");
        let (store, scope) = (context.store(), ScopeKey { table_no: table.definition().table_no, user: None });
        let flush = || store.flush(&scope, table.definition());
        let compact = || store.compact(&scope, table.definition(), true);
        let fill = async |from: u32, to: u32| {
            sql(&context, &format!("INSERT INTO t SELECT value, value FROM generate_series({from}, {to})")).await
        };
        // The same rows for whoever is there, and for whoever opens what is stored.
        let all_there = async |rows: u32| {
            for context in [&context, &open_copy(backend.inner()).await?] {
                let found = sql(context, "SELECT k FROM t ORDER BY k").await?;
                let found = map_cells(last_values(&found)?, text_or_null).concat();
                assert_eq!(found, (0..rows).map(|k| k.to_string()).collect::<Vec<_>>());
            }
            Ok::<_, KalamError>(())
        };
        let refused = |outcome: Result<Rewritten>| {
            assert_eq!(outcome.expect_err("storage refuses").code(), ErrorCode::QuotaExceeded);
            assert_eq!(backend.failures.load(Ordering::Relaxed), 0, "it was asked once");
        };
        fill(0, 9).await?;
        assert_eq!(flush().await?, Rewritten { rows: 10, segments: 1 });
        backend.failures.store(1, Ordering::Relaxed);
        assert_eq!(compact().await?, Rewritten::default(), "there is one segment");
        backend.failures.store(0, Ordering::Relaxed);
        fill(10, 19).await?;
        backend.failures.store(1, Ordering::Relaxed);
        refused(flush().await);
        all_there(20).await?;
        assert_eq!(flush().await?, Rewritten { rows: 10, segments: 1 });
        all_there(20).await?;
        backend.failures.store(1, Ordering::Relaxed);
        refused(compact().await);
        all_there(20).await?;
        assert_eq!(compact().await?, Rewritten { rows: 20, segments: 1 });
        all_there(20).await
    })
}

/// Whoever reads a table from storage while it is dropped from memory, read by somebody else and flushed, has all of its
/// rows: not the segments from before the flush and the log from after it.
#[test]
fn rows_that_move_while_a_table_is_read_from_storage_are_not_missed() -> Result<()> {
    block_on(async {
        let backend = Faulty::new(MemoryBackend::new());
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        sql(&context, "CREATE TABLE t (k INT PRIMARY KEY)").await?;
        sql(&context, "INSERT INTO t SELECT value FROM generate_series(1, 10)").await?;
        for slow in 0.. {
            let backend = backend.crash();
            let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
            let table = context.registry().table(&TableId::new("default", "t")).await?.expect("the table");
            let (store, definition) = (context.store(), table.definition());
            let scope = ScopeKey { table_no: definition.table_no, user: None };
            backend.arm(slow, Fault::Delay, ErrorCode::StorageError);
            let mut reading = Box::pin(store.hot(&scope, definition));
            let polled = futures::poll!(&mut reading);
            if backend.disarm() == Outcome::NotReached {
                assert!(slow > 1 && polled.is_ready(), "the manifest and the log are read");
                break;
            }
            assert!(polled.is_pending());
            store.evict_scope(&scope);
            assert_eq!(store.flush(&scope, definition).await?, Rewritten { rows: 10, segments: 1 });
            let hot = reading.await?;
            let cold: u64 = hot.segments().iter().map(|segment| segment.live_rows()).sum();
            assert_eq!(hot.statistics().live_rows + cold, 10, "call {slow} took long");
        }
        Ok(())
    })
}

/// A failed commit drops a table from memory; who reads it goes on with the files that it had, whatever is compacted since.
#[test]
fn files_that_are_read_outlast_a_failed_commit_and_a_compaction() -> Result<()> {
    block_on(async {
        let backend = Faulty::new(MemoryBackend::new());
        let config = Config { segment_cache: 0, ..Config::default() };
        let context = AppContext::open(Arc::clone(&backend) as _, config).await?;
        sql(&context, "CREATE TABLE t (k INT PRIMARY KEY, s TEXT)").await?;
        for from in [0, 40_000] {
            let rows = format!("SELECT value, 'text ' || value FROM generate_series({from}, {})", from + 39_999);
            sql(&context, &format!("INSERT INTO t {rows}; STORAGE FLUSH TABLE t")).await?;
        }
        let (params, options) = (Params::default(), ExecuteOptions::default());
        let query = "SELECT k, s FROM t";
        let mut cursor = Cursor::open(context.executor(), context.session(), query, &params, &options).await?;
        let mut rows = cursor.next(10).await?.map_or(0, |batch| batch.num_rows());
        backend.failures.store(1, Ordering::Relaxed);
        let refused = sql(&context, "INSERT INTO t VALUES (-1, '')").await.expect_err("storage refuses");
        assert_eq!(refused.code(), ErrorCode::QuotaExceeded);
        let table = context.registry().table(&TableId::new("default", "t")).await?.expect("the table");
        let scope = ScopeKey { table_no: table.definition().table_no, user: None };
        let compacted = context.store().compact(&scope, table.definition(), true).await?;
        assert_eq!(compacted, Rewritten { rows: 80_000, segments: 1 });
        while let Some(batch) = cursor.next(10_000).await? {
            rows += batch.num_rows();
        }
        assert_eq!(rows, 80_000);
        drop(cursor);
        // Nobody reads them any more: the next rewrite removes them.
        let blobs = async || {
            let parts = backend.inner().scan(Partition::Blob, &KeyRange::all(), ScanOptions::default()).await?;
            Ok::<_, KalamError>(parts.iter().map(|(_, part)| part.len()).sum::<usize>())
        };
        let before = blobs().await?;
        context.store().compact(&scope, table.definition(), true).await?;
        assert!(blobs().await? < before, "what was replaced is still there");
        Ok(())
    })
}

#[test]
fn compacting_everything_asks_the_storage_for_its_space_too() -> Result<()> {
    block_on(async {
        let backend = Faulty::new(MemoryBackend::new());
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        sql(&context, "CREATE TABLE t (k INT PRIMARY KEY); INSERT INTO t VALUES (1); STORAGE FLUSH ALL").await?;
        sql(&context, "STORAGE COMPACT TABLE t").await?;
        assert_eq!(backend.compactions.load(Ordering::Relaxed), 0);
        sql(&context, "STORAGE COMPACT ALL").await?;
        assert_eq!(backend.compactions.load(Ordering::Relaxed), 1);
        Ok(())
    })
}
