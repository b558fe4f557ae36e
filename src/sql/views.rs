//! Views: stored queries, planned when a statement reads them.
//!
//! Invariant: nothing of a view's plan is kept, so a view always reads its tables as they are defined now. What was
//! fixed when it was created is its text, with every `*` written out, the namespace that its bare names mean, and the
//! names of its columns. Planning a view knows the views it is planned for, so a view that would read itself, however
//! indirectly, is an error and not an endless loop.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableSource};
use datafusion::sql::sqlparser::ast;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::catalog::{Extras, Names, plan_within};
use super::errors::from_datafusion;
use super::parser::{self, Statement};
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::{CachedTableData, SchemaRegistry, TableId, ViewDefinition};

/// What the planner reads in place of a view. `above` are the views that this one is planned for, outermost first.
pub fn source<'a>(
    state: &'a SessionState,
    registry: &'a SchemaRegistry,
    view: &'a CachedTableData,
    above: &'a [TableId],
) -> BoxFuture<'a, Result<Arc<dyn TableSource>>> {
    async move {
        let plan = plan(state, registry, view, above).await?;
        let sql = view.definition().view.as_ref().map(|v| v.sql.clone());
        let table: Arc<dyn TableSource> = provider_as_source(Arc::new(ViewTable::new(plan, sql)));
        Ok(table)
    }
    .boxed()
}

async fn plan(
    state: &SessionState,
    registry: &SchemaRegistry,
    view: &CachedTableData,
    above: &[TableId],
) -> Result<LogicalPlan> {
    let id = view.table_id();
    let definition = definition_of(view)?;
    check_cycle(id, above)?;
    let mut above = above.to_vec();
    above.push(id.clone());
    for needed in &definition.dependencies {
        check_cycle(needed, &above)?;
        if registry.table(needed).await?.is_none() {
            return Err(KalamError::new(
                ErrorCode::ViewDependencyMissing,
                format!("View '{}' references missing table '{needed}'", id.table),
            )
            .with_hint(format!("Create '{needed}' again, or change the view with CREATE OR REPLACE VIEW {id}.")));
        }
    }
    let names = Names { registry, namespace: &definition.namespace };
    let planned = plan_within(state, names, query_of(definition)?, &Extras::new(), &above).await.and_then(|plan| {
        let found = plan.schema().fields().len();
        let columns = view.definition().columns_in_order();
        if found != columns.len() {
            let message = format!("its query gives {found} columns, expected {}", columns.len());
            return Err(KalamError::new(ErrorCode::InvalidStatement, message)
                .with_hint("Define it again with CREATE OR REPLACE VIEW."));
        }
        let given = plan.schema().iter().map(Column::from);
        let named: Vec<Expr> =
            given.zip(columns).map(|(from, to)| Expr::Column(from).alias(to.name.as_str())).collect();
        LogicalPlanBuilder::from(plan).project(named).and_then(LogicalPlanBuilder::build).map_err(from_datafusion)
    });
    planned.map_err(|error| match error.code() {
        ErrorCode::ViewDependencyMissing | ErrorCode::CyclicView => error,
        // A position in the view's text would be taken for one in the statement's.
        _ => error.without_position().in_context(format_args!("view '{id}'")),
    })
}

/// Fails if a view is planned for itself.
pub fn check_cycle(id: &TableId, above: &[TableId]) -> Result<()> {
    let Some(start) = above.iter().position(|a| a == id) else { return Ok(()) };
    let way: Vec<String> = above[start..].iter().chain([id]).map(|id| format!("'{id}'")).collect();
    Err(KalamError::new(ErrorCode::CyclicView, format!("the view '{id}' reads itself: {}", way.join(" reads ")))
        .with_hint("A view can read tables and views that do not read it."))
}

fn definition_of(view: &CachedTableData) -> Result<&ViewDefinition> {
    view.definition()
        .view
        .as_ref()
        .ok_or_else(|| KalamError::internal(format_args!("the view '{}' has no query", view.table_id())))
}

fn query_of(definition: &ViewDefinition) -> Result<ast::Statement> {
    let mut statements = parser::parse(&definition.sql)?;
    match (statements.pop(), statements.is_empty()) {
        (Some(Statement::Sql(statement)), true) => Ok(*statement),
        _ => Err(KalamError::internal("the text of a view is not one query")),
    }
}
