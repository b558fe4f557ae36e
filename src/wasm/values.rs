//! Values between JavaScript and the engine.

use std::collections::HashMap;

use js_sys::{Array, ArrayBuffer, BigInt64Array, Date, Float32Array, JSON, Object, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};

use crate::error::{ErrorCode, KalamError, Result};
use crate::sql::Params;
use crate::types::Value;

/// An error as the plain object that the SDK revives as `KalamError`.
pub fn to_js_error(error: &KalamError) -> JsValue {
    let object = Object::new();
    set(&object, "name", &JsValue::from_str("KalamError"));
    set(&object, "code", &JsValue::from_str(error.code().as_str()));
    set(&object, "sqlstate", &JsValue::from_str(error.code().sqlstate()));
    set(&object, "message", &JsValue::from_str(error.message()));
    if let Some(hint) = error.hint() {
        set(&object, "hint", &JsValue::from_str(hint));
    }
    if let Some(at) = error.position() {
        let position = Object::new();
        set(&position, "line", &JsValue::from_f64(at.line.into()));
        set(&position, "column", &JsValue::from_f64(at.column.into()));
        set(&object, "position", &position);
    }
    set(&object, "retryable", &JsValue::from_bool(error.code().retryable()));
    object.into()
}

/// Sets a property of an object of ours.
pub fn set(object: &Object, name: &str, value: &JsValue) {
    // Setting a property of a plain object cannot fail.
    let _ = Reflect::set(object, &JsValue::from_str(name), value);
}

fn property(object: &JsValue, name: &str) -> JsValue {
    if !object.is_object() {
        return JsValue::UNDEFINED;
    }
    Reflect::get(object, &JsValue::from_str(name)).unwrap_or(JsValue::UNDEFINED)
}

fn wrong(name: &str, expected: &str) -> KalamError {
    KalamError::new(ErrorCode::InvalidOption, format!("the option {name} is not a {expected}"))
}

/// A string option.
pub fn optional_string(object: &JsValue, name: &str) -> Result<Option<String>> {
    let value = property(object, name);
    if value.is_undefined() || value.is_null() {
        return Ok(None);
    }
    value.as_string().map(Some).ok_or_else(|| wrong(name, "string"))
}

/// A number option.
pub fn optional_number(object: &JsValue, name: &str) -> Result<Option<f64>> {
    let value = property(object, name);
    if value.is_undefined() || value.is_null() {
        return Ok(None);
    }
    value.as_f64().map(Some).ok_or_else(|| wrong(name, "number"))
}

/// A boolean option.
pub fn optional_bool(object: &JsValue, name: &str) -> Result<Option<bool>> {
    let value = property(object, name);
    if value.is_undefined() || value.is_null() {
        return Ok(None);
    }
    value.as_bool().map(Some).ok_or_else(|| wrong(name, "boolean"))
}

/// The parameters of a request: an array, an object, or nothing.
pub fn params(value: &JsValue) -> Result<Params> {
    if value.is_undefined() || value.is_null() {
        return Ok(Params::default());
    }
    if let Some(values) = value.dyn_ref::<Array>() {
        let values = values.iter().enumerate().map(|(i, v)| to_value(&v, &format!("${}", i + 1)));
        return Ok(Params::Positional(values.collect::<Result<_>>()?));
    }
    let Some(object) = value.dyn_ref::<Object>() else {
        return Err(KalamError::new(ErrorCode::ParameterType, "parameters are an array or an object"));
    };
    let mut named = HashMap::new();
    for entry in Object::entries(object).iter() {
        let entry: Array = entry.unchecked_into();
        let name = entry.get(0).as_string().unwrap_or_default();
        let value = to_value(&entry.get(1), &format!("${name}"))?;
        named.insert(name, value);
    }
    Ok(Params::Named(named))
}

/// The largest integer below which every integer is a double of its own.
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

fn to_value(value: &JsValue, name: &str) -> Result<Value> {
    let wrong = |what: String| KalamError::new(ErrorCode::ParameterType, format!("{name} {what}"));
    // Each question is a call into JavaScript: what is most common comes first.
    if let Some(number) = value.as_f64() {
        let integer =
            number.fract() == 0.0 && number.abs() <= MAX_SAFE_INTEGER && !(number == 0.0 && number.is_sign_negative());
        return Ok(if integer { Value::BigInt(number as i64) } else { Value::Double(number) });
    }
    if let Some(text) = value.as_string() {
        return Ok(Value::Text(text));
    }
    if value.is_null() {
        return Ok(Value::Null);
    }
    if value.is_undefined() {
        return Err(wrong("is undefined, expected a value or null".into()));
    }
    if let Some(value) = value.as_bool() {
        return Ok(Value::Boolean(value));
    }
    if value.is_bigint() {
        return bigint(value).ok_or_else(|| wrong("is a bigint outside of BIGINT and DECIMAL(38,0)".into()));
    }
    if let Some(date) = value.dyn_ref::<Date>() {
        let ms = date.get_time();
        // A Date is a point in time; where a TIMESTAMP or DATE is wanted, its UTC reading is taken.
        return if ms.is_nan() {
            Err(wrong("is an invalid Date".into()))
        } else {
            Ok(Value::DateTime((ms * 1000.0) as i64))
        };
    }
    if let Some(micros) = value.dyn_ref::<BigInt64Array>()
        && micros.length() == 1
    {
        // The SDK's Timestamp on its way: a Date with microseconds.
        return Ok(Value::DateTime(micros.get_index(0)));
    }
    if let Some(bytes) = value.dyn_ref::<Uint8Array>() {
        return Ok(Value::Bytes(bytes.to_vec()));
    }
    if let Some(buffer) = value.dyn_ref::<ArrayBuffer>() {
        return Ok(Value::Bytes(Uint8Array::new(buffer).to_vec()));
    }
    if let Some(floats) = value.dyn_ref::<Float32Array>() {
        return Ok(Value::Embedding(floats.to_vec()));
    }
    if let Some(items) = value.dyn_ref::<Array>() {
        return array(items, name).map(Value::Json);
    }
    let json = JSON::stringify(value).ok().and_then(|text| text.as_string());
    json.map(Value::Json).ok_or_else(|| wrong("cannot be a parameter".into()))
}

/// An array as JSON text. JSON knows integers of any length, only JavaScript's writer of it does not.
fn array(items: &Array, name: &str) -> Result<String> {
    let mut text = String::from("[");
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        let json = if item.is_bigint() {
            item.unchecked_ref::<js_sys::BigInt>().to_string(10).ok().map(String::from)
        } else if let Some(inner) = item.dyn_ref::<Array>() {
            Some(array(inner, name)?)
        } else {
            JSON::stringify(&item).ok().and_then(|text| text.as_string())
        };
        let wrong = || KalamError::new(ErrorCode::ParameterType, format!("element {place} of {name} is no value"));
        text.push_str(&json.ok_or_else(wrong)?);
    }
    text.push(']');
    Ok(text)
}

fn bigint(value: &JsValue) -> Option<Value> {
    if let Ok(small) = i64::try_from(value.clone()) {
        return Some(Value::BigInt(small));
    }
    let text = String::from(value.unchecked_ref::<js_sys::BigInt>().to_string(10).ok()?);
    let digits = text.trim_start_matches('-').len();
    (digits <= 38).then(|| text.parse().ok().map(|unscaled| Value::Decimal { unscaled, scale: 0 })).flatten()
}
