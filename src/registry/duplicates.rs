//! Numbers that come into being: duplicates, numbers that take the place of others, numbers from elsewhere.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::closing::{end, leave_epoll_sets};
use super::drain::drain_one;
use super::family::remember_highest;
use super::keys::Kernel;
use super::{NUMBERS, Socket, config, is_ours};
use crate::error::{Error, Result};
use crate::sys::identity::{self, Identity};
use crate::sys::kept::Kept;
use crate::sys::{family, marks, net, streams};
use crate::tx::Drain;

/// `dup(2)` of the TLS socket `old`, or `fcntl(F_DUPFD)` with the `least` number that it may get. The duplicate closes
/// itself on `exec`, as the next program would not have the keys.
///
/// The number is taken first, by a descriptor that nothing can be read from or written to, so that it is marked before
/// the socket is behind it.
///
/// # Errors
/// As `dup(2)`; `EBUSY` if a call by the number that would be taken does not end.
pub fn duplicate(old: RawFd, least: Option<RawFd>) -> Result<RawFd> {
    let number = net::placeholder(least).map_err(Error::Os)?;
    // Another thread has closed `old`, whose number was free again.
    let result = match number == old {
        true => Err(Error::NoTls),
        false => put_over(old, number, libc::O_CLOEXEC),
    };
    if result.is_err() {
        let _ = net::close(number);
    }
    result
}

/// `dup2(2)`, or `dup3(2)` with its flags, of `old` over `new`, one of which is a TLS socket's or may become one.
///
/// # Errors
/// As `dup3(2)`; `EBUSY` also if a call that writes by `new` does not end.
pub fn replace(old: RawFd, new: RawFd, flags: i32) -> Result<RawFd> {
    if flags & !libc::O_CLOEXEC != 0 {
        return Err(Error::Invalid);
    }
    net::is_open(old)?;
    put_over(old, new, flags)
}

fn put_over(old: RawFd, new: RawFd, flags: i32) -> Result<RawFd> {
    let mut round = 0;
    loop {
        match try_put_over(old, new, flags) {
            Err(Error::Changed) => {
                NUMBERS.give_way(round);
                round += 1;
            }
            result => return result,
        }
    }
}

/// [`put_over`], unless another thread changes what `old` means at this moment ([`Error::Changed`]).
fn try_put_over(old: RawFd, new: RawFd, flags: i32) -> Result<RawFd> {
    let mut kept = keep(new);
    let is_tls = is_ours(old);
    // Also off a number by which each write will have to be looked at.
    let is_watched = marks::get(old) & (marks::WATCHED | marks::REFUSED) != 0;
    let streams = match is_tls || (is_watched && super::may_have_keys(old)) {
        true => Some(Streams::leave(new, is_tls)?),
        false => None,
    };
    let mut change = NUMBERS.begin(new)?;
    change.wait_out()?;
    {
        let flags = if is_tls { libc::O_CLOEXEC } else { flags };
        let spare = kept.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let result = change.take_after(old, is_tls, |mine, other| {
            if let Some(mine) = mine {
                mine.move_to(other.unwrap_or(spare));
            }
            let number = net::dup3(old, new, flags).map_err(|errno| {
                if let Some(mine) = mine {
                    mine.move_to(new);
                }
                Error::Os(errno)
            })?;
            if !is_tls {
                // What was found out about the number as it was.
                family::watch(new);
            }
            Ok(number)
        });
        drop(change);
        let (_, left) = result?;
        match streams {
            Some(streams) if is_tls => streams.stay_off(),
            // By its mark, if it has one.
            Some(streams) => drop(streams),
            None => streams::back(new),
        }
        if let Some(left) = left.filter(|left| left.other.is_none()) {
            end(&left.socket, kept.take());
        }
        Ok(new)
    }
}

/// The streams of the C library are off a number that is about to become a TLS socket's, or one that is watched. Dropped, they are on it again.
struct Streams(Option<RawFd>);

impl Streams {
    fn leave(fd: RawFd, is_tls: bool) -> Result<Streams> {
        streams::leave(fd, is_tls).map_err(Error::Os)?;
        Ok(Streams(Some(fd)))
    }

    fn stay_off(mut self) {
        self.0 = None;
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        // A number that was a TLS socket's before still is.
        if let Some(fd) = self.0.filter(|fd| !is_ours(*fd)) {
            streams::back(fd);
        }
    }
}

/// A descriptor for what `fd` is now: what lies in its queue goes out by it, and what it is closes when nobody waits for
/// that.
fn keep(fd: RawFd) -> Option<Kept> {
    let kept = net::duplicate(fd).ok();
    let found = NUMBERS.find(fd);
    let socket = found.as_ref().ok().and_then(|found| found.as_ref());
    if let Some(connection) = socket.and_then(|socket| socket.tx()) {
        if kept.is_none() {
            // No descriptor left: wait here instead, for as long as the reader takes anything.
            drain_one(connection, config().linger);
        } else if connection.is_last()
            && !NUMBERS.has_others(fd)
            && connection.drain() == Ok(Drain::Pending)
        {
            // While the number still is the socket's.
            leave_epoll_sets(fd);
        }
    }
    kept
}

/// The kernel has just given `fd` out for something new in this process, of which `mark` is known.
pub fn fresh(fd: RawFd, mark: u8) {
    if mark != marks::PLAIN {
        remember_highest(fd);
    }
    if let Some((socket, was_last)) = NUMBERS.fresh(fd, mark) {
        // Its last descriptor was closed behind our back.
        if was_last {
            socket.move_to(-1);
        }
        streams::back(fd);
    }
}

/// `fd` has come from elsewhere: by `SCM_RIGHTS`, `pidfd_getfd(2)`, or over `exec`. It may be one of a TLS socket's, of
/// this process or of another.
pub fn came(fd: RawFd) {
    fresh(fd, marks::PLAIN);
    let Some(identity) = identity::of(fd).filter(|_| identity::is_stream(fd)) else {
        return;
    };
    family::watch(fd);
    family::pass_on(fd);
    fresh(fd, marks::WATCHED);
    streams::leave_number(fd);
    join_or_refuse(fd, identity);
}

/// `fd` has been taken out of another process, or this one (`pidfd_getfd(2)`), which does not know of that. If it is a TLS
/// socket's there, that may have left no sign, as it had one number only.
pub fn came_unnoticed(fd: RawFd) {
    came(fd);
    if !is_ours(fd)
        && let Some(identity) = identity::of(fd)
        && family::may_be_unsigned(identity)
    {
        log::info!("descriptor {fd}: refused, as another process may have set keys on it");
        fresh(fd, marks::REFUSED);
    }
}

/// Whether another process may have set keys on the socket of the refused number `fd`.
pub(super) fn may_have_keys_elsewhere(fd: RawFd) -> bool {
    identity::is_signed(fd) != Ok(false) || identity::of(fd).is_some_and(family::may_be_unsigned)
}

/// A number that this process watches has been found to have the sign: whoever has left it, nothing plain passes any
/// more.
pub fn signed(fd: RawFd) {
    match identity::of(fd) {
        Some(identity) => join_or_refuse(fd, identity),
        None => fresh(fd, marks::PLAIN),
    }
}

/// The mark says at no moment that the number is a plain one: other threads write by it.
fn join_or_refuse(fd: RawFd, identity: Identity) {
    match NUMBERS.join(identity, fd, &Kernel { identity }) {
        Ok(_) => net::close_on_exec(fd),
        Err(Error::NoTls) if identity::is_signed(fd) == Ok(false) => {}
        Err(error) => {
            log::info!("descriptor {fd}: refused, as it cannot be served: {error}");
            fresh(fd, marks::REFUSED);
        }
    }
}

/// The socket of `fd` is passed to another process, which may be a stranger.
pub fn passed(fd: RawFd) {
    family::watch(fd);
    family::pass_on(fd);
    let mark = marks::mark(fd).map_or(0, |mark| mark.fetch_or(marks::WATCHED, Ordering::AcqRel));
    if mark & (marks::SOLE | marks::TWIN | marks::WATCHED) == 0 {
        // No stream socket that could get keys, or one that has some by now: others see that by the sign.
        if let Some(place) = marks::mark(fd) {
            place.fetch_and(!marks::WATCHED, Ordering::AcqRel);
            marks::keep_floor(place);
        }
        if mark & marks::TLS != 0 {
            let _ = identity::sign(fd);
        }
    } else if let Some(place) = marks::mark(fd) {
        place.fetch_and(!(marks::SOLE | marks::TWIN), Ordering::AcqRel);
        streams::leave_number(fd);
    }
}

/// `fd` has been duplicated without this library: if the socket has keys by now, the duplicate has them too.
pub fn came_over(fd: RawFd) {
    if let Some(identity) = identity::of(fd)
        && NUMBERS.by_identity(identity).is_some()
        && NUMBERS
            .join(identity, fd, &Kernel { identity })
            .is_err_and(|error| error != Error::NoTls)
    {
        fresh(fd, marks::REFUSED);
    }
}

/// With the C library: a number that is not known, which may be a duplicate of one that is.
///
/// # Errors
/// [`Error::NoTls`] if it is none; `EBADF`, `ENOTSOCK`.
pub(super) fn look_up(fd: RawFd) -> Result<Arc<Socket>> {
    net::endpoint(fd)?;
    let identity = identity::of(fd).ok_or(Error::NoTls)?;
    NUMBERS.join(identity, fd, &Kernel { identity })
}
