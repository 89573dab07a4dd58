//! The program's memory: what of it can be looked at, and what it takes away.

use core::ffi::c_void;

use uktls::sys::{fleeting, user_memory};

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

/// A system call has changed what can be done there.
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

/// A system call has changed what can be done somewhere.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_forget_memory() {
    user_memory::forget_all();
}

/// The memory there, which has just come, can go away without a call (`fleeting`), or is none of that kind.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_mapped(start: *const c_void, len: usize, is_fleeting: bool) {
    fleeting::remove(start.addr(), len);
    if is_fleeting {
        fleeting::add(start.addr(), len);
    }
}

/// Whether any of the memory there can go away without a call.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_is_fleeting(start: *const c_void, len: usize) -> bool {
    len > 0 && fleeting::holds(start.addr(), start.addr().saturating_add(len - 1))
}

/// All memory can from now on.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_all_is_fleeting() {
    fleeting::add_everything();
    user_memory::forget_all();
}

pub(crate) fn is_readable(start: *const c_void, len: usize) -> bool {
    user_memory::readable(start.cast(), len) == len
}
