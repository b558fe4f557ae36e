//! Keys, values, scans.

use bytes::Bytes;
use kalamdb::error::Result;
use kalamdb::storage::{KeyRange, MAX_VALUE_BYTES, Partition, ScanOptions, WriteBatch};

use super::{Harness, Random, all, commit, done, keys, put_all};

const LOG: Partition = Partition::Log;

/// Keys in byte order, put in another.
const ORDERED: [&[u8]; 14] = [
    b"",
    &[0x00],
    &[0x00, 0x00],
    &[0x00, 0x01],
    &[0x00, 0xFF],
    &[0x01],
    b"a",
    b"a\0",
    b"aa",
    b"ab",
    b"b",
    &[0x7F, 0xFF],
    &[0x80],
    &[0xFF, 0xFF],
];

fn owned(keys: &[&[u8]]) -> Vec<Vec<u8>> {
    keys.iter().map(|key| key.to_vec()).collect()
}

/// Bytewise: unsigned, and a prefix before what it is a prefix of.
pub async fn keys_come_in_byte_order(harness: &impl Harness) -> Result<()> {
    let name = "order";
    let backend = harness.fresh(name).await?;
    let mut shuffled = ORDERED.to_vec();
    shuffled.rotate_left(5);
    shuffled.swap(0, 9);
    for key in shuffled {
        put_all(&backend, LOG, &[(key, key)]).await?;
    }
    let records = all(&backend, LOG).await?;
    assert_eq!(records.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), owned(&ORDERED));
    assert!(records.iter().all(|(key, value)| key == value), "each value under its own key: {records:?}");
    done(harness, name, backend).await
}

/// From the end, with limits of none, some, all and more.
pub async fn reverse_scans_and_limits(harness: &impl Harness) -> Result<()> {
    let name = "reverse";
    let backend = harness.fresh(name).await?;
    let records: Vec<(&[u8], &[u8])> = ORDERED.iter().map(|key| (*key, *key)).collect();
    put_all(&backend, LOG, &records).await?;
    let n = ORDERED.len();
    let inner = KeyRange::between([0x00, 0x01], *b"ab");
    let of_inner: Vec<Vec<u8>> = owned(&ORDERED).into_iter().filter(|key| inner.contains(key)).collect();
    assert_eq!(of_inner.len(), 6);
    for limit in [None, Some(0), Some(1), Some(2), Some(n - 1), Some(n), Some(n + 1), Some(usize::MAX)] {
        for (range, mut expected) in [(KeyRange::all(), owned(&ORDERED)), (inner.clone(), of_inner.clone())] {
            let take = limit.unwrap_or(usize::MAX).min(expected.len());
            assert_eq!(keys(&backend, LOG, &range, limit, false).await?, expected[..take], "{range:?} {limit:?}");
            expected.reverse();
            assert_eq!(keys(&backend, LOG, &range, limit, true).await?, expected[..take], "{range:?} {limit:?} back");
        }
    }
    let last = backend.scan(LOG, &inner, ScanOptions { limit: Some(1), reverse: true }).await?;
    assert_eq!(last, [(b"aa".to_vec(), Bytes::from_static(b"aa"))]);
    done(harness, name, backend).await
}

/// Ends included and excluded, open, empty, turned around.
pub async fn ranges(harness: &impl Harness) -> Result<()> {
    let name = "ranges";
    let backend = harness.fresh(name).await?;
    let records: Vec<(&[u8], &[u8])> = ORDERED.iter().map(|key| (*key, *key)).collect();
    put_all(&backend, LOG, &records).await?;
    let ends: Vec<Option<&[u8]>> = ORDERED
        .iter()
        .map(|key| Some(*key))
        .chain([None, Some(&b"aaa"[..]), Some(&[0xFF, 0xFF, 0xFF][..]), Some(&[0x02][..])])
        .collect();
    for from in &ends {
        for to in &ends {
            let range = KeyRange { from: from.map(<[u8]>::to_vec), to: to.map(<[u8]>::to_vec) };
            let expected: Vec<Vec<u8>> = owned(&ORDERED).into_iter().filter(|key| range.contains(key)).collect();
            assert_eq!(keys(&backend, LOG, &range, None, false).await?, expected, "{range:?}");
        }
    }
    for (prefix, expected) in [
        (&b"a"[..], &[&b"a"[..], b"a\0", b"aa", b"ab"][..]),
        (&[0x00], &[&[0x00], &[0x00, 0x00], &[0x00, 0x01], &[0x00, 0xFF]]),
        (&[0xFF], &[&[0xFF, 0xFF]]),
        (b"zz", &[]),
        (b"", &ORDERED),
    ] {
        assert_eq!(keys(&backend, LOG, &KeyRange::prefix(prefix), None, false).await?, owned(expected), "{prefix:?}");
    }
    done(harness, name, backend).await
}

/// An empty value is a value, an empty key is a key.
pub async fn empty_values_and_keys(harness: &impl Harness) -> Result<()> {
    let name = "empty";
    let backend = harness.fresh(name).await?;
    assert_eq!(backend.get(LOG, b"").await?, None);
    assert_eq!(all(&backend, LOG).await?, []);
    put_all(&backend, LOG, &[(b"", b""), (b"k", b"")]).await?;
    assert_eq!(backend.get(LOG, b"").await?, Some(Bytes::new()));
    assert_eq!(backend.get(LOG, b"k").await?, Some(Bytes::new()));
    assert_eq!(backend.get(LOG, b"k\0").await?, None);
    assert_eq!(all(&backend, LOG).await?, [(vec![], Bytes::new()), (b"k".to_vec(), Bytes::new())]);
    done(harness, name, backend).await
}

/// A key of some kilobytes, and its neighbours.
pub async fn long_keys(harness: &impl Harness) -> Result<()> {
    let name = "long-keys";
    let backend = harness.fresh(name).await?;
    let long = vec![0xAB; 4096];
    let longer = [long.clone(), vec![0]].concat();
    put_all(&backend, LOG, &[(&longer, b"2"), (&long, b"1")]).await?;
    assert_eq!(backend.get(LOG, &long).await?, Some(Bytes::from_static(b"1")));
    assert_eq!(keys(&backend, LOG, &KeyRange::prefix(&long), None, false).await?, [long, longer]);
    done(harness, name, backend).await
}

/// The same key in each partition.
pub async fn partitions_are_apart(harness: &impl Harness) -> Result<()> {
    let name = "partitions";
    let backend = harness.fresh(name).await?;
    for partition in Partition::ALL {
        put_all(&backend, partition, &[(b"k", partition.name().as_bytes())]).await?;
    }
    let mut batch = WriteBatch::new();
    batch.delete(Partition::Manifest, *b"k");
    commit(&backend, batch).await?;
    for partition in Partition::ALL {
        let expected = (partition != Partition::Manifest).then(|| Bytes::from_static(partition.name().as_bytes()));
        assert_eq!(backend.get(partition, b"k").await?, expected);
    }
    done(harness, name, backend).await
}

/// The last value counts, and deleting what is not there is fine.
pub async fn overwrite_and_delete(harness: &impl Harness) -> Result<()> {
    let name = "overwrite";
    let backend = harness.fresh(name).await?;
    put_all(&backend, LOG, &[(b"a", b"1"), (b"b", b"1")]).await?;
    put_all(&backend, LOG, &[(b"a", b"longer than before")]).await?;
    assert_eq!(backend.get(LOG, b"a").await?, Some(Bytes::from_static(b"longer than before")));
    for _ in 0..2 {
        let mut batch = WriteBatch::new();
        batch.delete(LOG, *b"a").delete(LOG, *b"never");
        commit(&backend, batch).await?;
        assert_eq!(keys(&backend, LOG, &KeyRange::all(), None, false).await?, [b"b".to_vec()]);
    }
    done(harness, name, backend).await
}

/// Values up to the limit come back as they were, alone and in scans.
pub async fn large_values(harness: &impl Harness) -> Result<()> {
    let name = "large";
    let backend = harness.fresh(name).await?;
    let mut random = Random::new(7);
    let noise = Bytes::from(random.bytes(MAX_VALUE_BYTES));
    let mut batch = WriteBatch::new();
    for n in 0..8u8 {
        let value = if n % 2 == 0 { noise.clone() } else { Bytes::from(vec![n; MAX_VALUE_BYTES]) };
        batch.put(LOG, [n], value);
    }
    for (n, size) in [65_535, 65_536, 65_537, MAX_VALUE_BYTES - 1].into_iter().enumerate() {
        batch.put(Partition::Blob, [n as u8], noise.slice(..size));
    }
    commit(&backend, batch).await?;
    let records = all(&backend, LOG).await?;
    assert_eq!(records.len(), 8);
    for (key, value) in &records {
        assert!(if key[0] % 2 == 0 { *value == noise } else { *value == vec![key[0]; MAX_VALUE_BYTES] });
    }
    assert!(backend.get(LOG, &[2]).await? == Some(noise.clone()));
    for (key, value) in all(&backend, Partition::Blob).await? {
        assert!(value == noise.slice(..value.len()), "record {key:?} of {} bytes", value.len());
    }
    done(harness, name, backend).await
}

/// Many small records in few batches.
pub async fn many_records(harness: &impl Harness) -> Result<()> {
    const RECORDS: u32 = 3000;
    let name = "many";
    let backend = harness.fresh(name).await?;
    for chunk in (0..RECORDS).collect::<Vec<_>>().chunks(1000) {
        let mut batch = WriteBatch::new();
        for n in chunk {
            batch.put(LOG, n.to_be_bytes(), n.to_string());
        }
        commit(&backend, batch).await?;
    }
    let records = all(&backend, LOG).await?;
    assert_eq!(records.len(), RECORDS as usize);
    for (n, (key, value)) in (0..RECORDS).zip(&records) {
        assert_eq!((key.as_slice(), &value[..]), (&n.to_be_bytes()[..], n.to_string().as_bytes()));
    }
    let last = keys(&backend, LOG, &KeyRange::all(), Some(1500), true).await?;
    assert_eq!(last.len(), 1500);
    assert_eq!(last.last().map(Vec::as_slice), Some(&(RECORDS - 1500).to_be_bytes()[..]));
    done(harness, name, backend).await
}

/// Records are counted over all partitions.
pub async fn statistics(harness: &impl Harness) -> Result<()> {
    let name = "statistics";
    let backend = harness.fresh(name).await?;
    assert_eq!(backend.stats().await?.records, 0);
    for partition in Partition::ALL {
        put_all(&backend, partition, &[(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]).await?;
    }
    assert_eq!(backend.stats().await?.records, 2 * Partition::ALL.len() as u64);
    done(harness, name, backend).await
}
