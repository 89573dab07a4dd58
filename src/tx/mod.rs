//! The transmit direction of one connection.
//!
//! A send cuts the program's bytes into records (`send`), seals them in the caller or submits them
//! to the thread pool, and leaves them in the `ready_list`; whoever holds the `writer` hands
//! the contiguous sealed head to the kernel (`transmit`). What a call leaves behind is transmitted
//! by a later call or by the worker (`deferral`).
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

mod deferral;
mod file;
mod open_record;
mod pace;
mod queue;
mod ready_list;
mod recovery;
mod relay;
mod send;
mod share;
mod shared;
mod shared_calls;
mod shared_control;
mod transmit;
mod writer;

#[cfg(all(any(test, feature = "testing"), not(loom), not(miri)))]
mod shared_testing;
#[cfg(all(test, not(loom), not(miri)))]
mod shared_tests;
#[cfg(all(any(test, feature = "testing"), not(loom)))]
pub(crate) mod testing;
#[cfg(all(test, not(loom)))]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

use crate::aead::{Choice, Cipher, RecordSealer, TrafficKeys};
use crate::engine::{Engine, Kind};
use crate::error::{Error, PendingError, Result};
use crate::record::{MAX_PLAINTEXT, RecordNumber, RecordNumbers, Version};
use crate::stats::{Current, Gauge, STATS};
use crate::sync::{Event, Mutex, MutexGuard, lock, try_lock};
use crate::sys::kept::Kept;
use crate::sys::net::Sys;
use crate::sys::secret::SecretBox;

use deferral::Deferral;
use open_record::OpenRecord;
use pace::Pace;
use ready_list::ReadyList;
use shared::Joint;
use writer::{Segment, Writer};

pub use file::FileSource;
pub use relay::Streamers;
pub use send::SendFlags;
pub use transmit::{Drain, Look};

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
    turn: Mutex<()>,
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
    keys: SecretBox<TrafficKeys>,
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

/// What `uktls_get_info` reports of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// TLS version.
    pub version: Version,
    /// Cipher.
    pub cipher: Cipher,
    /// Engine asked for.
    pub engine: Kind,
    /// AEAD implementation in use.
    pub aead: crate::aead::Provider,
    /// Number of the next record.
    pub number: RecordNumber,
    /// Records handed to the kernel.
    pub records: u64,
    /// Plaintext bytes handed to the kernel.
    pub bytes: u64,
    /// Plaintext bytes accepted and not yet handed to the kernel.
    pub pending: u64,
    /// Records sealed or being sealed, and not yet completely with the kernel.
    pub queued_records: u64,
    /// Most plaintext bytes in a record.
    pub max_payload: u16,
}

impl Connection {
    /// Takes `keys` for the socket `fd`.
    ///
    /// # Errors
    /// [`Error::CipherMissing`] if no AEAD implementation has the cipher.
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
            keys: SecretBox::new(keys),
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
            turn: Mutex::new(()),
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

    /// Replaces the keys (RK-1 to RK-5): what is sealed from now on uses the new ones, what was
    /// submitted keeps the old. TLS 1.3 only.
    ///
    /// # Errors
    /// [`Error::KeysPresent`] for TLS 1.2 (CI-3); [`Error::Invalid`] if version or cipher differ.
    /// On failure the old keys stay in force.
    pub fn rekey(self: &Arc<Self>, keys: impl FnOnce() -> Result<TrafficKeys>) -> Result<()> {
        // A rekey waits for a send in progress (CI-10).
        let _turn = lock(&self.turn);
        let result = match (self.private(), self.joint()) {
            (Some(mut sender), _) => {
                sender.rekey(keys, |keys| sealer(&self.shared, &self.settings, keys))
            }
            (None, Some(joint)) => self.rekey_shared(joint, keys),
            (None, None) => Err(Error::NotRecoverable),
        };
        match result {
            Ok(()) => {
                STATS.tx_rekey_ok.add(1);
                self.rekeys_ok.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                STATS.tx_rekey_error.add(1);
                self.rekeys_refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }

    /// Version and cipher of the keys.
    pub fn suite(&self) -> (Version, Cipher) {
        self.either(
            |sender| (sender.sealer.version(), sender.sealer.cipher()),
            |joint| joint.suite,
        )
    }

    /// Writes the full crypto_info struct, with the number of the next record, for `getsockopt`
    /// (CI-12, CI-13). `out` has the struct's exact length.
    ///
    /// # Errors
    /// None that is expected: the lock of a shared connection.
    pub fn crypto_info(self: &Arc<Self>, out: &mut [u8]) -> Result<()> {
        if let Some(sender) = self.private() {
            crate::crypto_info::encode(&sender.keys, sender.numbers.peek(), out);
            return Ok(());
        }
        let joint = self.joint().ok_or(Error::NotRecoverable)?;
        self.crypto_info_shared(joint, out)
    }

    /// Sets the most plaintext bytes in a record (CI-19).
    ///
    /// # Errors
    /// [`Error::KeysPresent`] (EBUSY) while a record is open.
    pub fn set_max_payload(self: &Arc<Self>, len: usize) -> Result<()> {
        let Some(mut sender) = self.private() else {
            let joint = self.joint().ok_or(Error::NotRecoverable)?;
            return self.set_max_payload_shared(joint, len);
        };
        if sender.open.as_ref().is_some_and(|open| open.len() > 0) {
            return Err(Error::KeysPresent);
        }
        sender.max_payload = len.min(MAX_PLAINTEXT);
        Ok(())
    }

    /// The figures of this connection.
    ///
    /// # Errors
    /// None that is expected: the lock of a shared connection.
    pub fn info(self: &Arc<Self>) -> Result<Info> {
        let Some(sender) = self.private() else {
            let joint = self.joint().ok_or(Error::NotRecoverable)?;
            return self.info_shared(joint);
        };
        Ok(Info {
            version: sender.sealer.version(),
            cipher: sender.sealer.cipher(),
            engine: self.settings.engine,
            aead: sender.sealer.provider(),
            number: sender.numbers.peek(),
            records: self.counts.records_sent.load(Ordering::Relaxed),
            bytes: self.counts.handed.load(Ordering::Relaxed),
            pending: self.pending(),
            queued_records: self.records_queued(&sender),
            max_payload: u16::try_from(sender.max_payload).unwrap_or(u16::MAX),
        })
    }

    /// Records sealed or being sealed, and not yet completely with the kernel.
    fn records_queued(&self, sender: &Sender) -> u64 {
        let sent = self.counts.records_sent.load(Ordering::Relaxed);
        sender.sealed.saturating_sub(sent)
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

    /// Attempts of this process to change the keys: those that succeeded, and those refused.
    pub fn rekeys(&self) -> (u64, u64) {
        (
            self.rekeys_ok.load(Ordering::Relaxed).into(),
            self.rekeys_refused.load(Ordering::Relaxed).into(),
        )
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

    /// Takes the sticky error as `SO_ERROR` does: later sends see what the socket itself says. A
    /// failed seal or an internal fault is not forgiven (REC-13, AS-15).
    pub fn take_error(&self) -> Option<Errno> {
        let pending = self.pending.take();
        let error = &self.counts().error;
        let raw = error.load(Ordering::Acquire);
        let Some(errno) = (raw != 0).then(|| Errno::from_raw_os_error(raw)) else {
            return pending;
        };
        if !matches!(errno, Errno::BADMSG | Errno::NOTRECOVERABLE) {
            // What was lost is lost: the stream has a hole, and a send can only say EPIPE now.
            error.store(Errno::PIPE.raw_os_error(), Ordering::Release);
        }
        (errno != Errno::PIPE).then_some(errno)
    }

    /// Marks the connection broken for good: a panic was caught in one of its calls.
    pub fn poison(&self) {
        self.fail(Error::NotRecoverable.errno());
    }

    /// The connection is dead: remember the first reason, drop what is queued, wake everybody.
    fn fail(&self, errno: Errno) {
        self.refuse(errno);
        match self.joint() {
            // For all processes; the queue is emptied by whoever gets its lock next.
            Some(joint) => {
                joint.memory.flags.fetch_or(shared::DEAD, Ordering::AcqRel);
            }
            None => {
                self.set(BROKEN);
            }
        }
        self.list.fail();
        self.moved.signal();
        self.room.signal();
    }

    /// Nothing more is accepted: remembers the first reason. What was sealed before still goes out.
    fn refuse(&self, errno: Errno) {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let raw = errno.raw_os_error();
        let error = &self.counts().error;
        if error.compare_exchange(0, raw, success, failure).is_ok() {
            STATS.errors.add(1);
            if errno != Errno::PIPE {
                self.pending.set(errno);
            }
            log::warn!("connection {}: broken: {errno}", self.id);
        }
        self.room.signal();
    }

    /// The sticky error, if there is one.
    fn check(&self) -> Result<()> {
        match self.counts().error.load(Ordering::Acquire) {
            0 if self.is(SHUTDOWN) || self.is_broken() || self.is_shut() => Err(Error::BrokenPipe),
            // TX-35: what the other direction has met, until a receive or SO_ERROR takes it.
            0 => match self.pending.peek() {
                None => Ok(()),
                Some(errno) => Err(Error::from(errno)),
            },
            raw => Err(match Errno::from_raw_os_error(raw) {
                Errno::BADMSG => Error::SealFailed,
                Errno::NOTRECOVERABLE => Error::NotRecoverable,
                errno => Error::from(errno),
            }),
        }
    }

    /// Why nothing goes out any more.
    fn dead_errno(&self) -> Errno {
        match self.counts().error.load(Ordering::Acquire) {
            // Closed by another thread.
            0 => Errno::PIPE,
            raw => Errno::from_raw_os_error(raw),
        }
    }

    /// Whether nothing goes out any more.
    fn is_broken(&self) -> bool {
        self.is(BROKEN)
            || self
                .joint()
                .is_some_and(|joint| joint.memory.is(shared::DEAD))
    }

    /// Whether a process that shares the connection has shut its write side down.
    fn is_shut(&self) -> bool {
        self.joint()
            .is_some_and(|joint| joint.memory.is(shared::SHUT))
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

impl Sender {
    fn rekey(
        &mut self,
        keys: impl FnOnce() -> Result<TrafficKeys>,
        sealer: impl FnOnce(&TrafficKeys) -> Result<RecordSealer>,
    ) -> Result<()> {
        if self.sealer.version() == Version::Tls12 {
            return Err(Error::KeysPresent);
        }
        let keys = keys()?;
        if (keys.version, keys.cipher) != (self.sealer.version(), self.sealer.cipher()) {
            return Err(Error::Invalid);
        }
        // Design rule 1: nothing that was ever sealed with is taken again.
        let (old, new) = (fingerprint(&self.keys), fingerprint(&keys));
        if keys.may_repeat(&self.keys, self.numbers.peek().rec_seq)
            || (old != new && self.used.contains(&new))
        {
            return Err(Error::Invalid);
        }
        let sealer = Arc::new(sealer(&keys)?);
        // Nothing can fail after this line.
        self.sealer = sealer;
        if old != new {
            self.used = self.used.iter().copied().chain([old]).collect();
        }
        self.numbers = keys.numbers();
        self.keys = SecretBox::new(keys);
        Ok(())
    }
}

/// Tells keys apart, and nothing of them: a hash with a secret of this process.
fn fingerprint(keys: &TrafficKeys) -> u64 {
    static SECRET: OnceLock<RandomState> = OnceLock::new();
    SECRET
        .get_or_init(RandomState::new)
        .hash_one(keys.key.bytes())
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
