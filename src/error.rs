//! The one error type of the library, and the one place where it becomes an errno.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;

/// Everything that a call can fail with.
///
/// The kernel's own value is used wherever the kernel has the same failure; the source is named
/// beside each arm of [`Error::errno`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A system call on the program's descriptor failed; passed on unchanged.
    Os(Errno),
    /// A pointer that must be readable or writable is not.
    BadAddress,
    /// An argument is out of range, or arguments contradict each other.
    Invalid,
    /// A flag bit that TLS sockets do not take.
    FlagNotSupported,
    /// The descriptor carries no TLS state.
    NoTls,
    /// The descriptor has come to be another socket's, or its socket has got keys: the call looks again. Goes no
    /// further than the registry.
    Changed,
    /// The socket was closed before the call began: the descriptor may be another's by now, and the call looks again.
    Closed,
    /// The option number is unknown at this level.
    UnknownOption,
    /// Keys of this direction are already set and cannot be replaced.
    KeysPresent,
    /// Keys of this direction are not set yet.
    KeysMissing,
    /// The ULP is already attached.
    UlpPresent,
    /// The AEAD named is not available in this build.
    CipherMissing,
    /// The socket took no more bytes, just now.
    WouldBlock,
    /// A signal arrived before anything was accepted.
    Interrupted,
    /// A signal handler wants to go on with the stream in the middle of the call that it has interrupted.
    Deadlock,
    /// A record could not be sealed, the sequence numbers are used up, or a received record is not
    /// authentic.
    SealFailed,
    /// A received record is none: its header, its padding or its content type (RX-3, REC-9, RX-22).
    BadRecord,
    /// A control record comes next, and the call has no room to tell its type.
    ControlRecord,
    /// The peer has changed its keys, and the new ones are not set yet.
    KeyExpired,
    /// The write side is gone: shut down here, or reset by the peer.
    BrokenPipe,
    /// Our own fault (a caught panic), or keys that this process may not use (after a raw `clone`).
    NotRecoverable,
}

/// There is no memory for the call, which has changed nothing.
pub const NO_MEMORY: Error = Error::Os(Errno::NOMEM);

impl Error {
    /// The errno that a C caller sees.
    #[must_use]
    pub fn errno(self) -> Errno {
        match self {
            Error::Os(errno) => errno,
            Error::BadAddress => Errno::FAULT,
            // tls_main.c: do_tls_setsockopt_conf, tls_process_cmsg.
            Error::Invalid => Errno::INVAL,
            // tls_sw.c: tls_sw_sendmsg.
            Error::FlagNotSupported => Errno::OPNOTSUPP,
            // A SOL_TLS option on a socket without the ULP (ATT-14).
            Error::NoTls => Errno::NOPROTOOPT,
            Error::Changed | Error::Closed => Errno::BADF,
            // tls_main.c: do_tls_setsockopt (ATT-15).
            Error::UnknownOption => Errno::NOPROTOOPT,
            // tls_main.c: a second key before rekey; getsockopt without keys (CI-3, CI-11).
            Error::KeysPresent | Error::KeysMissing => Errno::BUSY,
            // tcp_ulp.c (ATT-4).
            Error::UlpPresent => Errno::EXIST,
            // tls_sw.c: crypto_alloc_aead fails (CI-1 j).
            Error::CipherMissing => Errno::NOENT,
            Error::WouldBlock => Errno::AGAIN,
            Error::Interrupted => Errno::INTR,
            Error::Deadlock => Errno::DEADLK,
            // tls_sw.c: tls_err_abort(sk, -EBADMSG) (REC-13, TX-36).
            Error::SealFailed => Errno::BADMSG,
            // tls_sw.c: tls_rx_msg_size, tls_padding_length.
            Error::BadRecord => Errno::BADMSG,
            // tls_sw.c: tls_record_content_type.
            Error::ControlRecord => Errno::IO,
            // tls_sw.c: tls_rx_rec_wait.
            Error::KeyExpired => Errno::KEYEXPIRED,
            // tcp.c: do_tcp_sendmsg on a shut-down socket (TX-38, TX-39).
            Error::BrokenPipe => Errno::PIPE,
            // Ours only.
            Error::NotRecoverable => Errno::NOTRECOVERABLE,
        }
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => Error::WouldBlock,
            Errno::INTR => Error::Interrupted,
            Errno::PIPE => Error::BrokenPipe,
            other => Error::Os(other),
        }
    }
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{self:?} ({})", self.errno())
    }
}

impl std::error::Error for Error {}

/// The error that a socket reports to its next call, in either direction (TX-34, TX-35): the
/// kernel's `sk_err`.
#[derive(Default)]
pub struct PendingError {
    own: AtomicI32,
    /// Where it is once several processes have the socket.
    shared: OnceLock<Box<dyn AsRef<AtomicI32> + Send + Sync>>,
}

impl PendingError {
    /// Sets the error.
    pub fn set(&self, errno: Errno) {
        // Release: pairs with the Acquire in `peek`; what led to the error is seen with it.
        self.cell().store(errno.raw_os_error(), Ordering::Release);
    }

    /// The error, which stays.
    pub fn peek(&self) -> Option<Errno> {
        let raw = self.cell().load(Ordering::Acquire);
        (raw != 0).then(|| Errno::from_raw_os_error(raw))
    }

    /// The error, which is reported with this call and gone.
    pub fn take(&self) -> Option<Errno> {
        self.peek()?;
        let raw = self.cell().swap(0, Ordering::AcqRel);
        (raw != 0).then(|| Errno::from_raw_os_error(raw))
    }

    /// From now on the error is in memory of several processes, which holds the present one.
    pub fn share(&self, memory: Box<dyn AsRef<AtomicI32> + Send + Sync>) {
        // A second fork finds it done.
        let _ = self.shared.set(memory);
    }

    fn cell(&self) -> &AtomicI32 {
        match self.shared.get() {
            Some(shared) => (**shared).as_ref(),
            None => &self.own,
        }
    }
}

impl core::fmt::Debug for PendingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PendingError({:?})", self.peek())
    }
}

/// What a call of this library returns inside Rust.
pub type Result<T> = core::result::Result<T, Error>;
