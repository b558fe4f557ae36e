//! The SQL dialect: sqlparser's generic one, with what PostgreSQL adds to two statements, and PostgreSQL's precedence
//! for the operators of JSON, of bits, `^` and IS DISTINCT FROM.
//!
//! Invariant: everything else that [`GenericDialect`] decides is decided by it here too, and the parser takes this for
//! it where it asks by type; but a comma ends no SELECT list, and words that begin clauses of other databases may be names.
//! `INSERT INTO t AS x`, `ALTER COLUMN … TYPE … USING` and `1_000` are parsed besides. The generic
//! precedence makes `d ->> 'a' = 'x'` mean `d ->> ('a' = 'x')`, and `a IS DISTINCT FROM b OR c` ask for `b OR c`. `^` is
//! power and `#` the exclusive or, as in PostgreSQL.

use std::any::TypeId;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::chains;

/// Looser than `+`, tighter than a comparison.
const OTHER_OPERATORS: u8 = 21;

/// Tighter than `*`.
const POWER: u8 = 45;

/// The dialect; see the module's comment.
#[derive(Debug, Default)]
pub struct KalamDialect {
    /// The parser takes any word after the name for an alias, such as the TABLE of `INSERT INTO t TABLE u`: so it is
    /// asked to only where there is an AS.
    insert_alias: bool,
}

impl KalamDialect {
    /// The dialect for a text.
    pub fn for_tokens(tokens: &[TokenWithSpan]) -> Self {
        Self { insert_alias: has_insert_alias(tokens) }
    }
}

fn has_insert_alias(tokens: &[TokenWithSpan]) -> bool {
    let mut words = tokens.iter().map(|t| &t.token).filter(|t| !matches!(t, Token::Whitespace(_))).peekable();
    while let Some(token) = words.next() {
        if !matches!(token, Token::Word(w) if w.keyword == Keyword::INTO && w.quote_style.is_none()) {
            continue;
        }
        while matches!(words.peek(), Some(Token::Word(_))) {
            words.next();
            if words.next_if(|t| **t == Token::Period).is_none() {
                break;
            }
        }
        if matches!(words.peek(), Some(Token::Word(w)) if w.keyword == Keyword::AS) {
            return true;
        }
    }
    false
}

/// What may be an alias without AS in PostgreSQL, and begins a clause elsewhere: it is one where no such clause follows.
const TABLE_ALIASES: [Keyword; 16] = {
    use Keyword as K;
    [
        K::CLUSTER,
        K::CONNECT,
        K::DISTRIBUTE,
        K::EXPLAIN,
        K::FORMAT,
        K::MATCH_CONDITION,
        K::MATCH_RECOGNIZE,
        K::OPEN,
        K::OUTPUT,
        K::PREWHERE,
        K::QUALIFY,
        K::SETTINGS,
        K::SORT,
        K::START,
        K::TOP,
        K::VIEW,
    ]
};

/// The same of aliases in a SELECT list.
const COLUMN_ALIASES: [Keyword; 8] = {
    use Keyword as K;
    [K::ANALYZE, K::CLUSTER, K::DISTRIBUTE, K::EXPLAIN, K::SORT, K::TOP, K::VALUES, K::VIEW]
};

/// What follows an alias of either kind.
const BEHIND_ALIASES: [Keyword; 12] = {
    use Keyword as K;
    [
        K::WHERE,
        K::GROUP,
        K::ORDER,
        K::HAVING,
        K::LIMIT,
        K::OFFSET,
        K::FETCH,
        K::UNION,
        K::EXCEPT,
        K::INTERSECT,
        K::WINDOW,
        K::FOR,
    ]
};

/// What follows a table with its alias besides.
const BEHIND_TABLES: [Keyword; 10] = {
    use Keyword as K;
    [K::JOIN, K::INNER, K::LEFT, K::RIGHT, K::FULL, K::CROSS, K::NATURAL, K::ON, K::USING, K::RETURNING]
};

/// Whether an alias of a table can stand before a token.
pub fn ends_a_table(next: &Token) -> bool {
    ends_an_alias(next, &BEHIND_TABLES)
}

/// Whether an alias can stand before a token, of a place where `keywords` follow besides.
fn ends_an_alias(next: &Token, keywords: &[Keyword]) -> bool {
    match next {
        Token::Word(word) => {
            word.quote_style.is_none() && (BEHIND_ALIASES.contains(&word.keyword) || keywords.contains(&word.keyword))
        }
        Token::Comma | Token::RParen | Token::SemiColon | Token::EOF => true,
        _ => false,
    }
}

/// Whether a word behind an expression asks for NULL (`ISNULL`), or for a value (`NOTNULL`).
fn is_null_test(word: &Word) -> Option<bool> {
    let is = |name: &str| word.quote_style.is_none() && word.value.eq_ignore_ascii_case(name);
    if is("isnull") { Some(true) } else { is("notnull").then_some(false) }
}

/// Whether `interval` is the name of a column here: no value follows, or none with a unit.
fn is_interval_column(parser: &Parser) -> bool {
    let token = |n| &parser.peek_nth_token_ref(n).token;
    if !matches!(token(0), Token::Word(word) if word.keyword == Keyword::INTERVAL && word.quote_style.is_none()) {
        return false;
    }
    let units = ["year", "quarter", "month", "week", "day", "hour", "minute", "second", "milli", "micro", "nano"];
    let is_unit = |n| match token(n) {
        Token::Word(word) => units.iter().any(|unit| word.value.to_ascii_lowercase().starts_with(unit)),
        _ => false,
    };
    match token(1) {
        Token::Word(word) => word.keyword != Keyword::NoKeyword || !is_unit(2),
        Token::Minus | Token::Plus => !matches!(token(2), Token::Number(..)) || !is_unit(3),
        Token::Comma | Token::RParen | Token::SemiColon | Token::EOF | Token::Period => true,
        Token::Number(..) | Token::Placeholder(_) | Token::LParen => false,
        // Text of any kind is a value, an operator is none.
        other => !other.to_string().contains('\''),
    }
}

/// Whether OF follows the next word.
fn is_of(parser: &Parser) -> bool {
    matches!(&parser.peek_nth_token_ref(1).token, Token::Word(word) if word.keyword == Keyword::OF)
}

macro_rules! as_generic {
    (char $($test:ident)*) => {
        $(fn $test(&self, ch: char) -> bool {
            GenericDialect {}.$test(ch)
        })*
    };
    ($($flag:ident)*) => {
        $(fn $flag(&self) -> bool {
            GenericDialect {}.$flag()
        })*
    };
}

impl Dialect for KalamDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn supports_insert_table_alias(&self) -> bool {
        self.insert_alias
    }

    fn supports_alter_column_type_using(&self) -> bool {
        true
    }

    fn supports_numeric_literal_underscores(&self) -> bool {
        true
    }

    fn is_column_alias(&self, keyword: &Keyword, parser: &mut Parser) -> bool {
        GenericDialect {}.is_column_alias(keyword, parser)
            || (COLUMN_ALIASES.contains(keyword) && ends_an_alias(&parser.peek_token_ref().token, &[Keyword::FROM]))
    }

    fn is_table_alias(&self, keyword: &Keyword, parser: &mut Parser) -> bool {
        if (GenericDialect {}).is_table_alias(keyword, parser) {
            return true;
        }
        TABLE_ALIASES.contains(keyword) && ends_a_table(&parser.peek_token_ref().token)
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        if !is_interval_column(parser) {
            return None;
        }
        Some(parser.parse_identifier().map(Expr::Identifier))
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        match &parser.peek_token_ref().token {
            Token::Word(word) if is_null_test(word).is_some() => Some(Ok(self.prec_value(Precedence::Is))),
            // Else it is an alias.
            Token::Word(word) if word.keyword == Keyword::MEMBER && !is_of(parser) => Some(Ok(self.prec_unknown())),
            Token::Arrow
            | Token::LongArrow
            | Token::HashArrow
            | Token::HashLongArrow
            | Token::AtArrow
            | Token::ArrowAt
            | Token::Question
            | Token::QuestionAnd
            | Token::QuestionPipe
            | Token::Ampersand
            | Token::Pipe
            | Token::Sharp
            | Token::ShiftLeft
            | Token::ShiftRight => Some(Ok(OTHER_OPERATORS)),
            Token::Caret => Some(Ok(POWER)),
            _ => None,
        }
    }

    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
        use Keyword as K;
        if let Token::Word(word) = &parser.peek_token_ref().token
            && let Some(is_null) = is_null_test(word)
        {
            parser.advance_token();
            let tested = Box::new(expr.clone());
            return Some(Ok(if is_null { Expr::IsNull(tested) } else { Expr::IsNotNull(tested) }));
        }
        for (token, op) in [(Token::Caret, BinaryOperator::PGExp), (Token::Sharp, BinaryOperator::PGBitwiseXor)] {
            if parser.consume_token(&token) {
                let (left, right) = (Box::new(expr.clone()), parser.parse_subexpr(precedence));
                return Some(right.map(|right| Expr::BinaryOp { left, op, right: Box::new(right) }));
            }
        }
        // sqlparser takes everything behind FROM for the right side, OR included.
        let negated = if parser.parse_keywords(&[K::IS, K::DISTINCT, K::FROM]) {
            false
        } else if parser.parse_keywords(&[K::IS, K::NOT, K::DISTINCT, K::FROM]) {
            true
        } else {
            return chains::parse(parser, expr, precedence);
        };
        let (left, right) = (Box::new(expr.clone()), parser.parse_subexpr(self.prec_value(Precedence::Eq)));
        Some(right.map(|right| match negated {
            true => Expr::IsNotDistinctFrom(left, Box::new(right)),
            false => Expr::IsDistinctFrom(left, Box::new(right)),
        }))
    }

    // `d#>'{a}'` and `d@>'{}'` need no spaces.
    fn is_identifier_part(&self, ch: char) -> bool {
        GenericDialect {}.is_identifier_part(ch) && !matches!(ch, '#' | '@')
    }

    as_generic! { char is_delimited_identifier_start is_identifier_start }

    as_generic! {
        supports_unicode_string_literal
        supports_partition_by_after_order_by
        supports_array_join_syntax
        supports_group_by_expr
        supports_group_by_with_modifier
        supports_left_associative_joins_without_parens
        supports_connect_by
        supports_match_recognize
        supports_pipe_operator
        supports_start_transaction_modifier
        supports_window_function_null_treatment_arg
        supports_dictionary_syntax
        supports_window_clause_named_window_reference
        supports_parenthesized_set_variables
        supports_select_wildcard_except
        support_map_literal_syntax
        allow_extract_custom
        allow_extract_single_quotes
        supports_extract_comma_syntax
        supports_create_view_comment_syntax
        supports_parens_around_table_factor
        supports_values_as_table_factor
        supports_create_index_with_clause
        supports_explain_with_utility_options
        supports_limit_comma
        supports_update_order_by
        supports_from_first_select
        supports_asc_desc_in_column_definition
        supports_try_convert
        supports_bitwise_shift_operators
        supports_comment_on
        supports_load_extension
        supports_named_fn_args_with_assignment_operator
        supports_struct_literal
        supports_empty_projections
        supports_nested_comments
        supports_multiline_comment_hints
        supports_user_host_grantee
        supports_string_escape_constant
        supports_array_typedef_with_brackets
        supports_match_against
        supports_set_names
        supports_comma_separated_set_assignments
        supports_filter_during_aggregation
        supports_select_wildcard_exclude
        supports_data_type_signed_suffix
        supports_interval_options
        supports_quote_delimited_string
        supports_select_wildcard_replace
        supports_select_wildcard_ilike
        supports_select_wildcard_rename
        supports_optimize_table
        supports_install
        supports_detach
        supports_prewhere
        supports_with_fill
        supports_limit_by
        supports_interpolate
        supports_settings
        supports_select_format
        supports_comment_optimizer_hint
        supports_constraint_keyword_without_name
        supports_key_column_option
        supports_comma_separated_trim
        supports_cte_without_as
        supports_select_item_multi_column_alias
        supports_xml_expressions
    }
}
