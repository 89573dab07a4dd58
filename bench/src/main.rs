//! The benchmarks of uktls: what a message costs, and what an idle connection keeps, beside plain TCP, OpenSSL and rustls.
//!
//! `README.md` beside this crate says what is measured and what is not.

mod accelerator;
mod aead;
mod args;
mod cipher;
mod clock;
mod goals;
mod idle;
mod limits;
mod machine;
mod many;
mod matrix;
mod measured;
mod metric;
mod peers;
mod placement;
mod receive;
mod report;
mod rounds;
mod scenario;
mod sink;
mod stats;

use std::fs;

use anyhow::{Context, Result};
use clap::Parser;

use args::{BenchArgs, Role};
use machine::Machine;
use report::Report;
use rounds::Results;
use sink::Sink;

fn main() -> Result<()> {
    let args = BenchArgs::parse();
    match &args.role {
        None => bench(&args),
        Some(Role::Sink) => sink::process::serve(),
        Some(Role::Idle(child)) => idle::child(child),
        Some(Role::Aead(table)) => aead::print(table),
        Some(Role::Matrix(args)) => matrix::bench(args),
        Some(Role::Many(args)) => many::bench(args),
        Some(Role::ManyChild(child)) => many::child(child),
        Some(Role::Accelerator(args)) => accelerator::bench(args),
        Some(Role::Accelerated(child)) => accelerator::child(child),
    }
}

fn bench(args: &BenchArgs) -> Result<()> {
    let effort = args.effort();
    let goals = goals::goals()?;
    // First, so that the sink does not inherit what the timed runs have opened.
    let sink = Sink::start()?;
    let mut results = Vec::new();
    for scenario in args.scenarios() {
        eprintln!("measuring {scenario}");
        results.push(Results::measure(
            scenario,
            &args.peers(scenario.mode),
            sink.address(),
            effort,
        )?);
    }
    let idle = if args.idle() {
        eprintln!("measuring idle connections");
        idle::measure(&args.peer, args.connections)?
    } else {
        Vec::new()
    };
    let checks = goals::check(&goals, &results, &idle);
    let report = Report {
        machine: Machine::here(),
        rounds: effort.rounds,
        results,
        idle,
        checks,
    };

    let mut table = String::new();
    report::table::write(&mut table, &report)?;
    print!("{table}");

    fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    report::json::write(&args.out.join("bench.json"), &report)?;
    report::svg::write(&args.out.join("bench.svg"), &report, &goals)?;
    println!(
        "\nwritten to {0}/bench.json and {0}/bench.svg",
        args.out.display()
    );
    Ok(())
}
