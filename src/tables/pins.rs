//! Which snapshots are being read, and which scopes must stay where they are.
//!
//! Invariant: nobody reads a snapshot below [`Pins::horizon`]. A pin takes the newest snapshot and registers it under
//! one lock, the horizon is computed under the same lock, and the newest snapshot only grows: so a pin that comes after
//! the horizon was computed is not below it, and one that came before was counted. What had ended at the horizon can be
//! forgotten.
//!
//! Pins are counted by *epoch* as well: whoever takes something away that readers may need ends an epoch, and does so when
//! all pins of that one and of those before it are gone. Unlike a snapshot, an epoch ends without a commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures::channel::oneshot;
use parking_lot::Mutex;

use super::log::ScopeKey;
use super::seq::Seq;

/// The newest snapshot, those that are read, and the scopes that are held; see the module's comment.
#[derive(Debug)]
pub struct Pins {
    /// The newest snapshot that readers may use.
    watermark: AtomicI64,
    read: Mutex<Read>,
    held: Mutex<Held>,
}

/// How many pins there are.
#[derive(Debug, Default)]
struct Read {
    snapshots: BTreeMap<Seq, usize>,
    epochs: BTreeMap<u64, usize>,
    /// The epoch of pins that are taken now.
    epoch: u64,
}

fn release<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// Who waits until nobody holds all.
    waiting: Vec<oneshot::Sender<()>>,
    scopes: HashMap<ScopeKey, usize>,
}

impl Pins {
    /// No pins yet; the newest snapshot is `watermark`.
    pub fn new(watermark: Seq) -> Arc<Self> {
        Arc::new(Self { watermark: AtomicI64::new(watermark), read: Mutex::default(), held: Mutex::default() })
    }

    /// The newest snapshot.
    pub fn watermark(&self) -> Seq {
        self.watermark.load(Ordering::Acquire)
    }

    /// Moves the newest snapshot up.
    pub fn advance(&self, to: Seq) {
        self.watermark.fetch_max(to, Ordering::AcqRel);
    }

    /// The newest snapshot, kept readable until the pin is dropped.
    pub fn pin(self: &Arc<Self>) -> SnapshotPin {
        let mut read = self.read.lock();
        let seq = self.watermark();
        let epoch = read.epoch;
        *read.snapshots.entry(seq).or_default() += 1;
        *read.epochs.entry(epoch).or_default() += 1;
        SnapshotPin { pins: Arc::clone(self), seq, epoch }
    }

    /// Ends an epoch: pins that are taken from now on belong to the next one.
    pub fn end_epoch(&self) -> u64 {
        let mut read = self.read.lock();
        read.epoch += 1;
        read.epoch - 1
    }

    /// Whether no pin of an epoch that was ended, or of one before it, is left.
    pub fn is_over(&self, epoch: u64) -> bool {
        self.read.lock().epochs.keys().next().is_none_or(|oldest| *oldest > epoch)
    }

    /// No snapshot below this one is read, now or later.
    pub fn horizon(&self) -> Seq {
        let read = self.read.lock();
        let watermark = self.watermark();
        read.snapshots.keys().next().map_or(watermark, |oldest| watermark.min(*oldest))
    }

    /// Keeps a scope, or all of them, from being rewritten until the hold is dropped.
    pub fn hold(self: &Arc<Self>, scope: Option<&ScopeKey>) -> ScopeHold {
        let mut held = self.held.lock();
        match scope {
            Some(scope) => *held.scopes.entry(scope.clone()).or_default() += 1,
            None => held.all += 1,
        }
        ScopeHold { pins: Arc::clone(self), scope: scope.cloned() }
    }

    /// Ends when nobody holds all scopes: a statement does for as long as it takes, a transaction never does.
    pub async fn all_released(&self) {
        loop {
            let released = {
                let mut held = self.held.lock();
                if held.all == 0 {
                    return;
                }
                let (sender, released) = oneshot::channel();
                held.waiting.push(sender);
                released
            };
            // Sent or dropped: it is looked again.
            let _ = released.await;
        }
    }

    /// Whether somebody holds a scope.
    pub fn is_held(&self, scope: &ScopeKey) -> bool {
        let held = self.held.lock();
        held.all > 0 || held.scopes.contains_key(scope)
    }
}

/// Keeps a snapshot readable; see [`Pins`].
#[derive(Debug)]
pub struct SnapshotPin {
    pins: Arc<Pins>,
    seq: Seq,
    epoch: u64,
}

impl SnapshotPin {
    /// The snapshot.
    pub fn seq(&self) -> Seq {
        self.seq
    }
}

impl Drop for SnapshotPin {
    fn drop(&mut self) {
        let mut read = self.pins.read.lock();
        release(&mut read.snapshots, &self.seq);
        release(&mut read.epochs, &self.epoch);
    }
}

/// Keeps the rows of a scope, or of all of them, at their positions: no flush and no compaction moves them.
#[derive(Debug)]
pub struct ScopeHold {
    pins: Arc<Pins>,
    /// `None`: every scope.
    scope: Option<ScopeKey>,
}

impl Drop for ScopeHold {
    fn drop(&mut self) {
        let mut held = self.pins.held.lock();
        match &self.scope {
            None => {
                held.all -= 1;
                if held.all == 0 {
                    for waiter in held.waiting.drain(..) {
                        // Nobody may be waiting any more.
                        let _ = waiter.send(());
                    }
                }
            }
            Some(scope) => {
                if let Some(count) = held.scopes.get_mut(scope) {
                    *count -= 1;
                    if *count == 0 {
                        held.scopes.remove(scope);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_horizon_is_the_oldest_pin() {
        let pins = Pins::new(10);
        assert_eq!(pins.horizon(), 10);
        let (a, b) = (pins.pin(), pins.pin());
        pins.advance(20);
        let c = pins.pin();
        assert_eq!((a.seq(), c.seq(), pins.horizon()), (10, 20, 10));
        drop(a);
        assert_eq!(pins.horizon(), 10);
        drop(b);
        assert_eq!(pins.horizon(), 20);
        pins.advance(30);
        assert_eq!(pins.horizon(), 20);
        drop(c);
        pins.advance(5);
        assert_eq!(pins.horizon(), 30);
    }

    #[test]
    fn an_epoch_is_over_with_its_last_pin() {
        let pins = Pins::new(0);
        let a = pins.pin();
        let first = pins.end_epoch();
        let b = pins.pin();
        let second = pins.end_epoch();
        let later = pins.pin();
        assert!(!pins.is_over(first) && !pins.is_over(second));
        drop(b);
        // One of an earlier epoch is left.
        assert!(!pins.is_over(first) && !pins.is_over(second));
        drop(a);
        assert!(pins.is_over(first) && pins.is_over(second));
        let third = pins.end_epoch();
        assert!(!pins.is_over(third));
        drop(later);
        assert!(pins.is_over(third));
    }

    #[test]
    fn holds_are_counted() {
        let pins = Pins::new(0);
        let scope = ScopeKey { table_no: 1, user: None };
        let (a, b) = (pins.hold(Some(&scope)), pins.hold(Some(&scope)));
        drop(a);
        assert!(pins.is_held(&scope));
        drop(b);
        assert!(!pins.is_held(&scope));
        let all = pins.hold(None);
        assert!(pins.is_held(&scope));
        drop(all);
        assert!(!pins.is_held(&scope));
    }
}
