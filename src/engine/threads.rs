//! The thread pool: seals records of one connection, or of many, on several cores at once.
//!
//! The threads are started by the first job, take no signals of the program's, and end when the
//! pool is dropped.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::{Engine, Job};
use crate::stats::STATS;
use crate::sys::thread;

/// A pool of sealing threads behind one queue.
///
/// The queue only carries jobs: no argument about order or visibility rests on it (results are
/// ordered by the submitter's ready list, under its own lock). Its length is bounded by the
/// per-connection limit on accepted bytes.
pub struct Pool {
    threads: usize,
    queue: OnceLock<Option<Sender<Job>>>,
}

impl Pool {
    /// A pool that will have `threads` threads, none of them started yet.
    #[must_use]
    pub fn new(threads: usize) -> Pool {
        Pool {
            threads: threads.max(1),
            queue: OnceLock::new(),
        }
    }

    fn start(&self) -> Option<Sender<Job>> {
        let (sender, receiver) = unbounded::<Job>();
        let started = (0..self.threads)
            .filter(|_| {
                let receiver = receiver.clone();
                thread::spawn_quiet("uktls-seal", move || work(&receiver))
            })
            .count();
        (started > 0).then_some(sender)
    }
}

impl Engine for Pool {
    fn submit(&self, job: Job) {
        STATS.sealed_threads.add(1);
        match self.queue.get_or_init(|| self.start()) {
            Some(queue) => {
                if let Err(rejected) = queue.send(job) {
                    // Every thread is gone, which only a panic outside a job could bring about.
                    rejected.into_inner().run();
                }
            }
            // No thread could be started (EAGAIN): slower, but nothing is lost.
            None => job.run(),
        }
    }
}

fn work(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        job.run();
    }
}
