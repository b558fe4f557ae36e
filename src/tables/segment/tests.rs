//! Segments as a whole: written, read back, searched, damaged.

use std::sync::Arc;

use ::bytes::Bytes;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute;
use arrow::datatypes::Int64Type;
use futures::executor::block_on;
use proptest::prelude::*;
use roaring::RoaringBitmap;

use super::*;
use crate::error::ErrorCode;
use crate::schema::{NewColumn, TableDefinition, TableId, TableOptions, TableType};
use crate::storage::{
    BLOB_PART_BYTES, CountingBackend, Durability, MemoryBackend, Partition, StorageBackend, WriteBatch, WriteOp,
};
use crate::tables::KeySpec;
use crate::types::testing::{any_type, any_value, array_of};
use crate::types::{KalamDataType, Value};

pub(super) fn table(columns: &[(&str, KalamDataType)], key: &[&str]) -> Arc<TableDefinition> {
    let columns = columns.iter().map(|(name, ty)| NewColumn::new(*name, *ty)).collect();
    let key: Vec<String> = key.iter().map(|k| (*k).to_owned()).collect();
    let id = TableId::new("app", "t");
    let options = TableOptions::default();
    Arc::new(TableDefinition::new(id, 1, TableType::Shared, columns, &key, options, 0, "test").unwrap())
}

pub(super) fn ints(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn seqs(values: impl IntoIterator<Item = i64>) -> Int64Array {
    Int64Array::from_iter_values(values)
}

/// A segment on a backend of its own.
struct Fixture {
    definition: Arc<TableDefinition>,
    backend: Arc<CountingBackend>,
    cache: Arc<SegmentCache>,
    meta: SegmentMeta,
    file: Bytes,
}

const BLOB: &[u8] = b"segment";

impl Fixture {
    fn new(definition: Arc<TableDefinition>, rows: &[SegmentRows]) -> Self {
        let (file, meta) = write_segment(&definition, 1, rows).unwrap();
        let backend = Arc::new(CountingBackend::new(Arc::new(MemoryBackend::new())));
        let fixture = Self { definition, backend, cache: SegmentCache::new(64 << 20), meta, file };
        fixture.store(&fixture.file);
        fixture
    }

    fn store(&self, file: &Bytes) {
        let mut batch = WriteBatch::new();
        batch.put_blob(BLOB, file);
        block_on(self.backend.commit(batch, Durability::Memory)).unwrap();
    }

    fn open(&self) -> Segment {
        let source = SegmentSource {
            backend: Arc::clone(&self.backend) as Arc<dyn StorageBackend>,
            cache: Arc::clone(&self.cache),
            blob: BLOB.to_vec(),
            table: "app.t".to_owned(),
        };
        Segment::new(source, self.meta.clone(), DeleteVector::new(), None)
    }

    fn find(&self, segment: &Segment, keys: &[Vec<u8>]) -> Vec<(usize, u32)> {
        let key = KeySpec::new(&self.definition).unwrap();
        block_on(segment.find_keys(&self.definition, &key, keys)).unwrap()
    }
}

fn key_of(definition: &TableDefinition, values: &[Value]) -> Vec<u8> {
    let mut key = Vec::new();
    definition.key_codec().unwrap().encode_values(values, &mut key).unwrap();
    key
}

/// 70 000 rows: three row groups. Keys are even numbers.
fn wide() -> Fixture {
    let definition =
        table(&[("id", KalamDataType::BigInt), ("name", KalamDataType::Text), ("n", KalamDataType::Double)], &["id"]);
    let part = |start: i64, end: i64| SegmentRows {
        columns: vec![
            ints((start..end).map(|i| i * 2)),
            Arc::new(arrow::array::StringArray::from_iter(
                (start..end).map(|i| (i % 10 != 0).then(|| format!("name {}", i * 7919 % 100_003))),
            )),
            Arc::new(arrow::array::Float64Array::from_iter_values((start..end).map(|i| (i * 31 % 997) as f64))),
        ],
        seqs: seqs(start + 100..end + 100),
        row_ids: None,
    };
    Fixture::new(definition, &[part(0, 30_000), part(30_000, 60_000), part(60_000, 70_000)])
}

#[test]
fn positions_are_what_they_were_made_of() {
    for (segment, row) in [(1, 0), (1 << 29, u32::MAX), ((1 << 30) - 1, 7)] {
        assert_eq!(cold_row(cold_position(segment, row)), Some((segment, row)));
    }
    assert_eq!(cold_row((1 << 61) + 5), None);
    assert!(cold_position(1, 0) > (1 << 61) + 5);
    assert!(i64::try_from(cold_position((1 << 30) - 1, u32::MAX)).is_ok());
}

#[test]
fn rows_come_back_by_group_and_by_number() {
    let fixture = wide();
    let segment = fixture.open();
    assert_eq!((segment.meta().rows, segment.meta().groups()), (70_000, 3));
    assert_eq!(segment.meta().group_rows(2), 65_536..70_000);
    let mut next = 0;
    for group in 0..3 {
        let read = block_on(segment.read_rows(group, &[3, 1, 99, SEQ_FIELD_ID])).unwrap();
        assert!(read[2].is_none());
        let (n, id) = (read[0].as_ref().unwrap(), read[1].as_ref().unwrap());
        let seqs = read[3].as_ref().unwrap();
        for row in 0..id.len() {
            assert_eq!(id.as_primitive::<Int64Type>().value(row), next * 2);
            assert_eq!(n.as_primitive::<arrow::datatypes::Float64Type>().value(row), (next * 31 % 997) as f64);
            assert_eq!(seqs.as_primitive::<Int64Type>().value(row), next + 100);
            next += 1;
        }
    }
    assert_eq!(next, 70_000);
    let rows = [0, 5, 32_767, 32_768, 50_001, 65_535, 65_536, 69_999];
    for _ in 0..2 {
        let taken = block_on(segment.take(&rows, &[2, 1, 99])).unwrap();
        let ids: Vec<i64> = taken[1].as_ref().unwrap().as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(ids, rows.map(|row| i64::from(row) * 2));
        let names = taken[0].as_ref().unwrap().as_string::<i32>();
        assert!(names.is_null(0) && names.value(1) == "name 39595" && taken[2].is_none());
    }
    let group = block_on(segment.read_group(&fixture.definition, 2, None)).unwrap();
    assert_eq!((group.len(), group.columns.len(), group.seqs.value(0)), (4464, 3, 65_636));
}

#[test]
fn few_rows_are_read_without_the_rest() {
    let fixture = wide();
    let segment = fixture.open();
    // Runs of single rows at both ends of a row group, and nothing on the pages between.
    let kept = |row: usize| (row < 400 && row.is_multiple_of(2)) || (row > 28_700 && row % 100 == 3);
    let mask = BooleanBuffer::collect_bool(ROW_GROUP_ROWS, kept);
    let mut rows = GroupRows::new(&segment, 1, Some(mask.clone()));
    assert_eq!((rows.len(), rows.decoded()), (mask.count_set_bits(), 0));
    let ids = block_on(rows.columns(&[1, 99])).unwrap();
    assert!(ids[1].is_none() && !segment.is_cached(1, 1));
    let value = |row: u32| (row as usize + ROW_GROUP_ROWS) as i64 * 2;
    let expected: Vec<i64> = rows.indices().map(value).collect();
    assert_eq!(ids[0].as_ref().unwrap().as_primitive::<Int64Type>().values().to_vec(), expected);
    assert_eq!(rows.decoded(), mask.count_set_bits());
    // A condition, then another column of the rows that are left; what is held follows.
    let third = BooleanBuffer::collect_bool(rows.len(), |i| i % 3 == 1);
    rows.narrow(&third).unwrap();
    let read = block_on(rows.columns(&[SEQ_FIELD_ID, 1])).unwrap();
    let expected: Vec<i64> = rows.indices().map(value).collect();
    assert_eq!(read[1].as_ref().unwrap().as_primitive::<Int64Type>().values().to_vec(), expected);
    let seqs: Vec<i64> = expected.iter().map(|id| id / 2 + 100).collect();
    assert_eq!(read[0].as_ref().unwrap().as_primitive::<Int64Type>().values().to_vec(), seqs);
    assert_eq!(rows.len(), third.count_set_bits());
    // Nothing of the file was read twice.
    assert!(
        segment.bytes_read() <= fixture.meta.bytes + u64::from(fixture.meta.footer_bytes).max(BLOB_PART_BYTES as u64)
    );
    // Most rows: the column is decoded whole and kept.
    let mut rows = GroupRows::new(&segment, 1, None);
    rows.retain_ranges(&[0..10, 20..30_000]);
    rows.truncate(25_000);
    let read = block_on(rows.columns(&[1])).unwrap();
    let expected: Vec<i64> = (0..10).chain(20..25_010).map(value).collect();
    assert_eq!(read[0].as_ref().unwrap().as_primitive::<Int64Type>().values().to_vec(), expected);
    assert!(segment.is_cached(1, 1) && rows.decoded() == ROW_GROUP_ROWS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn narrowed_rows_are_those_of_whole_columns(
        steps in prop::collection::vec((2usize..400, 0usize..50, prop::sample::subsequence(vec![1u32, 2, 3], 0..3)), 1..4),
        start in 0u32..32_768, length in 1u32..32_768, limit in prop::option::of(0usize..20_000), budget in 0usize..2,
    ) {
        let fixture = wide();
        fixture.cache.set_budget(budget << 26);
        let segment = fixture.open();
        let whole = block_on(segment.read_rows(0, &[1, 2, 3])).unwrap();
        fixture.cache.clear();
        let mut rows = GroupRows::new(&segment, 0, None);
        let end = (start + length).min(ROW_GROUP_ROWS as u32);
        rows.retain_ranges(std::slice::from_ref(&(start..end)));
        let mut expected: Vec<u32> = (start..end).collect();
        if let Some(limit) = limit {
            rows.truncate(limit);
            expected.truncate(limit);
        }
        for (every, from, ids) in steps {
            block_on(rows.columns(&ids)).unwrap();
            rows.narrow(&BooleanBuffer::collect_bool(expected.len(), |i| i >= from && i % every == 0)).unwrap();
            expected = expected.iter().enumerate().filter(|(i, _)| *i >= from && i % every == 0).map(|(_, r)| *r).collect();
        }
        prop_assert_eq!(rows.indices().collect::<Vec<_>>(), expected.clone());
        if !expected.is_empty() {
            let read = block_on(rows.columns(&[3, 1, 2])).unwrap();
            let picked = arrow::array::UInt32Array::from(expected);
            for (array, place) in read.iter().zip([2, 0, 1]) {
                let array_of = compute::take(whole[place].as_ref().unwrap(), &picked, None).unwrap();
                prop_assert_eq!(array.as_ref().unwrap(), &array_of);
            }
        }
    }
}

#[test]
fn keys_are_found_where_they_are() {
    let fixture = wide();
    let segment = fixture.open();
    let key = |n: i64| key_of(&fixture.definition, &[Value::BigInt(n)]);
    let rows = [0u32, 1, 32_767, 32_768, 65_535, 65_536, 69_999];
    let keys: Vec<Vec<u8>> = rows.iter().map(|row| key(i64::from(*row) * 2)).collect();
    let found: Vec<u32> = fixture.find(&segment, &keys).into_iter().map(|f| f.1).collect();
    assert_eq!(found, rows);
    let absent: Vec<Vec<u8>> = [-2, 1, 65_535, 139_999, 140_000].map(key).to_vec();
    assert_eq!(fixture.find(&segment, &absent), []);
    assert!(!segment.meta().may_hold(&key(-2)) && !segment.meta().may_hold(&key(140_000)));
}

#[test]
fn a_lookup_reads_little_and_a_second_one_nothing() {
    let definition = table(&[("id", KalamDataType::Uuid), ("v", KalamDataType::Bytes)], &["id"]);
    let noise =
        |i: u64, salt: u64| (i ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(salt | 1);
    let mut ids: Vec<[u8; 16]> = (0..40_000u64)
        .map(|i| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&noise(i, 1).to_be_bytes());
            id[8..].copy_from_slice(&noise(i, 77).to_be_bytes());
            id
        })
        .collect();
    ids.sort_unstable();
    let values = (0..40_000u64).map(|i| (1..17).flat_map(|k| noise(i, k).to_be_bytes()).collect::<Vec<u8>>());
    let rows = SegmentRows {
        columns: vec![
            array_of(&KalamDataType::Uuid, &ids.iter().map(|id| Value::Uuid(*id)).collect::<Vec<_>>()),
            array_of(&KalamDataType::Bytes, &values.map(Value::Bytes).collect::<Vec<_>>()),
        ],
        seqs: seqs(0..40_000),
        row_ids: None,
    };
    let fixture = Fixture::new(definition, &[rows]);
    assert!(fixture.meta.bytes > 3 << 20, "noise does not pack: {}", fixture.meta.bytes);
    let segment = fixture.open();
    let key = |id: [u8; 16]| key_of(&fixture.definition, &[Value::Uuid(id)]);
    let before = fixture.backend.counters();
    assert_eq!(fixture.find(&segment, &[key([0x80; 16])]), []);
    let absent = segment.bytes_read();
    assert!(absent <= 3 * BLOB_PART_BYTES as u64, "footer and Bloom filter: {absent}");
    assert_eq!(fixture.find(&segment, &[key(ids[20_000])]), [(0, 20_000)]);
    let taken = block_on(segment.take(&[20_000], &[2])).unwrap();
    assert_eq!(taken[0].as_ref().unwrap().len(), 1);
    assert!(segment.bytes_read() < fixture.meta.bytes, "{} of {}", segment.bytes_read(), fixture.meta.bytes);
    let reads = fixture.backend.counters().scans;
    assert!(reads > before.scans);
    assert_eq!(fixture.find(&segment, &[key(ids[20_001]), key([0x80; 16])]), [(0, 20_001)]);
    assert_eq!(fixture.backend.counters().scans, reads, "the key column was cached");
    drop(segment);
    assert_eq!(fixture.cache.statistics().bytes, 0);
}

#[test]
fn versions_of_a_key_are_all_found() {
    let definition = table(&[("a", KalamDataType::Text), ("b", KalamDataType::Int)], &["a", "b"]);
    let text = |s: &str| Value::Text(s.to_owned());
    let long = "x".repeat(400);
    let rows = [("", 1, 5), ("k", 1, 3), ("k", 1, 9), ("k", 2, 1), (long.as_str(), 0, 2), (long.as_str(), 0, 4)];
    let columns = vec![
        array_of(&KalamDataType::Text, &rows.map(|r| text(r.0))),
        array_of(&KalamDataType::Int, &rows.map(|r| Value::BigInt(r.1))),
    ];
    let all = SegmentRows { columns, seqs: seqs(rows.map(|r| r.2)), row_ids: None };
    let fixture = Fixture::new(definition, &[all]);
    let segment = fixture.open();
    let key = |a: &str, b: i64| key_of(&fixture.definition, &[text(a), Value::BigInt(b)]);
    let keys = [key("k", 1), key("", 1), key(&long, 0), key("k", 3), key(&long, 1)];
    assert_eq!(fixture.find(&segment, &keys), [(1, 0), (0, 1), (0, 2), (2, 4), (2, 5)]);
    assert_eq!(block_on(segment.visible(&[1, 2, 4], 3)).unwrap(), [1, 4]);
    segment.change_marks(|marks| marks.mark(9, &RoaringBitmap::from([1]), &RoaringBitmap::new()));
    assert_eq!(block_on(segment.visible(&[1, 2], 9)).unwrap(), [2]);
    let seen = |snapshot| block_on(segment.visibility(0, snapshot)).unwrap();
    assert_eq!(seen(2).unwrap().iter().collect::<Vec<_>>(), [false, false, false, true, true, false]);
    assert_eq!(seen(9).unwrap().iter().collect::<Vec<_>>(), [true, false, true, true, true, true]);
    assert_eq!(segment.live_rows(), 5);
}

#[test]
fn rows_out_of_order_are_refused() {
    let definition = table(&[("id", KalamDataType::BigInt)], &["id"]);
    for (ids, at) in [([1, 1], [5, 5]), ([2, 1], [1, 2]), ([1, 1], [6, 5])] {
        let rows = SegmentRows { columns: vec![ints(ids)], seqs: seqs(at), row_ids: None };
        assert_eq!(write_segment(&definition, 1, &[rows]).unwrap_err().code(), ErrorCode::Internal);
    }
    assert!(SegmentWriter::new(&definition, 1).unwrap().finish().is_err());
}

#[test]
fn older_versions_read_as_the_table_is_today() {
    let definition = table(&[("id", KalamDataType::Int), ("v", KalamDataType::Text)], &["id"]);
    let texts = ["1", "x", "3"].map(|t| Value::Text(t.into()));
    let rows = SegmentRows {
        columns: vec![
            array_of(&KalamDataType::Int, &[2, 10, 30].map(Value::BigInt)),
            array_of(&KalamDataType::Text, &texts),
        ],
        seqs: seqs([1, 2, 3]),
        row_ids: None,
    };
    let mut fixture = Fixture::new(Arc::clone(&definition), &[rows]);
    let segment = fixture.open();
    segment.change_marks(|marks| marks.mark(5, &RoaringBitmap::from([1]), &RoaringBitmap::new()));
    let mut added = NewColumn::new("w", KalamDataType::Int);
    added.nullable = false;
    let altered = definition
        .alter_type("id", KalamDataType::BigInt, 0, "t")
        .and_then(|d| d.alter_type("v", KalamDataType::Int, 0, "t"))
        .and_then(|d| d.add_column(added, Some(&Value::BigInt(9)), 0, "t"))
        .unwrap();
    fixture.definition = Arc::new(altered.clone());
    // The ended row does not convert and need not.
    let keep = BooleanBuffer::from_iter([true, false, true]);
    let read = block_on(segment.read_group(&altered, 0, Some(&keep))).unwrap();
    assert_eq!(&read.columns[0], &ints([2, 30]));
    assert_eq!(&read.columns[1], &array_of(&KalamDataType::Int, &[1, 3].map(Value::BigInt)));
    assert_eq!(&read.columns[2], &array_of(&KalamDataType::Int, &[9, 9].map(Value::BigInt)));
    assert!(block_on(segment.read_group(&altered, 0, None)).is_err());
    // Integers of all widths are the same key; text sorts otherwise.
    assert_eq!(fixture.find(&segment, &[key_of(&altered, &[Value::BigInt(10)])]), [(0, 1)]);
    let as_text = altered.alter_type("id", KalamDataType::Text, 0, "t").unwrap();
    fixture.definition = Arc::new(as_text.clone());
    let keys = ["30", "10", "2"].map(|t| key_of(&as_text, &[Value::Text(t.into())]));
    assert_eq!(fixture.find(&segment, &keys), [(2, 0), (0, 2)]);
}

#[test]
fn damage_is_found_and_named() {
    let fixture = wide();
    let parts = fixture.meta.part_crcs.len();
    assert!(parts >= 2, "{} bytes", fixture.file.len());
    let scrub = |segment: &Segment| block_on(segment.scrub()).unwrap_err();
    for part in 0..parts {
        let mut file = fixture.file.to_vec();
        let at = (part * BLOB_PART_BYTES + 1000).min(file.len() - 20);
        file[at] ^= 4;
        fixture.store(&file.into());
        let segment = fixture.open();
        let error = scrub(&segment);
        assert_eq!(error.code(), ErrorCode::DataCorrupted);
        let what = format!("segment 1 of table 'app.t' is damaged: part {part} of {parts} has checksum ");
        assert!(error.message().starts_with(&what), "{}", error.message());
        assert_eq!(segment.damage().map(|e| e.message().to_owned()), Some(error.message().to_owned()));
        // Whatever does not touch the part still reads.
        let groups = (0..3).filter(|g| block_on(segment.read_rows(*g, &[1])).is_ok()).count();
        assert!(groups < 3 || part + 1 < parts, "part {part}");
    }
    let mut batch = WriteBatch::new();
    batch.put_blob(BLOB, &fixture.file);
    let mut without = WriteBatch::new();
    for op in batch.ops().iter().filter(|op| !matches!(op, WriteOp::Put { key, .. } if key.ends_with(&[0, 0, 0, 1]))) {
        match op {
            WriteOp::Put { partition, key, value } => without.put(*partition, key.clone(), value.clone()),
            WriteOp::Delete { partition, key } => without.delete(*partition, key.clone()),
            WriteOp::DeleteRange { partition, range } => without.delete_range(*partition, range.clone()),
        };
    }
    block_on(fixture.backend.commit(without, Durability::Memory)).unwrap();
    let message = scrub(&fixture.open()).message().to_owned();
    assert!(message.starts_with("segment 1 of table 'app.t' is damaged: part 1 of "), "{message}");
    fixture.store(&fixture.file.slice(..fixture.file.len() - 100));
    let message = scrub(&fixture.open()).message().to_owned();
    assert!(
        message.starts_with(&format!("segment 1 of table 'app.t' is damaged: part {} of ", parts - 1)),
        "{message}"
    );
    let mut gone = WriteBatch::new();
    gone.delete_blob(BLOB);
    block_on(fixture.backend.commit(gone, Durability::Memory)).unwrap();
    assert!(scrub(&fixture.open()).message().ends_with("its file is missing"));
    let records = block_on(fixture.backend.scan(Partition::Blob, &Default::default(), Default::default())).unwrap();
    assert!(records.is_empty());
}

#[test]
fn a_pinned_file_is_read_from_memory() {
    let fixture = wide();
    let source = SegmentSource {
        backend: Arc::new(MemoryBackend::new()),
        cache: SegmentCache::new(0),
        blob: BLOB.to_vec(),
        table: "app.t".to_owned(),
    };
    let segment = Segment::new(source, fixture.meta.clone(), DeleteVector::new(), Some(fixture.file.clone()));
    assert_eq!(segment.pinned_bytes(), fixture.file.len());
    assert!(block_on(segment.read_rows(1, &[1])).is_ok());
    segment.unpin();
    assert_eq!(block_on(segment.read_rows(1, &[1])).unwrap_err().code(), ErrorCode::DataCorrupted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_type_comes_back(
        (types, rows) in prop::collection::vec(any_type(), 1..6).prop_flat_map(|types| {
            let row: Vec<_> = types.iter().map(|ty| any_value(*ty)).collect();
            (Just(types), prop::collection::vec(row, 1..60))
        }),
        keyed: bool,
        picked in prop::collection::btree_set(0u32..60, 0..6),
    ) {
        let names: Vec<String> = (0..types.len()).map(|i| format!("c{i}.x")).collect();
        let mut columns: Vec<(&str, KalamDataType)> = vec![("id", KalamDataType::BigInt)];
        columns.extend(names.iter().map(String::as_str).zip(types.iter().copied()));
        let definition = table(&columns, if keyed { &["id"] } else { &[] });
        let mut arrays = vec![ints(0..rows.len() as i64)];
        for (i, ty) in types.iter().enumerate() {
            arrays.push(array_of(ty, &rows.iter().map(|row| row[i].clone()).collect::<Vec<_>>()));
        }
        let numbers = || seqs((0..rows.len() as i64).map(|n| n * 3));
        let all = SegmentRows { columns: arrays, seqs: numbers(), row_ids: (!keyed).then(numbers) };
        let fixture = Fixture::new(Arc::clone(&definition), std::slice::from_ref(&all));
        let segment = fixture.open();
        let picked: Vec<u32> = picked.into_iter().filter(|row| (*row as usize) < rows.len()).collect();
        let ids: Vec<u32> = (1..=columns.len() as u32).collect();
        let taken = block_on(segment.take(&picked, &ids))?;
        let read = block_on(segment.read_group(&definition, 0, None))?;
        prop_assert_eq!(&read.seqs, &all.seqs);
        prop_assert_eq!(&read.row_ids, &all.row_ids);
        let picked = arrow::array::UInt32Array::from(picked);
        for ((a, b), taken) in all.columns.iter().zip(&read.columns).zip(taken) {
            prop_assert_eq!(a.data_type(), b.data_type());
            prop_assert_eq!(a, b);
            if !picked.is_empty() {
                prop_assert_eq!(&compute::take(a, &picked, None)?, &taken.expect("written with it"));
            }
        }
        let last = rows.len() as i64 - 1;
        let key = key_of(&definition, &[Value::BigInt(if keyed { last } else { last * 3 })]);
        prop_assert_eq!(fixture.find(&segment, &[key]), vec![(0, last as u32)]);
    }
}
