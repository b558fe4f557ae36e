//! Cursors for JavaScript: rows piece by piece, packed or as files.
//!
//! Invariant: a cursor is read by one call at a time; a second one that comes meanwhile fails instead of reading what
//! the first one would have. Closing it, also while it is read, ends the query at its next batch.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use js_sys::{Array, Object, Promise, Uint8Array};
use wasm_bindgen::prelude::*;

use super::values::{self, optional_number, optional_string, set};
use super::{Engine, column_info, promise};
use crate::error::{ErrorCode, KalamError, Result};
use crate::ingest::{FileWriter, Format};
use crate::sql::{Cursor as SqlCursor, Rows, packed};
use crate::types::KalamDataType;

/// Rows that a file takes from its query at a time.
const FILE_BATCH_ROWS: usize = 32_768;
/// A piece of a file is given out when it has so many bytes.
const PIECE_BYTES: usize = 1 << 20;

#[wasm_bindgen]
impl Engine {
    /// Starts a query whose rows are taken piece by piece. With the option `format` they come as a file of that format,
    /// with `rowsPerFile` as several.
    pub fn cursor(&self, sql: String, params: JsValue, options: JsValue) -> Promise {
        let inner = Rc::clone(&self.inner);
        promise(async move {
            let (execute, _running) = inner.execute_options(&options)?;
            let session = inner.session(&options).await?;
            let params = values::params(&params)?;
            let cancelled = Arc::clone(&execute.cancelled);
            let cursor = SqlCursor::open(inner.context.executor(), &session, &sql, &params, &execute).await?;
            let format = optional_string(&options, "format")?.map(|name| Format::parse(&name)).transpose()?;
            let rows_per_file = optional_number(&options, "rowsPerFile")?.map(|rows| rows.max(1.0) as u64);
            let file = format.map(|format| File { format, rows_per_file, writer: None, rows: 0, files: 0 });
            let columns = Array::new();
            let mut types = Vec::new();
            for field in cursor.schema().fields() {
                let data_type = KalamDataType::from_arrow_field(field)?;
                columns.push(&column_info(field.name(), &data_type.sql_name(), field.is_nullable()));
                types.push(data_type);
            }
            let open = Open { cursor, types, file };
            Ok(Cursor { open: Rc::new(RefCell::new(Some(open))), cancelled, columns }.into())
        })
    }
}

/// A query whose rows are taken piece by piece.
#[wasm_bindgen]
pub struct Cursor {
    open: Rc<RefCell<Option<Open>>>,
    cancelled: Arc<AtomicBool>,
    columns: Array,
}

struct Open {
    cursor: SqlCursor,
    /// The types of its columns.
    types: Vec<KalamDataType>,
    file: Option<File>,
}

/// The files that a cursor writes.
struct File {
    format: Format,
    rows_per_file: Option<u64>,
    writer: Option<FileWriter>,
    /// Rows of the file being written.
    rows: u64,
    /// Files that are complete.
    files: u64,
}

#[wasm_bindgen]
impl Cursor {
    /// Names and types of the columns.
    #[wasm_bindgen(getter)]
    pub fn columns(&self) -> Array {
        self.columns.clone()
    }

    /// The next rows, `maxRows` unless the query ends before: KPR1 buffers, none at the end.
    pub fn next(&self, max_rows: u32) -> Promise {
        self.with(move |mut open| async move {
            let buffers = open.rows(max_rows as usize).await?;
            Ok((open, buffers.into()))
        })
    }

    /// The next piece of the file: `{ bytes, last }`, where `last` ends a file; `undefined` after the last file.
    #[wasm_bindgen(js_name = nextPiece)]
    pub fn next_piece(&self) -> Promise {
        self.with(|mut open| async move {
            let piece = open.piece().await?;
            let object = piece.map_or(JsValue::UNDEFINED, |(bytes, last)| {
                let object = Object::new();
                set(&object, "bytes", &Uint8Array::from(bytes.as_slice()));
                set(&object, "last", &JsValue::from_bool(last));
                object.into()
            });
            Ok((open, object))
        })
    }

    /// Ends the query.
    pub fn close(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.open.borrow_mut().take();
    }

    fn with<F>(&self, work: impl FnOnce(Open) -> F + 'static) -> Promise
    where
        F: Future<Output = Result<(Open, JsValue)>> + 'static,
    {
        let (slot, cancelled) = (Rc::clone(&self.open), Arc::clone(&self.cancelled));
        promise(async move {
            let open = slot.borrow_mut().take();
            let open =
                open.ok_or_else(|| KalamError::new(ErrorCode::Closed, "the cursor is closed, or it is being read"))?;
            let (open, value) = work(open).await?;
            if !cancelled.load(Ordering::Relaxed) {
                *slot.borrow_mut() = Some(open);
            }
            Ok(value)
        })
    }
}

impl Open {
    async fn rows(&mut self, max_rows: usize) -> Result<Array> {
        let mut rows = Rows { schema: Arc::clone(self.cursor.schema()), batches: Vec::new() };
        let mut left = max_rows.max(1);
        while left > 0 {
            let Some(batch) = self.cursor.next(left).await? else { break };
            left -= batch.num_rows().min(left);
            rows.batches.push(batch);
        }
        let buffers = packed::encode(&rows, &self.types)?;
        Ok(buffers.iter().map(|buffer| JsValue::from(Uint8Array::from(buffer.as_slice()))).collect())
    }

    async fn piece(&mut self) -> Result<Option<(Vec<u8>, bool)>> {
        let file = self.file.as_mut().ok_or_else(|| KalamError::internal("a cursor without a file"))?;
        let mut piece = Vec::new();
        loop {
            let room = file.rows_per_file.map_or(u64::MAX, |most| most - file.rows);
            let most = usize::try_from(room).unwrap_or(usize::MAX).min(FILE_BATCH_ROWS);
            let Some(batch) = self.cursor.next(most).await? else {
                // Without any row there still is one file, which says what the columns are.
                if file.writer.is_none() && file.files > 0 {
                    return Ok(None);
                }
                let writer = file.writer(self.cursor.schema())?;
                piece.extend(writer.take()?);
                piece.extend(file.end()?);
                return Ok(Some((piece, true)));
            };
            file.rows += batch.num_rows() as u64;
            let writer = file.writer(self.cursor.schema())?;
            writer.write(&batch)?;
            piece.extend(writer.take()?);
            if file.rows_per_file.is_some_and(|most| file.rows >= most) {
                piece.extend(file.end()?);
                return Ok(Some((piece, true)));
            }
            if piece.len() >= PIECE_BYTES {
                return Ok(Some((piece, false)));
            }
        }
    }
}

impl File {
    fn writer(&mut self, schema: &arrow::datatypes::SchemaRef) -> Result<&mut FileWriter> {
        if self.writer.is_none() {
            self.writer = Some(FileWriter::new(self.format, Arc::clone(schema))?);
        }
        self.writer.as_mut().ok_or_else(|| KalamError::internal("a file without a writer"))
    }

    fn end(&mut self) -> Result<Vec<u8>> {
        self.rows = 0;
        self.files += 1;
        self.writer.take().map_or_else(|| Ok(Vec::new()), FileWriter::finish)
    }
}
