//! One measurement: a number of messages of one size, sent in one way by one peer on one connection.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Deserialize;

use crate::cipher::Cipher;
use crate::clock::{Elapsed, Stopwatch, monotonic};
use crate::peers::{Connection, PeerKind};
use crate::placement::{Pinned, Placement};
use crate::receive;
use crate::sink::protocol::{ANSWER, Hello, Kind};
use crate::stats::percentile;

/// What is done with the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One message after the other, as fast as the peer takes them; ends when the kernel has all of them.
    Stream,
    /// One message, then wait for the sink's one-byte answer to it.
    Request,
    /// Records arrive faster than they can be opened; ends when the last byte has been received.
    Receive,
    /// Memory of connections that have sent one message and are idle.
    Idle,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Request => "request",
            Self::Receive => "receive",
            Self::Idle => "idle",
        }
    }
}

/// A way of sending and a message size, measured for every peer in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    pub mode: Mode,
    pub cipher: Cipher,
    /// Bytes in a message.
    pub size: usize,
    /// [`Mode::Receive`]: the bytes that one call has room for.
    pub buffer: Option<usize>,
}

impl Scenario {
    /// How plots name it among others of its mode: `16 KiB`, or `16 KiB/64 KiB` with a buffer.
    pub fn sizes(self) -> String {
        let size = size_name(self.size);
        match self.buffer {
            Some(buffer) => format!("{size}/{}", size_name(buffer)),
            None => size + self.cipher.suffix(),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.mode.name(), self.sizes())
    }
}

/// `1024` as `1 KiB`.
pub fn size_name(size: usize) -> String {
    match size {
        1024.. if size.is_multiple_of(1024) => format!("{} KiB", size / 1024),
        _ => format!("{size} B"),
    }
}

/// What one measurement gave.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub messages: u64,
    /// Calls of the peer: as many, but for [`Mode::Receive`].
    pub calls: u64,
    /// Payload bytes.
    pub bytes: u64,
    pub elapsed: Elapsed,
    /// [`Mode::Request`]: of the round trips, in nanoseconds.
    pub round_trip: Option<RoundTrip>,
}

/// From before the send until the answer has been read.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrip {
    pub p50: u64,
    pub p99: u64,
}

/// Send `messages` messages by `peer` to the sink at `sink`, after a few that are not measured. Fails unless the sink has counted the
/// bytes that the peer should have put on the wire.
pub fn measure(
    scenario: Scenario,
    peer: PeerKind,
    sink: SocketAddr,
    messages: u64,
    placement: Placement,
) -> Result<Sample> {
    let wire_len = peer.wire_len(scenario.size) as u64;
    let kind = match scenario.mode {
        Mode::Stream => Kind::Stream,
        Mode::Request | Mode::Idle => Kind::Request,
        Mode::Receive => return receive::measure(scenario, peer, sink, messages),
    };
    let (here, there) = match scenario.mode {
        Mode::Request => placement.processors()?,
        Mode::Stream | Mode::Receive | Mode::Idle => (None, None),
    };
    let hello = Hello {
        wire_len,
        processor: there,
        ..Hello::new(kind)
    };
    let mut connection = Connection::open(peer, scenario.cipher, sink, hello)
        .with_context(|| format!("{}: connecting", peer.name()))?;
    // The same buffer each time, so that no peer is charged for the program's own memory traffic.
    let message = payload(scenario.size);
    let warm_up = messages / WARM_UP_PART + 1;
    let (elapsed, round_trip) = match kind {
        Kind::Request => {
            request(&mut connection, &message, warm_up)?;
            // Only now: the threads that the peer has started would have inherited it.
            let _pinned = here.map(Pinned::to).transpose()?;
            let watch = Stopwatch::start();
            let mut times = request(&mut connection, &message, messages)?;
            (watch.stop(), RoundTrip::of(&mut times))
        }
        _ => {
            stream(&mut connection, &message, warm_up)?;
            let watch = Stopwatch::start();
            stream(&mut connection, &message, messages)?;
            (watch.stop(), None)
        }
    };
    let counted = connection.finish()?;
    let sent = (warm_up + messages) * wire_len;
    ensure!(
        counted == sent,
        "{scenario}, {}: {} messages are {sent} bytes on the wire, but the sink has counted {counted}",
        peer.name(),
        warm_up + messages,
    );
    Ok(Sample {
        messages,
        calls: messages,
        bytes: messages * scenario.size as u64,
        elapsed,
        round_trip,
    })
}

/// The bytes of a message.
pub fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8).collect()
}

/// One message in so many is sent before the clock starts.
pub const WARM_UP_PART: u64 = 20;

fn stream(connection: &mut Connection, message: &[u8], messages: u64) -> Result<()> {
    for _ in 0..messages {
        connection.send(message)?;
    }
    connection.flush()
}

fn request(connection: &mut Connection, message: &[u8], messages: u64) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(usize::try_from(messages)?);
    for _ in 0..messages {
        let start = monotonic();
        connection.send(message)?;
        ensure!(
            connection.read_byte()? == ANSWER,
            "the sink has not answered as it should"
        );
        times.push(monotonic() - start);
    }
    Ok(times)
}

impl RoundTrip {
    fn of(times: &mut [u64]) -> Option<Self> {
        Some(Self {
            p50: percentile(times, 50)?,
            p99: percentile(times, 99)?,
        })
    }
}
