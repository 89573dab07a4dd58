//! The program's own pages, read after the call that named them has returned.

use super::gather::Span;

/// A range of the program's memory that it lent us until the bytes have been handed to the kernel
/// (`tls_sendpage`, `MSG_SPLICE_PAGES` in the kernel).
#[derive(Debug)]
pub struct Pages(Span<'static>);

impl Pages {
    /// Borrows `len` bytes at `start`.
    ///
    /// # Safety
    /// `len` is at most `isize::MAX`, and what of the range can be read must stay so, and unchanged, until
    /// this value is dropped. The C interface passes that duty on to the program: the bytes count as
    /// pending until then.
    #[must_use]
    pub unsafe fn new(start: *const u8, len: usize) -> Pages {
        // SAFETY: our caller's promise, for as long as `self` lends the span's bytes.
        Pages(unsafe { Span::new(start, len) })
    }

    /// Borrows bytes that stay for the rest of the process.
    #[must_use]
    pub fn lent_for_ever(bytes: &'static [u8]) -> Pages {
        Pages(Span::from(bytes))
    }

    /// Cuts off the first `len` bytes (at most all).
    #[must_use]
    pub fn split_to(&mut self, len: usize) -> Pages {
        Pages(self.0.split_to(len))
    }

    /// The first `len` bytes, if there are as many and they can be read.
    #[must_use]
    pub fn get(&self, len: usize) -> Option<&[u8]> {
        self.0.get(0, len)
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, which [`Pages::get`] has found readable.
    ///
    /// # Panics
    /// If the program has taken the memory away since, which it has promised not to.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.get(self.len()).expect("seen before")
    }
}

// SAFETY: only reads, of memory that nobody writes meanwhile (the promise of `new`).
unsafe impl Send for Pages {}
