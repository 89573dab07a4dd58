//! Adaptive deferral: does this connection stream, or does it answer?
//!
//! A system call costs more than sealing a small record, so what is sent in a burst is gathered;
//! a lone message goes out in the caller's own call. The time between the program's calls decides,
//! so a call costs one reading of the clock; and before a connection is taken for a stream, the
//! kernel is asked once whether the peer has been answering: on a loopback exchange the answer can
//! be there when the send returns, and then no pause tells it from a burst.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// The rhythm of one connection's sends.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Instant>,
    streak: u32,
    /// The streak at which the kernel is asked next; doubles with every answer of the peer.
    enough: Enough,
    calls: u32,
    asked: Option<Asked>,
    bursts: Bursts,
    /// The program receives by calls that are seen: what it sends between two of them is one answer.
    /// Otherwise pauses part the answers.
    hears: bool,
}

/// What the kernel said of the peer's data when it was last asked, and after how many calls.
#[derive(Clone, Copy, Debug)]
struct Asked {
    segments: u32,
    calls: u32,
}

impl Pace {
    /// A call begins. Returns whether the connection streams: whether the calls of late came in
    /// so quick succession that another one is to be expected within microseconds.
    ///
    /// `heard` says that the program has received since its last call, or has tried to. `segments_in` is
    /// the number of segments with data that the peer has sent so far, if the
    /// kernel counts them for this socket; it is a system call and asked for once per burst.
    pub(crate) fn call(
        &mut self,
        heard: bool,
        now: impl FnOnce() -> Instant,
        segments_in: impl FnOnce() -> Option<u32>,
    ) -> bool {
        self.calls = self.calls.wrapping_add(1);
        self.hears |= heard;
        if self.hears {
            self.bursts.call(!heard);
        }
        let patience = match self.streams() {
            // Reading the clock takes a tenth of a call that does nothing but seal a short record.
            true if !self.calls.is_multiple_of(LOOK) => return true,
            true => QUICK * LOOK,
            false => QUICK,
        };
        let now = now();
        let quick = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < patience);
        self.last = Some(now);
        if !self.hears {
            self.bursts.call(quick);
        }
        self.streak = if quick {
            self.streak.saturating_add(1)
        } else {
            0
        };
        if self.streak == self.enough.0 {
            if segments_in().is_some_and(|segments| self.answers(segments)) {
                self.streak = 0;
                self.enough.0 = (self.enough.0 * 2).min(STREAK_MAX);
            } else {
                self.enough = Enough::default();
                self.streak = self.streak.max(STREAK);
            }
        }
        self.streams()
    }

    /// Whether the peer has sent about as often as we have, or it is not known yet.
    fn answers(&mut self, segments: u32) -> bool {
        let calls = self.calls;
        let before = self.asked.replace(Asked { segments, calls });
        before.is_none_or(|before| {
            let (heard, sent) = (
                segments.wrapping_sub(before.segments),
                calls.wrapping_sub(before.calls),
            );
            heard >= sent / 2
        })
    }

    /// A call ends that made a system call or slept: what it took does not count as the
    /// program's pause.
    pub(crate) fn resumed(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// The worker has seen a pause: what comes next is no part of the stream before.
    pub(crate) fn paused(&mut self) {
        self.last = None;
        self.streak = 0;
    }

    /// Whether the last call found the connection streaming.
    pub(crate) fn streams(&self) -> bool {
        self.streak >= self.enough.0
    }

    /// As if there had been many quick calls.
    #[cfg(test)]
    pub(super) fn of_a_stream() -> Pace {
        Pace {
            streak: STREAK_MAX,
            ..Pace::default()
        }
    }

    /// As if there had been many answers of `calls` calls.
    #[cfg(test)]
    pub(super) fn after_answers_of(calls: u8) -> Pace {
        Pace {
            bursts: Bursts {
                now: calls,
                usual: calls,
                alike: ALIKE,
                needed: ALIKE,
            },
            ..Pace::default()
        }
    }

    /// Whether the last call is one that the program has always followed by another at once: the
    /// head of an answer, whose body comes next.
    pub(crate) fn expects_more(&self) -> bool {
        self.bursts.expect_more()
    }
}

/// How many calls a burst has. A program that answers by a head and a body does so every time.
#[derive(Debug)]
struct Bursts {
    /// Calls of this burst so far.
    now: u8,
    /// Calls of each of the bursts before, and how many of them in a row there were.
    usual: u8,
    alike: u16,
    /// So many in a row are believed; more with every time that it was wrong.
    needed: u16,
}

impl Default for Bursts {
    fn default() -> Self {
        Bursts {
            now: 0,
            usual: 0,
            alike: 0,
            needed: ALIKE,
        }
    }
}

impl Bursts {
    fn call(&mut self, goes_on: bool) {
        if goes_on {
            self.now = self.now.saturating_add(1);
            return;
        }
        if self.now == self.usual {
            self.alike = self.alike.saturating_add(1);
        } else {
            if self.now < self.usual && self.believes() {
                self.needed = (self.needed * 4).min(ALIKE_MAX);
            }
            self.usual = self.now;
            self.alike = 1;
        }
        self.now = 1;
    }

    fn believes(&self) -> bool {
        self.alike >= self.needed && u32::from(self.usual) <= STREAK
    }

    fn expect_more(&self) -> bool {
        self.now < self.usual && self.believes()
    }
}

#[derive(Debug)]
struct Enough(u32);

impl Default for Enough {
    fn default() -> Self {
        Enough(STREAK)
    }
}

/// Pauses shorter than this belong to a burst, unless the peer answers. A request/response exchange
/// over loopback, the fastest there is, mostly leaves 4 to 5 us between the end of one send and the
/// next; a program that has its data at hand leaves a few hundred nanoseconds.
const QUICK: Duration = Duration::from_micros(2);

/// A stream's clock is read once in so many calls; the worker tells of longer pauses.
const LOOK: u32 = 4;

/// This many quick calls in a row make a burst. A response written in a few pieces (status line,
/// headers, body) stays below and is never handed to the worker.
const STREAK: u32 = 4;

/// This many bursts of the same number of calls tell how many the next one has.
const ALIKE: u16 = 4;

/// What was expected and did not come has waited for the worker: a connection on which that happens
/// over and over does not wait often.
const ALIKE_MAX: u16 = 1024;

/// The question costs a tenth of a fast exchange, so one that goes on is asked about rarely.
const STREAK_MAX: u32 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_quick_calls_are_no_stream_but_many_are() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let found: Vec<bool> = (0..8)
            .map(|call| pace.call(false, || start + Duration::from_micros(call), || None))
            .collect();
        assert_eq!(found, [false, false, false, false, true, true, true, true]);
        let later = start + Duration::from_millis(1);
        let ended = (0..LOOK).any(|_| !pace.call(false, || later, || None));
        assert!(ended);
    }

    /// An exchange in which every answer is there at once keeps the caller's own pace, and a stream
    /// that follows it is recognised.
    #[test]
    fn a_peer_that_answers_makes_no_stream() {
        let (mut pace, mut now, mut heard) = (Pace::default(), Instant::now(), 0);
        for _ in 0..1000 {
            now += Duration::from_nanos(500);
            assert!(!pace.call(false, || now, || Some(heard)));
            heard += 1;
        }
        let streamed = (0..2 * STREAK_MAX).any(|_| {
            now += Duration::from_nanos(500);
            pace.call(false, || now, || Some(heard))
        });
        assert!(streamed);
    }

    #[test]
    fn time_spent_in_a_call_is_no_pause() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..4 {
            pace.call(false, || now, || None);
            now += Duration::from_micros(100);
            pace.resumed(now);
        }
        assert!(pace.call(false, || now, || None));
    }

    /// An answer of `calls` calls, and a pause. Which of them could expect another?
    fn answer(pace: &mut Pace, now: &mut Instant, calls: u32) -> Vec<bool> {
        *now += Duration::from_millis(1);
        let expected = (0..calls).map(|_| {
            *now += Duration::from_nanos(300);
            pace.call(false, || *now, || None);
            pace.expects_more()
        });
        expected.collect()
    }

    #[test]
    fn a_head_is_known_by_the_answers_before() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..ALIKE {
            assert_eq!(answer(&mut pace, &mut now, 2), [false, false]);
        }
        for _ in 0..10 {
            assert_eq!(answer(&mut pace, &mut now, 2), [true, false]);
        }
        // One without a body; then it takes longer to be believed.
        assert_eq!(answer(&mut pace, &mut now, 1), [true]);
        for _ in 0..4 * ALIKE {
            assert_eq!(answer(&mut pace, &mut now, 2), [false, false]);
        }
        assert_eq!(answer(&mut pace, &mut now, 2), [true, false]);
    }

    #[test]
    fn answers_of_one_call_or_of_many_expect_nothing() {
        for calls in [1, STREAK + 1, 40] {
            let (mut pace, mut now) = (Pace::default(), Instant::now());
            for _ in 0..100 {
                let expected = answer(&mut pace, &mut now, calls);
                assert!(expected.iter().all(|more| !more), "{calls} calls");
            }
        }
    }

    /// Where the calls that receive are seen, it takes no clock to tell an answer from the next.
    #[test]
    fn receiving_parts_answers() {
        let (mut pace, now, mut expected) = (Pace::default(), Instant::now(), Vec::new());
        for heard in [true, false].repeat(10) {
            pace.call(heard, || now, || None);
            expected.push(pace.expects_more());
        }
        assert_eq!(
            expected[2 * ALIKE as usize + 2..],
            [true, false].repeat(10)[2 * ALIKE as usize + 2..]
        );
    }

    /// Half of what is expected never comes: it is expected ever more rarely.
    #[test]
    fn disappointment_is_remembered() {
        let (mut pace, mut now, mut waited) = (Pace::default(), Instant::now(), 0);
        for round in 0..10_000 {
            let calls = if round % 7 == 6 { 1 } else { 2 };
            let expected = answer(&mut pace, &mut now, calls);
            waited += u32::from(calls == 1 && expected[0]);
        }
        assert!(waited <= 1, "{waited}");
    }
}
