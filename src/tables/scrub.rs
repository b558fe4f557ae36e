//! Reading everything that is stored and saying what of it is sound.
//!
//! Invariant: nothing is changed, and nothing stops a scrub but a storage that does not answer: what is damaged becomes a
//! finding, and the next record is read. Memory holds a page of records at a time, the keys of damaged ones, and the
//! manifest. Beside writers all records are read of one moment: while they are, commits wait. The files of segments are
//! read after that, for they never change; whoever runs a scrub keeps them from being removed.
//!
//! Verified are, of every record, its frame and checksum; of entities, that they decode; of the log, that the parts of a
//! record are there, that its columns decode, and that its number is the one of its key; of segments, every part of the
//! file, and that the manifest and the log say of its rows what is in it (`segment/verify.rs`); and that what is stored under
//! a table's number belongs to a table.
//!
//! What can be read of damaged segments goes into new ones, if that is asked for (`rescue.rs`).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::DataType;
use bytes::Bytes;

use super::block;
use super::cold::{ColdMark, Ended};
use super::log::{LogRecord, ScopeKey};
use super::manifest::{self, Manifest};
use super::rescue::{Made, Rescued, puts};
use super::segment::{Segment, SegmentCache, SegmentSource};
use super::seq::Seq;
use super::store::dropped_table;
use super::system::{AuditRecord, JobRecord, StorageRecord, UserRecord};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform;
use crate::schema::{NamespaceDefinition, TableDefinition, TableId};
use crate::storage::gate::Closed;
use crate::storage::record::{self, PartReader, RecordKind, Whole};
use crate::storage::{Entity, KeyRange, Pages, Partition, StorageBackend, WriteBatch, blob_prefix, key_after};

/// Bytes of a log key behind the scope: `_seq` and part.
const LOG_KEY_TAIL: usize = 8 + 2;

/// How something that is stored was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// As it was written.
    Ok,
    /// Not as it was written, or a part of it is missing.
    Damaged,
    /// It belongs to a table that is not there.
    Orphaned,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Damaged => "damaged",
            Self::Orphaned => "orphaned",
        })
    }
}

/// One row of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub object: String,
    /// How it was found.
    pub health: Health,
    /// How much of it there is, or what is wrong.
    pub detail: String,
}

/// What a scrub found.
#[derive(Debug, Default)]
pub struct Scrub {
    /// The report: damage first where it was found, sums after it.
    pub findings: Vec<Finding>,
    /// Records that cannot be used: themselves damaged, or parts of something that is.
    pub damaged: HashSet<(Partition, Vec<u8>)>,
    /// First bytes of keys that cannot be used, segments with all their parts.
    pub damaged_prefixes: Vec<(Partition, Vec<u8>)>,
    /// Definitions of the tables and views that can be read, by number.
    pub tables: BTreeMap<TableId, TableDefinition>,
    /// Records in place of damaged ones, and of new segments with what could be read of damaged ones.
    pub made: BTreeMap<(Partition, Vec<u8>), Made>,
    /// What the log says of rows of segments, by scope and segment: marks, and when the rows ended.
    marks: BTreeMap<(ScopeKey, u32), Vec<LogMark>>,
    /// Numbers of tables that were dropped, and of which something is left.
    dropped: HashSet<u32>,
    /// No `_seq` that was found is greater.
    pub greatest_seq: Seq,
}

/// What one table has in the log.
#[derive(Debug, Default)]
struct LogSum {
    scopes: usize,
    records: u64,
    rows: u64,
    deletions: u64,
    damaged: u64,
}

/// Rows of a segment that a record of the log ended.
#[derive(Debug)]
struct LogMark {
    mark: ColdMark,
    replaced_at: Seq,
    deleted_at: Seq,
}

/// Decodes a payload to see whether it does.
type Check = fn(&[u8]) -> Result<()>;

impl Scrub {
    /// Reads a whole database, or what belongs to one table; with `recover` also what is left of damaged segments.
    /// `closed` keeps writers away as long as is necessary. `check` is asked between pages whether to go on.
    pub async fn run(
        shared: &Arc<dyn StorageBackend>,
        closed: Option<Closed>,
        only: Option<&TableId>,
        recover: bool,
        check: impl Fn() -> Result<()> + Sync,
    ) -> Result<Self> {
        let backend = shared.as_ref();
        let mut scrub = Self::default();
        if only.is_none() {
            scrub.entities(backend, Partition::Meta, None, &check).await?;
        }
        scrub.entities(backend, Partition::Catalog, only, &check).await?;
        scrub.log(backend, only, &check).await?;
        let scopes = scrub.manifest(backend, only, &check).await?;
        drop(closed);
        scrub.segments(shared, scopes, recover, &check).await?;
        Ok(scrub)
    }

    /// Whether everything was found as it was written.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|f| f.health == Health::Ok)
    }

    fn note(&mut self, object: impl Into<String>, health: Health, detail: impl fmt::Display) {
        self.findings.push(Finding { object: object.into(), health, detail: detail.to_string() });
    }

    fn damage(&mut self, partition: Partition, key: &[u8], object: impl Into<String>, error: &KalamError) {
        self.damaged.insert((partition, key.to_vec()));
        self.note(object, Health::Damaged, error.message());
    }

    async fn entities(
        &mut self,
        backend: &dyn StorageBackend,
        partition: Partition,
        only: Option<&TableId>,
        check: &impl Fn() -> Result<()>,
    ) -> Result<()> {
        let range = match only {
            None => KeyRange::all(),
            Some(id) => {
                let key = [TableDefinition::PREFIX, &TableDefinition::encode_key(id)].concat();
                KeyRange::between(key.clone(), key_after(&key))
            }
        };
        let mut pages = Pages::new(partition, range);
        let mut sound = 0u64;
        while let Some(page) = pages.next(backend).await? {
            for (key, value) in &page {
                match self.entity(partition, key, value) {
                    Ok(()) => {
                        sound += 1;
                        self.dropped.extend(dropped_table(key).filter(|_| partition == Partition::Meta));
                    }
                    Err(error) => self.damage(partition, key, name_of(partition, key), &error),
                }
            }
            breathe(check).await?;
        }
        if only.is_none() {
            self.note(partition.name(), Health::Ok, format_args!("{sound} records"));
        }
        Ok(())
    }

    fn entity(&mut self, partition: Partition, key: &[u8], value: &Bytes) -> Result<()> {
        let payload = record::open(RecordKind::Entity, key, value)?;
        fn decode<E: Entity>(payload: &[u8]) -> Result<E> {
            serde_json::from_slice(payload)
                .map_err(|e| KalamError::new(ErrorCode::DataCorrupted, format!("it does not decode: {e}")))
        }
        if partition == Partition::Catalog {
            if key.starts_with(TableDefinition::PREFIX) {
                let definition: TableDefinition = decode(&payload)?;
                self.tables.insert(definition.table_id.clone(), definition);
                return Ok(());
            }
            let known: [(&[u8], Check); 5] = [
                (NamespaceDefinition::PREFIX, |p| decode::<NamespaceDefinition>(p).map(drop)),
                (UserRecord::PREFIX, |p| decode::<UserRecord>(p).map(drop)),
                (JobRecord::PREFIX, |p| decode::<JobRecord>(p).map(drop)),
                (StorageRecord::PREFIX, |p| decode::<StorageRecord>(p).map(drop)),
                (AuditRecord::PREFIX, |p| decode::<AuditRecord>(p).map(drop)),
            ];
            if let Some((_, decodes)) = known.iter().find(|(prefix, _)| key.starts_with(prefix)) {
                return decodes(&payload);
            }
        }
        serde_json::from_slice::<serde_json::Value>(&payload)
            .map(drop)
            .map_err(|e| KalamError::new(ErrorCode::DataCorrupted, format!("it is no JSON: {e}")))
    }

    async fn log(
        &mut self,
        backend: &dyn StorageBackend,
        only: Option<&TableId>,
        check: &impl Fn() -> Result<()>,
    ) -> Result<()> {
        let numbers: BTreeMap<u32, String> =
            self.tables.values().map(|t| (t.table_no, t.table_id.to_string())).filter(|(no, _)| *no > 0).collect();
        let range = match only {
            None => KeyRange::all(),
            Some(id) => match self.tables.get(id) {
                Some(table) => KeyRange::prefix(&ScopeKey::table_prefix(table.table_no)),
                None => return Ok(()),
            },
        };
        let mut pages = Pages::new(Partition::Log, range);
        let mut sums: BTreeMap<u32, LogSum> = BTreeMap::new();
        let mut scopes: BTreeSet<ScopeKey> = BTreeSet::new();
        let mut reader = RecordReader::new(RecordKind::Log);
        while let Some(page) = pages.next(backend).await? {
            for (key, value) in page {
                let table_no = key.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
                let sum = sums.entry(table_no).or_default();
                if let Ok(scope) = ScopeKey::of_log_key(&key)
                    && scopes.insert(scope)
                {
                    sum.scopes += 1;
                }
                for outcome in reader.push(key, &value) {
                    self.log_record(sum, &numbers, outcome);
                }
            }
            breathe(check).await?;
        }
        if let Some(outcome) = reader.finish() {
            let table_no = outcome.keys.first().and_then(|k| k.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b));
            let sum = sums.entry(table_no).or_default();
            self.log_record(sum, &numbers, outcome);
        }
        for (table_no, name) in &numbers {
            let sum = sums.remove(table_no).unwrap_or_default();
            let LogSum { scopes, records, rows, deletions, damaged } = sum;
            if only.is_none_or(|id| id.to_string() == *name) && damaged == 0 {
                let detail = format!("log: {records} records, {rows} rows, {deletions} deletions, {scopes} scopes");
                self.note(format!("table {name}"), Health::Ok, detail);
            }
        }
        sums.retain(|table_no, _| !self.dropped.contains(table_no));
        for (table_no, sum) in sums {
            let detail = format!("log: {} records of a table that is not there", sum.records);
            self.note(format!("table number {table_no}"), Health::Orphaned, detail);
        }
        Ok(())
    }

    fn log_record(&mut self, sum: &mut LogSum, names: &BTreeMap<u32, String>, outcome: ReadRecord) {
        let checked = outcome.whole.and_then(|whole| {
            let record = LogRecord::open(&whole)?;
            if let Some(rows) = &record.rows {
                let types: Vec<DataType> = rows.columns.iter().map(|(_, t)| t.arrow_type()).collect();
                block::decode(&rows.block, &types, rows.rows)?;
            }
            let scope = ScopeKey::of_log_key(&whole.stem)?;
            Ok((scope, record))
        });
        match checked {
            Ok((scope, record)) => {
                let deleted_at = record.seqs.slice(0, record.deletion_numbers()).last();
                for mark in record.marks {
                    let of_segment = self.marks.entry((scope.clone(), mark.segment)).or_default();
                    of_segment.push(LogMark { mark, replaced_at: record.commit, deleted_at });
                }
                sum.records += 1;
                sum.rows += record.rows.as_ref().map_or(0, |r| r.rows as u64);
                sum.deletions += record.deletions.len() as u64;
                self.greatest_seq = self.greatest_seq.max(record.commit).max(record.seqs.last());
            }
            Err(error) => {
                sum.damaged += 1;
                let first = outcome.keys.first().map_or(&[][..], Vec::as_slice);
                let table_no = first.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
                let table = names.get(&table_no).map_or_else(|| format!("number {table_no}"), Clone::clone);
                // Numbers given to what cannot be read must not be given again.
                let seq = first.len().checked_sub(LOG_KEY_TAIL).and_then(|at| first[at..].first_chunk());
                self.greatest_seq = self.greatest_seq.max(seq.map_or(0, |b| i64::from_be_bytes(*b)));
                self.damaged.extend(outcome.keys.into_iter().map(|key| (Partition::Log, key)));
                self.note(format!("table {table}"), Health::Damaged, format_args!("log: {}", error.message()));
            }
        }
    }

    /// Reads the manifest. Gives what every scope has that has any.
    async fn manifest(
        &mut self,
        backend: &dyn StorageBackend,
        only: Option<&TableId>,
        check: &impl Fn() -> Result<()>,
    ) -> Result<BTreeMap<ScopeKey, Manifest>> {
        let mut scopes = BTreeMap::new();
        let range = match only {
            None => KeyRange::all(),
            Some(id) => match self.tables.get(id) {
                Some(table) => KeyRange::prefix(&ScopeKey::table_prefix(table.table_no)),
                None => return Ok(scopes),
            },
        };
        let mut pages = Pages::new(Partition::Manifest, range);
        let mut reader = RecordReader::new(RecordKind::Manifest);
        while let Some(page) = pages.next(backend).await? {
            for (key, value) in page {
                for outcome in reader.push(key, &value) {
                    self.manifest_record(&mut scopes, outcome);
                }
            }
            breathe(check).await?;
        }
        if let Some(outcome) = reader.finish() {
            self.manifest_record(&mut scopes, outcome);
        }
        Ok(scopes)
    }

    fn manifest_record(&mut self, scopes: &mut BTreeMap<ScopeKey, Manifest>, outcome: ReadRecord) {
        let taken = outcome.whole.and_then(|whole| {
            let (scope, _) = manifest::place_of(&whole.stem)?;
            scopes.entry(scope).or_default().take(&whole)
        });
        let Err(error) = taken else { return };
        let first = outcome.keys.first().map_or(&[][..], Vec::as_slice);
        let stem = &first[..first.len().saturating_sub(2)];
        // Its other parts are of no use without it, and neither is its file, which nothing tells the checksums of.
        self.damaged_prefixes.push((Partition::Manifest, stem.to_vec()));
        if let Ok((scope, number)) = manifest::place_of(stem) {
            let found = scopes.entry(scope).or_default();
            found.damaged.push(number);
            if number != manifest::HEAD {
                self.damaged_prefixes.push((Partition::Blob, blob_prefix(stem)));
            }
        }
        self.note(name_of(Partition::Manifest, first), Health::Damaged, error.message());
    }

    /// Reads every segment and compares it with what the manifest and the log say of it.
    async fn segments(
        &mut self,
        backend: &Arc<dyn StorageBackend>,
        scopes: BTreeMap<ScopeKey, Manifest>,
        recover: bool,
        check: &(impl Fn() -> Result<()> + Sync),
    ) -> Result<()> {
        let by_number: BTreeMap<u32, Arc<TableDefinition>> =
            self.tables.values().filter(|t| t.table_no > 0).map(|t| (t.table_no, Arc::new(t.clone()))).collect();
        let cache = SegmentCache::new(1 << 20);
        for (scope, found) in scopes {
            let Some(definition) = by_number.get(&scope.table_no) else {
                if !self.dropped.contains(&scope.table_no) {
                    let object = format!("table number {}", scope.table_no);
                    self.note(object, Health::Orphaned, "manifest: of a table that is not there");
                }
                continue;
            };
            let name = definition.table_id.to_string();
            let numbers = found.segments.iter().map(|(meta, _)| meta.number).chain(found.retired.iter().copied());
            let greatest = numbers.chain(found.damaged.iter().copied()).max().unwrap_or(0);
            let mut next = found.next_segment.max(greatest + 1);
            if found.next_segment <= greatest && !found.damaged.contains(&manifest::HEAD) {
                let what = format!("manifest: the next segment is {}, but there is {greatest}", found.next_segment);
                self.note(format!("table {name}"), Health::Damaged, what);
            }
            let (mut segments, mut rows) = (0u64, 0u64);
            for (meta, marks) in found.segments {
                let number = meta.number;
                self.greatest_seq = self.greatest_seq.max(meta.max_seq);
                let source = SegmentSource {
                    backend: Arc::clone(backend),
                    cache: Arc::clone(&cache),
                    blob: manifest::blob_id(&scope, number),
                    table: name.clone(),
                };
                let segment = Arc::new(Segment::new(source, meta, marks, None));
                let marked = self.take_log_marks(&scope, &segment);
                let sound = match marked {
                    Ok(()) => segment.verify(definition, check).await,
                    Err(error) => Err(error),
                };
                match sound {
                    Ok(()) => {
                        segments += 1;
                        rows += segment.live_rows();
                    }
                    Err(error) if error.code() == ErrorCode::DataCorrupted => {
                        let id = segment.blob_id();
                        self.damaged_prefixes.push((Partition::Manifest, id.to_vec()));
                        self.damaged_prefixes.push((Partition::Blob, blob_prefix(id)));
                        let mut detail = error.message().to_owned();
                        if recover {
                            let rescue = Rescued::of(&segment, &scope, definition, next).await?;
                            next += u32::from(!rescue.records.is_empty());
                            detail = format!("{detail}; {}", rescue.detail);
                            self.make(rescue.records.into_iter());
                        }
                        self.note(format!("table {name} segment {number}"), Health::Damaged, detail);
                    }
                    Err(error) => return Err(error),
                }
                breathe(check).await?;
            }
            if recover && next != found.next_segment {
                let mut batch = WriteBatch::new();
                manifest::put_head(&scope, next, &mut batch);
                self.make(puts(&batch).map(|(partition, key, value)| (partition, key, Made::Record(value))));
            }
            let detail = format!("segments: {segments}, {rows} rows");
            self.note(format!("table {name}"), Health::Ok, detail);
        }
        Ok(())
    }

    /// Enters what the log says of a segment's rows into its delete vector, as whoever opens the table does.
    fn take_log_marks(&mut self, scope: &ScopeKey, segment: &Segment) -> Result<()> {
        let (number, rows) = (segment.meta().number, segment.meta().rows);
        for LogMark { mark, replaced_at, deleted_at } in self.marks.remove(&(scope.clone(), number)).unwrap_or_default()
        {
            let greatest = mark.replaced.max().max(mark.deleted.max());
            if let Some(row) = greatest.filter(|row| *row >= rows) {
                let what = format!("the log ends row {row} of segment {number}, which has {rows} rows");
                return Err(KalamError::new(ErrorCode::DataCorrupted, what));
            }
            mark.apply(segment, &Ended { replaced_at, deleted_at, horizon: Seq::MIN, ..Ended::default() });
        }
        Ok(())
    }

    fn make(&mut self, records: impl Iterator<Item = (Partition, Vec<u8>, Made)>) {
        self.made.extend(records.map(|(partition, key, made)| ((partition, key), made)));
    }
}

async fn breathe(check: &impl Fn() -> Result<()>) -> Result<()> {
    platform::yield_to_host().await;
    check()
}

/// What a record is, for people.
fn name_of(partition: Partition, key: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(key).replace('\0', ".");
    match partition {
        Partition::Meta | Partition::Catalog => format!("{} {}", partition.name(), text.escape_debug()),
        _ => format!("{} {}", partition.name(), record::hex(key)),
    }
}

/// A record with the keys of its parts, or why it is none.
struct ReadRecord {
    keys: Vec<Vec<u8>>,
    whole: Result<Whole>,
}

/// Puts the parts of records together and goes on behind those that cannot be.
struct RecordReader {
    kind: RecordKind,
    parts: PartReader,
    /// Keys of the parts that the reader holds, or of the rest of a record that is damaged already.
    keys: Vec<Vec<u8>>,
    broken: Option<KalamError>,
}

impl RecordReader {
    fn new(kind: RecordKind) -> Self {
        Self { kind, parts: PartReader::default(), keys: Vec::new(), broken: None }
    }

    fn push(&mut self, key: Vec<u8>, value: &Bytes) -> Vec<ReadRecord> {
        let mut out = Vec::new();
        let stem = |key: &[u8]| key[..key.len().saturating_sub(2)].to_vec();
        if self.keys.last().is_some_and(|last| stem(last) != stem(&key)) {
            out.extend(self.end());
        }
        let outcome = if self.broken.is_some() { Ok(None) } else { self.parts.push(self.kind, &key, value) };
        self.keys.push(key);
        match outcome {
            Ok(None) => {}
            Ok(Some(whole)) => out.push(ReadRecord { keys: std::mem::take(&mut self.keys), whole: Ok(whole) }),
            // The other parts of it are of no use either.
            Err(error) => {
                self.parts = PartReader::default();
                self.broken = Some(error);
            }
        }
        out
    }

    /// The record ends here, though it was not complete.
    fn end(&mut self) -> Option<ReadRecord> {
        let parts = std::mem::take(&mut self.parts);
        let keys = std::mem::take(&mut self.keys);
        let error = self.broken.take().or_else(|| parts.finish(self.kind).err());
        error.filter(|_| !keys.is_empty()).map(|error| ReadRecord { keys, whole: Err(error) })
    }

    fn finish(mut self) -> Option<ReadRecord> {
        self.end()
    }
}
