//! Deaths of receivers.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec};
use uktls::aead::{Choice, RecordSealer};
use uktls::capi::*;
use uktls::record::RecordNumbers;

use crate::world::*;

/// One call of a receiver.
#[derive(Clone, Copy, Debug)]
enum Call {
    Receive(usize),
    Peek(usize),
    /// With `MSG_DONTWAIT`.
    Try(usize),
    /// Keys of this tag.
    Rekey(u8),
}

use Call::*;

/// A record that the peer sends: type and plaintext bytes, or the keys of the next ones.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Record(u8, usize),
    KeyUpdate(u8),
}

use Sent::*;

/// The peer: seals, and remembers what.
struct Peer {
    suite: Suite,
    sealer: RecordSealer,
    numbers: RecordNumbers,
    sent: Stream,
}

impl Peer {
    fn new(suite: Suite) -> Peer {
        let keys = parsed(&suite.keys(0));
        Peer {
            suite,
            sealer: RecordSealer::new(&keys, Choice::Auto).unwrap(),
            numbers: keys.numbers(),
            sent: Stream::new(),
        }
    }

    fn seal(&mut self, what: Sent) -> Vec<u8> {
        let (content_type, plain) = match what {
            Record(content_type, len) => {
                let from = self.sent.len();
                let plain = (from..from + len)
                    .map(|at| ((at as u32).wrapping_mul(2_654_435_761) >> 13) as u8)
                    .collect();
                (content_type, plain)
            }
            KeyUpdate(_) => (HANDSHAKE, vec![24, 0, 0, 1, 0]),
        };
        self.sent
            .extend(plain.iter().map(|byte| (content_type, *byte)));
        let mut record = vec![0; plain.len() + self.sealer.overhead()];
        let number = self.numbers.reserve().unwrap();
        self.sealer
            .seal_from(number, content_type, &plain, &mut record)
            .unwrap();
        if let KeyUpdate(tag) = what {
            let keys = parsed(&self.suite.keys(tag));
            self.sealer = RecordSealer::new(&keys, Choice::Auto).unwrap();
            self.numbers = keys.numbers();
        }
        record
    }
}

#[derive(Debug)]
struct Story<'a> {
    kind: Kind,
    suite: Suite,
    sent: &'a [Sent],
    /// Bytes that come only when the victims are dead.
    late: usize,
    victim: &'a [Call],
}

/// A victim makes its calls; `sent` is what has to come, where that is known. Says how many bytes it
/// has got for certain, and how many more it may have got.
fn victim(
    fd: &OwnedFd,
    story: &Story<'_>,
    death: Death,
    calls: &[Call],
    sent: Option<&[(u8, u8)]>,
) -> (End, [usize; 2]) {
    let fd = fd.as_raw_fd();
    let (end, told) = child(death, |tell| {
        let mut at = 0;
        for call in calls {
            let got = match *call {
                Receive(len) => receive(fd, len, 0),
                Peek(len) => receive(fd, len, libc::MSG_PEEK),
                Try(len) => receive(fd, len, libc::MSG_DONTWAIT),
                Rekey(tag) => set_rx_keys(fd, &story.suite.keys(tag)).map(|_| Stream::new()),
            };
            let got = match got {
                Ok(got) => got,
                Err(libc::EAGAIN) if matches!(call, Try(_)) => Stream::new(),
                // What the one before has done or has broken.
                Err(_) if sent.is_none() => return,
                Err(errno) => panic!("{call:?}: {errno}"),
            };
            assert!(
                sent.is_none_or(|sent| sent[at..].starts_with(&got)),
                "{call:?}"
            );
            let taken = if matches!(call, Peek(_)) {
                0
            } else {
                got.len()
            };
            at += taken;
            tell(taken as u64);
        }
    });
    let certain: u64 = told.iter().sum();
    let perhaps = match calls.get(told.len()) {
        Some(Receive(len) | Try(len)) if end == End::Killed => *len,
        _ => 0,
    };
    (end, [certain as usize, perhaps])
}

impl Story<'_> {
    fn tell(&self, death: Death, second: Option<Death>) -> [End; 2] {
        let mut peer = Peer::new(self.suite);
        let (peers, ours) = pair(self.kind);
        assert_eq!(set_rx_keys(ours.as_raw_fd(), &self.suite.keys(0)), Ok(0));
        let mut wire: Vec<u8> = self.sent.iter().flat_map(|what| peer.seal(*what)).collect();
        let late = wire.split_off(wire.len() - self.late);
        let peers = File::from(peers);
        // In a thread: it may be more than the socket takes.
        let write = |bytes: Vec<u8>| {
            let mut peers = peers.try_clone().unwrap();
            std::thread::spawn(move || peers.write_all(&bytes))
        };
        let early = write(wire);
        let (mut certain, mut perhaps) = (0, 0);
        let mut ends = [End::Done; 2];
        let mut sent = Some(peer.sent.as_slice());
        let victims = [
            Some((death, self.victim)),
            second.map(|death| (death, SECOND)),
        ];
        for (end, (death, calls)) in ends.iter_mut().zip(victims.into_iter().flatten()) {
            let got;
            (*end, got) = victim(&ours, self, death, calls, sent);
            certain += got[0];
            perhaps += got[1];
            sent = None;
        }
        let mut heir = Heir {
            story: self,
            fd: ours,
            got: Stream::new(),
            is_broken: false,
        };
        if self.kind == Kind::Tcp {
            // The heir sees nothing before all is there.
            early.join().unwrap().unwrap();
            (&peers).write_all(&late).unwrap();
            while is_under_way(&peers) {
                std::thread::yield_now();
            }
            heir.receive_all_there_is();
        } else {
            heir.take_from(&peers, early);
            heir.take_from(&peers, write(late));
        }
        // What comes now wakes the heir: the low-water mark is as it must be, whoever set it last.
        let one_more = peer.seal(Record(DATA, 1));
        if !heir.is_broken {
            (&peers).write_all(&one_more).unwrap();
            heir.expect_readable();
        }
        drop(peers);
        while heir.receive(0) {}
        if heir.is_broken {
            assert_eq!(self.kind, Kind::Unix, "the kernel can tell, of TCP");
        }
        let goes_on_at = |from: usize| {
            let rest = &peer.sent[from.min(peer.sent.len())..];
            rest == heir.got || heir.is_broken && rest.starts_with(&heir.got)
        };
        assert!(
            (certain..=certain + perhaps).any(goes_on_at),
            "{certain} bytes or up to {perhaps} more are gone, {} of {} come",
            heir.got.len(),
            peer.sent.len(),
        );
        assert_eq!(uktls_close(heir.fd.into_raw_fd()), 0);
        ends
    }
}

/// Who goes on.
struct Heir<'a> {
    story: &'a Story<'a>,
    fd: OwnedFd,
    got: Stream,
    is_broken: bool,
}

impl Heir<'_> {
    /// Receives some bytes. `false`: there are none, at the end or without waiting.
    fn receive(&mut self, flags: i32) -> bool {
        let fd = self.fd.as_raw_fd();
        match receive(fd, 7000, flags) {
            Ok(got) => {
                self.got.extend(&got);
                !got.is_empty()
            }
            Err(libc::EAGAIN) if flags & libc::MSG_DONTWAIT != 0 => false,
            Err(libc::EKEYEXPIRED) => {
                let update = |what: &Sent| match what {
                    KeyUpdate(tag) => Some(*tag),
                    Record(..) => None,
                };
                let tag = self.story.sent.iter().find_map(update).unwrap();
                assert_eq!(set_rx_keys(fd, &self.story.suite.keys(tag)), Ok(0));
                true
            }
            Err(libc::ENOTRECOVERABLE) => {
                self.is_broken = true;
                false
            }
            Err(errno) => panic!("{errno}"),
        }
    }

    /// Receives what the thread writes.
    fn take_from(&mut self, peers: &File, writer: JoinHandle<std::io::Result<()>>) {
        while !self.is_broken && (!writer.is_finished() || is_under_way(peers)) {
            self.receive_all_there_is();
            std::thread::yield_now();
        }
        if self.is_broken {
            // Nobody takes the rest.
            rustix::net::shutdown(&self.fd, rustix::net::Shutdown::Both).unwrap();
        }
        assert!(writer.join().unwrap().is_ok() || self.is_broken);
        self.receive_all_there_is();
    }

    fn receive_all_there_is(&mut self) {
        while self.receive(libc::MSG_DONTWAIT) {}
    }

    /// By the kernel's own `poll`.
    fn expect_readable(&self) {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let long = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        let ready = rustix::event::poll(&mut fds, Some(&long));
        assert!(ready == Ok(1) || self.is_broken, "nobody is woken");
    }
}

/// Whether the socket has bytes that the other side's does not have.
fn is_under_way(peers: &File) -> bool {
    let mut bytes = 0;
    #[expect(
        clippy::disallowed_methods,
        reason = "a plain socket, and nothing is preloaded"
    )]
    // SAFETY: `bytes` is an int of ours.
    let done = unsafe { libc::ioctl(peers.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    assert_eq!(done, 0);
    bytes > 0
}

/// The steps at which the least work can be cut off.
const FEWEST: u64 = 5;

/// What a second victim does.
const SECOND: &[Call] = &[Try(50), Try(50)];

/// What is sent, the bytes of it that come late, what the victim does.
const WORKS: &[(&[Sent], usize, &[Call])] = &[
    (&[Record(DATA, 100)], 0, &[Receive(40), Receive(60)]),
    (
        &[Record(DATA, 100), Record(DATA, 16384), Record(DATA, 50)],
        0,
        &[Receive(9000), Receive(7534)],
    ),
    (
        &[Record(DATA, 10), Record(ALERT, 2), Record(DATA, 30)],
        0,
        &[Receive(100), Receive(100), Receive(100)],
    ),
    (
        &[Record(DATA, 10), Record(DATA, 20)],
        0,
        &[Peek(15), Receive(5), Peek(15)],
    ),
    // The victim sees the head of a record, and how much it needs.
    (&[Record(DATA, 5000)], 1000, &[Try(100)]),
    (
        &[Record(DATA, 30), Record(DATA, 5000)],
        1000,
        &[Receive(30), Try(100)],
    ),
];

const REKEY: (&[Sent], usize, &[Call]) = (
    &[Record(DATA, 10), KeyUpdate(1), Record(DATA, 30)],
    0,
    &[Receive(100), Peek(100), Receive(100), Rekey(1), Receive(20)],
);

fn at_each_step(kind: Kind) {
    let _alone = alone();
    for suite in SUITES {
        for (sent, late, victim) in WORKS.iter().chain(suite.is_tls13().then_some(&REKEY)) {
            let (sent, late) = (*sent, *late);
            let story = Story {
                kind,
                suite,
                sent,
                late,
                victim,
            };
            let steps = at_each(|step| {
                let _place = Place(format!("{story:?}, step {step}"));
                story.tell(Death::AtWork(step), None)[0]
            });
            assert!(steps >= FEWEST, "{story:?}: {steps}");
        }
    }
}

/// MT-8.
#[test]
fn a_receiver_on_tcp() {
    at_each_step(Kind::Tcp);
}

/// MT-8: records do not fit the receive buffer, and so are taken out of it piece by piece.
#[test]
fn a_receiver_whose_socket_is_full() {
    at_each_step(Kind::Full);
}

/// MT-8: where the kernel cannot tell what was read, the stream may also break.
#[test]
fn a_receiver_on_a_unix_socket() {
    at_each_step(Kind::Unix);
}

/// MT-8: the next one is killed as well, at each step of putting right what the first has left.
#[test]
fn a_receiver_behind_a_killed_one() {
    let _alone = alone();
    let taken_out: (&[Sent], usize, &[Call]) = (&[Record(DATA, 6000)], 0, &[Receive(6000)]);
    for (kind, (sent, late, victim)) in [(Kind::Tcp, WORKS[0]), (Kind::Full, taken_out)] {
        let story = Story {
            kind,
            suite: SUITES[0],
            sent,
            late,
            victim,
        };
        let steps = at_each(|first| {
            let mut end = End::Killed;
            at_each(|step| {
                let _place = Place(format!("{story:?}, step {first}, then step {step}"));
                let ends = story.tell(Death::AtWork(first), Some(Death::AtWork(step)));
                end = ends[0];
                ends[1]
            });
            end
        });
        assert!(steps >= FEWEST);
    }
}
