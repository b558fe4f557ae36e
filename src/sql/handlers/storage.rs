//! STORAGE FLUSH and COMPACT, SHOW MANIFEST, and the room that writers make in memory.
//!
//! Invariant: none of these changes what any statement reads. A flush or compaction that loses a race against an ALTER or
//! a transaction waits for it and tries again, and says so if that takes too long.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast::ObjectName;

use super::super::catalog::Names;
use super::super::executor::{Execution, Rows, StatementResult, finish_rows};
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::{self, Instant};
use crate::schema::{CachedTableData, TableType};
use crate::tables::{HotTable, KeySpec, Rewritten, ScopeKey, Segment, is_system_namespace};
use crate::types::{KalamDataType, Value};

/// A rewrite that keeps losing races fails after so many attempts,
const ATTEMPTS: usize = 20;
/// and in the browser, where others run meanwhile, not before so much time has passed.
const PATIENCE_MS: u128 = 5000;

/// `STORAGE FLUSH | COMPACT TABLE t | ALL`. The rows affected are those that went into new segments. COMPACT ALL has the
/// storage give back what it can, too.
pub async fn run(execution: &Execution<'_>, compact: bool, name: Option<&ObjectName>) -> Result<StatementResult> {
    let store = execution.executor.store();
    let mut rows = 0;
    for table in tables(execution, name).await? {
        for scope in store.scopes(table.definition().table_no).await? {
            rows += rewrite(execution, &table, &scope, compact).await?.rows;
            execution.request().check()?;
        }
    }
    if compact && name.is_none() {
        store.give_space_back().await?;
    }
    Ok(StatementResult { rows_affected: rows, ..StatementResult::default() })
}

/// The tables that a statement names: those with rows of people.
async fn tables(execution: &Execution<'_>, name: Option<&ObjectName>) -> Result<Vec<Arc<CachedTableData>>> {
    let registry = execution.executor.registry();
    if let Some(name) = name {
        let namespace = execution.session.namespace();
        let table = Names { registry, namespace: &namespace }.writable(name).await?;
        return Ok(vec![table]);
    }
    let mut tables = registry.tables(None).await?;
    let stored = |t: &Arc<CachedTableData>| {
        matches!(t.definition().table_type, TableType::Shared | TableType::User)
            && !is_system_namespace(&t.table_id().namespace)
    };
    tables.retain(stored);
    Ok(tables)
}

async fn rewrite(
    execution: &Execution<'_>,
    table: &Arc<CachedTableData>,
    scope: &ScopeKey,
    compact: bool,
) -> Result<Rewritten> {
    let (registry, store) = (execution.executor.registry(), execution.executor.store());
    let began = Instant::now();
    let mut attempt = 1;
    loop {
        // An ALTER may have come meanwhile; a table that is gone has nothing to rewrite.
        let now = registry.table(table.table_id()).await?;
        let Some(now) = now.filter(|now| now.definition().table_no == table.definition().table_no) else {
            return Ok(Rewritten::default());
        };
        let outcome = match compact {
            true => store.compact(scope, now.definition(), true).await,
            false => store.flush(scope, now.definition()).await,
        };
        match outcome {
            Err(error) if error.code() == ErrorCode::Conflict => {
                let patient = cfg!(target_arch = "wasm32") && began.elapsed().as_millis() < PATIENCE_MS;
                if attempt >= ATTEMPTS && !patient {
                    return Err(busy(table, compact));
                }
                attempt += 1;
                store.all_released().await;
                store.settled().await;
                platform::yield_to_host().await;
                execution.request().check()?;
            }
            outcome => return outcome,
        }
    }
}

fn busy(table: &CachedTableData, compact: bool) -> KalamError {
    let what = if compact { "compacted" } else { "flushed" };
    let message = format!(
        "table '{}' cannot be {what} now: a transaction that changed rows of it is still open, or it is being altered",
        table.table_id()
    );
    KalamError::new(ErrorCode::Conflict, message)
        .with_hint("Run it again when that has ended. Flushes and compactions that are due run by themselves.")
}

/// Flushes until hot rows take no more memory than they may. Scopes that cannot be flushed now are left.
pub async fn make_room(execution: &Execution<'_>) -> Result<()> {
    let (registry, store) = (execution.executor.registry(), execution.executor.store());
    let mut last = None;
    while let Some(scope) = store.over_budget() {
        if last.as_ref() == Some(&scope) {
            break;
        }
        let table = registry.tables(None).await?.into_iter().find(|t| t.definition().table_no == scope.table_no);
        let Some(table) = table else { break };
        match store.flush(&scope, table.definition()).await {
            Err(error) if error.code() != ErrorCode::Conflict => return Err(error),
            _ => last = Some(scope),
        }
    }
    Ok(())
}

/// Fails if a change of a scope would add to rows that stay in memory, where they take as much more than they may as a
/// statement may: events of a stream, and rows that open transactions hold.
pub fn check_room(execution: &Execution<'_>, table: &CachedTableData, scope: &ScopeKey) -> Result<()> {
    let store = execution.executor.store();
    let is_stream = table.definition().table_type == TableType::Stream;
    // What a transaction changes itself counts as its own.
    let stays = is_stream || (execution.transaction.is_none() && store.is_held(scope));
    if stays { store.check_room(execution.executor.memory_limit()) } else { Ok(()) }
}

/// `SHOW MANIFEST [t]`: the segments of a table, or of all.
pub async fn manifest(execution: &Execution<'_>, name: Option<&ObjectName>) -> Result<StatementResult> {
    let store = execution.executor.store();
    let mut listed = Listing::default();
    for table in tables(execution, name).await? {
        for scope in store.scopes(table.definition().table_no).await? {
            let hot = store.hot(&scope, table.definition()).await?;
            listed.scope(&table, &scope, &hot)?;
        }
    }
    listed.finish()
}

/// Names of the columns of numbers, in order.
const NUMBERS: [&str; 7] = ["segment", "rows", "ended", "bytes", "min_seq", "max_seq", "schema_version"];

#[derive(Default)]
struct Listing {
    names: [Vec<Option<String>>; 3],
    numbers: [Vec<i64>; NUMBERS.len()],
    keys: [Vec<Option<String>>; 2],
    states: Vec<Option<String>>,
}

impl Listing {
    fn scope(&mut self, table: &CachedTableData, scope: &ScopeKey, hot: &HotTable) -> Result<()> {
        let mut segments: Vec<Arc<Segment>> = hot.segments().to_vec();
        segments.sort_by_key(|s| s.meta().number);
        for segment in segments {
            let meta = segment.meta();
            let id = table.table_id();
            let user = scope.user.as_ref().map(ToString::to_string);
            for (column, value) in
                self.names.iter_mut().zip([Some(id.namespace.to_string()), Some(id.table.to_string()), user])
            {
                column.push(value);
            }
            let ended = i64::from(meta.rows) - segment.live_rows() as i64;
            let numbers = [
                i64::from(meta.number),
                i64::from(meta.rows),
                ended,
                meta.bytes as i64,
                meta.min_seq,
                meta.max_seq,
                i64::from(meta.schema_version),
            ];
            for (column, value) in self.numbers.iter_mut().zip(numbers) {
                column.push(value);
            }
            let key = KeySpec::at(table.definition(), meta.schema_version)?;
            for (column, bound) in self.keys.iter_mut().zip([meta.first_key(), &meta.last_key]) {
                // Bounds of long keys are cut: they are not keys themselves.
                let values = key.codec().decode(bound).ok();
                column.push(values.map(|v| v.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")));
            }
            let state = if segment.damage().is_some() { "quarantined" } else { "live" };
            self.states.push(Some(state.to_owned()));
        }
        Ok(())
    }

    fn finish(self) -> Result<StatementResult> {
        let text = |name: &str, values: Vec<Option<String>>| {
            (KalamDataType::Text.arrow_field(name, true, 0), Arc::new(StringArray::from(values)) as ArrayRef)
        };
        let number = |name: &str, values: Vec<i64>| {
            (KalamDataType::BigInt.arrow_field(name, false, 0), Arc::new(Int64Array::from(values)) as ArrayRef)
        };
        let mut columns = Vec::new();
        columns.extend(["namespace", "table", "user"].into_iter().zip(self.names).map(|(n, v)| text(n, v)));
        columns.extend(NUMBERS.into_iter().zip(self.numbers).map(|(n, v)| number(n, v)));
        columns.extend(["first_key", "last_key"].into_iter().zip(self.keys).map(|(n, v)| text(n, v)));
        columns.push(text("state", self.states));
        let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(KalamError::internal)?;
        let rows = Rows::one(batch);
        Ok(StatementResult::rows(finish_rows(&rows.schema, rows.batches, None)?))
    }
}
