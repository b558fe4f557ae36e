//! Casts and comparisons of the types that Arrow's kernels do not convert, by the rules of `types`.
//!
//! Invariant: text becomes a value by the same rules in `CAST`, in a comparison and in an INSERT. A cast of text, or
//! of a number to an integer (which rounds), is a call of [`KalamCast`] before DataFusion's own type coercion sees it. And
//! no number becomes a date or a time, or the other way round, neither by a cast nor because they meet in a comparison, a
//! UNION or a CASE ([`NoNumbersForTimes`]): Arrow would count days or microseconds.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, ExprSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::{Between, Case, Cast, InList, ScalarFunction, TryCast};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility, when,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::intervals::{self, is_interval};
use super::{arithmetic, plain_words};
use crate::error::{ErrorCode, KalamError};
use crate::types::{ColumnBuilder, KalamDataType, Value, coerce_array};

/// The cast of a value to a type; with `safe`, what does not convert is NULL.
#[derive(Debug, PartialEq, Eq, Hash)]
struct KalamCast {
    name: String,
    target: KalamDataType,
    safe: bool,
    signature: Signature,
}

impl KalamCast {
    fn call(expr: Expr, target: KalamDataType, safe: bool) -> Expr {
        let name = format!("{}cast_{}", if safe { "try_" } else { "" }, target.sql_name().to_lowercase());
        let cast = Self { name, target, safe, signature: Signature::any(1, Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(cast)), vec![expr]))
    }

    fn array(&self, array: &ArrayRef) -> DfResult<ArrayRef> {
        let outcome = if self.safe { self.nulls_for_errors(array) } else { coerce_array(array, &self.target, "") };
        outcome.map_err(|error| DataFusionError::External(Box::new(without_place(error))))
    }

    fn nulls_for_errors(&self, array: &ArrayRef) -> crate::error::Result<ArrayRef> {
        let source = KalamDataType::from_arrow_field(&Field::new("", array.data_type().clone(), true))?;
        let mut builder = ColumnBuilder::new(&self.target, "", array.len());
        for row in 0..array.len() {
            let value = Value::from_array(array.as_ref(), row, &source)?;
            builder.append(&value.coerce(&self.target).unwrap_or(Value::Null))?;
        }
        Ok(builder.finish())
    }
}

/// A cast has no column and no row to name.
pub(super) fn without_place(error: KalamError) -> KalamError {
    let message = match error.message().split_once(": ") {
        Some((place, message)) if place.starts_with("column ''") => message.to_owned(),
        _ => return error,
    };
    let plain = KalamError::new(error.code(), message);
    match error.hint() {
        Some(hint) => plain.with_hint(hint.to_owned()),
        None => plain,
    }
}

impl ScalarUDFImpl for KalamCast {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.target.arrow_type())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let nullable = self.safe || args.arg_fields.iter().any(|f| f.is_nullable());
        Ok(Arc::new(self.target.plan_field(&self.name, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        match &args.args[0] {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(self.array(array)?)),
            ColumnarValue::Scalar(scalar) => {
                let array = self.array(&scalar.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
            }
        }
    }
}

/// What casts are planned as where DataFusion's names of columns, which leave casts out, would be the same twice.
pub(super) const NAMED_CAST: &str = "$cast";

/// A cast to the type that its second argument names: only a name, until [`KalamCasts`] makes it a cast.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct NamedCast {
    signature: Signature,
}

impl NamedCast {
    pub(super) fn function() -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Self { signature: Signature::any(2, Volatility::Immutable) }))
    }
}

fn named_target(name: Option<&Expr>) -> DfResult<KalamDataType> {
    match name {
        Some(Expr::Literal(ScalarValue::Utf8(Some(name)), _)) => type_of_name(name),
        _ => Err(DataFusionError::External(Box::new(KalamError::internal("a cast has a type")))),
    }
}

fn type_of_name(name: &str) -> DfResult<KalamDataType> {
    KalamDataType::parse(name).map_err(|e| DataFusionError::External(Box::new(e)))
}

impl ScalarUDFImpl for NamedCast {
    fn name(&self) -> &str {
        NAMED_CAST
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Err(DataFusionError::External(Box::new(KalamError::internal("the type of a cast is in its arguments"))))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        match args.scalar_arguments.get(1) {
            Some(Some(ScalarValue::Utf8(Some(name)))) => Ok(Arc::new(type_of_name(name)?.plan_field(NAMED_CAST, true))),
            _ => Err(DataFusionError::External(Box::new(KalamError::internal("a cast has a type")))),
        }
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(DataFusionError::External(Box::new(KalamError::internal("a cast was left under its name"))))
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Whether a cast is done here instead of by Arrow.
fn is_ours(source: &DataType, target: KalamDataType) -> bool {
    use KalamDataType as T;
    match source {
        _ if is_text(source) => target != T::Text,
        DataType::FixedSizeBinary(16) => matches!(target, T::Text | T::Bytes),
        DataType::Binary => matches!(target, T::Text | T::Uuid),
        DataType::Interval(_) | DataType::Duration(_) => target == T::Text,
        DataType::FixedSizeList(..) => matches!(target, T::Text | T::Json),
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => {
            matches!(target, T::SmallInt | T::Int | T::BigInt)
        }
        _ => false,
    }
}

/// The type that text takes beside a value of another type, where DataFusion has no rule or another one.
fn beside(data_type: &DataType) -> Option<KalamDataType> {
    match data_type {
        DataType::FixedSizeBinary(16) => Some(KalamDataType::Uuid),
        DataType::Binary => Some(KalamDataType::Bytes),
        _ => None,
    }
}

/// The type that text in the statement takes, which has none of its own, beside a value of another type.
fn beside_written(data_type: &DataType) -> Option<KalamDataType> {
    match data_type {
        DataType::Boolean => Some(KalamDataType::Boolean),
        DataType::Date32 => Some(KalamDataType::Date),
        DataType::Time64(_) => Some(KalamDataType::Time),
        DataType::Timestamp(_, None) => Some(KalamDataType::Timestamp),
        DataType::Timestamp(_, Some(_)) => Some(KalamDataType::DateTime),
        other => beside(other),
    }
}

fn matched(expr: Expr, other: Option<&DataType>, schema: &dyn ExprSchema) -> Expr {
    let target = match &expr {
        Expr::Literal(..) => other.and_then(beside_written),
        _ => other.and_then(beside),
    };
    match (target, expr.get_type(schema)) {
        (Some(target), Ok(found)) if is_text(&found) => KalamCast::call(expr, target, false),
        _ => expr,
    }
}

/// Two sides that are compared.
fn pair(left: Expr, right: Expr, schema: &dyn ExprSchema) -> DfResult<(Expr, Expr)> {
    if let Some(lengths) = intervals::lengths(&left, &right, schema)? {
        return Ok(lengths);
    }
    let (of_left, of_right) = (left.get_type(schema).ok(), right.get_type(schema).ok());
    Ok((matched(left, of_right.as_ref(), schema), matched(right, of_left.as_ref(), schema)))
}

/// The length in the place of an interval; `is_one` says whether the others are such.
fn measured(expr: Expr, is_one: bool, schema: &dyn ExprSchema) -> DfResult<Expr> {
    Ok(match is_one {
        true => intervals::length_of(&expr, schema)?.unwrap_or(expr),
        false => expr,
    })
}

/// Rewrites the casts and comparisons of a plan.
#[derive(Debug)]
pub struct KalamCasts;

impl AnalyzerRule for KalamCasts {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            let is_sort = matches!(plan, LogicalPlan::Sort(_));
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let rewritten = expr.transform_up(|expr| {
                    rewrite(expr, &schema)?.transform_data(|expr| arithmetic::checked(expr, &schema))
                })?;
                let rewritten = match is_sort {
                    true => rewritten.map_data(|key| {
                        let is_interval = key.get_type(&schema).is_ok_and(|t| is_interval(&t));
                        measured(key, is_interval, &schema)
                    })?,
                    false => rewritten,
                };
                Ok(rewritten.update_data(|expr| name.restore(expr)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        })
        .data()
    }

    fn name(&self) -> &str {
        "kalam_casts"
    }
}

fn rewrite(expr: Expr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
    Ok(match expr {
        Expr::ScalarFunction(mut call) if call.name() == NAMED_CAST => {
            let target = named_target(call.args.get(1))?;
            let Some(expr) = call.args.drain(..).next() else { return Ok(Transformed::no(Expr::ScalarFunction(call))) };
            let cast = Cast { expr: Box::new(expr), field: Arc::new(target.plan_field("", true)) };
            Transformed::yes(rewrite(Expr::Cast(cast), schema)?.data)
        }
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field })
            if expr.get_type(schema).is_ok_and(|source| mixes(&source, field.data_type())) =>
        {
            let message =
                format!("cannot cast {} to {}", in_words(&expr.get_type(schema)?), in_words(field.data_type()));
            return Err(mismatch(message, "date_part('epoch', …) and to_timestamp(…) convert seconds."));
        }
        Expr::Cast(Cast { expr, field }) => match target_of(&expr, &field, schema) {
            Some(target) => Transformed::yes(KalamCast::call(*expr, target, false)),
            None => Transformed::no(Expr::Cast(Cast { expr, field })),
        },
        Expr::TryCast(TryCast { expr, field }) => match target_of(&expr, &field, schema) {
            Some(target) => Transformed::yes(KalamCast::call(*expr, target, true)),
            None => Transformed::no(Expr::TryCast(TryCast { expr, field })),
        },
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
            let (left, right) = pair(*left, *right, schema)?;
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) }))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: op @ Operator::StringConcat, right }) => {
            let text = |side: Expr| match side.get_type(schema) {
                Ok(found) if is_interval(&found) => KalamCast::call(side, KalamDataType::Text, false),
                _ => side,
            };
            let (left, right) = (Box::new(text(*left)), Box::new(text(*right)));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match intervals::calculated(&left, op, &right, schema)? {
            Some(calculated) => Transformed::yes(calculated),
            None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
        },
        Expr::InList(InList { expr, list, negated }) => {
            let other = expr.get_type(schema).ok();
            let is_interval = other.as_ref().is_some_and(is_interval);
            let item = |item| measured(matched(item, other.as_ref(), schema), is_interval, schema);
            let list = list.into_iter().map(item).collect::<DfResult<_>>()?;
            let expr = Box::new(measured(*expr, is_interval, schema)?);
            Transformed::yes(Expr::InList(InList { expr, list, negated }))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let other = expr.get_type(schema).ok();
            let is_interval = other.as_ref().is_some_and(is_interval);
            let bound = |bound| measured(matched(bound, other.as_ref(), schema), is_interval, schema);
            let (low, high) = (Box::new(bound(*low)?), Box::new(bound(*high)?));
            let expr = Box::new(measured(*expr, is_interval, schema)?);
            Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
        }
        Expr::Case(Case { expr: Some(x), when_then_expr, else_expr }) if is_told_apart(&x, schema) => {
            let equal = |(value, then): (Box<Expr>, Box<Expr>)| {
                let (x, value) = pair(x.as_ref().clone(), *value, schema)?;
                Ok((Box::new(x.eq(value)), then))
            };
            let when_then_expr = when_then_expr.into_iter().map(equal).collect::<DfResult<_>>()?;
            Transformed::yes(Expr::Case(Case { expr: None, when_then_expr, else_expr }))
        }
        Expr::ScalarFunction(call) if call.name() == "nullif" => match call.args.as_slice() {
            [x, value] if is_told_apart(x, schema) => {
                let (tested, value) = pair(x.clone(), value.clone(), schema)?;
                let null = Expr::Literal(ScalarValue::try_from(x.get_type(schema)?)?, None);
                Transformed::yes(when(tested.eq(value), null).otherwise(x.clone())?)
            }
            _ => Transformed::no(Expr::ScalarFunction(call)),
        },
        other => Transformed::no(other),
    })
}

/// Whether one type is that of numbers and the other that of dates or times.
fn mixes(a: &DataType, b: &DataType) -> bool {
    let is_time = |t: &DataType| {
        matches!(
            t,
            DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..)
        )
    };
    (a.is_numeric() && is_time(b)) || (is_time(a) && b.is_numeric())
}

fn in_words(data_type: &DataType) -> String {
    plain_words::translated(&data_type.to_string())
}

fn mismatch(message: String, hint: &'static str) -> DataFusionError {
    DataFusionError::External(Box::new(KalamError::new(ErrorCode::DatatypeMismatch, message).with_hint(hint)))
}

/// The type of ours that a cast reads text as, if that is a date or a time: Arrow reads it by other rules.
fn is_read(expr: &Expr, field: &FieldRef, schema: &DFSchema) -> Option<KalamDataType> {
    use KalamDataType as T;
    let target = beside_written(field.data_type())?;
    let is_time = matches!(target, T::Date | T::Time | T::Timestamp | T::DateTime);
    (is_time && expr.get_type(schema).is_ok_and(|source| is_text(&source))).then_some(target)
}

/// The casts that type coercion added, by the rules of `types`.
fn read_texts(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    plan.transform_up_with_subqueries(|plan| {
        let schema = merge_schema(&plan.inputs());
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let rewritten = expr.transform_up(|expr| match expr {
                Expr::Cast(Cast { expr, field }) => Ok(match is_read(&expr, &field, &schema) {
                    None => Transformed::no(Expr::Cast(Cast { expr, field })),
                    Some(target) => {
                        let read = KalamCast::call(*expr, target, false);
                        // Beside text, DataFusion takes timestamps for finer than they are.
                        Transformed::yes(match target.arrow_type() == *field.data_type() {
                            true => read,
                            false => Expr::Cast(Cast { expr: Box::new(read), field }),
                        })
                    }
                }),
                other => Ok(Transformed::no(other)),
            })?;
            Ok(rewritten.update_data(|expr| name.restore(expr)))
        })?
        .map_data(LogicalPlan::recompute_schema)
    })
    .data()
}

/// Refuses what type coercion made of numbers beside dates and times, and reads text that it casts; it runs after that.
#[derive(Debug)]
pub struct NoNumbersForTimes;

impl AnalyzerRule for NoNumbersForTimes {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> DfResult<LogicalPlan> {
        let mut reads_text = false;
        plan.apply_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            plan.apply_expressions(|expr| {
                expr.apply(|expr| {
                    let (Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field })) = expr else {
                        return Ok(TreeNodeRecursion::Continue);
                    };
                    match expr.get_type(&schema) {
                        Ok(source) if mixes(&source, field.data_type()) => {
                            let (source, target) = (in_words(&source), in_words(field.data_type()));
                            let message = format!("{source} and {target} meet here, which have no type in common");
                            Err(mismatch(message, "Cast one of the sides to TEXT, or convert it with a function."))
                        }
                        _ => {
                            reads_text |= is_read(expr, field, &schema).is_some();
                            Ok(TreeNodeRecursion::Continue)
                        }
                    }
                })
            })
        })?;
        if reads_text { read_texts(plan) } else { Ok(plan) }
    }

    fn name(&self) -> &str {
        "no_numbers_for_times"
    }
}

/// Whether NULLIF and `CASE x WHEN` compare values otherwise than `=`: Arrow tells -0 from 0, and knows no text of an id.
fn is_told_apart(x: &Expr, schema: &DFSchema) -> bool {
    let found = x.get_type(schema);
    !x.is_volatile()
        && found.is_ok_and(|t| {
            t == DataType::Float64 || t == DataType::Float32 || beside_written(&t).is_some() || is_interval(&t)
        })
}

fn compares(op: Operator) -> bool {
    use Operator as O;
    matches!(op, O::Eq | O::NotEq | O::Lt | O::LtEq | O::Gt | O::GtEq | O::IsDistinctFrom | O::IsNotDistinctFrom)
}

fn target_of(expr: &Expr, field: &FieldRef, schema: &DFSchema) -> Option<KalamDataType> {
    let target = KalamDataType::from_arrow_field(field).ok()?;
    let source = expr.get_type(schema).ok()?;
    // A type that is not ours exactly (an interval, nanoseconds) was asked for by DataFusion itself.
    (target.arrow_type() == *field.data_type() && is_ours(&source, target)).then_some(target)
}

/// The same for comparisons while SQL is planned: DataFusion refuses there what it cannot compare.
#[derive(Debug)]
pub struct KalamComparisons;

impl ExprPlanner for KalamComparisons {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> DfResult<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator as B;
        if !matches!(expr.op, B::Eq | B::NotEq | B::Lt | B::LtEq | B::Gt | B::GtEq) {
            return Ok(PlannerResult::Original(expr));
        }
        let (left, right) = pair(expr.left, expr.right, schema)?;
        Ok(PlannerResult::Original(RawBinaryExpr { op: expr.op, left, right }))
    }
}
