//! What filters say about keys: which values they pin a column to.
//!
//! Invariant: filters that pin every key column leave no row with another key, so a lookup of the pinned keys reads
//! all that the filters let through; the filters stay above the lookup and have the last word.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::{Column, DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::key_spec::KeySpec;
use crate::schema::TableDefinition;

/// At most so many keys of an IN list are looked up one by one; more are scanned for.
pub const MAX_LOOKUP_KEYS: usize = 1000;

/// The encoded keys that filters leave, in order, each once; `None` if they do not pin the whole key of a table, or to
/// more keys than are looked up.
pub fn pinned_keys(definition: &TableDefinition, spec: &KeySpec, filters: &[Expr]) -> DfResult<Option<Vec<Vec<u8>>>> {
    let columns = definition.key_columns();
    if columns.is_empty() {
        return Ok(None);
    }
    let mut pinned: Vec<Vec<ArrayRef>> = Vec::with_capacity(columns.len());
    for column in &columns {
        let data_type = column.data_type.arrow_type();
        let pins = filters.iter().find_map(|f| pins_of(f, &column.name, &data_type));
        let Some(pins) = pins.filter(|pins| !pins.iter().any(ScalarValue::is_null)) else { return Ok(None) };
        // None is a number that its type does not hold.
        let values = pins.into_iter().filter_map(|value| as_key(value, &data_type));
        pinned.push(values.map(|value| value.to_array()).collect::<DfResult<_>>()?);
    }
    let combinations = pinned.iter().map(Vec::len).fold(1, usize::saturating_mul);
    if combinations > MAX_LOOKUP_KEYS {
        return Ok(None);
    }
    let mut keys = Vec::with_capacity(combinations);
    for i in 0..combinations {
        let mut rest = i;
        let mut row = Vec::with_capacity(columns.len());
        for values in &pinned {
            row.push(ArrayRef::clone(&values[rest % values.len()]));
            rest /= values.len();
        }
        let mut key = Vec::new();
        spec.codec().encode(&row, 0, &mut key).map_err(|e| DataFusionError::External(Box::new(e)))?;
        keys.push(key);
    }
    keys.sort_unstable();
    keys.dedup();
    Ok(Some(keys))
}

/// A value as the key column has it; `None` if no key can equal it.
fn as_key(value: ScalarValue, data_type: &DataType) -> Option<ScalarValue> {
    if value.data_type() == *data_type {
        return Some(value);
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
fn pins_of(filter: &Expr, name: &str, data_type: &DataType) -> Option<Vec<ScalarValue>> {
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

fn pin(expr: &Expr, compared: &DataType) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) if value.data_type() == *compared => Some(value.clone()),
        _ => None,
    }
}
