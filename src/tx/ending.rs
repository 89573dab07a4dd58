//! How a connection comes to its end: flush, shutdown, close, and the descriptor that goes with it.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::ready_list::{Head, ReadyList};
use super::share::PATIENCE;
use super::transmit::By;
use super::writer::{Outcome, Segment, Writer};
use super::{BROKEN, CLOSING, Connection, RESETS, SHUTDOWN};
use crate::error::{Error, Result};
use crate::sync::turn::TurnGuard;
use crate::sync::{Woken, lock};
use crate::sys::kept::Kept;
use crate::sys::net::Sys;

/// How far a connection is on its way to having nothing left to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// The kernel has everything.
    Done,
    /// Records are being sealed or wait for room.
    Pending,
}
impl Connection {
    /// Seals the open record and transmits without waiting; says how far it came.
    ///
    /// # Errors
    /// The connection's sticky error.
    pub fn drain(self: &Arc<Self>) -> Result<Drain> {
        self.seal_open()?;
        self.transmit(By::Caller, true);
        if let Some(joint) = self.joint() {
            return self.drain_shared(joint);
        }
        if self.is(BROKEN) {
            return self.check().map(|()| Drain::Done);
        }
        Ok(if self.is_drained() {
            Drain::Done
        } else {
            Drain::Pending
        })
    }

    /// Waits until the kernel has everything, the open record included.
    ///
    /// # Errors
    /// The sticky error; [`Error::Os`] with `ETIMEDOUT` if `timeout` ran out first;
    /// [`Error::Interrupted`] if a signal came.
    pub fn flush(self: &Arc<Self>, timeout: Option<Duration>) -> Result<()> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            if let Some(joint) = self.joint() {
                return self.flush_shared(joint, deadline);
            }
            let ticket = self.moved.ticket();
            if self.drain()? == Drain::Done {
                return Ok(());
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(Error::Os(Errno::TIMEDOUT));
            }
            // Woken by the completion of a record or by the worker's transmission.
            if self.moved.wait(ticket, left) == Woken::Interrupted {
                return Err(Error::Interrupted);
            }
        }
    }

    /// Shuts the write side down behind the last record: at once, or when it has gone out. A send that
    /// waits for room is not waited for: it ends with what it has accepted so far, or `EPIPE`.
    pub fn shutdown_write(self: &Arc<Self>) -> Result<()> {
        let turn = self.turn.try_take();
        let drained = self.drain();
        let Some(sender) = self.private() else {
            return self
                .joint()
                .map_or(Ok(()), |joint| self.shutdown_shared(joint));
        };
        // Under the sender's lock: nothing is sealed any more (`make_room`).
        self.set(SHUTDOWN);
        let is_alone = turn.is_some();
        drop((sender, turn));
        self.room.signal();
        if drained == Ok(Drain::Pending) || !is_alone {
            // `after` sends the FIN, in whichever context the last record goes out.
            self.after(Outcome::Drained(self.list.head()));
            return Ok(());
        }
        self.shared
            .sys
            .shutdown_write(self.fd())
            .map_err(Error::from)
    }

    /// Seals the open record and hands what is queued to the kernel. If nothing is left to do then, for
    /// no call either, the descriptor may be closed or change its number: calls wait meanwhile.
    pub fn at_rest(self: &Arc<Self>) -> Option<AtRest<'_>> {
        let drained = self.drain();
        let rest = self.without_calls()?;
        // Another process may have sent since; what it left in the queue is its own business.
        (drained != Ok(Drain::Pending)).then_some(rest)
    }

    /// Keeps calls waiting, unless one of another thread is at work.
    fn without_calls(self: &Arc<Self>) -> Option<AtRest<'_>> {
        let _turn = self.turn.try_take()?;
        Some(AtRest {
            connection: self,
            _turn,
        })
    }

    /// The program closes the socket. Returns true if nothing is left to send and the descriptor
    /// can be closed; otherwise `duplicate` has become ours and is closed behind the last record.
    /// If the socket `resets` (SO_LINGER with no time) and no other process has the connection, what is queued is
    /// dropped, and the duplicate is closed behind the last call that uses it.
    ///
    /// # Errors
    /// What `duplicate` failed with; then nothing has changed.
    pub fn close(
        self: &Arc<Self>,
        resets: bool,
        duplicate: impl FnOnce() -> core::result::Result<Kept, Errno>,
    ) -> Result<bool> {
        // Of several processes that close at once one is the last.
        self.leave();
        // A call of another thread keeps the socket until it returns (MT-11).
        if let Some(rest) = self.at_rest() {
            rest.close();
            return Ok(true);
        }
        let resets = resets && self.is_last();
        if resets && let Some(rest) = self.without_calls() {
            rest.close();
            return Ok(true);
        }
        self.unwritten(|| {
            let socket = duplicate()?;
            self.renumber(socket.as_raw_fd());
            *lock(&self.owned) = Some((socket, Arc::clone(self)));
            self.set(if resets { CLOSING | RESETS } else { CLOSING });
            Ok::<(), Errno>(())
        })?;
        // The rest may have gone out, or room may have come, while the number changed.
        self.transmit(By::Worker, true);
        Ok(false)
    }

    /// What a connection that is about to be closed has queued, sealed, for somebody else to send; nothing is done
    /// with it here any more. `None`, and nothing has changed: it is empty, a call is at work, other processes have the
    /// connection too, or its engine takes too long.
    pub fn take_remains(self: &Arc<Self>) -> Option<Remains> {
        let _rest = self.without_calls()?;
        let mut sender = self.private()?;
        self.publish(&mut sender);
        if sender.open.is_some() || self.is(BROKEN) {
            return None;
        }
        self.wait_for_seals(Instant::now() + PATIENCE).ok()?;
        let mut writer = self.wait_for_writer();
        writer.take_all(&self.list);
        if writer.bytes() == 0 || self.list.head() != Head::Empty {
            return None;
        }
        self.set(BROKEN);
        self.renumber(-1);
        let remains = Remains {
            sys: self.shared.sys,
            writer: core::mem::take(&mut *writer),
            none: ReadyList::new(),
        };
        drop((writer, sender));
        // Those who wait until all is out.
        self.moved.signal();
        Some(remains)
    }

    /// Writes go to the descriptor `fd` from now on, another one of the same socket.
    pub fn move_to(self: &Arc<Self>, fd: RawFd) {
        self.unwritten(|| self.renumber(fd));
        // Nobody is told of room under the old number any more.
        if fd >= 0 && self.pending() > 0 {
            self.transmit(By::Worker, true);
        }
    }

    /// Does something to the descriptor while nobody in this process writes to it.
    fn unwritten<T>(self: &Arc<Self>, change: impl FnOnce() -> T) -> T {
        // If its lock cannot be had, nobody transmits any more.
        let _shared = self.joint().map(|joint| self.lock_joint(joint));
        let _writer = self.wait_for_writer();
        change()
    }

    /// Writes go to the descriptor `fd` from now on.
    fn renumber(&self, fd: RawFd) {
        let old = self.fd();
        if old != fd {
            self.shared.waker.forget(self, old);
            // Release: pairs with the Acquire in `fd`.
            self.fd.store(fd, Ordering::Release);
        }
    }

    /// The end of a call on a connection that was closed while it ran.
    #[cold]
    pub(super) fn after_call(self: &Arc<Self>) {
        self.after(Outcome::Drained(self.list.head()));
    }

    /// In a forked child: a socket that lingers in the parent must not stay open here as well, or
    /// its peer would not see the end.
    pub(crate) fn abandon(&self) {
        if self.is(CLOSING) && !self.is(BROKEN) {
            // By number: the lock on the descriptor may be held by a thread that is not here.
            let _ = crate::sys::net::close(self.fd());
            crate::sys::marks::set(self.fd(), 0);
        }
    }

    /// What happens behind the last record.
    pub(super) fn after(self: &Arc<Self>, outcome: Outcome) {
        let broken = matches!(outcome, Outcome::Failed(_)) || self.is(BROKEN);
        if self.joint().is_some() && !self.is(CLOSING) {
            // The FIN is the business of whoever empties the shared queue.
            return;
        }
        if !self.is(SHUTDOWN | CLOSING) || !(broken || self.is(RESETS) || self.is_drained()) {
            return;
        }
        if self.is(CLOSING) {
            // A call of another thread, or this one's own, keeps the socket until it returns
            // (MT-11), and comes here then. SeqCst: either it sees CLOSING after its unlock, or
            // this sees the unlock.
            fence(Ordering::SeqCst);
            if self.turn.try_take().is_none() {
                return;
            }
            let owned = lock(&self.owned).take();
            if let Some((socket, _keep)) = owned {
                self.unwritten(|| {
                    self.shared.waker.forget(self, socket.as_raw_fd());
                    self.set(BROKEN);
                    // Dropping the last descriptor of the socket sends the FIN, or the reset.
                    drop(socket);
                });
            }
        } else if !broken {
            // Fails only if the peer was faster; then there is no write side left to shut.
            let _ = self.shared.sys.shutdown_write(self.fd());
        }
    }

    /// Whether the kernel has every sealed byte.
    pub(super) fn is_drained(&self) -> bool {
        // Acquire: pairs with the AcqRel in `account`.
        self.counts().queued.load(Ordering::Acquire) == 0
    }
}

/// A connection without a call at work, and whose calls wait until this is gone.
pub struct AtRest<'a> {
    connection: &'a Arc<Connection>,
    _turn: TurnGuard<'a>,
}

impl AtRest<'_> {
    /// The socket is closed: calls that have waited find no descriptor. What is queued, if anything, is dropped.
    pub fn close(self) {
        self.connection.unwritten(|| {
            self.connection.set(BROKEN);
            self.connection.renumber(-1);
        });
        // Those who wait until all is out.
        self.connection.moved.signal();
    }
}

/// The sealed records of a connection that is closed.
pub struct Remains {
    sys: &'static dyn Sys,
    writer: Writer,
    /// No record comes after them.
    none: ReadyList<Segment>,
}

impl Remains {
    /// Wire bytes that the kernel does not have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.writer.bytes() as u64
    }

    /// Hands to the kernel what it takes, by the descriptor `fd`.
    ///
    /// # Errors
    /// What the connection is broken by.
    pub fn transmit(&mut self, fd: RawFd) -> core::result::Result<Drain, Errno> {
        // There may be more than the writer takes from a ready list, and so more than one system call's worth.
        while self.bytes() > 0 {
            let (outcome, moved) = self.writer.transmit(self.sys, fd, &self.none, false);
            moved.count(By::Worker);
            match outcome {
                Outcome::Drained(_) => {}
                Outcome::Refused => return Ok(Drain::Pending),
                Outcome::Failed(errno) => return Err(errno),
            }
        }
        Ok(Drain::Done)
    }
}
