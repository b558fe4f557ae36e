//! The memory of running queries: one pool for all, with its high-water mark.
//!
//! What operators hold they reserve themselves. The rows that a query gives, to its caller or to the change that a
//! statement makes of them, and those that come as objects, Arrow or files, are reserved by [`HeldRows`] while they are
//! gathered.
//!
//! Invariant: the peak is read from the pool right after each growth, so it is never below what was reserved at any
//! moment on the engine's one thread.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, RecordBatch};
use datafusion::common::Result as DfResult;
use datafusion::execution::memory_pool::{
    GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

use crate::tables::Gauges;
use crate::types::slice_bytes;

/// Memory that queries reserve, up to a limit for all together.
#[derive(Debug)]
pub struct QueryMemory {
    pool: GreedyMemoryPool,
    peak: AtomicUsize,
    limit: usize,
}

impl QueryMemory {
    /// A pool of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { pool: GreedyMemoryPool::new(limit), peak: AtomicUsize::new(0), limit }
    }

    /// The most bytes that may be reserved together.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The most bytes that were ever reserved together.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    fn grown(&self) {
        self.peak.fetch_max(self.pool.reserved(), Ordering::Relaxed);
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // DataFusion puts it into its message about exhausted memory.
        self.pool.fmt(f)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &str {
        "query_memory"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
        self.grown();
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> DfResult<()> {
        self.pool.try_grow(reservation, additional)?;
        self.grown();
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}

impl Gauges for QueryMemory {
    fn gauges(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("query_memory_bytes", self.reserved() as u64),
            ("query_memory_peak_bytes", self.peak() as u64),
            ("query_memory_limit_bytes", self.limit as u64),
        ]
    }
}

/// Fewer rows than this are not counted, if they take no more than [`COUNTED_FROM_BYTES`]: most statements give a few.
const COUNTED_FROM: usize = 4096;
/// Bytes that the buffers behind rows have, those that rows share counted again, from which rows are counted.
const COUNTED_FROM_BYTES: usize = 1 << 20;
/// What a column of a batch takes beside its values, about: the array, its buffers' headers, and what they leave unused.
/// A recursive query gives its rows in batches of one.
const COLUMN_BYTES: usize = 256;

/// The rows that a statement has gathered so far, as far as they take memory. Rows that are shared with a table count in
/// full: whoever changes them holds them once more.
#[derive(Debug)]
pub struct HeldRows {
    pool: Arc<dyn MemoryPool>,
    rows: usize,
    /// No fewer bytes than the rows take that were not counted.
    uncounted: usize,
    reservation: Option<MemoryReservation>,
}

impl HeldRows {
    /// None yet.
    pub fn new(pool: Arc<dyn MemoryPool>) -> Self {
        Self { pool, rows: 0, uncounted: 0, reservation: None }
    }

    /// Counts some more; an error if that is more than the limit leaves.
    pub fn add(&mut self, batch: &RecordBatch) -> DfResult<()> {
        self.rows += batch.num_rows();
        if self.are_few(|| batch.get_array_memory_size()) {
            return Ok(());
        }
        let size = |column: &Arc<dyn Array>| slice_bytes(column.as_ref()) + COLUMN_BYTES;
        self.add_bytes(batch.columns().iter().map(size).sum())
    }

    /// Counts what the rows take in another form beside their own.
    pub fn add_encoded(&mut self, bytes: usize) -> DfResult<()> {
        if self.are_few(|| bytes) { Ok(()) } else { self.add_bytes(bytes) }
    }

    /// Whether what there is so far, with some more bytes, is not worth counting.
    fn are_few(&mut self, more: impl FnOnce() -> usize) -> bool {
        if self.rows >= COUNTED_FROM || self.reservation.is_some() {
            return false;
        }
        self.uncounted += more();
        self.uncounted < COUNTED_FROM_BYTES
    }

    /// Counts bytes that rows come from.
    pub fn add_bytes(&mut self, bytes: usize) -> DfResult<()> {
        let consumer = || MemoryConsumer::new("rows").register(&self.pool);
        self.reservation.get_or_insert_with(consumer).try_grow(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_stays_when_memory_is_given_back() {
        let memory = Arc::new(QueryMemory::new(100));
        let pool: Arc<dyn MemoryPool> = Arc::clone(&memory) as _;
        let reservation = MemoryConsumer::new("a").register(&pool);
        reservation.try_grow(60).expect("60 of 100");
        reservation.shrink(50);
        assert!(reservation.try_grow(91).is_err());
        reservation.grow(20);
        assert_eq!((memory.reserved(), memory.peak()), (30, 60));
    }
}
