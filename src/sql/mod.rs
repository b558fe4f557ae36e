//! SQL: from text to rows.

mod arithmetic;
mod casts;
mod catalog;
mod correlated;
mod datafusion_session;
mod defaults;
mod errors;
mod executor;
mod functions;
mod handlers;
mod import;
mod interrupt;
mod memory;
pub mod packed;
mod params;
mod parser;
mod privileges;
mod rewrite;
mod short_path;
mod transaction;
mod type_planner;
mod views;
mod who;
mod wildcards;

pub use executor::{ExecuteOptions, Rows, Session, SqlExecutor, StatementResult};
pub use import::{ImportOptions, ImportProgress, Importer, describe_table, insert_columns};
pub use memory::QueryMemory;
pub use params::Params;
pub use transaction::DEFAULT_TRANSACTION_TIMEOUT;
