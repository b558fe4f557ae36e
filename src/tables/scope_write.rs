//! The change of a table scope: its rows, encoded before their numbers are known, and how it enters memory and the log.
//!
//! Invariant: a change takes as many `_seq` values as it has rows and deletions, in an order that the log and the hot
//! tier share: deletions first, for a new row may have the key that another one just gave up. All scopes of a commit
//! are changed or none, and only what is in memory is encoded for the log.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;

use super::block;
use super::cold::{ColdMark, Ended, cold_deletions};
use super::hot::{Applied, HotTable, NewRows, OnLiveKey};
use super::key_spec::KeySpec;
use super::log::{LogRecord, RequestId, RowBlock, ScopeKey};
use super::seq::{Seq, SeqSpan};
use crate::error::{KalamError, Result};
use crate::schema::TableDefinition;
use crate::storage::WriteBatch;
use crate::types::KalamDataType;

/// A record of the log holds about this many bytes of rows in memory.
const ROWS_PER_RECORD_BYTES: usize = 1 << 20;
/// … and at most this many rows, so that a chunk stays a handy batch for scans.
const ROWS_PER_RECORD: usize = 32_768;

/// Rows that are checked, encoded and ready to be committed.
#[derive(Debug)]
pub struct PreparedRows {
    pub(super) column_ids: Arc<[u32]>,
    pub(super) columns: Vec<ArrayRef>,
    pub(super) block: RowBlock,
}

impl PreparedRows {
    /// How many rows.
    pub fn len(&self) -> usize {
        self.block.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.block.rows == 0
    }

    /// Bytes that they take beside their columns: what goes into the log.
    pub fn encoded_bytes(&self) -> usize {
        self.block.block.len()
    }

    /// The rows as a hot tier takes them.
    fn new_rows(&self, schema_version: u32, seqs: SeqSpan) -> NewRows {
        NewRows {
            schema_version,
            column_ids: Arc::clone(&self.column_ids),
            columns: self.columns.clone(),
            seqs: Int64Array::from_iter_values(seqs.iter()),
            row_ids: self.block.row_ids.clone(),
        }
    }

    /// The hidden row ids that new versions of rows bring.
    pub(super) fn row_ids(&self) -> Option<&Int64Array> {
        self.block.row_ids.as_ref()
    }

    /// The primary keys, encoded.
    pub(super) fn keys(&self, spec: &KeySpec) -> Result<Vec<Vec<u8>>> {
        let columns = self.columns_of(spec.columns().iter().copied())?;
        let rows = spec.codec().rows(&columns)?;
        let encoded = |row| {
            let mut key = Vec::new();
            rows.encode(row, &mut key).map(|()| key)
        };
        (0..self.len()).map(encoded).collect()
    }

    /// The columns of some ids.
    pub(super) fn columns_of(&self, ids: impl Iterator<Item = u32>) -> Result<Vec<ArrayRef>> {
        let column = |id: u32| {
            let place = self.column_ids.iter().position(|c| *c == id);
            let place = place.ok_or_else(|| KalamError::internal(format_args!("rows without their column {id}")))?;
            Ok(Arc::clone(&self.columns[place]))
        };
        ids.map(column).collect()
    }
}

/// Cuts a batch in the table's column order into log records and encodes them. Rows that are updated bring their row
/// ids, if their table has no primary key.
pub fn prepare_rows(
    definition: &TableDefinition,
    batch: &RecordBatch,
    row_ids: Option<&Int64Array>,
) -> Result<Vec<PreparedRows>> {
    let columns: Arc<[(u32, KalamDataType)]> =
        definition.columns_in_order().map(|c| (c.column_id, c.data_type)).collect();
    let column_ids: Arc<[u32]> = columns.iter().map(|c| c.0).collect();
    let batch = &block::unshared(batch)?;
    let total = batch.num_rows();
    let row_bytes = block::memory_size(batch.columns()).div_ceil(total.max(1)).max(1);
    let step = (ROWS_PER_RECORD_BYTES / row_bytes).clamp(1, ROWS_PER_RECORD);
    (0..total)
        .step_by(step)
        .map(|start| {
            let len = step.min(total - start);
            let part = if len == total { batch.clone() } else { batch.slice(start, len) };
            let row_ids = row_ids.map(|ids| ids.slice(start, len));
            let block = block::encode(&part)?;
            Ok(PreparedRows {
                column_ids: Arc::clone(&column_ids),
                columns: part.columns().to_vec(),
                block: RowBlock { columns: Arc::clone(&columns), rows: len, row_ids, block },
            })
        })
        .collect()
}

/// The rows of some parts as a hot tier takes them, with the numbers of a span in order.
pub(super) fn numbered(parts: &[PreparedRows], schema_version: u32, span: SeqSpan) -> Vec<NewRows> {
    let mut used = 0;
    let part = |part: &PreparedRows| {
        let seqs = span.slice(used, part.len() as u64);
        used += seqs.len();
        part.new_rows(schema_version, seqs)
    };
    parts.iter().map(part).collect()
}

/// The change of one table scope within a commit.
#[derive(Debug)]
pub struct ScopeWrite {
    /// The scope.
    pub scope: ScopeKey,
    /// Its hot tier, as the change was computed against it.
    pub hot: Arc<HotTable>,
    /// Schema version of `rows`.
    pub schema_version: u32,
    /// New rows and new versions of rows.
    pub rows: Vec<PreparedRows>,
    /// Positions of live rows, hot or cold, that `rows` replace under the same key.
    pub replaced: Vec<u64>,
    /// Positions of live rows, hot or cold, whose key ends.
    pub deleted: Vec<u64>,
    /// What [`TableStore::check_keys`] found.
    pub checked: ColdCheck,
}

/// Says that the new keys of a [`ScopeWrite`] are in no segment, or that there was nothing to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColdCheck {
    /// Nobody has asked.
    #[default]
    Unchecked,
    /// No key is new.
    NoNewKeys,
    /// They are in none of the segments that there were at this version.
    At(u64),
}

/// How many rows a change has.
pub(super) fn rows_of(write: &ScopeWrite) -> u64 {
    write.rows.iter().map(|r| r.len() as u64).sum()
}

/// Applies every write to its hot tier and encodes the log records; takes everything back if one is refused.
pub(super) fn apply_all(
    writes: &[ScopeWrite],
    span: SeqSpan,
    request: Option<RequestId>,
    horizon: Seq,
) -> Result<WriteBatch> {
    let mut batch = WriteBatch::new();
    let mut applied: Vec<(&ScopeWrite, Applied)> = Vec::with_capacity(writes.len());
    let mut used = 0;
    for write in writes {
        let mine = span.slice(used, rows_of(write) + write.deleted.len() as u64);
        used += mine.len();
        match apply_one(write, mine, span.last(), request, horizon, &mut batch) {
            Ok(done) => applied.push((write, done)),
            Err(error) => {
                for (write, done) in applied.into_iter().rev() {
                    write.hot.revert(done)?;
                }
                return Err(error);
            }
        }
    }
    Ok(batch)
}

fn apply_one(
    write: &ScopeWrite,
    span: SeqSpan,
    commit: Seq,
    request: Option<RequestId>,
    horizon: Seq,
    batch: &mut WriteBatch,
) -> Result<Applied> {
    let mut ended = Ended::new(&write.replaced, &write.deleted);
    // Rows that were moved since they were found have no key here: a conflict, as for those that others have changed.
    write.hot.check_live(&ended.deleted)?;
    let keys = ended.deleted.iter().map(|&p| write.hot.key_at(p)).collect::<Result<Vec<_>>>()?;
    let deletions = keys.len() as u64 + ended.cold_deletions();
    ended.replaced_at = commit;
    // Both are this commit's own numbers, so that taking it back takes nothing else back.
    ended.deleted_at = if deletions == 0 { commit } else { span.slice(0, deletions).last() };
    ended.horizon = horizon;
    let new = numbered(&write.rows, write.schema_version, span.slice(deletions, rows_of(write)));
    let applied = write.hot.apply(&new, &ended, OnLiveKey::Fail)?;
    if write.hot.is_stream() {
        write.hot.note_time(span.first());
        return Ok(applied);
    }
    let mut at = 0;
    let mut log = |rows: Option<RowBlock>, deletions: Vec<Vec<u8>>, marks: Vec<ColdMark>| {
        let len = rows.as_ref().map_or(0, |r| r.rows) as u64 + deletions.len() as u64 + cold_deletions(&marks);
        let seqs = span.slice(at, len);
        at += len;
        LogRecord { seqs, commit, request, schema_version: write.schema_version, rows, deletions, marks }
            .write(&write.scope, batch)
    };
    let mut marks = ended.cold;
    let written = (|| {
        // Deletions first: an update may give a new row the key that another row just gave up. They are one record, so
        // that all of them end at one `_seq`, and it has numbers of its own, so its key is no other record's.
        if deletions > 0 {
            log(None, keys, std::mem::take(&mut marks))?;
        }
        for part in &write.rows {
            log(Some(part.block.clone()), Vec::new(), std::mem::take(&mut marks))?;
        }
        if marks.is_empty() { Ok(()) } else { Err(KalamError::internal("rows were replaced by none")) }
    })();
    match written {
        Ok(()) => Ok(applied),
        Err(error) => {
            write.hot.revert(applied)?;
            Err(error)
        }
    }
}
