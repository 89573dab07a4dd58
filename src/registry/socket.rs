//! One socket's TLS state: both directions, the options, the pending error. The kernel's ULP
//! context.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::numbers::OfSocket;
use crate::aead::{Cipher, TrafficKeys};
use crate::error::{Error, PendingError, Result};
use crate::record::{MAX_PLAINTEXT, Version};
use crate::rx::Receiver;
use crate::sys::identity::Identity;
use crate::sys::{marks, net, receive};
use crate::tx::{Connection, Settings, Shared};

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `TLS_TX`.
    Tx,
    /// `TLS_RX`.
    Rx,
}

/// The TLS state of a socket. Without keys in a direction, that direction is plain.
pub struct Socket {
    epoch: u64,
    identity: Identity,
    tx: OnceLock<Arc<Connection>>,
    rx: OnceLock<Arc<Receiver>>,
    /// Held while keys are set.
    setup: Mutex<()>,
    pending: Arc<PendingError>,
    /// `TLS_TX_ZEROCOPY_RO`.
    zerocopy: AtomicBool,
    /// `TLS_TX_MAX_PAYLOAD_LEN`, for TX keys that come later.
    max_payload: AtomicU16,
    /// `TCP_ULP` was set: TLS stays attached without keys, too.
    ulp: AtomicBool,
    /// The process has forked while the socket had no keys for sending. If one side sets them, the other could too.
    forked: AtomicBool,
}

impl OfSocket for Socket {
    fn identity(&self) -> Identity {
        self.identity
    }

    fn marks(&self) -> u8 {
        match self.tx.get() {
            Some(_) => marks::TLS | marks::TX,
            None => marks::TLS,
        }
    }

    fn has_keys(&self) -> bool {
        self.tx.get().is_some() || self.rx.get().is_some()
    }
}

impl Socket {
    /// The state of a socket without keys, in the process of this `epoch`.
    pub(super) fn new(epoch: u64, identity: Identity) -> Socket {
        Socket {
            epoch,
            identity,
            tx: OnceLock::new(),
            rx: OnceLock::new(),
            setup: Mutex::new(()),
            pending: Arc::default(),
            zerocopy: AtomicBool::new(false),
            max_payload: AtomicU16::new(MAX_PLAINTEXT as u16),
            ulp: AtomicBool::new(false),
            forked: AtomicBool::new(false),
        }
    }

    /// `TCP_ULP` has been set; says whether it had been before.
    pub(super) fn set_ulp(&self) -> bool {
        self.ulp.swap(true, Ordering::AcqRel)
    }

    /// Whether nothing of it would be missed: an attempt to set keys has failed, and nobody else has made any.
    pub(super) fn is_bare(&self) -> bool {
        !self.has_keys() && !self.ulp.load(Ordering::Acquire)
    }

    /// Whether it belongs to the process of this epoch.
    pub(super) fn is_of(&self, epoch: u64) -> bool {
        self.epoch == epoch
    }

    /// The sending direction, if it has keys.
    pub fn tx(&self) -> Option<&Arc<Connection>> {
        self.tx.get()
    }

    /// The receiving direction, if it has keys.
    pub fn rx(&self) -> Option<&Arc<Receiver>> {
        self.rx.get()
    }

    /// [`Socket::rx`], for a call that is about to receive.
    pub fn receiving(&self) -> Option<&Arc<Receiver>> {
        if let Some(connection) = self.tx() {
            connection.heard();
        }
        self.rx()
    }

    /// Version and cipher of either direction's keys; both have the same (CI-4).
    pub fn suite(&self) -> Option<(Version, Cipher)> {
        let tx = self.tx().map(|connection| connection.suite());
        tx.or_else(|| self.rx().map(|receiver| receiver.suite()))
    }

    /// Sets the keys of a direction, or sets them again (CI-1, CI-3, RK-1).
    pub(super) fn set_keys(
        &self,
        fd: RawFd,
        direction: Direction,
        keys: impl FnOnce() -> Result<TrafficKeys>,
    ) -> Result<()> {
        let _setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        let other = match direction {
            Direction::Tx => self.rx().map(|receiver| receiver.suite()),
            Direction::Rx => self.tx().map(|connection| connection.suite()),
        };
        // CI-1 (f): both directions have one version and one cipher.
        let keys = || {
            let keys = keys()?;
            match other {
                Some(other) if other != (keys.version, keys.cipher) => Err(Error::Invalid),
                _ => Ok(keys),
            }
        };
        match (direction, self.tx(), self.rx()) {
            (Direction::Tx, Some(connection), _) => connection.rekey(keys),
            (Direction::Rx, _, Some(receiver)) => receiver.rekey(keys),
            // Where processes have the receiving side in common, each could set keys for the other.
            (Direction::Tx, None, Some(_)) if self.forked.load(Ordering::Acquire) => {
                Err(Error::KeysPresent)
            }
            (Direction::Tx, None, _) => self.start_sending(fd, keys()?),
            (Direction::Rx, _, None) => self.start_receiving(fd, keys()?),
        }
    }

    fn start_sending(&self, fd: RawFd, keys: TrafficKeys) -> Result<()> {
        let process = super::process()?;
        let config = super::config();
        let settings = Settings {
            engine: config.engine,
            aead: config.aead,
            queue_max: config.tx_queue,
            cores: process.cores,
        };
        let shared = process.shared.clone();
        let pending = Arc::clone(&self.pending);
        let connection = Connection::new(shared, settings, fd, keys, pending)?;
        connection.set_max_payload(self.max_payload.load(Ordering::Relaxed).into())?;
        let first = self.tx.set(connection).is_ok();
        debug_assert!(first, "`setup` is held");
        Ok(())
    }

    fn start_receiving(&self, fd: RawFd, keys: TrafficKeys) -> Result<()> {
        let (sys, choice) = (receive::Linux::of(fd), super::config().aead);
        let low_water = net::low_water(fd);
        let peek_offset = net::peek_from_head(fd);
        let pending = Arc::clone(&self.pending);
        let receiver = Receiver::new(sys, fd, keys, choice, pending, low_water)
            .inspect_err(|_| net::peek_from(fd, peek_offset))?;
        receiver.set_peek_offset(peek_offset);
        let first = self.rx.set(receiver).is_ok();
        debug_assert!(first, "`setup` is held");
        Ok(())
    }

    /// `TLS_TX_ZEROCOPY_RO`: kept and answered, of no effect without a NIC that seals (CI-15).
    pub fn set_zerocopy(&self, on: bool) {
        self.zerocopy.store(on, Ordering::Relaxed);
    }

    /// Whether `TLS_TX_ZEROCOPY_RO` is set.
    pub fn zerocopy(&self) -> bool {
        self.zerocopy.load(Ordering::Relaxed)
    }

    /// The most plaintext bytes in a record (CI-20).
    pub fn max_payload(&self) -> Result<usize> {
        match self.tx() {
            Some(connection) => Ok(connection.info()?.max_payload.into()),
            None => Ok(self.max_payload.load(Ordering::Relaxed).into()),
        }
    }

    /// Sets the most plaintext bytes in a record (CI-19).
    ///
    /// # Errors
    /// [`Error::KeysPresent`] (EBUSY) while a record is open, before `len` is asked for;
    /// [`Error::Invalid`] if it is out of range.
    pub fn set_max_payload(&self, len: impl FnOnce() -> Result<u16>) -> Result<()> {
        let _setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = self.tx() {
            // Without effect but for the check that comes first.
            connection.set_max_payload(connection.info()?.max_payload.into())?;
        }
        let len = len()?;
        let is_tls13 = self
            .suite()
            .is_some_and(|(version, _)| version == Version::Tls13);
        let least = if is_tls13 { 63 } else { 64 };
        if !(least..=MAX_PLAINTEXT as u16).contains(&len) {
            return Err(Error::Invalid);
        }
        if let Some(connection) = self.tx() {
            connection.set_max_payload(len.into())?;
        }
        self.max_payload.store(len, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the error that is pending, as `SO_ERROR` does (TX-34, RX-20).
    pub fn take_error(&self) -> Option<rustix::io::Errno> {
        if let Some(receiver) = self.rx()
            && !self.has_error()
        {
            // RX-4: a bad header that nobody has looked at yet is an error already.
            receiver.readiness();
        }
        match self.tx() {
            Some(connection) => connection.take_error(),
            None => self.pending.take(),
        }
    }

    /// Whether an error is pending (`POLLERR`, TX-53, RX-51).
    pub fn has_error(&self) -> bool {
        self.pending.peek().is_some()
    }

    /// A panic was caught in a call on this socket: nothing that may be half done goes on.
    pub fn poison(&self) {
        if let Some(connection) = self.tx() {
            connection.poison();
        }
        if let Some(receiver) = self.rx() {
            receiver.poison();
        }
    }

    /// Reads and writes go to the descriptor `fd` from now on: the one before is about to be closed.
    pub(super) fn move_to(&self, fd: RawFd) {
        if let Some(connection) = self.tx() {
            connection.move_to(fd);
        }
        if let Some(receiver) = self.rx() {
            receiver.move_to(fd);
        }
    }

    /// The process is about to fork: both directions move to memory that the child will share.
    pub(super) fn before_fork(&self) {
        if self.tx().is_none() {
            self.forked.store(true, Ordering::Release);
        }
        let result = self
            .tx()
            .map_or(Ok(()), |connection| connection.before_fork());
        let result = result.and(self.rx().map_or(Ok(()), |receiver| receiver.before_fork()));
        if let Err(error) = result {
            log::warn!("{self:?}: a forked child will be refused: {error}");
        }
    }

    /// There is no child after all.
    pub(super) fn fork_failed(&self) {
        if let Some(connection) = self.tx() {
            connection.fork_failed();
        }
        if let Some(receiver) = self.rx() {
            receiver.fork_failed();
        }
    }

    /// In the child: a state of its own on what was shared; `None` if a direction was not. `self` is
    /// the parent's, whose locks may be held by threads that are not here; the caller leaks it.
    pub(super) fn in_child(&self, shared: Arc<Shared>, epoch: u64) -> Option<Socket> {
        let child = Socket {
            zerocopy: AtomicBool::new(self.zerocopy()),
            max_payload: AtomicU16::new(self.max_payload.load(Ordering::Relaxed)),
            ulp: AtomicBool::new(self.ulp.load(Ordering::Relaxed)),
            forked: AtomicBool::new(self.forked.load(Ordering::Relaxed)),
            ..Socket::new(epoch, self.identity)
        };
        if let Some(receiver) = self.rx() {
            let receiver = receiver.in_child(Arc::clone(&child.pending))?;
            let _ = child.rx.set(receiver);
        }
        if let Some(connection) = self.tx() {
            let connection = connection.in_child(shared, Arc::clone(&child.pending))?;
            let _ = child.tx.set(connection);
        }
        Some(child)
    }
}

impl core::fmt::Debug for Socket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Socket")
            .field("tx", &self.tx())
            .field("rx", &self.rx())
            .finish_non_exhaustive()
    }
}
