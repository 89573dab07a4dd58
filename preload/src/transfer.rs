//! Bytes out and in: the functions of the C interface under names that collide with nothing.

use core::ffi::{c_int, c_uint, c_void};

use uktls::capi;
use uktls::registry;

/// `send(2)` on a TLS socket.
///
/// # Safety
/// As for [`capi::tls_send`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_send(
    fd: c_int,
    data: *const c_void,
    len: usize,
    flags: c_int,
) -> isize {
    // SAFETY: our caller's promise, passed on.
    unsafe { capi::tls_send(fd, data, len, flags) }
}

/// `sendmsg(2)` on a TLS socket.
///
/// # Safety
/// As for [`capi::tls_sendmsg`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_sendmsg(
    fd: c_int,
    msg: *const libc::msghdr,
    flags: c_int,
) -> isize {
    // SAFETY: our caller's promise, passed on.
    unsafe { capi::tls_sendmsg(fd, msg, flags) }
}

/// `sendfile(2)` to a TLS socket.
///
/// # Safety
/// As for [`capi::tls_sendfile`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_sendfile(
    out: c_int,
    input: c_int,
    offset: *mut libc::off_t,
    count: usize,
) -> isize {
    // SAFETY: our caller's promise, passed on.
    unsafe { capi::tls_sendfile(out, input, offset, count) }
}

/// `splice(2)` to or from a TLS socket.
///
/// # Safety
/// As for [`capi::tls_splice`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_splice(
    input: c_int,
    off_in: *mut libc::off_t,
    out: c_int,
    off_out: *mut libc::off_t,
    len: usize,
    flags: c_uint,
) -> isize {
    // SAFETY: our caller's promise, passed on.
    unsafe { capi::tls_splice(input, off_in, out, off_out, len, flags) }
}

/// `recv(2)` on a TLS socket.
///
/// # Safety
/// As for [`capi::tls_recv`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_recv(
    fd: c_int,
    data: *mut c_void,
    len: usize,
    flags: c_int,
) -> isize {
    // SAFETY: our caller's promise, passed on.
    unsafe { capi::tls_recv(fd, data, len, flags) }
}

/// `recvmsg(2)` on a TLS socket.
///
/// # Safety
/// As for [`capi::tls_recvmsg`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_recvmsg(
    fd: c_int,
    msg: *mut libc::msghdr,
    flags: c_int,
) -> isize {
    // SAFETY: our caller's promise, passed on.
    unsafe { capi::tls_recvmsg(fd, msg, flags) }
}

/// Whether a receive would return data that the kernel does not have any more.
#[unsafe(no_mangle)]
pub extern "C" fn uktls_preload_holds_data(fd: c_int) -> bool {
    capi::guard::guard_infallible(false, || {
        registry::entry(fd).is_ok_and(|found| {
            let socket = found.get().ok();
            let receiver = socket.and_then(|socket| socket.rx());
            receiver.is_some_and(|receiver| receiver.holds_data())
        })
    })
}
