//! Table providers: what DataFusion sees of a table.
//!
//! One [`TableProviderCore`] serves every kind of table. Invariant: a provider holds no user and no snapshot; both
//! come with the request (`scan.rs`), so the registry caches one provider per table for all users.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType as DfTableType};
use datafusion::physical_plan::ExecutionPlan;

use super::key_spec::KeySpec;
use super::pins::{KeyPins, is_pinned};
use super::scan::{ScanColumn, ScanKeys, TableScanExec, schema_with_system_columns, system_columns, table_columns};
use super::store::TableStore;
use crate::error::{KalamError, Result};
use crate::schema::{CachedTableData, ProviderFactory, TableDefinition, TableId};
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
    key: KeySpec,
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
        let nameable = system_columns(&table).into_iter().filter(|(_, c)| *c != ScanColumn::Position);
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
        Ok(Self { store, table, schema, columns, key })
    }

    /// The table's definition.
    pub fn definition(&self) -> &TableDefinition {
        self.table.definition()
    }

    /// Whether it serves this definition of its table.
    pub fn is_of(&self, table: &Arc<CachedTableData>) -> bool {
        Arc::ptr_eq(&self.table, table)
    }

    /// What identifies its rows.
    pub fn key(&self) -> &KeySpec {
        &self.key
    }

    /// A scan of the rows of encoded keys.
    pub fn key_scan(&self, projection: Option<&[usize]>, keys: Vec<Vec<u8>>) -> Result<TableScanExec> {
        let (schema, columns) = self.projected(projection).map_err(KalamError::internal)?;
        let (store, table) = (Arc::clone(&self.store), Arc::clone(&self.table));
        Ok(TableScanExec::new(store, table, schema, columns, Some(ScanKeys::Known(Arc::from(keys))), None))
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

    fn scan(
        &self,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let (schema, columns) = self.projected(projection.map(Vec::as_slice))?;
        let keys = match KeyPins::of(self.table.definition(), filters) {
            Some(pins) if pins.are_constant() => Some(ScanKeys::Known(Arc::from(pins.keys(&self.key)?))),
            Some(pins) => Some(ScanKeys::Pinned(Arc::new(pins))),
            None => None,
        };
        // A filter above the scan would see too few rows if the scan stopped at the limit.
        let fetch = limit.filter(|_| filters.is_empty());
        let (store, table) = (Arc::clone(&self.store), Arc::clone(&self.table));
        Ok(Arc::new(TableScanExec::new(store, table, schema, columns, keys, fetch)))
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

/// One data set for everyone in the database.
#[derive(Debug)]
pub struct SharedTableProvider {
    core: TableProviderCore,
    /// The same table with its hidden columns, made when a statement first changes rows.
    with_positions: OnceLock<Arc<SharedTableProvider>>,
}

impl SharedTableProvider {
    /// A provider on a core.
    pub fn new(core: TableProviderCore) -> Self {
        Self { core, with_positions: OnceLock::new() }
    }

    /// The provider of the same table with its hidden columns after its own; the same `Arc` each time.
    pub fn with_positions(&self) -> Result<Arc<Self>> {
        if let Some(provider) = self.with_positions.get() {
            return Ok(Arc::clone(provider));
        }
        let (store, table) = (Arc::clone(&self.core.store), Arc::clone(&self.core.table));
        let made = Arc::new(Self::new(TableProviderCore::with_system_columns(store, table)?));
        Ok(Arc::clone(self.with_positions.get_or_init(|| made)))
    }

    /// Its core.
    pub fn core(&self) -> &TableProviderCore {
        &self.core
    }
}

impl BaseTableProvider for SharedTableProvider {
    fn table_id(&self) -> &TableId {
        self.core.table.table_id()
    }

    fn definition(&self) -> &Arc<TableDefinition> {
        self.core.table.definition()
    }
}

#[async_trait]
impl TableProvider for SharedTableProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.core.schema)
    }

    fn table_type(&self) -> DfTableType {
        DfTableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        self.core.scan(projection, filters, limit)
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        let key_columns = self.core.table.definition().key_columns();
        let useful = |f: &&Expr| key_columns.iter().any(|c| is_pinned(f, &c.name, &c.data_type.arrow_type()));
        // Inexact: the filter stays above the scan and has the last word.
        Ok(filters
            .iter()
            .map(|f| {
                if useful(f) { TableProviderFilterPushDown::Inexact } else { TableProviderFilterPushDown::Unsupported }
            })
            .collect())
    }
}

/// The provider of the same table with the system columns that statements may name, if it has any.
pub fn with_system_columns(provider: &dyn TableProvider) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some(stored) = provider.downcast_ref::<SharedTableProvider>() else { return Ok(None) };
    let (store, table) = (Arc::clone(&stored.core.store), Arc::clone(&stored.core.table));
    Ok(Some(Arc::new(SharedTableProvider::new(TableProviderCore::with_nameable_columns(store, table)?))))
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
        let core = TableProviderCore::new(Arc::clone(&self.store), Arc::clone(table))?;
        Ok(Arc::new(SharedTableProvider::new(core)))
    }
}
