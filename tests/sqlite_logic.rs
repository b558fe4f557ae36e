//! A sample of SQLite's own logic tests (`tests/slt/sqlite`, public domain): an oracle that knows nothing of this
//! engine. Records that do not apply carry `skipif kalamdb # reason`; COMPAT.md sums them up.
#![cfg(not(target_arch = "wasm32"))]

use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::Result;
use kalamdb::sql::{ExecuteOptions, Params, Rows};
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

fn check(context: &AppContext, record: &Record<'_>) -> std::result::Result<(), String> {
    let (params, options) = (Params::default(), ExecuteOptions::default());
    let result = block_on(context.executor().execute(context.session(), &record.sql, &params, &options));
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

#[test]
fn sqlite_logic_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt/sqlite");
    let mut paths: Vec<_> = std::fs::read_dir(&root).expect("a folder of tests").flatten().map(|e| e.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "test"));
    paths.sort();
    let (mut ran, mut failures) = (0, Vec::new());
    for path in &paths {
        let text = std::fs::read_to_string(path).expect("a file of tests");
        let backend = Arc::new(MemoryBackend::new());
        let context = block_on(AppContext::open(backend, Config::default())).expect("a new database");
        for record in records(&text) {
            ran += 1;
            if let Err(what) = check(&context, &record) {
                let name = path.file_name().expect("a file").to_string_lossy();
                failures.push(format!("{name}:{}: {what}\n  {}", record.line, record.sql.replace('\n', " ")));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {ran} records failed:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 1000, "only {ran} records ran");
    println!("{ran} records of {} files passed", paths.len());
}
