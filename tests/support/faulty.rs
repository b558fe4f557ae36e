//! A backend whose n-th call goes wrong.
//!
//! Invariant: exactly the calls that were armed go wrong, each in exactly one way, and what storage then holds is known:
//! after `Fail` and `Refuse` nothing of the call, after `Lose` all of it, and a corrupted read changes nothing.

#![allow(dead_code)] // each test binary uses a part of it

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::storage::{
    Durability, KeyRange, KeyValue, MemoryBackend, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch,
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
    /// A byte of a value that is read is another one.
    Corrupt,
}

impl Fault {
    pub const ALL: [Fault; 5] = [Fault::Fail, Fault::Refuse, Fault::Lose, Fault::Delay, Fault::Corrupt];
}

/// A backend in memory, which outlives what is opened on it, with faults in front.
#[derive(Debug)]
pub struct Faulty {
    inner: MemoryBackend,
    calls: AtomicU64,
    /// Which call goes wrong, how, and under which code.
    armed: Mutex<Option<(u64, Fault, ErrorCode)>>,
    /// Every so many calls go wrong, with this fault.
    storm: Mutex<Option<(u64, Fault)>>,
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
            calls: AtomicU64::new(0),
            armed: Mutex::new(None),
            storm: Mutex::new(None),
            fired: AtomicBool::new(false),
            skipped: AtomicBool::new(false),
        })
    }

    /// Another one with the same contents, as a process that died leaves them.
    pub fn crash(&self) -> Arc<Self> {
        Self::new(self.inner.reopen())
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

    fn next(&self, commit: bool) -> Option<(Fault, ErrorCode, u64)> {
        let n = self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some((every, fault)) = *self.storm.lock()
            && n % every == every - 1
        {
            self.fired.store(true, Ordering::Relaxed);
            return Some((fault, ErrorCode::StorageError, n));
        }
        let mut armed = self.armed.lock();
        let (_, fault, code) = armed.take_if(|(at, ..)| *at == n)?;
        if fault == if commit { Fault::Corrupt } else { Fault::Lose } {
            self.skipped.store(true, Ordering::Relaxed);
            return None;
        }
        self.fired.store(true, Ordering::Relaxed);
        Some((fault, code, n))
    }

    fn corrupt(&self, value: &Bytes, n: u64) -> Bytes {
        let mut bytes = value.to_vec();
        if !bytes.is_empty() {
            let at = (n as usize).wrapping_mul(7919) % bytes.len();
            bytes[at] ^= 1 << (n % 8);
        }
        bytes.into()
    }

    async fn read<T>(&self, call: impl Future<Output = Result<T>>, corrupt: impl FnOnce(T, u64) -> T) -> Result<T> {
        match self.next(false) {
            None => call.await,
            Some((Fault::Fail, code, n)) => Err(error(code, n)),
            Some((Fault::Refuse | Fault::Lose, code, n)) => {
                linger().await;
                Err(error(code, n))
            }
            Some((Fault::Delay, ..)) => {
                linger().await;
                call.await
            }
            Some((Fault::Corrupt, _, n)) => {
                let read = call.await?;
                Ok(corrupt(read, n))
            }
        }
    }
}

fn error(code: ErrorCode, n: u64) -> KalamError {
    KalamError::new(code, format!("the storage failed at call {n}, as it was told to"))
}

/// Lets everything else that is polled beside this go on for a while.
async fn linger() {
    for _ in 0..50 {
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
}

#[async_trait]
impl StorageBackend for Faulty {
    fn kind(&self) -> &'static str {
        "faulty"
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(self.inner.get(partition, key), |found, n| found.map(|v| self.corrupt(&v, n))).await
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        self.read(self.inner.scan(partition, range, options), |mut found, n| {
            let count = found.len();
            if let Some((_, value)) = found.get_mut(n as usize % count.max(1)) {
                *value = self.corrupt(value, n);
            }
            found
        })
        .await
    }

    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        match self.next(true) {
            None | Some((Fault::Corrupt, ..)) => self.inner.commit(batch, durability).await,
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

    async fn read_blob(&self, id: &[u8], offset: u64, length: u64) -> Result<Option<Bytes>> {
        self.read(self.inner.read_blob(id, offset, length), |found, n| found.map(|v| self.corrupt(&v, n))).await
    }

    async fn stats(&self) -> Result<StorageStats> {
        self.inner.stats().await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
