//! The other end of every benchmark: a process of its own, so that what it costs is not charged to the sender.
//!
//! It drops what arrives with `recv(MSG_TRUNC)`, which copies nothing, and counts it. A connection opens with
//! a [`Hello`]; after the sender has shut its side down, the sink answers with the number of bytes counted.
//!
//! Where receiving is measured, it is the sender: [`deliver`].

mod deliver;
mod dropper;
pub mod process;
pub mod protocol;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result};

use protocol::{Hello, Kind, read_total};

/// The hidden subcommand by which the benchmark runs itself as the sink.
pub const SUBCOMMAND: &str = "sink";

/// A running sink process. It ends when this is dropped.
pub struct Sink {
    child: Child,
    /// The sink exits when this pipe closes, so it cannot outlive a benchmark that was killed.
    stdin: Option<ChildStdin>,
    address: SocketAddr,
}

impl Sink {
    pub fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the sink process")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the sink has no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line
            .trim()
            .parse()
            .with_context(|| format!("the sink said {line:?}"))?;
        Ok(Self {
            child,
            stdin,
            address,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Nothing is left to do about a sink that cannot be waited for.
        let _ = self.child.wait();
    }
}

/// Bytes that all parked connections of the sink at `address` have received; waits until each has been closed.
pub fn collect_parked(address: SocketAddr) -> Result<u64> {
    let mut stream = TcpStream::connect(address)?;
    Hello::new(Kind::Collect).write_to(&mut stream)?;
    read_total(&mut stream).context("reading the count of the parked connections")
}
