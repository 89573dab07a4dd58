//! Engines: how a record gets sealed.
//!
//! A [`Job`] is one record with everything that sealing it needs, and it carries its own
//! completion, so an engine knows nothing of connections. An engine may run jobs at any time, on
//! any thread, in any order; whoever submits puts the results back into order.
#![forbid(unsafe_code)]

pub mod accelerator;
mod attendance;
pub mod buffer;
mod completion;
pub mod threads;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::aead::{Accelerated, Cipher, RecordSealer};
use crate::error::{Error, Result};
use crate::record::RecordNumber;
use crate::sys::copy::copy;
use crate::sys::pages::Pages;

pub use buffer::Buffer;
pub use completion::Completion;

/// Which engine a program asked for (`UKTLS_ENGINE`), or which one is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Decide per record from what the connection is doing.
    #[default]
    Auto,
    /// Seal in the caller.
    Inline,
    /// Seal on the thread pool.
    Threads,
    /// Seal on an accelerator behind OpenSSL.
    Accelerator,
}

/// What becomes of a record that the accelerator does not seal (`UKTLS_ENGINE_FALLBACK`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// It is sealed by the processor.
    #[default]
    Software,
    /// The connection breaks.
    Error,
}

/// Takes jobs and runs each of them to its completion.
pub trait Engine: Send + Sync {
    /// Takes `job` over. Its completion is called exactly once, perhaps before this returns.
    fn submit(&self, job: Job);

    /// Has a thread of the engine's do `relay`, if one has nothing else of that kind to do; says whether.
    fn relay(&self, _relay: &Arc<dyn Relay>) -> bool {
        false
    }

    /// The key, at work where this engine seals, if that is not this processor.
    ///
    /// # Errors
    /// [`Error::CipherMissing`] if there is no accelerator, and the processor is not to do its work.
    fn accelerated(&self, _cipher: Cipher, _key: &[u8]) -> Result<Option<Box<dyn Accelerated>>> {
        Ok(None)
    }
}

/// Sealed records that another thread than the one that sealed them is to hand to the kernel.
pub trait Relay: Send + Sync {
    /// Hands over what there is, and what comes meanwhile.
    fn relay(self: Arc<Self>);
}

/// Where a sealed record, or the news that it could not be sealed, goes.
pub trait Sealed: Send + Sync {
    /// `ticket` is the job's own.
    fn sealed(self: Arc<Self>, ticket: u64, result: Result<SealedRecord>);
}

/// A record ready for the wire.
#[derive(Debug)]
pub struct SealedRecord {
    /// The wire record is in the first `len` bytes.
    pub buffer: Buffer,
    /// Bytes on the wire.
    pub len: usize,
    /// Bytes of plaintext.
    pub plain: usize,
}

/// The plaintext of a job.
#[derive(Debug)]
pub enum Plaintext {
    /// Already in the buffer, behind the record's prefix.
    InPlace,
    /// In the program's own pages, which are read by the thread that seals (zero-copy).
    Pages(Pages),
    /// Partly in the buffer, partly in pages to be copied to the plaintext offsets named.
    Mixed(Vec<(usize, Pages)>),
}

/// One record on its way to being sealed.
pub struct Job {
    /// The keys; shared, so that they outlive a rekey for the records in flight (AS-21).
    pub sealer: Arc<RecordSealer>,
    /// The number reserved for this record, never used for another.
    pub number: RecordNumber,
    /// The TLS content type.
    pub content_type: u8,
    /// Memory of the record; it becomes the wire record.
    pub buffer: Buffer,
    /// Where the plaintext is.
    pub plaintext: Plaintext,
    /// Length of the plaintext in bytes.
    pub len: usize,
    /// What to tell.
    pub completion: Completion,
}

impl Job {
    /// Seals the record on this thread and calls the completion. A panic becomes a failed record.
    pub fn run(mut self) {
        let result =
            catch_unwind(AssertUnwindSafe(|| self.seal())).unwrap_or(Err(Error::NotRecoverable));
        let len = self.len + self.sealer.overhead();
        let Job {
            buffer,
            len: plain,
            completion,
            plaintext,
            ..
        } = self;
        // The program's pages are released before anybody can learn that they are.
        drop(plaintext);
        completion.tell(result.map(|()| SealedRecord { buffer, len, plain }));
    }

    fn seal(&mut self) -> Result<()> {
        #[cfg(feature = "fault-injection")]
        fault::point()?;
        let sealer = &self.sealer;
        let prefix = sealer.prefix_len();
        let record = self.buffer.head_mut(self.len + sealer.overhead());
        match &self.plaintext {
            Plaintext::InPlace => {}
            Plaintext::Pages(pages) => {
                return sealer.seal_from(self.number, self.content_type, pages.bytes(), record);
            }
            Plaintext::Mixed(pieces) => {
                for (at, pages) in pieces {
                    let bytes = pages.bytes();
                    copy(bytes, &mut record[prefix + at..][..bytes.len()]);
                }
            }
        }
        sealer.seal_in_place(self.number, self.content_type, record)
    }
}

/// Faults on purpose, for the tests of the panic guard and of sticky errors.
#[cfg(feature = "fault-injection")]
pub mod fault {
    use super::{Error, Result};
    use std::sync::atomic::{AtomicU32, Ordering};

    static NEXT: AtomicU32 = AtomicU32::new(0);

    /// What the next seal does instead of sealing.
    #[derive(Clone, Copy, Debug)]
    pub enum Fault {
        /// Panic.
        Panic = 1,
        /// Fail as an AEAD would.
        Fail = 2,
    }

    /// Arms one fault for the whole process.
    pub fn inject(fault: Fault) {
        NEXT.store(fault as u32, Ordering::SeqCst);
    }

    /// Called where a record is about to be sealed.
    pub(crate) fn point() -> Result<()> {
        match NEXT.swap(0, Ordering::SeqCst) {
            0 => Ok(()),
            1 => panic!("injected"),
            _ => Err(Error::SealFailed),
        }
    }
}
