//! JSON operators and functions.
//!
//! Invariant: what JSON comes from a column is not parsed into a tree but read in place (`text.rs`); text that is no
//! JSON column is checked first, so an operator fails on what is no JSON, as a cast does. The operators give what
//! PostgreSQL's give: `->` JSON as it was written, `->>` text, NULL for what is not there.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanBuilder, Int32Builder, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{DFSchema, DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use serde_json::Value as Tree;

use super::casts::without_place;
use crate::error::{ErrorCode, KalamError};
use crate::types::json_text::{self as text, Json, Step};
use crate::types::{KalamDataType, Value, coerce_array};

/// What one function or operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Get,
    GetText,
    Path,
    PathText,
    Has,
    HasAny,
    HasAll,
    Contains,
    Contained,
    Extract,
    TypeOf,
    Length,
    Valid,
    Object,
    Array,
    ToJson,
    Elements,
}

/// Operators: how SQL writes them.
const OPERATORS: [(&str, Kind); 9] = [
    ("->", Kind::Get),
    ("->>", Kind::GetText),
    ("#>", Kind::Path),
    ("#>>", Kind::PathText),
    ("?", Kind::Has),
    ("?|", Kind::HasAny),
    ("?&", Kind::HasAll),
    ("@>", Kind::Contains),
    ("<@", Kind::Contained),
];

/// Functions: their names, the first of them PostgreSQL's or SQLite's own, and how many arguments they take.
const FUNCTIONS: [(&str, &[&str], Kind, Option<usize>); 8] = [
    ("json_extract", &[], Kind::Extract, Some(2)),
    ("json_typeof", &["jsonb_typeof"], Kind::TypeOf, Some(1)),
    ("json_array_length", &["jsonb_array_length"], Kind::Length, Some(1)),
    ("json_valid", &[], Kind::Valid, Some(1)),
    ("json_build_object", &["json_object", "jsonb_build_object"], Kind::Object, None),
    ("json_build_array", &["json_array", "jsonb_build_array"], Kind::Array, None),
    ("to_json", &["to_jsonb"], Kind::ToJson, Some(1)),
    (ELEMENTS, &[], Kind::Elements, Some(1)),
];

/// What `json_agg(x)` is rewritten to: this, of the array of `to_json(x)`.
pub const ELEMENTS: &str = "json_of_elements";

/// The functions.
pub fn functions() -> Vec<Arc<ScalarUDF>> {
    let with = |&(name, aliases, kind, arity): &(&'static str, &[&str], Kind, Option<usize>)| {
        let signature = match arity {
            Some(n) => Signature::any(n, Volatility::Immutable),
            None => Signature::one_of(
                vec![
                    datafusion::logical_expr::TypeSignature::Nullary,
                    datafusion::logical_expr::TypeSignature::VariadicAny,
                ],
                Volatility::Immutable,
            ),
        };
        let aliases = aliases.iter().map(|&a| a.to_owned()).collect();
        Arc::new(ScalarUDF::new_from_impl(JsonFunction { name, kind, aliases, signature }))
    };
    FUNCTIONS.iter().map(with).collect()
}

/// Plans the operators.
#[derive(Debug)]
pub struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> DfResult<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator as B;
        if expr.op == B::StringConcat && is_json(&expr.left, schema) && is_json(&expr.right, schema) {
            let error = KalamError::new(ErrorCode::FeatureNotSupported, "JSON || JSON is not supported");
            return Err(external(error.with_hint("CAST(… AS TEXT) joins the texts.")));
        }
        let kind = match expr.op {
            B::Arrow => Kind::Get,
            B::LongArrow => Kind::GetText,
            B::HashArrow => Kind::Path,
            B::HashLongArrow => Kind::PathText,
            B::Question => Kind::Has,
            B::QuestionPipe => Kind::HasAny,
            B::QuestionAnd => Kind::HasAll,
            B::AtArrow => Kind::Contains,
            B::ArrowAt => Kind::Contained,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let name = OPERATORS.iter().find(|(_, k)| *k == kind).map_or("?", |(name, _)| name);
        let signature = Signature::any(2, Volatility::Immutable);
        let operator = JsonFunction { name, kind, aliases: Vec::new(), signature };
        let call = ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(operator)), vec![expr.left, expr.right]);
        Ok(PlannerResult::Planned(Expr::ScalarFunction(call)))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct JsonFunction {
    name: &'static str,
    kind: Kind,
    aliases: Vec<String>,
    signature: Signature,
}

/// Whether an expression is JSON, and not any text. DataFusion's casts keep what is said of the value that they take.
fn is_json(expr: &Expr, schema: &DFSchema) -> bool {
    let field = match expr {
        Expr::Cast(Cast { field, .. }) | Expr::TryCast(TryCast { field, .. }) => Some(Arc::clone(field)),
        expr => expr.to_field(schema).ok().map(|(_, field)| field),
    };
    field.is_some_and(|field| KalamDataType::from_arrow_field(&field).is_ok_and(|t| t == KalamDataType::Json))
}

fn external(error: KalamError) -> DataFusionError {
    DataFusionError::External(Box::new(without_place(error)))
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

fn name_of(field: &Field) -> String {
    KalamDataType::from_arrow_field(field).map_or_else(|_| field.data_type().to_string(), |t| t.sql_name().into_owned())
}

impl JsonFunction {
    fn is_operator(&self) -> bool {
        OPERATORS.iter().any(|(name, _)| *name == self.name)
    }

    fn result(&self) -> KalamDataType {
        match self.kind {
            Kind::Get | Kind::Path | Kind::Object | Kind::Array | Kind::ToJson | Kind::Elements => KalamDataType::Json,
            Kind::GetText | Kind::PathText | Kind::Extract | Kind::TypeOf => KalamDataType::Text,
            Kind::Has | Kind::HasAny | Kind::HasAll | Kind::Contains | Kind::Contained | Kind::Valid => {
                KalamDataType::Boolean
            }
            Kind::Length => KalamDataType::Int,
        }
    }

    /// Whether the `i`-th argument may be of a type.
    fn takes(&self, i: usize, data_type: &DataType) -> bool {
        match (self.kind, i) {
            (Kind::Object | Kind::Array | Kind::ToJson | Kind::Elements, _) => true,
            (Kind::Get | Kind::GetText, 1) => is_text(data_type) || data_type.is_integer(),
            _ => is_text(data_type),
        }
    }
}

impl ScalarUDFImpl for JsonFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        let sides: Vec<String> = args.iter().map(|a| a.schema_name().to_string()).collect();
        Ok(match self.is_operator() {
            true => sides.join(&format!(" {} ", self.name)),
            false => format!("{}({})", self.name, sides.join(",")),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(self.result().arrow_type())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        for (i, field) in args.arg_fields.iter().enumerate() {
            if !self.takes(i, field.data_type()) {
                let found = args.arg_fields.iter().map(|f| name_of(f));
                let message = match self.is_operator() {
                    true => {
                        format!(
                            "the operator {} does not exist",
                            found.collect::<Vec<_>>().join(&format!(" {} ", self.name))
                        )
                    }
                    false => format!("{}({}) does not exist", self.name, found.collect::<Vec<_>>().join(", ")),
                };
                let error = KalamError::new(ErrorCode::FunctionNotFound, message);
                return Err(external(error.with_hint("Its first argument is JSON, or text that is JSON.")));
            }
        }
        Ok(Arc::new(self.result().plan_field(self.name, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let scalars = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if scalars { 1 } else { args.number_rows };
        let result: ArrayRef = match self.kind {
            Kind::Object | Kind::Array | Kind::ToJson | Kind::Elements => self.build(&args, rows)?,
            _ => self.read(&args, rows)?,
        };
        Ok(match scalars {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?),
            false => ColumnarValue::Array(result),
        })
    }
}

/// An argument of text: a column, or one value for every row.
struct Texts {
    array: StringArray,
    one: bool,
}

impl Texts {
    fn of(value: &ColumnarValue) -> DfResult<Self> {
        let (array, one) = match value {
            ColumnarValue::Array(array) => (Arc::clone(array), false),
            ColumnarValue::Scalar(scalar) => (scalar.to_array()?, true),
        };
        Ok(Self { array: cast(&array, &DataType::Utf8)?.as_string::<i32>().clone(), one })
    }

    /// Text that is JSON.
    fn json(value: &ColumnarValue, field: &Field) -> DfResult<Self> {
        let texts = Self::of(value)?;
        if !matches!(KalamDataType::from_arrow_field(field), Ok(KalamDataType::Json | KalamDataType::File)) {
            let array: ArrayRef = Arc::new(texts.array.clone());
            coerce_array(&array, &KalamDataType::Json, "").map_err(external)?;
        }
        Ok(texts)
    }

    fn get(&self, row: usize) -> Option<&str> {
        let row = if self.one { 0 } else { row };
        self.array.is_valid(row).then(|| self.array.value(row))
    }
}

fn bad_path(path: &str, expected: &str) -> DataFusionError {
    let message = format!("'{path}' is not a path, expected one like {expected}");
    external(KalamError::new(ErrorCode::InvalidText, message))
}

/// The steps to take in each row.
enum Paths {
    One(Option<Vec<Step>>),
    Each(Vec<Option<Vec<Step>>>),
}

impl Paths {
    fn of(kind: Kind, value: &ColumnarValue) -> DfResult<Self> {
        let steps = if value.data_type().is_integer() {
            let array = value.to_array(1)?;
            let array = cast(&array, &DataType::Int64)?;
            let index = array.as_primitive::<Int64Type>().iter();
            index.map(|i| i.map(|i| vec![Step::Index(i)])).collect()
        } else {
            let texts = Texts::of(value)?;
            let steps = |path: &str| match kind {
                Kind::Get | Kind::GetText => Ok(vec![Step::Key(path.to_owned())]),
                Kind::Extract => text::dollar(path).ok_or_else(|| bad_path(path, "'$.a[0]'")),
                _ => text::braced(path).ok_or_else(|| bad_path(path, "'{a,0}'")),
            };
            texts.array.iter().map(|p| p.map(steps).transpose()).collect::<DfResult<Vec<_>>>()?
        };
        Ok(match value {
            ColumnarValue::Scalar(_) => Self::One(steps.into_iter().next().flatten()),
            ColumnarValue::Array(_) => Self::Each(steps),
        })
    }

    fn get(&self, row: usize) -> Option<&[Step]> {
        match self {
            Self::One(steps) => steps.as_deref(),
            Self::Each(steps) => steps.get(row)?.as_deref(),
        }
    }
}

impl JsonFunction {
    /// What reads JSON.
    fn read(&self, args: &ScalarFunctionArgs, rows: usize) -> DfResult<ArrayRef> {
        let (Some(first), Some(field)) = (args.args.first(), args.arg_fields.first()) else {
            return Err(external(KalamError::internal("a JSON function reads something")));
        };
        let second = || args.args.get(1).ok_or_else(|| external(KalamError::internal("an operator has two sides")));
        if self.kind == Kind::Valid {
            let texts = Texts::of(first)?;
            let valid = |t: &str| serde_json::from_str::<serde::de::IgnoredAny>(t).is_ok();
            return Ok(booleans(rows, |row| texts.get(row).map(valid)));
        }
        let json = Texts::json(first, field)?;
        Ok(match self.kind {
            Kind::Get | Kind::GetText | Kind::Path | Kind::PathText | Kind::Extract => {
                let paths = Paths::of(self.kind, second()?)?;
                let found = |row| text::follow(json.get(row)?, paths.get(row)?);
                match self.kind {
                    Kind::Get | Kind::Path => texts(rows, |row| found(row).map(Cow::Borrowed)),
                    _ => texts(rows, |row| found(row).and_then(text::as_text)),
                }
            }
            Kind::TypeOf => texts(rows, |row| text::kind(json.get(row)?).map(Cow::Borrowed)),
            Kind::Length => {
                let mut builder = Int32Builder::with_capacity(rows);
                for row in 0..rows {
                    match json.get(row).map(|j| text::length(j).ok_or(j)) {
                        None => builder.append_null(),
                        Some(Ok(n)) => builder.append_value(i32::try_from(n).unwrap_or(i32::MAX)),
                        Some(Err(other)) => {
                            let kind = text::kind(other).unwrap_or("value");
                            let message = format!("cannot get the array length of a JSON {kind}");
                            return Err(external(KalamError::new(ErrorCode::InvalidValue, message)));
                        }
                    }
                }
                Arc::new(builder.finish())
            }
            Kind::Has => {
                let keys = Texts::of(second()?)?;
                booleans(rows, |row| Some(text::has(json.get(row)?, keys.get(row)?)))
            }
            Kind::HasAny | Kind::HasAll => {
                let keys = Paths::of(self.kind, second()?)?;
                let all = self.kind == Kind::HasAll;
                booleans(rows, |row| {
                    let json = json.get(row)?;
                    let has = |step: &Step| matches!(step, Step::Either(key) if text::has(json, key));
                    let keys = keys.get(row)?;
                    Some(if all { keys.iter().all(has) } else { keys.iter().any(has) })
                })
            }
            _ => {
                let second_field = args.arg_fields.get(1).unwrap_or(field);
                let other = Texts::json(second()?, second_field)?;
                let flip = self.kind == Kind::Contained;
                booleans(rows, |row| {
                    let (a, b) = (tree(json.get(row)?)?, tree(other.get(row)?)?);
                    Some(if flip { contains(&b, &a, true) } else { contains(&a, &b, true) })
                })
            }
        })
    }

    /// What writes JSON.
    fn build(&self, args: &ScalarFunctionArgs, rows: usize) -> DfResult<ArrayRef> {
        let columns = args.args.iter().map(|a| a.to_array(rows)).collect::<DfResult<Vec<_>>>()?;
        if self.kind == Kind::Object && columns.len() % 2 == 1 {
            let message =
                format!("{} is given {} arguments, expected pairs of a key and a value", self.name, columns.len());
            return Err(external(KalamError::new(ErrorCode::FunctionNotFound, message)));
        }
        let mut builder = StringBuilder::with_capacity(rows, rows * 16);
        let mut out = String::new();
        for row in 0..rows {
            out.clear();
            let fields = args.arg_fields.iter();
            match self.kind {
                Kind::ToJson | Kind::Elements => {
                    let (Some(array), Some(field)) = (columns.first(), args.arg_fields.first()) else { continue };
                    if is_null(array, row) {
                        builder.append_null();
                        continue;
                    }
                    write_value(&mut out, array, field, row, self.kind == Kind::Elements)?;
                }
                _ => {
                    let object = self.kind == Kind::Object;
                    out.push(if object { '{' } else { '[' });
                    for (i, (array, field)) in columns.iter().zip(fields).enumerate() {
                        if i > 0 {
                            out.push_str(if object && i % 2 == 1 { " : " } else { ", " });
                        }
                        if object && i % 2 == 0 {
                            let key = Value::from_array(array, row, &data_type(field)?).map_err(external)?;
                            if key.is_null() {
                                let message = format!("{}: a key is NULL", self.name);
                                return Err(external(KalamError::new(ErrorCode::InvalidValue, message)));
                            }
                            quote(&mut out, &key.to_text());
                        } else {
                            write_value(&mut out, array, field, row, false)?;
                        }
                    }
                    out.push(if object { '}' } else { ']' });
                }
            }
            builder.append_value(&out);
        }
        Ok(Arc::new(builder.finish()))
    }
}

fn texts<'a>(rows: usize, value: impl Fn(usize) -> Option<Cow<'a, str>>) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(rows, rows * 8);
    (0..rows).for_each(|row| builder.append_option(value(row)));
    Arc::new(builder.finish())
}

fn booleans(rows: usize, value: impl Fn(usize) -> Option<bool>) -> ArrayRef {
    let mut builder = BooleanBuilder::with_capacity(rows);
    (0..rows).for_each(|row| builder.append_option(value(row)));
    Arc::new(builder.finish())
}

fn tree(json: Json<'_>) -> Option<Tree> {
    serde_json::from_str(json).ok()
}

/// PostgreSQL's `@>`: every member and element of `b` is somewhere in `a`; at the top an array contains a scalar.
fn contains(a: &Tree, b: &Tree, top: bool) -> bool {
    match (a, b) {
        (Tree::Object(a), Tree::Object(b)) => {
            b.iter().all(|(key, value)| a.get(key).is_some_and(|found| contains(found, value, false)))
        }
        (Tree::Array(a), Tree::Array(b)) => b.iter().all(|value| a.iter().any(|found| contains(found, value, false))),
        (Tree::Array(a), scalar) if top && !scalar.is_object() => a.contains(scalar),
        (Tree::Number(a), Tree::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

fn data_type(field: &Field) -> DfResult<KalamDataType> {
    KalamDataType::from_arrow_field(field).map_err(external)
}

/// An array of NULLs alone has no validity buffer to ask.
fn is_null(array: &ArrayRef, row: usize) -> bool {
    array.is_null(row) || array.data_type() == &DataType::Null
}

fn quote(out: &mut String, text: &str) {
    // A string always has a JSON form.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// A value as JSON; with `verbatim`, the texts of a list are JSON already.
fn write_value(out: &mut String, array: &ArrayRef, field: &Field, row: usize, verbatim: bool) -> DfResult<()> {
    if is_null(array, row) {
        out.push_str("null");
        return Ok(());
    }
    if let Some(list) = array.as_list_opt::<i32>() {
        let items = list.value(row);
        let DataType::List(item) = array.data_type() else { return Ok(()) };
        out.push('[');
        for i in 0..items.len() {
            if i > 0 {
                out.push_str(", ");
            }
            match items.as_string_opt::<i32>() {
                Some(texts) if verbatim && texts.is_valid(i) => out.push_str(texts.value(i)),
                _ => write_value(out, &items, item, i, false)?,
            }
        }
        out.push(']');
        return Ok(());
    }
    match Value::from_array(array, row, &data_type(field)?).map_err(external)? {
        Value::Text(text) => quote(out, &text),
        Value::Double(x) if !x.is_finite() => quote(out, &x.to_string()),
        value @ (Value::Boolean(_)
        | Value::BigInt(_)
        | Value::Double(_)
        | Value::Decimal { .. }
        | Value::Json(_)
        | Value::Embedding(_)) => out.push_str(&value.to_text()),
        other => quote(out, &other.to_text()),
    }
    Ok(())
}
