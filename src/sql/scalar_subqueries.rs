//! What a scalar subquery is where it finds no row, and where it finds several.
//!
//! DataFusion says of its value whatever it knows of the subquery's column: with a NOT NULL column `(SELECT id …) IS NULL`
//! became false, and a result with a NULL in it was refused. And it refuses `(SELECT name FROM u WHERE u.id = o.uid)`,
//! because several rows could be found. Invariant: behind [`plain`] no plan takes the value of a subquery that may have no
//! row for one that is never NULL, and every subquery that refers outwards has one row at most. The first passes its
//! column through a function that says nothing of its result ([`Unsaid`]), so no rule finds out again. The second gives
//! its first value and how many there are ([`Pair`]), as an aggregate; several are an error only when they are looked at
//! ([`Only`]), because rows are counted for outer rows too that nobody asks about.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DataFusionError, Result as DfResult, internal_datafusion_err};
use datafusion::functions_aggregate::count::count_all;
use datafusion::functions_aggregate::first_last::first_value;
use datafusion::logical_expr::expr::InSubquery;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, Projection, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Subquery, Volatility,
};

use super::plain_words::{ONE_ROW, SEVERAL_ROWS};
use super::unnest::{has_at_most_one_row, has_subquery};
use crate::error::{ErrorCode, KalamError};

/// The plan with scalar subqueries that DataFusion takes for what they are; see the module's comment.
pub fn plain(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let mut changed = false;
    let plan = plan
        .transform_up_with_subqueries(|node| {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                if !has_subquery(&expr) {
                    return Ok(Transformed::no(expr));
                }
                let name = names.save(&expr);
                let expr = expr.transform_up(|expr| match expr {
                    Expr::ScalarSubquery(subquery) => plain_subquery(subquery),
                    Expr::InSubquery(test) if takes_a_name(&test.subquery) => {
                        let subquery = Arc::new(with_named_value(test.subquery.subquery.as_ref().clone())?);
                        let subquery = Subquery { subquery, ..test.subquery };
                        Ok(Transformed::yes(Expr::InSubquery(InSubquery { subquery, ..test })))
                    }
                    other => Ok(Transformed::no(other)),
                })?;
                changed |= expr.transformed;
                Ok(expr.update_data(|expr| name.restore(expr)))
            })
        })
        .data()?;
    if !changed {
        return Ok(plan);
    }
    // What stands above says now what it says of columns that may be NULL.
    plan.transform_up_with_subqueries(|node| node.recompute_schema().map(Transformed::yes)).data()
}

/// What a subquery becomes, or itself.
fn plain_subquery(subquery: Subquery) -> DfResult<Transformed<Expr>> {
    let as_it_is = |subquery| Ok(Transformed::no(Expr::ScalarSubquery(subquery)));
    let plan = subquery.subquery.as_ref();
    // Several columns are an error, which the planner tells.
    let mut columns = plan.schema().columns();
    let Some(column) = columns.pop().filter(|_| columns.is_empty()) else { return as_it_is(subquery) };
    let Column { relation, name, .. } = column.clone();
    let column = Expr::Column(column);
    if !subquery.outer_ref_columns.is_empty() {
        if has_at_most_one_row(plan) {
            return as_it_is(subquery);
        }
        let (plan, column) = match with_named_value(plan.clone())? {
            named @ LogicalPlan::Projection(_) => (named, Expr::Column(Column::from_name(VALUE))),
            other => (other, column),
        };
        let no_groups: Vec<Expr> = Vec::new();
        let found = vec![first_value(column, Vec::new()).alias("$first"), count_all().alias("$rows")];
        let pair = PAIR.call(vec![Expr::Column(Column::from_name("$first")), Expr::Column(Column::from_name("$rows"))]);
        let plan =
            LogicalPlanBuilder::from(plan).aggregate(no_groups, found)?.project([pair.alias("$found")])?.build()?;
        let subquery = Subquery { subquery: Arc::new(plan), ..subquery };
        return Ok(Transformed::yes(ONLY.call(vec![Expr::ScalarSubquery(subquery)])));
    }
    // Also of a column that may be NULL, as far as is known now: of an expression the optimizer may make a constant.
    if has_exactly_one_row(plan) {
        return as_it_is(subquery);
    }
    let value = unsaid(column).alias_qualified(relation, name);
    let plan = LogicalPlanBuilder::from(plan.clone()).project([value])?.build()?;
    Ok(Transformed::yes(Expr::ScalarSubquery(Subquery { subquery: Arc::new(plan), ..subquery })))
}

const VALUE: &str = "$value";

/// A subquery's plan with a name for its value that no other column has: what is compared with the outer row becomes a
/// column beside it, and a cast has the name of what it casts.
fn with_named_value(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    match plan {
        LogicalPlan::Projection(Projection { expr, input, .. }) => {
            let value = expr.into_iter().map(|value| value.unalias().alias(VALUE));
            LogicalPlanBuilder::from(input).project(value)?.build()
        }
        other => Ok(other),
    }
}

/// Whether the value of an IN's subquery has a name that a column beside it may have.
fn takes_a_name(subquery: &Subquery) -> bool {
    let LogicalPlan::Projection(projection) = subquery.subquery.as_ref() else { return false };
    let plain = |expr: &Expr| matches!(expr, Expr::Column(_) | Expr::Alias(_));
    !subquery.outer_ref_columns.is_empty() && projection.expr.len() == 1 && !projection.expr.iter().all(plain)
}

/// Whether a plan has one row whatever the tables hold.
fn has_exactly_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => has_exactly_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_exactly_one_row(&alias.input),
        LogicalPlan::Sort(sort) => sort.fetch.is_none() && has_exactly_one_row(&sort.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(empty) => empty.produce_one_row,
        _ => false,
    }
}

static UNSAID: LazyLock<ScalarUDF> =
    LazyLock::new(|| ScalarUDF::new_from_impl(Unsaid { signature: Signature::any(1, Volatility::Volatile) }));
static PAIR: LazyLock<ScalarUDF> =
    LazyLock::new(|| ScalarUDF::new_from_impl(Pair { signature: Signature::any(2, Volatility::Immutable) }));
static ONLY: LazyLock<ScalarUDF> =
    LazyLock::new(|| ScalarUDF::new_from_impl(Only { signature: Signature::any(1, Volatility::Immutable) }));

/// A value of which no rule knows anything but its type.
pub(super) fn unsaid(value: Expr) -> Expr {
    UNSAID.call(vec![value])
}

fn without_arguments(function: &impl ScalarUDFImpl) -> DataFusionError {
    internal_datafusion_err!("{} without its arguments", function.name())
}

/// Gives its argument. Of functions it is taken for granted that they may give NULL; volatile, or a constant would come
/// back out of it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Unsaid {
    signature: Signature,
}

impl ScalarUDFImpl for Unsaid {
    fn name(&self) -> &str {
        "$value_or_null"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DfResult<DataType> {
        arguments.first().cloned().ok_or_else(|| without_arguments(self))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> DfResult<FieldRef> {
        let field = arguments.arg_fields.first().ok_or_else(|| without_arguments(self))?;
        // With its metadata: they tell JSON from text.
        Ok(Arc::new(field.as_ref().clone().with_nullable(true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        arguments.args.into_iter().next().ok_or_else(|| without_arguments(self))
    }
}

/// A value and how many rows there were; NULL if there was none.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Pair {
    signature: Signature,
}

impl Pair {
    fn fields(value: &DataType) -> Fields {
        [Field::new("value", value.clone(), true), Field::new("rows", DataType::Int64, false)].into_iter().collect()
    }
}

impl ScalarUDFImpl for Pair {
    fn name(&self) -> &str {
        "$value_and_rows"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DfResult<DataType> {
        let value = arguments.first().ok_or_else(|| without_arguments(self))?;
        Ok(DataType::Struct(Self::fields(value)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let [value, rows] = arrays.try_into().map_err(|_: Vec<ArrayRef>| without_arguments(self))?;
        let found: NullBuffer = rows.as_primitive::<Int64Type>().iter().map(|n| n.is_some_and(|n| n > 0)).collect();
        let fields = Self::fields(value.data_type());
        Ok(ColumnarValue::Array(Arc::new(StructArray::try_new(fields, vec![value, rows], Some(found))?)))
    }
}

/// The value of a [`Pair`] of one row.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Only {
    signature: Signature,
}

impl ScalarUDFImpl for Only {
    fn name(&self) -> &str {
        "$only_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DfResult<DataType> {
        match arguments {
            [DataType::Struct(fields)] if !fields.is_empty() => Ok(fields[0].data_type().clone()),
            _ => Err(without_arguments(self)),
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let pairs = arrays.first().and_then(|pairs| pairs.as_struct_opt()).ok_or_else(|| without_arguments(self))?;
        let (value, rows) = (pairs.column(0), pairs.column(1).as_primitive::<Int64Type>());
        if (0..pairs.len()).any(|row| pairs.is_valid(row) && rows.value(row) > 1) {
            let error = KalamError::new(ErrorCode::TooManyRows, SEVERAL_ROWS).with_hint(ONE_ROW);
            return Err(DataFusionError::External(Box::new(error)));
        }
        // Where there is no pair, what lies in its place is nobody's value.
        let value = match pairs.nulls() {
            Some(found) => arrow::compute::nullif(value, &arrow::compute::not(&found.inner().clone().into())?)?,
            None => Arc::clone(value),
        };
        Ok(ColumnarValue::Array(value))
    }
}
