//! Closing a number, and what becomes of its connection.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::drain::drain_one;
use super::numbers::{Change, Left, OfSocket};
use super::survivors::Watch;
use super::world::{self, Process};
use super::{NUMBERS, ORPHANAGE, Socket, config, entry, is_ours, remember_lingering, twins};
use crate::error::{Error, Result};
use crate::sys::fork_guard;
use crate::sys::kept::Kept;
use crate::sys::{marks, net, streams};
use crate::worker::orphans::Orphanage;

/// Closes `fd` at once or behind the last record.
///
/// # Errors
/// `close(2)`'s own. The number is free in any case but `EBADF`.
pub fn close(fd: RawFd) -> Result<()> {
    linger(fd);
    let change = match NUMBERS.begin(fd) {
        Ok(change) => change,
        // A signal handler closes what the call that it has interrupted is closing; or no number of the table.
        Err(Error::Os(Errno::BUSY)) => return Err(Error::Os(Errno::BADF)),
        Err(_) => return net::close(fd).map_err(Error::from),
    };
    let Some(left) = change.leave() else {
        drop(change);
        return net::close(fd).map_err(Error::from);
    };
    let closed = match left.other {
        // TX-56: nothing happens to a connection that has another descriptor.
        Some(other) => {
            left.socket.move_to(other);
            let closed = net::close(fd);
            change.freed(Some(&left));
            closed
        }
        None => close_last(fd, change, &left),
    };
    streams::back(fd);
    closed.map_err(Error::from)
}

/// SO_LINGER with a time: the program asked for a close that waits. Before anybody else has to wait for the number.
fn linger(fd: RawFd) {
    if !is_ours(fd) {
        return;
    }
    let found = entry(fd);
    let socket = found.as_ref().ok().and_then(|found| found.get().ok());
    if let Some(connection) = socket.and_then(|socket| socket.tx())
        && let Some(linger) = net::linger(fd).filter(|linger| !linger.is_zero())
        && !NUMBERS.has_others(fd)
    {
        let _ = connection.flush(Some(linger));
    }
}

/// Closes the last known descriptor of a socket.
fn close_last(
    fd: RawFd,
    change: Change<'_, Socket, Process>,
    left: &Left<Socket>,
) -> core::result::Result<(), Errno> {
    let socket = &left.socket;
    let sending = socket.tx();
    if !socket.is_of(fork_guard::epoch()) {
        let closed = net::close(fd);
        change.freed(Some(left));
        return closed;
    }
    if let Some(connection) = sending {
        connection.leave();
    }
    let rest = sending.map(|connection| connection.at_rest());
    if matches!(rest, Some(None)) {
        if let Some(receiver) = socket.rx() {
            receiver.move_to(-1);
        }
        if let Some(connection) = sending {
            let resets = net::resets(fd);
            // What is queued belongs to a duplicate that nobody has told this library of, too.
            if resets && let Some(other) = unknown(socket, fd) {
                socket.move_to(other);
                let closed = net::close(fd);
                change.freed_but_for(left, other);
                return closed;
            }
            if !resets && connection.is_last() {
                leave_epoll_sets(fd);
            }
            hand_over(connection, resets, fd, || net::duplicate(fd));
        }
        let closed = net::close(fd);
        change.freed(Some(left));
        return closed;
    }
    // Closing may take its time then, and the number must be free meanwhile.
    let lingers = net::linger(fd).is_some_and(|linger| !linger.is_zero());
    let kept = lingers.then(|| net::duplicate(fd).ok()).flatten();
    let watch = (!world::sees_all() && kept.is_none())
        .then(|| Watch::over(fd))
        .flatten();
    // Nobody reads or writes by the number while it changes hands.
    socket.move_to(-1);
    let closed = net::close(fd);
    match watch.and_then(|watch| watch.another(socket)) {
        Some(other) => {
            socket.move_to(other);
            change.freed_but_for(left, other);
        }
        None => {
            if let Some(rest) = rest.flatten() {
                rest.close();
            }
            change.freed(Some(left));
        }
    }
    drop(kept);
    closed
}

/// With the C library: another number of `socket`, which is known by `fd` alone.
fn unknown(socket: &Socket, fd: RawFd) -> Option<RawFd> {
    if world::sees_all() {
        return None;
    }
    let numbers = twins::of(socket.identity());
    numbers.into_iter().find(|number| *number != fd)
}

/// The last number of the socket is gone, and `kept` is what is left of it.
pub(super) fn end(socket: &Arc<Socket>, kept: Option<Kept>) {
    if !socket.is_of(fork_guard::epoch()) {
        return;
    }
    if let Some(receiver) = socket.rx() {
        receiver.move_to(-1);
    }
    if let Some(connection) = socket.tx() {
        let mut kept = kept;
        connection.leave();
        if let Some(kept) = &kept
            && let Some(linger) = net::linger_of(kept).filter(|linger| !linger.is_zero())
        {
            let _ = connection.flush(Some(linger));
        }
        let fd = kept.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        hand_over(connection, net::resets(fd), fd, || {
            kept.take().ok_or(Errno::BADF)
        });
    }
}

/// The socket `fd` leaves the program's epoll sets, as it does by a close that is the last: it lives on, and with it would
/// what the program has said of it, with data that the program may have freed by then.
pub(super) fn leave_epoll_sets(fd: RawFd) {
    twins::for_each_open_below(marks::NUMBERS, |set| net::leave_epoll(set, fd));
}

/// What is queued on the socket of `fd` goes out in the background; or nowhere, if it `resets`. Another thread's call, and
/// other processes, still need the connection: then by a descriptor that the library has alone.
fn hand_over(
    connection: &Arc<crate::tx::Connection>,
    resets: bool,
    fd: RawFd,
    descriptor: impl FnOnce() -> core::result::Result<Kept, Errno>,
) {
    let adopts = |orphanage: Arc<Orphanage>| {
        orphanage.adopt(fd, config().linger, || connection.take_remains())
    };
    if !resets && connection.at_rest().is_none() && orphanage().is_some_and(adopts) {
        return;
    }
    let taken_over = connection.close(resets, || {
        let socket = descriptor()?;
        if !resets {
            net::clear_linger(&socket);
        }
        Ok(socket)
    });
    match taken_over {
        Ok(true) => {}
        Ok(false) => remember_lingering(connection),
        // No descriptor left to keep the socket with: wait here instead, so that nothing is lost, for as long as
        // the reader takes anything.
        Err(_) => drain_one(connection, config().linger),
    }
}

fn orphanage() -> Option<Arc<Orphanage>> {
    if ORPHANAGE.load().is_none() && !fork_guard::is_child_of_vfork() {
        let new = Orphanage::new().ok().map(Arc::new)?;
        // Of two threads' at once one stays.
        ORPHANAGE.compare_and_swap(&None::<Arc<Orphanage>>, Some(new));
    }
    ORPHANAGE.load_full()
}
