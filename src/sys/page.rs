//! The size of a page, for all that is mapped, protected or wiped by pages.

use core::sync::atomic::{AtomicUsize, Ordering};

/// The size of a page, or [`LARGEST`] where it cannot be told.
///
/// It comes from what the kernel gave the program at its start: that can be read in a signal handler, and
/// also without `/proc` and the right to look into it (`chroot`, `setuid`).
#[must_use]
pub fn size() -> usize {
    #[cfg(test)]
    if let Some(size) = testing::pretended() {
        return size;
    }
    match SIZE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: takes no pointer.
            let size = checked(unsafe { libc::getauxval(libc::AT_PAGESZ) });
            SIZE.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

/// The bytes of the pages that `len` bytes at the start of a page take.
#[must_use]
pub fn round_up(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(size())
}

/// The size that the kernel gave; 0 is none.
fn checked(given: libc::c_ulong) -> usize {
    usize::try_from(given)
        .ok()
        .filter(|size| size.is_power_of_two() && *size >= SMALLEST)
        .unwrap_or(LARGEST)
}

/// The smallest page that there is.
pub const SMALLEST: usize = 4096;

/// The largest page of the machines that the library is for (arm64): what is a multiple of it is whole pages
/// everywhere.
pub const LARGEST: usize = 64 * 1024;

/// [`size`], once it is known.
static SIZE: AtomicUsize = AtomicUsize::new(0);

/// Tests pretend that the machine has larger pages. Whoever maps rounds up by [`round_up`], so the kernel of
/// a machine with small pages then does to the neighbours what one with large pages would do by itself.
#[cfg(test)]
pub(crate) mod testing {
    use std::cell::Cell;

    thread_local! {
        static PRETENDED: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(super) fn pretended() -> Option<usize> {
        PRETENDED.get()
    }

    /// Calls `test` for each size that a page can have and that is none smaller than the machine's.
    pub(crate) fn for_each_size(test: impl Fn(usize)) {
        let own = super::size();
        for size in [4096, 16 * 1024, 64 * 1024] {
            if size >= own {
                PRETENDED.set(Some(size));
                test(size);
                PRETENDED.set(None);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_makes_no_sense_is_taken_for_the_largest() {
        assert_eq!(checked(0), LARGEST);
        assert_eq!(checked(100), LARGEST);
        assert_eq!(checked(4097), LARGEST);
        for size in [4096, 16384, 65536] {
            assert_eq!(checked(size), size as usize);
        }
    }

    #[test]
    fn lengths_are_rounded_up_to_pages() {
        testing::for_each_size(|page| {
            assert_eq!(size(), page);
            assert_eq!(round_up(1), Some(page));
            assert_eq!(round_up(page), Some(page));
            assert_eq!(round_up(page + 1), Some(2 * page));
            assert_eq!(round_up(usize::MAX), None);
        });
    }
}
