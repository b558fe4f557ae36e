//! `_seq`: the database's one clock.
//!
//! A value is 41 bits of milliseconds since 2024-01-01, 10 bits of worker, 12 bits of counter, so it is a positive
//! BIGINT. Invariant: values handed out are strictly increasing, also when the wall clock runs backwards and across
//! reopenings, because the generator never goes below what it was last told with [`SeqGenerator::observe`]. When a
//! millisecond's counter is used up it borrows from the next one. A clock that is decades ahead is not believed: what it
//! gave would have to be exceeded for ever, and there is an end.

use parking_lot::Mutex;

use crate::platform;

/// 2024-01-01T00:00:00Z in milliseconds since the Unix epoch.
const EPOCH_MS: u64 = 1_704_067_200_000;
const COUNTER_BITS: u32 = 12;
const WORKER_BITS: u32 = 10;
const COUNTER: u64 = 1 << COUNTER_BITS;
/// Clocks are believed up to so many milliseconds since the epoch, half of what a value can tell (2058). After that, values
/// only count up.
const LATEST_MS: u64 = 1 << 40;

/// A sequence number; see the module's comment.
pub type Seq = i64;

/// Consecutive sequence numbers of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqSpan {
    first: Seq,
    len: u64,
}

impl SeqSpan {
    /// The span of `len` numbers from `first`.
    pub fn new(first: Seq, len: u64) -> Self {
        Self { first, len }
    }

    /// When a number was handed out, about, in milliseconds since the Unix epoch.
    pub fn ms_of(seq: Seq) -> u64 {
        (seq.max(0) as u64 >> (COUNTER_BITS + WORKER_BITS)) + EPOCH_MS
    }

    /// The first number.
    pub fn first(self) -> Seq {
        self.first
    }

    /// How many.
    pub fn len(self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The `i`-th number, from 0.
    pub fn get(self, i: u64) -> Seq {
        let first = self.first as u64;
        let worker = (first >> COUNTER_BITS) & ((1 << WORKER_BITS) - 1);
        let ticks = (first >> (COUNTER_BITS + WORKER_BITS)) * COUNTER + (first & (COUNTER - 1)) + i;
        compose(ticks, worker)
    }

    /// The last number, or the one before the first of an empty span.
    pub fn last(self) -> Seq {
        if self.len == 0 { self.first - 1 } else { self.get(self.len - 1) }
    }

    /// The numbers from the `offset`-th on, `len` of them.
    pub fn slice(self, offset: u64, len: u64) -> SeqSpan {
        SeqSpan { first: self.get(offset), len }
    }

    /// All numbers in order.
    pub fn iter(self) -> impl Iterator<Item = Seq> {
        (0..self.len).map(move |i| self.get(i))
    }
}

/// The lowest number that a millisecond since the Unix epoch can have.
pub fn first_seq_of_ms(ms: u64) -> Seq {
    Seq::try_from(ms.saturating_sub(EPOCH_MS) << (COUNTER_BITS + WORKER_BITS)).unwrap_or(Seq::MAX)
}

fn compose(ticks: u64, worker: u64) -> Seq {
    (((ticks / COUNTER) << (COUNTER_BITS + WORKER_BITS)) | (worker << COUNTER_BITS) | (ticks % COUNTER)) as Seq
}

/// Hands out sequence numbers.
#[derive(Debug)]
pub struct SeqGenerator {
    worker: u64,
    /// The next free tick: milliseconds since the epoch times the counter's size.
    next: Mutex<u64>,
}

impl SeqGenerator {
    /// A generator for a worker (its lowest 10 bits).
    pub fn new(worker: u16) -> Self {
        Self { worker: u64::from(worker) & ((1 << WORKER_BITS) - 1), next: Mutex::new(0) }
    }

    /// Makes sure that numbers handed out from now on are greater than `seq`.
    pub fn observe(&self, seq: Seq) {
        let seq = seq.max(0) as u64;
        // One whole millisecond further: another worker's bits may lie above this one's.
        let ticks = ((seq >> (COUNTER_BITS + WORKER_BITS)) + 1) * COUNTER;
        let mut next = self.next.lock();
        *next = (*next).max(ticks);
    }

    /// The next `len` numbers.
    pub fn take(&self, len: u64) -> SeqSpan {
        self.take_at(len, platform::now_ms())
    }

    fn take_at(&self, len: u64, now_ms: u64) -> SeqSpan {
        let now = Some(now_ms.saturating_sub(EPOCH_MS)).filter(|ms| *ms < LATEST_MS).unwrap_or(0) * COUNTER;
        let mut next = self.next.lock();
        let first = (*next).max(now);
        *next = first + len;
        SeqSpan { first: compose(first, self.worker), len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strictly_increasing_whatever_the_clock_does(
            steps in prop::collection::vec((EPOCH_MS..EPOCH_MS + 1_000_000, 1u64..10_000), 1..50), worker: u16,
        ) {
            let generator = SeqGenerator::new(worker);
            let mut last = -1;
            for (now, len) in steps {
                let span = generator.take_at(len, now);
                prop_assert!(span.first() > last);
                let mut previous = last;
                for seq in span.iter() {
                    prop_assert!(seq > previous);
                    previous = seq;
                }
                last = span.last();
                prop_assert_eq!(last, previous);
            }
            let reopened = SeqGenerator::new(worker.wrapping_add(7));
            reopened.observe(last);
            prop_assert!(reopened.take_at(1, EPOCH_MS).first() > last);
        }
    }

    #[test]
    fn a_clock_from_another_century_leaves_no_trace() {
        let generator = SeqGenerator::new(5);
        let year = 365 * 24 * 3_600_000;
        let before = generator.take_at(1, EPOCH_MS + year).first();
        for years in [35, 69, 70, 1000, 1 << 20] {
            let wrong = generator.take_at(3, EPOCH_MS + years * year);
            assert!(before < wrong.first() && wrong.first() < wrong.last());
        }
        assert!(generator.take_at(1, u64::MAX).first() > before);
        assert_eq!(SeqSpan::ms_of(generator.take_at(1, EPOCH_MS + 2 * year).first()), EPOCH_MS + 2 * year);
    }

    #[test]
    fn the_layout_is_the_specified_one() {
        let generator = SeqGenerator::new(5);
        let span = generator.take_at(1, EPOCH_MS + 3);
        assert_eq!(span.first(), (3 << 22) | (5 << 12));
        assert_eq!((first_seq_of_ms(EPOCH_MS + 3), SeqSpan::ms_of(span.first())), (3 << 22, EPOCH_MS + 3));
    }
}
