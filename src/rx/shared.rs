//! The state of a connection that several processes receive on.
//!
//! As the ciphertext stays in the socket until it is delivered, processes need to agree on little:
//! the keys, the number of the first record that is not completely delivered, how much of it is, and
//! the bytes of it that are out of the socket because they do not fit. A process keeps what it has
//! peeked and opened for itself, and forgets it when it finds that another has moved on.
//!
//! # When the holder of the lock dies
//!
//! The state is replaced as a whole, by one store, so it is the one from before or the one after
//! (MT-8). Only dropping bytes from the socket and the store that goes with it are two steps: the
//! next holder asks the kernel how many bytes have been read, and so learns which of the two it is.
//! What the socket's low-water mark is, is not known then, and it is set anew.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::Receiver;
use super::records::{Records, Snapshot};
use super::waiting::{POLL, Patience};
use super::window::Window;
use crate::aead::{Cipher, TrafficKeys};
use crate::crypto_info::KeySlots;
use crate::error::{Error, PendingError, Result};
use crate::record::{MAX_PLAINTEXT, Version};
use crate::sync::try_lock;
use crate::sys::receive::Receive;
use crate::sys::robust::RobustGuard;
use crate::sys::shared::{Held, Shared as Memory};
use crate::sys::steps::step;

/// This process's part in the shared state.
pub(super) struct Joint {
    memory: Memory<Head, States>,
    /// The version that this process's records reflect.
    seen: AtomicU64,
}

/// What is read without the lock.
pub(super) struct Head {
    /// The socket's pending error.
    pending: AtomicI32,
    /// Which of the two states is in force.
    current: AtomicU32,
    /// The holder of the lock is at dropping bytes from the socket.
    dropping: AtomicU32,
    /// A call was sent away with EAGAIN because another process had the turn.
    sent_away: AtomicU32,
}

/// What only the holder of the lock touches: the state in force and the next one, and their keys.
struct States {
    states: [State; 2],
    keys: KeySlots,
}

#[derive(Clone, Copy)]
struct State {
    /// Rises when a process moves on.
    version: u64,
    /// The slot with the keys. They are not here, as states are copied.
    keys: usize,
    place: Snapshot,
    /// Bytes read from the socket, as the kernel counts, where it does.
    consumed: Option<u64>,
}

impl States {
    /// The keys of the `current` state.
    fn keys(&self, current: usize, cipher: Cipher) -> Result<TrafficKeys> {
        let slot = self.states[current].keys;
        let keys = self.keys.get(slot, cipher);
        keys.map_err(|_| Error::NotRecoverable)
    }
}

impl Joint {
    /// Takes the state, and puts right what a killed holder has left.
    pub(super) fn enter(&self, sys: &dyn Receive, fd: RawFd) -> Result<Session<'_>> {
        let held = self.memory.lock().map_err(Error::Os)?;
        let mut session = Session { joint: self, held };
        // A panic leaves a step unfinished as well, and is no death.
        if session.held.owner_died() || self.memory.dropping.load(Ordering::SeqCst) != 0 {
            session.recover(sys, fd);
        }
        Ok(session)
    }

    /// The turn of whole calls, also between processes (MT-4, MT-5).
    pub(super) fn take_turn(&self, patience: &mut Patience<'_>) -> Result<RobustGuard<'_>> {
        let turn = self.memory.turn();
        loop {
            if let Some(guard) = turn.try_lock().map_err(Error::Os)? {
                return Ok(guard);
            }
            match (patience.sleeps(), patience.left()) {
                (false, _) | (_, Some(Duration::ZERO)) => {
                    self.memory.sent_away.store(1, Ordering::Relaxed);
                    // Pairs with the fence in `Turn::drop`, of whichever process.
                    fence(Ordering::SeqCst);
                    return turn.try_lock().map_err(Error::Os)?.ok_or(Error::WouldBlock);
                }
                (true, None) => return turn.lock().map_err(Error::Os),
                (true, Some(left)) => std::thread::sleep(left.min(POLL)),
            }
        }
    }
}

impl Joint {
    /// Whether a call was sent away, and nobody has seen to it yet.
    pub(super) fn take_sent_away(&self) -> bool {
        let word = &self.memory.sent_away;
        word.load(Ordering::Relaxed) != 0 && word.swap(0, Ordering::Relaxed) != 0
    }
}

/// The lock is held, in one call.
pub(super) struct Session<'a> {
    joint: &'a Joint,
    held: Held<'a, States>,
}

impl Session<'_> {
    fn current(&self) -> usize {
        // Acquire: pairs with the Release in `replace`.
        self.joint.memory.current.load(Ordering::Acquire) as usize & 1
    }

    fn state(&self) -> &State {
        &self.held.states[self.current()]
    }

    /// Puts the next state in force.
    fn replace(&mut self) {
        // AcqRel: the state is complete in memory before it is the one in force, and the other one is
        // not written to before it is not; a holder that is killed here leaves one or the other.
        let next = self.current() as u32 ^ 1;
        step();
        self.joint.memory.current.swap(next, Ordering::AcqRel);
        step();
    }

    /// Prepares the next state; returns it for changes.
    fn stage(&mut self, place: Snapshot) -> &mut State {
        let (state, next) = (*self.state(), self.current() ^ 1);
        let moved = !place.is_at(&state.place);
        step();
        self.held.states[next] = State {
            version: state.version + u64::from(moved),
            place,
            ..state
        };
        &mut self.held.states[next]
    }

    /// Brings this process's records up to what others have done.
    pub(super) fn catch_up(&mut self, records: &mut Records) -> Result<()> {
        let state = *self.state();
        if state.version != self.joint.seen.load(Ordering::Relaxed) {
            let keys = self.held.keys(self.current(), records.suite().1)?;
            records.restore(keys, &state.place, self.held.area())?;
            self.joint.seen.store(state.version, Ordering::Relaxed);
        }
        records.set_mark(state.place.mark);
        Ok(())
    }

    /// Tells the others where this process's records stand.
    pub(super) fn publish(&mut self, place: Snapshot) {
        if place == self.state().place {
            return;
        }
        self.stage(place);
        self.replace();
        self.joint
            .seen
            .store(self.state().version, Ordering::Relaxed);
    }

    /// Drops what is done with from the socket, together with telling the others.
    pub(super) fn drop_stale(
        &mut self,
        place: Snapshot,
        window: &mut Window,
        sys: &dyn Receive,
        fd: RawFd,
    ) -> core::result::Result<(), Errno> {
        let dropped = window.stale() as u64;
        if dropped == 0 {
            self.publish(place);
            return Ok(());
        }
        self.step(place, dropped, |_| window.drop_stale(sys, fd))
    }

    /// Takes bytes out of the socket and into shared memory, and copies them to `out`.
    pub(super) fn take(
        &mut self,
        place: Snapshot,
        sys: &dyn Receive,
        fd: RawFd,
        out: &mut [u8],
    ) -> Result<usize> {
        let at = place.taken_len;
        let after = Snapshot {
            taken_len: at + out.len(),
            ..place
        };
        self.step(after, out.len() as u64, |area| {
            // All of it is there: it was peeked under this lock.
            match sys.take(fd, &mut area[at..at + out.len()])? {
                taken if taken == out.len() => Ok(()),
                _ => Err(Errno::IO),
            }
        })?;
        out.copy_from_slice(&self.held.area()[at..at + out.len()]);
        Ok(out.len())
    }

    /// Reads `len` bytes from the socket by `read`, and is at `place` then.
    fn step(
        &mut self,
        place: Snapshot,
        len: u64,
        read: impl FnOnce(&mut [u8]) -> core::result::Result<(), Errno>,
    ) -> core::result::Result<(), Errno> {
        let next = self.stage(place);
        next.consumed = next.consumed.map(|consumed| consumed + len);
        // SeqCst on both: the kernel's work stands between them.
        self.joint.memory.dropping.store(1, Ordering::SeqCst);
        step();
        let result = read(self.held.parts().1);
        if result.is_ok() {
            self.replace();
            self.joint
                .seen
                .store(self.state().version, Ordering::Relaxed);
        }
        self.joint.memory.dropping.store(0, Ordering::SeqCst);
        step();
        result
    }

    /// New keys, in force for all processes.
    pub(super) fn rekeyed(&mut self, keys: &TrafficKeys, place: Snapshot) {
        let (before, slot) = (self.state().keys, self.state().keys ^ 1);
        self.held.keys.put(slot, keys);
        let next = self.stage(place);
        next.keys = slot;
        // Others have opened with the old ones.
        next.version += 1;
        self.replace();
        self.held.keys.clear(before);
        self.joint
            .seen
            .store(self.state().version, Ordering::Relaxed);
    }

    /// The holder before was killed. So may we be: all of this can be done again.
    fn recover(&mut self, sys: &dyn Receive, fd: RawFd) {
        let (before, after) = (*self.state(), self.held.states[self.current() ^ 1]);
        let mut place = before.place;
        if self.joint.memory.dropping.load(Ordering::SeqCst) != 0 {
            match sys.consumed(fd) {
                Some(now) if Some(now) == after.consumed => {
                    self.replace();
                    place = after.place;
                }
                Some(now) if Some(now) == before.consumed => {}
                // Where the stream stands is not known: nothing is read any more.
                _ => place = place.stopped_by(Errno::NOTRECOVERABLE),
            }
        }
        // It may have set the mark and not told; the next look sets another than this.
        place.mark = UNKNOWN_MARK;
        self.stage(place);
        self.replace();
        self.joint.memory.dropping.store(0, Ordering::SeqCst);
        step();
    }
}

/// The pending error, in shared memory.
struct SharedError(Memory<Head, States>);

impl AsRef<AtomicI32> for SharedError {
    fn as_ref(&self) -> &AtomicI32 {
        &self.0.pending
    }
}

impl Receiver {
    /// The process is about to fork: moves what processes have to agree on to shared memory, if it is
    /// not there yet, and counts the child in.
    ///
    /// # Errors
    /// The child will not have the connection; it goes on as it was in this process.
    pub fn before_fork(&self) -> Result<()> {
        if self.joint.get().is_none() {
            self.share()?;
        }
        if let Some(joint) = self.joint.get() {
            joint.memory.before_fork();
        }
        Ok(())
    }

    /// There is no child after all.
    pub fn fork_failed(&self) {
        if let Some(joint) = self.joint.get() {
            joint.memory.fork_failed();
        }
    }

    /// In the child: a direction of its own on the same shared state. `self` is the parent's, whose
    /// locks may be held by threads that are not here; the caller leaks it.
    #[must_use]
    pub fn in_child(&self, pending: Arc<PendingError>) -> Option<Arc<Receiver>> {
        let memory = self.joint.get()?.memory.in_child();
        pending.share(Box::new(SharedError(memory.clone())));
        // The parent's lock may be held for ever: read without it, as nobody writes here yet.
        let keys = {
            let held = memory.lock().ok()?;
            let current = memory.current.load(Ordering::Acquire) as usize & 1;
            held.keys(current, self.suite.1).ok()?
        };
        let receiver = self.inherit(keys, pending).ok()?;
        let _ = receiver.joint.set(Box::new(Joint {
            memory,
            seen: AtomicU64::new(u64::MAX),
        }));
        Some(receiver)
    }

    fn share(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // Never held across a sleep; but for ever if a signal handler forks in a receive.
        let mut records = loop {
            if let Some(records) = try_lock(&self.state) {
                break records;
            }
            if Instant::now() >= deadline {
                return Err(Error::NotRecoverable);
            }
            std::thread::sleep(POLL);
        };
        let fd = self.fd();
        let place = records.prepare_to_share(self.sys, fd)?;
        let state = State {
            version: 0,
            keys: 0,
            place,
            consumed: self.sys.consumed(fd),
        };
        let head = Head {
            pending: AtomicI32::new(self.pending.peek().map_or(0, Errno::raw_os_error)),
            current: AtomicU32::new(0),
            dropping: AtomicU32::new(0),
            sent_away: AtomicU32::new(0),
        };
        let states = States {
            states: [state; 2],
            keys: KeySlots::empty(),
        };
        let memory = Memory::new(head, states, TAKEN_MAX).map_err(Error::Os)?;
        {
            let mut held = memory.lock().map_err(Error::Os)?;
            let (states, area) = held.parts();
            states.keys.put(state.keys, records.keys());
            records.copy_taken(area);
        }
        self.pending.share(Box::new(SharedError(memory.clone())));
        let _ = self.joint.set(Box::new(Joint {
            memory,
            seen: AtomicU64::new(0),
        }));
        Ok(())
    }
}

/// The keys' version and cipher, which never change.
pub(super) type Suite = (Version, Cipher);

/// A low-water mark that no socket has.
const UNKNOWN_MARK: usize = usize::MAX - 1;

/// The bytes of one record.
const TAKEN_MAX: usize = MAX_PLAINTEXT + 64;

/// How long a `fork` waits for a call that is at work.
const PATIENCE: Duration = Duration::from_secs(2);
