//! Steps of an ALTER that give every row a value of its own: ADD COLUMN with SNOWFLAKE_ID() and the like, and
//! ALTER COLUMN … TYPE … USING.
//!
//! Invariant: the rows of every scope are written anew under the version that the step made, with their hidden row
//! ids, in the storage transaction of the definition (`tables/whole.rs`). Until then they are held here, and the
//! steps that follow read them from here by the table's history, as a scan reads stored rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::ast::{Expr, Ident, SelectItem};

use super::super::catalog::Extras;
use super::super::defaults::default_column;
use super::super::errors::from_datafusion;
use super::alter::Steps;
use super::dml::{TARGET, checked_batch, column_item, item, select_from, unsupported};
use crate::error::{KalamError, Result};
use crate::platform::{self, Turns};
use crate::schema::{CachedTableData, ColumnDefinition, TableDefinition, TableType};
use crate::tables::{NewScope, ROW_ID_COLUMN, ScopeKey, TableProviderCore, prepare_rows, stored_provider};
use crate::types::{KalamDataType, coerce_array};

/// The rows of a table, written anew.
pub struct Rewritten {
    /// The table as it was after the step.
    definition: TableDefinition,
    scopes: Vec<(ScopeKey, Vec<Part>)>,
}

/// Some rows: their ids, if the table has no key, and the table's columns.
type Part = (Option<Int64Array>, RecordBatch);

impl Rewritten {
    /// The rows, ready to be committed.
    pub fn prepared(self) -> Result<Vec<NewScope>> {
        let definition = &self.definition;
        let prepare = |(scope, batches): (ScopeKey, Vec<Part>)| {
            let mut rows = Vec::new();
            for (row_ids, batch) in &batches {
                rows.extend(prepare_rows(definition, batch, row_ids.as_ref())?);
            }
            Ok(NewScope { scope, schema_version: definition.schema_version, rows })
        };
        self.scopes.into_iter().map(prepare).collect()
    }

    /// A scope's rows as a later definition shows them.
    fn provider(&self, now: &TableDefinition, scope: &ScopeKey) -> Result<Arc<dyn TableProvider>> {
        let mut fields: Vec<Field> = now.arrow_schema()?.fields().iter().map(|f| f.as_ref().clone()).collect();
        if now.primary_key.is_empty() {
            fields.push(Field::new(ROW_ID_COLUMN, DataType::Int64, false));
        }
        let schema = Arc::new(Schema::new(fields));
        let own = self.scopes.iter().filter(|(s, _)| s == scope).flat_map(|(_, batches)| batches);
        let show = |(row_ids, batch): &Part| {
            let mut columns =
                now.columns_in_order().map(|c| self.column(now, c, batch)).collect::<Result<Vec<ArrayRef>>>()?;
            columns.extend(row_ids.iter().map(|ids| Arc::new(ids.clone()) as ArrayRef));
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options).map_err(KalamError::internal)
        };
        let batches = own.map(show).collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(MemTable::try_new(schema, vec![batches]).map_err(from_datafusion)?))
    }

    fn column(&self, now: &TableDefinition, column: &ColumnDefinition, batch: &RecordBatch) -> Result<ArrayRef> {
        let place = self.definition.columns_in_order().position(|c| c.column_id == column.column_id);
        let written = place.map(|place| Arc::clone(batch.column(place)));
        now.column_now(column, written, self.definition.schema_version, batch.num_rows())
    }
}

impl Steps<'_, '_> {
    /// Selects from every row of the table, scope by scope, as the steps so far leave them.
    pub(super) async fn select_all(
        &self,
        alias: &Ident,
        items: Vec<SelectItem>,
    ) -> Result<Vec<(ScopeKey, Vec<RecordBatch>)>> {
        let store = self.execution.executor.store();
        let table = Arc::new(CachedTableData::new(self.now.clone()));
        let mut found = Vec::new();
        for scope in store.scopes(self.now.table_no).await? {
            let provider: Arc<dyn TableProvider> = match &self.rewritten {
                Some(rewritten) => rewritten.provider(&self.now, &scope)?,
                None => {
                    let core = TableProviderCore::with_system_columns(Arc::clone(store), Arc::clone(&table))?;
                    stored_provider(core)?
                }
            };
            let extras = Extras::from([(TARGET.to_owned(), provider)]);
            let query = select_from(TARGET, alias, |select| select.projection.clone_from(&items))?;
            let request = self.execution.request_as(scope.user.clone());
            let (_, batches) = self.execution.select(query, &extras, request).await?;
            found.push((scope, batches));
        }
        Ok(found)
    }

    /// ADD COLUMN with a default that is another one for each row. `next` has the column, as its last.
    pub(super) async fn add_computed(&mut self, next: TableDefinition) -> Result<()> {
        let added = next.columns.last().cloned();
        let added = added.ok_or_else(|| KalamError::internal("a table without columns"))?;
        self.rewrite(next, None, |_, rows| default_column(self.execution, &added, rows)).await
    }

    /// ALTER COLUMN … TYPE … USING.
    pub(super) async fn convert_using(&mut self, name: &str, to: KalamDataType, using: &Expr) -> Result<()> {
        let by = Arc::clone(&self.execution.user);
        let next = self.now.alter_type_using(name, to, platform::now_ms(), &by)?;
        self.rewrite(next, Some((name, using)), |computed, rows| match computed {
            Some(values) => coerce_array(values, &to, name),
            None => Err(KalamError::internal(format_args!("{rows} rows without their new values"))),
        })
        .await?;
        self.check_unique_of(name).await
    }

    /// Gives every row the columns of `next`, all as they are but one: that which `next` adds, or the one that is
    /// computed, from what `value` makes of the expression's values and the number of rows.
    async fn rewrite(
        &mut self,
        next: TableDefinition,
        computed: Option<(&str, &Expr)>,
        value: impl Fn(Option<&ArrayRef>, usize) -> Result<ArrayRef>,
    ) -> Result<()> {
        if self.now.table_type == TableType::Stream {
            // What takes the place of rows is stored, and events are not.
            return unsupported("a new value for each row of a STREAM table");
        }
        let alias = Ident::with_quote('"', self.now.table_id.table.to_string());
        let has_row_ids = self.now.primary_key.is_empty();
        // The column as it was is asked for too, so that an aggregate in USING is no query over the whole table.
        let mut items: Vec<SelectItem> =
            self.now.columns_in_order().map(|c| column_item(&alias, &c.name, &format!("${}", c.column_id))).collect();
        items.extend(computed.map(|(_, expr)| item(expr.clone(), "$computed")));
        if has_row_ids {
            items.push(column_item(&alias, ROW_ID_COLUMN, "$rowid"));
        }
        let table = CachedTableData::new(next.clone());
        let request = self.execution.request();
        let mut turns = Turns::begin();
        let mut scopes = Vec::new();
        for (scope, found) in self.select_all(&alias, items).await? {
            let mut batches = Vec::with_capacity(found.len());
            let mut first_row = 1;
            for batch in found {
                request.pass(&mut turns).await?;
                let values = computed.and(batch.column_by_name("$computed"));
                let mut columns = Vec::with_capacity(next.columns.len());
                for column in next.columns_in_order() {
                    let as_it_is = batch.column_by_name(&format!("${}", column.column_id));
                    columns.push(match as_it_is {
                        Some(array) if computed.is_none_or(|(name, _)| name != column.name) => Arc::clone(array),
                        _ => value(values, batch.num_rows())?,
                    });
                }
                let row_ids = batch.column_by_name("$rowid").map(|ids| ids.as_primitive::<Int64Type>().clone());
                let rows = checked_batch(&table, columns, batch.num_rows(), first_row)?;
                first_row += rows.num_rows();
                batches.push((row_ids, rows));
            }
            scopes.push((scope, batches));
        }
        if computed.is_some_and(|(name, _)| next.column(name).is_some_and(|c| next.is_key(c.column_id))) {
            let types: Vec<KalamDataType> = next.key_columns().iter().map(|c| c.data_type).collect();
            for (_, batches) in &scopes {
                let mut keys = std::collections::HashSet::new();
                for (_, batch) in batches {
                    let columns: Vec<ArrayRef> =
                        next.key_indices().into_iter().map(|place| Arc::clone(batch.column(place))).collect();
                    self.check_keys(&types, &columns, &mut keys)?;
                }
            }
        }
        self.rewritten = Some(Rewritten { definition: next.clone(), scopes });
        self.now = next;
        Ok(())
    }
}
