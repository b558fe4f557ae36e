//! The end of a segment's file: what lies where in it.
//!
//! Invariant: a footer is used only if it decodes, has the row groups that the manifest says, and has an index of
//! pages. A column is found by its id, which is its field id in the file, whatever it is called today.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use ::bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::cache::{Cached, Item};
use super::reader::Segment;
use crate::error::Result;
use crate::types::FIELD_ID_KEY;

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
    /// The footer, read once.
    pub(super) async fn footer(&self) -> Result<Arc<Footer>> {
        if let Some(Cached::Footer(footer)) = self.cached(Item::Footer) {
            return Ok(footer);
        }
        let length = u64::from(self.meta().footer_bytes).min(self.meta().bytes);
        let start = self.meta().bytes - length;
        let file = self.read(&[start..self.meta().bytes]).await?;
        let tail = file.slice(start, length as usize).ok_or_else(|| self.undecodable("no footer"))?;
        let footer = Arc::new(self.decode_footer(&tail)?);
        self.keep(Item::Footer, Cached::Footer(Arc::clone(&footer)));
        Ok(footer)
    }

    fn decode_footer(&self, tail: &Bytes) -> Result<Footer> {
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        reader.try_parse_sized(tail, self.meta().bytes).map_err(|e| self.undecodable(e))?;
        let parquet = reader.finish().map_err(|e| self.undecodable(e))?;
        let rows: Vec<i64> = parquet.row_groups().iter().map(|g| g.num_rows()).collect();
        let expected: Vec<i64> = (0..self.meta().groups()).map(|g| self.meta().group_rows(g).len() as i64).collect();
        if rows != expected {
            return Err(self.undecodable(format_args!("row groups of {rows:?} rows, expected {expected:?}")));
        }
        let bytes = parquet.memory_size();
        self.set_memory(memory_of(&parquet));
        let reader = ArrowReaderMetadata::try_new(Arc::new(parquet), ArrowReaderOptions::new())
            .map_err(|e| self.undecodable(e))?;
        let id = |field: &arrow::datatypes::FieldRef| field.metadata().get(FIELD_ID_KEY)?.parse().ok();
        let roots = reader.schema().fields().iter().enumerate().filter_map(|(i, f)| Some((id(f)?, i))).collect();
        Ok(Footer { reader, roots, bytes })
    }

    /// The places of columns in the file's schema, ascending, with their ids.
    pub(super) fn roots(&self, footer: &Footer, ids: &[u32]) -> Result<Vec<(usize, u32)>> {
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
    pub(super) fn ranges(
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
