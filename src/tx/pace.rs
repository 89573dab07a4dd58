//! Adaptive deferral: does this connection stream, or does it answer?
//!
//! A system call costs more than sealing a small record, so what is sent in a burst is gathered;
//! a lone message goes out in the caller's own call. Nothing but the time between the program's
//! calls is looked at, so the decision costs one reading of the clock.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The rhythm of one connection's sends.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
    streak: u32,
}

impl Pace {
    /// A call begins. Returns whether the connection streams: whether the calls of late came in
    /// so quick succession that another one is to be expected within microseconds.
    pub(crate) fn call(&mut self, now: Instant) -> bool {
        let quick = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < QUICK);
        self.last = Some(now);
        self.streak = if quick {
            self.streak.saturating_add(1)
        } else {
            0
        };
        self.streak >= STREAK
    }

    /// A call ends that made a system call or slept: what it took does not count as the
    /// program's pause.
    pub(crate) fn resumed(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Whether the last call found the connection streaming.
    pub(crate) fn streams(&self) -> bool {
        self.streak >= STREAK
    }
}

/// Pauses shorter than this belong to a burst. A request/response exchange over loopback, the fastest
/// there is, leaves 4 to 5 us between the end of one send and the next; a program that has its data
/// at hand leaves a few hundred nanoseconds.
const QUICK: Duration = Duration::from_micros(2);

/// This many quick calls in a row make a burst. A response written in a few pieces (status line,
/// headers, body) stays below and is never handed to the worker.
const STREAK: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_quick_calls_are_no_stream_but_many_are() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let found: Vec<bool> = (0..8)
            .map(|call| pace.call(start + Duration::from_micros(call)))
            .collect();
        assert_eq!(found, [false, false, false, false, true, true, true, true]);
        assert!(!pace.call(start + Duration::from_millis(1)));
    }

    #[test]
    fn time_spent_in_a_call_is_no_pause() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..4 {
            pace.call(now);
            now += Duration::from_micros(100);
            pace.resumed(now);
        }
        assert!(pace.call(now));
    }
}
