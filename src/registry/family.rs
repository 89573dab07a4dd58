//! Parent and child: what happens to the table around `fork`.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::numbers::{Inner, OfSocket};
use super::world::sees_all;
use super::{NUMBERS, PROCESS, Socket, came, process, twins};
use crate::engine::{Engine, Job};
use crate::sys::net::Linux;
use crate::sys::{barrier, family, fork_guard, identity, in_flight, marks, net, streams};
use crate::tx::{Connection, Shared, Waker};

/// The library has been loaded: looks at the descriptors that the program was started with.
pub fn look_at_inherited() {
    twins::for_each_open_below(INHERITED, |fd| {
        // The constructor of another library may have been here.
        if marks::get(fd) == marks::PLAIN {
            came(fd);
        }
    });
}

/// The process is about to fork, or may have: numbers that no other process had are such that one may have. With the C
/// library nothing is known of those without keys.
pub fn before_fork() {
    if !sees_all() {
        return;
    }
    let mut new = New::none();
    watch_all(&mut new);
    new.wait_out();
    streams::leave_watched();
}

fn watch_all(new: &mut New) {
    for (fd, place) in known() {
        let mark = place.load(Ordering::Relaxed);
        if mark & (marks::SOLE | marks::TWIN) == 0 && !is_keyless(mark) {
            continue;
        }
        family::watch(fd);
        // In this order: it is never unwatched and not sole.
        place.fetch_or(marks::WATCHED, Ordering::AcqRel);
        place.fetch_and(!(marks::SOLE | marks::TWIN), Ordering::AcqRel);
        new.add(fd);
    }
}

/// Another program is about to be started by this process, with the numbers that do not close themselves then.
pub fn before_spawn() {
    pass_on_all(|mark| {
        mark & (marks::SOLE | marks::TWIN | marks::WATCHED) != 0 || is_keyless(mark)
    });
    forget_sole();
}

/// This process is about to become another program, `as_child` of a vfork, whose parent goes on.
pub fn before_exec(as_child: bool) {
    match as_child {
        true => before_spawn(),
        // What no other process has is the next program's alone.
        false => pass_on_all(|mark| mark & marks::WATCHED != 0),
    }
}

fn pass_on_all(may: impl Fn(u8) -> bool) {
    let mut new = New::none();
    for (fd, place) in known() {
        if may(place.load(Ordering::Relaxed)) && !net::closes_on_exec(fd) {
            super::passed(fd);
            new.add(fd);
        }
    }
    new.wait_out();
}

/// The number has the ULP, and no keys for sending.
fn is_keyless(mark: u8) -> bool {
    mark & marks::TLS != 0 && mark & marks::TX == 0
}

/// The numbers that stream sockets have had, and their marks.
fn known() -> impl Iterator<Item = (RawFd, &'static AtomicU8)> {
    let numbers = 0..HIGHEST.load(Ordering::Relaxed) as RawFd;
    numbers.map_while(|fd| Some((fd, marks::mark(fd)?)))
}

/// Numbers that have just come to be watched.
struct New {
    /// The first of them; no memory is taken, as a signal handler may fork.
    numbers: [RawFd; 64],
    count: usize,
}

impl New {
    fn none() -> New {
        New {
            numbers: [-1; 64],
            count: 0,
        }
    }

    fn add(&mut self, fd: RawFd) {
        if let Some(place) = self.numbers.get_mut(self.count) {
            *place = fd;
        }
        self.count += 1;
    }

    fn may_have(&self, fd: RawFd) -> bool {
        self.count > self.numbers.len() || self.numbers[..self.count].contains(&fd)
    }

    /// Waits for calls of other threads that have looked at such a number's mark before, and have not come to the
    /// kernel yet. Not for those that sleep there.
    fn wait_out(&self) {
        let own = in_flight::own();
        if self.count == 0 || in_flight::TABLE.is_only(own) || barrier::all_threads().is_err() {
            return;
        }
        for _ in 0..PATIENCE {
            if !in_flight::TABLE.others(own).any(|fd| self.may_have(fd)) {
                return;
            }
            std::thread::sleep(NAP);
        }
    }
}

/// Five milliseconds.
const PATIENCE: u32 = 50;
const NAP: Duration = Duration::from_micros(100);

/// Somebody may have got numbers of this process's sockets, in a way that does not tell of which: what was `SOLE` is not.
pub fn forget_sole() {
    // A child that has this memory is told from this process by that.
    fork_guard::epoch();
    for (_, place) in known() {
        if place.load(Ordering::Relaxed) & marks::SOLE != 0 {
            // In this order: it is never neither.
            place.fetch_or(marks::TWIN, Ordering::AcqRel);
            place.fetch_and(!marks::SOLE, Ordering::AcqRel);
        }
    }
}

/// The process has forked: numbers that have come while it was about to are both processes'.
pub(crate) fn has_forked() {
    if sees_all() {
        watch_all(&mut New::none());
    }
}

/// In the child: threads of the parent have no calls here.
pub(crate) fn after_fork() {
    in_flight::TABLE.keep_only(in_flight::own());
    family::remember_process();
    streams::leave_watched();
}

/// A stream socket has got the number `fd`: the table is looked through that far before a fork.
pub(super) fn remember_highest(fd: RawFd) {
    let above = usize::try_from(fd).map_or(0, |fd| fd + 1);
    if HIGHEST.load(Ordering::Relaxed) < above {
        HIGHEST.fetch_max(above, Ordering::Relaxed);
    }
}

/// Moves every connection to memory that the child will share. The caller holds the table.
pub(crate) fn share_all(table: &Inner<Socket>) {
    let epoch = fork_guard::epoch();
    for socket in table.states().filter(|socket| socket.is_of(epoch)) {
        socket.before_fork();
    }
}

/// There is no child that shares them. The caller holds the table, as it did before.
pub(crate) fn share_none(table: &Inner<Socket>) {
    let epoch = fork_guard::epoch();
    for socket in table.states().filter(|socket| socket.is_of(epoch)) {
        socket.fork_failed();
    }
}

/// In the child: puts a state of its own in the place of each that its parent, whose epoch was
/// `parent`, has shared with it. The caller holds the table.
pub(crate) fn adopt_in_child(parent: u64, table: &mut Inner<Socket>) {
    let late = Arc::new(Shared {
        sys: &Linux,
        pool: Arc::new(Late),
        waker: Arc::new(Late),
        streamers: Default::default(),
    });
    let mut any = false;
    let is_still = |fd, socket| identity::of(fd) == Some(socket);
    NUMBERS.in_child(table, is_still, |theirs| {
        let mut parents = PARENTS.lock().unwrap_or_else(PoisonError::into_inner);
        parents.push(Arc::clone(theirs));
        if !theirs.is_of(parent) {
            return None;
        }
        let own = theirs.in_child(Arc::clone(&late), fork_guard::epoch())?;
        any |= own.has_keys();
        Some(Arc::new(own))
    });
    if any {
        super::publish();
    }
}

/// Stands for pool and worker in a connection that a child has from its parent: most children never
/// need them.
struct Late;

impl Waker for Late {
    fn defer(&self, connection: &Arc<Connection>) {
        if let Ok(process) = process() {
            process.shared.waker.defer(connection);
        }
    }
    fn watch(&self, connection: &Arc<Connection>) {
        match process() {
            Ok(process) => process.shared.waker.watch(connection),
            Err(error) => log::warn!("{connection:?}: cannot be watched: {error}"),
        }
    }
    fn forget(&self, connection: &Connection, fd: RawFd) {
        // Without a worker there is nothing to forget.
        if let Some(process) = PROCESS.load_full() {
            process.shared.waker.forget(connection, fd);
        }
    }
}

impl Engine for Late {
    fn submit(&self, job: Job) {
        job.run();
    }
}

/// In a child, what it has from its parent: never dropped, as threads that are not here may have
/// stopped in the middle of it.
static PARENTS: Mutex<Vec<Arc<Socket>>> = Mutex::new(Vec::new());

/// One more than the highest number that a stream socket has had.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

/// So many numbers are looked at when a program starts: few are started with more.
const INHERITED: usize = 1024;
