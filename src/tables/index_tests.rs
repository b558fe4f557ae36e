use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::{ArrayRef, Int32Array, Int64Array};
use futures::executor::block_on;

use super::*;
use crate::schema::{NewColumn, NewIndex, Role, TableId, TableOptions, TableType};
use crate::tables::cold::Ended;
use crate::tables::hot::{HotTable, NewRows, OnLiveKey};
use crate::tables::key_spec::KeySpec;
use crate::types::KalamDataType;

/// `t (id BIGINT PRIMARY KEY, a INT)` with an index on `a`.
fn definition() -> Result<TableDefinition> {
    let columns = vec![NewColumn::new("id", KalamDataType::BigInt), NewColumn::new("a", KalamDataType::Int)];
    let key = vec!["id".to_owned()];
    let id = TableId::new("shop", "t");
    let table = TableDefinition::new(id, 1, TableType::Shared, columns, &key, TableOptions::default(), 1, "me")?;
    let index = NewIndex { name: "t_a".into(), columns: vec![("a".into(), false)], unique: false, constraint: false };
    table.add_index(index, 2, "me")
}

fn request(cancelled: bool) -> Request {
    Request {
        user: "me".into(),
        role: Role::Dba,
        now_ms: 0,
        snapshot: i64::MAX - 1,
        pin: None,
        cancelled: Arc::new(AtomicBool::new(cancelled)),
        deadline: None,
        transaction: None,
    }
}

fn rows(table: &TableDefinition, ids: std::ops::Range<i64>) -> NewRows {
    let a = Int32Array::from_iter(ids.clone().map(|id| (id % 7 > 0).then_some((id % 7) as i32)));
    NewRows {
        schema_version: table.schema_version,
        column_ids: table.columns_in_order().map(|c| c.column_id).collect(),
        columns: vec![Arc::new(Int64Array::from_iter_values(ids.clone())) as ArrayRef, Arc::new(a)],
        seqs: Int64Array::from_iter_values(ids.map(|id| id + 1)),
        row_ids: None,
    }
}

fn hot(table: &TableDefinition, ids: std::ops::Range<i64>) -> Result<HotTable> {
    let hot = HotTable::new(KeySpec::new(table)?);
    hot.use_indexes_of(table)?;
    hot.apply(&[rows(table, ids)], &Ended::default(), OnLiveKey::Fail)?;
    Ok(hot)
}

fn found(hot: &HotTable, table: &TableDefinition) -> Result<Vec<u64>> {
    let access = IndexAccess::whole(&table.indexes[0]);
    let (rows, _) = hot.index_rows(&access, i64::MAX - 1, Seq::MIN, usize::MAX)?;
    Ok(rows.iter().map(IndexedRow::position).collect())
}

#[test]
fn a_request_that_is_cancelled_builds_no_index_and_the_next_one_does() -> Result<()> {
    let table = definition()?;
    let (hot, id) = (hot(&table, 0..10_000)?, table.indexes[0].index_id);
    let is_built = || hot.state.read().indexes.is_built(id);
    let error = block_on(hot.build_index(id, &request(true))).expect_err("cancelled");
    assert_eq!((error.code(), is_built()), (ErrorCode::Cancelled, false));
    block_on(hot.build_index(id, &request(false)))?;
    assert!(is_built());
    assert_eq!(found(&hot, &table)?.len(), 10_000);
    Ok(())
}

#[test]
fn what_writers_do_while_an_index_is_built_is_in_it() -> Result<()> {
    let table = definition()?;
    let (hot, id) = (hot(&table, 0..100)?, table.indexes[0].index_id);
    let (mut building, chunks, next) = {
        let state = hot.state.read();
        (state.indexes.begin(id).expect("it is not built"), Arc::clone(&state.chunks), state.next)
    };
    let mut turns = Turns::begin();
    for chunk in chunks.iter() {
        block_on(building.add_for(chunk, &request(false), &mut turns))?;
    }
    // New rows, among them new versions of old ones.
    let ended = Ended { deleted: vec![3, 50], deleted_at: 500, ..Ended::default() };
    hot.apply(&[rows(&table, 500..600)], &ended, OnLiveKey::Fail)?;
    let chunks = hot.chunks();
    assert!(hot.state.write().indexes.finish(building, &chunks, next)?);
    assert_eq!(found(&hot, &table)?.len(), 198);

    // The same rows as of an index that is built at once.
    let whole = found(&hot, &table)?;
    hot.state.write().indexes.forget();
    assert_eq!(found(&hot, &table)?, whole);
    Ok(())
}

#[test]
fn what_was_built_is_refused_when_rows_were_taken_back() -> Result<()> {
    let table = definition()?;
    let (hot, id) = (hot(&table, 0..100)?, table.indexes[0].index_id);
    let applied = hot.apply(&[rows(&table, 500..510)], &Ended::default(), OnLiveKey::Fail)?;
    let (mut building, chunks, next) = {
        let state = hot.state.read();
        (state.indexes.begin(id).expect("it is not built"), Arc::clone(&state.chunks), state.next)
    };
    for chunk in chunks.iter() {
        block_on(building.add_for(chunk, &request(false), &mut Turns::begin()))?;
    }
    hot.revert(applied)?;
    hot.apply(&[rows(&table, 700..705)], &Ended::default(), OnLiveKey::Fail)?;
    let chunks = hot.chunks();
    assert!(!hot.state.write().indexes.finish(building, &chunks, next)?);
    assert_eq!(found(&hot, &table)?.len(), 105);
    Ok(())
}
