//! Orphans: sockets that the program has closed, and what was queued on them.
//!
//! A thread sends it, as the kernel sends what a closed socket has left. It has a descriptor table of its own, with
//! nothing in it but the orphans: they take no descriptor of the program's, a forked child gets none of them, and the
//! thread keeps nothing of the program's open. What it has of a connection is sealed; the keys are gone.
//!
//! As in the kernel an orphan lives for a bounded time, and all of them have a bounded number and memory. As long as
//! something is unsent the socket is set to reset (`SO_LINGER` with no time), so that nobody takes a stream that is cut
//! short, by whatever, for a whole one.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::sync::{Event, Mutex, Woken, lock};
use crate::sys::kept::Kept;
use crate::sys::net::{self, borrow};
use crate::sys::own_table::{self, Apart};
use crate::sys::thread;
use crate::tx::{Drain, Remains};

/// The orphans of a process.
pub struct Orphanage {
    /// Sockets go in by this one.
    door: Kept,
    inner: Arc<Inner>,
}

struct Inner {
    /// And come out here, in the table of the thread, where it has the same number.
    inside: Kept,
    state: Mutex<State>,
    /// The state's `thread` has changed, or bytes have gone out.
    moved: Event,
    /// Wire bytes that are left.
    unsent: AtomicU64,
}

#[derive(Default)]
struct State {
    thread: Thread,
    /// Those that have been announced, and are not there yet.
    expected: usize,
    next: u64,
    inbox: Vec<(u64, Option<(Remains, Duration)>)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Thread {
    #[default]
    None,
    Starting,
    Runs,
    /// It cannot have a table of its own.
    Refused,
}

struct Orphan {
    socket: Apart,
    remains: Remains,
    /// Without progress for so long it is given up.
    patience: Duration,
    began: Instant,
    moved: Instant,
}

impl Orphanage {
    /// One without orphans, and without a thread.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE`: it needs two descriptors.
    pub fn new() -> Result<Orphanage, Errno> {
        let (door, inside) = own_table::door()?;
        let inner = Inner {
            inside,
            state: Mutex::new(State::default()),
            moved: Event::default(),
            unsent: AtomicU64::new(0),
        };
        let inner = Arc::new(inner);
        Ok(Orphanage { door, inner })
    }

    /// Sends what `take` gives by the socket `fd`, which is about to be closed, until the reader has taken nothing for
    /// `patience`. False, and nothing has changed: it gives nothing, or no thread is to be had.
    pub fn adopt(
        &self,
        fd: RawFd,
        patience: Duration,
        take: impl FnOnce() -> Option<Remains>,
    ) -> bool {
        let Some(id) = self.announce() else {
            return false;
        };
        let remains = match own_table::send(&self.door, id, Some(fd)) {
            Ok(()) => take(),
            Err(_) => None,
        };
        let is_taken = remains.is_some();
        if let Some(remains) = &remains {
            net::reset_at_close(fd);
            self.inner.count(remains.bytes(), 0);
        }
        let mut state = lock(&self.inner.state);
        state.expected -= 1;
        state
            .inbox
            .push((id, remains.map(|remains| (remains, patience))));
        drop(state);
        // Behind the socket, so that this is there when the thread finds it. Fails only if the thread has enough to read.
        let _ = own_table::send(&self.door, 0, None);
        is_taken
    }

    /// Wire bytes that are left.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        // Acquire: pairs with the Release in `count`.
        self.inner.unsent.load(Ordering::Acquire)
    }

    /// Sleeps until some have gone out, for `time` at most.
    pub fn wait(&self, time: Duration) {
        let ticket = self.inner.moved.ticket();
        if self.unsent() > 0 {
            self.inner.moved.wait(ticket, Some(time));
        }
    }

    /// In a forked child, which has neither the thread nor its table: the parent's to finish. The caller leaks it, as
    /// its locks may be held by threads that are not here.
    pub fn abandon(&self) {
        self.door.abandon();
        self.inner.inside.abandon();
    }

    /// An orphan is about to come, and the thread is there for it.
    fn announce(&self) -> Option<u64> {
        let mut state = lock(&self.inner.state);
        if state.thread == Thread::None && thread::would_stay() {
            let inner = Arc::clone(&self.inner);
            if thread::spawn_quiet("uktls-keeper", move || inner.keep()) {
                state.thread = Thread::Starting;
            }
        }
        let deadline = Instant::now() + START;
        while state.thread == Thread::Starting {
            let ticket = self.inner.moved.ticket();
            drop(state);
            let left = deadline.saturating_duration_since(Instant::now());
            if self.inner.moved.wait(ticket, Some(left)) == Woken::TimedOut {
                return None;
            }
            state = lock(&self.inner.state);
        }
        if state.thread != Thread::Runs {
            return None;
        }
        state.expected += 1;
        state.next += 1;
        Some(state.next)
    }
}

impl Inner {
    fn count(&self, more: u64, less: u64) {
        // Release: pairs with the Acquire in `unsent`.
        self.unsent.fetch_add(more, Ordering::Release);
        self.unsent.fetch_sub(less, Ordering::Release);
        if less > 0 {
            self.moved.signal();
        }
    }

    fn begin(&self) -> Result<Apart, Errno> {
        let inside = self.inside.as_raw_fd();
        own_table::leave_all_but(inside)?;
        // A sandbox may refuse that. Nothing has come yet.
        if let Err(errno) = own_table::receive(inside)
            && errno != Errno::AGAIN
        {
            return Err(errno);
        }
        let set = Apart::epoll()?;
        watch(&set, inside, DOOR, epoll::EventFlags::IN)?;
        Ok(set)
    }

    /// Has the thread run, and stays behind it. That one has none of the program's descriptors, so it must not be the last of
    /// its process: the C library would have it call the handlers of `atexit`.
    fn keep(self: Arc<Self>) {
        let inner = Arc::clone(&self);
        let Some(orphans) = thread::spawn("uktls-orphans", move || inner.run_guarded()) else {
            // The next close tries again.
            lock(&self.state).thread = Thread::None;
            self.moved.signal();
            return;
        };
        while !orphans.is_finished() {
            let ticket = self.moved.ticket();
            if lock(&self.state).thread != Thread::None {
                self.moved.wait(ticket, Some(thread::IDLE));
            }
            if lock(&self.state).thread == Thread::None {
                break;
            }
            thread::end_process_if_left_alone();
        }
        // A panic has told of itself.
        let _ = orphans.join();
    }

    /// A panic resets the orphans that there are, and there are no others.
    fn run_guarded(&self) {
        let run = std::panic::AssertUnwindSafe(|| self.run());
        if std::panic::catch_unwind(run).is_err() {
            lock(&self.state).thread = Thread::Refused;
            self.unsent.store(0, Ordering::Release);
            self.moved.signal();
        }
    }

    fn run(&self) {
        let begun = self.begin();
        lock(&self.state).thread = match begun {
            Ok(_) => Thread::Runs,
            Err(_) => Thread::Refused,
        };
        self.moved.signal();
        let Ok(set) = begun else {
            return;
        };
        let mut home = Home {
            inner: self,
            set,
            arrived: HashMap::new(),
            orphans: HashMap::new(),
            is_shut: false,
        };
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let into = rustix::buffer::spare_capacity(&mut events);
            let timeout = home.timeout();
            if let Ok(set) = borrow(home.set.number()) {
                // Fails with EINTR at most, and then the next round does it.
                let _ = epoll::wait(set, into, Some(&timeout));
            }
            let is_quiet = events.is_empty();
            for event in &events {
                match event.data.u64() {
                    DOOR => home.open(),
                    id => home.serve(id),
                }
            }
            home.end_overdue();
            let mut state = lock(&self.state);
            if is_quiet && home.is_empty() && state.expected == 0 && state.inbox.is_empty() {
                state.thread = Thread::None;
                drop(state);
                self.moved.signal();
                return;
            }
        }
    }
}

/// What the thread has.
struct Home<'a> {
    inner: &'a Inner,
    set: Apart,
    /// Sockets whose remains have not come yet.
    arrived: HashMap<u64, Apart>,
    orphans: HashMap<u64, Orphan>,
    /// No others come.
    is_shut: bool,
}

impl Home<'_> {
    fn is_empty(&self) -> bool {
        self.orphans.is_empty() && self.arrived.is_empty()
    }

    fn timeout(&self) -> Timespec {
        let time = match self.is_empty() {
            true => IDLE,
            // The shortest patience has to be noticed.
            false => self
                .orphans
                .values()
                .map(|orphan| orphan.patience)
                .fold(TICK, Duration::min)
                .max(SHORTEST_TICK),
        };
        Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(1),
            tv_nsec: time.subsec_nanos().into(),
        }
    }

    /// Takes in what has come. Until there is nothing: the message that tells of an orphan comes behind it, and may be
    /// taken out by a round that has looked into the inbox before.
    fn open(&mut self) {
        while self.take_in() {}
        self.make_room();
        if self.is_shut {
            net::leave_epoll(self.set.number(), self.inner.inside.as_raw_fd());
        }
    }

    fn take_in(&mut self) -> bool {
        // First: the sockets of these were sent before.
        let inbox = core::mem::take(&mut lock(&self.inner.state).inbox);
        let mut any = !inbox.is_empty();
        loop {
            // One more needs a number in this table.
            self.make_room();
            match own_table::receive(self.inner.inside.as_raw_fd()) {
                Err(Errno::PIPE) => {
                    // The program has closed the door, by means of its own. The epoll set would tell of it for ever.
                    self.is_shut = true;
                    break;
                }
                Err(_) => break,
                Ok((0, _)) => {}
                Ok((id, Some(socket))) => {
                    self.arrived.insert(id, socket);
                }
                // There was no room for it: it is closed, and so reset.
                Ok((_, None)) => {}
            }
            any = true;
        }
        for (id, remains) in inbox {
            let socket = self.arrived.remove(&id);
            match (socket, remains) {
                (Some(socket), Some((remains, patience))) => {
                    self.admit(id, socket, remains, patience);
                }
                (None, Some((remains, _))) => self.inner.count(0, remains.bytes()),
                // It has been closed otherwise.
                (_, None) => {}
            }
        }
        any
    }

    fn admit(&mut self, id: u64, socket: Apart, remains: Remains, patience: Duration) {
        let now = Instant::now();
        let number = socket.number();
        let orphan = Orphan {
            socket,
            remains,
            patience,
            began: now,
            moved: now,
        };
        self.orphans.insert(id, orphan);
        self.serve(id);
        if self.orphans.contains_key(&id)
            && watch(&self.set, number, id, epoll::EventFlags::OUT).is_err()
        {
            self.end(id, false);
        }
    }

    /// Sends what the socket takes.
    fn serve(&mut self, id: u64) {
        let Some(orphan) = self.orphans.get_mut(&id) else {
            return;
        };
        let before = orphan.remains.bytes();
        let outcome = orphan.remains.transmit(orphan.socket.number());
        let left = orphan.remains.bytes();
        if left < before {
            orphan.moved = Instant::now();
            if left > 0 {
                self.inner.count(0, before - left);
            }
        }
        match outcome {
            Ok(Drain::Pending) => {}
            Ok(Drain::Done) => {
                self.end(id, true);
                self.inner.count(0, before);
            }
            Err(_) => self.end(id, false),
        }
    }

    /// The orphan is closed: `is_whole`, with an ordinary end; otherwise it is reset.
    fn end(&mut self, id: u64, is_whole: bool) {
        if let Some(orphan) = self.orphans.remove(&id) {
            if is_whole {
                net::linger_not(orphan.socket.number());
            }
            let left = orphan.remains.bytes();
            drop(orphan);
            if left > 0 {
                self.inner.count(0, left);
            }
        }
    }

    fn end_overdue(&mut self) {
        let now = Instant::now();
        let is_overdue = |orphan: &Orphan| {
            now.duration_since(orphan.moved) >= orphan.patience
                || now.duration_since(orphan.began) >= LONGEST * orphan.patience
        };
        let overdue: Vec<u64> = (self.orphans.iter())
            .filter(|(_, orphan)| is_overdue(orphan))
            .map(|(id, _)| *id)
            .collect();
        for id in overdue {
            self.end(id, false);
        }
    }

    /// Gives up those that have stood still for longest, while there are too many.
    fn make_room(&mut self) {
        let most = MOST.min(net::most_descriptors().saturating_sub(RESERVED));
        let bytes = |orphans: &HashMap<u64, Orphan>| -> u64 {
            orphans.values().map(|orphan| orphan.remains.bytes()).sum()
        };
        while self.orphans.len() + self.arrived.len() >= most || bytes(&self.orphans) > MOST_BYTES {
            let oldest = self.orphans.iter().min_by_key(|(_, orphan)| orphan.moved);
            let Some(id) = oldest.map(|(id, _)| *id) else {
                return;
            };
            self.end(id, false);
        }
    }
}

fn watch(set: &Apart, fd: RawFd, id: u64, what: epoll::EventFlags) -> Result<(), Errno> {
    let data = epoll::EventData::new_u64(id);
    epoll::add(borrow(set.number())?, borrow(fd)?, data, what)
}

/// The id of the door in the epoll set; orphans count from 1.
const DOOR: u64 = 0;
const EVENTS: usize = 64;

/// The thread's table has the door, the epoll set and some numbers more.
const RESERVED: usize = 8;
/// Orphans of a process, and the wire bytes of all.
const MOST: usize = 1024;
const MOST_BYTES: u64 = 256 << 20;
/// An orphan lives for so many times its patience at most.
const LONGEST: u32 = 5;

/// How long the thread lives without orphans.
const IDLE: Duration = thread::IDLE;
/// How often overdue ones are looked for.
const TICK: Duration = Duration::from_secs(1);
const SHORTEST_TICK: Duration = Duration::from_millis(10);
/// How long a close waits for the thread to start.
const START: Duration = Duration::from_secs(2);
