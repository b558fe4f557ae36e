//! From text to statements.
//!
//! sqlparser reads SQL; what only KalamDB has (namespaces, the kinds of table, DESCRIBE) is recognised here, before
//! it. Invariant: every error of this module is `SYNTAX_ERROR` with a position, and a request is parsed as a whole
//! before any of its statements runs.

use datafusion::sql::sqlparser::ast::{self, ObjectName, SetExpr};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word};

use super::chains;
use super::dialect::KalamDialect;
use crate::error::{ErrorCode, KalamError, Position, Result};
use crate::schema::TableType;

#[path = "parser_tokens.rs"]
mod tokens;
#[path = "parser_users.rs"]
mod users;

pub use users::UserName;

/// How deep expressions and subqueries may nest.
const RECURSION_LIMIT: usize = 128;

/// A parsed statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    /// `CREATE NAMESPACE [IF NOT EXISTS] n`, also spelled SCHEMA.
    CreateNamespace {
        /// Its name.
        name: ObjectName,
        /// Whether one that exists is fine.
        if_not_exists: bool,
    },
    /// `DROP NAMESPACE [IF EXISTS] n`, also spelled SCHEMA.
    DropNamespace {
        /// Its name.
        name: ObjectName,
        /// Whether none is fine.
        if_exists: bool,
        /// Whether what is in it is to go too.
        cascade: bool,
    },
    /// `USE [NAMESPACE] n`.
    UseNamespace(ObjectName),
    /// `SHOW NAMESPACES`.
    ShowNamespaces,
    /// `SHOW STATS`.
    ShowStats,
    /// `STORAGE CHECK [TABLE t | ALL]`.
    StorageCheck(Option<ObjectName>),
    /// `SHOW MANIFEST [t]`.
    ShowManifest(Option<ObjectName>),
    /// `STORAGE FLUSH | COMPACT TABLE t | ALL`.
    Storage {
        /// Whether segments are compacted, not rows flushed.
        compact: bool,
        /// The table; `None` is all.
        table: Option<ObjectName>,
    },
    /// `KILL JOB 'id'`.
    KillJob(String),
    /// `SHOW TABLES [IN n]`.
    ShowTables(Option<ObjectName>),
    /// `SHOW INDEXES [FROM t]`, also spelled INDEX and KEYS.
    ShowIndexes(Option<ObjectName>),
    /// `ALTER INDEX [IF EXISTS] i RENAME TO j`.
    RenameIndex {
        /// The index, or the constraint that it belongs to.
        name: ObjectName,
        /// Its new name.
        to: ast::Ident,
        /// Whether none is fine.
        if_exists: bool,
    },
    /// `ALTER TABLE [IF EXISTS] t RENAME CONSTRAINT c TO d`.
    RenameConstraint {
        /// The table.
        table: ObjectName,
        /// The constraint and its new name, as a change of the table.
        change: Box<ast::AlterTableOperation>,
        /// Whether no such table is fine.
        if_exists: bool,
    },
    /// `DESCRIBE [TABLE] t`, `SHOW COLUMNS FROM t`.
    Describe(ObjectName),
    /// `DESCRIBE [TABLE] t HISTORY`.
    DescribeHistory(ObjectName),
    /// `CREATE [USER | SHARED | STREAM] TABLE`.
    CreateTable(TableType, Box<ast::CreateTable>),
    /// `EXPLAIN [ANALYZE] [VERBOSE] statement`.
    Explain {
        /// Whether the statement is run.
        analyze: bool,
        /// Whether every detail is shown.
        verbose: bool,
        /// What is explained.
        statement: Box<Statement>,
    },
    /// `PREPARE name [(types)] AS statement`.
    Prepare {
        /// Its name.
        name: ast::Ident,
        /// The types of `$1`, `$2`, …; fewer than there are parameters leave the others to their places.
        types: Vec<ast::DataType>,
        /// What is prepared.
        statement: Box<Statement>,
    },
    /// `EXECUTE name [(arguments)]`.
    Execute {
        /// The name of the prepared statement.
        name: ast::Ident,
        /// The values of `$1`, `$2`, …
        arguments: Vec<ast::Expr>,
    },
    /// `DEALLOCATE [PREPARE] name`; no name means `ALL`.
    Deallocate(Option<ast::Ident>),
    /// `EXECUTE AS USER 'u' ( statement )`.
    ExecuteAs {
        /// Whose rows of USER tables the statement sees.
        user: UserName,
        /// What is run.
        statement: Box<Statement>,
    },
    /// `CREATE USER [IF NOT EXISTS] u [WITH] [ROLE r]`.
    CreateUser {
        /// Its name.
        user: UserName,
        /// Its role, and where that stands.
        role: Option<(String, Option<Position>)>,
        /// Where a password is given, which is refused.
        password: Option<Option<Position>>,
        /// Whether one that exists is fine.
        if_not_exists: bool,
    },
    /// `ALTER USER [IF EXISTS] u SET ROLE r`.
    AlterUser {
        /// Its name.
        user: UserName,
        /// Its role, and where that stands.
        role: Option<(String, Option<Position>)>,
        /// Where a password is given, which is refused.
        password: Option<Option<Position>>,
        /// Whether none is fine.
        if_exists: bool,
    },
    /// `DROP USER [IF EXISTS] u [CASCADE | RESTRICT]`.
    DropUser {
        /// Its name.
        user: UserName,
        /// Whether none is fine.
        if_exists: bool,
        /// Whether its rows go too.
        cascade: bool,
    },
    /// `WITH … UPDATE` and `WITH … DELETE`.
    With(ast::With, Box<ast::Statement>),
    /// Everything else.
    Sql(Box<ast::Statement>),
}

/// Parses the statements of a text, separated by semicolons.
pub fn parse(sql: &str) -> Result<Vec<Statement>> {
    let tokens = Tokenizer::new(&KalamDialect::default(), sql)
        .tokenize_with_location()
        .map_err(|e| syntax_error(&ParserError::TokenizerError(e.to_string())))?;
    let tokens = tokens::as_the_parser_reads_them(tokens);
    chains::check_queries(&tokens).map_err(|e| syntax_error(&e))?;
    let dialect = KalamDialect::for_tokens(&tokens);
    let parser = Parser::new(&dialect).with_recursion_limit(RECURSION_LIMIT).with_tokens_with_locations(tokens);
    StatementParser { parser }.statements().map_err(|e| {
        let error = syntax_error(&e);
        // What is missing at the end is missing behind the last letter.
        if error.position().is_none() { error.at(Some(end_of(sql))) } else { error }
    })
}

/// Parses the name of a table as SQL writes it.
pub fn parse_name(name: &str) -> Result<ObjectName> {
    let dialect = KalamDialect::default();
    let parsed = Parser::new(&dialect).try_with_sql(name).and_then(|mut parser| {
        let name = parser.parse_object_name(false)?;
        let next = parser.peek_token();
        if next.token == Token::EOF { Ok(name) } else { parser.expected("end of name", next) }
    });
    parsed.map_err(|e| {
        KalamError::new(
            ErrorCode::InvalidName,
            format!("'{name}' is not the name of a table: {}", syntax_error(&e).message()),
        )
    })
}

fn end_of(sql: &str) -> Position {
    let text = sql.trim_end();
    let last = text.lines().last().unwrap_or_default();
    Position { line: text.lines().count().max(1) as u32, column: last.chars().count() as u32 + 1 }
}

struct StatementParser<'a> {
    parser: Parser<'a>,
}

impl StatementParser<'_> {
    fn statements(&mut self) -> Result<Vec<Statement>, ParserError> {
        let mut statements = Vec::new();
        loop {
            while self.parser.consume_token(&Token::SemiColon) {}
            if self.parser.peek_token_ref().token == Token::EOF {
                return Ok(statements);
            }
            statements.push(self.statement()?);
            let next = self.parser.peek_token();
            if next.token != Token::SemiColon && next.token != Token::EOF {
                return self.parser.expected("end of statement", next);
            }
        }
    }

    fn statement(&mut self) -> Result<Statement, ParserError> {
        let [first, second, third] = [0, 1, 2].map(|n| self.word(n));
        let is = |word: &Option<Word>, text: &str| {
            word.as_ref().is_some_and(|w| w.quote_style.is_none() && w.value.eq_ignore_ascii_case(text))
        };
        let namespace = |word: &Option<Word>| is(word, "namespace") || is(word, "schema");
        let bare = |word: &Option<Word>| {
            word.as_ref().filter(|w| w.quote_style.is_none()).map_or(String::new(), |w| w.value.to_ascii_lowercase())
        };
        if let Some(statement) = self.user_statement([&bare(&first), &bare(&second), &bare(&third)])? {
            return Ok(statement);
        }
        if is(&first, "create") && namespace(&second) {
            self.skip(2);
            let if_not_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
            return Ok(Statement::CreateNamespace { name: self.parser.parse_object_name(false)?, if_not_exists });
        }
        if is(&first, "drop") && namespace(&second) {
            self.skip(2);
            let if_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
            let name = self.parser.parse_object_name(false)?;
            let behavior = self.parser.parse_one_of_keywords(&[Keyword::CASCADE, Keyword::RESTRICT]);
            return Ok(Statement::DropNamespace { name, if_exists, cascade: behavior == Some(Keyword::CASCADE) });
        }
        if is(&first, "alter") && is(&second, "index") {
            self.skip(2);
            let if_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
            let name = self.parser.parse_object_name(false)?;
            self.parser.expect_keywords(&[Keyword::RENAME, Keyword::TO])?;
            return Ok(Statement::RenameIndex { name, to: self.parser.parse_identifier()?, if_exists });
        }
        if is(&first, "alter") && is(&second, "table") {
            let renamed = self.parser.maybe_parse(|parser| {
                parser.expect_keywords(&[Keyword::ALTER, Keyword::TABLE])?;
                let if_exists = parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
                let _ = parser.parse_keyword(Keyword::ONLY);
                let table = parser.parse_object_name(false)?;
                parser.expect_keywords(&[Keyword::RENAME, Keyword::CONSTRAINT])?;
                // A column may have that name.
                match parser.peek_token_ref().token {
                    Token::Word(ref word) if word.keyword == Keyword::TO && word.quote_style.is_none() => {
                        parser.expected_ref("the name of a constraint", parser.peek_token_ref())
                    }
                    _ => Ok((table, if_exists)),
                }
            })?;
            if let Some((table, if_exists)) = renamed {
                let old_name = self.parser.parse_identifier()?;
                self.parser.expect_keyword(Keyword::TO)?;
                let new_name = self.parser.parse_identifier()?;
                let change = Box::new(ast::AlterTableOperation::RenameConstraint { old_name, new_name });
                return Ok(Statement::RenameConstraint { table, change, if_exists });
            }
        }
        if is(&first, "abort") {
            self.skip(1);
            return Ok(Statement::Sql(Box::new(self.parser.parse_rollback()?)));
        }
        if is(&first, "use") {
            self.skip(if namespace(&second) { 2 } else { 1 });
            return Ok(Statement::UseNamespace(self.parser.parse_object_name(false)?));
        }
        if is(&first, "show") {
            if is(&second, "namespaces") || is(&second, "schemas") {
                self.skip(2);
                return Ok(Statement::ShowNamespaces);
            }
            if is(&second, "stats") {
                self.skip(2);
                return Ok(Statement::ShowStats);
            }
            if is(&second, "manifest") {
                self.skip(2);
                return Ok(Statement::ShowManifest(match self.word(0) {
                    Some(_) => Some(self.parser.parse_object_name(false)?),
                    None => None,
                }));
            }
            if is(&second, "tables") {
                self.skip(2);
                let filtered = self.parser.parse_one_of_keywords(&[Keyword::IN, Keyword::FROM]).is_some();
                let namespace = if filtered { Some(self.parser.parse_object_name(false)?) } else { None };
                return Ok(Statement::ShowTables(namespace));
            }
            if ["indexes", "index", "keys"].iter().any(|word| is(&second, word)) {
                self.skip(2);
                let of = self.parser.parse_one_of_keywords(&[Keyword::IN, Keyword::FROM]).is_some();
                let table = if of { Some(self.parser.parse_object_name(false)?) } else { None };
                return Ok(Statement::ShowIndexes(table));
            }
            if is(&second, "columns") && (is(&third, "from") || is(&third, "in")) {
                self.skip(3);
                return Ok(Statement::Describe(self.parser.parse_object_name(false)?));
            }
        }
        if is(&first, "storage") && is(&second, "check") {
            self.skip(2);
            if self.parser.parse_keyword(Keyword::TABLE) {
                return Ok(Statement::StorageCheck(Some(self.parser.parse_object_name(false)?)));
            }
            let _ = self.parser.parse_keyword(Keyword::ALL);
            return Ok(Statement::StorageCheck(None));
        }
        if is(&first, "storage") && (is(&second, "flush") || is(&second, "compact")) {
            self.skip(2);
            return self.storage(is(&second, "compact"));
        }
        if is(&first, "kill") && is(&second, "job") {
            self.skip(2);
            return Ok(Statement::KillJob(self.parser.parse_literal_string()?));
        }
        if is(&first, "describe") || is(&first, "desc") {
            // A table may be named `table` or `history`.
            self.skip(if is(&second, "table") && third.is_some() && !is(&third, "history") { 2 } else { 1 });
            let name = self.parser.parse_object_name(false)?;
            if is(&self.word(0), "history") {
                self.skip(1);
                return Ok(Statement::DescribeHistory(name));
            }
            return Ok(Statement::Describe(name));
        }
        if is(&first, "explain") {
            self.skip(1);
            let analyze = self.parser.parse_keyword(Keyword::ANALYZE);
            let verbose = self.parser.parse_keyword(Keyword::VERBOSE);
            let _ = self.parser.parse_keywords(&[Keyword::QUERY, Keyword::PLAN]);
            let explain = |statement| Statement::Explain { analyze, verbose, statement };
            return Ok(match self.statement()? {
                // Explained as that user.
                Statement::ExecuteAs { user, statement } => {
                    Statement::ExecuteAs { user, statement: Box::new(explain(statement)) }
                }
                other => explain(Box::new(other)),
            });
        }
        if is(&first, "prepare") {
            self.skip(1);
            return self.prepare();
        }
        if is(&first, "execute") && !is(&second, "as") && !is(&second, "immediate") {
            self.skip(1);
            return self.execute();
        }
        if is(&first, "deallocate") {
            self.skip(1);
            // A statement may be named `prepare`.
            if is(&second, "prepare") && third.is_some() {
                self.skip(1);
            }
            let name = self.parser.parse_identifier()?;
            let all = name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all");
            return Ok(Statement::Deallocate((!all).then_some(name)));
        }
        let kind = [("user", TableType::User), ("shared", TableType::Shared), ("stream", TableType::Stream)]
            .into_iter()
            .find(|(name, _)| is(&second, name))
            .map(|(_, kind)| kind);
        if let Some(kind) = kind
            && is(&first, "create")
            && is(&third, "table")
        {
            self.skip(3);
            return Ok(Statement::CreateTable(
                kind,
                Box::new(self.parser.parse_create_table(false, false, None, false)?),
            ));
        }
        Ok(match self.parser.parse_statement()? {
            ast::Statement::CreateTable(create) => Statement::CreateTable(TableType::Shared, Box::new(create)),
            ast::Statement::Query(query) => with_change(*query),
            other => Statement::Sql(Box::new(other)),
        })
    }

    fn prepare(&mut self) -> Result<Statement, ParserError> {
        let name = self.parser.parse_identifier()?;
        let mut types = Vec::new();
        if self.parser.consume_token(&Token::LParen) {
            types = self.parser.parse_comma_separated(Parser::parse_data_type)?;
            self.parser.expect_token(&Token::RParen)?;
        }
        self.parser.expect_keyword_is(Keyword::AS)?;
        Ok(Statement::Prepare { name, types, statement: Box::new(self.statement()?) })
    }

    fn execute(&mut self) -> Result<Statement, ParserError> {
        let name = self.parser.parse_identifier()?;
        let mut arguments = Vec::new();
        if self.parser.consume_token(&Token::LParen) && !self.parser.consume_token(&Token::RParen) {
            arguments = self.parser.parse_comma_separated(Parser::parse_expr)?;
            self.parser.expect_token(&Token::RParen)?;
        }
        Ok(Statement::Execute { name, arguments })
    }

    fn storage(&mut self, compact: bool) -> Result<Statement, ParserError> {
        if self.parser.parse_keyword(Keyword::ALL) {
            return Ok(Statement::Storage { compact, table: None });
        }
        if !self.parser.parse_keyword(Keyword::TABLE) {
            let next = self.parser.peek_token();
            return self.parser.expected("TABLE or ALL", next);
        }
        Ok(Statement::Storage { compact, table: Some(self.parser.parse_object_name(false)?) })
    }

    fn word(&self, n: usize) -> Option<Word> {
        match self.parser.peek_nth_token_ref(n).token {
            Token::Word(ref word) => Some(word.clone()),
            _ => None,
        }
    }

    fn skip(&mut self, tokens: usize) {
        for _ in 0..tokens {
            self.parser.advance_token();
        }
    }
}

/// A statement that changes rows, after WITH, is parsed as the body of a query: here it is taken out. INSERT takes the
/// WITH along to the query that it inserts from.
fn with_change(mut query: ast::Query) -> Statement {
    match *query.body {
        SetExpr::Insert(ast::Statement::Insert(mut insert)) => {
            if let (Some(mut with), Some(source)) = (query.with.take(), insert.source.as_deref_mut()) {
                if let Some(inner) = source.with.take() {
                    with.recursive |= inner.recursive;
                    with.cte_tables.extend(inner.cte_tables);
                }
                source.with = Some(with);
            }
            Statement::Sql(Box::new(ast::Statement::Insert(insert)))
        }
        SetExpr::Update(statement) | SetExpr::Delete(statement) => match query.with {
            Some(with) => Statement::With(with, Box::new(statement)),
            None => Statement::Sql(Box::new(statement)),
        },
        body => {
            query.body = Box::new(body);
            Statement::Sql(Box::new(ast::Statement::Query(Box::new(query))))
        }
    }
}

/// A parser's error as ours, with the position that it appends to its message.
pub fn syntax_error(error: &ParserError) -> KalamError {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => {
            return KalamError::new(
                ErrorCode::SyntaxError,
                format!("the statement nests deeper than {RECURSION_LIMIT} levels"),
            );
        }
    };
    let (message, position) = split_position(text);
    KalamError::new(ErrorCode::SyntaxError, format!("syntax error: {message}")).at(position)
}

fn split_position(text: &str) -> (&str, Option<Position>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else { return (text, None) };
    let position = place.split_once(", Column: ").and_then(|(line, column)| {
        Some(Position { line: line.trim().parse().ok()?, column: column.trim().parse().ok()? })
    });
    (message, position)
}

/// The position of an identifier in the text it was parsed from.
pub fn position_of(ident: &ast::Ident) -> Option<Position> {
    position_at(ident.span.start)
}

/// The position of a token in the text.
fn position_of_token(token: &TokenWithSpan) -> Option<Position> {
    position_at(token.span.start)
}

/// A place in the text, as errors give it.
pub fn position_at(start: Location) -> Option<Position> {
    let position = Position { line: u32::try_from(start.line).ok()?, column: u32::try_from(start.column).ok()? };
    (position.line > 0).then_some(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_statements_and_sql_side_by_side() -> Result<()> {
        let parsed = parse(
            "create namespace if not exists shop; use shop; CREATE USER TABLE t (id INT); select 1;; \
             explain analyze select 2; show tables in shop; describe shop.t; drop schema shop; \
             storage flush table shop.t; STORAGE COMPACT ALL; show manifest; SHOW MANIFEST shop.t",
        )?;
        assert!(matches!(parsed[0], Statement::CreateNamespace { if_not_exists: true, .. }));
        assert!(matches!(parsed[1], Statement::UseNamespace(_)));
        assert!(matches!(parsed[2], Statement::CreateTable(TableType::User, _)));
        assert!(matches!(parsed[3], Statement::Sql(_)));
        assert!(matches!(parsed[4], Statement::Explain { analyze: true, .. }));
        assert!(matches!(parsed[5], Statement::ShowTables(Some(_))));
        assert!(matches!(parsed[6], Statement::Describe(_)));
        assert!(matches!(parsed[7], Statement::DropNamespace { .. }));
        assert!(matches!(parsed[8], Statement::Storage { compact: false, table: Some(_) }));
        assert!(matches!(parsed[9], Statement::Storage { compact: true, table: None }));
        assert!(matches!(parsed[10], Statement::ShowManifest(None)));
        assert!(matches!(parsed[11], Statement::ShowManifest(Some(_))));
        assert_eq!(parsed.len(), 12);
        Ok(())
    }

    #[test]
    fn errors_have_positions() {
        for (sql, line, column) in [
            ("selec 1", 1, 1),
            ("select 1\n  from\n", 2, 7),
            ("select 1\n +* 2", 2, 3),
            ("select 'open", 1, 8),
            ("select 1 2 3", 1, 10),
        ] {
            let error = parse(sql).expect_err(sql);
            assert_eq!(error.code(), ErrorCode::SyntaxError);
            assert_eq!(error.position(), Some(Position { line, column }), "{sql}: {error}");
        }
    }
}
