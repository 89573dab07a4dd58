//! `auto` against both engines that it chooses from, by connections, threads of the program, and message sizes.
//!
//! With more threads than connections, several share one.

use std::ffi::c_int;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::cipher::Cipher;
use crate::limits::raise_nofile;
use crate::peers::{Connection, PeerKind};
use crate::scenario::{payload, size_name};
use crate::sink::Sink;
use crate::sink::protocol::{Hello, Kind};
use crate::stats::{median, percentile};

/// The subcommand.
pub const SUBCOMMAND: &str = "matrix";

#[derive(Args, Debug)]
pub struct MatrixArgs {
    /// What the threads do
    #[arg(long, value_delimiter = ',', default_value = "stream,request,trickle")]
    mode: Vec<Mode>,

    /// Connections
    #[arg(long, value_delimiter = ',', default_value = "1,2,16,256")]
    connections: Vec<usize>,

    /// Threads of the program
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    threads: Vec<usize>,

    /// Bytes in a message
    #[arg(long, value_delimiter = ',', default_value = "64,1024,16384,65536")]
    size: Vec<usize>,

    /// Rounds in which the engines take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// What one measurement takes, in milliseconds; a trickle takes ten times as long
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..))]
    millis: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Messages as fast as they are taken.
    Stream,
    /// A message, then its answer.
    Request,
    /// The same, a hundred times a second on each connection.
    Trickle,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    mode: Mode,
    connections: usize,
    threads: usize,
    size: usize,
}

/// Prints a line for each cell, and how many hold.
pub fn bench(args: &MatrixArgs) -> Result<()> {
    raise_nofile()?;
    let sink = Sink::start()?;
    for &mode in &args.mode {
        println!(
            "{}",
            match mode {
                Mode::Trickle => "trickle: p99 of the round trip, us, and its ratio to plain",
                _ => "messages/s, and what `auto` has of the better engine's",
            }
        );
        let (mut held, mut cells, mut ratios) = (0, 0, Vec::new());
        for &connections in &args.connections {
            for &threads in &args.threads {
                for &size in &args.size {
                    let cell = Cell {
                        mode,
                        connections,
                        threads,
                        size,
                    };
                    let ratio = measure(args, cell, sink.address())?;
                    cells += 1;
                    held += usize::from(match mode {
                        Mode::Trickle => ratio <= TRICKLE_MOST,
                        _ => ratio >= LEAST,
                    });
                    ratios.push(ratio);
                }
            }
        }
        println!(
            "{held} of {cells} hold; the median ratio is {:.2}\n",
            median(ratios)
        );
    }
    Ok(())
}

fn measure(args: &MatrixArgs, cell: Cell, sink: SocketAddr) -> Result<f64> {
    let (peers, time) = match cell.mode {
        Mode::Trickle => (&[PeerKind::Plain, PeerKind::Auto][..], args.millis * 10),
        _ => (
            &[PeerKind::Inline, PeerKind::Threads, PeerKind::Auto][..],
            args.millis,
        ),
    };
    let time = Duration::from_millis(time.into());
    let mut figures = vec![Vec::new(); peers.len()];
    for round in 0..args.rounds {
        let mut order: Vec<usize> = (0..peers.len()).collect();
        order.rotate_left(usize::from(round) % peers.len());
        for at in order {
            let figure = run(cell, peers[at], sink, time)
                .with_context(|| format!("{cell:?}, {}", peers[at]))?;
            figures[at].push(figure);
        }
    }
    let ratios = (0..usize::from(args.rounds)).map(|round| match figures.as_slice() {
        [plain, auto] => auto[round] / plain[round],
        [inline, threads, auto] => auto[round] / inline[round].max(threads[round]),
        _ => f64::NAN,
    });
    // What is compared is the better engine, not the luckier round.
    let medians: Vec<f64> = figures
        .iter()
        .map(|figures| median(figures.iter().copied()))
        .collect();
    let ratio = match medians.as_slice() {
        [inline, threads, auto] => auto / inline.max(*threads),
        _ => median(ratios),
    };
    let medians: Vec<String> = peers
        .iter()
        .zip(&medians)
        .map(|(peer, value)| format!("{peer} {value:>10.1}"))
        .collect();
    println!(
        "{:>3} connections, {} threads, {:>6}: {}  {ratio:.2}",
        cell.connections,
        cell.threads,
        size_name(cell.size),
        medians.join("  ")
    );
    Ok(ratio)
}

/// Messages a second, or the p99 of the round trip in microseconds.
fn run(cell: Cell, peer: PeerKind, sink: SocketAddr, time: Duration) -> Result<f64> {
    let kind = match cell.mode {
        Mode::Stream => Kind::Stream,
        _ => Kind::Request,
    };
    let hello = Hello {
        wire_len: peer.wire_len(cell.size) as u64,
        ..Hello::new(kind)
    };
    let mut connections: Vec<Connection> = (0..cell.connections)
        .map(|_| Connection::open(peer, Cipher::default(), sink, hello))
        .collect::<Result<_>>()?;
    let message = payload(cell.size);
    let sockets: Vec<&TcpStream> = connections.iter().map(Connection::socket).collect();
    let start = Instant::now();
    let done: Vec<Result<Done>> = scope(|scope| {
        let threads: Vec<_> = (0..cell.threads)
            .map(|thread| {
                let (sockets, message) = (&sockets, message.as_slice());
                scope.spawn(move || work(cell, peer, sockets, thread, message, start + time))
            })
            .collect();
        let ends = threads.into_iter().map(|thread| match thread.join() {
            Ok(end) => end,
            Err(_) => bail!("a thread has panicked"),
        });
        ends.collect()
    });
    for connection in &mut connections {
        connection.flush()?;
    }
    let elapsed = start.elapsed();
    let done: Vec<Done> = done.into_iter().collect::<Result<_>>()?;
    let messages: u64 = done.iter().map(|done| done.messages).sum();
    let mut counted = 0;
    for connection in connections {
        counted += connection.finish()?;
    }
    let sent = messages * hello.wire_len;
    ensure!(
        counted == sent,
        "{sent} bytes sent, but the sink has counted {counted}"
    );
    if cell.mode == Mode::Trickle {
        let mut times: Vec<u64> = done.into_iter().flat_map(|done| done.round_trips).collect();
        let p99 = percentile(&mut times, 99).context("no round trips")?;
        return Ok(p99 as f64 / 1e3);
    }
    Ok(messages as f64 / elapsed.as_secs_f64())
}

#[derive(Default)]
struct Done {
    messages: u64,
    /// Of a trickle, in nanoseconds.
    round_trips: Vec<u64>,
}

/// One thread's connections, in turn, until the time is up.
fn work(
    cell: Cell,
    peer: PeerKind,
    sockets: &[&TcpStream],
    thread: usize,
    message: &[u8],
    until: Instant,
) -> Result<Done> {
    let mut own: Vec<&TcpStream> = sockets
        .iter()
        .skip(thread)
        .step_by(cell.threads)
        .copied()
        .collect();
    if own.is_empty() {
        own.push(sockets[thread % sockets.len()]);
    }
    let mut done = Done::default();
    let mut tick = Instant::now();
    loop {
        for socket in &own {
            match cell.mode {
                Mode::Stream => {
                    for _ in 0..BURST {
                        put(peer, socket, message)?;
                    }
                    done.messages += BURST;
                }
                Mode::Request | Mode::Trickle => {
                    let begin = Instant::now();
                    put(peer, socket, message)?;
                    answered(socket)?;
                    done.messages += 1;
                    if cell.mode == Mode::Trickle {
                        let took = u64::try_from(begin.elapsed().as_nanos())?;
                        done.round_trips.push(took);
                    }
                }
            }
        }
        if Instant::now() >= until {
            return Ok(done);
        }
        if cell.mode == Mode::Trickle {
            tick += TICK;
            sleep(tick.saturating_duration_since(Instant::now()));
        }
    }
}

/// Sends by the peer's own call, from any thread.
fn put(peer: PeerKind, socket: &TcpStream, mut message: &[u8]) -> Result<()> {
    while !message.is_empty() {
        let sent = match peer {
            PeerKind::Plain => match send(socket, message, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => 0,
                sent => sent?,
            },
            _ => {
                // SAFETY: `message` is readable for its length.
                let sent = unsafe {
                    uktls::capi::tls_send(
                        socket.as_raw_fd(),
                        message.as_ptr().cast(),
                        message.len(),
                        0 as c_int,
                    )
                };
                match usize::try_from(sent) {
                    Ok(sent) => sent,
                    Err(_) => bail!("tls_send: {}", std::io::Error::last_os_error()),
                }
            }
        };
        message = &message[sent..];
    }
    Ok(())
}

/// Reads one answer: another thread's, perhaps, if they share the connection.
fn answered(socket: &TcpStream) -> Result<()> {
    let mut answer = [0];
    loop {
        match recv(socket, &mut answer, RecvFlags::empty()) {
            Ok((_, 1)) => return Ok(()),
            Err(Errno::INTR) => {}
            Ok(_) => {
                socket.shutdown(Shutdown::Both)?;
                bail!("the sink has closed");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Messages of a stream between two looks at the clock.
const BURST: u64 = 16;
/// A hundred times a second.
const TICK: Duration = Duration::from_millis(10);
/// What `auto` should have of the better engine's speed.
const LEAST: f64 = 0.95;
/// What its p99 should be at most, to that of plain `send`.
const TRICKLE_MOST: f64 = 1.1;
