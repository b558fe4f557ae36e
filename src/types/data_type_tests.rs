use super::super::testing::any_type;
use super::*;
use arrow::datatypes::{Fields, IntervalUnit, UnionFields, UnionMode};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, MySqlDialect, PostgreSqlDialect, SQLiteDialect};
use datafusion::sql::sqlparser::parser::Parser;
use proptest::prelude::*;

const EVERY: [(KalamDataType, &[u8]); 17] = [
    (KalamDataType::Boolean, &[0x01]),
    (KalamDataType::Int, &[0x02]),
    (KalamDataType::BigInt, &[0x03]),
    (KalamDataType::Double, &[0x04]),
    (KalamDataType::Float, &[0x05]),
    (KalamDataType::Text, &[0x06]),
    (KalamDataType::Timestamp, &[0x07]),
    (KalamDataType::Date, &[0x08]),
    (KalamDataType::DateTime, &[0x09]),
    (KalamDataType::Time, &[0x0A]),
    (KalamDataType::Json, &[0x0B]),
    (KalamDataType::Bytes, &[0x0C]),
    (KalamDataType::Embedding(384), &[0x0D, 0x80, 0x01, 0x00, 0x00]),
    (KalamDataType::Uuid, &[0x0E]),
    (KalamDataType::Decimal { precision: 10, scale: 2 }, &[0x0F, 0x0A, 0x02]),
    (KalamDataType::SmallInt, &[0x10]),
    (KalamDataType::File, &[0x11]),
];

#[test]
fn golden_wire_bytes() {
    for (ty, bytes) in EVERY {
        let mut out = Vec::new();
        ty.encode_wire(&mut out);
        assert_eq!(out, bytes, "{ty}");
        assert_eq!(KalamDataType::decode_wire(bytes).unwrap(), (ty, bytes.len()));
    }
}

#[test]
fn damaged_wire_bytes_are_an_error() {
    let damaged: [&[u8]; 7] =
        [&[], &[0x00], &[0x12], &[0x0D, 1, 0], &[0x0D, 0, 0, 0, 0], &[0x0F, 39, 0], &[0x0F, 5, 6]];
    for bytes in damaged {
        let error = KalamDataType::decode_wire(bytes).expect_err("damaged");
        assert_eq!(error.code(), ErrorCode::DataCorrupted, "{bytes:?}");
    }
}

fn nearest(ty: DataType) -> Result<KalamDataType> {
    KalamDataType::from_arrow_field(&Field::new("c", ty, true))
}

#[test]
fn any_arrow_type_finds_the_type_that_holds_it() {
    use DataType as D;
    use KalamDataType as T;
    let item = || Arc::new(Field::new_list_field(D::Float32, true));
    for (arrow, expected) in [
        (D::Int8, T::SmallInt),
        (D::UInt8, T::SmallInt),
        (D::UInt16, T::Int),
        (D::UInt32, T::BigInt),
        (D::UInt64, T::Decimal { precision: 20, scale: 0 }),
        (D::Float16, T::Float),
        (D::Null, T::Text),
        (D::Utf8View, T::Text),
        (D::LargeUtf8, T::Text),
        (D::Dictionary(Box::new(D::Int8), Box::new(D::Utf8)), T::Text),
        (D::Dictionary(Box::new(D::Int8), Box::new(D::Int64)), T::BigInt),
        (D::Timestamp(TimeUnit::Nanosecond, None), T::Timestamp),
        (D::Timestamp(TimeUnit::Second, Some("Europe/Berlin".into())), T::DateTime),
        (D::Date64, T::Date),
        (D::Time32(TimeUnit::Second), T::Time),
        (D::Interval(IntervalUnit::DayTime), T::Text),
        (D::BinaryView, T::Bytes),
        (D::FixedSizeBinary(20), T::Bytes),
        (D::FixedSizeBinary(16), T::Uuid),
        (D::FixedSizeList(item(), 3), T::Embedding(3)),
        (D::FixedSizeList(item(), 8193), T::Json),
        (D::List(item()), T::Json),
        (D::Struct(Fields::empty()), T::Json),
        (D::Decimal32(9, 2), T::Decimal { precision: 9, scale: 2 }),
        (D::Decimal128(5, -2), T::Decimal { precision: 7, scale: 0 }),
        (D::Decimal256(38, 38), T::Decimal { precision: 38, scale: 38 }),
    ] {
        assert_eq!(nearest(arrow.clone()).unwrap(), expected, "{arrow}");
    }
    for arrow in [D::Decimal256(76, 10), D::Union(UnionFields::empty(), UnionMode::Sparse)] {
        let error = nearest(arrow.clone()).expect_err("no type holds it");
        assert!(error.message().contains("'c'") && error.message().contains(&arrow.to_string()), "{error}");
    }
}

#[test]
fn metadata_decides_only_where_it_fits() {
    let named = |name: &str, ty: DataType| {
        Field::new("c", ty, true).with_metadata(HashMap::from([(TYPE_KEY.to_owned(), name.to_owned())]))
    };
    let read = |name, ty| KalamDataType::from_arrow_field(&named(name, ty)).unwrap();
    assert_eq!(read("JSON", DataType::Utf8View), KalamDataType::Json);
    assert_eq!(read("FILE", DataType::LargeUtf8), KalamDataType::File);
    assert_eq!(read("JSON", DataType::Int32), KalamDataType::Int);
    assert_eq!(read("BIGINT", DataType::Int32), KalamDataType::Int);
    assert_eq!(read("NONSENSE", DataType::Int32), KalamDataType::Int);
}

fn parse_as(dialect: &dyn Dialect, name: &str) -> Result<KalamDataType> {
    let ast = Parser::new(dialect).try_with_sql(name).expect("tokens").parse_data_type().expect(name);
    KalamDataType::from_sql(&ast)
}

#[test]
fn names_of_other_databases() {
    use KalamDataType as T;
    let decimal = |precision, scale| T::Decimal { precision, scale };
    let cases: &[(&[&str], T)] = &[
        (&["bool", "BOOLEAN"], T::Boolean),
        (&["int2", "SMALLINT", "TINYINT", "tinyint(1)"], T::SmallInt),
        (&["INT", "integer", "INT4", "int(11)", "MEDIUMINT", "SMALLINT UNSIGNED"], T::Int),
        (&["BIGINT", "int8", "bigint(20)", "INT UNSIGNED", "SERIAL", "BIGSERIAL"], T::BigInt),
        (&["BIGINT UNSIGNED"], decimal(20, 0)),
        (&["REAL", "float4", "FLOAT", "FLOAT(10)"], T::Float),
        (&["DOUBLE", "double precision", "FLOAT8", "FLOAT(53)"], T::Double),
        (&["NUMERIC(10,2)", "decimal( 10 , 2 )", "DEC(10,2)"], decimal(10, 2)),
        (&["NUMERIC(7)"], decimal(7, 0)),
        (&["NUMERIC", "DECIMAL"], decimal(38, 10)),
        (
            &["VARCHAR(20)", "varchar", "CHAR(3)", "CHARACTER VARYING(5)", "STRING", "TEXT", "NVARCHAR(5)", "CLOB"],
            T::Text,
        ),
        (&["BYTEA", "BLOB", "BYTES", "VARBINARY(10)", "BINARY(4)"], T::Bytes),
        (&["TIMESTAMP", "timestamp(3)", "TIMESTAMP WITHOUT TIME ZONE"], T::Timestamp),
        (
            &["TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP(3) WITH TIME ZONE", "DATETIME", "DATETIME(6)"],
            T::DateTime,
        ),
        (&["DATE"], T::Date),
        (&["TIME", "TIME(3)", "TIME WITHOUT TIME ZONE"], T::Time),
        (&["JSON", "jsonb"], T::Json),
        (&["UUID"], T::Uuid),
        (&["EMBEDDING(3)", "vector(3)"], T::Embedding(3)),
        (&["FILE"], T::File),
    ];
    for (names, expected) in cases {
        for name in *names {
            assert_eq!(parse_as(&GenericDialect {}, name).expect(name), *expected, "{name}");
        }
    }
    assert_eq!(parse_as(&PostgreSqlDialect {}, "character varying(5)").unwrap(), T::Text);
    assert_eq!(parse_as(&MySqlDialect {}, "longtext").unwrap(), T::Text);
    assert_eq!(parse_as(&SQLiteDialect {}, "INTEGER").unwrap(), T::Int);
    let serial = Parser::new(&PostgreSqlDialect {}).try_with_sql("bigserial").unwrap().parse_data_type().unwrap();
    assert!(KalamDataType::is_serial(&serial));
}

#[test]
fn unknown_names_list_the_known_ones() {
    for name in ["POINT", "INT[]", "FLOAT[3]", "nonsense(3)", "INTERVAL", "TIMETZ"] {
        let error = parse_as(&GenericDialect {}, name).expect_err(name);
        assert_eq!(error.code(), ErrorCode::TypeNotFound, "{name}");
        assert!(error.hint().is_some_and(|h| h.contains("BIGINT") && h.contains("EMBEDDING")), "{error}");
    }
    for (name, code) in [
        ("DECIMAL(39,0)", ErrorCode::InvalidDefinition),
        ("DECIMAL(3,4)", ErrorCode::InvalidDefinition),
        ("EMBEDDING(0)", ErrorCode::InvalidDefinition),
        ("EMBEDDING(8193)", ErrorCode::InvalidDefinition),
        ("EMBEDDING", ErrorCode::TypeNotFound),
        ("", ErrorCode::TypeNotFound),
        ("BOOLEAN(3)", ErrorCode::TypeNotFound),
        ("TEXT(", ErrorCode::TypeNotFound),
        ("TEXT)", ErrorCode::TypeNotFound),
        ("DECIMAL(,)", ErrorCode::TypeNotFound),
    ] {
        assert_eq!(KalamDataType::parse(name).expect_err(name).code(), code, "{name}");
    }
}

proptest! {
    #[test]
    fn every_form_of_a_type_comes_back(ty in any_type(), after: Vec<u8>, nullable: bool, id: u32) {
        let mut wire = Vec::new();
        ty.encode_wire(&mut wire);
        let used = wire.len();
        wire.extend_from_slice(&after);
        prop_assert_eq!(KalamDataType::decode_wire(&wire)?, (ty, used));

        let field = ty.arrow_field("c", nullable, id);
        prop_assert_eq!(KalamDataType::from_arrow_field(&field)?, ty);
        prop_assert_eq!(field.metadata()[FIELD_ID_KEY].parse::<u32>().unwrap(), id);

        prop_assert_eq!(KalamDataType::parse(&ty.sql_name())?, ty);
        prop_assert_eq!(KalamDataType::parse(&ty.sql_name().to_lowercase())?, ty);
        prop_assert_eq!(parse_as(&GenericDialect {}, &ty.sql_name())?, ty);
        let json = serde_json::to_string(&ty).unwrap();
        prop_assert_eq!(serde_json::from_str::<KalamDataType>(&json).unwrap(), ty);
    }

    #[test]
    fn decoding_rubbish_never_panics(bytes: Vec<u8>) {
        let _ = KalamDataType::decode_wire(&bytes);
    }

    #[test]
    fn parsing_rubbish_never_panics(name in "\\PC*") {
        let _ = KalamDataType::parse(&name);
    }
}
