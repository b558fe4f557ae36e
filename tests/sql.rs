//! What SQL logic tests cannot express: parameters, limits, names of columns, reopening.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::platform::Instant;
use kalamdb::sql::{ExecuteOptions, Params, StatementResult};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;

/// A database in memory, without waiting.
mod support;

use support::last_values;

struct Database {
    backend: Arc<MemoryBackend>,
    context: Arc<AppContext>,
}

impl Database {
    fn open() -> Result<Self> {
        Self::with(Arc::new(MemoryBackend::new()), Config::default())
    }

    fn with(backend: Arc<MemoryBackend>, config: Config) -> Result<Self> {
        let context = block_on(AppContext::open(Arc::clone(&backend) as _, config))?;
        Ok(Self { backend, context })
    }

    fn run(&self, sql: &str, params: Params, options: &ExecuteOptions) -> Result<StatementResult> {
        let executor = self.context.executor();
        let mut results = block_on(executor.execute(self.context.session(), sql, &params, options))?;
        Ok(results.pop().unwrap_or_default())
    }

    fn exec(&self, sql: &str) -> Result<u64> {
        Ok(self.run(sql, Params::default(), &ExecuteOptions::default())?.rows_affected)
    }

    fn given(&self, sql: &str, params: Params) -> Result<Vec<Vec<Value>>> {
        last_values(&[self.run(sql, params, &ExecuteOptions::default())?])
    }

    fn query(&self, sql: &str) -> Result<Vec<Vec<Value>>> {
        self.given(sql, Params::default())
    }

    fn code(&self, sql: &str, params: Params) -> ErrorCode {
        self.error(sql, params).code()
    }

    fn error(&self, sql: &str, params: Params) -> KalamError {
        match self.run(sql, params, &ExecuteOptions::default()) {
            Ok(result) => panic!("{sql} should fail, but gave {result:?}"),
            Err(error) => error,
        }
    }

    fn names(&self, sql: &str) -> Result<Vec<String>> {
        let rows = self.run(sql, Params::default(), &ExecuteOptions::default())?.rows.expect("a query");
        Ok(rows.schema.fields().iter().map(|f| f.name().clone()).collect())
    }
}

fn list<const N: usize>(values: [Value; N]) -> Params {
    Params::Positional(values.to_vec())
}

fn named<const N: usize>(values: [(&str, Value); N]) -> Params {
    Params::Named(values.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<HashMap<_, _>>())
}

fn int(n: i64) -> Value {
    Value::BigInt(n)
}

fn text(t: &str) -> Value {
    Value::Text(t.to_owned())
}

fn people() -> Result<Database> {
    let db = Database::open()?;
    db.exec("CREATE TABLE p (id INT PRIMARY KEY, name TEXT, age INT, score DOUBLE, born DATE, u UUID)")?;
    db.exec(
        "INSERT INTO p (id, name, age, score) VALUES (1, 'ann', 30, 1.5), (2, 'bob', 40, 2.5), (3, NULL, NULL, NULL)",
    )?;
    Ok(db)
}

#[test]
fn positional_and_named_parameters() -> Result<()> {
    let db = people()?;
    assert_eq!(db.given("SELECT name FROM p WHERE id = $1", list([int(2)]))?, [[text("bob")]]);
    assert_eq!(db.given("SELECT name FROM p WHERE id = $id", named([("id", int(1))]))?, [[text("ann")]]);
    // One parameter in several places, and in another order than its number.
    let both =
        db.given("SELECT id FROM p WHERE age > $2 AND id < $1 AND $1 > 0 ORDER BY id", list([int(3), int(35)]))?;
    assert_eq!(both, [[int(2)]]);
    assert_eq!(db.given("SELECT $1 || '!' AS x", list([text("hey")]))?, [[text("hey!")]]);
    assert_eq!(db.given("SELECT id FROM p ORDER BY id LIMIT $1 OFFSET $2", list([int(1), int(1)]))?, [[int(2)]]);
    assert_eq!(
        db.given("SELECT id FROM p WHERE id IN ($1, $2) ORDER BY id", list([int(1), int(3)]))?,
        [[int(1)], [int(3)]]
    );
    assert_eq!(db.given("SELECT id FROM p WHERE age BETWEEN $1 AND $2", list([int(35), int(45)]))?, [[int(2)]]);
    assert_eq!(db.given("SELECT id FROM p WHERE name LIKE $1", list([text("a%")]))?, [[int(1)]]);
    // A number that has more than the column has decides by its value.
    assert_eq!(db.given("SELECT id FROM p WHERE age > $1 ORDER BY id", list([Value::Double(39.5)]))?, [[int(2)]]);
    assert_eq!(db.given("SELECT id FROM p WHERE id = $1", list([Value::Double(1.5)]))?, Vec::<Vec<Value>>::new());
    Ok(())
}

#[test]
fn null_as_a_parameter() -> Result<()> {
    let db = people()?;
    assert_eq!(db.given("SELECT id FROM p WHERE age = $1", list([Value::Null]))?, Vec::<Vec<Value>>::new());
    assert_eq!(db.given("SELECT id FROM p WHERE age IS NOT DISTINCT FROM $1", list([Value::Null]))?, [[int(3)]]);
    assert_eq!(db.given("SELECT coalesce($1, 7)", list([Value::Null]))?, [[int(7)]]);
    db.given("UPDATE p SET age = $1 WHERE id = $2", list([Value::Null, int(1)]))?;
    assert_eq!(db.query("SELECT age FROM p WHERE id = 1")?, [[Value::Null]]);
    Ok(())
}

#[test]
fn parameters_in_changes() -> Result<()> {
    let db = people()?;
    let insert = "INSERT INTO p (id, name, age, born) VALUES ($1, $2, $3, $4), ($1 + 1, upper($2), $3, $4)";
    let row = list([int(10), text("cy"), text("50"), text("2026-01-02")]);
    assert_eq!(db.run(insert, row, &ExecuteOptions::default())?.rows_affected, 2);
    assert_eq!(
        db.query("SELECT id, name, age, CAST(born AS TEXT) FROM p WHERE id >= 10 ORDER BY id")?,
        [[int(10), text("cy"), int(50), text("2026-01-02")], [int(11), text("CY"), int(50), text("2026-01-02")],]
    );
    let update = "UPDATE p SET name = $name, score = score + $more WHERE id = $id";
    let row = named([("name", text("new")), ("more", Value::Double(0.25)), ("id", int(1))]);
    assert_eq!(db.run(update, row, &ExecuteOptions::default())?.rows_affected, 1);
    assert_eq!(db.query("SELECT name, score FROM p WHERE id = 1")?, [[text("new"), Value::Double(1.75)]]);
    let delete = "DELETE FROM p WHERE id >= $1 RETURNING id";
    assert_eq!(db.given(delete, list([int(11)]))?, [[int(11)]]);
    let select = "INSERT INTO p (id, name) SELECT id + $1, $2 FROM p WHERE id = $3 RETURNING id, name";
    assert_eq!(db.given(select, list([int(100), text("copy"), int(2)]))?, [[int(102), text("copy")]]);
    let create = "CREATE TABLE q AS SELECT id, name FROM p WHERE id < $1";
    assert_eq!(db.run(create, list([int(3)]), &ExecuteOptions::default())?.rows_affected, 2);
    Ok(())
}

#[test]
fn parameters_that_do_not_fit() -> Result<()> {
    let db = people()?;
    assert_eq!(db.code("SELECT $1 + $2", list([int(1)])), ErrorCode::ParameterCount);
    assert_eq!(db.code("SELECT $1", list([int(1), int(2)])), ErrorCode::ParameterCount);
    assert_eq!(db.code("SELECT 1", list([int(1)])), ErrorCode::ParameterCount);
    assert_eq!(db.code("SELECT $1", Params::default()), ErrorCode::ParameterCount);
    assert_eq!(db.code("SELECT $nope", named([("name", int(1))])), ErrorCode::ParameterCount);
    assert_eq!(db.code("INSERT INTO p (id) VALUES ($1), ($2)", list([int(7)])), ErrorCode::ParameterCount);
    assert_eq!(
        db.code("WITH q AS (SELECT $1 AS id) DELETE FROM p WHERE id IN (SELECT id FROM q)", list([])),
        ErrorCode::ParameterCount
    );
    assert_eq!(db.code("SELECT * FROM p WHERE id = $1", list([text("x")])), ErrorCode::ParameterType);
    assert_eq!(db.code("SELECT * FROM p WHERE born = $1", list([text("soon")])), ErrorCode::ParameterType);
    assert_eq!(db.code("SELECT * FROM p WHERE u = $1", list([text("zz")])), ErrorCode::ParameterType);
    let error = db.error("INSERT INTO p (id, age) VALUES (20, $1)", list([text("old")]));
    assert_eq!(error.code(), ErrorCode::InvalidText);
    assert_eq!(error.message(), "column 'age', row 1: 'old' is not a valid INT");
    for (sql, message, hint) in [
        ("SELECT * FROM p WHERE id = ?", "'?' is not how parameters are written here", "Write $1, $2, … or $name."),
        ("SELECT * FROM p WHERE id = :id", "':id' is not how parameters are written here", "Write $1, $2, … or $name."),
        (
            "SELECT * FROM p WHERE id = $id",
            "the statement uses $id, a parameter by name, but an array is given",
            "Give an object, { id: … }, or write $1, $2, ….",
        ),
        ("SELECT 1", "1 parameter is given, but the statement uses none", "Write $1, $2, … or $name."),
    ] {
        let error = db.error(sql, list([int(1)]));
        assert_eq!((error.message(), error.hint()), (message, Some(hint)), "{sql}");
    }
    // Options in the place of parameters are no parameters; an object may have more fields than the statement names.
    let named = |names: &[&str]| Params::Named(names.iter().map(|name| ((*name).to_owned(), int(1))).collect());
    for sql in ["SELECT 1", "SELECT $1"] {
        let error = db.error(sql, named(&["timeoutMs", "durability"]));
        assert_eq!(error.code(), ErrorCode::ParameterCount, "{sql}");
        assert_eq!(error.message(), "a parameter 'durability' is given by name, but the statement names none", "{sql}");
    }
    assert_eq!(db.given("SELECT count(*) FROM p WHERE id = $id", named(&["id", "name"]))?, [[int(1)]]);
    // A wrong number of parameters keeps every statement of the request from running.
    assert_eq!(db.code("DELETE FROM p; SELECT $1", list([])), ErrorCode::ParameterCount);
    assert_eq!(db.query("SELECT count(*) FROM p")?, [[int(3)]]);
    Ok(())
}

#[test]
fn a_parameter_is_never_text_of_the_statement() -> Result<()> {
    let db = people()?;
    let evil = "x'); DELETE FROM p; --";
    db.given("UPDATE p SET name = $1 WHERE id = 1", list([text(evil)]))?;
    assert_eq!(db.given("SELECT id FROM p WHERE name = $1", list([text(evil)]))?, [[int(1)]]);
    assert_eq!(db.given("SELECT id FROM p WHERE name = $1", list([text("' OR true --")]))?, Vec::<Vec<Value>>::new());
    assert_eq!(db.query("SELECT count(*) FROM p")?, [[int(3)]]);
    Ok(())
}

#[test]
fn names_of_columns() -> Result<()> {
    let db = people()?;
    for (sql, names) in [
        ("SELECT id, p.name, age AS years, age AS \"Age\" FROM p", vec!["id", "name", "years", "Age"]),
        ("SELECT age + 1, upper(name), count(*) OVER () FROM p", vec!["age + 1", "upper(name)", "count(*) OVER ()"]),
        ("SELECT count(*), count(*), 1, 1, 'x' FROM p", vec!["count(*)", "count(*)", "1", "1", "'x'"]),
        ("SELECT a.id, b.id FROM p a JOIN p b ON a.id = b.id", vec!["id", "id"]),
        ("SELECT *, id FROM p", vec!["id", "name", "age", "score", "born", "u", "id"]),
        ("SELECT * FROM (SELECT count(*), count(*) FROM p) q", vec!["count(*)", "count(*)"]),
        ("SELECT id AS x FROM p UNION ALL SELECT age FROM p", vec!["x"]),
        ("SELECT (SELECT max(id) FROM p), (SELECT max(id) FROM p)", vec!["(SELECT max(id) FROM p)"; 2]),
        ("VALUES (1, 'a')", vec!["column1", "column2"]),
        ("INSERT INTO p (id) VALUES (50) RETURNING id, id + 1", vec!["id", "id + 1"]),
        ("UPDATE p SET age = 1 WHERE id = 50 RETURNING *", vec!["id", "name", "age", "score", "born", "u"]),
        ("DELETE FROM p WHERE id = 50 RETURNING id AS gone", vec!["gone"]),
    ] {
        assert_eq!(db.names(sql)?, names, "{sql}");
    }
    Ok(())
}

#[test]
fn a_query_beyond_the_memory_limit_fails_and_the_next_one_runs() -> Result<()> {
    let db = Database::with(Arc::new(MemoryBackend::new()), Config { memory_limit: 4 << 20, ..Config::default() })?;
    db.exec("CREATE TABLE big (id INT PRIMARY KEY, x TEXT)")?;
    // In steps, because the rows of a statement count too.
    for first in (1..100_000).step_by(10_000) {
        let last = first + 9_999;
        let rows = format!("SELECT value, repeat('x', 100) || value FROM generate_series({first}, {last})");
        db.exec(&format!("INSERT INTO big {rows}"))?;
    }
    for sql in [
        "SELECT x FROM big ORDER BY x DESC, id",
        "SELECT x, count(*) FROM big GROUP BY x",
        "SELECT count(*) FROM big a JOIN big b ON a.x = b.x",
        "SELECT DISTINCT x FROM big",
        "SELECT x, row_number() OVER (ORDER BY x) FROM big",
    ] {
        let error = db.error(sql, Params::default());
        assert_eq!(error.code(), ErrorCode::OutOfMemory, "{sql}: {error}");
        assert_eq!(db.context.executor().query_memory(), 0, "{sql} gave its memory back");
        assert_eq!(db.query("SELECT count(*) FROM big WHERE id <= 10")?, [[int(10)]]);
    }
    // The same limit is enough for a query that keeps little.
    assert_eq!(db.query("SELECT x FROM big ORDER BY id DESC LIMIT 1")?[0][0].to_text().len(), 106);
    Ok(())
}

#[test]
fn cancelled_and_late_requests() -> Result<()> {
    let db = Database::open()?;
    db.exec("CREATE TABLE n (id INT PRIMARY KEY)")?;
    db.exec("INSERT INTO n SELECT value FROM generate_series(1, 20000)")?;
    let cancelled = ExecuteOptions { cancelled: Arc::new(AtomicBool::new(true)), ..ExecuteOptions::default() };
    let late =
        ExecuteOptions { deadline: Some(Instant::now() - Duration::from_millis(1)), ..ExecuteOptions::default() };
    for sql in [
        "SELECT count(*) FROM n a JOIN n b ON a.id < b.id",
        "SELECT * FROM n",
        "UPDATE n SET id = -id",
        "DELETE FROM n WHERE id IN (SELECT id FROM n)",
        "INSERT INTO n SELECT id + 100000 FROM n",
    ] {
        let error = db.run(sql, Params::default(), &cancelled).expect_err(sql);
        assert_eq!(error.code(), ErrorCode::Cancelled, "{sql}: {error}");
        let error = db.run(sql, Params::default(), &late).expect_err(sql);
        assert_eq!(error.code(), ErrorCode::Timeout, "{sql}: {error}");
    }
    assert_eq!(db.query("SELECT count(*), min(id), max(id) FROM n")?, [[int(20000), int(1), int(20000)]]);
    assert_eq!(db.context.executor().query_memory(), 0);
    // The flag can be taken back: it belongs to a request, not to the database.
    cancelled.cancelled.store(false, Ordering::Relaxed);
    assert!(db.run("SELECT 1", Params::default(), &cancelled).is_ok());
    Ok(())
}

#[test]
fn now_stands_still_in_a_statement_and_moves_between_them() -> Result<()> {
    let db = Database::open()?;
    db.exec("CREATE TABLE t (id INT PRIMARY KEY, at TIMESTAMP DEFAULT NOW())")?;
    let fixed = "SELECT count(DISTINCT now()) FROM generate_series(1, 50000)";
    assert_eq!(db.query(fixed)?, [[int(1)]]);
    let first = db.query("SELECT now()")?;
    std::thread::sleep(Duration::from_millis(2));
    assert_ne!(db.query("SELECT now()")?, first);
    db.exec("INSERT INTO t (id) SELECT value FROM generate_series(1, 20000)")?;
    db.exec("INSERT INTO t VALUES (-1, now()), (-2, DEFAULT)")?;
    assert_eq!(db.query("SELECT count(DISTINCT at) FROM t WHERE id > 0")?, [[int(1)]]);
    assert_eq!(db.query("SELECT count(DISTINCT at) FROM t WHERE id < 0")?, [[int(1)]]);
    Ok(())
}

#[test]
fn everything_survives_close_and_reopen() -> Result<()> {
    let mut db = Database::open()?;
    db.exec(
        "CREATE NAMESPACE shop;
         CREATE TABLE shop.items (id INT, part TEXT, price DECIMAL(8,2), tag JSON, u UUID DEFAULT UUID_V7(),
           e EMBEDDING(2), at TIMESTAMP, PRIMARY KEY (id, part));
         CREATE TABLE \"Odd Name\" (\"A b\" BIGINT DEFAULT 7, note TEXT NOT NULL);
         INSERT INTO shop.items (id, part, price, tag, e, at) VALUES
           (1, 'a', 1.50, '{\"x\":[1,null]}', '[1,2]', '2026-01-02 03:04:05.678901'), (1, 'b', NULL, NULL, NULL, NULL),
           (2, 'a', 9.99, '[]', '[0.5,-1]', '1969-12-31 00:00:00');
         INSERT INTO \"Odd Name\" (note) VALUES ('one'), ('one'), ('ünï 🐎')",
    )?;
    db.exec("UPDATE shop.items SET price = price + 1 WHERE part = 'a'")?;
    db.exec("DELETE FROM shop.items WHERE part = 'b'")?;
    db.exec("UPDATE shop.items SET id = 3 WHERE id = 2")?;
    let queries = [
        "SELECT * FROM shop.items ORDER BY id, part",
        "SELECT * FROM \"Odd Name\" ORDER BY note",
        "SELECT * FROM information_schema.columns ORDER BY table_name, ordinal_position",
        "SHOW NAMESPACES",
        "DESCRIBE shop.items",
    ];
    let before = queries.iter().map(|q| db.query(q)).collect::<Result<Vec<_>>>()?;
    for _ in 0..2 {
        block_on(db.context.close())?;
        assert_eq!(db.code("INSERT INTO \"Odd Name\" VALUES (1, 'late')", Params::default()), ErrorCode::Closed);
        db = Database::with(Arc::new(db.backend.reopen()), Config::default())?;
        for (query, before) in queries.iter().zip(&before) {
            assert_eq!(&db.query(query)?, before, "{query}");
        }
        let duplicate = "INSERT INTO shop.items (id, part) VALUES (3, 'a')";
        assert_eq!(db.code(duplicate, Params::default()), ErrorCode::UniqueViolation);
        assert_eq!(db.exec("INSERT INTO shop.items (id, part) VALUES (1, 'b')")?, 1);
        assert_eq!(db.exec("DELETE FROM shop.items WHERE id = 1 AND part = 'b'")?, 1);
    }
    Ok(())
}
