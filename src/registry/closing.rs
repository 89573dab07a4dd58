//! Closing a number, and what becomes of its connection.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::drain::drain_one;
use super::numbers::{Change, Left, OfSocket};
use super::survivors::Watch;
use super::world::{self, Process};
use super::{NUMBERS, Socket, config, entry, is_ours, remember_lingering, twins};
use crate::error::{Error, Result};
use crate::sys::fork_guard;
use crate::sys::kept::Kept;
use crate::sys::net;
use crate::sys::streams;

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
            hand_over(connection, resets, || net::duplicate(fd));
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
        let resets = kept
            .as_ref()
            .is_some_and(|kept| net::resets(kept.as_raw_fd()));
        hand_over(connection, resets, || kept.take().ok_or(Errno::BADF));
    }
}

/// What is queued goes out in the background, by a descriptor that the library has alone; or nowhere, if the
/// socket `resets`.
fn hand_over(
    connection: &Arc<crate::tx::Connection>,
    resets: bool,
    descriptor: impl FnOnce() -> core::result::Result<Kept, Errno>,
) {
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
