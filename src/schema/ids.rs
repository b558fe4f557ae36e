//! Names of tables and namespaces.
//!
//! Invariant: a name holds no control character, so NUL can stand between the parts of a stored key, and the order
//! of the keys is the order of the names.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, KalamError, Result};

/// The namespace of tables that are named without one.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Namespaces that the engine owns.
pub const RESERVED_NAMESPACES: &[&str] =
    &["information_schema", "kalam", "kalamdb", "pg_catalog", "pg_toast", "system"];

/// Columns that the engine owns: they exist in every table and appear only when named.
pub const RESERVED_COLUMNS: &[&str] = &["_seq", "_deleted", "_rowid"];

/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// Whether a namespace belongs to the engine, so that people cannot create tables in it.
pub fn is_reserved_namespace(name: &str) -> bool {
    RESERVED_NAMESPACES.iter().any(|r| r.eq_ignore_ascii_case(name)) || has_prefix(name, "pg_")
}

/// Whether a column name belongs to the engine: its own columns, and everything that starts with `_kalam`.
pub fn is_reserved_column(name: &str) -> bool {
    RESERVED_COLUMNS.iter().any(|r| r.eq_ignore_ascii_case(name)) || has_prefix(name, "_kalam")
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Checks a name; `what` says of what, for the message.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let wrong = |found: String| Err(KalamError::new(ErrorCode::InvalidName, format!("the {what} name {found}")));
    if name.is_empty() {
        return wrong("is empty".into());
    }
    if name.len() > MAX_NAME_BYTES {
        let start: String = name.chars().take(40).collect();
        return wrong(format!("'{start}…' has {} bytes, expected at most {MAX_NAME_BYTES}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return wrong(format!("{name:?} has a control character"));
    }
    Ok(())
}

/// The name of a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "(String, String)", from = "(String, String)")]
pub struct TableId {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The table's name in it.
    pub table: Arc<str>,
}

impl TableId {
    /// The name from its parts.
    pub fn new(namespace: impl Into<Arc<str>>, table: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), table: table.into() }
    }

    /// Key bytes: the namespace, NUL, the table.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut key = namespace_prefix(&self.namespace);
        key.extend_from_slice(self.table.as_bytes());
        key
    }

    /// Checks both names.
    pub fn check(&self) -> Result<()> {
        check_name("namespace", &self.namespace)?;
        check_name("table", &self.table)
    }
}

/// First key bytes of all tables of a namespace.
pub(super) fn namespace_prefix(namespace: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(namespace.len() + 24);
    key.extend_from_slice(namespace.as_bytes());
    key.push(0);
    key
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.namespace, self.table)
    }
}

impl From<(String, String)> for TableId {
    fn from((namespace, table): (String, String)) -> Self {
        Self::new(namespace, table)
    }
}

impl From<TableId> for (String, String) {
    fn from(id: TableId) -> Self {
        (id.namespace.as_ref().to_owned(), id.table.as_ref().to_owned())
    }
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceDefinition {
    /// Its name.
    pub name: String,
    /// When it was created, in milliseconds since the epoch.
    pub created_at_ms: u64,
    /// Who created it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
}

impl NamespaceDefinition {
    /// A namespace that can be created: its name is valid and not reserved.
    pub fn new(name: &str, now_ms: u64, by: &str) -> Result<Self> {
        check_name("namespace", name)?;
        if is_reserved_namespace(name) {
            return Err(KalamError::new(ErrorCode::InvalidName, format!("the namespace name '{name}' is reserved")));
        }
        Ok(Self { name: name.to_owned(), created_at_ms: now_ms, created_by: by.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_names_do() {
        let mut ids: Vec<TableId> =
            [("b", "a"), ("a", "z"), ("a", "b"), ("ab", "a"), ("a b", "c")].map(|(n, t)| TableId::new(n, t)).into();
        ids.sort();
        let keys: Vec<_> = ids.iter().map(TableId::encode).collect();
        assert!(keys.is_sorted());
        let of_a = ids.iter().filter(|id| id.encode().starts_with(&namespace_prefix("a"))).count();
        assert_eq!(of_a, 2);
    }

    #[test]
    fn reserved_and_malformed_names_are_refused() {
        for name in ["system", "SYSTEM", "pg_anything", "information_schema", "kalam"] {
            assert_eq!(NamespaceDefinition::new(name, 0, "").expect_err(name).code(), ErrorCode::InvalidName);
        }
        for name in ["", "a\0b", "tab\tname", &"x".repeat(256)] {
            assert_eq!(check_name("table", name).expect_err(name).code(), ErrorCode::InvalidName);
        }
        assert!(check_name("table", "Odd Name, with ünïcode").is_ok());
        assert!(is_reserved_column("_SEQ") && is_reserved_column("_kalam_x") && !is_reserved_column("_sequence"));
    }
}
