//! The table on stdout.

use std::fmt::{self, Write};

use super::Report;
use crate::idle::Idle;
use crate::metric::Metric;
use crate::peers::PeerKind;
use crate::rounds::Results;
use crate::scenario::Mode;

/// Write the whole table and the goals below it.
pub fn write(out: &mut impl Write, report: &Report) -> fmt::Result {
    let machine = &report.machine;
    writeln!(
        out,
        "uktls {}, {}, {} cores, {}",
        machine.commit, machine.cpu, machine.cores, machine.kernel
    )?;
    writeln!(
        out,
        "{}, {}; medians of {} rounds",
        machine.openssl, machine.date, report.rounds
    )?;
    writeln!(
        out,
        "x ssl, x plain: speed (or p50) as a ratio to SSL_write (SSL_read) and to plain send (recv) in the same round"
    )?;
    writeln!(
        out,
        "caller, process: CPU time for a byte; x ssl beside each, less is better"
    )?;
    if !report.results.is_empty() {
        writeln!(
            out,
            "\n{:<21} {:<9} {:>9} {:>10} {:>7} {:>7} {:>7} | {:>8} {:>6} {:>8} {:>8} {:>6} | {:>8} {:>8} {:>6} {:>7}",
            "scenario",
            "peer",
            "ns/call",
            "msg/s",
            "GB/s",
            "x ssl",
            "x plain",
            "caller",
            "x ssl",
            "x plain",
            "process",
            "x ssl",
            "p50 us",
            "p99 us",
            "x ssl",
            "x plain",
        )?;
        for results in &report.results {
            for &(peer, _) in &results.peers {
                row(out, results, peer)?;
            }
        }
    }
    if !report.idle.is_empty() {
        writeln!(
            out,
            "\nmemory of an idle connection, beyond a plain socket's"
        )?;
        for idle in &report.idle {
            let Idle {
                peer,
                connections,
                bytes_per_connection,
            } = idle;
            writeln!(
                out,
                "{:<21} {:<9} {bytes_per_connection:>9.0} B   ({connections} connections)",
                "idle",
                peer.name()
            )?;
        }
    }
    if !report.checks.is_empty() {
        let met = report.checks.iter().filter(|check| check.met).count();
        writeln!(out, "\ngoals: {met} of {} met", report.checks.len())?;
        for check in &report.checks {
            let verdict = if check.met { "met" } else { "MISSED" };
            writeln!(
                out,
                "{:<72} {:>8} {:>9.2}  {verdict}",
                check.goal, check.bound, check.measured
            )?;
        }
    }
    Ok(())
}

fn row(out: &mut impl Write, results: &Results, peer: PeerKind) -> fmt::Result {
    let value = |metric, scale: f64, digits| {
        cell(
            results.value(peer, metric).map(|value| value * scale),
            digits,
        )
    };
    let ssl = |metric| cell(results.ratio(peer, PeerKind::SslWrite, metric), 2);
    let plain = |metric| cell(results.ratio(peer, PeerKind::Plain, metric), 2);
    let mode = results.scenario.mode;
    let scenario = results.scenario.to_string();
    write!(
        out,
        "{scenario:<21} {:<9} {:>9} {:>10} {:>7} {:>7} {:>7} | {:>8} {:>6} {:>8} {:>8} {:>6} |",
        peer.name_in(mode),
        value(Metric::NsPerCall, 1.0, 0),
        value(Metric::MessagesPerS, 1.0, 0),
        value(Metric::GbPerS, 1.0, 3),
        ssl(Metric::MessagesPerS),
        plain(Metric::MessagesPerS),
        value(Metric::CallerCpuNsPerByte, 1.0, 3),
        ssl(Metric::CallerCpuNsPerByte),
        plain(Metric::CallerCpuNsPerByte),
        value(Metric::ProcessCpuNsPerByte, 1.0, 3),
        ssl(Metric::ProcessCpuNsPerByte),
    )?;
    if mode == Mode::Request {
        write!(
            out,
            " {:>8} {:>8} {:>6} {:>7}",
            value(Metric::RoundTripP50Ns, 1e-3, 2),
            value(Metric::RoundTripP99Ns, 1e-3, 2),
            ssl(Metric::RoundTripP50Ns),
            plain(Metric::RoundTripP50Ns),
        )?;
    }
    writeln!(out)
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
