use super::super::testing::{any_type, any_value, array_of, order, present_value};
use super::*;
use crate::error::ErrorCode;
use proptest::prelude::*;
use std::cmp::Ordering;

fn typed() -> impl Strategy<Value = (KalamDataType, Value)> {
    any_type().prop_flat_map(|ty| (Just(ty), any_value(ty)))
}

#[test]
fn json_keeps_what_a_double_would_lose() {
    let big = Value::BigInt(9_007_199_254_740_993);
    assert_eq!(big.to_json().to_string(), "9007199254740993");
    let price = Value::Decimal { unscaled: -12_345_678_901_234_567_890_123, scale: 3 };
    assert_eq!(price.to_json(), Json::from("-12345678901234567890.123"));
    assert_eq!(Value::Double(f64::NAN).to_json(), Json::from("NaN"));
    assert_eq!(Value::Double(f64::NEG_INFINITY).to_json(), Json::from("-Infinity"));
    assert_eq!(Value::DateTime(1).to_json(), Json::from("1970-01-01T00:00:00.000001Z"));
    assert_eq!(Value::Bytes(vec![0, 255]).to_json(), Json::from("\\x00ff"));
}

#[test]
fn json_of_another_shape_follows_the_assignment_rules() {
    let read = |json: &str, ty: KalamDataType| Value::from_json(&serde_json::from_str(json).unwrap(), &ty);
    assert_eq!(read("2.5", KalamDataType::Int).unwrap(), Value::BigInt(2));
    assert_eq!(read("\"12\"", KalamDataType::Int).unwrap(), Value::BigInt(12));
    assert_eq!(
        read("18446744073709551615", KalamDataType::Decimal { precision: 20, scale: 0 }).unwrap().to_text(),
        "18446744073709551615"
    );
    assert_eq!(read("{\"a\":[1]}", KalamDataType::Text).unwrap(), Value::Text("{\"a\":[1]}".into()));
    assert_eq!(read("3000000000", KalamDataType::Int).expect_err("too large").code(), ErrorCode::OutOfRange);
    assert_eq!(read("true", KalamDataType::Int).expect_err("bool").code(), ErrorCode::DatatypeMismatch);
    assert_eq!(read("[1]", KalamDataType::BigInt).expect_err("array").code(), ErrorCode::DatatypeMismatch);
    assert_eq!(read("[1,2]", KalamDataType::Embedding(3)).expect_err("short").code(), ErrorCode::WrongDimension);
    assert_eq!(read("[1,null,2]", KalamDataType::Embedding(3)).expect_err("null").code(), ErrorCode::InvalidText);
}

#[test]
fn shown_as_literals() {
    for (value, text) in [
        (Value::Null, "NULL"),
        (Value::Text("it's".into()), "'it''s'"),
        (Value::Double(1.5), "1.5"),
        (Value::Double(f64::NAN), "'NaN'"),
        (Value::Double(1e300), "1e+300"),
        (Value::Double(1e-300), "1e-300"),
        (Value::Decimal { unscaled: -5, scale: 2 }, "-0.05"),
        (Value::Embedding(vec![0.1, 2.0]), "'[0.1,2]'"),
        (Value::Date(0), "'1970-01-01'"),
    ] {
        assert_eq!(value.to_string(), text);
    }
}

#[test]
fn the_largest_embedding_comes_back() {
    let ty = KalamDataType::Embedding(8192);
    let value = Value::Embedding((0..8192).map(|n| n as f32 * 0.1).collect());
    assert_eq!(Value::from_json(&value.to_json(), &ty).unwrap(), value);
    assert_eq!(Value::Text(value.to_text().into_owned()).coerce(&ty).unwrap(), value);
    assert_eq!(Value::from_array(array_of(&ty, std::slice::from_ref(&value)).as_ref(), 0, &ty).unwrap(), value);
    let empty = Value::Embedding(Vec::new()).coerce(&ty).expect_err("no elements");
    assert_eq!(empty.code(), ErrorCode::WrongDimension);
}

#[test]
fn a_row_that_is_not_there_is_an_error() {
    assert!(Value::from_array(array_of(&KalamDataType::Int, &[]).as_ref(), 0, &KalamDataType::Int).is_err());
}

proptest! {
    #[test]
    fn json_text_and_arrow_bring_every_value_back((ty, value) in typed()) {
        let same = |back: Value| order(&back, &value) == Ordering::Equal;
        // JSON null is a JSON value as well as NULL: only the text keeps them apart.
        if value != Value::Json("null".into()) {
            let back = Value::from_json(&value.to_json(), &ty)?;
            prop_assert!(same(back.clone()), "JSON: {:?}", back);
        }
        if !value.is_null() {
            let back = Value::Text(value.to_text().into_owned()).coerce(&ty)?;
            prop_assert!(same(back.clone()), "text: {:?}", back);
        }
        let back = Value::from_array(array_of(&ty, &[Value::Null, value.clone()]).as_ref(), 1, &ty)?;
        prop_assert!(same(back.clone()), "Arrow: {:?}", back);
    }

    #[test]
    fn what_a_type_widens_to_takes_every_value(
        (from, value) in any_type().prop_flat_map(|ty| (Just(ty), present_value(ty))),
        to in any_type(),
    ) {
        let coerced = value.coerce(&to);
        if from.widens_to(&to) {
            prop_assert!(coerced.is_ok(), "{} to {}: {:?}", from, to, coerced);
        }
        // What the types refuse, every value is refused; what they allow is never refused for its type.
        let refused = matches!(&coerced, Err(e) if e.code() == ErrorCode::DatatypeMismatch);
        // The value of a FILE is text, so by itself it goes wherever text goes; an embedding of another dimension is
        // refused for its dimension.
        let both = matches!((from, to), (KalamDataType::Embedding(_), KalamDataType::Embedding(_)));
        if from != KalamDataType::File && !both {
            prop_assert_eq!(refused, !from.assignable_to(&to), "{} to {}", from, to);
        }
    }
}
