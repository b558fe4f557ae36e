//! Queries of one row by its whole key that were run before: all that is left to do is to look the row up.
//!
//! What a run costs beside the lookup is mostly the code that it passes through, which is cold after every message from
//! the host. Invariant: [`SqlExecutor::point_get`] gives what running the query gives, or declines and has changed
//! nothing. So it serves a text only after `short_path.rs` has run it, for the same catalog and namespace; it looks the
//! row up in the same scan; and it leaves to that path every session whose role has to be looked up or that has a
//! transaction open, every parameter that is not of its column's own kind, and every key that it does not know at once
//! (`tables/point.rs`).

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
use parking_lot::Mutex;

use super::executor::{Session, SqlExecutor};
use super::packed;
use super::params::Params;
use super::plan_cache::{KeptLookup, Origin};
use super::session::SessionRole;
use super::short_path::{column_name, is_of_kind};
use super::statement_cache::placeholder;
use crate::error::Result;
use crate::schema::{TableDefinition, check_user_name};
use crate::tables::{KeySpec, Point, PointRow};
use crate::types::{KalamDataType, Value};

/// What is kept with a text; see the module's comment.
#[derive(Debug, Default)]
pub struct PointSlot(Mutex<Option<Arc<PointGet>>>);

/// A query of one row, as far as it is the same for all keys.
#[derive(Debug)]
struct PointGet {
    /// The catalog and the namespace that the table was found in.
    catalog: u64,
    namespace: Arc<str>,
    /// `None` if the query is another one.
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    lookup: Arc<KeptLookup>,
    key: KeySpec,
    /// For each column of the key the place of its parameter.
    parameters: Vec<usize>,
}

/// What a query of one row gave.
#[derive(Debug)]
pub struct PointRows {
    lookup: Arc<KeptLookup>,
    found: Option<PointRow>,
}

impl PointRows {
    /// The names and types of its columns: the same object for every run of a text.
    pub fn schema(&self) -> &arrow::datatypes::SchemaRef {
        self.lookup.format.schema()
    }

    /// The row as `packed.rs` lays it, if there is one; its columns are of these types.
    pub fn pack(&self, types: &[KalamDataType]) -> Result<Option<Vec<u8>>> {
        self.found.as_ref().map(|found| packed::encode_row(&found.columns, found.row, types)).transpose()
    }
}

impl SqlExecutor {
    /// The row that a query names by its key; `None` if the query has to be run. `params` are asked for only if the text
    /// is such a query.
    pub fn point_get(
        &self,
        session: &Session,
        sql: &str,
        params: impl FnOnce() -> Option<Params>,
    ) -> Option<PointRows> {
        let SessionRole::Given(role) = session.role_source() else { return None };
        let text = self.statement_cache().find_text(sql)?;
        let point = text.point.0.lock().clone()?;
        let known = point.known.as_ref()?;
        let is_valid = point.catalog == self.registry().catalog_version() && point.namespace == session.namespace();
        let types = known.key.codec().types();
        if !is_valid || session.transaction().is_used() {
            return None;
        }
        let values = match params()? {
            Params::Positional(values) if values.len() == types.len() => values,
            _ => return None,
        };
        check_user_name(session.user()).ok()?;
        let value = |(place, data_type): (&usize, &KalamDataType)| {
            values.get(*place).filter(|value| is_of_kind(value, data_type))
        };
        let mut encoded = Vec::new();
        match known.parameters.as_slice() {
            [place] => {
                let value = value((place, &types[0]))?;
                known.key.codec().encode_values(std::slice::from_ref(value), &mut encoded).ok()?;
            }
            places => {
                let values = places.iter().zip(types).map(|of| value(of).cloned());
                let values: Vec<Value> = values.collect::<Option<_>>()?;
                known.key.codec().encode_values(&values, &mut encoded).ok()?;
            }
        }
        let found = match known.lookup.scan.point(session.user(), role, &known.key, &encoded) {
            Point::Row(row) => Some(row),
            Point::Missing => None,
            Point::Unknown => return None,
        };
        self.count_point_get();
        Some(PointRows { lookup: Arc::clone(&known.lookup), found })
    }
}

/// Keeps what a query that was run needs to be answered at once the next time.
pub fn keep(
    origin: Origin<'_>,
    catalog: u64,
    namespace: Arc<str>,
    (lookup, definition): (&Arc<KeptLookup>, &TableDefinition),
    (selection, alias): (&Expr, &str),
) -> Result<()> {
    let mut slot = origin.text.point.0.lock();
    if slot.as_ref().is_some_and(|kept| kept.catalog == catalog && kept.namespace == namespace) {
        return Ok(());
    }
    let alone = origin.text.statements.len() == 1 && origin.parsed().query().is_some();
    let served = alone && lookup.scan.knows_points() && lookup.format.takes(&lookup.scan);
    let known = match served.then(|| parameters_of(selection, alias, definition)).flatten() {
        Some(parameters) => Some(Known { lookup: Arc::clone(lookup), key: KeySpec::new(definition)?, parameters }),
        None => None,
    };
    *slot = Some(Arc::new(PointGet { catalog, namespace, known }));
    Ok(())
}

/// For each column of the key the place of the parameter that it is equal to, if that is all that is asked for.
fn parameters_of(selection: &Expr, alias: &str, definition: &TableDefinition) -> Option<Vec<usize>> {
    let mut pins = Vec::new();
    pinned(selection, alias, &mut pins)?;
    let key = &definition.primary_key;
    let place = |id: &u32| {
        let name = &definition.column_by_id(*id)?.name;
        pins.iter().find(|(column, _)| column == name).map(|(_, place)| *place)
    };
    let places: Vec<usize> = key.iter().map(place).collect::<Option<_>>()?;
    // As many parameters as columns, each for one of them.
    let all = (0..key.len()).all(|place| places.contains(&place));
    (!key.is_empty() && pins.len() == key.len() && all).then_some(places)
}

fn pinned(expr: &Expr, alias: &str, pins: &mut Vec<(String, usize)>) -> Option<()> {
    match expr {
        Expr::Nested(inner) => pinned(inner, alias, pins),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            pinned(left, alias, pins)?;
            pinned(right, alias, pins)
        }
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            let (name, constant) = match column_name(left, alias) {
                Some(name) => (name, right),
                None => (column_name(right, alias)?, left),
            };
            let number: usize = placeholder(constant)?.strip_prefix('$')?.parse().ok()?;
            pins.push((name, number.checked_sub(1)?));
            Some(())
        }
        _ => None,
    }
}
