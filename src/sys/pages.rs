//! The program's own pages, read after the call that named them has returned.

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
    /// The range must stay readable and unchanged until this value is dropped. The C interface
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

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: readable and unchanged as long as `self` lives: the promise of `new`.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
    }
}

// SAFETY: only reads, of memory that nobody writes meanwhile (the promise of `new`).
unsafe impl Send for Pages {}
