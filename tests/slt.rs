//! The SQL logic tests of `tests/slt`, natively or, with `KALAM_SLT_BRIDGE`, in a browser through the SDK.
//!
//! The bridge is a command that speaks JSON lines (tests/browser/slt-bridge.mjs): the same files, the same runner and
//! the same expectations then go through the npm package, the worker and IndexedDB.
#![cfg(not(target_arch = "wasm32"))]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use kalamdb::context::{AppContext, Config};
use kalamdb::error::KalamError;
use kalamdb::sql::{ExecuteOptions, Params, Session};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::{KalamDataType, Value};
use serde_json::{Value as Json, json};
use sqllogictest::{AsyncDB, DB, DBOutput, DefaultColumnType, Runner};

/// An error as the runner sees it: `CODE (SQLSTATE): message`.
#[derive(Debug)]
struct SltError(String);

impl std::fmt::Display for SltError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SltError {}

impl From<KalamError> for SltError {
    fn from(error: KalamError) -> Self {
        Self(error.to_string())
    }
}

type Output = DBOutput<DefaultColumnType>;

/// The engine in this process.
struct Native {
    context: Arc<AppContext>,
    session: Session,
}

impl Native {
    async fn open() -> Result<Self, SltError> {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        Ok(Self { context, session: Session::new("default") })
    }
}

#[async_trait::async_trait]
impl AsyncDB for Native {
    type Error = SltError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<Output, SltError> {
        let options = ExecuteOptions::default();
        let results = self.context.executor().execute(&self.session, sql, &Params::default(), &options).await?;
        let Some(last) = results.last() else { return Ok(DBOutput::StatementComplete(0)) };
        let Some(rows) = &last.rows else { return Ok(DBOutput::StatementComplete(last.rows_affected)) };
        let types: Vec<KalamDataType> =
            rows.schema.fields().iter().map(|f| KalamDataType::from_arrow_field(f)).collect::<Result<_, _>>()?;
        let mut out = Vec::with_capacity(rows.len());
        for batch in &rows.batches {
            for row in 0..batch.num_rows() {
                let mut cells = Vec::with_capacity(types.len());
                for (array, data_type) in batch.columns().iter().zip(&types) {
                    let value = Value::from_array(array.as_ref(), row, data_type)?;
                    cells.push(cell(&value, data_type));
                }
                out.push(cells);
            }
        }
        let types = types.iter().map(|t| column_type(&t.sql_name())).collect();
        Ok(DBOutput::Rows { types, rows: out })
    }

    async fn shutdown(&mut self) {}
}

fn cell(value: &Value, data_type: &KalamDataType) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Double(v) if *data_type == KalamDataType::Float => float(f64::from(*v as f32)),
        Value::Double(v) => float(*v),
        Value::Bytes(bytes) => bytes.iter().fold("\\x".to_owned(), |s, b| s + &format!("{b:02x}")),
        other => text(&other.to_text()),
    }
}

/// Both ways print a number that is whole without a fraction, and others with at most 12 digits.
fn float(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        format!("{value:.0}")
    } else {
        format!("{value:.12e}").parse::<f64>().map_or_else(|_| value.to_string(), |v| v.to_string())
    }
}

fn text(value: &str) -> String {
    if value.is_empty() { "(empty)".into() } else { value.to_owned() }
}

fn column_type(name: &str) -> DefaultColumnType {
    match name {
        "INT" | "BIGINT" | "SMALLINT" => DefaultColumnType::Integer,
        "DOUBLE" | "FLOAT" => DefaultColumnType::FloatingPoint,
        _ if name.starts_with("DECIMAL") => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Text,
    }
}

/// The engine in a browser, behind a bridge.
struct Bridge {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    next: u64,
}

impl Bridge {
    fn start(command: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the bridge starts");
        let input = child.stdin.take().expect("a piped standard input");
        let output = BufReader::new(child.stdout.take().expect("a piped standard output"));
        let mut bridge = Self { child, input, output, next: 1 };
        let ready = bridge.read();
        assert_eq!(ready["ready"], true, "the bridge said {ready}");
        bridge
    }

    fn read(&mut self) -> Json {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("the bridge can be read");
        assert!(read > 0, "the bridge ended");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("the bridge said {line:?}: {e}"))
    }

    fn call(&mut self, mut request: Json) -> Json {
        request["id"] = self.next.into();
        writeln!(self.input, "{request}").expect("the bridge takes requests");
        let reply = self.read();
        assert_eq!(reply["id"], self.next, "replies come in order");
        self.next += 1;
        reply
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "{}", json!({"op": "exit"}));
        let _ = self.child.wait();
    }
}

/// One database behind the bridge.
struct Browser {
    bridge: Arc<std::sync::Mutex<Bridge>>,
}

impl DB for Browser {
    type Error = SltError;
    type ColumnType = DefaultColumnType;

    fn run(&mut self, sql: &str) -> Result<Output, SltError> {
        let reply = self.bridge.lock().expect("one thread").call(json!({"op": "run", "db": "slt", "sql": sql}));
        if reply["ok"] != true {
            let e = &reply["error"];
            let mut message = format!(
                "{} ({}): {}",
                e["code"].as_str().unwrap_or("?"),
                e["sqlstate"].as_str().unwrap_or("?"),
                e["message"].as_str().unwrap_or("?"),
            );
            if let Some(p) = e["position"].as_object() {
                message += &format!(" at line {}, column {}", p["line"], p["column"]);
            }
            if let Some(hint) = e["hint"].as_str() {
                message += &format!(" (hint: {hint})");
            }
            return Err(SltError(message));
        }
        let columns = reply["columns"].as_array().cloned().unwrap_or_default();
        if columns.is_empty() {
            return Ok(DBOutput::StatementComplete(reply["rowsAffected"].as_u64().unwrap_or(0)));
        }
        let names: Vec<&str> = columns.iter().map(|c| c["type"].as_str().unwrap_or("TEXT")).collect();
        let rows = reply["rows"].as_array().expect("rows").iter();
        let rows = rows
            .map(|row| {
                row.as_array()
                    .expect("a row")
                    .iter()
                    .zip(&names)
                    .map(|(value, name)| match (value.as_str(), *name) {
                        (None, _) => "NULL".to_owned(),
                        (Some(v), "DOUBLE" | "FLOAT") => v.parse().map_or_else(|_| v.to_owned(), float),
                        (Some(v), _) => text(v),
                    })
                    .collect()
            })
            .collect();
        Ok(DBOutput::Rows { types: names.iter().map(|n| column_type(n)).collect(), rows })
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder of tests").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "slt") {
            found.push(path);
        }
    }
}

/// Points in time are printed by the engine with microseconds and by JavaScript, whose dates have milliseconds, always
/// in UTC and with three digits: both as one form.
fn normalise(word: &str) -> String {
    let is_time = word.len() >= 19 && word.is_ascii() && word.as_bytes()[10] == b'T' && word.as_bytes()[4] == b'-';
    if !is_time {
        return word.to_owned();
    }
    let (seconds, fraction) = word.trim_end_matches('Z').split_at(19);
    let millis = fraction.get(..fraction.len().min(4)).unwrap_or_default().trim_end_matches('0').trim_end_matches('.');
    match seconds.strip_suffix("T00:00:00") {
        Some(date) if millis.is_empty() => date.to_owned(),
        _ => format!("{seconds}{millis}"),
    }
}

fn validator(_: sqllogictest::Normalizer, actual: &[Vec<String>], expected: &[String]) -> bool {
    let line = |text: &str| text.split_whitespace().map(normalise).collect::<Vec<_>>().join(" ");
    let actual = actual.iter().map(|row| line(&row.join(" ")));
    actual.eq(expected.iter().map(|text| line(text)))
}

#[test]
fn sql_logic_tests() {
    let root = Path::new("tests/slt");
    let mut paths = Vec::new();
    files(root, &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "no .slt file in {}", root.display());
    let only = std::env::var("KALAM_SLT").unwrap_or_default();
    let bridge =
        std::env::var("KALAM_SLT_BRIDGE").ok().map(|command| Arc::new(std::sync::Mutex::new(Bridge::start(&command))));
    let mut failures = Vec::new();
    let mut ran = 0;
    for path in paths.iter().filter(|p| p.to_string_lossy().contains(&only)) {
        let outcome = match &bridge {
            None => {
                let mut runner = Runner::new(Native::open);
                runner.with_validator(validator);
                runner.run_file(path)
            }
            Some(bridge) => {
                let reply = bridge.lock().expect("one thread").call(json!({"op": "reset", "db": "slt"}));
                assert_eq!(reply["ok"], true, "{reply}");
                let mut runner = Runner::new(|| async { Ok(Browser { bridge: Arc::clone(bridge) }) });
                runner.with_validator(validator);
                runner.run_file(path)
            }
        };
        ran += 1;
        if let Err(error) = outcome {
            failures.push(format!("{}", error.display(false)));
        }
    }
    assert!(failures.is_empty(), "{} of {ran} files failed:\n{}", failures.len(), failures.join("\n"));
    println!("{ran} files of SQL logic tests passed{}", if bridge.is_some() { " in the browser" } else { "" });
}
