//! KalamDB: a SQL database that runs where the app runs.
//!
//! The crate is built twice: for wasm32, which is the product, and natively, for fast tests. Its rooms, lower ones
//! first, are `error`, `platform`, `types`, `storage`, `schema`, `tables`, `ingest`, `sql`, `live`, `jobs`,
//! `context` and `wasm`; a lower room never imports an upper one (`tests/layers.rs`). ARCHITECTURE.md shows the
//! house.

pub mod context;
pub mod error;
pub mod ingest;
pub mod jobs;
pub mod platform;
pub mod schema;
pub mod sql;
pub mod storage;
pub mod tables;
pub mod types;
#[cfg(target_arch = "wasm32")]
pub mod wasm;
