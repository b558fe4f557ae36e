//! Integer arithmetic that never wraps.
//!
//! DataFusion's `+`, `-` and `*` wrap around at the ends of an integer type, and its planner cannot be told otherwise.
//! Invariant: where both sides are integers, the operator is planned as a call of [`Checked`], whose kernels fail with
//! `NUMERIC_VALUE_OUT_OF_RANGE` instead. The result's type is that of the wider side, as in PostgreSQL.

use std::sync::Arc;

use arrow::array::{ArrayRef, Datum};
use arrow::compute::kernels::{cast, numeric};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
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
            _ => return Ok(PlannerResult::Original(expr)),
        };
        // A parameter whose type is not known yet stays with DataFusion.
        let types = (expr.left.get_type(schema).ok(), expr.right.get_type(schema).ok());
        match types {
            (Some(left), Some(right)) if rank(&left).is_some() && rank(&right).is_some() => {
                let checked = Checked { operation, signature: Signature::any(2, Volatility::Immutable) };
                let call =
                    ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(checked)), vec![expr.left, expr.right]);
                Ok(PlannerResult::Planned(Expr::ScalarFunction(call)))
            }
            _ => Ok(PlannerResult::Original(expr)),
        }
    }
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
}

impl Operation {
    fn sign(self) -> &'static str {
        match self {
            Operation::Add => " + ",
            Operation::Subtract => " - ",
            Operation::Multiply => " * ",
        }
    }
}

/// The checked operator.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    operation: Operation,
    signature: Signature,
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Add => "add",
            Operation::Subtract => "subtract",
            Operation::Multiply => "multiply",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        let sides: Vec<String> = args.iter().map(|a| a.schema_name().to_string()).collect();
        Ok(sides.join(self.operation.sign()))
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
        let target = args.return_field.data_type().clone();
        let scalars = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let sides = args.args.iter().map(|a| side(a, &target)).collect::<DfResult<Vec<_>>>()?;
        let [left, right] = sides.as_slice() else {
            return Err(DataFusionError::External(Box::new(KalamError::internal("an operator has two sides"))));
        };
        let outcome: Result<ArrayRef, _> = match self.operation {
            Operation::Add => numeric::add(left.as_ref(), right.as_ref()),
            Operation::Subtract => numeric::sub(left.as_ref(), right.as_ref()),
            Operation::Multiply => numeric::mul(left.as_ref(), right.as_ref()),
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
        if scalars {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?));
        }
        Ok(ColumnarValue::Array(array))
    }
}

/// One side of an operator as the kernels take it, in the result's type.
fn side(value: &ColumnarValue, target: &DataType) -> DfResult<Box<dyn Datum>> {
    Ok(match value {
        ColumnarValue::Array(array) if array.data_type() == target => Box::new(Arc::clone(array)),
        ColumnarValue::Array(array) => Box::new(cast(array, target)?),
        ColumnarValue::Scalar(scalar) => Box::new(scalar.cast_to(target)?.to_scalar()?),
    })
}
