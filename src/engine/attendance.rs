//! How many threads of a pool are there: they come when there is something to do, and end when there has been nothing.
//!
//! Whoever leaves a task puts it into the queue and then asks whether anybody is there. A thread that ends takes itself
//! off and then looks into the queue. One of the two comes second, and sees what the other has done.
#![forbid(unsafe_code)]

use core::time::Duration;

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

/// The threads of a pool.
pub(super) struct Attendance {
    most: usize,
    here: AtomicUsize,
    /// Those that wait for a task.
    asleep: AtomicUsize,
    /// Milliseconds of the pool's clock, before which no thread is asked for.
    next_try: AtomicU64,
}

impl Attendance {
    pub(super) fn new(most: usize) -> Attendance {
        Attendance {
            most,
            here: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            next_try: AtomicU64::new(0),
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

    /// Whether a thread may be asked for at `now`: the system has refused none lately. To ask costs as much as to seal
    /// several records.
    pub(super) fn may_ask(&self, now: Duration) -> bool {
        // Relaxed: whoever reads an old value asks once more.
        millis(now) >= self.next_try.load(Ordering::Relaxed)
    }

    /// The thread has not come: the system has refused it at `now`.
    pub(super) fn stays_away(&self, now: Duration) {
        let next = millis(now + BACK_OFF);
        self.next_try.store(next, Ordering::Relaxed);
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How long no thread is asked for once the system has refused one.
const BACK_OFF: Duration = Duration::from_millis(100);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_for_a_while() {
        let attendance = Attendance::new(2);
        let refused = Duration::from_secs(5);
        assert!(attendance.may_ask(Duration::ZERO));
        assert!(attendance.enters());
        attendance.stays_away(refused);
        assert!(attendance.is_deserted());
        assert!(!attendance.may_ask(refused + BACK_OFF / 2));
        assert!(attendance.may_ask(refused + BACK_OFF));
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
