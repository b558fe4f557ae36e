//! Transactions that a caller holds by an id, each in a session of its own.
//!
//! Invariant: an id is never used again, in no other engine either, so a call that comes with the id of a transaction
//! that ended, or that ended with its engine, fails instead of running outside of it.

use std::rc::Rc;
use std::sync::Arc;

use js_sys::Promise;
use uuid::Uuid;
use wasm_bindgen::prelude::*;

use super::results::exec_result;
use super::values::optional_bool;
use super::{Engine, Inner, promise};
use crate::error::{ErrorCode, KalamError, Result};
use crate::sql::Session;

/// So many transactions are kept before those that nobody came back to are forgotten.
const KEPT: usize = 64;

#[wasm_bindgen]
impl Engine {
    /// Begins a transaction as the session of the options and gives its id, which calls then name as `transaction`.
    pub fn begin(&self, options: JsValue) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            inner.check_open()?;
            let read_only = optional_bool(&options, "readOnly")?.unwrap_or(false);
            let session = inner.session(&options).await?;
            let within = inner.context.executor().begin(&session, read_only).await?;
            let id = Uuid::new_v4().simple().to_string();
            let mut transactions = inner.transactions.borrow_mut();
            if transactions.len() >= KEPT {
                inner.context.executor().expire_transactions();
                transactions.retain(|_, session| session.holds_transaction());
            }
            transactions.insert(id.clone(), Arc::new(within));
            Ok(JsValue::from_str(&id))
        })
    }

    /// Commits a transaction. Its id means nothing afterwards, however this goes.
    pub fn commit(&self, transaction: String, options: JsValue) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            let (execute, _running) = inner.execute_options(&options)?;
            let session = inner.transaction(&transaction)?;
            // What is called from now on waits in the session until the commit is through.
            let executor = inner.context.executor();
            let outcome = executor.commit(&session, &execute).await;
            inner.transactions.borrow_mut().remove(&transaction);
            exec_result(&[outcome?], execute.durability)
        })
    }

    /// Rolls a transaction back; an unknown id is no error.
    pub fn rollback(&self, transaction: String) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            let session = inner.transactions.borrow_mut().remove(&transaction);
            if let Some(session) = session {
                match inner.context.executor().rollback(&session).await {
                    Err(error) if error.code() != ErrorCode::NoActiveTransaction => return Err(error),
                    _ => {}
                }
            }
            Ok(JsValue::UNDEFINED)
        })
    }
}

impl Inner {
    /// The session of an open transaction.
    pub(super) fn transaction(&self, id: &str) -> Result<Arc<Session>> {
        self.transactions.borrow().get(id).cloned().ok_or_else(|| {
            KalamError::new(ErrorCode::NoActiveTransaction, "the transaction has ended, or its engine has")
                .with_hint("Run the transaction again.")
        })
    }
}
