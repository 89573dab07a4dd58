//! The calls of the interposed functions (`preload/c`) into the core.
//!
//! The C part knows names and descriptors: which call is about a TLS socket, and who is next if it is
//! not. This part does the rest by the same functions that `libuktls.so` exports. A panic goes no
//! further than here.

use std::sync::atomic::AtomicU8;

mod around;
mod descriptors;
mod memory;
mod options;
mod process;
mod ready;
mod streams;
mod transfer;

/// [`uktls::sys::marks`] for the C part, whose look must not cost a call.
#[repr(transparent)]
pub struct Marks(*const u8);

// SAFETY: points to a table of atomics that lives for ever.
unsafe impl Sync for Marks {}

/// A byte for each descriptor number.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static uktls_preload_marks: Marks = Marks(uktls::sys::marks::MARKS.as_ptr().cast());

/// [`uktls::sys::marks::FLOOR`], for the same.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static uktls_preload_floor: &AtomicU8 = &uktls::sys::marks::FLOOR;
