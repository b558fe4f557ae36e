//! Tables: their rows in memory and in the log, the commit that changes them, and what DataFusion sees of them.

mod block;
mod bytes;
mod chunk;
mod cold;
mod cold_keys;
mod cold_scan;
mod hot;
mod index;
mod index_access;
mod index_walk;
mod key_index;
mod key_order;
mod key_pins;
mod key_spec;
mod log;
mod manifest;
mod ordered_scan;
mod overlay;
pub mod parameters;
mod pins;
mod point;
mod provider;
mod replay;
mod request;
mod rescue;
mod rewrite;
mod salvage;
mod scan;
mod scan_columns;
mod scope_write;
mod scrub;
mod segment;
mod seq;
mod store;
mod store_cold;
mod store_due;
mod switch;
mod system;

pub use hot::{HotStatistics, HotTable, View};
pub use index::{IndexCodec, IndexRange};
pub use index_access::IndexAccess;
pub use key_pins::MAX_LOOKUP_KEYS;
pub use key_spec::KeySpec;
pub use log::{RequestId, ScopeKey};
pub use overlay::{OWN_ROWS, OverlayView, StatementWrite, Transaction, TransactionView, altered};
pub use pins::{ScopeHold, SnapshotPin};
pub use point::{Keys, KnownRows};
pub use provider::{
    BaseTableProvider, SharedKind, SharedTableProvider, StoredTableProvider, StreamKind, StreamTableProvider,
    TableKind, TableProviderCore, TableProviders, UserKind, UserTableProvider, stored_core, stored_provider,
    with_system_columns,
};
pub use request::{Request, check_asked};
pub use rewrite::retained_since;
pub use salvage::Salvage;
pub use scan::TableScanExec;
pub use scan_columns::{DELETED_COLUMN, POSITION_COLUMN, ROW_ID_COLUMN, SEQ_COLUMN};
pub use scope_write::{ColdCheck, PreparedRows, ScopeWrite, prepare_rows};
pub use scrub::{Finding, Health, Scrub};
pub use segment::{
    CacheStatistics, ColumnMeta, DeleteVector, ROW_GROUP_ROWS, ROW_ID_FIELD_ID, SEGMENT_ROWS, SEQ_FIELD_ID, Segment,
    SegmentCache, SegmentMeta, SegmentRows, SegmentSource, SegmentWriter, cold_position, cold_row, encode_bitmap,
    write_segment,
};
pub use seq::{Seq, SeqGenerator, SeqSpan};
pub use store::{Freeze, NewScope, Receipt, StoreStatistics, TableStore};
pub use store_cold::Rewritten;
pub use store_due::{Due, DueWork};
pub use system::{
    AuditRecord, CATALOG, Gauges, INFORMATION_SCHEMA, JobRecord, JobStatus, Jobs, LiveQueries, LiveQueryRow,
    SYSTEM_NAMESPACE, StorageRecord, StorageRegistry, StorageStore, SystemProviders, SystemTable, SystemTableExec,
    SystemTableProvider, SystemTablesRegistry, UserRecord, is_system_namespace,
};
