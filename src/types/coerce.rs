//! The assignment rules for a whole column: query results and files on their way into a table.
//!
//! Invariant: the result is what [`ColumnBuilder`] would have built from the same values one by one, and the error
//! is the one it would have given. An array that has the type already is handed on without a copy. Numbers and
//! moments go through tight loops over the values, text through the parsers, the rest value by value.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryBuilder, BooleanArray, FixedSizeListArray, Float32Array,
    PrimitiveArray, StringArray, StringBuilder, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal128Type, DecimalType, Field, Float32Type, Float64Type, Int16Type,
    Int32Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampNanosecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, make_encoder};
use arrow::util::display::FormatOptions;

use super::assign::mismatch;
use super::builder::{ColumnBuilder, located};
use super::data_type::{KalamDataType, embedding_item, utc};
use super::interval::format_interval;
use super::value::Value;
use super::{datetime, scalar};
use crate::error::{ErrorCode, KalamError, Result};

/// A column as a column of a type takes it; see the module's comment. Errors name the column, the row (from 1) and
/// the value.
pub fn coerce_array(array: &ArrayRef, ty: &KalamDataType, column: &str) -> Result<ArrayRef> {
    let target = ty.arrow_type();
    if array.data_type() == &target {
        match ty {
            KalamDataType::Json | KalamDataType::File => check_json_column(array.as_string(), ty, column)?,
            KalamDataType::Embedding(_) => check_elements(array.as_fixed_size_list(), ty, column)?,
            _ => {}
        }
        return Ok(Arc::clone(array));
    }
    if array.null_count() == array.len() || array.data_type() == &DataType::Null {
        return Ok(new_null_array(&target, array.len()));
    }
    let array = canonical(array, ty, column)?;
    if array.data_type() == &target {
        // Was another form of the same values: a dictionary, a view, a narrower number.
        return coerce_array(&array, ty, column);
    }
    match array.data_type() {
        DataType::Int64 if ty.is_numeric() => from_int(array.as_primitive(), ty, column),
        DataType::Float64 if ty.is_numeric() => from_float(array.as_primitive(), ty, column),
        DataType::Decimal128(_, scale) if ty.is_numeric() => {
            from_decimal(array.as_primitive(), *scale as u8, ty, column)
        }
        DataType::Utf8 => from_text(array.as_string(), ty, column),
        DataType::Timestamp(TimeUnit::Microsecond, _) => from_moment(&array, ty, column),
        DataType::Date32 if matches!(ty, KalamDataType::Timestamp | KalamDataType::DateTime) => {
            let to_us =
                |days| datetime::day_to_us(days).ok_or_else(|| scalar::out_of_range(datetime::format_date(days), ty));
            moment(map::<Date32Type, TimestampMicrosecondType>(array.as_primitive(), column, to_us)?, ty)
        }
        DataType::Float32 if matches!(ty, KalamDataType::Text) => {
            let floats: &Float32Array = array.as_primitive();
            Ok(Arc::new(floats.iter().map(|x| x.map(scalar::format_f32)).collect::<StringArray>()))
        }
        DataType::FixedSizeBinary(_) | DataType::Binary if matches!(ty, KalamDataType::Bytes) => to_bytes(&array),
        DataType::List(_) | DataType::FixedSizeList(_, _) if matches!(ty, KalamDataType::Embedding(_)) => {
            to_embedding(&array, ty, column)
        }
        // An embedding is one value, not a list.
        DataType::FixedSizeList(item, _) if item.data_type() == &DataType::Float32 => by_value(&array, ty, column),
        nested if nested.is_nested() => match ty {
            KalamDataType::Json | KalamDataType::Text => to_json(&array, column),
            _ => Err(located(mismatch(&format!("of type {nested}"), ty), column, first_row(array.as_ref()))),
        },
        _ => by_value(&array, ty, column),
    }
}

/// The few Arrow types that the rules are written for: views, dictionaries, large and narrow forms become plain.
fn canonical(array: &ArrayRef, ty: &KalamDataType, column: &str) -> Result<ArrayRef> {
    use DataType as D;
    let to = match array.data_type() {
        D::Dictionary(_, value) => (**value).clone(),
        D::RunEndEncoded(_, value) => value.data_type().clone(),
        D::LargeUtf8 | D::Utf8View => D::Utf8,
        D::LargeBinary | D::BinaryView => D::Binary,
        D::Int8 | D::Int16 | D::Int32 | D::UInt8 | D::UInt16 | D::UInt32 => D::Int64,
        D::UInt64 => D::Decimal128(20, 0),
        D::Float16 => D::Float32,
        D::Float32 if !matches!(ty, KalamDataType::Text) => D::Float64,
        D::Decimal32(p, s) | D::Decimal64(p, s) => D::Decimal128(*p, *s),
        // A negative scale is trailing zeros.
        D::Decimal128(_, s) if *s < 0 => D::Decimal128(38, 0),
        D::Decimal256(_, s) => D::Decimal128(38, (*s).max(0)),
        D::Date64 => D::Date32,
        D::Time32(_) | D::Time64(TimeUnit::Nanosecond) => D::Time64(TimeUnit::Microsecond),
        D::Timestamp(TimeUnit::Nanosecond, _) => return nanoseconds(array),
        D::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, zone) => {
            D::Timestamp(TimeUnit::Microsecond, zone.clone())
        }
        D::Duration(_) | D::Interval(_) => return interval_text(array),
        D::LargeList(item) | D::ListView(item) | D::LargeListView(item) => D::List(Arc::clone(item)),
        _ => return Ok(Arc::clone(array)),
    };
    let array = match array.data_type() {
        // Casts of dates divide towards zero; a date before 1970 is the day before.
        D::Date64 => return dates(array, column),
        D::RunEndEncoded(_, _) => cast(array, &to).map_err(|e| locate_cast(array, &to, ty, column, &e))?,
        _ => cast(array, &to).map_err(|e| locate_cast(array, &to, ty, column, &e))?,
    };
    // The values of a dictionary may need a further step.
    canonical(&array, ty, column)
}

/// Intervals as PostgreSQL writes them.
fn interval_text(array: &ArrayRef) -> Result<ArrayRef> {
    let to = DataType::Interval(IntervalUnit::MonthDayNano);
    let intervals = cast(array, &to).map_err(KalamError::internal)?;
    let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
    Ok(Arc::new(intervals.iter().map(|interval| interval.map(format_interval)).collect::<StringArray>()))
}

const CAST: CastOptions<'static> = CastOptions { safe: false, format_options: FormatOptions::new() };

fn cast(array: &dyn Array, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, to, &CAST)
}

/// The error of a cast that failed, with the first row that fails by itself.
fn locate_cast(array: &ArrayRef, to: &DataType, ty: &KalamDataType, column: &str, error: &ArrowError) -> KalamError {
    let row = (0..array.len()).find(|row| cast(&array.slice(*row, 1), to).is_err());
    let Some(row) = row else {
        // Each row fits and all together do not: text beyond the 2 GB that one array holds.
        return KalamError::new(ErrorCode::InvalidData, format!("column '{column}': {error}"))
            .with_hint("Write fewer rows at a time.");
    };
    located(scalar::out_of_range(show(array, row), ty), column, row + 1)
}

/// A value of any Arrow type as text for a message.
fn show(array: &dyn Array, row: usize) -> String {
    arrow::util::display::array_value_to_string(array, row)
        .unwrap_or_else(|_| format!("a value of type {}", array.data_type()))
}

fn first_row(array: &dyn Array) -> usize {
    (0..array.len()).find(|row| array.is_valid(*row)).map_or(1, |row| row + 1)
}

/// Applies `f` to every value that is not NULL.
fn map<F: ArrowPrimitiveType, T: ArrowPrimitiveType>(
    array: &PrimitiveArray<F>,
    column: &str,
    f: impl Fn(F::Native) -> Result<T::Native>,
) -> Result<PrimitiveArray<T>> {
    let values = array.values();
    let mut out: Vec<T::Native> = Vec::with_capacity(values.len());
    match array.nulls() {
        None => {
            for (row, v) in values.iter().enumerate() {
                out.push(f(*v).map_err(|e| located(e, column, row + 1))?);
            }
        }
        Some(nulls) => {
            for (row, v) in values.iter().enumerate() {
                let value = if nulls.is_valid(row) {
                    f(*v).map_err(|e| located(e, column, row + 1))?
                } else {
                    T::Native::default()
                };
                out.push(value);
            }
        }
    }
    Ok(PrimitiveArray::new(out.into(), array.nulls().cloned()))
}

fn decimal<A: ArrowPrimitiveType>(
    array: &PrimitiveArray<A>,
    (precision, scale): (u8, u8),
    column: &str,
    f: impl Fn(A::Native) -> Result<i128>,
) -> Result<ArrayRef> {
    let out = map::<A, Decimal128Type>(array, column, f)?;
    Ok(Arc::new(out.with_data_type(Decimal128Type::TYPE_CONSTRUCTOR(precision, scale as i8))))
}

fn from_int(a: &PrimitiveArray<Int64Type>, ty: &KalamDataType, column: &str) -> Result<ArrayRef> {
    use KalamDataType as T;
    Ok(match ty {
        T::SmallInt => Arc::new(map::<_, Int16Type>(a, column, |n| scalar::check_int(n, ty).map(|n| n as i16))?),
        T::Int => Arc::new(map::<_, Int32Type>(a, column, |n| scalar::check_int(n, ty).map(|n| n as i32))?),
        T::Float => Arc::new(a.unary::<_, Float32Type>(|n| n as f32)),
        T::Double => Arc::new(a.unary::<_, Float64Type>(|n| n as f64)),
        T::Decimal { precision, scale } => {
            decimal(a, (*precision, *scale), column, |n| scalar::int_to_decimal(n, *precision, *scale))?
        }
        _ => Arc::new(a.clone()),
    })
}

fn from_float(a: &PrimitiveArray<Float64Type>, ty: &KalamDataType, column: &str) -> Result<ArrayRef> {
    use KalamDataType as T;
    Ok(match ty {
        T::SmallInt => Arc::new(map::<_, Int16Type>(a, column, |x| scalar::float_to_int(x, ty).map(|n| n as i16))?),
        T::Int => Arc::new(map::<_, Int32Type>(a, column, |x| scalar::float_to_int(x, ty).map(|n| n as i32))?),
        T::BigInt => Arc::new(map::<_, Int64Type>(a, column, |x| scalar::float_to_int(x, ty))?),
        T::Float => Arc::new(map::<_, Float32Type>(a, column, scalar::f64_to_f32)?),
        T::Decimal { precision, scale } => {
            decimal(a, (*precision, *scale), column, |x| scalar::float_to_decimal(x, *precision, *scale))?
        }
        _ => Arc::new(a.clone()),
    })
}

fn from_decimal(a: &PrimitiveArray<Decimal128Type>, from: u8, ty: &KalamDataType, column: &str) -> Result<ArrayRef> {
    use KalamDataType as T;
    let int = |x| scalar::decimal_to_int(x, from, ty);
    Ok(match ty {
        T::SmallInt => Arc::new(map::<_, Int16Type>(a, column, |x| int(x).map(|n| n as i16))?),
        T::Int => Arc::new(map::<_, Int32Type>(a, column, |x| int(x).map(|n| n as i32))?),
        T::BigInt => Arc::new(map::<_, Int64Type>(a, column, int)?),
        T::Float => {
            Arc::new(map::<_, Float32Type>(a, column, |x| scalar::f64_to_f32(scalar::decimal_to_f64(x, from)))?)
        }
        T::Decimal { precision, scale } => {
            decimal(a, (*precision, *scale), column, |x| scalar::decimal_to_decimal(x, from, *precision, *scale))?
        }
        _ => Arc::new(a.unary::<_, Float64Type>(|x| scalar::decimal_to_f64(x, from))),
    })
}

fn from_text(a: &StringArray, ty: &KalamDataType, column: &str) -> Result<ArrayRef> {
    let mut out = ColumnBuilder::new(ty, column, a.len());
    for text in a {
        match text {
            Some(text) => out.append_text(text)?,
            None => out.append_null(),
        }
    }
    Ok(out.finish())
}

/// The zone only says how to show a moment: the number is the same in all.
fn moment(a: PrimitiveArray<TimestampMicrosecondType>, ty: &KalamDataType) -> Result<ArrayRef> {
    Ok(Arc::new(a.with_timezone_opt(matches!(ty, KalamDataType::DateTime).then(utc))))
}

fn from_moment(array: &ArrayRef, ty: &KalamDataType, column: &str) -> Result<ArrayRef> {
    let a: &PrimitiveArray<TimestampMicrosecondType> = array.as_primitive();
    match ty {
        KalamDataType::Timestamp | KalamDataType::DateTime => moment(a.clone(), ty),
        KalamDataType::Date => Ok(Arc::new(a.unary::<_, Date32Type>(datetime::us_to_day))),
        KalamDataType::Time => Ok(Arc::new(a.unary::<_, Time64MicrosecondType>(datetime::us_to_time))),
        _ => by_value(array, ty, column),
    }
}

/// Nanoseconds are rounded to microseconds, as the text parser does.
fn nanoseconds(array: &ArrayRef) -> Result<ArrayRef> {
    let zone = match array.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let a: &PrimitiveArray<TimestampNanosecondType> = array.as_primitive();
    let us = a.unary::<_, TimestampMicrosecondType>(|ns| ns.div_euclid(1000) + i64::from(ns.rem_euclid(1000) >= 500));
    Ok(Arc::new(us.with_timezone_opt(zone)))
}

fn dates(array: &ArrayRef, column: &str) -> Result<ArrayRef> {
    let to_day = |ms: i64| {
        i32::try_from(ms.div_euclid(86_400_000))
            .map_err(|_| scalar::out_of_range(format_args!("{ms} ms"), &KalamDataType::Date))
    };
    Ok(Arc::new(map::<Date64Type, Date32Type>(array.as_primitive(), column, to_day)?))
}

fn to_bytes(array: &ArrayRef) -> Result<ArrayRef> {
    if let Some(fixed) = array.as_fixed_size_binary_opt() {
        let mut out = BinaryBuilder::with_capacity(fixed.len(), fixed.len() * fixed.value_length().max(0) as usize);
        fixed.iter().for_each(|value| out.append_option(value));
        return Ok(Arc::new(out.finish()));
    }
    Ok(Arc::clone(array))
}

fn check_json_column(a: &StringArray, ty: &KalamDataType, column: &str) -> Result<()> {
    for (row, text) in a.iter().enumerate() {
        if let Some(text) = text {
            scalar::check_json(text, ty).map_err(|e| located(e, column, row + 1))?;
        }
    }
    Ok(())
}

/// A vector has no NULL element.
fn check_elements(list: &FixedSizeListArray, ty: &KalamDataType, column: &str) -> Result<()> {
    let items = list.values();
    if items.null_count() == 0 {
        return Ok(());
    }
    let width = list.value_length().max(0) as usize;
    let row = (0..list.len()).find(|row| {
        let start = list.value_offset(*row) as usize;
        list.is_valid(*row) && (start..start + width).any(|item| items.is_null(item))
    });
    row.map_or(Ok(()), |row| Err(located(null_element(list, row, ty), column, row + 1)))
}

fn null_element(array: &dyn Array, row: usize, ty: &KalamDataType) -> KalamError {
    KalamError::new(
        ErrorCode::InvalidValue,
        format!("{} has a NULL element, which {ty} cannot hold", scalar::shorten(&show(array, row))),
    )
}

/// Lists of numbers as vectors.
fn to_embedding(array: &ArrayRef, ty: &KalamDataType, column: &str) -> Result<ArrayRef> {
    let KalamDataType::Embedding(dimension) = *ty else { return by_value(array, ty, column) };
    // Every row is a range of one array of items.
    let fixed = array.as_fixed_size_list_opt();
    let list = array.as_list_opt::<i32>();
    let (items, width) = match (fixed, list) {
        (Some(fixed), _) => (fixed.values(), fixed.value_length().max(0) as usize),
        (None, Some(list)) => (list.values(), 0),
        (None, None) => return by_value(array, ty, column),
    };
    let range = |row: usize| match list {
        Some(list) => list.value_offsets()[row] as usize..list.value_offsets()[row + 1] as usize,
        // `value_offset` of a fixed list is row times width; a slice of it has sliced its items too.
        None => row * width..(row + 1) * width,
    };
    let numeric = KalamDataType::from_arrow_field(&Field::new("item", items.data_type().clone(), true))
        .is_ok_and(|t| t.is_numeric());
    if !numeric {
        return Err(located(
            mismatch(&format!("of type {}", array.data_type()), ty),
            column,
            first_row(array.as_ref()),
        ));
    }
    let mut values: Vec<f32> = Vec::with_capacity(array.len() * dimension as usize);
    for row in 0..array.len() {
        if array.is_null(row) {
            values.resize(values.len() + dimension as usize, 0.0);
            continue;
        }
        let range = range(row);
        let part = items.slice(range.start, range.len());
        if part.null_count() > 0 {
            return Err(located(null_element(array, row, ty), column, row + 1));
        }
        let part = coerce_array(&part, &KalamDataType::Float, column).map_err(|e| {
            let message = format!("{} in {}", e.message(), scalar::shorten(&show(array, row)));
            located(KalamError::new(e.code(), message), column, row + 1)
        })?;
        let part = part.as_primitive::<Float32Type>().values();
        scalar::check_dimension(part, dimension).map_err(|e| located(e, column, row + 1))?;
        values.extend_from_slice(part);
    }
    let items: ArrayRef = Arc::new(Float32Array::new(values.into(), None));
    Ok(Arc::new(FixedSizeListArray::new(embedding_item(), dimension as i32, items, array.nulls().cloned())))
}

/// Lists, structs and maps as JSON text.
fn to_json(array: &ArrayRef, column: &str) -> Result<ArrayRef> {
    let failed = |e: ArrowError| KalamError::new(ErrorCode::InvalidData, format!("column '{column}': {e}"));
    let field = Arc::new(Field::new(column, array.data_type().clone(), true));
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&field, array.as_ref(), &options).map_err(failed)?;
    let mut out = StringBuilder::with_capacity(array.len(), array.len() * 32);
    let mut text = Vec::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            out.append_null();
            continue;
        }
        text.clear();
        encoder.encode(row, &mut text);
        out.append_value(std::str::from_utf8(&text).map_err(KalamError::internal)?);
    }
    Ok(Arc::new(out.finish()))
}

/// The rest: as values, by the rules for one value.
fn by_value(array: &ArrayRef, ty: &KalamDataType, column: &str) -> Result<ArrayRef> {
    let field = Field::new(column, array.data_type().clone(), true);
    let from = KalamDataType::from_arrow_field(&field)?;
    if array.data_type() != &from.arrow_type() {
        return Err(located(
            mismatch(&format!("of type {}", array.data_type()), ty),
            column,
            first_row(array.as_ref()),
        ));
    }
    if let Some(flags) = array.as_boolean_opt()
        && matches!(ty, KalamDataType::Text)
    {
        return Ok(Arc::new(bool_text(flags)));
    }
    let mut out = ColumnBuilder::new(ty, column, array.len());
    for row in 0..array.len() {
        out.append(&Value::from_array(array.as_ref(), row, &from)?)?;
    }
    Ok(out.finish())
}

fn bool_text(flags: &BooleanArray) -> StringArray {
    flags.iter().map(|flag| flag.map(|f| if f { "true" } else { "false" })).collect()
}

#[cfg(test)]
#[path = "coerce_tests.rs"]
mod tests;
