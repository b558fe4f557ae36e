//! What the rows of an outer join have in common.
//!
//! DataFusion says of the rows of an outer join whatever it knows of those of its inputs: that a column holds one value
//! only, say. But the join fills that column with NULLs where it finds no match, and what is planned above (a sort, a
//! window, an aggregate) then counts on a value that is not always there. Invariant: above an outer join whose inputs
//! state equal or constant columns stands an [`UnsaidExec`], which states nothing of its rows, not even their order: a sort
//! moved below it would find that a constant column needs none.

use std::fmt;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result as DfResult, plan_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

/// Puts an [`UnsaidExec`] above outer joins.
#[derive(Debug)]
pub struct OuterJoins;

impl PhysicalOptimizerRule for OuterJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            let kind = plan
                .downcast_ref::<HashJoinExec>()
                .map(|join| *join.join_type())
                .or_else(|| plan.downcast_ref::<NestedLoopJoinExec>().map(|join| *join.join_type()))
                .or_else(|| plan.downcast_ref::<SortMergeJoinExec>().map(|join| join.join_type()));
            let outer = matches!(kind, Some(JoinType::Left | JoinType::Right | JoinType::Full));
            if outer && plan.properties().eq_properties.eq_group().iter().next().is_some() {
                Ok(Transformed::yes(Arc::new(UnsaidExec::new(plan)) as Arc<dyn ExecutionPlan>))
            } else {
                Ok(Transformed::no(plan))
            }
        })
        .data()
    }

    fn name(&self) -> &str {
        "outer_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Hands rows on and says nothing of them.
#[derive(Debug)]
struct UnsaidExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl UnsaidExec {
    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let below = input.properties();
        let stated = EquivalenceProperties::new(input.schema());
        let properties = Arc::new(PlanProperties::clone(below).with_eq_properties(stated));
        Self { input, properties }
    }
}

impl DisplayAs for UnsaidExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnsaidExec")
    }
}

impl ExecutionPlan for UnsaidExec {
    fn name(&self) -> &str {
        "UnsaidExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let input = children.pop().ok_or_else(|| plan_datafusion_err!("UnsaidExec needs an input"))?;
        Ok(Arc::new(Self::new(input)))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}
