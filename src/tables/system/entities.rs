//! The rows of system tables that are kept: users, jobs, storages, the audit log.
//!
//! Invariant: each is one record of the catalog partition under a prefix that no other entity has; fields are only
//! added, with a default, so that what an earlier version wrote decodes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::TableOptions;
use crate::storage::{Entity, EntityStore, Partition};
use crate::tables::Seq;

/// A user, as CREATE USER made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// The name.
    pub user_id: String,
    /// The name of the user's role.
    pub role: String,
    /// When it was created, in milliseconds since the epoch.
    pub created_at_ms: u64,
    /// When it was last changed, in milliseconds since the epoch.
    pub updated_at_ms: u64,
}

impl Entity for UserRecord {
    type Key = String;
    const PARTITION: Partition = Partition::Catalog;
    const PREFIX: &'static [u8] = b"user/";

    fn encode_key(key: &String) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Made, not yet accepted.
    New,
    /// Waits for its turn.
    Queued,
    /// Runs.
    Running,
    /// Did what it was to do.
    Completed,
    /// Gave up.
    Failed,
    /// Failed and will run again.
    Retrying,
    /// Was told to stop.
    Cancelled,
}

impl JobStatus {
    /// The name in `system.jobs`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Retrying => "retrying",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The id.
    pub job_id: String,
    /// What kind of job: `flush`, `compact`, …
    pub job_type: String,
    /// What it works on, if one thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Where it stands.
    pub status: JobStatus,
    /// What it needs to know, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
    /// How it went, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How often it was started.
    #[serde(default)]
    pub attempts: u32,
    /// The node that made it.
    pub node_id: String,
    /// When it was made, in milliseconds since the epoch.
    pub created_at_ms: u64,
    /// When it was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at_ms: Option<u64>,
}

impl Entity for JobRecord {
    type Key = String;
    const PARTITION: Partition = Partition::Catalog;
    const PREFIX: &'static [u8] = b"job/";

    fn encode_key(key: &String) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}

/// A named storage of cold segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageRecord {
    /// The name that the table option STORAGE_ID gives.
    pub storage_id: String,
    /// What it is: `indexeddb`, `memory`, `opfs`, `host`.
    pub kind: String,
    /// Where a table's segments are in it, with `{table_no}` and `{user}` to be replaced.
    pub path_template: String,
    /// When it was made, in milliseconds since the epoch.
    pub created_at_ms: u64,
}

impl StorageRecord {
    /// The storage of tables that name none: where the database itself is.
    pub(super) fn local(kind: &str, now_ms: u64) -> Self {
        Self {
            storage_id: TableOptions::DEFAULT_STORAGE.to_owned(),
            kind: kind.to_owned(),
            path_template: "{table_no}/{user}".to_owned(),
            created_at_ms: now_ms,
        }
    }
}

impl Entity for StorageRecord {
    type Key = String;
    const PARTITION: Partition = Partition::Catalog;
    const PREFIX: &'static [u8] = b"storage/";

    fn encode_key(key: &String) -> Vec<u8> {
        key.as_bytes().to_vec()
    }
}

/// The named storages. `local` is there from the start.
pub type StorageStore = EntityStore<StorageRecord>;

/// The named storages that tables may choose for their segments.
#[derive(Debug, Clone)]
pub struct StorageRegistry {
    store: StorageStore,
}

impl StorageRegistry {
    pub(super) fn new(store: StorageStore) -> Self {
        Self { store }
    }

    /// A storage.
    pub async fn get(&self, storage_id: &str) -> Result<Option<StorageRecord>> {
        self.store.get(&storage_id.to_owned()).await
    }

    /// Every storage, by name.
    pub async fn list(&self) -> Result<Vec<StorageRecord>> {
        self.store.list().await
    }

    /// A storage that has to be there.
    pub async fn require(&self, storage_id: &str) -> Result<StorageRecord> {
        if let Some(found) = self.get(storage_id).await? {
            return Ok(found);
        }
        let names: Vec<String> = self.list().await?.into_iter().map(|s| s.storage_id).collect();
        let message = format!("the option STORAGE_ID is '{storage_id}', expected the name of a storage");
        Err(KalamError::new(ErrorCode::InvalidOption, message)
            .with_hint(format!("The storages are {}.", names.join(", "))))
    }
}

/// One administrative statement that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The id; it grows with time.
    pub audit_id: Seq,
    /// When, in microseconds since the epoch.
    pub at_us: i64,
    /// The node that ran it.
    pub node_id: String,
    /// The user who asked.
    pub user_id: String,
    /// What was done, as the statement's first words: `CREATE TABLE`.
    pub action: String,
    /// The name of what it was done to.
    pub target: String,
}

impl Entity for AuditRecord {
    type Key = Seq;
    const PARTITION: Partition = Partition::Catalog;
    const PREFIX: &'static [u8] = b"audit/";

    fn encode_key(key: &Seq) -> Vec<u8> {
        // Ids are positive, so their bytes sort as they do.
        key.to_be_bytes().to_vec()
    }
}
