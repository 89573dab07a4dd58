//! The streams (`FILE`) of the C library, whose own writes cannot be seen: the preload library takes them off a number
//! that becomes a TLS socket's. Without that library there is nothing to do.

use core::ffi::c_int;
use std::os::fd::RawFd;
use std::sync::OnceLock;

use rustix::io::Errno;

/// The preload library's part.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// No stream is on the number any more: 0, or an errno, and nothing has changed.
    pub leave: extern "C" fn(c_int) -> c_int,
    /// The number's streams are on it again.
    pub back: extern "C" fn(c_int),
}

/// The preload library is there.
pub fn set(hooks: Hooks) {
    // Once, when it is loaded.
    let _ = HOOKS.set(hooks);
}

/// The number is about to become a TLS socket's.
///
/// # Errors
/// `EBUSY` if another thread is in the middle of a stream's call; `ENOMEM`; `EOPNOTSUPP` for a number that the C
/// library writes to by itself.
pub fn leave(fd: RawFd) -> Result<(), Errno> {
    match HOOKS.get().map_or(0, |hooks| (hooks.leave)(fd)) {
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

static HOOKS: OnceLock<Hooks> = OnceLock::new();
