use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::{ArrayRef, Int32Array, Int64Array};
use futures::executor::block_on;

use super::*;
use crate::schema::{NewColumn, NewIndex, Role, TableId, TableOptions, TableType};
use crate::tables::cold::Ended;
use crate::tables::hot::{HotTable, NewRows, OnLiveKey};
use crate::tables::index_walk::IndexWalk;
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

/// The positions that a walk gives in all of its steps, which `between` comes after each of.
fn walked(hot: &Arc<HotTable>, access: IndexAccess, mut between: impl FnMut(usize) -> Result<()>) -> Result<Vec<u64>> {
    let wanted = Request { snapshot: 1_000_000, ..request(false) };
    let (mut walk, _) = IndexWalk::begin(hot, &Arc::new(access), &wanted, Seq::MIN)?;
    let (mut positions, mut steps) = (Vec::new(), 0);
    while let Some(rows) = walk.step()? {
        positions.extend(rows.iter().map(|(chunk, row)| chunk.base + *row as u64));
        steps += 1;
        between(steps)?;
    }
    Ok(positions)
}

#[test]
fn a_walk_gives_what_the_index_has_at_its_moment_whatever_comes_between_its_steps() -> Result<()> {
    let table = definition()?;
    let index = &table.indexes[0];
    // 143 rows of each of seven values, so steps end in the midst of one.
    let fresh = || hot(&table, 0..1001).map(Arc::new);
    let backward = |mut access: IndexAccess| {
        access.order = Some(true);
        access
    };
    let value = |n: i32| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let column: ArrayRef = Arc::new(Int32Array::from(vec![n]));
        IndexCodec::new(&table, index)?.encode_column(0, &column, 0, &mut bytes)?;
        Ok(bytes)
    };
    let parts = || -> Result<IndexAccess> { Ok(IndexAccess::of_values(index, vec![value(5)?, value(2)?]).forward()) };
    for (access, rows) in [
        (IndexAccess::whole(index).forward(), 1001),
        (backward(IndexAccess::whole(index)), 1001),
        (parts()?, 286),
        (backward(parts()?), 286),
    ] {
        let still = fresh()?;
        let wanted = walked(&still, access.clone(), |_| Ok(()))?;
        let values: Vec<u64> = wanted.iter().map(|p| if p % 7 == 0 { 7 } else { p % 7 }).collect();
        assert!(if access.is_backward() { values.is_sorted_by(|a, b| a >= b) } else { values.is_sorted() });
        assert_eq!(wanted.len(), rows);

        // Rows that come are later, rows that end were there, and what is built is thrown away and built anew.
        for built_anew in [false, true] {
            let hot = fresh()?;
            let mut found = walked(&hot, access.clone(), |step| {
                let from = 10_000 * step as i64;
                let later = NewRows {
                    seqs: Int64Array::from_iter_values(2_000_000..2_000_010),
                    ..self::rows(&table, from..from + 10)
                };
                let ended = Ended { deleted: vec![900 + step as u64], deleted_at: 2_000_000, ..Ended::default() };
                hot.apply(&[later], &ended, OnLiveKey::Fail)?;
                if step == 2 {
                    hot.state.write().indexes.forget();
                    if built_anew {
                        block_on(hot.build_index(index.index_id, &request(false)))?;
                    }
                }
                Ok(())
            })?;
            // Equal values come in any order where the rest is searched for.
            let mut wanted = wanted.clone();
            assert_eq!(found[..64], wanted[..64]);
            found.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(found, wanted);
        }
    }
    Ok(())
}
