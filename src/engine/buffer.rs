//! Memory for records: one size, recycled.
//!
//! A buffer holds one record of full size, or a run of small ones. They are kept in a process-wide
//! free list that works last in, first out, so that a busy connection keeps using the few that are
//! warm in the cache, and an idle connection holds none.
#![forbid(unsafe_code)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::record::MAX_PLAINTEXT;
use crate::sys::reserve;

/// A record's memory, returned to the free list when dropped.
pub struct Buffer(Option<Box<[u8]>>);

impl Buffer {
    /// Bytes in a buffer: one full record with the largest overhead (13 before, 17 after), rounded
    /// up to whole cache lines.
    pub const LEN: usize = MAX_PLAINTEXT + 64;

    /// A buffer with unspecified content, for threads that cannot refuse their work: a few at a time.
    #[must_use]
    pub fn take() -> Buffer {
        let recycled = free_list().pop();
        Buffer(Some(
            recycled.unwrap_or_else(|| vec![0; Self::LEN].into_boxed_slice()),
        ))
    }

    /// A buffer with unspecified content, for a call that has not changed anything yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn try_take() -> Result<Buffer> {
        let recycled = free_list().pop();
        Ok(Buffer(Some(match recycled {
            Some(memory) => memory,
            None => reserve::zeroed(Self::LEN)?,
        })))
    }

    /// The first `len` bytes.
    #[must_use]
    pub fn head(&self, len: usize) -> &[u8] {
        &self.bytes()[..len]
    }

    /// The first `len` bytes, to write.
    pub fn head_mut(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes_mut()[..len]
    }

    /// All [`Buffer::LEN`] bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().expect("taken only by drop")
    }

    /// All [`Buffer::LEN`] bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().expect("taken only by drop")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.0.take() {
            let mut free = free_list();
            if free.len() < FREE_MAX && !reserve::is_lent(&memory) {
                free.push(memory);
            }
        }
    }
}

impl core::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The content may be plaintext.
        f.write_str("Buffer")
    }
}

/// Keeps the free list from changing, and so usable in the child, while the process forks.
pub(crate) fn hold() -> MutexGuard<'static, Vec<Box<[u8]>>> {
    free_list()
}

/// [`hold`], unless somebody has it.
pub(crate) fn try_hold() -> Option<MutexGuard<'static, Vec<Box<[u8]>>>> {
    crate::sync::try_lock_std(&FREE)
}

/// A connection, or an engine, has become idle: gives back what only a busy process needs.
pub(crate) fn trim() {
    let surplus = {
        let mut free = free_list();
        let keep = free.len().min(IDLE_MAX);
        free.split_off(keep)
    };
    // Outside of the lock: returning memory takes time.
    drop(surplus);
}

fn free_list() -> MutexGuard<'static, Vec<Box<[u8]>>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

static FREE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// At most this many buffers (16 MiB) are kept for the next records. Those of an accelerator's queue are short and many; taking
/// each from the system, and clearing it, is a tenth of the whole.
const FREE_MAX: usize = 1024;

/// At most this many (4 MiB) stay with an idle process.
const IDLE_MAX: usize = 256;
