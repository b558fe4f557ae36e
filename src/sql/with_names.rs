//! A WITH within another that gives a name again.
//!
//! The inner query hides the outer one, as in any scope; DataFusion knows one query of a name. Invariant: of queries of
//! WITH that see each other no two have the same name after this, and each table that is read is the one that it was: what
//! an inner one is called now, nobody can write.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{self, Ident, ObjectName, Query, TableAlias, TableFactor, VisitMut, VisitorMut};

use super::catalog::fold;
use super::rewrite::MARK;
use super::walk::{walk, walk_mut};

/// Gives inner queries of WITH names of their own.
pub fn write_out(statement: &mut ast::Statement) {
    if hides(statement) {
        in_part(statement, &Vec::new());
    }
}

/// The names that a place sees, inner ones last, with what they are called now.
type Scope = Vec<(String, Option<Ident>)>;

/// Whether a name of a WITH is given again within a query that has a WITH.
fn hides(statement: &ast::Statement) -> bool {
    #[derive(Default)]
    struct Names(Vec<Vec<String>>);
    impl ast::Visitor for Names {
        type Break = ();

        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            let names = query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| fold(&cte.alias.name));
            let names: Vec<String> = names.collect();
            if names.iter().any(|name| self.0.iter().flatten().any(|outer| outer == name)) {
                return ControlFlow::Break(());
            }
            self.0.push(names);
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.0.pop();
            ControlFlow::Continue(())
        }
    }
    walk(statement, &mut Names::default()).is_break()
}

fn in_query(query: &mut Query, outer: &Scope) {
    let mut scope = outer.clone();
    if let Some(with) = &mut query.with {
        for cte in &mut with.cte_tables {
            let name = fold(&cte.alias.name);
            let hides = outer.iter().any(|(known, _)| *known == name);
            let new = hides.then(|| Ident::with_quote('"', format!("{name}{MARK}{}", scope.len())));
            let entry = (name, new.clone());
            if with.recursive {
                let mut own = scope.clone();
                own.push(entry.clone());
                in_query(&mut cte.query, &own);
            } else {
                in_query(&mut cte.query, &scope);
            }
            if let Some(new) = new {
                cte.alias.name = new;
            }
            scope.push(entry);
        }
    }
    in_part(query.body.as_mut(), &scope);
    if let Some(order_by) = &mut query.order_by {
        in_part(order_by, &scope);
    }
    if let Some(limit) = &mut query.limit_clause {
        in_part(limit, &scope);
    }
}

/// The tables of a part, and the queries in it.
fn in_part(part: &mut impl VisitMut, scope: &Scope) {
    struct Part<'a> {
        scope: &'a Scope,
        depth: usize,
    }
    impl VisitorMut for Part<'_> {
        type Break = ();

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            self.depth += 1;
            if self.depth == 1 {
                in_query(query, self.scope);
            }
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            if self.depth == 0
                && let TableFactor::Table { name, alias, args: None, .. } = factor
                && let [part] = name.0.as_slice()
                && let Some(written) = part.as_ident().cloned()
                && let Some((_, Some(new))) = self.scope.iter().rev().find(|(known, _)| *known == fold(&written))
            {
                *name = ObjectName::from(vec![Ident { span: written.span, ..new.clone() }]);
                if alias.is_none() {
                    *alias = Some(TableAlias { explicit: true, name: written, columns: Vec::new(), at: None });
                }
            }
            ControlFlow::Continue(())
        }
    }
    let _ = walk_mut(part, &mut Part { scope, depth: 0 });
}
