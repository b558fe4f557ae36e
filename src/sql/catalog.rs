//! From names in statements to tables, and from statements to logical plans.
//!
//! Invariant: everything known of a table comes from the [`SchemaRegistry`]. The tables of a statement are looked up
//! before DataFusion plans it, because its planner cannot wait; a name that was not found fails with our error, at its
//! position, when the planner asks for it.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, Result as DfResult, SchemaError, TableReference};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::execution::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::planner::SqlToRel;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{self, Ident, ObjectName};

use super::clauses;
use super::column_names::ColumnNames;
use super::datafusion_session;
use super::errors::{from_datafusion, schema_error};
use super::grouped_keys::{self, Columns};
use super::hidden_tables::{self, missing_table};
use super::order_names;
use super::parser::position_of;
use super::rewrite;
use super::row_counts;
use super::scalar_subqueries;
use super::type_planner::KalamTypePlanner;
use super::unnamed::{self, missing_column};
use super::using;
use super::views;
use super::walk::visit_relations;
use super::wildcards::{self, Expander};
use crate::error::{ErrorCode, KalamError, Position, Result};
use crate::schema::{CachedTableData, ColumnDefinition, SchemaRegistry, TableId, TableType};
use crate::tables::{is_system_namespace, stored_core, with_system_columns};

/// An identifier as SQL means it: folded to lower case unless quoted.
pub fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// The one identifier of a name that takes no dots.
pub fn single_ident(name: &ObjectName, what: &str) -> Result<Ident> {
    match name.0.as_slice() {
        [part] => part.as_ident().cloned().ok_or_else(|| bad_name(name, what)),
        _ => Err(bad_name(name, what)),
    }
}

fn bad_name(name: &ObjectName, what: &str) -> KalamError {
    KalamError::new(ErrorCode::InvalidName, format!("'{name}' is not the name of a {what}")).at(name
        .0
        .first()
        .and_then(|p| p.as_ident())
        .and_then(position_of))
}

/// Where a name stands in the statement.
pub fn position_of_name(name: &ObjectName) -> Option<Position> {
    name.0.first().and_then(|p| p.as_ident()).and_then(position_of)
}

/// The table that a name means in a namespace.
pub fn table_id(name: &ObjectName, namespace: &str) -> Result<TableId> {
    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
    if parts.len() != name.0.len() {
        return Err(bad_name(name, "table"));
    }
    match parts.as_slice() {
        [table] => Ok(TableId::new(namespace, table.as_str())),
        [namespace, table] => Ok(TableId::new(namespace.as_str(), table.as_str())),
        _ => Err(bad_name(name, "table").with_hint("Write table or namespace.table.")),
    }
}

/// Looks tables up for one session.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// All tables.
    pub registry: &'a SchemaRegistry,
    /// The session's namespace.
    pub namespace: &'a str,
}

impl Names<'_> {
    /// The table of a name, or the error that says what is missing.
    pub async fn table(&self, name: &ObjectName) -> Result<Arc<CachedTableData>> {
        let id = table_id(name, self.namespace)?;
        match self.registry.table(&id).await? {
            Some(table) => Ok(table),
            None => Err(self.not_found(&id).await?.at(position_of_name(name))),
        }
    }

    /// The table of a name whose rows or definition a statement is about to change.
    pub async fn writable(&self, name: &ObjectName) -> Result<Arc<CachedTableData>> {
        let wrong = |what: &str| {
            let id = table_id(name, self.namespace)?;
            let message = format!("'{id}' is a {what}, expected a table");
            Err(KalamError::new(ErrorCode::WrongObjectType, message).at(position_of_name(name)))
        };
        let table = self.table(name).await?;
        match table.definition().table_type {
            TableType::View => wrong("view"),
            TableType::System => wrong("system table"),
            _ => Ok(table),
        }
    }

    /// The error for a table that is not there, with the nearest name as a hint.
    pub async fn not_found(&self, id: &TableId) -> Result<KalamError> {
        let known_namespace =
            is_system_namespace(&id.namespace) || self.registry.namespace(&id.namespace).await?.is_some();
        if !known_namespace {
            let names = self.registry.namespaces().await?;
            let names: Vec<String> = names.iter().map(|n| n.name.clone()).collect();
            return Ok(KalamError::new(
                ErrorCode::NamespaceNotFound,
                format!("namespace '{}' does not exist", id.namespace),
            )
            .with_hint(format!("There are: {}.", names.join(", "))));
        }
        let error = KalamError::new(ErrorCode::TableNotFound, format!("table '{id}' does not exist"));
        let tables = self.registry.tables(None).await?;
        let nearest = tables
            .iter()
            .map(|t| (distance(t.table_id(), id), t.table_id()))
            .filter(|(distance, _)| *distance <= 2.max(id.table.len() / 3))
            .min();
        Ok(match nearest {
            Some((_, near)) => error.with_hint(format!("Did you mean '{near}'?")),
            None => error,
        })
    }
}

/// How many letters differ; a table of that very name in another namespace is near.
fn distance(a: &TableId, b: &TableId) -> usize {
    if a.table == b.table { 1 } else { edit_distance(&a.table, &b.table) + usize::from(a.namespace != b.namespace) * 2 }
}

/// Levenshtein's distance.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != *y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Tables that only one statement knows, by their bare name: the target of an UPDATE, rows to be returned.
pub type Extras = HashMap<String, Arc<dyn TableProvider>>;

/// Plans a statement. What it names must be a table of the registry or one of `extras`.
pub async fn plan_statement(
    state: &SessionState,
    names: Names<'_>,
    statement: ast::Statement,
    extras: &Extras,
) -> Result<LogicalPlan> {
    plan_within(state, names, statement, extras, &[]).await
}

/// Plans a statement that stands in views: `above`, outermost first.
pub async fn plan_within(
    state: &SessionState,
    names: Names<'_>,
    statement: ast::Statement,
    extras: &Extras,
    above: &[TableId],
) -> Result<LogicalPlan> {
    let system_columns = wildcards::names_system_column(&statement);
    let (context, mut statement) = PlanContext::of(state, names, statement, extras, above, system_columns).await?;
    let wildcards = system_columns || using::has_wildcard(&statement);
    if (wildcards || using::has_natural(&statement) || order_names::has_clash(&statement))
        && let ast::Statement::Query(query) = &mut statement
    {
        context.expand(query, wildcards)?;
    }
    context.plan(statement)
}

/// Plans the query of a view that is being created, and writes every `*` in it out. Returns with the plan what the
/// view reads.
pub async fn plan_view(
    state: &SessionState,
    names: Names<'_>,
    view: &TableId,
    query: &mut ast::Query,
) -> Result<(LogicalPlan, Vec<TableId>)> {
    let statement = ast::Statement::Query(Box::new(query.clone()));
    let system_columns = wildcards::names_system_column(&statement);
    let above = std::slice::from_ref(view);
    let extras = Extras::new();
    let (context, _) = PlanContext::of(state, names, statement, &extras, above, system_columns).await?;
    context.expand(query, true)?;
    let plan = context.plan(ast::Statement::Query(Box::new(query.clone())))?;
    let read = context.tables.iter().filter(|(_, lookup)| lookup.is_ok());
    let mut read: Vec<TableId> = read.filter_map(|(reference, _)| id_of(reference, names.namespace)).collect();
    read.sort();
    read.dedup();
    Ok((plan, read))
}

/// Whether planning failed because two columns have the same name.
fn wants_unique_names(error: &DataFusionError) -> bool {
    match (error.find_root(), schema_error(error)) {
        (DataFusionError::Plan(what), _) => what.contains("unique expression names"),
        (_, Some(SchemaError::DuplicateUnqualifiedField { .. } | SchemaError::DuplicateQualifiedField { .. })) => true,
        _ => false,
    }
}

/// The name that planning found to be ambiguous: of columns of a table and of a SELECT list, which DataFusion does not
/// tell apart, or of both sides of INTERSECT and EXCEPT, which are planned as joins. It may as well be a mistake.
fn ambiguous_name(error: &DataFusionError) -> Option<&str> {
    match schema_error(error)? {
        SchemaError::AmbiguousReference { field } => Some(field.name.as_str()),
        _ => None,
    }
}

type Lookup = std::result::Result<Arc<dyn TableSource>, KalamError>;

/// The table that a reference means in a namespace.
fn id_of(reference: &TableReference, namespace: &str) -> Option<TableId> {
    match reference {
        TableReference::Bare { table } => Some(TableId::new(namespace, Arc::clone(table))),
        TableReference::Partial { schema, table } => Some(TableId::new(Arc::clone(schema), Arc::clone(table))),
        TableReference::Full { .. } => None,
    }
}

/// How tables are looked up for a statement.
struct LookUp<'a> {
    state: &'a SessionState,
    names: Names<'a>,
    extras: &'a Extras,
    above: &'a [TableId],
    system_columns: bool,
}

impl LookUp<'_> {
    /// The table of a reference, and whether it comes with its system columns.
    async fn find(&self, reference: &TableReference, statement: &ast::Statement) -> Result<(Lookup, bool)> {
        if let TableReference::Bare { table } = reference
            && let Some(provider) = self.extras.get(table.as_ref())
        {
            return Ok((Ok(provider_as_source(Arc::clone(provider))), false));
        }
        let Some(id) = id_of(reference, self.names.namespace) else {
            let message = format!("'{reference}' has three parts, expected table or namespace.table");
            return Ok((Err(KalamError::new(ErrorCode::InvalidName, message)), false));
        };
        let registry = self.names.registry;
        let position = || find_relation(statement, reference);
        // A provider is only ever kept for what is no view.
        let mut provider = registry.cached_provider(&id);
        if provider.is_none() {
            views::check_cycle(&id, self.above).map_err(|e| e.at(position()))?;
            let Some(table) = registry.table(&id).await? else {
                return Ok((Err(self.names.not_found(&id).await?.at(position())), false));
            };
            if table.definition().table_type == TableType::View {
                let source = views::source(self.state, registry, &table, self.above).await;
                return Ok((Ok(source.map_err(|e| e.at(position()))?), false));
            }
            provider = registry.provider(&id).await?;
        }
        let Some(provider) = provider else {
            return Ok((Err(self.names.not_found(&id).await?.at(position())), false));
        };
        if self.system_columns
            && let Some(with) = with_system_columns(provider.as_ref())?
        {
            return Ok((Ok(provider_as_source(with)), true));
        }
        Ok((Ok(provider_as_source(provider)), false))
    }
}

/// Where a statement names a relation.
fn find_relation(statement: &ast::Statement, reference: &TableReference) -> Option<Position> {
    let wanted = reference.to_vec();
    let mut found = None;
    let _ = visit_relations(statement, |name| {
        let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
        if parts == wanted {
            found = position_of_name(name);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    found
}

/// What DataFusion's planner may ask.
struct PlanContext<'a> {
    state: &'a SessionState,
    tables: HashMap<TableReference, Lookup>,
    /// Those that are read with their system columns.
    with_system_columns: HashSet<TableReference>,
    relations: [Arc<dyn RelationPlanner>; 1],
}

impl<'a> PlanContext<'a> {
    /// Looks up every table that a statement names; gives the statement back.
    async fn of(
        state: &'a SessionState,
        names: Names<'_>,
        statement: ast::Statement,
        extras: &Extras,
        above: &[TableId],
        system_columns: bool,
    ) -> Result<(Self, ast::Statement)> {
        let wrapped = DfStatement::Statement(Box::new(statement));
        let (references, _) = resolve_table_references(&wrapped, true).map_err(from_datafusion)?;
        let DfStatement::Statement(statement) = wrapped else {
            return Err(KalamError::internal("a statement changed its kind"));
        };
        let look_up = LookUp { state, names, extras, above, system_columns };
        let mut tables: HashMap<TableReference, Lookup> = HashMap::with_capacity(references.len());
        let mut with_system_columns = HashSet::new();
        for reference in references {
            if tables.contains_key(&reference) {
                continue;
            }
            let (lookup, with) = look_up.find(&reference, &statement).await?;
            if with {
                with_system_columns.insert(reference.clone());
            }
            tables.insert(reference, lookup);
        }
        let relations: [Arc<dyn RelationPlanner>; 1] = [Arc::new(ColumnNames)];
        Ok((Self { state, tables, with_system_columns, relations }, *statement))
    }

    /// A statement as DataFusion's planner takes it.
    fn standardised(&self, mut statement: ast::Statement) -> Result<ast::Statement> {
        rewrite::standardise(&mut statement)?;
        row_counts::write_out(&mut statement, &|name| self.columns_of(name))?;
        let is_aggregate = |name: &str| self.state.aggregate_functions().contains_key(name);
        grouped_keys::complete(&mut statement, &|name| self.columns_of(name), &is_aggregate);
        Ok(statement)
    }

    fn plan(&self, mut original: ast::Statement) -> Result<LogicalPlan> {
        let mut written = self.standardised(original.clone())?;
        clauses::calls(&written, self.state)?;
        let mut planned = SqlToRel::new(self).sql_statement_to_plan(written.clone());
        // As it was planned last.
        let mut changed = None;
        let (mut ambiguous, mut hidden, mut unique) = (Vec::new(), Vec::new(), false);
        let mut named: Vec<String> = Vec::new();
        // A name more in each round: of a statement with a mistake, one round is in vain.
        while let Err(error) = &planned {
            let new = |name: &&str, known: &[String]| !known.iter().any(|n| n == name);
            if let Some(name) = missing_column(error).filter(|name| new(name, &named))
                && unnamed::name(&mut original, name)
            {
                named.push(name.to_owned());
                written = self.standardised(original.clone())?;
            } else if let Some(name) = ambiguous_name(error).filter(|name| new(name, &ambiguous)) {
                ambiguous.push(name.to_owned());
                unique = true;
            } else if let Some(table) = missing_table(error).filter(|table| new(table, &hidden)) {
                hidden.push(table.to_owned());
            } else if !unique && wants_unique_names(error) {
                unique = true;
            } else {
                break;
            }
            let mut again = written.clone();
            hidden_tables::qualify(&mut again, &hidden);
            if unique {
                rewrite::name_columns(&mut again, &ambiguous);
            }
            planned = SqlToRel::new(self).sql_statement_to_plan(again.clone());
            changed = Some(again);
        }
        if matches!(&planned, Err(error) if wants_unique_names(error)) {
            let mut statement = changed.unwrap_or(written);
            rewrite::name_casts(&mut statement);
            planned = SqlToRel::new(self).sql_statement_to_plan(statement);
        }
        planned.and_then(scalar_subqueries::plain).map_err(from_datafusion)
    }

    /// The columns of a stored table whose live rows are read.
    fn columns_of(&self, name: &ObjectName) -> Option<Columns> {
        let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
        let reference = match parts.as_slice() {
            [table] => TableReference::bare(table.as_str()),
            [namespace, table] => TableReference::partial(namespace.as_str(), table.as_str()),
            _ => return None,
        };
        if self.with_system_columns.contains(&reference) {
            return None;
        }
        let provider = source_as_provider(self.tables.get(&reference)?.as_ref().ok()?).ok()?;
        let definition = stored_core(provider.as_ref())?.definition();
        let names = |columns: Vec<&ColumnDefinition>| columns.iter().map(|c| c.name.clone()).collect();
        Some(Columns { key: names(definition.key_columns()), all: names(definition.columns_in_order().collect()) })
    }

    fn expand(&self, query: &mut ast::Query, wildcards: bool) -> Result<()> {
        let columns_of = |query| {
            let plan = self.plan(ast::Statement::Query(Box::new(query)))?;
            Ok(Arc::clone(plan.schema()))
        };
        let has_system_columns = |name: &ObjectName| {
            let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(fold).collect();
            match parts.as_slice() {
                [table] => self.with_system_columns.contains(&TableReference::bare(table.as_str())),
                [namespace, table] => {
                    self.with_system_columns.contains(&TableReference::partial(namespace.as_str(), table.as_str()))
                }
                _ => false,
            }
        };
        Expander { columns_of: &columns_of, has_system_columns: &has_system_columns, wildcards }.expand(query)
    }
}

impl ContextProvider for PlanContext<'_> {
    fn get_table_source(&self, name: TableReference) -> DfResult<Arc<dyn TableSource>> {
        match self.tables.get(&name) {
            Some(Ok(source)) => Ok(Arc::clone(source)),
            Some(Err(error)) => Err(DataFusionError::External(Box::new(error.clone()))),
            None => Err(DataFusionError::External(Box::new(KalamError::internal(format_args!(
                "the table '{name}' was not looked up"
            ))))),
        }
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> DfResult<Arc<dyn TableSource>> {
        datafusion_session::table_function(self.state, name, &args)
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> DfResult<Arc<dyn TableSource>> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relations
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(KalamTypePlanner))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        // In order: of names that are equally near to a wrong one, the first is suggested.
        let mut names: Vec<String> = self.state.scalar_functions().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.state.aggregate_functions().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        for (a, b, n) in [("items", "itms", 1), ("", "abc", 3), ("same", "same", 0), ("flights", "lfights", 2)] {
            assert_eq!(edit_distance(a, b), n, "{a} {b}");
        }
    }
}
