//! Setting and reading keys and options.

use core::ffi::{c_int, c_void};

use super::guard::guard;
use super::memory::{Argument, is_writable, read};
use crate::aead::TrafficKeys;
use crate::crypto_info::{self, CryptoInfo};
use crate::error::{Error, Result};
use crate::fork;
use crate::record::Version;
use crate::registry::{self, Direction, Socket};
use crate::sys::abi::{
    SOL_TCP, SOL_TLS, TCP_ULP, TLS_RX, TLS_RX_EXPECT_NO_PAD, TLS_TX, TLS_TX_MAX_PAYLOAD_LEN,
    TLS_TX_ZEROCOPY_RO,
};
use crate::sys::net;
use crate::sys::reserve;
use crate::sys::scrub;
use crate::sys::secret::SecretBox;

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
/// EFAULT `crypto_info` cannot be read;
/// EINVAL `crypto_info` is NULL, `len` is not the struct's size, version or cipher unknown or not
/// to be combined or not those of the RX keys, or a rekey with another version or cipher;
/// EBUSY TLS 1.2 keys are set already; ENOENT no implementation of the cipher; ENOMEM;
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
        // SAFETY: our caller's promise.
        let info = unsafe { Argument::new(crypto_info.cast(), len) };
        let head = head(info);
        reserve::admit()?;
        fork::install();
        match registry::set_keys(fd, Direction::Tx, || keys(info)) {
            // CI-1 (a) goes before (b): what cannot even name a cipher is refused where keys are set too.
            Err(Error::KeysPresent) => head.and(Err(Error::KeysPresent)),
            result => result.map(|()| 0),
        }
    })
}

/// Set the RX keys of a finished TLS handshake on `fd`: what is unread in the socket, and all that
/// follows, are TLS records, whose content `tls_recv` and its kin deliver. A second call on a TLS 1.3
/// connection replaces the keys (rekey), after the peer's KeyUpdate.
///
/// Arguments, return value and errors as for `tls_tx_init`; both directions of a socket have the same
/// version and cipher. A TCP socket wakes `poll`, `epoll` and the like exactly when there is
/// something to be received; other stream sockets, at the first byte of a record. The library keeps
/// `SO_RCVLOWAT` and `SO_PEEK_OFF` of the socket for that: the program's own are set by `tls_setsockopt`.
///
/// Any thread may call it, also while another sleeps in a receive. Since 0.1. Mirrors
/// setsockopt(TCP_ULP) and setsockopt(SOL_TLS, TLS_RX) (Linux net/tls/tls_main.c).
///
/// # Safety
/// `crypto_info` is NULL or readable for `len` bytes.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_rx_init(fd: c_int, crypto_info: *const c_void, len: usize) -> c_int {
    guard(fd, || {
        // SAFETY: our caller's promise.
        let info = unsafe { Argument::new(crypto_info.cast(), len) };
        let head = head(info);
        reserve::admit()?;
        fork::install();
        match registry::set_keys(fd, Direction::Rx, || keys(info)) {
            // CI-1 (a) goes before (b): what cannot even name a cipher is refused where keys are set too.
            Err(Error::KeysPresent) => head.and(Err(Error::KeysPresent)),
            result => result.map(|()| 0),
        }
    })
}

/// Set an option of `fd`. `SOL_TCP`/`TCP_ULP` with "tls": attaches TLS; without keys the socket
/// passes bytes on as they are. `SOL_TLS`/`TLS_TX`, `TLS_RX`: the keys, as `tls_tx_init` and
/// `tls_rx_init`, on a socket with TLS attached. `SOL_TLS`/`TLS_TX_MAX_PAYLOAD_LEN`: a uint16_t, the
/// most plaintext bytes in a sent record, 64 to 16384 (TLS 1.3: 63). `SOL_TLS`/`TLS_RX_EXPECT_NO_PAD`
/// and `TLS_TX_ZEROCOPY_RO`: 0 or 1, kept, without effect on what is sent and received.
/// `SOL_SOCKET`/`SO_RCVLOWAT` on a socket with RX keys: kept for `tls_recv`; `SO_PEEK_OFF` there: kept,
/// without effect. All other options: as setsockopt(2).
///
/// Returns 0, or -1 with errno, nothing having changed: EBADF, ENOTSOCK; EEXIST TLS is attached
/// already; ENOENT an unknown ULP; ENOTCONN; ENOPROTOOPT an unknown SOL_TLS option, or a socket
/// without TLS; EINVAL a wrong length or value; EFAULT; ENOMEM; EBUSY a record is open, or TLS 1.2 keys are
/// set already; others as setsockopt(2).
/// Since 0.1. Mirrors setsockopt(2) on a kTLS socket (Linux net/tls/tls_main.c).
///
/// # Safety
/// `optval` is NULL or readable for `optlen` bytes.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_setsockopt(
    fd: c_int,
    level: c_int,
    optname: c_int,
    optval: *const c_void,
    optlen: libc::socklen_t,
) -> c_int {
    guard(fd, || {
        // A negative length, says the kernel, of what is beyond an int's range.
        let is_negative = i32::try_from(optlen).is_err();
        let len = if is_negative { 0 } else { optlen as usize };
        // SAFETY: our caller's promise.
        let value = unsafe { Argument::new(optval.cast(), len) };
        match (level, optname) {
            (SOL_TCP, TCP_ULP) if is_tls(value)? => {
                reserve::admit()?;
                fork::install();
                registry::attach_tcp(fd)?;
                return Ok(0);
            }
            (SOL_TLS, _) => {
                if let Ok(found) = registry::entry(fd) {
                    reserve::admit()?;
                    set_tls(fd, found.get()?, optname, value)?;
                    return Ok(0);
                }
            }
            (libc::SOL_SOCKET, libc::SO_RCVLOWAT | libc::SO_PEEK_OFF) => {
                let found = registry::entry(fd);
                if let Ok(socket) = found.as_ref().map(|found| found.get())
                    && let Some(receiver) = socket?.rx()
                {
                    if value.len < size_of::<c_int>() {
                        return Err(Error::Invalid);
                    }
                    let value = integer(value.readable).ok_or(Error::BadAddress)?;
                    if optname == libc::SO_RCVLOWAT {
                        receiver.set_low_water(usize::try_from(value).unwrap_or(usize::MAX));
                    } else {
                        // For sockets and kernels that have no such option.
                        net::set_socket_option(fd, level, optname, -1)?;
                        receiver.set_peek_offset(value);
                    }
                    return Ok(0);
                }
            }
            _ => {}
        }
        // SAFETY: our caller's promise, passed on.
        unsafe { net::setsockopt(fd, level, optname, optval, optlen) }?;
        Ok(0)
    })
}

/// Read an option of `fd`. `SOL_TLS`/`TLS_TX`, `TLS_RX`: the crypto_info struct with the sequence
/// number of the next record (`*optlen` its exact size), or version and cipher only (`*optlen` 4).
/// The other options of `tls_setsockopt`: their values. `SOL_SOCKET`/`SO_ERROR`: the pending error,
/// of deferred transmission and of received records too, which is cleared. All other options: as
/// getsockopt(2).
///
/// Returns 0, or -1 with errno: EBADF, ENOTSOCK; EFAULT memory that cannot be accessed; EINVAL
/// `optval` is NULL
/// or `*optlen` not one of the sizes above; EBUSY the direction has no keys; ENOPROTOOPT an unknown
/// SOL_TLS option; ENOPROTOOPT, EOPNOTSUPP a socket without TLS; others as getsockopt(2).
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
        let is_ours = level == SOL_TLS
            || (level, optname) == (SOL_TCP, TCP_ULP)
            || (level == libc::SOL_SOCKET
                && matches!(optname, libc::SO_RCVLOWAT | libc::SO_PEEK_OFF));
        if is_ours && let Ok(found) = registry::entry(fd) {
            // SAFETY: an integer.
            let len = unsafe { read(optlen) }?;
            if let Some(answer) = get_ours(found.get()?, level, optname, optval.is_null(), len)? {
                let (value, given) = (answer.bytes(), len as usize);
                let written = value.len().min(given);
                is_writable(optval, written)?;
                is_writable(optlen, size_of_val(&len))?;
                // SAFETY: writable, as has just been seen.
                unsafe {
                    optval
                        .cast::<u8>()
                        .copy_from_nonoverlapping(value.as_ptr(), written)
                };
                // It may have been a key.
                scrub::registers();
                // SAFETY: as above.
                unsafe { optlen.write_unaligned(written as libc::socklen_t) };
                return Ok(0);
            }
        }
        // SAFETY: our caller's promise, passed on.
        unsafe { net::getsockopt(fd, level, optname, optval, optlen) }?;
        if is_error {
            // SAFETY: getsockopt has just written there how long the value is.
            let len = unsafe { optlen.read_unaligned() } as usize;
            // SAFETY: getsockopt has just written `len` bytes there.
            unsafe { merge_error(fd, optval.cast(), len) };
        }
        Ok(0)
    })
}

/// The socket's own error goes first; ours if it has none.
///
/// # Safety
/// `value` is readable and writable for `len` bytes: an int, or what the caller had room for of it.
unsafe fn merge_error(fd: c_int, value: *mut u8, len: usize) {
    let Ok(found) = registry::entry(fd) else {
        return;
    };
    let Some(ours) = found.get().ok().and_then(|socket| socket.take_error()) else {
        return;
    };
    let ours = ours.raw_os_error().to_ne_bytes();
    let mut own = [0; size_of::<c_int>()];
    let len = len.min(own.len());
    if len == 0 {
        return;
    }
    // SAFETY: readable for `len` bytes by our caller's promise, and `own` is as long at least.
    unsafe { value.copy_to_nonoverlapping(own.as_mut_ptr(), len) };
    if own == [0; size_of::<c_int>()] {
        // SAFETY: writable for `len` bytes by our caller's promise, and `ours` is as long at least.
        unsafe { value.copy_from_nonoverlapping(ours.as_ptr(), len) };
    }
}

/// Whether the ULP named is "tls" (ATT-2, ATT-3). An empty value is refused, as is none.
fn is_tls(value: Argument<'_>) -> Result<bool> {
    if value.len == 0 {
        return Err(Error::Invalid);
    }
    let most = value.len.min(ULP_NAME_MAX - 1);
    let name = &value.readable[..value.readable.len().min(most)];
    match name.iter().position(|byte| *byte == 0) {
        Some(end) => Ok(&name[..end] == b"tls"),
        None if name.len() < most => Err(Error::BadAddress),
        None => Ok(name == b"tls"),
    }
}

fn set_tls(fd: c_int, socket: &Socket, optname: c_int, value: Argument<'_>) -> Result<()> {
    match optname {
        TLS_TX | TLS_RX => {
            // CI-1 (a), in front of CI-3.
            if value.is_null || value.len < 4 {
                return Err(Error::Invalid);
            }
            let direction = if optname == TLS_TX {
                Direction::Tx
            } else {
                Direction::Rx
            };
            registry::set_keys(fd, direction, || keys(value))
        }
        TLS_TX_ZEROCOPY_RO => {
            // CI-15.
            if value.len != 4 {
                return Err(Error::Invalid);
            }
            match integer(value.whole()?) {
                Some(on @ (0 | 1)) => socket.set_zerocopy(on == 1),
                _ => return Err(Error::Invalid),
            }
            Ok(())
        }
        TLS_RX_EXPECT_NO_PAD => {
            // CI-16.
            let is_tls13 = socket
                .suite()
                .is_some_and(|(version, _)| version == Version::Tls13);
            if !is_tls13 || value.is_null || value.len < 4 {
                return Err(Error::Invalid);
            }
            let on = integer(value.readable).ok_or(Error::BadAddress)?;
            if !(0..=1).contains(&on) {
                return Err(Error::Invalid);
            }
            let value = value.whole()?;
            if value[4..].iter().any(|byte| *byte != 0) {
                return Err(Error::Invalid);
            }
            socket.rx().ok_or(Error::Invalid)?.expect_no_pad(on == 1);
            Ok(())
        }
        TLS_TX_MAX_PAYLOAD_LEN => socket.set_max_payload(|| {
            if value.len != 2 {
                return Err(Error::Invalid);
            }
            let value = value.whole()?.try_into().map_err(|_| Error::Invalid)?;
            Ok(u16::from_ne_bytes(value))
        }),
        _ => Err(Error::UnknownOption),
    }
}

/// An option's value on its way to the program.
enum Answer {
    /// As much of it as there is room for, and that length.
    Cut([u8; ULP_NAME_MAX]),
    Int([u8; 4]),
    Short([u8; 2]),
    /// Of the length that was asked for (CI-11).
    Info(SecretBox<[u8; crypto_info::LEN_MAX]>, usize),
}

impl Answer {
    fn bytes(&self) -> &[u8] {
        match self {
            Answer::Cut(name) => name,
            Answer::Int(value) => value,
            Answer::Short(value) => value,
            Answer::Info(info, len) => &info[..*len],
        }
    }
}

/// The value of an option that is ours; `None` if the kernel has to answer.
fn get_ours(
    socket: &Socket,
    level: c_int,
    optname: c_int,
    is_null: bool,
    len: libc::socklen_t,
) -> Result<Option<Answer>> {
    let negative = i32::try_from(len).is_err();
    let len = len as usize;
    if level == SOL_TCP {
        if negative {
            return Err(Error::Invalid);
        }
        if is_null && len > 0 {
            return Err(Error::BadAddress);
        }
        let mut name = [0; ULP_NAME_MAX];
        name[..3].copy_from_slice(b"tls");
        return Ok(Some(Answer::Cut(name)));
    }
    if level == libc::SOL_SOCKET {
        // As the kernel answers it: cut to what there is room for.
        return Ok(socket
            .rx()
            .filter(|_| !negative && !is_null)
            // Of sockets that have no such option there is nothing to be told.
            .filter(|receiver| optname != libc::SO_PEEK_OFF || receiver.peek_offset() >= 0)
            .map(|receiver| {
                let value = match optname {
                    libc::SO_PEEK_OFF => receiver.peek_offset(),
                    _ => i32::try_from(receiver.low_water()).unwrap_or(i32::MAX),
                };
                Answer::Int(value.to_ne_bytes())
            }));
    }
    // What is negative is as short as nothing.
    let len = if negative { 0 } else { len };
    get_tls(socket, optname, is_null, len).map(Some)
}

/// CI-11, CI-15, CI-17, CI-20: the order of the kernel's checks.
fn get_tls(socket: &Socket, optname: c_int, is_null: bool, len: usize) -> Result<Answer> {
    match optname {
        TLS_TX | TLS_RX => {
            if is_null || len < 4 {
                return Err(Error::Invalid);
            }
            let suite = match optname {
                TLS_TX => socket.tx().map(|connection| connection.suite()),
                _ => socket.rx().map(|receiver| receiver.suite()),
            };
            let (version, cipher) = suite.ok_or(Error::KeysMissing)?;
            let mut info = SecretBox::new([0; crypto_info::LEN_MAX]);
            let full = crypto_info::expected_len(cipher);
            info[..2].copy_from_slice(&version.code().to_ne_bytes());
            info[2..4].copy_from_slice(&cipher.id().to_ne_bytes());
            if len == full {
                match (optname, socket.tx(), socket.rx()) {
                    (TLS_TX, Some(connection), _) => connection.crypto_info(&mut info[..full])?,
                    (TLS_RX, _, Some(receiver)) => receiver.crypto_info(&mut info[..full])?,
                    _ => return Err(Error::KeysMissing),
                }
            } else if len != 4 {
                return Err(Error::Invalid);
            }
            Ok(Answer::Info(info, len))
        }
        TLS_TX_ZEROCOPY_RO if len == 4 && !is_null => {
            Ok(Answer::Int(u32::from(socket.zerocopy()).to_ne_bytes()))
        }
        TLS_TX_ZEROCOPY_RO => Err(if len == 4 {
            Error::BadAddress
        } else {
            Error::Invalid
        }),
        TLS_RX_EXPECT_NO_PAD => {
            let is_tls13 = socket
                .suite()
                .is_some_and(|(version, _)| version == Version::Tls13);
            if !is_tls13 || len < 4 || is_null {
                return Err(Error::Invalid);
            }
            let on = socket.rx().ok_or(Error::Invalid)?.expects_no_pad();
            Ok(Answer::Int(i32::from(on).to_ne_bytes()))
        }
        TLS_TX_MAX_PAYLOAD_LEN => {
            if len < 2 || is_null {
                return Err(Error::Invalid);
            }
            let max = u16::try_from(socket.max_payload()?).unwrap_or(u16::MAX);
            Ok(Answer::Short(max.to_ne_bytes()))
        }
        _ => Err(Error::UnknownOption),
    }
}

fn integer(value: &[u8]) -> Option<i32> {
    value.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

/// CI-1 (a), (c): version and cipher, if they are there.
fn head(info: Argument<'_>) -> Result<()> {
    match (info.is_null || info.len < 4, info.readable.len() < 4) {
        (true, _) => Err(Error::Invalid),
        (false, true) => Err(Error::BadAddress),
        (false, false) => Ok(()),
    }
}

/// CI-1 (a), (c) to (e), (g) to (i): the rest of the order is the registry's.
fn keys(info: Argument<'_>) -> Result<TrafficKeys> {
    head(info)?;
    if info.readable.len() == info.len {
        return CryptoInfo::parse(info.readable);
    }
    // (i): what is wrong with version, cipher and length goes before what cannot be read.
    let mut padded = [0; crypto_info::LEN_MAX + 1];
    padded[..4].copy_from_slice(&info.readable[..4]);
    CryptoInfo::parse(&padded[..info.len.min(padded.len())])?;
    Err(Error::BadAddress)
}

/// `TCP_ULP_NAME_MAX` (include/net/tcp.h).
const ULP_NAME_MAX: usize = 16;
