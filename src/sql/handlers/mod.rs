//! One handler for each kind of statement.

pub mod alter;
pub mod audit;
pub mod check;
pub mod delete;
pub mod dml;
pub mod do_update;
pub mod explain;
pub mod index;
pub mod insert;
pub mod job;
pub mod namespace;
pub mod prepare;
pub mod query;
pub mod returning;
pub mod rewrite;
mod set_list;
pub mod show;
pub mod storage;
pub mod table;
pub mod truncate;
pub mod update;
pub mod upsert;
pub mod user;
pub mod view;
