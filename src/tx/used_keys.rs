//! The keys that a connection of several processes has sealed with, so that none is taken twice
//! (design rule 1).
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::steps::step;

/// Fingerprints of keys, in memory that processes share. Changed only under the connection's lock.
pub(super) struct UsedKeys {
    /// How many keys there were; more than there is room for means that nothing is known.
    count: AtomicU32,
    seen: [AtomicU64; ROOM],
}

impl UsedKeys {
    /// `earlier` are fingerprints of the process that is about to fork: its children inherit the
    /// secret that they are made with.
    pub(super) fn new(earlier: &[u64]) -> UsedKeys {
        let used = UsedKeys {
            count: AtomicU32::new(0),
            seen: [const { AtomicU64::new(0) }; ROOM],
        };
        for &key in earlier {
            if used.add(key).is_err() {
                break;
            }
        }
        used
    }

    /// Notes `old`, the key in force, as `new` is about to come in its place. Perhaps it never does:
    /// then this is called again.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `new` has been in force before; `ENOMEM` if there is no room to know that
    /// of one more.
    pub(super) fn replace(&self, old: u64, new: u64) -> Result<()> {
        if self.has(new) {
            return Err(Error::Invalid);
        }
        if self.has(old) { Ok(()) } else { self.add(old) }
    }

    fn has(&self, key: u64) -> bool {
        let count = self.count.load(Ordering::Relaxed) as usize;
        let seen = &self.seen[..count.min(ROOM)];
        seen.iter().any(|seen| seen.load(Ordering::Relaxed) == key)
    }

    fn add(&self, key: u64) -> Result<()> {
        let count = self.count.load(Ordering::Relaxed) as usize;
        let Some(place) = self.seen.get(count) else {
            return Err(Error::Os(Errno::NOMEM));
        };
        step();
        place.store(key, Ordering::Relaxed);
        step();
        // Release: a process that finds the count, even by the death of this one, finds the key.
        self.count.fetch_add(1, Ordering::Release);
        step();
        Ok(())
    }
}

/// Rekeys that are remembered. 2 KiB of shared memory; at 2^24 records a key, four thousand million records.
const ROOM: usize = 256;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_once() {
        let used = UsedKeys::new(&[1, 2]);
        for key in [1, 2] {
            assert_eq!(used.replace(3, key), Err(Error::Invalid));
        }
        assert_eq!(used.replace(3, 4), Ok(()));
        for key in [1, 2, 3] {
            assert_eq!(used.replace(4, key), Err(Error::Invalid));
        }
        assert_eq!(used.replace(4, 5), Ok(()));
        assert_eq!(used.replace(5, 4), Err(Error::Invalid));
    }

    /// Whoever was to bring them into force has died.
    #[test]
    fn keys_that_never_came_into_force_may_be_set() {
        let used = UsedKeys::new(&[]);
        assert_eq!(used.replace(1, 2), Ok(()));
        assert_eq!(used.replace(1, 2), Ok(()));
        assert_eq!(used.count.load(Ordering::Relaxed), 1);
        assert_eq!(used.replace(2, 1), Err(Error::Invalid));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let earlier: Vec<u64> = (0..ROOM as u64).collect();
        let used = UsedKeys::new(&earlier);
        assert_eq!(used.replace(1000, 2000), Err(Error::Os(Errno::NOMEM)));
        let used = UsedKeys::new(&[earlier.as_slice(), &[3000, 3001]].concat());
        assert_eq!(used.replace(1000, 2000), Err(Error::Os(Errno::NOMEM)));
    }
}
