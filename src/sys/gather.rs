//! Memory of the program that bytes to send come from: the segments of an iovec.

use core::marker::PhantomData;

use super::user_memory;

/// A piece of the program's memory, of which perhaps not all can be read.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    start: *const u8,
    len: usize,
    memory: PhantomData<&'a [u8]>,
}

impl<'a> Span<'a> {
    /// The `len` bytes at `start`.
    ///
    /// # Safety
    /// `len` is at most `isize::MAX`, and what of the bytes can be read stays so, and unchanged, as long
    /// as the result lives.
    #[must_use]
    pub unsafe fn new(start: *const u8, len: usize) -> Span<'a> {
        Span {
            start,
            len,
            memory: PhantomData,
        }
    }

    /// Bytes, readable or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Cuts off the first `len` bytes (at most all).
    #[must_use]
    pub fn split_to(&mut self, len: usize) -> Span<'a> {
        let head = Span {
            len: len.min(self.len),
            ..*self
        };
        self.start = self.start.wrapping_add(head.len);
        self.len -= head.len;
        head
    }

    /// The `len` bytes from `at`, if there are as many and all can be read.
    #[must_use]
    pub fn get(&self, at: usize, len: usize) -> Option<&'a [u8]> {
        if len == 0 || len > self.len.checked_sub(at)? {
            return (len == 0).then_some(&[]);
        }
        let start = self.start.wrapping_add(at);
        if user_memory::readable(start, len) < len {
            return None;
        }
        // SAFETY: inside what `new` was told of, and readable, so that the promise of `new` holds for it.
        Some(unsafe { core::slice::from_raw_parts(start, len) })
    }
}

impl<'a> From<&'a [u8]> for Span<'a> {
    fn from(bytes: &'a [u8]) -> Span<'a> {
        Span {
            start: bytes.as_ptr(),
            len: bytes.len(),
            memory: PhantomData,
        }
    }
}
