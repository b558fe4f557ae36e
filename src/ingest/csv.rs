//! CSV: decoded as it arrives, every value as text; the column's type parses it later, like a literal in SQL.
//!
//! Invariants: an error names the line of the file, also when quoted values span several lines: the line breaks within
//! values are counted as rows go by. Nothing between two delimiters is NULL, and `""` an empty text, as it is written: the
//! decoder takes both for NULL, so `""` goes through it as a mark.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::{Decoder, Format as ArrowFormat};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;

use super::{BATCH_ROWS, invalid};
use crate::error::{KalamError, Result};
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
    empties: Empties,
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
    has_empties: bool,
}

impl CsvBatch {
    /// Makes NULL of empty texts, but for the columns that hold text: in a file that quotes everything a number has no
    /// other way to be missing.
    pub fn keep_empties(&mut self, is_text: impl Fn(&str) -> bool) -> Result<()> {
        if self.has_empties {
            let schema = self.batch.schema();
            let keeps: Vec<bool> = schema.fields().iter().map(|f| is_text(f.name())).collect();
            self.batch = replaced(&self.batch, |place, text| text.is_empty() && !keeps[place], None)?;
        }
        Ok(())
    }

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
        let empties = Empties::new(self.options.delimiter);
        self.body = Some(Body { decoder, empties, columns, line: 1 + u64::from(self.options.header) });
        self.decode(&head)
    }

    fn decode(&mut self, bytes: &[u8]) -> Result<Vec<CsvBatch>> {
        let Some(body) = &mut self.body else { return Ok(Vec::new()) };
        let at_end = bytes.is_empty();
        let marked = if at_end { body.empties.finish() } else { body.empties.mark(bytes) };
        let mut bytes = &marked[..];
        if bytes.is_empty() && !at_end {
            // All of it is held back, and nothing would tell the decoder that this is the end.
            return Ok(Vec::new());
        }
        let mut batches = Vec::new();
        loop {
            let read = body.decoder.decode(bytes).map_err(|e| invalid(clean(&e.to_string())))?;
            bytes = &bytes[read..];
            if body.decoder.capacity() == 0 {
                batches.extend(body.flush()?);
            }
            if bytes.is_empty() {
                if at_end && read > 0 {
                    continue;
                }
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
        let has_empties = self.empties.found;
        let batch = if has_empties { replaced(&batch, |_, text| text == MARK, Some(""))? } else { batch };
        Ok(Some(CsvBatch { batch, first_line, has_empties }))
    }
}

/// What `""` is while it goes through the decoder. No text is it by chance: U+10FFFF is no character.
const MARK: &str = "\u{10FFFF}empty\u{10FFFF}";

/// A batch with other texts.
fn replaced(batch: &RecordBatch, with: impl Fn(usize, &str) -> bool, by: Option<&str>) -> Result<RecordBatch> {
    let columns = batch.columns().iter().enumerate().map(|(place, column)| {
        let texts = column.as_string::<i32>().iter();
        let texts = texts.map(|text| if text.is_some_and(|text| with(place, text)) { by } else { text });
        Arc::new(texts.collect::<StringArray>()) as ArrayRef
    });
    RecordBatch::try_new(batch.schema(), columns.collect()).map_err(KalamError::internal)
}

/// Where in a value the last byte stood.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    Bare,
    /// Within quotes; whether nothing has come since they were opened.
    Quoted(bool),
    /// Behind a quote that ends the value or is the first of two; whether the value is empty so far. That of an empty
    /// value is held back.
    Quote(bool),
}

/// Puts [`MARK`] into every `""`.
struct Empties {
    delimiter: u8,
    place: Place,
    /// Whether there was one.
    found: bool,
}

impl Empties {
    fn new(delimiter: u8) -> Self {
        Self { delimiter, place: Place::Start, found: false }
    }

    fn mark<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        // Most files have no two quotes that touch: they go as they are, but for a last quote that is held back.
        let mut out = (self.place == Place::Quote(true)).then(Vec::new);
        for (i, &byte) in bytes.iter().enumerate() {
            if self.place == Place::Quote(true) {
                let out = out.get_or_insert_with(|| bytes[..i - 1].to_vec());
                if byte != b'"' {
                    out.extend_from_slice(MARK.as_bytes());
                    self.found = true;
                }
                out.push(b'"');
            }
            let ends = byte == self.delimiter || byte == b'\n' || byte == b'\r';
            self.place = match self.place {
                Place::Start if byte == b'"' => Place::Quoted(true),
                Place::Quoted(empty) if byte == b'"' => Place::Quote(empty),
                Place::Quoted(_) => Place::Quoted(false),
                Place::Quote(_) if byte == b'"' => Place::Quoted(false),
                _ if ends => Place::Start,
                _ => Place::Bare,
            };
            if self.place != Place::Quote(true)
                && let Some(out) = &mut out
            {
                out.push(byte);
            }
        }
        let held = usize::from(self.place == Place::Quote(true));
        out.map_or(Cow::Borrowed(&bytes[..bytes.len() - held.min(bytes.len())]), Cow::Owned)
    }

    /// What was held back at the end of the file.
    fn finish(&mut self) -> Cow<'static, [u8]> {
        if self.place != Place::Quote(true) {
            return Cow::Borrowed(&[]);
        }
        self.place = Place::Bare;
        self.found = true;
        Cow::Owned([MARK.as_bytes(), b"\""].concat())
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
    fn quotes_with_nothing_in_them_are_an_empty_text_and_nothing_is_null() -> Result<()> {
        let values = [
            (r#""""#, Some("")),
            ("", None),
            (r#""""""#, Some("\"")),
            (r#""a""""#, Some("a\"")),
            ("c", Some("c")),
            (r#" """#, Some(" \"\"")),
            (r#"d"""#, Some("d\"\"")),
            (r#""e,""""""#, Some("e,\"\"")),
        ];
        for end in ["\n", "\r\n", ""] {
            for rotation in 0..values.len() {
                let mut values = values;
                values.rotate_left(rotation);
                let names: Vec<String> = (0..values.len()).map(|i| format!("c{i}")).collect();
                let row: Vec<&str> = values.iter().map(|(written, _)| *written).collect();
                let row = row.join(",");
                let text = format!("{}\n{row}\n{row}{end}", names.join(","));
                let expected: Vec<Option<String>> = values.iter().map(|(_, text)| text.map(str::to_owned)).collect();
                for pieces in [1, 2, 3, 1000] {
                    let (mut batches, _) = read(&text, pieces)?;
                    assert_eq!(batches[0].batch.num_rows(), 2, "{text}");
                    let found = |batch: &CsvBatch, row: usize| -> Vec<Option<String>> {
                        let columns = batch.batch.columns().iter().map(|c| c.as_string::<i32>());
                        columns.map(|c| c.is_valid(row).then(|| c.value(row).to_owned())).collect()
                    };
                    assert_eq!(found(&batches[0], 0), expected, "{text}");
                    assert_eq!(found(&batches[0], 1), expected, "{text}");
                    batches[0].keep_empties(|name| name != "c0")?;
                    let first = expected[0].clone().filter(|text| !text.is_empty());
                    assert_eq!(found(&batches[0], 1)[0], first, "{text}");
                    assert_eq!(found(&batches[0], 1)[1..], expected[1..], "{text}");
                }
            }
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
