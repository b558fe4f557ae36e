//! Atomic batches.

use bytes::Bytes;
use futures::FutureExt;
use kalamdb::error::Result;
use kalamdb::storage::{Durability, KeyRange, MAX_VALUE_BYTES, Partition, WriteBatch};

use super::{Harness, all, commit, done, keys, put_all};

const LOG: Partition = Partition::Log;

/// One batch writes to every partition.
pub async fn a_batch_is_over_all_partitions(harness: &impl Harness) -> Result<()> {
    let name = "all-partitions";
    let backend = harness.fresh(name).await?;
    let mut batch = WriteBatch::new();
    for partition in Partition::ALL {
        batch.put(partition, *b"k", partition.name());
    }
    let mut more = WriteBatch::new();
    more.put(LOG, *b"l", &b"appended"[..]);
    batch.append(more);
    commit(&backend, batch).await?;
    for partition in Partition::ALL {
        assert_eq!(backend.get(partition, b"k").await?, Some(Bytes::from_static(partition.name().as_bytes())));
    }
    assert_eq!(backend.get(LOG, b"l").await?, Some(Bytes::from_static(b"appended")));
    done(harness, name, backend).await
}

/// A batch with one value above the limit fails as a whole, and the next one works.
pub async fn a_bad_batch_leaves_nothing(harness: &impl Harness) -> Result<()> {
    let name = "bad-batch";
    let backend = harness.fresh(name).await?;
    put_all(&backend, LOG, &[(b"kept", b"1")]).await?;
    for durability in [Durability::Relaxed, Durability::Strict] {
        let mut batch = WriteBatch::new();
        for partition in Partition::ALL {
            batch.put(partition, *b"bad", &b"x"[..]);
        }
        batch.delete(LOG, *b"kept");
        batch.put(Partition::Blob, *b"too large", vec![0; MAX_VALUE_BYTES + 1]);
        batch.put(Partition::Meta, *b"after", &b"x"[..]);
        let error = backend.commit(batch, durability).await.expect_err("a value above the limit");
        assert!(error.message().contains(&(MAX_VALUE_BYTES + 1).to_string()), "{error}");
    }
    for partition in Partition::ALL {
        let expected = if partition == LOG { vec![(b"kept".to_vec(), Bytes::from_static(b"1"))] } else { vec![] };
        assert_eq!(all(&backend, partition).await?, expected, "{}", partition.name());
    }
    put_all(&backend, LOG, &[(b"next", b"2")]).await?;
    let backend = harness.reopen(name, backend).await?;
    assert_eq!(backend.stats().await?.records, 2);
    done(harness, name, backend).await
}

/// Later operations of a batch act on what earlier ones did.
pub async fn operations_apply_in_order(harness: &impl Harness) -> Result<()> {
    let name = "in-order";
    let backend = harness.fresh(name).await?;
    put_all(&backend, LOG, &[(b"a1", b"old"), (b"a2", b"old"), (b"b", b"old")]).await?;
    let mut batch = WriteBatch::new();
    batch.put(LOG, *b"put then delete", &b"x"[..]).delete(LOG, *b"put then delete");
    batch.delete(LOG, *b"b").put(LOG, *b"b", &b"new"[..]);
    batch.delete_range(LOG, KeyRange::prefix(b"a")).put(LOG, *b"a2", &b"new"[..]);
    batch.put(LOG, *b"c", &b"1"[..]).put(LOG, *b"c", &b"2"[..]);
    batch.put(LOG, *b"d", &b"x"[..]).delete_range(LOG, KeyRange::prefix(b"d"));
    commit(&backend, batch).await?;
    let expected = [(&b"a2"[..], &b"new"[..]), (b"b", b"new"), (b"c", b"2")];
    assert_eq!(all(&backend, LOG).await?, expected.map(|(k, v)| (k.to_vec(), Bytes::copy_from_slice(v))));
    done(harness, name, backend).await
}

/// Ranges are deleted with their ends as given; empty ones delete nothing; one partition only.
pub async fn delete_ranges(harness: &impl Harness) -> Result<()> {
    let name = "delete-ranges";
    let backend = harness.fresh(name).await?;
    let every: Vec<Vec<u8>> = (0..=255u8).map(|n| vec![n]).collect();
    let ranges = [
        KeyRange::between([10], [20]),
        KeyRange::between([10], [10]),
        KeyRange::between([20], [10]),
        KeyRange { from: Some(vec![200]), to: None },
        KeyRange { from: None, to: Some(vec![3]) },
        KeyRange { from: None, to: Some(vec![]) },
        KeyRange::prefix(&[0xFF]),
        KeyRange::prefix(&[]),
        KeyRange::all(),
    ];
    for range in ranges {
        let mut batch = WriteBatch::new();
        for key in &every {
            batch.put(LOG, key.clone(), key.clone()).put(Partition::Catalog, key.clone(), key.clone());
        }
        commit(&backend, batch).await?;
        let mut batch = WriteBatch::new();
        batch.delete_range(LOG, range.clone());
        commit(&backend, batch).await?;
        let left: Vec<Vec<u8>> = every.iter().filter(|k| range.is_empty() || !range.contains(k)).cloned().collect();
        assert_eq!(keys(&backend, LOG, &KeyRange::all(), None, false).await?, left, "{range:?}");
        assert_eq!(keys(&backend, Partition::Catalog, &KeyRange::all(), None, false).await?, every);
    }
    done(harness, name, backend).await
}

/// A batch without operations, and one whose operations do nothing.
pub async fn an_empty_batch(harness: &impl Harness) -> Result<()> {
    let name = "empty-batch";
    let backend = harness.fresh(name).await?;
    commit(&backend, WriteBatch::new()).await?;
    let mut batch = WriteBatch::new();
    batch.delete_range(LOG, KeyRange::between(*b"b", *b"a"));
    commit(&backend, batch).await?;
    assert_eq!(backend.stats().await?.records, 0);
    done(harness, name, backend).await
}

/// A commit reports the durability that the backend can promise.
pub async fn receipts(harness: &impl Harness) -> Result<()> {
    let name = "receipts";
    let backend = harness.fresh(name).await?;
    for asked in [Durability::Memory, Durability::Relaxed, Durability::Strict] {
        let mut batch = WriteBatch::new();
        batch.put(LOG, asked.as_str(), &b"1"[..]);
        assert_eq!(backend.commit(batch, asked).await?, harness.receipt(asked));
        assert_eq!(backend.get(LOG, asked.as_str().as_bytes()).await?, Some(Bytes::from_static(b"1")));
    }
    done(harness, name, backend).await
}

/// A caller that stops waiting in the middle of a commit leaves all of it or nothing.
pub async fn a_dropped_commit_is_whole(harness: &impl Harness) -> Result<()> {
    let name = "dropped";
    let backend = harness.fresh(name).await?;
    let mut batch = WriteBatch::new();
    for partition in Partition::ALL {
        for n in 0..20u8 {
            batch.put(partition, [n], vec![n; 1000]);
        }
    }
    let mut commit = backend.commit(batch, Durability::Relaxed);
    // One poll begins it; a backend that is done by then is fine too.
    let _ = (&mut commit).now_or_never();
    drop(commit);
    put_all(&backend, LOG, &[(b"next", b"1")]).await?;
    let records = backend.stats().await?.records;
    assert!(records == 1 || records == 101, "{records} records, expected the next one and all or none of the batch");
    done(harness, name, backend).await
}
