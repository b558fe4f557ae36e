//! A database of each on-disk format, opened for ever.
//!
//! `tests/fixtures/format-N.txt` holds every stored record (`partition key value`, in hexadecimal) of a database that
//! the first engine of that format wrote: 1 has rows in the log, 2 in segments and in the log, with rows of segments
//! that the log ends. Each later engine must open it and find the same rows. To write a new fixture for a new
//! format: `KALAM_WRITE_FIXTURE=tests/fixtures/format-N.txt cargo test --test format_fixture`; an existing one is
//! never written again.
#![cfg(not(target_arch = "wasm32"))]

use std::path::Path;
use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::Result;
use kalamdb::storage::{Durability, KeyRange, MemoryBackend, Partition, ScanOptions, StorageBackend, WriteBatch};

mod support;

use support::{last_values, map_cells, text_or_null};

const SETUP: &[&str] = &[
    "CREATE NAMESPACE shop",
    "CREATE TABLE shop.every_type (id BIGINT PRIMARY KEY, b BOOLEAN, i INT, s SMALLINT, d DOUBLE, f FLOAT, t TEXT, \
     ts TIMESTAMP, dt DATETIME, da DATE, ti TIME, j JSON, by BYTES, e EMBEDDING(3), u UUID, de DECIMAL(12,3), fi FILE)",
    "INSERT INTO shop.every_type VALUES (1, true, -1, 2, 0.5, 1.5, 'zażółć 🦀', '2026-01-02 03:04:05.678901', \
     '2026-01-02T03:04:05Z', '1969-12-31', '23:59:59.999999', '{\"a\": [1, null]}', '\\x00ff', '[1, -2.5, 0]', \
     '00112233-4455-6677-8899-aabbccddeeff', 12345.678, '{\"name\": \"a.txt\"}')",
    "INSERT INTO shop.every_type (id) VALUES (9223372036854775807), (-9223372036854775808)",
    "CREATE TABLE log (line TEXT NOT NULL DEFAULT 'none', at INT)",
    "INSERT INTO log VALUES ('a', 1), ('b', 2), ('b', 2), ('c', 3)",
    "INSERT INTO log SELECT repeat('x', 10), value FROM generate_series(10, 2009) AS g(value)",
    "UPDATE log SET line = upper(line) WHERE at = 2",
    "DELETE FROM log WHERE at = 3 OR at BETWEEN 100 AND 1999",
    "CREATE TABLE pairs (a INT, b TEXT, v DOUBLE, PRIMARY KEY (b, a))",
    "INSERT INTO pairs VALUES (1, 'x', 0.1), (2, 'x', 0.2), (1, 'y', 0.3)",
    "UPDATE pairs SET a = a + 1, v = v * 10 WHERE b = 'x'",
    "CREATE TABLE gone (id INT PRIMARY KEY)",
    "INSERT INTO gone VALUES (1)",
    "DROP TABLE gone",
];

/// Statements of [`SETUP`], by place, after which everything is flushed.
const FLUSHED: [usize; 3] = [2, 5, 9];

/// Queries and what they gave when the fixture was written.
const EXPECTED: &[(&str, &str)] = &[
    (
        "SELECT * FROM shop.every_type ORDER BY id",
        "-9223372036854775808|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL\n\
         1|true|-1|2|0.5|1.5|zażółć 🦀|2026-01-02T03:04:05.678901|2026-01-02T03:04:05Z|1969-12-31|23:59:59.999999|\
         {\"a\": [1, null]}|\\x00ff|[1,-2.5,0]|00112233-4455-6677-8899-aabbccddeeff|12345.678|{\"name\": \"a.txt\"}\n\
         9223372036854775807|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL",
    ),
    ("SELECT line, at FROM log WHERE at < 10 ORDER BY at, line", "a|1\nB|2\nB|2"),
    ("SELECT count(*), sum(at), min(line) FROM log", "103|24955|B"),
    ("SELECT b, a, v FROM pairs ORDER BY b, a", "x|2|1\nx|3|2\ny|1|0.3"),
];

async fn run(context: &AppContext, sql: &str) -> Result<String> {
    let cells = map_cells(last_values(&support::sql(context, sql).await?)?, text_or_null);
    Ok(cells.iter().map(|cells| cells.join("|")).collect::<Vec<_>>().join("\n"))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hexadecimal")).collect()
}

async fn write(path: &Path) -> Result<()> {
    assert!(!path.exists(), "{} exists: a fixture is never written again", path.display());
    let backend = Arc::new(MemoryBackend::new());
    let config = Config { node_id: Some("fixture".into()), ..Config::default() };
    let context = AppContext::open(Arc::clone(&backend) as _, config).await?;
    for (place, sql) in SETUP.iter().enumerate() {
        run(&context, sql).await?;
        if FLUSHED.contains(&place) {
            run(&context, "STORAGE FLUSH ALL").await?;
        }
    }
    for (sql, _) in EXPECTED {
        println!("{sql}\n{}\n", run(&context, sql).await?);
    }
    context.close().await?;
    let mut text = String::new();
    for partition in Partition::ALL {
        let records = backend.reopen().scan(partition, &KeyRange::all(), ScanOptions::default()).await?;
        for (key, value) in records {
            text += &format!("{} {} {}\n", partition.name(), to_hex(&key), to_hex(&value));
        }
    }
    std::fs::write(path, text).expect("the fixture can be written");
    Ok(())
}

async fn load(text: &str) -> Result<MemoryBackend> {
    let mut batch = WriteBatch::new();
    for line in text.lines() {
        let mut parts = line.split(' ');
        let (name, key, value) = (parts.next(), parts.next(), parts.next());
        let partition = Partition::ALL.into_iter().find(|p| Some(p.name()) == name).expect("a partition");
        batch.put(partition, from_hex(key.expect("a key")), from_hex(value.expect("a value")));
    }
    let backend = MemoryBackend::new();
    backend.commit(batch, Durability::Strict).await?;
    Ok(backend)
}

#[test]
fn a_database_of_each_format_opens() -> Result<()> {
    block_on(async {
        if let Ok(path) = std::env::var("KALAM_WRITE_FIXTURE") {
            return write(Path::new(&path)).await;
        }
        for format in 1..=kalamdb::context::FORMAT {
            let path = format!("tests/fixtures/format-{format}.txt");
            let backend = load(&std::fs::read_to_string(path).expect("the fixture")).await?;
            let context = AppContext::open(Arc::new(backend), Config::default()).await?;
            assert_eq!(context.node_id().as_str(), "fixture");
            for _ in 0..3 {
                for (sql, expected) in EXPECTED {
                    assert_eq!(run(&context, sql).await?, *expected, "format {format}: {sql}");
                }
                run(&context, "STORAGE FLUSH ALL; STORAGE COMPACT ALL").await?;
            }
            // It is not only read: writing goes on where the first engine stopped.
            run(&context, "INSERT INTO pairs VALUES (9, 'z', 9); UPDATE log SET at = at + 1 WHERE at = 1").await?;
            assert_eq!(run(&context, "SELECT count(*) FROM pairs").await?, "4");
        }
        Ok(())
    })
}
