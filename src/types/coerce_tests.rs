use super::super::testing::{any_type, any_value, array_of};
use super::*;
use arrow::array::{
    BooleanArray, Date64Array, Decimal128Array, Decimal256Array, DictionaryArray, Float64Array, Int32Array, Int64Array,
    LargeStringArray, ListArray, StringViewArray, StructArray, TimestampMillisecondArray, TimestampNanosecondArray,
    UInt64Array,
};
use arrow::datatypes::{Float32Type as F32, Float64Type as F64, Int32Type as I32, i256};
use proptest::prelude::*;

fn coerce(array: impl Array + 'static, ty: KalamDataType) -> Result<ArrayRef> {
    coerce_array(&(Arc::new(array) as ArrayRef), &ty, "price")
}

/// The values of a coerced column as text.
fn texts(array: impl Array + 'static, ty: KalamDataType) -> Vec<String> {
    let out = coerce(array, ty).expect("coerces");
    assert_eq!(out.data_type(), &ty.arrow_type());
    (0..out.len())
        .map(|row| Value::from_array(out.as_ref(), row, &ty).expect("a value").to_text().into_owned())
        .collect()
}

fn decimal(precision: u8, scale: u8) -> KalamDataType {
    KalamDataType::Decimal { precision, scale }
}

#[test]
fn numbers_round_as_in_postgresql() {
    let halves = || Float64Array::from(vec![0.5, 1.5, 2.5, -0.5, -2.5]);
    assert_eq!(texts(halves(), KalamDataType::Int), ["0", "2", "2", "0", "-2"]);
    let exact = || Decimal128Array::from(vec![5, 15, 25, -5, -25]).with_precision_and_scale(10, 1).unwrap();
    assert_eq!(texts(exact(), KalamDataType::BigInt), ["1", "2", "3", "-1", "-3"]);
    assert_eq!(
        texts(Float64Array::from(vec![1.005, 0.1, 1e-7, 123.0]), decimal(5, 2)),
        ["1.01", "0.10", "0.00", "123.00"]
    );
    assert_eq!(
        texts(StringArray::from(vec!["1.005", "-1.005", "1e2", "99.9949999"]), decimal(5, 2)),
        ["1.01", "-1.01", "100.00", "99.99"]
    );
    assert_eq!(texts(Int32Array::from(vec![7]), decimal(5, 2)), ["7.00"]);
    assert_eq!(texts(UInt64Array::from(vec![u64::MAX]), decimal(20, 0)), ["18446744073709551615"]);
    assert_eq!(
        texts(Decimal128Array::from(vec![125]).with_precision_and_scale(5, 2).unwrap(), KalamDataType::Double),
        ["1.25"]
    );
}

#[test]
fn decimal_text_of_any_length() {
    let long = format!("0.{}1", "0".repeat(60));
    let digits = "1234567890123456789012345678901234567.85";
    for (text, ty, expected) in [
        (long.as_str(), decimal(5, 2), "0.00"),
        ("00000000000000000000000000000000000000000000000001.5", decimal(5, 2), "1.50"),
        (digits, decimal(38, 1), "1234567890123456789012345678901234567.9"),
        ("99999999999999999999999999999999999999", decimal(38, 0), "99999999999999999999999999999999999999"),
        ("1e-999999999999999999999", decimal(5, 2), "0.00"),
        (".5", decimal(2, 1), "0.5"),
        ("5.", decimal(2, 1), "5.0"),
        ("+12e-1", decimal(2, 1), "1.2"),
    ] {
        assert_eq!(texts(StringArray::from(vec![text]), ty), [expected], "{text}");
    }
    for text in [
        "99999999999999999999999999999999999999.5",
        "100000000000000000000000000000000000000",
        "1e38",
        "1e999999999999999999999",
    ] {
        assert_eq!(
            coerce(StringArray::from(vec![text]), decimal(38, 0)).expect_err(text).code(),
            ErrorCode::OutOfRange
        );
    }
    for text in ["", ".", "1.2.3", "1e", "e5", "--1", "NaN", "0x10", "1 2"] {
        assert_eq!(
            coerce(StringArray::from(vec![text]), decimal(38, 0)).expect_err(text).code(),
            ErrorCode::InvalidText
        );
    }
}

#[test]
fn errors_name_column_row_and_value() {
    use KalamDataType as T;
    let text = |t: &'static str| Arc::new(StringArray::from(vec![None, Some(t)])) as ArrayRef;
    let cases: Vec<(ArrayRef, KalamDataType, ErrorCode, &str)> = vec![
        (Arc::new(Int64Array::from(vec![1, 40_000])), T::SmallInt, ErrorCode::OutOfRange, "40000"),
        (Arc::new(Int64Array::from(vec![1, 3_000_000_000])), T::Int, ErrorCode::OutOfRange, "3000000000"),
        (Arc::new(Float64Array::from(vec![1.0, 1e19])), T::BigInt, ErrorCode::OutOfRange, "1e+19"),
        (Arc::new(Float64Array::from(vec![1.0, f64::NAN])), T::BigInt, ErrorCode::OutOfRange, "NaN"),
        (Arc::new(Float64Array::from(vec![1.0, 1e300])), T::Float, ErrorCode::OutOfRange, "1e+300"),
        (Arc::new(Int64Array::from(vec![1, 1000])), decimal(5, 2), ErrorCode::OutOfRange, "1000"),
        (Arc::new(Float64Array::from(vec![1.0, 999.995])), decimal(5, 2), ErrorCode::OutOfRange, "999.995"),
        (text("abc"), T::Int, ErrorCode::InvalidText, "'abc'"),
        (text("1.5"), T::Int, ErrorCode::InvalidText, "'1.5'"),
        (text("99999999999999999999"), T::BigInt, ErrorCode::OutOfRange, "99999999999999999999"),
        (text("1e400"), T::Double, ErrorCode::OutOfRange, "1e400"),
        (text("maybe"), T::Boolean, ErrorCode::InvalidText, "'maybe'"),
        (text("2023-02-30"), T::Date, ErrorCode::InvalidDatetime, "'2023-02-30'"),
        (text("2023-02-20 25:00"), T::Timestamp, ErrorCode::InvalidDatetime, "'2023-02-20 25:00'"),
        (text("nope"), T::DateTime, ErrorCode::InvalidDatetime, "'nope'"),
        (text("12"), T::Time, ErrorCode::InvalidDatetime, "'12'"),
        (text("123"), T::Uuid, ErrorCode::InvalidText, "'123'"),
        (text("\\x0"), T::Bytes, ErrorCode::InvalidText, "\\x0"),
        (text("{a:1}"), T::Json, ErrorCode::InvalidText, "{a:1}"),
        (text("[1]"), T::File, ErrorCode::InvalidText, "[1]"),
        (text("[1,2]"), T::Embedding(3), ErrorCode::WrongDimension, "[1,2]"),
        (text("[1,x,2]"), T::Embedding(3), ErrorCode::InvalidText, "[1,x,2]"),
        (Arc::new(BooleanArray::from(vec![None, Some(true)])), T::Int, ErrorCode::DatatypeMismatch, "true"),
        (Arc::new(Int64Array::from(vec![None, Some(5)])), T::Boolean, ErrorCode::DatatypeMismatch, "5"),
        (Arc::new(Int64Array::from(vec![None, Some(5)])), T::Timestamp, ErrorCode::DatatypeMismatch, "5"),
        (Arc::new(Int64Array::from(vec![None, Some(5)])), T::Json, ErrorCode::DatatypeMismatch, "5"),
    ];
    for (array, ty, code, value) in cases {
        let error = coerce_array(&array, &ty, "price").expect_err(value);
        assert_eq!(error.code(), code, "{error}");
        for part in ["column 'price'", "row 2", value] {
            assert!(error.message().contains(part), "{error} lacks {part}");
        }
    }
    let wide = Decimal256Array::from(vec![i256::ONE, i256::MAX]).with_precision_and_scale(76, 0).unwrap();
    let error = coerce(wide, decimal(38, 0)).expect_err("too wide");
    assert!(error.code() == ErrorCode::OutOfRange && error.message().contains("row 2"), "{error}");
}

#[test]
fn the_builder_names_column_row_and_value_and_stays_usable() {
    let mut builder = ColumnBuilder::new(&KalamDataType::Int, "n", 2);
    builder.append(&Value::BigInt(1)).unwrap();
    let error = builder.append(&Value::Text("x".into())).expect_err("not a number");
    assert_eq!(error.message(), "column 'n', row 2: 'x' is not a valid INT");
    builder.append(&Value::Double(2.5)).unwrap();
    assert_eq!(builder.len(), 2);
    assert_eq!(builder.finish().as_primitive::<I32>().values(), &[1, 2]);
    assert!(builder.is_empty());
}

#[test]
fn the_right_type_is_not_copied() {
    for (ty, array) in [
        (KalamDataType::Int, Arc::new(Int32Array::from(vec![1])) as ArrayRef),
        (KalamDataType::Text, Arc::new(StringArray::from(vec!["x"]))),
        (KalamDataType::Json, Arc::new(StringArray::from(vec!["{}"]))),
    ] {
        assert!(Arc::ptr_eq(&coerce_array(&array, &ty, "c").unwrap(), &array), "{ty}");
    }
}

#[test]
fn other_arrow_forms_of_the_same_values() {
    let dictionary: DictionaryArray<I32> = vec![Some("5"), None, Some("5")].into_iter().collect();
    assert_eq!(texts(dictionary.clone(), KalamDataType::Text), ["5", "", "5"]);
    assert_eq!(texts(dictionary, KalamDataType::Int), ["5", "", "5"]);
    assert_eq!(texts(StringViewArray::from(vec!["2024-01-02"]), KalamDataType::Date), ["2024-01-02"]);
    assert_eq!(texts(LargeStringArray::from(vec!["{\"a\":1}"]), KalamDataType::Json), ["{\"a\":1}"]);
    assert_eq!(texts(Date64Array::from(vec![-1, 86_400_000]), KalamDataType::Date), ["1969-12-31", "1970-01-02"]);
    assert_eq!(
        texts(TimestampNanosecondArray::from(vec![1_499, 1_500, -500, -501]), KalamDataType::Timestamp),
        [
            "1970-01-01T00:00:00.000001",
            "1970-01-01T00:00:00.000002",
            "1970-01-01T00:00:00",
            "1969-12-31T23:59:59.999999"
        ]
    );
    let zoned = TimestampMillisecondArray::from(vec![1]).with_timezone("+02:00");
    assert_eq!(texts(zoned.clone(), KalamDataType::DateTime), ["1970-01-01T00:00:00.001Z"]);
    assert_eq!(texts(zoned, KalamDataType::Time), ["00:00:00.001"]);
    assert_eq!(texts(arrow::array::Float32Array::from(vec![0.1]), KalamDataType::Text), ["0.1"]);
    assert_eq!(coerce(arrow::array::NullArray::new(3), KalamDataType::Uuid).unwrap().null_count(), 3);
    let error =
        coerce(TimestampMillisecondArray::from(vec![0, i64::MAX]), KalamDataType::Timestamp).expect_err("too late");
    assert!(error.code() == ErrorCode::OutOfRange && error.message().contains("row 2"), "{error}");
}

#[test]
fn lists_become_embeddings_and_json() {
    use KalamDataType as T;
    let lists = || {
        ListArray::from_iter_primitive::<F64, _, _>([
            Some(vec![Some(0.5), Some(2.0)]),
            None,
            Some(vec![Some(1.0), Some(-1.0)]),
        ])
    };
    assert_eq!(texts(lists(), T::Embedding(2)), ["[0.5,2]", "", "[1,-1]"]);
    assert_eq!(texts(lists().slice(2, 1), T::Embedding(2)), ["[1,-1]"]);
    assert_eq!(texts(lists(), T::Json), ["[0.5,2.0]", "", "[1.0,-1.0]"]);
    let wrong = coerce(lists(), T::Embedding(3)).expect_err("dimension");
    assert!(
        wrong.code() == ErrorCode::WrongDimension
            && wrong.message().contains("row 1")
            && wrong.message().contains("[0.5,2]"),
        "{wrong}"
    );
    assert_eq!(coerce(lists(), T::Int).expect_err("list").code(), ErrorCode::DatatypeMismatch);

    let far = ListArray::from_iter_primitive::<F64, _, _>([Some(vec![Some(0.5)]), Some(vec![Some(1e300)])]);
    let far = coerce(far, T::Embedding(1)).expect_err("beyond f32");
    assert!(
        far.code() == ErrorCode::OutOfRange && far.message().contains("row 2") && far.message().contains("1e+300"),
        "{far}"
    );

    let holes = ListArray::from_iter_primitive::<F64, _, _>([Some(vec![Some(0.5), None])]);
    assert_eq!(coerce(holes, T::Embedding(2)).expect_err("null").code(), ErrorCode::InvalidValue);
    let holes = FixedSizeListArray::from_iter_primitive::<F32, _, _>([None, Some(vec![Some(0.5), None])], 2);
    let holes = coerce(holes, T::Embedding(2)).expect_err("null");
    assert!(holes.code() == ErrorCode::InvalidValue && holes.message().contains("row 2"), "{holes}");

    let rows = StructArray::from(vec![
        (Arc::new(Field::new("a", DataType::Int32, true)), Arc::new(Int32Array::from(vec![Some(1), None])) as ArrayRef),
        (Arc::new(Field::new("b", DataType::Utf8, true)), Arc::new(StringArray::from(vec!["x", "y"]))),
    ]);
    assert_eq!(texts(rows, T::Json), [r#"{"a":1,"b":"x"}"#, r#"{"a":null,"b":"y"}"#]);
}

#[test]
fn a_slice_is_coerced_from_its_own_start() {
    let array: ArrayRef = Arc::new(Int64Array::from(vec![Some(99_999), None, Some(3)]));
    let part = coerce_array(&array.slice(1, 2), &KalamDataType::SmallInt, "c").unwrap();
    assert_eq!(part.as_ref(), array_of(&KalamDataType::SmallInt, &[Value::Null, Value::BigInt(3)]).as_ref());
}

proptest! {
    #[test]
    fn a_column_is_coerced_as_its_values_are(
        (from, values) in any_type().prop_flat_map(|ty| (Just(ty), prop::collection::vec(any_value(ty), 0..5))),
        to in any_type(),
    ) {
        // Without metadata JSON and FILE are text; a FLOAT alone knows that it has 32 bits.
        if matches!(from, KalamDataType::Json | KalamDataType::File) || (from, to) == (KalamDataType::Float, KalamDataType::Text) {
            return Ok(());
        }
        let mut builder = ColumnBuilder::new(&to, "c", 0);
        let one_by_one = values.iter().try_for_each(|v| builder.append(v)).map(|()| builder.finish());
        let at_once = coerce_array(&array_of(&from, &values), &to, "c");
        match (one_by_one, at_once) {
            (Ok(a), Ok(b)) => {
                // NaN is not equal to itself: compared as shown.
                prop_assert_eq!(format!("{a:?}"), format!("{b:?}"));
                prop_assert_eq!(b.data_type(), &to.arrow_type());
            }
            (Err(a), Err(b)) => prop_assert_eq!(a, b),
            (a, b) => prop_assert!(false, "{:?} / {:?}", a, b),
        }
    }

    #[test]
    fn text_of_any_kind_never_panics(texts: Vec<String>, to in any_type()) {
        let _ = coerce_array(&(Arc::new(StringArray::from(texts)) as ArrayRef), &to, "c");
    }

    #[test]
    fn decimals_read_what_they_write(unscaled in -(10i128.pow(38) - 1)..10i128.pow(38), scale in 0..=38u8) {
        let text = scalar::format_decimal(unscaled, scale);
        prop_assert_eq!(scalar::parse_decimal(&text, 38, scale)?, unscaled);
    }
}
