//! Arguments that point to the program's memory: EFAULT where the kernel, which copies them, finds
//! nothing there.

use crate::error::{Error, Result};
use crate::sys::gather::Span;
use crate::sys::user_memory::{readable, writable};

/// The bytes at `start`, or [`Error::BadAddress`]. The empty slice needs no address.
///
/// # Safety
/// What of the `len` bytes at `start` can be read stays so, and unchanged, as long as the result is used.
pub(super) unsafe fn bytes<'a>(start: *const u8, len: usize) -> Result<&'a [u8]> {
    // SAFETY: our caller's promise, passed on.
    let span = unsafe { span(start, len) }?;
    span.get(0, len).ok_or(Error::BadAddress)
}

/// The bytes at `start`, which are looked at when they are used. [`Error::BadAddress`] for
/// addresses that no program has.
///
/// # Safety
/// As for [`bytes`].
pub(super) unsafe fn span<'a>(start: *const u8, len: usize) -> Result<Span<'a>> {
    if len == 0 {
        return Ok(Span::from(&[][..]));
    }
    if isize::try_from(len).is_err() {
        return Err(Error::Invalid);
    }
    if isize::try_from(start.addr().saturating_add(len)).is_err() {
        return Err(Error::BadAddress);
    }
    // SAFETY: a possible length; the rest is our caller's promise.
    Ok(unsafe { Span::new(start, len) })
}

/// An option's value, of which perhaps only the beginning can be read.
#[derive(Clone, Copy)]
pub(super) struct Argument<'a> {
    /// What can be read of it.
    pub readable: &'a [u8],
    /// How long the program says that it is.
    pub len: usize,
    pub is_null: bool,
}

impl<'a> Argument<'a> {
    /// The argument of `len` bytes at `start`.
    ///
    /// # Safety
    /// As for [`bytes`].
    pub(super) unsafe fn new(start: *const u8, len: usize) -> Argument<'a> {
        let good = readable(start, len.min(ARGUMENT_MAX));
        Argument {
            // SAFETY: a part that has just been found readable of what our caller promises for.
            readable: unsafe { bytes(start, good) }.unwrap_or(&[]),
            len,
            is_null: start.is_null(),
        }
    }

    /// All of it: [`Error::Invalid`] for NULL, [`Error::BadAddress`] if not all can be read.
    pub(super) fn whole(self) -> Result<&'a [u8]> {
        match self.readable.len() == self.len {
            _ if self.is_null => Err(Error::Invalid),
            true => Ok(self.readable),
            false => Err(Error::BadAddress),
        }
    }
}

/// The struct at `from`, which may lie anywhere.
///
/// # Safety
/// Any bytes are a `T`.
pub(super) unsafe fn read<T: Copy>(from: *const T) -> Result<T> {
    match readable(from.cast(), size_of::<T>()) == size_of::<T>() {
        // SAFETY: readable, as has just been seen, and any bytes will do.
        true => Ok(unsafe { from.read_unaligned() }),
        false => Err(Error::BadAddress),
    }
}

/// Whether `len` bytes can be written at `start`.
pub(super) fn is_writable<T>(start: *mut T, len: usize) -> Result<()> {
    match writable(start.cast_const().cast(), len) == len {
        true => Ok(()),
        false => Err(Error::BadAddress),
    }
}

/// No option is as long; a wrong length is not worth a look at so much memory.
const ARGUMENT_MAX: usize = 65536;
