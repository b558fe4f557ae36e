//! Every storage call of a workload goes wrong once in every way.
//!
//! The workload is a list of statements with what each does to an oracle in a few lines of Rust. For each statement,
//! each of its storage calls, and each fault: the statement runs on a database in the state before it, warm (everything
//! is in memory) or cold (the fault may meet the opening). Then it has either succeeded or ended in a typed error; the
//! engine shows the state before it or the state after it (before, where storage did nothing); what the engine shows is
//! what a process that starts on the same storage finds; and without reopening anything the workload goes on.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::executor::block_on;
use futures::future::join_all;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::ingest::{CsvOptions, Format};
use kalamdb::schema::{TableId, TableType};
use kalamdb::sql::{ExecuteOptions, ImportOptions, Importer, Params, StatementResult};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::{KalamDataType, Value};

#[path = "support/faulty.rs"]
mod faulty;

use faulty::{Fault, Faulty, Outcome};

type Rows = Vec<Vec<String>>;

/// What a database shows: the columns with their types and the sorted rows of every table and view, and the namespaces.
#[derive(Debug, Clone, Default, PartialEq)]
struct World {
    tables: BTreeMap<String, (Vec<String>, Rows)>,
    namespaces: BTreeSet<String>,
}

impl World {
    fn create(&mut self, table: &str, columns: &[&str]) {
        let columns = columns.iter().map(|c| (*c).to_owned()).collect();
        self.tables.insert(table.to_owned(), (columns, Vec::new()));
    }

    fn rows(&mut self, table: &str) -> &mut Rows {
        &mut self.tables.get_mut(table).expect("a table of the oracle").1
    }

    fn columns(&mut self, table: &str) -> &mut Vec<String> {
        &mut self.tables.get_mut(table).expect("a table of the oracle").0
    }

    fn add(&mut self, table: &str, rows: impl IntoIterator<Item = Vec<String>>) {
        let all = self.rows(table);
        all.extend(rows);
        all.sort();
    }

    fn each(&mut self, table: &str, change: impl Fn(&mut Vec<String>)) {
        let all = self.rows(table);
        all.iter_mut().for_each(change);
        all.sort();
    }

    fn keep(&mut self, table: &str, keep: impl Fn(&Vec<String>) -> bool) {
        self.rows(table).retain(keep);
    }
}

enum Work {
    Sql(String),
    /// A CSV file into a table, created if it is not there.
    Csv(&'static str, String),
}

struct Step {
    work: Work,
    change: Box<dyn Fn(&mut World) + Send + Sync>,
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn int(cell: &str) -> i64 {
    cell.parse().expect("an integer of the oracle")
}

/// The workload; see the module's comment.
fn workload() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut sql = |text: &str, change: fn(&mut World)| {
        steps.push(Step { work: Work::Sql(text.to_owned()), change: Box::new(change) });
    };
    sql("CREATE TABLE t (id INT PRIMARY KEY, name TEXT, n INT NOT NULL DEFAULT 7)", |w| {
        w.create("default.t", &["id INT", "name TEXT", "n INT"]);
    });
    sql("INSERT INTO t VALUES (1, 'one', 10), (2, 'two', 20), (3, 'three', 30)", |w| {
        w.add("default.t", [row(["1", "one", "10"]), row(["2", "two", "20"]), row(["3", "three", "30"])]);
    });
    sql("CREATE NAMESPACE shop", |w| {
        w.namespaces.insert("shop".into());
    });
    sql("CREATE TABLE shop.bag (a INT, b TEXT)", |w| w.create("shop.bag", &["a INT", "b TEXT"]));
    sql("INSERT INTO shop.bag VALUES (1, 'x'), (1, 'x'), (2, NULL)", |w| {
        w.add("shop.bag", [row(["1", "x"]), row(["1", "x"]), row(["2", "NULL"])]);
    });
    sql("INSERT INTO t (id, name) VALUES (4, 'four')", |w| w.add("default.t", [row(["4", "four", "7"])]));
    sql("UPDATE t SET n = n + 1", |w| w.each("default.t", |r| r[2] = (int(&r[2]) + 1).to_string()));
    sql("UPDATE shop.bag SET b = 'y' WHERE a = 1", |w| {
        w.each("shop.bag", |r| {
            if r[0] == "1" {
                r[1] = "y".into();
            }
        });
    });
    sql("DELETE FROM t WHERE id = 2", |w| w.keep("default.t", |r| r[0] != "2"));
    sql("CREATE VIEW big AS SELECT id, n FROM t WHERE n > 10", |w| w.create("default.big", &["id INT", "n INT"]));
    sql("ALTER TABLE t ADD COLUMN note TEXT DEFAULT 'none'", |w| {
        w.columns("default.t").push("note TEXT".into());
        w.each("default.t", |r| r.push("none".into()));
    });
    sql("INSERT INTO t VALUES (5, 'five', 50, 'new')", |w| w.add("default.t", [row(["5", "five", "50", "new"])]));
    sql("ALTER TABLE t RENAME COLUMN name TO title", |w| w.columns("default.t")[1] = "title TEXT".into());
    sql("UPDATE t SET id = id + 100 WHERE id >= 4", |w| {
        w.each("default.t", |r| {
            if int(&r[0]) >= 4 {
                r[0] = (int(&r[0]) + 100).to_string();
            }
        });
    });
    sql("ALTER TABLE t ALTER COLUMN id TYPE BIGINT", |w| w.columns("default.t")[0] = "id BIGINT".into());
    sql("INSERT INTO t VALUES (5000000000, 'far', 1, NULL)", |w| {
        w.add("default.t", [row(["5000000000", "far", "1", "NULL"])]);
    });
    sql("ALTER TABLE t DROP COLUMN note", |w| {
        w.columns("default.t").pop();
        w.each("default.t", |r| drop(r.pop()));
    });
    sql("CREATE TABLE copy AS SELECT id, n FROM t WHERE n > 10", |w| {
        w.create("default.copy", &["id BIGINT", "n INT"]);
        let rows: Rows = w.rows("default.t").iter().filter(|r| int(&r[2]) > 10).map(|r| row([&r[0], &r[2]])).collect();
        w.add("default.copy", rows);
    });
    sql("STORAGE FLUSH ALL", |_| {});
    sql("INSERT INTO t VALUES (200, 'hot', 9)", |w| w.add("default.t", [row(["200", "hot", "9"])]));
    // Rows of segments, of memory, and a key of each that moves.
    sql("UPDATE t SET n = n + 1", |w| w.each("default.t", |r| r[2] = (int(&r[2]) + 1).to_string()));
    sql("DELETE FROM t WHERE id = 3", |w| w.keep("default.t", |r| r[0] != "3"));
    sql("STORAGE FLUSH TABLE t", |_| {});
    sql("UPDATE t SET id = id + 1 WHERE id = 200", |w| {
        w.each("default.t", |r| {
            if r[0] == "200" {
                r[0] = "201".into();
            }
        });
    });
    sql("ALTER TABLE t ADD COLUMN extra INT DEFAULT 3", |w| {
        w.columns("default.t").push("extra INT".into());
        w.each("default.t", |r| r.push("3".into()));
    });
    sql("ALTER TABLE t DROP COLUMN extra", |w| {
        w.columns("default.t").pop();
        w.each("default.t", |r| drop(r.pop()));
    });
    sql("STORAGE COMPACT TABLE t", |_| {});
    sql("DELETE FROM t WHERE id = 201", |w| w.keep("default.t", |r| r[0] != "201"));
    sql("STORAGE COMPACT ALL", |_| {});
    sql("DELETE FROM shop.bag", |w| w.keep("shop.bag", |_| false));
    sql("INSERT INTO shop.bag SELECT id, title FROM t WHERE id < 1000", |w| {
        let rows: Rows =
            w.rows("default.t").iter().filter(|r| int(&r[0]) < 1000).map(|r| row([&r[0], &r[1]])).collect();
        w.add("shop.bag", rows);
    });
    sql("ALTER TABLE copy RENAME TO kept", |w| {
        let table = w.tables.remove("default.copy").expect("there");
        w.tables.insert("default.kept".into(), table);
    });
    sql("CREATE OR REPLACE VIEW big AS SELECT title FROM t WHERE n > 20", |w| w.create("default.big", &["title TEXT"]));
    let csv: String = (0..40).map(|n| format!("{n},row {n}\n")).collect();
    steps.push(Step {
        work: Work::Csv("shop.loaded", format!("k,v\n{csv}")),
        change: Box::new(|w| {
            w.create("shop.loaded", &["k BIGINT", "v TEXT"]);
            w.add("shop.loaded", (0..40).map(|n| vec![n.to_string(), format!("row {n}")]));
        }),
    });
    steps.push(Step {
        work: Work::Csv("shop.loaded", "k,v\n77,again\n".into()),
        change: Box::new(|w| w.add("shop.loaded", [row(["77", "again"])])),
    });
    // More than one stored value holds.
    let long: &'static str = Box::leak(
        (0..90_000u64)
            .map(|n| format!("{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
            .collect::<String>()
            .into_boxed_str(),
    );
    steps.push(Step {
        work: Work::Sql(format!("INSERT INTO shop.bag VALUES (9, '{long}')")),
        change: Box::new(move |w| w.add("shop.bag", [row(["9", long])])),
    });
    let mut sql = |text: &str, change: fn(&mut World)| {
        steps.push(Step { work: Work::Sql(text.to_owned()), change: Box::new(change) });
    };
    sql("DELETE FROM shop.bag WHERE a = 9", |w| w.keep("shop.bag", |r| r[0] != "9"));
    sql("DROP VIEW big", |w| drop(w.tables.remove("default.big")));
    sql("DROP TABLE shop.loaded", |w| drop(w.tables.remove("shop.loaded")));
    sql("CREATE TABLE shop.loaded (z INT PRIMARY KEY)", |w| w.create("shop.loaded", &["z INT"]));
    sql("DROP TABLE shop.loaded", |w| drop(w.tables.remove("shop.loaded")));
    sql("DROP TABLE shop.bag", |w| drop(w.tables.remove("shop.bag")));
    sql("DROP NAMESPACE shop", |w| {
        w.namespaces.remove("shop");
    });
    sql("UPDATE t SET title = 'end' WHERE id = 1", |w| {
        w.each("default.t", |r| {
            if r[0] == "1" {
                r[1] = "end".into();
            }
        });
    });
    steps
}

/// The views of the workload, computed as their definitions say.
fn with_views(mut world: World) -> World {
    let Some((columns, _)) = world.tables.get("default.big").cloned() else { return world };
    let t = world.rows("default.t").clone();
    if columns.len() == 2 {
        world.columns("default.big")[0] = world.columns("default.t")[0].clone();
    }
    let mut rows: Rows = if columns.len() == 2 {
        t.iter().filter(|r| int(&r[2]) > 10).map(|r| row([&r[0], &r[2]])).collect()
    } else {
        t.iter().filter(|r| int(&r[2]) > 20).map(|r| row([&r[1]])).collect()
    };
    rows.sort();
    *world.rows("default.big") = rows;
    world
}

async fn sql(context: &AppContext, text: &str) -> Result<Vec<StatementResult>> {
    context.executor().execute(context.session(), text, &Params::default(), &ExecuteOptions::default()).await
}

async fn open(backend: &Arc<Faulty>) -> Result<Arc<AppContext>> {
    AppContext::open(Arc::clone(backend) as _, Config { node_id: Some("n".into()), ..Config::default() }).await
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
    let mut out = Vec::new();
    for batch in &rows.batches {
        for row in 0..batch.num_rows() {
            let cell = |(array, field): (&arrow::array::ArrayRef, &Arc<arrow::datatypes::Field>)| {
                let value = Value::from_array(array.as_ref(), row, &KalamDataType::from_arrow_field(field)?)?;
                Ok(if value.is_null() { "NULL".to_owned() } else { value.to_text().into_owned() })
            };
            out.push(batch.columns().iter().zip(rows.schema.fields()).map(cell).collect::<Result<_>>()?);
        }
    }
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

/// Whether an error is one that a caller can understand, given the fault.
fn check_error(error: &KalamError, fault: Fault, code: ErrorCode, what: &str) {
    let fine = match fault {
        Fault::Corrupt => matches!(error.code(), ErrorCode::DataCorrupted | ErrorCode::UnsupportedFormat),
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
    fn new() -> Result<Self> {
        let steps = workload();
        block_on(async {
            let backend = Faulty::new(MemoryBackend::new());
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

const FAULTS: [Fault; 3] = [Fault::Fail, Fault::Lose, Fault::Corrupt];

#[test]
fn every_call_of_warm_statements() -> Result<()> {
    let course = Course::new()?;
    let fired = course.every_call(false, 0..course.steps.len(), &FAULTS)?;
    println!("{fired} faults in {} steps that make {} calls", course.steps.len(), course.calls);
    assert!(fired > 150, "{fired}");
    Ok(())
}

#[test]
fn every_call_of_an_opening_and_its_first_statement() -> Result<()> {
    let course = Course::new()?;
    // The opening makes the same calls each time: every third step is enough.
    let fired = course.every_call(true, (0..course.steps.len()).step_by(3), &FAULTS)?;
    println!("{fired} faults");
    assert!(fired > 150, "{fired}");
    Ok(())
}

/// Every n-th call of the whole workload goes wrong, in one engine that is never opened again; a statement that failed
/// is run again if it left nothing.
#[test]
fn a_workload_gets_through_a_storm() -> Result<()> {
    let course = Course::new()?;
    for fault in Fault::ALL {
        for every in [2, 3, 5, 7, 11] {
            // Every second call: nothing that needs two in a row gets through, so only the state is looked at.
            let what = format!("every {every}. call, {fault:?}");
            block_on(async {
                let backend = Faulty::new(MemoryBackend::new());
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
    for fault in Fault::ALL {
        for n in 0..6 {
            block_on(async {
                let backend = Faulty::new(MemoryBackend::new());
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
