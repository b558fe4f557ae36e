//! Physical plans, kept for the next run of the same statement.
//!
//! A plan is kept under the statement, the part of it, the namespace, the users if the plan asks for them, and what
//! planning could see of the parameters: their types, and the values of those that a plan cannot leave open (LIMIT,
//! NULL). What a role may read is asked when a plan runs (`Request::scope`). Invariant: a kept plan gives what planning
//! again would give. So none outlives the catalog that it was planned with
//! (`SchemaRegistry::catalog_version`); none is kept whose planning looked at the clock or at anything else that a
//! stable function tells; scans decide when they run what they read; and a plan serves one run at a time, each with
//! its state and its metrics set anew. Whoever finds a plan in use plans for itself.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use datafusion::catalog::TableProvider;
use datafusion::common::Result as DfResult;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use parking_lot::Mutex;

use super::lru::Lru;
use super::open_parameters::OpenParameter;
use super::result::RowFormat;
use super::statement_cache::{ParsedStatement, ParsedText};
use crate::tables::TableScanExec;
use crate::tables::parameters::{ParameterValues, WithValues, within};

#[path = "plan_finding.rs"]
mod finding;

/// At most so many plans are kept.
const MAX_PLANS: usize = 256;
/// They take about so many bytes at the most.
const MAX_BYTES: usize = 16 << 20;
/// About how many bytes an operator takes with its expressions and schemas.
const BYTES_PER_OPERATOR: usize = 4 << 10;

/// Which of the SELECTs behind a statement a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlanFor {
    /// The query, the rows that UPDATE and DELETE change, or those that INSERT takes.
    Rows,
    /// The expressions among the values of an INSERT, by the number of their query.
    Values(usize),
    /// The lookup of a query that goes past the planner.
    Lookup,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    text: u64,
    statement: usize,
    part: PlanFor,
    namespace: Arc<str>,
    /// The current user and the session's, for a plan that asks for one.
    users: Option<(Arc<str>, Arc<str>)>,
    parameters: Vec<u8>,
    /// Which parameters fit SMALLINT, for a plan that compares some with one.
    smallint: Option<Vec<bool>>,
}

/// A plan that is kept.
struct KeptPlan {
    plan: Arc<dyn ExecutionPlan>,
    /// By their numbers in the plan.
    parameters: Vec<OpenParameter>,
    format: OnceLock<Arc<RowFormat>>,
    in_use: AtomicBool,
}

/// A query that goes past the planner, as far as it is the same for all keys.
#[derive(Debug)]
pub struct KeptLookup {
    /// The catalog's version from before its table was looked up.
    pub catalog: u64,
    /// The provider of its table.
    pub provider: Arc<dyn TableProvider>,
    /// The lookup, of no key.
    pub scan: TableScanExec,
    /// What its rows look like.
    pub format: RowFormat,
}

#[derive(Clone)]
enum Entry {
    Plan(Arc<KeptPlan>),
    Lookup(Arc<KeptLookup>),
    /// The plan asks for a user: there is one for each under a longer key.
    ByUser,
    /// The plan compares parameters with a SMALLINT: there is one for those that fit, and one for others, under longer
    /// keys.
    BySmallInt,
    /// Planning looked at more than its key tells.
    Never,
}

struct Plans {
    /// The catalog that all of them were planned with.
    catalog: u64,
    entries: Lru<Key, Entry>,
}

/// The cache.
pub struct PlanCache {
    plans: Mutex<Plans>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl fmt::Debug for PlanCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanCache").field("plans", &self.plans.lock().entries.len()).finish_non_exhaustive()
    }
}

impl Default for PlanCache {
    fn default() -> Self {
        let plans = Plans { catalog: 0, entries: Lru::new(MAX_PLANS, MAX_BYTES) };
        Self { plans: Mutex::new(plans), hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }
}

impl PlanCache {
    fn get(&self, key: &Key, catalog: u64) -> Option<Entry> {
        let mut plans = self.plans.lock();
        if plans.catalog != catalog {
            plans.entries.clear();
            plans.catalog = catalog;
        }
        plans.entries.get(key).cloned()
    }

    fn insert(&self, key: Key, catalog: u64, entry: Entry) {
        let bytes = match &entry {
            Entry::Plan(kept) => operators(kept.plan.as_ref()) * BYTES_PER_OPERATOR,
            Entry::Lookup(_) => BYTES_PER_OPERATOR,
            Entry::ByUser | Entry::BySmallInt | Entry::Never => size_of::<Key>(),
        };
        let mut plans = self.plans.lock();
        if plans.catalog == catalog {
            plans.entries.insert(key, entry, bytes);
        }
    }

    /// Counts a lookup that was found and used.
    pub fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Hits, misses, plans, and about how many bytes they take.
    pub fn gauges(&self) -> [(&'static str, u64); 4] {
        let plans = self.plans.lock();
        [
            ("plan_cache_hits", self.hits.load(Ordering::Relaxed)),
            ("plan_cache_misses", self.misses.load(Ordering::Relaxed)),
            ("plan_cache_size", plans.entries.len() as u64),
            ("plan_cache_bytes", plans.entries.bytes() as u64),
        ]
    }
}

fn operators(plan: &dyn ExecutionPlan) -> usize {
    1 + plan.children().into_iter().map(|child| operators(child.as_ref())).sum::<usize>()
}

/// Gives a kept plan free when its run ends, however it ends.
struct Lease(Arc<KeptPlan>);

impl Lease {
    fn take(kept: &Arc<KeptPlan>) -> Option<Self> {
        (!kept.in_use.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(kept)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_use.store(false, Ordering::Release);
    }
}

/// A plan that is ready to run once.
pub struct ReadyPlan {
    /// The plan.
    pub plan: Arc<dyn ExecutionPlan>,
    values: ParameterValues,
    lease: Option<Lease>,
}

impl ReadyPlan {
    /// A plan without open parameters.
    pub fn new(plan: Arc<dyn ExecutionPlan>) -> Self {
        Self { plan, values: Arc::from([]), lease: None }
    }

    /// What its rows look like, where the SELECT list tells these names.
    pub fn format(&self, names: Option<&Vec<String>>) -> Arc<RowFormat> {
        let format = || Arc::new(RowFormat::new(&self.plan.schema(), names.cloned()));
        match &self.lease {
            Some(lease) => Arc::clone(lease.0.format.get_or_init(format)),
            None => format(),
        }
    }

    /// Starts it.
    pub fn execute(
        &self,
        context: Arc<datafusion::execution::TaskContext>,
    ) -> DfResult<datafusion::execution::SendableRecordBatchStream> {
        let stream = within(&self.values, || execute_stream(Arc::clone(&self.plan), context))?;
        Ok(Box::pin(WithValues::new(stream, Arc::clone(&self.values))))
    }
}

/// Where a statement that runs was parsed from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The text.
    pub text: &'a ParsedText,
    /// Which of its statements.
    pub index: usize,
}

impl<'a> Origin<'a> {
    /// The statement with what its text tells.
    pub fn parsed(&self) -> &'a ParsedStatement {
        &self.text.statements[self.index]
    }
}
