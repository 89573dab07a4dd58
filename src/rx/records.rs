//! The records at the head of the receive queue: found, opened, kept until they are delivered.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::num::{NonZeroI32, NonZeroU64};
use std::os::fd::RawFd;

use rustix::io::Errno;

use super::Tally;
use super::shared::Session;
use super::window::{Filled, Window};
use crate::aead::{Choice, Cipher, Provider, RecordOpener, TrafficKeys};
use crate::engine::Buffer;
use crate::error::{Error, PendingError, Result};
use crate::record::{
    BadHeader, HEADER_LEN, Layout, MAX_PLAINTEXT, NonceForm, RecordNumber, RecordNumbers, Version,
    content_type::HANDSHAKE, parse_header,
};
use crate::stats::STATS;
use crate::sys::receive::Receive;
use crate::sys::secret::SecretBox;

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
}

impl Found {
    /// Whether a receive would return at once.
    pub(super) fn is_readable(self, has_opened: bool) -> bool {
        match self {
            Found::Ready(_) | Found::Eof | Found::Broken => true,
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

/// Where a direction stands: all that processes have to agree on, but the keys.
///
/// What may be absent has no other zero: comparing an `Option<u64>`, the optimiser reads a payload
/// that is not there, which memory checkers report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Number of the first record that is not completely delivered, and how much of it is.
    pub first: RecordNumber,
    pub offset: usize,
    /// Bytes of that record that are out of the socket.
    pub taken_len: usize,
    pub rekey_at: Option<NonZeroU64>,
    /// An errno.
    pub stopped: Option<NonZeroI32>,
    pub stop_announced: bool,
    pub stop_told: bool,
    pub mark: usize,
}

impl Snapshot {
    /// Whether the two differ in nothing but the socket's low-water mark.
    pub(super) fn is_at(&self, other: &Snapshot) -> bool {
        let mark = self.mark;
        *self == Snapshot { mark, ..*other }
    }

    /// The same, and nothing is read any more.
    pub(super) fn stopped_by(self, errno: Errno) -> Snapshot {
        Snapshot {
            stopped: NonZeroI32::new(errno.raw_os_error()),
            stop_announced: false,
            ..self
        }
    }
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
    keys: SecretBox<TrafficKeys>,
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
    /// The stop has become the socket's pending error.
    stop_announced: bool,
    /// A call has been told of the stop, and none needs to be woken for it any more.
    stop_told: bool,
    /// The socket's `SO_RCVLOWAT`.
    mark: usize,
    pub(super) tally: Tally,
}

impl Records {
    pub(super) fn new(keys: TrafficKeys, choice: Choice) -> Result<Records> {
        Ok(Records {
            opener: RecordOpener::new(&keys, choice)?,
            numbers: keys.numbers(),
            keys: SecretBox::new(keys),
            window: Window::default(),
            taken: None,
            opened: VecDeque::new(),
            spare: None,
            choice,
            skip: 0,
            rekey_at: None,
            stopped: None,
            stop_announced: false,
            stop_told: false,
            mark: 1,
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
        self.opener = RecordOpener::new(&keys, choice)?;
        // Nothing can fail from here on. What was opened stays as it is (RK-11).
        self.numbers = keys.numbers();
        self.rekey_at = None;
        if io.session.is_some() {
            // Only this process can open them any more, and has.
            self.let_go_of_opened();
            // What fails here is told by the next look.
            let _ = self.drop_stale(io);
        }
        let place = self.snapshot();
        if let Some(session) = &mut io.session {
            session.rekeyed(&keys, place);
        }
        self.keys = SecretBox::new(keys);
        Ok(())
    }

    /// Where the direction stands.
    fn snapshot(&self) -> Snapshot {
        let (first, offset) = match self.opened.front() {
            Some(record) if record.wire > 0 => (record.number, record.at),
            _ => (self.numbers.peek(), self.skip),
        };
        Snapshot {
            first,
            offset,
            taken_len: self.taken.as_ref().map_or(0, |taken| taken.len),
            rekey_at: self.rekey_at,
            stopped: self
                .stopped
                .and_then(|errno| NonZeroI32::new(errno.raw_os_error())),
            stop_announced: self.stop_announced,
            stop_told: self.stop_told,
            mark: self.mark,
        }
    }

    /// Forgets what is known of the socket, and goes on where another process has come to.
    pub(super) fn restore(
        &mut self,
        keys: TrafficKeys,
        place: &Snapshot,
        taken: &[u8],
    ) -> Result<()> {
        self.opener = RecordOpener::new(&keys, self.choice)?;
        self.keys = SecretBox::new(keys);
        self.numbers = RecordNumbers::new(place.first.rec_seq, place.first.nonce_explicit);
        self.window.forget();
        // What stands in no other process's way is only in this one.
        self.opened.retain(|record| record.wire == 0);
        self.taken = (place.taken_len > 0).then(|| {
            let mut wire = Buffer::take();
            wire.head_mut(place.taken_len)
                .copy_from_slice(&taken[..place.taken_len]);
            Taken {
                wire,
                len: place.taken_len,
                opened: false,
            }
        });
        self.skip = place.offset;
        self.rekey_at = place.rekey_at;
        self.stopped = place
            .stopped
            .map(|errno| Errno::from_raw_os_error(errno.get()));
        self.stop_announced = place.stop_announced;
        self.stop_told = place.stop_told;
        Ok(())
    }

    /// Leaves in the socket what others will have to find there; says where this one stands.
    pub(super) fn prepare_to_share(&mut self, sys: &dyn Receive, fd: RawFd) -> Result<Snapshot> {
        self.window.drop_stale(sys, fd)?;
        match self.opened.iter().any(|record| record.wire == 0) {
            true => Err(Error::NotRecoverable),
            false => Ok(self.snapshot()),
        }
    }

    pub(super) fn copy_taken(&self, memory: &mut [u8]) {
        if let Some(taken) = &self.taken {
            memory[..taken.len].copy_from_slice(taken.wire.head(taken.len));
        }
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

    /// Opens the record of `wire` bytes that [`Records::look`] has found.
    ///
    /// # Errors
    /// [`Error::SealFailed`], [`Error::BadRecord`]: the record stays where it is, and fails again
    /// (RX-20).
    pub(super) fn open(&mut self, wire: usize) -> Result<Opened> {
        let mut plain = self.spare.take().unwrap_or_else(Buffer::take);
        match self.open_to(wire, plain.bytes_mut()) {
            Ok((content_type, len)) => {
                if content_type == HANDSHAKE
                    && self.keys.version == Version::Tls13
                    && plain.head(len).first() == Some(&KEY_UPDATE)
                    && self.rekey_at.is_none()
                {
                    // RK-6.
                    self.rekey_at = NonZeroU64::new(self.numbers.peek().rec_seq.saturating_add(1));
                    STATS.rx_rekey_received.add(1);
                    self.tally.rx_rekey_received += 1;
                }
                let (number, padded) = (self.numbers.peek(), self.is_padded(wire, len));
                let (wire, taken) = self.commit(wire);
                Ok(Opened {
                    content_type,
                    plain,
                    at: core::mem::take(&mut self.skip).min(len),
                    len,
                    wire,
                    number,
                    taken,
                    padded,
                    fresh: true,
                })
            }
            Err(error) => {
                self.spare = Some(plain);
                Err(error)
            }
        }
    }

    /// Opens a record straight into the program's memory, if it is one whose content type and
    /// length are known beforehand: TLS 1.2, of which `out` has the plaintext's length.
    ///
    /// # Errors
    /// As for [`Records::open`]; `out` holds nothing of the plaintext then.
    pub(super) fn open_directly(&mut self, wire: usize, out: &mut [u8]) -> Result<()> {
        self.open_to(wire, out)?;
        let (wire, _) = self.commit(wire);
        self.window.delivered(wire);
        Ok(())
    }

    /// Plaintext length of the record found, if only data of that length can be in it.
    pub(super) fn plain_len(&self, wire: usize) -> Option<usize> {
        use crate::record::content_type::APPLICATION_DATA;
        let is_data = self.taken.is_none()
            && self.skip == 0
            && self.window.unopened().first() == Some(&APPLICATION_DATA);
        let layout = Layout::new(self.keys.version, self.keys.nonce_form());
        (is_data && self.keys.version == Version::Tls12).then(|| wire - layout.overhead())
    }

    fn open_to(&mut self, wire: usize, out: &mut [u8]) -> Result<(u8, usize)> {
        let number = self.numbers.peek().rec_seq;
        let known = self.window.unopened();
        let result = match &mut self.taken {
            Some(taken) if !taken.opened => {
                let rest = wire - taken.len;
                let record = taken.wire.head_mut(wire);
                record[taken.len..].copy_from_slice(&known[..rest]);
                self.opener.open(number, record, out)
            }
            _ => self.opener.open(number, &known[..wire], out),
        };
        // ST-3: padding without a content type is no authentication failure.
        if result == Err(Error::SealFailed) {
            STATS.decrypt_error.add(1);
            self.tally.decrypt_error += 1;
        }
        result
    }

    fn is_padded(&self, wire: usize, len: usize) -> bool {
        let layout = Layout::new(self.keys.version, self.keys.nonce_form());
        wire > len + layout.overhead()
    }

    /// The record is open: its number is spent. Returns how many of its bytes are in the socket, and
    /// whether others are out of it.
    fn commit(&mut self, wire: usize) -> (usize, bool) {
        let (mut in_socket, mut is_taken) = (wire, false);
        if let Some(taken) = self.taken.as_mut().filter(|taken| !taken.opened) {
            taken.opened = true;
            (in_socket, is_taken) = (wire - taken.len, true);
        }
        self.window.opened(in_socket);
        if self.numbers.reserve().is_none() {
            // REC-14: this one was the last.
            self.stopped = Some(Errno::BADMSG);
        }
        (in_socket, is_taken)
    }

    /// Keeps an opened record for later.
    pub(super) fn keep(&mut self, record: Opened) {
        self.opened.push_back(record);
    }

    /// An opened record has been delivered.
    pub(super) fn finish(&mut self, record: Opened) {
        self.window.delivered(record.wire);
        if record.taken {
            self.taken = None;
        }
        self.spare = Some(record.plain);
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
        let taken = self.taken.get_or_insert_with(|| Taken {
            wire: Buffer::take(),
            len: 0,
            opened: false,
        });
        // Not one byte of the next record, should it have come meanwhile; and not the last of this.
        let room = (need - 1).saturating_sub(taken.len).min(known);
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

    /// The end of a look or of a call: drops what is done with, gives memory back, and tells the
    /// kernel for how many bytes somebody is to be woken (design rule 4).
    pub(super) fn settle(&mut self, io: &mut Io<'_>) {
        for record in &mut self.opened {
            record.fresh = false;
        }
        self.window.end_of_call();
        self.tell_kernel(io, false);
    }

    /// As [`Records::settle`], in the middle of a call that `waits` for another record than those
    /// that are opened.
    pub(super) fn tell_kernel(&mut self, io: &mut Io<'_>, waits: bool) {
        let outlook = self.outlook();
        let is_idle = !matches!(outlook, Found::Ready(_)) || Window::is_dear();
        if is_idle || io.session.is_some() {
            // What fails here is told by the next look.
            let _ = self.drop_stale(io);
        }
        if is_idle {
            if self.opened.is_empty() {
                self.spare = None;
            }
            self.window.release();
        }
        let layout = Layout::new(self.keys.version, self.keys.nonce_form());
        // RX-2, RX-4: so much of a record is looked at, as it may be none.
        let prefix = layout.prefix_len;
        let mark = match outlook {
            Found::Rekey => usize::MAX,
            Found::Stopped(_) if self.stop_told && self.opened.is_empty() => usize::MAX,
            Found::Incomplete(need) if waits || self.opened.is_empty() => {
                let taken = self.taken.as_ref().filter(|taken| !taken.opened);
                self.window.ahead() + need - taken.map_or(0, |taken| taken.len)
            }
            Found::Nothing if waits => self.window.ahead() + prefix,
            // Records wait in the socket: a mark that they reach is as good as any, and saves a call.
            _ if self.mark <= self.window.in_socket() => self.mark,
            _ => prefix,
        };
        if mark != self.mark {
            io.sys.set_low_water(io.fd, mark);
            self.mark = mark;
        }
        let place = self.snapshot();
        if let Some(session) = &mut io.session {
            session.publish(place);
        }
    }
}

/// Handshake type of a KeyUpdate (RFC 8446 section 4).
const KEY_UPDATE: u8 = 24;

/// The longest record: header, explicit nonce or content type, plaintext, tag, rounded up.
const WIRE_MAX: usize = MAX_PLAINTEXT + 64;

const _: () = assert!(Layout::new(Version::Tls12, NonceForm::Explicit).overhead() < 64);
