//! Each anomaly by its name, as two or more transactions that would show it, and what several tables, a crash and a
//! failing storage make of a transaction.

use super::*;

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
