//! The thread pool: seals records of one connection, or of many, on several cores at once.
//!
//! The threads are started by the first job, take no signals of the program's, and end when the
//! pool is dropped.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, SendError, Sender, unbounded};

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
    queue: OnceLock<Option<Sender<Task>>>,
    /// Threads that relay, or are about to.
    relaying: Arc<AtomicUsize>,
}

enum Task {
    Seal(Job),
    Relay(Arc<dyn Relay>),
}

impl Pool {
    /// A pool that will have `threads` threads, none of them started yet.
    #[must_use]
    pub fn new(threads: usize) -> Pool {
        Pool {
            threads: threads.max(1),
            queue: OnceLock::new(),
            relaying: Arc::default(),
        }
    }

    /// The way to the threads, which are started if they may be.
    fn queue(&self) -> Option<&Sender<Task>> {
        match self.queue.get() {
            Some(queue) => queue.as_ref(),
            None if !thread::would_stay() => None,
            None => self.queue.get_or_init(|| self.start()).as_ref(),
        }
    }

    fn start(&self) -> Option<Sender<Task>> {
        let (sender, receiver) = unbounded::<Task>();
        let started = (0..self.threads)
            .filter(|_| {
                let (receiver, relaying) = (receiver.clone(), Arc::clone(&self.relaying));
                thread::spawn_quiet("uktls-seal", move || work(&receiver, &relaying))
            })
            .count();
        (started > 0).then_some(sender)
    }
}

impl Engine for Pool {
    fn submit(&self, job: Job) {
        STATS.sealed_threads.add(1);
        match self.queue() {
            Some(queue) => {
                // Fails if every thread is gone, which only a panic outside a job could bring about.
                if let Err(SendError(Task::Seal(job))) = queue.send(Task::Seal(job)) {
                    job.run();
                }
            }
            // No thread could be started (EAGAIN): slower, but nothing is lost.
            None => job.run(),
        }
    }

    fn relay(&self, relay: &Arc<dyn Relay>) -> bool {
        // Relaxed: a count of threads that are taken; the queue carries the rest.
        let taken = self.relaying.fetch_add(1, Ordering::Relaxed);
        let queue = self.queue();
        let done = taken < self.threads
            && queue.is_some_and(|queue| queue.send(Task::Relay(Arc::clone(relay))).is_ok());
        if !done {
            self.relaying.fetch_sub(1, Ordering::Relaxed);
        }
        done
    }
}

fn work(queue: &Receiver<Task>, relaying: &AtomicUsize) {
    while let Ok(task) = queue.recv() {
        match task {
            Task::Seal(job) => job.run(),
            Task::Relay(relay) => {
                relay.relay();
                relaying.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
