//! What stands in a journal's file.
//!
//! ```text
//! offset  size  field
//!      0     8  magic     "KLMJRNL1"
//!      8    16  id        made with the file; the marker in the storage below has the same
//!     24     4  checksum  CRC-32 (IEEE) over bytes 0..24, u32 little endian
//!     64        the first frame
//!
//! a frame:
//!      0     4  length    bytes of payload, u32 little endian
//!      4     4  checksum  CRC-32 over the frame's other bytes, begun with the checksum of the frame before it, or with
//!                         that of the header for the first one
//!      8     8  number    one above that of the commit before it
//!     16     8  epoch     that of the marker when it was written
//!     24     n  payload   the operations of one commit
//! ```
//!
//! Invariant: [`read`] gives frames only up to the first that is not the next one of what stands before it. Checksums are
//! chained, so neither the rest of an older round that the file was written with nor what stood behind a torn frame is ever
//! taken for the next frame.

use bytes::Bytes;

use crate::error::{ErrorCode, KalamError, Result};
use crate::storage::{KeyRange, Partition, WriteBatch, WriteOp};

/// What a journal and its marker are told apart by.
pub(super) type JournalId = [u8; 16];

/// Where the first frame begins.
pub(super) const FRAMES_AT: u64 = 64;

/// Bytes of a frame before its payload.
const FRAME_HEADER: usize = 24;

const MAGIC: [u8; 8] = *b"KLMJRNL1";
const HEADER_BYTES: usize = 28;

/// Lengths stand where they are read before any checksum was looked at: above this they are no lengths.
const MAX_PAYLOAD: usize = 16 << 20;

const PUT: u8 = 0;
const DELETE: u8 = 1;
const DELETE_RANGE: u8 = 2;

/// A commit in the journal.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// Its number.
    pub number: u64,
    /// What it changes.
    pub batch: WriteBatch,
}

/// A frame that was read.
#[derive(Debug)]
pub(super) struct ReadFrame {
    pub number: u64,
    /// The marker's epoch when it was made.
    pub epoch: u64,
    /// Nothing if the frame is damaged, and the one behind it says that it was whole once.
    pub batch: Option<WriteBatch>,
}

/// The header of a new file.
pub(super) fn header(id: &JournalId) -> Vec<u8> {
    let mut out = vec![0; FRAMES_AT as usize];
    out[..8].copy_from_slice(&MAGIC);
    out[8..24].copy_from_slice(id);
    let sum = first_chain(id);
    out[24..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The checksum that the first frame's is begun with.
pub(super) fn first_chain(id: &JournalId) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&MAGIC);
    hasher.update(id);
    hasher.finalize()
}

/// Bytes that the frame of a batch takes.
pub(super) fn frame_bytes(batch: &WriteBatch) -> usize {
    let side = |end: &Option<Vec<u8>>| 5 + end.as_ref().map_or(0, Vec::len);
    let op = |op: &WriteOp| match op {
        WriteOp::Put { key, value, .. } => 10 + key.len() + value.len(),
        WriteOp::Delete { key, .. } => 6 + key.len(),
        WriteOp::DeleteRange { range, .. } => 2 + side(&range.from) + side(&range.to),
    };
    FRAME_HEADER + batch.ops().iter().map(op).sum::<usize>()
}

/// The frame of a batch, and the checksum that the next one's is begun with.
pub(super) fn encode(batch: &WriteBatch, number: u64, epoch: u64, chain: u32) -> (Vec<u8>, u32) {
    let mut out = Vec::with_capacity(frame_bytes(batch));
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&epoch.to_le_bytes());
    for op in batch.ops() {
        match op {
            WriteOp::Put { partition, key, value } => {
                out.extend_from_slice(&[PUT, *partition as u8]);
                put_bytes(&mut out, key);
                put_bytes(&mut out, value);
            }
            WriteOp::Delete { partition, key } => {
                out.extend_from_slice(&[DELETE, *partition as u8]);
                put_bytes(&mut out, key);
            }
            WriteOp::DeleteRange { partition, range } => {
                out.extend_from_slice(&[DELETE_RANGE, *partition as u8]);
                for end in [&range.from, &range.to] {
                    out.push(u8::from(end.is_some()));
                    put_bytes(&mut out, end.as_deref().unwrap_or_default());
                }
            }
        }
    }
    let length = (out.len() - FRAME_HEADER) as u32;
    out[..4].copy_from_slice(&length.to_le_bytes());
    let sum = frame_sum(&out, chain);
    out[4..8].copy_from_slice(&sum.to_le_bytes());
    (out, sum)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn frame_sum(frame: &[u8], chain: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(chain);
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// Reads the file of the journal with this id. Nothing if it was never finished: it has no header.
///
/// Errors: `DATA_CORRUPTED` if it has no frame of that journal, and its header is another one's or damaged.
pub(super) fn read(bytes: &Bytes, id: &JournalId) -> Result<Option<Vec<ReadFrame>>> {
    let head = bytes.get(..HEADER_BYTES).unwrap_or_default();
    let is_ours = head == &header(id)[..HEADER_BYTES];
    let (mut frames, mut at, mut chain) = (Vec::<ReadFrame>::new(), FRAMES_AT as usize, first_chain(id));
    let damaged_one = |at, is_first: bool| if is_ours || !is_first { damaged_at(bytes, at) } else { None };
    while let Some((frame, length, sum)) = frame_at(bytes, at, chain).or_else(|| damaged_one(at, frames.is_empty())) {
        if frames.last().is_some_and(|last| last.number >= frame.number) {
            break;
        }
        frames.push(frame);
        (at, chain) = (at + length, sum);
    }
    if !frames.is_empty() || is_ours {
        return Ok(Some(frames));
    }
    if head.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let mut other = JournalId::default();
    other.copy_from_slice(&head[8..24]);
    let is_another = head == &header(&other)[..HEADER_BYTES];
    Err(damaged(if is_another { "its file is that of another database" } else { "its header is damaged" }.into()))
}

pub(super) fn damaged(found: String) -> KalamError {
    KalamError::new(ErrorCode::DataCorrupted, format!("the journal of the database is damaged: {found}")).with_hint(
        "It held commits of the last moments before the database was closed, the browser ended or the power failed. \
             The next connection goes on without them; if they matter more, restore a backup.",
    )
}

/// The frame at a place, if there is one that follows what `chain` stands for; how long it is, and its checksum.
fn frame_at(bytes: &Bytes, at: usize, chain: u32) -> Option<(ReadFrame, usize, u32)> {
    let frame = bytes_at(bytes, at)?;
    let sum = frame_sum(&frame, chain);
    if u32_at(&frame[4..8]) != sum {
        return None;
    }
    let batch = decode(&frame.slice(FRAME_HEADER..));
    Some((ReadFrame { number: u64_at(&frame, 8), epoch: u64_at(&frame, 16), batch }, frame.len(), sum))
}

/// The frame at a place whose checksum is wrong, if the next one follows it: that was made when it was whole.
fn damaged_at(bytes: &Bytes, at: usize) -> Option<(ReadFrame, usize, u32)> {
    let frame = bytes_at(bytes, at)?;
    let sum = u32_at(&frame[4..8]);
    let (number, epoch) = (u64_at(&frame, 8), u64_at(&frame, 16));
    let (next, ..) = frame_at(bytes, at + frame.len(), sum)?;
    (number.checked_add(1) == Some(next.number) && next.epoch == epoch)
        .then(|| (ReadFrame { number, epoch, batch: None }, frame.len(), sum))
}

/// As many bytes as a frame at a place says that it has.
fn bytes_at(bytes: &Bytes, at: usize) -> Option<Bytes> {
    let length = u32_at(bytes.get(at..at + 4)?) as usize;
    (length <= MAX_PAYLOAD && bytes.len() >= at + FRAME_HEADER + length)
        .then(|| bytes.slice(at..at + FRAME_HEADER + length))
}

fn u32_at(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// The operations of a payload; nothing if it is not one.
fn decode(payload: &Bytes) -> Option<WriteBatch> {
    let mut batch = WriteBatch::new();
    let mut at = 0;
    let byte = |at: &mut usize| {
        *at += 1;
        payload.get(*at - 1).copied()
    };
    let bytes = |at: &mut usize| {
        let length = u32_at(payload.get(*at..*at + 4)?) as usize;
        let start = *at + 4;
        *at = start.checked_add(length).filter(|&end| end <= payload.len())?;
        Some(payload.slice(start..*at))
    };
    while at < payload.len() {
        let kind = byte(&mut at)?;
        let partition = *Partition::ALL.get(usize::from(byte(&mut at)?))?;
        match kind {
            PUT => {
                let key = bytes(&mut at)?;
                batch.put(partition, key.to_vec(), bytes(&mut at)?);
            }
            DELETE => {
                batch.delete(partition, bytes(&mut at)?.to_vec());
            }
            DELETE_RANGE => {
                let mut end = || {
                    let is_there = byte(&mut at)? != 0;
                    let key = bytes(&mut at)?;
                    Some(is_there.then(|| key.to_vec()))
                };
                let (from, to) = (end()?, end()?);
                batch.delete_range(partition, KeyRange { from, to });
            }
            _ => return None,
        }
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: JournalId = [7; 16];

    fn batch(n: u8) -> WriteBatch {
        let mut batch = WriteBatch::new();
        batch.put(Partition::Log, vec![n; 3], vec![n; n as usize]).delete(Partition::Meta, vec![n]);
        batch.delete_range(Partition::Blob, KeyRange::prefix(&[n])).delete_range(Partition::Catalog, KeyRange::all());
        batch
    }

    fn file(numbers: &[u64]) -> Vec<u8> {
        let (mut out, mut chain) = (header(&ID), first_chain(&ID));
        for &number in numbers {
            let frame;
            (frame, chain) = encode(&batch(number as u8), number, 9, chain);
            assert_eq!(frame.len(), frame_bytes(&batch(number as u8)));
            out.extend_from_slice(&frame);
        }
        out
    }

    /// The numbers of the frames, with a minus of those that are damaged.
    fn numbers(bytes: Vec<u8>) -> Vec<i64> {
        let frames = read(&bytes.into(), &ID).unwrap().unwrap();
        let number = |frame: ReadFrame| {
            assert_eq!(frame.epoch, 9);
            let Some(found) = frame.batch else { return -(frame.number as i64) };
            assert_eq!(found.ops(), batch(frame.number as u8).ops());
            frame.number as i64
        };
        frames.into_iter().map(number).collect()
    }

    #[test]
    fn frames_come_back_up_to_the_first_that_is_not_whole() {
        let whole = file(&[4, 5, 6]);
        assert_eq!(numbers(whole.clone()), [4, 5, 6]);
        let two = file(&[4, 5]).len();
        for end in two..whole.len() {
            assert_eq!(numbers(whole[..end].to_vec()), [4, 5], "cut at {end}");
            let mut flipped = whole.clone();
            flipped[end] ^= 0x40;
            assert_eq!(numbers(flipped), [4, 5], "flipped at {end}");
        }
    }

    #[test]
    fn a_damaged_frame_is_told_from_a_torn_end_by_the_one_behind_it() {
        let whole = file(&[4, 5, 6]);
        let (one, two) = (file(&[4]).len(), file(&[4, 5]).len());
        for at in one..two {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x40;
            // Where its length, checksum, number or epoch is what is damaged, nothing says that there was one.
            let expected: &[i64] = if at < one + FRAME_HEADER { &[4] } else { &[4, -5, 6] };
            assert_eq!(numbers(flipped), expected, "flipped at {at}");
        }
    }

    #[test]
    fn what_stood_behind_a_frame_that_was_written_anew_is_not_read() {
        // Commit 5 was torn and 6 was not; then another commit 5 of the same length took its place.
        let (mut old, two) = (file(&[4, 5, 6]), file(&[4]).len());
        let (_, chain) = encode(&batch(4), 4, 9, first_chain(&ID));
        let mut other = batch(5);
        other.ops[0] = WriteOp::Put { partition: Partition::Log, key: vec![9; 3], value: vec![5; 5].into() };
        let (frame, _) = encode(&other, 5, 9, chain);
        old[two..two + frame.len()].copy_from_slice(&frame);
        let frames = read(&old.into(), &ID).unwrap().unwrap();
        assert_eq!(frames.iter().map(|frame| frame.number).collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn a_header_that_is_none_is_damage_and_one_that_was_never_written_is_no_journal() {
        assert!(read(&Bytes::new(), &ID).unwrap().is_none());
        assert!(read(&Bytes::from(vec![0; 1 << 10]), &ID).unwrap().is_none());
        for at in 0..HEADER_BYTES {
            let mut bytes = file(&[]);
            bytes[at] ^= 1;
            assert_eq!(read(&bytes.into(), &ID).unwrap_err().code(), ErrorCode::DataCorrupted, "byte {at}");
            // The frames say whose they are.
            let mut bytes = file(&[1]);
            bytes[at] ^= 1;
            assert_eq!(numbers(bytes), [1], "byte {at}");
        }
        let other = read(&file(&[1]).into(), &[8; 16]).unwrap_err();
        assert!(other.message().contains("another database"), "{other}");
    }
}
