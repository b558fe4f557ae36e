//! Jobs while no request runs.
//!
//! Invariant: one task at most runs jobs. It begins when the last request has ended and its answer is on its way, looks
//! after every piece whether a request has come, and then leaves; the end of that request brings it back. So a request
//! waits for one piece of a job at most, and no end of a request goes by without a look at what is due. Policies that go
//! by time are looked at by a timer that keeps no process alive.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::jobs::{JobManager, Step};
use crate::platform;

/// How long an idle engine waits before it looks at what is due again, in milliseconds.
const LOOK_MS: u64 = 15_000;

/// Counts the requests that run, and runs jobs when there is none.
pub struct Idle {
    jobs: Arc<JobManager>,
    requests: Cell<u32>,
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
