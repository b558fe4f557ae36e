//! Options of a table, as in `CREATE TABLE … WITH (…)`.
//!
//! Invariant: what is here was checked: each option has a value it takes and stands on a type of table that knows it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::definition::TableType;
use crate::error::{ErrorCode, KalamError, Result};

/// When hot rows become a cold segment: at so many rows or after so many seconds, whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushPolicy {
    /// Rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Seconds since the last flush.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_seconds: Option<u64>,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self { rows: Some(10_000), interval_seconds: None }
    }
}

impl FlushPolicy {
    /// Reads `rows:N,interval:S`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut policy = Self { rows: None, interval_seconds: None };
        for part in text.split(',') {
            let value = part.split_once(':').and_then(|(name, n)| {
                let n = n.trim().parse::<u64>().ok().filter(|n| *n > 0)?;
                let slot = match name.trim().to_ascii_lowercase().as_str() {
                    "rows" => &mut policy.rows,
                    "interval" => &mut policy.interval_seconds,
                    _ => return None,
                };
                slot.replace(n).is_none().then_some(())
            });
            value.ok_or_else(|| {
                invalid("FLUSH_POLICY", text, "'rows:N', 'interval:SECONDS' or 'rows:N,interval:SECONDS'")
            })?;
        }
        Ok(policy)
    }
}

impl fmt::Display for FlushPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.rows, self.interval_seconds) {
            (Some(rows), Some(seconds)) => write!(f, "rows:{rows},interval:{seconds}"),
            (Some(rows), None) => write!(f, "rows:{rows}"),
            (None, Some(seconds)) => write!(f, "interval:{seconds}"),
            (None, None) => Ok(()),
        }
    }
}

/// Who may use a SHARED table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLevel {
    /// Every user.
    #[default]
    Public,
    /// Users with a role that may.
    Restricted,
    /// Administrators.
    Private,
}

impl AccessLevel {
    /// The name in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            AccessLevel::Public => "public",
            AccessLevel::Restricted => "restricted",
            AccessLevel::Private => "private",
        }
    }
}

/// The options of a table; each has a default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableOptions {
    /// FLUSH_POLICY: when rows become a segment.
    #[serde(default)]
    pub flush_policy: FlushPolicy,
    /// TTL_SECONDS: how long the events of a STREAM table live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// STORAGE_ID: the storage that holds the segments; `local` if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_id: Option<String>,
    /// DELETED_RETENTION_HOURS: how long deleted rows can be seen by `WHERE _deleted`; 7 days if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_retention_hours: Option<u64>,
    /// ACCESS_LEVEL: who may use a SHARED table.
    #[serde(default)]
    pub access_level: AccessLevel,
}

/// Every option's name.
const NAMES: &str = "FLUSH_POLICY, TTL_SECONDS, STORAGE_ID, DELETED_RETENTION_HOURS, ACCESS_LEVEL";

impl TableOptions {
    /// Hours that a deleted row is kept if the table does not say.
    pub const DEFAULT_DELETED_RETENTION_HOURS: u64 = 7 * 24;
    /// The storage of a table that does not name one.
    pub const DEFAULT_STORAGE: &'static str = "local";

    /// Sets an option from its name (in any case) and its value as text.
    pub fn set(&mut self, table_type: TableType, name: &str, value: &str) -> Result<()> {
        let number = |expected| match value.trim().parse::<u64>() {
            Ok(n) => Ok(n),
            Err(_) => Err(invalid(&name.to_ascii_uppercase(), value, expected)),
        };
        match name.to_ascii_uppercase().as_str() {
            "FLUSH_POLICY" => self.flush_policy = FlushPolicy::parse(value)?,
            "TTL_SECONDS" => self.ttl_seconds = Some(number("a number of seconds above 0")?),
            "STORAGE_ID" if value.trim().is_empty() => {
                return Err(invalid("STORAGE_ID", value, "the name of a storage"));
            }
            "STORAGE_ID" => self.storage_id = Some(value.trim().to_owned()),
            "DELETED_RETENTION_HOURS" => self.deleted_retention_hours = Some(number("a number of hours")?),
            "ACCESS_LEVEL" => {
                self.access_level = match value.trim().to_ascii_lowercase().as_str() {
                    "public" => AccessLevel::Public,
                    "restricted" => AccessLevel::Restricted,
                    "private" => AccessLevel::Private,
                    _ => return Err(invalid("ACCESS_LEVEL", value, "'public', 'restricted' or 'private'")),
                }
            }
            _ => {
                return Err(KalamError::new(
                    ErrorCode::InvalidOption,
                    format!("the table option '{name}' does not exist"),
                )
                .with_hint(format!("The options are {NAMES}.")));
            }
        }
        self.check_one(table_type, &name.to_ascii_uppercase())
    }

    /// Whether an option that was set may stand on such a table.
    fn check_one(&self, table_type: TableType, name: &str) -> Result<()> {
        let fits: &[TableType] = match name {
            "TTL_SECONDS" => &[TableType::Stream],
            "ACCESS_LEVEL" => &[TableType::Shared],
            _ => &[TableType::Shared, TableType::User],
        };
        if fits.contains(&table_type) {
            return Ok(());
        }
        let list: Vec<&str> = fits.iter().map(|t| t.as_str()).collect();
        Err(KalamError::new(
            ErrorCode::InvalidOption,
            format!("the option {name} does not apply to a {table_type} table, only to {}", list.join(" and ")),
        ))
    }

    /// Checks all options against the table's type.
    pub fn check(&self, table_type: TableType) -> Result<()> {
        let default = Self::default();
        let set = [
            ("FLUSH_POLICY", self.flush_policy != default.flush_policy),
            ("TTL_SECONDS", self.ttl_seconds.is_some()),
            ("STORAGE_ID", self.storage_id.is_some()),
            ("DELETED_RETENTION_HOURS", self.deleted_retention_hours.is_some()),
            ("ACCESS_LEVEL", self.access_level != default.access_level),
        ];
        for (name, _) in set.iter().filter(|(_, set)| *set) {
            self.check_one(table_type, name)?;
        }
        match (table_type, self.ttl_seconds) {
            (TableType::Stream, None) => {
                Err(KalamError::new(ErrorCode::InvalidOption, "a STREAM table needs the option TTL_SECONDS")
                    .with_hint("Write WITH (TTL_SECONDS = 3600)."))
            }
            (TableType::Stream, Some(0)) => Err(invalid("TTL_SECONDS", "0", "a number of seconds above 0")),
            _ => Ok(()),
        }
    }

    /// The options that differ from their defaults, as `NAME`, `value`, for SHOW and DESCRIBE.
    pub fn to_pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = Vec::new();
        let default = Self::default();
        if self.flush_policy != default.flush_policy {
            pairs.push(("FLUSH_POLICY", self.flush_policy.to_string()));
        }
        pairs.extend(self.ttl_seconds.map(|n| ("TTL_SECONDS", n.to_string())));
        pairs.extend(self.storage_id.clone().map(|id| ("STORAGE_ID", id)));
        pairs.extend(self.deleted_retention_hours.map(|n| ("DELETED_RETENTION_HOURS", n.to_string())));
        if self.access_level != default.access_level {
            pairs.push(("ACCESS_LEVEL", self.access_level.as_str().to_owned()));
        }
        pairs
    }
}

fn invalid(name: &str, value: &str, expected: &str) -> KalamError {
    KalamError::new(ErrorCode::InvalidOption, format!("the option {name} is '{value}', expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_read_what_they_write() {
        let mut options = TableOptions::default();
        for (name, value) in [
            ("flush_policy", "interval:60, rows:5"),
            ("STORAGE_ID", "opfs"),
            ("Deleted_Retention_Hours", "0"),
            ("ACCESS_LEVEL", "PRIVATE"),
        ] {
            options.set(TableType::Shared, name, value).unwrap();
        }
        assert_eq!(options.flush_policy, FlushPolicy { rows: Some(5), interval_seconds: Some(60) });
        let mut again = TableOptions::default();
        for (name, value) in options.to_pairs() {
            again.set(TableType::Shared, name, &value).unwrap();
        }
        assert_eq!(options, again);
        assert!(options.check(TableType::Shared).is_ok());
        assert!(options.check(TableType::User).is_err(), "ACCESS_LEVEL is for SHARED tables");
    }

    #[test]
    fn unknown_misplaced_and_malformed_options_are_errors() {
        for (ty, name, value) in [
            (TableType::Shared, "COLOUR", "red"),
            (TableType::Shared, "TTL_SECONDS", "5"),
            (TableType::Stream, "FLUSH_POLICY", "rows:5"),
            (TableType::User, "ACCESS_LEVEL", "public"),
            (TableType::Shared, "FLUSH_POLICY", "rows:0"),
            (TableType::Shared, "FLUSH_POLICY", "rows:5,rows:6"),
            (TableType::Shared, "FLUSH_POLICY", "rows=5"),
            (TableType::Shared, "FLUSH_POLICY", ""),
            (TableType::Stream, "TTL_SECONDS", "-1"),
            (TableType::Shared, "ACCESS_LEVEL", "secret"),
        ] {
            let error = TableOptions::default().set(ty, name, value).expect_err(name);
            assert_eq!(error.code(), ErrorCode::InvalidOption, "{name} {value}");
        }
        assert!(TableOptions::default().check(TableType::Stream).is_err());
    }
}
