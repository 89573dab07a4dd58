//! Everything that can happen to a connection, checked after each step.
#![forbid(unsafe_code)]

use super::*;

/// One connection, its peer, and the model.
pub(super) struct World {
    pub(super) sys: &'static FakeSys,
    pub(super) receiver: Arc<Receiver>,
    pub(super) peer: Peer,
    pub(super) model: Model,
    pub(super) cipher: Cipher,
    pub(super) fill: u8,
    /// Edges that the program has been told of, by edge-triggered epoll.
    pub(super) seen: u64,
    /// The last call came short, or was told EAGAIN: the program waits for an edge.
    pub(super) drained: bool,
    /// Calls in a row that have brought nothing.
    pub(super) in_vain: u32,
}

/// Everything that can happen to a connection, checked after each step. `room`: of the receive
/// buffer, 0 for plenty.
pub(in crate::rx) fn run(version: Version, cipher: Cipher, room: usize, steps: &[Step]) {
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
        seen: 0,
        drained: true,
        in_vain: 0,
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
    pub(super) fn step(&mut self, step: &Step) {
        let (sys, version) = (self.sys, self.model.version);
        sys.expect_call();
        if !matches!(step, Step::Receive { .. }) {
            self.in_vain = 0;
        }
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
                let before = sys.socket().edges;
                let done = self.receiver.rekey(|| CryptoInfo::parse(&new));
                if version == Version::Tls12 {
                    assert_eq!(done, Err(Error::KeysPresent), "CI-3");
                } else {
                    assert_eq!(done, Ok(()));
                    (self.seen, self.drained) = (before, true);
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
            Step::Eof => {
                sys.socket().eof = true;
                sys.socket().tell();
            }
            Step::Reset => {
                sys.socket().error = Some(Errno::CONNRESET);
                sys.socket().reset = true;
                sys.socket().tell();
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

    pub(super) fn splice(&mut self, len: usize, dont_wait: bool) {
        let sys = self.sys;
        self.seen = sys.socket().edges;
        let result = self.receiver.splice(1, len, dont_wait);
        // What the pipe has no room for is no matter of the socket's.
        self.drained = sys.socket().pipe_room > 0
            && match result {
                Ok(moved) => 0 < moved && moved < len,
                Err(error) => error == Error::WouldBlock,
            };
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

    pub(super) fn receive(&mut self, len: usize, pieces: usize, request: Request) {
        let sys = self.sys;
        self.seen = sys.socket().edges;
        let arrived = sys.socket().arrived();
        let (result, bytes, received) = receive(sys, &self.receiver, len, pieces, request);
        self.drained = match result {
            // What was peeked at is there; the end is told once and for all.
            Ok(moved) => moved < len && !request.peek && received.content_type.is_some(),
            Err(error) => error == Error::WouldBlock,
        };
        let in_vain = result.is_err() && !request.peek && sys.socket().arrived() == arrived;
        self.in_vain = if in_vain { self.in_vain + 1 } else { 0 };
        // RX-37: but for empty records that were peeked at; and no low-water mark hides more than half of the buffer.
        let kept = lock(&self.receiver.state).has_opened() && self.model.peeked;
        let flooded = self.model.spoiled && sys.socket().room > 0;
        // The first may have to announce what it has found.
        let edges = sys.socket().edges - self.seen;
        assert!(
            kept || flooded || self.in_vain < 2 || edges == 0,
            "an edge that leads nowhere: {result:?}"
        );
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
    pub(super) fn check_end(&self) {
        assert!(self.sys.socket().ended(), "an end that did not come");
        assert_eq!(self.model.available(self.sys), None);
    }

    /// What every process that waits for the socket sees (design rule 4).
    pub(super) fn check_readiness(&self) {
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
        self.check_edge();
    }

    /// RX-53: a program that waits for an edge gets one for what can be had, and the peer is not held back by a
    /// window that only the program's next call could open.
    fn check_edge(&self) {
        let socket = self.sys.socket();
        let (told, fits) = (socket.edges > self.seen, socket.room == 0);
        let stuck = socket.is_full() && !socket.arriving.is_empty();
        drop(socket);
        let model = &self.model;
        let off = model.pending || model.spoiled || model.failed || model.was_reset;
        if !self.drained || told || off {
            return;
        }
        let kept = lock(&self.receiver.state).has_opened();
        let taken = kept && !fits && model.peeked;
        let had = model.available(self.sys);
        assert!(had.is_none() || taken, "RX-53: an edge is owed");
        assert!(
            !stuck || taken,
            "RX-6: the rest of a record has no room to come"
        );
    }

    pub(super) fn content(&mut self, len: usize) -> Vec<u8> {
        self.fill = self.fill.wrapping_add(1);
        (0..len).map(|i| self.fill ^ (i / 9) as u8).collect()
    }

    /// Whether all that is sent can still be read.
    pub(super) fn is_sound(&self) -> bool {
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
    pub(super) fn finish(&mut self) {
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

    pub(super) fn rekey(&mut self) {
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
