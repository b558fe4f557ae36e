//! What every storage backend must do, as one set of checks over a [`Harness`].
//!
//! Each check starts from databases of its own and names them after itself, so checks may run in any order and side
//! by side. A new backend implements [`Harness`] and calls [`conformance_tests!`](crate::conformance_tests); nothing
//! else.

use std::sync::Arc;

use kalamdb::error::Result;
use kalamdb::storage::{Durability, KeyRange, KeyValue, Partition, ScanOptions, StorageBackend, WriteBatch};

pub mod basic;
pub mod batches;
pub mod blobs;
pub mod lifecycle;
pub mod oracle;

/// An open backend.
pub type Backend = Arc<dyn StorageBackend>;

/// How the suite gets at the databases of one kind of backend.
#[allow(async_fn_in_trait)] // the suite runs on one thread
pub trait Harness {
    /// Opens the database of this name and makes it if it is not there.
    async fn open(&self, name: &str) -> Result<Backend>;

    /// Closes `backend`, forgets what is in memory, and opens the database of this name again.
    async fn reopen(&self, name: &str, backend: Backend) -> Result<Backend>;

    /// Deletes the database of this name.
    async fn delete(&self, name: &str) -> Result<()>;

    /// What a commit that asks for a durability must report.
    fn receipt(&self, asked: Durability) -> Durability;

    /// Opens a new, empty database of this name.
    async fn fresh(&self, name: &str) -> Result<Backend> {
        self.delete(name).await?;
        self.open(name).await
    }
}

/// Ends a check: closes the database and deletes it.
pub async fn done(harness: &impl Harness, name: &str, backend: Backend) -> Result<()> {
    backend.close().await?;
    harness.delete(name).await
}

/// Commits, relaxed.
pub async fn commit(backend: &Backend, batch: WriteBatch) -> Result<()> {
    backend.commit(batch, Durability::Relaxed).await.map(drop)
}

/// Puts records, each under its key, in one batch.
pub async fn put_all(backend: &Backend, partition: Partition, records: &[(&[u8], &[u8])]) -> Result<()> {
    let mut batch = WriteBatch::new();
    for (key, value) in records {
        batch.put(partition, *key, value.to_vec());
    }
    commit(backend, batch).await
}

/// Every record of a partition in key order.
pub async fn all(backend: &Backend, partition: Partition) -> Result<Vec<KeyValue>> {
    backend.scan(partition, &KeyRange::all(), ScanOptions::default()).await
}

/// The keys of a scan.
pub async fn keys(
    backend: &Backend,
    partition: Partition,
    range: &KeyRange,
    limit: Option<usize>,
    reverse: bool,
) -> Result<Vec<Vec<u8>>> {
    let records = backend.scan(partition, range, ScanOptions { limit, reverse }).await?;
    Ok(records.into_iter().map(|(key, _)| key).collect())
}

/// A small generator of pseudo-random numbers (xorshift64*): the same sequence everywhere.
pub struct Random(u64);

impl Random {
    /// A sequence; `seed` is not 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }

    /// So many bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// Makes one test of each check for a harness: a native `#[test]` or a `#[wasm_bindgen_test]`.
#[macro_export]
macro_rules! conformance_tests {
    ($module:ident, $harness:expr) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;
            $crate::conformance_tests! { @each $harness;
                basic: keys_come_in_byte_order, reverse_scans_and_limits, ranges, empty_values_and_keys,
                    long_keys, partitions_are_apart, overwrite_and_delete, large_values, many_records, statistics;
                batches: a_batch_is_over_all_partitions, a_bad_batch_leaves_nothing, operations_apply_in_order,
                    delete_ranges, an_empty_batch, receipts, a_dropped_commit_is_whole;
                blobs: range_reads, overwrite_and_delete_blobs, ids_that_are_prefixes;
                lifecycle: reopening_keeps_everything, two_databases_side_by_side, deletion, use_after_close,
                    concurrent_calls, entities;
                oracle: random_operations;
            }
        }
    };
    (@each $harness:expr; $($group:ident: $($check:ident),+;)+) => {
        $($(
            #[cfg(not(target_arch = "wasm32"))]
            #[test]
            fn $check() -> kalamdb::error::Result<()> {
                futures::executor::block_on($crate::conformance::$group::$check(&$harness))
            }

            #[cfg(target_arch = "wasm32")]
            #[wasm_bindgen_test::wasm_bindgen_test]
            async fn $check() {
                if let Err(error) = $crate::conformance::$group::$check(&$harness).await {
                    panic!("{error}");
                }
            }
        )+)+
    };
}
