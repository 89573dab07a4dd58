//! The thread that has the jobs.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

use super::super::{Buffer, Engine, Fallback, Job, Plaintext, Sealed, SealedRecord};
use super::Limits;
use crate::aead::RecordSealer;
use crate::error::{Error, Result};
use crate::record::RecordNumber;
use crate::stats::STATS;
use crate::sync::{Mutex, lock};
use crate::sys::async_job::{self, AsyncJob, Progress};
use crate::sys::kept::Kept;
use crate::sys::net::borrow;

/// What other threads leave for the reactor.
pub(super) struct Inbox {
    epoll: Kept,
    wake: Kept,
    letters: Mutex<Letters>,
}

#[derive(Default)]
struct Letters {
    jobs: VecDeque<Job>,
    /// Paused jobs that are to be resumed.
    told: Vec<u64>,
    asleep: bool,
}

impl Inbox {
    pub(super) fn new() -> core::result::Result<Inbox, Errno> {
        let epoll = Kept::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let wake = Kept::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let data = epoll::EventData::new_u64(WAKE);
        epoll::add(&epoll, &wake, data, epoll::EventFlags::IN)?;
        let letters = Mutex::new(Letters::default());
        Ok(Inbox {
            epoll,
            wake,
            letters,
        })
    }

    pub(super) fn submit(&self, job: Job) {
        self.leave(|letters| letters.jobs.push_back(job));
    }

    fn leave(&self, leave: impl FnOnce(&mut Letters)) {
        let asleep = {
            let mut letters = lock(&self.letters);
            leave(&mut letters);
            core::mem::take(&mut letters.asleep)
        };
        if asleep {
            // Can only fail if the counter is full, and then the reactor is being woken.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

/// A record in flight: what has to be known when it is sealed, or when it is not.
struct Flight {
    job: AsyncJob<Landed>,
    /// None once it counts as lost, and somebody else has sealed it.
    record: Option<Record>,
    deadline: Instant,
    watched: Vec<RawFd>,
}

struct Record {
    sealer: Arc<RecordSealer>,
    number: RecordNumber,
    content_type: u8,
    plain: Arc<Buffer>,
    len: usize,
    done: Arc<dyn Sealed>,
    ticket: u64,
}

/// What a job ends with.
struct Landed {
    result: Result<()>,
    out: Buffer,
}

struct Reactor<'a> {
    inbox: &'a Arc<Inbox>,
    limits: Limits,
    software: &'a dyn Engine,
    flights: HashMap<u64, Flight>,
    /// Jobs that the accelerator had no room for.
    busy: HashSet<u64>,
    waiting: VecDeque<Job>,
    /// Flights that count as lost and have not come back.
    lost: usize,
    last: u64,
}

/// Seals what comes into the inbox, for good.
pub(super) fn run(inbox: &Arc<Inbox>, limits: Limits, software: &dyn Engine) {
    if let Err(reason) = async_job::prepare_thread(0) {
        log::error!("the accelerator gets no async jobs: {reason}");
    }
    let mut reactor = Reactor {
        inbox,
        limits,
        software,
        flights: HashMap::new(),
        busy: HashSet::new(),
        waiting: VecDeque::new(),
        lost: 0,
        last: WAKE,
    };
    let mut events = Vec::with_capacity(EVENTS);
    let mut told = Vec::new();
    let mut looked = Instant::now();
    loop {
        let idle = reactor.collect(&mut told);
        for id in told.drain(..) {
            reactor.resume(id);
        }
        while reactor.flights.len() < limits.in_flight + reactor.lost
            && let Some(job) = reactor.waiting.pop_front()
        {
            reactor.begin(job);
        }
        for id in core::mem::take(&mut reactor.busy) {
            reactor.resume(id);
        }
        if looked.elapsed() > LOOK {
            looked = Instant::now();
            reactor.give_up_lost(looked);
        }
        let timeout = match (idle, reactor.busy.is_empty()) {
            (false, _) => Some(Duration::ZERO),
            (true, false) => Some(RETRY),
            (true, true) if !reactor.flights.is_empty() => Some(LOOK),
            (true, true) => None,
        };
        reactor.wait(timeout, &mut events, &mut told);
    }
}

impl Reactor<'_> {
    /// Takes what is in the inbox; true if that is nothing.
    fn collect(&mut self, told: &mut Vec<u64>) -> bool {
        let mut letters = lock(&self.inbox.letters);
        let idle = letters.jobs.is_empty() && letters.told.is_empty() && told.is_empty();
        self.waiting.append(&mut letters.jobs);
        told.append(&mut letters.told);
        letters.asleep = idle;
        idle
    }

    fn wait(&self, timeout: Option<Duration>, events: &mut Vec<epoll::Event>, told: &mut Vec<u64>) {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        events.clear();
        // Fails with EINTR at most.
        let _ = epoll::wait(
            &self.inbox.epoll,
            rustix::buffer::spare_capacity(events),
            timeout.as_ref(),
        );
        for event in events.iter() {
            match event.data.u64() {
                WAKE => {
                    let mut count = [0; 8];
                    let _ = rustix::io::read(&self.inbox.wake, &mut count);
                }
                id => told.push(id),
            }
        }
    }

    fn begin(&mut self, job: Job) {
        let Job {
            sealer,
            number,
            content_type,
            buffer,
            plaintext,
            len,
            done,
            ticket,
        } = job;
        let (prefix, total) = (sealer.prefix_len(), len + sealer.overhead());
        let plain = Arc::new(copied(buffer, plaintext, prefix));
        self.last += 1;
        let id = self.last;
        let record = Record {
            sealer: Arc::clone(&sealer),
            number,
            content_type,
            plain: Arc::clone(&plain),
            len,
            done,
            ticket,
        };
        let body = move || {
            let mut out = Buffer::take();
            let plain = &plain.bytes()[prefix..][..len];
            let result = sealer.seal_accelerated(number, content_type, plain, out.head_mut(total));
            Landed { result, out }
        };
        let inbox = Arc::clone(self.inbox);
        let told = move || inbox.leave(|letters| letters.told.push(id));
        if self.lost >= LOST_MAX {
            return self.not_sealed(record);
        }
        match AsyncJob::new(Box::new(body), Box::new(told)) {
            Ok(job) => {
                let flight = Flight {
                    job,
                    record: Some(record),
                    deadline: Instant::now() + self.limits.timeout,
                    watched: Vec::new(),
                };
                self.flights.insert(id, flight);
                self.resume(id);
            }
            Err(reason) => {
                log::warn!("the accelerator gets no async job: {reason}");
                self.not_sealed(record);
            }
        }
    }

    fn resume(&mut self, id: u64) {
        // What is told of twice has ended meanwhile.
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        match flight.job.run() {
            Progress::Paused(descriptors) => {
                for fd in descriptors {
                    watch(&self.inbox.epoll, fd, id, &mut flight.watched);
                }
            }
            Progress::Busy | Progress::NoRoom => {
                self.busy.insert(id);
            }
            Progress::Finished(landed) => {
                let Some(flight) = self.flights.remove(&id) else {
                    return;
                };
                for fd in flight.watched {
                    forget(&self.inbox.epoll, fd);
                }
                let Some(record) = flight.record else {
                    self.lost -= 1;
                    return;
                };
                match landed {
                    Some(Landed {
                        result: Ok(()),
                        out,
                    }) => record.sealed(out),
                    _ => self.not_sealed(record),
                }
            }
        }
    }

    /// Records that the accelerator does not come back to.
    fn give_up_lost(&mut self, now: Instant) {
        let lost: Vec<Record> = self
            .flights
            .values_mut()
            .filter(|flight| flight.deadline < now)
            .filter_map(|flight| flight.record.take())
            .collect();
        for record in lost {
            self.lost += 1;
            match self.lost {
                LOST_MAX => log::error!("the accelerator has lost too much: it gets no more"),
                _ => log::warn!("the accelerator has lost a record"),
            }
            self.not_sealed(record);
        }
    }

    fn not_sealed(&self, record: Record) {
        STATS.accelerator_failed.add(1);
        match self.limits.fallback {
            Fallback::Error => record.done.sealed(record.ticket, Err(Error::SealFailed)),
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
                    done: record.done,
                    ticket: record.ticket,
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
        self.done.sealed(self.ticket, Ok(sealed));
    }
}

/// The plaintext, in memory that stays until the record is sealed: not the program's, which may go away.
fn copied(mut buffer: Buffer, plaintext: Plaintext, prefix: usize) -> Buffer {
    let mut copy = |at: usize, bytes: &[u8]| {
        buffer.bytes_mut()[prefix + at..][..bytes.len()].copy_from_slice(bytes);
    };
    match &plaintext {
        Plaintext::InPlace => {}
        Plaintext::Pages(pages) => copy(0, pages.bytes()),
        Plaintext::Mixed(pieces) => pieces
            .iter()
            .for_each(|(at, pages)| copy(*at, pages.bytes())),
    }
    buffer
}

fn watch(epoll: &Kept, fd: RawFd, id: u64, watched: &mut Vec<RawFd>) {
    let Ok(borrowed) = borrow(fd) else { return };
    let (data, flags) = (
        epoll::EventData::new_u64(id),
        epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
    );
    let result = match watched.contains(&fd) {
        true => epoll::modify(epoll, borrowed, data, flags),
        false => {
            watched.push(fd);
            epoll::add(epoll, borrowed, data, flags)
        }
    };
    if let Err(errno) = result {
        log::warn!("descriptor {fd} of the accelerator cannot be watched: {errno}");
    }
}

fn forget(epoll: &Kept, fd: RawFd) {
    if let Ok(fd) = borrow(fd) {
        // Fails if the accelerator has closed it, and then epoll has forgotten it, too.
        let _ = epoll::delete(epoll, fd);
    }
}

/// The id under which the reactor's own eventfd is in its epoll set; records count from 1.
const WAKE: u64 = 0;

/// Events taken per `epoll_wait`.
const EVENTS: usize = 256;

/// An accelerator that has so many records and does not come back to them is dead: each further one would wait for its
/// time-out. Their memory is lost, 60 KiB each.
const LOST_MAX: usize = 256;

/// How soon an accelerator without room is asked again.
const RETRY: Duration = Duration::from_micros(50);

/// How often lost records are looked for.
const LOOK: Duration = Duration::from_millis(20);
