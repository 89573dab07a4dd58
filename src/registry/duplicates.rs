//! Descriptors that the program has duplicated: all of them are the same connection.
//!
//! Nobody tells the library of a `dup(2)`. A number that it does not know is looked up by its
//! socket, which costs only calls that would have failed; and when the last known number of a socket
//! is closed, an epoll set that has watched it tells whether the socket lives on.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Found, Index, Socket, attach_lock, install_locked, slot};
use crate::error::{Error, Result};
use crate::sys::fork_guard;
use crate::sys::kept::Kept;
use crate::sys::net::{self, borrow};

/// Finds the state of an unknown number by its socket, and remembers it.
pub(super) fn adopt(fd: RawFd) -> Result<Found> {
    net::endpoint(fd)?;
    adopt_locked(&mut attach_lock(), fd)?;
    let guard = slot(fd).ok_or(Error::NoTls)?.load();
    match guard.is_some() {
        true => Ok(Found(guard)),
        // Closed by another thread meanwhile.
        false => Err(Error::NoTls),
    }
}

/// As [`adopt`], under the lock from the look at the number on: whoever puts another socket under it
/// tells the table afterwards, and so has the last word.
pub(super) fn adopt_locked(index: &mut Index, fd: RawFd) -> Result<()> {
    let identity = fork_guard::identity(fd).ok_or(Error::NoTls)?;
    let known = index.get(&identity).and_then(Weak::upgrade);
    install_locked(index, fd, known.ok_or(Error::NoTls)?)
}

/// The epoll set with a socket in it that is about to be closed. The kernel takes a socket out when
/// its last descriptor is closed, in whatever process.
pub(super) struct Tomb(MutexGuard<'static, Option<Set>>);

struct Set {
    epoll: Kept,
    /// The set's list of what it watches, in `/proc`.
    list: Kept,
}

impl Tomb {
    /// Watches the socket `fd`. `None` without `/proc` or free descriptors: then a close is taken for
    /// the last one.
    pub(super) fn of(fd: RawFd) -> Option<Tomb> {
        let mut set = SET.lock().unwrap_or_else(PoisonError::into_inner);
        if set.is_none() {
            *set = Set::new().ok();
        }
        let flags = epoll::EventFlags::empty();
        let data = epoll::EventData::new_u64(0);
        epoll::add(&set.as_ref()?.epoll, borrow(fd).ok()?, data, flags).ok()?;
        Some(Tomb(set))
    }

    /// A descriptor of this process for `socket`, if that has survived its close.
    pub(super) fn another(&self, socket: &Socket) -> Option<RawFd> {
        let set = self.0.as_ref()?;
        let identity = socket.identity()?;
        let mut list = [0; 4096];
        let len = rustix::io::pread(&set.list, &mut list, 0).ok()?;
        let inode = format!(" ino:{:x} ", identity);
        let listed = core::str::from_utf8(&list[..len]).ok()?.contains(&inode);
        // Only now is it worth to look at every descriptor: another process may be the survivor.
        if listed || len == list.len() {
            number_of(identity)
        } else {
            None
        }
    }
}

impl Set {
    fn new() -> core::result::Result<Set, Errno> {
        let epoll = Kept::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let path = format!("/proc/self/fdinfo/{}", epoll.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let list = Kept::new(rustix::fs::open(path, flags, Mode::empty())?);
        Ok(Set { epoll, list })
    }
}

/// The lowest descriptor of this process for a socket.
fn number_of(identity: fork_guard::Identity) -> Option<RawFd> {
    std::fs::read_dir("/proc/self/fd")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|fd| fork_guard::identity(*fd) == Some(identity))
}

/// The set of the parent tells of the parent's descriptors.
pub(super) fn reset_in_child() {
    if let Ok(mut set) = SET.try_lock() {
        *set = None;
    }
}

static SET: Mutex<Option<Set>> = Mutex::new(None);
