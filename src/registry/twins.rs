//! The other numbers of a socket.
//!
//! The preload library knows of each number how it came, and so which sockets have one only. Of the others it looks
//! for the rest when keys are set: each open descriptor of the process that may be one is asked which socket it is. That
//! needs no `/proc`. A number that is marked as the only one of its socket, or as one of a TLS socket's, is not asked: it is as
//! certain as that the socket itself has to be searched for. Of those without a mark `poll(2)` tells, by chunks, which are open.
//! `docs/architecture.md` says what it costs.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;

use crate::sys::identity::{self, Identity};
use crate::sys::{marks, net};

/// All numbers of this process that `socket` may have beside those that are known.
pub(super) fn of(socket: Identity) -> Vec<RawFd> {
    let mut found = Vec::new();
    let mut ask = |fd| {
        if identity::of(fd) == Some(socket) {
            found.push(fd);
        }
    };
    let mut unmarked = Chunk::default();
    for fd in (0..most(marks::NUMBERS)).map(|fd| fd as RawFd) {
        match marks::get(fd) {
            marks::PLAIN => unmarked.add(fd, &mut ask),
            mark if mark & (marks::SOLE | marks::TLS | marks::OWN) == 0 => ask(fd),
            // It is about to be something else.
            mark if mark & marks::BUSY != 0 => ask(fd),
            _ => {}
        }
    }
    unmarked.look(&mut ask);
    found
}

/// Calls `each` with every number below `end` that is open.
pub(super) fn for_each_open_below(end: usize, mut each: impl FnMut(RawFd)) {
    let mut chunk = Chunk::default();
    for fd in 0..most(end) {
        chunk.add(fd as RawFd, &mut each);
    }
    chunk.look(&mut each);
}

fn most(end: usize) -> usize {
    net::most_descriptors().min(end)
}

/// Numbers of which one system call tells whether they are open.
struct Chunk {
    numbers: [libc::pollfd; CHUNK],
    used: usize,
}

impl Default for Chunk {
    fn default() -> Chunk {
        let unused = libc::pollfd {
            fd: -1,
            events: 0,
            revents: 0,
        };
        Chunk {
            numbers: [unused; CHUNK],
            used: 0,
        }
    }
}

impl Chunk {
    fn add(&mut self, fd: RawFd, each: &mut impl FnMut(RawFd)) {
        self.numbers[self.used].fd = fd;
        self.used += 1;
        if self.used == CHUNK {
            self.look(each);
        }
    }

    /// Calls `each` with those that are open, and forgets all.
    fn look(&mut self, each: &mut impl FnMut(RawFd)) {
        let numbers = &mut self.numbers[..self.used];
        // It does not wait; a limit that another thread has lowered meanwhile makes it fail.
        let answered = net::poll(numbers, Some(core::time::Duration::ZERO), None).is_ok();
        for number in numbers {
            if !answered || number.revents & libc::POLLNVAL == 0 {
                each(number.fd);
            }
        }
        self.used = 0;
    }
}

const CHUNK: usize = 1024;
