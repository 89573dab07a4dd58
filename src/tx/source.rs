//! The program's bytes, on their way into records.
#![forbid(unsafe_code)]

use super::open_record::OpenRecord;
use crate::sys::copy::copy;
use crate::sys::pages::Pages;

/// Where a send stands in the program's data.
pub(super) enum Source<'a> {
    /// Slices, read before the call returns.
    Slices { slices: &'a [&'a [u8]], at: usize },
    /// Pages, read by whoever seals.
    Pages(Pages),
}

impl<'a> Source<'a> {
    pub(super) fn slices(slices: &'a [&'a [u8]]) -> Source<'a> {
        Source::Slices { slices, at: 0 }
    }

    /// The next `len` bytes, if they lie in one piece.
    pub(super) fn contiguous(&self, len: usize) -> Option<&[u8]> {
        match self {
            Source::Pages(pages) => pages.bytes().get(..len),
            Source::Slices { slices, at } => slices.first()?.get(*at..)?.get(..len),
        }
    }

    pub(super) fn skip(&mut self, mut len: usize) {
        match self {
            Source::Pages(pages) => drop(pages.split_to(len)),
            Source::Slices { slices, at } => {
                while let Some(first) = slices.first().filter(|first| len >= first.len() - *at) {
                    len -= first.len() - *at;
                    *slices = &slices[1..];
                    *at = 0;
                }
                *at += len;
            }
        }
    }

    pub(super) fn copy_to(&mut self, record: &mut OpenRecord, len: usize) {
        self.copy_out(record.space(len));
        record.grow(len);
    }

    /// Fills `out` with the next bytes.
    pub(super) fn copy_out(&mut self, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let len = out.len() - done;
            let piece = match self {
                Source::Pages(pages) => &pages.bytes()[..len],
                Source::Slices { slices, at } => {
                    let rest = slices.first().map_or(&[][..], |first| &first[*at..]);
                    &rest[..len.min(rest.len())]
                }
            };
            let copied = piece.len();
            copy(piece, &mut out[done..][..copied]);
            self.skip(copied);
            done += copied;
        }
    }
}
