//! Arithmetic that fails instead of giving what is no answer.
//!
//! DataFusion's `+`, `-` and `*` wrap around at the ends of an integer type, its `/` makes infinity of floating point
//! numbers, and its planner cannot be told otherwise. Invariant: where both sides are integers, and where a number is
//! divided by or into a floating point number, the operator is planned as a call of [`Checked`], whose kernels fail
//! with `NUMERIC_VALUE_OUT_OF_RANGE` and `DIVISION_BY_ZERO` instead. The result's type is that of the wider side, as
//! in PostgreSQL. What has no type yet while SQL is planned (parameters) is found by [`checked`] afterwards.
//!
//! A chain of operators of one precedence (`a + b - c`) is one call, whose steps are done from the left as nested calls
//! would do them: DataFusion writes the name of a call anew for each call around it, and walks the tree by recursion, so
//! a sum of a thousand terms must not be a thousand levels.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Datum};
use arrow::compute::kernels::{cast, numeric};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::error::{ErrorCode, KalamError};

/// Plans integer arithmetic.
#[derive(Debug)]
pub struct CheckedArithmetic;

impl ExprPlanner for CheckedArithmetic {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> DfResult<PlannerResult<RawBinaryExpr>> {
        let operation = match expr.op {
            BinaryOperator::Plus => Operation::Add,
            BinaryOperator::Minus => Operation::Subtract,
            BinaryOperator::Multiply => Operation::Multiply,
            BinaryOperator::Divide => Operation::Divide,
            BinaryOperator::Modulo => Operation::Remainder,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        if !operation.is_checked(&expr.left, &expr.right, schema) {
            return Ok(PlannerResult::Original(expr));
        }
        Ok(PlannerResult::Planned(operation.call(expr.left, expr.right, schema)?))
    }
}

/// An expression of a plan with the checked operator in its place, if it is arithmetic that can fail.
pub fn checked(expr: Expr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let operation = match op {
                Operator::Plus => Operation::Add,
                Operator::Minus => Operation::Subtract,
                Operator::Multiply => Operation::Multiply,
                Operator::Divide => Operation::Divide,
                Operator::Modulo => Operation::Remainder,
                _ => return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
            };
            match operation.is_checked(&left, &right, schema) {
                true => Transformed::yes(operation.call(*left, *right, schema)?),
                false => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            }
        }
        // -x of the least integer has no place in its type: it is 0 - x.
        Expr::Negative(inner) => match inner.get_type(schema) {
            Ok(data_type) if rank(&data_type).is_some() => {
                let zero = Expr::Literal(ScalarValue::new_zero(&data_type)?, None);
                Transformed::yes(Operation::Subtract.call(zero, *inner, schema)?)
            }
            _ => Transformed::no(Expr::Negative(inner)),
        },
        other => Transformed::no(other),
    })
}

/// How wide an integer type is as a signed one; `None` if it is no integer.
fn rank(data_type: &DataType) -> Option<u8> {
    Some(match data_type {
        DataType::Int8 => 1,
        DataType::Int16 | DataType::UInt8 => 2,
        DataType::Int32 | DataType::UInt16 => 4,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => 8,
        _ => return None,
    })
}

fn wider(left: &DataType, right: &DataType) -> DataType {
    if rank(left).is_none() || rank(right).is_none() {
        return if left == right { left.clone() } else { DataType::Float64 };
    }
    match rank(left).max(rank(right)) {
        Some(1) => DataType::Int8,
        Some(2) => DataType::Int16,
        Some(4) => DataType::Int32,
        _ => DataType::Int64,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Operation {
    /// Whether the operator is planned as a checked one. A parameter whose type is not known yet is not.
    fn is_checked(self, left: &Expr, right: &Expr, schema: &DFSchema) -> bool {
        let (Ok(left), Ok(right)) = (type_of(left, schema), type_of(right, schema)) else { return false };
        match self {
            Self::Add | Self::Subtract | Self::Multiply => rank(&left).is_some() && rank(&right).is_some(),
            Self::Divide | Self::Remainder => {
                (left.is_floating() || right.is_floating()) && left.is_numeric() && right.is_numeric()
            }
        }
    }

    fn call(self, left: Expr, right: Expr, schema: &DFSchema) -> DfResult<Expr> {
        let output = wider(&type_of(&left, schema)?, &type_of(&right, schema)?);
        // A chain on the left side goes on.
        let chain = Checked::of(&left).map(|chain| chain.steps.clone());
        let (mut steps, mut args) = match (left, chain) {
            (Expr::ScalarFunction(call), Some(steps)) if steps.iter().all(|step| step.binds_as(self)) => {
                (steps, call.args)
            }
            (left, _) => (Vec::new(), vec![left]),
        };
        steps.push(self);
        args.push(right);
        let signature = Signature::any(args.len(), Volatility::Immutable);
        let udf = Arc::new(ScalarUDF::new_from_impl(Checked { steps, output, signature }));
        Ok(Expr::ScalarFunction(ScalarFunction::new_udf(udf, args)))
    }

    /// Whether both have the same precedence.
    fn binds_as(self, other: Self) -> bool {
        let sum = |operation| matches!(operation, Self::Add | Self::Subtract);
        sum(self) == sum(other)
    }

    fn sign(self) -> &'static str {
        match self {
            Operation::Add => " + ",
            Operation::Subtract => " - ",
            Operation::Multiply => " * ",
            Operation::Divide => " / ",
            Operation::Remainder => " % ",
        }
    }
}

/// The type of an expression; that of a chain is known.
fn type_of(expr: &Expr, schema: &DFSchema) -> DfResult<DataType> {
    Checked::of(expr).map_or_else(|| expr.get_type(schema), |chain| Ok(chain.output.clone()))
}

/// Checked operators, one after the other from the left.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    /// Between each argument and the next one.
    steps: Vec<Operation>,
    /// The type of the last result, as it was planned.
    output: DataType,
    signature: Signature,
}

impl Checked {
    /// The operators of a call of them.
    fn of(expr: &Expr) -> Option<&Self> {
        match expr {
            Expr::ScalarFunction(call) => call.func.inner().downcast_ref::<Self>(),
            _ => None,
        }
    }
}

/// Whether an operator stands in a name outside of parentheses.
fn has_sign(name: &str) -> bool {
    let mut depth = 0_usize;
    name.split(' ').any(|word| {
        let is_sign = depth == 0 && matches!(word, "+" | "-" | "*" | "/" | "%");
        depth = (depth + word.matches('(').count()).saturating_sub(word.matches(')').count());
        is_sign
    })
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match self.steps.as_slice() {
            [first, rest @ ..] if rest.iter().all(|step| step == first) => match first {
                Operation::Add => "add",
                Operation::Subtract => "subtract",
                Operation::Multiply => "multiply",
                Operation::Divide => "divide",
                Operation::Remainder => "remainder",
            },
            [Operation::Add | Operation::Subtract, ..] => "add_subtract",
            _ => "multiply_divide",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        let signs = std::iter::once("").chain(self.steps.iter().map(|step| step.sign()));
        Ok(signs.zip(args).fold(String::new(), |name, (sign, arg)| {
            let arg_name = arg.schema_name().to_string();
            // a - (b - c) is not a - b - c. The name alone decides: an optimizer that computes an argument once puts a
            // column of the same name in its place, and the name of the whole must stay.
            if has_sign(&arg_name) { format!("{name}{sign}({arg_name})") } else { format!("{name}{sign}{arg_name}") }
        }))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(types.iter().skip(1).fold(types.first().cloned().unwrap_or(DataType::Int64), |a, b| wider(&a, b)))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> DfResult<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|f| f.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let mut args = args.args.into_iter();
        let first = args
            .next()
            .ok_or_else(|| DataFusionError::External(Box::new(KalamError::internal("an operator has two sides"))))?;
        self.steps.iter().zip(args).try_fold(first, |left, (step, right)| step.of(&left, &right))
    }
}

impl Operation {
    /// What it gives of two values.
    fn of(self, left: &ColumnarValue, right: &ColumnarValue) -> DfResult<ColumnarValue> {
        let target = wider(&left.data_type(), &right.data_type());
        let scalars = matches!((left, right), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let (left, right) = (side(left, &target)?, side(right, &target)?);
        let outcome: Result<ArrayRef, _> = match self {
            Operation::Add => numeric::add(left.as_ref(), right.as_ref()),
            Operation::Subtract => numeric::sub(left.as_ref(), right.as_ref()),
            Operation::Multiply => numeric::mul(left.as_ref(), right.as_ref()),
            Operation::Divide => numeric::div(left.as_ref(), right.as_ref()),
            Operation::Remainder => numeric::rem(left.as_ref(), right.as_ref()),
        };
        let array = outcome.map_err(|error| match error {
            arrow::error::ArrowError::ArithmeticOverflow(what) => DataFusionError::External(Box::new(
                KalamError::new(
                    ErrorCode::OutOfRange,
                    format!("integer out of range: {}", what.trim_start_matches("Overflow happened on: ")),
                )
                .with_hint("Cast one side to a wider type, DECIMAL(38,0) say."),
            )),
            other => other.into(),
        })?;
        check_finite(&array, left.as_ref(), right.as_ref())?;
        if scalars {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?));
        }
        Ok(ColumnarValue::Array(array))
    }
}

/// Fails where floating point numbers were divided by zero, or have no room for their quotient.
fn check_finite(array: &ArrayRef, left: &dyn Datum, right: &dyn Datum) -> DfResult<()> {
    if !array.data_type().is_floating() {
        return Ok(());
    }
    let doubles = |array: &dyn Array| cast(array, &DataType::Float64);
    let results = doubles(array)?;
    let results = results.as_primitive::<Float64Type>();
    let Some(row) = (0..results.len()).find(|&i| !results.value(i).is_finite() && results.is_valid(i)) else {
        return Ok(());
    };
    let ((left, one_left), (right, one_right)) = (left.get(), right.get());
    let (left, right) = (doubles(left)?, doubles(right)?);
    let (left, right) = (left.as_primitive::<Float64Type>(), right.as_primitive::<Float64Type>());
    // One row that is what it should be says nothing of those behind it.
    for row in row..results.len() {
        let a = left.value(if one_left { 0 } else { row });
        let b = right.value(if one_right { 0 } else { row });
        if !results.is_valid(row) || a.is_nan() || b.is_nan() {
            continue;
        }
        let error = if b == 0.0 {
            KalamError::new(ErrorCode::DivisionByZero, "division by zero")
                .with_hint("x / nullif(y, 0) is NULL where y is 0.")
        } else if a.is_finite() && !results.value(row).is_finite() {
            KalamError::new(ErrorCode::OutOfRange, format!("{a} / {b} is out of range for DOUBLE"))
        } else {
            continue;
        };
        return Err(DataFusionError::External(Box::new(error)));
    }
    Ok(())
}

/// One side of an operator as the kernels take it, in the result's type.
fn side(value: &ColumnarValue, target: &DataType) -> DfResult<Box<dyn Datum>> {
    Ok(match value {
        ColumnarValue::Array(array) if array.data_type() == target => Box::new(Arc::clone(array)),
        ColumnarValue::Array(array) => Box::new(cast(array, target)?),
        ColumnarValue::Scalar(scalar) => Box::new(scalar.cast_to(target)?.to_scalar()?),
    })
}
