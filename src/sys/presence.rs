//! Whether another process has a number of a socket that is shared: the kernel knows.
//!
//! Each process that shares a connection has a lock of its own on a byte of the socket (`F_SETLK`). The kernel takes it
//! back when the process closes its numbers of the socket, also by `exec`, and when it ends, however that comes. So
//! nobody is taken for present who has not got the socket any more. It is taken back as well when the
//! process closes one of two numbers: then it may be taken for gone.

use std::os::fd::RawFd;

use super::family::{self, PRESENCE};

/// This process has the socket.
pub fn hold(fd: RawFd) {
    // Without the lock it is taken for gone.
    let _ = family::lock(fd, libc::F_RDLCK, PRESENCE);
}

/// Whether another process has it. `None` if the kernel does not tell.
#[must_use]
pub fn is_elsewhere(fd: RawFd) -> Option<bool> {
    family::is_locked(fd, libc::F_WRLCK, PRESENCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_process_does_not_see_itself() {
        let (a, _b) = UnixStream::pair().unwrap();
        hold(a.as_raw_fd());
        assert_eq!(is_elsewhere(a.as_raw_fd()), Some(false));
        assert_eq!(is_elsewhere(-1), None);
    }
}
