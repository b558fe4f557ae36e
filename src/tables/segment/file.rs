//! Reading a segment's blob by range.
//!
//! Invariant: the blob is read in whole parts, and no byte is handed out before the CRC-32 of its part was compared
//! with the one in the manifest. A file whose transaction is not durable yet is read from memory.

use std::ops::Range;
use std::sync::Arc;

use ::bytes::Bytes;
use ::bytes::buf::{Buf, Reader};
use parking_lot::Mutex;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{ErrorCode, KalamError, Result};
use crate::storage::{BLOB_PART_BYTES, StorageBackend};

const PART: u64 = BLOB_PART_BYTES as u64;

/// The blob of a segment.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub backend: Arc<dyn StorageBackend>,
    pub blob: Vec<u8>,
    /// The table's name, for messages.
    pub table: String,
    pub number: u32,
    pub bytes: u64,
    pub part_crcs: Vec<u32>,
    pub pinned: Mutex<Option<Bytes>>,
    pub damage: Mutex<Option<KalamError>>,
}

impl SegmentFile {
    /// The error for a segment that is not what was written, remembered from now on.
    pub fn damaged(&self, what: impl std::fmt::Display) -> KalamError {
        let message = format!("segment {} of table '{}' is damaged: {what}", self.number, self.table);
        let error = KalamError::new(ErrorCode::DataCorrupted, message).with_hint(
            "The storage returned other bytes than were written. Statements that do not need this segment go on; \
             restore a backup to get its rows back.",
        );
        self.damage.lock().get_or_insert_with(|| error.clone());
        error
    }

    /// Nothing of the file yet.
    pub fn unread(&self) -> SparseFile {
        let pinned = self.pinned.lock().clone();
        SparseFile { len: self.bytes, runs: pinned.map(|file| (0, file)).into_iter().collect() }
    }

    /// Reads those parts of some ranges that `file` does not have yet. Returns how many bytes were read.
    pub async fn read_into(&self, file: &mut SparseFile, ranges: &[Range<u64>]) -> Result<u64> {
        if let Some(range) = ranges.iter().find(|r| r.start > r.end || r.end > self.bytes) {
            return Err(self.damaged(format_args!("its footer names bytes {range:?} of {}", self.bytes)));
        }
        let mut total = 0;
        for wanted in part_runs(ranges) {
            for parts in file.missing(wanted) {
                let start = parts.start * PART;
                let length = (parts.end * PART).min(self.bytes) - start;
                let read = self.backend.read_blob(&self.blob, start, length).await?;
                let Some(bytes) = read else { return Err(self.damaged("its file is missing")) };
                self.verify(parts, &bytes)?;
                total += length;
                file.add(start, bytes);
            }
        }
        file.join();
        Ok(total)
    }

    /// Compares parts with their checksums.
    fn verify(&self, parts: Range<u64>, bytes: &Bytes) -> Result<()> {
        for part in parts.clone() {
            let start = ((part - parts.start) * PART) as usize;
            let expected = PART.min(self.bytes - part * PART) as usize;
            let of = format_args!("part {part} of {}", self.part_crcs.len()).to_string();
            let Some(content) = bytes.get(start..start + expected) else {
                let found = bytes.len().saturating_sub(start);
                return Err(self.damaged(format_args!("{of} has {found} bytes, expected {expected}")));
            };
            let computed = crc32fast::hash(content);
            match self.part_crcs.get(part as usize) {
                Some(stored) if *stored == computed => {}
                Some(stored) => {
                    return Err(self.damaged(format_args!("{of} has checksum {computed:08x}, expected {stored:08x}")));
                }
                None => return Err(self.damaged(format_args!("the manifest has no checksum of {of}"))),
            }
        }
        Ok(())
    }

    /// The places of the parts.
    fn parts(&self) -> impl Iterator<Item = Range<u64>> {
        let bytes = self.bytes;
        (0..bytes.div_ceil(PART)).map(move |part| part * PART..((part + 1) * PART).min(bytes))
    }

    /// Reads and verifies every part, one by one.
    pub async fn scrub(&self) -> Result<()> {
        for part in self.parts() {
            self.read_into(&mut self.unread(), &[part]).await?;
        }
        Ok(())
    }

    /// The places of the parts that are not what was written.
    pub async fn bad_parts(&self) -> Result<Vec<Range<u64>>> {
        let mut bad = Vec::new();
        for part in self.parts() {
            match self.read_into(&mut self.unread(), std::slice::from_ref(&part)).await {
                Err(error) if error.code() == ErrorCode::DataCorrupted => bad.push(part),
                read => drop(read?),
            }
        }
        Ok(bad)
    }
}

/// The parts that cover some ranges, as runs of neighbours.
fn part_runs(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut parts: Vec<Range<u64>> =
        ranges.iter().filter(|r| !r.is_empty()).map(|r| r.start / PART..(r.end - 1) / PART + 1).collect();
    parts.sort_unstable_by_key(|r| r.start);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for part in parts {
        match runs.last_mut() {
            Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
            _ => runs.push(part),
        }
    }
    runs
}

/// Some ranges of a file, for the Parquet reader: whole parts, in order, no two runs of them side by side.
#[derive(Debug, Clone)]
pub(super) struct SparseFile {
    len: u64,
    runs: Vec<(u64, Bytes)>,
}

impl SparseFile {
    /// Those of some parts that are not there, as runs.
    fn missing(&self, parts: Range<u64>) -> Vec<Range<u64>> {
        let mut missing: Vec<Range<u64>> = Vec::new();
        for part in parts {
            let (start, end) = (part * PART, ((part + 1) * PART).min(self.len));
            if self.slice(start, (end - start) as usize).is_some() {
                continue;
            }
            match missing.last_mut() {
                Some(last) if last.end == part => last.end += 1,
                _ => missing.push(part..part + 1),
            }
        }
        missing
    }

    fn add(&mut self, start: u64, bytes: Bytes) {
        let at = self.runs.partition_point(|(before, _)| *before < start);
        self.runs.insert(at, (start, bytes));
    }

    /// Makes one run of neighbours: a column may lie across them.
    fn join(&mut self) {
        let mut joined: Vec<(u64, Vec<Bytes>)> = Vec::with_capacity(self.runs.len());
        let mut end = None;
        for (start, bytes) in self.runs.drain(..) {
            let next = start + bytes.len() as u64;
            match joined.last_mut() {
                Some((_, run)) if end == Some(start) => run.push(bytes),
                _ => joined.push((start, vec![bytes])),
            }
            end = Some(next);
        }
        let run = |(start, mut run): (u64, Vec<Bytes>)| match run.len() {
            1 => (start, run.swap_remove(0)),
            _ => (start, run.concat().into()),
        };
        self.runs = joined.into_iter().map(run).collect();
    }

    fn from(&self, start: u64) -> Option<Bytes> {
        let (offset, bytes) = self.runs.iter().rev().find(|(offset, _)| *offset <= start)?;
        let skip = usize::try_from(start - offset).ok()?;
        (skip <= bytes.len()).then(|| bytes.slice(skip..))
    }

    /// A range, if it was read.
    pub fn slice(&self, start: u64, length: usize) -> Option<Bytes> {
        self.from(start).filter(|bytes| bytes.len() >= length).map(|bytes| bytes.slice(..length))
    }
}

impl Length for SparseFile {
    fn len(&self) -> u64 {
        self.len
    }
}

fn not_read(start: u64) -> ParquetError {
    ParquetError::General(format!("byte {start} was not read"))
}

impl ChunkReader for SparseFile {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        self.from(start).map(Buf::reader).ok_or_else(|| not_read(start))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.slice(start, length).ok_or_else(|| not_read(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_grows_part_by_part() {
        let whole = Bytes::from((0..PART * 4 - 7).map(|i| (i / 1000) as u8).collect::<Vec<u8>>());
        let mut file = SparseFile { len: whole.len() as u64, runs: Vec::new() };
        assert_eq!(file.missing(0..4), [0..4]);
        for part in [2, 0] {
            let start = part * PART;
            file.add(start, whole.slice(start as usize..(start + PART) as usize));
            file.join();
        }
        assert_eq!(file.missing(0..4), [1..2, 3..4]);
        assert!(file.slice(PART - 5, 10).is_none() && file.slice(0, PART as usize).is_some());
        file.add(PART, whole.slice(PART as usize..2 * PART as usize));
        file.add(3 * PART, whole.slice(3 * PART as usize..));
        file.join();
        assert_eq!((file.missing(0..4), file.runs.len()), (Vec::new(), 1));
        assert_eq!(file.slice(5, whole.len() - 5), Some(whole.slice(5..)));
    }

    #[test]
    fn neighbouring_parts_are_one_read() {
        assert_eq!(part_runs(&[0..1, PART - 1..PART + 1, 5 * PART..5 * PART, 3 * PART..4 * PART]), [0..2, 3..4]);
    }
}
