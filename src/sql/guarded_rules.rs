//! Optimizer rules of DataFusion, kept away from plans that they change the meaning of.
//!
//! A join holds one setting for all of its keys. DataFusion's rules add a condition `a = b` to the keys of a join whose
//! setting says that NULL equals NULL, and merge joins of either setting, so that `a = b` becomes true for NULLs. And
//! a condition that names no column is moved below an aggregate without groups, which has a row for no rows.
//! Of the rules for physical plans two go by the names of columns, which need not be unique: one moves a filter to the side
//! of a join that has columns of its names, the other lets an aggregate drop groups by an order it takes for its own,
//! and looks through windows on its way. Both are left out; a scan has its filters from the logical plan already.
//! Invariant: a join with that setting keeps the keys that it was made with, and a filter above an aggregate that has
//! a row for no rows stays above it.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{NullEquality, Result as DfResult};
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan};
use datafusion::optimizer::optimizer::{ApplyOrder, Optimizer};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::ProjectionExec;

use super::unsaid::Unsaid;
use super::written_order::WrittenOrder;

type Rule = Arc<dyn OptimizerRule + Send + Sync>;
type PhysicalRule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// DataFusion's rules, three of them guarded.
pub fn optimizer_rules() -> Vec<Rule> {
    let guard = |rule: Rule| {
        let keeps = match rule.name() {
            "extract_equijoin_predicate" => nulls_are_equal,
            "eliminate_cross_join" => nulls_are_equal_below,
            "push_down_filter" => is_above_a_total,
            _ => return rule,
        };
        Arc::new(Guarded { rule, keeps }) as Rule
    };
    let rules = Optimizer::new().rules.into_iter().map(guard);
    std::iter::once(Arc::new(ConstantsRight) as Rule).chain(rules).collect()
}

/// `'b' = x` in the condition of a join as `x = 'b'`. From a condition and the keys of an outer join DataFusion finds out
/// what must be true of the other side, again and again, and takes two equal conditions that are written differently for
/// a contradiction: the join then found no row. In WHERE it turns them around by itself.
#[derive(Debug)]
struct ConstantsRight;

impl OptimizerRule for ConstantsRight {
    fn name(&self) -> &str {
        "constants_right"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        let LogicalPlan::Join(mut join) = plan else { return Ok(Transformed::no(plan)) };
        let Some(condition) = join.filter.take() else { return Ok(Transformed::no(LogicalPlan::Join(join))) };
        let turned = condition.transform_up(|expr| match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if matches!(*left, Expr::Literal(..)) && !matches!(*right, Expr::Literal(..)) =>
            {
                Ok(match op.swap() {
                    Some(op) => Transformed::yes(Expr::BinaryExpr(BinaryExpr { left: right, op, right: left })),
                    None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
                })
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(turned.update_data(|condition| {
            join.filter = Some(condition);
            LogicalPlan::Join(join)
        }))
    }
}

/// DataFusion's rules for physical plans but those that go by names, with [`Unsaid`] and [`WrittenOrder`] among them.
pub fn physical_rules() -> Vec<PhysicalRule> {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.retain(|rule| !["FilterPushdown", "FilterPushdown(Post)", "LimitAggregation"].contains(&rule.name()));
    // Behind what chooses the kinds of joins, before what places sorts.
    let place = rules.iter().position(|rule| rule.name() == "EnsureRequirements").unwrap_or(0);
    rules.insert(place, Arc::new(Unsaid));
    rules.insert(place, Arc::new(WrittenOrder));
    let guard = |rule: PhysicalRule| match rule.name() {
        "ProjectionPushdown" => Arc::new(WithoutFilterProjections(rule)) as PhysicalRule,
        _ => rule,
    };
    rules.into_iter().map(guard).collect()
}

/// DataFusion's rule that moves projections down, without projections within filters: it takes the columns behind one for
/// those before it, and the filter then compares others. The rule puts such projections back.
#[derive(Debug)]
struct WithoutFilterProjections(PhysicalRule);

impl PhysicalOptimizerRule for WithoutFilterProjections {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        let plan = plan.transform_up(|plan| {
            let Some(filter) = plan.downcast_ref::<FilterExec>() else { return Ok(Transformed::no(plan)) };
            let Some(columns) = filter.projection().as_deref() else { return Ok(Transformed::no(plan)) };
            let below = filter.input().schema();
            let columns = columns.iter().map(|&i| {
                let name = below.field(i).name();
                ProjectionExpr { expr: Arc::new(Column::new(name, i)), alias: name.clone() }
            });
            let columns: Vec<ProjectionExpr> = columns.collect();
            let whole = FilterExecBuilder::from(filter).apply_projection(None)?.build()?;
            Ok(Transformed::yes(Arc::new(ProjectionExec::try_new(columns, Arc::new(whole))?) as _))
        });
        self.0.optimize(plan.data()?, config)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// A rule, and what it leaves alone.
#[derive(Debug)]
struct Guarded {
    rule: Rule,
    keeps: fn(&LogicalPlan) -> bool,
}

fn nulls_are_equal(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join(join) if join.null_equality == NullEquality::NullEqualsNull)
}

fn nulls_are_equal_below(plan: &LogicalPlan) -> bool {
    // The closure never fails.
    plan.exists(|plan| Ok(nulls_are_equal(plan))).unwrap_or(true)
}

/// Whether a plan is a filter of an aggregate with a group for no rows.
fn is_above_a_total(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Filter(filter) = plan else { return false };
    matches!(filter.input.as_ref(), LogicalPlan::Aggregate(aggregate)
        if aggregate.group_expr.is_empty() || aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))))
}

impl OptimizerRule for Guarded {
    fn name(&self) -> &str {
        self.rule.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.rule.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        if (self.keeps)(&plan) { Ok(Transformed::no(plan)) } else { self.rule.rewrite(plan, config) }
    }
}
