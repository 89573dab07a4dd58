//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::cipher::Cipher;
use crate::idle;
use crate::peers::PeerKind;
use crate::placement::Placement;
use crate::receive;
use crate::rounds::Effort;
use crate::scenario::{Mode, Scenario};

/// Measure uktls against plain TCP, OpenSSL's SSL_write and rustls over the loopback device.
///
/// See bench/README.md for what is measured and what is not.
#[derive(Parser, Debug)]
#[command(name = "uktls-bench", version)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub role: Option<Role>,

    /// What to measure
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "stream,request,receive,idle"
    )]
    mode: Vec<Mode>,

    /// Bytes in a message; receiving has records of 64 and 16384 bytes
    #[arg(long, value_delimiter = ',', default_value = "64,1024,16384,65536")]
    size: Vec<usize>,

    /// Who sends or receives; all that are there by default. Ratios need `plain` and `ssl_write` in the same run
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = PeerKind::ALL.into_iter().filter(|peer| peer.is_there())
    )]
    pub peer: Vec<PeerKind>,

    /// Rounds in which the peers take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// What one measurement should take, in milliseconds
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    millis: u32,

    /// Connections whose memory is measured
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub connections: u64,

    /// Where bench.json and bench.svg go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    pub out: PathBuf,

    /// Where sender and responder of a round trip run
    #[arg(long, value_enum, default_value = "same")]
    placement: Placement,

    /// Print on stderr what uktls has counted in each measurement
    #[arg(long)]
    counters: bool,
}

/// What this process is, where it is not the benchmark itself.
#[derive(Subcommand, Debug)]
pub enum Role {
    #[command(name = crate::sink::SUBCOMMAND, hide = true)]
    Sink,
    #[command(name = idle::SUBCOMMAND, hide = true)]
    Idle(idle::ChildArgs),
    /// Measure `auto` against both engines by connections, threads and sizes, instead of the benchmarks
    #[command(name = crate::matrix::SUBCOMMAND)]
    Matrix(crate::matrix::MatrixArgs),
    /// Measure thousands of connections that send in turn, instead of the benchmarks
    #[command(name = crate::many::SUBCOMMAND)]
    Many(crate::many::ManyArgs),
    #[command(name = crate::many::CHILD, hide = true)]
    ManyChild(crate::many::ChildArgs),
    /// Measure throughput over an accelerator against records in flight, instead of the benchmarks
    #[command(name = crate::accelerator::SUBCOMMAND)]
    Accelerator(crate::accelerator::AcceleratorArgs),
    #[command(name = crate::accelerator::CHILD, hide = true)]
    Accelerated(crate::accelerator::ChildArgs),
    /// Print how fast each AEAD implementation seals records, instead of the benchmarks
    #[command(name = crate::aead::SUBCOMMAND)]
    Aead(crate::aead::AeadArgs),
}

/// ChaCha20-Poly1305 is measured by streams of full records.
const CHACHA20_LEN: usize = 16_384;

impl BenchArgs {
    pub fn effort(&self) -> Effort {
        Effort {
            rounds: self.rounds.into(),
            duration: Duration::from_millis(self.millis.into()),
            placement: self.placement,
            show_counters: self.counters,
        }
    }

    /// The timed scenarios asked for.
    pub fn scenarios(&self) -> impl Iterator<Item = Scenario> {
        let modes = [Mode::Stream, Mode::Request]
            .into_iter()
            .filter(|mode| self.mode.contains(mode));
        let sent = modes.flat_map(|mode| {
            self.size.iter().map(move |&size| Scenario {
                mode,
                size,
                cipher: Cipher::Aes128Gcm,
                buffer: None,
            })
        });
        let chacha20 = Scenario {
            mode: Mode::Stream,
            size: CHACHA20_LEN,
            cipher: Cipher::ChaCha20Poly1305,
            buffer: None,
        };
        let chacha20 = Some(chacha20)
            .filter(|other| self.mode.contains(&other.mode) && self.size.contains(&other.size));
        let received = receive::SIZES
            .into_iter()
            .filter(|(size, _)| self.mode.contains(&Mode::Receive) && self.size.contains(size))
            .map(|(size, buffer)| Scenario {
                mode: Mode::Receive,
                cipher: Cipher::Aes128Gcm,
                size,
                buffer: Some(buffer),
            });
        sent.chain(chacha20).chain(received)
    }

    /// The peers asked for that have something of their own to measure in `mode`.
    pub fn peers(&self, mode: Mode) -> Vec<PeerKind> {
        let all = self.peer.iter().copied();
        all.filter(|peer| mode != Mode::Receive || peer.receives())
            .collect()
    }

    pub fn idle(&self) -> bool {
        self.mode.contains(&Mode::Idle)
    }
}
