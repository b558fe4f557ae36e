//! CSV: decoded as it arrives, every value as text; the column's type parses it later, like a literal in SQL.
//!
//! Invariant: an error names the line of the file, also when quoted values span several lines: the line breaks within
//! values are counted as rows go by.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::{Decoder, Format as ArrowFormat};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;

use super::{BATCH_ROWS, invalid};
use crate::error::Result;
use crate::types::KalamDataType;

/// So many bytes are looked at to find the types of a table that is to be created.
const SAMPLE_BYTES: usize = 1 << 20;

/// How a CSV file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CsvOptions {
    /// Whether its first line names the columns; without, they are `column_1`, `column_2`, …
    pub header: bool,
    /// What stands between values.
    pub delimiter: u8,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self { header: true, delimiter: b',' }
    }
}

/// Decodes a CSV file piece by piece.
pub struct CsvDecoder {
    options: CsvOptions,
    /// Bytes kept until there is enough of them to know the columns.
    head: Vec<u8>,
    body: Option<Body>,
}

struct Body {
    decoder: Decoder,
    /// Types that the sample suggests, by column.
    columns: Vec<(String, KalamDataType)>,
    /// Line of the next row.
    line: u64,
}

/// Rows of text and the lines they stand in.
pub struct CsvBatch {
    /// Every column as text.
    pub batch: RecordBatch,
    first_line: u64,
}

impl CsvBatch {
    /// The line of a row, from 1.
    pub fn line(&self, row: usize) -> u64 {
        self.first_line + row as u64 + breaks(&self.batch.slice(0, row))
    }
}

/// Line breaks within the values of a batch.
fn breaks(batch: &RecordBatch) -> u64 {
    batch
        .columns()
        .iter()
        .flat_map(|c| c.as_string::<i32>().iter().flatten())
        .map(|text| text.bytes().filter(|&b| b == b'\n').count() as u64)
        .sum()
}

impl CsvDecoder {
    /// A decoder at the start of a file.
    pub fn new(options: CsvOptions) -> Self {
        Self { options, head: Vec::new(), body: None }
    }

    /// The columns with the types that the start of the file suggests, once they are known.
    pub fn columns(&self) -> Option<&[(String, KalamDataType)]> {
        self.body.as_ref().map(|b| b.columns.as_slice())
    }

    /// Decodes a piece.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<CsvBatch>> {
        if self.body.is_some() {
            return self.decode(bytes);
        }
        self.head.extend_from_slice(bytes);
        if self.head.len() < SAMPLE_BYTES { Ok(Vec::new()) } else { self.start() }
    }

    /// Decodes what is left.
    pub fn finish(&mut self) -> Result<Vec<CsvBatch>> {
        let mut batches = if self.body.is_none() { self.start()? } else { Vec::new() };
        batches.extend(self.decode(&[])?);
        if let Some(body) = &mut self.body {
            batches.extend(body.flush()?);
        }
        Ok(batches)
    }

    fn start(&mut self) -> Result<Vec<CsvBatch>> {
        let head = std::mem::take(&mut self.head);
        let format = ArrowFormat::default().with_header(self.options.header).with_delimiter(self.options.delimiter);
        // The sample ends with a whole line, or its last row would look cut off.
        let sample = match head.iter().rposition(|&b| b == b'\n') {
            Some(end) if head.len() >= SAMPLE_BYTES => &head[..=end],
            _ => &head[..],
        };
        let (inferred, _) = format
            .infer_schema(sample, None)
            .map_err(|e| invalid(format_args!("the CSV file cannot be read: {}", clean(&e.to_string()))))?;
        if inferred.fields().is_empty() {
            return Err(invalid("the CSV file is empty, expected a line with the names of its columns"));
        }
        let columns: Vec<(String, KalamDataType)> = inferred
            .fields()
            .iter()
            .map(|f| {
                let t = match f.data_type() {
                    DataType::Null => KalamDataType::Text,
                    _ => KalamDataType::from_arrow_field(f).unwrap_or(KalamDataType::Text),
                };
                (f.name().clone(), t)
            })
            .collect();
        let text: Vec<Field> = columns.iter().map(|(name, _)| Field::new(name, DataType::Utf8, true)).collect();
        let decoder = ReaderBuilder::new(Arc::new(Schema::new(text)))
            .with_header(self.options.header)
            .with_delimiter(self.options.delimiter)
            .with_batch_size(BATCH_ROWS)
            .build_decoder();
        self.body = Some(Body { decoder, columns, line: 1 + u64::from(self.options.header) });
        self.decode(&head)
    }

    fn decode(&mut self, mut bytes: &[u8]) -> Result<Vec<CsvBatch>> {
        let Some(body) = &mut self.body else { return Ok(Vec::new()) };
        let at_end = bytes.is_empty();
        let mut batches = Vec::new();
        loop {
            let read = body.decoder.decode(bytes).map_err(|e| invalid(clean(&e.to_string())))?;
            bytes = &bytes[read..];
            if body.decoder.capacity() == 0 {
                batches.extend(body.flush()?);
            }
            if at_end || bytes.is_empty() {
                return Ok(batches);
            }
        }
    }
}

impl Body {
    fn flush(&mut self) -> Result<Option<CsvBatch>> {
        let Some(batch) = self.decoder.flush().map_err(|e| invalid(clean(&e.to_string())))? else { return Ok(None) };
        let first_line = self.line;
        self.line += batch.num_rows() as u64 + breaks(&batch);
        Ok(Some(CsvBatch { batch, first_line }))
    }
}

/// Arrow's message without the name of its error type in front.
fn clean(message: &str) -> String {
    message.trim_start_matches("Csv error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Array;

    type Columns = Vec<(String, KalamDataType)>;

    fn read(text: &str, pieces: usize) -> Result<(Vec<CsvBatch>, Columns)> {
        let mut decoder = CsvDecoder::new(CsvOptions::default());
        let mut batches = Vec::new();
        for piece in text.as_bytes().chunks(pieces) {
            batches.extend(decoder.push(piece)?);
        }
        batches.extend(decoder.finish()?);
        let columns = decoder.columns().expect("known at the end").to_vec();
        Ok((batches, columns))
    }

    #[test]
    fn pieces_of_any_size_give_the_same_rows() -> Result<()> {
        let text = "id,name,score\n1,\"a,\n\"\"b\"\"\",0.5\n2,,1e3\n3,zażółć,\n";
        for pieces in [1, 3, 7, 1000] {
            let (batches, columns) = read(text, pieces)?;
            let types: Vec<_> = columns.iter().map(|c| c.1).collect();
            assert_eq!(types, [KalamDataType::BigInt, KalamDataType::Text, KalamDataType::Double]);
            let batch = &batches[0].batch;
            assert_eq!(batch.num_rows(), 3);
            let names = batch.column(1).as_string::<i32>();
            assert_eq!((names.value(0), names.is_null(1), names.value(2)), ("a,\n\"b\"", true, "zażółć"));
            assert_eq!([0, 1, 2].map(|row| batches[0].line(row)), [2, 4, 5]);
        }
        Ok(())
    }

    #[test]
    fn a_row_with_too_many_values_is_named_by_its_line() {
        let error = read("a,b\n1,2\n3,4,5\n", 100).err().expect("an error");
        assert!(error.message().contains("line 3"), "{error}");
        assert!(read("", 100).is_err());
    }
}
