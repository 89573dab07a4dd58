//! Who gets the socket: the kernel's own TLS, this library, or nobody.

use core::ffi::{c_int, c_void};

use rustix::io::Errno;
use uktls::capi::{self, guard::guard};
use uktls::config::Mode;
use uktls::error::Error;
use uktls::registry;
use uktls::stats::{Counter, STATS};
use uktls::sys::abi::{SOL_TCP, SOL_TLS, TCP_ULP, TLS_RX, TLS_TX};
use uktls::sys::net;

use crate::process;

/// `setsockopt(2)` on a TLS socket, or one that makes a socket a TLS socket. `decline` is why it must
/// not become one (`enum decline` of `interpose.h`), or 0.
///
/// # Safety
/// As for `setsockopt(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: libc::socklen_t,
    decline: c_int,
) -> c_int {
    process::remember();
    let sets_keys = level == SOL_TLS && matches!(name, TLS_TX | TLS_RX);
    let kernel = || {
        // SAFETY: our caller's promise, passed on.
        let result = unsafe { net::setsockopt(fd, level, name, value, len) };
        guard(fd, || Ok(result.map(|()| 0)?))
    };
    let ours = || {
        // SAFETY: as above.
        let result = unsafe { capi::tls_setsockopt(fd, level, name, value, len) };
        if result == 0 && sets_keys {
            process::close_on_exec(fd);
        }
        result
    };
    if sets_keys
        && !has_keys(fd)
        && let Some((counter, reason)) = reason(decline)
    {
        registry::publish();
        STATS.declined.add(1);
        counter.add(1);
        log::info!("descriptor {fd}: left to its program: {reason}");
        return guard(fd, || Err(Error::Os(Errno::NOPROTOOPT)));
    }
    if registry::is_ours(fd) {
        return ours();
    }
    match registry::config().mode {
        Mode::Off => kernel(),
        Mode::Always if (level, name) == (SOL_TCP, TCP_ULP) => ours(),
        Mode::Always => kernel(),
        Mode::Auto => match kernel() {
            0 => 0,
            // Looking at the socket has changed errno: the kernel's answer is told again.
            _ if !is_without(level, name, fd) => kernel(),
            // The kernel has no TLS, or not this cipher.
            _ if sets_keys => {
                let result = match name {
                    // SAFETY: as above.
                    TLS_TX => unsafe { capi::tls_tx_init(fd, value, len as usize) },
                    // SAFETY: as above.
                    _ => unsafe { capi::tls_rx_init(fd, value, len as usize) },
                };
                if result == 0 {
                    process::close_on_exec(fd);
                }
                result
            }
            _ => ours(),
        },
    }
}

/// `getsockopt(2)` on a TLS socket.
///
/// # Safety
/// As for `getsockopt(2)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut libc::socklen_t,
) -> c_int {
    // SAFETY: our caller's promise, passed on.
    unsafe { capi::tls_getsockopt(fd, level, name, value, len) }
}

fn reason(decline: c_int) -> Option<(&'static Counter, &'static str)> {
    match decline {
        0 => None,
        1 => Some((
            &STATS.declined_own_bio,
            "the TLS library writes by functions of the program",
        )),
        3 => Some((
            &STATS.declined_stream,
            "aio_write of the C library may yet write to it",
        )),
        _ => Some((
            &STATS.declined_stream,
            "it is standard error, where the C library writes by itself",
        )),
    }
}

fn has_keys(fd: c_int) -> bool {
    let found = registry::entry(fd);
    let socket = found.as_ref().ok().and_then(|found| found.get().ok());
    socket.is_some_and(|socket| socket.tx().is_some() || socket.rx().is_some())
}

/// Whether the option that the kernel has just refused says that the kernel does not have it, and not
/// that the program has made a mistake.
fn is_without(level: c_int, name: c_int, fd: c_int) -> bool {
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    match (level, name) {
        (SOL_TCP, TCP_ULP) => matches!(
            errno,
            libc::ENOENT | libc::ENOPROTOOPT | libc::EINVAL | libc::EOPNOTSUPP | libc::EPERM
        ),
        // A cipher that it does not know is EINVAL, too; where it has keys it has that cipher.
        (SOL_TLS, TLS_TX | TLS_RX) => {
            errno != libc::EFAULT
                && kernel_has_ulp(fd)
                && ![TLS_TX, TLS_RX]
                    .iter()
                    .any(|name| kernel_has_keys(fd, *name))
        }
        _ => false,
    }
}

fn kernel_has_ulp(fd: c_int) -> bool {
    let (mut name, mut len) = ([0u8; 16], 16);
    // SAFETY: room for 16 bytes, and their number.
    let got = unsafe { net::getsockopt(fd, SOL_TCP, TCP_ULP, name.as_mut_ptr().cast(), &mut len) };
    got.is_ok() && name.starts_with(b"tls")
}

fn kernel_has_keys(fd: c_int, direction: c_int) -> bool {
    let (mut head, mut len) = ([0u8; 4], 4);
    // SAFETY: room for 4 bytes, which is what is asked for without the keys.
    unsafe { net::getsockopt(fd, SOL_TLS, direction, head.as_mut_ptr().cast(), &mut len) }.is_ok()
}
