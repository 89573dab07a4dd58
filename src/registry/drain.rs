//! The end of the process, or of its program: what was accepted goes out first (design rule 3).
//!
//! It may come in a signal handler, by `_exit`, in the middle of anything that this thread was at: a call of
//! ours, `malloc`. So a connection that has nothing to send, which nearly all have not, costs no lock and
//! no memory; and of the others those are left alone whose locks do not become free. What remains is a
//! handler that came inside `malloc` and a connection that needs memory to seal its rest: [`stalled`] tells
//! whoever watches over the end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{LINGERING, ORPHANAGE, config, world};
use crate::error::Error;
use crate::sync::try_lock;
use crate::sys::{fork_guard, net};
use crate::tx::{Connection, Drain};

/// Waits until every connection's accepted bytes are with the kernel, of all at once, and until `deadline`. What readers have
/// not taken by then is lost: those connections are reset when the process lets go of them, so that no peer takes what
/// it has got for the whole.
pub fn drain_all(deadline: Deadline) {
    let locks = Instant::now() + PATIENCE;
    let deadline = deadline.instant();
    let longest = (3 * PATIENCE).as_millis();
    LONGEST_STEP_MS.store(longest.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    let (mut before, mut nap) = (u64::MAX, SHORTEST_NAP);
    loop {
        STEPS.fetch_add(1, Ordering::Relaxed);
        let (mut left, mut first) = (0, None);
        for_each_unsent(locks, |connection| {
            // What fails now has nobody left to tell.
            if connection.drain() == Ok(Drain::Pending) {
                left += connection.unsent();
                first.get_or_insert_with(|| Arc::clone(connection));
            }
        });
        let orphanage = ORPHANAGE.load_full();
        left += orphanage.as_ref().map_or(0, |orphanage| orphanage.unsent());
        if left == 0 && first.is_none() {
            return;
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            break;
        }
        nap = match left < before {
            true => SHORTEST_NAP,
            false => (2 * nap).min(LONGEST_NAP),
        };
        before = left;
        // The worker transmits by the others meanwhile, and the next round does if there is no worker.
        match (first, orphanage) {
            (Some(first), _) => drop(first.flush(Some(nap.min(rest)))),
            (None, Some(orphanage)) => orphanage.wait(nap.min(rest)),
            (None, None) => {}
        }
    }
    for_each_unsent(locks, |connection| {
        if connection.is_last() {
            net::reset_at_close(connection.fd());
        }
    });
}

/// Until when the bytes of a process that ends, or of its program, are waited for.
#[derive(Clone, Copy, Debug)]
pub enum Deadline {
    /// The process ends: one deadline, however many times the end comes by (handlers of `atexit`, then `_exit`).
    OfProcess,
    /// It may go on, as another program.
    OfProgram,
}

impl Deadline {
    fn instant(self) -> Instant {
        let linger = config().linger;
        let rest = match self {
            Deadline::OfProgram => linger,
            Deadline::OfProcess => {
                let now = monotonic();
                let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                let ends = ms(now + linger).max(1);
                let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
                let first = ENDS_AT_MS.compare_exchange(0, ends, success, failure);
                Duration::from_millis(first.err().unwrap_or(ends)).saturating_sub(now)
            }
        };
        Instant::now() + rest
    }
}

fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// A forked child has an end of its own.
pub(super) fn reset_in_child() {
    ENDS_AT_MS.store(0, Ordering::Relaxed);
}

/// When the end of the process stops waiting; 0 before it begins.
static ENDS_AT_MS: AtomicU64 = AtomicU64::new(0);

/// Waits until the bytes of one connection are with the kernel.
pub(super) fn drain_one(connection: &Arc<Connection>, linger: Duration) {
    let mut before = connection.pending();
    let mut begin = Instant::now();
    loop {
        STEPS.fetch_add(1, Ordering::Relaxed);
        match connection.flush(Some(linger.saturating_sub(begin.elapsed()))) {
            Err(Error::Interrupted) => {}
            Err(Error::Os(Errno::TIMEDOUT)) if connection.pending() < before => {
                before = connection.pending();
                begin = Instant::now();
            }
            _ => return,
        }
    }
}

/// Whether [`drain_all`] has come no further for longer than anything in it takes. To be asked every
/// `period`, also in a signal handler.
pub fn stalled(period: Duration) -> bool {
    let steps = STEPS.load(Ordering::Relaxed);
    let period: u64 = period.as_millis().try_into().unwrap_or(u64::MAX);
    if SEEN_STEPS.swap(steps, Ordering::Relaxed) != steps {
        QUIET_MS.store(0, Ordering::Relaxed);
        return false;
    }
    let quiet = QUIET_MS.fetch_add(period, Ordering::Relaxed);
    quiet.saturating_add(period) > LONGEST_STEP_MS.load(Ordering::Relaxed)
}

static STEPS: AtomicU64 = AtomicU64::new(0);
static SEEN_STEPS: AtomicU64 = AtomicU64::new(0);
static QUIET_MS: AtomicU64 = AtomicU64::new(0);
static LONGEST_STEP_MS: AtomicU64 = AtomicU64::new(u64::MAX);

/// Every connection of this process signs off; `drain` is called for those that have something to send,
/// the lingering ones too.
/// Locks are waited for until `deadline`.
fn for_each_unsent(deadline: Instant, mut drain: impl FnMut(&Arc<Connection>)) {
    let mut each = |connection: &Arc<Connection>| {
        STEPS.fetch_add(1, Ordering::Relaxed);
        connection.leave();
        // TX-58: the end of the process closes the socket, and that resets it.
        let resets = || connection.is_last() && net::resets(connection.fd());
        if connection.has_unsent() && !resets() && connection.can_be_locked(deadline) {
            drain(connection);
        }
    };
    world::states()
        .filter_map(|(_, socket)| Option::clone(&socket))
        .filter(|socket| socket.is_of(fork_guard::epoch()))
        .filter_map(|socket| socket.tx().cloned())
        .for_each(|connection| each(&connection));
    // The lock is not held while a reader is waited for. From the end: what others take out meanwhile only
    // moves the rest down.
    let mut rest = lingering_until(deadline).map_or(0, |lingering| lingering.len());
    while rest > 0 {
        rest -= 1;
        let connection =
            lingering_until(deadline).and_then(|lingering| lingering.get(rest)?.upgrade());
        if let Some(connection) = connection {
            each(&connection);
        }
    }
}

fn lingering_until(deadline: Instant) -> Option<MutexGuard<'static, Vec<Weak<Connection>>>> {
    loop {
        match try_lock(&LINGERING) {
            Some(lingering) => return Some(lingering),
            None if Instant::now() >= deadline => return None,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// How long the locks that others hold are waited for. None is held across a sleep, so it is long.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the drain sleeps between two looks at all connections, while nothing moves at most.
const SHORTEST_NAP: Duration = Duration::from_millis(1);
const LONGEST_NAP: Duration = Duration::from_millis(100);
