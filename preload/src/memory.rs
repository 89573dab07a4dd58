//! The program's memory: what of it can be looked at, and what it takes away.

use core::ffi::c_void;

use uktls::sys::user_memory;

use crate::process;

/// Whether the `len` bytes at `start` can be read, in a process that may have TLS sockets: in all others
/// there is nothing to look for.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_may_look(start: *const c_void, len: usize) -> bool {
    process::is_remembered() && is_readable(start, len)
}

/// Whether the `len` bytes at `start` can be written.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_is_writable(start: *const c_void, len: usize) -> bool {
    user_memory::writable(start.cast(), len) == len
}

/// `munmap(2)`, `mprotect(2)`, `mremap(2)` or `mmap(2)` has changed what can be done there.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_forget(start: *const c_void, len: usize) {
    if process::is_remembered() {
        user_memory::forget(start.cast(), len);
    }
}

/// Whether the `len` bytes at `start` can be read, in any process.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_is_readable(start: *const c_void, len: usize) -> bool {
    let is_readable = is_readable(start, len);
    if !process::is_remembered() {
        // Nobody would tell when the program takes it away.
        user_memory::forget(start.cast(), len);
    }
    is_readable
}

pub(crate) fn is_readable(start: *const c_void, len: usize) -> bool {
    user_memory::readable(start.cast(), len) == len
}
