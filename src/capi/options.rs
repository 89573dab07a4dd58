//! Setting and reading keys and options.

use core::ffi::{c_int, c_void};

use super::guard::{bytes, guard};
use crate::aead::TrafficKeys;
use crate::crypto_info::{self, CryptoInfo};
use crate::error::{Error, Result};
use crate::fork;
use crate::registry;
use crate::sys::abi::{SOL_TLS, TLS_TX, TLS_TX_MAX_PAYLOAD_LEN};
use crate::sys::net;

/// Set the TX keys of a finished TLS handshake on `fd`: from the return of this call, every byte
/// given to `tls_send` and its kin leaves the socket as TLS records. A second call on a TLS 1.3
/// connection replaces the keys (rekey).
///
/// `crypto_info` is one of the structs of `<linux/tls.h>` (`struct tls12_crypto_info_aes_gcm_128`,
/// ...), `len` its size in bytes. `fd` is a connected stream socket: TCP, MPTCP, UNIX, vsock. The
/// handshake's own bytes must have left the socket. From here on the socket is closed with
/// `uktls_close`.
///
/// Returns 0, or -1 with errno; nothing has changed then:
/// EBADF, ENOTSOCK `fd` is not open or no socket; ENOPROTOOPT, EOPNOTSUPP no stream socket;
/// ENOTCONN not connected, or already shut down by either side;
/// EINVAL `crypto_info` is NULL, `len` is not the struct's size, version or cipher unknown or not
/// to be combined, or a rekey with another version or cipher;
/// EBUSY TLS 1.2 keys are set already; ENOENT no implementation of the cipher;
/// ENOTRECOVERABLE the keys on `fd` were set before a raw clone(2), or an internal fault.
///
/// Any thread may call it; it waits for a send in progress. Since 0.1. Mirrors
/// setsockopt(TCP_ULP) and setsockopt(SOL_TLS, TLS_TX) (Linux net/tls/tls_main.c).
///
/// # Safety
/// `crypto_info` is NULL or readable for `len` bytes.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_tx_init(fd: c_int, crypto_info: *const c_void, len: usize) -> c_int {
    guard(fd, || {
        // SAFETY: our caller promises NULL or `len` readable bytes.
        let info = unsafe { bytes(crypto_info.cast(), len) };
        fork::install();
        registry::tx_init(fd, || keys(info))?;
        Ok(0)
    })
}

/// Read an option of `fd`. `SOL_TLS`/`TLS_TX`: the crypto_info struct with the sequence number of
/// the next record (`*optlen` its exact size), or version and cipher only (`*optlen` 4).
/// `SOL_TLS`/`TLS_TX_MAX_PAYLOAD_LEN`: a uint16_t. `SOL_SOCKET`/`SO_ERROR`: the pending error,
/// deferred failures included, which is cleared. All other options: as getsockopt(2).
///
/// Returns 0, or -1 with errno: EBADF, ENOTSOCK; EFAULT `optlen` is NULL; EINVAL `optval` is NULL
/// or `*optlen` not one of the sizes above; ENOPROTOOPT an unknown SOL_TLS option, or a socket
/// without TX keys; others as getsockopt(2).
/// Since 0.1. Mirrors getsockopt(2) on a kTLS socket (Linux net/tls/tls_main.c).
///
/// # Safety
/// `optval` is NULL or writable for `*optlen` bytes, `optlen` is NULL or points to a `socklen_t`.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_getsockopt(
    fd: c_int,
    level: c_int,
    optname: c_int,
    optval: *mut c_void,
    optlen: *mut libc::socklen_t,
) -> c_int {
    guard(fd, || {
        let is_error = (level, optname) == (libc::SOL_SOCKET, libc::SO_ERROR);
        if level == SOL_TLS {
            // SAFETY: our caller's promise, passed on.
            unsafe { get_tls(fd, optname, optval.cast(), optlen) }?;
        } else {
            // SAFETY: our caller's promise, passed on.
            unsafe { net::getsockopt(fd, level, optname, optval, optlen) }?;
            if is_error {
                // SAFETY: getsockopt has just written an int there.
                unsafe { merge_error(fd, optval.cast()) };
            }
        }
        Ok(0)
    })
}

/// The socket's own error goes first; ours, from a deferred transmission, if it has none.
///
/// # Safety
/// `value` points to an int.
unsafe fn merge_error(fd: c_int, value: *mut c_int) {
    let Ok(found) = registry::entry(fd) else {
        return;
    };
    let Some(ours) = found
        .get()
        .ok()
        .and_then(|connection| connection.take_error())
    else {
        return;
    };
    // SAFETY: an int by our caller's promise; the caller may have placed it anywhere.
    let own = unsafe { value.read_unaligned() };
    if own == 0 {
        // SAFETY: as above.
        unsafe { value.write_unaligned(ours.raw_os_error()) };
    }
}

/// CI-11: the order of the kernel's checks.
///
/// # Safety
/// As for [`tls_getsockopt`].
unsafe fn get_tls(
    fd: c_int,
    optname: c_int,
    optval: *mut u8,
    optlen: *mut libc::socklen_t,
) -> Result<()> {
    let found = registry::entry(fd)?;
    if optlen.is_null() {
        return Err(Error::BadAddress);
    }
    // SAFETY: points to a socklen_t by our caller's promise.
    let len = unsafe { optlen.read_unaligned() } as usize;
    let connection = found.get()?;
    match optname {
        TLS_TX => {
            if optval.is_null() || len < 4 {
                return Err(Error::Invalid);
            }
            let (version, cipher) = connection.suite();
            let mut info = [0; CRYPTO_INFO_MAX];
            let full = crypto_info::expected_len(cipher);
            info[..2].copy_from_slice(&version.code().to_ne_bytes());
            info[2..4].copy_from_slice(&cipher.id().to_ne_bytes());
            if len == full {
                connection.crypto_info(&mut info[..full])?;
            } else if len != 4 {
                return Err(Error::Invalid);
            }
            // SAFETY: writable for `len` bytes by our caller's promise, and `len` is at most the
            // array's length.
            unsafe { optval.copy_from_nonoverlapping(info.as_ptr(), len) };
            zeroize::Zeroize::zeroize(&mut info);
        }
        TLS_TX_MAX_PAYLOAD_LEN => {
            if optval.is_null() || len < 2 {
                return Err(Error::Invalid);
            }
            let value = connection.info()?.max_payload.to_ne_bytes();
            // SAFETY: writable for `len`, at least 2, bytes by our caller's promise.
            unsafe { optval.copy_from_nonoverlapping(value.as_ptr(), 2) };
            // SAFETY: points to a socklen_t by our caller's promise.
            unsafe { optlen.write_unaligned(2) };
        }
        _ => return Err(Error::UnknownOption),
    }
    Ok(())
}

/// CI-1 (a), (d), (e), (g), (h): the rest of the order is the registry's.
fn keys(info: Result<&[u8]>) -> Result<TrafficKeys> {
    // (a): NULL is EINVAL here, not EFAULT.
    let info = info.map_err(|_| Error::Invalid)?;
    CryptoInfo::parse(info)
}

/// The largest crypto_info struct.
const CRYPTO_INFO_MAX: usize = 56;
