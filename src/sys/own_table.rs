//! A descriptor table of a thread's own, and the way for sockets into it.
//!
//! What is open there the program's limit does not count, and the program cannot close. Numbers mean something
//! else there, so what has one closes it by the system call ([`Apart`]): the marks are of the program's numbers, and the
//! `close` of the C library may be the preload library's.

use core::mem::MaybeUninit;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::kept::Kept;
use super::net::{self, borrow};
use super::raw;

/// A descriptor in the table of the calling thread.
#[derive(Debug)]
pub struct Apart(RawFd);

impl Apart {
    fn new(fd: OwnedFd) -> Apart {
        Apart(fd.into_raw_fd())
    }

    /// An epoll set.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn epoll() -> Result<Apart, Errno> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(Apart::new)
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> RawFd {
        self.0
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = net::close(self.0);
    }
}

/// Gives the calling thread a table of its own, with nothing in it but `kept` under its number.
///
/// # Errors
/// `ENOSYS` before Linux 5.9, `ENOMEM`, the answer of a sandbox. The thread may have copies of the program's
/// descriptors then, and has to end.
pub fn leave_all_but(kept: RawFd) -> Result<(), Errno> {
    let number = |fd: RawFd| raw::Argument::from(fd);
    // SAFETY: the calling thread is the library's, and uses none of the program's numbers.
    unsafe { raw::call(libc::SYS_unshare, [libc::CLONE_FILES.into()]) }?;
    if kept > 0 {
        let below = [number(0), number(kept - 1), number(0)];
        // SAFETY: the table is the calling thread's alone.
        unsafe { raw::call(libc::SYS_close_range, below) }?;
    }
    let above = [number(kept + 1), u32::MAX.into(), number(0)];
    // SAFETY: as above.
    unsafe { raw::call(libc::SYS_close_range, above) }.map(drop)
}

/// Two descriptors for the way into another table.
///
/// # Errors
/// `EMFILE`, `ENFILE`.
pub fn door() -> Result<(Kept, Kept), Errno> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (outside, inside) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
    Ok((Kept::new(outside), Kept::new(inside)))
}

/// Sends `id` through the door, and with it a descriptor for what `fd` is.
///
/// # Errors
/// Those of `sendmsg(2)`.
pub fn send(door: &Kept, id: u64, fd: Option<RawFd>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let passed = [borrow(fd.unwrap_or(0))?];
    if fd.is_some() && !control.push(SendAncillaryMessage::ScmRights(&passed)) {
        return Err(Errno::INVAL);
    }
    let bytes = id.to_ne_bytes();
    let flags = SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(door, &[IoSlice::new(&bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            sent => return sent.map(drop),
        }
    }
}

/// What has come through the door `inside`. No descriptor comes with it if there was none, or no room.
///
/// # Errors
/// `EAGAIN`: nothing has; `EPIPE`: nothing will; the answer of a sandbox.
pub fn receive(inside: RawFd) -> Result<(u64, Option<Apart>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 8];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let inside = borrow(inside)?;
    let mut into = [IoSliceMut::new(&mut bytes)];
    let got = rustix::net::recvmsg(inside.as_fd(), &mut into, &mut control, flags)?;
    let mut came = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            for descriptor in descriptors {
                came = Some(Apart::new(descriptor));
            }
        }
    }
    match got.bytes {
        8 => Ok((u64::from_ne_bytes(bytes), came)),
        _ => Err(Errno::PIPE),
    }
}
