//! Memory that is set aside for when the C library has none left.
//!
//! Rust's `Box`, `Arc` and `Vec` end the process when an allocation fails. In a program that copes with a lack of memory that
//! would be our doing (design rule 7). So the C libraries allocate by [`Reserve`]: it asks `malloc`, and where that fails it takes from
//! regions that are here already. Before a call changes anything it asks [`admit`], which fails with ENOMEM when the regions
//! run low and no new one is to be had. What a call has begun it can then finish.
//!
//! What is large has no part in what is needed to finish: whoever asks for a record's buffer does it by [`refusable`], gets
//! what the regions have above that, and copes with a refusal. What is left is small. A call needs less than 32 KiB between two questions (1024 segments
//! of a message are 16 KiB, the queue of a writer 24 KiB for 500 records), so `FLOOR` is enough for 64 threads that are all
//! in the middle of a call. Close, shutdown, poll, the fork handlers and the background threads do not ask: they are not to
//! fail, and need less than that: a few small blocks for each connection.
//!
//! Nothing here takes a lock or calls anything but `malloc` and `mmap`.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, UnsafeCell};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::alloc::System;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// `malloc`, and behind it the reserve.
pub struct Reserve;

#[cfg(feature = "reserve")]
#[global_allocator]
static ALLOCATOR: Reserve = Reserve;

/// Whether a call may begin, or take on the next record: a look at one word as long as `malloc` has memory.
///
/// # Errors
/// `ENOMEM`: the reserve is low, and there is no memory to fill it up.
#[inline]
pub fn admit() -> Result<(), Errno> {
    // Relaxed: whoever reads an old value is one of the threads that FLOOR is for.
    match cfg!(feature = "reserve") && IS_LOW.load(Ordering::Relaxed) {
        true => fill_up(),
        false => Ok(()),
    }
}

/// Runs `work`, whose allocations fail when neither `malloc` nor the reserve has memory to spare: for what is large.
pub fn refusable<T>(work: impl FnOnce() -> T) -> T {
    let before = MAY_REFUSE.replace(true);
    let result = work();
    MAY_REFUSE.set(before);
    result
}

/// `len` zero bytes, or `ENOMEM`.
///
/// # Errors
/// `ENOMEM`.
pub fn zeroed(len: usize) -> Result<Box<[u8]>, Errno> {
    let mut bytes = Vec::new();
    refusable(|| bytes.try_reserve_exact(len)).map_err(|_| Errno::NOMEM)?;
    // Has its room already.
    bytes.resize(len, 0);
    Ok(bytes.into_boxed_slice())
}

/// Whether `malloc` has memory. What it has just given and got back, it gives to this thread again. For what allocates past
/// [`Reserve`]: the standard library's threads take a block of less than 64 bytes for their names.
#[must_use]
pub fn malloc_has_memory() -> bool {
    [48, 64, 1024].iter().all(|size| {
        let Ok(layout) = Layout::from_size_align(*size, 16) else {
            return false;
        };
        // SAFETY: not of size 0.
        let ask = || unsafe { System.alloc(layout) };
        // Twice, as other threads give back.
        let block = match ask() {
            block if block.is_null() => ask(),
            block => block,
        };
        if block.is_null() {
            return false;
        }
        // SAFETY: the block that has just come, of this layout.
        unsafe { System.dealloc(core::hint::black_box(block), layout) };
        true
    })
}

thread_local! {
    /// Without a destructor, so that it is not set up at its first use, which would take memory.
    static MAY_REFUSE: Cell<bool> = const { Cell::new(false) };
}

#[cold]
fn fill_up() -> Result<(), Errno> {
    // First: a thread that takes from the reserve meanwhile sets it again.
    IS_LOW.store(false, Ordering::Relaxed);
    if REGIONS.iter().any(|region| region.room() >= FLOOR) || map_region() {
        return Ok(());
    }
    IS_LOW.store(true, Ordering::Relaxed);
    Err(Errno::NOMEM)
}

/// Maps another region; says whether there is one more.
fn map_region() -> bool {
    let Some(free) = REGIONS.iter().find(|region| region.is_unused()) else {
        return false;
    };
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let mapped = unsafe { rustix::mm::mmap_anonymous(null_mut(), REGION, protection, flags) };
    let Ok(start) = mapped else { return false };
    if !free.begin_at(start.cast()) {
        // Another thread has done it. That one is as good.
        // SAFETY: the mapping just made, which nobody knows.
        let _ = unsafe { rustix::mm::munmap(start, REGION) };
    }
    true
}

/// From the first region that has room for it.
#[cold]
fn take(layout: Layout) -> *mut u8 {
    let found = match MAY_REFUSE.get() {
        true => {
            take_surplus(layout).or_else(|| map_region().then(|| take_surplus(layout)).flatten())
        }
        false => {
            let found = REGIONS.iter().find_map(|region| region.take(layout));
            found.or_else(|| FIRST.take(layout))
        }
    };
    let Some(block) = found else {
        return null_mut();
    };
    // Relaxed: whoever frees the block has got it from here, and what it means along with it.
    WAS_USED.store(true, Ordering::Relaxed);
    IS_LOW.store(true, Ordering::Relaxed);
    block.as_ptr()
}

/// What calls do not need that have begun.
fn take_surplus(layout: Layout) -> Option<NonNull<u8>> {
    let needed = FLOOR + layout.size() + layout.align();
    let mut regions = REGIONS.iter().filter(|region| region.room() >= needed);
    regions.find_map(|region| region.take(layout))
}

/// Whether the memory is the reserve's. Nobody is to keep it longer than it is used.
#[must_use]
pub fn is_lent(memory: &[u8]) -> bool {
    home(memory.as_ptr().cast_mut()).is_some()
}

/// The region that the block is from, if it is from one.
fn home(block: *mut u8) -> Option<&'static Region> {
    if !WAS_USED.load(Ordering::Relaxed) {
        return None;
    }
    let regions = REGIONS.iter().chain([&FIRST]);
    regions.into_iter().find(|region| region.holds(block))
}

// SAFETY: blocks are malloc's, or parts of regions that no two of them share; they stay until they are given back. Layouts are passed
// on as they came.
unsafe impl GlobalAlloc for Reserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller's promise, passed on.
        let block = unsafe { System.alloc(layout) };
        match block.is_null() {
            true => take(layout),
            false => block,
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: our caller's promise, passed on.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            return block;
        }
        let block = take(layout);
        if !block.is_null() {
            // It may have been used before.
            // SAFETY: a new block of this size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match home(block) {
            Some(region) => region.give(),
            // SAFETY: our caller's promise, passed on: not one of ours, so malloc's.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if home(block).is_none() {
            // SAFETY: our caller's promise, passed on: malloc's.
            let moved = unsafe { System.realloc(block, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        }
        // SAFETY: not zero, and not too large with this alignment, by our caller's promise.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as above.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: two blocks, each at least so long.
            unsafe { moved.copy_from_nonoverlapping(block, layout.size().min(size)) };
            // SAFETY: our caller's promise; not used again.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

/// Memory that blocks are cut from, one behind the other. It is whole again when the last is given back.
struct Region {
    /// NULL: not there yet. Never changes after that.
    start: AtomicPtr<u8>,
    len: usize,
    /// Bytes cut off, and above them the number of blocks that are in use. One word, so that a step sees and changes both.
    state: AtomicU64,
}

impl Region {
    const fn new(start: *mut u8, len: usize) -> Region {
        Region {
            start: AtomicPtr::new(start),
            len,
            state: AtomicU64::new(0),
        }
    }

    fn start(&self) -> *mut u8 {
        // Acquire: pairs with `begin_at`.
        self.start.load(Ordering::Acquire)
    }

    fn is_unused(&self) -> bool {
        self.start().is_null()
    }

    fn begin_at(&self, start: *mut u8) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        let begun = self
            .start
            .compare_exchange(null_mut(), start, success, failure);
        begun.is_ok()
    }

    fn holds(&self, block: *mut u8) -> bool {
        let start = self.start();
        !start.is_null() && block.addr().wrapping_sub(start.addr()) < self.len
    }

    fn room(&self) -> usize {
        match self.is_unused() {
            true => 0,
            false => self.len - used(self.state.load(Ordering::Relaxed)),
        }
    }

    fn take(&self, layout: Layout) -> Option<NonNull<u8>> {
        let start = NonNull::new(self.start())?;
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let at = start.addr().get().checked_add(used(state))?;
            let skipped = at.next_multiple_of(layout.align()) - start.addr().get();
            let end = skipped.checked_add(layout.size())?;
            if end > self.len {
                return None;
            }
            let next = (state & !USED) + BLOCK + end as u64;
            // Acquire: pairs with `give`; who had these bytes before is done with them.
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            match self
                .state
                .compare_exchange_weak(state, next, success, failure)
            {
                // SAFETY: inside the region.
                Ok(_) => return Some(unsafe { start.add(skipped) }),
                Err(changed) => state = changed,
            }
        }
    }

    /// A block is not used any more.
    fn give(&self) {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let left = state - BLOCK;
            let next = if left < BLOCK { 0 } else { left };
            // Release: pairs with `take`.
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            match self
                .state
                .compare_exchange_weak(state, next, success, failure)
            {
                Ok(_) => return,
                Err(changed) => state = changed,
            }
        }
    }
}

fn used(state: u64) -> usize {
    (state & USED) as usize
}

/// Memory that is part of the library.
#[repr(C, align(64))]
struct Bytes(UnsafeCell<[u8; FIRST_LEN]>);

// SAFETY: handed out by a region, each byte to one owner.
unsafe impl Sync for Bytes {}

static BYTES: Bytes = Bytes(UnsafeCell::new([0; FIRST_LEN]));

/// For what comes before the first keys, which see to it that there is a larger one.
static FIRST: Region = Region::new(BYTES.0.get().cast(), FIRST_LEN);

static REGIONS: [Region; REGIONS_MAX] = [const { Region::new(null_mut(), REGION) }; REGIONS_MAX];

/// [`admit`] has to look closer. True before there is a region.
static IS_LOW: AtomicBool = AtomicBool::new(true);

/// A block has ever been taken from the reserve.
static WAS_USED: AtomicBool = AtomicBool::new(false);

const USED: u64 = u32::MAX as u64;
const BLOCK: u64 = 1 << 32;

/// Pages that nobody touches cost nothing, but count where a process may have so much and no more.
const REGION: usize = 4 << 20;
/// So much has to be left for a call to begin.
const FLOOR: usize = 2 << 20;
/// What is longest kept of a region keeps the rest of it from use. When so many are kept, new calls fail.
const REGIONS_MAX: usize = 32;
/// Every process has it that has the library.
const FIRST_LEN: usize = 256 << 10;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn region(len: usize) -> Region {
        let memory = Box::leak(vec![0u64; len / 8].into_boxed_slice());
        Region::new(memory.as_mut_ptr().cast(), len)
    }

    #[test]
    fn blocks_lie_beside_each_other_until_the_last_is_given_back() {
        let region = region(1000);
        let layout = Layout::from_size_align(100, 32).unwrap();
        let mut seen: Vec<usize> = Vec::new();
        while let Some(block) = region.take(layout) {
            let at = block.addr().get();
            assert_eq!(at % 32, 0);
            assert!(region.holds(block.as_ptr()));
            assert!(seen.last().is_none_or(|before| at >= before + 100));
            seen.push(at);
        }
        assert!((6..=10).contains(&seen.len()));
        for left in (0..seen.len()).rev() {
            assert!(region.take(layout).is_none());
            region.give();
            assert_eq!(region.room() == 1000, left == 0);
        }
        assert!(region.take(layout).is_some());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let region = region(1000);
        for size in [1001, isize::MAX as usize - 63] {
            assert!(
                region
                    .take(Layout::from_size_align(size, 64).unwrap())
                    .is_none()
            );
        }
        assert_eq!(region.room(), 1000);
    }

    /// Threads that take and give back at once never have the same bytes.
    #[test]
    fn threads_share_a_region() {
        let region: &Region = Box::leak(Box::new(region(4096)));
        let threads: Vec<_> = (1..=4u8)
            .map(|own| {
                std::thread::spawn(move || {
                    let layout = Layout::new::<[u8; 200]>();
                    for _ in 0..20_000 {
                        let Some(block) = region.take(layout) else {
                            continue;
                        };
                        let (block, pattern) = (block.cast(), [own; 200]);
                        // SAFETY: a block of 200 bytes of our own.
                        unsafe { block.write_volatile(pattern) };
                        // SAFETY: written just now.
                        let found: [u8; 200] = unsafe { block.read_volatile() };
                        assert_eq!(found, pattern);
                        region.give();
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(region.room(), 4096);
    }
}
