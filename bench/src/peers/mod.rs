//! The senders and receivers under test, one file each. All are on a TCP connection over the loopback device with `TCP_NODELAY`
//! set, default buffers and a blocking socket.

#[cfg(feature = "all-peers")]
mod gnutls;
mod ktls;
mod openssl;
mod plain;
mod rustls;
#[cfg(feature = "all-peers")]
mod s2n;
mod uktls;

use std::ffi::c_int;
use std::fmt;
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};

use ::uktls::capi::types::{
    UKTLS_ENGINE_AUTO, UKTLS_ENGINE_INLINE, UKTLS_ENGINE_OPENSSL, UKTLS_ENGINE_THREADS,
};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Deserialize;

use self::rustls::Provider;
use crate::cipher::Cipher;
use crate::scenario::Mode;
use crate::sink::protocol::{Hello, Kind, READY, read_total};

pub use uktls::counters;

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerKind {
    /// `send(2)`, nothing sealed.
    Plain,
    /// OpenSSL's `SSL_write` and `SSL_read` on a socket BIO, after a TLS 1.3 handshake.
    #[value(name = "ssl_write", alias = "ssl_read")]
    #[serde(alias = "ssl_read")]
    SslWrite,
    /// rustls with aws-lc-rs: `writer().write_all`, then `write_tls`.
    Rustls,
    /// rustls with ring.
    #[value(name = "rustls_ring")]
    RustlsRing,
    /// GnuTLS's `gnutls_record_send` and `gnutls_record_recv`, after a TLS 1.3 handshake.
    #[value(name = "gnutls")]
    #[serde(rename = "gnutls")]
    GnuTls,
    /// s2n-tls: `s2n_send` and `s2n_recv`.
    S2n,
    /// The kernel's own TLS, where it has it.
    Ktls,
    /// uktls, records sealed by the caller.
    Inline,
    /// uktls, records sealed by its threads.
    Threads,
    /// uktls as it comes.
    #[value(alias = "uktls")]
    #[serde(alias = "uktls")]
    Auto,
}

impl PeerKind {
    pub const ALL: [Self; 10] = [
        Self::Plain,
        Self::SslWrite,
        Self::Rustls,
        Self::RustlsRing,
        Self::GnuTls,
        Self::S2n,
        Self::Ktls,
        Self::Inline,
        Self::Threads,
        Self::Auto,
    ];

    /// Those that uktls is compared with: the best of them counts.
    pub const RIVALS: [Self; 6] = [
        Self::SslWrite,
        Self::Rustls,
        Self::RustlsRing,
        Self::GnuTls,
        Self::S2n,
        Self::Ktls,
    ];

    /// Whether it can be measured: it was built in, and the machine has it.
    pub fn is_there(self) -> bool {
        match self {
            Self::GnuTls | Self::S2n => cfg!(feature = "all-peers"),
            Self::Ktls => ktls::KernelTls::is_there(),
            _ => true,
        }
    }

    /// The name on the command line, in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::SslWrite => "ssl_write",
            Self::Rustls => "rustls",
            Self::RustlsRing => "rustls_ring",
            Self::GnuTls => "gnutls",
            Self::S2n => "s2n",
            Self::Ktls => "ktls",
            Self::Inline => "inline",
            Self::Threads => "threads",
            Self::Auto => "auto",
        }
    }

    /// The name in tables and in JSON: what is called when receiving is not what is called when sending.
    pub fn name_in(self, mode: Mode) -> &'static str {
        match (mode, self) {
            (Mode::Receive, Self::SslWrite) => "ssl_read",
            (Mode::Receive, Self::Auto) => "uktls",
            _ => self.name(),
        }
    }

    /// Whether it receives in a way of its own: engines are for sealing, and make no difference there.
    pub fn receives(self) -> bool {
        !matches!(self, Self::Inline | Self::Threads | Self::Ktls)
    }

    /// What readers who do not know the peers are told.
    pub fn label(self) -> &'static str {
        match self {
            Self::Plain => "plain TCP",
            Self::SslWrite => "OpenSSL",
            Self::Rustls => "rustls (aws-lc-rs)",
            Self::RustlsRing => "rustls (ring)",
            Self::GnuTls => "GnuTLS",
            Self::S2n => "s2n-tls",
            Self::Ktls => "kernel TLS",
            Self::Inline => "uktls inline",
            Self::Threads => "uktls threads",
            Self::Auto => "uktls auto",
        }
    }

    /// Whether the sink has to take part in a TLS handshake. uktls and the kernel are handed random keys instead: they
    /// begin after one.
    pub fn handshakes(self) -> bool {
        matches!(
            self,
            Self::SslWrite | Self::Rustls | Self::RustlsRing | Self::GnuTls | Self::S2n
        )
    }

    /// Bytes on the wire of one message of `len` bytes.
    pub fn wire_len(self, len: usize) -> usize {
        match self {
            Self::Plain => len,
            _ => len + len.div_ceil(FRAGMENT_LEN) * RECORD_OVERHEAD,
        }
    }
}

/// Of what is measured with one cipher only.
const CIPHER: Cipher = Cipher::Aes128Gcm;

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Most plaintext in one record (RFC 8446 §5.1).
const FRAGMENT_LEN: usize = 1 << 14;
/// Record header, inner content type, tag (RFC 8446 §5.2).
const RECORD_OVERHEAD: usize = 5 + 1 + 16;

/// A sender and its socket.
trait Sender {
    /// Send one message. It may still be queued when this returns.
    fn send(&mut self, message: &[u8]) -> Result<()>;

    /// Set keys for the other direction, too, where a handshake has not.
    fn receive_too(&mut self) -> Result<()> {
        Ok(())
    }

    /// Wait until the kernel has all that was sent.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn socket(&self) -> &TcpStream;
}

/// A receiver and its socket.
pub trait Receiver {
    /// Receive into `buffer` by one call; the number of bytes received, 0 at the end of the stream.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize>;

    fn socket(&self) -> &TcpStream;
}

/// A connection on which the sink sends records of `record_len` bytes when it is asked for them.
pub fn open_receiver(
    peer: PeerKind,
    address: SocketAddr,
    record_len: usize,
) -> Result<Box<dyn Receiver>> {
    let mut socket = TcpStream::connect(address).context("connecting to the sink")?;
    socket.set_nodelay(true)?;
    let kind = match peer {
        PeerKind::Plain => Kind::DeliverPlain,
        _ => Kind::DeliverSealed,
    };
    let hello = Hello {
        handshake: peer.handshakes().then_some(CIPHER),
        wire_len: record_len as u64,
        ..Hello::new(kind)
    };
    hello.write_to(&mut socket)?;
    // Before the keys, which are no handshake's: on a socket that has some, only records are read.
    if !peer.handshakes() {
        expect_ready(&socket)?;
    }
    let receiver: Box<dyn Receiver> = match peer {
        PeerKind::Plain => Box::new(plain::Plain { socket }),
        PeerKind::SslWrite => Box::new(openssl::OpenSsl::connect(socket, CIPHER)?),
        PeerKind::Rustls => Box::new(rustls::Rustls::connect(socket, Provider::AwsLcRs, CIPHER)?),
        PeerKind::RustlsRing => Box::new(rustls::Rustls::connect(socket, Provider::Ring, CIPHER)?),
        #[cfg(feature = "all-peers")]
        PeerKind::GnuTls => Box::new(gnutls::GnuTls::connect(socket, CIPHER)?),
        #[cfg(feature = "all-peers")]
        PeerKind::S2n => Box::new(s2n::S2n::connect(socket, CIPHER)?),
        PeerKind::Inline | PeerKind::Threads | PeerKind::Auto => {
            Box::new(uktls::Uktls::attach_receiver(socket)?)
        }
        _ => bail!("{} does not receive here", peer.name()),
    };
    if peer.handshakes() {
        expect_ready(receiver.socket())?;
    }
    Ok(receiver)
}

fn expect_ready(mut socket: &TcpStream) -> Result<()> {
    let mut ready = [0];
    socket
        .read_exact(&mut ready)
        .context("reading from the sink")?;
    ensure!(ready == [READY], "the sink is not ready");
    Ok(())
}

fn uktls(socket: TcpStream, cipher: Cipher, engine: c_int) -> Result<Box<dyn Sender>> {
    Ok(Box::new(uktls::Uktls::attach(socket, cipher, engine)?))
}

fn greet(address: SocketAddr, hello: Hello) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(address).context("connecting to the sink")?;
    socket.set_nodelay(true)?;
    hello.write_to(&mut socket)?;
    Ok(socket)
}

/// A connection to the sink, ready for messages.
pub struct Connection {
    sender: Box<dyn Sender>,
}

impl Connection {
    pub fn open(
        peer: PeerKind,
        cipher: Cipher,
        address: SocketAddr,
        mut hello: Hello,
    ) -> Result<Self> {
        hello.handshake = peer.handshakes().then_some(cipher);
        let socket = greet(address, hello)?;
        let sender: Box<dyn Sender> = match peer {
            PeerKind::Plain => Box::new(plain::Plain { socket }),
            PeerKind::SslWrite => Box::new(openssl::OpenSsl::connect(socket, cipher)?),
            PeerKind::Rustls => {
                Box::new(rustls::Rustls::connect(socket, Provider::AwsLcRs, cipher)?)
            }
            PeerKind::RustlsRing => {
                Box::new(rustls::Rustls::connect(socket, Provider::Ring, cipher)?)
            }
            #[cfg(feature = "all-peers")]
            PeerKind::GnuTls => Box::new(gnutls::GnuTls::connect(socket, cipher)?),
            #[cfg(feature = "all-peers")]
            PeerKind::S2n => Box::new(s2n::S2n::connect(socket, cipher)?),
            #[cfg(not(feature = "all-peers"))]
            PeerKind::GnuTls | PeerKind::S2n => bail!("built without {}", peer.name()),
            PeerKind::Ktls => {
                let keys = uktls::crypto_info(cipher)?;
                Box::new(ktls::KernelTls::attach(socket, &keys)?)
            }
            PeerKind::Inline => uktls(socket, cipher, UKTLS_ENGINE_INLINE)?,
            PeerKind::Threads => uktls(socket, cipher, UKTLS_ENGINE_THREADS)?,
            PeerKind::Auto => uktls(socket, cipher, UKTLS_ENGINE_AUTO)?,
        };
        Self::ready(sender)
    }

    /// uktls over the accelerator that the environment names, with room for `queue` bytes.
    pub fn accelerated(address: SocketAddr, hello: Hello, queue: usize) -> Result<Self> {
        let socket = greet(address, hello)?;
        let sender = uktls::Uktls::attach_with_queue(socket, CIPHER, UKTLS_ENGINE_OPENSSL, queue)?;
        Self::ready(Box::new(sender))
    }

    fn ready(sender: Box<dyn Sender>) -> Result<Self> {
        let connection = Self { sender };
        ensure!(connection.read_byte()? == READY, "the sink is not ready");
        Ok(connection)
    }

    #[inline]
    pub fn send(&mut self, message: &[u8]) -> Result<()> {
        self.sender.send(message)
    }

    pub fn flush(&mut self) -> Result<()> {
        self.sender.flush()
    }

    /// Set keys for the other direction, too: what the sink says in the clear is not to be read any more.
    pub fn receive_too(&mut self) -> Result<()> {
        self.sender.receive_too()
    }

    pub fn socket(&self) -> &TcpStream {
        self.sender.socket()
    }

    /// Read one byte sent in the clear by the sink: the same system call for every peer.
    #[inline]
    pub fn read_byte(&self) -> Result<u8> {
        let mut byte = [0];
        self.sender
            .socket()
            .read_exact(&mut byte)
            .context("reading from the sink")?;
        Ok(byte[0])
    }

    /// End the stream; the number of bytes that the sink has counted on it.
    pub fn finish(mut self) -> Result<u64> {
        self.flush()?;
        let mut socket = self.sender.socket();
        socket.shutdown(Shutdown::Write)?;
        read_total(&mut socket).context("reading the sink's count")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_len_counts_records() {
        assert_eq!(PeerKind::Plain.wire_len(65_536), 65_536);
        assert_eq!(PeerKind::Auto.wire_len(64), 64 + 22);
        assert_eq!(PeerKind::Auto.wire_len(16_384), 16_384 + 22);
        assert_eq!(PeerKind::SslWrite.wire_len(16_385), 16_385 + 44);
        assert_eq!(PeerKind::Rustls.wire_len(65_536), 65_536 + 88);
    }
}
