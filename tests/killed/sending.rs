//! Deaths of senders.

use std::collections::HashMap;
use std::io::{PipeReader, Read};
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use uktls::aead::{Choice, RecordOpener};
use uktls::capi::*;
use uktls::sys::steps;

use crate::world::*;

/// One call of a sender.
#[derive(Clone, Copy, Debug)]
enum Call {
    /// `send`, of bytes told apart by the first value.
    Send(u8, usize),
    /// With `MSG_MORE`.
    More(u8, usize),
    /// With `MSG_DONTWAIT`.
    Hurried(u8, usize),
    /// A record of a type.
    Typed(u8, u8, usize),
    File(u8, usize),
    /// Keys of this tag.
    Rekey(u8),
    Shutdown,
    Flush,
    Close,
}

use Call::*;

impl Call {
    fn content(self) -> Stream {
        let fill = |content_type: u8, mark: u8, len: usize| {
            (0..len).map(|at| (content_type, byte(mark, at))).collect()
        };
        match self {
            Send(mark, len) | More(mark, len) | Hurried(mark, len) | File(mark, len) => {
                fill(DATA, mark, len)
            }
            Typed(content_type, mark, len) => fill(content_type, mark, len),
            Rekey(_) | Shutdown | Flush | Close => Stream::new(),
        }
    }

    fn make(self, fd: RawFd, suite: Suite) -> Result<usize, i32> {
        let bytes: Vec<u8> = self.content().iter().map(|(_, byte)| *byte).collect();
        let outcome = |done: i32| match done {
            0 => Ok(0),
            _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
        };
        match self {
            Send(..) => send(fd, &bytes, 0),
            More(..) => send(fd, &bytes, libc::MSG_MORE),
            Hurried(..) => send(fd, &bytes, libc::MSG_DONTWAIT),
            Typed(content_type, ..) => send_typed(fd, content_type, &bytes),
            File(mark, len) => send_file(fd, len, |at| byte(mark, at)),
            Rekey(tag) => set_tx_keys(fd, &suite.keys(tag)),
            Shutdown => outcome(tls_shutdown(fd, libc::SHUT_WR)),
            Flush => outcome(uktls_flush(fd, 10_000)),
            Close => outcome(uktls_close(fd)),
        }
    }
}

fn byte(mark: u8, at: usize) -> u8 {
    mark ^ (at / 5) as u8
}

/// What a process has sent: what its calls have accepted, and what may have gone out of the one that
/// it died in.
struct Part {
    accepted: Stream,
    perhaps: Stream,
}

impl Part {
    /// The lengths of `perhaps` that may have gone out: a record that is no data goes as a whole.
    fn may_have_sent(&self, len: usize) -> bool {
        let is_data = self
            .perhaps
            .first()
            .is_none_or(|(content_type, _)| *content_type == DATA);
        is_data || len == 0 || len == self.perhaps.len()
    }
}

/// A victim makes its calls.
fn victim(fd: RawFd, suite: Suite, death: Death, calls: &[Call]) -> (End, Part) {
    let (end, told) = child(death, |tell| {
        for call in calls {
            match call.make(fd, suite) {
                Ok(accepted) => tell(accepted as u64),
                Err(libc::EAGAIN) => tell(0),
                Err(errno) => panic!("{call:?}: {errno}"),
            }
        }
    });
    let mut accepted = Stream::new();
    for (call, len) in calls.iter().zip(&told) {
        accepted.extend(&call.content()[..*len as usize]);
    }
    let unfinished = calls.get(told.len()).filter(|_| end == End::Killed);
    let perhaps = unfinished.map_or_else(Stream::new, |call| call.content());
    (end, Part { accepted, perhaps })
}

/// The typed bytes of a stream that begins with the first of `keys` and goes on with the others.
fn opened(wire: &[u8], suite: Suite, keys: &[Vec<u8>]) -> Stream {
    let opener = |info: &Vec<u8>| RecordOpener::new(&parsed(info), Choice::Auto).unwrap();
    let mut openers = keys.iter().map(opener);
    let (mut current, mut number) = (openers.next().unwrap(), 0);
    let (mut typed, mut rest) = (Stream::new(), wire);
    let mut out = vec![0; 1 << 15];
    while !rest.is_empty() {
        let len = 5 + (usize::from(rest[3]) << 8 | usize::from(rest[4]));
        assert!(len <= rest.len(), "a record is cut off");
        let (content_type, plain) = loop {
            match current.open(number, &rest[..len], &mut out) {
                Ok(opened) => break opened,
                // Behind a change of keys.
                Err(_) => {
                    let next = openers.next();
                    (current, number) = (next.expect("a record does not open"), 0);
                }
            }
        };
        assert!(suite.is_tls13() || rest[0] == content_type);
        typed.extend(out[..plain].iter().map(|byte| (content_type, *byte)));
        rest = &rest[len..];
        number += 1;
    }
    typed
}

/// Whether `stream` is what the parts may have sent, in turn.
fn is_made_of(stream: &[(u8, u8)], parts: &[Part]) -> bool {
    let Some((part, others)) = parts.split_first() else {
        return stream.is_empty();
    };
    let Some(stream) = stream.strip_prefix(part.accepted.as_slice()) else {
        return false;
    };
    let most = stream
        .iter()
        .zip(&part.perhaps)
        .take_while(|(got, sent)| got == sent)
        .count();
    (0..=most)
        .rev()
        .any(|len| part.may_have_sent(len) && is_made_of(&stream[len..], others))
}

fn read_to_end(mut pipe: PipeReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    pipe.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Design rule 1, by what was sealed and not only by what went out.
fn no_number_twice(seals: &[u8]) {
    let mut sealed = HashMap::new();
    for entry in seals.as_chunks::<24>().0 {
        let [key, number, content] =
            [0, 8, 16].map(|at| u64::from_ne_bytes(*entry[at..].first_chunk().unwrap()));
        let before = *sealed.entry((key, number)).or_insert(content);
        assert_eq!(
            before, content,
            "number {number} was sealed twice, differently"
        );
    }
    assert!(!sealed.is_empty(), "nothing was watched");
}

/// What somebody does with a connection, somebody who is killed, and an heir.
#[derive(Debug)]
struct Story<'a> {
    kind: Kind,
    suite: Suite,
    before: &'a [Call],
    victim: &'a [Call],
}

/// What the heir does.
const HEIR: &[Call] = &[
    Typed(ALERT, 71, 2),
    Send(72, 5),
    More(73, 9),
    Rekey(1),
    Rekey(2),
    Typed(HANDSHAKE, 74, 40),
    Send(75, 30_000),
    Typed(ALERT, 76, 2),
];

impl Story<'_> {
    /// Tells it with this death, and that of a second victim, which finds what the first has left.
    fn tell(&self, death: Death, second: Option<(Death, &[Call])>) -> [End; 2] {
        let suite = self.suite;
        let (ours, peer) = pair(self.kind);
        let (seals, watch) = std::io::pipe().unwrap();
        steps::watch_seals(watch.as_raw_fd());
        let fd = ours.into_raw_fd();
        assert_eq!(set_tx_keys(fd, &suite.keys(0)), Ok(0));
        let mut parts = Vec::new();
        let make = |call: Call| {
            let accepted = call.content();
            assert_eq!(call.make(fd, suite)?, accepted.len(), "{call:?}");
            let perhaps = Stream::new();
            Ok(Part { accepted, perhaps })
        };
        for call in self.before {
            parts.push(make(*call).unwrap());
        }
        let mut ends = [End::Done; 2];
        let victims = [Some((death, self.victim)), second];
        for (end, (death, calls)) in ends.iter_mut().zip(victims.into_iter().flatten()) {
            let part;
            (*end, part) = victim(fd, suite, death, calls);
            parts.push(part);
        }
        let reader = std::thread::spawn(move || read_all(peer));
        let mut keys = vec![suite.keys(0)];
        let mut refused = None;
        for call in HEIR {
            match call {
                Rekey(_) if !suite.is_tls13() => {}
                Rekey(tag) => {
                    // A victim has set them or has not; they come into force once.
                    let new = suite.keys(*tag);
                    let in_force = tx_keys_in_force(fd, suite) == new;
                    assert_eq!(set_tx_keys(fd, &new).is_ok(), !in_force, "keys {tag}");
                    keys.push(new);
                }
                call => match make(*call) {
                    Ok(part) => parts.push(part),
                    Err(errno) => {
                        refused = Some(errno);
                        break;
                    }
                },
            }
        }
        match refused {
            None => {}
            Some(libc::EPIPE) => {
                let shuts = |call: &Call| matches!(call, Shutdown);
                assert!(self.victim.iter().any(shuts));
            }
            // The stream may break, in a way that the heir is told of.
            Some(errno) => {
                assert_eq!((errno, self.kind), (libc::ENOTRECOVERABLE, Kind::Unix));
                assert_eq!(uktls_close(fd), 0);
                reader.join().unwrap();
                steps::watch_seals(-1);
                drop(watch);
                no_number_twice(&read_to_end(seals));
                return ends;
            }
        }
        assert_eq!(uktls_flush(fd, 10_000), 0);
        assert_eq!(uktls_tx_pending(fd), 0);
        // Of a stream that was shut down the end comes before anybody closes.
        if refused.is_none() {
            assert_eq!(uktls_close(fd), 0);
        }
        let wire = reader.join().unwrap();
        if refused.is_some() {
            assert_eq!(uktls_close(fd), 0);
        }
        let stream = opened(&wire, suite, &keys);
        if !is_made_of(&stream, &parts) {
            let sent = |part: &Part| (runs(&part.accepted), runs(&part.perhaps));
            let sent: Vec<_> = parts.iter().map(sent).collect();
            panic!("sent {sent:?}, arrived {:?}", runs(&stream));
        }
        steps::watch_seals(-1);
        drop(watch);
        no_number_twice(&read_to_end(seals));
        ends
    }

    /// Tells it with a death at each step; says how many there are.
    fn tell_all(&self, death: fn(u64) -> Death) -> u64 {
        at_each(|step| {
            let _place = Place(format!("{self:?}, step {step}"));
            self.tell(death(step), None)[0]
        })
    }
}

/// For messages.
fn runs(stream: &[(u8, u8)]) -> Vec<(u8, u8, usize)> {
    let mut runs: Vec<(u8, u8, usize)> = Vec::new();
    for (content_type, byte) in stream {
        match runs.last_mut() {
            Some((kind, mark, len))
                if kind == content_type && crate::sending::byte(*mark, *len) == *byte =>
            {
                *len += 1
            }
            _ => runs.push((*content_type, *byte, 1)),
        }
    }
    runs
}

const WORKS: &[(&[Call], &[Call])] = &[
    (&[], &[Send(1, 5)]),
    (&[], &[Send(1, 40_000)]),
    (&[], &[More(1, 5), Send(2, 7)]),
    (&[More(9, 6)], &[More(1, 40_000)]),
    (&[], &[Typed(ALERT, 1, 2)]),
    (&[Send(8, 3), More(9, 6)], &[Typed(ALERT, 1, 2)]),
    (&[], &[More(1, 5), Typed(HANDSHAKE, 2, 300)]),
    (&[], &[File(1, 20_000)]),
    (&[More(9, 6)], &[Flush, Send(1, 5)]),
    (&[More(9, 6)], &[Close]),
    (&[], &[Send(1, 5), Shutdown]),
    (&[More(9, 6)], &[More(1, 5), Shutdown]),
];

/// The steps at which some work can be cut off: that the hooks are there.
const FEWEST: u64 = 12;

fn at_each_step(kind: Kind) {
    let _alone = alone();
    for suite in SUITES {
        for (before, victim) in WORKS {
            let steps = Story {
                kind,
                suite,
                before,
                victim,
            }
            .tell_all(Death::AtWork);
            assert!(steps >= FEWEST, "{victim:?}: {steps}");
        }
    }
}

/// MT-8.
#[test]
fn a_sender_on_tcp() {
    at_each_step(Kind::Tcp);
}

/// MT-8: where the kernel cannot tell what it has taken, the stream may also break.
#[test]
fn a_sender_on_a_unix_socket() {
    at_each_step(Kind::Unix);
}

/// MT-8: in the handlers of `fork`, too.
#[test]
fn a_child_that_has_just_begun() {
    let _alone = alone();
    for suite in SUITES {
        let (before, victim) = WORKS[5];
        let story = Story {
            kind: Kind::Tcp,
            suite,
            before,
            victim,
        };
        assert!(story.tell_all(Death::AtFork) >= FEWEST);
    }
}

/// MT-8, design rule 1.
#[test]
fn a_sender_that_changes_the_keys() {
    let _alone = alone();
    for before in [&[][..], &[More(9, 6)]] {
        let victim = &[Typed(HANDSHAKE, 24, 5), Rekey(1), Send(1, 5)];
        let story = Story {
            kind: Kind::Tcp,
            suite: SUITES[0],
            before,
            victim,
        };
        assert!(story.tell_all(Death::AtWork) >= FEWEST);
    }
}

/// MT-8: the kernel takes a part of what a victim has sealed.
#[test]
fn a_sender_whose_socket_is_full() {
    let _alone = alone();
    for suite in SUITES {
        let victim = &[Hurried(1, 60_000), Hurried(2, 60_000), Hurried(3, 60_000)];
        let story = Story {
            kind: Kind::Full,
            suite,
            before: &[More(9, 6)],
            victim,
        };
        assert!(story.tell_all(Death::AtWork) >= FEWEST);
    }
}

/// MT-8: the next one is killed as well, at each step of putting right what the first has left.
#[test]
fn a_sender_behind_a_killed_one() {
    let _alone = alone();
    let second = &[Flush];
    for work in [5, 11] {
        let (before, victim) = WORKS[work];
        let story = Story {
            kind: Kind::Tcp,
            suite: SUITES[0],
            before,
            victim,
        };
        let steps = at_each(|first| {
            let mut end = End::Killed;
            at_each(|step| {
                let _place = Place(format!(
                    "{story:?}, step {first}, then {second:?}, step {step}"
                ));
                let ends = story.tell(Death::AtWork(first), Some((Death::AtWork(step), second)));
                end = ends[0];
                ends[1]
            });
            end
        });
        assert!(steps >= FEWEST);
    }
}
