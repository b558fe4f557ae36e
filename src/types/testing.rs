//! Arbitrary types and values for property tests.
//!
//! Invariant: every value made here is one that a column of its type holds.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::{ColumnBuilder, KalamDataType, Value};

/// Any type; embeddings are kept small, so that tests are fast.
pub(crate) fn any_type() -> impl Strategy<Value = KalamDataType> {
    prop_oneof![
        key_type(),
        Just(KalamDataType::Json),
        Just(KalamDataType::File),
        (1..9u32).prop_map(KalamDataType::Embedding)
    ]
}

/// Any type that can be a key.
pub(crate) fn key_type() -> impl Strategy<Value = KalamDataType> {
    use KalamDataType as T;
    let decimal =
        (1..=38u8).prop_flat_map(|p| (Just(p), 0..=p)).prop_map(|(precision, scale)| T::Decimal { precision, scale });
    let plain = prop::sample::select(vec![
        T::Boolean,
        T::Int,
        T::BigInt,
        T::Double,
        T::Float,
        T::Text,
        T::Timestamp,
        T::Date,
        T::DateTime,
        T::Time,
        T::Bytes,
        T::Uuid,
        T::SmallInt,
    ]);
    prop_oneof![4 => plain, 1 => decimal]
}

/// A value of a type, NULL included.
pub(crate) fn any_value(ty: KalamDataType) -> BoxedStrategy<Value> {
    prop_oneof![1 => Just(Value::Null), 6 => present_value(ty)].boxed()
}

/// A value of a type that is not NULL.
pub(crate) fn present_value(ty: KalamDataType) -> BoxedStrategy<Value> {
    use KalamDataType as T;
    let float = prop_oneof![
        any::<f32>(),
        prop::sample::select(vec![0.0f32, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.1])
    ];
    let int = |range: std::ops::RangeInclusive<i64>| {
        let (min, max) = (*range.start(), *range.end());
        prop_oneof![range, -3..=3i64, Just(min), Just(max)].prop_map(Value::BigInt).boxed()
    };
    match ty {
        T::Boolean => any::<bool>().prop_map(Value::Boolean).boxed(),
        T::SmallInt => int(i16::MIN.into()..=i16::MAX.into()),
        T::Int => int(i32::MIN.into()..=i32::MAX.into()),
        T::BigInt => int(i64::MIN..=i64::MAX),
        T::Float => float.prop_map(|x| Value::Double(x.into())).boxed(),
        T::Double => prop_oneof![any::<f64>(), float.prop_map(f64::from), -1e6..1e6].prop_map(Value::Double).boxed(),
        T::Decimal { precision, scale } => {
            let max = 10i128.pow(precision.into()) - 1;
            prop_oneof![-max..=max, -9..=9i128, Just(max), Just(-max)]
                .prop_map(move |unscaled| Value::Decimal { unscaled, scale })
                .boxed()
        }
        T::Text => prop_oneof![".*", "[a\0b]{0,4}", "-?[0-9]{1,5}(\\.[0-9]{1,3})?", Just("2024-02-29".into())]
            .prop_map(Value::Text)
            .boxed(),
        T::Bytes => prop_oneof![any::<Vec<u8>>(), prop::collection::vec(prop::sample::select(vec![0u8, 1, 255]), 0..5)]
            .prop_map(Value::Bytes)
            .boxed(),
        T::Timestamp => any::<i64>().prop_map(Value::Timestamp).boxed(),
        T::DateTime => any::<i64>().prop_map(Value::DateTime).boxed(),
        T::Date => any::<i32>().prop_map(Value::Date).boxed(),
        T::Time => (0..86_400_000_000i64).prop_map(Value::Time).boxed(),
        T::Uuid => any::<[u8; 16]>().prop_map(Value::Uuid).boxed(),
        T::Json => {
            let leaf =
                prop::sample::select(vec!["null", "true", "-12", "0.5", "\"é\\n\"", "[]", "{}"]).prop_map(String::from);
            leaf.prop_recursive(2, 8, 3, |inner| {
                prop_oneof![
                    prop::collection::vec(inner.clone(), 0..3).prop_map(|v| format!("[{}]", v.join(","))),
                    inner.prop_map(|v| format!("{{\"k\":{v}}}")),
                ]
            })
            .prop_map(Value::Json)
            .boxed()
        }
        T::File => any::<u32>().prop_map(|n| Value::Text(format!("{{\"id\":{n}}}"))).boxed(),
        T::Embedding(n) => prop::collection::vec(float, n as usize).prop_map(Value::Embedding).boxed(),
    }
}

/// The order that keys have: NULL first, then by value, zero once, NaN last.
pub(crate) fn order(a: &Value, b: &Value) -> Ordering {
    use Value as V;
    let float = |a: f64, b: f64| a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
    match (a, b) {
        (V::Null, b) => {
            if b.is_null() {
                Ordering::Equal
            } else {
                Ordering::Less
            }
        }
        (_, V::Null) => Ordering::Greater,
        (V::Boolean(a), V::Boolean(b)) => a.cmp(b),
        (V::BigInt(a), V::BigInt(b)) => a.cmp(b),
        (V::Double(a), V::Double(b)) => float(*a, *b),
        (V::Decimal { unscaled: a, .. }, V::Decimal { unscaled: b, .. }) => a.cmp(b),
        (V::Text(a), V::Text(b)) => a.cmp(b),
        (V::Json(a), V::Json(b)) => a.cmp(b),
        (V::Bytes(a), V::Bytes(b)) => a.cmp(b),
        (V::Timestamp(a), V::Timestamp(b)) | (V::DateTime(a), V::DateTime(b)) | (V::Time(a), V::Time(b)) => a.cmp(b),
        (V::Date(a), V::Date(b)) => a.cmp(b),
        (V::Uuid(a), V::Uuid(b)) => a.cmp(b),
        (V::Embedding(a), V::Embedding(b)) => {
            let items = a.iter().zip(b).map(|(a, b)| float((*a).into(), (*b).into()));
            items.fold(a.len().cmp(&b.len()), Ordering::then)
        }
        other => panic!("values of different types: {other:?}"),
    }
}

/// The array of some values of a type.
pub(crate) fn array_of(ty: &KalamDataType, values: &[Value]) -> arrow::array::ArrayRef {
    let mut builder = ColumnBuilder::new(ty, "c", values.len());
    for value in values {
        builder.append(value).expect("a value of the type");
    }
    builder.finish()
}
