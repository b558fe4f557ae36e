//! Distances between embeddings, and arrays of numbers.
//!
//! Invariant: a distance is computed over the value buffers of the lists, eight lanes at a time and without an
//! allocation per row; both sides have the same dimension or the statement fails. Sums are added up in the same order
//! everywhere, so a distance is the same number natively and in the browser. As with pgvector, the cosine distance of
//! a zero vector is NaN, which sorts after every number.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Float64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type};
use datafusion::common::{DFSchema, DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::casts::without_place;
use crate::error::{ErrorCode, KalamError};
use crate::types::{KalamDataType, coerce_array};

/// The functions.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let with = |measure, name| {
        let distance = Distance { measure, name, signature: Signature::any(2, Volatility::Immutable) };
        Arc::new(ScalarUDF::new_from_impl(distance))
    };
    vec![
        with(Measure::Cosine, "cosine_distance"),
        with(Measure::L2, "l2_distance"),
        with(Measure::Inner, "inner_product"),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Measure {
    Cosine,
    L2,
    Inner,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Distance {
    measure: Measure,
    name: &'static str,
    signature: Signature,
}

fn external(error: KalamError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The dimension of a type that holds vectors; 0 where each value tells its own. `None`: no vectors.
fn dimension(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::FixedSizeList(item, n) if item.data_type().is_numeric() => usize::try_from(*n).ok(),
        DataType::Null => Some(0),
        other => is_text(other).then_some(0),
    }
}

impl Distance {
    fn mismatch(&self, a: usize, b: usize) -> DataFusionError {
        let message = format!("{} of vectors of dimension {a} and {b}, expected the same", self.name.to_uppercase());
        external(KalamError::new(ErrorCode::WrongDimension, message))
    }
}

impl ScalarUDFImpl for Distance {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Float64)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let mut known = 0;
        for field in args.arg_fields {
            let Some(n) = dimension(field.data_type()) else {
                let found = KalamDataType::from_arrow_field(field)
                    .map_or_else(|_| field.data_type().to_string(), |t| t.sql_name().into_owned());
                let message = format!("{} takes vectors, but is given {found}", self.name.to_uppercase());
                return Err(external(
                    KalamError::new(ErrorCode::FunctionNotFound, message)
                        .with_hint("A vector is an EMBEDDING, an ARRAY[…] of numbers, or text like '[0.1, 0.2]'."),
                ));
            };
            if known > 0 && n > 0 && n != known {
                return Err(self.mismatch(known, n));
            }
            known = known.max(n);
        }
        Ok(Arc::new(Field::new(self.name, DataType::Float64, args.arg_fields.iter().any(|f| f.is_nullable()))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [a, b] = args.args.as_slice() else {
            return Err(external(KalamError::internal("a distance has two sides")));
        };
        let (known_a, known_b) = (known_dimension(a), known_dimension(b));
        let a = Side::of(a, if known_a > 0 { known_a } else { known_b })?;
        let b = Side::of(b, if known_b > 0 { known_b } else { known_a })?;
        let (Some(a), Some(b)) = (a, b) else { return Ok(ColumnarValue::Scalar(ScalarValue::Float64(None))) };
        if a.dimension != b.dimension {
            return Err(self.mismatch(a.dimension, b.dimension));
        }
        if a.one && b.one {
            let null = a.is_null() || b.is_null();
            let value = (!null).then(|| distance(self.measure, a.vector(0), b.vector(0), None));
            return Ok(ColumnarValue::Scalar(ScalarValue::Float64(value)));
        }
        // What stands still is the second side: its norm is the same for every row.
        let (a, b) = if a.one { (b, a) } else { (a, b) };
        if b.one && b.is_null() {
            return Ok(ColumnarValue::Scalar(ScalarValue::Float64(None)));
        }
        let norm = b.one.then(|| dot(b.vector(0), b.vector(0)));
        let values: Vec<f64> =
            (0..args.number_rows).map(|row| distance(self.measure, a.vector(row), b.vector(row), norm)).collect();
        let nulls = NullBuffer::union(a.nulls(), if b.one { None } else { b.nulls() });
        Ok(ColumnarValue::Array(Arc::new(Float64Array::new(values.into(), nulls))))
    }
}

/// The dimension that an argument tells; 0 if none.
fn known_dimension(value: &ColumnarValue) -> usize {
    let of_text = |text: &str| {
        if text.trim().trim_matches(['[', ']']).trim().is_empty() { 0 } else { text.matches(',').count() + 1 }
    };
    match value {
        ColumnarValue::Scalar(
            ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)),
        ) => of_text(text),
        ColumnarValue::Array(array) if is_text(array.data_type()) => {
            let Ok(texts) = cast(array, &DataType::Utf8) else { return 0 };
            texts.as_string::<i32>().iter().flatten().next().map_or(0, of_text)
        }
        other => dimension(&other.data_type()).unwrap_or(0),
    }
}

/// One side of a distance.
struct Side {
    lists: FixedSizeListArray,
    values: Float32Array,
    dimension: usize,
    /// One vector for every row.
    one: bool,
}

impl Side {
    /// `None` for NULL.
    fn of(value: &ColumnarValue, dimension: usize) -> DfResult<Option<Self>> {
        let (array, one) = match value {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(scalar) if scalar.is_null() => return Ok(None),
            ColumnarValue::Scalar(scalar) => (scalar.to_array()?, true),
        };
        let array: ArrayRef = match array.data_type() {
            DataType::FixedSizeList(item, _) if item.data_type() == &DataType::Float32 => array,
            DataType::Null => return Ok(None),
            // Text that tells no dimension anywhere is NULL or empty.
            other if is_text(other) && dimension == 0 && array.null_count() == array.len() => return Ok(None),
            _ => {
                let n = u32::try_from(dimension).unwrap_or(0).max(1);
                coerce_array(&array, &KalamDataType::Embedding(n), "").map_err(|e| external(without_place(e)))?
            }
        };
        let lists = array.as_fixed_size_list().clone();
        let values = lists.values().as_primitive::<Float32Type>().clone();
        let dimension = usize::try_from(lists.value_length()).unwrap_or(0);
        Ok(Some(Self { lists, values, dimension, one }))
    }

    fn vector(&self, row: usize) -> &[f32] {
        let start = if self.one { 0 } else { row * self.dimension };
        self.values.values().get(start..start + self.dimension).unwrap_or_default()
    }

    fn is_null(&self) -> bool {
        self.lists.is_null(0)
    }

    fn nulls(&self) -> Option<&NullBuffer> {
        self.lists.nulls()
    }
}

const LANES: usize = 8;

/// The sum of `each` over the pairs: eight sums side by side, which are vector instructions where there are any.
#[inline(always)]
fn sum(a: &[f32], b: &[f32], each: impl Fn(f32, f32) -> f32) -> f64 {
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += each(a[i], b[i]);
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(&a, &b)| each(a, b)).sum();
    lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + f64::from(rest)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    sum(a, b, |a, b| a * b)
}

fn distance(measure: Measure, a: &[f32], b: &[f32], norm_b: Option<f64>) -> f64 {
    match measure {
        Measure::Inner => dot(a, b),
        Measure::L2 => sum(a, b, |a, b| (a - b) * (a - b)).sqrt(),
        Measure::Cosine => {
            let norms = (dot(a, a) * norm_b.unwrap_or_else(|| dot(b, b))).sqrt();
            if norms == 0.0 {
                // Of the sign that sorts last, which 0 / 0 has not everywhere.
                return f64::NAN;
            }
            // Rounding must not make vectors of one direction differ by less than nothing.
            1.0 - (dot(a, b) / norms).clamp(-1.0, 1.0)
        }
    }
}

/// Plans `ARRAY[…]` and `[…]` of numbers as an embedding.
#[derive(Debug)]
pub struct ArrayLiterals;

impl ExprPlanner for ArrayLiterals {
    fn plan_array_literal(&self, items: Vec<Expr>, schema: &DFSchema) -> DfResult<PlannerResult<Vec<Expr>>> {
        let is_number =
            |item: &Expr| matches!(item, Expr::Placeholder(_)) || item.get_type(schema).is_ok_and(|t| t.is_numeric());
        if items.is_empty() || !items.iter().all(is_number) {
            return Err(external(
                KalamError::new(ErrorCode::FeatureNotSupported, "not supported: an array of anything but numbers")
                    .with_hint("There are no array columns; JSON holds lists, and = ANY (ARRAY[…]) works as IN (…)."),
            ));
        }
        let array = NumberArray { signature: Signature::variadic_any(Volatility::Immutable) };
        let call = ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(array)), items);
        Ok(PlannerResult::Planned(Expr::ScalarFunction(call)))
    }
}

/// The numbers of a row as one embedding.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NumberArray {
    signature: Signature,
}

impl ScalarUDFImpl for NumberArray {
    fn name(&self) -> &str {
        "array"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(KalamDataType::Embedding(types.len() as u32).arrow_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let DataType::FixedSizeList(item, n) = args.return_field.data_type().clone() else {
            return Err(external(KalamError::internal("an array is a list")));
        };
        let scalars = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if scalars { 1 } else { args.number_rows };
        let columns = args.args.iter().map(|a| cast(&a.to_array(rows)?, &DataType::Float32).map_err(Into::into));
        let columns = columns.collect::<DfResult<Vec<_>>>()?;
        if columns.iter().any(|c| c.null_count() > 0) {
            return Err(external(KalamError::new(ErrorCode::InvalidValue, "NULL in an array of numbers")));
        }
        let mut values = Vec::with_capacity(rows * columns.len());
        for row in 0..rows {
            values.extend(columns.iter().map(|c| c.as_primitive::<Float32Type>().value(row)));
        }
        let list = FixedSizeListArray::try_new(item, n, Arc::new(Float32Array::from(values)), None)?;
        Ok(match scalars {
            true => ColumnarValue::Scalar(ScalarValue::FixedSizeList(Arc::new(list))),
            false => ColumnarValue::Array(Arc::new(list)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_agree_with_the_definition_at_every_length() {
        for n in [1usize, 7, 8, 9, 16, 31, 384, 1536] {
            let a: Vec<f32> = (0..n).map(|i| ((i + 1) as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.71).cos()).collect();
            let pairs = || a.iter().zip(&b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
            let inner: f64 = pairs().map(|(a, b)| a * b).sum();
            let l2 = pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
            let norm = |v: &[f32]| v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            let cosine = 1.0 - inner / (norm(&a) * norm(&b));
            let near = |x: f64, y: f64| (x - y).abs() < 1e-4 * (1.0 + y.abs());
            assert!(near(distance(Measure::Inner, &a, &b, None), inner), "{n}");
            assert!(near(distance(Measure::L2, &a, &b, None), l2), "{n}");
            assert!(near(distance(Measure::Cosine, &a, &b, Some(dot(&b, &b))), cosine), "{n}");
        }
        assert!(distance(Measure::Cosine, &[0.0, 0.0], &[1.0, 0.0], None).is_nan());
    }
}
