//! One byte for each descriptor number: what a call on it is to do.
//!
//! The preload library asks here in every call that it interposes, so a look is one load, takes no
//! lock and is safe in a signal handler. The table is flat and in zeroed memory that the kernel
//! provides as numbers come into use: a page for 4096 of them. `registry/numbers.rs` says who changes
//! a mark when; `docs/architecture.md` ("Numbers and sockets") argues why that is enough.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, Ordering, fence};

/// Nothing is known of the number, and nothing needs to be: calls go to the kernel.
pub const PLAIN: u8 = 0;

/// The number is one of a TLS socket's: calls go to the library, but for those that write while it has no keys for
/// sending.
pub const TLS: u8 = 1;

/// The number is a descriptor of the library's own, which the program never sees and must not close.
pub const OWN: u8 = 2;

/// A thread is changing what the number means: calls wait until it is done. May stand beside `TLS`.
pub const BUSY: u8 = 4;

/// A stream socket that another process may have: each call looks whether that one has set keys.
pub const WATCHED: u8 = 8;

/// A stream socket made in this process, whose only number this is: calls go to the kernel, and keys
/// are set without a search for others.
pub const SOLE: u8 = 16;

/// As `SOLE`, but for other numbers of this process that the socket may have.
pub const TWIN: u8 = 32;

/// Another process has set keys on the socket: nothing passes here.
pub const REFUSED: u8 = 64;

/// The number is one of a TLS socket's that has keys for sending: what is written is sealed.
pub const TX: u8 = 128;

/// Marks with which a call that writes must not simply go to the kernel.
pub const SLOW_OUT: u8 = TX | BUSY | WATCHED | REFUSED;

/// Descriptor numbers that can be told apart: the kernel's default for `fs.nr_open`.
pub const NUMBERS: usize = 1 << 20;

/// The marks, by number.
pub static MARKS: [AtomicU8; NUMBERS] = [const { AtomicU8::new(PLAIN) }; NUMBERS];

/// The mark of `fd`; 0 if it has none.
#[must_use]
pub fn get(fd: RawFd) -> u8 {
    // Relaxed: what a mark stands for is looked up with an ordering of its own.
    mark(fd).map_or(PLAIN, |mark| mark.load(Ordering::Relaxed))
}

/// Marks `fd` as one of the library's own, or takes that mark off ([`PLAIN`]).
pub(crate) fn set(fd: RawFd, value: u8) {
    if let Some(mark) = mark(fd) {
        mark.store(value, Ordering::Relaxed);
        keep_floor(mark);
    }
}

/// The least that every number is marked with: [`PLAIN`], or [`WATCHED`] in a process whose memory knows of some changes
/// of its numbers only.
#[must_use]
pub fn floor() -> u8 {
    FLOOR.load(Ordering::Relaxed)
}

/// From now on every number is [`WATCHED`]: what is marked here may be something else by now.
pub(crate) fn raise_floor() {
    FLOOR.store(WATCHED, Ordering::Relaxed);
    // SeqCst, with the one in `keep_floor`: who stores a mark behind this pass sees the floor, or this pass sees its mark.
    fence(Ordering::SeqCst);
    for mark in &MARKS {
        if mark.load(Ordering::Relaxed) != OWN {
            mark.fetch_or(WATCHED, Ordering::AcqRel);
        }
    }
}

/// A mark has been stored, which may lie below the floor.
pub(crate) fn keep_floor(mark: &AtomicU8) {
    fence(Ordering::SeqCst);
    if floor() != PLAIN && mark.load(Ordering::Relaxed) != OWN {
        mark.fetch_or(floor(), Ordering::AcqRel);
    }
}

/// [`floor`], which the C part looks at by itself.
pub static FLOOR: AtomicU8 = AtomicU8::new(PLAIN);

/// The byte of `fd`; `None` beyond the table.
#[must_use]
pub fn mark(fd: RawFd) -> Option<&'static AtomicU8> {
    MARKS.get(usize::try_from(fd).ok()?)
}
