//! Records: cut from the program's bytes, and sealed in the call or by an engine.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::open_record::OpenRecord;
use super::source::Source;
use super::writer::Segment;
use super::{Connection, Sender};
use crate::engine::{Buffer, Completion, Job, Kind};
use crate::error::{Error, Result};
use crate::record::content_type::APPLICATION_DATA;
use crate::stats::STATS;

impl Connection {
    /// Moves up to one record's worth from `source` (`left` bytes remain in it) into the stream.
    pub(super) fn take_record(
        self: &Arc<Self>,
        sender: &mut Sender,
        source: &mut Source<'_>,
        left: usize,
        content_type: u8,
        more: bool,
    ) -> Result<usize> {
        let limit = sender.max_payload;
        let open = sender.open.as_ref().map_or(0, OpenRecord::len);
        // The limit may have been lowered under an open record, which then is full.
        let taken = left.min(limit.saturating_sub(open));
        let complete = open + taken >= limit || (taken == left && !more);
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
        if !source.is_readable(taken) {
            return Err(Error::BadAddress);
        }
        let prefix = sender.sealer.prefix_len();
        if sender.open.is_none() {
            sender.open = Some(OpenRecord::new(prefix)?);
        }
        let record = sender.open.as_mut().ok_or(Error::NotRecoverable)?;
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

    /// Whether any record ever goes to the pool.
    pub(super) fn may_hand_off(&self) -> bool {
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
        let len = plain.len() + sender.sealer.overhead();
        // Its memory first: a number that is reserved must not be left out.
        self.prepare_run(sender, len)?;
        let number = self.reserve(sender)?;
        let run = sender.run.as_mut().ok_or(Error::NotRecoverable)?;
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

    /// Makes room for `len` bytes in the run of the caller's records.
    fn prepare_run(&self, sender: &mut Sender, len: usize) -> Result<()> {
        let fits = |run: &Segment| run.len + len <= Buffer::LEN;
        if sender.run.as_ref().is_some_and(fits) {
            return Ok(());
        }
        let buffer = Buffer::try_take()?;
        self.publish(sender);
        sender.run = Some(Segment {
            buffer,
            len: 0,
            records: 0,
            plain: 0,
        });
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
            // Without memory for a run it is sealed in its own.
            && self
                .prepare_run(sender, plain.len() + sender.sealer.overhead())
                .is_ok()
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
