//! The JSON file: one row a scenario, peer and figure, each complete in itself.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::Report;
use crate::goals::Check;
use crate::machine::Machine;
use crate::metric::Metric;
use crate::peers::PeerKind;
use crate::scenario::Mode;

pub fn write(path: &Path, report: &Report) -> Result<()> {
    let timed = report.results.iter().flat_map(|results| {
        let metrics = Metric::of_mode(results.scenario.mode);
        results
            .peers
            .iter()
            .flat_map(move |&(peer, _)| metrics.iter().map(move |&metric| (results, peer, metric)))
    });
    let mut rows: Vec<Row<'_>> = timed
        .filter_map(|(results, peer, metric)| {
            let receives = results.scenario.mode == Mode::Receive;
            let ssl = results.ratio(peer, PeerKind::SslWrite, metric);
            Some(Row {
                scenario: results.scenario.mode.name(),
                message_len: Some(results.scenario.size),
                buffer_len: results.scenario.buffer,
                peer: peer.name_in(results.scenario.mode),
                metric,
                unit: metric.unit(),
                value: results.value(peer, metric)?,
                ratio_ssl_write: ssl.filter(|_| !receives),
                ratio_ssl_read: ssl.filter(|_| receives),
                ratio_plain: results.ratio(peer, PeerKind::Plain, metric),
                measurements: results.samples(peer)?.len(),
                machine: &report.machine,
            })
        })
        .collect();
    let metric = Metric::BytesPerConnection;
    rows.extend(report.idle.iter().map(|idle| Row {
        scenario: "idle",
        message_len: None,
        buffer_len: None,
        peer: idle.peer.name(),
        metric,
        unit: metric.unit(),
        value: idle.bytes_per_connection,
        ratio_ssl_write: None,
        ratio_ssl_read: None,
        ratio_plain: None,
        measurements: 1,
        machine: &report.machine,
    }));
    fs::write(
        path,
        serde_json::to_string_pretty(&File {
            rows,
            goals: &report.checks,
        })? + "\n",
    )?;
    Ok(())
}

#[derive(Serialize)]
struct File<'a> {
    rows: Vec<Row<'a>>,
    goals: &'a [Check],
}

#[derive(Serialize)]
struct Row<'a> {
    scenario: &'static str,
    message_len: Option<usize>,
    buffer_len: Option<usize>,
    peer: &'static str,
    metric: Metric,
    unit: &'static str,
    value: f64,
    ratio_ssl_write: Option<f64>,
    ratio_ssl_read: Option<f64>,
    ratio_plain: Option<f64>,
    measurements: usize,
    #[serde(flatten)]
    machine: &'a Machine,
}
