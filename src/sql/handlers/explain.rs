//! EXPLAIN and EXPLAIN ANALYZE.
//!
//! Invariant: nothing here commits. A statement that changes rows is explained by the SELECT that finds them, and
//! EXPLAIN ANALYZE, which runs what it explains, takes queries only.

use std::sync::Arc;

use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::sql::sqlparser::ast;

use super::super::catalog::Extras;
use super::super::executor::{Execution, StatementResult};
use super::super::parser::Statement;
use super::dml::{Target, unsupported};
use super::show::text_rows;
use crate::error::Result;

/// Explains a statement.
pub async fn explain(
    execution: &Execution<'_>,
    analyze: bool,
    verbose: bool,
    statement: Statement,
) -> Result<StatementResult> {
    let (with, statement) = match statement {
        Statement::Sql(statement) => (None, statement),
        Statement::With(with, statement) => (Some(with), statement),
        _ => return unsupported("EXPLAIN of this statement"),
    };
    let mut lines: Vec<(&str, String)> = Vec::new();
    let (query, extras) = match *statement {
        ast::Statement::Query(query) => (query, Extras::new()),
        ast::Statement::Update(update) if !analyze => {
            let (query, target) = super::update::explained(execution, &update, with.as_ref()).await?;
            lines.push(("statement", format!("Update {}", target.table.table_id())));
            (Box::new(query), target.extras(execution)?)
        }
        ast::Statement::Delete(delete) if !analyze => {
            let (query, target) = super::delete::explained(execution, &delete, with.as_ref()).await?;
            lines.push(("statement", format!("Delete {}", target.table.table_id())));
            (Box::new(query), target.extras(execution)?)
        }
        ast::Statement::Insert(insert) if !analyze => {
            let ast::TableObject::TableName(name) = &insert.table else { return unsupported("INSERT INTO a function") };
            let target = Target::find(execution, name).await?;
            lines.push(("statement", format!("Insert {}", target.table.table_id())));
            match insert.source {
                Some(source) => (source, Extras::new()),
                None => return rows(lines),
            }
        }
        _ if analyze => return unsupported("EXPLAIN ANALYZE of a statement that changes something"),
        _ => return unsupported("EXPLAIN of this statement"),
    };
    let plan = execution.plan(ast::Statement::Query(query), &extras).await?;
    let physical = execution.physical(&plan).await?;
    if analyze {
        execution.collect(Arc::clone(&physical), execution.request()).await?;
        let shown = DisplayableExecutionPlan::with_metrics(physical.as_ref());
        lines.push(("plan with metrics", shown.indent(verbose).to_string().trim_end().to_owned()));
        return rows(lines);
    }
    if verbose {
        lines.push(("initial logical plan", plan.display_indent().to_string()));
    }
    let optimized = execution.state.optimize(&plan).map_err(super::super::errors::from_datafusion)?;
    lines.push(("logical plan", optimized.display_indent().to_string()));
    let shown = DisplayableExecutionPlan::new(physical.as_ref());
    lines.push(("physical plan", shown.indent(verbose).to_string().trim_end().to_owned()));
    rows(lines)
}

fn rows(lines: Vec<(&str, String)>) -> Result<StatementResult> {
    let (kinds, plans): (Vec<_>, Vec<_>) = lines.into_iter().map(|(k, p)| (Some(k.to_owned()), Some(p))).unzip();
    text_rows(vec![("plan_type", kinds), ("plan", plans)])
}
