//! What a grouping says of its columns, where DataFusion says too much of it.
//!
//! Of the rows of a DISTINCT or GROUP BY DataFusion notes that the columns they are unique by determine the others. A join
//! repeats such rows, and when these are grouped again, it takes those columns for ones that determine the whole group, with
//! what comes from the join's other side: a GROUP BY or ORDER BY above that names both lost the second. Invariant: above a
//! grouping of repeated rows a projection passes such columns through a function that says nothing of its result, so
//! nobody learns of it.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{Column, Dependency, Result as DfResult};
use datafusion::logical_expr::{Aggregate, Distinct, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::AnalyzerRule;

use super::scalar_subqueries::unsaid;

/// Hides dependencies that do not hold; see the module's comment.
#[derive(Debug)]
pub struct FalseDependencies;

impl AnalyzerRule for FalseDependencies {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        let mut changed = false;
        let plan = plan
            .transform_up_with_subqueries(|node| {
                // What stands above says what its inputs say now.
                let node = if changed { node.recompute_schema()? } else { node };
                // What the optimizer makes of it is known only then.
                let node = match node {
                    LogicalPlan::Distinct(Distinct::All(input)) if !is_unique(&input) => {
                        changed = true;
                        let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
                        LogicalPlan::Aggregate(Aggregate::try_new(input, columns, Vec::new())?)
                    }
                    other => other,
                };
                let repeated = repeated(&node);
                if repeated.is_empty() {
                    return Ok(Transformed::new_transformed(node, changed));
                }
                changed = true;
                let columns: Vec<Expr> = node
                    .schema()
                    .iter()
                    .enumerate()
                    .map(|(place, (relation, field))| {
                        let column = Expr::Column(Column::new(relation.cloned(), field.name()));
                        match repeated.contains(&place) {
                            true => unsaid(column).alias_qualified(relation.cloned(), field.name()),
                            false => column,
                        }
                    })
                    .collect();
                LogicalPlanBuilder::from(node).project(columns)?.build().map(Transformed::yes)
            })
            .data()?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "false_dependencies"
    }
}

/// Whether no two rows are equal, as far as is known: then the optimizer drops a DISTINCT. Rows without columns it counts.
fn is_unique(input: &LogicalPlan) -> bool {
    let columns = input.schema().fields().len();
    let known = input.schema().functional_dependencies().iter().filter(|known| known.mode == Dependency::Single);
    columns == 0
        || known
            .into_iter()
            .any(|known| known.source_indices.iter().take(columns).eq(&(0..columns).collect::<Vec<_>>()))
}

/// The columns of a grouping that its input's rows were unique by before something repeated them.
fn repeated(node: &LogicalPlan) -> Vec<usize> {
    let LogicalPlan::Aggregate(aggregate) = node else { return Vec::new() };
    let schema = aggregate.input.schema();
    let repeated = schema.functional_dependencies().iter().filter(|known| known.mode == Dependency::Multi);
    let columns: Vec<Column> =
        repeated.flat_map(|known| &known.source_indices).map(|place| schema.qualified_field(*place).into()).collect();
    let named = |expr: &Expr| matches!(expr, Expr::Column(column) if columns.contains(column));
    (0..aggregate.group_expr.len()).filter(|place| named(&aggregate.group_expr[*place])).collect()
}
