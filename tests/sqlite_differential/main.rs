//! Random statements give what SQLite gives.
//!
//! Random tables with NULLs, random queries and changes of data over them (`query.rs`), run here and in SQLite: rows are
//! compared after a normalisation of types, changes by their count and by the whole table afterwards. A difference
//! is a failure unless a rule in [`explained`] names why the two differ; how often each rule was needed is printed.
//!
//! `KALAM_DIFF_STATEMENTS` sets how many statements run (in `cargo test` 4000; 20 000 and more by hand),
//! `KALAM_DIFF_SEED` with which seed they begin, `KALAM_DIFF_ONLY` that one database, of a seed that failed.
#![cfg(not(target_arch = "wasm32"))]

mod families;
mod query;
mod random;
mod schema;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError};
use kalamdb::sql::{ExecuteOptions, Params};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;
use query::{Generator, Statement};
use random::Random;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode as SqliteCode};
use schema::{for_kalam, for_sqlite};
use support::{map_cells, values};

/// Statements per database.
const PER_DATABASE: usize = 50;

/// What may happen between statements and must change nothing. What the engine does not have yet is left out, and the
/// last line of the test names what was used.
const PERTURBATIONS: [Perturbation; 4] = [
    Perturbation::Reopen,
    Perturbation::Sql("STORAGE FLUSH ALL"),
    Perturbation::Sql("STORAGE COMPACT ALL"),
    Perturbation::Index("CREATE INDEX ix_{table}_{column} ON {table} ({column})"),
];

#[derive(Debug, Clone, Copy)]
enum Perturbation {
    /// The database is closed and opened again.
    Reopen,
    /// A statement for this engine only.
    Sql(&'static str),
    /// A statement for both about a table and a column.
    Index(&'static str),
}

/// Why the engine may refuse a statement that SQLite runs.
fn explained(error: &KalamError) -> Option<&'static str> {
    match error.code() {
        ErrorCode::OutOfMemory => Some("a query that needs more memory than its limit (COMPAT.md)"),
        ErrorCode::FeatureNotSupported if error.message().contains("Conflicting ordering requirements") => {
            Some("two aggregates of one SELECT with an ORDER BY each that differ (COMPAT.md)")
        }
        _ => None,
    }
}

type Rows = Vec<Vec<String>>;

enum Outcome {
    Rows(Rows),
    Changed(u64),
    Failed { unique: bool, message: String, rule: Option<&'static str> },
}

struct Kalam {
    backend: Arc<MemoryBackend>,
    context: Arc<AppContext>,
}

impl Kalam {
    fn open() -> Self {
        let backend = Arc::new(MemoryBackend::new());
        let context = block_on(AppContext::open(Arc::clone(&backend) as _, Config::default())).expect("a new database");
        Self { backend, context }
    }

    fn reopen(&mut self) {
        self.backend = Arc::new(self.backend.reopen());
        let backend = Arc::clone(&self.backend) as _;
        self.context = block_on(AppContext::open(backend, Config::default())).expect("the database opens again");
    }

    fn try_run(&self, sql: &str) -> Result<Outcome, KalamError> {
        let (params, options) = (Params::default(), ExecuteOptions::default());
        let run = self.context.executor().execute(self.context.session(), sql, &params, &options);
        let Some(result) = block_on(run)?.pop() else { return Ok(Outcome::Changed(0)) };
        let Some(rows) = result.rows else { return Ok(Outcome::Changed(result.rows_affected)) };
        Ok(Outcome::Rows(map_cells(values(&rows)?, cell)))
    }

    fn run(&self, sql: &str) -> Outcome {
        self.try_run(&for_kalam(sql)).unwrap_or_else(|error| Outcome::Failed {
            unique: error.code() == ErrorCode::UniqueViolation,
            rule: explained(&error),
            message: error.to_string(),
        })
    }

    /// Whether the engine has what a statement asks for: on a database of its own.
    fn has(sql: &str) -> bool {
        let fresh = Self::open();
        let setup = "CREATE TABLE t (id BIGINT PRIMARY KEY, k BIGINT); INSERT INTO t VALUES (1, 1)";
        fresh.try_run(setup).is_ok() && fresh.try_run(sql).is_ok()
    }
}

fn number(x: f64) -> String {
    // Both engines add up in other orders: the last digits do not count.
    format!("{:.8e}", if x == 0.0 { 0.0 } else { x })
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Boolean(b) => number(f64::from(u8::from(*b))),
        Value::BigInt(n) => number(*n as f64),
        Value::Double(x) => number(*x),
        other => format!("'{}'", other.to_text()),
    }
}

fn sqlite_run(sqlite: &Connection, sql: &str, query: bool) -> Outcome {
    let sql = for_sqlite(sql);
    let failed = |error: rusqlite::Error| Outcome::Failed {
        unique: error.sqlite_error_code() == Some(SqliteCode::ConstraintViolation),
        message: error.to_string(),
        rule: None,
    };
    if !query {
        return sqlite.execute(&sql, []).map_or_else(failed, |n| Outcome::Changed(n as u64));
    }
    let rows = || -> rusqlite::Result<Rows> {
        let mut statement = sqlite.prepare(&sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query([])?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let cell = |i| {
                Ok(match row.get_ref(i)? {
                    ValueRef::Null => "NULL".to_owned(),
                    ValueRef::Integer(n) => number(n as f64),
                    ValueRef::Real(x) => number(x),
                    ValueRef::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
                    ValueRef::Blob(_) => "a blob".to_owned(),
                })
            };
            out.push((0..columns).map(cell).collect::<rusqlite::Result<Vec<_>>>()?);
        }
        Ok(out)
    };
    rows().map_or_else(failed, Outcome::Rows)
}

/// What differs, or the rule that was needed.
fn compare(ours: Outcome, theirs: Outcome, ordered: bool) -> Result<Option<&'static str>, String> {
    match (ours, theirs) {
        (Outcome::Rows(mut ours), Outcome::Rows(mut theirs)) => {
            if !ordered {
                ours.sort();
                theirs.sort();
            }
            if ours == theirs {
                return Ok(None);
            }
            let first = ours.iter().zip(&theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
            Err(format!(
                "{} rows, SQLite gives {}; the first that differs is\n    {:?}\n    {:?}",
                ours.len(),
                theirs.len(),
                ours.get(first),
                theirs.get(first)
            ))
        }
        (Outcome::Changed(ours), Outcome::Changed(theirs)) if ours == theirs => Ok(None),
        (Outcome::Changed(ours), Outcome::Changed(theirs)) => Err(format!("changed {ours} rows, SQLite {theirs}")),
        (Outcome::Failed { unique: true, .. }, Outcome::Failed { unique: true, .. }) => Ok(None),
        (Outcome::Failed { message, .. }, Outcome::Failed { message: theirs, .. }) => {
            Err(format!("both fail: {message}\n    {theirs}"))
        }
        (Outcome::Failed { rule: Some(rule), .. }, _) => Ok(Some(rule)),
        (Outcome::Failed { message, .. }, _) => Err(format!("fails: {message}")),
        (_, Outcome::Failed { message, .. }) => Err(format!("SQLite fails: {message}")),
        _ => Err("one gives rows, the other does not".into()),
    }
}

struct Run {
    statements: usize,
    rules: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
}

impl Run {
    fn database(&mut self, seed: u64, on_conflict: bool, perturbations: &[Perturbation]) {
        let mut r = Random::new(seed);
        let mut kalam = Kalam::open();
        let sqlite = Connection::open_in_memory().expect("SQLite in memory");
        sqlite.pragma_update(None, "case_sensitive_like", true).expect("a pragma");
        let (tables, setup) = schema::tables(&mut r);
        let mut script = Vec::new();
        for sql in setup {
            let (ours, theirs) = (kalam.run(&sql), sqlite_run(&sqlite, &sql, false));
            if matches!(ours, Outcome::Failed { .. }) || matches!(theirs, Outcome::Failed { .. }) {
                self.fail(seed, &script, &sql, compare(ours, theirs, false).err().unwrap_or_default());
                return;
            }
            script.push(sql);
        }
        let mut disturbance = Random::new(seed ^ 0xD157);
        for index in 0..PER_DATABASE {
            if !perturbations.is_empty() && disturbance.one_in(8) {
                let table = disturbance.pick(&tables);
                match disturbance.pick(perturbations) {
                    Perturbation::Reopen => kalam.reopen(),
                    Perturbation::Sql(sql) => {
                        if let Outcome::Failed { message, .. } = kalam.run(sql) {
                            self.fail(seed, &script, sql, message);
                        }
                    }
                    Perturbation::Index(sql) => {
                        let column = &disturbance.pick(&table.columns).name;
                        let sql = sql.replace("{table}", &table.name).replace("{column}", column);
                        // The second of a name fails in both.
                        let _ = (kalam.run(&sql), sqlite_run(&sqlite, &sql, false));
                        script.push(sql);
                    }
                }
            }
            let Statement { sql, changes, ordered } =
                Generator::new(&mut r, &tables, on_conflict, index as i64 * 200).statement();
            self.statements += 1;
            let mut failed = false;
            let (ours, theirs) = (kalam.run(&sql), sqlite_run(&sqlite, &sql, changes.is_none()));
            let undone = changes.is_some() && matches!(ours, Outcome::Failed { rule: Some(_), .. });
            match compare(ours, theirs, ordered) {
                Ok(rule) => rule.map_or((), |rule| *self.rules.entry(rule).or_default() += 1),
                Err(what) => {
                    self.fail(seed, &script, &sql, what);
                    failed = true;
                }
            }
            let Some(table) = changes else { continue };
            script.push(sql.clone());
            let whole = format!("SELECT * FROM {table}");
            if undone || failed {
                // What only SQLite did would be a difference for every statement after it.
                return;
            }
            if let Err(what) = compare(kalam.run(&whole), sqlite_run(&sqlite, &whole, true), false) {
                self.fail(seed, &script, &sql, format!("afterwards the table differs: {what}"));
                return;
            }
        }
    }

    fn fail(&mut self, seed: u64, script: &[String], sql: &str, what: String) {
        let script = match self.failures.is_empty() {
            true => format!("\n  after: {};", script.iter().map(|s| for_kalam(s)).collect::<Vec<_>>().join(";\n    ")),
            false => String::new(),
        };
        // At once: a long run may be stopped.
        println!("seed {seed}: {}\n  {what}", for_kalam(sql));
        self.failures.push(format!("seed {seed}: {}\n  {what}{script}", for_kalam(sql)));
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is '{text}', expected a number")))
}

#[test]
fn random_statements_give_what_sqlite_gives() {
    let on_conflict = Kalam::has("INSERT INTO t VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET k = excluded.k");
    let perturbations: Vec<Perturbation> = PERTURBATIONS
        .into_iter()
        .filter(|p| match p {
            Perturbation::Reopen => true,
            Perturbation::Sql(sql) => Kalam::has(sql),
            Perturbation::Index(sql) => Kalam::has(&sql.replace("{table}", "t").replace("{column}", "k")),
        })
        .collect();
    let mut run = Run { statements: 0, rules: BTreeMap::new(), failures: Vec::new() };
    if let Some(seed) = setting("KALAM_DIFF_ONLY") {
        run.database(seed, on_conflict, &perturbations);
    } else {
        let wanted = setting("KALAM_DIFF_STATEMENTS").unwrap_or(4000) as usize;
        let mut seed = setting("KALAM_DIFF_SEED").unwrap_or(1);
        while run.statements < wanted && run.failures.len() < 30 {
            run.database(seed, on_conflict, &perturbations);
            seed += 1;
        }
    }
    for (rule, times) in &run.rules {
        println!("{times} times: {rule}");
    }
    assert!(
        run.failures.is_empty(),
        "{} of {} statements differ:\n{}",
        run.failures.len(),
        run.statements,
        run.failures.join("\n")
    );
    println!(
        "{} statements without an unexplained difference, ON CONFLICT {}, disturbed by {perturbations:?}",
        run.statements,
        if on_conflict { "among them" } else { "not yet" },
    );
}
