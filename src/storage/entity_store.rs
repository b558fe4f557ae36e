//! Typed keys and values over one partition of a backend.
//!
//! Invariant: the order of encoded keys is the order of the keys, and every value is a checksummed record
//! (`record.rs`) with JSON inside, so an entity that does not decode is an error that names its key, never a missing
//! one.

use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::{self, RecordKind};
use super::{Durability, KeyRange, Partition, ScanOptions, StorageBackend, WriteBatch};
use crate::error::{ErrorCode, KalamError, Result};

/// A value that an [`EntityStore`] keeps.
pub trait Entity: Serialize + DeserializeOwned {
    /// What tells one from another.
    type Key;
    /// The partition that holds it.
    const PARTITION: Partition;
    /// First bytes of its keys: tells the kinds of entity of one partition apart. Never changed.
    const PREFIX: &'static [u8];
    /// The key's bytes after the prefix; their order is the order of the keys.
    fn encode_key(key: &Self::Key) -> Vec<u8>;
}

/// Typed access to the entities of one kind.
#[derive(Debug)]
pub struct EntityStore<E> {
    backend: Arc<dyn StorageBackend>,
    entity: PhantomData<fn() -> E>,
}

impl<E> Clone for EntityStore<E> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), entity: PhantomData }
    }
}

impl<E: Entity> EntityStore<E> {
    /// A store on a backend.
    pub fn new(backend: Arc<dyn StorageBackend>) -> Self {
        Self { backend, entity: PhantomData }
    }

    fn full_key(key: &E::Key) -> Vec<u8> {
        let mut full = E::PREFIX.to_vec();
        full.extend_from_slice(&E::encode_key(key));
        full
    }

    /// The entity of a key.
    pub async fn get(&self, key: &E::Key) -> Result<Option<E>> {
        let key = Self::full_key(key);
        match self.backend.get(E::PARTITION, &key).await? {
            Some(value) => decode(&key, &value).map(Some),
            None => Ok(None),
        }
    }

    /// Every entity in key order.
    pub async fn list(&self) -> Result<Vec<E>> {
        self.list_prefix(&[]).await
    }

    /// Every entity whose encoded key starts with `prefix`, in key order.
    pub async fn list_prefix(&self, prefix: &[u8]) -> Result<Vec<E>> {
        let mut full = E::PREFIX.to_vec();
        full.extend_from_slice(prefix);
        let records = self.backend.scan(E::PARTITION, &KeyRange::prefix(&full), ScanOptions::default()).await?;
        records.iter().map(|(key, value)| decode(key, value)).collect()
    }

    /// Adds to `batch`: set the entity of a key.
    pub fn put_into(&self, batch: &mut WriteBatch, key: &E::Key, entity: &E) -> Result<()> {
        let key = Self::full_key(key);
        let json = serde_json::to_vec(entity)
            .map_err(|e| KalamError::internal(format_args!("entity {} does not encode: {e}", record::hex(&key))))?;
        let value = record::seal(RecordKind::Entity, &key, &json);
        batch.put(E::PARTITION, key, value);
        Ok(())
    }

    /// Adds to `batch`: remove the entity of a key.
    pub fn delete_into(&self, batch: &mut WriteBatch, key: &E::Key) {
        batch.delete(E::PARTITION, Self::full_key(key));
    }

    /// Sets the entity of a key, strictly durable.
    pub async fn put(&self, key: &E::Key, entity: &E) -> Result<()> {
        let mut batch = WriteBatch::new();
        self.put_into(&mut batch, key, entity)?;
        self.backend.commit(batch, Durability::Strict).await?;
        Ok(())
    }

    /// Sets the entity of a key, as durable as the operating system keeps it.
    pub async fn put_relaxed(&self, key: &E::Key, entity: &E) -> Result<()> {
        let mut batch = WriteBatch::new();
        self.put_into(&mut batch, key, entity)?;
        self.backend.commit(batch, Durability::Relaxed).await?;
        Ok(())
    }

    /// Removes the entity of a key, if it is there; strictly durable.
    pub async fn delete(&self, key: &E::Key) -> Result<()> {
        let mut batch = WriteBatch::new();
        self.delete_into(&mut batch, key);
        self.backend.commit(batch, Durability::Strict).await?;
        Ok(())
    }
}

fn decode<E: Entity>(key: &[u8], value: &bytes::Bytes) -> Result<E> {
    let payload = record::open(RecordKind::Entity, key, value)?;
    serde_json::from_slice(&payload).map_err(|e| {
        KalamError::new(ErrorCode::DataCorrupted, format!("the entity {} does not decode: {e}", record::hex(key)))
            .with_hint("It may have been written by a later version of KalamDB. Update the package.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryBackend;
    use futures::executor::block_on;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        id: u32,
        text: String,
    }

    impl Entity for Note {
        type Key = u32;
        const PARTITION: Partition = Partition::Catalog;
        const PREFIX: &'static [u8] = b"note/";
        fn encode_key(key: &u32) -> Vec<u8> {
            key.to_be_bytes().to_vec()
        }
    }

    #[test]
    fn entities_come_back_in_key_order_and_damage_is_an_error() -> Result<()> {
        block_on(async {
            let backend: Arc<dyn StorageBackend> = Arc::new(MemoryBackend::new());
            let store = EntityStore::<Note>::new(Arc::clone(&backend));
            for id in [300, 2, 70_000] {
                store.put(&id, &Note { id, text: format!("n{id}") }).await?;
            }
            let ids: Vec<u32> = store.list().await?.iter().map(|n| n.id).collect();
            assert_eq!(ids, [2, 300, 70_000]);
            assert_eq!(store.get(&2).await?.map(|n| n.text), Some("n2".into()));
            store.delete(&2).await?;
            assert_eq!(store.get(&2).await?, None);

            let mut batch = WriteBatch::new();
            batch.put(Partition::Catalog, EntityStore::<Note>::full_key(&300), &b"rubbish"[..]);
            backend.commit(batch, Durability::Strict).await?;
            let error = store.get(&300).await.expect_err("damage must not read as missing");
            assert_eq!(error.code(), ErrorCode::DataCorrupted);
            Ok(())
        })
    }
}
