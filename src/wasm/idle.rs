//! Jobs while no request runs.
//!
//! Invariant: one task at most runs jobs. It begins when no request has run for a moment, looks after every piece
//! whether a request has come, and then leaves; the end of that request brings it back. So a request waits for one piece
//! of a job at most, requests that follow each other closely do not pay for looks at what is due, and under a load
//! without pauses jobs still get a piece every now and then. Policies that go by time are looked at by a timer that
//! keeps no process alive.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::jobs::{JobManager, Step};
use crate::platform;

/// How long an idle engine waits before it looks at what is due again, in milliseconds.
const LOOK_MS: u64 = 15_000;
/// How long no request must have run before jobs do, in milliseconds.
const PAUSE_MS: u64 = 10;
/// Jobs that wait for a pause get a piece without one after so many milliseconds.
const PATIENCE_MS: u64 = 500;

/// Counts the requests that run, and runs jobs when there is none.
pub struct Idle {
    jobs: Arc<JobManager>,
    requests: Cell<u32>,
    /// Requests that have ended.
    ended: Cell<u64>,
    /// The task is there.
    working: Cell<bool>,
    /// A timer is.
    waiting: Cell<bool>,
    closed: Cell<bool>,
}

/// A request that runs, until it is dropped.
pub struct Request(Rc<Idle>);

impl Drop for Request {
    fn drop(&mut self) {
        let left = self.0.requests.get() - 1;
        self.0.requests.set(left);
        self.0.ended.set(self.0.ended.get() + 1);
        if left == 0 {
            self.0.work();
        }
    }
}

impl Idle {
    /// Nothing runs yet.
    pub fn new(jobs: Arc<JobManager>) -> Rc<Self> {
        Rc::new(Self {
            jobs,
            requests: Cell::new(0),
            ended: Cell::new(0),
            working: Cell::new(false),
            waiting: Cell::new(false),
            closed: Cell::new(false),
        })
    }

    /// A request begins.
    pub fn request(self: &Rc<Self>) -> Request {
        self.requests.set(self.requests.get() + 1);
        Request(Rc::clone(self))
    }

    /// A request has run that nothing had to wait for and that leaves nothing to do.
    pub fn passed(&self) {
        self.ended.set(self.ended.get() + 1);
    }

    /// No more jobs.
    pub fn close(&self) {
        self.closed.set(true);
    }

    /// Starts the task, if it is not there.
    fn work(self: &Rc<Self>) {
        if self.closed.get() || self.working.replace(true) {
            return;
        }
        // Weak between pieces: an engine that is let go must not live on for its jobs.
        let weak = Rc::downgrade(self);
        wasm_bindgen_futures::spawn_local(async move {
            let mut waited = 0;
            loop {
                let Some(ended) = weak.upgrade().map(|idle| idle.ended.get()) else { return };
                platform::idle_for(PAUSE_MS).await;
                let Some(idle) = weak.upgrade() else { return };
                waited += PAUSE_MS;
                let quiet = idle.ended.get() == ended && idle.requests.get() == 0;
                if idle.closed.get() || quiet || waited >= PATIENCE_MS {
                    break;
                }
            }
            loop {
                platform::yield_to_host().await;
                let Some(idle) = weak.upgrade() else { return };
                if idle.closed.get() || idle.requests.get() > 0 {
                    return idle.working.set(false);
                }
                if let Step::Idle(retry_at) = idle.jobs.step().await {
                    idle.working.set(false);
                    // What came while it looked has ended without starting another task.
                    return idle.wait(retry_at);
                }
            }
        });
    }

    fn wait(self: &Rc<Self>, retry_at: Option<u64>) {
        if self.closed.get() || self.waiting.replace(true) {
            return;
        }
        let until_retry = retry_at.map_or(LOOK_MS, |at| at.saturating_sub(platform::now_ms()));
        let weak: Weak<Self> = Rc::downgrade(self);
        wasm_bindgen_futures::spawn_local(async move {
            platform::idle_for(until_retry.clamp(50, LOOK_MS)).await;
            if let Some(idle) = weak.upgrade() {
                idle.waiting.set(false);
                if idle.requests.get() == 0 {
                    idle.work();
                }
            }
        });
    }
}
