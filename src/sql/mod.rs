//! SQL: from text to rows.

mod arithmetic;
mod casts;
mod catalog;
mod correlated;
mod cursor;
mod datafusion_session;
mod defaults;
mod dialect;
mod errors;
mod executor;
mod functions;
mod generated;
mod handlers;
mod import;
mod interrupt;
mod json;
mod memory;
mod not_in;
mod null_joins;
pub mod packed;
mod params;
mod parser;
mod rewrite;
mod short_path;
mod sums;
mod type_planner;
mod using;
mod vectors;
mod views;
mod wildcards;

pub use cursor::Cursor;
pub use executor::{ExecuteOptions, Rows, Session, SqlExecutor, StatementResult};
pub use import::{ImportOptions, ImportProgress, Importer, describe_table, insert_columns};
pub use memory::QueryMemory;
pub use params::Params;
