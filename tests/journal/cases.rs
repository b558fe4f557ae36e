//! What is gone, damaged, in doubt or out of reach, one case at a time.

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::storage::journal::{FoundFile, JournaledBackend};
use kalamdb::storage::{Durability, KeyRange, Partition, ScanOptions, StorageBackend, WriteBatch, is_empty};

use super::device::{Device, Fault};
use super::{Change, RELAXED, Run, Step, batch_of, contents};

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

pub async fn open(device: &Device) -> Result<Arc<dyn StorageBackend>> {
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

pub async fn stored(device: &Device) -> Result<Vec<(Vec<u8>, bytes::Bytes)>> {
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
