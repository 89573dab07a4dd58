//! Whose call it is: one at a time, and the others wait as calls on a socket do.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex;

use super::{Woken, timespec};
use crate::sys::thread;

/// A lock that is waited for as a send or a receive waits: for so long, and until a signal (MT-3, MT-4); and not at
/// all by a signal handler that has come in the middle of its thread's own turn. Otherwise as std's `Mutex`: it wakes
/// one, and makes no system call if nobody waits.
///
/// The word is 0, or twice the number of the thread whose turn it is, and 1 if somebody may be asleep: one word, so that
/// there is no moment in which a handler could not tell.
#[derive(Debug, Default)]
pub(crate) struct TurnLock(AtomicU32);

const FREE: u32 = 0;
const AWAITED: u32 = 1;

/// It is the caller's turn, until this is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct TurnGuard<'a>(&'a TurnLock);

impl TurnLock {
    /// Takes the turn if nobody has it.
    pub(crate) fn try_take(&self) -> Option<TurnGuard<'_>> {
        self.take_as(mine())
    }

    fn take_as(&self, word: u32) -> Option<TurnGuard<'_>> {
        // Acquire: pairs with the Release in `drop`; the one before is done.
        self.0
            .compare_exchange(FREE, word, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| TurnGuard(self))
    }

    /// Sleeps until the turn is taken, the time is up, or a handler has run: says which. The kernel's
    /// rules for handlers hold: see [`super::Event`].
    pub(crate) fn take(&self, timeout: Option<Duration>) -> Result<TurnGuard<'_>, Woken> {
        let mine = mine();
        // Most calls are over sooner than a sleep begins.
        for _ in 0..SPINS {
            if let Some(turn) = self.take_as(mine) {
                return Ok(turn);
            }
            core::hint::spin_loop();
        }
        let timeout = timeout.map(timespec);
        loop {
            // Relaxed: whose it is says nothing of other memory.
            let word = self.0.load(Ordering::Relaxed);
            if word & !AWAITED == mine {
                return Err(Woken::Beneath);
            }
            let awaited = word | AWAITED;
            if word == FREE {
                // Taken like this it stays awaited: others may be asleep.
                if let Some(turn) = self.take_as(mine | AWAITED) {
                    return Ok(turn);
                }
            } else if word == awaited || self.exchange(word, awaited) {
                match futex::wait(&self.0, futex::Flags::PRIVATE, awaited, timeout.as_ref()) {
                    Err(Errno::INTR) => return Err(Woken::Interrupted),
                    Err(Errno::TIMEDOUT) => return Err(Woken::TimedOut),
                    _ => {}
                }
            }
        }
    }

    /// Whether somebody may be asleep for it.
    #[cfg(test)]
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.load(Ordering::Relaxed) & AWAITED != 0
    }

    fn exchange(&self, from: u32, to: u32) -> bool {
        // Relaxed: it stays somebody else's.
        self.0
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// As [`TurnLock::take`], for as long as it takes, whatever handlers run.
    pub(crate) fn take_uninterrupted(&self) -> Result<TurnGuard<'_>, Woken> {
        loop {
            match self.take(None) {
                Err(Woken::Interrupted) => {}
                taken => return taken,
            }
        }
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `take_as`.
        if self.0.0.swap(FREE, Ordering::Release) & AWAITED != 0 {
            // The only failure is EFAULT, and the word is mapped as long as we are.
            let _ = futex::wake(&self.0.0, futex::Flags::PRIVATE, 1);
        }
    }
}

/// The word of this thread's turn.
fn mine() -> u32 {
    thread::number() << 1
}

const SPINS: u32 = 100;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let (turn, inside) = (TurnLock::default(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let _mine = turn.take_uninterrupted();
                        assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert!(turn.try_take().is_some());
    }

    #[test]
    fn nobody_waits_for_himself() {
        let turn = TurnLock::default();
        let mine = turn.try_take();
        assert_eq!(turn.take_uninterrupted().err(), Some(Woken::Beneath));
        std::thread::scope(|scope| {
            let other = scope.spawn(|| turn.take(Some(Duration::from_millis(1))).err());
            assert_eq!(other.join().unwrap(), Some(Woken::TimedOut));
        });
        assert_eq!(turn.take_uninterrupted().err(), Some(Woken::Beneath));
        drop(mine);
        assert!(turn.take(None).is_ok());
    }
}
