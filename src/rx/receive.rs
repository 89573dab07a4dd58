//! A receiving call: which records it takes, when it waits, what it returns.
#![forbid(unsafe_code)]

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::records::{Ending, Found, Opened};
use super::waiting::{Holds, Patience};
use super::{Entered, Receiver, Tally};
use crate::error::{Error, NO_MEMORY, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::stats::STATS;
use crate::sync::Woken;
use crate::sync::turn::TurnGuard;
use crate::sys::reserve;
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
    /// [`Error::WouldBlock`], [`Error::Interrupted`]; [`Error::BadAddress`], with which nothing is lost
    /// (RX-27); [`Error::ControlRecord`] (RX-15);
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
        let mut turn = Some(self.take_turn(&mut patience)?);
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
        let mut has_waited = false;
        let result = loop {
            let found = match self.collect(&mut entered, out, &mut call) {
                Ok(Stop::Needs(found)) if call.received.len < target => found,
                Ok(_) => break Ok(()),
                Err(Error::Os(rustix::io::Errno::BADF)) if !has_waited => break Err(Error::Closed),
                Err(error) => break Err(error),
            };
            has_waited = true;
            let holds = match (call.received.len, call.peeked) {
                (0, 0) => Holds::Nothing,
                (0, _) => Holds::Place,
                _ => Holds::Data,
            };
            let waited;
            (entered, waited) = self.wait(&mut turn, entered, found, &mut patience, holds)?;
            match waited {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        entered.settle(match result {
            Err(Error::WouldBlock) => Ending::Refused,
            Err(_) if call.received.len == 0 => Ending::Full,
            _ if out.left() > 0 => Ending::Short,
            _ => Ending::Full,
        });
        drop(entered);
        let len = call.received.len;
        if !request.peek {
            self.bytes.fetch_add(len as u64, Ordering::Relaxed);
            STATS.rx_bytes.add(len as u64);
        }
        // What was collected comes first; the error is found again by the next call (RX-21, RX-28).
        match result {
            Ok(()) if len == 0 && out.is_bad() => Err(Error::BadAddress),
            Err(error) if len == 0 => Err(error),
            _ => Ok(len),
        }
    }

    /// Waits for the calls of other threads, and of other processes, to end (MT-4).
    pub(super) fn take_turn(&self, patience: &mut Patience<'_>) -> Result<Turn<'_>> {
        let own = loop {
            if let Some(turn) = self.turn.try_take() {
                break turn;
            }
            let left = patience.left();
            if !patience.sleeps() || left == Some(Duration::ZERO) {
                self.sent_away.store(true, Ordering::Relaxed);
                // Pairs with the fence in `Turn::drop`: whoever has the turn finds the word, or we find the turn.
                fence(Ordering::SeqCst);
                match self.turn.try_take() {
                    Some(turn) => break turn,
                    None => return Err(Error::WouldBlock),
                }
            }
            match self.turn.take(left) {
                Ok(turn) => break turn,
                Err(Woken::Interrupted) => return Err(Error::Interrupted),
                // A signal handler, in a call that has received something and waits for more.
                Err(Woken::Beneath) => return Err(Error::Deadlock),
                Err(_) => {}
            }
        };
        let joint = match self.joint.get() {
            None => None,
            Some(joint) => Some(joint.take_turn(patience)?),
        };
        // Relaxed, and a plain store: the holder of `turn` writes, and reads it.
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns.wrapping_add(1), Ordering::Relaxed);
        Ok(Turn {
            guards: Some((joint, own)),
            receiver: self,
        })
    }

    /// Raises the edge that calls are owed which were sent away with EAGAIN: what was there may have been spent on them.
    fn tell_those_sent_away(&self) {
        // Relaxed, here and where they are set: ordered by the fences.
        let own =
            self.sent_away.load(Ordering::Relaxed) && self.sent_away.swap(false, Ordering::Relaxed);
        let others = self.joint.get().is_some_and(|joint| joint.take_sent_away());
        if (own || others)
            && let Ok(mut entered) = self.enter()
        {
            entered.look();
            entered.settle(Ending::Untold);
        }
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
            reserve::admit()?;
            let wire = match state.look(io) {
                Found::Ready(wire) => wire,
                Found::NoMemory => return Err(NO_MEMORY),
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
            // Says nothing of the connection.
            Some(error @ &NO_MEMORY) => Err(*error),
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
}

/// One thread's turn at receiving: the process's, and behind it that of all processes. The state is not held where
/// it ends.
pub(super) struct Turn<'a> {
    guards: Option<(Option<RobustGuard<'a>>, TurnGuard<'a>)>,
    receiver: &'a Receiver,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guards = None;
        // Pairs with the fences in `Receiver::take_turn` and `Joint::take_turn`.
        fence(Ordering::SeqCst);
        self.receiver.tell_those_sent_away();
    }
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
        // RX-17.
        self.received.end_of_record |= match self.request.peek {
            true => !record.is_fresh(),
            false => whole,
        };
        match self.request.peek {
            true => self.peeked += usize::from(whole),
            false => record.advance(copied),
        }
        whole
    }
}
