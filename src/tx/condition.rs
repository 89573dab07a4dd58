//! Whether a connection is sound, and what it says if it is not: the sticky error, the socket's, the end.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::{BROKEN, Connection, SHUTDOWN, shared};
use crate::error::{Error, Result};
use crate::stats::STATS;

impl Connection {
    /// Takes the sticky error as `SO_ERROR` does: later sends see what the socket itself says. A
    /// failed seal or an internal fault is not forgiven (REC-13, AS-15).
    pub fn take_error(&self) -> Option<Errno> {
        let pending = self.pending.take();
        let error = &self.counts().error;
        let raw = error.load(Ordering::Acquire);
        let Some(errno) = (raw != 0).then(|| Errno::from_raw_os_error(raw)) else {
            return pending;
        };
        if !matches!(errno, Errno::BADMSG | Errno::NOTRECOVERABLE) {
            // What was lost is lost: the stream has a hole, and a send can only say EPIPE now.
            error.store(Errno::PIPE.raw_os_error(), Ordering::Release);
        }
        (errno != Errno::PIPE).then_some(errno)
    }

    /// Marks the connection broken for good: a panic was caught in one of its calls.
    pub fn poison(&self) {
        self.fail(Error::NotRecoverable.errno());
    }

    /// The connection is dead: remember the first reason, drop what is queued, wake everybody.
    pub(super) fn fail(&self, errno: Errno) {
        self.refuse(errno);
        match self.joint() {
            // For all processes; the queue is emptied by whoever gets its lock next.
            Some(joint) => {
                joint.memory.flags.fetch_or(shared::DEAD, Ordering::AcqRel);
            }
            None => {
                self.set(BROKEN);
            }
        }
        self.list.fail();
        self.moved.signal();
        self.room.signal();
    }

    /// Nothing more is accepted: remembers the first reason. What was sealed before still goes out.
    pub(super) fn refuse(&self, errno: Errno) {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let raw = errno.raw_os_error();
        let error = &self.counts().error;
        if error.compare_exchange(0, raw, success, failure).is_ok() {
            STATS.errors.add(1);
            if errno != Errno::PIPE {
                self.pending.set(errno);
            }
            log::warn!("connection {}: broken: {errno}", self.id);
        }
        self.room.signal();
    }

    /// The sticky error, if there is one.
    pub(super) fn check(&self) -> Result<()> {
        match self.counts().error.load(Ordering::Acquire) {
            0 if self.is(SHUTDOWN) || self.is_broken() || self.is_shut() => Err(Error::BrokenPipe),
            // TX-35: what the other direction has met, until a receive or SO_ERROR takes it.
            0 => match self.pending.peek() {
                None => Ok(()),
                Some(errno) => Err(Error::from(errno)),
            },
            raw => Err(match Errno::from_raw_os_error(raw) {
                Errno::BADMSG => Error::SealFailed,
                Errno::NOTRECOVERABLE => Error::NotRecoverable,
                errno => Error::from(errno),
            }),
        }
    }

    /// Why nothing goes out any more.
    pub(super) fn dead_errno(&self) -> Errno {
        match self.counts().error.load(Ordering::Acquire) {
            // Closed by another thread.
            0 => Errno::PIPE,
            raw => Errno::from_raw_os_error(raw),
        }
    }

    /// Whether nothing goes out any more.
    pub(super) fn is_broken(&self) -> bool {
        self.is(BROKEN)
            || self
                .joint()
                .is_some_and(|joint| joint.memory.is(shared::DEAD))
    }

    /// Whether a process that shares the connection has shut its write side down.
    pub(super) fn is_shut(&self) -> bool {
        self.joint()
            .is_some_and(|joint| joint.memory.is(shared::SHUT))
    }
}
