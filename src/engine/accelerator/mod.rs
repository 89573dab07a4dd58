//! An accelerator behind OpenSSL: each record is an async job, and many are in flight.
//!
//! One thread begins the jobs, and resumes those that the accelerator tells of, in whatever order. What it fails,
//! loses or does not know is sealed by the processor, or breaks the connection, as configured: the plaintext is kept until
//! the record is sealed, and a record is sealed for the wire by one of the two only. The same plaintext under the same
//! number is no second use of the number.
//!
//! None of it survives a `fork`: the child of a process that has begun jobs seals by the processor.
#![forbid(unsafe_code)]

mod inbox;
mod reactor;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::{Engine, Fallback, Job};
use crate::aead::{Accelerated, Cipher};
use crate::error::{Error, Result};
use crate::record::NONCE_LEN;
use crate::sys::accelerator::{self, Device, DeviceCipher, DeviceKey};
use crate::sys::thread;

use inbox::Inbox;

/// What is done about an accelerator's shortcomings.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What becomes of a record that it does not seal.
    pub fallback: Fallback,
    /// After how long a record counts as lost.
    pub timeout: Duration,
    /// Most records that it has at a time; the others wait for their turn.
    pub in_flight: usize,
}

/// The engine `openssl:<id>`.
pub struct Accelerator {
    device: Option<&'static Device>,
    limits: Limits,
    inbox: OnceLock<Option<Arc<Inbox>>>,
    /// Seals what is none of the accelerator's business.
    software: Arc<dyn Engine>,
}

impl Accelerator {
    /// The accelerator named `id`, loaded by the first process that asks for it.
    #[must_use]
    pub fn new(id: &str, limits: Limits, software: Arc<dyn Engine>) -> Accelerator {
        Accelerator {
            device: device(id),
            limits,
            inbox: OnceLock::new(),
            software,
        }
    }

    /// The way to the accelerator's thread, which is started if it may be.
    fn inbox(&self) -> Option<&Arc<Inbox>> {
        match self.inbox.get() {
            Some(inbox) => inbox.as_ref(),
            None if !thread::would_stay() => None,
            None => self.inbox.get_or_init(|| self.start()).as_ref(),
        }
    }

    fn start(&self) -> Option<Arc<Inbox>> {
        let inbox = Arc::new(Inbox::new().ok()?);
        let (theirs, limits) = (Arc::clone(&inbox), self.limits);
        let software = Arc::clone(&self.software);
        let started = thread::spawn_quiet("uktls-engine", move || {
            let run = || reactor::run(&theirs, limits, &*software);
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                log::error!("the accelerator's thread has panicked: sealing by the processor");
            }
            for job in theirs.end() {
                software.submit(job);
            }
        });
        started.then(|| {
            reactors().push((Arc::clone(&inbox), limits.timeout));
            inbox
        })
    }
}

impl Engine for Accelerator {
    fn submit(&self, job: Job) {
        let inbox = match job.sealer.is_accelerated() {
            true => self.inbox(),
            false => None,
        };
        let refused = match inbox {
            Some(inbox) => inbox.submit(job).err(),
            None => Some(job),
        };
        if let Some(job) = refused {
            self.software.submit(job);
        }
    }

    fn accelerated(&self, cipher: Cipher, key: &[u8]) -> Result<Option<Box<dyn Accelerated>>> {
        let device = match (self.device, self.limits.fallback) {
            (Some(device), _) => device,
            (None, Fallback::Software) => return Ok(None),
            (None, Fallback::Error) => return Err(Error::CipherMissing),
        };
        let cipher = match cipher {
            Cipher::AesGcm128 => DeviceCipher::AesGcm128,
            Cipher::AesGcm256 => DeviceCipher::AesGcm256,
            _ => return Ok(None),
        };
        let key = device.key(cipher, key);
        Ok(key.map(|key| -> Box<dyn Accelerated> { Box::new(key) }))
    }
}

impl Accelerated for DeviceKey {
    fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        plain: &[u8],
        extra: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        match DeviceKey::seal(self, nonce, aad, plain, extra, out) {
            true => Ok(()),
            false => Err(Error::SealFailed),
        }
    }
}

/// The process ends: OpenSSL is about to take itself apart, and may be used no more after that. What has been submitted is
/// sealed before; what comes later is sealed by the processor.
extern "C" fn end_reactors() {
    if OWNER.load(Ordering::Relaxed) != std::process::id() {
        return;
    }
    let ending = core::mem::take(&mut *reactors());
    ending.iter().for_each(|(inbox, _)| inbox.close());
    for (inbox, timeout) in ending {
        let deadline = Instant::now() + timeout + SLACK;
        // Looked for, and not waited for: once in a process, and the reactor need not know who waits.
        while !inbox.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn reactors() -> MutexGuard<'static, Vec<(Arc<Inbox>, Duration)>> {
    REACTORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reactors of this process, and after how long each has done with what it has.
static REACTORS: Mutex<Vec<(Arc<Inbox>, Duration)>> = Mutex::new(Vec::new());

/// The process that has loaded the device.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// What a reactor may take beside its accelerator.
const SLACK: Duration = Duration::from_secs(1);

/// Loads the device, once; its threads live in the process that has done so.
fn device(id: &str) -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let device = DEVICE.get_or_init(|| {
        OWNER.store(std::process::id(), Ordering::Relaxed);
        match Device::load(id) {
            Ok(device) => {
                // Behind OpenSSL's own handler, so that it is called before.
                accelerator::at_exit(end_reactors);
                Some(device)
            }
            Err(reason) => {
                let message = format!("engine openssl:{id} cannot be loaded: {reason}");
                log::error!("{message}");
                eprintln!("uktls: {message}");
                None
            }
        }
    });
    if OWNER.load(Ordering::Relaxed) != std::process::id() {
        log::info!("engine openssl:{id} belongs to the parent process: sealing by the processor");
        return None;
    }
    device.as_ref()
}
