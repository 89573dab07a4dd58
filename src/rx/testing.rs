//! A fake kernel, a peer and a model of what a receiving socket has to do: whatever bytes come, in
//! whatever pieces, and whatever is asked for, what is delivered is exactly what was sealed, in
//! order, by the rules of a kTLS socket; and the socket is readable when there is something to be
//! had, and not when there is not (design rule 4).
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::io::Errno;

use super::*;
use crate::aead::RecordSealer;
use crate::crypto_info::CryptoInfo;
use crate::error::Error;
use crate::record::RecordNumbers;
use crate::record::content_type::{APPLICATION_DATA, HANDSHAKE};
use crate::sys::receive::Ready;
use crate::sys::scatter::Destination;
use crate::testing::{Input, Kernels, Story, crypto_info, effective};
use core::result::Result;

/// A kernel whose receive queue fills as the test says.
#[derive(Default)]
pub(super) struct FakeSys(Mutex<FakeSocket>);

#[derive(Default)]
pub(super) struct FakeSocket {
    queue: VecDeque<u8>,
    /// On its way.
    pub arriving: VecDeque<u8>,
    /// Bytes that have left the queue.
    gone: usize,
    /// What the queue has room for; 0: everything.
    pub room: usize,
    mark: usize,
    pub eof: bool,
    pub error: Option<Errno>,
    /// Nothing comes any more, not even what was on its way.
    reset: bool,
    pub blocking: bool,
    /// `SO_RCVTIMEO` runs out at once.
    timed: bool,
    /// The next wait is interrupted.
    interrupt: bool,
    /// What a wait does that nothing would ever end: interrupt it, or fail the test.
    may_hang: bool,
    interrupted: bool,
    /// The pipe of a splice: what it holds, and how much more it takes.
    pipe: Vec<u8>,
    pipe_room: usize,
    pipe_error: Option<Errno>,
    /// System calls that the library may still make in the call that is at work.
    patience: usize,
}

impl FakeSocket {
    pub(super) fn arrive(&mut self, len: usize) {
        if self.reset {
            return;
        }
        let room = match self.room {
            0 => usize::MAX,
            room => room - self.queue.len().min(room),
        };
        let len = len.min(room).min(self.arriving.len());
        self.queue.extend(self.arriving.drain(..len));
    }
    fn ended(&self) -> bool {
        self.reset || self.eof && self.arriving.is_empty()
    }
    fn is_full(&self) -> bool {
        self.room != 0 && self.queue.len() >= self.room
    }
    /// `POLLIN`, as the kernel has it.
    pub(super) fn readable(&self) -> bool {
        let enough = self.queue.len() >= self.mark.max(1);
        self.ended() || self.error.is_some() || self.is_full() || enough
    }
    /// Bytes of the stream that have come so far.
    fn arrived(&self) -> usize {
        self.gone + self.queue.len()
    }
    fn take_out(&mut self, len: usize) {
        self.queue.drain(..len);
        self.gone += len;
    }
}

impl FakeSys {
    pub(super) fn socket(&self) -> MutexGuard<'_, FakeSocket> {
        self.0.lock().expect("no test has failed with it")
    }

    /// In a system call: counts it.
    fn call(&self) -> MutexGuard<'_, FakeSocket> {
        let mut socket = self.socket();
        assert!(socket.patience > 0, "a call asks the kernel without end");
        socket.patience -= 1;
        socket
    }

    /// A call of the library begins: more system calls than this many bytes need are an endless
    /// loop.
    fn expect_call(&self) {
        let mut socket = self.socket();
        socket.patience = 1000 + (socket.queue.len() + socket.arriving.len()) / 4;
        socket.interrupted = false;
    }
}

impl Receive for FakeSys {
    fn peek(&self, _: RawFd, out: &mut [u8]) -> Result<usize, Errno> {
        let mut socket = self.call();
        if socket.queue.is_empty() {
            return match socket.error.take() {
                Some(errno) => Err(errno),
                None if socket.ended() => Ok(0),
                None => Err(Errno::AGAIN),
            };
        }
        let len = out.len().min(socket.queue.len());
        let (head, tail) = socket.queue.as_slices();
        let first = len.min(head.len());
        out[..first].copy_from_slice(&head[..first]);
        out[first..len].copy_from_slice(&tail[..len - first]);
        Ok(len)
    }
    fn take(&self, fd: RawFd, out: &mut [u8]) -> Result<usize, Errno> {
        let len = self.peek(fd, out)?;
        self.socket().take_out(len);
        Ok(len)
    }
    fn discard(&self, _: RawFd, len: usize) -> Result<usize, Errno> {
        let mut socket = self.call();
        assert!(len <= socket.queue.len(), "more is dropped than is there");
        socket.take_out(len);
        Ok(len)
    }
    fn set_low_water(&self, _: RawFd, bytes: usize) {
        let mut socket = self.call();
        let cap = match socket.room {
            0 => 3 << 20,
            room => room / 2,
        };
        socket.mark = bytes.min(cap);
    }
    fn wait(&self, _: RawFd, timeout: Option<Duration>) -> Result<Ready, Errno> {
        let mut socket = self.call();
        if timeout != Some(Duration::ZERO) && !socket.readable() {
            let endless = !socket.ended() && socket.arriving.is_empty();
            assert!(!endless || socket.may_hang, "a call sleeps for ever");
            if core::mem::take(&mut socket.interrupt) || endless {
                socket.interrupted = true;
                return Err(Errno::INTR);
            }
            socket.arrive(977);
        }
        Ok(Ready {
            readable: socket.readable(),
            ended: socket.ended(),
            error: socket.error.take(),
        })
    }
    fn consumed(&self, _: RawFd) -> Option<u64> {
        Some(self.socket().gone as u64)
    }
    fn is_nonblocking(&self, _: RawFd) -> bool {
        !self.socket().blocking
    }
    fn receive_timeout(&self, _: RawFd) -> Option<Duration> {
        self.socket().timed.then_some(Duration::from_nanos(1))
    }
    fn handlers_restart(&self) -> bool {
        !self.socket().may_hang
    }
    fn fill_pipe(&self, _: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
        let mut socket = self.call();
        if let Some(errno) = socket.pipe_error.take() {
            return Err(errno);
        }
        let len = bytes.len().min(socket.pipe_room);
        if len == 0 {
            return Err(Errno::AGAIN);
        }
        socket.pipe_room -= len;
        socket.pipe.extend_from_slice(&bytes[..len]);
        Ok(len)
    }
    fn wait_for_pipe(&self, _: RawFd) -> Result<(), Errno> {
        self.call().pipe_room += 4096;
        Ok(())
    }
}

/// The sending side.
pub(super) struct Peer {
    pub sealer: RecordSealer,
    numbers: RecordNumbers,
    version: Version,
    /// Which keys: the seed of their crypto_info.
    seed: u8,
}

impl Peer {
    pub(super) fn new(info: &[u8]) -> Peer {
        let keys = CryptoInfo::parse(info).expect("well-formed");
        Peer {
            sealer: RecordSealer::new(&keys, Choice::Auto).expect("some provider has it"),
            numbers: keys.numbers(),
            version: keys.version,
            seed: keys.rec_seq as u8,
        }
    }

    pub(super) fn record(&mut self, content_type: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let number = self.numbers.reserve().expect("numbers are left");
        let padding = padding.min(crate::record::MAX_PLAINTEXT - content.len());
        let mut plain = content.to_vec();
        let mut inner = content_type;
        if self.version == Version::Tls13 && padding > 0 {
            // The sealer's own type byte becomes the last byte of the padding.
            plain.push(content_type);
            plain.resize(content.len() + padding, 0);
            inner = 0;
        }
        let mut out = vec![0; plain.len() + self.sealer.overhead()];
        self.sealer
            .seal_from(number, inner, &plain, &mut out)
            .expect("a record of a legal length");
        out
    }

    pub(super) fn send(&mut self, sys: &FakeSys, content_type: u8, content: &[u8], padding: usize) {
        let wire = self.record(content_type, content, padding);
        sys.socket().arriving.extend(wire);
    }

    /// The keys and the number of the next record.
    fn key(&self) -> (u8, u64) {
        (self.seed, self.numbers.peek().rec_seq)
    }
}

pub(super) fn setup(info: &[u8]) -> (&'static FakeSys, Arc<Receiver>) {
    let sys = KERNELS.take();
    *sys.socket() = FakeSocket::default();
    sys.expect_call();
    let keys = CryptoInfo::parse(info).expect("well-formed");
    let receiver = Receiver::new(sys, 0, keys, Choice::Auto, Arc::default(), 1);
    (sys, receiver.expect("some provider has it"))
}

/// One receive into `pieces` segments and empty ones between them: the result, the bytes, and what
/// else it told.
pub(super) fn receive(
    sys: &FakeSys,
    receiver: &Receiver,
    len: usize,
    pieces: usize,
    request: Request,
) -> (crate::error::Result<usize>, Vec<u8>, Received) {
    let mut memory = vec![0xee; len];
    let segments: Vec<(usize, usize)> = memory
        .chunks_mut(len.div_ceil(pieces).max(1))
        .flat_map(|piece| {
            [
                (8, 0),
                (piece.as_mut_ptr().expose_provenance(), piece.len()),
            ]
        })
        .collect();
    let mut received = Received::default();
    sys.expect_call();
    // The memory outlives the destination, and is not used meanwhile.
    let mut out = Destination::lent(&segments);
    let result = receiver.receive(&mut out, request, &mut received);
    let filled = received.len;
    // A record that fails is wiped from where it was opened to.
    let left = match result.is_err() || filled > 0 {
        true => [0, 0xee],
        false => [0xee; 2],
    };
    assert!(
        memory[filled..].iter().all(|byte| left.contains(byte)),
        "CI-18, RX-57: memory behind what was received is disturbed"
    );
    memory.truncate(filled);
    (result, memory, received)
}

/// What the peer, the network, the kernel or the program does next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Send {
        kind: u8,
        len: usize,
        padding: usize,
    },
    Arrive(usize),
    Receive {
        len: usize,
        pieces: usize,
        request: Request,
    },
    Splice {
        len: usize,
        dont_wait: bool,
    },
    /// All is read, then a KeyUpdate, then the program sets the new keys.
    Rekey,
    /// The peer changes its keys, and says so or not.
    Update {
        announced: bool,
    },
    /// The program sets the keys after its own, announced or not.
    Keys,
    /// Keys that cannot be set.
    BadKeys,
    Poll,
    /// Bytes that nobody sealed.
    Garbage(Vec<u8>),
    /// A record of which one byte is changed on the way.
    Spoiled {
        len: usize,
        at: usize,
        mask: u8,
    },
    Eof,
    Reset,
    Interrupt,
    Blocking {
        blocking: bool,
        timed: bool,
    },
    LowWater(usize),
    NoPad(bool),
    PipeRoom(usize),
    PipeBreaks,
}

/// A record on the wire.
struct Sent {
    kind: u8,
    content: Vec<u8>,
    /// Where it ends in the stream.
    end: usize,
    /// The keys and the number that it was sealed with.
    key: (u8, u64),
}

impl Sent {
    fn is_update(&self, version: Version) -> bool {
        version == Version::Tls13
            && self.kind == HANDSHAKE
            && self.content.first() == Some(&KEY_UPDATE)
    }
}

/// What calls should bring, by the records that were sent.
struct Model {
    version: Version,
    /// Records not completely delivered, up to the first that can never be opened.
    sent: VecDeque<Sent>,
    /// How many of the stream's records stand before them.
    before: u64,
    /// Bytes delivered of the first.
    at: usize,
    /// Records of the stream that were opened.
    opened: u64,
    /// What the next record has to be sealed with.
    key: (u8, u64),
    /// A KeyUpdate was opened, and no keys have been set since.
    pending: bool,
    /// Nothing behind `sent` will ever be opened.
    spoiled: bool,
    /// A record may have failed.
    failed: bool,
    was_reset: bool,
    peeked: bool,
    /// Bytes of the stream.
    end: usize,
}

impl Model {
    fn send(&mut self, peer: &mut Peer, sys: &FakeSys, kind: u8, content: &[u8], padding: usize) {
        let key = peer.key();
        let before = sys.socket().arriving.len();
        peer.send(sys, kind, content, padding);
        self.end += sys.socket().arriving.len() - before;
        if self.spoiled {
            return;
        }
        match effective(self.version, kind, content) {
            Some((kind, content)) => self.sent.push_back(Sent {
                kind,
                content: content.to_vec(),
                end: self.end,
                key,
            }),
            None => self.spoiled = true,
        }
    }

    /// Bytes that are no record of this stream.
    fn spoil(&mut self, sys: &FakeSys, bytes: &[u8]) {
        sys.socket().arriving.extend(bytes);
        self.end += bytes.len();
        self.spoiled |= !bytes.is_empty();
    }

    /// Every record that the receiver has opened was there, whole, and the next by keys and number.
    fn check_opened(&mut self, sys: &FakeSys, receiver: &Receiver) {
        while self.opened < receiver.info().unwrap().records {
            let index = (self.opened - self.before) as usize;
            let record = self.sent.get(index).expect("a record that nobody sent");
            assert!(
                record.end <= sys.socket().arrived(),
                "opened before it is there"
            );
            assert_eq!(record.key, self.key, "opened with other keys or number");
            assert!(!self.pending, "RK-8: opened while the keys are outdated");
            self.key.1 += 1;
            self.pending = record.is_update(self.version);
            self.opened += 1;
        }
        assert_eq!(
            self.opened,
            receiver.info().unwrap().records,
            "opened twice"
        );
        let told = receiver.info().unwrap().number.rec_seq;
        assert_eq!(told, self.key.1, "CI-12");
        // What can fail from now on, or has.
        let index = (self.opened - self.before) as usize;
        self.failed |= match self.sent.get(index) {
            Some(next) => next.key != self.key,
            None => self.spoiled,
        };
        self.failed |= self.sent.iter().take(index).any(|record| record.kind == 0);
    }

    /// The content type of what can be had now.
    fn available(&self, sys: &FakeSys) -> Option<u8> {
        // A type of 0 is refused (RX-15).
        self.next(sys).filter(|&kind| kind != 0)
    }

    /// The first record that is not empty data and has come: its content type.
    fn next(&self, sys: &FakeSys) -> Option<u8> {
        let arrived = sys.socket().arrived();
        let (mut key, mut pending) = (self.key, self.pending);
        for (index, record) in self.sent.iter().enumerate() {
            if self.before + index as u64 >= self.opened {
                if pending || record.end > arrived || record.key != key {
                    return None;
                }
                key.1 += 1;
                pending = record.is_update(self.version);
            }
            let at = if index == 0 { self.at } else { 0 };
            if record.kind != APPLICATION_DATA || record.content.len() > at {
                return Some(record.kind);
            }
        }
        None
    }

    /// Checks data or a control record that was delivered, and passes it unless it was peeked.
    fn take(&mut self, content_type: u8, bytes: &[u8], peek: bool) {
        let (mut index, mut at, mut rest) = (0, self.at, bytes);
        loop {
            // An empty data record in front is passed unseen (RX-36).
            let Some(record) = self.sent.get(index) else {
                assert!(rest.is_empty(), "more delivered than was sent");
                break;
            };
            let (kind, content) = (record.kind, &record.content);
            if kind != content_type {
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
            self.sent.drain(..index);
            self.before += index as u64;
            self.at = at;
        }
    }

    fn skip_empty(&mut self) {
        let is_empty = |record: &Sent| record.kind == 23 && record.content.is_empty();
        while self.sent.front().is_some_and(is_empty) {
            self.sent.pop_front();
            self.before += 1;
            self.at = 0;
        }
    }

    /// Whether a call may fail like this, having delivered nothing.
    fn check_error(&self, sys: &FakeSys, error: Error) {
        let socket = sys.socket();
        match error {
            Error::SealFailed | Error::BadRecord => assert!(self.failed, "{error}"),
            Error::Os(Errno::MSGSIZE | Errno::BADMSG | Errno::INVAL) => {
                assert!(self.failed, "{error}");
            }
            Error::Os(Errno::CONNRESET) => assert!(self.was_reset),
            Error::KeyExpired => assert!(self.pending, "RK-8"),
            Error::Interrupted => assert!(socket.interrupted && socket.blocking),
            _ => panic!("{error}"),
        }
        drop(socket);
        assert_eq!(self.available(sys), None, "RX-23: {error}");
    }
}

/// One connection, its peer, and the model.
struct World {
    sys: &'static FakeSys,
    receiver: Arc<Receiver>,
    peer: Peer,
    model: Model,
    cipher: Cipher,
    fill: u8,
}

/// Everything that can happen to a connection, checked after each step. `room`: of the receive
/// buffer, 0 for plenty.
pub(super) fn run(version: Version, cipher: Cipher, room: usize, steps: &[Step]) {
    let first = crypto_info(version, cipher, 0);
    let (sys, receiver) = setup(&first);
    sys.socket().room = room;
    sys.socket().may_hang = true;
    let model = Model {
        version,
        sent: VecDeque::new(),
        before: 0,
        at: 0,
        opened: 0,
        key: (0, 0),
        pending: false,
        spoiled: false,
        failed: false,
        was_reset: false,
        peeked: false,
        end: 0,
    };
    let mut world = World {
        sys,
        receiver,
        peer: Peer::new(&first),
        model,
        cipher,
        fill: 0,
    };
    for step in steps {
        world.step(step);
        world.model.check_opened(sys, &world.receiver);
        world.check_readiness();
    }
    if world.is_sound() {
        world.finish();
    }
    drop(world);
    KERNELS.give_back(sys);
}

impl World {
    fn step(&mut self, step: &Step) {
        let (sys, version) = (self.sys, self.model.version);
        sys.expect_call();
        match *step {
            Step::Send { kind, len, padding } => {
                let mut content = self.content(len);
                if kind == HANDSHAKE && content.first() == Some(&KEY_UPDATE) {
                    // A KeyUpdate is for other steps.
                    content[0] = 0;
                }
                let model = &mut self.model;
                model.send(&mut self.peer, sys, kind, &content, padding);
            }
            Step::Arrive(len) => sys.socket().arrive(len),
            Step::Rekey if version == Version::Tls13 && self.is_sound() => self.rekey(),
            Step::Rekey => {}
            Step::Update { announced } => {
                if announced {
                    let update = [KEY_UPDATE, 0, 0, 1, 0];
                    self.model.send(&mut self.peer, sys, HANDSHAKE, &update, 0);
                }
                let seed = self.peer.seed.wrapping_add(1);
                self.peer = Peer::new(&crypto_info(version, self.cipher, seed));
            }
            Step::Keys => {
                let seed = self.model.key.0.wrapping_add(1);
                let new = crypto_info(version, self.cipher, seed);
                let done = self.receiver.rekey(|| CryptoInfo::parse(&new));
                if version == Version::Tls12 {
                    assert_eq!(done, Err(Error::KeysPresent), "CI-3");
                } else {
                    assert_eq!(done, Ok(()));
                    self.model.key = (seed, u64::from(seed));
                    self.model.pending = false;
                }
            }
            Step::BadKeys => {
                let other = match self.cipher {
                    Cipher::AesGcm128 => Cipher::AesGcm256,
                    _ => Cipher::AesGcm128,
                };
                let new = crypto_info(version, other, 1);
                let refused = self.receiver.rekey(|| CryptoInfo::parse(&new));
                assert!(refused.is_err(), "RK-1");
            }
            Step::Poll => {
                let told = self.receiver.readiness().readable;
                let available = self.model.available(sys).is_some();
                assert!(told || !available || self.model.pending, "RX-47: missed");
                let kept = lock(&self.receiver.state).has_opened();
                let broken = self.receiver.readiness().error;
                let kernel = sys.socket().readable();
                let fits = sys.socket().room == 0;
                assert!(!told || kernel || broken || (kept && !fits), "RX-47");
            }
            Step::Garbage(ref bytes) => self.model.spoil(sys, bytes),
            Step::Spoiled { len, at, mask } => {
                let content = self.content(len);
                let mut wire = self.peer.record(APPLICATION_DATA, &content, 0);
                let at = at % wire.len();
                wire[at] ^= mask.max(1);
                self.model.spoil(sys, &wire);
            }
            Step::Eof => sys.socket().eof = true,
            Step::Reset => {
                sys.socket().error = Some(Errno::CONNRESET);
                sys.socket().reset = true;
                self.model.was_reset = true;
            }
            Step::Interrupt => sys.socket().interrupt = true,
            Step::Blocking { blocking, timed } => {
                sys.socket().blocking = blocking;
                sys.socket().timed = timed;
            }
            Step::LowWater(bytes) => self.receiver.set_low_water(bytes),
            Step::NoPad(on) => self.receiver.expect_no_pad(on),
            Step::PipeRoom(bytes) => sys.socket().pipe_room = bytes,
            Step::PipeBreaks => sys.socket().pipe_error = Some(Errno::PIPE),
            Step::Splice { len, dont_wait } => self.splice(len, dont_wait),
            Step::Receive {
                len,
                pieces,
                request,
            } => self.receive(len, pieces, request),
        }
    }

    fn splice(&mut self, len: usize, dont_wait: bool) {
        let sys = self.sys;
        let result = self.receiver.splice(1, len, dont_wait);
        self.model.check_opened(sys, &self.receiver);
        let pipe = core::mem::take(&mut sys.socket().pipe);
        assert_eq!(pipe.len(), result.unwrap_or(0), "what was written is told");
        match result {
            Ok(0) if len == 0 => {}
            Ok(0) => self.check_end(),
            Ok(moved) => {
                assert!(moved <= len);
                self.model.skip_empty();
                self.model.take(23, &pipe, false);
            }
            Err(Error::Invalid) => {
                self.model.skip_empty();
                let next = self.model.sent.front().expect("something is refused");
                assert_ne!(next.kind, 23, "RX-43");
            }
            Err(Error::WouldBlock) => {
                let full = sys.socket().pipe_room == 0;
                let timed = sys.socket().timed;
                assert!(dont_wait || timed || !sys.socket().blocking);
                assert!(self.model.available(sys).is_none() || full, "RX-44");
            }
            Err(Error::BrokenPipe) => {}
            Err(error) => self.model.check_error(sys, error),
        }
    }

    fn receive(&mut self, len: usize, pieces: usize, request: Request) {
        let sys = self.sys;
        let (result, bytes, received) = receive(sys, &self.receiver, len, pieces, request);
        self.model.check_opened(sys, &self.receiver);
        let (peek, model) = (request.peek, &mut self.model);
        model.peeked |= peek;
        match result {
            Ok(0) if len == 0 => assert_eq!(received, Received::default(), "RX-19"),
            Ok(len) if received.content_type.is_some() => {
                assert_eq!(len, bytes.len());
                let kind = received.content_type.unwrap_or_default();
                assert!(request.can_tell || kind == 23, "RX-15");
                if len == 0 && kind == 23 {
                    // RX-39, or the end of the stream behind empty records.
                    if !peek {
                        model.skip_empty();
                    }
                    match model.next(sys) {
                        None => self.check_end(),
                        Some(next) => assert_ne!(next, 23),
                    }
                    return;
                }
                if kind != 23 {
                    // Passed by a call that found nothing behind them.
                    model.skip_empty();
                }
                model.take(kind, &bytes, peek);
            }
            Ok(len) => {
                assert_eq!(len, 0);
                self.check_end();
            }
            Err(Error::WouldBlock) => {
                // RX-37: but for empty records that were peeked at.
                let kept = lock(&self.receiver.state).has_opened();
                let socket = sys.socket();
                assert!(request.dont_wait || socket.timed || !socket.blocking);
                let readable = socket.readable();
                let (mark, queued) = (socket.mark, socket.queue.len());
                // Nor can a low-water mark hide more than half of the receive buffer for ever.
                let flooded = model.failed && socket.room > 0;
                assert!(
                    kept || !readable || flooded,
                    "EAGAIN, and {queued} bytes reach {mark}"
                );
                drop(socket);
                assert_eq!(model.available(sys), None);
            }
            Err(Error::ControlRecord) => {
                model.skip_empty();
                let next = model.sent.front().expect("something is refused");
                assert!(!request.can_tell && next.kind != 23, "RX-15");
            }
            Err(error) => model.check_error(sys, error),
        }
    }

    /// The end of the stream was told: it is there, and nothing stands before it.
    fn check_end(&self) {
        assert!(self.sys.socket().ended(), "an end that did not come");
        assert_eq!(self.model.available(self.sys), None);
    }

    /// What every process that waits for the socket sees (design rule 4).
    fn check_readiness(&self) {
        let socket = self.sys.socket();
        let (readable, ended) = (socket.readable(), socket.ended());
        let (full, error) = (socket.is_full(), socket.error.is_some());
        let fits = socket.room == 0;
        drop(socket);
        let kept = lock(&self.receiver.state).has_opened();
        if self.model.pending {
            let forced = ended || full || error || !fits;
            assert!(!readable || forced, "RK-9");
        } else if self.model.available(self.sys).is_some() {
            // A peek beyond the receive buffer has taken out what the socket could tell by.
            let taken = kept && !fits && self.model.peeked;
            assert!(readable || taken, "RX-47, RX-49: nobody is woken");
        }
    }

    fn content(&mut self, len: usize) -> Vec<u8> {
        self.fill = self.fill.wrapping_add(1);
        (0..len).map(|i| self.fill ^ (i / 9) as u8).collect()
    }

    /// Whether all that is sent can still be read.
    fn is_sound(&self) -> bool {
        let model = &self.model;
        let index = (model.opened - model.before) as usize;
        let mut keys = (model.key, model.pending);
        let in_order = model.sent.iter().skip(index).all(|record| {
            let (key, pending) = keys;
            keys = ((key.0, key.1 + 1), record.is_update(model.version));
            !pending && record.key == key
        });
        let broken = model.spoiled || model.failed || model.was_reset;
        let typed = model.sent.iter().all(|record| record.kind != 0);
        in_order && typed && !broken && !keys.1 && keys.0 == self.peer.key()
    }

    /// Reads all that was sent, blocking.
    fn finish(&mut self) {
        let sys = self.sys;
        let low_water = self.receiver.low_water();
        self.receiver.set_low_water(1);
        let mut socket = sys.socket();
        let before = (socket.blocking, socket.timed);
        (socket.blocking, socket.timed) = (true, false);
        (socket.interrupt, socket.may_hang) = (false, false);
        drop(socket);
        let is_left = |sent: &Sent| sent.kind != 23 || !sent.content.is_empty();
        while self.model.sent.iter().any(is_left) {
            let request = Request {
                can_tell: true,
                ..Request::default()
            };
            let (result, bytes, received) = receive(sys, &self.receiver, 6000, 1, request);
            self.model.check_opened(sys, &self.receiver);
            result.expect("what was sent can be read");
            let kind = received.content_type.expect("there is no end of stream");
            if kind != 23 || bytes.is_empty() {
                // RX-39: empty data in front of a control record ends a call of its own.
                self.model.skip_empty();
            }
            self.model.take(kind, &bytes, false);
        }
        let mut socket = sys.socket();
        socket.may_hang = true;
        (socket.blocking, socket.timed) = before;
        drop(socket);
        self.receiver.set_low_water(low_water);
    }

    fn rekey(&mut self) {
        let sys = self.sys;
        let update = [KEY_UPDATE, 0, 0, 1, 0];
        self.model.send(&mut self.peer, sys, HANDSHAKE, &update, 0);
        self.finish();
        let expired = Err(Error::KeyExpired);
        let (result, ..) = receive(sys, &self.receiver, 10, 1, Request::default());
        assert_eq!(result, expired, "RK-8");
        let seed = self.model.key.0.wrapping_add(1);
        let new = crypto_info(Version::Tls13, self.cipher, seed);
        self.peer = Peer::new(&new);
        // What comes before the keys are set waits, and wakes nobody (RK-9, RK-10).
        self.model.send(&mut self.peer, sys, 23, b"queued", 0);
        sys.socket().arrive(usize::MAX);
        assert_eq!(self.receiver.splice(1, 10, true), expired, "RK-8");
        self.check_readiness();
        self.step(&Step::Keys);
        if sys.socket().arriving.is_empty() {
            assert!(sys.socket().readable(), "RK-10");
        }
    }
}

/// The fuzz target: a suite, a receive buffer, then steps.
pub fn fuzz(data: &[u8]) {
    let mut input = Input::new(data);
    let (version, cipher) = input.suite();
    let room = match input.byte() % 8 {
        0 => 2304,
        1 => 8192,
        2 => 512 + input.up_to(20_000),
        _ => 0,
    };
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < 100 {
        steps.push(decode(&mut input));
    }
    let story = (version, cipher, room, &steps);
    let _story = Story(&story);
    run(version, cipher, room, &steps);
}

fn decode(input: &mut Input<'_>) -> Step {
    match input.byte() % 32 {
        0..=5 => Step::Send {
            kind: match input.byte() {
                first @ 0x80.. => first & 0x1f,
                _ => APPLICATION_DATA,
            },
            len: input.up_to(16384),
            padding: input.up_to(300).saturating_sub(100),
        },
        6..=9 => Step::Arrive(match input.up_to(1 << 20) {
            0 => usize::MAX,
            len => len,
        }),
        10..=15 => {
            let bits = input.byte();
            Step::Receive {
                len: input.up_to(70_000),
                pieces: 1 + usize::from(bits >> 4 & 3),
                request: Request {
                    peek: bits & 1 != 0,
                    wait_all: bits & 2 != 0,
                    dont_wait: bits & 4 != 0,
                    can_tell: bits & 8 == 0,
                },
            }
        }
        16 | 17 => Step::Splice {
            len: input.up_to(70_000),
            dont_wait: input.flag(),
        },
        18 => Step::Rekey,
        19 => Step::Update {
            announced: input.flag(),
        },
        20 => Step::Keys,
        21 => Step::BadKeys,
        22 => Step::Poll,
        23 => {
            let len = usize::from(input.byte());
            Step::Garbage(input.take(len).to_vec())
        }
        24 => Step::Spoiled {
            len: input.up_to(16384),
            at: input.up_to(1 << 15),
            mask: input.byte(),
        },
        25 => Step::Eof,
        26 => Step::Reset,
        27 => Step::Interrupt,
        28 => {
            let bits = input.byte();
            Step::Blocking {
                blocking: bits & 1 != 0,
                timed: bits & 2 != 0,
            }
        }
        29 => Step::LowWater(input.up_to(40_000)),
        30 => Step::NoPad(input.flag()),
        _ => match input.byte() {
            0xff => Step::PipeBreaks,
            room => Step::PipeRoom(usize::from(room) * 64),
        },
    }
}

/// Handshake type of a KeyUpdate.
const KEY_UPDATE: u8 = 24;

static KERNELS: Kernels<FakeSys> = Kernels::new();
