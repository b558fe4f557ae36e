//! Values of columns that an INSERT leaves out.

use arrow::array::ArrayRef;
use uuid::Uuid;

use super::executor::Execution;
use crate::error::Result;
use crate::platform;
use crate::schema::{ColumnDefault, ColumnDefinition, DefaultFunction};
use crate::types::{ColumnBuilder, Value};

/// The default of a column for so many rows.
pub(super) fn default_column(execution: &Execution<'_>, column: &ColumnDefinition, rows: usize) -> Result<ArrayRef> {
    let mut builder = ColumnBuilder::new(&column.data_type, &column.name, rows);
    match &column.default {
        ColumnDefault::Function(DefaultFunction::SnowflakeId) => {
            for seq in execution.executor.store().seqs().take(rows as u64).iter() {
                builder.append(&Value::BigInt(seq))?;
            }
        }
        ColumnDefault::Function(DefaultFunction::UuidV7) => {
            for _ in 0..rows {
                builder.append(&Value::Uuid(*Uuid::now_v7().as_bytes()))?;
            }
        }
        ColumnDefault::Function(DefaultFunction::Ulid) => {
            for _ in 0..rows {
                builder.append(&Value::Text(ulid()))?;
            }
        }
        ColumnDefault::Function(DefaultFunction::Now) => {
            let now = Value::DateTime(execution.started_us);
            for _ in 0..rows {
                builder.append(&now)?;
            }
        }
        ColumnDefault::Function(DefaultFunction::CurrentUser) => {
            let user = Value::Text(execution.user.to_string());
            for _ in 0..rows {
                builder.append(&user)?;
            }
        }
        literal => {
            let value = literal.value(&column.data_type)?.unwrap_or(Value::Null);
            for _ in 0..rows {
                builder.append(&value)?;
            }
        }
    }
    Ok(builder.finish())
}

/// A ULID (github.com/ulid/spec): 48 bits of milliseconds and 80 random bits in Crockford's base 32.
pub(super) fn ulid() -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let random = Uuid::new_v4().as_u128() & ((1 << 80) - 1);
    let bits = (u128::from(platform::now_ms() & ((1 << 48) - 1)) << 80) | random;
    (0..26).rev().map(|i| DIGITS[((bits >> (i * 5)) & 31) as usize] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulids_are_26_digits_and_start_with_the_time() {
        let (a, b) = (ulid(), ulid());
        assert_eq!((a.len(), a.starts_with("01")), (26, true));
        assert_ne!(a, b);
        assert_eq!(a[..6], b[..6]);
    }
}
