//! The rows of a row group that a scan wants, and their columns.
//!
//! A scan begins with the rows that its snapshot sees and narrows them down by its filter, one condition after the
//! other; each condition reads its own columns, of the rows that are still wanted. What is asked for at the end is read
//! of the rows that are left. If they are few, they are read by page and nothing else is decoded; else columns are
//! decoded whole and stay in the cache.
//!
//! Invariant: every array that is held has one value for each wanted row, in their order. No byte of the file is read
//! twice for one row group.

use std::ops::Range;

use arrow::array::{ArrayRef, BooleanArray, BooleanBufferBuilder};
use arrow::buffer::BooleanBuffer;
use arrow::compute::FilterBuilder;
use parquet::arrow::arrow_reader::RowSelection;

use super::file::SparseFile;
use super::reader::Segment;
use crate::error::{KalamError, Result};

/// What skipping to the next run of rows costs, in decoded rows.
const RUN_COST: usize = 8;
/// Columns of a row group that take no more bytes than this are fetched from storage at once, before it is known whether
/// all of them will be decoded.
const FETCH_AT_ONCE: u64 = 512 << 10;

/// Rows of a row group; see the module's comment.
pub struct GroupRows<'a> {
    segment: &'a Segment,
    group: usize,
    /// Rows of the row group.
    all: usize,
    /// Those that are wanted; `None`: all.
    wanted: Option<BooleanBuffer>,
    len: usize,
    held: Vec<(u32, ArrayRef)>,
    file: SparseFile,
    /// Whether the wanted rows alone may be decoded; decided when that is first asked.
    by_page: Option<bool>,
    decoded: usize,
}

impl<'a> GroupRows<'a> {
    /// The rows of a row group that a mask leaves.
    pub fn new(segment: &'a Segment, group: usize, mask: Option<BooleanBuffer>) -> Self {
        let all = segment.meta().group_rows(group).len();
        let len = mask.as_ref().map_or(all, BooleanBuffer::count_set_bits);
        let file = segment.unread();
        Self { segment, group, all, wanted: mask, len, held: Vec::new(), file, by_page: None, decoded: 0 }
    }

    /// The row group.
    pub fn group(&self) -> usize {
        self.group
    }

    /// How many rows are wanted.
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many rows were read: the most of any column. Of one that was in memory, those that are wanted.
    pub fn decoded(&self) -> usize {
        self.decoded
    }

    /// The wanted rows, counted from the first of the row group.
    pub fn indices(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match &self.wanted {
            None => Box::new(0..self.all as u32),
            Some(mask) => Box::new(mask.set_indices_u32()),
        }
    }

    /// Leaves out the rows that are in none of some ranges (ascending, apart).
    pub fn retain_ranges(&mut self, ranges: &[Range<u32>]) {
        let mut mask = BooleanBufferBuilder::new(self.all);
        for range in ranges {
            mask.append_n((range.start as usize).saturating_sub(mask.len()), false);
            mask.append_n(range.len(), true);
        }
        mask.append_n(self.all.saturating_sub(mask.len()), false);
        let mask = mask.finish();
        self.want(self.wanted.as_ref().map_or(mask.clone(), |wanted| wanted & &mask));
    }

    /// Leaves the first rows only.
    pub fn truncate(&mut self, rows: usize) {
        let end = self.indices().nth(rows);
        if let Some(end) = end {
            self.retain_ranges(std::slice::from_ref(&(0..end)));
        }
    }

    /// Leaves those of the wanted rows whose bit is set: there is one for each of them.
    pub fn narrow(&mut self, kept: &BooleanBuffer) -> Result<()> {
        let predicate = FilterBuilder::new(&BooleanArray::new(kept.clone(), None)).optimize().build();
        let held = std::mem::take(&mut self.held).into_iter();
        let held = held.map(|(id, array)| Ok((id, predicate.filter(array.as_ref()).map_err(KalamError::internal)?)));
        let held: Vec<(u32, ArrayRef)> = held.collect::<Result<_>>()?;
        self.want(match &self.wanted {
            None => kept.clone(),
            Some(wanted) => {
                let rows: Vec<usize> = wanted.set_indices().collect();
                let mut mask = BooleanBufferBuilder::new(self.all);
                mask.append_n(self.all, false);
                kept.set_indices().for_each(|i| mask.set_bit(rows[i], true));
                mask.finish()
            }
        });
        self.held = held;
        Ok(())
    }

    /// Other rows are wanted: what is held is of those before.
    fn want(&mut self, wanted: BooleanBuffer) {
        self.held.clear();
        self.len = wanted.count_set_bits();
        self.wanted = Some(wanted);
    }

    /// Fetches from storage what some columns need, at once if it is not much.
    pub async fn fetch(&mut self, ids: &[u32]) -> Result<()> {
        let missing = self.missing(ids);
        if missing.is_empty() {
            return Ok(());
        }
        let selection = self.pages(&missing);
        let ranges = self.segment.column_ranges(self.group, &missing, selection.as_ref()).await?;
        if ranges.iter().map(|r| r.end - r.start).sum::<u64>() <= FETCH_AT_ONCE {
            self.segment.read_into(&mut self.file, &ranges).await?;
        }
        Ok(())
    }

    /// Columns of the wanted rows, in the types that they were written with; `None` for a column that came later.
    pub async fn columns(&mut self, ids: &[u32]) -> Result<Vec<Option<ArrayRef>>> {
        let missing = self.missing(ids);
        self.decoded = self.decoded.max(if ids.is_empty() { 0 } else { self.len });
        match self.pages(&missing) {
            Some(selection) => {
                let read = self.segment.decode(self.group, &missing, Some(selection), &mut self.file).await?;
                self.held.extend(read);
            }
            None if !missing.is_empty() => self.decoded = self.all,
            None => {}
        }
        let whole: Vec<u32> = ids.iter().copied().filter(|id| self.held(*id).is_none()).collect();
        let read = self.segment.read_rows_from(self.group, &whole, &mut self.file).await?;
        for (id, array) in whole.into_iter().zip(read) {
            if let Some(array) = array {
                self.held.push((id, self.pick(array)?));
            }
        }
        Ok(ids.iter().map(|id| self.held(*id).cloned()).collect())
    }

    fn held(&self, id: u32) -> Option<&ArrayRef> {
        self.held.iter().find(|(held, _)| *held == id).map(|(_, array)| array)
    }

    /// Columns that have to be decoded.
    fn missing(&self, ids: &[u32]) -> Vec<u32> {
        let missing =
            |id: &u32| self.held(*id).is_none() && self.segment.has(*id) && !self.segment.is_cached(self.group, *id);
        ids.iter().copied().filter(missing).collect()
    }

    /// The wanted rows, if some columns are to be decoded for them alone.
    fn pages(&mut self, missing: &[u32]) -> Option<RowSelection> {
        let mask = self.wanted.clone().filter(|_| !missing.is_empty())?;
        if 2 * (self.len + RUN_COST * mask.set_slices().count()) > self.all {
            return None;
        }
        let bytes = missing.len() * self.all * size_of::<u64>();
        let by_page = *self.by_page.get_or_insert_with(|| self.segment.reads_by_page(self.group, bytes));
        by_page.then(|| RowSelection::from_boolean_buffer(mask))
    }

    /// The wanted rows of a whole column.
    fn pick(&self, array: ArrayRef) -> Result<ArrayRef> {
        let Some(mask) = &self.wanted else { return Ok(array) };
        let predicate = FilterBuilder::new(&BooleanArray::new(mask.clone(), None)).build();
        predicate.filter(array.as_ref()).map_err(KalamError::internal)
    }
}
