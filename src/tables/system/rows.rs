//! Where the rows of each system table come from.
//!
//! Invariant: values are given in the order of the table's columns in `spec.rs`; a row with another number of values
//! is an error, not a shifted row.

use std::sync::Arc;

use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::spec::SystemTable;
use super::{SystemTablesRegistry, standard};
use crate::error::{KalamError, Result};
use crate::schema::{CachedTableData, SchemaRegistry, TableType};
use crate::types::{ColumnBuilder, Value};

/// Builds the columns of a system table's definition from rows in the order of its specification.
pub(super) struct RowWriter {
    builders: Vec<ColumnBuilder>,
    /// For each column of the specification, its builder; none if the definition does not have it.
    places: Vec<Option<usize>>,
    rows: usize,
}

impl RowWriter {
    fn new(which: SystemTable, table: &CachedTableData) -> Self {
        let definition = table.definition();
        let place = |name: &str| definition.columns_in_order().position(|c| c.name == name);
        Self {
            builders: definition.columns_in_order().map(|c| ColumnBuilder::new(&c.data_type, &c.name, 0)).collect(),
            places: which.columns().iter().map(|c| place(c.name)).collect(),
            rows: 0,
        }
    }

    pub fn push<const N: usize>(&mut self, row: [Value; N]) -> Result<()> {
        if N != self.places.len() {
            let expected = self.places.len();
            return Err(KalamError::internal(format_args!("a row of {N} values, expected {expected}")));
        }
        for (value, place) in row.iter().zip(&self.places) {
            if let Some(place) = place {
                self.builders[*place].append(value)?;
            }
        }
        self.rows += 1;
        // A column that only a test's definition has.
        for builder in &mut self.builders {
            if builder.len() < self.rows {
                builder.append_null();
            }
        }
        Ok(())
    }

    fn finish(mut self, table: &CachedTableData) -> Result<RecordBatch> {
        let columns = self.builders.iter_mut().map(ColumnBuilder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(table.arrow_schema()?, columns, &options).map_err(KalamError::internal)
    }
}

pub(super) fn text(value: impl Into<String>) -> Value {
    Value::Text(value.into())
}

pub(super) fn optional(value: Option<impl Into<String>>) -> Value {
    value.map_or(Value::Null, text)
}

pub(super) fn int(value: impl TryInto<i64>) -> Value {
    Value::BigInt(value.try_into().unwrap_or(i64::MAX))
}

fn time(ms: u64) -> Value {
    Value::Timestamp(i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000))
}

fn optional_time(ms: Option<u64>) -> Value {
    ms.map_or(Value::Null, time)
}

impl SystemTablesRegistry {
    /// Makes the rows of a table.
    pub(super) async fn make(
        &self,
        which: SystemTable,
        table: &CachedTableData,
        registry: &SchemaRegistry,
    ) -> Result<RecordBatch> {
        let mut out = RowWriter::new(which, table);
        match which {
            SystemTable::Users => {
                for u in self.users.list().await? {
                    out.push([text(u.user_id), text(u.role), time(u.created_at_ms), time(u.updated_at_ms)])?;
                }
            }
            SystemTable::Jobs => self.write_jobs(&mut out).await?,
            SystemTable::Namespaces => {
                for n in registry.namespaces().await? {
                    let by = Some(n.created_by).filter(|by| !by.is_empty());
                    out.push([text(n.name), time(n.created_at_ms), optional(by)])?;
                }
            }
            SystemTable::Storages => {
                for s in self.storages.list().await? {
                    out.push([text(s.storage_id), text(s.kind), text(s.path_template), time(s.created_at_ms)])?;
                }
            }
            SystemTable::LiveQueries => self.write_live_queries(&mut out)?,
            SystemTable::Tables => write_tables(&mut out, &registry.tables(None).await?)?,
            SystemTable::Columns => write_columns(&mut out, &registry.tables(None).await?)?,
            SystemTable::Indexes => write_indexes(&mut out, &registry.tables(None).await?)?,
            SystemTable::AuditLogs => {
                for a in self.audit.list().await? {
                    let at = Value::Timestamp(a.at_us);
                    out.push([int(a.audit_id), at, text(a.node_id), text(a.user_id), text(a.action), text(a.target)])?;
                }
            }
            SystemTable::Stats => {
                for (name, value) in self.statistics(registry) {
                    out.push([text(name), int(value)])?;
                }
            }
            SystemTable::StandardSchemata => standard::write_schemata(&mut out, registry.namespaces().await?)?,
            SystemTable::StandardTables => standard::write_tables(&mut out, &registry.tables(None).await?)?,
            SystemTable::StandardViews => standard::write_views(&mut out, &registry.tables(None).await?)?,
            SystemTable::StandardColumns => standard::write_columns(&mut out, &registry.tables(None).await?)?,
            SystemTable::StandardTableConstraints => {
                standard::write_table_constraints(&mut out, &registry.tables(None).await?)?;
            }
            SystemTable::StandardKeyColumnUsage => {
                standard::write_key_column_usage(&mut out, &registry.tables(None).await?)?;
            }
            SystemTable::StandardConstraintColumnUsage => {
                standard::write_constraint_column_usage(&mut out, &registry.tables(None).await?)?;
            }
            SystemTable::StandardStatistics => {
                standard::write_statistics(&mut out, &registry.tables(None).await?)?;
            }
        }
        out.finish(table)
    }

    async fn write_jobs(&self, out: &mut RowWriter) -> Result<()> {
        let mut jobs = self.jobs.list().await?;
        for now in self.job_manager().map(|m| m.unfinished()).unwrap_or_default() {
            match jobs.iter_mut().find(|job| job.job_id == now.job_id) {
                Some(stored) => *stored = now,
                None => jobs.push(now),
            }
        }
        jobs.sort_by(|a, b| a.job_id.cmp(&b.job_id));
        for job in jobs {
            out.push([
                text(job.job_id),
                text(job.job_type),
                optional(job.target),
                text(job.status.as_str()),
                optional(job.parameters),
                optional(job.message),
                int(job.attempts),
                text(job.node_id),
                time(job.created_at_ms),
                optional_time(job.started_at_ms),
                optional_time(job.finished_at_ms),
            ])?;
        }
        Ok(())
    }

    fn write_live_queries(&self, out: &mut RowWriter) -> Result<()> {
        let source = self.live_queries.read().clone();
        for live in source.map(|s| s.live_queries()).unwrap_or_default() {
            out.push([
                text(live.live_id),
                text(live.connection_id),
                text(live.user_id),
                text(live.query),
                text(self.node_id.as_ref()),
                time(live.created_at_ms),
                int(live.last_seq),
            ])?;
        }
        Ok(())
    }

    /// Every counter, by name.
    fn statistics(&self, registry: &SchemaRegistry) -> Vec<(&'static str, u64)> {
        let cache = registry.statistics();
        let store = self.store.statistics();
        let calls = self.backend.counters();
        let mut all = vec![
            ("registry_hits", cache.hits),
            ("registry_misses", cache.misses),
            ("registry_tables", cache.size as u64),
            ("registry_bytes", cache.bytes as u64),
            ("hot_scopes", store.scopes),
            ("hot_rows", store.hot_rows),
            ("hot_bytes", store.hot_bytes),
            ("hot_index_bytes", store.hot_index_bytes),
            ("segments", store.segments),
            ("cold_rows", store.cold_rows),
            ("cold_bytes", store.cold_bytes),
            ("log_records_written", calls.log_records),
            ("log_bytes_written", calls.log_bytes),
            ("commits", store.commits),
            ("commit_groups", store.groups),
            ("storage_calls", calls.gets + calls.scans + calls.commits),
            ("storage_gets", calls.gets),
            ("storage_scans", calls.scans),
            ("storage_commits", calls.commits),
            ("storage_bytes_read", calls.bytes_read),
            ("storage_bytes_written", calls.bytes_written),
        ];
        for source in self.gauges.read().iter() {
            all.extend(source.gauges());
        }
        all.sort_unstable_by_key(|(name, _)| *name);
        all
    }
}

fn write_tables(out: &mut RowWriter, tables: &[Arc<CachedTableData>]) -> Result<()> {
    for table in tables {
        let d = table.definition();
        let key: Vec<&str> = d.key_columns().iter().map(|c| c.name.as_str()).collect();
        let options: serde_json::Map<String, serde_json::Value> =
            d.options.to_pairs().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        let has_segments = matches!(d.table_type, TableType::Shared | TableType::User);
        out.push([
            text(d.table_id.namespace.as_ref()),
            text(d.table_id.table.as_ref()),
            text(d.table_type.as_str()),
            int(d.columns.len() as u64),
            optional((!key.is_empty()).then(|| key.join(", "))),
            int(d.schema_version),
            optional(has_segments.then(|| table.storage_id())),
            if options.is_empty() { Value::Null } else { Value::Json(serde_json::Value::Object(options).to_string()) },
            optional(d.view.as_ref().map(|view| view.sql.as_str())),
            time(d.created_at_ms),
            time(d.history.last().map_or(d.created_at_ms, |v| v.at_ms)),
        ])?;
    }
    Ok(())
}

fn write_columns(out: &mut RowWriter, tables: &[Arc<CachedTableData>]) -> Result<()> {
    for table in tables {
        let d = table.definition();
        for c in d.columns_in_order() {
            out.push([
                text(d.table_id.namespace.as_ref()),
                text(d.table_id.table.as_ref()),
                text(c.name.as_str()),
                int(c.ordinal_position),
                int(c.column_id),
                text(c.data_type.sql_name()),
                Value::Boolean(c.nullable),
                Value::Boolean(d.is_key(c.column_id)),
                optional((!c.default.is_none()).then(|| c.default.to_string())),
            ])?;
        }
    }
    Ok(())
}

fn write_indexes(out: &mut RowWriter, tables: &[Arc<CachedTableData>]) -> Result<()> {
    for table in tables {
        let d = table.definition();
        for index in d.listed_indexes() {
            out.push([
                text(d.table_id.namespace.as_ref()),
                text(d.table_id.table.as_ref()),
                text(index.name.as_str()),
                text(index.kind),
                Value::Boolean(index.unique),
                text(index.column_list()),
                text(index.sql(&d.table_id)),
            ])?;
        }
    }
    Ok(())
}
