//! The list of SET: columns and what they are assigned.
//!
//! Invariant: each pair is one column and one expression, in the order of the list.

use std::borrow::Cow;

use datafusion::sql::sqlparser::ast::{Assignment, AssignmentTarget, Expr, ObjectName};

use super::super::fault;
use super::super::synonyms;
use super::super::templates;
use crate::error::{ErrorCode, KalamError, Result};

/// The columns and their values: `a = x`, `(a, b) = (x, y)`, `(a, b) = (SELECT x, y …)`.
pub fn pairs(set: &[Assignment]) -> Result<Vec<(&ObjectName, Cow<'_, Expr>)>> {
    let mut pairs = Vec::with_capacity(set.len());
    for Assignment { target, value } in set {
        let names = match target {
            AssignmentTarget::ColumnName(name) => {
                pairs.push((name, Cow::Borrowed(value)));
                continue;
            }
            AssignmentTarget::Tuple(names) => names,
        };
        let row = match value {
            Expr::Function(call) => synonyms::expression(call),
            _ => None,
        };
        match row.as_ref().unwrap_or(value) {
            Expr::Tuple(values) if names.len() == values.len() => {
                pairs.extend(names.iter().zip(values.iter().cloned().map(Cow::Owned)));
            }
            Expr::Tuple(values) => {
                return Err(KalamError::new(
                    ErrorCode::SyntaxError,
                    format!("SET has {} columns and {} values", names.len(), values.len()),
                ));
            }
            Expr::Subquery(query) => {
                let row = templates::row_of(query, names.len())?;
                pairs.extend(names.iter().zip(row.into_iter().map(Cow::Owned)));
            }
            value => {
                return Err(KalamError::new(
                    ErrorCode::FeatureNotSupported,
                    "a list of columns is assigned something else than a list of values",
                )
                .with_hint("Write SET (a, b) = (x, y).")
                .at(fault::place_of(value)));
            }
        }
    }
    Ok(pairs)
}
