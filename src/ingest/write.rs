//! Batches to files: Parquet, CSV, JSON, NDJSON, Arrow.
//!
//! Invariant: what is written here reads back through this module's readers to the same rows, and other programs read
//! it by the format's own rules: numbers as numbers, JSON columns as JSON, everything that the format has no type for
//! as the text that SQL prints.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::Format;
use crate::error::{KalamError, Result};
use crate::types::{KalamDataType, coerce_array};

/// Rows of a Parquet row group.
const ROW_GROUP_ROWS: usize = 131_072;

/// Writes one file, piece by piece.
pub struct FileWriter {
    schema: SchemaRef,
    types: Vec<KalamDataType>,
    encoder: Encoder,
}

enum Encoder {
    Parquet(Box<ArrowWriter<Vec<u8>>>),
    Arrow(Box<StreamWriter<Vec<u8>>>),
    /// Text; `rows` were written before.
    Text {
        out: Vec<u8>,
        rows: u64,
        format: Format,
    },
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWriter").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl FileWriter {
    /// A writer of a format; every field of `schema` is of a type that [`KalamDataType`] knows.
    pub fn new(format: Format, schema: SchemaRef) -> Result<Self> {
        let types = schema.fields().iter().map(|f| KalamDataType::from_arrow_field(f)).collect::<Result<_>>()?;
        let encoder = match format {
            Format::Parquet => {
                let level = ZstdLevel::try_new(1).map_err(KalamError::internal)?;
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(level))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .build();
                let writer = ArrowWriter::try_new(Vec::new(), SchemaRef::clone(&schema), Some(properties));
                Encoder::Parquet(Box::new(writer.map_err(KalamError::internal)?))
            }
            Format::Arrow => {
                Encoder::Arrow(Box::new(StreamWriter::try_new(Vec::new(), &schema).map_err(KalamError::internal)?))
            }
            Format::Csv | Format::Json | Format::NdJson => Encoder::Text { out: Vec::new(), rows: 0, format },
        };
        let mut writer = Self { schema, types, encoder };
        writer.begin()?;
        Ok(writer)
    }

    fn begin(&mut self) -> Result<()> {
        let Encoder::Text { out, format, .. } = &mut self.encoder else { return Ok(()) };
        match format {
            Format::Csv => {
                for (i, field) in self.schema.fields().iter().enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    csv_text(out, field.name());
                }
                out.push(b'\n');
            }
            Format::Json => out.push(b'['),
            _ => {}
        }
        Ok(())
    }

    /// Adds rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match &mut self.encoder {
            Encoder::Parquet(writer) => writer.write(batch).map_err(KalamError::internal),
            Encoder::Arrow(writer) => writer.write(batch).map_err(KalamError::internal),
            Encoder::Text { out, rows, format } => {
                let columns: Vec<TextColumn> = batch
                    .columns()
                    .iter()
                    .zip(&self.types)
                    .zip(self.schema.fields())
                    .map(|((array, data_type), field)| TextColumn::new(array, data_type, field.name()))
                    .collect::<Result<_>>()?;
                for row in 0..batch.num_rows() {
                    match format {
                        Format::Csv => csv_row(out, &columns, row),
                        Format::Json => {
                            out.extend_from_slice(if *rows > 0 { b",\n" } else { b"\n" });
                            json_row(out, &columns, row)?;
                        }
                        _ => {
                            json_row(out, &columns, row)?;
                            out.push(b'\n');
                        }
                    }
                    *rows += 1;
                }
                Ok(())
            }
        }
    }

    /// The bytes written since the last call; for Parquet only complete row groups.
    pub fn take(&mut self) -> Result<Vec<u8>> {
        Ok(match &mut self.encoder {
            // The writer counts offsets by itself: what it wrote may be taken away.
            Encoder::Parquet(writer) => std::mem::take(writer.inner_mut()),
            Encoder::Arrow(writer) => std::mem::take(writer.get_mut()),
            Encoder::Text { out, .. } => std::mem::take(out),
        })
    }

    /// Ends the file and gives its last bytes.
    pub fn finish(self) -> Result<Vec<u8>> {
        match self.encoder {
            Encoder::Parquet(writer) => writer.into_inner().map_err(KalamError::internal),
            Encoder::Arrow(writer) => writer.into_inner().map_err(KalamError::internal),
            Encoder::Text { mut out, format, rows } => {
                if format == Format::Json {
                    out.extend_from_slice(if rows > 0 { b"\n]\n" } else { b"]\n" });
                }
                Ok(out)
            }
        }
    }
}

/// A column as text, and how JSON writes it.
struct TextColumn {
    name: String,
    values: ArrayRef,
    /// JSON takes the text as it is.
    bare: bool,
}

impl TextColumn {
    fn new(array: &ArrayRef, data_type: &KalamDataType, name: &str) -> Result<Self> {
        use KalamDataType as T;
        let values = match data_type {
            T::Text | T::Json | T::File => cast(array, &DataType::Utf8).map_err(KalamError::internal)?,
            _ => coerce_array(array, &T::Text, name)?,
        };
        let bare = matches!(
            data_type,
            T::Boolean | T::SmallInt | T::Int | T::BigInt | T::Double | T::Float | T::Json | T::Embedding(_)
        );
        Ok(Self { name: serde_json::to_string(name).map_err(KalamError::internal)?, values, bare })
    }

    fn get(&self, row: usize) -> Option<&str> {
        let texts = self.values.as_string::<i32>();
        texts.is_valid(row).then(|| texts.value(row))
    }
}

fn csv_row(out: &mut Vec<u8>, columns: &[TextColumn], row: usize) {
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        match column.get(row) {
            // NULL is nothing at all, so that it differs from an empty text.
            None => {}
            Some("") => out.extend_from_slice(b"\"\""),
            Some(text) => csv_text(out, text),
        }
    }
    out.push(b'\n');
}

fn csv_text(out: &mut Vec<u8>, text: &str) {
    let plain = !text.bytes().any(|b| matches!(b, b',' | b'"' | b'\n' | b'\r'))
        && text.trim().len() == text.len()
        && !text.is_empty();
    if plain {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

fn json_row(out: &mut Vec<u8>, columns: &[TextColumn], row: usize) -> Result<()> {
    out.push(b'{');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(column.name.as_bytes());
        out.push(b':');
        match column.get(row) {
            None => out.extend_from_slice(b"null"),
            // JSON has no NaN and no infinity: they are text, which is read back as what it says.
            Some(text) if column.bare && !matches!(text, "NaN" | "Infinity" | "-Infinity") => {
                out.extend_from_slice(text.as_bytes());
            }
            Some(text) => serde_json::to_writer(&mut *out, text).map_err(KalamError::internal)?,
        }
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;
    use bytes::Bytes;

    use super::super::open;
    use super::*;
    use crate::types::{ColumnBuilder, Value};

    fn column(data_type: KalamDataType, values: &[Value]) -> Result<ArrayRef> {
        let mut builder = ColumnBuilder::new(&data_type, "c", values.len());
        values.iter().try_for_each(|v| builder.append(v))?;
        Ok(builder.finish())
    }

    /// Two columns, with everything that quoting has to get right.
    fn sample() -> Result<RecordBatch> {
        use KalamDataType as T;
        let texts = ["plain", "", "a,b", "say \"hi\"", "two\nlines", " padded ", "日本 🦀", "null"];
        let texts: Vec<Value> = texts.iter().map(|t| Value::Text((*t).to_owned())).chain([Value::Null]).collect();
        let numbers: Vec<Value> = (0..8).map(|n| Value::BigInt(i64::MAX - n)).chain([Value::Null]).collect();
        let types = [("t", T::Text), ("n", T::BigInt)];
        let fields: Vec<_> = types.iter().map(|(name, ty)| ty.arrow_field(name, true, 0)).collect();
        let columns = vec![column(T::Text, &texts)?, column(T::BigInt, &numbers)?];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(KalamError::internal)
    }

    fn write(format: Format, batch: &RecordBatch) -> Result<Vec<u8>> {
        let mut writer = FileWriter::new(format, batch.schema())?;
        let mut bytes = Vec::new();
        // In two halves, with what is done taken away in between.
        for (start, len) in [(0, 4), (4, batch.num_rows() - 4)] {
            writer.write(&batch.slice(start, len))?;
            bytes.extend(writer.take()?);
        }
        bytes.extend(writer.finish()?);
        Ok(bytes)
    }

    #[test]
    fn what_is_written_reads_back() -> Result<()> {
        let batch = sample()?;
        for format in [Format::Parquet, Format::Arrow, Format::Json, Format::NdJson] {
            let bytes = write(format, &batch)?;
            let back: Vec<RecordBatch> = open(format, Bytes::from(bytes))?.collect::<Result<_>>()?;
            let back = arrow::compute::concat_batches(&back[0].schema(), &back).map_err(KalamError::internal)?;
            for column in batch.schema().fields() {
                let (Some(was), Some(is)) = (batch.column_by_name(column.name()), back.column_by_name(column.name()))
                else {
                    panic!("{format:?} lost a column");
                };
                let is = coerce_array(is, &KalamDataType::from_arrow_field(column)?, column.name())?;
                assert_eq!(was.as_ref(), is.as_ref(), "{format:?}, {}", column.name());
            }
        }
        Ok(())
    }

    #[test]
    fn csv_tells_null_from_empty_text() -> Result<()> {
        let text = String::from_utf8(write(Format::Csv, &sample()?)?).expect("UTF-8");
        let lines: Vec<&str> = text.split('\n').collect();
        assert_eq!(&lines[..3], ["t,n", "plain,9223372036854775807", "\"\",9223372036854775806"]);
        assert!(text.contains("\"say \"\"hi\"\"\"") && text.contains("\" padded \""));
        assert_eq!(lines[lines.len() - 2], ",");
        Ok(())
    }

    #[test]
    fn json_is_json() -> Result<()> {
        use KalamDataType as T;
        let values = [Value::Json("{\"a\":[1,null]}".into()), Value::Null];
        let doubles = [Value::Double(f64::NAN), Value::Double(1.5)];
        let fields = vec![T::Json.arrow_field("j", true, 0), T::Double.arrow_field("odd \"name\"", true, 0)];
        let columns = vec![column(T::Json, &values)?, column(T::Double, &doubles)?];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(KalamError::internal)?;
        let mut writer = FileWriter::new(Format::Json, batch.schema())?;
        writer.write(&batch)?;
        let value: serde_json::Value = serde_json::from_slice(&writer.finish()?).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!([
                {"j": {"a": [1, null]}, "odd \"name\"": "NaN"},
                {"j": null, "odd \"name\"": 1.5},
            ])
        );
        let empty = FileWriter::new(Format::Json, batch.schema())?.finish()?;
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&empty).expect("JSON"), serde_json::json!([]));
        Ok(())
    }
}
