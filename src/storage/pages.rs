//! The records of a range, read a page at a time.
//!
//! Invariant: every record of the range that is there from the first page to the last is given once, in the order of
//! the keys: a page begins right behind the last key of the one before. Memory holds one page, of at most 64 MiB. What
//! is written meanwhile may be given or not, as each page is of a moment of its own.

use super::{KeyRange, KeyValue, Partition, ScanOptions, StorageBackend, key_after};
use crate::error::Result;

/// Records of a page; none has a greater value than [`super::MAX_VALUE_BYTES`].
const PAGE: usize = 64;

/// The records of a range, page by page; see the module's comment.
#[derive(Debug)]
pub struct Pages {
    partition: Partition,
    /// What is not read yet; `None` at the end.
    rest: Option<KeyRange>,
}

impl Pages {
    /// The records of `range`; nothing is read yet.
    pub fn new(partition: Partition, range: KeyRange) -> Self {
        Self { partition, rest: Some(range) }
    }

    /// The next page, never an empty one; `None` at the end.
    pub async fn next(&mut self, backend: &dyn StorageBackend) -> Result<Option<Vec<KeyValue>>> {
        let Some(mut range) = self.rest.take() else { return Ok(None) };
        let page = backend.scan(self.partition, &range, ScanOptions { limit: Some(PAGE), reverse: false }).await?;
        if let Some((last, _)) = page.last().filter(|_| page.len() == PAGE) {
            range.from = Some(key_after(last));
            self.rest = Some(range);
        }
        Ok((!page.is_empty()).then_some(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemoryBackend, WriteBatch};
    use futures::executor::block_on;

    #[test]
    fn every_record_of_a_range_comes_once_and_in_order() -> Result<()> {
        block_on(async {
            for count in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE] {
                let backend = MemoryBackend::new();
                let mut batch = WriteBatch::new();
                batch.put(Partition::Log, *b"a", &b"before"[..]).put(Partition::Log, *b"c", &b"behind"[..]);
                let keys: Vec<Vec<u8>> = (0..count).map(|n| [b"b", &(n as u32).to_be_bytes()[..]].concat()).collect();
                for key in &keys {
                    batch.put(Partition::Log, key.clone(), key.clone());
                }
                backend.commit(batch, Default::default()).await?;
                let mut pages = Pages::new(Partition::Log, KeyRange::prefix(b"b"));
                let mut found = Vec::new();
                while let Some(page) = pages.next(&backend).await? {
                    assert!((1..=PAGE).contains(&page.len()));
                    found.extend(page.into_iter().map(|(key, _)| key));
                }
                assert_eq!(found, keys);
            }
            Ok(())
        })
    }
}
