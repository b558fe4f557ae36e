//! A map that forgets what was not used for the longest time.
//!
//! Invariant: it never holds more entries or more bytes than its bounds, except that the newest entry is always kept.

use std::borrow::Borrow;
use std::hash::Hash;

use hashbrown::HashMap;

struct Entry<V> {
    value: V,
    bytes: usize,
    used: u64,
}

/// The map.
pub struct Lru<K, V> {
    entries: HashMap<K, Entry<V>>,
    clock: u64,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

impl<K: Hash + Eq + Clone, V> Lru<K, V> {
    /// An empty map with its bounds.
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { entries: HashMap::new(), clock: 0, bytes: 0, max_entries, max_bytes }
    }

    /// The value of a key, which counts as used.
    pub fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.clock;
        Some(&entry.value)
    }

    /// Keeps a value, in the place of a former one.
    pub fn insert(&mut self, key: K, value: V, bytes: usize) {
        self.clock += 1;
        if let Some(former) = self.entries.insert(key, Entry { value, bytes, used: self.clock }) {
            self.bytes -= former.bytes;
        }
        self.bytes += bytes;
        while self.entries.len() > 1 && (self.entries.len() > self.max_entries || self.bytes > self.max_bytes) {
            // The bounds are some hundred entries, and whoever inserts has just parsed or planned a statement.
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            let Some(entry) = oldest.and_then(|key| self.entries.remove(&key)) else { return };
            self.bytes -= entry.bytes;
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values().map(|entry| &entry.value)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes they were said to take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays() {
        let mut lru: Lru<&str, u32> = Lru::new(2, 100);
        lru.insert("a", 1, 10);
        lru.insert("b", 2, 10);
        assert_eq!(lru.get("a"), Some(&1));
        lru.insert("c", 3, 10);
        assert_eq!(["a", "b", "c"].map(|key| lru.get(key).copied()), [Some(1), None, Some(3)]);
        lru.insert("a", 4, 20);
        assert_eq!((lru.get("a").copied(), lru.len(), lru.bytes()), (Some(4), 2, 30));
    }

    #[test]
    fn bytes_are_bounded_and_the_newest_is_kept() {
        let mut lru: Lru<u32, ()> = Lru::new(10, 100);
        for key in 0..5 {
            lru.insert(key, (), 40);
        }
        assert_eq!((lru.len(), lru.bytes()), (2, 80));
        lru.insert(9, (), 1000);
        assert_eq!((lru.len(), lru.values().count()), (1, 1));
        lru.clear();
        assert_eq!((lru.len(), lru.bytes()), (0, 0));
    }
}
