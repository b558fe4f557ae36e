//! One LRU per store: decoded columns, footers, Bloom filters and indexes of segments, within a budget of bytes.
//!
//! Invariant: what is cached is what is in the file, for ever, because segments never change; entries are found by a
//! number that a segment gets when it is opened, never by its name. The bytes that are counted never exceed the
//! budget.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::ArrayRef;
use parking_lot::Mutex;
use parquet::bloom_filter::Sbbf;

use super::footer::Footer;
use super::index::SegmentIndex;

/// What an entry is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Footer,
    Bloom {
        group: u32,
        id: u32,
    },
    Column {
        group: u32,
        id: u32,
    },
    /// Of an index, as a schema version of the table has it.
    Index {
        id: u32,
        version: u32,
    },
}

#[derive(Debug, Clone)]
pub(super) enum Cached {
    Footer(Arc<Footer>),
    Bloom(Arc<Sbbf>),
    Column(ArrayRef),
    Index(Arc<SegmentIndex>),
}

type Key = (u64, Item);

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Entry>,
    /// Keys by when they were last used, about.
    used: BTreeMap<u64, Key>,
    clock: u64,
    bytes: usize,
    budget: usize,
    hits: u64,
    misses: u64,
}

#[derive(Debug)]
struct Entry {
    cached: Cached,
    bytes: usize,
    used: u64,
}

/// A cache of decoded columns and footers; see the module's comment.
#[derive(Debug)]
pub struct SegmentCache {
    state: Mutex<State>,
    next: AtomicU64,
}

/// Counters of a [`SegmentCache`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStatistics {
    /// Lookups that found an entry.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes they hold.
    pub bytes: u64,
    /// Bytes they may hold.
    pub budget: u64,
}

impl SegmentCache {
    /// An empty cache that holds at most so many bytes.
    pub fn new(budget: usize) -> Arc<Self> {
        let state = State { budget, ..State::default() };
        Arc::new(Self { state: Mutex::new(state), next: AtomicU64::new(0) })
    }

    /// Changes how many bytes it may hold.
    pub fn set_budget(&self, budget: usize) {
        let mut state = self.state.lock();
        state.budget = budget;
        state.shrink();
    }

    /// Whether so many bytes more would push nothing out.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let state = self.state.lock();
        state.bytes.saturating_add(bytes) <= state.budget
    }

    /// Drops everything.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.entries.clear();
        state.used.clear();
        state.bytes = 0;
    }

    /// Counters.
    pub fn statistics(&self) -> CacheStatistics {
        let state = self.state.lock();
        CacheStatistics {
            hits: state.hits,
            misses: state.misses,
            entries: state.entries.len() as u64,
            bytes: state.bytes as u64,
            budget: state.budget as u64,
        }
    }

    /// A number for a segment that is opened.
    pub(super) fn register(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn get(&self, segment: u64, item: Item) -> Option<Cached> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let key = (segment, item);
        let half = state.entries.len() as u64 / 2;
        let Some(entry) = state.entries.get(&key) else {
            state.misses += 1;
            return None;
        };
        state.hits += 1;
        let found = entry.cached.clone();
        // Among the half that was used last it keeps its place: to move it costs more than to find it, and the other half
        // is dropped first in any case.
        if state.clock - entry.used >= half {
            state.touch(key);
        }
        Some(found)
    }

    /// Some columns of a row group, if all of them are there: one search instead of one for each.
    pub(super) fn columns(&self, segment: u64, group: u32, ids: &[u32]) -> Option<Vec<ArrayRef>> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let all = (segment, Item::Column { group, id: 0 })..=(segment, Item::Column { group, id: u32::MAX });
        let mut found: Vec<Option<ArrayRef>> = vec![None; ids.len()];
        let mut left = ids.len();
        let mut old = Vec::new();
        let half = state.entries.len() as u64 / 2;
        for (key, entry) in state.entries.range(all) {
            let ((_, Item::Column { id, .. }), Cached::Column(array)) = (key, &entry.cached) else { continue };
            for (slot, _) in found.iter_mut().zip(ids).filter(|(_, wanted)| *wanted == id) {
                left -= usize::from(slot.replace(Arc::clone(array)).is_none());
                old.extend((state.clock - entry.used >= half).then_some(*key));
            }
        }
        if left > 0 {
            return None;
        }
        state.hits += ids.len() as u64;
        old.into_iter().for_each(|key| state.touch(key));
        found.into_iter().collect()
    }

    /// Whether an entry is there; no lookup is counted.
    pub(super) fn contains(&self, segment: u64, item: Item) -> bool {
        self.state.lock().entries.contains_key(&(segment, item))
    }

    pub(super) fn put(&self, segment: u64, item: Item, cached: Cached) {
        let bytes = size(&cached) + size_of::<Entry>() + 2 * size_of::<Key>();
        let mut state = self.state.lock();
        state.remove(&(segment, item));
        // What would push everything else out is not worth it.
        if bytes > state.budget / 2 {
            return;
        }
        state.clock += 1;
        let used = state.clock;
        state.used.insert(used, (segment, item));
        state.entries.insert((segment, item), Entry { cached, bytes, used });
        state.bytes += bytes;
        state.shrink();
    }

    /// Drops what is cached of a segment.
    pub(super) fn forget(&self, segment: u64) {
        let mut state = self.state.lock();
        let range = (segment, Item::Footer)..(segment + 1, Item::Footer);
        let keys: Vec<Key> = state.entries.range(range).map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| state.remove(key));
    }
}

impl State {
    /// An entry is the one that was used last.
    fn touch(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        self.clock += 1;
        self.used.remove(&entry.used);
        entry.used = self.clock;
        self.used.insert(self.clock, key);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.used.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }

    fn shrink(&mut self) {
        while self.bytes > self.budget
            && let Some((_, key)) = self.used.first_key_value()
        {
            let key = *key;
            self.remove(&key);
        }
    }
}

fn size(cached: &Cached) -> usize {
    match cached {
        Cached::Footer(footer) => footer.bytes,
        Cached::Bloom(bloom) => bloom.num_blocks() * 32,
        Cached::Column(array) => array.get_array_memory_size(),
        Cached::Index(index) => index.bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let cache = SegmentCache::new(10_000);
        let segment = cache.register();
        let item = |id| Item::Column { group: 0, id };
        let array = || Cached::Column(Arc::new(Int64Array::from(vec![1; 300])));
        for id in 0..3 {
            cache.put(segment, item(id), array());
        }
        assert!(cache.get(segment, item(0)).is_some());
        cache.put(segment, item(3), array());
        let there: Vec<bool> = (0..4).map(|id| cache.get(segment, item(id)).is_some()).collect();
        assert_eq!(there, [true, false, true, true]);
        assert!(cache.statistics().bytes <= 10_000);
        assert_eq!((cache.statistics().hits, cache.statistics().misses), (4, 1));
        cache.put(segment, item(9), Cached::Column(Arc::new(Int64Array::from(vec![1; 3000]))));
        assert!(cache.get(segment, item(9)).is_none());
        cache.forget(segment);
        assert_eq!((cache.statistics().bytes, cache.statistics().entries), (0, 0));
    }
}
