//! Tasks of the one wasm thread that run in the event that wakes them.
//!
//! `spawn_local` runs a task in a later microtask, and what it wakes in one more. A commit has four futures behind each
//! other, and each turn costs as much as writing a small record. Here a task runs as far as it gets when it is spawned,
//! and those that an event of the host wakes run before the event's handler returns ([`in_event`]). Invariant: a task is
//! polled by one frame at a time and never within its own poll; what is woken elsewhere runs in a microtask, so nobody
//! who wakes another is entered again by it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use super::SendFuture;

thread_local! {
    /// Woken tasks.
    static READY: RefCell<VecDeque<Arc<Task>>> = const { RefCell::new(VecDeque::new()) };
    /// Whether somebody will run them: an event's handler or a microtask.
    static AWAITED: Cell<bool> = const { Cell::new(false) };
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

struct Task(SendFuture<State>);

struct State {
    /// Nothing while it is polled and when it has ended.
    work: RefCell<Option<Work>>,
    /// Whether it is among the woken ones.
    ready: Cell<bool>,
    /// Whether its turn came while it was polled.
    missed: Cell<bool>,
}

impl Task {
    fn poll(self: &Arc<Self>) {
        let State { work, ready, missed } = &*self.0;
        ready.set(false);
        let Some(mut taken) = work.take() else { return missed.set(true) };
        missed.set(false);
        let waker = Waker::from(Arc::clone(self));
        if taken.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            work.replace(Some(taken));
            if missed.get() {
                self.wake_by_ref();
            }
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.0.ready.replace(true) {
            return;
        }
        READY.with_borrow_mut(|ready| ready.push_back(Arc::clone(self)));
        if !AWAITED.replace(true) {
            wasm_bindgen_futures::spawn_local(async {
                run_ready();
                AWAITED.set(false);
            });
        }
    }
}

/// Starts work, and runs it as far as it gets at once.
pub fn spawn(work: impl Future<Output = ()> + 'static) {
    let work = RefCell::new(Some(Box::pin(work) as Work));
    let state = State { work, ready: Cell::new(false), missed: Cell::new(false) };
    Arc::new(Task(SendFuture::new(state))).poll();
}

/// Handles an event of the host: runs `handle`, and then the tasks that it has woken.
pub fn in_event(handle: impl FnOnce()) {
    let is_awaited = AWAITED.replace(true);
    handle();
    run_ready();
    AWAITED.set(is_awaited);
}

/// Runs the woken tasks, and those that they wake.
fn run_ready() {
    while let Some(task) = READY.with_borrow_mut(VecDeque::pop_front) {
        task.poll();
    }
}
