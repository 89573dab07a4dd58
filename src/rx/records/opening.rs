//! Records opened: into memory of their own, or straight into the program's.
#![forbid(unsafe_code)]

use std::num::NonZeroU64;

use rustix::io::Errno;

use super::{Opened, Records};
use crate::engine::Buffer;
use crate::error::{Error, Result};
use crate::record::{Layout, Version, content_type::HANDSHAKE};
use crate::stats::STATS;

impl Records {
    /// Opens the record of `wire` bytes that [`Records::look`] has found.
    ///
    /// # Errors
    /// [`Error::SealFailed`], [`Error::BadRecord`]: the record stays where it is, and fails again
    /// (RX-20). [`NO_MEMORY`](crate::error::NO_MEMORY): it stays, and is opened by a later call.
    pub(in crate::rx) fn open(&mut self, wire: usize) -> Result<Opened> {
        let mut plain = match self.spare.take() {
            Some(plain) => plain,
            None => Buffer::try_take()?,
        };
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
    pub(in crate::rx) fn open_directly(&mut self, wire: usize, out: &mut [u8]) -> Result<()> {
        self.open_to(wire, out)?;
        let (wire, _) = self.commit(wire);
        self.window.delivered(wire);
        self.passed = true;
        Ok(())
    }

    /// Plaintext length of the record found, if only data of that length can be in it.
    pub(in crate::rx) fn plain_len(&self, wire: usize) -> Option<usize> {
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
            self.numbers_ended = true;
        }
        (in_socket, is_taken)
    }

    /// Keeps an opened record for later.
    pub(in crate::rx) fn keep(&mut self, record: Opened) {
        self.opened.push_back(record);
    }

    /// An opened record has been delivered.
    pub(in crate::rx) fn finish(&mut self, record: Opened) {
        self.window.delivered(record.wire);
        self.passed = true;
        if record.taken {
            self.taken = None;
        }
        self.spare = Some(record.plain);
    }
}

/// Handshake type of a KeyUpdate (RFC 8446 section 4).
const KEY_UPDATE: u8 = 24;
