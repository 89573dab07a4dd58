//! What the table of numbers stands on: the marks, the states by number, and the threads of this process.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::time::Duration;

use super::Socket;
use super::numbers::World;
use crate::error::{Error, Result};
use crate::sync::slot::{ArcSlot, Loaded};
use crate::sys::in_flight::{self, Under};
use crate::sys::signals::Blocked;
use crate::sys::{barrier, marks, streams, thread};

/// This process.
pub(crate) struct Process;

impl World<Socket> for Process {
    type Quiet = Blocked;

    fn mark(&self, fd: RawFd) -> Option<&AtomicU8> {
        marks::mark(fd)
    }

    fn slot(&self, fd: RawFd, make: bool) -> Option<&ArcSlot<Socket>> {
        let fd = usize::try_from(fd).ok()?;
        let chunk = CHUNKS.get(fd / CHUNK)?;
        let chunk = match make {
            true => chunk.get_or_init(|| (0..CHUNK).map(|_| ArcSlot::empty()).collect()),
            false => chunk.get()?,
        };
        chunk.get(fd % CHUNK)
    }

    fn keep_floor(&self, mark: &AtomicU8) {
        marks::keep_floor(mark);
    }

    fn barrier(&self) -> Result<()> {
        // SeqCst: a thread that takes its slot for its first call has such a fence between its note and the mark.
        fence(Ordering::SeqCst);
        match in_flight::TABLE.is_only(in_flight::own()) {
            true => Ok(()),
            false => barrier::all_threads().map_err(Error::Os),
        }
    }

    fn under(&self, fd: RawFd) -> Under {
        match in_flight::TABLE.under(fd, in_flight::own()) {
            // A call that nobody sees end.
            Under::Nobody if streams::is_queued(fd) => Under::Other,
            under => under,
        }
    }

    fn thread(&self) -> u32 {
        thread::number()
    }

    fn quiet(&self) -> Blocked {
        Blocked::new()
    }

    fn pause(&self, round: u32) -> bool {
        match round {
            0..SPINS => rustix::thread::sched_yield(),
            _ => std::thread::sleep(NAP),
        }
        round < PATIENCE
    }
}

/// The states by number, without a lock and without memory, as the end of a process may come in a signal handler. A
/// socket with two numbers comes twice.
pub(super) fn states() -> impl Iterator<Item = (RawFd, Loaded<Socket>)> {
    let chunks = (0..).step_by(CHUNK).zip(&CHUNKS);
    chunks
        .filter_map(|(first, chunk)| Some((first, chunk.get()?)))
        .flat_map(|(first, chunk)| (first..).zip(chunk.iter()))
        .map(|(number, slot)| (number, slot.load()))
        .filter(|(_, loaded)| loaded.is_some())
}

/// The library sees all that happens to the numbers of this process: the preload library does.
pub fn see_all() {
    SEES_ALL.store(true, Ordering::Relaxed);
}

/// Whether it does. The C library sees no `dup(2)`, and so looks sockets up that it does not know by number.
pub(crate) fn sees_all() -> bool {
    SEES_ALL.load(Ordering::Relaxed)
}

static SEES_ALL: AtomicBool = AtomicBool::new(false);

/// Between mark and kernel are some nanoseconds, unless the thread has lost its processor there.
const SPINS: u32 = 64;
const NAP: Duration = Duration::from_micros(100);

/// A call that is not over after half a second sleeps in the kernel.
const PATIENCE: u32 = 5000;

/// Slots per chunk: one page of pointers.
const CHUNK: usize = 512;

/// Chunks come into being as numbers come to be TLS sockets', and stay.
static CHUNKS: [OnceLock<Box<[ArcSlot<Socket>]>>; marks::NUMBERS / CHUNK] =
    [const { OnceLock::new() }; marks::NUMBERS / CHUNK];
