//! SQL: from text to rows.

mod catalog;
mod datafusion_session;
mod defaults;
mod errors;
mod executor;
mod functions;
mod handlers;
mod import;
mod information_schema;
mod interrupt;
pub mod packed;
mod params;
mod parser;
mod short_path;
mod type_planner;
mod views;
mod wildcards;

pub use executor::{ExecuteOptions, Rows, Session, SqlExecutor, StatementResult};
pub use import::{ImportOptions, ImportProgress, Importer, describe_table, insert_columns};
pub use params::Params;
