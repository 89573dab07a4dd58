//! The one error type of the library, and the one place where it becomes an errno.
#![forbid(unsafe_code)]

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
    /// A record could not be sealed, or the sequence numbers are used up.
    SealFailed,
    /// The write side is gone: shut down here, or reset by the peer.
    BrokenPipe,
    /// Our own fault (a caught panic), or keys that this process may not use (after a raw `clone`).
    NotRecoverable,
}

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
            // tls_sw.c: tls_err_abort(sk, -EBADMSG) (REC-13, TX-36).
            Error::SealFailed => Errno::BADMSG,
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

/// What a call of this library returns inside Rust.
pub type Result<T> = core::result::Result<T, Error>;
