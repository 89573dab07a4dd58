//! The thread pool: seals records of one connection, or of many, on several cores at once.
//!
//! Its threads come with the jobs, take no signals of the program's, and end when there has been nothing to do for a
//! while: all of them, also with an engine that was asked for. A program may need to be one of a single thread again, or
//! end by the end of its last one; to start a thread costs as much as to seal ten records.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::attendance::Attendance;
use super::{Engine, Job, Relay};
use crate::stats::STATS;
use crate::sys::thread;

/// A pool of sealing threads behind one queue.
///
/// The queue only carries jobs: no argument about order or visibility rests on it (results are
/// ordered by the submitter's ready list, under its own lock). Its length is bounded by the
/// per-connection limit on accepted bytes.
pub struct Pool {
    threads: usize,
    sender: Sender<Task>,
    inner: Arc<Inner>,
    born: Instant,
}

struct Inner {
    queue: Receiver<Task>,
    attendance: Attendance,
    /// Threads that relay, or are about to.
    relaying: AtomicUsize,
}

enum Task {
    Seal(Job),
    Relay(Arc<dyn Relay>),
}

impl Pool {
    /// A pool that will have `threads` threads at most, none of them started yet.
    #[must_use]
    pub fn new(threads: usize) -> Pool {
        let (threads, (sender, queue)) = (threads.max(1), unbounded());
        let inner = Inner {
            queue,
            attendance: Attendance::new(threads),
            relaying: AtomicUsize::new(0),
        };
        Pool {
            threads,
            sender,
            inner: Arc::new(inner),
            born: Instant::now(),
        }
    }

    /// Starts one more thread, if there may be more and none was refused lately. Whether it comes.
    fn start(&self) -> bool {
        let attendance = &self.inner.attendance;
        if !attendance.may_ask(self.born.elapsed()) || !thread::would_stay() || !attendance.enters()
        {
            return false;
        }
        let inner = Arc::clone(&self.inner);
        let comes = thread::spawn_quiet("uktls-seal", move || inner.work());
        if !comes {
            attendance.stays_away(self.born.elapsed());
        }
        comes
    }

    /// Leaves `task` to the threads. If there are none and none can be started, the caller does what there is: slower,
    /// but nothing is lost.
    fn leave(&self, task: Task) {
        // Cannot fail: the other end is in `inner`.
        let _ = self.sender.send(task);
        if self.inner.attendance.wants_more(self.inner.queue.len())
            && !self.start()
            && self.inner.attendance.is_deserted()
        {
            while let Ok(task) = self.inner.queue.try_recv() {
                self.inner.perform(task);
            }
        }
    }
}

impl Engine for Pool {
    fn submit(&self, job: Job) {
        STATS.sealed_threads.add(1);
        self.leave(Task::Seal(job));
    }

    fn relay(&self, relay: &Arc<dyn Relay>) -> bool {
        // Relaxed: a count of threads that are taken; the queue carries the rest.
        let taken = self.inner.relaying.fetch_add(1, Ordering::Relaxed);
        let done = taken < self.threads && (!self.inner.attendance.is_deserted() || self.start());
        match done {
            true => self.leave(Task::Relay(Arc::clone(relay))),
            false => drop(self.inner.relaying.fetch_sub(1, Ordering::Relaxed)),
        }
        done
    }
}

impl Inner {
    fn work(&self) {
        let wait = || self.queue.recv_timeout(thread::IDLE);
        loop {
            // Busy threads do not count as asleep, so that a task that finds them so has another started.
            let task = (self.queue.try_recv().ok()).or_else(|| self.attendance.asleep(wait).ok());
            match task {
                Some(task) => self.perform(task),
                None if self.attendance.leaves(|| !self.queue.is_empty()) => return,
                None => {}
            }
        }
    }

    fn perform(&self, task: Task) {
        match task {
            Task::Seal(job) => job.run(),
            Task::Relay(relay) => {
                relay.relay();
                self.relaying.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
