//! The border: no panic passes it, and every failure becomes -1 and errno.

use core::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};
use crate::registry;
use crate::sys::errno;

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
    let before = errno::get();
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
            errno::set(before);
            value
        }
        Err(error) => {
            errno::set(error.errno().raw_os_error());
            T::FAILURE
        }
    }
}

/// [`guard`] for a function that cannot fail: `fallback` is returned after a panic.
pub fn guard_infallible<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(fallback)
}
