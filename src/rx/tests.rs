//! Property tests: whatever records come, in whatever pieces, and whatever is asked for, what is
//! delivered is exactly what was sent, in order, by the rules of a kTLS socket; and the socket is
//! readable when there is something to be had, and not when there is not (design rule 4).

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use rustix::io::Errno;

use super::*;
use crate::aead::RecordSealer;
use crate::crypto_info::{CryptoInfo, expected_len};
use crate::error::Error;
use crate::record::RecordNumbers;
use crate::sys::receive::Ready;
use crate::sys::scatter::Destination;
use core::result::Result;

/// A kernel whose receive queue fills as the test says.
#[derive(Default)]
struct FakeSys(Mutex<FakeSocket>);

#[derive(Default)]
struct FakeSocket {
    queue: VecDeque<u8>,
    /// On its way.
    arriving: VecDeque<u8>,
    /// What the queue has room for; 0: everything.
    room: usize,
    mark: usize,
    consumed: u64,
    eof: bool,
    error: Option<Errno>,
    blocking: bool,
    /// The pipe of a splice: what it holds, and how much more it takes.
    pipe: Vec<u8>,
    pipe_room: usize,
}

impl FakeSocket {
    fn arrive(&mut self, len: usize) {
        let room = match self.room {
            0 => usize::MAX,
            room => room - self.queue.len().min(room),
        };
        let len = len.min(room).min(self.arriving.len());
        self.queue.extend(self.arriving.drain(..len));
    }
    fn ended(&self) -> bool {
        self.eof && self.arriving.is_empty()
    }
    /// `POLLIN`, as the kernel has it.
    fn readable(&self) -> bool {
        let full = self.room != 0 && self.queue.len() >= self.room;
        self.ended() || self.error.is_some() || full || self.queue.len() >= self.mark.max(1)
    }
}

impl Receive for FakeSys {
    fn peek(&self, _: RawFd, out: &mut [u8]) -> Result<usize, Errno> {
        let mut socket = self.0.lock().unwrap();
        if socket.queue.is_empty() {
            return match socket.error.take() {
                Some(errno) => Err(errno),
                None if socket.ended() => Ok(0),
                None => Err(Errno::AGAIN),
            };
        }
        let len = out.len().min(socket.queue.len());
        for (to, from) in out.iter_mut().zip(&socket.queue) {
            *to = *from;
        }
        Ok(len)
    }
    fn take(&self, fd: RawFd, out: &mut [u8]) -> Result<usize, Errno> {
        let len = self.peek(fd, out)?;
        self.discard(fd, len)
    }
    fn discard(&self, _: RawFd, len: usize) -> Result<usize, Errno> {
        let mut socket = self.0.lock().unwrap();
        assert!(len <= socket.queue.len(), "more is dropped than is there");
        socket.queue.drain(..len);
        socket.consumed += len as u64;
        Ok(len)
    }
    fn set_low_water(&self, _: RawFd, bytes: usize) {
        let mut socket = self.0.lock().unwrap();
        let cap = match socket.room {
            0 => 3 << 20,
            room => room / 2,
        };
        socket.mark = bytes.min(cap);
    }
    fn wait(&self, _: RawFd, timeout: Option<Duration>) -> Result<Ready, Errno> {
        let mut socket = self.0.lock().unwrap();
        if timeout != Some(Duration::ZERO) && !socket.readable() {
            assert!(
                socket.eof || !socket.arriving.is_empty(),
                "a call sleeps for ever"
            );
            socket.arrive(977);
        }
        Ok(Ready {
            readable: socket.readable(),
            ended: socket.ended(),
            error: socket.error.take(),
        })
    }
    fn is_nonblocking(&self, _: RawFd) -> bool {
        !self.0.lock().unwrap().blocking
    }
    fn receive_timeout(&self, _: RawFd) -> Option<Duration> {
        None
    }
    fn handlers_restart(&self) -> bool {
        true
    }
    fn consumed(&self, _: RawFd) -> Option<u64> {
        Some(self.0.lock().unwrap().consumed)
    }
    fn fill_pipe(&self, _: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        let mut socket = self.0.lock().unwrap();
        let len = bytes.len().min(socket.pipe_room);
        if len == 0 {
            return Err(Errno::AGAIN);
        }
        socket.pipe_room -= len;
        socket.pipe.extend_from_slice(&bytes[..len]);
        Ok(len)
    }
    fn wait_for_pipe(&self, _: RawFd) -> Result<(), Errno> {
        self.0.lock().unwrap().pipe_room += 4096;
        Ok(())
    }
}

/// The sending side, and what it has sent.
struct Peer {
    sealer: RecordSealer,
    numbers: RecordNumbers,
    sent: VecDeque<(u8, Vec<u8>)>,
    is_tls13: bool,
}

impl Peer {
    fn new(info: &[u8]) -> Peer {
        let keys = CryptoInfo::parse(info).unwrap();
        Peer {
            sealer: RecordSealer::new(&keys, Choice::Auto).unwrap(),
            numbers: keys.numbers(),
            sent: VecDeque::new(),
            is_tls13: keys.version == Version::Tls13,
        }
    }
    fn record(&mut self, content_type: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let number = self.numbers.reserve().unwrap();
        let padding = padding.min(crate::record::MAX_PLAINTEXT - content.len());
        let mut plain = content.to_vec();
        let mut inner = content_type;
        if self.is_tls13 && padding > 0 {
            // The sealer's own type byte becomes the last byte of the padding.
            plain.push(content_type);
            plain.resize(content.len() + padding, 0);
            inner = 0;
        }
        let mut out = vec![0; plain.len() + self.sealer.overhead()];
        self.sealer
            .seal_from(number, inner, &plain, &mut out)
            .unwrap();
        out
    }
    fn send(&mut self, sys: &FakeSys, content_type: u8, content: &[u8], padding: usize) {
        let wire = self.record(content_type, content, padding);
        sys.0.lock().unwrap().arriving.extend(wire);
        self.sent.push_back((content_type, content.to_vec()));
    }
}

fn info(version: Version, cipher: Cipher, seed: u8) -> Vec<u8> {
    let mut info: Vec<u8> = (0..expected_len(cipher)).map(|i| i as u8 ^ seed).collect();
    info[..2].copy_from_slice(&version.code().to_ne_bytes());
    info[2..4].copy_from_slice(&cipher.id().to_ne_bytes());
    let at = info.len() - 8;
    info[at..].copy_from_slice(&u64::from(seed).to_be_bytes());
    info
}

fn setup(info: &[u8]) -> (&'static FakeSys, Arc<Receiver>) {
    let sys: &'static FakeSys = Box::leak(Box::default());
    let keys = CryptoInfo::parse(info).unwrap();
    let receiver = Receiver::new(sys, 0, keys, Choice::Auto, Arc::default(), 1).unwrap();
    (sys, receiver)
}

/// One receive into `pieces` segments: the result, the bytes, and what else it told.
fn receive(
    receiver: &Receiver,
    len: usize,
    pieces: usize,
    request: Request,
) -> (crate::error::Result<usize>, Vec<u8>, Received) {
    let mut memory = vec![0xee; len];
    let segments: Vec<(usize, usize)> = memory
        .chunks_mut(len.div_ceil(pieces).max(1))
        .map(|piece| (piece.as_mut_ptr().expose_provenance(), piece.len()))
        .collect();
    let mut received = Received::default();
    // The memory outlives the destination, and is not used meanwhile.
    let mut out = lend(&segments);
    let result = receiver.receive(&mut out, request, &mut received);
    let filled = received.len;
    // A record that fails is wiped from where it was opened to.
    let left = if result.is_err() {
        [0, 0xee]
    } else {
        [0xee; 2]
    };
    assert!(
        memory[filled..].iter().all(|byte| left.contains(byte)),
        "CI-18, RX-57: memory behind what was received is disturbed"
    );
    memory.truncate(filled);
    (result, memory, received)
}

fn lend(segments: &[(usize, usize)]) -> Destination<'_> {
    Destination::lent(segments)
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        kind: u8,
        len: usize,
        padding: usize,
    },
    Arrive(usize),
    Receive {
        len: usize,
        pieces: usize,
        peek: bool,
        can_tell: bool,
    },
    Splice {
        len: usize,
    },
    Rekey,
    Poll,
    /// Another process gets the connection.
    Fork,
    /// This one goes on, of those that have it.
    Switch(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![Just(0usize), 1usize..100, 1usize..5000, Just(16384)];
    let asked = prop_oneof![1usize..50, 1usize..20_000, Just(16384), Just(70_000)];
    prop_oneof![
        5 => (prop_oneof![6 => Just(23u8), 1 => Just(21u8), 1 => Just(22)], len, 0usize..200)
            .prop_map(|(kind, len, padding)| Step::Send { kind, len, padding: padding.saturating_sub(150) }),
        5 => prop_oneof![1usize..30, 1usize..20_000, Just(1usize << 20)].prop_map(Step::Arrive),
        6 => (asked.clone(), 1usize..4, any::<bool>(), any::<bool>())
            .prop_map(|(len, pieces, peek, can_tell)| Step::Receive { len, pieces, peek, can_tell }),
        1 => asked.prop_map(|len| Step::Splice { len }),
        1 => Just(Step::Rekey),
        1 => Just(Step::Poll),
        1 => Just(Step::Fork),
        3 => (0usize..4).prop_map(Step::Switch),
    ]
}

/// What a call should bring, by the records that were sent.
struct Model {
    /// Records not completely delivered: content type, content, bytes on the wire.
    records: VecDeque<(u8, Vec<u8>)>,
    at: usize,
}

impl Model {
    /// Checks data or a control record that was delivered, and passes it unless it was peeked.
    fn take(&mut self, content_type: u8, bytes: &[u8], peek: bool) {
        let (mut index, mut at, mut rest) = (0, self.at, bytes);
        loop {
            // An empty data record in front is passed unseen (RX-36).
            let Some((kind, content)) = self.records.get(index) else {
                assert!(rest.is_empty(), "more delivered than was sent");
                break;
            };
            if *kind != content_type {
                assert!(
                    rest.is_empty(),
                    "a record of another type is merged (RX-11)"
                );
                break;
            }
            let len = rest.len().min(content.len() - at);
            assert_eq!(rest[..len], content[at..at + len], "bytes differ");
            (rest, at) = (&rest[len..], at + len);
            if at < content.len() {
                break;
            }
            if rest.is_empty() && (content_type != 23 || !content.is_empty()) {
                (index, at) = (index + 1, 0);
                break;
            }
            assert!(
                content_type == 23 || rest.is_empty(),
                "RX-12: control records are merged"
            );
            if rest.is_empty() {
                break;
            }
            (index, at) = (index + 1, 0);
        }
        if !peek {
            self.records.drain(..index);
            self.at = at;
        }
    }
    fn skip_empty(&mut self) {
        while self
            .records
            .front()
            .is_some_and(|(kind, content)| *kind == 23 && content.is_empty())
        {
            self.records.pop_front();
            self.at = 0;
        }
    }
}

fn run(version: Version, cipher: Cipher, room: usize, steps: &[Step]) {
    let mut seed = 0;
    let first = info(version, cipher, seed);
    let (sys, receiver) = setup(&first);
    let mut processes = vec![Arc::clone(&receiver)];
    let mut receiver = receiver;
    sys.0.lock().unwrap().room = room;
    let mut peer = Peer::new(&first);
    let mut model = Model {
        records: VecDeque::new(),
        at: 0,
    };
    let mut fill = 0u8;
    for step in steps {
        match *step {
            Step::Send { kind, len, padding } => {
                fill = fill.wrapping_add(1);
                let mut content: Vec<u8> = (0..len).map(|i| fill ^ (i / 9) as u8).collect();
                if kind == 22 && content.first() == Some(&24) {
                    // A KeyUpdate is `Step::Rekey`'s.
                    content[0] = 0;
                }
                peer.send(sys, kind, &content, padding);
            }
            Step::Arrive(len) => sys.0.lock().unwrap().arrive(len),
            Step::Fork => {
                // Refused where data that was peeked at is in the parent's memory only.
                if processes.len() < 4 && receiver.before_fork().is_ok() {
                    processes.push(receiver.in_child(Arc::default()).unwrap());
                }
            }
            Step::Switch(to) => receiver = Arc::clone(&processes[to % processes.len()]),
            Step::Rekey if version == Version::Tls13 => {
                // Everything before it is read, then the KeyUpdate, then the new keys.
                rekey(sys, &receiver, &mut peer, &mut model, &mut seed, cipher);
            }
            Step::Rekey => {}
            Step::Poll => {
                let told = receiver.readiness().readable;
                let kernel = sys.0.lock().unwrap().readable();
                let kept = lock(&receiver.state).has_opened();
                assert!(!told || kernel || (kept && room > 0), "RX-47");
            }
            Step::Splice { len } => {
                model.records.extend(peer.sent.drain(..));
                sys.0.lock().unwrap().pipe_room = 5000;
                match receiver.splice(1, len, true) {
                    Ok(moved) => {
                        let pipe = core::mem::take(&mut sys.0.lock().unwrap().pipe);
                        assert!(moved == pipe.len() && moved > 0 && moved <= len);
                        model.skip_empty();
                        model.take(23, &pipe, false);
                    }
                    Err(Error::Invalid) => {
                        model.skip_empty();
                        assert_ne!(model.records[0].0, 23, "RX-43");
                    }
                    Err(Error::WouldBlock) => {}
                    Err(error) => panic!("{step:?}: {error}"),
                }
            }
            Step::Receive {
                len,
                pieces,
                peek,
                can_tell,
            } => {
                model.records.extend(peer.sent.drain(..));
                let request = Request {
                    peek,
                    can_tell,
                    ..Request::default()
                };
                let (result, bytes, received) = receive(&receiver, len, pieces, request);
                match result {
                    Ok(len) => {
                        assert_eq!(len, bytes.len());
                        let kind = received.content_type.expect("there is no end of stream");
                        assert!(can_tell || kind == 23, "RX-15");
                        if !peek && len == 0 && kind == 23 {
                            // RX-39.
                            model.skip_empty();
                            assert_ne!(model.records[0].0, 23);
                        }
                        if kind != 23 {
                            // Passed by a call that found nothing behind them.
                            model.skip_empty();
                        }
                        model.take(kind, &bytes, peek);
                    }
                    Err(Error::WouldBlock) => {
                        // RX-37: but for empty records that were peeked at.
                        let kept = lock(&receiver.state).has_opened();
                        let readable = sys.0.lock().unwrap().readable();
                        assert!(kept || !readable, "EAGAIN, and the socket is readable");
                    }
                    Err(Error::ControlRecord) => {
                        model.skip_empty();
                        assert!(!can_tell && model.records[0].0 != 23, "RX-15");
                    }
                    Err(error) => panic!("{step:?}: {error}"),
                }
            }
        }
    }
    finish(sys, &receiver, &mut peer, &mut model);
}

/// Reads all that was sent, blocking.
fn finish(sys: &FakeSys, receiver: &Receiver, peer: &mut Peer, model: &mut Model) {
    model.records.extend(peer.sent.drain(..));
    sys.0.lock().unwrap().blocking = true;
    while model
        .records
        .iter()
        .any(|(kind, content)| *kind != 23 || !content.is_empty())
    {
        let request = Request {
            can_tell: true,
            ..Request::default()
        };
        let (result, bytes, received) = receive(receiver, 6000, 1, request);
        result.unwrap();
        let kind = received.content_type.expect("there is no end of stream");
        if kind != 23 || bytes.is_empty() {
            // RX-39: empty data in front of a control record ends a call of its own.
            model.skip_empty();
        }
        model.take(kind, &bytes, false);
    }
    sys.0.lock().unwrap().blocking = false;
}

fn rekey(
    sys: &FakeSys,
    receiver: &Receiver,
    peer: &mut Peer,
    model: &mut Model,
    seed: &mut u8,
    cipher: Cipher,
) {
    peer.send(sys, 22, &[24, 0, 0, 1, 0], 0);
    finish(sys, receiver, peer, model);
    let expired = Err(Error::KeyExpired);
    assert_eq!(
        receive(receiver, 10, 1, Request::default()).0,
        expired,
        "RK-8"
    );
    *seed = seed.wrapping_add(1);
    let new = info(Version::Tls13, cipher, *seed);
    *peer = Peer::new(&new);
    // What comes before the keys are set waits, and wakes nobody (RK-9, RK-10).
    peer.send(sys, 23, b"queued", 0);
    sys.0.lock().unwrap().arrive(usize::MAX);
    assert_eq!(receiver.splice(1, 10, true), expired, "RK-8");
    if sys.0.lock().unwrap().room == 0 {
        assert!(!sys.0.lock().unwrap().readable(), "RK-9");
    }
    receiver.rekey(|| CryptoInfo::parse(&new)).unwrap();
    if sys.0.lock().unwrap().arriving.is_empty() {
        assert!(sys.0.lock().unwrap().readable(), "RK-10");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// RX-8 to RX-12, RX-15, RX-31, RX-36 to RX-49, RK-6 to RK-11, REC-9.
    #[test]
    fn what_was_sent_is_delivered(
        version in prop_oneof![Just(Version::Tls12), Just(Version::Tls13)],
        cipher in prop_oneof![Just(Cipher::AesGcm128), Just(Cipher::ChaCha20Poly1305),
                              Just(Cipher::AesCcm128)],
        room in prop_oneof![3 => Just(0usize), 1 => Just(2304), 1 => Just(8192)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        run(version, cipher, room, &steps);
    }
}

fn tls13() -> Vec<u8> {
    info(Version::Tls13, Cipher::AesGcm128, 0)
}

fn asks() -> Request {
    Request {
        can_tell: true,
        ..Request::default()
    }
}

/// RX-40: the sequences of empty and non-empty records.
#[test]
fn empty_records() {
    type Expected = &'static [Result<(usize, u8), Error>];
    const AGAIN: Result<(usize, u8), Error> = Err(Error::WouldBlock);
    let rows: [(&str, Expected); 8] = [
        ("DDD", &[Ok((33, 23)), AGAIN]),
        ("DcD", &[Ok((11, 23)), Ok((0, 21)), Ok((11, 23)), AGAIN]),
        ("ddd", &[AGAIN]),
        ("ddC", &[Ok((0, 23)), Ok((11, 21)), AGAIN]),
        ("ddc", &[Ok((0, 23)), Ok((0, 21)), AGAIN]),
        ("ccc", &[Ok((0, 21)), Ok((0, 21)), Ok((0, 21)), AGAIN]),
        ("ddD", &[Ok((11, 23)), AGAIN]),
        ("Ddd", &[Ok((11, 23)), AGAIN]),
    ];
    for (records, expected) in rows {
        for version in [Version::Tls12, Version::Tls13] {
            let info = info(version, Cipher::AesGcm128, 0);
            let (sys, receiver) = setup(&info);
            let mut peer = Peer::new(&info);
            for letter in records.chars() {
                let kind = if letter.eq_ignore_ascii_case(&'d') {
                    23
                } else {
                    21
                };
                let content: &[u8] = if letter.is_uppercase() {
                    b"hello world"
                } else {
                    b""
                };
                peer.send(sys, kind, content, 0);
            }
            sys.0.lock().unwrap().arrive(usize::MAX);
            for expected in expected {
                let (result, _, received) = receive(&receiver, 100, 1, asks());
                let found = result.map(|len| (len, received.content_type.unwrap()));
                assert_eq!(found, *expected, "{records} {version:?}");
            }
        }
    }
}

/// RX-3, RX-4: which header is refused how; once, then EAGAIN for who does not wait, and again for
/// who would wait for ever. Sends are refused meanwhile (TX-35).
#[test]
fn bad_headers() {
    for (header, errno) in [
        ([23, 3, 3, 0xff, 0xff], Errno::MSGSIZE),
        ([23, 3, 3, 0, 15], Errno::BADMSG),
        ([23, 3, 1, 0, 40], Errno::INVAL),
        ([23, 9, 9, 0xff, 0xff], Errno::MSGSIZE),
        ([20, 3, 3, 0, 1], Errno::BADMSG),
    ] {
        let (sys, receiver) = setup(&tls13());
        let mut peer = Peer::new(&tls13());
        peer.send(sys, 23, b"good", 0);
        sys.0
            .lock()
            .unwrap()
            .arriving
            .extend(header.iter().chain(&[7; 60]));
        sys.0.lock().unwrap().arrive(usize::MAX);
        // RX-21: what is good comes first.
        assert_eq!(receive(&receiver, 100, 1, asks()).1, b"good");
        let refused = Err(Error::from(errno));
        assert_eq!(receive(&receiver, 100, 1, asks()).0, refused, "{header:x?}");
        assert_eq!(receive(&receiver, 100, 1, asks()).0, Err(Error::WouldBlock));
        assert!(
            !sys.0.lock().unwrap().readable(),
            "nobody is woken for it again"
        );
        sys.0.lock().unwrap().blocking = true;
        assert_eq!(receive(&receiver, 100, 1, asks()).0, refused, "LIM-7");
    }
}

/// RX-20: a record that is not authentic fails every time, and keeps the socket readable.
#[test]
fn bad_records_stay() {
    for version in [Version::Tls12, Version::Tls13] {
        let info = info(version, Cipher::AesGcm128, 0);
        let (sys, receiver) = setup(&info);
        let mut peer = Peer::new(&info);
        let mut wire = peer.record(23, b"spoiled", 0);
        *wire.last_mut().unwrap() ^= 1;
        sys.0.lock().unwrap().arriving.extend(wire);
        sys.0.lock().unwrap().arrive(usize::MAX);
        let before = STATS.decrypt_error.get();
        for _ in 0..3 {
            let (result, bytes, _) = receive(&receiver, 100, 1, asks());
            assert_eq!((result, bytes), (Err(Error::SealFailed), Vec::new()));
            assert!(sys.0.lock().unwrap().readable());
            assert!(receiver.readiness().error, "RX-51");
        }
        assert_eq!(receiver.splice(1, 10, true), Err(Error::SealFailed));
        assert!(STATS.decrypt_error.get() >= before + 4, "ST-3");
        assert_eq!(receiver.info().unwrap().number.rec_seq, 0, "not counted");
    }
}

/// RX-25: the end inside a record looks like the end. RX-24: after a reset, what is complete, then
/// the error, then the end.
#[test]
fn ends_of_the_stream() {
    let (sys, receiver) = setup(&tls13());
    let mut peer = Peer::new(&tls13());
    peer.send(sys, 23, b"whole", 0);
    let part = peer.record(23, b"not whole", 0);
    sys.0
        .lock()
        .unwrap()
        .arriving
        .extend(&part[..part.len() - 1]);
    sys.0.lock().unwrap().arrive(usize::MAX);
    sys.0.lock().unwrap().eof = true;
    assert_eq!(receive(&receiver, 100, 1, asks()).1, b"whole");
    for blocking in [false, true, false] {
        sys.0.lock().unwrap().blocking = blocking;
        assert_eq!(receive(&receiver, 100, 1, asks()).0, Ok(0));
    }

    let (sys, receiver) = setup(&tls13());
    Peer::new(&tls13()).send(sys, 23, b"whole", 0);
    sys.0.lock().unwrap().arrive(usize::MAX);
    sys.0.lock().unwrap().error = Some(Errno::CONNRESET);
    assert_eq!(receive(&receiver, 100, 1, asks()).1, b"whole");
    let reset = Err(Error::Os(Errno::CONNRESET));
    assert_eq!(receive(&receiver, 100, 1, asks()).0, reset);
    sys.0.lock().unwrap().eof = true;
    assert_eq!(receive(&receiver, 100, 1, asks()).0, Ok(0));
}

/// REC-14: the record with the last number is delivered, and no other.
#[test]
fn numbers_run_out() {
    let mut info = tls13();
    let at = info.len() - 8;
    info[at..].copy_from_slice(&(u64::MAX - 1).to_be_bytes());
    let (sys, receiver) = setup(&info);
    let mut peer = Peer::new(&info);
    peer.send(sys, 23, b"last but one", 0);
    // The sender's own numbers end one earlier (REC-13), so the last is sealed as if by the kernel.
    let mut last = vec![0; 4 + peer.sealer.overhead()];
    let number = RecordNumber {
        rec_seq: u64::MAX,
        nonce_explicit: 0,
    };
    peer.sealer
        .seal_from(number, 23, b"last", &mut last)
        .unwrap();
    sys.0.lock().unwrap().arriving.extend(last);
    sys.0
        .lock()
        .unwrap()
        .arriving
        .extend([23, 3, 3, 0, 17].iter().chain(&[0; 17]));
    sys.0.lock().unwrap().arrive(usize::MAX);
    assert_eq!(receive(&receiver, 100, 1, asks()).1, b"last but onelast");
    assert_eq!(
        receive(&receiver, 100, 1, asks()).0,
        Err(Error::Os(Errno::BADMSG))
    );
    assert_eq!(receive(&receiver, 100, 1, asks()).0, Err(Error::WouldBlock));
}

/// RX-30: MSG_WAITALL waits for all, and ends early at another type.
#[test]
fn wait_all() {
    let (sys, receiver) = setup(&tls13());
    sys.0.lock().unwrap().blocking = true;
    let mut peer = Peer::new(&tls13());
    for piece in [&b"one"[..], b"two", b"three"] {
        peer.send(sys, 23, piece, 0);
    }
    peer.send(sys, 21, &[1, 0], 0);
    let all = Request {
        wait_all: true,
        ..asks()
    };
    assert_eq!(receive(&receiver, 7, 2, all).1, b"onetwot");
    assert_eq!(receive(&receiver, 100, 1, all).1, b"hree");
    assert_eq!(receive(&receiver, 100, 1, all).2.content_type, Some(21));
}
