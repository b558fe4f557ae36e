//! Reading segments: decoded columns of row groups and of single rows.
//!
//! A column of a row group is decoded whole and cached. Single rows of columns that are not cached are read by page,
//! until that has happened often enough in a row group for the whole column to be cheaper.
//!
//! Invariant: what is read has the types that the rows were written with; whoever needs today's converts
//! ([`Segment::read_group`] does).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ::bytes::Bytes;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute;
use arrow::datatypes::Int64Type;
use parking_lot::{Mutex, RwLock};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelectionPolicy,
};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::cache::{Cached, Item, SegmentCache};
use super::file::{SegmentFile, SparseFile};
use super::marks::DeleteVector;
use super::meta::SegmentMeta;
use super::writer::SegmentRows;
use super::{ROW_GROUP_ROWS, ROW_ID_FIELD_ID, SEQ_FIELD_ID};
use crate::error::{KalamError, Result};
use crate::schema::TableDefinition;
use crate::storage::StorageBackend;
use crate::tables::Seq;
use crate::types::{ColumnBuilder, FIELD_ID_KEY, coerce_array};

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

/// What was decoded of a file's end.
#[derive(Debug)]
pub(super) struct Footer {
    pub reader: ArrowReaderMetadata,
    /// Places of the columns in the file's schema, by id.
    pub roots: HashMap<u32, usize>,
    pub bytes: usize,
}

impl Footer {
    pub fn parquet(&self) -> &ParquetMetaData {
        self.reader.metadata()
    }

    /// The places of a column's leaves.
    pub fn leaves(&self, root: usize) -> impl Iterator<Item = usize> {
        let schema = self.reader.parquet_schema();
        (0..schema.num_columns()).filter(move |&leaf| schema.get_column_root_idx(leaf) == root)
    }
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

    async fn read(&self, ranges: &[Range<u64>]) -> Result<SparseFile> {
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

    /// The footer, read once.
    pub(super) async fn footer(&self) -> Result<Arc<Footer>> {
        if let Some(Cached::Footer(footer)) = self.cached(Item::Footer) {
            return Ok(footer);
        }
        let length = u64::from(self.meta.footer_bytes).min(self.meta.bytes);
        let start = self.meta.bytes - length;
        let file = self.read(&[start..self.meta.bytes]).await?;
        let tail = file.slice(start, length as usize).ok_or_else(|| self.undecodable("no footer"))?;
        let footer = Arc::new(self.decode_footer(&tail)?);
        self.keep(Item::Footer, Cached::Footer(Arc::clone(&footer)));
        Ok(footer)
    }

    fn decode_footer(&self, tail: &Bytes) -> Result<Footer> {
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        reader.try_parse_sized(tail, self.meta.bytes).map_err(|e| self.undecodable(e))?;
        let parquet = reader.finish().map_err(|e| self.undecodable(e))?;
        let rows: Vec<i64> = parquet.row_groups().iter().map(|g| g.num_rows()).collect();
        let expected: Vec<i64> = (0..self.meta.groups()).map(|g| self.meta.group_rows(g).len() as i64).collect();
        if rows != expected {
            return Err(self.undecodable(format_args!("row groups of {rows:?} rows, expected {expected:?}")));
        }
        let bytes = parquet.memory_size();
        let _ = self.memory.set(memory_of(&parquet));
        let reader = ArrowReaderMetadata::try_new(Arc::new(parquet), ArrowReaderOptions::new())
            .map_err(|e| self.undecodable(e))?;
        let id = |field: &arrow::datatypes::FieldRef| field.metadata().get(FIELD_ID_KEY)?.parse().ok();
        let roots = reader.schema().fields().iter().enumerate().filter_map(|(i, f)| Some((id(f)?, i))).collect();
        Ok(Footer { reader, roots, bytes })
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
        self.cache.contains(self.uid, Item::Column { group: group as u32, id })
    }

    fn cached_columns(&self, group: usize, ids: &[u32]) -> Vec<Option<ArrayRef>> {
        let group = group as u32;
        let column = |id: &u32| match self.has(*id).then(|| self.cached(Item::Column { group, id: *id })) {
            Some(Some(Cached::Column(array))) => Some(array),
            _ => None,
        };
        ids.iter().map(column).collect()
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

    /// The places of columns in the file's schema, ascending, with their ids.
    fn roots(&self, footer: &Footer, ids: &[u32]) -> Result<Vec<(usize, u32)>> {
        let mut roots: Vec<(usize, u32)> = Vec::with_capacity(ids.len());
        for id in ids {
            let root = footer.roots.get(id).ok_or_else(|| self.undecodable(format_args!("no column {id}")))?;
            roots.push((*root, *id));
        }
        roots.sort_unstable();
        roots.dedup();
        Ok(roots)
    }

    /// The bytes that columns of a row group take in the file, or the pages of a selection of its rows.
    pub(super) async fn column_ranges(
        &self,
        group: usize,
        ids: &[u32],
        selection: Option<&RowSelection>,
    ) -> Result<Vec<Range<u64>>> {
        let footer = self.footer().await?;
        let roots = self.roots(&footer, ids)?;
        self.ranges(&footer, group, roots.iter().map(|r| r.0), selection)
    }

    /// The bytes that hold columns of a row group.
    fn ranges(
        &self,
        footer: &Footer,
        group: usize,
        roots: impl Iterator<Item = usize>,
        selection: Option<&RowSelection>,
    ) -> Result<Vec<Range<u64>>> {
        let parquet = footer.parquet();
        let mut ranges = Vec::new();
        for leaf in roots.flat_map(|root| footer.leaves(root).collect::<Vec<_>>()) {
            let (start, length) = parquet.row_group(group).column(leaf).byte_range();
            let pages = parquet.offset_index().and_then(|index| index.get(group)?.get(leaf));
            match (selection, pages) {
                (Some(selection), Some(pages)) => {
                    let locations = pages.page_locations();
                    if let Some(first) = locations.first() {
                        // A dictionary lies before the first page.
                        ranges.push(start..u64::try_from(first.offset).map_err(|e| self.undecodable(e))?);
                    }
                    ranges.extend(selection.scan_ranges(locations));
                }
                _ => ranges.push(start..start + length),
            }
        }
        Ok(ranges)
    }

    /// Columns of some rows (ascending, each once), in the types they were written with; `None` as for
    /// [`Segment::read_rows`].
    pub async fn take(&self, rows: &[u32], ids: &[u32]) -> Result<Vec<Option<ArrayRef>>> {
        let mut parts: Vec<Vec<ArrayRef>> = vec![Vec::new(); ids.len()];
        let mut rest = rows;
        while let Some(&first) = rest.first() {
            let group = first as usize / ROW_GROUP_ROWS;
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
        let indices = UInt32Array::from(rows.to_vec());
        let take = |(id, array): (&u32, Option<ArrayRef>)| match array {
            Some(array) => compute::take(&array, &indices, None).map(Some).map_err(KalamError::internal),
            None => Ok(picked.get(id).cloned()),
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

    /// The columns that a rewrite needs, and how many of them are the engine's own.
    fn all_ids(definition: &TableDefinition) -> (Vec<u32>, usize) {
        let mut ids = vec![SEQ_FIELD_ID];
        if definition.primary_key.is_empty() {
            ids.push(ROW_ID_FIELD_ID);
        }
        let own = ids.len();
        ids.extend(definition.columns_in_order().map(|c| c.column_id));
        (ids, own)
    }

    /// The places of the leaves of every column that a rewrite needs.
    pub(super) fn all_leaves(&self, definition: &TableDefinition, footer: &Footer) -> Vec<usize> {
        let roots = Self::all_ids(definition).0.into_iter().filter_map(|id| footer.roots.get(&id));
        roots.flat_map(|root| footer.leaves(*root)).collect()
    }

    /// Rows of a row group, as a rewrite needs them: every column of the table as it is defined, in today's types.
    /// Only the rows of `keep` are converted: those that ended may hold what an ALTER since would refuse.
    pub async fn read_group(
        &self,
        definition: &TableDefinition,
        group: usize,
        keep: Option<&BooleanBuffer>,
    ) -> Result<SegmentRows> {
        let arrays = self.read_rows(group, &Self::all_ids(definition).0).await?;
        self.converted(definition, arrays, self.meta.group_rows(group).len(), keep)
    }

    /// As [`Segment::read_group`], of the rows that are selected; `keep` says which of these are kept.
    pub(super) async fn read_selected(
        &self,
        definition: &TableDefinition,
        group: usize,
        selection: RowSelection,
        keep: &BooleanBuffer,
    ) -> Result<SegmentRows> {
        let (ids, _) = Self::all_ids(definition);
        let written: Vec<u32> = ids.iter().copied().filter(|id| self.has(*id)).collect();
        let read: HashMap<u32, ArrayRef> =
            self.decode(group, &written, Some(selection), &mut self.unread()).await?.into_iter().collect();
        self.converted(definition, ids.iter().map(|id| read.get(id).cloned()).collect(), keep.len(), Some(keep))
    }

    fn converted(
        &self,
        definition: &TableDefinition,
        mut arrays: Vec<Option<ArrayRef>>,
        rows: usize,
        keep: Option<&BooleanBuffer>,
    ) -> Result<SegmentRows> {
        let (_, own) = Self::all_ids(definition);
        let keep = keep.map(|keep| BooleanArray::new(keep.clone(), None));
        let rows = keep.as_ref().map_or(rows, BooleanArray::true_count);
        if let Some(keep) = &keep {
            for array in arrays.iter_mut().flatten() {
                *array = compute::filter(array, keep).map_err(KalamError::internal)?;
            }
        }
        let columns = arrays.split_off(own);
        let mut hidden = arrays.into_iter().map(|array| {
            let array = array.ok_or_else(|| self.undecodable("a system column is missing"))?;
            Ok(array.as_primitive::<Int64Type>().clone())
        });
        let seqs = hidden.next().unwrap_or_else(|| Err(self.undecodable("no column _seq")))?;
        let row_ids = hidden.next().transpose()?;
        let columns = definition.columns_in_order().zip(columns).map(|(column, array)| match array {
            Some(array) => {
                let path = definition.type_path(column.column_id, self.meta.schema_version);
                path.iter().skip(1).try_fold(array, |array, ty| coerce_array(&array, ty, &column.name))
            }
            None => {
                let value = column.initial_value()?;
                let mut builder = ColumnBuilder::new(&column.data_type, &column.name, 1);
                builder.append(&value)?;
                compute::take(&builder.finish(), &UInt32Array::from(vec![0; rows]), None).map_err(KalamError::internal)
            }
        });
        Ok(SegmentRows { columns: columns.collect::<Result<_>>()?, seqs, row_ids })
    }

    /// Reads a range that the footer names.
    pub(super) async fn read_range(&self, start: u64, length: usize) -> Result<Bytes> {
        let file = self.read(&[start..start + length as u64]).await?;
        file.slice(start, length).ok_or_else(|| self.undecodable(format_args!("byte {start} is missing")))
    }
}

/// Bytes that the rows of a file take in memory, about.
fn memory_of(parquet: &ParquetMetaData) -> u64 {
    let chunks = parquet.row_groups().iter().flat_map(|group| group.columns());
    let bytes = chunks.map(|chunk| {
        let values = u64::try_from(chunk.num_values()).unwrap_or(0);
        let of_values = match chunk.column_type() {
            PhysicalType::BOOLEAN => values / 8,
            PhysicalType::INT32 | PhysicalType::FLOAT => values * 4,
            PhysicalType::INT64 | PhysicalType::DOUBLE => values * 8,
            PhysicalType::INT96 | PhysicalType::FIXED_LEN_BYTE_ARRAY => values * 16,
            PhysicalType::BYTE_ARRAY => {
                let bytes = chunk.unencoded_byte_array_data_bytes().unwrap_or(chunk.uncompressed_size());
                values * 4 + u64::try_from(bytes).unwrap_or(0)
            }
        };
        of_values + values / 8
    });
    bytes.sum()
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.cache.forget(self.uid);
    }
}
