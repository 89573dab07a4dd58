//! The state of a connection that several processes send on, and what is done under its lock.
//!
//! After `fork` everything that a sender needs lies in shared memory: keys, numbers, the open
//! record, and the sealed records that the kernel has not taken yet, in a [`Queue`]. Whoever holds
//! the lock seals and transmits, inline, in its own process; nothing is ever in flight without it.
//!
//! # When the holder dies
//!
//! The *phase* says what the holder was at. A number is spent when it is reserved; if the holder
//! died before the record was in the queue, nobody can send that record any more, so the
//! connection is broken for all. If it died around a `sendmsg`, the kernel is asked how much it
//! has, and the others go on (MT-8). Dying with only the turn is harmless.
#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

use rustix::io::Errno;

use super::queue::Queue;
use super::ready_list::Head as ListHead;
use super::transmit::By;
use super::writer::{Moved, Outcome};
use super::{Connection, Counts};
use crate::aead::{Cipher, RecordSealer, TrafficKeys};
use crate::crypto_info::{self, CryptoInfo};
use crate::engine::Buffer;
use crate::error::{Error, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::record::{RecordNumber, RecordNumbers, Version};
use crate::sync::{Mutex, lock};
use crate::sys::shared::{Held, Shared as Memory};

/// A connection's part in the shared state.
pub(super) struct Joint {
    pub memory: Memory<Head, State>,
    /// The same for the life of the connection.
    pub suite: (Version, Cipher),
    /// Made from the shared keys by this process, with their generation.
    sealer: Mutex<Option<(u64, Arc<RecordSealer>)>>,
    /// How this process has signed off: `MEMBER`, `LEFT`, `LAST`.
    pub left: AtomicU32,
}

/// What is read without the lock.
pub(super) struct Head {
    pub counts: Counts,
    /// Bits `DEAD`, `SHUT`, `FIN_DUE`, `ASLEEP`.
    pub flags: AtomicU32,
    /// The process whose sender was asleep at the fork, as long as it has the turn.
    pub reserved: AtomicU32,
    /// What the holder of the lock is at.
    phase: AtomicU32,
    /// Which of the two queues is in force.
    current: AtomicU32,
}

/// What only the holder of the lock touches.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// crypto_info with the keys; its numbers are those that the keys came with.
    keys: [u8; KEYS_MAX],
    /// Rises with every rekey.
    generation: u64,
    next: RecordNumber,
    pub max_payload: usize,
    /// Plaintext bytes in the open record, at the start of the area.
    pub open_len: usize,
    /// Records sealed since the connection began.
    pub sealed: u64,
    queues: [Queue; 2],
    /// Bytes written to the socket before the queue's first, as the kernel counts.
    written_before: Option<u64>,
}

impl State {
    pub(super) fn new(keys: &TrafficKeys, next: RecordNumber) -> State {
        let mut state = State {
            keys: [0; KEYS_MAX],
            generation: 0,
            next,
            max_payload: 0,
            open_len: 0,
            sealed: 0,
            queues: [Queue::default(); 2],
            written_before: None,
        };
        state.set_keys(keys);
        state
    }

    /// The queue at the start, before others can see it.
    pub(super) fn start_with(&mut self, queue: Queue, written: Option<u64>) {
        self.queues[0] = queue;
        self.written_before = written;
    }

    fn set_keys(&mut self, keys: &TrafficKeys) {
        let len = crypto_info::expected_len(keys.cipher);
        crypto_info::encode(keys, keys.numbers().peek(), &mut self.keys[..len]);
    }
}

impl Head {
    pub(super) fn new(counts: Counts, flags: u32, reserved: u32) -> Head {
        Head {
            counts,
            flags: AtomicU32::new(flags),
            reserved: AtomicU32::new(reserved),
            phase: AtomicU32::new(IDLE),
            current: AtomicU32::new(0),
        }
    }

    pub(super) fn is(&self, bits: u32) -> bool {
        self.flags.load(Ordering::Acquire) & bits != 0
    }
}

impl Joint {
    pub(super) fn new(memory: Memory<Head, State>, suite: (Version, Cipher)) -> Joint {
        Joint {
            memory,
            suite,
            sealer: Mutex::new(None),
            left: AtomicU32::new(MEMBER),
        }
    }
}

impl Connection {
    /// Takes the lock, and puts right what a holder that died has left.
    pub(super) fn lock_joint<'a>(self: &'a Arc<Self>, joint: &'a Joint) -> Result<Locked<'a>> {
        let held = joint.memory.lock().map_err(Error::Os)?;
        let mut locked = Locked {
            held,
            joint,
            connection: self,
        };
        locked.recover();
        Ok(locked)
    }
}

/// The lock is held.
pub(super) struct Locked<'a> {
    held: Held<'a, State>,
    joint: &'a Joint,
    connection: &'a Arc<Connection>,
}

impl Locked<'_> {
    pub(super) fn state(&mut self) -> &mut State {
        &mut self.held
    }

    fn head(&self) -> &Head {
        &self.joint.memory
    }

    pub(super) fn keys(&self) -> Result<TrafficKeys> {
        let len = crypto_info::expected_len(self.joint.suite.1);
        CryptoInfo::parse(&self.held.keys[..len])
    }

    pub(super) fn number(&self) -> RecordNumber {
        self.held.next
    }

    /// The sealer for the keys in force.
    pub(super) fn sealer(&self) -> Result<Arc<RecordSealer>> {
        let generation = self.held.generation;
        let mut cached = lock(&self.joint.sealer);
        if let Some((_, sealer)) = cached.as_ref().filter(|(made, _)| *made == generation) {
            return Ok(Arc::clone(sealer));
        }
        let choice = self.connection.settings.aead;
        let sealer = Arc::new(RecordSealer::new(&self.keys()?, choice)?);
        *cached = Some((generation, Arc::clone(&sealer)));
        Ok(sealer)
    }

    /// New keys for all processes; the sealed records keep theirs.
    pub(super) fn rekey(&mut self, keys: &TrafficKeys) -> Result<()> {
        // Known to work before anything changes.
        let sealer = RecordSealer::new(keys, self.connection.settings.aead)?;
        self.enter(CHANGING);
        self.held.generation += 1;
        self.held.set_keys(keys);
        self.held.next = keys.numbers().peek();
        self.enter(IDLE);
        *lock(&self.joint.sealer) = Some((self.held.generation, Arc::new(sealer)));
        Ok(())
    }

    fn queue(&self) -> Queue {
        let current = self.head().current.load(Ordering::Relaxed);
        self.held.queues[current as usize % 2]
    }

    /// Replaces the queue in one store.
    fn set_queue(&mut self, queue: Queue) {
        let other = (self.head().current.load(Ordering::Relaxed) + 1) % 2;
        self.held.queues[other as usize] = queue;
        // Release: whoever finds the new index after our death finds the queue as well.
        self.head().current.store(other, Ordering::Release);
        let queued = queue.len() as u64;
        self.head().counts.queued.store(queued, Ordering::Release);
    }

    fn enter(&self, phase: u32) {
        // AcqRel: what is written before stays before, what after, after, for whoever looks at it
        // when we have died.
        self.head().phase.swap(phase, Ordering::AcqRel);
    }

    /// Nothing can be said of the last holder but the phase in which it died, or panicked.
    #[cold]
    fn recover_from(&mut self, phase: u32) {
        log::warn!("connection {}: a sender died", self.connection.id);
        let overhead = self.overhead();
        if phase == SENDING {
            let queue = self.queue();
            let written = self.connection.shared.sys.written(self.connection.fd());
            let taken = written
                .zip(self.held.written_before)
                .and_then(|(now, before)| now.checked_sub(before)?.checked_sub(queue.wire))
                .and_then(|taken| usize::try_from(taken).ok())
                .filter(|taken| *taken <= queue.len());
            match taken {
                Some(taken) => {
                    let after = queue.without(&self.held.area()[OPEN_LEN..], taken, overhead);
                    self.set_queue(after);
                }
                None => self.die(Error::NotRecoverable.errno()),
            }
        } else {
            // A number is spent and its record lost, or the keys are neither old nor new.
            self.connection.refuse(Error::NotRecoverable.errno());
        }
        let queue = self.queue();
        let queued = queue.plain_len(&self.held.area()[OPEN_LEN..], overhead);
        let counts = &self.head().counts;
        let handed = counts.handed_before.load(Ordering::Relaxed) + queue.plain;
        counts.handed.store(handed, Ordering::Release);
        let records = counts.records_before.load(Ordering::Relaxed) + queue.records;
        counts.records_sent.store(records, Ordering::Relaxed);
        let accepted = handed + queued + self.held.open_len as u64;
        counts.accepted.store(accepted, Ordering::Release);
        counts.queued.store(queue.len() as u64, Ordering::Release);
        self.enter(IDLE);
    }

    fn recover(&mut self) {
        // Only ever another phase while the lock is held; so its holder is gone.
        let phase = self.head().phase.load(Ordering::Acquire);
        if phase != IDLE {
            self.recover_from(phase);
        }
        if self.head().is(DEAD) && self.queue().len() > 0 {
            self.set_queue(self.queue().cleared());
        }
    }

    fn overhead(&self) -> usize {
        let (version, cipher) = self.joint.suite;
        crate::record::Layout::new(version, cipher.nonce_form(version)).overhead()
    }

    /// Whether one more record can be sealed, with room left for the open one.
    pub(super) fn has_room(&self) -> bool {
        self.space(2 * Buffer::LEN).is_some()
    }

    fn space(&self, len: usize) -> Option<usize> {
        let size = self.held.area().len() - OPEN_LEN;
        self.queue().space(size, len)
    }

    /// Appends to the open record.
    pub(super) fn extend_open(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        let (state, area) = self.held.parts();
        fill(&mut area[state.open_len..][..len]);
        fence(Ordering::Release);
        state.open_len += len;
        self.count_accepted(len);
    }

    fn count_accepted(&self, len: usize) {
        // Release: pairs with the Acquire in `pending`.
        let accepted = &self.head().counts.accepted;
        accepted.fetch_add(len as u64, Ordering::Release);
    }

    /// Seals the open record, if there is one. `false`: there is no room for it now.
    pub(super) fn seal_open(&mut self, content_type: u8) -> Result<bool> {
        let len = self.held.open_len;
        if len == 0 {
            return Ok(true);
        }
        let Some(at) = self.space(len + self.overhead()) else {
            return Ok(false);
        };
        self.seal(at, content_type, None)?;
        Ok(true)
    }

    /// Seals `plain`, straight from the program's memory, as one record.
    pub(super) fn seal_slice(&mut self, content_type: u8, plain: &[u8]) -> Result<()> {
        let at = self.space(plain.len() + self.overhead());
        self.seal(at.ok_or(Error::WouldBlock)?, content_type, Some(plain))?;
        self.count_accepted(plain.len());
        Ok(())
    }

    /// Seals `plain`, or the open record, into the queue at `at`.
    fn seal(&mut self, at: usize, content_type: u8, plain: Option<&[u8]>) -> Result<()> {
        let connection = self.connection;
        let sealer = self.sealer()?;
        self.enter(CHANGING);
        let next = self.held.next;
        let mut numbers = RecordNumbers::new(next.rec_seq, next.nonce_explicit);
        let Some(number) = numbers.reserve() else {
            self.enter(IDLE);
            connection.refuse(Error::SealFailed.errno());
            return Err(Error::SealFailed);
        };
        self.held.next = numbers.peek();
        let queue = self.queue();
        let (state, area) = self.held.parts();
        let (open, ring) = area.split_at_mut(OPEN_LEN);
        let is_open = plain.is_none();
        let plain = plain.unwrap_or(&open[..state.open_len]);
        let len = plain.len() + sealer.overhead();
        let out = &mut ring[at..at + len];
        let sealed = connection.sealed_here(|| sealer.seal_from(number, content_type, plain, out));
        if sealed.is_ok() {
            if is_open {
                state.open_len = 0;
            }
            state.sealed += 1;
            self.set_queue(queue.with(at, len));
        }
        self.enter(IDLE);
        sealed
    }

    /// Hands the queue to the kernel as far as it takes it.
    pub(super) fn transmit(&mut self, by: By) -> Outcome {
        let connection = self.connection;
        let overhead = self.overhead();
        loop {
            if self.head().is(DEAD) {
                self.set_queue(self.queue().cleared());
                return Outcome::Failed(connection.dead_errno());
            }
            let queue = self.queue();
            if queue.len() == 0 {
                self.finish_shutdown();
                return Outcome::Drained(ListHead::Empty);
            }
            self.enter(SENDING);
            let ring = &self.held.area()[OPEN_LEN..];
            let [first, second] = queue.pieces().map(|piece| IoSlice::new(&ring[piece]));
            let (sys, fd) = (connection.shared.sys, connection.fd());
            let result = match second.is_empty() {
                true => sys.send(fd, &[first]),
                false => sys.send(fd, &[first, second]),
            };
            let outcome = match result {
                Ok(taken) => {
                    let after = queue.without(ring, taken, overhead);
                    self.set_queue(after);
                    self.account(by, &queue, &after);
                    (taken < queue.len()).then_some(Outcome::Refused)
                }
                // As in `Writer::transmit`.
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {
                    Some(Outcome::Refused)
                }
                Err(errno) => {
                    self.die(errno);
                    Some(Outcome::Failed(errno))
                }
            };
            self.enter(IDLE);
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    /// Nothing goes out any more.
    fn die(&mut self, errno: Errno) {
        self.connection.fail(errno);
        self.set_queue(self.queue().cleared());
    }

    fn account(&self, by: By, before: &Queue, after: &Queue) {
        let records = after.records - before.records;
        let moved = Moved {
            calls: 1,
            records,
            plain: after.plain - before.plain,
            wire: after.wire - before.wire,
            records_in_a_call: records,
        };
        let counts = &self.head().counts;
        counts.records_sent.fetch_add(records, Ordering::Relaxed);
        // Release: pairs with the Acquire in `pending`.
        counts.handed.fetch_add(moved.plain, Ordering::Release);
        moved.count(by);
        self.connection.moved.signal();
    }

    /// The FIN follows the last record, from whoever has sent that.
    fn finish_shutdown(&self) {
        if self.head().is(FIN_DUE) {
            self.head().flags.fetch_and(!FIN_DUE, Ordering::AcqRel);
            // Fails only if the peer was faster; then there is no write side left to shut.
            let connection = self.connection;
            let _ = connection.shared.sys.shutdown_write(connection.fd());
        }
    }

    /// The open record as application data.
    pub(super) fn seal_open_data(&mut self) -> Result<bool> {
        self.seal_open(APPLICATION_DATA)
    }
}

#[cfg(all(any(test, feature = "testing"), not(miri)))]
impl Locked<'_> {
    /// Dies around a `sendmsg` that takes `taken` bytes.
    pub(super) fn die_sending(self, taken: usize) {
        self.enter(SENDING);
        let [first, _] = self.queue().pieces();
        let first = &self.held.area()[OPEN_LEN..][first];
        let bytes = IoSlice::new(&first[..taken.min(first.len())]);
        let connection = self.connection;
        let _ = connection.shared.sys.send(connection.fd(), &[bytes]);
        core::mem::forget(self);
    }

    /// Dies with a number reserved.
    #[cfg(test)]
    pub(super) fn die_sealing(self) {
        self.enter(CHANGING);
        core::mem::forget(self);
    }
}

impl Counts {
    /// For processes that share a connection: as they stand, with `records` more that have gone out
    /// and `queued` bytes in a queue that starts anew.
    pub(super) fn handed_over(&self, records: u64, plain: u64, queued: usize) -> Counts {
        let handed = self.handed.load(Ordering::Relaxed) + plain;
        let sent = self.records_sent.load(Ordering::Relaxed) + records;
        Counts {
            error: AtomicI32::new(self.error.load(Ordering::Relaxed)),
            accepted: AtomicU64::new(self.accepted.load(Ordering::Relaxed)),
            handed: AtomicU64::new(handed),
            handed_before: AtomicU64::new(handed),
            records_sent: AtomicU64::new(sent),
            records_before: AtomicU64::new(sent),
            queued: AtomicU64::new(queued as u64),
        }
    }
}

/// Broken: nothing goes out any more; the error says why.
pub(super) const DEAD: u32 = 1;
/// The write side was shut down.
pub(super) const SHUT: u32 = 2;
/// The FIN is to be sent behind the last record.
pub(super) const FIN_DUE: u32 = 4;
/// Whoever has the turn sleeps for room.
pub(super) const ASLEEP: u32 = 8;

/// Phases: nothing is half done.
const IDLE: u32 = 0;
/// A number is reserved and its record not in the queue, or keys are being replaced.
const CHANGING: u32 = 1;
/// The kernel may have taken bytes that the queue still has.
const SENDING: u32 = 2;

pub(super) const MEMBER: u32 = 0;
pub(super) const LEFT: u32 = 1;
pub(super) const LAST: u32 = 2;

/// The longest crypto_info.
const KEYS_MAX: usize = 56;

/// Bytes of the area in front of the queue's: the open record.
pub(super) const OPEN_LEN: usize = Buffer::LEN;
