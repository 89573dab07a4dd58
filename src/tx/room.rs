//! Room in a connection's queue: how long it may be, and how a call waits for it to get shorter.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::ready_list::Head;
use super::send::SendFlags;
use super::transmit::By;
use super::writer::Outcome;
use super::{BLOCKED, CLOSING, Connection, RELAYED, SHUTDOWN, SLEEPING, Sender};
use crate::engine::Kind;
use crate::error::{Error, Result};
use crate::sync::{MutexGuard, Woken};

impl Connection {
    /// Whether a record more needs room first.
    pub(super) fn is_full(&self) -> bool {
        let limit = match self.settings.engine {
            Kind::Threads | Kind::Accelerator => self.settings.queue_max,
            Kind::Auto if self.may_hand_off() || self.is(RELAYED) => self.settings.queue_max,
            _ => BATCH.min(self.settings.queue_max),
        };
        self.is(BLOCKED) || self.counts.queued.load(Ordering::Relaxed) >= limit as u64
    }

    /// Whether the queue is as long as it may be, whoever shortens it.
    fn is_crammed(&self) -> bool {
        let queued = self.counts.queued.load(Ordering::Relaxed);
        self.is(BLOCKED) || queued >= self.settings.queue_max as u64
    }

    /// Makes room for a record if there is none: hands records to the kernel, and waits as the
    /// descriptor's mode and the flags say. Gives the sender's lock back while it does; the
    /// connection may be shared then, and there is no sender any more.
    pub(super) fn make_room<'a>(
        self: &'a Arc<Self>,
        mut sender: MutexGuard<'a, Sender>,
        flags: SendFlags,
    ) -> (Option<MutexGuard<'a, Sender>>, Result<()>) {
        self.relay_if_due(&mut sender);
        if !self.is_full() {
            return (Some(sender), Ok(()));
        }
        self.publish(&mut sender);
        drop(sender);
        let mut result = self.wait_for_room(flags);
        let mut sender = self.private();
        if sender.is_some() && result.is_ok() && self.is(SHUTDOWN) {
            result = Err(Error::BrokenPipe);
        }
        if let Some(sender) = &mut sender {
            sender.pace.resumed(Instant::now());
            self.promise_to_poll(sender);
        }
        (sender, result)
    }

    fn wait_for_room(self: &Arc<Self>, flags: SendFlags) -> Result<()> {
        // A call that sleeps does not look at the list.
        self.stop_polling(By::Caller);
        // Known when it is first needed: system calls that only a full queue is worth.
        let mut patience = None;
        while self.is_full() {
            let patience = *patience.get_or_insert_with(|| self.patience(flags));
            let (room, moved) = (self.room.ticket(), self.moved.ticket());
            // Behind the tickets: a failure before them wakes nobody any more.
            self.check()?;
            let relayed = self.is(RELAYED);
            let (head, in_flight) = self.list.outlook();
            if in_flight > 0 || relayed {
                if patience.sleeps {
                    // Those who seal transmit as well, or the worker does when the socket has room:
                    // the caller's processor is the program's.
                    self.asleep(|| match self.is_crammed() {
                        true => slept(self.room.wait(room, patience.left())),
                        false => Ok(()),
                    })?;
                    self.check()?;
                    continue;
                }
                if head == Head::InFlight || relayed {
                    // Bounded by the engine, and no room is missing: not a reason for EAGAIN.
                    self.moved.wait(moved, None);
                    self.check()?;
                    continue;
                }
            }
            let by = if patience.sleeps {
                By::Sleeper
            } else {
                By::Caller
            };
            match self.transmit(by, true) {
                Some(Outcome::Refused) if !patience.sleeps => return Err(Error::WouldBlock),
                Some(Outcome::Refused) => {
                    let woken = self.asleep(|| self.sleep_for_room(patience));
                    // The worker goes on where this call gives up.
                    woken.inspect_err(|_| self.shared.waker.watch(self))?;
                }
                Some(Outcome::Failed(_)) => self.check()?,
                Some(Outcome::Drained(_)) | None => {}
            }
        }
        self.cancel_if_drained();
        Ok(())
    }

    /// Sleeps until the kernel has room, by its own readiness. Only `turn` is held meanwhile, so
    /// that a `close` or a `fork` finds the connection at rest.
    pub(super) fn sleep_for_room(&self, patience: Patience) -> Result<()> {
        loop {
            let left = patience.left();
            if left == Some(Duration::ZERO) {
                // SO_SNDTIMEO ran out (TX-30).
                return Err(Error::WouldBlock);
            }
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            match self.shared.sys.wait_for_room(self.fd(), Some(slice)) {
                Ok(true) => return Ok(()),
                // Closed by another thread meanwhile: the number may be a stranger's now.
                Ok(false) if self.is(CLOSING) => return Ok(()),
                Ok(false) if self.is(SHUTDOWN) => return Err(Error::BrokenPipe),
                Ok(false) => {}
                // TX-31: restarted if every handler asks for it and there is no time-out.
                Err(Errno::INTR) if left.is_none() && self.shared.sys.handlers_restart() => {}
                Err(Errno::INTR) => return Err(Error::Interrupted),
                // The send that follows says what is wrong.
                Err(_) => return Ok(()),
            }
        }
    }

    /// Whether the kernel has no room now, so that it owes everybody an EPOLLOUT: being asked, it has promised one. The one
    /// for the room that has come may have been spent on a caller that found the sender in front of it not yet
    /// awake; it is awake soon, and may leave without being refused again.
    pub(super) fn is_refused(&self) -> bool {
        let room = self
            .shared
            .sys
            .wait_for_room(self.fd(), Some(Duration::ZERO));
        room == Ok(false)
    }

    /// Runs `sleep` with the state saying so, for calls that do not wait for their turn.
    pub(super) fn asleep(&self, sleep: impl FnOnce() -> Result<()>) -> Result<()> {
        self.set(SLEEPING);
        let woken = sleep();
        self.unset(SLEEPING);
        woken
    }

    /// Whether a call with these flags may sleep, and until when.
    pub(super) fn patience(&self, flags: SendFlags) -> Patience {
        let sys = self.shared.sys;
        let sleeps = !(flags.dont_wait || sys.is_nonblocking(self.fd()));
        let timeout = sleeps.then(|| sys.send_timeout(self.fd())).flatten();
        Patience {
            sleeps,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        }
    }
}

/// What a call does when there is no room.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// It sleeps; otherwise it asks the kernel, which refuses and owes an event.
    pub sleeps: bool,
    /// The end of `SO_SNDTIMEO`.
    deadline: Option<Instant>,
}

impl Patience {
    /// What is left of the time; `None` is for ever.
    fn left(self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// The longest sleep on a descriptor's number: after so long at most it is looked up again, as a
/// `close` in another thread may have given it away.
const SLICE: Duration = Duration::from_secs(1);

/// How often a call that does not wait for room looks again at a sender that the kernel has woken.
pub(super) const AWAKENING: Duration = Duration::from_micros(200);

/// Sealed bytes at which a streaming caller transmits by itself.
pub(super) const BATCH: usize = 256 * 1024;

/// How a sleep for room ended, as a send reports it.
pub(super) fn slept(woken: Woken) -> Result<()> {
    match woken {
        Woken::Signalled => Ok(()),
        // SO_SNDTIMEO ran out (TX-30).
        Woken::TimedOut => Err(Error::WouldBlock),
        Woken::Interrupted | Woken::Beneath => Err(Error::Interrupted),
    }
}
