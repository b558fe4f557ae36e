//! STORAGE CHECK and rescue: whatever byte of a database is damaged, it is found, named, and the rest is rescued.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use bytes::Bytes;
use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::sql::{ExecuteOptions, Params};
use kalamdb::storage::record::HEADER_BYTES;
use kalamdb::storage::{
    Durability, KeyRange, KeyValue, MemoryBackend, Partition, ScanOptions, StorageBackend, WriteBatch,
};
use kalamdb::tables::Health;
use kalamdb::types::{KalamDataType, Value};

async fn rows(context: &AppContext, text: &str) -> Result<Vec<Vec<String>>> {
    let (session, params, options) = (context.session(), Params::default(), ExecuteOptions::default());
    let result = context.executor().execute(session, text, &params, &options).await?.pop().and_then(|r| r.rows);
    let mut out = Vec::new();
    let Some(result) = result else { return Ok(out) };
    for batch in &result.batches {
        for row in 0..batch.num_rows() {
            let cell = |(array, field): (&arrow::array::ArrayRef, &Arc<arrow::datatypes::Field>)| {
                let value = Value::from_array(array.as_ref(), row, &KalamDataType::from_arrow_field(field)?)?;
                Ok(value.to_text().into_owned())
            };
            out.push(batch.columns().iter().zip(result.schema.fields()).map(cell).collect::<Result<_>>()?);
        }
    }
    Ok(out)
}

async fn open(backend: &MemoryBackend) -> Result<Arc<AppContext>> {
    AppContext::open(Arc::new(backend.reopen()), Config::default()).await
}

/// Two tables, a view, history, and a record of the log that has several parts.
async fn sample() -> Result<Arc<MemoryBackend>> {
    let backend = Arc::new(MemoryBackend::new());
    let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
    for text in [
        "CREATE TABLE good (k INT PRIMARY KEY, v TEXT)",
        "INSERT INTO good VALUES (1, 'one'), (2, 'two')",
        "CREATE NAMESPACE shop",
        "CREATE TABLE shop.bad (k INT PRIMARY KEY, v TEXT)",
        "INSERT INTO shop.bad VALUES (1, 'one')",
        "CREATE VIEW v AS SELECT k FROM good",
    ] {
        rows(&context, text).await.map_err(|e| e.in_context(text))?;
    }
    let long: String = (0..100_000u64).map(|n| format!("{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    rows(&context, &format!("INSERT INTO shop.bad VALUES (2, '{long}')")).await?;
    rows(&context, "INSERT INTO shop.bad VALUES (3, 'three')").await?;
    context.store().barrier().await;
    Ok(backend)
}

async fn records(backend: &MemoryBackend) -> Result<Vec<(Partition, KeyValue)>> {
    let mut all = Vec::new();
    for partition in Partition::ALL {
        let found = backend.scan(partition, &KeyRange::all(), ScanOptions::default()).await?;
        all.extend(found.into_iter().map(|record| (partition, record)));
    }
    Ok(all)
}

async fn with(
    backend: &MemoryBackend,
    partition: Partition,
    key: &[u8],
    value: Option<Bytes>,
) -> Result<MemoryBackend> {
    let copy = backend.reopen();
    let mut batch = WriteBatch::new();
    match value {
        Some(value) => batch.put(partition, key, value),
        None => batch.delete(partition, key),
    };
    copy.commit(batch, Durability::Strict).await?;
    Ok(copy)
}

/// What is rescued, opened.
async fn rescued(backend: &MemoryBackend) -> Result<(Arc<AppContext>, Vec<kalamdb::tables::Finding>)> {
    let (mut backup, findings) = AppContext::rescue(Arc::new(backend.reopen())).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = backup.next().await? {
        bytes.extend_from_slice(&chunk);
    }
    let context = AppContext::restore(Arc::new(MemoryBackend::new()), &bytes, Config::default()).await?;
    Ok((context, findings))
}

#[test]
fn a_sound_database_is_found_sound_and_rescued_whole() -> Result<()> {
    block_on(async {
        let backend = sample().await?;
        let context = open(&backend).await?;
        for text in ["STORAGE CHECK", "STORAGE CHECK ALL", "STORAGE CHECK TABLE shop.bad"] {
            let report = rows(&context, text).await?;
            assert!(!report.is_empty() && report.iter().all(|row| row[1] == "ok"), "{text}: {report:?}");
        }
        let report = rows(&context, "STORAGE CHECK TABLE shop.bad").await?;
        assert_eq!(report[0][0], "table shop.bad");
        assert_eq!(report[0][2], "log: 3 records, 3 rows, 0 deletions, 1 scopes");
        let error = rows(&context, "STORAGE CHECK TABLE nope").await.expect_err("no such table");
        assert_eq!(error.code(), ErrorCode::TableNotFound);
        let (again, findings) = rescued(&backend).await?;
        assert!(findings.iter().all(|f| f.health == Health::Ok));
        for question in
            ["SELECT _seq, * FROM good ORDER BY k", "SELECT _seq, * FROM shop.bad ORDER BY k", "SELECT * FROM v"]
        {
            assert_eq!(rows(&again, question).await?, rows(&context, question).await?);
        }
        Ok(())
    })
}

/// A segment with a damaged part is named, the rest of the database works, and everything else is rescued.
#[test]
fn a_damaged_segment_is_named_and_left_out() -> Result<()> {
    block_on(async {
        let backend = sample().await?;
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        for text in ["STORAGE FLUSH ALL", "INSERT INTO shop.bad VALUES (9, 'hot')", "DELETE FROM good WHERE k = 2"] {
            rows(&context, text).await?;
        }
        let report = rows(&context, "STORAGE CHECK").await?;
        assert!(report.iter().all(|row| row[1] == "ok"), "{report:?}");
        assert!(report.iter().any(|row| row[0] == "table shop.bad" && row[2] == "segments: 1, 3 rows"), "{report:?}");
        let parts = records(&backend)
            .await?
            .into_iter()
            .filter(|(partition, (key, _))| *partition == Partition::Blob && key[2..].starts_with(&[0, 0, 0, 2]));
        for (partition, (key, value)) in parts.collect::<Vec<_>>() {
            for at in [0, value.len() / 2, value.len() - 1] {
                let mut damaged = value.to_vec();
                damaged[at] ^= 1;
                let copy = with(&backend, partition, &key, Some(damaged.into())).await?;
                let context = open(&copy).await?;
                let report = rows(&context, "STORAGE CHECK TABLE shop.bad").await?;
                let bad: Vec<_> = report.iter().filter(|row| row[1] == "damaged").collect();
                assert_eq!(bad.len(), 1, "{report:?}");
                assert_eq!(bad[0][0], "table shop.bad segment 1");
                let error = rows(&context, "SELECT k, v FROM shop.bad").await.expect_err("it is damaged");
                assert_eq!(error.code(), ErrorCode::DataCorrupted);
                assert!(error.message().contains("segment 1 of table"), "{error}");
                assert_eq!(rows(&context, "SELECT v FROM good").await?, [["one"]]);
                let (again, findings) = rescued(&copy).await?;
                assert_eq!(findings.iter().filter(|f| f.health == Health::Damaged).count(), 1, "{findings:?}");
                assert_eq!(rows(&again, "SELECT v FROM shop.bad").await?, [["hot"]]);
                assert_eq!(rows(&again, "SELECT v FROM good").await?, [["one"]]);
                rows(&again, "STORAGE FLUSH ALL; INSERT INTO shop.bad VALUES (1, 'again')").await?;
                assert_eq!(rows(&again, "SELECT count(*) FROM shop.bad").await?, [["2"]]);
            }
        }
        Ok(())
    })
}

/// Every record of the database, damaged in its frame and in its payload, and removed.
#[test]
fn every_damaged_record_is_found_and_the_rest_is_rescued() -> Result<()> {
    block_on(async {
        let backend = sample().await?;
        for (partition, (key, value)) in records(&backend).await? {
            for at in [2, 9, HEADER_BYTES, value.len() - 1] {
                let mut damaged = value.to_vec();
                damaged[at] ^= 0x40;
                let what =
                    format!("byte {at} of {} {}", partition.name(), String::from_utf8_lossy(&key).escape_debug());
                let copy = with(&backend, partition, &key, Some(damaged.into())).await?;
                match open(&copy).await {
                    Err(error) => assert_eq!(error.code(), ErrorCode::DataCorrupted, "{what}: {error}"),
                    Ok(context) => {
                        let report = rows(&context, "STORAGE CHECK").await?;
                        let bad = report.iter().filter(|row| row[1] == "damaged").count();
                        assert_eq!(bad, 1, "{what}: {report:?}");
                        // What does not need it works; what does fails with an error that says why.
                        for question in ["SELECT v FROM good ORDER BY k", "SELECT k FROM shop.bad ORDER BY k"] {
                            if let Err(error) = rows(&context, question).await {
                                assert_eq!(error.code(), ErrorCode::DataCorrupted, "{what}, {question}: {error}");
                            }
                        }
                        if partition == Partition::Log && key.starts_with(&[0, 0, 0, 2]) {
                            assert_eq!(rows(&context, "SELECT count(*) FROM good").await?, [["2"]]);
                        }
                    }
                }
                let (again, findings) = rescued(&copy).await.map_err(|e| e.in_context(&what))?;
                assert_eq!(findings.iter().filter(|f| f.health == Health::Damaged).count(), 1, "{what}: {findings:?}");
                let report = rows(&again, "STORAGE CHECK").await?;
                // Rows of a table whose definition is lost stay in storage and belong to nobody.
                assert!(report.iter().all(|row| row[1] != "damaged"), "{what}: {report:?}");
                let about = |table: &str| key.windows(table.len()).any(|part| part == table.as_bytes());
                let table_no = (partition == Partition::Log).then(|| key[3]);
                if !about("good") && table_no != Some(1) && !about("namespace/default") {
                    assert_eq!(rows(&again, "SELECT v FROM good ORDER BY k").await?, [["one"], ["two"]], "{what}");
                }
                if !about("bad") && table_no.is_none() {
                    assert_eq!(rows(&again, "SELECT count(*) FROM shop.bad").await?, [["3"]], "{what}");
                } else if table_no == Some(2) {
                    assert_eq!(rows(&again, "SELECT count(*) FROM shop.bad").await?, [["2"]], "{what}");
                }
                // It goes on: no number is given twice, no name is in the way.
                rows(&again, "CREATE TABLE more (k INT); INSERT INTO more VALUES (1)").await?;
                assert_eq!(rows(&again, "SELECT count(*) FROM more").await?, [["1"]], "{what}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_missing_part_and_an_orphan_are_found() -> Result<()> {
    block_on(async {
        let backend = sample().await?;
        let parts: Vec<Vec<u8>> = records(&backend)
            .await?
            .into_iter()
            .filter(|(partition, (_, value))| *partition == Partition::Log && value.len() > 500_000)
            .map(|(_, (key, _))| key)
            .collect();
        assert!(parts.len() > 1, "the long row has several parts");
        for part in &parts {
            let copy = with(&backend, Partition::Log, part, None).await?;
            let context = open(&copy).await?;
            let report = rows(&context, "STORAGE CHECK TABLE shop.bad").await?;
            assert_eq!(report[0][..2], ["table shop.bad", "damaged"], "{report:?}");
            let (again, _) = rescued(&copy).await?;
            assert_eq!(rows(&again, "SELECT k FROM shop.bad ORDER BY k").await?, [["1"], ["3"]]);
        }
        let definition = records(&backend).await?.into_iter().find(|(_, (key, _))| key.ends_with(b"bad"));
        let (partition, (key, _)) = definition.expect("the definition");
        let context = open(&with(&backend, partition, &key, None).await?).await?;
        let report = rows(&context, "STORAGE CHECK").await?;
        assert!(report.iter().any(|row| row[1] == "orphaned"), "{report:?}");
        Ok(())
    })
}
