//! How much memory the engine takes: a table that is larger than its budgets is written, flushed, changed and read within
//! them, and rescued a segment at a time. An allocator that counts says so.
#![cfg(not(target_arch = "wasm32"))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array};
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::Result;
use kalamdb::sql::{Cursor, ExecuteOptions, Params, StatementResult, insert_columns};
use kalamdb::storage::{Durability, KeyRange, MemoryBackend, Partition, ScanOptions, StorageBackend, WriteBatch};

/// Counts the bytes that are there, and the most there ever were.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// The tests of this file go one after the other: there is one count.
static TURN: Mutex<()> = Mutex::new(());

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a piece of work took at most above what was there before, in bytes.
fn most_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let done = work();
    (done, PEAK.load(Ordering::Relaxed).saturating_sub(before))
}

const MIB: usize = 1 << 20;

fn open(backend: MemoryBackend, config: &Config) -> Result<Arc<AppContext>> {
    block_on(AppContext::open(Arc::new(backend), config.clone()))
}

fn sql(context: &AppContext, text: &str) -> Result<StatementResult> {
    let (params, options) = (Params::default(), ExecuteOptions::default());
    let done = block_on(context.executor().execute(context.session(), text, &params, &options));
    Ok(done.map_err(|e| e.in_context(text))?.pop().unwrap_or_default())
}

fn number(context: &AppContext, text: &str) -> Result<i64> {
    let rows = sql(context, text)?.rows.expect("a query gives rows");
    Ok(rows.batches[0].column(0).as_primitive::<Int64Type>().value(0))
}

/// A flush holds one segment's rows, however many there are.
#[test]
fn a_large_table_is_flushed_in_bounded_memory() -> Result<()> {
    let _turn = TURN.lock();
    let most = |segments: usize| -> Result<usize> {
        let context = open(MemoryBackend::new(), &Config { hot_limit: usize::MAX, ..Config::default() })?;
        sql(&context, "CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT)")?;
        let rows = segments * kalamdb::tables::SEGMENT_ROWS;
        sql(&context, &format!("INSERT INTO t SELECT value, value % 10 FROM generate_series(1, {rows})"))?;
        let (flushed, most) = most_of(|| sql(&context, "STORAGE FLUSH TABLE t"));
        flushed?;
        assert_eq!(number(&context, "SELECT count(*) FROM t")?, rows as i64);
        Ok(most)
    };
    let (one, four) = (most(1)?, most(4)?);
    println!("one segment: {} KiB, four: {} KiB", one >> 10, four >> 10);
    assert!(four < one + one / 2, "one segment took {one} bytes, four {four}");
    Ok(())
}

#[test]
fn a_table_larger_than_the_budget_works() -> Result<()> {
    let _turn = TURN.lock();
    const BATCH: i64 = 5_000;
    const BATCHES: i64 = 100;
    const ROWS: i64 = BATCH * BATCHES;
    let config = Config { hot_limit: 4 * MIB, segment_cache: 4 * MIB, memory_limit: 24 * MIB, ..Config::default() };
    let backend = Arc::new(MemoryBackend::new());
    let context = block_on(AppContext::open(Arc::clone(&backend) as _, config.clone()))?;
    sql(&context, "CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT, text TEXT)")?;
    // Rows take about 250 bytes each in memory, and little in a file.
    let table_bytes = ROWS as usize * 250;
    let (loaded, load) = most_of(|| {
        (0..BATCHES).try_for_each(|batch| {
            let (from, to) = (batch * BATCH, (batch + 1) * BATCH - 1);
            let rows =
                format!("SELECT value, value % 100, repeat('some text ', 24) FROM generate_series({from}, {to})");
            sql(&context, &format!("INSERT INTO t {rows}")).map(drop)
        })
    });
    loaded?;
    let work = |context: &AppContext| -> Result<()> {
        assert_eq!(number(context, "SELECT count(*) FROM t")?, ROWS);
        assert_eq!(number(context, "SELECT sum(length(text)) FROM t")?, ROWS * 240);
        assert_eq!(number(context, "SELECT count(*) FROM (SELECT v, max(text) FROM t GROUP BY v) q")?, 100);
        assert_eq!(number(context, &format!("SELECT v FROM t WHERE k = {}", ROWS - 1))?, 99);
        assert_eq!(number(context, "SELECT k FROM t ORDER BY v DESC, k DESC LIMIT 1")?, ROWS - 1);
        Ok(())
    };
    let (read, reading) = most_of(|| work(&context));
    read?;
    // A cursor over all of it, in the order of the key.
    let (read, streaming) = most_of(|| -> Result<i64> {
        let (params, options) = (Params::default(), ExecuteOptions::default());
        let text = "SELECT k, text FROM t ORDER BY k";
        let mut cursor = block_on(Cursor::open(context.executor(), context.session(), text, &params, &options))?;
        let mut next = 0;
        while let Some(batch) = block_on(cursor.next(1000))? {
            for k in batch.column(0).as_primitive::<Int64Type>().values() {
                assert_eq!(*k, next);
                next += 1;
            }
        }
        Ok(next)
    });
    assert_eq!(read?, ROWS);
    let (changed, changing) = most_of(|| -> Result<()> {
        sql(&context, "UPDATE t SET v = v + 0, text = text WHERE k % 20 = 3")?;
        sql(&context, "STORAGE FLUSH ALL; STORAGE COMPACT ALL").map(drop)
    });
    changed?;
    work(&context)?;
    drop(context);
    let (read, reopened) = most_of(|| work(&*open(backend.reopen(), &config)?));
    read?;
    let figures = [load, reading, streaming, changing, reopened];
    println!("of {} MiB: {:?} MiB", table_bytes / MIB, figures.map(|bytes| bytes / MIB));
    assert!(figures.iter().all(|bytes| *bytes < table_bytes / 2), "{figures:?} bytes, the table has {table_bytes}");
    Ok(())
}

/// A database with segments of two pages, the second of which is damaged in each.
fn damaged(segments: i64) -> Result<MemoryBackend> {
    const ROWS: i64 = 2 * 4096;
    let backend = Arc::new(MemoryBackend::new());
    let context = block_on(AppContext::open(Arc::clone(&backend) as _, Config::default()))?;
    sql(&context, "CREATE TABLE t (k BIGINT PRIMARY KEY, noise BYTES)")?;
    let mut state = 1u64;
    let mut noise = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for segment in 0..segments {
        let bytes: Vec<Vec<u8>> = (0..ROWS).map(|_| (0..256).map(|_| noise()).collect()).collect();
        let keys = segment * ROWS..(segment + 1) * ROWS;
        let columns: [ArrayRef; 2] =
            [Arc::new(Int64Array::from_iter_values(keys)), Arc::new(BinaryArray::from_iter_values(&bytes))];
        let batch = RecordBatch::try_from_iter(["k", "noise"].into_iter().zip(columns)).expect("two columns");
        let options = ExecuteOptions::default();
        block_on(insert_columns(context.executor(), context.session(), &options, "t", vec![batch]))?;
        sql(&context, "STORAGE FLUSH TABLE t")?;
    }
    let mut batch = WriteBatch::new();
    for (key, value) in block_on(backend.scan(Partition::Blob, &KeyRange::all(), ScanOptions::default()))? {
        if key.ends_with(&6u32.to_be_bytes()) {
            let mut value = value.to_vec();
            value[1000] ^= 1;
            batch.put(Partition::Blob, key, value);
        }
    }
    assert_eq!(batch.ops().len() as i64, segments);
    block_on(backend.commit(batch, Durability::Strict))?;
    Ok(backend.reopen())
}

/// A rescue holds one segment that it writes anew, and a page of records, however many there are.
#[test]
fn damaged_segments_are_rescued_in_bounded_memory() -> Result<()> {
    let _turn = TURN.lock();
    let most = |segments: i64| -> Result<usize> {
        let backend = Arc::new(damaged(segments)?);
        let mut rescued = 0;
        let (done, most) = most_of(|| {
            block_on(async {
                let (mut backup, findings) = AppContext::rescue(Arc::clone(&backend) as _).await?;
                let said = |f: &&kalamdb::tables::Finding| f.detail.contains("4096 rows are rescued, 4096 are lost");
                assert_eq!(findings.iter().filter(said).count() as i64, segments, "{findings:?}");
                while let Some(chunk) = backup.next().await? {
                    rescued += chunk.len();
                }
                Ok(())
            })
        });
        done?;
        assert!(rescued > segments as usize * MIB, "{rescued} bytes");
        Ok(most)
    };
    let (few, many) = (most(16)?, most(48)?);
    println!("16 segments: {} MiB, 48: {} MiB", few / MIB, many / MIB);
    assert!(many < few + few / 4, "16 segments took {few} bytes, 48 {many}");
    Ok(())
}
