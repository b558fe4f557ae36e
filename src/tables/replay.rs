//! From the log of a table scope to its hot tier.
//!
//! Invariant: each record is replayed with keys as its schema version encodes them, because that is how its deletions
//! name rows and how its rows replaced others. Where an ALTER changed the type of a key column, the keys of the rows
//! that were live at that moment are converted, as the ALTER made sure they can be; rows that had ended by then need
//! not convert. Other columns stay as they were written. Segments are there before the log is replayed: what its records
//! mark in them is marked, and rows that went from the log to a segment are not in the log any more.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};

use super::block;
use super::cold::Ended;
use super::hot::{HotTable, NewRows, OnLiveKey};
use super::key_spec::KeySpec;
use super::log::{LogRecord, RowBlock};
use super::segment::Segment;
use super::seq::{Seq, SeqSpan};
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::{SchemaChange, TableDefinition};
use crate::types::coerce_array;

/// The error for a definition that is older than the rows it is to read.
pub fn outdated() -> KalamError {
    KalamError::new(ErrorCode::Conflict, "the table's definition was changed by another statement meanwhile")
        .with_hint("Run the statement or transaction again.")
}

/// Replays a scope's log. Runs of single new rows with the same columns are put together first, so that a log of
/// many small records does not become as many chunks.
pub struct Replay<'a> {
    definition: &'a TableDefinition,
    hot: HotTable,
    /// The schema version that the replay has come to.
    version: u32,
    run: Vec<(RowBlock, SeqSpan)>,
    rows: usize,
    /// Bytes of the blocks in `run`, not compressed.
    bytes: usize,
    /// No snapshot below it is read.
    horizon: Seq,
}

impl<'a> Replay<'a> {
    const RUN_ROWS: usize = 4096;
    const RUN_BYTES: usize = 4 << 20;

    /// A replay of the log of a table as it is defined now, over its segments: how [`HotTable::set_cold`] takes them. No
    /// snapshot below `horizon` is read: of rows of segments that ended before it need not be known when.
    pub fn new(
        definition: &'a TableDefinition,
        segments: Vec<Arc<Segment>>,
        next_segment: u32,
        retired: Vec<u32>,
        horizon: Seq,
    ) -> Result<Self> {
        if segments.iter().any(|s| s.meta().schema_version > definition.schema_version) {
            return Err(outdated());
        }
        let mut hot = HotTable::new(KeySpec::at(definition, 1)?);
        hot.set_cold(segments, next_segment.max(1), retired);
        Ok(Self { definition, hot, version: 1, run: Vec::new(), rows: 0, bytes: 0, horizon })
    }

    /// Replays the next record.
    pub fn push(&mut self, record: LogRecord) -> Result<()> {
        if record.schema_version > self.definition.schema_version {
            return Err(outdated());
        }
        self.advance(record.schema_version)?;
        let deletions = record.deletion_numbers();
        let ends = (record.seqs.slice(0, deletions).last(), record.commit);
        if !record.deletions.is_empty() {
            self.flush()?;
            let deleted = self.hot.live_positions(record.deletions.iter().map(Vec::as_slice))?;
            let ended = Ended { deleted, deleted_at: ends.0, replaced_at: ends.1, ..Ended::default() };
            self.hot.apply(&[], &ended, OnLiveKey::Replace)?;
        }
        if !record.marks.is_empty() {
            let (cold, horizon) = (record.marks, self.horizon);
            let (deleted_at, replaced_at) = ends;
            self.hot.replay_marks(&Ended { cold, deleted_at, replaced_at, horizon, ..Ended::default() });
        }
        let Some(block) = record.rows else { return Ok(()) };
        let seqs = record.seqs.slice(deletions, block.rows as u64);
        let alone = block.row_ids.is_some() || block.rows > Self::RUN_ROWS;
        let fits = self.run.last().is_none_or(|(last, _)| last.columns == block.columns);
        let bytes = block::plain_len(&block.block);
        if alone || !fits || self.rows + block.rows > Self::RUN_ROWS || self.bytes + bytes > Self::RUN_BYTES {
            self.flush()?;
        }
        self.rows += block.rows;
        self.bytes += bytes;
        self.run.push((block, seqs));
        if alone { self.flush() } else { Ok(()) }
    }

    /// The hot tier, keyed as the table is now.
    pub fn finish(mut self) -> Result<HotTable> {
        self.advance(self.definition.schema_version)?;
        self.flush()?;
        Ok(self.hot)
    }

    /// Takes the steps to a schema version.
    fn advance(&mut self, version: u32) -> Result<()> {
        if version <= self.version {
            return Ok(());
        }
        self.flush()?;
        let from = self.version;
        let definition = self.definition;
        for step in definition.history.iter().filter(|s| s.version > from && s.version <= version) {
            let Some(place) = KeySpec::retyped(definition, step) else { continue };
            let SchemaChange::ChangeColumn { to, .. } = &step.change else { continue };
            self.hot.rekey(KeySpec::at(definition, step.version)?, |n, array| {
                if n == place { coerce_array(array, &to.data_type, &to.name) } else { Ok(Arc::clone(array)) }
            })?;
        }
        self.version = version;
        Ok(())
    }

    /// Applies the rows that wait, all of one set of columns and one schema version.
    fn flush(&mut self) -> Result<()> {
        (self.rows, self.bytes) = (0, 0);
        let run = std::mem::take(&mut self.run);
        let Some((first, _)) = run.first() else { return Ok(()) };
        let types: Vec<arrow::datatypes::DataType> = first.columns.iter().map(|(_, t)| t.arrow_type()).collect();
        let column_ids: Arc<[u32]> = first.columns.iter().map(|(id, _)| *id).collect();
        let decoded: Vec<Vec<ArrayRef>> =
            run.iter().map(|(b, _)| block::decode(&b.block, &types, b.rows)).collect::<Result<_>>()?;
        let columns: Vec<ArrayRef> = match decoded.as_slice() {
            [one] => one.clone(),
            many => (0..types.len())
                .map(|i| {
                    let parts: Vec<&dyn arrow::array::Array> = many.iter().map(|c| c[i].as_ref()).collect();
                    arrow::compute::concat(&parts).map_err(KalamError::internal)
                })
                .collect::<Result<_>>()?,
        };
        let seqs = Int64Array::from_iter_values(run.iter().flat_map(|(_, s)| s.iter()));
        let row_ids = first.row_ids.clone();
        let rows = NewRows { schema_version: self.version, column_ids, columns, seqs, row_ids };
        self.hot.apply(&[rows], &Ended::default(), OnLiveKey::Replace)?;
        Ok(())
    }
}
