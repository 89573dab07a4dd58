//! `send(2)` and `recv(2)`: what the socket itself costs.

use std::net::TcpStream;

use anyhow::Result;
use rustix::net::{RecvFlags, SendFlags};

use super::{Receiver, Sender};

pub struct Plain {
    pub socket: TcpStream,
}

impl Sender for Plain {
    fn send(&mut self, mut message: &[u8]) -> Result<()> {
        while !message.is_empty() {
            match rustix::net::send(&self.socket, message, SendFlags::NOSIGNAL) {
                Ok(sent) => message = &message[sent..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Receiver for Plain {
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((_, received)) => return Ok(received),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn socket(&self) -> &TcpStream {
        &self.socket
    }
}
