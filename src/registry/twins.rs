//! The other numbers of a socket.
//!
//! The preload library knows of each number how it came, and so which sockets have one only. Of the others it looks
//! for the rest when keys are set: every open descriptor of the process is asked which socket it is. That needs no
//! `/proc`. It costs a `poll(2)` for each 1024 numbers that the process may have, and a `getsockopt(2)` for each that
//! is open: 20 us with a limit of 1024, and some 15 ms with 100,000 open descriptors (docs/performance.md).
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::sys::identity::{self, Identity};
use crate::sys::net;

/// All numbers of this process that `socket` has.
pub(super) fn of(socket: Identity) -> Vec<RawFd> {
    let mut found = Vec::new();
    for_each_open(|fd| {
        if identity::of(fd) == Some(socket) {
            found.push(fd);
        }
    });
    found
}

/// Calls `each` with every number that is open.
fn for_each_open(each: impl FnMut(RawFd)) {
    for_each_open_below(crate::sys::marks::NUMBERS, each);
}

/// Calls `each` with every number below `end` that is open.
pub(super) fn for_each_open_below(end: usize, mut each: impl FnMut(RawFd)) {
    let end = net::most_descriptors().min(end);
    let mut first = 0;
    while first < end {
        let n = CHUNK.min(end - first);
        let mut fds = [libc::pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        }; CHUNK];
        for (poll, number) in fds.iter_mut().zip(first..first + n) {
            poll.fd = number as RawFd;
        }
        // It does not wait; a limit that another thread has lowered meanwhile makes it fail.
        let answered = net::poll(&mut fds[..n], Some(core::time::Duration::ZERO), None).is_ok();
        for poll in &fds[..n] {
            if !answered || poll.revents & libc::POLLNVAL == 0 {
                each(poll.fd);
            }
        }
        first += n;
    }
}

const CHUNK: usize = 1024;
