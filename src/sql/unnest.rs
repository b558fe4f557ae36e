//! A correlated subquery as a plan of its own: its rows for every value of the columns that it refers to.
//!
//! What a subquery gives depends on the outer row only through the outer columns that it names. [`Domain`] is the
//! distinct values of those columns; [`Domain::through`] moves it down through the operators of the subquery, after
//! Neumann and Kemper, "Unnesting Arbitrary Queries", until nothing refers outwards. Invariant: the plan that
//! `through` gives has the columns of the subquery under their names and the domain's keys, and for each value of the
//! domain the rows that the subquery has for it: an operator that works on all rows (an aggregate, a window, LIMIT)
//! works on the rows of one key, and an aggregate without groups has its one row for a key without rows too.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, Result as DfResult};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, ExprFunctionExt, FetchType, Filter, Join, Limit, LogicalPlan, LogicalPlanBuilder,
    SkipType, Subquery, Union, Window, lit,
};

/// The subquery of an expression, itself one.
pub fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::ScalarSubquery(subquery) => Some(subquery),
        Expr::Exists(exists) => Some(&exists.subquery),
        Expr::InSubquery(test) => Some(&test.subquery),
        _ => None,
    }
}

/// Whether an expression holds a subquery.
pub fn has_subquery(expr: &Expr) -> bool {
    // The closure never fails.
    expr.exists(|e| Ok(subquery_of(e).is_some())).unwrap_or(false)
}

/// The columns outside of a plan that it refers to, also from subqueries within.
pub fn outer_columns(plan: &LogicalPlan) -> DfResult<Vec<Column>> {
    let mut found = Vec::new();
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::OuterReferenceColumn(_, column) = expr {
                    found.push(column.clone());
                } else if let Some(subquery) = subquery_of(expr) {
                    let beyond = outer_columns(&subquery.subquery)?;
                    found.extend(beyond.into_iter().filter(|column| !is_below(node, column)));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    let mut columns: Vec<Column> = Vec::new();
    for column in found {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    Ok(columns)
}

fn is_below(node: &LogicalPlan, column: &Column) -> bool {
    node.inputs().iter().any(|input| input.schema().has_column(column))
}

/// The columns of a plan.
pub fn columns_of(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().iter().map(|field| Expr::Column(Column::from(field))).collect()
}

/// Whether a plan has one row at the most.
pub fn has_at_most_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => has_at_most_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_at_most_one_row(&alias.input),
        LogicalPlan::Filter(filter) => has_at_most_one_row(&filter.input),
        LogicalPlan::Sort(sort) => has_at_most_one_row(&sort.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Limit(limit) => {
            matches!(limit.get_fetch_type(), Ok(FetchType::Literal(Some(0 | 1)))) || has_at_most_one_row(&limit.input)
        }
        LogicalPlan::EmptyRelation(_) => true,
        _ => false,
    }
}

/// The distinct values of outer columns, as a plan with a column for each.
#[derive(Debug, Clone)]
pub struct Domain {
    name: String,
    outer: Vec<Column>,
    values: LogicalPlan,
}

/// A plan, or nothing where an operator has no counterpart yet.
type Pushed = DfResult<Option<LogicalPlan>>;

impl Domain {
    /// The values that `outer` has in the rows of `input`, under a name that no other table has.
    pub fn new(input: &Arc<LogicalPlan>, outer: Vec<Column>, name: String) -> DfResult<Self> {
        let columns = match outer.is_empty() {
            true => vec![lit(1_i64)],
            false => outer.iter().cloned().map(Expr::Column).collect(),
        };
        let values = LogicalPlanBuilder::from(Arc::clone(input)).project(named_keys(&name, columns))?.distinct()?;
        let values = values.alias(name.as_str())?.build()?;
        Ok(Self { name, outer, values })
    }

    /// The columns of the domain.
    pub fn keys(&self) -> Vec<Column> {
        (0..self.outer.len().max(1)).map(|i| Column::new(Some(self.name.as_str()), key_name(&self.name, i))).collect()
    }

    fn key_exprs(&self) -> Vec<Expr> {
        self.keys().into_iter().map(Expr::Column).collect()
    }

    fn key_of(&self, column: &Column) -> Option<Column> {
        let place = self.outer.iter().position(|c| c == column)?;
        self.keys().into_iter().nth(place)
    }

    /// The same values under another name.
    fn renamed(&self, suffix: &str) -> DfResult<Self> {
        let name = format!("{}{suffix}", self.name);
        let keys = named_keys(&name, self.key_exprs());
        let values = LogicalPlanBuilder::from(self.values.clone()).project(keys)?.alias(name.as_str())?.build()?;
        Ok(Self { name, outer: self.outer.clone(), values })
    }

    fn is_named_by(&self, plan: &LogicalPlan) -> DfResult<bool> {
        Ok(outer_columns(plan)?.iter().any(|column| self.outer.contains(column)))
    }

    /// The rows of a subquery for every value of the domain; see the module's comment.
    pub fn through(&self, plan: &LogicalPlan) -> Pushed {
        if !self.is_named_by(plan)? {
            return LogicalPlanBuilder::from(self.values.clone()).cross_join(plan.clone())?.build().map(Some);
        }
        match plan {
            LogicalPlan::Filter(filter) => self.filter(filter),
            LogicalPlan::Projection(projection) => {
                let Some(input) = self.through(&projection.input)? else { return Ok(None) };
                let mut columns = self.all_named(&projection.expr, &projection.input)?;
                columns.extend(self.key_exprs());
                LogicalPlanBuilder::from(input).project(columns)?.build().map(Some)
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let Some(input) = self.through(&alias.input)? else { return Ok(None) };
                let columns = alias.input.schema().iter().zip(plan.schema().iter());
                let columns = columns.map(|(below, (qualifier, field))| {
                    Expr::Column(Column::from(below)).alias_qualified(qualifier.cloned(), field.name())
                });
                let columns: Vec<Expr> = columns.chain(self.key_exprs()).collect();
                LogicalPlanBuilder::from(input).project(columns)?.build().map(Some)
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let Some(input) = self.through(input)? else { return Ok(None) };
                LogicalPlanBuilder::from(input).distinct()?.build().map(Some)
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
                let Some(input) = self.through(&sort.input)? else { return Ok(None) };
                let mut by = sort.expr.clone();
                for key in &mut by {
                    key.expr = self.replaced(key.expr.clone(), sort.input.schema())?;
                }
                LogicalPlanBuilder::from(input).sort(by)?.build().map(Some)
            }
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(union),
            _ => Ok(None),
        }
    }

    fn filter(&self, filter: &Filter) -> Pushed {
        let predicate = self.replaced(filter.predicate.clone(), filter.input.schema())?;
        if !self.is_named_by(&filter.input)? && !has_subquery(&predicate) {
            let values = LogicalPlanBuilder::from(self.values.clone());
            return values.join_on(filter.input.as_ref().clone(), JoinType::Inner, [predicate])?.build().map(Some);
        }
        let Some(input) = self.through(&filter.input)? else { return Ok(None) };
        LogicalPlanBuilder::from(input).filter(predicate)?.build().map(Some)
    }

    fn limit(&self, limit: &Limit) -> Pushed {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return Ok(None);
        };
        let of = |input: &Arc<LogicalPlan>| LogicalPlan::Limit(Limit { input: Arc::clone(input), ..limit.clone() });
        let (order, below) = match limit.input.as_ref() {
            // The rows are numbered where they are sorted.
            LogicalPlan::Projection(projection) => {
                let input = vec![of(&projection.input)];
                return self.through(&limit.input.with_new_exprs(projection.expr.clone(), input)?);
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => (sort.expr.clone(), &sort.input),
            _ => (Vec::new(), &limit.input),
        };
        let Some(input) = self.through(below)? else { return Ok(None) };
        let mut by = order;
        for key in &mut by {
            key.expr = self.replaced(key.expr.clone(), below.schema())?;
        }
        let columns = columns_of(&input);
        let name = format!("{}$n", self.name);
        let mut numbers = row_number().partition_by(self.key_exprs());
        if !by.is_empty() {
            numbers = numbers.order_by(by);
        }
        let numbers = numbers.build()?.alias(name.as_str());
        let number = || Expr::Column(Column::from_name(name.as_str()));
        let mut kept = number().gt(lit(skip as u64));
        if let Some(fetch) = fetch {
            kept = kept.and(number().lt_eq(lit(skip.saturating_add(fetch) as u64)));
        }
        LogicalPlanBuilder::from(input).window([numbers])?.filter(kept)?.project(columns)?.build().map(Some)
    }

    fn aggregate(&self, aggregate: &Aggregate) -> Pushed {
        if aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) {
            return Ok(None);
        }
        let results = self.all_named(&aggregate.aggr_expr, &aggregate.input)?;
        if !aggregate.group_expr.is_empty() {
            let Some(input) = self.through(&aggregate.input)? else { return Ok(None) };
            let mut groups = self.all_named(&aggregate.group_expr, &aggregate.input)?;
            groups.extend(self.key_exprs());
            return LogicalPlanBuilder::from(input).aggregate(groups, results)?.build().map(Some);
        }
        // A row for every key: those without rows are joined to none, and no aggregate counts that.
        let matched = format!("{}$matched", self.name);
        let marked = |input: &LogicalPlan| {
            let mut columns = columns_of(input);
            columns.push(lit(true).alias(matched.as_str()));
            LogicalPlanBuilder::from(input.clone()).project(columns)?.build()
        };
        let filter = match aggregate.input.as_ref() {
            LogicalPlan::Filter(filter) if !self.is_named_by(&filter.input)? && !has_subquery(&filter.predicate) => {
                Some(filter)
            }
            _ => None,
        };
        let (rows, keys) = if let Some(filter) = filter {
            let condition = self.replaced(filter.predicate.clone(), filter.input.schema())?;
            let values = LogicalPlanBuilder::from(self.values.clone());
            (values.join_on(marked(&filter.input)?, JoinType::Left, [condition])?, self.keys())
        } else {
            let Some(input) = self.through(&aggregate.input)? else { return Ok(None) };
            let all = self.renamed("$all")?;
            let values = LogicalPlanBuilder::from(all.values.clone());
            let keys = (all.keys(), self.keys());
            let nulls = NullEquality::NullEqualsNull;
            (values.join_detailed(marked(&input)?, JoinType::Left, keys, None, nulls)?, all.keys())
        };
        let counted = results.into_iter().map(|expr| {
            let (relation, name) = expr.qualified_name();
            let counted = expr.transform_up(|expr| match expr {
                Expr::AggregateFunction(mut function) => {
                    let joined = Expr::Column(Column::from_name(matched.as_str())).is_not_null();
                    let filter = match function.params.filter.take() {
                        Some(filter) => joined.and(*filter),
                        None => joined,
                    };
                    function.params.filter = Some(Box::new(filter));
                    Ok(Transformed::yes(Expr::AggregateFunction(function)))
                }
                other => Ok(Transformed::no(other)),
            });
            Ok(counted.data()?.unalias().alias_qualified(relation, name))
        });
        let counted = counted.collect::<DfResult<Vec<Expr>>>()?;
        let mut columns: Vec<Expr> = aggregate.schema.iter().map(|field| Expr::Column(Column::from(field))).collect();
        let renamed = keys.iter().zip(self.keys());
        columns
            .extend(renamed.map(|(from, to)| Expr::Column(from.clone()).alias_qualified(to.relation.clone(), to.name)));
        let keys: Vec<Expr> = keys.into_iter().map(Expr::Column).collect();
        rows.aggregate(keys, counted)?.project(columns)?.build().map(Some)
    }

    fn window(&self, window: &Window) -> Pushed {
        let Some(input) = self.through(&window.input)? else { return Ok(None) };
        let columns = columns_of(&LogicalPlan::Window(window.clone()));
        let exprs = self.all_named(&window.window_expr, &window.input)?.into_iter().map(|expr| {
            let (relation, name) = expr.qualified_name();
            let parted = expr.transform_up(|expr| match expr {
                Expr::WindowFunction(mut function) => {
                    function.params.partition_by.extend(self.key_exprs());
                    Ok(Transformed::yes(Expr::WindowFunction(function)))
                }
                other => Ok(Transformed::no(other)),
            });
            Ok(parted.data()?.unalias().alias_qualified(relation, name))
        });
        let exprs = exprs.collect::<DfResult<Vec<Expr>>>()?;
        let columns: Vec<Expr> = columns.into_iter().chain(self.key_exprs()).collect();
        LogicalPlanBuilder::from(input).window(exprs)?.project(columns)?.build().map(Some)
    }

    fn join(&self, join: &Join) -> Pushed {
        if matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti) {
            return self.set_operation(join);
        }
        let (of_left, of_right) = (self.is_named_by(&join.left)?, self.is_named_by(&join.right)?);
        let mut condition = Vec::new();
        for (left, right) in &join.on {
            let (left, right) = (left.clone(), right.clone());
            condition.push(match join.null_equality {
                NullEquality::NullEqualsNull => is_same(left, right),
                NullEquality::NullEqualsNothing => left.eq(right),
            });
        }
        condition.extend(join.filter.clone());
        let outer_condition =
            condition.iter().map(|expr| names_any(expr, &self.outer)).collect::<DfResult<Vec<_>>>()?;
        let named = outer_condition.contains(&true);
        let mut replaced = Vec::with_capacity(condition.len());
        for expr in condition {
            if has_subquery(&expr) {
                return Ok(None);
            }
            replaced.push(self.replaced(expr, &join.schema)?);
        }
        // The side whose rows all come needs the keys, so that they come for each of them.
        let (left, right) = match join.join_type {
            JoinType::Inner => (of_left || !of_right, of_right),
            JoinType::Left => (true, of_right),
            JoinType::Right => (of_left, true),
            JoinType::Full if !named => (true, true),
            _ => return Ok(None),
        };
        let other = self.renamed("$right")?;
        let left_plan = match left {
            true => self.through(&join.left)?,
            false => Some(join.left.as_ref().clone()),
        };
        let right_plan = match (left, right) {
            (true, true) => other.through(&join.right)?,
            (false, true) => self.through(&join.right)?,
            _ => Some(join.right.as_ref().clone()),
        };
        let (Some(left_plan), Some(right_plan)) = (left_plan, right_plan) else { return Ok(None) };
        let mut columns: Vec<Expr> = join.schema.iter().map(|field| Expr::Column(Column::from(field))).collect();
        if left && right {
            let pairs = self.key_exprs().into_iter().zip(other.key_exprs());
            replaced.extend(pairs.clone().map(|(a, b)| is_same(a, b)));
            // Of a RIGHT JOIN the keys of the right side are those of all rows; of a FULL JOIN, those of either.
            columns.extend(pairs.zip(self.keys()).map(|((a, b), key)| {
                let value = match join.join_type {
                    JoinType::Right => b,
                    JoinType::Full => datafusion::functions::core::expr_fn::coalesce(vec![a, b]),
                    _ => a,
                };
                value.alias_qualified(key.relation, key.name)
            }));
        } else {
            columns.extend(self.key_exprs());
        }
        let joined = LogicalPlanBuilder::from(left_plan).join_on(right_plan, join.join_type, replaced)?;
        joined.project(columns)?.build().map(Some)
    }

    /// INTERSECT and EXCEPT, which are planned as joins on all columns.
    fn set_operation(&self, join: &Join) -> Pushed {
        if join.null_equality != NullEquality::NullEqualsNull || join.filter.is_some() {
            return Ok(None);
        }
        let Some(left) = self.through(&join.left)? else { return Ok(None) };
        let mut on = Vec::with_capacity(join.on.len());
        for (left, right) in &join.on {
            on.push((self.replaced(left.clone(), join.left.schema())?, right.clone()));
        }
        let right = if self.is_named_by(&join.right)? {
            let other = self.renamed("$right")?;
            for (_, right) in &mut on {
                *right = other.replaced(right.clone(), join.right.schema())?;
            }
            on.extend(self.key_exprs().into_iter().zip(other.key_exprs()));
            let Some(right) = other.through(&join.right)? else { return Ok(None) };
            Arc::new(right)
        } else {
            Arc::clone(&join.right)
        };
        let (kind, constraint) = (join.join_type, join.join_constraint);
        let joined = Join::try_new(Arc::new(left), right, on, None, kind, constraint, join.null_equality, false)?;
        Ok(Some(LogicalPlan::Join(joined)))
    }

    fn union(&self, union: &Union) -> Pushed {
        let mut joined: Option<LogicalPlanBuilder> = None;
        let names: Vec<String> = (0..union.schema.fields().len()).map(|i| format!("{}$u{i}", self.name)).collect();
        let key_names: Vec<String> = self.keys().iter().map(|key| format!("{}${}", self.name, key.name)).collect();
        for input in &union.inputs {
            let Some(rows) = self.through(input)? else { return Ok(None) };
            let columns = columns_of(input).into_iter().chain(self.key_exprs()).zip(names.iter().chain(&key_names));
            let columns: Vec<Expr> = columns.map(|(column, name)| column.alias(name)).collect();
            let rows = LogicalPlanBuilder::from(rows).project(columns)?;
            joined = Some(match joined {
                Some(above) => above.union(rows.build()?)?,
                None => rows,
            });
        }
        let Some(joined) = joined else { return Ok(None) };
        let wanted = union.schema.iter().map(|(qualifier, field)| (qualifier.cloned(), field.name().clone()));
        let wanted = wanted.chain(self.keys().into_iter().map(|key| (key.relation, key.name)));
        let columns = names.iter().chain(&key_names).zip(wanted).map(|(from, (qualifier, name))| {
            Expr::Column(Column::from_name(from.as_str())).alias_qualified(qualifier, name)
        });
        let columns: Vec<Expr> = columns.collect();
        joined.project(columns)?.build().map(Some)
    }

    /// Expressions with the keys for outer columns, under their names.
    fn all_named(&self, exprs: &[Expr], input: &LogicalPlan) -> DfResult<Vec<Expr>> {
        let named = |expr: &Expr| {
            let (relation, name) = expr.qualified_name();
            let new = self.replaced(expr.clone(), input.schema())?;
            Ok(if new.qualified_name() == (relation.clone(), name.clone()) {
                new
            } else {
                new.alias_qualified(relation, name)
            })
        };
        exprs.iter().map(named).collect()
    }

    /// An expression over `schema` with the keys for outer columns, also in its subqueries.
    fn replaced(&self, expr: Expr, schema: &DFSchema) -> DfResult<Expr> {
        expr.transform_up(|expr| match expr {
            Expr::OuterReferenceColumn(field, column) => Ok(match self.key_of(&column) {
                Some(key) => Transformed::yes(Expr::Column(key)),
                None => Transformed::no(Expr::OuterReferenceColumn(field, column)),
            }),
            Expr::ScalarSubquery(subquery) => {
                Ok(Transformed::yes(Expr::ScalarSubquery(self.in_subquery(subquery, schema)?)))
            }
            Expr::Exists(Exists { subquery, negated }) => {
                Ok(Transformed::yes(Expr::Exists(Exists { subquery: self.in_subquery(subquery, schema)?, negated })))
            }
            Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                let subquery = self.in_subquery(subquery, schema)?;
                Ok(Transformed::yes(Expr::InSubquery(InSubquery { expr, subquery, negated })))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()
    }

    /// A subquery within the subquery, over rows of `schema`: it refers to the keys as it did to the outer columns.
    fn in_subquery(&self, subquery: Subquery, schema: &DFSchema) -> DfResult<Subquery> {
        let hidden: Vec<Column> = self.outer.iter().filter(|column| schema.has_column(column)).cloned().collect();
        let plan = self.refer_to_keys(subquery.subquery.as_ref().clone(), &hidden)?;
        let fields = |column: &Column| plan_field(&plan, column);
        let mut outer_ref_columns = Vec::new();
        for column in outer_columns(&plan)? {
            if let Some(field) = fields(&column)? {
                outer_ref_columns.push(Expr::OuterReferenceColumn(field, column));
            }
        }
        Ok(Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: subquery.spans })
    }

    fn refer_to_keys(&self, plan: LogicalPlan, hidden: &[Column]) -> DfResult<LogicalPlan> {
        plan.transform_up(|node| {
            let below: Vec<Column> =
                self.outer.iter().filter(|column| is_below(&node, column)).chain(hidden).cloned().collect();
            let names = datafusion::logical_expr::expr_rewriter::NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let new = expr.transform_up(|expr| match expr {
                    Expr::OuterReferenceColumn(field, column) => Ok(match self.key_of(&column) {
                        Some(key) if !hidden.contains(&column) => {
                            Transformed::yes(Expr::OuterReferenceColumn(field, key))
                        }
                        _ => Transformed::no(Expr::OuterReferenceColumn(field, column)),
                    }),
                    Expr::ScalarSubquery(mut subquery) => {
                        subquery.subquery = Arc::new(self.refer_to_keys(subquery.subquery.as_ref().clone(), &below)?);
                        Ok(Transformed::yes(Expr::ScalarSubquery(subquery)))
                    }
                    Expr::Exists(mut exists) => {
                        exists.subquery.subquery =
                            Arc::new(self.refer_to_keys(exists.subquery.subquery.as_ref().clone(), &below)?);
                        Ok(Transformed::yes(Expr::Exists(exists)))
                    }
                    Expr::InSubquery(mut test) => {
                        test.subquery.subquery =
                            Arc::new(self.refer_to_keys(test.subquery.subquery.as_ref().clone(), &below)?);
                        Ok(Transformed::yes(Expr::InSubquery(test)))
                    }
                    other => Ok(Transformed::no(other)),
                })?;
                Ok(new.update_data(|new| name.restore(new)))
            })?
            .map_data(|node| node.recompute_schema())
        })
        .data()
    }
}

/// A key's name is its own wherever it goes: some of DataFusion's rules look columns up without their table.
fn key_name(domain: &str, place: usize) -> String {
    format!("{domain}_{place}")
}

fn named_keys(domain: &str, values: Vec<Expr>) -> Vec<Expr> {
    values.into_iter().enumerate().map(|(i, value)| value.alias(key_name(domain, i))).collect()
}

/// The field with which a plan refers to an outer column.
fn plan_field(plan: &LogicalPlan, column: &Column) -> DfResult<Option<arrow::datatypes::FieldRef>> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::OuterReferenceColumn(field, named) = expr
                    && named == column
                {
                    found = Some(Arc::clone(field));
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}

/// `a IS NOT DISTINCT FROM b`.
fn is_same(a: Expr, b: Expr) -> Expr {
    datafusion::logical_expr::binary_expr(a, datafusion::logical_expr::Operator::IsNotDistinctFrom, b)
}

fn names_any(expr: &Expr, columns: &[Column]) -> DfResult<bool> {
    expr.exists(|e| Ok(matches!(e, Expr::OuterReferenceColumn(_, column) if columns.contains(column))))
}
