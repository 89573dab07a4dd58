//! The thread that has the jobs.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use super::super::{Buffer, Completion, Engine, Fallback, Job, Plaintext, SealedRecord, buffer};
use super::Limits;
use super::inbox::Inbox;
use crate::aead::RecordSealer;
use crate::error::{Error, Result};
use crate::record::RecordNumber;
use crate::stats::STATS;
use crate::sys::async_job::{self, JobSlot, Progress, Work};
use crate::sys::copy::copy;
use crate::sys::kept::Kept;
use crate::sys::net::borrow;
use crate::sys::thread;

/// A place for a record in flight; used again and again.
struct Slot {
    job: JobSlot<Seal>,
    /// What has to be known when the record is sealed, or is not. None if there is none, and once it counts as lost and somebody else
    /// has sealed it.
    record: Option<Record>,
    deadline: Instant,
    watched: Vec<RawFd>,
    stage: Stage,
    /// How many jobs have been here.
    jobs: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Free,
    Flying,
    /// Whoever waited for it has given up.
    Lost,
}

struct Record {
    sealer: Arc<RecordSealer>,
    number: RecordNumber,
    content_type: u8,
    plain: Arc<Buffer>,
    len: usize,
    completion: Completion,
}

/// What a job does.
struct Seal {
    sealer: Arc<RecordSealer>,
    number: RecordNumber,
    content_type: u8,
    plain: Arc<Buffer>,
    len: usize,
}

/// What it ends with.
struct Landed {
    result: Result<()>,
    out: Buffer,
}

impl Work for Seal {
    type Result = Landed;

    fn work(self) -> Landed {
        let (prefix, total) = (self.sealer.prefix_len(), self.len + self.sealer.overhead());
        let mut out = Buffer::take();
        let plain = &self.plain.bytes()[prefix..][..self.len];
        let (number, content_type, to) = (self.number, self.content_type, out.head_mut(total));
        let result = self
            .sealer
            .seal_accelerated(number, content_type, plain, to);
        Landed { result, out }
    }
}

struct Reactor<'a> {
    inbox: &'a Arc<Inbox>,
    limits: Limits,
    software: &'a dyn Engine,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Slots in flight.
    flying: usize,
    /// Slots that count as lost and have not come back.
    lost: usize,
    /// Slots, and which of their jobs, that the accelerator had no room for.
    busy: Vec<(usize, u64)>,
    waiting: VecDeque<Job>,
    /// The accelerator tells by descriptors.
    by_descriptor: bool,
    /// When the last record was begun.
    begun: Instant,
    /// How long one takes, when there are few.
    usual: Duration,
}

/// Seals what comes into the inbox, until that is closed.
pub(super) fn run(inbox: &Arc<Inbox>, limits: Limits, software: &dyn Engine) {
    if let Err(reason) = async_job::prepare_thread(0) {
        log::error!("the accelerator gets no async jobs: {reason}");
    }
    let mut reactor = Reactor {
        inbox,
        limits,
        software,
        slots: Vec::new(),
        free: Vec::new(),
        flying: 0,
        lost: 0,
        busy: Vec::new(),
        waiting: VecDeque::new(),
        by_descriptor: false,
        begun: Instant::now(),
        usual: Duration::ZERO,
    };
    let mut events = Vec::with_capacity(EVENTS);
    let (mut told, mut again) = (Vec::new(), Vec::new());
    let mut looked = Instant::now();
    loop {
        let seen = inbox.left();
        let nothing = inbox.collect(&mut reactor.waiting, &mut told) && told.is_empty();
        for slot in told.drain(..) {
            reactor.resume(usize::try_from(slot).unwrap_or(usize::MAX));
        }
        while reactor.flying < limits.in_flight
            && let Some(job) = reactor.waiting.pop_front()
        {
            reactor.begin(job);
        }
        core::mem::swap(&mut reactor.busy, &mut again);
        for (slot, job) in again.drain(..) {
            if reactor.slots[slot].jobs == job {
                reactor.resume(slot);
            }
        }
        if looked.elapsed() > LOOK {
            looked = Instant::now();
            reactor.give_up_lost(looked);
        }
        if !nothing && !reactor.by_descriptor {
            continue;
        }
        if nothing && reactor.is_idle() && inbox.is_closing() {
            return;
        }
        let timeout = match reactor.expects() {
            _ if !nothing => Some(Duration::ZERO),
            _ if !reactor.busy.is_empty() => Some(RETRY),
            Some(left) if left > EARLY => Some((left - EARLY).min(LOOK)),
            left if !reactor.by_descriptor
                && inbox.linger(seen, left.unwrap_or_default() + LINGER) =>
            {
                continue;
            }
            _ if reactor.flying > 0 => Some(LOOK),
            _ => {
                buffer::trim();
                thread::end_process_if_left_alone();
                Some(REST)
            }
        };
        inbox.sleep(seen, timeout, &mut events, &mut told);
    }
}

impl Reactor<'_> {
    /// Nothing that it has taken is left to be sealed.
    fn is_idle(&self) -> bool {
        self.flying == 0 && self.busy.is_empty() && self.waiting.is_empty()
    }

    fn begin(&mut self, job: Job) {
        #[cfg(feature = "fault-injection")]
        let injected = super::super::fault::point();
        let Job {
            sealer,
            number,
            content_type,
            buffer,
            plaintext,
            len,
            completion,
        } = job;
        let plain = Arc::new(copied(buffer, plaintext, sealer.prefix_len()));
        let work = Seal {
            sealer: Arc::clone(&sealer),
            number,
            content_type,
            plain: Arc::clone(&plain),
            len,
        };
        let record = Record {
            sealer,
            number,
            content_type,
            plain,
            len,
            completion,
        };
        #[cfg(feature = "fault-injection")]
        if injected.is_err() {
            return self.not_sealed(record);
        }
        let Some(at) = self.free_slot() else {
            return self.not_sealed(record);
        };
        let slot = &mut self.slots[at];
        slot.job.put(work);
        slot.record = Some(record);
        self.begun = Instant::now();
        slot.deadline = self.begun + self.limits.timeout;
        slot.stage = Stage::Flying;
        slot.jobs += 1;
        self.flying += 1;
        self.resume(at);
    }

    /// A slot without a job; none if the accelerator is to get no more.
    fn free_slot(&mut self) -> Option<usize> {
        if self.lost >= LOST_MAX {
            return None;
        }
        if let Some(at) = self.free.pop() {
            return Some(at);
        }
        let (at, inbox) = (self.slots.len(), Arc::clone(self.inbox));
        let job = JobSlot::new(Box::new(move || inbox.tell(at as u64)))
            .inspect_err(|reason| log::warn!("the accelerator gets no async job: {reason}"))
            .ok()?;
        self.slots.push(Slot {
            job,
            record: None,
            deadline: Instant::now(),
            watched: Vec::new(),
            stage: Stage::Free,
            jobs: 0,
        });
        Some(at)
    }

    fn resume(&mut self, at: usize) {
        // An accelerator may tell of a job that has ended.
        let Some(slot) = self.slots.get_mut(at) else {
            return;
        };
        if slot.stage == Stage::Free {
            return;
        }
        match slot.job.run() {
            Progress::Paused(descriptors) => {
                self.by_descriptor |= !descriptors.is_empty();
                for fd in descriptors {
                    watch(&self.inbox.epoll, fd, at as u64, &mut slot.watched);
                }
            }
            Progress::Busy | Progress::NoRoom => self.busy.push((at, slot.jobs)),
            Progress::Finished(landed) => {
                match core::mem::replace(&mut slot.stage, Stage::Free) {
                    Stage::Lost => self.lost -= 1,
                    _ => self.flying -= 1,
                }
                if self.flying < FEW {
                    let left = slot.deadline.saturating_duration_since(Instant::now());
                    self.usual = (self.usual * 3 + self.limits.timeout.saturating_sub(left)) / 4;
                }
                let record = slot.record.take();
                if slot.job.is_free() {
                    self.free.push(at);
                }
                match (record, landed) {
                    (None, _) => {}
                    (
                        Some(record),
                        Some(Landed {
                            result: Ok(()),
                            out,
                        }),
                    ) => record.sealed(out),
                    (Some(record), _) => self.not_sealed(record),
                }
            }
        }
    }

    /// How long it is until the last record should come back, where there are so few that the accelerator waits for the next
    /// one meanwhile: nothing of the time between the two should be the reactor's.
    fn expects(&self) -> Option<Duration> {
        (1..=FEW)
            .contains(&self.flying)
            .then(|| self.usual.saturating_sub(self.begun.elapsed()))
    }

    /// Records that the accelerator does not come back to.
    fn give_up_lost(&mut self, now: Instant) {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.stage != Stage::Flying || slot.deadline >= now {
                continue;
            }
            slot.stage = Stage::Lost;
            let record = slot.record.take();
            self.flying -= 1;
            self.lost += 1;
            match self.lost {
                LOST_MAX => log::error!("the accelerator has lost too much: it gets no more"),
                _ => log::warn!("the accelerator has lost a record"),
            }
            if let Some(record) = record {
                self.not_sealed(record);
            }
        }
    }

    fn not_sealed(&self, record: Record) {
        STATS.accelerator_failed.add(1);
        match self.limits.fallback {
            Fallback::Error => record.completion.tell(Err(Error::SealFailed)),
            // In memory of its own: the accelerator may still be reading, and writing, the other.
            Fallback::Software => {
                let mut buffer = Buffer::take();
                let end = record.sealer.prefix_len() + record.len;
                buffer.head_mut(end).copy_from_slice(record.plain.head(end));
                self.software.submit(Job {
                    sealer: record.sealer,
                    number: record.number,
                    content_type: record.content_type,
                    buffer,
                    plaintext: Plaintext::InPlace,
                    len: record.len,
                    completion: record.completion,
                });
            }
        }
    }
}

impl Record {
    fn sealed(self, buffer: Buffer) {
        STATS.sealed_accelerator.add(1);
        let sealed = SealedRecord {
            buffer,
            len: self.len + self.sealer.overhead(),
            plain: self.len,
        };
        self.completion.tell(Ok(sealed));
    }
}

/// The plaintext, in memory that stays until the record is sealed: not the program's, which may go away.
fn copied(mut buffer: Buffer, plaintext: Plaintext, prefix: usize) -> Buffer {
    let mut put = |at: usize, bytes: &[u8]| {
        copy(bytes, &mut buffer.bytes_mut()[prefix + at..][..bytes.len()]);
    };
    match &plaintext {
        Plaintext::InPlace => {}
        Plaintext::Pages(pages) => put(0, pages.bytes()),
        Plaintext::Mixed(pieces) => pieces
            .iter()
            .for_each(|(at, pages)| put(*at, pages.bytes())),
    }
    buffer
}

/// Has `fd` tell when the job in `slot` is to be resumed, once. The accelerator may use the same one for the slot's next job.
fn watch(epoll: &Kept, fd: RawFd, slot: u64, watched: &mut Vec<RawFd>) {
    let Ok(borrowed) = borrow(fd) else { return };
    let (data, flags) = (
        epoll::EventData::new_u64(slot),
        epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
    );
    let known = watched.contains(&fd);
    if known && epoll::modify(epoll, borrowed, data, flags).is_ok() {
        return;
    }
    if !known {
        watched.push(fd);
    }
    // Also where the number is known, but what it was has been closed.
    if let Err(errno) = epoll::add(epoll, borrowed, data, flags) {
        log::warn!("descriptor {fd} of the accelerator cannot be watched: {errno}");
    }
}

/// Events taken per `epoll_wait`.
const EVENTS: usize = 256;

/// An accelerator that has so many records and does not come back to them is dead: each further one would wait for its
/// time-out. Their memory is lost, 60 KiB each.
const LOST_MAX: usize = 256;

/// How long an idle reactor waits before it sleeps: being woken takes about as long.
const LINGER: Duration = Duration::from_micros(50);

/// How much earlier than needed it wakes.
const EARLY: Duration = Duration::from_micros(150);

/// So few records are waited for one by one.
const FEW: usize = 2;

/// How soon an accelerator without room is asked again.
const RETRY: Duration = Duration::from_micros(50);

/// How often an idle reactor, which lives as long as its process, looks whether the program has threads left.
const REST: Duration = Duration::from_millis(500);

/// How often lost records are looked for.
const LOOK: Duration = Duration::from_millis(20);
