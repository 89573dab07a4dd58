//! crypto_info: the bytes of `setsockopt(SOL_TLS, TLS_TX)` and typed keys, both ways.
//!
//! All structs are `version`, `cipher_type`, then `iv`, `key`, `salt`, `rec_seq` without padding
//! (`<linux/tls.h>`), so one table of lengths describes them.
#![forbid(unsafe_code)]

use crate::aead::{Cipher, SecretKey, StaticIv, TrafficKeys};
use crate::error::{Error, Result};
use crate::record::{NonceForm, RecordNumber, Version};
use crate::sys::scrub;

/// A parsed crypto_info.
#[derive(Debug)]
pub struct CryptoInfo;

impl CryptoInfo {
    /// Parses one of the structs of `<linux/tls.h>`, checking in the kernel's order (CI-1 a, d, e,
    /// g, h).
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn parse(bytes: &[u8]) -> Result<TrafficKeys> {
        let (version, cipher) = Self::head(bytes)?;
        if bytes.len() != expected_len(cipher) {
            return Err(Error::Invalid);
        }
        let fields = Fields::of(cipher);
        let (iv, rest) = bytes[HEAD_LEN..].split_at(fields.iv);
        let (key, rest) = rest.split_at(cipher.key_len());
        let (salt, rec_seq) = rest.split_at(fields.salt);
        Ok(TrafficKeys {
            version,
            cipher,
            key: SecretKey::new(key).ok_or(Error::Invalid)?,
            iv: StaticIv::new(salt, iv).ok_or(Error::Invalid)?,
            rec_seq: u64::from_be_bytes(rec_seq.try_into().map_err(|_| Error::Invalid)?),
        })
    }

    /// Version and cipher from the first four bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not four, or they name nothing that kTLS has.
    pub fn head(bytes: &[u8]) -> Result<(Version, Cipher)> {
        let [a, b, c, d] = *bytes.first_chunk().ok_or(Error::Invalid)?;
        let version = Version::from_code(u16::from_ne_bytes([a, b])).ok_or(Error::Invalid)?;
        let cipher = Cipher::from_id(u16::from_ne_bytes([c, d])).ok_or(Error::Invalid)?;
        if !cipher.is_in(version) {
            return Err(Error::Invalid);
        }
        Ok((version, cipher))
    }
}

/// Length of the cipher's struct in bytes.
#[must_use]
pub fn expected_len(cipher: Cipher) -> usize {
    let fields = Fields::of(cipher);
    HEAD_LEN + fields.iv + cipher.key_len() + fields.salt + REC_SEQ_LEN
}

/// Writes the struct as `getsockopt` returns it: keys as installed, `rec_seq` of the next record,
/// and the explicit nonce moved on with it where the cipher has one (CI-12, CI-13).
///
/// `out` is [`expected_len`] bytes long.
pub fn encode(keys: &TrafficKeys, number: RecordNumber, out: &mut [u8]) {
    let fields = Fields::of(keys.cipher);
    let (salt, installed_iv) = keys.iv.bytes().split_at(fields.salt);
    let moved_iv = number.nonce_explicit.to_be_bytes();
    let iv = match keys.nonce_form() {
        NonceForm::Explicit => &moved_iv,
        NonceForm::Xor => installed_iv,
    };
    let parts: [&[u8]; 6] = [
        &keys.version.code().to_ne_bytes(),
        &keys.cipher.id().to_ne_bytes(),
        iv,
        keys.key.bytes(),
        salt,
        &number.rec_seq.to_be_bytes(),
    ];
    let mut rest = out;
    for part in parts {
        let (head, tail) = rest.split_at_mut(part.len());
        head.copy_from_slice(part);
        rest = tail;
    }
    scrub::registers();
}

/// The keys in force and the next ones, each as a crypto_info struct with the numbers that they came with:
/// for memory that processes share. Keys are only ever written there in place.
pub struct KeySlots([[u8; LEN_MAX]; 2]);

impl KeySlots {
    /// Without keys.
    #[must_use]
    pub const fn empty() -> KeySlots {
        KeySlots([[0; LEN_MAX]; 2])
    }

    /// Puts keys into a slot.
    pub fn put(&mut self, slot: usize, keys: &TrafficKeys) {
        let len = expected_len(keys.cipher);
        encode(keys, keys.numbers().peek(), &mut self.0[slot % 2][..len]);
    }

    /// The keys of a slot.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are none of this cipher.
    pub fn get(&self, slot: usize, cipher: Cipher) -> Result<TrafficKeys> {
        CryptoInfo::parse(&self.0[slot % 2][..expected_len(cipher)])
    }

    /// Wipes a slot.
    pub fn clear(&mut self, slot: usize) {
        self.0[slot % 2].fill(0);
    }
}

/// The longest of the structs.
pub const LEN_MAX: usize = 56;

/// Lengths that differ between ciphers.
struct Fields {
    iv: usize,
    salt: usize,
}

impl Fields {
    fn of(cipher: Cipher) -> Fields {
        match cipher {
            Cipher::ChaCha20Poly1305 => Fields { iv: 12, salt: 0 },
            _ => Fields { iv: 8, salt: 4 },
        }
    }
}

const HEAD_LEN: usize = 2 + 2;
const REC_SEQ_LEN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: u16, cipher: u16, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len as u8).collect();
        bytes[..2].copy_from_slice(&version.to_ne_bytes());
        bytes[2..4].copy_from_slice(&cipher.to_ne_bytes());
        bytes
    }

    /// CI-1 d, e, g, h.
    #[test]
    fn what_is_refused() {
        for (version, cipher, len) in [
            (0x0302, 51, 40),
            (0x0305, 51, 40),
            (0x0304, 57, 40),
            (0x0304, 58, 56),
            (0x0303, 0, 40),
            (0x0303, 50, 40),
            (0x0303, 59, 40),
            (0x0303, 51, 39),
            (0x0303, 51, 41),
            (0x0303, 51, 56),
            (0x0303, 54, 40),
            (0x0303, 51, 4),
        ] {
            let parsed = CryptoInfo::parse(&info(version, cipher, len));
            assert_eq!(
                parsed.map(|_| ()),
                Err(Error::Invalid),
                "{version:x} {cipher} {len}"
            );
        }
        assert_eq!(
            CryptoInfo::parse(&[3, 3, 51]).map(|_| ()),
            Err(Error::Invalid)
        );
    }

    /// CI-12, CI-13: every struct survives the way in and out, and only what counts
    /// has counted.
    #[test]
    fn round_trip_with_counters() {
        for version in [Version::Tls12, Version::Tls13] {
            for cipher in Cipher::ALL
                .into_iter()
                .filter(|cipher| cipher.is_in(version))
            {
                let bytes = info(version.code(), cipher.id(), expected_len(cipher));
                let keys = CryptoInfo::parse(&bytes).unwrap();
                let mut numbers = keys.numbers();
                let mut out = vec![0; bytes.len()];
                encode(&keys, numbers.peek(), &mut out);
                assert_eq!(out, bytes);
                numbers.reserve().unwrap();
                encode(&keys, numbers.peek(), &mut out);
                let mut expected = bytes.clone();
                *expected.last_mut().unwrap() += 1;
                if cipher.nonce_form(version) == NonceForm::Explicit {
                    expected[4 + 7] += 1;
                }
                assert_eq!(out, expected, "{version:?} {cipher:?}");
            }
        }
    }

    /// No byte of a key is printed.
    #[test]
    fn debug_prints_no_key() {
        let keys = CryptoInfo::parse(&info(0x0304, 52, 56)).unwrap();
        let text = format!("{keys:?} {:?} {:?}", keys.key, keys.iv);
        assert!(!text.contains("12") || !text.contains("13, 14"), "{text}");
        assert!(!text.contains("[") && !text.contains("0x"), "{text}");
    }
}
