//! A backend whose n-th call goes wrong.
//!
//! Invariant: exactly the calls that were armed go wrong, each in exactly one way, and what storage then holds is known:
//! after `Fail` and `Refuse` nothing of the call, after `Lose` and `Delay` all of it, after `Spoil` all of it but for one
//! value, and a read that goes wrong changes nothing. After the process has died every call fails.
//!
//! It may have a journal in front: then a write to the journal's file is a call like the others, and of one that goes wrong
//! nothing is in the file, half, or all of it.

#![allow(dead_code)] // each test binary uses a part of it

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::storage::journal::{FoundFile, JournalFile, JournaledBackend};
use kalamdb::storage::{
    Durability, KeyRange, KeyValue, MemoryBackend, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch,
    WriteOp,
};
use parking_lot::Mutex;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and the storage says so at once.
    Fail,
    /// As `Fail`, but only after a while, when other calls have been made.
    Refuse,
    /// All of it is done, and then an error is reported.
    Lose,
    /// It takes long.
    Delay,
    /// A bit of a value that is read is another one.
    Corrupt,
    /// A value that is read is cut.
    Tear,
    /// A value that is written, counted from 0, is not what is stored: a bit of it is another one, or it is cut.
    Spoil { value: usize, cut: bool },
}

impl Fault {
    /// Those after which storage holds what it should.
    pub const ALL: [Fault; 6] = [Fault::Fail, Fault::Refuse, Fault::Lose, Fault::Delay, Fault::Corrupt, Fault::Tear];
}

/// Whether the process dies at a call, and what becomes of that call if it is a commit.
#[derive(Debug, Clone, Copy)]
struct Death {
    at: u64,
    applied: bool,
}

/// A backend in memory, which outlives what is opened on it, with faults in front.
#[derive(Debug)]
pub struct Faulty {
    inner: MemoryBackend,
    /// Whether engines have a journal in front, and what its file holds.
    journal: AtomicBool,
    file: Mutex<Vec<u8>>,
    calls: AtomicU64,
    /// Which call goes wrong, how, and under which code.
    armed: Mutex<Option<(u64, Fault, ErrorCode)>>,
    /// Every so many calls go wrong, with this fault.
    storm: Mutex<Option<(u64, Fault)>>,
    death: Mutex<Option<Death>>,
    dead: AtomicBool,
    paused: AtomicBool,
    /// So many commits from now on find no room.
    pub failures: AtomicU32,
    /// How often a commit is polled before it is begun: another group may fill while it is on its way.
    pub polls: AtomicU32,
    /// How often it was asked to give space back.
    pub compactions: AtomicU32,
    /// Whether it says that a commit is as durable as it was to be, as a disk does.
    pub durable: AtomicBool,
    /// The value that was spoiled, as it is stored.
    spoiled: Mutex<Option<(Partition, Vec<u8>, Bytes)>>,
    fired: AtomicBool,
    /// Whether the call that was to go wrong could not: a read that was to be lost, a commit that was to be corrupted.
    skipped: AtomicBool,
}

/// What became of a fault that was armed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There were not so many calls.
    NotReached,
    /// That call cannot go wrong in this way.
    Skipped,
    /// It happened.
    Fired,
}

impl Faulty {
    pub fn new(inner: MemoryBackend) -> Arc<Self> {
        Arc::new(Self {
            inner,
            journal: AtomicBool::new(false),
            file: Mutex::default(),
            calls: AtomicU64::new(0),
            armed: Mutex::new(None),
            storm: Mutex::new(None),
            death: Mutex::new(None),
            dead: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            polls: AtomicU32::new(0),
            compactions: AtomicU32::new(0),
            durable: AtomicBool::new(false),
            spoiled: Mutex::new(None),
            fired: AtomicBool::new(false),
            skipped: AtomicBool::new(false),
        })
    }

    /// One whose commits are polled once before they are begun.
    pub fn slow(inner: MemoryBackend) -> Arc<Self> {
        let faulty = Self::new(inner);
        faulty.polls.store(1, Ordering::Relaxed);
        faulty
    }

    /// Another one with the same contents, as a process that died leaves them.
    pub fn crash(&self) -> Arc<Self> {
        let faulty = Self::new(self.inner.reopen());
        faulty.polls.store(self.polls.load(Ordering::Relaxed), Ordering::Relaxed);
        faulty.file.lock().clone_from(&self.file.lock());
        faulty.with_journal(self.journal.load(Ordering::Relaxed))
    }

    /// From now on engines have a journal in front, or none.
    pub fn with_journal(self: Arc<Self>, journal: bool) -> Arc<Self> {
        self.journal.store(journal, Ordering::Relaxed);
        self
    }

    /// What an engine is opened on.
    pub async fn front(self: &Arc<Self>) -> Result<Arc<dyn StorageBackend>> {
        self.front_to(false).await
    }

    /// What is salvaged.
    pub async fn remains(self: &Arc<Self>) -> Result<Arc<dyn StorageBackend>> {
        self.front_to(true).await
    }

    async fn front_to(self: &Arc<Self>, salvage: bool) -> Result<Arc<dyn StorageBackend>> {
        if !self.journal.load(Ordering::Relaxed) {
            return Ok(Arc::clone(self) as _);
        }
        let file = FoundFile::Writable(Box::new(File(Arc::clone(self))));
        JournaledBackend::open(Arc::clone(self) as _, file, salvage).await
    }

    /// What it stores in.
    pub fn inner(&self) -> &MemoryBackend {
        &self.inner
    }

    /// The process dies at the n-th call from now, counted from 0; a commit then is there, if `applied`, or not.
    pub fn die(&self, n: u64, applied: bool) {
        *self.death.lock() = Some(Death { at: self.calls.load(Ordering::Relaxed) + n, applied });
    }

    /// It does not die after all.
    pub fn live(&self) {
        *self.death.lock() = None;
    }

    /// Whether it has died.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Calls while it is paused do not count, and nothing goes wrong with them.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// What was spoiled, if the next process still finds it.
    pub async fn spoiled(&self) -> Option<(Partition, Vec<u8>)> {
        let (partition, key, value) = self.spoiled.lock().clone()?;
        let stored = self.crash().remains().await.ok()?.get(partition, &key).await.ok()??;
        (stored == value).then_some((partition, key))
    }

    /// The n-th call from now, counted from 0, goes wrong.
    pub fn arm(&self, n: u64, fault: Fault, code: ErrorCode) {
        self.fired.store(false, Ordering::Relaxed);
        self.skipped.store(false, Ordering::Relaxed);
        *self.armed.lock() = Some((self.calls.load(Ordering::Relaxed) + n, fault, code));
    }

    /// From now on every n-th call goes wrong.
    pub fn storm(&self, every: u64, fault: Fault) {
        *self.storm.lock() = Some((every, fault));
    }

    /// No more faults. Says what became of the one that was armed.
    pub fn disarm(&self) -> Outcome {
        *self.armed.lock() = None;
        *self.storm.lock() = None;
        match (self.fired.load(Ordering::Relaxed), self.skipped.load(Ordering::Relaxed)) {
            (true, _) => Outcome::Fired,
            (false, true) => Outcome::Skipped,
            (false, false) => Outcome::NotReached,
        }
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// What goes wrong with the call that comes now. `values`: how many a commit writes.
    fn next(&self, values: Option<usize>) -> Option<(Fault, ErrorCode, u64)> {
        if self.paused.load(Ordering::Relaxed) {
            return None;
        }
        let n = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.is_dead() {
            return Some((Fault::Fail, ErrorCode::StorageClosed, n));
        }
        if let Some(death) = self.death.lock().take_if(|death| death.at <= n) {
            self.dead.store(true, Ordering::Relaxed);
            let fault = if death.applied && values.is_some() { Fault::Lose } else { Fault::Fail };
            return Some((fault, ErrorCode::StorageClosed, n));
        }
        if let Some((every, fault)) = *self.storm.lock()
            && n % every == every - 1
        {
            self.fired.store(true, Ordering::Relaxed);
            return Some((fault, ErrorCode::StorageError, n));
        }
        let mut armed = self.armed.lock();
        let (_, fault, code) = armed.take_if(|(at, ..)| *at == n)?;
        let cannot = match (fault, values) {
            (Fault::Corrupt | Fault::Tear, Some(_)) | (Fault::Lose | Fault::Spoil { .. }, None) => true,
            (Fault::Spoil { value, .. }, Some(values)) => value >= values,
            _ => false,
        };
        if cannot {
            self.skipped.store(true, Ordering::Relaxed);
            return None;
        }
        self.fired.store(true, Ordering::Relaxed);
        Some((fault, code, n))
    }

    async fn write(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        for _ in 0..self.polls.load(Ordering::Relaxed) {
            yield_once().await;
        }
        let full = |left: u32| left.checked_sub(1);
        let paused = self.paused.load(Ordering::Relaxed);
        if !paused && self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, full).is_ok() {
            return Err(KalamError::new(ErrorCode::QuotaExceeded, "no room: used 10 of 10 bytes"));
        }
        let values = batch.ops().iter().filter(|op| matches!(op, WriteOp::Put { .. })).count();
        match self.next(Some(values)) {
            None | Some((Fault::Corrupt | Fault::Tear, ..)) => self.inner.commit(batch, durability).await,
            Some((Fault::Spoil { value: spoiled, cut }, _, n)) => {
                let (mut other, mut at) = (WriteBatch::new(), 0);
                for op in batch.ops() {
                    match op {
                        WriteOp::Put { partition, key, value } => {
                            let mut value = value.clone();
                            if at == spoiled {
                                value = spoil(&value, n + at as u64, cut);
                                *self.spoiled.lock() = Some((*partition, key.clone(), value.clone()));
                            }
                            other.put(*partition, key.clone(), value);
                            at += 1;
                        }
                        WriteOp::Delete { partition, key } => {
                            other.delete(*partition, key.clone());
                        }
                        WriteOp::DeleteRange { partition, range } => {
                            other.delete_range(*partition, range.clone());
                        }
                    }
                }
                self.inner.commit(other, durability).await
            }
            Some((Fault::Fail, code, n)) => Err(error(code, n)),
            Some((Fault::Refuse, code, n)) => {
                linger().await;
                Err(error(code, n))
            }
            Some((Fault::Lose, code, n)) => {
                linger().await;
                self.inner.commit(batch, durability).await?;
                Err(error(code, n))
            }
            Some((Fault::Delay, ..)) => {
                linger().await;
                let reached = self.inner.commit(batch, durability).await;
                linger().await;
                reached
            }
        }
    }

    async fn read<T>(
        &self,
        call: impl Future<Output = Result<T>>,
        change: impl FnOnce(T, u64, &dyn Fn(&Bytes) -> Bytes) -> T,
    ) -> Result<T> {
        match self.next(None) {
            None | Some((Fault::Spoil { .. }, ..)) => call.await,
            Some((Fault::Fail, code, n)) => Err(error(code, n)),
            Some((Fault::Refuse | Fault::Lose, code, n)) => {
                linger().await;
                Err(error(code, n))
            }
            Some((Fault::Delay, ..)) => {
                linger().await;
                call.await
            }
            Some((fault, _, n)) => {
                let read = call.await?;
                Ok(change(read, n, &|value| spoil(value, n, fault == Fault::Tear)))
            }
        }
    }
}

/// Another value: cut, or with another bit.
fn spoil(value: &Bytes, n: u64, cut: bool) -> Bytes {
    if cut {
        return value.slice(..(n as usize).wrapping_mul(7919) % value.len().max(1));
    }
    let mut bytes = value.to_vec();
    if !bytes.is_empty() {
        let at = (n as usize).wrapping_mul(7919) % bytes.len();
        bytes[at] ^= 1 << (n % 8);
    }
    bytes.into()
}

fn error(code: ErrorCode, n: u64) -> KalamError {
    KalamError::new(code, format!("the storage failed at call {n}, as it was told to"))
}

/// Lets everything else that is polled beside this go on for a while.
async fn linger() {
    for _ in 0..50 {
        yield_once().await;
    }
}

async fn yield_once() {
    let mut yielded = false;
    futures::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

#[async_trait]
impl StorageBackend for Faulty {
    fn kind(&self) -> &'static str {
        "faulty"
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(self.inner.get(partition, key), |found, _, spoil| found.map(|v| spoil(&v))).await
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        self.read(self.inner.scan(partition, range, options), |mut found, n, spoil| {
            let count = found.len();
            if let Some((_, value)) = found.get_mut(n as usize % count.max(1)) {
                *value = spoil(value);
            }
            found
        })
        .await
    }

    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        let reached = self.write(batch, durability).await?;
        Ok(if self.durable.load(Ordering::Relaxed) { durability } else { reached })
    }

    async fn read_blob(&self, id: &[u8], offset: u64, length: u64) -> Result<Option<Bytes>> {
        self.read(self.inner.read_blob(id, offset, length), |found, _, spoil| found.map(|v| spoil(&v))).await
    }

    async fn stats(&self) -> Result<StorageStats> {
        self.inner.stats().await
    }

    async fn compact(&self) -> Result<()> {
        self.compactions.fetch_add(1, Ordering::Relaxed);
        self.inner.compact().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// The file of a journal in front of a backend.
#[derive(Debug)]
struct File(Arc<Faulty>);

impl JournalFile for File {
    fn read(&self) -> Result<Vec<u8>> {
        match self.0.next(None) {
            Some((Fault::Fail | Fault::Refuse | Fault::Lose, code, n)) => Err(error(code, n)),
            _ => Ok(self.0.file.lock().clone()),
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let was_dead = self.0.is_dead();
        let fault = self.0.next(Some(0));
        let dies = !was_dead && self.0.is_dead();
        let (written, outcome) = match fault {
            // The process dies in the middle of it.
            Some((Fault::Fail, code, n)) if dies && n % 2 == 1 => (bytes.len() / 2, Err(error(code, n))),
            Some((Fault::Fail, code, n)) => (0, Err(error(code, n))),
            Some((Fault::Refuse, code, n)) => (bytes.len() / 2, Err(error(code, n))),
            Some((Fault::Lose, code, n)) => (bytes.len(), Err(error(code, n))),
            _ => (bytes.len(), Ok(())),
        };
        if !was_dead && written > 0 {
            let (mut file, at) = (self.0.file.lock(), at as usize);
            let length = file.len().max(at + written);
            file.resize(length, 0);
            file[at..at + written].copy_from_slice(&bytes[..written]);
        }
        outcome
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        self.0.file.lock().resize(bytes as usize, 0);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
}
