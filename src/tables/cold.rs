//! The cold half of a table scope in memory: its segments, and what a change ends in them.
//!
//! Invariant: a [`ColdTier`] never changes; a rewrite puts another one in its place, with a greater version, under the
//! lock of the hot tier's state. So whoever has a view of a scope has rows of one moment, and whoever looked keys up at
//! a version knows that none of them became live as long as the version is the same: rows of a segment only end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::bytes::Cursor;
use super::segment::{Segment, cold_row, encode_bitmap, read_bitmap};
use super::seq::Seq;
use crate::error::Result;

/// The segments of a scope; see the module's comment.
#[derive(Debug, Clone, Default)]
pub struct ColdTier {
    segments: Arc<Vec<Arc<Segment>>>,
    places: Arc<HashMap<u32, usize>>,
    version: u64,
}

impl ColdTier {
    /// Segments, each number once.
    pub fn new(segments: Vec<Arc<Segment>>, version: u64) -> Self {
        let places = segments.iter().enumerate().map(|(i, s)| (s.meta().number, i)).collect();
        Self { segments: Arc::new(segments), places: Arc::new(places), version }
    }

    /// The segments, in no order.
    pub fn segments(&self) -> &Arc<Vec<Arc<Segment>>> {
        &self.segments
    }

    /// Grows with every rewrite.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The segment of a number.
    pub fn get(&self, number: u32) -> Option<&Arc<Segment>> {
        self.segments.get(*self.places.get(&number)?)
    }

    /// Whether a position is one of a row that has not ended.
    pub fn is_live(&self, position: u64) -> bool {
        cold_row(position).is_some_and(|(number, row)| self.holds_live(number, std::iter::once(row)))
    }

    /// Whether rows of a segment are there and have not ended.
    pub fn holds_live(&self, number: u32, mut rows: impl Iterator<Item = u32>) -> bool {
        self.get(number).is_some_and(|segment| {
            let marks = segment.marks();
            rows.all(|row| row < segment.meta().rows && !marks.has_ended(row))
        })
    }
}

/// Rows of one segment that a change ends.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ColdMark {
    /// The segment.
    pub segment: u32,
    /// Rows that new versions replace.
    pub replaced: RoaringBitmap,
    /// Rows whose key ends.
    pub deleted: RoaringBitmap,
}

impl ColdMark {
    /// Appends it, for a log record: u32 segment, then both bitmaps.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(&self.segment.to_le_bytes());
        encode_bitmap(&self.replaced, out)?;
        encode_bitmap(&self.deleted, out)
    }

    /// Reads what [`ColdMark::encode`] wrote.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        Ok(Self { segment: cursor.u32()?, replaced: read_bitmap(cursor)?, deleted: read_bitmap(cursor)? })
    }

    /// Marks the rows in their segment.
    pub fn apply(&self, segment: &Segment, ended: &Ended) {
        segment.change_marks(|marks| {
            marks.fold(ended.horizon);
            marks.mark(ended.replaced_at, &self.replaced, &RoaringBitmap::new());
            marks.mark(ended.deleted_at, &self.deleted, &self.deleted);
        });
    }
}

/// The rows that a change ends, and the `_seq` at which they do.
#[derive(Debug, Default)]
pub struct Ended {
    /// Positions of hot rows that new versions replace.
    pub replaced: Vec<u64>,
    /// Positions of hot rows whose key ends.
    pub deleted: Vec<u64>,
    /// Cold rows.
    pub cold: Vec<ColdMark>,
    /// When the replaced ones end: the last `_seq` of the commit.
    pub replaced_at: Seq,
    /// When the others end: below every new row of the commit, so that a key that is given up and taken again in one
    /// statement ends before it begins. No snapshot lies within a commit, so for readers both are one.
    pub deleted_at: Seq,
    /// No snapshot below it is read.
    pub horizon: Seq,
}

impl Ended {
    /// Sorts positions, hot and cold.
    pub fn new(replaced: &[u64], deleted: &[u64]) -> Self {
        let mut ended = Self::default();
        let mut marks: BTreeMap<u32, ColdMark> = BTreeMap::new();
        for (positions, is_deletion) in [(replaced, false), (deleted, true)] {
            for &position in positions {
                match (cold_row(position), is_deletion) {
                    (None, false) => ended.replaced.push(position),
                    (None, true) => ended.deleted.push(position),
                    (Some((segment, row)), _) => {
                        let mark = marks.entry(segment).or_insert_with(|| ColdMark { segment, ..ColdMark::default() });
                        if is_deletion {
                            mark.deleted.insert(row)
                        } else {
                            mark.replaced.insert(row)
                        };
                    }
                }
            }
        }
        ended.cold = marks.into_values().collect();
        ended
    }

    /// How many cold rows' keys end.
    pub fn cold_deletions(&self) -> u64 {
        cold_deletions(&self.cold)
    }

    /// Marks the cold rows in their segments. Returns those segments.
    pub fn mark(&self, cold: &ColdTier) -> Vec<Arc<Segment>> {
        let segments = self.cold.iter().filter_map(|mark| Some((mark, cold.get(mark.segment)?)));
        segments
            .map(|(mark, segment)| {
                mark.apply(segment, self);
                Arc::clone(segment)
            })
            .collect()
    }
}

/// How many rows of some marks are deletions.
pub fn cold_deletions(marks: &[ColdMark]) -> u64 {
    marks.iter().map(|mark| mark.deleted.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::segment::cold_position;

    #[test]
    fn positions_are_sorted_and_marks_come_back() -> Result<()> {
        let cold = |rows: &[u32]| rows.iter().map(|r| cold_position(7, *r)).collect::<Vec<_>>();
        let (mut replaced, mut deleted) = (cold(&[1, 70_000]), cold(&[5]));
        replaced.extend([3, cold_position(2, 9)]);
        deleted.push(4);
        let ended = Ended::new(&replaced, &deleted);
        assert_eq!((ended.replaced.as_slice(), ended.deleted.as_slice()), ([3].as_slice(), [4].as_slice()));
        assert_eq!(ended.cold.iter().map(|m| m.segment).collect::<Vec<_>>(), [2, 7]);
        assert_eq!(ended.cold_deletions(), 1);
        for mark in &ended.cold {
            let mut bytes = Vec::new();
            mark.encode(&mut bytes)?;
            let length = bytes.len();
            bytes.push(0);
            let mut cursor = Cursor::new("a mark", &bytes);
            assert_eq!((&ColdMark::read(&mut cursor)?, cursor.position()), (mark, length));
            assert!(ColdMark::read(&mut Cursor::new("a mark", &bytes[..length - 1])).is_err());
        }
        Ok(())
    }
}
