//! The connection to one IndexedDB database: opened once, shared, reopened when it is lost.
//!
//! Invariants:
//! - The version is 1 for ever and the object stores are the partitions, so no open ever waits for another tab.
//! - `versionchange` closes at once, inside the event, so that a deletion elsewhere is never blocked by us.
//! - A connection that was lost is opened again by the next call, but never as a new, empty database: an engine that
//!   has state of the old one in memory must not go on writing to another.
//! - A database that the browser deleted, because it found its storage damaged, is never taken for a new one: the open
//!   that meets it fails and says so.
//! - An open that was begun is never dropped midway: it runs as its own task, because without its upgrade handler
//!   IndexedDB would make a database without object stores.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::{Rc, Weak};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, Shared, select};
use indexed_db_futures::database::Database;
use indexed_db_futures::factory::DBFactory;
use indexed_db_futures::internals::SystemRepr;
use indexed_db_futures::prelude::*;
use js_sys::Reflect;
use wasm_bindgen::prelude::*;

use super::failure::Failure;
use super::fresh_log::{self, FreshLog};
use super::host;
use crate::error::{ErrorCode, KalamError, Result};
use crate::storage::Partition;

/// The version of every database. New tables need no new object store, so it never changes.
const VERSION: u8 = 1;

/// How long an open may take: a healthy one takes milliseconds, one behind a blocked deletion never ends.
const OPEN_TIMEOUT_MS: i32 = 30_000;

/// How often a store that could not be opened is tried again.
const REOPENS: usize = 2;

/// How long a deletion waits for other connections to close.
const BLOCKED_TIMEOUT_MS: i32 = 5_000;

/// The IndexedDB name of a database.
pub(super) fn full_name(name: &str) -> String {
    format!("kalamdb:{name}")
}

type Opening = Shared<LocalBoxFuture<'static, Result<Rc<Connection>>>>;

/// Where the connection stands.
enum State {
    /// None: the next call opens one.
    Lost,
    Opening(Opening),
    Open(Rc<Connection>),
    /// Another context deleted the database or is about to: there is nothing to come back to.
    Gone,
    /// Closed by its owner.
    Closed,
}

/// What an open does if the database is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    /// Makes it.
    Make,
    /// Fails: there is none to read.
    NotFound,
    /// Fails: it was there before, so somebody deleted it.
    Gone,
}

/// The place of the connection, shared by all calls of one backend.
pub(super) struct Slot {
    name: String,
    state: RefCell<State>,
}

impl Slot {
    /// Opens the database.
    pub async fn open(name: &str, if_missing: IfMissing) -> Result<Rc<Self>> {
        let slot = Rc::new(Self { name: name.to_owned(), state: RefCell::new(State::Lost) });
        slot.connect(if_missing).await?;
        Ok(slot)
    }

    /// The open connection, opened again if it was lost.
    pub async fn connection(self: &Rc<Self>) -> Result<Rc<Connection>> {
        self.connect(IfMissing::Gone).await
    }

    async fn connect(self: &Rc<Self>, if_missing: IfMissing) -> Result<Rc<Connection>> {
        let opening = {
            let mut state = self.state.borrow_mut();
            match &*state {
                State::Open(connection) => return Ok(Rc::clone(connection)),
                State::Closed => return Err(self.closed()),
                State::Gone => return Err(self.gone()),
                State::Opening(opening) => opening.clone(),
                State::Lost => {
                    let slot = Rc::clone(self);
                    let opening = async move { slot.reach(if_missing).await }.boxed_local().shared();
                    *state = State::Opening(opening.clone());
                    opening
                }
            }
        };
        opening.await
    }

    /// Opens a connection and puts it into its place, unless the backend was closed meanwhile.
    async fn reach(self: Rc<Self>, if_missing: IfMissing) -> Result<Rc<Connection>> {
        let open = || open_in_own_task(full_name(&self.name), if_missing == IfMissing::Make);
        let opened = tried_again(open, |failure| matches!(failure, OpenFailure::Other(f) if f.connection_lost())).await;
        // The old state is dropped after the borrow: it may hold the last handle of this very future.
        let (result, _old) = match opened {
            Ok(database) => {
                let connection = Rc::new(Connection::new(database, &self));
                let mut state = self.state.borrow_mut();
                if matches!(*state, State::Opening(_)) {
                    let old = std::mem::replace(&mut *state, State::Open(Rc::clone(&connection)));
                    (Ok(connection), Some(old))
                } else {
                    (Err(self.closed()), None)
                }
            }
            Err(OpenFailure::Missing) => {
                let error = if if_missing == IfMissing::NotFound { self.not_found() } else { self.gone() };
                (Err(error), self.leave_opening(State::Gone))
            }
            Err(OpenFailure::Wiped(told)) => (Err(self.wiped(&told)), self.leave_opening(State::Gone)),
            Err(OpenFailure::Other(failure)) => {
                let error = self.open_error(failure).await;
                (Err(error), self.leave_opening(State::Lost))
            }
        };
        result
    }

    fn leave_opening(&self, next: State) -> Option<State> {
        let mut state = self.state.borrow_mut();
        matches!(*state, State::Opening(_)).then(|| std::mem::replace(&mut *state, next))
    }

    async fn open_error(&self, failure: Failure) -> KalamError {
        if failure.version_too_high() {
            return KalamError::new(
                ErrorCode::UnsupportedFormat,
                format!("the IndexedDB database of '{}' has a version above {VERSION}", self.name),
            )
            .with_hint("It was written by a later version of KalamDB, or by another program.");
        }
        failure.into_error(&format!("cannot open database '{}'", self.name)).await
    }

    /// Runs after a failure on `connection`: if that one is of no more use, the next call opens another.
    pub fn after_failure(&self, connection: &Rc<Connection>, failure: &Failure) {
        if failure.connection_lost() {
            self.lose(connection);
        }
    }

    fn lose(&self, connection: &Rc<Connection>) {
        let mut state = self.state.borrow_mut();
        let current = matches!(&*state, State::Open(open) if Rc::ptr_eq(open, connection));
        let old = current.then(|| std::mem::replace(&mut *state, State::Lost));
        drop(state);
        drop(old);
    }

    /// Puts an end to the connection. Transactions that run are finished by the browser.
    fn end(&self, last: State) {
        let old = match &mut *self.state.borrow_mut() {
            State::Closed => return,
            state => std::mem::replace(state, last),
        };
        if let State::Open(connection) = &old {
            connection.database.as_sys().close();
        }
    }

    /// Whether a connection is open, and nobody has said that it is lost.
    pub fn is_open(&self) -> bool {
        matches!(*self.state.borrow(), State::Open(_))
    }

    /// Closes for good, at the owner's wish.
    pub fn close(&self) {
        self.end(State::Closed);
    }

    fn closed(&self) -> KalamError {
        KalamError::new(ErrorCode::Closed, format!("the database '{}' is closed", self.name))
    }

    fn wiped(&self, told: &str) -> KalamError {
        KalamError::new(
            ErrorCode::DataCorrupted,
            format!(
                "the browser found its storage damaged and deleted every database of this origin, '{}' with them if \
                 it was there ({told})",
                self.name
            ),
        )
        .with_hint("Restore a backup, or load the data again: the next connection starts with an empty database.")
    }

    fn not_found(&self) -> KalamError {
        KalamError::new(
            ErrorCode::DatabaseNotFound,
            format!("the database '{}' does not exist in the IndexedDB of this origin", self.name),
        )
        .with_hint("indexedDB.databases() lists those that do, as 'kalamdb:' and the name.")
    }

    fn gone(&self) -> KalamError {
        KalamError::new(
            ErrorCode::StorageClosed,
            format!("the database '{}' was deleted by another tab or context while it was open", self.name),
        )
        .with_hint("Open the database again: it starts empty.")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.close();
    }
}

/// An open IndexedDB connection with its handlers. Dropping it closes it.
pub(super) struct Connection {
    pub database: Database,
    /// To be waited for before the first write.
    pub fresh_log: FreshLog,
    _on_close: Closure<dyn FnMut()>,
    _on_version_change: Closure<dyn FnMut()>,
}

impl Connection {
    fn new(database: Database, slot: &Rc<Slot>) -> Self {
        let weak = Rc::downgrade(slot);
        let raw: web_sys::IdbDatabase = (**database.as_sys()).clone();
        let on_version_change = {
            let (weak, raw) = (Weak::clone(&weak), raw.clone());
            Closure::<dyn FnMut()>::new(move || {
                raw.close();
                if let Some(slot) = weak.upgrade() {
                    slot.end(State::Gone);
                }
            })
        };
        // The browser closed it: the process that holds the store died, or the user cleared the site's data.
        let on_close = {
            let raw = raw.clone();
            Closure::<dyn FnMut()>::new(move || {
                if let Some(slot) = weak.upgrade() {
                    let state = slot.state.borrow();
                    let lost = match &*state {
                        State::Open(open) if ***open.database.as_sys() == *raw => Some(Rc::clone(open)),
                        _ => None,
                    };
                    drop(state);
                    if let Some(connection) = lost {
                        slot.lose(&connection);
                    }
                }
            })
        };
        raw.set_onversionchange(Some(on_version_change.as_ref().unchecked_ref()));
        raw.set_onclose(Some(on_close.as_ref().unchecked_ref()));
        Self { database, fresh_log: fresh_log::begin(), _on_close: on_close, _on_version_change: on_version_change }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let raw = self.database.as_sys();
        raw.set_onversionchange(None);
        raw.set_onclose(None);
        raw.close();
    }
}

enum OpenFailure {
    /// The database is not there, and it was not to be made.
    Missing,
    /// The browser deleted all databases because of damage it found; what it said.
    Wiped(String),
    Other(Failure),
}

impl<F: Into<Failure>> From<F> for OpenFailure {
    fn from(failure: F) -> Self {
        OpenFailure::Other(failure.into())
    }
}

/// Makes a call again while the store is lost: after a failure of its own Chromium opens it anew for the next call.
async fn tried_again<T, E>(call: impl AsyncFn() -> Result<T, E>, is_lost: impl Fn(&E) -> bool) -> Result<T, E> {
    for _ in 0..REOPENS {
        match call().await {
            Err(error) if is_lost(&error) => {}
            outcome => return outcome,
        }
    }
    call().await
}

/// Opens in a task of its own and gives up waiting after a while. What arrives later is closed.
async fn open_in_own_task(full_name: String, create: bool) -> Result<Database, OpenFailure> {
    let (sender, receiver) = oneshot::channel();
    let name = full_name.clone();
    wasm_bindgen_futures::spawn_local(async move {
        if let Err(Ok(late)) = sender.send(open_database(&name, create).await) {
            late.close();
        }
    });
    match select(receiver, pin!(host::sleep(OPEN_TIMEOUT_MS))).await {
        Either::Left((Ok(result), _)) => result,
        Either::Left((Err(oneshot::Canceled), _)) => {
            Err(KalamError::internal("the task that opens IndexedDB ended without a result").into())
        }
        Either::Right(_) => Err(KalamError::new(
            ErrorCode::DatabaseLocked,
            format!("IndexedDB did not open '{full_name}' within {} seconds", OPEN_TIMEOUT_MS / 1000),
        )
        .with_hint("Another tab may hold it open while it is being deleted. Close the other tabs.")
        .into()),
    }
}

async fn open_database(full_name: &str, create: bool) -> Result<Database, OpenFailure> {
    let missing = Rc::new(Cell::new(false));
    let open_request: Rc<RefCell<Option<web_sys::IdbOpenDbRequest>>> = Rc::default();
    let request = {
        let (missing, open_request) = (Rc::clone(&missing), Rc::clone(&open_request));
        Database::open(full_name)
            .with_version(VERSION)
            .with_on_upgrade_needed(move |_event, database: Database| {
                if create {
                    for partition in Partition::ALL {
                        database.create_object_store(partition.name()).build()?;
                    }
                } else {
                    missing.set(true);
                    // Without its upgrade the new database vanishes again.
                    if let Some(transaction) = open_request.borrow().as_ref().and_then(|r| r.transaction()) {
                        transaction.abort()?;
                    }
                }
                Ok(())
            })
            .build()?
    };
    let raw: web_sys::IdbOpenDbRequest = request.as_sys().clone();
    open_request.replace(Some(raw.clone()));
    let loss = LossListener::new(raw);
    let opened = request.await;
    if let Some(told) = loss.told() {
        if let Ok(database) = opened {
            database.close();
        }
        return Err(OpenFailure::Wiped(told));
    }
    if missing.get() {
        if let Ok(database) = opened {
            database.close();
        }
        return Err(OpenFailure::Missing);
    }
    let database = opened?;
    let stores: Vec<String> = database.object_store_names().collect();
    if let Some(partition) = Partition::ALL.iter().find(|p| !stores.iter().any(|s| s == p.name())) {
        database.close();
        return Err(KalamError::new(
            ErrorCode::DataCorrupted,
            format!("the IndexedDB database '{full_name}' has no object store '{}'", partition.name()),
        )
        .with_hint("Another program made a database of this name. Choose another name, or delete it.")
        .into());
    }
    Ok(database)
}

/// Hears whether a database is new because the browser deleted all there were, and then lets none be made.
///
/// `dataLoss` and `dataLossMessage` of the `upgradeneeded` event are Chromium's, and said to the first open only.
struct LossListener {
    request: web_sys::IdbOpenDbRequest,
    told: Rc<RefCell<Option<String>>>,
    listener: Closure<dyn FnMut(web_sys::IdbVersionChangeEvent)>,
}

impl LossListener {
    fn new(request: web_sys::IdbOpenDbRequest) -> Self {
        let told = Rc::<RefCell<Option<String>>>::default();
        let listener = {
            let (request, told) = (request.clone(), Rc::clone(&told));
            Closure::new(move |event: web_sys::IdbVersionChangeEvent| {
                let text = |name: &str| Reflect::get(&event, &name.into()).ok().and_then(|value| value.as_string());
                if text("dataLoss").is_some_and(|loss| loss != "none") {
                    told.replace(Some(text("dataLossMessage").unwrap_or_default()));
                    if let Some(transaction) = request.transaction() {
                        let _ = transaction.abort();
                    }
                }
            })
        };
        let _ = request.add_event_listener_with_callback("upgradeneeded", listener.as_ref().unchecked_ref());
        Self { request, told, listener }
    }

    fn told(&self) -> Option<String> {
        self.told.borrow().clone()
    }
}

impl Drop for LossListener {
    fn drop(&mut self) {
        let listener = self.listener.as_ref().unchecked_ref();
        let _ = self.request.remove_event_listener_with_callback("upgradeneeded", listener);
    }
}

/// Deletes a database with everything in it, if it is there.
pub(super) async fn delete(name: &str) -> Result<()> {
    let doing = format!("cannot delete database '{name}'");
    let request = match DBFactory::new().map_err(Failure::from).and_then(|f| Ok(f.delete_db(&full_name(name))?)) {
        Ok(request) => request,
        Err(failure) => return Err(failure.into_error(&doing).await),
    };
    let raw: web_sys::IdbOpenDbRequest = request.as_sys().clone().unchecked_into();
    let (sender, blocked) = oneshot::channel::<()>();
    let mut sender = Some(sender);
    let on_blocked = Closure::<dyn FnMut()>::new(move || {
        if let Some(sender) = sender.take() {
            let _ = sender.send(());
        }
    });
    raw.set_onblocked(Some(on_blocked.as_ref().unchecked_ref()));
    // Time counts only from the moment the browser says that others hold it: deleting much data may take long.
    let give_up = pin!(async move {
        if blocked.await.is_err() {
            futures::future::pending::<()>().await;
        }
        host::sleep(BLOCKED_TIMEOUT_MS).await;
    });
    let outcome = match select(request, give_up).await {
        Either::Left((result, _)) => Some(result),
        Either::Right(_) => None,
    };
    raw.set_onblocked(None);
    match outcome {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(Failure::from(error).into_error(&doing).await),
        None => Err(KalamError::new(
            ErrorCode::DatabaseLocked,
            format!(
                "{doing}: other tabs or workers have it open and did not close it within {} seconds",
                BLOCKED_TIMEOUT_MS / 1000
            ),
        )
        .with_hint("Close them. The browser deletes the database when the last of them is gone.")),
    }
}

/// Whether a database of this name is there.
pub(super) async fn exists(name: &str) -> Result<bool> {
    let full_name = full_name(name);
    let listed = async || {
        let databases = DBFactory::new()?.databases()?.await?;
        for details in databases {
            if details?.name() == full_name {
                return Ok(true);
            }
        }
        Ok::<bool, Failure>(false)
    };
    match tried_again(listed, Failure::connection_lost).await {
        Ok(found) => Ok(found),
        Err(failure) => Err(failure.into_error("cannot list the databases of this origin").await),
    }
}
