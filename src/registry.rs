//! Which descriptor carries which connection, and what the process has once: settings, thread
//! pool, worker.
//!
//! The table is flat: a lookup is two loads for a descriptor without TLS, and one more step that
//! takes no lock for one with. Attaching and detaching are serialised by one mutex, which is never
//! held across a system call.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::{ArcSwapOption, Guard};
use rustix::io::Errno;

use crate::aead::TrafficKeys;
use crate::config::Config;
use crate::engine::threads::Pool;
use crate::engine::{Engine, Job};
use crate::error::{Error, Result};
use crate::sys::fork_guard;
use crate::sys::net::{self, Endpoint, Linux};
use crate::tx::{Connection, Settings, Shared, Waker};
use crate::worker::Worker;

/// A connection with the process it was set up in.
pub struct Entry {
    connection: Arc<Connection>,
    epoch: u64,
    identity: Option<fork_guard::Identity>,
}

impl Entry {
    /// The connection.
    ///
    /// # Errors
    /// [`Error::NotRecoverable`] in a process that came by a raw `clone` after the keys were set, or
    /// by a `fork` that could not share the connection: it cannot prove which numbers its other side
    /// uses, so it does not seal.
    pub fn get(&self) -> Result<&Arc<Connection>> {
        match self.epoch == fork_guard::epoch() {
            true => Ok(&self.connection),
            false => Err(Error::NotRecoverable),
        }
    }
}

/// Whether `fd` carries TLS.
#[must_use]
pub fn is_ours(fd: RawFd) -> bool {
    slot(fd).is_some_and(|slot| slot.load().is_some())
}

/// The connection on `fd`.
///
/// # Errors
/// [`Error::NoTls`] if there is none on an open socket; `EBADF`, `ENOTSOCK` for what is no socket.
pub fn entry(fd: RawFd) -> Result<Found> {
    match slot(fd).map(ArcSwapOption::load) {
        Some(guard) if guard.is_some() => Ok(Found(guard)),
        _ => Err(why_none(fd)),
    }
}

/// A looked-up entry; keeps the connection alive during a call, also against `close` (MT-11).
pub struct Found(Guard<Option<Arc<Entry>>>);

impl core::ops::Deref for Found {
    type Target = Entry;
    fn deref(&self) -> &Entry {
        self.0
            .as_deref()
            .expect("`entry` returns none but full guards")
    }
}

/// Sets TX keys on `fd`, for the first time or again.
///
/// # Errors
/// The order of the kernel's checks: ATT-3 to ATT-7 for the socket, then CI-1 and CI-3 for what
/// `keys` is made from.
pub fn tx_init(fd: RawFd, keys: impl FnOnce() -> Result<TrafficKeys>) -> Result<()> {
    let endpoint = net::endpoint(fd)?;
    if let Ok(found) = entry(fd) {
        if found.identity == fork_guard::identity(fd) {
            return found.get()?.rekey(keys);
        }
        // The program closed the socket behind our back, and the number came back as another.
        detach(fd);
    }
    match endpoint {
        Endpoint::ConnectedStream => {}
        Endpoint::NotConnected => return Err(Error::Os(Errno::NOTCONN)),
        Endpoint::Unsuitable(errno) => return Err(Error::Os(errno)),
    }
    let keys = keys()?;
    let process = process()?;
    let config = config();
    let settings = Settings {
        engine: config.engine,
        aead: config.aead,
        queue_max: config.tx_queue,
        cores: process.cores,
    };
    let connection = Connection::new(process.shared.clone(), settings, fd, keys)?;
    let identity = fork_guard::identity(fd);
    let entry = Entry {
        connection,
        epoch: fork_guard::epoch(),
        identity,
    };
    let slot = slot_or_new(fd).ok_or(Error::Os(Errno::MFILE))?;
    let _attach = attach_lock();
    slot.store(Some(Arc::new(entry)));
    Ok(())
}

/// Takes the connection off `fd`; calls that already have it go on with it.
pub fn detach(fd: RawFd) -> Option<Arc<Entry>> {
    let _attach = attach_lock();
    slot(fd)?.swap(None)
}

/// Detaches, and closes `fd` at once or behind the last record.
///
/// # Errors
/// `close(2)`'s own. The number is free in any case but `EBADF`.
pub fn close(fd: RawFd) -> Result<()> {
    let entry = detach(fd);
    if let Some(connection) = entry.as_ref().and_then(|entry| entry.get().ok()) {
        connection.leave();
        if let Some(linger) = net::linger(fd).filter(|linger| !linger.is_zero()) {
            // SO_LINGER: the program asked for a close that waits.
            let _ = connection.flush(Some(linger));
        }
        let taken_over = connection.close(|| {
            let socket = net::duplicate(fd)?;
            net::clear_linger(&socket);
            Ok(socket)
        });
        match taken_over {
            Ok(true) => {}
            Ok(false) => remember_lingering(connection),
            // No descriptor left to keep the socket with: wait here instead, so that nothing is
            // lost, for as long as the reader takes anything.
            Err(_) => drain_one(connection, config().linger),
        }
    }
    net::close(fd).map_err(Error::from)
}

/// Waits until every connection's accepted bytes are with the kernel: the end of the process. Gives
/// up on a reader that has taken nothing for the linger time.
pub fn drain_all() {
    for connection in all() {
        connection.leave();
        // What fails now has nobody left to tell.
        let _ = connection.drain();
    }
    let linger = config().linger;
    for connection in all() {
        drain_one(&connection, linger);
    }
}

/// The settings in force.
pub fn config() -> Arc<Config> {
    match CONFIG.load_full() {
        Some(config) => config,
        None => {
            let config = Arc::new(from_environment());
            let current = CONFIG.compare_and_swap(&None::<Arc<Config>>, Some(Arc::clone(&config)));
            if current.is_none() {
                crate::logging::start(config.log.as_ref());
            }
            CONFIG.load_full().unwrap_or(config)
        }
    }
}

/// Replaces the settings; connections that exist keep theirs.
pub fn configure(change: impl FnOnce(&mut Config)) {
    let mut config = (*config()).clone();
    change(&mut config);
    crate::logging::start(config.log.as_ref());
    CONFIG.store(Some(Arc::new(config)));
}

/// Moves every connection to memory that the child will share. The caller holds the table.
pub(crate) fn share_all() {
    for entry in slots().filter_map(ArcSwapOption::load_full) {
        if let Ok(connection) = entry.get()
            && let Err(error) = connection.before_fork()
        {
            log::warn!("{connection:?}: a forked child will be refused: {error}");
        }
    }
}

/// In the child: puts a connection of its own in the place of each that its parent, whose epoch
/// was `parent`, has shared with it. The caller holds the table.
pub(crate) fn adopt_in_child(parent: u64) {
    let late = Shared {
        sys: &Linux,
        pool: Arc::new(Late),
        waker: Arc::new(Late),
    };
    for slot in slots() {
        let Some(entry) = slot.load_full().filter(|entry| entry.epoch == parent) else {
            continue;
        };
        if let Some(connection) = entry.connection.in_child(late.clone()) {
            slot.store(Some(Arc::new(Entry {
                connection,
                epoch: fork_guard::epoch(),
                identity: entry.identity,
            })));
        }
        let mut parents = PARENTS.lock().unwrap_or_else(PoisonError::into_inner);
        parents.push(entry);
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

/// Forgets the worker and the pool, whose threads did not survive `fork`, and what they held.
pub(crate) fn reset_in_child() {
    // Their descriptors are closed here; their connections belong to the parent.
    PROCESS.store(None);
}

/// Keeps the table from changing while the process forks.
pub(crate) fn hold() -> (
    MutexGuard<'static, ()>,
    MutexGuard<'static, Vec<Weak<Connection>>>,
) {
    (attach_lock(), lingering())
}

/// What the threads of this process share.
struct Process {
    shared: Shared,
    cores: usize,
}

fn process() -> Result<Arc<Process>> {
    if let Some(process) = PROCESS.load_full() {
        return Ok(process);
    }
    let _one = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(process) = PROCESS.load_full() {
        return Ok(process);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = config()
        .threads
        .unwrap_or_else(|| cores.saturating_sub(1).max(1));
    let worker = Worker::new().map_err(Error::from)?;
    let shared = Shared {
        sys: &Linux,
        pool: Arc::new(Pool::new(threads)),
        waker: Arc::new(worker),
    };
    let process = Arc::new(Process { shared, cores });
    PROCESS.store(Some(Arc::clone(&process)));
    Ok(process)
}

fn from_environment() -> Config {
    // Somebody else's environment does not steer a program that runs with more rights than it.
    if !fork_guard::environment_is_trusted() {
        return Config::default();
    }
    let (config, complaints) = Config::from_lookup(|name| std::env::var(name).ok());
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !complaints.is_empty() && !TOLD.swap(true, Ordering::Relaxed) {
        for complaint in complaints {
            eprintln!("{complaint}");
        }
    }
    config
}

fn why_none(fd: RawFd) -> Error {
    match net::endpoint(fd) {
        Ok(_) => Error::NoTls,
        Err(errno) => Error::from(errno),
    }
}

fn drain_one(connection: &Arc<Connection>, linger: std::time::Duration) {
    loop {
        let before = connection.pending();
        match connection.flush(Some(linger)) {
            Err(Error::Interrupted) => {}
            Err(Error::Os(Errno::TIMEDOUT)) if connection.pending() < before => {}
            _ => return,
        }
    }
}

fn all() -> Vec<Arc<Connection>> {
    let mut all: Vec<_> = slots()
        .filter_map(ArcSwapOption::load_full)
        .filter_map(|entry| entry.get().ok().cloned())
        .collect();
    let mut lingering = lingering();
    lingering.retain(|connection| connection.strong_count() > 0);
    all.extend(lingering.iter().filter_map(Weak::upgrade));
    all
}

fn remember_lingering(connection: &Arc<Connection>) {
    let mut lingering = lingering();
    // Swept when the list has doubled, so that closing stays cheap.
    if lingering.len() == lingering.capacity() {
        lingering.retain(|connection| connection.strong_count() > 0);
    }
    lingering.push(Arc::downgrade(connection));
}

fn lingering() -> MutexGuard<'static, Vec<Weak<Connection>>> {
    LINGERING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn attach_lock() -> MutexGuard<'static, ()> {
    ATTACH.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slots() -> impl Iterator<Item = &'static Slot> {
    let chunks = CHUNKS.iter().filter_map(OnceLock::get);
    chunks.flat_map(|chunk| chunk.iter())
}

fn slot(fd: RawFd) -> Option<&'static Slot> {
    let fd = usize::try_from(fd).ok()?;
    CHUNKS
        .get(fd / CHUNK)?
        .get()
        .map(|chunk| &chunk[fd % CHUNK])
}

fn slot_or_new(fd: RawFd) -> Option<&'static Slot> {
    let fd = usize::try_from(fd).ok()?;
    let chunk = CHUNKS.get(fd / CHUNK)?.get_or_init(|| {
        (0..CHUNK)
            .map(|_| Slot::const_empty())
            .collect::<Vec<_>>()
            .into_boxed_slice()
    });
    Some(&chunk[fd % CHUNK])
}

type Slot = ArcSwapOption<Entry>;

/// Slots per chunk: one page of pointers.
const CHUNK: usize = 512;

/// Chunks come into being as descriptor numbers are used, and stay. 2^20 numbers is the kernel's
/// default for `fs.nr_open`.
static CHUNKS: [OnceLock<Box<[Slot]>>; (1 << 20) / CHUNK] =
    [const { OnceLock::new() }; (1 << 20) / CHUNK];

static ATTACH: Mutex<()> = Mutex::new(());
static FIRST: Mutex<()> = Mutex::new(());
/// Closed by the program, not yet drained; each keeps itself alive.
static LINGERING: Mutex<Vec<Weak<Connection>>> = Mutex::new(Vec::new());
/// In a child, what it has from its parent: never dropped, as threads that are not here may have
/// stopped in the middle of it.
static PARENTS: Mutex<Vec<Arc<Entry>>> = Mutex::new(Vec::new());
static CONFIG: ArcSwapOption<Config> = ArcSwapOption::const_empty();
static PROCESS: ArcSwapOption<Process> = ArcSwapOption::const_empty();
