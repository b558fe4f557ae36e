//! Operators of our own between two of DataFusion's: one input, the same columns, no expressions.
//!
//! Invariant: a [`OneInput`] tells DataFusion of itself only what its [`Step`] says; whatever is not said is what
//! DataFusion takes for granted of any operator. What is stated of the rows is found anew for each input, so a rule that
//! exchanges the input cannot leave a statement behind that was true of another one.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, plan_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{OrderingRequirements, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

/// An operator with other inputs, and what it states of its rows found anew.
pub fn with_inputs(
    plan: &Arc<dyn ExecutionPlan>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    Arc::clone(plan).replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// What such an operator does.
pub trait Step: fmt::Debug + Clone + Send + Sync + 'static {
    /// Its name in plans.
    const NAME: &'static str;
    /// Whether rows come in the order of its input.
    const KEEPS_ORDER: bool = false;
    /// Whether it gives every row that it takes, so that a limit above it may go below.
    const KEEPS_ROWS: bool = false;

    /// The order in which it wants the rows of its input.
    fn required_order(&self) -> Option<OrderingRequirements> {
        None
    }

    /// What is stated of its rows: what is of its input's.
    fn properties(&self, input: &Arc<dyn ExecutionPlan>) -> Arc<PlanProperties> {
        Arc::clone(input.properties())
    }

    /// What a plan shows after the name.
    fn details(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    /// Its rows: those of its input.
    fn execute(
        &self,
        input: &Arc<dyn ExecutionPlan>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        input.execute(partition, context)
    }
}

/// The operator of a [`Step`].
#[derive(Debug)]
pub struct OneInput<S> {
    input: Arc<dyn ExecutionPlan>,
    step: S,
    properties: Arc<PlanProperties>,
}

impl<S: Step> OneInput<S> {
    /// The step above an input.
    pub fn above(input: Arc<dyn ExecutionPlan>, step: S) -> Arc<dyn ExecutionPlan> {
        let properties = step.properties(&input);
        Arc::new(Self { input, step, properties })
    }
}

impl<S: Step> DisplayAs for OneInput<S> {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(S::NAME)?;
        self.step.details(f)
    }
}

impl<S: Step> ExecutionPlan for OneInput<S> {
    fn name(&self) -> &str {
        S::NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![S::KEEPS_ORDER]
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![self.step.required_order()]
    }

    fn supports_limit_pushdown(&self) -> bool {
        S::KEEPS_ROWS
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        if S::KEEPS_ROWS { CardinalityEffect::Equal } else { CardinalityEffect::Unknown }
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
        let input = children.pop().ok_or_else(|| plan_datafusion_err!("{} needs an input", S::NAME))?;
        Ok(Self::above(input, self.step.clone()))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        with_inputs(&(self as Arc<dyn ExecutionPlan>), children)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        self.step.execute(&self.input, partition, context)
    }
}
