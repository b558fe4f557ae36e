//! Tables: their rows in memory and in the log, the commit that changes them, and what DataFusion sees of them.

mod block;
mod chunk;
mod hot;
mod key_spec;
mod log;
pub mod parameters;
mod pins;
mod provider;
mod replay;
mod scan;
mod seq;
mod store;
mod system;

pub use hot::{HotStatistics, HotTable};
pub use key_spec::KeySpec;
pub use log::{RequestId, ScopeKey};
pub use provider::{BaseTableProvider, SharedTableProvider, TableProviderCore, TableProviders, with_system_columns};
pub use scan::{POSITION_COLUMN, ROW_ID_COLUMN, Request, SEQ_COLUMN, TableScanExec};
pub use seq::{Seq, SeqGenerator, SeqSpan};
pub use store::{Freeze, NewScope, PreparedRows, Receipt, ScopeWrite, StoreStatistics, TableStore, prepare_rows};
pub use system::{
    AuditRecord, Gauges, INFORMATION_SCHEMA, JobRecord, JobStatus, Jobs, LiveQueries, LiveQueryRow, SYSTEM_NAMESPACE,
    StorageRecord, StorageRegistry, StorageStore, SystemProviders, SystemTable, SystemTableExec, SystemTableProvider,
    SystemTablesRegistry, UserRecord, is_system_namespace,
};
