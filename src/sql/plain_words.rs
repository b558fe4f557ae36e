//! DataFusion's messages in the words of SQL.
//!
//! Invariant: no name of an Arrow type and no Rust value reaches a caller in a message that came from DataFusion: what
//! is known is said anew ([`reworded`]), everything else has its types and constants translated ([`translated`]).

use std::borrow::Cow;

use crate::error::ErrorCode;

/// A message said anew.
pub struct Reworded {
    /// Its code.
    pub code: ErrorCode,
    /// What was found, and what was expected.
    pub message: String,
    /// What may help.
    pub hint: Option<Cow<'static, str>>,
}

fn said(code: ErrorCode, message: String) -> Option<Reworded> {
    Some(Reworded { code, message, hint: None })
}

fn hinted(code: ErrorCode, message: String, hint: impl Into<Cow<'static, str>>) -> Option<Reworded> {
    Some(Reworded { code, message, hint: Some(hint.into()) })
}

/// What a subquery is told that gives more than one value.
pub const SEVERAL_ROWS: &str = "a subquery that stands for one value has found several rows";
/// What helps then.
pub const ONE_ROW: &str = "Let its WHERE find one row, or take one with max(), min() or LIMIT 1.";

/// Functions that only work over a window.
const WINDOW_FUNCTIONS: &[&str] = &[
    "row_number",
    "rank",
    "dense_rank",
    "percent_rank",
    "cume_dist",
    "ntile",
    "lag",
    "lead",
    "first_value",
    "last_value",
    "nth_value",
];

/// The message of a planner's error said anew; `None` if it is not one of those that are known. `what` is all of it,
/// with the lines after the first.
pub fn reworded(what: &str) -> Option<Reworded> {
    use ErrorCode as C;
    let line = what.lines().next().unwrap_or(what);
    if let Some(rest) = line.strip_prefix("Invalid function '") {
        let name = rest.split('\'').next().unwrap_or(rest);
        return missing_function(name, what);
    }
    if let Some((_, rest)) = what.split_once("the given name and argument types '")
        && let Some((call, _)) = rest.split_once("'. You might")
    {
        return wrong_arguments(line, call);
    }
    if let Some(rest) = line.strip_prefix("Cannot coerce arithmetic expression ") {
        let operation = translated(rest.trim_end_matches(" to valid types"));
        return hinted(
            C::DatatypeMismatch,
            format!("the operator {operation} does not exist"),
            "Cast one of the sides.",
        );
    }
    for known in [
        "Cannot infer common argument type for comparison operation ",
        "Cannot infer common argument type for logical boolean operation ",
        "Cannot infer common string type for string concat operation ",
        "Cannot infer common argument type for regex operation ",
        "Cannot infer common type for bitwise operation ",
    ] {
        if let Some(rest) = line.strip_prefix(known) {
            let message = format!("the operator {} does not exist", translated(rest));
            return hinted(C::DatatypeMismatch, message, "Cast one of the sides.");
        }
    }
    if let Some(rest) = line.strip_prefix("Incompatible inputs for Union: Previous inputs were of type ")
        && let Some((first, rest)) = rest.split_once(", but got incompatible type ")
        && let Some((second, _)) = rest.rsplit_once(" on column ")
    {
        let message = format!("UNION of {} and {}: they have no type in common", translated(first), translated(second));
        return hinted(C::DatatypeMismatch, message, "Cast one of the sides.");
    }
    if let Some(rest) = line.strip_prefix("Inconsistent data type across values list at row ")
        && let Some((_, types)) = rest.split_once(". Was ")
        && let Some((first, second)) = types.split_once(" but found ")
    {
        let message = format!("VALUES has {} and {} in one column", translated(first), translated(second));
        return hinted(C::DatatypeMismatch, message, "Cast one of them.");
    }
    if let Some(rest) = line.strip_prefix("Inconsistent data length across values list: got ")
        && let Some((found, rest)) = rest.split_once(" values in row ")
        && let Some((row, expected)) = rest.split_once(" but expected ")
        && let Ok(row) = row.parse::<usize>()
    {
        let message = format!("row {} of VALUES has {found} values, row 1 has {expected}", row + 1);
        return said(C::InvalidStatement, message);
    }
    if let Some(rest) = line.strip_prefix("Function '")
        && let Some((name, rest)) = rest.split_once("' expects ")
        && let Some((_, found)) = rest.split_once(" but received ")
    {
        let found = if found == "String" { "TEXT".to_owned() } else { translated(found) };
        let hint = format!("{name} takes other arguments; a cast may help.");
        return hinted(C::FunctionNotFound, format!("function {name}({found}) does not exist"), hint);
    }
    if let Some(rest) = line.strip_prefix("There isn't a common type to coerce ")
        && let Some((types, _)) = rest.split_once(" in LIKE expression")
    {
        let message = format!("LIKE takes text, but is given {}", translated(types));
        return hinted(C::DatatypeMismatch, message, "CAST(… AS TEXT) makes text of a value.");
    }
    if let Some(found) = line.strip_prefix("Unary operator 'NOT' requires a boolean expression, got ") {
        return said(C::DatatypeMismatch, format!("NOT takes a BOOLEAN, but is given {}", translated(found)));
    }
    if line.starts_with("Unary operator '-' only supports") {
        return said(C::DatatypeMismatch, "the operator - takes a number or an interval".into());
    }
    if let Some(rest) = line.strip_prefix("Cannot create filter with non-boolean predicate '")
        && let Some((condition, found)) = rest.rsplit_once("' returning ")
    {
        let (condition, found) = (translated(condition), translated(found));
        return said(C::DatatypeMismatch, format!("the condition {condition} is {found}, expected a BOOLEAN"));
    }
    if let Some(found) = line.strip_prefix("Join condition must be boolean type, but got ") {
        return said(
            C::DatatypeMismatch,
            format!("the condition of a JOIN is {}, expected a BOOLEAN", translated(found)),
        );
    }
    if line == "join condition should not be empty" {
        return hinted(
            C::InvalidStatement,
            "a JOIN without a condition: expected ON or USING".into(),
            "CROSS JOIN takes every pair.",
        );
    }
    if line.starts_with("Projections require unique expression names") {
        let mut names = line.split('"').skip(1).step_by(2);
        if let (Some(one), Some(other)) = (names.next(), names.next())
            && one == other
        {
            let message = format!("column '{}' is selected twice", translated(one));
            return hinted(
                C::InvalidStatement,
                message,
                "List the columns, and give one of them another name with AS.",
            );
        }
        let message = "two columns, or groups, that differ by a cast only".to_owned();
        return hinted(C::InvalidStatement, message, "Give them their names in a subquery, and group those.");
    }
    if line.starts_with("Aggregate function calls cannot contain window function calls") {
        return hinted(
            C::InvalidStatement,
            "an aggregate cannot be asked for a window function".into(),
            "Put the window function into a subquery.",
        );
    }
    if let Some(rest) = line.trim_start_matches("Execution error: ").strip_prefix("[return_type] ")
        && let Some((name, found)) = rest.split_once(" not supported for ")
    {
        let message = format!("function {}({}) does not exist", name.to_lowercase(), translated(found));
        return hinted(C::FunctionNotFound, message, "A cast says which type is meant.");
    }
    if let Some((name, types)) = line.trim_start_matches("Execution error: ").split_once("Accumulator for (")
        && let Some((found, _)) = types.split_once(" --> ")
    {
        let message = format!("function {}({}) does not exist", name.to_lowercase(), translated(found));
        return hinted(C::FunctionNotFound, message, "A cast says which type is meant.");
    }
    if line.trim_start_matches("Execution error: ") == "Scalar subquery returned more than one row" {
        return hinted(C::TooManyRows, SEVERAL_ROWS.into(), ONE_ROW);
    }
    if line.starts_with("Substring without for/from") {
        let message = "function substr with 1 argument does not exist".to_owned();
        return hinted(C::FunctionNotFound, message, "substr takes 2 or 3 arguments.");
    }
    if let Some((clause, rest)) = line.split_once(" must be in GROUP BY or an aggregate function: ")
        && clause.starts_with("Column in ")
        && let Some((_, rest)) = rest.split_once("column \"")
    {
        let column = translated(rest.split('"').next().unwrap_or(rest));
        let message = format!("column '{column}' must appear in GROUP BY or be used in an aggregate function");
        return said(C::InvalidStatement, message);
    }
    if let Some(rest) = line.strip_prefix("HAVING clause references: ")
        && let Some((condition, _)) = rest.rsplit_once(" must appear in the GROUP BY")
    {
        let message = format!(
            "the columns of HAVING {} must appear in GROUP BY or be used in an aggregate function",
            translated(condition)
        );
        return hinted(C::InvalidStatement, message, "WHERE filters rows before they are grouped.");
    }
    if line.starts_with("Aggregate functions are not allowed in the WHERE clause") {
        let message = "aggregate functions are not allowed in WHERE".to_owned();
        return hinted(C::InvalidStatement, message, "HAVING filters groups.");
    }
    if let Some(rest) = line.strip_prefix("Order by column out of bounds, specified: ")
        && let Some((found, most)) = rest.split_once(", max: ")
    {
        let message = format!("ORDER BY {found}: there is no such position, the SELECT list has {most}");
        return said(C::InvalidColumnReference, message);
    }
    if let Some(rest) = line.strip_prefix("Cannot find column with position ")
        && let Some((found, most)) = rest.split_once(" in SELECT clause. Valid columns: 1 to ")
    {
        let message = format!("GROUP BY {found}: there is no such position, the SELECT list has {most}");
        return said(C::InvalidColumnReference, message);
    }
    for clause in ["LIMIT", "OFFSET"] {
        let expected = format!("Expected {clause} to be an integer or null, but got ");
        if let Some(found) = line.strip_prefix(&expected) {
            return said(C::DatatypeMismatch, format!("{clause} is {}, expected a number", translated(found)));
        }
        if let Some(rest) = line.strip_prefix(&format!("{clause} must be ")) {
            let found = rest.split('\'').nth(1).unwrap_or("negative");
            return said(C::InvalidStatement, format!("{clause} is {found}, expected 0 or more"));
        }
    }
    if let Some(rest) = line.strip_prefix("expr type ")
        && let Some((found, rest)) = rest.split_once(" can't cast to ")
        && let Some((listed, _)) = rest.split_once(" in InSubquery")
    {
        let message = format!("{} is looked for in a subquery of {}", translated(found), translated(listed));
        return hinted(C::DatatypeMismatch, message, "Cast one of the sides.");
    }
    if let Some(columns) = line.strip_prefix("Too many columns! The subquery should only return one column: ") {
        let count = columns.split(", ").count();
        let message = format!("the subquery gives {count} columns, expected one: {}", translated(columns));
        return said(C::InvalidStatement, message);
    }
    if let Some(rest) = line.strip_prefix("Source table contains ")
        && let Some((columns, names)) = rest.split_once(" columns but only ")
    {
        let names = names.split(' ').next().unwrap_or(names);
        return said(C::InvalidStatement, format!("{names} column names are given for a table with {columns} columns"));
    }
    if let Some(table) = line.strip_prefix("Invalid qualifier ") {
        let message = format!("'{table}.*': there is no table '{table}' in FROM");
        return said(C::TableNotFound, message);
    }
    if let Some(rest) = line.strip_prefix("variable [\"")
        && let Some((name, _)) = rest.split_once("\"]")
    {
        let message = format!("there is no variable {name}");
        return hinted(C::InvalidStatement, message, "Parameters are written $1, $2, … or $name.");
    }
    None
}

fn missing_function(name: &str, what: &str) -> Option<Reworded> {
    use ErrorCode as C;
    if WINDOW_FUNCTIONS.contains(&name) {
        let message = format!("the window function {name} is called without OVER");
        return hinted(C::WrongObjectType, message, format!("Write {name}(…) OVER (ORDER BY …)."));
    }
    if what.contains("table function") {
        return hinted(
            C::FunctionNotFound,
            format!("table function '{name}' does not exist"),
            "There are generate_series and range.",
        );
    }
    let message = format!("function '{name}' does not exist");
    if matches!(name, "generate_series" | "range" | "unnest") {
        return hinted(C::FunctionNotFound, message, format!("Call it in FROM: SELECT * FROM {name}(…)."));
    }
    match what.split_once("Did you mean '").and_then(|(_, rest)| rest.split('\'').next()) {
        // The nearest of all names may be far away.
        Some(near) if is_near(name, near) => hinted(C::FunctionNotFound, message, format!("Did you mean {near}?")),
        _ => said(C::FunctionNotFound, message),
    }
}

/// Whether one of two names may be meant by the other.
fn is_near(a: &str, b: &str) -> bool {
    super::catalog::edit_distance(a, b) <= 1 + a.len().min(b.len()) / 4
}

/// A call whose function exists, but not for its arguments.
fn wrong_arguments(line: &str, call: &str) -> Option<Reworded> {
    let (name, types) = call.split_once('(').unwrap_or((call, ""));
    let types = translated(types.strip_suffix(')').unwrap_or(types));
    let message = format!("function {name}({types}) does not exist");
    let hint: Cow<'static, str> = if name == "array_has" {
        // What `= ANY ($1)` is planned as.
        return hinted(
            ErrorCode::DatatypeMismatch,
            "ANY and ALL take an array or a subquery".into(),
            "Give the parameter a JavaScript array.",
        );
    } else if matches!(name, "max" | "min") && types.contains(',') {
        "greatest and least compare several values.".into()
    } else if let Some(count) = expected_count(line).filter(|_| !line.contains("any signature")) {
        format!("{name} takes {count} {}.", if count == "1" { "argument" } else { "arguments" }).into()
    } else if types.is_empty() {
        format!("{name} takes arguments.").into()
    } else {
        format!("{name} takes other arguments; a cast may help.").into()
    };
    hinted(ErrorCode::FunctionNotFound, message, hint)
}

/// The number in "expects 1 arguments but received 2", "expected 2 arguments but received 1".
fn expected_count(line: &str) -> Option<&str> {
    let (before, _) = line.split_once(" arguments but received ")?;
    let count = before.rsplit(' ').next()?;
    count.bytes().all(|b| b.is_ascii_digit()).then_some(count)
}

/// The SQL name of an Arrow type without its parameters; `None` if it is no type.
fn sql_type(arrow: &str) -> Option<&'static str> {
    Some(match arrow {
        "Null" => "NULL",
        "Boolean" => "BOOLEAN",
        "Int8" | "Int16" | "UInt8" => "SMALLINT",
        "Int32" | "UInt16" => "INT",
        "Int64" | "UInt32" | "UInt64" => "BIGINT",
        "Float16" | "Float32" => "FLOAT",
        "Float64" => "DOUBLE",
        "Utf8" | "LargeUtf8" | "Utf8View" => "TEXT",
        "Binary" | "LargeBinary" | "BinaryView" => "BYTES",
        "Date32" | "Date64" => "DATE",
        "Time32" | "Time64" => "TIME",
        "Timestamp" => "TIMESTAMP",
        "Interval" | "Duration" => "INTERVAL",
        "Decimal32" | "Decimal64" | "Decimal128" | "Decimal256" => "DECIMAL",
        "FixedSizeBinary" => "UUID",
        "FixedSizeList" => "EMBEDDING",
        "List" | "LargeList" => "ARRAY",
        "Struct" => "STRUCT",
        _ => return None,
    })
}

/// A message with Arrow's names of types as SQL's, and its constants as SQL writes them.
pub fn translated(what: &str) -> String {
    let mut out = String::with_capacity(what.len());
    let mut rest = what;
    while let Some(c) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if word == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (name, after) = rest.split_at(word);
        if name == "Literal"
            && let Some((inner, after)) = in_parentheses(after)
        {
            out.push_str(&translated(inner.trim_end_matches(", None")));
            rest = after;
            continue;
        }
        let Some(sql) = sql_type(name) else {
            out.push_str(name);
            rest = after;
            continue;
        };
        match in_parentheses(after) {
            None => {
                out.push_str(sql);
                rest = after;
            }
            Some((inner, after)) => {
                match name {
                    "Timestamp" => out.push_str(if inner.contains('"') { "DATETIME" } else { "TIMESTAMP" }),
                    "Decimal32" | "Decimal64" | "Decimal128" | "Decimal256" if !inner.starts_with("Some") => {
                        out.push_str(&format!("DECIMAL({inner})"));
                    }
                    "FixedSizeList" => {
                        let dimension = inner.split(' ').next().unwrap_or(inner);
                        out.push_str(&format!("EMBEDDING({dimension})"));
                    }
                    "Time32" | "Time64" | "Interval" | "Duration" | "FixedSizeBinary" | "List" | "LargeList"
                    | "Struct" => {
                        out.push_str(sql);
                    }
                    // A constant: Int64(1), Utf8("x").
                    _ => match inner.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
                        Some(text) => out.push_str(&format!("'{text}'")),
                        None => out.push_str(inner),
                    },
                }
                rest = after;
            }
        }
    }
    out.replace("count(1)", "count(*)")
}

/// A message without the Rust values that it ends with: `Unsupported Wrapped(X { a: … })` is `Unsupported`.
pub fn without_values(what: &str) -> &str {
    let Some(before) = what.find(" { ").map(|at| &what[..at]) else { return what };
    let (said, value) = before.split_at(before.rfind(' ').unwrap_or(0));
    let name = value.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
    match name.starts_with(|c: char| c.is_ascii_uppercase()) && !said.is_empty() {
        true => said.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()),
        false => what,
    }
}

/// What stands in the parentheses that a text begins with, and what follows them.
fn in_parentheses(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_usize;
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some((&text[1..at], &text[at + 1..]));
                }
            }
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_constants_become_sql() {
        for (arrow, sql) in [
            ("Int64 + Utf8", "BIGINT + TEXT"),
            ("t.n > Int64(1)", "t.n > 1"),
            ("x = Utf8(\"a (b\")", "x = 'a (b'"),
            ("Timestamp(µs) > Timestamp(ns, \"+00:00\")", "TIMESTAMP > DATETIME"),
            ("Decimal128(8, 2) + FixedSizeList(3 x Float32)", "DECIMAL(8, 2) + EMBEDDING(3)"),
            ("sum(count(Int64(1)))", "sum(count(*))"),
            ("FixedSizeBinary(16), Time64(µs), List(Int64)", "UUID, TIME, ARRAY"),
            ("Int64Column and Utf8", "Int64Column and TEXT"),
            ("got Literal(Utf8(\"x\"), None)", "got 'x'"),
            ("nothing here (at all", "nothing here (at all"),
            ("Int64(", "BIGINT("),
        ] {
            assert_eq!(translated(arrow), sql);
        }
    }

    #[test]
    fn no_value_of_rust_is_said() {
        for (what, said) in [
            ("Unsupported ast node Lambda { a: Ident { b } } in x", "Unsupported ast node"),
            ("cannot plan: Wrapped(Value { a: 1 })", "cannot plan"),
            ("no such thing: {a} and { b }", "no such thing: {a} and { b }"),
            ("nothing here", "nothing here"),
        ] {
            assert_eq!(without_values(what), said);
        }
    }

    #[test]
    fn known_messages_are_said_anew() {
        let say = |what: &str| reworded(what).map(|r| (r.message, r.hint.map(Cow::into_owned)));
        for (what, message, hint) in [
            (
                "Invalid function 'uper'.\nDid you mean 'upper'?",
                "function 'uper' does not exist",
                Some("Did you mean upper?"),
            ),
            ("Invalid function 'zzz'.\nDid you mean 'abs'?", "function 'zzz' does not exist", None),
            (
                "Function 'upper' expects 1 arguments but received 2. No function matches the given name and argument types 'upper(Int64, Utf8)'. You might need to add explicit type casts.",
                "function upper(BIGINT, TEXT) does not exist",
                Some("upper takes 1 argument."),
            ),
            (
                "Too many columns! The subquery should only return one column: t.id, t.n",
                "the subquery gives 2 columns, expected one: t.id, t.n",
                None,
            ),
            ("LIMIT must be >= 0, '-1' was provided", "LIMIT is -1, expected 0 or more", None),
        ] {
            assert_eq!(say(what), Some((message.to_owned(), hint.map(str::to_owned))), "{what}");
        }
        assert!(reworded("something else").is_none());
    }
}
