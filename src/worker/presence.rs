//! A thread that comes when there is something to do, and ends when there is not.
//!
//! Whoever leaves something to it puts that under a lock, and behind that asks whether the thread is there. The thread
//! ends under the same lock, having found nothing. So either it finds what was left, or it is found to be gone.
#![forbid(unsafe_code)]

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};

/// Whether a thread is there.
pub(super) struct Presence {
    runs: AtomicBool,
    /// One starts it.
    starting: Mutex<()>,
}

impl Presence {
    pub(super) fn new() -> Presence {
        Presence {
            runs: AtomicBool::new(false),
            starting: Mutex::new(()),
        }
    }

    /// Has `spawn` start the thread if there is none. False: there is none, and what was left is the caller's, whoever
    /// has left it.
    pub(super) fn is_ensured(&self, spawn: impl FnOnce() -> bool) -> bool {
        // Acquire: pairs with the Release in `end`.
        if self.runs.load(Ordering::Acquire) {
            return true;
        }
        let _one = lock(&self.starting);
        if self.runs.load(Ordering::Acquire) {
            return true;
        }
        // Before the thread, which may end before this call goes on. Who sees it and is disappointed has left what it had
        // by then.
        self.runs.store(true, Ordering::Release);
        let is_there = spawn();
        if !is_there {
            self.runs.store(false, Ordering::Release);
        }
        is_there
    }

    /// The thread ends: called by it, under the locks of what could be left to it.
    pub(super) fn end(&self) {
        // Release: pairs with the Acquire in `is_ensured`.
        self.runs.store(false, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::Arc;

    /// What is left to the thread, and what it has done.
    struct Model {
        presence: Presence,
        left: Mutex<u32>,
        done: Mutex<u32>,
        threads: Mutex<Vec<loom::thread::JoinHandle<()>>>,
        can_start: bool,
    }

    fn take(model: &Model) {
        let taken = core::mem::take(&mut *lock(&model.left));
        *lock(&model.done) += taken;
    }

    /// The thread: does what there is, and ends at the first moment in which there is nothing.
    fn run(model: &Model) {
        loop {
            take(model);
            let left = lock(&model.left);
            if *left == 0 {
                model.presence.end();
                return;
            }
        }
    }

    fn leave(model: &Arc<Model>) {
        *lock(&model.left) += 1;
        let is_there = model.presence.is_ensured(|| {
            if model.can_start {
                let own = Arc::clone(model);
                let thread = loom::thread::spawn(move || run(&own));
                lock(&model.threads).push(thread);
            }
            model.can_start
        });
        if !is_there {
            take(model);
        }
    }

    fn two_calls(can_start: bool) {
        loom::model(move || {
            let model = Arc::new(Model {
                presence: Presence::new(),
                left: Mutex::new(0),
                done: Mutex::new(0),
                threads: Mutex::new(Vec::new()),
                can_start,
            });
            let other = {
                let model = Arc::clone(&model);
                loom::thread::spawn(move || leave(&model))
            };
            leave(&model);
            other.join().unwrap();
            loop {
                let Some(thread) = lock(&model.threads).pop() else {
                    break;
                };
                thread.join().unwrap();
            }
            assert_eq!(*lock(&model.done), 2, "something was left without a thread");
        });
    }

    /// AS-20: nothing is left to a thread that ends.
    #[test]
    fn calls_against_an_end() {
        two_calls(true);
    }

    /// Nor to one that was not to be had.
    #[test]
    fn calls_without_a_thread() {
        two_calls(false);
    }
}
