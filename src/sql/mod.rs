//! SQL: from text to rows.

mod arithmetic;
mod casts;
mod catalog;
mod correlated;
mod datafusion_session;
mod defaults;
mod dialect;
mod errors;
mod executor;
mod functions;
mod handlers;
mod import;
mod index_order;
mod interrupt;
mod memory;
pub mod packed;
mod params;
mod parser;
mod rewrite;
mod short_path;
mod type_planner;
mod views;
mod wildcards;

pub use executor::{ExecuteOptions, Rows, Session, SqlExecutor, StatementResult};
pub use import::{ImportOptions, ImportProgress, Importer, describe_table, insert_columns};
pub use memory::QueryMemory;
pub use params::Params;
