//! Long chains of operators: `a OR b OR c …`, which would be as many levels of the statement's tree.
//!
//! The parser nests `a OR b OR c` to the left, and who walks, copies or drops a tree does so by recursion: a thousand
//! terms are more than a stack holds. Invariant: of AND, OR and `||`, which mean the same however they are nested, a
//! chain of more than [`FEW`] terms becomes a tree as flat as it can be, in the order of its terms. What would be deep
//! all the same is refused where it stands: whatever else the parser nests to the left (`+`, casts, IS NULL) beyond
//! [`DEEPEST`], the conditions of an AND beyond [`CONDITIONS`], because the optimizer nests them to the left again, and
//! queries of one set operation beyond [`UNIONS`] and [`OTHER_QUERIES`]. Parentheses and subqueries the parser counts
//! itself. The bounds are what a browser's stack holds (about a MB of the engine's frames) with a third to spare.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Query, Visitor};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use super::walk::walk;

/// Chains of so many terms are left as the parser makes them.
const FEW: usize = 32;

/// How deep the parser may nest to the left, an operator of two sides counted once, all else [`HEAVY`] times.
const DEEPEST: usize = 600;

/// What planning a level takes that is no operator of two sides.
const HEAVY: usize = 4;

/// How many levels may come between two looks at the whole depth.
const UNSEEN: usize = 4;

/// How many conditions AND may join.
const CONDITIONS: usize = 500;

/// How many queries UNION ALL may join one after the other.
const UNIONS: usize = 300;

/// How many queries other set operations may join one after the other.
const OTHER_QUERIES: usize = 64;

/// The expression of an operator behind `left`, if it is a chain that is read here, or one that is refused.
pub fn parse(parser: &mut Parser, left: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
    let next = parser.peek_token_ref();
    let (op, place) = (flat_operator(&next.token), next.span.start);
    let (op, mut terms) = match (op, left) {
        (Some(op), Expr::BinaryOp { left: first, op: before, right }) if *before == op => {
            (op, vec![first.as_ref().clone(), right.as_ref().clone()])
        }
        _ => {
            return is_deep(left).then(|| Err(too_long("operators nest deeper than the engine's stack allows", place)));
        }
    };
    while flat_operator(&parser.peek_token_ref().token).as_ref() == Some(&op) {
        let place = parser.peek_token_ref().span.start;
        parser.advance_token();
        match parser.parse_subexpr(precedence) {
            Ok(term) => terms.push(term),
            Err(error) => return Some(Err(error)),
        }
        if op == BinaryOperator::And && terms.len() > CONDITIONS {
            return Some(Err(too_long(&format!("AND joins more than {CONDITIONS} conditions"), place)));
        }
    }
    if op == BinaryOperator::And && terms.iter().map(conditions).sum::<usize>() > CONDITIONS {
        return Some(Err(too_long(&format!("AND joins more than {CONDITIONS} conditions"), place)));
    }
    let join = |left, right| operation(left, &op, right);
    // Few are left as the parser nests them.
    let whole = if terms.len() > FEW { flat(terms, join) } else { terms.into_iter().reduce(join) };
    whole.map(Ok)
}

/// Fails at the query that is one too many of a set operation.
pub fn check_queries(tokens: &[TokenWithSpan]) -> Result<(), ParserError> {
    // Queries so far, and whether only UNION ALL is between them: in each pair of parentheses that is open.
    let mut open = vec![(1, true)];
    let mut tokens = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).peekable();
    while let Some(TokenWithSpan { token, span }) = tokens.next() {
        match token {
            Token::LParen => open.push((1, true)),
            Token::RParen if open.len() > 1 => drop(open.pop()),
            Token::SemiColon => open = vec![(1, true)],
            Token::Word(word) if word.quote_style.is_none() => {
                let all =
                    tokens.peek().is_some_and(|t| matches!(&t.token, Token::Word(w) if w.keyword == Keyword::ALL));
                let Some((queries, only_all)) = open.last_mut() else { continue };
                match word.keyword {
                    Keyword::UNION => *only_all &= all,
                    Keyword::EXCEPT | Keyword::INTERSECT => *only_all = false,
                    _ => continue,
                }
                *queries += 1;
                let most = if *only_all { UNIONS } else { OTHER_QUERIES };
                if *queries > most {
                    return Err(too_long(&format!("{word} joins more than {most} queries"), span.start));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn too_long(what: &str, place: Location) -> ParserError {
    ParserError::ParserError(format!("{what}{place}"))
}

/// How many conditions an expression joins by AND.
fn conditions(expr: &Expr) -> usize {
    match expr {
        Expr::Nested(inner) => conditions(inner),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => conditions(left) + conditions(right),
        _ => 1,
    }
}

/// The operator of a token that means the same however its chain is nested.
fn flat_operator(token: &Token) -> Option<BinaryOperator> {
    match token {
        Token::Word(word) if word.keyword == Keyword::OR => Some(BinaryOperator::Or),
        Token::Word(word) if word.keyword == Keyword::AND => Some(BinaryOperator::And),
        Token::StringConcat => Some(BinaryOperator::StringConcat),
        _ => None,
    }
}

fn operation(left: Expr, op: &BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) }
}

/// Terms in a tree of few levels: neighbours are joined, until there is one.
pub fn flat(mut terms: Vec<Expr>, join: impl Fn(Expr, Expr) -> Expr) -> Option<Expr> {
    while terms.len() > 1 {
        let mut rest = terms.into_iter();
        let mut joined = Vec::with_capacity(rest.len().div_ceil(2));
        while let Some(left) = rest.next() {
            joined.push(match rest.next() {
                Some(right) => join(left, right),
                None => left,
            });
        }
        terms = joined;
    }
    terms.pop()
}

/// Whether there are too many levels already.
fn is_deep(left: &Expr) -> bool {
    let levels = std::iter::successors(left_side(left), |expr| left_side(expr)).take(DEEPEST).count();
    levels > 0 && levels.is_multiple_of(UNSEEN) && walk(left, &mut Depth(0)).is_break()
}

/// What an expression that ends with an operator begins with.
fn left_side(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::BinaryOp { left: expr, .. }
        | Expr::AnyOp { left: expr, .. }
        | Expr::AllOp { left: expr, .. }
        | Expr::IsDistinctFrom(expr, _)
        | Expr::IsNotDistinctFrom(expr, _)
        | Expr::IsFalse(expr)
        | Expr::IsNotFalse(expr)
        | Expr::IsTrue(expr)
        | Expr::IsNotTrue(expr)
        | Expr::IsNull(expr)
        | Expr::IsNotNull(expr)
        | Expr::IsUnknown(expr)
        | Expr::IsNotUnknown(expr)
        | Expr::IsNormalized { expr, .. }
        | Expr::InList { expr, .. }
        | Expr::InSubquery { expr, .. }
        | Expr::InUnnest { expr, .. }
        | Expr::Between { expr, .. }
        | Expr::Like { expr, .. }
        | Expr::ILike { expr, .. }
        | Expr::SimilarTo { expr, .. }
        | Expr::RLike { expr, .. }
        | Expr::UnaryOp { expr, .. }
        | Expr::Cast { expr, .. }
        | Expr::AtTimeZone { timestamp: expr, .. }
        | Expr::Collate { expr, .. }
        | Expr::CompoundFieldAccess { root: expr, .. }
        | Expr::JsonAccess { value: expr, .. }
        | Expr::Nested(expr) => Some(expr),
        _ => None,
    }
}

/// Breaks where a tree is deeper than it may be.
struct Depth(usize);

impl Depth {
    fn enter(&mut self, levels: usize) -> ControlFlow<()> {
        self.0 += levels;
        if self.0 > DEEPEST { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn leave(&mut self, levels: usize) -> ControlFlow<()> {
        self.0 -= levels;
        ControlFlow::Continue(())
    }
}

/// What an expression counts for.
fn weight(expr: &Expr) -> usize {
    match expr {
        Expr::BinaryOp { .. }
        | Expr::Nested(_)
        | Expr::Identifier(_)
        | Expr::CompoundIdentifier(_)
        | Expr::Value(_) => 1,
        _ => HEAVY,
    }
}

impl Visitor for Depth {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.enter(weight(expr))
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.leave(weight(expr))
    }

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.enter(HEAVY)
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.leave(HEAVY)
    }
}
