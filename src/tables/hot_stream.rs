//! The hot tier of a STREAM table: rows end by age and are never in the log.
//!
//! A row's age is told by the time in its `_seq`. Invariants: what is older than the table's time to live is neither
//! found by a scan, which asks [`HotTable::expired_below`] with its request's clock, nor in the way of a new row of the
//! same key, because whoever fetches the tier to change it has [`HotTable::expire`] run first. Rows are given back to
//! the allocator by the chunk: `_seq` ascends, so what has expired is a prefix of the chunks; what leads to their rows
//! goes with them. A scan that holds chunks keeps them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arrow::array::{ArrayRef, BooleanArray, Int64Array};
use arrow::compute;

use super::{Chunk, HotTable, KeySpec, LIVE, NewRows, OnLiveKey, Seq, State};
use crate::error::{KalamError, Result};
use crate::tables::cold::Ended;
use crate::tables::seq::first_seq_of_ms;

/// How long the rows of a stream live.
#[derive(Debug)]
pub struct StreamLife {
    ttl_ms: AtomicU64,
    /// Rows with a lower `_seq` were ended already.
    ended_below: AtomicI64,
}

impl HotTable {
    /// An empty table of a stream whose rows live for so many seconds.
    pub fn stream(key: KeySpec, ttl_seconds: u64) -> Self {
        let table = Self { life: Some(StreamLife::new()), ..Self::new(key) };
        table.set_ttl(ttl_seconds);
        table
    }

    /// Whether its rows end by age and are not in the log.
    pub fn is_stream(&self) -> bool {
        self.life.is_some()
    }

    /// Sets how long rows live; nothing for a table whose rows live on.
    pub fn set_ttl(&self, seconds: u64) {
        if let Some(life) = &self.life {
            life.ttl_ms.store(seconds.saturating_mul(1000), Ordering::Relaxed);
        }
    }

    /// The `_seq` below which rows are too old at a moment; 0 for a table whose rows live on.
    pub fn expired_below(&self, now_ms: u64) -> Seq {
        let Some(life) = &self.life else { return 0 };
        // A row of millisecond m is there until m + ttl, that moment excluded.
        let ttl = life.ttl_ms.load(Ordering::Relaxed);
        now_ms.checked_sub(ttl).map_or(0, |oldest| first_seq_of_ms(oldest + 1))
    }

    /// Ends the rows that are too old, at `end`, a `_seq` above every snapshot that is being read, and drops chunks of
    /// which every row is too old. Returns how many rows were dropped from memory.
    pub fn expire(&self, now_ms: u64, end: Seq) -> u64 {
        let Some(life) = &self.life else { return 0 };
        let below = self.expired_below(now_ms);
        let before = life.ended_below.fetch_max(below, Ordering::AcqRel);
        if below <= before {
            return 0;
        }
        self.state.write().expire(before, below, end)
    }

    /// The rows that a snapshot sees, in a table of their own: what stays of a stream when later commits came to
    /// nothing.
    pub fn at_snapshot(&self, snapshot: Seq) -> Result<HotTable> {
        let ttl = self.life.as_ref().map_or(0, |life| life.ttl_ms.load(Ordering::Relaxed));
        let copy = HotTable::stream(self.key.clone(), ttl / 1000);
        for chunk in self.chunks().iter() {
            let rows = visible_rows(chunk, snapshot)?;
            copy.apply(&[rows], &Ended::default(), OnLiveKey::Replace)?;
        }
        Ok(copy)
    }
}

impl StreamLife {
    fn new() -> Self {
        Self { ttl_ms: AtomicU64::new(0), ended_below: AtomicI64::new(0) }
    }
}

impl State {
    fn expire(&mut self, from: Seq, below: Seq, end: Seq) -> u64 {
        let mut whole = 0;
        for chunk in self.chunks.iter() {
            let seqs = chunk.seqs.values();
            let expired = seqs.partition_point(|&seq| seq < below);
            for row in seqs.partition_point(|&seq| seq < from)..expired {
                if chunk.superseded(row) == LIVE {
                    chunk.supersede(row, end, false);
                    self.live -= 1;
                }
            }
            if expired < chunk.len() {
                break;
            }
            whole += 1;
        }
        if whole == 0 {
            return 0;
        }
        let dropped: Vec<Arc<Chunk>> = Arc::make_mut(&mut self.chunks).drain(..whole).collect();
        self.bytes -= dropped.iter().map(|c| c.bytes).sum::<usize>();
        let first = self.chunks.first().map_or(self.next, |c| c.base);
        if let Some(index) = &mut self.index {
            index.forget_below(first);
        }
        if self.indexes.remove(&dropped, 0).is_err() {
            // Values that an ALTER since would refuse: what is left is indexed anew when it is next asked.
            self.indexes.forget();
        }
        dropped.iter().map(|c| c.len() as u64).sum()
    }
}

fn visible_rows(chunk: &Chunk, snapshot: Seq) -> Result<NewRows> {
    let mask: BooleanArray = (0..chunk.len()).map(|row| Some(chunk.visible(row, snapshot))).collect();
    let filter = |array: &dyn arrow::array::Array| compute::filter(array, &mask).map_err(KalamError::internal);
    let numbers = |array: &Int64Array| -> Int64Array {
        array.values().iter().zip(mask.values()).filter(|(_, keep)| *keep).map(|(n, _)| *n).collect()
    };
    Ok(NewRows {
        schema_version: chunk.schema_version,
        column_ids: Arc::clone(&chunk.column_ids),
        columns: chunk.columns.iter().map(|c| filter(c.as_ref())).collect::<Result<Vec<ArrayRef>>>()?,
        seqs: numbers(&chunk.seqs),
        row_ids: chunk.row_ids.as_ref().map(numbers),
    })
}
