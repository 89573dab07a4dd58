//! The state of a connection that several processes send on, and what is done under its lock.
//!
//! After `fork` everything that a sender needs lies in shared memory: keys, numbers, the open
//! record, and the sealed records that the kernel has not taken yet, in a [`Queue`]. Whoever holds
//! the lock seals and transmits, inline, in its own process; nothing is ever in flight without it.
//!
//! # When the holder dies
//!
//! The state is replaced as a whole, by one store, so a holder that is killed leaves the one from
//! before or the one after (MT-8). What it was at beyond that, the next one finishes:
//!
//! - Sealing: a record is *begun* by one change that adds the call's bytes, says the content type and
//!   so gives the next number away. Until then nothing of the call is there, and nothing of it will
//!   go out, as in the kernel, where bytes that were not accepted do not; what was open before is as
//!   it was, and application data, as only that is ever left open (TX-17). From then on the plaintext
//!   is in the open record, so the same bytes are sealed again with the same number and type, to the
//!   same ciphertext. (Hence the program's bytes are copied first.) No number is ever used for two
//!   different records, nor left out.
//! - Sending, which the *phase* says: the kernel is asked how much it has taken. Where it cannot tell,
//!   for a UNIX socket, the connection is broken.
//!
//! Dying with only the turn is harmless.
#![forbid(unsafe_code)]

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;

use super::control::fingerprint;
use super::queue::Queue;
use super::ready_list::Head as ListHead;
use super::transmit::By;
use super::used_keys::UsedKeys;
use super::writer::{Moved, Outcome};
use super::{Connection, Counts};
use crate::aead::{Cipher, RecordSealer, TrafficKeys};
use crate::crypto_info::KeySlots;
use crate::engine::Buffer;
use crate::error::{Error, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::record::{RecordNumber, RecordNumbers, Version};
use crate::stats::STATS;
use crate::sync::{Mutex, lock};
use crate::sys::shared::{Held, Shared as Memory};
use crate::sys::steps::step;

/// A connection's part in the shared state.
pub(super) struct Joint {
    pub memory: Memory<Head, States>,
    /// The same for the life of the connection.
    pub suite: (Version, Cipher),
    /// Made from the shared keys by this process, with their generation.
    sealer: Mutex<Option<(u64, Arc<RecordSealer>)>>,
    /// How this process has signed off: `MEMBER`, `LEFT`, `LAST`.
    pub left: AtomicU32,
    /// Where in the stream's plaintext the last byte that this process has sent ends.
    pub own_end: AtomicU64,
}

/// What is read without the lock.
pub(super) struct Head {
    pub counts: Counts,
    /// Bits `DEAD`, `SHUT`, `FIN_DUE`, `ASLEEP`.
    pub flags: AtomicU32,
    /// The process whose sender was asleep at the fork, as long as it has the turn.
    pub reserved: AtomicU32,
    /// What the holder of the lock is at.
    pub(super) phase: AtomicU32,
    /// Which of the two states is in force.
    current: AtomicU32,
    /// Keys that were in force before those that are.
    used: UsedKeys,
    /// Bytes written to the socket before the queue's first, as the kernel counts.
    pub(super) written_before: Option<u64>,
}

/// What only the holder of the lock touches: the state in force and the next one, and their keys.
pub(super) struct States {
    states: [State; 2],
    keys: KeySlots,
}

impl States {
    /// The state to begin with, still without keys.
    pub(super) fn new(state: State) -> States {
        States {
            states: [state; 2],
            keys: KeySlots::empty(),
        }
    }

    /// Puts the keys to begin with in place.
    pub(super) fn put_first_keys(&mut self, keys: &TrafficKeys) {
        self.keys.put(self.states[0].keys, keys);
    }
}

#[derive(Clone, Copy)]
pub(super) struct State {
    /// The slot with the keys. They are not here, as states are copied.
    keys: usize,
    /// Rises with every rekey.
    generation: u64,
    next: RecordNumber,
    pub max_payload: usize,
    /// Plaintext bytes in the open record, at the start of the area.
    pub open_len: usize,
    /// The open record is begun: it is sealed with this content type and the next number, by
    /// whoever has the lock.
    pub begun: Option<u8>,
    /// Records sealed since the connection began.
    pub sealed: u64,
    pub queue: Queue,
}

impl State {
    pub(super) fn new(next: RecordNumber) -> State {
        State {
            keys: 0,
            generation: 0,
            next,
            max_payload: 0,
            open_len: 0,
            begun: None,
            sealed: 0,
            queue: Queue::default(),
        }
    }
}

impl Head {
    pub(super) fn new(
        counts: Counts,
        flags: u32,
        reserved: u32,
        used: UsedKeys,
        written: Option<u64>,
    ) -> Head {
        Head {
            counts,
            flags: AtomicU32::new(flags),
            reserved: AtomicU32::new(reserved),
            phase: AtomicU32::new(IDLE),
            current: AtomicU32::new(0),
            used,
            written_before: written,
        }
    }

    pub(super) fn is(&self, bits: u32) -> bool {
        self.flags.load(Ordering::Acquire) & bits != 0
    }
}

impl Joint {
    pub(super) fn new(memory: Memory<Head, States>, suite: (Version, Cipher)) -> Joint {
        Joint {
            memory,
            suite,
            sealer: Mutex::new(None),
            left: AtomicU32::new(MEMBER),
            own_end: AtomicU64::new(0),
        }
    }

    /// Whether the kernel has every byte that this process has sent.
    pub(super) fn own_is_out(&self) -> bool {
        // Acquire: pairs with the Release in `account`.
        let handed = self.memory.counts.handed.load(Ordering::Acquire);
        handed >= self.own_end.load(Ordering::Relaxed)
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
    pub(super) held: Held<'a, States>,
    pub(super) joint: &'a Joint,
    pub(super) connection: &'a Arc<Connection>,
}

impl Locked<'_> {
    /// The state in force.
    pub(super) fn state(&self) -> &State {
        &self.held.states[self.head().current.load(Ordering::Relaxed) as usize % 2]
    }

    /// Changes the state: the change is there as a whole or not at all.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut State)) {
        let mut next = *self.state();
        change(&mut next);
        let other = (self.head().current.load(Ordering::Relaxed) + 1) % 2;
        step();
        self.held.states[other as usize] = next;
        step();
        // AcqRel: whoever finds the new index after our death finds the state as well, and nothing
        // of the change that comes after this one, which goes where the old state is.
        self.head().current.swap(other, Ordering::AcqRel);
        step();
        let queued = next.queue.len() as u64;
        self.head().counts.queued.store(queued, Ordering::Release);
    }

    pub(super) fn head(&self) -> &Head {
        &self.joint.memory
    }

    pub(super) fn keys(&self) -> Result<TrafficKeys> {
        self.held.keys.get(self.state().keys, self.joint.suite.1)
    }

    pub(super) fn number(&self) -> RecordNumber {
        self.state().next
    }

    /// The sealer for the keys in force.
    pub(super) fn sealer(&self) -> Result<Arc<RecordSealer>> {
        let generation = self.state().generation;
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
    ///
    /// # Errors
    /// [`Error::Invalid`] for keys that were in force before those that are (design rule 1).
    pub(super) fn rekey(&mut self, keys: &TrafficKeys) -> Result<()> {
        // Known to work before anything changes.
        let sealer = RecordSealer::new(keys, self.connection.settings.aead)?;
        let (old, new) = (fingerprint(&self.keys()?), fingerprint(keys));
        if old != new {
            // If we die before the change, the old keys are in force and noted, the new ones neither.
            self.head().used.replace(old, new)?;
        }
        let (before, slot) = (self.state().keys, self.state().keys ^ 1);
        self.held.keys.put(slot, keys);
        self.change(|state| {
            state.generation += 1;
            state.keys = slot;
            state.next = keys.numbers().peek();
        });
        self.held.keys.clear(before);
        *lock(&self.joint.sealer) = Some((self.state().generation, Arc::new(sealer)));
        Ok(())
    }

    pub(super) fn enter(&self, phase: u32) {
        // AcqRel: what is written before stays before, what after, after, for whoever looks at it
        // when we have died.
        self.head().phase.swap(phase, Ordering::AcqRel);
        step();
    }

    pub(super) fn ring(&self) -> &[u8] {
        &self.held.area()[OPEN_LEN..]
    }

    pub(super) fn overhead(&self) -> usize {
        let (version, cipher) = self.joint.suite;
        crate::record::Layout::new(version, cipher.nonce_form(version)).overhead()
    }

    /// Whether one more record can be sealed, with room left for the open one.
    pub(super) fn has_room(&self) -> bool {
        self.space(2 * Buffer::LEN).is_some()
    }

    pub(super) fn space(&self, len: usize) -> Option<usize> {
        self.state().queue.space(self.ring().len(), len)
    }

    /// Appends application data to the open record, which stays open.
    pub(super) fn extend_open(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        self.add(len, fill, None);
    }

    /// Adds bytes to the open record, and begins it if a content type is said, in one change.
    fn add(&mut self, len: usize, fill: impl FnOnce(&mut [u8]), begun: Option<u8>) {
        let open = self.state().open_len;
        // Nobody looks behind the end of the open record.
        fill(&mut self.held.parts().1[open..][..len]);
        step();
        self.change(|state| {
            state.open_len += len;
            state.begun = begun;
        });
        // Release: pairs with the Acquire in `pending`.
        let accepted = &self.head().counts.accepted;
        let before = accepted.fetch_add(len as u64, Ordering::Release);
        // Relaxed: written under the lock; looked at by this process when its last call is over.
        let own_end = &self.joint.own_end;
        own_end.store(before + len as u64, Ordering::Relaxed);
        step();
    }

    /// Seals the open record with `len` bytes more, which `fill` puts there. `false`: there is no room
    /// for it now, and nothing has changed.
    pub(super) fn seal(
        &mut self,
        content_type: u8,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<bool> {
        let State { open_len, next, .. } = *self.state();
        if self.space(open_len + len + self.overhead()).is_none() {
            return Ok(false);
        }
        // The last number is never given away.
        if RecordNumbers::new(next.rec_seq, next.nonce_explicit)
            .reserve()
            .is_none()
        {
            self.connection.refuse(Error::SealFailed.errno());
            return Err(Error::SealFailed);
        }
        // Known to work before anything changes.
        self.sealer()?;
        self.add(len, fill, Some(content_type));
        self.finish_record().map(|()| true)
    }

    /// Seals the record that is begun, if one is. Where that fails the number is spent, the record is
    /// lost, and the connection takes no other.
    pub(super) fn finish_record(&mut self) -> Result<()> {
        let State { open_len, next, .. } = *self.state();
        let Some(content_type) = self.state().begun else {
            return Ok(());
        };
        let mut numbers = RecordNumbers::new(next.rec_seq, next.nonce_explicit);
        let sealed = match numbers.reserve() {
            Some(number) => self.seal_into_queue(number, content_type, open_len),
            None => Err(Error::SealFailed),
        };
        if let Err(error) = sealed {
            self.connection.refuse(error.errno());
        }
        step();
        self.end_record(sealed.ok());
        sealed.map(drop)
    }

    /// The number of the record that is begun is spent, whether it has got into the queue, at a place
    /// and of a length, or not.
    pub(super) fn end_record(&mut self, sealed: Option<(usize, usize)>) {
        self.change(|state| {
            let mut numbers = RecordNumbers::new(state.next.rec_seq, state.next.nonce_explicit);
            // There was one when the record was begun.
            let _ = numbers.reserve();
            state.next = numbers.peek();
            state.open_len = 0;
            state.begun = None;
            if let Some((at, len)) = sealed {
                state.sealed += 1;
                state.queue = state.queue.with(at, len);
            }
        });
    }

    /// Seals the bytes of the open record behind the queue; returns where, and the length.
    fn seal_into_queue(
        &mut self,
        number: RecordNumber,
        content_type: u8,
        open_len: usize,
    ) -> Result<(usize, usize)> {
        let connection = self.connection;
        let sealer = self.sealer()?;
        let len = open_len + sealer.overhead();
        // There was room when the record was begun.
        let at = self.space(len).ok_or(Error::NotRecoverable)?;
        #[cfg(feature = "fault-injection")]
        let key = fingerprint(&self.keys()?);
        let (open, ring) = self.held.parts().1.split_at_mut(OPEN_LEN);
        let (plain, out) = (&open[..open_len], &mut ring[at..at + len]);
        STATS.sealed_inline.add(1);
        #[cfg(feature = "fault-injection")]
        crate::sys::steps::sealing(key, number.rec_seq, content_type, plain);
        connection.sealed_here(|| sealer.seal_from(number, content_type, plain, out))?;
        Ok((at, len))
    }

    /// Hands the queue to the kernel as far as it takes it.
    pub(super) fn transmit(&mut self, by: By) -> Outcome {
        let connection = self.connection;
        let overhead = self.overhead();
        loop {
            if self.head().is(DEAD) {
                self.clear();
                return Outcome::Failed(connection.dead_errno());
            }
            let queue = self.state().queue;
            if queue.len() == 0 {
                // Fails only if the peer was faster; then there is no write side left to shut.
                let _ = self.finish_shutdown();
                return Outcome::Drained(ListHead::Empty);
            }
            self.enter(SENDING);
            let ring = self.ring();
            let [first, second] = queue.pieces().map(|piece| IoSlice::new(&ring[piece]));
            let (sys, fd) = (connection.shared.sys, connection.fd());
            let result = match second.is_empty() {
                true => sys.send(fd, &[first]),
                false => sys.send(fd, &[first, second]),
            };
            let outcome = match result {
                Ok(taken) => {
                    let after = queue.without(ring, taken, overhead);
                    self.change(|state| state.queue = after);
                    self.account(by, &queue, &after);
                    (taken < queue.len()).then_some(Outcome::Refused)
                }
                // As in `Writer::transmit`.
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS | Errno::NOMEM) => {
                    Some(Outcome::Refused)
                }
                // The number is this process's own: that it was closed here, perhaps a moment ago by
                // another thread, says nothing of the others'.
                Err(Errno::BADF) => Some(Outcome::Failed(Errno::BADF)),
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
    pub(super) fn die(&mut self, errno: Errno) {
        self.connection.fail(errno);
        self.clear();
    }

    pub(super) fn clear(&mut self) {
        self.change(|state| state.queue = state.queue.cleared());
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
        step();
        // Release: pairs with the Acquire in `pending`.
        counts.handed.fetch_add(moved.plain, Ordering::Release);
        moved.count(by);
        self.connection.moved.signal();
    }

    /// The FIN follows the last record, from whoever has sent that.
    pub(super) fn finish_shutdown(&self) -> core::result::Result<(), Errno> {
        if !self.head().is(FIN_DUE) {
            return Ok(());
        }
        let connection = self.connection;
        let shut = connection.shared.sys.shutdown_write(connection.fd());
        // Done first: whoever finds it due after our death does it again, which changes nothing. The
        // number is this process's own: that it was closed here says nothing of the others'.
        if shut != Err(Errno::BADF) {
            self.head().flags.fetch_and(!FIN_DUE, Ordering::AcqRel);
            step();
        }
        shut
    }

    /// Seals the open record, if there is one: it is application data. `false`: there is no room for
    /// it now.
    pub(super) fn seal_open_data(&mut self) -> Result<bool> {
        match self.state().open_len {
            0 => Ok(true),
            _ => self.seal(APPLICATION_DATA, 0, |_| {}),
        }
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
pub(super) const IDLE: u32 = 0;
/// The kernel may have taken bytes that the queue still has.
pub(super) const SENDING: u32 = 1;

pub(super) const MEMBER: u32 = 0;
pub(super) const LEFT: u32 = 1;
pub(super) const LAST: u32 = 2;

/// Bytes of the area in front of the queue's: the open record.
pub(super) const OPEN_LEN: usize = Buffer::LEN;
