//! The program's own pages, read after the call that named them has returned.

use super::user_memory;

/// A range of the program's memory that it lent us until the bytes have been handed to the kernel
/// (`tls_sendpage`, `MSG_SPLICE_PAGES` in the kernel).
#[derive(Debug)]
pub struct Pages {
    start: *const u8,
    len: usize,
}

impl Pages {
    /// Borrows `len` bytes at `start`.
    ///
    /// # Safety
    /// What of the range can be read must stay so, and unchanged, until this value is dropped. The C interface
    /// passes that duty on to the program: the bytes count as pending until then.
    #[must_use]
    pub unsafe fn new(start: *const u8, len: usize) -> Pages {
        Pages { start, len }
    }

    /// Borrows bytes that stay for the rest of the process.
    #[must_use]
    pub fn lent_for_ever(bytes: &'static [u8]) -> Pages {
        Pages {
            start: bytes.as_ptr(),
            len: bytes.len(),
        }
    }

    /// Cuts off the first `len` bytes (at most all).
    #[must_use]
    pub fn split_to(&mut self, len: usize) -> Pages {
        let len = len.min(self.len);
        let head = Pages {
            start: self.start,
            len,
        };
        self.start = self.start.wrapping_add(len);
        self.len -= len;
        head
    }

    /// The first `len` bytes, if there are as many and they can be read.
    #[must_use]
    pub fn get(&self, len: usize) -> Option<&[u8]> {
        let is_there = len <= self.len && user_memory::readable(self.start, len) == len;
        // SAFETY: readable now, and therefore as long as `self` lives: the promise of `new`.
        is_there.then(|| unsafe { core::slice::from_raw_parts(self.start, len) })
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, which [`Pages::get`] has found readable.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: readable and unchanged as long as `self` lives: the promise of `new`.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
    }
}

// SAFETY: only reads, of memory that nobody writes meanwhile (the promise of `new`).
unsafe impl Send for Pages {}
