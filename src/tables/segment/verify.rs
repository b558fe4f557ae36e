//! Whether the manifest says of a segment what is in its file, and what can be read of one that is damaged.
//!
//! Invariant: a segment that [`Segment::verify`] finds sound answers every question as its rows would: its parts have their
//! checksums, its rows are in the order of key and `_seq`, and everything that lets a reader leave something out (bounds of
//! keys and columns, NULLs, `_seq`, the delete vector) is what its writer would compute from its rows.
//! [`Segment::recover`] gives a row only if every byte of it has its checksum.

use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::RowSelection;
use roaring::RoaringBitmap;

use super::footer::Footer;
use super::meta::{ColumnMeta, key_above, key_below};
use super::reader::Segment;
use super::writer::SegmentRows;
use super::{ROW_ID_FIELD_ID, SEQ_FIELD_ID};
use crate::error::Result;
use crate::platform;
use crate::schema::TableDefinition;
use crate::tables::{KeySpec, Seq};

/// What could be read of a damaged segment.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Its rows that can be read, in today's types, and which of them these are, by row group.
    pub groups: Vec<(SegmentRows, RoaringBitmap)>,
    /// Live rows among them.
    live: u64,
    /// Live rows that cannot be read.
    lost: u64,
    /// Deleted rows that cannot.
    lost_deleted: u64,
    /// Where they lie: row groups, and rows counted from the first of each.
    places: Vec<(usize, Range<usize>)>,
}

impl Recovered {
    /// What was rescued, what was lost, and where that was, for people.
    pub fn told(&self) -> String {
        let mut out = match (self.live, self.lost) {
            (live, 0) => format!("all of its {live} rows are rescued"),
            (live, lost) => format!("{live} rows are rescued, {lost} are lost: "),
        };
        for (i, (group, rows)) in self.places.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let _ = write!(out, "{comma}rows {} to {} of row group {group}", rows.start, rows.end - 1);
        }
        let deleted = self.lost_deleted;
        match (deleted, self.lost) {
            (0, _) => out,
            (_, 0) => format!("{out}, {deleted} deleted ones are lost"),
            _ => format!("{out}, and {deleted} deleted ones"),
        }
    }
}

/// Where the check of the rows has come to.
struct Order {
    key: Vec<u8>,
    seq: Seq,
    is_live: bool,
}

impl Segment {
    /// Reads everything and compares it with what the manifest says; see the module's comment. `check` is asked between
    /// row groups whether to go on.
    pub async fn verify(&self, definition: &TableDefinition, check: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        self.scrub().await?;
        let meta = self.meta();
        if meta.schema_version > definition.schema_version {
            let (found, last) = (meta.schema_version, definition.schema_version);
            return Err(self.wrong(format_args!("it has schema version {found}, the table's last is {last}")));
        }
        let key = KeySpec::at(definition, meta.schema_version)?;
        if key.version() != meta.key_version {
            let (found, expected) = (meta.key_version, key.version());
            return Err(self.wrong(format_args!("its keys are those of version {found}, expected {expected}")));
        }
        let then = definition.columns_at(meta.schema_version)?;
        let written = || meta.columns.iter().map(|c| (c.column_id, c.data_type));
        if !written().eq(then.iter().map(|c| (c.column_id, c.data_type))) {
            let version = meta.schema_version;
            return Err(self.wrong(format_args!("its columns are not those of version {version} of the table")));
        }
        let marks = self.marks();
        marks.check(meta.rows).map_err(|what| self.wrong(what))?;
        let ended: HashMap<u32, Seq> =
            marks.ended_after(Seq::MIN).flat_map(|(seq, rows)| rows.iter().map(move |row| (row, seq))).collect();

        let mut ids = vec![SEQ_FIELD_ID];
        ids.extend(key.is_row_id().then_some(ROW_ID_FIELD_ID));
        let own = ids.len();
        ids.extend(meta.columns.iter().map(|c| c.column_id));
        let mut columns: Vec<ColumnMeta> = written().map(|(id, ty)| ColumnMeta::new(id, ty)).collect();
        let mut last: Option<Order> = None;
        let (mut min_seq, mut max_seq) = (Seq::MAX, Seq::MIN);
        for group in 0..meta.groups() {
            let rows = meta.group_rows(group);
            let arrays: Option<Vec<ArrayRef>> = self.read_rows(group, &ids).await?.into_iter().collect();
            let arrays = arrays.ok_or_else(|| self.wrong("a column is missing"))?;
            if arrays[..own].iter().any(|array| array.null_count() > 0) {
                return Err(self.wrong("a system column holds NULL"));
            }
            columns.iter_mut().zip(&arrays[own..]).try_for_each(|(column, array)| column.observe(array))?;
            let of_key = |id: &u32| ids.iter().position(|i| i == id).map(|at| Arc::clone(&arrays[at]));
            let keys: Option<Vec<ArrayRef>> = if key.is_row_id() {
                Some(vec![Arc::clone(&arrays[1])])
            } else {
                key.columns().iter().map(of_key).collect()
            };
            let keys = keys.ok_or_else(|| self.wrong("a column of the key is missing"))?;
            let seqs = arrays[0].as_primitive::<Int64Type>();
            for (i, row) in rows.enumerate() {
                let mut encoded = Vec::new();
                key.codec().encode(&keys, i, &mut encoded)?;
                if i == 0 && meta.group_keys[group] != key_below(&encoded) {
                    let first = key.describe(&encoded);
                    return Err(
                        self.wrong(format_args!("row group {group} begins with {first}, which the manifest denies"))
                    );
                }
                let (seq, is_live) = (seqs.value(i), !marks.has_ended(row));
                (min_seq, max_seq) = (min_seq.min(seq), max_seq.max(seq));
                if let Some(last) = &last {
                    let (this, before) = ((encoded.as_slice(), seq), (last.key.as_slice(), last.seq));
                    if this <= before {
                        let (this, before) = (key.describe(&encoded), key.describe(&last.key));
                        return Err(self.wrong(format_args!("row {row} is out of order: {this} after {before}")));
                    }
                    if is_live && last.is_live && last.key == encoded {
                        let twice = key.describe(&encoded);
                        return Err(self.wrong(format_args!("rows {} and {row} are both live with {twice}", row - 1)));
                    }
                }
                if let Some(end) = ended.get(&row).filter(|end| **end <= seq) {
                    return Err(self.wrong(format_args!("row {row} of _seq {seq} ended at {end}, before it was there")));
                }
                last = Some(Order { key: encoded, seq, is_live });
            }
            platform::yield_to_host().await;
            check()?;
        }
        if (min_seq, max_seq) != (meta.min_seq, meta.max_seq) {
            let (from, to) = (meta.min_seq, meta.max_seq);
            return Err(
                self.wrong(format_args!("its _seq are {min_seq} to {max_seq}, the manifest says {from} to {to}"))
            );
        }
        if last.is_none_or(|last| key_above(&last.key) != meta.last_key) {
            return Err(self.wrong("its last key is not the one that the manifest says"));
        }
        for (column, said) in columns.iter_mut().zip(&meta.columns) {
            column.finish();
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            column.encode(&mut found)?;
            said.encode(&mut expected)?;
            if found != expected {
                let (id, nulls, said) = (column.column_id, column.nulls, said.nulls);
                let bounds =
                    if nulls == said { "other bounds".to_owned() } else { format!("{nulls} NULLs and not {said}") };
                return Err(self.wrong(format_args!("its column {id} has {bounds} than the manifest says")));
            }
        }
        Ok(())
    }

    /// The live rows of a damaged segment, and some `deleted` ones, that can be read: those of which every column lies in
    /// parts that have their checksums. Fails if its footer cannot be read: then nothing says what is where.
    pub async fn recover(&self, definition: &TableDefinition, deleted: &RoaringBitmap) -> Result<Recovered> {
        let bad = self.bad_parts().await?;
        let footer = self.footer().await?;
        let marks = self.marks();
        let mut recovered = Recovered::default();
        for group in 0..self.meta().groups() {
            let rows = self.meta().group_rows(group);
            let mask =
                |is: &dyn Fn(u32) -> bool| BooleanBuffer::collect_bool(rows.len(), |i| is(rows.start + i as u32));
            let live = mask(&|row| !marks.has_ended(row));
            let deleted = mask(&|row| deleted.contains(row));
            let readable = self.readable_rows(definition, &footer, group, &bad);
            // Values of a deleted row may be such as an ALTER since would refuse.
            let (mut kept, mut read) = (BooleanBuffer::new_unset(rows.len()), None);
            for wanted in [&(&live | &deleted) & &readable, &live & &readable] {
                if wanted.count_set_bits() == 0 {
                    continue;
                }
                match self.rows_of_group(definition, group, &readable, &wanted).await {
                    Ok(rows) => (kept, read) = (wanted, Some(rows)),
                    Err(error) if error.code().is_of_storage() => return Err(error),
                    Err(_) => continue,
                }
                break;
            }
            let lost = &live & &!&kept;
            recovered.live += (&live & &kept).count_set_bits() as u64;
            recovered.lost += lost.count_set_bits() as u64;
            recovered.lost_deleted += (&deleted & &!&kept).count_set_bits() as u64;
            recovered.places.extend(lost.set_slices().map(|(start, end)| (group, start..end)));
            let places = || kept.set_indices().map(|row| rows.start + row as u32).collect();
            recovered.groups.extend(read.map(|read| (read, places())));
            platform::yield_to_host().await;
        }
        Ok(recovered)
    }

    async fn rows_of_group(
        &self,
        definition: &TableDefinition,
        group: usize,
        readable: &BooleanBuffer,
        wanted: &BooleanBuffer,
    ) -> Result<SegmentRows> {
        if readable.count_set_bits() == readable.len() {
            return self.read_group(definition, group, Some(wanted)).await;
        }
        let ranges = readable.set_slices().map(|(start, end)| start..end);
        let selection = RowSelection::from_consecutive_ranges(ranges, readable.len());
        let kept = readable.set_indices().map(|row| wanted.value(row)).collect();
        self.read_selected(definition, group, selection, &kept).await
    }

    /// Which rows of a row group lie in none of some parts, with all of their columns.
    fn readable_rows(
        &self,
        definition: &TableDefinition,
        footer: &Footer,
        group: usize,
        bad: &[Range<u64>],
    ) -> BooleanBuffer {
        let rows = self.meta().group_rows(group).len();
        let is_bad = |start: u64, end: u64| bad.iter().any(|part| part.start < end && start < part.end);
        let mut lost: Vec<Range<usize>> = Vec::new();
        let parquet = footer.parquet();
        for leaf in self.all_leaves(definition, footer) {
            let (start, length) = parquet.row_group(group).column(leaf).byte_range();
            let pages = parquet.offset_index().and_then(|index| index.get(group)?.get(leaf));
            let Some(pages) = pages.map(|pages| pages.page_locations()).filter(|pages| !pages.is_empty()) else {
                if is_bad(start, start + length) {
                    lost.push(0..rows);
                }
                continue;
            };
            let at = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
            // A dictionary lies before the first page.
            if is_bad(start, at(pages[0].offset)) {
                lost.push(0..rows);
            }
            let row = |page: usize| {
                pages.get(page).map_or(rows, |page| usize::try_from(page.first_row_index).unwrap_or(rows))
            };
            for (i, page) in pages.iter().enumerate() {
                let end = at(page.offset).saturating_add(u64::try_from(page.compressed_page_size).unwrap_or(u64::MAX));
                if is_bad(at(page.offset), end) {
                    lost.push(row(i).min(rows)..row(i + 1).min(rows));
                }
            }
        }
        let mut readable = vec![true; rows];
        lost.into_iter().for_each(|range| readable[range].fill(false));
        BooleanBuffer::from(readable)
    }
}
