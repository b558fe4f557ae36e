//! The hot tier of a STREAM table: rows end by age and are never in the log.
//!
//! A row's age is told by the time in its `_seq`, corrected where that is not what the clock showed: `_seq` never goes back,
//! and a clock that was set back does. Invariants: what is older than the table's time to live is neither
//! found by a scan, which asks [`HotTable::expired_below`] with its request's clock, nor in the way of a new row of the
//! same key, because whoever fetches the tier to change it has [`HotTable::expire`] run first. Rows are given back to
//! the allocator by the chunk: `_seq` ascends, so what has expired is a prefix of the chunks; what leads to their rows
//! goes with them. A scan that holds chunks keeps them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use arrow::array::{ArrayRef, BooleanArray, Int64Array};
use arrow::compute;
use parking_lot::Mutex;

use super::{Chunk, HotTable, KeySpec, LIVE, NewRows, OnLiveKey, Seq, State};
use crate::error::{KalamError, Result};
use crate::platform;
use crate::tables::cold::Ended;
use crate::tables::seq::{SeqSpan, first_seq_of_ms};

/// So far the time in a `_seq` may be from what the clock showed, in milliseconds.
const TOLERANCE_MS: i64 = 1000;

/// How long the rows of a stream live.
#[derive(Debug)]
pub struct StreamLife {
    ttl_ms: AtomicU64,
    /// Rows with a lower `_seq` were ended already.
    ended_below: AtomicI64,
    /// Where the time in `_seq` is not that of the clock, ascending.
    skews: Mutex<Vec<Skew>>,
}

/// How far the time in `_seq` is ahead of the clock, from one `_seq` on.
#[derive(Debug, Clone, Copy)]
struct Skew {
    from: Seq,
    ms: i64,
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
        now_ms.checked_sub(ttl).map_or(0, |oldest| life.first_after(oldest))
    }

    /// Says that rows with `_seq` values from one on come now; nothing for a table whose rows live on.
    pub fn note_time(&self, first: Seq) {
        self.note_time_at(first, platform::now_ms());
    }

    fn note_time_at(&self, first: Seq, now_ms: u64) {
        let Some(life) = &self.life else { return };
        let ms = SeqSpan::ms_of(first) as i64 - now_ms as i64;
        let mut skews = life.skews.lock();
        if (ms - skews.last().map_or(0, |skew| skew.ms)).abs() > TOLERANCE_MS {
            skews.push(Skew { from: first, ms });
        }
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
        life.forget_skews(below);
        self.state.write().expire(before, below, end)
    }

    /// The rows that a snapshot sees, in a table of their own: what stays of a stream when later commits came to
    /// nothing.
    pub fn at_snapshot(&self, snapshot: Seq) -> Result<HotTable> {
        let ttl = self.life.as_ref().map_or(0, |life| life.ttl_ms.load(Ordering::Relaxed));
        let copy = HotTable::stream(self.key.clone(), ttl / 1000);
        if let (Some(life), Some(own)) = (&self.life, &copy.life) {
            own.skews.lock().clone_from(&life.skews.lock());
        }
        for chunk in self.chunks().iter() {
            let rows = visible_rows(chunk, snapshot)?;
            copy.apply(&[rows], &Ended::default(), OnLiveKey::Replace)?;
        }
        Ok(copy)
    }
}

impl StreamLife {
    fn new() -> Self {
        Self { ttl_ms: AtomicU64::new(0), ended_below: AtomicI64::new(0), skews: Mutex::default() }
    }

    /// The `_seq` below which rows came at a moment of the clock or before it. Who came before somebody who did is older,
    /// whatever the clock showed then.
    fn first_after(&self, ms: u64) -> Seq {
        let skews = self.skews.lock();
        let shown = |seq: Seq, skew: i64| SeqSpan::ms_of(seq) as i64 - skew;
        let later = skews.iter().rposition(|skew| shown(skew.from, skew.ms) <= ms as i64);
        let (from, skew) = later.map_or((0, 0), |at| (skews[at].from, skews[at].ms));
        let first = first_seq_of_ms(u64::try_from(ms as i64 + skew + 1).unwrap_or(0)).max(from);
        skews.get(later.map_or(0, |at| at + 1)).map_or(first, |next| first.min(next.from))
    }

    /// Forgets what is said of rows below a `_seq` alone.
    fn forget_skews(&self, below: Seq) {
        let mut skews = self.skews.lock();
        let over = skews.partition_point(|skew| skew.from <= below);
        skews.drain(..over.saturating_sub(1));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{NewColumn, TableDefinition, TableId, TableOptions, TableType};
    use crate::tables::key_spec::KeySpec;
    use crate::types::KalamDataType;

    fn stream(ttl_seconds: u64) -> Result<HotTable> {
        let columns = vec![NewColumn::new("k", KalamDataType::BigInt)];
        let options = TableOptions { ttl_seconds: Some(ttl_seconds), ..TableOptions::default() };
        let id = TableId::new("default", "e");
        let definition = TableDefinition::new(id, 7, TableType::Stream, columns, &["k".into()], options, 0, "me")?;
        Ok(HotTable::stream(KeySpec::new(&definition)?, ttl_seconds))
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_no_event() -> Result<()> {
        let (day, start) = (86_400_000, 1_800_000_000_000);
        let table = stream(60)?;
        let seq = first_seq_of_ms;
        table.note_time_at(seq(start), start);
        assert_eq!(table.expired_below(start + 59_999), seq(start - 60_000 + 59_999 + 1));
        // The clock is a day ahead for a while, and is then set back; `_seq` stands still until it has caught up.
        table.note_time_at(seq(start + day), start + day);
        for second in 0..100 {
            table.note_time_at(seq(start + day) + 1 + second as Seq, start + 1000 + second * 2000);
        }
        let of_second = |second: u64| seq(start + day) + 1 + second as Seq;
        // Events from before are too old, those of the last minute are there.
        assert_eq!(table.expired_below(start + 1000 + 59_999), seq(start + 1000));
        let below = table.expired_below(start + 1000 + 80 * 2000 + 60_000);
        assert!(of_second(80) < below && below <= of_second(81), "{below} and not {}", of_second(80) + 1);
        // What is noted goes with what it is about.
        table.expire(start + 1000 + 80 * 2000 + 60_000, Seq::MAX - 1);
        let noted = table.life.as_ref().map_or(0, |life| life.skews.lock().len());
        assert!((1..=20).contains(&noted), "{noted}");
        // With the clock where `_seq` is, all is as it was.
        table.note_time_at(seq(start + 2 * day), start + 2 * day);
        assert_eq!(table.expired_below(start + 2 * day + 60_001), seq(start + 2 * day + 2));
        Ok(())
    }
}
