//! Steps of what processes do in memory that they share, for tests that kill a process at each of
//! them and look at what it leaves to the others. Nothing without the feature `fault-injection`.
#![forbid(unsafe_code)]

/// A step is done, or about to be. The armed process ends here when it is its turn.
#[inline(always)]
pub(crate) fn step() {
    #[cfg(feature = "fault-injection")]
    armed::step();
}

#[cfg(feature = "fault-injection")]
pub use armed::{die_at, watch_seals};

#[cfg(feature = "fault-injection")]
pub(crate) use armed::sealing;

#[cfg(feature = "fault-injection")]
mod armed {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::os::fd::RawFd;
    use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

    use rustix::process::Signal;

    use crate::sys::net::borrow;

    /// Steps until the end of the process; 0: it is not armed.
    static LEFT: AtomicU64 = AtomicU64::new(0);
    static SEALS: AtomicI32 = AtomicI32::new(-1);

    /// Kills this process, as `SIGKILL` does, at the `n`th step from now; 0: at none.
    pub fn die_at(n: u64) {
        LEFT.store(n, Ordering::SeqCst);
    }

    pub(crate) fn step() {
        let count = |left: u64| left.checked_sub(1);
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        if LEFT.fetch_update(success, failure, count) == Ok(1) {
            let own = rustix::process::getpid();
            while rustix::process::kill_process(own, Signal::KILL).is_ok() {}
        }
    }

    /// From now on each record that is sealed with shared keys is told to the descriptor `fd`, by
    /// this process and its children: key, number, and a hash of type and plaintext, 8 bytes each.
    pub fn watch_seals(fd: RawFd) {
        SEALS.store(fd, Ordering::SeqCst);
    }

    pub(crate) fn sealing(key: u64, number: u64, content_type: u8, plain: &[u8]) {
        let Ok(fd) = borrow(SEALS.load(Ordering::SeqCst)) else {
            return;
        };
        // Without keys: the same in all processes.
        let mut hasher = DefaultHasher::new();
        (content_type, plain).hash(&mut hasher);
        let entry = [key, number, hasher.finish()].map(u64::to_ne_bytes);
        let written = rustix::io::write(fd, entry.as_flattened());
        assert_eq!(written, Ok(24), "a pipe takes it whole or not at all");
    }
}
