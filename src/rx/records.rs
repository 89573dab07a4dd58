//! The records at the head of the receive queue: found, opened, kept until they are delivered.
#![forbid(unsafe_code)]

mod handover;
mod opening;
mod settling;

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::os::fd::RawFd;

use rustix::io::Errno;

pub(super) use handover::Snapshot;
pub(super) use settling::Ending;

use super::Tally;
use super::shared::Session;
use super::window::{Filled, Window};
use crate::aead::{Choice, Cipher, Provider, RecordOpener, TrafficKeys};
use crate::engine::Buffer;
use crate::error::{Error, PendingError, Result};
use crate::record::{
    BadHeader, HEADER_LEN, Layout, MAX_PLAINTEXT, NonceForm, RecordNumber, RecordNumbers, Version,
    parse_header,
};
use crate::sys::receive::Receive;

/// What stands at the head of what has not been opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A whole record of so many bytes.
    Ready(usize),
    /// The beginning of a record that needs so many bytes in all (or of its header).
    Incomplete(usize),
    /// Nothing, now.
    Nothing,
    /// Nothing, for good.
    Eof,
    /// What cannot be a record: nothing is read any more (RX-4, REC-14).
    Stopped(Errno),
    /// The peer has changed its keys; the program has not, yet (RK-8).
    Rekey,
    /// The socket is broken; the error is pending.
    Broken,
    /// Not known: there is no memory to look at it. Nothing has changed.
    NoMemory,
}

impl Found {
    /// Whether a receive would return at once.
    pub(super) fn is_readable(self, has_opened: bool) -> bool {
        match self {
            // Without memory: the call says so, where a poll could not.
            Found::Ready(_) | Found::Eof | Found::Broken | Found::NoMemory => true,
            // RK-9: off, whatever is queued.
            Found::Rekey => false,
            Found::Incomplete(_) | Found::Nothing | Found::Stopped(_) => has_opened,
        }
    }
}

/// The way to the socket, in one call.
pub(super) struct Io<'a> {
    pub sys: &'a dyn Receive,
    pub fd: RawFd,
    pub pending: &'a PendingError,
    /// The lock on what other processes share, if there are any.
    pub session: Option<Session<'a>>,
}

/// A record that has been opened and not completely delivered.
pub(super) struct Opened {
    pub content_type: u8,
    plain: Buffer,
    at: usize,
    len: usize,
    /// Bytes of it that are still in the socket.
    wire: usize,
    /// Its number, and whether its first bytes are out of the socket: for other processes.
    number: RecordNumber,
    taken: bool,
    padded: bool,
    /// Opened by the call that is at work.
    pub fresh: bool,
}

impl Opened {
    /// The plaintext that has not been delivered.
    pub(super) fn rest(&self) -> &[u8] {
        &self.plain.bytes()[self.at..self.len]
    }

    /// Whether TLS 1.3 padding was stripped from it.
    pub(super) fn is_padded(&self) -> bool {
        self.padded
    }

    /// Whether it was opened by the call that is at work (RX-17).
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Counts `len` bytes as delivered.
    pub(super) fn advance(&mut self, len: usize) {
        self.at += len;
    }
}

/// The first bytes of a record that does not fit the receive buffer, out of the socket (RX-6).
struct Taken {
    wire: Buffer,
    len: usize,
    /// The record has been opened since. The bytes are kept until it is delivered, as another
    /// process may have to open it anew.
    opened: bool,
}

/// Keys, numbers and records of one receive direction.
pub(super) struct Records {
    opener: RecordOpener,
    keys: TrafficKeys,
    /// Numbers of the records to be opened.
    numbers: RecordNumbers,
    window: Window,
    taken: Option<Taken>,
    opened: VecDeque<Opened>,
    spare: Option<Buffer>,
    choice: Choice,
    /// Plaintext bytes of the first record that another process has delivered.
    skip: usize,
    /// The number from which on the peer uses new keys, which are not set yet (RK-6).
    rekey_at: Option<NonZeroU64>,
    stopped: Option<Errno>,
    /// It is for want of numbers.
    numbers_ended: bool,
    /// The stop has become the socket's pending error.
    stop_announced: bool,
    /// A call has been told of the stop, and none needs to be woken for it any more.
    stop_told: bool,
    /// The socket's `SO_RCVLOWAT`.
    mark: usize,
    /// The call at work has consumed a record to its end.
    passed: bool,
    pub(super) tally: Tally,
}

impl Records {
    pub(super) fn new(keys: TrafficKeys, choice: Choice) -> Result<Records> {
        Ok(Records {
            opener: RecordOpener::new(&keys, choice)?,
            numbers: keys.numbers(),
            keys,
            window: Window::default(),
            taken: None,
            opened: VecDeque::new(),
            spare: None,
            choice,
            skip: 0,
            rekey_at: None,
            stopped: None,
            numbers_ended: false,
            stop_announced: false,
            stop_told: false,
            mark: 1,
            passed: false,
            tally: Tally::default(),
        })
    }

    pub(super) fn rekey(
        &mut self,
        io: &mut Io<'_>,
        keys: impl FnOnce() -> Result<TrafficKeys>,
        choice: Choice,
    ) -> Result<()> {
        let (version, cipher) = self.suite();
        if version == Version::Tls12 {
            return Err(Error::KeysPresent);
        }
        let keys = keys()?;
        if (keys.version, keys.cipher) != (version, cipher) {
            return Err(Error::Invalid);
        }
        let opener = RecordOpener::new(&keys, choice)?;
        // Nothing can fail from here on. What was opened stays as it is (RK-11).
        if io.session.is_some() {
            // Only this process will be able to open them, and has. While the old numbers are in force:
            // others must not find the new ones with the old keys, should this process be killed.
            self.let_go_of_opened();
            // What fails here is told by the next look.
            let _ = self.drop_stale(io);
        }
        self.opener = opener;
        if self.numbers_ended {
            // REC-14: the new keys have numbers of their own.
            self.numbers_ended = false;
            self.stopped = None;
        }
        self.numbers = keys.numbers();
        self.rekey_at = None;
        let place = self.snapshot();
        if let Some(session) = &mut io.session {
            session.rekeyed(&keys, place);
        }
        self.keys = keys;
        Ok(())
    }

    pub(super) fn keys(&self) -> &TrafficKeys {
        &self.keys
    }

    pub(super) fn set_mark(&mut self, mark: usize) {
        self.mark = mark;
    }

    /// Opened records are delivered from memory alone; their ciphertext is done with.
    fn let_go_of_opened(&mut self) {
        self.window.forget_ahead();
        for record in &mut self.opened {
            record.wire = 0;
            if core::mem::take(&mut record.taken) {
                self.taken = None;
            }
        }
    }

    /// Drops what is done with from the socket.
    fn drop_stale(&mut self, io: &mut Io<'_>) -> core::result::Result<(), Errno> {
        let place = self.snapshot();
        match &mut io.session {
            None => self.window.drop_stale(io.sys, io.fd),
            Some(session) => session.drop_stale(place, &mut self.window, io.sys, io.fd),
        }
    }

    pub(super) fn suite(&self) -> (Version, Cipher) {
        (self.keys.version, self.keys.cipher)
    }

    pub(super) fn provider(&self) -> Provider {
        self.opener.provider()
    }

    pub(super) fn number(&self) -> RecordNumber {
        self.numbers.peek()
    }

    pub(super) fn crypto_info(&self, out: &mut [u8]) {
        crate::crypto_info::encode(&self.keys, self.numbers.peek(), out);
    }

    /// Opened records, the oldest first.
    pub(super) fn opened(&mut self) -> &mut VecDeque<Opened> {
        &mut self.opened
    }

    pub(super) fn has_opened(&self) -> bool {
        !self.opened.is_empty()
    }

    /// Whether the oldest opened record is in memory alone, and may be delivered (RK-9).
    pub(super) fn holds_data(&self) -> bool {
        self.has_opened() && self.window.ahead() == 0 && self.rekey_at.is_none()
    }

    /// What stands at the head of the queue, asking the socket if it is not known.
    pub(super) fn look(&mut self, io: &mut Io<'_>) -> Found {
        let mut found = self.outlook();
        if matches!(found, Found::Incomplete(_) | Found::Nothing) {
            let dropped = self.drop_stale(io);
            let filled = dropped.and_then(|()| self.window.refill(io.sys, io.fd, WIRE_MAX));
            found = match filled {
                Ok(Filled::Eof) => Found::Eof,
                Ok(Filled::Empty | Filled::Full | Filled::All) => self.outlook(),
                Err(Errno::NOMEM | Errno::NOBUFS) => Found::NoMemory,
                Err(errno) => {
                    io.pending.set(errno);
                    Found::Broken
                }
            };
        }
        if let Found::Stopped(errno) = found
            && !core::mem::replace(&mut self.stop_announced, true)
        {
            self.stopped = Some(errno);
            io.pending.set(errno);
        }
        found
    }

    /// What is known of the head of the queue.
    fn outlook(&self) -> Found {
        if self
            .rekey_at
            .is_some_and(|at| self.numbers.peek().rec_seq >= at.get())
        {
            return Found::Rekey;
        }
        if let Some(errno) = self.stopped {
            return Found::Stopped(errno);
        }
        let known = self.window.unopened();
        let taken = match &self.taken {
            Some(taken) if !taken.opened => taken.wire.head(taken.len),
            _ => &[],
        };
        let have = taken.len() + known.len();
        if have == 0 {
            return Found::Nothing;
        }
        let (version, form) = (self.keys.version, self.keys.nonce_form());
        // RX-2: looked at when header and explicit nonce are there.
        let prefix = Layout::new(version, form).prefix_len;
        if have < prefix {
            return Found::Incomplete(prefix);
        }
        let mut header = [0; HEADER_LEN];
        for (to, from) in header.iter_mut().zip(taken.iter().chain(known)) {
            *to = *from;
        }
        match parse_header(header, version, form) {
            Ok(header) if have < HEADER_LEN + header.fragment_len => {
                Found::Incomplete(HEADER_LEN + header.fragment_len)
            }
            Ok(header) => Found::Ready(HEADER_LEN + header.fragment_len),
            Err(BadHeader::TooLong) => Found::Stopped(Errno::MSGSIZE),
            Err(BadHeader::TooShort) => Found::Stopped(Errno::BADMSG),
            Err(BadHeader::BadVersion) => Found::Stopped(Errno::INVAL),
        }
    }

    /// Whether another record may be had without waiting (RX-9): one is known, or the end of the
    /// queue has not been seen in this call.
    pub(super) fn has_more(&self) -> bool {
        matches!(self.outlook(), Found::Ready(_)) || self.window.may_hold_more()
    }

    /// Whether opened records are still in the socket.
    pub(super) fn has_ahead(&self) -> bool {
        self.window.ahead() > 0
    }

    /// Takes the known part of an incomplete record out of the socket, which has no room for more
    /// of it (RX-6). The rest of it, at least a byte, keeps the socket readable when it has come.
    /// `memory` is where other processes find the bytes, if there are any.
    pub(super) fn take_out(&mut self, io: &mut Io<'_>) -> Result<()> {
        let Found::Incomplete(need) = self.outlook() else {
            return Ok(());
        };
        if io.session.is_some() && self.has_opened() {
            // They have to stay in the socket, for the other processes.
            return Err(Error::WouldBlock);
        }
        // Opened records stand in front of it.
        self.let_go_of_opened();
        self.drop_stale(io)?;
        let known = self.window.unopened().len();
        let place = self.snapshot();
        let before = self.taken.as_ref().map_or(0, |taken| taken.len);
        // Not one byte of the next record, should it have come meanwhile; and not the last of this.
        let room = (need - 1).saturating_sub(before).min(known);
        if room == 0 {
            // Taken by another thread or process since the socket was found readable.
            return Ok(());
        }
        if self.taken.is_none() {
            self.taken = Some(Taken {
                wire: Buffer::try_take()?,
                len: 0,
                opened: false,
            });
        }
        let taken = self.taken.as_mut().ok_or(Error::NotRecoverable)?;
        let out = &mut taken.wire.bytes_mut()[taken.len..][..room];
        taken.len += match &mut io.session {
            None => io.sys.take(io.fd, out)?,
            Some(session) => session.take(place, io.sys, io.fd, out)?,
        };
        self.window.release();
        Ok(())
    }

    /// Takes records out of the socket that were peeked at and fill it, though nothing of them can be
    /// delivered: so many that they are above any low-water mark. With other processes, which have
    /// to find them there, the caller goes on polling.
    pub(super) fn make_way(&mut self, io: &mut Io<'_>) -> Result<()> {
        if io.session.is_none() && self.has_opened() {
            self.let_go_of_opened();
            self.drop_stale(io)?;
        }
        Ok(())
    }

    /// A call has reported the stop: nobody needs to be woken for it any more.
    pub(super) fn tell_stop(&mut self) {
        self.stop_told = true;
    }

    /// Nothing more is read: an internal fault.
    pub(super) fn poison(&mut self) {
        self.stopped = Some(Errno::NOTRECOVERABLE);
    }
}

/// The longest record: header, explicit nonce or content type, plaintext, tag, rounded up.
const WIRE_MAX: usize = MAX_PLAINTEXT + 64;

const _: () = assert!(Layout::new(Version::Tls12, NonceForm::Explicit).overhead() < 64);
