//! What other threads leave for the reactor, and how they wake it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::yield_now;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

use super::super::Job;
use crate::sync::{Mutex, lock};
use crate::sys::kept::Kept;

/// The inbox, and the reactor's bed.
pub(super) struct Inbox {
    pub epoll: Kept,
    wake: Kept,
    letters: Mutex<Letters>,
    /// Letters ever left: the reactor looks at this before it goes to sleep.
    left: AtomicUsize,
}

#[derive(Default)]
struct Letters {
    jobs: VecDeque<Job>,
    /// Slots whose jobs are to be resumed.
    told: Vec<u64>,
    asleep: bool,
    /// The process ends: what is there is sealed, and nothing more is taken.
    closing: bool,
    /// The reactor is gone.
    ended: bool,
}

impl Inbox {
    pub fn new() -> core::result::Result<Inbox, Errno> {
        let epoll = Kept::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let wake = Kept::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let data = epoll::EventData::new_u64(WAKE);
        epoll::add(&epoll, &wake, data, epoll::EventFlags::IN)?;
        Ok(Inbox {
            epoll,
            wake,
            letters: Mutex::default(),
            left: AtomicUsize::new(0),
        })
    }

    /// Returns `job` if the inbox is closed.
    pub fn submit(&self, job: Job) -> core::result::Result<(), Job> {
        let mut job = Some(job);
        self.leave(|letters| {
            if !letters.closing {
                letters.jobs.extend(job.take());
            }
        });
        job.map_or(Ok(()), Err)
    }

    /// Takes no more jobs. The reactor ends when it has done those that are there.
    pub fn close(&self) {
        self.leave(|letters| letters.closing = true);
    }

    pub fn is_closing(&self) -> bool {
        lock(&self.letters).closing
    }

    /// The reactor ends: no more jobs are taken. Returns those that it has not collected.
    pub fn end(&self) -> VecDeque<Job> {
        let mut letters = lock(&self.letters);
        letters.closing = true;
        letters.ended = true;
        core::mem::take(&mut letters.jobs)
    }

    pub fn has_ended(&self) -> bool {
        lock(&self.letters).ended
    }

    /// The job in `slot` is to be resumed.
    pub fn tell(&self, slot: u64) {
        self.leave(|letters| letters.told.push(slot));
    }

    fn leave(&self, leave: impl FnOnce(&mut Letters)) {
        let asleep = {
            let mut letters = lock(&self.letters);
            leave(&mut letters);
            // Relaxed: a hint; what was left is read under the lock.
            self.left.fetch_add(1, Ordering::Relaxed);
            core::mem::take(&mut letters.asleep)
        };
        if asleep {
            // Can only fail if the counter is full, and then the reactor is being woken.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Takes what is there; true if that is nothing.
    pub fn collect(&self, jobs: &mut VecDeque<Job>, told: &mut Vec<u64>) -> bool {
        let mut letters = lock(&self.letters);
        let nothing = letters.jobs.is_empty() && letters.told.is_empty();
        jobs.append(&mut letters.jobs);
        told.append(&mut letters.told);
        nothing
    }

    /// If nothing was left since there were `seen` letters, whoever leaves something from now on wakes the reactor.
    fn lie_down(&self, seen: usize) -> bool {
        let mut letters = lock(&self.letters);
        letters.asleep = self.left() == seen;
        letters.asleep
    }

    fn get_up(&self) {
        lock(&self.letters).asleep = false;
    }

    /// Letters ever left.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Waits a moment for more than `seen` letters: a thread that is asleep costs whoever wakes it a system call, and is
    /// awake some 50 us later. Gives the processor away meanwhile if somebody else wants it.
    pub fn linger(&self, seen: usize, most: Duration) -> bool {
        let start = Instant::now();
        while self.left() == seen {
            if start.elapsed() > most {
                return false;
            }
            yield_now();
        }
        true
    }

    /// Sleeps, unless there are more than `seen` letters, until it is woken, a descriptor is ready, or the time is up; adds the slots to `told`.
    pub fn sleep(
        &self,
        seen: usize,
        timeout: Option<Duration>,
        events: &mut Vec<epoll::Event>,
        told: &mut Vec<u64>,
    ) {
        let sleeps = timeout != Some(Duration::ZERO);
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        events.clear();
        if sleeps && !self.lie_down(seen) {
            return;
        }
        // Fails with EINTR at most.
        let _ = epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(events),
            timeout.as_ref(),
        );
        for event in events.iter() {
            match event.data.u64() {
                WAKE => {
                    let mut count = [0; 8];
                    let _ = rustix::io::read(&self.wake, &mut count);
                }
                slot => told.push(slot),
            }
        }
        self.get_up();
    }
}

/// The eventfd's number in the epoll set, which no slot has.
const WAKE: u64 = u64::MAX;
