//! The figures taken from a measurement.

use serde::{Deserialize, Serialize};

use crate::scenario::{Mode, Sample};

/// A figure, named as in the JSON rows and in `goals.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Wall time of a run divided by its calls.
    NsPerCall,
    MessagesPerS,
    /// 10^9 payload bytes a second.
    GbPerS,
    /// CPU time of the calling thread for a byte of payload.
    CallerCpuNsPerByte,
    /// CPU time of all threads of the measured process for a byte of payload.
    ProcessCpuNsPerByte,
    RoundTripP50Ns,
    RoundTripP99Ns,
    /// Memory that one idle connection adds to the process, beyond that of a plain socket.
    BytesPerConnection,
}

impl Metric {
    /// What a measurement in `mode` gives, in the order of the table's columns. Memory is not measured by samples.
    pub fn of_mode(mode: Mode) -> &'static [Self] {
        const STREAM: &[Metric] = &[
            Metric::NsPerCall,
            Metric::MessagesPerS,
            Metric::GbPerS,
            Metric::CallerCpuNsPerByte,
            Metric::ProcessCpuNsPerByte,
        ];
        const REQUEST: &[Metric] = &[
            Metric::NsPerCall,
            Metric::MessagesPerS,
            Metric::GbPerS,
            Metric::CallerCpuNsPerByte,
            Metric::ProcessCpuNsPerByte,
            Metric::RoundTripP50Ns,
            Metric::RoundTripP99Ns,
        ];
        match mode {
            Mode::Stream | Mode::Receive => STREAM,
            Mode::Request => REQUEST,
            Mode::Idle => &[Metric::BytesPerConnection],
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::NsPerCall => "ns/call",
            Self::MessagesPerS => "1/s",
            Self::GbPerS => "GB/s",
            Self::CallerCpuNsPerByte | Self::ProcessCpuNsPerByte => "ns/B",
            Self::RoundTripP50Ns | Self::RoundTripP99Ns => "ns",
            Self::BytesPerConnection => "B",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::NsPerCall => "ns_per_call",
            Self::MessagesPerS => "messages_per_s",
            Self::GbPerS => "gb_per_s",
            Self::CallerCpuNsPerByte => "caller_cpu_ns_per_byte",
            Self::ProcessCpuNsPerByte => "process_cpu_ns_per_byte",
            Self::RoundTripP50Ns => "round_trip_p50_ns",
            Self::RoundTripP99Ns => "round_trip_p99_ns",
            Self::BytesPerConnection => "bytes_per_connection",
        }
    }

    pub fn more_is_better(self) -> bool {
        matches!(self, Self::MessagesPerS | Self::GbPerS)
    }

    /// The figure in `sample`, if it has it.
    pub fn of(self, sample: &Sample) -> Option<f64> {
        let (messages, bytes) = (sample.messages as f64, sample.bytes as f64);
        let wall = sample.elapsed.wall as f64;
        match self {
            Self::NsPerCall => Some(wall / sample.calls as f64),
            Self::MessagesPerS => Some(messages * 1e9 / wall),
            Self::GbPerS => Some(bytes / wall),
            Self::CallerCpuNsPerByte => Some(sample.elapsed.caller_cpu as f64 / bytes),
            Self::ProcessCpuNsPerByte => Some(sample.elapsed.process_cpu as f64 / bytes),
            Self::RoundTripP50Ns => sample.round_trip.map(|times| times.p50 as f64),
            Self::RoundTripP99Ns => sample.round_trip.map(|times| times.p99 as f64),
            Self::BytesPerConnection => None,
        }
    }
}
