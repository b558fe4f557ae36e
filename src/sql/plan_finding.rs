//! How a statement comes to its plan: a kept one, or one that is made and then kept.
//!
//! Invariant: a plan is kept under all that planning could see ([`key_of`]), and only if it can run again and depends on
//! nothing of the moment; so whoever finds one by its key may run it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::physical_expr::expressions::DynamicFilterPhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::sql::sqlparser::ast;

use super::super::catalog::Extras;
use super::super::datafusion_session;
use super::super::errors::from_datafusion;
use super::super::executor::Execution;
use super::super::expressions::any_expression;
use super::super::open_parameters::{OpenParameter, OpenPlan, casts_a_parameter, number_parameters, open_parameters};
use super::super::params::Params;
use super::super::statement_cache::ParsedText;
use super::super::who;
use super::{Entry, KeptLookup, KeptPlan, Key, Lease, Origin, PlanFor, ReadyPlan};
use crate::error::Result;
use crate::tables::parameters::{ParameterValues, while_planning};
use crate::types::Value;

impl Execution<'_> {
    /// The plan of one of the SELECTs behind this statement: a kept one, or what `build` gives, planned.
    ///
    /// The plan runs as whoever runs it: nothing of the session, its role or its transaction is in it.
    pub async fn ready_plan(
        &self,
        part: PlanFor,
        build: impl FnOnce() -> Result<(ast::Query, Extras)>,
    ) -> Result<ReadyPlan> {
        self.ready_plan_since(self.executor.registry().catalog_version(), part, build).await
    }

    /// As [`Execution::ready_plan`], where `build` knows tables that were looked up before: `catalog` is the catalog's
    /// version from before that. If it is another one by now, the plan is of tables of the past: it is made anew, and not
    /// kept.
    pub async fn ready_plan_since(
        &self,
        catalog: u64,
        part: PlanFor,
        build: impl FnOnce() -> Result<(ast::Query, Extras)>,
    ) -> Result<ReadyPlan> {
        let cache = self.executor.plan_cache();
        let is_current = catalog == self.executor.registry().catalog_version();
        let key = match self.origin.filter(|origin| is_current && self.options.caches && !origin.text.clock) {
            Some(origin) => Some(key_of(self, origin, part)?),
            None => None,
        };
        let (key, entry) = self.find_plan(key, catalog)?;
        let mut unfit = None;
        if let Some(Entry::Plan(kept)) = &entry {
            match ready(kept, self.params) {
                Ok(Some(ready)) => {
                    cache.hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(ready);
                }
                Ok(None) => {}
                Err(error) => unfit = Some(error),
            }
        }
        cache.misses.fetch_add(1, Ordering::Relaxed);
        let (query, extras) = build()?;
        // A value that cannot be what its place wants is told as by planning with it.
        if let Some(error) = unfit {
            return Err(self.placed(error, &query, &extras).await);
        }
        // Planning is large and rare: its state lies beside that of the statement, which moves.
        match Box::pin(self.plan_anew(query.clone(), &extras, key, entry, catalog)).await {
            Ok(plan) => Ok(plan),
            Err(error) => Err(self.placed(error, &query, &extras).await),
        }
    }

    async fn plan_anew(
        &self,
        query: ast::Query,
        extras: &Extras,
        mut key: Option<Key>,
        entry: Option<Entry>,
        catalog: u64,
    ) -> Result<ReadyPlan> {
        let cache = self.executor.plan_cache();
        let logical = self.logical(ast::Statement::Query(Box::new(query)), extras).await?;
        if let Some(key) = &mut key
            && key.users.is_none()
            && who::is_asked(&logical)
        {
            cache.insert(key.clone(), catalog, Entry::ByUser);
            key.users = Some(self.users());
        }
        let logical = who::bind(logical, &self.user, self.session.user())?;
        if let (Some(key), Some(origin)) = (key, self.origin)
            && !matches!(entry, Some(Entry::Never))
        {
            match self.kept_plan(&logical, &origin.parsed().fixed).await {
                Some((kept, beside_smallint)) => {
                    let kept = Arc::new(kept);
                    let mut key = key;
                    if beside_smallint && key.smallint.is_none() {
                        cache.insert(key.clone(), catalog, Entry::BySmallInt);
                        key.smallint = Some(self.fits_smallint()?);
                    }
                    // In use from the start, so that nobody takes it while this run has it.
                    let ready = ready(&kept, self.params)?;
                    cache.insert(key, catalog, Entry::Plan(kept));
                    if let Some(ready) = ready {
                        return Ok(ready);
                    }
                }
                None => cache.insert(key, catalog, Entry::Never),
            }
        }
        let bound = self.params.bind(logical)?;
        Ok(ReadyPlan::new(self.physical(&bound).await?))
    }

    /// What is kept under a key, and under which one that is.
    fn find_plan(&self, key: Option<Key>, catalog: u64) -> Result<(Option<Key>, Option<Entry>)> {
        let Some(mut key) = key else { return Ok((None, None)) };
        let cache = self.executor.plan_cache();
        let mut entry = cache.get(&key, catalog);
        if let Some(Entry::ByUser) = entry {
            key.users = Some(self.users());
            entry = cache.get(&key, catalog);
        }
        if let Some(Entry::BySmallInt) = entry {
            key.smallint = Some(self.fits_smallint()?);
            entry = cache.get(&key, catalog);
        }
        Ok((Some(key), entry))
    }

    /// Which parameters fit SMALLINT.
    fn fits_smallint(&self) -> Result<Vec<bool>> {
        let fits = |placeholder: &String| {
            Ok(matches!(self.params.get(placeholder)?, Value::BigInt(n) if i16::try_from(*n).is_ok()))
        };
        self.origin.map_or_else(|| Ok(Vec::new()), |o| o.parsed().placeholders.iter().map(fits).collect())
    }

    fn users(&self) -> (Arc<str>, Arc<str>) {
        (Arc::clone(&self.user), Arc::clone(self.session.user()))
    }

    /// The lookup that this query is, if it is kept.
    pub fn kept_lookup(&self) -> Result<Option<Arc<KeptLookup>>> {
        let Some(key) = self.lookup_key() else { return Ok(None) };
        let cache = self.executor.plan_cache();
        match cache.get(&key, self.executor.registry().catalog_version()) {
            Some(Entry::Lookup(lookup)) => {
                cache.hits.fetch_add(1, Ordering::Relaxed);
                Ok(Some(lookup))
            }
            _ => Ok(None),
        }
    }

    /// Keeps the lookup that this query is.
    pub fn keep_lookup(&self, lookup: &Arc<KeptLookup>) {
        let cache = self.executor.plan_cache();
        if let Some(key) = self.lookup_key() {
            cache.misses.fetch_add(1, Ordering::Relaxed);
            cache.insert(key, lookup.catalog, Entry::Lookup(Arc::clone(lookup)));
        }
    }

    /// Types of parameters say nothing here: the lookup itself declines what is no key.
    fn lookup_key(&self) -> Option<Key> {
        let origin = self.origin.filter(|_| self.options.caches)?;
        Some(Key {
            text: origin.text.id,
            statement: origin.index,
            part: PlanFor::Lookup,
            namespace: self.session.namespace(),
            users: None,
            parameters: Vec::new(),
            smallint: None,
        })
    }

    /// A plan that can be kept, and whether it compares parameters with a SMALLINT; `None` if this one cannot be kept, or
    /// cannot be made without the parameters' values.
    async fn kept_plan(&self, logical: &LogicalPlan, fixed: &[String]) -> Option<(KeptPlan, bool)> {
        if depends_on_the_moment(logical) {
            return None;
        }
        // Errors come again, with their right place, when the statement is planned with its values.
        let OpenPlan { plan: open, beside_smallint } = open_parameters(logical, self.params, fixed).ok()??;
        let analyzed =
            self.state.analyzer().execute_and_check(open.clone(), self.state.config_options(), |_, _| {}).ok()?;
        // Before anything is optimized away: with its value in place a cast fails even where it is of no use.
        if casts_a_parameter(&analyzed) {
            return None;
        }
        let optimized = self.state.optimize(&open).ok()?;
        if casts_a_parameter(&optimized) {
            return None;
        }
        let (numbered, parameters) = number_parameters(optimized, logical, self.params, fixed).ok()?;
        let values = values_of(&parameters, self.params).ok()??;
        // Which index is best may depend on the values; the plan serves all of them (`TableScanExec`).
        let planning = self.state.query_planner().create_physical_plan(&numbered, self.state.as_ref());
        let plan = while_planning(&values, planning).await.ok()?;
        let plan = datafusion_session::one_partition(plan);
        let kept = |plan| KeptPlan { plan, parameters, format: OnceLock::new(), in_use: AtomicBool::new(false) };
        can_run_again(&plan).ok()?.then(|| (kept(plan), beside_smallint))
    }

    /// Whether a statement's query has a kept plan, and that plan, for EXPLAIN.
    pub fn plan_cache_state(&self, text: &ParsedText) -> Result<(&'static str, Option<Arc<dyn ExecutionPlan>>)> {
        let origin = Origin { text, index: 0 };
        if text.clock {
            return Ok(("not kept: the statement asks for the time", None));
        }
        let catalog = self.executor.registry().catalog_version();
        let explained = self.of(self.params, Some(origin));
        let key = key_of(&explained, origin, PlanFor::Rows)?;
        Ok(match explained.find_plan(Some(key), catalog)?.1 {
            Some(Entry::Plan(kept)) => ("hit", Some(Arc::clone(&kept.plan))),
            Some(Entry::Lookup(_)) => ("hit", None),
            Some(Entry::Never) => ("not kept: planning needs the values of the parameters, or the moment", None),
            Some(Entry::ByUser | Entry::BySmallInt) | None => ("miss", None),
        })
    }
}

/// A kept plan with the values of a run; `None` if it is in use.
fn ready(kept: &Arc<KeptPlan>, params: &Params) -> Result<Option<ReadyPlan>> {
    let Some(lease) = Lease::take(kept) else { return Ok(None) };
    let Some(values) = values_of(&kept.parameters, params)? else { return Ok(None) };
    let plan = reset_plan_states(Arc::clone(&kept.plan)).map_err(from_datafusion)?;
    Ok(Some(ReadyPlan { plan, values, lease: Some(lease) }))
}

/// The values of parameters by their numbers; `None` if one is not of the type that was planned for.
fn values_of(parameters: &[OpenParameter], params: &Params) -> Result<Option<ParameterValues>> {
    let mut values = vec![ScalarValue::Null; parameters.len()];
    // In the order of their names: of several values that do not fit, the first is named.
    let mut in_order: Vec<usize> = (0..parameters.len()).collect();
    in_order.sort_by(|a, b| parameters[*a].placeholder().cmp(parameters[*b].placeholder()));
    for number in in_order {
        let Some(value) = parameters[number].value(params)? else { return Ok(None) };
        values[number] = value;
    }
    Ok(Some(Arc::from(values)))
}

fn key_of(execution: &Execution<'_>, origin: Origin<'_>, part: PlanFor) -> Result<Key> {
    let parsed = origin.parsed();
    let mut parameters = Vec::with_capacity(parsed.placeholders.len());
    for placeholder in &parsed.placeholders {
        let value = execution.params.get(placeholder)?;
        describe(value, &mut parameters);
        if parsed.fixed.contains(placeholder) {
            parameters.extend(format!("={value:?};").bytes());
        }
    }
    Ok(Key {
        text: origin.text.id,
        statement: origin.index,
        part,
        namespace: execution.session.namespace(),
        users: None,
        parameters,
        smallint: None,
    })
}

/// What planning sees of a parameter: its type, and whether an integer fits INT.
fn describe(value: &Value, out: &mut Vec<u8>) {
    out.push(match value {
        Value::Null => 0,
        Value::Boolean(_) => 1,
        Value::BigInt(n) if i32::try_from(*n).is_ok() => 2,
        Value::BigInt(_) => 3,
        Value::Double(_) => 4,
        Value::Decimal { .. } => 5,
        Value::Text(_) => 6,
        Value::Bytes(_) => 7,
        Value::Timestamp(_) => 8,
        Value::DateTime(_) => 9,
        Value::Date(_) => 10,
        Value::Time(_) => 11,
        Value::Uuid(_) => 12,
        Value::Json(_) => 13,
        Value::Embedding(_) => 14,
    });
    match value {
        Value::Decimal { scale, .. } => out.push(*scale),
        Value::Embedding(values) => out.extend((values.len() as u32).to_le_bytes()),
        _ => {}
    }
}

/// Whether a plan calls a function that is computed when a statement is planned and may give something else for the
/// next: the time, the session.
fn depends_on_the_moment(plan: &LogicalPlan) -> bool {
    let stable = |expr: &Expr| match expr {
        Expr::ScalarFunction(call) => call.func.signature().volatility == Volatility::Stable,
        Expr::ScalarVariable(..) => true,
        _ => false,
    };
    any_expression(plan, stable)
}

/// Whether a plan can be set back to its start: not if operators share state that no reset reaches.
fn can_run_again(plan: &Arc<dyn ExecutionPlan>) -> DfResult<bool> {
    let mut can = true;
    plan.apply(|node| {
        if node.is::<RecursiveQueryExec>() {
            can = false;
        }
        node.apply_expressions(&mut |expr| {
            expr.apply(|expr| {
                // A sort with a limit has one for itself, which its reset makes anew; nothing else may read it.
                if expr.is::<DynamicFilterPhysicalExpr>() && !node.is::<SortExec>() {
                    can = false;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(if can { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(can)
}

#[cfg(test)]
mod tests {
    use super::super::super::executor::{ExecuteOptions, Session, SqlExecutor};
    use super::super::super::parser::Statement;
    use super::*;
    use crate::schema::SchemaRegistry;
    use crate::storage::{CountingBackend, GatedBackend, MemoryBackend, StorageBackend};
    use crate::tables::{SystemProviders, SystemTablesRegistry, TableProviders, TableStore};
    use futures::executor::block_on;
    use web_time::Duration;

    async fn executor() -> Result<SqlExecutor> {
        let gated = Arc::new(GatedBackend::new(Arc::new(MemoryBackend::new())));
        let counting = Arc::new(CountingBackend::new(Arc::clone(&gated) as _));
        let backend: Arc<dyn StorageBackend> = Arc::clone(&counting) as _;
        let store = TableStore::open(Arc::clone(&backend), 1).await?;
        let registry = Arc::new(SchemaRegistry::new(backend));
        registry.ensure_defaults().await?;
        let node = Arc::from("node");
        let system = SystemTablesRegistry::open(node, counting, &registry, Arc::clone(&store)).await?;
        let providers = Arc::new(TableProviders::new(Arc::clone(&store)));
        registry.set_provider_factory(Arc::new(SystemProviders::new(Arc::clone(&system), providers)));
        SqlExecutor::new(registry, store, system, gated, 64 << 20, Duration::from_secs(30))
    }

    /// Names of operators with the rows that they counted.
    fn counted(plan: &dyn ExecutionPlan, out: &mut Vec<(String, Option<usize>)>) {
        let rows = plan.metrics().and_then(|m| m.output_rows());
        out.push((plan.name().to_owned(), rows));
        plan.children().into_iter().for_each(|child| counted(child.as_ref(), out));
    }

    #[test]
    fn every_run_counts_its_own_rows_and_gives_the_plan_back() -> Result<()> {
        block_on(async {
            let executor = executor().await?;
            let (session, options) = (Session::new("ann"), ExecuteOptions::default());
            let setup = "CREATE TABLE t (id INT PRIMARY KEY, n INT);
                INSERT INTO t SELECT value, value % 3 FROM generate_series(0, 20) AS g(value)";
            executor.execute(&session, setup, &Params::default(), &options).await?;
            for sql in [
                "SELECT id FROM t WHERE n >= $1",
                "SELECT id FROM t WHERE id = $1 OR id = 3",
                "SELECT id FROM t WHERE n = $1 ORDER BY id DESC LIMIT 3",
                "SELECT a.id FROM t a JOIN t b ON a.id = b.n WHERE a.n <= $1",
                "SELECT n, count(*) FROM t WHERE id > $1 GROUP BY n",
                "SELECT id, row_number() OVER (PARTITION BY n ORDER BY id) FROM t WHERE id > $1",
                "SELECT id FROM t WHERE id < $1 UNION ALL SELECT n FROM t",
                "SELECT id FROM t WHERE n = (SELECT min(n) FROM t WHERE id >= $1)",
                "SELECT a.id FROM t a CROSS JOIN t b WHERE a.id + b.id = $1",
                "SELECT count(*) FROM generate_series(1, 5) AS g(i) WHERE i <= $1",
            ] {
                let text = executor.statement_cache().parse(sql, true)?;
                let params = Params::Positional(vec![Value::BigInt(1)]);
                let mut execution = executor.execution(&session, &params, &options).await?;
                execution.origin = Some(Origin { text: &text, index: 0 });
                let Statement::Sql(statement) = &text.statements[0].statement else { panic!("{sql}") };
                let ast::Statement::Query(query) = statement.as_ref() else { panic!("{sql}") };
                let build = || Ok((query.as_ref().clone(), Extras::new()));
                let mut runs = Vec::new();
                for _ in 0..3 {
                    let ready = execution.ready_plan(PlanFor::Rows, build).await?;
                    assert!(ready.lease.is_some(), "{sql} is kept");
                    let other = execution.ready_plan(PlanFor::Rows, build).await?;
                    assert!(other.lease.is_none() || !Arc::ptr_eq(&other.plan, &ready.plan), "{sql}");
                    drop(other);
                    execution.collect_ready(&ready, execution.request()).await?;
                    let mut rows = Vec::new();
                    counted(ready.plan.as_ref(), &mut rows);
                    runs.push(rows);
                }
                assert_eq!(runs[0], runs[1], "{sql}");
                assert_eq!(runs[1], runs[2], "{sql}");
            }
            Ok(())
        })
    }
}
