//! What is known of a journal: its file, its marker, and the commits that wait in it.
//!
//! Invariant: `waiting` are the commits behind the marker, in order, and the file holds their frames. Those of this engine's own
//! epoch, the only one that it adds to, end at `end` with the checksum `chain`. A number is given once: also to a commit whose
//! frame could not be written, which the next marker then passes over.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::future::{BoxFuture, Shared};
use uuid::Uuid;

use super::frames::{self, FRAMES_AT, Frame, JournalId, ReadFrame, damaged, u64_at};
use super::{FoundFile, JournalFile};
use crate::error::{KalamError, Result};
use crate::storage::record::{self, RecordKind};
use crate::storage::{Durability, KeyRange, Partition, StorageBackend, WriteBatch, WriteOp};

/// Size of the file in bytes. All of it is taken when the file is made: a file that grows asks the browser each time.
const CAPACITY: u64 = 1 << 20;

/// Commits whose frames are larger go past the journal.
const MOST_FRAME: usize = 32 << 10;

/// The marker's key in [`Partition::Meta`].
pub(super) const MARKER_KEY: &[u8] = b"journal";

/// What the storage below says of its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub id: JournalId,
    /// Number of the last commit that is carried over.
    pub applied: u64,
    /// Changed by every commit that goes past the journal.
    pub epoch: u64,
}

/// A commit of the storage below.
pub(super) type Writing = Shared<BoxFuture<'static, Result<Durability>>>;

#[derive(Debug)]
pub(super) struct State {
    /// Nothing where frames cannot be written, or not any more.
    pub file: Option<Box<dyn JournalFile>>,
    /// The marker below.
    pub marker: Marker,
    /// Whether there is one.
    pub marked: bool,
    /// Whether its epoch is this engine's, and no write that came to a bad end was made under it.
    pub own_epoch: bool,
    /// Commits in the file that are not carried over.
    pub waiting: Vec<Frame>,
    pub waiting_bytes: usize,
    /// Number of the last commit that was given one.
    pub last: u64,
    /// Where the next frame goes.
    pub end: u64,
    /// The checksum that it is begun with.
    pub chain: u32,
    /// That of the next commit that goes past the journal.
    pub next_epoch: u64,
    /// Commits that go past the journal, or wait to.
    pub passing: usize,
    /// The write below that is under way, or has failed.
    pub writing: Option<Writing>,
    /// It has failed, or nobody waits for it any more: the marker says what became of it.
    pub doubtful: bool,
    /// Somebody looks whether there is a pause.
    pub watched: bool,
    /// What waits is being carried over because it is much.
    pub carrying: bool,
}

impl State {
    /// The state of a journal that is new, with its file; nothing if the file does not take or give what it should.
    pub fn begun(file: Box<dyn JournalFile>) -> Option<Self> {
        let id = *Uuid::new_v4().as_bytes();
        let header = frames::header(&id);
        let made = file.resize(CAPACITY).and_then(|()| file.write(0, &header)).and_then(|()| file.flush());
        let read = made.and_then(|()| file.read());
        if !read.is_ok_and(|bytes| bytes.len() as u64 == CAPACITY && bytes.starts_with(&header)) {
            return None;
        }
        let mut state = Self::without_file(Marker { id, applied: 0, epoch: 0 });
        state.file = Some(file);
        state.marked = false;
        Some(state)
    }

    pub fn without_file(marker: Marker) -> Self {
        Self {
            file: None,
            marker,
            marked: true,
            own_epoch: false,
            waiting: Vec::new(),
            waiting_bytes: 0,
            last: marker.applied,
            end: FRAMES_AT,
            chain: frames::first_chain(&marker.id),
            next_epoch: Uuid::new_v4().as_u64_pair().1,
            passing: 0,
            writing: None,
            doubtful: false,
            watched: false,
            carrying: false,
        }
    }

    /// The state that an earlier engine left, up to the first commit that is missing or damaged, and what that is.
    pub fn taken_up(marker: Marker, found: FoundFile) -> Result<(Self, Option<KalamError>)> {
        let (bytes, file) = match found {
            FoundFile::Writable(file) => (file.read()?, Some(file)),
            FoundFile::ReadOnly(bytes) => (bytes, None),
            FoundFile::None(why) => return Err(why),
        };
        let Some(frames) = frames::read(&Bytes::from(bytes), &marker.id)? else {
            return Err(damaged(format!(
                "its file is gone; the database has its commits up to number {}, and later ones, if there were any, are lost",
                marker.applied
            )));
        };
        let (mut state, mut lost) = (Self::without_file(marker), None);
        let behind = frames.into_iter().skip_while(|frame| frame.number <= marker.applied);
        for ReadFrame { number, batch, .. } in behind.take_while(|frame| frame.epoch == marker.epoch) {
            let expected = state.last + 1;
            lost = match batch {
                _ if number != expected => Some(format!("commit {expected} is missing, the next one is {number}")),
                None => Some(format!("commit {number} is damaged, and later ones were built on it")),
                Some(batch) => {
                    state.last = number;
                    state.waiting.push(Frame { number, batch });
                    continue;
                }
            };
            break;
        }
        state.waiting_bytes = state.waiting.iter().map(|frame| frames::frame_bytes(&frame.batch)).sum();
        state.file = file;
        Ok((state, lost.map(damaged)))
    }

    /// Writes a commit to the file, if it may be written there. Else gives it back.
    pub fn append(&mut self, batch: WriteBatch) -> Result<(), WriteBatch> {
        let bytes = frames::frame_bytes(&batch);
        let is_open = self.own_epoch && self.passing == 0 && !self.doubtful;
        let Some(file) = self.file.as_ref().filter(|_| is_open && bytes <= MOST_FRAME) else { return Err(batch) };
        if batch.is_empty() || self.end + bytes as u64 > CAPACITY {
            return Err(batch);
        }
        let (number, epoch) = (self.last + 1, self.marker.epoch);
        let (frame, chain) = frames::encode(&batch, number, epoch, self.chain);
        self.last = number;
        if file.write(self.end, &frame).is_err() {
            // Some of it may be there. Its number is passed over by the marker of the commit below that follows now, and
            // should that fail too, it is not to be read.
            let _ = file.write(self.end, &[0; 8]).and_then(|()| file.flush());
            self.file = None;
            return Err(batch);
        }
        self.end += bytes as u64;
        self.chain = chain;
        self.waiting.push(Frame { number, batch });
        self.waiting_bytes += bytes;
        Ok(())
    }

    /// The changes that wait and the marker that says that they were carried over, unless it says so already. (A commit
    /// whose frame could not be written has a number and no changes.)
    pub fn carried_along(&self) -> Option<(WriteBatch, Marker)> {
        let marker = Marker { applied: self.last, ..self.marker };
        (self.marked && marker != self.marker).then(|| (self.waiting_changes(), marker))
    }

    /// What a commit that goes past the journal takes along: the changes that wait, and the marker, which is the old one if
    /// nothing waits and the commit is to be flushed.
    pub fn passed_along(&mut self, batch: &WriteBatch, durability: Durability) -> (WriteBatch, Marker) {
        let removes = |op: &WriteOp| matches!(op, WriteOp::DeleteRange { partition: Partition::Meta, .. });
        let is_carried = self.own_epoch && self.last == self.marker.applied;
        if is_carried && durability == Durability::Strict && !batch.ops().iter().any(removes) {
            return (WriteBatch::new(), self.marker);
        }
        let marker = Marker { applied: self.last, epoch: self.next_epoch, ..self.marker };
        self.next_epoch = self.next_epoch.wrapping_add(1);
        (self.waiting_changes(), marker)
    }

    /// What the commits that wait change together.
    pub fn waiting_changes(&self) -> WriteBatch {
        merged(self.waiting.iter().flat_map(|frame| frame.batch.ops()))
    }

    /// The storage below has taken all commits up to the marker's.
    pub fn carried(&mut self, marker: Marker) {
        self.own_epoch |= marker.epoch != self.marker.epoch;
        self.marker = marker;
        self.marked = true;
        self.waiting.retain(|frame| frame.number > marker.applied);
        self.waiting_bytes = self.waiting.iter().map(|frame| frames::frame_bytes(&frame.batch)).sum();
        if self.waiting.is_empty() {
            (self.end, self.chain) = (FRAMES_AT, frames::first_chain(&marker.id));
        }
    }

    /// Whether a commit that waits may change what lies in a range.
    pub fn touches(&self, partition: Partition, range: &KeyRange) -> bool {
        self.waiting.iter().flat_map(|frame| frame.batch.ops()).any(|op| match op {
            WriteOp::Put { partition: p, key, .. } | WriteOp::Delete { partition: p, key } => {
                *p == partition && range.contains(key)
            }
            WriteOp::DeleteRange { partition: p, range: other } => *p == partition && overlap(range, other),
        })
    }
}

/// Whether two ranges may have a key in common.
fn overlap(one: &KeyRange, other: &KeyRange) -> bool {
    let ends_before = |one: &KeyRange, other: &KeyRange| match (&one.to, &other.from) {
        (Some(to), Some(from)) => to <= from,
        _ => false,
    };
    !ends_before(one, other) && !ends_before(other, one)
}

/// Makes changes in the records of a range.
pub(super) fn apply(
    changes: &WriteBatch,
    records: &mut BTreeMap<Vec<u8>, Bytes>,
    partition: Partition,
    range: &KeyRange,
) {
    for op in changes.ops() {
        match op {
            WriteOp::Put { partition: p, key, value } if *p == partition && range.contains(key) => {
                records.insert(key.clone(), value.clone());
            }
            WriteOp::Delete { partition: p, key } if *p == partition => drop(records.remove(key)),
            WriteOp::DeleteRange { partition: p, range: deleted } if *p == partition => {
                records.retain(|key, _| !deleted.contains(key));
            }
            _ => {}
        }
    }
}

/// Operations without those that a later one makes void.
fn merged<'a>(ops: impl Iterator<Item = &'a WriteOp>) -> WriteBatch {
    let mut kept: Vec<Option<&WriteOp>> = Vec::new();
    let mut places: HashMap<(Partition, &[u8]), usize> = HashMap::new();
    for op in ops {
        match op {
            WriteOp::Put { partition, key, .. } | WriteOp::Delete { partition, key } => {
                if let Some(earlier) = places.insert((*partition, key), kept.len()) {
                    kept[earlier] = None;
                }
            }
            WriteOp::DeleteRange { partition, range } => places.retain(|(p, key), place| {
                let is_void = p == partition && range.contains(key);
                if is_void {
                    kept[*place] = None;
                }
                !is_void
            }),
        }
        kept.push(Some(op));
    }
    WriteBatch { ops: kept.into_iter().flatten().cloned().collect() }
}

impl Marker {
    pub fn put(&self, batch: &mut WriteBatch) {
        let payload = [&self.id[..], &self.applied.to_le_bytes(), &self.epoch.to_le_bytes()].concat();
        batch.put(Partition::Meta, MARKER_KEY, record::seal(RecordKind::Entity, MARKER_KEY, &payload));
    }
}

pub(super) async fn read_marker(inner: &dyn StorageBackend) -> Result<Option<Marker>> {
    let Some(value) = inner.get(Partition::Meta, MARKER_KEY).await? else { return Ok(None) };
    let payload = record::open(RecordKind::Entity, MARKER_KEY, &value).map_err(|error| {
        damaged(format!("its marker cannot be read: {}", error.message()))
            .with_hint("`rescue` reads what the database holds without it.")
    })?;
    let Some((id, numbers)) = payload.split_first_chunk().filter(|(_, numbers)| numbers.len() == 16) else {
        return Err(damaged(format!("the marker has {} bytes, expected 32", payload.len())));
    };
    Ok(Some(Marker { id: *id, applied: u64_at(numbers, 0), epoch: u64_at(numbers, 8) }))
}

pub(super) fn is_marker(partition: Partition, key: &[u8]) -> bool {
    partition == Partition::Meta && key == MARKER_KEY
}
