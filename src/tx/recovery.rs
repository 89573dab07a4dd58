//! What the next holder of the shared state's lock does for one that died with it (MT-8); see
//! `shared` for what it may have been at. Whoever dies here leaves it to the next one.
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "testing"))]
use std::io::IoSlice;
use std::sync::atomic::Ordering;

#[cfg(any(test, feature = "testing"))]
use super::shared::OPEN_LEN;
use super::shared::{DEAD, IDLE, Locked, SENDING};
use crate::error::Error;
#[cfg(any(test, feature = "testing"))]
use crate::record::content_type::APPLICATION_DATA;
use crate::sys::steps::step;

impl Locked<'_> {
    /// Finishes what the last holder of the lock was at, if it did not.
    pub(super) fn recover(&mut self) {
        // So only while the lock is held; so its holder is gone, by death or by a panic.
        let is_sending = self.head().phase.load(Ordering::Acquire) == SENDING;
        let is_sealing = self.state().begun.is_some();
        if is_sending || is_sealing {
            log::warn!("connection {}: a sender died", self.connection.id);
        }
        if is_sending {
            self.finish_sending();
        }
        if is_sealing && self.head().counts.error.load(Ordering::Acquire) == 0 {
            // What fails now is in the sticky error.
            let _ = self.finish_record();
        } else if is_sealing {
            // Perhaps because of this very record.
            self.end_record(None);
        }
        if self.held.owner_died() || is_sending || is_sealing {
            self.recount();
            step();
            self.enter(IDLE);
        }
        if self.head().is(DEAD) && self.state().queue.len() > 0 {
            self.clear();
        }
    }

    /// How much of the queue did the kernel take?
    fn finish_sending(&mut self) {
        let queue = self.state().queue;
        let written = self.connection.shared.sys.written(self.connection.fd());
        let taken = written
            .zip(self.head().written_before)
            .and_then(|(now, before)| now.checked_sub(before)?.checked_sub(queue.wire))
            .and_then(|taken| usize::try_from(taken).ok())
            .filter(|taken| *taken <= queue.len());
        match taken {
            Some(taken) => {
                let after = queue.without(self.ring(), taken, self.overhead());
                self.change(|state| state.queue = after);
            }
            None => self.die(Error::NotRecoverable.errno()),
        }
    }

    /// The counters that are read without the lock may have been left between two states.
    fn recount(&self) {
        let (state, counts) = (self.state(), &self.head().counts);
        let queued = state.queue.plain_len(self.ring(), self.overhead());
        let handed = counts.handed_before.load(Ordering::Relaxed) + state.queue.plain;
        counts.handed.store(handed, Ordering::Release);
        let accepted = handed + queued + state.open_len as u64;
        counts.accepted.store(accepted, Ordering::Release);
        let queued = state.queue.len() as u64;
        counts.queued.store(queued, Ordering::Release);
        let records = counts.records_before.load(Ordering::Relaxed) + state.queue.records;
        counts.records_sent.store(records, Ordering::Relaxed);
    }
}

#[cfg(any(test, feature = "testing"))]
impl Locked<'_> {
    /// Dies around a `sendmsg` that takes `taken` bytes.
    pub(super) fn die_sending(self, taken: usize) {
        self.enter(SENDING);
        let [first, _] = self.state().queue.pieces();
        let first = &self.ring()[first];
        let bytes = IoSlice::new(&first[..taken.min(first.len())]);
        let connection = self.connection;
        let _ = connection.shared.sys.send(connection.fd(), &[bytes]);
        core::mem::forget(self);
    }

    /// Dies while it seals the open record.
    pub(super) fn die_sealing(mut self) {
        if self.state().open_len > 0 {
            self.change(|state| state.begun = Some(APPLICATION_DATA));
        }
        if let Some(at) = self.space(1) {
            self.held.parts().1[OPEN_LEN + at] = 0xff;
        }
        core::mem::forget(self);
    }
}
