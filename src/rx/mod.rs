//! The receive direction of one connection.
//!
//! A call looks at the records in the socket's queue (`window`), opens those that are complete
//! (`records`), copies their plaintext to the program (`receive`) and drops their ciphertext. What
//! is left behind is told to the kernel by `SO_RCVLOWAT` (`low_water`), so that waiters are woken
//! when there is something to be had, and not before.
//!
//! # Locks, outermost first
//!
//! | lock | guards | held across |
//! | --- | --- | --- |
//! | `turn` | the receiving calls as wholes: bytes of one call are contiguous (MT-4, MT-5) | one call, its sleeps included |
//! | `state` | keys, numbers, opened records, window, low-water mark | system calls that do not sleep |
//!
//! Neither is ever taken together with a lock of the transmit direction.
//!
//! What threads share without a lock are single values on which no other memory depends, so there
//! is no order for a loom model to explore: `pending`, of which a swap gives each error to one
//! taker; `fd`, which changes under `state` and is read without it only by a sleep, bounded for
//! that reason; and the figures and options that are `Relaxed`.
#![forbid(unsafe_code)]

mod receive;
mod records;
mod splice;
pub(crate) mod window;

#[cfg(all(any(test, feature = "testing"), not(loom)))]
pub(crate) mod testing;
#[cfg(all(test, not(loom)))]
mod tests;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::aead::{Choice, Cipher, Provider, TrafficKeys};
use crate::error::{PendingError, Result};
use crate::record::{RecordNumber, Version};
use crate::stats::STATS;
use crate::sync::{Mutex, lock};
use crate::sys::receive::Receive;

use records::Records;

pub use receive::{Received, Request};

/// One connection's receive direction.
pub struct Receiver {
    sys: &'static dyn Receive,
    fd: AtomicI32,
    turn: Mutex<()>,
    state: Mutex<Records>,
    /// The error that the next call on the socket reports, whichever direction it is for.
    pending: Arc<PendingError>,
    /// The program's own `SO_RCVLOWAT`.
    low_water: AtomicUsize,
    /// `TLS_RX_EXPECT_NO_PAD`.
    no_pad: AtomicBool,
    choice: Choice,
    records: AtomicU64,
    bytes: AtomicU64,
}

/// What `uktls_get_info` reports of the direction.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// TLS version.
    pub version: Version,
    /// Cipher.
    pub cipher: Cipher,
    /// AEAD implementation in use.
    pub aead: Provider,
    /// Number of the next record to be opened.
    pub number: RecordNumber,
    /// Records opened.
    pub records: u64,
    /// Plaintext bytes delivered.
    pub bytes: u64,
}

/// What waits in a connection, as `poll` tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// A receive would not wait.
    pub readable: bool,
    /// An error is pending.
    pub error: bool,
}

impl Receiver {
    /// Takes `keys` for the socket `fd`, whose unread bytes are records from now on (ATT-19).
    ///
    /// # Errors
    /// [`Error::CipherMissing`](crate::error::Error::CipherMissing) if no AEAD implementation has the cipher.
    pub fn new(
        sys: &'static dyn Receive,
        fd: RawFd,
        keys: TrafficKeys,
        choice: Choice,
        pending: Arc<PendingError>,
    ) -> Result<Arc<Receiver>> {
        let records = Records::new(keys, choice)?;
        STATS.curr_rx_sw.add(1);
        STATS.rx_sw.add(1);
        let receiver = Arc::new(Receiver {
            sys,
            fd: AtomicI32::new(fd),
            turn: Mutex::new(()),
            state: Mutex::new(records),
            pending,
            low_water: AtomicUsize::new(1),
            no_pad: AtomicBool::new(false),
            choice,
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let mut state = lock(&receiver.state);
        // CI-9: a bad header that is there already is an error from now on.
        state.look(sys, fd, &receiver.pending);
        state.settle(sys, fd);
        drop(state);
        Ok(receiver)
    }

    /// Replaces the keys (RK-1, RK-6 to RK-11). TLS 1.3 only.
    ///
    /// # Errors
    /// [`Error::KeysPresent`](crate::error::Error::KeysPresent) for TLS 1.2 (CI-3); [`Error::Invalid`](crate::error::Error::Invalid) if version or cipher differ.
    /// On failure the old keys, and a pause for new ones, stay in force.
    pub fn rekey(&self, keys: impl FnOnce() -> Result<TrafficKeys>) -> Result<()> {
        // Not the turn: a reader may sleep with it.
        let mut state = lock(&self.state);
        let result = state.rekey(keys, self.choice);
        match result {
            Ok(()) => {
                STATS.rx_rekey_ok.add(1);
                // Lowers the mark again, which wakes whoever waits for what has come meanwhile.
                state.look(self.sys, self.fd(), &self.pending);
                state.settle(self.sys, self.fd());
            }
            Err(_) => STATS.rx_rekey_error.add(1),
        }
        result
    }

    /// Version and cipher of the keys.
    pub fn suite(&self) -> (Version, Cipher) {
        lock(&self.state).suite()
    }

    /// Writes the full crypto_info struct, with the number of the next record, for `getsockopt`
    /// (CI-12 to CI-14). `out` has the struct's exact length.
    pub fn crypto_info(&self, out: &mut [u8]) {
        lock(&self.state).crypto_info(out);
    }

    /// The figures of this direction.
    pub fn info(&self) -> Info {
        let state = lock(&self.state);
        let (version, cipher) = state.suite();
        Info {
            version,
            cipher,
            aead: state.provider(),
            number: state.number(),
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// `TLS_RX_EXPECT_NO_PAD` (CI-16 to CI-18): changes counters only.
    pub fn expect_no_pad(&self, on: bool) {
        self.no_pad.store(on, Ordering::Relaxed);
    }

    /// Whether `TLS_RX_EXPECT_NO_PAD` is set.
    pub fn expects_no_pad(&self) -> bool {
        self.no_pad.load(Ordering::Relaxed)
    }

    /// Keeps the program's own `SO_RCVLOWAT`, as the socket's is ours.
    pub fn set_low_water(&self, bytes: usize) {
        self.low_water.store(bytes.max(1), Ordering::Relaxed);
    }

    /// The program's own `SO_RCVLOWAT`.
    pub fn low_water(&self) -> usize {
        self.low_water.load(Ordering::Relaxed)
    }

    /// Whether a receive would return at once, exactly (RX-47 to RX-51): looks at the record at
    /// the head of the queue. One that is incomplete raises the low-water mark, so that waiting
    /// again does not find the same bytes.
    pub fn readiness(&self) -> Readiness {
        let mut state = lock(&self.state);
        let found = state.look(self.sys, self.fd(), &self.pending);
        state.settle(self.sys, self.fd());
        Readiness {
            readable: found.is_readable(state.has_opened()),
            error: self.pending.peek().is_some(),
        }
    }

    /// The descriptor that this connection reads from.
    pub fn fd(&self) -> RawFd {
        self.fd.load(Ordering::Acquire)
    }

    /// Reads go to the descriptor `fd` from now on; -1: the socket is closed, which calls that are
    /// at work are told.
    pub fn move_to(&self, fd: RawFd) {
        // Under the lock, so that nobody reads from the old number once it is free.
        let _state = lock(&self.state);
        // Release: pairs with the Acquire in `fd`.
        self.fd.store(fd, Ordering::Release);
    }

    /// Marks the direction broken for good: a panic was caught in one of its calls.
    pub fn poison(&self) {
        lock(&self.state).poison();
        self.pending.set(Errno::NOTRECOVERABLE);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        STATS.curr_rx_sw.sub(1);
    }
}

impl core::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Receiver")
            .field("fd", &self.fd())
            .finish_non_exhaustive()
    }
}
