//! What the manifest keeps of a segment.
//!
//! ```text
//! u8   version 1
//! u32  number | u32 schema version | u32 key version | u32 rows | u64 bytes | u32 bytes of the footer
//! i64  least _seq | i64 greatest _seq
//! u32  parts, then the CRC-32 (IEEE) of each 256 KiB part of the blob
//! u32  row groups, then of each: u32 length, a lower bound of its first key
//! u32  length, an upper bound of the last key
//! u32  columns, then of each: u32 column id, its wire type, u32 NULLs, u8 flags (1 NaN, 2 least, 4 greatest,
//!      8 the bounds are values of the column); with 2 and 4 the bound: u32 length, the value as a key
//! ```
//!
//! Numbers are little endian. Invariant: the key of every row lies between `first_key` and `last_key` (both inclusive,
//! as bytes), and every value of a column between its bounds; bounds of long text are cut, so they may lie outside of
//! what is there. A column with NaN has no bounds: what compares above everything would belong to them.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes as arrow_types;
use datafusion::common::ScalarValue;

use super::ROW_GROUP_ROWS;
use crate::error::{ErrorCode, KalamError, Result};
use crate::tables::Seq;
use crate::tables::bytes::{Cursor, put_bytes};
use crate::types::{ColumnBuilder, KalamDataType, KeyCodec, Value};

const VERSION: u8 = 1;
/// Bounds of keys are cut to so many bytes.
const MAX_KEY_BYTES: usize = 256;
/// Bounds of TEXT and BYTES are cut to so many bytes.
const MAX_BOUND_BYTES: usize = 64;

const NAN: u8 = 1;
const LEAST: u8 = 2;
const GREATEST: u8 = 4;
const EXACT: u8 = 8;

/// What the manifest keeps of a segment; see the module's comment.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentMeta {
    /// Its number in its scope, from 1, never given again.
    pub number: u32,
    /// The schema version that its rows have.
    pub schema_version: u32,
    /// `KeySpec::version` of the keys that it is sorted by.
    pub key_version: u32,
    /// How many rows.
    pub rows: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes at its end that hold the page index and the footer.
    pub footer_bytes: u32,
    /// The least `_seq` of its rows.
    pub min_seq: Seq,
    /// The greatest `_seq` of its rows.
    pub max_seq: Seq,
    /// CRC-32 of each part of the blob.
    pub part_crcs: Vec<u32>,
    /// A lower bound of the first key of each row group.
    pub group_keys: Vec<Vec<u8>>,
    /// An upper bound of the last key.
    pub last_key: Vec<u8>,
    /// The table's columns as they were written.
    pub columns: Vec<ColumnMeta>,
}

/// What the manifest keeps of a column of a segment.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnMeta {
    /// Its id.
    pub column_id: u32,
    /// Its type when it was written.
    pub data_type: KalamDataType,
    /// How many values are NULL.
    pub nulls: u32,
    /// Whether a value is NaN: then neither these bounds nor those in the file can be used.
    pub has_nan: bool,
    /// No value is below.
    pub min: Option<ScalarValue>,
    /// No value is above.
    pub max: Option<ScalarValue>,
    /// Whether the bounds are values of the column.
    pub exact: bool,
}

impl SegmentMeta {
    /// A lower bound of the keys.
    pub fn first_key(&self) -> &[u8] {
        self.group_keys.first().map_or(&[], Vec::as_slice)
    }

    /// Whether a key may be in the segment, by its range alone; only for keys of version `key_version`.
    pub fn may_hold(&self, key: &[u8]) -> bool {
        self.first_key() <= key && key <= self.last_key.as_slice()
    }

    /// How many row groups.
    pub fn groups(&self) -> usize {
        self.group_keys.len()
    }

    /// The row group of a row.
    pub fn group_of(&self, row: u32) -> usize {
        row as usize / ROW_GROUP_ROWS
    }

    /// The rows of a row group.
    pub fn group_rows(&self, group: usize) -> std::ops::Range<u32> {
        let start = (group * ROW_GROUP_ROWS).min(self.rows as usize);
        start as u32..(start + ROW_GROUP_ROWS).min(self.rows as usize) as u32
    }

    /// A column, if the segment was written with it.
    pub fn column(&self, column_id: u32) -> Option<&ColumnMeta> {
        self.columns.iter().find(|c| c.column_id == column_id)
    }

    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.push(VERSION);
        for n in [self.number, self.schema_version, self.key_version, self.rows] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.footer_bytes.to_le_bytes());
        out.extend_from_slice(&self.min_seq.to_le_bytes());
        out.extend_from_slice(&self.max_seq.to_le_bytes());
        out.extend_from_slice(&(self.part_crcs.len() as u32).to_le_bytes());
        for crc in &self.part_crcs {
            out.extend_from_slice(&crc.to_le_bytes());
        }
        out.extend_from_slice(&(self.group_keys.len() as u32).to_le_bytes());
        for key in &self.group_keys {
            put_bytes(out, key);
        }
        put_bytes(out, &self.last_key);
        out.extend_from_slice(&(self.columns.len() as u32).to_le_bytes());
        for column in &self.columns {
            column.encode(out)?;
        }
        Ok(())
    }

    /// Decodes what [`SegmentMeta::encode`] gave; returns how many bytes it took.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize)> {
        let mut cursor = Cursor::new("a segment's manifest", bytes);
        let version = cursor.u8()?;
        if version > VERSION {
            let message = format!("a segment's manifest has version {version}, this version reads up to {VERSION}");
            return Err(KalamError::new(ErrorCode::UnsupportedFormat, message)
                .with_hint("The database was written by a later version of KalamDB. Update the package."));
        }
        if version != VERSION {
            return Err(cursor.damaged(format_args!("version {version}, expected {VERSION}")));
        }
        Ok((Self::read(&mut cursor)?, cursor.position()))
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let (number, schema_version, key_version, rows) = (cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?);
        let (bytes, footer_bytes) = (cursor.u64()?, cursor.u32()?);
        let (min_seq, max_seq) = (cursor.i64()?, cursor.i64()?);
        let part_crcs = (0..cursor.count()?).map(|_| cursor.u32()).collect::<Result<_>>()?;
        let group_keys = (0..cursor.count()?).map(|_| cursor.bytes().map(<[u8]>::to_vec)).collect::<Result<_>>()?;
        let last_key = cursor.bytes()?.to_vec();
        let columns = (0..cursor.count()?).map(|_| ColumnMeta::read(cursor)).collect::<Result<_>>()?;
        Ok(Self {
            number,
            schema_version,
            key_version,
            rows,
            bytes,
            footer_bytes,
            min_seq,
            max_seq,
            part_crcs,
            group_keys,
            last_key,
            columns,
        })
    }
}

impl ColumnMeta {
    /// What is known of a column of which no value was seen.
    pub(super) fn new(column_id: u32, data_type: KalamDataType) -> Self {
        Self { column_id, data_type, nulls: 0, has_nan: false, min: None, max: None, exact: true }
    }

    /// Takes the values of an array in.
    pub(super) fn observe(&mut self, array: &ArrayRef) -> Result<()> {
        self.nulls += array.null_count() as u32;
        let Some(ends) = extremes(array, &self.data_type) else { return Ok(()) };
        self.has_nan |= ends.nan;
        let Some((least, greatest)) = ends.at else { return Ok(()) };
        let value = |at: usize| ScalarValue::try_from_array(array, at).map_err(KalamError::internal);
        let (least, greatest) = (value(least)?, value(greatest)?);
        if self.min.as_ref().is_none_or(|min| least < *min) {
            self.min = Some(least);
        }
        if self.max.as_ref().is_none_or(|max| greatest > *max) {
            self.max = Some(greatest);
        }
        Ok(())
    }

    /// Cuts the bounds to what is kept.
    pub(super) fn finish(&mut self) {
        if self.has_nan {
            (self.min, self.max) = (None, None);
            return;
        }
        self.max = self.max.take().and_then(|max| match max {
            ScalarValue::Utf8(Some(text)) if text.len() > MAX_BOUND_BYTES => {
                self.exact = false;
                text_above(&text).map(|t| ScalarValue::Utf8(Some(t)))
            }
            ScalarValue::Binary(Some(bytes)) if bytes.len() > MAX_BOUND_BYTES => {
                self.exact = false;
                above(&bytes[..MAX_BOUND_BYTES]).map(|b| ScalarValue::Binary(Some(b)))
            }
            other => Some(other),
        });
        match &mut self.min {
            Some(ScalarValue::Utf8(Some(text))) if text.len() > MAX_BOUND_BYTES => {
                self.exact = false;
                text.truncate(text.floor_char_boundary(MAX_BOUND_BYTES));
            }
            Some(ScalarValue::Binary(Some(bytes))) if bytes.len() > MAX_BOUND_BYTES => {
                self.exact = false;
                bytes.truncate(MAX_BOUND_BYTES);
            }
            _ => {}
        }
        self.hold_both_zeros();
    }

    /// Comparisons tell the zeros apart: the bounds hold both.
    fn hold_both_zeros(&mut self) {
        match &mut self.min {
            Some(ScalarValue::Float32(Some(x))) if *x == 0.0 => *x = -0.0,
            Some(ScalarValue::Float64(Some(x))) if *x == 0.0 => *x = -0.0,
            _ => {}
        }
        match &mut self.max {
            Some(ScalarValue::Float32(Some(x))) if *x == 0.0 => *x = 0.0,
            Some(ScalarValue::Float64(Some(x))) if *x == 0.0 => *x = 0.0,
            _ => {}
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.column_id.to_le_bytes());
        self.data_type.encode_wire(out);
        out.extend_from_slice(&self.nulls.to_le_bytes());
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.push(
            flag(self.has_nan, NAN)
                | flag(self.min.is_some(), LEAST)
                | flag(self.max.is_some(), GREATEST)
                | flag(self.exact, EXACT),
        );
        for bound in [&self.min, &self.max].into_iter().flatten() {
            let mut key = Vec::new();
            let array = bound.to_array().map_err(KalamError::internal)?;
            KeyCodec::new(&[self.data_type])?.encode(&[array], 0, &mut key)?;
            put_bytes(out, &key);
        }
        Ok(())
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let column_id = cursor.u32()?;
        let (data_type, used) = KalamDataType::decode_wire(cursor.rest())?;
        cursor.take(used)?;
        let nulls = cursor.u32()?;
        let flags = cursor.u8()?;
        let mut bound = |bit: u8| {
            if flags & bit == 0 {
                return Ok(None);
            }
            let values = KeyCodec::new(&[data_type])?.decode(cursor.bytes()?)?;
            let value = values.first().and_then(|value| scalar(value, &data_type));
            value.map(Some).ok_or_else(|| cursor.damaged(format_args!("a bound of column {column_id}")))
        };
        let (min, max) = (bound(LEAST)?, bound(GREATEST)?);
        let mut column =
            Self { column_id, data_type, nulls, has_nan: flags & NAN != 0, min, max, exact: flags & EXACT != 0 };
        // Keys know one zero only. Bounds were cut when they were written; one that was cut upwards may be longer since.
        column.hold_both_zeros();
        Ok(column)
    }
}

fn scalar(value: &Value, data_type: &KalamDataType) -> Option<ScalarValue> {
    let mut builder = ColumnBuilder::new(data_type, "bound", 1);
    builder.append(value).ok()?;
    ScalarValue::try_from_array(&builder.finish(), 0).ok()
}

/// A key that is not above any key that starts like this one.
pub(super) fn key_below(key: &[u8]) -> Vec<u8> {
    key[..key.len().min(MAX_KEY_BYTES)].to_vec()
}

/// A key that is not below this one, and short.
pub(super) fn key_above(key: &[u8]) -> Vec<u8> {
    match key.get(..MAX_KEY_BYTES) {
        Some(head) if key.len() > MAX_KEY_BYTES => above(head).unwrap_or_else(|| key.to_vec()),
        _ => key.to_vec(),
    }
}

/// The least bytes of at most this length that are above everything that starts with these.
fn above(bytes: &[u8]) -> Option<Vec<u8>> {
    let last = bytes.iter().rposition(|&b| b != 0xFF)?;
    let mut above = bytes[..=last].to_vec();
    above[last] += 1;
    Some(above)
}

/// A short text that is above everything that starts like this one.
fn text_above(text: &str) -> Option<String> {
    let head = &text[..text.floor_char_boundary(MAX_BOUND_BYTES)];
    head.char_indices().rev().find_map(|(at, c)| {
        let next = (c as u32 + 1..=char::MAX as u32).find_map(char::from_u32)?;
        Some(format!("{}{next}", &head[..at]))
    })
}

/// Where the least and the greatest value of an array lie, if there is one, and whether a value is NaN.
struct Ends {
    at: Option<(usize, usize)>,
    nan: bool,
}

/// The ends of an array; `None` if its type has no order that is worth keeping.
fn extremes(array: &ArrayRef, data_type: &KalamDataType) -> Option<Ends> {
    use KalamDataType as T;
    macro_rules! primitive {
        ($arrow:ident) => {
            ends(array.as_primitive_opt::<arrow_types::$arrow>()?.iter())
        };
    }
    Some(match data_type {
        T::Boolean => ends(array.as_boolean_opt()?.iter()),
        T::SmallInt => primitive!(Int16Type),
        T::Int => primitive!(Int32Type),
        T::BigInt => primitive!(Int64Type),
        T::Float => primitive!(Float32Type),
        T::Double => primitive!(Float64Type),
        T::Text => ends(array.as_string_opt::<i32>()?.iter()),
        T::Bytes => ends(array.as_binary_opt::<i32>()?.iter()),
        T::Timestamp | T::DateTime => primitive!(TimestampMicrosecondType),
        T::Date => primitive!(Date32Type),
        T::Time => primitive!(Time64MicrosecondType),
        T::Uuid => ends(array.as_fixed_size_binary_opt()?.iter()),
        T::Decimal { .. } => primitive!(Decimal128Type),
        T::Json | T::File | T::Embedding(_) => return None,
    })
}

fn ends<V: PartialOrd + Copy>(values: impl Iterator<Item = Option<V>>) -> Ends {
    let mut found: Option<((usize, V), (usize, V))> = None;
    let mut nan = false;
    for (at, value) in values.enumerate() {
        let Some(value) = value else { continue };
        if value.partial_cmp(&value).is_none() {
            nan = true;
            continue;
        }
        match &mut found {
            None => found = Some(((at, value), (at, value))),
            Some((least, greatest)) => {
                if value < least.1 {
                    *least = (at, value);
                } else if value > greatest.1 {
                    *greatest = (at, value);
                }
            }
        }
    }
    Ends { at: found.map(|(least, greatest)| (least.0, greatest.0)), nan }
}

#[cfg(test)]
#[path = "meta_tests.rs"]
mod tests;
