//! Transactions of several sessions: the anomalies by their names, commits over several tables, failing storage.
//!
//! The isolation is that of a snapshot (PostgreSQL's REPEATABLE READ): of the known anomalies only write skew is
//! possible. `transactions_model.rs` runs random histories against an oracle.
#![cfg(not(target_arch = "wasm32"))]

mod anomalies;
#[path = "../support/faulty.rs"]
mod faulty;
mod statements;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use faulty::Faulty;
use futures::executor::block_on;
use futures::future::{join, join_all};
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::sql::{ExecuteOptions, Params, Session, StatementResult};
use kalamdb::storage::MemoryBackend;
use kalamdb::types::Value;
use support::{map_cells, values};

struct Db {
    backend: Arc<Faulty>,
    context: Arc<AppContext>,
}

impl Db {
    async fn new() -> Result<Self> {
        let db = Self::open(Faulty::slow(MemoryBackend::new()), Config::default()).await?;
        db.session()
            .run(
                "CREATE TABLE account (id INT PRIMARY KEY, amount BIGINT);
                 CREATE TABLE entry (account INT, amount BIGINT);
                 INSERT INTO account VALUES (1, 100), (2, 100)",
            )
            .await?;
        Ok(db)
    }

    async fn open(backend: Arc<Faulty>, config: Config) -> Result<Self> {
        let context = AppContext::open(Arc::clone(&backend) as _, config).await?;
        Ok(Self { backend, context })
    }

    /// Loses the process and opens what storage holds.
    async fn reopen(&self) -> Result<Self> {
        Self::open(self.backend.crash(), Config::default()).await
    }

    fn session(&self) -> Client {
        Client { context: Arc::clone(&self.context), session: Session::new("default") }
    }
}

struct Client {
    context: Arc<AppContext>,
    session: Session,
}

impl Client {
    async fn all(&self, sql: &str) -> Result<Vec<StatementResult>> {
        let options = ExecuteOptions::default();
        self.context.executor().execute(&self.session, sql, &Params::default(), &options).await
    }

    async fn run(&self, sql: &str) -> Result<StatementResult> {
        Ok(self.all(sql).await?.pop().unwrap_or_default())
    }

    /// Rows as text: cells by spaces, rows by commas.
    async fn rows(&self, sql: &str) -> Result<String> {
        let rows = self.run(sql).await?.rows.expect("a query gives rows");
        let cells = map_cells(values(&rows)?, Value::to_string);
        Ok(cells.iter().map(|cells| cells.join(" ")).collect::<Vec<_>>().join(", "))
    }

    async fn accounts(&self) -> Result<String> {
        self.rows("SELECT id, amount FROM account ORDER BY id").await
    }

    async fn fails(&self, sql: &str) -> ErrorCode {
        match self.run(sql).await {
            Ok(_) => panic!("{sql} did not fail"),
            Err(error) => error.code(),
        }
    }
}

fn check(test: impl Future<Output = Result<()>>) {
    block_on(test).unwrap_or_else(|e: KalamError| panic!("{e}"));
}
