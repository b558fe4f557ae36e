//! KPR1: columns packed into one buffer, the form in which small results and inserted objects cross to JavaScript.
//!
//! ```text
//! u32 magic 'KPR1' | u32 columns | u32 rows | u32 0
//! per column: u32 kind | u32 flags (1: has nulls) | u32 validity | u32 data | u32 data bytes | u32 offsets | u32 width | u32 0
//! sections, each at a multiple of 8 bytes: validity (a byte per row), offsets (u32 × (rows + 1)), data
//! ```
//!
//! Everything is little endian. Invariant: [`decode`] trusts nothing: every section is checked to lie within the
//! buffer before it is read, because the bytes come from outside.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::executor::Rows;
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::TableDefinition;
use crate::types::{KalamDataType, Value, coerce_array};

const MAGIC: u32 = 0x3152_504B;
const HEADER: usize = 16;
const COLUMN: usize = 32;

/// Rows of one buffer at most.
pub const ROWS_PER_BUFFER: usize = 65_536;

/// How a column's values lie in a buffer; the numbers are shared with the SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Bool = 1,
    Int32 = 2,
    Int64 = 3,
    Float64 = 4,
    Utf8 = 5,
    Timestamp = 6,
    Date = 7,
    Json = 8,
    Bytes = 9,
    Embedding = 10,
    Uuid = 11,
}

impl Kind {
    fn of(data_type: &KalamDataType) -> Self {
        use KalamDataType as T;
        match data_type {
            T::Boolean => Kind::Bool,
            T::Int | T::SmallInt => Kind::Int32,
            T::BigInt => Kind::Int64,
            T::Double | T::Float => Kind::Float64,
            T::Text | T::File | T::Decimal { .. } | T::Time => Kind::Utf8,
            T::Timestamp | T::DateTime => Kind::Timestamp,
            T::Date => Kind::Date,
            T::Json => Kind::Json,
            T::Bytes => Kind::Bytes,
            T::Embedding(_) => Kind::Embedding,
            T::Uuid => Kind::Uuid,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        use Kind::*;
        [Bool, Int32, Int64, Float64, Utf8, Timestamp, Date, Json, Bytes, Embedding, Uuid]
            .into_iter()
            .find(|k| *k as u32 == number)
    }

    /// Bytes of a value, for kinds of fixed width; `width` is an embedding's number of components.
    fn fixed(self, width: usize) -> Option<usize> {
        match self {
            Kind::Bool => Some(1),
            Kind::Int32 | Kind::Date => Some(4),
            Kind::Int64 | Kind::Float64 | Kind::Timestamp => Some(8),
            Kind::Uuid => Some(16),
            Kind::Embedding => width.checked_mul(4),
            Kind::Utf8 | Kind::Json | Kind::Bytes => None,
        }
    }
}

/// Rows of some columns.
pub type Part<'a> = (&'a [ArrayRef], Range<usize>);

/// Packs a result, whose columns are of these types, into buffers of at most [`ROWS_PER_BUFFER`] rows.
pub fn encode(rows: &Rows, types: &[KalamDataType]) -> Result<Vec<Vec<u8>>> {
    let mut buffers = Vec::new();
    let mut parts: Vec<Part<'_>> = Vec::new();
    let mut gathered = 0;
    for batch in &rows.batches {
        let mut start = 0;
        while start < batch.num_rows() {
            let end = batch.num_rows().min(start + ROWS_PER_BUFFER - gathered);
            parts.push((batch.columns(), start..end));
            gathered += end - start;
            start = end;
            if gathered == ROWS_PER_BUFFER {
                buffers.push(encode_parts(types, &parts)?);
                parts.clear();
                gathered = 0;
            }
        }
    }
    if gathered > 0 {
        buffers.push(encode_parts(types, &parts)?);
    }
    Ok(buffers)
}

/// Packs rows of columns of these types into one buffer.
pub fn encode_parts(types: &[KalamDataType], parts: &[Part<'_>]) -> Result<Vec<u8>> {
    let rows = parts.iter().map(|(_, rows)| rows.len()).sum::<usize>();
    let head = HEADER + COLUMN * types.len();
    // Most values take eight bytes at the most, and what takes more tells so as it comes.
    let mut out = Vec::with_capacity(head + types.len() * (rows * 8 + 24));
    for word in [MAGIC, types.len() as u32, rows as u32, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.resize(head, 0);
    for (i, data_type) in types.iter().enumerate() {
        let arrays = || parts.iter().map(|(columns, rows)| (&columns[i], rows.clone()));
        let kind = Kind::of(data_type);
        let nulls = arrays().any(|(array, mut rows)| array.null_count() > 0 && rows.any(|row| array.is_null(row)));
        let mut words = [kind as u32, u32::from(nulls), 0, 0, 0, 0, 0, 0];
        if nulls {
            words[2] = align(&mut out)?;
            arrays().for_each(|(array, rows)| out.extend(rows.map(|row| u8::from(array.is_valid(row)))));
        }
        if kind.fixed(1).is_none() {
            words[5] = align(&mut out)?;
            out.resize(out.len() + (rows + 1) * 4, 0);
            words[3] = align(&mut out)?;
            // The first offset is 0, as it is there already.
            let mut offset = words[5] as usize + 4;
            for (array, rows) in arrays() {
                variable(data_type, array, rows, &mut out, (&mut offset, words[3] as usize))?;
            }
        } else {
            words[3] = align(&mut out)?;
            arrays().for_each(|(array, rows)| fixed(data_type, array, rows, &mut out));
        }
        words[4] = u32::try_from(out.len() - words[3] as usize).map_err(|_| too_large())?;
        if let KalamDataType::Embedding(n) = data_type {
            words[6] = *n;
        }
        let entry = &mut out[HEADER + i * COLUMN..HEADER + (i + 1) * COLUMN];
        entry.chunks_exact_mut(4).zip(words).for_each(|(slot, word)| slot.copy_from_slice(&word.to_le_bytes()));
    }
    Ok(out)
}

fn align(out: &mut Vec<u8>) -> Result<u32> {
    out.resize(out.len().next_multiple_of(8), 0);
    u32::try_from(out.len()).map_err(|_| too_large())
}

fn too_large() -> KalamError {
    KalamError::new(ErrorCode::OutOfMemory, "a part of the result is larger than 4 GiB")
        .with_hint("Select fewer columns, or page through the rows with LIMIT.")
}

/// Null slots hold zeros, so that a reader that forgets the validity reads nothing stale.
fn fixed(data_type: &KalamDataType, array: &ArrayRef, rows: Range<usize>, out: &mut Vec<u8>) {
    use KalamDataType as T;
    macro_rules! primitive {
        ($t:ty, $as:ty) => {{
            let values = array.as_primitive::<$t>();
            match values.nulls() {
                None => out.extend(values.values()[rows].iter().flat_map(|v| <$as>::from(*v).to_le_bytes())),
                Some(nulls) => out.extend(rows.flat_map(|row| {
                    let value = if nulls.is_valid(row) { <$as>::from(values.value(row)) } else { 0 as $as };
                    value.to_le_bytes()
                })),
            }
        }};
    }
    match data_type {
        T::Boolean => {
            let values = array.as_boolean();
            out.extend(rows.map(|row| u8::from(values.is_valid(row) && values.value(row))));
        }
        T::SmallInt => primitive!(Int16Type, i32),
        T::Int => primitive!(Int32Type, i32),
        T::Date => primitive!(Date32Type, i32),
        T::BigInt => primitive!(Int64Type, i64),
        T::Float => primitive!(Float32Type, f64),
        T::Double => primitive!(Float64Type, f64),
        T::Timestamp | T::DateTime => primitive!(TimestampMicrosecondType, i64),
        T::Uuid => {
            let values = array.as_fixed_size_binary();
            for row in rows {
                out.extend_from_slice(if values.is_valid(row) { values.value(row) } else { &[0; 16] });
            }
        }
        T::Embedding(n) => {
            let lists = array.as_fixed_size_list();
            for row in rows {
                if lists.is_valid(row) {
                    let item = lists.value(row);
                    out.extend(item.as_primitive::<Float32Type>().values().iter().flat_map(|v| v.to_le_bytes()));
                } else {
                    out.resize(out.len() + *n as usize * 4, 0);
                }
            }
        }
        T::Text | T::File | T::Json | T::Bytes | T::Decimal { .. } | T::Time => {}
    }
}

/// Appends values, whose bytes begin at `data`, and writes where each ends to `offset`, which moves on.
fn variable(
    data_type: &KalamDataType,
    array: &ArrayRef,
    rows: Range<usize>,
    out: &mut Vec<u8>,
    (offset, data): (&mut usize, usize),
) -> Result<()> {
    use KalamDataType as T;
    let mut ends = |out: &mut Vec<u8>| {
        let end = u32::try_from(out.len() - data).map_err(|_| too_large())?;
        out[*offset..*offset + 4].copy_from_slice(&end.to_le_bytes());
        *offset += 4;
        Ok(())
    };
    macro_rules! bytes {
        ($values:expr) => {{
            let values = $values;
            for row in rows {
                if values.is_valid(row) {
                    out.extend_from_slice(values.value(row).as_ref());
                }
                ends(out)?;
            }
        }};
    }
    match data_type {
        T::Bytes => bytes!(array.as_binary::<i32>()),
        T::Text | T::File | T::Json => bytes!(array.as_string::<i32>()),
        _ => {
            for row in rows {
                if array.is_valid(row) {
                    out.extend_from_slice(Value::from_array(array.as_ref(), row, data_type)?.to_text().as_bytes());
                }
                ends(out)?;
            }
        }
    }
    Ok(())
}

fn malformed(what: impl std::fmt::Display) -> KalamError {
    KalamError::new(ErrorCode::InvalidData, format!("the packed rows are malformed: {what}"))
}

/// Unpacks a buffer into arrays of the given columns, converted by the rules of assignment.
pub fn decode(buffer: &[u8], columns: &[(&str, KalamDataType)]) -> Result<(Vec<ArrayRef>, usize)> {
    let word = |at: usize| -> Result<u32> {
        let bytes = buffer.get(at..at + 4).and_then(|b| b.first_chunk::<4>());
        bytes.map(|b| u32::from_le_bytes(*b)).ok_or_else(|| malformed("the header ends early"))
    };
    if word(0)? != MAGIC {
        return Err(malformed("they do not start with 'KPR1'"));
    }
    let (count, rows) = (word(4)? as usize, word(8)? as usize);
    if count != columns.len() {
        return Err(malformed(format_args!("{count} columns, expected {}", columns.len())));
    }
    let mut arrays = Vec::with_capacity(count);
    for (i, (name, data_type)) in columns.iter().enumerate() {
        let mut words = [0u32; 8];
        for (w, slot) in words.iter_mut().enumerate() {
            *slot = word(HEADER + i * COLUMN + w * 4)?;
        }
        let packed = Packed { buffer, words, rows };
        let array = packed.array().map_err(|e| e.in_context(format_args!("column '{name}'")))?;
        arrays.push(coerce_array(&array, data_type, name)?);
    }
    Ok((arrays, rows))
}

/// Unpacks rows of named columns of a table; without columns, rows of defaults only.
pub fn decode_rows(buffer: &[u8], names: &[String], definition: &TableDefinition) -> Result<RecordBatch> {
    let columns = names
        .iter()
        .map(|name| {
            let column = definition.column(name).ok_or_else(|| {
                KalamError::new(
                    ErrorCode::ColumnNotFound,
                    format!("column '{name}' of '{}' does not exist", definition.table_id),
                )
            })?;
            Ok((name.as_str(), column.data_type))
        })
        .collect::<Result<Vec<_>>>()?;
    let (arrays, rows) = decode(buffer, &columns)?;
    let fields: Vec<_> = columns.iter().map(|(name, t)| t.arrow_field(name, true, 0)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options).map_err(KalamError::internal)
}

struct Packed<'a> {
    buffer: &'a [u8],
    words: [u32; 8],
    rows: usize,
}

impl Packed<'_> {
    fn section(&self, offset: u32, bytes: usize) -> Result<&[u8]> {
        let start = offset as usize;
        start
            .checked_add(bytes)
            .and_then(|end| self.buffer.get(start..end))
            .ok_or_else(|| malformed(format_args!("{bytes} bytes at {start}, but there are {}", self.buffer.len())))
    }

    fn rows_of(&self, width: usize) -> Result<&[u8]> {
        let bytes = self.rows.checked_mul(width).ok_or_else(|| malformed("too many rows"))?;
        self.section(self.words[3], bytes)
    }

    fn array(&self) -> Result<ArrayRef> {
        let kind = Kind::from_number(self.words[0]).ok_or_else(|| malformed(format_args!("kind {}", self.words[0])))?;
        let nulls = if self.words[1] & 1 != 0 {
            let valid = self.section(self.words[2], self.rows)?;
            Some(NullBuffer::new(BooleanBuffer::collect_bool(self.rows, |row| valid[row] != 0)))
        } else {
            None
        };
        // Copied into an aligned buffer of Arrow's own.
        let scalars = |width: usize| self.rows_of(width).map(Buffer::from);
        Ok(match kind {
            Kind::Bool => {
                let bytes = self.rows_of(1)?;
                Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(self.rows, |row| bytes[row] != 0), nulls))
            }
            Kind::Int32 => Arc::new(Int32Array::new(ScalarBuffer::new(scalars(4)?, 0, self.rows), nulls)),
            Kind::Int64 => Arc::new(Int64Array::new(ScalarBuffer::new(scalars(8)?, 0, self.rows), nulls)),
            Kind::Float64 => Arc::new(Float64Array::new(ScalarBuffer::new(scalars(8)?, 0, self.rows), nulls)),
            Kind::Timestamp => {
                let values = ScalarBuffer::new(scalars(8)?, 0, self.rows);
                Arc::new(arrow::array::TimestampMicrosecondArray::new(values, nulls).with_timezone("UTC"))
            }
            Kind::Date => Arc::new(arrow::array::Date32Array::new(ScalarBuffer::new(scalars(4)?, 0, self.rows), nulls)),
            Kind::Uuid => {
                Arc::new(arrow::array::FixedSizeBinaryArray::try_new(16, scalars(16)?, nulls).map_err(malformed)?)
            }
            Kind::Embedding => self.embedding(nulls)?,
            Kind::Utf8 | Kind::Json | Kind::Bytes => self.variable(kind, nulls)?,
        })
    }

    fn embedding(&self, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        let width = self.words[6] as usize;
        let data_type = KalamDataType::embedding(self.words[6])?;
        let bytes = width.checked_mul(4).ok_or_else(|| malformed("an embedding is too wide"))?;
        let values = Buffer::from(self.rows_of(bytes)?);
        let items = arrow::array::Float32Array::new(ScalarBuffer::new(values, 0, self.rows * width), None);
        let DataType::FixedSizeList(field, n) = data_type.arrow_type() else {
            return Err(KalamError::internal("an embedding is a list of fixed size"));
        };
        let lists = arrow::array::FixedSizeListArray::try_new(field, n, Arc::new(items), nulls);
        Ok(Arc::new(lists.map_err(malformed)?))
    }

    fn variable(&self, kind: Kind, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        let bytes = self.section(self.words[3], self.words[4] as usize)?;
        let offsets = self.section(self.words[5], (self.rows + 1) * 4)?;
        // What is above 2 GiB is negative, and so out of order.
        let offsets: ScalarBuffer<i32> = ScalarBuffer::new(Buffer::from(offsets), 0, self.rows + 1);
        let ordered = offsets.first() == Some(&0) && offsets.is_sorted();
        if !ordered || offsets.last().is_some_and(|&end| end as usize > bytes.len()) {
            return Err(malformed("the offsets of its text are not in order or reach too far"));
        }
        let offsets = OffsetBuffer::new(offsets);
        let values = Buffer::from(bytes);
        Ok(match kind {
            Kind::Bytes => Arc::new(BinaryArray::try_new(offsets, values, nulls).map_err(malformed)?),
            _ => Arc::new(StringArray::try_new(offsets, values, nulls).map_err(malformed)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ColumnBuilder;
    use proptest::prelude::*;

    fn rows(types: &[KalamDataType], values: &[Vec<Value>]) -> Rows {
        let fields: Vec<_> =
            types.iter().enumerate().map(|(i, t)| t.arrow_field(&format!("c{i}"), true, i as u32)).collect();
        let columns = types
            .iter()
            .enumerate()
            .map(|(i, t)| {
                let mut builder = ColumnBuilder::new(t, "c", values.len());
                for row in values {
                    builder.append(&row[i]).expect("a value of the type");
                }
                builder.finish()
            })
            .collect();
        Rows::one(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one length"))
    }

    #[test]
    fn every_type_comes_back() -> Result<()> {
        use KalamDataType as T;
        let types = [
            T::Boolean,
            T::Int,
            T::SmallInt,
            T::BigInt,
            T::Double,
            T::Float,
            T::Text,
            T::Timestamp,
            T::DateTime,
            T::Date,
            T::Time,
            T::Json,
            T::Bytes,
            T::Embedding(2),
            T::Uuid,
            T::Decimal { precision: 10, scale: 2 },
        ];
        let full = vec![
            Value::Boolean(true),
            Value::BigInt(-7),
            Value::BigInt(300),
            Value::BigInt(i64::MIN),
            Value::Double(-0.5),
            Value::Double(1.5),
            Value::Text("zażółć 🦀".into()),
            Value::Timestamp(1_700_000_000_123_456),
            Value::DateTime(-1),
            Value::Date(-719_162),
            Value::Time(86_399_999_999),
            Value::Json("{\"a\":[1]}".into()),
            Value::Bytes(vec![0, 255]),
            Value::Embedding(vec![1.0, -2.5]),
            Value::Uuid([7; 16]),
            Value::Decimal { unscaled: -1234, scale: 2 },
        ];
        let nulls = vec![Value::Null; types.len()];
        let rows = rows(&types, &[full.clone(), nulls.clone(), full]);
        let buffers = encode(&rows, &types)?;
        let columns: Vec<(&str, T)> = types.iter().map(|t| ("c", *t)).collect();
        let (arrays, count) = decode(&buffers[0], &columns)?;
        assert_eq!((buffers.len(), count), (1, 3));
        for (array, column) in arrays.iter().zip(rows.batches[0].columns()) {
            assert_eq!(array, column);
        }
        Ok(())
    }

    #[test]
    fn large_results_are_cut() -> Result<()> {
        let values: Vec<Vec<Value>> = (0..ROWS_PER_BUFFER as i64 + 5).map(|i| vec![Value::BigInt(i)]).collect();
        let buffers = encode(&rows(&[KalamDataType::BigInt], &values), &[KalamDataType::BigInt])?;
        let counts: Vec<usize> = buffers
            .iter()
            .map(|b| decode(b, &[("c", KalamDataType::BigInt)]).map(|(_, rows)| rows))
            .collect::<Result<_>>()?;
        assert_eq!(counts, [ROWS_PER_BUFFER, 5]);
        Ok(())
    }

    proptest! {
        #[test]
        fn outside_bytes_never_panic(texts: Vec<Option<String>>, at: prop::sample::Index, byte: u8) {
            let values: Vec<Vec<Value>> =
                texts.into_iter().map(|t| vec![t.map_or(Value::Null, Value::Text)]).collect();
            for buffer in encode(&rows(&[KalamDataType::Text], &values), &[KalamDataType::Text])? {
                let mut buffer = buffer;
                let at = at.index(buffer.len());
                buffer[at] = byte;
                let _ = decode(&buffer, &[("c", KalamDataType::Text)]);
            }
        }
    }
}
