//! INSERT.
//!
//! The rows of VALUES go straight into column builders, each value by itself, so that an error names its row; their
//! expressions are computed by a query before. Every other source is planned as a query and its result converted
//! column by column. Both follow the same assignment rules (`types`).

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use datafusion::sql::sqlparser::ast::{
    self, Expr, Ident, Insert, SetExpr, TableObject, UnaryOperator, Value as SqlValue,
};

use super::super::catalog::{Extras, fold, single_ident};
use super::super::defaults::default_column;
use super::super::executor::{Execution, StatementResult, finish_rows};
use super::super::fault;
use super::super::params::Params;
use super::super::parser::position_of;
use super::super::plan_cache::PlanFor;
use super::dml::{Target, item, select_from, unsupported};
use super::returning::Others;
use super::upsert::Upsert;
use crate::error::{ErrorCode, KalamError, Result};
use crate::schema::TableDefinition;
use crate::tables::{Request, prepare_rows};
use crate::types::{ColumnBuilder, KalamDataType, Value, coerce_array};

/// Runs an INSERT.
pub async fn insert(execution: &Execution<'_>, insert: &Insert) -> Result<StatementResult> {
    if insert.overwrite || insert.insert_alias.is_some() {
        return unsupported("INSERT OVERWRITE and VALUES … AS");
    }
    let upsert = Upsert::of(insert)?;
    let TableObject::TableName(name) = &insert.table else { return unsupported("INSERT INTO a function") };
    let target = Target::find(execution, name).await?;
    let listed = listed_columns(target.definition(), insert)?;
    let parts = source_columns(execution, &target, insert, listed.as_deref()).await?;

    let mut first_row = 1;
    let mut batches = Vec::with_capacity(parts.len());
    for part in parts {
        let rows = part.rows;
        let columns = complete(execution, target.definition(), part)?;
        let (columns, rows) = match &upsert {
            Some(upsert) => upsert.without_nulls(execution, target.definition(), columns, rows)?,
            None => (columns, rows),
        };
        batches.push(target.batch(columns, rows, first_row)?);
        first_row += rows;
    }
    let alias = match (&insert.table_alias, name.0.last().and_then(|p| p.as_ident())) {
        (Some(alias), _) => alias.alias.clone(),
        (None, Some(last)) => last.clone(),
        (None, None) => Ident::new("inserted"),
    };
    if let Some(upsert) = upsert {
        return Box::pin(upsert.run(execution, target, insert, &alias, &batches)).await;
    }
    let returned = match insert.returning.as_ref() {
        items @ Some(_) => {
            Box::pin(target.returning(execution, items, &alias, batches.clone(), &Others::default())).await?
        }
        None => None,
    };
    let mut prepared = Vec::new();
    for batch in &batches {
        prepared.extend(prepare_rows(target.definition(), batch, None)?);
    }
    let mut result = target.commit(execution, prepared, Vec::new(), Vec::new()).await?;
    result.rows = returned;
    Ok(result)
}

/// Puts the runs of one INSERT with several sets of parameters together into one commit; `execution` has none of them.
/// `None`, and nothing done, if the statement is not one of one row of constants and parameters, or if anything is wrong
/// with one of the rows: then each run finds out by itself.
pub async fn insert_together(
    execution: &Execution<'_>,
    insert: &Insert,
    sets: &[&Params],
) -> Result<Option<impl Future<Output = Result<StatementResult>> + use<>>> {
    let plain = !insert.overwrite && insert.insert_alias.is_none() && insert.returning.is_none();
    let row = insert.source.as_deref().and_then(plain_values).map(Vec::as_slice);
    let (true, None, TableObject::TableName(name), Some([row])) = (plain, Upsert::of(insert)?, &insert.table, row)
    else {
        return Ok(None);
    };
    for expr in &row.content {
        // Whether it is a value at all does not depend on the parameters.
        if !is_default(expr) && literal(expr, sets[0])?.is_none() {
            return Ok(None);
        }
    }
    let target = Target::find(execution, name).await?;
    let listed = listed_columns(target.definition(), insert)?;
    let rows = sets.iter().map(|params| (row.content.as_slice(), *params));
    let part = value_rows(execution, target.definition(), rows, listed.as_deref(), Vec::new())?;
    let columns = complete(execution, target.definition(), part)?;
    let batch = target.batch(columns, sets.len(), 1)?;
    let prepared = prepare_rows(target.definition(), &batch, None)?;
    target.submit(execution, prepared, Vec::new(), Vec::new()).await.map(Some)
}

/// The columns that the statement lists, as places in the table's column order.
fn listed_columns(definition: &TableDefinition, insert: &Insert) -> Result<Option<Vec<usize>>> {
    if insert.columns.is_empty() {
        return Ok(None);
    }
    let mut listed = Vec::with_capacity(insert.columns.len());
    for name in &insert.columns {
        let ident = single_ident(name, "column")?;
        let place = column_place(definition, &ident)?;
        if listed.contains(&place) {
            return Err(KalamError::new(
                ErrorCode::DuplicateColumn,
                format!("column '{}' is listed twice", fold(&ident)),
            )
            .at(position_of(&ident)));
        }
        listed.push(place);
    }
    Ok(Some(listed))
}

/// The place of a named column in the table's column order.
pub fn column_place(definition: &TableDefinition, ident: &Ident) -> Result<usize> {
    let name = fold(ident);
    definition.columns_in_order().position(|c| c.name == name).ok_or_else(|| {
        let names: Vec<&str> = definition.columns_in_order().map(|c| c.name.as_str()).collect();
        KalamError::new(
            ErrorCode::ColumnNotFound,
            format!("column '{name}' of '{}' does not exist", definition.table_id),
        )
        .with_hint(format!("There are: {}.", names.join(", ")))
        .at(position_of(ident))
    })
}

/// Columns of some rows: given, or to be filled with the default.
struct Part {
    columns: Vec<Option<ArrayRef>>,
    rows: usize,
}

fn complete(execution: &Execution<'_>, definition: &TableDefinition, part: Part) -> Result<Vec<ArrayRef>> {
    definition
        .columns_in_order()
        .zip(part.columns)
        .map(|(column, given)| match given {
            Some(array) => Ok(array),
            None => default_column(execution, column, part.rows),
        })
        .collect()
}

async fn source_columns(
    execution: &Execution<'_>,
    target: &Target,
    insert: &Insert,
    listed: Option<&[usize]>,
) -> Result<Vec<Part>> {
    let width = target.definition().columns.len();
    let Some(source) = &insert.source else {
        return Ok(vec![Part { columns: vec![None; width], rows: 1 }]);
    };
    if let Some(rows) = plain_values(source) {
        let computed = computed_values(execution, target, rows).await?;
        let rows = rows.iter().map(|row| (row.content.as_slice(), execution.params));
        return Ok(vec![value_rows(execution, target.definition(), rows, listed, computed)?]);
    }
    let (schema, batches) = execution
        .select_part(PlanFor::Rows, Arc::clone(&target.request), || Ok((source.as_ref().clone(), Extras::new())))
        .await?;
    let places = places(target.definition(), listed, schema.fields().len(), None)?;
    batches.into_iter().map(|batch| convert(target.definition(), &places, &batch)).collect()
}

/// Which column each value goes to. Without a list, fewer values than columns leave the last ones to their defaults.
fn places(
    definition: &TableDefinition,
    listed: Option<&[usize]>,
    given: usize,
    row: Option<usize>,
) -> Result<Vec<usize>> {
    let width = definition.columns.len();
    let (expected, fits) = match listed {
        Some(listed) => (listed.len(), listed.len() == given),
        None => (width, given <= width && given > 0),
    };
    if !fits {
        let whose = row.map_or("the query gives".to_owned(), |row| format!("row {row} has"));
        return Err(KalamError::new(
            ErrorCode::SyntaxError,
            format!("{whose} {given} values for '{}', expected {expected}", definition.table_id),
        ));
    }
    Ok(match listed {
        Some(listed) => listed.to_vec(),
        None => (0..given).collect(),
    })
}

fn convert(definition: &TableDefinition, places: &[usize], batch: &RecordBatch) -> Result<Part> {
    let all: Vec<_> = definition.columns_in_order().collect();
    let mut columns = vec![None; all.len()];
    for (array, &place) in batch.columns().iter().zip(places) {
        columns[place] = Some(coerce_array(array, &all[place].data_type, &all[place].name)?);
    }
    Ok(Part { columns, rows: batch.num_rows() })
}

/// The rows of `VALUES (…), …` with nothing around them.
fn plain_values(query: &ast::Query) -> Option<&Vec<ast::Parens<Vec<Expr>>>> {
    match query.body.as_ref() {
        SetExpr::Values(values)
            if query.with.is_none()
                && query.order_by.is_none()
                && query.limit_clause.is_none()
                && query.fetch.is_none() =>
        {
            Some(&values.rows)
        }
        _ => None,
    }
}

/// How many rows an INSERT takes from VALUES of nothing but constants and DEFAULT, if it does.
pub fn constant_rows(execution: &Execution<'_>, source: &ast::Query) -> Result<Option<usize>> {
    let Some(rows) = plain_values(source) else { return Ok(None) };
    for expr in rows.iter().flat_map(|row| &row.content) {
        if !is_default(expr) && literal(expr, execution.params)?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(rows.len()))
}

fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("default"))
}

/// Whether an expression is a parameter or a constant, told without its value.
fn is_written(expr: &Expr) -> bool {
    use SqlValue as V;
    let Expr::Value(value) = expr else { return false };
    matches!(value.value, V::Placeholder(_) | V::SingleQuotedString(_) | V::Boolean(_) | V::Null)
}

/// So many expressions of VALUES are computed by one query.
const EXPRESSIONS_PER_QUERY: usize = 500;

/// The values of the expressions among the values, in order: everything but literals, parameters and DEFAULT.
async fn computed_values(
    execution: &Execution<'_>,
    target: &Target,
    rows: &[ast::Parens<Vec<Expr>>],
) -> Result<Vec<Value>> {
    let mut expressions = Vec::new();
    for expr in rows.iter().flat_map(|row| &row.content) {
        if !is_written(expr) && !is_default(expr) && literal(expr, execution.params)?.is_none() {
            expressions.push(expr);
        }
    }
    if expressions.is_empty() {
        return Ok(Vec::new());
    }
    computed(execution, &expressions, Arc::clone(&target.request)).await
}

/// The values of expressions that name no column.
pub async fn computed(execution: &Execution<'_>, expressions: &[&Expr], request: Arc<Request>) -> Result<Vec<Value>> {
    let mut values = Vec::with_capacity(expressions.len());
    for (number, part) in expressions.chunks(EXPRESSIONS_PER_QUERY).enumerate() {
        let build = || Ok((select_of(part)?, Extras::new()));
        let (schema, batches) = execution.select_part(PlanFor::Values(number), Arc::clone(&request), build).await?;
        let rows = finish_rows(&schema, batches, None)?;
        let [batch] = rows.batches.as_slice() else {
            return Err(KalamError::internal("expressions without FROM gave no row"));
        };
        for (array, field) in batch.columns().iter().zip(rows.schema.fields()) {
            let data_type = KalamDataType::from_arrow_field(field)?;
            values.push(Value::from_array(array.as_ref(), 0, &data_type)?);
        }
    }
    Ok(values)
}

/// `SELECT e AS $0, …` without FROM.
fn select_of(expressions: &[&Expr]) -> Result<ast::Query> {
    let mut query = select_from("none", &Ident::new("none"), |select| {
        select.from.clear();
        select.projection =
            expressions.iter().enumerate().map(|(i, expr)| item((*expr).clone(), &format!("${i}"))).collect();
    })?;
    query.with = None;
    Ok(query)
}

/// Builds the rows of VALUES, each with the parameters that it is for; `computed` holds the values of their expressions,
/// in order.
fn value_rows<'r>(
    execution: &Execution<'_>,
    definition: &TableDefinition,
    rows: impl ExactSizeIterator<Item = (&'r [Expr], &'r Params)> + Clone,
    listed: Option<&[usize]>,
    computed: Vec<Value>,
) -> Result<Part> {
    let columns: Vec<_> = definition.columns_in_order().collect();
    let count = rows.len();
    let first = rows.clone().next().map_or(0, |(row, _)| row.len());
    // What is too much, or where too little begins.
    let wrong = |row: &[Expr], expected: usize| row.get(expected).or(row.first()).and_then(fault::place_of);
    let width = listed.map_or(columns.len(), <[usize]>::len);
    let of_first = rows.clone().next().and_then(|(row, _)| wrong(row, width));
    let places = places(definition, listed, first, Some(1)).map_err(|error| error.at(of_first))?;
    let mut computed = computed.into_iter();
    let mut builders: Vec<ColumnBuilder> =
        places.iter().map(|&p| ColumnBuilder::new(&columns[p].data_type, &columns[p].name, count)).collect();
    for (i, (row, params)) in rows.enumerate() {
        if row.len() != first {
            return Err(KalamError::new(
                ErrorCode::SyntaxError,
                format!("row {} has {} values, row 1 has {first}", i + 1, row.len()),
            )
            .at(wrong(row, first)));
        }
        for ((expr, builder), &place) in row.iter().zip(&mut builders).zip(&places) {
            if is_default(expr) {
                let one = default_column(execution, columns[place], 1)?;
                builder.append(&Value::from_array(&one, 0, &columns[place].data_type)?)?;
                continue;
            }
            let value = match literal(expr, params)? {
                Some(value) => value,
                None => computed.next().ok_or_else(|| KalamError::internal("an expression was not computed"))?,
            };
            builder.append(&value).map_err(|error| error.at(fault::place_of(expr)))?;
        }
    }
    let mut given = vec![None; columns.len()];
    for (mut builder, place) in builders.into_iter().zip(places) {
        given[place] = Some(builder.finish());
    }
    Ok(Part { columns: given, rows: count })
}

/// The value of a literal or parameter; `None` if the expression is more than that.
pub fn literal(expr: &Expr, params: &Params) -> Result<Option<Value>> {
    Ok(match expr {
        Expr::Value(value) => match &value.value {
            SqlValue::Number(text, _) => match number(text) {
                Some(Value::Double(value)) if value.is_infinite() => {
                    return Err(KalamError::new(ErrorCode::OutOfRange, format!("{text} is out of range for DOUBLE")));
                }
                value => value,
            },
            SqlValue::SingleQuotedString(text)
            | SqlValue::EscapedStringLiteral(text)
            | SqlValue::NationalStringLiteral(text)
            | SqlValue::UnicodeStringLiteral(text) => Some(Value::Text(text.clone())),
            SqlValue::DollarQuotedString(text) => Some(Value::Text(text.value.clone())),
            SqlValue::HexStringLiteral(digits) => {
                Some(Value::Text(format!("\\x{digits}")).coerce(&KalamDataType::Bytes)?)
            }
            SqlValue::Boolean(value) => Some(Value::Boolean(*value)),
            SqlValue::Null => Some(Value::Null),
            SqlValue::Placeholder(name) => Some(params.get(name)?.clone()),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match literal(expr, params)? {
            Some(Value::BigInt(value)) => value.checked_neg().map(Value::BigInt),
            Some(Value::Double(value)) => Some(Value::Double(-value)),
            // 2^63 itself is no BIGINT, but its negative is one.
            Some(Value::Decimal { unscaled, scale: 0 }) if -unscaled == i128::from(i64::MIN) => {
                Some(Value::BigInt(i64::MIN))
            }
            Some(Value::Decimal { unscaled, scale }) => Some(Value::Decimal { unscaled: -unscaled, scale }),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } | Expr::Nested(expr) => literal(expr, params)?,
        _ => None,
    })
}

/// A number as it is written: a BIGINT, an exact DECIMAL, or with an exponent a DOUBLE.
fn number(text: &str) -> Option<Value> {
    if let Ok(value) = text.parse::<i64>() {
        return Some(Value::BigInt(value));
    }
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && digits <= 38 {
        let scale = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let unscaled = text.replace('.', "").parse::<i128>().ok()?;
        return Some(Value::Decimal { unscaled, scale: u8::try_from(scale).ok()? });
    }
    text.parse::<f64>().ok().map(Value::Double)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_what_is_written() {
        assert_eq!(number("42"), Some(Value::BigInt(42)));
        assert_eq!(number("0.10"), Some(Value::Decimal { unscaled: 10, scale: 2 }));
        assert_eq!(number("9223372036854775808"), Some(Value::Decimal { unscaled: 1 << 63, scale: 0 }));
        assert_eq!(number("1e3"), Some(Value::Double(1000.0)));
    }
}
