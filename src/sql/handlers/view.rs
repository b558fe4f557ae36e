//! CREATE VIEW and DROP VIEW.
//!
//! Invariant: a view that is stored could be planned when it was stored: its tables were there and it did not read
//! itself. What it reads is written down by name, and nothing holds on to these tables: one that is dropped later
//! makes reading the view an error.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, CreateTableOptions, CreateView, Expr, ObjectName, Value as SqlValue};

use super::super::catalog::{Extras, Names, fold, plan_view, position_of_name, table_id};
use super::super::executor::{Execution, StatementResult};
use super::super::parser::position_of;
use super::super::walk::visit_expressions;
use super::audit::audit_entry;
use super::dml::unsupported;
use super::query::column_names;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use crate::schema::{NewColumn, TableDefinition, TableType, ViewDefinition, is_reserved_namespace};
use crate::storage::Durability;
use crate::types::KalamDataType;

/// Runs a CREATE VIEW.
pub async fn create(execution: &Execution<'_>, create: &CreateView) -> Result<StatementResult> {
    check_clauses(create)?;
    let registry = execution.executor.registry();
    let namespace = execution.session.namespace();
    let names = Names { registry, namespace: &namespace };
    let id = table_id(&create.name, &namespace)?;
    let at = |error: KalamError| error.at(position_of_name(&create.name));
    if is_reserved_namespace(&id.namespace) {
        let message = format!("the namespace '{}' is reserved", id.namespace);
        return Err(at(KalamError::new(ErrorCode::InvalidName, message)));
    }
    if registry.namespace(&id.namespace).await?.is_none() {
        return Err(at(names.not_found(&id).await?));
    }
    let existing = registry.table(&id).await?;
    match &existing {
        Some(found) if found.definition().table_type != TableType::View && create.or_replace => {
            let message = format!("'{id}' is a {} table, expected a view", found.definition().table_type);
            return Err(at(KalamError::new(ErrorCode::WrongObjectType, message)));
        }
        Some(_) if create.or_replace => {}
        Some(_) if create.if_not_exists => return Ok(StatementResult::default()),
        Some(found) => {
            let kind = if found.definition().table_type == TableType::View { "view" } else { "table" };
            return Err(at(KalamError::new(ErrorCode::TableExists, format!("{kind} '{id}' exists already"))));
        }
        None => {}
    }
    let mut query = create.query.as_ref().clone();
    let planned = plan_view(&execution.state, names, &id, &mut query).await;
    if planned.is_err()
        && create.columns.is_empty()
        && let Some(twice) = column_names(&query).and_then(first_twice)
    {
        let message = format!("the view has two columns '{twice}'");
        return Err(at(
            KalamError::new(ErrorCode::DuplicateColumn, message).with_hint("Give one of them another name with AS.")
        ));
    }
    let planned = async {
        let (plan, dependencies) = planned?;
        Ok((execution.physical(&plan).await?.schema(), dependencies))
    };
    let (schema, dependencies) = match planned.await {
        Ok(planned) => planned,
        Err(error) => return Err(execution.placed(error, &create.query, &Extras::new()).await),
    };
    let written = column_names(&query).filter(|names| names.len() == schema.fields().len());
    if create.columns.len() > schema.fields().len() {
        let message =
            format!("the view has {} column names, its query gives {}", create.columns.len(), schema.fields().len());
        return Err(at(KalamError::new(ErrorCode::InvalidDefinition, message)));
    }
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (place, field) in schema.fields().iter().enumerate() {
        let name = match (create.columns.get(place), &written) {
            (Some(given), _) => fold(&given.name),
            (None, Some(written)) => written[place].clone(),
            (None, None) => field.name().clone(),
        };
        let data_type = KalamDataType::from_arrow_field(field)
            .map_err(|e| e.in_context(format_args!("column '{name}' of the view")))?;
        columns.push(NewColumn { nullable: field.is_nullable(), ..NewColumn::new(name, data_type) });
    }
    let view = ViewDefinition { sql: query.to_string(), namespace: namespace.to_string(), dependencies };
    let (now, by) = (platform::now_ms(), &execution.user);
    let definition = match existing {
        Some(existing) => existing.definition().replace_view(columns, view, now, by),
        None => TableDefinition::new_view(id, registry.next_table_no().await?, columns, view, now, by),
    };
    let definition = definition.map_err(at)?;
    let entry = audit_entry(execution, "CREATE VIEW", &definition.table_id.to_string()).await?;
    registry.put_with(definition, entry).await.map_err(at)?;
    Ok(StatementResult { durability: Some(Durability::Strict), ..StatementResult::default() })
}

fn first_twice(names: Vec<String>) -> Option<String> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(name.clone()))
}

fn check_clauses(create: &CreateView) -> Result<()> {
    if create.materialized || create.temporary || create.secure || create.or_alter {
        return unsupported("CREATE VIEW with MATERIALIZED, TEMPORARY, SECURE or OR ALTER");
    }
    let plain = create.cluster_by.is_empty()
        && create.options == CreateTableOptions::None
        && create.to.is_none()
        && create.params.is_none()
        && !create.with_no_schema_binding
        && !create.copy_grants;
    if !plain {
        return unsupported("CREATE VIEW with options");
    }
    if let Some(column) = create.columns.iter().find(|c| c.data_type.is_some() || c.options.is_some()) {
        return unsupported(&format!("a type or an option of the view's column '{}'", column.name))
            .map_err(|e| e.at(position_of(&column.name)));
    }
    let statement = ast::Statement::Query(create.query.clone());
    let placeholder = visit_expressions(&statement, |expr| match expr {
        Expr::Value(value) if matches!(value.value, SqlValue::Placeholder(_)) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    if placeholder.is_break() {
        return unsupported("a parameter in a view");
    }
    Ok(())
}

/// Runs a DROP VIEW. Every name is checked before the first view is dropped.
pub async fn drop(
    execution: &Execution<'_>,
    names: &[ObjectName],
    if_exists: bool,
    cascade: bool,
) -> Result<StatementResult> {
    if cascade {
        return unsupported("CASCADE");
    }
    let registry = execution.executor.registry();
    let namespace = execution.session.namespace();
    let lookup = Names { registry, namespace: &namespace };
    let mut found = Vec::new();
    for name in names {
        let table = match lookup.table(name).await {
            Err(e) if if_exists && matches!(e.code(), ErrorCode::TableNotFound | ErrorCode::NamespaceNotFound) => {
                continue;
            }
            table => table?,
        };
        if table.definition().table_type != TableType::View {
            let message =
                format!("'{}' is a {} table, expected a view", table.table_id(), table.definition().table_type);
            return Err(KalamError::new(ErrorCode::WrongObjectType, message)
                .at(position_of_name(name))
                .with_hint("DROP TABLE drops a table."));
        }
        found.push(table.table_id().clone());
    }
    for id in &found {
        registry.delete_with(id, audit_entry(execution, "DROP VIEW", &id.to_string()).await?).await?;
    }
    Ok(StatementResult { durability: Some(Durability::Strict), ..StatementResult::default() })
}
