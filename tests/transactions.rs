//! Transactions of several sessions: the anomalies by their names, commits over several tables, failing storage.
//!
//! The isolation is that of a snapshot (PostgreSQL's REPEATABLE READ): of the known anomalies only write skew is
//! possible. `transactions_model.rs` runs random histories against an oracle.
#![cfg(not(target_arch = "wasm32"))]

#[path = "support/faulty.rs"]
mod faulty;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use faulty::Faulty;
use futures::executor::block_on;
use futures::future::{join, join_all};
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::sql::{ExecuteOptions, Params, Session, StatementResult};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;

mod support;

use support::{map_cells, values};

struct Db {
    backend: Arc<Faulty>,
    context: Arc<AppContext>,
}

impl Db {
    async fn new() -> Result<Self> {
        let db = Self::open(Faulty::slow(MemoryBackend::new()), Config::default()).await?;
        db.session()
            .run(
                "CREATE TABLE account (id INT PRIMARY KEY, amount BIGINT);
                 CREATE TABLE entry (account INT, amount BIGINT);
                 INSERT INTO account VALUES (1, 100), (2, 100)",
            )
            .await?;
        Ok(db)
    }

    async fn open(backend: Arc<Faulty>, config: Config) -> Result<Self> {
        let context = AppContext::open(Arc::clone(&backend) as _, config).await?;
        Ok(Self { backend, context })
    }

    /// Loses the process and opens what storage holds.
    async fn reopen(&self) -> Result<Self> {
        Self::open(self.backend.crash(), Config::default()).await
    }

    fn session(&self) -> Client {
        Client { context: Arc::clone(&self.context), session: Session::new("default") }
    }
}

struct Client {
    context: Arc<AppContext>,
    session: Session,
}

impl Client {
    async fn all(&self, sql: &str) -> Result<Vec<StatementResult>> {
        let options = ExecuteOptions::default();
        self.context.executor().execute(&self.session, sql, &Params::default(), &options).await
    }

    async fn run(&self, sql: &str) -> Result<StatementResult> {
        Ok(self.all(sql).await?.pop().unwrap_or_default())
    }

    /// Rows as text: cells by spaces, rows by commas.
    async fn rows(&self, sql: &str) -> Result<String> {
        let rows = self.run(sql).await?.rows.expect("a query gives rows");
        let cells = map_cells(values(&rows)?, Value::to_string);
        Ok(cells.iter().map(|cells| cells.join(" ")).collect::<Vec<_>>().join(", "))
    }

    async fn accounts(&self) -> Result<String> {
        self.rows("SELECT id, amount FROM account ORDER BY id").await
    }

    async fn fails(&self, sql: &str) -> ErrorCode {
        match self.run(sql).await {
            Ok(_) => panic!("{sql} did not fail"),
            Err(error) => error.code(),
        }
    }
}

fn check(test: impl Future<Output = Result<()>>) {
    block_on(test).unwrap_or_else(|e: KalamError| panic!("{e}"));
}

#[test]
fn no_dirty_read() {
    check(async {
        let db = Db::new().await?;
        let (writer, reader) = (db.session(), db.session());
        writer.run("BEGIN; UPDATE account SET amount = 0; INSERT INTO account VALUES (3, 3)").await?;
        assert_eq!(reader.accounts().await?, "1 100, 2 100");
        reader.run("BEGIN").await?;
        assert_eq!(reader.accounts().await?, "1 100, 2 100");
        writer.run("ROLLBACK").await?;
        assert_eq!(reader.accounts().await?, "1 100, 2 100");
        assert_eq!(writer.accounts().await?, "1 100, 2 100");
        Ok(())
    });
}

#[test]
fn no_dirty_write_the_first_to_commit_wins() {
    check(async {
        let db = Db::new().await?;
        let (first, second) = (db.session(), db.session());
        first
            .run("BEGIN; UPDATE account SET amount = 11 WHERE id = 1; UPDATE account SET amount = 12 WHERE id = 2")
            .await?;
        second
            .run("BEGIN; UPDATE account SET amount = 21 WHERE id = 2; UPDATE account SET amount = 22 WHERE id = 1")
            .await?;
        second.run("COMMIT").await?;
        let error = first.run("COMMIT").await.expect_err("the other one was first");
        assert_eq!((error.code(), error.code().sqlstate()), (ErrorCode::Conflict, "40001"));
        assert!(error.code().retryable());
        assert_eq!(first.accounts().await?, "1 22, 2 21");
        // It has ended: the same again goes through.
        first.run("BEGIN; UPDATE account SET amount = 11 WHERE id = 1; COMMIT").await?;
        assert_eq!(second.accounts().await?, "1 11, 2 21");
        Ok(())
    });
}

#[test]
fn no_lost_update() {
    check(async {
        let db = Db::new().await?;
        let (first, second) = (db.session(), db.session());
        for client in [&first, &second] {
            client.run("BEGIN").await?;
            assert_eq!(client.rows("SELECT amount FROM account WHERE id = 1").await?, "100");
        }
        first.run("UPDATE account SET amount = 100 + 10 WHERE id = 1; COMMIT").await?;
        // Known at the statement already: there is no need to come to COMMIT to learn it.
        assert_eq!(second.fails("UPDATE account SET amount = 100 + 20 WHERE id = 1").await, ErrorCode::Conflict);
        assert_eq!(second.fails("SELECT 1").await, ErrorCode::FailedTransaction);
        second.run("ROLLBACK").await?;
        assert_eq!(second.accounts().await?, "1 110, 2 100");
        Ok(())
    });
}

#[test]
fn no_lost_update_by_a_statement_of_its_own() {
    check(async {
        let db = Db::new().await?;
        let (client, other) = (db.session(), db.session());
        client.run("BEGIN; UPDATE account SET amount = amount + 1 WHERE id = 1").await?;
        // No lock is taken: whoever commits first wins, and that is the statement without a transaction.
        other.run("UPDATE account SET amount = amount + 10 WHERE id = 1").await?;
        assert_eq!(client.fails("COMMIT").await, ErrorCode::Conflict);
        assert_eq!(client.accounts().await?, "1 110, 2 100");
        Ok(())
    });
}

#[test]
fn a_deleted_row_cannot_be_updated_or_deleted_again() {
    check(async {
        let db = Db::new().await?;
        for change in ["UPDATE account SET amount = 0 WHERE id = 1", "DELETE FROM account WHERE id = 1"] {
            let (client, other) = (db.session(), db.session());
            client.run(&format!("BEGIN; {change}")).await?;
            other.run("DELETE FROM account WHERE id = 1").await?;
            assert_eq!(client.fails("COMMIT").await, ErrorCode::Conflict);
            other.run("INSERT INTO account VALUES (1, 100)").await?;
        }
        Ok(())
    });
}

#[test]
fn no_non_repeatable_read_and_no_phantom() {
    check(async {
        let db = Db::new().await?;
        let (reader, writer) = (db.session(), db.session());
        reader.run("BEGIN").await?;
        let queries = [
            "SELECT id, amount FROM account ORDER BY id",
            "SELECT amount FROM account WHERE id = 1",
            "SELECT amount FROM account WHERE id IN (2, 3)",
            "SELECT count(*), sum(amount) FROM account WHERE amount >= 100",
            "SELECT count(*) FROM entry",
        ];
        let mut before = Vec::new();
        for query in queries {
            before.push(reader.rows(query).await?);
        }
        for n in 0..5 {
            writer
                .run(&format!("INSERT INTO account VALUES ({}, 500); UPDATE account SET amount = amount + 1", n + 3))
                .await?;
            writer.run("DELETE FROM account WHERE id = 2; INSERT INTO account VALUES (2, 7); INSERT INTO entry VALUES (1, 1)").await?;
            for (query, before) in queries.iter().zip(&before) {
                assert_eq!(&reader.rows(query).await?, before, "{query}");
            }
        }
        reader.run("COMMIT").await?;
        assert_eq!(reader.rows("SELECT count(*) FROM entry").await?, "5");
        Ok(())
    });
}

#[test]
fn no_read_skew_over_tables() {
    check(async {
        let db = Db::new().await?;
        let (reader, writer) = (db.session(), db.session());
        reader.run("BEGIN").await?;
        assert_eq!(reader.rows("SELECT amount FROM account WHERE id = 1").await?, "100");
        writer
            .run("BEGIN; UPDATE account SET amount = 0 WHERE id = 1; INSERT INTO entry VALUES (1, -100); COMMIT")
            .await?;
        // The table that it has not touched yet is read at the same snapshot.
        assert_eq!(reader.rows("SELECT count(*) FROM entry").await?, "0");
        reader.run("ROLLBACK").await?;
        assert_eq!(reader.rows("SELECT count(*) FROM entry").await?, "1");
        Ok(())
    });
}

/// What a snapshot does not prevent, in PostgreSQL's REPEATABLE READ neither: each transaction reads what the other
/// changes, and no row is changed by both. README.md says what to do about it.
#[test]
fn write_skew_is_possible() {
    check(async {
        let db = Db::new().await?;
        let (first, second) = (db.session(), db.session());
        for client in [&first, &second] {
            client.run("BEGIN").await?;
            assert_eq!(client.rows("SELECT sum(amount) FROM account").await?, "200");
        }
        first.run("UPDATE account SET amount = amount - 200 WHERE id = 1; COMMIT").await?;
        second.run("UPDATE account SET amount = amount - 200 WHERE id = 2; COMMIT").await?;
        assert_eq!(first.accounts().await?, "1 -100, 2 -100");
        Ok(())
    });
}

/// … unless both change one row on purpose.
#[test]
fn write_skew_is_prevented_by_touching_what_was_read() {
    check(async {
        let db = Db::new().await?;
        let (first, second) = (db.session(), db.session());
        for (client, id) in [(&first, 1), (&second, 2)] {
            client.run("BEGIN; UPDATE account SET amount = amount").await?;
            client.run(&format!("UPDATE account SET amount = amount - 200 WHERE id = {id}")).await?;
        }
        first.run("COMMIT").await?;
        assert_eq!(second.fails("COMMIT").await, ErrorCode::Conflict);
        Ok(())
    });
}

#[test]
fn a_key_that_another_transaction_inserted_is_a_duplicate() {
    check(async {
        let db = Db::new().await?;
        let (first, second) = (db.session(), db.session());
        first.run("BEGIN; INSERT INTO account VALUES (3, 1)").await?;
        second.run("BEGIN; INSERT INTO account VALUES (3, 2); COMMIT").await?;
        // As in PostgreSQL: UNIQUE_VIOLATION, not a serialization failure.
        let error = first.run("COMMIT").await.expect_err("the key is taken");
        assert_eq!(error.code(), ErrorCode::UniqueViolation);
        assert_eq!(error.message(), "duplicate key: a row with (id)=(3) exists already");
        assert_eq!(first.accounts().await?, "1 100, 2 100, 3 2");
        // A key that was free when the snapshot was taken and is not any more.
        first.run("BEGIN").await?;
        second.run("INSERT INTO account VALUES (4, 2)").await?;
        assert_eq!(first.rows("SELECT count(*) FROM account WHERE id = 4").await?, "0");
        first.run("INSERT INTO account VALUES (4, 1)").await?;
        assert_eq!(first.fails("COMMIT").await, ErrorCode::UniqueViolation);
        Ok(())
    });
}

#[test]
fn several_tables_commit_together_or_not_at_all() {
    check(async {
        let db = Db::new().await?;
        let client = db.session();
        let transfer = "BEGIN; UPDATE account SET amount = amount - 10 WHERE id = 1; UPDATE account SET amount = amount + 10 WHERE id = 2;
             INSERT INTO entry VALUES (1, -10), (2, 10); DELETE FROM entry WHERE amount = 0";
        db.backend.failures.store(1, Ordering::Relaxed);
        client.run(transfer).await?;
        assert_eq!(client.fails("COMMIT").await, ErrorCode::QuotaExceeded);
        assert_eq!(client.fails("COMMIT").await, ErrorCode::NoActiveTransaction);
        for db in [db.reopen().await?, Db { backend: Arc::clone(&db.backend), context: Arc::clone(&db.context) }] {
            assert_eq!(db.session().accounts().await?, "1 100, 2 100");
            assert_eq!(db.session().rows("SELECT count(*) FROM entry").await?, "0");
        }
        let groups = db.context.store().statistics().groups;
        client.run(transfer).await?;
        let done = client.run("COMMIT").await?;
        assert_eq!(db.context.store().statistics().groups, groups + 1, "one storage transaction");
        for db in [db.reopen().await?, Db { backend: Arc::clone(&db.backend), context: Arc::clone(&db.context) }] {
            let session = db.session();
            assert_eq!(session.accounts().await?, "1 90, 2 110");
            assert_eq!(session.rows("SELECT account, amount FROM entry ORDER BY 1").await?, "1 -10, 2 10");
            let newest =
                "SELECT max(s) FROM (SELECT max(_seq) AS s FROM account UNION ALL SELECT max(_seq) FROM entry)";
            assert_eq!(Some(session.rows(newest).await?), done.seq.map(|s| s.to_string()));
        }
        Ok(())
    });
}

#[test]
fn an_open_transaction_is_lost_with_the_process() {
    check(async {
        let db = Db::new().await?;
        db.session().run("BEGIN; DELETE FROM account").await?;
        assert_eq!(db.reopen().await?.session().accounts().await?, "1 100, 2 100");
        assert_eq!(db.session().accounts().await?, "1 100, 2 100", "the session that began it is gone");
        Ok(())
    });
}

/// Rows are read again from storage after a failed write: positions that a transaction noted mean nothing there.
#[test]
fn a_failed_commit_of_another_session_costs_a_retry() {
    check(async {
        let db = Db::new().await?;
        let (client, reader, other) = (db.session(), db.session(), db.session());
        client.run("BEGIN; UPDATE account SET amount = 1 WHERE id = 1").await?;
        reader.run("BEGIN").await?;
        assert_eq!(reader.accounts().await?, "1 100, 2 100");
        db.backend.failures.store(1, Ordering::Relaxed);
        assert_eq!(other.fails("UPDATE account SET amount = 5 WHERE id = 2").await, ErrorCode::QuotaExceeded);
        assert_eq!(client.accounts().await?, "1 1, 2 100");
        assert_eq!(reader.accounts().await?, "1 100, 2 100");
        assert_eq!(client.fails("COMMIT").await, ErrorCode::Conflict);
        reader.run("UPDATE account SET amount = 6 WHERE id = 2; COMMIT").await?;
        assert_eq!(client.accounts().await?, "1 100, 2 6");
        Ok(())
    });
}

#[test]
fn a_table_that_changes_under_a_transaction_is_a_conflict() {
    check(async {
        for change in [
            "ALTER TABLE account ADD COLUMN note TEXT",
            "ALTER TABLE account ALTER COLUMN id TYPE BIGINT",
            "ALTER TABLE account RENAME TO konto",
            "DROP TABLE account",
            "DROP TABLE account; CREATE TABLE account (id INT PRIMARY KEY, amount BIGINT)",
        ] {
            let db = Db::new().await?;
            let (client, other) = (db.session(), db.session());
            client.run("BEGIN; INSERT INTO entry VALUES (1, 1); UPDATE account SET amount = 0 WHERE id = 1").await?;
            other.run(change).await?;
            assert_eq!(client.fails("COMMIT").await, ErrorCode::Conflict, "{change}");
            assert_eq!(client.rows("SELECT count(*) FROM entry").await?, "0", "{change}");
        }
        // Noticed by a statement before the commit.
        let db = Db::new().await?;
        let (client, other) = (db.session(), db.session());
        client.run("BEGIN; UPDATE account SET amount = 0 WHERE id = 1").await?;
        other.run("ALTER TABLE account ADD COLUMN note TEXT").await?;
        assert_eq!(client.fails("SELECT * FROM account").await, ErrorCode::Conflict);
        // What it only reads may be altered.
        client.run("ROLLBACK; BEGIN; INSERT INTO entry VALUES (1, 1)").await?;
        other.run("ALTER TABLE account ADD COLUMN more INT DEFAULT 5").await?;
        assert_eq!(client.rows("SELECT max(more) FROM account").await?, "5");
        client.run("COMMIT").await?;
        Ok(())
    });
}

#[test]
fn reading_costs_nothing_at_commit() {
    check(async {
        let db = Db::new().await?;
        let client = db.session();
        let before = db.context.store().statistics();
        db.backend.failures.store(1, Ordering::Relaxed);
        client.run("BEGIN; SELECT * FROM account; UPDATE account SET amount = 0 WHERE id = 99").await?;
        client.run("INSERT INTO account VALUES (9, 9); DELETE FROM account WHERE id = 9").await?;
        let done = client.run("COMMIT").await?;
        assert_eq!((done.seq, done.durability), (None, None));
        assert_eq!(db.context.store().statistics().groups, before.groups);
        Ok(())
    });
}

#[test]
fn a_transaction_that_is_left_open_times_out() {
    check(async {
        // Idle for any time is too long.
        let config = Config { transaction_timeout: Duration::ZERO, ..Config::default() };
        let db = Db::open(Faulty::slow(MemoryBackend::new()), config).await?;
        let client = db.session();
        client.run("CREATE TABLE t (id INT PRIMARY KEY)").await?;
        for statement in ["INSERT INTO t VALUES (1)", "SELECT * FROM t", "SAVEPOINT s", "BEGIN", "COMMIT"] {
            client.run("BEGIN").await?;
            let error = client.run(statement).await.expect_err("it was idle");
            assert_eq!(
                (error.code(), error.code().sqlstate()),
                (ErrorCode::TransactionTimeout, "25P03"),
                "{statement}"
            );
            if statement != "COMMIT" {
                // Not silently by itself: whoever began it believes that it runs in the transaction.
                assert_eq!(client.fails("INSERT INTO t VALUES (2)").await, ErrorCode::TransactionTimeout);
                client.run("ROLLBACK").await?;
            }
            assert_eq!(client.rows("SELECT count(*) FROM t").await?, "0");
        }
        Ok(())
    });
}

#[test]
fn overlapping_calls_of_a_session_go_one_after_the_other() {
    check(async {
        let db = Db::new().await?;
        let client = db.session();
        // The storage is slower than everything else.
        db.backend.polls.store(50, Ordering::Relaxed);
        client.run("BEGIN").await?;
        let texts: Vec<String> =
            (10..30).map(|id| format!("INSERT INTO account SELECT {id}, count(*) FROM account")).collect();
        for outcome in join_all(texts.iter().map(|text| client.run(text))).await {
            outcome?;
        }
        assert_eq!(client.rows("SELECT count(*), max(amount) FROM account WHERE id >= 10").await?, "20 21");
        // What is called while COMMIT runs waits for it.
        let (committed, seen) = join(client.run("COMMIT"), client.rows("SELECT count(*) FROM account")).await;
        committed?;
        assert_eq!(seen?, "22");
        assert_eq!(client.fails("COMMIT").await, ErrorCode::NoActiveTransaction);
        Ok(())
    });
}

#[test]
fn a_cancelled_statement_fails_its_transaction() {
    check(async {
        let db = Db::new().await?;
        let client = db.session();
        client.run("BEGIN; INSERT INTO account VALUES (3, 3)").await?;
        let options = ExecuteOptions::default();
        options.cancelled.store(true, Ordering::Relaxed);
        let select = "SELECT * FROM account";
        let outcome = client.context.executor().execute(&client.session, select, &Params::default(), &options).await;
        assert_eq!(outcome.expect_err("cancelled").code(), ErrorCode::Cancelled);
        assert_eq!(client.fails("COMMIT").await, ErrorCode::FailedTransaction);
        assert_eq!(client.accounts().await?, "1 100, 2 100");
        Ok(())
    });
}

#[test]
fn rows_that_do_not_come_as_sql_belong_to_the_transaction() {
    use arrow::array::{Int32Array, Int64Array};
    use arrow::record_batch::RecordBatch;
    check(async {
        let db = Db::new().await?;
        let client = db.session();
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int32Array::from(vec![7, 8])) as arrow::array::ArrayRef),
            ("amount", Arc::new(Int64Array::from(vec![70, 80])) as _),
        ])
        .map_err(KalamError::internal)?;
        let insert = || async {
            let options = ExecuteOptions::default();
            let executor = client.context.executor();
            kalamdb::sql::insert_columns(executor, &client.session, &options, "account", vec![batch.clone()]).await
        };
        client.run("BEGIN").await?;
        assert_eq!(insert().await?.rows_affected, 2);
        assert_eq!(client.rows("SELECT amount FROM account WHERE id = 8").await?, "80");
        assert_eq!(db.session().accounts().await?, "1 100, 2 100");
        assert_eq!(insert().await.expect_err("the same keys").code(), ErrorCode::UniqueViolation);
        assert_eq!(client.fails("COMMIT").await, ErrorCode::FailedTransaction);
        client.run("BEGIN").await?;
        insert().await?;
        client.run("COMMIT").await?;
        assert_eq!(db.session().accounts().await?, "1 100, 2 100, 7 70, 8 80");
        Ok(())
    });
}

/// The statement decided on a snapshot in which the key was free: PostgreSQL gives 40001 as well.
#[test]
fn an_upsert_whose_key_was_inserted_meanwhile_is_a_conflict() {
    check(async {
        let db = Db::new().await?;
        for action in ["DO NOTHING", "DO UPDATE SET amount = account.amount + EXCLUDED.amount"] {
            let (client, other) = (db.session(), db.session());
            let upsert = format!("INSERT INTO account VALUES (1, 5), (9, 9) ON CONFLICT (id) {action}");
            client.run("BEGIN").await?;
            client.run(&upsert).await?;
            client.run(&upsert).await?;
            other.run("INSERT INTO account VALUES (9, 1)").await?;
            assert_eq!(client.fails("COMMIT").await, ErrorCode::Conflict, "{action}");
            client.run(&format!("BEGIN; {upsert}; COMMIT")).await?;
            other.run("DELETE FROM account WHERE id = 9").await?;
        }
        assert_eq!(db.session().accounts().await?, "1 105, 2 100");
        Ok(())
    });
}

#[test]
fn a_cursor_reads_what_its_transaction_had_changed_when_it_opened() {
    use kalamdb::sql::Cursor;
    check(async {
        let db = Db::new().await?;
        let client = db.session();
        let open = || async {
            let options = ExecuteOptions::default();
            let sql = "SELECT id FROM account";
            Cursor::open(client.context.executor(), &client.session, sql, &Params::default(), &options).await
        };
        let count = |mut cursor: Cursor| async move {
            let mut rows = 0;
            while let Some(batch) = cursor.next(1).await? {
                rows += batch.num_rows();
            }
            Ok::<usize, KalamError>(rows)
        };
        client.run("BEGIN; INSERT INTO account VALUES (3, 3)").await?;
        let cursor = open().await?;
        client.run("INSERT INTO account VALUES (4, 4); DELETE FROM account WHERE id < 3").await?;
        assert_eq!(count(cursor).await?, 3);
        assert_eq!(count(open().await?).await?, 2);
        client.fails("INSERT INTO account VALUES (4, 4)").await;
        assert_eq!(open().await.expect_err("it has failed").code(), ErrorCode::FailedTransaction);
        Ok(())
    });
}

#[test]
fn users_have_transactions_of_their_own_rows() {
    check(async {
        let db = Db::new().await?;
        db.session().run("CREATE USER TABLE note (id INT PRIMARY KEY, v INT)").await?;
        let user = |name: &str| Client { context: Arc::clone(&db.context), session: Session::new(name) };
        let (ann, bob) = (user("ann"), user("bob"));
        // The same key in two scopes, changed by both at once: no conflict.
        for client in [&ann, &bob] {
            client.run("BEGIN; INSERT INTO note VALUES (1, 1); UPDATE note SET v = 2").await?;
        }
        assert_eq!(ann.rows("SELECT v FROM note").await?, "2");
        // A statement for another user belongs to the same transaction.
        ann.run("EXECUTE AS USER 'eve' (INSERT INTO note VALUES (7, 7))").await?;
        assert_eq!(ann.rows("EXECUTE AS USER 'eve' (SELECT id FROM note)").await?, "7");
        assert_eq!(user("eve").rows("SELECT count(*) FROM note").await?, "0");
        bob.run("COMMIT").await?;
        ann.run("COMMIT").await?;
        for (name, rows) in [("ann", "1 2"), ("bob", "1 2"), ("eve", "7 7")] {
            assert_eq!(user(name).rows("SELECT id, v FROM note").await?, rows, "{name}");
        }
        Ok(())
    });
}

#[test]
fn events_of_a_stream_are_part_of_a_transaction() {
    check(async {
        let db = Db::new().await?;
        let client = db.session();
        client.run("CREATE STREAM TABLE event (id INT, v TEXT) WITH (TTL_SECONDS = 3600)").await?;
        client.run("BEGIN; INSERT INTO event VALUES (1, 'a'); UPDATE account SET amount = 0 WHERE id = 1").await?;
        assert_eq!(db.session().rows("SELECT count(*) FROM event").await?, "0");
        assert_eq!(client.rows("SELECT id FROM event").await?, "1");
        db.backend.failures.store(1, Ordering::Relaxed);
        assert_eq!(client.fails("COMMIT").await, ErrorCode::QuotaExceeded);
        assert_eq!(client.rows("SELECT count(*) FROM event").await?, "0");
        client
            .run("BEGIN; INSERT INTO event VALUES (2, 'b'); UPDATE account SET amount = 0 WHERE id = 1; COMMIT")
            .await?;
        assert_eq!(db.session().rows("SELECT id FROM event").await?, "2");
        Ok(())
    });
}

#[test]
fn many_rows_of_a_transaction_are_there_after_reopening() {
    check(async {
        let db = Db::new().await?;
        let client = db.session();
        client
            .run("BEGIN; INSERT INTO account SELECT value, value FROM generate_series(10, 60009) AS g(value)")
            .await?;
        client
            .run("UPDATE account SET amount = -amount WHERE id % 3 = 0; DELETE FROM account WHERE id % 7 = 0")
            .await?;
        client.run("INSERT INTO entry SELECT id, amount FROM account WHERE id % 100 = 0").await?;
        let query = "SELECT count(*), sum(a.amount), (SELECT count(*) FROM entry), (SELECT sum(amount) FROM entry) FROM account a";
        let within = client.rows(query).await?;
        client.run("COMMIT").await?;
        assert_eq!(client.rows(query).await?, within);
        assert_eq!(db.reopen().await?.session().rows(query).await?, within);
        Ok(())
    });
}
