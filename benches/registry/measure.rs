//! Measures the schema registry, the system tables and views, natively and in a browser.
//!
//! Gives a table with the targets of the specification (§7). Nothing here fails on a slow machine. Invariant: what
//! is compared is measured in turns, in one process, and the median counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::platform::Instant;
use kalamdb::schema::{NewColumn, SchemaRegistry, TableDefinition, TableId, TableOptions, TableType};
use kalamdb::sql::{ExecuteOptions, Params};
use kalamdb::storage::{CountingBackend, MemoryBackend, StorageBackend};
use kalamdb::tables::{SystemTablesRegistry, TableStore, UserRecord};
use kalamdb::types::{KalamDataType, Value};

/// The system's allocator, which knows how many bytes are in use.
struct Counting;

static IN_USE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How much is measured.
struct Counts {
    lookups: usize,
    schemas: usize,
    tables: usize,
    queries: usize,
    openings: usize,
}

/// The lines of the result.
#[derive(Default)]
pub struct Report(Vec<[String; 4]>);

impl Report {
    fn add(&mut self, what: &str, value: String, target: &str, met: Option<bool>) {
        let met = met.map_or("", |met| if met { "met" } else { "MISSED" });
        self.0.push([what.to_owned(), value, target.to_owned(), met.to_owned()]);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |i: usize| self.0.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let [a, b, c, d] = [width(0), width(1), width(2), width(3)];
        for [what, value, target, met] in &self.0 {
            writeln!(f, "{what:<a$}  {value:>b$}  {target:<c$}  {met:<d$}")?;
        }
        Ok(())
    }
}

/// Measures everything; unless `full`, only so much that it shows that everything still runs.
pub async fn report(full: bool) -> Result<Report> {
    let counts = if full {
        Counts { lookups: 1_000_000, schemas: 20_000, tables: 1000, queries: 300, openings: 50 }
    } else {
        Counts { lookups: 1000, schemas: 100, tables: 50, queries: 3, openings: 2 }
    };
    let mut report = Report::default();
    report.0.push(["measured", "value", "target", ""].map(str::to_owned));
    lookups(&counts, &mut report).await?;
    for columns in [5, 20] {
        memory(&counts, columns, &mut report).await?;
    }
    openings(&counts, &mut report).await?;
    system_tables(&counts, &mut report).await?;
    views(&counts, &mut report).await?;
    Ok(report)
}

async fn open(memory: &MemoryBackend) -> Result<Arc<AppContext>> {
    AppContext::open(Arc::new(memory.reopen()), Config::default()).await
}

/// Creates `tables` tables of so many columns, of several types.
async fn create_tables(registry: &SchemaRegistry, tables: usize, columns: usize) -> Result<()> {
    use KalamDataType as T;
    let types = [T::BigInt, T::Text, T::Double, T::Timestamp, T::Decimal { precision: 10, scale: 2 }, T::Boolean];
    for n in 0..tables {
        let columns =
            (0..columns).map(|c| NewColumn::new(format!("column_{c}"), types[c % types.len()])).collect::<Vec<_>>();
        let (id, key) = (TableId::new("default", format!("table_{n}")), ["column_0".to_owned()]);
        let number = registry.next_table_no().await?;
        let options = TableOptions::default();
        let definition = TableDefinition::new(id, number, TableType::Shared, columns, &key, options, 1, "bench")?;
        registry.put(definition).await?;
    }
    Ok(())
}

/// A database in memory with tables, closed.
async fn database(tables: usize, columns: usize) -> Result<MemoryBackend> {
    let memory = Arc::new(MemoryBackend::new());
    let context = AppContext::open(Arc::clone(&memory) as _, Config::default()).await?;
    create_tables(context.registry(), tables, columns).await?;
    Ok(memory.reopen())
}

fn missing(what: &str) -> KalamError {
    KalamError::internal(format_args!("{what} is missing"))
}

/// Cached lookups: one table after the other, and one wide table against building its schema.
async fn lookups(counts: &Counts, report: &mut Report) -> Result<()> {
    let context = open(&MemoryBackend::new()).await?;
    let registry = context.registry();
    create_tables(registry, counts.tables, 5).await?;
    let ids: Vec<TableId> = (0..counts.tables).map(|n| TableId::new("default", format!("table_{n}"))).collect();
    let start = Instant::now();
    for n in 0..counts.lookups {
        let found = registry.table(&ids[n % ids.len()]).await?.ok_or_else(|| missing("a table"))?;
        black_box(found.arrow_schema()?);
    }
    let average = start.elapsed().as_nanos() as f64 / counts.lookups as f64;
    let what = format!("cached lookup with its Arrow schema, {} calls over {} tables", counts.lookups, ids.len());
    report.add(&what, format!("{average:.0} ns"), "< 2 µs", Some(average < 2000.0));

    let wide = open(&MemoryBackend::new()).await?;
    create_tables(wide.registry(), 1, 50).await?;
    let table = wide.registry().table(&ids[0]).await?.ok_or_else(|| missing("the wide table"))?;
    let schema = table.arrow_schema()?;
    let start = Instant::now();
    for _ in 0..counts.schemas {
        black_box(table.definition().arrow_schema()?);
    }
    let build = start.elapsed().as_nanos() as f64 / counts.schemas as f64;
    let start = Instant::now();
    for _ in 0..counts.lookups {
        let found = wide.registry().table(&ids[0]).await?.ok_or_else(|| missing("the wide table"))?;
        if !Arc::ptr_eq(&found.arrow_schema()?, &schema) {
            return Err(KalamError::internal("a lookup gave another schema"));
        }
    }
    let cached = start.elapsed().as_nanos() as f64 / counts.lookups as f64;
    report.add("building a schema of 50 columns", format!("{build:.0} ns"), "", None);
    report.add("the same from the registry", format!("{cached:.0} ns"), "", None);
    let ratio = build / cached;
    report.add("ratio", format!("{ratio:.0}×"), "≥ 50×", Some(ratio >= 50.0));

    for n in 0..counts.queries {
        run(&context, &format!("SELECT count(*) FROM table_{}", n % 20)).await?;
    }
    let hits = statistic(&context, "registry_hits").await?;
    let rate = 100.0 * hits / (hits + statistic(&context, "registry_misses").await?);
    report.add("hit rate, read from system.stats", format!("{rate:.3} %"), "> 99 %", Some(rate > 99.0));
    Ok(())
}

/// Memory that cached tables take, with their Arrow schemas and providers.
async fn memory(counts: &Counts, columns: usize, report: &mut Report) -> Result<()> {
    let context = open(&database(counts.tables, columns).await?).await?;
    let before = IN_USE.load(Ordering::Relaxed);
    context.registry().tables(None).await?;
    let definitions = IN_USE.load(Ordering::Relaxed);
    for table in context.registry().tables(None).await? {
        table.arrow_schema()?;
    }
    let schemas = IN_USE.load(Ordering::Relaxed);
    for table in context.registry().tables(None).await? {
        context.registry().provider(table.table_id()).await?.ok_or_else(|| missing("a provider"))?;
    }
    let providers = IN_USE.load(Ordering::Relaxed);
    let n = context.registry().statistics().size;
    let kb = |bytes: isize| format!("{:.0} kB", bytes as f64 / 1000.0);
    let target = if columns == 5 { "< 2 MB" } else { "" };
    let met = (columns == 5).then_some(definitions - before < 2_000_000);
    report.add(&format!("{n} tables of {columns} columns in the cache"), kb(definitions - before), target, met);
    report.add("  bytes per table", format!("{}", (definitions - before) / n as isize), "", None);
    report.add("  Arrow schemas of all of them in addition", kb(schemas - definitions), "", None);
    report.add("  providers of all of them in addition", kb(providers - schemas), "", None);
    let estimate = context.registry().statistics().bytes as isize;
    report.add("  definitions and schemas, as the registry estimates", kb(estimate), "", None);
    Ok(())
}

/// Opening databases with many tables and with none, and the part of the system tables in it.
async fn openings(counts: &Counts, report: &mut Report) -> Result<()> {
    let (none, many) = (database(0, 5).await?, database(counts.tables, 5).await?);
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..counts.openings {
        for (memory, times) in [&none, &many].into_iter().zip(&mut times) {
            let backend = Arc::new(memory.reopen());
            let start = Instant::now();
            black_box(AppContext::open(backend, Config::default()).await?);
            times.push(start.elapsed());
        }
        for (memory, times) in [&MemoryBackend::new(), &many].into_iter().zip(&mut times[2..]) {
            let backend = Arc::new(CountingBackend::new(Arc::new(memory.reopen())));
            let shared = || Arc::clone(&backend) as Arc<dyn StorageBackend>;
            let store = TableStore::open(shared(), 1).await?;
            let registry = Arc::new(SchemaRegistry::new(shared()));
            let start = Instant::now();
            black_box(SystemTablesRegistry::open("bench".into(), backend, &registry, store).await?);
            times.push(start.elapsed());
        }
    }
    let [none, many, created, there] = times.map(median);
    let ms = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1000.0);
    report.add("opening a database without tables", ms(none), "", None);
    report.add(&format!("opening a database of {} tables", counts.tables), ms(many), "", None);
    let limit = Duration::from_millis(100);
    report.add("system tables at start-up, to be created", ms(created), "< 100 ms", Some(created < limit));
    report.add("system tables at start-up, there already", ms(there), "< 100 ms", Some(there < limit));
    Ok(())
}

/// System tables against shared tables with the same rows.
async fn system_tables(counts: &Counts, report: &mut Report) -> Result<()> {
    let context = open(&database(counts.tables, 5).await?).await?;
    for n in 0..counts.tables {
        let user_id = format!("user-{n}");
        let role = if n % 10 == 0 { "dba" } else { "user" }.to_owned();
        let user = UserRecord { user_id: user_id.clone(), role, created_at_ms: n as u64, updated_at_ms: n as u64 };
        context.system().users().put(&user_id, &user).await?;
    }
    // The copies first: creating one changes what the original shows.
    run(&context, "CREATE NAMESPACE copy").await?;
    run(&context, "CREATE TABLE copy.users AS SELECT * FROM system.users").await?;
    run(&context, "CREATE TABLE copy.columns AS SELECT * FROM system.columns").await?;
    let queries = [
        ("users", "SELECT role, count(*) FROM {}.users GROUP BY role"),
        ("columns", "SELECT data_type, count(*), max(ordinal_position) FROM {}.columns GROUP BY data_type"),
        ("columns", "SELECT * FROM {}.columns WHERE table_name = 'table_7' ORDER BY ordinal_position"),
    ];
    for (name, query) in queries {
        let [system, shared] = ["system", "copy"].map(|namespace| query.replace("{}", namespace));
        let rows = statistic_of(&context, &format!("SELECT count(*) FROM system.{name}")).await?;
        let what = format!("system.{name} against a shared table ({rows} rows): {query}");
        let [system, shared] = compare(&context, [&system, &shared], counts.queries).await?;
        ratio(report, &what, system, shared, "≤ 1.10×", 1.10);
    }
    Ok(())
}

/// A view against the query that it stands for.
async fn views(counts: &Counts, report: &mut Report) -> Result<()> {
    let context = open(&MemoryBackend::new()).await?;
    run(&context, "CREATE TABLE items (id INT PRIMARY KEY, kind INT, price DOUBLE)").await?;
    let rows = "SELECT value, value % 7, value * 1.5 FROM generate_series(1, 10000)";
    run(&context, &format!("INSERT INTO items {rows}")).await?;
    let query = "SELECT kind, sum(price) AS total FROM items WHERE id > 100 GROUP BY kind";
    match run(&context, &format!("CREATE VIEW totals AS {query}")).await {
        Err(error) if error.code() == ErrorCode::FeatureNotSupported => {
            report.add("a view against its query", "no views".into(), "≤ 1.05×", None);
            return Ok(());
        }
        created => created?,
    };
    let pair = ["SELECT * FROM totals ORDER BY kind", &format!("SELECT * FROM ({query}) q ORDER BY kind")];
    let [view, plain] = compare(&context, pair, counts.queries).await?;
    ratio(report, "a view against its query", view, plain, "≤ 1.05×", 1.05);
    Ok(())
}

fn ratio(report: &mut Report, what: &str, first: Duration, second: Duration, target: &str, limit: f64) {
    let ratio = first.as_secs_f64() / second.as_secs_f64();
    let micros = |time: Duration| time.as_micros();
    let value = format!("{ratio:.2}× ({} against {} µs)", micros(first), micros(second));
    report.add(what, value, target, Some(ratio <= limit));
}

/// The median times of two statements, run in turns.
async fn compare(context: &AppContext, pair: [&str; 2], times: usize) -> Result<[Duration; 2]> {
    let mut taken = [const { Vec::new() }; 2];
    for n in 0..times {
        // Who is first changes, so that neither always finds the caches as the other left them.
        for i in [n % 2, 1 - n % 2] {
            let start = Instant::now();
            run(context, pair[i]).await?;
            taken[i].push(start.elapsed());
        }
    }
    Ok(taken.map(median))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

async fn run(context: &AppContext, sql: &str) -> Result<()> {
    let options = ExecuteOptions::default();
    black_box(context.executor().execute(context.session(), sql, &Params::default(), &options).await?);
    Ok(())
}

/// The number that a query gives.
async fn statistic_of(context: &AppContext, sql: &str) -> Result<f64> {
    let options = ExecuteOptions::default();
    let results = context.executor().execute(context.session(), sql, &Params::default(), &options).await?;
    let batches = results.last().and_then(|r| r.rows.as_ref()).map(|rows| rows.batches.as_slice());
    let column = batches.and_then(<[_]>::first).ok_or_else(|| missing("a row"))?.column(0);
    match Value::from_array(column, 0, &KalamDataType::BigInt)? {
        Value::BigInt(n) => Ok(n as f64),
        other => Err(KalamError::internal(format_args!("{other:?} is not a number"))),
    }
}

async fn statistic(context: &AppContext, name: &str) -> Result<f64> {
    statistic_of(context, &format!("SELECT value FROM system.stats WHERE name = '{name}'")).await
}
