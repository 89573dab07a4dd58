//! Which processes share something: a list of process ids in shared memory.
//!
//! A process that ends by `_exit` or a signal cannot sign off, so whoever wants to know whether it
//! is the last asks the kernel about the others. A process id of another namespace may be taken for
//! dead and one that was used again for alive, so nothing that must be exact hangs on the answer.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions};

use super::steps::step;

/// The list. All zeroes is the empty one.
#[derive(Debug)]
pub struct Members {
    pids: [AtomicU32; PIDS_MAX],
    /// Processes that are being forked, or that the list had no room for.
    unlisted: AtomicU32,
}

impl Members {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Members {
        Members {
            pids: [const { AtomicU32::new(0) }; PIDS_MAX],
            unlisted: AtomicU32::new(0),
        }
    }

    /// A process is about to be forked, which will call [`Members::join`]: until then nobody is the
    /// last.
    pub fn expect(&self) {
        self.unlisted.fetch_add(1, Ordering::SeqCst);
    }

    /// The fork has failed.
    pub fn expect_no_more(&self) {
        self.unlisted.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether there are processes that are not in the list, or not yet.
    #[must_use]
    pub fn is_expecting(&self) -> bool {
        self.unlisted.load(Ordering::SeqCst) > 0
    }

    /// This process was announced by [`Members::expect`] and is here now.
    pub fn join(&self) {
        let own = std::process::id();
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        let listed = self
            .pids
            .iter()
            .any(|pid| pid.compare_exchange(0, own, success, failure).is_ok());
        step();
        if listed {
            self.unlisted.fetch_sub(1, Ordering::SeqCst);
        }
        step();
    }

    /// Signs this process off; says whether it was the last.
    pub fn leave(&self) -> bool {
        let own = std::process::id();
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        let listed = self
            .pids
            .iter()
            .any(|pid| pid.compare_exchange(own, 0, success, failure).is_ok());
        if !listed {
            // One of those that found no room.
            self.unlisted.fetch_sub(1, Ordering::SeqCst);
        }
        step();
        self.others(None) == 0 && self.unlisted.load(Ordering::SeqCst) == 0
    }

    /// Whether no other process is left.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.others(Some(std::process::id())) == 0 && self.unlisted.load(Ordering::SeqCst) == 0
    }

    fn others(&self, own: Option<u32>) -> usize {
        let is_other = |pid: u32| pid != 0 && Some(pid) != own && is_alive(pid);
        self.pids
            .iter()
            .filter(|pid| is_other(pid.load(Ordering::SeqCst)))
            .count()
    }
}

impl Default for Members {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether there is a process `pid` that has not ended. A child of another process counts until it
/// is reaped.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    if rustix::process::test_kill_process(pid) == Err(Errno::SRCH) {
        return false;
    }
    // One of our own children may have ended and wait to be reaped.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::Pid(pid), look), Ok(Some(_)))
}

/// A process more than this is never counted as gone.
const PIDS_MAX: usize = 64;
