//! A column that is built one value at a time, by the assignment rules.
//!
//! Invariant: the builder holds only values of its type, so `finish` always gives an array of the type's Arrow type;
//! a value that was refused leaves the builder as it was.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, FixedSizeListArray, NullBufferBuilder,
    PrimitiveArray, StringBuilder,
};
use arrow::datatypes::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64MicrosecondType, TimestampMicrosecondType,
};

use super::data_type::{KalamDataType, embedding_item};
use super::value::Value;
use super::{assign, scalar};
use crate::error::{KalamError, Result};

/// Builds one column.
#[derive(Debug)]
pub struct ColumnBuilder {
    ty: KalamDataType,
    column: Box<str>,
    rows: usize,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Boolean(BooleanBuilder),
    SmallInt(Numbers<Int16Type>),
    Int(Numbers<Int32Type>),
    BigInt(Numbers<Int64Type>),
    Float(Numbers<Float32Type>),
    Double(Numbers<Float64Type>),
    Decimal(Numbers<Decimal128Type>),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Uuid(FixedSizeBinaryBuilder),
    Moment(Numbers<TimestampMicrosecondType>),
    Date(Numbers<Date32Type>),
    Time(Numbers<Time64MicrosecondType>),
    Embedding { items: Vec<f32>, valid: NullBufferBuilder },
}

/// Values of one width. Arrow's builder makes an array by way of `ArrayData`, which for a column of one row is four times
/// the work.
#[derive(Debug)]
struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    valid: NullBufferBuilder,
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    fn with_capacity(capacity: usize) -> Self {
        Self { values: Vec::with_capacity(capacity), valid: NullBufferBuilder::new(capacity) }
    }

    fn append_value(&mut self, value: T::Native) {
        self.values.push(value);
        self.valid.append_non_null();
    }

    fn append_null(&mut self) {
        self.values.push(T::Native::default());
        self.valid.append_null();
    }

    fn finish(&mut self) -> PrimitiveArray<T> {
        PrimitiveArray::new(std::mem::take(&mut self.values).into(), self.valid.finish())
    }
}

impl ColumnBuilder {
    /// A builder for a column of a type; the name is for messages.
    pub fn new(ty: &KalamDataType, column: &str, capacity: usize) -> Self {
        use KalamDataType as T;
        let inner = match ty {
            T::Boolean => Inner::Boolean(BooleanBuilder::with_capacity(capacity)),
            T::SmallInt => Inner::SmallInt(Numbers::with_capacity(capacity)),
            T::Int => Inner::Int(Numbers::with_capacity(capacity)),
            T::BigInt => Inner::BigInt(Numbers::with_capacity(capacity)),
            T::Float => Inner::Float(Numbers::with_capacity(capacity)),
            T::Double => Inner::Double(Numbers::with_capacity(capacity)),
            T::Decimal { .. } => Inner::Decimal(Numbers::with_capacity(capacity)),
            T::Text | T::Json | T::File => Inner::Text(StringBuilder::with_capacity(capacity, capacity * 16)),
            T::Bytes => Inner::Bytes(BinaryBuilder::with_capacity(capacity, capacity * 16)),
            T::Uuid => Inner::Uuid(FixedSizeBinaryBuilder::with_capacity(capacity, 16)),
            T::Timestamp | T::DateTime => Inner::Moment(Numbers::with_capacity(capacity)),
            T::Date => Inner::Date(Numbers::with_capacity(capacity)),
            T::Time => Inner::Time(Numbers::with_capacity(capacity)),
            T::Embedding(n) => Inner::Embedding {
                items: Vec::with_capacity(capacity * *n as usize),
                valid: NullBufferBuilder::new(capacity),
            },
        };
        Self { ty: *ty, column: column.into(), rows: 0, inner }
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a value; one that the column does not take is an error that names column, row (from 1) and value.
    pub fn append(&mut self, v: &Value) -> Result<()> {
        if v.is_null() {
            self.append_null();
            return Ok(());
        }
        self.push(v).map_err(|e| located(e, &self.column, self.rows + 1))?;
        self.rows += 1;
        Ok(())
    }

    fn push(&mut self, v: &Value) -> Result<()> {
        let ty = &self.ty;
        match &mut self.inner {
            Inner::Boolean(b) => b.append_value(assign::to_bool(v)?),
            // In range, because the rules checked it against the type.
            Inner::SmallInt(b) => b.append_value(assign::to_int(v, ty)? as i16),
            Inner::Int(b) => b.append_value(assign::to_int(v, ty)? as i32),
            Inner::BigInt(b) => b.append_value(assign::to_int(v, ty)?),
            Inner::Float(b) => b.append_value(assign::to_float(v)?),
            Inner::Double(b) => b.append_value(assign::to_double(v)?),
            Inner::Decimal(b) => {
                if let KalamDataType::Decimal { precision, scale } = ty {
                    b.append_value(assign::to_decimal(v, *precision, *scale)?);
                }
            }
            Inner::Text(b) => match ty {
                KalamDataType::Text => b.append_value(assign::to_text(v)),
                _ => b.append_value(assign::to_json_text(v, ty)?),
            },
            Inner::Bytes(b) => b.append_value(assign::to_bytes(v)?),
            Inner::Uuid(b) => b.append_value(assign::to_uuid(v)?).map_err(KalamError::internal)?,
            Inner::Moment(b) => b.append_value(assign::to_moment(v, *ty == KalamDataType::DateTime)?),
            Inner::Date(b) => b.append_value(assign::to_date(v)?),
            Inner::Time(b) => b.append_value(assign::to_time(v)?),
            Inner::Embedding { items, valid } => {
                if let KalamDataType::Embedding(n) = ty {
                    items.extend_from_slice(&assign::to_embedding(v, *n)?);
                    valid.append_non_null();
                }
            }
        }
        Ok(())
    }

    /// Adds text, parsed as the column's type, without a [`Value`] around it.
    pub(super) fn append_text(&mut self, text: &str) -> Result<()> {
        let ty = &self.ty;
        let result = match (&mut self.inner, ty) {
            (Inner::Text(b), KalamDataType::Text) => {
                b.append_value(text);
                Ok(())
            }
            (Inner::Text(b), _) => scalar::check_json(text, ty).map(|()| b.append_value(text)),
            (Inner::SmallInt(b), _) => scalar::parse_int(text, ty).map(|n| b.append_value(n as i16)),
            (Inner::Int(b), _) => scalar::parse_int(text, ty).map(|n| b.append_value(n as i32)),
            (Inner::BigInt(b), _) => scalar::parse_int(text, ty).map(|n| b.append_value(n)),
            (Inner::Double(b), _) => scalar::parse_f64(text).map(|x| b.append_value(x)),
            (Inner::Float(b), _) => scalar::parse_f32(text).map(|x| b.append_value(x)),
            (Inner::Decimal(b), KalamDataType::Decimal { precision, scale }) => {
                scalar::parse_decimal(text, *precision, *scale).map(|x| b.append_value(x))
            }
            (Inner::Boolean(b), _) => scalar::parse_bool(text).map(|x| b.append_value(x)),
            (Inner::Moment(b), _) => {
                super::datetime::parse_datetime(text, *ty == KalamDataType::DateTime).map(|us| b.append_value(us))
            }
            (Inner::Date(b), _) => super::datetime::parse_date(text).map(|days| b.append_value(days)),
            _ => return self.append(&Value::Text(text.to_owned())),
        };
        result.map_err(|e| located(e, &self.column, self.rows + 1))?;
        self.rows += 1;
        Ok(())
    }

    /// Adds NULL.
    pub fn append_null(&mut self) {
        match &mut self.inner {
            Inner::Boolean(b) => b.append_null(),
            Inner::SmallInt(b) => b.append_null(),
            Inner::Int(b) => b.append_null(),
            Inner::BigInt(b) => b.append_null(),
            Inner::Float(b) => b.append_null(),
            Inner::Double(b) => b.append_null(),
            Inner::Decimal(b) => b.append_null(),
            Inner::Text(b) => b.append_null(),
            Inner::Bytes(b) => b.append_null(),
            Inner::Uuid(b) => b.append_null(),
            Inner::Moment(b) => b.append_null(),
            Inner::Date(b) => b.append_null(),
            Inner::Time(b) => b.append_null(),
            Inner::Embedding { items, valid } => {
                if let KalamDataType::Embedding(n) = self.ty {
                    items.resize(items.len() + n as usize, 0.0);
                    valid.append_null();
                }
            }
        }
        self.rows += 1;
    }

    /// The column built, of the type's Arrow type; the builder is empty afterwards.
    pub fn finish(&mut self) -> ArrayRef {
        self.rows = 0;
        match &mut self.inner {
            Inner::Boolean(b) => Arc::new(b.finish()),
            Inner::SmallInt(b) => Arc::new(b.finish()),
            Inner::Int(b) => Arc::new(b.finish()),
            Inner::BigInt(b) => Arc::new(b.finish()),
            Inner::Float(b) => Arc::new(b.finish()),
            Inner::Double(b) => Arc::new(b.finish()),
            Inner::Decimal(b) => Arc::new(b.finish().with_data_type(self.ty.arrow_type())),
            Inner::Text(b) => Arc::new(b.finish()),
            Inner::Bytes(b) => Arc::new(b.finish()),
            Inner::Uuid(b) => Arc::new(b.finish()),
            Inner::Moment(b) => Arc::new(b.finish().with_data_type(self.ty.arrow_type())),
            Inner::Date(b) => Arc::new(b.finish()),
            Inner::Time(b) => Arc::new(b.finish()),
            Inner::Embedding { items, valid } => {
                let KalamDataType::Embedding(dimension) = self.ty else {
                    unreachable!("only EMBEDDING has this builder")
                };
                let items = Arc::new(PrimitiveArray::<Float32Type>::new(std::mem::take(items).into(), None));
                Arc::new(FixedSizeListArray::new(embedding_item(), dimension as i32, items, valid.finish()))
            }
        }
    }
}

/// An error about the value of a column in a row, counted from 1.
pub(super) fn located(error: KalamError, column: &str, row: usize) -> KalamError {
    error.in_context(format_args!("column '{column}', row {row}"))
}
