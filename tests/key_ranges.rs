//! Ranges of the primary key and its order: the same answers through the key as by looking at every row.
//!
//! Each query is asked twice of one table, the second time with expressions in place of the key's columns, which no key
//! answers; and once more with parameters, by a plan that is kept while rows change, are flushed and come back.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::sql::{Cursor, ExecuteOptions, Params};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;
use proptest::prelude::*;

mod support;

use support::{last_values, map_cells, model_config};

type Key = (i64, i64);

#[derive(Debug, Clone)]
enum Step {
    Insert(Vec<Key>),
    /// So many rows in key order from one on, as most tables are written.
    Append(i64, i64),
    Delete(i64, Key),
    Update(i64, Key),
    Flush,
    Compact,
    /// Asked in a transaction, which is committed or rolled back.
    Transaction(Vec<Step>, bool),
    Truncate,
    Retype(bool),
    Reopen,
}

fn key() -> impl Strategy<Value = Key> {
    (0..6i64, 0..30i64)
}

fn change() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(key(), 1..40).prop_map(Step::Insert),
        4 => (0..6i64, 1..90i64).prop_map(|(g, n)| Step::Append(g, n)),
        2 => (0..6i64, key()).prop_map(|(shape, key)| Step::Delete(shape, key)),
        2 => (0..6i64, key()).prop_map(|(shape, key)| Step::Update(shape, key)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => change(),
        3 => Just(Step::Flush),
        1 => Just(Step::Compact),
        2 => (prop::collection::vec(change(), 1..4), any::<bool>()).prop_map(|(s, c)| Step::Transaction(s, c)),
        1 => Just(Step::Truncate),
        2 => any::<bool>().prop_map(Step::Retype),
        1 => Just(Step::Reopen),
    ]
}

/// Ranges of every shape; `$a`, `$n` and `$b` stand for `a`, a text and `a + 2`.
fn filter(shape: i64) -> &'static str {
    match shape {
        0 => "g = $a",
        1 => "g = $a AND n > $n",
        2 => "g BETWEEN $a AND $b",
        3 => "g > $a AND v >= 0",
        4 => "g IN ($a, $b) AND n <= $n",
        _ => "g = $a AND n >= $n AND n < 't28'",
    }
}

/// The values of the parameters that a text names.
fn values(text: &str, (a, b): Key) -> Vec<(&'static str, Value)> {
    let all = [("a", Value::BigInt(a)), ("n", Value::Text(format!("t{b:02}"))), ("b", Value::BigInt(a + 2))];
    all.into_iter().filter(|(name, _)| text.contains(&format!("${name}"))).collect()
}

fn with_values(text: &str, key: Key) -> String {
    values(text, key)
        .into_iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${name}"), &value.to_string()))
}

/// The same query, which no key answers.
fn past_the_key(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.trim_end_matches(',') {
        "g" => word.replace('g', "(g + 0)"),
        "n" => word.replace('n', "(n || '')"),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

struct Run {
    backend: Arc<MemoryBackend>,
    context: Arc<AppContext>,
}

impl Run {
    async fn new() -> Result<Self> {
        let backend = Arc::new(MemoryBackend::new());
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        let run = Self { backend, context };
        run.sql("CREATE TABLE t (v INT, g BIGINT, n TEXT, PRIMARY KEY (g, n))").await?;
        Ok(run)
    }

    async fn sql(&self, text: &str) -> Result<()> {
        self.rows(text, None).await.map(drop)
    }

    async fn rows(&self, text: &str, key: Option<Key>) -> Result<Vec<String>> {
        let params = match key {
            Some(key) => Params::Named(values(text, key).into_iter().map(|(n, v)| (n.to_owned(), v)).collect()),
            None => Params::default(),
        };
        let options = ExecuteOptions::default();
        let results = self.context.executor().execute(self.context.session(), text, &params, &options).await;
        let results = results.map_err(|e| e.in_context(text))?;
        let cells = map_cells(last_values(&results)?, Value::to_string);
        Ok(cells.iter().map(|cells| cells.join(", ")).collect())
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Transaction(steps, commit) => {
                self.sql("BEGIN").await?;
                for step in steps {
                    self.change(step).await?;
                }
                self.check((2, 7)).await?;
                self.sql(if *commit { "COMMIT" } else { "ROLLBACK" }).await
            }
            Step::Flush => self.sql("STORAGE FLUSH TABLE t").await,
            Step::Compact => self.sql("STORAGE COMPACT TABLE t").await,
            Step::Truncate => self.sql("TRUNCATE t").await,
            Step::Retype(small) => {
                let name = if *small { "INT" } else { "BIGINT" };
                self.sql(&format!("ALTER TABLE t ALTER COLUMN g TYPE {name}")).await
            }
            Step::Reopen => {
                self.backend = Arc::new(self.backend.reopen());
                self.context = AppContext::open(Arc::clone(&self.backend) as _, Config::default()).await?;
                Ok(())
            }
            change => self.change(change).await,
        }
    }

    async fn change(&self, step: &Step) -> Result<()> {
        let text = match step {
            Step::Insert(keys) => {
                let rows: Vec<_> = keys.iter().map(|(g, n)| format!("({}, {g}, 't{n:02}')", (g * n) % 7 - 3)).collect();
                format!("INSERT INTO t VALUES {} ON CONFLICT DO NOTHING", rows.join(", "))
            }
            Step::Append(g, rows) => format!(
                "INSERT INTO t SELECT value % 5 - 2, {g} + value / 30, 't' || lpad((value % 30)::TEXT, 2, '0') \
                 FROM generate_series(0, {rows}) ON CONFLICT DO NOTHING"
            ),
            Step::Delete(shape, key) => with_values(&format!("DELETE FROM t WHERE {}", filter(*shape)), *key),
            Step::Update(shape, key) => with_values(&format!("UPDATE t SET v = v + 1 WHERE {}", filter(*shape)), *key),
            _ => return Ok(()),
        };
        self.sql(&text).await
    }

    async fn check(&self, key: Key) -> Result<()> {
        for shape in 0..6 {
            let filter = filter(shape);
            for (columns, order) in [
                ("v, g, n", ""),
                ("count(*), sum(v)", ""),
                ("g, n, v", " ORDER BY g , n LIMIT 5"),
                ("g, n, v", " ORDER BY g DESC, n DESC LIMIT 70 OFFSET 1"),
                ("n", " ORDER BY n LIMIT 4"),
                ("n", " ORDER BY n DESC LIMIT 4 OFFSET 2"),
                ("g", " ORDER BY g LIMIT 9"),
                ("g, n, v", " ORDER BY g , n"),
            ] {
                self.same(&format!("SELECT {columns} FROM t WHERE {filter}{order}"), key).await?;
            }
        }
        // Of segments that are seen whole the manifest knows the extremes; it knows nothing of expressions.
        self.same("SELECT min( g ), max( g ), min( n ), max( n ), min(v), max(v) FROM t", key).await?;
        for order in ["g , n", "g DESC, n DESC", "g", "g , n DESC", "n"] {
            let columns = order.replace(" DESC", "");
            self.same(&format!("SELECT {columns} FROM t ORDER BY {order} LIMIT 7 OFFSET 2"), key).await?;
        }
        Ok(())
    }

    async fn same(&self, query: &str, key: Key) -> Result<()> {
        let sort = |mut rows: Vec<String>| {
            if !query.contains("ORDER BY") {
                rows.sort();
            }
            rows
        };
        let expected = sort(self.rows(&past_the_key(&with_values(query, key)), None).await?);
        assert_eq!(sort(self.rows(&with_values(query, key), None).await?), expected, "{query} {key:?}");
        assert_eq!(sort(self.rows(query, Some(key)).await?), expected, "{query} {key:?} with parameters");
        Ok(())
    }
}

proptest! {
    // KALAM_MODEL_CASES=1000 for a long run.
    #![proptest_config(model_config(12, 300))]

    #[test]
    fn the_key_changes_no_answer(
        steps in prop::collection::vec((step(), prop::option::weighted(0.3, key())), 1..12),
        last in key(),
    ) {
        block_on(async {
            let mut run = Run::new().await?;
            for (step, asked) in &steps {
                run.step(step).await?;
                if let Some(key) = asked {
                    run.check(*key).await?;
                }
            }
            run.check(last).await
        })
        .map_err(|e: KalamError| TestCaseError::fail(e.to_string()))?;
    }
}

/// A reader of an older snapshot sees rows whose keys an ALTER forgot, or is told that it cannot.
#[test]
fn an_older_snapshot_misses_no_row_after_the_key_changed_its_type() -> Result<()> {
    block_on(async {
        let run = Run::new().await?;
        run.sql("INSERT INTO t SELECT value, value, 't01' FROM generate_series(1, 200) AS s(value)").await?;
        let query = "SELECT g FROM t WHERE g BETWEEN 20 AND 39 ORDER BY g LIMIT 30";
        let (executor, session) = (run.context.executor(), run.context.session());
        let options = ExecuteOptions::default();
        let mut cursor = Cursor::open(executor, session, query, &Params::default(), &options).await?;
        run.sql("DELETE FROM t WHERE g = 25").await?;
        run.sql("ALTER TABLE t ALTER COLUMN g TYPE INT").await?;
        let mut rows = 0;
        loop {
            match cursor.next(8).await {
                Ok(Some(batch)) => rows += batch.num_rows(),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error.code(), ErrorCode::Conflict, "{error}");
                    return Ok(());
                }
            }
        }
        assert_eq!(rows, 20);
        Ok(())
    })
}

/// The least and greatest values of segments come out of the manifest, where no row of them has ended.
#[test]
fn extremes_read_no_row_of_a_segment_that_is_whole() -> Result<()> {
    block_on(async {
        let run = Run::new().await?;
        run.sql("INSERT INTO t SELECT value % 90, value, 't' FROM generate_series(1, 5000) AS s(value)").await?;
        run.sql("STORAGE FLUSH TABLE t").await?;
        run.sql("INSERT INTO t VALUES (500, 7000, NULL || 'x'), (-1, 6000, 'a')")
            .await
            .expect_err("the key is not NULL");
        run.sql("INSERT INTO t VALUES (500, 7000, 'x'), (-1, 6000, 'a')").await?;
        let query = "SELECT max(g), min(g), max(v), min(v), min(n) FROM t";
        assert_eq!(run.rows(query, None).await?, ["7000, 1, 500, -1, 'a'"]);
        let plan = run.rows(&format!("EXPLAIN ANALYZE {query}"), None).await?.join("\n");
        assert!(plan.contains("extremes") && plan.contains("rows_read=0"), "{plan}");
        // A row of the segment that has ended may have been the greatest.
        run.sql("DELETE FROM t WHERE g = 5000").await?;
        run.sql("DELETE FROM t WHERE g > 5000").await?;
        assert_eq!(run.rows(query, None).await?, ["4999, 1, 89, 0, 't'"]);
        run.sql("ALTER TABLE t ADD COLUMN late INT DEFAULT 7").await?;
        assert_eq!(run.rows("SELECT min(late), max(late) FROM t", None).await?, ["7, 7"]);
        Ok(())
    })
}

/// Against the order, the last row group of the last segment comes first, and rows in memory between those of segments.
#[test]
fn segments_of_several_row_groups_are_read_from_their_ends() -> Result<()> {
    block_on(async {
        let run = Run::new().await?;
        run.sql("INSERT INTO t SELECT value, value * 2, '' FROM generate_series(1, 70000) AS s(value)").await?;
        run.sql("STORAGE FLUSH TABLE t").await?;
        run.sql("INSERT INTO t SELECT value, value * 2, '' FROM generate_series(70001, 70300) AS s(value)").await?;
        run.sql("STORAGE FLUSH TABLE t").await?;
        run.sql("INSERT INTO t SELECT value, value * 500 + 1, '' FROM generate_series(1, 290) AS s(value)").await?;
        let ask = async |filter: &str, order: &str| {
            let text = format!("SELECT g FROM t {filter} ORDER BY {order} LIMIT 40000");
            let rows = run.rows(&text, None).await?;
            Ok::<_, KalamError>(rows.into_iter().filter_map(|g| g.parse().ok()).collect::<Vec<i64>>())
        };
        let mut all: Vec<i64> = (1..=70300).map(|v| v * 2).chain((1..=290).map(|v| v * 500 + 1)).collect();
        all.sort_unstable();
        assert_eq!(ask("", "g").await?, all[..40000]);
        let mut below: Vec<i64> = all.iter().copied().filter(|g| *g <= 100_000).collect();
        all.reverse();
        assert_eq!(ask("", "g DESC").await?, all[..40000]);
        below.reverse();
        assert_eq!(ask("WHERE g <= 100000", "g DESC, n DESC").await?, below[..40000]);
        Ok(())
    })
}
