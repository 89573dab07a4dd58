//! Which process are we, as far as keys are concerned?
//!
//! A (key, nonce) pair must never be used twice (design rule 1), so a process may only seal with
//! keys that were set in itself, or that the fork handlers have made it share. The *epoch* tells:
//! connections remember the one in which they were set up or shared. It lives in a page that the kernel wipes in every child (`MADV_WIPEONFORK`), so that it
//! is also right in a child that came by a raw `clone`, behind the back of `pthread_atfork`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::page;

/// The epoch of this process; never 0, and another one in every child.
pub fn epoch() -> u64 {
    let page = PAGE.get_or_init(Page::map);
    let cell = page.cell();
    match cell.load(Ordering::Acquire) {
        0 => {
            // First use, or we are a child: the wiped page gets a number that no parent had.
            // `LAST` was copied by the fork, so it counts on from the parent's value.
            let next = LAST.fetch_add(1, Ordering::AcqRel) + 1;
            match cell.compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    PROCESS.store(own_process(), Ordering::Relaxed);
                    next
                }
                Err(other) => other,
            }
        }
        epoch => epoch,
    }
}

/// Whether this is the child of a `vfork(2)`: it has its parent's memory, but descriptors of its own.
pub fn is_child_of_vfork() -> bool {
    epoch();
    let own = own_process();
    // Negative: a sandbox refuses to tell.
    own > 0 && PROCESS.load(Ordering::Relaxed) != own
}

fn own_process() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Begins a new epoch: called in the child by the fork handler, also where the kernel knows no
/// `MADV_WIPEONFORK`.
pub fn new_epoch() {
    PAGE.get_or_init(Page::map)
        .cell()
        .store(0, Ordering::Release);
    epoch();
}

/// Whether the environment comes from somebody with our own rights (not setuid, setgid or with
/// file capabilities).
#[must_use]
pub fn environment_is_trusted() -> bool {
    // SAFETY: takes no pointer.
    unsafe { libc::getauxval(libc::AT_SECURE) == 0 }
}

struct Page(*mut core::ffi::c_void);

// SAFETY: the page is only accessed through the atomic in it.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    fn map() -> Page {
        let len = page::size();
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let page =
            unsafe { rustix::mm::mmap_anonymous(core::ptr::null_mut(), len, protection, flags) };
        let Ok(page) = page else {
            // Without memory for a page there is none for connections either; a static one keeps
            // the fork handler's part of the protection.
            return Page(core::ptr::from_ref(&FALLBACK).cast_mut().cast());
        };
        // Miri knows no advice, and does not fork.
        if cfg!(miri) {
            return Page(page);
        }
        // Linux before 4.14 does not know the advice: there the fork handler is the protection.
        // SAFETY: the range is the mapping just made.
        let _ = unsafe { rustix::mm::madvise(page, len, Advice::LinuxWipeOnFork) };
        Page(page)
    }

    fn cell(&self) -> &AtomicU64 {
        // SAFETY: the mapping is page-aligned, zeroed, and never unmapped.
        unsafe { &*self.0.cast::<AtomicU64>() }
    }
}

static PAGE: OnceLock<Page> = OnceLock::new();
static FALLBACK: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
/// The process of the present epoch.
static PROCESS: AtomicI32 = AtomicI32::new(0);

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    /// The whole of a page, of whatever size, and nothing else is wiped in a child.
    #[test]
    fn a_child_finds_the_page_wiped() {
        page::testing::for_each_size(|size| {
            let page = Page::map();
            page.cell().store(5, Ordering::Relaxed);
            let end = page.0.wrapping_byte_add(size - 8).cast::<AtomicU64>();
            // SAFETY: the last word of the page, which is aligned and stays mapped.
            let end = unsafe { &*end };
            end.store(6, Ordering::Relaxed);
            let beside = AtomicU64::new(7);
            #[expect(clippy::disallowed_methods, reason = "a test may fork")]
            // SAFETY: the child loads from memory of its own and ends.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let found = [page.cell(), end, &beside].map(|cell| cell.load(Ordering::Relaxed));
                #[expect(clippy::disallowed_methods, reason = "as above")]
                // SAFETY: ends the child without running anything of the parent's.
                unsafe {
                    libc::_exit(i32::from(found != [0, 0, 7]))
                };
            }
            let mut status = 0;
            // SAFETY: `status` is an int of ours.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!(status, 0, "pages of {size}");
            assert_eq!(page.cell().load(Ordering::Relaxed), 5);
        });
    }
}
