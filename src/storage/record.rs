//! The frame around every stored value: what it is, how long it is, and a checksum that says whether it still is.
//!
//! ```text
//! offset  size  field
//!      0     4  magic        "KLMR"
//!      4     1  format       version of this frame and of the payload's layout, now 1
//!      5     1  kind         what the payload is (RecordKind)
//!      6     2  reserved     0
//!      8     4  length       bytes of payload, u32 little endian
//!     12     4  checksum     CRC-32 (IEEE) over bytes 0..12, the record's key, and the payload
//!     16     n  payload
//! ```
//!
//! Invariant: a payload is handed out only after magic, format, kind, length and checksum were verified. The key is
//! part of the checksum, so a record that turned up under another key is found too. A later version writes a greater
//! `format`; this one then answers `UNSUPPORTED_FORMAT` instead of guessing.
//!
//! A payload above what one value holds is cut into parts 0, 1, 2 …, whose number stands as u16 (big endian) at the end of
//! their keys; such a payload begins with the length of all its parts together, so a missing one is found.

use bytes::Bytes;

use super::{MAX_VALUE_BYTES, Partition, WriteBatch};
use crate::error::{ErrorCode, KalamError, Result};

/// Version of the frame and of the payloads that this build writes, and the greatest that it reads.
pub const FORMAT_VERSION: u8 = 1;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 16;

const MAGIC: [u8; 4] = *b"KLMR";

/// What a record's payload is. The numbers are part of the on-disk format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// JSON of an entity (definitions, system rows, settings).
    Entity = 1,
    /// A record of the commit log.
    Log = 2,
    /// A manifest of cold segments.
    Manifest = 3,
}

impl RecordKind {
    fn name(number: u8) -> &'static str {
        match number {
            1 => "entity",
            2 => "log",
            3 => "manifest",
            _ => "unknown",
        }
    }
}

/// Frames a payload for the record stored under `key`.
pub fn seal(kind: RecordKind, key: &[u8], payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend_from_slice(&[0; HEADER_BYTES]);
    out.extend_from_slice(payload);
    seal_in_place(kind, key, out)
}

/// Like [`seal`], for a payload that was written after [`HEADER_BYTES`] bytes of room.
pub fn seal_in_place(kind: RecordKind, key: &[u8], mut record: Vec<u8>) -> Bytes {
    let length = (record.len() - HEADER_BYTES) as u32;
    record[0..4].copy_from_slice(&MAGIC);
    record[4] = FORMAT_VERSION;
    record[5] = kind as u8;
    record[6..8].fill(0);
    record[8..12].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(&record[..12], key, &record[HEADER_BYTES..]);
    record[12..16].copy_from_slice(&sum.to_le_bytes());
    Bytes::from(record)
}

/// Verifies a record and returns its payload without copying it.
pub fn open(kind: RecordKind, key: &[u8], record: &Bytes) -> Result<Bytes> {
    let damaged = |found: String| {
        KalamError::new(ErrorCode::DataCorrupted, format!("the {} record {} is damaged: {found}", RecordKind::name(kind as u8), hex(key)))
            .with_hint("The storage returned other bytes than were written. Restore a backup, or report it if this device is sound.")
    };
    let Some((header, payload)) = record.split_at_checked(HEADER_BYTES) else {
        return Err(damaged(format!("{} bytes, expected at least {HEADER_BYTES}", record.len())));
    };
    if header[0..4] != MAGIC {
        return Err(damaged(format!("it starts with {}, expected {}", hex(&header[0..4]), hex(&MAGIC))));
    }
    let stored = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    if header[4] > FORMAT_VERSION {
        return Err(KalamError::new(
            ErrorCode::UnsupportedFormat,
            format!("the record {} has format {}, this version reads up to {FORMAT_VERSION}", hex(key), header[4]),
        )
        .with_hint("The database was written by a later version of KalamDB. Update the package."));
    }
    if length != payload.len() {
        return Err(damaged(format!("{} bytes of payload, expected {length}", payload.len())));
    }
    let computed = checksum(&header[..12], key, payload);
    if computed != stored {
        return Err(damaged(format!("checksum {computed:08x}, expected {stored:08x}")));
    }
    if header[5] != kind as u8 {
        return Err(damaged(format!("it is of kind {} ({})", header[5], RecordKind::name(header[5]))));
    }
    Ok(record.slice(HEADER_BYTES..))
}

fn checksum(header: &[u8], key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

/// Adds a payload to a batch, in as many parts as it takes. It begins with its own length, as u32. `stem` is its key without
/// the number of the part.
pub fn put_parts(batch: &mut WriteBatch, partition: Partition, kind: RecordKind, stem: &[u8], payload: &[u8]) {
    for (part, bytes) in payload.chunks(MAX_VALUE_BYTES - HEADER_BYTES).enumerate() {
        let key = [stem, &(part as u16).to_be_bytes()].concat();
        let value = seal(kind, &key, bytes);
        batch.put(partition, key, value);
    }
}

/// A payload with all its parts.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Its key without the number of the part.
    pub stem: Vec<u8>,
    /// The payload, the length at its beginning included.
    pub payload: Bytes,
}

/// Verifies parts and puts them together, in the order of their keys.
#[derive(Debug, Default)]
pub struct PartReader {
    pending: Option<(Vec<u8>, Vec<u8>)>,
}

impl PartReader {
    /// Takes the next stored value; returns the payload that it completes, if it does.
    pub fn push(&mut self, kind: RecordKind, key: &[u8], value: &Bytes) -> Result<Option<Whole>> {
        let damaged = |what: String| {
            let message = format!("the {} record {} is damaged: {what}", RecordKind::name(kind as u8), hex(key));
            KalamError::new(ErrorCode::DataCorrupted, message)
        };
        let part = open(kind, key, value)?;
        let (stem, number) = key.split_last_chunk::<2>().ok_or_else(|| damaged("its key is too short".into()))?;
        let number = u16::from_be_bytes(*number);
        // Bytes that are there already are not copied for each part that follows.
        let before = match self.pending.take() {
            None if number == 0 => None,
            Some((pending, mut bytes)) if pending == stem && number > 0 => {
                bytes.extend_from_slice(&part);
                Some(bytes)
            }
            _ => return Err(damaged(format!("part {number} does not follow the part before it"))),
        };
        let bytes = before.as_deref().unwrap_or(&part);
        let (length, expected) = (bytes.len(), bytes.first_chunk().map(|b| u32::from_le_bytes(*b) as usize));
        match expected {
            Some(expected) if expected == length => {
                Ok(Some(Whole { stem: stem.to_vec(), payload: before.map_or(part, Bytes::from) }))
            }
            Some(expected) if expected > length => {
                self.pending = Some((stem.to_vec(), before.unwrap_or_else(|| part.to_vec())));
                Ok(None)
            }
            expected => {
                let expected = expected.map_or_else(|| "a length".to_owned(), |n| n.to_string());
                Err(damaged(format!("its parts have {length} bytes, expected {expected}")))
            }
        }
    }

    /// Fails if the values ended within a payload.
    pub fn finish(self, kind: RecordKind) -> Result<()> {
        let Some((stem, bytes)) = self.pending else { return Ok(()) };
        let (kind, stem) = (RecordKind::name(kind as u8), hex(&stem));
        let message = format!("the {kind} record {stem} is damaged: it ends after {} bytes", bytes.len());
        Err(KalamError::new(ErrorCode::DataCorrupted, message))
    }
}

/// Bytes as hexadecimal digits, shortened, for messages.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::from("0x");
    for b in bytes.iter().take(32) {
        let _ = write!(out, "{b:02x}");
    }
    if bytes.len() > 32 {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let record = seal(RecordKind::Log, b"key", b"payload");
        assert_eq!(hex(&record), "0x4b4c4d52010200000700000069a6ee857061796c6f6164");
    }

    #[test]
    fn a_later_format_is_recognised() {
        let mut record = seal(RecordKind::Log, b"k", b"p").to_vec();
        record[4] = FORMAT_VERSION + 1;
        let error = open(RecordKind::Log, b"k", &record.into()).expect_err("must be refused");
        assert_eq!(error.code(), ErrorCode::UnsupportedFormat);
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(key: Vec<u8>, payload: Vec<u8>) {
            let record = seal(RecordKind::Entity, &key, &payload);
            prop_assert_eq!(open(RecordKind::Entity, &key, &record)?, payload);
        }

        #[test]
        fn any_flipped_bit_is_found(payload: Vec<u8>, at: prop::sample::Index, bit in 0..8u8) {
            let mut record = seal(RecordKind::Log, b"key", &payload).to_vec();
            let at = at.index(record.len());
            record[at] ^= 1 << bit;
            prop_assert!(open(RecordKind::Log, b"key", &record.into()).is_err());
        }

        #[test]
        fn another_key_or_a_torn_record_is_found(payload: Vec<u8>, cut: prop::sample::Index) {
            let record = seal(RecordKind::Log, b"key", &payload);
            prop_assert!(open(RecordKind::Log, b"kez", &record).is_err());
            prop_assert!(open(RecordKind::Log, b"key", &record.slice(..cut.index(record.len()))).is_err());
        }
    }
}
