//! The moment in which a rewrite takes effect in memory: some hot rows or segments go, a segment with the same rows comes.
//!
//! A rewrite reads its rows while others write. Invariant: [`HotTable::switch`] runs under the commits lock and either
//! refuses, because its sources are not what they were, or leaves a scope that shows the same rows to every snapshot: of
//! each row that was taken over, how and when it ended is read again from its old place at that very moment. Rows that
//! were left out had ended before every snapshot that can still be read.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::chunk::{Chunk, LIVE};
use super::cold::ColdTier;
use super::hot::{HotTable, State, locate};
use super::rewrite::Ends;
use super::segment::{DeleteVector, Segment, cold_row};
use super::seq::Seq;
use crate::error::{KalamError, Result};

/// What a rewrite changes.
#[derive(Debug, Default)]
pub struct Switch {
    /// The positions of hot rows that go: all there are, up to some position.
    pub hot: Option<Range<u64>>,
    /// Segments that go.
    pub remove: Vec<Arc<Segment>>,
    /// The segment that comes, and of each of its rows the position where it lay before.
    pub add: Option<(Arc<Segment>, Vec<u64>)>,
}

/// What of the scope's log says nothing any more that the manifest does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogCut {
    /// Nothing.
    Nothing,
    /// Records that begin at or below a `_seq`.
    Through(Seq),
    /// Everything.
    All,
}

/// What a switch asks storage to write, in the same transaction.
#[derive(Debug)]
pub struct Switched {
    /// Segments whose manifest records are to be written.
    pub write: Vec<Arc<Segment>>,
    /// What goes from the log.
    pub cut: LogCut,
    /// The next segment's number.
    pub next_segment: u32,
}

impl HotTable {
    /// A number for a new segment.
    pub fn take_segment_number(&self) -> u32 {
        let mut state = self.state.write();
        state.next_segment += 1;
        state.next_segment - 1
    }

    /// Puts the segments in place that the manifest names, before the log is replayed.
    pub fn set_cold(&mut self, segments: Vec<Arc<Segment>>, next_segment: u32, retired: Vec<u32>) {
        let state = self.state.get_mut();
        state.cold = ColdTier::new(segments, 0);
        state.next_segment = next_segment;
        state.retired = retired;
    }

    /// Whether delete vectors have changed since they were written.
    pub fn has_new_marks(&self) -> bool {
        !self.state.read().dirty.is_empty()
    }

    /// How many changes of delete vectors the log holds that the manifest does not, and the `_seq` of the first.
    pub fn logged_marks(&self) -> Option<(u64, Seq)> {
        self.state.read().logged_marks
    }

    /// Numbers of the segments that were replaced and whose blobs are still there.
    pub fn retired(&self) -> Vec<u32> {
        self.state.read().retired.clone()
    }

    /// Forgets segments whose blobs are gone.
    pub fn forget_retired(&self, numbers: &[u32]) {
        self.state.write().retired.retain(|n| !numbers.contains(n));
    }

    /// Takes a rewrite over, or gives `None` if its sources have changed. No snapshot below `horizon` is read; tombstones
    /// from before `retained_since` are forgotten.
    pub fn switch(&self, switch: &Switch, horizon: Seq, retained_since: Seq) -> Result<Option<Switched>> {
        let mut state = self.state.write();
        if let Some(taken) = &switch.hot {
            let first = state.chunks.first().map_or(state.next, |c| c.base);
            if first != taken.start || state.next < taken.end {
                return Ok(None);
            }
        }
        let is_there = |s: &Arc<Segment>| state.cold.get(s.meta().number).is_some_and(|now| Arc::ptr_eq(now, s));
        if !switch.remove.iter().all(is_there) {
            return Ok(None);
        }
        let marks = match &switch.add {
            Some((_, places)) => state.carried_marks(places)?,
            None => DeleteVector::new(),
        };
        let cut = match &switch.hot {
            Some(taken) if !taken.is_empty() => state.drop_hot(self, taken.end)?,
            _ => LogCut::Nothing,
        };
        let cut = if state.chunks.is_empty() { LogCut::All } else { cut };

        let removed: Vec<u32> = switch.remove.iter().map(|s| s.meta().number).collect();
        let mut segments: Vec<Arc<Segment>> = state.cold.segments().to_vec();
        segments.retain(|s| !removed.contains(&s.meta().number));
        if let Some((segment, _)) = &switch.add {
            segment.change_marks(|own| *own = marks);
            segments.push(Arc::clone(segment));
            state.dirty.insert(segment.meta().number);
        }
        state.cold = ColdTier::new(segments, state.cold.version() + 1);
        let dirty = std::mem::take(&mut state.dirty);
        state.logged_marks = None;
        let write: Vec<Arc<Segment>> = dirty.iter().filter_map(|n| state.cold.get(*n).map(Arc::clone)).collect();
        for segment in &write {
            segment.change_marks(|marks| {
                marks.fold(horizon);
                marks.drop_tombstones(retained_since);
            });
        }
        state.retired.extend(removed);
        Ok(Some(Switched { write, cut, next_segment: state.next_segment }))
    }
}

impl State {
    /// Drops the hot rows below a position. Says what that leaves of the log: their records, and those of what ended
    /// them, lie at or below the last one's `_seq`, or say what the manifest says too.
    fn drop_hot(&mut self, table: &HotTable, below: u64) -> Result<LogCut> {
        let last = locate(&self.chunks, below - 1).map(|(chunk, row)| chunk.seqs.value(row));
        let last = last.ok_or_else(|| KalamError::internal(format_args!("no row at position {}", below - 1)))?;
        let mut rest: Vec<Arc<Chunk>> = Vec::new();
        for chunk in self.chunks.iter().filter(|c| c.end() > below) {
            // A chunk that grew by merging since the rewrite began is cut.
            rest.push(match below.checked_sub(chunk.base) {
                None | Some(0) => Arc::clone(chunk),
                Some(skip) => Arc::new(chunk.tail(usize::try_from(skip).unwrap_or(usize::MAX))),
            });
        }
        let kept: u64 = rest.iter().map(|c| c.len() as u64).sum();
        let dropped = self.chunks.iter().map(|c| c.len() as u64).sum::<u64>() - kept;
        let rebuild = self.index.is_some() && kept < dropped;
        if !rebuild {
            self.forget_keys(&table.key, below);
        }
        // Built again from what is left when it is next asked.
        self.indexes.forget();
        let before = std::mem::replace(&mut self.chunks, Arc::new(rest));
        if rebuild {
            match self.index_of_all(&table.key) {
                Ok(index) => self.index = Some(index),
                Err(error) => {
                    self.chunks = before;
                    return Err(error);
                }
            }
        }
        self.live = self.chunks.iter().map(|c| (c.len() - c.superseded_rows()) as u64).sum();
        self.bytes = self.chunks.iter().map(|c| c.bytes).sum();
        table.forget_growth(self);
        Ok(LogCut::Through(last))
    }

    /// How the rows at some positions, hot or cold, have ended: the delete vector of a segment that holds them in this
    /// order.
    fn carried_marks(&self, places: &[u64]) -> Result<DeleteVector> {
        let mut recent: BTreeMap<Seq, (RoaringBitmap, RoaringBitmap)> = BTreeMap::new();
        let mut tombstones: BTreeMap<Seq, RoaringBitmap> = BTreeMap::new();
        let mut gone = RoaringBitmap::new();
        let mut sources: HashMap<u32, Ends> = HashMap::new();
        for (row, &place) in (0..).zip(places) {
            let (at, deleted) = match cold_row(place) {
                None => {
                    let (chunk, old) = locate(&self.chunks, place)
                        .ok_or_else(|| KalamError::internal(format_args!("no row at position {place}")))?;
                    match chunk.superseded(old) {
                        LIVE => continue,
                        at => (Some(at), chunk.deleted_at(old)),
                    }
                }
                Some((number, old)) => {
                    let ends = sources
                        .entry(number)
                        .or_insert_with(|| Ends::of(self.cold.get(number).map(|s| s.marks()).unwrap_or_default()));
                    if !ends.marks.has_ended(old) {
                        continue;
                    }
                    (ends.recent.get(&old).copied(), ends.deleted.get(&old).copied())
                }
            };
            match (at, deleted) {
                (Some(at), deleted) => {
                    let entry = recent.entry(at).or_default();
                    entry.0.insert(row);
                    if deleted.is_some() {
                        entry.1.insert(row);
                    }
                }
                (None, Some(at)) => {
                    tombstones.entry(at).or_default().insert(row);
                }
                (None, None) => {
                    gone.insert(row);
                }
            }
        }
        let mut marks = DeleteVector::new();
        // Rows that ended while they were read, and so long ago by now that nobody remembers when.
        marks.mark(Seq::MIN, &gone, &RoaringBitmap::new());
        marks.fold(Seq::MIN);
        for (at, (rows, deleted)) in &recent {
            marks.mark(*at, rows, deleted);
        }
        for (at, rows) in &tombstones {
            marks.keep_tombstones(*at, rows);
        }
        Ok(marks)
    }
}
