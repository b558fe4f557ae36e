//! JSON: an array of objects, or an object per line.
//!
//! Columns are the keys in the order in which they first appear. A column's type is the narrowest that holds all of
//! its values: BOOLEAN, BIGINT, DOUBLE, TEXT, else JSON; a key that an object lacks is NULL there.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use serde::de::IgnoredAny;

use super::{BATCH_ROWS, Batches, invalid};
use crate::error::{KalamError, Result};
use crate::types::json_text::{Json, as_text, kind, members};
use crate::types::{ColumnBuilder, KalamDataType, Value};

/// What an object has: the number of the key, and where its value lies in the text. Values are read as they are
/// written, because a tree of them would have rounded their numbers.
type Object = Vec<(usize, Range<usize>)>;

/// Decodes an array of objects.
pub fn array(bytes: &[u8]) -> Result<Batches> {
    let text = utf8(bytes)?;
    let _: Vec<HashMap<String, IgnoredAny>> = serde_json::from_str(text).map_err(|e| {
        invalid(format_args!("the JSON at line {}, column {} is not an array of objects: {e}", e.line(), e.column()))
    })?;
    let mut file = File::new(text);
    for (_, object) in members(text) {
        file.push(object);
    }
    Ok(file.batches())
}

/// Decodes an object per line; empty lines are skipped.
pub fn lines(bytes: &[u8]) -> Result<Batches> {
    let text = utf8(bytes)?;
    let mut file = File::new(text);
    for (i, line) in text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let _: HashMap<String, IgnoredAny> = serde_json::from_str(line)
            .map_err(|e| invalid(format_args!("line {} is not a JSON object: {e}", i + 1)))?;
        file.push(line);
    }
    Ok(file.batches())
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|e| invalid(format_args!("byte {} is not UTF-8", e.valid_up_to())))
}

/// The objects of a file.
struct File<'a> {
    text: &'a str,
    names: Vec<String>,
    places: HashMap<String, usize>,
    /// By key, how many objects there were when it was last seen, the one itself included.
    seen: Vec<usize>,
    objects: Vec<Object>,
}

impl<'a> File<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, names: Vec::new(), places: HashMap::new(), seen: Vec::new(), objects: Vec::new() }
    }

    /// Adds an object, which is a part of the text.
    fn push(&mut self, object: Json<'a>) {
        let mut found: Object = Vec::new();
        for (key, value) in members(object) {
            let Some(name) = key.and_then(as_text) else { continue };
            let place = match self.places.get(name.as_ref()) {
                Some(place) => *place,
                None => {
                    self.names.push(name.clone().into_owned());
                    self.places.insert(name.into_owned(), self.names.len() - 1);
                    self.seen.push(0);
                    self.names.len() - 1
                }
            };
            let start = value.as_ptr() as usize - self.text.as_ptr() as usize;
            let number = self.objects.len() + 1;
            if std::mem::replace(&mut self.seen[place], number) == number {
                // Of a key that comes twice the last counts.
                found.retain(|(other, _)| *other != place);
            }
            found.push((place, start..start + value.len()));
        }
        self.objects.push(found);
    }

    fn batches(self) -> Batches {
        let types = infer(self.text, self.names.len(), &self.objects);
        let columns: Vec<(String, KalamDataType)> = self.names.into_iter().zip(types).collect();
        let fields: Vec<_> = columns.iter().map(|(name, t)| t.arrow_field(name, true, 0)).collect();
        let schema = Arc::new(Schema::new(fields));
        let (text, objects) = (self.text.to_owned(), self.objects);
        let total = objects.len() as u64;
        let mut start = 0;
        let batches = std::iter::from_fn(move || {
            if start >= objects.len() {
                return None;
            }
            let end = objects.len().min(start + BATCH_ROWS);
            let part = &objects[start..end];
            start = end;
            Some(batch(&schema, &columns, &text, part))
        });
        Batches { total_rows: Some(total), batches: Box::new(batches) }
    }
}

fn batch(
    schema: &Arc<Schema>,
    columns: &[(String, KalamDataType)],
    text: &str,
    objects: &[Object],
) -> Result<RecordBatch> {
    let arrays = columns
        .iter()
        .enumerate()
        .map(|(place, (name, data_type))| {
            let mut builder = ColumnBuilder::new(data_type, name, objects.len());
            for object in objects {
                match value_of(object, place).map(|range| &text[range]) {
                    None | Some("null") => builder.append_null(),
                    Some(value) => builder.append(&to_value(value, data_type)?)?,
                }
            }
            Ok(builder.finish())
        })
        .collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), arrays).map_err(KalamError::internal)
}

/// Where an object's value of a key lies. Objects mostly have the same keys in the same order: then it is found at once.
fn value_of(object: &Object, place: usize) -> Option<Range<usize>> {
    let is = |entry: &&(usize, Range<usize>)| entry.0 == place;
    object.get(place).filter(is).or_else(|| object.iter().find(is)).map(|(_, range)| range.clone())
}

fn to_value(json: Json<'_>, data_type: &KalamDataType) -> Result<Value> {
    if *data_type == KalamDataType::Json {
        return Ok(Value::Json(json.to_owned()));
    }
    Ok(match kind(json) {
        Some("boolean") => Value::Boolean(json == "true"),
        Some("string") => Value::Text(as_text(json).unwrap_or_default().into_owned()),
        Some("number") => match json.parse::<i64>() {
            Ok(integer) => Value::BigInt(integer),
            Err(_) => Value::Double(json.parse().map_err(KalamError::internal)?),
        },
        _ => Value::Json(json.to_owned()),
    })
}

/// The narrowest types that hold all values.
fn infer(text: &str, columns: usize, objects: &[Object]) -> Vec<KalamDataType> {
    use KalamDataType as T;
    let mut types: Vec<Option<KalamDataType>> = vec![None; columns];
    // NaN and the infinities, which JSON has as text only, are numbers beside numbers and text beside text.
    let mut odd = vec![false; columns];
    for (place, range) in objects.iter().flatten() {
        let json = &text[range.clone()];
        let is_odd = matches!(json, r#""NaN""# | r#""Infinity""# | r#""-Infinity""#);
        odd[*place] |= is_odd;
        let seen = match kind(json) {
            Some(_) if is_odd => continue,
            Some("null") => continue,
            Some("boolean") => T::Boolean,
            Some("number") if json.parse::<i64>().is_ok() => T::BigInt,
            Some("number") => T::Double,
            Some("string") => T::Text,
            _ => T::Json,
        };
        types[*place] = Some(match types[*place] {
            None => seen,
            Some(same) if same == seen => seen,
            Some(T::BigInt | T::Double) if matches!(seen, T::BigInt | T::Double) => T::Double,
            Some(_) => T::Json,
        });
    }
    let with_odd = |(found, odd): (Option<KalamDataType>, bool)| match found {
        Some(T::BigInt | T::Double) if odd => T::Double,
        Some(T::Text) | None => T::Text,
        Some(_) if odd => T::Json,
        Some(other) => other,
    };
    types.into_iter().zip(odd).map(with_odd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str) -> Vec<(String, KalamDataType)> {
        let mut file = File::new(text);
        members(text).for_each(|(_, object)| file.push(object));
        let types = infer(text, file.names.len(), &file.objects);
        file.names.into_iter().zip(types).collect()
    }

    #[test]
    fn numbers_are_read_to_the_last_bit() -> Result<()> {
        let numbers = ["90.33333333333333", "-0.1", "5e-324", "1.7976931348623157e308", "123456789.123456789"];
        let text: String = numbers.iter().map(|n| format!("{{\"d\": {n} , \"d2\":[{n}]}}\n")).collect();
        let batch = lines(text.as_bytes())?.next().expect("a batch")?;
        for (row, number) in numbers.iter().enumerate() {
            let value = Value::from_array(batch.column(0).as_ref(), row, &KalamDataType::Double)?;
            assert_eq!(value, Value::Double(number.parse().expect("a number")));
            let value = Value::from_array(batch.column(1).as_ref(), row, &KalamDataType::Json)?;
            assert_eq!(value, Value::Json(format!("[{number}]")));
        }
        Ok(())
    }

    #[test]
    fn types_are_the_narrowest_that_hold_everything() {
        use KalamDataType as T;
        let found = types(r#"[{"a":1,"b":true,"c":"x"},{"a":2.5,"d":[1],"b":null},{"c":1,"e":null}]"#);
        let expected = [("a", T::Double), ("b", T::Boolean), ("c", T::Json), ("d", T::Json), ("e", T::Text)];
        assert_eq!(found, expected.map(|(n, t)| (n.to_owned(), t)));
    }

    #[test]
    fn numbers_that_json_lacks_are_numbers_beside_numbers() -> Result<()> {
        use KalamDataType as T;
        let text = r#"[{"a":"NaN","b":1,"c":"x","d":"NaN","e":true},{"a":1.5,"b":"-Infinity","c":"NaN","e":"NaN"}]"#;
        let expected = [("a", T::Double), ("b", T::Double), ("c", T::Text), ("d", T::Text), ("e", T::Json)];
        assert_eq!(types(text), expected.map(|(n, t)| (n.to_owned(), t)));
        let batch = array(text.as_bytes())?.next().expect("a batch")?;
        let value = |row| Value::from_array(batch.column(1).as_ref(), row, &T::Double);
        assert_eq!((value(0)?, value(1)?), (Value::Double(1.0), Value::Double(f64::NEG_INFINITY)));
        Ok(())
    }

    #[test]
    fn keys_come_in_any_order_and_the_last_of_two_counts() -> Result<()> {
        let text = r#"[{"a":1,"b":2},{"b":3,"a":4},{"b":5,"a":6,"b":7},{"c":8,"a":9},{"a":1,"a":2,"c":3}]"#;
        let batch = array(text.as_bytes())?.next().expect("a batch")?;
        let expected = [("a", [1, 4, 6, 9, 2].map(Some)), ("b", [Some(2), Some(3), Some(7), None, None])];
        for (name, values) in expected {
            let column = batch.column_by_name(name).expect("a column");
            for (row, value) in values.into_iter().enumerate() {
                let expected = value.map_or(Value::Null, Value::BigInt);
                assert_eq!(Value::from_array(column.as_ref(), row, &KalamDataType::BigInt)?, expected, "{name}, {row}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = lines(b"{\"a\":1}\n\n{\"a\":\n").err().expect("an error");
        assert!(error.message().starts_with("line 3 "), "{error}");
        let error = array(b"[{\"a\":1},\n 2]").err().expect("an error");
        assert!(error.message().contains("line 2"), "{error}");
    }
}
