//! What is known of the ciphertext in the socket.
//!
//! Bytes are peeked in large pieces, so that one system call serves many records, and dropped from
//! the socket in large pieces behind their delivery. The socket's queue always holds, in this
//! order: `stale` bytes that are done with, `ahead` bytes of records that are opened and not yet
//! delivered, and what has not been opened. So whatever the program has not been given keeps the
//! socket readable (design rule 4).
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::sys::receive::Receive;
use crate::sys::reserve;

/// What a look at the socket brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// All that fits, and perhaps more is there.
    Full,
    /// All that is there.
    All,
    /// Nothing is there, now.
    Empty,
    /// Nothing is there, and nothing will come.
    Eof,
}

#[derive(Debug, Default)]
pub(super) struct Window {
    memory: Option<Box<[u8]>>,
    /// `memory[start..end]` is what was peeked behind the stale bytes.
    start: usize,
    end: usize,
    stale: usize,
    ahead: usize,
    /// What the last peek said of the rest of the queue.
    full: bool,
    /// The socket was peeked at since the call began.
    asked: bool,
}

impl Window {
    /// Known bytes that have not been opened.
    pub(super) fn unopened(&self) -> &[u8] {
        let known = match &self.memory {
            Some(memory) => &memory[self.start..self.end],
            None => &[],
        };
        known.get(self.ahead..).unwrap_or(&[])
    }

    /// Whether the socket may hold bytes that are not known yet, and were there when the call
    /// began.
    pub(super) fn may_hold_more(&self) -> bool {
        self.full || !self.asked
    }

    /// The call is over.
    pub(super) fn end_of_call(&mut self) {
        self.asked = false;
    }

    /// The first `len` unopened bytes have been opened, into memory of their own.
    pub(super) fn opened(&mut self, len: usize) {
        self.ahead += len;
    }

    /// The first `len` opened bytes have been delivered.
    pub(super) fn delivered(&mut self, len: usize) {
        self.ahead -= len;
        self.stale += len;
        // Behind the end: the memory was given back while records of it were opened.
        self.start = (self.start + len).min(self.end);
    }

    /// Bytes in the socket that are done with.
    pub(super) fn stale(&self) -> usize {
        self.stale
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.release();
        (self.stale, self.ahead, self.full) = (0, 0, false);
    }

    /// Bytes in the socket of records that are opened.
    pub(super) fn ahead(&self) -> usize {
        self.ahead
    }

    /// Opened records are delivered from memory alone: their bytes are done with.
    pub(super) fn forget_ahead(&mut self) {
        self.stale += self.ahead;
        self.start = (self.start + self.ahead).min(self.end);
        self.ahead = 0;
    }

    /// Bytes known to be in the socket, those done with included.
    pub(super) fn in_socket(&self) -> usize {
        self.stale + (self.end - self.start).max(self.ahead)
    }

    /// Drops what is done with from the socket.
    ///
    /// # Errors
    /// The socket's; the bytes are still to be dropped then.
    pub(super) fn drop_stale(&mut self, sys: &dyn Receive, fd: RawFd) -> Result<(), Errno> {
        while self.stale > 0 {
            match sys.discard(fd, self.stale) {
                // Somebody else has read from the socket behind our back.
                Ok(0) => return Err(Errno::IO),
                Ok(dropped) => self.stale -= dropped.min(self.stale),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Peeks anew, behind what is done with: at least `want` unopened bytes if they are there.
    ///
    /// # Errors
    /// The socket's own; `ENOMEM` without memory for it.
    pub(super) fn refill(
        &mut self,
        sys: &dyn Receive,
        fd: RawFd,
        want: usize,
    ) -> Result<Filled, Errno> {
        self.drop_stale(sys, fd)?;
        let len = WINDOW.max(self.ahead + want);
        let memory = match self.memory.take() {
            Some(memory) if memory.len() >= len => memory,
            smaller => {
                give_back(smaller);
                // Where it was: what it held is peeked again.
                (self.start, self.end) = (0, 0);
                take(len)?
            }
        };
        let memory = self.memory.insert(memory);
        (self.start, self.end, self.full) = (0, 0, false);
        self.asked = true;
        let result = loop {
            match sys.peek(fd, memory) {
                Err(Errno::INTR) => {}
                result => break result,
            }
        };
        match result {
            Ok(0) => Ok(Filled::Eof),
            Ok(len) => {
                self.end = len;
                self.full = len == memory.len();
                Ok(if self.full { Filled::Full } else { Filled::All })
            }
            Err(Errno::AGAIN) => Ok(Filled::Empty),
            Err(errno) => Err(errno),
        }
    }

    /// Gives the memory back; what it held will be peeked again.
    pub(super) fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        give_back(self.memory.take());
    }

    /// Whether so many connections hold memory that this one should not keep its own.
    pub(super) fn is_dear() -> bool {
        OUT.load(Ordering::Relaxed) > KEPT
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        give_back(self.memory.take());
    }
}

/// Keeps the free list from changing while the process forks.
pub(crate) fn hold() -> MutexGuard<'static, Vec<Box<[u8]>>> {
    free()
}

/// [`hold`], unless somebody has it.
pub(crate) fn try_hold() -> Option<MutexGuard<'static, Vec<Box<[u8]>>>> {
    crate::sync::try_lock_std(&FREE)
}

fn take(len: usize) -> Result<Box<[u8]>, Errno> {
    let recycled = (len == WINDOW).then(|| free().pop()).flatten();
    let memory = match recycled {
        Some(memory) => memory,
        None => reserve::zeroed(len)?,
    };
    OUT.fetch_add(1, Ordering::Relaxed);
    Ok(memory)
}

fn give_back(memory: Option<Box<[u8]>>) {
    let Some(memory) = memory else { return };
    OUT.fetch_sub(1, Ordering::Relaxed);
    let mut free = free();
    if memory.len() == WINDOW && free.len() < FREE_MAX && !reserve::is_lent(&memory) {
        free.push(memory);
    }
}

fn free() -> MutexGuard<'static, Vec<Box<[u8]>>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

static FREE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
/// Windows that connections hold now.
static OUT: AtomicUsize = AtomicUsize::new(0);

/// Bytes peeked at once: a call's worth of full records, and small enough to stay in the
/// second-level cache until they are opened.
const WINDOW: usize = 128 * 1024;
/// At most this many windows stay with an idle process.
const FREE_MAX: usize = 16;
/// So many connections may keep a window between two calls.
const KEPT: usize = 64;
