//! A table with indexes against the same table without: random statements on both, the same answers from both.
//!
//! Statements that fail (a key or a unique value that is there, in the middle of many rows) must fail on both and leave
//! both as they were. Answers are compared as they come where the query sorts by everything, else sorted.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use futures::future::join_all;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::sql::{ExecuteOptions, Params};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;
use proptest::prelude::*;

mod support;

use support::{last_values, map_cells, model_config, sql};

/// The rows of a query as text.
async fn rows(context: &AppContext, text: &str) -> Result<Vec<Vec<String>>> {
    rows_with(context, text, true).await
}

async fn rows_with(context: &AppContext, text: &str, short_path: bool) -> Result<Vec<Vec<String>>> {
    let options = ExecuteOptions { short_path, ..ExecuteOptions::default() };
    let results = context.executor().execute(context.session(), text, &Params::default(), &options).await;
    let results = results.map_err(|e| e.in_context(text))?;
    Ok(map_cells(last_values(&results)?, Value::to_string))
}

/// The plan: how the table is read.
async fn path(context: &AppContext, query: &str) -> Result<String> {
    let plan = rows_with(context, &format!("EXPLAIN {query}"), false).await?;
    let text = plan.last().and_then(|row| row.last()).cloned().unwrap_or_default();
    Ok(text.replace("\\n", "\n"))
}

#[test]
fn explain_says_which_index_is_read_and_what_of_it() -> Result<()> {
    block_on(async {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        sql(
            &context,
            "CREATE TABLE t (id INT PRIMARY KEY, a INT, b TEXT, c DATE, d DOUBLE, e INT UNIQUE);
             CREATE INDEX t_a ON t (a); CREATE INDEX t_bc ON t (b, c DESC); CREATE INDEX t_d ON t (d);
             CREATE TABLE pairs (v INT, g INT, n TEXT, PRIMARY KEY (g, n))",
        )
        .await?;
        for (query, wanted) in [
            ("SELECT * FROM t WHERE a = 4", "IndexScan: default.t using t_a, range=[a = 4]"),
            ("SELECT * FROM t WHERE 4 = a AND id > 7", "IndexScan: default.t using t_a, range=[a = 4]"),
            ("SELECT * FROM t WHERE a IN (4, 5, NULL)", "TableScan"),
            ("SELECT * FROM t WHERE a IN (4, 5, 6, 7)", "using t_a, range=[a IN (4 values)]"),
            ("SELECT * FROM t WHERE a = 4 OR a = 5", "using t_a, range=[a IN (2 values)]"),
            ("SELECT * FROM t WHERE a > 4 AND a <= 9", "using t_a, range=[a > 4, a <= 9]"),
            ("SELECT * FROM t WHERE a BETWEEN 4 AND 9", "using t_a, range=[a >= 4, a <= 9]"),
            ("SELECT * FROM t WHERE a IS NULL", "using t_a, range=[a IS NULL]"),
            ("SELECT * FROM t WHERE a <> 4", "TableScan"),
            ("SELECT * FROM t WHERE c > '2024-01-01'", "TableScan"),
            ("SELECT * FROM t WHERE b = 'x'", "using t_bc, range=[b = x]"),
            ("SELECT * FROM t WHERE b = 'x' AND c < '2024-01-01'", "using t_bc, range=[b = x, c < 2024-01-01]"),
            // The key before any index, a unique value before others, more columns before fewer, any before a range.
            ("SELECT * FROM t WHERE id = 1 AND a = 4", "KeyLookup"),
            ("SELECT * FROM t WHERE e = 1 AND b = 'x' AND c = '2024-01-01'", "using t_e_key"),
            ("SELECT * FROM t WHERE a = 1 AND b = 'x' AND c = '2024-01-01'", "using t_bc"),
            ("SELECT * FROM t WHERE a > 1 AND b = 'x'", "using t_bc"),
            // The key as far as filters say something of it, where no index is better.
            ("SELECT * FROM t WHERE id > 7", "IndexScan: default.t using t_pkey, range=[id > 7]"),
            ("SELECT * FROM t WHERE id BETWEEN 7 AND 9 AND d < 4", "using t_d"),
            ("SELECT * FROM t WHERE id BETWEEN 7 AND 9 AND b > 'x' || a", "using t_pkey, range=[id >= 7, id <= 9]"),
            ("SELECT * FROM pairs WHERE g = 7", "IndexScan: default.pairs using pairs_pkey, range=[g = 7]"),
            ("SELECT * FROM pairs WHERE g = 7 AND n < 'x'", "using pairs_pkey, range=[g = 7, n < x]"),
            ("SELECT * FROM pairs WHERE n = 'x'", "TableScan"),
            ("DELETE FROM pairs WHERE g = 7", "using pairs_pkey"),
            ("UPDATE t SET c = NULL WHERE a = 3", "using t_a"),
            ("DELETE FROM t WHERE a = 3", "using t_a"),
            ("SELECT t.* FROM t JOIN (VALUES (1)) v(x) ON t.d = v.x WHERE t.a = 1", "using t_a"),
        ] {
            let found = path(&context, query).await?;
            assert!(found.contains(wanted), "{query}: {found}");
        }
        for (query, order) in [
            ("SELECT * FROM t ORDER BY a LIMIT 5", Some("using t_a, order=forward")),
            ("SELECT * FROM t ORDER BY a DESC LIMIT 5 OFFSET 2", Some("using t_a, order=backward")),
            ("SELECT id FROM t ORDER BY b, c DESC LIMIT 5", Some("using t_bc, order=forward")),
            ("SELECT id FROM t ORDER BY b DESC, c LIMIT 5", Some("using t_bc, order=backward")),
            ("SELECT id FROM t WHERE b = 'x' ORDER BY c LIMIT 5", Some("using t_bc, range=[b = x], order=backward")),
            ("SELECT id FROM t WHERE b = 'x' AND id > 3 ORDER BY b, c DESC LIMIT 5", Some("order=forward")),
            ("SELECT id FROM t WHERE a > 3 ORDER BY a LIMIT 5", Some("using t_a, range=[a > 3], order=forward")),
            ("SELECT id FROM t ORDER BY id LIMIT 5", Some("using t_pkey, order=forward")),
            ("SELECT a FROM t ORDER BY id DESC LIMIT 5", Some("using t_pkey, order=backward")),
            ("SELECT * FROM t WHERE id > 3 ORDER BY id LIMIT 5", Some("using t_pkey, range=[id > 3], order=forward")),
            (
                "SELECT v FROM pairs WHERE (g, n) > (3, 'x') ORDER BY g, n LIMIT 5",
                Some("range=[g >= 3], order=forward"),
            ),
            ("SELECT v FROM pairs WHERE g = 3 ORDER BY n DESC LIMIT 5", Some("range=[g = 3], order=backward")),
            ("SELECT v FROM pairs ORDER BY g, n LIMIT 5", Some("using pairs_pkey, order=forward")),
            ("SELECT v FROM pairs ORDER BY n LIMIT 5", None),
            ("SELECT v FROM pairs ORDER BY g, n DESC LIMIT 5", None),
            ("SELECT id FROM t ORDER BY b, c LIMIT 5", None),
            ("SELECT id FROM t ORDER BY a NULLS FIRST LIMIT 5", None),
            ("SELECT id FROM t ORDER BY d LIMIT 5", None),
            ("SELECT id FROM t ORDER BY a", None),
            ("SELECT id FROM t WHERE id > 3 ORDER BY a LIMIT 5", None),
            ("SELECT id FROM t WHERE b IN ('x', 'y') ORDER BY c LIMIT 5", None),
        ] {
            let found = path(&context, query).await?;
            match order {
                Some(order) => assert!(found.contains(order) && !found.contains("SortExec"), "{query}: {found}"),
                None => assert!(found.contains("SortExec") && !found.contains("order="), "{query}: {found}"),
            }
        }
        Ok(())
    })
}

/// A filter that the index does not answer takes what it needs of the rows in the index's order, and no more is read.
#[test]
fn a_limit_behind_a_filter_reads_a_few_rows_of_a_range() -> Result<()> {
    block_on(async {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        sql(
            &context,
            "CREATE TABLE t (id INT PRIMARY KEY, a INT, b INT); CREATE INDEX t_a ON t (a);
             INSERT INTO t SELECT value, value * 7919 % 20000, value % 3 FROM generate_series(1, 20000)",
        )
        .await?;
        for (query, most, first) in [
            ("SELECT a FROM t WHERE a > 500 AND b = 1 ORDER BY a LIMIT 10", 64, "501"),
            ("SELECT a FROM t WHERE a > 500 ORDER BY a DESC LIMIT 10", 64, "19999"),
            ("SELECT a FROM t WHERE a BETWEEN 500 AND 9000 AND b = 1 ORDER BY a DESC LIMIT 50", 192, "8999"),
        ] {
            let plan = rows(&context, &format!("EXPLAIN ANALYZE {query}")).await?;
            let plan = plan.last().and_then(|row| row.last()).cloned().unwrap_or_default();
            let scan = plan.split("IndexScan").nth(1).unwrap_or_default();
            let read = scan.split("output_rows=").nth(1).and_then(|n| n.split([',', ']']).next()).unwrap_or_default();
            assert!(read.parse::<usize>().is_ok_and(|read| read <= most), "{query}: {plan}");
            let found = rows(&context, query).await?;
            assert_eq!(found.first().map(|row| row[0].as_str()), Some(first), "{query}");
        }
        Ok(())
    })
}

#[derive(Debug, Clone)]
enum Step {
    Insert(Vec<(i64, Cells)>),
    Upsert(i64, Cells),
    Replace(i64, Cells),
    Update(usize, Cells, usize),
    Delete(usize, Cells),
    Together(Vec<(i64, Cells)>),
    Truncate,
    Alter(usize),
    /// Rows become a segment, or segments one.
    Cold(bool),
    /// Some of these in a transaction that is committed, or rolled back.
    Transaction(Vec<Step>, bool),
    Reopen,
}

/// Values of a, b, c and u; `None` is NULL.
type Cells = (Option<i8>, Option<i8>, Option<i8>, Option<i8>);

fn cells() -> impl Strategy<Value = Cells> {
    let small = |n: i8| prop::option::weighted(0.85, -n..n);
    (small(4), small(3), small(3), small(100))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        9 => simple(),
        1 => (prop::collection::vec(simple(), 1..5), any::<bool>()).prop_map(|(s, c)| Step::Transaction(s, c)),
    ]
}

fn simple() -> impl Strategy<Value = Step> {
    let row = || (0..80i64, cells());
    prop_oneof![
        6 => prop::collection::vec(row(), 1..10).prop_map(Step::Insert),
        3 => row().prop_map(|(k, c)| Step::Upsert(k, c)),
        2 => row().prop_map(|(k, c)| Step::Replace(k, c)),
        4 => (0..6usize, cells(), 0..4usize).prop_map(|(f, c, s)| Step::Update(f, c, s)),
        2 => (0..6usize, cells()).prop_map(|(f, c)| Step::Delete(f, c)),
        1 => prop::collection::vec(row(), 1..5).prop_map(Step::Together),
        1 => Just(Step::Truncate),
        1 => (0..5usize).prop_map(Step::Alter),
        3 => any::<bool>().prop_map(Step::Cold),
        1 => Just(Step::Reopen),
    ]
}

fn int(n: Option<i8>) -> String {
    n.map_or("NULL".into(), |n| n.to_string())
}

fn text(n: Option<i8>) -> String {
    n.map_or("NULL".into(), |n| format!("'t{}'", i32::from(n) + 10))
}

fn date(n: Option<i8>) -> String {
    n.map_or("NULL".into(), |n| format!("DATE '2024-01-{:02}'", i32::from(n) + 15))
}

fn row(key: i64, (a, b, c, u): &Cells) -> String {
    format!("({key}, {}, {}, {}, {})", int(*a), text(*b), date(*c), int(*u))
}

/// Filters of every shape that an index may answer.
fn filter(shape: usize, (a, b, c, u): &Cells) -> String {
    let (a, b, c, u) = (a.or(Some(1)), b.or(Some(1)), c.or(Some(1)), u.or(Some(1)));
    match shape {
        0 => format!("a = {}", int(a)),
        1 => format!("b = {} AND c >= {}", text(b), date(c)),
        2 => format!("a > {} AND a <= {} + 2", int(a), int(a)),
        3 => format!("a IN ({}, {}, 2) AND b IS NULL", int(a), int(b)),
        4 => format!("u = {}", int(u)),
        5 => format!("b BETWEEN {} AND {}", text(b), text(c)),
        6 => format!("a IS NULL AND c < {}", date(c)),
        7 => format!("b IN ({}, {}) AND c = {}", text(b), text(a), date(c)),
        8 => format!("a = {} OR a = {}", int(a), int(b)),
        _ => format!("a < {} AND u > {}", int(a), int(u)),
    }
}

struct Run {
    backend: Arc<MemoryBackend>,
    context: Arc<AppContext>,
    segment_cache: usize,
}

const COLUMNS: &str = "k BIGINT PRIMARY KEY, a INT, b TEXT, c DATE, u INT UNIQUE";

impl Run {
    async fn new(segment_cache: usize) -> Result<Self> {
        let backend = Arc::new(MemoryBackend::new());
        let config = Config { segment_cache, ..Config::default() };
        let context = AppContext::open(Arc::clone(&backend) as _, config).await?;
        sql(
            &context,
            &format!(
                "CREATE TABLE x ({COLUMNS}); CREATE TABLE y ({COLUMNS});
                 CREATE INDEX x_a ON x (a); CREATE INDEX x_bc ON x (b, c DESC); CREATE INDEX x_ba ON x (a DESC, b);"
            ),
        )
        .await?;
        Ok(Self { backend, context, segment_cache })
    }

    /// Runs a statement on both tables, with `$t` as their name.
    async fn both(&self, text: &str) -> Result<()> {
        let mut outcomes = Vec::new();
        for table in ["x", "y"] {
            let outcome = sql(&self.context, &text.replace("$t", table)).await;
            outcomes.push(match outcome {
                Ok(results) => Ok(results.last().map_or(0, |r| r.rows_affected)),
                Err(e) => Err(e.code()),
            });
        }
        assert_eq!(outcomes[0], outcomes[1], "{text}");
        match outcomes[0] {
            Ok(_) | Err(ErrorCode::UniqueViolation) => Ok(()),
            Err(code) => panic!("{text}: {code:?}"),
        }
    }

    /// Runs a statement for its effect on how rows are stored.
    async fn on_x(&self, text: &str) -> Result<()> {
        sql(&self.context, text).await.map(drop).map_err(|e| e.in_context(text))
    }

    /// The statements of a step, if it is one of rows alone.
    fn changes(step: &Step) -> Vec<String> {
        match step {
            Step::Insert(rows) => rows.iter().map(|(k, c)| format!("INSERT INTO $t VALUES {}", row(*k, c))).collect(),
            Step::Upsert(k, c) => {
                vec![format!("INSERT INTO $t VALUES {} ON CONFLICT (u) DO UPDATE SET a = excluded.a", row(*k, c))]
            }
            Step::Replace(k, c) => vec![format!("REPLACE INTO $t VALUES {}", row(*k, c))],
            Step::Update(shape, c, _) => {
                vec![format!("UPDATE $t SET a = {}, u = u + 1 WHERE {}", int(c.1), filter(*shape, c))]
            }
            Step::Delete(shape, c) => vec![format!("DELETE FROM $t WHERE {}", filter(*shape, c))],
            _ => Vec::new(),
        }
    }

    /// A transaction over both tables: a statement that fails undoes itself, on both.
    async fn transaction(&self, steps: &[Step], commit: bool) -> Result<()> {
        self.on_x("BEGIN").await?;
        for text in steps.iter().flat_map(Self::changes) {
            self.on_x("SAVEPOINT s").await?;
            let mut outcomes = Vec::new();
            for table in ["x", "y"] {
                let outcome = sql(&self.context, &text.replace("$t", table)).await;
                outcomes.push(outcome.map(|r| r.last().map_or(0, |r| r.rows_affected)).map_err(|e| e.code()));
                if outcomes.last().is_some_and(Result::is_err) {
                    self.on_x("ROLLBACK TO SAVEPOINT s").await?;
                }
            }
            assert_eq!(outcomes[0], outcomes[1], "{text}");
        }
        self.check(&[(0, (None, Some(1), None, None)), (4, (None, None, None, Some(3)))]).await?;
        self.on_x(if commit { "COMMIT" } else { "ROLLBACK" }).await
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Cold(false) => self.on_x("STORAGE FLUSH TABLE x").await,
            Step::Cold(true) => self.on_x("STORAGE COMPACT TABLE x; STORAGE FLUSH TABLE y").await,
            Step::Transaction(steps, commit) => self.transaction(steps, *commit).await,
            Step::Insert(rows) => {
                let values: Vec<String> = rows.iter().map(|(k, c)| row(*k, c)).collect();
                self.both(&format!("INSERT INTO $t VALUES {}", values.join(", "))).await
            }
            Step::Upsert(k, c) => {
                let set = "DO UPDATE SET a = excluded.a, b = excluded.b, c = excluded.c";
                self.both(&format!("INSERT INTO $t VALUES {} ON CONFLICT (k) {set}, u = excluded.u", row(*k, c)))
                    .await?;
                self.both(&format!("INSERT INTO $t VALUES {} ON CONFLICT (u) {set}", row(k + 80, c))).await
            }
            Step::Replace(k, c) => self.both(&format!("REPLACE INTO $t VALUES {}", row(*k, c))).await,
            Step::Update(shape, c, set) => {
                let set = match set {
                    0 => format!("a = {}", int(c.1)),
                    1 => format!("b = {}, c = NULL", text(c.2)),
                    2 => "u = u + 1, a = a - 1".to_owned(),
                    _ => format!("u = {}", int(c.3)),
                };
                self.both(&format!("UPDATE $t SET {set} WHERE {}", filter(*shape, c))).await
            }
            Step::Delete(shape, c) => self.both(&format!("DELETE FROM $t WHERE {}", filter(*shape, c))).await,
            Step::Together(rows) => {
                // Several writers at once: whoever is first wins, and the indexes say the same as the rows.
                let insert = |(k, c): &(i64, Cells)| format!("INSERT INTO x VALUES {}", row(*k, c));
                let texts: Vec<String> = rows.iter().map(insert).collect();
                for outcome in join_all(texts.iter().map(|text| sql(&self.context, text))).await {
                    if let Err(error) = outcome {
                        assert_eq!(error.code(), ErrorCode::UniqueViolation, "{error}");
                    }
                }
                sql(&self.context, "TRUNCATE y; INSERT INTO y SELECT * FROM x").await.map(drop)
            }
            Step::Truncate => self.both("TRUNCATE $t").await,
            Step::Alter(n) => {
                let text = match n {
                    0 => "ALTER TABLE $t ALTER COLUMN a TYPE BIGINT",
                    1 => "ALTER TABLE $t ALTER COLUMN a TYPE INT USING -a",
                    3 => "ALTER TABLE $t ALTER COLUMN u TYPE BIGINT",
                    2 => "ALTER TABLE $t RENAME COLUMN a TO aa, RENAME COLUMN aa TO a",
                    _ => "ALTER TABLE $t ADD COLUMN z INT DEFAULT 5, DROP COLUMN z",
                };
                self.both(text).await
            }
            Step::Reopen => {
                self.backend = Arc::new(self.backend.reopen());
                let config = Config { segment_cache: self.segment_cache, ..Config::default() };
                self.context = AppContext::open(Arc::clone(&self.backend) as _, config).await?;
                Ok(())
            }
        }
    }

    async fn check(&self, asked: &[(usize, Cells)]) -> Result<()> {
        let mut queries = vec!["SELECT k, a, b, c, u FROM $t".to_owned()];
        for (shape, cells) in asked {
            let filter = filter(*shape, cells);
            queries.push(format!("SELECT * FROM $t WHERE {filter}"));
            queries.push(format!("SELECT count(*), sum(k) FROM $t WHERE {filter}"));
            // What is not sorted by may come in any order: only what is sorted by is asked for.
            queries.push(format!("SELECT a FROM $t WHERE {filter} ORDER BY a DESC LIMIT 3"));
            queries.push(format!("SELECT c FROM $t WHERE b = {} ORDER BY c DESC LIMIT 4", text(cells.1)));
            queries.push(format!("SELECT b, c FROM $t WHERE {filter} ORDER BY b DESC, c LIMIT 5 OFFSET 1"));
        }
        for order in ["a", "a DESC", "a, b DESC", "b, c DESC", "b DESC, c", "u", "u DESC"] {
            let columns = order.replace(" DESC", "");
            queries.push(format!("SELECT {columns} FROM $t ORDER BY {order} LIMIT 7 OFFSET 2"));
        }
        for query in queries {
            let mut x = rows(&self.context, &query.replace("$t", "x")).await?;
            let mut y = rows(&self.context, &query.replace("$t", "y")).await?;
            if !query.contains("ORDER BY") {
                x.sort();
                y.sort();
            }
            assert_eq!(x, y, "{query}");
        }
        Ok(())
    }
}

/// A text that looks random and is the same each time.
fn noise(n: u64) -> String {
    let mixed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    format!("{mixed:016x}{:08x}@example.org", mixed >> 17 & 0xFFFF_FFFF)
}

/// Whether a value is new is asked of Bloom filters: the column of a UNIQUE index is not read for it, and no index is
/// built, whether there is room for one or not. Values that are there are found all the same.
#[test]
fn new_unique_values_do_not_read_the_column_of_segments() -> Result<()> {
    for segment_cache in [64 << 20, 1 << 20] {
        block_on(async {
            let config = || Config { segment_cache, ..Config::default() };
            let backend = Arc::new(MemoryBackend::new());
            let context = AppContext::open(Arc::clone(&backend) as _, config()).await?;
            sql(&context, "CREATE TABLE t (id INT PRIMARY KEY, email TEXT UNIQUE, n INT)").await?;
            for part in 0..3 {
                let values: Vec<String> =
                    (0..40_000).map(|i| part * 40_000 + i).map(|i| format!("({i}, '{}', 0)", noise(i))).collect();
                sql(&context, &format!("INSERT INTO t VALUES {}", values.join(", "))).await?;
                sql(&context, "STORAGE FLUSH TABLE t").await?;
            }
            context.close().await?;
            let context = AppContext::open(Arc::new(backend.reopen()), config()).await?;
            let read = async || {
                let stats = rows(&context, "SHOW STATS").await?;
                let of = |name: &str| stats.iter().find(|row| row[0].contains(name)).map(|row| row[1].parse::<u64>());
                Ok::<_, KalamError>(of("storage_bytes_read").expect("a counter").expect("a number"))
            };
            rows(&context, "SELECT count(*) FROM t").await?;
            let column = 3 * 40_000 * noise(0).len() as u64;
            let before = read().await?;
            for i in 200_000..200_050 {
                sql(&context, &format!("INSERT INTO t VALUES ({i}, '{}', 0)", noise(i))).await?;
            }
            let bytes = read().await? - before;
            assert!(bytes < column / 2, "{bytes} bytes were read where the column has {column}");
            for (statement, fits) in [
                (format!("INSERT INTO t VALUES (-1, '{}', 0)", noise(70_000)), false),
                (format!("UPDATE t SET email = '{}' WHERE id = 200001", noise(3)), false),
                ("UPDATE t SET n = 1 WHERE id IN (5, 45000, 119999, 200002)".to_owned(), true),
                (format!("UPDATE t SET email = '{}' WHERE id = 45000", noise(3)), false),
                ("DELETE FROM t WHERE id = 3".to_owned(), true),
                (format!("UPDATE t SET email = '{}' WHERE id = 45000", noise(3)), true),
                (format!("INSERT INTO t VALUES (-1, '{}', 0), (-2, '{}', 0)", noise(45_000), noise(500_000)), true),
                (format!("INSERT INTO t VALUES (-3, '{}', 0)", noise(45_000)), false),
            ] {
                let outcome = sql(&context, &statement).await.map(drop).map_err(|e| e.code());
                assert_eq!(outcome, if fits { Ok(()) } else { Err(ErrorCode::UniqueViolation) }, "{statement}");
            }
            Ok::<_, KalamError>(())
        })?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(model_config(24, 500))]

    #[test]
    fn an_index_changes_no_answer(
        steps in prop::collection::vec((step(), prop::collection::vec((0..10usize, cells()), 0..2)), 1..16),
        last in prop::collection::vec((0..10usize, cells()), 4),
        // Room for every index in the cache, or for none.
        segment_cache in prop::sample::select(vec![64 << 20, 1 << 12]),
    ) {
        block_on(async {
            let mut run = Run::new(segment_cache).await?;
            for (step, asked) in &steps {
                run.step(step).await?;
                if !asked.is_empty() {
                    run.check(asked).await?;
                }
            }
            run.check(&last).await
        })
        .map_err(|e: KalamError| TestCaseError::fail(e.to_string()))?;
    }
}
