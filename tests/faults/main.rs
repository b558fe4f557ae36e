//! Every storage call of a workload goes wrong once in every way.
//!
//! The workload is a list of statements with what each does to an oracle in a few lines of Rust. For each statement,
//! each of its storage calls, and each fault: the statement runs on a database in the state before it, warm (everything
//! is in memory) or cold (the fault may meet the opening). Then it has either succeeded or ended in a typed error; the
//! engine shows the state before it or the state after it (before, where storage did nothing); what the engine shows is
//! what a process that starts on the same storage finds; and without reopening anything the workload goes on.
//!
//! Two more ways: a call takes long, and others, of this statement and of others, overtake it; and a value that is written
//! is not what is stored, which only the next process can find, and must find, or not need.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray;
use futures::executor::block_on;
use futures::future::join_all;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::ingest::{CsvOptions, Format};
use kalamdb::schema::{TableId, TableType};
use kalamdb::sql::{ExecuteOptions, ImportOptions, Importer};
use kalamdb::storage::{MemoryBackend, Partition};
use kalamdb::tables::Health;
use kalamdb::types::KalamDataType;

#[path = "../support/faulty.rs"]
mod faulty;
#[path = "../support/mod.rs"]
mod support;
mod workload;

use faulty::{Fault, Faulty, Outcome};
use support::{map_cells, sql, text_or_null, values};
use workload::{Rows, Step, Work, World, int, with_views, workload};

async fn open(backend: &Arc<Faulty>) -> Result<Arc<AppContext>> {
    AppContext::open(backend.front().await?, Config { node_id: Some("n".into()), ..Config::default() }).await
}

async fn run(context: &AppContext, step: &Step) -> Result<()> {
    match &step.work {
        Work::Sql(text) => sql(context, text).await.map(drop),
        Work::Csv(table, text) => {
            let options = ImportOptions { format: Format::Csv, create: true, csv: CsvOptions::default() };
            let (executor, session) = (Arc::clone(context.executor()), Arc::clone(context.session()));
            let mut importer = Importer::open(executor, session, table, options, ExecuteOptions::default()).await?;
            importer.push(text.as_bytes()).await?;
            importer.finish(|_| {}).await.map(drop)
        }
    }
}

async fn rows_of(context: &AppContext, id: &TableId) -> Result<(Vec<String>, Rows)> {
    let result = sql(context, &format!("SELECT * FROM {}.{}", id.namespace, id.table)).await?.pop();
    let rows = result.and_then(|r| r.rows).expect("a query gives rows");
    let column = |f: &Arc<arrow::datatypes::Field>| {
        Ok(format!("{} {}", f.name(), KalamDataType::from_arrow_field(f)?.sql_name()))
    };
    let columns = rows.schema.fields().iter().map(column).collect::<Result<_>>()?;
    let mut out = map_cells(values(&rows)?, text_or_null);
    out.sort();
    Ok((columns, out))
}

async fn show(context: &AppContext) -> Result<World> {
    let mut world = World::default();
    for table in context.registry().tables(None).await? {
        if table.definition().table_type != TableType::System {
            let id = table.table_id();
            world.tables.insert(format!("{}.{}", id.namespace, id.table), rows_of(context, id).await?);
        }
    }
    let names = context.registry().namespaces().await?;
    world.namespaces = names.into_iter().map(|n| n.name).filter(|n| n != "default").collect();
    Ok(world)
}

fn is_damage(error: &KalamError) -> bool {
    matches!(error.code(), ErrorCode::DataCorrupted | ErrorCode::UnsupportedFormat)
}

/// Whether an error is one that a caller can understand, given the fault.
fn check_error(error: &KalamError, fault: Fault, code: ErrorCode, what: &str) {
    let fine = match fault {
        Fault::Corrupt | Fault::Tear => is_damage(error),
        _ => error.code() == code,
    };
    assert!(fine, "{what}: {error}");
}

/// The states of the workload, and what storage holds in each.
struct Course {
    steps: Vec<Step>,
    /// `worlds[i]`: before step i.
    worlds: Vec<World>,
    stored: Vec<Arc<Faulty>>,
    calls: u64,
}

impl Course {
    /// `journal`: whether engines have one in front of their storage.
    fn new(journal: bool) -> Result<Self> {
        let steps = workload();
        block_on(async {
            let backend = Faulty::new(MemoryBackend::new()).with_journal(journal);
            let context = open(&backend).await?;
            let (mut worlds, mut stored) = (vec![World::default()], vec![backend.crash()]);
            for step in &steps {
                let what = match &step.work {
                    Work::Sql(text) => &text[..text.len().min(80)],
                    Work::Csv(table, _) => table,
                };
                run(&context, step).await.map_err(|e| e.in_context(what))?;
                let mut world = worlds.last().expect("one").clone();
                (step.change)(&mut world);
                let world = with_views(world);
                assert_eq!(show(&context).await?, world, "the workload itself, after {what}");
                worlds.push(world);
                stored.push(backend.crash());
            }
            let calls = backend.calls();
            Ok(Self { steps, worlds, stored, calls })
        })
    }

    /// Runs one step with one fault. Says whether the step has so many calls.
    async fn trial(&self, at: usize, n: u64, fault: Fault, cold: bool) -> Result<Outcome> {
        const CODES: [ErrorCode; 3] = [ErrorCode::StorageError, ErrorCode::StorageClosed, ErrorCode::QuotaExceeded];
        let code = CODES[n as usize % CODES.len()];
        let what = format!("step {at}, call {n}, {fault:?}, {}", if cold { "cold" } else { "warm" });
        let (before, after) = (&self.worlds[at], &self.worlds[at + 1]);
        let backend = self.stored[at].crash();
        if cold {
            backend.arm(n, fault, code);
        }
        let context = match open(&backend).await {
            Ok(context) => context,
            Err(error) => {
                check_error(&error, fault, code, &what);
                assert_eq!(backend.disarm(), Outcome::Fired, "{what}: {error}");
                open(&backend).await.map_err(|e| e.in_context(&what))?
            }
        };
        if !cold {
            assert_eq!(&show(&context).await?, before, "{what}: the state before");
            backend.arm(n, fault, code);
        }
        let outcome = run(&context, &self.steps[at]).await;
        let happened = backend.disarm();
        if happened != Outcome::Fired {
            outcome.map_err(|e| e.in_context(&what))?;
            return Ok(happened);
        }
        let shown = show(&context).await.map_err(|e| e.in_context(&what))?;
        let again = open(&backend.crash()).await?;
        assert_eq!(show(&again).await?, shown, "{what}: what storage holds is what is shown");
        match outcome {
            Ok(()) => assert_eq!(&shown, after, "{what}: acknowledged"),
            Err(error) => {
                check_error(&error, fault, code, &what);
                if &shown != after || before == after {
                    assert_eq!(&shown, before, "{what}: a part of the statement is there after {error}");
                } else {
                    assert_eq!(fault, Fault::Lose, "{what}: it is there after {error}, though storage did nothing");
                }
            }
        }
        // Without reopening, the workload goes on. A flush or compaction may be run as often as one likes.
        let storage = matches!(&self.steps[at].work, Work::Sql(text) if text.starts_with("STORAGE"));
        if &shown == before && (before != after || storage) {
            run(&context, &self.steps[at]).await.map_err(|e| e.in_context(format_args!("{what}: again")))?;
        }
        if let Some(next) = self.steps.get(at + 1) {
            // An ALTER that changes nothing the oracle shows may have been applied already.
            if before != after || storage {
                run(&context, next).await.map_err(|e| e.in_context(format_args!("{what}: the next")))?;
                assert_eq!(show(&context).await?, self.worlds[at + 2], "{what}: after the next step");
                let again = open(&backend.crash()).await?;
                assert_eq!(show(&again).await?, self.worlds[at + 2], "{what}: after the next step, in storage");
            }
        }
        Ok(Outcome::Fired)
    }

    fn every_call(&self, cold: bool, steps: impl Iterator<Item = usize>, faults: &[Fault]) -> Result<u64> {
        let mut fired = 0;
        for at in steps {
            for &fault in faults {
                for n in 0.. {
                    match block_on(self.trial(at, n, fault, cold))? {
                        Outcome::NotReached => break,
                        Outcome::Fired => fired += 1,
                        Outcome::Skipped => {}
                    }
                }
            }
        }
        Ok(fired)
    }
}

const FAULTS: [Fault; 4] = [Fault::Fail, Fault::Lose, Fault::Corrupt, Fault::Tear];

#[test]
fn every_call_of_warm_statements() -> Result<()> {
    let course = Course::new(false)?;
    let fired = course.every_call(false, 0..course.steps.len(), &FAULTS)?;
    println!("{fired} faults in {} steps that make {} calls", course.steps.len(), course.calls);
    assert!(fired > 150, "{fired}");
    Ok(())
}

#[test]
fn every_call_of_an_opening_and_its_first_statement() -> Result<()> {
    let course = Course::new(false)?;
    // The opening makes the same calls each time: every third step is enough.
    let fired = course.every_call(true, (0..course.steps.len()).step_by(3), &FAULTS)?;
    println!("{fired} faults");
    assert!(fired > 150, "{fired}");
    Ok(())
}

#[test]
fn every_call_behind_a_journal() -> Result<()> {
    let course = Course::new(true)?;
    let faults = [Fault::Fail, Fault::Refuse, Fault::Lose, Fault::Corrupt];
    let warm = course.every_call(false, 0..course.steps.len(), &faults)?;
    let cold = course.every_call(true, (0..course.steps.len()).step_by(5), &faults)?;
    println!("{warm} and {cold} faults");
    assert!(warm > 150 && cold > 150, "{warm}, {cold}");
    Ok(())
}

impl Course {
    /// Runs one step with one call that takes long, while others write and read beside it.
    async fn overtaken(&self, at: usize, n: u64) -> Result<Outcome> {
        let what = format!("step {at}, call {n} takes long");
        let (before, after) = (&self.worlds[at], &self.worlds[at + 1]);
        let backend = self.stored[at].crash();
        let context = open(&backend).await?;
        sql(&context, "CREATE TABLE side (k INT PRIMARY KEY)").await?;
        backend.arm(n, Fault::Delay, ErrorCode::Internal);
        let beside = async {
            for k in 0..3 {
                sql(&context, &format!("INSERT INTO side VALUES ({k})")).await?;
                for name in before.tables.keys() {
                    let (namespace, table) = name.split_once('.').expect("a qualified name");
                    match rows_of(&context, &TableId::new(namespace, table)).await {
                        Ok(rows) => {
                            let shown = Some(&rows);
                            let is = |world: &World| world.tables.get(name) == shown;
                            assert!(is(before) || is(after), "{what}: {name} is neither as before nor as after");
                        }
                        // Its definition is being changed.
                        Err(error) => assert!(
                            before.tables.get(name).map(|t| &t.0) != after.tables.get(name).map(|t| &t.0),
                            "{what}: {error}"
                        ),
                    }
                }
            }
            Ok::<(), KalamError>(())
        };
        let (outcome, others) = futures::join!(run(&context, &self.steps[at]), beside);
        let happened = backend.disarm();
        outcome.and(others).map_err(|e| e.in_context(&what))?;
        let again = open(&backend.crash()).await?;
        for context in [&context, &again] {
            let mut shown = show(context).await?;
            let side = shown.tables.remove("default.side").map(|(_, rows)| rows.concat());
            assert_eq!(side, Some(vec!["0".to_owned(), "1".to_owned(), "2".to_owned()]), "{what}");
            assert_eq!(&shown, after, "{what}");
        }
        Ok(happened)
    }

    /// Runs one step of which one value is stored as another one. Whoever opens the database then is told, or does not
    /// need the value.
    async fn spoiled(&self, at: usize, n: u64, value: usize, cut: bool) -> Result<Outcome> {
        let what = format!("step {at}, call {n}, value {value}, cut: {cut}");
        let (before, after) = (&self.worlds[at], &self.worlds[at + 1]);
        let backend = self.stored[at].crash();
        let context = open(&backend).await?;
        assert_eq!(&show(&context).await?, before, "{what}: the state before");
        backend.arm(n, Fault::Spoil { value, cut }, ErrorCode::Internal);
        let outcome = run(&context, &self.steps[at]).await;
        let happened = backend.disarm();
        if happened != Outcome::Fired {
            outcome.map_err(|e| e.in_context(&what))?;
            return Ok(happened);
        }
        let fine = |error: &KalamError| {
            assert!(is_damage(error), "{what}: {error}");
            let names = ["record", "segment", "_seq ceiling", "next table number"];
            assert!(names.iter().any(|name| error.message().contains(name)), "{what}: nothing is named: {error}");
        };
        // The statement may have read what it wrote.
        let whole = outcome.inspect_err(fine).is_ok();
        let is = |name: &String, shown: &(Vec<String>, Rows)| {
            after.tables.get(name) == Some(shown) || (!whole && before.tables.get(name) == Some(shown))
        };
        let spoiled = backend.spoiled().await;
        let stored = backend.crash();
        let mut told = false;
        match open(&stored).await {
            Err(error) => {
                fine(&error);
                told = true;
            }
            Ok(context) => {
                match context.registry().tables(None).await {
                    Err(error) => {
                        fine(&error);
                        told = true;
                    }
                    Ok(tables) => {
                        let own = tables.iter().filter(|t| t.definition().table_type != TableType::System);
                        let names: BTreeSet<String> =
                            own.map(|t| format!("{}.{}", t.table_id().namespace, t.table_id().table)).collect();
                        let expected = |world: &World| names.iter().eq(world.tables.keys());
                        assert!(expected(after) || (!whole && expected(before)), "{what}: {names:?}");
                    }
                }
                let unlisted = told;
                for name in after.tables.keys().filter(|_| !unlisted) {
                    let (namespace, table) = name.split_once('.').expect("a qualified name");
                    match rows_of(&context, &TableId::new(namespace, table)).await {
                        Ok(rows) => assert!(is(name, &rows), "{what}: {name} shows {rows:?}"),
                        Err(error) if is_damage(&error) => {
                            fine(&error);
                            told = true;
                        }
                        Err(error) => assert!(!whole, "{what}: {name}: {error}"),
                    }
                }
            }
        }
        // Rescue finds it, and gives a database that opens, goes on, and holds no row that never was.
        let (mut backup, findings) = AppContext::rescue(stored.remains().await?).await?;
        let found = findings.iter().any(|f| f.health == Health::Damaged);
        assert!(found || !told, "{what}: somebody was told, and the scrub finds nothing: {findings:?}");
        if let Some((partition, key)) = spoiled
            && partition != Partition::Blob
        {
            assert!(found, "{what}: the scrub does not find {} {key:?}: {findings:?}", partition.name());
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = backup.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        let rescued = AppContext::restore(Arc::new(MemoryBackend::new()), &bytes, Config::default()).await;
        let rescued = rescued.map_err(|e| e.in_context(&what))?;
        for table in rescued.registry().tables(None).await? {
            let (id, kind) = (table.table_id(), table.definition().table_type);
            if kind == TableType::System {
                continue;
            }
            let name = format!("{}.{}", id.namespace, id.table);
            let rows = match rows_of(&rescued, id).await {
                Ok((_, rows)) => rows,
                // The table below is what was lost.
                Err(_) if kind == TableType::View => continue,
                Err(error) => return Err(error.in_context(&what)),
            };
            let ever = self.worlds.iter().filter_map(|world| world.tables.get(&name)).flat_map(|(_, rows)| rows);
            let ever: BTreeSet<&String> = ever.filter_map(|row| row.first()).collect();
            assert!(rows.iter().all(|row| ever.contains(&row[0])), "{what}, rescued: {name} has rows that never were");
        }
        sql(&rescued, "CREATE TABLE more (k INT PRIMARY KEY); INSERT INTO more VALUES (1); STORAGE FLUSH ALL").await?;
        let report = sql(&rescued, "STORAGE CHECK").await?.pop().and_then(|r| r.rows).expect("a report");
        let status = report.batches.iter().flat_map(|b| b.column(1).as_string::<i32>().iter().flatten());
        assert!(status.into_iter().all(|s| s != "damaged"), "{what}: the rescued database is damaged");
        Ok(Outcome::Fired)
    }
}

#[test]
fn every_call_is_overtaken_by_others() -> Result<()> {
    let course = Course::new(false)?;
    let mut fired = 0;
    for at in 0..course.steps.len() {
        for n in 0.. {
            match block_on(course.overtaken(at, n))? {
                Outcome::NotReached => break,
                Outcome::Fired => fired += 1,
                Outcome::Skipped => {}
            }
        }
    }
    println!("{fired} calls");
    assert!(fired > 300, "{fired}");
    Ok(())
}

#[test]
fn every_value_that_is_stored_as_another_is_found() -> Result<()> {
    let courses = [Course::new(false)?, Course::new(true)?];
    let mut fired = 0;
    for (course, at) in courses.iter().flat_map(|course| (0..course.steps.len()).map(move |at| (course, at))) {
        for n in 0.. {
            let mut reached = true;
            for value in (0..).flat_map(|value| [(value, false), (value, true)]) {
                match block_on(course.spoiled(at, n, value.0, value.1))? {
                    Outcome::NotReached => reached = false,
                    Outcome::Fired => {
                        fired += 1;
                        continue;
                    }
                    Outcome::Skipped => {}
                }
                break;
            }
            if !reached {
                break;
            }
        }
    }
    println!("{fired} values");
    assert!(fired > 300, "{fired}");
    Ok(())
}

/// Every n-th call of the whole workload goes wrong, in one engine that is never opened again; a statement that failed
/// is run again if it left nothing.
#[test]
fn a_workload_gets_through_a_storm() -> Result<()> {
    let course = Course::new(false)?;
    for (fault, journal) in Fault::ALL.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        for every in [2, 3, 5, 7, 11] {
            // Every second call: nothing that needs two in a row gets through, so only the state is looked at.
            let what = format!("every {every}. call, {fault:?}, journal: {journal}");
            block_on(async {
                let backend = Faulty::new(MemoryBackend::new()).with_journal(journal);
                let context = open(&backend).await?;
                for (at, step) in course.steps.iter().enumerate() {
                    let mut shown = course.worlds[at].clone();
                    for _ in 0..4 {
                        backend.storm(every, fault);
                        let outcome = run(&context, step).await;
                        backend.disarm();
                        shown = show(&context).await?;
                        match outcome {
                            Ok(()) => assert_eq!(shown, course.worlds[at + 1], "{what}, step {at}"),
                            Err(error) if matches!(error.code(), ErrorCode::Internal) => return Err(error),
                            Err(_) => assert!(
                                shown == course.worlds[at] || shown == course.worlds[at + 1],
                                "{what}, step {at}: neither before nor after"
                            ),
                        }
                        if shown == course.worlds[at + 1] {
                            break;
                        }
                    }
                    if shown != course.worlds[at + 1] {
                        run(&context, step).await.map_err(|e| e.in_context(&what))?;
                    }
                }
                let last = course.worlds.last().expect("one");
                assert_eq!(&show(&context).await?, last, "{what}");
                assert_eq!(&show(&*open(&backend.crash()).await?).await?, last, "{what}: in storage");
                Ok::<(), KalamError>(())
            })?;
        }
    }
    Ok(())
}

/// Writers that share storage transactions, one of which goes wrong: who was told that it worked finds its row, and what
/// is shown is what storage holds.
#[test]
fn writers_of_a_group_that_fails() -> Result<()> {
    for (fault, journal) in Fault::ALL.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        for n in 0..6 {
            block_on(async {
                let backend = Faulty::new(MemoryBackend::new()).with_journal(journal);
                let context = open(&backend).await?;
                sql(&context, "CREATE TABLE a (k INT PRIMARY KEY); CREATE TABLE b (k INT, v INT)").await?;
                sql(&context, "INSERT INTO a VALUES (-1); INSERT INTO b VALUES (-1, 0)").await?;
                backend.arm(n, fault, ErrorCode::StorageError);
                let texts: Vec<String> = (0..12)
                    .map(|k| match k % 3 {
                        0 => format!("INSERT INTO a VALUES ({k})"),
                        1 => format!("INSERT INTO b VALUES ({k}, 1)"),
                        _ => "UPDATE b SET v = v + 1 WHERE k = -1".to_owned(),
                    })
                    .collect();
                let outcomes = join_all(texts.iter().map(|text| sql(&context, text))).await;
                backend.disarm();
                let shown = show(&context).await?;
                let again = open(&backend.crash()).await?;
                assert_eq!(show(&again).await?, shown, "{fault:?} at call {n}");
                let has = |table: &str, k: usize| shown.tables[table].1.iter().any(|r| r[0] == k.to_string());
                let mut updates = 0;
                for (k, outcome) in outcomes.into_iter().enumerate() {
                    match outcome {
                        Ok(_) if k % 3 == 2 => updates += 1,
                        Ok(_) => {
                            let table = if k % 3 == 0 { "default.a" } else { "default.b" };
                            assert!(has(table, k), "{fault:?} at call {n}: {} was acknowledged", texts[k]);
                        }
                        Err(error) => assert_eq!(error.code(), ErrorCode::StorageError, "{error}"),
                    }
                }
                let counter = shown.tables["default.b"].1.iter().find(|r| r[0] == "-1").map(|r| int(&r[1]));
                let counter = counter.expect("the counter is there");
                assert!(
                    counter == updates || (fault == Fault::Lose && counter >= updates),
                    "{fault:?} at call {n}: {updates} updates acknowledged, {counter} there"
                );
                sql(&context, "INSERT INTO a VALUES (100); INSERT INTO b VALUES (100, 1)").await?;
                assert_eq!(show(&*open(&backend.crash()).await?).await?, show(&context).await?);
                Ok::<(), KalamError>(())
            })?;
        }
    }
    Ok(())
}
