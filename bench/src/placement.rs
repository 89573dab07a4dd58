//! Which processors the two ends of a round trip run on.

use std::io;

use clap::ValueEnum;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Placement of sender and responder in request/response.
///
/// Left alone, the scheduler decides when a connection begins, and the decision is worth more than anything that is
/// measured: on a virtual machine with two cores, the round trip of 16 KiB takes 13 us on one core, and 40 to 70 us on two, most of
/// it spent waking the other core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Placement {
    /// The calling thread and the responder share a core: what the code costs, wake-ups of idle cores aside.
    Same,
    /// Each has a core of its own.
    Apart,
    /// As the scheduler likes.
    Free,
}

impl Placement {
    /// The processors of sender and responder.
    pub fn processors(self) -> io::Result<(Option<usize>, Option<usize>)> {
        let allowed = sched_getaffinity(None)?;
        let mut numbers = (0..CpuSet::MAX_CPU).filter(|&number| allowed.is_set(number));
        let first = numbers.next();
        Ok(match self {
            Self::Same => (first, first),
            Self::Apart => (first, numbers.next_back().or(first)),
            Self::Free => (None, None),
        })
    }
}

/// Keeps the calling thread on one processor until dropped.
pub struct Pinned {
    before: CpuSet,
}

impl Pinned {
    pub fn to(processor: usize) -> io::Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut only = CpuSet::new();
        only.set(processor);
        sched_setaffinity(None, &only)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // What was allowed before is allowed again, unless somebody else has narrowed it meanwhile.
        let _ = sched_setaffinity(None, &self.before);
    }
}
