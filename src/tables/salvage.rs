//! What can be read of a damaged database, as a database.
//!
//! A [`Salvage`] is a view of a backend that leaves out what a scrub found damaged, and gives anew what can be computed
//! from the rest: the record of the database, the bound of `_seq`, the next table number, the system tables. A backup of
//! the view restores to a database that opens. Invariant: it is read only, and every record that it shows is sound or
//! was made here; what is left out stands in the scrub's report.
//!
//! What a lost record of the log changed is undone by its loss: rows that it inserted are gone, rows that it updated or
//! deleted are there as they were before. Of a damaged segment the rows are shown that can be read, in a segment of another
//! number, so that what the log says of the old one's rows means nothing (`rescue.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::lock::Mutex;

use super::rescue::{Made, Rescued, part_of};
use super::scrub::Scrub;
use crate::error::{ErrorCode, KalamError, Result};
use crate::storage::backup::DATABASE_KEY;
use crate::storage::record::{self, RecordKind};
use crate::storage::{
    Durability, KeyRange, KeyValue, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch, key_after,
};

/// Records of the meta partition that are always made anew: whoever opens the database writes them again.
const DROPPED: [&[u8]; 2] = [b"restoring", b"catalog_version"];

/// The view; see the module's comment.
#[derive(Debug)]
pub struct Salvage {
    inner: Arc<dyn StorageBackend>,
    scrub: Scrub,
    meta: BTreeMap<Vec<u8>, Bytes>,
    /// The file of a new segment that was read last.
    file: Mutex<Option<(Arc<Rescued>, Bytes)>>,
}

/// A record of the view.
enum Shown<'a> {
    /// Storage holds it.
    Stored(Bytes),
    /// It was made.
    Made(&'a Made),
}

impl Salvage {
    /// A view of a backend after a scrub of all of it. `database` is the record of the database, in JSON, for one that
    /// has lost its own.
    pub async fn new(inner: Arc<dyn StorageBackend>, scrub: Scrub, database: &[u8]) -> Result<Self> {
        let mut meta: BTreeMap<Vec<u8>, Bytes> = BTreeMap::new();
        for (key, value) in inner.scan(Partition::Meta, &KeyRange::all(), ScanOptions::default()).await? {
            if !DROPPED.contains(&key.as_slice()) && !scrub.damaged.contains(&(Partition::Meta, key.clone())) {
                meta.insert(key, value);
            }
        }
        let least_number = 1 + scrub.tables.values().map(|t| i64::from(t.table_no)).max().unwrap_or_default();
        for (key, least) in [(&b"seq_ceiling"[..], scrub.greatest_seq), (&b"next_table_no"[..], least_number)] {
            let stored = meta.get(key).and_then(|value| {
                let payload = record::open(RecordKind::Entity, key, value).ok()?;
                serde_json::from_slice::<i64>(&payload).ok()
            });
            if stored.is_none_or(|stored| stored < least) {
                meta.insert(key.to_vec(), record::seal(RecordKind::Entity, key, least.to_string().as_bytes()));
            }
        }
        if !meta.contains_key(DATABASE_KEY) {
            meta.insert(DATABASE_KEY.to_vec(), record::seal(RecordKind::Entity, DATABASE_KEY, database));
        }
        Ok(Self { inner, scrub, meta, file: Mutex::new(None) })
    }

    /// What the scrub found.
    pub fn scrub(&self) -> &Scrub {
        &self.scrub
    }

    /// The value of a record that was made.
    async fn value(&self, made: &Made) -> Result<Bytes> {
        let (of, part) = match made {
            Made::Record(value) => return Ok(value.clone()),
            Made::Part { of, part } => (of, *part),
        };
        let mut last = self.file.lock().await;
        if let Some((_, file)) = last.as_ref().filter(|(whose, _)| Arc::ptr_eq(whose, of)) {
            return Ok(part_of(file, part));
        }
        // One at a time: the other one goes before this one is built.
        *last = None;
        let file = of.file().await?;
        let part = part_of(&file, part);
        *last = Some((Arc::clone(of), file));
        Ok(part)
    }

    fn shows(&self, partition: Partition, key: &[u8]) -> bool {
        let prefixed = |(p, prefix): &(Partition, Vec<u8>)| *p == partition && key.starts_with(prefix);
        let place = (partition, key.to_vec());
        !self.scrub.damaged.contains(&place)
            && !self.scrub.made.contains_key(&place)
            && !self.scrub.damaged_prefixes.iter().any(prefixed)
    }
}

fn read_only() -> KalamError {
    KalamError::new(ErrorCode::FeatureNotSupported, "what was rescued is read only: restore it first")
}

#[async_trait]
impl StorageBackend for Salvage {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        match partition {
            Partition::Meta => Ok(self.meta.get(key).cloned()),
            _ if let Some(made) = self.scrub.made.get(&(partition, key.to_vec())) => self.value(made).await.map(Some),
            _ if self.shows(partition, key) => self.inner.get(partition, key).await,
            _ => Ok(None),
        }
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        let limit = options.limit.unwrap_or(usize::MAX);
        if partition == Partition::Meta {
            let inside = self.meta.iter().filter(|(key, _)| range.contains(key));
            let mut found: Vec<KeyValue> = inside.map(|(key, value)| (key.clone(), value.clone())).collect();
            if options.reverse {
                found.reverse();
            }
            found.truncate(limit);
            return Ok(found);
        }
        let made = self.scrub.made.iter().filter(|((p, key), _)| *p == partition && range.contains(key));
        let mut found: Vec<(Vec<u8>, Shown<'_>)> = Vec::new();
        let mut range = range.clone();
        // A page of which nothing is shown is not the end.
        while found.len() < limit && !range.is_empty() {
            let page = self.inner.scan(partition, &range, options).await?;
            let Some((last, _)) = page.last() else { break };
            if options.reverse {
                range.to = Some(last.clone());
            } else {
                range.from = Some(key_after(last));
            }
            let whole = options.limit.is_none();
            let shown = page.into_iter().filter(|(key, _)| self.shows(partition, key));
            found.extend(shown.map(|(key, value)| (key, Shown::Stored(value))));
            if whole {
                break;
            }
        }
        found.extend(made.map(|((_, key), made)| (key.clone(), Shown::Made(made))));
        found.sort_by(|a, b| if options.reverse { b.0.cmp(&a.0) } else { a.0.cmp(&b.0) });
        found.truncate(limit);
        let mut records = Vec::with_capacity(found.len());
        for (key, shown) in found {
            let value = match shown {
                Shown::Stored(value) => value,
                Shown::Made(made) => self.value(made).await?,
            };
            records.push((key, value));
        }
        Ok(records)
    }

    async fn commit(&self, _batch: WriteBatch, _durability: Durability) -> Result<Durability> {
        Err(read_only())
    }

    async fn stats(&self) -> Result<StorageStats> {
        self.inner.stats().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
