//! A whole database as one stream of bytes, and back.
//!
//! ```text
//! header   8 "KALAMBAK" | u32 version, now 1 | u32 bytes of JSON | u32 CRC-32 of the header so far and the JSON | JSON
//! frame    u8 1 | u32 bytes | u32 CRC-32 of them | records: u8 partition, u32 key bytes, key, u32 value bytes, value
//! trailer  u8 255 | u32 bytes | u32 CRC-32 of them | 5 × u64 records of each partition | u64 bytes of keys and values
//!          | u64 frames | u32 CRC-32 of everything before the trailer
//! ```
//!
//! Numbers are little endian. Records come partition by partition in key order, so damage that happens to keep every
//! checksum would still have to keep the order.
//!
//! Invariants: a backup is one state between two commits ([`GatedBackend`](super::gate::GatedBackend)). Both directions hold a few frames
//! in memory, whatever the size of the database. A restored database counts only after the whole stream was verified: a
//! marker is written before the first record, and the record that makes it a database is written with the marker's
//! removal, in one commit, at the end. A restore that fails takes back what it wrote; one that dies leaves the marker,
//! by which the half of a database is refused.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::gate::Closed;
use super::{
    Durability, KeyRange, KeyValue, MAX_VALUE_BYTES, Pages, Partition, StorageBackend, WriteBatch, is_empty, record,
};
use crate::error::{ErrorCode, KalamError, Result};

const MAGIC: &[u8; 8] = b"KALAMBAK";
/// The version of the stream that this build writes, and the greatest that it reads.
pub const BACKUP_VERSION: u32 = 1;
const RECORDS: u8 = 1;
const TRAILER: u8 = 255;
/// A frame is closed when it holds so many bytes.
const FRAME_BYTES: usize = 1 << 20;
/// No frame is greater: one record above the limit of values, with its key.
const MAX_FRAME_BYTES: usize = FRAME_BYTES + MAX_VALUE_BYTES + (128 << 10);
const MAX_HEADER_JSON: usize = 64 << 10;
const HEADER_BYTES: usize = 20;
const FRAME_HEADER_BYTES: usize = 9;
const TRAILER_BYTES: usize = 5 * 8 + 8 + 8 + 4;

/// The marker of a restore that is not finished, in the meta partition.
pub const RESTORING_KEY: &[u8] = b"restoring";
/// The record that makes what a backend holds a database, in the meta partition.
pub const DATABASE_KEY: &[u8] = b"database";

/// The backup of a database, chunk by chunk. Nothing is committed to the database until it is dropped.
#[derive(Debug)]
pub struct Backup {
    backend: Arc<dyn StorageBackend>,
    _gate: Option<Closed>,
    head: Option<Bytes>,
    /// The partition being read, by its place in [`Partition::ALL`], and its pages if it was begun.
    at: usize,
    pages: Option<Pages>,
    page: std::vec::IntoIter<KeyValue>,
    counts: Counts,
    sum: crc32fast::Hasher,
    done: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    records: [u64; Partition::ALL.len()],
    bytes: u64,
    frames: u64,
}

impl Backup {
    /// A backup of what is behind a closed gate. `about` is JSON that describes it, for people.
    pub fn new(source: Closed, about: &serde_json::Value) -> Self {
        Self::begin(Arc::clone(source.backend()), Some(source), about)
    }

    /// A backup of a backend that nothing changes.
    pub fn of_unchanged(backend: Arc<dyn StorageBackend>, about: &serde_json::Value) -> Self {
        Self::begin(backend, None, about)
    }

    fn begin(backend: Arc<dyn StorageBackend>, gate: Option<Closed>, about: &serde_json::Value) -> Self {
        let json = about.to_string().into_bytes();
        let mut head = Vec::with_capacity(HEADER_BYTES + json.len());
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&BACKUP_VERSION.to_le_bytes());
        head.extend_from_slice(&(json.len() as u32).to_le_bytes());
        let sum = crc_of(&[&head, &json]);
        head.extend_from_slice(&sum.to_le_bytes());
        head.extend_from_slice(&json);
        Self {
            backend,
            _gate: gate,
            head: Some(head.into()),
            at: 0,
            pages: None,
            page: Vec::new().into_iter(),
            counts: Counts::default(),
            sum: crc32fast::Hasher::new(),
            done: false,
        }
    }

    /// The next chunk, of about a MiB; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(head) = self.head.take() {
            self.sum.update(&head);
            return Ok(Some(head));
        }
        if self.done {
            return Ok(None);
        }
        let mut payload = Vec::new();
        while payload.len() < FRAME_BYTES {
            let Some((partition, (key, value))) = self.next_record().await? else { break };
            payload.push(partition as u8);
            payload.extend_from_slice(&(key.len() as u32).to_le_bytes());
            payload.extend_from_slice(&key);
            payload.extend_from_slice(&(value.len() as u32).to_le_bytes());
            payload.extend_from_slice(&value);
            self.counts.records[partition as usize] += 1;
            self.counts.bytes += (key.len() + value.len()) as u64;
        }
        if payload.is_empty() {
            self.done = true;
            return Ok(Some(self.trailer()));
        }
        self.counts.frames += 1;
        let chunk = frame(RECORDS, &payload);
        self.sum.update(&chunk);
        Ok(Some(chunk))
    }

    async fn next_record(&mut self) -> Result<Option<(Partition, KeyValue)>> {
        loop {
            let Some(&partition) = Partition::ALL.get(self.at) else { return Ok(None) };
            if let Some(found) = self.page.next() {
                return Ok(Some((partition, found)));
            }
            let pages = self.pages.get_or_insert_with(|| Pages::new(partition, KeyRange::all()));
            match pages.next(self.backend.as_ref()).await? {
                Some(page) => self.page = page.into_iter(),
                None => {
                    self.at += 1;
                    self.pages = None;
                }
            }
        }
    }

    fn trailer(&self) -> Bytes {
        let mut payload = Vec::with_capacity(TRAILER_BYTES);
        for n in self.counts.records {
            payload.extend_from_slice(&n.to_le_bytes());
        }
        payload.extend_from_slice(&self.counts.bytes.to_le_bytes());
        payload.extend_from_slice(&self.counts.frames.to_le_bytes());
        payload.extend_from_slice(&self.sum.clone().finalize().to_le_bytes());
        frame(TRAILER, &payload)
    }
}

fn crc_of(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    out.push(kind);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc_of(&[payload]).to_le_bytes());
    out.extend_from_slice(payload);
    out.into()
}

fn damaged(what: impl std::fmt::Display) -> KalamError {
    KalamError::new(ErrorCode::DataCorrupted, format!("the backup is damaged: {what}"))
        .with_hint("Nothing was restored. Use another copy of the backup.")
}

/// A database being restored from the chunks of a stream, cut anywhere.
#[derive(Debug)]
pub struct Restore {
    backend: Arc<dyn StorageBackend>,
    buffer: Vec<u8>,
    header: bool,
    finished: bool,
    /// The record that makes it a database, which is kept back to the end.
    database: Option<Bytes>,
    /// Partition and key of the last record.
    last: Option<(Partition, Vec<u8>)>,
    counts: Counts,
    sum: crc32fast::Hasher,
}

impl Restore {
    /// A restore into an empty backend. What an earlier restore left that did not come to its end is removed.
    pub async fn begin(backend: Arc<dyn StorageBackend>) -> Result<Self> {
        if backend.get(Partition::Meta, RESTORING_KEY).await?.is_some() {
            clear(backend.as_ref()).await?;
        }
        if !is_empty(backend.as_ref()).await? {
            return Err(KalamError::new(
                ErrorCode::DatabaseExists,
                "a backup is restored into a new database, and this one exists already",
            )
            .with_hint("Choose another name, or delete the database first."));
        }
        let mut batch = WriteBatch::new();
        batch.put(Partition::Meta, RESTORING_KEY, Bytes::from_static(b"a restore was begun"));
        backend.commit(batch, Durability::Strict).await?;
        Ok(Self {
            backend,
            buffer: Vec::new(),
            header: false,
            finished: false,
            database: None,
            last: None,
            counts: Counts::default(),
            sum: crc32fast::Hasher::new(),
        })
    }

    /// Takes the next bytes of the stream. After an error the backend is empty again.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let outcome = self.take(bytes).await;
        self.or_clear(outcome).await
    }

    /// Verifies that the stream is whole and makes what was restored a database.
    pub async fn finish(mut self) -> Result<()> {
        let outcome = self.complete().await;
        self.or_clear(outcome).await
    }

    async fn or_clear(&self, outcome: Result<()>) -> Result<()> {
        if outcome.is_err() {
            // If this fails too, the marker stays and says what it is.
            let _ = clear(self.backend.as_ref()).await;
        }
        outcome
    }

    async fn complete(&mut self) -> Result<()> {
        if !self.finished {
            let what = if self.header { "it ends before its trailer" } else { "it ends within its header" };
            return Err(damaged(what));
        }
        let database = self.database.take().ok_or_else(|| damaged("it has no record of the database"))?;
        let mut batch = WriteBatch::new();
        batch.put(Partition::Meta, DATABASE_KEY, database).delete(Partition::Meta, RESTORING_KEY);
        self.backend.commit(batch, Durability::Strict).await.map(drop)
    }

    async fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        // In pieces, so that the buffer never holds more than a frame and a piece.
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(FRAME_BYTES));
            bytes = rest;
            self.buffer.extend_from_slice(piece);
            self.parse().await?;
        }
        Ok(())
    }

    async fn parse(&mut self) -> Result<()> {
        if !self.header && !self.take_header()? {
            return Ok(());
        }
        let buffer = Bytes::from(std::mem::take(&mut self.buffer));
        let mut rest = buffer.clone();
        while !rest.is_empty() {
            if self.finished {
                return Err(damaged(format_args!("{} bytes follow its trailer", rest.len())));
            }
            let Some((head, _)) = rest.split_at_checked(FRAME_HEADER_BYTES) else { break };
            let (kind, length, sum) = (head[0], le32(&head[1..5]) as usize, le32(&head[5..9]));
            let fits = match kind {
                RECORDS => (1..=MAX_FRAME_BYTES).contains(&length),
                TRAILER => length == TRAILER_BYTES,
                _ => false,
            };
            if !fits {
                return Err(damaged(format_args!("a frame of kind {kind} with {length} bytes")));
            }
            if rest.len() < FRAME_HEADER_BYTES + length {
                break;
            }
            let whole = rest.split_to(FRAME_HEADER_BYTES + length);
            let payload = whole.slice(FRAME_HEADER_BYTES..);
            if crc_of(&[&payload]) != sum {
                return Err(damaged(format_args!("the checksum of frame {} is wrong", self.counts.frames + 1)));
            }
            if kind == TRAILER {
                self.check_trailer(payload)?;
            } else {
                self.sum.update(&whole);
                self.counts.frames += 1;
                self.write(payload).await?;
            }
        }
        self.buffer = rest.to_vec();
        Ok(())
    }

    /// Takes the header if it is there whole.
    fn take_header(&mut self) -> Result<bool> {
        let known = self.buffer.len().min(MAGIC.len());
        if self.buffer[..known] != MAGIC[..known] {
            return Err(KalamError::new(
                ErrorCode::InvalidData,
                format!("this is no backup of KalamDB: it starts with {}", record::hex(&self.buffer[..known])),
            ));
        }
        let Some(head) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(false) };
        let version = le32(&head[8..12]);
        if version > BACKUP_VERSION {
            return Err(KalamError::new(
                ErrorCode::UnsupportedFormat,
                format!("the backup has version {version}, this engine reads up to {BACKUP_VERSION}"),
            )
            .with_hint("It was written by a later version of KalamDB. Update the package."));
        }
        let length = le32(&head[12..16]) as usize;
        if version == 0 || length > MAX_HEADER_JSON {
            return Err(damaged("its header makes no sense"));
        }
        let Some(json) = self.buffer.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(false) };
        if crc_of(&[&head[..16], json]) != le32(&head[16..20]) {
            return Err(damaged("the checksum of its header is wrong"));
        }
        self.sum.update(&self.buffer[..HEADER_BYTES + length]);
        self.buffer.drain(..HEADER_BYTES + length);
        self.header = true;
        Ok(true)
    }

    fn check_trailer(&mut self, mut payload: Bytes) -> Result<()> {
        let mut told = Counts::default();
        told.records.iter_mut().for_each(|n| *n = payload.get_u64_le());
        told.bytes = payload.get_u64_le();
        told.frames = payload.get_u64_le();
        if told != self.counts {
            return Err(damaged(format_args!("it says that it has {told:?}, and it has {:?}", self.counts)));
        }
        if payload.get_u32_le() != self.sum.clone().finalize() {
            return Err(damaged("the checksum over everything is wrong"));
        }
        self.finished = true;
        Ok(())
    }

    /// Writes the records of a frame.
    async fn write(&mut self, payload: Bytes) -> Result<()> {
        let mut batch = WriteBatch::new();
        let mut rest = payload;
        while !rest.is_empty() {
            let (partition, key, value) =
                take_record(&mut rest).ok_or_else(|| damaged("a record is cut off within its frame"))?;
            let ordered = self.last.as_ref().is_none_or(|(p, k)| (*p, k.as_slice()) < (partition, &key[..]));
            if !ordered {
                return Err(damaged("its records are not in order"));
            }
            self.counts.records[partition as usize] += 1;
            self.counts.bytes += (key.len() + value.len()) as u64;
            self.last = Some((partition, key.to_vec()));
            match (partition, &key[..]) {
                (Partition::Meta, DATABASE_KEY) => self.database = Some(Bytes::copy_from_slice(&value)),
                (Partition::Meta, RESTORING_KEY) => return Err(damaged("it was made of half a restore")),
                _ => drop(batch.put(partition, key.to_vec(), value)),
            }
        }
        self.backend.commit(batch, Durability::Relaxed).await.map(drop)
    }
}

fn le32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

fn take_record(rest: &mut Bytes) -> Option<(Partition, Bytes, Bytes)> {
    let partition = *Partition::ALL.get(usize::from(*rest.first()?))?;
    rest.advance(1);
    let mut part = || {
        let length = le32(rest.get(..4)?) as usize;
        rest.advance(4);
        (length <= rest.len()).then(|| rest.split_to(length))
    };
    Some((partition, part()?, part()?))
}

/// Removes everything; the marker goes last, so that a clearing that dies is seen.
async fn clear(backend: &dyn StorageBackend) -> Result<()> {
    for partition in Partition::ALL.into_iter().rev() {
        let mut batch = WriteBatch::new();
        batch.delete_range(partition, KeyRange::all());
        backend.commit(batch, Durability::Strict).await?;
    }
    Ok(())
}

/// Fails if a backend holds a restore that did not come to its end.
pub async fn check_restored(backend: &dyn StorageBackend) -> Result<()> {
    if backend.get(Partition::Meta, RESTORING_KEY).await?.is_none() {
        return Ok(());
    }
    Err(KalamError::new(
        ErrorCode::DataCorrupted,
        "the database is half restored from a backup: the restore did not come to its end",
    )
    .with_hint("Restore the backup again, or delete the database."))
}
