//! A journal in front of storage, against an oracle: random commits, reads, faults of the file and of the storage, deaths of
//! the process and losses of power.
//!
//! After a process has died, everything acknowledged is there, and of what failed all or nothing. After a loss of power the
//! state is one that commits up to some moment made, and no strict commit is missing.
#![cfg(not(target_arch = "wasm32"))]

mod device;
mod engine;
mod races;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use device::{Device, Fault};
use futures::executor::block_on;
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::storage::journal::{FoundFile, JournaledBackend};
use kalamdb::storage::{Durability, KeyRange, Partition, ScanOptions, StorageBackend, WriteBatch, is_empty};
use proptest::prelude::*;

/// Each key's value: the number of the commit that wrote it, and its length.
type State = BTreeMap<(Partition, Vec<u8>), (u32, usize)>;

const RELAXED: Durability = Durability::Relaxed;

const PARTITIONS: [Partition; 3] = [Partition::Meta, Partition::Log, Partition::Blob];

#[derive(Debug, Clone)]
enum Change {
    Put { partition: usize, key: u8, length: usize },
    Delete { partition: usize, key: u8 },
    DeleteRange { partition: usize, from: u8, to: u8 },
    Clear { partition: usize },
}

#[derive(Debug, Clone)]
enum Step {
    Commit { changes: Vec<Change>, strict: bool },
    Read { partition: usize, from: u8, to: u8, limit: Option<usize>, reverse: bool },
    Get { partition: usize, key: u8 },
    CarryOver,
    FailStorage(Fault),
    FailFile(Fault),
    Full(bool),
    Close,
    Die,
    LosePower(u64),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![Just(Fault::Nothing), Just(Fault::Half), Just(Fault::All)]
}

fn change() -> impl Strategy<Value = Change> {
    let partition = 0..PARTITIONS.len();
    // A journal takes 32 KiB at once, and 1 MiB altogether.
    let length = prop_oneof![8 => 0usize..40, 4 => 9000usize..30_000, 1 => 30_000usize..50_000];
    prop_oneof![
        8 => (partition.clone(), 0u8..12, length).prop_map(|(partition, key, length)| Change::Put { partition, key, length }),
        2 => (partition.clone(), 0u8..12).prop_map(|(partition, key)| Change::Delete { partition, key }),
        1 => (partition.clone(), 0u8..12, 0u8..12).prop_map(|(partition, from, to)| Change::DeleteRange { partition, from, to }),
        1 => partition.prop_map(|partition| Change::Clear { partition }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let partition = 0..PARTITIONS.len();
    prop_oneof![
        20 => (prop::collection::vec(change(), 1..4), prop::bool::weighted(0.1))
            .prop_map(|(changes, strict)| Step::Commit { changes, strict }),
        2 => (partition.clone(), 0u8..12, 0u8..14, prop::option::of(0usize..5), any::<bool>())
            .prop_map(|(partition, from, to, limit, reverse)| Step::Read { partition, from, to, limit, reverse }),
        2 => (partition, 0u8..12).prop_map(|(partition, key)| Step::Get { partition, key }),
        2 => Just(Step::CarryOver),
        1 => fault().prop_map(Step::FailStorage),
        1 => fault().prop_map(Step::FailFile),
        1 => any::<bool>().prop_map(Step::Full),
        1 => Just(Step::Close),
        1 => Just(Step::Die),
        1 => any::<u64>().prop_map(Step::LosePower),
    ]
}

fn batch_of(changes: &[Change], stamp: u32) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for change in changes {
        match *change {
            Change::Put { partition, key, length } => {
                let mut value = stamp.to_le_bytes().to_vec();
                value.resize(4 + length, key);
                batch.put(PARTITIONS[partition], vec![b'a' + key], value)
            }
            Change::Delete { partition, key } => batch.delete(PARTITIONS[partition], vec![b'a' + key]),
            Change::DeleteRange { partition, from, to } => {
                batch.delete_range(PARTITIONS[partition], KeyRange::between(vec![b'a' + from], vec![b'a' + to]))
            }
            Change::Clear { partition } => batch.delete_range(PARTITIONS[partition], KeyRange::all()),
        };
    }
    batch
}

fn apply(state: &mut State, changes: &[Change], stamp: u32) {
    for change in changes {
        match *change {
            Change::Put { partition, key, length } => {
                state.insert((PARTITIONS[partition], vec![b'a' + key]), (stamp, 4 + length));
            }
            Change::Delete { partition, key } => drop(state.remove(&(PARTITIONS[partition], vec![b'a' + key]))),
            Change::DeleteRange { partition, from, to } => {
                state.retain(|(p, key), _| *p != PARTITIONS[partition] || key[0] < b'a' + from || key[0] >= b'a' + to)
            }
            Change::Clear { partition } => state.retain(|(p, _), _| *p != PARTITIONS[partition]),
        }
    }
}

async fn contents(backend: &dyn StorageBackend) -> Result<State> {
    let mut state = State::new();
    for partition in PARTITIONS {
        for (key, value) in backend.scan(partition, &KeyRange::all(), ScanOptions::default()).await? {
            let read = read_value(&key, &value);
            state.insert((partition, key), read);
        }
    }
    Ok(state)
}

fn read_value(key: &[u8], value: &[u8]) -> (u32, usize) {
    let (stamp, rest) = value.split_first_chunk().expect("a value begins with its number");
    assert!(rest.iter().all(|&byte| byte == key[0] - b'a'), "the value of another key");
    (u32::from_le_bytes(*stamp), value.len())
}

struct Run {
    device: Device,
    backend: Arc<dyn StorageBackend>,
    /// What the state may be, oldest first: where the power may be lost, one for each commit since the last flush, with
    /// those that failed made and not made.
    possible: Vec<Vec<State>>,
    stamp: u32,
    /// The power was lost, and nothing opened since.
    powerless: bool,
}

impl Run {
    async fn new() -> Result<Self> {
        let device = Device::new();
        let backend = JournaledBackend::open(Arc::new(device.clone()), device.file(), false).await?;
        Ok(Self { device, backend, possible: vec![vec![State::new()]], stamp: 0, powerless: false })
    }

    fn now(&self) -> &Vec<State> {
        self.possible.last().expect("there is always one")
    }

    /// The state is known from now on.
    fn know(&mut self, known: State) {
        assert!(self.now().contains(&known), "found {}, expected one of {}", show(&known), self.show());
        *self.possible.last_mut().expect("there is always one") = vec![known];
    }

    fn show(&self) -> String {
        self.now().iter().map(show).collect::<Vec<_>>().join(" | ")
    }

    async fn reopen(&mut self) -> Result<()> {
        let open = || JournaledBackend::open(Arc::new(self.device.clone()), self.device.file(), false);
        self.backend = match open().await {
            // A loss of power can take a part of a commit, and leave those behind it: that is said, once.
            Err(error) if self.powerless && error.message().contains("is damaged, and later ones") => open().await?,
            opened => opened?,
        };
        self.powerless = false;
        let known = contents(self.backend.as_ref()).await?;
        self.know(known);
        Ok(())
    }

    async fn run(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Commit { changes, strict } => {
                self.stamp += 1;
                let asked = if *strict { Durability::Strict } else { RELAXED };
                let done = self.backend.commit(batch_of(changes, self.stamp), asked).await;
                let changed = |state: &State| {
                    let mut state = state.clone();
                    apply(&mut state, changes, self.stamp);
                    state
                };
                let mut after: Vec<State> = self.now().iter().map(changed).collect();
                match done {
                    Ok(reached) => {
                        assert_eq!(reached, asked);
                        if *strict {
                            self.possible.clear();
                        }
                    }
                    Err(_) => after.extend(self.now().iter().cloned()),
                }
                self.possible.push(after);
                if self.now().len() > 4 {
                    self.device.heal();
                    self.read_all().await?;
                }
            }
            Step::Read { partition, from, to, limit, reverse } => {
                let known = self.read_all().await?;
                let range = KeyRange::between(vec![b'a' + from], vec![b'a' + to]);
                let options = ScanOptions { limit: *limit, reverse: *reverse };
                let Ok(found) = self.backend.scan(PARTITIONS[*partition], &range, options).await else { return Ok(()) };
                let inside = |((p, key), value): (&(Partition, Vec<u8>), &(u32, usize))| {
                    (*p == PARTITIONS[*partition] && range.contains(key)).then(|| (key.clone(), *value))
                };
                let mut expected: Vec<_> = known.iter().filter_map(inside).collect();
                if *reverse {
                    expected.reverse();
                }
                expected.truncate(limit.unwrap_or(usize::MAX));
                let found: Vec<_> =
                    found.into_iter().map(|(key, value)| (key.clone(), read_value(&key, &value))).collect();
                assert_eq!(found, expected);
            }
            Step::Get { partition, key } => {
                let known = self.read_all().await?;
                let at = (PARTITIONS[*partition], vec![b'a' + key]);
                if let Ok(found) = self.backend.get(at.0, &at.1).await {
                    assert_eq!(found.map(|value| read_value(&at.1, &value)), known.get(&at).copied());
                }
                assert_eq!(self.backend.get(Partition::Meta, b"journal").await?, None, "the marker is hidden");
            }
            // Anything that touches a partition does.
            Step::CarryOver => drop(self.backend.stats().await?),
            Step::FailStorage(fault) => self.device.fail_storage(*fault),
            Step::FailFile(fault) => self.device.fail_file(*fault),
            Step::Full(full) => self.device.fill(*full),
            Step::Close => {
                self.backend.close().await?;
                self.device = self.device.crash();
                self.reopen().await?;
            }
            Step::Die => {
                self.device = self.device.crash();
                self.reopen().await?;
            }
            Step::LosePower(seed) => {
                let mut random = *seed | 1;
                let mut choose = |below: usize| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    (random >> 11) as usize % below.max(1)
                };
                self.device = self.device.lose_power(&mut choose);
                self.possible = vec![self.possible.concat()];
                self.powerless = true;
                self.reopen().await?;
            }
        }
        Ok(())
    }

    /// Reads everything, and learns what became of commits that failed.
    async fn read_all(&mut self) -> Result<State> {
        let known = contents(self.backend.as_ref()).await?;
        self.know(known.clone());
        Ok(known)
    }
}

fn show(state: &State) -> String {
    let one = |((p, key), (stamp, _)): (&(Partition, Vec<u8>), &(u32, usize))| {
        format!("{}.{}={stamp}", p.name(), key[0] as char)
    };
    format!("{{{}}}", state.iter().map(one).collect::<Vec<_>>().join(" "))
}

#[test]
fn a_frame_whose_write_failed_is_not_read() -> Result<()> {
    block_on(async {
        let faults = [Fault::Nothing, Fault::Half, Fault::All].into_iter();
        for (fault, n) in faults.flat_map(|fault| (0..16).map(move |n| (fault, n))) {
            // Commits before it: those behind the first one wait in the file.
            let (before, lost) = (1 + n % 2 * 2, n / 2);
            let mut run = Run::new().await?;
            let put = |key| Step::Commit { changes: vec![Change::Put { partition: 1, key, length: 9 }], strict: false };
            for key in 0..before {
                run.run(&put(key)).await?;
            }
            run.device.fail_file(fault);
            run.device.fail_storage(Fault::Nothing);
            run.run(&put(3)).await?;
            assert_eq!(run.now().len(), 2, "the commit failed");
            run.read_all().await?;
            run.run(&Step::Die).await?;
            // Nor when of all writes one is lost with the power.
            let mut choices = 0;
            run.device = run.device.lose_power(&mut |below| {
                choices += 1;
                if choices == lost { 0 } else { below - 1 }
            });
            run.possible = vec![run.possible.concat()];
            run.powerless = true;
            run.reopen().await?;
        }
        Ok(())
    })
}

/// A database with three commits in its journal, the last ones in the file.
async fn three_commits() -> Result<Device> {
    let mut run = Run::new().await?;
    for key in 0..3 {
        run.run(&Step::Commit { changes: vec![Change::Put { partition: 1, key, length: 9 }], strict: false }).await?;
    }
    Ok(run.device.crash())
}

#[test]
fn a_journal_that_is_gone_or_another_is_said_to_be() -> Result<()> {
    block_on(async {
        let other = three_commits().await?.file_bytes();
        let files = [
            ("its file is gone; the database has its commits up to number 0", FoundFile::ReadOnly(Vec::new())),
            ("its file is that of another database", FoundFile::ReadOnly(other)),
            ("its header is damaged", FoundFile::ReadOnly(vec![1; 100])),
            ("nobody may", FoundFile::None(KalamError::new(ErrorCode::StorageError, "nobody may"))),
        ];
        for (expected, file) in files {
            let device = three_commits().await?;
            let again = match &file {
                FoundFile::ReadOnly(bytes) => FoundFile::ReadOnly(bytes.clone()),
                _ => FoundFile::None(KalamError::internal("nobody may")),
            };
            let error = JournaledBackend::open(Arc::new(device.clone()), file, false).await.expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}");
            let salvaged = JournaledBackend::open(Arc::new(device.clone()), again, true).await?;
            let found = contents(salvaged.as_ref()).await?;
            assert_eq!(found.into_keys().collect::<Vec<_>>(), [(Partition::Log, b"a".to_vec())]);
            if error.code() == ErrorCode::DataCorrupted {
                // Said once; then the database goes on, with a journal of its own.
                let backend = JournaledBackend::open(Arc::new(device.clone()), device.file(), false).await?;
                backend.commit(batch_of(&[Change::Put { partition: 1, key: 7, length: 9 }], 9), RELAXED).await?;
                backend.commit(batch_of(&[Change::Put { partition: 1, key: 8, length: 9 }], 9), RELAXED).await?;
                let device = device.crash();
                let backend = JournaledBackend::open(Arc::new(device.clone()), device.file(), false).await?;
                assert_eq!(contents(backend.as_ref()).await?.len(), 3);
            }
        }
        Ok(())
    })
}

/// What stands before a damaged commit is kept, and that there was more is said.
#[test]
fn a_damaged_commit_is_said_to_be_and_those_before_it_are_kept() -> Result<()> {
    block_on(async {
        let mut run = Run::new().await?;
        for key in 0..5 {
            run.run(&Step::Commit { changes: vec![Change::Put { partition: 1, key, length: 9 }], strict: false })
                .await?;
        }
        let (device, mut bytes) = (run.device.crash(), run.device.file_bytes());
        assert!(bytes.is_empty(), "the device went on to the next process");
        bytes = device.file_bytes();
        // The value of the third commit in the file, which is that of key 3.
        let place = bytes.windows(9).position(|window| window == [3; 9]).expect("the commit");
        bytes[place + 4] ^= 1;
        let damaged = || FoundFile::ReadOnly(bytes.clone());
        let keys = async |backend: &Arc<dyn StorageBackend>| -> Result<Vec<u8>> {
            Ok(contents(backend.as_ref()).await?.into_keys().map(|(_, key)| key[0]).collect())
        };
        let salvaged = JournaledBackend::open(Arc::new(device.clone()), damaged(), true).await?;
        assert_eq!(keys(&salvaged).await?, b"abc");
        let told = salvaged.lost().expect("what is lost");
        assert!(told.message().contains("commit 3 is damaged, and later ones were built on it"), "{told}");
        let error = JournaledBackend::open(Arc::new(device.clone()), damaged(), false).await.expect_err("said once");
        assert_eq!(error.message(), told.message());
        let backend = JournaledBackend::open(Arc::new(device.clone()), damaged(), false).await?;
        assert_eq!(keys(&backend).await?, b"abc");
        Ok(())
    })
}

/// Without its marker nobody knows what of a journal is carried over.
#[test]
fn a_damaged_marker_is_damage_until_the_database_is_salvaged() -> Result<()> {
    block_on(async {
        let device = three_commits().await?;
        let mut batch = WriteBatch::new();
        batch.put(Partition::Meta, *b"journal", vec![1; 50]);
        device.commit(batch, Durability::Strict).await?;
        for _ in 0..2 {
            let opened = JournaledBackend::open(Arc::new(device.clone()), device.file(), false).await;
            assert_eq!(opened.expect_err("a damaged marker").code(), ErrorCode::DataCorrupted);
        }
        let salvaged = JournaledBackend::open(Arc::new(device.clone()), device.file(), true).await?;
        assert_eq!(
            contents(salvaged.as_ref()).await?.into_keys().collect::<Vec<_>>(),
            [(Partition::Log, b"a".to_vec())]
        );
        Ok(())
    })
}

#[test]
fn where_no_file_can_be_written_what_is_in_one_is_taken_up() -> Result<()> {
    block_on(async {
        let device = three_commits().await?;
        let file = FoundFile::ReadOnly(device.file_bytes());
        let backend = JournaledBackend::open(Arc::new(device.clone()), file, false).await?;
        assert_eq!(contents(backend.as_ref()).await?.len(), 3);
        backend.commit(batch_of(&[Change::Delete { partition: 1, key: 1 }], 9), RELAXED).await?;
        // The file still holds the commits that are carried over.
        let device = device.crash();
        let backend = JournaledBackend::open(Arc::new(device.clone()), device.file(), false).await?;
        assert_eq!(contents(backend.as_ref()).await?.len(), 2);
        Ok(())
    })
}

#[test]
fn the_marker_is_nobodys_record() -> Result<()> {
    block_on(async {
        let device = Device::new();
        let backend = JournaledBackend::open(Arc::new(device.clone()), device.file(), false).await?;
        backend.commit(batch_of(&[Change::Put { partition: 0, key: 20, length: 1 }], 1), Durability::Strict).await?;
        assert_eq!(backend.stats().await?.records, 1);
        assert_eq!(device.stats().await?.records, 2);
        backend.commit(batch_of(&[Change::Clear { partition: 0 }], 2), Durability::Strict).await?;
        assert!(is_empty(backend.as_ref()).await?);
        assert_eq!(device.stats().await?.records, 1);
        // A storage without one gets one only where a file can be written.
        let bare = Device::new();
        let file = FoundFile::ReadOnly(Vec::new());
        let backend = JournaledBackend::open(Arc::new(bare.clone()), file, false).await?;
        backend.commit(batch_of(&[Change::Put { partition: 0, key: 20, length: 1 }], 1), Durability::Strict).await?;
        assert_eq!(bare.stats().await?.records, 1);
        Ok(())
    })
}

fn put(key: u8, stamp: u32) -> WriteBatch {
    batch_of(&[Change::Put { partition: 1, key, length: 9 }], stamp)
}

async fn open(device: &Device) -> Result<Arc<dyn StorageBackend>> {
    JournaledBackend::open(Arc::new(device.clone()), device.file(), false).await
}

async fn keys(backend: &dyn StorageBackend) -> Result<String> {
    Ok(contents(backend).await?.into_keys().map(|(_, key)| key[0] as char).collect())
}

#[test]
fn a_write_whose_caller_has_gone_is_waited_for() -> Result<()> {
    block_on(async {
        let device = Device::new();
        let backend = open(&device).await?;
        for key in 0..3 {
            backend.commit(put(key, 1), Durability::Relaxed).await?;
        }
        // A query that reads what waits is given up while it is carried over.
        device.hold();
        let range = KeyRange::all();
        let mut read = backend.scan(Partition::Log, &range, ScanOptions::default());
        assert!(futures::poll!(&mut read).is_pending());
        drop(read);
        let held = device.release();
        assert_eq!(held.len(), 1);
        let mut next = backend.commit(put(3, 1), Durability::Relaxed);
        let early = futures::poll!(&mut next);
        device.finish(held).await;
        if early.is_pending() {
            next.await?;
        }
        for key in 4..6 {
            backend.commit(put(key, 1), Durability::Relaxed).await?;
        }
        let device = device.crash();
        assert_eq!(keys(open(&device).await?.as_ref()).await?, "abcdef");
        Ok(())
    })
}

#[test]
fn what_was_carried_over_without_an_answer_may_be_lost_with_the_power() -> Result<()> {
    block_on(async {
        let device = Device::new();
        let backend = open(&device).await?;
        backend.commit(put(0, 1), Durability::Strict).await?;
        for key in 1..3 {
            backend.commit(put(key, 1), Durability::Relaxed).await?;
        }
        device.fail_storage(Fault::All);
        backend.stats().await?;
        assert_eq!(keys(backend.as_ref()).await?, "abc");
        backend.commit(put(3, 1), Durability::Relaxed).await?;
        backend.commit(put(4, 1), Durability::Relaxed).await?;
        // Storage has lost all that was not flushed, and the file nothing.
        let device = device.lose_power(&mut |below| if below == 4 { 3 } else { 0 });
        assert_eq!(keys(open(&device).await?.as_ref()).await?, "a");
        Ok(())
    })
}

#[test]
fn what_stands_behind_a_frame_that_was_lost_does_not_come_back() -> Result<()> {
    block_on(async {
        let device = Device::new();
        let backend = open(&device).await?;
        backend.commit(put(0, 1), Durability::Strict).await?;
        for key in 1..4 {
            backend.commit(put(key, 1), Durability::Relaxed).await?;
        }
        // The first of three frames is lost.
        let mut frames = 0;
        let device = device.lose_power(&mut |below| {
            frames += usize::from(below == 4);
            if below == 4 && frames > 1 { 3 } else { 0 }
        });
        assert_eq!(frames, 3);
        let backend = open(&device).await?;
        assert_eq!(keys(backend.as_ref()).await?, "a");
        // The same commit again makes the same frame.
        for key in 1..2 {
            backend.commit(put(key, 1), Durability::Relaxed).await?;
        }
        let device = device.crash();
        assert_eq!(keys(open(&device).await?.as_ref()).await?, "ab");
        Ok(())
    })
}

async fn stored(device: &Device) -> Result<Vec<(Vec<u8>, bytes::Bytes)>> {
    let mut all = Vec::new();
    for partition in Partition::ALL {
        all.extend(device.scan(partition, &KeyRange::all(), ScanOptions::default()).await?);
    }
    Ok(all)
}

/// Opens what a device holds to be salvaged, and finds these keys; says what is lost. Nothing is written.
async fn salvaged(device: &Device, file: FoundFile, expected: &str) -> Result<String> {
    let (before, bytes) = (stored(device).await?, device.file_bytes());
    let backend = JournaledBackend::open(Arc::new(device.clone()), file, true).await?;
    assert_eq!(keys(backend.as_ref()).await?, expected);
    let range = KeyRange::all();
    for (reverse, limit) in [(false, 2), (true, 2), (true, 0)] {
        let options = ScanOptions { limit: Some(limit), reverse };
        let found = backend.scan(Partition::Log, &range, options).await?.into_iter().map(|(key, _)| key[0] as char);
        let mut all: Vec<char> = expected.chars().collect();
        if reverse {
            all.reverse();
        }
        assert_eq!(found.collect::<Vec<_>>(), all.into_iter().take(limit).collect::<Vec<_>>());
    }
    backend.stats().await?;
    assert_eq!(backend.get(Partition::Meta, b"journal").await?, None, "the marker is nobody's record");
    backend.close().await?;
    let device = device.crash();
    assert!(before == stored(&device).await? && bytes == device.file_bytes(), "something was written");
    Ok(backend.lost().map(|error| error.to_string()).unwrap_or_default())
}

#[test]
fn who_salvages_reads_what_is_there_and_is_told_what_is_not() -> Result<()> {
    block_on(async {
        let device = three_commits().await?;
        assert_eq!(salvaged(&device, device.file(), "abc").await?, "");
        let device = three_commits().await?;
        let lost = salvaged(&device, FoundFile::ReadOnly(Vec::new()), "a").await?;
        assert!(lost.contains("its file is gone"), "{lost}");
        // The marker itself is damaged.
        let device = three_commits().await?;
        let mut batch = WriteBatch::new();
        batch.put(Partition::Meta, *b"journal", &b"nonsense"[..]);
        device.commit(batch, Durability::Strict).await?;
        let error = open(&device).await.expect_err("the marker is damaged");
        assert_eq!(error.code(), ErrorCode::DataCorrupted, "{error}");
        let lost = salvaged(&device, device.file(), "a").await?;
        assert!(lost.contains("journal"), "{lost}");
        // There is none: whatever the file holds, it is nobody's to write to.
        let device = three_commits().await?;
        let mut batch = WriteBatch::new();
        batch.delete(Partition::Meta, *b"journal");
        device.commit(batch, Durability::Strict).await?;
        assert_eq!(salvaged(&device, device.file(), "a").await?, "");
        Ok(())
    })
}

fn cases() -> u32 {
    std::env::var("KALAM_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_journal_and_its_oracle_agree(steps in prop::collection::vec(step(), 1..200)) {
        block_on(async {
            let mut run = Run::new().await.unwrap();
            for step in &steps {
                if let Err(error) = run.run(step).await {
                    panic!("{step:?}: {error}");
                }
            }
            run.device.heal();
            run.read_all().await.unwrap();
        });
    }
}
