//! Writing a batch in one transaction.
//!
//! A commit of one row waits for a handful of calls to the browser, so nothing here is made anew that can be kept: names of
//! stores, options, and the two handlers for the end of every transaction. Invariant: who waits for a transaction is told
//! once, in the event that ends it. `complete` and `abort` are the only ends: a request that fails aborts its transaction.

use std::cell::{Cell, RefCell};

use futures::channel::oneshot;
use js_sys::{Array, Object, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use web_sys::{IdbDatabase, IdbObjectStore, IdbTransaction};

use super::failure::Failure;
use super::read;
use crate::error::KalamError;
use crate::platform::tasks;
use crate::storage::{Durability, KeyRange, Partition, WriteBatch, WriteOp};

#[wasm_bindgen]
extern "C" {
    /// `IDBDatabase` with the options of `transaction()`, and its text as values that are kept.
    type Database;
    #[wasm_bindgen(method, catch)]
    fn transaction(
        this: &Database,
        stores: &JsValue,
        mode: &JsValue,
        options: &JsValue,
    ) -> Result<IdbTransaction, JsValue>;

    type Transaction;
    #[wasm_bindgen(method, catch, js_name = objectStore)]
    fn object_store(this: &Transaction, name: &JsValue) -> Result<IdbObjectStore, JsValue>;
    #[wasm_bindgen(method, getter)]
    fn durability(this: &Transaction) -> JsValue;
    #[wasm_bindgen(method, catch)]
    fn commit(this: &Transaction) -> Result<(), JsValue>;

    type EndEvent;
    #[wasm_bindgen(method, getter)]
    fn target(this: &EndEvent) -> web_sys::EventTarget;
}

/// What JavaScript is given with every transaction.
struct Kept {
    stores: [JsValue; Partition::ALL.len()],
    readwrite: JsValue,
    relaxed: JsValue,
    strict: JsValue,
    on_complete: Closure<dyn FnMut(EndEvent)>,
    on_abort: Closure<dyn FnMut(EndEvent)>,
}

impl Kept {
    fn new() -> Self {
        let options = |durability: &str| {
            let options = Object::new();
            // A plain object takes any property.
            let _ = Reflect::set(&options, &"durability".into(), &durability.into());
            options.into()
        };
        let on_end = |completed| Closure::<dyn FnMut(EndEvent)>::new(move |event| ended(&event, completed));
        Self {
            stores: Partition::ALL.map(|partition| partition.name().into()),
            readwrite: "readwrite".into(),
            relaxed: options("relaxed"),
            strict: options("strict"),
            on_complete: on_end(true),
            on_abort: on_end(false),
        }
    }
}

thread_local! {
    static KEPT: Kept = Kept::new();
    /// Transactions that have not ended.
    static OPEN: RefCell<Vec<(IdbTransaction, oneshot::Sender<bool>)>> = const { RefCell::new(Vec::new()) };
}

/// Tells who waits for a transaction whether it was completed.
fn ended(event: &EndEvent, completed: bool) {
    let target = event.target();
    let found = OPEN.with_borrow_mut(|open| {
        let place = open.iter().position(|(transaction, _)| **transaction == target)?;
        Some(open.swap_remove(place))
    });
    if let Some((_, waiting)) = found {
        tasks::in_event(|| {
            // They may be gone.
            let _ = waiting.send(completed);
        });
    }
}

/// Writes a batch in one transaction and waits until it is complete or rolled back. `writing` tells that there was one:
/// from then on a lost connection leaves the caller in doubt.
pub(super) async fn commit(
    database: &IdbDatabase,
    batch: &WriteBatch,
    durability: Durability,
    writing: &Cell<bool>,
) -> Result<Durability, Failure> {
    let is_strict = durability == Durability::Strict;
    let Some((transaction, end)) = begin(database, batch, is_strict)? else {
        return Ok(if is_strict { Durability::Strict } else { Durability::Relaxed });
    };
    writing.set(true);
    let bound: &Transaction = transaction.unchecked_ref();
    if let Err(failure) = request_all(&transaction, batch).and_then(|()| Ok(bound.commit()?)) {
        // If it was aborted already, that is as good. Nothing may be left to commit by itself later.
        if transaction.abort().is_ok() {
            let _ = end.await;
        }
        return Err(failure);
    }
    // A browser that does not know the option ignores it: then nothing stricter than relaxed can be promised.
    let is_promised =
        || transaction.unchecked_ref::<Transaction>().durability().as_string().as_deref() == Some("strict");
    let reached = if is_strict && is_promised() { Durability::Strict } else { Durability::Relaxed };
    match end.await {
        Ok(true) => Ok(reached),
        // The transaction knows why it was aborted.
        Ok(false) => Err(match transaction.error() {
            Some(error) => error.into(),
            None => Failure::thrown("Error", "the transaction was aborted"),
        }),
        Err(oneshot::Canceled) => Err(KalamError::internal("an IndexedDB transaction was forgotten").into()),
    }
}

/// A transaction over the stores that a batch touches, with its end; nothing if it touches none.
fn begin(
    database: &IdbDatabase,
    batch: &WriteBatch,
    is_strict: bool,
) -> Result<Option<(IdbTransaction, oneshot::Receiver<bool>)>, Failure> {
    let is_touched = |partition: &Partition| batch.ops().iter().any(|op| partition_of(op) == *partition);
    let mut touched = Partition::ALL.into_iter().filter(is_touched);
    let Some(first) = touched.next() else { return Ok(None) };
    KEPT.with(|kept| {
        let name = |partition: Partition| &kept.stores[partition as usize];
        let stores = match touched.next() {
            None => name(first).clone(),
            Some(second) => [first, second].into_iter().chain(touched).map(name).collect::<Array>().into(),
        };
        let options = if is_strict { &kept.strict } else { &kept.relaxed };
        let transaction = database.unchecked_ref::<Database>().transaction(&stores, &kept.readwrite, options)?;
        let (sender, receiver) = oneshot::channel();
        transaction.set_oncomplete(Some(kept.on_complete.as_ref().unchecked_ref()));
        transaction.set_onabort(Some(kept.on_abort.as_ref().unchecked_ref()));
        OPEN.with_borrow_mut(|open| open.push((transaction.clone(), sender)));
        Ok(Some((transaction, receiver)))
    })
}

fn partition_of(op: &WriteOp) -> Partition {
    match op {
        WriteOp::Put { partition, .. } | WriteOp::Delete { partition, .. } | WriteOp::DeleteRange { partition, .. } => {
            *partition
        }
    }
}

/// Makes every request of a batch, in order, without waiting for any: a request that fails fails the transaction.
fn request_all(transaction: &IdbTransaction, batch: &WriteBatch) -> Result<(), Failure> {
    let mut stores: [Option<IdbObjectStore>; Partition::ALL.len()] = Default::default();
    for op in batch.ops() {
        let place = partition_of(op) as usize;
        let store = match &mut stores[place] {
            Some(store) => store,
            none => {
                let name = KEPT.with(|kept| kept.stores[place].clone());
                none.insert(transaction.unchecked_ref::<Transaction>().object_store(&name)?)
            }
        };
        match op {
            // One copy out of wasm memory each.
            WriteOp::Put { key, value, .. } => {
                store.put_with_key(&Uint8Array::from(&value[..]), &Uint8Array::from(&key[..]))?
            }
            WriteOp::Delete { key, .. } => store.delete(&Uint8Array::from(&key[..]))?,
            WriteOp::DeleteRange { range, .. } if range.is_empty() => continue,
            WriteOp::DeleteRange { range, .. } if *range == KeyRange::all() => store.clear()?,
            WriteOp::DeleteRange { range, .. } => store.delete(&read::key_range(range)?)?,
        };
    }
    Ok(())
}
