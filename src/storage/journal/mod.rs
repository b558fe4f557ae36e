//! A journal in front of a backend: a small commit is one write to a file, and gets into the storage below later.
//!
//! A transaction of IndexedDB takes half a millisecond, mostly the browser's; a write to a file of the origin's private file
//! system takes a tenth. Both hand their bytes to the operating system, so both keep what [`Durability::Relaxed`]
//! promises. Commits that are small and relaxed are written to the file as a frame; all others, and those for which the
//! file has no room, go to the storage below and take along what waits in the file. What waits is carried over while nothing
//! is written (`IDLE_MS`), when it has become much, before anything that it may touch is read, and at the end.
//!
//! Invariants:
//! - The storage below has a marker: which journal it has, the number of the last commit it has taken from it, and an epoch.
//!   A commit that goes past the journal takes along what waits and sets the marker, with a new epoch, in its own
//!   transaction. Only where nothing waits and it is flushed the marker stays as it is: no power takes what is flushed.
//! - A frame has the marker's epoch. At opening those behind the marker are taken up as long as they have its epoch: one
//!   of another was built on a commit that a loss of power took, and is lost with it, as `relaxed` allows. No two commits
//!   ever have one epoch: they go up from a random number in each engine, and an engine writes frames of its own epochs
//!   only: the first commit after an opening goes past the journal. So what a loss of power has left behind a torn frame
//!   never comes back, and what is found is always what all commits up to some moment made.
//! - What waits is carried over in a pause with a flush, and after one that failed comes a new epoch. So frames of the
//!   marker's epoch that do not begin right behind it are damage, and said to be. The file is written from its beginning when
//!   nothing waits.
//! - A write below that failed, or whose caller has gone, is waited for, and the marker then says what became of it, before
//!   anything else is done. It may still be on its way when its caller has gone.
//! - Nothing is written to the file while the storage below may be gone: a row is not acknowledged to a database that
//!   somebody has deleted.
//! - Whoever uses the backend does not see the marker.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::lock::{Mutex as AsyncMutex, MutexGuard};
use parking_lot::Mutex;

use super::{
    Durability, KeyRange, KeyValue, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch, key_after,
    read_blob_parts,
};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use frames::{JournalId, damaged};
use state::{MARKER_KEY, Marker, State, apply, is_marker, read_marker};

mod frames;
mod state;

/// So many bytes, or so many commits, are carried over at once without waiting for a pause.
const MUCH_BYTES: usize = 256 << 10;
const MANY_COMMITS: usize = 512;

/// What waits is carried over when nothing was written for so long, in milliseconds.
const IDLE_MS: u64 = 500;

/// A file that a journal is written to. Its calls return when they are done.
pub trait JournalFile: Send + Sync + Debug {
    /// Everything in it.
    fn read(&self) -> Result<Vec<u8>>;
    /// Writes all of `bytes` from byte `at` on, and hands them to the operating system.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()>;
    /// Makes it so many bytes long.
    fn resize(&self, bytes: u64) -> Result<()>;
    /// Waits until everything written is on the device.
    fn flush(&self) -> Result<()>;
    /// Ends its use; others can have it when the future is done. Who drops it ends its use too, some time.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Where a journal was looked for, and what is there.
#[derive(Debug)]
pub enum FoundFile {
    /// A file to read and write, empty if it was not there.
    Writable(Box<dyn JournalFile>),
    /// A file that can only be read here, by what it holds; empty if there is none.
    ReadOnly(Vec<u8>),
    /// No file can be reached, and why.
    None(KalamError),
}

/// A backend with a journal in front of it; see the module's comment.
#[derive(Debug)]
pub struct JournaledBackend {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    inner: Arc<dyn StorageBackend>,
    /// It is only read, and nothing is carried over. What the journal cannot give for it, if anything.
    salvage: bool,
    lost: Option<KalamError>,
    /// Held by whoever writes to `inner`.
    turn: AsyncMutex<()>,
    state: Mutex<State>,
}

impl JournaledBackend {
    /// Puts a journal in front of a backend. What an earlier one left is taken up; where no file can be written and none
    /// was, it is the backend by itself. `salvage`: the backend is only read, also without its journal if that is damaged or
    /// cannot be reached ([`StorageBackend::lost`] says so).
    ///
    /// Errors: `DATA_CORRUPTED` if the marker is damaged; and if the file that it names is gone, another one, or damaged: that
    /// is said once, and the next opening goes on with the commits before that. What kept the file from being reached, if
    /// there is one.
    pub async fn open(
        inner: Arc<dyn StorageBackend>,
        found: FoundFile,
        salvage: bool,
    ) -> Result<Arc<dyn StorageBackend>> {
        let none = Marker { id: JournalId::default(), applied: 0, epoch: 0 };
        let (state, lost) = match (read_marker(inner.as_ref()).await, found) {
            (Ok(Some(marker)), found) => match State::taken_up(marker, found) {
                Ok(taken) => taken,
                Err(error) if salvage => (State::without_file(marker), Some(error)),
                Err(error) => {
                    if error.code() == ErrorCode::DataCorrupted {
                        let mut batch = WriteBatch::new();
                        batch.delete(Partition::Meta, MARKER_KEY);
                        inner.commit(batch, Durability::Strict).await?;
                    }
                    return Err(error);
                }
            },
            (Ok(None), FoundFile::Writable(file)) if !salvage => match State::begun(file) {
                Some(state) => (state, None),
                None => return Ok(inner),
            },
            (Ok(None), _) => return Ok(inner),
            (Err(error), _) if salvage => (State::without_file(none), Some(error)),
            (Err(error), _) => return Err(error),
        };
        let (turn, state) = (AsyncMutex::new(()), Mutex::new(state));
        let backend = Self { core: Arc::new(Core { inner, salvage, lost, turn, state }) };
        if let Some(lost) = backend.core.lost.clone().filter(|_| !salvage) {
            // What is whole before it is kept, and the new epoch lets go of the rest.
            backend.core.pass(WriteBatch::new(), Durability::Strict).await?;
            return Err(lost);
        }
        Ok(Arc::new(backend))
    }
}

impl Core {
    /// Writes a commit below, with all that waits and the marker.
    async fn pass(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        let _passing = Passing::begin(self);
        let _turn = self.turn.lock().await;
        self.resolve().await?;
        let (mut whole, marker) = self.state.lock().passed_along(&batch, durability);
        whole.append(batch);
        Ok(self.write_below(whole, marker, durability).await?.min(durability.max(Durability::Relaxed)))
    }

    async fn carry_over(&self) -> Result<()> {
        if self.salvage {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        self.resolve().await?;
        let Some((batch, marker)) = self.state.lock().carried_along() else { return Ok(()) };
        self.write_below(batch, marker, Durability::Strict).await.map(drop)
    }

    /// Writes below, until it is done also where the caller goes away.
    async fn write_below(&self, mut batch: WriteBatch, marker: Marker, durability: Durability) -> Result<Durability> {
        let inner = Arc::clone(&self.inner);
        let stays = self.state.lock().marker == marker;
        if !stays {
            marker.put(&mut batch);
        }
        let writing = async move { inner.commit(batch, durability).await }.boxed().shared();
        self.state.lock().writing = Some(writing.clone());
        let in_doubt = InDoubt(self);
        let reached = writing.await?;
        std::mem::forget(in_doubt);
        let mut state = self.state.lock();
        state.writing = None;
        state.carried(marker);
        // What nobody flushed may be lost, and then what is built on it must be.
        state.own_epoch &= !stays || reached == Durability::Strict;
        Ok(reached)
    }

    /// Finds out what became of a write below that failed or was given up.
    async fn resolve(&self) -> Result<()> {
        let writing = {
            let state = self.state.lock();
            if !state.doubtful {
                return Ok(());
            }
            state.writing.clone()
        };
        if let Some(writing) = writing {
            // How it went is what the marker says: an error may be one of the way back.
            let _ = writing.await;
        }
        let found = read_marker(self.inner.as_ref()).await?;
        let mut state = self.state.lock();
        match found {
            Some(marker) if marker.id == state.marker.id => state.carried(marker),
            None if !state.marked => {}
            _ => return Err(damaged("the storage below has lost its marker".into())),
        }
        // It may be there without having been flushed.
        state.own_epoch = false;
        state.writing = None;
        state.doubtful = false;
        Ok(())
    }

    fn touches(&self, partition: Partition, range: &KeyRange) -> bool {
        self.state.lock().touches(partition, range)
    }

    /// Waits until what lies in a range below is what was committed. Where it cannot be brought there, as the device may
    /// be full, gives the turn: while it is held, what waits is to be seen over what is below.
    async fn settle(&self, partition: Partition, range: &KeyRange) -> Result<Option<MutexGuard<'_, ()>>> {
        if !self.touches(partition, range) || (!self.salvage && self.carry_over().await.is_ok()) {
            return Ok(None);
        }
        let turn = self.turn.lock().await;
        self.resolve().await?;
        Ok(self.touches(partition, range).then_some(turn))
    }

    /// The records of a range.
    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        let Some(_turn) = self.settle(partition, range).await? else {
            return self.inner.scan(partition, range, options).await;
        };
        let changes = self.state.lock().waiting_changes();
        let (mut found, mut rest) = (Vec::new(), Some(range.clone()));
        while let Some(part) = rest.take() {
            let limit = options.limit.map(|limit| limit - found.len());
            if limit == Some(0) {
                break;
            }
            let below = self.inner.scan(partition, &part, ScanOptions { limit, ..options }).await?;
            // What was read covers the range up to its last record, or all of it.
            let last = below.last().filter(|_| limit == Some(below.len())).map(|(key, _)| key.clone());
            let (covered, further) = match last {
                None => (part, None),
                Some(last) if options.reverse => {
                    let further = KeyRange { from: part.from, to: Some(last.clone()) };
                    (KeyRange { from: Some(last), to: part.to }, Some(further))
                }
                Some(last) => {
                    let end = Some(key_after(&last));
                    (KeyRange { from: part.from, to: end.clone() }, Some(KeyRange { from: end, to: part.to }))
                }
            };
            let mut records: BTreeMap<Vec<u8>, Bytes> = below.into_iter().collect();
            apply(&changes, &mut records, partition, &covered);
            let records = records.into_iter();
            match options.reverse {
                true => found.extend(records.rev().take(limit.unwrap_or(usize::MAX))),
                false => found.extend(records.take(limit.unwrap_or(usize::MAX))),
            }
            rest = further;
        }
        Ok(found)
    }

    /// Sees to it that what was just written is carried over some time.
    fn look_after(self: &Arc<Self>, state: &mut State) {
        let is_much = state.waiting.len() >= MANY_COMMITS || state.waiting_bytes >= MUCH_BYTES;
        if is_much && !std::mem::replace(&mut state.carrying, true) {
            let core = Arc::clone(self);
            platform::later(0, async move {
                // What fails stays in the file.
                let _ = core.carry_over().await;
                core.state.lock().carrying = false;
            });
        }
        if !std::mem::replace(&mut state.watched, true) {
            self.watch(state.last);
        }
    }

    fn watch(self: &Arc<Self>, last: u64) {
        let weak = Arc::downgrade(self);
        platform::later(IDLE_MS, async move {
            let Some(core) = weak.upgrade() else { return };
            let now = core.state.lock().last;
            if now != last {
                return core.watch(now);
            }
            core.state.lock().watched = false;
            let _ = core.carry_over().await;
        });
    }
}

/// A commit that goes past the journal, from when it was called: those that come later must not overtake it.
struct Passing<'a>(&'a Core);

impl<'a> Passing<'a> {
    fn begin(core: &'a Core) -> Self {
        core.state.lock().passing += 1;
        Self(core)
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().passing -= 1;
    }
}

/// A write below of which nobody will hear how it ended.
struct InDoubt<'a>(&'a Core);

impl Drop for InDoubt<'_> {
    fn drop(&mut self) {
        self.0.state.lock().doubtful = true;
    }
}

#[async_trait]
impl StorageBackend for JournaledBackend {
    fn kind(&self) -> &'static str {
        self.core.inner.kind()
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        if is_marker(partition, key) {
            return Ok(None);
        }
        let only = KeyRange::between(key, key_after(key));
        if !self.core.touches(partition, &only) {
            return self.core.inner.get(partition, key).await;
        }
        let found = self.core.scan(partition, &only, ScanOptions::default()).await?;
        Ok(found.into_iter().next().map(|(_, value)| value))
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        if partition != Partition::Meta || !range.contains(MARKER_KEY) {
            return self.core.scan(partition, range, options).await;
        }
        let one_more = ScanOptions { limit: options.limit.map(|limit| limit.saturating_add(1)), ..options };
        let mut found = self.core.scan(partition, range, one_more).await?;
        found.retain(|(key, _)| !is_marker(partition, key));
        found.truncate(options.limit.unwrap_or(usize::MAX));
        Ok(found)
    }

    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        batch.validate()?;
        let core = &self.core;
        if core.salvage {
            return Err(KalamError::internal("a database that is salvaged is only read"));
        }
        let batch = if durability == Durability::Strict || !core.inner.is_reachable() {
            batch
        } else {
            let mut state = core.state.lock();
            match state.append(batch) {
                Ok(()) => {
                    core.look_after(&mut state);
                    return Ok(Durability::Relaxed);
                }
                Err(batch) => batch,
            }
        };
        if batch.is_empty() {
            return core.inner.commit(batch, durability).await;
        }
        core.pass(batch, durability).await
    }

    async fn read_blob(&self, id: &[u8], offset: u64, length: u64) -> Result<Option<Bytes>> {
        if self.core.touches(Partition::Blob, &super::blob_range(id)) {
            return read_blob_parts(self, id, offset, length).await;
        }
        self.core.inner.read_blob(id, offset, length).await
    }

    async fn stats(&self) -> Result<StorageStats> {
        // What cannot be carried over is not counted.
        let _ = self.core.carry_over().await;
        let stats = self.core.inner.stats().await?;
        let markers = u64::from(self.core.state.lock().marked);
        Ok(StorageStats { records: stats.records.saturating_sub(markers), ..stats })
    }

    async fn compact(&self) -> Result<()> {
        self.core.inner.compact().await
    }

    async fn close(&self) -> Result<()> {
        // What is not carried over now is taken up at the next opening.
        let _ = self.core.carry_over().await;
        let file = self.core.state.lock().file.take();
        if let Some(file) = file {
            file.close().await;
        }
        self.core.inner.close().await
    }

    fn is_reachable(&self) -> bool {
        self.core.inner.is_reachable()
    }

    fn lost(&self) -> Option<KalamError> {
        self.core.lost.clone()
    }
}
