//! A row that is given at once is the row that running its query gives.
//!
//! Random scripts change tables in every way that could make what is kept of a query untrue; after each step every query is
//! asked for its row at once, as every session, and then run.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use arrow::array::Int32Array;
use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::schema::Role;
use kalamdb::sql::{ExecuteOptions, Params, Session, packed};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::{KalamDataType, Value};
use proptest::prelude::*;

const SETUP: &str = "CREATE SHARED TABLE one (id INT PRIMARY KEY, name TEXT, n DOUBLE);
    CREATE SHARED TABLE two (a TEXT, b BIGINT, v TEXT, w DECIMAL(9, 2), PRIMARY KEY (b, a));
    CREATE USER TABLE mine (id BIGINT PRIMARY KEY, v BYTES, t TIMESTAMP);
    CREATE NAMESPACE other; CREATE SHARED TABLE other.one (id INT PRIMARY KEY, note TEXT);
    INSERT INTO other.one VALUES (3, 'another table');
    CREATE SHARED TABLE words (w TEXT PRIMARY KEY, n INT);
    CREATE SHARED TABLE listed (id INT PRIMARY KEY, owner INT, name TEXT, kind SMALLINT);
    CREATE INDEX listed_owner ON listed (owner DESC, name); CREATE INDEX listed_kind ON listed (kind);
    INSERT INTO listed SELECT v, v % 5, 'k' || (v % 3), v % 7 FROM generate_series(0, 39) AS g(v);
    INSERT INTO one SELECT value, 'n' || value, value / 2.0 FROM generate_series(0, 9) AS g(value);
    INSERT INTO two SELECT 'k' || (value % 3), value, 'v', value FROM generate_series(0, 9) AS g(value);
    INSERT INTO mine SELECT value, NULL, NULL FROM generate_series(0, 5) AS g(value)";

/// The parameters of a query.
#[derive(Clone, Copy)]
enum Given {
    Number,
    NumberAndText,
    Numbers,
    Texts,
}

const QUERIES: [(&str, Given); 18] = [
    ("SELECT * FROM one WHERE id = $1", Given::Number),
    ("SELECT name, id AS key FROM one AS o WHERE ($1 = o.id)", Given::Number),
    ("SELECT v, w FROM two WHERE b = $1 AND a = $2", Given::NumberAndText),
    ("SELECT * FROM two WHERE a = $2 AND b = $1", Given::NumberAndText),
    ("SELECT * FROM mine WHERE id = $1", Given::Number),
    ("SELECT v FROM two WHERE b = $1", Given::Number),
    ("SELECT * FROM one WHERE id >= $1 AND id < $2", Given::Numbers),
    ("SELECT id, n FROM one o WHERE o.id <= $2 AND ($1 < o.id)", Given::Numbers),
    ("SELECT * FROM mine WHERE id BETWEEN $1 AND $2", Given::Numbers),
    ("SELECT id FROM one WHERE id > $1", Given::Number),
    ("SELECT * FROM two WHERE b > $1 AND b < $2", Given::Numbers),
    ("SELECT * FROM words WHERE w > $1 AND w <= $2", Given::Texts),
    ("SELECT n FROM words WHERE w >= $2 AND w < $1", Given::Texts),
    ("SELECT * FROM one WHERE id > $1 AND n < $2", Given::Numbers),
    ("SELECT * FROM listed WHERE owner = $1", Given::Number),
    ("SELECT id, name FROM listed WHERE name = $2 AND owner = $1", Given::NumberAndText),
    ("SELECT id FROM listed WHERE owner = $1 AND id = $2", Given::Numbers),
    ("SELECT id FROM listed WHERE kind = $1", Given::Number),
];

/// Keys that begin with each other, and with what a key's encoding ends with.
const WORDS: [&str; 7] = ["", "a", "a\u{0}", "a\u{0}b", "aa", "b", "ż"];

struct Database {
    backend: Arc<MemoryBackend>,
    context: Arc<AppContext>,
    sessions: [Session; 2],
    options: ExecuteOptions,
}

impl Database {
    async fn open(backend: Arc<MemoryBackend>) -> Self {
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await.expect("it opens");
        let sessions = [Session::new("ann"), Session::with_role("bob", Role::User)];
        Self { backend, context, sessions, options: ExecuteOptions::default() }
    }

    async fn step(&mut self, sql: &str) {
        if sql == "reopen" {
            *self = Self::open(Arc::clone(&self.backend)).await;
            return;
        }
        let (session, sql) = match sql.strip_prefix("bob: ") {
            Some(sql) => (&self.sessions[1], sql),
            None => (&self.sessions[0], sql),
        };
        // Some fail, which is their good right.
        let _ = self.context.executor().execute(session, sql, &Params::default(), &self.options).await;
    }

    async fn check(&self, number: i64) {
        for session in &self.sessions {
            for (sql, given) in QUERIES {
                let word = |n: i64| Value::Text(WORDS[n as usize % WORDS.len()].to_owned());
                let values = match given {
                    Given::Number => vec![Value::BigInt(number)],
                    Given::NumberAndText => vec![Value::BigInt(number), Value::Text(format!("k{}", number % 3))],
                    Given::Numbers => vec![Value::BigInt(number), Value::BigInt(number + number % 5)],
                    Given::Texts => vec![word(number), word(number * 5 + 1)],
                };
                self.compare(session, sql, Params::Positional(values)).await;
            }
        }
    }

    async fn compare(&self, session: &Session, sql: &str, params: Params) {
        let executor = self.context.executor();
        let found = executor.point_get(session, sql, || Some(params.clone()));
        let outcome = executor.execute(session, sql, &params, &self.options).await;
        let Some(found) = found else { return };
        let results = outcome.unwrap_or_else(|error| panic!("{sql} with {params:?}: {error}"));
        let rows = results[0].rows.as_ref().expect("rows");
        assert_eq!(found.schema(), &rows.schema, "{sql}");
        let types: Vec<KalamDataType> =
            rows.schema.fields().iter().map(|f| KalamDataType::from_arrow_field(f).expect("a type of ours")).collect();
        let packed = packed::encode(rows, &types).expect("rows of these types");
        let found = found.pack(&types).expect("a row of these types");
        assert_eq!(Vec::from_iter(found), packed, "{sql} with {params:?} as {}", session.user());
    }
}

fn step() -> impl Strategy<Value = String> {
    let key = || 0..12i64;
    prop_oneof![
        4 => (key(), key()).prop_map(|(k, n)| format!("UPDATE one SET n = {n}, name = NULL WHERE id = {k}")),
        2 => key().prop_map(|k| format!("DELETE FROM one WHERE id = {k}")),
        2 => key().prop_map(|k| format!("INSERT INTO one (id, name) VALUES ({k}, 'new')")),
        2 => key().prop_map(|k| format!("UPDATE two SET v = 'x{k}', w = NULL WHERE b = {k}")),
        2 => key().prop_map(|k| format!("DELETE FROM two WHERE b > {k}")),
        2 => key().prop_map(|k| format!("INSERT INTO two SELECT 'k' || (v % 3), v, 'z', v FROM generate_series({k}, 11) g(v)")),
        2 => key().prop_map(|k| format!("bob: INSERT INTO mine VALUES ({k}, '\\x01ff', '2026-01-01T00:00:00.000001Z')")),
        2 => key().prop_map(|k| format!("UPDATE mine SET v = '\\x02' WHERE id = {k}")),
        2 => key().prop_map(|k| format!("UPDATE listed SET owner = {k}, name = 'k1' WHERE id % 12 = {k}")),
        2 => key().prop_map(|k| format!("DELETE FROM listed WHERE id % 12 = {k}")),
        2 => key().prop_map(|k| format!("INSERT INTO listed VALUES ({k}, {k}, NULL, {k}), (50 + {k}, NULL, 'k2', 3)")),
        1 => Just("DROP INDEX listed_owner; CREATE INDEX listed_owner ON listed (name, owner)".to_owned()),
        1 => Just("STORAGE COMPACT TABLE listed".to_owned()),
        1 => Just("ALTER TABLE listed ALTER COLUMN owner SET DATA TYPE BIGINT".to_owned()),
        1 => key().prop_map(|k| format!("DELETE FROM words WHERE n = {k}")),
        2 => key().prop_map(|k| format!("INSERT INTO words VALUES ('{}', {k})", WORDS[k as usize % WORDS.len()])),
        6 => Just("STORAGE FLUSH ALL".to_owned()),
        2 => Just("STORAGE COMPACT TABLE one".to_owned()),
        1 => Just("TRUNCATE one".to_owned()),
        1 => Just("BEGIN".to_owned()),
        1 => Just("COMMIT".to_owned()),
        1 => Just("ROLLBACK".to_owned()),
        1 => Just("bob: BEGIN".to_owned()),
        1 => Just("bob: ROLLBACK".to_owned()),
        1 => Just("ALTER TABLE one ADD COLUMN extra INT DEFAULT 7".to_owned()),
        1 => Just("ALTER TABLE one DROP COLUMN extra".to_owned()),
        1 => Just("ALTER TABLE one ALTER COLUMN id SET DATA TYPE BIGINT".to_owned()),
        1 => Just("ALTER TABLE one ALTER COLUMN n SET DATA TYPE TEXT".to_owned()),
        1 => Just("ALTER TABLE two RENAME COLUMN v TO was; ALTER TABLE two ADD COLUMN v TEXT DEFAULT 'added'".to_owned()),
        1 => Just("DROP TABLE one; CREATE SHARED TABLE one (name TEXT, id TEXT PRIMARY KEY)".to_owned()),
        1 => Just("DROP TABLE one; CREATE SHARED TABLE one (name TEXT, id INT PRIMARY KEY, n INT)".to_owned()),
        1 => Just("DROP TABLE one; CREATE VIEW one AS SELECT 1 AS id, 'view' AS name".to_owned()),
        1 => Just("USE other".to_owned()),
        1 => Just("USE \"default\"".to_owned()),
        1 => Just("reopen".to_owned()),
    ]
}

fn run(script: &[(String, i64)]) {
    block_on(async {
        let mut database = Database::open(Arc::new(MemoryBackend::new())).await;
        database.step(SETUP).await;
        for (sql, number) in script {
            database.step(sql).await;
            // The second time what the first one kept and read is there.
            for _ in 0..2 {
                database.check(*number).await;
            }
            database.check(3).await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_the_query_gives(script in prop::collection::vec((step(), 0..12i64), 1..20)) {
        run(&script);
    }
}

/// What the test above compares is there, and what is left to the run: hot and cold rows are given at once, and keys without one.
#[test]
fn rows_are_given_at_once() {
    block_on(async {
        let mut database = Database::open(Arc::new(MemoryBackend::new())).await;
        database.step(SETUP).await;
        let get = |database: &Database, n: i64| {
            let params = || Some(Params::Positional(vec![Value::BigInt(n)]));
            let found = database.context.executor().point_get(&database.sessions[0], QUERIES[0].0, params);
            found.map(|found| {
                let types = [KalamDataType::Int, KalamDataType::Text, KalamDataType::Double];
                found.pack(&types).expect("a row").is_some()
            })
        };
        assert_eq!(get(&database, 3), None, "no query has run");
        database.check(3).await;
        assert_eq!([get(&database, 3), get(&database, 99)], [Some(true), Some(false)]);
        database.step("STORAGE FLUSH ALL").await;
        assert_eq!(get(&database, 3), None, "nothing of the segment has been read");
        // After some reads by page the columns of a row group are kept.
        for _ in 0..8 {
            database.check(3).await;
        }
        assert_eq!([get(&database, 3), get(&database, 99)], [Some(true), Some(false)]);
        let typed = |value| {
            let params = || Some(Params::Positional(vec![value]));
            database.context.executor().point_get(&database.sessions[0], QUERIES[0].0, params).is_some()
        };
        assert!(!typed(Value::Text("3".into())) && !typed(Value::Double(3.0)) && !typed(Value::Null));
        let range = |most| {
            let params = || Some(Params::Positional(vec![Value::BigInt(4), Value::BigInt(most)]));
            database.context.executor().point_get(&database.sessions[0], QUERIES[6].0, params)
        };
        let types = [KalamDataType::Int, KalamDataType::Text, KalamDataType::Double];
        let packed = range(7).and_then(|found| found.pack(&types).expect("rows")).expect("rows that are known");
        let columns: Vec<(&str, KalamDataType)> = types.iter().map(|data_type| ("c", *data_type)).collect();
        let (columns, rows) = packed::decode(&packed, &columns).expect("what was packed");
        assert_eq!((rows, format!("{:?}", columns[0])), (3, format!("{:?}", Int32Array::from(vec![4, 5, 6]))));
        assert!(range(3).is_some_and(|found| found.pack(&types).expect("nothing").is_none()), "bounds that cross");
        let owned = |database: &Database| {
            let params = || Some(Params::Positional(vec![Value::BigInt(3)]));
            let found = database.context.executor().point_get(&database.sessions[0], QUERIES[14].0, params)?;
            let columns = [KalamDataType::Int, KalamDataType::Int, KalamDataType::Text, KalamDataType::SmallInt];
            let packed = found.pack(&columns).expect("rows")?;
            let columns: Vec<(&str, KalamDataType)> = columns.iter().map(|data_type| ("c", *data_type)).collect();
            Some(packed::decode(&packed, &columns).expect("what was packed").1)
        };
        assert_eq!(owned(&database), Some(8), "rows of a segment's index");
        database.step("INSERT INTO listed VALUES (100, 3, 'new', 1)").await;
        database.check(3).await;
        assert_eq!(owned(&database), Some(9), "and of the one in memory");
        database.step("BEGIN").await;
        assert_eq!(get(&database, 3), None, "a transaction is open");
    });
}
