//! Functions that are other words for an expression: those of SQLite and PostgreSQL that cost nothing but a name.
//!
//! Invariant: a call becomes an expression that gives the same, before anything is planned, so that it is optimized,
//! kept and explained as that expression. A call that is not of the shape that is known stays as it is, and the planner
//! says that there is no such function.

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, CaseWhen, CastKind, DataType, DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, TimezoneInfo, Value,
};

use super::catalog::{fold, position_of_name};
use super::rewrite::call;
use super::time_zones;
use crate::error::{ErrorCode, KalamError};

const TIMESTAMP: DataType = DataType::Timestamp(None, TimezoneInfo::None);
const TIME: DataType = DataType::Time(None, TimezoneInfo::None);

/// The name here of a function that is called otherwise elsewhere, with the same arguments.
pub fn name_here(function: &Function) -> Option<&'static str> {
    let [part] = function.name.0.as_slice() else { return None };
    Some(match fold(part.as_ident()?).as_str() {
        "ceiling" => "ceil",
        "ifnull" | "nvl" => "coalesce",
        "unicode" => "ascii",
        "every" => "bool_and",
        "any_value" => "first_value",
        "variance" => "var_samp",
        "json_group_array" => "json_agg",
        _ => return None,
    })
}

/// `group_concat(x, separator)` as `string_agg`, with its DISTINCT, ORDER BY, FILTER and window as they are.
pub fn concatenated(function: &mut Function) {
    let [part] = function.name.0.as_slice() else { return };
    if part.as_ident().map(fold).as_deref() != Some("group_concat") {
        return;
    }
    let FunctionArguments::List(list) = &mut function.args else { return };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(value)), rest @ ..] = list.args.as_mut_slice() else { return };
    match rest {
        [] => {
            *value = cast(value.clone(), DataType::Text);
            list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(text(","))));
        }
        [_] => *value = cast(value.clone(), DataType::Text),
        _ => return,
    }
    function.name = ast::ObjectName::from(vec![ast::Ident::new("string_agg")]);
}

/// Why a call is refused that has the name and the shape of one of SQLite's.
pub fn refused(function: &Function) -> Option<KalamError> {
    let [part] = function.name.0.as_slice() else { return None };
    let name = fold(part.as_ident()?);
    let most = match name.as_str() {
        "date" | "time" | "datetime" | "unixepoch" => 1,
        "strftime" => 2,
        _ => return None,
    };
    let FunctionArguments::List(list) = &function.args else { return None };
    (list.args.len() > most).then(|| {
        KalamError::new(ErrorCode::FeatureNotSupported, format!("modifiers of {name}(…) are not supported"))
            .with_hint("Add an INTERVAL: x + INTERVAL '1 day'; date_trunc('month', x) is the start of the month.")
            .at(position_of_name(&function.name))
    })
}

/// The expression that a call is another word for.
pub fn expression(function: &Function) -> Option<Expr> {
    let [part] = function.name.0.as_slice() else { return None };
    let ident = part.as_ident()?;
    if function.over.is_some() || function.filter.is_some() || !function.within_group.is_empty() {
        return None;
    }
    let name = fold(ident);
    if name == "localtimestamp" && matches!(function.args, FunctionArguments::None) {
        // Without a zone, the clocks are UTC's.
        return Some(cast(call("now", Vec::new()), TIMESTAMP));
    }
    let arguments = arguments(function)?;
    Some(match (name.as_str(), arguments.as_slice()) {
        ("iif" | "if", [condition, then, otherwise]) => case(condition, then, Some(otherwise)),
        ("iif" | "if", [condition, then]) => case(condition, then, None),
        ("date", [value]) => moment(value, DataType::Date, "current_date"),
        // Of other values there is a function: what text holds, a time or a date, is known when it is read.
        ("time", [value]) if is_now(value) => cast(call("current_time", Vec::new()), TIME),
        // Without a % there is nothing to fill in, also where to_char has patterns of its own.
        ("strftime", [format, _]) if written(format).is_some_and(|text| !text.contains('%')) => format.clone(),
        ("datetime", [value]) => moment(value, TIMESTAMP, "now"),
        ("strftime", [format, value]) => {
            let at = moment(value, TIMESTAMP, "now");
            call("to_char", vec![at, with_fractions(format)])
        }
        ("unixepoch", [value]) => {
            let at = moment(value, TIMESTAMP, "now");
            cast(call("date_part", vec![text("epoch"), at]), DataType::BigInt(None))
        }
        ("age", [value]) => call("age", vec![cast(call("current_date", Vec::new()), TIMESTAMP), value.clone()]),
        // The days of a zone.
        ("date_trunc", [unit, value, zone]) => {
            let local = call(time_zones::NAME, vec![zone.clone(), value.clone()]);
            call(time_zones::NAME, vec![zone.clone(), call("date_trunc", vec![unit.clone(), local])])
        }
        ("row", [_, _, ..]) => Expr::Tuple(arguments),
        ("hex", [value]) => call("upper", vec![call("encode", vec![value.clone(), text("hex")])]),
        ("unhex", [value]) => call("decode", vec![value.clone(), text("hex")]),
        // What lies between the quotes is doubled where it is one.
        ("quote_literal", [value]) => between("'", "''", cast(value.clone(), DataType::Text)),
        ("version", []) => text(concat!("KalamDB ", env!("CARGO_PKG_VERSION"))),
        ("current_database" | "current_catalog", []) => text(crate::tables::CATALOG),
        ("div", [a, b]) => call("trunc", vec![divided(a, b)]),
        ("total", [value]) => {
            let sum = call("sum", vec![cast(value.clone(), DataType::DoublePrecision)]);
            call("coalesce", vec![sum, Expr::Value(Value::Number("0.0".into(), false).with_empty_span())])
        }
        _ => return None,
    })
}

/// EXTRACT of what years are counted by.
pub fn years(field: &DateTimeField, of: &Expr) -> Option<Expr> {
    let (before, years) = match field {
        DateTimeField::Decade => ("0", "10"),
        DateTimeField::Century => ("99", "100"),
        DateTimeField::Millennium | DateTimeField::Millenium => ("999", "1000"),
        _ => return None,
    };
    let number = |text: &str| Box::new(Expr::Value(Value::Number(text.into(), false).with_empty_span()));
    let year = Box::new(call("date_part", vec![text("year"), of.clone()]));
    let sum = Expr::BinaryOp { left: year, op: BinaryOperator::Plus, right: number(before) };
    let sum = Box::new(Expr::Nested(Box::new(sum)));
    let whole = Expr::BinaryOp { left: sum, op: BinaryOperator::Divide, right: number(years) };
    Some(Expr::Nested(Box::new(whole)))
}

fn arguments(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &function.args else { return None };
    if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return None;
    }
    let argument = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    list.args.iter().map(argument).collect()
}

fn text(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).with_empty_span())
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

/// The text that an expression is.
fn written(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// A value as a date or time; `'now'` is the moment of the statement, as in SQLite.
fn moment(value: &Expr, data_type: DataType, now: &str) -> Expr {
    cast(if is_now(value) { call(now, Vec::new()) } else { value.clone() }, data_type)
}

fn is_now(value: &Expr) -> bool {
    written(value).is_some_and(|text| text.eq_ignore_ascii_case("now"))
}

/// A format of SQLite's strftime: its %f is the seconds with milliseconds, elsewhere it is the fraction alone.
fn with_fractions(format: &Expr) -> Expr {
    let Some(written) = written(format) else {
        // A percent sign that is doubled is no beginning.
        let marked = call("replace", vec![format.clone(), text("%%"), text("\u{0}")]);
        let replaced = call("replace", vec![marked, text("%f"), text("%S%.3f")]);
        return call("replace", vec![replaced, text("\u{0}"), text("%%")]);
    };
    let mut out = String::with_capacity(written.len());
    let mut letters = written.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('f') => out.push_str("%S%.3f"),
            other => out.extend(std::iter::once('%').chain(other)),
        }
    }
    text(&out)
}

fn case(condition: &Expr, then: &Expr, otherwise: Option<&Expr>) -> Expr {
    Expr::Case {
        case_token: ast::helpers::attached_token::AttachedToken::empty(),
        end_token: ast::helpers::attached_token::AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition: condition.clone(), result: then.clone() }],
        else_result: otherwise.map(|e| Box::new(e.clone())),
    }
}

/// Text in quotes, with the quotes in it doubled.
fn between(quote: &str, doubled: &str, value: Expr) -> Expr {
    let inner = call("replace", vec![value, text(quote), text(doubled)]);
    binary(binary(text(quote), BinaryOperator::StringConcat, inner), BinaryOperator::StringConcat, text(quote))
}

fn divided(a: &Expr, b: &Expr) -> Expr {
    binary(Expr::Nested(Box::new(a.clone())), BinaryOperator::Divide, Expr::Nested(Box::new(b.clone())))
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

/// The regular expression that a pattern of SIMILAR TO stands for: `%` and `_` are those of LIKE, and it fits the whole
/// text; the rest is as in regular expressions.
pub fn similar_pattern(pattern: &str, escape: char) -> String {
    let mut out = String::from("^(?s:");
    let mut letters = pattern.chars();
    let mut in_class = false;
    while let Some(letter) = letters.next() {
        match letter {
            _ if letter == escape => {
                if let Some(escaped) = letters.next() {
                    if !escaped.is_alphanumeric() {
                        out.push('\\');
                    }
                    out.push(escaped);
                }
            }
            '[' => {
                in_class = true;
                out.push('[');
            }
            ']' => {
                in_class = false;
                out.push(']');
            }
            '%' if !in_class => out.push_str(".*"),
            '_' if !in_class => out.push('.'),
            '.' | '^' | '$' | '\\' if !in_class => {
                out.push('\\');
                out.push(letter);
            }
            _ => out.push(letter),
        }
    }
    out.push_str(")$");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_similar_to() {
        for (pattern, regex) in [
            ("a%", "^(?s:a.*)$"),
            ("_b.c", "^(?s:.b\\.c)$"),
            ("(a|b)[%_]+", "^(?s:(a|b)[%_]+)$"),
            ("a\\%", "^(?s:a\\%)$"),
        ] {
            assert_eq!(similar_pattern(pattern, '\\'), regex);
        }
    }
}
