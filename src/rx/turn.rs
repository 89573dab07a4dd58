//! Whose receive it is: one call at a time.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::sync::{Event, Woken};

/// A lock that is waited for as a receive waits: for so long, and until a signal (MT-4).
#[derive(Default)]
pub(super) struct Turn {
    taken: AtomicBool,
    free: Event,
}

/// It is the caller's turn, until this is dropped.
#[must_use]
pub(super) struct Mine<'a>(&'a Turn);

impl Turn {
    /// Takes the turn if nobody has it.
    pub(super) fn try_take(&self) -> Option<Mine<'_>> {
        // Acquire: pairs with the Release in `drop`; the one before is done.
        let taken = self.taken.swap(true, Ordering::Acquire);
        (!taken).then(|| Mine(self))
    }

    /// Sleeps until the turn is taken, the time is up, or a handler has run: says which.
    pub(super) fn take(&self, timeout: Option<Duration>) -> Result<Mine<'_>, Woken> {
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

impl Drop for Mine<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `try_take`.
        self.0.taken.store(false, Ordering::Release);
        self.0.free.signal();
    }
}
