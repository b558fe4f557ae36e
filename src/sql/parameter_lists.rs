//! `x IN ($1, $2, …)` in plans that are kept: a set for each run.
//!
//! DataFusion makes a set of a list of constants when it plans; of one whose values come later it compares with one item
//! after the other, which takes hundreds of times as long for lists that people do write. Invariant: a
//! [`ParameterList`] gives what the list in it would give with the values of the run that is being worked for: its set
//! is made of these, and kept together with them.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{InListExpr, in_list};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use parking_lot::Mutex;

use crate::tables::parameters::{ParameterValues, has_parameters_physical, values_of_run, with_values_physical};

/// Puts a [`ParameterList`] in the place of every list with parameters that a filter tests.
#[derive(Debug)]
pub struct ParameterLists;

impl PhysicalOptimizerRule for ParameterLists {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            let Some(filter) = plan.downcast_ref::<FilterExec>() else { return Ok(Transformed::no(plan)) };
            let schema = filter.input().schema();
            let predicate = Arc::clone(filter.predicate()).transform_up(|expr| {
                Ok(match ParameterList::of(&expr, &schema) {
                    Some(list) => Transformed::yes(Arc::new(list) as _),
                    None => Transformed::no(expr),
                })
            })?;
            if !predicate.transformed {
                return Ok(Transformed::no(plan));
            }
            let filter = FilterExecBuilder::from(filter).with_predicate(predicate.data).build()?;
            Ok(Transformed::yes(Arc::new(filter) as _))
        })
        .data()
    }

    fn name(&self) -> &str {
        "parameter_lists"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A test of a list with the set of a run; see the module's comment.
#[derive(Debug)]
struct ParameterList {
    /// The test as it was planned: an [`InListExpr`].
    list: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    /// The test with a set, and the values that the set was made of.
    set: Mutex<Option<(ParameterValues, Arc<dyn PhysicalExpr>)>>,
}

impl ParameterList {
    /// The list that an expression is, if there are parameters in it and all of it is the same for every row.
    fn of(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Option<Self> {
        let items = expr.downcast_ref::<InListExpr>()?.list();
        let constant = items.iter().all(|item| collect_columns(item).is_empty());
        let fits = constant && items.iter().any(has_parameters_physical);
        fits.then(|| Self { list: Arc::clone(expr), schema: Arc::clone(schema), set: Mutex::new(None) })
    }

    /// The test with the values of a run.
    fn with_set(&self, values: &ParameterValues) -> DfResult<Arc<dyn PhysicalExpr>> {
        let mut set = self.set.lock();
        if let Some((of, test)) = set.as_ref()
            && Arc::ptr_eq(of, values)
        {
            return Ok(Arc::clone(test));
        }
        let Some(list) = self.list.downcast_ref::<InListExpr>() else { return Ok(Arc::clone(&self.list)) };
        let items =
            list.list().iter().map(|item| with_values_physical(Arc::clone(item))).collect::<DfResult<Vec<_>>>()?;
        let tested = with_values_physical(Arc::clone(list.expr()))?;
        let test = in_list(tested, items, &list.negated(), &self.schema)?;
        *set = Some((Arc::clone(values), Arc::clone(&test)));
        Ok(test)
    }
}

impl PartialEq for ParameterList {
    fn eq(&self, other: &Self) -> bool {
        self.list.eq(&other.list)
    }
}

impl Eq for ParameterList {}

impl std::hash::Hash for ParameterList {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.list.hash(state);
    }
}

impl fmt::Display for ParameterList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.fmt(f)
    }
}

impl PhysicalExpr for ParameterList {
    fn data_type(&self, schema: &Schema) -> DfResult<DataType> {
        self.list.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> DfResult<bool> {
        self.list.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> DfResult<FieldRef> {
        self.list.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> DfResult<ColumnarValue> {
        match values_of_run() {
            Some(values) => self.with_set(&values)?.evaluate(batch),
            None => self.list.evaluate(batch),
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.list.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> DfResult<Arc<dyn PhysicalExpr>> {
        let list = Arc::clone(&self.list).with_new_children(children)?;
        Ok(Arc::new(Self { list, schema: Arc::clone(&self.schema), set: Mutex::new(None) }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::parameters::{ParameterFunction, within};
    use arrow::array::{AsArray, Int32Array};
    use arrow::datatypes::Field;
    use datafusion::common::{DFSchema, ScalarValue};
    use datafusion::execution::context::ExecutionProps;
    use datafusion::logical_expr::{Expr, col, lit};
    use datafusion::physical_expr::create_physical_expr;

    fn tested(expr: &dyn PhysicalExpr, batch: &RecordBatch) -> Vec<Option<bool>> {
        let array = expr.evaluate(batch).unwrap().into_array(batch.num_rows()).unwrap();
        array.as_boolean().iter().collect()
    }

    #[test]
    fn a_list_of_parameters_is_a_set_of_the_values_of_each_run() {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int32, true)]));
        let batch = Int32Array::from(vec![Some(1), Some(2), Some(7), None]);
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(batch)]).unwrap();
        let parameter = |n| ParameterFunction::call(&format!("${n}"), n, DataType::Int32);
        let physical = |list: Vec<Expr>, negated: bool| {
            let names = DFSchema::try_from(schema.as_ref().clone()).unwrap();
            create_physical_expr(&col("x").in_list(list, negated), &names, &ExecutionProps::new(), &Default::default())
                .unwrap()
        };
        let values = |of: [i32; 2]| -> ParameterValues { of.map(ScalarValue::from).into_iter().collect() };
        for (negated, hit) in [(false, true), (true, false)] {
            let planned = physical(vec![parameter(0), lit(7), parameter(1)], negated);
            let list = ParameterList::of(&planned, &schema).unwrap();
            for _ in 0..2 {
                for (run, expected) in
                    [([1, 5], [hit, !hit, hit]), ([2, 1], [hit, hit, hit]), ([9, 9], [!hit, !hit, hit])]
                {
                    let run = values(run);
                    let expected: Vec<_> = expected.map(Some).into_iter().chain([None]).collect();
                    assert_eq!(within(&run, || tested(&list, &batch)), expected);
                    assert_eq!(within(&run, || tested(planned.as_ref(), &batch)), expected);
                    let (of, set) = list.set.lock().clone().unwrap();
                    assert!(Arc::ptr_eq(&of, &run));
                    // As DataFusion shows one that is looked up and not gone through.
                    assert!(set.to_string().contains("IN (SET)"), "{set}");
                }
            }
        }
        // Not what differs from row to row, nor what has its set already.
        for list in [vec![parameter(0), col("x")], vec![lit(1), lit(2)]] {
            assert!(ParameterList::of(&physical(list, false), &schema).is_none());
        }
    }
}
