//! The socket's write side: gathers ready records and hands them to the kernel.
//!
//! Whoever holds the [`Writer`] is the only one that writes to the socket: the caller or the
//! worker, never both. A record that the kernel took in part is finished before anything else
//! (AS-7, AS-8).
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::RawFd;

use rustix::io::Errno;

use super::ready_list::{Head, ReadyList};
use super::transmit::By;
use crate::engine::Buffer;
use crate::stats::STATS;
use crate::sys::net::Sys;

/// A run of consecutive sealed records in one buffer: often one full record, or many small ones.
#[derive(Debug)]
pub(crate) struct Segment {
    pub buffer: Buffer,
    /// Wire bytes in the buffer, from its start.
    pub len: usize,
    /// Records in the run.
    pub records: u32,
    /// Their plaintext bytes.
    pub plain: usize,
}

/// What handing over records came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The kernel has everything that was ready; this stands at the head now.
    Drained(Head),
    /// The kernel has just refused bytes, and will tell when it has room.
    Refused,
    /// The connection is dead; the errno is the kernel's.
    Failed(Errno),
}

/// What went to the kernel in one [`Writer::transmit`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    /// `sendmsg` calls that took bytes.
    pub calls: u64,
    /// Records that went out completely.
    pub records: u64,
    /// Their plaintext bytes.
    pub plain: u64,
    /// Bytes on the wire.
    pub wire: u64,
    /// The most records completed by one call.
    pub records_in_a_call: u64,
}

impl Moved {
    /// Adds it to the counters of the process.
    pub(super) fn count(&self, by: By) {
        STATS.transmit_calls.add(self.calls);
        STATS.tx_wire_bytes.add(self.wire);
        if self.records > 0 {
            STATS.tx_records.add(self.records);
            STATS.tx_bytes.add(self.plain);
            STATS.transmit_records_max.raise(self.records_in_a_call);
            match by {
                By::Caller | By::Sleeper => STATS.records_from_caller.add(self.records),
                By::Worker | By::Relay => STATS.records_from_worker.add(self.records),
            }
        }
    }
}

/// Records taken from the ready list and not yet completely in the kernel.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    queue: VecDeque<Segment>,
    /// Bytes of the first segment that the kernel has.
    sent: usize,
}

impl Writer {
    /// Hands ready records to the kernel until none is ready, it refuses, or it fails; or makes one system call, if
    /// `once`.
    pub(crate) fn transmit(
        &mut self,
        sys: &dyn Sys,
        fd: RawFd,
        list: &ReadyList<Segment>,
        once: bool,
    ) -> (Outcome, Moved) {
        let mut moved = Moved::default();
        loop {
            let mut room = GATHER_MAX.saturating_sub(self.bytes());
            let mut slots = IOV_MAX - self.queue.len().min(IOV_MAX);
            let head = list.take(&mut self.queue, |next| {
                let fits = slots > 0 && room > 0;
                slots = slots.saturating_sub(1);
                room = room.saturating_sub(next.len);
                fits
            });
            if self.queue.is_empty() {
                return (Outcome::Drained(head), moved);
            }
            let (offered, result) = self.send(sys, fd);
            match result {
                Ok(taken) => {
                    self.advance(taken, &mut moved);
                    // A short count means that the kernel ran out of room and remembers that
                    // somebody waits for it (SOCK_NOSPACE), exactly as with EAGAIN.
                    if taken < offered {
                        return (Outcome::Refused, moved);
                    }
                    // What became ready meanwhile is seen by the look behind the writer's lock.
                    if once || head != Head::Ready {
                        return (Outcome::Drained(head), moved);
                    }
                }
                // EWOULDBLOCK is the same number.
                Err(Errno::AGAIN | Errno::INTR) => return (Outcome::Refused, moved),
                // The kernel is short of memory for the moment; the bytes are still ours.
                Err(Errno::NOBUFS | Errno::NOMEM) => return (Outcome::Refused, moved),
                Err(errno) => return (Outcome::Failed(errno), moved),
            }
        }
    }

    /// Drops what was taken; the connection is broken.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.sent = 0;
    }

    /// Takes everything that is ready, to be moved elsewhere.
    pub(crate) fn take_all(&mut self, list: &ReadyList<Segment>) {
        list.take(&mut self.queue, |_| true);
    }

    /// Bytes of the first segment that the kernel has.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// The first segment's bytes.
    pub(crate) fn first(&self) -> &[u8] {
        let first = self.queue.front();
        first.map_or(&[], |first| first.buffer.head(first.len))
    }

    /// Copies all segments but the first `skip` bytes to `out`.
    pub(crate) fn copy_to(&self, mut out: &mut [u8], mut skip: usize) {
        for segment in &self.queue {
            let bytes = &segment.buffer.head(segment.len)[skip..];
            skip = 0;
            let (to, rest) = out.split_at_mut(bytes.len());
            to.copy_from_slice(bytes);
            out = rest;
        }
    }

    /// Gives back the memory of an empty queue that was long once.
    pub(crate) fn trim(&mut self) {
        if self.queue.is_empty() {
            self.queue.shrink_to(0);
        }
    }

    /// Bytes that the kernel does not have.
    pub(crate) fn bytes(&self) -> usize {
        self.queue.iter().map(|segment| segment.len).sum::<usize>() - self.sent
    }

    /// One `sendmsg` of all that is queued. Returns what was offered as well.
    fn send(&self, sys: &dyn Sys, fd: RawFd) -> (usize, Result<usize, Errno>) {
        let mut slices = [IoSlice::new(&[]); IOV_MAX];
        let mut count = 0;
        let mut offered = 0;
        let mut skip = self.sent;
        for (slice, segment) in slices.iter_mut().zip(&self.queue) {
            let bytes = &segment.buffer.head(segment.len)[skip..];
            skip = 0;
            offered += bytes.len();
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        (offered, sys.send(fd, &slices[..count]))
    }

    fn advance(&mut self, mut taken: usize, moved: &mut Moved) {
        moved.calls += 1;
        moved.wire += taken as u64;
        let before = moved.records;
        while let Some(first) = self.queue.front() {
            let rest = first.len - self.sent;
            if taken < rest {
                self.sent += taken;
                break;
            }
            taken -= rest;
            self.sent = 0;
            moved.records += u64::from(first.records);
            moved.plain += first.plain as u64;
            self.queue.pop_front();
        }
        moved.records_in_a_call = moved.records_in_a_call.max(moved.records - before);
    }
}

/// Bytes gathered for one `sendmsg`. More would not fit the send buffer of a connection at work
/// and would push the records out of the second-level cache before the kernel copies them.
const GATHER_MAX: usize = 256 * 1024;

/// Segments per `sendmsg`; enough for `GATHER_MAX` in full records with room for short ones.
const IOV_MAX: usize = 64;
