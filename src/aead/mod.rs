//! AEADs, and records sealed and opened with them.
//!
//! [`RecordSealer`] is what the rest of the library uses: one direction's keys, ready for use by
//! any number of threads at once. Below it, each provider implements the small [`Aead`] trait in a
//! file of its own.
//!
//! # Which implementation
//!
//! `auto` takes the fastest that is present, per cipher, as `uktls-bench aead` measures it; see
//! `docs/performance.md`.

mod aws_lc;
mod by_length;
mod cpu;
mod keys;
#[cfg(feature = "openssl")]
mod openssl;
#[cfg(target_arch = "x86_64")]
mod ring;
mod rustcrypto;
mod scrubbed;
mod sealer;

#[cfg(all(test, not(loom)))]
mod tests;

use std::str::FromStr;

use self::by_length::ByLength;
use crate::error::{Error, Result};
use crate::record::{NONCE_LEN, NonceForm, TAG_LEN, Version};
use crate::sys::copy::copy;
use crate::sys::scrub;

/// To be called before a handler of `atexit` is installed that may seal: what the libraries beneath install for
/// themselves, and may not be used behind, has to run later, and is installed here.
pub fn prepare() {
    #[cfg(all(feature = "openssl", not(miri)))]
    openssl::prepare();
}

pub use keys::{SecretKey, StaticIv, TrafficKeys};
pub use sealer::{Accelerated, RecordOpener, RecordSealer};

/// One key of one AEAD. Nonces are the caller's business.
pub trait Aead: Send + Sync {
    /// Seals `plain` followed by `extra` (the inner content type of TLS 1.3, or nothing) into
    /// `out`, which is as long as both and a tag. The memory may not overlap.
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
    ) -> Result<()> {
        self.seal_copied(nonce, aad, plain, extra, out)
    }

    /// [`Aead::seal`] by copying all to `out` first.
    ///
    /// # Errors
    /// [`Error::SealFailed`].
    fn seal_copied(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        plain: &[u8],
        extra: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let len = plain.len() + extra.len();
        if out.len() != len + TAG_LEN {
            return Err(Error::SealFailed);
        }
        copy(plain, &mut out[..plain.len()]);
        out[plain.len()..len].copy_from_slice(extra);
        self.seal_in_place(nonce, aad, out)
    }

    /// Seals what stands in `buf` in front of the room for the tag.
    ///
    /// # Errors
    /// [`Error::SealFailed`].
    fn seal_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> Result<()>;

    /// Opens `sealed` (ciphertext and tag) into `out`, which is shorter by the tag.
    ///
    /// # Errors
    /// [`Error::SealFailed`] (EBADMSG); `out` holds nothing of the plaintext then.
    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()>;
}

/// A kTLS cipher. The discriminants are the ids of `<linux/tls.h>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Cipher {
    /// TLS_CIPHER_AES_GCM_128.
    AesGcm128 = 51,
    /// TLS_CIPHER_AES_GCM_256.
    AesGcm256 = 52,
    /// TLS_CIPHER_AES_CCM_128.
    AesCcm128 = 53,
    /// TLS_CIPHER_CHACHA20_POLY1305.
    ChaCha20Poly1305 = 54,
    /// TLS_CIPHER_SM4_GCM.
    Sm4Gcm = 55,
    /// TLS_CIPHER_SM4_CCM.
    Sm4Ccm = 56,
    /// TLS_CIPHER_ARIA_GCM_128.
    AriaGcm128 = 57,
    /// TLS_CIPHER_ARIA_GCM_256.
    AriaGcm256 = 58,
}

impl Cipher {
    /// All of them.
    pub const ALL: [Cipher; 8] = [
        Cipher::AesGcm128,
        Cipher::AesGcm256,
        Cipher::AesCcm128,
        Cipher::ChaCha20Poly1305,
        Cipher::Sm4Gcm,
        Cipher::Sm4Ccm,
        Cipher::AriaGcm128,
        Cipher::AriaGcm256,
    ];

    /// The cipher with this id.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Cipher> {
        Self::ALL.into_iter().find(|cipher| cipher.id() == id)
    }

    /// The id of `<linux/tls.h>`.
    #[must_use]
    pub fn id(self) -> u16 {
        self as u16
    }

    /// Key length in bytes.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Cipher::AesGcm256 | Cipher::ChaCha20Poly1305 | Cipher::AriaGcm256 => 32,
            _ => 16,
        }
    }

    /// Whether the cipher exists in this version: ARIA only in TLS 1.2.
    #[must_use]
    pub fn is_in(self, version: Version) -> bool {
        let aria = matches!(self, Cipher::AriaGcm128 | Cipher::AriaGcm256);
        !(aria && version == Version::Tls13)
    }

    /// How its records' nonces come about.
    #[must_use]
    pub fn nonce_form(self, version: Version) -> NonceForm {
        match (version, self) {
            (Version::Tls13, _) | (_, Cipher::ChaCha20Poly1305) => NonceForm::Xor,
            _ => NonceForm::Explicit,
        }
    }
}

/// An AEAD implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// AWS-LC (`aws-lc-sys`): AES-GCM, ChaCha20-Poly1305.
    AwsLc,
    /// OpenSSL's EVP interface: AES-GCM, AES-CCM, ChaCha20-Poly1305, ARIA-GCM.
    OpenSsl,
    /// RustCrypto: everything.
    RustCrypto,
    /// ring, on x86-64: AES-GCM, ChaCha20-Poly1305.
    Ring,
}

/// Which AEAD implementation a program asked for (`UKTLS_AEAD`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The fastest present, per cipher.
    #[default]
    Auto,
    /// AWS-LC where it has the cipher.
    AwsLc,
    /// OpenSSL where it has the cipher.
    OpenSsl,
    /// RustCrypto.
    RustCrypto,
    /// ring where it has the cipher.
    Ring,
}

impl FromStr for Choice {
    type Err = ();
    fn from_str(text: &str) -> core::result::Result<Self, ()> {
        match text {
            "auto" => Ok(Choice::Auto),
            "aws-lc" => Ok(Choice::AwsLc),
            "openssl" => Ok(Choice::OpenSsl),
            "rustcrypto" => Ok(Choice::RustCrypto),
            "ring" => Ok(Choice::Ring),
            _ => Err(()),
        }
    }
}

/// The AEAD for `cipher` with `key`, by the implementation chosen, or by RustCrypto, which has all
/// ciphers, where that one lacks it: a setting does not break a connection.
fn aead(cipher: Cipher, key: &[u8], choice: Choice) -> Result<(Provider, Box<dyn Aead>)> {
    let order: &[Provider] = match (choice, cipher) {
        // ring has the wide AES instructions at 256 bits, AWS-LC at 512: twice as fast as without.
        (Choice::Auto, Cipher::AesGcm128 | Cipher::AesGcm256) if cpu::has_vaes_without_avx512() => {
            &[Provider::Ring, Provider::AwsLc, Provider::RustCrypto]
        }
        (Choice::Auto, _) => &[Provider::AwsLc, Provider::OpenSsl, Provider::RustCrypto],
        (Choice::AwsLc, _) => &[Provider::AwsLc, Provider::RustCrypto],
        (Choice::OpenSsl, _) => &[Provider::OpenSsl, Provider::RustCrypto],
        (Choice::RustCrypto, _) => &[Provider::RustCrypto],
        (Choice::Ring, _) => &[Provider::Ring, Provider::RustCrypto],
    };
    if (choice, cipher) == (Choice::Auto, Cipher::ChaCha20Poly1305)
        && cpu::has_avx512()
        && let Some(short) = by(Provider::AwsLc, cipher, key)
        && let Some(long) = by(Provider::OpenSsl, cipher, key)
    {
        return Ok((Provider::OpenSsl, Box::new(ByLength { short, long })));
    }
    order
        .iter()
        .find_map(|provider| Some((*provider, by(*provider, cipher, key)?)))
        .ok_or(Error::CipherMissing)
}

/// The AEAD for `cipher` by one provider, if it has it.
fn by(provider: Provider, cipher: Cipher, key: &[u8]) -> Option<Box<dyn Aead>> {
    // Constructors hand key schedules up by value.
    scrub::after::<SETUP_DEPTH, _>(|| made_by(provider, cipher, key))
}

fn made_by(provider: Provider, cipher: Cipher, key: &[u8]) -> Option<Box<dyn Aead>> {
    match provider {
        // Miri runs no foreign code.
        Provider::AwsLc if cfg!(miri) => None,
        Provider::AwsLc => aws_lc::new(cipher, key),
        #[cfg(feature = "openssl")]
        Provider::OpenSsl => openssl::new(cipher, key),
        #[cfg(not(feature = "openssl"))]
        Provider::OpenSsl => None,
        Provider::RustCrypto => rustcrypto::new(cipher, key),
        #[cfg(target_arch = "x86_64")]
        Provider::Ring if cfg!(not(miri)) => ring::new(cipher, key),
        Provider::Ring => None,
    }
}

/// Bytes of the stack that setting up a key may use.
const SETUP_DEPTH: usize = 8192;
