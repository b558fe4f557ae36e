//! An engine on a journal: rescue, backup and restore.

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::storage::journal::{FoundFile, JournaledBackend};
use kalamdb::storage::{Backup, MemoryBackend, Restore, is_empty};
use kalamdb::tables::Health;

use crate::cases::{open, stored};
use crate::device::Device;
use crate::support::sql;

/// A device with a database of a flushed row and two that wait in the journal.
async fn three_rows() -> Result<Device> {
    let device = Device::new();
    let context = AppContext::open(open(&device).await?, Config::default()).await?;
    sql(&context, "CREATE TABLE t (k INT PRIMARY KEY); INSERT INTO t VALUES (1); STORAGE FLUSH ALL").await?;
    sql(&context, "INSERT INTO t VALUES (2); INSERT INTO t VALUES (3)").await?;
    Ok(device.copy())
}

async fn bytes_of(mut backup: Backup) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = backup.next().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn count(context: &AppContext) -> Result<usize> {
    Ok(sql(context, "SELECT k FROM t").await?.pop().and_then(|r| r.rows).expect("rows").len())
}

#[test]
fn a_rescue_reports_what_the_journal_has_lost() -> Result<()> {
    block_on(async {
        let device = three_rows().await?;
        for (file, rows, told) in [(true, 3, false), (false, 1, true)] {
            let device = device.copy();
            let file = if file { device.file() } else { FoundFile::ReadOnly(Vec::new()) };
            let backend = JournaledBackend::open(Arc::new(device), file, true).await?;
            let (backup, findings) = AppContext::rescue(backend).await?;
            let lost: Vec<_> = findings.iter().filter(|f| f.health != Health::Ok).collect();
            assert_eq!(lost.iter().any(|f| f.object == "journal" && f.detail.contains("is gone")), told, "{lost:?}");
            assert_eq!(lost.len(), usize::from(told), "{lost:?}");
            let bytes = bytes_of(backup).await?;
            let rescued = AppContext::restore(Arc::new(MemoryBackend::new()), &bytes, Config::default()).await?;
            assert_eq!(count(&rescued).await?, rows);
        }
        Ok(())
    })
}

/// The marker belongs to a device: it is in no backup, and a restore leaves that of the device it restores to.
#[test]
fn a_backup_has_what_waits_and_restores_to_another_journal() -> Result<()> {
    block_on(async {
        let context = AppContext::open(open(&three_rows().await?).await?, Config::default()).await?;
        let bytes = bytes_of(context.backup().await).await?;
        let plain = MemoryBackend::new();
        AppContext::restore(Arc::new(plain.reopen()), &bytes, Config::default()).await?;
        let device = Device::new();
        let mut restore = Restore::begin(open(&device).await?).await?;
        restore.push(&bytes[..bytes.len() / 2]).await?;
        drop(restore);
        // Half of it: the next process is told, and begins again.
        let device = device.crash();
        let error = AppContext::open(open(&device).await?, Config::default()).await.expect_err("half a database");
        assert_eq!(error.code(), ErrorCode::DataCorrupted, "{error}");
        let mut restore = Restore::begin(open(&device).await?).await?;
        restore.push(&bytes).await?;
        restore.finish().await?;
        // What was restored is on the device.
        let device = device.lose_power(&mut |_| 0);
        let context = AppContext::open(open(&device).await?, Config::default()).await?;
        assert_eq!(count(&context).await?, 3);
        context.close().await?;
        Ok(())
    })
}

#[test]
fn a_restore_that_fails_leaves_nothing_but_the_marker() -> Result<()> {
    block_on(async {
        let context = AppContext::open(open(&three_rows().await?).await?, Config::default()).await?;
        let mut bytes = bytes_of(context.backup().await).await?;
        let at = bytes.len() - 5;
        bytes[at] ^= 1;
        let device = Device::new();
        let backend = open(&device).await?;
        let error = AppContext::restore(Arc::clone(&backend), &bytes, Config::default()).await.expect_err("damaged");
        assert_eq!(error.code(), ErrorCode::DataCorrupted, "{error}");
        assert!(is_empty(backend.as_ref()).await?);
        assert_eq!(stored(&device).await?.len(), 1);
        let device = device.crash();
        assert!(is_empty(open(&device).await?.as_ref()).await?);
        Ok(())
    })
}
