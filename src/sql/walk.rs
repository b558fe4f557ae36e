//! Walks over the parser's tree, which is compiled once for all who walk it.
//!
//! The parser derives a walk of the whole tree anew for each type of walker, fifty kilobytes each time. Invariant: every
//! walk of this crate goes through [`walk`] or [`walk_mut`] (`clippy.toml` refuses the parser's own), which give the tree
//! one type of walker: it hands on to the real one, and keeps what that one breaks with.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, Select, Statement, TableFactor, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
};

use super::catalog::fold;

/// Shows a tree to a visitor.
#[allow(clippy::disallowed_methods, reason = "this is where it is called")]
pub fn walk<V: Visitor>(node: &impl Visit, visitor: &mut V) -> ControlFlow<V::Break> {
    let mut kept = Kept { visitor, broken: None };
    match node.visit(&mut Erased(&mut kept)) {
        ControlFlow::Break(()) => kept.broken.map_or(ControlFlow::Continue(()), ControlFlow::Break),
        ControlFlow::Continue(()) => ControlFlow::Continue(()),
    }
}

/// Lets a visitor change a tree.
#[allow(clippy::disallowed_methods, reason = "this is where it is called")]
pub fn walk_mut<V: VisitorMut>(node: &mut impl VisitMut, visitor: &mut V) -> ControlFlow<V::Break> {
    let mut kept = Kept { visitor, broken: None };
    match node.visit(&mut ErasedMut(&mut kept)) {
        ControlFlow::Break(()) => kept.broken.map_or(ControlFlow::Continue(()), ControlFlow::Break),
        ControlFlow::Continue(()) => ControlFlow::Continue(()),
    }
}

/// Shows every expression of a tree, outer ones first, until `visit` breaks.
pub fn visit_expressions<B>(node: &impl Visit, visit: impl FnMut(&Expr) -> ControlFlow<B>) -> ControlFlow<B> {
    walk(node, &mut Expressions(visit))
}

/// Shows the name of every table of a tree, until `visit` breaks.
pub fn visit_relations<B>(node: &impl Visit, visit: impl FnMut(&ObjectName) -> ControlFlow<B>) -> ControlFlow<B> {
    walk(node, &mut Relations(visit))
}

struct Expressions<F>(F);

impl<B, F: FnMut(&Expr) -> ControlFlow<B>> Visitor for Expressions<F> {
    type Break = B;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<B> {
        (self.0)(expr)
    }
}

struct Relations<F>(F);

impl<B, F: FnMut(&ObjectName) -> ControlFlow<B>> Visitor for Relations<F> {
    type Break = B;

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<B> {
        (self.0)(relation)
    }
}

/// A visitor, and what it broke with.
struct Kept<'a, V, B> {
    visitor: &'a mut V,
    broken: Option<B>,
}

impl<V, B> Kept<'_, V, B> {
    fn keep(&mut self, flow: ControlFlow<B>) -> ControlFlow<()> {
        flow.map_break(|broken| self.broken = Some(broken))
    }
}

/// The one visitor that trees are shown to.
struct Erased<'a>(&'a mut dyn Visitor<Break = ()>);

/// The one visitor that changes trees.
struct ErasedMut<'a>(&'a mut dyn VisitorMut<Break = ()>);

/// Visitors whose every call is another one's, for both kinds of walk.
macro_rules! hands_on {
    ($($call:ident: $node:ty,)*) => {
        impl<V: Visitor> Visitor for Kept<'_, V, V::Break> {
            type Break = ();
            $(fn $call(&mut self, node: &$node) -> ControlFlow<()> {
                let flow = self.visitor.$call(node);
                self.keep(flow)
            })*
        }

        impl<V: VisitorMut> VisitorMut for Kept<'_, V, V::Break> {
            type Break = ();
            $(fn $call(&mut self, node: &mut $node) -> ControlFlow<()> {
                let flow = self.visitor.$call(node);
                self.keep(flow)
            })*
        }

        impl Visitor for Erased<'_> {
            type Break = ();
            $(fn $call(&mut self, node: &$node) -> ControlFlow<()> {
                self.0.$call(node)
            })*
        }

        impl VisitorMut for ErasedMut<'_> {
            type Break = ();
            $(fn $call(&mut self, node: &mut $node) -> ControlFlow<()> {
                self.0.$call(node)
            })*
        }
    };
}

hands_on! {
    pre_visit_query: Query,
    post_visit_query: Query,
    pre_visit_select: Select,
    post_visit_select: Select,
    pre_visit_relation: ObjectName,
    post_visit_relation: ObjectName,
    pre_visit_table_factor: TableFactor,
    post_visit_table_factor: TableFactor,
    pre_visit_expr: Expr,
    post_visit_expr: Expr,
    pre_visit_statement: Statement,
    post_visit_statement: Statement,
    pre_visit_value: ValueWithSpan,
    post_visit_value: ValueWithSpan,
}

/// Whether a tree names a column that is meant, with a table before it or without.
pub fn names_column(node: &impl Visit, is_meant: impl Fn(&str) -> bool) -> bool {
    struct Names<F>(F);
    impl<F: Fn(&str) -> bool> Visitor for Names<F> {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            let last = match expr {
                Expr::Identifier(name) => Some(name),
                Expr::CompoundIdentifier(names) => names.last(),
                _ => None,
            };
            if last.is_some_and(|name| (self.0)(&fold(name))) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        }
    }
    walk(node, &mut Names(is_meant)).is_break()
}

#[cfg(test)]
mod tests {
    use super::super::parser::{Statement as Parsed, parse};
    use super::*;
    use crate::error::Result;

    #[test]
    fn a_walk_ends_where_its_visitor_breaks_and_gives_what_it_broke_with() -> Result<()> {
        let parsed = parse("SELECT a, b FROM t JOIN u ON c = d WHERE e IN (SELECT f FROM v)")?;
        let Parsed::Sql(statement) = &parsed[0] else { panic!("{parsed:?}") };
        let mut seen = Vec::new();
        let broke = visit_expressions(statement.as_ref(), |expr| match expr {
            Expr::Identifier(name) if name.value == "e" => ControlFlow::Break(name.value.clone()),
            Expr::Identifier(name) => {
                seen.push(name.value.clone());
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        });
        assert_eq!((broke, seen.join(" ")), (ControlFlow::Break("e".to_owned()), "a b c d".to_owned()));
        let mut tables = Vec::new();
        let all = visit_relations(statement.as_ref(), |name| {
            tables.push(name.to_string());
            ControlFlow::<()>::Continue(())
        });
        assert_eq!((all, tables.join(" ")), (ControlFlow::Continue(()), "t u v".to_owned()));
        Ok(())
    }
}
