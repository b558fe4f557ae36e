//! The system tables as a session sees them.
#![cfg(not(target_arch = "wasm32"))]

use std::sync::Arc;

use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, Result};
use kalamdb::schema::TableId;
use kalamdb::sql::Session;
use kalamdb::storage::MemoryBackend;
use kalamdb::tables::SystemTablesRegistry;

mod support;

use support::{last_values, map_cells, open_copy as open, sql_as, text};

/// The rows of the last statement, as text.
async fn rows(context: &AppContext, session: &Session, sql: &str) -> Result<Vec<Vec<String>>> {
    Ok(map_cells(last_values(&sql_as(context, session, sql).await?)?, text))
}

async fn statistic(context: &AppContext, name: &str) -> Result<f64> {
    let sql = format!("SELECT value FROM system.stats WHERE name = '{name}'");
    Ok(rows(context, context.session(), &sql).await?[0][0].parse().expect("a number"))
}

#[test]
fn the_hit_rate_of_a_stable_workload_is_above_99_percent() -> Result<()> {
    block_on(async {
        let context = open(&MemoryBackend::new()).await?;
        let session = context.session();
        for n in 0..5 {
            rows(&context, session, &format!("CREATE TABLE t{n} (id INT PRIMARY KEY, name TEXT)")).await?;
        }
        for n in 0..300 {
            let t = n % 5;
            rows(&context, session, &format!("INSERT INTO t{t} VALUES ({n}, 'x')")).await?;
            rows(&context, session, &format!("SELECT * FROM t{t} WHERE id = {n}")).await?;
        }
        let (hits, misses) =
            (statistic(&context, "registry_hits").await?, statistic(&context, "registry_misses").await?);
        assert!(hits / (hits + misses) > 0.99, "{hits} hits, {misses} misses");
        assert!(hits > 600.0);
        assert_eq!(statistic(&context, "commits").await?, 300.0);
        assert_eq!(statistic(&context, "hot_rows").await?, 300.0);
        assert_eq!(statistic(&context, "log_records_written").await?, 300.0);
        assert!(statistic(&context, "storage_calls").await? >= 300.0);
        rows(&context, session, "SELECT name, count(*) FROM t1 GROUP BY name ORDER BY name").await?;
        assert!(statistic(&context, "query_memory_peak_bytes").await? > 0.0);
        Ok(())
    })
}

#[test]
fn one_provider_for_all_sessions_and_after_other_tables_change() -> Result<()> {
    block_on(async {
        let context = open(&MemoryBackend::new()).await?;
        let id = TableId::new("system", "users");
        let registry = context.registry();
        let schema = registry.table(&id).await?.expect("it exists").arrow_schema()?;
        let provider = registry.provider(&id).await?.expect("it exists");
        for n in 0..1000 {
            let session = Session::new(format!("user-{}", n % 7));
            if n % 100 == 0 {
                rows(&context, &session, &format!("CREATE TABLE t{n} (id INT PRIMARY KEY)")).await?;
                rows(&context, &session, "SELECT count(*) FROM system.users").await?;
            }
            let again = registry.table(&id).await?.expect("it exists").arrow_schema()?;
            assert!(Arc::ptr_eq(&again, &schema));
            assert!(Arc::ptr_eq(&registry.provider(&id).await?.expect("it exists"), &provider));
        }
        Ok(())
    })
}

#[test]
fn the_node_id_is_the_same_everywhere_and_the_log_survives() -> Result<()> {
    block_on(async {
        let backend = Arc::new(MemoryBackend::new());
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        let ann = Session::new("ann");
        rows(&context, &ann, "CREATE NAMESPACE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)").await?;
        let node = context.node_id().as_str().to_owned();
        let log = "SELECT node_id, user_id, action, target FROM system.audit_logs ORDER BY audit_id";
        let expected = [[&node, "ann", "CREATE NAMESPACE", "shop"], [&node, "ann", "CREATE TABLE", "shop.t"]];
        assert_eq!(rows(&context, &ann, log).await?, expected);
        assert_eq!(context.executor().node_id().as_ref(), node);
        context.close().await?;
        let again = open(&backend).await?;
        assert_eq!(rows(&again, &ann, log).await?, expected);
        assert_eq!(
            SystemTablesRegistry::stored_version(again.backend().as_ref()).await?,
            SystemTablesRegistry::CATALOG_VERSION
        );
        Ok(())
    })
}

#[test]
fn a_failed_statement_leaves_no_entry() -> Result<()> {
    block_on(async {
        let context = open(&MemoryBackend::new()).await?;
        let session = context.session();
        for (sql, code) in [
            ("CREATE TABLE t (id INT PRIMARY KEY) AS SELECT * FROM (VALUES (1), (1)) v", ErrorCode::UniqueViolation),
            ("CREATE NAMESPACE system", ErrorCode::InvalidName),
            ("CREATE TABLE system.mine (id INT)", ErrorCode::InvalidName),
            ("CREATE TABLE information_schema.mine (id INT)", ErrorCode::InvalidName),
            ("CREATE TABLE t (id INT) WITH (STORAGE_ID = 'moon')", ErrorCode::InvalidOption),
            ("DROP TABLE system.users", ErrorCode::WrongObjectType),
            ("DROP NAMESPACE system", ErrorCode::PermissionDenied),
        ] {
            let error = rows(&context, session, sql).await.expect_err(sql);
            assert_eq!(error.code(), code, "{sql}: {error}");
        }
        assert!(rows(&context, session, "SELECT * FROM system.audit_logs").await?.is_empty());
        Ok(())
    })
}
