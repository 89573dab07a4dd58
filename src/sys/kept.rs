//! Descriptors of the library's own, in a process that believes to know all of its descriptors.
//!
//! Programs close what they did not open (daemons, before `exec`), and some count on the lowest free
//! number being theirs. So ours are high, and marked, which makes the preload library leave them open.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::marks;

/// A descriptor that the program does not know of.
#[derive(Debug)]
pub struct Kept(ManuallyDrop<OwnedFd>);

impl Kept {
    /// Takes a descriptor, and moves it out of the program's way where there is room.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Kept {
        let moved = rustix::io::fcntl_dupfd_cloexec(&fd, out_of_the_way());
        Kept::mark(moved.unwrap_or(fd))
    }

    /// Another descriptor for what `fd` is.
    ///
    /// # Errors
    /// `EMFILE`, `EBADF`.
    pub fn duplicate(fd: BorrowedFd<'_>) -> Result<Kept, Errno> {
        let high = rustix::io::fcntl_dupfd_cloexec(fd, out_of_the_way());
        high.or_else(|_| rustix::io::fcntl_dupfd_cloexec(fd, 3))
            .map(Kept::mark)
    }

    /// Closes it, in a forked child that leaks what has it.
    pub fn abandon(&self) {
        let _ = super::net::close(self.as_raw_fd());
        marks::set(self.as_raw_fd(), 0);
    }

    fn mark(fd: OwnedFd) -> Kept {
        marks::set(fd.as_raw_fd(), marks::OWN);
        Kept(ManuallyDrop::new(fd))
    }
}

/// Below 1024, so that the kernel's table need not grow for it, and above what most programs reach.
fn out_of_the_way() -> RawFd {
    let limit = super::net::most_descriptors();
    RawFd::try_from((limit - limit / 8).min(896)).unwrap_or(896)
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Kept {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Before the close: afterwards the number may be somebody else's.
        marks::set(self.0.as_raw_fd(), 0);
        // SAFETY: dropped here only, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}
