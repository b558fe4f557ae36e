//! Arithmetic and comparisons of dates, times and intervals, as in PostgreSQL.
//!
//! Arrow compares intervals field by field (a day is more than 30 hours then), subtracts timestamps to a type that is
//! compared with an interval in the same way, adds intervals to dates in whole days, and multiplies none. Invariant: two
//! intervals are compared by their length; what two moments lie apart is an interval of days and a time; and a date with
//! an interval added to or taken from it is a timestamp.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, IntervalMonthDayNanoArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, FieldRef, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
    TimeUnit,
};
use chrono::{DateTime, Datelike};
use datafusion::common::{DataFusionError, ExprSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, cast as cast_expr,
};
use datafusion::sql::sqlparser::ast::{self, BinaryOperator};
use datafusion_functions::utils::make_scalar_function;

use crate::error::{ErrorCode, KalamError};
use crate::types::{interval_length, parse_interval};

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
const MOMENT: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);
const DAY_US: i64 = 86_400_000_000;

/// Plans arithmetic of dates, times and intervals.
#[derive(Debug)]
pub struct Intervals;

impl ExprPlanner for Intervals {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &datafusion::common::DFSchema,
    ) -> DfResult<PlannerResult<RawBinaryExpr>> {
        let operator = match expr.op {
            BinaryOperator::Plus => Operator::Plus,
            BinaryOperator::Minus => Operator::Minus,
            BinaryOperator::Multiply => Operator::Multiply,
            BinaryOperator::Divide => Operator::Divide,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        Ok(match calculated(&expr.left, operator, &expr.right, schema)? {
            Some(planned) => PlannerResult::Planned(planned),
            None => PlannerResult::Original(expr),
        })
    }
}

/// What arithmetic of dates, times and intervals is planned as; nothing if DataFusion's own is right.
pub fn calculated(left: &Expr, op: Operator, right: &Expr, schema: &dyn ExprSchema) -> DfResult<Option<Expr>> {
    use Operator as O;
    let (Ok(l), Ok(r)) = (left.get_type(schema), right.get_type(schema)) else { return Ok(None) };
    let is_date = |t: &DataType| matches!(t, DataType::Date32);
    let is_moment = |t: &DataType| matches!(t, DataType::Date32 | DataType::Timestamp(..));
    let is_time = |t: &DataType| matches!(t, DataType::Time64(_) | DataType::Time32(_));
    let binary = |left: Expr, right: Expr| Some(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))));
    Ok(match op {
        // Text without a type beside a moment is an interval to add, and a moment to subtract.
        O::Plus | O::Minus if is_moment(&l) && text_of(right).is_some() => {
            let text = text_of(right).unwrap_or_default();
            let right = match (op, parse_interval(text)) {
                (O::Minus, None) => cast_expr(right.clone(), l.clone()),
                _ => interval_literal(text)?,
            };
            match calculated(left, op, &right, schema)? {
                None => binary(left.clone(), right),
                planned => planned,
            }
        }
        O::Minus if is_moment(&l) && is_moment(&r) && !(is_date(&l) && is_date(&r)) => {
            Some(Operation::Difference.call(vec![left.clone(), right.clone()]))
        }
        O::Minus if is_time(&l) && is_time(&r) => Some(Operation::Difference.call(vec![left.clone(), right.clone()])),
        O::Plus | O::Minus if is_date(&l) && is_interval(&r) => binary(cast_expr(left.clone(), MOMENT), right.clone()),
        O::Plus if is_interval(&l) && is_date(&r) => binary(left.clone(), cast_expr(right.clone(), MOMENT)),
        O::Plus if is_date(&l) && is_time(&r) => Some(Operation::At.call(vec![left.clone(), right.clone()])),
        O::Multiply if is_interval(&l) && r.is_numeric() => {
            Some(Operation::Product.call(vec![left.clone(), right.clone()]))
        }
        O::Multiply if l.is_numeric() && is_interval(&r) => {
            Some(Operation::Product.call(vec![right.clone(), left.clone()]))
        }
        O::Divide if is_interval(&l) && r.is_numeric() => {
            Some(Operation::Quotient.call(vec![left.clone(), right.clone()]))
        }
        _ => None,
    })
}

/// Both sides of a comparison as numbers, if one of them is an interval.
pub fn lengths(left: &Expr, right: &Expr, schema: &dyn ExprSchema) -> DfResult<Option<(Expr, Expr)>> {
    let is_one = |expr: &Expr| expr.get_type(schema).is_ok_and(|t| is_interval(&t));
    if !is_one(left) && !is_one(right) {
        return Ok(None);
    }
    match (length_of(left, schema)?, length_of(right, schema)?) {
        (Some(left), Some(right)) => Ok(Some((left, right))),
        _ => Ok(None),
    }
}

/// The length of an interval, or of text that is one; nothing if an expression is neither.
pub fn length_of(expr: &Expr, schema: &dyn ExprSchema) -> DfResult<Option<Expr>> {
    let interval = match text_of(expr) {
        Some(text) => interval_literal(text)?,
        None if expr.get_type(schema).is_ok_and(|t| is_interval(&t)) => expr.clone(),
        None => return Ok(None),
    };
    Ok(Some(Operation::Length.call(vec![interval])))
}

/// Whether a type is that of intervals.
pub fn is_interval(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Interval(_) | DataType::Duration(_))
}

/// The text of a literal.
fn text_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => Some(text),
        _ => None,
    }
}

fn interval_literal(text: &str) -> DfResult<Expr> {
    let interval = parse_interval(text).ok_or_else(|| {
        let message = format!("'{text}' is not a valid INTERVAL");
        external(
            KalamError::new(ErrorCode::InvalidText, message)
                .with_hint("Expected '1 day', '2 hours 30 minutes', '04:05:06' or 'P1DT2H'."),
        )
    })?;
    Ok(Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), None))
}

/// Writes the text of an INTERVAL in the words that DataFusion reads, of which a sign before it would take the first one
/// only.
pub fn in_words(expr: &mut ast::Expr) {
    if let ast::Expr::UnaryOp { op: ast::UnaryOperator::Minus, expr: inner } = expr
        && let ast::Expr::Interval(interval @ ast::Interval { leading_field: None, .. }) = inner.as_mut()
        && let Some(text) = text_in(&mut interval.value)
        && let Some(IntervalMonthDayNano { months, days, nanoseconds }) = parse_interval(text)
    {
        *text = words(IntervalMonthDayNano::new(-months, -days, -nanoseconds));
        *expr = inner.as_ref().clone();
        return;
    }
    let value = match expr {
        ast::Expr::Interval(ast::Interval { value, leading_field: None, last_field: None, .. }) => value,
        ast::Expr::Cast { expr: value, data_type: ast::DataType::Interval { fields: None, .. }, .. } => value,
        _ => return,
    };
    if let Some(text) = text_in(value)
        && let Some(interval) = parse_interval(text)
    {
        *text = words(interval);
    }
}

fn text_in(value: &mut ast::Expr) -> Option<&mut String> {
    match value {
        ast::Expr::Value(ast::ValueWithSpan { value: ast::Value::SingleQuotedString(text), .. }) => Some(text),
        _ => None,
    }
}

fn words(IntervalMonthDayNano { months, days, nanoseconds }: IntervalMonthDayNano) -> String {
    format!("{months} months {days} days {} microseconds", nanoseconds / 1000)
}

/// `age(a, b)`: years, months, days and time from `b` to `a`.
pub fn age() -> Arc<ScalarUDF> {
    let signature = Signature::any(2, Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(Function { operation: Operation::Age, signature }))
}

fn external(error: KalamError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    /// The length of an interval in microseconds.
    Length,
    /// What lies between two moments, or two times of a day.
    Difference,
    /// The same in years and months.
    Age,
    /// A time of a day.
    At,
    Product,
    Quotient,
}

impl Operation {
    fn call(self, args: Vec<Expr>) -> Expr {
        let function = Function { operation: self, signature: Signature::any(args.len(), Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), args))
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Length | Self::Age => "",
            Self::Difference => " - ",
            Self::At => " + ",
            Self::Product => " * ",
            Self::Quotient => " / ",
        }
    }
}

/// An operation as a function.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    operation: Operation,
    signature: Signature,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Length => "interval_length",
            Operation::Difference => "subtract_moments",
            Operation::Age => "age",
            Operation::At => "at_time",
            Operation::Product => "multiply_interval",
            Operation::Quotient => "divide_interval",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        let sides: Vec<String> = args.iter().map(|a| a.schema_name().to_string()).collect();
        Ok(match self.operation {
            Operation::Length | Operation::Age => format!("{}({})", self.name(), sides.join(",")),
            other => sides.join(other.sign()),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(match self.operation {
            Operation::Length => DataType::Int64,
            Operation::At => MOMENT,
            Operation::Difference | Operation::Age | Operation::Product | Operation::Quotient => INTERVAL,
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let nullable = args.arg_fields.iter().any(|f| f.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&[])?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        make_scalar_function(|arrays: &[ArrayRef]| self.operation.of(arrays), Vec::new())(&args.args)
    }
}

impl Operation {
    /// What it gives, row by row.
    fn of(self, arrays: &[ArrayRef]) -> DfResult<ArrayRef> {
        Ok(match (self, arrays) {
            (Operation::Length, [intervals]) => Arc::new(length(intervals)?),
            (Operation::Difference, [left, right]) => Arc::new(difference(&micros(left)?, &micros(right)?)?),
            (Operation::Age, [left, right]) => {
                let (left, right) = (micros(left)?, micros(right)?);
                let between = |(left, right): (Option<i64>, Option<i64>)| match (left, right) {
                    (Some(left), Some(right)) => years_between(left, right).map(Some).ok_or_else(out_of_range),
                    _ => Ok(None),
                };
                Arc::new(left.iter().zip(&right).map(between).collect::<DfResult<IntervalMonthDayNanoArray>>()?)
            }
            (Operation::At, [dates, times]) => {
                let (dates, times) = (micros(dates)?, micros(times)?);
                let sum = |(date, time): (Option<i64>, Option<i64>)| {
                    let (Some(date), Some(time)) = (date, time) else { return Ok(None) };
                    date.checked_add(time).map(Some).ok_or_else(out_of_range)
                };
                let moments: Int64Array = dates.iter().zip(&times).map(sum).collect::<DfResult<_>>()?;
                cast(&moments, &MOMENT)?
            }
            (Operation::Product, [intervals, factors]) => Arc::new(scaled(intervals, factors, |a, b| a * b)?),
            (Operation::Quotient, [intervals, divisors]) => {
                let doubles = cast(divisors, &DataType::Float64)?;
                if doubles.as_primitive::<Float64Type>().iter().any(|d| d == Some(0.0)) {
                    return Err(external(KalamError::new(ErrorCode::DivisionByZero, "division by zero")));
                }
                Arc::new(scaled(intervals, &doubles, |a, b| a / b)?)
            }
            _ => return Err(external(KalamError::internal("an operation has its arguments"))),
        })
    }
}

fn out_of_range() -> DataFusionError {
    external(KalamError::new(ErrorCode::OutOfRange, "an interval is out of range"))
}

fn intervals_of(array: &ArrayRef) -> DfResult<IntervalMonthDayNanoArray> {
    Ok(cast(array, &INTERVAL)?.as_primitive::<IntervalMonthDayNanoType>().clone())
}

fn length(array: &ArrayRef) -> DfResult<Int64Array> {
    let intervals = intervals_of(array)?;
    intervals.iter().map(|i| i.map(|i| interval_length(i).ok_or_else(out_of_range)).transpose()).collect()
}

/// Moments as microseconds since 1970, times as microseconds of the day.
fn micros(array: &ArrayRef) -> DfResult<Int64Array> {
    let fine = match array.data_type() {
        DataType::Timestamp(_, zone) => cast(array, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?,
        DataType::Time32(_) | DataType::Time64(_) => cast(array, &DataType::Time64(TimeUnit::Microsecond))?,
        _ => cast(array, &MOMENT)?,
    };
    Ok(cast(&fine, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

fn difference(left: &Int64Array, right: &Int64Array) -> DfResult<IntervalMonthDayNanoArray> {
    let apart = |(left, right): (Option<i64>, Option<i64>)| {
        let (Some(left), Some(right)) = (left, right) else { return Ok(None) };
        let us = left.checked_sub(right).ok_or_else(out_of_range)?;
        let days = i32::try_from(us / DAY_US).map_err(|_| out_of_range())?;
        Ok(Some(IntervalMonthDayNano::new(0, days, us % DAY_US * 1000)))
    };
    left.iter().zip(right).map(apart).collect()
}

/// Years, months, days and time from one moment to another. Days are counted in the month of the earlier one.
fn years_between(left: i64, right: i64) -> Option<IntervalMonthDayNano> {
    if left < right {
        let IntervalMonthDayNano { months, days, nanoseconds } = years_between(right, left)?;
        return Some(IntervalMonthDayNano::new(-months, -days, -nanoseconds));
    }
    let date = |us: i64| DateTime::from_timestamp_micros(us).map(|moment| moment.date_naive());
    let (to, from) = (date(left)?, date(right)?);
    let mut us = left.rem_euclid(DAY_US) - right.rem_euclid(DAY_US);
    let mut days = to.day() as i32 - from.day() as i32;
    let mut months = (to.year() - from.year()) * 12 + to.month() as i32 - from.month() as i32;
    if us < 0 {
        (us, days) = (us + DAY_US, days - 1);
    }
    if days < 0 {
        (days, months) = (days + i32::from(from.num_days_in_month()), months - 1);
    }
    Some(IntervalMonthDayNano::new(months, days, us * 1000))
}

/// Intervals multiplied or divided. What is left of months goes over into days, of days into time.
fn scaled(intervals: &ArrayRef, by: &ArrayRef, op: fn(f64, f64) -> f64) -> DfResult<IntervalMonthDayNanoArray> {
    // Decimals of thirds and tenths leave crumbs that no one wrote.
    let even = |x: f64| (x * 1e12).round() / 1e12;
    let by: Float64Array = cast(by, &DataType::Float64)?.as_primitive::<Float64Type>().clone();
    let one = |(interval, by): (Option<IntervalMonthDayNano>, Option<f64>)| {
        let (Some(interval), Some(by)) = (interval, by) else { return Ok(None) };
        let months = even(op(f64::from(interval.months), by));
        let days = even(op(f64::from(interval.days), by) + months.fract() * 30.0);
        let us = op(interval.nanoseconds as f64 / 1000.0, by) + days.fract() * DAY_US as f64;
        let fits = |x: f64, most: f64| x.is_finite() && x.abs() < most;
        if !fits(months, 2e9) || !fits(days, 2e9) || !fits(us, 9e15) {
            return Err(out_of_range());
        }
        Ok(Some(IntervalMonthDayNano::new(months.trunc() as i32, days.trunc() as i32, us.round() as i64 * 1000)))
    };
    intervals_of(intervals)?.iter().zip(&by).map(one).collect()
}
