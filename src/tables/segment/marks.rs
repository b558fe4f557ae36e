//! Delete vectors: which rows of a segment have ended, and when.
//!
//! Invariant: a row is in `ended` or in one entry of `recent`, never in both, so marking it again changes nothing;
//! entries are ascending by `_seq`, and `recently` is all of them together: as long as a snapshot is read there may be an
//! entry for every commit since, and most questions must not look through them. `ended` holds rows that ended before every snapshot that can still be read. A row
//! whose end was a DELETE is in `tombstones` as well, with the `_seq` of the deletion, until its retention is over.

use std::ops::Range;

use arrow::buffer::{BooleanBuffer, Buffer};
use roaring::RoaringBitmap;

use crate::error::{KalamError, Result};
use crate::tables::Seq;
use crate::tables::bytes::Cursor;

/// Version of the encoded form.
const VERSION: u8 = 1;

/// The rows of a segment that have ended; see the module's comment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeleteVector {
    ended: RoaringBitmap,
    recent: Vec<(Seq, RoaringBitmap)>,
    recently: RoaringBitmap,
    tombstones: Vec<(Seq, RoaringBitmap)>,
}

impl DeleteVector {
    /// A vector of a segment whose rows are all live.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether every row is live.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.recent.is_empty()
    }

    /// How many rows have ended, whoever may still see them.
    pub fn ended_rows(&self) -> u64 {
        self.ended.len() + self.recently.len()
    }

    /// Whether a row has ended, whoever may still see it.
    pub fn has_ended(&self, row: u32) -> bool {
        self.ended.contains(row) || self.recently.contains(row)
    }

    /// Whether a row that was there at a snapshot had not ended by then. The row's own `_seq` is not asked.
    pub fn visible(&self, row: u32, snapshot: Seq) -> bool {
        let ended_lately = || self.recently.contains(row) && self.before(snapshot).any(|rows| rows.contains(row));
        !self.ended.contains(row) && !ended_lately()
    }

    /// Which rows of a range had not ended at a snapshot, or `None` if that is all of them.
    pub fn mask(&self, rows: Range<u32>, snapshot: Seq) -> Option<BooleanBuffer> {
        let mut bits: Option<Vec<u8>> = None;
        for ended in std::iter::once(&self.ended).chain(self.before(snapshot)) {
            for row in ended.range(rows.clone()) {
                let at = (row - rows.start) as usize;
                bits.get_or_insert_with(|| vec![0xFF; rows.len().div_ceil(8)])[at / 8] &= !(1 << (at % 8));
            }
        }
        bits.map(|bits| BooleanBuffer::new(Buffer::from_vec(bits), 0, rows.len()))
    }

    /// How many rows of a range had not ended at a snapshot.
    pub fn visible_in(&self, rows: Range<u32>, snapshot: Seq) -> u64 {
        let ended = std::iter::once(&self.ended).chain(self.before(snapshot));
        rows.len() as u64 - ended.map(|ended| ended.range_cardinality(rows.clone())).sum::<u64>()
    }

    fn before(&self, snapshot: Seq) -> impl Iterator<Item = &RoaringBitmap> {
        self.recent.iter().take_while(move |(seq, _)| *seq <= snapshot).map(|(_, rows)| rows)
    }

    /// When a row that is still remembered as recent ended.
    pub fn ended_at(&self, row: u32) -> Option<Seq> {
        if !self.recently.contains(row) {
            return None;
        }
        self.recent.iter().find(|(_, rows)| rows.contains(row)).map(|(seq, _)| *seq)
    }

    /// Rows that ended after a snapshot, with when, ascending by it.
    pub fn ended_after(&self, snapshot: Seq) -> impl Iterator<Item = (Seq, &RoaringBitmap)> {
        self.recent.iter().skip_while(move |(seq, _)| *seq <= snapshot).map(|(seq, rows)| (*seq, rows))
    }

    /// The rows that were deleted and are still kept, with when, ascending by it.
    pub fn tombstones(&self) -> &[(Seq, RoaringBitmap)] {
        &self.tombstones
    }

    /// Marks rows as ended at `seq`; `deleted` are those of them whose end was a DELETE. Rows that have ended already
    /// stay as they are.
    pub fn mark(&mut self, seq: Seq, rows: &RoaringBitmap, deleted: &RoaringBitmap) {
        let mut new = rows - &self.ended;
        new -= &self.recently;
        // A row with a tombstone has ended, so it is not new: there may be very many tombstones to look through.
        let deleted = deleted & &new;
        self.recently |= &new;
        insert(&mut self.recent, seq, new);
        insert(&mut self.tombstones, seq, deleted);
    }

    /// Enters rows that were deleted at `seq`, without a mark in `recent`: how a rewrite keeps tombstones of rows
    /// that ended before every snapshot.
    pub fn keep_tombstones(&mut self, seq: Seq, rows: &RoaringBitmap) {
        self.ended |= rows - &self.recently;
        insert(&mut self.tombstones, seq, rows.clone());
    }

    /// Takes everything back that was marked at `seq`.
    pub fn revert(&mut self, seq: Seq) {
        for (_, rows) in self.recent.extract_if(.., |(s, _)| *s == seq) {
            self.recently -= rows;
        }
        self.tombstones.retain(|(s, _)| *s != seq);
    }

    /// Forgets when rows ended that ended at or before `up_to`: no snapshot below it is read any more.
    pub fn fold(&mut self, up_to: Seq) {
        let n = self.recent.partition_point(|(seq, _)| *seq <= up_to);
        for (_, rows) in self.recent.drain(..n) {
            self.recently -= &rows;
            self.ended |= rows;
        }
    }

    /// Forgets the tombstones of rows that were deleted before a `_seq`. Returns how many.
    pub fn drop_tombstones(&mut self, before: Seq) -> u64 {
        let n = self.tombstones.partition_point(|(seq, _)| *seq < before);
        self.tombstones.drain(..n).map(|(_, rows)| rows.len()).sum()
    }

    /// Appends the encoded form: a version byte, `ended`, then the entries of `recent` and of `tombstones`. Numbers
    /// are little endian, bitmaps are in the portable Roaring format with their length as u32 before them.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.push(VERSION);
        encode_bitmap(&self.ended, out)?;
        for entries in [&self.recent, &self.tombstones] {
            out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
            for (seq, rows) in entries {
                out.extend_from_slice(&seq.to_le_bytes());
                encode_bitmap(rows, out)?;
            }
        }
        Ok(())
    }

    /// Decodes what [`DeleteVector::encode`] gave.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new("a delete vector", bytes);
        let version = cursor.u8()?;
        if version != VERSION {
            return Err(cursor.damaged(format_args!("version {version}, expected {VERSION}")));
        }
        let ended = read_bitmap(&mut cursor)?;
        let (recent, tombstones) = (read_entries(&mut cursor)?, read_entries(&mut cursor)?);
        cursor.finish()?;
        let recently = recent.iter().fold(RoaringBitmap::new(), |all, (_, rows)| all | rows);
        Ok(Self { ended, recent, recently, tombstones })
    }

    /// Says what of it cannot be of a segment of so many rows, or breaks the invariant of the module's comment.
    pub fn check(&self, rows: u32) -> std::result::Result<(), String> {
        let all = [&self.ended].into_iter().chain(self.recent.iter().chain(&self.tombstones).map(|(_, rows)| rows));
        if let Some(row) = all.filter_map(RoaringBitmap::max).find(|row| *row >= rows) {
            return Err(format!("its delete vector holds row {row} of {rows} rows"));
        }
        let mut ended = self.ended.clone();
        for (seq, rows) in &self.recent {
            if !ended.is_disjoint(rows) {
                return Err(format!("its delete vector holds a row twice, the second time as ended at {seq}"));
            }
            ended |= rows;
        }
        let mut deleted = RoaringBitmap::new();
        for (seq, rows) in &self.tombstones {
            if !deleted.is_disjoint(rows) || !rows.is_subset(&ended) {
                return Err(format!("its delete vector holds a row as deleted at {seq} that is deleted twice or live"));
            }
            deleted |= rows;
        }
        for entries in [&self.recent, &self.tombstones] {
            if !entries.is_sorted_by(|a, b| a.0 < b.0) {
                return Err("its delete vector is not in the order of _seq".to_owned());
            }
        }
        Ok(())
    }
}

fn insert(entries: &mut Vec<(Seq, RoaringBitmap)>, seq: Seq, rows: RoaringBitmap) {
    if rows.is_empty() {
        return;
    }
    match entries.binary_search_by_key(&seq, |(s, _)| *s) {
        Ok(at) => entries[at].1 |= rows,
        Err(at) => entries.insert(at, (seq, rows)),
    }
}

/// Appends a bitmap with its length before it.
pub fn encode_bitmap(rows: &RoaringBitmap, out: &mut Vec<u8>) -> Result<()> {
    out.extend_from_slice(&(rows.serialized_size() as u32).to_le_bytes());
    rows.serialize_into(out).map_err(KalamError::internal)
}

/// Reads what [`encode_bitmap`] wrote.
pub(in crate::tables) fn read_bitmap(cursor: &mut Cursor<'_>) -> Result<RoaringBitmap> {
    let bytes = cursor.bytes()?;
    RoaringBitmap::deserialize_from(bytes).map_err(|e| cursor.damaged(format_args!("a bitmap: {e}")))
}

fn read_entries(cursor: &mut Cursor<'_>) -> Result<Vec<(Seq, RoaringBitmap)>> {
    (0..cursor.count()?).map(|_| Ok((cursor.i64()?, read_bitmap(cursor)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bitmap(rows: &[u32]) -> RoaringBitmap {
        rows.iter().copied().collect()
    }

    #[test]
    fn a_row_ends_once_and_comes_back_with_revert() {
        let mut marks = DeleteVector::new();
        marks.mark(10, &bitmap(&[1, 2]), &bitmap(&[2]));
        marks.mark(20, &bitmap(&[2, 3]), &bitmap(&[2]));
        assert_eq!(marks.ended_rows(), 3);
        assert!(marks.visible(2, 9) && !marks.visible(2, 10) && marks.visible(3, 19) && !marks.visible(3, 20));
        assert_eq!(marks.tombstones(), [(10, bitmap(&[2]))]);
        marks.revert(20);
        assert!(marks.visible(3, 20) && !marks.visible(2, 20));
        marks.fold(10);
        assert!(!marks.visible(2, 9));
        assert_eq!(marks.mask(0..2, 9).map(|m| m.iter().collect::<Vec<_>>()), Some(vec![true, false]));
        assert_eq!(marks.mask(3..40_000, 99), None);
        assert_eq!((marks.drop_tombstones(10), marks.drop_tombstones(11)), (0, 1));
    }

    proptest! {
        #[test]
        fn the_mask_says_what_visible_says(
            marked in prop::collection::vec((0i64..20, prop::collection::btree_set(0u32..200, 0..20)), 0..8),
            fold in 0i64..20, start in 0u32..150, len in 0u32..100, snapshot in 0i64..25,
        ) {
            let mut marks = DeleteVector::new();
            for (seq, rows) in &marked {
                let rows: RoaringBitmap = rows.iter().copied().collect();
                marks.mark(*seq, &rows, &rows);
            }
            let snapshot = snapshot.max(fold);
            let before: Vec<bool> = (0..300).map(|row| marks.visible(row, snapshot)).collect();
            marks.fold(fold);
            // The first end that a row was marked with counts.
            let first = |row: u32| marked.iter().find(|(_, rows)| rows.contains(&row)).map(|(seq, _)| *seq);
            for row in 0..200 {
                prop_assert_eq!(marks.has_ended(row), first(row).is_some());
                prop_assert_eq!(marks.ended_at(row), first(row).filter(|seq| *seq > fold));
            }
            prop_assert_eq!(marks.ended_rows(), (0..200).filter(|row| first(*row).is_some()).count() as u64);
            let range = start..start + len;
            let visible: Vec<bool> = range.clone().map(|row| marks.visible(row, snapshot)).collect();
            prop_assert_eq!(&visible, &before[start as usize..(start + len) as usize]);
            prop_assert_eq!(marks.visible_in(range.clone(), snapshot), visible.iter().filter(|v| **v).count() as u64);
            match marks.mask(range, snapshot) {
                None => prop_assert!(visible.iter().all(|v| *v)),
                Some(mask) => prop_assert_eq!(mask.iter().collect::<Vec<_>>(), visible),
            }
            let mut bytes = Vec::new();
            marks.encode(&mut bytes)?;
            prop_assert_eq!(&DeleteVector::decode(&bytes)?, &marks);
            prop_assert!(DeleteVector::decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }
}
