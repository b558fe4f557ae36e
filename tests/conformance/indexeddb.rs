//! IndexedDB in the suite, and what only it has to show: lost connections, deletions from elsewhere, what the
//! browser throws, and browsers without `getAllRecords`.

use std::sync::Arc;

use futures::future::join_all;
use js_sys::{Function, Promise};
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::sql::{ExecuteOptions, Params};
use kalamdb::storage::indexeddb::{IndexedDbBackend, database_exists, delete_database};
use kalamdb::storage::{Durability, Partition, StorageBackend, WriteBatch, opfs};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use wasm_bindgen_test::wasm_bindgen_test;

use crate::conformance::{self, Backend, Harness, all, done, put_all};

const LOG: Partition = Partition::Log;

/// Databases in the browser.
pub struct IndexedDbHarness;

impl Harness for IndexedDbHarness {
    async fn open(&self, name: &str) -> Result<Backend> {
        Ok(Arc::new(IndexedDbBackend::open(name).await?))
    }

    async fn reopen(&self, name: &str, backend: Backend) -> Result<Backend> {
        backend.close().await?;
        self.open(name).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        delete_database(name).await
    }

    fn receipt(&self, asked: Durability) -> Durability {
        asked.max(Durability::Relaxed)
    }
}

/// Databases in the browser with their journals, where files can be written.
pub struct JournalHarness;

impl Harness for JournalHarness {
    async fn open(&self, name: &str) -> Result<Backend> {
        opfs::journaled(name, true).await
    }

    async fn reopen(&self, name: &str, backend: Backend) -> Result<Backend> {
        backend.close().await?;
        self.open(name).await
    }

    async fn delete(&self, name: &str) -> Result<()> {
        delete_database(name).await?;
        opfs::remove(name).await;
        Ok(())
    }

    fn receipt(&self, asked: Durability) -> Durability {
        asked.max(Durability::Relaxed)
    }
}

#[wasm_bindgen(inline_js = r#"
const original = {
    transaction: IDBDatabase.prototype.transaction,
    put: IDBObjectStore.prototype.put,
    commit: IDBTransaction.prototype.commit,
    getAllRecords: IDBObjectStore.prototype.getAllRecords,
    createSyncAccessHandle: FileSystemFileHandle.prototype.createSyncAccessHandle,
};
const open = new Set();
IDBDatabase.prototype.transaction = function (...args) {
    open.add(this);
    return original.transaction.apply(this, args);
};
// Closes the connections to a database that made a transaction since: as the browser does when its store is lost.
export function close_connections(name) {
    let closed = 0;
    for (const database of open) {
        if (database.name === name) { database.close(); open.delete(database); closed += 1; }
    }
    return closed;
}
// Makes `put` throw at the n-th call from now.
export function throw_at_put(n, name, message) {
    IDBObjectStore.prototype.put = function (...args) {
        if (--n === 0) { restore(); throw new DOMException(message, name); }
        return original.put.apply(this, args);
    };
}
// Makes the next transaction fail while it is committed.
export function fail_commit(name, message) {
    IDBTransaction.prototype.commit = function () {
        restore();
        Object.defineProperty(this, 'error', { value: new DOMException(message, name) });
        this.abort();
    };
}
// Makes the next commit() itself throw.
export function throw_at_commit() {
    IDBTransaction.prototype.commit = function () { restore(); throw new TypeError('commit is not a function'); };
}
// Lets nobody write to a file.
export function throw_at_handle() {
    FileSystemFileHandle.prototype.createSyncAccessHandle = async () => { throw new DOMException('', 'InvalidStateError'); };
}
export function without_get_all_records() { delete IDBObjectStore.prototype.getAllRecords; }
export function restore() {
    IDBObjectStore.prototype.put = original.put;
    IDBTransaction.prototype.commit = original.commit;
    FileSystemFileHandle.prototype.createSyncAccessHandle = original.createSyncAccessHandle;
    if (original.getAllRecords) IDBObjectStore.prototype.getAllRecords = original.getAllRecords;
}
export function has_get_all_records() { return 'getAllRecords' in IDBObjectStore.prototype; }
// A connection of somebody else that does not close when it should. Returns the function that closes it.
export function open_stubborn(name, version, stores) {
    return new Promise((resolve, reject) => {
        const request = indexedDB.open(name, version);
        request.onupgradeneeded = () => { for (const store of stores) request.result.createObjectStore(store); };
        request.onerror = () => reject(request.error);
        request.onsuccess = () => resolve(() => request.result.close());
    });
}
export function delete_raw(name) {
    return new Promise((resolve, reject) => {
        const request = indexedDB.deleteDatabase(name);
        request.onblocked = () => reject(new Error('blocked'));
        request.onerror = () => reject(request.error);
        request.onsuccess = () => resolve();
    });
}
"#)]
extern "C" {
    fn close_connections(name: &str) -> u32;
    fn throw_at_put(n: u32, name: &str, message: &str);
    fn fail_commit(name: &str, message: &str);
    fn throw_at_commit();
    fn throw_at_handle();
    fn without_get_all_records();
    fn has_get_all_records() -> bool;
    fn restore();
    fn open_stubborn(name: &str, version: u32, stores: Vec<String>) -> Promise;
    fn delete_raw(name: &str) -> Promise;
}

fn batch(key: &[u8]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for partition in Partition::ALL {
        batch.put(partition, key, key.to_vec());
    }
    batch
}

async fn records(backend: &Backend) -> u64 {
    backend.stats().await.expect("stats").records
}

/// A connection that was lost between two calls is opened again without the caller noticing; one that is lost in the
/// middle of a write is a retryable error, because it is not known whether the browser finished it.
#[wasm_bindgen_test]
async fn a_lost_connection_is_reopened() -> Result<()> {
    let name = "lost";
    let backend = IndexedDbHarness.fresh(name).await?;
    backend.commit(batch(b"1"), Durability::Relaxed).await?;
    assert!(close_connections("kalamdb:lost") > 0);
    backend.commit(batch(b"2"), Durability::Strict).await?;
    assert_eq!(all(&backend, LOG).await?.len(), 2);

    assert!(close_connections("kalamdb:lost") > 0);
    assert!(backend.get(LOG, b"1").await?.is_some());
    assert!(close_connections("kalamdb:lost") > 0);
    // Many calls at once share one new connection.
    for result in join_all((0..10).map(|_| backend.get(LOG, b"1"))).await {
        assert!(result?.is_some());
    }
    assert!(close_connections("kalamdb:lost") > 0);
    assert_eq!(all(&backend, LOG).await?.len(), 2);

    fail_commit("UnknownError", "Connection to Indexed Database server lost. Refresh the page to try again");
    let error = backend.commit(batch(b"3"), Durability::Relaxed).await.expect_err("lost while it was written");
    assert_eq!(error.code(), ErrorCode::StorageClosed, "{error}");
    assert!(error.code().retryable());
    backend.commit(batch(b"3"), Durability::Strict).await?;
    assert_eq!(all(&backend, LOG).await?.len(), 3);
    done(&IndexedDbHarness, name, backend).await
}

/// An engine goes on over lost connections: nobody opens it again.
#[wasm_bindgen_test]
async fn an_engine_outlives_its_connection() -> Result<()> {
    let name = "lost-engine";
    let backend = IndexedDbHarness.fresh(name).await?;
    let context = AppContext::open(Backend::clone(&backend), Config::default()).await?;
    let run = async |sql: &str| {
        context.executor().execute(context.session(), sql, &Params::default(), &ExecuteOptions::default()).await
    };
    run("CREATE TABLE t (k INT PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    assert!(close_connections("kalamdb:lost-engine") > 0);
    run("INSERT INTO t VALUES (2)").await?;
    fail_commit("UnknownError", "Internal error opening backing store for indexedDB.open.");
    let error = run("INSERT INTO t VALUES (3)").await.expect_err("the backing store is gone");
    assert_eq!(error.code(), ErrorCode::StorageClosed, "{error}");
    assert!(close_connections("kalamdb:lost-engine") > 0);
    run("INSERT INTO t VALUES (4)").await?;
    let rows = run("SELECT k FROM t").await?.pop().and_then(|r| r.rows).expect("rows");
    assert_eq!(rows.len(), 3);
    context.close().await?;
    delete_database(name).await
}

/// Whatever is thrown in the middle of a batch: nothing of it is there, and the code says what to do.
#[wasm_bindgen_test]
async fn exceptions_are_typed_and_leave_nothing() -> Result<()> {
    let name = "exceptions";
    let backend = IndexedDbHarness.fresh(name).await?;
    let cases = [
        ("QuotaExceededError", "Encountered full disk", ErrorCode::QuotaExceeded),
        ("UnknownError", "Internal error opening backing store for indexedDB.open.", ErrorCode::StorageClosed),
        ("InvalidStateError", "The database connection is closing.", ErrorCode::StorageClosed),
        ("UnknownError", "Something else", ErrorCode::StorageError),
        ("DataError", "Whatever", ErrorCode::StorageError),
    ];
    for (exception, message, code) in cases {
        for n in 1..=Partition::ALL.len() as u32 {
            throw_at_put(n, exception, message);
            let error = backend.commit(batch(b"k"), Durability::Relaxed).await.expect_err(exception);
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains(exception) && error.message().contains(message), "{error}");
            assert_eq!(records(&backend).await, 0, "{exception} at put {n}");
        }
        fail_commit(exception, message);
        let error = backend.commit(batch(b"k"), Durability::Strict).await.expect_err(exception);
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(records(&backend).await, 0, "{exception} at commit");
    }
    throw_at_commit();
    let error = backend.commit(batch(b"k"), Durability::Strict).await.expect_err("commit() throws");
    assert_eq!(error.code(), ErrorCode::StorageError, "{error}");
    assert_eq!(records(&backend).await, 0, "after commit() threw");
    backend.commit(batch(b"k"), Durability::Strict).await?;
    assert_eq!(records(&backend).await, 5);
    done(&IndexedDbHarness, name, backend).await
}

/// No more room: the message tells usage and quota in numbers.
#[wasm_bindgen_test]
async fn quota_errors_tell_usage_and_quota() -> Result<()> {
    let name = "quota";
    let backend = IndexedDbHarness.fresh(name).await?;
    let stats = backend.stats().await?;
    let quota = stats.quota.expect("a browser on localhost tells its quota");
    assert!(stats.usage.is_some());
    fail_commit("QuotaExceededError", "");
    let error = backend.commit(batch(b"k"), Durability::Relaxed).await.expect_err("no room");
    assert_eq!(error.code(), ErrorCode::QuotaExceeded);
    assert!(quota > 0 && !error.message().contains("unknown number"), "{error}");
    done(&IndexedDbHarness, name, backend).await
}

/// A deletion from elsewhere is not blocked by an open backend, which does not come back as an empty database.
#[wasm_bindgen_test]
async fn a_deletion_elsewhere_ends_the_backend() -> Result<()> {
    deletion_elsewhere(&IndexedDbHarness).await?;

    // The connection was lost and the database deleted before the next call: not made again either.
    let name = "deleted-elsewhere";
    let backend = IndexedDbHarness.fresh(name).await?;
    backend.commit(batch(b"1"), Durability::Relaxed).await?;
    assert!(close_connections("kalamdb:deleted-elsewhere") > 0);
    JsFuture::from(delete_raw("kalamdb:deleted-elsewhere")).await.expect("must not be blocked");
    for _ in 0..3 {
        let error = backend.commit(batch(b"2"), Durability::Relaxed).await.expect_err("the database is gone");
        assert_eq!(error.code(), ErrorCode::StorageClosed, "{error}");
    }
    assert!(!database_exists(name).await?, "the backend must not have made it again");
    backend.close().await
}

/// Also where a commit would go to a journal: nothing is acknowledged to a database that is gone.
#[wasm_bindgen_test]
async fn a_deletion_elsewhere_ends_the_journal() -> Result<()> {
    deletion_elsewhere(&JournalHarness).await
}

/// What waits in a journal, and what was written while its connection was away, is there for the next engine.
#[wasm_bindgen_test]
async fn a_journal_outlives_a_lost_connection() -> Result<()> {
    let name = "journal-lost";
    let backend = JournalHarness.fresh(name).await?;
    for key in [b"1", b"2"] {
        backend.commit(batch(key), Durability::Relaxed).await?;
    }
    assert!(close_connections("kalamdb:journal-lost") > 0);
    for key in [b"3", b"4", b"5"] {
        backend.commit(batch(key), Durability::Relaxed).await?;
    }
    // Let go without being closed, as by a worker that dies.
    drop(backend);
    let backend = JournalHarness.open(name).await?;
    assert_eq!(all(&backend, LOG).await?.len(), 5);
    done(&JournalHarness, name, backend).await
}

/// Each name has a journal of its own, also where names differ in the size of letters alone, and one that is too long for a
/// file has none.
#[wasm_bindgen_test]
async fn journals_of_odd_names() -> Result<()> {
    let long = "x".repeat(300);
    let names = ["names", "Names", "n/ames", "n_2fames", "..", "näm es", "%00", long.as_str()];
    let mut backends = Vec::new();
    for (name, key) in names.iter().zip(0u8..) {
        let backend = JournalHarness.fresh(name).await?;
        backend.commit(batch(&[key]), Durability::Relaxed).await?;
        backend.commit(batch(&[key, key]), Durability::Relaxed).await?;
        backends.push(backend);
    }
    drop(backends);
    for (name, key) in names.iter().zip(0u8..) {
        let backend = JournalHarness.open(name).await?;
        let found: Vec<Vec<u8>> = all(&backend, LOG).await?.into_iter().map(|(key, _)| key.to_vec()).collect();
        assert_eq!(found, [vec![key], vec![key, key]], "{name}");
        done(&JournalHarness, name, backend).await?;
    }
    Ok(())
}

/// The file has one owner: who opens a database whose last engine still ends waits for it, and finds everything.
#[wasm_bindgen_test]
async fn an_engine_that_still_ends_is_waited_for() -> Result<()> {
    let name = "still-ends";
    let old = JournalHarness.fresh(name).await?;
    for key in [b"1", b"2"] {
        old.commit(batch(key), Durability::Relaxed).await?;
    }
    let ending = async {
        kalamdb::platform::idle_for(100).await;
        old.commit(batch(b"3"), Durability::Relaxed).await?;
        old.close().await
    };
    let (opened, ended) = futures::future::join(JournalHarness.open(name), ending).await;
    ended?;
    let backend = opened?;
    assert_eq!(all(&backend, LOG).await?.len(), 3);
    done(&JournalHarness, name, backend).await
}

/// Who salvages reads what waits in a journal, and writes nothing.
#[wasm_bindgen_test]
async fn what_waits_is_salvaged_where_it_is() -> Result<()> {
    // A page writes to no file.
    if !js_sys::Reflect::has(&js_sys::global(), &"FileSystemSyncAccessHandle".into()).unwrap_or(false) {
        return Ok(());
    }
    let name = "salvaged";
    let backend = JournalHarness.fresh(name).await?;
    for key in [b"1", b"2", b"3"] {
        backend.commit(batch(key), Durability::Relaxed).await?;
    }
    drop(backend);
    let below = IndexedDbHarness.open(name).await?;
    assert_eq!(all(&below, LOG).await?.len(), 1);
    for _ in 0..2 {
        let backend = opfs::journaled(name, false).await?;
        assert_eq!(all(&backend, LOG).await?.len(), 3);
        assert!(backend.lost().is_none());
        backend.close().await?;
    }
    assert_eq!(all(&below, LOG).await?.len(), 1);
    opfs::remove(name).await;
    let backend = opfs::journaled(name, false).await?;
    assert_eq!(all(&backend, LOG).await?.len(), 1);
    assert_eq!(backend.lost().map(|error| error.code()), Some(ErrorCode::DataCorrupted));
    backend.close().await?;
    done(&IndexedDbHarness, name, below).await
}

/// Where no file can be written any more, what is in one is read.
#[wasm_bindgen_test]
async fn a_journal_that_cannot_be_written_is_read() -> Result<()> {
    let name = "journal-read";
    let backend = JournalHarness.fresh(name).await?;
    for key in [b"1", b"2", b"3"] {
        backend.commit(batch(key), Durability::Relaxed).await?;
    }
    drop(backend);
    throw_at_handle();
    let read = async {
        let backend = JournalHarness.open(name).await?;
        assert_eq!(all(&backend, LOG).await?.len(), 3);
        backend.commit(batch(b"4"), Durability::Relaxed).await?;
        backend.close().await
    };
    let outcome = read.await;
    restore();
    outcome?;
    let backend = JournalHarness.open(name).await?;
    assert_eq!(all(&backend, LOG).await?.len(), 4);
    done(&JournalHarness, name, backend).await
}

async fn deletion_elsewhere(harness: &impl Harness) -> Result<()> {
    let name = "deleted-elsewhere";
    let backend = harness.fresh(name).await?;
    for _ in 0..3 {
        backend.commit(batch(b"1"), Durability::Relaxed).await?;
    }
    JsFuture::from(delete_raw("kalamdb:deleted-elsewhere")).await.expect("must not be blocked");
    for _ in 0..2 {
        let error = backend.commit(batch(b"2"), Durability::Relaxed).await.expect_err("the database is gone");
        assert_eq!(error.code(), ErrorCode::StorageClosed, "{error}");
    }
    assert!(!database_exists(name).await?, "the backend must not have made it again");
    backend.close().await
}

/// A connection that does not close turns a deletion into an error, and the deletion happens when it is gone.
#[wasm_bindgen_test]
async fn a_blocked_deletion_is_an_error() -> Result<()> {
    let name = "stubborn";
    delete_database(name).await?;
    let stores = Partition::ALL.map(|p| p.name().to_owned()).to_vec();
    let close = JsFuture::from(open_stubborn("kalamdb:stubborn", 1, stores)).await.expect("opens");
    let backend = IndexedDbHarness.open(name).await?;
    put_all(&backend, LOG, &[(b"k", b"v")]).await?;
    let error = delete_database(name).await.expect_err("somebody has it open");
    assert_eq!(error.code(), ErrorCode::DatabaseLocked, "{error}");
    let error = backend.get(LOG, b"k").await.expect_err("it is being deleted");
    assert_eq!(error.code(), ErrorCode::StorageClosed, "{error}");
    close.unchecked_into::<Function>().call0(&JsValue::NULL).expect("closes");
    delete_database(name).await?;
    assert!(!database_exists(name).await?);
    Ok(())
}

/// Databases of other programs or of later versions are refused, not changed.
#[wasm_bindgen_test]
async fn foreign_databases_are_refused() -> Result<()> {
    for (name, version, code) in [("foreign", 1, ErrorCode::DataCorrupted), ("later", 2, ErrorCode::UnsupportedFormat)]
    {
        delete_database(name).await?;
        let close = open_stubborn(&format!("kalamdb:{name}"), version, vec!["other".to_owned()]);
        let close = JsFuture::from(close).await.expect("opens");
        close.unchecked_into::<Function>().call0(&JsValue::NULL).expect("closes");
        let error = IndexedDbBackend::open(name).await.expect_err("not ours");
        assert_eq!(error.code(), code, "{error}");
        assert!(database_exists(name).await?);
        delete_database(name).await?;
    }
    Ok(())
}

#[wasm_bindgen_test]
async fn existence() -> Result<()> {
    delete_database("existence").await?;
    assert!(!database_exists("existence").await?);
    let backend = IndexedDbBackend::open("existence").await?;
    assert_eq!((backend.kind(), backend.name()), ("indexeddb", "existence"));
    assert!(database_exists("existence").await?);
    assert!(!database_exists("exist").await?);
    done(&IndexedDbHarness, "existence", Arc::new(backend)).await?;
    assert!(!database_exists("existence").await?);
    Ok(())
}

/// What is only to be read is not made.
#[wasm_bindgen_test]
async fn an_existing_database_is_opened_and_no_other() -> Result<()> {
    let name = "only-if-there";
    delete_database(name).await?;
    for _ in 0..2 {
        let error = IndexedDbBackend::open_existing(name).await.expect_err("there is none");
        assert_eq!(error.code(), ErrorCode::DatabaseNotFound, "{error}");
        assert!(!database_exists(name).await?, "it must not have been made");
    }
    let backend = IndexedDbHarness.fresh(name).await?;
    put_all(&backend, LOG, &[(b"k", b"v")]).await?;
    backend.close().await?;
    let backend: Arc<dyn StorageBackend> = Arc::new(IndexedDbBackend::open_existing(name).await?);
    assert_eq!(backend.get(LOG, b"k").await?.as_deref(), Some(b"v".as_slice()));
    // It is not made again when somebody deletes it.
    JsFuture::from(delete_raw("kalamdb:only-if-there")).await.expect("must not be blocked");
    let error = backend.get(LOG, b"k").await.expect_err("the database is gone");
    assert_eq!(error.code(), ErrorCode::StorageClosed, "{error}");
    assert!(!database_exists(name).await?);
    backend.close().await
}

/// The scans again as a browser without `getAllRecords` runs them.
#[wasm_bindgen_test]
async fn scans_without_get_all_records() -> Result<()> {
    without_get_all_records();
    assert!(!has_get_all_records());
    let checks = async {
        conformance::basic::keys_come_in_byte_order(&IndexedDbHarness).await?;
        conformance::basic::reverse_scans_and_limits(&IndexedDbHarness).await?;
        conformance::basic::ranges(&IndexedDbHarness).await?;
        conformance::basic::large_values(&IndexedDbHarness).await?;
        conformance::basic::many_records(&IndexedDbHarness).await?;
        conformance::blobs::range_reads(&IndexedDbHarness).await?;
        conformance::lifecycle::concurrent_calls(&IndexedDbHarness).await?;
        conformance::oracle::random_operations(&IndexedDbHarness).await?;
        Ok::<(), KalamError>(())
    };
    let result = checks.await;
    restore();
    result
}
