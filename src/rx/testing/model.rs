//! What calls should bring, by the records that were sent.
#![forbid(unsafe_code)]

use super::*;

/// A record on the wire.
pub(super) struct Sent {
    pub(super) kind: u8,
    pub(super) content: Vec<u8>,
    /// Where it ends in the stream.
    pub(super) end: usize,
    /// The keys and the number that it was sealed with.
    pub(super) key: (u8, u64),
}

impl Sent {
    pub(super) fn is_update(&self, version: Version) -> bool {
        version == Version::Tls13
            && self.kind == HANDSHAKE
            && self.content.first() == Some(&KEY_UPDATE)
    }
}

/// What calls should bring, by the records that were sent.
pub(super) struct Model {
    pub(super) version: Version,
    /// Records not completely delivered, up to the first that can never be opened.
    pub(super) sent: VecDeque<Sent>,
    /// How many of the stream's records stand before them.
    pub(super) before: u64,
    /// Bytes delivered of the first.
    pub(super) at: usize,
    /// Records of the stream that were opened.
    pub(super) opened: u64,
    /// What the next record has to be sealed with.
    pub(super) key: (u8, u64),
    /// A KeyUpdate was opened, and no keys have been set since.
    pub(super) pending: bool,
    /// Nothing behind `sent` will ever be opened.
    pub(super) spoiled: bool,
    /// A record may have failed.
    pub(super) failed: bool,
    pub(super) was_reset: bool,
    pub(super) peeked: bool,
    /// Bytes of the stream.
    pub(super) end: usize,
}

impl Model {
    pub(super) fn send(
        &mut self,
        peer: &mut Peer,
        sys: &FakeSys,
        kind: u8,
        content: &[u8],
        padding: usize,
    ) {
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
    pub(super) fn spoil(&mut self, sys: &FakeSys, bytes: &[u8]) {
        sys.socket().arriving.extend(bytes);
        self.end += bytes.len();
        self.spoiled |= !bytes.is_empty();
    }

    /// Every record that the receiver has opened was there, whole, and the next by keys and number.
    pub(super) fn check_opened(&mut self, sys: &FakeSys, receiver: &Receiver) {
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
    pub(super) fn available(&self, sys: &FakeSys) -> Option<u8> {
        // A type of 0 is refused (RX-15).
        self.next(sys).filter(|&kind| kind != 0)
    }

    /// The first record that is not empty data and has come: its content type.
    pub(super) fn next(&self, sys: &FakeSys) -> Option<u8> {
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
    pub(super) fn take(&mut self, content_type: u8, bytes: &[u8], peek: bool) {
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

    pub(super) fn skip_empty(&mut self) {
        let is_empty = |record: &Sent| record.kind == 23 && record.content.is_empty();
        while self.sent.front().is_some_and(is_empty) {
            self.sent.pop_front();
            self.before += 1;
            self.at = 0;
        }
    }

    /// Whether a call may fail like this, having delivered nothing.
    pub(super) fn check_error(&self, sys: &FakeSys, error: Error) {
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

/// Handshake type of a KeyUpdate.
pub(super) const KEY_UPDATE: u8 = 24;
