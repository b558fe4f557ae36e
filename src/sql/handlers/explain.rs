//! EXPLAIN and EXPLAIN ANALYZE.
//!
//! A statement that goes past the planner is explained by its lookup, as `ShortPath: …`; any other by its plan, with
//! VERBOSE also whether a kept plan would run, and which.
//!
//! Invariant: nothing here commits. A statement that changes rows is explained by the SELECT that finds them, and
//! EXPLAIN ANALYZE, which runs what it explains, takes queries only.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::sql::sqlparser::ast;

use super::super::catalog::Extras;
use super::super::executor::{Execution, StatementResult};
use super::super::parser::Statement;
use super::super::short_path;
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
    let found = match statement.as_ref() {
        ast::Statement::Update(update) if !analyze => {
            Some(("Update", super::update::explained(execution, update, with.as_ref()).await?))
        }
        ast::Statement::Delete(delete) if !analyze => {
            Some(("Delete", super::delete::explained(execution, delete, with.as_ref()).await?))
        }
        _ => None,
    };
    let (query, extras) = match statement.as_ref() {
        _ if let Some((verb, explained)) = found => {
            lines.push(("statement", format!("{verb} {}", explained.target.table.table_id())));
            if let Some(scan) = explained.lookup {
                return key_lookup(execution, lines, Arc::new(scan), false).await;
            }
            let extras = explained.target.extras(execution)?;
            (explained.query, extras)
        }
        ast::Statement::Query(query) => {
            if execution.options.short_path
                && short_path::is_key_query(query)
                && let Some(scan) = short_path::query_scan(execution, query).await?
            {
                return key_lookup(execution, lines, Arc::new(scan), analyze).await;
            }
            (query.as_ref().clone(), Extras::new())
        }
        ast::Statement::Insert(insert) if !analyze => {
            let ast::TableObject::TableName(name) = &insert.table else { return unsupported("INSERT INTO a function") };
            let target = Target::find(execution, name).await?;
            lines.push(("statement", format!("Insert {}", target.table.table_id())));
            match &insert.source {
                Some(source) => match super::insert::constant_rows(execution, source)? {
                    Some(count) => {
                        lines.push(("short path", format!("ShortPath: Values: rows={count}")));
                        return rows(lines);
                    }
                    None => (source.as_ref().clone(), Extras::new()),
                },
                None => return rows(lines),
            }
        }
        _ if analyze => return unsupported("EXPLAIN ANALYZE of a statement that changes something"),
        _ => return unsupported("EXPLAIN of this statement"),
    };
    if verbose {
        let explained = match with {
            None => Statement::Sql(statement),
            Some(with) => Statement::With(with, statement),
        };
        let (state, kept) = match execution.executor.statement_cache().find(&explained) {
            Some(text) => execution.plan_cache_state(&text)?,
            None => ("miss", None),
        };
        lines.push(("plan cache", state.to_owned()));
        if let Some(kept) = kept {
            let shown = DisplayableExecutionPlan::new(kept.as_ref()).indent(false).to_string();
            lines.push(("kept plan", shown.trim_end().to_owned()));
        }
    }
    // Planned for this EXPLAIN alone, so its figures are those of one run.
    let planned = async {
        let plan = execution.plan(ast::Statement::Query(Box::new(query.clone())), &extras).await?;
        let physical = execution.physical(&plan).await?;
        Ok((plan, physical))
    };
    let (plan, physical) = match planned.await {
        Ok(planned) => planned,
        Err(error) => return Err(execution.placed(error, &query, &extras).await),
    };
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

/// A statement that goes past the planner.
async fn key_lookup(
    execution: &Execution<'_>,
    mut lines: Vec<(&str, String)>,
    scan: Arc<dyn ExecutionPlan>,
    analyze: bool,
) -> Result<StatementResult> {
    let shown = if analyze {
        execution.collect(Arc::clone(&scan), execution.request()).await?;
        DisplayableExecutionPlan::with_metrics(scan.as_ref())
    } else {
        DisplayableExecutionPlan::new(scan.as_ref())
    };
    let kind = if analyze { "short path with metrics" } else { "short path" };
    lines.push((kind, format!("ShortPath: {}", shown.indent(false).to_string().trim_end())));
    rows(lines)
}

fn rows(lines: Vec<(&str, String)>) -> Result<StatementResult> {
    let (kinds, plans): (Vec<_>, Vec<_>) = lines.into_iter().map(|(k, p)| (Some(k.to_owned()), Some(p))).unzip();
    text_rows(vec![("plan_type", kinds), ("plan", plans)])
}
