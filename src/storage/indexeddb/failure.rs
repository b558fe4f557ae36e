//! What IndexedDB throws, and what becomes of it.
//!
//! Invariant: every exception ends as one [`KalamError`] whose code says what the caller can do: make room
//! (`QUOTA_EXCEEDED`), try again on a fresh connection (`STORAGE_CLOSED`), or try again (`STORAGE_ERROR`). The
//! browser's own name and text are always in the message.

use indexed_db_futures::error::{DomException, Error, JSError, OpenDbError};
use wasm_bindgen::prelude::*;

use super::host;
use crate::error::{ErrorCode, KalamError};

/// An exception of IndexedDB by name and text, or an error that is typed already.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    Thrown { name: String, message: String },
    Typed(KalamError),
}

impl Failure {
    pub fn thrown(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Thrown { name: name.into(), message: message.into() }
    }

    /// Whether the connection it happened on is of no more use.
    pub fn connection_lost(&self) -> bool {
        match self {
            Failure::Thrown { name, message } => classify(name, message) == ErrorCode::StorageClosed,
            Failure::Typed(error) => error.code() == ErrorCode::StorageClosed,
        }
    }

    /// Whether an open found a version above the one that this build uses.
    pub fn version_too_high(&self) -> bool {
        matches!(self, Failure::Thrown { name, .. } if name == "VersionError")
    }

    /// The error for the caller; `doing` says what failed. Asks the host for its quota if that was it.
    pub async fn into_error(self, doing: &str) -> KalamError {
        let (name, message) = match self {
            Failure::Typed(error) => return error,
            Failure::Thrown { name, message } => (name, message),
        };
        let code = classify(&name, &message);
        let what = if message.is_empty() { name } else { format!("{name}: {message}") };
        match code {
            ErrorCode::QuotaExceeded => {
                let estimate = host::estimate().await;
                let told = |bytes: Option<u64>| bytes.map_or("an unknown number of".to_owned(), |b| b.to_string());
                let (usage, quota) = (told(estimate.usage), told(estimate.quota));
                KalamError::new(
                    code,
                    format!("{doing}: the browser gives no more room ({what}); {usage} bytes of {quota} are used"),
                )
                .with_hint("Delete data, or ask for persistent storage with navigator.storage.persist().")
            }
            ErrorCode::StorageClosed => {
                KalamError::new(code, format!("{doing}: the connection to IndexedDB was lost ({what})"))
                    .with_hint("Make the call again: it opens a new connection.")
            }
            _ => KalamError::new(code, format!("{doing}: {what}")),
        }
    }
}

/// The code of an exception. Browsers tell a lost backing store from other failures only in the text.
fn classify(name: &str, message: &str) -> ErrorCode {
    match name {
        "QuotaExceededError" => ErrorCode::QuotaExceeded,
        // From `transaction()` on a connection that is closing, and from nothing else we call.
        "InvalidStateError" => ErrorCode::StorageClosed,
        "UnknownError" | "AbortError" => {
            let message = message.to_ascii_lowercase();
            let lost = ["backing store", "connection", "indexed database server", "database was closed"];
            if lost.iter().any(|text| message.contains(text)) {
                ErrorCode::StorageClosed
            } else {
                ErrorCode::StorageError
            }
        }
        _ => ErrorCode::StorageError,
    }
}

impl From<KalamError> for Failure {
    fn from(error: KalamError) -> Self {
        Failure::Typed(error)
    }
}

impl From<web_sys::DomException> for Failure {
    fn from(exception: web_sys::DomException) -> Self {
        Self::thrown(exception.name(), exception.message())
    }
}

impl From<JsValue> for Failure {
    fn from(value: JsValue) -> Self {
        match value.dyn_into::<web_sys::DomException>() {
            Ok(exception) => exception.into(),
            Err(value) => match value.dyn_into::<js_sys::Error>() {
                Ok(error) => Self::thrown(String::from(error.name()), String::from(error.message())),
                Err(value) => Self::thrown("Error", format!("{value:?}")),
            },
        }
    }
}

impl From<DomException> for Failure {
    fn from(exception: DomException) -> Self {
        web_sys::DomException::from(exception).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::DomException(exception) => exception.into(),
            Error::Unknown(JSError::Error(error)) => JsValue::from(error).into(),
            Error::Unknown(JSError::Unknown(value)) => value.into(),
            other => Self::thrown("Error", other.to_string()),
        }
    }
}

impl From<OpenDbError> for Failure {
    fn from(error: OpenDbError) -> Self {
        let unsupported = |message: &'static str| {
            Failure::Typed(
                KalamError::new(ErrorCode::FeatureNotSupported, message)
                    .with_hint("Open the database with storage 'memory', or in a context that has IndexedDB."),
            )
        };
        match error {
            OpenDbError::Base(error) => error.into(),
            OpenDbError::UnsupportedEnvironment | OpenDbError::NullFactory => unsupported("there is no IndexedDB here"),
            // indexed_db_futures reports any exception of `indexedDB.open()` as this one; our version is never 0,
            // so it is the other reason to throw: an origin without storage.
            OpenDbError::VersionZero => {
                unsupported("this origin may not use IndexedDB (a sandboxed frame, or storage is blocked)")
            }
        }
    }
}
