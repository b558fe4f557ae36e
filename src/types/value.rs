//! One value of a column, outside of Arrow: for literals, parameters, defaults, keys and messages.
//!
//! Invariant: a value says what it is by its variant, not by its column: all integers are `BigInt`, FLOAT and DOUBLE
//! are `Double`, FILE is `Text`. The text of a value ([`Value::to_text`]) reads back to the same value when it is
//! assigned to its type, so text is how a value is kept in the catalog.

use std::borrow::Cow;
use std::fmt;

use arrow::array::{Array, ArrayRef, AsArray, make_array};
use arrow::datatypes as arrow_types;
use arrow::datatypes::DataType;
use serde_json::Value as Json;

use super::data_type::KalamDataType;
use super::{coerce, datetime, scalar};
use crate::error::{KalamError, Result};

/// A value.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// SQL NULL.
    #[default]
    Null,
    /// BOOLEAN.
    Boolean(bool),
    /// SMALLINT, INT or BIGINT.
    BigInt(i64),
    /// FLOAT or DOUBLE.
    Double(f64),
    /// DECIMAL: `unscaled` / 10^`scale`.
    Decimal {
        /// The digits as an integer.
        unscaled: i128,
        /// Digits after the point.
        scale: u8,
    },
    /// TEXT or FILE.
    Text(String),
    /// BYTES.
    Bytes(Vec<u8>),
    /// TIMESTAMP: microseconds since 1970-01-01 00:00, in no zone.
    Timestamp(i64),
    /// DATETIME: microseconds since the epoch.
    DateTime(i64),
    /// DATE: days since 1970-01-01.
    Date(i32),
    /// TIME: microseconds since midnight.
    Time(i64),
    /// UUID.
    Uuid([u8; 16]),
    /// JSON text.
    Json(String),
    /// EMBEDDING.
    Embedding(Vec<f32>),
}

impl Value {
    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The value of a row of a column. `ty` is the column's type; an array of another Arrow type is converted first,
    /// by the assignment rules.
    pub fn from_array(array: &dyn Array, row: usize, ty: &KalamDataType) -> Result<Value> {
        if row >= array.len() {
            return Err(KalamError::internal(format_args!("row {row} of an array of {} rows", array.len())));
        }
        if array.is_null(row) {
            return Ok(Value::Null);
        }
        match Self::direct(array, row, ty) {
            Some(value) => Ok(value),
            None => {
                let one: ArrayRef = make_array(array.to_data().slice(row, 1));
                let one = coerce::coerce_array(&one, ty, "?")?;
                if one.is_null(0) {
                    return Ok(Value::Null);
                }
                Self::direct(one.as_ref(), 0, ty)
                    .ok_or_else(|| KalamError::internal(format_args!("a column of {ty} is not {}", ty.arrow_type())))
            }
        }
    }

    /// The value if the array is of the type's own Arrow type.
    fn direct(array: &dyn Array, row: usize, ty: &KalamDataType) -> Option<Value> {
        use KalamDataType as T;
        macro_rules! primitive {
            ($arrow:ident) => {
                array.as_primitive_opt::<arrow_types::$arrow>()?.value(row)
            };
        }
        let text = || array.as_string_opt::<i32>().map(|a| a.value(row).to_owned());
        Some(match ty {
            T::Boolean => Value::Boolean(array.as_boolean_opt()?.value(row)),
            T::SmallInt => Value::BigInt(primitive!(Int16Type).into()),
            T::Int => Value::BigInt(primitive!(Int32Type).into()),
            T::BigInt => Value::BigInt(primitive!(Int64Type)),
            T::Float => Value::Double(primitive!(Float32Type).into()),
            T::Double => Value::Double(primitive!(Float64Type)),
            T::Decimal { scale, .. } => match array.data_type() {
                DataType::Decimal128(_, s) if *s == *scale as i8 => {
                    Value::Decimal { unscaled: primitive!(Decimal128Type), scale: *scale }
                }
                _ => return None,
            },
            T::Text | T::File => Value::Text(text()?),
            T::Json => Value::Json(text()?),
            T::Bytes => Value::Bytes(array.as_binary_opt::<i32>()?.value(row).to_vec()),
            T::Uuid => Value::Uuid(array.as_fixed_size_binary_opt()?.value(row).try_into().ok()?),
            T::Timestamp => Value::Timestamp(primitive!(TimestampMicrosecondType)),
            T::DateTime => Value::DateTime(primitive!(TimestampMicrosecondType)),
            T::Date => Value::Date(primitive!(Date32Type)),
            T::Time => Value::Time(primitive!(Time64MicrosecondType)),
            T::Embedding(n) => {
                let list = array.as_fixed_size_list_opt()?;
                if list.value_length() != *n as i32 {
                    return None;
                }
                let start = list.value_offset(row) as usize;
                let items = list.values().as_primitive_opt::<arrow_types::Float32Type>()?;
                Value::Embedding(items.values()[start..start + *n as usize].to_vec())
            }
        })
    }

    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "NULL",
            Value::Boolean(_) => "BOOLEAN",
            Value::BigInt(_) => "BIGINT",
            Value::Double(_) => "DOUBLE",
            Value::Decimal { .. } => "DECIMAL",
            Value::Text(_) => "TEXT",
            Value::Bytes(_) => "BYTES",
            Value::Timestamp(_) => "TIMESTAMP",
            Value::DateTime(_) => "DATETIME",
            Value::Date(_) => "DATE",
            Value::Time(_) => "TIME",
            Value::Uuid(_) => "UUID",
            Value::Json(_) => "JSON",
            Value::Embedding(_) => "EMBEDDING",
        }
    }

    /// The value as plain text, as a cast to TEXT gives it. NULL is empty.
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Value::Null => Cow::Borrowed(""),
            Value::Boolean(b) => Cow::Borrowed(if *b { "true" } else { "false" }),
            Value::Text(t) | Value::Json(t) => Cow::Borrowed(t),
            Value::BigInt(n) => Cow::Owned(n.to_string()),
            Value::Double(x) => Cow::Owned(scalar::format_f64(*x)),
            Value::Decimal { unscaled, scale } => Cow::Owned(scalar::format_decimal(*unscaled, *scale)),
            Value::Bytes(b) => Cow::Owned(scalar::format_bytes(b)),
            Value::Timestamp(us) => Cow::Owned(datetime::format_datetime(*us, false)),
            Value::DateTime(us) => Cow::Owned(datetime::format_datetime(*us, true)),
            Value::Date(days) => Cow::Owned(datetime::format_date(*days)),
            Value::Time(us) => Cow::Owned(datetime::format_time(*us)),
            Value::Uuid(b) => Cow::Owned(scalar::format_uuid(b)),
            Value::Embedding(v) => Cow::Owned(scalar::format_embedding(v)),
        }
    }

    /// The value as JSON. Nothing is rounded: BIGINT is an integer, DECIMAL text, NaN and the infinities text,
    /// BYTES text (`\x…`). JSON becomes what it says; numbers inside it are f64, as everywhere in JavaScript.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Boolean(b) => Json::Bool(*b),
            Value::BigInt(n) => Json::from(*n),
            Value::Double(x) => float_to_json(*x),
            Value::Json(t) => serde_json::from_str(t).unwrap_or_else(|_| Json::String(t.clone())),
            Value::Embedding(v) => v.iter().map(|x| float_to_json((*x).into())).collect(),
            other => Json::String(other.to_text().into_owned()),
        }
    }

    /// The value that JSON stands for in a column of a type; the inverse of [`Value::to_json`]. Besides that, what
    /// the assignment rules allow. JSON null is NULL.
    pub fn from_json(json: &Json, ty: &KalamDataType) -> Result<Value> {
        use KalamDataType as T;
        let value = match (json, ty) {
            (Json::Null, _) => return Ok(Value::Null),
            (_, T::Json) => return Ok(Value::Json(json.to_string())),
            (Json::Object(_), T::File) => return Ok(Value::Text(json.to_string())),
            (Json::Array(items), T::Embedding(n)) => {
                let read = |item: &Json| match item {
                    Json::Number(x) => scalar::f64_to_f32(x.as_f64().unwrap_or(f64::NAN)),
                    Json::String(t) => scalar::parse_f32(t),
                    other => Err(scalar::invalid(&other.to_string(), &T::Float)),
                };
                let vector = items.iter().map(read).collect::<Result<Vec<f32>>>();
                let vector =
                    vector.map_err(|e| e.in_context(format_args!("in {}", scalar::shorten(&json.to_string()))))?;
                scalar::check_dimension(&vector, *n)?;
                return Ok(Value::Embedding(vector));
            }
            (Json::Bool(b), _) => Value::Boolean(*b),
            (Json::Number(n), _) => match (n.as_i64(), n.as_u64()) {
                (Some(n), _) => Value::BigInt(n),
                (None, Some(n)) => Value::Decimal { unscaled: n.into(), scale: 0 },
                (None, None) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            (Json::String(t), _) => Value::Text(t.clone()),
            (Json::Array(_) | Json::Object(_), _) => Value::Json(json.to_string()),
        };
        value.coerce(ty)
    }
}

fn float_to_json(x: f64) -> Json {
    serde_json::Number::from_f64(x).map_or_else(|| Json::String(scalar::format_f64(x)), Json::Number)
}

/// As a SQL literal: text and what is written like it in quotes, numbers bare.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("NULL"),
            Value::Boolean(_) | Value::BigInt(_) | Value::Decimal { .. } => f.write_str(&self.to_text()),
            Value::Double(x) if x.is_finite() => f.write_str(&self.to_text()),
            other => write!(f, "'{}'", other.to_text().replace('\'', "''")),
        }
    }
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
