//! Which descriptor carries which connection, and what the process has once: settings, thread
//! pool, worker.
//!
//! `numbers` is the table: which numbers each TLS socket has, and how that changes together with the kernel's own
//! table. `keys`, `closing` and `duplicates` are what the program does to a number, on top of it.

mod closing;
mod drain;
mod duplicates;
mod family;
mod keys;
mod numbers;
mod poll;
mod publish;
mod socket;
mod survivors;
mod tables;
mod twins;
mod world;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use rustix::io::Errno;

use crate::config::Config;
use crate::engine::Engine;
use crate::engine::accelerator::{Accelerator, Limits};
use crate::engine::threads::Pool;
use crate::error::{Error, Result};
use crate::sync::slot::Loaded;
use crate::sync::{patiently, try_lock_std};
use crate::sys::in_flight::Noted;
use crate::sys::net::Linux;
use crate::sys::signals::Blocked;
use crate::sys::{family as processes, fork_guard, identity, marks, net};
use crate::tx::{Connection, Shared};
use crate::worker::Worker;
use crate::worker::orphans::Orphanage;

use numbers::{Inner, Numbers, OfSocket};
use world::Process as World;

pub use closing::close;
pub use drain::{Deadline, drain_all, stalled};
pub use duplicates::{came, came_over, came_unnoticed, duplicate, fresh, passed, replace, signed};
pub(crate) use family::{adopt_in_child, after_fork, has_forked, share_all, share_none};
pub use family::{before_exec, before_fork, before_spawn, forget_sole, look_at_inherited};
pub use keys::{attach_tcp, set_keys};
pub use poll::poll;
pub(crate) use publish::reset_in_child as forget_published;
pub use publish::{FileName, Presence, publish, unpublish};
pub use socket::{Direction, Socket};
pub use tables::{Clone, part, unshare};
pub use world::see_all;

/// Whether `fd` carries TLS.
#[must_use]
pub fn is_ours(fd: RawFd) -> bool {
    marks::get(fd) & marks::TLS != 0
}

/// The TLS state of the socket `fd`. With the C library also by a duplicate that is seen for the first time.
///
/// # Errors
/// [`Error::NoTls`] if there is none on an open socket; `EBADF`, `ENOTSOCK` for what is no socket.
pub fn entry(fd: RawFd) -> Result<Found> {
    match NUMBERS.find(fd) {
        Ok(loaded) => Ok(Found(loaded)),
        Err(Error::NoTls) if !world::sees_all() => {
            duplicates::look_up(fd)?;
            NUMBERS.find(fd).map(Found)
        }
        Err(error) => Err(error),
    }
}

/// Does `body` with the TLS state of `fd`. If the socket was closed under that while the number came to be another's, it
/// does it with that.
///
/// # Errors
/// Those of [`entry`] and of `body`.
pub fn with<T>(fd: RawFd, mut body: impl FnMut(&Arc<Socket>) -> Result<T>) -> Result<T> {
    loop {
        let found = entry(fd)?;
        match body(found.get()?) {
            Err(Error::Changed) => {}
            Err(Error::Closed | Error::Os(Errno::NOTSOCK)) if !found.is_still(fd) => {}
            result => return result,
        }
    }
}

/// Does `body`, which writes plain bytes by `fd`, a number of `socket`, which has no keys for sending. Keys are not set in
/// the middle of it.
///
/// # Errors
/// [`Error::Changed`] if it has some by now; `EIO` if another process has set keys; those of `body`.
pub fn plainly<T>(fd: RawFd, socket: &Socket, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let noted = Noted::new(fd);
    if marks::get(fd) & (marks::TX | marks::BUSY) != 0 {
        drop(noted);
        NUMBERS.settle(fd)?;
        return Err(Error::Changed);
    }
    // With the preload library its marks say whether another process may have the socket.
    if world::sees_all() || socket.has_keys() {
        return body();
    }
    match processes::begin(fd) {
        processes::Found::Plain(cell) => {
            let result = body();
            processes::end(cell);
            result
        }
        processes::Found::Signed => Err(Error::Os(Errno::IO)),
        processes::Found::NoStream => body(),
    }
}

/// A looked-up socket; kept alive during a call, also against `close` (MT-11).
pub struct Found(Loaded<Socket>);

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
            .expect("`find` returns none but full guards")
    }

    /// Whether `fd` still is a number of this socket. What system calls that no library sees have made of it is
    /// noticed here, and nowhere else.
    fn is_still(&self, fd: RawFd) -> bool {
        match NUMBERS.find(fd) {
            Ok(now) => {
                let is_known = now
                    .as_ref()
                    .is_some_and(|now| Arc::ptr_eq(now, self.socket()));
                is_known && !has_been_replaced(fd)
            }
            // Nothing else to try it with.
            Err(error) => error != Error::NoTls,
        }
    }
}

/// The descriptors of this process that carry TLS. Takes no lock and no memory.
pub fn numbers() -> impl Iterator<Item = RawFd> {
    world::states().map(|(number, _)| number)
}

/// Whether the number `fd` is, in the descriptor table of the calling thread, the socket that its state was made for.
/// It is not where the child of a `vfork` has put something else there.
#[must_use]
pub fn is_same(fd: RawFd) -> bool {
    NUMBERS.find(fd).is_ok_and(|found| {
        found
            .as_ref()
            .is_some_and(|socket| identity::of(fd) == Some(socket.identity()))
    })
}

/// Whether system calls that no library sees have closed the TLS socket `fd` and given the number out again. It is a plain
/// one then.
pub fn has_been_replaced(fd: RawFd) -> bool {
    if is_same(fd) || net::is_open(fd).is_err() || fork_guard::is_child_of_vfork() {
        return false;
    }
    fresh(fd, marks::PLAIN);
    true
}

/// What a call does with a number that is no plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The number's call goes to the kernel.
    Plain,
    /// It goes to the library.
    Served,
    /// Another process may have set keys: it looks.
    Watched,
    /// Another process has set keys.
    Refused,
}

/// What a call that writes (or else reads) by `fd` does. Waits while the number is being changed.
///
/// # Errors
/// `EBADF` if the caller is a signal handler and the change is made by the call that it has interrupted.
pub fn way(fd: RawFd, writes: bool) -> Result<Way> {
    let mark = NUMBERS.settle(fd)?;
    let served = if writes { marks::TX } else { marks::TLS };
    Ok(match mark {
        // A number that the C library has closed by itself may be something else by now.
        mark if mark & marks::REFUSED != 0 && !duplicates::may_have_keys_elsewhere(fd) => {
            fresh(fd, marks::PLAIN);
            Way::Plain
        }
        mark if mark & marks::REFUSED != 0 => Way::Refused,
        mark if mark & served != 0 => Way::Served,
        mark if mark & marks::WATCHED != 0 => Way::Watched,
        _ => Way::Plain,
    })
}

/// Whether keys are set on the socket of `fd`, or can be through the preload library, in whatever process: that takes
/// Internet connections only. Of others the sign tells, which a process with the C library leaves.
#[must_use]
pub fn may_have_keys(fd: RawFd) -> bool {
    marks::get(fd) & (marks::TLS | marks::REFUSED) != 0
        || (net::is_inet(fd) == Ok(true) && identity::is_stream(fd))
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
    if let Some(orphanage) = ORPHANAGE.swap(None) {
        // What its parent has may be the same table.
        if !tables::are_apart() {
            orphanage.abandon();
        }
        core::mem::forget(orphanage);
    }
    drain::reset_in_child();
}

/// The table's locks, held while the process forks; signal handlers wait meanwhile.
pub(crate) struct Held {
    pub(crate) survivors: survivors::Held,
    _keys: MutexGuard<'static, ()>,
    pub(crate) table: MutexGuard<'static, Inner<Socket>>,
    pub(crate) lingering: MutexGuard<'static, Vec<Weak<Connection>>>,
    _quiet: Blocked,
}

/// Keeps the table from changing while the process forks.
pub(crate) fn hold() -> Held {
    let quiet = Blocked::new();
    Held {
        // First: a close has this one when it takes those of the table.
        survivors: survivors::hold(),
        _keys: keys::lock(),
        table: NUMBERS.lock_table(),
        lingering: lingering(),
        _quiet: quiet,
    }
}

/// [`hold`], by a caller that may be a handler of a signal which came under one of the locks: `None` if one of them is not
/// let go.
pub(crate) fn hold_patiently() -> Option<Held> {
    let quiet = Blocked::new();
    Some(Held {
        survivors: patiently(survivors::try_hold)?,
        _keys: patiently(keys::try_lock)?,
        table: patiently(|| NUMBERS.try_lock_table())?,
        lingering: patiently(|| try_lock_std(&LINGERING))?,
        _quiet: quiet,
    })
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
    // Its descriptors and threads would not be its parent's, whose memory it has. As from a kernel without TLS.
    if fork_guard::is_child_of_vfork() {
        return Err(Error::Os(Errno::NOPROTOOPT));
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

/// The table of this process's numbers.
static NUMBERS: Numbers<Socket, World> = Numbers::with(World, Mutex::new(Inner::new()));

static FIRST: Mutex<()> = Mutex::new(());
/// Closed by the program, not yet drained; each keeps itself alive.
static LINGERING: Mutex<Vec<Weak<Connection>>> = Mutex::new(Vec::new());
static CONFIG: ArcSwapOption<Config> = ArcSwapOption::const_empty();
/// Made by the first close that leaves something behind.
static ORPHANAGE: ArcSwapOption<Orphanage> = ArcSwapOption::const_empty();
static PROCESS: ArcSwapOption<Process> = ArcSwapOption::const_empty();
