//! Parent and child: what happens to the table around `fork`.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Index, PROCESS, Socket, process, slots};
use crate::engine::{Engine, Job};
use crate::sys::fork_guard;
use crate::sys::net::Linux;
use crate::tx::{Connection, Shared, Waker};

/// Moves every connection to memory that the child will share. The caller holds the table.
pub(crate) fn share_all() {
    let epoch = fork_guard::epoch();
    for socket in slots().filter_map(|(_, slot)| slot.load_full()) {
        if socket.is_of(epoch) {
            socket.before_fork();
        }
    }
}

/// In the child: puts a state of its own in the place of each that its parent, whose epoch was
/// `parent`, has shared with it. The caller holds the table.
pub(crate) fn adopt_in_child(parent: u64, index: &mut Index) {
    let late = Arc::new(Shared {
        sys: &Linux,
        pool: Arc::new(Late),
        waker: Arc::new(Late),
        streamers: Default::default(),
    });
    // Duplicates of a descriptor share one state here, too.
    let mut adopted: HashMap<*const Socket, Arc<Socket>> = HashMap::new();
    for (_, slot) in slots() {
        let Some(theirs) = slot.load_full().filter(|socket| socket.is_of(parent)) else {
            continue;
        };
        let old = Arc::as_ptr(&theirs);
        if !adopted.contains_key(&old)
            && let Some(own) = theirs.in_child(Arc::clone(&late), fork_guard::epoch())
        {
            let own = Arc::new(own);
            if let Some(identity) = own.identity() {
                index.insert(identity, Arc::downgrade(&own));
            }
            adopted.insert(old, own);
        }
        if let Some(own) = adopted.get(&old) {
            slot.store(Some(Arc::clone(own)));
        }
        let mut parents = PARENTS.lock().unwrap_or_else(PoisonError::into_inner);
        parents.push(theirs);
    }
    if !adopted.is_empty() {
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
