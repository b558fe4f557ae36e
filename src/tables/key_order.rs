//! The order of keys in memory: which rows of a chunk lie within a range of keys, and chunks merged by key.
//!
//! Each chunk knows its own order: none is kept where rows were written in the order of their keys, else four bytes a row,
//! found when it is first asked. Invariant: a chunk's rows and keys never change, so the order stays right, writers need
//! not know of it, and it serves every snapshot; which rows are visible is asked of each row that is found. Of the
//! versions of a key a reader sees one at most, so merged chunks give each visible key once. Rows whose key is not known
//! any more (they ended before an ALTER changed its type) are in no range: chunks with such rows are not narrowed.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};

use super::chunk::Chunk;
use super::index::IndexRange;
use crate::error::Result;
use crate::types::KeyCodec;

/// Of a chunk of which more than one row in so many is asked for, every row is handed out, without copying.
const WHOLE_FROM: usize = 4;
/// Finding a range in a chunk costs about as much as looking at so many of its rows.
const ROWS_A_RANGE: usize = 32;
/// Of more ranges than this, chunks are merged from the first to the last in one.
const MERGED_RANGES: usize = 64;

/// The rows of a chunk by key, then as they lie; see the module's comment.
#[derive(Debug)]
pub(super) struct KeyOrder(Option<Box<[u32]>>);

impl KeyOrder {
    /// The order of some keys.
    pub fn of(keys: &[ArrayRef], codec: &KeyCodec) -> Result<Self> {
        let encoder = codec.rows(keys)?;
        let rows = keys.first().map_or(0, |column| column.len());
        let (mut bytes, mut ends, mut sorted) = (Vec::new(), vec![0], true);
        for row in 0..rows {
            encoder.encode(row, &mut bytes)?;
            sorted &= row == 0 || bytes[ends[row - 1]..ends[row]] <= bytes[ends[row]..];
            ends.push(bytes.len());
        }
        if sorted {
            return Ok(Self(None));
        }
        let key = |row: u32| &bytes[ends[row as usize]..ends[row as usize + 1]];
        let mut order: Vec<u32> = (0..rows as u32).collect();
        order.sort_by(|a, b| key(*a).cmp(key(*b)));
        Ok(Self(Some(order.into())))
    }

    /// Bytes that it takes.
    pub fn memory_size(&self) -> usize {
        self.0.as_ref().map_or(0, |rows| size_of_val(&**rows))
    }

    /// The row at a place.
    fn row(&self, place: usize) -> usize {
        self.0.as_ref().map_or(place, |rows| rows[place] as usize)
    }
}

impl Chunk {
    /// Whether every row has its key.
    pub(super) fn knows_keys(&self) -> bool {
        self.keys.iter().all(|column| column.null_count() == 0)
    }

    /// The places of a range in the order of keys.
    fn places(&self, codec: &KeyCodec, range: &IndexRange) -> Result<Range<usize>> {
        let (order, encoder) = (self.key_order(codec)?, codec.rows(&self.keys)?);
        let place = |bytes: &[u8]| encoder.below(bytes, self.len(), |place| order.row(place));
        let from = place(&range.from)?;
        let to = range.to.as_ref().map_or(Ok(self.len()), |to| place(to))?;
        Ok(from..to.max(from))
    }

    /// The rows within a range, ascending; `None` if that are more than `most`, or not all keys are known.
    pub(super) fn few_rows_within(
        &self,
        codec: &KeyCodec,
        range: &IndexRange,
        most: usize,
    ) -> Result<Option<Vec<usize>>> {
        if !self.knows_keys() {
            return Ok(None);
        }
        let places = self.places(codec, range)?;
        if places.len() > most {
            return Ok(None);
        }
        let order = self.key_order(codec)?;
        let mut rows: Vec<usize> = places.map(|place| order.row(place)).collect();
        rows.sort_unstable();
        Ok(Some(rows))
    }

    /// The rows within ranges, ascending; `None` if it is better to look at all of them.
    pub(super) fn rows_within(&self, codec: &KeyCodec, ranges: &[IndexRange]) -> Result<Option<Vec<u32>>> {
        if !self.knows_keys() || ranges.len() * ROWS_A_RANGE > self.len() {
            return Ok(None);
        }
        let places = ranges.iter().map(|range| self.places(codec, range)).collect::<Result<Vec<_>>>()?;
        let rows: usize = places.iter().map(Range::len).sum();
        if rows * WHOLE_FROM > self.len() {
            return Ok(None);
        }
        let order = self.key_order(codec)?;
        let mut found: Vec<u32> = places.into_iter().flatten().map(|place| order.row(place) as u32).collect();
        found.sort_unstable();
        Ok(Some(found))
    }
}

/// The next row of a chunk.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// The first bytes of the key, as a number: it mostly says which of two comes first.
    first: u128,
    key: Vec<u8>,
    chunk: usize,
    row: usize,
    backward: bool,
}

impl Head {
    /// Goes to the next of the places that are left of its chunk, if there is one.
    fn advance(&mut self, chunks: &[Arc<Chunk>], places: &mut [Range<usize>], codec: &KeyCodec) -> Result<bool> {
        let (chunk, places) = (&chunks[self.chunk], &mut places[self.chunk]);
        let Some(place) = (if self.backward { places.next_back() } else { places.next() }) else { return Ok(false) };
        self.row = chunk.key_order(codec)?.row(place);
        self.key.clear();
        codec.encode(&chunk.keys, self.row, &mut self.key)?;
        let mut first = [0; size_of::<u128>()];
        let length = self.key.len().min(first.len());
        first[..length].copy_from_slice(&self.key[..length]);
        self.first = u128::from_be_bytes(first);
        Ok(true)
    }
}

impl Ord for Head {
    /// The greatest is the next.
    fn cmp(&self, other: &Self) -> Ordering {
        let rest = || (&self.key, self.chunk).cmp(&(&other.key, other.chunk));
        let order = self.first.cmp(&other.first).then_with(rest);
        if self.backward { order } else { order.reverse() }
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The rows of chunks within ranges of keys, one after the other in the order of keys, or against it.
#[derive(Debug)]
pub(super) struct KeyMerge {
    chunks: Vec<Arc<Chunk>>,
    codec: KeyCodec,
    /// The ranges that have not begun, the next one last.
    ranges: Vec<IndexRange>,
    /// What is left of the range that has, by chunk.
    places: Vec<Range<usize>>,
    heads: BinaryHeap<Head>,
    backward: bool,
}

impl KeyMerge {
    /// Of chunks that know their keys. The ranges are ascending and apart; of many, what lies between them comes, too.
    pub fn new(chunks: Vec<Arc<Chunk>>, codec: KeyCodec, mut ranges: Vec<IndexRange>, backward: bool) -> Self {
        if ranges.len() > MERGED_RANGES {
            let to = ranges.pop().and_then(|last| last.to);
            ranges.truncate(1);
            ranges.iter_mut().for_each(|first| first.to.clone_from(&to));
        }
        if !backward {
            ranges.reverse();
        }
        Self { chunks, codec, ranges, places: Vec::new(), heads: BinaryHeap::new(), backward }
    }

    /// The chunks.
    pub fn chunks(&self) -> &[Arc<Chunk>] {
        &self.chunks
    }

    /// How their keys are encoded.
    pub fn codec(&self) -> &KeyCodec {
        &self.codec
    }

    /// The next row, visible or not: the place of its chunk and its own there.
    pub fn next(&mut self) -> Result<Option<(usize, usize)>> {
        while self.heads.is_empty() {
            let Some(range) = self.ranges.pop() else { return Ok(None) };
            let places = self.chunks.iter().map(|chunk| chunk.places(&self.codec, &range));
            self.places = places.collect::<Result<_>>()?;
            for chunk in 0..self.chunks.len() {
                let mut head = Head { first: 0, key: Vec::new(), chunk, row: 0, backward: self.backward };
                if head.advance(&self.chunks, &mut self.places, &self.codec)? {
                    self.heads.push(head);
                }
            }
        }
        // Mostly the next row is of the same chunk: then the head stays where it is.
        let Some(mut head) = self.heads.peek_mut() else { return Ok(None) };
        let found = (head.chunk, head.row);
        if !head.advance(&self.chunks, &mut self.places, &self.codec)? {
            PeekMut::pop(head);
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KalamDataType;
    use arrow::array::{Int64Array, StringArray};

    fn codec() -> KeyCodec {
        KeyCodec::new(&[KalamDataType::BigInt]).expect("a key")
    }

    fn chunk(base: u64, keys: &[Option<i64>]) -> Arc<Chunk> {
        let column: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
        let seqs = Int64Array::from_iter_values((1..).take(keys.len()));
        Arc::new(Chunk::new(base, 1, Arc::from([1]), vec![Arc::clone(&column)], vec![column], None, seqs))
    }

    fn range(from: i64, to: i64) -> IndexRange {
        let key = |n: i64| {
            let mut key = Vec::new();
            let column: ArrayRef = Arc::new(Int64Array::from(vec![n]));
            codec().encode(&[column], 0, &mut key).expect("a key");
            key
        };
        IndexRange { from: key(from), to: Some(key(to)) }
    }

    #[test]
    fn rows_of_a_small_part_are_named_and_those_of_a_large_one_are_not() -> Result<()> {
        let mixed: Vec<_> = (0..81).map(|n| Some(n * 7 % 81)).collect();
        let sorted: Vec<_> = (0..81).map(Some).collect();
        let at = |keys: &[Option<i64>], key| keys.iter().position(|k| *k == Some(key)).map_or(u32::MAX, |at| at as u32);
        for keys in [&mixed, &sorted] {
            let mut wanted: Vec<u32> = (5..9).chain(20..23).map(|key| at(keys, key)).collect();
            wanted.sort_unstable();
            let chunk = chunk(0, keys);
            assert_eq!(chunk.rows_within(&codec(), &[range(5, 9), range(20, 23)])?, Some(wanted));
            assert_eq!(chunk.rows_within(&codec(), &[range(90, 95)])?, Some(Vec::new()));
            assert_eq!(chunk.rows_within(&codec(), &[range(5, 27)])?, None);
            assert_eq!(chunk.rows_within(&codec(), &[range(5, 6), range(7, 8), range(9, 10)])?, None, "many ranges");
        }
        assert!(chunk(0, &sorted).key_order(&codec())?.0.is_none(), "no order is kept beside that of the rows");
        let forgotten = [None].into_iter().chain(sorted).collect::<Vec<_>>();
        assert_eq!(chunk(0, &forgotten).rows_within(&codec(), &[range(5, 6)])?, None);
        Ok(())
    }

    #[test]
    fn chunks_are_merged_range_by_range_in_both_directions() -> Result<()> {
        let keys = [[9, 2, 4, 2].map(Some), [1, 3, 5, 8].map(Some)];
        let chunks = || vec![chunk(0, &keys[0]), chunk(4, &keys[1])];
        for (backward, wanted) in [(false, vec![2, 2, 3, 8, 9]), (true, vec![9, 8, 3, 2, 2])] {
            let mut merge = KeyMerge::new(chunks(), codec(), vec![range(2, 4), range(6, 12)], backward);
            let mut found = Vec::new();
            while let Some((chunk, row)) = merge.next()? {
                found.extend(keys[chunk][row]);
            }
            assert_eq!(found, wanted);
        }
        Ok(())
    }

    /// Keys that begin alike, those of which one is the beginning of the other, and those that end in zeros.
    #[test]
    fn keys_are_compared_to_their_ends() -> Result<()> {
        let codec = KeyCodec::new(&[KalamDataType::Text])?;
        let texts = [
            ["all of these begin alike, 3", "", "a\0", "all of these begin alike"],
            ["all of these begin alike, 2", "a", "all of these begin alike, 1", "a\0\0"],
        ];
        let chunk = |base: u64, texts: [&str; 4]| {
            let column: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
            let seqs = Int64Array::from_iter_values(1..5);
            Arc::new(Chunk::new(base, 1, Arc::from([1]), vec![Arc::clone(&column)], vec![column], None, seqs))
        };
        let mut wanted = texts.concat();
        wanted.sort_unstable();
        for backward in [false, true] {
            let chunks = vec![chunk(0, texts[0]), chunk(4, texts[1])];
            let mut merge = KeyMerge::new(chunks, codec.clone(), vec![IndexRange::all()], backward);
            let mut found = Vec::new();
            while let Some((chunk, row)) = merge.next()? {
                found.push(texts[chunk][row]);
            }
            assert_eq!(found, wanted);
            wanted.reverse();
        }
        Ok(())
    }

    #[test]
    fn of_many_ranges_what_lies_between_them_comes_along() -> Result<()> {
        let keys: Vec<_> = (0..400).map(Some).collect();
        let ranges: Vec<_> = (10..110).map(|n| range(n * 3, n * 3 + 1)).collect();
        for backward in [false, true] {
            let mut merge = KeyMerge::new(vec![chunk(0, &keys)], codec(), ranges.clone(), backward);
            let mut found = Vec::new();
            while let Some((_, row)) = merge.next()? {
                found.push(row);
            }
            if backward {
                found.reverse();
            }
            assert_eq!(found, (30..328).collect::<Vec<_>>());
        }
        Ok(())
    }
}
