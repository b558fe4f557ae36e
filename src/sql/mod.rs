//! SQL: from text to rows.

mod catalog;
mod datafusion_session;
mod defaults;
mod errors;
mod executor;
mod functions;
mod handlers;
mod import;
mod memory;
pub mod packed;
mod params;
mod parser;
mod type_planner;

pub use executor::{ExecuteOptions, Rows, Session, SqlExecutor, StatementResult};
pub use import::{ImportOptions, ImportProgress, Importer, describe_table, insert_columns};
pub use memory::QueryMemory;
pub use params::Params;
