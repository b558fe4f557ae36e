//! What of some segments the filters of a scan leave: segments by the manifest's bounds, row groups and pages by those
//! in the file, and rows of a row group by the values of the columns that a filter names.
//!
//! Invariant: what is left out holds no row for which the filters are true; the filters stay above the scan and have
//! the last word. A bound is used only where it is one of the column's type today: the type it was written with, or
//! another integer type; and never where a value is NaN, which bounds do not count. Values are used only where they were
//! written with the column's type of today; a condition that fails leaves every row, and fails again above if it should.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt64Array, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, Result as DfResult, ScalarValue};
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;

use super::footer::Footer;
use super::group_rows::GroupRows;
use super::reader::Segment;
use super::{ROW_ID_FIELD_ID, SEQ_FIELD_ID};
use crate::error::Result;
use crate::tables::parameters::with_values_physical;
use crate::tables::scan_columns::ScanColumn;
use crate::types::KalamDataType;

/// The filters of a scan; see the module's comment.
#[derive(Debug)]
pub struct ScanFilter {
    expr: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    /// Where the columns of `schema` come from.
    columns: Arc<[ScanColumn]>,
    pruning: OnceLock<Pruning>,
    conditions: OnceLock<Vec<Condition>>,
}

/// One conjunct of a filter, over the columns that it names.
#[derive(Debug)]
struct Condition {
    expr: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    /// The columns of `schema`: their ids, and the schema version that gave them their types.
    columns: Vec<(u32, u32)>,
}

impl Condition {
    fn ids(&self) -> Vec<u32> {
        self.columns.iter().map(|(id, _)| *id).collect()
    }

    /// Whether the values of a segment are of today's types.
    fn applies(&self, segment: &Segment) -> bool {
        let version = segment.meta().schema_version;
        self.columns.iter().all(|(id, since)| segment.has(*id) && version >= *since)
    }

    /// For which rows it is true; `None` if that cannot be told.
    fn evaluate(&self, columns: Vec<Option<ArrayRef>>, rows: usize) -> Option<BooleanBuffer> {
        let columns = columns.into_iter().collect::<Option<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).ok()?;
        let array = self.expr.evaluate(&batch).ok()?.into_array(rows).ok()?;
        let values = array.as_boolean_opt()?;
        Some(match values.nulls() {
            Some(nulls) => values.values() & nulls.inner(),
            None => values.values().clone(),
        })
    }
}

/// Predicates over bounds instead of values.
#[derive(Debug)]
struct Pruning {
    whole: Option<PruningPredicate>,
    /// The conjuncts that name one column: pages of several columns do not line up.
    pages: Vec<PruningPredicate>,
}

impl ScanFilter {
    /// A filter over the columns of `schema`.
    pub fn new(expr: Arc<dyn PhysicalExpr>, schema: SchemaRef, columns: Arc<[ScanColumn]>) -> Self {
        Self { expr, schema, columns, pruning: OnceLock::new(), conditions: OnceLock::new() }
    }

    /// The same filter with the values of the run in the place of its parameters.
    pub fn with_values(&self) -> DfResult<Self> {
        let expr = with_values_physical(Arc::clone(&self.expr))?;
        Ok(Self::new(expr, Arc::clone(&self.schema), Arc::clone(&self.columns)))
    }

    /// The expression, over the columns of the schema.
    pub fn expr(&self) -> &Arc<dyn PhysicalExpr> {
        &self.expr
    }

    fn pruning(&self) -> &Pruning {
        self.pruning.get_or_init(|| {
            let build = |expr: &Arc<dyn PhysicalExpr>| {
                let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&self.schema));
                builder.try_build(Arc::clone(expr)).ok().filter(|p| !p.always_true())
            };
            let single = |p: &PruningPredicate| p.required_columns().single_column().is_some();
            Pruning {
                whole: build(&self.expr),
                pages: split_conjunction(&self.expr).into_iter().filter_map(build).filter(single).collect(),
            }
        })
    }

    /// Which segments may hold a row.
    pub fn segments(&self, segments: &[Arc<Segment>]) -> Vec<bool> {
        self.prune(&SegmentBounds { filter: self, segments }, segments.len())
    }

    fn prune(&self, bounds: &dyn PruningStatistics, containers: usize) -> Vec<bool> {
        let all = || vec![true; containers];
        self.pruning().whole.as_ref().map_or_else(all, |p| p.prune(bounds).unwrap_or_else(|_| all()))
    }

    /// Which row groups of a segment may hold a row.
    pub async fn groups(&self, segment: &Segment) -> Result<Vec<bool>> {
        let groups = segment.meta().groups();
        if groups == 1 || self.pruning().whole.is_none() {
            return Ok(vec![true; groups]);
        }
        let footer = segment.footer().await?;
        Ok(self.prune(&FileBounds { filter: self, segment, footer: &footer, pages_of: None }, groups))
    }

    /// The ranges of rows of a row group (counted from its first row) whose pages may hold a row, and how many pages
    /// were left out; `None` if none was.
    pub async fn pages(&self, segment: &Segment, group: usize) -> Result<Option<(Vec<Range<u32>>, usize)>> {
        let predicates = &self.pruning().pages;
        if predicates.is_empty() {
            return Ok(None);
        }
        let footer = segment.footer().await?;
        let rows = segment.meta().group_rows(group).len() as u32;
        let mut left = vec![0..rows];
        let mut pruned = 0;
        for predicate in predicates {
            let Some(column) = predicate.required_columns().single_column() else { continue };
            let Some(leaf) = self.leaf(segment, &footer, column.name()) else { continue };
            let Some(index) = footer.parquet().offset_index() else { continue };
            let locations = index[group][leaf].page_locations();
            let bounds = FileBounds { filter: self, segment, footer: &footer, pages_of: Some((group, leaf)) };
            let Ok(keep) = predicate.prune(&bounds) else { continue };
            if keep.len() != locations.len() {
                continue;
            }
            pruned += keep.iter().filter(|keep| !**keep).count();
            let starts = locations.iter().map(|l| l.first_row_index as u32);
            let ends = starts.clone().skip(1).chain([rows]);
            let kept: Vec<Range<u32>> =
                starts.zip(ends).zip(&keep).filter(|(_, keep)| **keep).map(|((start, end), _)| start..end).collect();
            left = intersect(&left, &kept);
        }
        Ok((pruned > 0).then_some((left, pruned)))
    }

    fn conditions(&self) -> &[Condition] {
        self.conditions.get_or_init(|| {
            let conjuncts = split_conjunction(&self.expr).into_iter();
            conjuncts.filter_map(|expr| self.condition(expr)).collect()
        })
    }

    fn condition(&self, expr: &Arc<dyn PhysicalExpr>) -> Option<Condition> {
        let mut places: Vec<usize> = collect_columns(expr).iter().map(|column| column.index()).collect();
        places.sort_unstable();
        let id = |place: &usize| match self.columns.get(*place)? {
            ScanColumn::Table { id, since, .. } => Some((*id, *since)),
            ScanColumn::Seq => Some((SEQ_FIELD_ID, 0)),
            ScanColumn::RowId => Some((ROW_ID_FIELD_ID, 0)),
            ScanColumn::Deleted | ScanColumn::Position => None,
        };
        let columns = places.iter().map(id).collect::<Option<Vec<_>>>().filter(|columns| !columns.is_empty())?;
        let fields = places.iter().map(|place| self.schema.field(*place).clone().with_nullable(true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let expr = reassign_expr_columns(Arc::clone(expr), &schema).ok()?;
        Some(Condition { expr, schema, columns })
    }

    /// Narrows the wanted rows of a row group down to those for which the filters are true, as far as that can be told
    /// and pays. `then` are the columns that are asked for afterwards.
    pub async fn narrow(&self, segment: &Segment, rows: &mut GroupRows<'_>, then: &[u32]) -> Result<()> {
        let mut conditions: Vec<&Condition> = self.conditions().iter().filter(|c| c.applies(segment)).collect();
        if conditions.is_empty() {
            return Ok(());
        }
        // What costs nothing first.
        conditions.sort_by_key(|c| !segment.all_cached(rows.group(), &c.ids()));
        let mut ids: Vec<u32> = then.to_vec();
        ids.extend(conditions.iter().flat_map(|c| c.ids()).filter(|id| !then.contains(id)));
        rows.fetch(&ids).await?;
        for condition in conditions {
            let columns = rows.columns(&condition.ids()).await?;
            let Some(kept) = condition.evaluate(columns, rows.len()) else { continue };
            // Most rows are not copied to leave out a few.
            if 2 * kept.count_set_bits() <= rows.len() {
                rows.narrow(&kept)?;
            }
            if rows.len() == 0 {
                break;
            }
        }
        Ok(())
    }

    fn column(&self, name: &str) -> Option<(&ScanColumn, &DataType)> {
        let at = self.schema.index_of(name).ok()?;
        Some((self.columns.get(at)?, self.schema.field(at).data_type()))
    }

    /// The one leaf of a column in a segment's file, if its bounds there can be used.
    fn leaf(&self, segment: &Segment, footer: &Footer, name: &str) -> Option<usize> {
        let (column, _) = self.column(name)?;
        let id = match column {
            ScanColumn::Table { id, data_type, .. } => {
                let written = segment.meta().column(*id)?;
                if written.has_nan || !bounds_convert(&written.data_type, data_type) {
                    return None;
                }
                *id
            }
            ScanColumn::Seq => SEQ_FIELD_ID,
            ScanColumn::RowId => ROW_ID_FIELD_ID,
            _ => return None,
        };
        let mut leaves = footer.leaves(*footer.roots.get(&id)?);
        leaves.next().filter(|_| leaves.next().is_none())
    }
}

/// Whether bounds of a column that was written with one type are bounds of its values in another.
pub(super) fn bounds_convert(written: &KalamDataType, now: &KalamDataType) -> bool {
    written == now || (written.is_integer() && now.is_integer())
}

fn intersect(a: &[Range<u32>], b: &[Range<u32>]) -> Vec<Range<u32>> {
    let mut out: Vec<Range<u32>> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let both = x.start.max(y.start)..x.end.min(y.end);
        if !both.is_empty() {
            match out.last_mut() {
                Some(last) if last.end == both.start => last.end = both.end,
                _ => out.push(both),
            }
        }
        if x.end <= y.end { i += 1 } else { j += 1 }
    }
    out
}

/// The bounds of whole segments, from their manifests.
struct SegmentBounds<'a> {
    filter: &'a ScanFilter,
    segments: &'a [Arc<Segment>],
}

impl SegmentBounds<'_> {
    fn bounds(&self, name: &str, min: bool) -> Option<ArrayRef> {
        let (column, data_type) = self.filter.column(name)?;
        let unknown = || ScalarValue::try_from(data_type).ok();
        let bound = |segment: &Arc<Segment>| bound(segment, column, min).map_or_else(unknown, Some);
        ScalarValue::iter_to_array(self.segments.iter().map(bound).collect::<Option<Vec<_>>>()?).ok()
    }
}

/// A bound of a column of a segment in the column's type today, if one is known.
fn bound(segment: &Segment, column: &ScanColumn, min: bool) -> Option<ScalarValue> {
    let meta = segment.meta();
    match column {
        ScanColumn::Seq => Some(ScalarValue::Int64(Some(if min { meta.min_seq } else { meta.max_seq }))),
        ScanColumn::Table { id, data_type, initial, .. } => match meta.column(*id) {
            Some(written) => {
                let bound = if min { &written.min } else { &written.max };
                let bound = bound.as_ref().filter(|_| bounds_convert(&written.data_type, data_type))?;
                bound.cast_to(&data_type.arrow_type()).ok()
            }
            None => initial.as_ref().and_then(|one| ScalarValue::try_from_array(one, 0).ok()),
        },
        _ => None,
    }
}

/// How many values of a column of a segment are NULL, ended rows included.
fn null_count(segment: &Segment, column: &ScanColumn) -> Option<u64> {
    match column {
        ScanColumn::Seq | ScanColumn::RowId | ScanColumn::Deleted | ScanColumn::Position => Some(0),
        ScanColumn::Table { id, initial, .. } => Some(match segment.meta().column(*id) {
            Some(written) => written.nulls.into(),
            None if initial.is_some() => 0,
            None => segment.meta().rows.into(),
        }),
    }
}

/// What the planner may know of a column: how many values are NULL, about.
///
/// Its bounds are kept from it on purpose. Hot rows may lie outside of them, and a kept plan runs again after writes;
/// but a filter takes bounds that leave one value for the proof that the column is constant, and no sort is then made.
pub fn column_statistics(segments: &[Arc<Segment>], column: &ScanColumn) -> ColumnStatistics {
    let nulls: Option<u64> = segments.iter().map(|s| null_count(s, column)).sum();
    ColumnStatistics {
        null_count: nulls.map_or(Precision::Absent, |n| Precision::Inexact(n as usize)),
        ..ColumnStatistics::new_unknown()
    }
}

impl PruningStatistics for SegmentBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(&column.name, true)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(&column.name, false)
    }

    fn num_containers(&self) -> usize {
        self.segments.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let (column, _) = self.filter.column(&column.name)?;
        let counts = self.segments.iter().map(|segment| null_count(segment, column));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from_iter_values(self.segments.iter().map(|s| u64::from(s.meta().rows)))))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// The bounds in a file: of its row groups, or of the pages of a column in one of them.
struct FileBounds<'a> {
    filter: &'a ScanFilter,
    segment: &'a Segment,
    footer: &'a Footer,
    /// Row group and leaf.
    pages_of: Option<(usize, usize)>,
}

enum Bound {
    Min,
    Max,
    Nulls,
}

impl FileBounds<'_> {
    fn values(&self, name: &str, bound: Bound) -> Option<ArrayRef> {
        let (_, data_type) = self.filter.column(name)?;
        let leaf = self.filter.leaf(self.segment, self.footer, name)?;
        let parquet = self.footer.parquet();
        let schema = self.footer.reader.schema();
        let root = self.footer.reader.parquet_schema().get_column_root_idx(leaf);
        let converter =
            StatisticsConverter::from_column_index(leaf, schema.field(root), self.footer.reader.parquet_schema())
                .ok()?;
        let values: ArrayRef = match self.pages_of {
            None => match bound {
                Bound::Min => converter.row_group_mins(parquet.row_groups()).ok()?,
                Bound::Max => converter.row_group_maxes(parquet.row_groups()).ok()?,
                Bound::Nulls => Arc::new(converter.row_group_null_counts(parquet.row_groups()).ok()?),
            },
            Some((group, _)) => {
                let (columns, offsets) = (parquet.column_index()?, parquet.offset_index()?);
                match bound {
                    Bound::Min => converter.data_page_mins(columns, offsets, [&group]).ok()?,
                    Bound::Max => converter.data_page_maxes(columns, offsets, [&group]).ok()?,
                    Bound::Nulls => Arc::new(converter.data_page_null_counts(columns, offsets, [&group]).ok()?),
                }
            }
        };
        match bound {
            Bound::Nulls => Some(values),
            _ if values.data_type() == data_type => Some(values),
            _ => compute::cast(&values, data_type).ok(),
        }
    }
}

impl PruningStatistics for FileBounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(&column.name, Bound::Min)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(&column.name, Bound::Max)
    }

    fn num_containers(&self) -> usize {
        match self.pages_of {
            None => self.segment.meta().groups(),
            Some((group, leaf)) => {
                self.footer.parquet().offset_index().map_or(0, |index| index[group][leaf].page_locations().len())
            }
        }
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.values(&column.name, Bound::Nulls)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        match self.pages_of {
            None => {
                let meta = self.segment.meta();
                let rows = (0..meta.groups()).map(|group| meta.group_rows(group).len() as u64);
                Some(Arc::new(UInt64Array::from_iter_values(rows)))
            }
            Some(_) => Some(new_null_array(&DataType::UInt64, self.num_containers())),
        }
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet() {
        assert_eq!(intersect(&[0..10, 20..30], &[5..25]), [5..10, 20..25]);
        assert_eq!(intersect(&[0..10], &[0..4, 4..8]), [0..8]);
        assert!(intersect(&[0..4], &[4..8]).is_empty());
    }
}
