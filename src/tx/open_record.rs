//! The open record: application data accepted under `MSG_MORE`, or part of a longer send, that is
//! not sealed yet (TX-6).
#![forbid(unsafe_code)]

use crate::engine::{Buffer, Plaintext};
use crate::error::Result;
use crate::sys::copy::copy;
use crate::sys::pages::Pages;

/// A record that collects plaintext, in the memory that it will be sealed in.
#[derive(Debug)]
pub(crate) struct OpenRecord {
    buffer: Buffer,
    /// Where plaintext starts: behind the space for header and explicit nonce.
    prefix: usize,
    len: usize,
    /// Program pages that stand at the plaintext offsets named (`tls_sendpage`).
    pages: Vec<(usize, Pages)>,
}

impl OpenRecord {
    /// An empty record whose plaintext starts `prefix` bytes into its memory.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(prefix: usize) -> Result<OpenRecord> {
        Ok(OpenRecord {
            buffer: Buffer::try_take()?,
            prefix,
            len: 0,
            pages: Vec::new(),
        })
    }

    /// Plaintext bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The next `len` bytes of plaintext, to be written and then counted with [`Self::grow`].
    pub(crate) fn space(&mut self, len: usize) -> &mut [u8] {
        let start = self.prefix + self.len;
        &mut self.buffer.bytes_mut()[start..start + len]
    }

    /// Counts `len` bytes written to [`Self::space`].
    pub(crate) fn grow(&mut self, len: usize) {
        self.len += len;
    }

    /// Copies `bytes` in.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        copy(bytes, self.space(bytes.len()));
        self.grow(bytes.len());
    }

    /// Appends program pages without reading them.
    pub(crate) fn push_pages(&mut self, pages: Pages) {
        let len = pages.len();
        self.pages.push((self.len, pages));
        self.len += len;
    }

    /// The plaintext, if all of it was copied in.
    pub(crate) fn copied(&self) -> Option<&[u8]> {
        let all = &self.buffer.bytes()[self.prefix..][..self.len];
        self.pages.is_empty().then_some(all)
    }

    /// Copies the plaintext, wherever it is, to the start of `out`.
    pub(crate) fn copy_to(&self, out: &mut [u8]) {
        copy(
            &self.buffer.bytes()[self.prefix..][..self.len],
            &mut out[..self.len],
        );
        for (at, pages) in &self.pages {
            copy(pages.bytes(), &mut out[*at..][..pages.bytes().len()]);
        }
    }

    /// The memory, the plaintext's whereabouts and its length, for sealing.
    pub(crate) fn into_parts(mut self) -> (Buffer, Plaintext, usize) {
        let whole = self.pages.len() == 1 && self.pages[0].1.len() == self.len;
        let plaintext = match self.pages.len() {
            0 => Plaintext::InPlace,
            1 if whole => Plaintext::Pages(self.pages.remove(0).1),
            _ => Plaintext::Mixed(self.pages),
        };
        (self.buffer, plaintext, self.len)
    }
}
