//! DataFusion's errors as ours.
//!
//! Invariant: an error of this engine that travelled through DataFusion comes out as it went in; everything else gets
//! the code that PostgreSQL would give, and a position where DataFusion knows one.

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError, Span};

use super::hidden_tables::written;
use super::parser::syntax_error;
use super::plain_words::{self, translated, without_values};
use crate::error::{ErrorCode, KalamError, Position};
use crate::tables::POSITION_COLUMN;

/// Translates an error of planning or execution.
pub fn from_datafusion(error: DataFusionError) -> KalamError {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<KalamError>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<DataFusionError>() {
                Ok(inner) => from_datafusion(*inner),
                Err(other) => from_unknown(other.as_ref()),
            },
        },
        DataFusionError::ArrowError(inner, _) => from_arrow(*inner),
        DataFusionError::SQL(inner, _) => syntax_error(&inner),
        DataFusionError::NotImplemented(what) => not_implemented(&what),
        DataFusionError::Plan(what) => from_plan(&what),
        DataFusionError::Configuration(what) => KalamError::new(ErrorCode::InvalidStatement, what),
        DataFusionError::SchemaError(inner, _) => from_schema(*inner),
        DataFusionError::Execution(what) => from_execution(&what),
        DataFusionError::ResourcesExhausted(what) => KalamError::new(
            ErrorCode::OutOfMemory,
            format!("the query needs more memory than its limit: {}", first_line(&what)),
        )
        .with_hint("Raise `memoryLimit`, select fewer rows or columns, or add a filter; make a large change in several statements."),
        DataFusionError::Context(_, inner) => from_datafusion(*inner),
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let position = diagnostic.span.and_then(position);
            from_datafusion(*inner).at(position)
        }
        DataFusionError::Collection(errors) => errors
            .into_iter()
            .next()
            .map_or_else(|| KalamError::internal("an empty collection of errors"), from_datafusion),
        DataFusionError::Shared(inner) => from_shared(&inner),
        other => KalamError::internal(other),
    }
}

/// An error of a library below DataFusion.
fn from_unknown(error: &(dyn std::error::Error + Send + Sync)) -> KalamError {
    let text = error.to_string();
    if text.starts_with("regex parse error") {
        // What is wrong stands in the last line, below a picture of where.
        let what =
            text.lines().next_back().and_then(|line| line.strip_prefix("error: ")).unwrap_or("it does not parse");
        return KalamError::new(ErrorCode::InvalidValue, format!("the regular expression is not valid: {what}"));
    }
    KalamError::internal(text)
}

fn not_implemented(what: &str) -> KalamError {
    if let Some((from, to)) = what.strip_prefix("Unsupported CAST from ").and_then(|types| types.split_once(" to ")) {
        let message = format!("cannot cast {} to {}", translated(from), translated(first_line(to)));
        return KalamError::new(ErrorCode::DatatypeMismatch, message);
    }
    if what.starts_with("Unsupported ast node ") {
        return KalamError::new(ErrorCode::FeatureNotSupported, "not supported: an expression of this kind");
    }
    for clause in ["LIMIT", "OFFSET"] {
        if what.starts_with(&format!("Unsupported {clause} expression")) {
            let message = format!("{clause} takes a number or a parameter");
            return KalamError::new(ErrorCode::FeatureNotSupported, message)
                .with_hint("Number the rows: row_number() OVER (ORDER BY …) <= (SELECT …).");
        }
    }
    if let Some(rest) = what.strip_prefix("Unsupported JOIN operator ") {
        let kind = rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
        let message = format!("not supported: a JOIN of the kind {}", kind.to_ascii_uppercase());
        return KalamError::new(ErrorCode::FeatureNotSupported, message)
            .with_hint("There are INNER, LEFT, RIGHT, FULL, CROSS and LATERAL; WHERE EXISTS and NOT EXISTS are semi and anti joins.");
    }
    if what.starts_with("GetFieldAccess not supported") {
        return KalamError::new(ErrorCode::FeatureNotSupported, "not supported: an element or field of a value by [ ]")
            .with_hint("-> and ->> take parts of JSON.");
    }
    if let Some((what, _)) = what.split_once(" not supported by ExprPlanner") {
        return KalamError::new(ErrorCode::FeatureNotSupported, format!("not supported: {what}"));
    }
    let misplaced =
        |name: &str| what.starts_with("Physical plan does not support logical expression ") && what.contains(name);
    if misplaced("expression ScalarSubquery")
        || misplaced("expression OuterReferenceColumn")
        || misplaced("expression Exists")
        || misplaced("expression InSubquery")
    {
        return KalamError::new(
            ErrorCode::FeatureNotSupported,
            "not supported: a subquery that refers to the query around it in this way",
        )
        .with_hint("Columns of the outer query can be compared with = ; otherwise write a JOIN with GROUP BY.");
    }
    if misplaced("expression Wildcard") {
        return KalamError::new(ErrorCode::InvalidStatement, "* is no value here: only count(*) takes it alone")
            .with_hint("Name a column.");
    }
    if misplaced("expression WindowFunction") {
        return KalamError::new(ErrorCode::InvalidStatement, "window functions are not allowed here")
            .with_hint("Put the window function into a subquery, or use QUALIFY.");
    }
    KalamError::new(
        ErrorCode::FeatureNotSupported,
        format!("not supported: {}", translated(without_values(first_line(what)))),
    )
}

/// A shared error cannot be taken apart by value: what matters of it is looked up by reference.
fn from_shared(error: &DataFusionError) -> KalamError {
    match error {
        DataFusionError::External(inner) => match inner.downcast_ref::<KalamError>() {
            Some(ours) => ours.clone(),
            None => KalamError::internal(inner),
        },
        DataFusionError::Context(_, inner) => from_shared(inner),
        DataFusionError::Shared(inner) => from_shared(inner),
        DataFusionError::Diagnostic(diagnostic, inner) => from_shared(inner).at(diagnostic.span.and_then(position)),
        DataFusionError::ResourcesExhausted(what) => from_datafusion(DataFusionError::ResourcesExhausted(what.clone())),
        DataFusionError::Execution(what) => from_execution(what),
        DataFusionError::Plan(what) => from_plan(what),
        DataFusionError::ArrowError(inner, _) => from_arrow_text(inner),
        other => KalamError::internal(other),
    }
}

fn position(span: Span) -> Option<Position> {
    let position =
        Position { line: u32::try_from(span.start.line).ok()?, column: u32::try_from(span.start.column).ok()? };
    (position.line > 0).then_some(position)
}

/// Translates an error of Arrow's kernels.
pub fn from_arrow(error: ArrowError) -> KalamError {
    match error {
        ArrowError::ExternalError(inner) => match inner.downcast::<KalamError>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<DataFusionError>() {
                Ok(inner) => from_datafusion(*inner),
                Err(other) => KalamError::internal(other),
            },
        },
        other => from_arrow_text(&other),
    }
}

fn from_arrow_text(error: &ArrowError) -> KalamError {
    match error {
        ArrowError::DivideByZero => KalamError::new(ErrorCode::DivisionByZero, "division by zero"),
        ArrowError::ArithmeticOverflow(what) => {
            KalamError::new(ErrorCode::OutOfRange, format!("the result is out of range: {what}"))
        }
        ArrowError::CastError(what) | ArrowError::ParseError(what) => from_cast(what),
        ArrowError::InvalidArgumentError(what) | ArrowError::ComputeError(what)
            if ["out of range", "overflow", "too large"].iter().any(|w| what.contains(w)) =>
        {
            KalamError::new(ErrorCode::OutOfRange, what.clone())
        }
        ArrowError::InvalidArgumentError(what) | ArrowError::ComputeError(what) => {
            KalamError::new(ErrorCode::InvalidValue, what.clone())
        }
        ArrowError::MemoryError(what) => KalamError::new(ErrorCode::OutOfMemory, what.clone()),
        ArrowError::OffsetOverflowError(bytes) => KalamError::new(
            ErrorCode::OutOfMemory,
            format!("a column of {bytes} bytes of text is too large for one batch"),
        ),
        other => KalamError::internal(other),
    }
}

fn from_cast(what: &str) -> KalamError {
    let lower = what.to_ascii_lowercase();
    let code = if lower.contains("overflow")
        || lower.contains("can't cast value")
        || lower.contains("out of range")
        || lower.contains("too large")
    {
        ErrorCode::OutOfRange
    } else if lower.contains("timestamp") || lower.contains("date") || lower.contains("time") {
        ErrorCode::InvalidDatetime
    } else {
        ErrorCode::InvalidText
    };
    if let Some((value, arrow)) = what.strip_prefix("Can't cast value ").and_then(|w| w.rsplit_once(" to type ")) {
        return KalamError::new(code, format!("{value} is out of range for {}", translated(arrow)));
    }
    // "Cannot cast string 'x' to value of Int32 type" in the words of this engine.
    if let Some((value, arrow)) = what
        .strip_prefix("Cannot cast string ")
        .and_then(|w| w.strip_suffix(" type"))
        .and_then(|w| w.rsplit_once(" to value of "))
    {
        return KalamError::new(code, format!("{value} is not a valid {}", translated(arrow)));
    }
    KalamError::new(code, what.to_owned())
}

/// What an error says of names of columns, if that is what it is about.
pub fn schema_error(error: &DataFusionError) -> Option<&SchemaError> {
    match error.find_root() {
        DataFusionError::SchemaError(inner, _) => Some(inner),
        _ => None,
    }
}

fn from_schema(error: SchemaError) -> KalamError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let error = KalamError::new(
                ErrorCode::ColumnNotFound,
                format!("column '{}' does not exist", written(&field.flat_name().replace('"', ""))),
            )
            .at(field.spans.first().and_then(position));
            let mut names: Vec<&str> =
                valid_fields.iter().map(|c| c.name.as_str()).filter(|n| !n.starts_with('_')).collect();
            let mut seen = std::collections::HashSet::new();
            names.retain(|name| seen.insert(*name));
            match names.is_empty() {
                true => error,
                false => error.with_hint(format!("There are: {}.", names.join(", "))),
            }
        }
        SchemaError::AmbiguousReference { field } => {
            KalamError::new(ErrorCode::AmbiguousColumn, format!("column '{}' is ambiguous", field.name))
                .with_hint("Put the table's name or alias and a dot before it.")
                .at(field.spans.first().and_then(position))
        }
        other => KalamError::new(
            ErrorCode::DuplicateColumn,
            match &other {
                SchemaError::DuplicateQualifiedField { qualifier, name } => {
                    format!("the name '{qualifier}' is used for two tables that both have a column '{name}'")
                }
                _ => other.to_string(),
            },
        ),
    }
}

/// A message of DataFusion's that is known, in other words.
fn known(what: &str) -> Option<KalamError> {
    let what = ["Error during planning: ", "Execution error: ", "Internal error: "]
        .iter()
        .fold(what, |what, prefix| what.strip_prefix(prefix).unwrap_or(what));
    plain_words::reworded(what).map(|reworded| {
        let error = KalamError::new(reworded.code, reworded.message);
        match reworded.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    })
}

fn from_plan(what: &str) -> KalamError {
    if what.contains(POSITION_COLUMN) && what.contains("GROUP BY") {
        return KalamError::new(ErrorCode::InvalidStatement, "aggregate functions are not allowed in UPDATE")
            .with_hint("Put the aggregate into a subquery.");
    }
    if let Some(known) = known(what) {
        return known;
    }
    let what = first_line(what);
    let what = what.strip_prefix("Internal error: ").unwrap_or(what);
    let what = &what.replace("While expanding wildcard, column", "column");
    let lower = what.to_ascii_lowercase();
    let code = if lower.starts_with("invalid function") || lower.contains("no function matches") {
        ErrorCode::FunctionNotFound
    } else if lower.contains("cannot coerce")
        || lower.contains("cannot infer common")
        || lower.contains("is not comparable")
        || lower.contains("failed to coerce")
        || lower.contains("can't be evaluated because there isn't a common type")
        || lower.contains("type mismatch")
        || lower.contains("non-boolean predicate")
        || lower.contains("requires a boolean")
        || lower.contains("isn't a common type")
        || lower.contains("can not find compatible types")
    {
        ErrorCode::DatatypeMismatch
    } else if lower.contains("duplicate") && lower.contains("name") {
        ErrorCode::DuplicateColumn
    } else if lower.contains("placeholder") {
        ErrorCode::ParameterCount
    } else {
        ErrorCode::InvalidStatement
    };
    KalamError::new(code, translated(without_values(what)))
}

fn from_execution(what: &str) -> KalamError {
    if let Some(known) = known(what) {
        return known;
    }
    let lower = what.to_ascii_lowercase();
    let code = if lower.contains("more than one row") || lower.contains("scalar subquery") {
        ErrorCode::TooManyRows
    } else if lower.contains("overflow") || lower.contains("out of range") {
        ErrorCode::OutOfRange
    } else if lower.contains("divide by zero") {
        ErrorCode::DivisionByZero
    } else if lower.contains("timestamp") || lower.contains("date") {
        ErrorCode::InvalidDatetime
    } else {
        ErrorCode::InvalidValue
    };
    let what = first_line(what);
    KalamError::new(code, translated(what.strip_prefix("Execution error: ").unwrap_or(what)))
}

/// DataFusion appends backtraces and plans after the first line.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or(text)
}
