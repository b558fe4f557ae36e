//! The column types: their wire tags, their Arrow form and what they can be used for.
//!
//! Invariant: a type has exactly one Arrow type, and the Arrow field carries the type's SQL name in its metadata, so
//! types that share an Arrow type (TEXT, JSON, FILE) come back from a field without loss. Wire tags are never
//! renumbered: they are written to disk.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{ErrorCode, KalamError, Result};

/// Metadata key of an Arrow field: the SQL name of the column's type.
pub const TYPE_KEY: &str = "kalam_data_type";
/// Metadata key of an Arrow field: the column id, which Parquet keeps as the field id.
pub const FIELD_ID_KEY: &str = "PARQUET:field_id";
/// The greatest dimension of an EMBEDDING.
pub const MAX_EMBEDDING_DIMENSION: u32 = 8192;
/// The greatest precision of a DECIMAL.
pub const MAX_DECIMAL_PRECISION: u8 = 38;

/// Metadata key and values of Arrow's own extension types, which other programs write.
const EXTENSION_KEY: &str = "ARROW:extension:name";

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KalamDataType {
    /// TRUE or FALSE.
    Boolean,
    /// 32-bit integer.
    Int,
    /// 64-bit integer.
    BigInt,
    /// 64-bit floating point.
    Double,
    /// 32-bit floating point.
    Float,
    /// UTF-8 text.
    Text,
    /// Date and time without a zone, in microseconds.
    Timestamp,
    /// Calendar date.
    Date,
    /// A moment: date and time in UTC, in microseconds.
    DateTime,
    /// Time of day, in microseconds.
    Time,
    /// JSON text.
    Json,
    /// Bytes.
    Bytes,
    /// A vector of 32-bit floating point numbers, of the dimension given.
    Embedding(u32),
    /// A UUID.
    Uuid,
    /// An exact number.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: u8,
    },
    /// 16-bit integer.
    SmallInt,
    /// A reference to a file, as JSON.
    File,
}

impl KalamDataType {
    /// Appends the wire form: a tag, then the parameters (u32 little endian for EMBEDDING; precision and scale, a
    /// byte each, for DECIMAL).
    pub fn encode_wire(&self, out: &mut Vec<u8>) {
        out.push(self.tag());
        match self {
            Self::Embedding(dimension) => out.extend_from_slice(&dimension.to_le_bytes()),
            Self::Decimal { precision, scale } => out.extend_from_slice(&[*precision, *scale]),
            _ => {}
        }
    }

    /// Reads the wire form from the start of `bytes`; returns the type and how many bytes it took.
    pub fn decode_wire(bytes: &[u8]) -> Result<(Self, usize)> {
        let damaged = |what: String| KalamError::new(ErrorCode::DataCorrupted, format!("a stored column type {what}"));
        let Some((&tag, rest)) = bytes.split_first() else {
            return Err(damaged("is missing".into()));
        };
        let short =
            |n: usize| damaged(format!("of tag 0x{tag:02X} has {} bytes after the tag, expected {n}", rest.len()));
        let ty = match tag {
            0x01 => Self::Boolean,
            0x02 => Self::Int,
            0x03 => Self::BigInt,
            0x04 => Self::Double,
            0x05 => Self::Float,
            0x06 => Self::Text,
            0x07 => Self::Timestamp,
            0x08 => Self::Date,
            0x09 => Self::DateTime,
            0x0A => Self::Time,
            0x0B => Self::Json,
            0x0C => Self::Bytes,
            0x0D => {
                let dimension = rest.first_chunk::<4>().ok_or_else(|| short(4))?;
                Self::embedding(u32::from_le_bytes(*dimension))
                    .map_err(|e| damaged(format!("is not valid: {}", e.message())))?
            }
            0x0E => Self::Uuid,
            0x0F => {
                let [precision, scale] = *rest.first_chunk::<2>().ok_or_else(|| short(2))?;
                Self::decimal(precision.into(), scale.into())
                    .map_err(|e| damaged(format!("is not valid: {}", e.message())))?
            }
            0x10 => Self::SmallInt,
            0x11 => Self::File,
            _ => {
                return Err(damaged(format!("has tag 0x{tag:02X}, expected 0x01 to 0x11"))
                    .with_hint("It may have been written by a later version of KalamDB. Update the package."));
            }
        };
        let used = match ty {
            Self::Embedding(_) => 5,
            Self::Decimal { .. } => 3,
            _ => 1,
        };
        Ok((ty, used))
    }

    fn tag(&self) -> u8 {
        match self {
            Self::Boolean => 0x01,
            Self::Int => 0x02,
            Self::BigInt => 0x03,
            Self::Double => 0x04,
            Self::Float => 0x05,
            Self::Text => 0x06,
            Self::Timestamp => 0x07,
            Self::Date => 0x08,
            Self::DateTime => 0x09,
            Self::Time => 0x0A,
            Self::Json => 0x0B,
            Self::Bytes => 0x0C,
            Self::Embedding(_) => 0x0D,
            Self::Uuid => 0x0E,
            Self::Decimal { .. } => 0x0F,
            Self::SmallInt => 0x10,
            Self::File => 0x11,
        }
    }

    /// EMBEDDING of a dimension, checked.
    pub fn embedding(dimension: u32) -> Result<Self> {
        if (1..=MAX_EMBEDDING_DIMENSION).contains(&dimension) {
            return Ok(Self::Embedding(dimension));
        }
        Err(KalamError::new(
            ErrorCode::InvalidDefinition,
            format!("EMBEDDING has dimension {dimension}, expected 1 to {MAX_EMBEDDING_DIMENSION}"),
        ))
    }

    /// DECIMAL of a precision and scale, checked.
    pub fn decimal(precision: u64, scale: i64) -> Result<Self> {
        let fits = u8::try_from(precision).ok().filter(|p| (1..=MAX_DECIMAL_PRECISION).contains(p));
        if let (Some(precision), Ok(scale)) = (fits, u8::try_from(scale))
            && scale <= precision
        {
            return Ok(Self::Decimal { precision, scale });
        }
        Err(KalamError::new(
            ErrorCode::InvalidDefinition,
            format!(
                "DECIMAL({precision},{scale}) is not valid: the precision must be 1 to {MAX_DECIMAL_PRECISION} and the scale 0 to the precision"
            ),
        ))
    }

    /// The Arrow type of a column.
    pub fn arrow_type(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::SmallInt => DataType::Int16,
            Self::Int => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Float => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Text | Self::Json | Self::File => DataType::Utf8,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::DateTime => DataType::Timestamp(TimeUnit::Microsecond, Some(utc())),
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Bytes => DataType::Binary,
            Self::Embedding(n) => DataType::FixedSizeList(embedding_item(), *n as i32),
            Self::Uuid => DataType::FixedSizeBinary(16),
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale as i8),
        }
    }

    /// The Arrow field of a column: with its type's name and its column id in the metadata.
    pub fn arrow_field(&self, name: &str, nullable: bool, column_id: u32) -> Field {
        Field::new(name, self.arrow_type(), nullable).with_metadata(HashMap::from([
            (TYPE_KEY.to_owned(), self.sql_name().into_owned()),
            (FIELD_ID_KEY.to_owned(), column_id.to_string()),
        ]))
    }

    /// The field of a column in a query plan: its metadata tells only what its Arrow type does not. DataFusion compares
    /// metadata where it joins columns of different origins (recursive queries, set operations), and what nobody
    /// needs must not keep them apart.
    pub fn plan_field(&self, name: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.arrow_type(), nullable);
        match self {
            Self::Json | Self::File => {
                field.with_metadata(HashMap::from([(TYPE_KEY.to_owned(), self.sql_name().into_owned())]))
            }
            _ => field,
        }
    }

    /// The type of an Arrow field: the one its metadata names if that fits the field's Arrow type, else the type
    /// that holds its values with the least loss (none, except nanoseconds, and structure that becomes JSON).
    pub fn from_arrow_field(field: &Field) -> Result<Self> {
        let nearest = Self::nearest(field.data_type());
        if let Some(named) = field.metadata().get(TYPE_KEY).and_then(|name| Self::parse(name).ok()) {
            // JSON over Utf8View fits too: what counts is that both are held by the same type.
            if &named.arrow_type() == field.data_type()
                || nearest.as_ref().ok() == Self::nearest(&named.arrow_type()).ok().as_ref()
            {
                return Ok(named);
            }
        }
        match field.metadata().get(EXTENSION_KEY).map(String::as_str) {
            Some("arrow.json") if matches!(nearest, Ok(Self::Text)) => return Ok(Self::Json),
            Some("arrow.opaque") => return Ok(Self::Bytes),
            _ => {}
        }
        nearest.map_err(|e| e.in_context(format_args!("column '{}'", field.name())))
    }

    fn nearest(ty: &DataType) -> Result<Self> {
        let decimal = |precision: u8, scale: i8| match scale {
            0.. => Self::decimal(precision.max(scale as u8).into(), scale.into()),
            // A negative scale means trailing zeros: they become digits.
            _ => Self::decimal(u64::from(precision) + u64::from(scale.unsigned_abs()), 0),
        };
        let unsupported = || {
            KalamError::new(
                ErrorCode::TypeNotFound,
                format!("the Arrow type {ty} has no column type that holds its values"),
            )
            .with_hint(format!("Cast the column before it is read. The types are {}.", super::names::KNOWN))
        };
        Ok(match ty {
            DataType::Boolean => Self::Boolean,
            DataType::Int8 | DataType::Int16 | DataType::UInt8 => Self::SmallInt,
            DataType::Int32 | DataType::UInt16 => Self::Int,
            DataType::Int64 | DataType::UInt32 => Self::BigInt,
            DataType::UInt64 => Self::Decimal { precision: 20, scale: 0 },
            DataType::Float16 | DataType::Float32 => Self::Float,
            DataType::Float64 => Self::Double,
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::Duration(_) | DataType::Interval(_) => Self::Text,
            DataType::Timestamp(_, None) => Self::Timestamp,
            DataType::Timestamp(_, Some(_)) => Self::DateTime,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Time32(_) | DataType::Time64(_) => Self::Time,
            DataType::FixedSizeBinary(16) => Self::Uuid,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Self::Bytes
            }
            DataType::FixedSizeList(item, n)
                if item.data_type() == &DataType::Float32 && (1..=MAX_EMBEDDING_DIMENSION as i32).contains(n) =>
            {
                Self::Embedding(*n as u32)
            }
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) => decimal(*p, *s)?,
            DataType::Decimal256(p, s) => decimal(*p, *s).map_err(|_| unsupported())?,
            DataType::Dictionary(_, value) => Self::nearest(value)?,
            DataType::RunEndEncoded(_, value) => Self::nearest(value.data_type())?,
            DataType::List(_)
            | DataType::LargeList(_)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
            | DataType::FixedSizeList(_, _)
            | DataType::Struct(_)
            | DataType::Map(_, _) => Self::Json,
            DataType::Union(_, _) => return Err(unsupported()),
        })
    }

    /// The SQL name: `BIGINT`, `DECIMAL(10,2)`, `EMBEDDING(3)`.
    pub fn sql_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Boolean => "BOOLEAN",
            Self::Int => "INT",
            Self::BigInt => "BIGINT",
            Self::Double => "DOUBLE",
            Self::Float => "FLOAT",
            Self::Text => "TEXT",
            Self::Timestamp => "TIMESTAMP",
            Self::Date => "DATE",
            Self::DateTime => "DATETIME",
            Self::Time => "TIME",
            Self::Json => "JSON",
            Self::Bytes => "BYTES",
            Self::Uuid => "UUID",
            Self::SmallInt => "SMALLINT",
            Self::File => "FILE",
            Self::Embedding(n) => return Cow::Owned(format!("EMBEDDING({n})")),
            Self::Decimal { precision, scale } => return Cow::Owned(format!("DECIMAL({precision},{scale})")),
        })
    }

    /// Whether a column of this type can be part of a primary or unique key: its values have an order and an
    /// equality that people expect.
    pub fn can_be_key(&self) -> bool {
        !matches!(self, Self::Json | Self::Embedding(_) | Self::File)
    }

    /// Whether it is SMALLINT, INT or BIGINT.
    pub fn is_integer(&self) -> bool {
        matches!(self, Self::SmallInt | Self::Int | Self::BigInt)
    }

    /// Whether it is a type of numbers.
    pub fn is_numeric(&self) -> bool {
        self.is_integer() || matches!(self, Self::Float | Self::Double | Self::Decimal { .. })
    }

    /// Whether a value of this type may be assigned to a column of type `to`, as far as the types tell; a single
    /// value can still be out of range or not parse.
    pub fn assignable_to(&self, to: &Self) -> bool {
        use KalamDataType as T;
        match (self, to) {
            (a, b) if a == b => true,
            (_, T::Text) | (T::Text, _) => true,
            (a, b) if a.is_numeric() && b.is_numeric() => true,
            (T::Timestamp | T::DateTime, T::Timestamp | T::DateTime | T::Date | T::Time) => true,
            (T::Date, T::Timestamp | T::DateTime) => true,
            (T::Json, T::File) | (T::File, T::Json) => true,
            (T::Json, T::Embedding(_)) | (T::Embedding(_), T::Json) => true,
            (T::Uuid, T::Bytes) | (T::Bytes, T::Uuid) => true,
            _ => false,
        }
    }

    /// Whether every value of this type has an equal one in `to`, so that a change of a column's type needs no look
    /// at its rows.
    pub fn widens_to(&self, to: &Self) -> bool {
        use KalamDataType as T;
        match (self, to) {
            (a, b) if a == b => true,
            (_, T::Text) => true,
            (T::SmallInt, T::Int | T::BigInt | T::Float | T::Double) => true,
            (T::Int, T::BigInt | T::Double) => true,
            (T::Float, T::Double) => true,
            (T::SmallInt, T::Decimal { precision, scale }) => precision - scale >= 5,
            (T::Int, T::Decimal { precision, scale }) => precision - scale >= 10,
            (T::BigInt, T::Decimal { precision, scale }) => precision - scale >= 19,
            (T::Decimal { precision, scale }, T::Decimal { precision: p, scale: s }) => {
                s >= scale && p - s >= precision - scale
            }
            (T::File, T::Json) | (T::Embedding(_), T::Json) | (T::Uuid, T::Bytes) => true,
            (T::Timestamp, T::DateTime) | (T::DateTime, T::Timestamp) => true,
            _ => false,
        }
    }
}

impl fmt::Display for KalamDataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sql_name())
    }
}

impl Serialize for KalamDataType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.sql_name())
    }
}

impl<'de> Deserialize<'de> for KalamDataType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&name).map_err(|e| serde::de::Error::custom(e.message()))
    }
}

/// The time zone of DATETIME columns, one allocation for all.
pub(super) fn utc() -> Arc<str> {
    static UTC: std::sync::OnceLock<Arc<str>> = std::sync::OnceLock::new();
    Arc::clone(UTC.get_or_init(|| Arc::from("UTC")))
}

/// The item field of EMBEDDING columns. Nullable, as in the lists that DataFusion's functions make; coercion refuses
/// a null element.
pub(super) fn embedding_item() -> Arc<Field> {
    static ITEM: std::sync::OnceLock<Arc<Field>> = std::sync::OnceLock::new();
    Arc::clone(ITEM.get_or_init(|| Arc::new(Field::new_list_field(DataType::Float32, true))))
}

#[cfg(test)]
#[path = "data_type_tests.rs"]
mod tests;
