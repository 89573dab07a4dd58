//! The streams (`FILE`) of the C library, whose own writes cannot be seen: the preload library takes them off a number
//! that becomes a TLS socket's. Without that library there is nothing to do.

use core::ffi::c_int;
use std::os::fd::RawFd;
use std::sync::OnceLock;

use rustix::io::Errno;

/// The preload library's part.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// No stream is on the number any more, which is about to become a TLS socket's, or one that is looked at call by call
    /// (`false`): 0, or an errno, and nothing has changed.
    pub leave: extern "C" fn(c_int, bool) -> c_int,
    /// The number's streams are on it again.
    pub back: extern "C" fn(c_int),
    /// Streams are taken off the number, as far as can be, which has a mark already.
    pub leave_number: extern "C" fn(c_int),
    /// The same for all numbers that are marked so.
    pub leave_watched: extern "C" fn(),
    /// Keeps the streams as they are while the process forks.
    pub hold: extern "C" fn(),
    /// In the parent.
    pub release: extern "C" fn(),
    /// In the child.
    pub release_in_child: extern "C" fn(),
    /// Whether threads of the C library may yet write to the number (`aio_write(3)`).
    pub is_queued: extern "C" fn(c_int) -> bool,
}

/// The preload library is there.
pub fn set(hooks: Hooks) {
    // Once, when it is loaded.
    let _ = HOOKS.set(hooks);
}

/// The number is about to become a TLS socket's, or, if not `is_tls`, one that is looked at call by call.
///
/// # Errors
/// `EBUSY` if another thread is in the middle of a stream's call; `ENOMEM`; `EOPNOTSUPP` for a number that the C
/// library writes to by itself, if it becomes a TLS socket's.
pub fn leave(fd: RawFd, is_tls: bool) -> Result<(), Errno> {
    match HOOKS.get().map_or(0, |hooks| (hooks.leave)(fd, is_tls)) {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

/// The number is not a TLS socket's any more, or has not become one.
pub fn back(fd: RawFd) {
    if let Some(hooks) = HOOKS.get() {
        (hooks.back)(fd);
    }
}

/// The number has come to be one that another process may set keys on: what its streams write has to be looked at call by
/// call.
pub fn leave_number(fd: RawFd) {
    if let Some(hooks) = HOOKS.get() {
        (hooks.leave_number)(fd);
    }
}

/// The same for all numbers that are marked so.
pub fn leave_watched() {
    if let Some(hooks) = HOOKS.get() {
        (hooks.leave_watched)();
    }
}

/// Keeps the streams as they are while the process forks.
pub fn hold() {
    if let Some(hooks) = HOOKS.get() {
        (hooks.hold)();
    }
}

/// The parent has forked.
pub fn release() {
    if let Some(hooks) = HOOKS.get() {
        (hooks.release)();
    }
}

/// This is the child.
pub fn release_in_child() {
    if let Some(hooks) = HOOKS.get() {
        (hooks.release_in_child)();
    }
}

/// Whether threads of the C library may yet write to the number.
#[must_use]
pub fn is_queued(fd: RawFd) -> bool {
    HOOKS.get().is_some_and(|hooks| (hooks.is_queued)(fd))
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();
