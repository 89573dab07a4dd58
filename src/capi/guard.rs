//! The border: no panic passes it, and every failure becomes -1 and errno.

use core::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};
use crate::registry;

/// What a C function returns when it fails.
pub trait CReturn {
    /// The value.
    const FAILURE: Self;
}

impl CReturn for c_int {
    const FAILURE: c_int = -1;
}

impl CReturn for isize {
    const FAILURE: isize = -1;
}

/// Runs the body of an exported function that is about the descriptor `fd`. A panic marks its
/// connection broken: nothing that may be half done goes out on it any more.
pub fn guard<T: CReturn>(fd: c_int, body: impl FnOnce() -> Result<T>) -> T {
    let before = errno();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        // Poisoning is not worth a second panic.
        let _ = catch_unwind(|| {
            if let Ok(found) = registry::entry(fd)
                && let Ok(socket) = found.get()
            {
                socket.poison();
            }
        });
        Err(Error::NotRecoverable)
    });
    match result {
        Ok(value) => {
            // A call that succeeds leaves errno alone, whatever happened on the way.
            set_errno(before);
            value
        }
        Err(error) => {
            set_errno(error.errno().raw_os_error());
            T::FAILURE
        }
    }
}

/// [`guard`] for a function that cannot fail: `fallback` is returned after a panic.
pub fn guard_infallible<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(fallback)
}

fn errno() -> c_int {
    // SAFETY: takes nothing.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: this thread's errno, valid as long as the thread.
    unsafe { location.read() }
}

fn set_errno(value: c_int) {
    // SAFETY: takes nothing.
    let location = unsafe { libc::__errno_location() };
    // SAFETY: as in `errno`.
    unsafe { location.write(value) };
}
