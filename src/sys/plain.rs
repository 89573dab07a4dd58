//! The program's own calls, passed on unchanged: for a direction without keys, and for options that
//! TLS does not answer.

use core::ffi::c_void;
use std::os::fd::RawFd;

use rustix::io::Errno;

use super::net::check;

/// `send(2)`.
///
/// # Safety
/// As for `send(2)`.
pub unsafe fn send(fd: RawFd, buf: *const c_void, len: usize, flags: i32) -> Result<usize, Errno> {
    let (no_address, no_len) = (core::ptr::null::<c_void>(), 0usize);
    // SAFETY: the kernel checks every argument; our caller vouches for the buffer.
    let sent = unsafe { libc::syscall(libc::SYS_sendto, fd, buf, len, flags, no_address, no_len) };
    check(sent).map(|n| n as usize)
}

/// `sendmsg(2)`.
///
/// # Safety
/// As for `sendmsg(2)`.
pub unsafe fn sendmsg(fd: RawFd, msg: *const libc::msghdr, flags: i32) -> Result<usize, Errno> {
    // SAFETY: the kernel checks every argument; our caller vouches for the struct.
    check(unsafe { libc::syscall(libc::SYS_sendmsg, fd, msg, flags) }).map(|n| n as usize)
}

/// `recv(2)`.
///
/// # Safety
/// As for `recv(2)`.
pub unsafe fn recv(fd: RawFd, buf: *mut c_void, len: usize, flags: i32) -> Result<usize, Errno> {
    let nothing = core::ptr::null_mut::<c_void>();
    // SAFETY: the kernel checks every argument; our caller vouches for the buffer.
    let got = unsafe { libc::syscall(libc::SYS_recvfrom, fd, buf, len, flags, nothing, nothing) };
    check(got).map(|n| n as usize)
}

/// `recvmsg(2)`.
///
/// # Safety
/// As for `recvmsg(2)`.
pub unsafe fn recvmsg(fd: RawFd, msg: *mut libc::msghdr, flags: i32) -> Result<usize, Errno> {
    // SAFETY: the kernel checks every argument; our caller vouches for the struct.
    check(unsafe { libc::syscall(libc::SYS_recvmsg, fd, msg, flags) }).map(|n| n as usize)
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
    // SAFETY: the kernel checks every argument; our caller vouches for the offset.
    check(unsafe { libc::syscall(libc::SYS_sendfile, fd, in_fd, offset, count) })
        .map(|n| n as usize)
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
    let call = libc::SYS_splice;
    // SAFETY: the kernel checks every argument; our caller vouches for the offsets.
    check(unsafe { libc::syscall(call, fd_in, off_in, fd_out, off_out, len, flags) })
        .map(|n| n as usize)
}
