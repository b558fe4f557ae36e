use super::entities::{StorageRecord, UserRecord};
use super::upgrade::{STEPS, Step, Upgrade};
use super::*;
use crate::error::ErrorCode;
use crate::schema::{NewColumn, ProviderFactory, Role, TableDefinition, TableId, TableOptions, TableType};
use crate::storage::record::{self, RecordKind};
use crate::storage::{MemoryBackend, Partition};
use crate::tables::TableProviders;
use crate::types::{KalamDataType, Value};
use futures::executor::block_on;

struct Opened {
    system: Arc<SystemTablesRegistry>,
    registry: Arc<SchemaRegistry>,
    backend: Arc<CountingBackend>,
}

/// Opens a database with the catalog that the steps lead to.
async fn open(memory: MemoryBackend, steps: &[Step]) -> Result<Opened> {
    let backend = Arc::new(CountingBackend::new(Arc::new(memory)));
    let shared = || Arc::clone(&backend) as Arc<dyn StorageBackend>;
    let store = TableStore::open(shared(), 7).await?;
    let registry = Arc::new(SchemaRegistry::new(shared()));
    registry.ensure_defaults().await?;
    let opened =
        SystemTablesRegistry::open_with("node-1".into(), Arc::clone(&backend), &registry, Arc::clone(&store), steps);
    let system = opened.await?;
    let others: Arc<dyn ProviderFactory> = Arc::new(TableProviders::new(store));
    registry.set_provider_factory(Arc::new(SystemProviders::new(Arc::clone(&system), others)));
    Ok(Opened { system, registry, backend })
}

impl Opened {
    async fn table(&self, table: SystemTable) -> Result<Arc<CachedTableData>> {
        let found = self.registry.table(&table.table_id()).await?;
        found.ok_or_else(|| KalamError::new(ErrorCode::TableNotFound, format!("no {table:?}")))
    }

    async fn batch(&self, table: SystemTable) -> Result<RecordBatch> {
        self.system.batch(&self.table(table).await?).await
    }

    /// The texts of a column.
    async fn column(&self, table: SystemTable, name: &str) -> Result<Vec<String>> {
        let batch = self.batch(table).await?;
        let array = batch.column_by_name(name).expect(name);
        let ty = KalamDataType::from_arrow_field(batch.schema().field_with_name(name).expect(name))?;
        (0..batch.num_rows()).map(|row| Ok(Value::from_array(array, row, &ty)?.to_text().into_owned())).collect()
    }
}

/// A copy of the memory, as a process that opens the database later finds it.
async fn copy(opened: &Opened) -> Result<MemoryBackend> {
    let memory = MemoryBackend::new();
    for partition in Partition::ALL {
        let mut batch = WriteBatch::new();
        for (key, value) in opened.backend.scan(partition, &KeyRange::all(), ScanOptions::default()).await? {
            batch.put(partition, key, value);
        }
        memory.commit(batch, Durability::Strict).await?;
    }
    Ok(memory)
}

fn ann() -> UserRecord {
    UserRecord { user_id: "ann".into(), role: "user".into(), created_at_ms: 1000, updated_at_ms: 2000 }
}

#[test]
fn a_catalog_of_version_1_opens_under_version_3() -> Result<()> {
    block_on(async {
        let first = open(MemoryBackend::new(), &STEPS[..1]).await?;
        assert_eq!(SystemTablesRegistry::stored_version(first.backend.as_ref()).await?, 1);
        assert_eq!(first.registry.tables(Some(INFORMATION_SCHEMA)).await?.len(), 0);
        first.system.users().put(&"ann".to_owned(), &ann()).await?;
        let users = first.table(SystemTable::Users).await?;
        let local = first.system.storages().require("local").await?;

        let second = open(copy(&first).await?, STEPS).await?;
        assert_eq!(SystemTablesRegistry::stored_version(second.backend.as_ref()).await?, 3);
        let standard = second.registry.tables(Some(INFORMATION_SCHEMA)).await?;
        assert_eq!(standard.len(), SystemTable::STANDARD.len(), "created what was missing");
        assert_eq!(second.table(SystemTable::Users).await?.definition(), users.definition(), "kept what was there");
        assert_eq!(second.column(SystemTable::Users, "user_id").await?, ["ann"]);
        assert_eq!(second.system.storages().list().await?, [local]);

        let commits = open(copy(&second).await?, STEPS).await?.backend.counters().commits;
        assert_eq!(commits, 0, "nothing to do the next time");
        Ok(())
    })
}

#[test]
fn version_3_gives_the_views_of_the_standard_all_their_columns() -> Result<()> {
    /// A view as version 2 had it, and no index listed anywhere.
    fn as_it_was(upgrade: &mut Upgrade) -> Result<()> {
        let columns = vec![NewColumn::new("catalog_name", KalamDataType::Text)];
        let (id, options) = (SystemTable::StandardSchemata.table_id(), TableOptions::default());
        let old = TableDefinition::new(id.clone(), 0, TableType::System, columns, &[], options, 7, "")?;
        upgrade.definitions.insert(id.clone(), old);
        upgrade.changed.insert(id);
        for later in [SystemTable::Indexes, SystemTable::StandardStatistics] {
            upgrade.definitions.remove(&later.table_id());
        }
        Ok(())
    }
    block_on(async {
        let second = open(MemoryBackend::new(), &[STEPS[0], as_it_was]).await?;
        assert_eq!(second.table(SystemTable::StandardSchemata).await?.definition().columns.len(), 1);
        assert!(second.table(SystemTable::Indexes).await.is_err());
        let third = open(copy(&second).await?, STEPS).await?;
        for table in SystemTable::SYSTEM.into_iter().chain(SystemTable::STANDARD) {
            let found = third.table(table).await?;
            let names = found.definition().columns_in_order().map(|c| c.name.as_str());
            assert!(names.eq(table.columns().iter().map(|c| c.name)), "{table:?}");
        }
        assert_eq!(third.column(SystemTable::StandardSchemata, "schema_name").await?[0], "default");
        Ok(())
    })
}

/// What a later version of the engine may do to a table.
fn add_email(upgrade: &mut Upgrade) -> Result<()> {
    let id = SystemTable::Users.table_id();
    let old = upgrade.definitions.get(&id).expect("made by step 1");
    let new = old.add_column(NewColumn::new("email", KalamDataType::Text), None, 5, "")?;
    upgrade.definitions.insert(id.clone(), new);
    upgrade.changed.insert(id);
    Ok(())
}

#[test]
fn a_step_can_change_a_table_and_older_engines_refuse_the_result() -> Result<()> {
    block_on(async {
        let today = open(MemoryBackend::new(), STEPS).await?;
        today.system.users().put(&"ann".to_owned(), &ann()).await?;
        let mut steps = STEPS.to_vec();
        steps.push(add_email);
        for memory in [copy(&today).await?, MemoryBackend::new()] {
            let later = open(memory, &steps).await?;
            assert_eq!(later.table(SystemTable::Users).await?.schema_version(), 2);
            let batch = later.batch(SystemTable::Users).await?;
            let email = batch.column_by_name("email").expect("the new column");
            assert_eq!(email.null_count(), batch.num_rows());
            let error = open(copy(&later).await?, STEPS).await.map(|_| ()).expect_err("a later version");
            assert_eq!(error.code(), ErrorCode::UnsupportedFormat);
        }
        Ok(())
    })
}

#[test]
fn an_upgrade_is_one_storage_transaction() -> Result<()> {
    block_on(async {
        let opened = open(MemoryBackend::new(), STEPS).await?;
        // The namespace `default`, and everything else.
        assert_eq!(opened.backend.counters().commits, 2);
        fn fails(_: &mut Upgrade) -> Result<()> {
            Err(KalamError::internal("this step fails"))
        }
        let steps = [STEPS[0], fails];
        let memory = MemoryBackend::new();
        let error = open(memory.reopen(), &steps).await.map(|_| ()).expect_err("the step fails");
        assert!(error.message().contains("this step fails"));
        Ok(())
    })
}

#[test]
fn a_damaged_version_is_an_error() -> Result<()> {
    block_on(async {
        let memory = MemoryBackend::new();
        let mut batch = WriteBatch::new();
        let key = &b"catalog_version"[..];
        batch.put(Partition::Meta, key, record::seal(RecordKind::Entity, key, b"two"));
        memory.commit(batch, Durability::Strict).await?;
        let error = open(memory, STEPS).await.map(|_| ()).expect_err("damage");
        assert_eq!(error.code(), ErrorCode::DataCorrupted);
        Ok(())
    })
}

#[test]
fn every_table_gives_rows_of_its_own_schema() -> Result<()> {
    block_on(async {
        let opened = open(MemoryBackend::new(), STEPS).await?;
        struct One;
        impl LiveQueries for One {
            fn live_queries(&self) -> Vec<LiveQueryRow> {
                let (live_id, connection_id) = ("live-1".to_owned(), "c".to_owned());
                let (user_id, query) = ("ann".to_owned(), "SELECT 1".to_owned());
                vec![LiveQueryRow { live_id, connection_id, user_id, query, created_at_ms: 1, last_seq: 9 }]
            }
        }
        opened.system.set_live_queries(Arc::new(One));
        opened.system.users().put(&"ann".to_owned(), &ann()).await?;
        let job = JobRecord {
            job_id: "j1".into(),
            job_type: "flush".into(),
            target: Some("default.t".into()),
            status: JobStatus::Retrying,
            parameters: Some("{}".into()),
            message: None,
            attempts: 2,
            node_id: opened.system.node_id().to_string(),
            created_at_ms: 1,
            started_at_ms: Some(2),
            finished_at_ms: None,
        };
        opened.system.jobs().put(&job.job_id, &job).await?;
        opened.system.audit("ann", "CREATE TABLE", "default.t").await?;
        for table in SystemTable::SYSTEM.into_iter().chain(SystemTable::STANDARD) {
            let data = opened.table(table).await?;
            assert_eq!(data.definition().table_type, TableType::System);
            let batch = opened.system.batch(&data).await?;
            assert!(Arc::ptr_eq(&batch.schema(), &data.arrow_schema()?), "{table:?}");
            assert!(batch.num_rows() > 0 || table == SystemTable::StandardViews, "{table:?}");
        }
        assert_eq!(opened.column(SystemTable::Jobs, "status").await?, ["retrying"]);
        assert_eq!(opened.column(SystemTable::LiveQueries, "node_id").await?, ["node-1"]);
        assert_eq!(opened.column(SystemTable::AuditLogs, "node_id").await?, ["node-1"]);
        Ok(())
    })
}

#[test]
fn rows_are_kept_until_the_catalog_changes() -> Result<()> {
    block_on(async {
        let opened = open(MemoryBackend::new(), STEPS).await?;
        let first = opened.batch(SystemTable::Tables).await?;
        let again = opened.batch(SystemTable::Tables).await?;
        assert!(Arc::ptr_eq(first.column(0), again.column(0)), "the very same rows");
        let id = TableId::new("default", "t");
        let columns = vec![NewColumn::new("id", KalamDataType::Int)];
        let options = TableOptions::default();
        let new = TableDefinition::new(id, 1, TableType::Shared, columns, &["id".into()], options, 1, "ann")?;
        opened.registry.put(new).await?;
        assert_eq!(opened.batch(SystemTable::Tables).await?.num_rows(), first.num_rows() + 1);

        assert_eq!(opened.batch(SystemTable::Users).await?.num_rows(), 0);
        opened.system.users().put(&"ann".to_owned(), &ann()).await?;
        assert_eq!(opened.batch(SystemTable::Users).await?.num_rows(), 1, "whoever writes it");
        Ok(())
    })
}

#[test]
fn a_kept_plan_reads_the_rows_of_its_execution() -> Result<()> {
    use crate::tables::Request;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::{SessionConfig, SessionContext};

    block_on(async {
        let opened = open(MemoryBackend::new(), STEPS).await?;
        let request = |cancelled: bool| {
            let cancelled = Arc::new(AtomicBool::new(cancelled));
            let request = Request {
                user: "ann".into(),
                role: Role::Dba,
                now_ms: 0,
                snapshot: 0,
                pin: None,
                cancelled,
                deadline: None,
                transaction: None,
            };
            SessionContext::new_with_config(SessionConfig::new().with_extension(Arc::new(request)))
        };
        let provider = opened.registry.provider(&SystemTable::Users.table_id()).await?.expect("it exists");
        let session = request(false);
        let plan = provider.scan(&session.state(), Some(&vec![1, 0]), &[], Some(2)).await.expect("a plan");
        let count = async |session: &SessionContext| {
            let batches = collect(Arc::clone(&plan), session.task_ctx()).await?;
            Ok::<_, datafusion::error::DataFusionError>(batches.iter().map(RecordBatch::num_rows).sum::<usize>())
        };
        for (users, found) in [(0, 0), (1, 1), (3, 2)] {
            for n in 0..users {
                let user = UserRecord { user_id: format!("u{n}"), ..ann() };
                opened.system.users().put(&user.user_id, &user).await?;
            }
            assert_eq!(count(&session).await.expect("rows"), found, "{users} users, at most 2 rows");
        }
        assert_eq!(plan.schema().field(0).name(), "role");
        assert!(count(&request(true)).await.is_err(), "a cancelled request reads nothing");
        Ok(())
    })
}

#[test]
fn a_store_failure_surfaces_as_itself() -> Result<()> {
    block_on(async {
        let opened = open(MemoryBackend::new(), STEPS).await?;
        let tables = [SystemTable::Users, SystemTable::Namespaces, SystemTable::AuditLogs, SystemTable::Tables];
        let mut data = Vec::new();
        for table in tables {
            data.push(opened.table(table).await?);
        }
        opened.registry.clear();
        opened.backend.close().await?;
        for table in &data {
            let error = opened.system.batch(table).await.expect_err("the backend is closed");
            assert_eq!(error.code(), ErrorCode::Closed, "{}", table.table_id());
        }
        let error = opened.registry.table(&SystemTable::Users.table_id()).await.expect_err("not missing");
        assert_eq!(error.code(), ErrorCode::Closed);
        assert_eq!(opened.system.audit("ann", "a", "b").await.expect_err("closed").code(), ErrorCode::Closed);
        Ok(())
    })
}

#[test]
fn ids_of_the_audit_log_grow_whatever_the_clock_does() -> Result<()> {
    block_on(async {
        let first = open(MemoryBackend::new(), STEPS).await?;
        // As another process wrote it, whose clock was ten years ahead.
        let ahead = first.system.store.seqs().take(1).first() + ((10 * 365 * 86_400_000) << 22);
        let entry = AuditRecord {
            audit_id: ahead,
            at_us: 0,
            node_id: "n".into(),
            user_id: "u".into(),
            action: "first".into(),
            target: "t".into(),
        };
        first.system.audit.put(&ahead, &entry).await?;
        let second = open(copy(&first).await?, STEPS).await?;
        second.system.audit("ann", "second", "t").await?;
        second.system.audit("ann", "third", "t").await?;
        assert_eq!(second.column(SystemTable::AuditLogs, "action").await?, ["first", "second", "third"]);
        Ok(())
    })
}

#[test]
fn an_unknown_storage_is_named_with_those_there_are() -> Result<()> {
    block_on(async {
        let opened = open(MemoryBackend::new(), STEPS).await?;
        let error = opened.system.storages().require("moon").await.expect_err("no such storage");
        assert_eq!(error.code(), ErrorCode::InvalidOption);
        assert!(error.hint().is_some_and(|hint| hint.contains("local")), "{error}");
        assert_eq!(
            opened.system.storages().require("local").await?,
            StorageRecord { kind: "memory".into(), ..opened.system.storages().get("local").await?.expect("seeded") }
        );
        Ok(())
    })
}
