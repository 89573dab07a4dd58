//! The program's bytes, on their way into records.
#![forbid(unsafe_code)]

use super::open_record::OpenRecord;
use crate::sys::copy::copy;
use crate::sys::gather::Span;
use crate::sys::pages::Pages;

/// Where a send stands in the program's data.
pub(super) enum Source<'a> {
    /// Segments, read before the call returns.
    Memory { spans: &'a [Span<'a>], at: usize },
    /// Pages, read by whoever seals.
    Pages(Pages),
}

impl<'a> Source<'a> {
    pub(super) fn memory(spans: &'a [Span<'a>]) -> Source<'a> {
        Source::Memory { spans, at: 0 }
    }

    /// The next `len` bytes, if they lie in one piece and can be read.
    pub(super) fn contiguous(&self, len: usize) -> Option<&[u8]> {
        match self {
            Source::Pages(pages) => pages.get(len),
            Source::Memory { spans, at } => spans.first()?.get(*at, len),
        }
    }

    /// Whether the next `len` bytes can be read (TX-13).
    pub(super) fn is_readable(&self, mut len: usize) -> bool {
        match self {
            Source::Pages(pages) => pages.get(len).is_some(),
            Source::Memory { spans, at } => {
                let mut at = *at;
                spans.iter().all(|span| {
                    let here = len.min(span.len() - at);
                    let good = span.get(at, here).is_some();
                    len -= here;
                    at = 0;
                    good
                })
            }
        }
    }

    pub(super) fn skip(&mut self, mut len: usize) {
        match self {
            Source::Pages(pages) => drop(pages.split_to(len)),
            Source::Memory { spans, at } => {
                while let Some(first) = spans.first().filter(|first| len >= first.len() - *at) {
                    len -= first.len() - *at;
                    *spans = &spans[1..];
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

    /// Fills `out` with the next bytes, which can be read.
    pub(super) fn copy_out(&mut self, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let left = out.len() - done;
            let piece = match self {
                Source::Pages(pages) => pages.get(left),
                Source::Memory { spans, at } => spans
                    .first()
                    .and_then(|first| first.get(*at, left.min(first.len() - *at))),
            };
            let piece = piece.expect("asked before");
            let copied = piece.len();
            copy(piece, &mut out[done..][..copied]);
            self.skip(copied);
            done += copied;
        }
    }
}
