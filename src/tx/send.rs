//! Sends: the program's bytes become records.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::open_record::OpenRecord;
use super::ready_list::Head;
use super::shared_calls::Rest;
use super::transmit::By;
use super::writer::{Outcome, Segment};
use super::{BLOCKED, CALLER_POLLS, CLOSING, Connection, HEARD, PAUSED, RELAYED, SLEEPING, Sender};
use crate::engine::{Buffer, Completion, Job, Kind};
use crate::error::{Error, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::stats::STATS;
use crate::sync::{MutexGuard, Woken, lock, try_lock};
use crate::sys::copy::copy;
use crate::sys::net::raise_sigpipe;
use crate::sys::pages::Pages;

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
    guard: Option<MutexGuard<'a, ()>>,
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

/// Where a send stands in the program's data.
pub(super) enum Source<'a> {
    /// Slices, read before the call returns.
    Slices { slices: &'a [&'a [u8]], at: usize },
    /// Pages, read by whoever seals.
    Pages(Pages),
}

impl Connection {
    /// Accepts `data` as record(s) of `content_type`, application data by default.
    ///
    /// Returns the plaintext bytes accepted: sealed, being sealed, or in the open record (TX-24).
    ///
    /// # Errors
    /// [`Error::WouldBlock`] only if the kernel has just refused bytes; [`Error::Interrupted`];
    /// [`Error::BrokenPipe`] (with `SIGPIPE`, unless told otherwise) and the other sticky errors.
    pub fn send(
        self: &Arc<Self>,
        data: &[&[u8]],
        content_type: Option<u8>,
        flags: SendFlags,
    ) -> Result<usize> {
        let total = data.iter().map(|slice| slice.len()).sum();
        self.accept(Source::slices(data), total, content_type, flags)
    }

    /// Accepts application data without copying it: with an asynchronous engine the pages are read
    /// by the thread that seals, and are free when [`Connection::pending`] has passed them.
    ///
    /// # Errors
    /// As for [`Connection::send`].
    pub fn send_pages(self: &Arc<Self>, pages: Pages, flags: SendFlags) -> Result<usize> {
        let total = pages.bytes().len();
        self.accept(Source::Pages(pages), total, None, flags)
    }

    fn accept(
        self: &Arc<Self>,
        mut source: Source<'_>,
        total: usize,
        content_type: Option<u8>,
        flags: SendFlags,
    ) -> Result<usize> {
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
        };
        self.send_shared(joint, rest, flags)
    }

    /// Waits for the calls of other threads to end (MT-2, MT-3).
    pub(super) fn take_turn<'a>(self: &'a Arc<Self>, flags: SendFlags) -> Result<Turn<'a>> {
        let turn = |guard| Turn {
            guard: Some(guard),
            connection: self,
        };
        if let Some(guard) = try_lock(&self.turn) {
            return Ok(turn(guard));
        }
        // The holder sleeps because the kernel refused bytes: it owes everybody an EPOLLOUT.
        if self.is(SLEEPING) && (flags.dont_wait || self.shared.sys.is_nonblocking(self.fd())) {
            return Err(Error::WouldBlock);
        }
        Ok(turn(lock(&self.turn)))
    }

    /// A call's turn has come: whether there still is a socket, and what is known to be wrong with it.
    pub(super) fn begins(&self, flags: SendFlags) -> Result<()> {
        if self.fd() < 0 {
            // Closed by another thread before the call began.
            return Err(Error::Os(Errno::BADF));
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
    fn promise_to_poll(&self, sender: &Sender) {
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
            let left_behind = sender.run.is_some();
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
        let result = self.wait_for_room(flags);
        let mut sender = self.private();
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
                Ok(false) => {}
                // TX-31: restarted if every handler asks for it and there is no time-out.
                Err(Errno::INTR) if left.is_none() && self.shared.sys.handlers_restart() => {}
                Err(Errno::INTR) => return Err(Error::Interrupted),
                // The send that follows says what is wrong.
                Err(_) => return Ok(()),
            }
        }
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

    fn cancel_if_drained(&self) {
        if self.counts.queued.load(Ordering::Relaxed) == 0 {
            self.cancel_deferral();
        }
    }

    /// Moves up to one record's worth from `source` (`left` bytes remain in it) into the stream.
    fn take_record(
        self: &Arc<Self>,
        sender: &mut Sender,
        source: &mut Source<'_>,
        left: usize,
        content_type: u8,
        more: bool,
    ) -> Result<usize> {
        let limit = sender.max_payload;
        let open = sender.open.as_ref().map_or(0, OpenRecord::len);
        let taken = left.min(limit - open);
        let complete = open + taken == limit || (taken == left && !more);
        if open == 0
            && complete
            && !self.hands_off(taken, sender.pace.streams())
            && let Some(bytes) = source.contiguous(taken)
        {
            self.seal_slice(sender, content_type, bytes)?;
            source.skip(taken);
            self.count_accepted(taken);
            return Ok(taken);
        }
        let prefix = sender.sealer.prefix_len();
        let record = sender.open.get_or_insert_with(|| OpenRecord::new(prefix));
        match source {
            Source::Pages(pages) if self.settings.engine == Kind::Threads => {
                record.push_pages(pages.split_to(taken));
            }
            _ => source.copy_to(record, taken),
        }
        self.count_accepted(taken);
        if complete {
            self.seal_open_as(sender, content_type)?;
        }
        Ok(taken)
    }

    pub(super) fn count_accepted(&self, len: usize) {
        let accepted = self.counts.accepted.load(Ordering::Relaxed);
        // A plain store will do, as only the holder of the sender's lock writes. Release: pairs with
        // the Acquire in `pending`.
        self.counts
            .accepted
            .store(accepted + len as u64, Ordering::Release);
    }

    /// Whether any record ever goes to the pool.
    fn may_hand_off(&self) -> bool {
        self.hands_off(usize::MAX, true)
    }

    /// Whether a record of `len` bytes goes to the pool.
    fn hands_off(&self, len: usize, streams: bool) -> bool {
        match self.settings.engine {
            Kind::Inline => false,
            Kind::Threads => len >= HAND_OFF_MIN,
            Kind::Accelerator => len >= ACCELERATE_MIN,
            Kind::Auto => streams && len >= HAND_OFF_MIN && self.settings.cores >= AUTO_CORES,
        }
    }

    /// Seals `plain` as one record in the caller, straight from the program's memory.
    fn seal_slice(&self, sender: &mut Sender, content_type: u8, plain: &[u8]) -> Result<()> {
        let number = self.reserve(sender)?;
        let len = plain.len() + sender.sealer.overhead();
        if sender
            .run
            .as_ref()
            .is_some_and(|run| run.len + len > Buffer::LEN)
        {
            self.publish(sender);
        }
        let run = sender.run.get_or_insert_with(|| Segment {
            buffer: Buffer::take(),
            len: 0,
            records: 0,
            plain: 0,
        });
        let out = &mut run.buffer.bytes_mut()[run.len..run.len + len];
        let sealer = &sender.sealer;
        self.sealed_here(|| sealer.seal_from(number, content_type, plain, out))?;
        run.len += len;
        run.records += 1;
        run.plain += plain.len();
        sender.sealed += 1;
        self.counts.queued.fetch_add(len as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Seals the open record, if there is one, in the caller's or the program's name.
    pub(super) fn seal_open(self: &Arc<Self>) -> Result<()> {
        let Some(mut sender) = self.private() else {
            // `drain_shared` seals it.
            return Ok(());
        };
        let result = self.seal_open_as(&mut sender, APPLICATION_DATA);
        self.publish(&mut sender);
        result
    }

    /// Seals or submits the open record.
    pub(super) fn seal_open_as(
        self: &Arc<Self>,
        sender: &mut Sender,
        content_type: u8,
    ) -> Result<()> {
        let Some(record) = sender.open.take_if(|open| open.len() > 0) else {
            return Ok(());
        };
        let streams = sender.pace.streams();
        let hand_off = self.hands_off(record.len(), streams) || record.copied().is_none();
        if let Some(plain) = record
            .copied()
            .filter(|plain| !hand_off && plain.len() <= RUN_MAX)
        {
            return self.seal_slice(sender, content_type, plain);
        }
        let number = self.reserve(sender)?;
        // The list is in sequence order: what was sealed before enters it before this record.
        self.publish(sender);
        let (mut buffer, plaintext, plain) = record.into_parts();
        let len = plain + sender.sealer.overhead();
        if hand_off {
            self.counts.queued.fetch_add(len as u64, Ordering::Relaxed);
            sender.sealed += 1;
            self.shared.pool.submit(Job {
                sealer: Arc::clone(&sender.sealer),
                number,
                content_type,
                buffer,
                plaintext,
                len: plain,
                completion: Completion::new(Arc::<Connection>::clone(self), self.list.reserve()),
            });
            return Ok(());
        }
        let out = buffer.head_mut(len);
        STATS.sealed_inline.add(1);
        self.sealed_here(|| sender.sealer.seal_in_place(number, content_type, out))?;
        self.counts.queued.fetch_add(len as u64, Ordering::Relaxed);
        sender.sealed += 1;
        self.list.push(Segment {
            buffer,
            len,
            records: 1,
            plain,
        });
        Ok(())
    }

    /// Seals in the caller; a record that cannot be sealed ends the connection (AS-6).
    pub(super) fn sealed_here(&self, seal: impl FnOnce() -> Result<()>) -> Result<()> {
        #[cfg(feature = "fault-injection")]
        let seal = || crate::engine::fault::point().and_then(|()| seal());
        seal().inspect_err(|error| self.refuse(error.errno()))
    }

    /// The number of the next record. It is spent from now on, whatever becomes of the record.
    fn reserve(&self, sender: &mut Sender) -> Result<crate::record::RecordNumber> {
        sender.numbers.reserve().ok_or_else(|| {
            self.refuse(Error::SealFailed.errno());
            Error::SealFailed
        })
    }
}

impl<'a> Source<'a> {
    pub(super) fn slices(slices: &'a [&'a [u8]]) -> Source<'a> {
        Source::Slices { slices, at: 0 }
    }

    /// The next `len` bytes, if they lie in one piece.
    fn contiguous(&self, len: usize) -> Option<&[u8]> {
        match self {
            Source::Pages(pages) => pages.bytes().get(..len),
            Source::Slices { slices, at } => slices.first()?.get(*at..)?.get(..len),
        }
    }

    pub(super) fn skip(&mut self, mut len: usize) {
        match self {
            Source::Pages(pages) => drop(pages.split_to(len)),
            Source::Slices { slices, at } => {
                while let Some(first) = slices.first().filter(|first| len >= first.len() - *at) {
                    len -= first.len() - *at;
                    *slices = &slices[1..];
                    *at = 0;
                }
                *at += len;
            }
        }
    }

    fn copy_to(&mut self, record: &mut OpenRecord, len: usize) {
        self.copy_out(record.space(len));
        record.grow(len);
    }

    /// Fills `out` with the next bytes.
    pub(super) fn copy_out(&mut self, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let len = out.len() - done;
            let piece = match self {
                Source::Pages(pages) => &pages.bytes()[..len],
                Source::Slices { slices, at } => {
                    let rest = slices.first().map_or(&[][..], |first| &first[*at..]);
                    &rest[..len.min(rest.len())]
                }
            };
            let copied = piece.len();
            copy(piece, &mut out[done..][..copied]);
            self.skip(copied);
            done += copied;
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

/// Raises `SIGPIPE` for a broken pipe, unless the call said not to (TX-38).
pub(super) fn signalled<T>(flags: SendFlags, result: Result<T>) -> Result<T> {
    if matches!(result, Err(Error::BrokenPipe)) && !flags.no_signal {
        raise_sigpipe();
    }
    result
}

/// Sealed bytes at which a streaming caller transmits by itself.
pub(super) const BATCH: usize = 256 * 1024;

/// From this many bytes on, sealing takes so long that it would be mistaken for a pause.
const TIMED: usize = 4096;

/// Shorter records are sealed in the caller: handing one over costs more than sealing it.
const HAND_OFF_MIN: usize = 4096;

/// The same for an accelerator, which leaves the processor to the program. What is shorter fails in the call that
/// sends it, as in the kernel.
const ACCELERATE_MIN: usize = 1024;

/// Open records up to this length join the run of the caller's records instead of keeping their
/// own memory.
const RUN_MAX: usize = 4096;

/// Fewer processors than this and the pool only takes time from whoever else wants to run.
const AUTO_CORES: usize = 4;

/// How a sleep for room ended, as a send reports it.
pub(super) fn slept(woken: Woken) -> Result<()> {
    match woken {
        Woken::Signalled => Ok(()),
        // SO_SNDTIMEO ran out (TX-30).
        Woken::TimedOut => Err(Error::WouldBlock),
        Woken::Interrupted => Err(Error::Interrupted),
    }
}

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
