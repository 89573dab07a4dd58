//! How a receiving call waits: for whom, for how long, and what ends it.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::receive::Turn;
use super::records::Found;
use super::{Entered, Receiver};
use crate::error::{Error, Result};
use crate::sys::receive::Ready;

impl Receiver {
    /// Waits until `found` may have become more. Returns false at the end of the stream. Unless the call
    /// `holds` something, others may go first meanwhile, a signal handler of its own thread too.
    ///
    /// # Errors
    /// Those of taking the turn and entering again, which leave nothing to settle; the others come with the
    /// state.
    pub(super) fn wait<'a>(
        &'a self,
        turn: &mut Option<Turn<'a>>,
        mut entered: Entered<'a>,
        found: Found,
        patience: &mut Patience<'_>,
        holds: Holds,
    ) -> Result<(Entered<'a>, Result<bool>)> {
        let has_data = holds == Holds::Data;
        // RX-23: what is found decides before the socket's error does.
        match found {
            Found::Rekey => return Ok((entered, Err(Error::KeyExpired))),
            Found::Eof if self.pending.peek().is_none() => return Ok((entered, Ok(false))),
            _ => {}
        }
        // An error is left for the next call if this one has something to return.
        if let Some(errno) = match has_data {
            true => self.pending.peek(),
            false => self.pending.take(),
        } {
            return Ok((entered, Err(Error::from(errno))));
        }
        if let Found::Stopped(errno) = found {
            entered.records.tell_stop();
            // RX-4: told of, and the connection has broken or ended since.
            if let Ok(ready) = self.ready_now() {
                if let Some(errno) = ready.error {
                    if has_data {
                        self.pending.set(errno);
                    }
                    return Ok((entered, Err(Error::from(errno))));
                }
                if ready.ended {
                    return Ok((entered, Ok(false)));
                }
            }
            // RX-4: only a call that does not wait is told EAGAIN; the kernel lets others hang.
            let result = match patience.sleeps() {
                true => Err(Error::from(errno)),
                false => Err(Error::WouldBlock),
            };
            return Ok((entered, result));
        }
        // Not behind records that are opened and still there (a peek has passed them): they hide the end
        // of the stream from what was read.
        if found == Found::Nothing && !patience.sleeps() && !entered.records.has_ahead() {
            return Ok((entered, Err(Error::WouldBlock)));
        }
        // Sets the mark, so that the wait ends when the record is complete, and not before.
        entered.records.tell_kernel(&mut entered.io, true);
        drop(entered);
        let before = self.turns.load(Ordering::Relaxed);
        if holds == Holds::Nothing && patience.sleeps() {
            *turn = None;
        }
        let mut waited = self.sleep(patience);
        let error = waited.as_ref().ok().and_then(|ready| ready.error);
        if let Some(errno) = error {
            self.pending.set(errno);
        }
        let gave_way = turn.is_none();
        if gave_way {
            *turn = Some(match waited {
                Ok(_) => self.take_turn(patience)?,
                Err(error) => self
                    .take_turn(&mut Patience::new(self, true))
                    .map_err(|_| error)?,
            });
        }
        let mut entered = self.enter()?;
        if gave_way && waited.is_ok() && self.others_went_first(before) {
            if entered.records.has_opened() {
                // There is something to return, whatever has come behind it.
                return Ok((entered, Ok(true)));
            }
            waited = self.ready_now().map_err(Error::from);
            if let Ok(ready) = &mut waited {
                ready.error = ready.error.or(error);
            }
        }
        // Also after a failure: the mark is kept by what is known, which was let go of for the sleep.
        let found = entered.look();
        let ready = match waited {
            Ok(ready) => ready,
            Err(error) => return Ok((entered, Err(error))),
        };
        if let Some(errno) = ready.error {
            self.pending.set(errno);
        }
        let result = match found {
            // Told by the next turn of the caller's loop, if nothing is ready (RX-23).
            _ if ready.error.is_some() => Ok(true),
            // RX-25: the rest will not come.
            Found::Incomplete(_) | Found::Nothing if ready.ended => Ok(false),
            Found::Incomplete(_) if ready.readable => {
                // Below the mark and readable: the receive buffer has no room for the rest.
                let taken = entered.records.take_out(&mut entered.io);
                taken.map(|()| true)
            }
            Found::Incomplete(_) | Found::Nothing if !patience.sleeps() => Err(Error::WouldBlock),
            Found::Nothing if ready.readable => {
                // No mark hides so much of the receive buffer: the wait would not sleep again.
                let made_way = entered.records.make_way(&mut entered.io);
                made_way.map(|()| true)
            }
            _ => Ok(true),
        };
        Ok((entered, result))
    }

    pub(super) fn ready_now(&self) -> core::result::Result<Ready, Errno> {
        self.sys.wait(self.fd(), Some(Duration::ZERO))
    }

    /// Whether what was seen before this turn may be what others have taken since.
    fn others_went_first(&self, before: u32) -> bool {
        let since = self.turns.load(Ordering::Relaxed).wrapping_sub(before);
        // Turns of other processes are not counted here.
        since != 1 || self.joint.get().is_some()
    }

    fn sleep(&self, patience: &mut Patience<'_>) -> Result<Ready> {
        if !patience.sleeps() {
            return self.ready_now().map_err(Error::from);
        }
        loop {
            let left = patience.left();
            if left == Some(Duration::ZERO) {
                // SO_RCVTIMEO ran out (RX-29).
                let ready = self.sys.wait(self.fd(), Some(Duration::ZERO))?;
                return match ready.readable || ready.ended || ready.error.is_some() {
                    true => Ok(ready),
                    false => Err(Error::WouldBlock),
                };
            }
            let slice = left.map_or(SLICE, |left| left.min(SLICE));
            match self.sys.wait(self.fd(), Some(slice)) {
                Ok(ready) if ready.readable || ready.ended || ready.error.is_some() => {
                    return Ok(ready);
                }
                Ok(_) => {}
                // Restarted if every handler asks for it and there is no time-out.
                Err(Errno::INTR) if left.is_none() && self.sys.handlers_restart() => {}
                Err(errno) => return Err(Error::from(errno)),
            }
        }
    }
}

/// What a call that has to wait has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Nothing,
    /// It knows its place among records that are opened.
    Place,
    /// There is something to return.
    Data,
}

/// Whether and how long a call waits; asks the kernel when it is first needed.
pub(super) struct Patience<'a> {
    receiver: &'a Receiver,
    dont_wait: bool,
    known: Option<(bool, Option<Instant>)>,
}

impl<'a> Patience<'a> {
    pub(super) fn new(receiver: &'a Receiver, dont_wait: bool) -> Patience<'a> {
        Patience {
            receiver,
            dont_wait,
            known: None,
        }
    }

    fn get(&mut self) -> (bool, Option<Instant>) {
        let (receiver, dont_wait) = (self.receiver, self.dont_wait);
        *self.known.get_or_insert_with(|| {
            let (sys, fd) = (receiver.sys, receiver.fd());
            let sleeps = !dont_wait && !sys.is_nonblocking(fd);
            let timeout = sleeps.then(|| sys.receive_timeout(fd)).flatten();
            let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
            (sleeps, deadline)
        })
    }

    pub(super) fn sleeps(&mut self) -> bool {
        self.get().0
    }

    /// What is left of `SO_RCVTIMEO`; `None` is for ever.
    pub(super) fn left(&mut self) -> Option<Duration> {
        let deadline = self.get().1?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}

/// How often a turn is asked for by a call that has a time-out.
pub(super) const POLL: Duration = Duration::from_micros(500);

/// The longest sleep on a descriptor's number: another thread's `close` may have given it away.
const SLICE: Duration = Duration::from_secs(1);
