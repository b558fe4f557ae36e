//! Tables that change while they have rows, against a simple oracle.
//!
//! Random ALTERs, inserts, updates and deletes run on three databases: one that stays open, one that is opened again
//! after every step (so that every row is read back from the log), and one in a few lines of Rust. They always show
//! the same.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError};
use kalamdb::sql::{ExecuteOptions, Params, StatementResult};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::{KalamDataType, Value};
use proptest::prelude::*;

mod support;

use support::{map_cells, text, values};

type Result<T, E = KalamError> = std::result::Result<T, E>;

struct Database {
    backend: Arc<MemoryBackend>,
    context: Arc<AppContext>,
    reopens: bool,
}

impl Database {
    fn open(reopens: bool) -> Result<Self> {
        let backend = Arc::new(MemoryBackend::new());
        let context = block_on(AppContext::open(Arc::clone(&backend) as _, Config::default()))?;
        Ok(Self { backend, context, reopens })
    }

    fn reopen(&mut self) -> Result<()> {
        block_on(self.context.close())?;
        self.backend = Arc::new(self.backend.reopen());
        self.context = block_on(AppContext::open(Arc::clone(&self.backend) as _, Config::default()))?;
        Ok(())
    }

    fn run(&mut self, sql: &str) -> Result<Vec<StatementResult>> {
        let (params, options) = (Params::default(), ExecuteOptions::default());
        let outcome = block_on(self.context.executor().execute(self.context.session(), sql, &params, &options));
        if self.reopens {
            self.reopen()?;
        }
        outcome
    }

    /// The rows of a query, as text, in the order that the query gives.
    fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let results = self.run(sql)?;
        let rows = results.into_iter().next_back().and_then(|r| r.rows).expect("a query gives rows");
        let cell = |value: &Value| (!value.is_null()).then(|| text(value));
        Ok(map_cells(values(&rows)?, cell))
    }
}

/// A column of the oracle.
#[derive(Debug, Clone)]
struct Column {
    name: String,
    ty: KalamDataType,
    default: Value,
    nullable: bool,
}

/// The table in a few lines: rows are rewritten at once by every change.
#[derive(Debug, Clone)]
struct Oracle {
    columns: Vec<Column>,
    rows: Vec<Vec<Value>>,
    /// Whether the first column is the primary key.
    keyed: bool,
}

impl Oracle {
    /// The rows as text, sorted.
    fn shown(&self) -> Vec<Vec<Option<String>>> {
        let cell = |v: &Value| (!v.is_null()).then(|| v.to_text().into_owned());
        let mut rows: Vec<Vec<_>> = self.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        rows.sort();
        rows
    }

    fn keys_differ(&self) -> bool {
        let mut keys: Vec<String> = self.rows.iter().map(|r| r[0].to_text().into_owned()).collect();
        keys.sort();
        keys.windows(2).all(|w| w[0] != w[1])
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add(Ty, Option<i8>, bool),
    Drop(u8),
    Rename(u8),
    Retype(u8, Ty),
    Default(u8, Option<i8>),
    Nullable(u8, bool),
    Insert(Vec<(i8, Option<i8>)>),
    Update(u8, Option<i8>, i8),
    Delete(i8),
    Rekey(i8),
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Ty {
    SmallInt,
    BigInt,
    Double,
    Decimal,
    Text,
}

impl Ty {
    fn data_type(self) -> KalamDataType {
        match self {
            Ty::SmallInt => KalamDataType::SmallInt,
            Ty::BigInt => KalamDataType::BigInt,
            Ty::Double => KalamDataType::Double,
            Ty::Decimal => KalamDataType::Decimal { precision: 12, scale: 1 },
            Ty::Text => KalamDataType::Text,
        }
    }
}

fn any_ty() -> impl Strategy<Value = Ty> {
    prop_oneof![Just(Ty::SmallInt), Just(Ty::BigInt), Just(Ty::Double), Just(Ty::Decimal), Just(Ty::Text)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let row = (any::<i8>(), any::<Option<i8>>());
    prop_oneof![
        3 => (any_ty(), any::<Option<i8>>(), prop::bool::weighted(0.8)).prop_map(|(t, d, n)| Step::Add(t, d, n)),
        1 => any::<u8>().prop_map(Step::Drop),
        1 => any::<u8>().prop_map(Step::Rename),
        5 => (any::<u8>(), any_ty()).prop_map(|(c, t)| Step::Retype(c, t)),
        1 => (any::<u8>(), any::<Option<i8>>()).prop_map(|(c, d)| Step::Default(c, d)),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(c, n)| Step::Nullable(c, n)),
        5 => prop::collection::vec(row, 1..4).prop_map(Step::Insert),
        3 => (any::<u8>(), any::<Option<i8>>(), any::<i8>()).prop_map(|(c, v, w)| Step::Update(c, v, w)),
        2 => any::<i8>().prop_map(Step::Delete),
        1 => any::<i8>().prop_map(Step::Rekey),
        1 => Just(Step::Reopen),
    ]
}

/// A number with a fraction, so that types differ in what they make of it; as a literal that every type takes.
fn number(n: i8) -> Value {
    Value::Text(if n % 3 == 0 { format!("{}", i32::from(n) / 2) } else { format!("{}.5", n / 2) })
}

/// The number as a column of a type takes it from text: integers take no fraction.
fn literal(n: Option<i8>, ty: &KalamDataType) -> Value {
    let Some(n) = n else { return Value::Null };
    match ty {
        KalamDataType::SmallInt | KalamDataType::BigInt => Value::Text((n / 2).to_string()),
        _ => number(n),
    }
}

fn quoted(value: &Value) -> String {
    if value.is_null() { "NULL".into() } else { format!("'{}'", value.to_text()) }
}

/// What a step is in SQL, and what it leaves of the oracle: a code if it has to fail.
fn meaning(step: &Step, at: usize, oracle: &Oracle) -> (String, Result<Oracle, ErrorCode>) {
    let mut next = oracle.clone();
    let pick = |n: u8| n as usize % oracle.columns.len();
    match step {
        Step::Add(ty, default, nullable) => {
            let (ty, name) = (ty.data_type(), format!("c{at}"));
            let default = literal(*default, &ty);
            let mut sql = format!("ALTER TABLE t ADD COLUMN {name} {ty}");
            if !default.is_null() {
                sql += &format!(" DEFAULT {}", quoted(&default));
            }
            sql += if *nullable { "" } else { " NOT NULL" };
            if !nullable && default.is_null() && !oracle.rows.is_empty() {
                return (sql, Err(ErrorCode::NotNullViolation));
            }
            let default = default.coerce(&ty).expect("a literal of the type");
            next.rows.iter_mut().for_each(|row| row.push(default.clone()));
            next.columns.push(Column { name, ty, default, nullable: *nullable });
            (sql, Ok(next))
        }
        Step::Drop(n) => {
            let n = pick(*n);
            let sql = format!("ALTER TABLE t DROP COLUMN {}", oracle.columns[n].name);
            if oracle.columns.len() == 1 || (n == 0 && oracle.keyed) {
                return (sql, Err(ErrorCode::InvalidDefinition));
            }
            next.columns.remove(n);
            next.rows.iter_mut().for_each(|row| drop(row.remove(n)));
            (sql, Ok(next))
        }
        Step::Rename(n) => {
            let n = pick(*n);
            next.columns[n].name = format!("r{at}");
            (format!("ALTER TABLE t RENAME COLUMN {} TO r{at}", oracle.columns[n].name), Ok(next))
        }
        Step::Retype(n, ty) => {
            let (n, ty) = (pick(*n), ty.data_type());
            let sql = format!("ALTER TABLE t ALTER COLUMN {} TYPE {ty}", oracle.columns[n].name);
            let convert = |value: &Value| value.coerce(&ty).map_err(|e| e.code());
            if oracle.columns[n].ty == ty {
                return (sql, Ok(next));
            }
            next.columns[n].ty = ty;
            match convert(&next.columns[n].default) {
                Ok(default) => next.columns[n].default = default,
                Err(code) => return (sql, Err(code)),
            }
            for row in &mut next.rows {
                match convert(&row[n]) {
                    Ok(value) => row[n] = value,
                    Err(code) => return (sql, Err(code)),
                }
            }
            if n == 0 && next.keyed && !next.keys_differ() {
                return (sql, Err(ErrorCode::UniqueViolation));
            }
            (sql, Ok(next))
        }
        Step::Default(n, default) => {
            let column = &mut next.columns[pick(*n)];
            let default = literal(*default, &column.ty);
            let sql = match default.is_null() {
                true => format!("ALTER TABLE t ALTER COLUMN {} DROP DEFAULT", column.name),
                false => format!("ALTER TABLE t ALTER COLUMN {} SET DEFAULT {}", column.name, quoted(&default)),
            };
            column.default = default.coerce(&column.ty).expect("a literal of the type");
            (sql, Ok(next))
        }
        Step::Nullable(n, nullable) => {
            let n = pick(*n);
            let verb = if *nullable { "DROP" } else { "SET" };
            let sql = format!("ALTER TABLE t ALTER COLUMN {} {verb} NOT NULL", oracle.columns[n].name);
            if *nullable && n == 0 && oracle.keyed {
                return (sql, Err(ErrorCode::InvalidDefinition));
            }
            if !nullable && oracle.rows.iter().any(|r| r[n].is_null()) {
                return (sql, Err(ErrorCode::NotNullViolation));
            }
            next.columns[n].nullable = *nullable;
            (sql, Ok(next))
        }
        Step::Insert(rows) => {
            // The first column and the last one are given, the others get their defaults.
            let last = oracle.columns.len() - 1;
            let mut names = vec![oracle.columns[0].name.as_str()];
            names.extend((last > 0).then(|| oracle.columns[last].name.as_str()));
            let mut tuples = Vec::new();
            let mut code = None;
            for (first, other) in rows {
                let mut row: Vec<Value> = oracle.columns.iter().map(|c| c.default.clone()).collect();
                let mut given = vec![literal(Some(*first), &oracle.columns[0].ty)];
                if last > 0 {
                    given.push(literal(*other, &oracle.columns[last].ty));
                }
                tuples.push(format!("({})", given.iter().map(quoted).collect::<Vec<_>>().join(", ")));
                for (value, n) in given.iter().zip([0, last]) {
                    row[n] = value.coerce(&oracle.columns[n].ty).expect("a literal of the type");
                }
                if row.iter().zip(&oracle.columns).any(|(v, c)| v.is_null() && !c.nullable) {
                    code = Some(ErrorCode::NotNullViolation);
                }
                next.rows.push(row);
            }
            if code.is_none() && next.keyed && !next.keys_differ() {
                code = Some(ErrorCode::UniqueViolation);
            }
            let sql = format!("INSERT INTO t ({}) VALUES {}", names.join(", "), tuples.join(", "));
            (sql, code.map_or(Ok(next), Err))
        }
        Step::Update(n, value, whose) => {
            // Not the key: that is Rekey.
            let n = pick(*n);
            if n == 0 {
                return ("SELECT 1".into(), Ok(next));
            }
            let (column, first) = (&oracle.columns[n], &oracle.columns[0]);
            let value = literal(*value, &column.ty);
            let whose = literal(Some(*whose), &first.ty).coerce(&first.ty).expect("a literal of the type");
            let sql = format!(
                "UPDATE t SET {} = {} WHERE {} = CAST({} AS {})",
                column.name,
                quoted(&value),
                first.name,
                quoted(&whose),
                first.ty
            );
            let value = value.coerce(&column.ty).expect("a literal of the type");
            let hit: Vec<usize> = (0..next.rows.len()).filter(|&i| next.rows[i][0] == whose).collect();
            if !hit.is_empty() && value.is_null() && !column.nullable {
                return (sql, Err(ErrorCode::NotNullViolation));
            }
            hit.into_iter().for_each(|i| next.rows[i][n] = value.clone());
            (sql, Ok(next))
        }
        Step::Delete(whose) => {
            let first = &oracle.columns[0];
            let whose = literal(Some(*whose), &first.ty).coerce(&first.ty).expect("a literal of the type");
            next.rows.retain(|row| row[0] != whose);
            (format!("DELETE FROM t WHERE {} = CAST({} AS {})", first.name, quoted(&whose), first.ty), Ok(next))
        }
        Step::Rekey(whose) => {
            // Every key becomes another, which some other row may have just given up.
            let first = &oracle.columns[0];
            if first.ty != KalamDataType::BigInt {
                return ("SELECT 1".into(), Ok(next));
            }
            let by = i64::from(*whose) % 3 + 1;
            for row in &mut next.rows {
                if let Value::BigInt(n) = &mut row[0] {
                    *n += by;
                }
            }
            (format!("UPDATE t SET {0} = {0} + {by}", first.name), Ok(next))
        }
        Step::Reopen => ("SELECT 1".into(), Ok(next)),
    }
}

fn check(keyed: bool, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut open = Database::open(false)?;
    let mut reopened = Database::open(true)?;
    let create = format!("CREATE TABLE t (id DECIMAL(12,1){}, v TEXT)", if keyed { " PRIMARY KEY" } else { "" });
    let column = |name: &str, ty, nullable| Column { name: name.into(), ty, default: Value::Null, nullable };
    let mut oracle = Oracle {
        columns: vec![
            column("id", KalamDataType::Decimal { precision: 12, scale: 1 }, !keyed),
            column("v", KalamDataType::Text, true),
        ],
        rows: Vec::new(),
        keyed,
    };
    open.run(&create)?;
    reopened.run(&create)?;
    for (at, step) in steps.iter().enumerate() {
        let (sql, expected) = meaning(step, at, &oracle);
        for database in [&mut open, &mut reopened] {
            let outcome = database.run(&sql).map(|_| ()).map_err(|e| (e.code(), e));
            match (&expected, outcome) {
                (Ok(_), Ok(())) => {}
                (Err(code), Err((found, _))) if *code == found => {}
                (expected, outcome) => {
                    prop_assert!(false, "{at}: {sql}: expected {:?}, got {outcome:?}", expected.as_ref().err());
                }
            }
        }
        if let Ok(next) = expected {
            oracle = next;
        }
        if matches!(step, Step::Reopen) {
            open.reopen()?;
        }
        for database in [&mut open, &mut reopened] {
            let mut rows = database.rows("SELECT * FROM t")?;
            rows.sort();
            prop_assert_eq!(rows, oracle.shown(), "after {}: {}, reopened: {}", at, &sql, database.reopens);
            // Each row is found by its key, too.
            if let Some(row) = oracle.rows.iter().find(|r| !r[0].is_null()) {
                let first = &oracle.columns[0];
                let sql =
                    format!("SELECT count(*) FROM t WHERE {} = CAST({} AS {})", first.name, quoted(&row[0]), first.ty);
                let same = oracle.rows.iter().filter(|r| r[0] == row[0]).count().to_string();
                prop_assert_eq!(database.rows(&sql)?, vec![vec![Some(same)]], "{}", sql);
            }
        }
    }
    Ok(())
}

/// PROPTEST_CASES asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(32)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_of_every_version_show_as_the_alters_left_them(
        keyed: bool,
        steps in prop::collection::vec(any_step(), 1..30),
    ) {
        check(keyed, &steps)?;
    }
}

#[test]
fn sixty_versions_of_one_table() -> Result<()> {
    let mut database = Database::open(false)?;
    database.run("CREATE TABLE t (id INT PRIMARY KEY)")?;
    database.run("INSERT INTO t VALUES (0)")?;
    for n in 1..=60 {
        database.run(&format!("ALTER TABLE t ADD COLUMN c{n} INT DEFAULT {n}"))?;
        database.run(&format!("INSERT INTO t (id) VALUES ({n})"))?;
    }
    for _ in 0..2 {
        assert_eq!(
            database.rows("SELECT sum(c1), sum(c30), sum(c60), count(*) FROM t")?,
            [["61", "1830", "3660", "61"].map(|s| Some(s.to_owned()))]
        );
        let history = database.rows("DESCRIBE t HISTORY")?;
        assert_eq!(history.len(), 61);
        let shown = |row: &[Option<String>]| [0, 2, 3].map(|i| row[i].clone().unwrap_or_default());
        assert_eq!(shown(&history[0]), ["1", "default", "created"]);
        assert_eq!(shown(&history[60]), ["61", "default", "added column 'c60' INT"]);
        database.reopen()?;
    }
    Ok(())
}

#[test]
fn views_and_names_survive_reopening() -> Result<()> {
    let mut database = Database::open(true)?;
    database.run("CREATE NAMESPACE shop")?;
    database.run("CREATE TABLE shop.t (id INT PRIMARY KEY, v TEXT)")?;
    database.run("INSERT INTO shop.t VALUES (1, 'a')")?;
    database.run("CREATE VIEW shop.v AS SELECT * FROM shop.t")?;
    database.run("CREATE VIEW w AS SELECT upper(v) AS u FROM shop.v")?;
    database.run("ALTER TABLE shop.t ADD COLUMN more INT DEFAULT 3")?;
    database.run("ALTER TABLE shop.t RENAME TO u")?;
    assert_eq!(database.run("SELECT * FROM w").expect_err("gone").code(), ErrorCode::ViewDependencyMissing);
    database.run("ALTER TABLE shop.u RENAME TO t")?;
    assert_eq!(database.rows("SELECT * FROM w")?, [[Some("A".to_owned())]]);
    assert_eq!(database.rows("SELECT * FROM shop.v")?, [["1", "a"].map(|s| Some(s.to_owned()))]);
    Ok(())
}

#[test]
fn alters_and_writers_at_once() -> Result<()> {
    let database = Database::open(false)?;
    let (params, options) = (Params::default(), ExecuteOptions::default());
    let run = |sql: String| {
        let (context, params, options) = (Arc::clone(&database.context), &params, &options);
        async move { context.executor().execute(context.session(), &sql, params, options).await.map(|_| ()) }
    };
    block_on(async {
        run("CREATE TABLE t (id DOUBLE PRIMARY KEY, n INT)".into()).await?;
        let mut all = Vec::new();
        for n in 0..40 {
            all.push(run(format!("INSERT INTO t (id) VALUES ({n})")));
            all.push(run(format!("UPDATE t SET n = {n} WHERE id = {}", n / 2)));
            if n % 5 == 0 {
                let ty = if n % 10 == 0 { "BIGINT" } else { "TEXT" };
                all.push(run(format!("ALTER TABLE t ADD COLUMN c{n} INT DEFAULT {n}, ALTER COLUMN id TYPE {ty}")));
            }
        }
        for outcome in futures::future::join_all(all).await {
            // An UPDATE that compares a number with a key that is text by now may be refused; nothing else may fail.
            if let Err(error) = outcome {
                assert!(error.code() != ErrorCode::Conflict && error.code() != ErrorCode::Internal, "{error}");
            }
        }
        Ok::<_, KalamError>(())
    })?;
    let mut database = database;
    for _ in 0..2 {
        let rows = database.rows("SELECT count(*), count(DISTINCT id), min(c0), min(c35) FROM t")?;
        assert_eq!(rows, [["40", "40", "0", "35"].map(|s| Some(s.to_owned()))]);
        database.reopen()?;
    }
    Ok(())
}
