//! Where a direction stands, for other processes to go on from there.
#![forbid(unsafe_code)]

use std::num::{NonZeroI32, NonZeroU64};
use std::os::fd::RawFd;

use rustix::io::Errno;

use super::{Records, Taken};
use crate::aead::{RecordOpener, TrafficKeys};
use crate::engine::Buffer;
use crate::error::{Error, Result};
use crate::record::{RecordNumber, RecordNumbers};
use crate::sys::receive::Receive;

/// Where a direction stands: all that processes have to agree on, but the keys.
///
/// What may be absent has no other zero: comparing an `Option<u64>`, the optimiser reads a payload
/// that is not there, which memory checkers report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rx) struct Snapshot {
    /// Number of the first record that is not completely delivered, and how much of it is.
    pub first: RecordNumber,
    pub offset: usize,
    /// Bytes of that record that are out of the socket.
    pub taken_len: usize,
    pub rekey_at: Option<NonZeroU64>,
    /// An errno.
    pub stopped: Option<NonZeroI32>,
    pub stop_announced: bool,
    pub stop_told: bool,
    pub mark: usize,
}

impl Snapshot {
    /// Whether the two differ in nothing but the socket's low-water mark.
    pub(in crate::rx) fn is_at(&self, other: &Snapshot) -> bool {
        let mark = self.mark;
        *self == Snapshot { mark, ..*other }
    }

    /// The same, and nothing is read any more.
    pub(in crate::rx) fn stopped_by(self, errno: Errno) -> Snapshot {
        Snapshot {
            stopped: NonZeroI32::new(errno.raw_os_error()),
            stop_announced: false,
            ..self
        }
    }
}

impl Records {
    /// Where the direction stands.
    pub(in crate::rx) fn snapshot(&self) -> Snapshot {
        // What is in memory only stands in no other process's way.
        let (first, offset) = match self.opened.iter().find(|record| record.wire > 0) {
            Some(record) => (record.number, record.at),
            None => (self.numbers.peek(), self.skip),
        };
        Snapshot {
            first,
            offset,
            taken_len: self.taken.as_ref().map_or(0, |taken| taken.len),
            rekey_at: self.rekey_at,
            stopped: self
                .stopped
                .and_then(|errno| NonZeroI32::new(errno.raw_os_error())),
            stop_announced: self.stop_announced,
            stop_told: self.stop_told,
            mark: self.mark,
        }
    }

    /// Forgets what is known of the socket, and goes on where another process has come to.
    pub(in crate::rx) fn restore(
        &mut self,
        keys: TrafficKeys,
        place: &Snapshot,
        taken: &[u8],
    ) -> Result<()> {
        // What may fail comes first.
        let wire = match place.taken_len > 0 {
            true => Some(Buffer::try_take()?),
            false => None,
        };
        self.opener = RecordOpener::new(&keys, self.choice)?;
        self.keys = keys;
        self.numbers = RecordNumbers::new(place.first.rec_seq, place.first.nonce_explicit);
        self.window.forget();
        // What stands in no other process's way is only in this one.
        self.opened.retain(|record| record.wire == 0);
        self.taken = wire.map(|mut wire| {
            wire.head_mut(place.taken_len)
                .copy_from_slice(&taken[..place.taken_len]);
            Taken {
                wire,
                len: place.taken_len,
                opened: false,
            }
        });
        self.skip = place.offset;
        self.rekey_at = place.rekey_at;
        self.stopped = place
            .stopped
            .map(|errno| Errno::from_raw_os_error(errno.get()));
        self.stop_announced = place.stop_announced;
        self.stop_told = place.stop_told;
        Ok(())
    }

    /// Leaves in the socket what others will have to find there; says where this one stands.
    pub(in crate::rx) fn prepare_to_share(
        &mut self,
        sys: &dyn Receive,
        fd: RawFd,
    ) -> Result<Snapshot> {
        self.window.drop_stale(sys, fd)?;
        match self.opened.iter().any(|record| record.wire == 0) {
            true => Err(Error::NotRecoverable),
            false => Ok(self.snapshot()),
        }
    }

    pub(in crate::rx) fn copy_taken(&self, memory: &mut [u8]) {
        if let Some(taken) = &self.taken {
            memory[..taken.len].copy_from_slice(taken.wire.head(taken.len));
        }
    }
}
