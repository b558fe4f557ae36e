//! Functions whose values the engine makes: ids. The user that asks is in `who.rs`.
//!
//! Invariant: ids come from the generators that column defaults use, so an id of a query and one of a default never
//! are the same.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryArray, Int64Array, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility};
use uuid::Uuid;

use super::defaults::ulid;
use super::nullary;
use crate::tables::TableStore;

/// The functions, for a store whose sequence numbers are the ids.
pub fn functions(store: &Arc<TableStore>) -> Vec<Arc<ScalarUDF>> {
    let function = |name, aliases, data_type, values: Box<dyn Fn(usize) -> DfResult<ArrayRef> + Send + Sync>| {
        nullary::function(name, aliases, Volatility::Volatile, data_type, move |rows| {
            values(rows).map(ColumnarValue::Array)
        })
    };
    let store = Arc::clone(store);
    let seqs = move |rows: usize| {
        Ok(Arc::new(Int64Array::from_iter_values(store.seqs().take(rows as u64).iter())) as ArrayRef)
    };
    let uuids = |rows: usize| {
        let mut bytes = Vec::with_capacity(rows * 16);
        (0..rows).for_each(|_| bytes.extend_from_slice(Uuid::now_v7().as_bytes()));
        Ok(Arc::new(FixedSizeBinaryArray::try_new(16, bytes.into(), None)?) as ArrayRef)
    };
    let ulids = |rows: usize| Ok(Arc::new(StringArray::from_iter_values((0..rows).map(|_| ulid()))) as ArrayRef);
    vec![
        function("snowflake_id", &[], DataType::Int64, Box::new(seqs)),
        function("uuid_v7", &["uuidv7"], DataType::FixedSizeBinary(16), Box::new(uuids)),
        function("ulid", &[], DataType::Utf8, Box::new(ulids)),
    ]
}
