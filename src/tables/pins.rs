//! What filters say about keys: which values they pin a column to.
//!
//! Invariant: filters that pin every key column leave no row with another key, so a lookup of the pinned keys reads
//! all that the filters let through; the filters stay above the lookup and have the last word. A pin may be a
//! parameter: then the keys are known when the plan runs, and not before.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::{Column, DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::key_spec::KeySpec;
use super::parameters::{ParameterFunction, value_of};
use crate::schema::TableDefinition;

/// At most so many keys of an IN list are looked up one by one; more are scanned for.
const MAX_KEYS: usize = 1000;

/// A value that a filter pins a column to.
#[derive(Debug, Clone)]
enum Pin {
    Value(ScalarValue),
    /// The number of a parameter.
    Parameter(usize),
    /// A placeholder that a plan has while it is optimized: no plan that runs has one.
    Open,
}

/// The keys that filters leave, for each key column the values that it can have.
#[derive(Debug, Clone)]
pub struct KeyPins(Vec<(DataType, Vec<Pin>)>);

/// Whether a filter pins a column of that name and type.
pub fn is_pinned(filter: &Expr, name: &str, data_type: &DataType) -> bool {
    pins_of(filter, name, data_type).is_some()
}

impl KeyPins {
    /// What filters pin the whole key of a table to; `None` if they do not, or to more keys than are looked up.
    pub fn of(definition: &TableDefinition, filters: &[Expr]) -> Option<Self> {
        let columns = definition.key_columns();
        if columns.is_empty() {
            return None;
        }
        let mut pinned = Vec::with_capacity(columns.len());
        for column in &columns {
            let data_type = column.data_type.arrow_type();
            let pins = filters.iter().find_map(|f| pins_of(f, &column.name, &data_type))?;
            let usable = pins.iter().all(|pin| !matches!(pin, Pin::Value(value) if value.is_null()));
            if !usable {
                return None;
            }
            pinned.push((data_type, pins));
        }
        let pins = Self(pinned);
        (pins.combinations() <= MAX_KEYS).then_some(pins)
    }

    /// How many keys there are at the most.
    pub fn combinations(&self) -> usize {
        self.0.iter().map(|(_, pins)| pins.len()).fold(1, usize::saturating_mul)
    }

    /// The encoded keys, in order, each once; within a run if there are parameters among the pins.
    pub fn keys(&self, spec: &KeySpec) -> DfResult<Vec<Vec<u8>>> {
        let mut columns: Vec<Vec<ArrayRef>> = Vec::with_capacity(self.0.len());
        for (data_type, pins) in &self.0 {
            let mut values = Vec::with_capacity(pins.len());
            for pin in pins {
                let value = match pin {
                    Pin::Value(value) => value.clone(),
                    Pin::Parameter(number) => value_of(*number)?,
                    Pin::Open => {
                        let error = crate::error::KalamError::internal("a plan that runs has an open placeholder");
                        return Err(DataFusionError::External(Box::new(error)));
                    }
                };
                // No key is NULL, and none is a number that its type does not hold.
                if let Some(value) = as_key(value, data_type) {
                    values.push(value.to_array()?);
                }
            }
            columns.push(values);
        }
        let combinations = columns.iter().map(Vec::len).product();
        let mut keys = Vec::with_capacity(combinations);
        for i in 0..combinations {
            let mut rest = i;
            let mut row = Vec::with_capacity(columns.len());
            for values in &columns {
                row.push(ArrayRef::clone(&values[rest % values.len()]));
                rest /= values.len();
            }
            let mut key = Vec::new();
            spec.codec().encode(&row, 0, &mut key).map_err(|e| DataFusionError::External(Box::new(e)))?;
            keys.push(key);
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// Whether the keys are known without a run.
    pub fn are_constant(&self) -> bool {
        self.0.iter().flat_map(|(_, pins)| pins).all(|pin| matches!(pin, Pin::Value(_)))
    }
}

/// A value as the key column has it; `None` if no key can equal it.
fn as_key(value: ScalarValue, data_type: &DataType) -> Option<ScalarValue> {
    if value.is_null() || value.data_type() == *data_type {
        return (!value.is_null()).then_some(value);
    }
    let number: i64 = match value {
        ScalarValue::Int16(Some(n)) => n.into(),
        ScalarValue::Int32(Some(n)) => n.into(),
        ScalarValue::Int64(Some(n)) => n,
        _ => return None,
    };
    match data_type {
        DataType::Int16 => i16::try_from(number).ok().map(ScalarValue::from),
        DataType::Int32 => i32::try_from(number).ok().map(ScalarValue::from),
        _ => None,
    }
}

/// The values that a filter pins a column to: `column = value`, `column IN (values)`, or several of them with OR.
fn pins_of(filter: &Expr, name: &str, data_type: &DataType) -> Option<Vec<Pin>> {
    // Whether the side is the column, and as which type it is compared.
    let column = |e: &Expr| column_type(e, name, data_type);
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let (compared, value) = match (column(left), column(right)) {
                (Some(compared), None) => (compared, right),
                (None, Some(compared)) => (compared, left),
                _ => return None,
            };
            pin(value, &compared).map(|pin| vec![pin])
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let mut pins = pins_of(left, name, data_type)?;
            pins.extend(pins_of(right, name, data_type)?);
            Some(pins)
        }
        Expr::InList(InList { expr, list, negated: false }) => {
            let compared = column(expr)?;
            list.iter().map(|value| pin(value, &compared)).collect()
        }
        _ => None,
    }
}

/// The type that a column is compared as, if the expression is that column or a cast of it to a wider integer.
fn column_type(expr: &Expr, name: &str, data_type: &DataType) -> Option<DataType> {
    match expr {
        Expr::Column(Column { name: found, .. }) if found == name => Some(data_type.clone()),
        Expr::Cast(cast) => {
            let to = cast.field.data_type();
            let wider = matches!(
                (data_type, to),
                (DataType::Int16, DataType::Int32 | DataType::Int64) | (DataType::Int32, DataType::Int64)
            );
            let is_column = matches!(cast.expr.as_ref(), Expr::Column(Column { name: found, .. }) if found == name);
            (wider && is_column).then(|| to.clone())
        }
        _ => None,
    }
}

fn pin(expr: &Expr, compared: &DataType) -> Option<Pin> {
    match expr {
        Expr::Literal(value, _) if value.data_type() == *compared => Some(Pin::Value(value.clone())),
        Expr::Placeholder(placeholder) => {
            placeholder.field.as_ref().is_some_and(|f| f.data_type() == compared).then_some(Pin::Open)
        }
        _ => {
            let parameter = ParameterFunction::of(expr)?;
            (parameter.data_type() == compared).then(|| Pin::Parameter(parameter.number()))
        }
    }
}
