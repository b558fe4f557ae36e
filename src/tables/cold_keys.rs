//! Whether the new keys of a change are in a segment already.
//!
//! Invariant: the index in memory knows hot rows only, so the segments are asked about every new key and every new
//! value of a UNIQUE index before the change is submitted, for that may read from storage. The answer holds for the
//! segments of one version ([`ColdCheck`]), and a commit is refused if they are others by then.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use super::hot::View;
use super::index::{self, IndexCodec};
use super::scope_write::{ColdCheck, ScopeWrite, rows_of};
use super::segment::{IndexBounds, cold_position};
use super::store::TableStore;
use super::store_cold::moved;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::Turns;
use crate::schema::TableDefinition;

impl ScopeWrite {
    /// Fails if its new keys were asked of segments that are not those there are.
    pub(super) fn check_current(&self) -> Result<()> {
        if self.rows.is_empty() || self.checked == ColdCheck::NoNewKeys {
            return Ok(());
        }
        match self.checked {
            ColdCheck::At(version) if version == self.hot.cold_version() => Ok(()),
            ColdCheck::Unchecked if !self.hot.key().is_row_id() && !self.hot.segments().is_empty() => {
                Err(KalamError::internal("rows whose keys were not asked of the segments"))
            }
            ColdCheck::Unchecked | ColdCheck::NoNewKeys => Ok(()),
            ColdCheck::At(_) => Err(moved()),
        }
    }

    fn has_no_new_keys(&self) -> bool {
        self.hot.key().is_row_id() || (self.deleted.is_empty() && self.replaced.len() as u64 == rows_of(self))
    }

    /// The answer, if there is nothing to ask the segments: no new key, no row, or no segment.
    fn asks_nothing(&self, definition: &TableDefinition) -> Option<ColdCheck> {
        if self.has_no_new_keys() && !has_unique(definition) {
            return Some(ColdCheck::NoNewKeys);
        }
        let view = self.hot.view();
        (view.segments.is_empty() || rows_of(self) == 0).then_some(ColdCheck::At(view.cold_version))
    }
}

fn has_unique(definition: &TableDefinition) -> bool {
    definition.indexes.iter().any(|index| index.unique)
}

/// A value that is new in a unique index, and its row among the new ones.
#[derive(Clone, Copy)]
struct NewValue<'a> {
    bytes: &'a [u8],
    row: usize,
}

impl AsRef<[u8]> for NewValue<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

/// The values without NULL that new rows bring for a unique index, encoded.
struct NewValues {
    bytes: Vec<u8>,
    /// Where each of them ends, and its row.
    ends: Vec<(usize, usize)>,
    /// The least and the greatest of each column.
    bounds: Vec<(Vec<u8>, Vec<u8>)>,
}

impl NewValues {
    fn of(codec: &IndexCodec, columns: &[ArrayRef], rows: usize) -> Result<Self> {
        let mut new = Self { bytes: Vec::new(), ends: Vec::with_capacity(rows), bounds: Vec::new() };
        for row in (0..rows).filter(|row| columns.iter().all(|column| column.is_valid(*row))) {
            for (place, column) in columns.iter().enumerate() {
                let start = new.bytes.len();
                codec.encode_column(place, column, row, &mut new.bytes)?;
                let value = &new.bytes[start..];
                match new.bounds.get_mut(place) {
                    None => new.bounds.push((value.to_vec(), value.to_vec())),
                    Some((least, _)) if value < least.as_slice() => *least = value.to_vec(),
                    Some((_, greatest)) if value > greatest.as_slice() => *greatest = value.to_vec(),
                    Some(_) => {}
                }
            }
            new.ends.push((new.bytes.len(), row));
        }
        Ok(new)
    }

    /// Those that may be in a segment whose columns have some bounds.
    fn within(&self, bounds: &[IndexBounds]) -> Vec<NewValue<'_>> {
        let apart = |(of, (least, greatest)): (&IndexBounds, &(Vec<u8>, Vec<u8>))| !of.may_hold(least, greatest);
        if bounds.iter().zip(&self.bounds).any(apart) {
            return Vec::new();
        }
        let mut start = 0;
        let values = self.ends.iter().map(|&(end, row)| {
            let bytes = &self.bytes[start..end];
            start = end;
            NewValue { bytes, row }
        });
        // The columns after the first can only make a value greater than the bound that its first column has.
        values.filter(|value| bounds.first().is_none_or(|first| first.may_hold(value.bytes, value.bytes))).collect()
    }
}

impl TableStore {
    /// Asks the segments whether they hold live rows with the new keys of a write; UNIQUE_VIOLATION if they do. Rows that
    /// the write itself ends do not count. What it gives goes into [`ScopeWrite::checked`].
    pub fn check_keys<'a>(
        &'a self,
        write: &'a ScopeWrite,
        definition: &'a TableDefinition,
    ) -> BoxFuture<'a, Result<ColdCheck>> {
        match write.asks_nothing(definition) {
            Some(checked) => ready(Ok(checked)).boxed(),
            None => self.ask_segments(write, definition).boxed(),
        }
    }

    async fn ask_segments(&self, write: &ScopeWrite, definition: &TableDefinition) -> Result<ColdCheck> {
        let key = write.hot.key();
        let (no_new_keys, is_unique) = (write.has_no_new_keys(), has_unique(definition));
        let view = write.hot.view();
        let checked = ColdCheck::At(view.cold_version);
        if is_unique {
            self.ask_unique(write, definition, &view).await?;
        }
        if no_new_keys {
            return Ok(checked);
        }
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for part in &write.rows {
            keys.extend(part.keys(key)?);
        }
        keys.sort_unstable();
        let (Some(least), Some(greatest)) = (keys.first(), keys.last()) else { return Ok(checked) };
        let mut own: Option<HashSet<u64>> = None;
        let mut turns = Turns::begin_short();
        for segment in view.segments.iter() {
            let meta = segment.meta();
            let outside = greatest.as_slice() < meta.first_key() || least.as_slice() > meta.last_key.as_slice();
            if (meta.key_version == key.version() && outside) || segment.live_rows() == 0 {
                continue;
            }
            let mine = if meta.key_version == key.version() {
                let from = keys.partition_point(|k| k.as_slice() < meta.first_key());
                let to = keys.partition_point(|k| k.as_slice() <= meta.last_key.as_slice());
                &keys[from..to.max(from)]
            } else {
                keys.as_slice()
            };
            for (place, row) in segment.find_keys(definition, key, mine).await? {
                if segment.marks().has_ended(row) {
                    continue;
                }
                let own = own.get_or_insert_with(|| write.replaced.iter().chain(&write.deleted).copied().collect());
                if !own.contains(&cold_position(meta.number, row)) {
                    return Err(key.violation(&mine[place]));
                }
            }
            turns.pass().await;
        }
        Ok(checked)
    }

    /// Asks the segments whether they hold live rows with the values of new ones in a unique index.
    async fn ask_unique(&self, write: &ScopeWrite, definition: &TableDefinition, view: &View) -> Result<()> {
        let mut own: Option<HashSet<u64>> = None;
        let mut turns = Turns::begin_short();
        for index in definition.indexes.iter().filter(|index| index.unique) {
            let codec = IndexCodec::new(definition, index)?;
            for part in &write.rows {
                let columns = part.columns_of(index.columns.iter().map(|c| c.column_id))?;
                let new = NewValues::of(&codec, &columns, part.len())?;
                for segment in view.segments.iter().filter(|s| s.live_rows() > 0) {
                    let values = new.within(&segment.index_bounds(definition, index)?);
                    if values.is_empty() {
                        continue;
                    }
                    for (place, row) in segment.live_with(definition, index, &values).await? {
                        let own =
                            own.get_or_insert_with(|| write.replaced.iter().chain(&write.deleted).copied().collect());
                        if !own.contains(&cold_position(segment.meta().number, row)) {
                            return Err(index::violation(definition, index, &columns, values[place].row));
                        }
                    }
                    turns.pass().await;
                }
            }
        }
        Ok(())
    }

    /// Asks the segments about every write that was not asked about, or before rows moved ([`TableStore::check_keys`]).
    /// Each comes with the definition that it was made for. A conflict counts more than a key that is taken, as it does
    /// when keys are in memory: whoever repeats the write may find the key free.
    pub async fn check_writes(
        &self,
        writes: &mut [ScopeWrite],
        definitions: impl Fn(usize) -> Arc<TableDefinition>,
    ) -> Result<()> {
        for i in 0..writes.len() {
            if writes[i].checked != ColdCheck::Unchecked && self.still_checked(&writes[i]) {
                continue;
            }
            match self.check_keys(&writes[i], &definitions(i)).await {
                Ok(checked) => writes[i].checked = checked,
                Err(error) => {
                    if error.code() == ErrorCode::UniqueViolation {
                        self.check_positions(writes, i)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Fails with a conflict if a scope takes no commits or was read again, or a row that the writes up to one end has
    /// ended.
    fn check_positions(&self, writes: &[ScopeWrite], last: usize) -> Result<()> {
        let commits = self.commits.lock();
        writes.iter().try_for_each(|write| self.check_current(&commits, &write.scope, &write.hot))?;
        let live = |write: &ScopeWrite| {
            write.hot.check_live(&write.replaced)?;
            write.hot.check_live(&write.deleted)
        };
        writes[..=last].iter().try_for_each(live)
    }

    /// Whether a write may be submitted as far as [`TableStore::check_keys`] goes: nothing was moved since.
    pub fn still_checked(&self, write: &ScopeWrite) -> bool {
        write.check_current().is_ok()
    }
}
