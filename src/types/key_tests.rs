use super::super::testing::{any_value, array_of, key_type, order};
use super::*;
use proptest::prelude::*;
use std::cmp::Ordering;

fn key(types: &[KalamDataType], values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    KeyCodec::new(types).expect("keys").encode_values(values, &mut out).expect("a key");
    out
}

#[test]
fn golden_keys() {
    use KalamDataType as T;
    let types = [T::Int, T::Text, T::Boolean, T::Double, T::Decimal { precision: 5, scale: 2 }, T::Date, T::BigInt];
    let values = [
        Value::BigInt(-2),
        Value::Text("a\0b".into()),
        Value::Boolean(true),
        Value::Double(1.0),
        Value::Decimal { unscaled: 150, scale: 2 },
        Value::Date(1),
        Value::Null,
    ];
    let expected = "\\x017ffffffffffffffe\
        016100ff620000\
        0101\
        01bff0000000000000\
        0180000000000000000000000000000096\
        0180000001\
        00";
    assert_eq!(scalar::format_bytes(&key(&types, &values)), expected);
}

#[test]
fn widening_a_column_keeps_its_keys() {
    use KalamDataType as T;
    let five = [Value::BigInt(5)];
    assert_eq!(key(&[T::SmallInt], &five), key(&[T::BigInt], &five));
    assert_eq!(key(&[T::Float], &[Value::Double(0.5)]), key(&[T::Double], &[Value::Double(0.5)]));
}

#[test]
fn equal_values_have_one_key() {
    use KalamDataType as T;
    assert_eq!(key(&[T::Double], &[Value::Double(-0.0)]), key(&[T::Double], &[Value::Double(0.0)]));
    assert_eq!(key(&[T::Double], &[Value::Double(-f64::NAN)]), key(&[T::Double], &[Value::Double(f64::NAN)]));
    let money = T::Decimal { precision: 10, scale: 2 };
    assert_eq!(
        key(&[money], &[Value::Decimal { unscaled: 15, scale: 1 }]),
        key(&[money], &[Value::Decimal { unscaled: 1500, scale: 3 }])
    );
    assert_eq!(key(&[money], &[Value::BigInt(7)]), key(&[money], &[Value::Decimal { unscaled: 700, scale: 2 }]));
    assert_eq!(key(&[T::Int], &[Value::Decimal { unscaled: 70, scale: 1 }]), key(&[T::Int], &[Value::BigInt(7)]));
}

#[test]
fn what_is_no_key_is_refused() {
    use KalamDataType as T;
    for ty in [T::Json, T::File, T::Embedding(3)] {
        assert_eq!(KeyCodec::new(&[T::Int, ty]).expect_err("no key").code(), ErrorCode::InvalidDefinition);
    }
    let refused = [
        (T::Int, Value::Text("1".into())),
        (T::Int, Value::Double(1.0)),
        (T::Int, Value::Decimal { unscaled: 15, scale: 1 }),
        (T::Decimal { precision: 5, scale: 1 }, Value::Decimal { unscaled: 15, scale: 2 }),
        (T::Double, Value::BigInt(9_007_199_254_740_993)),
        (T::Text, Value::BigInt(1)),
        (T::Timestamp, Value::DateTime(1)),
    ];
    for (ty, value) in refused {
        let mut out = Vec::new();
        let error = KeyCodec::new(&[ty]).unwrap().encode_values(&[value], &mut out).expect_err("another type");
        assert_eq!(error.code(), ErrorCode::DatatypeMismatch, "{ty}");
    }
    let codec = KeyCodec::new(&[T::Int, T::Text]).unwrap();
    assert!(codec.encode_values(&[Value::Null], &mut Vec::new()).is_err());
    for damaged in [&[][..], &[2], &[1, 0], &[0, 0, 0], &[0, 1, b'a'], &[0, 1, b'a', 0, 7], &[0, 1, 0xFF, 0, 0]] {
        assert_eq!(codec.decode(damaged).expect_err("damaged").code(), ErrorCode::DataCorrupted, "{damaged:?}");
    }
}

#[test]
fn other_arrow_forms_have_the_same_key() {
    let codec = KeyCodec::new(&[KalamDataType::Text]).unwrap();
    let plain: ArrayRef = array_of(&KalamDataType::Text, &[Value::Text("x".into())]);
    let view: ArrayRef = std::sync::Arc::new(arrow::array::StringViewArray::from(vec!["x"]));
    let (mut a, mut b) = (Vec::new(), Vec::new());
    codec.encode(&[plain], 0, &mut a).unwrap();
    codec.encode(&[view], 0, &mut b).unwrap();
    assert_eq!(a, b);
}

/// The types of a key and two rows of it.
fn two_rows() -> impl Strategy<Value = (Vec<KalamDataType>, Vec<Value>, Vec<Value>)> {
    prop::collection::vec(key_type(), 1..4).prop_flat_map(|types| {
        let row = || types.iter().map(|ty| any_value(*ty)).collect::<Vec<_>>();
        // Often with an equal start, so that later columns decide.
        (Just(types.clone()), row(), row(), 0..types.len()).prop_map(|(types, a, mut b, equal)| {
            b[..equal].clone_from_slice(&a[..equal]);
            (types, a, b)
        })
    })
}

fn compare(a: &[Value], b: &[Value]) -> Ordering {
    a.iter().zip(b).map(|(a, b)| order(a, b)).fold(Ordering::Equal, Ordering::then)
}

proptest! {
    #[test]
    fn keys_sort_as_their_values((types, a, b) in two_rows()) {
        prop_assert_eq!(key(&types, &a).cmp(&key(&types, &b)), compare(&a, &b));
    }

    #[test]
    fn keys_come_back_and_columns_give_the_same((types, a, b) in two_rows()) {
        let codec = KeyCodec::new(&types)?;
        let columns: Vec<ArrayRef> =
            types.iter().enumerate().map(|(n, ty)| array_of(ty, &[b[n].clone(), a[n].clone()])).collect();
        let mut out = Vec::new();
        codec.encode(&columns, 1, &mut out)?;
        prop_assert_eq!(&out, &key(&types, &a));
        let rows = codec.rows(&columns)?;
        let mut both = Vec::new();
        rows.encode(1, &mut both)?;
        rows.encode(0, &mut both)?;
        prop_assert_eq!(&both, &[out.clone(), key(&types, &b)].concat());
        let back = codec.decode(&out)?;
        prop_assert_eq!(compare(&back, &a), Ordering::Equal);
        // No key is the start of another, so keys can be followed by anything.
        let other = key(&types, &b);
        prop_assert!(out == other || !other.starts_with(&out));
    }

    #[test]
    fn decoding_rubbish_never_panics(types in prop::collection::vec(key_type(), 1..4), bytes: Vec<u8>) {
        let _ = KeyCodec::new(&types)?.decode(&bytes);
    }
}
