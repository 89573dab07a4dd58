//! The records at the head of the receive queue: found, opened, kept until they are delivered.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::RawFd;

use rustix::io::Errno;

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

/// A record that has been opened and not completely delivered.
pub(super) struct Opened {
    pub content_type: u8,
    plain: Buffer,
    at: usize,
    len: usize,
    /// Bytes of it that are still in the socket.
    wire: usize,
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
    rekey_pending: bool,
    stopped: Option<Errno>,
    /// The stop has become the socket's pending error.
    stop_announced: bool,
    /// A call has been told of the stop, and none needs to be woken for it any more.
    stop_told: bool,
    /// The socket's `SO_RCVLOWAT`.
    mark: usize,
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
            rekey_pending: false,
            stopped: None,
            stop_announced: false,
            stop_told: false,
            mark: 1,
        })
    }

    pub(super) fn rekey(
        &mut self,
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
        self.keys = SecretBox::new(keys);
        self.rekey_pending = false;
        Ok(())
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
        self.has_opened() && self.window.ahead() == 0 && !self.rekey_pending
    }

    /// What stands at the head of the queue, asking the socket if it is not known.
    pub(super) fn look(&mut self, sys: &dyn Receive, fd: RawFd, pending: &PendingError) -> Found {
        let mut found = self.outlook();
        if matches!(found, Found::Incomplete(_) | Found::Nothing) {
            found = match self.window.refill(sys, fd, WIRE_MAX) {
                Ok(Filled::Eof) => Found::Eof,
                Ok(Filled::Empty | Filled::Full | Filled::All) => self.outlook(),
                Err(errno) => {
                    pending.set(errno);
                    Found::Broken
                }
            };
        }
        if let Found::Stopped(errno) = found
            && !core::mem::replace(&mut self.stop_announced, true)
        {
            self.stopped = Some(errno);
            pending.set(errno);
        }
        found
    }

    /// What is known of the head of the queue.
    fn outlook(&self) -> Found {
        if self.rekey_pending {
            return Found::Rekey;
        }
        if let Some(errno) = self.stopped {
            return Found::Stopped(errno);
        }
        let known = self.window.unopened();
        let taken = match &self.taken {
            Some(taken) => taken.wire.head(taken.len),
            None => &[],
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
                {
                    // RK-6.
                    self.rekey_pending = true;
                    STATS.rx_rekey_received.add(1);
                }
                Ok(Opened {
                    content_type,
                    plain,
                    at: 0,
                    len,
                    padded: self.is_padded(wire, len),
                    wire: self.commit(wire),
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
        let wire = self.commit(wire);
        self.window.delivered(wire);
        Ok(())
    }

    /// Plaintext length of the record found, if only data of that length can be in it.
    pub(super) fn plain_len(&self, wire: usize) -> Option<usize> {
        use crate::record::content_type::APPLICATION_DATA;
        let is_data =
            self.taken.is_none() && self.window.unopened().first() == Some(&APPLICATION_DATA);
        let layout = Layout::new(self.keys.version, self.keys.nonce_form());
        (is_data && self.keys.version == Version::Tls12).then(|| wire - layout.overhead())
    }

    fn open_to(&mut self, wire: usize, out: &mut [u8]) -> Result<(u8, usize)> {
        let number = self.numbers.peek().rec_seq;
        let known = self.window.unopened();
        let result = match &mut self.taken {
            None => self.opener.open(number, &known[..wire], out),
            Some(taken) => {
                let rest = wire - taken.len;
                let record = taken.wire.head_mut(wire);
                record[taken.len..].copy_from_slice(&known[..rest]);
                self.opener.open(number, record, out)
            }
        };
        result.inspect_err(|error| {
            // ST-3: padding without a content type is no authentication failure.
            if *error == Error::SealFailed {
                STATS.decrypt_error.add(1);
            }
        })
    }

    fn is_padded(&self, wire: usize, len: usize) -> bool {
        let layout = Layout::new(self.keys.version, self.keys.nonce_form());
        wire > len + layout.overhead()
    }

    /// The record is open: its number is spent. Returns how many of its bytes are in the socket.
    fn commit(&mut self, wire: usize) -> usize {
        let in_socket = wire - self.taken.take().map_or(0, |taken| taken.len);
        self.window.opened(in_socket);
        if self.numbers.reserve().is_none() {
            // REC-14: this one was the last.
            self.stopped = Some(Errno::BADMSG);
        }
        in_socket
    }

    /// Keeps an opened record for later.
    pub(super) fn keep(&mut self, record: Opened) {
        self.opened.push_back(record);
    }

    /// An opened record has been delivered.
    pub(super) fn finish(&mut self, record: Opened) {
        self.window.delivered(record.wire);
        self.spare = Some(record.plain);
    }

    /// Takes the known part of an incomplete record out of the socket, which has no room for more
    /// of it (RX-6). The rest of it, at least a byte, keeps the socket readable when it has come.
    pub(super) fn take_out(&mut self, sys: &dyn Receive, fd: RawFd) -> Result<()> {
        let Found::Incomplete(need) = self.outlook() else {
            return Ok(());
        };
        // Opened records stand in front of it; they are delivered from memory.
        self.window.forget_ahead();
        for record in &mut self.opened {
            record.wire = 0;
        }
        self.window.drop_stale(sys, fd)?;
        let known = self.window.unopened().len();
        let taken = self.taken.get_or_insert_with(|| Taken {
            wire: Buffer::take(),
            len: 0,
        });
        // Not one byte of the next record, should it have come meanwhile; and not the last of this.
        let room = (need - 1).saturating_sub(taken.len).min(known);
        let out = &mut taken.wire.bytes_mut()[taken.len..][..room];
        taken.len += self.window.take_out(sys, fd, out)?;
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
    pub(super) fn settle(&mut self, sys: &dyn Receive, fd: RawFd) {
        for record in &mut self.opened {
            record.fresh = false;
        }
        self.window.end_of_call();
        self.tell_kernel(sys, fd, false);
    }

    /// As [`Records::settle`], in the middle of a call that `waits` for another record than those
    /// that are opened.
    pub(super) fn tell_kernel(&mut self, sys: &dyn Receive, fd: RawFd, waits: bool) {
        let outlook = self.outlook();
        if !matches!(outlook, Found::Ready(_)) || Window::is_dear() {
            // What fails here is told by the next look.
            let _ = self.window.drop_stale(sys, fd);
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
            Found::Stopped(_) if self.stop_told => usize::MAX,
            Found::Incomplete(need) if waits || self.opened.is_empty() => {
                let taken = self.taken.as_ref().map_or(0, |taken| taken.len);
                self.window.ahead() + need - taken
            }
            Found::Nothing if waits => self.window.ahead() + prefix,
            // Records wait in the socket: a mark that they reach is as good as any, and saves a call.
            _ if self.mark <= self.window.in_socket() => self.mark,
            _ => prefix,
        };
        if mark != self.mark {
            sys.set_low_water(fd, mark);
            self.mark = mark;
        }
    }
}

/// Handshake type of a KeyUpdate (RFC 8446 section 4).
const KEY_UPDATE: u8 = 24;

/// The longest record: header, explicit nonce or content type, plaintext, tag, rounded up.
const WIRE_MAX: usize = MAX_PLAINTEXT + 64;

const _: () = assert!(Layout::new(Version::Tls12, NonceForm::Explicit).overhead() < 64);
