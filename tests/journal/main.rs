//! A journal in front of storage, against an oracle: random commits, reads, faults of the file and of the storage, deaths of
//! the process and losses of power.
//!
//! After a process has died, everything acknowledged is there, and of what failed all or nothing. After a loss of power the
//! state is one that commits up to some moment made, and no strict commit is missing.
#![cfg(not(target_arch = "wasm32"))]

mod cases;
mod device;
mod engine;
mod races;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use device::{Device, Fault};
use futures::executor::block_on;
use kalamdb::error::Result;
use kalamdb::storage::journal::JournaledBackend;
use kalamdb::storage::{Durability, KeyRange, Partition, ScanOptions, StorageBackend, WriteBatch};
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
