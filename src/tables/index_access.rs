//! Which index a scan reads through, and which part of it.
//!
//! The rule: the primary key, where filters pin it (`key_pins.rs`), goes before any index; then a unique index all of
//! whose columns are pinned, then the index with the most pinned columns from its first on, then one with a range on
//! its first column. The primary key, as far as it is pinned or has a range, is the last of those that are as good. A column is pinned by `=`, IN or IS NULL; the column after the last pinned one may have a range.
//! Invariant: the ranges hold every row that the filters let through, so the filters can stay above the scan and have
//! the last word. Values that are not of the column's own type are left to the filters.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::common::{Column, DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator};

use super::index::{IndexCodec, IndexRange, successor};
use super::key_pins::pinned_keys;
use super::key_spec::KeySpec;
use crate::error::{KalamError, Result};
use crate::schema::{ColumnDefinition, IndexDefinition, TableDefinition};
use crate::types::KalamDataType;

/// At most so many ranges of an index are read; filters with more are scanned for.
const MAX_RANGES: usize = 1000;

/// A part of an index, or of the primary key.
#[derive(Debug, Clone)]
pub struct IndexAccess {
    /// The index.
    pub index: IndexDefinition,
    /// The ranges, ascending and apart.
    pub ranges: Vec<IndexRange>,
    /// Whether rows come in the index's order: `Some(true)` is against it.
    pub order: Option<bool>,
    /// How many columns are pinned to one value.
    pub pinned: usize,
    /// The ranges in words.
    shown: String,
}

impl fmt::Display for IndexAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "using {}", self.index.name)?;
        if !self.shown.is_empty() {
            write!(f, ", range=[{}]", self.shown)?;
        }
        match self.order {
            Some(false) => write!(f, ", order=forward"),
            Some(true) => write!(f, ", order=backward"),
            None => Ok(()),
        }
    }
}

/// How a scan finds the rows that filters leave; all of them are read if it has neither.
#[derive(Debug)]
pub struct ScanPath {
    /// Encoded keys, if the filters pin the whole key.
    pub keys: Option<Arc<[Vec<u8>]>>,
    /// Else the part of an index.
    pub index: Option<Arc<IndexAccess>>,
}

impl ScanPath {
    /// The best path; see the module's comment.
    pub fn of(definition: &TableDefinition, key: &KeySpec, filters: &[Expr]) -> DfResult<Self> {
        let keys = pinned_keys(definition, key, filters)?;
        let index = match keys {
            Some(_) => None,
            None => IndexAccess::choose(definition, filters).map_err(|e| DataFusionError::External(Box::new(e)))?,
        };
        Ok(Self { keys: keys.map(Arc::from), index: index.map(Arc::new) })
    }
}

/// What a filter says about a column.
#[derive(Debug, Clone)]
enum Test {
    /// It has one of these values; `None` is NULL.
    Pinned(Vec<Option<ScalarValue>>),
    /// It is above a value, or not below it.
    Above(ScalarValue, bool),
    /// It is below a value, or not above it.
    Below(ScalarValue, bool),
}

/// Whether a filter says something about the column of an index.
pub fn is_useful(definition: &TableDefinition, filter: &Expr) -> bool {
    let indexed = |c: &&ColumnDefinition| definition.indexes.iter().any(|i| i.has(c.column_id));
    definition.columns_in_order().filter(indexed).any(|column| !tests(filter, column).is_empty())
}

/// How good an index is: unique and all of it pinned, columns pinned, a range after them.
type Rank = (bool, usize, bool);

impl IndexAccess {
    /// The part of the best index that filters leave; `None` if no index helps.
    pub fn choose(definition: &TableDefinition, filters: &[Expr]) -> Result<Option<Self>> {
        let mut best: Option<(Rank, Self)> = None;
        let key = definition.key_as_index();
        for index in definition.indexes.iter().chain(&key) {
            let Some((rank, access)) = Self::of(definition, index, filters)? else { continue };
            if best.as_ref().is_none_or(|(other, _)| rank > *other) {
                best = Some((rank, access));
            }
        }
        Ok(best.map(|(_, access)| access))
    }

    fn of(definition: &TableDefinition, index: &IndexDefinition, filters: &[Expr]) -> Result<Option<(Rank, Self)>> {
        let codec = IndexCodec::new(definition, index)?;
        let mut prefixes = vec![Vec::new()];
        let (mut columns, mut pinned) = (0, 0);
        let (mut shown, mut range) = (Vec::new(), None);
        for (place, part) in index.columns.iter().enumerate() {
            let Some(column) = definition.column_by_id(part.column_id) else { return Ok(None) };
            let found: Vec<Test> = filters.iter().flat_map(|filter| tests(filter, column)).collect();
            let pins = found.iter().find_map(|test| match test {
                Test::Pinned(values) => Some(values),
                _ => None,
            });
            let Some(values) = pins else {
                range = bounds(&codec, place, column, &found, &mut shown)?;
                break;
            };
            if prefixes.len().saturating_mul(values.len()) > MAX_RANGES {
                break;
            }
            let mut longer = Vec::with_capacity(prefixes.len() * values.len());
            for prefix in &prefixes {
                for value in values {
                    let mut prefix: Vec<u8> = prefix.clone();
                    encode(&codec, place, column, value.as_ref(), &mut prefix)?;
                    longer.push(prefix);
                }
            }
            longer.sort_unstable();
            longer.dedup();
            shown.push(match values.as_slice() {
                [Some(value)] => format!("{} = {value}", column.name),
                [None] => format!("{} IS NULL", column.name),
                values => format!("{} IN ({} values)", column.name, values.len()),
            });
            pinned += usize::from(pinned == columns && longer.len() == 1);
            (columns, prefixes) = (columns + 1, longer);
        }
        if columns == 0 && range.is_none() {
            return Ok(None);
        }
        let rank = (index.unique && columns == index.columns.len(), columns, range.is_some());
        let ranges = prefixes.into_iter().filter_map(|prefix| match &range {
            None => Some(IndexRange::prefix(prefix)),
            Some((from, to)) => {
                let range = IndexRange { from: [&prefix[..], from].concat(), to: Some([&prefix[..], to].concat()) };
                (range.to.as_ref() > Some(&range.from)).then_some(range)
            }
        });
        let access =
            Self { index: index.clone(), ranges: ranges.collect(), order: None, pinned, shown: shown.join(", ") };
        Ok(Some((rank, access)))
    }

    /// Whether rows come against the index's order.
    pub fn is_backward(&self) -> bool {
        self.order == Some(true)
    }

    /// Whether it is a part of the primary key, whose rows are found by their keys.
    pub fn is_key(&self) -> bool {
        self.index.index_id == IndexDefinition::OF_KEY
    }

    /// The part, with its rows in the index's order.
    pub fn forward(self) -> Self {
        Self { order: Some(false), ..self }
    }

    /// The same index in the same order, of other ranges.
    pub fn of_ranges(&self, ranges: Vec<IndexRange>) -> Self {
        Self { ranges, ..self.clone() }
    }

    /// Every row of an index.
    pub fn whole(index: &IndexDefinition) -> Self {
        let ranges = vec![IndexRange::all()];
        Self { index: index.clone(), ranges, order: None, pinned: 0, shown: String::new() }
    }

    /// The rows with the values of some encoded rows of the index's columns.
    pub fn of_values(index: &IndexDefinition, mut values: Vec<Vec<u8>>) -> Self {
        values.sort_unstable();
        values.dedup();
        let shown = format!("{} values", values.len());
        let ranges = values.into_iter().map(IndexRange::prefix).collect();
        Self { index: index.clone(), ranges, order: None, pinned: 0, shown }
    }
}

fn encode(
    codec: &IndexCodec,
    place: usize,
    column: &ColumnDefinition,
    value: Option<&ScalarValue>,
    out: &mut Vec<u8>,
) -> Result<()> {
    let array: ArrayRef = match value {
        Some(value) => value.to_array().map_err(KalamError::internal)?,
        None => arrow::array::new_null_array(&column.data_type.arrow_type(), 1),
    };
    debug_assert_eq!(array.len(), 1);
    codec.encode_column(place, &array, 0, out)
}

/// The encoded bounds that tests set for a column: from the first (included) to the second (not included).
fn bounds(
    codec: &IndexCodec,
    place: usize,
    column: &ColumnDefinition,
    tests: &[Test],
    shown: &mut Vec<String>,
) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let (value_byte, null_byte) = codec.first_bytes(place);
    // All values and no NULL.
    let mut from = vec![value_byte];
    let mut to = if codec.descends(place) { vec![value_byte + 1] } else { vec![null_byte] };
    // The zeros are one value in an index, and two to the operators.
    let inexact = matches!(column.data_type, KalamDataType::Float | KalamDataType::Double);
    let mut found = false;
    for test in tests {
        let (value, above, inclusive) = match test {
            Test::Above(value, inclusive) => (value, true, *inclusive),
            Test::Below(value, inclusive) => (value, false, *inclusive),
            Test::Pinned(_) => continue,
        };
        found = true;
        let sign = match (above, inclusive) {
            (true, true) => ">=",
            (true, false) => ">",
            (false, true) => "<=",
            (false, false) => "<",
        };
        shown.push(format!("{} {sign} {value}", column.name));
        let mut bytes = Vec::new();
        encode(codec, place, column, Some(value), &mut bytes)?;
        let inclusive = inclusive || inexact;
        if above != codec.descends(place) {
            let bound = if inclusive { Some(bytes) } else { successor(bytes) };
            from = from.max(bound.unwrap_or_else(|| to.clone()));
        } else {
            let bound = if inclusive { successor(bytes) } else { Some(bytes) };
            to = bound.map_or(to.clone(), |bound| to.min(bound));
        }
    }
    Ok(found.then_some((from, to)))
}

/// What a filter says about a column, as far as an index can use it. All of it is true of every row that passes.
fn tests(filter: &Expr, column: &ColumnDefinition) -> Vec<Test> {
    let data_type = column.data_type.arrow_type();
    let is_column = |e: &Expr| matches!(e, Expr::Column(Column { name, .. }) if *name == column.name);
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            let mut found = tests(left, column);
            found.extend(tests(right, column));
            found
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            match (tests(left, column).as_slice(), tests(right, column).as_slice()) {
                ([Test::Pinned(a)], [Test::Pinned(b)]) => vec![Test::Pinned(a.iter().chain(b).cloned().collect())],
                _ => Vec::new(),
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (value, op) = if is_column(left) {
                (value_of(right, &data_type), *op)
            } else if is_column(right) {
                let Some(swapped) = op.swap() else { return Vec::new() };
                (value_of(left, &data_type), swapped)
            } else {
                return Vec::new();
            };
            let Some(value) = value else { return Vec::new() };
            match op {
                Operator::Eq => vec![Test::Pinned(vec![Some(value)])],
                Operator::Gt => vec![Test::Above(value, false)],
                Operator::GtEq => vec![Test::Above(value, true)],
                Operator::Lt => vec![Test::Below(value, false)],
                Operator::LtEq => vec![Test::Below(value, true)],
                _ => Vec::new(),
            }
        }
        Expr::Between(Between { expr, negated: false, low, high }) if is_column(expr) => {
            let low = value_of(low, &data_type).map(|v| Test::Above(v, true));
            let high = value_of(high, &data_type).map(|v| Test::Below(v, true));
            low.into_iter().chain(high).collect()
        }
        Expr::InList(InList { expr, list, negated: false }) if is_column(expr) => {
            let values: Option<Vec<_>> = list.iter().map(|e| value_of(e, &data_type).map(Some)).collect();
            values.map(|values| vec![Test::Pinned(values)]).unwrap_or_default()
        }
        Expr::IsNull(inner) if is_column(inner) => vec![Test::Pinned(vec![None])],
        _ => Vec::new(),
    }
}

fn value_of(expr: &Expr, data_type: &DataType) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) if !value.is_null() && value.data_type() == *data_type => Some(value.clone()),
        _ => None,
    }
}

/// A column that rows are to be sorted by.
#[derive(Debug, Clone, Copy)]
pub struct Sorted {
    /// The column.
    pub column_id: u32,
    /// Its direction, and where NULL goes.
    pub options: SortOptions,
}

impl IndexAccess {
    /// This part of its index, read so that rows come sorted; `None` if the index has another order. Columns that are
    /// pinned to one value are in any order.
    pub fn sorted(&self, definition: &TableDefinition, by: &[Sorted]) -> Option<Self> {
        let columns = &self.index.columns;
        let pinned = |id: u32| columns[..self.pinned].iter().any(|c| c.column_id == id);
        let mut rest = columns[self.pinned..].iter();
        let mut backward = None;
        for sorted in by.iter().filter(|s| !pinned(s.column_id)) {
            let part = rest.next().filter(|part| part.column_id == sorted.column_id)?;
            let column = definition.column_by_id(sorted.column_id)?;
            // The zeros are one value in an index, and two to a sort.
            if matches!(column.data_type, KalamDataType::Float | KalamDataType::Double) {
                return None;
            }
            if column.nullable && sorted.options.nulls_first != sorted.options.descending {
                return None;
            }
            let against = part.descending != sorted.options.descending;
            if *backward.get_or_insert(against) != against {
                return None;
            }
        }
        Some(Self { order: Some(backward.unwrap_or(false)), ..self.clone() })
    }

    /// The index whose order rows are to have, if there is one: the primary key if it has it.
    pub fn for_order(definition: &TableDefinition, by: &[Sorted]) -> Option<Self> {
        let key = definition.key_as_index();
        key.iter().chain(&definition.indexes).find_map(|index| Self::whole(index).sorted(definition, by))
    }
}
