//! The deferred worker: one thread that transmits what calls left behind and what sockets refused,
//! for every connection of the process.
//!
//! It keeps two sets. *Deferred* connections streamed a moment ago: it looks at each of them once
//! per tick, transmits when the program has been quiet for a tick or the data has waited for a few,
//! and sleeps for good when there are none. The ticks are long while all that is deferred are heads of
//! answers, which go out with the bodies and not by the worker, unless a body fails to come. *Watched* connections wait for room: they are in its
//! epoll set, one-shot, and get one bounded `sendmsg` per event, in the order of events, so a slow
//! reader never delays another connection.
#![forbid(unsafe_code)]

pub mod orphans;
mod presence;

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::io::Errno;

use crate::sync::{Mutex, lock};
use crate::sys::kept::Kept;
use crate::sys::net::borrow;
use crate::sys::thread;
use crate::tx::{Connection, Look, Waker};

use presence::Presence;

/// The worker of a process. The thread starts when a connection needs it, and ends soon after the last that did.
///
/// It ends under the locks of both sets, having found them empty; see `Presence`.
pub struct Worker {
    inner: Arc<Inner>,
}

struct Inner {
    epoll: Kept,
    wake: Kept,
    presence: Presence,
    inbox: Mutex<Inbox>,
    /// Connections in the epoll set that wait for an event, by their id.
    watched: Mutex<HashMap<u64, Arc<Connection>>>,
}

#[derive(Default)]
struct Inbox {
    deferred: Vec<Arc<Connection>>,
    sleep: Sleep,
}

/// How long the worker sleeps, unless it is woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sleep {
    /// For one of the short ticks.
    #[default]
    Short,
    /// For a long tick.
    Long,
    /// For good.
    Deep,
}

/// A deferred connection, as the worker remembers it between ticks.
struct Deferred {
    connection: Arc<Connection>,
    seen_calls: u32,
    ticks: u32,
}

impl Worker {
    /// A worker whose thread is not started yet.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE`: it needs two descriptors.
    pub fn new() -> Result<Worker, Errno> {
        let epoll = Kept::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let wake = Kept::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(
            &epoll,
            &wake,
            epoll::EventData::new_u64(WAKE),
            epoll::EventFlags::IN,
        )?;
        let inbox = Mutex::new(Inbox::default());
        let watched = Mutex::new(HashMap::new());
        let inner = Arc::new(Inner {
            epoll,
            wake,
            presence: Presence::new(),
            inbox,
            watched,
        });
        Ok(Worker { inner })
    }

    /// Has the thread there for what has been put into one of its sets. Where none is to be had (a limit of
    /// processes), nothing may wait for it: what was deferred is sent here, and each call tries again.
    fn start(&self) {
        let spawn = || {
            let inner = Arc::clone(&self.inner);
            thread::would_stay() && thread::spawn_quiet("uktls-worker", move || inner.run())
        };
        if !self.inner.presence.is_ensured(spawn) {
            let left = core::mem::take(&mut lock(&self.inner.inbox).deferred);
            for connection in left {
                let mut calls = 0;
                while connection.look(&mut calls, true) == Look::Again {}
            }
        }
    }
}

impl Waker for Worker {
    fn defer(&self, connection: &Arc<Connection>) {
        let wake = {
            let mut inbox = lock(&self.inner.inbox);
            inbox.deferred.push(Arc::clone(connection));
            let wake = match inbox.sleep {
                Sleep::Short => false,
                Sleep::Long => !connection.waits_briefly(),
                Sleep::Deep => true,
            };
            if wake {
                inbox.sleep = Sleep::Short;
            }
            wake
        };
        self.start();
        if wake {
            // Can only fail if the counter is full, and then the worker is being woken.
            let _ = rustix::io::write(&self.inner.wake, &1u64.to_ne_bytes());
        }
    }

    fn watch(&self, connection: &Arc<Connection>) {
        let mut watched = lock(&self.inner.watched);
        let Ok(fd) = borrow(connection.fd()) else {
            return;
        };
        let data = epoll::EventData::new_u64(connection.id());
        let flags = epoll::EventFlags::OUT | epoll::EventFlags::ONESHOT;
        let known = connection.set_watched(true);
        let result = match known {
            true => epoll::modify(&self.inner.epoll, fd, data, flags),
            false => epoll::add(&self.inner.epoll, fd, data, flags),
        };
        match result {
            Ok(()) => {
                watched.insert(connection.id(), Arc::clone(connection));
            }
            Err(errno) => {
                connection.set_watched(false);
                log::warn!("connection {}: cannot be watched: {errno}", connection.id());
            }
        }
        drop(watched);
        self.start();
    }

    fn forget(&self, connection: &Connection, fd: RawFd) {
        let mut watched = lock(&self.inner.watched);
        if connection.set_watched(false)
            && let Ok(fd) = borrow(fd)
        {
            // Fails if the descriptor is closed already, and then epoll has forgotten it, too.
            let _ = epoll::delete(&self.inner.epoll, fd);
        }
        let gone = watched.remove(&connection.id());
        drop(watched);
        drop(gone);
    }
}

impl Inner {
    fn run(&self) {
        let mut deferred: Vec<Deferred> = Vec::new();
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let sleep = {
                let mut inbox = lock(&self.inbox);
                deferred.extend(inbox.deferred.drain(..).map(|connection| Deferred {
                    connection,
                    seen_calls: 0,
                    ticks: 0,
                }));
                inbox.sleep = match deferred.as_slice() {
                    [] => Sleep::Deep,
                    some if some.iter().all(|entry| entry.connection.waits_briefly()) => {
                        Sleep::Long
                    }
                    _ => Sleep::Short,
                };
                inbox.sleep
            };
            events.clear();
            let timeout = match sleep {
                Sleep::Short if self.is_quiet_for(TICK_NS) => None,
                Sleep::Long if self.is_quiet_for(LONG_TICK_NS) => None,
                Sleep::Short | Sleep::Long => Some(Some(&NOW)),
                Sleep::Deep => Some(Some(&IDLE)),
            };
            if let Some(timeout) = timeout {
                // Fails with EINTR at most, and then the next round does it.
                let _ = epoll::wait(
                    &self.epoll,
                    rustix::buffer::spare_capacity(&mut events),
                    timeout,
                );
            }
            if sleep == Sleep::Deep && events.is_empty() {
                if self.ends() {
                    return;
                }
                thread::end_process_if_left_alone();
            }
            for event in &events {
                self.serve(event.data.u64());
            }
            deferred.retain_mut(|entry| {
                entry.ticks += 1;
                let overdue = entry.ticks >= OVERDUE_TICKS;
                if overdue {
                    entry.ticks = 0;
                }
                entry.connection.look(&mut entry.seen_calls, overdue) == Look::Again
            });
        }
    }

    /// Whether the thread, which has had nothing to do for a while, ends: nothing has been left to it meanwhile.
    fn ends(&self) -> bool {
        let inbox = lock(&self.inbox);
        let watched = lock(&self.watched);
        let ends = inbox.deferred.is_empty() && watched.is_empty();
        if ends {
            self.presence.end();
        }
        ends
    }

    /// Sleeps for a tick, or until there are events; whether there were none. A tick is shorter than what `epoll_wait` can
    /// sleep, so `ppoll` sleeps on the set instead.
    fn is_quiet_for(&self, tick_ns: i64) -> bool {
        let tick = Timespec {
            tv_sec: 0,
            tv_nsec: tick_ns,
        };
        let mut set = [PollFd::new(&self.epoll, PollFlags::IN)];
        poll(&mut set, Some(&tick)) == Ok(0)
    }

    fn serve(&self, id: u64) {
        if id == WAKE {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.wake, &mut count);
            return;
        }
        let connection = lock(&self.watched).remove(&id);
        if let Some(connection) = connection {
            connection.room();
        }
    }
}

/// The id under which the worker's own eventfd is in its epoll set; connections count from 1.
const WAKE: u64 = 0;

/// Events taken per `epoll_wait`.
const EVENTS: usize = 64;

/// How long the thread sleeps for good, before it ends.
const IDLE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: thread::IDLE.subsec_nanos() as i64,
};

const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// How often deferred connections are looked at.
const TICK_NS: i64 = 100_000;

/// The same while nothing is deferred but heads of answers. One whose body does not come waits for two.
const LONG_TICK_NS: i64 = 1_000_000;

/// Looks after which deferred records are transmitted although the program keeps sending.
const OVERDUE_TICKS: u32 = 5;
