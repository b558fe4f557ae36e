//! What a statement gives back, and how a plan's columns become it.
//!
//! Invariant: the columns of a result have types that [`KalamDataType`] knows and the names that the SELECT list gave
//! them, whatever DataFusion calls and computes them as.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::physical_plan::ExecutionPlan;

use super::rewrite::visible_name;
use crate::error::{KalamError, Result};
use crate::storage::Durability;
use crate::tables::Seq;
use crate::types::{KalamDataType, coerce_array};

/// Rows of a result.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Names and types; every type is one that [`KalamDataType`] knows.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

impl Rows {
    /// How many rows.
    pub fn len(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of one batch.
    pub fn one(batch: RecordBatch) -> Self {
        Self { schema: batch.schema(), batches: vec![batch] }
    }
}

/// What a statement did.
#[derive(Debug, Clone, Default)]
pub struct StatementResult {
    /// Rows inserted, updated or deleted.
    pub rows_affected: u64,
    /// The last `_seq` of its commit, if it changed rows.
    pub seq: Option<Seq>,
    /// The durability that its commit reached, if it changed anything.
    pub durability: Option<Durability>,
    /// Its rows, if it gives any.
    pub rows: Option<Rows>,
}

impl StatementResult {
    /// A result of rows.
    pub fn rows(rows: Rows) -> Self {
        Self { rows: Some(rows), ..Self::default() }
    }
}

/// What the rows of a query look like to its caller.
#[derive(Debug)]
pub(super) struct RowFormat {
    schema: SchemaRef,
    types: Vec<KalamDataType>,
}

impl RowFormat {
    /// Gives a result's columns the names of its SELECT list, where known, and types that this engine has.
    pub fn new(schema: &SchemaRef, names: Option<Vec<String>>) -> Self {
        let names = names.filter(|n| n.len() == schema.fields().len());
        let mut types = Vec::with_capacity(schema.fields().len());
        let mut fields = Vec::with_capacity(schema.fields().len());
        for (i, field) in schema.fields().iter().enumerate() {
            // What has no type of ours (intervals, say) is shown as text.
            let data_type = match field.data_type() {
                // What counts rows (row_number, rank, approx_distinct) is unsigned in DataFusion and BIGINT in SQL.
                DataType::UInt64 => KalamDataType::BigInt,
                _ => KalamDataType::from_arrow_field(field).unwrap_or(KalamDataType::Text),
            };
            let name = names.as_ref().map_or_else(|| visible_name(field.name()), |n| &n[i]);
            let mut ours = data_type.arrow_field(name, field.is_nullable(), 0);
            ours.set_metadata(
                ours.metadata()
                    .iter()
                    .filter(|(k, _)| *k == crate::types::TYPE_KEY)
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            );
            fields.push(ours);
            types.push(data_type);
        }
        Self { schema: Arc::new(Schema::new(fields)), types }
    }

    /// The columns, as whoever asked sees them.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether what a plan gives has these types already.
    pub fn takes(&self, plan: &impl ExecutionPlan) -> bool {
        let (given, wanted) = (plan.schema(), self.schema.fields());
        given.fields().len() == wanted.len()
            && given.fields().iter().zip(wanted).all(|(a, b)| a.data_type() == b.data_type())
    }

    /// Rows of that format.
    pub fn rows(&self, batches: Vec<RecordBatch>) -> Result<Rows> {
        let convert = |batch| convert(&self.schema, &self.types, &batch);
        let batches = batches.into_iter().map(convert).collect::<Result<_>>()?;
        Ok(Rows { schema: Arc::clone(&self.schema), batches })
    }
}

/// The rows of a query; see [`RowFormat::new`].
pub(super) fn finish_rows(schema: &SchemaRef, batches: Vec<RecordBatch>, names: Option<Vec<String>>) -> Result<Rows> {
    RowFormat::new(schema, names).rows(batches)
}

fn convert(schema: &SchemaRef, types: &[KalamDataType], batch: &RecordBatch) -> Result<RecordBatch> {
    let column = |(i, array): (usize, &ArrayRef)| -> Result<ArrayRef> {
        let field: &Field = schema.field(i);
        if array.data_type() == field.data_type() {
            return Ok(Arc::clone(array));
        }
        match coerce_array(array, &types[i], field.name()) {
            Ok(array) => Ok(array),
            Err(_) if types[i] == KalamDataType::Text => {
                arrow::compute::cast(array, field.data_type()).map_err(super::errors::from_arrow)
            }
            Err(error) => Err(error),
        }
    };
    let columns = batch.columns().iter().enumerate().map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(KalamError::internal)
}
