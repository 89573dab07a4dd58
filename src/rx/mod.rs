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
//! | `turn` | the receiving calls as wholes: bytes of one call are contiguous (MT-4, MT-5) | one call, and its sleeps once it has something |
//! | `state` | keys, numbers, opened records, window, low-water mark | system calls that do not sleep |
//!
//! Neither is ever taken together with a lock of the transmit direction.
//!
//! What threads share without a lock are single values on which no other memory depends, so there
//! is no order for a loom model to explore: `pending`, of which a swap gives each error to one
//! taker; `fd`, which changes under `state` and is read without it only by a sleep, bounded for
//! that reason; and the figures and options that are `Relaxed`.
#![forbid(unsafe_code)]

#[cfg(all(test, not(loom)))]
mod edge_tests;
mod receive;
mod records;
mod shared;
mod splice;
mod waiting;
pub(crate) mod window;

#[cfg(all(test, not(loom), not(miri)))]
mod shared_tests;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
pub(crate) mod testing;
#[cfg(all(test, not(loom)))]
mod tests;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use crate::aead::{Choice, Cipher, Provider, TrafficKeys};
use crate::error::{PendingError, Result};
use crate::record::{RecordNumber, Version};
use crate::stats::{Current, Gauge, STATS};
use crate::sync::turn::TurnLock;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::sys::receive::{Ready, Receive};

use records::{Ending, Found, Io, Records};
use shared::{Joint, Suite};

pub use receive::{Received, Request};

/// One connection's receive direction.
pub struct Receiver {
    sys: &'static dyn Receive,
    fd: AtomicI32,
    turn: TurnLock,
    /// How often it was taken.
    turns: AtomicU32,
    /// A call of this process was sent away with EAGAIN because another thread had the turn.
    sent_away: AtomicBool,
    state: Mutex<Records>,
    /// The error that the next call on the socket reports, whichever direction it is for.
    pending: Arc<PendingError>,
    /// The program's own `SO_RCVLOWAT`.
    low_water: AtomicUsize,
    /// Its own `SO_PEEK_OFF`.
    peek_offset: AtomicI32,
    /// `TLS_RX_EXPECT_NO_PAD`.
    no_pad: AtomicBool,
    choice: Choice,
    /// Version and cipher, which never change.
    suite: Suite,
    /// What processes share, from the first fork on.
    joint: OnceLock<Box<Joint>>,
    records: AtomicU64,
    bytes: AtomicU64,
    _counted: Current,
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
    /// The rest, named as the process's counters are.
    pub tally: Tally,
}

/// Counters of one direction, named as those of the process are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// `TlsDecryptError`.
    pub decrypt_error: u64,
    /// `TlsDecryptRetry`.
    pub decrypt_retry: u64,
    /// `TlsRxNoPadViolation`.
    pub rx_no_pad_violation: u64,
    /// `TlsRxRekeyOk`.
    pub rx_rekey_ok: u64,
    /// `TlsRxRekeyError`.
    pub rx_rekey_error: u64,
    /// `TlsRxRekeyReceived`.
    pub rx_rekey_received: u64,
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
    /// Takes `keys` for the socket `fd`, whose unread bytes are records from now on (ATT-19), and
    /// whose `SO_RCVLOWAT` was `low_water`.
    ///
    /// # Errors
    /// [`Error::CipherMissing`](crate::error::Error::CipherMissing) if no AEAD implementation has the cipher.
    pub fn new(
        sys: &'static dyn Receive,
        fd: RawFd,
        keys: TrafficKeys,
        choice: Choice,
        pending: Arc<PendingError>,
        low_water: usize,
    ) -> Result<Arc<Receiver>> {
        let receiver = Self::assemble(sys, fd, keys, choice, pending, low_water)?;
        STATS.rx_sw.add(1);
        let mut entered = receiver.enter()?;
        // CI-9: a bad header that is there already is an error from now on.
        entered.look();
        entered.settle(Ending::Untold);
        drop(entered);
        Ok(receiver)
    }

    /// The same for a child that has the connection from its parent.
    fn inherit(&self, keys: TrafficKeys, pending: Arc<PendingError>) -> Result<Arc<Receiver>> {
        let (fd, low_water) = (self.fd(), self.low_water());
        let child = Self::assemble(self.sys, fd, keys, self.choice, pending, low_water)?;
        child.expect_no_pad(self.expects_no_pad());
        child.set_peek_offset(self.peek_offset());
        Ok(child)
    }

    fn assemble(
        sys: &'static dyn Receive,
        fd: RawFd,
        keys: TrafficKeys,
        choice: Choice,
        pending: Arc<PendingError>,
        low_water: usize,
    ) -> Result<Arc<Receiver>> {
        let suite = (keys.version, keys.cipher);
        let records = Records::new(keys, choice)?;
        Ok(Arc::new(Receiver {
            sys,
            fd: AtomicI32::new(fd),
            turn: TurnLock::default(),
            turns: AtomicU32::new(0),
            sent_away: AtomicBool::new(false),
            state: Mutex::new(records),
            pending,
            low_water: AtomicUsize::new(low_water.max(1)),
            peek_offset: AtomicI32::new(-1),
            no_pad: AtomicBool::new(false),
            choice,
            suite,
            joint: OnceLock::new(),
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            _counted: Current::new(Gauge::Receiving),
        }))
    }

    /// The state of this process, brought up to what others have done.
    fn enter(&self) -> Result<Entered<'_>> {
        let mut records = lock(&self.state);
        let fd = self.fd();
        let mut session = None;
        if let Some(joint) = self.joint.get() {
            let mut entered = joint.enter(self.sys, fd)?;
            entered.catch_up(&mut records)?;
            session = Some(entered);
        }
        let io = Io {
            sys: self.sys,
            fd,
            pending: &self.pending,
            session,
        };
        Ok(Entered { io, records })
    }

    /// Replaces the keys (RK-1, RK-6 to RK-11). TLS 1.3 only.
    ///
    /// # Errors
    /// [`Error::KeysPresent`](crate::error::Error::KeysPresent) for TLS 1.2 (CI-3); [`Error::Invalid`](crate::error::Error::Invalid) if version or cipher differ.
    /// On failure the old keys, and a pause for new ones, stay in force.
    pub fn rekey(&self, keys: impl FnOnce() -> Result<TrafficKeys>) -> Result<()> {
        // Not the turn: a reader may sleep with it.
        let mut entered = self.enter()?;
        let Entered { io, records } = &mut entered;
        let result = records.rekey(io, keys, self.choice);
        match result {
            Ok(()) => {
                STATS.rx_rekey_ok.add(1);
                records.tally.rx_rekey_ok += 1;
                // Lowers the mark again, which wakes whoever waits for what has come meanwhile.
                entered.look();
                entered.settle(Ending::Untold);
            }
            Err(_) => {
                STATS.rx_rekey_error.add(1);
                records.tally.rx_rekey_error += 1;
            }
        }
        result
    }

    /// Version and cipher of the keys.
    pub fn suite(&self) -> (Version, Cipher) {
        self.suite
    }

    /// Writes the full crypto_info struct, with the number of the next record, for `getsockopt`
    /// (CI-12 to CI-14). `out` has the struct's exact length.
    ///
    /// # Errors
    /// [`Error::NotRecoverable`](crate::error::Error::NotRecoverable) if another process has left the connection in pieces.
    pub fn crypto_info(&self, out: &mut [u8]) -> Result<()> {
        self.enter()?.records.crypto_info(out);
        Ok(())
    }

    /// The figures of this direction.
    ///
    /// # Errors
    /// As for [`Receiver::crypto_info`].
    pub fn info(&self) -> Result<Info> {
        let entered = self.enter()?;
        let (version, cipher) = self.suite;
        Ok(Info {
            version,
            cipher,
            aead: entered.records.provider(),
            number: entered.records.number(),
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            tally: entered.records.tally,
        })
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

    /// Keeps the program's own `SO_PEEK_OFF`, which a kernel's receive does not look at where there are keys: with the
    /// socket's the peeks of this library would not begin at the head of the queue.
    pub fn set_peek_offset(&self, offset: i32) {
        self.peek_offset.store(offset, Ordering::Relaxed);
    }

    /// The program's own `SO_PEEK_OFF`.
    pub fn peek_offset(&self) -> i32 {
        self.peek_offset.load(Ordering::Relaxed)
    }

    /// Whether a receive would return at once, exactly (RX-47 to RX-51): looks at the record at
    /// the head of the queue. One that is incomplete raises the low-water mark, so that waiting
    /// again does not find the same bytes.
    pub fn readiness(&self) -> Readiness {
        let Ok(mut entered) = self.enter() else {
            // The call that follows says why.
            return Readiness {
                readable: true,
                error: true,
            };
        };
        let found = entered.look();
        let mut readable = found.is_readable(entered.records.has_opened());
        if matches!(found, Found::Stopped(_)) && self.pending.peek().is_none() {
            // SO_ERROR has told of it.
            entered.records.tell_stop();
        }
        // RX-6: takes out what is above the mark, as far as it goes.
        let seen = entered.settle(Ending::Full);
        if !readable && let Some(ready) = seen.or_else(|| self.ready_now().ok()) {
            if let Some(errno) = ready.error {
                self.pending.set(errno);
            }
            // RX-47, RX-50: the end is readable, whatever stands in front of it.
            readable = ready.ended;
        }
        Readiness {
            readable,
            error: self.pending.peek().is_some(),
        }
    }

    /// Whether there is something to be delivered of which the socket holds nothing any more, so
    /// that the kernel does not know of it.
    pub fn holds_data(&self) -> bool {
        lock(&self.state).holds_data()
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

/// The state is held, in one call.
struct Entered<'a> {
    io: Io<'a>,
    records: MutexGuard<'a, Records>,
}

impl Entered<'_> {
    fn look(&mut self) -> Found {
        self.records.look(&mut self.io)
    }

    fn settle(&mut self, ending: Ending) -> Option<Ready> {
        self.records.settle(&mut self.io, ending)
    }
}

impl core::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Receiver")
            .field("fd", &self.fd())
            .finish_non_exhaustive()
    }
}
