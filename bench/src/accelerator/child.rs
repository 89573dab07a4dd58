//! The process measured.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::cipher::Cipher;
use crate::clock::Stopwatch;
use crate::peers::{Connection, PeerKind, counters};
use crate::scenario::payload;
use crate::sink::protocol::{Hello, Kind};
use crate::stats::median;

#[derive(Args, Debug)]
pub struct ChildArgs {
    work: Work,
    connections: usize,
    messages: u64,
    sink: SocketAddr,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Records a second.
    Throughput,
    /// What a send costs its caller.
    Caller,
}

impl Work {
    pub fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Caller => "caller",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Throughput {
    pub records: u64,
    pub elapsed_ns: u64,
}

/// Of one send, in nanoseconds: the calling thread's own.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CallerCost {
    pub cpu_ns: f64,
    pub wall_ns: f64,
}

/// Does it, and prints what it has found, as JSON.
pub fn run(args: &ChildArgs) -> Result<()> {
    let found = match args.work {
        Work::Throughput => serde_json::to_string(&throughput(args)?)?,
        Work::Caller => serde_json::to_string(&caller(args)?)?,
    };
    println!("{found}");
    Ok(())
}

fn throughput(args: &ChildArgs) -> Result<Throughput> {
    // Room for all that may be in flight, and a little more, so that what is left at the end is little.
    let queue = (QUEUE / args.connections).max(32 << 10);
    let open = || Connection::accelerated(args.sink, Hello::new(Kind::Stream), queue);
    let mut connections: Vec<_> = (0..args.connections)
        .map(|_| open())
        .collect::<Result<_>>()?;
    let message = payload(SMALL);
    // The accelerator's thread and the jobs' stacks are there, then.
    send_in_turn(&mut connections, &message, args.connections as u64 * 2)?;
    let before = sealed()?;
    let watch = Stopwatch::start();
    send_in_turn(&mut connections, &message, args.messages)?;
    let elapsed = watch.stop();
    let records = sealed()? - before;
    ensure!(
        records == args.messages,
        "the accelerator has sealed {records} of {} records",
        args.messages
    );
    for connection in connections {
        connection.finish()?;
    }
    Ok(Throughput {
        records,
        elapsed_ns: elapsed.wall,
    })
}

fn send_in_turn(connections: &mut [Connection], message: &[u8], messages: u64) -> Result<()> {
    let count = connections.len();
    for turn in (0..count).cycle().take(usize::try_from(messages)?) {
        connections[turn].send(message)?;
    }
    for connection in connections {
        connection.flush()?;
    }
    Ok(())
}

/// Bursts that the queue has room for: the caller does not wait, whoever seals.
fn caller(args: &ChildArgs) -> Result<CallerCost> {
    let accelerated = std::env::var("UKTLS_ENGINE").is_ok_and(|engine| engine != "threads");
    let hello = Hello::new(Kind::Stream);
    let mut connection = if accelerated {
        Connection::accelerated(args.sink, hello, 0)?
    } else {
        Connection::open(PeerKind::Threads, Cipher::default(), args.sink, hello)?
    };
    let message = payload(LARGE);
    let (mut cpu, mut wall) = (Vec::new(), Vec::new());
    for burst in 0..BURSTS + 1 {
        let watch = Stopwatch::start();
        for _ in 0..BURST {
            connection.send(&message)?;
        }
        let elapsed = watch.stop();
        connection.flush()?;
        // Everybody is asleep again, as between the answers of a server.
        sleep(Duration::from_millis(1));
        // The first one starts the threads.
        if burst > 0 {
            cpu.push(elapsed.caller_cpu as f64 / BURST as f64);
            wall.push(elapsed.wall as f64 / BURST as f64);
        }
    }
    Ok(CallerCost {
        cpu_ns: median(cpu),
        wall_ns: median(wall),
    })
}

/// Records that the accelerator has sealed so far.
fn sealed() -> Result<u64> {
    let counters = counters()?;
    let found = counters
        .iter()
        .find(|(name, _)| *name == "sealed_accelerator");
    Ok(found.map_or(0, |(_, value)| *value))
}

/// Bytes of the messages: the shortest records that an accelerator gets, so that the processor's part in the accelerator's
/// work is small.
const SMALL: usize = 1024;
/// Bytes of the queues of all connections.
const QUEUE: usize = 512 << 10;
/// A full record.
const LARGE: usize = 16 << 10;
/// As many records of that length as half a queue holds.
const BURST: usize = 32;
const BURSTS: usize = 100;
