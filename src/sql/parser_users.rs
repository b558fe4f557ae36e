//! CREATE, ALTER and DROP USER, and EXECUTE AS USER.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::{Statement, StatementParser};
use crate::error::Position;

/// The name of a user as a statement gives it: a string, an identifier or a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserName {
    /// The name, or the placeholder of a parameter.
    pub text: String,
    /// Whether it is a placeholder.
    pub is_parameter: bool,
    /// Where it stands.
    pub position: Option<Position>,
}

impl StatementParser<'_> {
    /// A statement about users if the words say so, which are the next three.
    pub(super) fn user_statement(&mut self, words: [&str; 3]) -> Result<Option<Statement>, ParserError> {
        let [first, second, third] = words;
        Ok(Some(match (first, second) {
            ("execute", "as") if third == "user" => {
                self.skip(3);
                self.execute_as()?
            }
            ("create", "user") if third != "table" => {
                self.skip(2);
                let if_not_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
                let user = self.user_name()?;
                let (role, password) = self.user_options()?;
                Statement::CreateUser { user, role, password, if_not_exists }
            }
            ("alter", "user") => {
                self.skip(2);
                let if_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
                let user = self.user_name()?;
                let (role, password) = self.user_options()?;
                if role.is_none() && password.is_none() {
                    let next = self.parser.peek_token();
                    return self.parser.expected("SET ROLE and a role", next);
                }
                Statement::AlterUser { user, role, password, if_exists }
            }
            ("drop", "user") => {
                self.skip(2);
                let if_exists = self.parser.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
                let user = self.user_name()?;
                let behaviour = self.parser.parse_one_of_keywords(&[Keyword::CASCADE, Keyword::RESTRICT]);
                Statement::DropUser { user, if_exists, cascade: behaviour == Some(Keyword::CASCADE) }
            }
            _ => return Ok(None),
        }))
    }

    /// `'u' ( statement )`.
    fn execute_as(&mut self) -> Result<Statement, ParserError> {
        let user = self.user_name()?;
        self.parser.expect_token(&Token::LParen)?;
        let statement = Box::new(self.statement()?);
        let _ = self.parser.consume_token(&Token::SemiColon);
        self.parser.expect_token(&Token::RParen)?;
        Ok(Statement::ExecuteAs { user, statement })
    }

    fn user_name(&mut self) -> Result<UserName, ParserError> {
        let next = self.parser.next_token();
        let position = super::position_of_token(&next);
        let (text, is_parameter) = match &next.token {
            Token::SingleQuotedString(text) => (text.clone(), false),
            Token::Word(word) if word.quote_style.is_some() => (word.value.clone(), false),
            Token::Word(word) => (word.value.to_lowercase(), false),
            Token::Placeholder(name) => (name.clone(), true),
            _ => return self.parser.expected("the name of a user", next),
        };
        Ok(UserName { text, is_parameter, position })
    }

    /// `[WITH | SET] [PASSWORD 'p'] [ROLE r]`: the role with its place, and the place of a password.
    fn user_options(&mut self) -> Result<UserOptions, ParserError> {
        let _ = self.parser.parse_one_of_keywords(&[Keyword::WITH, Keyword::SET]);
        let (mut role, mut password) = (None, None);
        loop {
            let word = self.word(0).map(|w| w.value.to_ascii_lowercase());
            match word.as_deref() {
                Some("role") if role.is_none() => {
                    self.skip(1);
                    let name = self.user_name()?;
                    if name.is_parameter {
                        let next = self.parser.peek_token();
                        return self.parser.expected("the name of a role", next);
                    }
                    role = Some((name.text, name.position));
                }
                Some("password") if password.is_none() => {
                    password = Some(super::position_of_token(&self.parser.peek_token()));
                    self.skip(1);
                    self.parser.next_token();
                }
                _ => return Ok((role, password)),
            }
        }
    }
}

/// A role by its name and where that stands, and where a password is given.
type UserOptions = (Option<(String, Option<Position>)>, Option<Option<Position>>);
