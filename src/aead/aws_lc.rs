//! AWS-LC, by its C interface: `aws-lc-rs` can neither seal out of place (which saves a copy of
//! every byte) nor put its contexts where we want them.

use core::ffi::c_int;
use core::mem::MaybeUninit;

use aws_lc_sys::{
    EVP_AEAD_CTX, EVP_AEAD_CTX_cleanup, EVP_AEAD_CTX_init, EVP_AEAD_CTX_open,
    EVP_AEAD_CTX_seal_scatter, EVP_aead_aes_128_gcm, EVP_aead_aes_256_gcm,
    EVP_aead_chacha20_poly1305,
};

use super::scrubbed::scrubbed;
use super::{Aead, Cipher};
use crate::error::{Error, Result};
use crate::record::{NONCE_LEN, TAG_LEN};
use crate::sys::secret::SecretBox;

/// The cipher with this key, if AWS-LC has it in the form that TLS needs.
pub(super) fn new(cipher: Cipher, key: &[u8]) -> Option<Box<dyn Aead>> {
    let aead = match cipher {
        // SAFETY: returns a constant.
        Cipher::AesGcm128 => unsafe { EVP_aead_aes_128_gcm() },
        // SAFETY: returns a constant.
        Cipher::AesGcm256 => unsafe { EVP_aead_aes_256_gcm() },
        // SAFETY: returns a constant.
        Cipher::ChaCha20Poly1305 => unsafe { EVP_aead_chacha20_poly1305() },
        _ => return None,
    };
    let mut context = Context(SecretBox::new(MaybeUninit::zeroed()));
    let place = context.0.as_mut_ptr();
    // SAFETY: `place` is room for a context, aligned for it (an EVP_AEAD_CTX needs 16), and stays
    // where it is for its life; `key` is readable for its length.
    let done = unsafe {
        EVP_AEAD_CTX_init(
            place,
            aead,
            key.as_ptr(),
            key.len(),
            TAG_LEN,
            core::ptr::null_mut(),
        )
    };
    // A zeroed context is a valid argument of the cleanup in `drop`.
    (done == 1).then(|| match cipher {
        // Its key is words among those of the state, which does not fit the registers.
        Cipher::ChaCha20Poly1305 => scrubbed::<2048>(context),
        _ => scrubbed::<0>(context),
    })
}

/// A keyed context. The library's AES-GCM and ChaCha20 states are plain memory inside it.
struct Context(SecretBox<MaybeUninit<EVP_AEAD_CTX>>);

impl Context {
    fn get(&self) -> *const EVP_AEAD_CTX {
        self.0.as_ptr()
    }
}

// SAFETY: sealing and opening take a const context and may be called from several threads at once
// (openssl/aead.h); nothing else is called before `drop`.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: initialised, or zeroed, by `new`; not used again.
        unsafe { EVP_AEAD_CTX_cleanup(self.0.as_mut_ptr()) };
    }
}

impl Aead for Context {
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        plain: &[u8],
        extra: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        if out.len() != plain.len() + extra.len() + TAG_LEN {
            return Err(Error::SealFailed);
        }
        if plain.len() <= COPIED_MAX && !extra.is_empty() {
            return self.seal_copied(nonce, aad, plain, extra, out);
        }
        let (text, tail) = out.split_at_mut(plain.len());
        let mut tail_len = 0;
        // SAFETY: each pointer comes from a slice with the length beside it; `text` is as long as
        // `plain` and does not overlap it, and `tail` has room for the extra byte and the tag.
        let done = unsafe {
            EVP_AEAD_CTX_seal_scatter(
                self.get(),
                text.as_mut_ptr(),
                tail.as_mut_ptr(),
                &raw mut tail_len,
                tail.len(),
                nonce.as_ptr(),
                NONCE_LEN,
                plain.as_ptr(),
                plain.len(),
                extra.as_ptr(),
                extra.len(),
                aad.as_ptr(),
                aad.len(),
            )
        };
        check(done, tail_len == extra.len() + TAG_LEN)
    }

    fn seal_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> Result<()> {
        let len = buf.len().checked_sub(TAG_LEN).ok_or(Error::SealFailed)?;
        let (text, tag) = buf.split_at_mut(len);
        let (text, mut tag_len) = (text.as_mut_ptr(), 0);
        // SAFETY: as in `seal`; sealing onto the plaintext itself is allowed.
        let done = unsafe {
            EVP_AEAD_CTX_seal_scatter(
                self.get(),
                text,
                tag.as_mut_ptr(),
                &raw mut tag_len,
                TAG_LEN,
                nonce.as_ptr(),
                NONCE_LEN,
                text.cast_const(),
                len,
                core::ptr::null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        check(done, tag_len == TAG_LEN)
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let mut out_len = 0;
        // SAFETY: each pointer comes from a slice with the length beside it; `out` and `sealed`
        // do not overlap, being a mutable and a shared slice. On failure `out` is zeroed.
        let done = unsafe {
            EVP_AEAD_CTX_open(
                self.get(),
                out.as_mut_ptr(),
                &raw mut out_len,
                out.len(),
                nonce.as_ptr(),
                NONCE_LEN,
                sealed.as_ptr(),
                sealed.len(),
                aad.as_ptr(),
                aad.len(),
            )
        };
        check(done, out_len == out.len())
    }
}

/// Up to this many bytes are copied, to be sealed in place with the extra byte among them: an extra
/// byte by itself is another block of the cipher, in ChaCha20 as dear as a short record.
const COPIED_MAX: usize = 1024;

fn check(done: c_int, complete: bool) -> Result<()> {
    (done == 1 && complete)
        .then_some(())
        .ok_or(Error::SealFailed)
}
