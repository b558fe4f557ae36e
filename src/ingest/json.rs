//! JSON: an array of objects, or an object per line.
//!
//! Columns are the keys in the order in which they first appear. A column's type is the narrowest that holds all of
//! its values: BOOLEAN, BIGINT, DOUBLE, TEXT, else JSON; a key that an object lacks is NULL there.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value as Json};

use super::{BATCH_ROWS, Batches, invalid};
use crate::error::{KalamError, Result};
use crate::types::{ColumnBuilder, KalamDataType, Value};

type Object = Map<String, Json>;

/// Decodes an array of objects.
pub fn array(bytes: &[u8]) -> Result<Batches> {
    let objects: Vec<Object> = serde_json::from_slice(bytes).map_err(|e| {
        invalid(format_args!("the JSON at line {}, column {} is not an array of objects: {e}", e.line(), e.column()))
    })?;
    batches(objects)
}

/// Decodes an object per line; empty lines are skipped.
pub fn lines(bytes: &[u8]) -> Result<Batches> {
    let mut objects = Vec::new();
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let object: Object = serde_json::from_slice(line)
            .map_err(|e| invalid(format_args!("line {} is not a JSON object: {e}", i + 1)))?;
        objects.push(object);
    }
    batches(objects)
}

fn batches(objects: Vec<Object>) -> Result<Batches> {
    let columns = infer(&objects);
    let fields: Vec<_> = columns.iter().map(|(name, t)| t.arrow_field(name, true, 0)).collect();
    let schema = Arc::new(Schema::new(fields));
    let total = objects.len() as u64;
    let mut start = 0;
    let batches = std::iter::from_fn(move || {
        if start >= objects.len() {
            return None;
        }
        let end = objects.len().min(start + BATCH_ROWS);
        let part = &objects[start..end];
        start = end;
        Some(batch(&schema, &columns, part))
    });
    Ok(Batches { total_rows: Some(total), batches: Box::new(batches) })
}

fn batch(schema: &Arc<Schema>, columns: &[(String, KalamDataType)], objects: &[Object]) -> Result<RecordBatch> {
    let arrays = columns
        .iter()
        .map(|(name, data_type)| {
            let mut builder = ColumnBuilder::new(data_type, name, objects.len());
            for object in objects {
                match object.get(name) {
                    None | Some(Json::Null) => builder.append_null(),
                    Some(value) => builder.append(&to_value(value, data_type))?,
                }
            }
            Ok(builder.finish())
        })
        .collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), arrays).map_err(KalamError::internal)
}

fn to_value(json: &Json, data_type: &KalamDataType) -> Value {
    match json {
        Json::Null => Value::Null,
        _ if *data_type == KalamDataType::Json => Value::Json(json.to_string()),
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(number) => {
            number.as_i64().map_or_else(|| Value::Double(number.as_f64().unwrap_or(f64::NAN)), Value::BigInt)
        }
        Json::String(text) => Value::Text(text.clone()),
        other => Value::Json(other.to_string()),
    }
}

fn infer(objects: &[Object]) -> Vec<(String, KalamDataType)> {
    use KalamDataType as T;
    let mut columns: Vec<(String, Option<KalamDataType>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for object in objects {
        for (name, value) in object {
            let place = *places.entry(name.as_str()).or_insert_with(|| {
                columns.push((name.clone(), None));
                columns.len() - 1
            });
            let seen = match value {
                Json::Null => continue,
                Json::Bool(_) => T::Boolean,
                Json::Number(n) if n.is_i64() => T::BigInt,
                Json::Number(_) => T::Double,
                Json::String(_) => T::Text,
                Json::Array(_) | Json::Object(_) => T::Json,
            };
            let so_far = &mut columns[place].1;
            *so_far = Some(match so_far {
                None => seen,
                Some(same) if *same == seen => seen,
                Some(T::BigInt | T::Double) if matches!(seen, T::BigInt | T::Double) => T::Double,
                Some(_) => T::Json,
            });
        }
    }
    columns.into_iter().map(|(name, t)| (name, t.unwrap_or(T::Text))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str) -> Vec<(String, KalamDataType)> {
        infer(&serde_json::from_str::<Vec<Object>>(text).expect("JSON"))
    }

    #[test]
    fn types_are_the_narrowest_that_hold_everything() {
        use KalamDataType as T;
        let found = types(r#"[{"a":1,"b":true,"c":"x"},{"a":2.5,"d":[1],"b":null},{"c":1,"e":null}]"#);
        let expected = [("a", T::Double), ("b", T::Boolean), ("c", T::Json), ("d", T::Json), ("e", T::Text)];
        assert_eq!(found, expected.map(|(n, t)| (n.to_owned(), t)));
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = lines(b"{\"a\":1}\n\n{\"a\":\n").err().expect("an error");
        assert!(error.message().starts_with("line 3 "), "{error}");
        let error = array(b"[{\"a\":1},\n 2]").err().expect("an error");
        assert!(error.message().contains("line 2"), "{error}");
    }
}
