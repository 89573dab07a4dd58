//! Whether a socket lives on when its last known number is closed, with the C library.
//!
//! Nobody tells that library of a `dup(2)`. A number that it does not know is looked up by its socket, and before the
//! last known one is closed, an epoll set watches the socket: the kernel takes a socket out of it when the last of all
//! its numbers is closed, in whatever process. The preload library sees every number, and needs none of this.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::numbers::OfSocket;
use super::{Socket, twins};
use crate::sync::try_lock_std;
use crate::sys::kept::Kept;
use crate::sys::net::borrow;

/// The epoll set with a socket in it that is about to be closed.
pub(super) struct Watch(MutexGuard<'static, Option<Set>>);

struct Set {
    epoll: Kept,
    /// The set's list of what it watches, in `/proc`.
    list: Kept,
}

impl Watch {
    /// Watches the socket `fd`. `None` without `/proc` or free descriptors: then a close is taken for the last one.
    pub(super) fn over(fd: RawFd) -> Option<Watch> {
        let mut set = SET.lock().unwrap_or_else(PoisonError::into_inner);
        if set.is_none() {
            *set = Set::new().ok();
        }
        let flags = epoll::EventFlags::empty();
        let data = epoll::EventData::new_u64(0);
        epoll::add(&set.as_ref()?.epoll, borrow(fd).ok()?, data, flags).ok()?;
        Some(Watch(set))
    }

    /// A number of this process for `socket`, if that has survived its close.
    pub(super) fn another(&self, socket: &Socket) -> Option<RawFd> {
        let set = self.0.as_ref()?;
        let mut list = [0; 4096];
        let len = rustix::io::pread(&set.list, &mut list, 0).ok()?;
        let is_empty = !core::str::from_utf8(&list[..len]).ok()?.contains("tfd:");
        // Only now is it worth to look at every descriptor: another process may be the survivor.
        if is_empty {
            return None;
        }
        twins::of(socket.identity()).first().copied()
    }
}

impl Set {
    fn new() -> core::result::Result<Set, Errno> {
        let epoll = Kept::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let path = format!("/proc/self/fdinfo/{}", epoll.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let list = Kept::new(rustix::fs::openat(
            rustix::fs::CWD,
            path,
            flags,
            Mode::empty(),
        )?);
        Ok(Set { epoll, list })
    }
}

/// Keeps the set from being used while the process forks: a child would wait for ever for a thread that it does not have.
pub(super) fn hold() -> Held {
    Held(SET.lock().unwrap_or_else(PoisonError::into_inner))
}

/// [`hold`], unless somebody has it.
pub(super) fn try_hold() -> Option<Held> {
    try_lock_std(&SET).map(Held)
}

/// Nobody uses the set.
pub(crate) struct Held(MutexGuard<'static, Option<Set>>);

impl Held {
    /// The set of the parent tells of the parent's descriptors.
    pub(crate) fn reset_in_child(&mut self) {
        *self.0 = None;
    }
}

static SET: Mutex<Option<Set>> = Mutex::new(None);
