//! Users do not meet in USER tables, whatever statement they try.
//!
//! One test lets a user try every kind of statement on another one's rows and looks for anything of them in what comes
//! back. Another runs random statements of several users, in sessions of their own and by EXECUTE AS USER, beside one
//! map for each user.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::ingest::{CsvOptions, Format};
use kalamdb::schema::{Role, TableId};
use kalamdb::sql::{ExecuteOptions, ImportOptions, Importer, Params, Session, insert_columns};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;
use proptest::prelude::*;

mod support;

use support::{map_cells, open_copy as open, text, values};

/// What the last statement of a text gave: its rows as text, or how many it changed.
async fn run_with(
    context: &AppContext,
    session: &Session,
    sql: &str,
    params: &Params,
    options: &ExecuteOptions,
) -> Result<Vec<Vec<String>>> {
    let results = context.executor().execute(session, sql, params, options).await?;
    let Some(last) = results.last() else { return Ok(Vec::new()) };
    let Some(rows) = &last.rows else { return Ok(vec![vec![format!("{} rows", last.rows_affected)]]) };
    Ok(map_cells(values(rows)?, text))
}

async fn run(context: &AppContext, session: &Session, sql: &str) -> Result<Vec<Vec<String>>> {
    run_with(context, session, sql, &Params::default(), &ExecuteOptions::default()).await
}

/// Two users with rows, a view, and a table for both. The secret numbers are long: no `_seq` or time holds one by chance.
async fn setting(context: &AppContext) -> Result<()> {
    run(
        context,
        context.session(),
        "CREATE USER TABLE notes (id INT PRIMARY KEY, text TEXT, n INT);
         CREATE USER TABLE bag (text TEXT, n INT);
         CREATE TABLE wall (id INT PRIMARY KEY, text TEXT);
         CREATE VIEW mine AS SELECT * FROM notes;
         CREATE VIEW counted AS SELECT count(*) AS n, max(text) AS most FROM mine;
         EXECUTE AS USER 'alice' (INSERT INTO notes VALUES (1, 'alice-1', 987654101), (2, 'alice-2', 987654102));
         EXECUTE AS USER 'alice' (INSERT INTO bag VALUES ('alice-3', 987654103));
         EXECUTE AS USER 'bob' (INSERT INTO notes VALUES (1, 'bob-1', 201));
         EXECUTE AS USER 'bob' (INSERT INTO bag VALUES ('bob-3', 203))",
    )
    .await?;
    Ok(())
}

/// Everything that bob may try. None of it may show or change what is alice's.
const ATTEMPTS: &[&str] = &[
    "SELECT * FROM notes",
    "SELECT * FROM notes WHERE id = 2",
    "SELECT * FROM notes WHERE id IN (1, 2)",
    "SELECT text FROM notes WHERE n > 0 ORDER BY id DESC LIMIT 5",
    "SELECT _seq, * FROM notes",
    "SELECT _rowid, _seq, text FROM bag",
    "SELECT * FROM mine",
    "SELECT * FROM counted",
    "SELECT * FROM default.mine m JOIN notes n ON m.id = n.id",
    "SELECT a.text, b.text FROM notes a CROSS JOIN bag b",
    "SELECT a.text FROM notes a FULL JOIN bag b ON a.n = b.n",
    "SELECT (SELECT max(text) FROM notes) AS m",
    "SELECT * FROM wall WHERE EXISTS (SELECT 1 FROM notes WHERE text LIKE 'alice%')",
    "SELECT text FROM notes WHERE n = ANY (SELECT n FROM bag)",
    "WITH x AS (SELECT * FROM notes) SELECT * FROM x",
    "WITH RECURSIVE x AS (SELECT id, text FROM notes UNION ALL SELECT id + 1, text FROM x WHERE id < 3) SELECT * FROM x",
    "SELECT text FROM notes UNION SELECT text FROM bag",
    "SELECT text FROM notes EXCEPT SELECT 'bob-1'",
    "SELECT count(*), min(text), max(text), sum(n) FROM notes GROUP BY ROLLUP (id)",
    "SELECT text, row_number() OVER (ORDER BY n) FROM notes",
    "EXPLAIN SELECT * FROM notes",
    "EXPLAIN ANALYZE SELECT * FROM notes WHERE text LIKE 'alice%'",
    "EXPLAIN UPDATE notes SET n = 0",
    "EXPLAIN DELETE FROM bag",
    "DESCRIBE notes",
    "DESCRIBE notes HISTORY",
    "SHOW TABLES",
    "SHOW COLUMNS FROM bag",
    "SELECT * FROM system.tables",
    "SELECT * FROM system.columns",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM system.stats",
    "SELECT * FROM system.audit_logs",
    "SELECT * FROM system.users",
    "SELECT * FROM system.live_queries",
    "SHOW STATS",
    "INSERT INTO notes VALUES (2, 'bob-2', 202) RETURNING *",
    "INSERT INTO notes VALUES (2, 'bob-2', 202)",
    "INSERT INTO notes VALUES (1, 'x', 0)",
    "INSERT INTO notes SELECT id + 10, text, n FROM notes RETURNING id, text",
    "INSERT INTO bag SELECT text, n FROM notes",
    "INSERT INTO wall SELECT id, text FROM notes",
    "SELECT * FROM wall",
    "UPDATE notes SET text = text || '!' RETURNING *",
    "UPDATE notes SET text = 'bob' WHERE id = 2 RETURNING text",
    "UPDATE notes SET text = b.text FROM bag b WHERE b.n > 0 RETURNING notes.text",
    "UPDATE wall SET text = notes.text FROM notes WHERE notes.id = wall.id RETURNING wall.text",
    "UPDATE bag SET n = (SELECT max(n) FROM notes) RETURNING n",
    "UPDATE notes SET id = id + 1",
    "WITH x AS (SELECT id FROM notes) UPDATE notes SET n = 1 WHERE id IN (SELECT id FROM x)",
    "DELETE FROM notes USING bag WHERE notes.n <> bag.n RETURNING notes.text",
    "WITH x AS (SELECT text FROM bag) DELETE FROM bag WHERE text IN (SELECT text FROM x) RETURNING *",
    "DELETE FROM notes WHERE id = 1 RETURNING *",
    "DELETE FROM notes RETURNING *",
    "DELETE FROM bag RETURNING *",
    "EXECUTE AS USER 'alice' (SELECT * FROM notes)",
    "EXECUTE AS USER 'alice' (DELETE FROM notes)",
    "EXECUTE AS USER 'bob' (EXECUTE AS USER 'alice' (SELECT * FROM notes))",
    "EXPLAIN EXECUTE AS USER 'alice' (SELECT * FROM notes)",
    "CREATE TABLE copy AS SELECT * FROM notes",
    "CREATE VIEW theirs AS SELECT * FROM notes",
    "ALTER TABLE notes ADD COLUMN x INT",
    "ALTER TABLE notes ALTER COLUMN text SET NOT NULL",
    "ALTER TABLE notes RENAME TO taken",
    "DROP TABLE notes",
    "DROP VIEW mine",
    "DROP NAMESPACE default",
    "CREATE NAMESPACE n",
    "CREATE USER bob ROLE dba",
    "ALTER USER alice SET ROLE user",
    "DROP USER IF EXISTS alice CASCADE",
    "DROP USER alice",
];

#[test]
fn no_statement_reaches_another_users_rows() -> Result<()> {
    block_on(async {
        for short_path in [true, false] {
            let context = open(&MemoryBackend::new()).await?;
            setting(&context).await?;
            let options = ExecuteOptions { short_path, ..ExecuteOptions::default() };
            let bob = context.session_as("bob").await?;
            let alice = context.session_as("alice").await?;
            let theirs = "SELECT id, text, n FROM notes UNION ALL SELECT 0, text, n FROM bag ORDER BY 1";
            let before = run(&context, &alice, theirs).await?;
            assert_eq!(before.len(), 3);
            for attempt in ATTEMPTS {
                let shown = match run_with(&context, &bob, attempt, &Params::default(), &options).await {
                    Ok(rows) => format!("{rows:?}"),
                    Err(error) => error.to_string(),
                };
                let leaked =
                    ["alice-", "987654101", "987654102", "987654103"].iter().any(|secret| shown.contains(secret));
                assert!(!leaked, "{attempt}: {shown}");
                assert_eq!(run(&context, &alice, theirs).await?, before, "{attempt}");
            }
        }
        Ok(())
    })
}

#[test]
fn the_same_key_is_free_for_each_user_and_imports_stay_in_their_scope() -> Result<()> {
    block_on(async {
        let context = open(&MemoryBackend::new()).await?;
        setting(&context).await?;
        let alice = Arc::new(context.session_as("alice").await?);
        let bob = Arc::new(context.session_as("bob").await?);
        let taken = run(&context, &bob, "INSERT INTO notes VALUES (1, 'again', 0)").await.expect_err("bob's own key");
        assert_eq!(taken.code(), ErrorCode::UniqueViolation);
        // Key 2 is alice's only.
        let import = ImportOptions { format: Format::Csv, create: false, csv: CsvOptions::default() };
        let options = ExecuteOptions::default();
        let mut file =
            Importer::open(Arc::clone(context.executor()), Arc::clone(&bob), "notes", import, options.clone()).await?;
        file.push(b"id,text,n\n2,bob-2,0\n").await?;
        file.finish(|_| {}).await?;
        let (text, none) = ("SELECT 3 AS id, 'alice-4' AS text", Params::default());
        let batches = context
            .executor()
            .execute(&alice, text, &none, &options)
            .await?
            .pop()
            .and_then(|r| r.rows)
            .map(|r| r.batches)
            .unwrap_or_default();
        insert_columns(context.executor(), &alice, &options, "notes", batches).await?;
        let texts = "SELECT text FROM notes ORDER BY id";
        assert_eq!(run(&context, &bob, texts).await?, [["bob-1"], ["bob-2"]]);
        assert_eq!(run(&context, &alice, texts).await?, [["alice-1"], ["alice-2"], ["alice-4"]]);
        assert!(run(&context, context.session(), texts).await?.is_empty());
        Ok(())
    })
}

#[test]
fn one_provider_serves_all_users_and_a_text_gives_each_its_own() -> Result<()> {
    block_on(async {
        let context = open(&MemoryBackend::new()).await?;
        setting(&context).await?;
        run(&context, context.session(), "CREATE STREAM TABLE events (n INT) WITH (TTL_SECONDS = 60)").await?;
        for table in ["notes", "bag", "wall", "events"] {
            let id = TableId::new("default", table);
            let first = context.registry().provider(&id).await?.expect(table);
            for n in 0..20 {
                let session = context.session_as(&format!("user-{n}")).await?;
                run(&context, &session, &format!("SELECT count(*) FROM {table}")).await?;
                let again = context.registry().provider(&id).await?.expect(table);
                assert!(Arc::ptr_eq(&first, &again), "{table}");
            }
        }
        // The same text, with a parameter, again and again: whatever is kept of it belongs to nobody.
        let text = "SELECT CURRENT_USER, text FROM notes WHERE id = $1 AND text LIKE CURRENT_USER || '%'";
        for _ in 0..3 {
            for user in ["alice", "bob"] {
                let session = context.session_as(user).await?;
                let params = Params::Positional(vec![Value::BigInt(1)]);
                let rows = run_with(&context, &session, text, &params, &ExecuteOptions::default()).await?;
                assert_eq!(rows, [[user.to_owned(), format!("{user}-1")]]);
            }
        }
        Ok(())
    })
}

#[test]
fn a_dropped_user_leaves_nothing() -> Result<()> {
    block_on(async {
        let backend = MemoryBackend::new();
        let context = AppContext::open(Arc::new(backend.reopen()), Config::default()).await?;
        setting(&context).await?;
        let owner = context.session();
        let error = run(&context, owner, "DROP USER alice").await.expect_err("there is no account");
        assert_eq!(error.code(), ErrorCode::UserNotFound);
        run(&context, owner, "CREATE USER alice").await?;
        let error = run(&context, owner, "DROP USER alice").await.expect_err("there are rows");
        assert_eq!(error.code(), ErrorCode::UserNotEmpty);
        let records = context.backend().stats().await?.records;
        run(&context, owner, "DROP USER alice CASCADE").await?;
        // Two log records and the account are gone, one entry of the audit log is there.
        assert_eq!(context.backend().stats().await?.records, records - 3 + 1);
        let alice = context.session_as("alice").await?;
        let bob = context.session_as("bob").await?;
        let texts = "SELECT text FROM notes UNION ALL SELECT text FROM bag ORDER BY text";
        assert!(run(&context, &alice, texts).await?.is_empty());
        assert_eq!(run(&context, &bob, texts).await?, [["bob-1"], ["bob-3"]]);
        run(&context, &alice, "INSERT INTO notes VALUES (1, 'new', 0)").await?;
        assert_eq!(run(&context, &alice, texts).await?, [["new"]]);
        Ok(())
    })
}

#[test]
fn roles_are_those_of_the_moment_and_never_above_the_opener() -> Result<()> {
    block_on(async {
        let context = open(&MemoryBackend::new()).await?;
        let owner = context.session();
        let ann = context.session_as("ann").await?;
        let create = "CREATE TABLE t (a INT)";
        assert_eq!(run(&context, &ann, create).await.expect_err("a user").code(), ErrorCode::PermissionDenied);
        run(&context, owner, "CREATE USER ann ROLE dba").await?;
        run(&context, &ann, create).await?;
        run(&context, owner, "ALTER USER ann SET ROLE service").await?;
        assert_eq!(
            run(&context, &ann, "DROP TABLE t").await.expect_err("a service").code(),
            ErrorCode::PermissionDenied
        );
        run(&context, &ann, "EXECUTE AS USER 'ben' (SELECT 1)").await?;
        run(&context, owner, "ALTER USER ann SET ROLE user").await?;
        let denied = run(&context, &ann, "EXECUTE AS USER 'ben' (SELECT 1)").await.expect_err("a user");
        assert_eq!(denied.code(), ErrorCode::PermissionDenied);

        let config = Config { user: "sam".into(), role: Role::Service, ..Config::default() };
        let limited = AppContext::open(Arc::new(MemoryBackend::new()), config).await?;
        let sam = limited.session();
        assert_eq!(run(&limited, sam, create).await.expect_err("a service").code(), ErrorCode::PermissionDenied);
        limited.session_as("ben").await?;
        Ok(())
    })
}

const USERS: [&str; 3] = ["ann", "ben", "o'cy"];

#[derive(Debug, Clone)]
enum Step {
    Insert(Vec<i64>),
    /// `INSERT … SELECT id + n … FROM view`.
    Copy(i64),
    Update(i64),
    UpdateKey(i64),
    UpdateFrom(i64),
    Delete(i64),
    DeleteKey(i64),
    DeleteUsing(i64),
    Lookup(i64),
    DropUser,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(0..30i64, 1..6).prop_map(Step::Insert),
        1 => (20..40i64).prop_map(Step::Copy),
        2 => (0..30i64).prop_map(Step::Update),
        2 => (0..30i64).prop_map(Step::UpdateKey),
        1 => (0..30i64).prop_map(Step::UpdateFrom),
        1 => (0..30i64).prop_map(Step::Delete),
        1 => (0..30i64).prop_map(Step::DeleteKey),
        1 => (0..30i64).prop_map(Step::DeleteUsing),
        2 => (0..30i64).prop_map(Step::Lookup),
        1 => Just(Step::DropUser),
        1 => Just(Step::Reopen),
    ]
}

type Rows = BTreeMap<i64, i64>;

/// The rows after a step, and what it answers.
type Outcome = (Rows, Vec<Vec<String>>);

/// The statement of a step, the rows that it leaves, and what it gives; `None` if it has to fail.
fn expected(step: &Step, rows: &Rows) -> (String, Option<Outcome>) {
    let mut next = rows.clone();
    let changed = |next: Rows, n: usize| Some((next, vec![vec![format!("{n} rows")]]));
    match step {
        Step::Insert(keys) => {
            let values: Vec<String> = keys.iter().map(|k| format!("({k}, 0)")).collect();
            let ok = keys.iter().all(|&k| next.insert(k, 0).is_none());
            let sql = format!("INSERT INTO t VALUES {}", values.join(", "));
            (sql, if ok { changed(next, keys.len()) } else { None })
        }
        Step::Copy(n) => {
            let ok = rows.iter().all(|(&k, &v)| next.insert(k + n, v).is_none());
            let sql = format!("INSERT INTO t SELECT k + {n}, v FROM all_of_t");
            (sql, if ok { changed(next, rows.len()) } else { None })
        }
        Step::Update(n) => {
            let hit: Vec<i64> = rows.keys().copied().filter(|k| k > n).collect();
            hit.iter().for_each(|k| *next.get_mut(k).expect("there") += 1);
            (format!("UPDATE t SET v = v + 1 WHERE k > {n}"), changed(next, hit.len()))
        }
        Step::UpdateKey(k) => {
            let hit = next.get_mut(k).map(|v| *v = 7).is_some();
            (format!("UPDATE t SET v = 7 WHERE k = {k}"), changed(next, usize::from(hit)))
        }
        Step::UpdateFrom(n) => {
            let top = rows.values().max().copied();
            let hit: Vec<i64> = rows.keys().copied().filter(|k| k < n && top.is_some()).collect();
            hit.iter().for_each(|k| *next.get_mut(k).expect("there") = top.expect("there") + 1);
            let sql = format!("UPDATE t SET v = m.top + 1 FROM (SELECT max(v) AS top FROM t) m WHERE t.k < {n}");
            (sql, changed(next, hit.len()))
        }
        Step::Delete(n) => {
            next.retain(|k, _| k % 5 != n % 5);
            let gone = rows.len() - next.len();
            (format!("DELETE FROM t WHERE k % 5 = {}", n % 5), changed(next, gone))
        }
        Step::DeleteKey(k) => {
            let hit = next.remove(k).is_some();
            (format!("DELETE FROM t WHERE k = {k}"), changed(next, usize::from(hit)))
        }
        Step::DeleteUsing(n) => {
            next.retain(|k, _| !rows.contains_key(&(k + n)));
            let gone = rows.len() - next.len();
            (format!("DELETE FROM t USING all_of_t o WHERE o.k = t.k + {n}"), changed(next, gone))
        }
        Step::Lookup(k) => {
            let found = rows.get(k).map(|v| vec![k.to_string(), v.to_string()]).into_iter().collect();
            (format!("SELECT * FROM t WHERE k = {k}"), Some((next, found)))
        }
        Step::DropUser => (String::new(), Some((Rows::new(), Vec::new()))),
        Step::Reopen => (String::new(), Some((next, Vec::new()))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn users_agree_with_their_own_oracles(
        script in prop::collection::vec((0..USERS.len(), any::<bool>(), any::<bool>(), step()), 1..40),
    ) {
        block_on(async {
            let mut backend = Arc::new(MemoryBackend::new());
            let mut context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
            run(
                &context,
                context.session(),
                "CREATE USER TABLE t (k BIGINT PRIMARY KEY, v BIGINT); CREATE VIEW all_of_t AS SELECT * FROM t",
            )
            .await?;
            let mut oracles: [Rows; 3] = Default::default();
            for (user, own_session, short_path, step) in script {
                let name = USERS[user];
                let (sql, expected) = expected(&step, &oracles[user]);
                let options = ExecuteOptions { short_path, ..ExecuteOptions::default() };
                match step {
                    Step::Reopen => {
                        context.close().await?;
                        backend = Arc::new(backend.reopen());
                        context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
                    }
                    Step::DropUser => {
                        let params = Params::Positional(vec![Value::Text(name.to_owned())]);
                        let drop = "DROP USER IF EXISTS $1 CASCADE";
                        run_with(&context, context.session(), drop, &params, &options).await?;
                        oracles[user] = Rows::new();
                    }
                    _ => {
                        let outcome = if own_session {
                            let session = context.session_as(name).await?;
                            run_with(&context, &session, &sql, &Params::default(), &options).await
                        } else {
                            let text = format!("EXECUTE AS USER '{}' ({sql})", name.replace('\'', "''"));
                            run_with(&context, context.session(), &text, &Params::default(), &options).await
                        };
                        match (outcome, expected) {
                            (Ok(given), Some((rows, wanted))) => {
                                assert_eq!(given, wanted, "{name}: {sql}");
                                oracles[user] = rows;
                            }
                            (Err(error), None) => assert_eq!(error.code(), ErrorCode::UniqueViolation, "{sql}: {error}"),
                            (outcome, expected) => panic!("{name}: {sql}: {outcome:?}, expected {expected:?}"),
                        }
                    }
                }
                for (name, rows) in USERS.iter().zip(&oracles) {
                    let session = context.session_as(name).await?;
                    let wanted: Vec<Vec<String>> =
                        rows.iter().map(|(k, v)| vec![k.to_string(), v.to_string()]).collect();
                    assert_eq!(run(&context, &session, "SELECT * FROM t ORDER BY k").await?, wanted, "{name}");
                }
            }
            Ok::<_, kalamdb::error::KalamError>(())
        })?;
    }
}
