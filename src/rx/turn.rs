//! Whose receive it is: one call at a time.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::sync::{Event, Woken};

/// A lock that is waited for as a receive waits: for so long, and until a signal (MT-4).
#[derive(Default)]
pub(super) struct TurnLock {
    taken: AtomicBool,
    free: Event,
}

/// It is the caller's turn, until this is dropped.
#[must_use]
pub(super) struct TurnGuard<'a>(&'a TurnLock);

impl TurnLock {
    /// Takes the turn if nobody has it.
    pub(super) fn try_take(&self) -> Option<TurnGuard<'_>> {
        // Acquire: pairs with the Release in `drop`; the one before is done.
        let taken = self.taken.swap(true, Ordering::Acquire);
        (!taken).then(|| TurnGuard(self))
    }

    /// Sleeps until the turn is taken, the time is up, or a handler has run: says which.
    pub(super) fn take(&self, timeout: Option<Duration>) -> Result<TurnGuard<'_>, Woken> {
        loop {
            let ticket = self.free.ticket();
            if let Some(mine) = self.try_take() {
                return Ok(mine);
            }
            match self.free.wait(ticket, timeout) {
                Woken::Signalled if timeout.is_none() => {}
                woken => return Err(woken),
            }
        }
    }
}

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `try_take`.
        self.0.taken.store(false, Ordering::Release);
        self.0.free.signal();
    }
}
