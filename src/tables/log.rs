//! The commit log: its keys and the layout of its records.
//!
//! A commit is one atomic storage batch of log records, one or more for every table scope that it touches. A record's
//! key is (table scope, `_seq`, part), so the log of one scope is one range of keys in commit order, and flushing or
//! dropping a table deletes just that range:
//!
//! ```text
//! key    u32 table number, big endian
//!        user id: bytes with 00 written as 00 FF, ended by 00 00   (empty for tables without users)
//!        u64 first _seq of the record, big endian
//!        u16 part, big endian: a payload above what one stored value holds is cut into parts 0, 1, 2 …
//! ```
//!
//! The payload, little endian, within the frame of `storage/record.rs` (which carries the format version):
//!
//! ```text
//! u32  bytes of the whole payload, all parts together
//! u8   flags: 1 = rows are updates with explicit row ids, 2 = a request id follows, 4 = rows of segments end
//! u64  first _seq         deletions take the numbers from here on (those of segments after those of keys), then
//!      the rows do
//! u64  last _seq of the commit
//! [16] request id, if flagged
//! u32  schema version that the rows were written under
//! u16  columns, then for each its u32 column id and its wire type (types/), as written at the time
//! u32  rows
//! u32  deletions
//! if flagged: rows × i64 row ids
//! u32  bytes of the column block, then the block (tables/block.rs)
//! deletions × (u32 length, encoded key)
//! if flagged: u32 marks, then of each: u32 segment number, rows that were replaced, rows that were deleted
//!     (each u32 length, then a bitmap in the portable Roaring format)
//! ```
//!
//! Replaying a record means: every deleted key's live hot row and every marked row of a segment ends, then every row
//! replaces the live hot row of its key.
//! Invariant: records are immutable, and a scope's records in key order give the state that readers saw, because
//! `_seq` grows with every commit.

use std::sync::Arc;

use arrow::array::Int64Array;
use bytes::Bytes;

use super::bytes::Cursor;
use super::cold::{ColdMark, cold_deletions};
use super::seq::{Seq, SeqSpan};
use crate::error::{ErrorCode, KalamError, Result};
use crate::storage::record::{self, PartReader, RecordKind, Whole};
use crate::storage::{KeyRange, Partition, WriteBatch};
use crate::types::KalamDataType;

const UPDATES: u8 = 1;
const REQUEST: u8 = 2;
const MARKS: u8 = 4;

/// Identifies a request, so that one that is sent again after a fail-over is applied once.
pub type RequestId = [u8; 16];

/// The data of one table, or of one user's part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeKey {
    /// The table's number, never used again for another table.
    pub table_no: u32,
    /// The user, for USER tables.
    pub user: Option<Arc<str>>,
}

impl ScopeKey {
    /// First bytes of the log keys of every scope of a table.
    pub fn table_prefix(table_no: u32) -> [u8; 4] {
        table_no.to_be_bytes()
    }

    /// First bytes of the scope's log keys.
    pub fn prefix(&self) -> Vec<u8> {
        let mut key = Self::table_prefix(self.table_no).to_vec();
        for &byte in self.user.as_deref().unwrap_or("").as_bytes() {
            key.push(byte);
            if byte == 0 {
                key.push(0xFF);
            }
        }
        key.extend_from_slice(&[0, 0]);
        key
    }

    /// The scope that a log key belongs to.
    pub fn of_log_key(key: &[u8]) -> Result<Self> {
        let damaged =
            || KalamError::new(ErrorCode::DataCorrupted, format!("the log key {} has no scope", record::hex(key)));
        let (table_no, mut rest) = key.split_first_chunk::<4>().ok_or_else(damaged)?;
        let mut user = Vec::new();
        loop {
            match rest {
                [0, 0, ..] => break,
                [0, 0xFF, tail @ ..] => {
                    user.push(0);
                    rest = tail;
                }
                [byte, tail @ ..] if *byte != 0 => {
                    user.push(*byte);
                    rest = tail;
                }
                _ => return Err(damaged()),
            }
        }
        let user = String::from_utf8(user).map_err(|_| damaged())?;
        Ok(Self { table_no: u32::from_be_bytes(*table_no), user: (!user.is_empty()).then(|| Arc::from(user)) })
    }

    /// The log keys of the scope.
    pub fn range(&self) -> KeyRange {
        KeyRange::prefix(&self.prefix())
    }
}

/// Rows of a record, encoded before their `_seq` is known.
#[derive(Debug, Clone)]
pub struct RowBlock {
    /// Ids and types of the columns.
    pub columns: Arc<[(u32, KalamDataType)]>,
    /// How many rows.
    pub rows: usize,
    /// Row ids of updated rows of a table without a primary key.
    pub row_ids: Option<Int64Array>,
    /// The column block.
    pub block: Bytes,
}

/// One record of the log.
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// Numbers of the rows and deletions.
    pub seqs: SeqSpan,
    /// The last number of the commit that it belongs to.
    pub commit: Seq,
    /// The request that made it.
    pub request: Option<RequestId>,
    /// The schema version that the rows were written under.
    pub schema_version: u32,
    /// Rows, if there are any.
    pub rows: Option<RowBlock>,
    /// Encoded keys of deleted hot rows.
    pub deletions: Vec<Vec<u8>>,
    /// Rows of segments that ended.
    pub marks: Vec<ColdMark>,
}

impl LogRecord {
    /// How many numbers its deletions take.
    pub fn deletion_numbers(&self) -> u64 {
        self.deletions.len() as u64 + cold_deletions(&self.marks)
    }

    /// Adds the record to a batch.
    pub fn write(&self, scope: &ScopeKey, batch: &mut WriteBatch) -> Result<()> {
        let payload = self.encode()?;
        let mut key = scope.prefix();
        key.extend_from_slice(&self.seqs.first().to_be_bytes());
        record::put_parts(batch, Partition::Log, RecordKind::Log, &key, &payload);
        Ok(())
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let block_bytes = self.rows.as_ref().map_or(0, |r| r.block.len());
        let mut out = Vec::with_capacity(block_bytes + 128);
        out.extend_from_slice(&[0; 4]);
        let row_ids = self.rows.as_ref().and_then(|r| r.row_ids.as_ref());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let flags = flag(row_ids.is_some(), UPDATES)
            | flag(self.request.is_some(), REQUEST)
            | flag(!self.marks.is_empty(), MARKS);
        out.push(flags);
        out.extend_from_slice(&self.seqs.first().to_le_bytes());
        out.extend_from_slice(&self.commit.to_le_bytes());
        out.extend_from_slice(self.request.as_ref().map_or(&[], |r| r.as_slice()));
        out.extend_from_slice(&self.schema_version.to_le_bytes());
        let columns: &[(u32, KalamDataType)] = self.rows.as_ref().map_or(&[], |r| &r.columns);
        out.extend_from_slice(&(columns.len() as u16).to_le_bytes());
        for (id, data_type) in columns {
            out.extend_from_slice(&id.to_le_bytes());
            data_type.encode_wire(&mut out);
        }
        out.extend_from_slice(&(self.rows.as_ref().map_or(0, |r| r.rows) as u32).to_le_bytes());
        out.extend_from_slice(&(self.deletions.len() as u32).to_le_bytes());
        for id in row_ids.into_iter().flat_map(|ids| ids.values().iter()) {
            out.extend_from_slice(&id.to_le_bytes());
        }
        out.extend_from_slice(&(block_bytes as u32).to_le_bytes());
        out.extend_from_slice(self.rows.as_ref().map_or(&[], |r| &r.block));
        for key in &self.deletions {
            out.extend_from_slice(&(key.len() as u32).to_le_bytes());
            out.extend_from_slice(key);
        }
        if !self.marks.is_empty() {
            out.extend_from_slice(&(self.marks.len() as u32).to_le_bytes());
            for mark in &self.marks {
                mark.encode(&mut out)?;
            }
        }
        let length = out.len() as u32;
        out[..4].copy_from_slice(&length.to_le_bytes());
        Ok(out)
    }

    fn decode(payload: &Bytes) -> Result<Self> {
        let mut cursor = Cursor::new("a log record", payload);
        cursor.u32()?;
        let flags = cursor.u8()?;
        let first = cursor.i64()?;
        let commit = cursor.i64()?;
        let request =
            if flags & REQUEST != 0 { cursor.take(size_of::<RequestId>())?.first_chunk().copied() } else { None };
        let schema_version = cursor.u32()?;
        let count = cursor.u16()?;
        let mut columns = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let id = cursor.u32()?;
            let (data_type, length) = KalamDataType::decode_wire(cursor.rest())?;
            cursor.take(length)?;
            columns.push((id, data_type));
        }
        let rows = cursor.u32()? as usize;
        let deletions = cursor.count()?;
        let row_ids = if flags & UPDATES != 0 {
            let bytes = cursor.take(rows.saturating_mul(8))?;
            Some(bytes.chunks_exact(8).filter_map(|b| b.first_chunk().map(|b| i64::from_le_bytes(*b))).collect())
        } else {
            None
        };
        let block_bytes = cursor.u32()? as usize;
        let start = cursor.position();
        cursor.take(block_bytes)?;
        let block = payload.slice(start..cursor.position());
        let keys = (0..deletions).map(|_| cursor.bytes().map(<[u8]>::to_vec)).collect::<Result<Vec<_>>>()?;
        let marks = if flags & MARKS != 0 { cursor.count()? } else { 0 };
        let marks = (0..marks).map(|_| ColdMark::read(&mut cursor)).collect::<Result<Vec<_>>>()?;
        cursor.finish()?;
        Ok(Self {
            seqs: SeqSpan::new(first, (rows + deletions) as u64 + cold_deletions(&marks)),
            commit,
            request,
            schema_version,
            rows: (rows > 0).then_some(RowBlock { columns: columns.into(), rows, row_ids, block }),
            deletions: keys,
            marks,
        })
    }

    /// The record that was put together under a key.
    pub fn open(whole: &Whole) -> Result<Self> {
        let damaged = |what: &str| {
            let message = format!("the log record {} is damaged: {what}", record::hex(&whole.stem));
            KalamError::new(ErrorCode::DataCorrupted, message)
        };
        let record = Self::decode(&whole.payload).map_err(|e| damaged(e.message()))?;
        if !whole.stem.ends_with(&record.seqs.first().to_be_bytes()) {
            return Err(damaged("its _seq is not that of its key"));
        }
        Ok(record)
    }
}

/// Puts stored values together into records, in key order.
#[derive(Debug, Default)]
pub struct LogReader {
    parts: PartReader,
}

impl LogReader {
    /// Takes the next stored value; returns the record that it completes, if it does.
    pub fn push(&mut self, key: &[u8], value: &Bytes) -> Result<Option<LogRecord>> {
        self.parts.push(RecordKind::Log, key, value)?.map(|whole| LogRecord::open(&whole)).transpose()
    }

    /// Fails if the log ended within a record.
    pub fn finish(self) -> Result<()> {
        self.parts.finish(RecordKind::Log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MAX_VALUE_BYTES, MemoryBackend, ScanOptions, StorageBackend};
    use futures::executor::block_on;
    use proptest::prelude::*;

    fn read_back(batch: WriteBatch, scope: &ScopeKey) -> Result<Vec<LogRecord>> {
        block_on(async {
            let backend = MemoryBackend::new();
            backend.commit(batch, Default::default()).await?;
            let mut reader = LogReader::default();
            let mut records = Vec::new();
            for (key, value) in backend.scan(Partition::Log, &scope.range(), ScanOptions::default()).await? {
                records.extend(reader.push(&key, &value)?);
            }
            reader.finish()?;
            Ok(records)
        })
    }

    #[test]
    fn a_record_above_the_value_limit_comes_back_whole() -> Result<()> {
        let scope = ScopeKey { table_no: 7, user: None };
        let block = Bytes::from(vec![7u8; 3 * MAX_VALUE_BYTES]);
        let record = LogRecord {
            seqs: SeqSpan::new(1 << 22, 3),
            commit: (1 << 22) + 2,
            request: Some([3; 16]),
            schema_version: 2,
            rows: Some(RowBlock {
                columns: Arc::from([(1u32, KalamDataType::Int), (5, KalamDataType::Text)]),
                rows: 1,
                row_ids: Some(Int64Array::from(vec![42])),
                block: block.clone(),
            }),
            deletions: vec![b"gone".to_vec()],
            marks: vec![ColdMark {
                segment: 3,
                replaced: (0..9).collect(),
                deleted: std::iter::once(70_000).collect(),
            }],
        };
        let mut batch = WriteBatch::new();
        record.write(&scope, &mut batch)?;
        assert_eq!(batch.ops().len(), 4);
        let back = read_back(batch, &scope)?;
        let [back] = back.as_slice() else { panic!("one record, got {}", back.len()) };
        assert_eq!(
            (back.seqs, back.commit, back.request, back.schema_version),
            (record.seqs, record.commit, record.request, 2)
        );
        assert_eq!((&back.deletions, &back.marks), (&record.deletions, &record.marks));
        let rows = back.rows.as_ref().expect("rows");
        assert_eq!(rows.columns[..], [(1u32, KalamDataType::Int), (5, KalamDataType::Text)]);
        assert_eq!(rows.block, block);
        assert_eq!(rows.row_ids.as_ref().map(|r| r.value(0)), Some(42));
        Ok(())
    }

    proptest! {
        #[test]
        fn scopes_never_share_keys(a: (u32, Option<String>), b: (u32, Option<String>)) {
            let key = |(table_no, user): &(u32, Option<String>)| ScopeKey {
                table_no: *table_no,
                user: user.as_deref().filter(|u| !u.is_empty()).map(Arc::from),
            };
            let (a, b) = (key(&a), key(&b));
            prop_assert_eq!(a.range().contains(&b.prefix()), a == b);
            let mut log_key = a.prefix();
            log_key.extend_from_slice(&[0; 8 + 2]);
            prop_assert_eq!(ScopeKey::of_log_key(&log_key)?, a);
        }
    }
}
