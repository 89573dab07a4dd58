//! One byte for each descriptor number: whether it carries TLS, or is the library's own.
//!
//! The preload library asks here in every call that it interposes, so a look is one load, takes no
//! lock and is safe in a signal handler. The table is flat and in zeroed memory that the kernel
//! provides as numbers come into use: a page for 4096 of them.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, Ordering};

/// The number carries TLS: calls on it go to the library.
pub const TLS: u8 = 1;

/// The number is a descriptor of the library's own, which the program never sees and must not close.
pub const OWN: u8 = 2;

/// The number is of a TLS socket that is being closed: calls on it go to the library, and find none.
pub const CLOSING: u8 = 3;

/// Descriptor numbers that can be told apart: the kernel's default for `fs.nr_open`.
pub const NUMBERS: usize = 1 << 20;

/// The marks, by number.
pub static MARKS: [AtomicU8; NUMBERS] = [const { AtomicU8::new(0) }; NUMBERS];

/// The mark of `fd`; 0 if it has none.
#[must_use]
pub fn get(fd: RawFd) -> u8 {
    // Relaxed: what a mark stands for is looked up with an ordering of its own.
    mark(fd).map_or(0, |mark| mark.load(Ordering::Relaxed))
}

/// Marks `fd`, or takes the mark off (0).
pub(crate) fn set(fd: RawFd, value: u8) {
    if let Some(mark) = mark(fd) {
        mark.store(value, Ordering::Relaxed);
    }
}

fn mark(fd: RawFd) -> Option<&'static AtomicU8> {
    MARKS.get(usize::try_from(fd).ok()?)
}
