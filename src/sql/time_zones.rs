//! `x AT TIME ZONE zone`: what clocks show in a zone at a moment, and the moment at which they show it.
//!
//! Invariant: of a moment (a timestamp with time zone) it gives a timestamp without, and of such a timestamp the moment, as
//! in PostgreSQL. Of an hour that comes twice it is the second one, and one that is left out begins when that is over.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_functions::utils::make_scalar_function;

use super::plain_words::translated;
use crate::error::{ErrorCode, KalamError};
use crate::types::{KalamDataType, coerce_array};

/// The function that the operator is: `timezone(zone, x)`.
pub const NAME: &str = "timezone";

/// The function.
pub fn function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(AtTimeZone { signature: Signature::any(2, Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AtTimeZone {
    signature: Signature,
}

fn external(error: KalamError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn zone_of(name: &str) -> DfResult<Tz> {
    let upper = name.to_ascii_uppercase();
    let known = if matches!(upper.as_str(), "UTC" | "GMT" | "Z" | "ZULU") { "UTC" } else { name };
    Tz::from_str(known).map_err(|_| {
        external(
            KalamError::new(ErrorCode::InvalidValue, format!("time zone '{name}' is not known"))
                .with_hint("Expected a name as 'Europe/Berlin', 'UTC', or an offset as '+02:00'."),
        )
    })
}

/// A number of microseconds in a zone: of a moment the clocks' time, of the clocks' time the moment.
fn converted(us: i64, zone: &Tz, is_moment: bool) -> Option<i64> {
    let naive: NaiveDateTime = DateTime::from_timestamp_micros(us)?.naive_utc();
    let offset = match is_moment {
        true => zone.offset_from_utc_datetime(&naive).fix(),
        false => match zone.offset_from_local_datetime(&naive) {
            LocalResult::Single(offset) | LocalResult::Ambiguous(_, offset) => offset.fix(),
            LocalResult::None => {
                let before = naive.checked_sub_signed(TimeDelta::hours(3))?;
                zone.offset_from_local_datetime(&before).earliest()?.fix()
            }
        },
    };
    let seconds = i64::from(offset.local_minus_utc()) * if is_moment { 1 } else { -1 };
    us.checked_add(seconds * 1_000_000)
}

fn is_moment(data_type: &DataType) -> bool {
    !matches!(data_type, DataType::Timestamp(_, None) | DataType::Date32)
}

impl ScalarUDFImpl for AtTimeZone {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        let wanted =
            if types.first().is_none_or(is_moment) { KalamDataType::Timestamp } else { KalamDataType::DateTime };
        Ok(wanted.arrow_type())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let found: Vec<&DataType> = args.arg_fields.iter().map(|f| f.data_type()).collect();
        let is_time = |t: &DataType| matches!(t, DataType::Null | DataType::Date32 | DataType::Timestamp(..));
        if !(is_time(found[1]) || found[1].is_string()) || !(found[0].is_string() || *found[0] == DataType::Null) {
            let (zone, time) = (translated(&found[0].to_string()), translated(&found[1].to_string()));
            let message = format!("the operator {time} AT TIME ZONE {zone} does not exist");
            return Err(external(
                KalamError::new(ErrorCode::FunctionNotFound, message)
                    .with_hint("It takes a timestamp and the name of a zone."),
            ));
        }
        let nullable = args.arg_fields.iter().any(|f| f.is_nullable());
        let wanted = if is_moment(found[1]) { KalamDataType::Timestamp } else { KalamDataType::DateTime };
        Ok(Arc::new(wanted.plan_field(NAME, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        make_scalar_function(at_time_zone, Vec::new())(&args.args)
    }
}

/// `timezone(zones, times)`, row by row.
fn at_time_zone(arrays: &[ArrayRef]) -> DfResult<ArrayRef> {
    let [zones, times] = arrays else {
        return Err(external(KalamError::internal("AT TIME ZONE has two sides")));
    };
    let is_moment = is_moment(times.data_type());
    let source = if is_moment { KalamDataType::DateTime } else { KalamDataType::Timestamp };
    let times = coerce_array(times, &source, "").map_err(|e| external(super::casts::without_place(e)))?;
    let (times, zones) = (times.as_primitive::<TimestampMicrosecondType>(), cast(zones, &DataType::Utf8)?);
    let zones = zones.as_string::<i32>();
    let mut last: Option<(String, Tz)> = None;
    let mut results = Vec::with_capacity(times.len());
    for row in 0..times.len() {
        if times.is_null(row) || zones.is_null(row) {
            results.push(None);
            continue;
        }
        let name = zones.value(row);
        let zone = match &last {
            Some((known, zone)) if known == name => *zone,
            _ => {
                let zone = zone_of(name)?;
                last = Some((name.to_owned(), zone));
                zone
            }
        };
        let result = converted(times.value(row), &zone, is_moment);
        results.push(Some(result.ok_or_else(|| {
            external(KalamError::new(ErrorCode::OutOfRange, "a timestamp is out of range for its time zone"))
        })?));
    }
    let results: ArrayRef = Arc::new(TimestampMicrosecondArray::from(results));
    let wanted = if is_moment { KalamDataType::Timestamp } else { KalamDataType::DateTime };
    Ok(match wanted.arrow_type() {
        // The numbers are of UTC already: a cast would take them for local ones.
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => {
            Arc::new(results.as_primitive::<TimestampMicrosecondType>().clone().with_timezone(zone)) as ArrayRef
        }
        _ => results,
    })
}
