//! The index of a hot tier's keys: where the newest version of each key lies.
//!
//! Invariant: an entry is a position and 32 bits of the hash of that row's key. The keys themselves stay in the chunks:
//! whoever looks one up says whether the row at a position has it, and is asked only where the hash is the same. So
//! growing the index reads no row.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// The index; see the module's comment.
#[derive(Debug, Default)]
pub struct KeyIndex {
    entries: HashTable<Entry>,
    hasher: DefaultHashBuilder,
}

/// A position in two halves, so that an entry takes 12 bytes.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    low: u32,
    high: u32,
}

impl Entry {
    fn new(hash: u32, position: u64) -> Self {
        Self { hash, low: position as u32, high: (position >> 32) as u32 }
    }

    fn position(&self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }
}

/// The table takes its bits from both ends of 64.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl KeyIndex {
    /// An empty index with room for so many keys.
    pub fn with_capacity(keys: usize) -> Self {
        Self { entries: HashTable::with_capacity(keys), hasher: DefaultHashBuilder::default() }
    }

    /// Makes room for so many keys more.
    pub fn reserve(&mut self, more: usize) {
        self.entries.reserve(more, |entry| spread(entry.hash));
    }

    /// Bytes that it takes.
    pub fn memory_size(&self) -> usize {
        self.entries.allocation_size()
    }

    /// Gives memory back that many keys fewer need.
    fn shrink(&mut self) {
        if self.entries.capacity() / 4 > self.entries.len() {
            self.entries.shrink_to(self.entries.len() * 2, |entry| spread(entry.hash));
        }
    }

    fn hash(&self, key: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(key);
        (hash ^ hash >> 32) as u32
    }

    /// The position of a key. `has_key` says whether the row at a position has it.
    pub fn find(&self, key: &[u8], mut has_key: impl FnMut(u64) -> bool) -> Option<u64> {
        let hash = self.hash(key);
        let found = self.entries.find(spread(hash), |entry| entry.hash == hash && has_key(entry.position()));
        found.map(Entry::position)
    }

    /// Leads from a key to a position; returns where it led before.
    pub fn set(&mut self, key: &[u8], position: u64, mut has_key: impl FnMut(u64) -> bool) -> Option<u64> {
        let hash = self.hash(key);
        let entry = Entry::new(hash, position);
        match self.entries.find_mut(spread(hash), |entry| entry.hash == hash && has_key(entry.position())) {
            Some(slot) => Some(std::mem::replace(slot, entry).position()),
            None => {
                self.entries.insert_unique(spread(hash), entry, |entry| spread(entry.hash));
                None
            }
        }
    }

    /// Forgets the keys that lead below a position.
    pub fn forget_below(&mut self, position: u64) {
        self.entries.retain(|entry| entry.position() >= position);
        self.shrink();
    }

    /// Leads from a key to where it led before, or nowhere, if it leads to a position.
    pub fn take_back(&mut self, key: &[u8], position: u64, before: Option<u64>) {
        let hash = self.hash(key);
        let found = self.entries.find_entry(spread(hash), |e| e.hash == hash && e.position() == position);
        let Ok(mut entry) = found else { return };
        match before {
            Some(before) => *entry.get_mut() = Entry::new(hash, before),
            None => drop(entry.remove()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_as_the_index_grows() {
        let key = |position: u64| (position % 10_000).to_be_bytes();
        let mut index = KeyIndex::default();
        for position in 0..20_000u64 {
            let before = index.set(&key(position), position, |at| key(at) == key(position));
            assert_eq!(before, position.checked_sub(10_000));
        }
        index.reserve(100_000);
        let far = (1 << 61) + 7;
        assert_eq!(index.set(b"far", far, |_| false), None);
        assert_eq!(index.find(b"far", |at| at == far), Some(far));
        for position in 10_000..20_000 {
            assert_eq!(index.find(&key(position), |at| key(at) == key(position)), Some(position));
        }
        index.take_back(&key(10_005), 10_005, Some(5));
        index.take_back(&key(10_006), 10_006, None);
        index.take_back(&key(10_007), 7, None);
        let found = |n: u64| index.find(&key(n), |at| key(at) == key(n));
        assert_eq!([found(5), found(6), found(7)], [Some(5), None, Some(10_007)]);
        // Few keys take little memory, however many there were.
        let before = index.memory_size();
        assert!(before >= 10_000 * size_of::<Entry>());
        index.forget_below(19_990);
        assert!(index.memory_size() < before / 100, "{} of {before} bytes", index.memory_size());
        assert_eq!(index.find(b"far", |at| at == far), Some(far));
    }
}
