//! Parent and child: what happens to the table around `fork`.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::numbers::{Inner, OfSocket};
use super::{NUMBERS, PROCESS, Socket, came, process, twins};
use crate::engine::{Engine, Job};
use crate::sys::net::Linux;
use crate::sys::{family, fork_guard, identity, in_flight, marks};
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

/// The process is about to fork, or may have: numbers that no other process had are such that one may have.
pub fn before_fork() {
    for fd in 0..HIGHEST.load(Ordering::Relaxed) {
        let fd = fd as RawFd;
        let Some(place) = marks::mark(fd) else { break };
        let mark = place.load(Ordering::Relaxed);
        let is_keyless = mark & marks::TLS != 0 && mark & marks::TX == 0;
        if mark & (marks::SOLE | marks::TWIN) == 0 && !is_keyless {
            continue;
        }
        family::watch(fd, true);
        // In this order: it is never unwatched and not sole.
        place.fetch_or(marks::WATCHED, Ordering::AcqRel);
        place.fetch_and(!(marks::SOLE | marks::TWIN), Ordering::AcqRel);
    }
}

/// Somebody may have got numbers of this process's sockets, in a way that does not tell of which: what was `SOLE` is not.
pub fn forget_sole() {
    // A child that has this memory is told from this process by that.
    fork_guard::epoch();
    for fd in 0..HIGHEST.load(Ordering::Relaxed) {
        let Some(place) = marks::mark(fd as RawFd) else {
            break;
        };
        if place.load(Ordering::Relaxed) & marks::SOLE != 0 {
            // In this order: it is never neither.
            place.fetch_or(marks::TWIN, Ordering::AcqRel);
            place.fetch_and(!marks::SOLE, Ordering::AcqRel);
        }
    }
}

/// In the child: threads of the parent have no calls here.
pub fn after_fork() {
    in_flight::TABLE.keep_only(in_flight::own());
    family::remember_process();
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
