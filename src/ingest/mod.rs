//! Files in and out: Parquet, CSV, JSON, NDJSON, Arrow.
//!
//! Invariant: nothing of the database is written here. A decoder turns bytes into batches with the file's own column names and types,
//! or fails with `INVALID_DATA` that says where; what becomes of the batches is the importer's business, so a file
//! that fails half-way leaves no trace.

mod csv;
mod json;
mod write;

use std::io::Cursor;

use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::{ErrorCode, KalamError, Result};

pub use csv::{CsvBatch, CsvDecoder, CsvOptions};
pub use write::FileWriter;

/// Rows per batch that a decoder gives.
const BATCH_ROWS: usize = 32_768;

/// The formats that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Apache Parquet, with Snappy, LZ4, Zstandard or no compression.
    Parquet,
    /// Comma-separated values.
    Csv,
    /// One JSON array of objects.
    Json,
    /// One JSON object per line.
    NdJson,
    /// Arrow IPC, as a file or as a stream.
    Arrow,
}

impl Format {
    /// Parses the name; the error lists the names there are.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "parquet" => Format::Parquet,
            "csv" => Format::Csv,
            "json" => Format::Json,
            "ndjson" => Format::NdJson,
            "arrow" => Format::Arrow,
            other => {
                return Err(KalamError::new(
                    ErrorCode::InvalidOption,
                    format!("format is '{other}', expected 'parquet', 'csv', 'json', 'ndjson' or 'arrow'"),
                ));
            }
        })
    }
}

/// Batches of a file that is there as a whole, one after the other.
pub struct Batches {
    /// Rows of the whole file, if it says.
    pub total_rows: Option<u64>,
    batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send>,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}

/// Opens a file of a format that is read as a whole (every one but CSV).
pub fn open(format: Format, bytes: Bytes) -> Result<Batches> {
    match format {
        Format::Parquet => parquet(bytes),
        Format::Arrow => arrow(bytes),
        Format::Json => json::array(&bytes),
        Format::NdJson => json::lines(&bytes),
        Format::Csv => Err(KalamError::internal("CSV is read with its own decoder")),
    }
}

fn invalid(what: impl std::fmt::Display) -> KalamError {
    KalamError::new(ErrorCode::InvalidData, what.to_string())
}

fn parquet(bytes: Bytes) -> Result<Batches> {
    let length = bytes.len();
    let broken = move |e: &dyn std::fmt::Display| {
        invalid(format_args!("the Parquet file of {length} bytes cannot be read: {e}"))
            .with_hint("The file may be cut short or damaged; compare its size with the original's.")
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| broken(&e))?;
    let total = builder.metadata().file_metadata().num_rows();
    let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|e| broken(&e))?;
    Ok(Batches {
        total_rows: u64::try_from(total).ok(),
        batches: Box::new(reader.map(move |batch| batch.map_err(|e| broken(&e)))),
    })
}

fn arrow(bytes: Bytes) -> Result<Batches> {
    let broken = |e: arrow::error::ArrowError| invalid(format_args!("the Arrow data cannot be read: {e}"));
    let cursor = Cursor::new(bytes.clone());
    let batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send> = if bytes.starts_with(b"ARROW1") {
        Box::new(FileReader::try_new(cursor, None).map_err(broken)?.map(move |b| b.map_err(broken)))
    } else {
        Box::new(StreamReader::try_new(cursor, None).map_err(broken)?.map(move |b| b.map_err(broken)))
    };
    Ok(Batches { total_rows: None, batches })
}
