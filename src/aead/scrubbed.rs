//! An AEAD that leaves nothing of its key behind.
#![forbid(unsafe_code)]

use super::Aead;
use crate::error::Result;
use crate::record::NONCE_LEN;
use crate::sys::scrub;

/// An implementation that writes of its key, or of what the key can be told from, at most to the vector
/// registers and to `DEPTH` bytes of the stack.
pub(super) struct Scrubbed<const DEPTH: usize, A>(pub A);

impl<const DEPTH: usize, A: Aead> Aead for Scrubbed<DEPTH, A> {
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        plain: &[u8],
        extra: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        scrub::after::<DEPTH, _>(|| self.0.seal(nonce, aad, plain, extra, out))
    }

    fn seal_in_place(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8]) -> Result<()> {
        scrub::after::<DEPTH, _>(|| self.0.seal_in_place(nonce, aad, buf))
    }

    fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        scrub::after::<DEPTH, _>(|| self.0.open(nonce, aad, sealed, out))
    }
}

/// `aead`, scrubbed up to the depth that it needs.
pub(super) fn scrubbed<const DEPTH: usize>(aead: impl Aead + 'static) -> Box<dyn Aead> {
    Box::new(Scrubbed::<DEPTH, _>(aead))
}
