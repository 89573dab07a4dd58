//! One memory and one table of numbers, or else no keys.
//!
//! What this library knows of a number lies in memory, and what the kernel knows lies in a table of descriptors. The two
//! change together as long as every task that has the memory has the table, and no other task has it. A `clone` or an
//! `unshare` can part them: one table with two memories, of which each knows only half of what happens to the numbers,
//! or one memory with two tables, where a number means two things. So a process that has TLS sockets is not let do
//! that, and one that has none sets no keys afterwards: there it only looks, call by call, whether another process has
//! set some (`marks::raise_floor`).
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::numbers::OfSocket;
use super::{NUMBERS, keys, lingering};
use crate::error::{Error, Result};
use crate::sys::signals::Blocked;
use crate::sys::{fork_guard, marks, streams, thread};

/// What a `clone(2)` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clone {
    /// A thread.
    Thread,
    /// The child of a `vfork(2)`: its parent's memory, and a table of its own.
    Vfork,
    /// A process with memory and table of its own.
    Fork,
    /// A process with memory of its own in the same table.
    ForkInTable,
    /// Something with the same memory that is neither of the first two.
    InMemory,
}

impl Clone {
    /// By the flags of the system call.
    #[must_use]
    pub fn of(flags: u64) -> Clone {
        let has = |flag: i32| flags & u64::from(flag as u32) != 0;
        match (has(libc::CLONE_VM), has(libc::CLONE_FILES)) {
            (false, false) => Clone::Fork,
            (false, true) => Clone::ForkInTable,
            (true, true) if has(libc::CLONE_THREAD) => Clone::Thread,
            (true, false) if has(libc::CLONE_VFORK) && !has(libc::CLONE_THREAD) => Clone::Vfork,
            (true, _) => Clone::InMemory,
        }
    }

    /// Whether it parts the memory and the table.
    #[must_use]
    pub fn parts(self) -> bool {
        matches!(self, Clone::ForkInTable | Clone::InMemory)
    }
}

/// The memory and the table of this process are about to be parted.
///
/// # Errors
/// `EOPNOTSUPP` if the process has TLS sockets, or has closed some whose bytes are still on their way.
pub fn part() -> Result<()> {
    let _quiet = Blocked::new();
    // Keys that another thread sets come before this, or find it.
    let keys = keys::lock();
    if has_tls() {
        static TOLD: AtomicBool = AtomicBool::new(false);
        if !TOLD.swap(true, Ordering::Relaxed) {
            log::warn!(
                "a clone or unshare is refused: it would part the numbers of TLS sockets from what is known of them"
            );
        }
        return Err(Error::Os(Errno::OPNOTSUPP));
    }
    if !are_apart() {
        log::info!("memory and descriptor table part: no keys are taken from here on");
        APART.store(true, Ordering::Release);
        marks::raise_floor();
        drop(keys);
        streams::leave_watched();
    }
    Ok(())
}

/// The calling task is about to get a table of its own (`CLONE_FILES` of `unshare(2)`, `CLOSE_RANGE_UNSHARE`).
///
/// # Errors
/// As [`part`], if other tasks have the memory.
pub fn unshare() -> Result<()> {
    match fork_guard::is_child_of_vfork() || thread::is_alone() {
        true => Ok(()),
        false => part(),
    }
}

/// Whether memory and table have been parted.
pub(super) fn are_apart() -> bool {
    // Under the lock of the keys, which orders it.
    APART.load(Ordering::Relaxed)
}

fn has_tls() -> bool {
    let table = NUMBERS.lock_table();
    if table.states().any(|socket| socket.has_keys()) {
        return true;
    }
    drop(table);
    lingering()
        .iter()
        .any(|connection| connection.strong_count() > 0)
}

static APART: AtomicBool = AtomicBool::new(false);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_clone_is_told_by_its_flags() {
        let of = |flags: i32| Clone::of(u64::from(flags as u32));
        assert_eq!(of(libc::SIGCHLD), Clone::Fork);
        assert_eq!(of(libc::CLONE_VM | libc::CLONE_VFORK), Clone::Vfork);
        let thread = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        assert_eq!(of(thread), Clone::Thread);
        assert!(!of(thread).parts() && !of(0).parts() && !of(libc::CLONE_VFORK).parts());
        for flags in [
            libc::CLONE_FILES,
            libc::CLONE_FILES | libc::CLONE_VFORK,
            libc::CLONE_VM,
            libc::CLONE_VM | libc::CLONE_FILES,
            libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_VFORK,
            libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_THREAD,
            thread & !libc::CLONE_FILES,
        ] {
            assert!(of(flags).parts(), "{flags:#x}");
        }
        // A flag of clone3 alone.
        assert_eq!(
            Clone::of(1 << 32 | libc::CLONE_FILES as u64),
            Clone::ForkInTable
        );
    }
}
