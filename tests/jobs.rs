//! Jobs: their states, retries, crashes, KILL JOB, and what they cost.
#![cfg(not(target_arch = "wasm32"))]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::executor::block_on;
use kalamdb::context::{AppContext, Config};
use kalamdb::error::{ErrorCode, KalamError, Result};
use kalamdb::jobs::{JobKind, JobManager, JobSpec, KEPT_FINISHED, MAX_ATTEMPTS, Piece, Step};
use kalamdb::sql::{ExecuteOptions, Params};
use kalamdb::storage::MemoryBackend;
use kalamdb::tables::{JobRecord, Jobs};
use parking_lot::Mutex;

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use faulty::{Fault, Faulty};
use support::{last_values, map_cells, text};

/// A kind whose jobs do as they are told, piece by piece.
#[derive(Default)]
struct Scripted {
    due: Mutex<Vec<JobSpec>>,
    pieces: Mutex<VecDeque<Result<Piece>>>,
}

impl Scripted {
    fn will(&self, pieces: impl IntoIterator<Item = Result<Piece>>) {
        self.pieces.lock().extend(pieces);
    }
}

#[async_trait]
impl JobKind for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    async fn due(&self, _now_ms: u64) -> Result<Vec<JobSpec>> {
        Ok(self.due.lock().clone())
    }

    async fn piece(&self, _job: &JobRecord) -> Result<Piece> {
        self.pieces.lock().pop_front().unwrap_or_else(|| Ok(Piece::Done("did it".into())))
    }
}

struct World {
    backend: Arc<Faulty>,
    context: Arc<AppContext>,
    manager: Arc<JobManager>,
    script: Arc<Scripted>,
    now: Arc<AtomicU64>,
}

fn spec(target: &str) -> JobSpec {
    JobSpec { target: Some(target.to_owned()), parameters: None }
}

fn no_room() -> KalamError {
    KalamError::new(ErrorCode::QuotaExceeded, "no room")
}

impl World {
    async fn open(backend: Arc<Faulty>) -> Result<Self> {
        let context = AppContext::open(Arc::clone(&backend) as _, Config::default()).await?;
        let (script, now) = (Arc::new(Scripted::default()), Arc::new(AtomicU64::new(1_000_000_000)));
        let clock = Arc::clone(&now);
        let manager = JobManager::open_with_clock(
            context.system(),
            Arc::clone(context.backend()),
            Arc::clone(context.store()),
            vec![Arc::clone(&script) as _],
            Box::new(move || clock.load(Ordering::Relaxed)),
        )
        .await?;
        let weak = Arc::downgrade(&manager);
        context.system().set_job_manager(weak);
        Ok(Self { backend, context, manager, script, now })
    }

    async fn new() -> Result<Self> {
        Self::open(Faulty::new(MemoryBackend::new())).await
    }

    /// The process dies, and another one starts on what is stored.
    async fn crash(self) -> Result<Self> {
        let backend = self.backend.crash();
        drop(self);
        Self::open(backend).await
    }

    /// `status attempts` of every job, as a session sees them.
    async fn statuses(&self) -> Result<Vec<String>> {
        let sql = "SELECT status, attempts FROM system.jobs ORDER BY job_id";
        let cells = map_cells(last_values(&support::sql(&self.context, sql).await?)?, text);
        Ok(cells.iter().map(|cells| cells.join(" ")).collect())
    }

    async fn kill(&self, id: &str) -> Result<()> {
        support::sql(&self.context, &format!("KILL JOB '{id}'")).await.map(drop)
    }

    async fn stored(&self) -> Result<usize> {
        Ok(self.context.system().jobs().list().await?.len())
    }

    fn commits(&self) -> u64 {
        self.context.system().storage_counters().commits
    }
}

#[test]
fn a_job_is_queued_runs_and_completes_with_two_writes() -> Result<()> {
    block_on(async {
        let world = World::new().await?;
        let before = world.commits();
        world.manager.enqueue("scripted", spec("a"));
        assert_eq!(world.statuses().await?, ["queued 0"]);
        assert_eq!(world.commits(), before, "a queued job is not stored");
        world.script.will([Ok(Piece::More), Ok(Piece::More)]);
        assert_eq!(world.manager.step().await, Step::Worked);
        assert_eq!(world.statuses().await?, ["running 1"]);
        assert_eq!(world.manager.run_due().await, 2);
        assert_eq!(world.statuses().await?, ["completed 1"]);
        assert_eq!(world.commits(), before + 2);
        assert_eq!(world.manager.step().await, Step::Idle(None));
        // Nothing to do: nothing stays.
        world.manager.enqueue("scripted", spec("b"));
        world.script.will([Ok(Piece::Nothing)]);
        world.manager.run_due().await;
        assert_eq!((world.statuses().await?, world.stored().await?), (vec!["completed 1".to_owned()], 1));
        Ok(())
    })
}

#[test]
fn what_fails_is_tried_again_later_and_not_for_ever() -> Result<()> {
    block_on(async {
        let world = World::new().await?;
        *world.script.due.lock() = vec![spec("a")];
        world.script.will((0..MAX_ATTEMPTS).map(|_| Err(no_room())));
        for attempt in 1..MAX_ATTEMPTS {
            assert_eq!(world.manager.step().await, Step::Worked);
            assert_eq!(world.statuses().await?, [format!("retrying {attempt}")]);
            // It is still due, and has a job: no second one.
            let Step::Idle(Some(at)) = world.manager.step().await else { panic!("it waits") };
            assert!(at > world.now.load(Ordering::Relaxed));
            world.now.store(at, Ordering::Relaxed);
        }
        assert_eq!(world.manager.step().await, Step::Worked);
        assert_eq!(world.statuses().await?, [format!("failed {MAX_ATTEMPTS}")]);
        // Its target is left alone for a while.
        assert_eq!(world.manager.step().await, Step::Idle(None));
        world.now.fetch_add(3_600_000, Ordering::Relaxed);
        assert_eq!(world.manager.step().await, Step::Worked);
        assert_eq!(world.statuses().await?, [format!("failed {MAX_ATTEMPTS}"), "completed 1".to_owned()]);
        Ok(())
    })
}

#[test]
fn a_statement_in_the_way_is_no_failure() -> Result<()> {
    block_on(async {
        let world = World::new().await?;
        world.manager.enqueue("scripted", spec("a"));
        let conflict = || Err(KalamError::new(ErrorCode::Conflict, "the table was changed"));
        world.script.will((0..20).map(|_| conflict()));
        for _ in 0..20 {
            assert_eq!(world.manager.step().await, Step::Worked);
            assert_eq!(world.statuses().await?, ["retrying 0"]);
            world.now.fetch_add(3_600_000, Ordering::Relaxed);
        }
        world.manager.run_due().await;
        assert_eq!(world.statuses().await?, ["completed 1"]);
        Ok(())
    })
}

#[test]
fn a_job_whose_process_died_failed_and_is_run_again() -> Result<()> {
    block_on(async {
        let mut world = World::new().await?;
        world.manager.enqueue("scripted", spec("a"));
        for attempt in 1..MAX_ATTEMPTS {
            world.script.will([Ok(Piece::More)]);
            assert_eq!(world.manager.step().await, Step::Worked);
            world = world.crash().await?;
            assert_eq!(world.statuses().await?, [format!("retrying {attempt}")]);
            let stored = world.context.system().jobs().list().await?;
            assert_eq!(stored[0].status.as_str(), "failed");
            assert!(stored[0].message.as_deref().is_some_and(|m| m.contains("ended while the job ran")));
        }
        world.script.will([Ok(Piece::More)]);
        world.manager.step().await;
        // It died in it so often that it may well be the reason.
        world = world.crash().await?;
        assert_eq!(world.statuses().await?, [format!("failed {MAX_ATTEMPTS}")]);
        assert_eq!(world.manager.step().await, Step::Idle(None));

        // One that completes after a crash.
        world.manager.enqueue("scripted", spec("b"));
        world.script.will([Ok(Piece::More)]);
        world.manager.step().await;
        world = world.crash().await?;
        world.manager.run_due().await;
        assert_eq!(world.statuses().await?.last().map(String::as_str), Some("completed 2"));
        // What was only queued is gone with its process, and would be made again by who made it.
        world.manager.enqueue("scripted", spec("c"));
        world = world.crash().await?;
        assert_eq!(world.statuses().await?.len(), 2);
        Ok(())
    })
}

#[test]
fn a_job_that_a_close_interrupts_goes_on_after_the_next_opening() -> Result<()> {
    block_on(async {
        let world = World::new().await?;
        world.manager.enqueue("scripted", spec("a"));
        world.script.will([Ok(Piece::More), Ok(Piece::More)]);
        world.manager.step().await;
        world.manager.close().await?;
        assert_eq!(world.manager.step().await, Step::Idle(None));
        let world = world.crash().await?;
        assert_eq!(world.statuses().await?, ["queued 0"]);
        world.manager.run_due().await;
        assert_eq!(world.statuses().await?, ["completed 1"]);
        Ok(())
    })
}

/// What a table's policy asks for is done when there is time, by jobs that say what they did.
#[test]
fn policies_become_jobs() -> Result<()> {
    block_on(async {
        let context = AppContext::open(Arc::new(MemoryBackend::new()), Config::default()).await?;
        let run = async |sql: &str| {
            let (session, options) = (context.session(), ExecuteOptions::default());
            context.executor().execute(session, sql, &Params::default(), &options).await
        };
        assert_eq!(context.jobs().run_due().await, 0);
        run("CREATE TABLE t (k INT PRIMARY KEY) WITH (FLUSH_POLICY = 'rows:10')").await?;
        run("INSERT INTO t VALUES (1), (2)").await?;
        assert_eq!(context.jobs().run_due().await, 0);
        let values: Vec<String> = (10..40).map(|k| format!("({k})")).collect();
        run(&format!("INSERT INTO t VALUES {}", values.join(","))).await?;
        assert!(context.jobs().run_due().await >= 1);
        let jobs = context.system().jobs().list().await?;
        let flush = jobs.iter().find(|j| j.job_type == "flush").expect("a flush");
        assert_eq!((flush.status.as_str(), flush.target.as_deref()), ("completed", Some("default.t")));
        assert_eq!(flush.message.as_deref(), Some("32 rows to 1 segments"));
        let manifest = run("SHOW MANIFEST t").await?.pop().and_then(|r| r.rows).expect("rows");
        assert_eq!(manifest.len(), 1);
        let found = run("SELECT k FROM t").await?.pop().and_then(|r| r.rows).expect("rows");
        assert_eq!(found.len(), 32);
        assert_eq!(context.jobs().run_due().await, 0);
        Ok(())
    })
}

#[test]
fn kill_job_ends_jobs() -> Result<()> {
    block_on(async {
        let world = World::new().await?;
        let first = world.manager.enqueue("scripted", spec("a"));
        let second = world.manager.enqueue("scripted", spec("b"));
        assert_eq!(world.manager.enqueue("scripted", spec("a")), first);
        world.script.will([Ok(Piece::More), Ok(Piece::More)]);
        world.manager.step().await;
        world.kill(&second).await?;
        assert_eq!(world.statuses().await?, ["running 1", "cancelled 0"]);
        world.kill(&first).await?;
        world.manager.run_due().await;
        assert_eq!(world.statuses().await?, ["cancelled 1", "cancelled 0"]);
        let error = world.kill("nobody").await.expect_err("no such job");
        assert_eq!(error.code(), ErrorCode::JobNotFound, "{error}");
        let error = world.kill(&first).await.expect_err("it has ended");
        assert_eq!(error.code(), ErrorCode::InvalidStatement, "{error}");
        assert!(world.manager.unfinished().is_empty());
        let world = world.crash().await?;
        assert_eq!(world.statuses().await?, ["cancelled 1", "cancelled 0"]);
        Ok(())
    })
}

#[test]
fn finished_jobs_do_not_pile_up() -> Result<()> {
    block_on(async {
        let world = World::new().await?;
        for n in 0..KEPT_FINISHED + 30 {
            world.manager.enqueue("scripted", spec(&n.to_string()));
        }
        world.manager.run_due().await;
        assert_eq!(world.stored().await?, KEPT_FINISHED);
        Ok(())
    })
}

/// Whatever storage does to the records, every job comes to its end in time and the manager goes on.
#[test]
fn failing_storage_stops_no_job() -> Result<()> {
    block_on(async {
        for fault in [Fault::Fail, Fault::Lose] {
            for n in 0..6 {
                let world = World::new().await?;
                world.manager.enqueue("scripted", spec("a"));
                world.manager.enqueue("scripted", spec("b"));
                world.backend.arm(n, fault, ErrorCode::StorageError);
                for _ in 0..20 {
                    world.manager.run_due().await;
                    world.now.fetch_add(3_600_000, Ordering::Relaxed);
                }
                world.backend.disarm();
                let statuses = world.statuses().await?;
                assert!(world.manager.unfinished().is_empty(), "{fault:?} at call {n}: {statuses:?}");
                let world = world.crash().await?;
                world.manager.run_due().await;
                let statuses = world.statuses().await?;
                assert!(
                    statuses.len() == 2 && statuses.iter().all(|s| s.starts_with("completed")),
                    "{fault:?} at call {n}: {statuses:?}"
                );
            }
        }
        Ok(())
    })
}
