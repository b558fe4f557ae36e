//! Row values: `(a, b) < (c, d)`, `(a, b) = (SELECT …)`, `(a, b) IN ((1, 2), …)`, `(a, b) IN (SELECT …)`.
//!
//! DataFusion makes structs of them, which it sorts with NULL as if it were a value. Invariant: what becomes of a comparison is
//! made of comparisons of its columns alone, so that it is true, false or NULL as the standard says: rows are compared from
//! the left up to the first pair that is not equal, and a NULL there makes the whole unknown.

use datafusion::sql::sqlparser::ast::{self, BinaryOperator, Expr, Query, UnaryOperator};

use super::chains;
use super::fault::place_of;
use super::handlers::query::column_names;
use super::templates;
use crate::error::{ErrorCode, KalamError, Result};

/// The expression that a comparison of row values stands for.
pub fn expanded(expr: &Expr) -> Result<Option<Expr>> {
    Ok(match expr {
        Expr::BinaryOp { left, op, right } => match (left.as_ref(), right.as_ref()) {
            (Expr::Tuple(a), Expr::Tuple(b)) => compared(a, op, b)?,
            (Expr::Tuple(a), Expr::Subquery(query)) => compared(a, op, &templates::row_of(query, a.len())?)?,
            (Expr::Subquery(query), Expr::Tuple(b)) => compared(&templates::row_of(query, b.len())?, op, b)?,
            _ => None,
        },
        // Each of its values is, or is not: a row with one NULL among others is neither NULL nor not.
        Expr::IsNull(row) | Expr::IsNotNull(row) => {
            let Some(row) = row_of(row) else { return Ok(None) };
            let is_null = matches!(expr, Expr::IsNull(_));
            let tests = row.iter().map(|value| match is_null {
                true => Expr::IsNull(nested(value)),
                false => Expr::IsNotNull(nested(value)),
            });
            joined(tests.collect(), BinaryOperator::And)
        }
        Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
            let (Expr::Tuple(a), Expr::Tuple(b)) = (left.as_ref(), right.as_ref()) else { return Ok(None) };
            check_lengths(a, b)?;
            let distinct = matches!(expr, Expr::IsDistinctFrom(..));
            let pairs = a.iter().zip(b).map(|(a, b)| match distinct {
                true => Expr::IsDistinctFrom(nested(a), nested(b)),
                false => Expr::IsNotDistinctFrom(nested(a), nested(b)),
            });
            joined(pairs.collect(), if distinct { BinaryOperator::Or } else { BinaryOperator::And })
        }
        Expr::InList { expr, list, negated } => {
            let Expr::Tuple(row) = expr.as_ref() else { return Ok(None) };
            let mut equal = Vec::with_capacity(list.len());
            for item in list {
                let Expr::Tuple(item) = item else { return Ok(None) };
                equal.extend(compared(row, &BinaryOperator::Eq, item)?);
            }
            joined(equal, BinaryOperator::Or).map(|any| if *negated { not(any) } else { any })
        }
        Expr::Between { expr, negated, low, high } => {
            let (Expr::Tuple(row), Expr::Tuple(low), Expr::Tuple(high)) = (expr.as_ref(), low.as_ref(), high.as_ref())
            else {
                return Ok(None);
            };
            let bounds = [compared(row, &BinaryOperator::GtEq, low)?, compared(row, &BinaryOperator::LtEq, high)?];
            let within = joined(bounds.into_iter().flatten().collect(), BinaryOperator::And);
            within.map(|within| if *negated { not(within) } else { within })
        }
        Expr::InSubquery { expr, subquery, negated } => {
            let Expr::Tuple(row) = expr.as_ref() else { return Ok(None) };
            let known = looked_for(row, subquery, " = ", "")?;
            let unknown = looked_for(row, subquery, " = ", " IS NOT FALSE")?;
            let found = Expr::Case {
                case_token: ast::helpers::attached_token::AttachedToken::empty(),
                end_token: ast::helpers::attached_token::AttachedToken::empty(),
                operand: None,
                conditions: vec![
                    ast::CaseWhen { condition: known, result: value(ast::Value::Boolean(true)) },
                    ast::CaseWhen { condition: unknown, result: value(ast::Value::Null) },
                ],
                else_result: Some(Box::new(value(ast::Value::Boolean(false)))),
            };
            Some(if *negated { not(found) } else { found })
        }
        _ => None,
    })
}

/// `(a, b) IN (SELECT …)` where it must be true for a row to pass: whether it is false or unknown does not matter, and what is
/// left is a semi join.
pub fn expand_conjuncts(condition: &mut Expr) -> Result<()> {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            expand_conjuncts(left)?;
            expand_conjuncts(right)
        }
        Expr::Nested(inner) => expand_conjuncts(inner),
        Expr::InSubquery { expr, subquery, negated: false } => {
            if let Expr::Tuple(row) = expr.as_ref() {
                *condition = looked_for(row, subquery, " = ", "")?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The values of a row.
fn row_of(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Tuple(row) => Some(row),
        Expr::Nested(inner) => row_of(inner),
        _ => None,
    }
}

fn check_lengths(a: &[Expr], b: &[Expr]) -> Result<()> {
    if a.len() == b.len() {
        return Ok(());
    }
    let message = format!("a row of {} values is compared with one of {}", a.len(), b.len());
    Err(KalamError::new(ErrorCode::SyntaxError, message).at(a.first().and_then(place_of)))
}

fn nested(expr: &Expr) -> Box<Expr> {
    Box::new(Expr::Nested(Box::new(expr.clone())))
}

fn not(expr: Expr) -> Expr {
    Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(Expr::Nested(Box::new(expr))) }
}

fn value(value: ast::Value) -> Expr {
    Expr::Value(value.with_empty_span())
}

fn pair(a: &Expr, op: BinaryOperator, b: &Expr) -> Expr {
    Expr::BinaryOp { left: nested(a), op, right: nested(b) }
}

/// All of them by one operator, as flat a tree as can be.
fn joined(parts: Vec<Expr>, op: BinaryOperator) -> Option<Expr> {
    let join = |left, right| {
        Expr::Nested(Box::new(Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) }))
    };
    chains::flat(parts, join).map(|one| Expr::Nested(Box::new(one)))
}

fn compared(a: &[Expr], op: &BinaryOperator, b: &[Expr]) -> Result<Option<Expr>> {
    use BinaryOperator as B;
    let strict = match op {
        B::Eq | B::NotEq => {
            check_lengths(a, b)?;
            let pairs = a.iter().zip(b).map(|(a, b)| pair(a, op.clone(), b)).collect();
            return Ok(joined(pairs, if *op == B::Eq { B::And } else { B::Or }));
        }
        B::Lt | B::LtEq => B::Lt,
        B::Gt | B::GtEq => B::Gt,
        _ => return Ok(None),
    };
    check_lengths(a, b)?;
    let (a_first, b_first, a_len) = (a.first(), b.first(), a.len());
    let mut pairs = a.iter().zip(b).rev();
    let Some((a, b)) = pairs.next() else { return Ok(None) };
    let whole = pairs.fold(pair(a, op.clone(), b), |rest, (a, b)| {
        let equal = Expr::BinaryOp {
            left: Box::new(pair(a, B::Eq, b)),
            op: B::And,
            right: Box::new(Expr::Nested(Box::new(rest))),
        };
        Expr::BinaryOp {
            left: Box::new(pair(a, strict.clone(), b)),
            op: B::Or,
            right: Box::new(Expr::Nested(Box::new(equal))),
        }
    });
    // What follows for the first column lets an index be read from there on, page after page.
    let first = a_first.zip(b_first).filter(|_| a_len > 1);
    let bound = if strict == B::Lt { B::LtEq } else { B::GtEq };
    let parts = first.map(|(a, b)| pair(a, bound, b)).into_iter().chain([Expr::Nested(Box::new(whole))]);
    Ok(joined(parts.collect(), B::And))
}

/// That a query has a row whose columns are as those of a row value are asked to be, each by `op` and `behind` it.
fn looked_for(row: &[Expr], query: &Query, op: &str, behind: &str) -> Result<Expr> {
    if let Some(names) = column_names(query)
        && names.len() != row.len()
    {
        let message = format!("a row of {} values is looked for in a subquery of {} columns", row.len(), names.len());
        return Err(KalamError::new(ErrorCode::SyntaxError, message).at(row.first().and_then(place_of)));
    }
    let columns: Vec<String> = (0..row.len()).map(|n| format!("\"$c{n}\"")).collect();
    let asked: Vec<String> = (0..row.len()).map(|n| format!("(\"$c{n}\"{op}\"$x{n}\"){behind}")).collect();
    let (columns, asked) = (columns.join(", "), asked.join(" AND "));
    let template = format!("EXISTS (SELECT 1 FROM (SELECT 1) AS \"$q\"({columns}) WHERE {asked})");
    let part = |name: &str| row.get(name.strip_prefix("$x")?.parse::<usize>().ok()?).cloned();
    templates::filled(&template, query, part)
}
