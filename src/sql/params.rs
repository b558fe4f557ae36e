//! Values for `$1` and `$name`.
//!
//! Invariant: a parameter is a typed value in the plan, never text in the statement.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, Result as DfResult};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::errors::from_datafusion;
use crate::error::{ErrorCode, KalamError, Result};
use crate::types::{ColumnBuilder, KalamDataType, Value};

/// The parameters of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Params {
    /// `$1`, `$2`, …
    Positional(Vec<Value>),
    /// `$name`.
    Named(HashMap<String, Value>),
}

impl Default for Params {
    fn default() -> Self {
        Params::Positional(Vec::new())
    }
}

impl Params {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Positional(values) => values.is_empty(),
            Self::Named(values) => values.is_empty(),
        }
    }

    /// The value of a placeholder as it is written, with its `$`.
    pub fn get(&self, placeholder: &str) -> Result<&Value> {
        let name = placeholder.strip_prefix('$').unwrap_or(placeholder);
        let found = match self {
            Params::Positional(values) => {
                name.parse::<usize>().ok().and_then(|n| n.checked_sub(1)).and_then(|i| values.get(i))
            }
            Params::Named(values) => values.get(name),
        };
        if found.is_none() && !placeholder.starts_with('$') {
            return Err(foreign(placeholder));
        }
        found.ok_or_else(|| match self {
            Params::Positional(values) => KalamError::new(
                ErrorCode::ParameterCount,
                format!("the statement uses {placeholder}, but {} given", count(values.len())),
            ),
            Params::Named(values) => {
                let mut names: Vec<&str> = values.keys().map(String::as_str).collect();
                names.sort_unstable();
                KalamError::new(
                    ErrorCode::ParameterCount,
                    format!(
                        "the statement uses {placeholder}, given are: {}",
                        if names.is_empty() { "none".into() } else { names.join(", ") }
                    ),
                )
            }
        })
    }

    /// Fails if positional parameters were given that no statement of the request uses. `used` holds the placeholders.
    pub fn check_all_used<'a>(&self, used: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
        let number = |placeholder: &str| placeholder.strip_prefix('$').and_then(|name| name.parse::<usize>().ok());
        let values = match self {
            Params::Positional(values) => values,
            // An object may have more fields than the statement names; if it names none, they are meant as something else.
            Params::Named(values)
                if used.clone().any(|placeholder| number(placeholder).is_none()) || values.is_empty() =>
            {
                return Ok(());
            }
            Params::Named(values) => {
                let name = values.keys().min().map_or("", String::as_str);
                let message = format!("a parameter '{name}' is given by name, but the statement names none");
                let hint =
                    "An object in this place holds parameters, written $name in the statement. Options come after it.";
                return Err(KalamError::new(ErrorCode::ParameterCount, message).with_hint(hint));
            }
        };
        let most = used.clone().filter_map(number).max().unwrap_or(0);
        if values.len() > most {
            if let Some(other) = used.clone().find(|placeholder| !placeholder.starts_with('$')) {
                return Err(foreign(other));
            }
            if let Some(name) = used.clone().find(|placeholder| number(placeholder).is_none()) {
                let message = format!("the statement uses {name}, a parameter by name, but an array is given");
                let hint = format!("Give an object, {{ {}: … }}, or write $1, $2, ….", name.trim_start_matches('$'));
                return Err(KalamError::new(ErrorCode::ParameterCount, message).with_hint(hint));
            }
            let given = count(values.len());
            if most == 0 {
                let message = format!("{given} given, but the statement uses none");
                return Err(KalamError::new(ErrorCode::ParameterCount, message).with_hint(WRITTEN));
            }
            let message = format!("{given} given, but the statement uses only ${most}");
            return Err(KalamError::new(ErrorCode::ParameterCount, message));
        }
        Ok(())
    }

    /// The value of a placeholder for a place whose type is known, or not.
    pub(super) fn scalar(&self, placeholder: &str, expected: Option<&DataType>) -> Result<ScalarValue> {
        let value = self.get(placeholder)?;
        match expected {
            Some(data_type) => coerced(value, data_type, placeholder),
            None => natural(value),
        }
    }

    /// Puts the values into a plan. A placeholder whose type the plan tells takes a value of that type: text is
    /// parsed, a number converted when it fits; what does not fit is `PARAMETER_TYPE`.
    pub fn bind(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let types = placeholder_types(&plan).map_err(from_datafusion)?;
        if types.is_empty() {
            return Ok(plan);
        }
        let mut values = HashMap::with_capacity(types.len());
        for (placeholder, data_type) in types {
            let scalar = self.scalar(&placeholder, data_type.as_ref())?;
            values.insert(placeholder.trim_start_matches('$').to_owned(), ScalarAndMetadata::from(scalar));
        }
        let values = match self {
            Params::Named(_) => ParamValues::Map(values),
            Params::Positional(given) => ParamValues::List(
                (1..=given.len())
                    .map(|n| {
                        values.remove(&n.to_string()).unwrap_or_else(|| ScalarAndMetadata::from(ScalarValue::Null))
                    })
                    .collect(),
            ),
        };
        plan.with_param_values(values).map_err(from_datafusion)
    }
}

/// The types that a plan tells for its placeholders. One that stands in places of different types has none: its value
/// keeps the type that it has by itself, and each place converts it. In order, so that of several values that do not
/// fit the same one is named each time.
pub(super) fn placeholder_types(plan: &LogicalPlan) -> DfResult<BTreeMap<String, Option<DataType>>> {
    let mut types: BTreeMap<String, Option<DataType>> = BTreeMap::new();
    let mut conflicting = HashSet::new();
    plan.apply_with_subqueries(|plan| {
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Placeholder(placeholder) = expr {
                    let found = placeholder.field.as_ref().map(|f| f.data_type().clone());
                    let known = types.entry(placeholder.id.clone()).or_insert(None);
                    match (&known, found) {
                        (Some(known), Some(found)) if *known != found => {
                            conflicting.insert(placeholder.id.clone());
                        }
                        (None, found) => *known = found,
                        _ => {}
                    }
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    for id in conflicting {
        types.insert(id, None);
    }
    Ok(types)
}

/// How placeholders are written.
const WRITTEN: &str = "Write $1, $2, … or $name.";

/// A placeholder as other databases write it.
fn foreign(placeholder: &str) -> KalamError {
    let message = format!("'{placeholder}' is not how parameters are written here");
    KalamError::new(ErrorCode::ParameterCount, message).with_hint(WRITTEN)
}

fn count(n: usize) -> String {
    match n {
        0 => "no parameter is".into(),
        1 => "1 parameter is".into(),
        n => format!("{n} parameters are"),
    }
}

/// The value as the type that it has by itself.
pub fn natural(value: &Value) -> Result<ScalarValue> {
    let data_type = match value {
        Value::Null => return Ok(ScalarValue::Null),
        Value::Boolean(_) => KalamDataType::Boolean,
        Value::BigInt(_) => KalamDataType::BigInt,
        Value::Double(_) => KalamDataType::Double,
        Value::Decimal { scale, .. } => KalamDataType::Decimal { precision: 38, scale: *scale },
        Value::Text(_) => KalamDataType::Text,
        Value::Json(_) => KalamDataType::Json,
        Value::Bytes(_) => KalamDataType::Bytes,
        Value::Timestamp(_) => KalamDataType::Timestamp,
        Value::DateTime(_) => KalamDataType::DateTime,
        Value::Date(_) => KalamDataType::Date,
        Value::Time(_) => KalamDataType::Time,
        Value::Uuid(_) => KalamDataType::Uuid,
        Value::Embedding(values) => KalamDataType::Embedding(values.len() as u32),
    };
    scalar(value, &data_type, "parameter")
}

fn coerced(value: &Value, data_type: &arrow::datatypes::DataType, placeholder: &str) -> Result<ScalarValue> {
    use arrow::datatypes::Field;
    // A number keeps its own type where it could lose something: `score > 1.5` with an INT column compares as DOUBLE.
    if matches!(value, Value::Null) {
        return ScalarValue::try_from(data_type).map_err(from_datafusion);
    }
    let integer = matches!(data_type, DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64);
    if integer && matches!(value, Value::BigInt(_) | Value::Double(_) | Value::Decimal { .. }) {
        return natural(value);
    }
    let field = Field::new("", data_type.clone(), true);
    let Ok(target) = KalamDataType::from_arrow_field(&field) else { return natural(value) };
    if target.arrow_type() != *data_type {
        return natural(value);
    }
    scalar(value, &target, placeholder).map_err(|error| {
        // It has no column and no row.
        let place = format!("column '{placeholder}', row 1: ");
        let reason = error.message().strip_prefix(&place).unwrap_or(error.message());
        let message = format!("{placeholder} is {value}, expected a value of type {}: {reason}", target.sql_name());
        let ours = KalamError::new(ErrorCode::ParameterType, message);
        match error.hint() {
            Some(hint) => ours.with_hint(hint.to_owned()),
            None => ours,
        }
    })
}

fn scalar(value: &Value, data_type: &KalamDataType, name: &str) -> Result<ScalarValue> {
    let mut builder = ColumnBuilder::new(data_type, name, 1);
    builder.append(value)?;
    ScalarValue::try_from_array(&builder.finish(), 0).map_err(from_datafusion)
}
