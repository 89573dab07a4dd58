//! What `sendfile(2)` and `splice(2)` take bytes from.
//!
//! A file is read into the memory of the record. Of all else the kernel decides whether bytes can be taken from it, how
//! many and from where, and a read is not the same: a device, a counter, a pipe of packets, a file that only takes
//! aligned memory (`O_DIRECT`). From those the kernel moves the bytes to a socket, as it would, and they are read from that.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use super::kept::Kept;
use super::net::borrow;
use super::plain;
use super::sandbox::is_refusal;

/// Whether a read of `fd` is something else than what `sendfile(2)` takes from it.
///
/// # Errors
/// `EBADF`, also if it cannot be read.
pub fn is_odd_file(fd: RawFd) -> Result<bool, Errno> {
    check_readable(fd)?;
    let fd = borrow(fd)?;
    let (kind, size) = kind(fd)?;
    // Files that are made up as they are read have no size.
    let is_usual = kind.is_file() && size > 0;
    Ok(!is_usual || has(fd, OFlags::DIRECT)?)
}

/// Checks that `fd` is open for reading.
///
/// # Errors
/// `EBADF`.
pub fn check_readable(fd: RawFd) -> Result<(), Errno> {
    let flags = flags(borrow(fd)?)?;
    match flags & OFlags::ACCMODE == OFlags::WRONLY || flags.contains(OFlags::PATH) {
        true => Err(Errno::BADF),
        false => Ok(()),
    }
}

/// The longest packet in a pipe (`PIPE_BUF`): a read that takes less throws the rest of one away, and the end that is
/// read from does not know whether there are packets (`O_DIRECT`, pipe(2)).
pub const PACKET: usize = 4096;

/// Whether the kernel refuses to move bytes to `fd`: it would not know where to append them.
///
/// # Errors
/// `EBADF`.
pub fn appends(fd: RawFd) -> Result<bool, Errno> {
    has(borrow(fd)?, OFlags::APPEND)
}

fn has(fd: BorrowedFd<'_>, flag: OFlags) -> Result<bool, Errno> {
    Ok(flags(fd)?.contains(flag))
}

/// None, where a sandbox does not tell them: the calls that follow say what is wrong.
fn flags(fd: BorrowedFd<'_>) -> Result<OFlags, Errno> {
    match rustix::fs::fcntl_getfl(fd) {
        Err(errno) if is_refusal(errno) => Ok(OFlags::empty()),
        flags => flags,
    }
}

/// What `fd` is, and its size.
///
/// # Errors
/// `EBADF`.
pub fn kind(fd: BorrowedFd<'_>) -> Result<(FileType, i64), Errno> {
    let stat = match rustix::fs::fstat(fd) {
        // The C library makes the other call.
        Err(errno) if is_refusal(errno) => rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH),
        stat => stat,
    }?;
    Ok((FileType::from_raw_mode(stat.st_mode), stat.st_size))
}

/// The most that one call moves (`MAX_RW_COUNT`, linux/fs.h).
pub const COUNT_MAX: usize = 0x7fff_f000;

/// Checks where `sendfile(2)` is to begin, at `start` or where the file is, and how much it is to move.
///
/// # Errors
/// `EINVAL`.
pub fn check_place(fd: RawFd, start: Option<i64>, count: usize) -> Result<(), Errno> {
    let place = match start {
        None if count <= COUNT_MAX => 0,
        None => rustix::fs::tell(borrow(fd)?).map_or(0, |at| i64::try_from(at).unwrap_or(0)),
        Some(start) => start,
    };
    let end = i64::try_from(count)
        .ok()
        .and_then(|count| place.checked_add(count));
    match place >= 0 && end.is_some() {
        true => Ok(()),
        false => Err(Errno::INVAL),
    }
}

/// Takes the next bytes of `fd`, at `offset` or where it is, as `sendfile(2)` does, or from a pipe as `splice(2)`.
/// For no bytes it says whether it could.
///
/// # Errors
/// Those of the two calls, but for what is wrong with where they move bytes to; `EMFILE`.
pub fn take(fd: RawFd, out: &mut [u8], offset: Option<u64>, is_pipe: bool) -> Result<usize, Errno> {
    let none = core::ptr::null_mut();
    let (from, moved) = match is_pipe {
        true => {
            let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
            let (from, to) = rustix::pipe::pipe_with(flags)?;
            let (from, to) = (Kept::new(from), Kept::new(to));
            let (in_pipe, out_pipe) = ((fd, none), (to.as_raw_fd(), none));
            // SAFETY: no offsets.
            let moved = unsafe { plain::splice(in_pipe, out_pipe, out.len(), 0) };
            (from, moved?)
        }
        false => {
            let (kind, flags) = (
                SocketType::STREAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            );
            let (to, from) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
            let (to, from) = (Kept::new(to), Kept::new(from));
            let mut at = offset.map(|at| libc::off_t::try_from(at).unwrap_or(-1));
            let at = at.as_mut().map_or(none, core::ptr::from_mut);
            // SAFETY: an offset of ours, or none.
            let moved = unsafe { plain::sendfile(to.as_raw_fd(), fd, at, out.len()) };
            (from, moved?)
        }
    };
    let mut done = 0;
    while done < moved {
        match rustix::io::read(&from, &mut out[done..moved])? {
            0 => return Err(Errno::IO),
            len => done += len,
        }
    }
    Ok(moved)
}
