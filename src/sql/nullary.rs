//! Functions without arguments.
//!
//! Invariant: two of one name are one function, which is how DataFusion finds equal expressions.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// What a function gives for a number of rows.
type Values = dyn Fn(usize) -> DfResult<ColumnarValue> + Send + Sync;

/// A function of a name, which is known under aliases too.
pub fn function(
    name: &'static str,
    aliases: &[&str],
    volatility: Volatility,
    data_type: DataType,
    values: impl Fn(usize) -> DfResult<ColumnarValue> + Send + Sync + 'static,
) -> Arc<ScalarUDF> {
    let aliases = aliases.iter().map(|&a| a.to_owned()).collect();
    let (signature, values) = (Signature::nullary(volatility), Box::new(values));
    Arc::new(ScalarUDF::new_from_impl(Nullary { name, aliases, signature, data_type, values }))
}

struct Nullary {
    name: &'static str,
    aliases: Vec<String>,
    signature: Signature,
    data_type: DataType,
    values: Box<Values>,
}

impl fmt::Debug for Nullary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nullary").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartialEq for Nullary {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Nullary {}

impl Hash for Nullary {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Nullary {
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
        Ok(self.data_type.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        (self.values)(args.number_rows)
    }
}
