//! Reads: one read-only transaction each, so a scan sees one moment.
//!
//! Invariant: keys come back in byte order because IndexedDB orders binary keys by their unsigned bytes, a shorter
//! one before any that it is a prefix of: the order of `[u8]`. Every value crosses into wasm memory in one copy.
//!
//! A scan asks for all keys and all values of a range at once (records in one request where the browser has
//! `getAllRecords`), never for one record after another. The last `n` records of a range are found without it too:
//! a key cursor jumps `n - 1` keys back from the end, and what lies above it is read forward.

use bytes::Bytes;
use futures::channel::oneshot;
use indexed_db_futures::database::Database;
use indexed_db_futures::internals::SystemRepr;
use indexed_db_futures::prelude::*;
use indexed_db_futures::transaction::{Transaction, TransactionMode};
use indexed_db_futures::typed_array::{Uint8Array as Bytes8, Uint8ArraySlice};
use js_sys::{Array, Object, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use web_sys::{IdbCursor, IdbCursorDirection, IdbKeyRange, IdbObjectStore, IdbRequest, IdbRequestReadyState};

use super::failure::Failure;
use crate::error::{ErrorCode, KalamError};
use crate::storage::{KeyRange, KeyValue, Partition, ScanOptions};

#[wasm_bindgen]
extern "C" {
    /// `IDBObjectStore` with what web-sys does not know yet.
    #[wasm_bindgen(extends = IdbObjectStore, js_name = IDBObjectStore)]
    type RecordStore;
    #[wasm_bindgen(method, catch, js_name = getAllRecords)]
    fn get_all_records(this: &RecordStore, options: &Object) -> Result<IdbRequest, JsValue>;

    /// `IDBRecord`.
    type Record;
    #[wasm_bindgen(method, getter)]
    fn key(this: &Record) -> JsValue;
    #[wasm_bindgen(method, getter)]
    fn value(this: &Record) -> JsValue;
}

/// The value of a key.
pub(super) async fn get(database: &Database, partition: Partition, key: &[u8]) -> Result<Option<Bytes>, Failure> {
    let transaction = begin(database, partition)?;
    let store = transaction.object_store(partition.name())?;
    let value: Option<Bytes8> = store.get(Uint8ArraySlice::new(key)).primitive()?.await?;
    Ok(value.map(|value| Bytes::from(Vec::from(value))))
}

/// The records of a range; the range is not empty.
pub(super) async fn scan(
    database: &Database,
    partition: Partition,
    range: &KeyRange,
    options: ScanOptions,
) -> Result<Vec<KeyValue>, Failure> {
    // IndexedDB takes 0 as "no limit", and a number above u32 is none.
    let limit = match options.limit {
        Some(0) => return Ok(Vec::new()),
        limit => limit.and_then(|limit| u32::try_from(limit).ok()),
    };
    let transaction = begin(database, partition)?;
    let store = transaction.object_store(partition.name())?;
    let store = store.as_sys();
    let query = key_range(range)?;
    if Reflect::has(store, &"getAllRecords".into()).unwrap_or(false) {
        return scan_records(store, &query, limit, options.reverse).await;
    }
    match (options.reverse, limit) {
        (false, limit) => scan_pairs(store, &query, limit).await,
        (true, None) => Ok(reversed(scan_pairs(store, &query, None).await?)),
        (true, Some(limit)) => {
            let range = match last_keys(store, &query, limit).await? {
                LastKeys::None => return Ok(Vec::new()),
                LastKeys::From(from) => key_range(&KeyRange { from: Some(from), to: range.to.clone() })?,
                LastKeys::All => query,
            };
            Ok(reversed(scan_pairs(store, &range, Some(limit)).await?))
        }
    }
}

/// Number of records over all partitions.
pub(super) async fn count(database: &Database) -> Result<u64, Failure> {
    let transaction =
        database.transaction(Partition::ALL.map(Partition::name)).with_mode(TransactionMode::Readonly).build()?;
    let mut counts = Vec::with_capacity(Partition::ALL.len());
    for partition in Partition::ALL {
        counts.push(transaction.object_store(partition.name())?.count().primitive()?);
    }
    let mut records = 0;
    for count in counts {
        records += u64::from(count.await?);
    }
    Ok(records)
}

fn begin(database: &Database, partition: Partition) -> Result<Transaction<'_>, Failure> {
    Ok(database.transaction(partition.name()).with_mode(TransactionMode::Readonly).build()?)
}

/// The `IDBKeyRange` of a range that is not empty; `undefined` for every key.
pub(super) fn key_range(range: &KeyRange) -> Result<JsValue, JsValue> {
    let key = |bytes: &[u8]| JsValue::from(Uint8Array::from(bytes));
    let range = match (range.from.as_deref(), range.to.as_deref()) {
        (None, None) => return Ok(JsValue::UNDEFINED),
        (Some(from), None) => IdbKeyRange::lower_bound_with_open(&key(from), false)?,
        (None, Some(to)) => IdbKeyRange::upper_bound_with_open(&key(to), true)?,
        (Some(from), Some(to)) => IdbKeyRange::bound_with_lower_open_and_upper_open(&key(from), &key(to), false, true)?,
    };
    Ok(range.into())
}

/// Records by `getAllRecords`: one request, either direction.
async fn scan_records(
    store: &IdbObjectStore,
    query: &JsValue,
    limit: Option<u32>,
    reverse: bool,
) -> Result<Vec<KeyValue>, Failure> {
    let options = Object::new();
    Reflect::set(&options, &"query".into(), query)?;
    Reflect::set(&options, &"direction".into(), &if reverse { "prev" } else { "next" }.into())?;
    if let Some(limit) = limit {
        Reflect::set(&options, &"count".into(), &limit.into())?;
    }
    let request = store.unchecked_ref::<RecordStore>().get_all_records(&options)?;
    let records: Array = array(result(&request).await?)?;
    let mut out = Vec::with_capacity(records.length() as usize);
    for record in records.iter() {
        let record: Record = record.unchecked_into();
        out.push(key_value(&record.key(), record.value())?);
    }
    Ok(out)
}

/// Records in key order by `getAllKeys` and `getAll` of one transaction, which see the same moment.
async fn scan_pairs(store: &IdbObjectStore, query: &JsValue, limit: Option<u32>) -> Result<Vec<KeyValue>, Failure> {
    let limit = limit.unwrap_or(0);
    let keys = store.get_all_keys_with_key_and_limit(query, limit)?;
    let values = store.get_all_with_key_and_limit(query, limit)?;
    let values = array(result(&values).await?)?;
    let keys = array(result(&keys).await?)?;
    if keys.length() != values.length() {
        return Err(KalamError::internal(format_args!(
            "IndexedDB gave {} keys and {} values for one range",
            keys.length(),
            values.length()
        ))
        .into());
    }
    let mut out = Vec::with_capacity(keys.length() as usize);
    for (key, value) in keys.iter().zip(values.iter()) {
        out.push(key_value(&key, value)?);
    }
    Ok(out)
}

fn reversed(mut records: Vec<KeyValue>) -> Vec<KeyValue> {
    records.reverse();
    records
}

/// Where the last records of a range begin.
enum LastKeys {
    /// There are none.
    None,
    /// At this key.
    From(Vec<u8>),
    /// There are at most so many: all of them.
    All,
}

/// Finds the `limit`-th key from the end of a range; `limit` is not 0.
async fn last_keys(store: &IdbObjectStore, query: &JsValue, limit: u32) -> Result<LastKeys, Failure> {
    let request = store.open_key_cursor_with_range_and_direction(query, IdbCursorDirection::Prev)?;
    let Some(cursor) = cursor(result(&request).await?) else {
        return Ok(LastKeys::None);
    };
    if limit == 1 {
        return Ok(LastKeys::From(bytes_of(&cursor.key()?)));
    }
    cursor.advance(limit - 1)?;
    // The same request reports the next position.
    Ok(match self::cursor(result(&request).await?) {
        Some(cursor) => LastKeys::From(bytes_of(&cursor.key()?)),
        None => LastKeys::All,
    })
}

/// A cursor of a request's result, which is `null` at the end.
fn cursor(result: JsValue) -> Option<IdbCursor> {
    (!result.is_null() && !result.is_undefined()).then(|| result.unchecked_into())
}

fn array(value: JsValue) -> Result<Array, Failure> {
    value.dyn_into().map_err(|_| KalamError::internal("IndexedDB gave no array for a range").into())
}

/// The bytes of a key: IndexedDB gives binary keys back as an `ArrayBuffer`.
fn bytes_of(key: &JsValue) -> Vec<u8> {
    Uint8Array::new(key).to_vec()
}

fn key_value(key: &JsValue, value: JsValue) -> Result<KeyValue, Failure> {
    let key = bytes_of(key);
    match value.dyn_into::<Uint8Array>() {
        Ok(value) => Ok((key, Bytes::from(value.to_vec()))),
        Err(_) => Err(KalamError::new(
            ErrorCode::DataCorrupted,
            format!("the record {} in IndexedDB is not binary", crate::storage::record::hex(&key)),
        )
        .with_hint("Another program wrote to this database.")
        .into()),
    }
}

/// Waits for a request. Its handlers are taken off again before the closure behind them goes.
async fn result(request: &IdbRequest) -> Result<JsValue, Failure> {
    if request.ready_state() != IdbRequestReadyState::Done {
        let (sender, done) = oneshot::channel::<()>();
        let mut sender = Some(sender);
        let on_done = Closure::<dyn FnMut()>::new(move || {
            if let Some(sender) = sender.take() {
                let _ = sender.send(());
            }
        });
        request.set_onsuccess(Some(on_done.as_ref().unchecked_ref()));
        request.set_onerror(Some(on_done.as_ref().unchecked_ref()));
        let ended = done.await;
        request.set_onsuccess(None);
        request.set_onerror(None);
        if ended.is_err() {
            return Err(KalamError::internal("an IndexedDB request ended without an event").into());
        }
    }
    match request.error()? {
        Some(exception) => Err(exception.into()),
        None => Ok(request.result()?),
    }
}
