//! The system calls that the core makes on the program's sockets.
//!
//! All of them are raw (`rustix`, linux_raw backend, or [`raw`]), so that the preload library
//! never calls into its own interposition. [`Sys`] is a trait so that tests can put short writes,
//! `EINTR` and `EAGAIN` where they want them.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sockopt};

use super::kept::Kept;
use super::presence;
use super::raw;
use super::sandbox::is_refusal;
use super::sources;
use super::steps::step;

/// What the transmit path asks of the kernel.
pub trait Sys: Send + Sync {
    /// `sendmsg(2)` of already sealed bytes; never sleeps, never raises `SIGPIPE`.
    fn send(&self, fd: RawFd, bytes: &[IoSlice<'_>]) -> Result<usize, Errno>;
    /// Sleeps until the socket has room, is dead, a signal handler has run (`EINTR`), or the time is
    /// up (false).
    fn wait_for_room(&self, fd: RawFd, timeout: Option<Duration>) -> Result<bool, Errno>;
    /// Whether `O_NONBLOCK` is set.
    fn is_nonblocking(&self, fd: RawFd) -> bool;
    /// `SO_SNDTIMEO`; `None` is "for ever".
    fn send_timeout(&self, fd: RawFd) -> Option<Duration>;
    /// Segments with data that the peer has sent so far (`TCP_INFO`), where the kernel counts them.
    fn segments_in(&self, fd: RawFd) -> Option<u32>;
    /// Bytes that were ever written to the socket, where the kernel can tell: TCP.
    fn written(&self, fd: RawFd) -> Option<u64>;
    /// This process has the socket, which it shares with others.
    fn hold(&self, _: RawFd) {}
    /// Whether another process has it, where the kernel can tell.
    fn is_elsewhere(&self, _: RawFd) -> Option<bool> {
        None
    }
    /// Whether every signal handler of the program was installed with `SA_RESTART`.
    fn handlers_restart(&self) -> bool;
    /// `shutdown(fd, SHUT_WR)`.
    fn shutdown_write(&self, fd: RawFd) -> Result<(), Errno>;
    /// Reads from a file or pipe: at `offset`, or at the file's own position.
    fn read(&self, fd: RawFd, buf: &mut [u8], offset: Option<u64>) -> Result<usize, Errno>;
    /// The same as `sendfile(2)` does it to a socket, or `splice(2)` from a pipe.
    fn take(
        &self,
        fd: RawFd,
        buf: &mut [u8],
        offset: Option<u64>,
        pipe: bool,
    ) -> Result<usize, Errno>;
    /// Whether a read would return at once (data, end or error).
    fn is_readable(&self, fd: RawFd) -> bool;
    /// Sleeps until it would.
    fn wait_until_readable(&self, fd: RawFd) -> Result<(), Errno>;
}

/// Between two looks at a socket whose error queue keeps `poll` from sleeping.
pub(super) const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// Bytes acknowledged and bytes that wait for that, together. What is acknowledged leaves the queue: the two belong
/// together if nothing was between.
fn settled(
    mut acked: impl FnMut() -> Option<u64>,
    mut queued: impl FnMut() -> Option<u64>,
) -> Option<u64> {
    let mut before = acked()?;
    loop {
        let queued = queued()?;
        let after = acked()?;
        if before == after {
            return Some(after + queued);
        }
        before = after;
    }
}

/// The real kernel.
#[derive(Debug)]
pub struct Linux;

impl Sys for Linux {
    fn hold(&self, fd: RawFd) {
        presence::hold(fd);
    }

    fn is_elsewhere(&self, fd: RawFd) -> Option<bool> {
        presence::is_elsewhere(fd)
    }

    fn send(&self, fd: RawFd, bytes: &[IoSlice<'_>]) -> Result<usize, Errno> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        step();
        let sent = match bytes {
            // The kernel copies no msghdr and no vector: a tenth less for a short record.
            [only] => rustix::net::send(borrow(fd)?, only, flags),
            _ => {
                let mut nothing = SendAncillaryBuffer::default();
                rustix::net::sendmsg(borrow(fd)?, bytes, &mut nothing, flags)
            }
        };
        step();
        sent
    }

    fn wait_for_room(&self, fd: RawFd, timeout: Option<Duration>) -> Result<bool, Errno> {
        use rustix::event::{PollFd, PollFlags};
        let mut fds = [PollFd::from_borrowed_fd(borrow(fd)?, PollFlags::OUT)];
        let timeout = timeout.map(timespec);
        let ready = rustix::event::poll(&mut fds, timeout.as_ref())?;
        if fds[0].revents() == PollFlags::ERR {
            // Something is in the error queue, which is the program's and does not go away; or there is an error,
            // and the send that follows tells it.
            let pause = timeout.map_or(PAUSE, |timeout| timeout.min(PAUSE));
            rustix::event::poll(&mut [], Some(&pause))?;
        }
        Ok(ready > 0)
    }

    fn is_nonblocking(&self, fd: RawFd) -> bool {
        match borrow(fd).and_then(rustix::fs::fcntl_getfl) {
            Ok(flags) => flags.contains(OFlags::NONBLOCK),
            // Refused by a sandbox: a call that sleeps may never end.
            Err(errno) => errno != Errno::BADF,
        }
    }

    fn send_timeout(&self, fd: RawFd) -> Option<Duration> {
        let fd = borrow(fd).ok()?;
        sockopt::socket_timeout(fd, sockopt::Timeout::Send).ok()?
    }

    fn segments_in(&self, fd: RawFd) -> Option<u32> {
        // struct tcp_info of <linux/tcp.h>, append-only; this field came with Linux 4.6.
        const DATA_SEGS_IN: usize = 152;
        let info: [u8; DATA_SEGS_IN + 4] = tcp_info(borrow(fd).ok()?)?;
        let field = info.last_chunk::<4>()?;
        Some(u32::from_ne_bytes(*field))
    }

    fn written(&self, fd: RawFd) -> Option<u64> {
        // struct tcp_info of <linux/tcp.h>, append-only; this field came with Linux 4.1.
        const BYTES_ACKED: usize = 120;
        let fd = borrow(fd).ok()?;
        // What MPTCP says is of one subflow.
        if sockopt::socket_protocol(fd).ok()?? != rustix::net::ipproto::TCP {
            return None;
        }
        let acked = || -> Option<u64> {
            let info: [u8; BYTES_ACKED + 8] = tcp_info(fd)?;
            Some(u64::from_ne_bytes(*info.last_chunk::<8>()?))
        };
        settled(acked, || out_queue(fd))
    }

    fn handlers_restart(&self) -> bool {
        // A sleep that ended early does not tell which handler ran, so all of them are asked. It
        // happens once per signal in the middle of a blocking send, and costs some 10 us. (Sleeping
        // in `sendmsg` would leave the decision to the kernel, but nobody else could come near the
        // socket meanwhile: not a `close`, not a `fork`.)
        (1..=libc::SIGRTMAX()).all(|number| {
            let mut action = core::mem::MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: the new action is null, so nothing changes; the old one has room.
            let known =
                unsafe { libc::sigaction(number, core::ptr::null(), action.as_mut_ptr()) == 0 };
            // SAFETY: plain old data, zeroed above and perhaps written by the kernel.
            let action = unsafe { action.assume_init() };
            let caught = known && ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction);
            !caught || action.sa_flags & libc::SA_RESTART != 0
        })
    }

    fn shutdown_write(&self, fd: RawFd) -> Result<(), Errno> {
        step();
        let shut = rustix::net::shutdown(borrow(fd)?, rustix::net::Shutdown::Write);
        step();
        shut
    }

    fn read(&self, fd: RawFd, buf: &mut [u8], offset: Option<u64>) -> Result<usize, Errno> {
        match offset {
            Some(place) => match rustix::io::pread(borrow(fd)?, &mut *buf, place) {
                Err(errno) if is_refusal(errno) => sources::take(fd, buf, offset, false),
                result => result,
            },
            None => rustix::io::read(borrow(fd)?, buf),
        }
    }

    fn take(
        &self,
        fd: RawFd,
        buf: &mut [u8],
        offset: Option<u64>,
        pipe: bool,
    ) -> Result<usize, Errno> {
        sources::take(fd, buf, offset, pipe)
    }

    fn is_readable(&self, fd: RawFd) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec};
        let Ok(fd) = borrow(fd) else {
            return true;
        };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&now)) != Ok(0)
    }

    fn wait_until_readable(&self, fd: RawFd) -> Result<(), Errno> {
        use rustix::event::{PollFd, PollFlags};
        use rustix::fs::OFlags;
        let fd = borrow(fd)?;
        if rustix::fs::fcntl_getfl(fd)? & OFlags::ACCMODE == OFlags::WRONLY {
            // The end of a pipe for writing never would be.
            return Err(Errno::BADF);
        }
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        rustix::event::poll(&mut fds, None).map(drop)
    }
}

/// What `tls_tx_init` wants to know of a descriptor before it takes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A connected stream: TLS can be set up.
    ConnectedStream,
    /// A stream that is not (or no longer) fully connected.
    NotConnected,
    /// A socket that is no stream; the errno is the kernel's for `TCP_ULP` on it (ATT-7).
    Unsuitable(Errno),
}

/// Looks at the type and state of `fd`.
///
/// # Errors
/// `EBADF` if `fd` is not open, `ENOTSOCK` if it is no socket.
pub fn endpoint(fd: RawFd) -> Result<Endpoint, Errno> {
    use rustix::net::{AddressFamily, SocketType};
    let fd = borrow(fd)?;
    let kind = sockopt::socket_type(fd)?;
    let family = sockopt::socket_domain(fd)?;
    let inet = family == AddressFamily::INET || family == AddressFamily::INET6;
    if kind != SocketType::STREAM {
        let errno = if inet {
            Errno::NOPROTOOPT
        } else {
            Errno::OPNOTSUPP
        };
        return Ok(Endpoint::Unsuitable(errno));
    }
    if inet && let Some([state]) = tcp_info(fd) {
        // ATT-5: ESTABLISHED and nothing else, so also not after either side's FIN.
        const TCP_ESTABLISHED: u8 = 1;
        return Ok(match state {
            TCP_ESTABLISHED => Endpoint::ConnectedStream,
            _ => Endpoint::NotConnected,
        });
    }
    match rustix::net::getpeername(fd) {
        Ok(Some(_)) => Ok(Endpoint::ConnectedStream),
        // A socketpair's peer has no name but is a peer.
        Ok(None) if family == AddressFamily::UNIX => Ok(Endpoint::ConnectedStream),
        Ok(None) | Err(_) => Ok(Endpoint::NotConnected),
    }
}

/// `getsockopt(2)`, unchanged: for every option that TLS does not answer itself.
///
/// # Safety
/// `value` and `len` are as for `getsockopt(2)`.
pub unsafe fn getsockopt(
    fd: RawFd,
    level: i32,
    name: i32,
    value: *mut core::ffi::c_void,
    len: *mut u32,
) -> Result<(), Errno> {
    let arguments = [
        fd.into(),
        level.into(),
        name.into(),
        value.into(),
        len.into(),
    ];
    // SAFETY: the kernel checks every argument; our caller vouches for the two pointers.
    unsafe { raw::call(libc::SYS_getsockopt, arguments) }.map(drop)
}

/// Sets an integer option of the socket itself.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn set_socket_option(fd: RawFd, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    let start = (&raw const value).cast();
    // SAFETY: `start` is readable for the four bytes announced.
    unsafe { setsockopt(fd, level, name, start, size_of::<i32>() as u32) }
}

/// `setsockopt(2)`, unchanged.
///
/// # Safety
/// `value` and `len` are as for `setsockopt(2)`.
pub unsafe fn setsockopt(
    fd: RawFd,
    level: i32,
    name: i32,
    value: *const core::ffi::c_void,
    len: u32,
) -> Result<(), Errno> {
    let arguments = [
        fd.into(),
        level.into(),
        name.into(),
        value.into(),
        len.into(),
    ];
    // SAFETY: the kernel checks every argument; our caller vouches for the pointer.
    unsafe { raw::call(libc::SYS_setsockopt, arguments) }.map(drop)
}

/// A duration as the kernel takes it.
pub(super) fn timespec(duration: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// `shutdown(2)`.
pub fn shutdown(fd: RawFd, how: i32) -> Result<(), Errno> {
    // SAFETY: takes no pointer.
    unsafe { raw::call(libc::SYS_shutdown, [fd.into(), how.into()]) }.map(drop)
}

/// `close(2)`; the number is free afterwards, whatever is returned.
pub fn close(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: takes no pointer; that `fd` is the program's to close is the program's promise.
    unsafe { raw::call(libc::SYS_close, [fd.into()]) }.map(drop)
}

/// A signal mask as the kernel takes it.
pub type Mask = u64;

/// `ppoll(2)`, by the system call that every architecture has.
///
/// # Errors
/// As `ppoll(2)`.
pub fn poll(
    fds: &mut [libc::pollfd],
    timeout: Option<Duration>,
    mask: Option<&Mask>,
) -> Result<usize, Errno> {
    let timeout = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(t.subsec_nanos() as i32),
    });
    let timeout = timeout
        .as_ref()
        .map_or(core::ptr::null(), core::ptr::from_ref);
    let mask = mask.map_or(core::ptr::null(), core::ptr::from_ref);
    let arguments = [
        fds.as_mut_ptr().into(),
        fds.len().into(),
        timeout.into(),
        mask.into(),
        size_of::<Mask>().into(),
    ];
    // SAFETY: the slice; the others are null or live to the end of this call.
    unsafe { raw::call(libc::SYS_ppoll, arguments) }
}

/// The most descriptors that the process may have (`RLIMIT_NOFILE`).
#[must_use]
pub fn most_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit
        .current
        .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// `SO_RCVLOWAT`.
#[must_use]
pub fn low_water(fd: RawFd) -> usize {
    let value = socket_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT);
    value.map_or(1, |value| usize::try_from(value).unwrap_or(1))
}

/// Has peeks begin at the head of the queue (`SO_PEEK_OFF`), as ours do; returns where they began, or -1.
#[must_use]
pub fn peek_from_head(fd: RawFd) -> i32 {
    match socket_option(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF) {
        Ok(offset @ 0..) => {
            peek_from(fd, -1);
            offset
        }
        _ => -1,
    }
}

/// Has peeks begin there.
pub fn peek_from(fd: RawFd, offset: i32) {
    let _ = set_socket_option(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset);
}

/// An option that is an int.
fn socket_option(fd: RawFd, level: i32, name: i32) -> Result<i32, Errno> {
    let (mut value, mut len) = (0_i32, size_of::<i32>() as libc::socklen_t);
    let value_at = core::ptr::from_mut(&mut value).cast();
    // SAFETY: an int of ours, and its length.
    unsafe { getsockopt(fd, level, name, value_at, &mut len) }?;
    Ok(value)
}

/// A second descriptor for the same socket, owned by us and closed on exec.
pub fn duplicate(fd: RawFd) -> Result<Kept, Errno> {
    Kept::duplicate(borrow(fd)?)
}

/// The lowest free descriptor number, or the lowest from `least` on, as one that nothing can be read from or written to
/// (`O_PATH`), and that closes itself on `exec`.
///
/// # Errors
/// `EMFILE`; `EINVAL` if `least` is beyond the limit; the answer of a sandbox to `open(2)`.
pub fn placeholder(least: Option<RawFd>) -> Result<RawFd, Errno> {
    use rustix::fd::IntoRawFd;
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = match rustix::fs::openat(rustix::fs::CWD, "/", flags, Mode::empty()) {
        // A socket that is connected to nothing takes nothing either.
        Err(errno) if is_refusal(errno) => rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        ),
        place => place,
    }?;
    let place = match least {
        Some(least) if place.as_raw_fd() < least || least < 0 => {
            rustix::io::fcntl_dupfd_cloexec(&place, least)?
        }
        _ => place,
    };
    Ok(place.into_raw_fd())
}

/// `dup3(2)`.
pub fn dup3(old: RawFd, new: RawFd, flags: i32) -> Result<RawFd, Errno> {
    // SAFETY: takes no pointer; what `new` is is the program's to replace.
    unsafe { raw::call(libc::SYS_dup3, [old.into(), new.into(), flags.into()]) }.map(|_| new)
}

/// Whether `fd` is open.
///
/// # Errors
/// `EBADF`.
pub fn is_open(fd: RawFd) -> Result<(), Errno> {
    rustix::io::fcntl_getfd(borrow(fd)?).map(drop)
}

/// Sets `FD_CLOEXEC`.
pub fn close_on_exec(fd: RawFd) {
    if let Ok(fd) = borrow(fd) {
        // Only of a number that is no longer open.
        let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
    }
}

/// Whether `fd` is closed when another program is started.
#[must_use]
pub fn closes_on_exec(fd: RawFd) -> bool {
    let flags = borrow(fd).and_then(rustix::io::fcntl_getfd);
    flags.is_ok_and(|flags| flags.contains(rustix::io::FdFlags::CLOEXEC))
}

/// As [`linger`], of a descriptor of the library's own.
pub fn linger_of(fd: &Kept) -> Option<Duration> {
    sockopt::socket_linger(fd).ok()?
}

/// The seconds for which the program wants `close` to linger (`SO_LINGER`), if it does.
pub fn linger(fd: RawFd) -> Option<Duration> {
    sockopt::socket_linger(borrow(fd).ok()?).ok()?
}

/// Whether `close` resets the connection (`SO_LINGER` with no time) and drops what is unsent.
pub fn resets(fd: RawFd) -> bool {
    linger(fd).is_some_and(|linger| linger.is_zero())
}

/// Makes the last `close` of the socket reset the connection.
pub fn reset_at_close(fd: RawFd) {
    if let Ok(fd) = borrow(fd) {
        // Fails for a closed socket only.
        let _ = sockopt::set_socket_linger(fd, Some(Duration::ZERO));
    }
}

/// Makes `close` an ordinary one.
pub fn linger_not(fd: RawFd) {
    if let Ok(fd) = borrow(fd) {
        // Fails for a closed socket only.
        let _ = sockopt::set_socket_linger(fd, None);
    }
}

/// Takes `fd` out of the epoll set `set`. Nothing happens if it is not in it, or that is no epoll set.
pub fn leave_epoll(set: RawFd, fd: RawFd) {
    if let (Ok(set), Ok(fd)) = (borrow(set), borrow(fd)) {
        let _ = rustix::event::epoll::delete(set, fd);
    }
}

/// Makes `close` return at once: a worker that closes for the program must not sleep in it.
pub fn clear_linger(fd: &Kept) {
    // Fails for a closed socket only; there is nothing to linger for then.
    let _ = sockopt::set_socket_linger(fd, None);
}

/// Whether `fd` is a pipe.
///
/// # Errors
/// `EBADF`.
pub fn is_pipe(fd: RawFd) -> Result<bool, Errno> {
    let (kind, _) = sources::kind(borrow(fd)?)?;
    Ok(kind.is_fifo())
}

/// Whether `fd` is a socket of the Internet families.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`.
pub fn is_inet(fd: RawFd) -> Result<bool, Errno> {
    use rustix::net::AddressFamily;
    let family = sockopt::socket_domain(borrow(fd)?)?;
    Ok(family == AddressFamily::INET || family == AddressFamily::INET6)
}

/// Takes the socket's pending error (`SO_ERROR`), clearing it.
pub fn take_error(fd: RawFd) -> Result<Option<Errno>, Errno> {
    Ok(sockopt::socket_error(borrow(fd)?)?.err())
}

/// Raises `SIGPIPE` in the calling thread, as the kernel does for a send on a dead connection
/// (TX-40).
pub fn raise_sigpipe() {
    let pid = std::process::id();
    // SAFETY: takes no pointer.
    if let Ok(tid) = unsafe { raw::call(libc::SYS_gettid, []) } {
        let arguments = [pid.into(), tid.into(), libc::SIGPIPE.into()];
        // SAFETY: takes no pointer. A signal to ourselves is always permitted.
        let _ = unsafe { raw::call(libc::SYS_tgkill, arguments) };
    }
}

/// A borrowed view of a number that the program gave us.
pub fn borrow<'a>(fd: RawFd) -> Result<BorrowedFd<'a>, Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: not -1, as checked. That the number stays open during the call is the program's
    // business, as for libc's own functions; a closed one only makes the kernel answer EBADF.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// The first `N` bytes of `TCP_INFO`, or `None` where the stream is not TCP's (SCTP, UNIX) or the
/// kernel knows fewer.
fn tcp_info<const N: usize>(fd: BorrowedFd<'_>) -> Option<[u8; N]> {
    let mut info = [0u8; N];
    let mut len = N as u32;
    let value = info.as_mut_ptr().cast();
    // SAFETY: `value` has room for the `len` bytes announced, and the kernel writes no more.
    let done = unsafe {
        getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            value,
            &raw mut len,
        )
    };
    (done.is_ok() && len as usize == N).then_some(info)
}

/// Bytes that were ever read from the socket, where the kernel can tell: TCP.
pub(super) fn bytes_read(fd: RawFd) -> Option<u64> {
    // struct tcp_info of <linux/tcp.h>, append-only; this field came with Linux 4.1.
    const BYTES_RECEIVED: usize = 128;
    let fd = borrow(fd).ok()?;
    if sockopt::socket_protocol(fd).ok()?? != rustix::net::ipproto::TCP {
        return None;
    }
    let received = || -> Option<u64> {
        let info: [u8; BYTES_RECEIVED + 8] = tcp_info(fd)?;
        Some(u64::from_ne_bytes(*info.last_chunk::<8>()?))
    };
    // As for what was written: the two belong together if nothing came between.
    let mut before = received()?;
    loop {
        let queued = rustix::io::ioctl_fionread(fd).ok()?;
        let after = received()?;
        if before == after {
            return after.checked_sub(queued);
        }
        before = after;
    }
}

/// Bytes written to the socket that its peer has not acknowledged (`SIOCOUTQ`).
fn out_queue(fd: BorrowedFd<'_>) -> Option<u64> {
    const SIOCOUTQ: rustix::ioctl::Opcode = libc::TIOCOUTQ as rustix::ioctl::Opcode;
    // SAFETY: this request writes one int.
    let request = unsafe { rustix::ioctl::Getter::<SIOCOUTQ, libc::c_int>::new() };
    // SAFETY: the getter describes the request.
    let queued = unsafe { rustix::ioctl::ioctl(fd, request) }.ok()?;
    u64::try_from(queued).ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::cell::Cell;

    use super::*;

    /// MT-8: acknowledgements may come between any two of the questions; none is counted twice, nor missed.
    #[test]
    fn what_was_written_is_told_between_acknowledgements() {
        const WRITTEN: u64 = 100;
        for pattern in 0u32..1 << 8 {
            let (acked, questions) = (Cell::new(20), Cell::new(0));
            let ask = || {
                let question = questions.replace(questions.get() + 1);
                let now = acked.get();
                if pattern.checked_shr(question).unwrap_or(0) & 1 != 0 {
                    acked.set(now + 10);
                }
                now
            };
            let written = settled(|| Some(ask()), || Some(WRITTEN - ask()));
            assert_eq!(written, Some(WRITTEN), "{pattern:b}");
        }
    }
}
