use super::*;
use crate::types::{FIELD_ID_KEY, TYPE_KEY};

fn column(name: &str, ty: KalamDataType) -> NewColumn {
    NewColumn::new(name, ty)
}

fn table(columns: Vec<NewColumn>, key: &[&str]) -> Result<TableDefinition> {
    let key: Vec<String> = key.iter().map(|k| (*k).to_owned()).collect();
    TableDefinition::new(
        TableId::new("shop", "items"),
        7,
        TableType::Shared,
        columns,
        &key,
        TableOptions::default(),
        1000,
        "ann",
    )
}

#[test]
fn a_new_table() {
    let columns =
        vec![column("a", KalamDataType::Text), column("b", KalamDataType::Int), column("c", KalamDataType::Json)];
    let table = table(columns, &["b", "a"]).unwrap();
    assert_eq!(table.schema_version, 1);
    assert_eq!(
        table.columns.iter().map(|c| (c.column_id, c.ordinal_position)).collect::<Vec<_>>(),
        [(1, 1), (2, 2), (3, 3)]
    );
    assert_eq!(table.key_indices(), [1, 0]);
    assert_eq!(table.key_columns().iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    assert!(!table.columns[0].nullable && !table.columns[1].nullable && table.columns[2].nullable);
    assert_eq!(table.key_codec().unwrap().types(), [KalamDataType::Int, KalamDataType::Text]);
    let schema = table.arrow_schema().unwrap();
    assert_eq!(schema.field(2).metadata()[TYPE_KEY], "JSON");
    assert_eq!(schema.field(2).metadata()[FIELD_ID_KEY], "3");
    assert_eq!(table.history[0].by, "ann");
    assert_eq!(table.storage_id(), "local");
}

#[test]
fn without_a_key_rows_have_a_hidden_one() {
    let table = table(vec![column("a", KalamDataType::Json)], &[]).unwrap();
    assert_eq!(table.key_codec().unwrap().types(), [KalamDataType::BigInt]);
    assert!(table.key_indices().is_empty());
}

#[test]
fn what_is_no_table_is_refused() {
    use KalamDataType as T;
    let with_default = |ty, default| NewColumn { default, ..column("a", ty) };
    let cases = [
        (table(vec![], &[]), ErrorCode::InvalidDefinition),
        (table(vec![column("a", T::Int), column("a", T::Text)], &[]), ErrorCode::DuplicateColumn),
        (table(vec![column("_seq", T::BigInt)], &[]), ErrorCode::InvalidName),
        (table(vec![column("", T::BigInt)], &[]), ErrorCode::InvalidName),
        (table(vec![column("a", T::Int)], &["b"]), ErrorCode::ColumnNotFound),
        (table(vec![column("a", T::Int)], &["a", "a"]), ErrorCode::DuplicateColumn),
        (table(vec![column("a", T::Json)], &["a"]), ErrorCode::InvalidDefinition),
        (table(vec![with_default(T::Int, ColumnDefault::Literal("x".into()))], &[]), ErrorCode::InvalidText),
        (
            table(vec![with_default(T::Int, ColumnDefault::Function(DefaultFunction::SnowflakeId))], &[]),
            ErrorCode::DatatypeMismatch,
        ),
        (
            table(vec![with_default(T::Text, ColumnDefault::Function(DefaultFunction::Now))], &[])
                .and(table(vec![], &[])),
            ErrorCode::InvalidDefinition,
        ),
    ];
    for (n, (result, code)) in cases.into_iter().enumerate() {
        assert_eq!(result.expect_err("not valid").code(), code, "case {n}");
    }
    let stream = TableDefinition::new(
        TableId::new("a", "b"),
        1,
        TableType::Stream,
        vec![column("a", T::Int)],
        &[],
        TableOptions::default(),
        0,
        "",
    );
    assert_eq!(stream.expect_err("no TTL").code(), ErrorCode::InvalidOption);
}

#[test]
fn the_stored_form_stays_readable() {
    // Written by the first version of the catalog: must always be read.
    let stored = r#"{"table_id":["shop","items"],"table_no":7,"table_type":"shared",
        "columns":[{"column_id":1,"ordinal_position":1,"name":"id","data_type":"BIGINT","nullable":false,"default":{"function":"SNOWFLAKE_ID"}},
                   {"column_id":3,"ordinal_position":3,"name":"price","data_type":"DECIMAL(10,2)","nullable":true,"default":{"literal":"0.50"},"initial_default":"0.10"},
                   {"column_id":4,"ordinal_position":4,"name":"u","data_type":"UUID","nullable":true,"default":{"function":"UUID_V7"}}],
        "primary_key":[1],
        "options":{"flush_policy":{"rows":10000},"access_level":"public"},
        "schema_version":2,
        "history":[{"version":1,"at_ms":5,"by":"ann","change":{"kind":"created"}},
                   {"version":2,"at_ms":6,"by":"bob","change":{"kind":"drop_column","column":{"column_id":2,"ordinal_position":2,"name":"x","data_type":"INT","nullable":true}}}],
        "next_column_id":5,"created_at_ms":5}"#;
    let table: TableDefinition = serde_json::from_str(stored).unwrap();
    assert_eq!(table.table_id.to_string(), "shop.items");
    assert_eq!(table.column("price").unwrap().initial_value().unwrap(), Value::Decimal { unscaled: 10, scale: 2 });
    assert_eq!(table.columns_at(1).unwrap().len(), 4);
    let squeeze = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(serde_json::to_value(&table).unwrap(), squeeze(stored), "and is what is written");

    // What a later version may leave out, and what it may add.
    let sparse = r#"{"table_id":["a","b"],"table_no":1,"table_type":"view","columns":[],"schema_version":1,"next_column_id":1,
        "created_at_ms":0,"something_new":[1,2,3]}"#;
    assert!(serde_json::from_str::<TableDefinition>(sparse).is_ok());
}

#[test]
fn default_functions_by_name() {
    for function in DefaultFunction::ALL {
        assert_eq!(DefaultFunction::parse(&function.as_str().to_lowercase()).unwrap(), function);
        assert_eq!(serde_json::to_value(function).unwrap(), function.as_str());
    }
    assert_eq!(DefaultFunction::parse("current_timestamp").unwrap(), DefaultFunction::Now);
    assert_eq!(DefaultFunction::parse("random").expect_err("unknown").code(), ErrorCode::FunctionNotFound);
}
