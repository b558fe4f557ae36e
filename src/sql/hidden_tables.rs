//! `team.id` means the column of a table around a subquery, also where the subquery has a column named `team`.
//!
//! DataFusion takes it for a field of that column then and looks no further out. No type of ours has fields, so such a name
//! is planned as a column of a table that is not there ([`NoFields`]). When planning fails at it, the statement is planned
//! again with a namespace before each such name, which leaves it only one meaning. Invariant: a statement that could be
//! planned as it was written is never changed.

use std::ops::ControlFlow;

use arrow::datatypes::Field;
use datafusion::common::{Column, DataFusionError, Result as DfResult, SchemaError, TableReference};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult};
use datafusion::sql::sqlparser::ast::{self, Expr as SqlExpr, Ident, TableFactor, Visitor, VisitorMut};

use super::catalog::fold;
use super::errors::schema_error;
use super::walk::{walk, walk_mut};

/// The namespace of a table of which none was written: any does.
const ANY: &str = "$";

/// Plans `column.field`.
#[derive(Debug)]
pub struct NoFields;

impl ExprPlanner for NoFields {
    fn plan_compound_identifier(
        &self,
        field: &Field,
        _: Option<&TableReference>,
        nested: &[String],
    ) -> DfResult<PlannerResult<Vec<Expr>>> {
        let column = Column::new(Some(TableReference::bare(field.name().as_str())), nested.join("."));
        Ok(PlannerResult::Planned(Expr::Column(column)))
    }
}

/// The table of a column that was not found, if no namespace stands before it.
pub fn missing_table(error: &DataFusionError) -> Option<&str> {
    if let DataFusionError::NotImplemented(what) = error.find_root() {
        // The column is one of a table around a subquery, but not of the one that is meant.
        let column = what.strip_prefix("Nested identifiers are not yet supported for OuterReferenceColumn ")?;
        let (_, name) = column.rsplit_once('.')?;
        return Some(name.trim_matches('"'));
    }
    match schema_error(error)? {
        SchemaError::FieldNotFound { field, .. } => match field.relation.as_ref()? {
            TableReference::Bare { table } => Some(table),
            _ => None,
        },
        _ => None,
    }
}

/// A name as it was written.
pub fn written(name: &str) -> &str {
    name.strip_prefix(ANY).and_then(|name| name.strip_prefix('.')).unwrap_or(name)
}

/// Puts the namespaces of tables before the names of their columns.
pub fn qualify(statement: &mut ast::Statement, tables: &[String]) {
    for table in tables {
        let namespace = match walk(statement, &mut FindNamespace(table)) {
            ControlFlow::Break(namespace) => namespace,
            ControlFlow::Continue(()) => Ident::with_quote('"', ANY),
        };
        let _ = walk_mut(statement, &mut Qualify { table, namespace });
    }
}

/// The namespace that is written before a table.
struct FindNamespace<'a>(&'a str);

impl Visitor for FindNamespace<'_> {
    type Break = Ident;

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Ident> {
        if let TableFactor::Table { name, alias: None, .. } = factor
            && let [namespace, table] = name.0.as_slice()
            && let (Some(namespace), Some(table)) = (namespace.as_ident(), table.as_ident())
            && fold(table) == self.0
        {
            return ControlFlow::Break(namespace.clone());
        }
        ControlFlow::Continue(())
    }
}

struct Qualify<'a> {
    table: &'a str,
    namespace: Ident,
}

impl VisitorMut for Qualify<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<()> {
        if let SqlExpr::CompoundIdentifier(parts) = expr
            && let [table, _] = parts.as_slice()
            && fold(table) == self.table
        {
            // An error points at the name as it was written.
            let namespace = Ident { span: table.span, ..self.namespace.clone() };
            parts.insert(0, namespace);
        }
        ControlFlow::Continue(())
    }
}
