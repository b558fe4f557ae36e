//! Lets a running plan be cancelled, run out of time, and make room for other requests.
//!
//! A table scan looks at its request between batches, but a plan may work for minutes without reading a table: a join
//! of generated rows, say. Invariant: in every plan, each leaf that is not a table scan, and each join, sort, aggregate
//! and window, hands its batches on through a `CheckExec`, so between two checks lies the work of a few batches at the
//! most. What an operator does with all of its rows at once (the hash table of a join, one partition of a window) is one
//! step.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use futures::StreamExt;

use super::one_input::{OneInput, Step};
use crate::platform::Turns;
use crate::tables::{Request, TableScanExec};

/// Puts a `CheckExec` above leaves, and above what gives its rows only after it has taken all.
#[derive(Debug)]
pub struct EnsureChecks;

impl PhysicalOptimizerRule for EnsureChecks {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            let leaf = plan.children().is_empty() && !plan.is::<TableScanExec>();
            let join = plan.is::<CrossJoinExec>()
                || plan.is::<NestedLoopJoinExec>()
                || plan.is::<HashJoinExec>()
                || plan.is::<SortMergeJoinExec>();
            // Who reads a sort to its end (a window, an aggregate) would merge all of its runs in one go.
            let collects = plan.is::<SortExec>()
                || plan.is::<AggregateExec>()
                || plan.is::<WindowAggExec>()
                || plan.is::<BoundedWindowAggExec>();
            if leaf || join || collects {
                Ok(Transformed::yes(OneInput::above(plan, Check)))
            } else {
                Ok(Transformed::no(plan))
            }
        })
        .data()
    }

    fn name(&self) -> &str {
        "ensure_checks"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Hands batches on and looks at the request between them.
#[derive(Debug, Clone)]
struct Check;

impl Step for Check {
    const NAME: &'static str = "CheckExec";
    const KEEPS_ORDER: bool = true;

    fn execute(
        &self,
        input: &Arc<dyn ExecutionPlan>,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> DfResult<SendableRecordBatchStream> {
        let request = context.session_config().get_extension::<Request>();
        let stream = input.execute(partition, context)?;
        let checked =
            futures::stream::unfold((stream, request, Turns::begin()), |(mut stream, request, mut turns)| async move {
                turns.pass().await;
                if let Some(Err(error)) = request.as_ref().map(|request| request.check()) {
                    return Some((Err(DataFusionError::External(Box::new(error))), (stream, request, turns)));
                }
                let batch = stream.next().await?;
                Some((batch, (stream, request, turns)))
            });
        Ok(Box::pin(RecordBatchStreamAdapter::new(input.schema(), checked)))
    }
}
