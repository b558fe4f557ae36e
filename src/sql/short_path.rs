//! The short path: single-table statements that pin the whole primary key to constants.
//!
//! Planning costs a hundred times what looking a key up costs. Invariant: the path is taken or declined as a whole,
//! before anything is read, and what it reads is what the planner's key lookup reads (the same [`TableScanExec`]), so
//! both give the same rows (`tests/short_path.rs` runs both). A statement has the shape only if it equals a bare
//! template in every clause but its list, table and WHERE; a constant counts only if it is of the key column's own
//! kind, so that comparing needs no conversion.

use std::sync::{Arc, OnceLock};

use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, Ident, ObjectName, Query, Select, SelectItem, SetExpr, TableFactor, TableWithJoins,
};

use super::catalog::{fold, table_id};
use super::executor::{Execution, RowFormat, StatementResult};
use super::handlers::insert::literal;
use super::handlers::query::item_names;
use super::parser::{self, Statement};
use super::plan_cache::KeptLookup;
use crate::error::Result;
use crate::schema::TableDefinition;
use crate::tables::{SharedTableProvider, TableProviderCore, TableScanExec};
use crate::types::{ColumnBuilder, KalamDataType, Value};

/// At most so many keys of an IN list are looked up one by one.
const MAX_KEYS: usize = 1000;

/// Runs a query if it has the shape; `None` hands it to the planner. It has been asked for by [`is_key_query`].
pub async fn query(execution: &Execution<'_>, query: &Query) -> Result<Option<StatementResult>> {
    let Some(shape) = KeyQuery::of(query) else { return Ok(None) };
    let Some(lookup) = lookup_of(execution, &shape).await? else { return Ok(None) };
    let Some(scan) = scan_of(execution, &shape, &lookup)? else { return Ok(None) };
    let batches = execution.collect(Arc::new(scan), execution.request()).await?;
    Ok(Some(StatementResult::rows(lookup.format.rows(batches)?)))
}

/// The lookup that a query is, for EXPLAIN.
pub async fn query_scan(execution: &Execution<'_>, query: &Query) -> Result<Option<TableScanExec>> {
    let Some(shape) = KeyQuery::of(query) else { return Ok(None) };
    match lookup_of(execution, &shape).await? {
        Some(lookup) => scan_of(execution, &shape, &lookup),
        None => Ok(None),
    }
}

/// What is the same for all keys: kept for the next run of the same text.
async fn lookup_of(execution: &Execution<'_>, shape: &KeyQuery<'_>) -> Result<Option<Arc<KeptLookup>>> {
    if let Some(kept) = execution.kept_lookup()? {
        return Ok(Some(kept));
    }
    let registry = execution.executor.registry();
    let catalog = registry.catalog_version();
    let Ok(id) = table_id(shape.table, &execution.session.namespace()) else { return Ok(None) };
    // Views have no provider, and system tables one of another kind.
    let Some(provider) = registry.provider(&id).await? else { return Ok(None) };
    let Some(core) = core_of(&provider) else { return Ok(None) };
    let Some(projection) = shape.projection(core.definition()) else { return Ok(None) };
    let scan = core.key_scan(Some(&projection), Vec::new())?;
    let format = RowFormat::new(&datafusion::physical_plan::ExecutionPlan::schema(&scan), item_names(shape.items));
    let lookup = Arc::new(KeptLookup { scan, format, provider });
    execution.keep_lookup(catalog, &lookup);
    Ok(Some(lookup))
}

fn core_of(provider: &Arc<dyn TableProvider>) -> Option<&TableProviderCore> {
    let provider: &dyn std::any::Any = provider.as_ref();
    provider.downcast_ref::<SharedTableProvider>().map(SharedTableProvider::core)
}

/// The lookup of the keys that WHERE pins.
fn scan_of(execution: &Execution<'_>, shape: &KeyQuery<'_>, lookup: &KeptLookup) -> Result<Option<TableScanExec>> {
    let Some(core) = core_of(&lookup.provider) else { return Ok(None) };
    let keys = keys_of(execution, core, shape.selection, &shape.alias)?;
    Ok(keys.map(|keys| lookup.scan.with_keys(keys)))
}

/// The rows of an UPDATE's or DELETE's target if its WHERE pins the whole key: every column of `core`, hidden ones
/// included. `None` hands the statement to the planner.
pub async fn target_rows(
    execution: &Execution<'_>,
    core: &TableProviderCore,
    selection: Option<&Expr>,
    alias: &Ident,
    request: Arc<crate::tables::Request>,
) -> Result<Option<Vec<RecordBatch>>> {
    match target_scan(execution, core, selection, alias)? {
        Some(scan) => execution.collect(Arc::new(scan), request).await.map(Some),
        None => Ok(None),
    }
}

/// The lookup of the rows of an UPDATE's or DELETE's target.
pub fn target_scan(
    execution: &Execution<'_>,
    core: &TableProviderCore,
    selection: Option<&Expr>,
    alias: &Ident,
) -> Result<Option<TableScanExec>> {
    let Some(selection) = selection else { return Ok(None) };
    let Some(keys) = keys_of(execution, core, selection, &fold(alias))? else { return Ok(None) };
    core.key_scan(None, keys).map(Some)
}

/// A column of one constant, by the rules of assignment; `None` if the expression is no constant.
pub fn constant_column(
    execution: &Execution<'_>,
    expr: &Expr,
    column: &str,
    data_type: &KalamDataType,
    rows: usize,
) -> Result<Option<ArrayRef>> {
    let Some(value) = literal(expr, execution.params)? else { return Ok(None) };
    let mut builder = ColumnBuilder::new(data_type, column, rows);
    for _ in 0..rows {
        builder.append(&value)?;
    }
    Ok(Some(builder.finish()))
}

/// Whether an expression is a constant that [`constant_column`] takes.
pub fn is_constant(execution: &Execution<'_>, expr: &Expr) -> bool {
    matches!(literal(expr, execution.params), Ok(Some(_)))
}

/// A query that may be a key lookup.
struct KeyQuery<'a> {
    table: &'a ObjectName,
    alias: String,
    items: &'a [SelectItem],
    selection: &'a Expr,
}

impl<'a> KeyQuery<'a> {
    /// The parts of a query that [`is_key_query`] has found to be one.
    fn of(query: &'a Query) -> Option<Self> {
        let SetExpr::Select(select) = query.body.as_ref() else { return None };
        let [TableWithJoins { relation: TableFactor::Table { name, alias, .. }, .. }] = select.from.as_slice() else {
            return None;
        };
        let alias = match alias {
            Some(alias) => fold(&alias.name),
            None => fold(name.0.last()?.as_ident()?),
        };
        Some(Self { table: name, alias, items: &select.projection, selection: select.selection.as_ref()? })
    }

    /// Places of the listed columns, if the list holds columns only.
    fn projection(&self, definition: &TableDefinition) -> Option<Vec<usize>> {
        if let [SelectItem::Wildcard(options)] = self.items {
            let plain = *options == ast::WildcardAdditionalOptions::default();
            return plain.then(|| (0..definition.columns.len()).collect());
        }
        let place = |expr: &Expr| {
            let name = column_name(expr, &self.alias)?;
            definition.columns_in_order().position(|c| c.name == name)
        };
        let places: Vec<usize> = self
            .items
            .iter()
            .map(|item| match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => place(expr),
                _ => None,
            })
            .collect::<Option<_>>()?;
        // Two columns of one name are the planner's to refuse or to name.
        let names = item_names(self.items)?;
        let unique = names.iter().enumerate().all(|(i, name)| !names[..i].contains(name));
        unique.then_some(places)
    }
}

/// Whether a query looks like a lookup of keys: one table, a WHERE of nothing but equalities, and no other clause. It
/// is asked once for each text.
pub fn is_key_query(query: &Query) -> bool {
    let Some(template) = template() else { return false };
    let (SetExpr::Select(select), SetExpr::Select(bare)) = (query.body.as_ref(), template.body.as_ref()) else {
        return false;
    };
    let [TableWithJoins { relation: TableFactor::Table { alias, .. }, joins }] = select.from.as_slice() else {
        return false;
    };
    let columns_renamed = alias.as_ref().is_some_and(|a| !a.columns.is_empty());
    let pins = select.selection.as_ref().is_some_and(|selection| conjuncts(selection, &mut Vec::new()));
    pins && joins.is_empty() && !columns_renamed && is_bare_query(query, template) && is_bare(select, bare)
}

/// `SELECT 1 FROM t`, parsed once: what a query without any further clause looks like.
fn template() -> Option<&'static Query> {
    static TEMPLATE: OnceLock<Option<Query>> = OnceLock::new();
    let parse = || match parser::parse("SELECT 1 FROM t").ok()?.pop()? {
        Statement::Sql(statement) => match *statement {
            ast::Statement::Query(query) => Some(*query),
            _ => None,
        },
        _ => None,
    };
    TEMPLATE.get_or_init(parse).as_ref()
}

fn is_bare_query(query: &Query, template: &Query) -> bool {
    let mut copy = template.clone();
    copy.body.clone_from(&query.body);
    copy == *query
}

fn is_bare(select: &Select, template: &Select) -> bool {
    let mut copy = template.clone();
    copy.select_token.clone_from(&select.select_token);
    copy.projection.clone_from(&select.projection);
    copy.selection.clone_from(&select.selection);
    if let (
        Some(TableWithJoins { relation: TableFactor::Table { name: to, alias: to_alias, .. }, .. }),
        Some(TableWithJoins { relation: TableFactor::Table { name, alias, .. }, .. }),
    ) = (copy.from.first_mut(), select.from.first())
    {
        to.clone_from(name);
        to_alias.clone_from(alias);
    }
    copy == *select
}

/// The column that an expression names, bare or qualified with the table's alias.
fn column_name(expr: &Expr, alias: &str) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(fold(ident)),
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [table, column] if fold(table) == alias => Some(fold(column)),
            _ => None,
        },
        Expr::Nested(inner) => column_name(inner, alias),
        _ => None,
    }
}

/// The encoded keys that WHERE pins, in key order, each once; `None` if it says anything else.
fn keys_of(
    execution: &Execution<'_>,
    core: &TableProviderCore,
    selection: &Expr,
    alias: &str,
) -> Result<Option<Vec<Vec<u8>>>> {
    let columns = core.definition().key_columns();
    if columns.is_empty() {
        return Ok(None);
    }
    let mut pins = Vec::new();
    if !conjuncts(selection, &mut pins) || pins.len() != columns.len() {
        return Ok(None);
    }
    let mut values: Vec<Option<Vec<Value>>> = vec![None; columns.len()];
    for pin in pins {
        let (name, constants) = match pin {
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => match column_name(left, alias) {
                Some(name) => (Some(name), vec![right.as_ref()]),
                None => (column_name(right, alias), vec![left.as_ref()]),
            },
            Expr::InList { expr, list, negated: false } => (column_name(expr, alias), list.iter().collect()),
            _ => return Ok(None),
        };
        let Some(place) = columns.iter().position(|c| Some(&c.name) == name.as_ref()) else { return Ok(None) };
        let mut found = Vec::with_capacity(constants.len());
        for constant in constants {
            match literal(constant, execution.params)? {
                Some(value) if is_of_kind(&value, &columns[place].data_type) => found.push(value),
                _ => return Ok(None),
            }
        }
        if values[place].replace(found).is_some() {
            return Ok(None);
        }
    }
    let Some(values) = values.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
    let combinations: usize = values.iter().map(Vec::len).product();
    if combinations > MAX_KEYS {
        return Ok(None);
    }
    let mut keys = Vec::with_capacity(combinations);
    for i in 0..combinations {
        let mut rest = i;
        let mut row = Vec::with_capacity(values.len());
        for column in &values {
            row.push(column[rest % column.len()].clone());
            rest /= column.len();
        }
        let mut key = Vec::new();
        core.key().codec().encode_values(&row, &mut key)?;
        keys.push(key);
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(Some(keys))
}

/// Collects the terms of a conjunction; false if there is anything but AND between them.
fn conjuncts<'a>(expr: &'a Expr, out: &mut Vec<&'a Expr>) -> bool {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => conjuncts(left, out) && conjuncts(right, out),
        Expr::Nested(inner) => conjuncts(inner, out),
        Expr::BinaryOp { op: BinaryOperator::Eq, .. } | Expr::InList { negated: false, .. } => {
            out.push(expr);
            true
        }
        _ => false,
    }
}

/// Whether a constant compares with a key column without conversion.
fn is_of_kind(value: &Value, data_type: &KalamDataType) -> bool {
    match (value, data_type) {
        (Value::BigInt(_), KalamDataType::BigInt) | (Value::Text(_), KalamDataType::Text) => true,
        (Value::BigInt(v), KalamDataType::Int) => i32::try_from(*v).is_ok(),
        (Value::BigInt(v), KalamDataType::SmallInt) => i16::try_from(*v).is_ok(),
        _ => false,
    }
}
