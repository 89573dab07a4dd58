//! What a run leaves behind: a table on stdout, a JSON file, a plot.

pub mod json;
pub mod svg;
pub mod table;

use crate::goals::Check;
use crate::idle::Idle;
use crate::machine::Machine;
use crate::rounds::Results;

/// All that was measured.
pub struct Report {
    pub machine: Machine,
    pub rounds: usize,
    pub results: Vec<Results>,
    pub idle: Vec<Idle>,
    pub checks: Vec<Check>,
}
