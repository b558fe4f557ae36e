//! Backup and restore: a database in memory survives as a stream of bytes, and a stream that is not whole restores
//! nothing.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use futures::future::join;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::storage::{KeyRange, MemoryBackend, Partition, Restore, ScanOptions, StorageBackend, WriteBatch};
use kalamdb::tables::{JobRecord, JobStatus, UserRecord};

#[path = "support/faulty.rs"]
mod faulty;

use faulty::{Fault, Faulty, Outcome};

mod support;

use support::{map_cells, sql, text_or_null, values};

/// The rows of a query, as text, in its order.
async fn rows(context: &AppContext, text: &str) -> Result<Vec<String>> {
    let found = sql(context, text).await?.pop().and_then(|r| r.rows).expect("a query gives rows");
    let cells = map_cells(values(&found)?, text_or_null);
    Ok(cells.into_iter().map(|cells| cells.iter().map(|cell| format!("{cell}|")).collect()).collect())
}

async fn open(backend: Arc<dyn StorageBackend>) -> Result<Arc<AppContext>> {
    AppContext::open(backend, Config::default()).await
}

async fn chunks(context: &AppContext) -> Result<Vec<u8>> {
    let mut backup = context.backup().await;
    let mut out = Vec::new();
    while let Some(chunk) = backup.next().await? {
        assert!(chunk.len() < 3 << 20, "a chunk of {} bytes", chunk.len());
        out.extend_from_slice(&chunk);
    }
    Ok(out)
}

/// A database with everything in it that can be kept.
async fn sample() -> Result<Arc<AppContext>> {
    let context = open(Arc::new(MemoryBackend::new())).await?;
    let long = "long ".repeat(400_000);
    for text in [
        "CREATE NAMESPACE shop",
        "CREATE TABLE shop.items (sku TEXT PRIMARY KEY, price DECIMAL(10,2), at TIMESTAMP DEFAULT NOW())",
        "INSERT INTO shop.items (sku, price) VALUES ('a', 1.50), ('b', 2.25), ('c', NULL)",
        "ALTER TABLE shop.items ADD COLUMN stock INT DEFAULT 5",
        "ALTER TABLE shop.items RENAME COLUMN price TO cost",
        "UPDATE shop.items SET stock = 9 WHERE sku = 'b'",
        "DELETE FROM shop.items WHERE sku = 'c'",
        "CREATE TABLE bag (n BIGINT, t TEXT, v EMBEDDING(3))",
        "INSERT INTO bag VALUES (1, 'x', NULL), (1, 'x', NULL), (-9223372036854775807, NULL, NULL)",
        "CREATE VIEW cheap AS SELECT * FROM shop.items WHERE cost < 2",
        "CREATE TABLE gone (k INT)",
        "DROP TABLE gone",
    ] {
        sql(&context, text).await.map_err(|e| e.in_context(text))?;
    }
    sql(&context, &format!("INSERT INTO bag VALUES (2, '{long}', NULL)")).await?;
    let user = UserRecord { user_id: "alice".into(), role: "user".into(), created_at_ms: 1, updated_at_ms: 2 };
    context.system().users().put(&"alice".to_owned(), &user).await?;
    let job = JobRecord {
        job_id: "j1".into(),
        job_type: "flush".into(),
        target: None,
        status: JobStatus::Failed,
        parameters: None,
        message: Some("no room".into()),
        attempts: 3,
        node_id: "n".into(),
        created_at_ms: 1,
        started_at_ms: None,
        finished_at_ms: None,
    };
    context.system().jobs().put(&"j1".to_owned(), &job).await?;
    Ok(context)
}

const QUESTIONS: [&str; 11] = [
    "SELECT _seq, * FROM shop.items ORDER BY sku",
    "SELECT _seq, n, t FROM bag ORDER BY _seq",
    "SELECT * FROM cheap",
    "SHOW NAMESPACES",
    "SHOW TABLES IN shop",
    "DESCRIBE shop.items HISTORY",
    "SELECT * FROM system.tables ORDER BY 1, 2",
    "SELECT * FROM system.columns ORDER BY 1, 2, 3, 4",
    "SELECT * FROM system.audit_logs ORDER BY 1",
    "SELECT * FROM system.users",
    "SELECT * FROM system.jobs",
];

#[test]
fn what_is_restored_gives_the_same_answers() -> Result<()> {
    block_on(async {
        let context = sample().await?;
        let bytes = chunks(&context).await?;
        let restored = AppContext::restore(Arc::new(MemoryBackend::new()), &bytes, Config::default()).await?;
        assert_eq!(restored.node_id(), context.node_id());
        for question in QUESTIONS {
            assert_eq!(rows(&restored, question).await?, rows(&context, question).await?, "{question}");
        }
        // It goes on where the other one was: numbers are not given again.
        let before = rows(&restored, "SELECT max(_seq) FROM bag").await?;
        sql(&restored, "INSERT INTO bag (n) VALUES (7); CREATE TABLE more (k INT)").await?;
        let after = rows(&restored, "SELECT max(_seq) FROM bag").await?;
        assert!(before[0].len() <= after[0].len() && before < after, "{before:?} {after:?}");
        assert_eq!(rows(&context, "SELECT count(*) FROM bag").await?, ["4|"]);
        // And a backup of what was restored is one again.
        let bytes = chunks(&restored).await?;
        let again = AppContext::restore(Arc::new(MemoryBackend::new()), &bytes, Config::default()).await?;
        assert_eq!(rows(&again, "SELECT count(*) FROM bag").await?, ["5|"]);
        Ok(())
    })
}

#[test]
fn commits_wait_for_a_backup_and_are_whole_in_it() -> Result<()> {
    block_on(async {
        let context = open(Arc::new(MemoryBackend::new())).await?;
        sql(&context, "CREATE TABLE a (k INT PRIMARY KEY, v INT)").await?;
        let insert = |n: usize| {
            let values: Vec<String> = (0..50).map(|k| format!("({}, {n})", n * 50 + k)).collect();
            format!("INSERT INTO a VALUES {}", values.join(","))
        };
        for n in 0..3 {
            sql(&context, &insert(n)).await?;
        }
        let writes = async {
            for n in 3..10 {
                sql(&context, &insert(n)).await?;
                if n == 5 {
                    sql(&context, "CREATE TABLE b (k INT)").await?;
                }
            }
            Ok(())
        };
        let (bytes, written) = join(chunks(&context), writes).await;
        let written: Result<()> = written;
        written?;
        let restored = AppContext::restore(Arc::new(MemoryBackend::new()), &bytes?, Config::default()).await?;
        let groups = rows(&restored, "SELECT v, count(*) FROM a GROUP BY v ORDER BY v").await?;
        assert!(groups.len() >= 3);
        assert!(groups.iter().enumerate().all(|(v, line)| *line == format!("{v}|50|")), "{groups:?}");
        assert_eq!(rows(&context, "SELECT count(*) FROM a").await?, ["500|"]);
        Ok(())
    })
}

async fn restore(backend: &Arc<MemoryBackend>, bytes: &[u8], piece: usize) -> Result<()> {
    let mut restore = Restore::begin(Arc::clone(backend) as _).await?;
    for piece in bytes.chunks(piece) {
        restore.push(piece).await?;
    }
    restore.finish().await
}

async fn records(backend: &dyn StorageBackend) -> Result<Vec<(Partition, Vec<u8>, bytes::Bytes)>> {
    let mut all = Vec::new();
    for partition in Partition::ALL {
        let found = backend.scan(partition, &KeyRange::all(), ScanOptions::default()).await?;
        all.extend(found.into_iter().map(|(key, value)| (partition, key, value)));
    }
    Ok(all)
}

async fn small() -> Result<(Vec<u8>, Arc<MemoryBackend>)> {
    let backend = Arc::new(MemoryBackend::new());
    let context = open(Arc::clone(&backend) as _).await?;
    sql(&context, "CREATE TABLE t (k INT PRIMARY KEY); INSERT INTO t VALUES (1), (2)").await?;
    let mut batch = WriteBatch::new();
    batch.put_blob(b"blob", &vec![7u8; 600_000].into());
    backend.commit(batch, Default::default()).await?;
    Ok((chunks(&context).await?, backend))
}

#[test]
fn pieces_of_any_size_restore_the_same_records() -> Result<()> {
    block_on(async {
        let (bytes, source) = small().await?;
        for piece in [1, 7, 4096, 100_000, bytes.len()] {
            // Small pieces only through the beginning and the end.
            let backend = Arc::new(MemoryBackend::new());
            if piece < 100 {
                let mut restore = Restore::begin(Arc::clone(&backend) as _).await?;
                let (head, rest) = bytes.split_at(3000);
                let (middle, tail) = rest.split_at(rest.len() - 2000);
                for part in head.chunks(piece).chain([middle]).chain(tail.chunks(piece)) {
                    restore.push(part).await?;
                }
                restore.finish().await?;
            } else {
                restore(&backend, &bytes, piece).await?;
            }
            assert_eq!(records(backend.as_ref()).await?, records(source.as_ref()).await?);
        }
        Ok(())
    })
}

#[test]
fn damage_restores_nothing() -> Result<()> {
    block_on(async {
        let (bytes, _) = small().await?;
        let refuse = async |bytes: &[u8], codes: &[ErrorCode], what: &str| {
            let backend = Arc::new(MemoryBackend::new());
            let error = restore(&backend, bytes, 1 << 20).await.expect_err(what);
            assert!(codes.contains(&error.code()), "{what}: {error}");
            assert!(records(backend.as_ref()).await.expect("reads").is_empty(), "{what}: something stayed");
        };
        let mut at: Vec<usize> = (0..400).chain(bytes.len() - 200..bytes.len()).collect();
        at.extend((400..bytes.len()).step_by(9973));
        for at in at {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let codes = [ErrorCode::DataCorrupted, ErrorCode::InvalidData, ErrorCode::UnsupportedFormat];
            refuse(&damaged, &codes, &format!("byte {at} of {}", bytes.len())).await;
            refuse(&bytes[..at], &[ErrorCode::DataCorrupted], &format!("cut after {at} bytes")).await;
        }
        let longer = [&bytes[..], b"x"].concat();
        refuse(&longer, &[ErrorCode::DataCorrupted], "one byte more").await;
        refuse(b"PK\x03\x04 a zip file", &[ErrorCode::InvalidData], "a foreign file").await;
        let mut later = bytes.clone();
        later[8] = 2;
        refuse(&later, &[ErrorCode::UnsupportedFormat], "a later version").await;
        Ok(())
    })
}

#[test]
fn only_a_new_database_is_restored_into() -> Result<()> {
    block_on(async {
        let (bytes, source) = small().await?;
        let error = AppContext::restore(source, &bytes, Config::default()).await.expect_err("it is there");
        assert_eq!(error.code(), ErrorCode::DatabaseExists, "{error}");
        Ok(())
    })
}

#[test]
fn a_restore_that_died_is_refused_and_can_be_repeated() -> Result<()> {
    block_on(async {
        let (bytes, source) = small().await?;
        let backend = Arc::new(MemoryBackend::new());
        let mut half = Restore::begin(Arc::clone(&backend) as _).await?;
        half.push(&bytes[..bytes.len() - 10]).await?;
        drop(half);
        let error = open(Arc::new(backend.reopen())).await.expect_err("half a database");
        assert_eq!(error.code(), ErrorCode::DataCorrupted, "{error}");
        restore(&backend, &bytes, 5000).await?;
        assert_eq!(records(backend.as_ref()).await?, records(source.as_ref()).await?);
        Ok(())
    })
}

#[test]
fn every_call_of_a_restore_and_a_backup_fails_once() -> Result<()> {
    block_on(async {
        let (bytes, source) = small().await?;
        for fault in [Fault::Fail, Fault::Lose] {
            for n in 0.. {
                let backend = Faulty::new(MemoryBackend::new());
                backend.arm(n, fault, ErrorCode::QuotaExceeded);
                let outcome = async {
                    let mut restore = Restore::begin(Arc::clone(&backend) as _).await?;
                    restore.push(&bytes).await?;
                    restore.finish().await
                }
                .await;
                match backend.disarm() {
                    Outcome::NotReached => {
                        outcome?;
                        break;
                    }
                    Outcome::Skipped => continue,
                    Outcome::Fired => {}
                }
                let error = outcome.expect_err("the fault is told");
                assert_eq!(error.code(), ErrorCode::QuotaExceeded, "{error}");
                let mut again = Restore::begin(Arc::clone(&backend) as _).await?;
                again.push(&bytes).await?;
                again.finish().await?;
                assert_eq!(records(backend.as_ref()).await?, records(source.as_ref()).await?);
            }
        }
        let backend = Faulty::new(source.reopen());
        let context = open(Arc::clone(&backend) as _).await?;
        for n in 0.. {
            backend.arm(n, Fault::Fail, ErrorCode::StorageError);
            let outcome = chunks(&context).await.map(drop);
            if backend.disarm() == Outcome::NotReached {
                assert!(n >= Partition::ALL.len() as u64, "every partition is read");
                outcome?;
                break;
            }
            let error = outcome.expect_err("a read fails");
            assert_eq!(error.code(), ErrorCode::StorageError);
            // Commits are let through again.
            sql(&context, &format!("INSERT INTO t VALUES ({})", 100 + n)).await?;
        }
        Ok(())
    })
}
