//! Arrays as parameters: `x = ANY ($1)`, `x <> ALL ($1)`, `x IN ($1)`.
//!
//! An array crosses from JavaScript as JSON. Invariant: its elements become parameters of their own, values and never
//! text, so a comparison with an array is the comparison with each of its elements.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, BinaryOperator, Expr, Value as SqlValue, VisitorMut};
use serde_json::Value as Json;

use super::params::Params;
use super::statement_cache::placeholder;
use super::walk::walk_mut;
use crate::error::{ErrorCode, KalamError, Result};
use crate::types::Value;

/// The elements of a value that is an array.
pub fn elements(value: &Value) -> Option<Vec<Value>> {
    let Value::Json(text) = value else { return None };
    let Ok(Json::Array(items)) = serde_json::from_str::<Json>(text) else { return None };
    Some(items.into_iter().map(element).collect())
}

fn element(item: Json) -> Value {
    match item {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Boolean(value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::BigInt(value),
            None => number.as_f64().map_or(Value::Null, Value::Double),
        },
        Json::String(text) => Value::Text(text),
        other => Value::Json(other.to_string()),
    }
}

/// Whether one of the placeholders stands for an array, or for NULL in the place of one.
pub fn has_arrays(placeholders: &[String], params: &Params) -> Result<bool> {
    for placeholder in placeholders {
        if matches!(params.get(placeholder)?, Value::Json(text) if text.starts_with('[')) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes the comparisons with arrays out; returns the parameters with the elements among them.
pub fn expand(statement: &mut ast::Statement, params: &Params) -> Result<Params> {
    let mut expander = Expander { params: params.clone() };
    match walk_mut(statement, &mut expander) {
        ControlFlow::Continue(()) => Ok(expander.params),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Expander {
    params: Params,
}

impl Expander {
    /// The elements of the array that an expression is, as expressions.
    fn array(&mut self, expr: &Expr) -> Result<Option<Vec<Expr>>> {
        let Some(name) = placeholder(expr) else { return Ok(None) };
        let Some(items) = elements(self.params.get(name)?) else { return Ok(None) };
        let name = name.to_owned();
        Ok(Some(items.into_iter().enumerate().map(|(place, item)| self.parameter(&name, place, item)).collect()))
    }

    fn parameter(&mut self, name: &str, place: usize, value: Value) -> Expr {
        let placeholder = match &mut self.params {
            Params::Positional(values) => {
                values.push(value);
                format!("${}", values.len())
            }
            Params::Named(values) => {
                let element = format!("{}[{place}]", name.trim_start_matches('$'));
                let placeholder = format!("${element}");
                values.insert(element, value);
                placeholder
            }
        };
        Expr::Value(SqlValue::Placeholder(placeholder).with_empty_span())
    }

    fn expanded(&mut self, expr: &Expr) -> Result<Option<Expr>> {
        match expr {
            Expr::InList { expr, list, negated } => {
                let mut items = Vec::with_capacity(list.len());
                let mut found = false;
                for item in list {
                    match self.array(item)? {
                        Some(elements) => {
                            found = true;
                            items.extend(elements);
                        }
                        None => items.push(item.clone()),
                    }
                }
                Ok(found.then(|| in_list(expr, items, *negated)))
            }
            Expr::AnyOp { left, compare_op, right, .. } => self.quantified(left, compare_op, right, false),
            Expr::AllOp { left, compare_op, right } => self.quantified(left, compare_op, right, true),
            _ => Ok(None),
        }
    }

    fn quantified(&mut self, left: &Expr, op: &BinaryOperator, right: &Expr, all: bool) -> Result<Option<Expr>> {
        let Some(items) = self.array(right)? else { return Ok(None) };
        Ok(Some(match (op, all) {
            (BinaryOperator::Eq, false) => in_list(left, items, false),
            (BinaryOperator::NotEq, true) => in_list(left, items, true),
            (
                BinaryOperator::Eq
                | BinaryOperator::NotEq
                | BinaryOperator::Lt
                | BinaryOperator::LtEq
                | BinaryOperator::Gt
                | BinaryOperator::GtEq,
                _,
            ) => compared(left, op, items, all),
            _ => {
                let message = format!("the operator {op} with ANY or ALL of an array is not supported");
                return Err(KalamError::new(ErrorCode::FeatureNotSupported, message));
            }
        }))
    }
}

/// `left IN (items)`; of nothing it is false.
fn in_list(left: &Expr, items: Vec<Expr>, negated: bool) -> Expr {
    if items.is_empty() {
        return boolean(negated);
    }
    Expr::InList { expr: Box::new(left.clone()), list: items, negated }
}

/// `left op a OR left op b …`, as a tree whose depth is the logarithm of its width.
fn compared(left: &Expr, op: &BinaryOperator, items: Vec<Expr>, all: bool) -> Expr {
    let operand = |e: &Expr| Box::new(Expr::Nested(Box::new(e.clone())));
    let mut terms: Vec<Expr> = items
        .into_iter()
        .map(|item| Expr::BinaryOp { left: operand(left), op: op.clone(), right: Box::new(item) })
        .collect();
    if terms.is_empty() {
        return boolean(all);
    }
    while terms.len() > 1 {
        let mut pairs = terms.into_iter();
        let mut next = Vec::new();
        while let Some(one) = pairs.next() {
            next.push(match pairs.next() {
                None => one,
                Some(two) => Expr::BinaryOp {
                    left: Box::new(one),
                    op: if all { BinaryOperator::And } else { BinaryOperator::Or },
                    right: Box::new(two),
                },
            });
        }
        terms = next;
    }
    terms.pop().map_or_else(|| boolean(all), |term| Expr::Nested(Box::new(term)))
}

fn boolean(value: bool) -> Expr {
    Expr::Value(SqlValue::Boolean(value).with_empty_span())
}

impl VisitorMut for Expander {
    type Break = KalamError;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<KalamError> {
        match self.expanded(expr) {
            Ok(Some(new)) => *expr = new,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::parser::{Statement, parse};
    use super::*;

    #[test]
    fn elements_become_parameters() -> Result<()> {
        let params = Params::Positional(vec![Value::Json("[1, 2.5, \"x\", null]".into()), Value::Json("[]".into())]);
        for (sql, want) in [
            ("SELECT a = ANY ($1)", "SELECT a IN ($3, $4, $5, $6)"),
            ("SELECT a NOT IN (7, $1)", "SELECT a NOT IN (7, $3, $4, $5, $6)"),
            ("SELECT a <> ALL ($2), a = ANY ($2), a IN ($2)", "SELECT true, false, false"),
            ("SELECT a < ALL ($1)", "SELECT ((a) < $3 AND (a) < $4 AND (a) < $5 AND (a) < $6)"),
        ] {
            let Some(Statement::Sql(mut statement)) = parse(sql)?.pop() else { panic!("{sql}") };
            let expanded = expand(&mut statement, &params)?;
            assert_eq!(statement.to_string(), want);
            if sql.contains("$1") {
                assert_eq!(expanded.get("$4")?, &Value::Double(2.5));
                assert_eq!(expanded.get("$6")?, &Value::Null);
            }
        }
        Ok(())
    }
}
