//! Closing a number: what other threads find under it meanwhile, and what becomes of its connection.

use std::os::fd::RawFd;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustix::io::Errno;

use super::drain::drain_one;
use super::duplicates::{Tomb, adopt};
use super::{Found, Socket, attach_lock, config, install, remember_lingering, slot};
use crate::error::{Error, Result};
use crate::sys::fork_guard;
use crate::sys::marks;
use crate::sys::net;

/// Closes `fd` at once or behind the last record.
///
/// # Errors
/// `close(2)`'s own. The number is free in any case but `EBADF`.
pub fn close(fd: RawFd) -> Result<()> {
    let result = close_at_once(fd, || net::close(fd).map_err(Error::from));
    // Whatever it said, the number is gone.
    end(fd);
    result
}

/// As [`close`], where the kernel closes `fd` in the course of another call: `dup2(2)` over it,
/// `close_range(2)`.
///
/// # Errors
/// What `closing` fails with.
pub fn close_by<T>(fd: RawFd, closing: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = close_at_once(fd, closing);
    if result.is_ok() {
        // What has come under the number may be a TLS socket, too; nobody may find it unmarked.
        drop(adopt(fd));
        end(fd);
    }
    result
}

fn close_at_once<T>(fd: RawFd, closing: impl FnOnce() -> Result<T>) -> Result<T> {
    match begin(fd) {
        Some((socket, None)) if socket.is_of(fork_guard::epoch()) => {
            close_last(fd, &socket, closing)
        }
        // TX-56: nothing happens to a connection that has another descriptor.
        Some((socket, _)) => closing().inspect_err(|_| {
            // Nothing has happened. If there is no room for the number now, it stays without calls.
            let _ = install(fd, socket);
        }),
        None => closing(),
    }
}

/// The number `fd` is about to be closed: from now on there is no socket behind it for calls of this
/// process (design rule 2: nor is it a plain one, which it would be for a mark that is taken off now).
/// Returns its state, and another number that it is known by.
fn begin(fd: RawFd) -> Option<(Arc<Socket>, Option<RawFd>)> {
    let mut index = attach_lock();
    let socket = slot(fd)?.load_full()?;
    if marks::get(fd) != marks::TLS {
        return None;
    }
    marks::set(fd, marks::CLOSING);
    let other = socket.unknown_by(fd);
    if other.is_none()
        && let Some(identity) = socket.identity()
    {
        index.remove(&identity);
    }
    Some((socket, other))
}

/// The number is the kernel's again, unless it has got another state meanwhile.
fn end(fd: RawFd) {
    let _index = attach_lock();
    if marks::get(fd) == marks::CLOSING
        && let Some(slot) = slot(fd)
    {
        marks::set(fd, 0);
        slot.store(None);
    }
}

/// The state of a number that is being closed, or was until now.
///
/// # Errors
/// `EBADF` while the socket is still there; those of [`adopt`] for what has come instead.
#[cold]
pub(super) fn entry_of_closing(fd: RawFd) -> Result<Found> {
    let index = attach_lock();
    let found = slot(fd).ok_or(Error::NoTls)?.load();
    let closes = marks::get(fd) == marks::CLOSING;
    drop(index);
    match &*found {
        Some(socket) if closes => match is_still(fd, socket) {
            true => Err(Error::Os(Errno::BADF)),
            false => adopt(fd),
        },
        Some(_) => Ok(Found(found)),
        None => adopt(fd),
    }
}

/// Whether `fd` is being closed, and the kernel has not got so far.
pub(super) fn is_closing(fd: RawFd) -> bool {
    let _index = attach_lock();
    marks::get(fd) == marks::CLOSING
        && slot(fd)
            .and_then(ArcSwapOption::load_full)
            .is_some_and(|socket| is_still(fd, &socket))
}

fn is_still(fd: RawFd, socket: &Socket) -> bool {
    // What cannot be told apart is taken for the socket.
    socket.identity().is_none() || socket.identity() == fork_guard::identity(fd)
}

/// Closes the last known descriptor of a socket.
fn close_last<T>(
    fd: RawFd,
    socket: &Arc<Socket>,
    closing: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let sending = socket.tx();
    if let Some(connection) = sending {
        connection.leave();
    }
    if let Some(connection) = sending
        && let Some(linger) = net::linger(fd).filter(|linger| !linger.is_zero())
    {
        // SO_LINGER: the program asked for a close that waits.
        let _ = connection.flush(Some(linger));
    }
    let rest = sending.map(|connection| connection.at_rest());
    if !matches!(rest, Some(None)) {
        let tomb = Tomb::of(fd);
        // Nobody reads or writes by the number while it changes hands.
        socket.move_to(-1);
        let closed = closing();
        if let Some(other) = tomb.and_then(|tomb| tomb.another(socket)) {
            install(other, Arc::clone(socket))?;
            socket.move_to(other);
        } else if let Some(rest) = rest.flatten() {
            rest.close();
        }
        return closed;
    }
    if let Some(receiver) = socket.rx() {
        receiver.move_to(-1);
    }
    if let Some(connection) = sending {
        let taken_over = connection.close(|| {
            let socket = net::duplicate(fd)?;
            net::clear_linger(&socket);
            Ok(socket)
        });
        match taken_over {
            Ok(true) => {}
            Ok(false) => remember_lingering(connection),
            // No descriptor left to keep the socket with: wait here instead, so that nothing is
            // lost, for as long as the reader takes anything.
            Err(_) => drain_one(connection, config().linger),
        }
    }
    closing()
}
