use super::super::definition::{DefaultFunction, TableType};
use super::*;
use proptest::prelude::*;

fn start() -> TableDefinition {
    let columns = vec![
        NewColumn::new("id", KalamDataType::Int),
        NewColumn::new("name", KalamDataType::Text),
        NewColumn { default: ColumnDefault::Literal("1.5".into()), ..NewColumn::new("price", KalamDataType::Double) },
    ];
    let key = ["id".to_owned()];
    TableDefinition::new(
        TableId::new("shop", "items"),
        1,
        TableType::Shared,
        columns,
        &key,
        TableOptions::default(),
        1,
        "ann",
    )
    .unwrap()
}

fn ids(table: &TableDefinition) -> Vec<(u32, u32, &str)> {
    table.columns_in_order().map(|c| (c.column_id, c.ordinal_position, c.name.as_str())).collect()
}

#[test]
fn ids_and_places_are_never_given_again() {
    let t = start().drop_column("name", 2, "bob").unwrap();
    assert_eq!(ids(&t), [(1, 1, "id"), (3, 3, "price")]);
    let t = t.add_column(NewColumn::new("name", KalamDataType::Int), None, 3, "bob").unwrap();
    assert_eq!(ids(&t), [(1, 1, "id"), (3, 3, "price"), (4, 4, "name")]);
    let t = t
        .drop_column("name", 4, "bob")
        .unwrap()
        .add_column(NewColumn::new("x", KalamDataType::Int), None, 5, "")
        .unwrap();
    assert_eq!(ids(&t), [(1, 1, "id"), (3, 3, "price"), (5, 5, "x")]);
    assert_eq!(t.schema_version, 5);
    assert_eq!(t.history.iter().map(|v| v.version).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!((t.history[1].at_ms, t.history[1].by.as_str()), (2, "bob"));
    assert_eq!(t.history[1].change.describe(), "dropped column 'name' TEXT");
}

#[test]
fn old_rows_show_the_default_of_their_time() {
    let add = |default, initial: Option<Value>| {
        let column = NewColumn { default, ..NewColumn::new("n", KalamDataType::BigInt) };
        start().add_column(column, initial.as_ref(), 2, "")
    };
    let t = add(ColumnDefault::Literal(" 5".into()), None).unwrap();
    assert_eq!(t.column("n").unwrap().initial_value().unwrap(), Value::BigInt(5));
    assert_eq!(t.column("n").unwrap().default, ColumnDefault::Literal("5".into()));
    let t = t.set_default("n", ColumnDefault::Literal("6".into()), 3, "").unwrap();
    assert_eq!(t.column("n").unwrap().initial_value().unwrap(), Value::BigInt(5));
    let t = t.alter_type("n", KalamDataType::Text, 4, "").unwrap();
    assert_eq!(t.column("n").unwrap().initial_value().unwrap(), Value::Text("5".into()));
    let t = add(ColumnDefault::Function(DefaultFunction::SnowflakeId), Some(Value::BigInt(9))).unwrap();
    assert_eq!(t.column("n").unwrap().initial_value().unwrap(), Value::BigInt(9));
    assert_eq!(add(ColumnDefault::None, None).unwrap().column("n").unwrap().initial_value().unwrap(), Value::Null);
    assert!(add(ColumnDefault::None, Some(Value::Text("x".into()))).is_err());
}

#[test]
fn a_type_changes_with_its_default_and_remembers_the_way() {
    let t = start().alter_type("price", KalamDataType::Int, 2, "").unwrap();
    assert_eq!(t.column("price").unwrap().default, ColumnDefault::Literal("2".into()));
    let t = t.rename_column("price", "cost", 3, "").unwrap().alter_type("cost", KalamDataType::Text, 4, "").unwrap();
    use KalamDataType as T;
    assert_eq!(t.type_path(3, 1), [T::Double, T::Int, T::Text]);
    assert_eq!(t.type_path(3, 2), [T::Int, T::Text]);
    assert_eq!(t.type_path(3, 4), [T::Text]);
    assert_eq!(t.columns_at(1).unwrap(), start().columns);
    let t = t.add_column(NewColumn::new("x", T::Int), None, 5, "").unwrap();
    assert_eq!(t.type_path(4, 1), []);
    assert_eq!(t.type_path(4, 5), [T::Int]);
    assert!(t.columns_at(6).is_err() && t.columns_at(0).is_err());
}

#[test]
fn what_may_not_change_is_refused() {
    use KalamDataType as T;
    let t = start();
    let id = |name: &str| TableId::new("shop", name);
    let function = ColumnDefault::Function(DefaultFunction::UuidV7);
    let cases = [
        (t.drop_column("id", 2, ""), ErrorCode::InvalidDefinition),
        (t.drop_column("nope", 2, ""), ErrorCode::ColumnNotFound),
        (t.rename_column("name", "price", 2, ""), ErrorCode::DuplicateColumn),
        (t.rename_column("name", "_rowid", 2, ""), ErrorCode::InvalidName),
        (t.rename_table(id("items"), 2, ""), ErrorCode::TableExists),
        (t.rename_table(id(""), 2, ""), ErrorCode::InvalidName),
        (t.alter_type("id", T::Json, 2, ""), ErrorCode::DatatypeMismatch),
        (t.alter_type("price", T::Boolean, 2, ""), ErrorCode::DatatypeMismatch),
        (t.set_nullable("id", true, 2, ""), ErrorCode::InvalidDefinition),
        (t.set_default("price", ColumnDefault::Literal("cheap".into()), 2, ""), ErrorCode::InvalidText),
        (t.set_default("price", function, 2, ""), ErrorCode::DatatypeMismatch),
        (
            t.set_options(TableOptions { ttl_seconds: Some(5), ..TableOptions::default() }, 2, ""),
            ErrorCode::InvalidOption,
        ),
        (t.add_column(NewColumn::new("name", T::Int), None, 2, ""), ErrorCode::DuplicateColumn),
    ];
    for (n, (result, code)) in cases.into_iter().enumerate() {
        assert_eq!(result.expect_err("refused").code(), code, "case {n}");
    }
    let one = t.drop_column("name", 2, "").unwrap().drop_column("price", 3, "").unwrap();
    assert_eq!(one.drop_column("id", 4, "").expect_err("the last").code(), ErrorCode::InvalidDefinition);
}

#[test]
fn options_and_views_have_a_history_too() {
    let options = TableOptions { storage_id: Some("opfs".into()), ..TableOptions::default() };
    let t = start().set_options(options, 2, "").unwrap();
    assert_eq!(t.storage_id(), "opfs");
    assert_eq!(t.history[1].change.describe(), "set STORAGE_ID = 'opfs'");
    let t = t.set_options(TableOptions::default(), 3, "").unwrap();
    assert_eq!(t.history[2].change.describe(), "set STORAGE_ID = default");

    let view = |sql: &str| ViewDefinition {
        sql: sql.into(),
        namespace: "shop".into(),
        dependencies: vec![TableId::new("shop", "items")],
    };
    let columns = || vec![NewColumn::new("_seq", KalamDataType::BigInt)];
    let v = TableDefinition::new_view(TableId::new("shop", "v"), 2, columns(), view("SELECT 1"), 1, "").unwrap();
    let w = v.replace_view(columns(), view("SELECT 2"), 2, "").unwrap();
    assert_eq!(
        (w.schema_version, w.columns[0].column_id, w.view.as_ref().map(|v| v.sql.as_str())),
        (2, 2, Some("SELECT 2"))
    );
    assert_eq!(w.columns_at(1).unwrap(), v.columns);
    assert_eq!(
        t.replace_view(columns(), view("SELECT 2"), 2, "").expect_err("a table").code(),
        ErrorCode::WrongObjectType
    );
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Drop(u8),
    Rename(u8, u8),
    Type(u8, KalamDataType),
    Nullable(u8, bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<u8>().prop_map(Step::Add),
        2 => any::<u8>().prop_map(Step::Drop),
        1 => any::<(u8, u8)>().prop_map(|(a, b)| Step::Rename(a, b)),
        1 => (any::<u8>(), crate::types::testing::any_type()).prop_map(|(a, ty)| Step::Type(a, ty)),
        1 => any::<(u8, bool)>().prop_map(|(a, b)| Step::Nullable(a, b)),
    ]
}

proptest! {
    #[test]
    fn every_version_can_be_had_again(steps in prop::collection::vec(any_step(), 0..60)) {
        let mut table = start();
        let mut versions = vec![table.columns.clone()];
        for step in steps {
            let pick = |n: u8| table.columns[n as usize % table.columns.len()].name.clone();
            let next = match step {
                Step::Add(n) => table.add_column(NewColumn::new(format!("c{n}"), KalamDataType::Int), None, 2, "x"),
                Step::Drop(n) => table.drop_column(&pick(n), 2, "x"),
                Step::Rename(n, to) => table.rename_column(&pick(n), &format!("r{to}"), 2, "x"),
                Step::Type(n, ty) => table.alter_type(&pick(n), ty, 2, "x"),
                Step::Nullable(n, nullable) => table.set_nullable(&pick(n), nullable, 2, "x"),
            };
            if let Ok(next) = next {
                table = next;
                versions.push(table.columns.clone());
            }
        }
        prop_assert_eq!(table.schema_version as usize, versions.len());
        prop_assert_eq!(table.history.len(), versions.len());
        for (n, columns) in versions.iter().enumerate() {
            prop_assert_eq!(&table.columns_at(n as u32 + 1)?, columns);
        }
        let all_ids = table.history.iter().filter_map(|v| match &v.change {
            super::super::SchemaChange::AddColumn { column } => Some(column.column_id),
            _ => None,
        });
        let all_ids: Vec<u32> = (1..=3).chain(all_ids).collect();
        prop_assert!(all_ids.windows(2).all(|w| w[0] < w[1]), "ids grow: {:?}", all_ids);
        prop_assert!(table.columns.windows(2).all(|w| w[0].ordinal_position < w[1].ordinal_position));
        let json = serde_json::to_vec(&table).unwrap();
        prop_assert_eq!(serde_json::from_slice::<TableDefinition>(&json).unwrap(), table);
    }
}
