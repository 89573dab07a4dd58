//! Many connections of one thread: each sends a message in its turn. What a message costs, and the memory that a connection takes.
//!
//! A fresh child process for each peer, as for idle connections. Each gets its message when all the others have had theirs, so nothing
//! of a connection is in the processor's caches by then, and none has a burst to gather.

use std::net::SocketAddr;
use std::thread::sleep;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cipher::Cipher;
use crate::clock::Stopwatch;
use crate::idle::{SETTLE, SPARE_DESCRIPTORS, private_dirty};
use crate::limits::raise_nofile;
use crate::measured;
use crate::peers::{Connection, PeerKind};
use crate::scenario::payload;
use crate::sink::protocol::{Hello, Kind};
use crate::sink::{Sink, collect_parked};
use crate::stats::median;

/// The subcommand.
pub const SUBCOMMAND: &str = "many";
/// The hidden one, by which the benchmark runs itself as the process measured.
pub const CHILD: &str = "many-child";

#[derive(Args, Debug)]
pub struct ManyArgs {
    /// Connections
    #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
    connections: Vec<u64>,

    /// Bytes in a message
    #[arg(long, default_value_t = 1024)]
    size: usize,

    /// Who sends; all that are there by default
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = PeerKind::ALL.into_iter().filter(|peer| peer.is_there())
    )]
    peer: Vec<PeerKind>,

    /// Rounds in which the peers take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

#[derive(Args, Debug)]
pub struct ChildArgs {
    peer: PeerKind,
    sink: SocketAddr,
    connections: u64,
    size: usize,
}

/// What one peer's connections have done and taken.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Found {
    messages_per_s: f64,
    /// CPU time of all threads of the process.
    cpu_ns_per_message: f64,
    /// When every connection has sent, and is idle.
    bytes_per_connection: f64,
}

/// Measures each of the peers in turn, and prints a table.
pub fn bench(args: &ManyArgs) -> Result<()> {
    let allowed = raise_nofile()?.saturating_sub(SPARE_DESCRIPTORS);
    for &connections in &args.connections {
        ensure!(
            connections <= allowed,
            "the limit on open descriptors allows {allowed} connections"
        );
        let mut found = vec![Vec::new(); args.peer.len()];
        for _ in 0..args.rounds {
            for (&peer, found) in args.peer.iter().zip(&mut found) {
                found.push(measure(peer, connections, args.size)?);
            }
        }
        println!(
            "{connections} connections, a message of {} bytes on each in turn; medians of {} rounds",
            args.size, args.rounds
        );
        println!(
            "{:<12} {:>12} {:>16} {:>14}",
            "peer", "messages/s", "CPU ns/message", "B/connection"
        );
        for (peer, found) in args.peer.iter().zip(&found) {
            let median = |of: fn(&Found) -> f64| median(found.iter().map(of));
            println!(
                "{:<12} {:>12.0} {:>16.0} {:>14.0}",
                peer.name(),
                median(|found| found.messages_per_s),
                median(|found| found.cpu_ns_per_message),
                median(|found| found.bytes_per_connection),
            );
        }
        println!();
    }
    Ok(())
}

fn measure(peer: PeerKind, connections: u64, size: usize) -> Result<Found> {
    let sink = Sink::start()?;
    let printed = measured::output(&mut measured::command([
        CHILD,
        peer.name(),
        &sink.address().to_string(),
        &connections.to_string(),
        &size.to_string(),
    ])?)
    .with_context(|| peer.name())?;
    let counted = collect_parked(sink.address())?;
    let sent = connections * (1 + TURNS) * peer.wire_len(size) as u64;
    ensure!(
        counted == sent,
        "{peer}: {sent} bytes sent, but the sink has counted {counted}"
    );
    Ok(serde_json::from_slice(&printed)?)
}

/// The work of the child process; prints what it has found, as JSON.
pub fn child(args: &ChildArgs) -> Result<()> {
    raise_nofile()?;
    let message = payload(args.size);
    let mut connections = Vec::with_capacity(usize::try_from(args.connections)?);
    let before = private_dirty()?;
    for _ in 0..args.connections {
        let hello = Hello::new(Kind::Active);
        let mut connection = Connection::open(args.peer, Cipher::default(), args.sink, hello)?;
        connection.receive_too()?;
        connection.send(&message)?;
        connections.push(connection);
    }
    for connection in &mut connections {
        connection.flush()?;
    }
    sleep(SETTLE);
    let memory = private_dirty()?.saturating_sub(before);

    let watch = Stopwatch::start();
    for _ in 0..TURNS {
        for connection in &mut connections {
            connection.send(&message)?;
        }
    }
    for connection in &mut connections {
        connection.flush()?;
    }
    let elapsed = watch.stop();
    let messages = (args.connections * TURNS) as f64;
    let found = Found {
        messages_per_s: messages / elapsed.wall as f64 * 1e9,
        cpu_ns_per_message: elapsed.process_cpu as f64 / messages,
        bytes_per_connection: memory as f64 / args.connections as f64,
    };
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

/// Messages of each connection that are timed.
const TURNS: u64 = 20;
