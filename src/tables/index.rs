//! Secondary indexes and UNIQUE constraints over the hot rows of a scope.
//!
//! An index is an ordered set of (encoded values of its columns ‖ position), over the row versions in memory. It is
//! built when it is first asked, for UNIQUE when a row is first added, and kept up by every change from then on. It is
//! built in steps beside the writers ([`Building`]); the last step enters what they have added, and if rows have gone
//! meanwhile, it begins anew.
//! Values are encoded by [`IndexCodec`] so that their order is that of the index, NULL last (first where it descends).
//!
//! Invariants: a built index has every row version that was live when it was built or came later, so it covers every
//! snapshot from [`Tree::covers`] on; whoever reads at an older one scans instead. Positions ascend with commits, so
//! the last entry of a value is its newest version: in a unique index only that one can be live.

use std::collections::{BTreeSet, btree_set};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::compute;

use super::chunk::{Chunk, LIVE};
use super::hot::locate;
use super::index_access::IndexAccess;
use super::request::Request;
use super::seq::Seq;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::Turns;
use crate::schema::{IndexDefinition, TableDefinition};
use crate::types::{KeyCodec, Value};

/// First byte of NULL, above that of every value.
const NULL: u8 = 2;
/// First byte of a value.
const PRESENT: u8 = 1;

/// Encodes the values of an index's columns.
#[derive(Debug, Clone)]
pub struct IndexCodec {
    /// For each column its codec, and whether it descends.
    columns: Vec<(KeyCodec, bool)>,
}

impl IndexCodec {
    /// The codec of an index as its table is defined.
    pub fn new(definition: &TableDefinition, index: &IndexDefinition) -> Result<Self> {
        let columns = index.columns.iter().map(|c| {
            let column = definition.column_by_id(c.column_id);
            let column = column.ok_or_else(|| KalamError::internal(format_args!("'{}' lost a column", index.name)))?;
            Ok((KeyCodec::new(&[column.data_type])?, c.descending))
        });
        Ok(Self { columns: columns.collect::<Result<_>>()? })
    }

    /// Appends one value of the column at a place.
    pub fn encode_column(&self, place: usize, array: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let (codec, descending) = &self.columns[place];
        let start = out.len();
        if array.is_null(row) {
            out.push(NULL);
        } else {
            codec.encode(std::slice::from_ref(array), row, out)?;
        }
        if *descending {
            out[start..].iter_mut().for_each(|b| *b = !*b);
        }
        Ok(())
    }

    /// Appends a row; says whether one of its values is NULL.
    pub fn encode(&self, columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) -> Result<bool> {
        let mut has_null = false;
        for (place, array) in columns.iter().enumerate() {
            has_null |= array.is_null(row);
            self.encode_column(place, array, row, out)?;
        }
        Ok(has_null)
    }

    /// Whether a column descends.
    pub fn descends(&self, place: usize) -> bool {
        self.columns[place].1
    }

    /// First byte of a value of the column, and of its NULL, as they are encoded.
    pub fn first_bytes(&self, place: usize) -> (u8, u8) {
        if self.descends(place) { (!PRESENT, !NULL) } else { (PRESENT, NULL) }
    }
}

/// The least byte string above every one that begins with these bytes; `None` if there is none.
pub fn successor(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = bytes.pop() {
        if last < u8::MAX {
            bytes.push(last + 1);
            return Some(bytes);
        }
    }
    None
}

/// Encoded values from one on (included) to another (not included; `None`: to the end).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexRange {
    /// Where it begins.
    pub from: Vec<u8>,
    /// Where it ends.
    pub to: Option<Vec<u8>>,
}

impl IndexRange {
    /// Every value.
    pub fn all() -> Self {
        Self { from: Vec::new(), to: None }
    }

    /// Every value that begins with some bytes.
    pub fn prefix(bytes: Vec<u8>) -> Self {
        Self { to: successor(bytes.clone()), from: bytes }
    }
}

#[derive(Debug)]
struct Tree {
    entries: BTreeSet<Box<[u8]>>,
    /// Snapshots below this one may see rows that are not in it.
    covers: Seq,
    /// Bytes of the entries.
    bytes: usize,
}

/// Bytes that an entry takes beside its own: its pointer and length in a node that has room left, and what the allocator
/// keeps of it.
const ENTRY_BYTES: usize = 40;

impl Tree {
    fn insert(&mut self, entry: &[u8]) {
        if self.entries.insert(entry.into()) {
            self.bytes += entry.len() + ENTRY_BYTES;
        }
    }

    fn remove(&mut self, entry: &[u8]) {
        if self.entries.remove(entry) {
            self.bytes -= entry.len() + ENTRY_BYTES;
        }
    }

    /// The entries of a range.
    fn range(&self, range: &IndexRange) -> Option<btree_set::Range<'_, Box<[u8]>>> {
        // Bounds that cross are an empty range, which a tree does not take.
        let empty = range.to.as_ref().is_some_and(|to| *to <= range.from);
        let to = range.to.as_ref().map_or(Bound::Unbounded, |to| Bound::Excluded(&to[..]));
        (!empty).then(|| self.entries.range::<[u8], _>((Bound::Included(&range.from[..]), to)))
    }
}

/// Rows that are entered between two looks at whether the work is still wanted.
const STEP: usize = 4096;

#[derive(Debug)]
struct HotIndex {
    definition: IndexDefinition,
    codec: IndexCodec,
    tree: Option<Tree>,
}

/// The indexes of a scope's hot rows; see the module's comment.
#[derive(Debug, Default)]
pub struct HotIndexes {
    table: Option<Arc<TableDefinition>>,
    list: Vec<HotIndex>,
    /// Grows when positions go, or indexes: what is being built meanwhile is not right.
    losses: u64,
}

impl HotIndexes {
    /// Whether it knows the indexes of a definition, or of a later one.
    pub fn knows(&self, definition: &TableDefinition) -> bool {
        match &self.table {
            Some(table) => table.schema_version >= definition.schema_version,
            None => definition.indexes.is_empty(),
        }
    }

    /// Takes the indexes of a definition over; all are built anew when they are next asked.
    pub fn set(&mut self, definition: &TableDefinition) -> Result<()> {
        let index = |index: &IndexDefinition| {
            Ok(HotIndex { codec: IndexCodec::new(definition, index)?, definition: index.clone(), tree: None })
        };
        self.list = definition.indexes.iter().map(index).collect::<Result<_>>()?;
        self.losses += 1;
        self.table = Some(Arc::new(definition.clone()));
        Ok(())
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes that the built ones take.
    pub fn memory_size(&self) -> usize {
        self.list.iter().filter_map(|index| Some(index.tree.as_ref()?.bytes)).sum()
    }

    /// Forgets what was built: rows have gone.
    pub fn forget(&mut self) {
        self.list.iter_mut().for_each(|index| index.tree = None);
        self.losses += 1;
    }

    /// Whether an index is there and built.
    pub fn is_built(&self, index_id: u32) -> bool {
        self.list.iter().any(|i| i.definition.index_id == index_id && i.tree.is_some())
    }

    /// Builds an index that is not.
    pub fn build(&mut self, index_id: u32, chunks: &[Arc<Chunk>]) -> Result<()> {
        let Some(table) = self.table.clone() else { return Ok(()) };
        let found = self.list.iter_mut().find(|i| i.definition.index_id == index_id && i.tree.is_none());
        if let Some(index) = found {
            index.tree = Some(index.build(&table, chunks)?);
        }
        Ok(())
    }

    /// A unique index that is not built.
    pub fn unbuilt_unique(&self) -> Option<u32> {
        let unbuilt = |index: &&HotIndex| index.definition.unique && index.tree.is_none();
        self.list.iter().find(unbuilt).map(|index| index.definition.index_id)
    }

    /// Begins to build an index that is not, beside the writers.
    pub fn begin(&self, index_id: u32) -> Option<Building> {
        let table = self.table.clone()?;
        let index = self.list.iter().find(|i| i.definition.index_id == index_id && i.tree.is_none())?;
        Some(Building { losses: self.losses, ..Building::of(table, index) })
    }

    /// Takes over what was built of the rows before a position, and enters those that came since. Refuses it if rows
    /// have gone meanwhile.
    pub fn finish(&mut self, mut building: Building, chunks: &[Arc<Chunk>], from: u64) -> Result<bool> {
        if building.losses != self.losses {
            return Ok(false);
        }
        for chunk in chunks.iter().filter(|c| c.end() > from) {
            building.add(chunk, from)?;
        }
        let id = building.definition.index_id;
        if let Some(index) = self.list.iter_mut().find(|i| i.definition.index_id == id && i.tree.is_none()) {
            index.tree = Some(building.tree);
        }
        Ok(true)
    }

    /// Builds the unique ones that are not, before rows are added.
    pub fn build_unique(&mut self, chunks: &[Arc<Chunk>]) -> Result<()> {
        let Some(table) = self.table.clone() else { return Ok(()) };
        for index in self.list.iter_mut().filter(|i| i.definition.unique && i.tree.is_none()) {
            index.tree = Some(index.build(&table, chunks)?);
        }
        Ok(())
    }

    /// Enters the rows of a new chunk. UNIQUE_VIOLATION if a row that `is_live` has the values of one: what was
    /// entered by then is taken out again with [`HotIndexes::remove`].
    pub fn enter(&mut self, chunk: &Chunk, is_live: impl Fn(u64) -> bool) -> Result<()> {
        let Some(table) = &self.table else { return Ok(()) };
        for index in &mut self.list {
            let Some(tree) = &mut index.tree else { continue };
            let columns = columns_of(table, &index.definition, chunk, None)?;
            let mut key = Vec::new();
            for row in 0..chunk.len() {
                key.clear();
                let has_null = index.codec.encode(&columns, row, &mut key)?;
                if index.definition.unique && !has_null && newest(&tree.entries, &key).is_some_and(&is_live) {
                    return Err(index.violation(table, &columns, row));
                }
                key.extend_from_slice(&(chunk.base + row as u64).to_be_bytes());
                tree.insert(&key);
            }
        }
        Ok(())
    }

    /// Takes the rows from a position on out again.
    pub fn remove(&mut self, chunks: &[Arc<Chunk>], from: u64) -> Result<()> {
        self.losses += 1;
        let Some(table) = &self.table else { return Ok(()) };
        for index in &mut self.list {
            let Some(tree) = &mut index.tree else { continue };
            for chunk in chunks.iter().filter(|c| c.end() > from) {
                let columns = columns_of(table, &index.definition, chunk, None)?;
                for position in chunk.base.max(from)..chunk.end() {
                    let mut key = Vec::new();
                    index.codec.encode(&columns, (position - chunk.base) as usize, &mut key)?;
                    key.extend_from_slice(&position.to_be_bytes());
                    tree.remove(&key);
                }
            }
        }
        Ok(())
    }

    /// The rows in a part of an index that are visible at a snapshot and have a `_seq` from `oldest` on.
    pub fn rows(
        &self,
        chunks: &[Arc<Chunk>],
        access: &IndexAccess,
        snapshot: Seq,
        oldest: Seq,
        limit: usize,
    ) -> Result<Vec<IndexedRow>> {
        let visible = |chunk: &Chunk, row: usize| chunk.visible(row, snapshot) && chunk.seqs.value(row) >= oldest;
        let Some(tree) = self.tree(access, snapshot) else { return self.search(chunks, access, visible, limit) };
        let entries = |range: &IndexRange| tree.range(range);
        let row = |entry: &[u8]| {
            let (chunk, row) = locate(chunks, position_of(entry)).filter(|(chunk, row)| visible(chunk, *row))?;
            let key = if access.order.is_some() { entry[..entry.len() - POSITION].to_vec() } else { Vec::new() };
            Some(IndexedRow { key, chunk: Arc::clone(chunk), row })
        };
        Ok(if access.is_backward() {
            let backward = access.ranges.iter().rev().flat_map(|range| entries(range).into_iter().flatten().rev());
            backward.filter_map(|entry| row(entry)).take(limit).collect()
        } else {
            let forward = access.ranges.iter().flat_map(|range| entries(range).into_iter().flatten());
            forward.filter_map(|entry| row(entry)).take(limit).collect()
        })
    }
}

impl HotIndexes {
    /// The positions in a range of an index as a definition has it, ascending; `None` if that is not built, does not cover
    /// the snapshot, or holds more than `most`.
    pub fn positions(
        &self,
        definition: &TableDefinition,
        index_id: u32,
        range: &IndexRange,
        snapshot: Seq,
        most: usize,
    ) -> Option<Vec<u64>> {
        self.table.as_ref().filter(|table| table.schema_version == definition.schema_version)?;
        let index = self.list.iter().find(|index| index.definition.index_id == index_id)?;
        let tree = index.tree.as_ref().filter(|tree| tree.covers <= snapshot)?;
        let entries = tree.range(range).into_iter().flatten().take(most + 1);
        let mut positions: Vec<u64> = entries.map(|entry| position_of(entry)).collect();
        positions.sort_unstable();
        (positions.len() <= most).then_some(positions)
    }

    /// What is built of an index, if it covers a snapshot.
    fn tree(&self, access: &IndexAccess, snapshot: Seq) -> Option<&Tree> {
        let index = self.list.iter().find(|i| i.definition.index_id == access.index.index_id)?;
        index.tree.as_ref().filter(|tree| tree.covers <= snapshot)
    }

    /// Grows when entries go.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// Shows the positions in a range of an index in the order that is asked for, until `take` wants no more, and leaves of
    /// the range what was not shown. Says whether it came to the end; `None` if entries have gone since there were so many
    /// losses, or if nothing that is built covers the snapshot.
    pub fn walk(
        &self,
        access: &IndexAccess,
        losses: u64,
        snapshot: Seq,
        range: &mut IndexRange,
        mut take: impl FnMut(u64) -> bool,
    ) -> Option<bool> {
        let tree = self.tree(access, snapshot).filter(|_| self.losses == losses)?;
        let backward = access.is_backward();
        let mut entries = tree.range(range).into_iter().flatten();
        let last = loop {
            let Some(entry) = (if backward { entries.next_back() } else { entries.next() }) else { return Some(true) };
            if !take(position_of(entry)) {
                break entry;
            }
        };
        // The next entry is the first that is above it, or below.
        let bound = if backward { last.to_vec() } else { [&last[..], &[0]].concat() };
        if backward {
            range.to = Some(bound);
        } else {
            range.from = bound;
        }
        Some(false)
    }

    /// The rows in a part of an index, searched for among all that are visible.
    pub fn search(
        &self,
        chunks: &[Arc<Chunk>],
        access: &IndexAccess,
        visible: impl Fn(&Chunk, usize) -> bool,
        limit: usize,
    ) -> Result<Vec<IndexedRow>> {
        let index = self.list.iter().find(|i| i.definition.index_id == access.index.index_id);
        // Another definition has come meanwhile.
        let (Some(table), Some(index)) = (&self.table, index) else { return Err(super::replay::outdated()) };
        index.search(table, chunks, access, visible, limit)
    }
}

/// Bytes of a position in an entry.
const POSITION: usize = 8;

/// A row that an index has found.
#[derive(Debug)]
pub struct IndexedRow {
    /// Its encoded values, where rows are asked for in order.
    pub key: Vec<u8>,
    /// Its chunk.
    pub chunk: Arc<Chunk>,
    /// Its place there.
    pub row: usize,
}

impl IndexedRow {
    /// Its position.
    pub fn position(&self) -> u64 {
        self.chunk.base + self.row as u64
    }
}

/// One list out of two, in the order that is asked for.
pub fn merge(access: &IndexAccess, mut a: Vec<IndexedRow>, b: Vec<IndexedRow>, limit: usize) -> Vec<IndexedRow> {
    a.extend(b);
    match access.order {
        // Stable, and fast on two runs that are sorted.
        Some(false) => a.sort_by(|x, y| x.key.cmp(&y.key)),
        Some(true) => a.sort_by(|x, y| y.key.cmp(&x.key)),
        None => {}
    }
    a.truncate(limit);
    a
}

impl HotIndex {
    /// The rows of a part when no tree covers the snapshot: every row that is visible is looked at.
    fn search(
        &self,
        table: &TableDefinition,
        chunks: &[Arc<Chunk>],
        access: &IndexAccess,
        visible: impl Fn(&Chunk, usize) -> bool,
        limit: usize,
    ) -> Result<Vec<IndexedRow>> {
        let mut rows = Vec::new();
        for chunk in chunks {
            let mask: BooleanArray = (0..chunk.len()).map(|row| Some(visible(chunk, row))).collect();
            let columns = columns_of(table, &self.definition, chunk, Some(&mask))?;
            for (i, row) in (0..chunk.len()).filter(|&row| mask.value(row)).enumerate() {
                let mut key = Vec::new();
                self.codec.encode(&columns, i, &mut key)?;
                // Bounds may be in the midst of one value: of entries, as in a tree.
                key.extend_from_slice(&(chunk.base + row as u64).to_be_bytes());
                if access.ranges.iter().any(|r| key >= r.from && r.to.as_ref().is_none_or(|to| key < *to)) {
                    key.truncate(key.len() - POSITION);
                    rows.push(IndexedRow { key, chunk: Arc::clone(chunk), row });
                }
            }
        }
        Ok(merge(access, rows, Vec::new(), limit))
    }
}

impl HotIndex {
    fn build(&self, table: &Arc<TableDefinition>, chunks: &[Arc<Chunk>]) -> Result<Tree> {
        let mut building = Building::of(Arc::clone(table), self);
        for chunk in chunks {
            building.add(chunk, 0)?;
        }
        Ok(building.tree)
    }

    fn violation(&self, table: &TableDefinition, columns: &[ArrayRef], row: usize) -> KalamError {
        violation(table, &self.definition, columns, row)
    }
}

/// An index that is being built.
#[derive(Debug)]
pub struct Building {
    table: Arc<TableDefinition>,
    definition: IndexDefinition,
    codec: IndexCodec,
    tree: Tree,
    losses: u64,
}

impl Building {
    fn of(table: Arc<TableDefinition>, index: &HotIndex) -> Self {
        let tree = Tree { entries: BTreeSet::new(), covers: Seq::MIN, bytes: 0 };
        Self { table, definition: index.definition.clone(), codec: index.codec.clone(), tree, losses: 0 }
    }

    /// Enters the rows of a chunk from a position on.
    fn add(&mut self, chunk: &Chunk, from: u64) -> Result<()> {
        let (rows, columns) = self.live(chunk, from)?;
        self.enter(chunk, &rows, 0, &columns)
    }

    /// Enters the rows of a chunk, as long as a request wants it.
    pub async fn add_for(&mut self, chunk: &Chunk, request: &Request, turns: &mut Turns) -> Result<()> {
        let (rows, columns) = self.live(chunk, 0)?;
        for (step, rows) in rows.chunks(STEP).enumerate() {
            request.pass(turns).await?;
            self.enter(chunk, rows, step * STEP, &columns)?;
        }
        Ok(())
    }

    /// The live rows of a chunk from a position on, and their columns. Rows that ended need not convert to the types of
    /// today: they are left out.
    fn live(&mut self, chunk: &Chunk, from: u64) -> Result<(Vec<usize>, Vec<ArrayRef>)> {
        let first = usize::try_from(from.saturating_sub(chunk.base)).unwrap_or(usize::MAX).min(chunk.len());
        let mut live = Vec::with_capacity(chunk.len() - first);
        for row in first..chunk.len() {
            match chunk.superseded(row) {
                LIVE => live.push(row),
                ended => self.tree.covers = self.tree.covers.max(ended),
            }
        }
        let mask = (live.len() < chunk.len()).then(|| {
            let mut mask = vec![false; chunk.len()];
            live.iter().for_each(|&row| mask[row] = true);
            BooleanArray::from(mask)
        });
        let columns = columns_of(&self.table, &self.definition, chunk, mask.as_ref())?;
        Ok((live, columns))
    }

    /// Enters rows; the columns have the first of them at a place.
    fn enter(&mut self, chunk: &Chunk, rows: &[usize], first: usize, columns: &[ArrayRef]) -> Result<()> {
        let mut key = Vec::new();
        for (place, row) in (first..).zip(rows) {
            key.clear();
            self.codec.encode(columns, place, &mut key)?;
            key.extend_from_slice(&(chunk.base + *row as u64).to_be_bytes());
            self.tree.insert(&key);
        }
        Ok(())
    }
}

/// The error for a row whose values a unique index has already.
pub fn violation(table: &TableDefinition, index: &IndexDefinition, columns: &[ArrayRef], row: usize) -> KalamError {
    let values = index.columns.iter().zip(columns).map(|(c, array)| {
        let data_type = table.column_by_id(c.column_id).map(|c| c.data_type);
        let value = data_type.and_then(|t| Value::from_array(array.as_ref(), row, &t).ok());
        value.unwrap_or_default().to_string()
    });
    let message = format!(
        "duplicate key: a row with ({})=({}) exists already ({} '{}')",
        table.index_column_names(index).join(", "),
        values.collect::<Vec<_>>().join(", "),
        index.kind(),
        index.name
    );
    KalamError::new(ErrorCode::UniqueViolation, message)
}

/// The position of the newest entry of a value.
fn newest(entries: &BTreeSet<Box<[u8]>>, key: &[u8]) -> Option<u64> {
    let bound = |position: u64| [key, &position.to_be_bytes()].concat();
    let mut found = entries.range::<[u8], _>((Bound::Included(&bound(0)[..]), Bound::Included(&bound(u64::MAX)[..])));
    found.next_back().map(|entry| position_of(entry))
}

fn position_of(entry: &[u8]) -> u64 {
    entry.last_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes))
}

/// The columns of an index, of a chunk's rows or of some of them, in today's types.
fn columns_of(
    table: &TableDefinition,
    index: &IndexDefinition,
    chunk: &Chunk,
    rows: Option<&BooleanArray>,
) -> Result<Vec<ArrayRef>> {
    let len = rows.map_or(chunk.len(), BooleanArray::true_count);
    let column = |id: u32| {
        let column = table.column_by_id(id);
        let column = column.ok_or_else(|| KalamError::internal(format_args!("'{}' lost a column", index.name)))?;
        let picked = chunk.column(id).map(|array| match rows {
            Some(rows) => compute::filter(array, rows).map_err(KalamError::internal),
            None => Ok(Arc::clone(array)),
        });
        table.column_now(column, picked.transpose()?, chunk.schema_version, len)
    };
    index.columns.iter().map(|c| column(c.column_id)).collect()
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
