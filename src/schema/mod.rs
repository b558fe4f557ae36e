//! What tables there are and what they look like: definitions with their history, and the registry that is the only
//! door to them.
//!
//! Invariant: a [`TableDefinition`] is never changed in place. Each ALTER makes a new one whose version is one
//! higher and whose history can undo the step, and [`SchemaRegistry`] puts it in storage before anyone sees it.

mod alter;
mod cache;
mod definition;
mod history;
mod ids;
mod index;
mod options;
mod registry;
mod role;
mod stores;

pub use cache::CachedTableData;
pub use definition::{
    ColumnDefault, ColumnDefinition, DefaultFunction, NewColumn, TableDefinition, TableType, ViewDefinition,
};
pub use history::{SchemaChange, SchemaVersion};
pub use ids::{
    DEFAULT_NAMESPACE, NamespaceDefinition, RESERVED_COLUMNS, RESERVED_NAMESPACES, TableId, check_name,
    is_reserved_column, is_reserved_namespace,
};
pub use index::{IndexColumn, IndexDefinition, ListedIndex, NewIndex};
pub use options::{AccessLevel, FlushPolicy, TableOptions};
pub use registry::{ProviderFactory, RegistryStatistics, SchemaRegistry};
pub use role::{Privilege, Role, check_user_name};
pub use stores::{NamespaceStore, TableSchemaStore};
