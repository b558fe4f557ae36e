//! Files of the origin's private file system (OPFS): where a journal lies in a browser.
//!
//! Invariant: a file that can be written has one owner. The browser gives a second handle to nobody, so an engine that still
//! ends, in a worker that was just let go, is waited for. Handles that can be written are for dedicated workers; a page
//! reads what a worker left. See <https://fs.spec.whatwg.org>.

use std::cell::Cell;
use std::sync::Arc;

use futures::future::{BoxFuture, join};
use js_sys::{ArrayBuffer, Object, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};

use super::StorageBackend;
use super::indexeddb::{IndexedDbBackend, sleep};
use super::journal::{FoundFile, JournalFile, JournaledBackend};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::SendFuture;

/// The directory of all journals of an origin.
const DIRECTORY: &str = "kalamdb";
/// Bytes that a name may have in every browser's file system.
const MOST_NAME: usize = 240;
/// What the browser throws where somebody else has a handle.
const IN_USE: &str = "NoModificationAllowedError";
/// How often a handle is asked for while another engine ends, and how long is waited in between, in milliseconds.
const ATTEMPTS: usize = 100;
const PAUSE_MS: i32 = 20;

#[wasm_bindgen]
extern "C" {
    /// `FileSystemDirectoryHandle`.
    #[derive(Clone)]
    type Directory;
    #[wasm_bindgen(method, catch, js_name = getDirectoryHandle)]
    fn get_directory_handle(this: &Directory, name: &str, options: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = getFileHandle)]
    fn get_file_handle(this: &Directory, name: &str, options: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = removeEntry)]
    fn remove_entry(this: &Directory, name: &str) -> Result<Promise, JsValue>;

    /// `FileSystemFileHandle`.
    #[derive(Clone)]
    type FileHandle;
    #[wasm_bindgen(method, catch, js_name = createSyncAccessHandle)]
    fn create_sync_access_handle(this: &FileHandle) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch, js_name = getFile)]
    fn get_file(this: &FileHandle) -> Result<Promise, JsValue>;

    /// `File`.
    type File;
    #[wasm_bindgen(method, catch, js_name = arrayBuffer)]
    fn array_buffer(this: &File) -> Result<Promise, JsValue>;

    /// `FileSystemSyncAccessHandle`.
    #[derive(Clone)]
    type AccessHandle;
    #[wasm_bindgen(method, catch, js_name = getSize)]
    fn get_size(this: &AccessHandle) -> Result<f64, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn read(this: &AccessHandle, into: &Uint8Array, options: &JsValue) -> Result<f64, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn write(this: &AccessHandle, bytes: &Uint8Array, options: &JsValue) -> Result<f64, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn truncate(this: &AccessHandle, bytes: f64) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    fn flush(this: &AccessHandle) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    fn close(this: &AccessHandle) -> Result<(), JsValue>;
}

/// Opens a database of this name in IndexedDB with its journal. `make`: whether one that is not there is made; otherwise it is
/// opened to be salvaged, also without its journal.
pub async fn journaled(database: &str, make: bool) -> Result<Arc<dyn StorageBackend>> {
    let opened = async {
        match make {
            true => IndexedDbBackend::open(database).await,
            false => IndexedDbBackend::open_existing(database).await,
        }
    };
    let (inner, found) = join(opened, find(database, make)).await;
    let inner: Arc<dyn StorageBackend> = Arc::new(inner?);
    let opened = JournaledBackend::open(Arc::clone(&inner), found, !make).await;
    if opened.is_err() {
        let _ = inner.close().await;
    }
    opened
}

/// Looks for the journal of a database. `make`: an empty file is made if there is none, where it can be written.
pub async fn find(database: &str, make: bool) -> FoundFile {
    let found = SendFuture::new(async {
        let directory = directory(make).await?;
        let Some(directory) = directory else { return Ok(FoundFile::ReadOnly(Vec::new())) };
        let can_write = Reflect::has(&js_sys::global(), &"FileSystemSyncAccessHandle".into()).unwrap_or(false);
        match file(&directory, database, make && can_write).await? {
            None => Ok(FoundFile::ReadOnly(Vec::new())),
            Some(file) if can_write => match handle_of(&file).await {
                Ok(handle) => Ok(FoundFile::Writable(Box::new(handle))),
                Err(thrown) if has_name(&thrown, IN_USE) => Err(thrown),
                // A host that lets nobody write to it may let us read.
                Err(_) => contents(&file).await.map(FoundFile::ReadOnly),
            },
            Some(file) => contents(&file).await.map(FoundFile::ReadOnly),
        }
    });
    let doing = format!("cannot open the journal of database '{database}'");
    found.await.unwrap_or_else(|thrown: JsValue| FoundFile::None(error_of(&thrown, &doing)))
}

/// Removes the journal of a database, if there is one. What cannot be removed is made anew with the next database of that
/// name.
pub async fn remove(database: &str) {
    let removed = async {
        if let Some(directory) = directory(false).await? {
            JsFuture::from(directory.remove_entry(&file_name(database)?)?).await?;
        }
        Ok::<_, JsValue>(())
    };
    let _ = removed.await;
}

/// The directory of journals; nothing if it is not there.
async fn directory(make: bool) -> Result<Option<Directory>, JsValue> {
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into())?;
    let storage = Reflect::get(&navigator, &"storage".into())?;
    let get: js_sys::Function = Reflect::get(&storage, &"getDirectory".into())?.dyn_into()?;
    let root: Promise = get.call0(&storage)?.dyn_into()?;
    let root: Directory = JsFuture::from(root).await?.unchecked_into();
    found(root.get_directory_handle(DIRECTORY, &options("create", make.into()))?).await
}

async fn file(directory: &Directory, database: &str, make: bool) -> Result<Option<FileHandle>, JsValue> {
    found(directory.get_file_handle(&file_name(database)?, &options("create", make.into()))?).await
}

/// What a promise gives, unless it is not there.
async fn found<T: JsCast>(promise: Promise) -> Result<Option<T>, JsValue> {
    match JsFuture::from(promise).await {
        Ok(handle) => Ok(Some(handle.unchecked_into())),
        Err(thrown) if has_name(&thrown, "NotFoundError") => Ok(None),
        Err(thrown) => Err(thrown),
    }
}

fn text_of(thrown: &JsValue, name: &str) -> String {
    Reflect::get(thrown, &name.into()).ok().and_then(|text| text.as_string()).unwrap_or_default()
}

fn has_name(thrown: &JsValue, name: &str) -> bool {
    text_of(thrown, "name") == name
}

/// The error of what the browser has thrown; `doing` says what failed.
fn error_of(thrown: &JsValue, doing: &str) -> KalamError {
    let (name, message) = (text_of(thrown, "name"), text_of(thrown, "message"));
    let (code, hint) = match name.as_str() {
        IN_USE => (ErrorCode::DatabaseLocked, "Another engine has it, or is still ending. Close it and connect again."),
        "QuotaExceededError" => (ErrorCode::QuotaExceeded, "Delete data, or ask for persistent storage."),
        _ => (
            ErrorCode::StorageError,
            "Commits of the database may be in that file: open it where the origin's private file system can be reached.",
        ),
    };
    KalamError::new(code, format!("{doing}: {name}: {message}")).with_hint(hint)
}

/// The file's name: small letters, digits and `-` of the database's as they are, and each other byte as `_` and its number.
/// (There are file systems that take capital letters for small ones.)
fn file_name(database: &str) -> Result<String, JsValue> {
    let mut name = String::new();
    for byte in database.bytes() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' {
            name.push(byte.into());
        } else {
            name.push_str(&format!("_{byte:02x}"));
        }
    }
    name.push_str(".journal");
    if name.len() > MOST_NAME {
        return Err(js_sys::Error::new("the name of the database is too long for a file").into());
    }
    Ok(name)
}

async fn contents(file: &FileHandle) -> Result<Vec<u8>, JsValue> {
    let file: File = JsFuture::from(file.get_file()?).await?.unchecked_into();
    let buffer: ArrayBuffer = JsFuture::from(file.array_buffer()?).await?.unchecked_into();
    Ok(Uint8Array::new(&buffer).to_vec())
}

async fn handle_of(file: &FileHandle) -> Result<OpfsFile, JsValue> {
    let mut attempts = ATTEMPTS;
    loop {
        match JsFuture::from(file.create_sync_access_handle()?).await {
            Ok(handle) => return Ok(OpfsFile::new(handle.unchecked_into(), file.clone())),
            Err(thrown) if has_name(&thrown, IN_USE) && attempts > 0 => {
                attempts -= 1;
                sleep(PAUSE_MS).await;
            }
            Err(thrown) => return Err(thrown),
        }
    }
}

fn options(name: &str, value: JsValue) -> JsValue {
    let options = Object::new();
    // A plain object takes any property.
    let _ = Reflect::set(&options, &name.into(), &value);
    options.into()
}

struct Parts {
    handle: AccessHandle,
    file: FileHandle,
    is_closed: Cell<bool>,
    /// `{ at }`, kept: a write is as short as making it.
    place: JsValue,
    at: JsValue,
}

/// Closes a handle, unless its file was cleared away under it with what else the origin has: Chromium 156 then never returns
/// from `close`. Such a handle ends with its worker.
async fn close(handle: AccessHandle, file: FileHandle) {
    let found = async { JsFuture::from(file.get_file()?).await };
    if found.await.is_ok() {
        // It is closed, or was.
        let _ = handle.close();
    }
}

/// An open file; dropping it closes it.
struct OpfsFile(SendFuture<Parts>);

impl OpfsFile {
    fn new(handle: AccessHandle, file: FileHandle) -> Self {
        let place = options("at", 0.into());
        Self(SendFuture::new(Parts { handle, file, is_closed: Cell::default(), place, at: "at".into() }))
    }

    fn closing(&self) -> impl Future<Output = ()> + use<> {
        self.0.is_closed.set(true);
        close(self.0.handle.clone(), self.0.file.clone())
    }

    fn place(&self, at: u64) -> &JsValue {
        let _ = Reflect::set(&self.0.place, &self.0.at, &JsValue::from_f64(at as f64));
        &self.0.place
    }
}

impl std::fmt::Debug for OpfsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpfsFile").finish_non_exhaustive()
    }
}

fn failed(thrown: JsValue) -> KalamError {
    error_of(&thrown, "cannot use the journal of the database")
}

impl JournalFile for OpfsFile {
    fn read(&self) -> Result<Vec<u8>> {
        let size = self.0.handle.get_size().map_err(failed)?;
        let bytes = Uint8Array::new_with_length(size as u32);
        let read = self.0.handle.read(&bytes, self.place(0)).map_err(failed)?;
        // What is missing would be taken for a torn end, and commits in it for lost.
        if read != size {
            return Err(KalamError::new(
                ErrorCode::StorageError,
                format!("the browser gave {read} bytes of the journal of the database, which has {size}"),
            )
            .with_hint("Connect again. If it stays so, `rescue` reads what the database holds without it."));
        }
        Ok(bytes.to_vec())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let written = self.0.handle.write(&Uint8Array::from(bytes), self.place(at)).map_err(failed)?;
        if written as usize == bytes.len() {
            return Ok(());
        }
        Err(KalamError::new(
            ErrorCode::QuotaExceeded,
            format!("the journal of the database took {written} bytes of {}", bytes.len()),
        ))
    }

    fn resize(&self, bytes: u64) -> Result<()> {
        self.0.handle.truncate(bytes as f64).map_err(failed)
    }

    fn flush(&self) -> Result<()> {
        self.0.handle.flush().map_err(failed)
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(SendFuture::new(self.closing()))
    }
}

impl Drop for OpfsFile {
    fn drop(&mut self) {
        if !self.0.is_closed.get() {
            spawn_local(self.closing());
        }
    }
}
