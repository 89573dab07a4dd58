//! OpenSSL's `SSL_write` and `SSL_read` on a socket BIO, as a C program would use it. The crate's own stream is not used: it moves
//! every byte through a BIO written in Rust.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail, ensure};
use foreign_types_shared::ForeignTypeRef;
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslVerifyMode, SslVersion};

use super::{Receiver, Sender};
use crate::cipher::Cipher;

pub struct OpenSsl {
    // Before the socket whose number it uses: fields are dropped in this order.
    ssl: Ssl,
    socket: TcpStream,
}

impl OpenSsl {
    /// Complete a TLS 1.3 handshake with `suite` as the client.
    pub fn connect(socket: TcpStream, suite: Cipher) -> Result<Self> {
        static CONTEXT: LazyLock<Result<SslContext, ErrorStack>> = LazyLock::new(client_context);
        const BIO_NOCLOSE: i32 = 0;

        let mut ssl = Ssl::new(CONTEXT.as_ref()?)?;
        ssl.set_ciphersuites(suite.suite())?;
        // SAFETY: the descriptor is open, and `Self` keeps it open until `ssl` is gone.
        let bio = unsafe { openssl_sys::BIO_new_socket(socket.as_raw_fd(), BIO_NOCLOSE) };
        ensure!(!bio.is_null(), "BIO_new_socket: {}", ErrorStack::get());
        // SAFETY: `ssl` is live and `bio` is ours; given as both sides it takes the one reference we have.
        unsafe { openssl_sys::SSL_set_bio(ssl.as_ptr(), bio, bio) };
        // SAFETY: `ssl` is live and has its BIO.
        let connected = unsafe { openssl_sys::SSL_connect(ssl.as_ptr()) };
        ensure!(connected == 1, "SSL_connect: {}", ErrorStack::get());
        let cipher = ssl
            .current_cipher()
            .context("no cipher after the handshake")?;
        ensure!(
            cipher.name() == suite.suite(),
            "the handshake chose {}",
            cipher.name()
        );
        Ok(Self { ssl, socket })
    }
}

impl Sender for OpenSsl {
    fn send(&mut self, mut message: &[u8]) -> Result<()> {
        while !message.is_empty() {
            // SAFETY: `ssl` is live and `message` is readable for its length.
            let written = unsafe {
                openssl_sys::SSL_write(
                    self.ssl.as_ptr(),
                    message.as_ptr().cast(),
                    i32::try_from(message.len())?,
                )
            };
            match usize::try_from(written) {
                Ok(written) if written > 0 => message = &message[written..],
                _ => bail!("SSL_write: {}", ErrorStack::get()),
            }
        }
        Ok(())
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Receiver for OpenSsl {
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        // SAFETY: `ssl` is live and `buffer` is writable for its length.
        let read = unsafe {
            openssl_sys::SSL_read(
                self.ssl.as_ptr(),
                buffer.as_mut_ptr().cast(),
                i32::try_from(buffer.len())?,
            )
        };
        match usize::try_from(read) {
            Ok(read) if read > 0 => Ok(read),
            _ => bail!("SSL_read: {}", ErrorStack::get()),
        }
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

fn client_context() -> Result<SslContext, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::tls_client())?;
    context.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    // The sink's certificate is made anew for each run and vouches for nothing.
    context.set_verify(SslVerifyMode::NONE);
    Ok(context.build())
}
