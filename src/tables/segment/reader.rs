//! Reading segments: decoded columns of row groups and of single rows.
//!
//! A column of a row group is decoded whole and cached. Single rows of columns that are not cached are read by page,
//! until that has happened often enough in a row group for the whole column to be cheaper.
//!
//! Invariant: what is read has the types that the rows were written with; whoever needs today's converts
//! ([`Segment::read_group`] does, in `as_now.rs`).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ::bytes::Bytes;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute;
use arrow::datatypes::Int64Type;
use parking_lot::{Mutex, RwLock};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection, RowSelectionPolicy};

use super::cache::{Cached, Item, SegmentCache};
use super::file::{SegmentFile, SparseFile};
use super::marks::DeleteVector;
use super::meta::SegmentMeta;
use super::{ROW_ID_FIELD_ID, SEQ_FIELD_ID};
use crate::error::{KalamError, Result};
use crate::storage::StorageBackend;
use crate::tables::Seq;

/// After so many reads by page in a row group its columns are read whole.
const PARTIAL_READS: u32 = 4;
/// Reads by page are for at most so many rows of a row group.
const PARTIAL_ROWS: usize = 256;

/// Where a segment's file lies.
#[derive(Debug, Clone)]
pub struct SegmentSource {
    /// The backend.
    pub backend: Arc<dyn StorageBackend>,
    /// The cache of the store.
    pub cache: Arc<SegmentCache>,
    /// The id of the blob.
    pub blob: Vec<u8>,
    /// The table's name, for messages.
    pub table: String,
}

/// A segment of a table scope; see the module's comment.
#[derive(Debug)]
pub struct Segment {
    meta: SegmentMeta,
    file: SegmentFile,
    cache: Arc<SegmentCache>,
    /// Its number in the cache.
    pub(super) uid: u64,
    marks: RwLock<Arc<DeleteVector>>,
    /// Bytes that its rows take in memory, about; known once its footer was read.
    memory: OnceLock<u64>,
    /// How often rows were read by page, by row group.
    partial: Box<[AtomicU32]>,
    bytes_read: AtomicU64,
    cache_hits: AtomicU64,
}

impl Segment {
    /// Opens a segment; nothing is read yet. `pinned` is its file, as long as the transaction that writes it is not
    /// durable.
    pub fn new(source: SegmentSource, meta: SegmentMeta, marks: DeleteVector, pinned: Option<Bytes>) -> Self {
        let file = SegmentFile {
            backend: source.backend,
            blob: source.blob,
            table: source.table,
            number: meta.number,
            bytes: meta.bytes,
            part_crcs: meta.part_crcs.clone(),
            pinned: Mutex::new(pinned),
            damage: Mutex::new(None),
        };
        Self {
            uid: source.cache.register(),
            partial: (0..meta.groups()).map(|_| AtomicU32::new(0)).collect(),
            meta,
            file,
            memory: OnceLock::new(),
            cache: source.cache,
            marks: RwLock::new(Arc::new(marks)),
            bytes_read: AtomicU64::new(0),
            cache_hits: AtomicU64::new(0),
        }
    }

    /// What the manifest keeps of it.
    pub fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// The id of its blob.
    pub fn blob_id(&self) -> &[u8] {
        &self.file.blob
    }

    /// Its delete vector as it is now.
    pub fn marks(&self) -> Arc<DeleteVector> {
        Arc::clone(&self.marks.read())
    }

    /// Changes its delete vector.
    pub fn change_marks<T>(&self, change: impl FnOnce(&mut DeleteVector) -> T) -> T {
        change(Arc::make_mut(&mut self.marks.write()))
    }

    /// Rows that have not ended.
    pub fn live_rows(&self) -> u64 {
        u64::from(self.meta.rows).saturating_sub(self.marks.read().ended_rows())
    }

    /// Bytes that its rows take in memory, about; `None` until [`Segment::learn_size`] was called, or something read.
    pub fn memory(&self) -> Option<u64> {
        self.memory.get().copied()
    }

    /// Remembers what [`Segment::memory`] tells.
    pub(super) fn set_memory(&self, bytes: u64) {
        let _ = self.memory.set(bytes);
    }

    /// Finds out what [`Segment::memory`] tells.
    pub async fn learn_size(&self) -> Result<()> {
        match self.memory() {
            Some(_) => Ok(()),
            None => self.footer().await.map(drop),
        }
    }

    /// Its file is durable: from now on it is read from storage.
    pub fn unpin(&self) {
        *self.file.pinned.lock() = None;
    }

    /// Bytes of the file that memory holds because it is not durable yet.
    pub fn pinned_bytes(&self) -> usize {
        self.file.pinned.lock().as_ref().map_or(0, Bytes::len)
    }

    /// The first damage that a read found.
    pub fn damage(&self) -> Option<KalamError> {
        self.file.damage.lock().clone()
    }

    /// Bytes that were read from storage.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Decoded columns, footers and Bloom filters that were found in the cache.
    pub fn cache_hits(&self) -> u64 {
        self.cache_hits.load(Ordering::Relaxed)
    }

    /// Reads every part of the file and compares it with its checksum, then decodes the footer.
    pub async fn scrub(&self) -> Result<()> {
        self.file.scrub().await?;
        self.footer().await.map(drop)
    }

    /// Nothing of its file yet.
    pub(super) fn unread(&self) -> SparseFile {
        self.file.unread()
    }

    /// Reads what a part of its file does not have yet of some ranges.
    pub(super) async fn read_into(&self, file: &mut SparseFile, ranges: &[Range<u64>]) -> Result<()> {
        let bytes = self.file.read_into(file, ranges).await?;
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn read(&self, ranges: &[Range<u64>]) -> Result<SparseFile> {
        let mut file = self.unread();
        self.read_into(&mut file, ranges).await?;
        Ok(file)
    }

    pub(super) fn undecodable(&self, error: impl std::fmt::Display) -> KalamError {
        self.file.damaged(format_args!("it does not decode: {error}"))
    }

    /// The error for a segment that is not what the manifest says.
    pub(super) fn wrong(&self, what: impl std::fmt::Display) -> KalamError {
        self.file.damaged(what)
    }

    /// The parts of the file that do not have their checksums.
    pub(super) async fn bad_parts(&self) -> Result<Vec<Range<u64>>> {
        self.file.bad_parts().await
    }

    pub(super) fn cached(&self, item: Item) -> Option<Cached> {
        let found = self.cache.get(self.uid, item);
        self.cache_hits.fetch_add(found.is_some().into(), Ordering::Relaxed);
        found
    }

    pub(super) fn keep(&self, item: Item, cached: Cached) {
        self.cache.put(self.uid, item, cached);
    }

    /// Whether something is in the cache, which does not count as its use.
    pub(super) fn is_kept(&self, item: Item) -> bool {
        self.cache.contains(self.uid, item)
    }

    /// How many bytes the cache may hold.
    pub(super) fn cache_budget(&self) -> usize {
        self.cache.statistics().budget as usize
    }

    /// Whether rows were written with a column.
    pub(super) fn has(&self, id: u32) -> bool {
        match id {
            SEQ_FIELD_ID => true,
            ROW_ID_FIELD_ID => true,
            _ => self.meta.column(id).is_some(),
        }
    }

    /// Columns of a row group, in the types they were written with; `None` for a column that came later. Ids are
    /// column ids, [`SEQ_FIELD_ID`] or [`ROW_ID_FIELD_ID`].
    pub async fn read_rows(&self, group: usize, ids: &[u32]) -> Result<Vec<Option<ArrayRef>>> {
        self.read_rows_from(group, ids, &mut self.unread()).await
    }

    /// As [`Segment::read_rows`], with what was read of the file already.
    pub(super) async fn read_rows_from(
        &self,
        group: usize,
        ids: &[u32],
        file: &mut SparseFile,
    ) -> Result<Vec<Option<ArrayRef>>> {
        let mut found = self.cached_columns(group, ids);
        let missing: Vec<u32> =
            ids.iter().zip(&found).filter(|(id, f)| f.is_none() && self.has(**id)).map(|(id, _)| *id).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        for (id, array) in self.decode(group, &missing, None, file).await? {
            self.keep(Item::Column { group: group as u32, id }, Cached::Column(Arc::clone(&array)));
            for (slot, _) in found.iter_mut().zip(ids).filter(|(_, i)| **i == id) {
                *slot = Some(Arc::clone(&array));
            }
        }
        Ok(found)
    }

    /// Whether a column of a row group is in memory.
    pub(super) fn is_cached(&self, group: usize, id: u32) -> bool {
        self.is_kept(Item::Column { group: group as u32, id })
    }

    /// A column of a row group, if rows were written with it and it is in memory.
    fn column_in_memory(&self, group: usize, id: u32) -> Option<ArrayRef> {
        match self.has(id).then(|| self.cached(Item::Column { group: group as u32, id })) {
            Some(Some(Cached::Column(array))) => Some(array),
            _ => None,
        }
    }

    /// Some columns of a row group, if rows were written with all of them and all are in memory.
    pub fn columns_in_memory(&self, group: usize, ids: &[u32]) -> Option<Vec<ArrayRef>> {
        let found = self.cache.columns(self.uid, group as u32, ids)?;
        self.cache_hits.fetch_add(ids.len() as u64, Ordering::Relaxed);
        Some(found)
    }

    fn cached_columns(&self, group: usize, ids: &[u32]) -> Vec<Option<ArrayRef>> {
        ids.iter().map(|id| self.column_in_memory(group, *id)).collect()
    }

    /// Decodes columns of a row group, all rows or those of a selection. What has to be read is added to `file`.
    pub(super) async fn decode(
        &self,
        group: usize,
        ids: &[u32],
        selection: Option<RowSelection>,
        file: &mut SparseFile,
    ) -> Result<Vec<(u32, ArrayRef)>> {
        let footer = self.footer().await?;
        let roots = self.roots(&footer, ids)?;
        let ranges = self.ranges(&footer, group, roots.iter().map(|r| r.0), selection.as_ref())?;
        self.read_into(file, &ranges).await?;
        let file = file.clone();
        let mask = ProjectionMask::roots(footer.reader.parquet_schema(), roots.iter().map(|r| r.0));
        let rows = selection.as_ref().map_or(self.meta.group_rows(group).len(), RowSelection::row_count);
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.reader.clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(rows.max(1));
        if let Some(selection) = selection {
            // Pages without a row of the selection are not there: a mask would have them decoded and left out.
            builder = builder.with_row_selection(selection).with_row_selection_policy(RowSelectionPolicy::Selectors);
        }
        let reader = builder.build().map_err(|e| self.undecodable(e))?;
        let schema = arrow::array::RecordBatchReader::schema(&reader);
        let batches = reader.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| self.undecodable(e))?;
        let batch = match batches.as_slice() {
            [batch] => batch.clone(),
            _ => compute::concat_batches(&schema, &batches).map_err(|e| self.undecodable(e))?,
        };
        if batch.num_rows() != rows || batch.num_columns() != roots.len() {
            let found = format!("{} rows of {} columns", batch.num_rows(), batch.num_columns());
            return Err(self.undecodable(format_args!("{found}, expected {rows} of {}", roots.len())));
        }
        Ok(roots.into_iter().map(|(_, id)| id).zip(batch.columns().iter().cloned()).collect())
    }

    /// Columns of some rows (ascending, each once), in the types they were written with; `None` as for
    /// [`Segment::read_rows`].
    pub async fn take(&self, rows: &[u32], ids: &[u32]) -> Result<Vec<Option<ArrayRef>>> {
        let mut parts: Vec<Vec<ArrayRef>> = vec![Vec::new(); ids.len()];
        let mut rest = rows;
        while let Some(&first) = rest.first() {
            let group = self.meta.group_of(first);
            let range = self.meta.group_rows(group);
            let here = rest.partition_point(|row| *row < range.end);
            if range.is_empty() || here == 0 {
                return Err(KalamError::internal(format_args!("no row {first} in segment {}", self.meta.number)));
            }
            let local: Vec<u32> = rest[..here].iter().map(|row| row - range.start).collect();
            for (part, array) in parts.iter_mut().zip(self.take_in(group, &local, ids).await?) {
                part.extend(array);
            }
            rest = &rest[here..];
        }
        let joined = |part: Vec<ArrayRef>| match part.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(Arc::clone(one))),
            many => {
                let many: Vec<&dyn Array> = many.iter().map(AsRef::as_ref).collect();
                compute::concat(&many).map(Some).map_err(KalamError::internal)
            }
        };
        parts.into_iter().map(joined).collect()
    }

    async fn take_in(&self, group: usize, rows: &[u32], ids: &[u32]) -> Result<Vec<Option<ArrayRef>>> {
        let mut whole = self.cached_columns(group, ids);
        let missing: Vec<u32> =
            ids.iter().zip(&whole).filter(|(id, f)| f.is_none() && self.has(**id)).map(|(id, _)| *id).collect();
        let by_page = rows.len() <= PARTIAL_ROWS
            && !missing.is_empty()
            && self.partial[group].fetch_add(1, Ordering::Relaxed) < PARTIAL_READS;
        let mut picked = HashMap::new();
        if by_page {
            let ranges = rows.iter().map(|&row| row as usize..row as usize + 1);
            let selection = RowSelection::from_consecutive_ranges(ranges, self.meta.group_rows(group).len());
            picked.extend(self.decode(group, &missing, Some(selection), &mut self.unread()).await?);
        } else if !missing.is_empty() {
            whole = self.read_rows(group, ids).await?;
        }
        // Rows that follow each other need no copy.
        let is_run = |first: u32, last: u32| (last - first) as usize + 1 == rows.len();
        let run = rows.first().zip(rows.last()).filter(|(first, last)| is_run(**first, **last));
        let indices = run.is_none().then(|| UInt32Array::from(rows.to_vec()));
        let take = |(id, array): (&u32, Option<ArrayRef>)| match (array, &indices) {
            (Some(array), Some(indices)) => {
                compute::take(&array, indices, None).map(Some).map_err(KalamError::internal)
            }
            (Some(array), None) => Ok(Some(array.slice(rows[0] as usize, rows.len()))),
            (None, _) => Ok(picked.get(id).cloned()),
        };
        ids.iter().zip(whole).map(take).collect()
    }

    /// Whether every one of these columns is in memory for a row group, as far as rows were written with it.
    pub fn all_cached(&self, group: usize, ids: &[u32]) -> bool {
        ids.iter().all(|id| !self.has(*id) || self.is_cached(group, *id))
    }

    /// Whether a few rows of columns of a row group should be read by page, which keeps nothing for the next statement:
    /// until that has happened often, or where the cache has no room for so many bytes of whole columns.
    pub(super) fn reads_by_page(&self, group: usize, bytes: usize) -> bool {
        self.partial[group].fetch_add(1, Ordering::Relaxed) < PARTIAL_READS || !self.cache.has_room(bytes)
    }

    /// `_seq` of every row of a row group.
    pub async fn seqs(&self, group: usize) -> Result<Int64Array> {
        let read = self.read_rows(group, &[SEQ_FIELD_ID]).await?;
        match read.into_iter().next().flatten() {
            Some(array) => Ok(array.as_primitive::<Int64Type>().clone()),
            None => Err(self.undecodable("no column _seq")),
        }
    }

    /// Which rows of a row group are visible at a snapshot, or `None` if all are.
    pub async fn visibility(&self, group: usize, snapshot: Seq) -> Result<Option<BooleanBuffer>> {
        let rows = self.meta.group_rows(group);
        let mask = self.marks().mask(rows.clone(), snapshot);
        if self.meta.max_seq <= snapshot {
            return Ok(mask);
        }
        if self.meta.min_seq > snapshot {
            return Ok(Some(BooleanBuffer::new_unset(rows.len())));
        }
        let seqs = self.seqs(group).await?;
        let written = BooleanBuffer::collect_bool(rows.len(), |row| seqs.value(row) <= snapshot);
        Ok(Some(mask.map_or(written.clone(), |mask| &mask & &written)))
    }

    /// Those of some rows (ascending) that are visible at a snapshot.
    pub async fn visible(&self, rows: &[u32], snapshot: Seq) -> Result<Vec<u32>> {
        let marks = self.marks();
        let rows: Vec<u32> = rows.iter().copied().filter(|row| marks.visible(*row, snapshot)).collect();
        if self.meta.max_seq <= snapshot || rows.is_empty() {
            return Ok(rows);
        }
        let seqs = self.take(&rows, &[SEQ_FIELD_ID]).await?;
        let Some(Some(seqs)) = seqs.first() else { return Err(self.undecodable("no column _seq")) };
        let seqs = seqs.as_primitive::<Int64Type>();
        Ok(rows.into_iter().enumerate().filter(|(i, _)| seqs.value(*i) <= snapshot).map(|(_, row)| row).collect())
    }

    /// Reads a range that the footer names.
    pub(super) async fn read_range(&self, start: u64, length: usize) -> Result<Bytes> {
        let file = self.read(&[start..start + length as u64]).await?;
        file.slice(start, length).ok_or_else(|| self.undecodable(format_args!("byte {start} is missing")))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.cache.forget(self.uid);
    }
}
