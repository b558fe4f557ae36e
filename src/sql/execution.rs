//! One statement being run: the way to its handler, and what handlers share.
//!
//! Invariant: whatever a handler reads, it reads through a [`Request`] that is made here, so the user, the role, the
//! snapshot, the transaction, cancelling and the time limit of the statement hold for all of it. A statement that
//! commits by itself and lost a race against another writer (`SERIALIZATION_FAILURE`) is run again from the start:
//! nothing of it was applied.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{Expr as DfExpr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::sqlparser::ast::{self, ObjectType};
use futures::StreamExt;

use super::arrays;
use super::catalog::{Extras, Names, plan_statement};
use super::datafusion_session;
use super::errors::from_datafusion;
use super::executor::{ExecuteOptions, SqlExecutor};
use super::expressions::any_expression;
use super::fault;
use super::handlers;
use super::params::Params;
use super::parser::Statement;
use super::plan_cache::{Origin, PlanFor, ReadyPlan};
use super::positions::located;
use super::privileges;
use super::result::StatementResult;
use super::session::Session;
use super::statement_cache::CLOCK_WORDS;
use super::who;
use crate::error::{ErrorCode, KalamError, Result};
use crate::platform::Turns;
use crate::schema::Role;
use crate::tables::{Request, Transaction};

/// A statement that keeps losing races against other writers fails after so many attempts.
const ATTEMPTS: usize = 20;

/// One statement being run.
pub(super) struct Execution<'a> {
    pub executor: &'a SqlExecutor,
    pub session: &'a Session,
    /// The user that the statement runs as: the session's, or that of EXECUTE AS USER.
    pub user: Arc<str>,
    /// What it may do.
    pub role: Role,
    pub params: &'a Params,
    pub options: &'a ExecuteOptions,
    pub state: Arc<SessionState>,
    /// When the statement began: what NOW() gives, in a default too.
    pub started_us: i64,
    /// The open transaction that the statement runs in.
    pub transaction: Option<Arc<Transaction>>,
    /// Where it was parsed from; `None` if it is not as it was parsed.
    pub origin: Option<Origin<'a>>,
}

impl<'a> Execution<'a> {
    /// The same execution of another statement.
    pub fn of<'b>(&self, params: &'b Params, origin: Option<Origin<'b>>) -> Execution<'b>
    where
        'a: 'b,
    {
        Execution {
            executor: self.executor,
            session: self.session,
            user: Arc::clone(&self.user),
            role: self.role,
            params,
            options: self.options,
            state: Arc::clone(&self.state),
            started_us: self.started_us,
            transaction: self.transaction.clone(),
            origin,
        }
    }

    /// Runs a statement, in the transaction that the execution is part of or by itself.
    pub async fn statement(&self, statement: &Statement) -> Result<StatementResult> {
        privileges::check(self.role, statement)?;
        if let Some(origin) = self.origin
            && !origin.parsed().arrays.is_empty()
            && arrays::has_arrays(&origin.parsed().arrays, self.params)?
            && let Statement::Sql(statement) = statement
        {
            let mut statement = statement.clone();
            let params = arrays::expand(&mut statement, self.params)?;
            // How many elements there are is part of the statement now: it is nobody's but this run's.
            return Box::pin(self.of(&params, None).statement(&Statement::Sql(statement))).await;
        }
        let outcome = match statement {
            Statement::Sql(statement) => match statement.as_ref() {
                // A query is run again if an ALTER came between its planning and its reading.
                ast::Statement::Query(query) => self.retrying(|| handlers::query::query(self, query)).await,
                ast::Statement::Insert(insert) => self.retrying(|| handlers::insert::insert(self, insert)).await,
                ast::Statement::Update(update) => self.retrying(|| handlers::update::update(self, update, None)).await,
                ast::Statement::Delete(delete) => self.retrying(|| handlers::delete::delete(self, delete, None)).await,
                other => Box::pin(self.definition(other)).await,
            },
            other => Box::pin(self.other(other)).await,
        };
        outcome.map_err(|error| located(error, statement))
    }

    /// Runs a statement of this engine's own.
    async fn other(&self, statement: &Statement) -> Result<StatementResult> {
        match statement {
            Statement::ExecuteAs { user, statement } => handlers::user::execute_as(self, user, statement).await,
            Statement::CreateUser { user, role, password, if_not_exists } => {
                handlers::user::create(self, user, role.clone(), *password, *if_not_exists).await
            }
            Statement::AlterUser { user, role, password, if_exists } => {
                handlers::user::alter(self, user, role.clone(), *password, *if_exists).await
            }
            Statement::DropUser { user, if_exists, cascade } => {
                self.retrying(|| handlers::user::drop(self, user, *if_exists, *cascade)).await
            }
            Statement::CreateNamespace { name, if_not_exists } => {
                handlers::namespace::create(self, name, *if_not_exists).await
            }
            Statement::DropNamespace { name, if_exists, cascade } => {
                handlers::namespace::drop(self, name, *if_exists, *cascade).await
            }
            Statement::UseNamespace(name) => handlers::namespace::use_namespace(self, name).await,
            Statement::ShowNamespaces => handlers::show::namespaces(self).await,
            Statement::ShowStats => handlers::show::stats(self).await,
            Statement::StorageCheck(table) => handlers::check::check(self, table.as_ref()).await,
            Statement::ShowManifest(name) => handlers::storage::manifest(self, name.as_ref()).await,
            Statement::Storage { compact, table } => handlers::storage::run(self, *compact, table.as_ref()).await,
            Statement::KillJob(id) => handlers::job::kill(self, id).await,
            Statement::ShowTables(namespace) => handlers::show::tables(self, namespace.as_ref()).await,
            Statement::ShowIndexes(name) => handlers::index::show(self, name.as_ref()).await,
            Statement::RenameIndex { name, to, if_exists } => {
                self.retrying(|| handlers::index::rename(self, name, to, *if_exists)).await
            }
            Statement::RenameConstraint { table, change, if_exists } => {
                let changes = [handlers::alter::Change::Operation(change)];
                self.retrying(|| handlers::alter::change(self, table, *if_exists, "ALTER TABLE", &changes)).await
            }
            Statement::Describe(name) => handlers::show::describe(self, name).await,
            Statement::DescribeHistory(name) => handlers::show::history(self, name).await,
            Statement::CreateTable(kind, create) => handlers::table::create(self, *kind, create.as_ref().clone()).await,
            Statement::Explain { analyze, verbose, statement } => {
                handlers::explain::explain(self, *analyze, *verbose, statement.as_ref().clone()).await
            }
            Statement::Prepare { name, types, statement } => {
                handlers::prepare::prepare(self, name, types, statement.as_ref().clone())
            }
            Statement::Execute { name, arguments } => Box::pin(handlers::prepare::execute(self, name, arguments)).await,
            Statement::Deallocate(name) => handlers::prepare::deallocate(self, name.as_ref()),
            Statement::With(with, statement) => match statement.as_ref() {
                ast::Statement::Update(update) => {
                    self.retrying(|| handlers::update::update(self, update, Some(with))).await
                }
                ast::Statement::Delete(delete) => {
                    self.retrying(|| handlers::delete::delete(self, delete, Some(with))).await
                }
                other => Err(unsupported_statement(other)),
            },
            Statement::Sql(statement) => Err(unsupported_statement(statement)),
        }
    }

    /// Runs a statement that changes what there is.
    async fn definition(&self, statement: &ast::Statement) -> Result<StatementResult> {
        match statement {
            ast::Statement::Truncate(truncate) => self.retrying(|| handlers::truncate::truncate(self, truncate)).await,
            ast::Statement::AlterTable(alter) => self.retrying(|| handlers::alter::alter(self, alter)).await,
            ast::Statement::CreateIndex(create) => self.retrying(|| handlers::index::create(self, create)).await,
            ast::Statement::Drop { object_type: ObjectType::Index, if_exists, names, .. } => {
                self.retrying(|| handlers::index::drop(self, names, *if_exists)).await
            }
            ast::Statement::CreateView(create) => self.retrying(|| handlers::view::create(self, create)).await,
            ast::Statement::Drop { object_type: ObjectType::View, if_exists, names, cascade, .. } => {
                handlers::view::drop(self, names, *if_exists, *cascade).await
            }
            ast::Statement::Drop { object_type: ObjectType::Table, if_exists, names, .. } => {
                handlers::table::drop(self, names, *if_exists).await
            }
            other => Err(unsupported_statement(other)),
        }
    }

    async fn retrying<F>(&self, run: impl Fn() -> F) -> Result<StatementResult>
    where
        F: Future<Output = Result<StatementResult>>,
    {
        let mut attempt = 1;
        let mut hold = None;
        loop {
            match run().await {
                // In a transaction the snapshot stays, and with it what the statement lost against.
                Err(error)
                    if error.code() == ErrorCode::Conflict && attempt < ATTEMPTS && self.transaction.is_none() =>
                {
                    attempt += 1;
                    // Who loses again and again loses to other writers only, not to rows being moved.
                    if attempt > 2 && hold.is_none() {
                        hold = Some(self.executor.store().hold_all());
                    }
                    // The commit that was first becomes visible, or fails, before the next attempt reads; and an ALTER
                    // is waited for.
                    self.executor.store().settled().await;
                }
                outcome => return outcome,
            }
        }
    }

    /// What this statement's plans read, as its user: the newest snapshot, or what its transaction sees.
    pub fn request(&self) -> Arc<Request> {
        // A transaction pins its snapshot itself.
        let pin = self.transaction.is_none().then(|| Arc::new(self.executor.store().pin()));
        let snapshot = match (&self.transaction, &pin) {
            (Some(transaction), _) => transaction.snapshot(),
            (None, Some(pin)) => pin.seq(),
            (None, None) => self.executor.store().snapshot(),
        };
        Arc::new(Request {
            user: Arc::clone(&self.user),
            role: self.role,
            now_ms: u64::try_from(self.started_us / 1000).unwrap_or(0),
            snapshot,
            pin,
            transaction: self.transaction.as_ref().map(Transaction::view),
            cancelled: Arc::clone(&self.options.cancelled),
            deadline: self.options.deadline,
        })
    }

    /// As [`Execution::request`], for the engine's own reading of a user's committed rows: any table, and without the
    /// changes of the transaction.
    pub fn request_as(&self, user: Option<Arc<str>>) -> Arc<Request> {
        let ours = self.request();
        Arc::new(Request {
            user: user.unwrap_or_else(|| Arc::clone(&ours.user)),
            role: Role::System,
            now_ms: ours.now_ms,
            snapshot: ours.snapshot,
            pin: ours.pin.clone(),
            cancelled: Arc::clone(&ours.cancelled),
            deadline: ours.deadline,
            transaction: None,
        })
    }

    /// Plans a query or the SELECT behind another statement, with its parameters in place.
    pub async fn plan(&self, statement: ast::Statement, extras: &Extras) -> Result<LogicalPlan> {
        let plan = self.logical(statement, extras).await?;
        self.params.bind(who::bind(plan, &self.user, self.session.user())?)
    }

    /// Plans a query or the SELECT behind another statement, with placeholders for its parameters and for its users.
    pub async fn logical(&self, statement: ast::Statement, extras: &Extras) -> Result<LogicalPlan> {
        let namespace = self.session.namespace();
        let names = Names { registry: self.executor.registry(), namespace: &namespace };
        // Planning is large and rare: its state lies beside that of the statement, which moves.
        Box::pin(plan_statement(&self.state, names, statement, extras)).await
    }

    /// The physical plan of a query with its parameters in place.
    pub async fn planned(&self, query: ast::Query, extras: &Extras) -> Result<Arc<dyn ExecutionPlan>> {
        match self.query_plan(query.clone(), extras).await {
            Ok(plan) => Ok(plan),
            Err(error) => Err(self.placed(error, &query, extras).await),
        }
    }

    /// As [`Execution::planned`], with errors as they are found.
    pub async fn query_plan(&self, query: ast::Query, extras: &Extras) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.plan(ast::Statement::Query(Box::new(query)), extras).await?;
        self.physical(&plan).await
    }

    /// An error of planning a query with the place of what is wrong.
    pub async fn placed(&self, error: KalamError, query: &ast::Query, extras: &Extras) -> KalamError {
        Box::pin(fault::placed(error, self, query, extras)).await
    }

    /// The physical plan of a logical one.
    pub async fn physical(&self, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        let physical = if self.state.execution_props().query_execution_start_time.is_none() && tells_time(plan) {
            // The statement's text does not ask for the time, but that of a view does.
            let mut state = self.state.as_ref().clone();
            state.mark_start_execution();
            state.create_physical_plan(plan).await
        } else {
            self.state.create_physical_plan(plan).await
        };
        Ok(datafusion_session::one_partition(physical.map_err(from_datafusion)?))
    }

    /// Runs a physical plan to its end.
    pub async fn collect(&self, plan: Arc<dyn ExecutionPlan>, request: Arc<Request>) -> Result<Vec<RecordBatch>> {
        self.collect_ready(&ReadyPlan::new(plan), request).await
    }

    /// Starts a plan with its parameters for a request.
    pub fn start(&self, plan: &ReadyPlan, request: &Arc<Request>) -> Result<SendableRecordBatchStream> {
        let context = TaskContext::new(
            None,
            String::new(),
            self.state.config().clone().with_extension(Arc::clone(request)),
            Default::default(),
            Default::default(),
            Default::default(),
            Default::default(),
            Arc::clone(self.state.runtime_env()),
        );
        plan.execute(Arc::new(context)).map_err(from_datafusion)
    }

    /// Runs a plan with its parameters to its end.
    pub async fn collect_ready(&self, plan: &ReadyPlan, request: Arc<Request>) -> Result<Vec<RecordBatch>> {
        let mut stream = self.start(plan, &request)?;
        let mut batches = Vec::new();
        let mut held = self.executor.held_rows();
        let mut turns = Turns::begin();
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(from_datafusion)?;
            if batch.num_rows() > 0 {
                held.add(&batch).map_err(from_datafusion)?;
                batches.push(batch);
            }
            request.pass(&mut turns).await?;
        }
        Ok(batches)
    }

    /// Runs the SELECT that is a part of this statement by a plan that is kept, or else kept from now on; columns keep
    /// the types that DataFusion gives them.
    pub async fn select_part(
        &self,
        part: PlanFor,
        request: Arc<Request>,
        build: impl FnOnce() -> Result<(ast::Query, Extras)>,
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let plan = self.ready_plan(part, build).await?;
        Ok((plan.plan.schema(), self.collect_ready(&plan, request).await?))
    }

    /// Plans and runs the SELECT behind a statement; columns keep the types that DataFusion gives them.
    pub async fn select(
        &self,
        query: ast::Query,
        extras: &Extras,
        request: Arc<Request>,
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let physical = Box::pin(self.planned(query, extras)).await?;
        let schema = physical.schema();
        Ok((schema, self.collect(physical, request).await?))
    }
}

/// Whether a plan calls a function of the clock.
fn tells_time(plan: &LogicalPlan) -> bool {
    let calls = |expr: &DfExpr| match expr {
        DfExpr::ScalarFunction(call) => CLOCK_WORDS.iter().any(|word| call.name().starts_with(word)),
        _ => false,
    };
    any_expression(plan, calls)
}

fn unsupported_statement(statement: &ast::Statement) -> KalamError {
    let message = format!("the statement '{}' is not supported", first_words(&statement.to_string()));
    KalamError::new(ErrorCode::FeatureNotSupported, message)
}

fn first_words(text: &str) -> String {
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
