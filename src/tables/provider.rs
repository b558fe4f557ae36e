//! Table providers: what DataFusion sees of a table.
//!
//! One [`TableProviderCore`] serves every kind of table. Invariant: a provider holds no user and no snapshot; both
//! come with the request (`request.rs`), so the registry caches one provider per table for all users. The kinds of stored
//! table differ in where a request's rows are (`Request::scope`), not in how they are read, so their providers are one
//! type with the kind as its parameter.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType as DfTableType};
use datafusion::physical_plan::ExecutionPlan;

use super::index_access::{self, IndexAccess, ScanPath};
use super::key_spec::KeySpec;
use super::parameters::{ParameterFunction, has_parameters, with_values};
use super::scan::TableScanExec;
use super::scan_columns::{DELETED_COLUMN, ScanColumn, schema_with_system_columns, system_columns, table_columns};
use super::segment::ScanFilter;
use super::store::TableStore;
use crate::error::{KalamError, Result};
use crate::schema::{CachedTableData, ProviderFactory, TableDefinition, TableId, TableType};
use crate::types::KalamDataType;

/// What every table provider can tell.
pub trait BaseTableProvider: TableProvider {
    /// The table.
    fn table_id(&self) -> &TableId;
    /// Its definition as the provider serves it.
    fn definition(&self) -> &Arc<TableDefinition>;
}

/// The shared core of all providers of stored tables.
#[derive(Debug)]
pub struct TableProviderCore {
    store: Arc<TableStore>,
    table: Arc<CachedTableData>,
    schema: SchemaRef,
    columns: Vec<ScanColumn>,
    /// The schema and columns as filters see them.
    filtered: (Arc<DFSchema>, Arc<[ScanColumn]>),
    key: KeySpec,
    with_positions: OnceLock<Arc<Self>>,
}

impl TableProviderCore {
    /// The core for a table, with its own columns only.
    pub fn new(store: Arc<TableStore>, table: Arc<CachedTableData>) -> Result<Self> {
        let schema = table.arrow_schema()?;
        let columns = table_columns(&table)?;
        Self::with(store, table, schema, columns)
    }

    /// The core for a table with its hidden columns after its own.
    pub fn with_system_columns(store: Arc<TableStore>, table: Arc<CachedTableData>) -> Result<Self> {
        let schema = schema_with_system_columns(&table)?;
        let mut columns = table_columns(&table)?;
        columns.extend(system_columns(&table).into_iter().map(|(_, column)| column));
        Self::with(store, table, schema, columns)
    }

    /// The core for a table with the hidden columns that statements may name.
    pub fn with_nameable_columns(store: Arc<TableStore>, table: Arc<CachedTableData>) -> Result<Self> {
        let deleted = (Field::new(DELETED_COLUMN, DataType::Boolean, false), ScanColumn::Deleted);
        let nameable = system_columns(&table).into_iter().filter(|(_, c)| *c != ScanColumn::Position).chain([deleted]);
        let (fields, mut hidden): (Vec<Field>, Vec<ScanColumn>) = nameable.unzip();
        let own = table.arrow_schema()?;
        let fields = own.fields().iter().cloned().chain(fields.into_iter().map(Arc::new));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut columns = table_columns(&table)?;
        columns.append(&mut hidden);
        Self::with(store, table, schema, columns)
    }

    fn with(
        store: Arc<TableStore>,
        table: Arc<CachedTableData>,
        schema: SchemaRef,
        columns: Vec<ScanColumn>,
    ) -> Result<Self> {
        let key = KeySpec::new(table.definition())?;
        let schema = plan_schema(&schema);
        let names = DFSchema::try_from(Arc::clone(&schema)).map_err(KalamError::internal)?;
        let filtered = (Arc::new(names), Arc::from(columns.as_slice()));
        Ok(Self { store, table, schema, columns, filtered, key, with_positions: OnceLock::new() })
    }

    /// The table's definition.
    pub fn definition(&self) -> &TableDefinition {
        self.table.definition()
    }

    /// The columns that it gives.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Whether it serves this definition of its table.
    pub fn is_of(&self, table: &Arc<CachedTableData>) -> bool {
        Arc::ptr_eq(&self.table, table)
    }

    /// The same table with its hidden columns, made when a statement first changes rows.
    pub fn with_positions(&self) -> Result<Arc<Self>> {
        if let Some(core) = self.with_positions.get() {
            return Ok(Arc::clone(core));
        }
        let (store, table) = (Arc::clone(&self.store), Arc::clone(&self.table));
        let made = Arc::new(Self::with_system_columns(store, table)?);
        Ok(Arc::clone(self.with_positions.get_or_init(|| made)))
    }

    /// What identifies its rows.
    pub fn key(&self) -> &KeySpec {
        &self.key
    }

    /// A scan of the rows of encoded keys.
    pub fn key_scan(&self, projection: Option<&[usize]>, keys: Vec<Vec<u8>>) -> Result<TableScanExec> {
        let (schema, columns) = self.projected(projection).map_err(KalamError::internal)?;
        let (store, table) = (Arc::clone(&self.store), Arc::clone(&self.table));
        Ok(TableScanExec::new(store, table, schema, columns, Some(Arc::from(keys)), None))
    }

    fn projected(&self, projection: Option<&[usize]>) -> datafusion::common::Result<(SchemaRef, Vec<ScanColumn>)> {
        Ok(match projection {
            None => (Arc::clone(&self.schema), self.columns.clone()),
            Some(projection) => (
                Arc::new(self.schema.project(projection)?),
                projection.iter().map(|&i| self.columns[i].clone()).collect(),
            ),
        })
    }

    /// The filters that bounds can be compared with. They are applied above the scan, so none of them must be here.
    fn filter(&self, session: &dyn Session, filters: &[Expr]) -> Option<Arc<ScanFilter>> {
        let expr = conjunction(filters.iter().filter(|f| compares_columns(f)).cloned())?;
        let (names, columns) = &self.filtered;
        let expr = session.create_physical_expr(expr, names).ok()?;
        Some(Arc::new(ScanFilter::new(expr, Arc::clone(&self.schema), Arc::clone(columns))))
    }

    fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let (schema, columns) = self.projected(projection.map(Vec::as_slice))?;
        // A filter above the scan would see too few rows if the scan stopped at the limit.
        let fetch = limit.filter(|_| filters.is_empty());
        let (store, table) = (Arc::clone(&self.store), Arc::clone(&self.table));
        // Deleted rows are in no index, and their `_seq` is outside of what bounds say.
        if columns.contains(&ScanColumn::Deleted) {
            return Ok(Arc::new(TableScanExec::new(store, table, schema, columns, None, fetch)));
        }
        let open = filters.iter().any(has_parameters);
        // With parameters this is what the run does that the plan is made for; each run looks again.
        let known: Vec<Expr> =
            if open { filters.iter().cloned().filter_map(|f| with_values(f).ok()).collect() } else { filters.to_vec() };
        let ScanPath { keys, index } = ScanPath::of(self.table.definition(), &self.key, &known)?;
        let filter = if keys.is_none() || open { self.filter(session, filters) } else { None };
        let scan = TableScanExec::new(store, table, schema, columns, keys, fetch);
        let scan = scan.with_filter(filter).with_index(index);
        Ok(Arc::new(if open { scan.with_open_filters(filters) } else { scan }))
    }

    /// A scan of the rows that an index has in some part of it.
    pub fn index_scan(&self, projection: Option<&[usize]>, access: IndexAccess) -> Result<TableScanExec> {
        let (schema, columns) = self.projected(projection).map_err(KalamError::internal)?;
        let (store, table) = (Arc::clone(&self.store), Arc::clone(&self.table));
        Ok(TableScanExec::new(store, table, schema, columns, None, None).with_index(Some(Arc::new(access))))
    }
}

/// A schema without the metadata that plans have no use for; see [`KalamDataType::plan_field`].
pub(super) fn plan_schema(schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| match KalamDataType::from_arrow_field(field) {
        Ok(data_type) => Arc::new(data_type.plan_field(field.name(), field.is_nullable())),
        Err(_) => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// Whether a filter compares columns with constants, so that bounds of the columns may rule it out.
fn compares_columns(filter: &Expr) -> bool {
    let mut columns = false;
    let plain = filter.apply(|expr| {
        columns |= matches!(expr, Expr::Column(_));
        let plain = matches!(
            expr,
            Expr::Column(_)
                | Expr::Literal(..)
                | Expr::BinaryExpr(_)
                | Expr::Not(_)
                | Expr::Negative(_)
                | Expr::IsNull(_)
                | Expr::IsNotNull(_)
                | Expr::IsTrue(_)
                | Expr::IsFalse(_)
                | Expr::IsNotTrue(_)
                | Expr::IsNotFalse(_)
                | Expr::Between(_)
                | Expr::InList(_)
                | Expr::Like(_)
                | Expr::Cast(_)
                | Expr::Placeholder(_)
        ) || ParameterFunction::of(expr).is_some();
        // The walk ends where something else is found.
        Ok(if plain { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    columns && plain.is_ok_and(|end| end != TreeNodeRecursion::Stop)
}

/// A kind of stored table.
pub trait TableKind: fmt::Debug + Send + Sync + 'static {
    /// What definitions call it.
    const TYPE: TableType;
}

/// The kind of [`UserTableProvider`].
#[derive(Debug)]
pub enum UserKind {}
/// The kind of [`SharedTableProvider`].
#[derive(Debug)]
pub enum SharedKind {}
/// The kind of [`StreamTableProvider`].
#[derive(Debug)]
pub enum StreamKind {}

impl TableKind for UserKind {
    const TYPE: TableType = TableType::User;
}
impl TableKind for SharedKind {
    const TYPE: TableType = TableType::Shared;
}
impl TableKind for StreamKind {
    const TYPE: TableType = TableType::Stream;
}

/// The provider of a stored table of one kind.
#[derive(Debug)]
pub struct StoredTableProvider<K> {
    core: Arc<TableProviderCore>,
    kind: PhantomData<fn() -> K>,
}

/// One data set for each user: a request finds its user's.
pub type UserTableProvider = StoredTableProvider<UserKind>;
/// One data set for everyone in the database.
pub type SharedTableProvider = StoredTableProvider<SharedKind>;
/// Events for everyone, in memory only, until they are as old as the table lets them become.
pub type StreamTableProvider = StoredTableProvider<StreamKind>;

impl<K: TableKind> StoredTableProvider<K> {
    fn new(core: Arc<TableProviderCore>) -> Self {
        Self { core, kind: PhantomData }
    }

    /// Its core.
    pub fn core(&self) -> &TableProviderCore {
        &self.core
    }
}

impl<K: TableKind> BaseTableProvider for StoredTableProvider<K> {
    fn table_id(&self) -> &TableId {
        self.core.table.table_id()
    }

    fn definition(&self) -> &Arc<TableDefinition> {
        self.core.table.definition()
    }
}

#[async_trait]
impl<K: TableKind> TableProvider for StoredTableProvider<K> {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.core.schema)
    }

    fn table_type(&self) -> DfTableType {
        DfTableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        self.core.scan(session, projection, filters, limit)
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        let useful = |f: &&Expr| compares_columns(f) || index_access::is_useful(self.core.table.definition(), f);
        // Inexact: the filter stays above the scan and has the last word.
        Ok(filters
            .iter()
            .map(|f| {
                if useful(f) { TableProviderFilterPushDown::Inexact } else { TableProviderFilterPushDown::Unsupported }
            })
            .collect())
    }
}

/// The core of a stored table's provider, of whichever kind; `None` for others.
pub fn stored_core(provider: &dyn TableProvider) -> Option<&TableProviderCore> {
    fn of<K: TableKind>(provider: &dyn TableProvider) -> Option<&TableProviderCore> {
        provider.downcast_ref::<StoredTableProvider<K>>().map(StoredTableProvider::core)
    }
    of::<SharedKind>(provider).or_else(|| of::<UserKind>(provider)).or_else(|| of::<StreamKind>(provider))
}

/// The provider of a stored table, of the kind that its definition says.
pub fn stored_provider(core: impl Into<Arc<TableProviderCore>>) -> Result<Arc<dyn TableProvider>> {
    let core = core.into();
    let table = Arc::clone(&core.table);
    match table.definition().table_type {
        SharedKind::TYPE => Ok(Arc::new(SharedTableProvider::new(core))),
        UserKind::TYPE => Ok(Arc::new(UserTableProvider::new(core))),
        StreamKind::TYPE => Ok(Arc::new(StreamTableProvider::new(core))),
        other => {
            Err(KalamError::internal(format_args!("'{}' is a {other} table: it stores no rows", table.table_id())))
        }
    }
}

/// The provider of the same table with the system columns that statements may name, if it has any.
pub fn with_system_columns(provider: &dyn TableProvider) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some(core) = stored_core(provider) else { return Ok(None) };
    let (store, table) = (Arc::clone(&core.store), Arc::clone(&core.table));
    stored_provider(TableProviderCore::with_nameable_columns(store, table)?).map(Some)
}

/// Makes the providers that the registry caches.
#[derive(Debug)]
pub struct TableProviders {
    store: Arc<TableStore>,
}

impl TableProviders {
    /// A factory for tables of a store.
    pub fn new(store: Arc<TableStore>) -> Self {
        Self { store }
    }
}

impl ProviderFactory for TableProviders {
    fn provider(&self, table: &Arc<CachedTableData>) -> Result<Arc<dyn TableProvider>> {
        stored_provider(TableProviderCore::new(Arc::clone(&self.store), Arc::clone(table))?)
    }
}
