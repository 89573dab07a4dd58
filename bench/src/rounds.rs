//! The peers take turns, round by round, so that a machine that gets slower for a while gets slower for all of them; what is
//! reported is the median of the ratios within each round.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::metric::Metric;
use crate::peers::{PeerKind, counters};
use crate::placement::Placement;
use crate::scenario::{Sample, Scenario, measure};
use crate::stats::median;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub rounds: usize,
    /// What one measurement should take.
    pub duration: Duration,
    /// Where request/response runs.
    pub placement: Placement,
    /// Print what uktls has counted in each measurement.
    pub show_counters: bool,
}

/// The measurements of one scenario: one sample a peer and round.
pub struct Results {
    pub scenario: Scenario,
    pub peers: Vec<(PeerKind, Vec<Sample>)>,
}

impl Results {
    /// Measure `scenario` for each of `peers`.
    pub fn measure(
        scenario: Scenario,
        peers: &[PeerKind],
        sink: SocketAddr,
        effort: Effort,
    ) -> Result<Self> {
        let work: Vec<u64> = peers
            .iter()
            .map(|&peer| calibrate(scenario, peer, sink, effort))
            .collect::<Result<_>>()?;
        let mut results: Vec<_> = peers.iter().map(|&peer| (peer, Vec::new())).collect();
        for round in 0..effort.rounds {
            // Where in a round a peer comes, and behind whom, is worth a third with large messages: no peer keeps its place.
            let mut order: Vec<usize> = (0..peers.len()).collect();
            order.rotate_left(round % peers.len().max(1));
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let (peer, samples) = &mut results[at];
                let messages = work[at];
                let before = counters()?;
                samples.push(measure(scenario, *peer, sink, messages, effort.placement)?);
                if effort.show_counters {
                    show_counters(scenario, *peer, round, &before)?;
                }
            }
        }
        Ok(Self {
            scenario,
            peers: results,
        })
    }

    pub fn samples(&self, peer: PeerKind) -> Option<&[Sample]> {
        self.peers
            .iter()
            .find(|(kind, _)| *kind == peer)
            .map(|(_, samples)| samples.as_slice())
    }

    /// The median over the rounds.
    pub fn value(&self, peer: PeerKind, metric: Metric) -> Option<f64> {
        let values: Option<Vec<f64>> = self
            .samples(peer)?
            .iter()
            .map(|sample| metric.of(sample))
            .collect();
        Some(median(values?))
    }

    /// The median over the rounds of the ratio of `peer` to `base` in that round.
    pub fn ratio(&self, peer: PeerKind, base: PeerKind, metric: Metric) -> Option<f64> {
        let (samples, base) = (self.samples(peer)?, self.samples(base)?);
        let ratios: Option<Vec<f64>> = samples
            .iter()
            .zip(base)
            .map(|(sample, base)| Some(metric.of(sample)? / metric.of(base)?))
            .collect();
        Some(median(ratios?))
    }

    /// Which of the others has the best median.
    pub fn best_rival(&self, metric: Metric) -> Option<PeerKind> {
        let better = |a: &f64, b: &f64| match metric.more_is_better() {
            true => a.total_cmp(b),
            false => b.total_cmp(a),
        };
        PeerKind::RIVALS
            .into_iter()
            .filter_map(|peer| Some((peer, self.value(peer, metric)?)))
            .max_by(|(_, a), (_, b)| better(a, b))
            .map(|(peer, _)| peer)
    }

    /// Which of uktls's two engines has the better median.
    pub fn better_engine(&self, metric: Metric) -> Option<PeerKind> {
        let inline = self.value(PeerKind::Inline, metric)?;
        let threads = self.value(PeerKind::Threads, metric)?;
        let inline_wins = (inline >= threads) == metric.more_is_better();
        Some(if inline_wins {
            PeerKind::Inline
        } else {
            PeerKind::Threads
        })
    }
}

/// The number of messages that take `peer` about `duration`.
fn calibrate(scenario: Scenario, peer: PeerKind, sink: SocketAddr, effort: Effort) -> Result<u64> {
    let duration = effort.duration;
    const START: u64 = 16;
    let enough = duration / 4;
    let mut messages = START;
    loop {
        let wall = Duration::from_nanos(
            measure(scenario, peer, sink, messages, effort.placement)?
                .elapsed
                .wall
                .max(1),
        );
        let factor = duration.div_duration_f64(wall);
        if wall >= enough {
            return Ok(((messages as f64 * factor) as u64).max(1));
        }
        // Short runs flatter whoever fills buffers, so the last step is always from a run that is long enough to tell.
        messages = (messages as f64 * factor.clamp(2.0, 16.0)) as u64;
    }
}

fn show_counters(
    scenario: Scenario,
    peer: PeerKind,
    round: usize,
    before: &[(&'static str, u64)],
) -> Result<()> {
    let changes: Vec<String> = counters()?
        .iter()
        .zip(before)
        .filter(|((_, after), (_, before))| after != before)
        .map(|((name, after), (_, before))| format!("{name} {}", after.wrapping_sub(*before)))
        .collect();
    if !changes.is_empty() {
        eprintln!(
            "{scenario}, {}, round {round}: {}",
            peer.name(),
            changes.join(", ")
        );
    }
    Ok(())
}
