//! The thread's errno.

use core::ffi::c_int;

/// Its value.
#[must_use]
pub fn get() -> c_int {
    // SAFETY: takes nothing.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: this thread's errno, valid as long as the thread.
    unsafe { location.read() }
}

/// Sets it.
pub fn set(value: c_int) {
    // SAFETY: takes nothing.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: as in `get`.
    unsafe { location.write(value) };
}
