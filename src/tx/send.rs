//! Sends: the program's bytes become records.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use super::ready_list::Head;
use super::room::AWAKENING;
use super::shared_calls::Rest;
use super::source::Source;
use super::transmit::By;
use super::writer::Outcome;
use super::{BLOCKED, CALLER_POLLS, CLOSING, Connection, HEARD, PAUSED, RELAYED, SLEEPING, Sender};
use crate::error::{Error, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::sync::turn::TurnGuard;
use crate::sync::{MutexGuard, Woken};
use crate::sys::gather::Span;
use crate::sys::net::raise_sigpipe;
use crate::sys::pages::Pages;
use crate::sys::reserve;

/// The flags of a send that mean something to TLS (TX-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendFlags {
    /// `MSG_MORE`: what does not fill a record stays open.
    pub more: bool,
    /// `MSG_DONTWAIT`.
    pub dont_wait: bool,
    /// `MSG_NOSIGNAL`.
    pub no_signal: bool,
}

/// One thread's turn at sending; its end finishes a close that came meanwhile.
pub(super) struct Turn<'a> {
    guard: Option<TurnGuard<'a>>,
    connection: &'a Arc<Connection>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard = None;
        // Pairs with the fence in `Connection::after`.
        fence(Ordering::SeqCst);
        if self.connection.is(CLOSING) {
            self.connection.after_call();
        }
        self.connection.end_reservation();
    }
}

impl Connection {
    /// Accepts `data` as record(s) of `content_type`, application data by default.
    ///
    /// Returns the plaintext bytes accepted: sealed, being sealed, or in the open record (TX-24).
    ///
    /// # Errors
    /// [`Error::WouldBlock`] only if the kernel has just refused bytes; [`Error::Interrupted`];
    /// [`Error::BadAddress`] for a record not all of whose bytes can be read, of which nothing is taken
    /// (TX-13); [`Error::BrokenPipe`] (with `SIGPIPE`, unless told otherwise) and the other sticky errors.
    pub fn send(
        self: &Arc<Self>,
        data: &[Span<'_>],
        content_type: Option<u8>,
        flags: SendFlags,
    ) -> Result<usize> {
        let total = data.iter().map(Span::len).sum();
        self.accept(Source::memory(data), total, content_type, flags)
    }

    /// [`Connection::send`] of memory that can be read for certain.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn send_bytes(
        self: &Arc<Self>,
        data: &[&[u8]],
        content_type: Option<u8>,
        flags: SendFlags,
    ) -> Result<usize> {
        let data: Vec<Span<'_>> = data.iter().map(|bytes| Span::from(*bytes)).collect();
        self.send(&data, content_type, flags)
    }

    /// Accepts application data without copying it: with an asynchronous engine the pages are read
    /// by the thread that seals, and are free when [`Connection::pending`] has passed them.
    ///
    /// # Errors
    /// As for [`Connection::send`].
    pub fn send_pages(self: &Arc<Self>, pages: Pages, flags: SendFlags) -> Result<usize> {
        let total = pages.len();
        self.accept(Source::Pages(pages), total, None, flags)
    }

    fn accept(
        self: &Arc<Self>,
        mut source: Source<'_>,
        total: usize,
        content_type: Option<u8>,
        flags: SendFlags,
    ) -> Result<usize> {
        reserve::admit()?;
        let _turn = self.take_turn(flags)?;
        if total == 0 && content_type.is_none() {
            return Ok(0);
        }
        self.begins(flags)?;
        let mut accepted = 0;
        let Some(mut sender) = self.begin_call() else {
            return self.go_on_shared(&mut source, total, accepted, content_type, flags);
        };
        let mut stopped = None;
        let asked_type = content_type;
        if content_type.is_some() {
            // TX-20: what was open is a record of its own, of application data.
            stopped = self.seal_open_as(&mut sender, APPLICATION_DATA).err();
        }
        let content_type = content_type.unwrap_or(APPLICATION_DATA);
        while accepted < total && stopped.is_none() {
            let left = total - accepted;
            let (still, room) = self.make_room(sender, flags);
            sender = match (still, room) {
                (Some(sender), _) => sender,
                // A fork came while the call slept.
                (None, Ok(())) => {
                    return self.go_on_shared(&mut source, left, accepted, asked_type, flags);
                }
                (None, Err(error)) => {
                    return signalled(flags, conclude(accepted, Some(error), None));
                }
            };
            let taken = room.and_then(|()| {
                reserve::admit()?;
                self.take_record(&mut sender, &mut source, left, content_type, flags.more)
            });
            match taken {
                Ok(taken) => accepted += taken,
                Err(error) => stopped = Some(error),
            }
        }
        let failed = self.end_call(sender, accepted);
        signalled(flags, conclude(accepted, stopped, failed))
    }

    /// A send on a connection that is shared, or has come to be.
    fn go_on_shared(
        self: &Arc<Self>,
        source: &mut Source<'_>,
        left: usize,
        accepted: usize,
        content_type: Option<u8>,
        flags: SendFlags,
    ) -> Result<usize> {
        let joint = self.joint().ok_or(Error::NotRecoverable)?;
        let rest = Rest {
            source,
            left,
            accepted,
            content_type,
            is_bad: false,
        };
        self.send_shared(joint, rest, flags)
    }

    /// Waits for the calls of other threads to end (MT-2, MT-3).
    pub(super) fn take_turn<'a>(self: &'a Arc<Self>, flags: SendFlags) -> Result<Turn<'a>> {
        let turn = |guard| Turn {
            guard: Some(guard),
            connection: self,
        };
        if let Some(guard) = self.turn.try_take() {
            return Ok(turn(guard));
        }
        let hurries = flags.dont_wait || self.shared.sys.is_nonblocking(self.fd());
        loop {
            // The holder sleeps because the kernel refused bytes. Where it waits for an engine, that is bounded, and
            // nobody is owed anything.
            let sleeps = hurries && self.is(SLEEPING) && self.is(BLOCKED);
            if sleeps && self.is_refused() {
                return Err(Error::WouldBlock);
            }
            // MT-3: interruptible. A call that does not wait looks again, as the holder may fall asleep.
            match self.turn.take(hurries.then_some(AWAKENING)) {
                Ok(guard) => return Ok(turn(guard)),
                Err(Woken::TimedOut) => {}
                // A signal handler, in the sleep itself.
                Err(Woken::Beneath) if sleeps => return Err(Error::WouldBlock),
                Err(Woken::Beneath) => return Err(Error::Deadlock),
                Err(_) => return Err(Error::Interrupted),
            }
        }
    }

    /// A call's turn has come: whether there still is a socket, and what is known to be wrong with it.
    pub(super) fn begins(&self, flags: SendFlags) -> Result<()> {
        if self.fd() < 0 {
            return Err(Error::Closed);
        }
        signalled(flags, self.check())
    }

    /// Every call on the stream begins here, and ends in [`Connection::end_call`], unless the
    /// connection is shared.
    pub(super) fn begin_call(&self) -> Option<MutexGuard<'_, Sender>> {
        let calls = self.calls.load(Ordering::Relaxed);
        // A plain store will do: only the holder of `turn` writes.
        self.calls.store(calls.wrapping_add(1), Ordering::Relaxed);
        let mut sender = self.private()?;
        let segments_in = || self.shared.sys.segments_in(self.fd());
        if self.is(PAUSED) {
            self.unset(PAUSED);
            sender.pace.paused();
        }
        let heard = self.is(HEARD);
        if heard {
            self.unset(HEARD);
        }
        sender.pace.call(heard, Instant::now, segments_in);
        self.promise_to_poll(&sender);
        Some(sender)
    }

    /// A call that does not stream looks at the list before it returns, so completions need not
    /// transmit; [`Connection::end_call`] or a sleep takes the promise back.
    pub(super) fn promise_to_poll(&self, sender: &Sender) {
        if self.may_hand_off() && !sender.pace.streams() {
            self.set(CALLER_POLLS);
        }
    }

    /// Transmits what the call has sealed, or defers it; returns the error if the socket has died.
    pub(super) fn end_call(
        self: &Arc<Self>,
        mut sender: MutexGuard<'_, Sender>,
        accepted: usize,
    ) -> Option<Error> {
        if self.counts.queued.load(Ordering::Relaxed) == 0 {
            drop(sender);
            self.unset(CALLER_POLLS);
            return None;
        }
        let streams = sender.pace.streams();
        let head =
            !streams && accepted < TIMED && sender.run.is_some() && sender.pace.expects_more();
        if streams {
            self.relay_if_due(&mut sender);
        }
        if (streams || head) && !self.is_full() {
            if accepted >= TIMED {
                sender.pace.resumed(Instant::now());
            }
            // Or on the list, if it was published for a thread that then was not to be had. Who finds RELAYED set
            // after that is served.
            let left_behind =
                sender.run.is_some() || (!self.is(RELAYED) && self.list.head() == Head::Ready);
            drop(sender);
            self.unset(CALLER_POLLS);
            if left_behind {
                self.defer(head);
            }
            return None;
        }
        self.publish(&mut sender);
        drop(sender);
        let outcome = match self.list.head() {
            Head::Ready | Head::Failed => self.transmit(By::Caller, false),
            Head::Empty | Head::InFlight => None,
        };
        if self.is(CALLER_POLLS) {
            self.stop_polling(By::Caller);
        }
        self.cancel_if_drained();
        if outcome.is_some()
            && let Some(mut sender) = self.private()
        {
            sender.pace.resumed(Instant::now());
        }
        match outcome {
            Some(Outcome::Failed(_)) => self.check().err(),
            _ => None,
        }
    }

    pub(super) fn cancel_if_drained(&self) {
        if self.counts.queued.load(Ordering::Relaxed) == 0 {
            self.cancel_deferral();
        }
    }

    pub(super) fn count_accepted(&self, len: usize) {
        let accepted = self.counts.accepted.load(Ordering::Relaxed);
        // A plain store will do, as only the holder of the sender's lock writes. Release: pairs with
        // the Acquire in `pending`.
        self.counts
            .accepted
            .store(accepted + len as u64, Ordering::Release);
    }
}

/// Raises `SIGPIPE` for a broken pipe, unless the call said not to (TX-38).
pub(super) fn signalled<T>(flags: SendFlags, result: Result<T>) -> Result<T> {
    if matches!(result, Err(Error::BrokenPipe)) && !flags.no_signal {
        raise_sigpipe();
    }
    result
}

/// From this many bytes on, sealing takes so long that it would be mistaken for a pause.
const TIMED: usize = 4096;

/// What a call returns: the bytes accepted, if there are any and the socket is not known to be
/// dead; else why there are none (TX-32).
pub(super) fn conclude(
    accepted: usize,
    stopped: Option<Error>,
    failed: Option<Error>,
) -> Result<usize> {
    match (stopped, failed) {
        (None, Some(dead)) => Err(dead),
        (Some(error), _) if accepted == 0 => Err(error),
        _ => Ok(accepted),
    }
}
