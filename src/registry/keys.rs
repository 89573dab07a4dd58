//! Attaching TLS to a socket, and setting its keys.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::numbers::{Attaching, OfSocket};
use super::{Direction, NUMBERS, Socket, duplicates, is_ours, publish, tables, twins, world};
use crate::aead::TrafficKeys;
use crate::error::{Error, Result};
use crate::stats::STATS;
use crate::sys::family::Claim;
use crate::sys::identity::{self, Identity};
use crate::sys::net::{self, Endpoint};
use crate::sys::signals::Blocked;
use crate::sys::{family, fork_guard, marks, sandbox, streams};

/// Attaches TLS to a TCP socket, as setting `TCP_ULP` does (ATT-1 to ATT-7).
///
/// # Errors
/// [`Error::UlpPresent`] if it is attached; ATT-5, ATT-7 for what is no connected stream.
pub fn attach_tcp(fd: RawFd) -> Result<()> {
    if !net::is_inet(fd)? {
        return Err(Error::Os(Errno::OPNOTSUPP));
    }
    let (socket, _) = attach(fd)?;
    match socket.set_ulp() || socket.has_keys() {
        true => Err(Error::UlpPresent),
        false => Ok(()),
    }
}

/// Sets the keys of one direction of `fd`, for the first time or again, attaching TLS if need be.
///
/// # Errors
/// The order of the kernel's checks: ATT-3 to ATT-7 for the socket, then CI-1 and CI-3 for what
/// `keys` is made from. A socket that has just been attached is as before. `EBUSY`: another process has set keys on
/// the socket, or a plain call by one of its numbers does not end.
pub fn set_keys(
    fd: RawFd,
    direction: Direction,
    keys: impl FnOnce() -> Result<TrafficKeys>,
) -> Result<()> {
    set_keys_of(fd, direction, keys).inspect_err(|error| {
        log::debug!("descriptor {fd}: {direction:?} keys refused: {error}");
    })
}

fn set_keys_of(
    fd: RawFd,
    direction: Direction,
    keys: impl FnOnce() -> Result<TrafficKeys>,
) -> Result<()> {
    if marks::get(fd) & marks::REFUSED != 0 && duplicates::may_have_keys_elsewhere(fd) {
        return Err(Error::Os(Errno::BUSY));
    }
    let mut keys = Some(keys);
    loop {
        let (socket, is_new) = attach(fd)?;
        let socket = match super::entry(fd) {
            // Refused in a process that the keys are not for.
            Ok(found) => Arc::clone(found.get()?),
            Err(_) => socket,
        };
        let is_first = match direction {
            Direction::Tx => socket.tx().is_none(),
            Direction::Rx => socket.rx().is_none(),
        };
        if !is_first {
            let keys = keys.take().ok_or(Error::NotRecoverable)?;
            return socket.set_keys(fd, direction, keys);
        }
        let kernel = Kernel {
            identity: socket.identity(),
        };
        // A fork waits until this is done: whether other processes can have the socket is looked at in the course of it.
        let _quiet = Blocked::new();
        let _one = lock();
        let search = !socket.has_keys();
        let set = |may_be_shared: bool| {
            let keys = keys.take().ok_or(Error::NotRecoverable)?;
            // Whoever has set the first keys has claimed it.
            if !may_be_shared && world::sees_all() {
                // Before the question that follows: whoever takes the number out of this process asks the other way round.
                family::note_unsigned(socket.identity());
            }
            let may_be_shared = may_be_shared || family::is_passed_on(socket.identity());
            let claim = match may_be_shared && !socket.has_keys() {
                true => Some(Claim::new(fd, socket.identity()).map_err(Error::Os)?),
                false => None,
            };
            let result = socket.set_keys(fd, direction, keys);
            if result.is_err()
                && let Some(claim) = claim
            {
                claim.withdraw();
            }
            result
        };
        let result = match tables::are_apart() {
            // Nobody knows all numbers of the socket. As from a kernel without TLS.
            true => {
                STATS.declined.add(1);
                Err(Error::Os(Errno::NOPROTOOPT))
            }
            false => NUMBERS.promote(fd, &socket, search, &kernel, set),
        };
        match result {
            // Another thread's attempt, which has failed, has taken the state off again.
            Err(Error::NoTls) if keys.is_some() => {}
            Err(error) => {
                if is_new {
                    for fd in NUMBERS.withdraw(socket.identity(), |socket| socket.is_bare()) {
                        streams::back(fd);
                    }
                }
                return Err(error);
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Held while the first keys of a socket are set, and while the process forks.
pub(super) fn lock() -> MutexGuard<'static, ()> {
    KEYS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`lock`], unless somebody holds it.
pub(super) fn try_lock() -> Option<MutexGuard<'static, ()>> {
    crate::sync::try_lock_std(&KEYS)
}

static KEYS: Mutex<()> = Mutex::new(());

/// The state of the socket `fd`, and whether it has just got it.
fn attach(fd: RawFd) -> Result<(Arc<Socket>, bool)> {
    let endpoint = net::endpoint(fd)?;
    // What cannot be told from others cannot be proven to be used once only.
    let identity = identity::of(fd).ok_or(Error::Os(Errno::NOPROTOOPT))?;
    if let Ok(found) = NUMBERS.find(fd)
        && found
            .as_ref()
            .is_some_and(|known| known.identity() != identity)
    {
        // The program has closed a TLS socket behind our back, and the number has come back as another's.
        super::fresh(fd, marks::PLAIN);
    }
    if NUMBERS.by_identity(identity).is_none() {
        match endpoint {
            Endpoint::ConnectedStream => {}
            Endpoint::NotConnected => return Err(Error::Os(Errno::NOTCONN)),
            Endpoint::Unsuitable(errno) => return Err(Error::Os(errno)),
        }
        if !sandbox::allows_connections(world::sees_all()) {
            log::info!("descriptor {fd}: a sandbox refuses calls that a connection needs");
            return Err(Error::Os(Errno::NOPROTOOPT));
        }
    }
    // The first time only: nothing is counted before that.
    publish();
    let new = || Arc::new(Socket::new(fork_guard::epoch(), identity));
    NUMBERS.attach(identity, fd, new, &Kernel { identity })
}

/// What there is to do when a number becomes one of the socket's.
pub(super) struct Kernel {
    pub(super) identity: Identity,
}

impl Attaching for Kernel {
    fn twins(&self) -> Vec<RawFd> {
        match world::sees_all() {
            true => twins::of(self.identity),
            // Calls by others come to this library and are looked up (`duplicates::look_up`).
            false => Vec::new(),
        }
    }

    fn is_of(&self, fd: RawFd) -> bool {
        identity::of(fd) == Some(self.identity)
    }

    fn prepare(&self, fd: RawFd) -> Result<()> {
        streams::leave(fd, true).map_err(|errno| match errno {
            // The C library's own number: as from a kernel without TLS.
            Errno::OPNOTSUPP => Error::Os(Errno::NOPROTOOPT),
            errno => Error::Os(errno),
        })
    }

    fn undo(&self, fd: RawFd) {
        // A number that was a TLS socket's before still is.
        if !is_ours(fd) {
            streams::back(fd);
        }
    }
}
