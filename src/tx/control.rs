//! What a connection is asked besides sending: new keys, the size of its records, its figures.
#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::{Connection, Sender, sealer};
use crate::aead::{Cipher, RecordSealer, TrafficKeys};
use crate::engine::Kind;
use crate::error::{Error, Result};
use crate::record::{MAX_PLAINTEXT, RecordNumber, Version};
use crate::stats::STATS;
use crate::sys::scrub;

/// What `uktls_get_info` reports of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// TLS version.
    pub version: Version,
    /// Cipher.
    pub cipher: Cipher,
    /// Engine asked for.
    pub engine: Kind,
    /// AEAD implementation in use.
    pub aead: crate::aead::Provider,
    /// Number of the next record.
    pub number: RecordNumber,
    /// Records handed to the kernel.
    pub records: u64,
    /// Plaintext bytes handed to the kernel.
    pub bytes: u64,
    /// Plaintext bytes accepted and not yet handed to the kernel.
    pub pending: u64,
    /// Records sealed or being sealed, and not yet completely with the kernel.
    pub queued_records: u64,
    /// Most plaintext bytes in a record.
    pub max_payload: u16,
}

impl Connection {
    /// Replaces the keys (RK-1 to RK-5): what is sealed from now on uses the new ones, what was
    /// submitted keeps the old. TLS 1.3 only.
    ///
    /// # Errors
    /// [`Error::KeysPresent`] for TLS 1.2 (CI-3); [`Error::Invalid`] if version or cipher differ.
    /// On failure the old keys stay in force.
    pub fn rekey(self: &Arc<Self>, keys: impl FnOnce() -> Result<TrafficKeys>) -> Result<()> {
        // A rekey waits for a send in progress (CI-10).
        let _turn = self
            .turn
            .take_uninterrupted()
            .map_err(|_| Error::Deadlock)?;
        let result = match (self.private(), self.joint()) {
            (Some(mut sender), _) => {
                sender.rekey(keys, |keys| sealer(&self.shared, &self.settings, keys))
            }
            (None, Some(joint)) => self.rekey_shared(joint, keys),
            (None, None) => Err(Error::NotRecoverable),
        };
        match result {
            Ok(()) => {
                STATS.tx_rekey_ok.add(1);
                self.rekeys_ok.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                STATS.tx_rekey_error.add(1);
                self.rekeys_refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        result
    }

    /// Version and cipher of the keys.
    pub fn suite(&self) -> (Version, Cipher) {
        self.either(
            |sender| (sender.sealer.version(), sender.sealer.cipher()),
            |joint| joint.suite,
        )
    }

    /// Writes the full crypto_info struct, with the number of the next record, for `getsockopt`
    /// (CI-12, CI-13). `out` has the struct's exact length.
    ///
    /// # Errors
    /// None that is expected: the lock of a shared connection.
    pub fn crypto_info(self: &Arc<Self>, out: &mut [u8]) -> Result<()> {
        if let Some(sender) = self.private() {
            crate::crypto_info::encode(&sender.keys, sender.numbers.peek(), out);
            return Ok(());
        }
        let joint = self.joint().ok_or(Error::NotRecoverable)?;
        self.crypto_info_shared(joint, out)
    }

    /// Sets the most plaintext bytes in a record (CI-19).
    ///
    /// # Errors
    /// [`Error::KeysPresent`] (EBUSY) while a record is open.
    pub fn set_max_payload(self: &Arc<Self>, len: usize) -> Result<()> {
        let Some(mut sender) = self.private() else {
            let joint = self.joint().ok_or(Error::NotRecoverable)?;
            return self.set_max_payload_shared(joint, len);
        };
        if sender.open.as_ref().is_some_and(|open| open.len() > 0) {
            return Err(Error::KeysPresent);
        }
        sender.max_payload = len.min(MAX_PLAINTEXT);
        Ok(())
    }

    /// The figures of this connection.
    ///
    /// # Errors
    /// None that is expected: the lock of a shared connection.
    pub fn info(self: &Arc<Self>) -> Result<Info> {
        let Some(sender) = self.private() else {
            let joint = self.joint().ok_or(Error::NotRecoverable)?;
            return self.info_shared(joint);
        };
        Ok(Info {
            version: sender.sealer.version(),
            cipher: sender.sealer.cipher(),
            engine: self.settings.engine,
            aead: sender.sealer.provider(),
            number: sender.numbers.peek(),
            records: self.counts.records_sent.load(Ordering::Relaxed),
            bytes: self.counts.handed.load(Ordering::Relaxed),
            pending: self.pending(),
            queued_records: self.records_queued(&sender),
            max_payload: u16::try_from(sender.max_payload).unwrap_or(u16::MAX),
        })
    }

    /// Records sealed or being sealed, and not yet completely with the kernel.
    pub(super) fn records_queued(&self, sender: &Sender) -> u64 {
        let sent = self.counts.records_sent.load(Ordering::Relaxed);
        sender.sealed.saturating_sub(sent)
    }

    /// Attempts of this process to change the keys: those that succeeded, and those refused.
    pub fn rekeys(&self) -> (u64, u64) {
        (
            self.rekeys_ok.load(Ordering::Relaxed).into(),
            self.rekeys_refused.load(Ordering::Relaxed).into(),
        )
    }
}

impl Sender {
    fn rekey(
        &mut self,
        keys: impl FnOnce() -> Result<TrafficKeys>,
        sealer: impl FnOnce(&TrafficKeys) -> Result<RecordSealer>,
    ) -> Result<()> {
        if self.sealer.version() == Version::Tls12 {
            return Err(Error::KeysPresent);
        }
        let keys = keys()?;
        if (keys.version, keys.cipher) != (self.sealer.version(), self.sealer.cipher()) {
            return Err(Error::Invalid);
        }
        // Design rule 1: nothing that was ever sealed with is taken again.
        let (old, new) = (fingerprint(&self.keys), fingerprint(&keys));
        if keys.may_repeat(&self.keys, self.numbers.peek().rec_seq)
            || (old != new && self.used.contains(&new))
        {
            return Err(Error::Invalid);
        }
        let sealer = Arc::new(sealer(&keys)?);
        // Nothing can fail after this line.
        self.sealer = sealer;
        if old != new {
            self.used = self.used.iter().copied().chain([old]).collect();
        }
        self.numbers = keys.numbers();
        self.keys = keys;
        Ok(())
    }
}

/// Tells keys apart, and nothing of them: a hash with a secret of this process and the children that
/// it forks from now on.
pub(super) fn fingerprint(keys: &TrafficKeys) -> u64 {
    static SECRET: OnceLock<RandomState> = OnceLock::new();
    let secret = SECRET.get_or_init(RandomState::new);
    scrub::after::<1024, _>(|| secret.hash_one(keys.key.bytes()))
}
