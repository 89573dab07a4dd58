//! Whole records: header, nonce and additional data around an AEAD.
#![forbid(unsafe_code)]

use super::{Aead, Choice, Cipher, Provider, StaticIv, TrafficKeys, aead};
use crate::error::{Error, Result};
use crate::record::{
    self, HEADER_LEN, Layout, NONCE_EXPLICIT_LEN, NONCE_LEN, NonceForm, RecordNumber, TAG_LEN,
    Version, content_type::APPLICATION_DATA,
};

/// Seals the records of one direction. Immutable: any number of threads may seal with it at once,
/// each with numbers of its own.
pub struct RecordSealer {
    direction: Direction,
    accelerated: Option<Box<dyn Accelerated>>,
}

/// A key at work somewhere else than on this processor.
pub trait Accelerated: Send + Sync {
    /// As [`Aead::seal`], but the thread may do something else meanwhile.
    ///
    /// # Errors
    /// [`Error::SealFailed`].
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        plain: &[u8],
        extra: &[u8],
        out: &mut [u8],
    ) -> Result<()>;
}

/// Opens the records of one direction.
pub struct RecordOpener {
    direction: Direction,
}

struct Direction {
    aead: Box<dyn Aead>,
    iv: StaticIv,
    version: Version,
    cipher: Cipher,
    provider: Provider,
    form: NonceForm,
    layout: Layout,
}

impl Direction {
    fn new(keys: &TrafficKeys, choice: Choice) -> Result<Direction> {
        let (provider, aead) = aead(keys.cipher, keys.key.bytes(), choice)?;
        let form = keys.nonce_form();
        let salt = keys.iv.salt();
        let iv = StaticIv::new(&salt, &keys.iv.bytes()[salt.len()..]).ok_or(Error::Invalid)?;
        let (version, cipher) = (keys.version, keys.cipher);
        let layout = Layout::new(version, form);
        Ok(Direction {
            aead,
            iv,
            version,
            cipher,
            provider,
            form,
            layout,
        })
    }

    fn nonce(&self, rec_seq: u64, explicit: [u8; NONCE_EXPLICIT_LEN]) -> [u8; NONCE_LEN] {
        match self.form {
            NonceForm::Explicit => record::nonce_from_explicit(self.iv.salt(), explicit),
            NonceForm::Xor => record::nonce_from_sequence(self.iv.bytes(), rec_seq),
        }
    }
}

impl RecordSealer {
    /// Sets the keys up with an AEAD implementation.
    ///
    /// # Errors
    /// [`Error::CipherMissing`] if none has the cipher.
    pub fn new(keys: &TrafficKeys, choice: Choice) -> Result<RecordSealer> {
        Ok(RecordSealer {
            direction: Direction::new(keys, choice)?,
            accelerated: None,
        })
    }

    /// Has an accelerator seal what is sealed by [`RecordSealer::seal_accelerated`].
    #[must_use]
    pub fn accelerated_by(self, accelerated: Option<Box<dyn Accelerated>>) -> RecordSealer {
        RecordSealer {
            accelerated,
            ..self
        }
    }

    /// Whether an accelerator has the key.
    #[must_use]
    pub fn is_accelerated(&self) -> bool {
        self.accelerated.is_some()
    }

    /// Implementation in use.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.direction.provider
    }

    /// Version of the keys.
    #[must_use]
    pub fn version(&self) -> Version {
        self.direction.version
    }

    /// Cipher of the keys.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        self.direction.cipher
    }

    /// Bytes of a record in front of its plaintext.
    #[must_use]
    pub fn prefix_len(&self) -> usize {
        self.direction.layout.prefix_len
    }

    /// Bytes of a record behind its plaintext.
    #[must_use]
    pub fn suffix_len(&self) -> usize {
        self.direction.layout.suffix_len
    }

    /// Bytes of a record that are not plaintext.
    #[must_use]
    pub fn overhead(&self) -> usize {
        self.direction.layout.overhead()
    }

    /// Seals `plain` as a whole wire record into `out`, which is `overhead()` bytes longer.
    ///
    /// # Errors
    /// [`Error::SealFailed`]; `number` is spent all the same.
    pub fn seal_from(
        &self,
        number: RecordNumber,
        content_type: u8,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let aead = &self.direction.aead;
        self.seal_by(
            number,
            content_type,
            plain,
            out,
            |nonce, aad, extra, out| aead.seal(nonce, aad, plain, extra, out),
        )
    }

    /// As [`RecordSealer::seal_from`], by the accelerator.
    ///
    /// # Errors
    /// [`Error::SealFailed`], also if there is none.
    pub fn seal_accelerated(
        &self,
        number: RecordNumber,
        content_type: u8,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let aead = self.accelerated.as_ref().ok_or(Error::SealFailed)?;
        self.seal_by(
            number,
            content_type,
            plain,
            out,
            |nonce, aad, extra, out| aead.seal(nonce, aad, plain, extra, out),
        )
    }

    fn seal_by(
        &self,
        number: RecordNumber,
        content_type: u8,
        plain: &[u8],
        out: &mut [u8],
        seal: impl FnOnce(&[u8; NONCE_LEN], &[u8], &[u8], &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let d = &self.direction;
        let (prefix, sealed) = split(out, d.layout, plain.len())?;
        let nonce = self.write_prefix(prefix, number, content_type, sealed.len());
        match d.version {
            Version::Tls12 => {
                let aad = record::aad_tls12(number.rec_seq, content_type, plain.len());
                seal(&nonce, &aad, &[], sealed)
            }
            Version::Tls13 => seal(
                &nonce,
                &record::aad_tls13(sealed.len()),
                &[content_type],
                sealed,
            ),
        }
    }

    /// Seals the plaintext that stands in `record` between `prefix_len()` and `suffix_len()` bytes
    /// of room.
    ///
    /// # Errors
    /// [`Error::SealFailed`]; `number` is spent all the same.
    pub fn seal_in_place(
        &self,
        number: RecordNumber,
        content_type: u8,
        record: &mut [u8],
    ) -> Result<()> {
        let d = &self.direction;
        let plain_len = record
            .len()
            .checked_sub(d.layout.overhead())
            .ok_or(Error::SealFailed)?;
        let (prefix, sealed) = split(record, d.layout, plain_len)?;
        let nonce = self.write_prefix(prefix, number, content_type, sealed.len());
        match d.version {
            Version::Tls12 => {
                let aad = record::aad_tls12(number.rec_seq, content_type, plain_len);
                d.aead.seal_in_place(&nonce, &aad, sealed)
            }
            Version::Tls13 => {
                let aad = record::aad_tls13(sealed.len());
                sealed[plain_len] = content_type;
                d.aead.seal_in_place(&nonce, &aad, sealed)
            }
        }
    }

    /// Writes header and explicit nonce; returns the nonce.
    fn write_prefix(
        &self,
        prefix: &mut [u8],
        number: RecordNumber,
        content_type: u8,
        sealed_len: usize,
    ) -> [u8; NONCE_LEN] {
        let explicit = number.nonce_explicit.to_be_bytes();
        let (head, nonce_part) = prefix.split_at_mut(HEADER_LEN);
        let fragment_len = nonce_part.len() + sealed_len;
        head.copy_from_slice(&record::header(self.version(), content_type, fragment_len));
        if !nonce_part.is_empty() {
            nonce_part.copy_from_slice(&explicit);
        }
        self.direction.nonce(number.rec_seq, explicit)
    }
}

impl RecordOpener {
    /// Implementation in use.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.direction.provider
    }

    /// Sets the keys up with an AEAD implementation.
    ///
    /// # Errors
    /// [`Error::CipherMissing`] if none has the cipher.
    pub fn new(keys: &TrafficKeys, choice: Choice) -> Result<RecordOpener> {
        Ok(RecordOpener {
            direction: Direction::new(keys, choice)?,
        })
    }

    /// Opens a whole wire record into `out`, which has room for the record. Returns the content
    /// type and the plaintext's length; the plaintext is at the start of `out`.
    ///
    /// TLS 1.3: padding is stripped (REC-9), and only outer type 23 is accepted (REC-10).
    ///
    /// # Errors
    /// [`Error::SealFailed`] if the record is not authentic, [`Error::BadRecord`] if it has no
    /// content type; both are EBADMSG.
    pub fn open(&self, rec_seq: u64, record: &[u8], out: &mut [u8]) -> Result<(u8, usize)> {
        let d = &self.direction;
        let (prefix, sealed) = record
            .split_at_checked(d.layout.prefix_len)
            .ok_or(Error::SealFailed)?;
        let len = sealed.len().checked_sub(TAG_LEN).ok_or(Error::SealFailed)?;
        let out = out.get_mut(..len).ok_or(Error::Invalid)?;
        let (outer_type, explicit) = (prefix[0], &prefix[HEADER_LEN..]);
        let mut nonce_part = [0; NONCE_EXPLICIT_LEN];
        nonce_part[..explicit.len()].copy_from_slice(explicit);
        let nonce = d.nonce(rec_seq, nonce_part);
        match d.version {
            Version::Tls12 => {
                let aad = record::aad_tls12(rec_seq, outer_type, len);
                d.aead.open(&nonce, &aad, sealed, out)?;
                Ok((outer_type, len))
            }
            Version::Tls13 if outer_type != APPLICATION_DATA => Err(Error::BadRecord),
            Version::Tls13 => {
                d.aead
                    .open(&nonce, &record::aad_tls13(sealed.len()), sealed, out)?;
                let end = out
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .ok_or(Error::BadRecord)?;
                Ok((out[end], end))
            }
        }
    }
}

/// Splits a record's memory into prefix and the rest, checking that it is as long as it must be.
fn split(record: &mut [u8], layout: Layout, plain_len: usize) -> Result<(&mut [u8], &mut [u8])> {
    if record.len() != plain_len + layout.overhead() || plain_len > record::MAX_PLAINTEXT {
        return Err(Error::SealFailed);
    }
    Ok(record.split_at_mut(layout.prefix_len))
}
