//! Kept statements and plans give what parsing and planning anew gives.
//!
//! A random script runs on two databases, one with the caches and one without: queries and changes with parameters of
//! changing types, in two sessions of different users and two namespaces, in and outside of transactions, between
//! definitions, indexes and roles that come, change and go, and rows that move to segments. Every outcome is compared:
//! rows, column names and types, affected rows, or the error with its position.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::schema::Role;
use kalamdb::sql::{ExecuteOptions, Params, Session};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::{KalamDataType, Value};
use proptest::prelude::*;

struct Database {
    context: Arc<AppContext>,
    sessions: Vec<Session>,
    caches: bool,
}

const SETUP: &str = "CREATE TABLE t (id INT PRIMARY KEY, n BIGINT, s SMALLINT, name TEXT, x DOUBLE, d DECIMAL(10,2), at TIMESTAMP);
    CREATE TABLE u (a TEXT, b BIGINT, v TEXT, PRIMARY KEY (b, a));
    CREATE TABLE small (k SMALLINT PRIMARY KEY, v TEXT);
    CREATE TABLE bag (g INT, w TEXT);
    CREATE VIEW v AS SELECT id, name, n * 2 AS m FROM t WHERE n IS NOT NULL;
    CREATE NAMESPACE other;
    CREATE TABLE other.t (id INT PRIMARY KEY, name TEXT, n BIGINT);
    CREATE TABLE other.u (a TEXT, b BIGINT, v TEXT, PRIMARY KEY (b, a));
    INSERT INTO t SELECT value, value % 4, value, 'n' || value, value / 2.0, value, TIMESTAMP '2026-01-01 00:00:00' FROM generate_series(0, 9) AS g(value);
    INSERT INTO t (id, name) VALUES (100, NULL);
    INSERT INTO u SELECT 'k' || (value % 3), value, 'v' || value FROM generate_series(0, 9) AS g(value);
    INSERT INTO small SELECT value, 's' FROM generate_series(0, 4) AS g(value);
    INSERT INTO bag SELECT value % 3, 'w' || value FROM generate_series(0, 11) AS g(value);
    INSERT INTO other.t VALUES (1, 'one', 1), (2, 'two', 2);
    INSERT INTO other.u VALUES ('o', 1, 'v');
    CREATE INDEX t_n ON t (n, id);
    CREATE USER TABLE mine (id INT PRIMARY KEY, n BIGINT);
    CREATE VIEW whose AS SELECT current_user AS who, id FROM mine;
    INSERT INTO mine SELECT value, value % 3 FROM generate_series(0, 9) AS g(value);
    CREATE USER ben;
    EXECUTE AS USER 'ben' (INSERT INTO mine VALUES (2, 1), (30, 2));
    CREATE TABLE secret (id INT PRIMARY KEY, n BIGINT) WITH (ACCESS_LEVEL = 'restricted');
    INSERT INTO secret VALUES (1, 1), (2, 5)";

impl Database {
    async fn open(caches: bool) -> Result<Self> {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        let sessions = vec![Session::new("ann"), Session::of_user("ben", Role::System)];
        let database = Self { context, sessions, caches };
        database.execute(0, SETUP, &Params::default(), true).await?;
        Ok(database)
    }

    async fn execute(
        &self,
        session: usize,
        sql: &str,
        params: &Params,
        short_path: bool,
    ) -> Result<Vec<kalamdb::sql::StatementResult>> {
        let options = ExecuteOptions { caches: self.caches, short_path, ..ExecuteOptions::default() };
        self.context.executor().execute(&self.sessions[session], sql, params, &options).await
    }

    /// What a request did, as text.
    async fn run(&self, step: &Step) -> String {
        let outcome = self.execute(step.session, &step.sql, &step.params(), step.short_path).await;
        let ordered = step.sql.contains("ORDER BY");
        match outcome {
            Err(error) => error.to_string(),
            Ok(results) => results
                .iter()
                .map(|r| match &r.rows {
                    None => format!("{} rows;", r.rows_affected),
                    Some(rows) => {
                        let names: Vec<String> =
                            rows.schema.fields().iter().map(|f| format!("{}:{}", f.name(), f.data_type())).collect();
                        let batch = arrow::compute::concat_batches(&rows.schema, &rows.batches).expect("one schema");
                        let mut lines: Vec<String> =
                            (0..batch.num_rows()).map(|i| format!("{:?}", batch.slice(i, 1).columns())).collect();
                        if !ordered {
                            lines.sort();
                        }
                        format!("{} rows {} {}", r.rows_affected, names.join(","), lines.join("\n"))
                    }
                })
                .collect(),
        }
    }

    fn gauge(&self, name: &str) -> u64 {
        let sql = format!("SELECT value FROM system.stats WHERE name = '{name}'");
        let results = block_on(self.execute(0, &sql, &Params::default(), true)).expect("statistics");
        let rows = results[0].rows.as_ref().expect("rows");
        match Value::from_array(rows.batches[0].column(0), 0, &KalamDataType::BigInt) {
            Ok(Value::BigInt(value)) => value as u64,
            other => panic!("{name} is {other:?}"),
        }
    }
}

#[derive(Debug, Clone)]
struct Step {
    session: usize,
    sql: String,
    values: [Value; 3],
    short_path: bool,
}

impl Step {
    /// As many parameters as the text uses.
    fn params(&self) -> Params {
        let used = (1..=3).rev().find(|n| self.sql.contains(&format!("${n}"))).unwrap_or(0);
        Params::Positional(self.values[..used].to_vec())
    }
}

/// Statements that come again and again, so that kept plans are used.
const QUERIES: &[&str] = &[
    "SELECT * FROM t WHERE id = $1",
    "SELECT id, name FROM t WHERE id = $1 OR id = $2",
    "SELECT id FROM t WHERE id IN ($1, $2, $3) ORDER BY id",
    "SELECT id FROM t WHERE id IN ($1, 2) ORDER BY id",
    "SELECT id FROM t WHERE n + 0 IN ($1, 2, 3, 4, 5) ORDER BY id",
    "SELECT id FROM t WHERE name NOT IN ($1, 'n1', 'n2', 'n5', $2) ORDER BY id",
    "SELECT id FROM t WHERE id BETWEEN $1 AND $2 ORDER BY id",
    "SELECT id, $1 AS p FROM t WHERE n < $2 ORDER BY id",
    "SELECT id FROM t WHERE id > $1 ORDER BY id LIMIT $2",
    "SELECT id FROM t WHERE id > $1 ORDER BY n DESC, id LIMIT 3 OFFSET 1",
    "SELECT $1 IS NULL, $1 = $2, id FROM t WHERE $1 IS NOT NULL AND id = $2",
    "SELECT id FROM t WHERE $1 IS NULL OR name = $1 ORDER BY id",
    "SELECT name FROM t WHERE name LIKE $1 ORDER BY name",
    "SELECT id + $1, n * $2 FROM t WHERE id < 5 ORDER BY id",
    "SELECT x FROM t WHERE x > $1 ORDER BY x",
    "SELECT d FROM t WHERE d = $1",
    "SELECT id FROM t WHERE at >= $1 ORDER BY id",
    "SELECT s FROM t WHERE s = $1",
    "SELECT v FROM small WHERE k = $1",
    "SELECT v FROM small WHERE k IN ($1, $2)",
    "SELECT id, s FROM t WHERE s BETWEEN $1 AND $2 ORDER BY id",
    "SELECT id FROM t WHERE s > $1 AND s <> $2 ORDER BY id",
    "SELECT a.id FROM t a JOIN small b ON a.s = b.k WHERE b.k >= $1 ORDER BY a.id",
    "SELECT count(*), sum(n), min(name) FROM t WHERE id <= $1",
    "SELECT n, count(*) AS c FROM t WHERE id <> $1 GROUP BY n HAVING count(*) > $2 ORDER BY n",
    "SELECT n + $1 AS k, count(*) FROM t GROUP BY n + $1 ORDER BY k",
    "SELECT t.id, u.v FROM t JOIN u ON t.id = u.b WHERE u.a = $1 ORDER BY t.id",
    "SELECT t.id, u.v FROM t LEFT JOIN u ON t.id = u.b AND u.a = $1 WHERE t.id < $2 ORDER BY t.id",
    "SELECT a.id, b.id FROM t a, t b WHERE a.n = b.id AND a.id < $1 ORDER BY a.id, b.id",
    "SELECT a.id, b.k FROM t a CROSS JOIN small b WHERE a.id + b.k = $1 ORDER BY a.id",
    "SELECT id FROM t WHERE n IN (SELECT b FROM u WHERE v <> $1) ORDER BY id",
    "SELECT id, (SELECT max(b) FROM u WHERE u.b <= $1) AS m FROM t WHERE id < $2 ORDER BY id",
    "SELECT id FROM t WHERE n = (SELECT min(b) FROM u WHERE b > $1) ORDER BY id",
    "SELECT id FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.b = t.id AND u.a = $1) ORDER BY id",
    "SELECT id FROM t o WHERE n > (SELECT avg(n) FROM t i WHERE i.id < o.id + $1) ORDER BY id",
    "SELECT id FROM t WHERE id < $1 UNION ALL SELECT b FROM u WHERE b > $2",
    "SELECT id FROM t EXCEPT SELECT b FROM u WHERE b < $1",
    "SELECT * FROM v WHERE id = $1",
    "SELECT sum(m) FROM v WHERE m > $1",
    "SELECT v FROM u WHERE b = $1 AND a = $2",
    "SELECT v FROM u WHERE b = $1",
    "SELECT g, row_number() OVER (PARTITION BY g ORDER BY w) AS r FROM bag WHERE g <> $1 ORDER BY g, r",
    "SELECT DISTINCT g FROM bag WHERE w > $1 ORDER BY g",
    "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < $1 AND i < 20) SELECT count(*) FROM c",
    "WITH q AS (SELECT id, n FROM t WHERE n = $1) SELECT a.id, b.id FROM q a JOIN q b ON a.id = b.id ORDER BY a.id",
    "SELECT CASE WHEN id = $1 THEN $2 ELSE name END AS c FROM t ORDER BY id",
    "SELECT coalesce(n, $1) FROM t ORDER BY id",
    "SELECT upper($1), length($2)",
    "SELECT 10 / $1",
    "SELECT CAST($1 AS INT), CAST($2 AS TEXT)",
    "VALUES ($1, $2), ($2, $1)",
    "SELECT id, now() > TIMESTAMP '2020-01-01 00:00:00' FROM t WHERE id = $1",
    "SELECT count(*) FROM generate_series(1, 5) AS g(i) WHERE i <= $1",
    "SELECT id, _seq > 0 FROM t WHERE id = $1 ORDER BY id",
    "SELECT id FROM t WHERE id = ANY ($1) ORDER BY id",
    "SELECT missing FROM t WHERE id = $1",
    "SELECT extra FROM t WHERE id = $1",
    "SELECT * FROM t WHERE id <= $1 ORDER BY id",
    "SELECT string_agg(name, $1) FROM (SELECT name FROM t WHERE id < 3 ORDER BY id)",
    "SELECT id, lag(id, $1) OVER (ORDER BY id) FROM t ORDER BY id",
    "SELECT table_name FROM information_schema.tables WHERE table_name = $1",
    "SELECT id, name FROM t WHERE n = $1",
    "SELECT id FROM t WHERE n = $1 AND id > $2 ORDER BY id",
    "SELECT id FROM t WHERE n = $1 ORDER BY id DESC LIMIT 2",
    "SELECT id FROM t WHERE n IN ($1, $2) ORDER BY id LIMIT 3",
    "SELECT n, id FROM t WHERE n >= $1 AND n < $2 ORDER BY n, id LIMIT 3",
    "SELECT id, n FROM t ORDER BY n, id LIMIT $1",
    "SELECT * FROM mine WHERE id = $1",
    "SELECT * FROM mine WHERE n >= $1 ORDER BY id",
    "SELECT current_user, session_user, id FROM mine WHERE id <> $1 ORDER BY id",
    "SELECT who, id FROM whose WHERE id < $1 ORDER BY id",
    "EXECUTE AS USER 'ben' (SELECT id, current_user, session_user FROM mine WHERE n < $1 ORDER BY id)",
    "EXECUTE AS USER 'ben' (SELECT n FROM mine WHERE id = $1)",
    "SELECT n FROM secret WHERE id = $1",
    "SELECT count(*) FROM secret WHERE n > $1",
];

const CHANGES: &[&str] = &[
    "INSERT INTO t (id, n, name) VALUES ($1, $2, $3)",
    "INSERT INTO t (id, n) VALUES ($1 + 20, 1 + 2)",
    "INSERT INTO t (id, n) SELECT b + 200, b FROM u WHERE b = $1",
    "UPDATE t SET n = $1 WHERE id = $2",
    "UPDATE t SET n = n + $1 WHERE id = $2",
    "UPDATE t SET n = $1 WHERE n = $2 RETURNING id, n",
    "UPDATE t SET n = u.b FROM u WHERE u.b = t.id AND u.a = $1",
    "UPDATE t SET name = $1 WHERE id IN (SELECT b FROM u WHERE b < $2)",
    "DELETE FROM t WHERE id = $1",
    "DELETE FROM t WHERE id > $1 AND n = $2",
    "DELETE FROM bag WHERE g = $1 RETURNING *",
    "INSERT INTO bag VALUES ($1, $2)",
    "INSERT INTO u VALUES ($1, $2, $3)",
    "PREPARE p AS SELECT id, n FROM t WHERE id = $1 ORDER BY id",
    "PREPARE p (TEXT) AS SELECT count(*) FROM u WHERE a = $1",
    "EXECUTE p ($1)",
    "EXECUTE p (1 + 1)",
    "DEALLOCATE p",
    "INSERT INTO mine VALUES ($1, $2)",
    "UPDATE mine SET n = n + $1 WHERE n = $2",
    "EXECUTE AS USER 'ben' (DELETE FROM mine WHERE id = $1)",
    "STORAGE FLUSH ALL",
    "STORAGE FLUSH TABLE default.t",
    "STORAGE COMPACT TABLE default.t",
];

const TRANSACTIONS: &[&str] =
    &["BEGIN", "BEGIN READ ONLY", "SAVEPOINT a", "ROLLBACK TO a", "COMMIT", "COMMIT", "ROLLBACK"];

const DEFINITIONS: &[&str] = &[
    "USE other",
    "USE default",
    "ALTER TABLE t ADD COLUMN extra INT DEFAULT 7",
    "ALTER TABLE t DROP COLUMN extra",
    "ALTER TABLE default.t ALTER COLUMN n TYPE DOUBLE",
    "ALTER TABLE default.t ALTER COLUMN n TYPE BIGINT",
    "ALTER TABLE default.t RENAME COLUMN name TO title",
    "ALTER TABLE default.t RENAME COLUMN title TO name",
    "DROP TABLE small; CREATE TABLE small (k SMALLINT PRIMARY KEY, v TEXT); INSERT INTO small VALUES (1, 'new')",
    "DROP TABLE small; CREATE TABLE small (k TEXT PRIMARY KEY, v TEXT); INSERT INTO small VALUES ('1', 'text')",
    "DROP TABLE bag",
    "CREATE TABLE IF NOT EXISTS bag (g INT, w TEXT); INSERT INTO bag VALUES (1, 'again')",
    "CREATE OR REPLACE VIEW default.v AS SELECT id, name, n * 3 AS m FROM default.t",
    "CREATE OR REPLACE VIEW default.v AS SELECT id, n AS m FROM default.t WHERE id < 5",
    "DROP VIEW v",
    "CREATE INDEX t_n ON default.t (n, id)",
    "DROP INDEX t_n",
    "CREATE INDEX t_s ON default.t (s)",
    "DROP INDEX t_s",
    "CREATE INDEX t_name ON default.t (name DESC)",
    "DROP INDEX t_name",
    "ALTER USER ben SET ROLE service",
    "ALTER USER ben SET ROLE user",
];

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => (0..11i64).prop_map(Value::BigInt),
        1 => Just(Value::BigInt(5_000_000_000)),
        1 => Just(Value::BigInt(40_000)),
        1 => Just(Value::BigInt(-1)),
        2 => Just(Value::Null),
        2 => prop_oneof![Just(2.0), Just(1.5), Just(-0.0)].prop_map(Value::Double),
        1 => Just(Value::Decimal { unscaled: 150, scale: 2 }),
        1 => Just(Value::Decimal { unscaled: 3, scale: 0 }),
        4 => prop_oneof![Just("k1"), Just("n3"), Just("n%"), Just("3"), Just(""), Just("2026-01-01"), Just("t")]
            .prop_map(|t| Value::Text(t.to_owned())),
        1 => Just(Value::Boolean(true)),
        1 => Just(Value::Timestamp(1_767_225_600_000_000)),
        1 => prop_oneof![Just("[1, 2, 3]"), Just("[]"), Just("[\"k1\", null]")].prop_map(|t| Value::Json(t.to_owned())),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let sql = prop_oneof![
        12 => prop::sample::select(QUERIES).prop_map(str::to_owned),
        5 => prop::sample::select(CHANGES).prop_map(str::to_owned),
        2 => prop::sample::select(DEFINITIONS).prop_map(str::to_owned),
        3 => prop::sample::select(TRANSACTIONS).prop_map(str::to_owned),
        1 => (prop::sample::select(QUERIES), prop::sample::select(CHANGES)).prop_map(|(a, b)| format!("{b}; {a}")),
    ];
    (prop_oneof![4 => Just(0usize), 1 => Just(1)], sql, [value(), value(), value()], prop::bool::weighted(0.7))
        .prop_map(|(session, sql, values, short_path)| Step { session, sql, values, short_path })
}

/// Cases of a run: KALAM_PLAN_CASES for more.
fn cases() -> u32 {
    std::env::var("KALAM_PLAN_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn caches_change_no_answer(steps in prop::collection::vec((step(), 1..3usize), 20..60)) {
        block_on(async {
            let (kept, fresh) = (Database::open(true).await?, Database::open(false).await?);
            for (step, times) in &steps {
                for _ in 0..*times {
                    let (a, b) = (kept.run(step).await, fresh.run(step).await);
                    assert_eq!(a, b, "{step:?}");
                }
            }
            Ok::<(), kalamdb::error::KalamError>(())
        })
        .map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
}

/// Every query with every pair of values, twice in a row, so that each plan is used with values it was not made for.
#[test]
fn every_query_with_every_type() -> Result<()> {
    let values = [
        Value::BigInt(2),
        Value::BigInt(7),
        Value::BigInt(1 << 40),
        Value::Null,
        Value::Double(2.5),
        Value::Text("k1".into()),
        Value::Text("n3".into()),
        Value::Boolean(true),
        Value::Json("[2, 7]".into()),
    ];
    block_on(async {
        let (kept, fresh) = (Database::open(true).await?, Database::open(false).await?);
        let mut differences = Vec::new();
        for sql in QUERIES {
            for (i, a) in values.iter().enumerate() {
                for b in [a, &values[(i + 1) % values.len()]] {
                    let values = [a.clone(), b.clone(), Value::BigInt(3)];
                    let step = Step { session: 0, sql: (*sql).to_owned(), values, short_path: false };
                    let (a, b) = (kept.run(&step).await, fresh.run(&step).await);
                    if a != b {
                        differences.push(format!("{sql} with {:?}\n  kept:  {a}\n  fresh: {b}", step.params()));
                    }
                }
            }
        }
        assert!(differences.is_empty(), "{}", differences.join("\n"));
        Ok(())
    })
}

/// A plan is used again after writes, and by another user, and not after a change of definitions, for another type or
/// namespace.
#[test]
fn plans_are_used_again_while_they_are_right() -> Result<()> {
    let database = block_on(Database::open(true))?;
    let sql = "SELECT count(*) FROM t JOIN u ON t.id = u.b WHERE t.id >= $1";
    let run = |session: usize, value: Value| {
        let before = database.gauge("plan_cache_hits");
        let params = Params::Positional(vec![value]);
        let results = block_on(database.execute(session, sql, &params, true)).expect("it runs");
        let rows = results[0].rows.clone().expect("rows");
        let count = Value::from_array(rows.batches[0].column(0), 0, &KalamDataType::BigInt).expect("a count");
        // Asking for the gauge is a hit itself, the second time and later.
        (count, database.gauge("plan_cache_hits") - before > 1)
    };
    let exec = |sql: &str| block_on(database.execute(0, sql, &Params::default(), true)).expect("it runs");
    database.gauge("plan_cache_hits");
    assert_eq!(run(0, Value::BigInt(2)), (Value::BigInt(8), false));
    assert_eq!(run(0, Value::BigInt(5)), (Value::BigInt(5), true));
    exec("DELETE FROM u WHERE b = 7");
    assert_eq!(run(0, Value::BigInt(5)), (Value::BigInt(4), true), "after a write");
    assert_eq!(run(0, Value::Double(5.0)), (Value::BigInt(4), false), "another type");
    assert_eq!(run(0, Value::Null), (Value::BigInt(0), false), "NULL");
    assert_eq!(run(1, Value::BigInt(5)), (Value::BigInt(4), true), "another user");
    exec("USE other");
    assert_eq!(run(0, Value::BigInt(1)), (Value::BigInt(1), false), "another namespace");
    exec("USE default");
    assert_eq!(run(0, Value::BigInt(6)), (Value::BigInt(3), true), "back again");
    exec("CREATE TABLE unrelated (id INT PRIMARY KEY)");
    database.gauge("plan_cache_hits");
    assert_eq!(run(0, Value::BigInt(6)), (Value::BigInt(3), false), "after a change of the catalog");
    assert_eq!(run(0, Value::BigInt(6)), (Value::BigInt(3), true));
    Ok(())
}

/// A kept plan reads what its run sees: segments, the open transaction, the rows and the rights of its user.
#[test]
fn a_kept_plan_runs_as_whoever_runs_it() -> Result<()> {
    let database = block_on(Database::open(true))?;
    let run = |session: usize, sql: &str, value: i64| {
        let before = database.gauge("plan_cache_hits");
        let params = Params::Positional(vec![Value::BigInt(value)]);
        let results = block_on(database.execute(session, sql, &params, true))?;
        let rows = results[0].rows.clone().expect("rows");
        let first = Value::from_array(rows.batches[0].column(0), 0, &KalamDataType::BigInt).expect("a number");
        Ok((first, database.gauge("plan_cache_hits") - before > 1))
    };
    let kept = |n| Ok::<_, kalamdb::error::KalamError>((Value::BigInt(n), true));
    let exec = |session: usize, sql: &str| {
        block_on(database.execute(session, sql, &Params::default(), true)).expect("it runs");
        // A change of the catalog forgets the gauge's own plan.
        database.gauge("plan_cache_hits");
    };
    let (count, mine, secret) = (
        "SELECT count(*) FROM t WHERE n = $1 AND id >= 0",
        "SELECT count(*) FROM mine WHERE n >= $1",
        "SELECT count(*) FROM secret WHERE n >= $1",
    );
    exec(0, "SELECT 1");
    for sql in [count, mine, secret] {
        run(0, sql, 0)?;
    }
    assert_eq!(run(0, count, 1), kept(3));
    exec(0, "STORAGE FLUSH ALL");
    assert_eq!(run(0, count, 1), kept(3), "from segments");
    exec(0, "UPDATE t SET n = 1 WHERE id = 3");
    assert_eq!((run(0, count, 1), run(0, count, 3)), (kept(4), kept(1)), "from segments and memory");
    exec(1, "BEGIN; UPDATE t SET n = 1 WHERE id = 7");
    assert_eq!((run(1, count, 1), run(0, count, 1)), (kept(5), kept(4)), "in a transaction and outside");
    exec(1, "ROLLBACK");
    assert_eq!((run(1, count, 1), run(0, count, 1)), (kept(4), kept(4)), "after it");
    exec(0, "DROP INDEX t_n");
    assert!(matches!(run(0, count, 1), Ok((Value::BigInt(4), false))), "without the index");
    assert_eq!(run(0, count, 1), kept(4));
    for sql in [mine, secret] {
        run(0, sql, 0)?;
    }
    assert_eq!((run(0, mine, 1), run(1, mine, 1)), (kept(6), kept(2)), "each user's rows");
    let refused = |outcome: Result<(Value, bool)>| outcome.map_err(|e| e.code());
    assert_eq!(refused(run(1, secret, 0)), Err(ErrorCode::PermissionDenied));
    exec(0, "ALTER USER ben SET ROLE service");
    assert_eq!(run(1, secret, 0), kept(2));
    exec(0, "ALTER USER ben SET ROLE user");
    assert_eq!(refused(run(1, secret, 0)), Err(ErrorCode::PermissionDenied));
    assert_eq!(run(0, secret, 5), kept(1));
    Ok(())
}

/// Many threads run the same statement at once, each with values of its own: a plan serves one run at a time.
#[test]
fn runs_at_the_same_time_keep_their_values_apart() -> Result<()> {
    let database = Arc::new(block_on(Database::open(true))?);
    let statements = [
        "SELECT a.id FROM t a JOIN t b ON a.id = b.id WHERE a.id = $1 AND b.id = $1 + 0",
        "SELECT id FROM t WHERE id = (SELECT min(id) FROM t WHERE id >= $1) ORDER BY id LIMIT 2",
        "SELECT id FROM t WHERE id = $1",
    ];
    let threads: Vec<_> = (0..4i64)
        .map(|n| {
            let database = Arc::clone(&database);
            std::thread::spawn(move || {
                for i in 0..60 {
                    let wanted = (n * 3 + i) % 10;
                    let params = Params::Positional(vec![Value::BigInt(wanted)]);
                    let sql = statements[i as usize % statements.len()];
                    let results = block_on(database.execute(0, sql, &params, i % 2 == 0)).expect("it runs");
                    let rows = results[0].rows.clone().expect("rows");
                    let found = Value::from_array(rows.batches[0].column(0), 0, &KalamDataType::Int).expect("an id");
                    assert_eq!((rows.len(), found), (1, Value::BigInt(wanted)), "{sql}");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no thread panics");
    }
    Ok(())
}

/// A kept plan finds the rows of a SMALLINT through the index and the key, and is kept apart for numbers that it cannot
/// hold.
#[test]
fn a_kept_plan_finds_a_smallint_through_its_index() -> Result<()> {
    let database = block_on(Database::open(true))?;
    let exec = |sql: &str, n: i64| {
        let params = if sql.contains("$1") { vec![Value::BigInt(n)] } else { Vec::new() };
        let results = block_on(database.execute(0, sql, &Params::Positional(params), false)).expect("it runs");
        let rows = results.last().and_then(|r| r.rows.clone());
        rows.map_or_else(String::new, |rows| {
            let text = |batch| arrow::util::pretty::pretty_format_batches(&[batch]).expect("text").to_string();
            rows.batches.into_iter().map(text).collect::<String>()
        })
    };
    exec("CREATE INDEX t_s ON t (s); CREATE INDEX t_k ON small (v, k)", 0);
    for (sql, path) in [
        ("SELECT id FROM t WHERE s = $1", "using t_s, range=[s = "),
        ("SELECT id FROM t WHERE s > $1 AND s <= 9", "using t_s"),
        ("SELECT id FROM t WHERE s BETWEEN $1 AND 9", "using t_s"),
        ("SELECT id FROM t WHERE s IN ($1, 3)", "using t_s"),
        ("SELECT k FROM small WHERE k = $1", "KeyLookup"),
        ("SELECT k FROM small WHERE k IN ($1, 3)", "KeyLookup"),
    ] {
        exec(sql, 40_000);
        exec(sql, 2);
        let (wide, small) = (format!("EXPLAIN VERBOSE {sql}"), exec(&format!("EXPLAIN VERBOSE {sql}"), 7));
        let kept = small.split("kept plan").nth(1).and_then(|rest| rest.split("initial logical").next());
        assert!(kept.is_some_and(|plan| plan.contains(path)), "{sql}: {small}");
        let hits = database.gauge("plan_cache_hits");
        for n in [3, 50_000, 4, -40_000] {
            exec(sql, n);
        }
        // One of them is the gauge's own.
        assert_eq!(database.gauge("plan_cache_hits") - hits, 5, "{sql}: {}", exec(&wide, 50_000));
    }
    Ok(())
}

/// Which of the queries are not kept, and that it is those that cannot be.
#[test]
fn a_value_that_does_not_fit_a_kept_plan_is_told_with_its_place() {
    let told = |caches: bool, sql: &str, count: usize| {
        block_on(async {
            let database = Database::open(caches).await.expect("open");
            let mut last = String::new();
            for text in ["3", "4", "t"] {
                let values = vec![Value::Text(text.into()); count];
                last = match database.execute(0, sql, &Params::Positional(values), false).await {
                    Ok(_) => String::new(),
                    Err(error) => error.to_string(),
                };
            }
            last
        })
    };
    for (sql, count) in [("UPDATE t SET n = 5 WHERE id = $1", 1), ("SELECT id FROM t\nWHERE n > 0 AND id + 1 = $1", 1)]
    {
        let told_anew = told(false, sql, count);
        assert!(told_anew.contains("'t'") && told_anew.contains("at line"), "{told_anew}");
        assert_eq!(told(true, sql, count), told_anew);
    }
}

#[test]
fn what_is_not_kept() -> Result<()> {
    let database = block_on(Database::open(true))?;
    database.gauge("plan_cache_hits");
    let mut anew = Vec::new();
    for sql in QUERIES {
        let step = Step { session: 0, sql: (*sql).to_owned(), values: [1, 2, 3].map(Value::BigInt), short_path: false };
        block_on(database.run(&step));
        let before = database.gauge("plan_cache_hits");
        let outcome = block_on(database.run(&step));
        // One hit is the gauge's own.
        if database.gauge("plan_cache_hits") - before < 2 && outcome.contains("rows") {
            anew.push(*sql);
        }
    }
    let reasons =
        ["RECURSIVE", "string_agg", "lag(", "now()", "VALUES", "CAST(", "upper($1)", "LIKE $1", "at >= $1", "a = $1"];
    let unexpected: Vec<&&str> = anew.iter().filter(|sql| !reasons.iter().any(|reason| sql.contains(reason))).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    Ok(())
}
