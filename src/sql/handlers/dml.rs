//! What INSERT, UPDATE and DELETE share: the target, checks on rows, the commit.
//!
//! UPDATE and DELETE are bound here, not by DataFusion, whose providers are handed no filter when WHERE holds a
//! subquery: the rows to change are found by a SELECT over the target with its hidden position column. Invariant:
//! that column belongs to one relation named [`TARGET`], which no text can name, so nothing else in the statement
//! sees it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::TableProvider;
use datafusion::sql::sqlparser::ast::{self, Expr, Ident, ObjectName, Select, SelectItem, SetExpr, TableFactor};

use super::super::catalog::{Extras, Names, fold, position_of_name};
use super::super::executor::{Execution, StatementResult};
use super::super::parser::{self, Statement};
use super::super::plan_cache::PlanFor;
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::{CachedTableData, TableDefinition};
use crate::tables::{
    ColdCheck, HotTable, POSITION_COLUMN, PreparedRows, ROW_ID_COLUMN, Receipt, Request, ScopeKey, ScopeWrite,
    StatementWrite, TableProviderCore, TableScanExec, stored_core, stored_provider,
};

/// The relation that an UPDATE or DELETE changes, in the SELECT that finds its rows.
pub const TARGET: &str = "$target";

/// How an UPDATE or DELETE finds its rows, for EXPLAIN.
pub struct Explained {
    /// The SELECT of the rows.
    pub query: ast::Query,
    /// The table.
    pub target: Target,
    /// The lookup that takes the place of the SELECT, if the statement goes past the planner.
    pub lookup: Option<TableScanExec>,
}

/// The table that a statement changes, as its session sees it.
#[derive(Clone)]
pub struct Target {
    /// The table.
    pub table: Arc<CachedTableData>,
    /// The session's part of it.
    pub scope: ScopeKey,
    /// That part's rows.
    pub hot: Arc<HotTable>,
    /// What the statement reads.
    pub request: Arc<Request>,
    /// The table's provider, which keeps what all statements that change rows need.
    pub provider: Option<Arc<dyn TableProvider>>,
    /// The catalog's version from before the table was looked up.
    pub catalog: u64,
}

impl Target {
    /// Finds the table of a name and brings its rows into memory.
    pub async fn find(execution: &Execution<'_>, name: &ObjectName) -> Result<Self> {
        let namespace = execution.session.namespace();
        let catalog = execution.executor.registry().catalog_version();
        let names = Names { registry: execution.executor.registry(), namespace: &namespace };
        let table = names.writable(name).await?;
        super::storage::make_room(execution).await?;
        let request = execution.request();
        let scope = request.scope(&table).map_err(|e| e.at(position_of_name(name)))?;
        let hot = match &execution.transaction {
            Some(transaction) => transaction.target(&table, &scope).await?,
            None => execution.executor.store().hot(&scope, table.definition()).await?,
        };
        super::storage::check_room(execution, &table, &scope)?;
        // The snapshot comes after the rows are there: it must not be older than what a position points at.
        let request = execution.request();
        let provider = execution.executor.registry().provider(table.table_id()).await?;
        Ok(Self { table, scope, hot, request, provider, catalog })
    }

    /// Its definition.
    pub fn definition(&self) -> &TableDefinition {
        self.table.definition()
    }

    /// The table with its hidden columns; the one that its provider keeps, if that is of this definition.
    pub fn core(&self, execution: &Execution<'_>) -> Result<Arc<TableProviderCore>> {
        match self.provider.as_ref().and_then(|kept| stored_core(kept.as_ref())) {
            Some(core) if core.is_of(&self.table) => core.with_positions(),
            _ => {
                let store = Arc::clone(execution.executor.store());
                Ok(Arc::new(TableProviderCore::with_system_columns(store, Arc::clone(&self.table))?))
            }
        }
    }

    /// Runs the SELECT of the rows to change. Fails with a conflict if the table's definition is not that of this
    /// target any more: its plan would be of another.
    pub async fn select(
        &self,
        execution: &Execution<'_>,
        build: impl FnOnce() -> Result<(ast::Query, Extras)>,
    ) -> Result<Vec<RecordBatch>> {
        let plan = execution.ready_plan_since(self.catalog, PlanFor::Rows, build).await?;
        self.check_current(execution).await?;
        execution.collect_ready(&plan, Arc::clone(&self.request)).await
    }

    async fn check_current(&self, execution: &Execution<'_>) -> Result<()> {
        let current = execution.executor.registry().table(self.table.table_id()).await?;
        if !current.is_some_and(|current| Arc::ptr_eq(&current, &self.table)) {
            return Err(changed_meanwhile(&self.table));
        }
        Ok(())
    }

    /// Rows of [`Target::core`] in the order that UPDATE and DELETE select them: position, row id if there is one,
    /// then the table's columns.
    pub fn position_first(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let width = self.definition().columns.len();
        let place = |name: &str| batch.schema_ref().index_of(name).map_err(KalamError::internal);
        let mut places = vec![place(POSITION_COLUMN)?];
        if self.definition().primary_key.is_empty() {
            places.push(place(ROW_ID_COLUMN)?);
        }
        places.extend(0..width);
        batch.project(&places).map_err(KalamError::internal)
    }

    /// The provider of [`TARGET`].
    pub fn extras(&self, execution: &Execution<'_>) -> Result<Extras> {
        Ok(Extras::from([(TARGET.to_owned(), stored_provider(self.core(execution)?)?)]))
    }

    /// A batch of the table's columns, checked against NOT NULL. `first_row` is the number of its first row, from 1.
    pub fn batch(&self, columns: Vec<ArrayRef>, rows: usize, first_row: usize) -> Result<RecordBatch> {
        checked_batch(&self.table, columns, rows, first_row)
    }

    /// Commits a change of the table, or makes it part of the open transaction.
    pub async fn commit(
        self,
        execution: &Execution<'_>,
        rows: Vec<PreparedRows>,
        replaced: Vec<u64>,
        deleted: Vec<u64>,
    ) -> Result<StatementResult> {
        // Deleted rows and new rows of one UPDATE are the same rows.
        let inserted: usize = rows.iter().map(PreparedRows::len).sum();
        let rows_affected = inserted.max(deleted.len()) as u64;
        if rows_affected == 0 {
            return Ok(StatementResult::default());
        }
        if let Some(transaction) = &execution.transaction {
            self.check_current(execution).await?;
            self.hot.prepare_indexes(self.table.definition(), &self.request).await?;
            let write = StatementWrite { table: &self.table, scope: &self.scope, rows, replaced, deleted };
            Box::pin(transaction.write(write)).await?;
            return Ok(StatementResult { rows_affected, ..StatementResult::default() });
        }
        let receipt = self.submit(execution, rows, replaced, deleted).await?.await?;
        Ok(StatementResult { rows_affected, ..receipt })
    }

    /// Checks and applies a change of the table outside of any transaction: it fails now, or only with its commit. The
    /// future ends when that is durable.
    pub async fn submit(
        self,
        execution: &Execution<'_>,
        rows: Vec<PreparedRows>,
        replaced: Vec<u64>,
        deleted: Vec<u64>,
    ) -> Result<impl Future<Output = Result<StatementResult>> + use<>> {
        let (registry, store) = (execution.executor.registry(), execution.executor.store());
        self.hot.prepare_indexes(self.table.definition(), &self.request).await?;
        let mut writes = vec![ScopeWrite {
            scope: self.scope,
            hot: self.hot,
            schema_version: self.table.schema_version(),
            rows,
            replaced,
            deleted,
            checked: ColdCheck::Unchecked,
        }];
        loop {
            store.check_writes(&mut writes, |_| Arc::clone(self.table.definition())).await?;
            let current = registry.table(self.table.table_id()).await?;
            if !current.is_some_and(|current| Arc::ptr_eq(&current, &self.table)) {
                return Err(changed_meanwhile(&self.table));
            }
            // Nothing is awaited from here to `submit`. If rows moved while their keys were asked for, only that is
            // done again.
            if writes.iter().all(|write| store.still_checked(write)) {
                break;
            }
        }
        let submitted = store.submit(writes, execution.options.durability, None)?;
        Ok(async move {
            let Receipt { seq, durability } = submitted.await?;
            Ok(StatementResult { seq: Some(seq), durability: Some(durability), ..StatementResult::default() })
        })
    }
}

fn changed_meanwhile(table: &CachedTableData) -> KalamError {
    KalamError::new(ErrorCode::Conflict, format!("the definition of '{}' was changed meanwhile", table.table_id()))
}

/// A batch of a table's columns, checked against NOT NULL. `first_row` is the number of its first row, from 1.
pub fn checked_batch(
    table: &CachedTableData,
    columns: Vec<ArrayRef>,
    rows: usize,
    first_row: usize,
) -> Result<RecordBatch> {
    for (column, array) in table.definition().columns_in_order().zip(&columns) {
        if !column.nullable
            && let Some(nulls) = array.nulls()
            && let Some(row) = (0..rows).find(|&row| nulls.is_null(row))
        {
            return Err(KalamError::new(
                ErrorCode::NotNullViolation,
                format!(
                    "column '{}' of '{}' is NOT NULL, but row {} has NULL",
                    column.name,
                    table.table_id(),
                    first_row + row
                ),
            ));
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(table.arrow_schema()?, columns, &options).map_err(KalamError::internal)
}

/// A SELECT from one relation, completed by `change`.
pub fn select_from(relation: &str, alias: &Ident, change: impl FnOnce(&mut Select)) -> Result<ast::Query> {
    let template = format!("SELECT 1 FROM \"{relation}\" AS {}", Ident::with_quote('"', fold(alias)));
    let mut statements = parser::parse(&template)?;
    let Some(Statement::Sql(statement)) = statements.pop() else {
        return Err(KalamError::internal("the SELECT of a statement did not parse"));
    };
    let ast::Statement::Query(mut query) = *statement else {
        return Err(KalamError::internal("the SELECT of a statement is none"));
    };
    let SetExpr::Select(select) = query.body.as_mut() else {
        return Err(KalamError::internal("the SELECT of a statement has no list"));
    };
    change(select);
    Ok(*query)
}

/// The name of a target and what its columns are qualified with in the statement.
pub fn target_name(factor: &TableFactor) -> Result<(&ObjectName, Ident)> {
    match factor {
        TableFactor::Table { name, alias, args: None, .. } => {
            let last = name.0.last().and_then(|p| p.as_ident());
            match (alias, last) {
                (Some(alias), _) => Ok((name, alias.name.clone())),
                (None, Some(last)) => Ok((name, last.clone())),
                (None, None) => Err(not_a_table(factor)),
            }
        }
        other => Err(not_a_table(other)),
    }
}

fn not_a_table(factor: &TableFactor) -> KalamError {
    KalamError::new(ErrorCode::InvalidStatement, format!("'{factor}' cannot be changed: it is not a table"))
}

/// `alias.column AS name`.
pub fn column_item(alias: &Ident, column: &str, name: &str) -> SelectItem {
    let parts = vec![Ident::with_quote('"', fold(alias)), Ident::with_quote('"', column)];
    item(Expr::CompoundIdentifier(parts), name)
}

/// `expression AS name`.
pub fn item(expr: Expr, name: &str) -> SelectItem {
    SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', name) }
}

/// Refuses a clause that is not supported.
pub fn unsupported<T>(clause: &str) -> Result<T> {
    Err(KalamError::new(ErrorCode::FeatureNotSupported, format!("{clause} is not supported")))
}
