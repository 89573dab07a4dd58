//! The end of the process, or of its program: what was accepted goes out first (design rule 3).
//!
//! It may come in a signal handler, by `_exit`, in the middle of anything that this thread was at: a call of
//! ours, `malloc`. So a connection that has nothing to send, which nearly all have not, costs no lock and
//! no memory; and of the others those are left alone whose locks do not become free.

use std::sync::{Arc, MutexGuard, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use rustix::io::Errno;

use super::{LINGERING, config, slots};
use crate::error::Error;
use crate::sync::try_lock;
use crate::sys::fork_guard;
use crate::tx::Connection;

/// Waits until every connection's accepted bytes are with the kernel. Gives up on a reader that has
/// taken nothing for the linger time.
pub fn drain_all() {
    let deadline = Instant::now() + PATIENCE;
    for_each_unsent(deadline, |connection| {
        // What fails now has nobody left to tell.
        let _ = connection.drain();
    });
    let linger = config().linger;
    for_each_unsent(deadline, |connection| drain_one(connection, linger));
}

/// Waits until the bytes of one connection are with the kernel.
pub(super) fn drain_one(connection: &Arc<Connection>, linger: Duration) {
    loop {
        let before = connection.pending();
        match connection.flush(Some(linger)) {
            Err(Error::Interrupted) => {}
            Err(Error::Os(Errno::TIMEDOUT)) if connection.pending() < before => {}
            _ => return,
        }
    }
}

/// Every connection of this process signs off; `drain` is called for those that have something to send,
/// the lingering ones too.
/// Locks are waited for until `deadline`.
fn for_each_unsent(deadline: Instant, drain: impl Fn(&Arc<Connection>)) {
    let each = |connection: &Arc<Connection>| {
        connection.leave();
        if connection.has_unsent() && connection.can_be_locked(deadline) {
            drain(connection);
        }
    };
    slots()
        .filter_map(|(_, slot)| ArcSwapOption::load_full(slot))
        .filter(|socket| socket.is_of(fork_guard::epoch()))
        .filter_map(|socket| socket.tx().cloned())
        .for_each(|connection| each(&connection));
    let Some(lingering) = lingering_until(deadline) else {
        return;
    };
    // The lock is not held while a reader is waited for.
    let closed: Vec<_> = lingering.iter().filter_map(Weak::upgrade).collect();
    drop(lingering);
    closed.iter().for_each(each);
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
