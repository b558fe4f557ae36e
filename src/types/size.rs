//! How many bytes rows take.
//!
//! Invariant: it is what `ArrayData::get_slice_memory_size` gives, without taking the array apart. That allocates several
//! times for each column, and a row that is inserted by itself is measured four times on its way.

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;

/// Bytes of the rows of an array, of a slice those of the slice alone.
pub fn slice_bytes(array: &dyn Array) -> usize {
    let rows = array.len();
    let values = match array.data_type() {
        DataType::Boolean => rows.div_ceil(8),
        DataType::Utf8 => texts(array.as_string::<i32>().value_offsets()),
        DataType::Binary => texts(array.as_binary::<i32>().value_offsets()),
        DataType::FixedSizeBinary(width) => rows * *width as usize,
        other => match other.primitive_width() {
            Some(width) => rows * width,
            None => return array.to_data().get_slice_memory_size().unwrap_or(0),
        },
    };
    values + if array.null_count() > 0 { rows.div_ceil(8) } else { 0 }
}

/// Bytes of values of any length and of their offsets.
fn texts(offsets: &[i32]) -> usize {
    let all = offsets.first().zip(offsets.last()).map_or(0, |(first, last)| (last - first) as usize);
    size_of_val(offsets) + all
}
