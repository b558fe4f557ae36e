//! A backend that the host supplies as a JavaScript object: files in Node, a Durable Object's storage, anything that
//! can get, scan and commit bytes. The object's interface is `HostStorage` in `sdks/typescript/src/storage.ts`.
//!
//! Invariants:
//! - Every answer of the object is checked before it is used: bytes are `Uint8Array`s, a scan lies within its range and
//!   in order. An object that breaks its contract is a `STORAGE_ERROR` that says how, never wrong rows.
//! - An exception becomes one [`KalamError`]. If it carries the code of an error that storage can have, that one stays;
//!   what means "no room left" is `QUOTA_EXCEEDED` with usage and quota, where the object tells them.
//! - A durability that the object does not report was not reached.
//! - JavaScript objects never leave this thread; see [`SendFuture`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use js_sys::{Array, Function, Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use super::{
    Durability, KeyRange, KeyValue, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch, WriteOp,
    read_blob_parts,
};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::SendFuture;

/// Codes that an exception of the object may bring along.
const STORAGE_CODES: [ErrorCode; 9] = [
    ErrorCode::QuotaExceeded,
    ErrorCode::StorageError,
    ErrorCode::StorageClosed,
    ErrorCode::Closed,
    ErrorCode::DatabaseLocked,
    ErrorCode::DataCorrupted,
    ErrorCode::UnsupportedFormat,
    ErrorCode::PermissionDenied,
    ErrorCode::FeatureNotSupported,
];

/// What systems call a full disk.
const NO_ROOM: [&str; 3] = ["ENOSPC", "EDQUOT", "QuotaExceededError"];

/// A database in storage that the host supplies; see the module's comment.
#[derive(Clone)]
pub struct HostBackend {
    storage: Arc<SendFuture<Object>>,
    closed: Arc<AtomicBool>,
}

impl fmt::Debug for HostBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBackend").finish_non_exhaustive()
    }
}

impl HostBackend {
    /// A backend on an object that has at least `get`, `scan`, `commit` and `close`.
    pub fn new(storage: Object) -> Result<Self> {
        for name in ["get", "scan", "commit", "close"] {
            if method(&storage, name).is_none() {
                return Err(KalamError::new(
                    ErrorCode::InvalidOption,
                    format!("storage has no function '{name}'; it needs get, scan, commit and close"),
                ));
            }
        }
        Ok(Self { storage: Arc::new(SendFuture::new(storage)), closed: Arc::default() })
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(KalamError::new(ErrorCode::Closed, "the database is closed"));
        }
        Ok(())
    }

    /// Calls a function of the object and waits for what it promises. `None` if there is no such function.
    async fn call(&self, name: &'static str, arguments: &Array) -> Result<Option<JsValue>> {
        let Some(function) = method(&self.storage, name) else { return Ok(None) };
        let outcome = match function.apply(&self.storage, arguments) {
            Ok(value) => JsFuture::from(Promise::resolve(&value)).await,
            Err(thrown) => Err(thrown),
        };
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(thrown) => Err(self.error(name, &thrown).await),
        }
    }

    async fn error(&self, name: &str, thrown: &JsValue) -> KalamError {
        let text = |property: &str| {
            Reflect::get(thrown, &property.into()).ok().and_then(|v| v.as_string()).filter(|s| !s.is_empty())
        };
        let (code, message) = (text("code"), text("message").or_else(|| thrown.as_string()));
        let message = message.unwrap_or_else(|| format!("{thrown:?}"));
        let told = [code.as_deref(), text("name").as_deref()].into_iter().flatten().any(|t| NO_ROOM.contains(&t));
        let known = STORAGE_CODES.into_iter().find(|c| Some(c.as_str()) == code.as_deref());
        let code = if told { ErrorCode::QuotaExceeded } else { known.unwrap_or(ErrorCode::StorageError) };
        let mut error = KalamError::new(code, format!("the host's storage failed to {name}: {message}"));
        if code == ErrorCode::QuotaExceeded && name != "stats" {
            let stats = Box::pin(self.read_stats()).await.unwrap_or_default();
            let told = |bytes: Option<u64>| bytes.map_or("an unknown number of".to_owned(), |b| b.to_string());
            let message = format!("{}; {} bytes of {} are used", error.message(), told(stats.usage), told(stats.quota));
            error = KalamError::new(code, message).with_hint("Delete data, or give the database more room.");
        } else if let Some(hint) = text("hint") {
            error = error.with_hint(hint);
        }
        error
    }

    async fn read_stats(&self) -> Result<StorageStats> {
        let Some(stats) = self.call("stats", &Array::new()).await? else { return Ok(StorageStats::default()) };
        let number = |name: &str| Some(Reflect::get(&stats, &name.into()).ok()?.as_f64()? as u64);
        Ok(StorageStats {
            records: number("records").unwrap_or(0),
            bytes: number("bytes").unwrap_or(0),
            usage: number("usage"),
            quota: number("quota"),
        })
    }

    async fn scan_records(
        &self,
        partition: Partition,
        range: &KeyRange,
        options: ScanOptions,
    ) -> Result<Vec<KeyValue>> {
        if range.is_empty() || options.limit == Some(0) {
            return Ok(Vec::new());
        }
        let asked = range_object(range);
        if let Some(limit) = options.limit {
            set(&asked, "limit", &JsValue::from_f64(limit as f64));
        }
        set(&asked, "reverse", &JsValue::from_bool(options.reverse));
        let arguments = Array::of2(&partition.name().into(), &asked);
        let found = self.call("scan", &arguments).await?.unwrap_or_default();
        let found: Array = found.dyn_into().map_err(|_| broken("scan", "gave no array"))?;
        if options.limit.is_some_and(|limit| found.length() as usize > limit) {
            return Err(broken("scan", "gave more records than it was asked for"));
        }
        let mut records: Vec<KeyValue> = Vec::with_capacity(found.length() as usize);
        for pair in found.iter() {
            let pair: Array = pair.dyn_into().map_err(|_| broken("scan", "gave no pairs of key and value"))?;
            let (key, value) = (bytes_of("scan", pair.get(0))?, bytes_of("scan", pair.get(1))?);
            let follows =
                records.last().is_none_or(|(last, _)| if options.reverse { *last > key } else { *last < key });
            if !follows || !range.contains(&key) {
                return Err(broken("scan", "gave keys out of order or out of range"));
            }
            records.push((key, value.into()));
        }
        Ok(records)
    }
}

fn method(object: &Object, name: &str) -> Option<Function> {
    Reflect::get(object, &name.into()).ok()?.dyn_into().ok()
}

fn set(object: &Object, name: &str, value: &JsValue) {
    // Setting a property of a plain object cannot fail.
    let _ = Reflect::set(object, &name.into(), value);
}

fn range_object(range: &KeyRange) -> Object {
    let object = Object::new();
    for (name, end) in [("from", &range.from), ("to", &range.to)] {
        if let Some(end) = end {
            set(&object, name, &Uint8Array::from(end.as_slice()));
        }
    }
    object
}

fn broken(name: &str, what: &str) -> KalamError {
    KalamError::new(ErrorCode::StorageError, format!("the host's storage broke its contract: {name} {what}"))
}

fn bytes_of(name: &str, value: JsValue) -> Result<Vec<u8>> {
    value.dyn_into::<Uint8Array>().map(|b| b.to_vec()).map_err(|_| broken(name, "gave no Uint8Array"))
}

/// A batch as the object takes it: `{ type, partition, key, value }` and so on, in order.
fn operations(batch: &WriteBatch) -> Array {
    let list = Array::new();
    for op in batch.ops() {
        let (partition, kind, object) = match op {
            WriteOp::Put { partition, key, value } => {
                let object = Object::new();
                set(&object, "key", &Uint8Array::from(key.as_slice()));
                set(&object, "value", &Uint8Array::from(&value[..]));
                (partition, "put", object)
            }
            WriteOp::Delete { partition, key } => {
                let object = Object::new();
                set(&object, "key", &Uint8Array::from(key.as_slice()));
                (partition, "delete", object)
            }
            WriteOp::DeleteRange { range, .. } if range.is_empty() => continue,
            WriteOp::DeleteRange { partition, range } => (partition, "deleteRange", range_object(range)),
        };
        set(&object, "type", &kind.into());
        set(&object, "partition", &partition.name().into());
        list.push(&object);
    }
    list
}

#[async_trait]
impl StorageBackend for HostBackend {
    fn kind(&self) -> &'static str {
        "host"
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        self.check_open()?;
        SendFuture::new(async {
            let arguments = Array::of2(&partition.name().into(), &Uint8Array::from(key));
            let found = self.call("get", &arguments).await?.unwrap_or_default();
            if found.is_undefined() || found.is_null() {
                return Ok(None);
            }
            bytes_of("get", found).map(|value| Some(value.into()))
        })
        .await
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        self.check_open()?;
        SendFuture::new(self.scan_records(partition, range, options)).await
    }

    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        self.check_open()?;
        batch.validate()?;
        SendFuture::new(async {
            let options = Object::new();
            set(&options, "durability", &durability.as_str().into());
            let list = operations(&batch);
            // The object has copies of its own.
            drop(batch);
            if list.length() == 0 {
                return Ok(durability);
            }
            let reached = self.call("commit", &Array::of2(&list, &options)).await?;
            let reached = reached.and_then(|r| r.as_string()).map(|r| Durability::parse(&r)).transpose();
            let reached = reached.map_err(|_| broken("commit", "gave no durability"))?.unwrap_or(Durability::Memory);
            // Reported is what was asked for, or the least that any of its commits is.
            Ok(reached.min(durability.max(Durability::Relaxed)))
        })
        .await
    }

    async fn read_blob(&self, id: &[u8], offset: u64, length: u64) -> Result<Option<Bytes>> {
        self.check_open()?;
        if SendFuture::new(async { method(&self.storage, "readBlob").is_none() }).await {
            return read_blob_parts(self, id, offset, length).await;
        }
        SendFuture::new(async {
            let number = |n: u64| JsValue::from_f64(n.min(1 << 53) as f64);
            let arguments = Array::of3(&Uint8Array::from(id), &number(offset), &number(length));
            let found = self.call("readBlob", &arguments).await?.unwrap_or_default();
            if found.is_undefined() || found.is_null() {
                return Ok(None);
            }
            let bytes = bytes_of("readBlob", found)?;
            if bytes.len() as u64 > length {
                return Err(broken("readBlob", "gave more bytes than it was asked for"));
            }
            Ok(Some(bytes.into()))
        })
        .await
    }

    /// What the object tells; zeros are "not known".
    async fn stats(&self) -> Result<StorageStats> {
        self.check_open()?;
        SendFuture::new(self.read_stats()).await
    }

    async fn compact(&self) -> Result<()> {
        self.check_open()?;
        SendFuture::new(async { self.call("compact", &Array::new()).await.map(drop) }).await
    }

    async fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        SendFuture::new(async { self.call("close", &Array::new()).await.map(drop) }).await
    }
}
