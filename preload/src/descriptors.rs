//! What becomes of a connection when its number is closed, duplicated or given out again.

use core::ffi::{c_int, c_void};

use rustix::io::Errno;
use uktls::capi;
use uktls::capi::guard::{guard, guard_infallible};
use uktls::error::Error;
use uktls::registry;

use crate::process;

/// `shutdown(2)` on a TLS socket.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_shutdown(fd: c_int, how: c_int) -> c_int {
    capi::tls_shutdown(fd, how)
}

/// `close(2)` on a TLS socket.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_close(fd: c_int) -> c_int {
    capi::uktls_close(fd)
}

/// Lets `closing` close the TLS socket `fd`; returns what it returns.
///
/// # Safety
/// `closing` can be called with `closure`, and closes `fd` by the kernel unless it fails with -1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_close_by(
    fd: c_int,
    closing: unsafe extern "C" fn(*mut c_void) -> c_int,
    closure: *mut c_void,
) -> c_int {
    guard(fd, || {
        registry::close_by(fd, || {
            // SAFETY: our caller's promise.
            match unsafe { closing(closure) } {
                -1 => Err(last_error()),
                result => Ok(result),
            }
        })
    })
}

/// `new` has just been made a duplicate of `old`.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_duplicated(old: c_int, new: c_int) {
    if process::uktls_preload_in_vfork() {
        // The child's own descriptor, for a program that would not have the keys.
        if registry::is_ours(old) {
            process::close_on_exec(new);
        }
        return;
    }
    guard_infallible((), || {
        if !registry::is_ours(old) {
            registry::detach(new);
        } else {
            // In the place of what the number was before: it is never without a state meanwhile.
            process::close_on_exec(new);
            if registry::duplicated(old, new).is_err() {
                // It would be a way around the keys.
                log::warn!("descriptor {new}: a duplicate that cannot be followed");
            }
        }
    });
}

/// The kernel has just given the number out anew.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_reused(fd: c_int) {
    if !process::uktls_preload_in_vfork() {
        guard_infallible((), || drop(registry::detach(fd)));
    }
}

/// Whether `fd` is the socket that its state was made for. The child of a vfork has something else under
/// a number without that the parent has: the state stays.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_verify(fd: c_int) -> bool {
    guard_infallible(true, || match process::uktls_preload_in_vfork() {
        true => registry::is_same(fd),
        false => registry::verify(fd),
    })
}

fn last_error() -> Error {
    let errno = std::io::Error::last_os_error().raw_os_error();
    Error::Os(Errno::from_raw_os_error(errno.unwrap_or(libc::EIO)))
}
