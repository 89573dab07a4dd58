//! The kernel's own TLS: `send(2)` on a socket that has been given keys.
#![allow(
    clippy::disallowed_methods,
    reason = "a program's own calls, which may be interposed: that is how this peer is tried without such a kernel"
)]

use std::ffi::{c_int, c_void};
use std::io::Error;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::LazyLock;

use anyhow::{Result, bail, ensure};

use super::Sender;

pub struct KernelTls {
    socket: TcpStream,
}

const SOL_TLS: c_int = 282;
const TLS_TX: c_int = 1;

impl KernelTls {
    /// Whether the kernel has it.
    pub fn is_there() -> bool {
        static FOUND: LazyLock<bool> = LazyLock::new(|| {
            let connected = || {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                TcpStream::connect(listener.local_addr()?)
            };
            connected().is_ok_and(|socket| ulp(&socket).is_ok())
        });
        *FOUND
    }

    /// Give `socket` the keys in `crypto_info`.
    pub fn attach(socket: TcpStream, crypto_info: &[u8]) -> Result<Self> {
        ulp(&socket)?;
        set(&socket, SOL_TLS, TLS_TX, crypto_info)?;
        Ok(Self { socket })
    }
}

fn ulp(socket: &TcpStream) -> Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")
}

fn set(socket: &TcpStream, level: c_int, name: c_int, value: &[u8]) -> Result<()> {
    // SAFETY: `value` is readable for its length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast::<c_void>(),
            libc::socklen_t::try_from(value.len())?,
        )
    };
    ensure!(done == 0, "setsockopt: {}", Error::last_os_error());
    Ok(())
}

impl Sender for KernelTls {
    fn send(&mut self, mut message: &[u8]) -> Result<()> {
        while !message.is_empty() {
            // SAFETY: `message` is readable for its length.
            let sent = unsafe {
                libc::send(
                    self.socket.as_raw_fd(),
                    message.as_ptr().cast(),
                    message.len(),
                    libc::MSG_NOSIGNAL,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => message = &message[sent..],
                _ => bail!("send: {}", Error::last_os_error()),
            }
        }
        Ok(())
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}
