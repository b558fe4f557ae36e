use super::*;
use crate::storage::record::hex;
use crate::types::testing::{any_value, array_of, key_type, order};
use proptest::prelude::*;
use std::cmp::Ordering;

fn meta() -> SegmentMeta {
    let column = |id, data_type, min, max| ColumnMeta {
        nulls: 2,
        min: Some(min),
        max: Some(max),
        ..ColumnMeta::new(id, data_type)
    };
    SegmentMeta {
        number: 7,
        schema_version: 3,
        key_version: 1,
        rows: 40_000,
        bytes: 300_000,
        footer_bytes: 512,
        min_seq: 10,
        max_seq: 99,
        part_crcs: vec![1, 2],
        group_keys: vec![vec![1, 5], vec![1, 9]],
        last_key: vec![1, 200],
        columns: vec![
            column(1, KalamDataType::Int, ScalarValue::Int32(Some(-1)), ScalarValue::Int32(Some(5))),
            column(2, KalamDataType::Text, ScalarValue::Utf8(Some("a".into())), ScalarValue::Utf8(Some("b".into()))),
            ColumnMeta { has_nan: true, ..ColumnMeta::new(4, KalamDataType::Double) },
        ],
    }
}

/// The layout is on disk: these bytes must decode for ever.
#[test]
fn golden_bytes() {
    let mut bytes = Vec::new();
    meta().encode(&mut bytes).unwrap();
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        hex,
        concat!(
            "01070000000300000001000000409c0000e09304000000000000020000",
            "0a000000000000006300000000000000020000000100000002000000",
            "02000000020000000105020000000109",
            "0200000001c8",
            "03000000",
            "0100000002020000000e",
            "09000000017fffffffffffffff",
            "09000000018000000000000005",
            "0200000006020000000e",
            "04000000016100",
            "00",
            "04000000016200",
            "00",
            "04000000040000000009",
        )
    );
    assert_eq!(SegmentMeta::decode(&bytes).unwrap(), (meta(), bytes.len()));
    for cut in 0..bytes.len() {
        assert!(SegmentMeta::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    bytes[0] = 2;
    assert_eq!(SegmentMeta::decode(&bytes).unwrap_err().code(), ErrorCode::UnsupportedFormat);
}

#[test]
fn long_bounds_are_cut_outwards() {
    let long = "é".repeat(100);
    let mut column = ColumnMeta::new(1, KalamDataType::Text);
    column.observe(&array_of(&KalamDataType::Text, &[Value::Text(long.clone())])).unwrap();
    column.finish();
    let (Some(ScalarValue::Utf8(Some(min))), Some(ScalarValue::Utf8(Some(max)))) = (&column.min, &column.max) else {
        panic!("no bounds: {column:?}");
    };
    assert!(min.as_str() < long.as_str() && max.as_str() > long.as_str() && min.len() <= 64 && max.len() <= 66);
    assert!(!column.exact);
    // The letter above the last one takes more bytes: read again, the bound is the same all the same.
    let mut longer = ColumnMeta::new(1, KalamDataType::Text);
    longer.observe(&array_of(&KalamDataType::Text, &[Value::Text("a".repeat(63) + "\u{7F}b")])).unwrap();
    longer.finish();
    let mut bytes = Vec::new();
    longer.encode(&mut bytes).unwrap();
    assert_eq!(longer.max, Some(ScalarValue::Utf8(Some("a".repeat(63) + "\u{80}"))));
    assert_eq!(ColumnMeta::read(&mut Cursor::new("a column", &bytes)).unwrap(), longer);
    let all = "\u{10FFFF}".repeat(40);
    let mut column = ColumnMeta::new(1, KalamDataType::Text);
    column.observe(&array_of(&KalamDataType::Text, &[Value::Text(all)])).unwrap();
    column.finish();
    assert_eq!(column.max, None);
    let key = vec![0xFE; 300];
    assert!(key_below(&key) < key && key_above(&key) > key);
    assert_eq!(key_above(&[0xFF; 300]), [0xFF; 300]);
    assert_eq!(hex(&key_above(b"ab")), hex(b"ab"));
}

proptest! {
    #[test]
    fn bounds_hold_every_value(
        (ty, values) in key_type().prop_flat_map(|ty| (Just(ty), prop::collection::vec(any_value(ty), 0..20)))
    ) {
        let mut column = ColumnMeta::new(5, ty);
        let (head, tail) = values.split_at(values.len() / 2);
        column.observe(&array_of(&ty, head))?;
        column.observe(&array_of(&ty, tail))?;
        column.finish();
        let nan = values.iter().any(|v| matches!(v, Value::Double(x) if x.is_nan()));
        let present: Vec<&Value> = values.iter().filter(|v| !v.is_null()).collect();
        prop_assert_eq!(column.nulls as usize, values.len() - present.len());
        prop_assert_eq!(column.has_nan, nan);
        prop_assert_eq!(column.min.is_some(), !present.is_empty() && !nan);
        for (bound, outside) in [(&column.min, Ordering::Less), (&column.max, Ordering::Greater)] {
            let Some(bound) = bound else { continue };
            let bound = Value::from_array(&bound.to_array()?, 0, &ty)?;
            prop_assert!(present.iter().all(|v| order(v, &bound) != outside), "{bound:?}");
        }
        let mut bytes = Vec::new();
        column.encode(&mut bytes)?;
        let mut cursor = Cursor::new("a column", &bytes);
        prop_assert_eq!(ColumnMeta::read(&mut cursor)?, column);
        cursor.finish()?;
    }
}
