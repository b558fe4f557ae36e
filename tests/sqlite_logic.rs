//! A sample of SQLite's own logic tests (`tests/slt/sqlite`, public domain): an oracle that knows nothing of this
//! engine. Records that do not apply carry `skipif kalamdb # reason`; COMPAT.md sums them up.
//!
//! `KALAM_SQLITE_TESTS=folder` runs every `.test` file below a folder instead: a checkout of sqlite.org/sqllogictest.
//! Records that need SQLite's dialect are skipped there by what the engine answers ([`dialect`]), and so are those that
//! read what a skipped statement would have made; how many, and why, is printed.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::sql::{ExecuteOptions, Params, Rows, StatementResult};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::{KalamDataType, Value};
use md5::{Digest, Md5};

/// One statement or query with what it should give.
struct Record<'a> {
    line: usize,
    kind: Vec<&'a str>,
    sql: String,
    expected: Vec<&'a str>,
}

fn records(text: &str) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let mut at = 0;
    while at < lines.len() {
        let mut skip = false;
        // Conditions of a record; comments and settings between records.
        while at < lines.len() && !lines[at].starts_with("statement") && !lines[at].starts_with("query") {
            match lines[at].split_whitespace().collect::<Vec<_>>().as_slice() {
                ["onlyif", ..] | ["skipif", "kalamdb", ..] => skip = true,
                ["halt", ..] if !skip => return records,
                ["halt", ..] => skip = false,
                _ => {}
            }
            at += 1;
        }
        if at == lines.len() {
            break;
        }
        let line = at + 1;
        let kind = lines[at].split_whitespace().collect();
        let block: Vec<&str> = lines[at + 1..].iter().copied().take_while(|l| !l.is_empty()).collect();
        at += 1 + block.len();
        let end = block.iter().position(|l| *l == "----").unwrap_or(block.len());
        let expected = block.get(end + 1..).unwrap_or_default().to_vec();
        if !skip {
            records.push(Record { line, kind, sql: block[..end].join("\n"), expected });
        }
    }
    records
}

fn cell(value: &Value, kind: char) -> String {
    let number = match value {
        Value::Null => return "NULL".to_owned(),
        Value::BigInt(n) if kind == 'I' => return n.to_string(),
        Value::BigInt(n) => *n as f64,
        Value::Double(x) => *x,
        Value::Boolean(b) => f64::from(u8::from(*b)),
        other => match other.to_text().parse() {
            Ok(x) if kind != 'T' => x,
            _ if other.to_text().is_empty() => return "(empty)".to_owned(),
            _ => return other.to_text().into_owned(),
        },
    };
    match kind {
        'I' => format!("{:.0}", number.trunc()),
        'R' => format!("{number:.3}"),
        _ => value.to_text().into_owned(),
    }
}

fn cells(rows: &Rows, kinds: &str) -> Result<Vec<Vec<String>>> {
    let types: Vec<KalamDataType> =
        rows.schema.fields().iter().map(|f| KalamDataType::from_arrow_field(f)).collect::<Result<_>>()?;
    let mut out = Vec::new();
    for batch in &rows.batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().zip(&types).zip(kinds.chars());
            let cells = cells.map(|((array, t), kind)| Ok(cell(&Value::from_array(array.as_ref(), row, t)?, kind)));
            out.push(cells.collect::<Result<Vec<_>>>()?);
        }
    }
    Ok(out)
}

fn run(context: &AppContext, record: &Record<'_>) -> Result<Vec<StatementResult>> {
    let (params, options) = (Params::default(), ExecuteOptions::default());
    block_on(context.executor().execute(context.session(), &record.sql, &params, &options))
}

fn check(record: &Record<'_>, result: Result<Vec<StatementResult>>) -> std::result::Result<(), String> {
    match (record.kind.as_slice(), result) {
        (["statement", "error", ..], Err(_)) | (["statement", "ok", ..], Ok(_)) => Ok(()),
        (["statement", "error", ..], Ok(_)) => Err("should fail".to_owned()),
        (_, Err(error)) => Err(error.to_string()),
        (["query", kinds, rest @ ..], Ok(mut results)) => {
            let rows = results.pop().and_then(|r| r.rows).ok_or("gave no rows")?;
            if rows.schema.fields().len() != kinds.len() {
                return Err(format!("gave {} columns", rows.schema.fields().len()));
            }
            let mut rows = cells(&rows, kinds).map_err(|e| e.to_string())?;
            if rest.first() == Some(&"rowsort") {
                rows.sort();
            }
            let mut values: Vec<String> = rows.into_iter().flatten().collect();
            if rest.first() == Some(&"valuesort") {
                values.sort();
            }
            let hashed = record.expected.first().is_some_and(|l| l.contains(" values hashing to "));
            if hashed {
                let mut hash = Md5::new();
                for value in &values {
                    hash.update(value);
                    hash.update("\n");
                }
                let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
                let actual = format!("{} values hashing to {hex}", values.len());
                return if record.expected == [actual.as_str()] { Ok(()) } else { Err(format!("gave {actual}")) };
            }
            if values == record.expected {
                Ok(())
            } else {
                Err(format!("gave {values:?}, expected {:?}", record.expected))
            }
        }
        _ => Err("an unknown kind of record".to_owned()),
    }
}

/// Why a statement of SQLite's cannot run here.
fn dialect(error: &KalamError) -> Option<&'static str> {
    Some(match error.code() {
        ErrorCode::FeatureNotSupported => "a feature that is not supported (COMPAT.md)",
        ErrorCode::SyntaxError => "syntax of SQLite's own",
        ErrorCode::FunctionNotFound => "a function of SQLite's own",
        ErrorCode::TypeNotFound => "a type of SQLite's own",
        ErrorCode::DatatypeMismatch | ErrorCode::InvalidText => "types are strict",
        ErrorCode::DivisionByZero => "division by zero is an error, in SQLite NULL",
        ErrorCode::OutOfRange => "integers that overflow are an error, in SQLite floating point",
        ErrorCode::DuplicateColumn => "a column that is set twice is an error, as in PostgreSQL",
        ErrorCode::InvalidStatement => "a column that is not grouped is an error, as in PostgreSQL",
        _ => return None,
    })
}

/// The words of a statement that may be names.
fn words(sql: &str) -> impl Iterator<Item = String> {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).map(str::to_lowercase)
}

/// The table, view or index that a statement makes or changes.
fn target(sql: &str) -> Option<String> {
    let skipped = ["if", "not", "exists", "or", "replace", "ignore", "unique", "temp", "temporary", "insert", "into"];
    let kinds = ["create", "update", "delete", "from", "table", "view", "index", "trigger", "alter", "drop"];
    words(sql).find(|w| !skipped.contains(&w.as_str()) && !kinds.contains(&w.as_str()))
}

/// What a folder of tests gave.
#[derive(Default)]
struct Totals {
    passed: usize,
    skipped: BTreeMap<&'static str, usize>,
    failures: Vec<String>,
}

impl Totals {
    fn file(&mut self, path: &Path) {
        let text = String::from_utf8_lossy(&std::fs::read(path).expect("a file of tests")).into_owned();
        let backend = Arc::new(MemoryBackend::new());
        let context = block_on(AppContext::open(backend, Config::default())).expect("a new database");
        // What a skipped statement would have made or changed.
        let mut unknown: HashSet<String> = HashSet::new();
        for record in records(&text) {
            if words(&record.sql).any(|word| unknown.contains(&word)) {
                *self.skipped.entry("reads or changes what a skipped statement would have made").or_default() += 1;
                unknown.extend(target(&record.sql).filter(|_| record.kind.first() == Some(&"statement")));
                continue;
            }
            let result = run(&context, &record);
            let should_fail = record.kind.get(1) == Some(&"error");
            let reason = if should_fail { None } else { result.as_ref().err().and_then(dialect) };
            match reason {
                Some(reason) => {
                    *self.skipped.entry(reason).or_default() += 1;
                    // An index changes no answer.
                    let index = record.sql.trim_start().to_lowercase().starts_with("create index");
                    if record.kind.first() == Some(&"statement") && !index {
                        unknown.extend(target(&record.sql));
                    }
                }
                None => match check(&record, result) {
                    Ok(()) => self.passed += 1,
                    Err(what) => {
                        self.failures.push(format!("{}:{}: {what}\n  {}", path.display(), record.line, record.sql))
                    }
                },
            }
        }
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of tests").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "test") {
            found.push(path);
        }
    }
}

fn folder_of_tests(folder: &str) {
    let mut paths = Vec::new();
    files(Path::new(folder), &mut paths);
    paths.sort();
    let mut totals = Totals::default();
    for path in &paths {
        totals.file(path);
        println!("{}: {} passed so far, {} failed", path.display(), totals.passed, totals.failures.len());
    }
    for (reason, records) in &totals.skipped {
        println!("{records} skipped: {reason}");
    }
    println!("{} records of {} files passed", totals.passed, paths.len());
    let shown = totals.failures.len().min(50);
    assert!(totals.failures.is_empty(), "{} failed:\n{}", totals.failures.len(), totals.failures[..shown].join("\n"));
}

#[test]
fn sqlite_logic_tests() {
    if let Ok(folder) = std::env::var("KALAM_SQLITE_TESTS") {
        return folder_of_tests(&folder);
    }
    let root = Path::new("tests/slt/sqlite");
    let mut paths: Vec<_> = std::fs::read_dir(root).expect("a folder of tests").flatten().map(|e| e.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "test"));
    paths.sort();
    let (mut ran, mut failures) = (0, Vec::new());
    for path in &paths {
        let text = std::fs::read_to_string(path).expect("a file of tests");
        let backend = Arc::new(MemoryBackend::new());
        let context = block_on(AppContext::open(backend, Config::default())).expect("a new database");
        for record in records(&text) {
            ran += 1;
            if let Err(what) = check(&record, run(&context, &record)) {
                let name = path.file_name().expect("a file").to_string_lossy();
                failures.push(format!("{name}:{}: {what}\n  {}", record.line, record.sql.replace('\n', " ")));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {ran} records failed:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 1000, "only {ran} records ran");
    println!("{ran} records of {} files passed", paths.len());
}
