//! Benchmarks of small statements: `cargo bench --bench sql`.
//!
//! Prints what a statement takes with the caches and the short path, without the short path, and without both, and the
//! ratios. Nothing here fails on a slow machine. Invariant: what is compared is measured in turns, in one process, and
//! the median counts. Without `--bench` (as `cargo test --benches` runs it) the counts are small, so that it only shows
//! that everything still runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::Result;
use kalamdb::sql::{ExecuteOptions, Params};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;

/// Rows of the table that is read.
const ROWS: i64 = 20_000;

/// The ways that a statement can take.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    short_path: bool,
    caches: bool,
}

const WAYS: [Way; 3] = [
    Way { name: "as it is", short_path: true, caches: true },
    Way { name: "kept plans only", short_path: false, caches: true },
    Way { name: "neither", short_path: false, caches: false },
];

struct Bench {
    context: Arc<AppContext>,
    /// Grows with each run, so that no two runs insert the same key.
    next: i64,
}

impl Bench {
    fn run(&mut self, way: Way, sql: &str, params: impl Fn(i64) -> Vec<Value>) -> Result<Duration> {
        self.next += 1;
        let params = Params::Positional(params(self.next));
        let options = ExecuteOptions { short_path: way.short_path, caches: way.caches, ..ExecuteOptions::default() };
        let started = Instant::now();
        block_on(self.context.executor().execute(self.context.session(), sql, &params, &options))?;
        Ok(started.elapsed())
    }

    /// The medians of the ways, measured in turns.
    fn measure(&mut self, runs: usize, sql: &str, params: impl Fn(i64) -> Vec<Value>) -> Result<[f64; 3]> {
        let mut times: [Vec<Duration>; 3] = Default::default();
        for _ in 0..runs {
            for (way, times) in WAYS.iter().zip(&mut times) {
                times.push(self.run(*way, sql, &params)?);
            }
        }
        Ok(times.map(|mut times| {
            times.sort();
            times[times.len() / 2].as_secs_f64() * 1e6
        }))
    }
}

fn main() -> Result<()> {
    let thorough = std::env::args().any(|a| a == "--bench");
    let runs = if thorough { 400 } else { 15 };
    let context = block_on(AppContext::open(Arc::new(MemoryBackend::new()), Config::default()))?;
    let mut bench = Bench { context, next: 1_000_000 };
    let setup = format!(
        "CREATE TABLE items (id INT PRIMARY KEY, city INT NOT NULL, price DOUBLE NOT NULL, name TEXT);
         CREATE TABLE cities (id INT PRIMARY KEY, name TEXT NOT NULL);
         INSERT INTO cities SELECT value, 'city ' || value FROM generate_series(0, 99) AS g(value);
         INSERT INTO items SELECT value, value % 100, value / 3.0, 'item ' || value FROM generate_series(0, {}) AS g(value)",
        ROWS - 1
    );
    bench.run(WAYS[0], &setup, |_| Vec::new())?;
    type Params = fn(i64) -> Vec<Value>;
    let cases: [(&str, &str, Params); 9] = [
        ("key get", "SELECT * FROM items WHERE id = $1", |n| vec![Value::BigInt(n * 7919 % ROWS)]),
        ("three keys", "SELECT id, name FROM items WHERE id IN ($1, 7, 9)", |n| vec![Value::BigInt(n % ROWS)]),
        ("insert", "INSERT INTO items VALUES ($1, 1, 2.5, $2)", |n| vec![Value::BigInt(n), Value::Text("new".into())]),
        ("update by key", "UPDATE items SET price = $2 WHERE id = $1", |n| {
            vec![Value::BigInt(n * 7919 % ROWS), Value::Double(n as f64)]
        }),
        ("update, computed", "UPDATE items SET price = price + $2 WHERE id = $1", |n| {
            vec![Value::BigInt(n * 7919 % ROWS), Value::Double(1.0)]
        }),
        ("range of 100 rows", "SELECT * FROM items WHERE id >= $1 AND id < $2", |n| {
            let from = n * 7919 % (ROWS - 100);
            vec![Value::BigInt(from), Value::BigInt(from + 100)]
        }),
        ("join by key", "SELECT i.name, c.name FROM items i JOIN cities c ON c.id = i.city WHERE i.id = $1", |n| {
            vec![Value::BigInt(n * 7919 % ROWS)]
        }),
        ("GROUP BY, 20 000 rows", "SELECT city, count(*), avg(price) FROM items GROUP BY city", |_| Vec::new()),
        ("no table", "SELECT $1 + 1", |n| vec![Value::BigInt(n)]),
    ];
    println!("median µs of {runs} runs; the ratio is 'neither' to 'as it is'");
    let head = WAYS.map(|way| format!("{:>16}", way.name)).join("");
    println!("{:<24}{head}{:>9}", "", "ratio");
    for (name, sql, params) in cases {
        let medians = bench.measure(runs, sql, params)?;
        let cells = medians.map(|m| format!("{m:>16.1}")).join("");
        println!("{name:<24}{cells}{:>8.1}x", medians[2] / medians[0]);
    }
    // Planning by itself: what the caches save is the difference of a query of nothing.
    let sql =
        "SELECT i.name FROM items i JOIN cities c ON c.id = i.city WHERE i.id = $1 AND c.id = -1 ORDER BY 1 LIMIT 5";
    let medians = bench.measure(runs, sql, |n| vec![Value::BigInt(n % ROWS)])?;
    println!(
        "planning a join: {:.1} µs without a kept plan, {:.1} µs with one: {:.1}x",
        medians[2],
        medians[0],
        medians[2] / medians[0]
    );
    Ok(())
}
