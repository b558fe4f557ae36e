//! Opening, reopening, closing, deleting, and many calls at once.

use bytes::Bytes;
use futures::future::{join, join_all};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::storage::{Durability, Entity, EntityStore, KeyRange, Partition, ScanOptions, WriteBatch};
use serde::{Deserialize, Serialize};

use super::{Backend, Harness, all, commit, done, keys, put_all};

const LOG: Partition = Partition::Log;

/// What was committed is there after reopening, whatever durability was asked for.
pub async fn reopening_keeps_everything(harness: &impl Harness) -> Result<()> {
    let name = "reopen";
    let mut backend = harness.fresh(name).await?;
    let mut expected = Vec::new();
    for round in 0..4u8 {
        for (n, durability) in [Durability::Memory, Durability::Relaxed, Durability::Strict].into_iter().enumerate() {
            let mut batch = WriteBatch::new();
            let key = vec![round, n as u8];
            batch.put(LOG, key.clone(), vec![round; 10]).put(Partition::Meta, *b"round", vec![round]);
            backend.commit(batch, durability).await?;
            expected.push((key, Bytes::from(vec![round; 10])));
        }
        backend = harness.reopen(name, backend).await?;
        assert_eq!(all(&backend, LOG).await?, expected);
        assert_eq!(backend.get(Partition::Meta, b"round").await?, Some(Bytes::from(vec![round])));
    }
    done(harness, name, backend).await
}

/// Two open databases share nothing.
pub async fn two_databases_side_by_side(harness: &impl Harness) -> Result<()> {
    let (one, other) = ("side", "side-by-side");
    let a = harness.fresh(one).await?;
    let b = harness.fresh(other).await?;
    put_all(&a, LOG, &[(b"k", b"a"), (b"only a", b"")]).await?;
    put_all(&b, LOG, &[(b"k", b"b")]).await?;
    assert_eq!(a.get(LOG, b"k").await?, Some(Bytes::from_static(b"a")));
    assert_eq!(b.get(LOG, b"k").await?, Some(Bytes::from_static(b"b")));
    assert_eq!(b.get(LOG, b"only a").await?, None);
    done(harness, one, a).await?;
    let b = harness.reopen(other, b).await?;
    assert_eq!(all(&b, LOG).await?, [(b"k".to_vec(), Bytes::from_static(b"b"))]);
    done(harness, other, b).await
}

/// A deleted database is empty when it is made again; deleting what is not there is fine.
pub async fn deletion(harness: &impl Harness) -> Result<()> {
    let name = "deletion";
    let backend = harness.fresh(name).await?;
    for partition in Partition::ALL {
        put_all(&backend, partition, &[(b"k", b"v")]).await?;
    }
    done(harness, name, backend).await?;
    harness.delete(name).await?;
    let backend = harness.open(name).await?;
    assert_eq!(backend.stats().await?.records, 0);
    put_all(&backend, LOG, &[(b"new", b"v")]).await?;
    assert_eq!(all(&backend, LOG).await?.len(), 1);
    done(harness, name, backend).await
}

/// After `close` every call is a typed error, and closing again is fine.
pub async fn use_after_close(harness: &impl Harness) -> Result<()> {
    let name = "closed";
    let backend = harness.fresh(name).await?;
    put_all(&backend, LOG, &[(b"k", b"v")]).await?;
    backend.close().await?;
    backend.close().await?;
    let mut batch = WriteBatch::new();
    batch.put(LOG, *b"late", &b"v"[..]);
    let errors = [
        backend.get(LOG, b"k").await.expect_err("get"),
        backend.scan(LOG, &KeyRange::all(), ScanOptions::default()).await.expect_err("scan"),
        backend.scan(LOG, &KeyRange::between(*b"b", *b"a"), ScanOptions::default()).await.expect_err("empty scan"),
        backend.read_blob(b"b", 0, 1).await.expect_err("blob"),
        backend.commit(batch, Durability::Strict).await.expect_err("commit"),
        backend.stats().await.expect_err("stats"),
    ];
    for error in errors {
        assert_eq!(error.code(), ErrorCode::Closed, "{error}");
    }
    let backend = harness.open(name).await?;
    assert_eq!(backend.get(LOG, b"late").await?, None);
    done(harness, name, backend).await
}

/// Commits and scans that run at the same time: each commit is whole in every scan.
pub async fn concurrent_calls(harness: &impl Harness) -> Result<()> {
    const WRITERS: u8 = 20;
    let name = "concurrent";
    let backend = harness.fresh(name).await?;
    let writes = (0..WRITERS).map(|n| {
        let backend = backend.clone();
        async move {
            let mut batch = WriteBatch::new();
            for part in 0..10u8 {
                batch.put(LOG, [n, part], vec![n; 100]);
            }
            batch.put(Partition::Meta, *b"last", vec![n]).put(Partition::Catalog, [n], vec![n]);
            let durability = if n % 5 == 0 { Durability::Strict } else { Durability::Relaxed };
            backend.commit(batch, durability).await?;
            // What a commit acknowledged is seen by whoever reads after it.
            assert_eq!(backend.get(LOG, &[n, 9]).await?, Some(Bytes::from(vec![n; 100])));
            Ok(())
        }
    });
    let reads = (0..WRITERS).map(|n| {
        let backend = backend.clone();
        async move {
            let records = keys(&backend, LOG, &KeyRange::all(), None, n % 2 == 0).await?;
            assert_eq!(records.len() % 10, 0, "a scan saw a part of a batch");
            Ok(())
        }
    });
    let (written, read) = join(join_all(writes), join_all(reads)).await;
    written.into_iter().chain(read).collect::<Result<Vec<()>>>()?;
    assert_eq!(all(&backend, LOG).await?.len(), usize::from(WRITERS) * 10);
    assert_eq!(all(&backend, Partition::Catalog).await?.len(), usize::from(WRITERS));
    let backend = harness.reopen(name, backend).await?;
    assert_eq!(backend.stats().await?.records, u64::from(WRITERS) * 11 + 1);
    done(harness, name, backend).await
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct City {
    name: String,
    people: u64,
}

impl Entity for City {
    type Key = (u16, u32);
    const PARTITION: Partition = Partition::Catalog;
    const PREFIX: &'static [u8] = b"city/";
    fn encode_key((country, id): &(u16, u32)) -> Vec<u8> {
        [&country.to_be_bytes()[..], &id.to_be_bytes()].concat()
    }
}

/// Typed entities: in key order, by prefix, across a reopening, and damage is found.
pub async fn entities(harness: &impl Harness) -> Result<()> {
    let name = "entities";
    let backend = harness.fresh(name).await?;
    put_all(&backend, Partition::Catalog, &[(b"city.", b"not one"), (b"city0", b"not one")]).await?;
    let cities = EntityStore::<City>::new(Backend::clone(&backend));
    let city = |name: &str, people| City { name: name.to_owned(), people };
    cities.put(&(300, 1), &city("Zürich", 448_664)).await?;
    let mut batch = WriteBatch::new();
    cities.put_into(&mut batch, &(2, 70_000), &city("Wien", 2_028_289))?;
    cities.put_into(&mut batch, &(2, 3), &city("Graz", 303_270))?;
    commit(&backend, batch).await?;
    cities.put(&(2, 3), &city("Graz", 305_314)).await?;
    drop(cities);

    let backend = harness.reopen(name, backend).await?;
    let cities = EntityStore::<City>::new(Backend::clone(&backend));
    let names = |list: Vec<City>| list.into_iter().map(|c| c.name).collect::<Vec<_>>();
    assert_eq!(names(cities.list().await?), ["Graz", "Wien", "Zürich"]);
    assert_eq!(names(cities.list_prefix(&2u16.to_be_bytes()).await?), ["Graz", "Wien"]);
    assert_eq!(cities.get(&(2, 3)).await?, Some(city("Graz", 305_314)));
    cities.delete(&(2, 3)).await?;
    assert_eq!(cities.get(&(2, 3)).await?, None);

    let mut batch = WriteBatch::new();
    batch.put(Partition::Catalog, [&b"city/"[..], &City::encode_key(&(2, 70_000))].concat(), &b"rubbish"[..]);
    commit(&backend, batch).await?;
    let error = cities.get(&(2, 70_000)).await.expect_err("damage is not a missing entity");
    assert_eq!(error.code(), ErrorCode::DataCorrupted);
    drop(cities);
    done(harness, name, backend).await
}
