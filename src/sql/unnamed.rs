//! What the columns of a subquery are called that have no name: `max` for `max(id)`, as in PostgreSQL.
//!
//! DataFusion calls them by their text. When planning does not find a column, and a list within the statement has an
//! expression that PostgreSQL calls so, the statement is planned again with that name for it. Invariant: a statement that
//! can be planned as it was written is never changed, and a list that has the name already keeps it for what has it.

use std::ops::ControlFlow;

use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, Select, SelectItem, SetExpr, Statement, VisitorMut};

use super::catalog::fold;
use super::errors::schema_error;
use super::handlers::query::item_name;
use super::walk::walk_mut;

/// The column that planning did not find.
pub fn missing_column(error: &DataFusionError) -> Option<&str> {
    match schema_error(error)? {
        SchemaError::FieldNotFound { field, .. } => Some(field.name.as_str()),
        _ => None,
    }
}

/// Gives a name to the expressions of inner lists that are called so. Whether there are any.
pub fn name(statement: &mut Statement, wanted: &str) -> bool {
    let mut names = Names { wanted, depth: 0, found: false };
    let _ = walk_mut(statement, &mut names);
    names.found
}

struct Names<'a> {
    wanted: &'a str,
    depth: usize,
    found: bool,
}

impl VisitorMut for Names<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let has_name = |item: &SelectItem| item_name(item).is_some_and(|name| name == self.wanted);
        if self.depth < 2 || select.projection.iter().any(has_name) {
            return ControlFlow::Continue(());
        }
        // HAVING would take a column for the expression that has its name.
        let casts = select.having.is_none();
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) = item
                && (casts || !matches!(expr, Expr::Cast { .. }))
                && called(expr).is_some_and(|name| name == self.wanted)
            {
                let alias = Ident::with_quote('"', self.wanted);
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                self.found = true;
                break;
            }
        }
        ControlFlow::Continue(())
    }
}

/// What PostgreSQL calls an expression.
fn called(expr: &Expr) -> Option<String> {
    let word = |word: &str| Some(word.to_owned());
    match expr {
        Expr::Identifier(column) => Some(fold(column)),
        Expr::CompoundIdentifier(parts) => parts.last().map(fold),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => called(inner),
        Expr::Cast { expr: inner, data_type, .. } => match called(inner) {
            Some(name) if name != UNKNOWN => Some(name),
            _ => Some(data_type.to_string().to_lowercase()),
        },
        Expr::Function(function) => function.name.0.last().and_then(|part| part.as_ident()).map(fold),
        Expr::Case { else_result, .. } => match else_result.as_deref() {
            Some(inner @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) => called(inner),
            _ => word("case"),
        },
        Expr::Exists { .. } => word("exists"),
        Expr::Extract { .. } => word("extract"),
        Expr::Substring { .. } => word("substring"),
        Expr::Position { .. } => word("position"),
        Expr::Overlay { .. } => word("overlay"),
        Expr::Trim { .. } => word("btrim"),
        Expr::Ceil { .. } => word("ceil"),
        Expr::Floor { .. } => word("floor"),
        Expr::AtTimeZone { .. } => word("timezone"),
        Expr::Array(_) => word("array"),
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => match select.projection.first()? {
                SelectItem::UnnamedExpr(expr) => called(expr),
                item => item_name(item),
            },
            _ => word(UNKNOWN),
        },
        _ => word(UNKNOWN),
    }
}

const UNKNOWN: &str = "?column?";
