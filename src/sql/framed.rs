//! Aggregates over the frames of windows.
//!
//! DataFusion moves a frame by taking rows away from the state of an aggregate, and refuses those whose state cannot give
//! rows back (`string_agg`, `bool_or`). And it turns a window round to share the order of another one, `array_agg` with
//! it, whose rows came in the wrong order then. Invariant: an aggregate that is no plain number is planned over a window
//! as a [`Framed`] one. What cannot give rows back is evaluated anew over the rows of each frame; what depends on the
//! order of its rows is never turned round. Everything else about it is what the aggregate says itself.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::concat;
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawWindowExpr};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ReversedUDAF, Signature, WindowFunctionDefinition,
};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};

use crate::types::slice_bytes;

/// Their states are numbers, or a few values in order: rows are given back, and no order matters.
const PLAIN: [&str; 5] = ["count", "sum", "avg", "min", "max"];

/// Plans aggregates over windows.
#[derive(Debug)]
pub struct FramedAggregates;

impl ExprPlanner for FramedAggregates {
    fn plan_window(&self, mut expr: RawWindowExpr) -> DfResult<PlannerResult<RawWindowExpr>> {
        if let WindowFunctionDefinition::AggregateUDF(udf) = &expr.func_def
            && !PLAIN.contains(&udf.name())
        {
            let framed = Framed { inner: Arc::clone(udf) };
            expr.func_def = WindowFunctionDefinition::AggregateUDF(Arc::new(AggregateUDF::new_from_impl(framed)));
        }
        Ok(PlannerResult::Original(expr))
    }
}

/// An aggregate over a window.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Framed {
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for Framed {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> DfResult<String> {
        self.inner.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> DfResult<String> {
        self.inner.human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> DfResult<String> {
        self.inner.window_function_schema_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> DfResult<String> {
        self.inner.window_function_display_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> DfResult<String> {
        self.inner.display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        self.inner.return_type(types)
    }

    fn return_field(&self, fields: &[FieldRef]) -> DfResult<FieldRef> {
        self.inner.return_field(fields)
    }

    fn is_nullable(&self) -> bool {
        self.inner.is_nullable()
    }

    fn default_value(&self, data_type: &DataType) -> DfResult<ScalarValue> {
        self.inner.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    fn state_fields(&self, args: StateFieldsArgs) -> DfResult<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> DfResult<Box<dyn Accumulator>> {
        let making = Making::of(&args);
        let sliding = self.inner.create_sliding_accumulator(args)?;
        if sliding.supports_retract_batch() {
            return Ok(sliding);
        }
        Ok(Box::new(Anew { inner: Arc::clone(&self.inner), making, rows: VecDeque::new() }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner.reverse_udf() {
            // Any order gives the same.
            ReversedUDAF::Identical if self.inner.order_sensitivity() == AggregateOrderSensitivity::Insensitive => {
                ReversedUDAF::Identical
            }
            _ => ReversedUDAF::NotSupported,
        }
    }
}

/// What an accumulator is made with.
#[derive(Debug)]
struct Making {
    return_field: FieldRef,
    schema: SchemaRef,
    ignore_nulls: bool,
    order_bys: Vec<PhysicalSortExpr>,
    is_reversed: bool,
    name: String,
    is_distinct: bool,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl Making {
    fn of(args: &AccumulatorArgs) -> Self {
        Self {
            return_field: Arc::clone(&args.return_field),
            schema: Arc::new(args.schema.clone()),
            ignore_nulls: args.ignore_nulls,
            order_bys: args.order_bys.to_vec(),
            is_reversed: args.is_reversed,
            name: args.name.to_owned(),
            is_distinct: args.is_distinct,
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        }
    }

    fn args(&self) -> AccumulatorArgs<'_> {
        AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: self.ignore_nulls,
            order_bys: &self.order_bys,
            is_reversed: self.is_reversed,
            name: &self.name,
            is_distinct: self.is_distinct,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        }
    }
}

/// The rows of a frame, which are aggregated anew whenever somebody asks.
#[derive(Debug)]
struct Anew {
    inner: Arc<AggregateUDF>,
    making: Making,
    /// In the order that they came in, and go in.
    rows: VecDeque<Vec<ArrayRef>>,
}

impl Anew {
    fn aggregated(&self) -> DfResult<Box<dyn Accumulator>> {
        let mut accumulator = self.inner.accumulator(self.making.args())?;
        let width = self.rows.front().map_or(0, Vec::len);
        if self.rows.len() == 1 {
            accumulator.update_batch(&self.rows[0])?;
        } else if width > 0 {
            let column = |n: usize| concat(&self.rows.iter().map(|rows| rows[n].as_ref()).collect::<Vec<_>>());
            accumulator.update_batch(&(0..width).map(column).collect::<Result<Vec<_>, _>>()?)?;
        }
        Ok(accumulator)
    }
}

impl Accumulator for Anew {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        if values.first().is_some_and(|column| !column.is_empty()) {
            self.rows.push_back(values.to_vec());
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        let mut gone = values.first().map_or(0, |column| column.len());
        while gone > 0
            && let Some(rows) = self.rows.front_mut()
        {
            let there = rows.first().map_or(0, |column| column.len());
            if there <= gone {
                gone -= there;
                self.rows.pop_front();
            } else {
                rows.iter_mut().for_each(|column| *column = column.slice(gone, there - gone));
                gone = 0;
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        self.aggregated()?.evaluate()
    }

    fn size(&self) -> usize {
        let columns = self.rows.iter().flatten().map(|column| slice_bytes(column.as_ref()));
        size_of::<Self>() + columns.sum::<usize>()
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        self.aggregated()?.state()
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> DfResult<()> {
        // A window has one state.
        Err(datafusion::common::DataFusionError::External(Box::new(crate::error::KalamError::internal(
            "the states of two frames were to become one",
        ))))
    }
}
