//! The program's own calls, passed on unchanged: for a direction without keys, and for options that
//! TLS does not answer.

use core::ffi::c_void;
use std::os::fd::RawFd;

use rustix::io::Errno;

use super::raw;

/// `send(2)`.
///
/// # Safety
/// As for `send(2)`.
pub unsafe fn send(fd: RawFd, buf: *const c_void, len: usize, flags: i32) -> Result<usize, Errno> {
    let to_nobody = [fd.into(), buf.into(), len.into(), flags.into()];
    // SAFETY: the kernel checks every argument; our caller vouches for the buffer.
    unsafe { raw::call(libc::SYS_sendto, to_nobody) }
}

/// `sendmsg(2)`.
///
/// # Safety
/// As for `sendmsg(2)`.
pub unsafe fn sendmsg(fd: RawFd, msg: *const libc::msghdr, flags: i32) -> Result<usize, Errno> {
    // SAFETY: the kernel checks every argument; our caller vouches for the struct.
    unsafe { raw::call(libc::SYS_sendmsg, [fd.into(), msg.into(), flags.into()]) }
}

/// `recv(2)`.
///
/// # Safety
/// As for `recv(2)`.
pub unsafe fn recv(fd: RawFd, buf: *mut c_void, len: usize, flags: i32) -> Result<usize, Errno> {
    let from_anybody = [fd.into(), buf.into(), len.into(), flags.into()];
    // SAFETY: the kernel checks every argument; our caller vouches for the buffer.
    unsafe { raw::call(libc::SYS_recvfrom, from_anybody) }
}

/// `recvmsg(2)`.
///
/// # Safety
/// As for `recvmsg(2)`.
pub unsafe fn recvmsg(fd: RawFd, msg: *mut libc::msghdr, flags: i32) -> Result<usize, Errno> {
    // SAFETY: the kernel checks every argument; our caller vouches for the struct.
    unsafe { raw::call(libc::SYS_recvmsg, [fd.into(), msg.into(), flags.into()]) }
}

/// `sendfile(2)`.
///
/// # Safety
/// `offset` is as for `sendfile(2)`.
pub unsafe fn sendfile(
    fd: RawFd,
    in_fd: RawFd,
    offset: *mut libc::off_t,
    count: usize,
) -> Result<usize, Errno> {
    let arguments = [fd.into(), in_fd.into(), offset.into(), count.into()];
    // SAFETY: the kernel checks every argument; our caller vouches for the offset.
    unsafe { raw::call(libc::SYS_sendfile, arguments) }
}

/// `splice(2)`.
///
/// # Safety
/// The offsets are as for `splice(2)`.
pub unsafe fn splice(
    (fd_in, off_in): (RawFd, *mut libc::off_t),
    (fd_out, off_out): (RawFd, *mut libc::off_t),
    len: usize,
    flags: u32,
) -> Result<usize, Errno> {
    let arguments = [
        fd_in.into(),
        off_in.into(),
        fd_out.into(),
        off_out.into(),
        len.into(),
        flags.into(),
    ];
    // SAFETY: the kernel checks every argument; our caller vouches for the offsets.
    unsafe { raw::call(libc::SYS_splice, arguments) }
}
