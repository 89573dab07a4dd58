//! Which descriptor carries which connection, and what the process has once: settings, thread
//! pool, worker.
//!
//! The table is flat: a lookup is two loads for a descriptor without TLS, and one more step that
//! takes no lock for one with. Attaching and detaching are serialised by one mutex, which is never
//! held across a system call.

mod closing;
mod drain;
mod duplicates;
mod family;
mod poll;
mod publish;
mod socket;

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::{ArcSwapOption, Guard};
use rustix::io::Errno;

use crate::aead::TrafficKeys;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::accelerator::{Accelerator, Limits};
use crate::engine::threads::Pool;
use crate::error::{Error, Result};
use crate::sys::fork_guard;
use crate::sys::marks;
use crate::sys::net::{self, Endpoint, Linux};
use crate::tx::{Connection, Shared};
use crate::worker::Worker;

use duplicates::adopt_locked;

pub use closing::{close, close_by};
pub use drain::{drain_all, stalled};
pub(crate) use family::{adopt_in_child, share_all};
pub use poll::poll;
pub(crate) use publish::reset_in_child as forget_published;
pub use publish::{FileName, Presence, publish, unpublish};
pub use socket::{Direction, Socket};

/// Whether `fd` carries TLS.
#[must_use]
pub fn is_ours(fd: RawFd) -> bool {
    marks::get(fd) == marks::TLS
}

/// The TLS state of the socket `fd`; also by a duplicate that is seen for the first time.
///
/// # Errors
/// [`Error::NoTls`] if there is none on an open socket; `EBADF`, `ENOTSOCK` for what is no socket.
pub fn entry(fd: RawFd) -> Result<Found> {
    match slot(fd).map(ArcSwapOption::load) {
        Some(_) if marks::get(fd) == marks::CLOSING => closing::entry_of_closing(fd),
        Some(guard) if guard.is_some() => Ok(Found(guard)),
        _ => duplicates::adopt(fd),
    }
}

/// A looked-up socket; kept alive during a call, also against `close` (MT-11).
pub struct Found(Guard<Option<Arc<Socket>>>);

impl Found {
    /// The socket's TLS state.
    ///
    /// # Errors
    /// [`Error::NotRecoverable`] in a process that came by a raw `clone` after the keys were set, or
    /// by a `fork` that could not share the connection: it cannot prove which numbers its other side
    /// uses, so it does not seal.
    pub fn get(&self) -> Result<&Arc<Socket>> {
        match self.socket() {
            socket if socket.is_of(fork_guard::epoch()) => Ok(socket),
            _ => Err(Error::NotRecoverable),
        }
    }

    fn socket(&self) -> &Arc<Socket> {
        self.0
            .as_ref()
            .expect("`entry` returns none but full guards")
    }
}

/// Attaches TLS to `fd`, without keys: what setting the ULP does. Returns the socket's state.
///
/// # Errors
/// [`Error::UlpPresent`] if it is attached; ATT-5, ATT-7 for what is no connected stream.
pub fn attach(fd: RawFd) -> Result<Arc<Socket>> {
    let endpoint = net::endpoint(fd)?;
    if let Ok(found) = entry(fd) {
        if found.socket().identity() == fork_guard::identity(fd) {
            return Err(Error::UlpPresent);
        }
        // The program closed the socket behind our back, and the number came back as another.
        detach(fd);
    }
    match endpoint {
        Endpoint::ConnectedStream => {}
        Endpoint::NotConnected => return Err(Error::Os(Errno::NOTCONN)),
        Endpoint::Unsuitable(errno) => return Err(Error::Os(errno)),
    }
    let socket = Arc::new(Socket::new(fork_guard::epoch(), fork_guard::identity(fd)));
    install(fd, Arc::clone(&socket))?;
    Ok(socket)
}

/// Attaches TLS to a TCP socket, as setting `TCP_ULP` does (ATT-1 to ATT-7).
///
/// # Errors
/// As [`attach`]; `EOPNOTSUPP` for a stream that is not TCP's.
pub fn attach_tcp(fd: RawFd) -> Result<()> {
    match net::is_inet(fd)? {
        true => attach(fd).map(drop),
        false => Err(Error::Os(Errno::OPNOTSUPP)),
    }
}

/// Sets the keys of one direction of `fd`, for the first time or again, attaching TLS if need be.
///
/// # Errors
/// The order of the kernel's checks: ATT-3 to ATT-7 for the socket, then CI-1 and CI-3 for what
/// `keys` is made from. A socket that has just been attached is as before.
pub fn set_keys(
    fd: RawFd,
    direction: Direction,
    keys: impl FnOnce() -> Result<TrafficKeys>,
) -> Result<()> {
    set_keys_of(fd, direction, keys).inspect_err(|error| {
        log::debug!("descriptor {fd}: {direction:?} keys refused: {error}");
    })
}

fn set_keys_of(
    fd: RawFd,
    direction: Direction,
    keys: impl FnOnce() -> Result<TrafficKeys>,
) -> Result<()> {
    match attach(fd) {
        Ok(socket) => {
            let result = socket.set_keys(fd, direction, keys);
            if result.is_err() {
                detach(fd);
            }
            result
        }
        Err(Error::UlpPresent) => entry(fd)?.get()?.set_keys(fd, direction, keys),
        Err(error) => Err(error),
    }
}

/// Puts `socket` under the number `fd`.
fn install(fd: RawFd, socket: Arc<Socket>) -> Result<()> {
    install_locked(&mut attach_lock(), fd, socket)
}

fn install_locked(index: &mut Index, fd: RawFd, socket: Arc<Socket>) -> Result<()> {
    let slot = slot_or_new(fd).ok_or(Error::Os(Errno::MFILE))?;
    let is_there = |known: &Arc<Socket>| Arc::ptr_eq(known, &socket);
    if marks::get(fd) == marks::TLS && slot.load().as_ref().is_some_and(is_there) {
        return Ok(());
    }
    if let Some(identity) = socket.identity() {
        index.insert(identity, Arc::downgrade(&socket));
    }
    socket.known_by(fd);
    // The first time only; others must not count until it is done.
    publish();
    let was_closing = marks::get(fd) == marks::CLOSING;
    let before = slot.swap(Some(socket));
    marks::set(fd, marks::TLS);
    if let Some(before) = before.filter(|_| !was_closing) {
        let is_gone = before.unknown_by(fd).is_none();
        if is_gone && let Some(identity) = before.identity() {
            index.remove(&identity);
        }
    }
    Ok(())
}

/// Takes the state off the number `fd`; calls that already have it go on with it. Returns it, and
/// another number that it is known by.
pub fn detach(fd: RawFd) -> Option<(Arc<Socket>, Option<RawFd>)> {
    detach_locked(&mut attach_lock(), fd)
}

fn detach_locked(index: &mut Index, fd: RawFd) -> Option<(Arc<Socket>, Option<RawFd>)> {
    let socket = slot(fd)?.swap(None)?;
    let was_closing = marks::get(fd) == marks::CLOSING;
    marks::set(fd, 0);
    if was_closing {
        // Its connection has been looked after.
        return None;
    }
    let other = socket.unknown_by(fd);
    if other.is_none()
        && let Some(identity) = socket.identity()
    {
        index.remove(&identity);
    }
    Some((socket, other))
}

/// `new` is a duplicate of `old`, as `dup(2)` has just made it: the same connection.
///
/// # Errors
/// [`Error::NoTls`] if `old` carries none, `EMFILE` for a number beyond the table.
pub fn duplicated(old: RawFd, new: RawFd) -> Result<()> {
    let socket = Arc::clone(entry(old)?.socket());
    install(new, socket)
}

/// Whether the number `fd` still is the socket that its state was made for.
pub fn is_same(fd: RawFd) -> bool {
    match entry(fd) {
        Ok(found) => found.socket().identity() == fork_guard::identity(fd),
        // Between the two looks another TLS socket may have come under the number.
        Err(_) => closing::is_closing(fd) || entry(fd).is_ok(),
    }
}

/// As [`is_same`]. If the program has closed the socket behind our back and the number came back as
/// something else, the state is taken off.
pub fn verify(fd: RawFd) -> bool {
    if is_same(fd) {
        return true;
    }
    let mut index = attach_lock();
    // Asked again under the lock: another thread may have put another TLS socket under the number, or
    // be about to, and its state must not be the one that goes.
    let there = fork_guard::identity(fd);
    match marks::get(fd) {
        marks::CLOSING => there.is_some_and(|identity| index.contains_key(&identity)),
        _ => {
            let socket = slot(fd).and_then(ArcSwapOption::load_full);
            let kept = socket.is_some_and(|socket| socket.identity() == there);
            if !kept {
                detach_locked(&mut index, fd);
            }
            // It may be another TLS socket.
            kept || adopt_locked(&mut index, fd).is_ok()
        }
    }
}

/// The descriptors of this process that carry TLS.
pub fn numbers() -> impl Iterator<Item = RawFd> {
    slots()
        .filter(|(_, slot)| slot.load().is_some())
        .map(|(number, _)| number)
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
///
/// # Errors
/// `EBUSY`: another accelerator, and the process has got its engines already.
pub fn configure(change: impl FnOnce(&mut Config)) -> Result<()> {
    let mut config = (*config()).clone();
    let accelerator = config.accelerator.clone();
    change(&mut config);
    if config.accelerator != accelerator && PROCESS.load().is_some() {
        return Err(Error::Os(Errno::BUSY));
    }
    crate::logging::start(config.log.as_ref());
    CONFIG.store(Some(Arc::new(config)));
    Ok(())
}

/// Forgets the worker and the pool, whose threads did not survive `fork`, and what they held.
pub(crate) fn reset_in_child() {
    // Their descriptors are closed here; their connections belong to the parent.
    PROCESS.store(None);
    duplicates::reset_in_child();
}

/// The table's locks, held while the process forks.
pub(crate) type Held = (
    MutexGuard<'static, Index>,
    MutexGuard<'static, Vec<Weak<Connection>>>,
);

/// Keeps the table from changing while the process forks.
pub(crate) fn hold() -> Held {
    (attach_lock(), lingering())
}

/// What the threads of this process share.
struct Process {
    shared: Arc<Shared>,
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
    let config = config();
    let threads = config
        .threads
        .unwrap_or_else(|| cores.saturating_sub(1).max(1));
    let mut pool: Arc<dyn Engine> = Arc::new(Pool::new(threads));
    if let Some(id) = &config.accelerator {
        let limits = Limits {
            fallback: config.fallback,
            timeout: config.engine_timeout,
            in_flight: config.engine_in_flight,
        };
        pool = Arc::new(Accelerator::new(id, limits, pool));
    }
    let worker = Worker::new().map_err(Error::from)?;
    let shared = Arc::new(Shared {
        sys: &Linux,
        pool,
        waker: Arc::new(worker),
        streamers: Default::default(),
    });
    let process = Arc::new(Process { shared, cores });
    PROCESS.store(Some(Arc::clone(&process)));
    Ok(process)
}

fn from_environment() -> Config {
    // Somebody else's environment does not steer a program that runs with more rights than it.
    if !fork_guard::environment_is_trusted() {
        return Config::default();
    }
    let (config, complaints) = Config::from_lookup(|name| std::env::var_os(name));
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !complaints.is_empty() && !TOLD.swap(true, Ordering::Relaxed) {
        for complaint in complaints {
            eprintln!("{complaint}");
        }
    }
    config
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

fn attach_lock() -> MutexGuard<'static, Index> {
    INDEX.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The numbers that were ever in use, about, with their slots.
fn slots() -> impl Iterator<Item = (RawFd, &'static Slot)> {
    let chunks = (0..).step_by(CHUNK).zip(&CHUNKS);
    chunks
        .filter_map(|(first, chunk)| Some((first, chunk.get()?)))
        .flat_map(|(first, chunk)| (first..).zip(chunk.iter()))
        .filter(|(number, _)| marks::get(*number) != marks::CLOSING)
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

type Slot = ArcSwapOption<Socket>;

/// Slots per chunk: one page of pointers.
const CHUNK: usize = 512;

/// Chunks come into being as descriptor numbers are used, and stay. 2^20 numbers is the kernel's
/// default for `fs.nr_open`.
static CHUNKS: [OnceLock<Box<[Slot]>>; (1 << 20) / CHUNK] =
    [const { OnceLock::new() }; (1 << 20) / CHUNK];

/// States by their socket, for duplicates of descriptors; its lock orders attach and detach.
pub(crate) type Index = BTreeMap<fork_guard::Identity, Weak<Socket>>;

static INDEX: Mutex<Index> = Mutex::new(BTreeMap::new());
static FIRST: Mutex<()> = Mutex::new(());
/// Closed by the program, not yet drained; each keeps itself alive.
static LINGERING: Mutex<Vec<Weak<Connection>>> = Mutex::new(Vec::new());
static CONFIG: ArcSwapOption<Config> = ArcSwapOption::const_empty();
static PROCESS: ArcSwapOption<Process> = ArcSwapOption::const_empty();
