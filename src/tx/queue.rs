//! Sealed records in shared memory: a ring of bytes in which no record is cut in two.
//!
//! The ring is a plain value apart from its bytes. Whoever changes it computes the new one and then
//! puts it in place of the old, so that a process killed in between leaves one or the other.
#![forbid(unsafe_code)]

use core::ops::Range;

use crate::record::HEADER_LEN;

/// Where the records are, and what has gone through so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    /// The older records: `start..end`.
    start: usize,
    end: usize,
    /// The newer ones, from 0, once there was no room behind the older.
    wrapped: usize,
    /// Bytes of the first record that the kernel has.
    sent: usize,
    /// What the kernel has got from this queue: bytes, their plaintext, records.
    pub wire: u64,
    pub plain: u64,
    pub records: u64,
}

impl Queue {
    /// A queue of `len` bytes from the start of the ring, `sent` of them with the kernel.
    pub(super) fn filled(len: usize, sent: usize) -> Queue {
        Queue {
            end: len,
            sent,
            ..Queue::default()
        }
    }

    /// Bytes that the kernel does not have.
    pub(super) fn len(&self) -> usize {
        self.end - self.start + self.wrapped - self.sent
    }

    /// The place of the next record of up to `len` bytes in a ring of `size`, if there is one.
    pub(super) fn space(&self, size: usize, len: usize) -> Option<usize> {
        let (at, limit) = if self.wrapped == 0 && size - self.end >= len {
            (self.end, size)
        } else {
            (self.wrapped, self.start)
        };
        (limit.checked_sub(at)? >= len).then_some(at)
    }

    /// With a record of `len` bytes at `at`, the place that [`Queue::space`] gave.
    #[must_use]
    pub(super) fn with(mut self, at: usize, len: usize) -> Queue {
        if at == self.end && self.wrapped == 0 {
            self.end += len;
        } else {
            self.wrapped = at + len;
        }
        self
    }

    /// The bytes to be handed to the kernel, in order.
    pub(super) fn pieces(&self) -> [Range<usize>; 2] {
        [self.start + self.sent..self.end, 0..self.wrapped]
    }

    /// After the kernel has taken `taken` bytes; `overhead` are not plaintext in each record.
    #[must_use]
    pub(super) fn without(mut self, ring: &[u8], taken: usize, overhead: usize) -> Queue {
        self.wire += taken as u64;
        self.sent += taken;
        while self.start < self.end {
            let len = record_len(&ring[self.start..self.end]);
            if self.sent < len {
                break;
            }
            self.sent -= len;
            self.start += len;
            self.records += 1;
            self.plain += (len - overhead) as u64;
            if self.start == self.end {
                (self.start, self.end, self.wrapped) = (0, self.wrapped, 0);
            }
        }
        self
    }

    /// Plaintext bytes of the records in the queue, the partly sent one included.
    pub(super) fn plain_len(&self, ring: &[u8], overhead: usize) -> u64 {
        let mut plain = 0;
        for mut rest in [&ring[self.start..self.end], &ring[..self.wrapped]] {
            while !rest.is_empty() {
                let len = record_len(rest);
                plain += (len - overhead) as u64;
                rest = &rest[len..];
            }
        }
        plain
    }

    /// Empty; what was in it is lost, what went through before it stays counted.
    #[must_use]
    pub(super) fn cleared(self) -> Queue {
        Queue {
            wire: self.wire,
            plain: self.plain,
            records: self.records,
            ..Queue::default()
        }
    }
}

/// Length of the wire record at the start of `bytes`, which we have sealed.
pub(super) fn record_len(bytes: &[u8]) -> usize {
    HEADER_LEN + usize::from(u16::from_be_bytes([bytes[3], bytes[4]]))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is put in and taken out in whatever portions comes out as it went in.
        #[test]
        fn bytes_come_out_in_order(
            steps in prop::collection::vec((any::<bool>(), 6usize..400), 1..200),
        ) {
            const SIZE: usize = 1000;
            let (mut ring, mut queue) = ([0u8; SIZE], Queue::default());
            let (mut entered, mut left, mut plain) = (Vec::new(), Vec::new(), 0);
            for (enter, len) in steps {
                if enter {
                    let Some(at) = queue.space(SIZE, len) else { continue };
                    let mut record: Vec<u8> = (0..len).map(|i| (i + entered.len()) as u8).collect();
                    record[3..5].copy_from_slice(&((len - HEADER_LEN) as u16).to_be_bytes());
                    ring[at..at + len].copy_from_slice(&record);
                    queue = queue.with(at, len);
                    entered.extend(record);
                    plain += len as u64 - 6;
                } else {
                    let mut taken = 0;
                    for piece in queue.pieces() {
                        let piece = &ring[piece];
                        let some = piece.len().min(len - taken);
                        left.extend(&piece[..some]);
                        taken += some;
                    }
                    queue = queue.without(&ring, taken, 6);
                }
                prop_assert_eq!(queue.len(), entered.len() - left.len());
                prop_assert_eq!(queue.plain + queue.plain_len(&ring, 6), plain);
                prop_assert_eq!(queue.wire, left.len() as u64);
                prop_assert!(entered.starts_with(&left));
            }
        }
    }
}
