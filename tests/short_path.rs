//! Statements that pin a key give the same past the planner and through it.
//!
//! Every case runs one script on two databases, one with the short path and one without, and compares the outcome of
//! each statement: rows, column names and types, affected rows, or the error.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::Result;
use kalamdb::sql::{ExecuteOptions, Params};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;
use proptest::prelude::*;

struct Database {
    context: Arc<AppContext>,
    options: ExecuteOptions,
}

impl Database {
    async fn open(short_path: bool) -> Result<Self> {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        let database = Self { context, options: ExecuteOptions { short_path, ..ExecuteOptions::default() } };
        let setup = "CREATE TABLE one (id INT PRIMARY KEY, name TEXT NOT NULL, n DOUBLE);
             CREATE TABLE two (a TEXT, b BIGINT, v TEXT, PRIMARY KEY (b, a));
             CREATE TABLE none (id INT, v TEXT);
             INSERT INTO one SELECT value, 'n' || value, value / 2.0 FROM generate_series(0, 9) AS g(value);
             INSERT INTO two SELECT 'k' || (value % 3), value, 'v' FROM generate_series(0, 9) AS g(value);
             INSERT INTO none VALUES (1, 'x'), (1, 'y'), (2, 'x'), (NULL, 'x');
             CREATE INDEX none_id ON none (id, v); CREATE INDEX two_v ON two (v); CREATE UNIQUE INDEX one_name ON one (name)";
        database
            .context
            .executor()
            .execute(database.context.session(), setup, &Params::default(), &database.options)
            .await?;
        Ok(database)
    }

    /// What a statement did, as text.
    async fn run(&self, sql: &str, params: &Params) -> String {
        let outcome = self.context.executor().execute(self.context.session(), sql, params, &self.options).await;
        match outcome {
            Err(error) => format!("{}: {}", error.code().as_str(), error.message()),
            Ok(results) => results
                .iter()
                .map(|r| match &r.rows {
                    None => format!("{} rows", r.rows_affected),
                    Some(rows) => {
                        let mut lines: Vec<String> = vec![
                            rows.schema.fields().iter().map(|f| format!("{}:{}", f.name(), f.data_type())).collect(),
                        ];
                        let batch = arrow::compute::concat_batches(&rows.schema, &rows.batches).expect("one schema");
                        let mut rows: Vec<String> =
                            (0..batch.num_rows()).map(|i| format!("{:?}", batch.slice(i, 1).columns())).collect();
                        // No statement here has an ORDER BY.
                        rows.sort();
                        lines.extend(rows);
                        format!("{} rows {}", r.rows_affected, lines.join("\n"))
                    }
                })
                .collect(),
        }
    }
}

fn constant() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0..11i64).prop_map(|n| n.to_string()),
        1 => Just("NULL".to_owned()),
        1 => Just("1.5".to_owned()),
        1 => Just("-1".to_owned()),
        1 => Just("'3'".to_owned()),
        1 => Just("99999999999".to_owned()),
        2 => Just("$1".to_owned()),
    ]
}

fn selection() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => constant().prop_map(|c| format!("id = {c}")),
        1 => constant().prop_map(|c| format!("{c} = (id)")),
        2 => prop::collection::vec(constant(), 1..4).prop_map(|c| format!("id IN ({})", c.join(", "))),
        1 => (constant(), constant()).prop_map(|(a, b)| format!("id = {a} AND id = {b}")),
        1 => (constant(), constant()).prop_map(|(a, b)| format!("id = {a} OR id = {b}")),
        1 => constant().prop_map(|c| format!("id = {c} AND name = 'n3'")),
        1 => constant().prop_map(|c| format!("o.id = {c}")),
        1 => constant().prop_map(|c| format!("id <> {c}")),
    ]
}

fn statement() -> impl Strategy<Value = String> {
    let list = prop_oneof![
        Just("*"),
        Just("name, id"),
        Just("id AS key, n"),
        Just("id, id"),
        Just("n + 1"),
        Just("o.name"),
        Just("count(*)"),
        Just("missing"),
        Just("DISTINCT name"),
    ];
    let tail = prop_oneof![6 => Just(""), 1 => Just(" LIMIT 0"), 1 => Just(" FOR UPDATE"), 1 => Just(" GROUP BY id")];
    prop_oneof![
        4 => (list, selection(), tail).prop_map(|(l, s, t)| format!("SELECT {l} FROM one AS o WHERE {s}{t}")),
        2 => (constant(), constant()).prop_map(|(a, b)| format!("SELECT v, a FROM two WHERE a = 'k{}' AND b = {b}", a.trim_matches('\''))),
        1 => constant().prop_map(|c| format!("SELECT * FROM two WHERE b = {c}")),
        1 => constant().prop_map(|c| format!("SELECT * FROM none WHERE id = {c}")),
        1 => constant().prop_map(|c| format!("SELECT * FROM none WHERE v = 'x' AND id IN ({c}, 2)")),
        1 => constant().prop_map(|c| format!("SELECT v, id FROM none WHERE v = {c}")),
        1 => constant().prop_map(|c| format!("SELECT id FROM one WHERE name IN ('n{}', 'n2', 'z')", c.trim_matches('\''))),
        1 => constant().prop_map(|c| format!("SELECT a, b FROM two WHERE v IN ({c}, 'v')")),
        1 => constant().prop_map(|c| format!("UPDATE none SET v = 'w' WHERE id = {c} RETURNING *")),
        1 => constant().prop_map(|c| format!("DELETE FROM none WHERE v = 'w' AND id = {c}")),
        2 => (constant(), selection()).prop_map(|(c, s)| format!("UPDATE one AS o SET n = {c} WHERE {s}")),
        1 => (constant(), selection()).prop_map(|(c, s)| format!("UPDATE one AS o SET id = {c}, n = n + 1 WHERE {s}")),
        1 => (constant(), selection()).prop_map(|(c, s)| format!("UPDATE one AS o SET id = {c} WHERE {s}")),
        1 => selection().prop_map(|s| format!("UPDATE one AS o SET name = NULL WHERE {s}")),
        1 => selection().prop_map(|s| format!("UPDATE one AS o SET name = 'z', n = DEFAULT WHERE {s} RETURNING *")),
        2 => selection().prop_map(|s| format!("DELETE FROM one AS o WHERE {s}")),
        1 => selection().prop_map(|s| format!("DELETE FROM one AS o WHERE {s} RETURNING name")),
        1 => (0..12i64).prop_map(|n| format!("INSERT INTO one VALUES ({n}, 'new', NULL)")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_ways_give_the_same(statements in prop::collection::vec((statement(), 0..11i64), 1..25)) {
        block_on(async {
            let (short, planned) = (Database::open(true).await?, Database::open(false).await?);
            for (sql, param) in statements {
                let params = if sql.contains("$1") { Params::Positional(vec![Value::BigInt(param)]) } else { Params::default() };
                let (a, b) = (short.run(&sql, &params).await, planned.run(&sql, &params).await);
                assert_eq!(a, b, "{sql} with {param}");
            }
            let all = "SELECT * FROM one WHERE id >= 0 OR id < 0";
            assert_eq!(short.run(all, &Params::default()).await, planned.run(all, &Params::default()).await);
            Ok::<(), kalamdb::error::KalamError>(())
        })
        .map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
}
