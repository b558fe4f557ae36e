//! The wasm-bindgen surface, nothing else: JavaScript values in, JavaScript values out.
//!
//! Invariant: nothing here decides anything about data. Every failure leaves as one plain object with the fields of
//! [`KalamError`]; buffers that leave are copies of their own, so that they can be transferred; and no call holds a
//! borrow of the engine across an await, so calls may overlap in any order.

mod cursor;
mod idle;
mod results;
mod transactions;
mod values;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use js_sys::{Array, Function, Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use web_time::{Duration, Instant};

use crate::context::{AppContext, Config, VERSION};
use crate::error::{ErrorCode, KalamError, Result};
use crate::ingest::{CsvOptions, Format, open as open_file};
use crate::platform::tasks;
use crate::schema::Role;
use crate::sql::{
    ExecuteOptions, ImportOptions, ImportProgress, Importer as SqlImporter, Params, Session, describe_table,
    insert_columns, packed,
};
use crate::storage::host::HostBackend;
use crate::storage::{Backup, Durability, MemoryBackend, Restore, StorageBackend};
use crate::storage::{indexeddb, opfs};
use idle::{Idle, Request};
use results::{Shapes, column_info, exec_result, point_result, run_result};
use values::{optional_bool, optional_number, optional_string, set, to_js_error};

/// The engine's version.
#[wasm_bindgen]
pub fn version() -> String {
    VERSION.to_owned()
}

/// Deletes an IndexedDB database.
#[wasm_bindgen(js_name = deleteDatabase)]
pub fn delete_database(name: String) -> Promise {
    promise(async move {
        indexeddb::delete_database(&name).await?;
        opfs::remove(&name).await;
        Ok(JsValue::UNDEFINED)
    })
}

fn promise(future: impl Future<Output = Result<JsValue>> + 'static) -> Promise {
    future_to_promise(async move { future.await.map_err(|e| to_js_error(&e)) })
}

/// The value of a future that has it at once. Else nothing, and `done` is called with the value, or with `undefined` and
/// the error, in the event that it was waiting for: a promise would tell of it two turns later.
fn now_or_later(
    future: impl Future<Output = Result<JsValue>> + 'static,
    done: impl FnOnce(&JsValue, &JsValue) + 'static,
) -> Result<JsValue, JsValue> {
    let at_once: Rc<RefCell<Option<Result<JsValue>>>> = Rc::default();
    let later = Rc::new(Cell::new(false));
    tasks::spawn({
        let (at_once, later) = (Rc::clone(&at_once), Rc::clone(&later));
        async move {
            let result = future.await;
            if !later.get() {
                at_once.replace(Some(result));
                return;
            }
            match result {
                Ok(value) => done(&value, &JsValue::UNDEFINED),
                Err(error) => done(&JsValue::UNDEFINED, &to_js_error(&error)),
            }
        }
    });
    later.set(true);
    at_once.take().unwrap_or(Ok(JsValue::UNDEFINED)).map_err(|error| to_js_error(&error))
}

/// One open database.
#[wasm_bindgen]
pub struct Engine {
    inner: Rc<Inner>,
}

struct Inner {
    context: Arc<AppContext>,
    durability: Durability,
    running: RefCell<HashMap<u32, Arc<AtomicBool>>>,
    shapes: Shapes,
    /// Sessions of other users, by user and the id that the caller gave.
    sessions: RefCell<HashMap<(String, String), Arc<Session>>>,
    /// Sessions of open transactions, by their ids.
    transactions: RefCell<HashMap<String, Arc<Session>>>,
    closed: Cell<bool>,
    idle: Rc<Idle>,
}

#[wasm_bindgen]
impl Engine {
    /// Opens a database.
    pub fn open(config: JsValue) -> Promise {
        promise(async move {
            let durability = optional_string(&config, "durability")?;
            let durability = durability.as_deref().map(Durability::parse).transpose()?.unwrap_or_default();
            let defaults = Config::default();
            let memory_limit = optional_number(&config, "memoryLimit")?.map(|n| n as usize);
            let options = Config {
                node_id: optional_string(&config, "nodeId")?,
                user: optional_string(&config, "user")?.unwrap_or(defaults.user),
                role: optional_string(&config, "role")?.map_or(Ok(defaults.role), |role| Role::parse(&role))?,
                memory_limit: memory_limit.unwrap_or(defaults.memory_limit),
                hot_limit: optional_number(&config, "hotLimit")?.map_or(defaults.hot_limit, |n| n as usize),
                segment_cache: optional_number(&config, "segmentCache")?.map_or(defaults.segment_cache, |n| n as usize),
                transaction_timeout: optional_number(&config, "transactionTimeoutMs")?
                    .map_or(defaults.transaction_timeout, |ms| Duration::from_secs_f64((ms / 1000.0).clamp(0.0, 1e9))),
            };
            let backend = backend_of(&config, true).await?;
            let opened = match Reflect::get(&config, &"restore".into()).ok().filter(JsValue::is_object) {
                Some(bytes) => restore_from(&backend, &bytes.unchecked_into(), options).await,
                None => AppContext::open(Arc::clone(&backend), options).await,
            };
            let context = match opened {
                Ok(context) => context,
                Err(error) => {
                    // Nobody will hold it: whatever it is stored on is given free.
                    let _ = backend.close().await;
                    return Err(error);
                }
            };
            let idle = Idle::new(Arc::clone(context.jobs()));
            // What a process that ended left, and what became due meanwhile.
            drop(idle.request());
            let inner = Inner {
                context,
                durability,
                running: RefCell::default(),
                shapes: Shapes::default(),
                sessions: RefCell::default(),
                transactions: RefCell::default(),
                closed: Cell::new(false),
                idle,
            };
            Ok(Engine { inner: Rc::new(inner) }.into())
        })
    }

    /// Reads what can be read of a damaged database, which need not open: `chunk` is given the pieces of a backup, and the
    /// result is the report, rows of `object`, `status` and `detail`.
    pub fn rescue(config: JsValue, chunk: Function) -> Promise {
        promise(async move {
            let backend = backend_of(&config, false).await?;
            let rescued = rescue_to(&backend, &chunk).await;
            backend.close().await?;
            rescued
        })
    }

    /// Runs one or several statements; `request` is the number that `cancel` names. What needs nothing but memory is done
    /// when this returns, and then it returns the result: an array of the rows affected, the last `_seq`, the durability,
    /// and in the mode `query` the columns and the packed rows, in the mode `arrow` the IPC stream. Else it returns
    /// nothing, and `done` is called with the request's number, the result and the error, of which one is `undefined`.
    pub fn run(
        &self,
        sql: String,
        params: JsValue,
        mode: String,
        request: u32,
        options: JsValue,
        done: Function,
    ) -> Result<JsValue, JsValue> {
        let inner = Rc::clone(&self.inner);
        let work = async move {
            let (execute, _running) = inner.execute_options_of(Some(request), &options)?;
            let params = values::params(&params)?;
            let session = inner.session(&options).await?;
            let results = inner.context.executor().execute(&session, &sql, &params, &execute).await?;
            run_result(&inner.shapes, results, &mode, execute.durability)
        };
        now_or_later(work, move |result, error| {
            // What it throws is its own affair.
            let _ = done.call3(&JsValue::UNDEFINED, &request.into(), result, error);
        })
    }

    /// The row of a query by its whole key that has been run before, if it is known at once: an array of the columns and
    /// the packed row, which is `undefined` if there is none. Else nothing, and the query has to be `run`.
    pub fn get(&self, sql: &str, params: JsValue) -> JsValue {
        let Inner { context, shapes, idle, .. } = self.inner.as_ref();
        if self.inner.closed.get() {
            return JsValue::UNDEFINED;
        }
        // What is wrong with them is told by the run.
        let params = || values::params(&params).ok();
        let found = context.executor().point_get(context.session(), sql, params);
        idle.passed();
        found.and_then(|rows| point_result(shapes, &rows).ok()).unwrap_or_default()
    }

    /// Runs one text with several sets of parameters, as calls that overlap, which can be much less work than as many
    /// runs. The result has for each set what `run` gives in the mode `exec`, or its error as an object.
    #[wasm_bindgen(js_name = runMany)]
    pub fn run_many(&self, sql: String, sets: Vec<JsValue>, options: JsValue) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            let (execute, _running) = inner.execute_options(&options)?;
            let session = inner.session(&options).await?;
            let parsed: Vec<Result<Params>> = sets.iter().map(values::params).collect();
            let good: Vec<&Params> = parsed.iter().filter_map(|params| params.as_ref().ok()).collect();
            let mut outcomes = inner.context.executor().execute_many(&session, &sql, &good, &execute).await.into_iter();
            let results = Array::new_with_length(parsed.len() as u32);
            for (place, params) in parsed.iter().enumerate() {
                let outcome = match params {
                    Ok(_) => outcomes.next().unwrap_or_else(|| Err(KalamError::internal("a run has no outcome"))),
                    Err(error) => Err(error.clone()),
                };
                let result = match outcome {
                    Ok(done) => run_result(&inner.shapes, done, "exec", execute.durability)?,
                    Err(error) => to_js_error(&error),
                };
                results.set(place as u32, result);
            }
            Ok(results.into())
        })
    }

    /// Parses statements and keeps them for their runs. Gives the placeholders, as they are written.
    pub fn prepare(&self, sql: String) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            inner.check_open()?;
            let placeholders = inner.context.executor().prepare(&sql)?;
            Ok(placeholders.iter().map(|name| JsValue::from_str(name)).collect::<Array>().into())
        })
    }

    /// Asks a running request to stop; an unknown id is no error.
    pub fn cancel(&self, request: u32) {
        if let Some(flag) = self.inner.running.borrow().get(&request) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets a session of another user, with its namespace; calls that name it again begin a new one.
    #[wasm_bindgen(js_name = endSession)]
    pub fn end_session(&self, user: String, session: String) {
        self.inner.sessions.borrow_mut().remove(&(user, session));
    }

    /// What a table looks like.
    pub fn describe(&self, table: String, options: JsValue) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            inner.check_open()?;
            let session = inner.session(&options).await?;
            let table = describe_table(inner.context.executor(), &session, &table).await?;
            let definition = table.definition();
            let info = Object::new();
            set(&info, "namespace", &JsValue::from_str(&definition.table_id.namespace));
            set(&info, "name", &JsValue::from_str(&definition.table_id.table));
            set(&info, "type", &JsValue::from_str(definition.table_type.as_str()));
            let columns = Array::new();
            for column in definition.columns_in_order() {
                let entry = column_info(&column.name, &column.data_type.sql_name(), column.nullable);
                set(&entry, "primaryKey", &JsValue::from_bool(definition.is_key(column.column_id)));
                set(&entry, "hasDefault", &JsValue::from_bool(!column.default.is_none()));
                columns.push(&entry);
            }
            set(&info, "columns", &columns);
            Ok(info.into())
        })
    }

    /// Inserts rows packed as KPR1.
    #[wasm_bindgen(js_name = insertPacked)]
    pub fn insert_packed(&self, table: String, columns: Vec<String>, packed: Vec<u8>, options: JsValue) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            let (execute, _running) = inner.execute_options(&options)?;
            let (executor, session) = (inner.context.executor(), inner.session(&options).await?);
            let described = describe_table(executor, &session, &table).await?;
            let batch = packed::decode_rows(&packed, &columns, described.definition())?;
            drop(packed);
            let result = insert_columns(executor, &session, &execute, &table, vec![batch]).await?;
            exec_result(&[result], execute.durability)
        })
    }

    /// Inserts the rows of an Arrow IPC stream or file.
    #[wasm_bindgen(js_name = insertArrow)]
    pub fn insert_arrow(&self, table: String, ipc: Vec<u8>, options: JsValue) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            let (execute, _running) = inner.execute_options(&options)?;
            let batches: Vec<RecordBatch> = open_file(Format::Arrow, Bytes::from(ipc))?.collect::<Result<_>>()?;
            let (executor, session) = (inner.context.executor(), inner.session(&options).await?);
            let result = insert_columns(executor, &session, &execute, &table, batches).await?;
            exec_result(&[result], execute.durability)
        })
    }

    /// Starts an import.
    pub fn importer(&self, table: String, options: JsValue) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            inner.check_open()?;
            let format = optional_string(&options, "format")?.unwrap_or_default();
            let mut csv = CsvOptions::default();
            csv.header = optional_bool(&options, "header")?.unwrap_or(csv.header);
            if let Some(delimiter) = optional_string(&options, "delimiter")? {
                csv.delimiter = match delimiter.as_bytes() {
                    [one] => *one,
                    _ => {
                        return Err(KalamError::new(
                            ErrorCode::InvalidOption,
                            format!("delimiter is '{delimiter}', expected one ASCII character"),
                        ));
                    }
                };
            }
            let import = ImportOptions {
                format: Format::parse(&format)?,
                create: optional_bool(&options, "create")?.unwrap_or(false),
                csv,
            };
            let aborted = Arc::new(AtomicBool::new(false));
            let execute = ExecuteOptions {
                durability: inner.durability_of(&options)?,
                cancelled: Arc::clone(&aborted),
                ..ExecuteOptions::default()
            };
            let durability = execute.durability;
            let (executor, session) = (Arc::clone(inner.context.executor()), inner.session(&options).await?);
            let importer = SqlImporter::open(executor, session, &table, import, execute).await?;
            Ok(Importer { inner: Rc::new(RefCell::new(Some(importer))), aborted, durability }.into())
        })
    }

    /// How the engine is.
    pub fn status(&self, options: JsValue) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            inner.check_open()?;
            let context = &inner.context;
            let stats = context.backend().stats().await?;
            let tables = context.store().statistics();
            let status = Object::new();
            let number = |n: u64| JsValue::from_f64(n as f64);
            set(&status, "storage", &JsValue::from_str(context.backend().kind()));
            set(&status, "version", &JsValue::from_str(VERSION));
            set(&status, "nodeId", &JsValue::from_str(context.node_id().as_str()));
            let session = inner.session(&options).await?;
            set(&status, "user", &JsValue::from_str(session.user()));
            set(&status, "userRole", &JsValue::from_str(context.executor().role(&session).await?.as_str()));
            set(&status, "records", &number(stats.records));
            set(&status, "bytes", &number(stats.bytes));
            if let Some(usage) = stats.usage {
                set(&status, "usage", &number(usage));
            }
            if let Some(quota) = stats.quota {
                set(&status, "quota", &number(quota));
            }
            let memory = Object::new();
            set(&memory, "wasm", &number(core::arch::wasm32::memory_size(0) as u64 * 65_536));
            set(&memory, "hotRows", &number(tables.hot_rows));
            set(&memory, "hotBytes", &number(tables.hot_bytes));
            set(&memory, "query", &number(context.executor().query_memory() as u64));
            set(&status, "memory", &memory);
            let commits = Object::new();
            set(&commits, "commits", &number(tables.commits));
            set(&commits, "groups", &number(tables.groups));
            set(&status, "log", &commits);
            Ok(status.into())
        })
    }

    /// The whole database as a stream of bytes; `chunk` is given one `Uint8Array` after the other.
    pub fn backup(&self, chunk: Function) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            inner.check_open()?;
            hand_over(inner.context.backup().await, &chunk).await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// Closes the database.
    pub fn close(&self) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            if !inner.closed.replace(true) {
                inner.idle.close();
                inner.context.close().await?;
            }
            Ok(JsValue::UNDEFINED)
        })
    }
}

/// Gives a backup away, piece by piece.
async fn hand_over(mut backup: Backup, chunk: &Function) -> Result<()> {
    while let Some(bytes) = backup.next().await? {
        let thrown = chunk.call1(&JsValue::UNDEFINED, &Uint8Array::from(&bytes[..]));
        if thrown.is_err() {
            return Err(KalamError::new(ErrorCode::Cancelled, "the backup was given up by its caller"));
        }
    }
    Ok(())
}

async fn rescue_to(backend: &Arc<dyn StorageBackend>, chunk: &Function) -> Result<JsValue> {
    let (backup, findings) = AppContext::rescue(Arc::clone(backend)).await?;
    hand_over(backup, chunk).await?;
    let report = Array::new();
    for finding in findings {
        let row = Object::new();
        set(&row, "object", &JsValue::from_str(&finding.object));
        set(&row, "status", &JsValue::from_str(&finding.health.to_string()));
        set(&row, "detail", &JsValue::from_str(&finding.detail));
        report.push(&row);
    }
    Ok(report.into())
}

/// What a configuration says that a database is stored on. `make`: whether a database that is not there is made.
async fn backend_of(config: &JsValue, make: bool) -> Result<Arc<dyn StorageBackend>> {
    let name = optional_string(config, "name")?.unwrap_or_default();
    let supplied = Reflect::get(config, &"storage".into()).ok().filter(JsValue::is_object);
    let storage = match supplied {
        Some(_) => "host".into(),
        None => optional_string(config, "storage")?.unwrap_or_else(|| "memory".into()),
    };
    let backend: Arc<dyn StorageBackend> = match storage.as_str() {
        "host" => Arc::new(HostBackend::new(supplied.unwrap_or_default().unchecked_into())?),
        "memory" => Arc::new(MemoryBackend::new()),
        "indexeddb" => opfs::journaled(&name, make).await?,
        other => {
            return Err(KalamError::new(
                ErrorCode::InvalidOption,
                format!("storage is '{other}', expected 'indexeddb', 'memory' or an object"),
            ));
        }
    };
    Ok(backend)
}

/// Restores a backup that lies in JavaScript's memory, a piece at a time, and opens what was restored.
async fn restore_from(
    backend: &Arc<dyn StorageBackend>,
    bytes: &Uint8Array,
    config: Config,
) -> Result<Arc<AppContext>> {
    const PIECE: u32 = 1 << 20;
    let mut restore = Restore::begin(Arc::clone(backend)).await?;
    for start in (0..bytes.length()).step_by(PIECE as usize) {
        let end = start.saturating_add(PIECE).min(bytes.length());
        restore.push(&bytes.subarray(start, end).to_vec()).await?;
    }
    restore.finish().await?;
    AppContext::open(Arc::clone(backend), config).await
}

/// Takes a request off the list of running ones when it ends, however it ends.
struct Running {
    _request: Request,
    inner: Rc<Inner>,
    request: Option<u32>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            self.inner.running.borrow_mut().remove(&request);
        }
    }
}

impl Inner {
    fn check_open(&self) -> Result<()> {
        if self.closed.get() {
            return Err(KalamError::new(ErrorCode::Closed, "the database is closed"));
        }
        Ok(())
    }

    /// The session of a call: that of its transaction, one of the user that the options name, or that of whoever opened
    /// the database.
    async fn session(&self, options: &JsValue) -> Result<Arc<Session>> {
        if let Some(id) = optional_string(options, "transaction")? {
            return self.transaction(&id);
        }
        let Some(user) = optional_string(options, "user")? else { return Ok(Arc::clone(self.context.session())) };
        let key = (user, optional_string(options, "session")?.unwrap_or_default());
        if let Some(session) = self.sessions.borrow().get(&key) {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(self.context.session_as(&key.0).await?);
        Ok(Arc::clone(self.sessions.borrow_mut().entry(key).or_insert(session)))
    }

    fn durability_of(&self, options: &JsValue) -> Result<Durability> {
        let durability = optional_string(options, "durability")?;
        Ok(durability.as_deref().map(Durability::parse).transpose()?.unwrap_or(self.durability))
    }

    fn execute_options(self: &Rc<Self>, options: &JsValue) -> Result<(ExecuteOptions, Running)> {
        self.execute_options_of(optional_number(options, "requestId")?.map(|id| id as u32), options)
    }

    fn execute_options_of(
        self: &Rc<Self>,
        request: Option<u32>,
        options: &JsValue,
    ) -> Result<(ExecuteOptions, Running)> {
        self.check_open()?;
        let cancelled = Arc::new(AtomicBool::new(false));
        if let Some(request) = request {
            self.running.borrow_mut().insert(request, Arc::clone(&cancelled));
        }
        let deadline = optional_number(options, "timeoutMs")?
            .map(|ms| Instant::now() + Duration::from_secs_f64((ms / 1000.0).clamp(0.0, 1e9)));
        let durability = self.durability_of(options)?;
        let execute = ExecuteOptions { durability, cancelled, deadline, ..ExecuteOptions::default() };
        Ok((execute, Running { _request: self.idle.request(), inner: Rc::clone(self), request }))
    }
}

/// A file being imported.
#[wasm_bindgen]
pub struct Importer {
    inner: Rc<RefCell<Option<SqlImporter>>>,
    aborted: Arc<AtomicBool>,
    durability: Durability,
}

#[wasm_bindgen]
impl Importer {
    /// Takes the next bytes of the file.
    pub fn push(&self, bytes: Vec<u8>) -> Promise {
        let (slot, aborted) = (Rc::clone(&self.inner), Arc::clone(&self.aborted));
        promise(async move {
            let mut importer = take_importer(&slot, &aborted)?;
            let progress = importer.push(&bytes).await?;
            if !aborted.load(Ordering::Relaxed) {
                *slot.borrow_mut() = Some(importer);
            }
            Ok(progress_object(progress).into())
        })
    }

    /// Decodes what is left and commits everything.
    pub fn finish(&self, on_progress: Option<Function>) -> Promise {
        let (slot, aborted, durability) = (Rc::clone(&self.inner), Arc::clone(&self.aborted), self.durability);
        promise(async move {
            let importer = take_importer(&slot, &aborted)?;
            let report = |progress: ImportProgress| {
                if let Some(callback) = &on_progress {
                    // What the callback throws is its own affair.
                    let _ = callback.call1(&JsValue::UNDEFINED, &progress_object(progress));
                }
            };
            let result = importer.finish(report).await?;
            exec_result(&[result], durability)
        })
    }

    /// Gives the import up: nothing of it stays.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::Relaxed);
        self.inner.borrow_mut().take();
    }
}

fn take_importer(slot: &RefCell<Option<SqlImporter>>, aborted: &AtomicBool) -> Result<SqlImporter> {
    if aborted.load(Ordering::Relaxed) {
        return Err(KalamError::new(ErrorCode::Cancelled, "the import was aborted by its caller"));
    }
    slot.borrow_mut()
        .take()
        .ok_or_else(|| KalamError::new(ErrorCode::InvalidStatement, "the import is busy, or it has ended"))
}

fn progress_object(progress: ImportProgress) -> Object {
    let object = Object::new();
    set(&object, "bytes", &JsValue::from_f64(progress.bytes as f64));
    set(&object, "rows", &JsValue::from_f64(progress.rows as f64));
    if let Some(total) = progress.total_rows {
        set(&object, "totalRows", &JsValue::from_f64(total as f64));
    }
    object
}
