//! RustCrypto: every cipher, portable, without a C library; and the independent oracle of the
//! tests.
#![forbid(unsafe_code)]

use aes_gcm::aead::array::Array;
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::{AeadCore, AeadInOut, KeyInit, KeySizeUser};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm};
use ccm::Ccm;
use chacha20poly1305::ChaCha20Poly1305;

use super::scrubbed::scrubbed;
use super::{Aead, Cipher};
use crate::error::{Error, Result};
use crate::record::{NONCE_LEN, TAG_LEN};
use crate::sys::secret::SecretBox;

/// The cipher with this key; `None` only for a key of another length.
pub(super) fn new(cipher: Cipher, key: &[u8]) -> Option<Box<dyn Aead>> {
    match cipher {
        // With AVX-512 it spreads the key schedule over 4 KiB of the stack, below frames of as much again.
        Cipher::AesGcm128 => keyed::<12288, Aes128Gcm>(key),
        Cipher::AesGcm256 => keyed::<12288, Aes256Gcm>(key),
        Cipher::AesCcm128 => keyed::<12288, Ccm<aes::Aes128, U16, U12>>(key),
        Cipher::ChaCha20Poly1305 => keyed::<4096, ChaCha20Poly1305>(key),
        Cipher::Sm4Gcm => keyed::<4096, AesGcm<sm4::Sm4, U12>>(key),
        Cipher::Sm4Ccm => keyed::<4096, Ccm<sm4::Sm4, U16, U12>>(key),
        Cipher::AriaGcm128 => keyed::<4096, AesGcm<aria::Aria128, U12>>(key),
        Cipher::AriaGcm256 => keyed::<4096, AesGcm<aria::Aria256, U12>>(key),
    }
}

fn keyed<const DEPTH: usize, A>(key: &[u8]) -> Option<Box<dyn Aead>>
where
    A: AeadInOut + AeadCore<NonceSize = U12, TagSize = U16> + KeyInit + KeySizeUser,
    A: Send + Sync + 'static,
{
    A::new_from_slice(key)
        .ok()
        .map(|aead| scrubbed::<DEPTH>(Keyed(SecretBox::new(aead))))
}

struct Keyed<A>(SecretBox<A>);

impl<A> Aead for Keyed<A>
where
    A: AeadInOut + AeadCore<NonceSize = U12, TagSize = U16> + Send + Sync,
{
    fn seal_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> Result<()> {
        let len = buf.len().checked_sub(TAG_LEN).ok_or(Error::SealFailed)?;
        let (text, tag) = buf.split_at_mut(len);
        let nonce: &Array<u8, U12> = nonce.into();
        let sealed = self
            .0
            .encrypt_inout_detached(nonce, aad, text.into())
            .map_err(|_| Error::SealFailed)?;
        tag.copy_from_slice(&sealed);
        Ok(())
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let (text, tag) = sealed
            .split_at_checked(out.len())
            .ok_or(Error::SealFailed)?;
        out.copy_from_slice(text);
        let nonce: &Array<u8, U12> = nonce.into();
        let tag: &Array<u8, U16> = tag.try_into().map_err(|_| Error::SealFailed)?;
        let opened = self
            .0
            .decrypt_inout_detached(nonce, aad, (&mut *out).into(), tag);
        opened.map_err(|_| {
            out.fill(0);
            Error::SealFailed
        })
    }
}
