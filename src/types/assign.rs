//! The assignment rules for one value: which values a column of a type takes, and as what.
//!
//! Invariant: these are PostgreSQL's assignment rules. Text is parsed as the column's type; a number goes into any
//! numeric type that has room for it; TIMESTAMP, DATETIME and DATE go into each other; every type goes into TEXT.
//! Anything else is DATATYPE_MISMATCH. JSON and EMBEDDING, which PostgreSQL has only as extensions of text, go into
//! each other as arrays of numbers. Columns of values (`coerce.rs`) follow the same rules.

use std::borrow::Cow;

use super::data_type::KalamDataType;
use super::value::Value;
use super::{datetime, scalar};
use crate::error::{ErrorCode, KalamError, Result};

/// "a BOOLEAN cannot be assigned to INT".
pub(super) fn mismatch(found: &str, ty: &KalamDataType) -> KalamError {
    let error =
        KalamError::new(ErrorCode::DatatypeMismatch, format!("the column is of type {ty}, but the value is {found}"));
    if matches!(ty, KalamDataType::Text) {
        return error;
    }
    error.with_hint(format!(
        "Convert it in the statement, for example with CASE or CAST, or give text that reads as {ty}."
    ))
}

fn refuse<T>(value: &Value, ty: &KalamDataType) -> Result<T> {
    Err(mismatch(&format!("{} {}", value.kind(), scalar::shorten(&value.to_text())), ty))
}

pub(super) fn to_bool(value: &Value) -> Result<bool> {
    match value {
        Value::Boolean(b) => Ok(*b),
        Value::Text(t) => scalar::parse_bool(t),
        other => refuse(other, &KalamDataType::Boolean),
    }
}

pub(super) fn to_int(value: &Value, ty: &KalamDataType) -> Result<i64> {
    match value {
        Value::BigInt(n) => scalar::check_int(*n, ty),
        Value::Double(x) => scalar::float_to_int(*x, ty),
        Value::Decimal { unscaled, scale } => scalar::decimal_to_int(*unscaled, *scale, ty),
        Value::Text(t) => scalar::parse_int(t, ty),
        other => refuse(other, ty),
    }
}

pub(super) fn to_double(value: &Value) -> Result<f64> {
    match value {
        Value::Double(x) => Ok(*x),
        Value::BigInt(n) => Ok(*n as f64),
        Value::Decimal { unscaled, scale } => Ok(scalar::decimal_to_f64(*unscaled, *scale)),
        Value::Text(t) => scalar::parse_f64(t),
        other => refuse(other, &KalamDataType::Double),
    }
}

pub(super) fn to_float(value: &Value) -> Result<f32> {
    match value {
        Value::Text(t) => scalar::parse_f32(t),
        Value::BigInt(n) => Ok(*n as f32),
        Value::Double(_) | Value::Decimal { .. } => scalar::f64_to_f32(to_double(value)?),
        other => refuse(other, &KalamDataType::Float),
    }
}

pub(super) fn to_decimal(value: &Value, precision: u8, scale: u8) -> Result<i128> {
    match value {
        Value::Decimal { unscaled, scale: from } => scalar::decimal_to_decimal(*unscaled, *from, precision, scale),
        Value::BigInt(n) => scalar::int_to_decimal(*n, precision, scale),
        Value::Double(x) => scalar::float_to_decimal(*x, precision, scale),
        Value::Text(t) => scalar::parse_decimal(t, precision, scale),
        other => refuse(other, &KalamDataType::Decimal { precision, scale }),
    }
}

pub(super) fn to_text(value: &Value) -> Cow<'_, str> {
    value.to_text()
}

pub(super) fn to_json_text<'a>(value: &'a Value, ty: &KalamDataType) -> Result<Cow<'a, str>> {
    match value {
        Value::Json(t) | Value::Text(t) => {
            // JSON that came as JSON was checked when it became that; an object for FILE was not.
            if matches!(value, Value::Text(_)) || matches!(ty, KalamDataType::File) {
                scalar::check_json(t, ty)?;
            }
            Ok(Cow::Borrowed(t))
        }
        Value::Embedding(v) if matches!(ty, KalamDataType::Json) => Ok(Cow::Owned(embedding_json(v))),
        other => refuse(other, ty),
    }
}

/// The array of an embedding, with the fewest digits that mean its 32-bit numbers; NaN and the infinities are text.
fn embedding_json(vector: &[f32]) -> String {
    let item = |x: &f32| if x.is_finite() { scalar::format_f32(*x) } else { format!("\"{}\"", scalar::format_f32(*x)) };
    format!("[{}]", vector.iter().map(item).collect::<Vec<_>>().join(","))
}

pub(super) fn to_bytes(value: &Value) -> Result<Cow<'_, [u8]>> {
    match value {
        Value::Bytes(b) => Ok(Cow::Borrowed(b)),
        Value::Uuid(b) => Ok(Cow::Borrowed(b)),
        Value::Text(t) => Ok(Cow::Owned(scalar::parse_bytes(t)?)),
        other => refuse(other, &KalamDataType::Bytes),
    }
}

pub(super) fn to_uuid(value: &Value) -> Result<[u8; 16]> {
    match value {
        Value::Uuid(b) => Ok(*b),
        Value::Bytes(b) => {
            <[u8; 16]>::try_from(b.as_slice()).map_err(|_| scalar::invalid(&value.to_text(), &KalamDataType::Uuid))
        }
        Value::Text(t) => scalar::parse_uuid(t),
        other => refuse(other, &KalamDataType::Uuid),
    }
}

/// Microseconds for TIMESTAMP or, with `zoned`, DATETIME. A TIMESTAMP is taken to be in UTC.
pub(super) fn to_moment(value: &Value, zoned: bool) -> Result<i64> {
    let ty = if zoned { KalamDataType::DateTime } else { KalamDataType::Timestamp };
    match value {
        Value::Timestamp(us) | Value::DateTime(us) => Ok(*us),
        Value::Date(days) => {
            datetime::day_to_us(*days).ok_or_else(|| scalar::out_of_range(datetime::format_date(*days), &ty))
        }
        Value::Text(t) => datetime::parse_datetime(t, zoned),
        other => refuse(other, &ty),
    }
}

pub(super) fn to_date(value: &Value) -> Result<i32> {
    match value {
        Value::Date(days) => Ok(*days),
        Value::Timestamp(us) | Value::DateTime(us) => Ok(datetime::us_to_day(*us)),
        Value::Text(t) => datetime::parse_date(t),
        other => refuse(other, &KalamDataType::Date),
    }
}

pub(super) fn to_time(value: &Value) -> Result<i64> {
    match value {
        Value::Time(us) => Ok(*us),
        Value::Timestamp(us) | Value::DateTime(us) => Ok(datetime::us_to_time(*us)),
        Value::Text(t) => datetime::parse_time(t),
        other => refuse(other, &KalamDataType::Time),
    }
}

pub(super) fn to_embedding(value: &Value, dimension: u32) -> Result<Cow<'_, [f32]>> {
    let vector = match value {
        Value::Embedding(v) => Cow::Borrowed(v.as_slice()),
        Value::Text(t) | Value::Json(t) => Cow::Owned(scalar::parse_embedding(t, dimension)?),
        other => return refuse(other, &KalamDataType::Embedding(dimension)),
    };
    scalar::check_dimension(&vector, dimension)?;
    Ok(vector)
}

impl Value {
    /// The value as a column of a type takes it, by the assignment rules; NULL stays NULL.
    pub fn coerce(&self, ty: &KalamDataType) -> Result<Value> {
        use KalamDataType as T;
        if self.is_null() {
            return Ok(Value::Null);
        }
        Ok(match ty {
            T::Boolean => Value::Boolean(to_bool(self)?),
            T::SmallInt | T::Int | T::BigInt => Value::BigInt(to_int(self, ty)?),
            T::Double => Value::Double(to_double(self)?),
            T::Float => Value::Double(to_float(self)?.into()),
            T::Decimal { precision, scale } => {
                Value::Decimal { unscaled: to_decimal(self, *precision, *scale)?, scale: *scale }
            }
            T::Text => Value::Text(to_text(self).into_owned()),
            T::File => Value::Text(to_json_text(self, ty)?.into_owned()),
            T::Json => Value::Json(to_json_text(self, ty)?.into_owned()),
            T::Bytes => Value::Bytes(to_bytes(self)?.into_owned()),
            T::Uuid => Value::Uuid(to_uuid(self)?),
            T::Timestamp => Value::Timestamp(to_moment(self, false)?),
            T::DateTime => Value::DateTime(to_moment(self, true)?),
            T::Date => Value::Date(to_date(self)?),
            T::Time => Value::Time(to_time(self)?),
            T::Embedding(n) => Value::Embedding(to_embedding(self, *n)?.into_owned()),
        })
    }
}
