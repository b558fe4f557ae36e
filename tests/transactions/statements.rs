//! What statements of every kind do in a transaction: DDL beside it, upserts, cursors, rows that do not come as SQL,
//! streams, rows of users; and how it ends when nobody ends it.

use super::*;

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
fn rows_that_a_transaction_has_changed_stay_where_they_are_and_a_flush_says_why() {
    check(async {
        let db = Db::new().await?;
        let (client, other) = (db.session(), db.session());
        client.run("BEGIN; UPDATE account SET amount = 5 WHERE id = 1").await?;
        for (sql, what) in [("STORAGE FLUSH ALL", "flushed"), ("STORAGE COMPACT TABLE account", "compacted")] {
            let error = other.run(sql).await.expect_err(sql);
            assert_eq!(error.code(), ErrorCode::Conflict, "{sql}");
            assert!(error.message().contains(&format!("table 'default.account' cannot be {what} now")), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("Run it again")), "{sql}");
        }
        client.run("COMMIT").await?;
        other.run("STORAGE FLUSH ALL; STORAGE COMPACT ALL").await?;
        assert_eq!(other.accounts().await?, "1 5, 2 100");
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

#[test]
fn a_transaction_that_a_call_began_ends_by_a_call() {
    check(async {
        let db = Db::new().await?;
        let begin = async || -> Result<Client> {
            let session = db.context.executor().begin(&Session::new("default"), false).await?;
            Ok(Client { context: Arc::clone(&db.context), session })
        };
        let options = ExecuteOptions::default();
        let outside = db.session();
        for text in ["COMMIT", "COMMIT; BEGIN", "ROLLBACK", "END", "ABORT", "BEGIN", "START TRANSACTION"] {
            let within = begin().await?;
            within.run("INSERT INTO entry VALUES (1, 1)").await?;
            let text = format!("INSERT INTO entry VALUES (2, 2); {text}");
            assert_eq!(within.fails(&text).await, ErrorCode::ActiveTransaction, "{text}");
            // As after any other error.
            let ended = db.context.executor().commit(&within.session, &options).await;
            assert_eq!(ended.map_err(|e| e.code()).err(), Some(ErrorCode::FailedTransaction), "{text}");
            assert_eq!(within.fails("SELECT 1").await, ErrorCode::NoActiveTransaction, "{text}");
            assert_eq!(outside.rows("SELECT count(*) FROM entry").await?, "0", "{text}");
        }
        let within = begin().await?;
        within.run("INSERT INTO entry VALUES (1, 1)").await?;
        db.context.executor().rollback(&within.session).await?;
        assert_eq!(outside.rows("SELECT count(*) FROM entry").await?, "0");
        let within = begin().await?;
        within.run("SAVEPOINT s; DELETE FROM account; ROLLBACK TO s; RELEASE s").await?;
        within.run("INSERT INTO entry VALUES (1, 1)").await?;
        let done = db.context.executor().commit(&within.session, &options).await?;
        assert!(done.seq.is_some());
        assert_eq!(outside.rows("SELECT count(*) FROM entry").await?, "1");
        Ok(())
    });
}
