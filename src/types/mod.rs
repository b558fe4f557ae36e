//! What a column can hold: the types, single values, columns of values, and keys whose bytes sort as the values do.
//!
//! Invariant: a value enters a column in one way only. [`ColumnBuilder`] (one value at a time) and [`coerce_array`]
//! (a column at a time) follow the same assignment rules because both end in the same scalar functions
//! (`scalar.rs`, `datetime.rs`), and property tests compare them. What is in a column of a type is therefore always
//! a value of that type: in range, at its scale, of its dimension.

mod assign;
mod builder;
mod coerce;
mod data_type;
mod datetime;
mod interval;
pub mod json_text;
mod key;
mod names;
mod scalar;
mod size;
#[cfg(test)]
pub(crate) mod testing;
mod value;

pub use builder::ColumnBuilder;
pub use coerce::coerce_array;
pub use data_type::{FIELD_ID_KEY, KalamDataType, MAX_DECIMAL_PRECISION, MAX_EMBEDDING_DIMENSION, TYPE_KEY};
pub use datetime::{format_date, format_datetime, format_time, parse_date, parse_datetime, parse_time};
pub use interval::{format_interval, interval_length, parse_interval};
pub use key::{KeyCodec, KeyRows};
pub use size::slice_bytes;
pub use value::Value;
