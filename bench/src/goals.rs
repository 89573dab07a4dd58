//! The goals in `goals.toml` beside what was measured.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::cipher::Cipher;
use crate::idle::Idle;
use crate::metric::Metric;
use crate::peers::PeerKind;
use crate::rounds::Results;
use crate::scenario::{Mode, Scenario};

/// One `[[goal]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    pub mode: Mode,
    #[serde(default)]
    pub cipher: Cipher,
    /// Every size if absent.
    pub size: Option<usize>,
    /// [`Mode::Receive`]: bytes that one call has room for; any if absent.
    pub buffer: Option<usize>,
    pub peer: PeerKind,
    pub metric: Metric,
    pub against: Option<Against>,
    #[serde(flatten)]
    pub bound: Bound,
}

/// What the figure is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    #[serde(alias = "ssl_read")]
    SslWrite,
    Plain,
    /// The best of the other TLS libraries, and of the kernel.
    #[serde(rename = "best-peer")]
    BestPeer,
    #[serde(rename = "better-engine")]
    BetterEngine,
}

/// What the figure, or its ratio, should be.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A goal and what was measured for it.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub goal: String,
    pub bound: String,
    pub measured: f64,
    pub met: bool,
}

pub fn goals() -> Result<Vec<Goal>> {
    #[derive(Deserialize)]
    struct File {
        goal: Vec<Goal>,
    }
    let file: File = toml::from_str(include_str!("../goals.toml")).context("goals.toml")?;
    Ok(file.goal)
}

/// Every goal that `results` and `idle` have figures for.
pub fn check(goals: &[Goal], results: &[Results], idle: &[Idle]) -> Vec<Check> {
    goals
        .iter()
        .flat_map(|goal| {
            let timed = results.iter().filter_map(|results| {
                Some(goal.check(&results.scenario.to_string(), goal.measured(results)?))
            });
            let kept = idle
                .iter()
                .filter_map(|idle| Some(goal.check("idle", goal.measured_idle(idle)?)));
            timed.chain(kept).collect::<Vec<_>>()
        })
        .collect()
}

impl Goal {
    fn is_about(&self, scenario: Scenario) -> bool {
        let Scenario {
            mode,
            size,
            cipher,
            buffer,
        } = scenario;
        self.mode == mode
            && self.cipher == cipher
            && self.size.is_none_or(|wanted| wanted == size)
            && (self.buffer.is_none() || self.buffer == buffer)
    }

    /// What `results` say about this goal; `None` if they are about something else.
    fn measured(&self, results: &Results) -> Option<f64> {
        let scenario = results.scenario;
        if !self.is_about(scenario) {
            return None;
        }
        match self.against {
            None => results.value(self.peer, self.metric),
            Some(Against::SslWrite) => results.ratio(self.peer, PeerKind::SslWrite, self.metric),
            Some(Against::Plain) => results.ratio(self.peer, PeerKind::Plain, self.metric),
            Some(Against::BestPeer) => {
                results.ratio(self.peer, results.best_rival(self.metric)?, self.metric)
            }
            Some(Against::BetterEngine) => {
                results.ratio(self.peer, results.better_engine(self.metric)?, self.metric)
            }
        }
    }

    fn measured_idle(&self, idle: &Idle) -> Option<f64> {
        let ours = self.mode == Mode::Idle
            && self.peer == idle.peer
            && self.metric == Metric::BytesPerConnection;
        ours.then_some(idle.bytes_per_connection)
    }

    fn check(&self, scenario: &str, measured: f64) -> Check {
        let against = match self.against {
            None => "",
            Some(Against::SslWrite) => PeerKind::SslWrite.name_in(self.mode),
            Some(Against::Plain) => PeerKind::Plain.name_in(self.mode),
            Some(Against::BestPeer) => "best peer",
            Some(Against::BetterEngine) => "better engine",
        };
        let (bound, met) = match self.bound {
            Bound::AtLeast(bound) => (format!(">= {bound}"), measured >= bound),
            Bound::AtMost(bound) => (format!("<= {bound}"), measured <= bound),
        };
        let slash = if against.is_empty() { "" } else { " / " };
        let goal = format!(
            "{scenario}: {} {}{slash}{against}",
            self.peer.name_in(self.mode),
            self.metric.name()
        );
        Check {
            goal,
            bound,
            measured,
            met,
        }
    }

    /// The goal as a mark on a plot: its size and ratio, if it is about the plot's figure.
    pub fn mark(&self, scenario: Scenario, metric: Metric, against: Against) -> Option<f64> {
        let ours = self.is_about(scenario) && self.size.is_some() && self.against == Some(against);
        // In one row all messages are of one size, so messages a second and GB a second have the same ratio.
        let same = self.metric == metric
            || (self.metric == Metric::GbPerS && metric == Metric::MessagesPerS);
        let (Bound::AtLeast(bound) | Bound::AtMost(bound)) = self.bound;
        (ours && same).then_some(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_parse() {
        let goals = goals().unwrap();
        assert!(goals.len() >= 18);
        assert!(
            goals
                .iter()
                .any(|goal| goal.bound == Bound::AtLeast(15.0) && goal.size == Some(64))
        );
    }
}
