//! Functions whose values the engine makes: ids. The user that asks is in `who.rs`.
//!
//! Invariant: ids come from the generators that column defaults use, so an id of a query and one of a default never
//! are the same.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryArray, Int64Array, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use uuid::Uuid;

use super::defaults::ulid;
use crate::error::KalamError;
use crate::schema::DefaultFunction;
use crate::tables::TableStore;

/// The functions, for a store whose sequence numbers are the ids.
pub fn functions(store: &Arc<TableStore>) -> Vec<Arc<ScalarUDF>> {
    use DefaultFunction as F;
    let with = |function: F, name: &'static str, aliases: &[&str], volatility| {
        let aliases = aliases.iter().map(|&a| a.to_owned()).collect();
        let store = Arc::clone(store);
        let generated = Generated { function, name, aliases, store, signature: Signature::nullary(volatility) };
        Arc::new(ScalarUDF::new_from_impl(generated))
    };
    vec![
        with(F::SnowflakeId, "snowflake_id", &[], Volatility::Volatile),
        with(F::UuidV7, "uuid_v7", &["uuidv7"], Volatility::Volatile),
        with(F::Ulid, "ulid", &[], Volatility::Volatile),
    ]
}

#[derive(Debug)]
struct Generated {
    function: DefaultFunction,
    name: &'static str,
    aliases: Vec<String>,
    store: Arc<TableStore>,
    signature: Signature,
}

impl PartialEq for Generated {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Generated {}

impl Hash for Generated {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Generated {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(match self.function {
            DefaultFunction::SnowflakeId => DataType::Int64,
            DefaultFunction::UuidV7 => DataType::FixedSizeBinary(16),
            _ => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let rows = args.number_rows;
        let array: ArrayRef = match self.function {
            DefaultFunction::SnowflakeId => {
                Arc::new(Int64Array::from_iter_values(self.store.seqs().take(rows as u64).iter()))
            }
            DefaultFunction::UuidV7 => {
                let mut bytes = Vec::with_capacity(rows * 16);
                (0..rows).for_each(|_| bytes.extend_from_slice(Uuid::now_v7().as_bytes()));
                Arc::new(FixedSizeBinaryArray::try_new(16, bytes.into(), None)?)
            }
            DefaultFunction::Ulid => Arc::new(StringArray::from_iter_values((0..rows).map(|_| ulid()))),
            _ => {
                let error = KalamError::internal(format_args!("{} is not known when a plan runs", self.name));
                return Err(DataFusionError::External(Box::new(error)));
            }
        };
        Ok(ColumnarValue::Array(array))
    }
}
