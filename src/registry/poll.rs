//! `poll(2)` over descriptors with and without TLS.
//!
//! The kernel's readiness is right but for one thing: it cannot know how long a record is whose
//! header nobody has read. So a socket that it calls readable is looked at, which raises its
//! low-water mark if the record is not complete, and the wait goes on (design rule 4).

use std::time::{Duration, Instant};

use super::{entry, is_ours};
use crate::error::{Error, Result};
use crate::sys::net;

/// Waits for events; returns the number of structs that have some.
///
/// # Errors
/// As `poll(2)`.
pub fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> Result<usize> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut error = false;
    for poll in fds.iter().filter(|poll| is_ours(poll.fd)) {
        let Ok(found) = entry(poll.fd) else { continue };
        let Ok(socket) = found.get() else { continue };
        if let Some(connection) = socket.tx() {
            connection.push();
        }
        error |= socket.has_error();
    }
    loop {
        let left = match error {
            // TX-53, RX-51: something is to be told at once.
            true => Some(Duration::ZERO),
            false => deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()))
                .or(timeout),
        };
        let ready = net::poll(fds, left).map_err(Error::from)?;
        let mut events = 0;
        for poll in fds.iter_mut() {
            correct(poll);
            events += usize::from(poll.revents != 0);
        }
        // Nothing was ready, or what was ready is: else the wait goes on for the time that is left.
        if events > 0 || ready == 0 || left == Some(Duration::ZERO) {
            return Ok(events);
        }
    }
}

/// Makes the kernel's answer for one descriptor that of a kernel TLS socket.
fn correct(poll: &mut libc::pollfd) {
    const READABLE: i16 = libc::POLLIN | libc::POLLRDNORM;
    if !is_ours(poll.fd) {
        return;
    }
    let Ok(found) = entry(poll.fd) else { return };
    let Ok(socket) = found.get() else { return };
    if let Some(receiver) = socket.rx().filter(|_| poll.revents & READABLE != 0) {
        // The end of the stream is readable, whatever stands in front of it (RX-50).
        if poll.revents & (libc::POLLHUP | libc::POLLRDHUP) == 0 && !receiver.readiness().readable {
            poll.revents &= !READABLE;
        }
    }
    if socket.has_error() {
        poll.revents |= libc::POLLERR;
    }
}
