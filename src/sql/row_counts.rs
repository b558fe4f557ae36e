//! `count(t.*)`: the rows that have a row of a table.
//!
//! DataFusion takes it for `count(*)`, and counts the rows that an outer join fills with NULL. Invariant: where there is
//! an outer join, it becomes the count of a column of the table's primary key, which is never NULL in a row of the
//! table, or it is refused.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, JoinOperator,
    ObjectName, Select, TableFactor, TableWithJoins, VisitorMut,
};

use super::catalog::position_of_name;
use super::grouped_keys::{Columns, Relation, Tables};
use super::own_level;
use super::walk::walk_mut;
use crate::error::{ErrorCode, KalamError, Result};

/// Writes every `count(t.*)` as what it counts.
pub fn write_out(statement: &mut ast::Statement, columns_of: &dyn Fn(&ObjectName) -> Option<Columns>) -> Result<()> {
    let tables = Tables::of(statement, columns_of);
    match walk_mut(statement, &mut Counts { tables }) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Counts<'a> {
    tables: Tables<'a>,
}

impl VisitorMut for Counts<'_> {
    type Break = KalamError;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<KalamError> {
        let found = own_level::visit_expressions(select, |expr| match expr {
            Expr::Function(call) if counted(call).is_some() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        if found.is_continue() {
            return ControlFlow::Continue(());
        }
        let outer = select.from.iter().any(has_outer_join);
        let relations = self.tables.relations(&select.from);
        own_level::change_expressions(select, |expr| match expr {
            Expr::Function(call) => match counted(call).cloned() {
                Some(name) => {
                    write(call, &name, outer, &relations).map_or_else(ControlFlow::Break, ControlFlow::Continue)
                }
                None => ControlFlow::Continue(()),
            },
            _ => ControlFlow::Continue(()),
        })
    }
}

/// The table of a `count(t.*)`.
fn counted(call: &Function) -> Option<&ObjectName> {
    let FunctionArguments::List(list) = &call.args else { return None };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(name))]
            if call.name.to_string().eq_ignore_ascii_case("count") =>
        {
            Some(name)
        }
        _ => None,
    }
}

fn write(call: &mut Function, name: &ObjectName, outer: bool, relations: &[Relation]) -> Result<()> {
    let FunctionArguments::List(list) = &mut call.args else { return Ok(()) };
    let parts: Vec<Ident> = name.0.iter().filter_map(|p| p.as_ident()).cloned().collect();
    let key = relations.iter().find(|relation| relation.is_named(&parts)).and_then(|relation| {
        let column = relation.columns.as_ref()?.key.first()?;
        Some(relation.qualifier.iter().cloned().chain([Ident::with_quote('"', column)]).collect::<Vec<_>>())
    });
    let distinct = matches!(list.duplicate_treatment, Some(DuplicateTreatment::Distinct));
    let argument = match key {
        _ if distinct => None,
        Some(column) => Some(FunctionArgExpr::Expr(Expr::CompoundIdentifier(column))),
        None if !outer => Some(FunctionArgExpr::Wildcard),
        None => None,
    };
    let Some(argument) = argument else {
        let what = if distinct {
            "DISTINCT of whole rows"
        } else {
            "rows of a table without a primary key beside an outer join"
        };
        return Err(KalamError::new(ErrorCode::FeatureNotSupported, format!("count of {what} is not supported"))
            .with_hint("Count a column that is never NULL in a row of the table.")
            .at(position_of_name(name)));
    };
    list.args = vec![FunctionArg::Unnamed(argument)];
    Ok(())
}

fn has_outer_join(from: &TableWithJoins) -> bool {
    use JoinOperator as J;
    let outer = |join: &ast::Join| {
        matches!(
            join.join_operator,
            J::Left(_) | J::LeftOuter(_) | J::Right(_) | J::RightOuter(_) | J::FullOuter(_) | J::OuterApply
        )
    };
    let nested = |factor: &TableFactor| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => has_outer_join(table_with_joins),
        _ => false,
    };
    nested(&from.relation) || from.joins.iter().any(|join| outer(join) || nested(&join.relation))
}
