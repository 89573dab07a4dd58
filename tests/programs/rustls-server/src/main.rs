//! A server as one is written for kernel TLS: rustls shakes hands, the kernel gets the secrets, and from then on
//! the socket is read and written like any other. It knows nothing of uktls.
//!
//! Usage: `rustls-server PORT CERT.pem KEY.pem FILE`. GET sends the file; what is PUT goes to `FILE.put`.
// These calls are here to be interposed.
#![allow(clippy::disallowed_methods)]

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion, ServerConfig, ServerConnection};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Reads no further than to the end of a record, so that nothing behind the handshake is taken from the socket.
struct OneRecord<'a> {
    socket: &'a TcpStream,
    left: usize,
}

impl Read for OneRecord<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let mut header = [0; 5];
            while self.socket.peek(&mut header)? < header.len() {
                std::thread::yield_now();
            }
            self.left = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
        }
        let len = out.len().min(self.left);
        let read = self.socket.read(&mut out[..len])?;
        self.left -= read;
        Ok(read)
    }
}

/// The struct of `<linux/tls.h>` for the secrets: all are version, cipher, and then bytes without padding.
fn crypto_info(version: u16, number: u64, secrets: &ConnectionTrafficSecrets) -> Vec<u8> {
    let (cipher, key, iv, salt_len) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (51u16, key.as_ref(), iv.as_ref(), 4),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (52, key.as_ref(), iv.as_ref(), 4),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            (54, key.as_ref(), iv.as_ref(), 0)
        }
        _ => panic!("no kernel has this cipher"),
    };
    let (salt, iv) = iv.split_at(salt_len);
    let (version, cipher) = (version.to_ne_bytes(), cipher.to_ne_bytes());
    [&version, &cipher, iv, key, salt, &number.to_be_bytes()].concat()
}

fn setsockopt(
    socket: &TcpStream,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> Result<()> {
    // SAFETY: `value` is readable for its length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(format!("option {name}: {}", io::Error::last_os_error()).into()),
    }
}

/// Shakes hands and gives the kernel both keys.
fn shake_hands(socket: &TcpStream, config: &Arc<ServerConfig>) -> Result<()> {
    let mut connection = ServerConnection::new(Arc::clone(config))?;
    while connection.is_handshaking() || connection.wants_write() {
        while connection.wants_write() {
            connection.write_tls(&mut &*socket)?;
        }
        if connection.is_handshaking() {
            let mut record = OneRecord { socket, left: 0 };
            while record.left > 0 || connection.wants_read() {
                if connection.read_tls(&mut record)? == 0 {
                    return Err("closed in the handshake".into());
                }
                if record.left == 0 {
                    break;
                }
            }
            connection.process_new_packets()?;
        }
    }
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => 0x303,
        _ => 0x304,
    };
    let secrets = connection.dangerous_extract_secrets()?;
    setsockopt(socket, libc::SOL_TCP, libc::TCP_ULP, b"tls")?;
    let (number, tx) = &secrets.tx;
    setsockopt(
        socket,
        libc::SOL_TLS,
        libc::TLS_TX,
        &crypto_info(version, *number, tx),
    )?;
    let (number, rx) = &secrets.rx;
    setsockopt(
        socket,
        libc::SOL_TLS,
        libc::TLS_RX,
        &crypto_info(version, *number, rx),
    )
}

/// A control message of one byte, with its padding.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    content_type: u8,
}

/// The alert that ends a connection, by a control message.
fn close_notify(socket: &TcpStream) -> io::Result<()> {
    let alert = [1u8, 0];
    let mut part = libc::iovec {
        iov_base: alert.as_ptr().cast_mut().cast(),
        iov_len: alert.len(),
    };
    let mut control = Control {
        header: libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + 1,
            cmsg_level: libc::SOL_TLS,
            cmsg_type: libc::TLS_SET_RECORD_TYPE,
        },
        content_type: 21,
    };
    // SAFETY: all zeroes are a message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    // SAFETY: everything in the message lives until the call returns.
    match unsafe { libc::sendmsg(socket.as_raw_fd(), &message, 0) } {
        2 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn serve(socket: TcpStream, config: &Arc<ServerConfig>, path: &str) -> Result<()> {
    socket.set_nodelay(true)?;
    shake_hands(&socket, config)?;
    let mut lines = BufReader::new(&socket);
    let mut request = String::new();
    lines.read_line(&mut request)?;
    let (mut len, mut waits) = (0, false);
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            None => break,
            Some(("content-length", value)) => len = value.parse()?,
            Some(("expect", _)) => waits = true,
            Some(_) => {}
        }
    }
    let mut out = &socket;
    if request.starts_with("PUT ") {
        if waits {
            write!(out, "HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        io::copy(
            &mut lines.take(len),
            &mut File::create(format!("{path}.put"))?,
        )?;
        write!(
            out,
            "HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
    } else {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
        )?;
        // By sendfile(2), as the standard library does from a file to a socket.
        io::copy(&mut file, &mut out)?;
    }
    close_notify(&socket)?;
    socket.shutdown(Shutdown::Write)?;
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, certificate, key, path] = arguments.as_slice() else {
        return Err("usage: rustls-server PORT CERT.pem KEY.pem FILE".into());
    };
    let chain =
        CertificateDer::pem_file_iter(certificate)?.collect::<std::result::Result<_, _>>()?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.enable_secret_extraction = true;
    let config = Arc::new(config);
    for socket in TcpListener::bind(("127.0.0.1", port.parse()?))?.incoming() {
        let (socket, config, path) = (socket?, Arc::clone(&config), path.clone());
        std::thread::spawn(move || {
            if let Err(error) = serve(socket, &config, &path) {
                eprintln!("rustls-server: {error}");
            }
        });
    }
    Ok(())
}
