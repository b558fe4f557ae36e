//! CURRENT_USER and SESSION_USER: functions whose value a request brings.
//!
//! Invariant: the names are put into each plan before it is kept or run, and a plan that asks for them is kept for its
//! users alone (`plan_cache.rs`); so the same text gives every user its own.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, ScalarUDF, Volatility};

use super::errors::from_datafusion;
use super::expressions::any_expression;
use super::nullary;
use crate::error::Result;

/// The user that a statement runs as; also USER.
const CURRENT_USER: &str = "current_user";
/// The user of the session, whoever a statement of it runs as.
const SESSION_USER: &str = "session_user";

/// The functions, to be planned with.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let function = |name: &'static str, aliases: &[&str]| {
        let unbound = move |_| exec_err!("{name} was not bound to a user");
        nullary::function(name, aliases, Volatility::Stable, DataType::Utf8, unbound)
    };
    vec![function(CURRENT_USER, &["user"]), function(SESSION_USER, &[])]
}

/// Whether a plan asks for the user.
pub fn is_asked(plan: &LogicalPlan) -> bool {
    any_expression(plan, |expr| name(expr, "", "").is_some())
}

/// Which user an expression asks for.
fn name<'a>(expr: &Expr, current: &'a str, session: &'a str) -> Option<&'a str> {
    match expr {
        Expr::ScalarFunction(call) if call.name() == CURRENT_USER => Some(current),
        Expr::ScalarFunction(call) if call.name() == SESSION_USER => Some(session),
        _ => None,
    }
}

/// Puts the names into a plan.
pub fn bind(plan: LogicalPlan, current: &str, session: &str) -> Result<LogicalPlan> {
    if !is_asked(&plan) {
        return Ok(plan);
    }
    let name = |expr: &Expr| name(expr, current, session);
    let calls = |expr: &Expr| expr.exists(|e| Ok(name(e).is_some()));
    let bound = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            if !calls(&expr)? {
                return Ok(Transformed::no(expr));
            }
            // A column keeps the name of the call.
            let column = names.save(&expr);
            let filled = expr.transform_up(|e| {
                let value = name(&e).map(|user| ScalarValue::Utf8(Some(user.to_owned())));
                Ok(value.map_or_else(|| Transformed::no(e), |v| Transformed::yes(Expr::Literal(v, None))))
            })?;
            Ok(filled.update_data(|e| column.restore(e)))
        })
    });
    Ok(bound.map_err(from_datafusion)?.data)
}
