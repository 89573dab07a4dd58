//! GnuTLS's `gnutls_record_send` and `gnutls_record_recv` on its socket transport.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use anyhow::{Result, bail, ensure};

use super::{Receiver, Sender};
use crate::cipher::Cipher;

type Session = *mut c_void;
type Credentials = *mut c_void;

#[link(name = "gnutls")]
unsafe extern "C" {
    fn gnutls_init(session: *mut Session, flags: c_uint) -> c_int;
    fn gnutls_deinit(session: Session);
    fn gnutls_certificate_allocate_credentials(credentials: *mut Credentials) -> c_int;
    fn gnutls_certificate_free_credentials(credentials: Credentials);
    fn gnutls_credentials_set(session: Session, kind: c_int, credentials: Credentials) -> c_int;
    fn gnutls_priority_set_direct(
        session: Session,
        priorities: *const c_char,
        wrong: *mut *const c_char,
    ) -> c_int;
    fn gnutls_transport_set_int2(session: Session, receive: c_int, send: c_int);
    fn gnutls_handshake(session: Session) -> c_int;
    fn gnutls_cipher_get(session: Session) -> c_int;
    fn gnutls_cipher_get_name(cipher: c_int) -> *const c_char;
    fn gnutls_record_send(session: Session, data: *const c_void, len: usize) -> isize;
    fn gnutls_record_recv(session: Session, data: *mut c_void, len: usize) -> isize;
    fn gnutls_strerror(error: c_int) -> *const c_char;
}

const GNUTLS_CLIENT: c_uint = 1 << 1;
const GNUTLS_CRD_CERTIFICATE: c_int = 1;

pub struct GnuTls {
    session: Session,
    credentials: Credentials,
    socket: TcpStream,
}

impl GnuTls {
    /// Complete a TLS 1.3 handshake with `cipher` as the client.
    pub fn connect(socket: TcpStream, cipher: Cipher) -> Result<Self> {
        let name = match cipher {
            Cipher::Aes128Gcm => "AES-128-GCM",
            Cipher::ChaCha20Poly1305 => "CHACHA20-POLY1305",
        };
        let priorities =
            CString::new(format!("NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+{name}"))?;
        let mut peer = Self {
            session: null_mut(),
            credentials: null_mut(),
            socket,
        };
        // SAFETY: a place for the session.
        done(unsafe { gnutls_init(&raw mut peer.session, GNUTLS_CLIENT) })?;
        // SAFETY: a place for the credentials.
        done(unsafe { gnutls_certificate_allocate_credentials(&raw mut peer.credentials) })?;
        // SAFETY: both are live until `peer` is dropped, the session first.
        done(unsafe {
            gnutls_credentials_set(peer.session, GNUTLS_CRD_CERTIFICATE, peer.credentials)
        })?;
        // SAFETY: a live session and a string; nobody asks what was wrong.
        done(unsafe { gnutls_priority_set_direct(peer.session, priorities.as_ptr(), null_mut()) })?;
        let fd = peer.socket.as_raw_fd();
        // SAFETY: a live session; the descriptor stays open until `peer` is dropped.
        unsafe { gnutls_transport_set_int2(peer.session, fd, fd) };
        // The sink's certificate is made anew for each run and vouches for nothing: nobody looks at it.
        // SAFETY: a live session with its transport.
        done(unsafe { gnutls_handshake(peer.session) })?;
        // SAFETY: a live session.
        let number = unsafe { gnutls_cipher_get(peer.session) };
        // SAFETY: a cipher that GnuTLS knows.
        let chosen = unsafe { gnutls_cipher_get_name(number) };
        // SAFETY: a static string.
        let chosen = unsafe { CStr::from_ptr(chosen) };
        ensure!(chosen.to_str()? == name, "the handshake chose {chosen:?}");
        Ok(peer)
    }
}

fn done(result: c_int) -> Result<()> {
    if result < 0 {
        // SAFETY: any number will do.
        let text = unsafe { gnutls_strerror(result) };
        // SAFETY: a static string.
        let text = unsafe { CStr::from_ptr(text) };
        bail!("GnuTLS: {}", text.to_string_lossy());
    }
    Ok(())
}

impl Sender for GnuTls {
    fn send(&mut self, mut message: &[u8]) -> Result<()> {
        while !message.is_empty() {
            // SAFETY: a live session; `message` is readable for its length.
            let sent =
                unsafe { gnutls_record_send(self.session, message.as_ptr().cast(), message.len()) };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => message = &message[sent..],
                _ => done(c_int::try_from(sent)?)?,
            }
        }
        Ok(())
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Receiver for GnuTls {
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        // SAFETY: a live session; `buffer` is writable for its length.
        let received =
            unsafe { gnutls_record_recv(self.session, buffer.as_mut_ptr().cast(), buffer.len()) };
        match usize::try_from(received) {
            Ok(received) => Ok(received),
            Err(_) => {
                done(c_int::try_from(received)?)?;
                Ok(0)
            }
        }
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Drop for GnuTls {
    fn drop(&mut self) {
        if !self.session.is_null() {
            // SAFETY: made by `gnutls_init`, and used no more.
            unsafe { gnutls_deinit(self.session) };
        }
        if !self.credentials.is_null() {
            // SAFETY: made by GnuTLS; the session that used them is gone.
            unsafe { gnutls_certificate_free_credentials(self.credentials) };
        }
    }
}
