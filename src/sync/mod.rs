//! Locks, atomics and sleeping: the only file that names std's or loom's.
//!
//! Under `--cfg loom` the types are loom's, so that the models in `tx::ready_list` and
//! `tx::deferral` explore every interleaving of the code that runs in production.
#![forbid(unsafe_code)]

#[cfg_attr(loom, allow(dead_code))]
pub(crate) mod slot;
pub(crate) mod turn;

#[cfg(all(test, loom))]
pub(crate) use loom::sync::Arc;
#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

use std::sync::PoisonError;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex;

/// Locks `mutex`, also after a panic under it.
///
/// A panic in the core marks its connection broken (`capi::guard`), and that mark, not the poison
/// of one lock, is what later calls look at; so the poison is passed over.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`lock`], unless somebody holds it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

/// [`lock`] of a lock that no model has, unless somebody holds it.
pub(crate) fn try_lock_std<T>(mutex: &std::sync::Mutex<T>) -> Option<std::sync::MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

/// What `attempt` comes to, within half a second.
pub(crate) fn patiently<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    (0..5000).find_map(|round| {
        let got = attempt();
        if got.is_none() {
            match round {
                0..64 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(100)),
            }
        }
        got
    })
}

/// How a sleep on an [`Event`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The event was signalled after the ticket was taken (or the wake was spurious).
    Signalled,
    /// The time was up.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
    /// What is waited for is further down on this thread's own stack: it is a signal handler, and would
    /// wait for ever.
    Beneath,
}

/// A counter to sleep on: take a ticket, check the condition, wait on the ticket.
///
/// It is a bare futex and not a condition variable, because a futex wait keeps the kernel's rules
/// for signals: without a timeout it is restarted after a handler installed with `SA_RESTART` and
/// fails with `EINTR` after one without; with a timeout it always fails with `EINTR`. Those are
/// the rules of a blocking `send(2)` (TX-31), which a condition variable would hide.
#[derive(Debug, Default)]
pub(crate) struct Event {
    count: std::sync::atomic::AtomicU32,
    sleepers: std::sync::atomic::AtomicU32,
}

impl Event {
    /// The state to hand to [`Event::wait`]; take it before looking at the condition.
    pub(crate) fn ticket(&self) -> u32 {
        // Acquire: pairs with the Release in `signal`; who sees the new count also sees what was
        // done before the signal.
        self.count.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Wakes everybody who waits on an older ticket. Without sleepers it makes no system call.
    pub(crate) fn signal(&self) {
        use std::sync::atomic::Ordering::SeqCst;
        // SeqCst on both sides: either the sleeper's `sleepers` increment comes first and is seen
        // here, or this increment comes first and the futex finds the count changed.
        self.count.fetch_add(1, SeqCst);
        if self.sleepers.load(SeqCst) != 0 {
            // The only failure is EFAULT, and `count` is mapped as long as we are.
            let _ = futex::wake(&self.count, futex::Flags::PRIVATE, i32::MAX as u32);
        }
    }

    /// Sleeps until a signal after `ticket`, for at most `timeout`.
    pub(crate) fn wait(&self, ticket: u32, timeout: Option<Duration>) -> Woken {
        use std::sync::atomic::Ordering::SeqCst;
        let timeout = timeout.map(timespec);
        self.sleepers.fetch_add(1, SeqCst);
        let result = futex::wait(&self.count, futex::Flags::PRIVATE, ticket, timeout.as_ref());
        self.sleepers.fetch_sub(1, SeqCst);
        match result {
            Err(Errno::TIMEDOUT) => Woken::TimedOut,
            Err(Errno::INTR) => Woken::Interrupted,
            // AGAIN: the count had already moved on.
            _ => Woken::Signalled,
        }
    }
}

fn timespec(time: Duration) -> futex::Timespec {
    futex::Timespec {
        tv_sec: time.as_secs().min(i64::MAX as u64) as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}
