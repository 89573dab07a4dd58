//! The calls on a connection that several processes send on: what `send`, `file` and `transmit` do
//! for one that is this process's alone.
//!
//! A sending call holds the private turn and then the shared one from its first byte to its last
//! (MT-2, across processes), sleeps included. The state's lock is held for one step at a time:
//! seal what there is room for, hand it to the kernel.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::thread::futex;

use super::file::FileSource;
use super::room::{AWAKENING, Patience};
use super::send::{SendFlags, conclude, signalled};
use super::shared::{ASLEEP, Joint, Locked};
use super::source::Source;
use super::transmit::By;
use super::writer::Outcome;
use super::{BROKEN, Connection};
use crate::engine::Buffer;
use crate::error::{Error, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::sys::gather::Span;
use crate::sys::members::is_alive;
use crate::sys::reserve;
use crate::sys::robust::RobustGuard;

/// What a call still has to do.
pub(super) struct Rest<'s, 'd> {
    pub source: &'s mut Source<'d>,
    /// Bytes left in the source.
    pub left: usize,
    /// Bytes accepted so far.
    pub accepted: usize,
    /// The record type that the call sets, if it does.
    pub content_type: Option<u8>,
    /// Memory was met that cannot be read: what is accepted is all (TX-13).
    pub is_bad: bool,
}

impl Rest<'_, '_> {
    fn stopped(&self) -> Option<Error> {
        self.is_bad.then_some(Error::BadAddress)
    }
}

/// What a step of a call came to.
enum Step {
    /// All is accepted. The kernel may have said that it is dead.
    Done(Option<Error>),
    /// The kernel has just refused bytes.
    Refused,
}

impl Connection {
    /// The rest of a send.
    pub(super) fn send_shared(
        self: &Arc<Self>,
        joint: &Joint,
        mut rest: Rest<'_, '_>,
        flags: SendFlags,
    ) -> Result<usize> {
        let (stopped, failed) = match self.take_shared_turn(joint, flags) {
            Ok(_turn) => self.run_shared(joint, &mut rest, flags, flags.more),
            Err(error) => (Some(error), None),
        };
        signalled(flags, conclude(rest.accepted, stopped, failed))
    }

    /// The rest of a `sendfile` or `splice`, `accepted` bytes into it; `read` has been read and
    /// is still to be accepted.
    pub(super) fn send_file_shared(
        self: &Arc<Self>,
        joint: &Joint,
        source: FileSource,
        read: &[u8],
        accepted: usize,
        flags: SendFlags,
    ) -> Result<usize> {
        let turn = self.take_shared_turn(joint, flags);
        if let Err(error) = turn {
            return signalled(flags, conclude(accepted, Some(error), None));
        }
        let (mut accepted, mut read) = (accepted, read);
        let (mut stopped, mut failed) = (None, None);
        let mut buffer = Buffer::try_take();
        let mut patience = None;
        loop {
            if !read.is_empty() {
                let spans = [Span::from(read)];
                let mut rest = Rest {
                    source: &mut Source::memory(&spans),
                    left: read.len(),
                    accepted: 0,
                    content_type: None,
                    is_bad: false,
                };
                (stopped, failed) = self.run_shared(joint, &mut rest, flags, true);
                accepted += rest.accepted;
            }
            if accepted >= source.count || stopped.is_some() || failed.is_some() {
                break;
            }
            // Room first: what was read from a pipe cannot be put back.
            let room = self.drained(joint, flags, &mut patience);
            let wanted = room.and_then(|()| {
                let locked = self.lock_joint(joint)?;
                let state = locked.state();
                Ok(state.max_payload.saturating_sub(state.open_len).max(1))
            });
            let got = wanted.and_then(|wanted| {
                reserve::admit()?;
                let buffer = buffer.as_mut().map_err(|error| *error)?;
                let wanted = wanted.min(source.count - accepted);
                self.read_from(buffer.head_mut(wanted), source, accepted)
            });
            match got {
                Ok(0) => break,
                Ok(len) => read = buffer.as_ref().map_or(&[][..], |buffer| buffer.head(len)),
                Err(error) => {
                    stopped = Some(error);
                    break;
                }
            }
        }
        // TX-43, TX-46: an empty source leaves the open record alone.
        if accepted > 0 && !flags.more && failed.is_none() {
            let sealed = self.lock_joint(joint).and_then(|mut locked| {
                let sealed = locked.seal_open_data().err();
                let outcome = locked.transmit(By::Caller);
                drop(locked);
                self.watch_if_refused(outcome);
                sealed.map_or(Ok(()), Err)
            });
            stopped = sealed.err().or(stopped);
        }
        signalled(flags, conclude(accepted, stopped, failed))
    }

    /// Accepts the rest of a call whose turn it is: returns why it stopped early, and whether the
    /// connection died at its very end.
    fn run_shared(
        self: &Arc<Self>,
        joint: &Joint,
        rest: &mut Rest<'_, '_>,
        flags: SendFlags,
        more: bool,
    ) -> (Option<Error>, Option<Error>) {
        let mut patience = None;
        loop {
            // The kernel is asked first, so that EAGAIN is its own answer (rule 4).
            if rest.left > 0
                && let Err(error) = self.drained(joint, flags, &mut patience)
            {
                return (Some(error), None);
            }
            let step = self
                .lock_joint(joint)
                .and_then(|mut locked| locked.step(rest, more));
            match step {
                Ok(Step::Done(failed)) => return (rest.stopped(), failed),
                Ok(Step::Refused) if rest.left == 0 => {
                    // A call that may sleep leaves nothing behind: a process that dies after it, or
                    // ends by `_exit`, has nobody else who knows of the bytes.
                    let dead = self.linger_in_call(joint, flags, &mut patience);
                    return (rest.stopped(), dead);
                }
                Ok(Step::Refused) => {}
                Err(error) => return (Some(error), None),
            }
        }
    }

    /// Returns when the kernel has all that was sealed; sleeps, or says EAGAIN, while it refuses.
    fn drained(
        self: &Arc<Self>,
        joint: &Joint,
        flags: SendFlags,
        patience: &mut Option<Patience>,
    ) -> Result<()> {
        loop {
            let outcome = self.lock_joint(joint)?.transmit(By::Caller);
            match outcome {
                Outcome::Drained(_) => return self.check(),
                Outcome::Failed(_) => return self.check().and(Err(Error::BrokenPipe)),
                Outcome::Refused => {}
            }
            let patience = *patience.get_or_insert_with(|| self.patience(flags));
            let slept = if patience.sleeps {
                joint.memory.flags.fetch_or(ASLEEP, Ordering::AcqRel);
                let slept = self.asleep(|| self.sleep_for_room(patience));
                joint.memory.flags.fetch_and(!ASLEEP, Ordering::AcqRel);
                slept
            } else {
                Err(Error::WouldBlock)
            };
            // The worker goes on where this call gives up.
            slept.inspect_err(|_| self.watch_shared())?;
            self.check()?;
        }
    }

    /// The end of a call that has left bytes in the queue. What it waits for in vain, a signal or
    /// the time being up, the worker does.
    fn linger_in_call(
        self: &Arc<Self>,
        joint: &Joint,
        flags: SendFlags,
        patience: &mut Option<Patience>,
    ) -> Option<Error> {
        match self.drained(joint, flags, patience) {
            Err(Error::WouldBlock | Error::Interrupted) | Ok(()) => None,
            Err(dead) => Some(dead),
        }
    }

    /// Waits for the calls of other processes to end.
    pub(super) fn take_shared_turn<'a>(
        &self,
        joint: &'a Joint,
        flags: SendFlags,
    ) -> Result<RobustGuard<'a>> {
        let head = &*joint.memory;
        let hurries = || flags.dont_wait || self.shared.sys.is_nonblocking(self.fd());
        loop {
            let turn = match joint.memory.turn().try_lock().map_err(Error::Os)? {
                Some(turn) => turn,
                // Its holder sleeps because the kernel refused bytes.
                None if head.is(ASLEEP) && hurries() && self.is_refused() => {
                    return Err(Error::WouldBlock);
                }
                None if hurries() => {
                    // It is at work, or about to wake; and may fall asleep.
                    std::thread::sleep(AWAKENING);
                    continue;
                }
                None => joint.memory.turn().lock().map_err(Error::Os)?,
            };
            if turn.owner_died() {
                head.flags.fetch_and(!ASLEEP, Ordering::AcqRel);
            }
            let first = head.reserved.load(Ordering::Acquire);
            if first == 0 || first == std::process::id() || !is_alive(first) {
                joint.end_reservation(first);
                return Ok(turn);
            }
            // A sender that slept at the fork comes first; only its own process can take the turn
            // for it.
            drop(turn);
            if hurries() && self.is_refused() {
                return Err(Error::WouldBlock);
            }
            let slice = futex::Timespec {
                tv_sec: 0,
                tv_nsec: 50_000_000,
            };
            // Not private: the waker is another process. A signal or time-out only looks again.
            let _ = futex::wait(&head.reserved, futex::Flags::empty(), first, Some(&slice));
        }
    }

    /// Hands what is queued to the kernel without waiting.
    pub(super) fn transmit_shared(self: &Arc<Self>, joint: &Joint, by: By) -> Outcome {
        let outcome = match self.lock_joint(joint) {
            // Closed here; the others may go on.
            Ok(_) if self.is(BROKEN) => Outcome::Failed(Errno::PIPE),
            Ok(mut locked) => locked.transmit(by),
            Err(error) => Outcome::Failed(error.errno()),
        };
        self.watch_if_refused(outcome);
        self.after(outcome);
        outcome
    }

    /// Has the worker wait for room, unless this process has closed the connection: what another
    /// one has left in the queue is not its business then.
    fn watch_shared(self: &Arc<Self>) {
        self.shared.waker.watch(self);
        if self.is(BROKEN) {
            // Closed meanwhile, perhaps before the worker knew of it.
            self.shared.waker.forget(self, self.fd());
        }
    }

    pub(super) fn watch_if_refused(self: &Arc<Self>, outcome: Outcome) {
        if outcome == Outcome::Refused {
            self.watch_shared();
        }
    }
}

impl Locked<'_> {
    /// Accepts what there is room for, and transmits it.
    fn step(&mut self, rest: &mut Rest<'_, '_>, more: bool) -> Result<Step> {
        if let Some(content_type) = rest.content_type {
            // TX-20: what was open is a record of its own, of application data.
            if !self.seal_open_data()? {
                return Ok(Step::Refused);
            }
            debug_assert!(content_type == APPLICATION_DATA || !more, "TX-17");
        }
        loop {
            let mut failed = None;
            while rest.left > 0 && failed.is_none() && self.has_room() {
                failed = self.take_record(rest, more).err();
            }
            let outcome = self.transmit(By::Caller);
            if let Some(error) = failed {
                return Err(error);
            }
            match outcome {
                Outcome::Refused => return Ok(Step::Refused),
                Outcome::Failed(errno) if rest.left == 0 => {
                    return Ok(Step::Done(Some(Error::from(errno))));
                }
                Outcome::Failed(errno) => return Err(Error::from(errno)),
                Outcome::Drained(_) if rest.left == 0 => return Ok(Step::Done(None)),
                Outcome::Drained(_) => {}
            }
        }
    }

    fn take_record(&mut self, rest: &mut Rest<'_, '_>, more: bool) -> Result<()> {
        let content_type = rest.content_type.unwrap_or(APPLICATION_DATA);
        let (limit, open) = (self.state().max_payload, self.state().open_len);
        let taken = rest.left.min(limit.saturating_sub(open));
        let complete = open + taken >= limit || (taken == rest.left && !more);
        if !rest.source.is_readable(taken) {
            (rest.is_bad, rest.left) = (true, 0);
            return Ok(());
        }
        // Copied, not sealed from the program's memory: who finishes for us if we die has that not.
        let fill = |out: &mut [u8]| rest.source.copy_out(out);
        if !complete {
            self.extend_open(taken, fill);
        } else if !self.seal(content_type, taken, fill)? {
            // Our caller has seen that there is room.
            return Err(Error::NotRecoverable);
        }
        rest.left -= taken;
        rest.accepted += taken;
        Ok(())
    }
}

impl Joint {
    /// The sender that slept at the fork has its turn, or needs none.
    pub(super) fn end_reservation(&self, holder: u32) {
        let reserved = &self.memory.reserved;
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        if holder != 0
            && reserved
                .compare_exchange(holder, 0, success, failure)
                .is_ok()
        {
            // The only failure is EFAULT, and the memory is mapped.
            let _ = futex::wake(reserved, futex::Flags::empty(), i32::MAX as u32);
        }
    }
}
