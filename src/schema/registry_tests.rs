use super::super::definition::NewColumn;
use super::super::options::TableOptions;
use super::*;
use crate::storage::{KeyRange, KeyValue, MemoryBackend, ScanOptions, StorageStats};
use crate::types::KalamDataType;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::datasource::empty::EmptyTable;
use futures::executor::block_on;
use futures::future::join;
use std::sync::atomic::AtomicBool;

/// A memory backend whose every call takes a turn of the executor and can be made to fail.
#[derive(Debug, Default)]
struct Slow {
    inner: MemoryBackend,
    failing: AtomicBool,
}

impl Slow {
    async fn turn(&self) -> Result<()> {
        let mut waited = false;
        futures::future::poll_fn(|cx| {
            if waited {
                return std::task::Poll::Ready(());
            }
            waited = true;
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
        match self.failing.load(Ordering::Relaxed) {
            true => Err(KalamError::new(ErrorCode::StorageError, "the disk is on fire")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl StorageBackend for Slow {
    fn kind(&self) -> &'static str {
        "slow"
    }
    async fn get(&self, partition: Partition, key: &[u8]) -> Result<Option<Bytes>> {
        let read = self.inner.get(partition, key).await;
        self.turn().await?;
        read
    }
    async fn scan(&self, partition: Partition, range: &KeyRange, options: ScanOptions) -> Result<Vec<KeyValue>> {
        let read = self.inner.scan(partition, range, options).await;
        self.turn().await?;
        read
    }
    async fn commit(&self, batch: WriteBatch, durability: Durability) -> Result<Durability> {
        self.turn().await?;
        let done = self.inner.commit(batch, durability).await;
        self.turn().await?;
        done
    }
    async fn stats(&self) -> Result<StorageStats> {
        self.inner.stats().await
    }
    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

struct Factory;

impl ProviderFactory for Factory {
    fn provider(&self, table: &Arc<CachedTableData>) -> Result<Arc<dyn TableProvider>> {
        Ok(Arc::new(EmptyTable::new(table.arrow_schema()?)))
    }
}

fn id(name: &str) -> TableId {
    TableId::new("default", name)
}

fn definition(name: &str, table_no: u32) -> TableDefinition {
    let columns = vec![NewColumn::new("id", KalamDataType::BigInt), NewColumn::new("name", KalamDataType::Text)];
    let key = ["id".to_owned()];
    TableDefinition::new(id(name), table_no, TableType::Shared, columns, &key, TableOptions::default(), 1, "ann")
        .unwrap()
}

async fn open(backend: &Arc<Slow>) -> SchemaRegistry {
    let registry = SchemaRegistry::new(Arc::clone(backend) as Arc<dyn StorageBackend>);
    registry.set_provider_factory(Arc::new(Factory));
    registry.ensure_defaults().await.unwrap();
    registry
}

async fn create(registry: &SchemaRegistry, name: &str) -> Arc<CachedTableData> {
    let number = registry.next_table_no().await.unwrap();
    registry.put(definition(name, number)).await.unwrap()
}

fn with_extra(table: &CachedTableData, name: &str) -> TableDefinition {
    table.definition().add_column(NewColumn::new(name, KalamDataType::Int), None, 2, "bob").unwrap()
}

/// Runs a test on a fresh registry.
fn on_registry<F: Future<Output = ()>>(test: impl FnOnce(Arc<Slow>, Arc<SchemaRegistry>) -> F) {
    block_on(async {
        let backend = Arc::new(Slow::default());
        let registry = Arc::new(open(&backend).await);
        test(backend, registry).await;
    });
}

#[test]
fn one_arc_for_all_calls_until_the_table_changes() {
    on_registry(|_, registry| async move {
        create(&registry, "a").await;
        create(&registry, "b").await;
        let first = registry.table(&id("a")).await.unwrap().unwrap();
        let schema = first.arrow_schema().unwrap();
        let codec = first.key_codec().unwrap();
        let provider = registry.provider(&id("a")).await.unwrap().unwrap();
        for n in 0..1000 {
            let again = registry.table(&id("a")).await.unwrap().unwrap();
            assert!(Arc::ptr_eq(&again, &first));
            assert!(Arc::ptr_eq(&again.arrow_schema().unwrap(), &schema));
            assert!(Arc::ptr_eq(&again.key_codec().unwrap(), &codec));
            assert!(Arc::ptr_eq(&registry.provider(&id("a")).await.unwrap().unwrap(), &provider));
            if n % 100 == 0 {
                let other = registry.table(&id("b")).await.unwrap().unwrap();
                registry.put(with_extra(&other, &format!("x{n}"))).await.unwrap();
            }
        }
        let version = registry.catalog_version();
        let changed = registry.put(with_extra(&first, "x")).await.unwrap();
        assert!(registry.catalog_version() > version);
        assert_eq!(changed.schema_version(), 2);
        let again = registry.table(&id("a")).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&again, &changed) && !Arc::ptr_eq(&again, &first));
        assert_eq!(again.arrow_schema().unwrap().fields().len(), 3);
        assert!(!Arc::ptr_eq(&registry.provider(&id("a")).await.unwrap().unwrap(), &provider));

        // All three go together.
        let provider = registry.provider(&id("a")).await.unwrap().unwrap();
        registry.invalidate(&id("a"));
        assert!(registry.cached(&id("a")).is_none());
        assert!(!Arc::ptr_eq(&registry.provider(&id("a")).await.unwrap().unwrap(), &provider));
        registry.clear();
        assert_eq!(registry.statistics().size, 0);
    });
}

#[test]
fn definitions_survive_reopening_and_reads_fill_the_cache() {
    on_registry(|backend, registry| async move {
        let made = create(&registry, "a").await;
        let changed = registry.put(with_extra(&made, "x")).await.unwrap();
        let reopened = open(&backend).await;
        assert!(reopened.cached(&id("a")).is_none(), "opening reads nothing");
        let read = reopened.table(&id("a")).await.unwrap().unwrap();
        assert_eq!(read.definition(), changed.definition());
        assert!(reopened.cached(&id("a")).is_some());
        assert_eq!(
            reopened.namespaces().await.unwrap().iter().map(|n| n.name.as_str()).collect::<Vec<_>>(),
            ["default"]
        );
    });
}

#[test]
fn a_stable_workload_hits() {
    on_registry(|backend, registry| async move {
        for n in 0..20 {
            create(&registry, &format!("t{n}")).await;
        }
        let registry = open(&backend).await;
        for n in 0..10_000 {
            assert!(registry.table(&id(&format!("t{}", n % 20))).await.unwrap().is_some());
        }
        let statistics = registry.statistics();
        assert_eq!((statistics.misses, statistics.hits, statistics.size), (20, 9_980, 20));
    });
}

#[test]
fn a_store_failure_is_an_error_and_never_no_such_table() {
    on_registry(|backend, registry| async move {
        let made = create(&registry, "a").await;
        registry.clear();
        backend.failing.store(true, Ordering::Relaxed);
        let failed = |code: ErrorCode| assert_eq!(code, ErrorCode::StorageError);
        failed(registry.table(&id("a")).await.expect_err("table").code());
        failed(registry.table(&id("missing")).await.expect_err("missing").code());
        failed(registry.provider(&id("a")).await.map(|p| p.is_some()).expect_err("provider").code());
        failed(registry.tables(None).await.expect_err("tables").code());
        failed(registry.put(with_extra(&made, "x")).await.expect_err("put").code());
        failed(registry.delete_with(&id("a"), WriteBatch::new()).await.expect_err("delete").code());
        failed(registry.namespaces().await.expect_err("namespaces").code());
        failed(registry.namespace("default").await.expect_err("namespace").code());
        assert!(registry.cached(&id("a")).is_none(), "nothing was cached by a failure");
        backend.failing.store(false, Ordering::Relaxed);
        assert_eq!(registry.table(&id("a")).await.unwrap().unwrap().schema_version(), 1);
    });
}

#[test]
fn of_two_creations_or_changes_at_once_one_wins() {
    on_registry(|_, registry| async move {
        let (a, b) = join(registry.put(definition("a", 1)), registry.put(definition("a", 2))).await;
        assert!(a.is_ok());
        assert_eq!(b.expect_err("second").code(), ErrorCode::TableExists);
        let made = registry.table(&id("a")).await.unwrap().unwrap();
        assert_eq!(made.definition().table_no, 1);
        let (a, b) = join(registry.put(with_extra(&made, "x")), registry.put(with_extra(&made, "y"))).await;
        assert!(a.is_ok());
        assert_eq!(b.expect_err("second").code(), ErrorCode::Conflict);
        let (a, b) = join(
            registry.create_namespace(NamespaceDefinition::new("n", 1, "").unwrap()),
            registry.create_namespace(NamespaceDefinition::new("n", 1, "").unwrap()),
        )
        .await;
        assert!(a.is_ok());
        assert_eq!(b.expect_err("second").code(), ErrorCode::NamespaceExists);
    });
}

#[test]
fn a_read_that_a_change_overtakes_does_not_cache_the_old_state() {
    on_registry(|_, registry| async move {
        let made = create(&registry, "a").await;
        registry.clear();
        let (read, changed) = join(registry.table(&id("a")), registry.put(with_extra(&made, "x"))).await;
        assert!(read.unwrap().is_some());
        let now = registry.table(&id("a")).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&now, &changed.unwrap()));
        assert_eq!(now.schema_version(), 2);

        registry.clear();
        let a = id("a");
        let reads = join(registry.table(&a), registry.tables(None));
        let (_, deleted) = join(reads, registry.delete_with(&a, WriteBatch::new())).await;
        assert!(deleted.unwrap());
        assert!(registry.table(&id("a")).await.unwrap().is_none());
        assert!(registry.tables(None).await.unwrap().is_empty());
    });
}

#[test]
fn numbers_are_never_given_again() {
    on_registry(|backend, registry| async move {
        let first = create(&registry, "a").await.definition().table_no;
        let second = create(&registry, "b").await.definition().table_no;
        assert_eq!((first, second), (1, 2));
        assert!(registry.delete_with(&id("b"), WriteBatch::new()).await.unwrap());
        assert!(!registry.delete_with(&id("b"), WriteBatch::new()).await.unwrap());
        let registry = open(&backend).await;
        assert_eq!(registry.next_table_no().await.unwrap(), 3, "also after DROP and reopening");
        assert_eq!(registry.next_table_no().await.unwrap(), 4);
    });
}

#[test]
fn further_changes_go_with_the_definition_or_not_at_all() {
    on_registry(|backend, registry| async move {
        let batch = |value: &'static str| {
            let mut batch = WriteBatch::new();
            batch.put(Partition::Log, *b"k", value.as_bytes());
            batch
        };
        let log = || async { backend.inner.get(Partition::Log, b"k").await.unwrap() };
        let made = registry.put_with(definition("a", 1), batch("created")).await.unwrap();
        assert_eq!(log().await.as_deref(), Some(&b"created"[..]));
        assert!(registry.put_with(definition("a", 2), batch("refused")).await.is_err());
        assert!(!registry.delete_with(&id("missing"), batch("refused")).await.unwrap());
        assert_eq!(log().await.as_deref(), Some(&b"created"[..]));

        let renamed = made.definition().rename_table(id("b"), 2, "").unwrap();
        registry.rename_with(&id("a"), renamed, batch("renamed")).await.unwrap();
        assert!(registry.table(&id("a")).await.unwrap().is_none());
        assert_eq!(registry.table(&id("b")).await.unwrap().unwrap().definition().table_no, 1);
        assert_eq!(log().await.as_deref(), Some(&b"renamed"[..]));
        let other = create(&registry, "c").await;
        let taken = other.definition().rename_table(id("b"), 2, "").unwrap();
        assert_eq!(
            registry.rename_with(&id("c"), taken, WriteBatch::new()).await.expect_err("taken").code(),
            ErrorCode::TableExists
        );
    });
}

#[test]
fn namespaces_hold_tables_and_some_are_reserved() {
    on_registry(|_, registry| async move {
        registry.create_namespace(NamespaceDefinition::new("shop", 1, "ann").unwrap()).await.unwrap();
        let in_namespace =
            |namespace: &str| TableDefinition { table_id: TableId::new(namespace, "t"), ..definition("t", 9) };
        registry.put(in_namespace("shop")).await.unwrap();
        assert_eq!(
            registry.put(in_namespace("nowhere")).await.expect_err("missing").code(),
            ErrorCode::NamespaceNotFound
        );
        assert_eq!(
            registry.put(in_namespace("system")).await.expect_err("reserved").code(),
            ErrorCode::PermissionDenied
        );
        assert_eq!(registry.drop_namespace("shop").await.expect_err("full").code(), ErrorCode::NamespaceNotEmpty);
        assert_eq!(registry.drop_namespace("default").await.expect_err("default").code(), ErrorCode::PermissionDenied);
        assert_eq!(registry.drop_namespace("nowhere").await.expect_err("missing").code(), ErrorCode::NamespaceNotFound);
        create(&registry, "z").await;
        create(&registry, "a").await;
        let names =
            |tables: Vec<Arc<CachedTableData>>| tables.iter().map(|t| t.table_id().to_string()).collect::<Vec<_>>();
        for _ in 0..2 {
            assert_eq!(names(registry.tables(None).await.unwrap()), ["default.a", "default.z", "shop.t"]);
            assert_eq!(names(registry.tables(Some("default")).await.unwrap()), ["default.a", "default.z"]);
        }
        registry.delete_with(&TableId::new("shop", "t"), WriteBatch::new()).await.unwrap();
        registry.drop_namespace("shop").await.unwrap();
        assert!(registry.namespace("shop").await.unwrap().is_none());
    });
}

#[test]
fn a_thousand_tables_and_sixty_versions() {
    on_registry(|backend, registry| async move {
        for n in 0..1000 {
            create(&registry, &format!("t{n:04}")).await;
        }
        let mut table = registry.table(&id("t0500")).await.unwrap().unwrap();
        for n in 0..59 {
            table = registry.put(with_extra(&table, &format!("x{n}"))).await.unwrap();
        }
        let registry = open(&backend).await;
        let tables = registry.tables(None).await.unwrap();
        assert_eq!(tables.len(), 1000);
        for table in &tables {
            table.arrow_schema().unwrap();
        }
        assert_eq!(tables[500].schema_version(), 60);
        assert_eq!(tables[500].definition().columns_at(1).unwrap().len(), 2);
        let statistics = registry.statistics();
        assert_eq!(statistics.size, 1000);
        assert!(statistics.bytes < 2 << 20, "{} bytes for 1000 tables", statistics.bytes);
        // The listing is complete, so a table that is missing needs no look into storage.
        backend.failing.store(true, Ordering::Relaxed);
        assert!(registry.table(&id("missing")).await.unwrap().is_none());
    });
}

#[test]
fn its_futures_can_be_awaited_by_providers() {
    fn is_send<T: Send>(_: T) {}
    let registry = SchemaRegistry::new(Arc::new(MemoryBackend::new()));
    let a = id("a");
    is_send(registry.table(&a));
    is_send(registry.provider(&a));
    is_send(registry.tables(None));
    is_send(registry.put(definition("a", 1)));
    is_send(registry.delete_with(&a, WriteBatch::new()));
    is_send(registry.create_namespace(NamespaceDefinition::new("n", 1, "").unwrap()));
}
