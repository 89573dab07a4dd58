//! Whose call it is: one at a time, and the others wait as calls on a socket do.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex;

use super::{Woken, timespec};

/// A lock that is waited for as a send or a receive waits: for so long, and until a signal (MT-3, MT-4).
/// Otherwise as std's `Mutex`: it wakes one, and makes no system call if nobody waits.
#[derive(Debug, Default)]
pub(crate) struct TurnLock {
    word: AtomicU32,
    /// The thread whose turn it is and which sleeps in it; or 0.
    sleeper: AtomicI32,
}

const FREE: u32 = 0;
const TAKEN: u32 = 1;
/// Somebody may be asleep.
const AWAITED: u32 = 2;

/// It is the caller's turn, until this is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct TurnGuard<'a>(&'a TurnLock);

impl TurnLock {
    /// Takes the turn if nobody has it.
    pub(crate) fn try_take(&self) -> Option<TurnGuard<'_>> {
        // Acquire: pairs with the Release in `drop`; the one before is done.
        self.word
            .compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| TurnGuard(self))
    }

    /// Sleeps until the turn is taken, the time is up, or a handler has run: says which. The kernel's
    /// rules for handlers hold: see [`super::Event`]. Refused to a handler that has come in the middle of
    /// the turn, as far as that sleeps.
    pub(crate) fn take(&self, timeout: Option<Duration>) -> Result<TurnGuard<'_>, Woken> {
        // Most calls are over sooner than a sleep begins.
        for _ in 0..SPINS {
            if let Some(turn) = self.try_take() {
                return Ok(turn);
            }
            core::hint::spin_loop();
        }
        // Relaxed: of this thread's own value.
        let sleeper = self.sleeper.load(Ordering::Relaxed);
        if sleeper != 0 && sleeper == this_thread() {
            return Err(Woken::Beneath);
        }
        let timeout = timeout.map(timespec);
        // Acquire: as in `try_take`. Taken like this it stays awaited: others may be asleep.
        while self.word.swap(AWAITED, Ordering::Acquire) != FREE {
            match futex::wait(&self.word, futex::Flags::PRIVATE, AWAITED, timeout.as_ref()) {
                Err(Errno::INTR) => return Err(Woken::Interrupted),
                Err(Errno::TIMEDOUT) => return Err(Woken::TimedOut),
                _ => {}
            }
        }
        Ok(TurnGuard(self))
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

    /// Sleeps in the middle of the turn, which is the caller's.
    pub(crate) fn asleep<T>(&self, sleep: impl FnOnce() -> T) -> T {
        self.sleeper.store(this_thread(), Ordering::Relaxed);
        let woken = sleep();
        self.sleeper.store(0, Ordering::Relaxed);
        woken
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `try_take`.
        let word = &self.0.word;
        if word.swap(FREE, Ordering::Release) == AWAITED {
            // The only failure is EFAULT, and the word is mapped as long as we are.
            let _ = futex::wake(word, futex::Flags::PRIVATE, 1);
        }
    }
}

fn this_thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
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
        let inside = turn.asleep(|| turn.take_uninterrupted().err());
        assert_eq!(inside, Some(Woken::Beneath));
        drop(mine);
        assert!(turn.take(None).is_ok());
    }

    #[test]
    fn a_wait_ends_with_its_time() {
        let turn = TurnLock::default();
        let mine = turn.try_take();
        let soon = Some(Duration::from_millis(1));
        assert_eq!(turn.take(soon).err(), Some(Woken::TimedOut));
        drop(mine);
        assert!(turn.take(soon).is_ok());
    }
}
