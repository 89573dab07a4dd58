//! Which of the program's memory can be read or written: what the kernel finds out as it copies, and
//! answers with EFAULT.
//!
//! Memory is asked about a page at a time, when it is first seen: a system call, and after that a look
//! at a table. What can go away at any time ([`fleeting`]) is asked about whenever it is used. What the program has taken
//! away since ([`forget`] is not told of all) crashes as it would in any library.
//!
//! The kernel could copy (`process_vm_readv`, a pipe), and nothing would have to be known. That costs 0.5 us for 64
//! bytes, which are sealed in 0.1 us, and 1 us for 16 KiB, which are sealed in 1.5 us; to ask each time costs 0.2 and 0.3 us.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use rustix::io::Errno;

use super::raw::{self, Argument};
use super::{errno, fleeting, page};

/// What is to be done with the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// How many of the `len` bytes at `start` can be read: all, or those up to the first page that cannot.
#[must_use]
pub fn readable(start: *const u8, len: usize) -> usize {
    KNOWN.accessible(Access::Read, start.addr(), len)
}

/// How many of the `len` bytes at `start` can be written: as [`readable`]. Changes nothing there.
#[must_use]
pub fn writable(start: *const u8, len: usize) -> usize {
    KNOWN.accessible(Access::Write, start.addr(), len)
}

/// The program takes `len` bytes at `start` away, or changes what may be done with them.
pub fn forget(start: *const u8, len: usize) {
    KNOWN.forget(start, len);
}

/// The program changes memory in a way of which it is not known where; or this is a new process, which has not all
/// of its parent's memory (`MADV_DONTFORK`).
pub fn forget_all() {
    KNOWN.forget_all();
}

type Table = [AtomicUsize; PLACES];

/// What a process has been told.
struct Known {
    /// Pages that could be read, or written, when they were last asked about, each at its place.
    readable: Table,
    writable: Table,
    /// Whether the tables have anything.
    any: AtomicBool,
    /// Counts in the bits that page numbers leave.
    epoch: AtomicUsize,
}

/// Neighbours have places beside each other; what lies far apart does not meet because the distance is a
/// round number, as it is between the heaps that the C library gives to threads.
fn place(table: &Table, page: usize) -> &AtomicUsize {
    let region = (page / 512).wrapping_mul(SPREAD) >> (usize::BITS / 2);
    &table[page.wrapping_add(region) % PLACES]
}

impl Known {
    const fn new() -> Known {
        Known {
            readable: [const { AtomicUsize::new(NONE) }; PLACES],
            writable: [const { AtomicUsize::new(NONE) }; PLACES],
            any: AtomicBool::new(false),
            epoch: AtomicUsize::new(0),
        }
    }

    fn table(&self, access: Access) -> &Table {
        match access {
            Access::Read => &self.readable,
            Access::Write => &self.writable,
        }
    }

    fn forget(&self, start: *const u8, len: usize) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let size = page::size();
        let first = start.addr() / PAGE;
        let pages = len.checked_next_multiple_of(size).unwrap_or(len) / PAGE;
        for table in [&self.readable, &self.writable] {
            if pages < PLACES {
                for page in first..first + pages {
                    let place = place(table, page);
                    if place.load(Ordering::Relaxed) & PAGES == page + 1 {
                        place.store(NONE, Ordering::Relaxed);
                    }
                }
                continue;
            }
            for place in table {
                let seen = place.load(Ordering::Relaxed) & PAGES;
                if seen != NONE && (seen - 1).wrapping_sub(first) < pages {
                    place.store(NONE, Ordering::Relaxed);
                }
            }
        }
    }

    fn forget_all(&self) {
        // What was seen in an earlier epoch does not count. An epoch that comes again must find nothing of its own.
        if self.epoch.fetch_add(PAGES + 1, Ordering::Relaxed) == !PAGES {
            self.forget(core::ptr::null(), usize::MAX);
        }
    }

    #[inline]
    fn accessible(&self, access: Access, start: usize, len: usize) -> usize {
        if cfg!(miri) || len == 0 {
            return len;
        }
        // No program has the upper half of the addresses.
        let Some(last) = start
            .checked_add(len - 1)
            .filter(|last| isize::try_from(*last).is_ok())
        else {
            return 0;
        };
        let (first, last) = (start / PAGE, last / PAGE);
        for page in first..=last {
            if !self.is_seen(access, page) {
                return match self.asked(access, page, last) {
                    None => len,
                    Some(bad) => (bad * PAGE).saturating_sub(start),
                };
            }
        }
        len
    }

    fn is_seen(&self, access: Access, page: usize) -> bool {
        let seen = place(self.table(access), page).load(Ordering::Relaxed);
        // Relaxed: only a number, which says nothing of other memory.
        seen == page + 1 + self.epoch.load(Ordering::Relaxed)
    }

    fn see(&self, access: Access, page: usize) {
        let seen = page + 1 + self.epoch.load(Ordering::Relaxed);
        place(self.table(access), page).store(seen, Ordering::Relaxed);
        if !self.any.load(Ordering::Relaxed) {
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// Asks the kernel about pages `first` to `last`; the first bad one. Leaves errno alone.
    #[cold]
    fn asked(&self, access: Access, first: usize, last: usize) -> Option<usize> {
        let before = errno::get();
        let bad = self.first_bad(access, first, last);
        errno::set(before);
        bad
    }

    fn first_bad(&self, access: Access, first: usize, last: usize) -> Option<usize> {
        let pages = first..=last;
        let lasts = !fleeting::holds(first * PAGE, last * PAGE + (PAGE - 1));
        if first != 0 && all_are_good(access, first, last) {
            if lasts {
                pages.for_each(|page| self.see(access, page));
            }
            return None;
        }
        for page in pages {
            if !self.is_seen(access, page) {
                if page == 0 || !is_good(access, page) {
                    return Some(page);
                }
                if lasts {
                    self.see(access, page);
                }
            }
        }
        None
    }
}

/// Whether the kernel says so of all at once. If not, there is a bad one, or it cannot say: Linux
/// before 5.14, devices' memory.
fn all_are_good(access: Access, first: usize, last: usize) -> bool {
    let size = page::size();
    let start = first * PAGE / size * size;
    let end = ((last + 1) * PAGE).next_multiple_of(size);
    let advice = match access {
        Access::Read => libc::MADV_POPULATE_READ,
        Access::Write => libc::MADV_POPULATE_WRITE,
    };
    let start_at = core::ptr::without_provenance_mut(start);
    // SAFETY: takes the pages into memory as a read or write of the program would, and changes none.
    unsafe { libc::madvise(start_at, end - start, advice) == 0 }
}

/// Asks about one page, by system calls that say EFAULT and do nothing.
fn is_good(access: Access, page: usize) -> bool {
    let start = page * PAGE;
    let result = match access {
        Access::Read => {
            let arguments = [(!0).into(), start.into(), Argument::NONE, 8usize.into()];
            // SAFETY: the set is read before the first argument, which is none that there is, is
            // refused. No reference to it is made.
            unsafe { raw::call(libc::SYS_rt_sigprocmask, arguments) }
        }
        Access::Write => {
            let (wake, own) = (libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG, &OWN);
            // Adds 0 to the program's word, and wakes nobody at ours; nor at the program's, where nobody
            // sleeps: it is a buffer (and a futex may always wake too early).
            let operation = libc::FUTEX_OP_ADD << 28 | libc::FUTEX_OP_CMP_EQ << 24;
            let arguments = [
                own.as_ptr().into(),
                wake.into(),
                0usize.into(),
                0usize.into(),
                start.into(),
                operation.into(),
            ];
            // SAFETY: an atomic addition of 0 in the kernel, which fails where nothing can be written.
            unsafe { raw::call(libc::SYS_futex, arguments) }
        }
    };
    result != Err(Errno::FAULT)
}

/// Nobody waits at it.
static OWN: AtomicU32 = AtomicU32::new(0);

static KNOWN: Known = Known::new();

/// An empty place; a page's number is kept with 1 added, and with the epoch.
const NONE: usize = 0;

/// The bits of a page's number: no processor has addresses of 64 bits.
const PAGES: usize = usize::MAX >> 12;

/// The smallest page that there is: a larger one is several of these.
const PAGE: usize = page::SMALLEST;

/// 256 MiB of buffers: those of ten thousand connections. What is never used of the tables is no memory.
const PLACES: usize = 65536;

/// 2^64 divided by the golden ratio.
const SPREAD: usize = 0x9e37_79b9_7f4a_7c15_u64 as usize;

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    /// Three pages, of which the last has been taken away.
    struct Area(*mut u8);

    impl Area {
        fn new() -> Area {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: new memory, which nobody else has.
            let start = unsafe {
                mmap_anonymous(
                    core::ptr::null_mut(),
                    3 * PAGE,
                    protection,
                    MapFlags::PRIVATE,
                )
            };
            let area = Area(start.unwrap().cast());
            area.protect(2, MprotectFlags::empty());
            area
        }

        fn at(&self, offset: usize) -> *mut u8 {
            self.0.wrapping_add(offset)
        }

        fn protect(&self, page: usize, protection: MprotectFlags) {
            let start = self.at(page * PAGE);
            // SAFETY: memory of ours, to which there are no references.
            unsafe { mprotect(start.cast(), PAGE, protection) }.unwrap();
            forget(start, PAGE);
        }
    }

    impl Drop for Area {
        fn drop(&mut self) {
            // SAFETY: as in `protect`.
            unsafe { munmap(self.0.cast(), 3 * PAGE) }.unwrap();
            forget(self.0, 3 * PAGE);
        }
    }

    #[test]
    fn good_memory_ends_where_a_bad_page_begins() {
        let area = Area::new();
        errno::set(77);
        for ask in [readable, writable] {
            for _ in 0..2 {
                assert_eq!(ask(area.at(5), 0), 0);
                assert_eq!(ask(area.at(5), 2 * PAGE - 5), 2 * PAGE - 5);
                assert_eq!(ask(area.at(5), 2 * PAGE - 4), 2 * PAGE - 5);
                assert_eq!(ask(area.at(2 * PAGE), 1), 0);
            }
        }
        assert_eq!(errno::get(), 77);
    }

    /// The C library gives threads heaps that begin 64 MiB apart.
    #[test]
    fn heaps_of_threads_keep_their_places() {
        let heaps = (1..=64).map(|heap| 0x7f00_0000_0000 / PAGE + heap * (64 << 20) / PAGE);
        let pages: Vec<usize> = heaps.flat_map(|first| first..first + 16).collect();
        let mut places: Vec<_> = pages
            .iter()
            .map(|page| core::ptr::from_ref(place(&KNOWN.readable, *page)))
            .collect();
        places.sort();
        places.dedup();
        assert!(
            places.len() > pages.len() * 9 / 10,
            "{} of {}",
            places.len(),
            pages.len()
        );
    }

    /// One by one says what all at once does, as on kernels that cannot say it at once.
    #[test]
    fn each_page_by_itself() {
        let area = Area::new();
        area.protect(1, MprotectFlags::READ);
        let page = area.0.addr() / PAGE;
        // SAFETY: the first page is ours.
        unsafe { area.0.write(7) };
        let ask = |access| [0, 1, 2].map(|n| is_good(access, page + n));
        assert_eq!(ask(Access::Read), [true, true, false]);
        assert_eq!(ask(Access::Write), [true, false, false]);
        // SAFETY: as above.
        assert_eq!(unsafe { area.0.read() }, 7, "asking changes nothing");
    }

    #[test]
    fn what_is_only_read_cannot_be_written() {
        let area = Area::new();
        area.protect(1, MprotectFlags::READ);
        assert_eq!(readable(area.at(0), 2 * PAGE), 2 * PAGE);
        assert_eq!(writable(area.at(0), 2 * PAGE), PAGE);
    }

    #[test]
    fn what_is_taken_away_is_forgotten() {
        static OWN: Known = Known::new();
        let (area, access) = (Area::new(), [Access::Read, Access::Write]);
        let at = area.at(PAGE).addr();
        let ask = || access.map(|access| OWN.accessible(access, at, 9));
        assert_eq!(ask(), [9, 9]);
        area.protect(1, MprotectFlags::empty());
        assert_eq!(ask(), [9, 9], "nobody has told");
        OWN.forget(area.at(PAGE), 9);
        assert_eq!(ask(), [0, 0]);
        assert_eq!(OWN.accessible(Access::Read, area.0.addr(), 9), 9);
        OWN.forget(core::ptr::null(), usize::MAX);
        assert!(
            (OWN.readable.iter().chain(&OWN.writable))
                .all(|place| place.load(Ordering::Relaxed) == NONE)
        );
    }

    #[test]
    fn a_new_process_knows_nothing() {
        static OWN: Known = Known::new();
        let area = Area::new();
        let page = area.0.addr() / PAGE;
        // As often as it takes for the epoch to come again.
        for _ in 0..5000 {
            assert_eq!(OWN.accessible(Access::Read, area.0.addr(), 9), 9);
            assert!(OWN.is_seen(Access::Read, page));
            OWN.forget_all();
            assert!(!OWN.is_seen(Access::Read, page));
        }
    }

    #[test]
    fn fleeting_memory_is_not_remembered() {
        let area = Area::new();
        fleeting::add(area.0.addr(), 2 * PAGE);
        assert_eq!(readable(area.at(0), 9), 9);
        // Nobody tells.
        // SAFETY: memory of ours, to which there are no references.
        unsafe { mprotect(area.0.cast(), PAGE, MprotectFlags::empty()) }.unwrap();
        assert_eq!(readable(area.at(0), 9), 0);
        fleeting::remove(area.0.addr(), 3 * PAGE);
    }

    #[test]
    fn addresses_that_no_program_has() {
        for start in [0, 16, PAGE - 1, usize::MAX - 8, 1 << 63, (1 << 63) - 4] {
            let start = core::ptr::without_provenance(start);
            assert_eq!(
                (readable(start, 9), writable(start, 9)),
                (0, 0),
                "{start:?}"
            );
        }
    }
}
