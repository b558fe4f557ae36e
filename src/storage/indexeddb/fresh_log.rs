//! Keeps what a crash of the browser left half written from costing the origin all its databases.
//!
//! Chromium keeps IndexedDB in LevelDB and reuses its write-ahead log over restarts. A browser that is killed in the
//! middle of a write leaves a torn record at the log's end. The next start passes over it and appends behind it; the
//! start after that takes the same bytes for damage in the middle of the log, and Chromium then deletes every database
//! of the origin. Deleting a database makes LevelDB begin a new log and drop the old one, torn end and all.
//!
//! Invariant: no record is written through a connection before the log of its time is a new one, as far as the host does
//! what it is asked for. So a torn end is followed by what opening and deleting an empty database writes, for a few
//! milliseconds, and not by rows. `tests/browser/torn-log.test.mjs` tears the log and finds every row.

use std::pin::pin;

use futures::future::{LocalBoxFuture, Shared};
use futures::{FutureExt, future};
use indexed_db_futures::database::Database;
use indexed_db_futures::factory::DBFactory;
use indexed_db_futures::prelude::*;

use super::failure::Failure;
use super::host;

/// The empty database whose deletion renews the log. It is made again afterwards, so that the next time nothing has to
/// be written before it can be deleted. One for the origin, as there is one log for the origin.
const NAME: &str = "kalamdb.fresh-log";

/// How long nothing is written after the deletion. Chromium drops the log in a thread of its own, and LevelDB forgets to
/// begin a new one if another write comes in between: without a pause in 11 of 600 rounds, with 5 ms in none of 1500.
const PAUSE_MS: i32 = 20;

/// How long the first write waits for it: it takes milliseconds, and a browser that hangs must not hang us here.
const TIMEOUT_MS: i32 = 5_000;

/// Ends when the log is a new one, or when that turned out not to be possible.
pub(super) type FreshLog = Shared<LocalBoxFuture<'static, ()>>;

/// Begins to renew the log, in a task of its own.
///
/// It cannot fail: a host that refuses (no room, a storage that keeps no log) is no worse off than before, and what
/// matters to the caller fails in the call that he makes.
pub(super) fn begin() -> FreshLog {
    let renewed = async {
        let work = pin!(renew());
        let limit = pin!(host::sleep(TIMEOUT_MS));
        future::select(work, limit).await;
    };
    let shared = renewed.boxed_local().shared();
    wasm_bindgen_futures::spawn_local(shared.clone());
    shared
}

async fn renew() -> Result<(), Failure> {
    touch().await?;
    DBFactory::new()?.delete_db(NAME)?.await?;
    host::sleep(PAUSE_MS).await;
    touch().await
}

/// Opens the database, which makes it if it is not there, and closes it.
async fn touch() -> Result<(), Failure> {
    Database::open(NAME).build()?.await?.close();
    Ok(())
}
