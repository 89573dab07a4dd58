//! Key types: bounded, wiped on drop, never copied, never printed. Their bytes stay where they were first
//! written, in memory that is not dumped: a value that moves takes only the address along.
#![forbid(unsafe_code)]

use super::Cipher;
use crate::record::{NONCE_LEN, NonceForm, RecordNumbers, Version};
use crate::sys::scrub;
use crate::sys::secret::SecretBox;

/// A traffic key of 16 or 32 bytes.
pub struct SecretKey {
    bytes: SecretBox<[u8; 32]>,
    len: u8,
}

impl SecretKey {
    /// Copies a key of at most 32 bytes in; `None` if it is longer.
    #[must_use]
    pub fn new(key: &[u8]) -> Option<SecretKey> {
        let mut bytes = SecretBox::new([0; 32]);
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        scrub::registers();
        Some(SecretKey {
            bytes,
            len: u8::try_from(key.len()).ok()?,
        })
    }

    /// The key.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Salt and IV as one nonce-sized value: for `NonceForm::Xor` the static IV, for
/// `NonceForm::Explicit` the salt and the first explicit nonce.
pub struct StaticIv(SecretBox<[u8; NONCE_LEN]>);

impl StaticIv {
    /// From the fields `salt` (0 or 4 bytes) and `iv` (12 or 8); `None` if they do not add up.
    #[must_use]
    pub fn new(salt: &[u8], iv: &[u8]) -> Option<StaticIv> {
        let mut bytes = SecretBox::new([0; NONCE_LEN]);
        bytes.get_mut(..salt.len())?.copy_from_slice(salt);
        if salt.len() + iv.len() != NONCE_LEN {
            return None;
        }
        bytes[salt.len()..].copy_from_slice(iv);
        Some(StaticIv(bytes))
    }

    /// All twelve bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; NONCE_LEN] {
        &self.0
    }

    /// The first four bytes.
    #[must_use]
    pub fn salt(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = *self.0;
        [a, b, c, d]
    }

    /// The last eight bytes as a number.
    #[must_use]
    pub fn explicit(&self) -> u64 {
        let [_, _, _, _, rest @ ..] = *self.0;
        u64::from_be_bytes(rest)
    }
}

/// What a crypto_info struct says, typed: the keys of one direction.
pub struct TrafficKeys {
    /// Protocol version.
    pub version: Version,
    /// Cipher.
    pub cipher: Cipher,
    /// Key.
    pub key: SecretKey,
    /// Salt and IV.
    pub iv: StaticIv,
    /// Number of the first record.
    pub rec_seq: u64,
}

impl TrafficKeys {
    /// The numbers of the records sealed with these keys.
    #[must_use]
    pub fn numbers(&self) -> RecordNumbers {
        RecordNumbers::new(self.rec_seq, self.iv.explicit())
    }

    /// Whether sealing with these keys could repeat a nonce of `before`, whose next record is number
    /// `next` (CI-7; the kernel does not look).
    #[must_use]
    pub fn may_repeat(&self, before: &TrafficKeys, next: u64) -> bool {
        self.key.bytes() == before.key.bytes()
            && (self.iv.bytes() != before.iv.bytes() || self.rec_seq < next)
    }

    /// How nonces come about.
    #[must_use]
    pub fn nonce_form(&self) -> NonceForm {
        self.cipher.nonce_form(self.version)
    }
}

impl core::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SecretKey({} bytes)", self.len)
    }
}

impl core::fmt::Debug for StaticIv {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("StaticIv")
    }
}

impl core::fmt::Debug for TrafficKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TrafficKeys")
            .field("version", &self.version)
            .field("cipher", &self.cipher)
            .finish_non_exhaustive()
    }
}
