//! Cold rows: immutable segments, each a plain Parquet file in a blob, and the delete vectors beside them.
//!
//! | file | what it holds |
//! |---|---|
//! | `writer` | sorted rows become a Parquet file and its [`SegmentMeta`] |
//! | `meta` | what the manifest keeps of a segment: checksums, bounds, where its footer lies |
//! | `marks` | the [`DeleteVector`]: which rows have ended, and when |
//! | `file` | verified range reads of the blob |
//! | `footer` | the end of the file: where the columns and pages of each row group lie |
//! | `group_rows` | the rows of a row group that a scan wants: what else is not decoded |
//! | `reader` | decoded columns of row groups and of single rows; key lookups in `lookup` |
//! | `as_now` | rows as the table is defined now, for rewrites |
//! | `index` | secondary indexes over the rows of a segment |
//! | `prune` | what of a segment the filters of a scan leave |
//! | `verify` | whether the manifest says what is in the file, and what is left of a damaged one |
//! | `cache` | one LRU per store over decoded columns, footers and Bloom filters |
//!
//! Invariant: the rows of a segment never change, so whatever was decoded of it stays right; which of them a snapshot
//! sees is said by their `_seq` and by the delete vector alone. No byte is used before the checksum of its part was
//! compared with the one in the manifest.

mod as_now;
mod cache;
mod file;
mod footer;
mod group_rows;
mod index;
mod lookup;
mod marks;
mod meta;
mod prune;
mod reader;
mod verify;
mod writer;

pub use cache::{CacheStatistics, SegmentCache};
pub(super) use group_rows::GroupRows;
pub use index::IndexBounds;
pub(super) use marks::read_bitmap;
pub use marks::{DeleteVector, encode_bitmap};
pub use meta::{ColumnMeta, SegmentMeta};
pub use prune::{ScanFilter, column_statistics};
pub use reader::{Segment, SegmentSource};
pub use writer::{SegmentRows, SegmentWriter, write_segment};

/// At most so many rows in a segment.
pub const SEGMENT_ROWS: usize = 262_144;
/// Rows of a row group; only the last one of a segment has fewer.
pub const ROW_GROUP_ROWS: usize = 32_768;

/// Parquet field ids above this are the engine's own columns; column ids never get there.
const RESERVED_FIELD_IDS: u32 = 1 << 30;
/// Field id of `_seq`.
pub const SEQ_FIELD_ID: u32 = RESERVED_FIELD_IDS + 1;
/// Field id of `_rowid`.
pub const ROW_ID_FIELD_ID: u32 = RESERVED_FIELD_IDS + 2;

/// Set in the positions of cold rows.
const COLD: u64 = 1 << 62;
const SEGMENT_BITS: u64 = (1 << 30) - 1;

/// The position of a row of a segment.
pub fn cold_position(segment: u32, row: u32) -> u64 {
    COLD | (u64::from(segment) & SEGMENT_BITS) << 32 | u64::from(row)
}

/// The segment and row of a position, if it is one of a cold row.
pub fn cold_row(position: u64) -> Option<(u32, u32)> {
    (position & COLD != 0).then_some(((position >> 32 & SEGMENT_BITS) as u32, position as u32))
}

#[cfg(test)]
mod tests;
