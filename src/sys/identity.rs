//! Which socket is behind a number, and the sign on a socket that somebody has set keys on it.

use std::num::NonZeroU64;
use std::os::fd::RawFd;

use rustix::io::Errno;
use rustix::net::{SocketType, sockopt};

use super::net::borrow;
use super::raw;

/// What tells one socket from every other, also from one that comes later: `SO_COOKIE`, a number that
/// the kernel never gives out twice while it runs. (Inode numbers of sockets recur.)
pub type Identity = NonZeroU64;

/// The socket behind `fd`; `None` if it is none, or the kernel does not tell.
#[must_use]
pub fn of(fd: RawFd) -> Option<Identity> {
    NonZeroU64::new(sockopt::socket_cookie(borrow(fd).ok()?).ok()?)
}

/// Whether `fd` is a stream socket: one that could carry TLS.
#[must_use]
pub fn is_stream(fd: RawFd) -> bool {
    borrow(fd).is_ok_and(|fd| sockopt::socket_type(fd) == Ok(SocketType::STREAM))
}

/// Leaves the sign on the socket that it has keys. It is a lock of the open file description (`F_OFD_SETLK`): the
/// kernel keeps it as long as the socket lives, whoever closes which number of it, and every process that has one
/// can see it.
///
/// # Errors
/// `EAGAIN` while a call of another process has its lock there ([`super::family`]); `ENOLCK`, or the answer of a sandbox.
pub fn sign(fd: RawFd) -> Result<(), Errno> {
    let mut lock = lock_at(libc::F_WRLCK, SIGN);
    // SAFETY: the struct that the command takes.
    unsafe {
        raw::call(
            libc::SYS_fcntl,
            [fd.into(), libc::F_OFD_SETLK.into(), (&raw mut lock).into()],
        )
    }
    .map(drop)
}

/// Takes the sign off again.
pub fn unsign(fd: RawFd) {
    let mut lock = lock_at(libc::F_UNLCK, SIGN);
    // Without the sign the socket is one without keys, which it is; with it, it is refused.
    // SAFETY: the struct that the command takes.
    let _ = unsafe {
        raw::call(
            libc::SYS_fcntl,
            [fd.into(), libc::F_OFD_SETLK.into(), (&raw mut lock).into()],
        )
    };
}

/// Whether somebody has left the sign on the socket.
///
/// # Errors
/// `EBADF`, or the answer of a sandbox.
pub fn is_signed(fd: RawFd) -> Result<bool, Errno> {
    let mut lock = lock_at(libc::F_RDLCK, SIGN);
    // What a lock for reading conflicts with: those who are about to write have such locks (`family`).
    // Not F_OFD_GETLK: every number of the socket is of one description, whose own lock that would not show.
    // SAFETY: the struct that the command takes.
    unsafe {
        raw::call(
            libc::SYS_fcntl,
            [fd.into(), libc::F_GETLK.into(), (&raw mut lock).into()],
        )
    }?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

/// The byte of the socket that the sign is a lock on. Nobody else locks it: programs lock files.
pub(super) const SIGN: libc::off_t = 0x75_6b74_6c73;

/// A lock on one byte of the socket, or that there is none any more.
pub(super) fn lock_at(kind: libc::c_int, at: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn numbers_of_one_socket_have_one_identity() {
        let (a, b) = UnixStream::pair().unwrap();
        let again = a.try_clone().unwrap();
        assert_eq!(of(a.as_raw_fd()), of(again.as_raw_fd()));
        assert_ne!(of(a.as_raw_fd()), of(b.as_raw_fd()));
        assert_eq!(of(-1), None);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(of(file.as_raw_fd()), None);
        assert!(is_stream(a.as_raw_fd()) && !is_stream(file.as_raw_fd()));
    }

    #[test]
    fn the_sign_stays_with_the_socket() {
        let (a, b) = UnixStream::pair().unwrap();
        let again = a.try_clone().unwrap();
        assert_eq!(is_signed(a.as_raw_fd()), Ok(false));
        sign(a.as_raw_fd()).unwrap();
        sign(again.as_raw_fd()).unwrap();
        drop(a);
        assert_eq!(is_signed(again.as_raw_fd()), Ok(true));
        assert_eq!(is_signed(b.as_raw_fd()), Ok(false));
    }
}
