//! When tasks of the wasm thread run. Runs with `scripts/wasm-test.sh`; natively it is empty.
#![cfg(target_arch = "wasm32")]

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use futures::channel::oneshot;
use kalamdb::platform::tasks::{in_event, spawn};
use kalamdb::platform::yield_to_host;
use wasm_bindgen_test::wasm_bindgen_test;

wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);

/// What happened, in order.
#[derive(Clone, Default)]
struct Story(Rc<RefCell<Vec<&'static str>>>);

impl Story {
    fn tell(&self, what: &'static str) {
        self.0.borrow_mut().push(what);
    }

    fn is(&self, expected: &[&str]) {
        assert_eq!(*self.0.borrow(), expected);
    }
}

#[wasm_bindgen_test]
fn a_task_runs_as_far_as_it_gets_when_it_is_spawned() {
    let story = Story::default();
    let told = story.clone();
    let (_sender, never) = oneshot::channel::<()>();
    spawn(async move {
        told.tell("begun");
        let _ = never.await;
        told.tell("ended");
    });
    story.is(&["begun"]);
}

#[wasm_bindgen_test]
fn what_an_event_wakes_runs_in_it_with_all_that_this_wakes() {
    let story = Story::default();
    let (first, second) = (story.clone(), story.clone());
    let (to_first, from_event) = oneshot::channel::<()>();
    let (to_second, from_first) = oneshot::channel::<()>();
    spawn(async move {
        let _ = from_first.await;
        second.tell("second");
    });
    spawn(async move {
        let _ = from_event.await;
        first.tell("first");
        let _ = to_second.send(());
        first.tell("first ends");
    });
    in_event(|| {
        let _ = to_first.send(());
        story.tell("handled");
    });
    story.is(&["handled", "first", "first ends", "second"]);
}

#[wasm_bindgen_test]
async fn what_is_woken_outside_of_an_event_runs_later_and_once() {
    let story = Story::default();
    let told = story.clone();
    let (sender, receiver) = oneshot::channel::<()>();
    spawn(async move {
        let _ = receiver.await;
        told.tell("woken");
    });
    let _ = sender.send(());
    story.is(&[]);
    yield_to_host().await;
    story.is(&["woken"]);
}

#[wasm_bindgen_test]
async fn a_task_whose_turn_comes_within_its_own_poll_gets_another() {
    let story = Story::default();
    let told = story.clone();
    let mut polls = 0;
    spawn(poll_fn(move |context| {
        polls += 1;
        told.tell("polled");
        if polls == 2 {
            return Poll::Ready(());
        }
        let own: Waker = context.waker().clone();
        // The event runs the woken tasks, this one among them, while it is being polled.
        in_event(|| own.wake());
        told.tell("waits");
        Poll::Pending
    }));
    story.is(&["polled", "waits"]);
    yield_to_host().await;
    story.is(&["polled", "waits", "polled"]);
}
