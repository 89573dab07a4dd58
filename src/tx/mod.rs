//! The transmit direction of one connection.
//!
//! A send (`send`) cuts the program's bytes into records and seals them in the caller or submits them
//! to the thread pool (`seal`), waits if too many are there (`room`), and leaves them in the `ready_list`; whoever holds the `writer` hands
//! the contiguous sealed head to the kernel (`transmit`). What a call leaves behind is transmitted
//! by a later call, by the worker (`deferral`), or by another thread meanwhile (`relay`).
//!
//! # Locks, outermost first
//!
//! | lock | guards | held across |
//! | --- | --- | --- |
//! | `turn` | the sending calls as wholes: bytes of one call are contiguous (MT-2) | one call, its sleeps included |
//! | `sender` | keys, sequence numbers, open record, run of sealed records | sealing in the caller, reserving a number and its slot as one step; never a sleep |
//! | `writer` | the socket's write side | the gathered `sendmsg`, which never sleeps |
//! | ready list | slots, failure | one short step (leaf) |
//!
//! Once several processes have the connection (`share`), `sender` and `writer` guard nothing any
//! more: behind `turn` come the shared turn and the lock of the shared state (`shared`).
#![forbid(unsafe_code)]

mod condition;
mod control;
mod deferral;
mod ending;
mod file;
mod open_record;
mod pace;
mod queue;
mod ready_list;
mod recovery;
mod relay;
mod room;
mod seal;
mod send;
mod share;
mod shared;
mod shared_calls;
mod shared_control;
mod source;
mod transmit;
mod used_keys;
mod writer;

#[cfg(all(test, not(loom), not(miri)))]
mod meeting_tests;
#[cfg(all(any(test, feature = "testing"), not(loom), not(miri)))]
mod shared_testing;
#[cfg(all(test, not(loom), not(miri)))]
mod shared_tests;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
pub(crate) mod testing;
#[cfg(all(test, not(loom)))]
mod tests;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::aead::{Choice, RecordSealer, TrafficKeys};
use crate::engine::{Engine, Kind};
use crate::error::{PendingError, Result};
use crate::record::{MAX_PLAINTEXT, RecordNumbers};
use crate::stats::{Current, Gauge, STATS};
use crate::sync::turn::TurnLock;
use crate::sync::{Event, Mutex, MutexGuard, lock, try_lock};
use crate::sys::kept::Kept;
use crate::sys::net::Sys;

use deferral::Deferral;
use open_record::OpenRecord;
use pace::Pace;
use ready_list::ReadyList;
use shared::Joint;
use writer::{Segment, Writer};

pub use control::Info;
pub use ending::{Drain, Remains};
pub use file::FileSource;
pub use relay::Streamers;
pub use send::SendFlags;
pub use transmit::Look;

/// What a connection asks of the deferred worker, which it does not know.
pub trait Waker: Send + Sync {
    /// Look at this connection soon, and again until [`Connection::look`] says that it is done.
    fn defer(&self, connection: &Arc<Connection>);
    /// The kernel refused bytes of this connection: when there is room, call
    /// [`Connection::room`].
    fn watch(&self, connection: &Arc<Connection>);
    /// The connection changes its descriptor or goes away: forget the one it had.
    fn forget(&self, connection: &Connection, fd: RawFd);
}

/// What all connections of a process share.
pub struct Shared {
    /// The kernel.
    pub sys: &'static dyn Sys,
    /// The thread pool.
    pub pool: Arc<dyn Engine>,
    /// The deferred worker.
    pub waker: Arc<dyn Waker>,
    /// Who has streamed of late.
    pub streamers: Streamers,
}

/// How connections behave; fixed when a connection is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which engine seals.
    pub engine: Kind,
    /// Which AEAD implementation.
    pub aead: Choice,
    /// Accepted and not yet transmitted bytes at which a send waits (`UKTLS_TX_QUEUE`).
    pub queue_max: usize,
    /// Processors this process may run on.
    pub cores: usize,
}

/// One connection's transmit direction.
pub struct Connection {
    shared: Arc<Shared>,
    settings: Settings,
    /// Names the connection to the worker; never reused in a process.
    id: u64,
    fd: AtomicI32,
    turn: TurnLock,
    /// None in a connection that was inherited by `fork`: that is shared from the beginning.
    sender: Option<Mutex<Sender>>,
    /// What processes share, from the first fork on.
    joint: OnceLock<Box<Joint>>,
    list: ReadyList<Segment>,
    writer: Mutex<Writer>,
    deferral: Deferral,
    /// The socket's error, which either direction may set and take.
    pending: Arc<PendingError>,
    /// Moved to shared memory with the rest; see [`Connection::counts`].
    counts: Counts,
    /// Bits `BROKEN`, `BLOCKED`, `CALLER_POLLS`, `SHUTDOWN`, `CLOSING`, `SLEEPING`,
    /// `PAUSED`.
    state: AtomicU32,
    /// Calls so far, for the worker to see whether the program is quiet.
    calls: AtomicU32,
    /// Something moved: a record was sealed, or the kernel took bytes.
    moved: Event,
    /// The queue has shrunk to half, or the connection is dead: sleeping senders may go on.
    room: Event,
    /// The socket, once it is ours alone (after `uktls_close`), and what keeps us alive until the
    /// last record is out, as nobody else may.
    owned: Mutex<Option<(Kept, Arc<Connection>)>>,
    watched: AtomicBool,
    /// Who waits for the writer: a thread that transmits on and on gives it up then.
    wanted: AtomicU32,
    /// Attempts of this process to change the keys, for the statistics.
    rekeys_ok: AtomicU32,
    rekeys_refused: AtomicU32,
    _counted: Current,
}

/// What is known of the stream without a lock.
#[derive(Default)]
struct Counts {
    /// The sticky error: 0, or the errno that every send returns.
    error: AtomicI32,
    /// Wire bytes sealed or being sealed, and not yet with the kernel.
    queued: AtomicU64,
    /// Plaintext bytes accepted, and handed to the kernel.
    accepted: AtomicU64,
    handed: AtomicU64,
    records_sent: AtomicU64,
    /// Both, as they were when the connection came to be shared.
    handed_before: AtomicU64,
    records_before: AtomicU64,
}

/// What the sending side owns.
struct Sender {
    sealer: Arc<RecordSealer>,
    keys: TrafficKeys,
    numbers: RecordNumbers,
    open: Option<OpenRecord>,
    /// Records sealed in the caller and not yet on the ready list.
    run: Option<Segment>,
    /// Records sealed or submitted since the connection began, for the statistics.
    sealed: u64,
    max_payload: usize,
    pace: Pace,
    /// So many batches more are transmitted by the calls themselves.
    unrelayed: u8,
    /// Fingerprints of the keys before the present ones.
    used: Box<[u64]>,
}

impl Connection {
    /// Takes `keys` for the socket `fd`.
    ///
    /// # Errors
    /// [`CipherMissing`](crate::error::Error::CipherMissing) if no AEAD implementation has the cipher.
    pub fn new(
        shared: Arc<Shared>,
        settings: Settings,
        fd: RawFd,
        keys: TrafficKeys,
        pending: Arc<PendingError>,
    ) -> Result<Arc<Connection>> {
        let sealer = Arc::new(sealer(&shared, &settings, &keys)?);
        let sender = Sender {
            sealer,
            numbers: keys.numbers(),
            keys,
            open: None,
            run: None,
            sealed: 0,
            max_payload: MAX_PLAINTEXT,
            pace: Pace::default(),
            unrelayed: 0,
            used: Box::default(),
        };
        STATS.tx_sw.add(1);
        let connection = Self::assemble(shared, settings, fd, Some(Mutex::new(sender)), pending);
        Ok(Arc::new(connection))
    }

    fn assemble(
        shared: Arc<Shared>,
        settings: Settings,
        fd: RawFd,
        sender: Option<Mutex<Sender>>,
        pending: Arc<PendingError>,
    ) -> Connection {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        Connection {
            shared,
            settings,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            fd: AtomicI32::new(fd),
            turn: TurnLock::default(),
            sender,
            joint: OnceLock::new(),
            list: ReadyList::new(),
            writer: Mutex::new(Writer::default()),
            deferral: Deferral::new(),
            pending,
            counts: Counts::default(),
            state: AtomicU32::new(0),
            calls: AtomicU32::new(0),
            moved: Event::default(),
            room: Event::default(),
            owned: Mutex::new(None),
            watched: AtomicBool::new(false),
            wanted: AtomicU32::new(0),
            rekeys_ok: AtomicU32::new(0),
            rekeys_refused: AtomicU32::new(0),
            _counted: Current::new(Gauge::Sending),
        }
    }

    /// The shared state, once there is one.
    fn joint(&self) -> Option<&Joint> {
        self.joint.get().map(|joint| &**joint)
    }

    /// The sender, as long as the connection is this process's alone. It stays so while the lock is
    /// held.
    fn private(&self) -> Option<MutexGuard<'_, Sender>> {
        let sender = lock(self.sender.as_ref()?);
        self.joint.get().is_none().then_some(sender)
    }

    /// [`Connection::private`], unless somebody has it.
    fn try_private(&self) -> Option<MutexGuard<'_, Sender>> {
        let sender = try_lock(self.sender.as_ref()?)?;
        self.joint.get().is_none().then_some(sender)
    }

    /// [`Connection::private`], or what to do if the connection is shared.
    fn either<T>(
        &self,
        private: impl FnOnce(&mut Sender) -> T,
        shared: impl FnOnce(&Joint) -> T,
    ) -> T {
        loop {
            if let Some(mut sender) = self.private() {
                return private(&mut sender);
            }
            if let Some(joint) = self.joint() {
                return shared(joint);
            }
        }
    }

    fn counts(&self) -> &Counts {
        self.joint()
            .map_or(&self.counts, |joint| &joint.memory.counts)
    }

    /// Plaintext bytes accepted and not yet handed to the kernel; 0 once the connection is broken.
    /// Pages given to `tls_sendpage` are free when this has fallen below their place in the stream.
    pub fn pending(&self) -> u64 {
        if self.is_broken() {
            return 0;
        }
        let counts = self.counts();
        // Acquire: pairs with the Release in `account`; who sees the bytes as handed over may write
        // to the pages they came from. `handed` is read first, so that the difference never goes
        // below zero.
        let handed = counts.handed.load(Ordering::Acquire);
        let accepted = counts.accepted.load(Ordering::Acquire);
        // In shared memory a sender may have died between the two.
        accepted.saturating_sub(handed)
    }

    /// The worker's name for this connection.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The descriptor that this connection writes to.
    pub fn fd(&self) -> RawFd {
        // Acquire: pairs with the Release in `close`, so that the number is ours when it is seen.
        self.fd.load(Ordering::Acquire)
    }

    /// Whether the worker's epoll set knows the descriptor; returns what was said before.
    pub fn set_watched(&self, watched: bool) -> bool {
        self.watched.swap(watched, Ordering::AcqRel)
    }

    fn is(&self, bits: u32) -> bool {
        // Acquire: pairs with the Release in `set`.
        self.state.load(Ordering::Acquire) & bits != 0
    }

    fn set(&self, bits: u32) -> bool {
        self.state.fetch_or(bits, Ordering::AcqRel) & bits != 0
    }

    fn unset(&self, bits: u32) {
        if self.is(bits) {
            self.state.fetch_and(!bits, Ordering::AcqRel);
        }
    }
}

/// The keys, ready for the engine that is going to seal with them.
fn sealer(shared: &Shared, settings: &Settings, keys: &TrafficKeys) -> Result<RecordSealer> {
    let sealer = RecordSealer::new(keys, settings.aead)?;
    Ok(match settings.engine {
        Kind::Accelerator => {
            sealer.accelerated_by(shared.pool.accelerated(keys.cipher, keys.key.bytes())?)
        }
        _ => sealer,
    })
}

impl core::fmt::Debug for Connection {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("fd", &self.fd())
            .finish()
    }
}

/// Nothing goes out any more; `error` says why.
const BROKEN: u32 = 1;
/// The kernel refused bytes and has not taken any since.
const BLOCKED: u32 = 2;
/// A call is going to look at the ready list before it returns, so completions need not.
const CALLER_POLLS: u32 = 4;
/// The write side was shut down by the program; the FIN follows the last record.
const SHUTDOWN: u32 = 8;
/// The program has closed the socket; it is closed when the last record is out.
const CLOSING: u32 = 16;
/// A call sleeps for room.
const SLEEPING: u32 = 32;
/// The worker has found the program quiet since the last call.
const PAUSED: u32 = 64;
/// What was deferred last is expected to go out with the next call.
const BRIEFLY: u32 = 128;
/// The program has received, or tried to, since it sent last.
const HEARD: u32 = 256;
/// A thread of the engine's transmits, or is about to, while calls go on sealing.
const RELAYED: u32 = 512;
/// With `CLOSING`: what is queued is dropped, and the socket reset behind the last call that uses it.
const RESETS: u32 = 1024;
