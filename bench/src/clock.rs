//! Wall and CPU time of a stretch of work.
//!
//! The CPU figures come from the kernel's own accounting: they include the system calls made, and
//! the loopback's soft interrupts that run on top of them. The sink is a process of its own, so it is not in
//! the process figure.

use std::ops::AddAssign;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// What a stretch of work took, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elapsed {
    pub wall: u64,
    /// Of the calling thread alone (`CLOCK_THREAD_CPUTIME_ID`).
    pub caller_cpu: u64,
    /// Of every thread of this process (`CLOCK_PROCESS_CPUTIME_ID`).
    pub process_cpu: u64,
}

impl AddAssign for Elapsed {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.caller_cpu += other.caller_cpu;
        self.process_cpu += other.process_cpu;
    }
}

/// A running measurement.
pub struct Stopwatch {
    caller_cpu: u64,
    process_cpu: u64,
    wall: u64,
}

impl Stopwatch {
    pub fn start() -> Self {
        // The wall clock is read last here and first in `stop`, so that it holds none of the other two.
        let process_cpu = now(ClockId::ProcessCPUTime);
        let caller_cpu = now(ClockId::ThreadCPUTime);
        Self {
            caller_cpu,
            process_cpu,
            wall: now(ClockId::Monotonic),
        }
    }

    pub fn stop(self) -> Elapsed {
        let wall = now(ClockId::Monotonic) - self.wall;
        Elapsed {
            wall,
            caller_cpu: now(ClockId::ThreadCPUTime) - self.caller_cpu,
            process_cpu: now(ClockId::ProcessCPUTime) - self.process_cpu,
        }
    }
}

/// Nanoseconds on a clock that only moves forward.
pub fn monotonic() -> u64 {
    now(ClockId::Monotonic)
}

fn now(clock: ClockId) -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    u64::try_from(tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(tv_nsec).unwrap_or(0)
}
