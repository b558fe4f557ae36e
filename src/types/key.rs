//! Keys as bytes whose order is the order of the values.
//!
//! ```text
//! column   NULL: 00      else 01 and the value:
//! BOOLEAN  1 byte, 0 or 1
//! SMALLINT, INT, BIGINT  8 bytes, big endian, sign bit flipped
//! FLOAT, DOUBLE          8 bytes of the f64, big endian, flipped so that they sort; -0 is 0, NaN is the greatest
//! DECIMAL  16 bytes, big endian, sign bit flipped, at the column's scale
//! TEXT, BYTES            the bytes, each 00 as 00 FF, then 00 00
//! UUID     16 bytes
//! DATE     4 bytes, TIMESTAMP, DATETIME, TIME 8 bytes, big endian, sign bit flipped
//! ```
//!
//! Invariant: for two rows, comparing the encoded keys byte by byte gives the same as comparing the columns from the
//! left, NULL first; and no encoding is the prefix of another, so encodings concatenate. All integers have one
//! encoding and both floating point types have one, so widening a key column leaves stored keys as they are. The
//! encoding is written to disk and never changes.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes as arrow_types;
use arrow::datatypes::DataType;

use super::data_type::KalamDataType;
use super::value::Value;
use super::{assign, scalar};
use crate::error::{ErrorCode, KalamError, Result};

const NULL: u8 = 0;
const PRESENT: u8 = 1;

/// Encodes and decodes the keys of some columns; see the module's comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyCodec {
    types: Box<[KalamDataType]>,
}

impl KeyCodec {
    /// A codec for columns of these types.
    pub fn new(types: &[KalamDataType]) -> Result<Self> {
        if let Some(ty) = types.iter().find(|t| !t.can_be_key()) {
            return Err(KalamError::new(
                ErrorCode::InvalidDefinition,
                format!("a column of type {ty} cannot be part of a key"),
            ));
        }
        Ok(Self { types: types.into() })
    }

    /// The types of the columns.
    pub fn types(&self) -> &[KalamDataType] {
        &self.types
    }

    /// Appends the key of a row of columns, which stand in key order.
    pub fn encode(&self, columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) -> Result<()> {
        if columns.len() != self.types.len() {
            return Err(self.wrong_count(columns.len()));
        }
        self.types.iter().zip(columns).try_for_each(|(ty, column)| encode_any(ty, column, row, out))
    }

    /// The keys of the rows of columns, which stand in key order: for whoever encodes many.
    pub fn rows<'a>(&'a self, columns: &'a [ArrayRef]) -> Result<KeyRows<'a>> {
        if columns.len() != self.types.len() {
            return Err(self.wrong_count(columns.len()));
        }
        let typed = |(ty, column): (&KalamDataType, &'a ArrayRef)| match ty {
            _ if column.null_count() > 0 => KeyColumn::Other(column),
            KalamDataType::BigInt => column.as_primitive_opt().map_or(KeyColumn::Other(column), KeyColumn::BigInt),
            KalamDataType::Int => column.as_primitive_opt().map_or(KeyColumn::Other(column), KeyColumn::Int),
            KalamDataType::Text => column.as_string_opt().map_or(KeyColumn::Other(column), KeyColumn::Text),
            _ => KeyColumn::Other(column),
        };
        Ok(KeyRows { types: &self.types, columns: self.types.iter().zip(columns).map(typed).collect() })
    }

    /// Appends the key of some values, which stand in key order and have the columns' types: a number may be of
    /// another numeric type if it is the same number. Others are DATATYPE_MISMATCH.
    pub fn encode_values(&self, values: &[Value], out: &mut Vec<u8>) -> Result<()> {
        if values.len() != self.types.len() {
            return Err(self.wrong_count(values.len()));
        }
        for (ty, value) in self.types.iter().zip(values) {
            encode_value(ty, value, out)?;
        }
        Ok(())
    }

    fn wrong_count(&self, found: usize) -> KalamError {
        KalamError::internal(format_args!("a key of {found} columns, expected {}", self.types.len()))
    }

    /// The values of a key.
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<Value>> {
        let mut rest = bytes;
        let mut values = Vec::with_capacity(self.types.len());
        for ty in &self.types {
            values.push(decode_value(ty, &mut rest).ok_or_else(|| damaged(bytes, ty))?);
        }
        if rest.is_empty() { Ok(values) } else { Err(damaged(bytes, "its end")) }
    }
}

/// The keys of many rows: what type a column has was found out once. See [`KeyCodec::rows`].
#[derive(Debug)]
pub struct KeyRows<'a> {
    types: &'a [KalamDataType],
    columns: Vec<KeyColumn<'a>>,
}

/// A column without NULL of one of the types that most keys have, or any.
#[derive(Debug)]
enum KeyColumn<'a> {
    BigInt(&'a arrow::array::Int64Array),
    Int(&'a arrow::array::Int32Array),
    Text(&'a arrow::array::StringArray),
    Other(&'a ArrayRef),
}

impl KeyRows<'_> {
    /// How many of so many rows, which `row` gives in the order of their keys, have a key below another.
    pub fn below(&self, other: &[u8], rows: usize, row: impl Fn(usize) -> usize) -> Result<usize> {
        let (mut low, mut high, mut key) = (0, rows, Vec::with_capacity(other.len()));
        while low < high {
            let middle = low + (high - low) / 2;
            key.clear();
            self.encode(row(middle), &mut key)?;
            if key.as_slice() < other { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// Appends the key of a row: the same bytes as [`KeyCodec::encode`] gives.
    pub fn encode(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        for (ty, column) in self.types.iter().zip(&self.columns) {
            match column {
                KeyColumn::BigInt(column) => put(out, flip64(column.value(row))),
                KeyColumn::Int(column) => put(out, flip64(column.value(row).into())),
                KeyColumn::Text(column) => put_bytes(out, column.value(row).as_bytes()),
                KeyColumn::Other(column) => encode_any(ty, column, row, out)?,
            }
        }
        Ok(())
    }
}

fn damaged(bytes: &[u8], at: impl std::fmt::Display) -> KalamError {
    KalamError::new(
        ErrorCode::DataCorrupted,
        format!("the stored key {} does not decode: at {at}", scalar::shorten(&scalar::format_bytes(bytes))),
    )
}

fn flip64(n: i64) -> [u8; 8] {
    (n as u64 ^ 1 << 63).to_be_bytes()
}

fn flip_float(x: f64) -> [u8; 8] {
    // One NaN above all, one zero.
    let bits = if x.is_nan() { f64::NAN.to_bits() & !(1 << 63) } else { (x + 0.0).to_bits() };
    (if bits >> 63 == 1 { !bits } else { bits ^ 1 << 63 }).to_be_bytes()
}

fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.push(PRESENT);
    out.extend_from_slice(&bytes);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + 3);
    out.push(PRESENT);
    let mut rest = bytes;
    while let Some(zero) = rest.iter().position(|b| *b == 0) {
        out.extend_from_slice(&rest[..=zero]);
        out.push(0xFF);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, 0]);
}

fn encode_any(ty: &KalamDataType, column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<()> {
    if column.is_null(row) {
        out.push(NULL);
    } else if encode_row(ty, column.as_ref(), row, out).is_none() {
        // Another Arrow form of the type, such as a dictionary.
        encode_value(ty, &Value::from_array(column.as_ref(), row, ty)?, out)?;
    }
    Ok(())
}

/// Appends a value that is not NULL; `None`, and nothing appended, if the array is not of the type's Arrow type.
fn encode_row(ty: &KalamDataType, column: &dyn Array, row: usize, out: &mut Vec<u8>) -> Option<()> {
    use KalamDataType as T;
    macro_rules! primitive {
        ($arrow:ident) => {
            column.as_primitive_opt::<arrow_types::$arrow>()?.value(row)
        };
    }
    match ty {
        T::BigInt => put(out, flip64(primitive!(Int64Type))),
        T::Int => put(out, flip64(primitive!(Int32Type).into())),
        T::SmallInt => put(out, flip64(primitive!(Int16Type).into())),
        T::Text => put_bytes(out, column.as_string_opt::<i32>()?.value(row).as_bytes()),
        T::Uuid => put::<16>(out, column.as_fixed_size_binary_opt()?.value(row).try_into().ok()?),
        T::Timestamp | T::DateTime => put(out, flip64(primitive!(TimestampMicrosecondType))),
        T::Date => put(out, (primitive!(Date32Type) as u32 ^ 1 << 31).to_be_bytes()),
        T::Time => put(out, flip64(primitive!(Time64MicrosecondType))),
        T::Double => put(out, flip_float(primitive!(Float64Type))),
        T::Float => put(out, flip_float(primitive!(Float32Type).into())),
        T::Boolean => put(out, [column.as_boolean_opt()?.value(row).into()]),
        T::Bytes => put_bytes(out, column.as_binary_opt::<i32>()?.value(row)),
        T::Decimal { scale, .. } => {
            let decimals = column.as_primitive_opt::<arrow_types::Decimal128Type>()?;
            if !matches!(decimals.data_type(), DataType::Decimal128(_, s) if *s == *scale as i8) {
                return None;
            }
            put(out, (decimals.value(row) as u128 ^ 1 << 127).to_be_bytes());
        }
        T::Json | T::File | T::Embedding(_) => return None,
    }
    Some(())
}

fn encode_value(ty: &KalamDataType, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    use KalamDataType as T;
    let refused = || assign::mismatch(&format!("the key {value}"), ty);
    match (ty, value) {
        (_, Value::Null) => out.push(NULL),
        (T::Boolean, Value::Boolean(b)) => put(out, [(*b).into()]),
        (T::SmallInt | T::Int | T::BigInt, Value::BigInt(n)) => put(out, flip64(*n)),
        (T::SmallInt | T::Int | T::BigInt, Value::Decimal { unscaled, scale }) => {
            let whole =
                scalar::rescale(*unscaled, *scale, 0).filter(|n| scalar::rescale(*n, 0, *scale) == Some(*unscaled));
            put(out, flip64(whole.and_then(|n| i64::try_from(n).ok()).ok_or_else(refused)?));
        }
        (T::Float | T::Double, Value::Double(x)) => put(out, flip_float(*x)),
        (T::Float | T::Double, Value::BigInt(n)) if (*n as f64) as i128 == i128::from(*n) => {
            put(out, flip_float(*n as f64))
        }
        (T::Decimal { scale, .. }, Value::Decimal { unscaled, scale: from }) => {
            let same = scalar::rescale(*unscaled, *from, *scale)
                .filter(|n| *scale >= *from || scalar::rescale(*n, *scale, *from) == Some(*unscaled));
            put(out, (same.ok_or_else(refused)? as u128 ^ 1 << 127).to_be_bytes());
        }
        (T::Decimal { scale, .. }, Value::BigInt(n)) => {
            let same = scalar::rescale((*n).into(), 0, *scale).ok_or_else(refused)?;
            put(out, (same as u128 ^ 1 << 127).to_be_bytes());
        }
        (T::Text, Value::Text(t)) => put_bytes(out, t.as_bytes()),
        (T::Bytes, Value::Bytes(b)) => put_bytes(out, b),
        (T::Uuid, Value::Uuid(b)) => put(out, *b),
        (T::Timestamp, Value::Timestamp(us)) | (T::DateTime, Value::DateTime(us)) | (T::Time, Value::Time(us)) => {
            put(out, flip64(*us))
        }
        (T::Date, Value::Date(days)) => put(out, (*days as u32 ^ 1 << 31).to_be_bytes()),
        _ => return Err(refused()),
    }
    Ok(())
}

fn decode_value(ty: &KalamDataType, rest: &mut &[u8]) -> Option<Value> {
    use KalamDataType as T;
    fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (head, tail) = rest.split_first_chunk::<N>()?;
        *rest = tail;
        Some(*head)
    }
    fn int(rest: &mut &[u8]) -> Option<i64> {
        Some((u64::from_be_bytes(take(rest)?) ^ 1 << 63) as i64)
    }
    fn bytes(rest: &mut &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let zero = rest.iter().position(|b| *b == 0)?;
            out.extend_from_slice(&rest[..zero]);
            let escape = *rest.get(zero + 1)?;
            *rest = &rest[zero + 2..];
            match escape {
                0 => return Some(out),
                0xFF => out.push(0),
                _ => return None,
            }
        }
    }
    match take::<1>(rest)? {
        [NULL] => return Some(Value::Null),
        [PRESENT] => {}
        _ => return None,
    }
    Some(match ty {
        T::Boolean => match take::<1>(rest)? {
            [b @ 0..=1] => Value::Boolean(b == 1),
            _ => return None,
        },
        T::SmallInt | T::Int | T::BigInt => Value::BigInt(int(rest)?),
        T::Float | T::Double => {
            let bits = u64::from_be_bytes(take(rest)?);
            Value::Double(f64::from_bits(if bits >> 63 == 1 { bits ^ 1 << 63 } else { !bits }))
        }
        T::Decimal { scale, .. } => {
            Value::Decimal { unscaled: (u128::from_be_bytes(take(rest)?) ^ 1 << 127) as i128, scale: *scale }
        }
        T::Text => Value::Text(String::from_utf8(bytes(rest)?).ok()?),
        T::Bytes => Value::Bytes(bytes(rest)?),
        T::Uuid => Value::Uuid(take(rest)?),
        T::Timestamp => Value::Timestamp(int(rest)?),
        T::DateTime => Value::DateTime(int(rest)?),
        T::Time => Value::Time(int(rest)?),
        T::Date => Value::Date((u32::from_be_bytes(take(rest)?) ^ 1 << 31) as i32),
        T::Json | T::File | T::Embedding(_) => return None,
    })
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
