//! A backend on the browser's IndexedDB, in a page or a worker.
//!
//! Layout: database `kalamdb:<name>`, version 1 for ever, one object store per [`Partition`] with binary keys and
//! `Uint8Array` values.
//!
//! Invariants:
//! - A commit is one read-write transaction over the stores it touches. All its requests are made in one go, then it
//!   is committed, and the call returns after `complete`: what was acknowledged is there, what failed was rolled back
//!   by IndexedDB.
//! - Every call runs as a task of its own and hands its result over, so a caller that drops the future midway stops
//!   waiting but never stops a transaction halfway, and a slow caller never lets one end early. The task runs at once and
//!   in the event that ends its transaction (`platform/tasks.rs`).
//! - JavaScript objects never leave this thread; see [`SendFuture`].

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use self::connection::{Connection, IfMissing, Slot};
use self::failure::Failure;
use super::{Durability, KeyRange, KeyValue, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch};
use crate::error::{KalamError, Result};
use crate::platform::{SendFuture, tasks};
use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use indexed_db_futures::internals::SystemRepr;

pub(super) use self::host::sleep;

mod connection;
mod failure;
mod fresh_log;
mod host;
mod read;
mod write;

/// A database in IndexedDB; see the module's comment.
#[derive(Clone)]
pub struct IndexedDbBackend {
    name: Arc<str>,
    slot: Arc<SendFuture<Rc<Slot>>>,
}

impl fmt::Debug for IndexedDbBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexedDbBackend").field("name", &self.name).finish_non_exhaustive()
    }
}

impl IndexedDbBackend {
    /// Opens the database of this name and makes it if it is not there.
    pub async fn open(name: &str) -> Result<Self> {
        Self::reach(name, IfMissing::Make).await
    }

    /// Opens the database of this name; `DATABASE_NOT_FOUND` if it is not there, and none is made.
    pub async fn open_existing(name: &str) -> Result<Self> {
        Self::reach(name, IfMissing::NotFound).await
    }

    async fn reach(name: &str, if_missing: IfMissing) -> Result<Self> {
        let owned = name.to_owned();
        let slot = run(async move { Ok(Arc::new(SendFuture::new(Slot::open(&owned, if_missing).await?))) }).await?;
        Ok(Self { name: name.into(), slot })
    }

    /// The name it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a call on the open connection, and turns what went wrong into an error for the caller. A connection that
    /// turns out to be lost before anything can have been written is opened again, once, without the caller noticing.
    fn call<T, W, F>(&self, doing: &'static str, work: W) -> impl Future<Output = Result<T>> + Send + use<T, W, F>
    where
        T: Send + 'static,
        W: Fn(Rc<Connection>, Rc<Cell<bool>>) -> F + 'static,
        F: Future<Output = Result<T, Failure>> + 'static,
    {
        let slot = Rc::clone(&self.slot);
        let name = Arc::clone(&self.name);
        run(async move {
            let mut again = true;
            loop {
                let connection = slot.connection().await?;
                let writing = Rc::new(Cell::new(false));
                match work(Rc::clone(&connection), Rc::clone(&writing)).await {
                    Ok(value) => return Ok(value),
                    Err(failure) => {
                        slot.after_failure(&connection, &failure);
                        if failure.connection_lost() && !writing.get() && std::mem::take(&mut again) {
                            continue;
                        }
                        return Err(failure.into_error(&format!("cannot {doing} database '{name}'")).await);
                    }
                }
            }
        })
    }
}

/// Deletes the database of this name with everything in it; nothing happens if it is not there. Backends that have
/// it open are closed by that, in this context and in others; `DATABASE_LOCKED` if someone else's connection stays
/// open for several seconds.
pub async fn delete_database(name: &str) -> Result<()> {
    let name = name.to_owned();
    run(async move { connection::delete(&name).await }).await
}

/// Whether a database of this name is there.
pub async fn database_exists(name: &str) -> Result<bool> {
    let name = name.to_owned();
    run(async move { connection::exists(&name).await }).await
}

/// Runs `work` as its own task. The future returned holds no JavaScript object and may be dropped at any time.
fn run<T, W>(work: W) -> impl Future<Output = Result<T>> + Send + use<T, W>
where
    T: Send + 'static,
    W: Future<Output = Result<T>> + 'static,
{
    let (sender, receiver) = oneshot::channel();
    tasks::spawn(async move {
        // The caller may be gone.
        let _ = sender.send(work.await);
    });
    async move {
        match receiver.await {
            Ok(result) => result,
            Err(oneshot::Canceled) => Err(KalamError::internal("a storage task ended without a result")),
        }
    }
}

#[async_trait]
impl StorageBackend for IndexedDbBackend {
    fn kind(&self) -> &'static str {
        "indexeddb"
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        let key = key.to_vec();
        self.call("read", move |c, _| {
            let key = key.clone();
            async move { read::get(&c.database, partition, &key).await }
        })
        .await
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        let range = range.clone();
        self.call("read", move |c, _| {
            let range = range.clone();
            async move {
                if range.is_empty() {
                    return Ok(Vec::new());
                }
                read::scan(&c.database, partition, &range, options).await
            }
        })
        .await
    }

    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        batch.validate()?;
        let batch = Rc::new(batch);
        self.call("write to", move |c, writing| {
            let batch = Rc::clone(&batch);
            async move {
                c.fresh_log.clone().await;
                write::commit(c.database.as_sys(), &batch, durability, &writing).await
            }
        })
        .await
    }

    /// `records` is counted. `bytes` is 0, for "not known": IndexedDB keeps no sum, and finding it would mean to read
    /// everything. `usage` and `quota` are the host's estimate for the whole origin.
    async fn stats(&self) -> Result<StorageStats> {
        self.call("read", move |c, _| async move {
            let records = read::count(&c.database).await?;
            let host::Estimate { usage, quota } = host::estimate().await;
            Ok(StorageStats { records, bytes: 0, usage, quota })
        })
        .await
    }

    async fn close(&self) -> Result<()> {
        self.slot.close();
        Ok(())
    }

    fn is_reachable(&self) -> bool {
        self.slot.is_open()
    }
}
