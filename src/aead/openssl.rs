//! OpenSSL's EVP interface.
//!
//! A cipher context serves one thread at a time, so each key has a small pool of them: sealing
//! takes one, or makes one if all are in use. The contexts live in OpenSSL's own heap, which is
//! out of our hands as far as core dumps go; `EVP_CIPHER_CTX_free` cleanses them.

use core::ffi::{c_int, c_void};
use core::ptr::{NonNull, null, null_mut};
use std::sync::{Mutex, PoisonError};

use openssl_sys::{
    EVP_CIPHER, EVP_CIPHER_CTX, EVP_CIPHER_CTX_ctrl, EVP_CIPHER_CTX_free, EVP_CIPHER_CTX_new,
    EVP_CipherFinal, EVP_CipherInit_ex, EVP_CipherUpdate, EVP_aes_128_ccm, EVP_aes_128_gcm,
    EVP_aes_256_gcm, EVP_chacha20_poly1305, EVP_get_cipherbyname,
};

use super::scrubbed::scrubbed;
use super::{Aead, Cipher, SecretKey};
use crate::error::{Error, NO_MEMORY, Result};
use crate::record::{NONCE_LEN, TAG_LEN};

unsafe extern "C" {
    // openssl-sys does not have it by itself, without libssl.
    fn OPENSSL_init_crypto(options: u64, settings: *const c_void) -> c_int;
}

/// Has OpenSSL install its handler of `atexit`, behind which it may not be used any more.
pub(super) fn prepare() {
    // SAFETY: OpenSSL declares it so, and takes no settings for none.
    unsafe { OPENSSL_init_crypto(OPENSSL_INIT_ADD_ALL_CIPHERS, null()) };
}

/// What `EVP_get_cipherbyname` asks for by itself. Nothing at all would be taken for done already, the handler too.
const OPENSSL_INIT_ADD_ALL_CIPHERS: u64 = 4;

/// The cipher with this key, if this libcrypto has it.
pub(super) fn new(cipher: Cipher, key: &[u8]) -> Option<Box<dyn Aead>> {
    let by_name = |name: &core::ffi::CStr| {
        // SAFETY: a string with a NUL; the result is a constant or null.
        unsafe { EVP_get_cipherbyname(name.as_ptr()) }
    };
    let evp = match cipher {
        // SAFETY: returns a constant.
        Cipher::AesGcm128 => unsafe { EVP_aes_128_gcm() },
        // SAFETY: returns a constant.
        Cipher::AesGcm256 => unsafe { EVP_aes_256_gcm() },
        // SAFETY: returns a constant.
        Cipher::AesCcm128 => unsafe { EVP_aes_128_ccm() },
        // SAFETY: returns a constant.
        Cipher::ChaCha20Poly1305 => unsafe { EVP_chacha20_poly1305() },
        Cipher::AriaGcm128 => by_name(c"ARIA-128-GCM"),
        Cipher::AriaGcm256 => by_name(c"ARIA-256-GCM"),
        // Since OpenSSL 3.1 and by fetching only.
        Cipher::Sm4Gcm | Cipher::Sm4Ccm => return None,
    };
    let keyed = Keyed {
        evp: NonNull::new(evp.cast_mut())?,
        ccm: cipher == Cipher::AesCcm128,
        key: SecretKey::new(key)?,
        sealing: Mutex::new(Vec::new()),
        opening: Mutex::new(Vec::new()),
    };
    // A first context shows whether the library really has the cipher (a FIPS build may not).
    let context = Context::new(&keyed, true).ok()?;
    keyed.give(context, true);
    Some(match cipher {
        Cipher::AesGcm128 | Cipher::AesGcm256 => scrubbed::<0>(keyed),
        _ => scrubbed::<2048>(keyed),
    })
}

struct Keyed {
    evp: NonNull<EVP_CIPHER>,
    /// CCM wants to know the length first and takes all data at once.
    ccm: bool,
    key: SecretKey,
    sealing: Mutex<Vec<Context>>,
    opening: Mutex<Vec<Context>>,
}

// SAFETY: the EVP_CIPHER is a constant of the library; contexts are behind locks.
unsafe impl Send for Keyed {}
// SAFETY: as above.
unsafe impl Sync for Keyed {}

impl Keyed {
    fn pool(&self, seal: bool) -> &Mutex<Vec<Context>> {
        if seal { &self.sealing } else { &self.opening }
    }

    fn take(&self, seal: bool) -> Result<Context> {
        for _ in 0..LOOKS {
            let pooled = self
                .pool(seal)
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            if let Some(context) = pooled {
                return Ok(context);
            }
            match Context::new(self, seal) {
                // The number of this record is spent. There is a context from the beginning, so another thread seals with it.
                Err(_) if seal => std::thread::yield_now(),
                // Not the record's fault: the key has served for a context before.
                made => return made.map_err(|_| NO_MEMORY),
            }
        }
        Err(Error::SealFailed)
    }

    fn give(&self, context: Context, seal: bool) {
        self.pool(seal)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(context);
    }
}

/// How often a thread looks for a context when there is no memory for another one: for a second at least.
const LOOKS: u32 = 1_000_000;

/// A keyed cipher context, for sealing or for opening.
struct Context(NonNull<EVP_CIPHER_CTX>);

// SAFETY: a context may move between threads, it may only not be used by two at once.
unsafe impl Send for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by EVP_CIPHER_CTX_new, not used again.
        unsafe { EVP_CIPHER_CTX_free(self.0.as_ptr()) };
    }
}

impl Context {
    fn new(keyed: &Keyed, seal: bool) -> Result<Context> {
        // SAFETY: takes nothing; null if memory is short.
        let context = unsafe { EVP_CIPHER_CTX_new() };
        let context = Context(NonNull::new(context).ok_or(Error::SealFailed)?);
        context.init(keyed.evp.as_ptr(), null(), null(), seal)?;
        context.control(EVP_CTRL_AEAD_SET_IVLEN, NONCE_LEN, null_mut())?;
        if keyed.ccm {
            context.control(EVP_CTRL_AEAD_SET_TAG, TAG_LEN, null_mut())?;
        }
        context.init(null(), keyed.key.bytes().as_ptr(), null(), seal)?;
        Ok(context)
    }

    fn init(
        &self,
        cipher: *const EVP_CIPHER,
        key: *const u8,
        nonce: *const u8,
        seal: bool,
    ) -> Result<()> {
        // SAFETY: a live context; key and nonce are null or as long as the cipher says.
        check(unsafe {
            EVP_CipherInit_ex(self.0.as_ptr(), cipher, null_mut(), key, nonce, seal.into())
        })
    }

    fn control(&self, command: c_int, value: usize, data: *mut c_void) -> Result<()> {
        // SAFETY: a live context; `data` is null or has `value` bytes.
        check(unsafe { EVP_CIPHER_CTX_ctrl(self.0.as_ptr(), command, length(value)?, data) })
    }

    /// `out` is null (additional data, or CCM's announcement of a length) or has `len` bytes.
    fn update(&self, out: *mut u8, input: *const u8, len: usize) -> Result<()> {
        let mut written = 0;
        // SAFETY: a live context; the pointers are null or have `len` bytes, as said above.
        check(unsafe {
            EVP_CipherUpdate(self.0.as_ptr(), out, &raw mut written, input, length(len)?)
        })
    }

    fn finish(&self) -> Result<()> {
        let (mut nothing, mut written) = ([0; TAG_LEN], 0);
        // SAFETY: a live context; these ciphers write nothing here.
        check(unsafe { EVP_CipherFinal(self.0.as_ptr(), nothing.as_mut_ptr(), &raw mut written) })
    }

    /// Seals the `len` bytes at `input` to `out` (the same memory or no overlap).
    fn seal(
        &self,
        ccm: bool,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        pieces: &[(*const u8, *mut u8, usize)],
        tag: &mut [u8],
    ) -> Result<()> {
        self.init(null(), null(), nonce.as_ptr(), true)?;
        if ccm {
            let total = pieces.iter().map(|(_, _, len)| len).sum();
            self.update(null_mut(), null(), total)?;
        }
        self.update(null_mut(), aad.as_ptr(), aad.len())?;
        for (input, out, len) in pieces {
            self.update(*out, *input, *len)?;
        }
        self.finish()?;
        self.control(EVP_CTRL_AEAD_GET_TAG, TAG_LEN, tag.as_mut_ptr().cast())
    }

    fn open(
        &self,
        ccm: bool,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let (text, tag) = sealed
            .split_at_checked(out.len())
            .ok_or(Error::SealFailed)?;
        if tag.len() != TAG_LEN {
            return Err(Error::SealFailed);
        }
        self.init(null(), null(), nonce.as_ptr(), false)?;
        // The library only reads the tag, though its interface takes a mutable pointer.
        self.control(
            EVP_CTRL_AEAD_SET_TAG,
            TAG_LEN,
            tag.as_ptr().cast_mut().cast(),
        )?;
        if ccm {
            self.update(null_mut(), null(), text.len())?;
        }
        self.update(null_mut(), aad.as_ptr(), aad.len())?;
        if !text.is_empty() || ccm {
            self.update(out.as_mut_ptr(), text.as_ptr(), text.len())?;
        }
        // CCM has checked the tag with the data.
        if ccm { Ok(()) } else { self.finish() }
    }
}

impl Aead for Keyed {
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
        if self.ccm && !extra.is_empty() {
            let (text, rest) = out.split_at_mut(plain.len());
            text.copy_from_slice(plain);
            rest[..extra.len()].copy_from_slice(extra);
            return self.seal_in_place(nonce, aad, out);
        }
        let (text, tail) = out.split_at_mut(plain.len());
        let (tail, tag) = tail.split_at_mut(extra.len());
        let pieces = [
            (plain.as_ptr(), text.as_mut_ptr(), plain.len()),
            (extra.as_ptr(), tail.as_mut_ptr(), extra.len()),
        ];
        let pieces = if extra.is_empty() {
            &pieces[..1]
        } else {
            &pieces[..]
        };
        let context = self.take(true)?;
        // A context that failed is not used again.
        context.seal(self.ccm, nonce, aad, pieces, tag)?;
        self.give(context, true);
        Ok(())
    }

    fn seal_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> Result<()> {
        let len = buf.len().checked_sub(TAG_LEN).ok_or(Error::SealFailed)?;
        let (text, tag) = buf.split_at_mut(len);
        let text = text.as_mut_ptr();
        let context = self.take(true)?;
        context.seal(self.ccm, nonce, aad, &[(text.cast_const(), text, len)], tag)?;
        self.give(context, true);
        Ok(())
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let context = self.take(false)?;
        let opened = context.open(self.ccm, nonce, aad, sealed, out);
        match opened {
            Ok(()) => self.give(context, false),
            // What was decrypted before the tag was checked is nobody's.
            Err(_) => out.fill(0),
        }
        opened
    }
}

fn check(done: c_int) -> Result<()> {
    (done == 1).then_some(()).ok_or(Error::SealFailed)
}

fn length(len: usize) -> Result<c_int> {
    c_int::try_from(len).map_err(|_| Error::SealFailed)
}

const EVP_CTRL_AEAD_SET_IVLEN: c_int = 0x9;
const EVP_CTRL_AEAD_GET_TAG: c_int = 0x10;
const EVP_CTRL_AEAD_SET_TAG: c_int = 0x11;
