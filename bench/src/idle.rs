//! Memory of idle connections.
//!
//! A fresh child process opens the connections, sends one small message on each, waits until it is all in the kernel, and
//! reads how much private dirty memory (its heap, stacks and data) has come to it since before the first. What happens once in a process
//! (threads, tables, the library's own set-up) is done before, by one more connection. Memory inside the kernel is not counted.

use std::fs;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cipher::Cipher;
use crate::limits::raise_nofile;
use crate::measured;
use crate::peers::{Connection, PeerKind};
use crate::sink::protocol::{Hello, Kind};
use crate::sink::{Sink, collect_parked};

/// The hidden subcommand by which the benchmark runs itself as the process measured.
pub const SUBCOMMAND: &str = "idle";

/// What one peer's connections have taken.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    pub peer: PeerKind,
    pub connections: u64,
    pub bytes_per_connection: f64,
}

#[derive(Args, Debug)]
pub struct ChildArgs {
    peer: PeerKind,
    sink: SocketAddr,
    connections: u64,
}

/// Measure each of `peers` with up to `wanted` connections, beyond what plain sockets take.
pub fn measure(peers: &[PeerKind], wanted: u64) -> Result<Vec<Idle>> {
    let allowed = raise_nofile()?.saturating_sub(SPARE_DESCRIPTORS);
    let connections = wanted.min(allowed);
    if connections < wanted {
        eprintln!(
            "idle: {connections} connections instead of {wanted}: the limit on open descriptors allows no more"
        );
    }
    let plain = bytes_per_connection(PeerKind::Plain, connections)?;
    peers
        .iter()
        .map(|&peer| {
            if peer == PeerKind::Plain {
                return Ok(Idle {
                    peer,
                    connections,
                    bytes_per_connection: plain,
                });
            }
            // A handshake takes a millisecond or two on both sides.
            let connections = if peer.handshakes() {
                connections.div_ceil(HANDSHAKE_PART)
            } else {
                connections
            };
            let bytes = bytes_per_connection(peer, connections)?;
            Ok(Idle {
                peer,
                connections,
                bytes_per_connection: bytes - plain,
            })
        })
        .collect()
}

/// The work of the child process; prints the bytes that were added.
pub fn child(args: &ChildArgs) -> Result<()> {
    raise_nofile()?;
    let capacity = usize::try_from(args.connections)?;
    let mut connections = Vec::with_capacity(capacity);
    let message = [0; MESSAGE_LEN];
    let mut first = open(args)?;
    first.receive_too()?;
    first.send(&message)?;
    first.flush()?;
    sleep(SETTLE);
    let before = private_dirty()?;
    for _ in 0..args.connections {
        let mut connection = open(args)?;
        connection.receive_too()?;
        connection.send(&message)?;
        connections.push(connection);
    }
    for connection in &mut connections {
        connection.flush()?;
    }
    sleep(SETTLE);
    let after = private_dirty()?;
    println!("{}", after.saturating_sub(before));
    Ok(())
}

/// Descriptors that are not connections.
pub const SPARE_DESCRIPTORS: u64 = 64;
const MESSAGE_LEN: usize = 64;
/// The peers that take part in a handshake get one connection in so many.
const HANDSHAKE_PART: u64 = 10;
/// Longer than anything that uktls puts off.
pub const SETTLE: Duration = Duration::from_millis(300);

fn bytes_per_connection(peer: PeerKind, connections: u64) -> Result<f64> {
    let sink = Sink::start()?;
    let printed = measured::output(&mut measured::command([
        SUBCOMMAND,
        peer.name(),
        &sink.address().to_string(),
        &connections.to_string(),
    ])?)
    .with_context(|| peer.name())?;
    let counted = collect_parked(sink.address())?;
    let sent = (connections + 1) * peer.wire_len(MESSAGE_LEN) as u64;
    ensure!(
        counted == sent,
        "idle, {}: {sent} bytes sent, but the sink has counted {counted}",
        peer.name()
    );
    let added: u64 = String::from_utf8(printed)?.trim().parse()?;
    Ok(added as f64 / connections as f64)
}

fn open(args: &ChildArgs) -> Result<Connection> {
    Connection::open(
        args.peer,
        Cipher::default(),
        args.sink,
        Hello::new(Kind::Park),
    )
}

/// Bytes of this process's own, written to.
pub fn private_dirty() -> Result<u64> {
    let smaps = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = smaps
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"))
        .context("no Private_Dirty")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
