//! `coalesce`, of which text beside a date, a time, an interval or a BOOLEAN takes that type.
//!
//! DataFusion has no type for such a mixture. Invariant: only the type is found here; what the call gives is DataFusion's.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, IntervalUnit};
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion_functions::core;

/// The function.
pub fn function() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Coalesce { inner: core::coalesce() }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Coalesce {
    inner: Arc<ScalarUDF>,
}

/// The one type beside text that text is read as.
fn beside_text(types: &[DataType]) -> Option<DataType> {
    let is_text = |t: &&DataType| t.is_string() || t.is_null();
    let mut others = types.iter().filter(|t| !is_text(t));
    let first = others.next()?;
    let is_read = matches!(
        first,
        DataType::Boolean | DataType::Date32 | DataType::Time64(_) | DataType::Timestamp(..) | DataType::Interval(_)
    );
    let has_text = types.iter().any(DataType::is_string);
    (is_read && has_text && others.all(|t| t == first)).then(|| match first {
        DataType::Interval(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        other => other.clone(),
    })
}

impl ScalarUDFImpl for Coalesce {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        match beside_text(types) {
            Some(one) => Ok(vec![one; types.len()]),
            None => self.inner.coerce_types(types),
        }
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> DfResult<ExprSimplifyResult> {
        self.inner.simplify(args, context)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        self.inner.invoke_with_args(args)
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.conditional_arguments(args)
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }
}
