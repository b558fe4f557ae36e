//! The short path: single-table statements that pin the whole primary key, or the first columns of an index, to
//! constants, and say nothing else.
//!
//! Planning costs a hundred times what looking a key up costs. Invariant: the path is taken or declined as a whole,
//! before anything is read, and what it reads is what the planner's lookup reads (the same [`TableScanExec`]), so
//! both give the same rows (`tests/short_path.rs` runs both). A statement has the shape only if it equals a bare
//! template in every clause but its list, table and WHERE; a constant counts only if it is of the key column's own
//! kind, so that comparing needs no conversion.

use std::sync::{Arc, OnceLock};

use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, Ident, ObjectName, Query, Select, SelectItem, SetExpr, TableFactor, TableWithJoins,
};

use super::catalog::{fold, table_id};
use super::executor::{Execution, StatementResult};
use super::handlers::insert::literal;
use super::handlers::query::item_names;
use super::parser::{self, Statement};
use super::plan_cache::KeptLookup;
use super::point_get;
use super::result::RowFormat;
use crate::error::Result;
use crate::schema::{IndexDefinition, TableDefinition};
use crate::tables::{IndexAccess, IndexCodec, MAX_LOOKUP_KEYS, TableProviderCore, TableScanExec, stored_core};
use crate::types::{ColumnBuilder, KalamDataType, Value};

/// Runs a query if it has the shape; `None` hands it to the planner. It has been asked for by [`is_key_query`].
pub async fn query(execution: &Execution<'_>, query: &Query) -> Result<Option<StatementResult>> {
    let Some(shape) = KeyQuery::of(query) else { return Ok(None) };
    let Some(lookup) = kept_of(execution, &shape).await? else { return Ok(None) };
    let Some(scan) = scan_of(execution, &shape, &lookup)? else { return Ok(None) };
    let batches = scan.read(execution.request()).await?;
    keep_known(execution, &shape, &lookup)?;
    Ok(Some(StatementResult::rows(lookup.format.rows(batches)?)))
}

/// The lookup that a query is, for EXPLAIN.
pub async fn query_scan(execution: &Execution<'_>, query: &Query) -> Result<Option<TableScanExec>> {
    let Some(shape) = KeyQuery::of(query) else { return Ok(None) };
    match kept_of(execution, &shape).await? {
        Some(lookup) => scan_of(execution, &shape, &lookup),
        None => Ok(None),
    }
}

/// What is the same for all keys: kept for the next run of the same text.
async fn kept_of(execution: &Execution<'_>, shape: &KeyQuery<'_>) -> Result<Option<Arc<KeptLookup>>> {
    if let Some(kept) = execution.kept_lookup()? {
        return Ok(Some(kept));
    }
    let registry = execution.executor.registry();
    let catalog = registry.catalog_version();
    let Ok(id) = table_id(shape.table, &execution.session.namespace()) else { return Ok(None) };
    // Views have no provider, and system tables one of another kind.
    let Some(provider) = registry.provider(&id).await? else { return Ok(None) };
    let Some(core) = stored_core(provider.as_ref()) else { return Ok(None) };
    let Some(projection) = shape.projection(core.definition()) else { return Ok(None) };
    let scan = core.key_scan(Some(&projection), Vec::new())?;
    let format = RowFormat::new(&datafusion::physical_plan::ExecutionPlan::schema(&scan), item_names(shape.items));
    let kept = Arc::new(KeptLookup { catalog, scan, format, provider });
    execution.keep_lookup(&kept);
    Ok(Some(kept))
}

/// What it needs to be answered at once the next time; a catalog that changed meanwhile is found then.
fn keep_known(execution: &Execution<'_>, shape: &KeyQuery<'_>, lookup: &Arc<KeptLookup>) -> Result<()> {
    let kept = execution.origin.filter(|origin| execution.options.caches && !origin.text.clock);
    let (Some(origin), Some(core)) = (kept, stored_core(lookup.provider.as_ref())) else { return Ok(()) };
    let namespace = execution.session.namespace();
    if point_get::is_kept(origin, lookup.catalog, &namespace) {
        return Ok(());
    }
    point_get::keep(origin, namespace, (lookup, core.definition()), (shape.selection, &shape.alias))
}

/// Keeps what a query of a range of keys, which was run by a plan, needs to be answered at once the next time.
pub async fn keep_range(execution: &Execution<'_>, query: &Query) -> Result<()> {
    let options = execution.options;
    let kept = execution.origin.filter(|origin| options.short_path && options.caches && !origin.text.clock);
    let Some(origin) = kept else { return Ok(()) };
    let (catalog, namespace) = (execution.executor.registry().catalog_version(), execution.session.namespace());
    if point_get::is_kept(origin, catalog, &namespace) {
        return Ok(());
    }
    let Some(shape) = KeyQuery::of(query) else { return Ok(()) };
    match kept_of(execution, &shape).await? {
        Some(lookup) => keep_known(execution, &shape, &lookup)?,
        None => point_get::keep_none(origin, catalog, namespace),
    }
    Ok(())
}

/// The lookup of what WHERE pins.
fn scan_of(execution: &Execution<'_>, shape: &KeyQuery<'_>, kept: &KeptLookup) -> Result<Option<TableScanExec>> {
    let Some(core) = stored_core(kept.provider.as_ref()) else { return Ok(None) };
    let lookup = lookup_of(execution, core, shape.selection, &shape.alias)?;
    Ok(lookup.map(|lookup| match lookup {
        Lookup::Keys(keys) => kept.scan.with_keys(keys),
        Lookup::Index(access) => kept.scan.with_index_access(access),
    }))
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
        Some(scan) => scan.read(request).await.map(Some),
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
    let Some(lookup) = lookup_of(execution, core, selection, &fold(alias))? else { return Ok(None) };
    lookup.scan(core, None).map(Some)
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
    /// The parts of a query of one table with a WHERE.
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
    is_bare_with(query, |selection, _| conjuncts(selection, &mut Vec::new()))
}

/// Whether a query looks like one of a range of keys: as [`is_key_query`], with bounds that are parameters.
pub fn is_range_query(query: &Query) -> bool {
    is_bare_with(query, point_get::is_range)
}

/// Whether a query has one table, a WHERE of which something is true, and no other clause.
fn is_bare_with(query: &Query, is_so: impl Fn(&Expr, &str) -> bool) -> bool {
    let Some(template) = template() else { return false };
    let (SetExpr::Select(select), SetExpr::Select(bare)) = (query.body.as_ref(), template.body.as_ref()) else {
        return false;
    };
    let [TableWithJoins { relation: TableFactor::Table { alias, .. }, joins }] = select.from.as_slice() else {
        return false;
    };
    let columns_renamed = alias.as_ref().is_some_and(|a| !a.columns.is_empty());
    let shape = KeyQuery::of(query);
    let pins = shape.is_some_and(|shape| is_so(shape.selection, &shape.alias));
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
pub(super) fn column_name(expr: &Expr, alias: &str) -> Option<String> {
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

/// What WHERE pins.
enum Lookup {
    /// The whole primary key.
    Keys(Vec<Vec<u8>>),
    /// The first columns of an index.
    Index(IndexAccess),
}

impl Lookup {
    fn scan(self, core: &TableProviderCore, projection: Option<&[usize]>) -> Result<TableScanExec> {
        match self {
            Lookup::Keys(keys) => core.key_scan(projection, keys),
            Lookup::Index(access) => core.index_scan(projection, access),
        }
    }
}

/// What WHERE pins; `None` if it says anything else.
fn lookup_of(
    execution: &Execution<'_>,
    core: &TableProviderCore,
    selection: &Expr,
    alias: &str,
) -> Result<Option<Lookup>> {
    let definition = core.definition();
    let mut terms = Vec::new();
    if !conjuncts(selection, &mut terms) {
        return Ok(None);
    }
    let mut pins: Vec<(u32, Vec<Value>)> = Vec::with_capacity(terms.len());
    for term in terms {
        let (name, constants) = match term {
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => match column_name(left, alias) {
                Some(name) => (Some(name), vec![right.as_ref()]),
                None => (column_name(right, alias), vec![left.as_ref()]),
            },
            Expr::InList { expr, list, negated: false } => (column_name(expr, alias), list.iter().collect()),
            _ => return Ok(None),
        };
        let Some(column) = name.and_then(|name| definition.column(&name)) else { return Ok(None) };
        let mut values = Vec::with_capacity(constants.len());
        for constant in constants {
            match literal(constant, execution.params)? {
                Some(value) if is_of_kind(&value, &column.data_type) => values.push(value),
                _ => return Ok(None),
            }
        }
        if pins.iter().any(|(id, _)| *id == column.column_id) {
            return Ok(None);
        }
        pins.push((column.column_id, values));
    }
    let combinations: usize = pins.iter().map(|(_, values)| values.len()).fold(1, usize::saturating_mul);
    if combinations > MAX_LOOKUP_KEYS {
        return Ok(None);
    }
    let is_pinned = |id: u32| pins.iter().any(|(pinned, _)| *pinned == id);
    if pins.len() == definition.primary_key.len() && definition.primary_key.iter().all(|id| is_pinned(*id)) {
        let mut keys = Vec::with_capacity(combinations);
        for row in rows_of(&pins, &definition.primary_key) {
            let mut key = Vec::new();
            core.key().codec().encode_values(&row, &mut key)?;
            keys.push(key);
        }
        keys.sort_unstable();
        keys.dedup();
        return Ok(Some(Lookup::Keys(keys)));
    }
    let pinned: Vec<u32> = pins.iter().map(|(id, _)| *id).collect();
    let Some(index) = index_of(definition, &pinned) else { return Ok(None) };
    let codec = IndexCodec::new(definition, index)?;
    let ids: Vec<u32> = index.columns[..pins.len()].iter().map(|c| c.column_id).collect();
    let mut prefixes = Vec::with_capacity(combinations);
    for row in rows_of(&pins, &ids) {
        let mut prefix = Vec::new();
        for ((place, value), id) in row.iter().enumerate().zip(&ids) {
            let Some(column) = definition.column_by_id(*id) else { return Ok(None) };
            let mut one = ColumnBuilder::new(&column.data_type, &column.name, 1);
            one.append(value)?;
            codec.encode_column(place, &one.finish(), 0, &mut prefix)?;
        }
        prefixes.push(prefix);
    }
    Ok(Some(Lookup::Index(IndexAccess::of_values(index, prefixes))))
}

/// The first index that begins with these columns, in any order.
pub(super) fn index_of<'a>(definition: &'a TableDefinition, columns: &[u32]) -> Option<&'a IndexDefinition> {
    let fits = |index: &&IndexDefinition| {
        index.columns.len() >= columns.len()
            && index.columns[..columns.len()].iter().all(|part| columns.contains(&part.column_id))
    };
    definition.indexes.iter().find(fits)
}

/// Every combination of the values that columns are pinned to, in the order of `columns`.
fn rows_of(pins: &[(u32, Vec<Value>)], columns: &[u32]) -> Vec<Vec<Value>> {
    let mut rows = vec![Vec::with_capacity(columns.len())];
    for values in columns.iter().filter_map(|id| pins.iter().find(|(pinned, _)| pinned == id)).map(|(_, v)| v) {
        rows = rows
            .into_iter()
            .flat_map(|row: Vec<Value>| {
                values.iter().map(move |value| [&row[..], std::slice::from_ref(value)].concat())
            })
            .collect();
    }
    rows
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
pub(super) fn is_of_kind(value: &Value, data_type: &KalamDataType) -> bool {
    match (value, data_type) {
        (Value::BigInt(_), KalamDataType::BigInt) | (Value::Text(_), KalamDataType::Text) => true,
        (Value::BigInt(v), KalamDataType::Int) => i32::try_from(*v).is_ok(),
        (Value::BigInt(v), KalamDataType::SmallInt) => i16::try_from(*v).is_ok(),
        _ => false,
    }
}
