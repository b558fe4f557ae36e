//! The one error type of the engine.
//!
//! Every failure that a caller can see is a [`KalamError`]: a stable [`ErrorCode`] (which fixes the SQLSTATE and
//! whether a retry can help), a message that names what was found and what was expected, and, where they help, a
//! hint and the position in the SQL text. It crosses to JavaScript whole; nothing above this module invents
//! another shape.

use std::borrow::Cow;
use std::fmt;

/// Result of every fallible engine call.
pub type Result<T, E = KalamError> = std::result::Result<T, E>;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $sqlstate:literal $(, $retry:ident)?;)*) => {
        /// Stable error codes. The name is the contract with JavaScript; the SQLSTATE is the one PostgreSQL gives.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }

        impl ErrorCode {
            /// Every code, for documentation and tests.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The stable name, e.g. `TABLE_NOT_FOUND`.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// Whether the storage could not do what it was asked: nothing is said about what is stored.
            pub const fn is_of_storage(self) -> bool {
                use ErrorCode as E;
                matches!(self, E::StorageError | E::StorageClosed | E::Closed | E::QuotaExceeded)
            }

            /// The five-character SQLSTATE of PostgreSQL's appendix A.
            pub const fn sqlstate(self) -> &'static str {
                match self { $(ErrorCode::$variant => $sqlstate,)* }
            }

            /// Whether the same call may succeed when it is made again.
            pub const fn retryable(self) -> bool {
                match self { $(ErrorCode::$variant => error_codes!(@retry $($retry)?),)* }
            }
        }
    };
    (@retry retryable) => { true };
    (@retry) => { false };
}

error_codes! {
    /// The SQL text does not parse.
    SyntaxError = "SYNTAX_ERROR", "42601";
    /// A statement or clause that is understood but not supported.
    FeatureNotSupported = "FEATURE_NOT_SUPPORTED", "0A000";
    /// A statement that is well formed but means nothing here (planner errors).
    InvalidStatement = "INVALID_STATEMENT", "42000";
    /// No table or view of that name.
    TableNotFound = "TABLE_NOT_FOUND", "42P01";
    /// A table or view of that name exists already.
    TableExists = "TABLE_EXISTS", "42P07";
    /// The object exists but is of another kind than the statement needs.
    WrongObjectType = "WRONG_OBJECT_TYPE", "42809";
    /// No namespace of that name.
    NamespaceNotFound = "NAMESPACE_NOT_FOUND", "3F000";
    /// A namespace of that name exists already.
    NamespaceExists = "NAMESPACE_EXISTS", "42P06";
    /// The namespace still holds tables.
    NamespaceNotEmpty = "NAMESPACE_NOT_EMPTY", "2BP01";
    /// A view depends on a table that is gone.
    ViewDependencyMissing = "VIEW_DEPENDENCY_MISSING", "42P01";
    /// A view that would refer to itself.
    CyclicView = "CYCLIC_VIEW", "42P17";
    /// An index, constraint or table of that name exists already.
    IndexExists = "INDEX_EXISTS", "42P07";
    /// No index of that name.
    IndexNotFound = "INDEX_NOT_FOUND", "42704";
    /// No constraint of that name.
    ConstraintNotFound = "CONSTRAINT_NOT_FOUND", "42704";
    /// No job of that id.
    JobNotFound = "JOB_NOT_FOUND", "42704";
    /// No column of that name.
    ColumnNotFound = "COLUMN_NOT_FOUND", "42703";
    /// A column name that fits more than one table.
    AmbiguousColumn = "AMBIGUOUS_COLUMN", "42702";
    /// A column named twice.
    DuplicateColumn = "DUPLICATE_COLUMN", "42701";
    /// A list of columns that no key or UNIQUE constraint has.
    InvalidColumnReference = "INVALID_COLUMN_REFERENCE", "42P10";
    /// No function of that name and argument types.
    FunctionNotFound = "FUNCTION_NOT_FOUND", "42883";
    /// No type of that name.
    TypeNotFound = "TYPE_NOT_FOUND", "42704";
    /// A name that is reserved or malformed.
    InvalidName = "INVALID_NAME", "42602";
    /// A table or column definition that is not valid.
    InvalidDefinition = "INVALID_DEFINITION", "42P16";
    /// An unknown or misplaced option, or a value it does not take.
    InvalidOption = "INVALID_OPTION", "22023";
    /// Types that do not fit together.
    DatatypeMismatch = "DATATYPE_MISMATCH", "42804";
    /// Text that does not parse as the type it is given to.
    InvalidText = "INVALID_TEXT_REPRESENTATION", "22P02";
    /// A number that the type cannot hold.
    OutOfRange = "NUMERIC_VALUE_OUT_OF_RANGE", "22003";
    /// A date or time that does not exist or does not parse.
    InvalidDatetime = "INVALID_DATETIME", "22007";
    /// An embedding of another length than its column.
    WrongDimension = "WRONG_DIMENSION", "22000";
    /// Division by zero.
    DivisionByZero = "DIVISION_BY_ZERO", "22012";
    /// A scalar subquery returned more than one row.
    TooManyRows = "CARDINALITY_VIOLATION", "21000";
    /// A value that an expression cannot take.
    InvalidValue = "INVALID_VALUE", "22000";
    /// NULL in a NOT NULL column.
    NotNullViolation = "NOT_NULL_VIOLATION", "23502";
    /// A primary or unique key that is there already.
    UniqueViolation = "UNIQUE_VIOLATION", "23505";
    /// The number of parameters is not the number of placeholders.
    ParameterCount = "PARAMETER_COUNT", "08P01";
    /// A parameter whose type does not fit its place.
    ParameterType = "PARAMETER_TYPE", "42804";
    /// No prepared statement of that name in the session.
    PreparedNotFound = "PREPARED_STATEMENT_NOT_FOUND", "26000";
    /// A prepared statement of that name exists already.
    PreparedExists = "PREPARED_STATEMENT_EXISTS", "42P05";
    /// The role may not do this, or nobody may.
    PermissionDenied = "INSUFFICIENT_PRIVILEGE", "42501";
    /// No user of that name.
    UserNotFound = "USER_NOT_FOUND", "42704";
    /// A user of that name exists already.
    UserExists = "USER_EXISTS", "42710";
    /// The user still has rows.
    UserNotEmpty = "USER_NOT_EMPTY", "2BP01";
    /// Another writer changed the same row first.
    Conflict = "SERIALIZATION_FAILURE", "40001", retryable;
    /// BEGIN within a transaction.
    ActiveTransaction = "ACTIVE_TRANSACTION", "25001";
    /// A change within a READ ONLY transaction.
    ReadOnlyTransaction = "READ_ONLY_TRANSACTION", "25006";
    /// COMMIT, ROLLBACK or SAVEPOINT without a transaction.
    NoActiveTransaction = "NO_ACTIVE_TRANSACTION", "25P01";
    /// A statement after another one of its transaction failed.
    FailedTransaction = "IN_FAILED_TRANSACTION", "25P02";
    /// The transaction was left open for too long and was rolled back.
    TransactionTimeout = "TRANSACTION_TIMEOUT", "25P03";
    /// No savepoint of that name.
    SavepointNotFound = "SAVEPOINT_NOT_FOUND", "3B001";
    /// Input data (CSV, Parquet, JSON, Arrow) that cannot be read.
    InvalidData = "INVALID_DATA", "22000";
    /// The query needs more memory than its limit.
    OutOfMemory = "OUT_OF_MEMORY", "53200";
    /// The statement was cancelled by its caller.
    Cancelled = "CANCELLED", "57014";
    /// The statement ran into its time limit.
    Timeout = "TIMEOUT", "57014", retryable;
    /// Another engine owns the database.
    DatabaseLocked = "DATABASE_LOCKED", "55006", retryable;
    /// A database that is to be read is not there.
    DatabaseNotFound = "DATABASE_NOT_FOUND", "3D000";
    /// A database that is to be made new is there already.
    DatabaseExists = "DATABASE_EXISTS", "42P04";
    /// The connection or database is closed.
    Closed = "CONNECTION_CLOSED", "08003";
    /// The storage failed.
    StorageError = "STORAGE_ERROR", "58030", retryable;
    /// The storage connection was lost; the engine reopens it.
    StorageClosed = "STORAGE_CLOSED", "58000", retryable;
    /// No room left.
    QuotaExceeded = "QUOTA_EXCEEDED", "53100";
    /// A stored record fails its checksum or does not decode.
    DataCorrupted = "DATA_CORRUPTED", "XX001";
    /// The database was written by a later version than this one reads.
    UnsupportedFormat = "UNSUPPORTED_FORMAT", "58P01";
    /// A defect of the engine: please report it.
    Internal = "INTERNAL_ERROR", "XX000";
}

/// A place in the SQL text of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// An error of the engine; see the module's comment.
#[derive(Clone, PartialEq, Eq)]
pub struct KalamError(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    code: ErrorCode,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    position: Option<Position>,
}

impl KalamError {
    /// An error with a code and a message.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { code, message: message.into(), hint: None, position: None }))
    }

    /// A defect of the engine. `what` names the invariant that did not hold.
    pub fn internal(what: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Internal, format!("internal error: {what}"))
            .with_hint("This is a defect of KalamDB. Please report it with the statement that caused it.")
    }

    /// The same error with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error at a position of the SQL text.
    #[must_use]
    pub fn at(mut self, position: Option<Position>) -> Self {
        self.0.position = position.or(self.0.position);
        self
    }

    /// The same error without a position, for names that do not stand in a statement.
    #[must_use]
    pub fn without_position(mut self) -> Self {
        self.0.position = None;
        self
    }

    /// The same error with its message put after `context` and a colon.
    #[must_use]
    pub fn in_context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message).into();
        self
    }

    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// What was found and what was expected.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What would help, if known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Where in the SQL text, if known.
    pub fn position(&self) -> Option<Position> {
        self.0.position
    }
}

impl fmt::Display for KalamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code().as_str(), self.code().sqlstate(), self.message())?;
        if let Some(p) = self.position() {
            write!(f, " at line {}, column {}", p.line, p.column)?;
        }
        if let Some(hint) = self.hint() {
            write!(f, " (hint: {hint})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for KalamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for KalamError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_sqlstates_well_formed() {
        let names: HashSet<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert_eq!(code.sqlstate().len(), 5, "{code:?}");
            assert!(code.sqlstate().bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()));
        }
    }

    #[test]
    fn display_names_everything() {
        let e = KalamError::new(ErrorCode::TableNotFound, "table 'a.b' does not exist")
            .with_hint("did you mean 'a.c'?")
            .at(Some(Position { line: 1, column: 15 }));
        assert_eq!(
            e.to_string(),
            "TABLE_NOT_FOUND (42P01): table 'a.b' does not exist at line 1, column 15 (hint: did you mean 'a.c'?)"
        );
        assert!(!e.code().retryable());
        assert!(ErrorCode::Conflict.retryable());
    }
}
