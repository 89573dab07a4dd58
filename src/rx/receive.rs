//! A receiving call: which records it takes, when it waits, what it returns.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::records::{Found, Opened};
use super::turn::TurnGuard;
use super::{Entered, Receiver, Tally};
use crate::error::{Error, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::stats::STATS;
use crate::sync::Woken;
use crate::sys::receive::Ready;
use crate::sys::robust::RobustGuard;
use crate::sys::scatter::Destination;

/// What a receive asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// `MSG_PEEK`: what is delivered stays.
    pub peek: bool,
    /// `MSG_WAITALL`.
    pub wait_all: bool,
    /// `MSG_DONTWAIT`.
    pub dont_wait: bool,
    /// There is room for a control message that tells the content type (RX-15).
    pub can_tell: bool,
}

/// What a receive has brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Plaintext bytes.
    pub len: usize,
    /// The content type of the records they are from, also if the call failed behind an empty
    /// record (RX-18).
    pub content_type: Option<u8>,
    /// A record was consumed to its end (`MSG_EOR`, RX-17).
    pub end_of_record: bool,
}

/// Why collecting came to an end.
enum Stop {
    /// The request is met, or another content type comes next.
    Done,
    /// Another record is needed.
    Needs(Found),
}

impl Receiver {
    /// Delivers plaintext to `out`, as `recvmsg(2)` on a kTLS socket does (RX-8 to RX-40).
    ///
    /// `received` is filled in as far as the call came, whatever it returns.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], [`Error::Interrupted`]; [`Error::ControlRecord`] (RX-15);
    /// [`Error::KeyExpired`] (RK-8); [`Error::SealFailed`] for a record that is not authentic, and
    /// what its header is refused with (RX-3); the socket's own.
    pub fn receive(
        &self,
        out: &mut Destination<'_>,
        request: Request,
        received: &mut Received,
    ) -> Result<usize> {
        if out.left() == 0 {
            // RX-19: consumes nothing and reports nothing.
            return Ok(0);
        }
        let mut patience = Patience::new(self, request.dont_wait);
        let _turn = self.take_turn(&mut patience)?;
        let target = match request.wait_all {
            true => out.left(),
            false => self.low_water().min(out.left()),
        };
        let mut entered = self.enter()?;
        let mut call = Call {
            request,
            target,
            peeked: 0,
            received,
        };
        let result = loop {
            let found = match self.collect(&mut entered, out, &mut call) {
                Ok(Stop::Needs(found)) if call.received.len < target => found,
                Ok(_) => break Ok(()),
                Err(error) => break Err(error),
            };
            let has_data = call.received.len > 0;
            let waited;
            (entered, waited) = self.wait(entered, found, &mut patience, has_data)?;
            match waited {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        entered.settle();
        drop(entered);
        let len = call.received.len;
        if !request.peek {
            self.bytes.fetch_add(len as u64, Ordering::Relaxed);
            STATS.rx_bytes.add(len as u64);
        }
        // What was collected comes first; the error is found again by the next call (RX-21).
        result.map(|()| len).or_else(|error| match len {
            0 => Err(error),
            _ => Ok(len),
        })
    }

    /// Waits for the calls of other threads, and of other processes, to end (MT-4).
    pub(super) fn take_turn(&self, patience: &mut Patience<'_>) -> Result<Turn<'_>> {
        let own = loop {
            if let Some(turn) = self.turn.try_take() {
                break turn;
            }
            let left = patience.left();
            if !patience.sleeps() || left == Some(Duration::ZERO) {
                return Err(Error::WouldBlock);
            }
            match self.turn.take(left) {
                Ok(turn) => break turn,
                Err(Woken::Interrupted) => return Err(Error::Interrupted),
                Err(_) => {}
            }
        };
        let joint = match self.joint.get() {
            None => None,
            Some(joint) => Some(joint.take_turn(patience)?),
        };
        Ok(Turn {
            _joint: joint,
            _own: own,
        })
    }

    /// Delivers what can be had without waiting.
    fn collect(
        &self,
        entered: &mut Entered<'_>,
        out: &mut Destination<'_>,
        call: &mut Call<'_>,
    ) -> Result<Stop> {
        let Entered { io, records: state } = entered;
        loop {
            while let Some(record) = state.opened().get_mut(call.peeked) {
                if !call.admits(record.content_type)? {
                    return Ok(Stop::Done);
                }
                let content_type = record.content_type;
                let whole = call.deliver(record, out);
                if whole && !call.request.peek {
                    let record = state.opened().pop_front().expect("the one just delivered");
                    state.finish(record);
                }
                // RX-12: one control record a call.
                if !whole || out.left() == 0 || content_type != APPLICATION_DATA {
                    return Ok(Stop::Done);
                }
            }
            // RX-9: beyond the target, only what is there without asking.
            if call.received.len >= call.target && !state.has_more() {
                return Ok(Stop::Done);
            }
            let wire = match state.look(io) {
                Found::Ready(wire) => wire,
                found => return Ok(Stop::Needs(found)),
            };
            if let Some(len) = state.plain_len(wire).filter(|_| !call.request.peek)
                && len > 0
                && call.admits(APPLICATION_DATA)?
                && let Some(memory) = out.contiguous(len)
            {
                let opened = state.open_directly(wire, memory);
                self.opened(opened.as_ref().err())?;
                opened?;
                out.advance(len);
                call.received.len += len;
                call.received.end_of_record = true;
                if out.left() == 0 {
                    return Ok(Stop::Done);
                }
                continue;
            }
            let space = out.left();
            let opened = state.open(wire);
            self.opened(opened.as_ref().err())?;
            let record = opened?;
            self.count_padding(&mut state.tally, &record, call.request.peek, space);
            state.keep(record);
        }
    }

    /// Counts an attempt to open a record; a failure is also the socket's error (RX-20).
    pub(super) fn opened(&self, failure: Option<&Error>) -> Result<()> {
        match failure {
            None => {
                self.records.fetch_add(1, Ordering::Relaxed);
                STATS.rx_records.add(1);
                Ok(())
            }
            Some(error) => {
                self.pending.set(error.errno());
                Err(*error)
            }
        }
    }

    /// ST-4 to ST-6: in no-pad mode the kernel opens data into the program's memory and begins
    /// again when it finds something else; the counters tell a peer that makes it do so.
    fn count_padding(&self, tally: &mut Tally, record: &Opened, peek: bool, space: usize) {
        if !self.expects_no_pad() || peek || record.rest().len() > space {
            return;
        }
        let control = record.content_type != APPLICATION_DATA;
        if control || record.is_padded() {
            STATS.decrypt_retry.add(1);
            tally.decrypt_retry += 1;
        }
        if record.is_padded() {
            STATS.rx_no_pad_violation.add(1);
            tally.rx_no_pad_violation += 1;
        }
    }

    /// Waits until `found` may have become more. Returns false at the end of the stream.
    ///
    /// # Errors
    /// Those of entering again, which leave nothing to settle; the others come with the state.
    pub(super) fn wait<'a>(
        &'a self,
        mut entered: Entered<'a>,
        found: Found,
        patience: &mut Patience<'_>,
        has_data: bool,
    ) -> Result<(Entered<'a>, Result<bool>)> {
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
        if found == Found::Nothing && !patience.sleeps() {
            return Ok((entered, Err(Error::WouldBlock)));
        }
        // Sets the mark, so that the wait ends when the record is complete, and not before.
        entered.records.tell_kernel(&mut entered.io, true);
        drop(entered);
        let waited = self.sleep(patience);
        let mut entered = self.enter()?;
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

/// One thread's turn at receiving: the process's, and behind it that of all processes.
pub(super) struct Turn<'a> {
    _joint: Option<RobustGuard<'a>>,
    _own: TurnGuard<'a>,
}

/// A call on its way.
struct Call<'a> {
    request: Request,
    /// Bytes below which it waits.
    target: usize,
    /// With `MSG_PEEK`: opened records that it has passed.
    peeked: usize,
    received: &'a mut Received,
}

impl Call<'_> {
    /// Whether a record of this content type goes with what the call has so far (RX-8, RX-11);
    /// the first one decides.
    fn admits(&mut self, content_type: u8) -> Result<bool> {
        if let Some(first) = self.received.content_type {
            return Ok(first == content_type && first == APPLICATION_DATA);
        }
        if content_type == 0 {
            // RX-22.
            return Err(Error::BadRecord);
        }
        if content_type != APPLICATION_DATA && !self.request.can_tell {
            return Err(Error::ControlRecord);
        }
        self.received.content_type = Some(content_type);
        Ok(true)
    }

    /// Copies what fits; returns whether that was all of the record.
    fn deliver(&mut self, record: &mut Opened, out: &mut Destination<'_>) -> bool {
        let copied = out.put(record.rest());
        self.received.len += copied;
        let whole = copied == record.rest().len();
        self.received.end_of_record |= whole && !(self.request.peek && record.is_fresh());
        match self.request.peek {
            true => self.peeked += usize::from(whole),
            false => record.advance(copied),
        }
        whole
    }
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
