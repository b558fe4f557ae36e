//! Random operations against ordered maps that do the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use kalamdb::error::Result;
use kalamdb::storage::{Durability, KeyRange, Partition, ScanOptions, WriteBatch};

use super::{Harness, Random, all, done};

const OPERATIONS: usize = 4000;

type Oracle = [BTreeMap<Vec<u8>, Bytes>; Partition::ALL.len()];

/// A key of few bytes out of few, so that operations meet.
fn key(random: &mut Random) -> Vec<u8> {
    const BYTES: [u8; 6] = [0x00, 0x01, b'a', b'b', 0x80, 0xFF];
    (0..random.below(4)).map(|_| BYTES[random.below(BYTES.len())]).collect()
}

fn value(random: &mut Random) -> Bytes {
    let length = match random.below(20) {
        0 => 0,
        1 => 70_000,
        _ => random.below(200),
    };
    vec![random.next() as u8; length].into()
}

fn range(random: &mut Random) -> KeyRange {
    match random.below(5) {
        0 => KeyRange { from: None, to: Some(key(random)) },
        1 => KeyRange { from: Some(key(random)), to: None },
        2 => KeyRange::prefix(&key(random)),
        _ => KeyRange::between(key(random), key(random)),
    }
}

/// One batch on the backend's side and on the oracle's.
fn random_batch(random: &mut Random, oracle: &mut Oracle) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for _ in 0..=random.below(8) {
        let partition = Partition::ALL[random.below(Partition::ALL.len())];
        let map = &mut oracle[partition as usize];
        match random.below(10) {
            0..=6 => {
                let (key, value) = (key(random), value(random));
                map.insert(key.clone(), value.clone());
                batch.put(partition, key, value);
            }
            7..=8 => {
                let key = key(random);
                map.remove(&key);
                batch.delete(partition, key);
            }
            _ => {
                let range = range(random);
                if !range.is_empty() {
                    map.retain(|key, _| !range.contains(key));
                }
                batch.delete_range(partition, range);
            }
        }
    }
    batch
}

/// A few thousand operations from one seed, reopening now and then; every answer is the oracle's.
pub async fn random_operations(harness: &impl Harness) -> Result<()> {
    let name = "oracle";
    let mut backend = harness.fresh(name).await?;
    let mut random = Random::new(0x5EED);
    let mut oracle = Oracle::default();
    for step in 0..OPERATIONS {
        let partition = Partition::ALL[random.below(Partition::ALL.len())];
        match random.below(10) {
            0..=4 => {
                let batch = random_batch(&mut random, &mut oracle);
                let durability = if random.below(20) == 0 { Durability::Strict } else { Durability::Relaxed };
                backend.commit(batch, durability).await?;
            }
            5..=6 => {
                let key = key(&mut random);
                let expected = oracle[partition as usize].get(&key).cloned();
                assert!(backend.get(partition, &key).await? == expected, "step {step}: get {key:?}");
            }
            _ => {
                let range = range(&mut random);
                let options = ScanOptions {
                    limit: (random.below(2) == 0).then(|| random.below(12)),
                    reverse: random.below(2) == 0,
                };
                let inside = oracle[partition as usize].iter().filter(|(key, _)| range.contains(key));
                let mut expected: Vec<(Vec<u8>, Bytes)> = inside.map(|(k, v)| (k.clone(), v.clone())).collect();
                if options.reverse {
                    expected.reverse();
                }
                expected.truncate(options.limit.unwrap_or(usize::MAX));
                let found = backend.scan(partition, &range, options).await?;
                assert!(found == expected, "step {step}: scan {range:?} {options:?}");
            }
        }
        if step % (OPERATIONS / 4) == OPERATIONS / 8 {
            backend = harness.reopen(name, backend).await?;
        }
    }
    for partition in Partition::ALL {
        let expected: Vec<_> = oracle[partition as usize].clone().into_iter().collect();
        assert!(all(&backend, partition).await? == expected, "partition '{}' at the end", partition.name());
    }
    done(harness, name, backend).await
}
