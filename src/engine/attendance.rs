//! How many threads of a pool are there: they come when there is something to do, and end when there has been nothing.
//!
//! Whoever leaves a task puts it into the queue and then asks whether anybody is there. A thread that ends takes itself
//! off and then looks into the queue. One of the two comes second, and sees what the other has done.
#![forbid(unsafe_code)]

use crate::sync::atomic::{AtomicUsize, Ordering, fence};

/// The threads of a pool.
pub(super) struct Attendance {
    most: usize,
    here: AtomicUsize,
    /// Those that wait for a task.
    asleep: AtomicUsize,
}

impl Attendance {
    pub(super) fn new(most: usize) -> Attendance {
        Attendance {
            most,
            here: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
        }
    }

    /// Whether one more thread would have something to do: fewer wait than there are tasks, and there may be more. To be
    /// asked behind the task.
    pub(super) fn wants_more(&self, tasks: usize) -> bool {
        // SeqCst: pairs with the one in `leaves`.
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) < tasks && self.here.load(Ordering::Relaxed) < self.most
    }

    /// Whether nobody is there. To be asked behind the task.
    pub(super) fn is_deserted(&self) -> bool {
        fence(Ordering::SeqCst);
        self.here.load(Ordering::Relaxed) == 0
    }

    /// A thread comes, or is about to: false if there are enough.
    pub(super) fn enters(&self) -> bool {
        let more = |here| (here < self.most).then_some(here + 1);
        // SeqCst: with the fences it makes one order of comings, leavings and looks.
        self.here
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, more)
            .is_ok()
    }

    /// It has not come.
    pub(super) fn stays_away(&self) {
        self.here.fetch_sub(1, Ordering::SeqCst);
    }

    /// Does `sleep`, in which a thread waits for a task.
    pub(super) fn asleep<T>(&self, sleep: impl FnOnce() -> T) -> T {
        // SeqCst: a thread that wakes is off before it is off the count of those who are there.
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let woken = sleep();
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        woken
    }

    /// A thread that has waited in vain wants to end. It may, if this returns true; `is_more` says whether a task has come
    /// meanwhile.
    pub(super) fn leaves(&self, is_more: impl FnOnce() -> bool) -> bool {
        self.here.fetch_sub(1, Ordering::SeqCst);
        // SeqCst: pairs with the one in `wants_more`.
        fence(Ordering::SeqCst);
        // If there are enough by now, they have come behind the task.
        !is_more() || !self.enters()
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use super::*;
    use crate::sync::{Arc, Mutex, lock};

    struct Model {
        attendance: Attendance,
        queue: Mutex<u32>,
        done: Mutex<u32>,
    }

    impl Model {
        fn take(&self) -> bool {
            let taken = core::mem::take(&mut *lock(&self.queue));
            *lock(&self.done) += taken;
            taken > 0
        }
        /// A thread that finds nothing for long, from the first look on.
        fn run(&self) {
            loop {
                while self.attendance.asleep(|| self.take()) {}
                if self.attendance.leaves(|| *lock(&self.queue) > 0) {
                    return;
                }
            }
        }
    }

    /// AS-20: a task that was left is done, whenever the last thread ends.
    #[test]
    fn a_task_against_an_end() {
        loom::model(|| {
            let model = Arc::new(Model {
                attendance: Attendance::new(1),
                queue: Mutex::new(0),
                done: Mutex::new(0),
            });
            assert!(model.attendance.enters());
            let thread = {
                let model = Arc::clone(&model);
                loom::thread::spawn(move || model.run())
            };
            *lock(&model.queue) += 1;
            // As a pool that cannot start another: whoever finds it deserted does what there is.
            if model.attendance.is_deserted() {
                model.take();
            }
            thread.join().unwrap();
            assert_eq!(*lock(&model.done), 1, "a task without a thread");
        });
    }
}
