//! A device that loses power: storage and a file, each with what is flushed and what is not.

#![allow(dead_code)] // each test binary uses a part of it

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::{BoxFuture, ready};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::storage::journal::{FoundFile, JournalFile};
use kalamdb::storage::{
    Durability, KeyRange, KeyValue, MemoryBackend, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch,
};
use parking_lot::Mutex;

/// What goes wrong with the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written.
    Nothing,
    /// Half of it is written to a file; to storage nothing.
    Half,
    /// All of it is written, and an error reported.
    All,
}

/// Choices that are made elsewhere.
pub type Choose<'a> = &'a mut dyn FnMut(usize) -> usize;

/// A commit that is taken and not done.
pub type Held = (WriteBatch, Durability, oneshot::Sender<Result<Durability>>);

#[derive(Debug, Default)]
struct Parts {
    /// States of the storage from the last flushed one on.
    states: Vec<MemoryBackend>,
    file: Vec<u8>,
    flushed_file: Vec<u8>,
    /// Writes to the file that are not flushed.
    writes: Vec<(usize, Vec<u8>)>,
    fault: Option<Fault>,
    file_fault: Option<Fault>,
    /// Every write fails.
    full: bool,
    /// Commits are only taken, and done later, as a browser does them: also where their caller has gone.
    held: Option<Vec<Held>>,
    closed: bool,
}

/// The device.
#[derive(Clone, Default)]
pub struct Device(Arc<Mutex<Parts>>);

fn failed() -> KalamError {
    KalamError::new(ErrorCode::StorageError, "the device failed, as it was told to")
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").finish_non_exhaustive()
    }
}

impl Device {
    pub fn new() -> Self {
        let device = Self::default();
        device.0.lock().states.push(MemoryBackend::new());
        device
    }

    /// The device as the next process finds it; writes of this one get nowhere any more.
    pub fn crash(&self) -> Self {
        let mut parts = self.0.lock();
        let parts = std::mem::take(&mut *parts);
        Self(Arc::new(Mutex::new(Parts { fault: None, file_fault: None, full: false, closed: false, ..parts })))
    }

    /// Another one with the same contents.
    pub fn copy(&self) -> Self {
        let parts = self.0.lock();
        let states = parts.states.last().map(MemoryBackend::reopen).into_iter().collect();
        let (file, flushed_file) = (parts.file.clone(), parts.flushed_file.clone());
        Self(Arc::new(Mutex::new(Parts { states, file, flushed_file, ..Parts::default() })))
    }

    /// The device after its power was lost: of what was not flushed some is there.
    pub fn lose_power(&self, choose: Choose<'_>) -> Self {
        let mut parts = self.0.lock();
        let state = parts.states[choose(parts.states.len())].reopen();
        let mut file = parts.flushed_file.clone();
        for (at, bytes) in &parts.writes {
            // Pages get to the device in any order, each whole or in part.
            let (from, to) = match choose(4) {
                0 => (0, 0),
                1 => (0, choose(bytes.len() + 1)),
                2 => (choose(bytes.len() + 1), bytes.len()),
                _ => (0, bytes.len()),
            };
            put(&mut file, at + from, &bytes[from..to.max(from)]);
        }
        *parts = Parts::default();
        Self(Arc::new(Mutex::new(Parts { states: vec![state], flushed_file: file.clone(), file, ..Parts::default() })))
    }

    pub fn fail_storage(&self, fault: Fault) {
        self.0.lock().fault = Some(fault);
    }

    pub fn fail_file(&self, fault: Fault) {
        self.0.lock().file_fault = Some(fault);
    }

    /// Whether storage has room.
    pub fn fill(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// From now on commits are taken, and not done until [`Device::release`].
    pub fn hold(&self) {
        self.0.lock().held = Some(Vec::new());
    }

    /// Commits are done as they come again. Gives those that were taken, for [`Device::finish`].
    pub fn release(&self) -> Vec<Held> {
        self.0.lock().held.take().unwrap_or_default()
    }

    /// Does commits that were taken.
    pub async fn finish(&self, held: Vec<Held>) {
        for (batch, durability, sender) in held {
            // The caller may be gone.
            let _ = sender.send(self.commit(batch, durability).await);
        }
    }

    /// The faults that did not come.
    pub fn heal(&self) {
        let mut parts = self.0.lock();
        (parts.fault, parts.file_fault, parts.full) = (None, None, false);
    }

    pub fn file(&self) -> FoundFile {
        FoundFile::Writable(Box::new(self.clone()))
    }

    pub fn file_bytes(&self) -> Vec<u8> {
        self.0.lock().file.clone()
    }

    fn newest(&self) -> Result<MemoryBackend> {
        let parts = self.0.lock();
        if parts.closed {
            return Err(KalamError::new(ErrorCode::Closed, "the database is closed"));
        }
        parts.states.last().map(MemoryBackend::reopen).ok_or_else(failed)
    }
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    file.resize(file.len().max(at + bytes.len()), 0);
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

impl JournalFile for Device {
    fn read(&self) -> Result<Vec<u8>> {
        Ok(self.file_bytes())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let mut parts = self.0.lock();
        if parts.states.is_empty() {
            return Err(failed());
        }
        let fault = parts.file_fault.take();
        let written = match fault {
            Some(Fault::Nothing) => 0,
            Some(Fault::Half) => bytes.len() / 2,
            Some(Fault::All) | None => bytes.len(),
        };
        put(&mut parts.file, at as usize, &bytes[..written]);
        parts.writes.push((at as usize, bytes[..written].to_vec()));
        if fault.is_some() { Err(failed()) } else { Ok(()) }
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        let mut parts = self.0.lock();
        parts.file.resize(bytes as usize, 0);
        parts.flushed_file.resize(bytes as usize, 0);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let mut parts = self.0.lock();
        parts.flushed_file = parts.file.clone();
        parts.writes.clear();
        Ok(())
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(ready(()))
    }
}

#[async_trait]
impl StorageBackend for Device {
    fn kind(&self) -> &'static str {
        "device"
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        self.newest()?.get(partition, key).await
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        self.newest()?.scan(partition, range, options).await
    }

    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        let taken = self.0.lock().held.as_mut().map(|held| {
            let (sender, done) = oneshot::channel();
            held.push((batch.clone(), durability, sender));
            done
        });
        if let Some(done) = taken {
            return done.await.unwrap_or_else(|_| Err(failed()));
        }
        let next = self.newest()?;
        let fault = {
            let mut parts = self.0.lock();
            if parts.full {
                return Err(KalamError::new(ErrorCode::QuotaExceeded, "the device is full"));
            }
            parts.fault.take()
        };
        if matches!(fault, Some(Fault::Nothing | Fault::Half)) {
            return Err(failed());
        }
        next.commit(batch, durability).await?;
        let mut parts = self.0.lock();
        // What has failed may not be flushed.
        if durability == Durability::Strict && fault.is_none() {
            parts.states.clear();
        }
        parts.states.push(next);
        if fault.is_some() { Err(failed()) } else { Ok(durability.max(Durability::Relaxed)) }
    }

    async fn stats(&self) -> Result<StorageStats> {
        self.newest()?.stats().await
    }

    async fn close(&self) -> Result<()> {
        self.0.lock().closed = true;
        Ok(())
    }
}
