//! Counters of the process, named after `/proc/net/tls_stat` where that has them.
//!
//! They are plain relaxed counters: each is exact, but a reader may see one move before another.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::sys::fork_guard;
use crate::sys::kept::Kept;
use crate::sys::segment::{self, Page};
use crate::sys::signals::without_those_of_files;

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    /// Takes `n` off again (current values only).
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }
    /// Raises a maximum to `n`.
    pub fn raise(&self, n: u64) {
        // The load keeps the common case, nothing new, free of a locked write.
        if self.0.load(Relaxed) < n {
            self.0.fetch_max(n, Relaxed);
        }
    }
    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
    /// Back to zero: a forked child counts anew.
    pub(crate) fn clear(&self) {
        self.0.store(0, Relaxed);
    }
}

/// One more of what a counter counts now, for as long as this lives.
#[derive(Debug)]
pub struct Current {
    gauge: Gauge,
    /// The lower half of it: every connection has one of these.
    epoch: u32,
}

/// What is counted so.
#[derive(Clone, Copy, Debug)]
pub enum Gauge {
    /// [`Stats::curr_tx_sw`].
    Sending,
    /// [`Stats::curr_rx_sw`].
    Receiving,
}

impl Gauge {
    fn counter(self) -> &'static Counter {
        match self {
            Gauge::Sending => &STATS.curr_tx_sw,
            Gauge::Receiving => &STATS.curr_rx_sw,
        }
    }
}

impl Current {
    /// Counts it.
    pub fn new(gauge: Gauge) -> Current {
        gauge.counter().add(1);
        let epoch = fork_guard::epoch() as u32;
        Current { gauge, epoch }
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        // The child of a raw `clone` has copies of its parent's, and may have its parent's counters.
        if self.epoch == fork_guard::epoch() as u32 {
            self.gauge.counter().sub(1);
        }
    }
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of this process, in the order in which they lie in [`Segment`].
        #[derive(Debug, Default)]
        #[repr(C)]
        pub struct Stats { $($(#[$doc])* pub $name: Counter,)* }

        impl Stats {
            const fn new() -> Self {
                Stats { $($name: Counter(AtomicU64::new(0)),)* }
            }
            /// The names of the counters.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// Every counter back to zero.
            pub(crate) fn clear(&self) {
                $(self.$name.clear();)*
            }
        }
    };
}

stats! {
    /// `TlsCurrTxSw`: connections that have TX keys now.
    curr_tx_sw,
    /// `TlsTxSw`: connections that were given TX keys.
    tx_sw,
    /// `TlsTxRekeyOk`.
    tx_rekey_ok,
    /// `TlsTxRekeyError`.
    tx_rekey_error,
    /// `TlsCurrRxSw`: connections that have RX keys now.
    curr_rx_sw,
    /// `TlsRxSw`: connections that were given RX keys.
    rx_sw,
    /// `TlsDecryptError`: received records that were not authentic, each attempt.
    decrypt_error,
    /// `TlsDecryptRetry`: no-pad mode, records that the kernel would have opened twice.
    decrypt_retry,
    /// `TlsRxNoPadViolation`: of those, padded ones.
    rx_no_pad_violation,
    /// `TlsRxRekeyOk`.
    rx_rekey_ok,
    /// `TlsRxRekeyError`.
    rx_rekey_error,
    /// `TlsRxRekeyReceived`: KeyUpdate messages received.
    rx_rekey_received,
    /// Records opened.
    rx_records,
    /// Plaintext bytes delivered to the program.
    rx_bytes,
    /// Records handed to the kernel completely.
    tx_records,
    /// Their plaintext bytes.
    tx_bytes,
    /// Bytes handed to the kernel.
    tx_wire_bytes,
    /// Deferred transmissions scheduled.
    deferred_scheduled,
    /// Deferred transmissions cancelled because a call had transmitted everything by itself.
    deferred_cancelled,
    /// Records that went out in a call of the program.
    records_from_caller,
    /// Records that went out in a worker's context.
    records_from_worker,
    /// `sendmsg` calls that took bytes.
    transmit_calls,
    /// The most records completed by one `sendmsg`.
    transmit_records_max,
    /// The most bytes ever queued on one connection.
    queue_bytes_max,
    /// The most records ever queued on one connection, sealed or being sealed.
    queue_records_max,
    /// Records sealed in the caller.
    sealed_inline,
    /// Records sealed on the thread pool.
    sealed_threads,
    /// Records sealed on an accelerator.
    sealed_accelerator,
    /// Records that the accelerator failed or lost.
    accelerator_failed,
    /// Sockets that the preload library left to their program.
    declined,
    /// Of those, because the TLS library writes by functions of the program.
    declined_own_bio,
    /// Of those, because they are standard error, where the C library writes by itself.
    declined_stream,
    /// Connections that broke: by the network, by a failed seal, by a caught panic.
    errors,
}

/// What a process shows to others of its user: a file in `/dev/shm`, named by [`crate::registry::FileName`].
#[derive(Debug)]
#[repr(C)]
pub struct Segment {
    /// [`Segment::MAGIC`]; 0 before the process is known to others.
    pub magic: AtomicU64,
    /// [`Segment::VERSION`]: what the rest looks like.
    pub version: AtomicU32,
    /// The process.
    pub pid: AtomicU32,
    /// When it began, as `/proc/PID/stat` has it: tells it from another one with the same id.
    pub start: AtomicU64,
    /// The program's name as the kernel knows it, up to 15 bytes and NULs.
    pub program: [AtomicU8; 16],
    stats: Stats,
}

impl Segment {
    /// "uktlsCNT".
    pub const MAGIC: u64 = u64::from_be_bytes(*b"uktlsCNT");
    /// Rises when the layout changes.
    pub const VERSION: u32 = 2;
    /// Bytes in front of the counters, which are 8 bytes each, in the order of [`Stats::NAMES`].
    pub const HEAD_LEN: usize = 40;
    /// The whole file.
    pub const LEN: usize = segment::FILE_LEN;
    /// The directory of the files.
    pub const DIRECTORY: &'static str = "/dev/shm";
}

const _: () = assert!(core::mem::offset_of!(Segment, stats) == Segment::HEAD_LEN);
const _: () = assert!(core::mem::size_of::<Segment>() <= Segment::LEN);

impl core::ops::Deref for Segment {
    type Target = Stats;

    fn deref(&self) -> &Stats {
        &self.stats
    }
}

/// The counters.
pub static STATS: Page<Segment> = Page::new(&UNPUBLISHED);

static UNPUBLISHED: Segment = Segment {
    magic: AtomicU64::new(0),
    version: AtomicU32::new(0),
    pid: AtomicU32::new(0),
    start: AtomicU64::new(0),
    program: [const { AtomicU8::new(0) }; 16],
    stats: Stats::new(),
};

/// Appends one JSON line with the counters to the file of `UKTLS_STATS_FILE`, if one is set. A file
/// that cannot be written, or a full disk, is reported once on standard error and changes nothing
/// else.
pub(crate) fn append_to_file(config: &crate::config::Config) {
    use std::io::Write;
    let Some(path) = &config.stats_file else {
        return;
    };
    // On the stack: the process may end in a handler of a signal that came inside `malloc`.
    let mut line = [0u8; 2048];
    let mut rest = &mut line[..];
    // As long as forty numbers of 64 bits can be, and their names.
    let _ = write_json(&mut rest, std::process::id());
    let left = rest.len();
    let line = &line[..line.len() - left];
    // One write of one line in append mode: lines of several processes do not mix.
    without_those_of_files(|| {
        let written = match FILE.get() {
            Some(file) => rustix::io::write(file, line)
                .map(drop)
                .map_err(std::io::Error::from),
            None => open(path).and_then(|mut file| file.write_all(line)),
        };
        if let Err(error) = written {
            let _ = writeln!(std::io::stderr(), "uktls: UKTLS_STATS_FILE: {error}");
        }
    });
}

/// Opens the file of `UKTLS_STATS_FILE` now, for a process that may lose the right to it, or the way
/// (`setuid`, `chroot`). A file that cannot be opened is tried again at the end.
pub fn open_file_early(config: &crate::config::Config) {
    if let Some(path) = &config.stats_file
        && let Ok(file) = open(path)
    {
        let _ = FILE.set(Kept::new(file.into()));
    }
}

fn open(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    std::fs::File::options()
        .append(true)
        .create(true)
        .open(path)
}

static FILE: OnceLock<Kept> = OnceLock::new();

fn write_json(line: &mut dyn std::io::Write, pid: u32) -> std::io::Result<()> {
    let s = &STATS;
    let fields = [
        ("tx_sw", &s.tx_sw),
        ("tx_records", &s.tx_records),
        ("tx_bytes", &s.tx_bytes),
        ("tx_wire_bytes", &s.tx_wire_bytes),
        ("rx_sw", &s.rx_sw),
        ("rx_records", &s.rx_records),
        ("rx_bytes", &s.rx_bytes),
        ("decrypt_error", &s.decrypt_error),
        ("errors", &s.errors),
        ("declined", &s.declined),
        ("deferred_scheduled", &s.deferred_scheduled),
        ("deferred_cancelled", &s.deferred_cancelled),
        ("records_from_caller", &s.records_from_caller),
        ("records_from_worker", &s.records_from_worker),
        ("transmit_calls", &s.transmit_calls),
        ("transmit_records_max", &s.transmit_records_max),
        ("queue_bytes_max", &s.queue_bytes_max),
        ("sealed_inline", &s.sealed_inline),
        ("sealed_threads", &s.sealed_threads),
        ("sealed_accelerator", &s.sealed_accelerator),
        ("accelerator_failed", &s.accelerator_failed),
    ];
    write!(line, "{{\"pid\":{pid}")?;
    for (name, counter) in fields {
        write!(line, ",\"{name}\":{}", counter.get())?;
    }
    writeln!(line, "}}")
}
