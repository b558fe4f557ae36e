//! Parameters in plans that are kept: `$1` as a function whose value is looked up when a batch is computed.
//!
//! DataFusion plans a placeholder only once it has a value. So that one physical plan serves every value of a type, a
//! placeholder becomes a call of [`ParameterFunction`] after the logical optimizer, and each run has its values in
//! scope while the plan works for it. Invariant: every call into a plan that has parameters, `execute` and each poll
//! of its stream, is made within [`within`] with the values of its own run; nothing of a plan works outside of such a
//! call, because this engine starts no tasks. So runs may overlap in any order and never see each other's values.
//! While a plan is made ([`while_planning`]) only those who ask for values by name see them ([`with_values`]): a call
//! of the function fails, since what planning computes (the set of an IN list, say) would stay in the plan.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result as DfResult, ScalarValue};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use futures::Stream;

use crate::error::KalamError;

/// The values of the parameters of one run, by their number in the plan.
pub type ParameterValues = Arc<[ScalarValue]>;

#[derive(Clone)]
struct Scope {
    values: ParameterValues,
    planning: bool,
}

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// Puts the former values back, also when the work panics.
struct Restore(Option<Scope>);

impl Drop for Restore {
    fn drop(&mut self) {
        let former = self.0.take();
        SCOPE.with(|scope| *scope.borrow_mut() = former);
    }
}

fn in_scope<T>(scope: Scope, work: impl FnOnce() -> T) -> T {
    let former = SCOPE.with(|slot| slot.borrow_mut().replace(scope));
    let _restore = Restore(former);
    work()
}

/// Does some work of a plan with the values of its run.
pub fn within<T>(values: &ParameterValues, work: impl FnOnce() -> T) -> T {
    in_scope(Scope { values: Arc::clone(values), planning: false }, work)
}

/// Makes a plan that is good for other values too; these may tell which way is best.
pub async fn while_planning<T>(values: &ParameterValues, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let scope = Scope { values: Arc::clone(values), planning: true };
    futures::future::poll_fn(|context| in_scope(scope.clone(), || work.as_mut().poll(context))).await
}

/// The values of the run that is being worked for; none while a plan is made.
pub fn values_of_run() -> Option<ParameterValues> {
    SCOPE.with(|scope| scope.borrow().as_ref().filter(|scope| !scope.planning).map(|scope| Arc::clone(&scope.values)))
}

fn missing(what: impl fmt::Display) -> DataFusionError {
    DataFusionError::External(Box::new(KalamError::internal(what)))
}

/// The value of a parameter of the run that is being worked for.
fn value_of(number: usize) -> DfResult<ScalarValue> {
    let value = SCOPE.with(|scope| scope.borrow().as_ref().and_then(|scope| scope.values.get(number).cloned()));
    value.ok_or_else(|| missing(format_args!("a plan asks for parameter {number}, which has no value")))
}

/// A parameter in a physical plan.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ParameterFunction {
    /// As it is written, with its `$`.
    placeholder: String,
    number: usize,
    data_type: DataType,
    signature: Signature,
}

impl ParameterFunction {
    /// The expression of a parameter.
    pub fn call(placeholder: &str, number: usize, data_type: DataType) -> Expr {
        // Volatile: what computes constants while planning must leave it alone.
        let signature = Signature::nullary(Volatility::Volatile);
        let function = Self { placeholder: placeholder.to_owned(), number, data_type, signature };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), Vec::new()))
    }

    /// The parameter that an expression is.
    pub fn of(expr: &Expr) -> Option<&Self> {
        match expr {
            Expr::ScalarFunction(call) => call.func.inner().downcast_ref::<Self>(),
            _ => None,
        }
    }

    /// Its value in the run that is being worked for.
    fn value(&self) -> DfResult<ScalarValue> {
        value_of(self.number)
    }
}

impl ScalarUDFImpl for ParameterFunction {
    fn name(&self) -> &str {
        &self.placeholder
    }

    /// A column that is a parameter keeps the name that it had as a placeholder.
    fn schema_name(&self, _: &[Expr]) -> DfResult<String> {
        Ok(self.placeholder.clone())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.data_type.clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs) -> DfResult<FieldRef> {
        Ok(Arc::new(Field::new(&self.placeholder, self.data_type.clone(), true)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        if SCOPE.with(|scope| scope.borrow().as_ref().is_some_and(|scope| scope.planning)) {
            return Err(missing(format_args!("the value of {} is asked for while planning", self.placeholder)));
        }
        self.value().map(ColumnarValue::Scalar)
    }
}

/// Whether parameters are in an expression.
pub fn has_parameters(expr: &Expr) -> bool {
    // The closure never fails.
    expr.exists(|e| Ok(ParameterFunction::of(e).is_some())).unwrap_or(true)
}

/// An expression with the values of the run in the place of its parameters: for what looks at constants when it is
/// executed, pruning by statistics say.
pub fn with_values(expr: Expr) -> DfResult<Expr> {
    expr.transform_up(|expr| {
        if let Some(parameter) = ParameterFunction::of(&expr) {
            return Ok(Transformed::yes(Expr::Literal(parameter.value()?, None)));
        }
        // A constant of another type is a constant.
        if let Expr::Cast(cast) = &expr
            && let Expr::Literal(value, _) = cast.expr.as_ref()
            && let Ok(value) = value.cast_to(cast.field.data_type())
        {
            return Ok(Transformed::yes(Expr::Literal(value, None)));
        }
        Ok(Transformed::no(expr))
    })
    .data()
}

/// As [`has_parameters`], for a physical expression.
pub fn has_parameters_physical(expr: &Arc<dyn PhysicalExpr>) -> bool {
    // The closure never fails.
    expr.exists(|e| Ok(of_physical(e).is_some())).unwrap_or(true)
}

/// The parameter that a physical expression is.
fn of_physical(expr: &Arc<dyn PhysicalExpr>) -> Option<&ParameterFunction> {
    expr.downcast_ref::<ScalarFunctionExpr>()?.fun().inner().downcast_ref::<ParameterFunction>()
}

/// As [`with_values`], for a physical expression.
pub fn with_values_physical(expr: Arc<dyn PhysicalExpr>) -> DfResult<Arc<dyn PhysicalExpr>> {
    expr.transform_up(|expr| match of_physical(&expr) {
        Some(parameter) => {
            let literal: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(parameter.value()?));
            Ok(Transformed::yes(literal))
        }
        None => Ok(Transformed::no(expr)),
    })
    .data()
}

/// The stream of a run: polls the plan with the run's values.
pub struct WithValues {
    stream: SendableRecordBatchStream,
    values: ParameterValues,
}

impl WithValues {
    /// The stream of a plan that was executed within `values`.
    pub fn new(stream: SendableRecordBatchStream, values: ParameterValues) -> Self {
        Self { stream, values }
    }
}

impl Stream for WithValues {
    type Item = DfResult<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { stream, values } = &mut *self;
        within(values, || stream.as_mut().poll_next(context))
    }
}

impl RecordBatchStream for WithValues {
    fn schema(&self) -> SchemaRef {
        self.stream.schema()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: i64) -> ParameterValues {
        Arc::from([ScalarValue::from(n)])
    }

    #[test]
    fn scopes_nest_and_end() {
        assert!(value_of(0).is_err());
        let seen = within(&values(1), || {
            let inner = within(&values(2), || value_of(0));
            (inner.ok(), value_of(0).ok(), value_of(1).is_err())
        });
        assert_eq!(seen, (Some(ScalarValue::from(2i64)), Some(ScalarValue::from(1i64)), true));
        assert!(value_of(0).is_err());
    }

    #[test]
    fn expressions_take_the_values_of_their_run() {
        let expr = Expr::Not(Box::new(ParameterFunction::call("$1", 0, DataType::Boolean)));
        assert!(with_values(expr.clone()).is_err());
        let run: ParameterValues = Arc::from([ScalarValue::from(true)]);
        let bound = within(&run, || with_values(expr)).expect("there is a value");
        assert_eq!(bound, Expr::Not(Box::new(Expr::Literal(ScalarValue::from(true), None))));
    }
}
