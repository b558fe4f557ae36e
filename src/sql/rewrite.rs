//! What SQL allows and DataFusion's planner does not, rewritten to what means the same.
//!
//! Invariant: a rewritten statement gives the same rows. Only names of columns that nobody wrote can change, by a
//! suffix that [`visible_name`] takes off again.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, Expr, Fetch, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, LimitClause, ObjectName,
    OrderBy, OrderByKind, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier, Value, VisitorMut,
};

use super::casts::NAMED_CAST;
use super::catalog::fold;
use super::fault::place_of;
use super::handlers::query::item_name;
use super::walk::walk_mut;
use super::{
    column_names, intervals, named_windows, order_names, recursion, row_values, series, synonyms, templates,
    time_zones, using, with_names,
};
use crate::error::{ErrorCode, KalamError, Result};
use crate::types::KalamDataType;

/// Stands between a name and the number that makes it unique: a character that no one types.
pub(super) const MARK: &str = "\u{200B}#";

/// A column's name without what made it unique.
pub fn visible_name(name: &str) -> &str {
    name.split_once(MARK).map_or(name, |(name, _)| name)
}

/// Rewrites what needs no knowledge of tables.
pub fn standardise(statement: &mut ast::Statement) -> Result<()> {
    with_names::write_out(statement);
    match walk_mut(statement, &mut Standardise) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Gives every column of every SELECT list a name of its own: DataFusion wants that, SQL does not. `ambiguous`: names
/// that it takes for those of columns of a table too.
pub fn name_columns(statement: &mut ast::Statement, ambiguous: &[String]) {
    let _ = walk_mut(statement, &mut NameColumns { ambiguous, depth: 0 });
}

/// Gives every cast a name of its own within expressions: DataFusion takes `max(x)` and `max(x::TEXT)` for one.
pub fn name_casts(statement: &mut ast::Statement) {
    struct NameCasts;
    impl VisitorMut for NameCasts {
        type Break = ();

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Cast { kind: ast::CastKind::Cast | ast::CastKind::DoubleColon, expr: inner, data_type, .. } =
                expr
                && let Ok(target) = KalamDataType::from_sql(data_type)
            {
                let name = Value::SingleQuotedString(target.sql_name().into_owned()).with_empty_span();
                *expr = call(NAMED_CAST, vec![inner.as_ref().clone(), Expr::Value(name)]);
            }
            ControlFlow::Continue(())
        }
    }
    let _ = walk_mut(statement, &mut NameCasts);
}

struct NameColumns<'a> {
    ambiguous: &'a [String],
    depth: usize,
}

impl VisitorMut for NameColumns<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        if self.depth == 1 {
            order_by_places(query, self.ambiguous);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let mut taken = HashSet::new();
        let wildcard = select
            .projection
            .iter()
            .any(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
        // A column's name is planned with its table: t.id AS "t.id" has taken that of t.id.
        let written: Vec<String> = select
            .projection
            .iter()
            .filter_map(|item| match item {
                SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
                _ => None,
            })
            .collect();
        for item in &mut select.projection {
            let Some(name) = item_name(item) else { continue };
            let is_column = match item {
                SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => true,
                SelectItem::ExprWithAlias { expr: Expr::CompoundIdentifier(parts), .. } => {
                    wildcard && parts.last().is_some_and(|column| fold(column) == name)
                }
                _ => false,
            };
            // Names of the rows that the statement gives are seen by its ORDER BY only, which goes by places now.
            let clashes = !is_column && (wildcard || self.depth == 1) && self.ambiguous.contains(&name);
            let qualified =
                is_column && written.iter().any(|w| w.rsplit_once('.').is_some_and(|(_, last)| last == name));
            let unclear = (wildcard && is_column) || clashes || qualified;
            let free = taken.insert(name.clone()) && !unclear;
            if free && is_column {
                continue;
            }
            let unique = if free { name.clone() } else { format!("{name}{MARK}{}", taken.len()) };
            taken.insert(unique.clone());
            let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { continue };
            let expr = std::mem::replace(expr, Expr::Wildcard(ast::helpers::attached_token::AttachedToken::empty()));
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', unique) };
        }
        ControlFlow::Continue(())
    }
}

/// ORDER BY an ambiguous name of the SELECT list, by its place there.
fn order_by_places(query: &mut Query, ambiguous: &[String]) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let Some(OrderBy { kind: OrderByKind::Expressions(keys), .. }) = &mut query.order_by else { return };
    for key in keys {
        let Expr::Identifier(ident) = &key.expr else { continue };
        let name = fold(ident);
        // Behind a wildcard nobody knows the place.
        let listed = select.projection.iter().map_while(item_name).position(|item| item == name);
        if let Some(place) = listed
            && ambiguous.contains(&name)
        {
            key.expr = Expr::Value(Value::Number((place + 1).to_string(), false).with_empty_span());
        }
    }
}

struct Standardise;

impl VisitorMut for Standardise {
    type Break = KalamError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<KalamError> {
        series::name_columns(query);
        using::in_order(query);
        order_names::name_windows(query);
        if let (SetExpr::Select(select), Some(order_by)) = (query.body.as_ref(), &mut query.order_by)
            && let Err(error) = named_windows::in_order(&select.named_window, order_by)
        {
            return ControlFlow::Break(error);
        }
        if let Err(error) = column_names::in_with(query).and_then(|()| recursion::write_out(query)) {
            return ControlFlow::Break(error);
        }
        if let Some(operation) = counted_operation(&query.body) {
            let message = format!("not supported: {operation} ALL");
            return ControlFlow::Break(
                KalamError::new(ErrorCode::FeatureNotSupported, message)
                    .with_hint("Without ALL each row comes once; UNION ALL is supported."),
            );
        }
        // FETCH FIRST n ROWS ONLY is LIMIT n.
        if let Some(Fetch { with_ties: false, percent: false, quantity }) = &mut query.fetch {
            let one = || Expr::Value(Value::Number("1".into(), false).with_empty_span());
            let count = quantity.take().unwrap_or_else(one);
            match &mut query.limit_clause {
                None => {
                    query.limit_clause =
                        Some(LimitClause::LimitOffset { limit: Some(count), offset: None, limit_by: Vec::new() });
                    query.fetch = None;
                }
                Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => {
                    *limit = Some(count);
                    query.fetch = None;
                }
                Some(_) => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<KalamError> {
        using::in_select(select);
        if let Err(error) = named_windows::in_select(select) {
            return ControlFlow::Break(error);
        }
        match select.selection.as_mut().map_or(Ok(()), row_values::expand_conjuncts) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<KalamError> {
        match rewritten(expr) {
            Ok(Some(new)) => *expr = new,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

/// EXCEPT ALL and INTERSECT ALL count how often a row is there; DataFusion plans them as joins that do not.
fn counted_operation(body: &SetExpr) -> Option<SetOperator> {
    match body {
        SetExpr::SetOperation { op, set_quantifier, left, right } => {
            let counts = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName);
            match op {
                SetOperator::Except | SetOperator::Intersect | SetOperator::Minus if counts => Some(*op),
                _ => counted_operation(left).or_else(|| counted_operation(right)),
            }
        }
        _ => None,
    }
}

fn rewritten(expr: &mut Expr) -> Result<Option<Expr>> {
    if let Expr::Function(function) = expr {
        named_windows::check(function.over.as_ref())?;
        synonyms::concatenated(function);
    }
    if let Expr::Function(function) = expr
        && let Some(name) = synonyms::name_here(function)
    {
        function.name = ObjectName::from(vec![Ident::new(name)]);
    }
    if let Expr::Function(function) = expr
        && let Some(error) = synonyms::refused(function)
    {
        return Err(error);
    }
    intervals::in_words(expr);
    // National text is text, and so is what is written with escapes.
    if let Expr::Value(value) = expr
        && let Value::NationalStringLiteral(text) | Value::UnicodeStringLiteral(text) = &mut value.value
    {
        value.value = Value::SingleQuotedString(std::mem::take(text));
    }
    if let Expr::Function(function) = expr
        && let Some(meant) = synonyms::expression(function)
    {
        return Ok(Some(meant));
    }
    if let Some(meant) = row_values::expanded(expr)? {
        return Ok(Some(meant));
    }
    match expr {
        Expr::Extract { field, expr, .. } => Ok(synonyms::years(field, expr)),
        Expr::AtTimeZone { timestamp, time_zone } => {
            Ok(Some(call(time_zones::NAME, vec![time_zone.as_ref().clone(), timestamp.as_ref().clone()])))
        }
        Expr::Collate { collation, .. } => {
            let message = format!("COLLATE {collation} is not supported: text is compared by its bytes");
            Err(KalamError::new(ErrorCode::FeatureNotSupported, message)
                .with_hint("lower(a) = lower(b) and ILIKE do not mind the case; ORDER BY lower(x) sorts so.")
                .at(place_of(expr)))
        }
        // Every bit but those that are set.
        Expr::UnaryOp { op: ast::UnaryOperator::BitwiseNot, expr } => {
            let minus_one = Expr::Value(Value::Number("-1".into(), false).with_empty_span());
            let (left, right) = (Box::new(Expr::Nested(expr.clone())), Box::new(minus_one));
            Ok(Some(Expr::Nested(Box::new(Expr::BinaryOp { left, op: BinaryOperator::PGBitwiseXor, right }))))
        }
        Expr::Like { pattern, escape_char: escape @ Some(_), .. }
        | Expr::ILike { pattern, escape_char: escape @ Some(_), .. } => {
            let with = escape.as_ref().and_then(|e| e.value.clone().into_string()).unwrap_or_default();
            let mut letters = with.chars();
            if let (Some(letter), None) = (letters.next(), letters.next())
                && let Expr::Value(text) = pattern.as_mut()
                && let Value::SingleQuotedString(text) = &mut text.value
            {
                *text = with_backslashes(text, letter);
                *escape = None;
            }
            Ok(None)
        }
        // As MySQL and SQLite write `~`.
        Expr::RLike { negated, expr, pattern, .. } => Ok(Some(matches_regex(expr, pattern.as_ref().clone(), *negated))),
        Expr::SimilarTo { negated, expr, pattern, escape_char } => {
            let escape = escape_char.as_ref().and_then(|e| e.value.clone().into_string());
            let mut letters = escape.as_deref().unwrap_or("\\").chars();
            match (pattern.as_ref(), letters.next(), letters.next()) {
                (
                    Expr::Value(ast::ValueWithSpan { value: Value::SingleQuotedString(text), .. }),
                    Some(escape),
                    None,
                ) => {
                    let regex = Value::SingleQuotedString(synonyms::similar_pattern(text, escape));
                    Ok(Some(matches_regex(expr, Expr::Value(regex.with_empty_span()), *negated)))
                }
                _ => Err(KalamError::new(
                    ErrorCode::FeatureNotSupported,
                    "SIMILAR TO takes its pattern as text in the statement, and one letter to ESCAPE",
                )
                .with_hint("~ takes a regular expression from anywhere.")),
            }
        }
        Expr::Function(function)
            if function.name.to_string().eq_ignore_ascii_case("mod") && function.over.is_none() =>
        {
            let FunctionArguments::List(list) = &mut function.args else { return Ok(None) };
            let [FunctionArg::Unnamed(FunctionArgExpr::Expr(a)), FunctionArg::Unnamed(FunctionArgExpr::Expr(b))] =
                list.args.as_slice()
            else {
                return Ok(None);
            };
            let nested = |e: &Expr| Box::new(Expr::Nested(Box::new(e.clone())));
            Ok(Some(Expr::Nested(Box::new(Expr::BinaryOp {
                left: nested(a),
                op: BinaryOperator::Modulo,
                right: nested(b),
            }))))
        }
        Expr::Function(function)
            if ["json_agg", "jsonb_agg"].iter().any(|n| function.name.to_string().eq_ignore_ascii_case(n)) =>
        {
            let FunctionArguments::List(list) = &mut function.args else { return Ok(None) };
            let [FunctionArg::Unnamed(FunctionArgExpr::Expr(item))] = list.args.as_mut_slice() else { return Ok(None) };
            *item = call("to_json", vec![item.clone()]);
            function.name = ObjectName::from(vec![Ident::new("array_agg")]);
            Ok(Some(call(super::json::ELEMENTS, vec![expr.clone()])))
        }
        Expr::AnyOp { left, compare_op, right, .. } => match (subquery(right), array(right)) {
            (Some(query), _) => quantified(left, compare_op, query, false),
            (_, Some(items)) => Ok(Some(listed(left, compare_op, items, false))),
            _ => Ok(None),
        },
        Expr::AllOp { left, compare_op, right } => match (subquery(right), array(right)) {
            (Some(query), _) => quantified(left, compare_op, query, true),
            (_, Some(items)) => Ok(Some(listed(left, compare_op, items, true))),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

fn matches_regex(expr: &Expr, pattern: Expr, negated: bool) -> Expr {
    let op = if negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
    let matches = Expr::BinaryOp { left: Box::new(expr.clone()), op, right: Box::new(pattern) };
    Expr::Nested(Box::new(matches))
}

fn subquery(expr: &Expr) -> Option<&Query> {
    match expr {
        Expr::Subquery(query) => Some(query),
        Expr::Nested(inner) => subquery(inner),
        _ => None,
    }
}

/// The items of `ARRAY[…]`.
fn array(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Array(array) => Some(&array.elem),
        Expr::Nested(inner) => array(inner),
        _ => None,
    }
}

/// `f(a, b)`.
pub(super) fn call(function: &str, arguments: Vec<Expr>) -> Expr {
    let args = ast::FunctionArgumentList {
        duplicate_treatment: None,
        args: arguments.into_iter().map(|a| FunctionArg::Unnamed(FunctionArgExpr::Expr(a))).collect(),
        clauses: Vec::new(),
    };
    Expr::Function(ast::Function {
        name: ObjectName::from(vec![Ident::new(function)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(args),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// `x = ANY (ARRAY[a, b])` is `x = a OR x = b`; ALL joins with AND.
fn listed(left: &Expr, op: &BinaryOperator, items: &[Expr], all: bool) -> Expr {
    let nested = |e: &Expr| Box::new(Expr::Nested(Box::new(e.clone())));
    if matches!((op, all), (BinaryOperator::Eq, false) | (BinaryOperator::NotEq, true)) && !items.is_empty() {
        return Expr::InList { expr: nested(left), list: items.to_vec(), negated: all };
    }
    let compare = |item| Expr::BinaryOp { left: nested(left), op: op.clone(), right: nested(item) };
    let join = if all { BinaryOperator::And } else { BinaryOperator::Or };
    let joined = items.iter().map(compare).reduce(|a, b| Expr::BinaryOp {
        left: Box::new(a),
        op: join.clone(),
        right: Box::new(b),
    });
    // Of no items none fits, and all do.
    let expr = joined.unwrap_or_else(|| Expr::Value(Value::Boolean(all).with_empty_span()));
    Expr::Nested(Box::new(expr))
}

/// A LIKE pattern with the backslash as its escape.
fn with_backslashes(pattern: &str, escape: char) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            _ if letter == escape => {
                out.push('\\');
                out.extend(letters.next());
            }
            '\\' => out.push_str("\\\\"),
            _ => out.push(letter),
        }
    }
    out
}

/// `x = ANY (q)` is `x IN (q)`; the other comparisons ask for the least or the greatest value of the query, and
/// follow three-valued logic where it has NULLs.
fn quantified(left: &Expr, op: &BinaryOperator, query: &Query, all: bool) -> Result<Option<Expr>> {
    use BinaryOperator as B;
    let in_list =
        |negated| Expr::InSubquery { expr: Box::new(left.clone()), subquery: Box::new(query.clone()), negated };
    let decided = match (op, all) {
        (B::Eq, false) => return Ok(Some(in_list(false))),
        (B::NotEq, true) => return Ok(Some(in_list(true))),
        (B::Gt | B::GtEq, false) | (B::Lt | B::LtEq, true) => format!("\"$x\" {op} (SELECT min(c) FROM q)"),
        (B::Gt | B::GtEq, true) | (B::Lt | B::LtEq, false) => format!("\"$x\" {op} (SELECT max(c) FROM q)"),
        (B::NotEq, false) => "(\"$x\" <> (SELECT min(c) FROM q) OR \"$x\" <> (SELECT max(c) FROM q))".to_owned(),
        (B::Eq, true) => "(\"$x\" = (SELECT min(c) FROM q) AND \"$x\" = (SELECT max(c) FROM q))".to_owned(),
        _ => return Ok(None),
    };
    let unknown = "\"$x\" IS NULL OR (SELECT count(*) - count(c) FROM q) > 0";
    let empty = "(SELECT count(*) FROM q) = 0";
    let template = if all {
        format!("CASE WHEN {empty} THEN true WHEN NOT ({decided}) THEN false WHEN {unknown} THEN NULL ELSE true END")
    } else {
        format!("CASE WHEN {empty} THEN false WHEN {decided} THEN true WHEN {unknown} THEN NULL ELSE false END")
    };
    let template = template.replace("(c)", "(\"$c\")").replace("FROM q", "FROM (SELECT 1) AS \"$q\"(\"$c\")");
    let value = templates::filled(&template, query, |name| (name == "$x").then(|| left.clone()))?;
    Ok(Some(Expr::Nested(Box::new(value))))
}

#[cfg(test)]
mod tests {
    use super::super::parser::{self, Statement};
    use super::*;

    fn rewrite(sql: &str, names: bool) -> Result<String> {
        let Some(Statement::Sql(mut statement)) = parser::parse(sql)?.pop() else {
            return Err(KalamError::internal("no statement"));
        };
        standardise(&mut statement)?;
        if names {
            name_columns(&mut statement, &[]);
        }
        Ok(statement.to_string())
    }

    #[test]
    fn columns_get_names_of_their_own() -> Result<()> {
        assert_eq!(
            rewrite("SELECT count(*), count(*), a, a FROM t", true)?,
            format!("SELECT count(*) AS \"count(*)\", count(*) AS \"count(*){MARK}1\", a, a AS \"a{MARK}3\" FROM t")
        );
        assert_eq!(visible_name(&format!("count(*){MARK}2")), "count(*)");
        Ok(())
    }

    #[test]
    fn clauses_become_what_the_planner_knows() -> Result<()> {
        for (sql, want) in [
            ("SELECT a FROM t FETCH FIRST 2 ROWS ONLY", "SELECT a FROM t LIMIT 2"),
            ("SELECT a LIKE 'x!%!!\\' ESCAPE '!' FROM t", "SELECT a LIKE 'x\\%\\!\\\\' FROM t"),
            ("SELECT mod(a, 2) FROM t", "SELECT ((a) % (2)) FROM t"),
            ("SELECT a = ANY (SELECT b FROM u) FROM t", "SELECT a IN (SELECT b FROM u) FROM t"),
        ] {
            assert_eq!(rewrite(sql, false)?, want);
        }
        Ok(())
    }
}
