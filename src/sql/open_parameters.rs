//! Parameters that stay open in a plan.
//!
//! Invariant: an open parameter has the type that its value would have if the statement were planned with it
//! (`Params::scalar`), so every expression around it gets the types that it would get. There is one exception: an
//! integer that is compared with an INT or a SMALLINT, and that this type can hold, is compared as one. That gives the
//! same answer, and leaves the column bare for key lookups and statistics.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::{Between, InList, Placeholder};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, lit};

use super::expressions::any_expression;
use super::params::{Params, placeholder_types};
use crate::error::Result;
use crate::tables::parameters::ParameterFunction;

/// A parameter of a kept plan.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenParameter {
    placeholder: String,
    /// What the plan tells of its type.
    expected: Option<DataType>,
    /// The type of its values in the plan.
    data_type: DataType,
}

impl OpenParameter {
    /// As it is written, with its `$`.
    pub fn placeholder(&self) -> &str {
        &self.placeholder
    }

    /// Its value in a run; `None` if the value is not of the type that was planned for.
    pub fn value(&self, params: &Params) -> Result<Option<ScalarValue>> {
        let scalar = params.scalar(&self.placeholder, self.expected.as_ref())?;
        if scalar.data_type() == self.data_type && !scalar.is_null() {
            return Ok(Some(scalar));
        }
        Ok(narrowed(&scalar, &self.data_type))
    }
}

/// A plan with the types of its parameters.
pub struct OpenPlan {
    /// The plan.
    pub plan: LogicalPlan,
    /// Whether a parameter is compared with a SMALLINT: the plan is then for values that this type holds, or for those
    /// that it does not.
    pub beside_smallint: bool,
}

/// A plan with the types of its parameters, and with the values of those that cannot stay open: `fixed` ones and
/// NULLs. `None` if the plan needs the values of the others too.
pub fn open_parameters(plan: &LogicalPlan, params: &Params, fixed: &[String]) -> Result<Option<OpenPlan>> {
    let types = placeholder_types(plan).map_err(super::errors::from_datafusion)?;
    if types.is_empty() {
        return Ok(Some(OpenPlan { plan: plan.clone(), beside_smallint: false }));
    }
    let mut values: HashMap<String, ScalarValue> = HashMap::with_capacity(types.len());
    for (placeholder, expected) in &types {
        values.insert(placeholder.clone(), params.scalar(placeholder, expected.as_ref())?);
    }
    let opener = Opener { values, fixed, beside_smallint: Cell::new(false) };
    let mut needs_values = false;
    let opened = plan.clone().transform_up_with_subqueries(|plan| {
        let schema = merge_schema(&plan.inputs());
        let names = NamePreserver::new(&plan);
        // VALUES are computed while they are planned.
        let is_values = matches!(plan, LogicalPlan::Values(_));
        let plan = plan.map_expressions(|expr| {
            if !expr.exists(|e| Ok(matches!(e, Expr::Placeholder(_))))? {
                return Ok(Transformed::no(expr));
            }
            needs_values |= is_values || has_constant_argument(&expr)?;
            let name = names.save(&expr);
            let opened = expr.transform_up(|expr| opener.open(expr, &schema))?;
            Ok(opened.update_data(|expr| name.restore(expr)))
        })?;
        if plan.transformed && !is_values { plan.map_data(LogicalPlan::recompute_schema) } else { Ok(plan) }
    });
    let plan = opened.data().map_err(super::errors::from_datafusion)?;
    let beside_smallint = opener.beside_smallint.get();
    Ok((!needs_values).then_some(OpenPlan { plan, beside_smallint }))
}

/// Whether a parameter is a constant argument of an aggregate or window function (`string_agg(x, $1)`, `lag(x, $1)`):
/// these read it when they are made, before there are values.
fn has_constant_argument(expr: &Expr) -> DfResult<bool> {
    let is_constant = |argument: &Expr| -> DfResult<bool> {
        let open = argument.exists(|e| Ok(matches!(e, Expr::Placeholder(_))))?;
        Ok(open && argument.column_refs().is_empty())
    };
    expr.exists(|expr| {
        let arguments = match expr {
            Expr::AggregateFunction(call) => &call.params.args,
            Expr::WindowFunction(call) => &call.params.args,
            _ => return Ok(false),
        };
        arguments.iter().try_fold(false, |found, argument| Ok(found || is_constant(argument)?))
    })
}

struct Opener<'a> {
    /// Each as the type that it has in its place.
    values: HashMap<String, ScalarValue>,
    fixed: &'a [String],
    /// Set when a parameter is found beside a SMALLINT.
    beside_smallint: Cell<bool>,
}

impl Opener<'_> {
    fn open(&self, expr: Expr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
        Ok(match expr {
            Expr::Placeholder(Placeholder { id, .. }) => match self.values.get(&id) {
                Some(value) if value.is_null() || self.fixed.contains(&id) => {
                    Transformed::yes(Expr::Literal(value.clone(), None))
                }
                Some(value) => {
                    let data_type = value.data_type();
                    Transformed::yes(open(id, data_type))
                }
                None => Transformed::no(open(id, DataType::Null)),
            },
            // An open parameter is never NULL.
            Expr::IsNull(inner) if matches!(inner.as_ref(), Expr::Placeholder(_)) => Transformed::yes(lit(false)),
            Expr::IsNotNull(inner) if matches!(inner.as_ref(), Expr::Placeholder(_)) => Transformed::yes(lit(true)),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(op) => {
                let (left, right) = match (self.narrow(&right, &left, schema), self.narrow(&left, &right, schema)) {
                    (Some(right), _) => (left, Box::new(right)),
                    (None, Some(left)) => (Box::new(left), right),
                    (None, None) => (left, right),
                };
                Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
            }
            Expr::Between(Between { expr, negated, low, high }) => {
                let (low, high) = match (self.narrow(&low, &expr, schema), self.narrow(&high, &expr, schema)) {
                    (Some(low), Some(high)) => (Box::new(low), Box::new(high)),
                    _ => (low, high),
                };
                Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
            }
            Expr::InList(InList { expr, list, negated }) => {
                let narrowed: Option<Vec<Expr>> = list.iter().map(|item| self.narrow(item, &expr, schema)).collect();
                Transformed::yes(Expr::InList(InList { expr, list: narrowed.unwrap_or(list), negated }))
            }
            other => Transformed::no(other),
        })
    }

    /// An open BIGINT, or a constant one, beside an INT or a SMALLINT as one, if that holds its value.
    fn narrow(&self, expr: &Expr, beside: &Expr, schema: &DFSchema) -> Option<Expr> {
        let to = beside.get_type(schema).ok()?;
        match expr {
            Expr::Placeholder(Placeholder { id, field: Some(field) }) if *field.data_type() == DataType::Int64 => {
                if to == DataType::Int16 {
                    self.beside_smallint.set(true);
                }
                self.values.get(id).and_then(|value| narrowed(value, &to)).map(|_| open(id.clone(), to))
            }
            Expr::Literal(value, _) => narrowed(value, &to).map(|value| Expr::Literal(value, None)),
            _ => None,
        }
    }
}

/// A BIGINT as a narrower integer; `None` if that cannot hold it, or the type is none.
fn narrowed(value: &ScalarValue, to: &DataType) -> Option<ScalarValue> {
    let ScalarValue::Int64(Some(n)) = value else { return None };
    match to {
        DataType::Int32 => i32::try_from(*n).ok().map(ScalarValue::from),
        DataType::Int16 => i16::try_from(*n).ok().map(ScalarValue::from),
        _ => None,
    }
}

/// Whether an optimized plan casts a parameter. With its value in place that is computed while planning, and what does
/// not convert fails there, whether or not there is a row to compute it for.
pub fn casts_a_parameter(plan: &LogicalPlan) -> bool {
    let casts = |expr: &Expr| match expr {
        Expr::ScalarFunction(call) if call.func.name().contains("cast_") => {
            call.args.iter().any(|argument| matches!(argument, Expr::Placeholder(_)))
        }
        Expr::Cast(cast) => match cast.expr.as_ref() {
            Expr::Placeholder(Placeholder { field: Some(field), .. }) => !field.data_type().is_numeric(),
            _ => false,
        },
        _ => false,
    };
    any_expression(plan, casts)
}

fn is_comparison(op: Operator) -> bool {
    use Operator as O;
    matches!(op, O::Eq | O::NotEq | O::Lt | O::LtEq | O::Gt | O::GtEq | O::IsDistinctFrom | O::IsNotDistinctFrom)
}

fn open(id: String, data_type: DataType) -> Expr {
    Expr::Placeholder(Placeholder::new_with_field(id, Some(Arc::new(Field::new("", data_type, false)))))
}

/// An optimized plan with each open parameter as a function, and these parameters by their numbers. `planned` is the
/// plan before parameters were opened, which tells what types their places expect. Those that the optimizer found to
/// change nothing are among them: their values are checked all the same.
pub fn number_parameters(
    plan: LogicalPlan,
    planned: &LogicalPlan,
    params: &Params,
    fixed: &[String],
) -> DfResult<(LogicalPlan, Vec<OpenParameter>)> {
    let expected = placeholder_types(planned)?;
    let mut parameters: Vec<OpenParameter> = Vec::new();
    // The numbers of each placeholder, one for each type: a list may have a hundred thousand.
    let mut numbers: HashMap<String, Vec<usize>> = HashMap::with_capacity(expected.len());
    let plan = plan.transform_up_with_subqueries(|plan| {
        plan.map_expressions(|expr| {
            expr.transform_up(|expr| {
                let Expr::Placeholder(Placeholder { id, field: Some(field) }) = &expr else {
                    return Ok(Transformed::no(expr));
                };
                let data_type = field.data_type();
                let known = numbers.entry(id.clone()).or_default();
                let number = match known.iter().find(|number| parameters[**number].data_type == *data_type) {
                    Some(number) => *number,
                    None => {
                        let expected = expected.get(id).cloned().flatten();
                        let (placeholder, data_type) = (id.clone(), data_type.clone());
                        known.push(parameters.len());
                        parameters.push(OpenParameter { placeholder, expected, data_type });
                        parameters.len() - 1
                    }
                };
                Ok(Transformed::yes(ParameterFunction::call(id, number, data_type.clone())))
            })
        })
    });
    let plan = plan.data()?;
    for (placeholder, expected) in expected {
        let value = params.scalar(&placeholder, expected.as_ref());
        let value = value.map_err(|e| DataFusionError::External(Box::new(e)))?;
        if !numbers.contains_key(&placeholder) && !value.is_null() && !fixed.contains(&placeholder) {
            parameters.push(OpenParameter { placeholder, expected, data_type: value.data_type() });
        }
    }
    Ok((plan, parameters))
}
