//! A secondary index over the rows of a segment: encoded values in order, each with its row.
//!
//! Nothing of it is stored: it is built from the decoded columns when it is first asked for values that lie within the
//! bounds of its columns, and kept in the cache. Segments never change, so it stays right. New values of a UNIQUE column
//! are asked of Bloom filters first, which only ever say too often that a value may be there. Invariant: it has every row of the segment, or, where the values have to be led
//! through an ALTER that rows which have ended need not follow, every row that had not ended when it was built;
//! then it serves snapshots from [`SegmentIndex::covers`] on.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute;

use super::cache::{Cached, Item};
use super::lookup::{check, has_bloom};
use super::prune::bounds_convert;
use super::reader::Segment;
use crate::error::{KalamError, Result};
use crate::platform::Turns;
use crate::schema::{IndexDefinition, TableDefinition};
use crate::tables::index::{IndexCodec, IndexRange, successor};
use crate::tables::replay::outdated;
use crate::tables::{IndexAccess, Seq};
use crate::types::{KalamDataType, KeyCodec};

/// Rows whose visibility is asked at once.
const STEP: usize = 1024;
/// More new values than this are looked up in the whole index.
const FEW: usize = 64;
/// For a few values an index is only built if it takes at most this part of the cache.
const INDEX_SHARE: usize = 4;
/// Bytes that the values of a column without a width are taken to have.
const TEXT_BYTES: usize = 32;

/// The index; see the module's comment.
#[derive(Debug)]
pub struct SegmentIndex {
    keys: Vec<u8>,
    /// Where the key of each entry ends.
    ends: Vec<u32>,
    rows: Vec<u32>,
    covers: Seq,
}

impl SegmentIndex {
    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.keys.len() + (self.ends.len() + self.rows.len()) * size_of::<u32>()
    }

    fn key(&self, entry: usize) -> &[u8] {
        let start = entry.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.keys[start as usize..self.ends[entry] as usize]
    }

    /// The entry before which all keys are below some bytes.
    fn place(&self, bytes: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.rows.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < bytes { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The rows of a range, in order.
    fn range(&self, range: &IndexRange) -> &[u32] {
        let from = self.place(&range.from);
        let to = range.to.as_ref().map_or(self.rows.len(), |to| self.place(to));
        &self.rows[from..to.max(from)]
    }
}

/// Where the encoded values of a column lie, in every row of a segment; see [`Segment::index_bounds`].
#[derive(Debug, Clone, Default)]
pub struct IndexBounds {
    /// The values that are not NULL; `None`: not known.
    values: Option<IndexRange>,
    /// NULL, if there is any.
    null: Option<IndexRange>,
}

impl IndexBounds {
    /// Whether there may be values from one to another, both included and not NULL.
    pub fn may_hold(&self, least: &[u8], greatest: &[u8]) -> bool {
        self.values.as_ref().is_none_or(|values| {
            greatest >= values.from.as_slice() && values.to.as_ref().is_none_or(|to| least < to.as_slice())
        })
    }

    /// Whether there may be values, of this column and those after it, in a range.
    fn meets(&self, range: &IndexRange) -> bool {
        let Some(values) = &self.values else { return true };
        let meets = |part: &IndexRange| {
            range.to.as_ref().is_none_or(|to| *to > part.from) && part.to.as_ref().is_none_or(|to| range.from < *to)
        };
        meets(values) || self.null.as_ref().is_some_and(meets)
    }
}

impl Segment {
    /// The rows in a part of an index that a snapshot sees and that are not among `hidden`, ascending: at most `limit`
    /// of them, the first ones in the order that is asked for.
    pub async fn index_rows(
        &self,
        definition: &TableDefinition,
        access: &IndexAccess,
        snapshot: Seq,
        hidden: impl Fn(u32) -> bool,
        limit: usize,
    ) -> Result<Vec<u32>> {
        let bounds = self.index_bounds(definition, &access.index)?;
        if bounds.first().is_some_and(|first| !access.ranges.iter().any(|range| first.meets(range))) {
            return Ok(Vec::new());
        }
        let index = self.index(definition, &access.index).await?;
        if index.covers > snapshot {
            return Err(outdated());
        }
        let mut found: Vec<u32> = Vec::new();
        let backward = access.order == Some(true);
        let mut candidates: Vec<u32> = Vec::new();
        for place in 0..access.ranges.len() {
            let place = if backward { access.ranges.len() - 1 - place } else { place };
            let rows = index.range(&access.ranges[place]);
            let mut taken = 0;
            while taken < rows.len() && found.len() < limit {
                let step = STEP.max(limit.min(rows.len())).min(rows.len() - taken);
                candidates.clear();
                if backward {
                    let end = rows.len() - taken;
                    candidates.extend(rows[end - step..end].iter().rev());
                } else {
                    candidates.extend(&rows[taken..taken + step]);
                }
                taken += step;
                candidates.retain(|row| !hidden(*row));
                let mut ascending = candidates.clone();
                ascending.sort_unstable();
                let visible = self.visible(&ascending, snapshot).await?;
                let sees = |row: &&u32| visible.binary_search(row).is_ok();
                found.extend(candidates.iter().filter(sees).take(limit - found.len()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The rows with some encoded values that have not ended, each with the place of its value.
    pub async fn live_with<V: AsRef<[u8]> + Sync>(
        &self,
        definition: &TableDefinition,
        index: &IndexDefinition,
        values: &[V],
    ) -> Result<Vec<(usize, u32)>> {
        if let Some(found) = self.live_by_filters(definition, index, values).await? {
            return Ok(found);
        }
        let index = self.index(definition, index).await?;
        let marks = self.marks();
        let mut found = Vec::new();
        for (place, value) in values.iter().enumerate() {
            let rows = index.range(&IndexRange::prefix(value.as_ref().to_vec())).iter();
            found.extend(rows.filter(|row| !marks.has_ended(**row)).map(|row| (place, *row)));
        }
        Ok(found)
    }

    /// As [`Segment::live_with`] without the index, where Bloom filters say better: of most new values that they are in no
    /// row group. Where they may be, the index is built if the cache has room for such, else only those row groups are
    /// read. `None`: the index is the way.
    async fn live_by_filters<V: AsRef<[u8]> + Sync>(
        &self,
        definition: &TableDefinition,
        index: &IndexDefinition,
        values: &[V],
    ) -> Result<Option<Vec<(usize, u32)>>> {
        let [column] = index.columns.as_slice() else { return Ok(None) };
        let (id, version) = (column.column_id, self.meta().schema_version);
        let Some(data_type) = definition.column_by_id(id).map(|c| c.data_type).filter(has_bloom) else {
            return Ok(None);
        };
        let same_type = definition.type_path(id, version).len() == 1 && self.has(id);
        let item = Item::Index { id: index.index_id, version: definition.schema_version };
        if values.len() > FEW || !same_type || self.is_kept(item) {
            return Ok(None);
        }
        let codec = KeyCodec::new(&[data_type])?;
        let mut wanted = Vec::with_capacity(values.len());
        for value in values {
            let mut bytes = value.as_ref().to_vec();
            if column.descending {
                bytes.iter_mut().for_each(|b| *b = !*b);
            }
            wanted.extend(codec.decode(&bytes)?);
        }
        let mut perhaps: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut turns = Turns::begin_short();
        for group in 0..self.meta().groups() {
            // An older segment, or an index that is younger than it.
            let Some(bloom) = self.bloom(group, id).await? else { return Ok(None) };
            let places = (0..wanted.len()).filter(|place| check(&bloom, &wanted[*place], &data_type));
            let places: Vec<usize> = places.collect();
            if !places.is_empty() {
                perhaps.push((group, places));
            }
            turns.pass().await;
        }
        if perhaps.is_empty() {
            return Ok(Some(Vec::new()));
        }
        if self.index_size_about(&data_type) <= self.cache_budget() / INDEX_SHARE {
            return Ok(None);
        }
        let (marks, encoded) = (self.marks(), IndexCodec::new(definition, index)?);
        let mut found = Vec::new();
        for (group, places) in perhaps {
            let column = self.read_rows(group, &[id]).await?.pop().flatten();
            let Some(column) = column else { return Ok(None) };
            let first = self.meta().group_rows(group).start;
            let mut bytes = Vec::new();
            for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
                bytes.clear();
                encoded.encode_column(0, &column, row, &mut bytes)?;
                let here = places.iter().filter(|place| values[**place].as_ref() == bytes);
                found.extend(here.map(|place| (*place, first + row as u32)).filter(|(_, row)| !marks.has_ended(*row)));
            }
            turns.pass().await;
        }
        Ok(Some(found))
    }

    /// About how many bytes an index of one column takes.
    fn index_size_about(&self, data_type: &KalamDataType) -> usize {
        let value = data_type.arrow_type().primitive_width().unwrap_or(TEXT_BYTES);
        self.meta().rows as usize * (value + 1 + 2 * size_of::<u32>())
    }

    /// Where the encoded values of each column of an index lie, by the manifest.
    pub fn index_bounds(&self, definition: &TableDefinition, index: &IndexDefinition) -> Result<Vec<IndexBounds>> {
        let codec = IndexCodec::new(definition, index)?;
        let bounds = |(place, id): (usize, u32)| {
            let Some(column) = definition.column_by_id(id) else { return Ok(IndexBounds::default()) };
            let written = self.meta().column(id);
            let written = written.filter(|w| !w.has_nan && bounds_convert(&w.data_type, &column.data_type));
            let Some(written) = written else { return Ok(IndexBounds::default()) };
            let null = (written.nulls > 0).then(|| IndexRange::prefix(vec![codec.first_bytes(place).1]));
            if written.nulls == self.meta().rows {
                let nothing = IndexRange { from: Vec::new(), to: Some(Vec::new()) };
                return Ok(IndexBounds { values: Some(nothing), null });
            }
            let mut ends: Vec<Vec<u8>> = Vec::with_capacity(2);
            for bound in [&written.min, &written.max] {
                let bound = bound.as_ref().and_then(|bound| bound.cast_to(&column.data_type.arrow_type()).ok());
                let Some(array) = bound.and_then(|bound| bound.to_array().ok()) else {
                    return Ok(IndexBounds::default());
                };
                let mut end = Vec::new();
                codec.encode_column(place, &array, 0, &mut end)?;
                ends.push(end);
            }
            ends.sort_unstable();
            let to = ends.pop().and_then(successor);
            Ok(IndexBounds { values: ends.pop().map(|from| IndexRange { from, to }), null })
        };
        index.columns.iter().map(|c| c.column_id).enumerate().map(bounds).collect()
    }

    /// The rows in a range of an index that were there at a snapshot, ascending, whether or not they have ended, if the
    /// index is in memory or not needed; `None` also if there are more than `most`.
    pub fn index_in_memory(
        &self,
        definition: &TableDefinition,
        index: &IndexDefinition,
        range: &IndexRange,
        snapshot: Seq,
        most: usize,
    ) -> Option<Vec<u32>> {
        let item = Item::Index { id: index.index_id, version: definition.schema_version };
        let Some(Cached::Index(found)) = self.cached(item) else {
            let bounds = self.index_bounds(definition, index).ok()?;
            return bounds.first().is_some_and(|first| !first.meets(range)).then(Vec::new);
        };
        let rows = found.range(range);
        if found.covers > snapshot || rows.len() > most {
            return None;
        }
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        Some(rows)
    }

    async fn index(&self, definition: &TableDefinition, index: &IndexDefinition) -> Result<Arc<SegmentIndex>> {
        let item = Item::Index { id: index.index_id, version: definition.schema_version };
        if let Some(Cached::Index(found)) = self.cached(item) {
            return Ok(found);
        }
        let built = Arc::new(self.build_index(definition, index).await?);
        self.keep(item, Cached::Index(Arc::clone(&built)));
        Ok(built)
    }

    async fn build_index(&self, definition: &TableDefinition, index: &IndexDefinition) -> Result<SegmentIndex> {
        let codec = IndexCodec::new(definition, index)?;
        let ids: Vec<u32> = index.columns.iter().map(|c| c.column_id).collect();
        let version = self.meta().schema_version;
        let converts = ids.iter().any(|id| definition.type_path(*id, version).len() > 1);
        let marks = self.marks();
        let newest_end = marks.ended_after(Seq::MIN).map(|(seq, _)| seq).max();
        let covers = newest_end.filter(|_| converts).unwrap_or(Seq::MIN);
        let mut entries: Vec<(std::ops::Range<usize>, u32)> = Vec::with_capacity(self.meta().rows as usize);
        let mut bytes = Vec::new();
        let mut turns = Turns::begin();
        for group in 0..self.meta().groups() {
            turns.pass().await;
            let rows: Vec<u32> =
                self.meta().group_rows(group).filter(|row| !converts || !marks.has_ended(*row)).collect();
            let keep = converts.then(|| {
                let kept = self.meta().group_rows(group).map(|row| Some(!marks.has_ended(row)));
                kept.collect::<BooleanArray>()
            });
            let mut columns: Vec<ArrayRef> = Vec::with_capacity(ids.len());
            for (id, array) in ids.iter().zip(self.read_rows(group, &ids).await?) {
                let column = definition.column_by_id(*id);
                let column = column.ok_or_else(|| KalamError::internal("an index lost a column"))?;
                let picked = match (array, &keep) {
                    (Some(array), Some(keep)) => Some(compute::filter(&array, keep).map_err(KalamError::internal)?),
                    (array, _) => array,
                };
                columns.push(definition.column_now(column, picked, version, rows.len())?);
            }
            for (i, row) in rows.into_iter().enumerate() {
                let start = bytes.len();
                codec.encode(&columns, i, &mut bytes)?;
                entries.push((start..bytes.len(), row));
            }
        }
        entries.sort_unstable_by(|a, b| bytes[a.0.clone()].cmp(&bytes[b.0.clone()]).then(a.1.cmp(&b.1)));
        let mut sorted = SegmentIndex {
            keys: Vec::with_capacity(bytes.len()),
            ends: Vec::with_capacity(entries.len()),
            rows: Vec::with_capacity(entries.len()),
            covers,
        };
        for (range, row) in entries {
            sorted.keys.extend_from_slice(&bytes[range]);
            sorted.ends.push(u32::try_from(sorted.keys.len()).map_err(KalamError::internal)?);
            sorted.rows.push(row);
        }
        Ok(sorted)
    }
}
