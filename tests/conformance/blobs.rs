//! Blobs: bytes of any size, cut into parts, read by range.

use bytes::Bytes;
use kalamdb::error::Result;
use kalamdb::storage::{BLOB_PART_BYTES, Partition, WriteBatch};

use super::{Backend, Harness, Random, commit, done};

async fn put_blob(backend: &Backend, id: &[u8], bytes: &Bytes) -> Result<()> {
    let mut batch = WriteBatch::new();
    batch.put_blob(id, bytes);
    commit(backend, batch).await
}

/// Ranges within a part, over the borders of parts, over the end, and behind it.
pub async fn range_reads(harness: &impl Harness) -> Result<()> {
    let name = "blob-ranges";
    let backend = harness.fresh(name).await?;
    let part = BLOB_PART_BYTES;
    let bytes = Bytes::from(Random::new(11).bytes(3 * part + 100));
    put_blob(&backend, b"b", &bytes).await?;
    let size = bytes.len();
    for (offset, length) in [
        (0, 1),
        (0, 0),
        (5, 10),
        (0, part),
        (0, part + 1),
        (part - 1, 1),
        (part - 1, 2),
        (part, 1),
        (part - 7, 2 * part + 20),
        (3 * part, 100),
        (3 * part, 101),
        (3 * part + 99, 50),
        (0, size),
        (0, 10 * size),
        (size - 1, 1),
        (size, 1),
        (size + 10 * part, 10),
    ] {
        let expected = bytes.slice(offset.min(size)..(offset + length).min(size).max(offset.min(size)));
        let read = backend.read_blob(b"b", offset as u64, length as u64).await?;
        assert!(read == Some(expected), "offset {offset}, length {length}: {:?} bytes", read.map(|r| r.len()));
    }
    assert!(backend.read_blob(b"b", 17, u64::MAX).await? == Some(bytes.slice(17..)));
    assert_eq!(backend.read_blob(b"none", 0, 10).await?, None);

    for size in [0, 1, part - 1, part, part + 1] {
        let exact = bytes.slice(..size);
        put_blob(&backend, b"exact", &exact).await?;
        assert!(backend.read_blob(b"exact", 0, u64::MAX).await? == Some(exact), "a blob of {size} bytes");
    }
    done(harness, name, backend).await
}

/// A shorter blob leaves nothing of the longer one before it, and a deleted one nothing at all.
pub async fn overwrite_and_delete_blobs(harness: &impl Harness) -> Result<()> {
    let name = "blob-overwrite";
    let backend = harness.fresh(name).await?;
    let long = Bytes::from(Random::new(12).bytes(2 * BLOB_PART_BYTES + 5));
    let short = Bytes::from_static(b"short");
    put_blob(&backend, b"b", &long).await?;
    put_blob(&backend, b"c", &long).await?;
    put_blob(&backend, b"b", &short).await?;
    assert_eq!(backend.read_blob(b"b", 0, u64::MAX).await?, Some(short.clone()));
    assert_eq!(backend.read_blob(b"b", BLOB_PART_BYTES as u64, 10).await?, Some(Bytes::new()));
    let mut batch = WriteBatch::new();
    batch.delete_blob(b"b").delete_blob(b"never");
    commit(&backend, batch).await?;
    assert_eq!(backend.read_blob(b"b", 0, 10).await?, None);
    assert!(backend.read_blob(b"c", 0, u64::MAX).await? == Some(long));
    assert_eq!(backend.stats().await?.records, 3);
    done(harness, name, backend).await
}

/// Ids that are prefixes of one another, or look like an id and a part's number, do not meet.
pub async fn ids_that_are_prefixes(harness: &impl Harness) -> Result<()> {
    let name = "blob-ids";
    let backend = harness.fresh(name).await?;
    let ids: [&[u8]; 8] = [b"", b"a", b"aa", b"a\0", b"a\0\0\0\0", b"a\0\0\0\x01", &[0xFF], &[0xFF, 0xFF]];
    let of = |id: &[u8]| Bytes::from([id, &vec![id.len() as u8; BLOB_PART_BYTES][..]].concat());
    for id in ids {
        put_blob(&backend, id, &of(id)).await?;
    }
    for id in ids {
        assert!(backend.read_blob(id, 0, u64::MAX).await? == Some(of(id)), "blob {id:?}");
    }
    for (n, gone) in ids.iter().enumerate() {
        let mut batch = WriteBatch::new();
        batch.delete_blob(gone);
        commit(&backend, batch).await?;
        for (m, id) in ids.iter().enumerate() {
            assert_eq!(backend.read_blob(id, 0, 1).await?.is_some(), m > n, "blob {id:?} after deleting {gone:?}");
        }
    }
    assert_eq!(super::all(&backend, Partition::Blob).await?, []);
    done(harness, name, backend).await
}
