//! Receiving.

use core::ffi::{c_int, c_void};

use super::control;
use super::guard::guard;
use super::memory::{is_writable, read};
use crate::error::{Error, Result};
use crate::registry;
use crate::rx::{Received, Request};
use crate::sys::plain;
use crate::sys::scatter::Destination;

/// Receive up to `len` bytes of application data from `fd`.
///
/// Returns the bytes received (records are merged; a record that does not fit is continued by the
/// next call), 0 at the end of the stream, or -1 with errno. `flags`: MSG_DONTWAIT, MSG_PEEK,
/// MSG_WAITALL; MSG_TRUNC and MSG_OOB are ignored; MSG_ERRQUEUE is passed to the socket.
/// A blocking descriptor waits until a record is complete, SO_RCVTIMEO runs out, or a signal comes.
///
/// Errors: EBADF, ENOTSOCK; ENOPROTOOPT no TLS on `fd`; EFAULT `buf` cannot be written to, with which
/// nothing is lost; ENOMEM, the same; EAGAIN; EINTR; EDEADLK the caller is a signal handler, and the call that it has
/// interrupted is in the middle of receiving from `fd`; EIO a
/// record of another type (an alert, a handshake message) comes next: `tls_recvmsg` with room for
/// its type reads it; EBADMSG a record is not authentic or too short, EMSGSIZE too long, EINVAL of
/// another version: what follows is never delivered (a call that does not wait is told of a bad
/// header once, then EAGAIN, and 0 when the peer has closed); EKEYEXPIRED the peer has changed its
/// keys, and `tls_rx_init` has not been called with the new ones; ECONNRESET and other network errors;
/// ENOTRECOVERABLE keys set before a raw clone(2), or an internal fault.
/// Any thread may call it; the bytes of one call are contiguous in the stream. Without RX keys it is
/// recv(2). Since 0.1. Mirrors recv(2) on a kTLS socket (Linux net/tls/tls_sw.c).
///
/// # Safety
/// `buf` is NULL or writable for `len` bytes.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_recv(fd: c_int, buf: *mut c_void, len: usize, flags: c_int) -> isize {
    guard(fd, || {
        registry::with(fd, |socket| {
            let Some(receiver) = socket
                .receiving()
                .filter(|_| flags & libc::MSG_ERRQUEUE == 0)
            else {
                // SAFETY: our caller's promise, passed on.
                return Ok(unsafe { plain::recv(fd, buf, len, flags) }.map(count)?);
            };
            // The kernel receives no more at once, whatever is asked for.
            let segments = [segment(buf, len.min(COUNT_MAX))?];
            // SAFETY: our caller's promise.
            let mut out = unsafe { Destination::new(&segments) };
            let mut received = Received::default();
            receiver
                .receive(&mut out, request(flags, false), &mut received)
                .map(count)
        })
    })
}

/// Receive into `msg->msg_iov`: application data as `tls_recv`, or one record of another type. With
/// room in `msg->msg_control` (CMSG_SPACE(1) bytes) the type is told by a control message of level
/// SOL_TLS and type TLS_GET_RECORD_TYPE, for application data too.
///
/// Returns and fails as `tls_recv`; EFAULT for what of `msg` cannot be accessed,
/// EMSGSIZE for more than 1024 entries. `msg->msg_flags`: MSG_EOR a record was consumed to its end,
/// MSG_CTRUNC there was no room for the type. An empty record of another type returns 0 with its
/// type. On failure `msg` is unchanged, but its control buffer may have been written to.
/// Since 0.1. Mirrors recvmsg(2) on a kTLS socket (Linux net/tls/tls_sw.c).
///
/// # Safety
/// `msg` is NULL or points to a `struct msghdr` whose pointers are NULL or writable for their
/// lengths.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_recvmsg(fd: c_int, msg: *mut libc::msghdr, flags: c_int) -> isize {
    guard(fd, || {
        registry::with(fd, |socket| {
            let Some(receiver) = socket
                .receiving()
                .filter(|_| flags & libc::MSG_ERRQUEUE == 0)
            else {
                // SAFETY: our caller's promise, passed on.
                return Ok(unsafe { plain::recvmsg(fd, msg, flags) }.map(count)?);
            };
            is_writable(msg, size_of::<libc::msghdr>())?;
            // SAFETY: a struct of our caller's own, as it promises; memory that can be written to.
            let msg = unsafe { msg.as_mut() }.ok_or(Error::BadAddress)?;
            let segments = segments(msg)?;
            // SAFETY: our caller's promise.
            let mut out = unsafe { Destination::new(&segments) };
            // What cannot be written to has no room, as the kernel's put_cmsg has it.
            let longest = msg.msg_controllen.min(control::MESSAGE_MAX);
            let room = match is_writable(msg.msg_control, longest) {
                Err(_) => 0,
                Ok(()) => msg.msg_controllen,
            };
            let mut received = Received::default();
            let request = request(flags, control::tells_type(room));
            let result = receiver.receive(&mut out, request, &mut received);
            let mut written = 0;
            // The one flag of the call that the kernel gives back.
            let mut msg_flags = flags & libc::MSG_CMSG_CLOEXEC;
            if let Some(content_type) = received.content_type {
                let message = control::record_type_message(content_type, room);
                // RX-18: also in front of an error.
                // SAFETY: the message is no longer than `room` or `longest`, which are writable.
                unsafe {
                    msg.msg_control
                        .cast::<u8>()
                        .copy_from_nonoverlapping(message.bytes.as_ptr(), message.len);
                }
                written = message.len;
                msg_flags |= if message.is_cut { libc::MSG_CTRUNC } else { 0 };
            }
            let len = result?;
            if received.end_of_record {
                msg_flags |= libc::MSG_EOR;
            }
            msg.msg_namelen = 0;
            msg.msg_controllen = written;
            msg.msg_flags = msg_flags;
            Ok(count(len))
        })
    })
}

fn request(flags: c_int, can_tell: bool) -> Request {
    Request {
        peek: flags & libc::MSG_PEEK != 0,
        wait_all: flags & libc::MSG_WAITALL != 0,
        dont_wait: flags & libc::MSG_DONTWAIT != 0,
        can_tell,
    }
}

/// The buffer as a segment; whether it can be written to is seen when bytes go there (RX-27).
///
/// # Errors
/// [`Error::BadAddress`] for addresses that no program has.
fn segment(start: *mut c_void, len: usize) -> Result<(usize, usize)> {
    let address = start.expose_provenance();
    match len == 0 || isize::try_from(address.saturating_add(len)).is_ok() {
        true => Ok((address, len)),
        false => Err(Error::BadAddress),
    }
}

/// The segments of a message.
fn segments(msg: &libc::msghdr) -> Result<Vec<(usize, usize)>> {
    if msg.msg_iovlen > IOV_MAX {
        return Err(Error::Os(rustix::io::Errno::MSGSIZE));
    }
    (0..msg.msg_iovlen)
        .map(|i| {
            // SAFETY: a struct of integers and raw pointers.
            let iov = unsafe { read(msg.msg_iov.wrapping_add(i)) }?;
            isize::try_from(iov.iov_len).map_err(|_| Error::Invalid)?;
            segment(iov.iov_base, iov.iov_len)
        })
        .collect()
}

/// A received count as a C return value.
fn count(len: usize) -> isize {
    isize::try_from(len).unwrap_or(isize::MAX)
}

/// `UIO_MAXIOV` (linux/uio.h).
const IOV_MAX: usize = 1024;

/// `MAX_RW_COUNT` (linux/fs.h).
const COUNT_MAX: usize = 0x7fff_f000;
