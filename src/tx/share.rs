//! How a connection comes to be shared: in the parent just before a `fork`, and in the child.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use super::queue::{Queue, record_len};
use super::shared::{DEAD, Head, Joint, OPEN_LEN, SHUT, State, States};
use super::transmit::By;
use super::used_keys::UsedKeys;
use super::writer::Writer;
use super::{BLOCKED, BROKEN, CLOSING, Connection, SHUTDOWN, Shared};
use crate::engine::Buffer;
use crate::error::{Error, PendingError, Result};
use crate::stats::STATS;
use crate::sync::{Mutex, MutexGuard, try_lock};
use crate::sys::shared::Shared as Memory;

impl Connection {
    /// The process is about to fork: moves the connection to shared memory, if it is not there yet,
    /// and counts the child in. Waits for records in flight, never for room in the socket.
    ///
    /// # Errors
    /// The child will not have the connection; it goes on as it was in this process.
    pub fn before_fork(self: &Arc<Self>) -> Result<()> {
        if self.joint().is_none() {
            self.share()?;
        }
        if let Some(joint) = self.joint() {
            self.shared.sys.hold(self.fd());
            joint.memory.before_fork();
        }
        Ok(())
    }

    /// There is no child after all.
    pub fn fork_failed(&self) {
        if let Some(joint) = self.joint() {
            joint.memory.fork_failed();
        }
    }

    /// In the child: a connection of its own on the same shared state. `self` is the parent's,
    /// whose locks may be held by threads that are not here; the caller leaks it.
    #[must_use]
    pub fn in_child(
        &self,
        shared: Arc<Shared>,
        pending: Arc<PendingError>,
    ) -> Option<Arc<Connection>> {
        let joint = self.joint().filter(|_| !self.is(CLOSING))?;
        let joint = Joint::new(joint.memory.in_child(), joint.suite);
        let connection = Connection::assemble(shared, self.settings, self.fd(), None, pending);
        let connection = Arc::new(connection);
        connection.shared.sys.hold(connection.fd());
        // New, so there is none in it.
        let _ = connection.joint.set(Box::new(joint));
        Some(connection)
    }

    fn share(self: &Arc<Self>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mutex = self.sender.as_ref().ok_or(Error::NotRecoverable)?;
        let mut sender = lock_until(mutex, deadline)?;
        self.publish(&mut sender);
        self.wait_for_seals(deadline)?;
        // Most often that is all of it, and there is less to copy.
        self.transmit(By::Caller, false);
        let mut writer = lock_until(&self.writer, deadline)?;
        writer.take_all(&self.list);
        let (gone, records, plain) = sent_records(&writer, sender.sealer.overhead());
        let queued = writer.bytes() + writer.sent() - gone;
        let sent = writer.sent() - gone;
        let ring_len = (queued + 2 * Buffer::LEN).max(RING_RECORDS * Buffer::LEN);
        let open_len = sender.open.as_ref().map_or(0, |open| open.len());

        let mut state = State::new(sender.numbers.peek());
        state.max_payload = sender.max_payload;
        state.sealed = sender.sealed;
        state.open_len = open_len;
        let written = self.shared.sys.written(self.fd());
        state.queue = Queue::filled(queued, sent);
        let mut flags = 0;
        if self.is(BROKEN) {
            flags |= DEAD;
        }
        if self.is(SHUTDOWN) {
            // Pending: the FIN is due behind the last record.
            flags |= SHUT | super::shared::FIN_DUE;
        }
        let own = std::process::id();
        // Somebody sleeps in a call, or reads a file for one: that call goes on first.
        let reserved = if self.turn.try_take().is_none() {
            own
        } else {
            0
        };
        let counts = self.counts.handed_over(records, plain, queued - sent);
        let used = UsedKeys::new(&sender.used);
        let head = Head::new(counts, flags, reserved, used, written);
        let memory =
            Memory::new(head, States::new(state), OPEN_LEN + ring_len).map_err(Error::Os)?;
        {
            let mut held = memory.lock().map_err(Error::Os)?;
            let (states, area) = held.parts();
            states.put_first_keys(&sender.keys);
            let (open, ring) = area.split_at_mut(OPEN_LEN);
            if let Some(record) = &sender.open {
                record.copy_to(open);
            }
            writer.copy_to(ring, gone);
        }
        let suite = (sender.sealer.version(), sender.sealer.cipher());
        // Nothing can fail after this line. Whoever gets one of our two locks from now on finds the
        // connection shared.
        let joint = Joint::new(memory, suite);
        let accepted = self.counts.accepted.load(Ordering::Relaxed);
        joint.own_end.store(accepted, Ordering::Relaxed);
        let _ = self.joint.set(Box::new(joint));
        STATS.tx_records.add(records);
        STATS.tx_bytes.add(plain);
        writer.clear();
        sender.open = None;
        self.counts.queued.store(0, Ordering::Release);
        self.unset(BLOCKED);
        drop((writer, sender));
        self.hand_over_error();
        // Either the end of that call sees the connection shared, or this sees its turn free.
        fence(Ordering::SeqCst);
        if reserved != 0 && self.turn.try_take().is_some() {
            self.end_reservation();
        }
        // Sleepers on the private queue go on with the shared one.
        self.moved.signal();
        self.room.signal();
        if queued > 0 {
            // Whoever was transmitting the private queue has stopped.
            let joint = self.joint().ok_or(Error::NotRecoverable)?;
            self.transmit_shared(joint, By::Caller);
        }
        Ok(())
    }

    /// Whether something is accepted that the kernel does not have, as far as this process knows.
    pub fn has_unsent(&self) -> bool {
        self.pending() > 0 || !self.is_drained()
    }

    /// Wire bytes that the kernel does not have.
    pub fn unsent(&self) -> u64 {
        // Acquire: as in `is_drained`.
        self.counts().queued.load(Ordering::Acquire)
    }

    /// Whether the locks can be had before `deadline`. They cannot if this very thread has them, in a
    /// call that a signal handler has interrupted for good.
    pub fn can_be_locked(&self, deadline: Instant) -> bool {
        if let Some(joint) = self.joint() {
            return free_by(deadline, || !matches!(joint.memory.try_lock(), Ok(None)));
        }
        let sender = self.sender.as_ref();
        sender.is_none_or(|sender| lock_until(sender, deadline).is_ok())
            && lock_until(&self.writer, deadline).is_ok()
            && free_by(deadline, || self.list.is_free())
    }

    /// An error that came while the counts were being copied.
    fn hand_over_error(&self) {
        let error = self.counts.error.load(Ordering::Acquire);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        if error != 0 {
            let shared = &self.counts().error;
            let _ = shared.compare_exchange(0, error, success, failure);
        }
    }

    pub(super) fn wait_for_seals(&self, deadline: Instant) -> Result<()> {
        loop {
            let ticket = self.moved.ticket();
            if self.list.outlook().1 == 0 {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::NotRecoverable);
            }
            self.moved.wait(ticket, Some(left));
        }
    }

    /// A call of this process has ended: if it slept at a fork, others need not wait for it.
    pub(super) fn end_reservation(&self) {
        if let Some(joint) = self.joint()
            && joint.memory.reserved.load(Ordering::Acquire) == std::process::id()
        {
            joint.end_reservation(std::process::id());
        }
    }
}

/// The records of a partly sent run that the kernel has completely: their wire bytes, their number,
/// their plaintext. From now on they are counted one by one.
fn sent_records(writer: &Writer, overhead: usize) -> (usize, u64, u64) {
    let (mut gone, mut records, mut plain) = (0, 0, 0);
    let first = writer.first();
    while gone < writer.sent() {
        let len = record_len(&first[gone..]);
        if gone + len > writer.sent() {
            break;
        }
        gone += len;
        records += 1;
        plain += (len - overhead) as u64;
    }
    (gone, records, plain)
}

/// Takes a lock that is never held across a sleep. It may be held for ever all the same: by this
/// very thread, if a signal handler forks in the middle of a send.
fn lock_until<T>(mutex: &Mutex<T>, deadline: Instant) -> Result<MutexGuard<'_, T>> {
    let mut guard = None;
    free_by(deadline, || {
        guard = try_lock(mutex);
        guard.is_some()
    });
    guard.ok_or(Error::NotRecoverable)
}

fn free_by(deadline: Instant, mut is_free: impl FnMut() -> bool) -> bool {
    while !is_free() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    true
}

/// How long a `fork` waits for one connection's records in flight.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Full records that the shared queue has room for. Only pages that were used cost memory.
const RING_RECORDS: usize = 10;
