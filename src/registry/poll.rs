//! `poll(2)` over descriptors with and without TLS.
//!
//! The kernel's readiness is right but for one thing: it cannot know how long a record is whose
//! header nobody has read. So a socket that it calls readable is looked at, which raises its
//! low-water mark if the record is not complete, and the wait goes on (design rule 4).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Socket, entry, is_ours};
use crate::error::{Error, Result};
use crate::sys::net::{self, Mask};

/// Waits for events; returns the number of structs that have some. While it sleeps the thread has
/// the signal mask `mask`, if one is given, as in `ppoll(2)`.
///
/// # Errors
/// As `ppoll(2)`.
pub fn poll(
    fds: &mut [libc::pollfd],
    timeout: Option<Duration>,
    mask: Option<&Mask>,
) -> Result<usize> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut at_once = false;
    for poll in fds.iter() {
        let Some(socket) = tls(poll) else { continue };
        if let Some(connection) = socket.tx() {
            connection.push();
        }
        // TX-53, RX-51, and what the kernel does not know of: something is to be told at once.
        at_once |= socket.has_error() || holds_data(poll, &socket);
    }
    let mut rounds = 0;
    loop {
        let left = match at_once {
            true => Some(Duration::ZERO),
            false => deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()))
                .or(timeout),
        };
        let ready = match rounds > PATIENT {
            false => net::poll(fds, left, mask).map_err(Error::from)?,
            true => poll_others(fds, left, mask)?,
        };
        let mut events = 0;
        for poll in fds.iter_mut() {
            correct(poll);
            events += usize::from(poll.revents != 0);
        }
        let is_over = left == Some(Duration::ZERO);
        // Nothing was ready, or what was ready is: else the wait goes on for the time that is left.
        if events > 0 || is_over || (ready == 0 && rounds <= PATIENT) {
            return Ok(events);
        }
        rounds = if ready == 0 { 0 } else { rounds + 1 };
    }
}

/// Waits for a short while for other events than those that the kernel keeps reporting and that
/// are none: its low-water mark goes no higher than half of the receive buffer. Then looks again at
/// all.
fn poll_others(
    fds: &mut [libc::pollfd],
    left: Option<Duration>,
    mask: Option<&Mask>,
) -> Result<usize> {
    let mut others = fds.to_vec();
    for poll in &mut others {
        if tls(poll).is_some_and(|socket| socket.rx().is_some()) {
            poll.events &= !READABLE;
        }
    }
    let pause = left.map_or(PAUSE, |left| left.min(PAUSE));
    net::poll(&mut others, Some(pause), mask).map_err(Error::from)?;
    net::poll(fds, Some(Duration::ZERO), None).map_err(Error::from)
}

/// Makes the kernel's answer for one descriptor that of a kernel TLS socket.
fn correct(poll: &mut libc::pollfd) {
    let Some(socket) = tls(poll) else { return };
    if let Some(receiver) = socket.rx()
        && poll.revents & READABLE != 0
        && poll.revents & (libc::POLLHUP | libc::POLLRDHUP) == 0
        && !receiver.readiness().readable
    {
        poll.revents &= !READABLE;
    }
    if holds_data(poll, &socket) {
        poll.revents |= poll.events & READABLE;
    }
    if socket.has_error() {
        poll.revents |= libc::POLLERR;
    }
}

fn holds_data(poll: &libc::pollfd, socket: &Socket) -> bool {
    poll.events & READABLE != 0 && socket.rx().is_some_and(|receiver| receiver.holds_data())
}

fn tls(poll: &libc::pollfd) -> Option<Arc<Socket>> {
    if !is_ours(poll.fd) {
        return None;
    }
    entry(poll.fd).ok()?.get().ok().cloned()
}

const READABLE: i16 = libc::POLLIN | libc::POLLRDNORM;

/// So many times in a row the kernel may report what is nothing: a record in many pieces.
const PATIENT: u32 = 8;

/// From then on, the time between two looks.
const PAUSE: Duration = Duration::from_millis(10);
