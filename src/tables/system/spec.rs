//! What the system tables look like, as code knows it.
//!
//! Invariant: the order of a table's columns here is the order in which `rows.rs` gives values. The definition that a
//! database keeps was made from this list by a step of `upgrade.rs`; columns find each other by name.

use super::standard;
use crate::schema::TableId;
use crate::types::KalamDataType as T;

/// The namespace of the engine's own tables.
pub const SYSTEM_NAMESPACE: &str = "system";
/// The namespace of the standard's description of tables.
pub const INFORMATION_SCHEMA: &str = "information_schema";

/// Whether a namespace holds system tables.
pub fn is_system_namespace(namespace: &str) -> bool {
    namespace == SYSTEM_NAMESPACE || namespace == INFORMATION_SCHEMA
}

/// A column of a system table.
#[derive(Debug, Clone, Copy)]
pub(super) struct SystemColumn {
    pub name: &'static str,
    pub data_type: T,
    pub nullable: bool,
}

pub(super) const fn col(name: &'static str, data_type: T) -> SystemColumn {
    SystemColumn { name, data_type, nullable: false }
}

pub(super) const fn opt(name: &'static str, data_type: T) -> SystemColumn {
    SystemColumn { name, data_type, nullable: true }
}

/// The system tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SystemTable {
    /// `system.users`.
    Users,
    /// `system.jobs`.
    Jobs,
    /// `system.namespaces`.
    Namespaces,
    /// `system.storages`.
    Storages,
    /// `system.live_queries`.
    LiveQueries,
    /// `system.tables`.
    Tables,
    /// `system.columns`.
    Columns,
    /// `system.indexes`.
    Indexes,
    /// `system.audit_logs`.
    AuditLogs,
    /// `system.stats`.
    Stats,
    /// `information_schema.schemata`.
    StandardSchemata,
    /// `information_schema.tables`.
    StandardTables,
    /// `information_schema.views`.
    StandardViews,
    /// `information_schema.columns`.
    StandardColumns,
    /// `information_schema.table_constraints`.
    StandardTableConstraints,
    /// `information_schema.key_column_usage`.
    StandardKeyColumnUsage,
    /// `information_schema.constraint_column_usage`.
    StandardConstraintColumnUsage,
    /// `information_schema.statistics`.
    StandardStatistics,
}

impl SystemTable {
    /// The tables of the namespace `system`.
    pub const SYSTEM: [SystemTable; 10] = [
        Self::Users,
        Self::Jobs,
        Self::Namespaces,
        Self::Storages,
        Self::LiveQueries,
        Self::Tables,
        Self::Columns,
        Self::Indexes,
        Self::AuditLogs,
        Self::Stats,
    ];
    /// The tables of the namespace `information_schema`.
    pub const STANDARD: [SystemTable; 8] = [
        Self::StandardSchemata,
        Self::StandardTables,
        Self::StandardViews,
        Self::StandardColumns,
        Self::StandardTableConstraints,
        Self::StandardKeyColumnUsage,
        Self::StandardConstraintColumnUsage,
        Self::StandardStatistics,
    ];

    /// The namespace and the name.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Users => (SYSTEM_NAMESPACE, "users"),
            Self::Jobs => (SYSTEM_NAMESPACE, "jobs"),
            Self::Namespaces => (SYSTEM_NAMESPACE, "namespaces"),
            Self::Storages => (SYSTEM_NAMESPACE, "storages"),
            Self::LiveQueries => (SYSTEM_NAMESPACE, "live_queries"),
            Self::Tables => (SYSTEM_NAMESPACE, "tables"),
            Self::Columns => (SYSTEM_NAMESPACE, "columns"),
            Self::Indexes => (SYSTEM_NAMESPACE, "indexes"),
            Self::AuditLogs => (SYSTEM_NAMESPACE, "audit_logs"),
            Self::Stats => (SYSTEM_NAMESPACE, "stats"),
            Self::StandardSchemata => (INFORMATION_SCHEMA, "schemata"),
            Self::StandardTables => (INFORMATION_SCHEMA, "tables"),
            Self::StandardViews => (INFORMATION_SCHEMA, "views"),
            Self::StandardColumns => (INFORMATION_SCHEMA, "columns"),
            Self::StandardTableConstraints => (INFORMATION_SCHEMA, "table_constraints"),
            Self::StandardKeyColumnUsage => (INFORMATION_SCHEMA, "key_column_usage"),
            Self::StandardConstraintColumnUsage => (INFORMATION_SCHEMA, "constraint_column_usage"),
            Self::StandardStatistics => (INFORMATION_SCHEMA, "statistics"),
        }
    }

    /// The name.
    pub fn table_id(self) -> TableId {
        let (namespace, table) = self.names();
        TableId::new(namespace, table)
    }

    /// The system table of a name.
    pub fn of(id: &TableId) -> Option<Self> {
        let mut all = Self::SYSTEM.into_iter().chain(Self::STANDARD);
        all.find(|table| table.names() == (id.namespace.as_ref(), id.table.as_ref()))
    }

    /// Whether its rows change without a change of the catalog.
    pub(super) const fn is_volatile(self) -> bool {
        matches!(self, Self::LiveQueries | Self::Stats | Self::Jobs)
    }

    /// The columns of its primary key.
    pub(super) const fn key(self) -> &'static [&'static str] {
        match self {
            Self::Users => &["user_id"],
            Self::Jobs => &["job_id"],
            Self::Namespaces | Self::Stats => &["name"],
            Self::Storages => &["storage_id"],
            Self::LiveQueries => &["live_id"],
            Self::Tables => &["namespace", "name"],
            Self::Columns => &["namespace", "table_name", "column_name"],
            Self::Indexes => &["namespace", "index_name"],
            Self::AuditLogs => &["audit_id"],
            Self::StandardSchemata
            | Self::StandardTables
            | Self::StandardViews
            | Self::StandardColumns
            | Self::StandardTableConstraints
            | Self::StandardKeyColumnUsage
            | Self::StandardConstraintColumnUsage
            | Self::StandardStatistics => &[],
        }
    }

    /// Its columns.
    pub(super) const fn columns(self) -> &'static [SystemColumn] {
        match self {
            Self::Users => {
                const {
                    &[
                        col("user_id", T::Text),
                        col("role", T::Text),
                        col("created_at", T::Timestamp),
                        col("updated_at", T::Timestamp),
                    ]
                }
            }
            Self::Jobs => {
                const {
                    &[
                        col("job_id", T::Text),
                        col("job_type", T::Text),
                        opt("target", T::Text),
                        col("status", T::Text),
                        opt("parameters", T::Json),
                        opt("message", T::Text),
                        col("attempts", T::Int),
                        col("node_id", T::Text),
                        col("created_at", T::Timestamp),
                        opt("started_at", T::Timestamp),
                        opt("finished_at", T::Timestamp),
                    ]
                }
            }
            Self::Namespaces => {
                const { &[col("name", T::Text), col("created_at", T::Timestamp), opt("created_by", T::Text)] }
            }
            Self::Storages => {
                const {
                    &[
                        col("storage_id", T::Text),
                        col("kind", T::Text),
                        col("path_template", T::Text),
                        col("created_at", T::Timestamp),
                    ]
                }
            }
            Self::LiveQueries => {
                const {
                    &[
                        col("live_id", T::Text),
                        col("connection_id", T::Text),
                        col("user_id", T::Text),
                        col("query", T::Text),
                        col("node_id", T::Text),
                        col("created_at", T::Timestamp),
                        col("last_seq", T::BigInt),
                    ]
                }
            }
            Self::Tables => {
                const {
                    &[
                        col("namespace", T::Text),
                        col("name", T::Text),
                        col("type", T::Text),
                        col("columns", T::Int),
                        opt("primary_key", T::Text),
                        col("schema_version", T::Int),
                        opt("storage_id", T::Text),
                        opt("options", T::Json),
                        opt("view_definition", T::Text),
                        col("created_at", T::Timestamp),
                        col("updated_at", T::Timestamp),
                    ]
                }
            }
            Self::Columns => {
                const {
                    &[
                        col("namespace", T::Text),
                        col("table_name", T::Text),
                        col("column_name", T::Text),
                        col("ordinal_position", T::Int),
                        col("column_id", T::Int),
                        col("data_type", T::Text),
                        col("nullable", T::Boolean),
                        col("primary_key", T::Boolean),
                        opt("default_value", T::Text),
                    ]
                }
            }
            Self::Indexes => {
                const {
                    &[
                        col("namespace", T::Text),
                        col("table_name", T::Text),
                        col("index_name", T::Text),
                        col("kind", T::Text),
                        col("is_unique", T::Boolean),
                        col("columns", T::Text),
                        col("definition", T::Text),
                    ]
                }
            }
            Self::AuditLogs => {
                const {
                    &[
                        col("audit_id", T::BigInt),
                        col("created_at", T::Timestamp),
                        col("node_id", T::Text),
                        col("user_id", T::Text),
                        col("action", T::Text),
                        col("target", T::Text),
                    ]
                }
            }
            Self::Stats => const { &[col("name", T::Text), col("value", T::BigInt)] },
            Self::StandardSchemata => standard::SCHEMATA,
            Self::StandardTables => standard::TABLES,
            Self::StandardViews => standard::VIEWS,
            Self::StandardColumns => standard::COLUMNS,
            Self::StandardTableConstraints => standard::TABLE_CONSTRAINTS,
            Self::StandardKeyColumnUsage => standard::KEY_COLUMN_USAGE,
            Self::StandardConstraintColumnUsage => standard::CONSTRAINT_COLUMN_USAGE,
            Self::StandardStatistics => standard::STATISTICS,
        }
    }
}
