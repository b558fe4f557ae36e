//! A run of row versions in memory: Arrow columns, the `_seq` of every row, and the `_seq` that superseded it.
//!
//! Invariant: a row is visible at snapshot `s` when `seq <= s < superseded`. Columns and sequence numbers never
//! change: they stay as they were written, and whoever reads a column leads its values through the types that it had
//! since (`scan_reader.rs`). A row's `superseded` goes once from [`LIVE`] to the number of the commit that ended it. That number is
//! above every snapshot taken before, so a scan that holds a chunk reads the same rows however long it takes. Whether a
//! new version replaced the row or its key ended (a tombstone) is the sign of the number that is kept.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute;
use std::sync::Arc;

use super::block;
use super::key_order::KeyOrder;
use super::seq::Seq;
use crate::error::{KalamError, Result};
use crate::types::KeyCodec;

/// `superseded` of a row that nothing has replaced.
pub const LIVE: Seq = Seq::MAX;

/// A run of row versions; see the module's comment.
#[derive(Debug)]
pub struct Chunk {
    /// Position of the first row in its table scope.
    pub base: u64,
    /// The schema version that the rows were written under.
    pub schema_version: u32,
    /// Ids of `columns`, in the same order.
    pub column_ids: Arc<[u32]>,
    /// The table's columns as they were written.
    pub columns: Vec<ArrayRef>,
    /// The columns that identify the rows, in key order: the primary key in the types that the hot tier's key has
    /// (rows that ended before a type changed have NULL), or the hidden row ids.
    pub keys: Vec<ArrayRef>,
    /// The hidden row ids, for a table without a primary key.
    pub row_ids: Option<Int64Array>,
    /// `_seq` of every row, ascending.
    pub seqs: Int64Array,
    /// Bytes of the columns, keys and numbers, as they are for ever; see [`Chunk::memory_size`].
    pub bytes: usize,
    superseded: OnceLock<Box<[AtomicI64]>>,
    superseded_rows: AtomicUsize,
    /// Found when it is first asked for.
    key_order: OnceLock<KeyOrder>,
}

impl Chunk {
    /// A chunk of live rows. All arrays have the length of `seqs`.
    pub fn new(
        base: u64,
        schema_version: u32,
        column_ids: Arc<[u32]>,
        columns: Vec<ArrayRef>,
        keys: Vec<ArrayRef>,
        row_ids: Option<Int64Array>,
        seqs: Int64Array,
    ) -> Self {
        debug_assert!(columns.iter().all(|c| c.len() == seqs.len()));
        let mut bytes = block::memory_size(&columns) + size_of_val(seqs.values().as_ref());
        match &row_ids {
            // New rows have their `_seq` as their id.
            Some(ids) if ids.values().ptr_eq(seqs.values()) => {}
            Some(ids) => bytes += size_of_val(ids.values().as_ref()),
            None => {
                let own = keys.iter().filter(|key| place_of(&columns, key).is_none());
                bytes += own.map(|key| block::memory_size(std::slice::from_ref(key))).sum::<usize>();
            }
        }
        Self {
            base,
            schema_version,
            column_ids,
            columns,
            keys,
            row_ids,
            seqs,
            bytes,
            superseded: OnceLock::new(),
            superseded_rows: AtomicUsize::new(0),
            key_order: OnceLock::new(),
        }
    }

    /// Rows, superseded ones included.
    pub fn len(&self) -> usize {
        self.seqs.len()
    }

    /// Whether it holds no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position after its last row.
    pub fn end(&self) -> u64 {
        self.base + self.len() as u64
    }

    /// The column of an id, if the rows were written with it.
    pub fn column(&self, id: u32) -> Option<&ArrayRef> {
        self.column_ids.iter().position(|&c| c == id).map(|i| &self.columns[i])
    }

    /// The rows in the order of their keys, which are encoded by `codec`, that of the hot tier.
    pub(super) fn key_order(&self, codec: &KeyCodec) -> Result<&KeyOrder> {
        match self.key_order.get() {
            Some(order) => Ok(order),
            None => {
                let order = KeyOrder::of(&self.keys, codec)?;
                Ok(self.key_order.get_or_init(|| order))
            }
        }
    }

    /// Bytes of everything that it holds, with what came since it was written: which rows ended, and their order by key.
    pub fn memory_size(&self) -> usize {
        let ended = self.superseded.get().map_or(0, |ends| size_of_val(&**ends));
        self.bytes + ended + self.order_size()
    }

    /// Bytes of the order of its keys, if that was asked for.
    pub fn order_size(&self) -> usize {
        self.key_order.get().map_or(0, KeyOrder::memory_size)
    }

    /// The `_seq` that superseded a row, or [`LIVE`].
    pub fn superseded(&self, row: usize) -> Seq {
        self.superseded.get().map_or(LIVE, |s| s[row].load(Ordering::Acquire).abs())
    }

    /// The `_seq` of the deletion that ended a row, if it was one and not a newer version.
    pub fn deleted_at(&self, row: usize) -> Option<Seq> {
        let seq = self.superseded.get()?[row].load(Ordering::Acquire);
        (seq < 0).then_some(-seq)
    }

    /// Marks a row as superseded by a newer version, or as `deleted`. `seq` is above every snapshot that is being read.
    pub fn supersede(&self, row: usize, seq: Seq, deleted: bool) {
        let all = self.superseded.get_or_init(|| (0..self.len()).map(|_| AtomicI64::new(LIVE)).collect());
        if all[row].swap(if deleted { -seq } else { seq }, Ordering::AcqRel) == LIVE {
            self.superseded_rows.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Takes a [`Chunk::supersede`] back whose change was refused before anybody could see it.
    pub fn revive(&self, row: usize) {
        if let Some(all) = self.superseded.get()
            && all[row].swap(LIVE, Ordering::AcqRel) != LIVE
        {
            self.superseded_rows.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Rows that something has superseded.
    pub fn superseded_rows(&self) -> usize {
        self.superseded_rows.load(Ordering::Acquire)
    }

    /// Whether a row is visible at a snapshot.
    pub fn visible(&self, row: usize, snapshot: Seq) -> bool {
        self.seqs.value(row) <= snapshot && snapshot < self.superseded(row)
    }

    /// Which rows are visible at a snapshot.
    pub fn visibility(&self, snapshot: Seq) -> Visibility {
        let Some(last) = self.seqs.values().last() else { return Visibility::None };
        let written =
            if *last <= snapshot { self.len() } else { self.seqs.values().partition_point(|&seq| seq <= snapshot) };
        if written == 0 {
            return Visibility::None;
        }
        if self.superseded_rows() == 0 {
            return if written == self.len() { Visibility::All } else { Visibility::First(written) };
        }
        let mask = BooleanBuffer::collect_bool(self.len(), |row| row < written && snapshot < self.superseded(row));
        match mask.count_set_bits() {
            0 => Visibility::None,
            n if n == self.len() => Visibility::All,
            _ => Visibility::Some(mask),
        }
    }

    /// Which rows are visible at a snapshot and not below `oldest`.
    pub fn visibility_since(&self, oldest: Seq, snapshot: Seq) -> Visibility {
        let visibility = self.visibility(snapshot);
        let expired = self.seqs.values().partition_point(|&seq| seq < oldest);
        if expired == 0 || visibility == Visibility::None {
            return visibility;
        }
        let mask = BooleanBuffer::collect_bool(self.len(), |row| row >= expired && self.visible(row, snapshot));
        Visibility::of(mask)
    }

    /// The first `len` rows.
    pub fn head(&self, len: usize) -> Chunk {
        self.part(0, len)
    }

    /// The rows from `start` on, at the positions that they have.
    pub fn tail(&self, start: usize) -> Chunk {
        self.part(start, self.len() - start)
    }

    fn part(&self, start: usize, len: usize) -> Chunk {
        let columns: Vec<ArrayRef> = self.columns.iter().map(|c| c.slice(start, len)).collect();
        let key = |key: &ArrayRef| match place_of(&self.columns, key) {
            Some(place) => Arc::clone(&columns[place]),
            None => key.slice(start, len),
        };
        let keys = self.keys.iter().map(key).collect();
        let row_ids = self.row_ids.as_ref().map(|r| r.slice(start, len));
        let seqs = self.seqs.slice(start, len);
        let (base, ids) = (self.base + start as u64, Arc::clone(&self.column_ids));
        let part = Chunk::new(base, self.schema_version, ids, columns, keys, row_ids, seqs);
        part.copy_superseded(self, start, 0);
        part
    }

    /// Marks the rows from `offset` on that are superseded in `from`, of which `skip` rows come before them.
    fn copy_superseded(&self, from: &Chunk, skip: usize, offset: usize) {
        if from.superseded_rows() == 0 {
            return;
        }
        for row in 0..(from.len() - skip).min(self.len() - offset) {
            let seq = from.superseded(skip + row);
            if seq != LIVE {
                self.supersede(offset + row, seq, from.deleted_at(skip + row).is_some());
            }
        }
    }

    /// The same rows with other key columns.
    pub fn with_keys(&self, keys: Vec<ArrayRef>) -> Chunk {
        let (columns, seqs) = (self.columns.clone(), self.seqs.clone());
        let ids = Arc::clone(&self.column_ids);
        let chunk = Chunk::new(self.base, self.schema_version, ids, columns, keys, self.row_ids.clone(), seqs);
        chunk.copy_superseded(self, 0, 0);
        chunk
    }

    /// Whether the two can be parts of one chunk.
    pub fn goes_with(&self, other: &Chunk) -> bool {
        let same_types = || self.columns.iter().zip(&other.columns).all(|(a, b)| a.data_type() == b.data_type());
        self.schema_version == other.schema_version && self.column_ids == other.column_ids && same_types()
    }

    /// One chunk of some neighbours that go with each other, in their order. Fails if that would be more than an array
    /// can hold.
    pub fn merged(parts: &[Arc<Chunk>]) -> Result<Chunk> {
        let first = parts.first().ok_or_else(|| KalamError::internal("no chunk was to be merged"))?;
        let concat = |of: &dyn Fn(&Chunk) -> ArrayRef| {
            let arrays: Vec<ArrayRef> = parts.iter().map(|part| of(part)).collect();
            let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
            compute::concat(&arrays).map_err(KalamError::internal)
        };
        let columns = (0..first.columns.len()).map(|place| concat(&|part| Arc::clone(&part.columns[place])));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        let seqs: Int64Array = parts.iter().flat_map(|part| part.seqs.values().iter().copied()).collect();
        let row_ids: Option<Vec<&Int64Array>> = parts.iter().map(|part| part.row_ids.as_ref()).collect();
        let row_ids: Option<Int64Array> =
            row_ids.map(|ids| ids.iter().flat_map(|ids| ids.values().iter().copied()).collect());
        let keys = match &row_ids {
            Some(ids) => vec![Arc::new(ids.clone()) as ArrayRef],
            None => {
                let key = |number: usize| {
                    let place = |part: &Chunk| place_of(&part.columns, &part.keys[number]);
                    match place(first) {
                        Some(column) if parts.iter().all(|part| place(part) == Some(column)) => {
                            Ok(Arc::clone(&columns[column]))
                        }
                        _ => concat(&|part| Arc::clone(&part.keys[number])),
                    }
                };
                (0..first.keys.len()).map(key).collect::<Result<_>>()?
            }
        };
        let ids = Arc::clone(&first.column_ids);
        let merged = Chunk::new(first.base, first.schema_version, ids, columns, keys, row_ids, seqs);
        let mut offset = 0;
        for part in parts {
            merged.copy_superseded(part, 0, offset);
            offset += part.len();
        }
        Ok(merged)
    }
}

/// The column that a key is, if it is one: then it takes no memory of its own.
fn place_of(columns: &[ArrayRef], key: &ArrayRef) -> Option<usize> {
    columns.iter().position(|column| Arc::ptr_eq(column, key))
}

/// The visible rows of a chunk.
#[derive(Debug, Clone, PartialEq)]
pub enum Visibility {
    /// None.
    None,
    /// All.
    All,
    /// The first so many.
    First(usize),
    /// Those whose bit is set.
    Some(BooleanBuffer),
}

impl Visibility {
    /// The rows of a mask.
    pub fn of(mask: BooleanBuffer) -> Self {
        if mask.count_set_bits() == 0 { Self::None } else { Self::Some(mask) }
    }

    /// Whether a row is among them.
    pub fn holds(&self, row: usize) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::First(rows) => row < *rows,
            Self::Some(mask) => mask.value(row),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KalamDataType;

    fn chunk(base: u64, seqs: &[i64]) -> Chunk {
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(seqs.iter().map(|s| s * 10)));
        Chunk::new(
            base,
            1,
            Arc::from([1u32]),
            vec![Arc::clone(&values)],
            vec![values],
            None,
            Int64Array::from(seqs.to_vec()),
        )
    }

    #[test]
    fn visibility_follows_the_rule() {
        let c = chunk(0, &[1, 2, 3, 4]);
        assert_eq!(c.visibility(0), Visibility::None);
        assert_eq!(c.visibility(2), Visibility::First(2));
        assert_eq!(c.visibility(9), Visibility::All);
        c.supersede(1, 6, false);
        assert_eq!(c.visibility(5), Visibility::All);
        assert_eq!(c.visibility(6), Visibility::Some(BooleanBuffer::from(vec![true, false, true, true])));
        assert!(c.visible(1, 5) && !c.visible(1, 6) && !c.visible(3, 3));
    }

    #[test]
    fn a_merged_chunk_shows_the_same_rows() -> Result<()> {
        let (a, b) = (chunk(0, &[1, 2]), chunk(2, &[3, 4]));
        a.supersede(0, 3, true);
        b.supersede(1, 7, false);
        let (a, b) = (Arc::new(a), Arc::new(b));
        let merged = Chunk::merged(&[Arc::clone(&a), Arc::clone(&b)])?;
        for snapshot in 0..9 {
            for row in 0..4 {
                let original = if row < 2 { a.visible(row, snapshot) } else { b.visible(row - 2, snapshot) };
                assert_eq!(merged.visible(row, snapshot), original, "row {row} at {snapshot}");
            }
        }
        assert_eq!((merged.end(), merged.superseded_rows()), (4, 2));
        assert_eq!((merged.deleted_at(0), merged.deleted_at(3), merged.superseded(0)), (Some(3), None, 3));
        Ok(())
    }

    /// A key that is a column is counted once, and stays that column in merged chunks and parts of chunks.
    #[test]
    fn everything_a_chunk_holds_is_counted() -> Result<()> {
        let (column, seq, end, order) = (8, 8, 8, 4);
        let c = Chunk::merged(&[Arc::new(chunk(0, &[1, 2, 3, 4])), Arc::new(chunk(4, &[5, 6]))])?;
        assert_eq!(c.memory_size(), 6 * (column + seq));
        assert_eq!(c.tail(2).memory_size(), 4 * (column + seq));
        c.supersede(1, 9, false);
        assert_eq!(c.memory_size(), 6 * (column + seq + end));
        let codec = KeyCodec::new(&[KalamDataType::BigInt])?;
        c.key_order(&codec)?;
        assert_eq!(c.order_size(), 0, "it lies in the order of its keys");
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![6, 5, 4, 3, 2, 1]));
        let rekeyed = c.with_keys(vec![keys]);
        assert_eq!(rekeyed.memory_size(), 6 * (2 * column + seq + end));
        rekeyed.key_order(&codec)?;
        assert_eq!(rekeyed.memory_size(), 6 * (2 * column + seq + end + order));
        Ok(())
    }

    #[test]
    fn a_tail_keeps_positions_and_marks() {
        let c = chunk(10, &[1, 2, 3, 4]);
        c.supersede(0, 6, true);
        c.supersede(3, 7, true);
        let tail = c.tail(2);
        assert_eq!((tail.base, tail.end(), tail.len(), tail.superseded_rows()), (12, 14, 2, 1));
        assert_eq!((tail.deleted_at(0), tail.deleted_at(1), tail.seqs.value(0)), (None, Some(7), 3));
    }
}
