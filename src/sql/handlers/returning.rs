//! RETURNING: what a statement gives of the rows that it changed.
//!
//! Its list is planned as a SELECT over the rows as they are now (as they were, of DELETE). With FROM or USING it may
//! name the columns of the other tables too: those of the row that the changed one was found with. Then the rows of all
//! tables stand side by side in one relation, whose columns are numbered, and every name in the list is exchanged for
//! the column that it means. Invariant: a name that two tables have is refused, one that none has is told so, and within
//! subqueries only names with a table that the subquery has not itself are exchanged.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::{
    self, Expr, Ident, Query, SelectItem, SelectItemQualifiedWildcardKind, TableFactor, TableWithJoins, Visitor,
    VisitorMut, With,
};

use super::super::catalog::{Extras, fold};
use super::super::errors::from_datafusion;
use super::super::executor::{Execution, Rows, finish_rows};
use super::super::parser::position_of;
use super::super::using;
use super::super::walk::{walk, walk_mut};
use super::dml::{Target, column_item, item, select_from};
use super::query::{item_name, item_names};
use crate::error::{ErrorCode, KalamError, Result};

/// The relation that RETURNING reads.
const RETURNING: &str = "$returning";

/// The tables beside the target that an UPDATE or DELETE with RETURNING reads.
#[derive(Default)]
pub struct Others(Vec<Other>);

struct Other {
    name: Ident,
    columns: Vec<FieldRef>,
}

impl Others {
    /// The tables of FROM or USING and their columns, if there is a RETURNING to name them.
    pub async fn find(
        execution: &Execution<'_>,
        from: &[TableWithJoins],
        with: Option<&With>,
        returning: Option<&Vec<SelectItem>>,
    ) -> Result<Self> {
        let mut names = Vec::new();
        if returning.is_some() {
            from.iter().for_each(|table| relation_names(table, &mut names));
        }
        let mut others = Vec::with_capacity(names.len());
        for name in names {
            let mut query = select_from("t", &name, |select| {
                select.projection = vec![columns_of(&name)];
                select.from = from.to_vec();
            })?;
            query.with = with.cloned();
            let plan = execution.logical(ast::Statement::Query(Box::new(query)), &Extras::new()).await?;
            others.push(Other { name, columns: plan.schema().fields().iter().cloned().collect() });
        }
        Ok(Self(others))
    }

    /// What the SELECT of the rows to change asks for besides.
    pub fn items(&self) -> Vec<SelectItem> {
        let columns = self.0.iter().flat_map(|other| other.columns.iter().map(move |c| (&other.name, c)));
        columns.enumerate().map(|(n, (name, c))| column_item(name, c.name(), &format!("$other{n}"))).collect()
    }

    /// Changed rows, and beside them the last columns of those that they were found with.
    pub fn beside(&self, rows: RecordBatch, found: &RecordBatch) -> Result<RecordBatch> {
        let width: usize = self.0.iter().map(|other| other.columns.len()).sum();
        let places = Vec::from_iter(found.num_columns() - width..found.num_columns());
        let others = found.project(&places).map_err(KalamError::internal)?;
        let fields = Vec::from_iter(rows.schema_ref().fields().iter().chain(others.schema_ref().fields()).cloned());
        let columns = [rows.columns(), others.columns()].concat();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(KalamError::internal)
    }
}

/// `t.*`
fn columns_of(name: &Ident) -> SelectItem {
    let name = Ident::with_quote('"', fold(name));
    let kind = SelectItemQualifiedWildcardKind::ObjectName(ast::ObjectName::from(vec![name]));
    SelectItem::QualifiedWildcard(kind, ast::WildcardAdditionalOptions::default())
}

/// What the columns of the tables of FROM are qualified with.
fn relation_names(from: &TableWithJoins, names: &mut Vec<Ident>) {
    for factor in std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)) {
        match factor {
            TableFactor::NestedJoin { table_with_joins, alias: None, .. } => relation_names(table_with_joins, names),
            factor => names.extend(using::alias(factor)),
        }
    }
}

/// The tables in a query, at any level.
struct Tables(Vec<Ident>);

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.0.extend(using::alias(factor));
        ControlFlow::Continue(())
    }
}

impl Target {
    /// The rows of a RETURNING list over `batches`, which have the table's columns, then those of the others.
    pub async fn returning(
        &self,
        execution: &Execution<'_>,
        items: Option<&Vec<SelectItem>>,
        alias: &Ident,
        batches: Vec<RecordBatch>,
        others: &Others,
    ) -> Result<Option<Rows>> {
        let Some(items) = items else { return Ok(None) };
        if others.0.is_empty() {
            let provider = MemTable::try_new(self.table.arrow_schema()?, vec![batches]).map_err(from_datafusion)?;
            let extras = Extras::from([(RETURNING.to_owned(), Arc::new(provider) as _)]);
            let query = select_from(RETURNING, alias, |select| select.projection.clone_from(items))?;
            let (schema, batches) = Box::pin(execution.select(query, &extras, Arc::clone(&self.request))).await?;
            return Ok(Some(finish_rows(&schema, batches, item_names(items))?));
        }
        let own = self.table.arrow_schema()?;
        let columns = Columns::of(alias, own.fields().iter(), others);
        let (items, names) = columns.exchanged(items)?;
        let schema = Arc::new(Schema::new(columns.numbered()));
        let renamed = |batch: RecordBatch| {
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            RecordBatch::try_new_with_options(Arc::clone(&schema), batch.columns().to_vec(), &options)
        };
        let batches = batches.into_iter().map(renamed).collect::<Result<Vec<_>, _>>().map_err(KalamError::internal)?;
        let provider = MemTable::try_new(Arc::clone(&schema), vec![batches]).map_err(from_datafusion)?;
        let extras = Extras::from([(RETURNING.to_owned(), Arc::new(provider) as _)]);
        let query: Query = select_from(RETURNING, &Ident::new(RETURNING), |select| select.projection = items)?;
        let (schema, batches) = Box::pin(execution.select(query, &extras, Arc::clone(&self.request))).await?;
        Ok(Some(finish_rows(&schema, batches, Some(names))?))
    }
}

/// The columns of all tables, side by side.
struct Columns<'a>(Vec<(&'a Ident, &'a FieldRef)>);

impl<'a> Columns<'a> {
    fn of(alias: &'a Ident, own: impl Iterator<Item = &'a FieldRef>, others: &'a Others) -> Self {
        let others = others.0.iter().flat_map(|other| other.columns.iter().map(move |c| (&other.name, c)));
        Self(own.map(|column| (alias, column)).chain(others).collect())
    }

    fn numbered(&self) -> Vec<Field> {
        let column = |(n, (_, field)): (usize, &(&Ident, &FieldRef))| {
            field.as_ref().clone().with_name(numbered(n)).with_nullable(true)
        };
        self.0.iter().enumerate().map(column).collect()
    }

    /// The list with numbers for names, and the names of what it gives.
    fn exchanged(&self, items: &[SelectItem]) -> Result<(Vec<SelectItem>, Vec<String>)> {
        let mut exchanged = Vec::with_capacity(items.len());
        let mut names = Vec::with_capacity(items.len());
        for selected in items {
            let of = match selected {
                SelectItem::Wildcard(_) => None,
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    Some(name.0.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default())
                }
                _ => {
                    names.push(item_name(selected).unwrap_or_default());
                    let mut selected = selected.clone();
                    match walk_mut(&mut selected, &mut Exchange { columns: self, queries: Vec::new() }) {
                        ControlFlow::Break(error) => return Err(error),
                        ControlFlow::Continue(()) => exchanged.push(selected),
                    }
                    continue;
                }
            };
            let before = names.len();
            for (n, (table, field)) in self.0.iter().enumerate() {
                if of.as_ref().is_none_or(|of| *of == fold(table)) {
                    exchanged.push(item(Expr::Identifier(Ident::with_quote('"', numbered(n))), &format!("$item{n}")));
                    names.push(field.name().clone());
                }
            }
            if let (Some(of), true) = (of, names.len() == before) {
                return Err(KalamError::new(ErrorCode::TableNotFound, format!("there is no table '{of}' to return")));
            }
        }
        Ok((exchanged, names))
    }

    /// The place of the column that a name means.
    fn place(&self, table: Option<&Ident>, name: &Ident) -> Result<Option<usize>> {
        let wanted = fold(name);
        let is_meant = |(of, field): &(&Ident, &FieldRef)| {
            *field.name() == wanted && table.is_none_or(|table| fold(table) == fold(of))
        };
        let mut places = self.0.iter().enumerate().filter(|(_, column)| is_meant(column)).map(|(place, _)| place);
        match (places.next(), places.next()) {
            (Some(_), Some(_)) => {
                let message = format!("column '{wanted}' is ambiguous");
                Err(KalamError::new(ErrorCode::AmbiguousColumn, message)
                    .with_hint("Write its table before it.")
                    .at(position_of(name)))
            }
            (place, _) => Ok(place),
        }
    }
}

fn numbered(place: usize) -> String {
    format!("${place}")
}

/// Exchanges names for numbered columns.
struct Exchange<'a> {
    columns: &'a Columns<'a>,
    /// The tables that each subquery around has itself.
    queries: Vec<Vec<Ident>>,
}

impl Exchange<'_> {
    fn exchange(&self, expr: &mut Expr) -> Result<()> {
        let (table, name) = match &*expr {
            Expr::Identifier(name) if self.queries.is_empty() => (None, name),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [.., table, name] => (Some(table), name),
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
        let is_inner = |table: &Ident| self.queries.iter().flatten().any(|inner| fold(inner) == fold(table));
        if table.is_some_and(is_inner) {
            return Ok(());
        }
        match self.columns.place(table, name)? {
            Some(place) => {
                *expr = Expr::CompoundIdentifier(vec![
                    Ident::with_quote('"', RETURNING),
                    Ident::with_quote('"', numbered(place)),
                ])
            }
            None if self.queries.is_empty() => {
                let message = format!("column '{expr}' does not exist");
                return Err(KalamError::new(ErrorCode::ColumnNotFound, message).at(position_of(name)));
            }
            // It may be a column of the subquery.
            None => {}
        }
        Ok(())
    }
}

impl VisitorMut for Exchange<'_> {
    type Break = KalamError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<KalamError> {
        let mut tables = Tables(Vec::new());
        let _ = walk(query, &mut tables);
        self.queries.push(tables.0);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<KalamError> {
        self.queries.pop();
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<KalamError> {
        self.exchange(expr).map_or_else(ControlFlow::Break, ControlFlow::Continue)
    }
}
