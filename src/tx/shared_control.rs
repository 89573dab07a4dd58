//! Everything but sending on a connection that several processes have: drain, shutdown, keys, figures.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::ending::Drain;
use super::send::SendFlags;
use super::shared::{FIN_DUE, Joint, LAST, LEFT, Locked, MEMBER, SHUT};
use super::transmit::By;
use super::writer::Outcome;
use super::{Connection, Info};
use crate::error::{Error, Result};
use crate::record::{MAX_PLAINTEXT, Version};
use crate::sys::steps::step;

/// A tenth of a second for a child that has just been forked to begin.
const STARTS: u32 = 100;
const START: Duration = Duration::from_millis(1);

impl Connection {
    /// Seals the open record, unless this process has signed off and another has not, and
    /// transmits without waiting.
    pub(super) fn drain_shared(self: &Arc<Self>, joint: &Joint) -> Result<Drain> {
        let mut locked = self.lock_joint(joint)?;
        let seals = joint.left.load(Ordering::Acquire) != LEFT;
        let mut sealed = !seals || locked.seal_open_data()?;
        let mut outcome = locked.transmit(By::Caller);
        if !sealed && matches!(outcome, Outcome::Drained(_)) {
            sealed = locked.seal_open_data()?;
            outcome = locked.transmit(By::Caller);
        }
        drop(locked);
        self.watch_if_refused(outcome);
        match outcome {
            Outcome::Failed(_) => self.check().map(|()| Drain::Done),
            Outcome::Drained(_) if sealed => Ok(Drain::Done),
            // The rest is the business of those that go on.
            _ if !seals && joint.own_is_out() => Ok(Drain::Done),
            _ => Ok(Drain::Pending),
        }
    }

    /// Waits until the kernel has everything.
    pub(super) fn flush_shared(
        self: &Arc<Self>,
        joint: &Joint,
        deadline: Option<Instant>,
    ) -> Result<()> {
        while self.drain_shared(joint)? == Drain::Pending {
            let left = deadline.map_or(SLICE, |d| d.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(Error::Os(Errno::TIMEDOUT));
            }
            // Not for ever: any process may be the one that hands over the last byte.
            let woken = self
                .shared
                .sys
                .wait_for_room(self.fd(), Some(left.min(SLICE)));
            // Whatever else went wrong, the next attempt says so.
            if woken == Err(Errno::INTR) {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// Shuts the write side down behind the last record, whichever process sends that.
    pub(super) fn shutdown_shared(self: &Arc<Self>, joint: &Joint) -> Result<()> {
        let _turn = self.take_shared_turn(joint, SendFlags::default())?;
        let drained = self.drain_shared(joint);
        // Both at once: if we die here, the others find that the FIN is still to be sent.
        joint
            .memory
            .flags
            .fetch_or(SHUT | FIN_DUE, Ordering::AcqRel);
        step();
        if drained == Ok(Drain::Pending) {
            // The last record may have gone out in between.
            self.transmit_shared(joint, By::Caller);
            return Ok(());
        }
        let shut = self.lock_joint(joint)?.finish_shutdown();
        shut.map_err(Error::from)
    }

    /// This process closes the connection or ends: from now on it seals the open record only if it
    /// was the last one (TX-56). Nothing happens to a connection that is not shared.
    pub fn leave(self: &Arc<Self>) {
        if let Some(joint) = self.joint()
            && joint.left.load(Ordering::Acquire) == MEMBER
        {
            let is_last = joint.memory.leave() || self.is_left_alone(joint);
            let left = if is_last { LAST } else { LEFT };
            joint.left.store(left, Ordering::Release);
        }
    }

    /// Whether there is an open record and no other process that could go on with it. The list of members may be wrong of
    /// those that have executed another program since, and of those of another namespace, where a process id says nothing.
    fn is_left_alone(self: &Arc<Self>, joint: &Joint) -> bool {
        let has_open = |locked: Locked<'_>| locked.state().open_len > 0;
        if !self.lock_joint(joint).is_ok_and(has_open) {
            return false;
        }
        // A child that is being forked has no lock yet; one that was killed first never gets it.
        for _ in 0..STARTS {
            if !joint.memory.members().is_expecting() {
                break;
            }
            std::thread::sleep(START);
        }
        self.shared.sys.is_elsewhere(self.fd()) == Some(false)
    }

    /// Whether no other process has the connection, or has to close it yet. To be asked behind [`Connection::leave`].
    pub fn is_last(&self) -> bool {
        self.joint()
            .is_none_or(|joint| joint.left.load(Ordering::Acquire) == LAST)
    }

    pub(super) fn rekey_shared(
        self: &Arc<Self>,
        joint: &Joint,
        keys: impl FnOnce() -> Result<crate::aead::TrafficKeys>,
    ) -> Result<()> {
        if joint.suite.0 == Version::Tls12 {
            return Err(Error::KeysPresent);
        }
        let _turn = self.take_shared_turn(joint, SendFlags::default())?;
        let keys = keys()?;
        if (keys.version, keys.cipher) != joint.suite {
            return Err(Error::Invalid);
        }
        let mut locked = self.lock_joint(joint)?;
        if keys.may_repeat(&locked.keys()?, locked.number().rec_seq) {
            return Err(Error::Invalid);
        }
        locked.rekey(&keys)
    }

    pub(super) fn set_max_payload_shared(
        self: &Arc<Self>,
        joint: &Joint,
        len: usize,
    ) -> Result<()> {
        let mut locked = self.lock_joint(joint)?;
        if locked.state().open_len > 0 {
            return Err(Error::KeysPresent);
        }
        locked.change(|state| state.max_payload = len.min(MAX_PLAINTEXT));
        Ok(())
    }

    pub(super) fn crypto_info_shared(
        self: &Arc<Self>,
        joint: &Joint,
        out: &mut [u8],
    ) -> Result<()> {
        let locked = self.lock_joint(joint)?;
        crate::crypto_info::encode(&locked.keys()?, locked.number(), out);
        Ok(())
    }

    pub(super) fn info_shared(self: &Arc<Self>, joint: &Joint) -> Result<Info> {
        let locked = self.lock_joint(joint)?;
        let (provider, number) = (locked.sealer()?.provider(), locked.number());
        let (sealed, max_payload) = (locked.state().sealed, locked.state().max_payload);
        drop(locked);
        let counts = self.counts();
        let records = counts.records_sent.load(Ordering::Relaxed);
        Ok(Info {
            version: joint.suite.0,
            cipher: joint.suite.1,
            engine: self.settings.engine,
            aead: provider,
            number,
            records,
            bytes: counts.handed.load(Ordering::Relaxed),
            pending: self.pending(),
            queued_records: sealed.saturating_sub(records),
            max_payload: u16::try_from(max_payload).unwrap_or(u16::MAX),
        })
    }
}

/// The longest sleep on a socket that another process may be serving.
const SLICE: Duration = Duration::from_millis(20);
