//! What the parser reads otherwise than it is meant, mended in the tokens before it.
//!
//! Invariant: only what sqlparser would refuse or misread changes, so every other statement keeps its tokens and their places.
//! A token that is put in has the place of what it stands for.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::super::dialect::ends_a_table;

/// The words that a query in parentheses may stand behind.
const BEFORE_QUERIES: [Keyword; 27] = {
    use Keyword as K;
    [
        K::AS,
        K::FROM,
        K::JOIN,
        K::LATERAL,
        K::IN,
        K::EXISTS,
        K::ANY,
        K::ALL,
        K::SOME,
        K::SELECT,
        K::WHERE,
        K::HAVING,
        K::ON,
        K::AND,
        K::OR,
        K::NOT,
        K::CASE,
        K::WHEN,
        K::THEN,
        K::ELSE,
        K::UNION,
        K::EXCEPT,
        K::INTERSECT,
        K::DISTINCT,
        K::LIMIT,
        K::OFFSET,
        K::RETURNING,
    ]
};

/// The tokens of a text, as the parser is to read them.
pub(super) fn as_the_parser_reads_them(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let tokens = with_alias_words(with_key_columns(without_options_word(without_empty_parentheses(tokens))));
    with_selects_for_values(with_selects_for_tables(without_hints(with_json_operators(with_plain_numbers(tokens)))))
}

fn is_space(token: &TokenWithSpan) -> bool {
    matches!(token.token, Token::Whitespace(_))
}

/// The keyword that a token is.
fn keyword(token: &TokenWithSpan) -> Option<Keyword> {
    match &token.token {
        Token::Word(word) if word.quote_style.is_none() && word.keyword != Keyword::NoKeyword => Some(word.keyword),
        _ => None,
    }
}

/// The places of the tokens that are no space.
fn written(tokens: &[TokenWithSpan]) -> Vec<usize> {
    (0..tokens.len()).filter(|&at| !is_space(&tokens[at])).collect()
}

/// `key`, `index`, `fulltext` and `spatial` as the name of a column: the parser takes them for MySQL's `KEY name (columns)`.
fn with_key_columns(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    use Keyword as K;
    let names = |token: &TokenWithSpan| matches!(keyword(token), Some(K::KEY | K::INDEX | K::FULLTEXT | K::SPATIAL));
    if !tokens.iter().any(|token| keyword(token) == Some(K::TABLE)) || !tokens.iter().any(names) {
        return tokens;
    }
    let places = written(&tokens);
    let token = |n: usize| places.get(n).map(|&place| &tokens[place]);
    let is = |n: usize, wanted: &Token| token(n).is_some_and(|t| t.token == *wanted);
    let is_word = |n: usize| matches!(token(n).map(|t| &t.token), Some(Token::Word(_)));
    let mut columns = Vec::new();
    for (n, &place) in places.iter().enumerate().skip(1) {
        let begins =
            is(n - 1, &Token::LParen) || is(n - 1, &Token::Comma) || token(n - 1).and_then(keyword) == Some(K::ADD);
        if !begins || !token(n).is_some_and(names) || !is_word(n + 1) {
            continue;
        }
        // `KEY name (a)` and `KEY name USING …`, but not `key VARCHAR(50)`; `FULLTEXT INDEX` begins no column.
        let index = [K::USING, K::INDEX, K::KEY];
        let is_index = (n + 1..n + 3).any(|n| token(n).and_then(keyword).is_some_and(|word| index.contains(&word)))
            || (is(n + 2, &Token::LParen) && is_word(n + 3));
        if !is_index {
            columns.push(place);
        }
    }
    for place in columns {
        if let Token::Word(word) = &mut tokens[place].token {
            word.keyword = K::NoKeyword;
        }
    }
    tokens
}

/// `FROM t partition WHERE …`: words that the parser takes for a clause before it looks for an alias.
fn with_alias_words(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    use Keyword as K;
    let begins = [K::PARTITION, K::PIVOT, K::UNPIVOT, K::SAMPLE, K::ANTI, K::SEMI, K::ASOF, K::GLOBAL];
    let is_alias = |token: &TokenWithSpan| keyword(token).is_some_and(|word| begins.contains(&word));
    if !tokens.iter().any(is_alias) {
        return tokens;
    }
    let before = [K::LEFT, K::RIGHT, K::BY, K::FROM, K::JOIN, K::SELECT, K::ALTER, K::DROP, K::ADD, K::WHERE];
    let places = written(&tokens);
    for n in 1..places.len() {
        let is_behind_name = match &tokens[places[n - 1]].token {
            Token::Word(word) => word.quote_style.is_some() || !before.contains(&word.keyword),
            before => *before == Token::RParen,
        };
        let next = places.get(n + 1).map(|&next| &tokens[next]);
        let ends = next.is_none_or(|next| ends_a_table(&next.token) && keyword(next) != Some(K::JOIN));
        if is_alias(&tokens[places[n]])
            && is_behind_name
            && ends
            && let Token::Word(word) = &mut tokens[places[n]].token
        {
            word.keyword = K::NoKeyword;
        }
    }
    tokens
}

/// `WITH x AS MATERIALIZED (…)` and `AS NOT MATERIALIZED (…)` say how the query is to be run, not what it gives.
fn without_hints(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    use Keyword as K;
    if !tokens.iter().any(|token| keyword(token) == Some(K::MATERIALIZED)) {
        return tokens;
    }
    let places = written(&tokens);
    let at = |n: usize| places.get(n).map(|&place| &tokens[place]);
    let is = |n: usize, wanted: K| at(n).is_some_and(|token| keyword(token) == Some(wanted));
    let mut dropped = Vec::new();
    for n in 1..places.len() {
        let before = if is(n - 1, K::NOT) { n.saturating_sub(2) } else { n - 1 };
        if !is(n, K::MATERIALIZED) || !is(before, K::AS) || at(n + 1).is_none_or(|t| t.token != Token::LParen) {
            continue;
        }
        // Behind the name of a table in FROM, in parentheses, stand the names of its columns.
        let inner = (n + 1..).find(|&m| at(m).is_none_or(|t| t.token != Token::LParen)).and_then(at);
        let begins = [K::SELECT, K::WITH, K::VALUES, K::TABLE, K::FROM, K::INSERT, K::UPDATE, K::DELETE];
        if inner.and_then(keyword).is_some_and(|word| begins.contains(&word)) {
            dropped.extend(before + 1..=n);
        }
    }
    for n in dropped.into_iter().rev() {
        tokens.remove(places[n]);
    }
    tokens
}

/// `TABLE t` as a query is `SELECT * FROM t`.
fn with_selects_for_tables(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    if !tokens.iter().any(|token| keyword(token) == Some(Keyword::TABLE)) {
        return tokens;
    }
    let places = written(&tokens);
    let queries: Vec<usize> =
        (0..places.len()).filter(|&n| is_table_query(&tokens, &places, n)).map(|n| places[n]).collect();
    let mut out = Vec::with_capacity(tokens.len() + 2 * queries.len());
    for (place, token) in tokens.into_iter().enumerate() {
        if queries.contains(&place) {
            let span = token.span;
            let select = [Token::make_keyword("SELECT"), Token::Mul, Token::make_keyword("FROM")];
            out.extend(select.into_iter().map(|token| TokenWithSpan { token, span }));
        } else {
            out.push(token);
        }
    }
    out
}

/// `x IN (VALUES (1), (2))` is `x IN (SELECT * FROM (VALUES (1), (2)))`, and so behind ANY and ALL.
fn with_selects_for_values(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    use Keyword as K;
    if !tokens.iter().any(|token| keyword(token) == Some(K::VALUES)) {
        return tokens;
    }
    let places = written(&tokens);
    let is = |n: usize, wanted: &Token| places.get(n).is_some_and(|&place| tokens[place].token == *wanted);
    let word = |n: usize| places.get(n).and_then(|&place| keyword(&tokens[place]));
    let mut ends = Vec::new();
    let mut begins = Vec::new();
    for n in 2..places.len() {
        let behind = matches!(word(n - 2), Some(K::IN | K::ANY | K::ALL | K::SOME));
        if word(n) != Some(K::VALUES) || !behind || !is(n - 1, &Token::LParen) || !is(n + 1, &Token::LParen) {
            continue;
        }
        let mut depth = 0_usize;
        let end = (n..places.len()).find(|&m| {
            let closes = is(m, &Token::RParen);
            if closes && depth == 0 {
                return true;
            }
            depth = depth + usize::from(is(m, &Token::LParen)) - usize::from(closes);
            false
        });
        if let Some(end) = end {
            begins.push(places[n]);
            ends.push(places[end]);
        }
    }
    let mut out = Vec::with_capacity(tokens.len() + 5 * begins.len());
    for (place, token) in tokens.into_iter().enumerate() {
        let span = token.span;
        let put = |out: &mut Vec<TokenWithSpan>, token| out.push(TokenWithSpan { token, span });
        if begins.contains(&place) {
            for token in [Token::make_keyword("SELECT"), Token::Mul, Token::make_keyword("FROM"), Token::LParen] {
                put(&mut out, token);
            }
        }
        if ends.contains(&place) {
            put(&mut out, Token::RParen);
        }
        out.push(token);
    }
    out
}

/// Whether a query `TABLE t` stands at a token: what is before it lets a query begin, and behind a name the query ends.
fn is_table_query(tokens: &[TokenWithSpan], places: &[usize], n: usize) -> bool {
    use Keyword as K;
    let at = |n: usize| places.get(n).map(|&place| &tokens[place]);
    let word = |n: usize| at(n).and_then(keyword);
    if word(n) != Some(K::TABLE) {
        return false;
    }
    let mut end = n + 1;
    loop {
        if !matches!(at(end).map(|t| &t.token), Some(Token::Word(_))) {
            return false;
        }
        end += 1;
        if at(end).is_none_or(|t| t.token != Token::Period) {
            break;
        }
        end += 1;
    }
    let ends =
        [K::UNION, K::EXCEPT, K::INTERSECT, K::ORDER, K::LIMIT, K::OFFSET, K::FETCH, K::FOR, K::ON, K::RETURNING];
    let is_end = match at(end).map(|token| &token.token) {
        None | Some(Token::SemiColon | Token::RParen | Token::EOF) => true,
        _ => word(end).is_some_and(|word| ends.contains(&word)),
    };
    let Some(before) = n.checked_sub(1) else { return is_end };
    is_end
        && match at(before).map(|token| &token.token) {
            Some(Token::SemiColon | Token::RParen) => true,
            // No list of columns, nor of arguments.
            Some(Token::LParen) => before.checked_sub(1).is_none_or(|opener| match at(opener).map(|t| &t.token) {
                Some(Token::Word(_)) => {
                    word(opener).is_some_and(|word| BEFORE_QUERIES.contains(&word))
                        || is_inserted(tokens, places, opener)
                }
                _ => true,
            }),
            _ => match word(before) {
                Some(K::AS | K::UNION | K::EXCEPT | K::INTERSECT | K::EXPLAIN) => true,
                Some(K::ALL | K::DISTINCT) => {
                    n >= 2 && matches!(word(n - 2), Some(K::UNION | K::EXCEPT | K::INTERSECT))
                }
                Some(K::ANALYZE | K::VERBOSE | K::PLAN) => is_explained(tokens, places, before),
                _ => is_inserted(tokens, places, before),
            },
        }
}

/// Whether a word belongs to those between EXPLAIN and the statement.
fn is_explained(tokens: &[TokenWithSpan], places: &[usize], at: usize) -> bool {
    use Keyword as K;
    let words = places[..=at].iter().rev().map(|&place| keyword(&tokens[place]));
    let mut words = words.skip_while(|word| matches!(word, Some(K::ANALYZE | K::VERBOSE | K::QUERY | K::PLAN)));
    words.next() == Some(Some(K::EXPLAIN))
}

/// Whether a word ends `INTO t` or `INTO t AS x`.
fn is_inserted(tokens: &[TokenWithSpan], places: &[usize], at: usize) -> bool {
    use Keyword as K;
    let token = |n: usize| &tokens[places[n]];
    let is_word = |n: usize| matches!(token(n).token, Token::Word(_));
    let mut n = at;
    if n >= 2 && is_word(n) && keyword(token(n - 1)) == Some(K::AS) {
        n -= 2;
    }
    while n >= 2 && is_word(n) && token(n - 1).token == Token::Period {
        n -= 2;
    }
    n >= 1 && is_word(n) && keyword(token(n - 1)) == Some(K::INTO)
}

/// `1_000` is 1000 and `0x1F` is 31, as in PostgreSQL and SQLite; to the tokenizer the latter is the same as `X'1F'`.
fn with_plain_numbers(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    for token in &mut tokens {
        let width = token.span.end.column.saturating_sub(token.span.start.column);
        match &mut token.token {
            Token::Number(digits, _) if digits.contains('_') => digits.retain(|c| c != '_'),
            // A quoted one has a letter and two quotes beside its digits.
            Token::HexStringLiteral(digits) if width == digits.len() as u64 + 2 => {
                digits.retain(|c| c != '_');
                if let Ok(number) = u128::from_str_radix(digits, 16) {
                    token.token = Token::Number(number.to_string(), false);
                }
            }
            _ => {}
        }
    }
    tokens
}

/// `CURRENT_USER()` is written with parentheses as often as without; the parser knows the latter.
fn without_empty_parentheses(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is_user = |token: &TokenWithSpan| {
        matches!(&token.token, Token::Word(w)
            if w.quote_style.is_none()
                && matches!(w.keyword, Keyword::CURRENT_USER | Keyword::SESSION_USER | Keyword::USER))
    };
    // A table may be called `user`.
    let is_name = |before: &[TokenWithSpan]| {
        let before = before.iter().rfind(|t| !matches!(t.token, Token::Whitespace(_)));
        before.is_some_and(|t| match &t.token {
            Token::Period => true,
            Token::Word(w) => matches!(w.keyword, Keyword::INTO | Keyword::TABLE | Keyword::EXISTS | Keyword::VIEW),
            _ => false,
        })
    };
    let mut at = 0;
    while at + 2 < tokens.len() {
        if is_user(&tokens[at])
            && tokens[at + 1].token == Token::LParen
            && tokens[at + 2].token == Token::RParen
            && !is_name(&tokens[..at])
        {
            tokens.drain(at + 1..at + 3);
        }
        at += 1;
    }
    tokens
}

/// `SET OPTIONS (…)` is `SET (…)`, which the parser knows. No other statement has SET, OPTIONS and a parenthesis.
fn without_options_word(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is = |token: &TokenWithSpan, keyword: Keyword| matches!(&token.token, Token::Word(w) if w.quote_style.is_none() && w.keyword == keyword);
    let written = |token: &&TokenWithSpan| !matches!(token.token, Token::Whitespace(_));
    let mut at = 0;
    while at < tokens.len() {
        let (before, after) = (&tokens[..at], &tokens[at + 1..]);
        if is(&tokens[at], Keyword::OPTIONS)
            && before.iter().rfind(written).is_some_and(|t| is(t, Keyword::SET))
            && after.iter().find(written).is_some_and(|t| t.token == Token::LParen)
        {
            tokens.remove(at);
        }
        at += 1;
    }
    tokens
}

/// `?`, `?|` and `?&` behind a value are operators of JSON; the tokenizer reads a parameter, which there is none of.
fn with_json_operators(mut tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let is_value = |token: &Token| match token {
        Token::Word(word) => {
            use Keyword as K;
            let begins = [
                K::SELECT,
                K::DISTINCT,
                K::WHERE,
                K::AND,
                K::OR,
                K::NOT,
                K::IN,
                K::LIKE,
                K::BETWEEN,
                K::LIMIT,
                K::OFFSET,
                K::WHEN,
                K::THEN,
                K::ELSE,
                K::CASE,
                K::HAVING,
                K::BY,
                K::ON,
                K::SET,
                K::VALUES,
                K::RETURNING,
            ];
            word.quote_style.is_some() || !begins.contains(&word.keyword)
        }
        Token::SingleQuotedString(_) | Token::RParen | Token::RBracket | Token::Placeholder(_) => true,
        _ => false,
    };
    let mut at = 0;
    let mut behind_value = false;
    while at < tokens.len() {
        match &tokens[at].token {
            Token::Whitespace(_) => {}
            Token::Placeholder(mark) if mark == "?" && behind_value => {
                let (operator, length) = match tokens.get(at + 1).map(|t| &t.token) {
                    Some(Token::Pipe) => (Token::QuestionPipe, 2),
                    Some(Token::Ampersand) => (Token::QuestionAnd, 2),
                    _ => (Token::Question, 1),
                };
                tokens[at].token = operator;
                tokens.drain(at + 1..at + length);
                behind_value = false;
            }
            token => behind_value = is_value(token),
        }
        at += 1;
    }
    tokens
}
