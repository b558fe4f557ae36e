//! SQL: from text to rows.

mod arithmetic;
mod arrays;
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
mod lru;
mod memory;
mod open_parameters;
pub mod packed;
mod params;
mod parser;
mod plan_cache;
mod rewrite;
mod short_path;
mod statement_cache;
mod type_planner;
mod views;
mod wildcards;

pub use executor::{ExecuteOptions, Rows, Session, SqlExecutor, StatementResult};
pub use import::{ImportOptions, ImportProgress, Importer, describe_table, insert_columns};
pub use memory::QueryMemory;
pub use params::Params;
