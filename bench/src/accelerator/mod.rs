//! An accelerator: throughput against records in flight, and what a send costs its caller.
//!
//! The accelerator is the one of the tests (`c-tests/accelerator`): its latency and lanes are set, its work is done by
//! a thread of the measured process. Each point is a process of its own, as an accelerator is loaded once in a process.

mod child;
mod plot;

use std::path::PathBuf;
use std::process::Command;
use std::{fmt, fs};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

pub use child::{ChildArgs, run as child};

use crate::machine::Machine;
use crate::measured;
use crate::sink::Sink;
use crate::stats::median;
use child::{CallerCost, Throughput, Work};

/// The subcommand.
pub const SUBCOMMAND: &str = "accelerator";
/// The hidden one, by which the benchmark runs itself as the process measured.
pub const CHILD: &str = "accelerated";

#[derive(Args, Debug)]
pub struct AcceleratorArgs {
    /// The test accelerator, as a provider
    provider: PathBuf,

    /// How long the accelerator takes for a record, in microseconds
    #[arg(long, value_delimiter = ',', default_value = "20,100,500")]
    latency: Vec<u64>,

    /// Records that it works on at a time
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64")]
    lanes: Vec<u64>,

    /// Records in flight
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,2,4,8,16,32,64,128,256"
    )]
    depth: Vec<u64>,

    /// Connections that send in turn, from one thread
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    connections: Vec<usize>,

    /// Measurements of each point, of which the median is taken
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// What one measurement should take, in milliseconds
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..))]
    millis: u32,

    /// Where accelerator.json and accelerator.svg go
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
}

/// One setting of the accelerator, and who uses it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Setting {
    latency_us: u64,
    lanes: u64,
    depth: u64,
    connections: usize,
}

/// What was measured with a setting.
#[derive(Clone, Copy, Debug, Serialize)]
struct Point {
    #[serde(flatten)]
    setting: Setting,
    records_per_s: f64,
    /// What the accelerator can do: as many records a latency as it has lanes for, or is given.
    limit_per_s: f64,
}

/// What a send of 16 KiB costs its caller while the queue has room.
#[derive(Debug, Serialize)]
struct Caller {
    /// `threads`, or the accelerator with its latency.
    engine: String,
    #[serde(flatten)]
    cost: CallerCost,
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    points: Vec<Point>,
    /// Records a second, by connections, of an accelerator that takes no time: what this machine can do.
    ceiling: Vec<(usize, f64)>,
    callers: Vec<Caller>,
}

pub fn bench(args: &AcceleratorArgs) -> Result<()> {
    let mut ceiling = Vec::new();
    for &connections in &args.connections {
        let setting = Setting {
            latency_us: 0,
            lanes: 64,
            depth: 256,
            connections,
        };
        let rate = throughput(args, setting)?;
        println!("no latency, {connections} connections: {rate:.0} records/s: the machine's limit");
        ceiling.push((connections, rate));
    }
    let mut points = Vec::new();
    println!("\nrecords/s, and their part of what the accelerator can do, by records in flight");
    for setting in settings(args) {
        let point = Point {
            setting,
            records_per_s: throughput(args, setting)?,
            limit_per_s: setting.limit_per_s(),
        };
        println!("{point}");
        points.push(point);
    }
    println!(
        "\nwhat a send of 16 KiB costs the calling thread while the queue has room: CPU, wall (ns)"
    );
    let callers = callers(args)?;
    for caller in &callers {
        let CallerCost { cpu_ns, wall_ns } = caller.cost;
        println!("{:<22} {cpu_ns:>9.0} {wall_ns:>9.0}", caller.engine);
    }
    let report = Report {
        machine: Machine::here(),
        points,
        ceiling,
        callers,
    };
    fs::create_dir_all(&args.out)?;
    let json = serde_json::to_string_pretty(&report)? + "\n";
    fs::write(args.out.join("accelerator.json"), json)?;
    plot::write(&args.out.join("accelerator.svg"), &report)?;
    println!(
        "\nwritten to {0}/accelerator.json and {0}/accelerator.svg",
        args.out.display()
    );
    Ok(())
}

impl Setting {
    fn limit_per_s(self) -> f64 {
        self.lanes.min(self.depth) as f64 * 1e6 / self.latency_us as f64
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting {
            latency_us,
            lanes,
            depth,
            connections,
        } = self.setting;
        let (rate, part) = (self.records_per_s, self.records_per_s / self.limit_per_s);
        write!(
            f,
            "{latency_us:>4} us, {lanes:>2} lanes, {connections:>2} connections, {depth:>3} in flight: {rate:>8.0}/s {part:>5.2}"
        )
    }
}

fn settings(args: &AcceleratorArgs) -> Vec<Setting> {
    let mut settings = Vec::new();
    for &connections in &args.connections {
        for &latency_us in &args.latency {
            for &lanes in &args.lanes {
                settings.extend(args.depth.iter().map(|&depth| Setting {
                    latency_us,
                    lanes,
                    depth,
                    connections,
                }));
            }
        }
    }
    settings
}

fn throughput(args: &AcceleratorArgs, setting: Setting) -> Result<f64> {
    let Setting {
        latency_us,
        lanes,
        depth,
        connections,
    } = setting;
    let limit = match latency_us {
        0 => MOST_PER_S,
        _ => setting.limit_per_s().min(MOST_PER_S),
    };
    let messages = (limit * f64::from(args.millis) / 1e3) as u64;
    let rates: Vec<f64> = (0..args.rounds)
        .map(|_| {
            let mut child = process(Work::Throughput, connections, messages.max(FEWEST))?;
            accelerated(&mut child, args, latency_us, lanes)
                .env("UKTLS_ENGINE_IN_FLIGHT", depth.to_string());
            let found: Throughput = said(&mut child)?;
            Ok(found.records as f64 / found.elapsed_ns as f64 * 1e9)
        })
        .collect::<Result<_>>()?;
    Ok(median(rates))
}

/// The pool of threads, and the accelerator with each latency, in turn: the memory of a machine is faster at times.
fn callers(args: &AcceleratorArgs) -> Result<Vec<Caller>> {
    let engines: Vec<Option<u64>> = [None]
        .into_iter()
        .chain(args.latency.iter().copied().map(Some))
        .collect();
    let mut costs = vec![Vec::new(); engines.len()];
    for _ in 0..CALLER_ROUNDS {
        for (engine, costs) in engines.iter().zip(&mut costs) {
            let mut child = process(Work::Caller, 1, 0)?;
            match engine {
                Some(latency) => accelerated(&mut child, args, *latency, 16),
                None => child.env("UKTLS_ENGINE", "threads"),
            };
            costs.push(said::<CallerCost>(&mut child)?);
        }
    }
    let callers = engines.iter().zip(&costs).map(|(engine, costs)| Caller {
        engine: engine.map_or("threads".to_owned(), |us| format!("accelerator, {us} us")),
        cost: CallerCost {
            cpu_ns: median(costs.iter().map(|cost| cost.cpu_ns)),
            wall_ns: median(costs.iter().map(|cost| cost.wall_ns)),
        },
    });
    Ok(callers.collect())
}

fn process(work: Work, connections: usize, messages: u64) -> Result<Command> {
    measured::command([
        CHILD,
        work.name(),
        &connections.to_string(),
        &messages.to_string(),
    ])
}

fn accelerated<'a>(
    child: &'a mut Command,
    args: &AcceleratorArgs,
    latency_us: u64,
    lanes: u64,
) -> &'a mut Command {
    child
        .env(
            "UKTLS_ENGINE",
            format!("openssl:{}", args.provider.display()),
        )
        .env("UKTLS_ENGINE_FALLBACK", "error")
        .env("UKTLS_ENGINE_TIMEOUT_MS", "20000")
        .env(
            "UKTLS_ACCELERATOR",
            format!("latency_us={latency_us},lanes={lanes}"),
        )
}

/// Runs `child` beside a sink of its own; what it has found.
fn said<T: serde::de::DeserializeOwned>(child: &mut Command) -> Result<T> {
    let sink = Sink::start()?;
    let printed = measured::output(child.arg(sink.address().to_string()))?;
    Ok(serde_json::from_slice(&printed)?)
}

/// More than this machine's processors can do for an accelerator.
const MOST_PER_S: f64 = 400_000.0;
/// The differences are small, and memory's moods are not.
const CALLER_ROUNDS: usize = 9;
/// Records that are sent at least.
const FEWEST: u64 = 100;
