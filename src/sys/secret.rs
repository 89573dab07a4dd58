//! Memory for key material: kept out of core dumps, wiped when it is given back.
//!
//! Cells of a few sizes are cut from regions that carry `MADV_DONTDUMP`; freed cells are kept for
//! the next key.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use std::alloc::Layout;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::page;
use crate::sync::try_lock_std;

/// Owns a value in memory that is not dumped and is wiped on drop.
pub struct SecretBox<T> {
    cell: NonNull<T>,
    owns: PhantomData<T>,
}

impl<T> SecretBox<T> {
    /// Moves `value` in.
    ///
    /// The copy that the caller built it from is the caller's to wipe.
    #[must_use]
    pub fn new(value: T) -> Self {
        const { assert!(align_of::<T>() <= GRAIN && size_of::<T>() <= CELL_MAX) };
        let cell = arena().take(class::<T>()).cast::<T>();
        // SAFETY: the cell is ours, aligned to GRAIN and large enough for T.
        unsafe { cell.write(value) };
        SecretBox {
            cell,
            owns: PhantomData,
        }
    }
}

impl<T> Deref for SecretBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: holds a T since `new`, and nobody else has the cell.
        unsafe { self.cell.as_ref() }
    }
}

impl<T> DerefMut for SecretBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and borrowed exclusively through `self`.
        unsafe { self.cell.as_mut() }
    }
}

impl<T> Drop for SecretBox<T> {
    fn drop(&mut self) {
        // SAFETY: holds a T since `new`; not used again.
        unsafe { self.cell.drop_in_place() };
        let bytes = self.cell.cast::<u8>();
        for at in 0..class::<T>() * GRAIN {
            // SAFETY: inside the cell.
            let byte = unsafe { bytes.add(at) };
            // SAFETY: as above; volatile, so that wiping memory nobody reads again is not
            // optimised away.
            unsafe { byte.write_volatile(0) };
        }
        arena().give(class::<T>(), bytes);
    }
}

// SAFETY: owns its T, as a Box does.
unsafe impl<T: Send> Send for SecretBox<T> {}
// SAFETY: shared access is through `deref` only.
unsafe impl<T: Sync> Sync for SecretBox<T> {}

/// The arena's lock, held while the process forks.
pub struct Held(#[expect(dead_code, reason = "held for its drop")] MutexGuard<'static, Arena>);

/// Keeps the arena from changing, and so usable in the child, while the process forks.
#[must_use]
pub fn hold() -> Held {
    Held(arena())
}

/// [`hold`], unless somebody has it.
#[must_use]
pub fn try_hold() -> Option<Held> {
    try_lock_std(&ARENA).map(Held)
}

struct Arena {
    /// Free cells, by class.
    free: [Vec<Cell>; CLASSES],
    /// The rest of the newest region.
    fresh: Option<(Cell, usize)>,
}

#[derive(Clone, Copy)]
struct Cell(NonNull<u8>);

// SAFETY: an address of memory that nobody uses; the arena's lock orders who may.
unsafe impl Send for Cell {}

impl Arena {
    fn take(&mut self, class: usize) -> NonNull<u8> {
        if let Some(Cell(cell)) = self.free[class - 1].pop() {
            return cell;
        }
        let len = class * GRAIN;
        let (Cell(start), left) = match self.fresh.take() {
            Some((cell, left)) if left >= len => (cell, left),
            _ => (Cell(map_region()), REGION),
        };
        // SAFETY: `len` is at most `left`, the bytes of the region behind `start`.
        let rest = unsafe { start.add(len) };
        self.fresh = Some((Cell(rest), left - len));
        start
    }

    fn give(&mut self, class: usize, cell: NonNull<u8>) {
        self.free[class - 1].push(Cell(cell));
    }
}

fn arena() -> MutexGuard<'static, Arena> {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Size class of a T, counted in grains, from 1.
const fn class<T>() -> usize {
    let grains = size_of::<T>().div_ceil(GRAIN);
    if grains == 0 { 1 } else { grains }
}

fn map_region() -> NonNull<u8> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let region = unsafe {
        rustix::mm::mmap_anonymous(core::ptr::null_mut(), REGION, protection, MapFlags::PRIVATE)
    };
    let Some(region) = region.ok().and_then(NonNull::new).or_else(from_heap) else {
        std::alloc::handle_alloc_error(REGION_LAYOUT);
    };
    if cfg!(miri) {
        // Which knows no advice.
        return region.cast();
    }
    // Refused by kernels without the advice: then a core dump holds what it always held.
    // SAFETY: the range is the mapping just made.
    let _ = unsafe { rustix::mm::madvise(region.as_ptr(), REGION, Advice::LinuxDontDump) };
    region.cast()
}

/// A region of what the allocator has set aside (`reserve`): keys that are on their way in must not end the program.
fn from_heap() -> Option<NonNull<core::ffi::c_void>> {
    // SAFETY: not of size 0.
    NonNull::new(unsafe { std::alloc::alloc_zeroed(REGION_LAYOUT) }).map(NonNull::cast)
}

static ARENA: Mutex<Arena> = Mutex::new(Arena {
    free: [const { Vec::new() }; CLASSES],
    fresh: None,
});

/// Cells are aligned to, and sized in multiples of, this: a cache line.
const GRAIN: usize = 64;
const CLASSES: usize = 32;
const CELL_MAX: usize = GRAIN * CLASSES;
/// Whole pages, of whatever size.
const REGION: usize = page::LARGEST;
/// Aligned to whole pages, so that nothing else is kept out of core dumps with it.
const REGION_LAYOUT: Layout = match Layout::from_size_align(REGION, page::LARGEST) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A key is gone from its cell once it is dropped.
    #[test]
    fn cells_are_wiped() {
        let secret = SecretBox::new([0xa5u8; 300]);
        let cell = secret.cell;
        drop(secret);
        // The cell is on the free list, mapped and unused; another test may take it, but not
        // write this pattern.
        // SAFETY: regions are never unmapped.
        let bytes: [u8; 300] = unsafe { cell.as_ptr().read_volatile() };
        assert!(bytes.iter().all(|byte| *byte != 0xa5));
    }

    /// Regions are marked "do not dump" (`dd` in VmFlags).
    #[test]
    fn regions_are_not_dumped() {
        let secret = SecretBox::new(1u64);
        let address = secret.cell.as_ptr() as usize;
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let flags = smaps.lines().find(|line| {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((start, end)) = range.split_once('-')
                && let Ok(start) = usize::from_str_radix(start, 16)
                && let Ok(end) = usize::from_str_radix(end, 16)
            {
                inside = (start..end).contains(&address);
            }
            inside && line.starts_with("VmFlags:")
        });
        assert!(
            flags
                .expect("the mapping is listed")
                .split(' ')
                .any(|flag| flag == "dd")
        );
    }
}
