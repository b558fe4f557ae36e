//! STORAGE CHECK and rescue: whatever byte of a database is damaged, it is found, named, and the rest is rescued.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::UInt32Array;
use bytes::Bytes;
use datafusion::common::ScalarValue;
use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::storage::record::{self, HEADER_BYTES, RecordKind};
use kalamdb::storage::{
    Durability, KeyRange, KeyValue, MemoryBackend, Partition, ScanOptions, StorageBackend, WriteBatch,
};
use kalamdb::tables::{DeleteVector, Health, SegmentMeta};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use roaring::RoaringBitmap;

mod support;

use support::{last_values, map_cells, open_copy as open, sql, text};

async fn rows(context: &AppContext, statement: &str) -> Result<Vec<Vec<String>>> {
    Ok(map_cells(last_values(&sql(context, statement).await?)?, text))
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

/// Nothing is no database, and no backup of an empty one.
#[test]
fn rescue_of_nothing_says_so_and_writes_nothing() -> Result<()> {
    block_on(async {
        let backend = MemoryBackend::new();
        let error = AppContext::rescue(Arc::new(backend.reopen())).await.expect_err("there is no database");
        assert_eq!(error.code(), ErrorCode::DatabaseNotFound);
        assert!(records(&backend).await?.is_empty());
        Ok(())
    })
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

/// Segments of several parts and row groups, with rows of theirs changed in the log.
async fn large() -> Result<Arc<MemoryBackend>> {
    let backend = Arc::new(MemoryBackend::new());
    let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
    let noise = |n: u32| format!("CAST((value * {n}) % 1000000007 AS TEXT)");
    for text in [
        "CREATE TABLE t (k INT PRIMARY KEY, a TEXT, b TEXT, c DOUBLE)".to_owned(),
        format!(
            "INSERT INTO t SELECT value, {} || {}, {}, value * 0.37 FROM generate_series(0, {})",
            noise(69_621),
            noise(48_271),
            noise(16_807),
            LARGE - 1
        ),
        "DELETE FROM t WHERE k % 1000 = 7".to_owned(),
        "STORAGE FLUSH TABLE t".to_owned(),
        "ALTER TABLE t ADD COLUMN d INT DEFAULT 5".to_owned(),
        "UPDATE t SET a = 'changed' WHERE k % 1000 = 8".to_owned(),
        "DELETE FROM t WHERE k % 1000 = 9".to_owned(),
        format!("INSERT INTO t VALUES ({LARGE}, 'hot', 'hot', 0, 1)"),
    ] {
        rows(&context, &text).await?;
    }
    context.store().barrier().await;
    Ok(backend)
}

const LARGE: usize = 80_000;

/// Of a segment everything is rescued that lies in sound parts, and the report says what does not.
#[test]
fn what_is_readable_of_a_damaged_segment_is_rescued() -> Result<()> {
    block_on(async {
        let backend = large().await?;
        let question = "SELECT k, a, b, c, d FROM t ORDER BY k";
        let before = open(&backend).await?;
        let all = rows(&before, question).await?;
        // Rows that were deleted before the flush, and by the log after it.
        let deletions = "SELECT k, a, b, c, d, _seq FROM t WHERE _deleted ORDER BY k";
        let gone = rows(&before, deletions).await?;
        assert_eq!(gone.len(), 2 * LARGE / 1000);
        let parts: Vec<_> =
            records(&backend).await?.into_iter().filter(|(partition, _)| *partition == Partition::Blob).collect();
        assert!(parts.len() >= 5, "{} parts", parts.len());
        let mut partly = 0;
        for (i, (partition, (key, value))) in parts.iter().enumerate() {
            // A bit is another one, the end is missing, or all of it.
            let damaged = match i % 3 {
                0 => {
                    let mut bytes = value.to_vec();
                    bytes[value.len() / 2] ^= 4;
                    Some(bytes.into())
                }
                1 => Some(value.slice(..value.len() / 2)),
                _ => None,
            };
            let copy = with(&backend, *partition, key, damaged).await?;
            let (again, findings) = rescued(&copy).await?;
            let bad: Vec<_> = findings.iter().filter(|f| f.health == Health::Damaged).collect();
            assert_eq!(bad.len(), 1, "{findings:?}");
            assert_eq!(bad[0].object, "table default.t segment 1");
            let detail = &bad[0].detail;
            assert!(detail.contains("segment 1 of table 'default.t' is damaged: part"), "{detail}");
            let numbers = |after: &str| -> usize {
                let head = detail.split(after).next().unwrap_or_default();
                head.rsplit([' ', ',']).find_map(|word| word.parse().ok()).unwrap_or_default()
            };
            let left = rows(&again, question).await?;
            // What the log holds is there in any case: changed rows and new ones.
            let of_log = all.iter().filter(|row| row[1] == "changed" || row[1] == "hot").count();
            let lost = if detail.contains("nothing of it can be read") {
                assert_eq!(i, parts.len() - 1, "the footer: {detail}");
                assert_eq!(left.len(), of_log);
                numbers(" rows are lost")
            } else {
                partly += 1;
                assert_eq!(numbers(" rows are rescued") + of_log, left.len(), "{detail}");
                assert!(detail.contains(" of row group "), "{detail}");
                numbers(" are lost")
            };
            assert_eq!(left.len() + lost, all.len(), "{detail}");
            let mut of_all = all.iter();
            assert!(left.iter().all(|row| of_all.any(|other| other == row)), "a row that was never there");
            // The report names the rows: those that are missing lie there, and no other.
            let there: HashSet<&String> = left.iter().map(|row| &row[0]).collect();
            let missing = all.iter().map(|row| &row[0]).filter(|key| !there.contains(key));
            let missing = missing.map(|key| key.parse::<usize>().expect("a key"));
            let places: Vec<(usize, usize)> = detail
                .split("rows ")
                .filter_map(|place| {
                    let (range, group) = place.split_once(" of row group ")?;
                    let (from, to) = range.split_once(" to ")?;
                    let group: usize = group.split(',').next()?.trim().parse().ok()?;
                    Some((group * 32_768 + from.parse::<usize>().ok()?, group * 32_768 + to.parse::<usize>().ok()?))
                })
                .collect();
            // Keys are rows of the segment here, from 0 on.
            if !places.is_empty() {
                for key in missing {
                    assert!(places.iter().any(|(from, to)| (*from..=*to).contains(&key)), "row {key}: {detail}");
                }
                let named: usize = places.iter().map(|(from, to)| to - from + 1).sum();
                assert_eq!(named, lost, "{detail}");
            }
            // What was deleted is known as far as it lies beside rows that are there.
            let known = rows(&again, deletions).await?;
            assert!(known.iter().all(|row| gone.contains(row)), "{known:?}");
            for row in gone.iter().filter(|row| !known.contains(row)) {
                let key: usize = row[0].parse().expect("a key");
                // Between these all rows were changed or deleted, and no page ends.
                let beside = [6, 10].map(|row| (key - key % 1000 + row).to_string());
                assert!(!beside.iter().any(|row| there.contains(row)), "the deletion of {key} is lost: {detail}");
            }
            // It goes on.
            rows(&again, "INSERT INTO t VALUES (-1, 'new', NULL, 1, 1); STORAGE FLUSH ALL; STORAGE COMPACT ALL")
                .await?;
            assert_eq!(rows(&again, "SELECT count(*) FROM t").await?, [[(left.len() + 1).to_string()]]);
            let report = rows(&again, "STORAGE CHECK").await?;
            assert!(report.iter().all(|row| row[1] == "ok"), "{report:?}");
        }
        assert!(partly >= 3, "{partly} segments were read in part");
        Ok(())
    })
}

/// A segment's place in the manifest, and what is said of it there.
struct Said {
    backend: Arc<MemoryBackend>,
    key: Vec<u8>,
    meta: SegmentMeta,
    marks: DeleteVector,
}

impl Said {
    async fn of(backend: Arc<MemoryBackend>) -> Result<Self> {
        let found = backend.scan(Partition::Manifest, &KeyRange::all(), ScanOptions::default()).await?;
        // The head of the scope comes first.
        let (key, value) = found.into_iter().nth(1).expect("a segment");
        let payload = record::open(RecordKind::Manifest, &key, &value)?;
        let (meta, length) = SegmentMeta::decode(&payload[6..])?;
        let marks = DeleteVector::decode(&payload[6 + length..])?;
        Ok(Self { backend, key, meta, marks })
    }

    /// The database in which something else is said, sealed as if it were true.
    async fn saying(&self, meta: &SegmentMeta, marks: &DeleteVector) -> Result<MemoryBackend> {
        let mut payload = vec![0, 0, 0, 0, 1, 1];
        meta.encode(&mut payload)?;
        marks.encode(&mut payload)?;
        let length = payload.len() as u32;
        payload[..4].copy_from_slice(&length.to_le_bytes());
        let value = record::seal(RecordKind::Manifest, &self.key, &payload);
        with(&self.backend, Partition::Manifest, &self.key, Some(value)).await
    }
}

async fn check_finds(backend: &MemoryBackend, what: &str, expected: &str) -> Result<()> {
    let context = open(backend).await?;
    let report = rows(&context, "STORAGE CHECK").await?;
    let bad: Vec<_> = report.iter().filter(|row| row[1] == "damaged").collect();
    assert_eq!(bad.len(), 1, "{what}: {report:?}");
    assert_eq!(bad[0][0], "table default.t segment 1", "{what}");
    assert!(bad[0][2].contains(expected), "{what}: {}", bad[0][2]);
    // What its rows are is known, so all of them are rescued, and what is said of them then is true.
    let (again, _) = rescued(backend).await.map_err(|e| e.in_context(what))?;
    let report = rows(&again, "STORAGE CHECK").await?;
    assert!(report.iter().all(|row| row[1] == "ok"), "{what}, rescued: {report:?}");
    Ok(())
}

/// Everything that the manifest says of a segment is compared with its rows: what lies with a valid checksum is found.
#[test]
fn what_the_manifest_says_is_compared_with_the_rows() -> Result<()> {
    block_on(async {
        let backend = Arc::new(MemoryBackend::new());
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        for text in [
            "CREATE TABLE t (k INT PRIMARY KEY, v TEXT, d DOUBLE)",
            "INSERT INTO t SELECT value, CASE WHEN value % 5 = 0 THEN NULL ELSE 'text ' || CAST(value AS TEXT) END, value / 7.0 \
             FROM generate_series(1, 40000)",
            "UPDATE t SET d = 1 WHERE k = 20",
            "DELETE FROM t WHERE k BETWEEN 100 AND 110",
        ] {
            rows(&context, text).await?;
        }
        // Someone reads the rows before: how they ended stays remembered.
        let pin = context.store().pin();
        rows(&context, "UPDATE t SET v = 'now' WHERE k < 5; DELETE FROM t WHERE k = 30").await?;
        rows(&context, "STORAGE FLUSH TABLE t").await?;
        let report = rows(&context, "STORAGE CHECK").await?;
        assert!(report.iter().all(|row| row[1] == "ok"), "{report:?}");
        let said = Said::of(Arc::new(backend.reopen())).await?;
        drop(pin);
        let (meta, marks) = (&said.meta, &said.marks);
        assert!(meta.groups() == 2 && marks.ended_after(i64::MIN).count() > 0 && !marks.tombstones().is_empty());

        type Lie = (&'static str, &'static str, fn(&mut SegmentMeta));
        let lies: [Lie; 16] = [
            ("more rows", "row groups of", |m| m.rows += 1),
            ("fewer rows", "row groups of", |m| m.rows -= 1),
            ("a greater least _seq", "its _seq are", |m| m.min_seq += 1),
            ("a greater greatest _seq", "its _seq are", |m| m.max_seq += 1),
            ("another first key", "row group 0 begins with (k)=(1)", |m| m.group_keys[0][4] ^= 1),
            ("another key of a row group", "row group 1 begins with", |m| m.group_keys[1][4] ^= 1),
            ("another last key", "its last key", |m| m.last_key[4] ^= 1),
            ("other NULLs", "NULLs and not", |m| m.columns[1].nulls -= 1),
            ("another least value", "its column 1 has other bounds", |m| {
                m.columns[0].min = Some(ScalarValue::Int32(Some(2)))
            }),
            ("another greatest value", "its column 1 has other bounds", |m| {
                m.columns[0].max = Some(ScalarValue::Int32(Some(39_999)));
            }),
            ("no bounds", "its column 3 has other bounds", |m| m.columns[2].min = None),
            ("NaN", "its column 3 has other bounds", |m| m.columns[2].has_nan = true),
            ("bounds that are no values", "its column 2 has other bounds", |m| m.columns[1].exact = false),
            ("another schema version", "it has schema version 2", |m| m.schema_version = 2),
            ("another version of keys", "its keys are those of version 2", |m| m.key_version = 2),
            ("another column", "its columns are not those", |m| m.columns[1].column_id = 9),
        ];
        for (what, expected, lie) in lies {
            let mut meta = meta.clone();
            lie(&mut meta);
            check_finds(&said.saying(&meta, marks).await?, what, expected).await?;
        }
        let bitmap = |row: u32| -> RoaringBitmap { std::iter::once(row).collect() };
        let none = RoaringBitmap::new();
        let row = |nth: usize| marks.ended_after(i64::MIN).flat_map(|(_, rows)| rows.iter()).nth(nth).expect("a row");
        type Entries = Vec<(i64, RoaringBitmap)>;
        let encoded = |ended: &RoaringBitmap, recent: Entries, tombstones: Entries| -> Result<DeleteVector> {
            let mut bytes = vec![1];
            kalamdb::tables::encode_bitmap(ended, &mut bytes)?;
            for entries in [recent, tombstones] {
                bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
                for (seq, rows) in entries {
                    bytes.extend_from_slice(&seq.to_le_bytes());
                    kalamdb::tables::encode_bitmap(&rows, &mut bytes)?;
                }
            }
            DeleteVector::decode(&bytes)
        };
        let of_row = |row: u32| format!("holds row {row} of {} rows", meta.rows);
        let beyond = of_row(meta.rows);
        let later = meta.max_seq + 10;
        for (what, expected, lie) in [
            ("a row that is not there", beyond.as_str(), encoded(&bitmap(meta.rows), vec![], vec![])?),
            ("a row twice", "holds a row twice", encoded(&bitmap(7), vec![(later, bitmap(7))], vec![])?),
            ("out of order", "not in the order of _seq", {
                encoded(&none, vec![(later, bitmap(row(0))), (later - 1, bitmap(row(1)))], vec![])?
            }),
            ("a deletion of a live row", "deleted twice or live", encoded(&none, vec![], vec![(later, bitmap(9))])?),
            ("an end before the beginning", "before it was there", encoded(&none, vec![(5, bitmap(0))], vec![])?),
            ("two live rows of a key", "are both live with (k)=", DeleteVector::new()),
        ] {
            let damaged = said.saying(meta, &lie).await?;
            let report = rows(&*open(&damaged).await?, "STORAGE CHECK").await?;
            let bad: Vec<_> = report.iter().filter(|row| row[1] == "damaged").collect();
            assert_eq!(bad.len(), 1, "{what}: {report:?}");
            assert!(bad[0][2].contains(expected), "{what}: {}", bad[0][2]);
        }
        Ok(())
    })
}

/// Rows of a file whose checksums are right, in another order.
#[test]
fn rows_out_of_order_are_found() -> Result<()> {
    block_on(async {
        let backend = Arc::new(MemoryBackend::new());
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        rows(&context, "CREATE TABLE t (k INT PRIMARY KEY, v TEXT)").await?;
        rows(&context, "INSERT INTO t SELECT value, 'v' FROM generate_series(1, 500); STORAGE FLUSH TABLE t").await?;
        let said = Said::of(Arc::clone(&backend)).await?;
        let blob = &said.key[..said.key.len() - 2];
        let file = backend.read_blob(blob, 0, said.meta.bytes).await?.expect("the file");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("a Parquet file").build().expect("its rows");
        let batch = reader.map(|batch| batch.expect("rows")).next().expect("a batch");
        let order: UInt32Array = (0..500)
            .map(|i| {
                if i == 250 {
                    251
                } else if i == 251 {
                    250
                } else {
                    i
                }
            })
            .collect();
        let swapped = arrow::compute::take_record_batch(&batch, &order).expect("the rows");
        let mut writer = ArrowWriter::try_new(Vec::new(), swapped.schema(), None).expect("a writer");
        writer.write(&swapped).expect("written");
        let parquet = writer.finish().expect("a file");
        let file = Bytes::from(std::mem::take(writer.inner_mut()));
        let chunks = parquet.row_groups().iter().flat_map(|group| group.columns());
        let index = chunks.filter_map(|c| c.column_index_offset()).min().expect("a page index");
        let mut meta = said.meta.clone();
        meta.bytes = file.len() as u64;
        meta.footer_bytes = (file.len() as i64 - index) as u32;
        meta.part_crcs = vec![crc32fast::hash(&file)];
        let damaged = said.saying(&meta, &said.marks).await?;
        let mut batch = WriteBatch::new();
        batch.put_blob(blob, &file);
        damaged.commit(batch, Durability::Strict).await?;
        check_finds(&damaged, "rows in another order", "row 251 is out of order: (k)=(251) after (k)=(252)").await?;
        let (again, _) = rescued(&damaged).await?;
        assert_eq!(rows(&again, "SELECT count(*), count(DISTINCT k) FROM t").await?, [["500", "500"]]);
        assert_eq!(rows(&again, "SELECT v FROM t WHERE k = 251").await?, [["v"]]);
        Ok(())
    })
}

/// Records of the manifest: of a scope whose head is lost the segments are there, and no number is given twice; of one
/// that has lost the record of a segment the others are.
#[test]
fn a_scope_is_rescued_without_its_head_or_one_of_its_segments() -> Result<()> {
    block_on(async {
        let backend = Arc::new(MemoryBackend::new());
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        rows(&context, "CREATE TABLE t (k INT PRIMARY KEY, v TEXT)").await?;
        for n in [10, 20, 30] {
            rows(&context, &format!("INSERT INTO t VALUES ({n}, 'v'); STORAGE FLUSH TABLE t")).await?;
        }
        let found = backend.scan(Partition::Manifest, &KeyRange::all(), ScanOptions::default()).await?;
        assert_eq!(found.len(), 4);
        for (i, (key, value)) in found.into_iter().enumerate() {
            for at in [2, HEADER_BYTES, value.len() - 1] {
                let mut damaged = value.to_vec();
                damaged[at] ^= 1;
                let copy = with(&backend, Partition::Manifest, &key, Some(damaged.into())).await?;
                let report = rows(&*open(&copy).await?, "STORAGE CHECK").await?;
                assert_eq!(report.iter().filter(|row| row[1] == "damaged").count(), 1, "{report:?}");
                let (again, _) = rescued(&copy).await?;
                let expected: Vec<Vec<String>> = [10, 20, 30]
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| n + 1 != i)
                    .map(|(_, k)| vec![k.to_string()])
                    .collect();
                assert_eq!(rows(&again, "SELECT k FROM t ORDER BY k").await?, expected);
                rows(&again, "INSERT INTO t VALUES (40, 'v'); STORAGE FLUSH TABLE t").await?;
                rows(&again, "INSERT INTO t VALUES (50, 'v'); STORAGE FLUSH TABLE t; STORAGE COMPACT TABLE t").await?;
                assert_eq!(rows(&again, "SELECT count(*) FROM t").await?, [[(expected.len() + 2).to_string()]]);
                let report = rows(&again, "STORAGE CHECK").await?;
                assert!(report.iter().all(|row| row[1] == "ok"), "{report:?}");
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
