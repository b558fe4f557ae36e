//! Queries of rows by the key, a range of it or an index alone that were run before: all that is left is to find the rows.
//!
//! What a run costs beside the lookup is mostly the code that it passes through, which is cold after every message from
//! the host. Invariant: [`SqlExecutor::point_get`] gives what running the query gives, or declines and has changed
//! nothing. So it serves a text only after the text has run, for the same catalog and namespace; it reads as the same
//! scan would; and it leaves to a run every session whose role has to be looked up or that has a transaction open, every
//! parameter that is not of its column's own kind, and all rows that are not known at once (`tables/point.rs`).

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
use parking_lot::Mutex;

use super::executor::{Session, SqlExecutor};
use super::packed;
use super::params::Params;
use super::plan_cache::{KeptLookup, Origin};
use super::session::SessionRole;
use super::short_path::{column_name, index_of, is_of_kind};
use super::statement_cache::placeholder;
use crate::error::Result;
use crate::schema::{ColumnDefinition, IndexDefinition, TableDefinition, check_user_name};
use crate::tables::{IndexCodec, IndexRange, KeySpec, Keys, KnownRows};
use crate::types::{ColumnBuilder, KalamDataType, KeyCodec, Value};

/// What is kept with a text; see the module's comment.
#[derive(Debug, Default)]
pub struct KnownSlot(Mutex<Option<Arc<KnownQuery>>>);

/// A query of rows by their keys, as far as it is the same for all keys.
#[derive(Debug)]
struct KnownQuery {
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
    wanted: Wanted,
}

/// What WHERE says of the key, by the places of parameters.
#[derive(Debug)]
enum Wanted {
    /// It is equal to parameters: one for each of its columns.
    Equal(Vec<usize>),
    /// Its one column is between two, or not on the wrong side of one; with each whether it may be equal to it.
    Between { from: Option<(usize, bool)>, to: Option<(usize, bool)> },
    /// Nothing of the key: the first columns of an index are equal to parameters.
    Indexed { index: Arc<IndexDefinition>, codec: IndexCodec, columns: Vec<(ColumnDefinition, usize)> },
}

impl Wanted {
    /// How many parameters it takes.
    fn parameters(&self) -> usize {
        match self {
            Wanted::Equal(places) => places.len(),
            Wanted::Between { from, to } => usize::from(from.is_some()) + usize::from(to.is_some()),
            Wanted::Indexed { columns, .. } => columns.len(),
        }
    }

    /// The keys that it asks for; `None` if a value is not of its column's own kind.
    fn keys(&self, values: &[Value], codec: &KeyCodec) -> Option<Keys> {
        let encoded = |places: &[usize]| {
            let value = |(place, data_type): (&usize, &KalamDataType)| {
                values.get(*place).filter(|value| is_of_kind(value, data_type)).cloned()
            };
            let values: Vec<Value> = places.iter().zip(codec.types()).map(value).collect::<Option<_>>()?;
            let mut key = Vec::new();
            codec.encode_values(&values, &mut key).ok().map(|()| key)
        };
        // No key begins with another one, so a zero behind it leads past it and to none before the next.
        let bound = |(place, past): (usize, bool)| {
            let mut key = encoded(&[place])?;
            key.extend(past.then_some(0));
            Some(key)
        };
        Some(match self {
            Wanted::Equal(places) => Keys::One(encoded(places)?),
            Wanted::Between { from, to } => Keys::Range(IndexRange {
                from: from.map_or(Some(Vec::new()), |(place, equal)| bound((place, !equal)))?,
                to: match to {
                    Some((place, equal)) => Some(bound((*place, *equal))?),
                    None => None,
                },
            }),
            Wanted::Indexed { index, codec, columns } => {
                let mut prefix = Vec::new();
                for (place, (column, parameter)) in columns.iter().enumerate() {
                    let value = values.get(*parameter).filter(|value| is_of_kind(value, &column.data_type))?;
                    let mut one = ColumnBuilder::new(&column.data_type, &column.name, 1);
                    one.append(value).ok()?;
                    codec.encode_column(place, &one.finish(), 0, &mut prefix).ok()?;
                }
                Keys::Index(Arc::clone(index), IndexRange::prefix(prefix))
            }
        })
    }
}

/// What a query of rows by their keys gave.
#[derive(Debug)]
pub struct PointRows {
    lookup: Arc<KeptLookup>,
    found: KnownRows,
}

impl PointRows {
    /// The names and types of its columns: the same object for every run of a text.
    pub fn schema(&self) -> &arrow::datatypes::SchemaRef {
        self.lookup.format.schema()
    }

    /// The rows as `packed.rs` lays them, if there are any; their columns are of these types.
    pub fn pack(&self, types: &[KalamDataType]) -> Result<Option<Vec<u8>>> {
        if self.found.is_empty() {
            return Ok(None);
        }
        let parts: Vec<_> = self.found.parts().collect();
        packed::encode_parts(types, &parts).map(Some)
    }
}

impl SqlExecutor {
    /// The rows that a query names by their keys; `None` if the query has to be run. `params` are asked for only if the
    /// text is such a query.
    pub fn point_get(
        &self,
        session: &Session,
        sql: &str,
        params: impl FnOnce() -> Option<Params>,
    ) -> Option<PointRows> {
        let SessionRole::Given(role) = session.role_source() else { return None };
        let text = self.statement_cache().find_text(sql)?;
        let query = text.point.0.lock().clone()?;
        let Known { lookup, key, wanted } = query.known.as_ref()?;
        let is_valid = query.catalog == self.registry().catalog_version() && query.namespace == session.namespace();
        if !is_valid || session.transaction().is_used() {
            return None;
        }
        let values = match params()? {
            Params::Positional(values) if values.len() == wanted.parameters() => values,
            _ => return None,
        };
        check_user_name(session.user()).ok()?;
        let keys = wanted.keys(&values, key.codec())?;
        let found = lookup.scan.known_rows(session.user(), role, key, &keys)?;
        self.count_point_get();
        Some(PointRows { lookup: Arc::clone(lookup), found })
    }
}

/// Whether what is kept with a text is of a catalog and a namespace.
pub fn is_kept(origin: Origin<'_>, catalog: u64, namespace: &Arc<str>) -> bool {
    let slot = origin.text.point.0.lock();
    slot.as_ref().is_some_and(|kept| kept.catalog == catalog && kept.namespace == *namespace)
}

/// Keeps what a query that was run needs to be answered at once the next time.
pub fn keep(
    origin: Origin<'_>,
    namespace: Arc<str>,
    (lookup, definition): (&Arc<KeptLookup>, &TableDefinition),
    (selection, alias): (&Expr, &str),
) -> Result<()> {
    let alone = origin.text.statements.len() == 1 && origin.parsed().query().is_some();
    let served = alone && lookup.scan.knows_rows() && lookup.format.takes(&lookup.scan);
    let known = match served.then(|| wanted_of(selection, alias, definition)).flatten() {
        Some(wanted) => Some(Known { lookup: Arc::clone(lookup), key: KeySpec::new(definition)?, wanted }),
        None => None,
    };
    *origin.text.point.0.lock() = Some(Arc::new(KnownQuery { catalog: lookup.catalog, namespace, known }));
    Ok(())
}

/// Keeps that a query has to be run each time.
pub fn keep_none(origin: Origin<'_>, catalog: u64, namespace: Arc<str>) {
    *origin.text.point.0.lock() = Some(Arc::new(KnownQuery { catalog, namespace, known: None }));
}

/// What WHERE says of the key, if that is all that it says.
fn wanted_of(selection: &Expr, alias: &str, definition: &TableDefinition) -> Option<Wanted> {
    let mut terms = Vec::new();
    compared(selection, alias, &mut terms)?;
    let key: Vec<&str> = definition
        .primary_key
        .iter()
        .map(|id| Some(definition.column_by_id(*id)?.name.as_str()))
        .collect::<Option<_>>()?;
    // As many parameters as there are comparisons, each in one of them.
    let is_one = |place| terms.iter().any(|(_, _, of)| *of == place);
    if !(0..terms.len()).all(is_one) {
        return None;
    }
    if terms.iter().all(|(_, op, _)| *op == BinaryOperator::Eq) {
        let place = |name: &&str| terms.iter().find(|(column, _, _)| column == name).map(|(_, _, place)| *place);
        let places: Option<Vec<usize>> = key.iter().map(place).collect();
        return match places.filter(|_| !key.is_empty() && terms.len() == key.len()) {
            Some(places) => Some(Wanted::Equal(places)),
            None => indexed(&terms, definition),
        };
    }
    let [only] = key.as_slice() else { return None };
    let (mut from, mut to) = (None, None);
    for (column, op, place) in &terms {
        let (side, equal) = match op {
            BinaryOperator::Gt => (&mut from, false),
            BinaryOperator::GtEq => (&mut from, true),
            BinaryOperator::Lt => (&mut to, false),
            BinaryOperator::LtEq => (&mut to, true),
            _ => return None,
        };
        if column != only || side.replace((*place, equal)).is_some() {
            return None;
        }
    }
    Some(Wanted::Between { from, to })
}

/// The index whose first columns are pinned, as `short_path.rs` chooses it.
fn indexed(terms: &[Term], definition: &TableDefinition) -> Option<Wanted> {
    let mut pins = Vec::with_capacity(terms.len());
    for (name, _, place) in terms {
        pins.push((definition.column(name)?, *place));
    }
    let ids: Vec<u32> = pins.iter().map(|(column, _)| column.column_id).collect();
    let index = index_of(definition, &ids)?;
    let pinned = index.columns[..pins.len()].iter().map(|part| {
        let (column, place) = pins.iter().find(|(column, _)| column.column_id == part.column_id)?;
        Some(((*column).clone(), *place))
    });
    let columns = pinned.collect::<Option<_>>()?;
    Some(Wanted::Indexed { codec: IndexCodec::new(definition, index).ok()?, index: Arc::new(index.clone()), columns })
}

/// A column, the operator that stands after it, and the place of the parameter that it is compared with.
type Term = (String, BinaryOperator, usize);

/// Whether an expression is nothing but comparisons of columns with parameters.
pub fn is_range(selection: &Expr, alias: &str) -> bool {
    let mut terms = Vec::new();
    compared(selection, alias, &mut terms).is_some() && terms.iter().any(|(_, op, _)| *op != BinaryOperator::Eq)
}

/// Collects what columns are compared with.
fn compared(expr: &Expr, alias: &str, terms: &mut Vec<Term>) -> Option<()> {
    let place = |constant: &Expr| placeholder(constant)?.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1);
    match expr {
        Expr::Nested(inner) => compared(inner, alias, terms),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            compared(left, alias, terms)?;
            compared(right, alias, terms)
        }
        Expr::Between { expr, negated: false, low, high } => {
            let column = column_name(expr, alias)?;
            terms.push((column.clone(), BinaryOperator::GtEq, place(low)?));
            terms.push((column, BinaryOperator::LtEq, place(high)?));
            Some(())
        }
        Expr::BinaryOp { left, op, right } => {
            let term = match (column_name(left, alias), op) {
                (Some(column), op) => (column, op.clone(), place(right)?),
                (None, op) => (column_name(right, alias)?, turned(op)?, place(left)?),
            };
            terms.push(term);
            Some(())
        }
        _ => None,
    }
}

/// The operator that says the same with its sides changed.
fn turned(op: &BinaryOperator) -> Option<BinaryOperator> {
    Some(match op {
        BinaryOperator::Eq => BinaryOperator::Eq,
        BinaryOperator::Gt => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::LtEq,
        BinaryOperator::Lt => BinaryOperator::Gt,
        BinaryOperator::LtEq => BinaryOperator::GtEq,
        _ => return None,
    })
}
