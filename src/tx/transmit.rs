//! Handing sealed records to the kernel: from the caller, from the worker, and at the end.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::deferral::Scheduled;
use super::ready_list::Head;
use super::writer::{Moved, Outcome, Segment, Writer};
use super::{BLOCKED, BRIEFLY, BROKEN, CALLER_POLLS, Connection, HEARD, PAUSED, Sender};
use crate::engine::{Sealed, SealedRecord, buffer};
use crate::error::Result;
use crate::stats::STATS;
use crate::sync::{MutexGuard, lock, try_lock};

/// In whose context records go out, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Caller,
    /// A caller that sleeps if the kernel refuses bytes.
    Sleeper,
    Worker,
    /// A thread of the engine's, while calls go on sealing; for as long as nobody else wants the writer.
    Relay,
}

/// What the worker learns from a look at a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Look again at the next tick.
    Again,
    /// Nothing is deferred any more.
    Done,
}

impl Connection {
    /// Hands what is ready to the kernel. With `patient` it waits for another transmitter to
    /// finish first, so that what it reports is news; otherwise a busy writer is left alone: its
    /// holder looks at the list again after letting go.
    ///
    /// No wake-up is lost between the two: whoever queues a record does so under the ready list's
    /// lock before it tries the writer, and the holder looks at the list, under the same lock,
    /// after releasing the writer. One of the two comes second and sees the record.
    pub(super) fn transmit(self: &Arc<Self>, by: By, patient: bool) -> Option<Outcome> {
        if let Some(joint) = self.joint() {
            return Some(self.transmit_shared(joint, by));
        }
        loop {
            let mut writer = match try_lock(&self.writer) {
                Some(writer) => writer,
                None if patient => self.wait_for_writer(),
                None => return None,
            };
            if self.is(BROKEN) {
                writer.clear();
                return Some(Outcome::Failed(self.dead_errno()));
            }
            let (outcome, moved) =
                writer.transmit(self.shared.sys, self.fd(), &self.list, by == By::Relay);
            self.account(by, &moved);
            match outcome {
                // Everything in front of the record that could not be sealed has gone out.
                Outcome::Drained(Head::Failed) => self.fail(Errno::BADMSG),
                Outcome::Drained(_) => {
                    if self.is(BLOCKED) {
                        self.unset(BLOCKED);
                        self.room.signal();
                    }
                }
                Outcome::Refused => {
                    self.set(BLOCKED);
                }
                Outcome::Failed(errno) => {
                    writer.clear();
                    self.fail(errno);
                }
            }
            drop(writer);
            if matches!(outcome, Outcome::Drained(_)) && self.list.head() == Head::Ready {
                if by == By::Relay && self.is_wanted() {
                    return Some(outcome);
                }
                continue;
            }
            // A caller that sleeps for the room transmits when it comes, or else tells the worker.
            if outcome == Outcome::Refused && by != By::Sleeper {
                self.shared.waker.watch(self);
            }
            self.after(outcome);
            return Some(outcome);
        }
    }

    /// Whether somebody waits for the writer.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0
    }

    pub(super) fn wait_for_writer(&self) -> MutexGuard<'_, Writer> {
        // Relaxed: a hint, for the locks to be fair.
        self.wanted.fetch_add(1, Ordering::Relaxed);
        let writer = lock(&self.writer);
        self.wanted.fetch_sub(1, Ordering::Relaxed);
        writer
    }

    /// The worker's look at a connection that deferred something: transmits if the program has
    /// been quiet since the last look or `overdue` says that it has waited long enough.
    pub fn look(self: &Arc<Self>, seen_calls: &mut u32, overdue: bool) -> Look {
        let calls = self.calls.load(Ordering::Relaxed);
        let quiet = core::mem::replace(seen_calls, calls) == calls;
        if self.deferral.is_scheduled() {
            if quiet {
                self.set(PAUSED);
            }
            if quiet || overdue {
                // A call at work does it by itself or leaves it for the next look.
                self.push_deferred(By::Worker);
            }
            return Look::Again;
        }
        // Kept for one quiet tick more, so that a stream is not handed over again and again.
        if !quiet || !self.deferral.release() {
            return Look::Again;
        }
        self.trim();
        Look::Done
    }

    /// Whether what was deferred is there for the next call rather than for the worker, which may take
    /// its time.
    pub fn waits_briefly(&self) -> bool {
        self.is(BRIEFLY)
    }

    /// The program turns to receiving: its answer is complete, as far as it goes.
    pub fn heard(self: &Arc<Self>) {
        if !self.is(HEARD) {
            self.set(HEARD);
        }
        if self.is(BRIEFLY) && self.deferral.is_scheduled() {
            self.push_deferred(By::Caller);
        }
    }

    /// There is room in the socket again.
    pub fn room(self: &Arc<Self>) {
        if let Some(mut sender) = self.try_private() {
            self.publish(&mut sender);
        }
        self.transmit(By::Worker, false);
    }

    /// Transmits what a burst left behind, unless a call is at work.
    fn push_deferred(self: &Arc<Self>, by: By) {
        if self.joint().is_some() {
            // Scheduled before it was shared; what was left behind is in the shared queue.
            self.deferral.begin();
            self.transmit(by, false);
            return;
        }
        let Some(mut sender) = self.try_private() else {
            return;
        };
        self.deferral.begin();
        self.publish(&mut sender);
        drop(sender);
        self.transmit(by, false);
    }

    /// Moves whatever is queued along as far as the kernel takes it at once (`tls_poll`).
    pub fn push(self: &Arc<Self>) {
        if let Some(joint) = self.joint() {
            if !self.is_drained() {
                self.transmit_shared(joint, By::Caller);
            }
            return;
        }
        if self.deferral.is_scheduled() {
            self.push_deferred(By::Caller);
        }
    }

    /// Puts the caller's run of sealed records on the ready list.
    pub(super) fn publish(&self, sender: &mut Sender) {
        if let Some(run) = sender.run.take() {
            // Once a run: a counter that every record touches would be a tenth of its cost.
            STATS.sealed_inline.add(run.records.into());
            self.list.push(run);
        }
        STATS.queue_records_max.raise(self.records_queued(sender));
        STATS
            .queue_bytes_max
            .raise(self.counts.queued.load(Ordering::Relaxed));
    }

    /// Leaves what is queued to the worker; `briefly` if the next call, which is to come at once, is
    /// going to take it along, and the worker is there in case it does not come.
    pub(super) fn defer(self: &Arc<Self>, briefly: bool) {
        // Not a flag of the deferral: when it turns, the worker finds out at its next look.
        if briefly != self.is(BRIEFLY) {
            if briefly {
                self.set(BRIEFLY);
            } else {
                self.unset(BRIEFLY);
            }
        }
        match self.deferral.schedule() {
            Scheduled::Already => return,
            Scheduled::Again => {}
            Scheduled::HandOver => self.shared.waker.defer(self),
        }
        STATS.deferred_scheduled.add(1);
    }

    /// A call has transmitted everything by itself: the worker need not.
    pub(super) fn cancel_deferral(&self) {
        if self.deferral.cancel() {
            STATS.deferred_cancelled.add(1);
        }
    }

    fn account(&self, by: By, moved: &Moved) {
        if moved.calls == 0 {
            return;
        }
        // Release: pairs with the Acquire in `pending`: the records are gone, their pages unused.
        self.counts.handed.fetch_add(moved.plain, Ordering::Release);
        let before = self.counts.queued.fetch_sub(moved.wire, Ordering::AcqRel);
        // Once per half a queue, not once per record: each wake-up is two switches of context.
        let low = self.settings.queue_max as u64 / 2;
        if before >= low && before - moved.wire < low {
            self.room.signal();
        }
        let records = moved.records;
        self.counts
            .records_sent
            .fetch_add(records, Ordering::Relaxed);
        moved.count(by);
        self.moved.signal();
    }

    /// An idle connection holds no buffers, and the lists give back what a burst made them grow to.
    fn trim(self: &Arc<Self>) {
        buffer::trim();
        self.list.trim();
        if let Some(mut writer) = try_lock(&self.writer) {
            writer.trim();
        }
        // Whoever found the writer busy meanwhile counts on this look.
        if self.list.head() == Head::Ready && !self.is(BLOCKED) {
            self.transmit(By::Worker, false);
        }
    }
}

/// A record comes back from an engine, on any thread, in any order.
impl Sealed for Connection {
    fn sealed(self: Arc<Self>, ticket: u64, result: Result<SealedRecord>) {
        let segment = match result {
            Ok(SealedRecord { buffer, len, plain }) => Some(Segment {
                buffer,
                len,
                records: 1,
                plain,
            }),
            Err(error) => {
                self.refuse(error.errno());
                None
            }
        };
        let completed = self.list.complete(ticket, segment);
        // Records that are about to complete on other threads are waited for and go out together,
        // unless there is a call's worth already. The last completion finds none in flight.
        let worthwhile = completed.in_flight == 0 || completed.ready >= GATHER_RECORDS;
        let due = matches!(completed.head, Head::Ready | Head::Failed) && worthwhile;
        // Blocked: the worker waits for room and transmits then.
        if due && !self.is(CALLER_POLLS | BLOCKED) {
            STATS.deferred_scheduled.add(1);
            self.transmit(By::Worker, false);
        }
        self.moved.signal();
    }
}

impl Connection {
    /// The end of a call that promised to look at the list (`CALLER_POLLS`): takes the promise
    /// back, then looks once more, for a record that completed in between.
    pub(super) fn stop_polling(self: &Arc<Self>, by: By) {
        self.unset(CALLER_POLLS);
        if self.list.head() == Head::Ready && !self.is(BLOCKED) {
            self.transmit(by, false);
        }
    }
}

/// Full records that make a gathered call worth its while.
const GATHER_RECORDS: usize = 8;
