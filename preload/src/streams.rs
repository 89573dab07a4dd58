//! The descriptor on which the C library's streams are dead (`c/streams.h`).

use core::ffi::c_int;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use uktls::sys::kept::Kept;

/// Takes a descriptor over, for ever and out of the program's way; returns its number now.
///
/// # Safety
/// `fd` is open, and its caller's alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_keep(fd: c_int) -> c_int {
    // SAFETY: our caller's promise.
    let kept = Kept::new(unsafe { OwnedFd::from_raw_fd(fd) });
    let number = kept.as_raw_fd();
    mem::forget(kept);
    number
}
