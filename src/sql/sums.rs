//! `sum()` of integers that fails where it does not fit, instead of wrapping around.
//!
//! Invariant: integers are added up in 128 bits, where no number of rows overflows, and only what is asked for, the
//! sum, must fit into a BIGINT: the order of rows never decides whether a statement fails. Sums of everything else,
//! and of distinct values, are DataFusion's.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, PrimitiveArray};
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, Expr, GroupsAccumulator, Operator, ReversedUDAF, Signature,
};

use crate::error::{ErrorCode, KalamError};

/// The aggregate function `sum`.
pub fn sum() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(CheckedSum { inner: Sum::new() }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    inner: Sum,
}

fn is_ours(returned: &DataType, distinct: bool) -> bool {
    *returned == DataType::Int64 && !distinct
}

fn fit(sum: i128) -> DfResult<i64> {
    i64::try_from(sum).map_err(|_| {
        let error = KalamError::new(ErrorCode::OutOfRange, format!("integer out of range: the sum is {sum}"));
        DataFusionError::External(Box::new(error.with_hint("Sum a wider type, as in sum(x::DECIMAL(38,0)).")))
    })
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        match is_ours(args.return_field.data_type(), args.is_distinct) {
            true => Ok(Box::new(Total::default())),
            false => self.inner.accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        match is_ours(args.return_field.data_type(), args.is_distinct) {
            true => Ok(Box::new(Total::default())),
            false => self.inner.create_sliding_accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        match is_ours(args.return_type(), args.is_distinct) {
            true => Ok(vec![Arc::new(Field::new(format!("{}[sum]", args.name), STATE, true))]),
            false => self.inner.state_fields(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn GroupsAccumulator>> {
        match is_ours(args.return_field.data_type(), args.is_distinct) {
            true => Ok(Box::new(Totals::default())),
            false => self.inner.create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        arg: &Expr,
        op: Operator,
        literal: &Expr,
        arg_is_left: bool,
    ) -> DfResult<Option<Expr>> {
        self.inner.simplify_expr_op_literal(function, arg, op, literal, arg_is_left)
    }
}

/// How sums travel between accumulators: whole, so that only the last one must fit.
const STATE: DataType = DataType::Decimal128(38, 0);

fn state_array(values: impl Iterator<Item = Option<i128>>) -> DfResult<ArrayRef> {
    Ok(Arc::new(values.collect::<PrimitiveArray<Decimal128Type>>().with_data_type(STATE)))
}

/// The sum of rows that may be taken away again (of a window's frame).
#[derive(Debug, Default)]
struct Total {
    sum: i128,
    rows: usize,
}

impl Total {
    fn value(&self) -> Option<i128> {
        (self.rows > 0).then_some(self.sum)
    }
}

fn of_batch(values: &[ArrayRef]) -> (i128, usize) {
    let Some(values) = values.first().and_then(|v| v.as_primitive_opt::<Int64Type>()) else { return (0, 0) };
    let rows = values.len() - values.null_count();
    let sum = match values.null_count() {
        0 => values.values().iter().map(|&v| i128::from(v)).sum(),
        _ => values.iter().flatten().map(i128::from).sum(),
    };
    (sum, rows)
}

impl Accumulator for Total {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let (sum, rows) = of_batch(values);
        self.sum += sum;
        self.rows += rows;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let (sum, rows) = of_batch(values);
        self.sum -= sum;
        self.rows -= rows;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        Ok(ScalarValue::Int64(self.value().map(fit).transpose()?))
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Decimal128(self.value(), 38, 0)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for sum in states.iter().flat_map(|s| s.as_primitive::<Decimal128Type>()).flatten() {
            self.sum += sum;
            self.rows += 1;
        }
        Ok(())
    }
}

/// The sums of groups.
#[derive(Debug, Default)]
struct Totals {
    sums: Vec<i128>,
    /// Whether a group has a value at all.
    seen: Vec<bool>,
}

impl Totals {
    fn add(
        &mut self,
        values: impl Iterator<Item = Option<i128>>,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) {
        self.sums.resize(total, 0);
        self.seen.resize(total, false);
        for (row, (value, &group)) in values.zip(groups).enumerate() {
            let counts = filter.is_none_or(|f| f.is_valid(row) && f.value(row));
            if let (Some(value), true) = (value, counts) {
                self.sums[group] += value;
                self.seen[group] = true;
            }
        }
    }

    fn take(&mut self, emit: EmitTo) -> impl Iterator<Item = Option<i128>> + use<> {
        let (sums, seen) = (emit.take_needed(&mut self.sums), emit.take_needed(&mut self.seen));
        sums.into_iter().zip(seen).map(|(sum, seen)| seen.then_some(sum))
    }
}

impl GroupsAccumulator for Totals {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        for values in values {
            let values = values.as_primitive::<Int64Type>();
            match values.null_count() {
                0 => self.add(values.values().iter().map(|&v| Some(v.into())), groups, filter, total),
                _ => self.add(values.iter().map(|v| v.map(i128::from)), groups, filter, total),
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> DfResult<ArrayRef> {
        let sums = self.take(emit).map(|sum| sum.map(fit).transpose());
        Ok(Arc::new(sums.collect::<DfResult<Int64Array>>()?))
    }

    fn state(&mut self, emit: EmitTo) -> DfResult<Vec<ArrayRef>> {
        Ok(vec![state_array(self.take(emit))?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DfResult<()> {
        for states in states {
            self.add(states.as_primitive::<Decimal128Type>().iter(), groups, None, total);
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let to_state = |values: &ArrayRef| {
            let counts = |row: usize| filter.is_none_or(|f| f.is_valid(row) && f.value(row));
            let values = values.as_primitive::<Int64Type>().iter().enumerate();
            state_array(values.map(|(row, v)| v.filter(|_| counts(row)).map(i128::from)))
        };
        values.iter().map(to_state).collect()
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}
