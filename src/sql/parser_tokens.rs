//! What the parser reads otherwise than it is meant, mended in the tokens before it.
//!
//! Invariant: only what sqlparser would refuse or misread changes, so every other statement keeps its tokens and their places.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// The tokens of a text, as the parser is to read them.
pub(super) fn as_the_parser_reads_them(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    with_json_operators(without_options_word(without_empty_parentheses(tokens)))
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
