//! `poll(2)` and its relatives over TLS sockets.

use core::ffi::{c_int, c_void};
use std::time::Duration;

use uktls::capi::guard::guard;
use uktls::error::Error;
use uktls::registry;
use uktls::sys::net::Mask;

use crate::memory::{is_readable, uktls_preload_is_writable};

/// `ppoll(2)` on descriptors of which some carry TLS.
///
/// # Safety
/// `fds` are `n` structs, `timeout` and `mask` NULL or readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uktls_preload_poll(
    fds: *mut libc::pollfd,
    n: libc::nfds_t,
    timeout: *const libc::timespec,
    mask: *const libc::sigset_t,
) -> c_int {
    guard(-1, || {
        let n = usize::try_from(n).map_err(|_| Error::Invalid)?;
        // The kernel's answer, in its order: the time, the mask, the descriptors.
        let may_read = |start: *const c_void, len| start.is_null() || is_readable(start, len);
        if !may_read(timeout.cast(), size_of::<libc::timespec>())
            || !may_read(mask.cast(), size_of::<Mask>())
            || !uktls_preload_is_writable(fds.cast(), n.saturating_mul(size_of::<libc::pollfd>()))
        {
            return Err(Error::BadAddress);
        }
        let fds = match n {
            0 => &mut [][..],
            // SAFETY: our caller's promise.
            _ => unsafe { core::slice::from_raw_parts_mut(fds, n) },
        };
        // SAFETY: NULL or readable by our caller's promise.
        let timeout = match unsafe { timeout.as_ref() } {
            None => None,
            Some(time) => {
                let seconds = u64::try_from(time.tv_sec).map_err(|_| Error::Invalid)?;
                let rest = u32::try_from(time.tv_nsec).map_err(|_| Error::Invalid)?;
                if rest >= 1_000_000_000 {
                    return Err(Error::Invalid);
                }
                Some(Duration::new(seconds, rest))
            }
        };
        // The kernel's mask is the beginning of the C library's.
        // SAFETY: as above.
        let mask = unsafe { mask.cast::<Mask>().as_ref() };
        let ready = registry::poll(fds, timeout, mask)?;
        Ok(c_int::try_from(ready).unwrap_or(c_int::MAX))
    })
}
