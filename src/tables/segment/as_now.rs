//! The rows of a segment as its table is defined now: what a rewrite and a rescue need.
//!
//! Invariant: every column of the table is there, in today's type: led through each type that it had since the rows
//! were written, or with the value that rows have from before it was added. Only rows that are kept are converted:
//! those that ended may hold what an ALTER since would refuse.

use std::collections::HashMap;

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::buffer::BooleanBuffer;
use arrow::compute;
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::RowSelection;

use super::footer::Footer;
use super::reader::Segment;
use super::writer::SegmentRows;
use super::{ROW_ID_FIELD_ID, SEQ_FIELD_ID};
use crate::error::{KalamError, Result};
use crate::schema::TableDefinition;

impl Segment {
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
        self.converted(definition, arrays, self.meta().group_rows(group).len(), keep)
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
        let version = self.meta().schema_version;
        let columns = definition.columns_in_order().zip(columns);
        let columns = columns.map(|(column, array)| definition.column_now(column, array, version, rows));
        Ok(SegmentRows { columns: columns.collect::<Result<_>>()?, seqs, row_ids })
    }
}
