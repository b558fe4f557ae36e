//! What statements give, as JavaScript takes it.
//!
//! Invariant: a description of columns is one frozen object for as long as it is kept, so whoever passes it on may tell
//! by its identity whether it did so before; buffers are copies of their own, so that they can be transferred.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use js_sys::{Array, BigInt, Object, Uint8Array};
use wasm_bindgen::prelude::*;

use super::values::set;
use crate::error::{ErrorCode, KalamError, Result};
use crate::sql::{PointRows, Rows, StatementResult, packed};
use crate::storage::Durability;
use crate::types::KalamDataType;

/// A column as `columns` of a result or a table describe it.
pub fn column_info(name: &str, data_type: &str, nullable: bool) -> Object {
    let object = Object::new();
    set(&object, "name", &JsValue::from_str(name));
    set(&object, "type", &JsValue::from_str(data_type));
    set(&object, "nullable", &JsValue::from_bool(nullable));
    object
}

thread_local! {
    static NO_SEQ: JsValue = BigInt::from(0).into();
    static DURABILITIES: [(Durability, JsValue); 3] = [Durability::Memory, Durability::Relaxed, Durability::Strict]
        .map(|durability| (durability, JsValue::from_str(durability.as_str())));
}

/// Rows affected, last `_seq` and durability of some statements.
fn receipt_of(results: &[StatementResult], asked: Durability) -> [JsValue; 3] {
    let rows: u64 = results.iter().map(|r| r.rows_affected).sum();
    let seq = results.iter().filter_map(|r| r.seq).max();
    let seq = seq.map_or_else(|| NO_SEQ.with(JsValue::clone), |seq| BigInt::from(seq).into());
    let reached = results.iter().filter_map(|r| r.durability).min().unwrap_or(asked);
    let known = DURABILITIES.with(|all| all.iter().find(|(known, _)| *known == reached).map(|(_, name)| name.clone()));
    [JsValue::from_f64(rows as f64), seq, known.unwrap_or_default()]
}

/// What statements without rows give: a receipt as an object.
pub fn exec_result(results: &[StatementResult], asked: Durability) -> Result<JsValue> {
    let object = Object::new();
    for (name, value) in ["rowsAffected", "seq", "durability"].into_iter().zip(receipt_of(results, asked)) {
        set(&object, name, &value);
    }
    Ok(object.into())
}

/// At most so many descriptions of results are kept.
const MAX_SHAPES: usize = 256;

/// What the rows of a result look like.
struct Shape {
    /// Its address names the shape.
    _schema: SchemaRef,
    types: Vec<KalamDataType>,
    /// `columns` of the result, frozen.
    columns: JsValue,
}

/// Shapes of results that were given before, by the address of the schema that each keeps alive.
#[derive(Default)]
pub struct Shapes(RefCell<HashMap<usize, Rc<Shape>>>);

impl Shapes {
    /// The shape of a result. To describe one takes a dozen calls into JavaScript; a plan that is kept gives the same
    /// schema each time, and then the same description.
    fn of(&self, schema: &SchemaRef) -> Result<Rc<Shape>> {
        let address = Arc::as_ptr(schema) as usize;
        if let Some(known) = self.0.borrow().get(&address) {
            return Ok(Rc::clone(known));
        }
        let columns = Array::new();
        let mut types = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let data_type = KalamDataType::from_arrow_field(field)?;
            columns.push(&Object::freeze(&column_info(field.name(), &data_type.sql_name(), field.is_nullable())));
            types.push(data_type);
        }
        let columns = Object::freeze(&columns).into();
        let shape = Rc::new(Shape { _schema: Arc::clone(schema), types, columns });
        let mut known = self.0.borrow_mut();
        if known.len() >= MAX_SHAPES {
            known.clear();
        }
        known.insert(address, Rc::clone(&shape));
        Ok(shape)
    }
}

/// What `run` gives.
pub fn run_result(
    shapes: &Shapes,
    mut results: Vec<StatementResult>,
    mode: &str,
    asked: Durability,
) -> Result<JsValue> {
    let [affected, seq, durability] = receipt_of(&results, asked);
    let rows = results.pop().and_then(|r| r.rows);
    let result = match mode {
        "exec" => Array::of3(&affected, &seq, &durability),
        "query" => {
            let rows = rows.unwrap_or_else(empty_rows);
            let shape = shapes.of(&rows.schema)?;
            let buffers = packed::encode(&rows, &shape.types)?;
            let buffers: Array = buffers.iter().map(|buffer| Uint8Array::from(buffer.as_slice())).collect();
            Array::of5(&affected, &seq, &durability, &shape.columns, &buffers)
        }
        "arrow" => {
            let rows = rows.unwrap_or_else(empty_rows);
            Array::of4(&affected, &seq, &durability, &Uint8Array::from(ipc(&rows)?.as_slice()))
        }
        other => {
            return Err(KalamError::new(
                ErrorCode::InvalidOption,
                format!("mode is '{other}', expected 'exec', 'query' or 'arrow'"),
            ));
        }
    };
    Ok(result.into())
}

/// What `get` gives.
pub fn point_result(shapes: &Shapes, rows: &PointRows) -> Result<JsValue> {
    let shape = shapes.of(rows.schema())?;
    let packed = rows.pack(&shape.types)?;
    let packed = packed.map_or(JsValue::UNDEFINED, |packed| Uint8Array::from(packed.as_slice()).into());
    Ok(Array::of2(&shape.columns, &packed).into())
}

fn empty_rows() -> Rows {
    Rows { schema: Arc::new(arrow::datatypes::Schema::empty()), batches: Vec::new() }
}

fn ipc(rows: &Rows) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, &rows.schema).map_err(KalamError::internal)?;
    for batch in &rows.batches {
        writer.write(batch).map_err(KalamError::internal)?;
    }
    writer.finish().map_err(KalamError::internal)?;
    drop(writer);
    Ok(out)
}
