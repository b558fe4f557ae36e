//! One text with many sets of parameters: each run has the outcome that it could have had by itself.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::Result;
use kalamdb::sql::{ExecuteOptions, Params};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;

mod support;

use support::last_values;

struct Database(Arc<AppContext>);

impl Database {
    async fn open() -> Result<Self> {
        let database = Self(AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?);
        let setup = "CREATE TABLE t (id INT PRIMARY KEY, name TEXT NOT NULL, n INT DEFAULT 7);
            CREATE TABLE made (id BIGINT PRIMARY KEY DEFAULT SNOWFLAKE_ID(), name TEXT)";
        database.run(setup).await?;
        Ok(database)
    }

    async fn run(&self, sql: &str) -> Result<Vec<Vec<Value>>> {
        last_values(&support::sql(&self.0, sql).await?)
    }

    /// What each run did: the rows that it changed, or the code of its error.
    async fn many(&self, sql: &str, sets: &[Vec<Value>]) -> Vec<String> {
        let (context, options) = (&self.0, ExecuteOptions::default());
        let sets: Vec<Params> = sets.iter().cloned().map(Params::Positional).collect();
        let sets: Vec<&Params> = sets.iter().collect();
        let outcomes = context.executor().execute_many(context.session(), sql, &sets, &options).await;
        let told = |outcome: Result<Vec<kalamdb::sql::StatementResult>>| match outcome {
            Ok(results) => results.iter().map(|r| r.rows_affected.to_string()).collect(),
            Err(error) => error.code().as_str().to_owned(),
        };
        outcomes.into_iter().map(told).collect()
    }

    fn groups(&self) -> u64 {
        self.0.store().statistics().groups
    }
}

fn row(id: i64, name: &str) -> Vec<Value> {
    vec![Value::BigInt(id), Value::Text(name.to_owned())]
}

const INSERT: &str = "INSERT INTO t (id, name) VALUES ($1, $2)";

#[test]
fn runs_that_fit_are_one_commit() -> Result<()> {
    block_on(async {
        let database = Database::open().await?;
        let before = (database.groups(), database.0.store().statistics().commits);
        let sets: Vec<_> = (0..500).map(|id| row(id, "x")).collect();
        assert_eq!(database.many(INSERT, &sets).await, vec!["1"; 500]);
        let after = (database.groups(), database.0.store().statistics().commits);
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1));
        let counted = database.run("SELECT count(*), sum(id), sum(n) FROM t").await?;
        let sums = [500, 499 * 250, 7 * 500].map(Value::BigInt);
        assert!(counted[0].iter().zip(&sums).all(|(a, b)| a.to_string() == b.to_string()), "{counted:?}");
        // Each has an id of its own.
        let names: Vec<_> = (0..100).map(|n| vec![Value::Text(format!("n{n}"))]).collect();
        assert_eq!(database.many("INSERT INTO made (name) VALUES ($1)", &names).await, vec!["1"; 100]);
        assert_eq!(database.run("SELECT count(DISTINCT id) FROM made").await?, [[Value::BigInt(100)]]);
        Ok(())
    })
}

#[test]
fn one_that_is_wrong_fails_alone() -> Result<()> {
    block_on(async {
        let database = Database::open().await?;
        database.run("INSERT INTO t (id, name) VALUES (3, 'was there')").await?;
        let mut sets: Vec<_> = (0..6).map(|id| row(id, "x")).collect();
        sets.push(row(5, "again"));
        sets.push(vec![Value::BigInt(6), Value::Null]);
        sets.push(vec![Value::Text("no number".to_owned()), Value::Null]);
        sets.push(vec![Value::BigInt(7)]);
        sets.push(vec![Value::BigInt(8), Value::Text("x".to_owned()), Value::BigInt(1)]);
        let expected = ["1", "1", "1", "UNIQUE_VIOLATION", "1", "1", "UNIQUE_VIOLATION", "NOT_NULL_VIOLATION"];
        let told = database.many(INSERT, &sets).await;
        assert_eq!(told[..expected.len()], expected);
        assert!(told[expected.len()..].iter().all(|code| code.contains('_')), "{told:?}");
        let names = database.run("SELECT id, name FROM t ORDER BY id").await?;
        let found: Vec<String> = names.iter().map(|r| format!("{} {}", r[0], r[1])).collect();
        assert_eq!(found, ["0 'x'", "1 'x'", "2 'x'", "3 'was there'", "4 'x'", "5 'x'"]);
        Ok(())
    })
}

#[test]
fn what_is_not_one_row_of_values_runs_as_it_does_alone() -> Result<()> {
    block_on(async {
        let database = Database::open().await?;
        database.many(INSERT, &[row(1, "a"), row(2, "b"), row(3, "c")]).await;
        let id = |n: i64| vec![Value::BigInt(n)];
        let told = database.many("UPDATE t SET n = n + 1 WHERE id = $1", &[id(1), id(9), id(3)]).await;
        assert_eq!(told, ["1", "0", "1"]);
        let upsert = "INSERT INTO t (id, name) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name";
        assert_eq!(database.many(upsert, &[row(1, "z"), row(4, "new")]).await, ["1", "1"]);
        let two = "INSERT INTO t (id, name) VALUES ($1, $2), ($1 + 100, $2)";
        assert_eq!(database.many(two, &[row(5, "e"), row(6, "f")]).await, ["2", "2"]);
        assert_eq!(
            database.many("INSERT INTO t (id, nam) VALUES ($1, $2)", &[row(7, "e"), row(8, "f")]).await,
            ["COLUMN_NOT_FOUND"; 2]
        );
        assert_eq!(database.many("INSERT INTO", &[row(7, "e"), row(8, "f")]).await, ["SYNTAX_ERROR"; 2]);
        let found = database.run("SELECT string_agg(id || name || n, ' ' ORDER BY id) FROM t").await?;
        assert_eq!(found, [[Value::Text("1z8 2b7 3c8 4new7 5e7 6f7 105e7 106f7".to_owned())]]);
        Ok(())
    })
}

#[test]
fn in_a_transaction_they_are_its_statements() -> Result<()> {
    block_on(async {
        let database = Database::open().await?;
        database.run("BEGIN").await?;
        assert_eq!(database.many(INSERT, &[row(1, "a"), row(2, "b")]).await, ["1", "1"]);
        database.run("ROLLBACK").await?;
        assert_eq!(database.run("SELECT count(*) FROM t").await?, [[Value::BigInt(0)]]);
        Ok(())
    })
}
