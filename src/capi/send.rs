//! Sending, waiting, and the end of a connection.

use core::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

use super::control;
use super::guard::{guard, guard_infallible};
use super::memory::{bytes, is_writable, read, span};
use crate::error::{Error, Result};
use crate::registry;
use crate::sys::gather::Span;
use crate::sys::net;
use crate::sys::pages::Pages;
use crate::sys::plain;
use crate::sys::sources::{self, COUNT_MAX};
use crate::tx::{FileSource, SendFlags};

/// Queue `len` bytes as TLS application data on `fd`.
///
/// Returns the bytes accepted (1 to `len`; 0 if `len` is 0), or -1 with errno. Accepted means
/// sealed, being sealed, or collected in the open record, not yet sent: a transmit failure after
/// that is reported by later calls on `fd`. `buf` may be reused when the call returns.
/// `flags`: MSG_MORE (keep what does not fill a record open), MSG_DONTWAIT, MSG_NOSIGNAL, MSG_EOR.
/// A blocking descriptor waits until all bytes are accepted, SO_SNDTIMEO runs out, or a signal
/// comes; a non-blocking one accepts what there is room for.
///
/// Errors: EBADF, ENOTSOCK; ENOPROTOOPT no keys on `fd`; EFAULT `buf` cannot be read (whole
/// records in front of that are accepted); ENOMEM no memory for a record; EOPNOTSUPP another
/// flag; EINVAL MSG_MORE with MSG_EOR, or a length beyond SSIZE_MAX; EAGAIN the socket took no more
/// just now; EINTR; EDEADLK the caller is a signal handler, and the call that it has interrupted
/// sends on `fd`; EPIPE (with SIGPIPE, unless MSG_NOSIGNAL) shut down, or the peer is gone;
/// ECONNRESET and other network errors; EBADMSG a record could not be sealed, or the sequence
/// numbers are used up; ENOTRECOVERABLE keys set before a raw clone(2), or an internal fault.
/// Any thread may call it, and after fork(2) any of the processes; the bytes of one call are
/// contiguous in the stream.
/// Since 0.1. Mirrors send(2) on a kTLS socket (Linux net/tls/tls_sw.c).
///
/// # Safety
/// `buf` is NULL or readable for `len` bytes.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_send(
    fd: c_int,
    buf: *const c_void,
    len: usize,
    flags: c_int,
) -> isize {
    guard(fd, || {
        registry::with(fd, |socket| {
            let Some(connection) = socket.tx() else {
                return registry::plainly(fd, socket, || {
                    // SAFETY: our caller's promise, passed on.
                    Ok(unsafe { plain::send(fd, buf, len, flags) }.map(count)?)
                });
            };
            let flags = control::flags(flags)?;
            // SAFETY: our caller's promise.
            let data = unsafe { span(buf.cast(), len) }?;
            connection.send(&[data], None, flags).map(count)
        })
    })
}

/// Queue the bytes of `msg->msg_iov` on `fd`: as `tls_send`, or, with a control message of level
/// SOL_TLS and type TLS_SET_RECORD_TYPE, as records of the content type in its first data byte
/// (alerts, handshake messages). The open record is sealed first then.
///
/// Returns and fails as `tls_send`, and EFAULT for what of `msg` cannot be read,
/// EMSGSIZE for more than 1024 entries, EINVAL for a control buffer without a valid SOL_TLS
/// message, for an unknown SOL_TLS message, and for a record type together with MSG_MORE.
/// `msg_name` and `msg_flags` are ignored.
/// Since 0.1. Mirrors sendmsg(2) on a kTLS socket (Linux net/tls/tls_sw.c).
///
/// # Safety
/// `msg` is NULL or points to a `struct msghdr` whose pointers are NULL or readable for their
/// lengths.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_sendmsg(fd: c_int, msg: *const libc::msghdr, flags: c_int) -> isize {
    guard(fd, || {
        registry::with(fd, |socket| {
            let Some(connection) = socket.tx() else {
                return registry::plainly(fd, socket, || {
                    // SAFETY: our caller's promise, passed on.
                    Ok(unsafe { plain::sendmsg(fd, msg, flags) }.map(count)?)
                });
            };
            // SAFETY: a struct of integers and raw pointers.
            let msg = unsafe { read(msg) }?;
            let flags = control::flags(flags)?;
            // SAFETY: our caller's promise for the pointers in the struct.
            let data = unsafe { iovecs(&msg) }?;
            // SAFETY: as above.
            let control = unsafe { bytes(msg.msg_control.cast(), msg.msg_controllen) }?;
            let content_type = control::record_type(control)?;
            if content_type.is_some() && flags.more {
                return Err(Error::Invalid);
            }
            connection
                .send(data.as_slice(), content_type, flags)
                .map(count)
        })
    })
}

/// Queue `size` bytes at `page + offset` on `fd` without copying them. They must stay unchanged
/// until `uktls_tx_pending(fd)` has fallen below their place in the stream: with the `threads`
/// engine they are read after this call has returned.
/// `flags` as for `tls_send`; MSG_SENDPAGE_NOTLAST (0x20000) counts like MSG_MORE.
///
/// Returns and fails as `tls_send`; EINVAL `offset + size` is out of range.
/// Since 0.1. Mirrors the kernel's sendpage on a kTLS socket (Linux net/tls/tls_sw.c, before 6.5).
///
/// # Safety
/// `page` is NULL or readable for `offset + size` bytes, for as long as said above.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_sendpage(
    fd: c_int,
    page: *const c_void,
    offset: usize,
    size: usize,
    flags: c_int,
) -> isize {
    guard(fd, || {
        registry::with(fd, |socket| {
            let mut send_flags = control::flags(flags & !MSG_SENDPAGE_NOTLAST)?;
            send_flags.more |= flags & MSG_SENDPAGE_NOTLAST != 0;
            if page.is_null() && size > 0 {
                return Err(Error::BadAddress);
            }
            let in_range = offset
                .checked_add(size)
                .is_some_and(|end| isize::try_from(end).is_ok());
            if !in_range {
                return Err(Error::Invalid);
            }
            let start = page.cast::<u8>().wrapping_add(offset);
            let Some(connection) = socket.tx() else {
                return registry::plainly(fd, socket, || {
                    let flags = flags & !MSG_SENDPAGE_NOTLAST;
                    // SAFETY: our caller's promise, passed on.
                    Ok(unsafe { plain::send(fd, start.cast(), size, flags) }.map(count)?)
                });
            };
            if size == 0 {
                return connection.send(&[], None, send_flags).map(count);
            }
            // SAFETY: readable and unchanged until released, by our caller's promise.
            let pages = unsafe { Pages::new(start, size) };
            connection.send_pages(pages, send_flags).map(count)
        })
    })
}

/// Queue up to `count` bytes of the file `in_fd` on `fd`: from `*offset`, which is moved on by the
/// bytes accepted, or, if `offset` is NULL, from the file's own position.
///
/// Returns the bytes accepted, 0 at the end of the file, or -1 with errno: as `tls_send`, and what
/// sendfile(2) says of `in_fd` and `*offset`: EINVAL a negative one, or `in_fd` is a pipe, a socket or a directory, ESPIPE an
/// offset for one of those.
/// Since 0.1. Mirrors sendfile(2) to a kTLS socket.
///
/// # Safety
/// `offset` is NULL or points to a writable `off_t`.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_sendfile(
    fd: c_int,
    in_fd: c_int,
    offset: *mut libc::off_t,
    count: usize,
) -> isize {
    guard(fd, || {
        registry::with(fd, |socket| {
            let Some(connection) = socket.tx() else {
                return registry::plainly(fd, socket, || {
                    // SAFETY: our caller's promise, passed on.
                    Ok(unsafe { plain::sendfile(fd, in_fd, offset, count) }.map(self::count)?)
                });
            };
            let start = match offset.is_null() {
                true => None,
                // SAFETY: an integer.
                false => Some(unsafe { read(offset) }?),
            };
            is_writable(offset, start.map_or(0, |start| size_of_val(&start)))?;
            let is_odd = sources::is_odd_file(in_fd)?;
            if is_odd {
                // The order of the errors is the kernel's.
                sources::take(in_fd, &mut [], start.map(|start| start as u64), false)?;
            }
            sources::check_place(in_fd, start, count)?;
            if sources::appends(fd)? {
                return Err(Error::Invalid);
            }
            let source = FileSource {
                fd: in_fd,
                offset: start.map(|start| start as u64),
                count: count.min(COUNT_MAX),
                no_wait: false,
                pipe: false,
                is_odd,
            };
            let accepted = connection.send_file(source, SendFlags::default())?;
            if let Some(start) = start {
                // SAFETY: writable, as has been seen.
                unsafe { offset.write_unaligned(start + accepted as libc::off_t) };
            }
            Ok(self::count(accepted))
        })
    })
}

/// Move up to `len` bytes between a pipe and a TLS connection: from the pipe `fd_in` to the
/// connection `fd_out`, or from the connection `fd_in` to the pipe `fd_out`, then of one record at
/// most. `flags`: SPLICE_F_MORE keeps what does not fill a record open, SPLICE_F_NONBLOCK does not
/// wait for the pipe, nor for records (whether room is waited for is the socket's O_NONBLOCK, which
/// counts for records, too); SPLICE_F_MOVE and SPLICE_F_GIFT are accepted and have no effect.
/// `off_in` and `off_out` must be NULL.
///
/// Returns the bytes moved, 0 at the end of the pipe or stream, or -1 with errno: as `tls_send` or
/// `tls_recv`; ESPIPE an offset was given for the pipe; EINVAL one for the connection, another flag,
/// the other end is no pipe, or a record that is no application data comes next.
/// Since 0.1. Mirrors splice(2) on a kTLS socket.
///
/// # Safety
/// `off_in` and `off_out` are not followed unless the direction of the connection has no keys: then
/// they are as for splice(2).
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_splice(
    fd_in: c_int,
    off_in: *mut libc::off_t,
    fd_out: c_int,
    off_out: *mut libc::off_t,
    len: usize,
    flags: c_uint,
) -> isize {
    guard(known_end(fd_in, fd_out), || {
        if len == 0 {
            // The kernel looks at nothing else.
            return Ok(0);
        }
        let outward = !is_source(fd_in, fd_out);
        let (end, pipe) = match outward {
            true => (fd_out, fd_in),
            false => (fd_in, fd_out),
        };
        registry::with(end, |socket| {
            let has_keys = match outward {
                true => socket.tx().is_some(),
                false => socket.rx().is_some(),
            };
            if !has_keys {
                let (from, to) = ((fd_in, off_in), (fd_out, off_out));
                return registry::plainly(fd_out, socket, || {
                    // SAFETY: our caller's promise, passed on.
                    Ok(unsafe { plain::splice(from, to, len, flags) }.map(count)?)
                });
            }
            let known = libc::SPLICE_F_MOVE
                | libc::SPLICE_F_NONBLOCK
                | libc::SPLICE_F_MORE
                | libc::SPLICE_F_GIFT;
            if flags & !known != 0 {
                return Err(Error::Invalid);
            }
            let (of_pipe, of_socket) = match outward {
                true => (off_in, off_out),
                false => (off_out, off_in),
            };
            let is_pipe = net::is_pipe(pipe)?;
            if is_pipe && !of_pipe.is_null() {
                return Err(Error::Os(rustix::io::Errno::SPIPE));
            }
            if outward {
                sources::check_readable(pipe)?;
            }
            if !is_pipe || !of_socket.is_null() {
                return Err(Error::Invalid);
            }
            if isize::try_from(len).is_err() {
                return Err(Error::Invalid);
            }
            let (no_wait, count) = (flags & libc::SPLICE_F_NONBLOCK != 0, len.min(COUNT_MAX));
            if let Some(receiver) = socket.rx().filter(|_| !outward) {
                return receiver.splice(pipe, count, no_wait).map(self::count);
            }
            if sources::appends(fd_out)? {
                return Err(Error::Invalid);
            }
            let connection = socket.tx().ok_or(Error::NoTls)?;
            let send_flags = SendFlags {
                more: flags & libc::SPLICE_F_MORE != 0,
                // The pipe's only: room is the socket's O_NONBLOCK (TX-47).
                dont_wait: false,
                no_signal: false,
            };
            let source = FileSource {
                fd: pipe,
                offset: None,
                count,
                no_wait,
                pipe: true,
                is_odd: false,
            };
            connection.send_file(source, send_flags).map(self::count)
        })
    })
}

/// The end that is known to be a connection, which a panic breaks.
fn known_end(fd_in: c_int, fd_out: c_int) -> c_int {
    match registry::is_ours(fd_in) {
        true => fd_in,
        false => fd_out,
    }
}

/// Whether a splice takes from a connection: else it gives to one. A duplicate that nobody has used
/// yet is looked for where the other end is none for certain.
fn is_source(fd_in: c_int, fd_out: c_int) -> bool {
    registry::is_ours(fd_in) || (!registry::is_ours(fd_out) && registry::entry(fd_in).is_ok())
}

/// Wait for events on `n` descriptors, with and without TLS, for up to `timeout_ms` milliseconds
/// (negative: for ever). Records that were deferred on them are moved along first.
///
/// Returns and fails as poll(2). A connection is readable when `tls_recvmsg` has something to return
/// at once: a complete record, the rest of one, an error, the end. epoll, io_uring and the like work
/// on the sockets themselves; of a record that comes in pieces they may report the first bytes, once.
/// Since 0.1. Mirrors poll(2).
///
/// # Safety
/// `fds` is NULL or points to `n` structs.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub unsafe extern "C" fn tls_poll(
    fds: *mut libc::pollfd,
    n: libc::nfds_t,
    timeout_ms: c_int,
) -> c_int {
    guard(-1, || {
        if fds.is_null() && n > 0 {
            return Err(Error::BadAddress);
        }
        let n = usize::try_from(n).map_err(|_| Error::Invalid)?;
        // poll(2) looks at no entry of a table that is longer than any can be.
        if n > FEW_FDS && n > net::most_descriptors() {
            return Err(Error::Invalid);
        }
        is_writable(fds, n.saturating_mul(size_of::<libc::pollfd>()))?;
        let fds = match n {
            0 => &mut [][..],
            // SAFETY: `n` structs, by our caller's promise; memory that can be written to.
            _ => unsafe { core::slice::from_raw_parts_mut(fds, n) },
        };
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        let ready = registry::poll(fds, timeout, None)?;
        Ok(c_int::try_from(ready).unwrap_or(c_int::MAX))
    })
}

/// Shut the connection on `fd` down: SHUT_RD at once, SHUT_WR and SHUT_RDWR behind the last
/// accepted byte, the open record included. Does not wait: if the socket has no room now, the FIN
/// follows in the background. A close_notify alert is the program's to send before.
///
/// Returns 0, or -1 with errno: as shutdown(2).
/// Since 0.1. Mirrors shutdown(2).
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub extern "C" fn tls_shutdown(fd: c_int, how: c_int) -> c_int {
    guard(fd, || {
        if !matches!(how, libc::SHUT_RD | libc::SHUT_WR | libc::SHUT_RDWR) {
            return Err(Error::Invalid);
        }
        registry::with(fd, |socket| {
            let Some(connection) = socket.tx().filter(|_| how != libc::SHUT_RD) else {
                net::shutdown(fd, how)?;
                return Ok(0);
            };
            if how == libc::SHUT_RDWR {
                net::shutdown(fd, libc::SHUT_RD)?;
            }
            connection.shutdown_write()?;
            Ok(0)
        })
    })
}

/// Close `fd`, with or without TLS on it. What was accepted, the open record included, is sent
/// first: in the background if the socket has no room now. SO_LINGER with a time waits that long;
/// with no time it drops what is queued and resets the connection.
///
/// Returns 0, or -1 with errno: as close(2). The descriptor's number is free when it returns. A
/// receive that another thread sleeps in ends within a second, with EBADF.
/// Where other processes have the connection by fork, an open record stays open for them.
/// Since 0.1.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub extern "C" fn uktls_close(fd: c_int) -> c_int {
    guard(fd, || registry::close(fd).map(|()| 0))
}

/// Wait until the kernel has every byte accepted on `fd`, the open record included (it is sealed),
/// for up to `timeout_ms` milliseconds (negative: for ever).
///
/// Returns 0, or -1 with errno: ETIMEDOUT; EINTR; EBADF, ENOTSOCK, ENOPROTOOPT; otherwise what a
/// send would report.
/// Since 0.1.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub extern "C" fn uktls_flush(fd: c_int, timeout_ms: c_int) -> c_int {
    guard(fd, || {
        let found = registry::entry(fd)?;
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        if let Some(connection) = found.get()?.tx() {
            connection.flush(timeout)?;
        }
        Ok(0)
    })
}

/// Plaintext bytes accepted on `fd` and not yet handed to the kernel, the open record included; 0
/// for a descriptor without keys and for a broken connection, which sends nothing any more.
/// Never fails, leaves errno alone, never waits. Since 0.1.
#[cfg_attr(feature = "capi", unsafe(no_mangle))]
pub extern "C" fn uktls_tx_pending(fd: c_int) -> usize {
    guard_infallible(0, || {
        if !registry::is_ours(fd) {
            return 0;
        }
        let pending = |found: registry::Found| Some(found.get().ok()?.tx()?.pending());
        let pending = registry::entry(fd).ok().and_then(pending);
        usize::try_from(pending.unwrap_or(0)).unwrap_or(usize::MAX)
    })
}

/// The spans of a message; on the stack for the usual few.
///
/// # Safety
/// As for [`span`], for each of the entries of `msg`.
unsafe fn iovecs<'a>(msg: &libc::msghdr) -> Result<Spans<'a>> {
    let n = msg.msg_iovlen;
    if n > IOV_MAX {
        return Err(Error::Os(rustix::io::Errno::MSGSIZE));
    }
    let one = |i: usize| {
        // SAFETY: a struct of integers and raw pointers.
        let iov = unsafe { read(msg.msg_iov.wrapping_add(i)) }?;
        // SAFETY: our caller's promise.
        unsafe { span(iov.iov_base.cast(), iov.iov_len) }
    };
    let spans = match n {
        0..=FEW => {
            let mut few = [Span::from(&[][..]); FEW];
            for (i, entry) in few[..n].iter_mut().enumerate() {
                *entry = one(i)?;
            }
            Spans::Few(few, n)
        }
        _ => Spans::Many((0..n).map(one).collect::<Result<_>>()?),
    };
    let total = spans
        .as_slice()
        .iter()
        .try_fold(0usize, |sum, s| sum.checked_add(s.len()));
    total
        .filter(|total| isize::try_from(*total).is_ok())
        .ok_or(Error::Invalid)?;
    Ok(spans)
}

enum Spans<'a> {
    Few([Span<'a>; FEW], usize),
    Many(Vec<Span<'a>>),
}

impl<'a> Spans<'a> {
    fn as_slice(&self) -> &[Span<'a>] {
        match self {
            Spans::Few(few, n) => &few[..*n],
            Spans::Many(many) => many,
        }
    }
}

/// An accepted count as a C return value.
fn count(accepted: usize) -> isize {
    isize::try_from(accepted).unwrap_or(isize::MAX)
}

const FEW: usize = 8;

/// A poll of so many descriptors is not worth the question whether there can be as many.
const FEW_FDS: usize = 1024;

/// `UIO_MAXIOV` (linux/uio.h).
const IOV_MAX: usize = 1024;

/// `MSG_SENDPAGE_NOTLAST` of Linux before 6.5.
const MSG_SENDPAGE_NOTLAST: c_int = 0x20000;
