//! s2n-tls: `s2n_send` and `s2n_recv`, with records as large as they may be.
#![allow(
    clippy::disallowed_methods,
    reason = "the calls that s2n makes by itself on a descriptor"
)]

use std::ffi::{c_int, c_void};
use std::io::Error;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::LazyLock;
use std::task::Poll;

use anyhow::{Result, anyhow, bail, ensure};
use s2n_tls::config::Config;
use s2n_tls::connection::Connection;
use s2n_tls::enums::Blinding;
use s2n_tls::security;

use super::{Receiver, Sender};
use crate::cipher::Cipher;

pub struct S2n {
    tls: Connection,
    socket: TcpStream,
}

impl S2n {
    /// Complete a TLS 1.3 handshake as the client; the sink offers `cipher` alone.
    pub fn connect(socket: TcpStream, cipher: Cipher) -> Result<Self> {
        static CONFIG: LazyLock<Result<Config, s2n_tls::error::Error>> = LazyLock::new(config);

        let config = CONFIG.as_ref().map_err(|error| anyhow!("s2n: {error}"))?;
        let mut tls = Connection::new_client();
        tls.set_config(config.clone())?;
        tls.set_blinding(Blinding::SelfService)?;
        tls.set_server_name("localhost")?;
        tls.prefer_throughput()?;
        let context = socket.as_raw_fd() as usize as *mut c_void;
        tls.set_send_callback(Some(send))?;
        tls.set_receive_callback(Some(receive))?;
        // SAFETY: the context is a number, and the descriptor stays open as long as the connection.
        unsafe { tls.set_send_context(context)? };
        // SAFETY: as above.
        unsafe { tls.set_receive_context(context)? };
        match tls.poll_negotiate() {
            Poll::Ready(result) => {
                result?;
            }
            Poll::Pending => bail!("the handshake blocks on a blocking socket"),
        }
        let chosen = tls.cipher_suite()?;
        ensure!(chosen == cipher.suite(), "the handshake chose {chosen}");
        Ok(Self { tls, socket })
    }
}

fn config() -> Result<Config, s2n_tls::error::Error> {
    let mut config = Config::builder();
    config.set_security_policy(&security::DEFAULT_TLS13)?;
    // SAFETY: the sink's certificate is made anew for each run and vouches for nothing.
    unsafe { config.disable_x509_verification()? };
    config.build()
}

unsafe extern "C" fn send(context: *mut c_void, data: *const u8, len: u32) -> c_int {
    // SAFETY: `data` is readable for its length, as s2n says.
    let sent = unsafe {
        libc::send(
            context as c_int,
            data.cast(),
            len as usize,
            libc::MSG_NOSIGNAL,
        )
    };
    sent as c_int
}

unsafe extern "C" fn receive(context: *mut c_void, data: *mut u8, len: u32) -> c_int {
    // SAFETY: `data` is writable for its length, as s2n says.
    let received = unsafe { libc::recv(context as c_int, data.cast(), len as usize, 0) };
    received as c_int
}

impl Sender for S2n {
    fn send(&mut self, mut message: &[u8]) -> Result<()> {
        while !message.is_empty() {
            match self.tls.poll_send(message) {
                Poll::Ready(sent) => message = &message[sent?..],
                Poll::Pending => bail!("s2n_send blocks: {}", Error::last_os_error()),
            }
        }
        Ok(())
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Receiver for S2n {
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self.tls.poll_recv(buffer) {
            Poll::Ready(received) => Ok(received?),
            Poll::Pending => bail!("s2n_recv blocks: {}", Error::last_os_error()),
        }
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}
