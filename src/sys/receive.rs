//! The system calls that the receive path makes on the program's sockets.
//!
//! Ciphertext stays in the socket until its plaintext has been delivered: it is read by `peek` and
//! dropped by `discard`. [`Receive`] is a trait so that tests can put partial records, errors and
//! signals where they want them.

use std::os::fd::RawFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, sockopt};

use super::net::{PAUSE, borrow, timespec};
use super::raw::{self, Argument};
use super::steps::step;

/// What a wait found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// At least as many bytes as the low-water mark asks for, or the kernel is short of memory for
    /// more.
    pub readable: bool,
    /// The peer has ended the stream, or it is broken.
    pub ended: bool,
    /// The socket's error, which the kernel tells once: `SO_ERROR`.
    pub error: Option<Errno>,
}

/// What the receive path asks of the kernel. Nothing here sleeps but the two waits.
pub trait Receive: Send + Sync {
    /// Copies the head of the receive queue without taking it; 0 is the end of the stream.
    fn peek(&self, fd: RawFd, out: &mut [u8]) -> Result<usize, Errno>;
    /// Takes bytes out of the queue.
    fn take(&self, fd: RawFd, out: &mut [u8]) -> Result<usize, Errno>;
    /// Drops `len` bytes at the head of the queue, which are there.
    fn discard(&self, fd: RawFd, len: usize) -> Result<usize, Errno>;
    /// Sets `SO_RCVLOWAT`, and so wakes whoever waits if that many bytes are there already.
    fn set_low_water(&self, fd: RawFd, bytes: usize);
    /// Sleeps until the low-water mark is reached, the stream ends, a handler has run (`EINTR`) or
    /// the time is up.
    fn wait(&self, fd: RawFd, timeout: Option<Duration>) -> Result<Ready, Errno>;
    /// Whether `O_NONBLOCK` is set.
    fn is_nonblocking(&self, fd: RawFd) -> bool;
    /// `SO_RCVTIMEO`; `None` is "for ever".
    fn receive_timeout(&self, fd: RawFd) -> Option<Duration>;
    /// Whether every signal handler of the program was installed with `SA_RESTART`.
    fn handlers_restart(&self) -> bool;
    /// Bytes ever read from the socket, where the kernel counts them.
    fn consumed(&self, fd: RawFd) -> Option<u64>;
    /// Writes what a pipe has room for now.
    fn fill_pipe(&self, pipe: RawFd, bytes: &[u8]) -> Result<usize, Errno>;
    /// Sleeps until a pipe has room or no reader.
    fn wait_for_pipe(&self, pipe: RawFd) -> Result<(), Errno>;
}

/// The real kernel.
#[derive(Debug)]
pub struct Linux {
    /// `MSG_TRUNC` drops bytes without copying them: TCP only.
    pub truncates: bool,
}

impl Linux {
    /// What fits the kind of socket that `fd` is.
    #[must_use]
    pub fn of(fd: RawFd) -> &'static Linux {
        let is_tcp = borrow(fd)
            .and_then(sockopt::socket_protocol)
            .is_ok_and(|protocol| protocol == Some(rustix::net::ipproto::TCP));
        if is_tcp { &TCP } else { &STREAM }
    }
}

static TCP: Linux = Linux { truncates: true };
static STREAM: Linux = Linux { truncates: false };

impl Receive for Linux {
    fn peek(&self, fd: RawFd, out: &mut [u8]) -> Result<usize, Errno> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        Ok(rustix::net::recv(borrow(fd)?, out, flags)?.0)
    }

    fn take(&self, fd: RawFd, out: &mut [u8]) -> Result<usize, Errno> {
        step();
        let taken = rustix::net::recv(borrow(fd)?, out, RecvFlags::DONTWAIT)?.0;
        step();
        Ok(taken)
    }

    fn discard(&self, fd: RawFd, len: usize) -> Result<usize, Errno> {
        if !self.truncates {
            let mut scratch = [0; 4096];
            let len = len.min(scratch.len());
            return self.take(fd, &mut scratch[..len]);
        }
        let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
        let into_nothing = [fd.into(), Argument::NONE, len.into(), flags.into()];
        step();
        // SAFETY: with MSG_TRUNC a TCP socket writes nothing through the buffer pointer (tcp(7)).
        let dropped = unsafe { raw::call(libc::SYS_recvfrom, into_nothing) };
        step();
        dropped
    }

    fn set_low_water(&self, fd: RawFd, bytes: usize) {
        let value = i32::try_from(bytes).unwrap_or(i32::MAX);
        // Fails for a closed descriptor only; other stream sockets than TCP take it and wake early.
        step();
        let _ = super::net::set_socket_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, value);
        step();
    }

    fn wait(&self, fd: RawFd, timeout: Option<Duration>) -> Result<Ready, Errno> {
        let wanted = PollFlags::IN | PollFlags::RDHUP;
        let mut fds = [PollFd::from_borrowed_fd(borrow(fd)?, wanted)];
        let timeout = timeout.map(timespec);
        rustix::event::poll(&mut fds, timeout.as_ref())?;
        let found = fds[0].revents();
        let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::NVAL;
        let error = match found.contains(PollFlags::ERR) {
            true => sockopt::socket_error(borrow(fd)?)?.err(),
            false => None,
        };
        if found == PollFlags::ERR && error.is_none() {
            // Something is in the error queue, which is none of ours and does not go away.
            let pause = timeout.map_or(PAUSE, |timeout| timeout.min(PAUSE));
            rustix::event::poll(&mut [], Some(&pause))?;
        }
        Ok(Ready {
            readable: found.contains(PollFlags::IN),
            ended: found.intersects(ended),
            error,
        })
    }

    fn is_nonblocking(&self, fd: RawFd) -> bool {
        super::net::Sys::is_nonblocking(&super::net::Linux, fd)
    }

    fn receive_timeout(&self, fd: RawFd) -> Option<Duration> {
        sockopt::socket_timeout(borrow(fd).ok()?, sockopt::Timeout::Recv).ok()?
    }

    fn handlers_restart(&self) -> bool {
        super::net::Sys::handlers_restart(&super::net::Linux)
    }

    fn consumed(&self, fd: RawFd) -> Option<u64> {
        super::net::bytes_read(fd)
    }

    fn fill_pipe(&self, pipe: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        let fd = borrow(pipe)?;
        let all = [std::io::IoSlice::new(bytes)];
        let nowait = rustix::io::ReadWriteFlags::NOWAIT;
        match rustix::io::pwritev2(fd, &all, u64::MAX, nowait) {
            // A kernel older than 6.4: a pipe that polls writable has room for a page.
            Err(Errno::OPNOTSUPP) => {
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                match rustix::event::poll(&mut fds, Some(&NOW))? {
                    0 => Err(Errno::AGAIN),
                    _ => rustix::io::write(fd, &bytes[..bytes.len().min(PAGE)]),
                }
            }
            result => result,
        }
    }

    fn wait_for_pipe(&self, pipe: RawFd) -> Result<(), Errno> {
        let mut fds = [PollFd::from_borrowed_fd(borrow(pipe)?, PollFlags::OUT)];
        rustix::event::poll(&mut fds, None).map(drop)
    }
}

const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// The least room of a pipe that has room.
const PAGE: usize = 4096;
