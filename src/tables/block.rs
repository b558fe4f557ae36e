//! Column blocks: how rows lie in a log record.
//!
//! ```text
//! u8   compression   0 none, 1 LZ4 block with its length before it (lz4_flex "size prepended")
//! then, compressed or not, column after column:
//!   u8  has nulls    0 or 1; if 1: a bitmap of ceil(rows / 8) bytes, bit set = valid, lowest bit first
//!   fixed width      rows × width bytes, little endian (null slots hold anything)
//!   BOOLEAN          a bitmap of ceil(rows / 8) bytes
//!   TEXT, BYTES      rows × u32 lengths, then the bytes
//! ```
//!
//! The types are not written: the record names its columns, and the table's definition says what they are. Invariant:
//! decoding checks every length against what is there before it is used, so damaged bytes give an error, never a
//! panic or a wrong row.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, UInt32Array, downcast_primitive_array, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::compute;
use arrow::datatypes::DataType;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;

use super::bytes::Cursor;
use crate::error::{ErrorCode, KalamError, Result};
use crate::types::slice_bytes;

/// Below this many bytes compression does not pay.
const COMPRESS_FROM: usize = 512;

/// So much beyond twice its own size a column may keep of what it was cut from.
const SHARED_BYTES: usize = 1024;

const PLAIN: u8 = 0;
const LZ4: u8 = 1;

/// How a type's values lie.
enum Layout {
    Bits,
    Fixed(usize),
    Variable,
}

fn layout(data_type: &DataType) -> Result<Layout> {
    Ok(match data_type {
        DataType::Boolean => Layout::Bits,
        DataType::Utf8 | DataType::Binary => Layout::Variable,
        DataType::FixedSizeBinary(width) => Layout::Fixed(*width as usize),
        DataType::FixedSizeList(item, n) => match layout(item.data_type())? {
            Layout::Fixed(width) => Layout::Fixed(width * *n as usize),
            _ => return Err(unsupported(data_type)),
        },
        other => match other.primitive_width() {
            Some(width) => Layout::Fixed(width),
            None => return Err(unsupported(data_type)),
        },
    })
}

fn unsupported(data_type: &DataType) -> KalamError {
    KalamError::internal(format_args!("no column block layout for {data_type}"))
}

/// Encodes all rows of a batch.
pub fn encode(batch: &RecordBatch) -> Result<Bytes> {
    let mut plain = Vec::with_capacity(1 + batch.num_columns() + memory_size(batch.columns()));
    plain.push(PLAIN);
    for column in batch.columns() {
        encode_column(column, &mut plain)?;
    }
    if plain.len() < COMPRESS_FROM {
        return Ok(plain.into());
    }
    let packed = lz4_flex::block::compress_prepend_size(&plain[1..]);
    if packed.len() >= plain.len() - plain.len() / 8 {
        return Ok(plain.into());
    }
    let mut out = Vec::with_capacity(packed.len() + 1);
    out.push(LZ4);
    out.extend_from_slice(&packed);
    Ok(out.into())
}

/// How many bytes a block has when it is not compressed, as far as it tells.
pub fn plain_len(block: &[u8]) -> usize {
    match block {
        [LZ4, a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]) as usize,
        _ => block.len(),
    }
}

fn encode_column(column: &ArrayRef, out: &mut Vec<u8>) -> Result<()> {
    let rows = column.len();
    match column.nulls().filter(|n| n.null_count() > 0) {
        Some(nulls) => {
            out.push(1);
            push_bits(nulls.inner(), out);
        }
        None => out.push(0),
    }
    downcast_primitive_array!(
        column => out.extend_from_slice(column.values().inner()),
        DataType::Boolean => push_bits(column.as_boolean().values(), out),
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            push_texts(texts.value_offsets(), texts.value_data(), out);
        }
        DataType::Binary => {
            let texts = column.as_binary::<i32>();
            push_texts(texts.value_offsets(), texts.value_data(), out);
        }
        DataType::FixedSizeBinary(width) => {
            let (array, width) = (column.as_fixed_size_binary(), *width as usize);
            let start = array.offset() * width;
            out.extend_from_slice(&array.values()[start..start + rows * width]);
        }
        other => match layout(other)? {
            Layout::Fixed(width) => {
                let data = column.to_data();
                let (child, items) = match (other, data.child_data()) {
                    (DataType::FixedSizeList(_, items), [child]) => (child, *items as usize),
                    _ => return Err(unsupported(other)),
                };
                let start = data.offset() + child.offset() / items;
                out.extend_from_slice(&child.buffers()[0][start * width..(start + rows) * width]);
            }
            _ => return Err(unsupported(other)),
        },
    );
    Ok(())
}

fn push_texts(offsets: &[i32], bytes: &[u8], out: &mut Vec<u8>) {
    for pair in offsets.windows(2) {
        out.extend_from_slice(&((pair[1] - pair[0]) as u32).to_le_bytes());
    }
    if let (Some(first), Some(last)) = (offsets.first(), offsets.last()) {
        out.extend_from_slice(&bytes[*first as usize..*last as usize]);
    }
}

fn push_bits(bits: &BooleanBuffer, out: &mut Vec<u8>) {
    let packed = bits.sliced();
    out.extend_from_slice(&packed[..bits.len().div_ceil(8)]);
}

/// Decodes `rows` rows of the given column types.
pub fn decode(block: &[u8], types: &[DataType], rows: usize) -> Result<Vec<ArrayRef>> {
    let damaged = |what: &str| {
        KalamError::new(ErrorCode::DataCorrupted, format!("a column block of {rows} rows does not decode: {what}"))
    };
    let (&compression, body) = block.split_first().ok_or_else(|| damaged("it is empty"))?;
    let unpacked;
    let body = match compression {
        PLAIN => body,
        LZ4 => {
            let size = body.first_chunk::<4>().map_or(0, |n| u32::from_le_bytes(*n) as usize);
            // LZ4 packs at most 255 to 1: a greater length is damage, and must not be allocated.
            if size > body.len().saturating_mul(255) {
                return Err(damaged(&format!("{} bytes cannot unpack to {size}", body.len())));
            }
            unpacked = lz4_flex::block::decompress_size_prepended(body).map_err(|e| damaged(&e.to_string()))?;
            unpacked.as_slice()
        }
        other => return Err(damaged(&format!("compression {other}, expected 0 or 1"))),
    };
    let mut cursor = Cursor::new("a column block", body);
    let columns = types.iter().map(|t| decode_column(&mut cursor, t, rows)).collect::<Result<Vec<_>>>()?;
    cursor.finish()?;
    Ok(columns)
}

fn decode_column(cursor: &mut Cursor<'_>, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
    let nulls = match cursor.u8()? {
        0 => None,
        1 => {
            let bits = cursor.take(rows.div_ceil(8))?;
            Some(NullBuffer::new(BooleanBuffer::new(Buffer::from(bits), 0, rows)))
        }
        other => return Err(cursor.damaged(format_args!("{other} where 0 or 1 says whether there are NULLs"))),
    };
    let builder = ArrayData::builder(data_type.clone()).len(rows).nulls(nulls);
    let builder = match layout(data_type)? {
        Layout::Bits => {
            let bits = cursor.take(rows.div_ceil(8))?;
            builder.add_buffer(Buffer::from(bits))
        }
        Layout::Fixed(width) => {
            let bytes = cursor.take(rows.saturating_mul(width))?;
            // Copies into an aligned buffer: the record's bytes may lie anywhere.
            let values = Buffer::from(bytes);
            match data_type {
                DataType::FixedSizeList(item, n) => builder.add_child_data(
                    ArrayData::builder(item.data_type().clone())
                        .len(rows * *n as usize)
                        .add_buffer(values)
                        .build()
                        .map_err(KalamError::internal)?,
                ),
                _ => builder.add_buffer(values),
            }
        }
        Layout::Variable => {
            let lengths = cursor.take(rows.saturating_mul(4))?;
            let mut offsets = Vec::with_capacity(rows + 1);
            let mut end = 0i32;
            offsets.push(end);
            for length in lengths.chunks_exact(4) {
                let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
                let next = i32::try_from(length).ok().and_then(|l| end.checked_add(l));
                end = next.ok_or_else(|| cursor.damaged(format_args!("a value of {length} bytes")))?;
                offsets.push(end);
            }
            let bytes = cursor.take(end as usize)?;
            builder.add_buffer(Buffer::from_vec(offsets)).add_buffer(Buffer::from(bytes))
        }
    };
    // `build` validates what the layout does not: UTF-8, above all.
    builder.build().map(make_array).map_err(|e| cursor.damaged(e))
}

/// Bytes that a batch's rows hold in memory.
pub fn memory_size(columns: &[ArrayRef]) -> usize {
    columns.iter().map(|column| slice_bytes(column.as_ref())).sum()
}

/// The batch with columns that hold no more memory than its rows need: a slice of a much longer column is copied, because
/// whoever keeps it would keep all of that.
pub fn unshared(batch: &RecordBatch) -> Result<RecordBatch> {
    let shares = |column: &ArrayRef| {
        let needed = slice_bytes(column.as_ref());
        column.get_buffer_memory_size() > needed.saturating_mul(2).saturating_add(SHARED_BYTES)
    };
    if !batch.columns().iter().any(shares) {
        return Ok(batch.clone());
    }
    let own = |column: &ArrayRef| {
        if !shares(column) {
            return Ok(Arc::clone(column));
        }
        let all = UInt32Array::from_iter_values(0..column.len() as u32);
        compute::take(column, &all, None).map_err(KalamError::internal)
    };
    let columns = batch.columns().iter().map(own).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options).map_err(KalamError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::*;
    use arrow::datatypes::{Field, Float32Type, Schema};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn batch(values: &[Row]) -> RecordBatch {
        let lists = FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(
            values.iter().map(|v| v.3.map(|f| vec![Some(f), Some(f + 1.0)])),
            2,
        );
        let columns: Vec<ArrayRef> = vec![
            Arc::new(values.iter().map(|v| v.0).collect::<Int64Array>()),
            Arc::new(values.iter().map(|v| v.1.clone()).collect::<StringArray>()),
            Arc::new(values.iter().map(|v| v.2).collect::<BooleanArray>()),
            Arc::new(lists),
        ];
        let fields: Vec<Field> =
            columns.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one length")
    }

    #[test]
    fn a_slice_that_is_kept_does_not_keep_the_column_it_was_cut_from() -> Result<()> {
        let all = batch(&vec![(Some(1), Some("some text".into()), Some(true), Some(0.5)); 10_000]);
        let row = unshared(&all.slice(5_000, 1))?;
        assert_eq!(row, all.slice(5_000, 1));
        let kept: usize = row.columns().iter().map(|c| c.get_buffer_memory_size()).sum();
        assert!(kept < 2_000, "one row keeps {kept} bytes");
        // What is nearly all of it is shared.
        let most = unshared(&all.slice(1, 9_999))?;
        assert_eq!(most.column(0).to_data().buffers()[0].data_ptr(), all.column(0).to_data().buffers()[0].data_ptr());
        Ok(())
    }

    type Row = (Option<i64>, Option<String>, Option<bool>, Option<f32>);

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let float = prop::option::of(-1e6f32..1e6);
        prop::collection::vec((any::<Option<i64>>(), any::<Option<String>>(), any::<Option<bool>>(), float), 0..200)
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes(rows in rows(), skip in 0usize..20, take in 0usize..100) {
            let whole = batch(&rows);
            let skip = skip.min(whole.num_rows());
            let part = whole.slice(skip, take.min(whole.num_rows() - skip));
            let types: Vec<DataType> = part.columns().iter().map(|c| c.data_type().clone()).collect();
            let back = decode(&encode(&part)?, &types, part.num_rows())?;
            for (a, b) in part.columns().iter().zip(&back) {
                prop_assert_eq!(a, b);
                prop_assert_eq!(slice_bytes(a), a.to_data().get_slice_memory_size()?);
            }
        }

        #[test]
        fn a_block_tells_how_long_it_was(rows in 1usize..5000, text in "[ab]{0,300}") {
            let texts: ArrayRef = Arc::new(arrow::array::StringArray::from(vec![text.as_str(); rows]));
            let batch = RecordBatch::try_from_iter([("t", texts)])?;
            let plain = 1 + rows * (4 + text.len());
            let told = plain_len(&encode(&batch)?);
            prop_assert!(told == plain || told == plain + 1, "{} and not {}", told, plain);
        }

        #[test]
        fn damaged_bytes_never_panic(rows in rows(), cut: prop::sample::Index, at: prop::sample::Index, byte: u8) {
            let whole = batch(&rows);
            let types: Vec<DataType> = whole.columns().iter().map(|c| c.data_type().clone()).collect();
            let mut bytes = encode(&whole)?.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode(&bytes, &types, whole.num_rows());
            let cut = cut.index(bytes.len());
            prop_assert!(decode(&bytes[..cut], &types, whole.num_rows()).is_err() || whole.num_rows() == 0);
        }
    }
}
