//! Memory that goes away without a call of this process: a file that is mapped can be cut short by any
//! process, and a thread gives up its right to a protection key by an instruction.
//!
//! The preload library tells where it is. It cannot be known for long that such memory is good, so that is
//! not remembered ([`super::user_memory`]). Mappings come in signal handlers and in memory allocators: no lock
//! is taken, and no memory.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The `len` bytes at `start` are from now on.
pub fn add(start: usize, len: usize) {
    ALL.add(start, len);
}

/// Something else has taken the place of the `len` bytes at `start`, or nothing.
pub fn remove(start: usize, len: usize) {
    ALL.remove(start, len);
}

/// No memory is good for longer than it is looked at.
pub fn add_everything() {
    ALL.too_many.store(true, Ordering::Relaxed);
}

/// Whether any of the bytes at `first` to `last` are.
#[must_use]
pub fn holds(first: usize, last: usize) -> bool {
    ALL.holds(first, last)
}

struct Ranges {
    ranges: [Range; PLACES],
    /// Places that have ever been used: all in front of this.
    used: AtomicUsize,
    /// There are more than places: all memory counts.
    too_many: AtomicBool,
}

struct Range {
    start: AtomicUsize,
    /// Behind the last byte, or [`FREE`] or [`TAKEN`].
    end: AtomicUsize,
}

const FREE: usize = 0;
/// Somebody is about to put a range here.
const TAKEN: usize = 1;

/// A program that has mapped more files pays 0.3 us a record, for all memory.
const PLACES: usize = 128;

static ALL: Ranges = Ranges::new();

impl Ranges {
    const fn new() -> Ranges {
        Ranges {
            ranges: [const {
                Range {
                    start: AtomicUsize::new(0),
                    end: AtomicUsize::new(FREE),
                }
            }; PLACES],
            used: AtomicUsize::new(0),
            too_many: AtomicBool::new(false),
        }
    }

    fn add(&self, start: usize, len: usize) {
        if len == 0 {
            return;
        }
        let (take, then) = (Ordering::Relaxed, Ordering::Relaxed);
        for (at, range) in self.ranges.iter().enumerate() {
            if range.end.load(Ordering::Relaxed) != FREE
                || range.end.compare_exchange(FREE, TAKEN, take, then).is_err()
            {
                continue;
            }
            range.start.store(start, Ordering::Relaxed);
            // Release: whoever sees the end sees this start.
            range
                .end
                .store(start.saturating_add(len), Ordering::Release);
            // The program's own order of its calls is what makes the rest seen in time.
            self.used.fetch_max(at + 1, Ordering::Release);
            return;
        }
        self.too_many.store(true, Ordering::Relaxed);
    }

    /// Forgets ranges that lie wholly there; what remains of others is still to be asked about.
    fn remove(&self, start: usize, len: usize) {
        for range in self.used() {
            let end = range.end.load(Ordering::Acquire);
            if end > TAKEN
                && range.start.load(Ordering::Relaxed) >= start
                && end <= start.saturating_add(len)
            {
                // Fails if another thread has done the same.
                let _ = range
                    .end
                    .compare_exchange(end, FREE, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    fn holds(&self, first: usize, last: usize) -> bool {
        self.too_many.load(Ordering::Relaxed)
            || self.used().any(|range| {
                // Acquire: pairs with the Release in `add`.
                range.end.load(Ordering::Acquire) > first.max(TAKEN)
                    && range.start.load(Ordering::Relaxed) <= last
            })
    }

    fn used(&self) -> impl Iterator<Item = &Range> {
        self.ranges[..self.used.load(Ordering::Acquire)].iter()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_and_go() {
        let ranges = Ranges::new();
        assert!(!ranges.holds(0, usize::MAX));
        ranges.add(4096, 8192);
        ranges.add(20480, 0);
        for (first, last, held) in [
            (0, 4095, false),
            (0, 4096, true),
            (5000, 5000, true),
            (12287, 40000, true),
            (12288, 40000, false),
        ] {
            assert_eq!(ranges.holds(first, last), held, "{first} to {last}");
        }
        ranges.remove(4096, 4096);
        assert!(ranges.holds(8192, 8192), "a part of it is left");
        ranges.remove(0, 12288);
        assert!(!ranges.holds(0, usize::MAX));
    }

    #[test]
    fn more_than_there_are_places_is_everything() {
        let ranges = Ranges::new();
        for round in 0..3 {
            for n in 0..PLACES {
                ranges.add((2 * n + 1) * 4096, 4096);
            }
            assert!(!ranges.holds(0, 4095), "{round}");
            for n in 0..PLACES {
                ranges.remove((2 * n + 1) * 4096, 4096);
            }
        }
        for n in 0..=PLACES {
            ranges.add((2 * n + 1) * 4096, 4096);
        }
        assert!(ranges.holds(0, 0));
    }
}
