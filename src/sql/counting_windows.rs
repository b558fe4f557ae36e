//! `row_number`, `rank`, `dense_rank` and `ntile` give BIGINT.
//!
//! DataFusion counts with unsigned numbers, which have no place among SQL's types: `-rank()` failed, and beside a BIGINT
//! they became text. Invariant: such a call is planned with a cast around it, so no expression sees the unsigned type.

use arrow::datatypes::DataType;
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawWindowExpr};
use datafusion::logical_expr::{Expr, WindowFunctionDefinition, cast};

/// Plans them.
#[derive(Debug)]
pub struct CountingWindows;

impl ExprPlanner for CountingWindows {
    fn plan_window(&self, expr: RawWindowExpr) -> DfResult<PlannerResult<RawWindowExpr>> {
        let counts = matches!(&expr.func_def, WindowFunctionDefinition::WindowUDF(udf)
            if ["row_number", "rank", "dense_rank", "ntile"].contains(&udf.name()));
        if !counts {
            return Ok(PlannerResult::Original(expr));
        }
        let RawWindowExpr { func_def, args, partition_by, order_by, window_frame, filter, null_treatment, distinct } =
            expr;
        let params =
            WindowFunctionParams { args, partition_by, order_by, window_frame, filter, null_treatment, distinct };
        let call = Expr::WindowFunction(Box::new(WindowFunction { fun: func_def, params }));
        let name = call.schema_name().to_string();
        Ok(PlannerResult::Planned(cast(call, DataType::Int64).alias(name)))
    }
}
