//! Many sessions at once, on storage that takes its time and fails now and then.
//!
//! Every call of storage lets others go on for a random while, so tasks meet in every order: writers, transactions,
//! readers, cursors, flushes, compactions, ALTERs, DROP TABLE, scrubs and backups. What they do keeps a few sums, which every
//! reader must find on every snapshot: the money in `acc`, its keys and its UNIQUE values; whole groups of rows in `tr` and
//! `d`; even and odd numbers in the columns of `s`, which come and go. What was acknowledged is there at the end, and for the
//! next process; and no statement ends in an error that races do not explain. Half of the storages have a journal in front.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::executor::block_on;
use futures::future::{BoxFuture, FutureExt, join_all, ready};
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::sql::{Cursor, ExecuteOptions, Params, Session};
use kalamdb::storage::journal::{FoundFile, JournalFile, JournaledBackend};
use kalamdb::storage::{
    Durability, KeyRange, KeyValue, MemoryBackend, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch,
};
use kalamdb::types::Value;
use parking_lot::Mutex;

mod support;

use support::{last_values, map_cells, sql_as, text_or_null, turns, values_of};

/// Numbers that are the same in each run of a seed.
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)))
    }

    /// One of so many numbers from 0.
    fn roll(&self, sides: u64) -> u64 {
        let mut x = self.0.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, Ordering::Relaxed);
        (x >> 11) % sides
    }

    fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize]
    }

    /// Lets others go on, mostly for a short while.
    async fn wait(&self) {
        let count = match self.roll(10) {
            0..=3 => 0,
            4..=7 => self.roll(3),
            8 => self.roll(10),
            _ => self.roll(40),
        };
        turns(count as usize).await;
    }
}

/// Storage that takes its time; one of so many commits fails, with or without having been done.
#[derive(Debug)]
struct Restless {
    inner: MemoryBackend,
    dice: Arc<Dice>,
    /// 0: none fails.
    failing: AtomicU32,
}

impl Restless {
    async fn slowly<T>(&self, call: impl Future<Output = T>) -> T {
        self.dice.wait().await;
        let answer = call.await;
        self.dice.wait().await;
        answer
    }
}

#[async_trait]
impl StorageBackend for Restless {
    fn kind(&self) -> &'static str {
        "restless"
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        self.slowly(self.inner.get(partition, key)).await
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        self.slowly(self.inner.scan(partition, range, options)).await
    }

    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        let failing = self.failing.load(Ordering::Relaxed);
        if failing == 0 || self.dice.roll(failing.into()) > 0 {
            return self.slowly(self.inner.commit(batch, durability)).await;
        }
        if self.dice.roll(2) == 0 {
            self.slowly(self.inner.commit(batch, durability)).await?;
        }
        Err(KalamError::new(ErrorCode::QuotaExceeded, "no room: used 10 of 10 bytes"))
    }

    async fn read_blob(&self, id: &[u8], offset: u64, length: u64) -> Result<Option<Bytes>> {
        self.slowly(self.inner.read_blob(id, offset, length)).await
    }

    async fn stats(&self) -> Result<StorageStats> {
        self.inner.stats().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// The file of a journal in front of it.
#[derive(Debug, Clone, Default)]
struct File(Arc<Mutex<Vec<u8>>>);

impl JournalFile for File {
    fn read(&self) -> Result<Vec<u8>> {
        Ok(self.0.lock().clone())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.0.lock()[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        self.0.lock().resize(bytes as usize, 0);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
}

/// A backend with a journal in that file in front, if there is one.
async fn front(inner: Arc<dyn StorageBackend>, file: Option<&File>) -> Result<Arc<dyn StorageBackend>> {
    match file {
        Some(file) => JournaledBackend::open(inner, FoundFile::Writable(Box::new(file.clone())), false).await,
        None => Ok(inner),
    }
}

/// What races, failing storage and definitions that change explain.
const EXPLAINED: [ErrorCode; 10] = [
    ErrorCode::Conflict,
    ErrorCode::UniqueViolation,
    ErrorCode::QuotaExceeded,
    ErrorCode::TableNotFound,
    ErrorCode::ColumnNotFound,
    ErrorCode::DuplicateColumn,
    ErrorCode::IndexNotFound,
    ErrorCode::IndexExists,
    ErrorCode::TableExists,
    ErrorCode::FailedTransaction,
];

const SETUP: &str =
    "CREATE TABLE acc (id BIGINT PRIMARY KEY, bal BIGINT, u BIGINT UNIQUE) WITH (FLUSH_POLICY = 'rows:60');
    CREATE TABLE tr (k BIGINT PRIMARY KEY, v TEXT);
    CREATE TABLE d (k BIGINT PRIMARY KEY, v TEXT);
    CREATE TABLE ev (v BIGINT);
    CREATE TABLE s (k BIGINT PRIMARY KEY, a BIGINT, b BIGINT);
    INSERT INTO acc SELECT value, 100, value FROM generate_series(0, 99) AS g(value);
    INSERT INTO s SELECT value, value * 2, value * 2 + 1 FROM generate_series(0, 20) AS g(value)";

/// What each of these gives, always.
const SUMS: [(&str, &str); 5] = [
    ("SELECT sum(bal), count(*), count(DISTINCT u), count(DISTINCT id) FROM acc", "10000 100 100 100"),
    ("SELECT sum(bal), count(*), count(DISTINCT u), count(DISTINCT id) FROM acc WHERE u >= 0", "10000 100 100 100"),
    ("SELECT count(*) % 50 FROM tr", "0"),
    ("SELECT count(*) % 50 FROM d", "0"),
    ("SELECT count(*) FROM s WHERE a % 2 <> 0 OR b % 2 <> 1", "0"),
];

struct Storm {
    context: Arc<AppContext>,
    dice: Arc<Dice>,
    /// What must not be.
    found: Mutex<Vec<String>>,
    next: AtomicU64,
    acknowledged: Mutex<Vec<u64>>,
}

impl Storm {
    fn new(context: Arc<AppContext>, dice: Arc<Dice>) -> Self {
        let (found, acknowledged) = (Mutex::default(), Mutex::default());
        Self { context, dice, found, next: AtomicU64::new(1), acknowledged }
    }

    fn note(&self, what: String) {
        self.found.lock().push(what.chars().take(600).collect());
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(50, Ordering::Relaxed)
    }

    /// Runs a text; `None` if it failed for a reason.
    async fn run(&self, session: &Session, text: &str) -> Option<Vec<String>> {
        match sql_as(&self.context, session, text).await {
            Ok(results) => {
                let cells = map_cells(last_values(&results).expect("values"), text_or_null);
                Some(cells.into_iter().map(|cells| cells.join(" ")).collect())
            }
            Err(error) => {
                if !EXPLAINED.contains(&error.code()) {
                    self.note(format!("{text}: {error:?}"));
                }
                None
            }
        }
    }

    async fn sums(&self, session: &Session, when: &str) {
        for (query, expected) in SUMS {
            if let Some(found) = self.run(session, query).await
                && found != [expected]
            {
                self.note(format!("{when}: {query}: {found:?}"));
            }
        }
    }

    async fn sound(&self, session: &Session, when: &str) {
        for finding in self.run(session, "STORAGE CHECK").await.unwrap_or_default() {
            if finding.contains(" damaged ") || finding.contains(" orphaned ") {
                self.note(format!("{when}: {finding}"));
            }
        }
    }

    async fn reader(&self) {
        let session = Session::new("reader");
        for _ in 0..8 {
            self.dice.wait().await;
            self.sums(&session, "beside writers").await;
            let u = self.dice.roll(100);
            let one = self.run(&session, &format!("SELECT u FROM acc WHERE u = {u}")).await;
            if one.as_ref().is_some_and(|rows| *rows != [u.to_string()]) {
                self.note(format!("one row of acc: {one:?}"));
            }
        }
    }

    async fn cursor(&self) {
        let session = Arc::new(Session::new("cursor"));
        for _ in 0..3 {
            self.dice.wait().await;
            let (text, options) = ("SELECT bal FROM acc", ExecuteOptions::default());
            let opened = Cursor::open(self.context.executor(), &session, text, &Params::default(), &options).await;
            let Ok(mut cursor) = opened else { continue };
            let mut values = Vec::new();
            loop {
                turns(self.dice.roll(60) as usize).await;
                match cursor.next(17).await {
                    Ok(Some(batch)) => values.extend(values_of(&batch).expect("values").into_iter().flatten()),
                    Ok(None) => {
                        let sum: i64 = values.iter().map(|v| if let Value::BigInt(n) = v { *n } else { 0 }).sum();
                        if (values.len(), sum) != (100, 10_000) {
                            self.note(format!("a cursor gave {} rows with {sum}", values.len()));
                        }
                        break;
                    }
                    Err(error) if error.code() == ErrorCode::Conflict => break,
                    Err(error) => return self.note(format!("a cursor: {error:?}")),
                }
            }
        }
    }

    /// A statement that keeps the sums.
    fn change(&self) -> String {
        let (a, b) = (self.dice.roll(100), self.dice.roll(99));
        let b = if b == a { 99 } else { b };
        let (k, n) = (self.dice.roll(30), self.dice.roll(1000));
        let (even, odd, number) = (n * 2, n * 2 + 1, self.number());
        let long = if self.dice.roll(6) == 0 { 30_000 } else { 5 };
        match self.dice.roll(17) {
            0..=3 => format!("UPDATE acc SET bal = bal + CASE WHEN u = {a} THEN -3 ELSE 3 END WHERE u IN ({a}, {b})"),
            4 => format!("UPDATE acc SET u = CASE WHEN u = {a} THEN {b} ELSE {a} END WHERE u IN ({a}, {b})"),
            5 => format!("UPDATE acc SET id = id + CASE WHEN id >= 1000 THEN -1000 ELSE 1000 END WHERE u = {a}"),
            6 => format!(
                "INSERT INTO tr SELECT value + {number}, repeat('t', {long}) FROM generate_series(1, 50) AS g(value)"
            ),
            7 => "DELETE FROM tr".to_owned(),
            8 => format!("INSERT INTO s (k, a, b) VALUES ({k}, {even}, {odd})"),
            9 => "UPDATE s SET a = a + 2 WHERE a >= 0".to_owned(),
            10 => format!("UPDATE s SET b = b + 2 WHERE k = {k}"),
            11 => format!("UPDATE s SET (a, b) = (b + 1, a + 1) WHERE k < {k}"),
            12 => format!("DELETE FROM s WHERE k = {k}"),
            13 => format!(
                "INSERT INTO s (b, k, a) VALUES ({odd}, {k}, {even}) ON CONFLICT (k) DO UPDATE SET a = excluded.a, b = s.b + 2"
            ),
            14 => format!("INSERT INTO s (k, b, a) SELECT k + 100, b, a FROM s WHERE k = {k} ON CONFLICT DO NOTHING"),
            15 => format!("INSERT OR REPLACE INTO s (a, b, k) VALUES ({even}, {odd}, {k})"),
            _ => "UPDATE s SET a = o.a + 2 FROM s o WHERE o.k = s.k".to_owned(),
        }
    }

    async fn writer(&self) {
        let session = Session::new("writer");
        for _ in 0..14 {
            self.dice.wait().await;
            let text = if self.dice.roll(12) == 0 { "TRUNCATE tr".to_owned() } else { self.change() };
            self.run(&session, &text).await;
            let event = self.number();
            if self.run(&session, &format!("INSERT INTO ev VALUES ({event})")).await.is_some() {
                self.acknowledged.lock().push(event);
            }
        }
    }

    async fn transactions(&self) {
        let session = Session::new("transactions");
        for _ in 0..6 {
            self.dice.wait().await;
            let event = self.number();
            let mut steps = vec!["BEGIN".to_owned(), self.change(), "SAVEPOINT x".to_owned(), self.change()];
            if self.dice.roll(2) == 0 {
                steps.extend(["ROLLBACK TO x".to_owned(), self.change()]);
            }
            steps.push(format!("INSERT INTO ev VALUES ({event})"));
            let mut done = true;
            for step in steps {
                turns(self.dice.roll(8) as usize).await;
                done = done && self.run(&session, &step).await.is_some();
            }
            if done {
                self.sums(&session, "in a transaction").await;
                if self.dice.roll(5) > 0 && sql_as(&self.context, &session, "COMMIT").await.is_ok() {
                    self.acknowledged.lock().push(event);
                }
            }
            // Whatever is left of it; nothing may be.
            let _ = sql_as(&self.context, &session, "ROLLBACK").await;
        }
    }

    async fn mover(&self) {
        let session = Session::new("mover");
        let texts =
            ["STORAGE FLUSH TABLE acc", "STORAGE FLUSH ALL", "STORAGE COMPACT TABLE acc", "STORAGE COMPACT ALL"];
        for _ in 0..10 {
            self.dice.wait().await;
            if self.dice.roll(4) == 0 {
                self.context.jobs().run_due().await;
            }
            self.run(&session, self.dice.pick(&texts)).await;
        }
    }

    async fn alterer(&self) {
        let session = Session::new("alterer");
        let texts = [
            "ALTER TABLE s DROP COLUMN a, ADD COLUMN a BIGINT DEFAULT 4",
            "ALTER TABLE s DROP COLUMN b, ADD COLUMN b BIGINT DEFAULT 3",
            "ALTER TABLE s ADD COLUMN c BIGINT DEFAULT 9",
            "ALTER TABLE s DROP COLUMN c",
            "ALTER TABLE s ALTER COLUMN a TYPE DECIMAL(20,0)",
            "ALTER TABLE s ALTER COLUMN b TYPE BIGINT USING b + 2",
            "ALTER TABLE acc ALTER COLUMN bal TYPE BIGINT USING bal",
            "ALTER TABLE acc ALTER COLUMN id TYPE DECIMAL(20,0)",
            "ALTER TABLE acc ALTER COLUMN id TYPE BIGINT",
            "CREATE INDEX acc_bal ON acc (bal)",
            "DROP INDEX acc_bal",
            "CREATE UNIQUE INDEX acc_u ON acc (u, bal)",
            "DROP INDEX acc_u",
        ];
        for _ in 0..8 {
            turns(self.dice.roll(150) as usize).await;
            self.run(&session, self.dice.pick(&texts)).await;
        }
    }

    async fn dropper(&self) {
        let session = Session::new("dropper");
        for _ in 0..4 {
            turns(self.dice.roll(150) as usize).await;
            self.run(&session, "DROP TABLE d").await;
            self.run(&session, "CREATE TABLE d (k BIGINT PRIMARY KEY, v TEXT)").await;
            self.run(&session, "INSERT INTO d SELECT value, 'x' FROM generate_series(1, 50) AS g(value)").await;
        }
    }

    async fn checker(&self) {
        let session = Session::new("checker");
        for _ in 0..3 {
            turns(self.dice.roll(200) as usize).await;
            self.sound(&session, "beside writers").await;
        }
    }

    /// What waits in a journal is carried over now and then.
    async fn carrier(&self) {
        for _ in 0..20 {
            turns(self.dice.roll(80) as usize).await;
            let _ = self.context.backend().stats().await;
        }
    }

    async fn backup(&self) {
        turns(self.dice.roll(400) as usize).await;
        let mut bytes = Vec::new();
        let mut backup = self.context.backup().await;
        while let Some(chunk) = backup.next().await.expect("a backup") {
            bytes.extend_from_slice(&chunk);
            self.dice.wait().await;
        }
        drop(backup);
        match AppContext::restore(Arc::new(MemoryBackend::new()), &bytes, Config::default()).await {
            Ok(context) => self.verify(context, &[], "a backup").await,
            Err(error) => self.note(format!("a backup: {error:?}")),
        }
    }

    /// Everything, on a database that nobody changes.
    async fn verify(&self, context: Arc<AppContext>, acknowledged: &[u64], what: &str) {
        let still = Storm::new(context, Arc::clone(&self.dice));
        let session = Session::new("verify");
        still.sums(&session, what).await;
        still.sound(&session, what).await;
        let events: HashSet<String> =
            still.run(&session, "SELECT v FROM ev").await.unwrap_or_default().into_iter().collect();
        for event in acknowledged.iter().filter(|event| !events.contains(&event.to_string())) {
            still.note(format!("{what}: event {event} is lost"));
        }
        self.found.lock().append(&mut still.found.lock());
    }
}

async fn storm(seed: u64) -> Result<Vec<String>> {
    let dice = Dice::new(seed);
    let config = Config {
        hot_limit: dice.pick(&[100_000, 64 << 20]),
        segment_cache: dice.pick(&[20_000, 1 << 20]),
        ..Config::default()
    };
    let prepared = Arc::new(MemoryBackend::new());
    let context = AppContext::open(Arc::clone(&prepared) as _, config.clone()).await?;
    sql_as(&context, &Session::new("setup"), SETUP).await?;
    if dice.roll(2) == 0 {
        sql_as(&context, &Session::new("setup"), "STORAGE FLUSH ALL").await?;
    }
    let failing = AtomicU32::new(0);
    let backend = Arc::new(Restless { inner: prepared.reopen(), dice: Arc::clone(&dice), failing });
    let file = (dice.roll(2) == 0).then(File::default);
    let context = AppContext::open(front(Arc::clone(&backend) as _, file.as_ref()).await?, config).await?;
    backend.failing.store(dice.pick(&[0, 15, 40]), Ordering::Relaxed);
    let storm = Storm::new(Arc::clone(&context), Arc::clone(&dice));
    let mut tasks: Vec<BoxFuture<'_, ()>> = vec![
        storm.reader().boxed(),
        storm.cursor().boxed(),
        storm.writer().boxed(),
        storm.writer().boxed(),
        storm.transactions().boxed(),
        storm.transactions().boxed(),
        storm.mover().boxed(),
        storm.carrier().boxed(),
    ];
    let others = [storm.alterer().boxed(), storm.dropper().boxed(), storm.checker().boxed(), storm.backup().boxed()];
    tasks.extend(others.into_iter().filter(|_| dice.roll(2) == 0));
    join_all(tasks).await;
    backend.failing.store(0, Ordering::Relaxed);
    let acknowledged = storm.acknowledged.lock().clone();
    storm.verify(context, &acknowledged, "at the end").await;
    let stored = front(Arc::new(backend.inner.reopen()), file.as_ref()).await?;
    let next = AppContext::open(stored, Config::default()).await?;
    storm.verify(next, &acknowledged, "for the next process").await;
    Ok(storm.found.into_inner())
}

#[test]
fn sums_stay_whatever_meets() -> Result<()> {
    let cases = std::env::var("KALAM_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(30);
    for seed in 1..=cases {
        let found = block_on(storm(seed)).map_err(|e| e.in_context(format_args!("seed {seed}")))?;
        assert!(found.is_empty(), "seed {seed}: {found:#?}");
    }
    Ok(())
}
