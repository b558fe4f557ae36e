//! Random histories of several sessions against an oracle with the rules of snapshot isolation.
//!
//! The oracle keeps every committed version of a row under a number of its own. A transaction is a copy of the committed
//! state of its beginning, the versions that it ended, and the versions that it made. A statement fails when it ends a
//! version that somebody else has ended meanwhile (SERIALIZATION_FAILURE) or makes a key that it sees already
//! (UNIQUE_VIOLATION); COMMIT asks both again of the newest state. Every read must give exactly the session's copy.
#![cfg(not(target_arch = "wasm32"))]

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use faulty::Faulty;
use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::sql::{ExecuteOptions, Params, Session, StatementResult};
use kalamdb::storage::MemoryBackend;
use proptest::prelude::*;
use support::{model_config, pairs_of_ints};

const SESSIONS: usize = 3;
/// `keyed (k BIGINT PRIMARY KEY, v BIGINT)` and `bag (k BIGINT, v BIGINT)`.
const TABLES: [&str; 2] = ["keyed", "bag"];

#[derive(Debug, Clone)]
enum Change {
    Insert(Vec<i64>),
    /// `SET v = v + n WHERE k % m = r`.
    Update(i64, i64, i64),
    /// `SET v = n WHERE k = key`: by the short path.
    UpdateOne(i64, i64),
    /// `SET k = k + n WHERE k % m = 0`.
    Shift(i64, i64),
    Delete(i64, i64),
    DeleteOne(i64),
    /// `INSERT INTO t SELECT k + n, v FROM t WHERE k % m = 0`.
    Copy(i64, i64),
}

#[derive(Debug, Clone)]
enum Step {
    Change(usize, usize, Change),
    Begin(usize),
    Commit(usize),
    Rollback(usize),
    Savepoint(usize),
    RollbackTo(usize),
    Read(usize),
    /// Storage fails for the next so many commits.
    Fail(u32),
    /// `STORAGE FLUSH` or `STORAGE COMPACT`: changes nothing that anybody sees.
    Storage(bool, usize),
    Reopen,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => prop::collection::vec(0..30i64, 1..5).prop_map(Change::Insert),
        2 => (1..100i64, 1..5i64, 0..3i64).prop_map(|(n, m, r)| Change::Update(n, m, r)),
        3 => (0..30i64, 1..100i64).prop_map(|(k, n)| Change::UpdateOne(k, n)),
        1 => (prop_oneof![Just(1i64), Just(30), Just(-4)], 1..4i64).prop_map(|(n, m)| Change::Shift(n, m)),
        1 => (1..4i64, 0..3i64).prop_map(|(m, r)| Change::Delete(m, r)),
        2 => (0..30i64).prop_map(Change::DeleteOne),
        1 => (prop_oneof![Just(40i64), Just(3)], 1..4i64).prop_map(|(n, m)| Change::Copy(n, m)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..SESSIONS;
    prop_oneof![
        12 => (who.clone(), 0..2usize, change()).prop_map(|(s, t, c)| Step::Change(s, t, c)),
        5 => who.clone().prop_map(Step::Begin),
        3 => who.clone().prop_map(Step::Commit),
        1 => who.clone().prop_map(Step::Rollback),
        1 => who.clone().prop_map(Step::Savepoint),
        1 => who.clone().prop_map(Step::RollbackTo),
        3 => who.prop_map(Step::Read),
        1 => (1..3u32).prop_map(Step::Fail),
        3 => (any::<bool>(), 0..2usize).prop_map(|(compact, t)| Step::Storage(compact, t)),
        1 => Just(Step::Reopen),
    ]
}

/// A version of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Row {
    version: u64,
    k: i64,
    v: i64,
}

type Tables = [Vec<Row>; 2];

#[derive(Debug, Clone, Default)]
struct Working {
    tables: Tables,
    /// Committed versions that it ended, and versions that it made.
    ended: [BTreeSet<u64>; 2],
    made: BTreeSet<u64>,
}

#[derive(Debug, Clone, Default)]
struct Tx {
    now: Working,
    failed: bool,
    savepoints: Vec<Working>,
    /// Tables that its statements were to change.
    touched: [bool; 2],
    /// Those of them whose rows were read again from storage since: what it changed there cannot be committed.
    lost: [bool; 2],
}

#[derive(Debug, Default)]
struct Oracle {
    committed: Tables,
    open: [Option<Tx>; SESSIONS],
    versions: u64,
}

/// What a change finds and what it makes of it.
fn outcome(change: &Change, rows: &[Row]) -> (Vec<u64>, Vec<(i64, i64)>) {
    let rem = |k: i64, m: i64| k % m;
    let matching = |wanted: &dyn Fn(&Row) -> bool, new: &dyn Fn(&Row) -> Option<(i64, i64)>| {
        let found: Vec<&Row> = rows.iter().filter(|r| wanted(r)).collect();
        (found.iter().map(|r| r.version).collect(), found.iter().filter_map(|r| new(r)).collect())
    };
    match change {
        Change::Insert(keys) => (Vec::new(), keys.iter().map(|&k| (k, 0)).collect()),
        Change::Update(n, m, r) => matching(&|row| rem(row.k, *m) == *r, &|row| Some((row.k, row.v + n))),
        Change::UpdateOne(k, n) => matching(&|row| row.k == *k, &|row| Some((row.k, *n))),
        Change::Shift(n, m) => matching(&|row| rem(row.k, *m) == 0, &|row| Some((row.k + n, row.v))),
        Change::Delete(m, r) => matching(&|row| rem(row.k, *m) == *r, &|_| None),
        Change::DeleteOne(k) => matching(&|row| row.k == *k, &|_| None),
        Change::Copy(n, m) => {
            (Vec::new(), rows.iter().filter(|row| rem(row.k, *m) == 0).map(|row| (row.k + n, row.v)).collect())
        }
    }
}

fn text(change: &Change, table: &str) -> String {
    match change {
        Change::Insert(keys) => {
            let values: Vec<String> = keys.iter().map(|k| format!("({k}, 0)")).collect();
            format!("INSERT INTO {table} VALUES {}", values.join(", "))
        }
        Change::Update(n, m, r) => format!("UPDATE {table} SET v = v + {n} WHERE k % {m} = {r}"),
        Change::UpdateOne(k, n) => format!("UPDATE {table} SET v = {n} WHERE k = {k}"),
        Change::Shift(n, m) => format!("UPDATE {table} SET k = k + {n} WHERE k % {m} = 0"),
        Change::Delete(m, r) => format!("DELETE FROM {table} WHERE k % {m} = {r}"),
        Change::DeleteOne(k) => format!("DELETE FROM {table} WHERE k = {k}"),
        Change::Copy(n, m) => format!("INSERT INTO {table} SELECT k + {n}, v FROM {table} WHERE k % {m} = 0"),
    }
}

impl Working {
    /// Takes a change, or says why not. `committed` is the newest state.
    fn change(
        &mut self,
        t: usize,
        change: &Change,
        committed: &Tables,
        versions: &mut u64,
    ) -> Result<usize, ErrorCode> {
        let (found, new) = outcome(change, &self.tables[t]);
        let base: Vec<u64> = found.iter().copied().filter(|version| !self.made.contains(version)).collect();
        if base.iter().any(|version| !committed[t].iter().any(|row| row.version == *version)) {
            return Err(ErrorCode::Conflict);
        }
        let mut rows: Vec<Row> = self.tables[t].iter().copied().filter(|row| !found.contains(&row.version)).collect();
        let affected = found.len().max(new.len());
        for (k, v) in new {
            if t == 0 && rows.iter().any(|row| row.k == k) {
                return Err(ErrorCode::UniqueViolation);
            }
            *versions += 1;
            rows.push(Row { version: *versions, k, v });
            self.made.insert(*versions);
        }
        self.tables[t] = rows;
        self.ended[t].extend(base);
        Ok(affected)
    }

    fn writes(&self, t: usize) -> bool {
        !self.ended[t].is_empty() || self.tables[t].iter().any(|row| self.made.contains(&row.version))
    }

    /// The committed state after it, or why it cannot be committed.
    fn commit(&self, committed: &Tables, lost: [bool; 2]) -> Result<Tables, ErrorCode> {
        // Definitions and rows in memory are checked for all tables before anything else.
        if (0..2).any(|t| lost[t] && self.writes(t)) {
            return Err(ErrorCode::Conflict);
        }
        let mut next = committed.clone();
        for (t, rows) in next.iter_mut().enumerate() {
            if self.ended[t].iter().any(|version| !rows.iter().any(|row| row.version == *version)) {
                return Err(ErrorCode::Conflict);
            }
            rows.retain(|row| !self.ended[t].contains(&row.version));
            for row in self.tables[t].iter().filter(|row| self.made.contains(&row.version)) {
                if t == 0 && rows.iter().any(|other| other.k == row.k) {
                    return Err(ErrorCode::UniqueViolation);
                }
                rows.push(*row);
            }
        }
        Ok(next)
    }
}

struct Run {
    backend: Arc<Faulty>,
    context: Arc<AppContext>,
    sessions: Vec<Session>,
    oracle: Oracle,
}

fn sessions() -> Vec<Session> {
    (0..SESSIONS).map(|_| Session::new("default")).collect()
}

impl Run {
    async fn new(journal: bool) -> Result<Self> {
        let backend = Faulty::slow(MemoryBackend::new()).with_journal(journal);
        let context = AppContext::open(backend.front().await?, Config::default()).await?;
        let run = Self { backend, context, sessions: sessions(), oracle: Oracle::default() };
        run.sql(0, "CREATE TABLE keyed (k BIGINT PRIMARY KEY, v BIGINT); CREATE TABLE bag (k BIGINT, v BIGINT)")
            .await?;
        Ok(run)
    }

    async fn sql(&self, session: usize, text: &str) -> Result<StatementResult> {
        let options = ExecuteOptions::default();
        let executor = self.context.executor();
        let mut results = executor.execute(&self.sessions[session], text, &Params::default(), &options).await?;
        Ok(results.pop().unwrap_or_default())
    }

    fn failures(&self) -> u32 {
        self.backend.failures.load(Ordering::Relaxed)
    }

    /// Storage refused a commit of these tables: their rows are read again, and positions mean nothing any more.
    fn refused(&mut self, tables: [bool; 2]) {
        for tx in self.oracle.open.iter_mut().flatten() {
            for (t, refused) in tables.iter().enumerate() {
                tx.lost[t] |= refused & tx.touched[t];
            }
        }
    }

    async fn change(&mut self, s: usize, t: usize, change: &Change) -> Result<()> {
        let sql = text(change, TABLES[t]);
        let failing = self.failures();
        let got = self.sql(s, &sql).await;
        let oracle = &mut self.oracle;
        let Some(tx) = &mut oracle.open[s] else {
            let mut alone = Working { tables: oracle.committed.clone(), ..Working::default() };
            match (got, alone.change(t, change, &oracle.committed, &mut oracle.versions)) {
                (Ok(done), Ok(affected)) => {
                    assert_eq!(done.rows_affected, affected as u64, "{sql}");
                    oracle.committed = alone.tables;
                }
                (Err(error), Ok(_)) if failing > 0 => {
                    assert_eq!(error.code(), ErrorCode::QuotaExceeded, "{sql}: {error}");
                    self.refused([t == 0, t == 1]);
                }
                (Err(error), Err(expected)) => assert_eq!(error.code(), expected, "{sql}: {error}"),
                (got, expected) => panic!("{sql}: got {got:?}, expected {expected:?}"),
            }
            return Ok(());
        };
        if tx.failed {
            assert_eq!(got.expect_err("it has failed").code(), ErrorCode::FailedTransaction);
            return Ok(());
        }
        tx.touched[t] = true;
        let mut next = tx.now.clone();
        match (got, next.change(t, change, &oracle.committed, &mut oracle.versions)) {
            (Ok(done), Ok(affected)) => {
                assert_eq!(done.rows_affected, affected as u64, "{sql}");
                tx.now = next;
            }
            (Err(error), expected) => {
                // With rows that were read again from storage the statement may see the conflict earlier or later.
                let early = tx.lost[t] && error.code() == ErrorCode::Conflict;
                assert!(early || expected.err() == Some(error.code()), "{sql}: {error}, expected {expected:?}");
                tx.failed = true;
            }
            (Ok(_), Err(ErrorCode::Conflict)) if tx.lost[t] => {
                // Known at COMMIT at the latest; until then the copies would differ.
                oracle.open[s] = None;
                self.sql(s, "ROLLBACK").await?;
            }
            (got, expected) => panic!("{sql}: got {got:?}, expected {expected:?}"),
        }
        Ok(())
    }

    async fn commit(&mut self, s: usize) -> Result<()> {
        let failing = self.failures();
        let got = self.sql(s, "COMMIT").await;
        let Some(tx) = self.oracle.open[s].take() else {
            assert_eq!(got.expect_err("none is open").code(), ErrorCode::NoActiveTransaction);
            return Ok(());
        };
        if tx.failed {
            assert_eq!(got.expect_err("it has failed").code(), ErrorCode::FailedTransaction);
            return Ok(());
        }
        match (got, tx.now.commit(&self.oracle.committed, tx.lost)) {
            (Ok(_), Ok(next)) => self.oracle.committed = next,
            (Err(error), Ok(_)) if failing > 0 => {
                assert_eq!(error.code(), ErrorCode::QuotaExceeded, "{error}");
                self.refused([tx.now.writes(0), tx.now.writes(1)]);
            }
            (Err(error), Err(expected)) => assert_eq!(error.code(), expected, "{error}"),
            (got, expected) => panic!("COMMIT: got {got:?}, expected {:?}", expected.err()),
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Change(s, t, change) => self.change(*s, *t, change).await?,
            Step::Begin(s) => {
                let got = self.sql(*s, "BEGIN").await;
                let tables = self.oracle.committed.clone();
                match &mut self.oracle.open[*s] {
                    None => {
                        got?;
                        let now = Working { tables, ..Working::default() };
                        self.oracle.open[*s] = Some(Tx { now, ..Tx::default() });
                    }
                    Some(tx) => {
                        let expected =
                            if tx.failed { ErrorCode::FailedTransaction } else { ErrorCode::ActiveTransaction };
                        assert_eq!(got.expect_err("transactions do not nest").code(), expected);
                        tx.failed = true;
                    }
                }
            }
            Step::Commit(s) => self.commit(*s).await?,
            Step::Rollback(s) => match (self.sql(*s, "ROLLBACK").await, self.oracle.open[*s].take()) {
                (Ok(_), Some(_)) => {}
                (Err(error), None) => assert_eq!(error.code(), ErrorCode::NoActiveTransaction),
                (got, expected) => panic!("ROLLBACK: got {got:?}, expected {expected:?}"),
            },
            Step::Savepoint(s) => match (self.sql(*s, "SAVEPOINT s").await, &mut self.oracle.open[*s]) {
                (Ok(_), Some(tx)) if !tx.failed => tx.savepoints.push(tx.now.clone()),
                (Err(error), Some(_)) => assert_eq!(error.code(), ErrorCode::FailedTransaction),
                (Err(error), None) => assert_eq!(error.code(), ErrorCode::NoActiveTransaction),
                (got, expected) => panic!("SAVEPOINT: got {got:?}, expected {expected:?}"),
            },
            Step::RollbackTo(s) => match (self.sql(*s, "ROLLBACK TO s").await, &mut self.oracle.open[*s]) {
                (Ok(_), Some(tx)) => {
                    tx.now = tx.savepoints.last().expect("it has one").clone();
                    tx.failed = false;
                }
                (Err(error), Some(tx)) if tx.savepoints.is_empty() => {
                    let expected = if tx.failed { ErrorCode::FailedTransaction } else { ErrorCode::SavepointNotFound };
                    assert_eq!(error.code(), expected);
                    tx.failed = true;
                }
                (Err(error), None) => assert_eq!(error.code(), ErrorCode::NoActiveTransaction),
                (got, expected) => panic!("ROLLBACK TO: got {got:?}, expected {expected:?}"),
            },
            Step::Read(s) => self.read(*s).await?,
            Step::Storage(compact, t) => {
                let (failing, action) = (self.failures(), if *compact { "COMPACT" } else { "FLUSH" });
                let text = format!("STORAGE {action} TABLE {}", TABLES[*t]);
                let executor = self.context.executor();
                let (params, options) = (Params::default(), ExecuteOptions::default());
                let held = self.oracle.open.iter().flatten().any(|tx| tx.touched[*t]);
                match executor.execute(self.context.session(), &text, &params, &options).await {
                    Ok(_) => {}
                    Err(error) if error.code() == ErrorCode::Conflict && held => {}
                    Err(error) => {
                        assert!(failing > 0 && error.code() == ErrorCode::QuotaExceeded, "{text}: {error}");
                        self.refused([*t == 0, *t == 1]);
                    }
                }
            }
            Step::Fail(n) => self.backend.failures.store(*n, Ordering::Relaxed),
            Step::Reopen => {
                self.backend = self.backend.crash();
                self.context = AppContext::open(self.backend.front().await?, Config::default()).await?;
                self.sessions = sessions();
                self.oracle.open = Default::default();
                self.read(0).await?;
            }
        }
        Ok(())
    }

    /// Everything that a session sees: by scans, by keys, and through an aggregate over a join.
    async fn read(&mut self, s: usize) -> Result<()> {
        let tables = match &self.oracle.open[s] {
            None => &self.oracle.committed,
            Some(tx) if tx.failed => {
                let error = self.sql(s, "SELECT 1").await.expect_err("it has failed");
                assert_eq!(error.code(), ErrorCode::FailedTransaction);
                return Ok(());
            }
            Some(tx) => &tx.now.tables,
        };
        let mut joined = 0;
        for (table, rows) in TABLES.iter().zip(tables) {
            let mut expected: Vec<(i64, i64)> = rows.iter().map(|row| (row.k, row.v)).collect();
            expected.sort_unstable();
            assert_eq!(self.pairs(s, &format!("SELECT k, v FROM {table} ORDER BY k, v")).await?, expected, "{table}");
        }
        for k in 0..30 {
            let expected: Vec<(i64, i64)> = tables[0].iter().filter(|r| r.k == k).map(|r| (r.k, r.v)).collect();
            assert_eq!(self.pairs(s, &format!("SELECT k, v FROM keyed WHERE k = {k}")).await?, expected, "k = {k}");
            joined += expected.len() * tables[1].iter().filter(|r| r.k == k).count();
        }
        let join = "SELECT count(*), 0 FROM keyed JOIN bag ON keyed.k = bag.k WHERE bag.k >= 0 AND bag.k < 30";
        assert_eq!(self.pairs(s, join).await?, [(joined as i64, 0)]);
        Ok(())
    }

    async fn pairs(&self, s: usize, sql: &str) -> Result<Vec<(i64, i64)>> {
        let rows = self.sql(s, sql).await?.rows.expect("a query gives rows");
        Ok(pairs_of_ints(&rows.batches))
    }
}

proptest! {
    #![proptest_config(model_config(48, 2000))]

    #[test]
    fn sessions_see_what_snapshot_isolation_says(steps in prop::collection::vec(step(), 1..40), journal: bool) {
        block_on(async {
            let mut run = Run::new(journal).await?;
            for step in &steps {
                run.step(step).await?;
            }
            for s in 0..SESSIONS {
                run.read(s).await?;
            }
            run.step(&Step::Reopen).await
        })
        .map_err(|e: KalamError| TestCaseError::fail(e.to_string()))?;
    }
}
