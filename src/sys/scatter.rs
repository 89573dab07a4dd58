//! Memory of the program that received bytes go to: the segments of an iovec.

use core::marker::PhantomData;

use super::copy::PIECE;
use super::user_memory;

/// The free rest of the program's buffers. Segments may overlap, as the kernel allows; so they are
/// kept as addresses, and no two references to them exist at the same time.
#[derive(Debug)]
pub struct Destination<'a> {
    segments: &'a [(usize, usize)],
    /// Bytes of the first segment that are full.
    at: usize,
    left: usize,
    /// Memory was met that cannot be written to.
    is_bad: bool,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Destination<'a> {
    /// From (address, length) pairs.
    ///
    /// # Safety
    /// What of the segments can be written to stays so, and is read or written by nobody else, as long
    /// as the result lives.
    #[must_use]
    pub unsafe fn new(segments: &'a [(usize, usize)]) -> Destination<'a> {
        Destination {
            segments,
            at: 0,
            left: segments
                .iter()
                .fold(0, |sum: usize, (_, len)| sum.saturating_add(*len)),
            is_bad: false,
            memory: PhantomData,
        }
    }

    /// For tests, whose memory outlives the call that it is lent to.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn lent(segments: &'a [(usize, usize)]) -> Destination<'a> {
        // SAFETY: tests of this crate pass the address of memory that they own, and use it afterwards.
        unsafe { Destination::new(segments) }
    }

    /// Bytes that still fit: none behind memory that cannot be written to.
    #[must_use]
    pub fn left(&self) -> usize {
        self.left
    }

    /// Whether bytes were to go where nothing can be written (RX-27).
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.is_bad
    }

    /// Copies as much of `bytes` in as fits; returns how much.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let Some((start, room)) = self.head().filter(|_| done < bytes.len()) {
            let wanted = room.min(bytes.len() - done);
            let good = user_memory::writable(start, wanted);
            if good == 0 {
                self.is_bad = true;
                self.left = 0;
                break;
            }
            for piece in bytes[done..][..good].chunks(PIECE) {
                let (start, _) = self.head().expect("there is room");
                // SAFETY: `start` is writable for these bytes, as has just been seen, and stays so by the
                // promise of `new`; `piece` is memory of ours, which the program's does not overlap.
                unsafe { core::ptr::copy_nonoverlapping(piece.as_ptr(), start, piece.len()) };
                self.advance(piece.len());
            }
            done += good;
        }
        done
    }

    /// The next `len` bytes, if they lie in one piece and can be written to; to be counted by
    /// [`Destination::advance`].
    pub fn contiguous(&mut self, len: usize) -> Option<&mut [u8]> {
        let (start, _) = self
            .head()
            .filter(|(start, room)| *room >= len && user_memory::writable(*start, len) == len)?;
        // SAFETY: writable, as has just been seen, and stays so by the promise of `new`; borrowed
        // through `self`.
        Some(unsafe { core::slice::from_raw_parts_mut(start, len) })
    }

    /// Counts `len` bytes as filled.
    pub fn advance(&mut self, len: usize) {
        self.at += len;
        self.left -= len;
    }

    /// Address and room of the first segment that is not full.
    fn head(&mut self) -> Option<(*mut u8, usize)> {
        if self.is_bad {
            return None;
        }
        while let Some(((start, len), later)) = self.segments.split_first() {
            if self.at < *len {
                let at = core::ptr::with_exposed_provenance_mut(start + self.at);
                return Some((at, len - self.at));
            }
            self.at = 0;
            self.segments = later;
        }
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn segment(bytes: &mut [u8]) -> (usize, usize) {
        (bytes.as_mut_ptr().expose_provenance(), bytes.len())
    }

    /// RX-35: segments are filled in order, empty ones are skipped, nothing behind them is touched.
    #[test]
    fn segments_are_filled_in_order() {
        let (mut a, mut b, mut c) = ([0u8; 3], [0u8; 0], [0u8; 4]);
        let segments = [segment(&mut a), segment(&mut b), segment(&mut c)];
        // SAFETY: the three arrays outlive the destination and are not used meanwhile.
        let mut out = unsafe { Destination::new(&segments) };
        assert_eq!(out.put(&[1, 2]), 2);
        assert!(out.contiguous(2).is_none());
        assert_eq!(out.put(&[3, 4]), 2);
        out.contiguous(2).unwrap().fill(9);
        out.advance(2);
        assert_eq!(out.left(), 1);
        assert_eq!(out.put(&[5, 6, 7]), 1);
        assert_eq!((out.left(), out.put(&[8])), (0, 0));
        assert_eq!((a, c), ([1, 2, 3], [4, 9, 9, 5]));
    }
}
