//! Control messages of a send, and its flags.

use core::ffi::c_int;

use crate::error::{Error, Result};
use crate::sys::abi::{SOL_TLS, TLS_GET_RECORD_TYPE, TLS_SET_RECORD_TYPE};
use crate::tx::SendFlags;

/// The flags of a send, checked as the kernel does before anything else happens (TX-1, TX-2).
pub(super) fn flags(flags: c_int) -> Result<SendFlags> {
    // Bits that only the kernel's own callers set; silently masked off user calls (TX-1).
    const INTERNAL: c_int = 0x8000 | 0x1_0000 | 0x2_0000 | 0x4_0000 | 0x8_0000 | 0x800_0000;
    const ALLOWED: c_int =
        libc::MSG_MORE | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_EOR | INTERNAL;
    // MSG_MORE is 0x8000 and no internal bit.
    if flags & !ALLOWED != 0 {
        return Err(Error::FlagNotSupported);
    }
    let more = flags & libc::MSG_MORE != 0;
    if more && flags & libc::MSG_EOR != 0 {
        return Err(Error::Invalid);
    }
    Ok(SendFlags {
        more,
        dont_wait: flags & libc::MSG_DONTWAIT != 0,
        no_signal: flags & libc::MSG_NOSIGNAL != 0,
    })
}

/// The record type that the control buffer sets, if there is a control buffer (TX-15, TX-16,
/// TX-19).
///
/// # Errors
/// [`Error::Invalid`] for a message that is short, runs out of the buffer, or is of an unknown
/// SOL_TLS type, and for a buffer without any SOL_TLS message.
pub(super) fn record_type(control: &[u8]) -> Result<Option<u8>> {
    if control.is_empty() {
        return Ok(None);
    }
    let mut record_type = None;
    let mut rest = control;
    while rest.len() >= HEADER {
        let len = field::<{ size_of::<usize>() }>(rest, 0).map(usize::from_ne_bytes)?;
        let level = field::<4>(rest, size_of::<usize>()).map(i32::from_ne_bytes)?;
        let kind = field::<4>(rest, size_of::<usize>() + 4).map(i32::from_ne_bytes)?;
        if len < HEADER || len > rest.len() {
            return Err(Error::Invalid);
        }
        if level == SOL_TLS {
            // CMSG_LEN(1): one byte of data; longer is allowed (TX-16).
            if kind != TLS_SET_RECORD_TYPE || len < HEADER + 1 {
                return Err(Error::Invalid);
            }
            record_type = Some(rest[HEADER]);
        }
        let next = len.next_multiple_of(size_of::<usize>());
        rest = rest.get(next..).unwrap_or(&[]);
    }
    record_type.map(Some).ok_or(Error::Invalid)
}

/// A control message on its way into the program's buffer.
pub(super) struct Message {
    pub bytes: [u8; MESSAGE_MAX],
    /// Bytes that fit.
    pub len: usize,
    /// The type itself did not fit.
    pub is_cut: bool,
}

/// Whether a control buffer of `room` bytes holds a record type (RX-13, RX-15).
pub(super) fn tells_type(room: usize) -> bool {
    room > HEADER
}

/// The control message that tells a received record's type, cut to `room` bytes as the kernel's
/// `put_cmsg` does (RX-13, RX-14).
pub(super) fn record_type_message(content_type: u8, room: usize) -> Message {
    let mut bytes = [0; MESSAGE_MAX];
    let is_cut = !tells_type(room);
    let len = if is_cut { HEADER } else { HEADER + 1 };
    bytes[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
    bytes[size_of::<usize>()..][..4].copy_from_slice(&SOL_TLS.to_ne_bytes());
    bytes[size_of::<usize>() + 4..][..4].copy_from_slice(&TLS_GET_RECORD_TYPE.to_ne_bytes());
    bytes[HEADER] = content_type;
    Message {
        bytes,
        len: if room < HEADER {
            0
        } else {
            room.min(bytes.len())
        },
        is_cut,
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes
        .get(at..at + N)
        .and_then(|b| b.try_into().ok())
        .ok_or(Error::Invalid)
}

/// `sizeof(struct cmsghdr)`: length, level, type.
const HEADER: usize = size_of::<usize>() + 4 + 4;

/// The longest message that is told: `CMSG_SPACE(1)`.
pub(super) const MESSAGE_MAX: usize = HEADER + size_of::<usize>();

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: usize, level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    /// TX-15, TX-16, TX-19.
    #[test]
    fn control_messages() {
        let alert = message(17, SOL_TLS, TLS_SET_RECORD_TYPE, &[21]);
        let other = message(20, libc::SOL_SOCKET, 1, &[0; 4]);
        assert_eq!(record_type(&[]), Ok(None));
        assert_eq!(record_type(&alert), Ok(Some(21)));
        assert_eq!(record_type(&alert[..17]), Ok(Some(21)));
        assert_eq!(
            record_type(&[other.clone(), alert.clone()].concat()),
            Ok(Some(21))
        );
        let twice = [
            alert.clone(),
            message(18, SOL_TLS, TLS_SET_RECORD_TYPE, &[22, 0]),
        ]
        .concat();
        assert_eq!(record_type(&twice), Ok(Some(22)));
        for bad in [
            other,
            alert[..8].to_vec(),
            message(16, SOL_TLS, TLS_SET_RECORD_TYPE, &[21]),
            message(64, SOL_TLS, TLS_SET_RECORD_TYPE, &[21]),
            message(17, SOL_TLS, 2, &[21]),
            message(0, SOL_TLS, TLS_SET_RECORD_TYPE, &[21]),
        ] {
            assert_eq!(record_type(&bad), Err(Error::Invalid), "{bad:?}");
        }
    }

    /// RX-13, RX-14: 24 bytes, or what fits; without room for the type, none of it.
    #[test]
    fn the_type_message_is_cut_as_by_the_kernel() {
        for (room, len, is_cut) in [
            (0, 0, true),
            (15, 0, true),
            (16, 16, true),
            (17, 17, false),
            (23, 23, false),
            (24, 24, false),
            (64, 24, false),
        ] {
            let message = record_type_message(21, room);
            assert_eq!((message.len, message.is_cut), (len, is_cut), "{room}");
            assert_eq!(record_type_of(&message), (!is_cut).then_some(21), "{room}");
        }
    }

    fn record_type_of(message: &Message) -> Option<u8> {
        let len = usize::from_ne_bytes(message.bytes[..8].try_into().unwrap());
        (message.len >= len && len == 17).then(|| message.bytes[16])
    }

    /// TX-1, TX-2.
    #[test]
    fn send_flags() {
        assert!(flags(libc::MSG_MORE | libc::MSG_DONTWAIT).is_ok_and(|f| f.more && f.dont_wait));
        assert!(flags(libc::MSG_EOR | libc::MSG_NOSIGNAL).is_ok_and(|f| !f.more && f.no_signal));
        assert_eq!(flags(libc::MSG_MORE | libc::MSG_EOR), Err(Error::Invalid));
        for bad in [
            libc::MSG_OOB,
            libc::MSG_ZEROCOPY,
            libc::MSG_CONFIRM,
            libc::MSG_DONTROUTE,
            libc::MSG_FASTOPEN,
            libc::MSG_PEEK,
            libc::MSG_TRUNC,
            libc::MSG_WAITALL,
            libc::MSG_SYN,
            libc::MSG_FIN,
            libc::MSG_RST,
            libc::MSG_ERRQUEUE,
            libc::MSG_CMSG_CLOEXEC,
            0x10, // MSG_PROBE
        ] {
            assert_eq!(flags(bad), Err(Error::FlagNotSupported), "{bad:#x}");
        }
    }
}
