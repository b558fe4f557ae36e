//! What compression costs and gives: `cargo test --lib compression_measured -- --ignored --nocapture`.

use std::time::Instant;

use arrow::array::{BooleanArray, Date32Array, Float64Array, Int32Array, StringArray};
use futures::executor::block_on;

use super::super::tests::{ints, table};
use super::super::{DeleteVector, Segment, SegmentCache, SegmentSource};
use super::*;
use crate::storage::MemoryBackend;

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// Small numbers are likelier.
    fn skewed(&mut self, n: u64) -> u64 {
        self.below(n).min(self.below(n)).min(self.below(n))
    }
}

/// Rows like those of the flights of US carriers: a key, codes, times, delays.
fn flights(rows: usize) -> (Arc<TableDefinition>, SegmentRows) {
    use KalamDataType as T;
    let definition = table(
        &[
            ("id", T::BigInt),
            ("day", T::Date),
            ("carrier", T::Text),
            ("tail", T::Text),
            ("number", T::Int),
            ("origin", T::Text),
            ("destination", T::Text),
            ("departure_delay", T::Int),
            ("arrival_delay", T::Int),
            ("air_time", T::Int),
            ("distance", T::Int),
            ("departure", T::Double),
            ("cancelled", T::Boolean),
        ],
        &["id"],
    );
    let mut random = Random(42);
    let mut column =
        |f: &mut dyn FnMut(&mut Random, usize) -> u64| -> Vec<u64> { (0..rows).map(|i| f(&mut random, i)).collect() };
    let code =
        |n: u64| -> String { [n / 26 % 26, n % 26, n * 7 % 26].iter().map(|c| (b'A' + *c as u8) as char).collect() };
    let int = |v: Vec<u64>| Arc::new(v.into_iter().map(|n| Some(n as i32 - 20)).collect::<Int32Array>()) as ArrayRef;
    let text = |v: Vec<u64>| Arc::new(v.into_iter().map(|n| Some(code(n))).collect::<StringArray>()) as ArrayRef;
    let distance = column(&mut |r, _| 100 + r.skewed(2600));
    let delay = column(&mut |r, _| r.skewed(200));
    let jitter = column(&mut |r, _| r.below(30));
    let columns: Vec<ArrayRef> = vec![
        ints(0..rows as i64),
        Arc::new(
            column(&mut |_, i| 11_000 + i as u64 / 16_000).into_iter().map(|n| Some(n as i32)).collect::<Date32Array>(),
        ),
        text(column(&mut |r, _| r.skewed(14))),
        Arc::new(
            column(&mut |r, _| r.below(4500)).into_iter().map(|n| Some(format!("N{n}AA"))).collect::<StringArray>(),
        ),
        int(column(&mut |r, _| r.skewed(7000))),
        text(column(&mut |r, _| r.skewed(300))),
        text(column(&mut |r, _| r.skewed(300))),
        int(delay.clone()),
        int(delay.iter().zip(&jitter).map(|(d, j)| d + j).collect()),
        int(distance.iter().map(|d| d / 7 + 20).collect()),
        int(distance),
        Arc::new(
            column(&mut |r, _| 300 + r.below(1100))
                .into_iter()
                .map(|n| Some(n as f64 / 60.0))
                .collect::<Float64Array>(),
        ),
        Arc::new(column(&mut |r, _| r.below(50)).into_iter().map(|n| Some(n == 0)).collect::<BooleanArray>()),
    ];
    let seqs = Int64Array::from_iter_values((0..rows as i64).map(|i| 1 << 40 | i));
    (definition, SegmentRows { columns, seqs, row_ids: None })
}

#[test]
#[ignore = "a measurement"]
fn compression_measured() {
    let (definition, rows) = flights(131_072);
    let plain = crate::tables::block::memory_size(&rows.columns) + rows.len() * 8;
    let zstd = |level| Compression::ZSTD(ZstdLevel::try_new(level).unwrap());
    for (name, compression) in [
        ("none", Compression::UNCOMPRESSED),
        ("zstd 1", zstd(1)),
        ("zstd 3", zstd(3)),
        ("LZ4_RAW", Compression::LZ4_RAW),
        ("snappy", Compression::SNAPPY),
    ] {
        let start = Instant::now();
        let mut writer = SegmentWriter::with_compression(&definition, 1, compression).unwrap();
        writer.push(&rows).unwrap();
        let (file, meta) = writer.finish().unwrap();
        let written = start.elapsed();
        let source = SegmentSource {
            backend: Arc::new(MemoryBackend::new()),
            cache: SegmentCache::new(0),
            blob: Vec::new(),
            table: "app.t".to_owned(),
        };
        let groups = meta.groups();
        let segment = Segment::new(source, meta, DeleteVector::new(), Some(file.clone()));
        let start = Instant::now();
        let ids: Vec<u32> = (1..14).collect();
        for group in 0..groups {
            block_on(segment.read_rows(group, &ids)).unwrap();
        }
        println!(
            "{name:8} {:7} KiB of {} KiB, written in {:4} ms, read in {:4} ms",
            file.len() >> 10,
            plain >> 10,
            written.as_millis(),
            start.elapsed().as_millis()
        );
    }
}
