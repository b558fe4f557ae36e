//! Parsed statements, kept by their text, with what their text alone tells.
//!
//! Invariant: nothing here depends on tables, sessions or parameters, so an entry is right for every session and for
//! as long as it is kept; what is kept beside it for `point_get.rs` says what it depends on. Statements are shared: whoever changes one works on a copy of it. What is here has no clause that
//! nothing carries out (`clauses.rs`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::sql::sqlparser::ast::{
    self, Expr, LimitClause, Query, Select, TableFactor, Value as SqlValue, Visit, Visitor,
};
use parking_lot::Mutex;

use super::clauses;
use super::handlers::query::column_names;
use super::lru::Lru;
use super::parser::{self, Statement, UserName};
use super::point_get::KnownSlot;
use super::short_path;
use super::walk::{visit_expressions, walk};
use crate::error::{KalamError, Result};

/// At most so many texts are kept.
const MAX_TEXTS: usize = 512;
/// They take about so many bytes at the most.
const MAX_BYTES: usize = 8 << 20;
/// A longer text holds data (rows of an INSERT) and does not come again.
const MAX_TEXT: usize = 64 << 10;
/// A parsed statement takes about so many times the bytes of its text.
const BYTES_PER_LETTER: usize = 40;

/// What functions of the clock begin with.
pub const CLOCK_WORDS: [&str; 6] = ["now", "current_date", "current_time", "today", "localtime", "age("];

/// Whether a text may call a function of the clock.
pub fn asks_for_time(sql: &str) -> bool {
    let lower = sql.to_lowercase();
    CLOCK_WORDS.iter().any(|word| lower.contains(word))
}

/// The statements of a text.
#[derive(Debug)]
pub struct ParsedText {
    /// Told apart from every other text, also from the same text parsed again.
    pub id: u64,
    /// In order.
    pub statements: Vec<ParsedStatement>,
    /// The placeholders of all statements, as they are written.
    pub placeholders: BTreeSet<String>,
    /// Whether a function of the clock may be among them.
    pub clock: bool,
    /// What a query of rows by their keys needs to be answered at once.
    pub point: KnownSlot,
}

/// A statement and what its text tells.
#[derive(Debug)]
pub struct ParsedStatement {
    /// The statement.
    pub statement: Statement,
    /// Its placeholders, as they are written.
    pub placeholders: Vec<String>,
    /// Those that a plan cannot leave open: of LIMIT and OFFSET.
    pub fixed: Vec<String>,
    /// Those that may stand for an array: `= ANY ($1)`, `IN ($1)`.
    pub arrays: Vec<String>,
    /// Whether it is a query, also of EXECUTE AS USER, that looks like a lookup of keys; see `short_path.rs`.
    pub key_query: bool,
    /// Whether it is a query that may be one of a range of keys; see `point_get.rs`.
    pub range_query: bool,
    /// The names of a query's columns, where its text tells them.
    pub names: Option<Vec<String>>,
}

impl ParsedText {
    fn new(id: u64, statements: Vec<Statement>, clock: bool) -> Result<Self> {
        let statements = statements.into_iter().map(ParsedStatement::new).collect::<Result<Vec<_>>>()?;
        let placeholders = statements.iter().flat_map(|s| s.placeholders.iter().cloned()).collect();
        Ok(Self { id, statements, placeholders, clock, point: KnownSlot::default() })
    }
}

impl ParsedStatement {
    fn new(statement: Statement) -> Result<Self> {
        let mut facts = Facts::default();
        facts.read(&statement)?;
        let query = match &statement {
            Statement::ExecuteAs { statement, .. } => query_of(statement),
            statement => query_of(statement),
        };
        let key_query = query.is_some_and(short_path::is_key_query);
        let range_query = query_of(&statement).is_some_and(short_path::is_range_query);
        let names = query.and_then(column_names);
        Ok(Self {
            placeholders: facts.placeholders.into_iter().collect(),
            fixed: facts.fixed.into_iter().collect(),
            arrays: facts.arrays.into_iter().collect(),
            key_query,
            range_query,
            names,
            statement,
        })
    }
}

impl ParsedStatement {
    /// The query that it is.
    pub fn query(&self) -> Option<&Query> {
        query_of(&self.statement)
    }
}

fn query_of(statement: &Statement) -> Option<&Query> {
    match statement {
        Statement::Sql(statement) => match statement.as_ref() {
            ast::Statement::Query(query) => Some(query),
            _ => None,
        },
        _ => None,
    }
}

/// What is collected from a statement.
#[derive(Default)]
struct Facts {
    placeholders: BTreeSet<String>,
    fixed: BTreeSet<String>,
    arrays: BTreeSet<String>,
}

impl Facts {
    /// Collects it, and fails at a clause that nothing carries out.
    fn read(&mut self, statement: &Statement) -> Result<()> {
        match statement {
            Statement::Explain { statement, .. } => self.read(statement),
            Statement::ExecuteAs { user, statement } => {
                self.name(user);
                self.read(statement)
            }
            Statement::CreateUser { user, .. }
            | Statement::AlterUser { user, .. }
            | Statement::DropUser { user, .. } => {
                self.name(user);
                Ok(())
            }
            Statement::Sql(statement) => self.visit(statement.as_ref()),
            Statement::With(with, statement) => {
                self.visit(with)?;
                self.visit(statement.as_ref())
            }
            Statement::CreateTable(_, create) => {
                clauses::create_table(create)?;
                create.query.as_ref().map_or(Ok(()), |query| self.visit(query.as_ref()))
            }
            Statement::Execute { arguments, .. } => arguments.iter().try_for_each(|argument| self.visit(argument)),
            // Those of a statement that is prepared belong to its executions.
            _ => Ok(()),
        }
    }

    fn name(&mut self, user: &UserName) {
        self.placeholders.extend(user.is_parameter.then(|| user.text.clone()));
    }

    fn visit(&mut self, part: &impl Visit) -> Result<()> {
        match walk(part, self) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(()),
        }
    }
}

fn flow(checked: Result<()>) -> ControlFlow<KalamError> {
    checked.map_or_else(ControlFlow::Break, ControlFlow::Continue)
}

/// The placeholder that an expression is.
pub fn placeholder(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            SqlValue::Placeholder(name) => Some(name),
            _ => None,
        },
        Expr::Nested(inner) => placeholder(inner),
        _ => None,
    }
}

impl Visitor for Facts {
    type Break = KalamError;

    fn pre_visit_statement(&mut self, statement: &ast::Statement) -> ControlFlow<KalamError> {
        flow(clauses::statement(statement))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<KalamError> {
        flow(clauses::select(select))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<KalamError> {
        flow(clauses::table_factor(factor))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<KalamError> {
        match expr {
            Expr::Value(_) => self.placeholders.extend(placeholder(expr).map(str::to_owned)),
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => {
                self.arrays.extend(placeholder(right).map(str::to_owned));
            }
            Expr::InList { list, .. } => self.arrays.extend(list.iter().filter_map(placeholder).map(str::to_owned)),
            _ => {}
        }
        flow(clauses::expression(expr))
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<KalamError> {
        let mut fixed = Vec::new();
        match &query.limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, limit_by }) => {
                fixed.extend(limit);
                fixed.extend(offset.as_ref().map(|o| &o.value));
                fixed.extend(limit_by);
            }
            Some(LimitClause::OffsetCommaLimit { offset, limit }) => fixed.extend([offset, limit]),
            None => {}
        }
        fixed.extend(query.fetch.as_ref().and_then(|f| f.quantity.as_ref()));
        for expr in fixed {
            let _ = visit_expressions(expr, |expr| {
                self.fixed.extend(placeholder(expr).map(str::to_owned));
                ControlFlow::<()>::Continue(())
            });
        }
        flow(clauses::query(query))
    }
}

/// The cache.
pub struct StatementCache {
    texts: Mutex<Lru<Arc<str>, Arc<ParsedText>>>,
    next_id: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl std::fmt::Debug for StatementCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatementCache").field("texts", &self.texts.lock().len()).finish_non_exhaustive()
    }
}

impl Default for StatementCache {
    fn default() -> Self {
        Self {
            texts: Mutex::new(Lru::new(MAX_TEXTS, MAX_BYTES)),
            next_id: AtomicU64::new(1),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }
}

impl StatementCache {
    /// The statements of a text. A text that does not parse is not kept.
    pub fn parse(&self, sql: &str, keep: bool) -> Result<Arc<ParsedText>> {
        if keep && let Some(parsed) = self.texts.lock().get(sql) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Arc::clone(parsed));
        }
        let parsed = Arc::new(ParsedText::new(self.id(), parser::parse(sql)?, asks_for_time(sql))?);
        if keep && sql.len() <= MAX_TEXT {
            self.misses.fetch_add(1, Ordering::Relaxed);
            let bytes = sql.len() * BYTES_PER_LETTER + size_of::<ParsedText>() + size_of::<ParsedStatement>();
            self.texts.lock().insert(Arc::from(sql), Arc::clone(&parsed), bytes);
        }
        Ok(parsed)
    }

    /// The statements of a text that is kept.
    pub fn find_text(&self, sql: &str) -> Option<Arc<ParsedText>> {
        self.texts.lock().get(sql).cloned()
    }

    /// Counts a text that was found and used.
    pub fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// A statement that was parsed as part of another, as a text of its own.
    pub fn own(&self, statement: Statement, clock: bool) -> Result<Arc<ParsedText>> {
        Ok(Arc::new(ParsedText::new(self.id(), vec![statement], clock)?))
    }

    /// The kept text that is just this statement.
    pub fn find(&self, statement: &Statement) -> Option<Arc<ParsedText>> {
        let texts = self.texts.lock();
        let same =
            |text: &&Arc<ParsedText>| matches!(text.statements.as_slice(), [only] if only.statement == *statement);
        texts.values().find(same).cloned()
    }

    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Hits, misses, texts, and about how many bytes they take.
    pub fn gauges(&self) -> [(&'static str, u64); 4] {
        let texts = self.texts.lock();
        [
            ("statement_cache_hits", self.hits.load(Ordering::Relaxed)),
            ("statement_cache_misses", self.misses.load(Ordering::Relaxed)),
            ("statement_cache_size", texts.len() as u64),
            ("statement_cache_bytes", texts.bytes() as u64),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_parsed_once() -> Result<()> {
        let cache = StatementCache::default();
        let sql = "SELECT a FROM t WHERE id = $2; SELECT now(), $name LIMIT $1 OFFSET 1 + $skip";
        let first = cache.parse(sql, true)?;
        assert!(Arc::ptr_eq(&first, &cache.parse(sql, true)?));
        assert!(!Arc::ptr_eq(&first, &cache.parse(sql, false)?));
        assert_eq!(Vec::from_iter(&first.placeholders), ["$1", "$2", "$name", "$skip"]);
        assert!(first.clock);
        let [key, other] = first.statements.as_slice() else { panic!("two statements") };
        assert!(key.key_query && !other.key_query);
        assert_eq!((key.fixed.len(), other.fixed.join(" ")), (0, "$1 $skip".to_owned()));
        assert_eq!(cache.gauges().map(|g| g.1)[..3], [1, 1, 1]);
        assert!(cache.parse("SELEC", true).is_err());
        Ok(())
    }

    #[test]
    fn placeholders_of_a_prepared_statement_are_its_own() -> Result<()> {
        let cache = StatementCache::default();
        let parsed = cache.parse("PREPARE p AS SELECT $1; EXECUTE p ($2)", true)?;
        assert_eq!(Vec::from_iter(&parsed.placeholders), ["$2"]);
        let arrays = cache.parse("SELECT * FROM t WHERE a = ANY ($1) OR b IN (1, $x) OR c <> ALL (SELECT $3)", true)?;
        assert_eq!(arrays.statements[0].arrays, ["$1", "$x"]);
        Ok(())
    }
}
