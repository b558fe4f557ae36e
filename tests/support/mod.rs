//! What tests ask of a database, and how much of it.
//!
//! Invariant: nothing is sorted, left out or made to fit: rows come in the order and with the values that the statement
//! gave.

#![allow(dead_code)] // each test binary uses a part of it

use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::Result;
use kalamdb::sql::{ExecuteOptions, Params, Rows, Session, StatementResult};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::{KalamDataType, Value};
use proptest::prelude::ProptestConfig;

/// Opens what a process finds that starts now: a copy of a backend.
pub async fn open_copy(backend: &MemoryBackend) -> Result<Arc<AppContext>> {
    AppContext::open(Arc::new(backend.reopen()), Config::default()).await
}

/// Runs a text in the session that a database has of its own.
pub async fn sql(context: &AppContext, text: &str) -> Result<Vec<StatementResult>> {
    sql_as(context, context.session(), text).await
}

/// Runs a text in a session.
pub async fn sql_as(context: &AppContext, session: &Session, text: &str) -> Result<Vec<StatementResult>> {
    context.executor().execute(session, text, &Params::default(), &ExecuteOptions::default()).await
}

/// The rows of the last statement, none if it gives none.
pub fn last_values(results: &[StatementResult]) -> Result<Vec<Vec<Value>>> {
    results.last().and_then(|result| result.rows.as_ref()).map_or_else(|| Ok(Vec::new()), values)
}

/// Rows as values.
pub fn values(rows: &Rows) -> Result<Vec<Vec<Value>>> {
    let mut out = Vec::new();
    for batch in &rows.batches {
        out.extend(values_under(&rows.schema, batch)?);
    }
    Ok(out)
}

/// The rows of a batch as values.
pub fn values_of(batch: &RecordBatch) -> Result<Vec<Vec<Value>>> {
    values_under(batch.schema_ref(), batch)
}

fn values_under(schema: &Schema, batch: &RecordBatch) -> Result<Vec<Vec<Value>>> {
    let types = schema.fields().iter().map(|f| KalamDataType::from_arrow_field(f)).collect::<Result<Vec<_>>>()?;
    let cells = |row| {
        let cells = batch.columns().iter().zip(&types);
        cells.map(|(array, ty)| Value::from_array(array.as_ref(), row, ty)).collect()
    };
    (0..batch.num_rows()).map(cells).collect()
}

/// Rows of two BIGINTs.
pub fn pairs_of_ints(batches: &[RecordBatch]) -> Vec<(i64, i64)> {
    let mut out = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let int = |i: usize| match Value::from_array(batch.column(i).as_ref(), row, &KalamDataType::BigInt) {
                Ok(Value::BigInt(v)) => v,
                other => panic!("a BIGINT, got {other:?}"),
            };
            out.push((int(0), int(1)));
        }
    }
    out
}

/// Rows with their cells turned into something else.
pub fn map_cells<T>(rows: Vec<Vec<Value>>, cell: impl Fn(&Value) -> T) -> Vec<Vec<T>> {
    rows.iter().map(|row| row.iter().map(&cell).collect()).collect()
}

/// A value as text; NULL has none.
pub fn text(value: &Value) -> String {
    value.to_text().into_owned()
}

/// A value as text, or `NULL`.
pub fn text_or_null(value: &Value) -> String {
    if value.is_null() { "NULL".to_owned() } else { text(value) }
}

/// How often a model is run: `KALAM_MODEL_CASES=10000` for a long run.
pub fn model_config(cases: u32, max_shrink_iters: u32) -> ProptestConfig {
    let asked = std::env::var("KALAM_MODEL_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        max_shrink_iters,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Lets everything else that is polled beside this go on, so many times.
pub async fn turns(n: usize) {
    for _ in 0..n {
        let mut passed = false;
        futures::future::poll_fn(|context| {
            if std::mem::replace(&mut passed, true) {
                return std::task::Poll::Ready(());
            }
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
    }
}
