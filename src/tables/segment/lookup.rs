//! Finding rows of a segment by their keys.
//!
//! The key range of the segment, the key ranges of its row groups and the Bloom filter of a row group are asked in
//! turn; only then is the key column of that row group decoded (and cached), in which a binary search finds the row.
//!
//! Invariant: the answer is every row with the key, whichever snapshot sees it. A segment whose keys had other types
//! that sort or encode otherwise is searched row by row after conversion; of such a segment only rows that have not
//! ended are found, because the others need not convert.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute;
use parquet::bloom_filter::Sbbf;

use super::ROW_ID_FIELD_ID;
use super::cache::{Cached, Item};
use super::reader::Segment;
use crate::error::{KalamError, Result};
use crate::schema::TableDefinition;
use crate::tables::KeySpec;
use crate::tables::index::IndexRange;
use crate::types::{KalamDataType, KeyCodec, Value};

impl Segment {
    /// The rows of encoded keys, as pairs of a key's place in `keys` and a row, ascending by row. `key` is what
    /// identifies the rows of the table as it is defined, under which `keys` are encoded.
    pub async fn find_keys<K: AsRef<[u8]> + Sync>(
        &self,
        definition: &TableDefinition,
        key: &KeySpec,
        keys: &[K],
    ) -> Result<Vec<(usize, u32)>> {
        let earlier = match self.meta().schema_version {
            version if version < key.version() => Some(KeySpec::at(definition, version)?),
            _ => None,
        };
        let written = earlier.as_ref().unwrap_or(key);
        let ids: Vec<u32> = if key.is_row_id() { vec![ROW_ID_FIELD_ID] } else { key.columns().to_vec() };
        if !encode_alike(written.codec(), key.codec()) {
            return self.search_converted(definition, key, &ids, keys).await;
        }
        let mut found = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            let key = key.as_ref();
            if !self.meta().may_hold(key) {
                continue;
            }
            for group in self.candidate_groups(key) {
                if !self.bloom_says_perhaps(group, written, key).await? {
                    continue;
                }
                let columns = self.key_columns(group, &ids).await?;
                found.extend(self.search(group, &columns, written, key)?.map(|row| (place, row)));
            }
        }
        found.sort_unstable_by_key(|(_, row)| *row);
        Ok(found)
    }

    /// The rows of an encoded key, if everything that has to be looked at is in memory. `key` is as in
    /// [`Segment::find_keys`].
    pub fn find_in_memory(&self, key: &KeySpec, encoded: &[u8]) -> Option<Vec<Range<u32>>> {
        if self.meta().schema_version < key.version() {
            return None;
        }
        let groups = if self.meta().may_hold(encoded) { self.candidate_groups(encoded) } else { 0..0 };
        let find = |group| self.search(group, &self.keys_in_memory(group, key)?, key, encoded).ok();
        groups.map(find).collect()
    }

    /// The rows within a range of encoded keys, as [`Segment::find_in_memory`] finds those of one.
    pub fn range_in_memory(&self, key: &KeySpec, range: &IndexRange) -> Option<Vec<Range<u32>>> {
        if self.meta().schema_version < key.version() {
            return None;
        }
        let ends_before = |first: &[u8]| range.to.as_deref().is_some_and(|to| to <= first);
        let meta = self.meta();
        if ends_before(meta.first_key()) || meta.last_key < range.from {
            return Some(Vec::new());
        }
        let find = |group: usize| {
            let columns = self.keys_in_memory(group, key)?;
            let (rows, keys) = (meta.group_rows(group), key.codec().rows(&columns).ok()?);
            let below = |key: &[u8]| keys.below(key, rows.len(), |row| row).ok();
            let from = below(&range.from)?;
            let to = range.to.as_ref().map_or(Some(rows.len()), |to| below(to))?;
            Some(rows.start + from as u32..rows.start + to.max(from) as u32)
        };
        // First keys are cut, so a group may begin above what it says, and never below.
        let start = self.candidate_groups(&range.from).start;
        (start..meta.groups()).take_while(|group| !ends_before(&meta.group_keys[*group])).map(find).collect()
    }

    fn keys_in_memory(&self, group: usize, key: &KeySpec) -> Option<Vec<ArrayRef>> {
        self.columns_in_memory(group, key.columns())
    }

    /// The rows of a row group that have a key, in its key columns.
    fn search(&self, group: usize, columns: &[ArrayRef], key: &KeySpec, encoded: &[u8]) -> Result<Range<u32>> {
        let (rows, keys) = (self.meta().group_rows(group), key.codec().rows(columns)?);
        let first = keys.below(encoded, rows.len(), |row| row)? as u32;
        let (mut end, mut buffer) = (first, Vec::with_capacity(encoded.len()));
        while end < rows.len() as u32 {
            buffer.clear();
            keys.encode(end as usize, &mut buffer)?;
            if buffer != encoded {
                break;
            }
            end += 1;
        }
        Ok(rows.start + first..rows.start + end)
    }

    /// The row groups that a key can be in. Versions of one key may lie on both sides of a border.
    fn candidate_groups(&self, key: &[u8]) -> Range<usize> {
        let firsts = &self.meta().group_keys;
        // First keys are cut, so they may be below the key they stand for: the group before one that is not above
        // the key may hold it too.
        let end = firsts.partition_point(|first| first.as_slice() <= key);
        let start = firsts.partition_point(|first| first.as_slice() < prefix(key, first.len()));
        start.saturating_sub(1)..end
    }

    async fn key_columns(&self, group: usize, ids: &[u32]) -> Result<Vec<ArrayRef>> {
        let columns: Option<Vec<ArrayRef>> = self.read_rows(group, ids).await?.into_iter().collect();
        columns.ok_or_else(|| self.undecodable("a key column is missing"))
    }

    async fn bloom_says_perhaps(&self, group: usize, key: &KeySpec, encoded: &[u8]) -> Result<bool> {
        let ([id], [data_type]) = (key.columns(), key.codec().types()) else { return Ok(true) };
        if !has_bloom(data_type) {
            return Ok(true);
        }
        // A key column that is there already says more than the filter.
        if self.is_cached(group, *id) {
            return Ok(true);
        }
        let Some(bloom) = self.bloom(group, *id).await? else { return Ok(true) };
        Ok(match key.codec().decode(encoded)?.as_slice() {
            [value] => check(&bloom, value, data_type),
            _ => true,
        })
    }

    /// The Bloom filter of a column in a row group, if it was written with one.
    pub(super) async fn bloom(&self, group: usize, id: u32) -> Result<Option<Arc<Sbbf>>> {
        let item = Item::Bloom { group: group as u32, id };
        if let Some(Cached::Bloom(bloom)) = self.cached(item) {
            return Ok(Some(bloom));
        }
        let footer = self.footer().await?;
        let leaf = footer.roots.get(&id).and_then(|root| footer.leaves(*root).next());
        let chunk = leaf.map(|leaf| footer.parquet().row_group(group).column(leaf));
        let place = chunk.and_then(|c| Some((c.bloom_filter_offset()?, c.bloom_filter_length()?)));
        let Some((offset, length)) = place else { return Ok(None) };
        let (Ok(offset), Ok(length)) = (u64::try_from(offset), usize::try_from(length)) else {
            return Err(self.undecodable("a Bloom filter at no place"));
        };
        let bytes = self.read_range(offset, length).await?;
        let bloom = Arc::new(Sbbf::from_bytes(&bytes).map_err(|e| self.undecodable(e))?);
        self.keep(item, Cached::Bloom(Arc::clone(&bloom)));
        Ok(Some(bloom))
    }

    /// Looks at every row that has not ended.
    async fn search_converted<K: AsRef<[u8]>>(
        &self,
        definition: &TableDefinition,
        key: &KeySpec,
        ids: &[u32],
        keys: &[K],
    ) -> Result<Vec<(usize, u32)>> {
        let places: HashMap<&[u8], usize> = keys.iter().enumerate().map(|(i, k)| (k.as_ref(), i)).collect();
        let marks = self.marks();
        let mut found = Vec::new();
        for group in 0..self.meta().groups() {
            let rows: Vec<u32> = self.meta().group_rows(group).filter(|row| !marks.has_ended(*row)).collect();
            let live: BooleanArray = self.meta().group_rows(group).map(|row| Some(!marks.has_ended(row))).collect();
            let mut columns = self.key_columns(group, ids).await?;
            for ((column, id), definition_of) in columns.iter_mut().zip(ids).zip(definition.key_columns()) {
                let array = compute::filter(column, &live).map_err(KalamError::internal)?;
                *column = definition.as_now(*id, &definition_of.name, array, self.meta().schema_version)?;
            }
            let mut buffer = Vec::new();
            for (i, row) in rows.into_iter().enumerate() {
                buffer.clear();
                key.codec().encode(&columns, i, &mut buffer)?;
                if let Some(place) = places.get(buffer.as_slice()) {
                    found.push((*place, row));
                }
            }
        }
        Ok(found)
    }
}

fn prefix(key: &[u8], length: usize) -> &[u8] {
    &key[..key.len().min(length)]
}

/// Whether two codecs give the same bytes for the same value.
fn encode_alike(a: &KeyCodec, b: &KeyCodec) -> bool {
    use KalamDataType as T;
    a.types().len() == b.types().len()
        && a.types().iter().zip(b.types()).all(|(a, b)| match (a, b) {
            (T::Decimal { scale: a, .. }, T::Decimal { scale: b, .. }) => a == b,
            (T::Float | T::Double, T::Float | T::Double) => true,
            _ => a == b || (a.is_integer() && b.is_integer()),
        })
}

/// Whether a column of this type can have a Bloom filter. Floating point numbers that are equal as keys (the zeros, the
/// NaNs) differ in their bytes, booleans have two values only, and decimals lie in three ways.
pub(super) fn has_bloom(data_type: &KalamDataType) -> bool {
    use KalamDataType as T;
    matches!(
        data_type,
        T::SmallInt
            | T::Int
            | T::BigInt
            | T::Text
            | T::Bytes
            | T::Uuid
            | T::Date
            | T::Timestamp
            | T::DateTime
            | T::Time
    )
}

/// Whether a filter may hold a value of a column of a type: what is hashed is the value as Parquet lays it.
pub(super) fn check(bloom: &Sbbf, value: &Value, data_type: &KalamDataType) -> bool {
    match value {
        Value::BigInt(n) => match data_type {
            KalamDataType::BigInt => bloom.check(n),
            _ => i32::try_from(*n).is_ok_and(|n| bloom.check(&n)),
        },
        Value::Timestamp(n) | Value::DateTime(n) | Value::Time(n) => bloom.check(n),
        Value::Date(n) => bloom.check(n),
        Value::Text(text) => bloom.check(text.as_str()),
        Value::Bytes(bytes) => bloom.check(bytes.as_slice()),
        Value::Uuid(bytes) => bloom.check(bytes.as_slice()),
        _ => true,
    }
}
