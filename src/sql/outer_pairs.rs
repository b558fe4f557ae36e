//! An outer join whose condition can only be asked above it: it holds a subquery that refers to both sides.
//!
//! The join is made without that condition, of rows that have numbers, and each of its pairs is asked. Invariant: a row of a
//! side that is kept stands in all pairs of its number. If none of them fulfils the condition, the first one stays and gives
//! the row without a partner; a row that had no pair has one with NULLs, which fulfils nothing. Each side is read once, so
//! it does not matter whether it would give the same rows, in the same order, again.

use datafusion::common::{Column, JoinType, Result as DfResult};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr, ExprFunctionExt, Join, LogicalPlan, LogicalPlanBuilder, lit, when};

use super::subquery_places::schema_columns;
use super::unnest::columns_of;

/// Whether the condition holds for a pair.
const IS_MATCH: &str = "$match";
/// Which of its rows a pair stands for, of a join that keeps both sides.
const STANDS_FOR: &str = "$side";

fn column(name: impl Into<String>) -> Expr {
    Expr::Column(Column::from_name(name))
}

/// The join of other inputs, which have the columns of its own.
pub fn with_inputs(join: Join, left: LogicalPlan, right: LogicalPlan) -> DfResult<LogicalPlanBuilder> {
    let Join { on, filter, join_type, join_constraint, null_equality, null_aware, .. } = join;
    let (left, right) = (left.into(), right.into());
    let join = Join::try_new(left, right, on, filter, join_type, join_constraint, null_equality, null_aware)?;
    Ok(LogicalPlanBuilder::from(LogicalPlan::Join(join)))
}

/// An outer join of `left` and `right` under one condition more, which may hold subqueries.
pub fn that(condition: Expr, join: Join, left: LogicalPlan, right: LogicalPlan) -> DfResult<LogicalPlan> {
    let kind = join.join_type;
    let columns = schema_columns(&join.schema);
    let width = join.left.schema().fields().len();
    let pairs = with_inputs(join, numbered(left, Side::Left)?, numbered(right, Side::Right)?)?.build()?;
    // Nothing is asked of a row without a partner: it could be an error.
    let is_pair = Side::Left.number().is_not_null().and(Side::Right.number().is_not_null());
    let is_match = when(is_pair, condition).otherwise(lit(false))?.is_true().alias(IS_MATCH);
    let asked: Vec<Expr> = columns_of(&pairs).into_iter().chain([is_match]).collect();
    let mut pairs = LogicalPlanBuilder::from(pairs).project(asked)?;
    for (side, other) in [(Side::Left, JoinType::Right), (Side::Right, JoinType::Left)] {
        if kind != other {
            pairs = pairs.window(side.totals()?)?;
        }
    }
    let of_match = column(IS_MATCH);
    let (stays, has_left, has_right) = match kind {
        JoinType::Left => (of_match.clone().or(Side::Left.is_alone()), lit(true), of_match),
        JoinType::Right => (of_match.clone().or(Side::Right.is_alone()), of_match, lit(true)),
        // A pair can be the first of both of its rows.
        _ => {
            let sides = LogicalPlanBuilder::values(vec![vec![lit(true)], vec![lit(false)]])?
                .project([column("column1").alias(STANDS_FOR)])?
                .build()?;
            pairs = pairs.cross_join(sides)?;
            let of_left = column(STANDS_FOR);
            let for_left = of_match.clone().or(Side::Left.is_alone());
            let for_right = of_match.clone().is_not_true().and(Side::Right.is_alone());
            let stays = when(of_left.clone(), for_left).otherwise(for_right)?;
            (stays, of_left, of_match.or(column(STANDS_FOR).is_false()))
        }
    };
    let shown = columns.into_iter().enumerate().map(|(i, shown)| {
        let exists = if i < width { &has_left } else { &has_right };
        if *exists == lit(true) {
            return Ok(shown);
        }
        let (relation, name) = shown.qualified_name();
        Ok(when(exists.clone(), shown).end()?.alias_qualified(relation, name))
    });
    let shown = shown.collect::<DfResult<Vec<_>>>()?;
    pairs.filter(stays)?.project(shown)?.build()
}

/// A side of the join.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

impl Side {
    /// The name of one of its columns.
    fn named(self, what: &str) -> String {
        match self {
            Self::Left => format!("$left_{what}"),
            Self::Right => format!("$right_{what}"),
        }
    }

    /// The number of its row in a pair, NULL if it has none.
    fn number(self) -> Expr {
        column(self.named("row"))
    }

    /// What is known of all pairs that a row of it stands in.
    fn totals(self) -> DfResult<[Expr; 2]> {
        let by_row = || vec![self.number()];
        let one = when(column(IS_MATCH), lit(1_i64)).end()?;
        let matches = Expr::from(WindowFunction::new(count_udaf(), vec![one])).partition_by(by_row()).build()?;
        let place = row_number().partition_by(by_row()).build()?;
        Ok([matches.alias(self.named("matches")), place.alias(self.named("place"))])
    }

    /// Whether a pair stands for a row without a partner.
    fn is_alone(self) -> Expr {
        let without = column(self.named("matches")).eq(lit(0_i64));
        self.number().is_not_null().and(without).and(column(self.named("place")).eq(lit(1_u64)))
    }
}

/// The rows of a side with numbers.
fn numbered(rows: LogicalPlan, side: Side) -> DfResult<LogicalPlan> {
    LogicalPlanBuilder::from(rows).window([row_number().alias(side.named("row"))])?.build()
}
