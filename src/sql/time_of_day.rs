//! `time(x)`: SQLite's function for the time of day of a date-time.
//!
//! Invariant: text is read by the rules of a cast to TIME, so a time stays as it is and a date before it is dropped; only
//! here, as in SQLite, is a date alone the time at which it begins. What is neither is an error, and not NULL.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Time64MicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, TimeUnit};
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::casts::without_place;
use super::plain_words::translated;
use crate::error::{ErrorCode, KalamError, Result};
use crate::types::{KalamDataType, coerce_array, parse_date, parse_time};

/// The function.
pub fn function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(TimeOfDay { signature: Signature::any(1, Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TimeOfDay {
    signature: Signature,
}

fn df(error: KalamError) -> DataFusionError {
    DataFusionError::External(Box::new(without_place(error)))
}

fn time_of(text: &str) -> Result<i64> {
    parse_time(text).or_else(|error| parse_date(text).map(|_| 0).map_err(|_| error))
}

fn times(array: &ArrayRef) -> DfResult<ArrayRef> {
    match array.data_type() {
        found if found.is_string() => {
            let texts = cast(array, &DataType::Utf8)?;
            let times = texts.as_string::<i32>().iter().map(|text| text.map(time_of).transpose());
            Ok(Arc::new(times.collect::<Result<Time64MicrosecondArray>>().map_err(df)?))
        }
        DataType::Date32 => {
            let moments = coerce_array(array, &KalamDataType::Timestamp, "").map_err(df)?;
            coerce_array(&moments, &KalamDataType::Time, "").map_err(df)
        }
        _ => coerce_array(array, &KalamDataType::Time, "").map_err(df),
    }
}

impl ScalarUDFImpl for TimeOfDay {
    fn name(&self) -> &str {
        "time"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Time64(TimeUnit::Microsecond))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        use DataType as D;
        let found = args.arg_fields[0].data_type();
        if !found.is_string() && !matches!(found, D::Null | D::Date32 | D::Timestamp(..) | D::Time32(_) | D::Time64(_))
        {
            let message = format!("function time({}) does not exist", translated(&found.to_string()));
            return Err(df(KalamError::new(ErrorCode::FunctionNotFound, message)
                .with_hint("time takes text, or a date with or without a time.")));
        }
        Ok(Arc::new(KalamDataType::Time.plan_field("time", args.arg_fields[0].is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        match &args.args[0] {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(times(array)?)),
            ColumnarValue::Scalar(scalar) => {
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&times(&scalar.to_array()?)?, 0)?))
            }
        }
    }
}
