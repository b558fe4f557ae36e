//! The state of a database against a simple oracle, over random statements, failing storage and reopenings.
//!
//! Each case runs a script of statements on two tables (one with a key, one without) and, beside it, on maps. Storage
//! fails at random commits: then the statement must fail with a typed error, the oracle stays as it was, and the
//! engine must go on. The process dies at a random call: then the next one finds every statement that was acknowledged, and
//! of those that were under way each whole or not at all. Transactions change both tables, while others write, flush and
//! compact. Rows are read by snapshots that were taken long before; columns come, go and change their types. After every
//! reopening, and at the end, both must agree row for row, and a scrub must find nothing. Half of the cases have a journal in
//! front of the storage.
//! (`transactions_model.rs` has the isolation of several open transactions.)
#![cfg(not(target_arch = "wasm32"))]

#[path = "../support/faulty.rs"]
mod faulty;
mod script;
mod shown;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::AsArray;
use faulty::Faulty;
use futures::executor::block_on;
use futures::future::join_all;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::schema::TableId;
use kalamdb::sql::{ExecuteOptions, Params, Session};
use kalamdb::storage::MemoryBackend;
use kalamdb::tables::SnapshotPin;
use proptest::prelude::*;
use script::{Beside, Change, Maybe, Oracle, Step, insert_maybe, only, step};
use shown::{pairs, pairs_at};
use support::{model_config, sql};

/// How often a process has died: `--nocapture` shows it after the cases.
static DEATHS: AtomicUsize = AtomicUsize::new(0);

struct Run {
    backend: Arc<Faulty>,
    context: Arc<AppContext>,
    oracle: Oracle,
    config: Config,
    /// Snapshots that are kept, the rows that they show, and whether a statement replaced all rows since.
    pinned: Vec<(Arc<SnapshotPin>, Oracle, bool)>,
    /// Numbers of the columns that were added: each row has the number in them.
    added: Vec<u32>,
    next_column: u32,
}

impl Run {
    async fn new(config: Config, journal: bool) -> Result<Self> {
        let backend = Faulty::slow(MemoryBackend::new()).with_journal(journal);
        let context = AppContext::open(backend.front().await?, config.clone()).await?;
        sql(&context, "CREATE TABLE keyed (k SMALLINT PRIMARY KEY, v INT); CREATE TABLE bag (k SMALLINT, v INT)")
            .await?;
        let (oracle, pinned, added) = (Oracle::default(), Vec::new(), Vec::new());
        Ok(Self { backend, context, oracle, config, pinned, added, next_column: 0 })
    }

    /// Runs a statement that changes no row.
    async fn quiet(&mut self, text: &str) -> Result<bool> {
        let failing = self.failing();
        match sql(&self.context, text).await {
            Ok(_) => Ok(true),
            Err(error) => {
                self.expect(failing, &error, text);
                self.settle(&[]).await?;
                Ok(false)
            }
        }
    }

    /// Asserts that an error says what storage did.
    fn expect(&self, failing: bool, error: &KalamError, what: &str) {
        let fine = match error.code() {
            ErrorCode::QuotaExceeded => failing,
            ErrorCode::StorageClosed => self.backend.is_dead(),
            _ => false,
        };
        assert!(fine, "{what}: {error}");
    }

    /// If the process has died: opens what it left, and finds the oracle's state, with some of the changes that were
    /// under way, each whole or not at all.
    async fn settle(&mut self, maybe: &[&dyn Fn(&mut Oracle)]) -> Result<()> {
        if !self.backend.is_dead() {
            return Ok(());
        }
        DEATHS.fetch_add(1, Ordering::Relaxed);
        self.reopen().await?;
        let keyed: BTreeMap<i64, i64> = pairs(&self.context, "keyed").await?.into_iter().collect();
        let mut bag: BTreeMap<(i64, i64), usize> = BTreeMap::new();
        pairs(&self.context, "bag").await?.into_iter().for_each(|row| *bag.entry(row).or_default() += 1);
        let found = Oracle { keyed, bag };
        let some = (0..1u32 << maybe.len()).map(|chosen| {
            let mut state = self.oracle.clone();
            let applied = maybe.iter().enumerate().filter(|(i, _)| chosen & 1 << i != 0);
            applied.for_each(|(_, change)| change(&mut state));
            state
        });
        assert!(some.into_iter().any(|state| state == found), "found {found:?}, expected {:?} and more", self.oracle);
        self.oracle = found;
        self.check().await
    }

    async fn reopen(&mut self) -> Result<()> {
        self.pinned.clear();
        self.backend = self.backend.crash();
        self.context = AppContext::open(self.backend.front().await?, self.config.clone()).await?;
        Ok(())
    }

    async fn transaction(&mut self, changes: &[Change], beside: Beside, after: usize, commit: bool) -> Result<()> {
        let session = Session::new("default");
        let (context, mut failing) = (Arc::clone(&self.context), self.failing());
        let run = async |text: &str| {
            context.executor().execute(&session, text, &Params::default(), &ExecuteOptions::default()).await.map(drop)
        };
        run("BEGIN").await?;
        let (mut own, mut theirs) = (self.oracle.clone(), None);
        for i in 0..changes.len().max(after + 1) {
            if i == after {
                match beside {
                    Beside::Nothing => {}
                    Beside::Flush | Beside::Compact => {
                        let action = if matches!(beside, Beside::Flush) { "FLUSH" } else { "COMPACT" };
                        match sql(&context, &format!("STORAGE {action} ALL")).await {
                            Ok(_) => {}
                            // The transaction holds its rows where they are.
                            Err(error) if error.code() == ErrorCode::Conflict => {}
                            Err(error) => {
                                self.expect(failing, &error, action);
                                if self.backend.is_dead() {
                                    return self.settle(&[]).await;
                                }
                            }
                        }
                    }
                    Beside::Insert(k) => {
                        let text = format!(
                            "BEGIN; INSERT INTO keyed VALUES ({k}, 2); INSERT INTO bag VALUES ({k}, 2); COMMIT"
                        );
                        let other = Session::new("default");
                        let (params, options) = (Params::default(), ExecuteOptions::default());
                        match context.executor().execute(&other, &text, &params, &options).await {
                            Ok(_) => theirs = Some(k),
                            Err(error) if error.code() == ErrorCode::UniqueViolation => {
                                assert!(self.oracle.keyed.contains_key(&k), "{error}");
                            }
                            Err(error) => {
                                self.expect(failing, &error, &text);
                                if self.backend.is_dead() {
                                    return self.settle(&[&|o: &mut Oracle| o.add(k, 2)]).await;
                                }
                            }
                        }
                        if theirs.is_some() {
                            self.oracle.add(k, 2);
                        }
                    }
                }
                failing |= self.failing();
            }
            let Some(change) = changes.get(i) else { continue };
            let (texts, next) = change.apply(&own);
            for (n, text) in texts.iter().enumerate() {
                let Err(error) = run(text).await else { continue };
                // A key that is there; with a failing storage its rows may have been read again, or not be flushed.
                let taken = next.is_none() && n == 0 && error.code() == ErrorCode::UniqueViolation;
                let moved = failing && error.code() == ErrorCode::Conflict;
                if !taken && !moved {
                    self.expect(failing, &error, text);
                }
                if self.backend.is_dead() {
                    return self.settle(&[]).await;
                }
                return run("ROLLBACK").await;
            }
            own = next.expect("a key that is there was inserted");
        }
        if !commit {
            return run("ROLLBACK").await;
        }
        let outcome = run("COMMIT").await;
        theirs.into_iter().for_each(|k| own.add(k, 2));
        match outcome {
            Ok(()) => self.oracle = own,
            Err(error) if failing && error.code() == ErrorCode::Conflict => {}
            Err(error) => {
                self.expect(failing, &error, "COMMIT");
                self.settle(&[&|o: &mut Oracle| *o = own.clone()]).await?;
            }
        }
        Ok(())
    }

    fn failing(&self) -> bool {
        self.backend.failures.load(Ordering::Relaxed) > 0
    }

    /// Runs a statement that the oracle answers with `after`; when storage fails nothing may change.
    async fn change(&mut self, text: &str, after: impl FnOnce(&Oracle) -> Oracle) -> Result<()> {
        let failing = self.failing();
        let outcome = sql(&self.context, text).await;
        let after = after(&self.oracle);
        match outcome {
            Ok(_) => self.oracle = after,
            Err(error) => {
                self.expect(failing, &error, text);
                self.settle(&[&|o: &mut Oracle| *o = after.clone()]).await?;
            }
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        if matches!(step, Step::Truncate | Step::TruncateTogether(..) | Step::Rewrite(_)) {
            self.pinned.iter_mut().for_each(|pinned| pinned.2 = true);
        }
        match step {
            Step::Insert(keys) => {
                let values: Vec<String> = keys.iter().map(|k| format!("({k}, 0)")).collect();
                let text = format!("INSERT INTO keyed VALUES {}", values.join(", "));
                match self.oracle.insert(keys) {
                    Some(_) => self.change(&text, |o| o.insert(keys).expect("checked")).await?,
                    None => {
                        let failing = self.failing();
                        let error = sql(&self.context, &text).await.expect_err("a key is there");
                        // With little memory the statement flushes first, and that may fail.
                        if error.code() != ErrorCode::UniqueViolation {
                            self.expect(failing, &error, &text);
                        }
                        self.settle(&[]).await?;
                    }
                }
                self.change(&text.replace("keyed", "bag"), |o| {
                    let mut next = o.clone();
                    for &k in keys {
                        *next.bag.entry((k, 0)).or_default() += 1;
                    }
                    next
                })
                .await?;
            }
            Step::Together(keys) => {
                let texts: Vec<String> = keys.iter().map(|k| format!("INSERT INTO keyed VALUES ({k}, 1)")).collect();
                let (context, failing) = (Arc::clone(&self.context), self.failing());
                let outcomes = join_all(texts.iter().map(|text| sql(&context, text))).await;
                let mut maybe = Vec::new();
                for (k, outcome) in keys.iter().zip(outcomes) {
                    match outcome {
                        Ok(_) => assert_eq!(self.oracle.keyed.insert(*k, 1), None, "key {k} twice"),
                        Err(e) if e.code() == ErrorCode::UniqueViolation => {}
                        Err(e) => {
                            self.expect(failing, &e, "together");
                            maybe.push(insert_maybe(*k));
                        }
                    }
                }
                self.settle(&maybe.iter().map(AsRef::as_ref).collect::<Vec<_>>()).await?;
            }
            Step::Update(n, m) => {
                for table in ["keyed", "bag"] {
                    let text = format!("UPDATE {table} SET v = v + {n} WHERE k % {m} = 0");
                    let change = |k: i64, v: i64| Some(if k % m == 0 { (k, v + n) } else { (k, v) });
                    self.change(&text, |o| only(o, table, o.map(change))).await?;
                }
            }
            Step::Shift(n) => {
                for table in ["keyed", "bag"] {
                    let text = format!("UPDATE {table} SET k = k + {n}");
                    self.change(&text, |o| only(o, table, o.map(|k, v| Some((k + n, v))))).await?;
                }
            }
            Step::Delete(n) => {
                for table in ["keyed", "bag"] {
                    let text = format!("DELETE FROM {table} WHERE k < {n}");
                    self.change(&text, |o| only(o, table, o.map(|k, v| (k >= *n).then_some((k, v))))).await?;
                }
            }
            Step::Flush(0) => drop(self.quiet("STORAGE FLUSH ALL").await?),
            Step::Flush(1) => drop(self.quiet("STORAGE FLUSH TABLE keyed").await?),
            Step::Flush(_) => drop(self.quiet("STORAGE FLUSH TABLE bag").await?),
            Step::Compact => drop(self.quiet("STORAGE COMPACT ALL").await?),
            Step::Race(keys, n) => {
                let mut texts: Vec<String> =
                    keys.iter().map(|k| format!("INSERT INTO keyed VALUES ({k}, 1)")).collect();
                texts.insert(texts.len() / 2, "STORAGE FLUSH ALL".into());
                texts.push("STORAGE COMPACT TABLE keyed".into());
                texts.push(format!("UPDATE keyed SET v = v + {n} WHERE k < 30"));
                let (context, failing) = (Arc::clone(&self.context), self.failing());
                let outcomes = join_all(texts.iter().map(|text| sql(&context, text))).await;
                let mut maybe = Vec::new();
                for (text, outcome) in texts.iter().zip(outcomes) {
                    let key = text.strip_prefix("INSERT INTO keyed VALUES (").and_then(|t| t.split(',').next());
                    match (outcome, key.and_then(|k| k.parse().ok())) {
                        (Ok(_), Some(k)) => assert_eq!(self.oracle.keyed.insert(k, 1), None, "key {k} twice"),
                        (Ok(_), None) if text.starts_with("UPDATE") => {
                            let next = self.oracle.map(|k, v| Some(if k < 30 { (k, v + n) } else { (k, v) }));
                            self.oracle = only(&self.oracle, "keyed", next);
                        }
                        (Ok(_), None) => {}
                        (Err(e), Some(_)) if e.code() == ErrorCode::UniqueViolation => {}
                        (Err(e), key) => {
                            self.expect(failing, &e, text);
                            match key {
                                Some(k) => maybe.push(insert_maybe(k)),
                                None if text.starts_with("UPDATE") => maybe.push(Box::new(move |o: &mut Oracle| {
                                    let next = o.map(|k, v| Some(if k < 30 { (k, v + n) } else { (k, v) }));
                                    o.keyed = next.keyed;
                                })),
                                None => {}
                            }
                        }
                    }
                }
                self.settle(&maybe.iter().map(AsRef::as_ref).collect::<Vec<_>>()).await?;
            }
            Step::Pin if self.pinned.len() < 3 => {
                self.pinned.push((Arc::new(self.context.store().pin()), self.oracle.clone(), false));
            }
            Step::Pin => {}
            Step::Unpin if self.pinned.is_empty() => {}
            Step::Unpin => drop(self.pinned.remove(0)),
            Step::CarryOver => {
                // It says nothing of what it met; whoever needs it meets it again.
                let _ = self.context.backend().stats().await;
                self.settle(&[]).await?;
            }
            Step::AddColumn => {
                let n = self.next_column;
                self.next_column += 1;
                for table in ["keyed", "bag"] {
                    if !self
                        .quiet(&format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS x{n} INT DEFAULT {n}"))
                        .await?
                    {
                        return Ok(());
                    }
                }
                self.added.push(n);
            }
            Step::DropColumn if self.added.is_empty() => {}
            Step::DropColumn => {
                let n = self.added.remove(0);
                for table in ["keyed", "bag"] {
                    self.quiet(&format!("ALTER TABLE {table} DROP COLUMN IF EXISTS x{n}")).await?;
                }
            }
            Step::Widen(key) => {
                let (column, types) =
                    if *key { ("k", ["SMALLINT", "INT", "BIGINT"]) } else { ("v", ["INT", "BIGINT", "DECIMAL(20,2)"]) };
                for table in ["keyed", "bag"] {
                    self.backend.pause(true);
                    let now = self.type_of(table, column).await?;
                    self.backend.pause(false);
                    let place = types.iter().position(|ty| *ty == now).expect("a type of the list");
                    if let Some(wider) = types.get(place + 1) {
                        self.quiet(&format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {wider}")).await?;
                    }
                }
            }
            Step::Upsert(keys) => {
                let values: Vec<String> = keys.iter().map(|k| format!("({k}, 1)")).collect();
                let text = format!(
                    "INSERT INTO keyed VALUES {} ON CONFLICT (k) DO UPDATE SET v = keyed.v + excluded.v",
                    values.join(", ")
                );
                if keys.iter().enumerate().any(|(i, k)| keys[..i].contains(k)) {
                    let failing = self.failing();
                    let error = sql(&self.context, &text).await.expect_err("a key twice");
                    if error.code() != ErrorCode::TooManyRows {
                        self.expect(failing, &error, &text);
                    }
                    return self.settle(&[]).await;
                }
                self.change(&text, |o| {
                    let mut next = o.clone();
                    keys.iter().for_each(|k| *next.keyed.entry(*k).or_default() += 1);
                    next
                })
                .await?;
            }
            Step::UpsertTogether(keys) => {
                let upsert =
                    |k| format!("INSERT INTO keyed VALUES ({k}, 1) ON CONFLICT (k) DO UPDATE SET v = keyed.v + 1");
                let texts: Vec<String> = keys.iter().map(upsert).collect();
                let (context, failing) = (Arc::clone(&self.context), self.failing());
                let outcomes = join_all(texts.iter().map(|text| sql(&context, text))).await;
                let mut maybe: Vec<Maybe> = Vec::new();
                for (&k, outcome) in keys.iter().zip(outcomes) {
                    match outcome {
                        Ok(_) => *self.oracle.keyed.entry(k).or_default() += 1,
                        Err(e) => {
                            self.expect(failing, &e, "upserts together");
                            maybe.push(Box::new(move |o: &mut Oracle| *o.keyed.entry(k).or_default() += 1));
                        }
                    }
                }
                self.settle(&maybe.iter().map(AsRef::as_ref).collect::<Vec<_>>()).await?;
            }
            Step::Truncate => self.change("TRUNCATE keyed, bag", |_| Oracle::default()).await?,
            Step::TruncateTogether(a, b) => {
                let (context, failing) = (Arc::clone(&self.context), self.failing());
                let insert = |k| format!("INSERT INTO keyed VALUES ({k}, 1) ON CONFLICT DO NOTHING");
                let texts = [insert(a), "TRUNCATE keyed".into(), insert(b)];
                let outcomes = join_all(texts.iter().map(|text| sql(&context, text))).await;
                let failed = outcomes.into_iter().find_map(Result::err);
                if let Some(error) = &failed {
                    self.expect(failing, error, "TRUNCATE and others");
                }
                if self.backend.is_dead() {
                    self.reopen().await?;
                }
                self.backend.pause(true);
                let now = pairs(&self.context, "keyed").await?;
                self.backend.pause(false);
                if failed.is_none() {
                    // Whatever the order: nothing is left but rows that came after.
                    assert!(now.iter().all(|(k, v)| (k == a || k == b) && *v == 1), "{now:?}");
                }
                self.oracle.keyed = now.into_iter().collect();
            }
            Step::Rewrite(n) => {
                for table in ["keyed", "bag"] {
                    let text = format!("ALTER TABLE {table} ALTER COLUMN v TYPE BIGINT USING v + {n}");
                    self.change(&text, |o| only(o, table, o.map(|k, v| Some((k, v + n))))).await?;
                }
            }
            Step::Transaction { changes, beside, after, commit } => {
                self.transaction(changes, *beside, *after, *commit).await?;
            }
            Step::Fail(n) => self.backend.failures.store(*n, Ordering::Relaxed),
            Step::Die { calls, stored } => self.backend.die(*calls, *stored),
            Step::Reopen { clean } => {
                self.backend.failures.store(0, Ordering::Relaxed);
                self.backend.live();
                if *clean {
                    self.context.close().await?;
                }
                self.reopen().await?;
                self.check().await?;
                self.scrub().await?;
            }
        }
        Ok(())
    }

    async fn type_of(&self, table: &str, column: &str) -> Result<String> {
        let table = self.context.registry().table(&TableId::new("default", table)).await?.expect("the table");
        Ok(table.definition().column(column).expect("the column").data_type.sql_name().into_owned())
    }

    async fn check(&self) -> Result<()> {
        self.backend.pause(true);
        let outcome = self.compare().await;
        self.backend.pause(false);
        outcome
    }

    /// Whatever happened, storage holds what the engine meant it to.
    async fn scrub(&self) -> Result<()> {
        let report = sql(&self.context, "STORAGE CHECK").await?.pop().and_then(|r| r.rows).expect("a report");
        for batch in &report.batches {
            let column = |i: usize| batch.column(i).as_string::<i32>();
            for row in 0..batch.num_rows() {
                let [object, status, detail] = [0, 1, 2].map(|i| column(i).value(row));
                assert_eq!(status, "ok", "{object}: {detail}");
            }
        }
        Ok(())
    }

    async fn compare(&self) -> Result<()> {
        for (pin, then, replaced) in &self.pinned {
            let keyed: Vec<(i64, i64)> = then.keyed.iter().map(|(k, v)| (*k, *v)).collect();
            for (table, rows) in [("keyed", keyed), ("bag", then.bag_rows())] {
                match pairs_at(&self.context, table, pin).await? {
                    Some(found) => assert_eq!(found, rows, "{table} at {}", pin.seq()),
                    None => assert!(replaced, "{table} at {}", pin.seq()),
                }
            }
        }
        for n in &self.added {
            for table in ["keyed", "bag"] {
                let text = format!("SELECT k FROM {table} WHERE x{n} IS DISTINCT FROM {n}");
                assert_eq!(sql(&self.context, &text).await?[0].rows.as_ref().map_or(0, |r| r.len()), 0, "{text}");
            }
        }
        let keyed: Vec<(i64, i64)> = self.oracle.keyed.iter().map(|(k, v)| (*k, *v)).collect();
        assert_eq!(pairs(&self.context, "keyed").await?, keyed);
        assert_eq!(pairs(&self.context, "bag").await?, self.oracle.bag_rows());
        // The index agrees with the scan.
        for k in 0..60 {
            let text = format!("SELECT v FROM keyed WHERE k = {k}");
            let results = sql(&self.context, &text).await?;
            let found = results[0].rows.as_ref().map_or(0, |r| r.len());
            assert_eq!(found, usize::from(self.oracle.keyed.contains_key(&k)), "{text}");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(model_config(48, 2000))]

    #[test]
    fn the_state_is_the_oracles(steps in prop::collection::vec(step(), 1..32), little_memory: bool, journal: bool) {
        block_on(async {
            let hot_limit = if little_memory { 600 } else { usize::MAX };
            let mut run = Run::new(Config { hot_limit, ..Config::default() }, journal).await?;
            for step in &steps {
                run.step(step).await?;
                if !run.failing() {
                    run.check().await?;
                }
            }
            run.backend.failures.store(0, Ordering::Relaxed);
            run.check().await?;
            run.step(&Step::Reopen { clean: false }).await?;
            println!("{} deaths so far", DEATHS.load(Ordering::Relaxed));
            Ok(())
        })
        .map_err(|e: KalamError| TestCaseError::fail(e.to_string()))?;
    }
}

#[test]
fn many_writers_share_few_transactions() -> Result<()> {
    block_on(async {
        let run = Run::new(Config::default(), false).await?;
        // Every writer polls what it waits for: the storage is slower than all of them together.
        run.backend.polls.store(1000, Ordering::Relaxed);
        let texts: Vec<String> = (0..100).map(|k| format!("INSERT INTO keyed VALUES ({k}, 0)")).collect();
        for outcome in join_all(texts.iter().map(|text| sql(&run.context, text))).await {
            outcome?;
        }
        let statistics = run.context.store().statistics();
        assert_eq!(statistics.commits, 100);
        assert!(statistics.groups <= 3, "{} storage transactions for 100 awaited together", statistics.groups);
        Ok(())
    })
}
