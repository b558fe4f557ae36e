//! One handler for each kind of statement.

pub mod alter;
pub mod audit;
pub mod delete;
pub mod dml;
pub mod explain;
pub mod insert;
pub mod namespace;
pub mod prepare;
pub mod query;
pub mod show;
pub mod table;
pub mod update;
pub mod view;
