//! What should be flushed or compacted, when writers flush first, and when there is no room for them at all.
//!
//! Invariant: this only says so, and changes nothing: whoever does the work decides again from what is there then.
//! Streams, scopes whose positions are held, and tables that were dropped are never due.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::hot::HotTable;
use super::log::ScopeKey;
use super::rewrite;
use super::scope_write::ScopeWrite;
use super::seq::SeqSpan;
use super::store::TableStore;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use crate::schema::TableDefinition;

/// Hot rows above this part of their limit are flushed while nothing else runs, so that a writer seldom has to do it.
const BACKGROUND_SHARE: usize = 2;

/// Rows are counted again when so much of the limit has come.
const RECOUNT_SHARE: usize = 16;

/// What should be done with a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DueWork {
    /// Its hot rows should become segments.
    Flush,
    /// Its segments should be rewritten.
    Compact,
}

/// A scope in memory with work to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The scope.
    pub scope: ScopeKey,
    /// The work.
    pub work: DueWork,
}

impl TableStore {
    /// The scopes in memory that should be flushed or compacted, by the policy of their tables and the limit of memory.
    pub fn due(&self, definition: impl Fn(u32) -> Option<Arc<TableDefinition>>) -> Vec<Due> {
        let now = platform::now_ms();
        let limit = self.hot_limit.load(Ordering::Relaxed) / BACKGROUND_SHARE;
        let mut hot = self.that_can_be_flushed();
        hot.sort_by(|a, b| a.0.cmp(&b.0));
        let bytes: Vec<usize> = hot.iter().map(|(_, t)| if t.has_rows() { t.bytes() } else { 0 }).collect();
        let greatest = bytes.iter().copied().max().filter(|_| bytes.iter().sum::<usize>() > limit);
        let mut due = Vec::new();
        for ((scope, table), bytes) in hot.into_iter().zip(bytes) {
            let Some(definition) = definition(scope.table_no) else { continue };
            if self.pins.is_held(&scope) {
                continue;
            }
            let view = table.view();
            let rows: u64 = view.chunks.iter().map(|c| c.len() as u64).sum();
            let oldest = view.chunks.first().filter(|c| !c.is_empty()).map(|c| c.seqs.value(0));
            // Rows of segments end by records of the log too, and nothing but a flush takes those out of it.
            let (marks, first_mark) = table.logged_marks().map_or((0, None), |(marks, first)| (marks, Some(first)));
            let policy = &definition.options.flush_policy;
            let oldest = oldest.into_iter().chain(first_mark).min().map(SeqSpan::ms_of);
            let age = oldest.map_or(0, |ms| now.saturating_sub(ms));
            let flush = policy.rows.is_some_and(|n| rows.max(marks) >= n)
                || (oldest.is_some() && policy.interval_seconds.is_some_and(|s| age >= s.saturating_mul(1000)))
                || (rows > 0 && greatest == Some(bytes));
            if flush {
                due.push(Due { scope: scope.clone(), work: DueWork::Flush });
            }
            if rewrite::pick(&view.segments, &definition, self.keep(&definition), false).is_some() {
                due.push(Due { scope, work: DueWork::Compact });
            }
        }
        due
    }

    /// What is in memory but for streams, which are there alone, and for what was dropped.
    fn that_can_be_flushed(&self) -> Vec<(ScopeKey, Arc<HotTable>)> {
        let slots = self.slots.lock();
        let in_memory = slots.iter().filter_map(|(scope, slot)| Some((scope.clone(), slot.hot.lock().clone()?)));
        let mut hot: Vec<_> = in_memory.collect();
        drop(slots);
        hot.retain(|(scope, table)| !table.is_stream() && !self.is_dropped(scope.table_no));
        hot
    }

    /// Sets how many bytes of hot rows there may be before writers flush first, and how many the cache of segments has.
    pub fn set_memory(&self, hot_limit: usize, cache: usize) {
        self.hot_limit.store(hot_limit, Ordering::Relaxed);
        // What was found to be within another limit is counted again.
        self.grown.store(hot_limit, Ordering::Relaxed);
        self.cache.set_budget(cache);
    }

    /// Remembers that rows came.
    pub(super) fn count_grown(&self, writes: &[ScopeWrite]) {
        let bytes: usize = writes.iter().map(|w| w.hot.grown()).sum();
        self.grown.fetch_add(bytes, Ordering::Relaxed);
        self.most.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Fails if the rows in memory take more than their limit and `more` bytes: for who would add to those that cannot be
    /// flushed.
    pub fn check_room(&self, more: usize) -> Result<()> {
        let allowed = self.hot_limit.load(Ordering::Relaxed).saturating_add(more);
        if self.most.load(Ordering::Relaxed) <= allowed {
            return Ok(());
        }
        self.evict_expired();
        let slots = self.slots.lock();
        let bytes: usize = slots.values().filter_map(|slot| slot.hot.lock().as_ref().map(|hot| hot.bytes())).sum();
        self.most.store(bytes, Ordering::Relaxed);
        if bytes <= allowed {
            return Ok(());
        }
        let message =
            format!("rows in memory take {bytes} bytes, more than {allowed}, and these cannot be flushed now");
        Err(KalamError::new(ErrorCode::OutOfMemory, message).with_hint(
            "Events of streams stay in memory, and so do rows that an open transaction holds. Let events live shorter \
             (TTL_SECONDS), end the transaction, or raise `memoryBudget`.",
        ))
    }

    /// The scope with the most hot rows, if hot rows take more memory than they may: a writer flushes it first.
    pub fn over_budget(&self) -> Option<ScopeKey> {
        let limit = self.hot_limit.load(Ordering::Relaxed);
        if self.grown.load(Ordering::Relaxed) <= limit / RECOUNT_SHARE {
            return None;
        }
        let hot: Vec<(ScopeKey, bool, usize)> = self
            .that_can_be_flushed()
            .into_iter()
            .map(|(scope, table)| (scope, table.has_rows(), table.bytes()))
            .collect();
        if hot.iter().map(|(_, _, bytes)| bytes).sum::<usize>() <= limit {
            self.grown.store(0, Ordering::Relaxed);
            return None;
        }
        let full = hot.into_iter().filter(|(scope, has_rows, _)| *has_rows && !self.pins.is_held(scope));
        full.max_by_key(|(_, _, bytes)| *bytes).map(|(scope, _, _)| scope)
    }
}
