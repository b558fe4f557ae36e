//! Type names in SQL text, of PostgreSQL, MySQL and SQLite, and the column type each one means.
//!
//! Invariant: there is one reading of a type name. The parser's syntax tree is turned back into its text and read by
//! the same function as a stored name, so a name means the same in a statement, in the catalog and in a file.

use datafusion::sql::sqlparser::ast;

use super::data_type::KalamDataType;
use crate::error::{ErrorCode, KalamError, Result};

/// The names shown when a type is not known.
pub(super) const KNOWN: &str = "BOOLEAN, SMALLINT, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p,s), TEXT, BYTES, JSON, UUID, TIMESTAMP, DATETIME, DATE, TIME, \
     EMBEDDING(n), FILE";

/// A DECIMAL without precision. PostgreSQL's has no limit, MySQL's has no fraction; this one has the most digits
/// there are and room for a fraction.
const DEFAULT_DECIMAL: KalamDataType = KalamDataType::Decimal { precision: 38, scale: 10 };

impl KalamDataType {
    /// The type that a type name in a statement means; the error lists the known names.
    ///
    /// Lengths, as in VARCHAR(20), are read and not enforced. SERIAL types are BIGINT, because the ids they stand
    /// for (SNOWFLAKE_ID) have 64 bits. DECIMAL without a precision is DECIMAL(38,10).
    pub fn from_sql(t: &ast::DataType) -> Result<Self> {
        Self::parse(&t.to_string())
    }

    /// Whether a type name is one of SERIAL's: a BIGINT column with DEFAULT SNOWFLAKE_ID().
    pub fn is_serial(t: &ast::DataType) -> bool {
        let name = t.to_string().to_ascii_uppercase();
        matches!(name.as_str(), "SERIAL" | "SERIAL2" | "SERIAL4" | "SERIAL8" | "SMALLSERIAL" | "BIGSERIAL")
    }

    /// The type of a name: the inverse of [`KalamDataType::sql_name`], and every alias, in any case.
    pub fn parse(name: &str) -> Result<Self> {
        let unknown = || {
            let error = KalamError::new(ErrorCode::TypeNotFound, format!("the type '{}' does not exist", name.trim()));
            let upper = name.to_ascii_uppercase();
            if name.contains('[')
                || upper.starts_with("ARRAY")
                || upper.starts_with("LIST")
                || upper.starts_with("STRUCT")
                || upper.starts_with("MAP")
            {
                return error.with_hint(format!(
                    "Use JSON for arrays and objects, EMBEDDING(n) for vectors. The types are {KNOWN}."
                ));
            }
            error.with_hint(format!("The types are {KNOWN}."))
        };
        let (base, args) = split(name).ok_or_else(unknown)?;
        let number = |at: usize| args.get(at).map(|a| a.parse::<i64>().map_err(|_| unknown())).transpose();
        let plain = |ty: Self| if args.is_empty() { Ok(ty) } else { Err(unknown()) };
        // A type that takes a length or precision which makes no difference here.
        let sized = |ty: Self| match args.as_slice() {
            [] => Ok(ty),
            [one]
                if one.eq_ignore_ascii_case("MAX")
                    || one.split(' ').next().is_some_and(|n| n.parse::<u64>().is_ok()) =>
            {
                Ok(ty)
            }
            _ => Err(unknown()),
        };
        match base.as_str() {
            "BOOLEAN" | "BOOL" => plain(Self::Boolean),
            "SMALLINT" | "INT2" | "INT16" | "TINYINT" | "TINYINT UNSIGNED" | "UTINYINT" | "UINT8" => {
                sized(Self::SmallInt)
            }
            "INT" | "INTEGER" | "INT4" | "INT32" | "MEDIUMINT" | "MEDIUMINT UNSIGNED" | "SMALLINT UNSIGNED"
            | "INT2 UNSIGNED" | "USMALLINT" | "UINT16" => sized(Self::Int),
            "BIGINT" | "INT8" | "INT64" | "INT UNSIGNED" | "INTEGER UNSIGNED" | "INT4 UNSIGNED" | "UINTEGER"
            | "UINT32" | "SIGNED" | "SIGNED INTEGER" => sized(Self::BigInt),
            "SERIAL" | "SERIAL2" | "SERIAL4" | "SERIAL8" | "SMALLSERIAL" | "BIGSERIAL" => plain(Self::BigInt),
            "BIGINT UNSIGNED" | "INT8 UNSIGNED" | "UBIGINT" | "UINT64" | "UNSIGNED" | "UNSIGNED INTEGER" => {
                sized(Self::Decimal { precision: 20, scale: 0 })
            }
            "HUGEINT" | "INT128" => plain(Self::Decimal { precision: 38, scale: 0 }),
            "REAL" | "FLOAT4" | "FLOAT32" | "REAL UNSIGNED" => plain(Self::Float),
            "FLOAT" | "FLOAT UNSIGNED" => match number(0)? {
                // FLOAT(p) counts bits, as in SQL; FLOAT(m,d) is MySQL's.
                Some(p) if args.len() == 1 && !(1..=53).contains(&p) => Err(unknown()),
                Some(p) if args.len() == 1 && p > 24 => Ok(Self::Double),
                _ if args.len() <= 2 => Ok(Self::Float),
                _ => Err(unknown()),
            },
            "DOUBLE" | "DOUBLE UNSIGNED" | "DOUBLE PRECISION" | "DOUBLE PRECISION UNSIGNED" | "FLOAT8" | "FLOAT64"
                if args.len() <= 2 =>
            {
                Ok(Self::Double)
            }
            "DECIMAL" | "NUMERIC" | "DEC" | "DECIMAL UNSIGNED" | "DEC UNSIGNED" | "NUMERIC UNSIGNED" | "BIGDECIMAL"
            | "BIGNUMERIC" | "NUMBER" | "FIXED" => match (number(0)?, number(1)?) {
                (None, _) => Ok(DEFAULT_DECIMAL),
                (Some(p), s) if args.len() <= 2 => Self::decimal(u64::try_from(p).unwrap_or(0), s.unwrap_or(0)),
                _ => Err(unknown()),
            },
            "TEXT"
            | "TINYTEXT"
            | "MEDIUMTEXT"
            | "LONGTEXT"
            | "VARCHAR"
            | "CHARACTER VARYING"
            | "CHAR VARYING"
            | "NVARCHAR"
            | "CHAR"
            | "CHARACTER"
            | "NCHAR"
            | "BPCHAR"
            | "STRING"
            | "FIXEDSTRING"
            | "CLOB"
            | "CHARACTER LARGE OBJECT"
            | "CHAR LARGE OBJECT"
            | "UTF8"
            | "NATIONAL CHARACTER VARYING"
            | "NATIONAL CHARACTER"
            | "VARCHAR2"
            | "NAME" => sized(Self::Text),
            "BYTES" | "BYTEA" | "BLOB" | "TINYBLOB" | "MEDIUMBLOB" | "LONGBLOB" | "BINARY" | "VARBINARY" => {
                sized(Self::Bytes)
            }
            "JSON" | "JSONB" => plain(Self::Json),
            "UUID" | "GUID" | "UNIQUEIDENTIFIER" => plain(Self::Uuid),
            "FILE" => plain(Self::File),
            "TIMESTAMP" | "TIMESTAMP WITHOUT TIME ZONE" | "TIMESTAMP_NTZ" | "TIMESTAMPNTZ" => sized(Self::Timestamp),
            "DATETIME"
            | "TIMESTAMPTZ"
            | "TIMESTAMP WITH TIME ZONE"
            | "TIMESTAMP_TZ"
            | "DATETIME64"
            | "DATETIME2"
            | "DATETIMEOFFSET" => sized(Self::DateTime),
            "DATE" | "DATE32" => plain(Self::Date),
            "TIME" | "TIME WITHOUT TIME ZONE" => sized(Self::Time),
            "EMBEDDING" | "VECTOR" => match (number(0)?, args.len()) {
                (Some(n), 1) => Self::embedding(u32::try_from(n).unwrap_or(0)),
                _ => Err(KalamError::new(
                    ErrorCode::TypeNotFound,
                    format!("the type '{}' lacks its dimension", name.trim()),
                )
                .with_hint("Write EMBEDDING(n), for example EMBEDDING(384).")),
            },
            _ => Err(unknown()),
        }
    }
}

/// A type name as its words, in upper case, and the arguments in its one pair of parentheses, wherever that stands:
/// `CHARACTER VARYING(20)`, `TIMESTAMP(3) WITH TIME ZONE`.
fn split(name: &str) -> Option<(String, Vec<String>)> {
    let mut base = name.to_ascii_uppercase();
    let mut args = Vec::new();
    if let Some(open) = base.find('(') {
        let close = open + base[open..].find(')')?;
        args = base[open + 1..close].split(',').map(|a| a.trim().to_owned()).collect();
        if args.iter().any(String::is_empty) {
            return None;
        }
        base.replace_range(open..=close, " ");
    }
    if base.contains(['(', ')']) {
        return None;
    }
    let words: Vec<&str> = base.split_ascii_whitespace().collect();
    Some((words.join(" "), args))
}
