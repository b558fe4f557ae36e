//! A journal in front of storage whose calls take their time: tasks commit, read, and give up in every order, and at some
//! moment the process dies.
//!
//! Storage does its writes in order, whether or not their caller still waits, as a browser does. Each task writes numbers
//! that grow, each under two keys in one commit. A read shows no number below the last that was acknowledged before it
//! began; who was told that a commit failed reads what the next process finds.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::executor::block_on;
use futures::future::{Either, FutureExt, LocalBoxFuture, join_all, select};
use kalamdb::error::{KalamError, Result};
use kalamdb::storage::journal::JournaledBackend;
use kalamdb::storage::{
    Durability, KeyRange, KeyValue, Partition, ScanOptions, StorageBackend, StorageStats, WriteBatch,
};
use parking_lot::Mutex;

use crate::device::{Device, Fault};
use crate::support::turns;

const TASKS: usize = 5;
const BOTH: [Partition; 2] = [Partition::Log, Partition::Catalog];

/// Numbers that are the same in each run of a seed.
#[derive(Debug)]
struct Dice(Mutex<u64>);

impl Dice {
    fn roll(&self, sides: usize) -> usize {
        let mut x = self.0.lock();
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        (*x >> 11) as usize % sides
    }

    async fn wait(&self, most: usize) {
        turns(self.roll(most)).await;
    }
}

type Write = (WriteBatch, Durability, oneshot::Sender<Result<Durability>>);

/// Storage that takes its time.
#[derive(Debug)]
struct Slow {
    device: Device,
    dice: Arc<Dice>,
    writes: Mutex<VecDeque<Write>>,
}

impl Slow {
    /// Does writes for ever; one of so many fails, done or not.
    async fn serve(&self, failing: usize) {
        loop {
            self.dice.wait(6).await;
            turns(1).await;
            let Some((batch, durability, sender)) = self.writes.lock().pop_front() else { continue };
            if failing > 0 && self.dice.roll(failing) == 0 {
                self.device.fail_storage(if self.dice.roll(2) == 0 { Fault::Nothing } else { Fault::All });
            }
            let outcome = self.device.commit(batch, durability).await;
            self.dice.wait(4).await;
            // The caller may be gone.
            let _ = sender.send(outcome);
        }
    }

    async fn slowly<T>(&self, call: impl Future<Output = T>) -> T {
        self.dice.wait(4).await;
        let answer = call.await;
        self.dice.wait(4).await;
        answer
    }
}

#[async_trait]
impl StorageBackend for Slow {
    fn kind(&self) -> &'static str {
        "slow"
    }

    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        self.slowly(self.device.get(partition, key)).await
    }

    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        self.slowly(self.device.scan(partition, range, options)).await
    }

    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        let (sender, done) = oneshot::channel();
        self.writes.lock().push_back((batch, durability, sender));
        done.await.map_err(|_| KalamError::internal("nobody serves"))?
    }

    async fn stats(&self) -> Result<StorageStats> {
        self.slowly(self.device.stats()).await
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// The numbers of one task.
#[derive(Debug, Clone, Copy, Default)]
struct Numbers {
    /// No state has one below it.
    least: u32,
    /// No state has one above it.
    most: u32,
}

struct Race<'a> {
    backend: Arc<dyn StorageBackend>,
    dice: &'a Dice,
    numbers: RefCell<[Numbers; TASKS]>,
}

impl Race<'_> {
    async fn writer(&self, task: usize) {
        let first = self.numbers.borrow()[task].most + 1;
        for n in first.. {
            self.dice.wait(5).await;
            let mut batch = WriteBatch::new();
            let length = if self.dice.roll(10) == 0 { 20_000 } else { 4 };
            if self.dice.roll(6) == 0 {
                for partition in BOTH {
                    batch.delete_range(partition, KeyRange::prefix(&[task as u8]));
                }
            }
            for partition in BOTH {
                let mut value = u32::to_le_bytes(n).to_vec();
                value.resize(length, 0);
                batch.put(partition, vec![task as u8], value);
            }
            let asked = if self.dice.roll(12) == 0 { Durability::Strict } else { Durability::Relaxed };
            self.numbers.borrow_mut()[task].most = n;
            let commit = self.backend.commit(batch, asked);
            let patience = if self.dice.roll(8) == 0 { self.dice.roll(12) } else { usize::MAX };
            let outcome = match select(commit, turns(patience).boxed_local()).await {
                Either::Left((outcome, _)) => Some(outcome),
                Either::Right(_) => None,
            };
            match outcome {
                Some(Ok(_)) => self.numbers.borrow_mut()[task].least = n,
                Some(Err(_)) => {
                    let partition = BOTH[self.dice.roll(2)];
                    let Ok(found) = self.backend.get(partition, &[task as u8]).await else { continue };
                    let shown = found.map_or(0, |value| number(&value));
                    let mut numbers = self.numbers.borrow_mut();
                    assert!(numbers[task].least <= shown && shown <= n, "{task}: {shown} after {n} failed");
                    numbers[task] = Numbers { least: shown, most: shown };
                }
                None => {}
            }
        }
    }

    async fn reader(&self) {
        loop {
            self.dice.wait(20).await;
            turns(1).await;
            let (partition, reverse) = (BOTH[self.dice.roll(2)], self.dice.roll(2) == 0);
            let before = *self.numbers.borrow();
            let limit = (self.dice.roll(2) == 0).then(|| 1 + self.dice.roll(TASKS));
            let (range, options) = (KeyRange::all(), ScanOptions { limit, reverse });
            let read = self.backend.scan(partition, &range, options);
            let patience = if self.dice.roll(4) == 0 { self.dice.roll(12) } else { usize::MAX };
            let Either::Left((Ok(found), _)) = select(read, turns(patience).boxed_local()).await else { continue };
            let mut expected: Vec<usize> = (0..TASKS).filter(|&task| before[task].least > 0).collect();
            if reverse {
                expected.reverse();
            }
            expected.truncate(limit.unwrap_or(TASKS));
            for task in expected {
                let shown = found.iter().find(|(key, _)| key[0] as usize == task).map(|(_, value)| number(value));
                // Others may have come before it, within the limit.
                if let Some(shown) = shown.or_else(|| limit.is_none().then_some(0)) {
                    assert!(shown >= before[task].least, "{task}: {shown} was read, {before:?}");
                }
            }
        }
    }
}

fn number(value: &[u8]) -> u32 {
    u32::from_le_bytes(*value.first_chunk().expect("a number"))
}

async fn race(seed: u64) -> Result<()> {
    let dice = Arc::new(Dice(Mutex::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)));
    let mut device = Device::new();
    let mut numbers = [Numbers::default(); TASKS];
    for _ in 0..20 {
        let inner = Arc::new(Slow { device: device.clone(), dice: Arc::clone(&dice), writes: Mutex::default() });
        let failing = [0, 2, 8][dice.roll(3)];
        let open = JournaledBackend::open(Arc::clone(&inner) as _, device.file(), false).boxed_local();
        let serving = inner.serve(failing).boxed_local();
        let Either::Left((backend, serving)) = select(open, serving).await else { unreachable!("it serves for ever") };
        // The engine reads what there is before anybody writes.
        let race = Race { backend: backend?, dice: &dice, numbers: RefCell::new(numbers) };
        let mut tasks: Vec<LocalBoxFuture<'_, ()>> = (0..TASKS).map(|task| race.writer(task).boxed_local()).collect();
        tasks.extend([serving, race.reader().boxed_local(), race.reader().boxed_local()]);
        // All of them go on until the process dies.
        select(join_all(tasks), turns(10 + dice.roll([40, 400][dice.roll(2)])).boxed_local()).await;
        numbers = *race.numbers.borrow();
        let queued = std::mem::take(&mut *inner.writes.lock());
        device.heal();
        for (batch, durability, _) in queued.into_iter().take(dice.roll(2)) {
            // The browser ends what it has begun.
            device.commit(batch, durability).await?;
        }
        device = device.crash();
        let backend = JournaledBackend::open(Arc::new(device.copy()), device.copy().file(), false).await?;
        for (task, numbers) in numbers.iter_mut().enumerate() {
            let mut shown = [0; 2];
            for (shown, partition) in shown.iter_mut().zip(BOTH) {
                *shown = backend.get(partition, &[task as u8]).await?.map_or(0, |value| number(&value));
            }
            assert_eq!(shown[0], shown[1], "half of a commit");
            let Numbers { least, most } = *numbers;
            assert!((least..=most).contains(&shown[0]), "{task}: {} was found, {numbers:?}", shown[0]);
            *numbers = Numbers { least: shown[0], most: shown[0] };
        }
    }
    Ok(())
}

#[test]
fn nothing_is_lost_whatever_meets() -> Result<()> {
    let cases = std::env::var("KALAM_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    for seed in 1..=cases {
        block_on(race(seed)).map_err(|e| e.in_context(format_args!("seed {seed}")))?;
    }
    Ok(())
}
