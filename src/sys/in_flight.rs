//! Calls that have looked at a mark and not yet returned from the kernel.
//!
//! A thread that has found a number unmarked may be stopped before its system call, and a system call
//! that a signal interrupts looks its number up again when it is restarted. So a number must not become
//! a TLS socket's while any call on it is under way, or that call's plain bytes would go out on it. Each
//! thread therefore notes the number before it looks at the mark, in a slot of its own, and takes the
//! note away when the call has returned. Whoever changes a mark looks at all slots afterwards.
//!
//! The note costs a few plain stores. What orders them before the look at the mark is a barrier that
//! the changing thread makes all others pass ([`super::barrier`]).
//!
//! A slot holds a note for each call of its thread: a signal handler may interrupt one call by another.
//! The preload library writes the slots (`preload/c/interpose.h` has the same layout).

use core::mem::size_of;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};

/// Nested calls of one thread that can be noted.
pub const DEPTH: usize = 6;

/// Threads that can have a slot; calls of others count in [`Table::unnoted`].
pub const SLOTS: usize = 4096;

/// The notes of one thread.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct Slot {
    /// The numbers, plus one; 0 is no number.
    pub numbers: [AtomicI32; DEPTH],
    /// Where the frame of each call is, to recognise calls that were left by `siglongjmp(3)`.
    pub frames: [AtomicPtr<u8>; DEPTH],
    /// Whether a thread has the slot.
    pub taken: AtomicU32,
}

const _: () = assert!(size_of::<Slot>() == 128, "interpose.h says the same");

impl Slot {
    const fn new() -> Slot {
        Slot {
            numbers: [const { AtomicI32::new(0) }; DEPTH],
            frames: [const { AtomicPtr::new(core::ptr::null_mut()) }; DEPTH],
            taken: AtomicU32::new(0),
        }
    }

    fn has(&self, fd: RawFd) -> bool {
        self.numbers
            .iter()
            // Acquire: pairs with the Release of a call that takes its note away: its system call is over.
            .any(|number| number.load(Ordering::Acquire) == fd.wrapping_add(1))
    }

    fn clear(&self) {
        for number in &self.numbers {
            // Release: pairs with the Acquire in `has`.
            number.store(0, Ordering::Release);
        }
    }
}

/// All slots of the process.
#[repr(C)]
#[derive(Debug)]
pub struct Table {
    slots: [Slot; SLOTS],
    /// Slots from here on were never taken.
    used: AtomicUsize,
    /// Calls under way of threads that have no slot, or no room in it.
    pub unnoted: AtomicUsize,
}

/// The process's own.
pub static TABLE: Table = Table {
    slots: [const { Slot::new() }; SLOTS],
    used: AtomicUsize::new(0),
    unnoted: AtomicUsize::new(0),
};

/// Who has a call on a number under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// Nobody.
    Nobody,
    /// The asking thread itself: it is a signal handler, and the call will go on when it returns.
    Caller,
    /// Another thread.
    Other,
}

impl Table {
    /// A slot for a thread that has none; `None` if all are taken. Takes no lock and no memory.
    pub fn take(&self) -> Option<&Slot> {
        for (at, slot) in self.slots.iter().enumerate() {
            let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
            if slot.taken.compare_exchange(0, 1, success, failure).is_ok() {
                slot.clear();
                // Release: pairs with the Acquire in `under`, which looks that far.
                self.used.fetch_max(at + 1, Ordering::AcqRel);
                return Some(slot);
            }
        }
        None
    }

    /// A call for which there is no slot begins, or ends.
    pub fn count_unnoted(&self, begins: bool) {
        match begins {
            // AcqRel: before the look at the mark, with the fence of the C part.
            true => self.unnoted.fetch_add(1, Ordering::AcqRel),
            // Release: pairs with the Acquire in `under`.
            false => self.unnoted.fetch_sub(1, Ordering::Release),
        };
    }

    /// The thread of the slot ends.
    pub fn give(&self, slot: &Slot) {
        slot.clear();
        slot.taken.store(0, Ordering::Release);
    }

    /// Whether a call on `fd` is under way. `own` is the caller's slot.
    pub fn under(&self, fd: RawFd, own: Option<&Slot>) -> Under {
        let used = self.used.load(Ordering::Acquire);
        if own.is_some_and(|slot| slot.has(fd)) {
            return Under::Caller;
        }
        let noted = self.slots[..used].iter().any(|slot| slot.has(fd));
        match noted || self.unnoted.load(Ordering::Acquire) > 0 {
            true => Under::Other,
            false => Under::Nobody,
        }
    }

    /// The numbers that calls of other threads are under way on.
    pub fn others(&self, own: Option<&Slot>) -> impl Iterator<Item = RawFd> {
        let used = self.used.load(Ordering::Acquire);
        let is_own = move |slot: &&Slot| own.is_some_and(|own| core::ptr::eq(own, *slot));
        let slots = self.slots[..used].iter().filter(move |slot| !is_own(slot));
        slots
            .flat_map(|slot| &slot.numbers)
            // Acquire: as in `has`.
            .map(|number| number.load(Ordering::Acquire) - 1)
            .filter(|fd| *fd >= 0)
    }

    /// Whether no thread but the one of the slot `own` has ever made a call, or has ended since.
    pub fn is_only(&self, own: Option<&Slot>) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        let is_own = |slot: &Slot| own.is_some_and(|own| core::ptr::eq(own, slot));
        self.unnoted.load(Ordering::Relaxed) == 0
            && self.slots[..used]
                .iter()
                .all(|slot| is_own(slot) || slot.taken.load(Ordering::Relaxed) == 0)
    }

    /// In a forked child: the calls of threads that stayed with the parent are none here.
    pub fn keep_only(&self, own: Option<&Slot>) {
        let used = self.used.load(Ordering::Acquire);
        let is_own = |slot: &Slot| own.is_some_and(|own| core::ptr::eq(own, slot));
        for slot in self.slots[..used].iter().filter(|slot| !is_own(slot)) {
            self.give(slot);
        }
        self.unnoted.store(0, Ordering::Relaxed);
    }
}

/// A call of the library's own that moves plain bytes by a number, noted as those of the preload library are.
#[derive(Debug)]
#[must_use]
pub struct Noted(Option<&'static Slot>);

impl Noted {
    /// Notes the call on `fd`. What it wants to know of the number it has to look at afterwards.
    pub fn new(fd: RawFd) -> Noted {
        // A slot for this call: it is rare, and may be any thread's.
        let slot = TABLE.take();
        match slot {
            Some(slot) => slot.numbers[0].store(fd.wrapping_add(1), Ordering::Relaxed),
            None => {
                TABLE.unnoted.fetch_add(1, Ordering::AcqRel);
            }
        }
        // SeqCst: pairs with the barrier of whoever changes the mark; either it sees the note, or the look that
        // follows here sees the mark.
        fence(Ordering::SeqCst);
        Noted(slot)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        match self.0 {
            Some(slot) => TABLE.give(slot),
            None => {
                // Release: pairs with the Acquire in `under`.
                TABLE.unnoted.fetch_sub(1, Ordering::Release);
            }
        }
    }
}

/// How the calling thread's slot is found: only the preload library has slots.
pub type Own = extern "C" fn() -> *const Slot;

/// The preload library says how the calling thread's slot is found.
pub fn set_own(own: Own) {
    // Release: pairs with the Acquire in `own`.
    OWN.store(own as *mut (), Ordering::Release);
}

/// The calling thread's slot, if it has one.
pub fn own() -> Option<&'static Slot> {
    let own = OWN.load(Ordering::Acquire);
    if own.is_null() {
        return None;
    }
    // SAFETY: only `set_own` stores here, and it stores a function of this type.
    let own = unsafe { core::mem::transmute::<*mut (), Own>(own) };
    // SAFETY: NULL or a slot of `TABLE`, which lives for ever.
    unsafe { own().as_ref() }
}

static OWN: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

#[cfg(test)]
mod tests {
    use super::*;

    fn note(slot: &Slot, at: usize, fd: RawFd) {
        slot.numbers[at].store(fd + 1, Ordering::Relaxed);
    }

    #[test]
    fn notes_are_found_and_forgotten() {
        static OF_TEST: Table = Table {
            slots: [const { Slot::new() }; SLOTS],
            used: AtomicUsize::new(0),
            unnoted: AtomicUsize::new(0),
        };
        let (mine, other) = (OF_TEST.take().unwrap(), OF_TEST.take().unwrap());
        assert_eq!(OF_TEST.under(0, Some(mine)), Under::Nobody);
        note(mine, 0, 0);
        note(other, 1, 7);
        assert_eq!(OF_TEST.under(0, Some(mine)), Under::Caller);
        assert_eq!(OF_TEST.under(0, None), Under::Other);
        assert_eq!(OF_TEST.under(7, Some(mine)), Under::Other);
        assert_eq!(OF_TEST.under(6, Some(mine)), Under::Nobody);
        OF_TEST.keep_only(Some(mine));
        assert_eq!(OF_TEST.under(7, Some(mine)), Under::Nobody);
        assert_eq!(OF_TEST.under(0, Some(mine)), Under::Caller);
        OF_TEST.give(mine);
        assert_eq!(OF_TEST.under(0, None), Under::Nobody);
        OF_TEST.unnoted.fetch_add(1, Ordering::Relaxed);
        assert_eq!(OF_TEST.under(3, None), Under::Other);
    }

    #[test]
    fn a_table_without_room_says_so() {
        static FULL: Table = Table {
            slots: [const { Slot::new() }; SLOTS],
            used: AtomicUsize::new(0),
            unnoted: AtomicUsize::new(0),
        };
        let slots: Vec<&Slot> = core::iter::from_fn(|| FULL.take()).collect();
        assert_eq!(slots.len(), SLOTS);
        FULL.give(slots[17]);
        assert!(core::ptr::eq(FULL.take().unwrap(), slots[17]));
        assert!(FULL.take().is_none());
    }
}
